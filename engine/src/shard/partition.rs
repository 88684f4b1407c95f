//! One partition: its sequence of entries, its trees, its depots, and the transactions under way.
//!
//! State is a function of the sequence. Entries are applied once they are durable, in order, by the
//! same functions whether they were just written or are replayed; only depot offsets are assigned when
//! an entry takes its place, since clients' appends and microbatches' appends share them.
//!
//! What a fold must record beside the trees lies in the engine's own `PState` 0: the state of each depot
//! log, the coordinators' rows, and the last id committed of each topology. Which records were given up
//! stands there, too, written by the microbatches that leave them out: 17 bytes for each, for ever.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Bound;
use std::rc::Rc;

use tidemill_replication::two_phase::{AttemptId, Begin, Record, Row};

use super::entry::{Committed, Coordinated, Malformed, Prepare, PreparedAppends, Transaction};
use crate::depot::{self, Batch, Log};
use crate::env::Env;
use crate::journal::Kind;
use crate::page::Cache;
use crate::probe::{Plant, State, planted, reached};
use crate::pstate::{self, KeyRange, Run, Store, View, Wanted, WriteSet};
use crate::types::{
    DepotId, Index, MicrobatchId, Offset, PStateId, PartitionId, TopologyId, WallTime,
};

/// The engine's own state.
pub(crate) const SYSTEM: PStateId = PStateId(0);

/// Writes to [`SYSTEM`] are stacked and merged under this name, which no topology has.
const SYSTEM_TOPOLOGY: TopologyId = TopologyId(0);

/// Why a partition could not be opened, folded or applied to.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("partition {partition}, depot {depot}")]
    Depot {
        partition: PartitionId,
        depot: DepotId,
        #[source]
        source: depot::Error,
    },
    #[error("partition {partition}")]
    PState {
        partition: PartitionId,
        #[source]
        source: pstate::Error,
    },
    #[error("partition {partition}, entry {index}: {what}")]
    Entry { partition: PartitionId, index: Index, what: String },
}

/// See the module.
pub(crate) struct Partition {
    pub(crate) id: PartitionId,
    pub(crate) store: Store,
    env: Env,
    dir: String,
    depot_options: depot::Options,
    /// The index the next entry gets.
    next: Cell<Index>,
    depots: RefCell<BTreeMap<DepotId, Rc<Depot>>>,
    prepared: RefCell<BTreeMap<Transaction, Prepared>>,
    /// Of each topology, whatever came of it.
    last_prepared: RefCell<BTreeMap<TopologyId, AttemptId>>,
    /// Runs that lie over the trees but not in the memtable yet.
    stacked: RefCell<BTreeMap<(TopologyId, MicrobatchId), AttemptId>>,
    /// Committed, but the writes are not in the memtable yet.
    unmerged: RefCell<BTreeMap<(TopologyId, MicrobatchId), Unmerged>>,
    /// In the memtable, and committed above what the last fold covers: until one covers that too, the
    /// prepare is needed, since the `Committed` entry will be replayed.
    merged: RefCell<BTreeMap<(TopologyId, MicrobatchId), Unmerged>>,
    /// What readers see and is not merged yet.
    shown: RefCell<BTreeMap<TopologyId, MicrobatchId>>,
    committed: RefCell<BTreeMap<TopologyId, MicrobatchId>>,
    coordinated: RefCell<BTreeMap<TopologyId, CoordinatorState>>,
    system_id: Cell<MicrobatchId>,
    /// What the newest root covers; entries above are needed for recovery.
    covers: Cell<Index>,
    /// The prepares that the newest root asks for; recovery fails without them, also without those
    /// that were aborted since.
    pending: RefCell<Vec<Index>>,
    /// Those of them that replay has not met yet: copies of them lie behind newer entries.
    awaited: RefCell<BTreeSet<Index>>,
    has_root: Cell<bool>,
    /// Replay cut a depot's log at a torn extent; the entries behind it count again at the next replay
    /// unless a fold covers them first.
    cut: Cell<bool>,
    /// While above 0, what events declare is fetched before they run; see [`Partition::is_cold`].
    cold: Cell<u32>,
    /// At most one fold at a time.
    pub(crate) folding: Cell<bool>,
    pub(crate) folds: Cell<u64>,
}

/// One depot's log here, and which entries hold what is not in its segments yet.
pub(crate) struct Depot {
    pub(crate) log: Log,
    /// Entries with records, and the offset behind them; ascending.
    entries: RefCell<VecDeque<(Index, Offset)>>,
}

/// A prepare without an outcome.
#[derive(Clone)]
pub(crate) struct Prepared {
    pub(crate) index: Index,
    pub(crate) run: Rc<Run>,
    pub(crate) appends: PreparedAppends,
}

