//! The coordinator of one topology: plans microbatches, watches each until it is quiescent,
//! collects the votes, decides, and tells readers when everybody has applied.
//!
//! ```text
//! Waiting -> Running -> Preparing -> Voted -> Deciding -> (decided) unapplied -> visible
//!    ^          |           |          |         '---- from here on only forward
//!    '----------'-----------'----------'  abort: failure, shard down, lower id aborted
//! ```
//!
//! At most two flights are past `Waiting`; the second starts when the first is quiescent
//! (`Preparing` or later).

mod flight;
mod io;
mod plan;
mod quiescence;
mod search;
mod suspects;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

pub use self::io::{Config, Effect, Input, PauseReason, Token};

use self::flight::{BeginRecord, Flight, Stage};
use self::plan::Plan;
use self::quiescence::{Counters, Step};
use super::{
    AllApplied, AttemptId, Begin, Decision, Failure, FailureKind, Faults, Message, Record, Row,
    Source, SourceOffset, SourceRange,
};
use crate::types::{Attempt, MicrobatchId, Offset, PartitionId, Run, ShardId};
use crate::wire;

/// Decides the microbatches of one topology. See the [module](super) for what it guarantees.
#[derive(Clone, Debug)]
pub struct Coordinator {
    config: Config,
    /// Every shard that takes part.
    shards: BTreeSet<ShardId>,
    run: Run,
    started: bool,
    /// How far sources are durable.
    ends: BTreeMap<Source, Offset>,
    /// The last id decided durably, and where the sources stand after it.
    decided: MicrobatchId,
    offsets: BTreeMap<Source, Offset>,
    visible: MicrobatchId,
    /// Decided, and not applied by all; ascending ids, the last one is `decided`.
    unapplied: VecDeque<Unapplied>,
    /// Not decided; ids from `decided + 1`, dense.
    flights: VecDeque<Flight>,
    down: BTreeSet<ShardId>,
    /// A shard or the coordinator itself has recovered: nothing begins before all that is decided
    /// is applied, so that no attempt runs on a shard that does not hold the state below it.
    settling: bool,
    asked: Asked,
    /// Where sources are left for now, if they are.
    until: Option<BTreeMap<Source, Offset>>,
    /// The pause reason given last.
    pause: Option<PauseReason>,
    token: Token,
    /// The time given last, until it has come.
    wake_ns: Option<u64>,
    /// The wall-clock time told last.
    wall_us: u64,
    /// How many records of one source the next microbatch takes: fewer after one was too large, and
    /// then more again with each that commits.
    records_max: u64,
    /// The last attempt of ids that lost their place when a lower one shrank, and when they first
    /// began: numbers are not used twice.
    displaced: BTreeMap<MicrobatchId, (Attempt, u64)>,
}

/// What it was asked to do, and to leave for now.
#[derive(Clone, Copy, Debug, Default)]
struct Asked {
    /// To begin a microbatch even if there is no record for it. Waits for what is to be left.
    work: bool,
    /// To begin no microbatch.
    pause: bool,
    /// To start no attempt, be it of a new id or of one that failed.
    hold: bool,
}

/// A decision on its way.
#[derive(Clone, Debug)]
struct Unapplied {
    attempt: AttemptId,
    touched: Vec<PartitionId>,
    /// What becomes visible with it; `None` for one that was recovered, whose part of the row's
    /// offsets is not known.
    offsets: Option<Vec<SourceOffset>>,
    waiting: BTreeSet<ShardId>,
}

impl Coordinator {
    /// A coordinator that goes on where the last one stopped; give it [`Input::Start`] next.
    ///
    /// `row` is what the decisions up to now add up to, `None` before the first. `begins` are the
    /// `Begin` records found, in the order written; those of decided ids are ignored. `run` was
    /// raised durably above that of every earlier coordinator of this topology.
    ///
    /// # Panics
    /// When `run` is not above every run found.
    #[must_use]
    pub fn recover(config: Config, run: Run, row: Option<Row>, begins: Vec<Begin>) -> Self {
        assert!(config.records_max > 0);
        let row = row.unwrap_or_default();
        let shards: BTreeSet<_> = config.owners.iter().copied().chain([config.own]).collect();
        let mut coordinator = Self {
            records_max: config.records_max,
            displaced: BTreeMap::new(),
            config,
            shards,
            run,
            started: false,
            ends: row.offsets.clone(),
            decided: row.decided,
            offsets: row.offsets,
            visible: MicrobatchId(0),
            unapplied: VecDeque::new(),
            flights: VecDeque::new(),
            down: BTreeSet::new(),
            settling: true,
            asked: Asked::default(),
            until: None,
            pause: None,
            token: Token(0),
            wake_ns: None,
            wall_us: 0,
        };
        for decision in row.unapplied {
            assert!(decision.attempt.run < run, "a run is raised before it is used");
            let waiting = coordinator.owners_of(&decision.touched);
            let Decision { attempt, touched, offsets: _, visible: _ } = decision;
            coordinator.unapplied.push_back(Unapplied { attempt, touched, offsets: None, waiting });
        }
        coordinator.recover_begins(begins);
        coordinator.check();
        coordinator
    }

