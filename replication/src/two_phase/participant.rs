//! The participant of one topology on one shard: counts the work of an attempt, holds its prepare,
//! and releases or commits it when the coordinator says so.
//!
//! ```text
//! Running -> Preparing -> Prepared --+--> Committing -> (committed)
//!    |           |            |      |
//!    '-----------'------------'------|--> (dropped)      InDoubt: Prepared in an earlier life
//!                         InDoubt ---'                            of the shard
//! ```

mod io;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

pub use self::io::{Admission, Config, Effect, Input, Recovered};

use super::{
    AttemptId, Exclusion, Failure, FailureKind, Message, Source, SourceOffset, SourceRange,
    cut_reason,
};
use crate::types::{Attempt, MicrobatchId, Offset, PartitionId, Run};

/// One shard's part in the microbatches of one topology. See the [module](super) for what it
/// guarantees.
#[derive(Clone, Debug)]
pub struct Participant {
    config: Config,
    /// The highest run of a coordinator seen; lower ones are over.
    run: Run,
    /// What is neither committed nor dropped.
    attempts: BTreeMap<AttemptId, State>,
    /// The highest attempt of each id above `visible` that has begun here or is over: no other
    /// attempt at or below it may begin.
    fences: BTreeMap<MicrobatchId, (Run, Attempt)>,
    /// The last id committed on each partition, where known.
    committed: BTreeMap<PartitionId, MicrobatchId>,
    visible: MicrobatchId,
    /// How far this shard's sources are durable.
    ends: BTreeMap<Source, Offset>,
    /// How often outcomes were asked for, which sets the time until the next asking.
    asks_count: u32,
}

/// How far an attempt is on this shard.
#[derive(Clone, Debug)]
enum State {
    /// Rows flow.
    Running(Running),
    /// The prepare is being written.
    Preparing { touched: BTreeSet<PartitionId>, failed: bool },
    /// The prepare is durable and the vote is sent.
    Prepared { touched: BTreeSet<PartitionId> },
    /// A prepare that was found when the shard was opened.
    InDoubt { touched: BTreeSet<PartitionId> },
    /// Decided; the committed entries are being written.
    Committing { touched: BTreeSet<PartitionId> },
}

/// The work of an attempt.
#[derive(Clone, Debug, Default)]
struct Running {
    /// Items queued or running.
    work: u64,
    sent: u64,
    received: u64,
    touched: BTreeSet<PartitionId>,
    /// Records named as bad; the attempt goes on to find them all.
    rejections: u64,
    /// Nothing more will come of it.
    failed: bool,
}

impl Participant {
    /// A participant of a shard that was opened; give it [`Input::Start`] next.
    #[must_use]
    pub fn recover(config: Config, recovered: Recovered) -> Self {
        let mut participant = Self {
            config,
            run: Run(0),
            attempts: BTreeMap::new(),
            fences: BTreeMap::new(),
            committed: recovered.committed.into_iter().collect(),
            visible: MicrobatchId(0),
            ends: BTreeMap::new(),
            asks_count: 0,
        };
        for (attempt, partition) in recovered.prepares {
            participant.run = participant.run.max(attempt.run);
            participant.raise_fence(attempt);
            let fresh = || State::InDoubt { touched: BTreeSet::new() };
            match participant.attempts.entry(attempt).or_insert_with(fresh) {
                State::InDoubt { touched } => touched.insert(partition),
                State::Running(_)
                | State::Preparing { .. }
                | State::Prepared { .. }
                | State::Committing { .. } => unreachable!("only doubts are recovered"),
            };
        }
        participant.check();
        participant
    }

