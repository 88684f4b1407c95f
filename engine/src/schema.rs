//! The types of `PState`s, and typed paths into them.
//!
//! A `PState` is a map or a set whose first keys are spread over all partitions, or lives in one partition as
//! a whole, as a [`Single`]. What is nested in it is stored as *one value*, unless it is a [`Sub`]: then each of
//! its elements is a row of its own, in key order, in the same tree.
//!
//! | schema | rows of the tree |
//! |---|---|
//! | `Map<K, V>` | `enc(k)` → value of `V` |
//! | `Map<K, Sub<Map<K2, V>>>` | `enc(k) ++ enc(k2)` → value of `V`; `enc(k)` → its size, see [`sizes`] |
//! | `Map<K, Sub<Set<E>>>` | `enc(k) ++ enc(e)` → no bytes; `enc(k)` → its size |
//! | `Map<K, Sub<List<T>>>` | `enc(k) ++ 01 ++ place` → value of `T`, and a few rows that count; see `schema/list.rs` |
//! | `Map<K, Sub<List<Sub<..>>>>` | `enc(k) ++ 01 ++ place` → a number, under which hang the rows of the item |
//! | `Map<K, R>` of a [`record`] | `enc(k) ++ number of the field` → value, or what hangs under it |
//! | `Set<E>` | `enc(e)` → no bytes |
//! | [`Single<P>`](single) | as `P` has under a first key, which is missing: of a value one row, whose key is empty |
//!
//! A path starts at a token and is built step by step; each step is checked where it is written:
//!
//! ```
//! use tidemill::schema::{Map, PState, Sub};
//! fn last_ten(posts: PState<Map<String, Sub<Map<u64, String>>>>) {
//!     let _path = posts.key("ann").range(..1000).reverse().limit(10).values();
//! }
//! ```
//!
//! [`path`] has the paths, [`plan`] what they ask of the engine, [`aggregate`] what can be added, [`sizes`]
//! what collections know of their sizes, and [`layout`] the types as data.

use serde::Serialize;
use serde::de::DeserializeOwned;

use self::sizes::Counting;
use crate::codec::table::Trace;
use crate::codec::{Error, FieldTable, Key, Result, decode, encode};

macro_rules! marker {
    ($(#[$doc:meta])* $name:ident<$($parameter:ident),*>) => {
        $(#[$doc])*
        pub struct $name<$($parameter),*>(std::marker::PhantomData<fn() -> ($($parameter,)*)>);

        impl<$($parameter),*> std::fmt::Debug for $name<$($parameter),*> {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(std::any::type_name::<Self>())
            }
        }
    };
}

pub mod aggregate;
pub mod ast;
pub mod eval;
pub mod initial;
pub mod inside;
pub mod layout;
pub(crate) mod list;
#[cfg(doctest)]
mod misuse;
pub mod nth;
pub mod path;
pub mod placed;
pub mod placing;
pub mod plan;
pub mod private;
pub mod record;
mod select;
pub mod shape;
pub mod single;
pub mod sizes;
pub mod steps;
#[cfg(test)]
mod tests;
mod token;
#[cfg(doctest)]
mod tutorial;

pub use aggregate::{Aggregate, Change};
pub use initial::{EncodeInitial, Initial, Initially};
pub use inside::Inside;
pub use layout::Layout;
pub use nth::{ByIndex, Nested, Nests};
pub use path::{AtIndex, Direct, Many, Maybe, One, OwnedBy, Path, Presence};
pub use placed::{PlaceBy, Placed};
pub use placing::{Described, Placing};
pub use plan::{Answer, ReadOp, ReadPlan, Reads, Removal, Rows, Target, Written};
pub use private::{Hidden, Open, Outside, Owning, Private};
pub use record::{Field, Record};
pub use select::{RowOf, Select};
pub use shape::Shape;
pub use single::{Single, Whole};
pub use sizes::{Counted, Uncounted};
pub use steps::{Fields, Steps};
/// Names the fields of a value; see [`steps`].
pub use tidemill_derive::Fields;
/// Stores a struct field by field; see [`record`].
pub use tidemill_derive::Schema;
pub use token::{Anyone, Owned, PState};

marker!(
    /// A map from `K` to `V`. Never a value: a type to describe a `PState` with.
    Map<K, V>
);
marker!(
    /// A set of `E`. Never a value: a type to describe a `PState` with.
    Set<E>
);
marker!(
    /// A list of `T`, stored element by element in a [`Sub`]. Never a value: a type to describe a `PState`
    /// with. (A short list that is read and written whole is a `Vec<T>`, a value.)
    List<T>
);
/// The collection `C` stored element by element, in key order. It knows how many elements it has, unless it
/// is `Sub<C, Uncounted>`: see [`sizes`].
pub struct Sub<C, Z = Counted>(std::marker::PhantomData<fn() -> (C, Z)>);

impl<C, Z> std::fmt::Debug for Sub<C, Z> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(std::any::type_name::<Self>())
    }
}