    /// Takes up what had begun: a retry reads exactly what the first try read.
    fn recover_begins(&mut self, begins: Vec<Begin>) {
        let mut last_of_id = BTreeMap::new();
        for begin in begins {
            assert!(begin.attempt.run < self.run, "a run is raised before it is used");
            last_of_id.insert(begin.attempt.id, begin);
        }
        if self.config.faults.offsets_without_state {
            for begin in last_of_id.values().filter(|begin| begin.attempt.id > self.decided) {
                let ends = begin.ranges.iter().map(|range| (range.source, range.to));
                self.offsets.extend(ends);
            }
            return;
        }
        let mut next = self.decided.next();
        while let Some(begin) = last_of_id.remove(&next) {
            let planned = self.planned();
            // One journal holds them in order, so what does not continue was never more than an
            // idea.
            if begin.ranges.iter().any(|range| range.from != offset_in(&planned, range.source)) {
                break;
            }
            let plan = Plan::new(begin.ranges, begin.exclusions);
            let flight = Flight::new(next, plan, BeginRecord::Durable, begin.began_us);
            self.flights.push_back(flight);
            next = next.next();
        }
    }

    /// Tells the wall-clock time, in microseconds: a microbatch that begins carries the last one
    /// told. It decides nothing.
    pub fn observe_wall(&mut self, wall_us: u64) {
        self.wall_us = wall_us;
    }

    /// Takes one input at `now_ns` and appends what is to be done.
    pub fn step(&mut self, now_ns: u64, input: Input, effects: &mut Vec<Effect>) {
        match input {
            Input::Start => self.on_start(effects),
            Input::SourceEnds(ends) => self.on_source_ends(&ends),
            Input::Message { from, message } => self.on_message(now_ns, from, message, effects),
            Input::Persisted(token) => self.on_persisted(token, effects),
            Input::Refused { token, failure } => self.on_refused(now_ns, token, failure, effects),
            Input::ShardDown(shard) => self.on_shard_down(now_ns, shard, effects),
            Input::ShardUp(shard) => self.on_shard_up(shard, effects),
            Input::Wake => self.wake_ns = None,
            Input::Work => self.asked.work = true,
            Input::Pause => self.asked.pause = true,
            Input::Resume => self.on_resume(),
            Input::Hold => self.asked.hold = true,
            Input::Release => self.asked.hold = false,
            Input::Until(until) => self.until = until,
        }
        if self.started {
            self.advance(now_ns, effects);
        }
        self.check();
    }

    // ---- inputs

    fn on_start(&mut self, effects: &mut Vec<Effect>) {
        assert!(!self.started, "a coordinator starts once");
        self.started = true;
        for &shard in &self.shards {
            effects.push(Effect::Send { to: shard, message: Message::Hello { run: self.run } });
        }
        for place in 0..self.unapplied.len() {
            self.send_decided(place, &self.shards.clone(), effects);
        }
        if self.unapplied.is_empty() {
            self.announce_all(effects);
        }
    }

    fn on_source_ends(&mut self, ends: &[SourceOffset]) {
        for end in ends {
            // What no shard owns cannot be read.
            if self.owner(end.source.partition).is_some() {
                let known = self.ends.entry(end.source).or_default();
                *known = end.offset.max(*known);
            }
        }
    }

