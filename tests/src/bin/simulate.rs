//! Runs seeds: `simulate --seeds 2000 --jobs 2`. Each job is a thread that runs whole seeds; a failure
//! prints its seed and the command that replays it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use clap::Parser;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;
use tidemill::probe::{Plant, State};
use tidemill_tests::counts::Counts;
use tidemill_tests::scenario::{self, Failure, Outcome, Report, Scenario};

/// Runs the engine in simulated worlds, one per seed, and judges what came of it.
#[derive(Debug, Parser)]
struct Arguments {
    /// How many seeds to run.
    #[arg(long, default_value_t = 100)]
    seeds: u64,
    /// The first seed.
    #[arg(long, default_value_t = 0)]
    start: u64,
    /// Threads; each runs whole seeds.
    #[arg(long, default_value_t = 1)]
    jobs: u64,
    /// Runs this seed alone, twice, and compares the traces.
    #[arg(long)]
    replay: Option<u64>,
    /// Plants this bug and stops at the first seed that catches it; `list` prints the names.
    #[arg(long)]
    plant: Option<String>,
    /// Runs only this scenario.
    #[arg(long)]
    scenario: Option<String>,
    /// Writes the report there.
    #[arg(long)]
    json: Option<PathBuf>,
    /// With `--replay`: writes the readable log of every event there.
    #[arg(long)]
    log: Option<PathBuf>,
}

fn main() -> anyhow::Result<ExitCode> {
    let arguments = Arguments::parse();
    if arguments.plant.as_deref() == Some("list") {
        for plant in Plant::ALL {
            println!("{}", plant.name());
        }
        return Ok(ExitCode::SUCCESS);
    }
    let plan = Plan::new(&arguments)?;
    scenario::keep_panics();
    let tally = match arguments.replay {
        Some(seed) => replay(&plan, seed, arguments.log.as_ref())?,
        None => run_seeds(&plan, arguments.start, arguments.seeds, arguments.jobs.max(1))?,
    };
    report(&plan, &arguments, &tally)?;
    Ok(if tally.failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// What every seed does.
struct Plan {
    plant: Option<Plant>,
    scenarios: Vec<&'static dyn Scenario>,
}

impl Plan {
    fn new(arguments: &Arguments) -> anyhow::Result<Self> {
        let plant = arguments.plant.as_ref().map(|name| {
            let found = Plant::ALL.iter().copied().find(|plant| plant.name() == name);
            found.with_context(|| format!("no plant is called {name}; `--plant list` prints all"))
        });
        let scenarios: Vec<_> = scenario::ALL
            .iter()
            .copied()
            .filter(|one| arguments.scenario.as_ref().is_none_or(|name| name == one.name()))
            .collect();
        if scenarios.is_empty() {
            let names: Vec<_> = scenario::ALL.iter().map(|one| one.name()).collect();
            bail!("no such scenario; there are: {}", names.join(", "));
        }
        Ok(Self { plant: plant.transpose()?, scenarios })
    }

    /// The command that runs one seed again.
    fn replay_command(&self, seed: u64, scenario: &str) -> String {
        let plant = self.plant.map(|plant| format!(" --plant {}", plant.name()));
        format!(
            "cargo run --release -p tidemill-tests --bin simulate -- --replay {seed} \
             --scenario {scenario}{}",
            plant.unwrap_or_default()
        )
    }
}

/// What came of all seeds.
#[derive(Default)]
struct Tally {
    seeds: u64,
    seconds: f64,
    jobs: u64,
    failures: Vec<Failed>,
    counts: Counts,
    states: BTreeMap<State, u64>,
    outcomes: BTreeMap<&'static str, Outcome>,
    polls: u64,
}

struct Failed {
    seed: u64,
    scenario: &'static str,
    failure: Failure,
}

impl Tally {
    fn add(&mut self, seed: u64, report: Report) {
        self.counts.merge(&report.counts);
        for (state, count) in report.states {
            *self.states.entry(state).or_default() += count;
        }
        self.polls += report.polls;
        match report.result {
            Ok(outcome) => self.outcomes.entry(report.scenario).or_default().merge(&outcome),
            Err(failure) => {
                self.failures.push(Failed { seed, scenario: report.scenario, failure });
            }
        }
    }
}

#[allow(clippy::disallowed_methods, reason = "throughput is measured in real time")]
fn real_time() -> Instant {
    Instant::now()
}

fn run_seeds(plan: &Plan, start: u64, seeds: u64, jobs: u64) -> anyhow::Result<Tally> {
    let style = "{bar:40} {pos}/{len} seeds  {per_sec}  {eta} left  {msg}";
    let bar = ProgressBar::new(seeds).with_style(ProgressStyle::with_template(style)?);
    let started = real_time();
    let next = AtomicU64::new(start);
    let stop = AtomicBool::new(false);
    let (sender, receiver) = mpsc::channel();
    let mut tally = Tally { jobs, ..Tally::default() };
    std::thread::scope(|scope| {
        for _ in 0..jobs {
            let (sender, next, stop) = (sender.clone(), &next, &stop);
            scope.spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= start + seeds {
                        break;
                    }
                    let reports = run_one(plan, seed);
                    if sender.send((seed, reports)).is_err() {
                        break;
                    }
                }
            });
        }
        drop(sender);
        for (seed, reports) in receiver {
            tally.seeds += 1;
            bar.inc(1);
            for report in reports {
                let failed = tally.failures.len();
                tally.add(seed, report);
                if let Some(new) = tally.failures.get(failed) {
                    bar.suspend(|| print_failure(plan, new));
                    bar.set_message(format!("{} failed", tally.failures.len()));
                }
            }
            if plan.plant.is_some() && !tally.failures.is_empty() {
                stop.store(true, Ordering::Relaxed);
            }
        }
    });
    bar.finish_and_clear();
    // Threads end in any order; reports do not.
    tally.failures.sort_by_key(|failed| failed.seed);
    tally.seconds = started.elapsed().max(Duration::from_millis(1)).as_secs_f64();
    Ok(tally)
}

