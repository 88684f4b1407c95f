//! What differs between two ids of a path: see [`Launched::difference`](crate::client::Launched::difference).
//!
//! ```text
//!   path                                    an entry                          where they differ
//!   one value: key, field                   Differing<(), Option<V>>          the value, or whether there is one
//!   one presence, one size                  Differing<(), bool>, <(), u64>    that
//!   map.all(), map.range(..), also Sub      Differing<K, Option<V>>           each key whose value does
//!   set.all(), map.all().keys(), ranges     Differing<E, bool>                each element, or key, that came or went
//! ```
//!
//! A collection that is one value differs as a value. Elements of a `Sub` list have places and no keys, so that one
//! that is inserted would differ from there to the end: that does not compile. What became of a list is told to
//! its subscribers ([`ListDiff`](crate::subscribe::ListDiff)), who hold its elements.
//!
//! ```compile_fail,E0277
//! # use tidemill::schema::{List, Map, PState, Sub};
//! # use tidemill::types::MicrobatchId;
//! fn compare(shop: tidemill::Launched<()>, queue: PState<Map<u32, Sub<List<String>>>>) {
//!     let _ = shop.difference(queue.key(1).all(), MicrobatchId(1), MicrobatchId(2));
//! }
//! ```

use crate::codec::{Error, FieldTable, Key, decode, key::decode_key};
use crate::schema::path::{Entry, KeyOf, Size};
use crate::schema::{Data, Many, Maybe, One as Single, Path, Presence, Select};
use crate::subscribe::Subscribe;
use crate::subscribe::mirror::{One, RowPath};

/// One key, and what it had at both ids, which is not the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Differing<K, V> {
    /// Which; `()` if the path leads to one place.
    pub key: K,
    /// At the first id that was given.
    pub from: V,
    /// At the second one.
    pub to: V,
}

/// A path whose difference of two ids can be told.
#[diagnostic::on_unimplemented(
    message = "`{Self}` has no difference of two ids",
    label = "does not lead to one value, or to elements with keys",
    note = "take the difference of `path.key(k)`, `.field(..)`, `.has(e)` or `.size()`, or of a map or `Sub` its \
            `.all()`, `.range(a..b)` or `.all().keys()`",
    note = "elements of a list have places and no keys: subscribe the list, or read it at both ids"
)]
pub trait Differ: Select + Subscribe {
    /// What is told of each key.
    type Entry: Send;

    /// The entry of one row, by the part of its key behind the path; none if nothing differs that can be told.
    ///
    /// # Errors
    /// [`Error::Decode`], [`Error::BadKey`].
    fn entry(
        fields: &FieldTable,
        key: &[u8],
        from: Option<&[u8]>,
        to: Option<&[u8]>,
    ) -> Result<Option<Self::Entry>, Error>;
}

fn row<P: RowPath>(
    fields: &FieldTable,
    from: Option<&[u8]>,
    to: Option<&[u8]>,
) -> Result<Option<Differing<(), P::Out>>, Error> {
    let (from, to) = (One::<P>::decode(fields, from)?, One::<P>::decode(fields, to)?);
    Ok((!P::is_same(&from, &to)).then_some(Differing { key: (), from, to }))
}

macro_rules! row {
    ([$($generics:tt)*] $path:ty $(where $($bounds:tt)*)?) => {
        impl<$($generics)*> Differ for $path
        $(where $($bounds)*)?
        {
            type Entry = Differing<(), <Self as Select>::Out>;

            fn entry(
                fields: &FieldTable,
                _: &[u8],
                from: Option<&[u8]>,
                to: Option<&[u8]>,
            ) -> Result<Option<Self::Entry>, Error> {
                row::<Self>(fields, from, to)
            }
        }
    };
}

row!([V: Data, O] Path<V, Maybe, O> where Self: RowPath);
row!([O] Path<Presence, Single, O>);
row!([C, O] Path<Size<C>, Single, O> where Self: RowPath);

impl<K: Key + Send, V: Data, Z, O> Differ for Path<Entry<K, V, Z>, Many, O> {
    type Entry = Differing<K, Option<V>>;

    fn entry(
        fields: &FieldTable,
        key: &[u8],
        from: Option<&[u8]>,
        to: Option<&[u8]>,
    ) -> Result<Option<Self::Entry>, Error> {
        let read = |value: Option<&[u8]>| value.map(|value| decode(fields, value)).transpose();
        Ok(Some(Differing { key: decode_key(key)?, from: read(from)?, to: read(to)? }))
    }
}

impl<E: Key + Send, Z, O> Differ for Path<KeyOf<E, Z>, Many, O> {
    type Entry = Differing<E, bool>;

    fn entry(
        _: &FieldTable,
        key: &[u8],
        from: Option<&[u8]>,
        to: Option<&[u8]>,
    ) -> Result<Option<Self::Entry>, Error> {
        let (from, to) = (from.is_some(), to.is_some());
        let key = decode_key(key)?;
        Ok((from != to).then_some(Differing { key, from, to }))
    }
}
