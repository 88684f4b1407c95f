//! Typed paths: where in a `PState`, how many elements, and who owns it.
//!
//! A [`Path`] encodes its key as it is built, into an inline buffer; its type says what is at its end:
//! a value, a `Sub` collection, the [`Presence`] of an element, or the rows of a range.

use std::fmt;
use std::marker::PhantomData;
use std::ops::{Range, RangeFrom, RangeFull, RangeInclusive, RangeTo, RangeToInclusive};

use super::aggregate::{Adds, Change};
use super::plan::{RangeOp, ReadOp, ReadPlan, Removal, Target};
use super::{Is, Map, Set, Sub};
use crate::codec::{EncodeKey, Error, KEY_BYTES_MAX, Key, KeyBuf, Placement, Result};
use crate::types::PStateId;

/// A position `S` in a `PState`, that `M` elements are at, of a `PState` owned by `O`.
pub struct Path<S, M, O> {
    raw: RawPath,
    types: PhantomData<fn() -> (S, M, O)>,
}

/// How many: exactly one, whatever is stored.
#[derive(Clone, Copy, Debug)]
pub enum One {}

/// How many: one or none.
#[derive(Clone, Copy, Debug)]
pub enum Maybe {}

/// How many: any number, in key order.
#[derive(Clone, Copy, Debug)]
pub enum Many {}

/// The position of paths that ask whether an element is there. Its value is a `bool`; putting `true`
/// adds the element, putting `false` removes it.
#[derive(Clone, Copy, Debug)]
pub enum Presence {}

/// The position of ranges over a map: keys with values.
pub struct Entry<K, V>(PhantomData<fn() -> (K, V)>);

/// The position of ranges over the keys of a map, or the elements of a set.
pub struct KeyOf<K>(PhantomData<fn() -> K>);

/// The position of ranges over the values of a map.
pub struct ValueOf<V>(PhantomData<fn() -> V>);

/// A path to a single place: what `put`, `delete` and `add` take, and what `key` and `range` go on
/// from.
#[diagnostic::on_unimplemented(
    message = "this path does not end at one stored element, so it cannot be written blindly",
    label = "leads to many elements",
    note = "`put`, `delete`, `add`, `key` and `range` start from a path of `key` steps only"
)]
pub trait Direct {}

impl Direct for One {}
impl Direct for Maybe {}

/// Says that `Self`, the owner of a path, is the topology `O` that wants to write there.
#[diagnostic::on_unimplemented(
    message = "this PState belongs to another topology: only the topology that declared it may \
               write it",
    label = "not owned by this topology"
)]
pub trait OwnedBy<O> {}

impl<O> OwnedBy<O> for O {}

impl<S, O> Path<S, One, O> {
    /// The start of every path of a `PState`.
    #[inline]
    pub(super) fn root(pstate: PStateId) -> Self {
        Self::from_raw(RawPath {
            key: KeyBuf::new(),
            more: None,
            pstate,
            place_bytes: 0,
            parts: 0,
        })
    }
}

impl<S, M, O> Path<S, M, O> {
    #[inline]
    fn from_raw(raw: RawPath) -> Self {
        Self { raw, types: PhantomData }
    }

    /// What is under one key of a map. Takes the key or a reference to it; `&str` for `String` and
    /// `&[u8]` for `Vec<u8>`.
    #[inline]
    #[must_use]
    pub fn key<Q: KeyIn<S>>(mut self, key: Q) -> Path<Q::Value, Maybe, O>
    where
        M: Direct,
    {
        self.raw.part(&key);
        Path::from_raw(self.raw)
    }

    /// Whether an element is in the set. `put(path.has(e), true)` adds it.
    #[inline]
    #[must_use]
    pub fn has<Q: ElementOf<S>>(mut self, element: Q) -> Path<Presence, One, O>
    where
        M: Direct,
    {
        self.raw.part(&element);
        Path::from_raw(self.raw)
    }

    /// The elements whose keys lie in a range: `a..b`, `a..=b`, `a..`, `..b`, `..=b` or `..`.
    #[must_use]
    pub fn range<R: RangeOf<S>>(mut self, range: R) -> Path<R::Element, Many, O>
    where
        M: Direct,
    {
        self.raw.range(&range);
        Path::from_raw(self.raw)
    }

