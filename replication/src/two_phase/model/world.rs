//! Three shards, their journals and channels, and chance.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

mod crashes;
mod drivers;
mod flow;

use super::oracle::Oracle;
use super::parts::{Bad, Entry, Item, Options, PARTITIONS, Rng, SHARDS, Seen, Write, owner};
use crate::two_phase::coordinator::{self, Coordinator, Token};
use crate::two_phase::participant::{self, Admission, Participant, Recovered};
use crate::two_phase::{
    self, AttemptId, Begin, Decision, Failure, FailureKind, Faults, Origin, Record, Row, Source,
    SourceOffset,
};
use crate::types::{Attempt, DepotId, MicrobatchId, Offset, PartitionId, Run, ShardId, TopologyId};
use crate::wire;

/// Where the coordinator lives.
const HOME: usize = 0;
const TOPOLOGY: TopologyId = TopologyId(7);

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
    /// How many steps of chaos were taken, and how many ids were decided by then.
    steps: u64,
    decided_in_chaos: u64,
    crashes: u64,
    asks: u64,
    run: Run,
    coordinator: Option<Coordinator>,
    wake: Option<u64>,
    /// The coordinator is held.
    held: bool,
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
    /// Ids that were called too large.
    too_large: BTreeSet<MicrobatchId>,
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
    Ask,
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
            steps: 0,
            decided_in_chaos: 0,
            crashes: options.crashes,
            asks: options.asks,
            run: Run(0),
            coordinator: None,
            wake: None,
            held: false,
            shards: Vec::new(),
            to_home: vec![VecDeque::new(); SHARDS],
            from_home: vec![VecDeque::new(); SHARDS],
            closed: vec![false; SHARDS],
            rows: BTreeMap::new(),
            appended: BTreeMap::new(),
            flaky: BTreeMap::new(),
            too_large: BTreeSet::new(),
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
        for step in 0..self.options.steps {
            self.steps = step;
            self.act()?;
        }
        self.chaos = false;
        self.hold(false);
        self.decided_in_chaos = self.oracle.decided().0;
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

    pub(super) fn decided_in_chaos(&self) -> u64 {
        self.decided_in_chaos
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
        if self.chaos && self.options.seed % 4 == 1 && self.rng.below(40) == 0 {
            self.hold(!self.held);
        }
        let actions = self.possible();
        if actions.is_empty() {
            // Nothing begins while it is held.
            let was_held = self.held;
            self.hold(false);
            return Ok(was_held);
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
            Action::Ask => {
                self.asks -= 1;
                self.step_home(coordinator::Input::Work);
            }
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
        if let Some(home) = self.coordinator.as_ref().filter(|home| home.is_at_rest()) {
            let rests = self.held && home.undecided().is_empty();
            if !rests || home.visible() != home.decided() {
                return Err(format!("at rest, and something is under way: {home:?}"));
            }
            self.seen.mark("held at rest");
        }
        match self.violation.take() {
            Some(violation) => Err(violation),
            None => Ok(true),
        }
    }

    /// Holds the coordinator, or lets it go.
    fn hold(&mut self, held: bool) {
        if self.coordinator.is_some() && self.held != held {
            self.held = held;
            self.note(format!("held: {held}"));
            let input = if held { coordinator::Input::Hold } else { coordinator::Input::Release };
            self.step_home(input);
        }
    }

    /// A crash now and then.
    fn misfortune(&mut self) -> Option<Action> {
        if !self.chaos || self.crashes == 0 {
            return None;
        }
        let shard = match self.options.crash {
            Some(planned) if planned.step == self.steps => planned.shard,
            None if self.rng.below(self.options.calm) == 0 => self.rng.index(SHARDS + 1),
            Some(_) | None => return None,
        };
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
        if self.asks > 0 && self.coordinator.is_some() {
            actions.push(Action::Ask);
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

const CALM_STEPS_MAX: u64 = 20_000;
const TRACE_LINES_MAX: usize = 300;
