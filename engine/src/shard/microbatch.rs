//! Microbatches on one shard: drives the pure state machines of two-phase commit and the events of the
//! attempts they order.
//!
//! A [`Topology`] holds this shard's participant, and the coordinator if it lives here. Inputs go through
//! [`Shard::participate`] and [`Shard::coordinate`], which perform the effects in the order given: what
//! must be durable first is journalled with an [`Ack`] that steps the machine again.
//!
//! Seen from the state machines nothing here decides anything. Seen from the partitions, an attempt is a
//! [`Running`]: a write set per touched partition and rows waiting there. One task runs the events of all
//! partitions, round after round; only an event that has to wait gets a task of its own.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tidemill_replication::two_phase::{
    AttemptId, Faults, Message as Control, Record, Source, SourceOffset, coordinator, participant,
};
use tidemill_replication::wire;

use super::entry::{Coordinated, PreparedAppends};
use super::message::{Effects, Message, Reply, RowBatch, answer};
use super::migrate::Moves;
use super::partition::{DeadLetterKey, Partition};
use super::parts::Part;
use super::{Ack, NewEntry, Shard};
use crate::codec::placement::Placement;
use crate::env::{Class, Sender};
use crate::error::{Error, Result};
use crate::journal::Kind;
use crate::node::Installed;
use crate::node::numbers::Numbers;
use crate::probe::{Plant, State, planted, reached};
use crate::pstate::WriteSet;
use crate::topology::{self, NodeIndex, Rows};
use crate::types::{
    DepotId, MicrobatchId, Offset, PartitionId, Run, ShardId, Time, TopologyId, WallTime,
};

mod attempt;
mod held;
mod hops;
mod rows;
mod window;

/// One topology on one shard.
pub(crate) struct Topology {
    pub(super) id: TopologyId,
    pub(super) module: Arc<Installed>,
    /// Its place in the module's definition.
    pub(super) place: usize,
    pub(super) coordinator_partition: PartitionId,
    participant: RefCell<participant::Participant>,
    coordinator: RefCell<Option<coordinator::Coordinator>>,
    /// Inputs that came up while effects were being performed: they wait, so that the effects of one
    /// step are all performed, in order, before the next step.
    inputs: RefCell<VecDeque<Input>>,
    performing: Cell<bool>,
    running: RefCell<BTreeMap<AttemptId, Rc<Running>>>,
    held: RefCell<VecDeque<(ShardId, RowBatch)>>,
    visible: Cell<MicrobatchId>,
    read: RefCell<BTreeMap<Source, Offset>>,
    windows: RefCell<BTreeMap<Source, window::Window>>,
    waiting: RefCell<Waiting>,
    visible_waiting: RefCell<Vec<(MicrobatchId, Reply<()>)>>,
    wake_participant: Cell<Option<u64>>,
    wake_coordinator: Cell<Option<u64>>,
    pub(super) paused: RefCell<Option<coordinator::PauseReason>>,
    pub(super) moves: Moves,
    started: Cell<bool>,
    /// Those that its `PState`s had when it was last looked at.
    pub(super) numbers: RefCell<Arc<Numbers>>,
    pub(super) recompute: super::recompute::OfTopology,
    /// Nothing begins, for a backup.
    pub(super) hold: RefCell<Option<super::backup::Hold>>,
}

/// Who waits for the effects of which record.
type Waiting = BTreeMap<(Source, Offset), Vec<Part<Result<Effects>>>>;

/// An input of one of the two machines.
enum Input {
    Participant(participant::Input),
    Coordinator(coordinator::Input),
}

/// One attempt on this shard.
pub(crate) struct Running {
    pub(super) attempt: AttemptId,
    pub(super) began: WallTime,
    /// Where the module's `PState`s are stored for this attempt.
    pub(super) numbers: Arc<Numbers>,
    pub(super) failed: Cell<bool>,
    /// Rows that wait here, and what was written.
    bytes: Cell<u64>,
    /// Rows on their way to and from other shards.
    hops: hops::Hops,
    /// Changes of aggregations that wait to be combined with later ones.
    held: held::Held,
    /// The most that may be.
    pub(super) bytes_max: u64,
    works: RefCell<BTreeMap<PartitionId, Rc<Work>>>,
    /// Pieces of work here: batches queued or being run, ranges being read. All of them are one item of
    /// the participant.
    pieces: Cell<u64>,
    /// Partitions with queued rows, in the order in which they got them.
    ready: RefCell<VecDeque<Rc<Work>>>,
    /// A task runs what is ready.
    is_run: Cell<bool>,
}

