//! Runs a module in memory, without an engine: every partition is a few ordered maps.
//!
//! For tests of modules, and of the builder itself. One [`Harness::run`] is one microbatch of every
//! topology over all records that are new. Batches of rows are delivered in an order drawn from a seed,
//! in which only those between the same two partitions keep theirs; so what must not depend on the order
//! can be tested not to. A failed microbatch leaves nothing behind and is run again by the next call.

use std::any::Any;
use std::cell::Cell;
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::future::Future;
use std::ops::ControlFlow;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context as Task, Poll, Waker};

use bytes::Bytes;

use super::{
    Combined, Definition, EventFailure, Local, NodeIndex, Origin, Outgoing, Record, Row, Rows,
};
use crate::codec::{self, FieldTable};
use crate::migrate::{Move, step};
use crate::module::{self, Depot, DepotIndex, PStateIndex, PlacedBy, Traced};
use crate::schema::list::{self, List};
use crate::schema::{Answer, Described, Layout, ReadOp, Rows as FoundRows, Select};
use crate::testing::{Io, counted};
use crate::types::{Offset, PartitionId, WallTime};

mod attempt;
mod query;
mod relaunch;
mod seen;

use attempt::{Attempt, visit_range};
use seen::scan_of;

type State = BTreeMap<(PStateIndex, Vec<u8>), Vec<u8>>;

/// What an attempt leaves of a partition.
type Written = (State, Vec<(DepotIndex, Bytes)>);

/// A module running in memory.
#[derive(Debug)]
pub struct Harness {
    module: module::Definition,
    fields: FieldTable,
    layouts: Vec<Layout>,
    /// What single values are where nothing is stored.
    initials: Vec<Option<Vec<u8>>>,
    /// The layouts of `PState`s in which sizes are kept.
    sizes: Vec<Option<Layout>>,
    partitions: Vec<Partition>,
    /// How far each topology has read each depot partition.
    read: BTreeMap<(usize, DepotIndex, PartitionId), usize>,
    /// Migrations under way, and done: the names of `PState`s, with their ids.
    moves: Vec<Arc<Move>>,
    migrated: BTreeSet<(String, String)>,
    /// So many units of each partition are moved by a microbatch.
    step_units: usize,
    microbatches: u64,
    order: u64,
    batch_rows: usize,
    held_bytes: usize,
    cold: bool,
    forgets: bool,
    /// How many more accesses succeed before one fails.
    failing: Cell<Option<usize>>,
}

#[derive(Debug, Default)]
struct Partition {
    depots: BTreeMap<DepotIndex, Vec<(WallTime, Bytes)>>,
    state: State,
}

/// What one microbatch of one topology did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ran {
    /// How many rows each node took, of those sent by other nodes.
    pub rows: BTreeMap<NodeIndex, usize>,
    /// How many batches they came in.
    pub batches: usize,
    /// Reads that had to wait.
    pub misses: usize,
    /// Keys that were asked for ahead.
    pub prefetched: usize,
    /// What the events of each node asked of their partitions.
    pub io: BTreeMap<NodeIndex, Io>,
}

impl Harness {
    /// A module over `partitions`, with nothing in it.
    ///
    /// # Errors
    /// A type of the module cannot be stored.
    ///
    /// # Panics
    /// If `partitions` is not a power of two.
    pub fn new(module: module::Definition, partitions: u32) -> codec::Result<Self> {
        assert!(partitions.is_power_of_two());
        let traced = module.trace(FieldTable::new())?;
        let sizes = traced.sizes();
        let Traced { fields, layouts, old_layouts: _, initials } = traced;
        Ok(Self {
            module,
            fields,
            layouts,
            initials,
            sizes,
            partitions: (0..partitions).map(|_| Partition::default()).collect(),
            read: BTreeMap::new(),
            moves: Vec::new(),
            migrated: BTreeSet::new(),
            step_units: 200,
            microbatches: 0,
            order: 0,
            batch_rows: usize::MAX,
            held_bytes: usize::MAX,
            cold: false,
            forgets: false,
            failing: Cell::new(None),
        })
    }

    /// Draws the order of deliveries from another seed.
    #[must_use]
    pub fn ordered_by(mut self, seed: u64) -> Self {
        self.order = seed;
        self
    }

    /// Gives source nodes at most so many records at once.
    #[must_use]
    pub fn batches_of(mut self, rows: usize) -> Self {
        self.batch_rows = rows;
        self
    }