/// The bytes of a bulk append, damaged.
#[derive(Clone, Debug)]
pub(crate) struct TornExtent {
    /// Records from here on are gone.
    pub(crate) from: Offset,
    /// The segment it lies in.
    pub(crate) file: String,
    /// Where it is damaged.
    pub(crate) byte: u64,
}

/// Where the two entries of a committed microbatch stand.
#[derive(Clone, Copy, Debug)]
struct Unmerged {
    prepare: Index,
    committed: Index,
}

/// What the coordinator of a topology has made durable in this partition.
#[derive(Clone, Debug, Default)]
pub(crate) struct CoordinatorState {
    pub(crate) row: Row,
    /// Of undecided ids, in the order written.
    pub(crate) begins: Vec<Begin>,
}

/// A partition as its files have it, before any entry is replayed.
pub(crate) struct Opened {
    pub(crate) partition: Partition,
    /// Why there may have been a newer root. The journal forgets what a root covers, and never more; and a
    /// fold covers at least one entry more than the one before. So there was none if at least one entry
    /// was replayed and none is missing.
    pub(crate) doubt: Option<String>,
}

impl Partition {
    /// Opens the trees and depots that the last fold recorded. Whether that was really the last one,
    /// [`Opened::doubt`] says once the entries were replayed.
    pub(crate) async fn open(
        env: &Env,
        cache: &Cache,
        id: PartitionId,
        depot_options: depot::Options,
    ) -> Result<Opened, Error> {
        let dir = format!("p/{id}");
        let failed = |source| Error::PState { partition: id, source };
        let (store, opened) = Store::open(env, cache, &dir, id, Index(1)).await.map_err(failed)?;
        let partition = Self {
            id,
            store,
            env: env.clone(),
            dir,
            depot_options,
            next: Cell::new(opened.covers.next()),
            depots: RefCell::default(),
            prepared: RefCell::default(),
            last_prepared: RefCell::default(),
            stacked: RefCell::default(),
            unmerged: RefCell::default(),
            merged: RefCell::default(),
            shown: RefCell::default(),
            committed: RefCell::default(),
            coordinated: RefCell::default(),
            system_id: Cell::new(MicrobatchId(0)),
            covers: Cell::new(opened.covers),
            awaited: RefCell::new(opened.pending.iter().copied().collect()),
            pending: RefCell::new(opened.pending),
            has_root: Cell::new(opened.fold > 0),
            cut: Cell::new(false),
            cold: Cell::new(0),
            folding: Cell::new(false),
            folds: Cell::new(0),
        };
        partition.read_system().await?;
        let doubt = match opened.damaged {
            Some((byte, what)) => Some(format!("p/{id}/pages is damaged at byte {byte}: {what}")),
            None if opened.fold == 0 => Some(format!("p/{id}/pages has no root")),
            None => None,
        };
        Ok(Opened { partition, doubt })
    }

    /// The entry after the last one.
    pub(crate) fn next(&self) -> Index {
        self.next.get()
    }

    /// What the newest root covers.
    pub(crate) fn covers(&self) -> Index {
        self.covers.get()
    }

    /// Takes the next place in the sequence.
    pub(crate) fn take_index(&self) -> Index {
        let index = self.next.get();
        self.next.set(index.next());
        index
    }

    /// The log of a depot, opened when it is first asked for.
    pub(crate) async fn depot(&self, id: DepotId) -> Result<Rc<Depot>, Error> {
        if let Some(depot) = self.known_depot(id) {
            return Ok(depot);
        }
        self.open_depot(id, &depot::State::default()).await
    }

    /// The log of a depot, if it is open.
    pub(crate) fn known_depot(&self, id: DepotId) -> Option<Rc<Depot>> {
        self.depots.borrow().get(&id).cloned()
    }

    /// Every open depot, by id.
    pub(crate) fn known_depots(&self) -> Vec<(DepotId, Rc<Depot>)> {
        self.depots.borrow().iter().map(|(&id, depot)| (id, Rc::clone(depot))).collect()
    }

    async fn open_depot(&self, id: DepotId, state: &depot::State) -> Result<Rc<Depot>, Error> {
        let failed = |source| Error::Depot { partition: self.id, depot: id, source };
        let log = Log::open(&self.env, self.id, id, &self.dir, state, self.depot_options)
            .await
            .map_err(failed)?;
        let depot = Rc::new(Depot { log, entries: RefCell::default() });
        // Two callers may have opened it at the same time; the first one counts, nothing was written.
        Ok(Rc::clone(self.depots.borrow_mut().entry(id).or_insert(depot)))
    }

    // ---- replay ----

