//! [`Steps`]: typed paths that go anywhere, into values too; a [`Query`] whose every step the compiler checks.
//!
//! A [`Path`](super::Path) names rows, and is as fast as the row is. `Steps` are for what paths cannot say:
//! parts of values, filters, branches, recursion, collected values, and changes in place. They mean exactly what
//! the steps of [`ast`](super::ast) of the same names mean, and cost what [`eval`](super::eval) says.
//!
//! ```
//! use serde::{Deserialize, Serialize};
//! use tidemill::schema::{Fields, Map};
//! use tidemill::testing::TestPState;
//!
//! #[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Fields)]
//! struct Track { title: String, seconds: u32 }
//!
//! let albums = TestPState::<Map<String, Vec<Track>>>::new()?;
//! let token = albums.token();
//! let track = |title: &str, seconds| Track { title: title.to_owned(), seconds };
//! albums.put(token.key("Giant Steps"), vec![track("Naima", 261), track("Countdown", 141)]).unwrap();
//!
//! albums.run(async |at| {
//!     let tracks = token.steps().key("Giant Steps").all();
//!     // The titles of the tracks that are longer than 200 seconds.
//!     let long = tracks
//!         .clone()
//!         .selected(|it| it.field(|track| track.seconds).greater(200))
//!         .field(|track| track.title)
//!         .some();
//!     assert_eq!(at.find(long).await?, ["Naima"]);
//!     // Each gets a second longer, where it lies.
//!     let seconds = tracks.clone().field(|track| track.seconds).some();
//!     at.change(seconds, |seconds| Some(seconds + 1)).await?;
//!     // And one more track comes at the end.
//!     at.set(token.steps().key("Giant Steps").after_last(), track("Spiral", 359)).await?;
//!     let seconds = tracks.field(|track| track.seconds).some();
//!     assert_eq!(at.find(seconds).await?, [262, 142, 359]);
//!     Ok(())
//! }).unwrap();
//! # Ok::<(), tidemill::codec::Error>(())
//! ```
//!
//! # What is absent
//!
//! A step to what need not be there, like [`Steps::key`], leads to an `Option`. Going on treats none as an empty
//! collection, as [`ast`](super::ast) says; [`Steps::some`] goes on only where something is, and
//! [`Steps::or`] puts something in its place. [`Steps::must`] is `key` and `some` in one.
//!
//! # What does not compile
//!
//! A key of another type, a step that what is there does not have, a comparison with another type, a field that
//! the struct does not have, and a change of what another topology owns:
//!
//! ```compile_fail,E0277
//! # use tidemill::schema::{Map, PState};
//! fn path(scores: PState<Map<u64, Vec<i64>>>) {
//!     scores.steps().key("ann");
//! }
//! ```
//!
//! ```compile_fail,E0277
//! # use tidemill::schema::{Map, PState};
//! fn path(scores: PState<Map<u64, Vec<i64>>>) {
//!     scores.steps().key(7).values();
//! }
//! ```
//!
//! ```compile_fail,E0277
//! # use tidemill::schema::{Map, PState};
//! fn path(scores: PState<Map<u64, Vec<i64>>>) {
//!     scores.steps().key(7).all().greater("ten");
//! }
//! ```
//!
//! ```compile_fail,E0609
//! # use tidemill::schema::{Fields, Map, PState};
//! #[derive(serde::Serialize, serde::Deserialize, Fields)]
//! struct Track { title: String }
//! fn path(tracks: PState<Map<u64, Track>>) {
//!     tracks.steps().key(7).field(|track| track.seconds);
//! }
//! ```
//!
//! ```compile_fail,E0277
//! # use tidemill::schema::{Map, PState};
//! # use tidemill::topology::At;
//! async fn change<O>(at: At<'_, O>, scores: PState<Map<u64, i64>>) {
//!     at.set(scores.steps().key(7), 1).await.unwrap();
//! }
//! ```

use std::fmt;
use std::marker::PhantomData;
use std::ops::{Bound, RangeBounds};
use std::sync::Arc;