    /// Takes one input at `now_ns` and appends what is to be done.
    ///
    /// # Panics
    /// When the driver reports what cannot be, such as more work finished than started.
    pub fn step(&mut self, now_ns: u64, input: Input, effects: &mut Vec<Effect>) {
        match input {
            Input::Start | Input::Wake => self.ask(now_ns, effects),
            Input::Message(message) => self.on_message(now_ns, message, effects),
            Input::SourceEnds(ends) => self.on_source_ends(ends, effects),
            Input::WorkStarted { attempt, count } => {
                self.running(attempt, |running| {
                    assert!(running.work > 0, "only work and arriving rows start work");
                    running.work += count;
                });
            }
            Input::WorkFinished { attempt, count } => {
                self.running(attempt, |running| {
                    let left = running.work.checked_sub(count);
                    running.work = left.expect("work is started before it is finished");
                });
                self.report_if_idle(attempt, effects);
            }
            Input::BatchSent { attempt, count } => {
                self.running(attempt, |running| {
                    assert!(running.work > 0, "only work sends rows");
                    running.sent += count;
                });
            }
            Input::BatchReceived { attempt, count } => {
                self.running(attempt, |running| {
                    running.received += count;
                    running.work += count;
                });
            }
            Input::Touched { attempt, partition } => {
                self.running(attempt, |running| {
                    assert!(running.work > 0, "only work writes");
                    running.touched.insert(partition);
                });
            }
            Input::Failed { attempt, failure } => self.on_failed(attempt, failure, effects),
            Input::PrepareDurable { attempt } => self.on_prepare_durable(attempt, effects),
            Input::CommittedDurable { attempt } => self.on_committed_durable(attempt, effects),
            Input::CommitLocally { attempt } => self.on_commit_locally(attempt, effects),
        }
        self.check();
    }

    // ---- what the coordinator says

    fn on_message(&mut self, now_ns: u64, message: Message, effects: &mut Vec<Effect>) {
        match message {
            Message::Hello { run } => {
                self.raise_run(now_ns, run, effects);
                self.send_all_ends(effects);
            }
            Message::Begin { attempt, ranges, exclusions, began_us } => {
                self.raise_run(now_ns, attempt.run, effects);
                self.on_begin(attempt, (ranges, exclusions), began_us, effects);
            }
            Message::Probe { attempt, round } => self.report(attempt, round, effects),
            Message::Prepare { attempt } => self.on_prepare(attempt, effects),
            Message::Decided { attempt, touched } => {
                self.on_decided(attempt, &touched.into_iter().collect(), effects);
            }
            Message::Abort { attempt } => self.drop_attempt(attempt, effects),
            Message::Undecided { attempt } => {
                if self.is_in_doubt(attempt) {
                    self.wake_to_ask(now_ns, effects);
                }
            }
            Message::Visible { id, offsets } => self.on_visible(id, offsets, effects),
            // What a participant says is not for a participant.
            Message::SourceEnds { .. }
            | Message::Report { .. }
            | Message::Vote { .. }
            | Message::Failed { .. }
            | Message::Applied { .. }
            | Message::Ask { .. } => {}
        }
    }

    /// A coordinator of a higher run has started: what older runs had not prepared can never
    /// commit, and of the rest this one knows the outcome.
    fn raise_run(&mut self, now_ns: u64, run: Run, effects: &mut Vec<Effect>) {
        if run <= self.run {
            return;
        }
        self.run = run;
        let running = |state: &State| matches!(state, State::Running(_));
        let over: Vec<_> = self
            .attempts
            .iter()
            .filter(|(attempt, state)| attempt.run < run && running(state))
            .map(|(&attempt, _)| attempt)
            .collect();
        for attempt in over.into_iter().rev() {
            self.drop_attempt(attempt, effects);
        }
        self.asks_count = 0;
        self.ask(now_ns, effects);
    }

    fn on_begin(
        &mut self,
        attempt: AttemptId,
        (ranges, exclusions): (Vec<SourceRange>, Vec<Exclusion>),
        began_us: u64,
        effects: &mut Vec<Effect>,
    ) {
        if self.is_over(attempt) || self.has_begun(attempt) {
            return;
        }
        // A coordinator begins an attempt only after it gave up every other at this id and above.
        // Doubts of this run at higher ids are left to the answer that is under way.
        let given_up: Vec<_> = self
            .attempts
            .iter()
            .filter(|(other, state)| match state {
                State::Running(_) | State::Preparing { .. } | State::Prepared { .. } => {
                    other.id >= attempt.id
                }
                State::InDoubt { .. } if self.config.faults.other_attempt_accepted => false,
                State::InDoubt { .. } => {
                    other.id == attempt.id || other.id > attempt.id && other.run < attempt.run
                }
                State::Committing { .. } => false,
            })
            .map(|(&other, _)| other)
            .collect();
        for other in given_up.into_iter().rev() {
            self.drop_attempt(other, effects);
        }
        self.raise_fence(attempt);
        let below = self
            .attempts
            .iter()
            .rev()
            .find(|(other, state)| {
                other.id.next() == attempt.id && !matches!(state, State::InDoubt { .. })
            })
            .map(|(&other, _)| other);
        // The sources are one item of work.
        self.attempts.insert(attempt, State::Running(Running { work: 1, ..Running::default() }));
        effects.push(Effect::StartSources { attempt, ranges, exclusions, below, began_us });
    }