    /// Applies an entry found at recovery, in its place. Of a topology in `visible`, readers see no id above
    /// that.
    ///
    /// Answers with the extent of a bulk append that is damaged; the caller says whether it was durable once.
    pub(crate) async fn replay(
        &self,
        index: Index,
        kind: Kind,
        bytes: &[u8],
        visible: &BTreeMap<TopologyId, MicrobatchId>,
    ) -> Result<Option<TornExtent>, Error> {
        let wrong = |what: String| Error::Entry { partition: self.id, index, what };
        let malformed = |error: Malformed| wrong(error.to_string());
        match kind {
            Kind::Append | Kind::AppendBulk => return self.replay_append(index, bytes).await,
            Kind::Prepare => {
                let prepare = Prepare::decode(bytes).map_err(malformed)?;
                let mut run =
                    Run::decode(prepare.writes).map_err(|error| wrong(error.to_string()))?;
                if planted(Plant::SizeForgottenInCrash) {
                    run = run.without_heads();
                }
                self.add_prepared(prepare.transaction, index, Rc::new(run), prepare.appends);
            }
            Kind::Committed => {
                let committed = Committed::decode(bytes).map_err(malformed)?;
                let Transaction { topology, attempt } = committed.transaction;
                self.open_placed(committed.transaction).await?;
                if !self.commit(committed, index).map_err(wrong)? {
                    return Ok(None);
                }
                if visible.get(&topology).is_none_or(|&visible| attempt.id <= visible) {
                    // The trees may hold more than this id already: nobody can read below it.
                    self.merge_through(topology, attempt.id, &Wanted::default());
                }
            }
            Kind::Aborted => {
                let transaction = Transaction::decode(bytes).map_err(malformed)?;
                self.forget_prepared(transaction);
            }
            Kind::Begin | Kind::Decision | Kind::AllApplied => {
                let coordinated = Coordinated::decode(bytes).map_err(malformed)?;
                let record =
                    Record::decode(coordinated.record).map_err(|error| wrong(error.to_string()))?;
                self.add_record(coordinated.topology, &record)
                    .map_err(|error| wrong(error.to_string()))?;
            }
            Kind::HardState | Kind::Catalogue => {
                return Err(wrong(format!("{kind:?} belongs to a replicated directory")));
            }
        }
        Ok(None)
    }

    async fn replay_append(&self, index: Index, bytes: &[u8]) -> Result<Option<TornExtent>, Error> {
        let head = depot::batch::head(bytes).map_err(|error| Error::Entry {
            partition: self.id,
            index,
            what: error.to_string(),
        })?;
        let depot = self.depot(head.depot).await?;
        let failed = |source| Error::Depot { partition: self.id, depot: head.depot, source };
        match depot.log.replay(bytes).await.map_err(failed)? {
            depot::Replayed::Applied(offsets) => depot.note(index, offsets.end),
            depot::Replayed::Torn { from, file, byte } => {
                self.cut.set(true);
                return Ok(Some(TornExtent { from, file, byte }));
            }
            depot::Replayed::Already | depot::Replayed::BeyondCut => {}
        }
        Ok(None)
    }

    /// Whether `index`, which the root covers, is a prepare that the root asks for and that replay meets
    /// for the first time.
    pub(crate) fn take_awaited(&self, index: Index) -> bool {
        self.awaited.borrow_mut().remove(&index)
    }

    /// The first prepare that the root asks for and that replay has not met.
    pub(crate) fn first_awaited(&self) -> Option<Index> {
        self.awaited.borrow().first().copied()
    }

    /// Opens the depots that a prepared transaction appends to.
    async fn open_placed(&self, transaction: Transaction) -> Result<(), Error> {
        for depot in self.placing(transaction) {
            self.depot(depot).await?;
        }
        Ok(())
    }

    /// Everything replayed so far was read from the device.
    pub(crate) fn replayed_is_durable(&self) {
        for (_, depot) in self.known_depots() {
            depot.log.durable(depot.log.end());
        }
    }

    /// All entries were replayed and are durable.
    pub(crate) async fn recovered(&self) -> Result<(), Error> {
        for (id, depot) in self.known_depots() {
            let failed = |source| Error::Depot { partition: self.id, depot: id, source };
            depot.log.durable(depot.log.end());
            depot.log.recovered().await.map_err(failed)?;
        }
        Ok(())
    }

    // ---- transactions ----

    /// A prepare took its place. It has no effect yet.
    pub(crate) fn add_prepared(
        &self,
        transaction: Transaction,
        index: Index,
        run: Rc<Run>,
        appends: PreparedAppends,
    ) {
        let Transaction { topology, attempt } = transaction;
        let before = self.last_prepared.borrow_mut().insert(topology, attempt);
        if before.is_some_and(|it| it.id == attempt.id && it != attempt) {
            reached(State::TwoAttemptsPrepared);
        }
        self.prepared.borrow_mut().insert(transaction, Prepared { index, run, appends });
    }

