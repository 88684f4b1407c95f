//! A partition in memory, as events see it.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::ops::Bound;
use std::task::Poll;

use bytes::Bytes;

use super::{Harness, State};
use crate::codec::FieldTable;
use crate::env::LocalFuture;
use crate::module::{DepotIndex, PStateIndex};
use crate::schema::{Described, Layout};
use crate::topology::{Access, Local, Scan, StateError, Visit};
use crate::types::{PartitionId, WallTime};

/// A range of keys of a `PState`; none is its end.
type Deleted = (PStateIndex, Vec<u8>, Option<Vec<u8>>);

/// A partition during one attempt.
pub(super) struct Attempt<'h> {
    harness: &'h Harness,
    topology: usize,
    partition: PartitionId,
    pub(super) state: RefCell<State>,
    pub(super) appended: RefCell<Vec<(DepotIndex, Bytes)>>,
    /// What was fetched, if the harness is cold.
    warm: RefCell<BTreeSet<(PStateIndex, Vec<u8>)>>,
    /// What was written or deleted, which needs no waiting.
    written: RefCell<BTreeSet<(PStateIndex, Vec<u8>)>>,
    /// Ranges that were deleted, which need no waiting either.
    deleted: RefCell<Vec<Deleted>>,
    pub(super) misses: Cell<usize>,
    pub(super) prefetched: Cell<usize>,
}

impl<'h> Attempt<'h> {
    pub(super) fn new(harness: &'h Harness, topology: usize, partition: PartitionId) -> Self {
        let state = &harness.partitions[partition.0 as usize].state;
        Self {
            harness,
            topology,
            partition,
            state: RefCell::new(state.clone()),
            appended: RefCell::new(Vec::new()),
            warm: RefCell::new(BTreeSet::new()),
            written: RefCell::new(BTreeSet::new()),
            deleted: RefCell::new(Vec::new()),
            misses: Cell::new(0),
            prefetched: Cell::new(0),
        }
    }

    /// Lets go of what was fetched.
    pub(super) fn forget(&self) {
        self.warm.borrow_mut().clear();
    }

    /// Every access goes through here.
    fn access(&self, op: &'static str) -> Result<(), StateError> {
        let failing = &self.harness.failing;
        let Some(left) = failing.get() else { return Ok(()) };
        failing.set(left.checked_sub(1));
        if left > 0 {
            return Ok(());
        }
        Err(StateError::Unavailable { op, partition: self.partition, source: "a test".into() })
    }

    /// The partition without what this attempt wrote.
    fn before(&self) -> &'h State {
        &self.harness.partitions[self.partition.0 as usize].state
    }

    /// Whether a look-up has to wait.
    fn is_cold(&self, row: &(PStateIndex, Vec<u8>)) -> bool {
        let (pstate, key) = row;
        let is_deleted = |(other, from, to): &Deleted| {
            other == pstate && from <= key && to.as_ref().is_none_or(|to| key < to)
        };
        self.is_cold_below(row)
            && !self.written.borrow().contains(row)
            && !self.deleted.borrow().iter().any(is_deleted)
    }

    /// Whether a look-up below what was written has to wait.
    fn is_cold_below(&self, row: &(PStateIndex, Vec<u8>)) -> bool {
        self.harness.cold && !self.warm.borrow().contains(row)
    }

    fn miss(&self, row: (PStateIndex, Vec<u8>)) -> Access<'_> {
        self.misses.set(self.misses.get() + 1);
        Access::Miss(Box::pin(async move {
            yield_once().await;
            self.warm.borrow_mut().insert(row);
            self.access("fetch")
        }))
    }

    fn check_owner(&self, pstate: PStateIndex) {
        let moves = &self.harness.moves;
        let moved = moves.iter().find(|it| it.old == pstate).map_or(pstate, |it| it.pstate);
        let owner = self.harness.module.pstates[moved.0 as usize].owner;
        assert_eq!(owner, self.topology, "only the owner writes a PState");
    }
}