    /// All elements, in key order.
    #[must_use]
    pub fn all<X: Ranged>(mut self) -> Path<X::Element, Many, O>
    where
        S: Is<X>,
        M: Direct,
    {
        self.raw.range::<u8>(&(..));
        Path::from_raw(self.raw)
    }

    /// Adds to what is stored here, or to nothing; see [`super::aggregate`].
    #[must_use]
    pub fn add<A: Adds<S>>(self, addend: A) -> Change<A::Sent, O>
    where
        M: Direct,
    {
        Change::new(self.raw.target(), addend)
    }

    /// The row this path leads to, for a write.
    ///
    /// # Errors
    /// [`Error::KeyTooLong`].
    #[inline]
    pub fn target(self) -> Result<Target>
    where
        M: Direct,
    {
        self.raw.target()
    }

    /// What deleting here removes: a row, or everything under a `Sub`.
    ///
    /// # Errors
    /// [`Error::KeyTooLong`].
    pub fn removal(self) -> Result<Removal>
    where
        S: Position,
        M: Direct,
    {
        let target = self.raw.target()?;
        if !S::IS_COLLECTION {
            return Ok(Removal::Row(target));
        }
        let to = target.key.clone().prefix_end();
        Ok(Removal::Range { from: target, to })
    }

    pub(super) fn read(self, what: What) -> Result<ReadPlan> {
        self.raw.read(what)
    }
}

/// How a direct path is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum What {
    /// The row's value.
    Value,
    /// Whether the row is there.
    Presence,
    /// The rows of a range, with or without their values.
    Rows {
        /// Leave the values out.
        keys_only: bool,
    },
}

impl<S, O> Path<S, Many, O> {
    /// Highest key first.
    #[must_use]
    pub fn reverse(mut self) -> Self {
        if let Some(range) = self.raw.range_mut() {
            range.reverse = !range.reverse;
        }
        self
    }

    /// At most `count` elements: the first ones, or with [`Path::reverse`] the last ones.
    #[must_use]
    pub fn limit(mut self, count: u64) -> Self {
        if let Some(range) = self.raw.range_mut() {
            range.limit = Some(range.limit.map_or(count, |before| before.min(count)));
        }
        self
    }
}

impl<K, V, O> Path<Entry<K, V>, Many, O> {
    /// The keys alone; values are not read.
    #[must_use]
    pub fn keys(self) -> Path<KeyOf<K>, Many, O> {
        Path::from_raw(self.raw)
    }

    /// The values alone.
    #[must_use]
    pub fn values(self) -> Path<ValueOf<V>, Many, O> {
        Path::from_raw(self.raw)
    }
}

/// A path without its types.
#[derive(Clone)]
struct RawPath {
    /// The encoded parts; of a range, those before it.
    key: KeyBuf,
    /// What paths of a few keys do not have.
    more: Option<Box<More>>,
    pstate: PStateId,
    /// How many bytes of `key` decide its place: the first part.
    place_bytes: u16,
    /// How many keys were given.
    parts: u8,
}

#[derive(Clone)]
enum More {
    /// The path ends in a range.
    Range(RangeOp),
    /// The path has no key.
    TooLong { part: u8, part_type: &'static str, bytes: usize },
}

impl RawPath {
    /// Appends one key.
    #[inline]
    fn part<K, Q: AsKey<K>>(&mut self, key: &Q) {
        key.as_key(&mut self.key);
        self.parts = self.parts.saturating_add(1);
        let bytes = self.key.len();
        if bytes > KEY_BYTES_MAX {
            self.too_long::<Q>(bytes);
        }
        if self.parts == 1 {
            self.place_bytes = u16::try_from(bytes).unwrap_or(u16::MAX);
        }
    }

    #[cold]
    fn too_long<Q>(&mut self, bytes: usize) {
        if self.more.is_none() {
            let part_type = std::any::type_name::<Q>();
            self.more = Some(Box::new(More::TooLong { part: self.parts, part_type, bytes }));
        }
        self.key.truncate(0);
    }
}