/// One attempt on one partition: events run one after the other.
pub(crate) struct Work {
    pub(super) partition: Rc<Partition>,
    pub(super) writes: RefCell<WriteSet>,
    pub(super) appends: RefCell<PreparedAppends>,
    /// Rows of the engine that mark refused records, whose dead letters are among `appends`, or of no concern to a
    /// shadow.
    pub(super) letters: RefCell<Vec<DeadLetterKey>>,
    touched: Cell<bool>,
    /// Bytes of `appends` and `letters`.
    pub(super) appended_bytes: Cell<u64>,
    /// Of its writes, what the attempt's bytes contain.
    counted_bytes: Cell<u64>,
    queue: RefCell<VecDeque<Queued>>,
    /// A step of the topology's migrations is to be taken, when the queue is empty.
    has_step: Cell<bool>,
    /// It is ready, or an event runs.
    busy: Cell<bool>,
}

/// Rows that wait for their event.
struct Queued {
    node: NodeIndex,
    rows: Rows,
    /// The other shards they came from, which are owed their bytes.
    owed: Vec<(ShardId, u64)>,
}

/// A step of two-phase commit that waited for the journal.
#[derive(Clone, Debug)]
pub(crate) enum Durable {
    Prepared(AttemptId),
    Committed(AttemptId),
    Persisted(coordinator::Token, Record),
    Lazily(Record),
    Locally { token: coordinator::Token, attempt: AttemptId, record: Record },
}

/// An event runs over at most this many rows at once.
pub(super) const ROWS_MAX: usize = 1_024;

impl Running {
    fn new(attempt: AttemptId, began: WallTime, bytes_max: u64, numbers: Arc<Numbers>) -> Self {
        Self {
            attempt,
            began,
            numbers,
            failed: Cell::new(false),
            bytes: Cell::default(),
            hops: hops::Hops::default(),
            held: held::Held::default(),
            bytes_max,
            works: RefCell::default(),
            pieces: Cell::default(),
            ready: RefCell::default(),
            is_run: Cell::new(false),
        }
    }

    /// What it holds here, and so many bytes more.
    pub(super) fn holds(&self, more: u64) -> u64 {
        self.bytes.get() + more
    }

    /// The work on one partition, made when it is first needed.
    pub(super) fn work(&self, partition: &Rc<Partition>) -> Rc<Work> {
        let mut works = self.works.borrow_mut();
        Rc::clone(works.entry(partition.id).or_insert_with(|| {
            Rc::new(Work {
                partition: Rc::clone(partition),
                writes: RefCell::default(),
                appends: RefCell::default(),
                letters: RefCell::default(),
                touched: Cell::new(false),
                appended_bytes: Cell::default(),
                counted_bytes: Cell::default(),
                queue: RefCell::default(),
                has_step: Cell::default(),
                busy: Cell::new(false),
            })
        }))
    }
}

impl Topology {
    /// Up to where it has read a source for the last time, as far as this shard knows.
    pub(super) fn read_of(&self, source: Source) -> Offset {
        self.read.borrow().get(&source).copied().unwrap_or_default()
    }

    /// The partition in whose sequence the coordinator of the topology called `name` writes.
    pub(crate) fn coordinator_partition(name: &str, partitions: u32) -> PartitionId {
        Placement::of(name.as_bytes()).partition(partitions)
    }

    /// How far readers of this shard see it.
    pub(super) fn visible(&self) -> MicrobatchId {
        self.visible.get()
    }

    /// The coordinator, if it lives here.
    pub(super) fn coordinator(&self) -> std::cell::Ref<'_, Option<coordinator::Coordinator>> {
        self.coordinator.borrow()
    }

    pub(super) fn definition(&self) -> &topology::Definition {
        &self.module.definition.topologies[self.place]
    }

    /// Whether it is the second instance of a topology that is being recomputed.
    pub(super) fn is_shadow(&self) -> bool {
        self.module.shadow.is_some()
    }

    /// What it is called, for people.
    pub(super) fn title(&self) -> String {
        let name = &self.definition().name;
        if self.is_shadow() { format!("{name} (recompute)") } else { name.clone() }
    }
}

