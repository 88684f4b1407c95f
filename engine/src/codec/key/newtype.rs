//! The macro that makes keys of newtypes.

/// Declares newtypes that are keys: order, encoding and serde form are those of what they wrap.
///
/// ```
/// tidemill::key! {
///     /// An account of the bank.
///     pub struct AccountId(u64);
///     /// A user's handle.
///     pub struct Handle(String);
/// }
/// let mine = AccountId(7);
/// assert!(mine < AccountId(8));
/// ```
///
/// Derived are `Clone`, `Debug`, the comparisons, `Hash`, `Serialize` and `Deserialize`; attributes
/// are kept, so `#[derive(Copy)]` can be added where it holds.
#[macro_export]
macro_rules! key {
    ($( $(#[$attribute:meta])* $visible:vis struct $name:ident($inner_visible:vis $inner:ty); )*) => { $(
        $(#[$attribute])*
        #[derive(
            Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash,
            $crate::serde::Serialize, $crate::serde::Deserialize,
        )]
        #[serde(crate = "tidemill::serde", transparent)]
        $visible struct $name($inner_visible $inner);

        $crate::key_newtype!($name($inner));
    )* };
}

/// Makes keys of existing newtypes: `key_newtype!(AccountId(u64));`.
#[macro_export]
macro_rules! key_newtype {
    ($( $name:ident($inner:ty) );* $(;)?) => { $(
        impl $crate::codec::EncodeKey for $name {
            const WIDTH: ::core::option::Option<usize> =
                <$inner as $crate::codec::EncodeKey>::WIDTH;

            #[inline]
            fn encode_key(&self, out: &mut $crate::codec::KeyBuf) {
                $crate::codec::EncodeKey::encode_key(&self.0, out);
            }
        }

        impl $crate::codec::Key for $name {
            #[inline]
            fn decode_key(input: &mut &[u8]) -> $crate::codec::Result<Self> {
                ::core::result::Result::Ok(Self(
                    <$inner as $crate::codec::Key>::decode_key(input)?,
                ))
            }

            fn kind() -> $crate::codec::KeyKind {
                $crate::codec::KeyKind::named(
                    ::core::stringify!($name),
                    <$inner as $crate::codec::Key>::kind(),
                )
            }
        }
    )* };
}
