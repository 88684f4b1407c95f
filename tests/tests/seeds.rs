//! A bounded number of seeds of every scenario, each of which must be clean and repeat itself, and the
//! planted bugs, each of which must be caught. `simulate` runs many more.

use std::collections::BTreeMap;

use tidemill::probe::Plant;
use tidemill_tests::counts::{Counts, Fault};
use tidemill_tests::scenario::{self, Failure, Scenario};

fn named(name: &str) -> &'static dyn Scenario {
    scenario::ALL.iter().copied().find(|one| one.name() == name).expect("there is one")
}

/// Runs seeds, and returns what was injected.
fn clean(name: &str, seeds: u64) -> Counts {
    let mut counts = Counts::default();
    for seed in 0..seeds {
        let report = scenario::run(named(name), seed, None, false);
        if let Err(failure) = report.result {
            panic!("seed {seed} of {name}: {failure}; run `simulate --replay {seed}`");
        }
        counts.merge(&report.counts);
    }
    counts
}

#[test]
fn journals_keep_their_promises() {
    let counts = clean("journal", 40);
    for fault in [Fault::PowerCut, Fault::ProcessKill, Fault::UnitTorn, Fault::NoSpace] {
        assert!(counts.of(fault) > 0, "{} never happened", fault.name());
    }
}

#[test]
fn stores_keep_their_promises() {
    clean("pstate", 20);
}

#[test]
fn depots_keep_their_promises() {
    clean("depot", 40);
}

#[test]
fn engines_keep_their_promises() {
    let counts = clean("engine", 10);
    for fault in [Fault::PowerCut, Fault::ProcessKill, Fault::ShardKill, Fault::NoSpace] {
        assert!(counts.of(fault) > 0, "{} never happened", fault.name());
    }
}

#[test]
fn a_third_of_the_seeds_reopen_with_another_number_of_shards() {
    let (mut deals, mut dealt) = (0, 0);
    for seed in 0..24 {
        let report = scenario::run(named("engine"), seed, None, false);
        let counters = report.result.expect("see `engines_keep_their_promises`").counters;
        deals += counters["deals"];
        let others = counters.get("openings by another number of shards").copied();
        dealt += u64::from(others.is_some_and(|count| count > 0));
        assert_eq!(counters["deals"] > 0, others.is_some_and(|count| count > 0), "seed {seed}");
    }
    assert!((3..=14).contains(&deals), "{deals} of 24");
    assert_eq!(deals, dealt);
}

/// Seeds that once failed, each with what was wrong then.
const FOUND: [(&str, u64, &str); 6] = [
    ("engine", 0, "two folds of a partition ran at once"),
    ("engine", 5, "a fold covered a decision that was not durable yet"),
    ("engine", 33, "a lower id was aborted while the one above was still stacked"),
    ("engine", 48, "an append behind a bulk append was acknowledged before that was durable"),
    ("engine", 137, "rows that came early were lost when an older attempt was dropped"),
    ("engine", 301, "the prepare of an aborted attempt was released while the root asked for it"),
];

#[test]
fn found_seeds_stay_fixed() {
    for (name, seed, what) in FOUND {
        let report = scenario::run(named(name), seed, None, false);
        assert_eq!(report.result.err(), None, "seed {seed}: {what}");
    }
}

#[test]
fn a_seed_repeats_itself() {
    for scenario in scenario::ALL {
        for seed in 0..3 {
            let one = scenario::run(*scenario, seed, None, false);
            let two = scenario::run(*scenario, seed, None, true);
            assert_eq!(one.trace, two.trace, "{} seed {seed}", scenario.name());
            assert_eq!(one.result, two.result);
            assert_eq!((one.polls, one.states), (two.polls, two.states));
        }
    }
}

#[test]
fn planted_bugs_are_caught() {
    let plants = [
        ("journal", Plant::AckBeforeSync),
        ("journal", Plant::FrameBeyondGap),
        ("journal", Plant::SkippedDirectorySync),
        ("pstate", Plant::RootBeforePages),
        ("pstate", Plant::DeadRowLost),
        ("depot", Plant::TailBlockRewritten),
        ("engine", Plant::DecisionBeforeDurable),
        ("engine", Plant::PrepareForgotten),
        ("engine", Plant::OffsetsWithoutState),
    ];
    let mut caught = BTreeMap::new();
    for (name, plant) in plants {
        let seen = (0..200).find_map(|seed| {
            let failure = scenario::run(named(name), seed, Some(plant), false).result.err();
            failure.filter(Failure::is_visible)
        });
        caught.insert(plant.name(), seen);
    }
    let missed: Vec<_> = caught.iter().filter(|(_, by)| by.is_none()).collect();
    assert!(missed.is_empty(), "not caught: {missed:?}");
}