/// What the paths of a map or set start from: first keys lie in all partitions, so nothing counts them.
type Spread<C> = Sub<C, Uncounted>;

/// What can be stored as one value: every type that serde can write and read back.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a value that can be stored",
    label = "not one value",
    note = "values derive `serde::Serialize` and `serde::Deserialize`",
    note = "a `Sub` is stored element by element: go on to them by `.key(k)`, `.has(e)`, `.range(a..b)` or `.all()`; \
            a list is read by `.all()`, `.size()` and by index",
    note = "a range gives rows, so what is under its keys must be values: name the key above a `Sub`, then take \
            the range"
)]
pub trait Data: Serialize + DeserializeOwned + Send + 'static {}

#[diagnostic::do_not_recommend]
impl<T: Serialize + DeserializeOwned + Send + 'static> Data for T {}

/// Type equality as a bound, so that an error names what is missing: see [`path::Path::all`].
pub trait Is<T> {}

impl<T> Is<T> for T {}

/// What a path can lead to.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be part of a PState's type",
    label = "neither a value nor a collection",
    note = "values derive `serde::Serialize` and `serde::Deserialize`; collections are `Sub<Map<K, V>>`, \
            `Sub<Set<E>>` and `Sub<List<T>>`; records derive `tidemill::schema::Schema`",
    note = "keys and elements must be keys; the items of a list are whatever a PState can hold"
)]
pub trait Position: 'static {
    /// Whether this is stored as many rows.
    const IS_COLLECTION: bool;

    /// The position and everything under it as data; the names in its values are added to `trace`.
    ///
    /// # Errors
    /// [`Error::NotStorable`] if a value in it is not.
    fn layout(trace: &mut Trace) -> Result<Layout>;
}

#[diagnostic::do_not_recommend]
impl<T: Data> Position for T {
    const IS_COLLECTION: bool = false;

    fn layout(trace: &mut Trace) -> Result<Layout> {
        trace.kind_of::<T>().map(Layout::Value)
    }
}

impl<K: Key, V: Position, Z: Counting> Position for Sub<Map<K, V>, Z> {
    const IS_COLLECTION: bool = true;

    fn layout(trace: &mut Trace) -> Result<Layout> {
        let (key, value) = (K::kind(), Box::new(V::layout(trace)?));
        Ok(Layout::Map { key, value, counted: Z::COUNTED })
    }
}

impl<E: Key, Z: Counting> Position for Sub<Set<E>, Z> {
    const IS_COLLECTION: bool = true;

    fn layout(_trace: &mut Trace) -> Result<Layout> {
        Ok(Layout::Set { element: E::kind(), counted: Z::COUNTED })
    }
}

impl<T: Position> Position for Sub<List<T>> {
    const IS_COLLECTION: bool = true;

    fn layout(trace: &mut Trace) -> Result<Layout> {
        Ok(Layout::List { item: Box::new(T::layout(trace)?) })
    }
}

/// The type of a `PState`: `Map<K, V>`, `Set<E>` or `Single<P>`, with `Sub` collections in it to any depth.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be the type of a PState",
    label = "not the type of a PState",
    note = "PStates are `Map<K, V>` or `Set<E>`, with values, `Sub<Map<K2, V2>>`, `Sub<Set<E>>` or \
            `Sub<List<T>>` for `V`; or `Single<V>`, which lives in one partition",
    note = "a value that is never missing is `Single<Initially<I>>`, where `I` implements `Initial`"
)]
pub trait Schema: 'static {
    /// The position that paths start from.
    type Root;

    /// How many of it are there: [`One`], or [`Maybe`] where nothing may be stored.
    type Held;

    /// Whose its paths are that start from the token of `O`: those of `O`, unless they are
    /// [hidden](private).
    type Seen<O>;

    /// Where its rows live.
    const PLACING: Placing;

    /// Of a value that is never missing: what it is where nothing is stored.
    const INITIAL: Option<EncodeInitial> = None;

    /// The type as data, for the catalogue; the names in its values are added to `trace`.
    ///
    /// # Errors
    /// [`Error::NotStorable`] if a value in it is not; [`Error::NotCountable`] if a size in it cannot be kept.
    fn layout(trace: &mut Trace) -> Result<Layout>;
}

