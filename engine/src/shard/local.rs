//! What an event sees of its partition: the store through the view of its attempt.

use std::cell::RefCell;
use std::ops::{Bound, ControlFlow};
use std::rc::Rc;

use super::Shard;
use super::event::push_append;
use super::microbatch::{Running, Topology, Work};
use crate::codec::{FieldTable, Placement};
use crate::env::LocalFuture;
use crate::module::{DepotIndex, PStateIndex};
use crate::pstate::{Direction, Found, KeyRange, Loaded, View, WriteSet};
use crate::topology::{Access, Local, Scan, StateError};
use crate::types::{MicrobatchId, PStateId, PartitionId, WallTime};

/// One event's access to its partition.
pub(super) struct EventLocal<'e> {
    shard: &'e Rc<Shard>,
    topology: &'e Rc<Topology>,
    running: &'e Rc<Running>,
    work: &'e Rc<Work>,
    /// Pages that the last miss brought; they stay until the read was repeated.
    loaded: RefCell<Vec<Loaded>>,
}

impl<'e> EventLocal<'e> {
    pub(super) fn new(
        shard: &'e Rc<Shard>,
        topology: &'e Rc<Topology>,
        running: &'e Rc<Running>,
        work: &'e Rc<Work>,
    ) -> Self {
        Self { shard, topology, running, work, loaded: RefCell::default() }
    }

    fn pstate(&self, index: PStateIndex) -> PStateId {
        self.topology.module.pstates[index.0 as usize]
    }

    /// One event can write far more than it was given, so it must not be looked at only when it ends.
    fn bound(&self, op: &'static str, written: u64, emitted: u64) -> Result<(), StateError> {
        if self.shard.has_room(self.topology, self.running, self.work, written, emitted) {
            return Ok(());
        }
        Err(self.unavailable(op, "the microbatch has failed, or needs too much memory"))
    }

    /// The attempt's own writes, over what lower ids of its topology left, over what is visible.
    fn view<'w>(&self, writes: &'w WriteSet) -> View<'w> {
        let below = MicrobatchId(self.running.attempt.id.0 - 1);
        View::through(self.topology.id, below, Some(writes))
    }

    fn unavailable(
        &self,
        op: &'static str,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> StateError {
        StateError::Unavailable { op, partition: self.work.partition.id, source: source.into() }
    }

    fn write(&self, op: &'static str, write: impl FnOnce(&mut WriteSet)) -> Result<(), StateError> {
        let written = match self.work.writes.try_borrow_mut() {
            Ok(mut writes) => {
                write(&mut writes);
                writes.bytes()
            }
            // A scan of the same event is being visited; what it sees next would be undefined.
            Err(_) => {
                return Err(self.unavailable(op, "the event is scanning; write after the scan"));
            }
        };
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

    fn fields(&self) -> &FieldTable {
        &self.topology.module.fields
    }

    fn get<'a>(
        &'a self,
        pstate: PStateIndex,
        key: &[u8],
        visit: &mut dyn FnMut(Option<&[u8]>),
    ) -> Result<Access<'a>, StateError> {
        let id = self.pstate(pstate);
        let writes = self.work.writes.borrow();
        let found = self.work.partition.store.get(&self.view(&writes), id, key, visit);
        match found.map_err(|error| self.unavailable("read", error))? {
            Found::Ready(()) => {
                self.loaded.borrow_mut().clear();
                Ok(Access::Ready)
            }
            Found::Miss(miss) => {
                self.shard.counters.borrow_mut().undeclared_misses += 1;
                self.work.partition.missed();
                Ok(Access::Miss(Box::pin(async move {
                    let loaded = self.work.partition.store.load(miss).await;
                    let loaded = loaded.map_err(|error| self.unavailable("read", error))?;
                    self.loaded.borrow_mut().push(loaded);
                    Ok(())
                })))
            }
        }
    }

    #[allow(
        clippy::await_holding_refcell_ref,
        reason = "only this event writes here, and `write` refuses while a scan runs"
    )]
    fn scan<'a>(
        &'a self,
        pstate: PStateIndex,
        range: Scan<'a>,
        visit: &'a mut dyn FnMut(&[u8], &[u8]) -> ControlFlow<()>,
    ) -> LocalFuture<'a, Result<(), StateError>> {
        Box::pin(async move {
            let writes = self.work.writes.borrow();
            let keys = KeyRange {
                from: Bound::Included(range.from),
                to: range.to.map_or(Bound::Unbounded, Bound::Excluded),
            };
            let direction = if range.reverse { Direction::Backward } else { Direction::Forward };
            let id = self.pstate(pstate);
            let store = &self.work.partition.store;
            let view = self.view(&writes);
            let scanned = store.scan(&view, id, keys, direction, range.limit, visit).await;
            scanned.map(|_| ()).map_err(|error| self.unavailable("scan", error))
        })
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
            let missed = fetched.map_err(|error| self.unavailable("prefetch", error))?;
            partition.prefetched(missed);
            Ok(())
        })
    }

    fn pause(&self) -> Option<LocalFuture<'_, ()>> {
        self.shard.env.should_yield().then(|| self.shard.env.yield_now() as LocalFuture<'_, ()>)
    }

    fn append(&self, depot: DepotIndex, record: &[u8]) -> Result<(), StateError> {
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