use super::ast::{Function, Navigate, Navigator, Op, Query, Step, Value};
use super::eval::Queried;
use super::private::Open;
use super::{Data, Outside};
use crate::codec::{self, FieldTable};
use crate::types::PStateId;

mod kinds;
#[cfg(test)]
mod tests;

pub use kinds::{Collects, Elements, Entries, Fields, Items, Like, Named, Part};

/// Steps from the root of a `PState` that `O` owns to parts of type `T`, having collected `C`, a tuple.
///
/// Nothing happens before they are given to [`At::find`](crate::topology::At::find) or another of its kind.
/// Clones are cheap.
pub struct Steps<O, T, C = ()> {
    pstate: PStateId,
    made: Vec<Make>,
    /// How many [`Steps::walk`]s are around.
    walks: usize,
    types: Types<O, T, C>,
}

type Types<O, T, C> = PhantomData<fn() -> (O, T, C)>;

/// A step, once the names in values have their numbers.
type Make = Arc<dyn Fn(&FieldTable) -> codec::Result<Step> + Send + Sync>;

impl<O, T, C> Clone for Steps<O, T, C> {
    fn clone(&self) -> Self {
        let Self { pstate, made, walks, types } = self;
        Self { pstate: *pstate, made: made.clone(), walks: *walks, types: *types }
    }
}

impl<O, T, C> fmt::Debug for Steps<O, T, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.query(&FieldTable::new()) {
            Ok(query) => write!(f, "{query:?}"),
            // Some value of it is a struct.
            Err(_) => write!(f, "{} steps", self.made.len()),
        }
    }
}

impl<O, T> Steps<O, T> {
    pub(super) fn root(pstate: PStateId) -> Self {
        Self { pstate, made: Vec::new(), walks: 0, types: PhantomData }
    }
}

/// Its `PState`.
impl<O, T, C> Queried for &Steps<O, T, C> {
    fn queried(self) -> PStateId {
        self.pstate
    }
}

impl<O: Open, T, C> Outside for Steps<O, T, C> {}

/// The path that steps make, inside of another.
fn inner(made: &[Make], fields: &FieldTable) -> codec::Result<Query> {
    let steps: codec::Result<Vec<Step>> = made.iter().map(|make| make(fields)).collect();
    Ok(Query::from(steps?))
}

impl<O, T, C> Steps<O, T, C> {
    /// Of which `PState`.
    #[must_use]
    pub fn pstate(&self) -> PStateId {
        self.pstate
    }

    /// The path as data, for the module whose table this is: to be shown, kept or sent.
    ///
    /// # Errors
    /// As [`codec::encode`], of a value in it.
    pub fn query(&self, fields: &FieldTable) -> codec::Result<Query> {
        inner(&self.made, fields)
    }

    fn make<U, D>(
        mut self,
        make: impl Fn(&FieldTable) -> codec::Result<Step> + Send + Sync + 'static,
    ) -> Steps<O, U, D> {
        self.made.push(Arc::new(make));
        Steps { pstate: self.pstate, made: self.made, walks: self.walks, types: PhantomData }
    }

    fn step<U>(self, step: Step) -> Steps<O, U, C> {
        self.make(move |_| Ok(step.clone()))
    }

    /// Where a path inside of a step begins.
    fn start<D>(&self) -> Steps<O, T, D> {
        Steps { pstate: self.pstate, made: Vec::new(), walks: self.walks, types: PhantomData }
    }

    /// A step around a path that begins here, with nothing collected.
    fn around<U, X, D, E>(
        self,
        path: impl FnOnce(Steps<O, T>) -> Steps<O, U, D>,
        step: impl Fn(Query) -> Step + Send + Sync + 'static,
    ) -> Steps<O, X, E> {
        let made = path(self.start()).made;
        self.make(move |fields| Ok(step(inner(&made, fields)?)))
    }
}

