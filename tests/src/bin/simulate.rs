//! Runs seeds: `simulate --seeds 2000 --jobs 2`. Each job is a thread that runs whole seeds; a failure
//! prints its seed and the command that replays it. The main thread watches: a seed in which one poll
//! never ends, which virtual time cannot see, is a failure too.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use clap::Parser;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;
use tidemill::probe::Plant;
use tidemill_tests::scenario::{self, Failure, Report, Scenario};
use tidemill_tests::tally::{Failed, Tally};

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
    /// Plants this bug and stops at the first seed in which a client, a verification or a reopening sees it;
    /// `list` prints the names.
    #[arg(long)]
    plant: Option<String>,
    /// Runs only this scenario.
    #[arg(long)]
    scenario: Option<String>,
    /// Seconds of real time after which one scenario of a seed is taken for a loop that never ends.
    #[arg(long, default_value_t = 60)]
    seconds_max: u64,
    /// Writes the report there.
    #[arg(long)]
    json: Option<PathBuf>,
    /// With `--replay`: writes the readable log of every event there.
    #[arg(long)]
    log: Option<PathBuf>,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(status) => status,
        Err(error) => {
            eprintln!("simulate: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    if arguments.plant.as_deref() == Some("list") {
        for plant in Plant::ALL {
            println!("{}", plant.name());
        }
        return Ok(ExitCode::SUCCESS);
    }
    let plan = Plan::new(arguments)?;
    scenario::keep_panics();
    let started = real_time();
    let bar = if arguments.replay.is_some() {
        ProgressBar::hidden()
    } else {
        let style = "{bar:40} {pos}/{len} seeds  {per_sec}  {eta} left  {msg}";
        ProgressBar::new(arguments.seeds).with_style(ProgressStyle::with_template(style)?)
    };
    let mut batch = Batch { plan: &plan, tally: Tally::default(), log: Vec::new(), bar };
    let next = AtomicU64::new(arguments.start);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let (sender, receiver) = mpsc::channel();
        for job in 0..arguments.jobs.max(1) {
            let news = News { job, sender: sender.clone() };
            let (plan, next, stop) = (&plan, &next, &stop);
            scope.spawn(move || match arguments.replay {
                Some(seed) if job == 0 => replay(plan, seed, arguments.log.is_some(), &news),
                Some(_) => {}
                None => run_seeds(plan, next, arguments.start + arguments.seeds, stop, &news),
            });
        }
        drop(sender);
        let limit = Duration::from_secs(arguments.seconds_max);
        let watched = batch.watch(&receiver, limit, &stop);
        let reported = batch.report(arguments, started.elapsed());
        if let Watched::Hangs = watched {
            // Its thread cannot be ended, so the process is.
            let failed = reported.err().map(|error| eprintln!("{error:#}"));
            std::process::exit(if failed.is_some() { 2 } else { 1 });
        }
        reported
    })
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

/// What jobs tell the main thread.
enum Said {
    /// A job begins a scenario of a seed.
    Begins { job: u64, seed: u64, scenario: &'static str },
    /// It came to this.
    Ended { job: u64, seed: u64, report: Box<Report> },
    /// All scenarios of a seed were run, up to the first that failed.
    Done,
}

/// A job's way to the main thread.
struct News {
    job: u64,
    sender: Sender<Said>,
}

impl News {
    /// Runs `scenario` with the main thread watching.
    fn run(&self, seed: u64, scenario: &dyn Scenario, run: impl FnOnce() -> Report) -> bool {
        let job = self.job;
        self.say(Said::Begins { job, seed, scenario: scenario.name() });
        let report = run();
        let failed = report.result.is_err();
        self.say(Said::Ended { job, seed, report: Box::new(report) });
        failed
    }

    fn say(&self, said: Said) {
        // The main thread listens until all jobs are done.
        drop(self.sender.send(said));
    }
}

fn run_seeds(plan: &Plan, next: &AtomicU64, end: u64, stop: &AtomicBool, news: &News) {
    while !stop.load(Ordering::Relaxed) {
        let seed = next.fetch_add(1, Ordering::Relaxed);
        if seed >= end {
            break;
        }
        let run = |scenario| scenario::run(scenario, seed, plan.plant, false);
        for &scenario in &plan.scenarios {
            if news.run(seed, scenario, || run(scenario)) {
                break;
            }
        }
        news.say(Said::Done);
    }
}

/// Runs every scenario of one seed twice.
fn replay(plan: &Plan, seed: u64, log: bool, news: &News) {
    for &scenario in &plan.scenarios {
        news.run(seed, scenario, || {
            let mut report = scenario::run(scenario, seed, plan.plant, log);
            let again = scenario::run(scenario, seed, plan.plant, false);
            println!("seed {seed}, {}: trace {:#018x}", scenario.name(), report.trace);
            if (report.trace, &report.result) != (again.trace, &again.result) {
                let what = format!("trace {:#x}, then {:#x}", report.trace, again.trace);
                report.result = Err(Failure::new("determinism", what));
            }
            report
        });
    }
    news.say(Said::Done);
}

/// How the main thread's watch ended.
enum Watched {
    Done,
    /// A job does not come back.
    Hangs,
}

/// What the main thread collects.
struct Batch<'p> {
    plan: &'p Plan,
    tally: Tally,
    log: Vec<String>,
    bar: ProgressBar,
}

