//! Order-preserving keys: `a < b` exactly if `encode(a) < encode(b)`, byte by byte.
//!
//! # Layout, fixed for ever
//!
//! | type | bytes |
//! |---|---|
//! | `u8` to `u128` | big-endian |
//! | `i8` to `i128` | big-endian, with the sign bit flipped |
//! | `f32`, `f64` | big-endian bits; sign bit flipped if positive, all bits flipped if negative: the order of `total_cmp` |
//! | `bool` | 0 or 1 |
//! | `char` | its code point as `u32` |
//! | `Uuid`, `[u8; N]` | the bytes |
//! | `String`, `Vec<u8>` | the bytes with `00` written as `01 01` and `01` as `01 02`, then `00` |
//! | `()` | nothing |
//! | tuples | their parts, one after the other |
//! | `Reverse<K>` | the bytes of `K`, each flipped |
//!
//! No encoding of a type begins with another encoding of the same type. Therefore keys can be put one
//! after the other, `enc(k1) ++ enc(k2)` keeps the order of the pairs, and everything under `k1` is
//! one range of the tree. A text without the bytes 0 and 1 costs one byte more than its length.
//!
//! A newtype becomes a key with [`key!`](crate::key):
//!
//! ```
//! tidemill::key! {
//!     /// An account of the bank.
//!     pub struct AccountId(u64);
//! }
//! ```

use std::cmp::Reverse;

use uuid::Uuid;

use super::{Error, Result};

mod buf;
mod kind;
mod newtype;
#[cfg(test)]
mod tests;

pub use buf::KeyBuf;
pub use kind::KeyKind;

/// What can be encoded as a key, borrowed forms included (`str`, `&K`).
///
/// Implementations keep order and prefix-freeness as the [module](self) states; equal values of `K`
/// and of its borrowed form encode to the same bytes.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be a key",
    label = "not a key",
    note = "keys are integers, floats, `bool`, `char`, `String`, bytes, `Uuid`, tuples of keys, \
            `Reverse<K>`, and newtypes made with `tidemill::key!`"
)]
pub trait EncodeKey {
    /// How many bytes every key of this type takes, if that is always the same.
    const WIDTH: Option<usize>;

    /// Appends the key's bytes.
    fn encode_key(&self, out: &mut KeyBuf);
}

/// A type of keys.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be the type of a key",
    label = "not a key",
    note = "keys are integers, floats, `bool`, `char`, `String`, bytes, `Uuid`, tuples of keys, \
            `Reverse<K>`, and newtypes made with `tidemill::key!`"
)]
pub trait Key: EncodeKey + Sized + Send + 'static {
    /// Takes one key from the front of `input`.
    ///
    /// # Errors
    /// [`Error::BadKey`] if no value encodes to these bytes; `input` is then left anywhere.
    fn decode_key(input: &mut &[u8]) -> Result<Self>;

    /// The type as data, for the catalogue.
    fn kind() -> KeyKind;
}

/// The encoded bytes of `key`.
#[inline]
#[must_use]
pub fn encode_key<K: EncodeKey + ?Sized>(key: &K) -> KeyBuf {
    let mut out = KeyBuf::new();
    key.encode_key(&mut out);
    out
}

/// The key that all of `bytes` encode.
///
/// # Errors
/// [`Error::BadKey`], also if bytes are left over.
pub fn decode_key<K: Key>(bytes: &[u8]) -> Result<K> {
    let mut rest = bytes;
    let key = K::decode_key(&mut rest)?;
    if rest.is_empty() { Ok(key) } else { Err(bad::<K>("bytes are left over")) }
}

#[cold]
fn bad<K>(problem: &'static str) -> Error {
    Error::BadKey { key_type: std::any::type_name::<K>(), problem }
}

/// Takes `N` bytes from the front of `input`.
#[inline]
fn take<K, const N: usize>(input: &mut &[u8]) -> Result<[u8; N]> {
    let (head, rest) = input.split_first_chunk::<N>().ok_or_else(|| bad::<K>("too short"))?;
    *input = rest;
    Ok(*head)
}

macro_rules! unsigned {
    ($($type:ty: $kind:ident),*) => { $(
        impl EncodeKey for $type {
            const WIDTH: Option<usize> = Some(size_of::<Self>());

            #[inline]
            fn encode_key(&self, out: &mut KeyBuf) {
                out.push_array(self.to_be_bytes());
            }
        }

        impl Key for $type {
            #[inline]
            fn decode_key(input: &mut &[u8]) -> Result<Self> {
                Ok(Self::from_be_bytes(take::<Self, { size_of::<Self>() }>(input)?))
            }

            fn kind() -> KeyKind {
                KeyKind::$kind
            }
        }
    )* };
}