/// To parts.
impl<O, T, C> Steps<O, T, C> {
    /// What is under a key of a map, if it is there.
    #[must_use]
    pub fn key(self, key: impl Like<T::Key>) -> Steps<O, Option<T::Value>, C>
    where
        T: Entries,
    {
        let key = key.like();
        self.make(move |fields| Ok(Step::Key(Value::of(fields, &key)?)))
    }

    /// What is under a key of a map; ends where it is not there.
    #[must_use]
    pub fn must(self, key: impl Like<T::Key>) -> Steps<O, T::Value, C>
    where
        T: Entries,
    {
        let key = key.like();
        self.make(move |fields| Ok(Step::Must(Value::of(fields, &key)?)))
    }

    /// The key itself, if the map has it. A change renames it.
    #[must_use]
    pub fn map_key(self, key: impl Like<T::Key>) -> Steps<O, T::Key, C>
    where
        T: Entries,
    {
        let key = key.like();
        self.make(move |fields| Ok(Step::MapKey(Value::of(fields, &key)?)))
    }

    /// An element, if the set has it.
    #[must_use]
    pub fn elem(self, element: impl Like<T::Element>) -> Steps<O, T::Element, C>
    where
        T: Elements,
    {
        let element = element.like();
        self.make(move |fields| Ok(Step::Elem(Value::of(fields, &element)?)))
    }

    /// A field of a struct, if it is there: `.field(|it| it.name)`. Of a value that derives
    /// [`Fields`](derive@super::Fields), or of a record that derives [`Schema`](derive@super::Schema).
    #[must_use]
    pub fn field<N: Named>(self, field: impl FnOnce(T::All) -> N) -> Steps<O, Option<N::To>, C>
    where
        T: Fields,
    {
        let (of, name) = field(T::all()).names();
        self.step(Step::Field { of: of.to_owned(), name: name.to_owned() })
    }

    /// The item at a place of a list, counted from 0, or from the end with -1 for the last.
    #[must_use]
    pub fn nth(self, place: i64) -> Steps<O, T::Item, C>
    where
        T: Items,
    {
        self.step(Step::Nth(place))
    }

    /// The first item of a list or set.
    #[must_use]
    pub fn first(self) -> Steps<O, T::Item, C>
    where
        T: Items,
    {
        self.step(Step::First)
    }

    /// The last item of a list or set.
    #[must_use]
    pub fn last(self) -> Steps<O, T::Item, C>
    where
        T: Items,
    {
        self.step(Step::Last)
    }

    /// The place of an item. A change moves the item there.
    #[must_use]
    pub fn index(self, place: i64) -> Steps<O, i64, C>
    where
        T: Items,
    {
        self.step(Step::Index(place))
    }

    /// Each item of a list, or element of a set.
    #[must_use]
    pub fn all(self) -> Steps<O, T::Item, C>
    where
        T: Items,
    {
        self.step(Step::All)
    }

    /// Each item of a list with its place. A change of places reorders.
    #[must_use]
    pub fn indexed(self) -> Steps<O, (i64, T::Item), C>
    where
        T: Items,
    {
        self.step(Step::Indexed)
    }

    /// Each entry of a map.
    #[must_use]
    pub fn entries(self) -> Steps<O, (T::Key, T::Value), C>
    where
        T: Entries,
    {
        self.step(Step::All)
    }

    /// Each key of a map. A change renames it.
    #[must_use]
    pub fn keys(self) -> Steps<O, T::Key, C>
    where
        T: Entries,
    {
        self.step(Step::Keys)
    }

    /// Each value of a map.
    #[must_use]
    pub fn values(self) -> Steps<O, T::Value, C>
    where
        T: Entries,
    {
        self.step(Step::Values)
    }

    /// How many items, elements or entries there are.
    #[must_use]
    pub fn size(self) -> Steps<O, u64, C> {
        self.step(Step::Size)
    }
}

/// To parts that are not there yet, for [`At::set`](crate::topology::At::set).
impl<O, T, C> Steps<O, T, C> {
    /// The empty list at the front of a list.
    #[must_use]
    pub fn begin(self) -> Steps<O, Vec<T::Item>, C>
    where
        T: Items,
    {
        self.step(Step::Begin)
    }

