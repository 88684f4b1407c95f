//! A model of the drivers, for tests: three shards with journals that lose what is not durable,
//! channels that repeat messages, crashes of one shard or of all, and records that are rejected. A
//! seed chooses one schedule.
//!
//! The oracle looks at what is durable and at what readers are told, never at the state machines:
//! - decisions are dense, and each rests on durable prepares of exactly its attempt, whose writes
//!   are exactly those of the records between the offsets before and after (bad records: exactly a
//!   dead letter);
//! - a commit is written only for a decision that is durable, and a dropped attempt is never
//!   decided;
//! - an attempt starts only on top of all lower ids; nothing is visible before it is durable
//!   everywhere;
//! - once faults stop, everything appended is decided, applied and visible, and nothing is in
//!   doubt.

mod oracle;
mod parts;
mod world;

use super::Faults;
use parts::{Crash, Options, Seen};
use world::World;

/// Runs one schedule; an error says which promise was broken.
fn run(seed: u64, faults: Faults) -> Result<Seen, String> {
    let mut world = World::new(Options::of(seed), faults);
    world.explore().map_err(|violation| format!("seed {seed}: {violation}\n{}", world.trace()))
}

/// How many schedules to run; more by hand: `TIDEMILL_SCHEDULES=100000 cargo test --release`.
fn schedules(few: u64) -> u64 {
    std::env::var("TIDEMILL_SCHEDULES").ok().and_then(|text| text.parse().ok()).unwrap_or(few)
}

#[test]
fn every_schedule_keeps_every_promise() {
    let mut seen = Seen::default();
    for seed in 0..schedules(600) {
        match run(seed, Faults::default()) {
            Ok(of_one) => seen.add(&of_one),
            Err(violation) => panic!("{violation}"),
        }
    }
    seen.assert_all_occurred();
}

/// Not sampled but counted out: in some quiet schedules, every shard, and all of them, stops before
/// every single step.
#[test]
fn a_crash_at_each_step_of_each_role_is_survived() {
    for (seed, asks) in [(3, 0), (4, 0), (4, 6)] {
        let options = Options { asks, ..Options::of(seed) };
        let quiet = Options { crashes: 1, repeats: false, bad_percent: 0, ..options };
        let undisturbed = Options { crashes: 0, steps: STEPS, ..quiet };
        let mut world = World::new(undisturbed, Faults::default());
        world.explore().unwrap();
        assert!(world.decided_in_chaos() >= 2, "{} ids", world.decided_in_chaos());
        for step in 0..STEPS {
            for shard in 0..=parts::SHARDS {
                let crash = Some(Crash { step, shard });
                let options = Options { crash, steps: STEPS, ..quiet };
                let mut world = World::new(options, Faults::default());
                if let Err(violation) = world.explore() {
                    panic!("seed {seed}, {asks} asks, {crash:?}: {violation}\n{}", world.trace());
                }
            }
        }
    }
}

/// Long enough for several ids to commit in each of those schedules.
const STEPS: u64 = 160;

#[test]
fn one_seed_gives_one_schedule() {
    for seed in 0..20 {
        let runs = [0, 1].map(|_| {
            let mut world = World::new(Options::of(seed), Faults::default());
            world.explore().expect("keeps its promises");
            world.trace()
        });
        assert_eq!(runs[0], runs[1]);
    }
}

fn assert_caught(faults: Faults) {
    let caught = (0..schedules(3_000)).find_map(|seed| run(seed, faults).err());
    assert!(caught.is_some(), "no schedule notices {faults:?}");
}

#[test]
fn a_decision_sent_before_it_is_durable_is_caught() {
    assert_caught(Faults { decision_before_durable: true, ..Faults::default() });
}

#[test]
fn a_prepare_of_another_attempt_is_caught() {
    assert_caught(Faults { other_attempt_accepted: true, ..Faults::default() });
}

#[test]
fn a_local_commit_that_overtakes_is_caught() {
    assert_caught(Faults { single_journal_overtakes: true, ..Faults::default() });
}

#[test]
fn offsets_that_move_without_state_are_caught() {
    assert_caught(Faults { offsets_without_state: true, ..Faults::default() });
}
