//! What a subscriber holds of what it subscribed, and how raw writes become typed changes of it.
//!
//! Elements are kept by the bytes of their keys, in the order of the stored rows: so a range that was deleted is
//! found by its ends, whatever the keys' type.
//!
//! A row that is written as it was is no change, whoever writes it: an event, or a
//! [migration](crate::migrate), which writes what readers had seen before. Values need not be comparable, so a
//! hash of the row's bytes is kept beside each, of 128 bits so that two that differ do not share one.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Bound;

use xxhash_rust::xxh3::xxh3_128;

use super::queue::RawWrite;
use crate::codec::key::decode_key;
use crate::codec::{self, Error, FieldTable, Key, decode};
use crate::schema::path::{AsKey, Entry, Item, KeyOf, Size};
use crate::schema::{
    Answer, Data, Initial, Initially, Many, Maybe, One as Single, Path, Presence, Reads, Select,
};

mod list;
mod part;
mod tree;

pub use list::{Items, ListDiff};
pub use part::Parts;
pub use tree::{Branch, Branches, Tree, TreeDiff, Under};
pub(crate) use {part::differing as differing_parts, tree::is_head, tree::split};

type Result<T> = codec::Result<T>;

/// A path that can be subscribed: to one value, one presence, one size, the elements of a collection under one first
/// key, all of them or a range, or everything under a key.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be subscribed",
    label = "does not lead to one value or to elements with their keys",
    note = "subscribe `path.key(k)`, `.field(..)`, `.has(e)` or `.size()`, or of a `Sub` its `.all()` or \
            `.range(a..b)`; of a map that gives keys with values, or with `.keys()` the keys alone; of collections in \
            a `Sub`, `.tree()`",
    note = "what hangs under an item of a list of collections is not subscribed: its index leads to another item as \
            soon as one comes or goes before it; subscribe the list's `.size()`, and select what is under its items"
)]
pub trait Subscribe: Sized {
    /// What the subscriber holds.
    type Mirror: Mirror;

    /// That of nothing stored.
    ///
    /// # Errors
    /// [`Error::Decode`].
    fn mirror(&self, fields: &FieldTable) -> Result<Self::Mirror>;

    /// What of a `PState` it watches.
    ///
    /// # Errors
    /// [`Error::KeyTooLong`].
    fn watched(self) -> Result<Reads>;
}

/// What it watches is what it reads.
macro_rules! watched_as_read {
    () => {
        fn watched(self) -> Result<Reads> {
            self.reads()
        }
    };
}
use watched_as_read;

/// What a subscriber holds of a path: its value, kept up to date by writes.
pub trait Mirror: Send + Sized {
    /// The value as it is read.
    type Value: ?Sized;

    /// One change of it.
    type Diff: Send;

    /// Writes that were read for this mirror, as it was then.
    type Read<'a>;

    /// One that holds what it would if nothing was stored.
    ///
    /// # Errors
    /// [`Error::Decode`].
    fn cleared(&self, fields: &FieldTable) -> Result<Self>;

    /// The value.
    fn value(&self) -> &Self::Value;