// ---- starting ----

impl Shard {
    /// Makes the participants of a module's topologies, and the coordinators that live here, if that was
    /// not done before. They stay silent until [`Shard::start_topologies`].
    pub(super) async fn install(self: &Rc<Self>, module: Arc<Installed>) -> Result<()> {
        let depots = module.depots.iter().chain(&module.dead_letters);
        for partition in self.partitions.values() {
            for &depot in depots.clone() {
                partition.depot(depot).await.map_err(|error| self.stopped_by(&error))?;
            }
        }
        for (place, id) in module.running() {
            if self.topologies.borrow().contains_key(&id) {
                continue;
            }
            let topology = Rc::new(self.make_topology(&module, place, id));
            self.topologies.borrow_mut().insert(id, topology);
        }
        Ok(())
    }

    /// Installs every module that is launched, starts those that may start, and tells the other shards
    /// that this one runs again.
    pub(super) async fn rejoin(self: &Rc<Self>) -> Result<()> {
        for module in self.setup.modules() {
            self.install(module).await?;
        }
        for topology in self.setup.retired() {
            self.retire(topology);
        }
        self.start();
        let (own, run) = (self.env.shard(), self.run);
        // Noted before the news, so that a peer that starts just now reads it if it cannot be told.
        self.setup.note_run(own, run);
        for peer in (0..self.setup.shards).map(ShardId).filter(|&peer| peer != own) {
            self.env.mesh().send(peer, Box::new(Message::Peer { shard: own, run, up: true }));
        }
        // Those that become so from now on are started by a message, which this shard can receive.
        for module in self.setup.modules().iter().filter(|module| module.is_everywhere()) {
            let running: Vec<_> = module.running().map(|(_, id)| id).collect();
            self.start_topologies(&running);
        }
        Ok(())
    }

    fn make_topology(&self, module: &Arc<Installed>, place: usize, id: TopologyId) -> Topology {
        let name = &module.definition.topologies[place].name;
        // What lies below counts as read: it never will be.
        let starts = &module.starts[place];
        let coordinator_partition = Topology::coordinator_partition(name, self.setup.partitions);
        let coordinator_shard = self.setup.owner(coordinator_partition);
        let faults = Faults {
            decision_before_durable: planted(Plant::DecisionBeforeDurable),
            other_attempt_accepted: planted(Plant::OtherAttemptAccepted),
            single_journal_overtakes: planted(Plant::SingleJournalOvertakes),
            offsets_without_state: planted(Plant::OffsetsWithoutState),
        };
        let own = self.env.shard();
        let config = participant::Config { own, coordinator: coordinator_shard, faults };
        let participant = participant::Participant::recover(config, self.recovered(id));
        let coordinator = self.partitions.get(&coordinator_partition).map(|partition| {
            let state = partition.coordinator_state(id);
            if module.shadow.is_some() && !state.row.offsets.is_empty() {
                reached(State::RecomputeAtCrash);
            }
            if !state.row.unapplied.is_empty() {
                reached(State::DecidedUnappliedAtCrash);
            }
            let owners =
                (0..self.setup.partitions).map(|it| self.setup.owner(PartitionId(it))).collect();
            let options = &self.setup.options;
            let records_max = match module.shadow {
                None => options.microbatch_records_max,
                Some(_) => options.microbatch_records_max.min(super::recompute::RECORDS_MAX),
            };
            let config = coordinator::Config { own, owners, records_max, faults };
            let mut row = state.row;
            for (&source, &start) in starts {
                row.offsets.entry(source).or_insert(start);
            }
            coordinator::Coordinator::recover(config, self.run, Some(row), state.begins)
        });
        Topology {
            id,
            module: Arc::clone(module),
            place,
            coordinator_partition,
            participant: RefCell::new(participant),
            coordinator: RefCell::new(coordinator),
            inputs: RefCell::default(),
            performing: Cell::default(),
            running: RefCell::default(),
            held: RefCell::default(),
            visible: Cell::default(),
            read: RefCell::new(starts.clone()),
            windows: RefCell::new(window::beginning(starts)),
            waiting: RefCell::default(),
            visible_waiting: RefCell::default(),
            wake_participant: Cell::default(),
            wake_coordinator: Cell::default(),
            paused: RefCell::default(),
            moves: Moves::new(module, place, &self.partitions),
            started: Cell::default(),
            numbers: RefCell::new(module.numbers()),
            recompute: super::recompute::OfTopology::default(),
            hold: RefCell::default(),
        }
    }