    fn on_prepare(&mut self, attempt: AttemptId, effects: &mut Vec<Effect>) {
        let Some(State::Running(running)) = self.attempts.get_mut(&attempt) else { return };
        // Neither happens while the coordinator counts well; voting then would commit half of it.
        if running.failed || running.rejections > 0 || running.work > 0 {
            return;
        }
        let touched = std::mem::take(&mut running.touched);
        if touched.is_empty() {
            self.attempts.insert(attempt, State::Prepared { touched });
            self.send(Message::Vote { attempt, touched: Vec::new() }, effects);
        } else {
            let partitions = touched.iter().copied().collect();
            self.attempts.insert(attempt, State::Preparing { touched, failed: false });
            effects.push(Effect::WritePrepare { attempt, partitions });
        }
    }

    fn on_decided(
        &mut self,
        attempt: AttemptId,
        touched: &BTreeSet<PartitionId>,
        effects: &mut Vec<Effect>,
    ) {
        let named = self.named(attempt);
        // Every other attempt of this id is over.
        let others: Vec<_> =
            self.attempts.keys().copied().filter(|&a| a.id == attempt.id && a != named).collect();
        for other in others {
            self.drop_attempt(other, effects);
        }
        self.raise_fence(attempt);
        let held = match self.attempts.get(&named) {
            Some(State::Committing { .. }) => return,
            Some(State::Prepared { touched } | State::InDoubt { touched }) => touched.clone(),
            Some(State::Running(_) | State::Preparing { .. }) | None => BTreeSet::new(),
        };
        let missing: Vec<_> = touched
            .difference(&held)
            .copied()
            .filter(|partition| self.committed.get(partition).is_some_and(|&id| id < attempt.id))
            .collect();
        if !missing.is_empty() {
            effects.push(Effect::Lost { attempt, partitions: missing });
            return;
        }
        self.attempts.remove(&named);
        if held.is_empty() {
            self.send(Message::Applied { attempt }, effects);
        } else {
            let partitions = held.iter().copied().collect();
            self.attempts.insert(named, State::Committing { touched: held });
            effects.push(Effect::WriteCommitted { attempt: named, partitions });
        }
    }

    /// The attempt that a decision means.
    fn named(&self, attempt: AttemptId) -> AttemptId {
        if self.config.faults.other_attempt_accepted {
            let prepared =
                |state: &State| matches!(state, State::Prepared { .. } | State::InDoubt { .. });
            let mut same_id = self.attempts.iter().filter(|(other, _)| other.id == attempt.id);
            if let Some((&other, _)) = same_id.find(|(_, state)| prepared(state)) {
                return other;
            }
        }
        attempt
    }

    fn on_visible(
        &mut self,
        id: MicrobatchId,
        offsets: Vec<SourceOffset>,
        effects: &mut Vec<Effect>,
    ) {
        if id > self.visible {
            self.visible = id;
            self.fences.retain(|&fenced, _| fenced > id);
            effects.push(Effect::MergeVisible { id, offsets });
        }
    }

    /// The attempt can no longer commit, nor can what runs on its overlay, which goes first. What is
    /// committed already stays: then this is an old message.
    fn drop_attempt(&mut self, attempt: AttemptId, effects: &mut Vec<Effect>) {
        self.raise_fence(attempt);
        let built_on = match self.attempts.get(&attempt) {
            None | Some(State::Committing { .. }) => return,
            Some(State::InDoubt { .. }) => None,
            Some(State::Running(_) | State::Preparing { .. } | State::Prepared { .. }) => {
                let is_live = |state: &State| !matches!(state, State::InDoubt { .. });
                let mut above = self.attempts.iter().rev();
                above.find(|(it, state)| it.id > attempt.id && is_live(state)).map(|(&it, _)| it)
            }
        };
        if let Some(above) = built_on {
            self.drop_attempt(above, effects);
            return self.drop_attempt(attempt, effects);
        }
        let aborted = match self.attempts.get(&attempt) {
            None | Some(State::Committing { .. }) => return,
            Some(State::Running(_)) => Vec::new(),
            Some(
                State::Preparing { touched, .. }
                | State::Prepared { touched }
                | State::InDoubt { touched },
            ) => touched.iter().copied().collect(),
        };
        self.attempts.remove(&attempt);
        effects.push(Effect::Drop { attempt, aborted });
    }