    fn on_message(
        &mut self,
        now_ns: u64,
        from: ShardId,
        message: Message,
        effects: &mut Vec<Effect>,
    ) {
        if !self.shards.contains(&from) || self.down.contains(&from) {
            return;
        }
        match message {
            Message::SourceEnds { ends } => self.on_source_ends(&ends),
            Message::Report { attempt, round, sent, received, idle, touched } => {
                let counters = Counters { sent, received, idle, touched };
                self.on_report(now_ns, from, attempt, round, counters, effects);
            }
            Message::Vote { attempt, touched } => self.on_vote(from, attempt, touched),
            Message::Failed { attempt, failure } => {
                self.on_failed(now_ns, attempt, failure, effects);
            }
            Message::Applied { attempt } => self.on_applied(from, attempt),
            Message::Ask { attempts } => {
                for attempt in attempts {
                    effects.push(Effect::Send { to: from, message: self.answer(from, attempt) });
                }
            }
            // What a coordinator says is not for a coordinator.
            Message::Hello { .. }
            | Message::Begin { .. }
            | Message::Probe { .. }
            | Message::Prepare { .. }
            | Message::Decided { .. }
            | Message::Abort { .. }
            | Message::Undecided { .. }
            | Message::Visible { .. } => {}
        }
    }

    fn on_report(
        &mut self,
        now_ns: u64,
        from: ShardId,
        attempt: AttemptId,
        round: u32,
        counters: Counters,
        effects: &mut Vec<Effect>,
    ) {
        if !counters.touched.iter().all(|&partition| self.owner(partition) == Some(from)) {
            return;
        }
        let Some(place) = self.place_of(attempt) else { return };
        let Stage::Running { quiescence } = &mut self.flights[place].stage else { return };
        match quiescence.report(from, round, counters) {
            Step::Wait => {}
            Step::Probe(round) => {
                self.send_all(|_| Message::Probe { attempt, round }, effects);
            }
            Step::Quiescent => self.on_quiescent(now_ns, place, attempt, effects),
        }
    }

    fn on_quiescent(
        &mut self,
        now_ns: u64,
        place: usize,
        attempt: AttemptId,
        effects: &mut Vec<Effect>,
    ) {
        let rejections = std::mem::take(&mut self.flights[place].rejections);
        if !rejections.is_empty() {
            let failures: Vec<_> = rejections.into_values().collect();
            self.give_up(now_ns, place, &failures, effects);
        } else if self.flights[place].is_trial() {
            self.abort_from(place, now_ns, effects);
            let flight = &mut self.flights[place];
            for exclusion in flight.trial_passed(now_ns) {
                effects.push(Effect::Excluded { id: flight.id, exclusion });
            }
        } else if let Some(touched) = self.touched_if_local(place) {
            let flight = &mut self.flights[place];
            let (offsets, visible) = (flight.plan.ends(), self.visible);
            let decision = Decision { attempt, offsets, touched, visible };
            let token = next_token(&mut self.token);
            flight.stage =
                Stage::Deciding { token, touched: decision.touched.clone(), local: true };
            effects.push(Effect::CommitLocally { token, decision });
        } else {
            self.flights[place].stage = Stage::Preparing { votes: BTreeMap::new() };
            self.send_all(|_| Message::Prepare { attempt }, effects);
        }
    }

    /// What the quiescent flight touched, if one write to the own journal can commit it: all
    /// sources and all writes lie on the own shard, and no lower id is undecided, nor still to be
    /// applied there (it would be overtaken).
    fn touched_if_local(&self, place: usize) -> Option<Vec<PartitionId>> {
        let own = self.config.own;
        let flight = &self.flights[place];
        let Stage::Running { quiescence } = &flight.stage else { return None };
        let overtakes =
            place > 0 || self.unapplied.iter().any(|unapplied| unapplied.waiting.contains(&own));
        if overtakes && !self.config.faults.single_journal_overtakes {
            return None;
        }
        if flight.plan.ranges().iter().any(|range| self.owner(range.source.partition) != Some(own))
        {
            return None;
        }
        let mut touched = Vec::new();
        for (shard, partitions) in quiescence.touched() {
            if shard == own {
                touched = partitions.to_vec();
            } else if !partitions.is_empty() {
                return None;
            }
        }
        Some(touched)
    }

    fn on_vote(&mut self, from: ShardId, attempt: AttemptId, touched: Vec<PartitionId>) {
        if !touched.iter().all(|&partition| self.owner(partition) == Some(from)) {
            return;
        }
        let place = if self.config.faults.other_attempt_accepted {
            self.flights.iter().position(|flight| flight.id == attempt.id)
        } else {
            self.place_of(attempt)
        };
        let Some(place) = place else { return };
        let Stage::Preparing { votes } = &mut self.flights[place].stage else { return };
        votes.insert(from, touched);
        if votes.len() == self.shards.len() {
            let mut touched: Vec<_> = std::mem::take(votes).into_values().flatten().collect();
            touched.sort_unstable();
            touched.dedup();
            self.flights[place].stage = Stage::Voted { touched };
        }
    }