    /// Decodes writes, and changes nothing.
    ///
    /// # Errors
    /// [`Error::Decode`], [`Error::BadKey`].
    fn read<'a>(&self, fields: &FieldTable, writes: &[Write<'a>]) -> Result<Self::Read<'a>>;

    /// Does what was read last; tells what changed.
    fn take(&mut self, read: Self::Read<'_>) -> Vec<Self::Diff>;

    /// Does what `writes` say, all of it or, if there is an error, nothing.
    ///
    /// # Errors
    /// As [`Mirror::read`].
    fn apply(&mut self, fields: &FieldTable, writes: &[Write<'_>]) -> Result<Vec<Self::Diff>> {
        let read = self.read(fields, writes)?;
        Ok(self.take(read))
    }
}

/// A write to a row, by the part of its key behind the path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Write<'a> {
    /// The rows between are gone.
    GoneRange(Bound<&'a [u8]>, Bound<&'a [u8]>),
    /// The row has a value.
    Put(&'a [u8], &'a [u8]),
    /// The row is gone.
    Gone(&'a [u8]),
}

impl<'a> Write<'a> {
    /// A row that is an element, as it was read.
    ///
    /// # Errors
    /// As [`Write::of`].
    pub(crate) fn read(key: &'a [u8], value: &'a [u8], prefix_bytes: usize) -> Result<Self> {
        Ok(Self::Put(element_key(key, prefix_bytes)?, value))
    }

    /// What a raw write is to a subscriber whose path has so many bytes.
    ///
    /// # Errors
    /// [`Error::BadKey`].
    pub(crate) fn of(raw: &'a RawWrite, prefix_bytes: usize) -> Result<Self> {
        match raw {
            RawWrite::Put(key, value) => Self::read(key, value, prefix_bytes),
            RawWrite::Gone(key) => Ok(Self::Gone(element_key(key, prefix_bytes)?)),
            RawWrite::GoneRange(from, to) => {
                let after = from.get(prefix_bytes..).unwrap_or_default();
                // What is deleted was cut to what begins with the path, or ends right behind that.
                let to =
                    to.as_ref().filter(|to| to.get(..prefix_bytes) == from.get(..prefix_bytes));
                let to = to.and_then(|to| to.get(prefix_bytes..));
                let to = to.map_or(Bound::Unbounded, Bound::Excluded);
                Ok(Self::GoneRange(Bound::Included(after), to))
            }
        }
    }
}

/// The part of a row's key behind the path. That the row is an element of what the path leads to, the bounds of
/// the path's range say: no row that counts elements lies within them.
pub(crate) fn element_key(key: &[u8], prefix_bytes: usize) -> Result<&[u8]> {
    let problem = "a row's key is shorter than the path to it";
    key.get(prefix_bytes..).ok_or(Error::BadKey { key_type: "row", problem })
}

// ---- one row

/// The value of one row, as the path `P` reads it.
pub struct One<P: RowPath> {
    value: P::Out,
    /// Of the row, if there is one.
    hash: Option<u128>,
}

/// A value was replaced; of a path that may lead to nothing, `None` is that.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replaced<V> {
    /// What it is now.
    pub value: V,
    /// What it was.
    pub old: V,
}

/// A path to one row.
pub trait RowPath: Select<Out: Send> {
    /// Whether a write that led from one value to the other changed nothing that can be told.
    fn is_same(old: &Self::Out, new: &Self::Out) -> bool;
}

impl<V: Data, O> RowPath for Path<V, Maybe, O>
where
    Self: Select<Out = Option<V>>,
{
    fn is_same(old: &Option<V>, new: &Option<V>) -> bool {
        // Values need not be comparable; that nothing stays nothing is known.
        old.is_none() && new.is_none()
    }
}

impl<O> RowPath for Path<Presence, Single, O> {
    fn is_same(old: &bool, new: &bool) -> bool {
        old == new
    }
}

impl<C, O> RowPath for Path<Size<C>, Single, O>
where
    Self: Select<Out = u64>,
{
    fn is_same(old: &u64, new: &u64) -> bool {
        old == new
    }
}

impl<I: Initial, O> RowPath for Path<Initially<I>, Single, O>
where
    Self: Select<Out = I::Value>,
    I::Value: Send,
{
    fn is_same(_: &I::Value, _: &I::Value) -> bool {
        // Values need not be comparable.
        false
    }
}

impl<P: RowPath> One<P> {
    /// That of no row.
    ///
    /// # Errors
    /// [`Error::Decode`].
    pub(crate) fn empty(fields: &FieldTable) -> Result<Self> {
        Ok(Self { value: Self::decode(fields, None)?, hash: None })
    }