    /// Lets each partition send the changes of aggregations once they take more than so many bytes.
    #[must_use]
    pub fn holding(mut self, bytes: usize) -> Self {
        self.held_bytes = bytes;
        self
    }

    /// Lets the first read of each key wait, unless it was prefetched.
    #[must_use]
    pub fn cold(mut self) -> Self {
        self.cold = true;
        self
    }

    /// Lets the first read of each key wait in every event, as if what was fetched had been let go since the last.
    #[must_use]
    pub fn forgetful(mut self) -> Self {
        (self.cold, self.forgets) = (true, true);
        self
    }

    /// Lets migrations move at most so many units of each partition in a microbatch; none, if 0.
    #[must_use]
    pub fn moving(mut self, units: usize) -> Self {
        self.step_units = units;
        self
    }

    /// Lets one access to state fail, after `accesses` that succeed, as if its shard had stopped.
    pub fn fail_after(&self, accesses: usize) {
        self.failing.set(Some(accesses));
    }

    /// Whether an access that [`Harness::fail_after`] asked for has yet to fail.
    pub fn is_failing(&self) -> bool {
        self.failing.get().is_some()
    }

    /// Appends a record where the depot's placement puts it; of a random depot, to the partitions in turn.
    ///
    /// # Errors
    /// The record cannot be encoded.
    pub fn append<T: Row, R>(&mut self, depot: Depot<T, R>, record: &T) -> codec::Result<Origin> {
        let mut bytes = Vec::new();
        codec::encode(&self.fields, record, &mut bytes)?;
        let to = self.place(depot.index(), record);
        Ok(self.append_bytes(depot.index(), to, bytes.into()))
    }

    /// Appends bytes that need not be a record.
    pub fn append_bytes(&mut self, depot: DepotIndex, to: PartitionId, bytes: Bytes) -> Origin {
        let log = self.partitions[to.0 as usize].depots.entry(depot).or_default();
        let offset = Offset(log.len() as u64);
        log.push((WallTime(offset.0), bytes));
        Origin::record(depot, to, offset)
    }

    fn place(&self, depot: DepotIndex, record: &dyn Any) -> PartitionId {
        let partitions = self.count();
        match &self.module.depots[depot.0 as usize].placed_by {
            PlacedBy::Hash(placer) => placer.place(record).partition(partitions),
            PlacedBy::Single => PartitionId(0),
            PlacedBy::Random => {
                let logs = self.partitions.iter().filter_map(|p| p.depots.get(&depot));
                let appended = logs.map(Vec::len).sum::<usize>();
                PartitionId(u32::try_from(appended % self.partitions.len()).expect("fits"))
            }
        }
    }

    /// One microbatch of each topology over all records that are new to it, to its end.
    ///
    /// # Errors
    /// The first failure of an event. The topology's microbatch has then had no effect.
    pub fn run(&mut self) -> Result<Vec<Ran>, EventFailure> {
        (0..self.module.topologies.len()).map(|topology| self.run_topology(topology)).collect()
    }

    fn run_topology(&mut self, topology: usize) -> Result<Ran, EventFailure> {
        let definition = &self.module.topologies[topology];
        let mut inbox = Inbox { order: self.order, queues: BTreeMap::new() };
        let mut read = self.read.clone();
        for source in &definition.sources {
            for (partition, id) in self.partitions.iter().zip((0..).map(PartitionId)) {
                let log = partition.depots.get(&source.depot).map_or(&[][..], Vec::as_slice);
                let from = self.read.get(&(topology, source.depot, id)).copied().unwrap_or(0);
                read.insert((topology, source.depot, id), log.len());
                let records =
                    (from..).zip(&log[from..]).map(|(offset, (appended, bytes))| Record {
                        origin: Origin::record(source.depot, id, Offset(offset as u64)),
                        appended: *appended,
                        bytes: bytes.clone(),
                    });
                let records: Vec<_> = records.collect();
                for records in records.chunks(self.batch_rows) {
                    let rows = Rows::records(records.to_vec());
                    inbox.push(None, Outgoing { node: source.node, to: id, rows });
                }
            }
        }
        let (ran, attempt) = self.attempt(topology, inbox)?;
        self.read = read;
        self.microbatches += 1;
        for (partition, (state, appended)) in self.partitions.iter_mut().zip(attempt) {
            partition.state = state;
            for (depot, bytes) in appended {
                let log = partition.depots.entry(depot).or_default();
                log.push((WallTime(log.len() as u64), bytes));
            }
        }
        for moving in &self.moves {
            let mut rows = self.partitions.iter().flat_map(|it| it.state.keys());
            if rows.all(|(pstate, _)| *pstate != moving.old) {
                moving.note_done();
                let name = self.module.pstates[moving.pstate.0 as usize].name.clone();
                self.migrated.insert((name, moving.id.clone()));
            }
        }
        Ok(ran)
    }

