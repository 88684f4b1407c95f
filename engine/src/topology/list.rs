//! Lists that are stored element by element, as events read and edit them.

use std::ops::Range;

use super::read::{fetch, index as index_of, scan};
use super::{At, Context, StateError};
use crate::codec::{Error as CodecError, KeyBuf, decode, encode};
use crate::schema::list::{self, Edits, Row, Rows};
use crate::schema::nth::BehindOp;
use crate::schema::path::{Listed, Sequence};
use crate::schema::plan::{ItemsOp, RangeOp};
use crate::schema::{Data, Direct, Maybe, Nests, OwnedBy, Path, ReadOp, Rows as FoundRows};
use crate::types::PStateId;

/// Lists. Indexes begin at 0. An edit costs as much as the list has levels, of which 64 to the power of their
/// number is the length: see `schema/list.rs`.
///
/// All of a list is deleted by [`At::delete`], and selected by `path.all()`, from its front or, with `reverse()`,
/// from its end; `path.size()` says how long it is.
impl<O> At<'_, O> {
    /// Adds an element at the end of a list: one read, and two small rows written.
    ///
    /// # Errors
    /// [`StateError::Misplaced`] if the first key lives elsewhere; [`StateError::Refused`] if key or value are
    /// too long; [`StateError::Unavailable`], [`StateError::Undecodable`].
    pub async fn push<L: Listed, M: Direct, O2: OwnedBy<O>>(
        self,
        path: Path<L, M, O2>,
        value: L::Item,
    ) -> Result<(), StateError> {
        const OP: &str = "push to";
        let place = Place::of(self.context(), OP, path)?;
        let value = place.encoded(&value)?;
        place.done(0, place.list().push(&value).await)
    }

    /// Adds an element in front of the one at `index`, or at the end if there are just so many.
    ///
    /// # Errors
    /// As [`At::push`]; [`StateError::Beyond`].
    pub async fn insert<L: Listed, M: Direct, O2: OwnedBy<O>>(
        self,
        path: Path<L, M, O2>,
        index: u64,
        value: L::Item,
    ) -> Result<(), StateError> {
        let place = Place::of(self.context(), "insert into", path)?;
        let value = place.encoded(&value)?;
        place.done(index, place.list().insert(index, &value).await)
    }

    /// Replaces the element at `index`.
    ///
    /// # Errors
    /// As [`At::push`]; [`StateError::Beyond`].
    pub async fn replace<L: Listed, M: Direct, O2: OwnedBy<O>>(
        self,
        path: Path<L, M, O2>,
        index: u64,
        value: L::Item,
    ) -> Result<(), StateError> {
        let place = Place::of(self.context(), "replace in", path)?;
        let value = place.encoded(&value)?;
        place.done(index, place.list().set(index, &value).await)
    }

    /// Removes the element at `index`, with all that hangs under it if it is a collection: those behind it move up
    /// by one.
    ///
    /// # Errors
    /// As [`At::push`]; [`StateError::Beyond`].
    pub async fn remove<L: Sequence, M: Direct, O2: OwnedBy<O>>(
        self,
        path: Path<L, M, O2>,
        index: u64,
    ) -> Result<(), StateError> {
        let place = Place::of(self.context(), "remove from", path)?;
        let list = place.list();
        place.done(
            index,
            if L::NESTS { list.remove_with_all(index).await } else { list.remove(index).await },
        )
    }

    /// Adds an item at the end of a list of collections: one read, and two small rows written. Nothing hangs under
    /// it yet: it is written to by the path that is returned, which is right as long as the event runs and the item
    /// is not removed.
    ///
    /// # Errors
    /// As [`At::push`].
    pub async fn push_new<L: Nests + Sequence, M: Direct, O2: OwnedBy<O>>(
        self,
        path: Path<L, M, O2>,
    ) -> Result<Path<L::Inner, Maybe, O2>, StateError> {
        let place = Place::of(self.context(), "push to", path.clone())?;
        let id = place.done(0, place.list().push_new().await)?;
        Ok(path.under(id))
    }

    /// Adds an item in front of the one at `index`, or at the end if there are just so many, of a list of
    /// collections; otherwise as [`At::push_new`].
    ///
    /// # Errors
    /// As [`At::push`]; [`StateError::Beyond`].
    pub async fn insert_new<L: Nests + Sequence, M: Direct, O2: OwnedBy<O>>(
        self,
        path: Path<L, M, O2>,
        index: u64,
    ) -> Result<Path<L::Inner, Maybe, O2>, StateError> {
        let place = Place::of(self.context(), "insert into", path.clone())?;
        let id = place.done(index, place.list().insert_new(index).await)?;
        Ok(path.under(id))
    }

    /// The path of the item at `index` of a list of collections, if the list is so long. It leads there as long as
    /// the event runs, whatever is inserted or removed before the item; once the item itself is removed, it must
    /// not be written to.
    ///
    /// # Errors
    /// As [`At::item`].
    pub async fn nth<L: Nests + Sequence, M: Direct, O2>(
        self,
        path: Path<L, M, O2>,
        index: u64,
    ) -> Result<Option<Path<L::Inner, Maybe, O2>>, StateError> {
        let place = Place::of(self.context(), "read", path.clone())?;
        let id = place.done(index, place.list().id(index).await)?;
        Ok(id.map(|id| path.under(id)))
    }

    /// The element at `index`, if the list is so long.
    ///
    /// # Errors
    /// [`StateError::Misplaced`], [`StateError::Unavailable`], [`StateError::Undecodable`].
    pub async fn item<L: Listed, M: Direct, O2>(
        self,
        path: Path<L, M, O2>,
        index: u64,
    ) -> Result<Option<L::Item>, StateError> {
        let found = self.items(path, index..index.saturating_add(1)).await?;
        Ok(found.into_iter().next())
    }

    /// The elements whose indexes lie in a range; fewer where the list is shorter.
    ///
    /// # Errors
    /// As [`At::item`].
    pub async fn items<L: Listed, M: Direct, O2>(
        self,
        path: Path<L, M, O2>,
        indexes: Range<u64>,
    ) -> Result<Vec<L::Item>, StateError> {
        let place = Place::of(self.context(), "read", path)?;
        let count = indexes.end.saturating_sub(indexes.start);
        let found = place.list().slice(indexes.start, count).await;
        let values = place.done(indexes.start, found)?;
        let decoded = values.iter().map(|value| decode(place.context.local().fields(), value));
        decoded.collect::<Result<_, _>>().map_err(|error| place.undecodable(error))
    }
}

