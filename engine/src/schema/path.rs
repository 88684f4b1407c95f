//! Typed paths: where in a `PState`, how many elements, and who owns it.
//!
//! A [`Path`] encodes its key as it is built, into an inline buffer; its type says what is at its end:
//! a value, a `Sub` collection, the [`Presence`] of an element, or the rows of a range.

use std::fmt;
use std::marker::PhantomData;
use std::ops::{Range, RangeFrom, RangeFull, RangeInclusive, RangeTo, RangeToInclusive};

use super::aggregate::{Adds, Change};
use super::placing::{Place, Placing};
use super::plan::{ItemsOp, RangeOp, ReadOp, ReadPlan, Removal, RowRead, Target};
use super::sizes::{self, Counting, Uncounted};
use super::{Data, Field, Is, List, Map, Position, Record, RowOf, Set, Sub, list};
use crate::codec::{EncodeKey, Error, KEY_BYTES_MAX, Key, KeyBuf, Placement, Result};
use crate::types::PStateId;

/// A position `S` in a `PState`, that `M` elements are at, of a `PState` owned by `O`.
pub struct Path<S, M, O> {
    raw: RawPath,
    types: Types<S, M, O>,
}

type Types<S, M, O> = PhantomData<fn() -> (S, M, O)>;

/// How many: exactly one, whatever is stored.
#[derive(Clone, Copy, Debug)]
pub enum One {}

/// How many: one or none.
#[derive(Clone, Copy, Debug)]
pub enum Maybe {}

/// How many: one or none, which has to be looked for: such a path is read, and not written blindly.
#[derive(Clone, Copy, Debug)]
pub enum AtIndex {}

/// How many: any number, in key order.
#[derive(Clone, Copy, Debug)]
pub enum Many {}

/// How many: everything that lies under a place, to any depth. Such a path is read, and subscribed, as one.
#[derive(Clone, Copy, Debug)]
pub enum Deep {}

/// The position of paths that ask whether an element is there. Its value is a `bool`; putting `true`
/// adds the element, putting `false` removes it.
#[derive(Clone, Copy, Debug)]
pub enum Presence {}

marker!(
    /// The position of ranges over a map: keys with values. `Z` says whether the map counts them.
    Entry<K, V, Z>
);
marker!(
    /// The position of ranges over the keys of a map, or the elements of a set.
    KeyOf<K, Z>
);
marker!(
    /// The position of ranges over the values of a map.
    ValueOf<V, Z>
);
marker!(
    /// The position of the elements of a list, in the list's order.
    Item<T>
);

marker!(
    /// The position of paths that ask how many elements the collection `C` has: see [`Path::size`].
    Size<C>
);

/// A path to a single place: what `put`, `delete` and `add` take, and what `key` and `range` go on
/// from.
#[diagnostic::on_unimplemented(
    message = "this path leads to many elements, where one place is needed",
    label = "leads to many elements",
    note = "`.key`, `.has`, `.field`, `.range`, `.all`, `.add`, `put` and `delete` go on from one place: a path of \
            `.key` and `.field` steps, that may end in `.has`",
    note = "all elements of a range are deleted by `at.delete_range`"
)]
pub trait Direct {}

impl Direct for One {}
impl Direct for Maybe {}

/// Says that `Self`, the owner of a path, is the topology `O` that wants to write there.
#[diagnostic::on_unimplemented(
    message = "this PState belongs to another topology: only the topology that declared it may \
               write it",
    label = "not owned by this topology",
    note = "read it here, and append what is to be written to a depot that its own topology reads",
    note = "a token that `reader()` gave, a `PState<..>`, cannot write: keep the `Owned<..>` one"
)]
pub trait OwnedBy<O> {}

impl<O> OwnedBy<O> for O {}

impl<S, O> Path<S, Maybe, O> {
    /// What lies at the key of a unit of a migration.
    pub(crate) fn at(pstate: PStateId, key: &[u8]) -> Self {
        let place_bytes = u16::try_from(key.len()).unwrap_or(u16::MAX);
        let (key, more, place, parts) = (key.into(), None, None, 1);
        Self::from_raw(RawPath { key, more, place, pstate, place_bytes, parts, is_single: false })
    }
}

