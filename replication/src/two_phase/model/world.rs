//! Three shards, their journals and channels, and chance.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::oracle::Oracle;
use crate::two_phase::coordinator::{self, Coordinator, Token};
use crate::two_phase::participant::{self, Admission, Participant, Recovered};
use crate::two_phase::{
    AttemptId, Begin, Decision, Failure, FailureKind, Faults, Origin, Record, Row, Source,
    SourceOffset,
};
use crate::types::{DepotId, MicrobatchId, Offset, PartitionId, Run, ShardId, TopologyId};
use crate::wire;

const SHARDS: usize = 3;
const PARTITIONS: usize = 6;
/// Where the coordinator lives.
const HOME: usize = 0;
const TOPOLOGY: TopologyId = TopologyId(7);

/// Shard of a partition.
pub(super) fn owner(partition: PartitionId) -> usize {
    partition.0 as usize % SHARDS
}

/// What a seed chooses before it starts.
#[derive(Clone, Copy, Debug)]
pub(super) struct Options {
    seed: u64,
    crashes: u64,
    repeats: bool,
    bad_percent: u64,
    local_percent: u64,
    steps: u64,
    /// Whether aborted entries are written soon.
    hurry: bool,
    /// Steps between misfortunes.
    calm: u64,
}

impl Options {
    pub(super) fn of(seed: u64) -> Self {
        let mut rng = Rng(seed ^ 0x5eed);
        Self {
            seed,
            crashes: rng.below(5),
            repeats: rng.below(2) == 0,
            bad_percent: [0, 0, 10, 30][rng.index(4)],
            local_percent: [0, 50, 90][rng.index(3)],
            steps: 100 + rng.below(600),
            hurry: rng.below(2) == 0,
            calm: 20 + rng.below(100),
        }
    }
}

/// Situations that must occur over a batch of seeds, or the model tests too little.
#[derive(Debug, Default)]
pub(super) struct Seen {
    counts: BTreeMap<&'static str, u64>,
}

impl Seen {
    fn mark(&mut self, situation: &'static str) {
        *self.counts.entry(situation).or_default() += 1;
    }

    pub(super) fn add(&mut self, other: &Self) {
        for (situation, count) in &other.counts {
            *self.counts.entry(situation).or_default() += count;
        }
    }

    pub(super) fn assert_all_occurred(&self) {
        for situation in [
            "local commit",
            "local commit refused",
            "prepare failed",
            "repeated message",
            "shard crash",
            "home crash",
            "crash of all",
            "prepared and undecided at a crash",
            "decided and unapplied at a crash",
            "two attempts of one id prepared",
            "prepared dropped with next prepared",
            "record excluded",
            "begin taken up",
            "row batch held",
            "stale row batch",
            "two undecided",
        ] {
            assert!(self.counts.contains_key(situation), "{situation} never occurred: {self:?}");
        }
    }
}

/// One record: where its row goes, and what is wrong with it.
#[derive(Clone, Debug)]
pub(super) struct Item {
    pub(super) path: Vec<PartitionId>,
    pub(super) bad: Bad,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Bad {
    Never,
    /// Rejected at this hop, with its name.
    Named(usize),
    /// Rejected at this hop, without.
    Nameless(usize),
    /// Fails so often, at the first hop, in a way that may pass.
    Flaky(u64),
}

/// One effect of a record on the state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Write {
    pub(super) origin: Origin,
    pub(super) hop: usize,
    pub(super) dead: bool,
}

#[derive(Clone, Debug)]
pub(super) enum Entry {
    Prepare {
        attempt: AttemptId,
        partition: PartitionId,
        writes: BTreeSet<Write>,
    },
    Committed {
        attempt: AttemptId,
        partition: PartitionId,
    },
    Aborted {
        attempt: AttemptId,
        partition: PartitionId,
    },
    Record(Vec<u8>),
    /// All or nothing.
    Group(Vec<Entry>),
}

impl Entry {
    pub(super) fn parts(&self) -> Vec<&Entry> {
        match self {
            Self::Group(parts) => parts.iter().collect(),
            Self::Prepare { .. }
            | Self::Committed { .. }
            | Self::Aborted { .. }
            | Self::Record(_) => vec![self],
        }
    }
}

/// A row on its way.
#[derive(Clone, Copy, Debug)]
struct Flow {
    origin: Origin,
    hop: usize,
}

/// What a participant says to the coordinator, or a driver about its shard.
#[derive(Clone, Debug)]
enum Packet {
    Bytes(Vec<u8>),
    Down,
    Up,
}

