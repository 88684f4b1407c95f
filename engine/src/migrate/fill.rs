//! [`Fill`]: where the function of a migration puts what it makes of a value.
//!
//! It writes as events do, through the same code, to a partition that consists of the rows of one unit and lies
//! in memory: whatever a structure needs beside what is put into it (what a list or a size counts), it gets.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::marker::PhantomData;
use std::ops::{Bound, ControlFlow};

use futures_util::FutureExt;

use super::Known;
use crate::codec::{self, FieldTable};
use crate::env::LocalFuture;
use crate::module::{DepotIndex, PStateIndex};
use crate::schema::path::{ElementOf, KeyIn};
use crate::schema::{
    Data, Described, Direct, Field, Layout, List, Maybe, Nested, One, Path, Position, Presence,
    Record, Rows, Stored, Sub,
};
use crate::topology::{Access, At, Context, Local, NodeIndex, Scan, StateError, Visit};
use crate::types::{PStateId, PartitionId, WallTime};

/// The owner of paths into what a migration fills.
#[derive(Clone, Copy, Debug)]
pub enum Filling {}

/// What a migration makes of one value: a structure of type `P`, empty at first.
pub struct Fill<'f, P> {
    at: At<'f, Filling>,
    unit: &'f [u8],
    types: PhantomData<fn() -> P>,
}

impl<P> fmt::Debug for Fill<'_, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fill").finish_non_exhaustive()
    }
}

impl<P: Position> Fill<'_, P> {
    /// All of it: the start of paths, and the list to [`Fill::push`] to.
    #[must_use]
    pub fn here(&self) -> Path<P, Maybe, Filling> {
        Path::at(PStateId(UNIT.0), self.unit)
    }

    /// What is under one key of a map.
    pub fn key<Q: KeyIn<P>>(&self, key: Q) -> Path<Q::Value, Maybe, Filling> {
        self.here().key(key)
    }

    /// Whether an element is in a set: `new.put(new.has(e), true)` adds it.
    pub fn has<Q: ElementOf<P>>(&self, element: Q) -> Path<Presence, One, Filling> {
        self.here().has(element)
    }

    /// One field of a record.
    pub fn field<F>(&self, field: impl FnOnce(P::Fields) -> Field<P, F>) -> Path<F, Maybe, Filling>
    where
        P: Record,
    {
        self.here().field(field)
    }

    /// Writes one value, as [`At::put`] does.
    ///
    /// # Errors
    /// [`StateError::Refused`] if key or value are too long.
    pub fn put<S: Stored, M: Direct>(
        &self,
        path: Path<S, M, Filling>,
        value: S::Value,
    ) -> Result<(), StateError> {
        self.at.put(path, value)
    }

    /// Adds an element at the end of a list.
    ///
    /// # Errors
    /// As [`Fill::put`].
    pub fn push<T: Data, M: Direct>(
        &self,
        path: Path<Sub<List<T>>, M, Filling>,
        value: T,
    ) -> Result<(), StateError> {
        now(self.at.push(path, value))
    }

    /// Adds an item at the end of a list of collections; the path by which it is filled.
    ///
    /// # Errors
    /// As [`Fill::put`].
    pub fn push_new<T: Nested + Position, M: Direct>(
        &self,
        path: Path<Sub<List<T>>, M, Filling>,
    ) -> Result<Path<T, Maybe, Filling>, StateError> {
        now(self.at.push_new(path))
    }
}

/// What lies in memory is never waited for.
fn now<X>(work: impl Future<Output = X>) -> X {
    work.now_or_never().expect("nothing has to be read first")
}