impl<S, M, O> Path<S, M, O> {
    /// The start of every path of a `PState` whose rows live where `placing` says.
    #[inline]
    pub(super) fn root(pstate: PStateId, placing: Placing) -> Self {
        let (is_single, place) = (placing.is_single(), placing.function());
        let (key, more, place_bytes, parts) = (KeyBuf::new(), None, 0, 0);
        Self::from_raw(RawPath { key, more, place, pstate, place_bytes, parts, is_single })
    }

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
        self.raw.part::<Q>(|out| key.encode_key_in(out));
        Path::from_raw(self.raw)
    }

    /// Whether an element is in the set. `put(path.has(e), true)` adds it.
    #[inline]
    #[must_use]
    pub fn has<Q: ElementOf<S>>(mut self, element: Q) -> Path<Presence, One, O>
    where
        M: Direct,
    {
        self.raw.part::<Q>(|out| element.encode_element(out));
        Path::from_raw(self.raw)
    }

    /// One field of a [record](super::record): `path.field(|it| it.name)`.
    #[inline]
    #[must_use]
    pub fn field<F>(mut self, field: impl FnOnce(S::Fields) -> Field<S, F>) -> Path<F, Maybe, O>
    where
        S: Record,
        M: Direct,
    {
        let number = field(S::fields()).number();
        self.raw.part::<F>(|out| out.push(number));
        Path::from_raw(self.raw)
    }

    /// The elements whose keys lie in a range: `a..b`, `a..=b`, `a..`, `..b`, `..=b` or `..`.
    #[must_use]
    pub fn range<R: RangeOf<S>>(mut self, range: R) -> Path<R::Element, Many, O>
    where
        M: Direct,
    {
        self.raw.range::<R>(|prefix| range.encode_range_in(prefix));
        Path::from_raw(self.raw)
    }

    /// All elements, in key order; those of a list in its order.
    #[must_use]
    pub fn all<X: Ranged>(mut self) -> Path<X::Element, Many, O>
    where
        S: Is<X>,
        M: Direct,
    {
        self.raw.range::<X>(X::bounds);
        Path::from_raw(self.raw)
    }

    /// Everything under here, to any depth: the elements of a `Sub`, and what lies under them. It is read by one
    /// scan, and held in [mirrors](crate::subscribe::mirror).
    ///
    /// ```
    /// use tidemill::schema::{Map, Set, Sub};
    /// use tidemill::testing::TestPState;
    ///
    /// let tags = TestPState::<Map<u32, Sub<Map<String, Sub<Set<u8>>>>>>::new()?;
    /// for (name, tag) in [("a", 1), ("b", 2), ("b", 3)] {
    ///     tags.put(tags.token().key(7).key(name).has(tag), true).unwrap();
    /// }
    /// let all = tags.select(tags.token().key(7).tree()).unwrap();
    /// assert_eq!(all.len(), 2);
    /// assert!(all.get("b").unwrap().contains(3));
    /// let some = tags.select(tags.token().key(7).trees("b".to_owned()..)).unwrap();
    /// assert_eq!(some.len(), 1);
    /// # Ok::<(), tidemill::codec::Error>(())
    /// ```
    #[must_use]
    pub fn tree(mut self) -> Path<S, Deep, O>
    where
        S: Grown,
        M: Direct,
    {
        self.raw.range::<S>(S::grown);
        Path::from_raw(self.raw)
    }

    /// The same, of the keys of a map that lie in a range.
    #[must_use]
    pub fn trees<R: TreesOf<S>>(mut self, range: R) -> Path<S, Deep, O>
    where
        M: Direct,
    {
        self.raw.range::<R>(|prefix| range.encode_trees(prefix));
        Path::from_raw(self.raw)
    }

    /// How many elements the collection has: see [`sizes`]. Reads one row, however many there are.
    #[must_use]
    pub fn size(mut self) -> Path<Size<S>, One, O>
    where
        S: Counts,
        M: Direct,
    {
        self.raw.part::<S>(S::push_head);
        Path::from_raw(self.raw)
    }

    /// Adds to what is stored here, or to nothing; see [`super::aggregate`].
    #[must_use]
    #[allow(clippy::should_implement_trait, reason = "adds to what is stored, not to the path")]
    pub fn add<A: Adds<S>>(self, addend: A) -> Change<A::Sent, O, S>
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

    pub(super) fn pstate(&self) -> PStateId {
        self.raw.pstate
    }

    /// How long its key is so far.
    pub(super) fn key_bytes(&self) -> usize {
        self.raw.key.len()
    }

    pub(super) fn read(self, what: What) -> Result<ReadPlan> {
        self.raw.read(what)
    }

    #[inline]
    pub(super) fn row(&self) -> Option<RowRead<'_>> {
        self.raw.row()
    }
}