    /// What this shard's partitions know of a topology.
    fn recovered(&self, topology: TopologyId) -> participant::Recovered {
        let mut recovered = participant::Recovered::default();
        for partition in self.partitions.values() {
            let in_doubt = partition.in_doubt();
            let prepares = in_doubt.iter().filter(|it| it.topology == topology);
            recovered.prepares.extend(prepares.map(|it| (it.attempt, partition.id)));
            recovered.committed.push((partition.id, partition.committed(topology)));
        }
        if !recovered.prepares.is_empty() {
            reached(State::PreparedUndecidedAtCrash);
        }
        recovered
    }

    /// Every shard has the participants now: they and the coordinators may speak.
    pub(super) fn start_topologies(self: &Rc<Self>, topologies: &[TopologyId]) {
        for id in topologies {
            let Some(topology) = self.topologies.borrow().get(id).cloned() else { continue };
            if topology.started.replace(true) {
                continue;
            }
            self.participate(&topology, participant::Input::Start);
            for peer in self.peers.down() {
                self.coordinate(&topology, coordinator::Input::ShardDown(peer));
            }
            self.keep_stopped(&topology);
            self.coordinate(&topology, coordinator::Input::Start);
            self.tell_sources(&topology);
            self.watch_moves(&topology);
        }
    }

    /// Tells the coordinator of all sources on this shard.
    fn tell_sources(self: &Rc<Self>, topology: &Rc<Topology>) {
        let ends = self.source_ends(topology);
        self.tell_source(topology, ends.iter().map(|end| end.source));
    }

    /// How far each source of a topology on this shard is durable.
    fn source_ends(&self, topology: &Topology) -> Vec<SourceOffset> {
        let mut ends = Vec::new();
        for source in &topology.definition().sources {
            let depot = topology.module.depots[source.depot.0 as usize];
            for partition in self.partitions.values() {
                if let Some(known) = partition.known_depot(depot) {
                    let source = Source { depot, partition: partition.id };
                    ends.push(SourceOffset { source, offset: known.log.durable_end() });
                }
            }
        }
        ends.sort_unstable();
        ends.dedup();
        ends
    }

    /// Records became durable.
    pub(super) fn sources_grew(self: &Rc<Self>, grown: &BTreeMap<Source, Offset>) {
        if grown.is_empty() {
            return;
        }
        let topologies: Vec<_> = self.topologies.borrow().values().cloned().collect();
        for topology in topologies {
            let reads = |depot: DepotId| {
                let sources = &topology.definition().sources;
                sources.iter().any(|it| topology.module.depots[it.depot.0 as usize] == depot)
            };
            let grown = grown.keys().filter(|source| reads(source.depot));
            self.tell_source(&topology, grown.copied());
        }
    }

    /// A life of another shard is heard of. Whether what it says counts.
    pub(super) fn hear(self: &Rc<Self>, shard: ShardId, run: Run, up: bool) -> bool {
        let news = self.peers.hear(shard, run, up);
        if news.went_down || news.came_up {
            let topologies: Vec<_> = self.topologies.borrow().values().cloned().collect();
            for topology in topologies {
                if news.went_down {
                    topology.held.borrow_mut().retain(|(sender, _)| *sender != shard);
                    for (_, reply) in topology.visible_waiting.take() {
                        answer(reply, Err(self.setup.stopped_error(shard)));
                    }
                    self.coordinate(&topology, coordinator::Input::ShardDown(shard));
                }
                if news.came_up {
                    self.coordinate(&topology, coordinator::Input::ShardUp(shard));
                }
            }
        }
        news.current
    }
}

// ---- the two machines ----

