//! Lists whose items are collections: paths to an item by its index, and on from there.
//!
//! ```
//! use tidemill::schema::{List, Map, Sub};
//! use tidemill::testing::TestPState;
//!
//! // The rounds of each game, and what each player won in them.
//! let games = TestPState::<Map<u32, Sub<List<Sub<Map<String, i64>>>>>>::new()?;
//! let rounds = games.token().key(7);
//! games.run(async |at| {
//!     for (player, won) in [("ann", 3), ("bob", 5)] {
//!         let round = at.push_new(rounds.clone()).await?; // the path of the new item
//!         at.put(round.key(player), won)?;
//!     }
//!     if let Some(first) = at.nth(rounds.clone(), 0).await? {
//!         at.put(first.key("cid"), 1)?;
//!     }
//!     Ok(())
//! }).unwrap();
//! assert_eq!(games.select(rounds.clone().nth(1).key("bob")).unwrap(), Some(5));
//! assert_eq!(games.select(rounds.clone().nth(0).size()).unwrap(), 2);
//! assert_eq!(games.select(rounds.nth(2).key("bob")).unwrap(), None); // there are two
//! # Ok::<(), tidemill::codec::Error>(())
//! ```
//!
//! An item is found by its index as in any list; what hangs under it lies under an id that it keeps wherever it
//! moves. A [`ByIndex`] finds the item and reads behind it at one moment. It is no path that is written: a
//! topology asks [`At::nth`](crate::topology::At::nth) for the item's own path first. An item is there until
//! it is removed, however much hangs under it.

use std::fmt;
use std::ops::Range;

use super::path::{
    AtIndex, Counts, Deep, ElementOf, Entry, Grown, Item, KeyIn, KeyOf, Many, Maybe, One, Path,
    Presence, RangeOf, Ranged, Size, TreesOf, ValueOf,
};
use super::plan::{Answer, RangeOp, ReadOp, ReadPlan};
use super::private::Open;
use super::sizes::Counting;
use super::{Data, Direct, Field, Is, List, Map, Outside, Record, Select, Set, Sub, list};
use crate::codec::{FieldTable, KeyBuf, Result};

/// What is stored by many rows, so that it can be an item of a list with a path of its own.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is one value, and no collection stored element by element",
    label = "not a collection",
    note = "collections are `Sub<Map<K, V>>`, `Sub<Set<E>>`, `Sub<List<T>>` and structs that derive \
            `tidemill::schema::Schema`",
    note = "a list of values gets one by `at.push(list, value)`, and gives one by `at.item(list, index)`"
)]
pub trait Nested: 'static {}

impl<K: 'static, V: 'static, Z: Counting> Nested for Sub<Map<K, V>, Z> {}
impl<E: 'static, Z: Counting> Nested for Sub<Set<E>, Z> {}
impl<T: 'static> Nested for Sub<List<T>> {}

#[diagnostic::do_not_recommend]
impl<R: Record> Nested for R {}

/// Lists whose items are collections: what gets an item by [`At::push_new`](crate::topology::At::push_new), and
/// gives the path of one by [`At::nth`](crate::topology::At::nth) and [`Path::nth`].
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a list of collections",
    label = "not a list whose items are stored element by element",
    note = "a list of collections is a `Sub<List<Sub<..>>>`, or a `Sub<List<R>>` of a record `R`",
    note = "a list of values gets one by `at.push(list, value)`, and gives one by `at.item(list, index)` and \
            `.item(index)`"
)]
pub trait Nests: 'static {
    /// What each item is.
    type Inner: Nested;
}

#[diagnostic::do_not_recommend]
impl<T: Nested> Nests for Sub<List<T>> {
    type Inner = T;
}

/// A path that leads through an item of a list, which is found by its index when the path is read: nothing where
/// the list is not so long. Goes on as a path does. See [`Path::nth`].
#[derive(Clone)]
pub struct ByIndex<P> {
    /// With zeros where the ids of items belong.
    path: P,
    items: Vec<ItemAt>,
}