    /// Lays the writes of a prepared attempt over the trees, for the next microbatch to read.
    pub(crate) fn stack(&self, transaction: Transaction) {
        let Transaction { topology, attempt } = transaction;
        let prepared = self.prepared.borrow();
        let run = &prepared.get(&transaction).expect("only what is prepared is stacked").run;
        let below = self.stacked.borrow_mut().insert((topology, attempt.id), attempt);
        assert!(below.is_none_or(|it| it == attempt), "an older attempt was dropped before");
        if below.is_none() {
            self.store.stack(topology, attempt.id, Rc::clone(run));
        }
    }

    /// A prepare was released: aborted, or its attempt is over.
    pub(crate) fn forget_prepared(&self, transaction: Transaction) {
        let Transaction { topology, attempt } = transaction;
        self.prepared.borrow_mut().remove(&transaction);
        if self.stacked.borrow().get(&(topology, attempt.id)) != Some(&attempt) {
            return;
        }
        // What was built on it goes with it, even if its own abort comes later: it stays prepared, and
        // nobody reads through it any more.
        let mut stacked = self.stacked.borrow_mut();
        let from = (topology, attempt.id)..=(topology, MicrobatchId(u64::MAX));
        let above: Vec<_> = stacked.range(from).map(|(&place, _)| place).collect();
        for place in above.into_iter().rev() {
            stacked.remove(&place);
            self.store.unstack(topology, place.1);
        }
    }

    /// A `Committed` entry takes its place: appended records get their offsets, the writes lie on top
    /// until [`Partition::show_through`]. False if the trees contain it already.
    pub(crate) fn commit(&self, committed: Committed, index: Index) -> Result<bool, String> {
        let Committed { transaction, append_time } = committed;
        let Transaction { topology, attempt } = transaction;
        if !self.prepared.borrow().contains_key(&transaction) {
            // A fold that covers the outcome leaves nothing pending; its root knows the id.
            let known = self.committed.borrow().get(&topology).copied().unwrap_or_default();
            return if attempt.id <= known {
                Ok(false)
            } else {
                Err(format!("microbatch {attempt} of topology {topology} has no prepare"))
            };
        }
        self.stack(transaction);
        let prepared =
            self.prepared.borrow_mut().remove(&transaction).expect("it was there a moment ago");
        for (depot, records) in &prepared.appends.depots {
            let depot = self.known_depot(*depot).ok_or("its depot is not open")?;
            let batch = Batch::of(records).map_err(|error| error.to_string())?;
            let placed = depot.log.place(index, &batch, append_time);
            if let Some(offsets) = placed.map_err(|error| error.to_string())? {
                depot.note(index, offsets.end);
            }
        }
        let unmerged = Unmerged { prepare: prepared.index, committed: index };
        self.unmerged.borrow_mut().insert((topology, attempt.id), unmerged);
        self.committed.borrow_mut().insert(topology, attempt.id);
        // Older attempts of the same or a lower id can never commit now.
        let stale: Vec<_> = self
            .prepared
            .borrow()
            .keys()
            .filter(|it| it.topology == topology && it.attempt.id <= attempt.id)
            .copied()
            .collect();
        for transaction in stale {
            self.forget_prepared(transaction);
        }
        Ok(true)
    }

    /// For [`Plant::OffsetsBeforeCommitted`]: gives a prepared transaction's records their offsets.
    pub(crate) fn place_prepared(&self, transaction: Transaction, time: WallTime) {
        let mut prepared = self.prepared.borrow_mut();
        let Some(prepared) = prepared.get_mut(&transaction) else { return };
        for (depot, records) in std::mem::take(&mut prepared.appends.depots) {
            let (Some(depot), Ok(batch)) = (self.known_depot(depot), Batch::of(&records)) else {
                continue;
            };
            if let Ok(Some(offsets)) = depot.log.place(prepared.index, &batch, time) {
                depot.note(prepared.index, offsets.end);
            }
        }
    }

    /// Readers see every committed id up to `id` from now on. [`Partition::merge_shown`] is due.
    pub(crate) fn show_through(&self, topology: TopologyId, id: MicrobatchId) {
        let all = (topology, MicrobatchId(0))..=(topology, id);
        if self.unmerged.borrow().range(all).next().is_some() {
            self.store.show(topology, id);
            self.shown.borrow_mut().insert(topology, id);
        }
    }

    /// Merges what readers see; afterwards those ids can still be read that `wanted` names.
    pub(crate) fn merge_shown(&self, wanted: &impl Fn(TopologyId) -> Wanted) {
        for (topology, id) in self.shown.take() {
            self.merge_through(topology, id, &wanted(topology));
        }
    }

