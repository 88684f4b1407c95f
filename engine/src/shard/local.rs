//! What an event sees of its partition: the store through the view of its attempt.

use std::rc::Rc;

use super::Shard;
use super::event::push_append;
use super::microbatch::{Running, Topology, Work};
use crate::codec::{FieldTable, Placement};
use crate::env::LocalFuture;
use crate::module::{DepotIndex, PStateIndex};
use crate::pstate::WriteSet;
use crate::schema::{Described, Layout};
use crate::topology::{Access, Local, Scan, StateError, Stored, Visit};
use crate::types::{PStateId, PartitionId, WallTime};

/// One event's access to its partition.
pub(super) struct EventLocal<'e> {
    shard: &'e Rc<Shard>,
    topology: &'e Rc<Topology>,
    running: &'e Rc<Running>,
    work: &'e Rc<Work>,
    stored: Stored<'e>,
}

impl<'e> EventLocal<'e> {
    pub(super) fn new(
        shard: &'e Rc<Shard>,
        topology: &'e Rc<Topology>,
        running: &'e Rc<Running>,
        work: &'e Rc<Work>,
    ) -> Self {
        let partition = &work.partition;
        let attempt = (topology.id, running.attempt.id);
        let stored = Stored::new(&partition.store, partition.id, attempt, &work.writes);
        Self { shard, topology, running, work, stored }
    }

    fn pstate(&self, index: PStateIndex) -> PStateId {
        self.running.numbers.pstates[index.0 as usize]
    }

    /// One event can write far more than it was given, so it must not be looked at only when it ends.
    fn bound(&self, op: &'static str, written: u64, emitted: u64) -> Result<(), StateError> {
        if self.shard.has_room(self.topology, self.running, self.work, written, emitted) {
            return Ok(());
        }
        Err(self.stored.unavailable(op, "the microbatch has failed, or needs too much memory"))
    }

    fn write(&self, op: &'static str, write: impl FnOnce(&mut WriteSet)) -> Result<(), StateError> {
        let written = self.stored.write(op, write)?;
        self.bound(op, written, 0)
    }
}

impl Local for EventLocal<'_> {
    fn partition(&self) -> PartitionId {
        self.work.partition.id
    }

    fn partitions(&self) -> u32 {
        self.shard.setup.partitions
    }

    fn now(&self) -> WallTime {
        self.running.began
    }

    fn seed(&self) -> u64 {
        let mut bytes = [0; 28];
        bytes[..16].copy_from_slice(&self.shard.setup.data_id.to_le_bytes());
        bytes[16..20].copy_from_slice(&self.topology.id.0.to_le_bytes());
        bytes[20..].copy_from_slice(&self.running.attempt.id.0.to_le_bytes());
        Placement::of(&bytes).hash()
    }

    fn is_recompute(&self) -> bool {
        self.topology.is_shadow()
    }

    fn fields(&self) -> &FieldTable {
        &self.topology.module.fields
    }

    fn described(&self, pstate: PStateIndex) -> Described<'_> {
        self.topology.module.described(pstate)
    }

    fn get<'a>(
        &'a self,
        pstate: PStateIndex,
        key: &[u8],
        visit: &mut dyn FnMut(Option<&[u8]>),
    ) -> Result<Access<'a>, StateError> {
        self.stored.get(self.pstate(pstate), key, visit, || {
            self.shard.counters.borrow_mut().undeclared_misses += 1;
            self.work.partition.missed();
        })
    }

    fn get_below<'a>(
        &'a self,
        pstate: PStateIndex,
        key: &[u8],
        visit: &mut dyn FnMut(Option<&[u8]>),
    ) -> Result<Access<'a>, StateError> {
        self.stored.get_below(self.pstate(pstate), key, visit, || ())
    }

    fn sizes(&self, pstate: PStateIndex) -> Option<&Layout> {
        self.topology.module.sizes[pstate.0 as usize].as_ref()
    }

    fn scan<'a>(
        &'a self,
        pstate: PStateIndex,
        range: Scan<'a>,
        visit: &'a mut Visit<'a>,
    ) -> LocalFuture<'a, Result<(), StateError>> {
        self.stored.scan(self.pstate(pstate), range, visit)
    }

    fn put(&self, pstate: PStateIndex, key: &[u8], value: &[u8]) -> Result<(), StateError> {
        let id = self.pstate(pstate);
        self.write("write", |writes| writes.put(id, key, value))
    }

    fn delete(&self, pstate: PStateIndex, key: &[u8]) -> Result<(), StateError> {
        let id = self.pstate(pstate);
        self.write("delete", |writes| writes.delete(id, key))
    }

    fn delete_range(
        &self,
        pstate: PStateIndex,
        from: &[u8],
        to: Option<&[u8]>,
    ) -> Result<(), StateError> {
        let id = self.pstate(pstate);
        self.write("delete a range", |writes| writes.delete_range(id, from, to))
    }

    fn prefetch<'a>(
        &'a self,
        pstate: PStateIndex,
        keys: &'a [&'a [u8]],
    ) -> LocalFuture<'a, Result<(), StateError>> {
        Box::pin(async move {
            let partition = &self.work.partition;
            let id = self.pstate(pstate);
            if !partition.is_cold() {
                partition.store.expect(id, keys);
                return Ok(());
            }
            let fetched = partition.store.prefetch(id, keys.iter().copied()).await;
            let missed = fetched.map_err(|error| self.stored.unavailable("prefetch", error))?;
            partition.prefetched(missed);
            Ok(())
        })
    }

    fn pause(&self) -> Option<LocalFuture<'_, ()>> {
        self.shard.env.should_yield().then(|| self.shard.env.yield_now() as LocalFuture<'_, ()>)
    }

    fn append(&self, depot: DepotIndex, record: &[u8]) -> Result<(), StateError> {
        if self.topology.is_shadow() {
            // The topology itself has appended it, or will.
            return Ok(());
        }
        let id = self.topology.module.depots[depot.0 as usize];
        push_append(self.work, id, record.to_vec());
        let written = self.work.writes.try_borrow().map_or(0, |writes| writes.bytes());
        self.bound("append", written, 0)
    }

    fn emitted(&self, bytes: usize) -> Result<(), StateError> {
        let written = self.work.writes.try_borrow().map_or(0, |writes| writes.bytes());
        self.bound("send rows", written, bytes as u64)
    }
}