/// An item that a key leads through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ItemAt {
    /// Where in the key its id belongs: behind that of the list, and a byte.
    pub id_at: usize,
    /// Its index in the list.
    pub index: u64,
}

impl<S, M: Direct, O> Path<S, M, O> {
    /// What hangs under the item at a place of the list, counted from 0, as it is when the path is read.
    ///
    /// Where items are values, [`Path::item`] gives one.
    #[must_use]
    pub fn nth<L: Nests>(self, index: u64) -> ByIndex<Path<L::Inner, Maybe, O>>
    where
        S: Is<L>,
    {
        ByIndex { path: self, items: Vec::new() }.nth(index)
    }
}

impl<P> ByIndex<P> {
    fn go<Q>(self, step: impl FnOnce(P) -> Q) -> ByIndex<Q> {
        ByIndex { path: step(self.path), items: self.items }
    }
}

impl<S, M: Direct, O> ByIndex<Path<S, M, O>> {
    /// As [`Path::key`].
    #[must_use]
    pub fn key<Q: KeyIn<S>>(self, key: Q) -> ByIndex<Path<Q::Value, Maybe, O>> {
        self.go(|path| path.key(key))
    }

    /// As [`Path::has`].
    #[must_use]
    pub fn has<Q: ElementOf<S>>(self, element: Q) -> ByIndex<Path<Presence, One, O>> {
        self.go(|path| path.has(element))
    }

    /// As [`Path::field`].
    #[must_use]
    pub fn field<F>(
        self,
        field: impl FnOnce(S::Fields) -> Field<S, F>,
    ) -> ByIndex<Path<F, Maybe, O>>
    where
        S: Record,
    {
        self.go(|path| path.field(field))
    }

    /// As [`Path::range`].
    #[must_use]
    pub fn range<R: RangeOf<S>>(self, range: R) -> ByIndex<Path<R::Element, Many, O>> {
        self.go(|path| path.range(range))
    }

    /// As [`Path::all`].
    #[must_use]
    pub fn all<X: Ranged>(self) -> ByIndex<Path<X::Element, Many, O>>
    where
        S: Is<X>,
    {
        self.go(Path::all)
    }

    /// As [`Path::tree`].
    #[must_use]
    pub fn tree(self) -> ByIndex<Path<S, Deep, O>>
    where
        S: Grown,
    {
        self.go(Path::tree)
    }

    /// As [`Path::trees`].
    #[must_use]
    pub fn trees<R: TreesOf<S>>(self, range: R) -> ByIndex<Path<S, Deep, O>> {
        self.go(|path| path.trees(range))
    }

    /// As [`Path::size`]; 0 where the list is not so long.
    #[must_use]
    pub fn size(self) -> ByIndex<Path<Size<S>, One, O>>
    where
        S: Counts,
    {
        self.go(Path::size)
    }

    /// As [`Path::nth`].
    #[must_use]
    pub fn nth<L: Nests>(mut self, index: u64) -> ByIndex<Path<L::Inner, Maybe, O>>
    where
        S: Is<L>,
    {
        let path = self.path.under(0);
        self.items.push(ItemAt { id_at: path.key_bytes() - list::ID_BYTES, index });
        ByIndex { path, items: self.items }
    }
}

impl<T: Data, M: Direct, O> ByIndex<Path<Sub<List<T>>, M, O>> {
    /// As [`Path::item`].
    #[must_use]
    pub fn item(self, index: u64) -> ByIndex<Path<T, AtIndex, O>> {
        self.go(|path| path.item(index))
    }

    /// As [`Path::items`].
    #[must_use]
    pub fn items(self, indexes: Range<u64>) -> ByIndex<Path<Item<T>, Many, O>> {
        self.go(|path| path.items(indexes))
    }
}

impl<S, O> ByIndex<Path<S, Many, O>> {
    /// As [`Path::reverse`].
    #[must_use]
    pub fn reverse(self) -> Self {
        self.go(Path::reverse)
    }