#[derive(Clone, Copy, Debug)]
enum Completion {
    Persisted(Token),
    Prepared(AttemptId),
    Committed(AttemptId),
}

#[derive(Debug)]
struct Shard {
    up: bool,
    journal: Vec<Entry>,
    durable: usize,
    /// What to report once so many entries are durable; ascending.
    completions: VecDeque<(usize, Completion)>,
    participant: Participant,
    overlays: BTreeMap<AttemptId, BTreeMap<PartitionId, BTreeSet<Write>>>,
    work: Vec<(AttemptId, Flow)>,
    held: Vec<(AttemptId, Flow)>,
    /// Aborted entries to be written some time.
    lazy: Vec<(AttemptId, PartitionId)>,
    /// The id dropped last, if it was prepared.
    dropped_prepared: Option<MicrobatchId>,
    wake: Option<u64>,
    visible: MicrobatchId,
    visible_offsets: BTreeMap<Source, Offset>,
}

#[derive(Debug)]
pub(super) struct World {
    options: Options,
    faults: Faults,
    rng: Rng,
    now: u64,
    chaos: bool,
    crashes: u64,
    run: Run,
    coordinator: Option<Coordinator>,
    wake: Option<u64>,
    shards: Vec<Shard>,
    /// To the coordinator, from each shard.
    to_home: Vec<VecDeque<Packet>>,
    /// From the coordinator, to each shard.
    from_home: Vec<VecDeque<Vec<u8>>>,
    /// The coordinator has not yet been told that this shard is up again.
    closed: Vec<bool>,
    rows: BTreeMap<(usize, usize), VecDeque<(AttemptId, Flow)>>,
    appended: BTreeMap<Source, Offset>,
    flaky: BTreeMap<Origin, u64>,
    oracle: Oracle,
    seen: Seen,
    violation: Option<String>,
    trace: VecDeque<String>,
}

#[derive(Clone, Copy, Debug)]
enum Action {
    DeliverHome(usize),
    DeliverShard(usize),
    DeliverRows(usize, usize),
    Work(usize),
    Flush(usize),
    WriteAborted(usize),
    Tick,
    Append(Source),
    Crash(usize),
    CrashAll,
    Restart(usize),
}

impl World {
    pub(super) fn new(options: Options, faults: Faults) -> Self {
        let mut world = Self {
            options,
            faults,
            rng: Rng(options.seed),
            now: 0,
            chaos: true,
            crashes: options.crashes,
            run: Run(0),
            coordinator: None,
            wake: None,
            shards: Vec::new(),
            to_home: vec![VecDeque::new(); SHARDS],
            from_home: vec![VecDeque::new(); SHARDS],
            closed: vec![false; SHARDS],
            rows: BTreeMap::new(),
            appended: BTreeMap::new(),
            flaky: BTreeMap::new(),
            oracle: Oracle::default(),
            seen: Seen::default(),
            violation: None,
            trace: VecDeque::new(),
        };
        world.invent_items();
        for shard in 0..SHARDS {
            let participant = world.recovered_participant(shard, &[]);
            world.shards.push(Shard {
                up: false,
                journal: Vec::new(),
                durable: 0,
                completions: VecDeque::new(),
                participant,
                overlays: BTreeMap::new(),
                work: Vec::new(),
                held: Vec::new(),
                lazy: Vec::new(),
                dropped_prepared: None,
                wake: None,
                visible: MicrobatchId(0),
                visible_offsets: BTreeMap::new(),
            });
        }
        for shard in (0..SHARDS).rev() {
            world.restart(shard);
        }
        world
    }

    fn invent_items(&mut self) {
        for partition in 0..PARTITIONS {
            let source = Source {
                depot: DepotId(1),
                partition: PartitionId(u32::try_from(partition).unwrap()),
            };
            let mut items = Vec::new();
            for _ in 0..self.rng.below(5) {
                let mut path = vec![source.partition];
                let local = self.rng.below(100) < self.options.local_percent;
                for _ in 0..self.rng.below(4) {
                    let any = PartitionId(u32::try_from(self.rng.index(PARTITIONS)).unwrap());
                    let there = if local { source.partition } else { any };
                    path.push(there);
                }
                let hop = self.rng.index(path.len());
                let bad = if self.rng.below(100) >= self.options.bad_percent {
                    Bad::Never
                } else {
                    match self.rng.below(3) {
                        0 => Bad::Named(hop),
                        1 => Bad::Nameless(hop),
                        _ => Bad::Flaky(1 + self.rng.below(3)),
                    }
                };
                if let Bad::Flaky(times) = bad {
                    let offset = Offset(items.len() as u64);
                    self.flaky.insert(Origin { source, offset }, times);
                }
                items.push(Item { path, bad });
            }
            self.appended.insert(source, Offset(0));
            self.oracle.items.insert(source, items);
        }
    }

