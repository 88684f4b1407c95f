//! A partition that is one store and nothing else, as events see it.

use std::cell::RefCell;

use crate::codec::FieldTable;
use crate::env::LocalFuture;
use crate::module::{DepotIndex, PStateIndex};
use crate::pstate::{Store, WriteSet};
use crate::schema::{Described, Layout};
use crate::topology::{Access, Local, Scan, StateError, Stored, Visit};
use crate::types::{MicrobatchId, PStateId, PartitionId, TopologyId, WallTime};

/// The partition there is.
pub(super) const PARTITION: PartitionId = PartitionId(0);

/// The topology whose writes these are.
pub(super) const TOPOLOGY: TopologyId = TopologyId(1);

/// One microbatch over a store.
pub(super) struct StoreLocal<'s> {
    fields: &'s FieldTable,
    pstate: Described<'s>,
    id: MicrobatchId,
    stored: Stored<'s>,
}

impl<'s> StoreLocal<'s> {
    /// Writes go to `writes`. All lower ids must be visible.
    pub(super) fn new(
        store: &'s Store,
        (pstate, fields): (Described<'s>, &'s FieldTable),
        id: MicrobatchId,
        writes: &'s RefCell<WriteSet>,
    ) -> Self {
        Self { fields, pstate, id, stored: Stored::new(store, PARTITION, (TOPOLOGY, id), writes) }
    }

    fn write(&self, op: &'static str, write: impl FnOnce(&mut WriteSet)) -> Result<(), StateError> {
        self.stored.write(op, write).map(|_| ())
    }
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

    fn described(&self, _: PStateIndex) -> Described<'_> {
        self.pstate
    }

    fn get<'a>(
        &'a self,
        pstate: PStateIndex,
        key: &[u8],
        visit: &mut dyn FnMut(Option<&[u8]>),
    ) -> Result<Access<'a>, StateError> {
        self.stored.get(PStateId(pstate.0), key, visit, || ())
    }

    fn get_below<'a>(
        &'a self,
        pstate: PStateIndex,
        key: &[u8],
        visit: &mut dyn FnMut(Option<&[u8]>),
    ) -> Result<Access<'a>, StateError> {
        self.stored.get_below(PStateId(pstate.0), key, visit, || ())
    }

    fn sizes(&self, _: PStateIndex) -> Option<&Layout> {
        self.pstate.layout.keeps_sizes().then_some(self.pstate.layout)
    }

    fn scan<'a>(
        &'a self,
        pstate: PStateIndex,
        range: Scan<'a>,
        visit: &'a mut Visit<'a>,
    ) -> LocalFuture<'a, Result<(), StateError>> {
        self.stored.scan(PStateId(pstate.0), range, visit)
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
            let fetched =
                self.stored.store.prefetch(PStateId(pstate.0), keys.iter().copied()).await;
            fetched.map(|_| ()).map_err(|error| self.stored.unavailable("prefetch", error))
        })
    }

    fn append(&self, _depot: DepotIndex, _record: &[u8]) -> Result<(), StateError> {
        Err(self
            .stored
            .unavailable("append", "there are no depots beside a `TestPState`; use a `Harness`"))
    }
}