    /// A coordinator that starts, or that finds this shard up again, may have missed some.
    fn send_all_ends(&self, effects: &mut Vec<Effect>) {
        if !self.ends.is_empty() {
            let ends = self.ends.iter();
            let ends = ends.map(|(&source, &offset)| SourceOffset { source, offset }).collect();
            self.send(Message::SourceEnds { ends }, effects);
        }
    }

    // ---- what the driver reports

    fn on_source_ends(&mut self, mut ends: Vec<SourceOffset>, effects: &mut Vec<Effect>) {
        ends.retain(|end| {
            let known = self.ends.entry(end.source).or_default();
            let grew = *known < end.offset;
            *known = end.offset.max(*known);
            grew
        });
        if !ends.is_empty() {
            self.send(Message::SourceEnds { ends }, effects);
        }
    }

    fn on_failed(&mut self, attempt: AttemptId, mut failure: Failure, effects: &mut Vec<Effect>) {
        match self.attempts.get_mut(&attempt) {
            Some(State::Running(running)) => {
                assert!(running.work > 0, "work fails before it is finished");
                if running.failed {
                    return;
                }
                if failure.kind == FailureKind::Reject && failure.origin.is_some() {
                    running.rejections += 1;
                    if running.rejections > REJECTIONS_MAX {
                        return;
                    }
                } else {
                    running.failed = true;
                }
            }
            Some(State::Preparing { failed, .. }) => {
                if std::mem::replace(failed, true) {
                    return;
                }
            }
            Some(State::Prepared { .. } | State::InDoubt { .. } | State::Committing { .. })
            | None => return,
        }
        failure.message = cut_reason(&failure.message);
        self.send(Message::Failed { attempt, failure }, effects);
    }

    fn on_prepare_durable(&mut self, attempt: AttemptId, effects: &mut Vec<Effect>) {
        let Some(State::Preparing { touched, failed: false }) = self.attempts.get(&attempt) else {
            return;
        };
        let touched = touched.clone();
        let voted = touched.iter().copied().collect();
        self.attempts.insert(attempt, State::Prepared { touched });
        self.send(Message::Vote { attempt, touched: voted }, effects);
    }

    fn on_committed_durable(&mut self, attempt: AttemptId, effects: &mut Vec<Effect>) {
        let Some(State::Committing { touched }) = self.attempts.get(&attempt) else { return };
        for &partition in touched {
            let last = self.committed.entry(partition).or_default();
            *last = attempt.id.max(*last);
        }
        self.attempts.remove(&attempt);
        self.send(Message::Applied { attempt }, effects);
    }

    fn on_commit_locally(&mut self, attempt: AttemptId, effects: &mut Vec<Effect>) {
        let Some(State::Running(running)) = self.attempts.get_mut(&attempt) else {
            panic!("a local commit of attempt {attempt}, which does not run here");
        };
        let whole = running.work == 0 && !running.failed && running.rejections == 0;
        assert!(whole, "a local commit of unfinished work");
        let touched = std::mem::take(&mut running.touched);
        let partitions = touched.iter().copied().collect();
        self.attempts.insert(attempt, State::Committing { touched });
        effects.push(Effect::WriteLocally { attempt, partitions });
    }

    fn running(&mut self, attempt: AttemptId, change: impl FnOnce(&mut Running)) {
        if let Some(State::Running(running)) = self.attempts.get_mut(&attempt) {
            change(running);
        }
    }

    fn report_if_idle(&self, attempt: AttemptId, effects: &mut Vec<Effect>) {
        if let Some(State::Running(running)) = self.attempts.get(&attempt)
            && running.work == 0
            && !running.failed
        {
            self.report(attempt, 0, effects);
        }
    }

    fn report(&self, attempt: AttemptId, round: u32, effects: &mut Vec<Effect>) {
        let Some(State::Running(running)) = self.attempts.get(&attempt) else { return };
        let message = Message::Report {
            attempt,
            round,
            sent: running.sent,
            received: running.received,
            idle: running.work == 0 && !running.failed,
            touched: running.touched.iter().copied().collect(),
        };
        self.send(message, effects);
    }