    /// Chaos, then calm until nothing can happen any more.
    pub(super) fn explore(&mut self) -> Result<Seen, String> {
        for _ in 0..self.options.steps {
            self.act()?;
        }
        self.chaos = false;
        for shard in (0..SHARDS).rev() {
            if !self.shards[shard].up {
                self.restart(shard);
            }
        }
        let mut steps = 0;
        while self.act()? {
            steps += 1;
            if steps > CALM_STEPS_MAX {
                return Err("it never comes to rest".to_owned());
            }
        }
        self.check_end()?;
        Ok(std::mem::take(&mut self.seen))
    }

    pub(super) fn trace(&self) -> String {
        let lines: Vec<_> = self.trace.iter().map(String::as_str).collect();
        lines.join("\n")
    }

    fn note(&mut self, line: String) {
        if self.trace.len() == TRACE_LINES_MAX {
            self.trace.pop_front();
        }
        self.trace.push_back(line);
    }

    /// One step of anybody; whether there was any.
    fn act(&mut self) -> Result<bool, String> {
        let actions = self.possible();
        if actions.is_empty() {
            return Ok(false);
        }
        let action = match self.misfortune() {
            Some(crash) => crash,
            None => actions[self.rng.index(actions.len())],
        };
        self.note(format!("{action:?}"));
        match action {
            Action::DeliverHome(shard) => self.deliver_home(shard),
            Action::DeliverShard(shard) => self.deliver_shard(shard),
            Action::DeliverRows(from, to) => self.deliver_rows(from, to),
            Action::Work(shard) => self.work(shard),
            Action::Flush(shard) => self.flush(shard),
            Action::WriteAborted(shard) => {
                for (attempt, partition) in std::mem::take(&mut self.shards[shard].lazy) {
                    self.push(shard, Entry::Aborted { attempt, partition }, None);
                }
            }
            Action::Tick => self.tick(),
            Action::Append(source) => self.append(source),
            Action::Crash(shard) => {
                self.crashes -= 1;
                self.seen.mark(if shard == HOME { "home crash" } else { "shard crash" });
                self.crash(&[shard]);
            }
            Action::CrashAll => {
                self.crashes -= 1;
                self.seen.mark("crash of all");
                self.crash(&[0, 1, 2]);
            }
            Action::Restart(shard) => self.restart(shard),
        }
        if self.coordinator.as_ref().is_some_and(|home| home.undecided().len() == 2) {
            self.seen.mark("two undecided");
        }
        match self.violation.take() {
            Some(violation) => Err(violation),
            None => Ok(true),
        }
    }

    /// A crash now and then.
    fn misfortune(&mut self) -> Option<Action> {
        if !self.chaos || self.crashes == 0 || self.rng.below(self.options.calm) > 0 {
            return None;
        }
        let shard = self.rng.index(SHARDS + 1);
        match self.shards.get(shard) {
            None => Some(Action::CrashAll),
            Some(it) => it.up.then_some(Action::Crash(shard)),
        }
    }

    fn possible(&self) -> Vec<Action> {
        let mut actions = Vec::new();
        for shard in 0..SHARDS {
            let it = &self.shards[shard];
            if !it.up {
                actions.push(Action::Restart(shard));
                continue;
            }
            if !self.to_home[shard].is_empty() && self.coordinator.is_some() {
                actions.push(Action::DeliverHome(shard));
            }
            if !self.from_home[shard].is_empty() {
                actions.push(Action::DeliverShard(shard));
            }
            if !it.work.is_empty() {
                actions.push(Action::Work(shard));
                actions.push(Action::Work(shard));
            }
            if it.durable < it.journal.len() {
                actions.push(Action::Flush(shard));
            }
        }
        // What a shard said before it went down, and that it did.
        for shard in 0..SHARDS {
            let down_and_said = !self.shards[shard].up && !self.to_home[shard].is_empty();
            if down_and_said && self.coordinator.is_some() {
                actions.push(Action::DeliverHome(shard));
            }
        }
        for (&(from, to), queue) in &self.rows {
            if !queue.is_empty() && self.shards[to].up {
                actions.push(Action::DeliverRows(from, to));
            }
        }
        for (source, items) in &self.oracle.items {
            if self.appended[source].0 < items.len() as u64 {
                actions.push(Action::Append(*source));
            }
        }
        for shard in 0..SHARDS {
            if !self.shards[shard].lazy.is_empty() && (self.options.hurry || actions.is_empty()) {
                actions.push(Action::WriteAborted(shard));
            }
        }
        if self.wake.is_some() || self.shards.iter().any(|shard| shard.wake.is_some()) {
            actions.push(Action::Tick);
        }
        actions
    }