    fn on_failed(
        &mut self,
        now_ns: u64,
        attempt: AttemptId,
        failure: Failure,
        effects: &mut Vec<Effect>,
    ) {
        let Some(place) = self.place_of(attempt) else { return };
        let flight = &mut self.flights[place];
        match flight.stage {
            Stage::Running { .. } | Stage::Preparing { .. } => {}
            // Who has voted cannot fail any more.
            Stage::Waiting { .. } | Stage::Voted { .. } | Stage::Deciding { .. } => return,
        }
        let running = matches!(flight.stage, Stage::Running { .. });
        match failure.origin {
            Some(origin)
                if running && failure.kind == FailureKind::Reject && flight.plan.reads(origin) =>
            {
                // The rest goes on, so that one attempt finds all bad records instead of one.
                flight.rejections.entry(origin).or_insert(failure);
            }
            Some(_) | None => self.give_up(now_ns, place, &[failure], effects),
        }
    }

    /// Ends an attempt because of these failures.
    fn give_up(
        &mut self,
        now_ns: u64,
        place: usize,
        failures: &[Failure],
        effects: &mut Vec<Effect>,
    ) {
        self.abort_from(place, now_ns, effects);
        let too_large = |failure: &&Failure| failure.kind == FailureKind::TooLarge;
        if let Some(failure) = failures.iter().find(too_large) {
            return self.shrink(place, now_ns, failure, effects);
        }
        let flight = &mut self.flights[place];
        for exclusion in flight.failed(now_ns, failures) {
            effects.push(Effect::Excluded { id: flight.id, exclusion });
        }
    }

    /// Takes fewer records. What was planned above began where this one ended, so it is planned anew.
    fn shrink(&mut self, place: usize, now_ns: u64, failure: &Failure, effects: &mut Vec<Effect>) {
        let flight = &mut self.flights[place];
        if flight.shrink().is_some() {
            self.records_max = flight.plan.range_len_max().max(1);
            for above in self.flights.drain(place + 1..) {
                self.displaced.insert(above.id, (above.attempt, above.began_us));
            }
            return;
        }
        // What is left of one record that is left out, its dead letter, always fits.
        let kind = FailureKind::Reject;
        let rejected = Failure { origin: flight.plan.record(0), kind, ..failure.clone() };
        for exclusion in flight.failed(now_ns, &[rejected]) {
            effects.push(Effect::Excluded { id: flight.id, exclusion });
        }
    }

    fn on_applied(&mut self, from: ShardId, attempt: AttemptId) {
        for unapplied in &mut self.unapplied {
            if unapplied.attempt == attempt {
                unapplied.waiting.remove(&from);
            }
        }
    }

    fn answer(&self, asker: ShardId, attempt: AttemptId) -> Message {
        if let Some(unapplied) =
            self.unapplied.iter().find(|unapplied| unapplied.attempt == attempt)
        {
            let touched = self.part_of(asker, &unapplied.touched);
            return Message::Decided { attempt, touched };
        }
        // What all have applied has no prepare left, so an asker holds another attempt's.
        let older_run = attempt.run < self.run && !self.config.faults.other_attempt_accepted;
        if attempt.id <= self.decided || older_run {
            return Message::Abort { attempt };
        }
        let fenced = attempt.run == self.run
            && self.flights.iter().any(|flight| {
                flight.id == attempt.id
                    && (attempt.attempt < flight.attempt
                        || attempt.attempt == flight.attempt && flight.is_waiting())
            });
        let displaced = self.displaced.get(&attempt.id);
        let over = displaced.is_some_and(|&(last, _)| attempt.attempt <= last);
        if fenced || attempt.run == self.run && over {
            Message::Abort { attempt }
        } else {
            Message::Undecided { attempt }
        }
    }

    fn on_persisted(&mut self, token: Token, effects: &mut Vec<Effect>) {
        for place in 0..self.flights.len() {
            let flight = &mut self.flights[place];
            if flight.begin == BeginRecord::Written(token) {
                flight.begin = BeginRecord::Durable;
                return;
            }
            if matches!(flight.stage, Stage::Deciding { token: its, .. } if its == token) {
                self.commit(place, effects);
                return;
            }
        }
        // A `Begin` that was replaced by one with more exclusions.
    }