    // ---- doubts

    /// Asks for the outcome of everything that no coordinator of the present run will tell by
    /// itself.
    fn ask(&mut self, now_ns: u64, effects: &mut Vec<Effect>) {
        let keys = self.attempts.keys().copied();
        let attempts: Vec<_> = keys.filter(|&attempt| self.is_in_doubt(attempt)).collect();
        if !attempts.is_empty() {
            self.send(Message::Ask { attempts }, effects);
            self.wake_to_ask(now_ns, effects);
        }
    }

    fn wake_to_ask(&mut self, now_ns: u64, effects: &mut Vec<Effect>) {
        let wait_ns = ASK_NS_MIN << self.asks_count.min(ASK_DOUBLINGS);
        self.asks_count = self.asks_count.saturating_add(1);
        effects.push(Effect::WakeAt(now_ns.saturating_add(wait_ns.min(ASK_NS_MAX))));
    }

    fn is_in_doubt(&self, attempt: AttemptId) -> bool {
        match self.attempts.get(&attempt) {
            Some(State::InDoubt { .. }) => true,
            Some(State::Preparing { .. } | State::Prepared { .. }) => attempt.run < self.run,
            Some(State::Running(_) | State::Committing { .. }) | None => false,
        }
    }

    // ---- questions

    /// What to do with a row batch of this attempt.
    pub fn admission(&self, attempt: AttemptId) -> Admission {
        match self.attempts.get(&attempt) {
            Some(State::Running(running)) if !running.failed => Admission::Run,
            Some(_) => Admission::Stale,
            None if self.is_over(attempt) || self.has_begun(attempt) => Admission::Stale,
            None => Admission::Hold,
        }
    }

    /// Attempts that hold a prepare, or are about to, without a known outcome.
    pub fn in_doubt(&self) -> Vec<AttemptId> {
        self.attempts
            .iter()
            .filter(|(_, state)| match state {
                State::Preparing { .. } | State::Prepared { .. } | State::InDoubt { .. } => true,
                State::Running(_) | State::Committing { .. } => false,
            })
            .map(|(&attempt, _)| attempt)
            .collect()
    }

    /// The last id that is visible on this shard; 0 before the first.
    pub fn visible(&self) -> MicrobatchId {
        self.visible
    }

    fn send(&self, message: Message, effects: &mut Vec<Effect>) {
        effects.push(Effect::Send { to: self.config.coordinator, message });
    }

    fn raise_fence(&mut self, attempt: AttemptId) {
        // Ids up to the visible one are over without a fence.
        if attempt.id > self.visible {
            let fence = self.fences.entry(attempt.id).or_default();
            *fence = (attempt.run, attempt.attempt).max(*fence);
        }
    }

    /// Whether the attempt is of an older run, or of an id that all have applied.
    fn is_over(&self, attempt: AttemptId) -> bool {
        attempt.run < self.run || attempt.id <= self.visible
    }

    /// Whether this attempt or a later one of its id has begun here, or is over.
    fn has_begun(&self, attempt: AttemptId) -> bool {
        let fence = self.fences.get(&attempt.id);
        fence.is_some_and(|&fence| (attempt.run, attempt.attempt) <= fence)
    }

    /// What holds between steps.
    fn check(&self) {
        assert!(self.fences.keys().all(|&id| id > self.visible));
        let mut running_ids = BTreeSet::new();
        for (attempt, state) in &self.attempts {
            match state {
                State::Running(_) => {
                    assert!(attempt.run == self.run, "what is over does not run");
                    assert!(running_ids.insert(attempt.id), "one attempt of an id runs at a time");
                }
                State::Preparing { touched, .. } | State::InDoubt { touched } => {
                    assert!(!touched.is_empty());
                }
                State::Prepared { .. } | State::Committing { .. } => {}
            }
        }
    }
}

/// The first wait is a few microbatches long, the longest is a second, as for every retry.
const ASK_NS_MIN: u64 = 10_000_000;
const ASK_NS_MAX: u64 = 1_000_000_000;
const ASK_DOUBLINGS: u32 = 7;

/// Bounds the messages of one attempt about bad records; the others are found by the next attempts.
const REJECTIONS_MAX: u64 = 1024;