impl<T: Data, M: Direct, O> Path<Sub<List<T>>, M, O> {
    /// The item at a place of the list, counted from 0, if there are so many. One scan of at most 64 rows for
    /// each level of the list finds it. (The last ones are had by `.all().reverse().limit(n)`.)
    ///
    /// ```
    /// use tidemill::schema::{List, Map, Sub};
    /// use tidemill::testing::TestPState;
    ///
    /// let posts = TestPState::<Map<u32, Sub<List<String>>>>::new()?;
    /// posts.run(async |at| {
    ///     for text in ["a", "b", "c"] {
    ///         at.push(posts.token().key(7), text.to_owned()).await?;
    ///     }
    ///     Ok(())
    /// }).unwrap();
    /// let of_ann = posts.token().key(7);
    /// assert_eq!(posts.select(of_ann.clone().item(1)).unwrap().as_deref(), Some("b"));
    /// assert_eq!(posts.select(of_ann.items(1..9)).unwrap(), ["b", "c"]);
    /// # Ok::<(), tidemill::codec::Error>(())
    /// ```
    #[must_use]
    pub fn item(mut self, index: u64) -> Path<T, AtIndex, O> {
        self.raw.items::<Sub<List<T>>>(index, 1);
        Path::from_raw(self.raw)
    }

    /// The items whose places lie in a range, in the order of the list; fewer where it is shorter.
    #[must_use]
    pub fn items(mut self, indexes: Range<u64>) -> Path<Item<T>, Many, O> {
        let count = indexes.end.saturating_sub(indexes.start);
        self.raw.items::<Sub<List<T>>>(indexes.start, count);
        Path::from_raw(self.raw)
    }
}

impl<S, M: Direct, O> Path<S, M, O> {
    /// What hangs under the item of an id, of a list whose items are `I`.
    pub(crate) fn under<I>(mut self, id: u64) -> Path<I, Maybe, O> {
        self.raw.part::<S>(|key| list::push_under(key, id));
        Path::from_raw(self.raw)
    }
}

impl<S: Sequence, M: Direct, O> Path<S, M, O> {
    /// The key of the list, where it leaves `room` bytes for what its rows have behind it.
    ///
    /// # Errors
    /// [`Error::KeyTooLong`].
    pub(crate) fn list_target(mut self, room: usize) -> Result<Target> {
        let bytes = self.raw.key.len() + room;
        if bytes > KEY_BYTES_MAX {
            self.raw.too_long::<S>(bytes);
        }
        self.raw.target()
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
        match self.raw.more.as_deref_mut() {
            Some(More::Range(range)) => range.reverse = !range.reverse,
            Some(More::Items(items)) => items.reverse = !items.reverse,
            Some(More::TooLong { .. }) | None => {}
        }
        self
    }

    /// At most `count` elements: the first ones, or with [`Path::reverse`] the last ones.
    #[must_use]
    pub fn limit(mut self, count: u64) -> Self {
        match self.raw.more.as_deref_mut() {
            Some(More::Range(range)) => {
                range.limit = Some(range.limit.map_or(count, |before| before.min(count)));
            }
            Some(More::Items(items)) => {
                items.limit = items.limit.min(count);
                if !items.reverse {
                    items.count = items.count.min(count);
                }
            }
            Some(More::TooLong { .. }) | None => {}
        }
        self
    }

    /// What it reads.
    pub(crate) fn plan(self) -> Result<ReadPlan>
    where
        S: RowOf,
    {
        self.raw.read(What::Rows { keys_only: S::KEYS_ONLY })
    }

    /// The rows it leads to, for whoever wants to delete them.
    pub(crate) fn rows(self) -> Result<ReadPlan> {
        self.raw.read(What::Rows { keys_only: true })
    }
}