/// All scenarios of a seed, up to the first that fails.
fn run_one(plan: &Plan, seed: u64) -> Vec<Report> {
    let mut reports = Vec::new();
    for &scenario in &plan.scenarios {
        let report = scenario::run(scenario, seed, plan.plant, false);
        let failed = report.result.is_err();
        reports.push(report);
        if failed {
            break;
        }
    }
    reports
}

fn replay(plan: &Plan, seed: u64, log: Option<&PathBuf>) -> anyhow::Result<Tally> {
    let started = real_time();
    let mut tally = Tally { jobs: 1, seeds: 1, ..Tally::default() };
    let mut lines = Vec::new();
    for &scenario in &plan.scenarios {
        let mut report = scenario::run(scenario, seed, plan.plant, log.is_some());
        let again = scenario::run(scenario, seed, plan.plant, false);
        println!("seed {seed}, {}: trace {:#018x}", scenario.name(), report.trace);
        lines.append(&mut report.log);
        if (report.trace, &report.result) != (again.trace, &again.result) {
            report.result = Err(Failure::new(
                "determinism",
                format!("trace {:#x}, then {:#x}", report.trace, again.trace),
            ));
        }
        let failed = tally.failures.len();
        tally.add(seed, report);
        if let Some(new) = tally.failures.get(failed) {
            print_failure(plan, new);
        }
    }
    if let Some(path) = log {
        std::fs::write(path, lines.join("\n")).context("cannot write the log")?;
    }
    tally.seconds = started.elapsed().max(Duration::from_millis(1)).as_secs_f64();
    Ok(tally)
}

fn print_failure(plan: &Plan, failed: &Failed) {
    println!("seed {} failed in {}: {}", failed.seed, failed.scenario, failed.failure);
    println!("  replay: {}", plan.replay_command(failed.seed, failed.scenario));
}

fn report(plan: &Plan, arguments: &Arguments, tally: &Tally) -> anyhow::Result<()> {
    #[allow(clippy::cast_precision_loss, reason = "a rate needs no more than 52 bits")]
    let rate = tally.seeds as f64 * 3600.0 / tally.seconds / tally.jobs as f64;
    let faults: BTreeMap<_, _> =
        tally.counts.iter().map(|(fault, count)| (fault.name(), count)).collect();
    let states: BTreeMap<_, _> = State::ALL
        .iter()
        .map(|state| (state.name(), tally.states.get(state).copied().unwrap_or(0)))
        .collect();
    println!(
        "{} seeds, {} failures, {:.1} s, {rate:.0} seeds per hour and core, {} polls",
        tally.seeds,
        tally.failures.len(),
        tally.seconds,
        tally.polls
    );
    if let (Some(plant), None) = (plan.plant, tally.failures.first()) {
        println!("{} was not caught", plant.name());
    }
    let Some(path) = &arguments.json else { return Ok(()) };
    let failures: Vec<_> = tally
        .failures
        .iter()
        .map(|failed| {
            json!({
                "seed": failed.seed,
                "scenario": failed.scenario,
                "oracle": failed.failure.oracle,
                "message": failed.failure.message,
                "replay": plan.replay_command(failed.seed, failed.scenario),
            })
        })
        .collect();
    let outcomes: BTreeMap<_, _> =
        tally.outcomes.iter().map(|(name, outcome)| (name, &outcome.counters)).collect();
    let caught = plan.plant.and(failures.first());
    let text = json!({
        "seeds": tally.seeds,
        "start": arguments.replay.unwrap_or(arguments.start),
        "jobs": tally.jobs,
        "plant": plan.plant.map(Plant::name),
        "caught": caught.is_some(),
        "oracle": caught.map(|failure| &failure["oracle"]),
        "seed": caught.map(|failure| &failure["seed"]),
        "failures": failures,
        "seconds": tally.seconds,
        "seeds_per_hour_and_core": rate,
        "polls": tally.polls,
        "faults": faults,
        "states": states,
        "scenarios": outcomes,
    });
    std::fs::write(path, format!("{text:#}\n")).context("cannot write the report")
}
