//! What differs between two ids of a path: see [`Launched::difference`](crate::client::Launched::difference).
//!
//! ```text
//!   path                                    an entry                          where they differ
//!   one value: key, field                   Differing<(), Option<V>>          the value, or whether there is one
//!   one presence, one size                  Differing<(), bool>, <(), u64>    that
//!   map.all(), map.range(..), also Sub      Differing<K, Option<V>>           each key whose value does
//!   set.all(), map.all().keys(), ranges     Differing<E, bool>                each element, or key, that came or went
//!   map_of_maps.tree(), .trees(a..b)        Differing<(K, K2), Option<V>>     each pair of keys whose value does
//!   map_of_sets.tree()                      Differing<(K, E), bool>           each element of each that came or went
//!   value.inside(|it| ..)                   Differing<(), Vec<T>>             the parts, if they are not the same
//! ```
//!
//! The keys of a deeper tree are `(K, (K2, K3))`, and so on. A collection that is one value differs as a value. Elements of a `Sub` list have places and no keys, so that one
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
use crate::schema::ast::Query;
use crate::schema::path::{Deep, Entry, KeyOf, Size};
use crate::schema::{Data, Inside, Many, Maybe, One as Single, Path, Presence, Select};
use crate::subscribe::Subscribe;
use crate::subscribe::mirror::{One, RowPath, differing_parts};

mod tree;

pub use tree::{Leaf, Leaves};

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

impl<K, V: Data> Differing<K, Option<V>> {
    /// Of a row that holds a value.
    fn of_values(
        fields: &FieldTable,
        key: K,
        from: Option<&[u8]>,
        to: Option<&[u8]>,
    ) -> Result<Self, Error> {
        let read = |value: Option<&[u8]>| value.map(|value| decode(fields, value)).transpose();
        Ok(Self { key, from: read(from)?, to: read(to)? })
    }
}

impl<K> Differing<K, bool> {
    /// Of a row that is there or not; none if that is the same.
    fn of_elements(key: K, from: Option<&[u8]>, to: Option<&[u8]>) -> Option<Self> {
        let (from, to) = (from.is_some(), to.is_some());
        (from != to).then_some(Self { key, from, to })
    }
}

/// A path whose difference of two ids can be told.
#[diagnostic::on_unimplemented(
    message = "`{Self}` has no difference of two ids",
    label = "does not lead to one value, or to elements with keys",
    note = "take the difference of `path.key(k)`, `.field(..)`, `.has(e)`, `.size()` or `.inside(..)`, or of a map or \
            `Sub` its `.all()`, `.range(a..b)`, `.all().keys()` or `.tree()`",
    note = "elements of a list have places and no keys: subscribe the list, or read it at both ids"
)]
pub trait Differ: Subscribe {
    /// What is told of each key.
    type Entry: Send;

    /// What leads from a value to what is told of it; `()` where that is all of it.
    type Steps: Send;

    /// The steps, for the module whose table this is.
    ///
    /// # Errors
    /// [`Error::KeyTooLong`], and whatever else is wrong with them.
    fn steps(&self, fields: &FieldTable) -> Result<Self::Steps, Error>;

    /// The entry of one row, by the part of its key behind the path; none if nothing differs that can be told.
    ///
    /// # Errors
    /// [`Error::Decode`], [`Error::BadKey`].
    fn entry(
        steps: &Self::Steps,
        fields: &FieldTable,
        key: &[u8],
        from: Option<&[u8]>,
        to: Option<&[u8]>,
    ) -> Result<Option<Self::Entry>, Error>;
}

/// What is told is all of the value.
macro_rules! no_steps {
    () => {
        type Steps = ();

        fn steps(&self, _: &FieldTable) -> Result<(), Error> {
            Ok(())
        }
    };
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
            no_steps!();

            fn entry(
                (): &(),
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
    no_steps!();

    fn entry(
        (): &(),
        fields: &FieldTable,
        key: &[u8],
        from: Option<&[u8]>,
        to: Option<&[u8]>,
    ) -> Result<Option<Self::Entry>, Error> {
        Differing::of_values(fields, decode_key(key)?, from, to).map(Some)
    }
}

impl<E: Key + Send, Z, O> Differ for Path<KeyOf<E, Z>, Many, O> {
    type Entry = Differing<E, bool>;
    no_steps!();

    fn entry(
        (): &(),
        _: &FieldTable,
        key: &[u8],
        from: Option<&[u8]>,
        to: Option<&[u8]>,
    ) -> Result<Option<Self::Entry>, Error> {
        Ok(Differing::of_elements(decode_key(key)?, from, to))
    }
}

impl<S: Leaves, O> Differ for Path<S, Deep, O>
where
    Self: Subscribe,
{
    type Entry = Differing<S::Keys, S::Value>;
    no_steps!();

    fn entry(
        (): &(),
        fields: &FieldTable,
        key: &[u8],
        from: Option<&[u8]>,
        to: Option<&[u8]>,
    ) -> Result<Option<Self::Entry>, Error> {
        S::entry(fields, key, from, to)
    }
}

impl<V: Data, T: Data, O> Differ for Inside<V, T, O> {
    type Entry = Differing<(), Vec<T>>;
    type Steps = Query;

    fn steps(&self, fields: &FieldTable) -> Result<Query, Error> {
        self.query(fields)
    }

    fn entry(
        steps: &Query,
        fields: &FieldTable,
        _: &[u8],
        from: Option<&[u8]>,
        to: Option<&[u8]>,
    ) -> Result<Option<Self::Entry>, Error> {
        let found = differing_parts(fields, steps, from, to)?;
        Ok(found.map(|(from, to)| Differing { key: (), from, to }))
    }
}