impl<S, O> Path<S, Deep, O> {
    /// What it reads.
    pub(crate) fn deep(self) -> Result<ReadPlan> {
        self.raw.read(What::Rows { keys_only: false })
    }
}

impl<K, V, Z, O> Path<Entry<K, V, Z>, Many, O> {
    /// The keys alone; values are not read.
    #[must_use]
    pub fn keys(self) -> Path<KeyOf<K, Z>, Many, O> {
        Path::from_raw(self.raw)
    }

    /// The values alone.
    #[must_use]
    pub fn values(self) -> Path<ValueOf<V, Z>, Many, O> {
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
    /// Where the first part lives, unless its hash says that.
    place: Option<Place>,
    pstate: PStateId,
    /// How many bytes of `key` decide its place: the first part.
    place_bytes: u16,
    /// How many keys were given.
    parts: u8,
    /// All of the `PState` lives in one place, so that the first part is nothing special.
    is_single: bool,
}

#[derive(Clone)]
enum More {
    /// The path ends in a range.
    Range(RangeOp),
    /// The path ends in items of a list.
    Items(ItemsOp),
    /// The path has no key.
    TooLong { part: u8, part_type: &'static str, bytes: usize },
}

impl RawPath {
    /// Appends one key, of type `Q`.
    #[inline]
    fn part<Q>(&mut self, encode: impl FnOnce(&mut KeyBuf)) {
        encode(&mut self.key);
        self.parts = self.parts.saturating_add(1);
        let bytes = self.key.len();
        if bytes > KEY_BYTES_MAX {
            self.too_long::<Q>(bytes);
        }
        if self.parts == 1 {
            self.place_bytes = u16::try_from(bytes).unwrap_or(u16::MAX);
        }
    }

    /// Ends the path in a range.
    fn range<R>(&mut self, encode: impl FnOnce(&KeyBuf) -> Bounds) {
        let prefix_bytes = self.key.len();
        let (from, to) = encode(&self.key);
        let longest = from.len().max(to.as_ref().map_or(0, KeyBuf::len));
        self.parts = self.parts.saturating_add(1);
        if longest > KEY_BYTES_MAX {
            self.too_long::<R>(longest);
        }
        if self.more.is_none() {
            self.more = Some(Box::new(More::Range(RangeOp {
                from,
                to,
                reverse: false,
                limit: None,
                keys_only: false,
                prefix_bytes,
            })));
        }
    }

    /// Ends the path in items of the list that it leads to.
    fn items<L>(&mut self, from: u64, count: u64) {
        let bytes = self.key.len() + list::KEY_BYTES;
        self.parts = self.parts.saturating_add(1);
        if bytes > KEY_BYTES_MAX {
            self.too_long::<L>(bytes);
        }
        if self.more.is_none() {
            let items =
                ItemsOp { list: self.key.clone(), from, count, reverse: false, limit: u64::MAX };
            self.more = Some(Box::new(More::Items(items)));
        }
    }

    #[cold]
    fn too_long<Q>(&mut self, bytes: usize) {
        // The first part that went too far is the one to name.
        if self.more.is_none() {
            let part_type = std::any::type_name::<Q>();
            self.more = Some(Box::new(More::TooLong { part: self.parts, part_type, bytes }));
        }
    }

    #[cold]
    fn too_long_error(&self, part: u8, part_type: &'static str, bytes: usize) -> Error {
        Error::KeyTooLong { pstate: self.pstate, part, part_type, bytes }
    }

    #[cold]
    fn placed(&self, place: Place, first: &[u8]) -> Result<Placement> {
        match self.more.as_deref() {
            // What is said of it is that.
            Some(&More::TooLong { part, part_type, bytes }) => {
                Err(self.too_long_error(part, part_type, bytes))
            }
            _ => place(first),
        }
    }

    #[inline]
    fn place(&self) -> Result<Placement> {
        let first = &self.key[..usize::from(self.place_bytes)];
        match self.place {
            None => Ok(Placement::of(first)),
            Some(place) => self.placed(place, first),
        }
    }