    fn attempt(
        &self,
        topology: usize,
        mut inbox: Inbox,
    ) -> Result<(Ran, Vec<Written>), EventFailure> {
        let definition: &Definition = &self.module.topologies[topology];
        let locals: Vec<_> =
            (0..self.count()).map(|id| Attempt::new(self, topology, PartitionId(id))).collect();
        let mut ran = Ran::default();
        let mut held = Held::default();
        loop {
            let Some((sender, Outgoing { node, to, rows })) = inbox.pop() else {
                if held.is_empty() {
                    break;
                }
                for from in (0..self.count()).map(PartitionId) {
                    self.send_held(&mut held, from, &mut inbox);
                }
                continue;
            };
            if sender.is_some() {
                *ran.rows.entry(node).or_default() += rows.count();
                ran.batches += 1;
            }
            let local = &locals[to.0 as usize];
            let seen: (&dyn Local, _) = (local, &*self.moves);
            if self.forgets {
                local.forget();
            }
            let (done, io) = block_on(counted(definition, node, seen, rows));
            *ran.io.entry(node).or_default() += io;
            let done = done?;
            if let Some(rejected) = done.rejected.into_iter().next() {
                return Err(rejected);
            }
            for outgoing in done.outgoing {
                assert!(outgoing.rows.count() > 0, "no batch is empty");
                inbox.push(Some(to), outgoing);
            }
            for changes in done.changes {
                match held.entry((to, changes.node)) {
                    Entry::Vacant(entry) => drop(entry.insert(changes)),
                    Entry::Occupied(mut entry) => {
                        let name = &definition.nodes[changes.node.0 as usize].name;
                        entry.get_mut().merge(changes, name, to)?;
                    }
                }
            }
            let of_it = held.range((to, NodeIndex(0))..=(to, NodeIndex(u32::MAX)));
            if of_it.map(|(_, changes)| changes.bytes()).sum::<usize>() > self.held_bytes {
                self.send_held(&mut held, to, &mut inbox);
            }
        }
        let is_owned =
            |it: &&Arc<Move>| self.module.pstates[it.pstate.0 as usize].owner == topology;
        let moves = self.moves.iter().filter(is_owned).filter(|_| self.step_units > 0);
        for (moving, local) in moves.flat_map(|it| locals.iter().map(move |local| (it, local))) {
            block_on(step(local, moving, &[], self.step_units, (u64::MAX, u64::MAX), |_| true))
                .map_err(|error| EventFailure::of_surroundings("step", local.partition(), error))?;
        }
        ran.misses = locals.iter().map(|local| local.misses.get()).sum();
        ran.prefetched = locals.iter().map(|local| local.prefetched.get()).sum();
        let written = locals.into_iter().map(|l| (l.state.into_inner(), l.appended.into_inner()));
        Ok((ran, written.collect()))
    }

    /// Sends the changes that wait on a partition.
    fn send_held(&self, held: &mut Held, from: PartitionId, inbox: &mut Inbox) {
        let mut outgoing = Vec::new();
        let nodes = (from, NodeIndex(0))..=(from, NodeIndex(u32::MAX));
        for (_, changes) in held.extract_if(nodes, |_, _| true) {
            changes.send(self.count(), usize::MAX, &mut outgoing);
        }
        for outgoing in outgoing {
            inbox.push(Some(from), outgoing);
        }
    }