impl Local for Attempt<'_> {
    fn partition(&self) -> PartitionId {
        self.partition
    }

    fn partitions(&self) -> u32 {
        self.harness.count()
    }

    fn now(&self) -> WallTime {
        WallTime(1_700_000_000_000_000 + self.harness.microbatches)
    }

    fn seed(&self) -> u64 {
        (self.topology as u64) << 32 | self.harness.microbatches
    }

    fn fields(&self) -> &FieldTable {
        &self.harness.fields
    }

    fn described(&self, pstate: PStateIndex) -> Described<'_> {
        self.harness.described(pstate)
    }

    fn get<'a>(
        &'a self,
        pstate: PStateIndex,
        key: &[u8],
        visit: &mut dyn FnMut(Option<&[u8]>),
    ) -> Result<Access<'a>, StateError> {
        self.access("read")?;
        let row = (pstate, key.to_vec());
        if self.is_cold(&row) {
            return Ok(self.miss(row));
        }
        visit(self.state.borrow().get(&row).map(Vec::as_slice));
        Ok(Access::Ready)
    }

    fn get_below<'a>(
        &'a self,
        pstate: PStateIndex,
        key: &[u8],
        visit: &mut dyn FnMut(Option<&[u8]>),
    ) -> Result<Access<'a>, StateError> {
        self.access("read")?;
        let row = (pstate, key.to_vec());
        if self.is_cold_below(&row) {
            return Ok(self.miss(row));
        }
        visit(self.before().get(&row).map(Vec::as_slice));
        Ok(Access::Ready)
    }

    fn sizes(&self, pstate: PStateIndex) -> Option<&Layout> {
        self.harness.sizes[pstate.0 as usize].as_ref()
    }

    fn scan<'a>(
        &'a self,
        pstate: PStateIndex,
        range: Scan<'a>,
        visit: &'a mut Visit<'a>,
    ) -> LocalFuture<'a, Result<(), StateError>> {
        Box::pin(async move {
            if self.harness.cold {
                yield_once().await;
            }
            self.access("scan")?;
            visit_range(&self.state.borrow(), pstate, range, visit);
            Ok(())
        })
    }

    fn put(&self, pstate: PStateIndex, key: &[u8], value: &[u8]) -> Result<(), StateError> {
        self.check_owner(pstate);
        self.access("write")?;
        self.written.borrow_mut().insert((pstate, key.to_vec()));
        self.state.borrow_mut().insert((pstate, key.to_vec()), value.to_vec());
        Ok(())
    }

    fn delete(&self, pstate: PStateIndex, key: &[u8]) -> Result<(), StateError> {
        self.check_owner(pstate);
        self.access("write")?;
        self.written.borrow_mut().insert((pstate, key.to_vec()));
        self.state.borrow_mut().remove(&(pstate, key.to_vec()));
        Ok(())
    }

    fn delete_range(
        &self,
        pstate: PStateIndex,
        from: &[u8],
        to: Option<&[u8]>,
    ) -> Result<(), StateError> {
        self.check_owner(pstate);
        self.access("write")?;
        let dead = |key: &[u8]| from <= key && to.is_none_or(|to| key < to);
        self.state.borrow_mut().retain(|(other, key), _| *other != pstate || !dead(key));
        self.deleted.borrow_mut().push((pstate, from.to_vec(), to.map(<[u8]>::to_vec)));
        Ok(())
    }

    fn prefetch<'a>(
        &'a self,
        pstate: PStateIndex,
        keys: &'a [&'a [u8]],
    ) -> LocalFuture<'a, Result<(), StateError>> {
        Box::pin(async move {
            yield_once().await;
            self.access("prefetch")?;
            self.prefetched.set(self.prefetched.get() + keys.len());
            self.warm.borrow_mut().extend(keys.iter().map(|key| (pstate, key.to_vec())));
            Ok(())
        })
    }

    fn pause(&self) -> Option<LocalFuture<'_, ()>> {
        self.harness.cold.then(|| -> LocalFuture<'_, ()> { Box::pin(yield_once()) })
    }

    fn append(&self, depot: DepotIndex, record: &[u8]) -> Result<(), StateError> {
        self.access("append")?;
        self.appended.borrow_mut().push((depot, Bytes::copy_from_slice(record)));
        Ok(())
    }
}

pub(super) fn visit_range(
    state: &State,
    pstate: PStateIndex,
    range: Scan<'_>,
    visit: &mut Visit<'_>,
) {
    let from = Bound::Included((pstate, range.from.to_vec()));
    let to = match range.to {
        Some(to) if to <= range.from => return,
        Some(to) => Bound::Excluded((pstate, to.to_vec())),
        None => Bound::Excluded((PStateIndex(pstate.0 + 1), Vec::new())),
    };
    let mut rows = state.range((from, to));
    let next = || if range.reverse { rows.next_back() } else { rows.next() };
    for ((_, key), value) in std::iter::from_fn(next).take(range.limit) {
        let value = if range.keys_only { &[] } else { value.as_slice() };
        if visit(key, value).is_break() {
            return;
        }
    }
}

async fn yield_once() {
    let mut yielded = false;
    std::future::poll_fn(|task| {
        if std::mem::replace(&mut yielded, true) {
            return Poll::Ready(());
        }
        task.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}