    fn target(self) -> Result<Target> {
        match self.more.as_deref() {
            None => {}
            Some(&More::TooLong { part, part_type, bytes }) => {
                return Err(self.too_long_error(part, part_type, bytes));
            }
            Some(More::Range(_) | More::Items(_)) => {
                unreachable!("a range is not a direct path")
            }
        }
        assert!(self.parts > 0 || self.is_single, "a token alone is not a path to one element");
        Ok(Target { pstate: self.pstate, place: self.place()?, key: self.key })
    }

    /// The row, if it is one of which a key is all there is to say.
    #[inline(always)]
    #[allow(clippy::inline_always, reason = "a step of every read of a key, and short")]
    fn row(&self) -> Option<RowRead<'_>> {
        if self.more.is_some() || (self.parts == 0 && !self.is_single) {
            return None;
        }
        let key = self.key.as_slice();
        let first = &key[..usize::from(self.place_bytes)];
        let place = match self.place {
            None => Placement::of(first),
            // What is wrong with it is said where errors are.
            Some(place) => place(first).ok()?,
        };
        Some(RowRead { pstate: self.pstate, place, key })
    }

    fn read(mut self, what: What) -> Result<ReadPlan> {
        let place = match self.parts {
            0 if !self.is_single => unreachable!("a token alone cannot be read"),
            // A range over first keys.
            1 if self.more.is_some() && !self.is_single => None,
            _ => Some(self.place()?),
        };
        let pstate = self.pstate;
        let op = match (self.more.take().map(|more| *more), what) {
            (None, What::Value) => ReadOp::Get { key: self.key },
            (None, What::Presence) => ReadOp::Has { key: self.key },
            (Some(More::Range(range)), What::Rows { keys_only }) => {
                ReadOp::Range(Box::new(RangeOp { keys_only, ..range }))
            }
            (Some(More::TooLong { part, part_type, bytes }), _) => {
                return Err(self.too_long_error(part, part_type, bytes));
            }
            (Some(More::Items(items)), What::Rows { .. }) => ReadOp::Items(Box::new(items)),
            (None, What::Rows { .. }) | (Some(More::Range(_) | More::Items(_)), _) => {
                unreachable!("a path is a range exactly if its type says Many")
            }
        };
        Ok(ReadPlan { pstate, place, op })
    }
}

/// What can be given for a key of type `K`: the key, a reference to it, and for texts and bytes their
/// slices.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a key of this collection, whose keys are `{K}`",
    label = "expected a `{K}` (or `&{K}`)"
)]
pub trait AsKey<K> {
    /// Appends the key's bytes.
    fn encode_as_key(&self, out: &mut KeyBuf);
}

impl<K: Key> AsKey<K> for K {
    #[inline]
    fn encode_as_key(&self, out: &mut KeyBuf) {
        self.encode_key(out);
    }
}

impl<K: Key> AsKey<K> for &K {
    #[inline]
    fn encode_as_key(&self, out: &mut KeyBuf) {
        (**self).encode_key(out);
    }
}

impl AsKey<String> for &str {
    #[inline]
    fn encode_as_key(&self, out: &mut KeyBuf) {
        (**self).encode_key(out);
    }
}

impl AsKey<Vec<u8>> for &[u8] {
    #[inline]
    fn encode_as_key(&self, out: &mut KeyBuf) {
        (**self).encode_key(out);
    }
}

/// What [`Path::key`] takes where the position is `S`.
#[diagnostic::on_unimplemented(
    message = "no `key` here: `{S}` is not a map stored element by element",
    label = "there is nothing with keys at this place of the path",
    note = "write `Sub<Map<K, V>>` in the PState's type to store a collection element by element; one that is \
            one value is read whole",
    note = "of a set, ask `.has(e)`; of a record, `.field(|it| it.name)`; a list gives its items by `at.item` and \
            `.all()`"
)]
pub trait KeyIn<S> {
    /// What is under the key.
    type Value;

    /// Appends the key's bytes.
    fn encode_key_in(self, out: &mut KeyBuf);
}

impl<K, V, Z, Q: AsKey<K>> KeyIn<Sub<Map<K, V>, Z>> for Q {
    type Value = V;

    #[inline]
    fn encode_key_in(self, out: &mut KeyBuf) {
        self.encode_as_key(out);
    }
}