macro_rules! signed {
    ($($type:ty: $kind:ident),*) => { $(
        impl EncodeKey for $type {
            const WIDTH: Option<usize> = Some(size_of::<Self>());

            #[inline]
            fn encode_key(&self, out: &mut KeyBuf) {
                // With the sign bit flipped, the smallest value becomes all zeros.
                out.push_array((*self ^ Self::MIN).to_be_bytes());
            }
        }

        impl Key for $type {
            #[inline]
            fn decode_key(input: &mut &[u8]) -> Result<Self> {
                let flipped = Self::from_be_bytes(take::<Self, { size_of::<Self>() }>(input)?);
                Ok(flipped ^ Self::MIN)
            }

            fn kind() -> KeyKind {
                KeyKind::$kind
            }
        }
    )* };
}

macro_rules! float {
    ($($type:ty as $bits:ty: $kind:ident),*) => { $(
        impl EncodeKey for $type {
            const WIDTH: Option<usize> = Some(size_of::<Self>());

            #[inline]
            fn encode_key(&self, out: &mut KeyBuf) {
                const SIGN: $bits = 1 << (<$bits>::BITS - 1);
                let bits = self.to_bits();
                let ordered = if bits & SIGN == 0 { bits | SIGN } else { !bits };
                out.push_array(ordered.to_be_bytes());
            }
        }

        impl Key for $type {
            #[inline]
            fn decode_key(input: &mut &[u8]) -> Result<Self> {
                const SIGN: $bits = 1 << (<$bits>::BITS - 1);
                let ordered = <$bits>::from_be_bytes(take::<Self, { size_of::<Self>() }>(input)?);
                let bits = if ordered & SIGN == 0 { !ordered } else { ordered & !SIGN };
                Ok(Self::from_bits(bits))
            }

            fn kind() -> KeyKind {
                KeyKind::$kind
            }
        }
    )* };
}

unsigned!(u8: U8, u16: U16, u32: U32, u64: U64, u128: U128);
signed!(i8: I8, i16: I16, i32: I32, i64: I64, i128: I128);
float!(f32 as u32: F32, f64 as u64: F64);

impl EncodeKey for bool {
    const WIDTH: Option<usize> = Some(1);

    #[inline]
    fn encode_key(&self, out: &mut KeyBuf) {
        out.push(u8::from(*self));
    }
}

impl Key for bool {
    fn decode_key(input: &mut &[u8]) -> Result<Self> {
        match take::<Self, 1>(input)? {
            [0] => Ok(false),
            [1] => Ok(true),
            _ => Err(bad::<Self>("neither 0 nor 1")),
        }
    }

    fn kind() -> KeyKind {
        KeyKind::Bool
    }
}

impl EncodeKey for char {
    const WIDTH: Option<usize> = Some(4);

    #[inline]
    fn encode_key(&self, out: &mut KeyBuf) {
        u32::from(*self).encode_key(out);
    }
}

impl Key for char {
    fn decode_key(input: &mut &[u8]) -> Result<Self> {
        Self::from_u32(u32::decode_key(input)?).ok_or_else(|| bad::<Self>("not a code point"))
    }

    fn kind() -> KeyKind {
        KeyKind::Char
    }
}

impl EncodeKey for () {
    const WIDTH: Option<usize> = Some(0);

    #[inline]
    fn encode_key(&self, _out: &mut KeyBuf) {}
}

impl Key for () {
    fn decode_key(_input: &mut &[u8]) -> Result<Self> {
        Ok(())
    }

    fn kind() -> KeyKind {
        KeyKind::Unit
    }
}

impl EncodeKey for Uuid {
    const WIDTH: Option<usize> = Some(16);

    #[inline]
    fn encode_key(&self, out: &mut KeyBuf) {
        out.push_array(*self.as_bytes());
    }
}

impl Key for Uuid {
    #[inline]
    fn decode_key(input: &mut &[u8]) -> Result<Self> {
        Ok(Self::from_bytes(take::<Self, 16>(input)?))
    }

    fn kind() -> KeyKind {
        KeyKind::Uuid
    }
}

impl<const N: usize> EncodeKey for [u8; N] {
    const WIDTH: Option<usize> = Some(N);

    #[inline]
    fn encode_key(&self, out: &mut KeyBuf) {
        out.push_array(*self);
    }
}

impl<const N: usize> Key for [u8; N] {
    #[inline]
    fn decode_key(input: &mut &[u8]) -> Result<Self> {
        take::<Self, N>(input)
    }

    fn kind() -> KeyKind {
        KeyKind::Array(u32::try_from(N).unwrap_or(u32::MAX))
    }
}

impl EncodeKey for [u8] {
    const WIDTH: Option<usize> = None;

    #[inline]
    fn encode_key(&self, out: &mut KeyBuf) {
        let mut plain = self;
        while let Some(at) = plain.iter().position(|&byte| byte <= ESCAPE) {
            let (before, rest) = plain.split_at(at);
            out.push_slice(before);
            out.push_array([ESCAPE, rest[0] + 1]);
            plain = &rest[1..];
        }
        out.push_slice(plain);
        out.push(END);
    }
}