    /// Merges every committed id up to `id`; readers see it from now on at the latest.
    fn merge_through(&self, topology: TopologyId, id: MicrobatchId, wanted: &Wanted) {
        let ready: Vec<_> = self
            .unmerged
            .borrow()
            .range((topology, MicrobatchId(0))..=(topology, id))
            .map(|(&place, _)| place)
            .collect();
        for place in ready {
            let entries = self.unmerged.borrow_mut().remove(&place);
            self.merged.borrow_mut().extend(entries.map(|entries| (place, entries)));
            self.stacked.borrow_mut().remove(&place);
            self.store.merge_keeping(topology, place.1, wanted);
        }
    }

    /// Readers see everything committed from now on, so that a fold can cover it. What others have not
    /// applied yet is seen early, which only a partition may do that lost the end of a log: meeting
    /// that end again would be worse.
    pub(crate) fn merge_all(&self) {
        let last: BTreeMap<TopologyId, MicrobatchId> =
            self.unmerged.borrow().keys().copied().collect();
        for (topology, id) in last {
            self.merge_through(topology, id, &Wanted::default());
        }
    }

    /// Merges all that is committed of a topology that runs no more.
    pub(crate) fn merge_rest(&self, topology: TopologyId) {
        self.merge_through(topology, MicrobatchId(u64::MAX), &Wanted::default());
    }

    /// Attempts without an outcome.
    pub(crate) fn in_doubt(&self) -> Vec<Transaction> {
        self.prepared.borrow().keys().copied().collect()
    }

    /// Prepares without an outcome, with what they hold.
    pub(crate) fn prepared(&self) -> Vec<(Transaction, Prepared)> {
        self.prepared.borrow().iter().map(|(&it, prepared)| (it, prepared.clone())).collect()
    }

    /// Indexes at or below [`Partition::covers`] that recovery still needs.
    pub(crate) fn pending(&self) -> Vec<Index> {
        self.pending.borrow().clone()
    }

    /// Whether the entry at `index` is a prepare without an outcome.
    pub(crate) fn is_in_doubt(&self, index: Index) -> bool {
        self.prepared.borrow().values().any(|prepared| prepared.index == index)
    }

    /// Whether there are prepares without an outcome that no fold can let go of: what is after them was
    /// folded.
    pub(crate) fn holds_in_doubt(&self) -> bool {
        self.pending.borrow().iter().any(|&index| self.is_in_doubt(index))
    }

    /// Prepares at or below `covers` whose outcome a fold to there does not contain, ascending. A fold
    /// while entries are replayed knows no outcome of those it has not met.
    fn needed_through(&self, covers: Index) -> Vec<Index> {
        let (prepared, awaited) = (self.prepared.borrow(), self.awaited.borrow());
        let (unmerged, merged) = (self.unmerged.borrow(), self.merged.borrow());
        let in_doubt = prepared.values().map(|prepared| prepared.index);
        let above = merged.values().filter(|it| covers < it.committed);
        let mut needed: Vec<Index> = in_doubt
            .chain(awaited.iter().copied())
            .chain(unmerged.values().chain(above).map(|it| it.prepare))
            .filter(|&index| index <= covers)
            .collect();
        needed.sort_unstable();
        needed
    }

    /// Depots that a prepared transaction appends to.
    pub(crate) fn placing(&self, transaction: Transaction) -> Vec<DepotId> {
        let prepared = self.prepared.borrow();
        let depots = prepared.get(&transaction).map(|it| it.appends.depots.iter());
        depots.map(|depots| depots.map(|(depot, _)| *depot).collect()).unwrap_or_default()
    }

    /// Whether something is committed that readers do not see yet.
    pub(crate) fn hides_commits(&self) -> bool {
        !self.unmerged.borrow().is_empty()
    }

    /// Whether a topology has prepared something here whose outcome is not known, or committed something that
    /// readers do not see yet.
    pub(crate) fn is_unsettled(&self, topology: TopologyId) -> bool {
        self.in_doubt().iter().any(|it| it.topology == topology)
            || self.unmerged.borrow().keys().any(|(it, _)| *it == topology)
    }

    /// The last id of a topology that was committed here.
    pub(crate) fn committed(&self, topology: TopologyId) -> MicrobatchId {
        self.committed.borrow().get(&topology).copied().unwrap_or_default()
    }

    // ---- coordinators ----

    /// A coordinator's record is durable.
    pub(crate) fn add_record(
        &self,
        topology: TopologyId,
        record: &Record,
    ) -> Result<(), tidemill_replication::two_phase::record::RowError> {
        let mut coordinated = self.coordinated.borrow_mut();
        let state = coordinated.entry(topology).or_default();
        state.row.add(record)?;
        if let Record::Begin(begin) = record
            // A fold may hold it although it does not cover it.
            && state.begins.iter().all(|it| it.attempt != begin.attempt)
        {
            state.begins.push(begin.clone());
        }
        let decided = state.row.decided;
        state.begins.retain(|begin| begin.attempt.id > decided);
        Ok(())
    }