/// What [`Path::has`] takes where the position is `S`.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not an element of `{S}`",
    label = "not an element of what is stored here",
    note = "`.has(e)` takes an element of a `Sub<Set<E>>`: an `E`, an `&E`, or a `&str` where that is `String`",
    note = "write `Sub<Set<E>>` in the PState's type to store a set element by element; one that is one value is \
            read whole",
    note = "of a map, `.key(k)` gives what is there or `None`"
)]
pub trait ElementOf<S> {
    /// Appends the element's bytes.
    fn encode_element(self, out: &mut KeyBuf);
}

impl<E, Z, Q: AsKey<E>> ElementOf<Sub<Set<E>, Z>> for Q {
    #[inline]
    fn encode_element(self, out: &mut KeyBuf) {
        self.encode_as_key(out);
    }
}

/// What [`Path::range`] takes where the position is `S`.
#[diagnostic::on_unimplemented(
    message = "no ranges here: `{S}` is stored as one value",
    label = "cannot be read by ranges of keys",
    note = "write `Sub<..>` around the collection in the PState's type to store it element by \
            element, in key order; or read it whole"
)]
pub trait RangeOf<S> {
    /// What the range consists of.
    type Element;

    /// The first key included and the first behind, given the key of the collection.
    fn encode_range_in(self, prefix: &KeyBuf) -> Bounds;
}

impl<K, V: Data, Z: Counting, R: KeyRange<K>> RangeOf<Sub<Map<K, V>, Z>> for R {
    type Element = Entry<K, V, Z>;

    fn encode_range_in(self, prefix: &KeyBuf) -> Bounds {
        behind_head::<Z>(prefix, self.encode_range(prefix))
    }
}

impl<E, Z: Counting, R: KeyRange<E>> RangeOf<Sub<Set<E>, Z>> for R {
    type Element = KeyOf<E, Z>;

    fn encode_range_in(self, prefix: &KeyBuf) -> Bounds {
        behind_head::<Z>(prefix, self.encode_range(prefix))
    }
}

/// The same range without the head, whose key is the prefix.
fn behind_head<Z: Counting>(prefix: &KeyBuf, (mut from, to): Bounds) -> Bounds {
    if Z::COUNTED && from.len() == prefix.len() {
        from = sizes::first_element(prefix);
    }
    (from, to)
}

/// Collections whose elements [`Path::all`] gives.
#[diagnostic::on_unimplemented(
    message = "no ranges here: `{Self}` is stored as one value",
    label = "cannot be read element by element",
    note = "write `Sub<..>` around the collection in the PState's type to store it element by \
            element, in key order; or read it whole"
)]
pub trait Ranged {
    /// What the collection consists of.
    type Element;

    /// The first key included and the first behind, given the key of the collection.
    fn bounds(prefix: &KeyBuf) -> Bounds;
}

impl<K, V: Data, Z: Counting> Ranged for Sub<Map<K, V>, Z> {
    type Element = Entry<K, V, Z>;

    fn bounds(prefix: &KeyBuf) -> Bounds {
        behind_head::<Z>(prefix, KeyRange::<()>::encode_range(.., prefix))
    }
}

impl<E, Z: Counting> Ranged for Sub<Set<E>, Z> {
    type Element = KeyOf<E, Z>;

    fn bounds(prefix: &KeyBuf) -> Bounds {
        behind_head::<Z>(prefix, KeyRange::<()>::encode_range(.., prefix))
    }
}

impl<T: Data> Ranged for Sub<List<T>> {
    type Element = Item<T>;

    fn bounds(prefix: &KeyBuf) -> Bounds {
        let (from, to) = list::element_range(prefix);
        (from, Some(to))
    }
}

/// Collections of which [`Path::tree`] gives everything.
#[diagnostic::on_unimplemented(
    message = "`{Self}` has no tree",
    label = "not a collection that is stored element by element",
    note = "a value is one row, and read by its own path; a record has a tree under each `Sub` that is a field"
)]
pub trait Grown: 'static {
    /// The first key included and the first behind, given the key of the collection.
    fn grown(prefix: &KeyBuf) -> Bounds;
}

