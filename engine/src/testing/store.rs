//! A partition that is one store and nothing else, as events see it.

use std::cell::RefCell;
use std::ops::Bound;

use crate::codec::FieldTable;
use crate::env::LocalFuture;
use crate::module::{DepotIndex, PStateIndex};
use crate::pstate::{Direction, Found, KeyRange, Loaded, Run, Store, View, WriteSet};
use crate::topology::{Access, Local, Scan, StateError, Visit};
use crate::types::{MicrobatchId, PStateId, PartitionId, TopologyId, WallTime};

/// The partition there is.
pub(super) const PARTITION: PartitionId = PartitionId(0);

/// The topology whose writes these are.
pub(super) const TOPOLOGY: TopologyId = TopologyId(1);

/// One microbatch over a store.
pub(super) struct StoreLocal<'s> {
    store: &'s Store,
    fields: &'s FieldTable,
    id: MicrobatchId,
    writes: RefCell<WriteSet>,
    /// Pages that the last miss brought; they stay until the read was repeated.
    loaded: RefCell<Vec<Loaded>>,
}

impl<'s> StoreLocal<'s> {
    /// All lower ids must be visible.
    pub(super) fn new(store: &'s Store, fields: &'s FieldTable, id: MicrobatchId) -> Self {
        Self { store, fields, id, writes: RefCell::default(), loaded: RefCell::default() }
    }

    /// What was written.
    pub(super) fn seal(self) -> Run {
        self.writes.into_inner().seal()
    }

    fn view<'w>(&self, writes: &'w WriteSet) -> View<'w> {
        View::through(TOPOLOGY, MicrobatchId(self.id.0 - 1), Some(writes))
    }

    fn write(&self, op: &'static str, write: impl FnOnce(&mut WriteSet)) -> Result<(), StateError> {
        let writes = self.writes.try_borrow_mut();
        let mut writes =
            writes.map_err(|_| unavailable(op, "a scan is running; write after it"))?;
        write(&mut writes);
        Ok(())
    }
}

fn unavailable(
    op: &'static str,
    source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
) -> StateError {
    StateError::Unavailable { op, partition: PARTITION, source: source.into() }
}

impl Local for StoreLocal<'_> {
    fn partition(&self) -> PartitionId {
        PARTITION
    }

    fn partitions(&self) -> u32 {
        1
    }

    fn now(&self) -> WallTime {
        WallTime(1_700_000_000_000_000 + self.id.0)
    }

    fn seed(&self) -> u64 {
        self.id.0
    }

    fn fields(&self) -> &FieldTable {
        self.fields
    }

    fn get<'a>(
        &'a self,
        pstate: PStateIndex,
        key: &[u8],
        visit: &mut dyn FnMut(Option<&[u8]>),
    ) -> Result<Access<'a>, StateError> {
        let writes = self.writes.borrow();
        let found = self.store.get(&self.view(&writes), PStateId(pstate.0), key, visit);
        match found.map_err(|error| unavailable("read", error))? {
            Found::Ready(()) => {
                self.loaded.borrow_mut().clear();
                Ok(Access::Ready)
            }
            Found::Miss(miss) => Ok(Access::Miss(Box::pin(async move {
                let loaded = self.store.load(miss).await;
                let loaded = loaded.map_err(|error| unavailable("read", error))?;
                self.loaded.borrow_mut().push(loaded);
                Ok(())
            }))),
        }
    }

    #[allow(
        clippy::await_holding_refcell_ref,
        reason = "`write` refuses while a scan runs, and nobody else borrows mutably"
    )]
    fn scan<'a>(
        &'a self,
        pstate: PStateIndex,
        range: Scan<'a>,
        visit: &'a mut Visit<'a>,
    ) -> LocalFuture<'a, Result<(), StateError>> {
        Box::pin(async move {
            let writes = self.writes.borrow();
            let keys = KeyRange {
                from: Bound::Included(range.from),
                to: range.to.map_or(Bound::Unbounded, Bound::Excluded),
            };
            let direction = if range.reverse { Direction::Backward } else { Direction::Forward };
            let view = self.view(&writes);
            let id = PStateId(pstate.0);
            let scanned = self.store.scan(&view, id, keys, direction, range.limit, visit).await;
            scanned.map(|_| ()).map_err(|error| unavailable("scan", error))
        })
    }

    fn put(&self, pstate: PStateIndex, key: &[u8], value: &[u8]) -> Result<(), StateError> {
        self.write("write", |writes| writes.put(PStateId(pstate.0), key, value))
    }

    fn delete(&self, pstate: PStateIndex, key: &[u8]) -> Result<(), StateError> {
        self.write("delete", |writes| writes.delete(PStateId(pstate.0), key))
    }

    fn delete_range(
        &self,
        pstate: PStateIndex,
        from: &[u8],
        to: Option<&[u8]>,
    ) -> Result<(), StateError> {
        self.write("delete a range", |writes| writes.delete_range(PStateId(pstate.0), from, to))
    }

    fn prefetch<'a>(
        &'a self,
        pstate: PStateIndex,
        keys: &'a [&'a [u8]],
    ) -> LocalFuture<'a, Result<(), StateError>> {
        Box::pin(async move {
            let fetched = self.store.prefetch(PStateId(pstate.0), keys.iter().copied()).await;
            fetched.map(|_| ()).map_err(|error| unavailable("prefetch", error))
        })
    }

    fn append(&self, _depot: DepotIndex, _record: &[u8]) -> Result<(), StateError> {
        Err(unavailable("append", "there are no depots beside a `TestPState`; use a `Harness`"))
    }
}