    /// The empty list at the end of a list.
    #[must_use]
    pub fn end(self) -> Steps<O, Vec<T::Item>, C>
    where
        T: Items,
    {
        self.step(Step::End)
    }

    /// The place before the first item.
    #[must_use]
    pub fn before_first(self) -> Steps<O, T::Item, C>
    where
        T: Items,
    {
        self.step(Step::BeforeFirst)
    }

    /// The place behind the last item.
    #[must_use]
    pub fn after_last(self) -> Steps<O, T::Item, C>
    where
        T: Items,
    {
        self.step(Step::AfterLast)
    }

    /// The place before the item at a place; the length of the list is its end.
    #[must_use]
    pub fn insert_at(self, place: i64) -> Steps<O, T::Item, C>
    where
        T: Items,
    {
        self.step(Step::InsertAt(place))
    }

    /// One more element of a set.
    #[must_use]
    pub fn new_elem(self) -> Steps<O, T::Element, C>
    where
        T: Elements,
    {
        self.step(Step::NewElem)
    }
}

/// To several parts as one.
impl<O, T, C> Steps<O, T, C> {
    /// The entries of a map, or elements of a set, whose keys lie in a range.
    #[must_use]
    pub fn range(self, range: impl RangeBounds<T::Sorted>) -> Self
    where
        T: kinds::Sorted,
    {
        self.ranged::<T::Sorted>(&range, None, false)
    }

    /// Of those in a range, so many with the lowest keys.
    #[must_use]
    pub fn lowest(self, count: u64, range: impl RangeBounds<T::Sorted>) -> Self
    where
        T: kinds::Sorted,
    {
        self.ranged::<T::Sorted>(&range, Some(count), false)
    }

    /// Of those in a range, so many with the highest keys, from the highest down.
    #[must_use]
    pub fn highest(self, count: u64, range: impl RangeBounds<T::Sorted>) -> Self
    where
        T: kinds::Sorted,
    {
        self.ranged::<T::Sorted>(&range, Some(count), true)
    }

    fn ranged<K: Data>(
        self,
        range: &impl RangeBounds<K>,
        limit: Option<u64>,
        reverse: bool,
    ) -> Self {
        // Of a range the ends are borrowed, and they are wanted later: as plain values, which keys are.
        let plain = |bound: Bound<&K>| match bound {
            Bound::Included(key) => Bound::Included(Value::of(&FieldTable::new(), key)),
            Bound::Excluded(key) => Bound::Excluded(Value::of(&FieldTable::new(), key)),
            Bound::Unbounded => Bound::Unbounded,
        };
        let ends = (plain(range.start_bound()), plain(range.end_bound()));
        let known = |bound: &Bound<codec::Result<Value>>| match bound {
            Bound::Included(Ok(key)) => Ok(Bound::Included(key.clone())),
            Bound::Excluded(Ok(key)) => Ok(Bound::Excluded(key.clone())),
            Bound::Unbounded => Ok(Bound::Unbounded),
            Bound::Included(Err(error)) | Bound::Excluded(Err(error)) => {
                Err(codec::Error::Encode {
                    value_type: std::any::type_name::<K>(),
                    at: String::new(),
                    problem: error.to_string(),
                })
            }
        };
        self.make(move |_| {
            Ok(Step::Range { from: known(&ends.0)?, to: known(&ends.1)?, limit, reverse })
        })
    }

    /// The items of a list from one place, up to but without another; negative places count from the end.
    #[must_use]
    pub fn sublist(self, from: i64, to: i64) -> Steps<O, Vec<T::Item>, C>
    where
        T: Items,
    {
        self.step(Step::Sublist(from, to))
    }

    /// The entries of a map that have one of these keys.
    #[must_use]
    pub fn sub_map<Q: Like<T::Key>>(self, keys: impl IntoIterator<Item = Q>) -> Self
    where
        T: Entries,
    {
        let keys: Vec<T::Key> = keys.into_iter().map(Like::like).collect();
        self.make(move |fields| Ok(Step::SubMap(all_of(fields, &keys)?)))
    }