    // ---- delivery

    fn deliver_home(&mut self, shard: usize) {
        let Some(packet) = self.to_home[shard].pop_front() else { return };
        let from = ShardId(u16::try_from(shard).unwrap());
        let input = match packet {
            Packet::Down => coordinator::Input::ShardDown(from),
            Packet::Up => {
                self.closed[shard] = false;
                coordinator::Input::ShardUp(from)
            }
            Packet::Bytes(bytes) => {
                if self.repeats() {
                    // In the same life of the shard: before the news of its end.
                    let queue = &mut self.to_home[shard];
                    let end = queue.iter().position(|packet| matches!(packet, Packet::Down));
                    let end = end.unwrap_or(queue.len());
                    queue.insert(end, Packet::Bytes(bytes.clone()));
                }
                let (topology, message) = wire::decode_message(&bytes).unwrap();
                assert_eq!(topology, TOPOLOGY);
                self.note(format!("  home <- {shard}: {message:?}"));
                coordinator::Input::Message { from, message }
            }
        };
        self.step_home(input);
    }

    fn deliver_shard(&mut self, shard: usize) {
        let Some(bytes) = self.from_home[shard].pop_front() else { return };
        if self.repeats() {
            self.from_home[shard].push_back(bytes.clone());
        }
        let (_, message) = wire::decode_message(&bytes).unwrap();
        self.note(format!("  {shard} <- home: {message:?}"));
        self.step_shard(shard, participant::Input::Message(message));
    }

    fn repeats(&mut self) -> bool {
        let repeats = self.chaos && self.options.repeats && self.rng.below(8) == 0;
        if repeats {
            self.seen.mark("repeated message");
        }
        repeats
    }

    fn deliver_rows(&mut self, from: usize, to: usize) {
        let Some((attempt, flow)) = self.rows.get_mut(&(from, to)).and_then(VecDeque::pop_front)
        else {
            return;
        };
        self.receive(to, attempt, flow);
    }

    fn receive(&mut self, shard: usize, attempt: AttemptId, flow: Flow) {
        match self.shards[shard].participant.admission(attempt) {
            Admission::Run => {
                self.step_shard(shard, participant::Input::BatchReceived { attempt, count: 1 });
                self.shards[shard].work.push((attempt, flow));
            }
            Admission::Hold => {
                self.seen.mark("row batch held");
                self.shards[shard].held.push((attempt, flow));
            }
            Admission::Stale => self.seen.mark("stale row batch"),
        }
    }

    fn receive_held(&mut self, shard: usize) {
        for (attempt, flow) in std::mem::take(&mut self.shards[shard].held) {
            self.receive(shard, attempt, flow);
        }
    }

    // ---- work

    fn work(&mut self, shard: usize) {
        let place = self.rng.index(self.shards[shard].work.len());
        let (attempt, flow) = self.shards[shard].work.swap_remove(place);
        let Flow { origin, hop } = flow;
        let item =
            self.oracle.items[&origin.source][usize::try_from(origin.offset.0).unwrap()].clone();
        if let Some(failure) = self.failure(&item, origin, hop) {
            let goes_on = failure.kind == FailureKind::Reject && failure.origin.is_some();
            self.step_shard(shard, participant::Input::Failed { attempt, failure });
            if goes_on {
                self.step_shard(shard, participant::Input::WorkFinished { attempt, count: 1 });
            } else {
                self.shards[shard].work.retain(|(other, _)| *other != attempt);
            }
            return;
        }
        let partition = item.path[hop];
        assert_eq!(owner(partition), shard);
        self.write(shard, attempt, partition, Write { origin, hop, dead: false });
        if let Some(&next) = item.path.get(hop + 1) {
            let flow = Flow { origin, hop: hop + 1 };
            if owner(next) == shard {
                self.step_shard(shard, participant::Input::WorkStarted { attempt, count: 1 });
                self.shards[shard].work.push((attempt, flow));
            } else {
                self.step_shard(shard, participant::Input::BatchSent { attempt, count: 1 });
                if self.shards[owner(next)].up {
                    let queue = self.rows.entry((shard, owner(next))).or_default();
                    queue.push_back((attempt, flow));
                }
            }
        }
        self.step_shard(shard, participant::Input::WorkFinished { attempt, count: 1 });
    }

