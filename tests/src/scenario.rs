//! Scenarios: what is done to an engine in a world, and the oracles that judge what came of it.
//!
//! A *seed* runs every scenario once, each in a world of its own. Whatever goes wrong is a
//! [`Failure`] with the name of the oracle that saw it: the scenario's own checks, `panic` for a panic
//! anywhere in the engine, and `progress` for a world in which nothing moves any more.

use std::any::Any;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use tidemill::env::LocalFuture;
use tidemill::probe::{self, Plant, State};
use tidemill::types::ShardId;

use crate::counts::Counts;
use crate::node::Node;
use crate::world::{Finished, Options, World};

mod depot;
mod engine;
mod journal;
mod mishaps;
mod pstate;
mod trims;

/// What is done in a world, and how it is judged.
pub trait Scenario: Sync {
    /// The name on the command line and in reports.
    fn name(&self) -> &'static str;

    /// Runs once; everything random comes from `world`, whose seed decides it.
    ///
    /// # Errors
    /// What an oracle found wrong.
    fn run(&self, world: World) -> LocalFuture<'static, Result<Outcome, Failure>>;
}

/// Every scenario, in the order a seed runs them.
pub const ALL: &[&dyn Scenario] =
    &[&journal::Journals, &pstate::Stores, &depot::Depots, &trims::Trims, &engine::Engines];

/// What a scenario did: a few counters, for reports and to see that it did anything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Counters by name.
    pub counters: BTreeMap<&'static str, u64>,
}

impl Outcome {
    /// Adds `count` to the counter `name`.
    pub fn add(&mut self, name: &'static str, count: u64) {
        *self.counters.entry(name).or_default() += count;
    }

    /// Adds all counters of `other`.
    pub fn merge(&mut self, other: &Self) {
        for (name, count) in &other.counters {
            self.add(name, *count);
        }
    }
}

/// What an oracle found wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The check that failed.
    pub oracle: &'static str,
    /// What it saw.
    pub message: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{}] {}", self.oracle, self.message)
    }
}

impl Failure {
    /// A failure seen by `oracle`.
    pub fn new(oracle: &'static str, message: impl fmt::Display) -> Self {
        Self { oracle, message: message.to_string() }
    }

    /// Whether a client, a verification or a reopening saw it. Only that catches a planted bug: a seed that
    /// contains too little, a panic, or a world that stands still may have other reasons.
    #[must_use]
    pub fn is_visible(&self) -> bool {
        !["contents", "panic", "progress", "hangs", "determinism"].contains(&self.oracle)
    }
}

/// Fails with `oracle` unless `holds`.
///
/// # Errors
/// If it does not hold.
pub fn check<T: fmt::Display>(
    oracle: &'static str,
    holds: bool,
    message: impl FnOnce() -> T,
) -> Result<(), Failure> {
    if holds { Ok(()) } else { Err(Failure::new(oracle, message())) }
}

/// Pauses, and perhaps ends, a shard a few times while it works.
fn disturb(world: &World, node: &Node, shard: ShardId) {
    let random = world.random();
    if !random.one_in(4) {
        return;
    }
    let (world, node) = (world.clone(), node.clone());
    let (crashes, kill) = (node.crashes(), random.one_in(4));
    world.clone().spawn("disturb", async move {
        world.sleep(Duration::from_micros(world.random().below(20_000))).await;
        if node.crashes() != crashes {
            return;
        }
        if kill {
            node.kill_shard(shard);
        } else {
            node.pause_shard(shard, Duration::from_micros(world.random().below(50_000)));
        }
    });
}

/// What came of one scenario of one seed.
#[derive(Debug)]
pub struct Report {
    /// The scenario's name.
    pub scenario: &'static str,
    /// What it did, or what went wrong.
    pub result: Result<Outcome, Failure>,
    /// The hash over everything that happened; 0 after a panic.
    pub trace: u64,
    /// What was injected.
    pub counts: Counts,
    /// The states of the engine that occurred.
    pub states: BTreeMap<State, u64>,
    /// Polls of tasks.
    pub polls: u64,
    /// The readable log, if it was asked for; empty after a panic.
    pub log: Vec<String>,
}

/// Runs one scenario of one seed on this thread, with one bug planted or none.
#[must_use]
pub fn run(scenario: &dyn Scenario, seed: u64, plant: Option<Plant>, log: bool) -> Report {
    probe::switch_on(plant);
    drop(probe::take_reached());
    // Scenarios of one seed shall not see the same stream of chance.
    let salt = u64::from(crc32fast::hash(scenario.name().as_bytes())) << 32;
    let options = Options { log, ..Options::seed(seed ^ salt) };
    let run = catch_unwind(AssertUnwindSafe(|| World::run(&options, |world| scenario.run(world))));
    probe::switch_on(None);
    let states = probe::take_reached();
    let name = scenario.name();
    match run {
        Ok(Finished { result, trace, polls, counts, log, .. }) => {
            let result = match result {
                Ok(judged) => judged,
                Err(stuck) => Err(Failure::new("progress", stuck)),
            };
            Report { scenario: name, result, trace, counts, states, polls, log }
        }
        Err(payload) => {
            let result = Err(Failure::new("panic", panic_text(payload.as_ref())));
            let (counts, log) = (Counts::default(), Vec::new());
            Report { scenario: name, result, trace: 0, counts, states, polls: 0, log }
        }
    }
}

thread_local! {
    static PANIC: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Keeps the message and place of each panic for the report of its seed, instead of printing it.
pub fn keep_panics() {
    std::panic::set_hook(Box::new(|info| {
        PANIC.set(Some(info.to_string()));
    }));
}

fn panic_text(payload: &(dyn Any + Send)) -> String {
    if let Some(text) = PANIC.take() {
        return text;
    }
    let text = payload.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| payload.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "a panic without a message".to_owned())
}