impl Shard {
    /// A message of two-phase commit.
    pub(super) fn control(
        self: &Rc<Self>,
        sender: Sender,
        (sent_by, sent_to): (Run, Run),
        bytes: &[u8],
    ) {
        let Sender::Shard(from) = sender else {
            unreachable!("clients send no messages of two-phase commit");
        };
        if !self.hear(from, sent_by, true) || sent_to != self.run {
            return;
        }
        let (id, message) = match wire::decode_message(bytes) {
            Ok(decoded) => decoded,
            Err(error) => return self.fail(&error),
        };
        let Some(topology) = self.topologies.borrow().get(&id).cloned() else { return };
        match message {
            Control::SourceEnds { .. }
            | Control::Report { .. }
            | Control::Vote { .. }
            | Control::Failed { .. }
            | Control::Applied { .. }
            | Control::Ask { .. } => {
                self.coordinate(&topology, coordinator::Input::Message { from, message });
            }
            Control::Hello { .. }
            | Control::Begin { .. }
            | Control::Probe { .. }
            | Control::Prepare { .. }
            | Control::Decided { .. }
            | Control::Abort { .. }
            | Control::Undecided { .. }
            | Control::Visible { .. } => {
                self.participate(&topology, participant::Input::Message(message));
            }
        }
    }

    fn send_control(&self, topology: &Topology, to: ShardId, message: &Control) {
        let bytes = wire::encode_message(topology.id, message);
        let message = Message::Control { from: self.run, to: self.peers.run(to), bytes };
        self.env.mesh().send(to, Box::new(message));
    }

    /// Steps the participant and performs what it wants.
    pub(super) fn participate(self: &Rc<Self>, topology: &Rc<Topology>, input: participant::Input) {
        self.step(topology, Input::Participant(input));
    }

    /// Steps the coordinator, if it lives here, and performs what it wants.
    pub(super) fn coordinate(self: &Rc<Self>, topology: &Rc<Topology>, input: coordinator::Input) {
        if topology.coordinator.borrow().is_some() {
            self.step(topology, Input::Coordinator(input));
        }
    }

    fn step(self: &Rc<Self>, topology: &Rc<Topology>, input: Input) {
        if self.closing.get() {
            return;
        }
        topology.inputs.borrow_mut().push_back(input);
        if topology.performing.replace(true) {
            return;
        }
        let now = self.env.now().0;
        loop {
            let next = topology.inputs.borrow_mut().pop_front();
            match next {
                Some(Input::Participant(input)) => {
                    let mut effects = Vec::new();
                    topology.participant.borrow_mut().step(now, input, &mut effects);
                    for effect in effects {
                        self.perform_participant(topology, effect);
                    }
                }
                Some(Input::Coordinator(input)) => {
                    let mut effects = Vec::new();
                    if let Some(coordinator) = &mut *topology.coordinator.borrow_mut() {
                        coordinator.observe_wall(self.env.wall().0);
                        coordinator.step(now, input, &mut effects);
                    }
                    for effect in effects {
                        self.perform_coordinator(topology, effect);
                    }
                }
                None => break,
            }
        }
        topology.performing.set(false);
        Self::note_rest(topology);
        self.note_reached(topology);
    }

    fn perform_participant(self: &Rc<Self>, topology: &Rc<Topology>, effect: participant::Effect) {
        use participant::Effect;
        match effect {
            Effect::StartSources { attempt, ranges, exclusions, below: _, began_us } => {
                self.start_sources(topology, attempt, WallTime(began_us), &ranges, &exclusions);
            }
            Effect::WritePrepare { attempt, partitions } => {
                let entries = self.prepare(topology, attempt, &partitions);
                self.counters.borrow_mut().prepares += 1;
                let step = Durable::Prepared(attempt);
                let mut acks = vec![Ack::TwoPhase { topology: Rc::clone(topology), step }];
                if planted(Plant::OffsetsBeforeCommitted) {
                    acks.push(self.place_prepared(topology, attempt, &partitions));
                }
                self.log(&entries, acks);
            }
            Effect::WriteCommitted { attempt, partitions } => {
                let (entries, mut acks) = self.commit(topology, attempt, &partitions);
                let step = Durable::Committed(attempt);
                acks.push(Ack::TwoPhase { topology: Rc::clone(topology), step });
                self.log(&entries, acks);
            }
            Effect::WriteLocally { .. } => {
                unreachable!("answers a local commit, which takes it off the list itself");
            }
            Effect::Drop { attempt, aborted } => self.drop_attempt(topology, attempt, &aborted),
            Effect::MergeVisible { id, offsets } => self.make_visible(topology, id, &offsets),
            Effect::Send { to, message } => self.send_control(topology, to, &message),
            Effect::WakeAt(at) => {
                let earlier = topology.wake_participant.replace(Some(at));
                if earlier != Some(at) {
                    let (shard, topology) = (Rc::clone(self), Rc::clone(topology));
                    self.at(at, move || {
                        if topology.wake_participant.get() == Some(at) {
                            topology.wake_participant.set(None);
                            shard.participate(&topology, participant::Input::Wake);
                        }
                    });
                }
            }
            Effect::Lost { attempt, partitions } => {
                let what = format!(
                    "microbatch {attempt} of {} was committed, but partitions {partitions:?} have no \
                     trace of it",
                    topology.title()
                );
                self.fail(&Error::Corrupt { what });
            }
        }
    }