    /// Those of these elements that a set has.
    #[must_use]
    pub fn sub_set<Q: Like<T::Element>>(self, elements: impl IntoIterator<Item = Q>) -> Self
    where
        T: Elements,
    {
        let elements: Vec<T::Element> = elements.into_iter().map(Like::like).collect();
        self.make(move |fields| Ok(Step::SubSet(all_of(fields, &elements)?)))
    }

    /// The items of a list from which a path reaches something, as a list.
    #[must_use]
    pub fn filtered<U, D>(
        self,
        path: impl FnOnce(Steps<O, T::Item>) -> Steps<O, U, D>,
    ) -> Steps<O, Vec<T::Item>, C>
    where
        T: Items,
    {
        let made = path(self.item()).made;
        self.make(move |fields| Ok(Step::Filtered(inner(&made, fields)?)))
    }

    /// Each longest run of items from which a path reaches something, as a list.
    #[must_use]
    pub fn runs<U, D>(
        self,
        path: impl FnOnce(Steps<O, T::Item>) -> Steps<O, U, D>,
    ) -> Steps<O, Vec<T::Item>, C>
    where
        T: Items,
    {
        let made = path(self.item()).made;
        self.make(move |fields| Ok(Step::Runs(inner(&made, fields)?)))
    }

    /// Where a path from an item begins.
    fn item(&self) -> Steps<O, T::Item>
    where
        T: Items,
    {
        Steps { pstate: self.pstate, made: Vec::new(), walks: self.walks, types: PhantomData }
    }

    /// All that a path reaches, as one list. A change of the list puts its items where they came from.
    #[must_use]
    pub fn sub_select<U, D>(
        self,
        path: impl FnOnce(Steps<O, T>) -> Steps<O, U, D>,
    ) -> Steps<O, Vec<U>, C> {
        self.around(path, Step::SubSelect)
    }
}

fn all_of<K: Data>(fields: &FieldTable, keys: &[K]) -> codec::Result<Vec<Value>> {
    keys.iter().map(|key| Value::of(fields, key)).collect()
}

/// On, or not.
impl<O, T, C> Steps<O, T, C> {
    fn compare(self, op: Op, value: impl Like<T>) -> Self
    where
        T: Data + Sync,
    {
        let value = value.like();
        self.make(move |fields| Ok(Step::Compare(op, Value::of(fields, &value)?)))
    }

    /// Goes on if what is here equals `value`.
    #[must_use]
    pub fn equal(self, value: impl Like<T>) -> Self
    where
        T: Data + Sync,
    {
        self.compare(Op::Equal, value)
    }

    /// Goes on if what is here differs from `value`.
    #[must_use]
    pub fn not_equal(self, value: impl Like<T>) -> Self
    where
        T: Data + Sync,
    {
        self.compare(Op::NotEqual, value)
    }

    /// Goes on if what is here is less than `value`. What is absent is not.
    #[must_use]
    pub fn less(self, value: impl Like<T>) -> Self
    where
        T: Data + Sync,
    {
        self.compare(Op::Less, value)
    }

    /// Goes on if what is here is `value` or less.
    #[must_use]
    pub fn less_or_equal(self, value: impl Like<T>) -> Self
    where
        T: Data + Sync,
    {
        self.compare(Op::LessOrEqual, value)
    }

    /// Goes on if what is here is greater than `value`. What is absent is not.
    #[must_use]
    pub fn greater(self, value: impl Like<T>) -> Self
    where
        T: Data + Sync,
    {
        self.compare(Op::Greater, value)
    }

    /// Goes on if what is here is `value` or greater.
    #[must_use]
    pub fn greater_or_equal(self, value: impl Like<T>) -> Self
    where
        T: Data + Sync,
    {
        self.compare(Op::GreaterOrEqual, value)
    }