impl Batch<'_> {
    fn watch(
        &mut self,
        receiver: &mpsc::Receiver<Said>,
        limit: Duration,
        stop: &AtomicBool,
    ) -> Watched {
        let mut running: BTreeMap<u64, (u64, &'static str, Instant)> = BTreeMap::new();
        loop {
            match receiver.recv_timeout(Duration::from_secs(1)) {
                Ok(Said::Begins { job, seed, scenario }) => {
                    running.insert(job, (seed, scenario, real_time()));
                }
                Ok(Said::Ended { job, seed, mut report }) => {
                    running.remove(&job);
                    self.log.append(&mut report.log);
                    if let Some(failed) = self.tally.add(seed, *report).cloned() {
                        self.failed(&failed);
                        let caught = self.plan.plant.is_some() && failed.failure.is_visible();
                        stop.fetch_or(caught, Ordering::Relaxed);
                    }
                }
                Ok(Said::Done) => {
                    self.tally.seeds += 1;
                    self.bar.inc(1);
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Watched::Done,
            }
            let overdue = running.values().find(|(_, _, since)| since.elapsed() > limit);
            if let Some(&(seed, scenario, _)) = overdue {
                let what = format!("no end after {} s of real time", limit.as_secs());
                let failed = Failed { seed, scenario, failure: Failure::new("hangs", what) };
                self.failed(&failed);
                self.tally.failures.push(failed);
                return Watched::Hangs;
            }
        }
    }

    fn failed(&self, failed: &Failed) {
        let Failed { seed, scenario, failure } = failed;
        self.bar.suspend(|| {
            println!("seed {seed} failed in {scenario}: {failure}");
            println!("  replay: {}", self.plan.replay_command(*seed, scenario));
        });
        self.bar.set_message(format!("{} failed", self.tally.failures.len()));
    }

    /// Says what came of all, on the terminal and in files.
    fn report(mut self, arguments: &Arguments, elapsed: Duration) -> anyhow::Result<ExitCode> {
        self.bar.finish_and_clear();
        let (plan, tally) = (self.plan, &mut self.tally);
        // Jobs end in any order; reports do not.
        tally.failures.sort_by_key(|failed| failed.seed);
        let jobs = if arguments.replay.is_some() { 1 } else { arguments.jobs.max(1) };
        let seconds = elapsed.max(Duration::from_millis(1)).as_secs_f64();
        #[allow(clippy::cast_precision_loss, reason = "a rate needs no more than 52 bits")]
        let rate = tally.seeds as f64 * 3600.0 / seconds / jobs as f64;
        println!(
            "{} seeds, {} failures, {seconds:.1} s, {rate:.0} seeds per hour and core, {} polls",
            tally.seeds,
            tally.failures.len(),
            tally.polls
        );
        // A planted bug ends the batch early, and what it is to contain is nobody's concern.
        let missing = if plan.plant.is_none() { tally.missing() } else { Vec::new() };
        if !missing.is_empty() {
            println!("{} seeds of the whole engine never met {}", tally.seeds, missing.join(", "));
        }
        let caught = tally.failures.iter().find(|failed| failed.failure.is_visible());
        match (plan.plant, caught) {
            (Some(plant), None) => println!("{} was not caught", plant.name()),
            (Some(plant), Some(Failed { seed, failure, .. })) => {
                println!("{} was caught by `{}` in seed {seed}", plant.name(), failure.oracle);
            }
            (None, _) => {}
        }
        if let Some(path) = &arguments.log {
            std::fs::write(path, self.log.join("\n")).context("cannot write the log")?;
        }
        let good = tally.failures.is_empty() && missing.is_empty();
        if let Some(path) = &arguments.json {
            let text = json_of(plan, arguments, tally, &missing, (jobs, seconds, rate));
            std::fs::write(path, format!("{text:#}\n")).context("cannot write the report")?;
        }
        Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}

fn json_of(
    plan: &Plan,
    arguments: &Arguments,
    tally: &Tally,
    missing: &[&str],
    (jobs, seconds, rate): (u64, f64, f64),
) -> serde_json::Value {
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
    let visible = tally.failures.iter().position(|failed| failed.failure.is_visible());
    let caught = visible.filter(|_| plan.plant.is_some()).and_then(|at| failures.get(at));
    let whole = tally.whole();
    let scenarios: BTreeMap<_, _> =
        tally.scenarios.iter().map(|(name, share)| (name, share.json())).collect();
    json!({
        "seeds": tally.seeds,
        "start": arguments.replay.unwrap_or(arguments.start),
        "jobs": jobs,
        "plant": plan.plant.map(Plant::name),
        "caught": caught.is_some(),
        "oracle": caught.map(|failure| &failure["oracle"]),
        "seed": caught.map(|failure| &failure["seed"]),
        "failures": failures,
        "missing": missing,
        "seconds": seconds,
        "seeds_per_hour_and_core": rate,
        "polls": tally.polls,
        "faults": whole.faults_json(),
        "states": whole.states_json(),
        "scenarios": scenarios,
    })
}

#[allow(clippy::disallowed_methods, reason = "throughput and loops are measured in real time")]
fn real_time() -> Instant {
    Instant::now()
}