/// The rows of the unit at key `unit`, once `fill` has filled it.
pub(super) fn filled<P: Position>(
    known: Known<'_>,
    unit: &[u8],
    fill: impl FnOnce(&Fill<'_, P>) -> Result<(), StateError>,
) -> codec::Result<Rows> {
    let local = Unit { known, rows: RefCell::default() };
    let context = Context::new(&local, NodeIndex(0));
    let done = fill(&Fill { at: At::new(&context), unit, types: PhantomData });
    done.and_then(|()| now(context.settle())).map_err(codec_error)?;
    let (mut rows, filled) = (Rows::new(), local.rows.into_inner());
    // The collections around it count it already, and their heads are none of its rows.
    for (key, value) in filled.iter().filter(|(key, _)| key.starts_with(unit)) {
        rows.push(key, value);
    }
    Ok(rows)
}

/// Nothing here is on a disk or a shard, so what goes wrong are keys, values and paths.
fn codec_error(error: StateError) -> codec::Error {
    match error {
        StateError::Refused { source, .. } | StateError::Undecodable { source, .. } => source,
        StateError::Unavailable { .. }
        | StateError::Misplaced { .. }
        | StateError::Beyond { .. } => {
            codec::Error::Unmigrated { id: String::new(), problem: error.to_string() }
        }
    }
}

/// The rows of one unit.
struct Unit<'f> {
    known: Known<'f>,
    rows: RefCell<BTreeMap<Vec<u8>, Vec<u8>>>,
}

/// The `PState` that it is in.
const UNIT: PStateIndex = PStateIndex(0);

impl Local for Unit<'_> {
    fn partition(&self) -> PartitionId {
        PartitionId(0)
    }

    fn partitions(&self) -> u32 {
        1
    }

    fn now(&self) -> WallTime {
        WallTime(0)
    }

    fn seed(&self) -> u64 {
        0
    }

    fn fields(&self) -> &FieldTable {
        self.known.fields
    }

    fn get<'a>(
        &'a self,
        _pstate: PStateIndex,
        key: &[u8],
        visit: &mut dyn FnMut(Option<&[u8]>),
    ) -> Result<Access<'a>, StateError> {
        visit(self.rows.borrow().get(key).map(Vec::as_slice));
        Ok(Access::Ready)
    }

    fn get_below<'a>(
        &'a self,
        _pstate: PStateIndex,
        _key: &[u8],
        visit: &mut dyn FnMut(Option<&[u8]>),
    ) -> Result<Access<'a>, StateError> {
        // It is empty at first.
        visit(None);
        Ok(Access::Ready)
    }

    fn described(&self, _pstate: PStateIndex) -> Described<'_> {
        unreachable!("`Fill` gives out no way to query")
    }

    fn sizes(&self, _pstate: PStateIndex) -> Option<&Layout> {
        self.known.sizes
    }

    fn scan<'a>(
        &'a self,
        _pstate: PStateIndex,
        range: Scan<'a>,
        visit: &'a mut Visit<'a>,
    ) -> LocalFuture<'a, Result<(), StateError>> {
        Box::pin(async move {
            if range.to.is_some_and(|to| to <= range.from) {
                return Ok(());
            }
            let rows = self.rows.borrow();
            let to = range.to.map_or(Bound::Unbounded, Bound::Excluded);
            let mut rows = rows.range::<[u8], _>((Bound::Included(range.from), to));
            let next = || if range.reverse { rows.next_back() } else { rows.next() };
            for (key, value) in std::iter::from_fn(next).take(range.limit) {
                if let ControlFlow::Break(()) = visit(key, value) {
                    break;
                }
            }
            Ok(())
        })
    }

    fn put(&self, _pstate: PStateIndex, key: &[u8], value: &[u8]) -> Result<(), StateError> {
        self.rows.borrow_mut().insert(key.to_vec(), value.to_vec());
        Ok(())
    }

    fn delete(&self, _pstate: PStateIndex, key: &[u8]) -> Result<(), StateError> {
        self.rows.borrow_mut().remove(key);
        Ok(())
    }

    fn delete_range(
        &self,
        _pstate: PStateIndex,
        from: &[u8],
        to: Option<&[u8]>,
    ) -> Result<(), StateError> {
        let dead = |key: &[u8]| from <= key && to.is_none_or(|to| key < to);
        self.rows.borrow_mut().retain(|key, _| !dead(key));
        Ok(())
    }

    fn prefetch<'a>(
        &'a self,
        _pstate: PStateIndex,
        _keys: &'a [&'a [u8]],
    ) -> LocalFuture<'a, Result<(), StateError>> {
        Box::pin(async { Ok(()) })
    }

    fn append(&self, _depot: DepotIndex, _record: &[u8]) -> Result<(), StateError> {
        unreachable!("`Fill` gives out no way to append")
    }
}