    fn on_refused(
        &mut self,
        now_ns: u64,
        token: Token,
        failure: Failure,
        effects: &mut Vec<Effect>,
    ) {
        let place = self.flights.iter().position(|flight| {
            matches!(flight.stage, Stage::Deciding { token: its, local: true, .. } if its == token)
        });
        let place = place.expect("only a local commit that was asked for can be refused");
        let touched = Vec::new();
        self.flights[place].stage = Stage::Voted { touched };
        self.give_up(now_ns, place, &[failure], effects);
    }

    fn on_shard_down(&mut self, now_ns: u64, shard: ShardId, effects: &mut Vec<Effect>) {
        if !self.shards.contains(&shard) {
            return;
        }
        self.down.insert(shard);
        self.settling = true;
        self.abort_from(0, now_ns, effects);
    }

    fn on_shard_up(&mut self, shard: ShardId, effects: &mut Vec<Effect>) {
        if !self.down.remove(&shard) || !self.started {
            return;
        }
        effects.push(Effect::Send { to: shard, message: Message::Hello { run: self.run } });
        if self.visible > MicrobatchId(0) {
            let offsets = self.visible_offsets();
            let message = Message::Visible { id: self.visible, offsets };
            effects.push(Effect::Send { to: shard, message });
        }
        for place in 0..self.unapplied.len() {
            self.send_decided(place, &BTreeSet::from([shard]), effects);
        }
    }

    fn on_resume(&mut self) {
        self.asked.pause = false;
        for flight in &mut self.flights {
            flight.rejected = None;
        }
    }

    // ---- what follows from the inputs

    /// Does whatever has become possible.
    fn advance(&mut self, now_ns: u64, effects: &mut Vec<Effect>) {
        self.release_applied(effects);
        self.decide(effects);
        // What is being decided will have to be applied by the recovered shard too.
        let deciding = |flight: &Flight| matches!(flight.stage, Stage::Deciding { .. });
        if self.down.is_empty() && self.unapplied.is_empty() && !self.flights.iter().any(deciding) {
            self.settling = false;
        }
        self.tell_pause(effects);
        let mut wake_ns = None;
        if !self.settling && self.down.is_empty() && !self.asked.hold {
            self.start_waiting(now_ns, &mut wake_ns, effects);
            self.start_next(effects);
        }
        if let Some(at_ns) = wake_ns
            && self.wake_ns != wake_ns
        {
            effects.push(Effect::WakeAt(at_ns));
            self.wake_ns = wake_ns;
        }
    }

    fn release_applied(&mut self, effects: &mut Vec<Effect>) {
        while self.unapplied.front().is_some_and(|first| first.waiting.is_empty()) {
            let Some(first) = self.unapplied.pop_front() else { return };
            let id = first.attempt.id;
            if self.flights.is_empty() {
                // Otherwise the next decision says it too.
                let record = Record::AllApplied(AllApplied { id });
                effects.push(Effect::PersistLazily { record });
            }
            if let Some(offsets) = first.offsets {
                self.announce(id, &offsets, effects);
            } else if self.unapplied.is_empty() {
                self.announce_all(effects);
            }
        }
    }

    fn announce_all(&mut self, effects: &mut Vec<Effect>) {
        if self.decided > MicrobatchId(0) {
            assert!(self.unapplied.is_empty());
            let offsets = listed(&self.offsets);
            self.announce(self.decided, &offsets, effects);
        }
    }

    fn announce(&mut self, id: MicrobatchId, offsets: &[SourceOffset], effects: &mut Vec<Effect>) {
        self.visible = self.visible.max(id);
        effects.push(Effect::Visible { id, offsets: offsets.to_vec() });
        self.send_all(|_| Message::Visible { id, offsets: offsets.to_vec() }, effects);
    }

