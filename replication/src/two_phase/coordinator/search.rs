//! The search for a record that is rejected without a name: trials over growing and shrinking
//! prefixes of a microbatch's records, none of which is ever prepared.
//!
//! Holds throughout: the first `passes` records pass, the first `fails` records fail. So it ends at
//! a record whose addition makes the difference, whether or not failures are monotone in the
//! prefix. That record is tried once more before it is called the culprit, since a failure may have
//! been chance.

/// A search among `fails` records at first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Search {
    passes: u64,
    fails: u64,
}

/// What a failed trial leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// Try [`Search::trial`] next.
    Narrower(Search),
    /// The record with this number, from 0.
    Culprit(u64),
}

impl Search {
    /// A search among `records_count` records that failed together; `None` if there are none.
    pub(super) fn new(records_count: u64) -> Option<Self> {
        (records_count > 0).then_some(Self { passes: 0, fails: records_count })
    }

    /// How many records the next trial reads, at least 1.
    pub(super) fn trial(self) -> u64 {
        if self.is_last() { self.fails } else { self.passes + (self.fails - self.passes) / 2 }
    }

    /// The trial passed. `None` if the failure does not repeat.
    pub(super) fn passed(self) -> Option<Self> {
        (!self.is_last()).then(|| Self { passes: self.trial(), ..self })
    }

    /// The trial failed.
    pub(super) fn failed(self) -> Found {
        if self.is_last() {
            Found::Culprit(self.passes)
        } else {
            Found::Narrower(Self { fails: self.trial(), ..self })
        }
    }

    fn is_last(self) -> bool {
        self.fails - self.passes == 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs a search in which a prefix fails when `fails(its length)`; returns culprit and trials.
    fn run(count: u64, fails: impl Fn(u64) -> bool) -> (Option<u64>, u32) {
        let mut search = Search::new(count).unwrap();
        for trials in 1.. {
            if fails(search.trial()) {
                match search.failed() {
                    Found::Narrower(next) => search = next,
                    Found::Culprit(record) => return (Some(record), trials),
                }
            } else {
                match search.passed() {
                    Some(next) => search = next,
                    None => return (None, trials),
                }
            }
        }
        unreachable!("a search ends")
    }

    #[test]
    fn finds_every_single_culprit_in_logarithmically_many_trials() {
        for count in 1..70 {
            for culprit in 0..count {
                let (found, trials) = run(count, |length| length > culprit);
                assert_eq!(found, Some(culprit), "of {count}");
                assert!(trials <= count.ilog2() + 3, "{trials} trials for {count}");
            }
        }
    }

    #[test]
    fn a_failure_that_does_not_repeat_accuses_nobody() {
        for count in 1..20 {
            assert_eq!(run(count, |_| false).0, None);
        }
    }

    #[test]
    fn ends_also_when_failures_are_not_monotone() {
        let (found, _) = run(16, |length| [3, 4, 9, 16].contains(&length));
        assert!(found.is_some_and(|record| [2, 8, 15].contains(&record)), "{found:?}");
    }
}