impl<K: Key, V: Position, Z: Counting> Grown for Sub<Map<K, V>, Z> {
    fn grown(prefix: &KeyBuf) -> Bounds {
        behind_head::<Z>(prefix, KeyRange::<()>::encode_range(.., prefix))
    }
}

impl<E: Key, Z: Counting> Grown for Sub<Set<E>, Z> {
    fn grown(prefix: &KeyBuf) -> Bounds {
        behind_head::<Z>(prefix, KeyRange::<()>::encode_range(.., prefix))
    }
}

impl<T: Data> Grown for Sub<List<T>> {
    fn grown(prefix: &KeyBuf) -> Bounds {
        Self::bounds(prefix)
    }
}

/// What [`Path::trees`] takes where the position is `S`.
#[diagnostic::on_unimplemented(
    message = "no ranges of keys here: `{S}` is not a map stored element by element, or `{Self}` no range of its keys",
    label = "expected a range of the keys of a `Sub<Map<K, V>>`",
    note = "everything under a place is `.tree()`; elements of a set are had by `.range(a..b)`"
)]
pub trait TreesOf<S> {
    /// The first key included and the first behind, given the key of the collection.
    fn encode_trees(self, prefix: &KeyBuf) -> Bounds;
}

impl<K, V: Position, Z: Counting, R: KeyRange<K>> TreesOf<Sub<Map<K, V>, Z>> for R {
    fn encode_trees(self, prefix: &KeyBuf) -> Bounds {
        behind_head::<Z>(prefix, self.encode_range(prefix))
    }
}

/// Collections that count their elements: what [`Path::size`] asks.
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not count its elements",
    label = "no `size` here",
    note = "collections that are stored element by element do, `Sub<Map<K, V>>`, `Sub<Set<E>>` and \
            `Sub<List<T>>`, unless they are declared `Uncounted`; the first keys of a PState, which are \
            spread over all partitions, do not",
    note = "to count what was `Uncounted`, take `Uncounted` out of a PState's type and give the PState \
            another name"
)]
pub trait Counts {
    /// Appends what the key of the collection's head has behind that of the collection.
    fn push_head(key: &mut KeyBuf);

    /// The size that a head says.
    ///
    /// # Errors
    /// [`Error::Decode`].
    fn size(head: &[u8]) -> Result<u64>;
}

impl<K, V> Counts for Sub<Map<K, V>> {
    fn push_head(_key: &mut KeyBuf) {}

    fn size(head: &[u8]) -> Result<u64> {
        sizes::decode_size(head)
    }
}

impl<E> Counts for Sub<Set<E>> {
    fn push_head(_key: &mut KeyBuf) {}

    fn size(head: &[u8]) -> Result<u64> {
        sizes::decode_size(head)
    }
}

impl<T> Counts for Sub<List<T>> {
    fn push_head(key: &mut KeyBuf) {
        key.push_array([list::HEAD]);
    }

    fn size(head: &[u8]) -> Result<u64> {
        list::decode_count(head).map_err(list::malformed)
    }
}

/// Elements of a map or set, one row each: what [`At::remove_range`](crate::topology::At::remove_range) takes.
#[diagnostic::on_unimplemented(
    message = "a range of `{Self}` cannot be removed",
    label = "not elements of a map or set",
    note = "elements of a list are removed by index: `at.remove(list, index).await`"
)]
pub trait Elements {}

impl<K, V, Z> Elements for Entry<K, V, Z> {}
impl<K, Z> Elements for KeyOf<K, Z> {}
impl<V, Z> Elements for ValueOf<V, Z> {}

/// Elements that nobody counts: what [`At::delete_range`](crate::topology::At::delete_range) takes.
#[diagnostic::on_unimplemented(
    message = "a range of `{Self}` cannot be deleted blindly: the collection keeps its size",
    label = "what is deleted must be counted",
    note = "write `at.remove_range(path).await`, which counts; or declare the collection \
            `Sub<.., Uncounted>` to delete without reading; all of it is deleted by `at.delete`",
    note = "elements of a list are removed by index: `at.remove(list, index).await`"
)]
pub trait Blind: Elements {}

impl<K, V> Blind for Entry<K, V, Uncounted> {}
impl<K> Blind for KeyOf<K, Uncounted> {}
impl<V> Blind for ValueOf<V, Uncounted> {}

