//! Records that were rejected in one attempt, together: which of them are to blame?
//!
//! A record that is rejected leaves what it wrote before that to the rest of its attempt, so it can make
//! others fail. Trials tell them apart: each leaves all suspects out but some, and none is ever prepared. A
//! suspect that passes in some trial failed by contagion; one that is rejected wherever it runs is condemned.
//!
//! Few suspects are tried one by one, which is exact. Many are tried in halves, one pair of halves for each
//! bit of their numbers, so that any two of them run apart at least once: exact where one other record is the
//! cause, and a bound on the number of trials always.

use std::collections::{BTreeMap, BTreeSet};

use super::super::Origin;

/// See the module. Holds: there are at least two suspects, and a trial to be run.
#[derive(Clone, Debug)]
pub(super) struct Suspects {
    /// The suspects, each with the reason of its last rejection.
    reasons: BTreeMap<Origin, String>,
    /// Who runs in each trial that is left, the next one last.
    trials: Vec<BTreeSet<Origin>>,
    cleared: BTreeSet<Origin>,
}

/// What a trial leads to.
#[derive(Clone, Debug)]
pub(super) enum Verdict {
    /// Try the next one.
    Open(Suspects),
    /// These are to blame. None, if each of them passes without the others.
    Condemned(Vec<(Origin, String)>),
}

/// So many are tried one by one.
const ALONE_MAX: usize = 16;

impl Suspects {
    /// Of at least two.
    pub(super) fn new(suspects: BTreeMap<Origin, String>) -> Self {
        assert!(suspects.len() > 1, "one alone is to blame");
        let mut trials = Vec::new();
        if suspects.len() <= ALONE_MAX {
            trials.extend(suspects.keys().rev().map(|&origin| BTreeSet::from([origin])));
        } else {
            let bits = usize::BITS - (suspects.len() - 1).leading_zeros();
            for (bit, value) in (0..bits).flat_map(|bit| [(bit, 0), (bit, 1)]) {
                let half = suspects.keys().zip(0_usize..);
                let half = half.filter(|(_, number)| number >> bit & 1 == value);
                trials.push(half.map(|(&origin, _)| origin).collect());
            }
        }
        Self { reasons: suspects, trials, cleared: BTreeSet::new() }
    }

    /// Who is left out of the next trial.
    pub(super) fn left_out(&self) -> impl Iterator<Item = Origin> + '_ {
        let running = self.trials.last().expect("there is a trial to be run");
        self.reasons.keys().copied().filter(|origin| !running.contains(origin))
    }

    /// The trial rejected these; anybody else in it passed.
    pub(super) fn tried(mut self, rejected: &BTreeMap<Origin, String>) -> Verdict {
        let ran = self.trials.pop().expect("there was a trial to be run");
        for (origin, reason) in rejected {
            if let Some(known) = self.reasons.get_mut(origin) {
                known.clone_from(reason);
            }
        }
        self.cleared.extend(ran.into_iter().filter(|origin| !rejected.contains_key(origin)));
        self.next()
    }

    /// The trial failed of something that names nobody: whoever ran in it is not cleared.
    pub(super) fn inconclusive(mut self) -> Verdict {
        self.trials.pop();
        self.next()
    }

    fn next(self) -> Verdict {
        if !self.trials.is_empty() {
            return Verdict::Open(self);
        }
        let Self { reasons, cleared, .. } = self;
        Verdict::Condemned(reasons.into_iter().filter(|it| !cleared.contains(&it.0)).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::two_phase::Source;
    use crate::types::{DepotId, Offset, PartitionId};

    fn origin(number: u64) -> Origin {
        let source = Source { depot: DepotId(1), partition: PartitionId(0) };
        Origin { source, offset: Offset(number) }
    }

    /// Runs the trials of `0..count`; `rejects` says who is rejected where these run.
    fn judge(count: u64, rejects: impl Fn(u64, &BTreeSet<u64>) -> bool) -> (Vec<u64>, usize) {
        let all: BTreeMap<_, _> = (0..count).map(|it| (origin(it), String::new())).collect();
        let mut suspects = Suspects::new(all);
        for trials in 1.. {
            let out: BTreeSet<u64> = suspects.left_out().map(|it| it.offset.0).collect();
            let running: BTreeSet<u64> = (0..count).filter(|it| !out.contains(it)).collect();
            let rejected = running.iter().filter(|&&it| rejects(it, &running));
            let rejected = rejected.map(|&it| (origin(it), String::new())).collect();
            match suspects.tried(&rejected) {
                Verdict::Open(next) => suspects = next,
                Verdict::Condemned(condemned) => {
                    return (condemned.iter().map(|it| it.0.offset.0).collect(), trials);
                }
            }
        }
        unreachable!("the trials end")
    }

    #[test]
    fn who_failed_by_contagion_alone_is_cleared() {
        for count in 2..200 {
            for culprit in [0, count / 2, count - 1] {
                let rejects = |it: u64, running: &BTreeSet<u64>| {
                    it == culprit || it.is_multiple_of(3) && running.contains(&culprit)
                };
                let (condemned, trials) = judge(count, rejects);
                assert_eq!(condemned, [culprit], "of {count}");
                assert!(trials <= 16, "{trials} trials for {count}");
            }
        }
    }

    #[test]
    fn all_that_fail_alone_are_condemned_in_a_bounded_number_of_trials() {
        for (count, most) in [(2, 2), (16, 16), (17, 10), (1_000, 20), (60_000, 32)] {
            let (condemned, trials) = judge(count, |_, _| true);
            assert_eq!((condemned.len() as u64, trials), (count, most));
        }
    }

    #[test]
    fn nobody_is_condemned_where_each_passes_without_the_others() {
        assert_eq!(judge(5, |_, running| running.len() > 1).0, []);
    }
}