    fn failure(&mut self, item: &Item, origin: Origin, hop: usize) -> Option<Failure> {
        let (kind, origin) = match item.bad {
            Bad::Named(at) if at == hop => (FailureKind::Reject, Some(origin)),
            Bad::Nameless(at) if at == hop => (FailureKind::Reject, None),
            Bad::Flaky(_) if hop == 0 => {
                let left = self.flaky.get_mut(&origin)?;
                *left = left.checked_sub(1)?;
                (FailureKind::Retry, Some(origin))
            }
            Bad::Never | Bad::Named(_) | Bad::Nameless(_) | Bad::Flaky(_) => return None,
        };
        Some(Failure { origin, kind, message: "planted".to_owned() })
    }

    fn write(&mut self, shard: usize, attempt: AttemptId, partition: PartitionId, write: Write) {
        self.step_shard(shard, participant::Input::Touched { attempt, partition });
        let overlay = self.shards[shard].overlays.entry(attempt).or_default();
        overlay.entry(partition).or_default().insert(write);
    }

    fn append(&mut self, source: Source) {
        let shard = owner(source.partition);
        let end = self.appended.get_mut(&source).unwrap();
        *end = end.advance(1);
        let ends = vec![SourceOffset { source, offset: *end }];
        if self.shards[shard].up {
            self.step_shard(shard, participant::Input::SourceEnds(ends));
        }
    }

    fn tick(&mut self) {
        let wakes = self.shards.iter().filter_map(|shard| shard.wake).chain(self.wake);
        self.now = self.now.max(wakes.min().unwrap_or(self.now));
        if self.wake.is_some_and(|wake| wake <= self.now) {
            self.wake = None;
            self.step_home(coordinator::Input::Wake);
        }
        for shard in 0..SHARDS {
            if self.shards[shard].wake.is_some_and(|wake| wake <= self.now) {
                self.shards[shard].wake = None;
                self.step_shard(shard, participant::Input::Wake);
            }
        }
    }

    // ---- drivers

    fn step_home(&mut self, input: coordinator::Input) {
        let Some(home) = &mut self.coordinator else { return };
        let mut effects = Vec::new();
        home.step(self.now, input, &mut effects);
        for effect in effects {
            self.perform_home(effect);
        }
    }

    fn perform_home(&mut self, effect: coordinator::Effect) {
        use coordinator::Effect;
        match effect {
            Effect::Persist { token, record } => {
                self.push(HOME, Entry::Record(record.encode()), Some(Completion::Persisted(token)));
            }
            Effect::PersistLazily { record } => {
                self.push(HOME, Entry::Record(record.encode()), None);
            }
            Effect::Send { to, message } => {
                let to = usize::from(to.0);
                if self.shards[to].up && !self.closed[to] {
                    self.from_home[to].push_back(wire::encode_message(TOPOLOGY, &message));
                }
            }
            Effect::CommitLocally { token, decision } => {
                if self.chaos && self.rng.below(6) == 0 {
                    self.seen.mark("local commit refused");
                    let failure = no_space();
                    self.step_home(coordinator::Input::Refused { token, failure });
                } else {
                    self.commit_locally(token, decision);
                }
            }
            Effect::Visible { id, offsets: _ } => self.check_visible(id),
            Effect::WakeAt(at) => self.wake = Some(at),
            Effect::Excluded { .. } => self.seen.mark("record excluded"),
            Effect::Paused { .. } | Effect::Resumed => {}
        }
    }

    fn commit_locally(&mut self, token: Token, decision: Decision) {
        self.seen.mark("local commit");
        let attempt = decision.attempt;
        let mut effects = Vec::new();
        let home = &mut self.shards[HOME].participant;
        home.step(self.now, participant::Input::CommitLocally { attempt }, &mut effects);
        let mut group = Vec::new();
        for effect in effects {
            let participant::Effect::WriteLocally { attempt, partitions } = effect else {
                panic!("unexpected {effect:?}");
            };
            group.extend(self.prepares(HOME, attempt, &partitions));
            let committed =
                partitions.into_iter().map(|partition| Entry::Committed { attempt, partition });
            group.extend(committed);
        }
        group.push(Entry::Record(Record::Decision(decision).encode()));
        self.push(HOME, Entry::Group(group), Some(Completion::Persisted(token)));
        let end = self.shards[HOME].journal.len();
        let completions = &mut self.shards[HOME].completions;
        completions.push_back((end, Completion::Committed(attempt)));
    }

    fn step_shard(&mut self, shard: usize, input: participant::Input) {
        let mut effects = Vec::new();
        self.shards[shard].participant.step(self.now, input, &mut effects);
        for effect in effects {
            self.perform_shard(shard, effect);
        }
    }

