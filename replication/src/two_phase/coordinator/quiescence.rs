//! When is an attempt's processing over? Nobody sees all shards at once, and rows are under way
//! between them.
//!
//! Mattern's four counters (Algorithms for distributed termination detection, 1987): all shards
//! report that they are idle and what they have sent and received; once the sums agree, every shard
//! is asked again. If all are still idle with the same counters, then nothing was under way between
//! the first round's last report and the second round's first, and nothing can start again, since
//! only an arriving batch starts work.

use std::collections::{BTreeMap, BTreeSet};

use crate::types::{PartitionId, ShardId};

/// What a shard reports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Counters {
    pub(super) sent: u64,
    pub(super) received: u64,
    pub(super) idle: bool,
    pub(super) touched: Vec<PartitionId>,
}

/// What a report leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Wait,
    /// Ask every shard for its counters with this round.
    Probe(u32),
    /// Nothing runs and nothing is under way.
    Quiescent,
}

/// The state of the detection for one attempt.
#[derive(Clone, Debug)]
pub(super) struct Quiescence {
    /// The latest word of each shard.
    latest: BTreeMap<ShardId, Option<Counters>>,
    /// The round asked for last; 0 before the first.
    round: u32,
    confirming: Option<Confirming>,
}

#[derive(Clone, Debug)]
struct Confirming {
    /// The counters that must not have changed.
    before: BTreeMap<ShardId, Option<Counters>>,
    missing: BTreeSet<ShardId>,
}

impl Quiescence {
    pub(super) fn new(shards: &BTreeSet<ShardId>) -> Self {
        Self {
            latest: shards.iter().map(|&shard| (shard, None)).collect(),
            round: 0,
            confirming: None,
        }
    }

    /// Takes a report; `round` is 0 for one that was not asked for. Repeated and late ones do no
    /// harm.
    pub(super) fn report(&mut self, from: ShardId, round: u32, counters: Counters) -> Step {
        if round != 0 && round != self.round {
            return Step::Wait;
        }
        let Some(latest) = self.latest.get_mut(&from) else { return Step::Wait };
        let goes_back = latest.as_ref().is_some_and(|latest| {
            counters.sent < latest.sent || counters.received < latest.received
        });
        if goes_back {
            return Step::Wait;
        }
        *latest = Some(counters);
        if let Some(confirming) = &mut self.confirming {
            if round == self.round {
                confirming.missing.remove(&from);
            }
            if !confirming.missing.is_empty() {
                return Step::Wait;
            }
            let unchanged = confirming.before == self.latest;
            self.confirming = None;
            if unchanged {
                assert!(self.looks_done(), "a confirmation starts only when it looks done");
                return Step::Quiescent;
            }
        }
        if !self.looks_done() {
            return Step::Wait;
        }
        self.round = self.round.checked_add(1).expect("each round takes a message");
        self.confirming = Some(Confirming {
            before: self.latest.clone(),
            missing: self.latest.keys().copied().collect(),
        });
        Step::Probe(self.round)
    }

    /// The partitions that hold writes, per shard. Complete once quiescent.
    pub(super) fn touched(&self) -> impl Iterator<Item = (ShardId, &[PartitionId])> {
        self.latest.iter().map(|(&shard, counters)| {
            (shard, counters.as_ref().map_or(&[][..], |counters| &counters.touched))
        })
    }

    /// All idle, and as much received as sent.
    fn looks_done(&self) -> bool {
        let mut sent = 0u64;
        let mut received = 0u64;
        for counters in self.latest.values() {
            let Some(counters) = counters.as_ref().filter(|counters| counters.idle) else {
                return false;
            };
            // Sums of what others claim may wrap; equality modulo 2^64 is as good.
            sent = sent.wrapping_add(counters.sent);
            received = received.wrapping_add(counters.received);
        }
        sent == received
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: ShardId = ShardId(0);
    const B: ShardId = ShardId(1);

    fn counters(sent: u64, received: u64, idle: bool) -> Counters {
        Counters { sent, received, idle, touched: vec![] }
    }

    fn two() -> Quiescence {
        Quiescence::new(&BTreeSet::from([A, B]))
    }

    #[test]
    fn needs_a_second_round_with_the_same_counters() {
        let mut q = two();
        assert_eq!(q.report(A, 0, counters(1, 0, true)), Step::Wait);
        assert_eq!(q.report(B, 0, counters(0, 1, true)), Step::Probe(1));
        assert_eq!(q.report(A, 1, counters(1, 0, true)), Step::Wait);
        assert_eq!(q.report(B, 1, counters(0, 1, true)), Step::Quiescent);
    }

    #[test]
    fn sums_that_agree_by_accident_are_found_out() {
        // A sent one batch to B, which is under way; B, asked later, had received one from A that A
        // had not counted in its earlier report, and sent one.
        let mut q = two();
        assert_eq!(q.report(A, 0, counters(1, 0, true)), Step::Wait);
        assert_eq!(q.report(B, 0, counters(0, 1, true)), Step::Probe(1));
        assert_eq!(q.report(A, 1, counters(2, 1, true)), Step::Wait);
        assert_eq!(q.report(B, 1, counters(1, 1, true)), Step::Wait);
        assert_eq!(q.report(B, 0, counters(1, 2, true)), Step::Probe(2));
        assert_eq!(q.report(B, 2, counters(1, 2, true)), Step::Wait);
        assert_eq!(q.report(A, 2, counters(2, 1, true)), Step::Quiescent);
    }

    #[test]
    fn repeated_and_late_reports_change_nothing() {
        let mut q = two();
        assert_eq!(q.report(A, 0, counters(3, 2, true)), Step::Wait);
        assert_eq!(q.report(A, 0, counters(0, 0, true)), Step::Wait);
        assert_eq!(q.report(B, 0, counters(2, 3, true)), Step::Probe(1));
        assert_eq!(q.report(B, 0, counters(2, 3, true)), Step::Wait);
        assert_eq!(q.report(A, 1, counters(3, 2, true)), Step::Wait);
        assert_eq!(q.report(A, 1, counters(3, 2, true)), Step::Wait);
        assert_eq!(q.report(B, 7, counters(2, 3, true)), Step::Wait);
        assert_eq!(q.report(ShardId(9), 1, counters(2, 3, true)), Step::Wait);
        assert_eq!(q.report(B, 1, counters(2, 3, true)), Step::Quiescent);
    }

    #[test]
    fn a_busy_shard_ends_the_confirmation() {
        let mut q = two();
        assert_eq!(q.report(A, 0, counters(1, 0, true)), Step::Wait);
        assert_eq!(q.report(B, 0, counters(0, 1, true)), Step::Probe(1));
        assert_eq!(q.report(A, 1, counters(1, 1, false)), Step::Wait);
        assert_eq!(q.report(B, 1, counters(1, 1, true)), Step::Wait);
        // Idle again, it starts a new one: the counters had changed.
        assert_eq!(q.report(A, 0, counters(1, 1, true)), Step::Probe(2));
        assert_eq!(q.report(B, 1, counters(1, 1, true)), Step::Wait);
        assert_eq!(q.report(B, 2, counters(1, 1, true)), Step::Wait);
        assert_eq!(q.report(A, 2, counters(1, 1, true)), Step::Quiescent);
    }
}