    fn perform_coordinator(self: &Rc<Self>, topology: &Rc<Topology>, effect: coordinator::Effect) {
        use coordinator::Effect;
        match effect {
            Effect::Persist { token, record } => {
                if matches!(record, Record::Begin(_)) {
                    self.note_begin(topology);
                }
                self.persist(topology, &record, Durable::Persisted(token, record.clone()));
            }
            Effect::PersistLazily { record } => {
                self.persist(topology, &record, Durable::Lazily(record.clone()));
            }
            Effect::Send { to, message } => self.send_control(topology, to, &message),
            Effect::CommitLocally { token, decision } => {
                self.commit_locally(topology, token, decision);
            }
            // This shard's participant is told like every other.
            Effect::Visible { .. } => self.pace(topology),
            Effect::WakeAt(at) => {
                let earlier = topology.wake_coordinator.replace(Some(at));
                if earlier != Some(at) {
                    let (shard, topology) = (Rc::clone(self), Rc::clone(topology));
                    self.at(at, move || {
                        if topology.wake_coordinator.get() == Some(at) {
                            topology.wake_coordinator.set(None);
                            shard.coordinate(&topology, coordinator::Input::Wake);
                        }
                    });
                }
            }
            Effect::Paused { reason } => {
                *topology.paused.borrow_mut() = Some(reason);
            }
            Effect::Resumed => *topology.paused.borrow_mut() = None,
            Effect::Excluded { .. } if topology.is_shadow() => {}
            Effect::Excluded { .. } => self.counters.borrow_mut().dead_letters += 1,
        }
    }

    /// Runs `action` at a time of the monotonic clock.
    fn at(&self, at_ns: u64, action: impl FnOnce() + 'static) {
        let wait: Duration = Time(at_ns).since(self.env.now());
        let sleep = self.env.sleep(wait);
        self.env.spawn(Class::Core, "two-phase timer", async move {
            sleep.await;
            action();
        });
    }

    /// The journal made a step durable.
    pub(super) fn two_phase_durable(self: &Rc<Self>, topology: &Rc<Topology>, step: Durable) {
        match step {
            Durable::Prepared(attempt) => {
                self.participate(topology, participant::Input::PrepareDurable { attempt });
            }
            Durable::Committed(attempt) => {
                self.participate(topology, participant::Input::CommittedDurable { attempt });
            }
            Durable::Persisted(token, record) => {
                self.add_record(topology, &record);
                self.coordinate(topology, coordinator::Input::Persisted(token));
            }
            Durable::Lazily(record) => self.add_record(topology, &record),
            Durable::Locally { token, attempt, record } => {
                self.add_record(topology, &record);
                self.coordinate(topology, coordinator::Input::Persisted(token));
                self.participate(topology, participant::Input::CommittedDurable { attempt });
            }
        }
    }

    fn add_record(&self, topology: &Topology, record: &Record) {
        let partition = &self.partitions[&topology.coordinator_partition];
        if let Err(error) = partition.add_record(topology.id, record) {
            // Recovery would refuse it too, so nothing is built on it.
            self.fail(&error);
        }
    }

    fn persist(&self, topology: &Rc<Topology>, record: &Record, step: Durable) {
        let entry = self.record_entry(topology, record);
        self.log(&[entry], vec![Ack::TwoPhase { topology: Rc::clone(topology), step }]);
    }

    fn record_entry(&self, topology: &Topology, record: &Record) -> NewEntry {
        let kind = match record {
            Record::Begin(_) => Kind::Begin,
            Record::Decision(_) => Kind::Decision,
            Record::AllApplied(_) => Kind::AllApplied,
        };
        let bytes = Coordinated { topology: topology.id, record: &record.encode() }.encode();
        NewEntry::new(&self.partitions[&topology.coordinator_partition], kind, bytes)
    }
}