    /// As [`Path::limit`].
    #[must_use]
    pub fn limit(self, count: u64) -> Self {
        self.go(|path| path.limit(count))
    }
}

impl<K, V, Z, O> ByIndex<Path<Entry<K, V, Z>, Many, O>> {
    /// As [`Path::keys`].
    #[must_use]
    pub fn keys(self) -> ByIndex<Path<KeyOf<K, Z>, Many, O>> {
        self.go(Path::keys)
    }

    /// As [`Path::values`].
    #[must_use]
    pub fn values(self) -> ByIndex<Path<ValueOf<V, Z>, Many, O>> {
        self.go(Path::values)
    }
}

impl<P: Select> Select for ByIndex<P> {
    type Out = P::Out;
    const READS: usize = P::READS;

    fn push_reads(self, reads: &mut impl FnMut(ReadPlan)) -> Result<()> {
        let items = self.items;
        self.path.push_reads(&mut |plan| {
            let behind = BehindOp { items: items.clone(), op: plan.op };
            reads(ReadPlan { op: ReadOp::Behind(Box::new(behind)), ..plan });
        })
    }

    fn decode(table: &FieldTable, plans: &[ReadPlan], answers: &[Answer<'_>]) -> Result<P::Out> {
        P::decode(table, plans, answers)
    }
}

impl<S, M, O: Open> Outside for ByIndex<Path<S, M, O>> {}

impl<P: fmt::Debug> fmt::Debug for ByIndex<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ByIndex").field("path", &self.path).field("items", &self.items).finish()
    }
}

/// A read behind items of lists that have to be found first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BehindOp {
    /// They, the outermost first; one at least.
    pub items: Vec<ItemAt>,
    /// The read, with zeros where the ids of the items belong. It leads behind no other items.
    pub op: ReadOp,
}

impl BehindOp {
    /// Finds the items: the read as it is to be done, if there are so many. Of rows that are of one moment, as the
    /// read then is to be.
    ///
    /// # Errors
    /// As reading a list.
    pub(crate) async fn resolve<R: list::Rows>(
        &self,
        rows: &R,
    ) -> std::result::Result<Option<ReadOp>, list::Error<R::Error>> {
        let key = match &self.op {
            ReadOp::Get { key } | ReadOp::Has { key } => key,
            ReadOp::Range(range) => &range.from,
            ReadOp::Items(items) => &items.list,
            ReadOp::Behind(_) => unreachable!("all items are in one list"),
        };
        let end = self.items.last().map_or(0, |item| item.id_at + list::ID_BYTES);
        let (mut found, zeros) = (KeyBuf::from(&key[..end]), &key[..end]);
        for item in &self.items {
            let list = KeyBuf::from(&found[..item.id_at - 1]);
            let Some(id) = list::List::new(rows, &list).id(item.index).await? else {
                return Ok(None);
            };
            found.as_mut_slice()[item.id_at..item.id_at + list::ID_BYTES]
                .copy_from_slice(&id.to_be_bytes());
        }
        let with_ids = |key: &KeyBuf| {
            let behind = key.strip_prefix(zeros)?;
            let mut key = found.clone();
            key.push_slice(behind);
            Some(key)
        };
        let whole = |key: &KeyBuf| with_ids(key).expect("it begins with what is in front of it");
        Ok(Some(match &self.op {
            ReadOp::Get { key } => ReadOp::Get { key: whole(key) },
            ReadOp::Has { key } => ReadOp::Has { key: whole(key) },
            ReadOp::Items(items) => {
                let mut items = items.clone();
                items.list = whole(&items.list);
                ReadOp::Items(items)
            }
            ReadOp::Range(range) => {
                let from = whole(&range.from);
                // A range ends at a key, or where the collection does.
                let end = || KeyBuf::from(&from[..range.prefix_bytes]).prefix_end();
                let to = range.to.as_ref().and_then(with_ids).or_else(end);
                ReadOp::Range(Box::new(RangeOp { from, to, ..(**range).clone() }))
            }
            ReadOp::Behind(_) => unreachable!("refused above"),
        }))
    }
}