    /// The value of a row, or of none.
    pub(crate) fn decode(fields: &FieldTable, row: Option<&[u8]>) -> Result<P::Out> {
        P::decode(fields, &[], &[Answer::One(row)])
    }
}

/// What a row became.
#[derive(Debug)]
pub struct Row<V> {
    /// To keep, and to tell.
    values: (V, V),
    hash: Option<u128>,
}

impl<P: RowPath> Mirror for One<P> {
    type Value = P::Out;
    type Diff = Replaced<P::Out>;
    /// None if nothing is written that is not there.
    type Read<'a> = Option<Row<P::Out>>;

    fn cleared(&self, fields: &FieldTable) -> Result<Self> {
        Self::empty(fields)
    }

    fn value(&self) -> &P::Out {
        &self.value
    }

    fn read<'a>(&self, fields: &FieldTable, writes: &[Write<'a>]) -> Result<Self::Read<'a>> {
        let Some(last) = writes.last() else { return Ok(None) };
        let row = match last {
            Write::Put(_, value) => Some(*value),
            Write::Gone(_) | Write::GoneRange(..) => None,
        };
        let hash = row.map(xxh3_128);
        if hash == self.hash {
            return Ok(None);
        }
        Ok(Some(Row { values: (Self::decode(fields, row)?, Self::decode(fields, row)?), hash }))
    }

    fn take(&mut self, read: Self::Read<'_>) -> Vec<Self::Diff> {
        let Some(Row { values: (kept, value), hash }) = read else { return Vec::new() };
        self.hash = hash;
        if P::is_same(&self.value, &value) {
            return Vec::new();
        }
        let old = std::mem::replace(&mut self.value, kept);
        vec![Replaced { value, old }]
    }
}

impl<P: RowPath<Out: fmt::Debug>> fmt::Debug for One<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.value.fmt(f)
    }
}

impl<P: RowPath<Out: Clone>> Clone for One<P> {
    fn clone(&self) -> Self {
        Self { value: self.value.clone(), hash: self.hash }
    }
}

impl<P: RowPath<Out: PartialEq>> PartialEq for One<P> {
    fn eq(&self, other: &Self) -> bool {
        self.value == other.value
    }
}

impl<P: RowPath<Out: Eq>> Eq for One<P> {}

impl<V: Data, O> Subscribe for Path<V, Maybe, O>
where
    Self: RowPath,
{
    type Mirror = One<Self>;

    fn mirror(&self, fields: &FieldTable) -> Result<One<Self>> {
        One::empty(fields)
    }

    watched_as_read!();
}

impl<O> Subscribe for Path<Presence, Single, O> {
    type Mirror = One<Self>;

    fn mirror(&self, fields: &FieldTable) -> Result<One<Self>> {
        One::empty(fields)
    }

    watched_as_read!();
}

impl<I: Initial, O> Subscribe for Path<Initially<I>, Single, O> {
    type Mirror = One<Self>;

    fn mirror(&self, fields: &FieldTable) -> Result<One<Self>> {
        One::empty(fields)
    }

    watched_as_read!();
}

impl<C, O> Subscribe for Path<Size<C>, Single, O>
where
    Self: RowPath,
{
    type Mirror = One<Self>;

    fn mirror(&self, fields: &FieldTable) -> Result<One<Self>> {
        One::empty(fields)
    }

    watched_as_read!();
}

// ---- maps

/// Entries of a map, in the order of their keys as they are stored.
#[derive(Clone, PartialEq, Eq)]
pub struct Entries<K, V> {
    rows: BTreeMap<Box<[u8]>, Kept<K, V>>,
}

/// One entry.
#[derive(Clone, PartialEq, Eq)]
struct Kept<K, V> {
    entry: (K, V),
    /// Of the row's bytes.
    hash: u128,
}