    /// Persists the decision of the lowest flight when every vote is in and its `Begin` is durable.
    /// Only the lowest, so that a decision is never written before all lower ones are durable.
    fn decide(&mut self, effects: &mut Vec<Effect>) {
        let Some(flight) = self.flights.front_mut() else { return };
        if flight.begin != BeginRecord::Durable {
            return;
        }
        let Stage::Voted { touched } = &mut flight.stage else { return };
        let touched = std::mem::take(touched);
        let token = next_token(&mut self.token);
        let attempt = AttemptId { id: flight.id, run: self.run, attempt: flight.attempt };
        let (offsets, visible) = (flight.plan.ends(), self.visible);
        let decision = Decision { attempt, offsets, touched: touched.clone(), visible };
        flight.stage = Stage::Deciding { token, touched, local: false };
        effects.push(Effect::Persist { token, record: Record::Decision(decision) });
        if self.config.faults.decision_before_durable {
            self.commit(0, effects);
        }
    }

    /// The decision is durable.
    fn commit(&mut self, place: usize, effects: &mut Vec<Effect>) {
        let Some(flight) = self.flights.remove(place) else { return };
        let attempt = AttemptId { id: flight.id, run: self.run, attempt: flight.attempt };
        let Stage::Deciding { token: _, touched, local } = flight.stage else {
            panic!("only what was being decided is committed");
        };
        if !self.config.faults.single_journal_overtakes {
            assert_eq!(flight.id, self.decided.next(), "ids commit in order");
        }
        self.decided = self.decided.max(flight.id);
        let more = self.records_max + self.records_max / 4 + 1;
        self.records_max = more.min(self.config.records_max);
        let offsets = flight.plan.ends();
        self.offsets.extend(offsets.iter().map(|moved| (moved.source, moved.offset)));
        let waiting = if local { BTreeSet::new() } else { self.owners_of(&touched) };
        self.unapplied.push_back(Unapplied { attempt, touched, offsets: Some(offsets), waiting });
        // A local commit is known to the own participant by the write itself.
        let mut told = self.shards.clone();
        if local {
            told.remove(&self.config.own);
        }
        self.send_decided(self.unapplied.len() - 1, &told, effects);
    }

    /// Tries again what has failed, once its time has come and what it stands on is quiescent.
    fn start_waiting(&mut self, now_ns: u64, wake_ns: &mut Option<u64>, effects: &mut Vec<Effect>) {
        for place in 0..self.flights.len().min(UNDECIDED_MAX) {
            let below_is_quiescent =
                place == 0 || self.flights.get(place - 1).is_some_and(Flight::is_quiescent);
            let flight = &self.flights[place];
            let Stage::Waiting { not_before_ns } = flight.stage else { continue };
            if !below_is_quiescent || flight.rejected.is_some() {
                return;
            }
            if now_ns < not_before_ns {
                *wake_ns = Some(not_before_ns);
                return;
            }
            self.start(place, effects);
        }
    }

    /// Begins the next microbatch if there is data, or other work for it.
    fn start_next(&mut self, effects: &mut Vec<Effect>) {
        let held_up = self.pause.is_some()
            || self.flights.len() >= UNDECIDED_MAX
            || self.unapplied.len() >= UNAPPLIED_MAX
            || self.flights.back().is_some_and(|flight| !flight.is_quiescent());
        if held_up {
            return;
        }
        let plan = Plan::new(self.unread(), Vec::new());
        // Where it is bounded, work waits, too: it would never come to rest at the bound.
        let has_work = self.asked.work && self.until.is_none();
        if plan.ranges().is_empty() && !has_work {
            return;
        }
        self.asked.work = false;
        let id = self.flights.back().map_or(self.decided, |flight| flight.id).next();
        let (attempt, began_us) = self.displaced.remove(&id).unwrap_or((Attempt(0), self.wall_us));
        let mut flight = Flight::new(id, plan, BeginRecord::Unwritten, began_us);
        flight.attempt = attempt;
        self.flights.push_back(flight);
        self.start(self.flights.len() - 1, effects);
    }

    fn start(&mut self, place: usize, effects: &mut Vec<Effect>) {
        let flight = &mut self.flights[place];
        let number = flight.attempt.0.checked_add(1).expect("attempts take time");
        flight.attempt = Attempt(number);
        let attempt = AttemptId { id: flight.id, run: self.run, attempt: flight.attempt };
        let began_us = flight.began_us;
        if flight.begin == BeginRecord::Unwritten {
            let token = next_token(&mut self.token);
            let ranges = flight.plan.ranges().to_vec();
            let exclusions = flight.plan.exclusions().to_vec();
            let record = Record::Begin(Begin { attempt, ranges, exclusions, began_us });
            flight.begin = BeginRecord::Written(token);
            effects.push(Effect::Persist { token, record });
        }
        flight.stage = Stage::running(&self.shards);
        flight.rejections.clear();
        let plan = flight.attempted();
        for &shard in &self.shards {
            let (ranges, exclusions) = plan.part(shard, &self.config.owners);
            let message = Message::Begin { attempt, ranges, exclusions, began_us };
            effects.push(Effect::Send { to: shard, message });
        }
    }