/// Adds elements at the end of the list with this head, in their order.
pub(super) async fn append(
    context: &Context<'_>,
    pstate: PStateId,
    head_key: &[u8],
    items: &[Vec<u8>],
) -> Result<(), StateError> {
    let list = head_key.split_last().map_or(head_key, |(_, list)| list);
    let place = Place { context, op: "append to", pstate, key: KeyBuf::from(list) };
    place.done(0, place.list().extend(items).await)
}

/// Items of a list of this partition.
pub(super) async fn items(
    context: &Context<'_>,
    pstate: PStateId,
    items: &ItemsOp,
) -> Result<FoundRows, StateError> {
    let place = Place { context, op: "read", pstate, key: items.list.clone() };
    let found = place.list().slice(items.from, items.count).await;
    Ok(items.rows(&place.done(items.from, found)?))
}

/// A read of this partition behind items of lists, once they are found.
pub(super) async fn behind(
    context: &Context<'_>,
    pstate: PStateId,
    behind: &BehindOp,
) -> Result<Option<ReadOp>, StateError> {
    let place = Place { context, op: "read", pstate, key: KeyBuf::new() };
    let found = behind.resolve(&place).await;
    place.done(0, found)
}

/// Where a list lies, and what is done there.
struct Place<'c, 'a> {
    context: &'c Context<'a>,
    op: &'static str,
    pstate: PStateId,
    /// What the keys of its rows begin with.
    key: KeyBuf,
}

impl<'c, 'a> Place<'c, 'a> {
    /// A list that may be read and written here.
    fn of<L: Sequence, M: Direct, O>(
        context: &'c Context<'a>,
        op: &'static str,
        path: Path<L, M, O>,
    ) -> Result<Self, StateError> {
        let target = path.list_target(list::KEY_BYTES);
        let target = target.map_err(|error| context.refused(op, error))?;
        context.check_target(op, &target)?;
        Ok(Self { context, op, pstate: target.pstate, key: target.key })
    }

    fn list(&self) -> list::List<'_, Self> {
        list::List::new(self, &self.key)
    }

    fn encoded<T: Data>(&self, value: &T) -> Result<Vec<u8>, StateError> {
        let mut out = Vec::new();
        let encoded = encode(self.context.local().fields(), value, &mut out);
        encoded.map_err(|error| self.context.refused(self.op, error))?;
        Ok(out)
    }

    fn done<X>(
        &self,
        index: u64,
        done: Result<X, list::Error<StateError>>,
    ) -> Result<X, StateError> {
        done.map_err(|error| match error {
            list::Error::Rows(error) => error,
            list::Error::Malformed(problem) => self.undecodable(list::malformed(problem)),
            list::Error::Beyond { count } => StateError::Beyond {
                op: self.op,
                pstate: index_of(self.pstate),
                partition: self.context.local().partition(),
                index,
                count,
            },
        })
    }

    fn undecodable(&self, error: CodecError) -> StateError {
        self.context.undecodable(self.pstate, error)
    }
}

impl Rows for Place<'_, '_> {
    type Error = StateError;

    async fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StateError> {
        let copy = |value: Option<&[u8]>| value.map(<[u8]>::to_vec);
        fetch(self.context, self.pstate, key, copy).await
    }

    async fn scan(&self, range: &RangeOp) -> Result<Vec<Row>, StateError> {
        let rows = scan(self.context, self.pstate, range).await?;
        Ok(rows.iter().map(|(key, value)| (key.to_vec(), value.to_vec())).collect())
    }
}

impl Edits for Place<'_, '_> {
    fn put(&self, key: &[u8], value: &[u8]) -> Result<(), StateError> {
        self.context.put(index_of(self.pstate), key, value, None)
    }

    fn delete(&self, key: &[u8]) -> Result<(), StateError> {
        self.context.delete(index_of(self.pstate), key, None)
    }

    fn delete_range(&self, from: &[u8], to: &[u8]) -> Result<(), StateError> {
        self.context.delete_range(index_of(self.pstate), from, Some(to))
    }
}