    /// What the coordinator of a topology starts from.
    pub(crate) fn coordinator_state(&self, topology: TopologyId) -> CoordinatorState {
        self.coordinated.borrow().get(&topology).cloned().unwrap_or_default()
    }

    // ---- fetching ahead ----

    /// Whether fetching ahead is worth its look-ups: only while some read has missed lately. A partition
    /// whose state is in memory would look up every declared key twice.
    pub(crate) fn is_cold(&self) -> bool {
        self.cold.get() > 0
    }

    /// A read had to wait for a page.
    pub(crate) fn missed(&self) {
        self.cold.set(COLD_ROUNDS);
    }

    /// A batch's keys were fetched ahead, `missed` of them from disk.
    pub(crate) fn prefetched(&self, missed: usize) {
        self.cold.set(if missed > 0 { COLD_ROUNDS } else { self.cold.get().saturating_sub(1) });
    }

    // ---- folding ----

    /// Bytes of what readers see and the trees do not have.
    pub(crate) fn overlay_bytes(&self) -> u64 {
        self.store.memtable_bytes()
    }

    /// Whether a fold would change anything.
    pub(crate) fn is_dirty(&self) -> bool {
        self.covers.get().next() < self.next.get()
    }

    /// Whether replay found the end of a depot's log to be damaged.
    pub(crate) fn is_cut(&self) -> bool {
        self.cut.get()
    }

    /// Whether it must be folded before anything new gets a place in its sequence.
    pub(crate) fn must_fold(&self) -> bool {
        self.cut.get() || !self.has_root.get()
    }

    /// The last entry so far.
    pub(crate) fn last(&self) -> Index {
        Index(self.next.get().0 - 1)
    }

    /// Merges everything that is visible and durable into the trees. Every entry up to `through` is
    /// durable, and its effects are here; later ones may not be, and are not covered. The caller tells
    /// the journal what is covered afterwards. One at a time. Of older ids, the `wanted` can still be read.
    ///
    /// # Errors
    /// `NoSpace` from below loses nothing; anything else must stop the shard.
    pub(crate) async fn fold(
        &self,
        through: Index,
        wanted: impl Fn(TopologyId) -> Wanted,
    ) -> Result<Folded, Error> {
        let frozen = self.freeze(through, wanted, |_| {}).await?;
        self.fold_frozen(frozen).await
    }

    /// Fixes what the next fold contains, at the moment at which this returns; `trim` lets go of what depots need
    /// not keep. [`Partition::fold_frozen`] follows, and no other fold before it; without it, nothing is lost.
    ///
    /// # Errors
    /// As [`Partition::fold`].
    pub(crate) async fn freeze(
        &self,
        through: Index,
        wanted: impl Fn(TopologyId) -> Wanted,
        trim: impl FnOnce(&Self),
    ) -> Result<Frozen, Error> {
        for (id, depot) in self.known_depots() {
            let failed = |source| Error::Depot { partition: self.id, depot: id, source };
            depot.log.flush().await.map_err(failed)?;
        }
        // From here on nothing awaits, so all of it is one moment.
        self.merge_shown(&wanted);
        // What nobody wants any more is not kept over the fold.
        self.store.trim_history(&wanted);
        trim(self);
        let mut covers = through;
        if let Some(first) = self.unmerged.borrow().values().map(|it| it.committed).min() {
            covers = covers.min(Index(first.0 - 1));
        }
        let mut states = Vec::new();
        for (id, depot) in self.known_depots() {
            let state = depot.log.state();
            covers = covers.min(depot.covered(state.end).unwrap_or(covers));
            states.push((id, depot, state));
        }
        let pending = self.needed_through(covers);
        self.write_system(&states, covers);
        Ok(Frozen { covers, pending, states, layers: self.store.freeze() })
    }

    /// The rest of [`Partition::fold`].
    ///
    /// # Errors
    /// As [`Partition::fold`].
    pub(crate) async fn fold_frozen(&self, frozen: Frozen) -> Result<Folded, Error> {
        let Frozen { covers, pending, states, layers } = frozen;
        let failed = |source| Error::PState { partition: self.id, source };
        self.store.fold_frozen(layers, covers, &pending).await.map_err(failed)?;
        self.covers.set(covers);
        self.pending.borrow_mut().clone_from(&pending);
        self.merged.borrow_mut().retain(|_, it| covers < it.committed);
        self.has_root.set(true);
        self.cut.set(false);
        self.folds.set(self.folds.get() + 1);
        for (id, depot, state) in &states {
            let failed = |source| Error::Depot { partition: self.id, depot: *id, source };
            depot.log.recorded(state).await.map_err(failed)?;
            depot.log.journal_released(state.end);
            depot.forget(state.end);
        }
        Ok(Folded { covers, pending })
    }