    fn perform_shard(&mut self, shard: usize, effect: participant::Effect) {
        use participant::Effect;
        match effect {
            Effect::StartSources { attempt, ranges, exclusions, below } => {
                let start = self.oracle.start(shard, attempt, below, &self.shards[shard].journal);
                self.accuse(start);
                let is_out = |origin| exclusions.iter().any(|out| out.origin == origin);
                for range in ranges {
                    for offset in (range.from.0..range.to.0).map(Offset) {
                        let origin = Origin { source: range.source, offset };
                        if !is_out(origin) {
                            let input = participant::Input::WorkStarted { attempt, count: 1 };
                            self.step_shard(shard, input);
                            self.shards[shard].work.push((attempt, Flow { origin, hop: 0 }));
                        }
                    }
                }
                for out in &exclusions {
                    let write = Write { origin: out.origin, hop: 0, dead: true };
                    self.write(shard, attempt, out.origin.source.partition, write);
                }
                self.step_shard(shard, participant::Input::WorkFinished { attempt, count: 1 });
                self.receive_held(shard);
            }
            Effect::WritePrepare { attempt, partitions } => {
                if self.chaos && self.rng.below(12) == 0 {
                    self.seen.mark("prepare failed");
                    let failure = no_space();
                    self.step_shard(shard, participant::Input::Failed { attempt, failure });
                    return;
                }
                for entry in self.prepares(shard, attempt, &partitions) {
                    self.push(shard, entry, None);
                }
                self.complete(shard, Completion::Prepared(attempt));
            }
            Effect::WriteCommitted { attempt, partitions } => {
                let commit = self.oracle.commit(attempt, &partitions);
                self.accuse(commit);
                for partition in partitions {
                    self.push(shard, Entry::Committed { attempt, partition }, None);
                }
                self.complete(shard, Completion::Committed(attempt));
            }
            Effect::WriteLocally { .. } => panic!("a local commit that nobody asked for"),
            Effect::Drop { attempt, aborted } => {
                let dropped = self.oracle.drop(shard, attempt);
                self.accuse(dropped);
                let it = &mut self.shards[shard];
                // Highest first.
                let next_prepared = it.dropped_prepared == Some(attempt.id.next());
                it.dropped_prepared = (!aborted.is_empty()).then_some(attempt.id);
                if next_prepared && !aborted.is_empty() {
                    self.seen.mark("prepared dropped with next prepared");
                }
                let it = &mut self.shards[shard];
                it.work.retain(|(other, _)| *other != attempt);
                it.overlays.remove(&attempt);
                let lazy = &mut self.shards[shard].lazy;
                lazy.extend(aborted.into_iter().map(|partition| (attempt, partition)));
                self.receive_held(shard);
            }
            Effect::MergeVisible { id, offsets } => {
                self.check_visible(id);
                let it = &mut self.shards[shard];
                assert!(it.visible < id);
                it.visible = id;
                for moved in offsets {
                    let known = it.visible_offsets.insert(moved.source, moved.offset);
                    assert!(known.is_none_or(|known| known <= moved.offset));
                }
            }
            Effect::Send { to: _, message } => {
                if self.coordinator.is_some() {
                    let bytes = wire::encode_message(TOPOLOGY, &message);
                    self.to_home[shard].push_back(Packet::Bytes(bytes));
                }
            }
            Effect::WakeAt(at) => self.shards[shard].wake = Some(at),
            Effect::Lost { attempt, partitions } => {
                self.accuse(Err(format!("{attempt} is lost on {partitions:?}")));
            }
        }
    }

    fn prepares(&self, shard: usize, attempt: AttemptId, at: &[PartitionId]) -> Vec<Entry> {
        at.iter()
            .map(|&partition| {
                let writes = self.shards[shard].overlays[&attempt][&partition].clone();
                Entry::Prepare { attempt, partition, writes }
            })
            .collect()
    }

    fn accuse(&mut self, verdict: Result<(), String>) {
        if let Err(violation) = verdict {
            self.violation.get_or_insert(violation);
        }
    }

    fn check_visible(&mut self, id: MicrobatchId) {
        let durable: Vec<_> =
            self.shards.iter().map(|shard| &shard.journal[..shard.durable]).collect();
        let visible = self.oracle.visible(id, &durable);
        self.accuse(visible);
    }

    // ---- journals

    fn push(&mut self, shard: usize, entry: Entry, completion: Option<Completion>) {
        self.shards[shard].journal.push(entry);
        if let Some(completion) = completion {
            self.complete(shard, completion);
        }
    }