    /// Goes on if the function says so.
    #[must_use]
    pub fn filter(self, test: impl Fn(&T) -> bool + Send + Sync + 'static) -> Self
    where
        T: Data,
    {
        self.step(Step::Test(Function::of(move |here: T| Some(test(&here)))))
    }

    /// Goes on if the path reaches something.
    #[must_use]
    pub fn selected<U, D>(self, path: impl FnOnce(Steps<O, T>) -> Steps<O, U, D>) -> Self {
        self.around(path, Step::Selected)
    }

    /// Goes on if the path reaches nothing.
    #[must_use]
    pub fn not_selected<U, D>(self, path: impl FnOnce(Steps<O, T>) -> Steps<O, U, D>) -> Self {
        self.around(path, Step::NotSelected)
    }

    /// Goes on if the function says so of what was collected.
    #[must_use]
    pub fn collected(self, test: impl Fn(C) -> bool + Send + Sync + 'static) -> Self
    where
        C: Data,
    {
        // What is here is not decoded: it need not even be a value.
        let test = Function::raw(move |fields, collected, _| {
            let collected: Vec<Value> =
                collected.iter().map(|value| Value::from_bytes(value.bytes())).collect();
            let collected = Value::list(collected.iter()).decode(fields)?;
            Value::of(fields, &test(collected)).map(Some)
        });
        self.step(Step::Collected(test))
    }

    /// Ends here: for a branch that reaches nothing. Of whatever type the other branches are.
    #[must_use]
    pub fn stop<U>(self) -> Steps<O, U, C> {
        self.step(Step::Stop)
    }
}

impl<O, T: Data, C> Steps<O, Option<T>, C> {
    /// Goes on where something is.
    #[must_use]
    pub fn some(self) -> Steps<O, T, C> {
        self.step(Step::Compare(Op::NotEqual, Value::nil()))
    }

    /// What is here, or this value where nothing is.
    #[must_use]
    pub fn or(self, value: impl Like<T>) -> Steps<O, T, C>
    where
        T: Sync,
    {
        let value = value.like();
        self.make(move |fields| Ok(Step::Default(Value::of(fields, &value)?)))
    }
}

/// To something else in the place of what is here.
impl<O, T, C> Steps<O, T, C> {
    /// What the function makes of it. A change takes the place of what was here.
    #[must_use]
    pub fn view<U: Data>(self, f: impl Fn(T) -> U + Send + Sync + 'static) -> Steps<O, U, C>
    where
        T: Data,
    {
        self.step(Step::View(Function::of(move |here: T| Some(f(here)))))
    }

    /// What the function makes of what was collected and of what is here.
    #[must_use]
    pub fn view_with<U: Data>(self, f: impl Fn(C, T) -> U + Send + Sync + 'static) -> Steps<O, U, C>
    where
        T: Data,
        C: Data,
    {
        self.step(Step::View(Function::with(move |collected: C, here: T| Some(f(collected, here)))))
    }

    /// What a navigator of one's own reaches.
    #[must_use]
    pub fn navigate<N: Navigate<From = T>>(self, navigator: N) -> Steps<O, N::To, C> {
        self.step(Step::Navigate(Navigator::of(navigator)))
    }
}

/// Which way.
impl<O, T, C> Steps<O, T, C> {
    /// If the first path reaches something the second, else the third.
    #[must_use]
    pub fn either<U, X, D, E>(
        self,
        condition: impl FnOnce(Steps<O, T>) -> Steps<O, X, E>,
        then: impl FnOnce(Steps<O, T, C>) -> Steps<O, U, D>,
        otherwise: impl FnOnce(Steps<O, T, C>) -> Steps<O, U, D>,
    ) -> Steps<O, U, D> {
        let condition = condition(self.start()).made;
        let (then, otherwise) = (then(self.start()).made, otherwise(self.start()).made);
        self.make(move |fields| {
            let (then, otherwise) = (inner(&then, fields)?, inner(&otherwise, fields)?);
            Ok(Step::If(inner(&condition, fields)?, then, otherwise))
        })
    }

    /// What each path reaches, in turn: `.multi(|it| [it.clone().first(), it.last()])`. A change goes through
    /// each in turn, on the outcome of those before.
    #[must_use]
    pub fn multi<U, D, const N: usize>(
        self,
        paths: impl FnOnce(Steps<O, T, C>) -> [Steps<O, U, D>; N],
    ) -> Steps<O, U, D> {
        let paths = paths(self.start()).map(|path| path.made);
        self.make(move |fields| {
            let paths: codec::Result<_> = paths.iter().map(|made| inner(made, fields)).collect();
            Ok(Step::Multi(paths?))
        })
    }

    /// First what the path reaches, then what is here.
    #[must_use]
    pub fn then_stay(self, path: impl FnOnce(Steps<O, T, C>) -> Steps<O, T, C>) -> Self {
        let made = path(self.start()).made;
        self.make(move |fields| Ok(Step::ThenStay(inner(&made, fields)?)))
    }

    /// A path that goes through itself: `again` is the whole of it, from where it is given.
    ///
    /// ```
    /// use serde::{Deserialize, Serialize};
    /// use tidemill::schema::{Fields, Map};
    /// use tidemill::testing::TestPState;
    ///
    /// #[derive(Clone, Serialize, Deserialize, Fields)]
    /// struct Comment { text: String, replies: Vec<Comment> }
    ///
    /// let comment = |text: &str, replies| Comment { text: text.to_owned(), replies };
    /// let posts = TestPState::<Map<u64, Comment>>::new()?;
    /// let thread = comment("a", vec![comment("b", vec![comment("c", vec![])]), comment("d", vec![])]);
    /// posts.put(posts.token().key(7), thread).unwrap();
    /// // The texts of all comments under a post, whoever they reply to.
    /// let texts = posts.token().steps().must(7).walk(|it, again| {
    ///     it.multi(|it| {
    ///         let replies = it.clone().field(|it| it.replies).all();
    ///         [it.field(|it| it.text).some(), again(replies)]
    ///     })
    /// });
    /// let found = posts.run(async |at| Ok(at.find(texts).await?)).unwrap();
    /// assert_eq!(found, ["a", "b", "c", "d"]);
    /// # Ok::<(), tidemill::codec::Error>(())
    /// ```
    #[must_use]
    pub fn walk<U>(
        self,
        path: impl FnOnce(Steps<O, T, C>, &dyn Fn(Steps<O, T, C>) -> Steps<O, U, C>) -> Steps<O, U, C>,
    ) -> Steps<O, U, C> {
        let name = format!("walk {}", self.walks);
        let mut start = self.start();
        start.walks += 1;
        let again = |steps: Steps<O, T, C>| steps.step(Step::Again(name.clone()));
        let made = path(start, &again).made;
        self.make(move |fields| Ok(Step::Fix(name.clone(), inner(&made, fields)?)))
    }
}

/// What is put aside.
impl<O, T, C: Collects> Steps<O, T, C> {
    /// Collects the list of all that the path reaches.
    #[must_use]
    pub fn collect<U>(
        self,
        path: impl FnOnce(Steps<O, T>) -> Steps<O, U>,
    ) -> Steps<O, T, C::With<Vec<U>>> {
        self.around(path, Step::Collect)
    }

    /// Collects what the path reaches, which must be one.
    #[must_use]
    pub fn collect_one<U>(
        self,
        path: impl FnOnce(Steps<O, T>) -> Steps<O, U>,
    ) -> Steps<O, T, C::With<U>> {
        self.around(path, Step::CollectOne)
    }

    /// Collects a value.
    #[must_use]
    pub fn put_value<V: Data + Sync>(self, value: V) -> Steps<O, T, C::With<V>> {
        self.make(move |fields| Ok(Step::PutValue(Value::of(fields, &value)?)))
    }

    /// Collects what is here.
    #[must_use]
    pub fn put_current(self) -> Steps<O, T, C::With<T>> {
        self.make(|_| Ok(Step::PutCurrent))
    }

    /// Forgets what was collected.
    #[must_use]
    pub fn drop_collected(self) -> Steps<O, T> {
        self.make(|_| Ok(Step::DropCollected))
    }
}