    /// Ends the attempts of this flight and of those that stand on it, highest first. What is being
    /// decided stays.
    fn abort_from(&mut self, place: usize, now_ns: u64, effects: &mut Vec<Effect>) {
        for place in (place..self.flights.len()).rev() {
            let flight = &mut self.flights[place];
            match flight.stage {
                Stage::Waiting { .. } | Stage::Deciding { .. } => continue,
                Stage::Running { .. } | Stage::Preparing { .. } | Stage::Voted { .. } => {}
            }
            flight.stage = Stage::Waiting { not_before_ns: now_ns };
            let attempt = AttemptId { id: flight.id, run: self.run, attempt: flight.attempt };
            self.send_all(|_| Message::Abort { attempt }, effects);
        }
    }

    fn tell_pause(&mut self, effects: &mut Vec<Effect>) {
        let rejected = self.flights.iter().find_map(|flight| {
            let message = flight.rejected.clone()?;
            Some(PauseReason::Rejected { id: flight.id, message })
        });
        let pause = rejected
            .or_else(|| self.asked.pause.then_some(PauseReason::Asked))
            .or_else(|| self.down.first().copied().map(PauseReason::ShardDown));
        if pause != self.pause {
            effects.push(match &pause {
                Some(reason) => Effect::Paused { reason: reason.clone() },
                None => Effect::Resumed,
            });
            self.pause = pause;
        }
    }

    fn send_decided(&self, place: usize, to: &BTreeSet<ShardId>, effects: &mut Vec<Effect>) {
        let Unapplied { attempt, touched, .. } = &self.unapplied[place];
        for &shard in to.difference(&self.down) {
            let touched = self.part_of(shard, touched);
            effects.push(Effect::Send {
                to: shard,
                message: Message::Decided { attempt: *attempt, touched },
            });
        }
    }

    fn send_all(&self, message: impl Fn(ShardId) -> Message, effects: &mut Vec<Effect>) {
        for &shard in self.shards.difference(&self.down) {
            effects.push(Effect::Send { to: shard, message: message(shard) });
        }
    }

    // ---- questions

    /// The run it started with.
    pub fn run(&self) -> Run {
        self.run
    }

    /// The last id decided durably; 0 before the first.
    pub fn decided(&self) -> MicrobatchId {
        self.decided
    }

    /// The last id known to be visible; 0 before the first.
    pub fn visible(&self) -> MicrobatchId {
        self.visible
    }

    /// The attempts that are under way, by ascending id; at most two.
    pub fn undecided(&self) -> Vec<AttemptId> {
        let live = self.flights.iter().filter(|flight| !flight.is_waiting());
        live.map(|flight| AttemptId { id: flight.id, run: self.run, attempt: flight.attempt })
            .collect()
    }

    /// Whether nothing is under way or waiting to be applied, and no source has records left to
    /// read.
    pub fn is_caught_up(&self) -> bool {
        self.flights.is_empty() && self.unapplied.is_empty() && self.unread().is_empty()
    }

    /// Whether it is held, and everything that was begun is decided, and applied by all, or aborted. What was
    /// sent before may still be on its way.
    pub fn is_at_rest(&self) -> bool {
        self.asked.hold
            && self.started
            && self.down.is_empty()
            && self.unapplied.is_empty()
            && self.flights.iter().all(Flight::is_waiting)
    }

    /// Whether [`Input::Until`] bounds it, and all up to there, and nothing above, is decided and applied by all:
    /// nothing happens any more until that input comes again. What was sent before may still be on its way.
    pub fn has_reached(&self) -> bool {
        let all = |until: &BTreeMap<Source, Offset>| {
            let mut sources = until.keys().chain(self.offsets.keys());
            sources.all(|&source| offset_in(&self.offsets, source) == offset_in(until, source))
        };
        self.until.as_ref().is_some_and(all)
            && self.started
            && self.down.is_empty()
            && self.unapplied.is_empty()
            && self.flights.is_empty()
    }