/// One change of entries. Told in order: a range that is removed comes before what is set in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MapDiff<K, V> {
    /// A key has a value.
    Set {
        /// Which.
        key: K,
        /// What it has now.
        value: V,
        /// What it had.
        old: Option<V>,
    },
    /// A key is gone.
    Removed {
        /// Which.
        key: K,
        /// What it had.
        old: V,
    },
    /// All keys of a range are gone, which were these.
    RemovedRange {
        /// In order.
        entries: Vec<(K, V)>,
    },
}

impl<K: Key, V> Entries<K, V> {
    /// The value of one key.
    #[allow(clippy::needless_pass_by_value, reason = "takes what paths take, in the same form")]
    pub fn get<Q: AsKey<K>>(&self, key: Q) -> Option<&V> {
        let mut bytes = codec::KeyBuf::new();
        key.encode_as_key(&mut bytes);
        self.rows.get(bytes.as_slice()).map(|kept| &kept.entry.1)
    }

    /// Keys and values, in the order of the keys.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = (&K, &V)> + ExactSizeIterator {
        self.rows.values().map(|Kept { entry: (key, value), .. }| (key, value))
    }
}

impl<K, V> Entries<K, V> {
    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }
}

impl<K: fmt::Debug, V: fmt::Debug> fmt::Debug for Entries<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let entries = self.rows.values().map(|Kept { entry: (key, value), .. }| (key, value));
        f.debug_map().entries(entries).finish()
    }
}

impl<K: Key + Send, V: Data> Mirror for Entries<K, V> {
    type Value = Self;
    type Diff = MapDiff<K, V>;

    type Read<'a> = Vec<(Write<'a>, Option<Twice<(K, V)>>)>;

    fn cleared(&self, _: &FieldTable) -> Result<Self> {
        Ok(Self::empty())
    }

    fn value(&self) -> &Self {
        self
    }

    fn read<'a>(&self, fields: &FieldTable, writes: &[Write<'a>]) -> Result<Self::Read<'a>> {
        let read = |write: &Write<'a>| match *write {
            Write::Put(key, value) => {
                let kept = (decode_key(key)?, decode(fields, value)?);
                let told = (decode_key(key)?, decode(fields, value)?);
                Ok((*write, Some((kept, told))))
            }
            Write::Gone(_) | Write::GoneRange(..) => Ok((*write, None)),
        };
        writes.iter().map(read).collect()
    }

    fn take(&mut self, read: Self::Read<'_>) -> Vec<Self::Diff> {
        let mut diffs = Vec::new();
        for (write, read) in read {
            match (write, read) {
                (Write::Put(at, bytes), Some((entry, (key, value)))) => {
                    let hash = xxh3_128(bytes);
                    let old = self.rows.insert(at.into(), Kept { entry, hash });
                    if old.as_ref().is_none_or(|old| old.hash != hash) {
                        let old = old.map(|old| old.entry.1);
                        diffs.push(MapDiff::Set { key, value, old });
                    }
                }
                (Write::Gone(at), _) => {
                    let gone = self.rows.remove(at).map(|kept| kept.entry);
                    diffs.extend(gone.map(|(key, old)| MapDiff::Removed { key, old }));
                }
                (Write::GoneRange(from, to), _) => {
                    let gone = take_range(&mut self.rows, from, to);
                    let entries: Vec<_> = gone.into_iter().map(|kept| kept.entry).collect();
                    if !entries.is_empty() {
                        diffs.push(MapDiff::RemovedRange { entries });
                    }
                }
                (Write::Put(..), None) => unreachable!("every put was read"),
            }
        }
        diffs
    }
}

impl<K: Key + Send, V: Data, Z, O> Subscribe for Path<Entry<K, V, Z>, Many, O> {
    type Mirror = Entries<K, V>;

    fn mirror(&self, _: &FieldTable) -> Result<Entries<K, V>> {
        Ok(Branch::empty())
    }

    watched_as_read!();
}

// ---- sets, and keys of maps