    /// Reports it when everything written up to now is durable.
    fn complete(&mut self, shard: usize, completion: Completion) {
        let it = &mut self.shards[shard];
        it.completions.push_back((it.journal.len(), completion));
    }

    fn flush(&mut self, shard: usize) {
        let it = &mut self.shards[shard];
        let more = 1 + self.rng.index(it.journal.len() - it.durable);
        self.make_durable(shard, more);
        loop {
            let it = &mut self.shards[shard];
            match it.completions.front() {
                Some(&(end, completion)) if end <= it.durable => {
                    it.completions.pop_front();
                    match completion {
                        Completion::Persisted(token) => {
                            self.step_home(coordinator::Input::Persisted(token));
                        }
                        Completion::Prepared(attempt) => {
                            let input = participant::Input::PrepareDurable { attempt };
                            self.step_shard(shard, input);
                        }
                        Completion::Committed(attempt) => {
                            let input = participant::Input::CommittedDurable { attempt };
                            self.step_shard(shard, input);
                        }
                    }
                }
                _ => return,
            }
        }
    }

    /// The next `count` entries have reached the disk.
    fn make_durable(&mut self, shard: usize, count: usize) {
        let it = &mut self.shards[shard];
        let from = it.durable;
        it.durable += count;
        let fresh: Vec<_> = it.journal[from..it.durable].to_vec();
        for entry in fresh.iter().flat_map(Entry::parts) {
            if let Entry::Record(bytes) = entry
                && let Record::Decision(decision) = Record::decode(bytes).unwrap()
            {
                let prepares = self.durable_prepares();
                let verdict = self.oracle.decision(&decision, &prepares);
                self.accuse(verdict);
            }
        }
    }

    fn durable_prepares(&self) -> BTreeMap<(AttemptId, PartitionId), BTreeSet<Write>> {
        let mut prepares = BTreeMap::new();
        for shard in &self.shards {
            for entry in shard.journal[..shard.durable].iter().flat_map(Entry::parts) {
                if let Entry::Prepare { attempt, partition, writes } = entry {
                    prepares.insert((*attempt, *partition), writes.clone());
                }
            }
        }
        prepares
    }

    // ---- crashes

    fn crash(&mut self, which: &[usize]) {
        for &shard in which {
            if !self.shards[shard].up {
                continue;
            }
            self.shards[shard].up = false;
            let unsynced = self.shards[shard].journal.len() - self.shards[shard].durable;
            let survives = self.rng.index(unsynced + 1);
            self.make_durable(shard, survives);
            let it = &mut self.shards[shard];
            it.journal.truncate(it.durable);
            it.completions.clear();
            it.overlays.clear();
            it.work.clear();
            it.held.clear();
            it.lazy.clear();
            it.wake = None;
            it.visible = MicrobatchId(0);
            it.visible_offsets.clear();
            self.from_home[shard].clear();
            for ((from, to), queue) in &mut self.rows {
                if *from == shard || *to == shard {
                    queue.clear();
                }
            }
            if shard == HOME {
                self.coordinator = None;
                self.wake = None;
                self.to_home.iter_mut().for_each(VecDeque::clear);
                self.from_home.iter_mut().for_each(VecDeque::clear);
            } else if self.coordinator.is_some() {
                // The last words may be lost; the news of the end is not.
                let kept = self.rng.index(self.to_home[shard].len() + 1);
                let lost = self.to_home[shard].split_off(kept);
                let news = lost.into_iter().filter(|lost| !matches!(lost, Packet::Bytes(_)));
                self.to_home[shard].extend(news);
                self.to_home[shard].push_back(Packet::Down);
                self.closed[shard] = true;
            }
        }
    }

    fn restart(&mut self, shard: usize) {
        let journal = self.shards[shard].journal.clone();
        self.shards[shard].participant = self.recovered_participant(shard, &journal);
        self.shards[shard].up = true;
        if shard == HOME {
            self.restart_home(&journal);
        } else if self.coordinator.is_some() {
            self.to_home[shard].push_back(Packet::Up);
        }
        self.step_shard(shard, participant::Input::Start);
        let here = self.appended.iter().filter(|(source, _)| owner(source.partition) == shard);
        let ends: Vec<_> = here.map(|(&source, &offset)| SourceOffset { source, offset }).collect();
        self.step_shard(shard, participant::Input::SourceEnds(ends));
    }