/// Lists of values stored element by element: what is pushed to, and edited at an index.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a list of values stored element by element",
    label = "there is no list of values at this place of the path",
    note = "write `Sub<List<T>>` in the PState's type to store a list element by element",
    note = "a `Vec` is one value: change it by `at.update`, or add `ListOf(item)` to it",
    note = "a list of collections gets an item by `at.push_new(list)` or `at.insert_new(list, index)`, which give its \
            path to be written to; `at.nth(list, index)` gives that of one that is there"
)]
pub trait Listed: Sequence {
    /// What the list consists of.
    type Item: Data;
}

#[diagnostic::do_not_recommend]
impl<T: Data> Listed for Sub<List<T>> {
    type Item = T;
}

/// Lists stored element by element, of values or of collections: what [`At::remove`](crate::topology::At::remove)
/// takes.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a list stored element by element",
    label = "there is no list at this place of the path",
    note = "write `Sub<List<T>>` in the PState's type to store a list element by element",
    note = "a `Vec` is one value: change it by `at.update`, or add `ListOf(item)` to it"
)]
pub trait Sequence: 'static {
    /// Whether its items are collections.
    const NESTS: bool;
}

impl<T: Position> Sequence for Sub<List<T>> {
    const NESTS: bool = T::IS_COLLECTION;
}

/// A range of keys of type `K`.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a range of this collection's keys, which are `{K}`",
    label = "expected `a..b`, `a..=b`, `a..`, `..b`, `..=b` or `..` of `{K}`"
)]
pub trait KeyRange<K> {
    /// The first key included and the first behind, given the key of the collection.
    fn encode_range(self, prefix: &KeyBuf) -> Bounds;
}

/// The first key of a range, and the first behind it; `None` for the end of the tree.
pub type Bounds = (KeyBuf, Option<KeyBuf>);

impl<K, Q: AsKey<K>> KeyRange<K> for Range<Q> {
    fn encode_range(self, prefix: &KeyBuf) -> Bounds {
        (at(prefix, &self.start), Some(at(prefix, &self.end)))
    }
}

impl<K, Q: AsKey<K>> KeyRange<K> for RangeInclusive<Q> {
    fn encode_range(self, prefix: &KeyBuf) -> Bounds {
        (at(prefix, self.start()), at(prefix, self.end()).prefix_end())
    }
}

impl<K, Q: AsKey<K>> KeyRange<K> for RangeFrom<Q> {
    fn encode_range(self, prefix: &KeyBuf) -> Bounds {
        (at(prefix, &self.start), prefix.clone().prefix_end())
    }
}

impl<K, Q: AsKey<K>> KeyRange<K> for RangeTo<Q> {
    fn encode_range(self, prefix: &KeyBuf) -> Bounds {
        (prefix.clone(), Some(at(prefix, &self.end)))
    }
}

impl<K, Q: AsKey<K>> KeyRange<K> for RangeToInclusive<Q> {
    fn encode_range(self, prefix: &KeyBuf) -> Bounds {
        (prefix.clone(), at(prefix, &self.end).prefix_end())
    }
}

impl<K> KeyRange<K> for RangeFull {
    fn encode_range(self, prefix: &KeyBuf) -> Bounds {
        (prefix.clone(), prefix.clone().prefix_end())
    }
}

/// The key of an element. What hangs under it begins with it, so an *inclusive* end is the end of
/// this prefix.
fn at<K, Q: AsKey<K>>(prefix: &KeyBuf, key: &Q) -> KeyBuf {
    let mut bytes = prefix.clone();
    key.encode_as_key(&mut bytes);
    bytes
}

impl<S, M, O> Clone for Path<S, M, O> {
    fn clone(&self) -> Self {
        Self::from_raw(self.raw.clone())
    }
}

impl<S, M, O> fmt::Debug for Path<S, M, O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Path(PState {}, {:?}", self.raw.pstate, self.raw.key)?;
        match self.raw.more.as_deref() {
            None => {}
            Some(More::Range(range)) => write!(f, ", {range:?}")?,
            Some(More::Items(items)) => write!(f, ", {items:?}")?,
            Some(More::TooLong { bytes, .. }) => write!(f, ", too long: {bytes} bytes")?,
        }
        f.write_str(")")
    }
}