/// Elements of a set, or keys of a map, in their order as they are stored.
#[derive(Clone, PartialEq, Eq)]
pub struct Elements<E> {
    rows: BTreeMap<Box<[u8]>, E>,
}

/// One change of elements. Told in order: a range that is removed comes before what is added in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SetDiff<E> {
    /// It was not there before.
    Added(E),
    /// It was there before.
    Removed(E),
    /// All elements of a range are gone, which were these, in order.
    RemovedRange(Vec<E>),
}

impl<E: Key> Elements<E> {
    /// Whether an element is there.
    #[allow(clippy::needless_pass_by_value, reason = "takes what paths take, in the same form")]
    pub fn contains<Q: AsKey<E>>(&self, element: Q) -> bool {
        let mut bytes = codec::KeyBuf::new();
        element.encode_as_key(&mut bytes);
        self.rows.contains_key(bytes.as_slice())
    }

    /// All of them, in order.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &E> + ExactSizeIterator {
        self.rows.values()
    }
}

impl<E> Elements<E> {
    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }
}

impl<E: fmt::Debug> fmt::Debug for Elements<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.rows.values()).finish()
    }
}

impl<E: Key + Send> Mirror for Elements<E> {
    type Value = Self;
    type Diff = SetDiff<E>;

    type Read<'a> = Vec<(Write<'a>, Option<Twice<E>>)>;

    fn cleared(&self, _: &FieldTable) -> Result<Self> {
        Ok(Self::empty())
    }

    fn value(&self) -> &Self {
        self
    }

    fn read<'a>(&self, _: &FieldTable, writes: &[Write<'a>]) -> Result<Self::Read<'a>> {
        let read = |write: &Write<'a>| match *write {
            Write::Put(key, _) => Ok((*write, Some((decode_key(key)?, decode_key(key)?)))),
            Write::Gone(_) | Write::GoneRange(..) => Ok((*write, None)),
        };
        writes.iter().map(read).collect()
    }

    fn take(&mut self, read: Self::Read<'_>) -> Vec<Self::Diff> {
        let mut diffs = Vec::new();
        for (write, read) in read {
            match (write, read) {
                (Write::Put(at, _), Some((kept, told))) => {
                    if self.rows.insert(at.into(), kept).is_none() {
                        diffs.push(SetDiff::Added(told));
                    }
                }
                (Write::Gone(at), _) => diffs.extend(self.rows.remove(at).map(SetDiff::Removed)),
                (Write::GoneRange(from, to), _) => {
                    let gone = take_range(&mut self.rows, from, to);
                    if !gone.is_empty() {
                        diffs.push(SetDiff::RemovedRange(gone));
                    }
                }
                (Write::Put(..), None) => unreachable!("every put was read"),
            }
        }
        diffs
    }
}

impl<E: Key + Send, Z, O> Subscribe for Path<KeyOf<E, Z>, Many, O> {
    type Mirror = Elements<E>;

    fn mirror(&self, _: &FieldTable) -> Result<Elements<E>> {
        Ok(Branch::empty())
    }

    watched_as_read!();
}

/// What was decoded twice: to keep it, and to tell it. Values need not be `Clone`.
type Twice<T> = (T, T);

/// Takes out what lies in a range, in order.
fn take_range<T>(
    rows: &mut BTreeMap<Box<[u8]>, T>,
    from: Bound<&[u8]>,
    to: Bound<&[u8]>,
) -> Vec<T> {
    let keys = rows.range::<[u8], _>((from, to)).map(|(key, _)| key.clone());
    let keys: Vec<Box<[u8]>> = keys.collect();
    keys.iter().filter_map(|key| rows.remove(key)).collect()
}

// ---- lists

impl<T: Data, O> Subscribe for Path<Item<T>, Many, O> {
    type Mirror = Items<T>;

    fn mirror(&self, _: &FieldTable) -> Result<Items<T>> {
        Ok(Branch::empty())
    }

    watched_as_read!();
}