    /// Writes the engine's own rows, so that the fold that follows holds them.
    fn write_system(&self, depots: &[(DepotId, Rc<Depot>, depot::State)], covers: Index) {
        let mut writes = WriteSet::default();
        for (id, _, state) in depots {
            writes.put(SYSTEM, &SystemKey::Depot(*id).encode(), &state.encode());
        }
        for (&topology, id) in self.committed.borrow().iter() {
            let key = SystemKey::Committed(topology).encode();
            // A commit above `covers` is replayed, so it must not count as contained.
            let all = (topology, MicrobatchId(0))..=(topology, *id);
            let (unmerged, merged) = (self.unmerged.borrow(), self.merged.borrow());
            let above = merged.range(all.clone()).filter(|(_, it)| covers < it.committed);
            let replayed = unmerged.range(all).chain(above).map(|(&(_, id), _)| id);
            let contained = replayed.min().map_or(*id, |lowest| MicrobatchId(lowest.0 - 1));
            writes.put(SYSTEM, &key, &contained.0.to_le_bytes());
        }
        for (&topology, state) in self.coordinated.borrow().iter() {
            writes.put(SYSTEM, &SystemKey::Row(topology).encode(), &state.row.encode());
            let mut begins = Vec::new();
            for begin in &state.begins {
                let bytes = Record::Begin(begin.clone()).encode();
                let len = u32::try_from(bytes.len()).expect("bounded by the wire's limits");
                begins.extend_from_slice(&len.to_le_bytes());
                begins.extend_from_slice(&bytes);
            }
            if !planted(Plant::OffsetsWithoutState) {
                writes.put(SYSTEM, &SystemKey::Begins(topology).encode(), &begins);
            }
        }
        let id = self.system_id.get().next();
        self.system_id.set(id);
        self.store.stack(SYSTEM_TOPOLOGY, id, Rc::new(writes.seal()));
        self.store.merge(SYSTEM_TOPOLOGY, id);
    }

    /// Reads the engine's own rows after the store was opened.
    async fn read_system(&self) -> Result<(), Error> {
        let mut rows = Vec::new();
        self.store
            .scan(
                &View::visible(),
                SYSTEM,
                // What may be many rows comes last, and is looked up one by one.
                KeyRange { to: Bound::Excluded(&[DEAD_LETTER]), ..KeyRange::ALL },
                pstate::Direction::Forward,
                usize::MAX,
                |key, value| {
                    rows.push((key.to_vec(), value.to_vec()));
                    std::ops::ControlFlow::Continue(())
                },
            )
            .await
            .map_err(|source| Error::PState { partition: self.id, source })?;
        for (key, value) in rows {
            let wrong = |what: String| Error::Entry {
                partition: self.id,
                index: self.covers.get(),
                what: format!("the fold's own row {key:02x?}: {what}"),
            };
            let key = SystemKey::decode(&key).ok_or_else(|| wrong("unknown".to_owned()))?;
            match key {
                SystemKey::Depot(id) => {
                    let state = depot::State::decode(&value).map_err(|e| wrong(e.to_string()))?;
                    self.open_depot(id, &state).await?;
                }
                SystemKey::Committed(topology) => {
                    let id = value.try_into().map_err(|_| wrong("not 8 bytes".to_owned()))?;
                    let id = MicrobatchId(u64::from_le_bytes(id));
                    self.committed.borrow_mut().insert(topology, id);
                    self.store.note_contained(topology, id);
                }
                SystemKey::Row(topology) => {
                    let row = Row::decode(&value).map_err(|error| wrong(error.to_string()))?;
                    self.coordinated.borrow_mut().entry(topology).or_default().row = row;
                }
                SystemKey::Begins(topology) => {
                    let begins = decode_begins(&value).map_err(wrong)?;
                    self.coordinated.borrow_mut().entry(topology).or_default().begins = begins;
                }
                SystemKey::DeadLetter => return Err(wrong("out of its place".to_owned())),
            }
        }
        Ok(())
    }
}

/// After so many batches without a miss a partition counts as warm.
const COLD_ROUNDS: u32 = 64;

/// What a fold is about to contain.
pub(crate) struct Frozen {
    covers: Index,
    pub(crate) pending: Vec<Index>,
    states: Vec<(DepotId, Rc<Depot>, depot::State)>,
    layers: pstate::Frozen,
}

impl Frozen {
    pub(crate) fn covers(&self) -> Index {
        self.covers
    }
}