    fn restart_home(&mut self, journal: &[Entry]) {
        self.run = Run(self.run.0 + 1);
        let mut row = Row::default();
        let mut begins: Vec<Begin> = Vec::new();
        for entry in journal.iter().flat_map(Entry::parts) {
            if let Entry::Record(bytes) = entry {
                let record = Record::decode(bytes).unwrap();
                let added = row.add(&record).map_err(|error| error.to_string());
                self.accuse(added);
                if let Record::Begin(begin) = record {
                    begins.push(begin);
                }
            }
        }
        if begins.iter().any(|begin| begin.attempt.id > row.decided) {
            self.seen.mark("begin taken up");
        }
        if !row.unapplied.is_empty() {
            self.seen.mark("decided and unapplied at a crash");
        }
        let row = Row::decode(&row.encode()).unwrap();
        let config = coordinator::Config {
            own: ShardId(0),
            owners: (0..PARTITIONS).map(|p| ShardId(u16::try_from(p % SHARDS).unwrap())).collect(),
            records_max: 1 + self.options.seed % 3,
            faults: self.faults,
        };
        self.coordinator = Some(Coordinator::recover(config, self.run, Some(row), begins));
        for shard in 1..SHARDS {
            self.closed[shard] = !self.shards[shard].up;
            if self.closed[shard] {
                let down = ShardId(u16::try_from(shard).unwrap());
                self.step_home(coordinator::Input::ShardDown(down));
            }
        }
        self.step_home(coordinator::Input::Start);
    }

    fn recovered_participant(&mut self, shard: usize, journal: &[Entry]) -> Participant {
        let mut prepares = BTreeSet::new();
        let mut committed = BTreeMap::new();
        for partition in (0..PARTITIONS).map(|p| PartitionId(u32::try_from(p).unwrap())) {
            if owner(partition) == shard {
                committed.insert(partition, MicrobatchId(0));
            }
        }
        for entry in journal.iter().flat_map(Entry::parts) {
            match entry {
                Entry::Prepare { attempt, partition, .. } => {
                    prepares.insert((*attempt, *partition));
                }
                Entry::Committed { attempt, partition } => {
                    prepares.remove(&(*attempt, *partition));
                    committed.insert(*partition, attempt.id);
                }
                Entry::Aborted { attempt, partition } => {
                    prepares.remove(&(*attempt, *partition));
                }
                Entry::Record(_) | Entry::Group(_) => {}
            }
        }
        if !prepares.is_empty() {
            self.seen.mark("prepared and undecided at a crash");
        }
        let mut ids = BTreeMap::<MicrobatchId, BTreeSet<AttemptId>>::new();
        for (attempt, _) in &prepares {
            ids.entry(attempt.id).or_default().insert(*attempt);
        }
        if ids.values().any(|attempts| attempts.len() > 1) {
            self.seen.mark("two attempts of one id prepared");
        }
        let config = participant::Config {
            own: ShardId(u16::try_from(shard).unwrap()),
            coordinator: ShardId(0),
            faults: self.faults,
        };
        let prepares = prepares.into_iter().collect();
        let committed = committed.into_iter().collect();
        Participant::recover(config, Recovered { prepares, committed })
    }

    // ---- the end

    fn check_end(&mut self) -> Result<(), String> {
        let home = self.coordinator.as_ref().ok_or("no coordinator")?;
        if !home.is_caught_up() {
            return Err(format!("at rest, but not caught up: {home:?}"));
        }
        for (source, end) in &self.appended {
            let read = self.oracle.offsets.get(source).copied().unwrap_or_default();
            if read != *end {
                return Err(format!("{source:?} has {end} records, and {read} were read"));
            }
        }
        for (number, shard) in self.shards.iter().enumerate() {
            if !shard.participant.in_doubt().is_empty() {
                return Err(format!("shard {number} is in doubt at rest: {:?}", shard.participant));
            }
            if shard.visible != self.oracle.decided() || !shard.held.is_empty() {
                return Err(format!("shard {number} rests at visible {}", shard.visible));
            }
            for (source, offset) in &self.oracle.offsets {
                if shard.visible_offsets.get(source) != Some(offset) {
                    return Err(format!("shard {number} does not know how far {source:?} is read"));
                }
            }
        }
        Ok(())
    }
}

fn no_space() -> Failure {
    Failure { origin: None, kind: FailureKind::Retry, message: "no space".to_owned() }
}

/// splitmix64: chance that is the same everywhere.
#[derive(Clone, Debug)]
struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    fn index(&mut self, length: usize) -> usize {
        usize::try_from(self.below(length as u64)).unwrap()
    }
}

const CALM_STEPS_MAX: u64 = 20_000;
const TRACE_LINES_MAX: usize = 300;