impl<K: Key, V: Position> Schema for Map<K, V> {
    type Root = Spread<Self>;
    type Held = One;
    type Seen<O> = O;

    const PLACING: Placing = Placing::Hash;

    fn layout(trace: &mut Trace) -> Result<Layout> {
        sizes::checked(Self::Root::layout(trace)?)
    }
}

impl<E: Key> Schema for Set<E> {
    type Root = Spread<Self>;
    type Held = One;
    type Seen<O> = O;

    const PLACING: Placing = Placing::Hash;

    fn layout(trace: &mut Trace) -> Result<Layout> {
        sizes::checked(Self::Root::layout(trace)?)
    }
}

/// A position whose content is written whole, by `put`.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be read or written as one value",
    label = "a collection stored element by element, or no value at all",
    note = "of a `Sub`, select `.all()`, `.range(a..b).limit(n)`, `.key(k)` or `.has(e)`; write its \
            elements one by one",
    note = "of a record, name its fields, each by itself: `.field(|it| it.name)`",
    note = "values derive `serde::Serialize` and `serde::Deserialize`"
)]
pub trait Stored: 'static {
    /// What is written and read.
    type Value;

    /// What there is before a change and after it: the value, or where it may be missing, an option of it.
    type Held;

    /// Encodes `value` at the end of `out`; says whether that makes a row.
    ///
    /// # Errors
    /// As [`encode`].
    fn write(table: &FieldTable, value: &Self::Value, out: &mut Vec<u8>) -> Result<Written>;

    /// Decodes the value of a row.
    ///
    /// # Errors
    /// As [`decode`].
    fn read(table: &FieldTable, bytes: &[u8]) -> Result<Self::Value>;

    /// What a row holds, or no row.
    ///
    /// # Errors
    /// As [`decode`].
    fn held(table: &FieldTable, row: Option<&[u8]>) -> Result<Self::Held>;

    /// The value to [write](Self::write), or none to leave no row.
    fn kept(held: Self::Held) -> Option<Self::Value>;
}

#[diagnostic::do_not_recommend]
impl<T: Data> Stored for T {
    type Value = T;
    type Held = Option<T>;

    #[inline]
    fn write(table: &FieldTable, value: &T, out: &mut Vec<u8>) -> Result<Written> {
        encode(table, value, out)?;
        Ok(Written::Value)
    }

    #[inline]
    fn read(table: &FieldTable, bytes: &[u8]) -> Result<T> {
        decode(table, bytes)
    }

    fn held(table: &FieldTable, row: Option<&[u8]>) -> Result<Option<T>> {
        row.map(|bytes| decode(table, bytes)).transpose()
    }

    fn kept(held: Option<T>) -> Option<T> {
        held
    }
}

impl Stored for Presence {
    type Value = bool;
    type Held = bool;

    fn write(_table: &FieldTable, value: &bool, _out: &mut Vec<u8>) -> Result<Written> {
        Ok(if *value { Written::Value } else { Written::Nothing })
    }

    fn read(_table: &FieldTable, _bytes: &[u8]) -> Result<bool> {
        Ok(true)
    }

    fn held(_table: &FieldTable, row: Option<&[u8]>) -> Result<bool> {
        Ok(row.is_some())
    }

    fn kept(held: bool) -> Option<bool> {
        Some(held)
    }
}

impl Position for Presence {
    const IS_COLLECTION: bool = false;

    fn layout(_trace: &mut Trace) -> Result<Layout> {
        Err(Error::NotStorable {
            value_type: "Presence",
            at: String::new(),
            problem:
                "it is what `has` leads to, and no part of a PState's type: write `Sub<Set<E>>`"
                    .to_owned(),
        })
    }
}
