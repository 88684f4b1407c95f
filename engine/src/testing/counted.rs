//! Counting what events ask of their partitions.

use std::cell::Cell;
use std::fmt;
use std::ops::AddAssign;
use std::sync::Arc;

use crate::codec::FieldTable;
use crate::env::LocalFuture;
use crate::migrate::{Move, run_event};
use crate::module::{DepotIndex, PStateIndex};
use crate::schema::{Described, Layout};
use crate::topology::{
    Access, Definition, Done, EventFailure, Local, NodeIndex, Rows, Scan, StateError, Visit,
};
use crate::types::{PartitionId, WallTime};

/// What was asked of a partition: counts of calls, and of rows where said.
///
/// A row is looked for by going down its tree once, a range by going down to its first row: [`Io::seeks`].
/// What a migration under way adds is counted: an event looks once more for each unit that it reads in vain or
/// writes into, and moves those into which it writes.
///
/// Where nothing but what was written lately is stored, no tree is there to go down; it counts all the
/// same, so that a budget does not depend on when state is folded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Io {
    /// Keys looked up, each once, however often the look-up had to wait.
    pub reads: u64,
    /// How often a look-up had to wait for pages.
    pub misses: u64,
    /// Keys named ahead of their look-ups, to be fetched together.
    pub prefetched: u64,
    /// Ranges scanned.
    pub scans: u64,
    /// Rows that scans gave.
    pub rows_scanned: u64,
    /// Rows written.
    pub puts: u64,
    /// Rows deleted by key, there or not.
    pub deletes: u64,
    /// Ranges deleted, whatever was in them.
    pub range_deletes: u64,
    /// Records appended to depots.
    pub appends: u64,
}

impl Io {
    /// How often a place in a tree was looked for.
    #[must_use]
    pub fn seeks(&self) -> u64 {
        self.reads + self.scans
    }

    /// How many writes there were; each is one row or one range.
    #[must_use]
    pub fn writes(&self) -> u64 {
        self.puts + self.deletes + self.range_deletes
    }
}

impl AddAssign for Io {
    fn add_assign(&mut self, more: Self) {
        let Self {
            reads,
            misses,
            prefetched,
            scans,
            rows_scanned,
            puts,
            deletes,
            range_deletes,
            appends,
        } = more;
        self.reads += reads;
        self.misses += misses;
        self.prefetched += prefetched;
        self.scans += scans;
        self.rows_scanned += rows_scanned;
        self.puts += puts;
        self.deletes += deletes;
        self.range_deletes += range_deletes;
        self.appends += appends;
    }
}

/// What one event did.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct EventIo<'e> {
    /// The name of its topology.
    pub topology: &'e str,
    /// The name of its node, as explanations give it.
    pub node: &'e str,
    /// The node's place in the topology.
    pub index: NodeIndex,
    /// Where it ran.
    pub partition: PartitionId,
    /// How many rows it was given.
    pub rows: usize,
    /// What it asked for. Of an event that failed, up to there.
    pub io: Io,
}

/// A function that is told of every event, after it. It runs on the shard, between events: it must
/// neither block nor panic.
#[derive(Clone)]
pub struct EventHook(Arc<dyn Fn(&EventIo<'_>) + Send + Sync>);

impl EventHook {
    /// Calls `told` after each event.
    #[must_use]
    pub fn new(told: impl Fn(&EventIo<'_>) + Send + Sync + 'static) -> Self {
        Self(Arc::new(told))
    }

    /// Runs an event and tells of it.
    pub(crate) async fn run(
        &self,
        definition: &Definition,
        index: NodeIndex,
        (local, moves): (&dyn Local, &[Arc<Move>]),
        rows: Rows,
    ) -> Result<Done, EventFailure> {
        let count = rows.count();
        let (done, io) = counted(definition, index, (local, moves), rows).await;
        let (topology, node) = (&*definition.name, &*definition.nodes[index.0 as usize].name);
        let partition = local.partition();
        (self.0)(&EventIo { topology, node, index, partition, rows: count, io });
        done
    }
}

impl fmt::Debug for EventHook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EventHook").finish_non_exhaustive()
    }
}

/// Runs an event and counts.
pub(crate) async fn counted(
    definition: &Definition,
    index: NodeIndex,
    (local, moves): (&dyn Local, &[Arc<Move>]),
    rows: Rows,
) -> (Result<Done, EventFailure>, Io) {
    let counted = Counted::new(local);
    let done = run_event(&definition.nodes[index.0 as usize], (&counted, moves), rows).await;
    (done, counted.io())
}

/// A partition whose accesses are counted.
pub(super) struct Counted<'l, L: ?Sized> {
    local: &'l L,
    io: Cell<Io>,
    /// Apart from the rest, since they cost a read more than they should when all is copied to count one.
    reads: Cell<u64>,
    misses: Cell<u64>,
}

