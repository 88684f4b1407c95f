//! What came of a batch of seeds: failures, what was injected and reached in each scenario, and what a
//! large batch must contain.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use tidemill::probe::State;

use crate::counts::{Counts, Fault};
use crate::scenario::{Failure, Outcome, Report};

/// A batch of this many seeds must contain every kind of fault and every named state.
pub const FULL_SEEDS: u64 = 2_000;

/// The scenario that must contain all of them by itself, since it alone runs the whole engine.
const WHOLE: &str = "engine";

/// What came of a batch.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// Seeds that were run.
    pub seeds: u64,
    /// Polls of tasks in all worlds.
    pub polls: u64,
    /// By name.
    pub scenarios: BTreeMap<&'static str, Share>,
    /// Every seed that failed, and in which scenario.
    pub failures: Vec<Failed>,
}

/// What one scenario contributed.
#[derive(Clone, Debug, Default)]
pub struct Share {
    /// What it did.
    pub outcome: Outcome,
    /// What was injected.
    pub counts: Counts,
    /// The states of the engine that occurred.
    pub states: BTreeMap<State, u64>,
}

/// One failed seed.
#[derive(Clone, Debug)]
pub struct Failed {
    /// Which.
    pub seed: u64,
    /// In which scenario.
    pub scenario: &'static str,
    /// Who saw what.
    pub failure: Failure,
}

impl Tally {
    /// Adds what one scenario of a seed came to; returns its failure.
    pub fn add(&mut self, seed: u64, report: Report) -> Option<&Failed> {
        let share = self.scenarios.entry(report.scenario).or_default();
        share.counts.merge(&report.counts);
        for (state, count) in report.states {
            *share.states.entry(state).or_default() += count;
        }
        self.polls += report.polls;
        match report.result {
            Ok(outcome) => {
                share.outcome.merge(&outcome);
                None
            }
            Err(failure) => {
                self.failures.push(Failed { seed, scenario: report.scenario, failure });
                self.failures.last()
            }
        }
    }

    /// All scenarios together.
    #[must_use]
    pub fn whole(&self) -> Share {
        let mut whole = Share::default();
        for share in self.scenarios.values() {
            whole.counts.merge(&share.counts);
            for (state, count) in &share.states {
                *whole.states.entry(*state).or_default() += count;
            }
        }
        whole
    }

    /// The kinds of faults and the named states that a batch of [`FULL_SEEDS`] lacks. The scenario of the
    /// whole engine must have all of them; batches that leave it out are asked for nothing.
    #[must_use]
    pub fn missing(&self) -> Vec<&'static str> {
        match self.scenarios.get(WHOLE) {
            Some(share) if self.seeds >= FULL_SEEDS => share.missing(),
            _ => Vec::new(),
        }
    }
}

impl Share {
    fn missing(&self) -> Vec<&'static str> {
        let faults = self.counts.iter().filter(|(_, count)| *count == 0);
        let states = self.states().filter(|(_, count)| *count == 0);
        faults.map(|(fault, _)| Fault::name(fault)).chain(states.map(|(name, _)| name)).collect()
    }

    fn states(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        State::ALL
            .iter()
            .map(|state| (state.name(), self.states.get(state).copied().unwrap_or_default()))
    }

    /// How often each kind of fault was injected.
    #[must_use]
    pub fn faults_json(&self) -> Value {
        let faults: BTreeMap<_, _> =
            self.counts.iter().map(|(fault, count)| (fault.name(), count)).collect();
        json!(faults)
    }

    /// How often each named state occurred.
    #[must_use]
    pub fn states_json(&self) -> Value {
        json!(self.states().collect::<BTreeMap<_, _>>())
    }

    /// Everything.
    #[must_use]
    pub fn json(&self) -> Value {
        json!({
            "did": self.outcome.counters,
            "faults": self.faults_json(),
            "states": self.states_json(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(counts: Counts, states: BTreeMap<State, u64>) -> Report {
        let result = Ok(Outcome::default());
        Report { scenario: WHOLE, result, trace: 0, counts, states, polls: 1, log: Vec::new() }
    }

    #[test]
    fn a_full_batch_must_contain_everything() {
        let mut counts = Counts::default();
        for &fault in Fault::ALL {
            counts.add(fault);
        }
        let states: BTreeMap<_, _> = State::ALL.iter().map(|&state| (state, 1)).collect();
        for left_out in State::ALL {
            let mut states = states.clone();
            states.remove(left_out);
            let mut tally = Tally { seeds: FULL_SEEDS, ..Tally::default() };
            assert!(tally.add(0, report(counts.clone(), states)).is_none());
            assert_eq!(tally.missing(), [left_out.name()]);
            tally.seeds -= 1;
            assert_eq!(tally.missing(), [""; 0], "a small batch may miss something");
        }
        for &left_out in Fault::ALL {
            let mut counts = Counts::default();
            for &fault in Fault::ALL.iter().filter(|&&fault| fault != left_out) {
                counts.add(fault);
            }
            let mut tally = Tally { seeds: FULL_SEEDS, ..Tally::default() };
            tally.add(0, report(counts, states.clone()));
            // Another scenario does not make up for it.
            let other = Report { scenario: "other", ..report(Counts::default(), states.clone()) };
            tally.add(0, other);
            assert_eq!(tally.missing(), [left_out.name()]);
        }
    }
}