    /// Reads what a path leads to. Ranges over first keys give those of all partitions, in the order of
    /// partitions.
    ///
    /// # Errors
    /// The path is none, or what is stored does not decode.
    pub fn select<P: Select>(&self, path: P) -> codec::Result<P::Out> {
        enum Part {
            One(Option<Vec<u8>>),
            Rows(FoundRows),
        }
        let reads = path.reads()?;
        let found = |plan: &crate::schema::ReadPlan| {
            let pstate = PStateIndex(plan.pstate.0);
            let partitions = match plan.place {
                None => &self.partitions[..],
                Some(place) => {
                    let at = place.partition(self.count()).0 as usize;
                    &self.partitions[at..=at]
                }
            };
            let mut seen = partitions.iter().map(|partition| self.seen(partition, pstate));
            let found;
            let op = match &plan.op {
                ReadOp::Behind(behind) => {
                    let seen = self.seen(&partitions[0], pstate);
                    found = match block_on(behind.resolve(&seen)) {
                        Ok(Some(op)) => op,
                        Ok(None) if plan.op.is_of_one() => return Ok(Part::One(None)),
                        Ok(None) => return Ok(Part::Rows(FoundRows::new())),
                        Err(list::Error::Rows(error)) => return Err(error),
                        Err(error) => panic!("a list is damaged: {error:?}"),
                    };
                    &found
                }
                op => op,
            };
            Ok(match op {
                ReadOp::Get { key } | ReadOp::Has { key } => {
                    let found = seen.find_map(|seen| seen.get(key).transpose());
                    Part::One(found.transpose()?)
                }
                ReadOp::Range(range) => {
                    let mut rows = FoundRows::new();
                    for seen in seen {
                        seen.scan(scan_of(range), &mut |key, value| {
                            rows.push(key, value);
                            ControlFlow::Continue(())
                        })?;
                    }
                    Part::Rows(rows)
                }
                ReadOp::Items(items) => {
                    let seen = seen.next().expect("a list has a first key");
                    let list = List::new(&seen, &items.list);
                    match block_on(list.slice(items.from, items.count)) {
                        Ok(found) => Part::Rows(items.rows(&found)),
                        Err(list::Error::Rows(error)) => return Err(error),
                        Err(error) => panic!("a list is damaged: {error:?}"),
                    }
                }
                ReadOp::Behind(_) => unreachable!("its items were found"),
            })
        };
        let parts = reads.as_slice().iter().map(found).collect::<codec::Result<Vec<_>>>()?;
        let answers = parts.iter().map(|part| match part {
            Part::One(value) => Answer::One(value.as_deref()),
            Part::Rows(rows) => Answer::Rows(rows),
        });
        let answers: Vec<_> = answers.collect();
        P::decode(&self.fields, reads.as_slice(), &answers)
    }

    /// How many records a depot holds.
    pub fn records(&self, depot: DepotIndex) -> usize {
        self.partitions.iter().filter_map(|p| p.depots.get(&depot)).map(Vec::len).sum()
    }

    /// Every row of every partition: what two runs can be compared by.
    pub fn dump(&self) -> Vec<(PartitionId, PStateIndex, Vec<u8>, Vec<u8>)> {
        let rows = (0..).zip(&self.partitions).flat_map(|(id, partition)| {
            let row = move |((pstate, key), value): (&(PStateIndex, Vec<u8>), &Vec<u8>)| {
                (PartitionId(id), *pstate, key.clone(), value.clone())
            };
            partition.state.iter().map(row)
        });
        rows.collect()
    }

    fn described(&self, pstate: PStateIndex) -> Described<'_> {
        let place = pstate.0 as usize;
        let initial = self.initials[place].as_deref();
        self.module.pstates[place].described(&self.layouts[place], initial)
    }

    fn count(&self) -> u32 {
        u32::try_from(self.partitions.len()).expect("made from a u32")
    }
}

/// Changes that wait to be combined with later ones, by the partition where they arose and the node they
/// are for.
type Held = BTreeMap<(PartitionId, NodeIndex), Combined>;

/// Batches on their way.
struct Inbox {
    order: u64,
    queues: BTreeMap<(Option<PartitionId>, PartitionId), VecDeque<Outgoing>>,
}

impl Inbox {
    fn push(&mut self, from: Option<PartitionId>, outgoing: Outgoing) {
        self.queues.entry((from, outgoing.to)).or_default().push_back(outgoing);
    }

    fn pop(&mut self) -> Option<(Option<PartitionId>, Outgoing)> {
        let count = u64::try_from(self.queues.len()).ok().filter(|&count| count > 0)?;
        self.order = self.order.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
        let nth = usize::try_from((self.order >> 33) % count).expect("below a length");
        let entry = self.queues.iter_mut().nth(nth).expect("below the length");
        let outgoing = entry.1.pop_front().expect("empty queues are removed");
        let key = *entry.0;
        if entry.1.is_empty() {
            self.queues.remove(&key);
        }
        Some((key.0, outgoing))
    }
}

/// Everything here is ready after a few polls; nothing else would wake it.
fn block_on<T>(future: impl Future<Output = T>) -> T {
    let mut future = pin!(future);
    let mut task = Task::from_waker(Waker::noop());
    loop {
        if let Poll::Ready(out) = future.as_mut().poll(&mut task) {
            return out;
        }
    }
}