impl EncodeKey for Vec<u8> {
    const WIDTH: Option<usize> = None;

    #[inline]
    fn encode_key(&self, out: &mut KeyBuf) {
        self.as_slice().encode_key(out);
    }
}

impl Key for Vec<u8> {
    fn decode_key(input: &mut &[u8]) -> Result<Self> {
        let mut plain = Self::new();
        loop {
            let at = input.iter().position(|&byte| byte <= ESCAPE);
            let (before, rest) = at
                .and_then(|at| input.split_at_checked(at))
                .ok_or_else(|| bad::<Self>("no end"))?;
            plain.extend_from_slice(before);
            match rest {
                [END, rest @ ..] => {
                    *input = rest;
                    return Ok(plain);
                }
                [ESCAPE, escaped @ (1 | 2), rest @ ..] => {
                    plain.push(escaped - 1);
                    *input = rest;
                }
                _ => return Err(bad::<Self>("a broken escape")),
            }
        }
    }

    fn kind() -> KeyKind {
        KeyKind::Bytes
    }
}

impl EncodeKey for str {
    const WIDTH: Option<usize> = None;

    #[inline]
    fn encode_key(&self, out: &mut KeyBuf) {
        self.as_bytes().encode_key(out);
    }
}

impl EncodeKey for String {
    const WIDTH: Option<usize> = None;

    #[inline]
    fn encode_key(&self, out: &mut KeyBuf) {
        self.as_bytes().encode_key(out);
    }
}

impl Key for String {
    fn decode_key(input: &mut &[u8]) -> Result<Self> {
        Self::from_utf8(Vec::decode_key(input)?).map_err(|_| bad::<Self>("not UTF-8"))
    }

    fn kind() -> KeyKind {
        KeyKind::Text
    }
}

impl<K: EncodeKey + ?Sized> EncodeKey for &K {
    const WIDTH: Option<usize> = K::WIDTH;

    #[inline]
    fn encode_key(&self, out: &mut KeyBuf) {
        (**self).encode_key(out);
    }
}

impl<K: EncodeKey> EncodeKey for Reverse<K> {
    const WIDTH: Option<usize> = K::WIDTH;

    #[inline]
    fn encode_key(&self, out: &mut KeyBuf) {
        let start = out.len();
        self.0.encode_key(out);
        for byte in &mut out.as_mut_slice()[start..] {
            *byte = !*byte;
        }
    }
}

impl<K: Key> Key for Reverse<K> {
    fn decode_key(input: &mut &[u8]) -> Result<Self> {
        // Where a key of no fixed width ends is known only after flipping it back.
        let candidate = match K::WIDTH {
            Some(width) => input.get(..width).ok_or_else(|| bad::<Self>("too short"))?,
            None => input,
        };
        let mut flipped = KeyBuf::from(candidate);
        for byte in flipped.as_mut_slice() {
            *byte = !*byte;
        }
        let mut rest = flipped.as_slice();
        let key = K::decode_key(&mut rest)?;
        let taken = flipped.len() - rest.len();
        *input = input.get(taken..).ok_or_else(|| bad::<Self>("too short"))?;
        Ok(Self(key))
    }

    fn kind() -> KeyKind {
        KeyKind::Reverse(Box::new(K::kind()))
    }
}

macro_rules! tuple {
    ($($part:ident $at:tt),*) => {
        impl<$($part: EncodeKey),*> EncodeKey for ($($part,)*) {
            const WIDTH: Option<usize> = sum([$($part::WIDTH),*]);

            #[inline]
            fn encode_key(&self, out: &mut KeyBuf) {
                $( self.$at.encode_key(out); )*
            }
        }

        impl<$($part: Key),*> Key for ($($part,)*) {
            #[inline]
            fn decode_key(input: &mut &[u8]) -> Result<Self> {
                Ok(($( $part::decode_key(input)?, )*))
            }

            fn kind() -> KeyKind {
                KeyKind::Tuple(vec![$( $part::kind() ),*])
            }
        }
    };
}

tuple!(A 0);
tuple!(A 0, B 1);
tuple!(A 0, B 1, C 2);
tuple!(A 0, B 1, C 2, D 3);
tuple!(A 0, B 1, C 2, D 3, E 4);
tuple!(A 0, B 1, C 2, D 3, E 4, F 5);

/// The width of a tuple, if all its parts have one.
const fn sum<const N: usize>(widths: [Option<usize>; N]) -> Option<usize> {
    let mut total = 0;
    let mut at = 0;
    while at < N {
        match widths[at] {
            Some(width) => total += width,
            None => return None,
        }
        at += 1;
    }
    Some(total)
}

/// Ends bytes and text: below everything that can follow inside.
const END: u8 = 0;

/// Begins the two-byte form of a 0 or a 1 inside bytes and text.
const ESCAPE: u8 = 1;