    /// How many records are decided, and how many of the known ones are there; more may have been appended.
    pub fn records(&self) -> (u64, u64) {
        let sum = |offsets: &BTreeMap<Source, Offset>| offsets.values().map(|it| it.0).sum();
        (sum(&self.offsets), sum(&self.ends))
    }

    /// Where the sources stand after all that is planned.
    pub fn planned(&self) -> BTreeMap<Source, Offset> {
        let mut planned = self.offsets.clone();
        for flight in &self.flights {
            planned.extend(flight.plan.ranges().iter().map(|range| (range.source, range.to)));
        }
        planned
    }

    /// What the next microbatch would read.
    fn unread(&self) -> Vec<SourceRange> {
        let mut ranges = Vec::new();
        for (&source, &end) in &self.ends {
            let planned = self.flights.iter().rev().find_map(|flight| flight.end_of(source));
            let from = planned.unwrap_or_else(|| offset_in(&self.offsets, source));
            let end = self.until.as_ref().map_or(end, |until| end.min(offset_in(until, source)));
            if from < end {
                let to = end.min(Offset(from.0.saturating_add(self.records_max)));
                ranges.push(SourceRange { source, from, to });
            }
            if ranges.len() == wire::LIST_MAX {
                break;
            }
        }
        ranges
    }

    /// Where the sources stand after the visible id.
    fn visible_offsets(&self) -> Vec<SourceOffset> {
        // Offsets that were decided and are not visible yet are left out: what is visible of those
        // sources was told before, or comes with the next id.
        let mut offsets = self.offsets.clone();
        for unapplied in &self.unapplied {
            for moved in unapplied.offsets.iter().flatten() {
                offsets.remove(&moved.source);
            }
        }
        listed(&offsets)
    }

    fn place_of(&self, attempt: AttemptId) -> Option<usize> {
        if attempt.run != self.run {
            return None;
        }
        self.flights.iter().position(|flight| {
            flight.id == attempt.id && flight.attempt == attempt.attempt && !flight.is_waiting()
        })
    }

    fn owner(&self, partition: PartitionId) -> Option<ShardId> {
        self.config.owners.get(partition.0 as usize).copied()
    }

    fn owners_of(&self, partitions: &[PartitionId]) -> BTreeSet<ShardId> {
        partitions.iter().filter_map(|&partition| self.owner(partition)).collect()
    }

    fn part_of(&self, shard: ShardId, partitions: &[PartitionId]) -> Vec<PartitionId> {
        let lies_there = |partition: &PartitionId| self.owner(*partition) == Some(shard);
        partitions.iter().copied().filter(lies_there).collect()
    }

    /// What holds between steps.
    fn check(&self) {
        assert!(self.visible <= self.decided);
        if self.config.faults == Faults::default() {
            for (flight, number) in self.flights.iter().zip(1..) {
                assert_eq!(flight.id.0, self.decided.0 + number, "flights are dense");
            }
            if let Some(last) = self.unapplied.back() {
                assert_eq!(last.attempt.id, self.decided);
            }
        }
        for (place, flight) in self.flights.iter().enumerate() {
            let below = place.checked_sub(1).and_then(|below| self.flights.get(below));
            let live = !flight.is_waiting();
            assert!(!live || place < UNDECIDED_MAX, "at most two are under way");
            assert!(!live || below.is_none_or(Flight::is_quiescent), "the lower one is quiescent");
            assert!(!live || self.started);
            if matches!(flight.stage, Stage::Deciding { .. }) {
                assert!(place == 0 || self.config.faults.single_journal_overtakes);
            } else {
                assert!(
                    !live || self.down.is_empty(),
                    "a shard that is down aborts what is undecided"
                );
            }
        }
    }
}

fn next_token(last: &mut Token) -> Token {
    last.0 = last.0.checked_add(1).expect("2^64 writes are out of reach");
    *last
}

fn offset_in(offsets: &BTreeMap<Source, Offset>, source: Source) -> Offset {
    offsets.get(&source).copied().unwrap_or_default()
}

fn listed(offsets: &BTreeMap<Source, Offset>) -> Vec<SourceOffset> {
    offsets.iter().map(|(&source, &offset)| SourceOffset { source, offset }).collect()
}

/// One is processed while the other is prepared and decided.
const UNDECIDED_MAX: usize = 2;

/// Bounds what a slow participant makes everybody remember. It is beyond what the order of messages
/// and journal entries allows on shards that were touched, so it delays nothing in practice.
const UNAPPLIED_MAX: usize = 4;