impl<'l, L: Local + ?Sized> Counted<'l, L> {
    pub(super) fn new(local: &'l L) -> Self {
        Self { local, io: Cell::default(), reads: Cell::new(0), misses: Cell::new(0) }
    }

    pub(super) fn io(&self) -> Io {
        Io { reads: self.reads.get(), misses: self.misses.get(), ..self.io.get() }
    }

    /// A miss is followed by another call for the same key.
    #[inline]
    fn count_access(&self, access: &Result<Access<'_>, StateError>) {
        let counter = match access {
            Ok(Access::Ready) => &self.reads,
            Ok(Access::Miss(_)) => &self.misses,
            Err(_) => return,
        };
        counter.set(counter.get() + 1);
    }

    fn count(&self, count: impl FnOnce(&mut Io)) {
        let mut io = self.io.get();
        count(&mut io);
        self.io.set(io);
    }
}

impl<L: Local + ?Sized> Local for Counted<'_, L> {
    fn partition(&self) -> PartitionId {
        self.local.partition()
    }

    fn partitions(&self) -> u32 {
        self.local.partitions()
    }

    fn now(&self) -> WallTime {
        self.local.now()
    }

    fn seed(&self) -> u64 {
        self.local.seed()
    }

    fn fields(&self) -> &FieldTable {
        self.local.fields()
    }

    fn described(&self, pstate: PStateIndex) -> Described<'_> {
        self.local.described(pstate)
    }

    fn get<'a>(
        &'a self,
        pstate: PStateIndex,
        key: &[u8],
        visit: &mut dyn FnMut(Option<&[u8]>),
    ) -> Result<Access<'a>, StateError> {
        let access = self.local.get(pstate, key, visit);
        self.count_access(&access);
        access
    }

    fn get_below<'a>(
        &'a self,
        pstate: PStateIndex,
        key: &[u8],
        visit: &mut dyn FnMut(Option<&[u8]>),
    ) -> Result<Access<'a>, StateError> {
        let access = self.local.get_below(pstate, key, visit);
        self.count_access(&access);
        access
    }

    fn sizes(&self, pstate: PStateIndex) -> Option<&Layout> {
        self.local.sizes(pstate)
    }

    fn scan<'a>(
        &'a self,
        pstate: PStateIndex,
        range: Scan<'a>,
        visit: &'a mut Visit<'a>,
    ) -> LocalFuture<'a, Result<(), StateError>> {
        Box::pin(async move {
            self.count(|io| io.scans += 1);
            let mut visit_counted = |key: &[u8], value: &[u8]| {
                self.count(|io| io.rows_scanned += 1);
                visit(key, value)
            };
            self.local.scan(pstate, range, &mut visit_counted).await
        })
    }

    fn put(&self, pstate: PStateIndex, key: &[u8], value: &[u8]) -> Result<(), StateError> {
        self.count(|io| io.puts += 1);
        self.local.put(pstate, key, value)
    }

    fn delete(&self, pstate: PStateIndex, key: &[u8]) -> Result<(), StateError> {
        self.count(|io| io.deletes += 1);
        self.local.delete(pstate, key)
    }

    fn delete_range(
        &self,
        pstate: PStateIndex,
        from: &[u8],
        to: Option<&[u8]>,
    ) -> Result<(), StateError> {
        self.count(|io| io.range_deletes += 1);
        self.local.delete_range(pstate, from, to)
    }

    fn emitted(&self, bytes: usize) -> Result<(), StateError> {
        self.local.emitted(bytes)
    }

    fn prefetch<'a>(
        &'a self,
        pstate: PStateIndex,
        keys: &'a [&'a [u8]],
    ) -> LocalFuture<'a, Result<(), StateError>> {
        self.count(|io| io.prefetched += keys.len() as u64);
        self.local.prefetch(pstate, keys)
    }

    fn pause(&self) -> Option<LocalFuture<'_, ()>> {
        self.local.pause()
    }

    fn append(&self, depot: DepotIndex, record: &[u8]) -> Result<(), StateError> {
        self.count(|io| io.appends += 1);
        self.local.append(depot, record)
    }
}