/// What a fold contains now.
pub(crate) struct Folded {
    pub(crate) covers: Index,
    pub(crate) pending: Vec<Index>,
}

/// So many entries are remembered one by one.
const NOTES_MAX: usize = 8_192;

impl Depot {
    /// The entry at `index` holds records up to `end`.
    pub(crate) fn note(&self, index: Index, end: Offset) {
        let mut entries = self.entries.borrow_mut();
        entries.push_back((index, end));
        if entries.len() > NOTES_MAX {
            // Of two neighbours the first index and the second end are kept, which says less, but nothing
            // wrong: a fold may then cover a little less than it could.
            let thinned = entries.make_contiguous().chunks(2).map(|pair| {
                let last = pair.last().expect("chunks are not empty");
                (pair[0].0, last.1)
            });
            *entries = thinned.collect();
        }
    }

    /// The last index such that no entry up to it holds records at or above `flushed`; `None` if no
    /// entry does.
    fn covered(&self, flushed: Offset) -> Option<Index> {
        let entries = self.entries.borrow();
        entries.iter().find(|(_, end)| *end > flushed).map(|(index, _)| Index(index.0 - 1))
    }

    fn forget(&self, flushed: Offset) {
        let mut entries = self.entries.borrow_mut();
        while entries.front().is_some_and(|(_, end)| *end <= flushed) {
            entries.pop_front();
        }
    }
}

/// Keys of [`SYSTEM`]: a letter and a number, or several.
pub(crate) enum SystemKey {
    Depot(DepotId),
    Committed(TopologyId),
    Row(TopologyId),
    Begins(TopologyId),
    /// See [`dead_letter_key`]; the value is empty.
    DeadLetter,
}

/// The letter of [`dead_letter_key`]: above all others.
const DEAD_LETTER: u8 = b'x';

/// The key of a row that marks a refused record.
pub(crate) type DeadLetterKey = [u8; 17];

/// The key in [`SYSTEM`] that says that a topology gave up a record of a depot in this partition.
pub(crate) fn dead_letter_key(
    topology: TopologyId,
    depot: DepotId,
    offset: Offset,
) -> DeadLetterKey {
    let mut key = [DEAD_LETTER; 17];
    key[1..5].copy_from_slice(&topology.0.to_be_bytes());
    key[5..9].copy_from_slice(&depot.0.to_be_bytes());
    key[9..].copy_from_slice(&offset.0.to_be_bytes());
    key
}

/// The range of those keys of one topology.
pub(crate) fn dead_letters_of(topology: TopologyId) -> (Vec<u8>, Vec<u8>) {
    let below = |number: u32| [&[DEAD_LETTER][..], &number.to_be_bytes()].concat();
    let from = below(topology.0);
    let to = topology.0.checked_add(1).map_or(vec![DEAD_LETTER + 1], below);
    (from, to)
}

impl SystemKey {
    fn encode(&self) -> [u8; 5] {
        let (letter, number) = match self {
            Self::DeadLetter => unreachable!("has a longer key"),
            Self::Depot(id) => (b'd', id.0),
            Self::Committed(id) => (b'c', id.0),
            Self::Row(id) => (b'r', id.0),
            Self::Begins(id) => (b'b', id.0),
        };
        let [a, b, c, d] = number.to_be_bytes();
        [letter, a, b, c, d]
    }

    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        if bytes.len() == 17 && bytes.first() == Some(&DEAD_LETTER) {
            return Some(Self::DeadLetter);
        }
        let [letter, a, b, c, d] = *bytes else { return None };
        let number = u32::from_be_bytes([a, b, c, d]);
        match letter {
            b'd' => Some(Self::Depot(DepotId(number))),
            b'c' => Some(Self::Committed(TopologyId(number))),
            b'r' => Some(Self::Row(TopologyId(number))),
            b'b' => Some(Self::Begins(TopologyId(number))),
            _ => None,
        }
    }
}

/// Reads the value of a [`SystemKey::Begins`].
pub(crate) fn decode_begins(mut bytes: &[u8]) -> Result<Vec<Begin>, String> {
    let mut begins = Vec::new();
    while let Some((len, rest)) = bytes.split_first_chunk::<4>() {
        let len = u32::from_le_bytes(*len) as usize;
        let (record, rest) = rest.split_at_checked(len).ok_or("a length beyond the end")?;
        match Record::decode(record).map_err(|error| error.to_string())? {
            Record::Begin(begin) => begins.push(begin),
            Record::Decision(_) | Record::AllApplied(_) => return Err("not a begin".to_owned()),
        }
        bytes = rest;
    }
    if bytes.is_empty() { Ok(begins) } else { Err("bytes behind the end".to_owned()) }
}
