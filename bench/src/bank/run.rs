//! One measured run: deposits, warm-up, the measured window, verification, and the ceiling beside it.

use std::time::{Duration, Instant};

use anyhow::Context as _;
use serde_json::json;
use tidemill::client::{Engine, Launched, block_on};
use tidemill::node::Options;
use tidemill::shard::Counters;

use super::BankFlags;
use super::check::{Books, Ids};
use super::load::{Load, Next, Pace, Tally};
use super::module::{Bank, Deposit, LEDGER, bank};
use super::plan::{FUNDS_AT_FIRST, Plan};
use crate::ceiling::{Direction, Phase, Sounding, measure_all};
use crate::meter::{Latencies, Meter};
use crate::report::{Invariant, Outcome};
use crate::{Context, Measured};

/// By which call the engine's acknowledgements are durable.
const DURABILITY: &str = "journal write with RWF_DSYNC, of the record and of its effects";

pub(super) fn run(flags: &BankFlags, context: &Context) -> anyhow::Result<Measured> {
    let settings = &context.settings;
    let progress = &context.progress;
    let (shards, partitions) = (settings.shards, settings.partitions);
    let plan = Plan::new(settings.seed, flags.accounts, flags.cross, shards, partitions)?;
    let ceiling = ceiling(context)?;

    progress.plan(4);
    progress.step("opening, depositing");
    let dir = context.data.fresh("bank")?;
    let options = Options { shards, partitions: Some(partitions), ..Options::default() };
    let (engine, launched) = block_on(open(&dir, options))?;
    block_on(deposit(&launched, &plan))?;

    let pace = match settings.rate {
        Some(rate) => Pace::Open { rate },
        None => Pace::Closed { in_flight: settings.in_flight },
    };
    let batch = usize::try_from(flags.batch)?;
    let mut load = Load::new(&launched, &plan, pace, batch, 0, settings.seed);
    let seconds = settings.phase_seconds(10.0, 300.0);
    let window = window(context, &engine, &mut load, seconds)?;

    progress.step("reading everything back");
    let mut sent = Ids::default();
    (0..load.next()).for_each(|id| assert!(sent.insert(id)));
    let books = block_on(Books::read(&launched, &plan, |accounts| {
        progress.note(&format!("reading everything back: {accounts} accounts"));
    }))?;
    let mut invariants = books.invariants(&plan, &sent);
    invariants.push(Invariant {
        name: "no transfer was given up".to_owned(),
        holds: window.tally.rejected == 0,
        detail: format!("{} dead letters", window.tally.rejected),
    });
    drop(launched);
    progress.step("closing");
    block_on(engine.close()).context("cannot close the engine")?;
    Ok(window.report(flags, &plan, ceiling, invariants))
}

pub(super) async fn open(
    dir: &std::path::Path,
    options: Options,
) -> anyhow::Result<(Engine, Launched<Bank>)> {
    let engine = Engine::open(dir, options).await.context("cannot open the engine")?;
    let launched = engine.launch("bank", bank).await.context("cannot launch the bank")?;
    Ok((engine, launched))
}

/// Gives every account its first funds, and waits until they are there.
pub(super) async fn deposit(bank: &Launched<Bank>, plan: &Plan) -> anyhow::Result<()> {
    let accounts: Vec<u64> = (0..plan.accounts()).collect();
    for accounts in accounts.chunks(DEPOSITS_AT_ONCE) {
        let deposits: Vec<Deposit> = accounts
            .iter()
            .map(|&account| Deposit { account, amount: FUNDS_AT_FIRST })
            .collect();
        let appended = bank.append_many(bank.deposits, &deposits).await;
        for appended in appended.context("a deposit failed")? {
            bank.wait(LEDGER, &appended).await.context("waiting for a deposit failed")?;
        }
    }
    Ok(())
}

/// Deposits under way together.
const DEPOSITS_AT_ONCE: usize = 20_000;

/// What a measured window gave.
struct Window {
    tally: Tally,
    outcome: Outcome,
    driver_cpu_seconds: f64,
    before: Counters,
    after: Counters,
}

/// Warms up for a tenth of the time, measures, and lets what was started finish.
fn window(
    context: &Context,
    engine: &Engine,
    load: &mut Load<'_>,
    seconds: f64,
) -> anyhow::Result<Window> {
    let progress = &context.progress;
    let warm_up = Duration::from_secs_f64(seconds / 5.0);
    let end = warm_up + Duration::from_secs_f64(seconds);
    progress.step("warming up");
    let mut measured: Option<(Meter, Duration, Counters)> = None;
    let mut result = None;
    let mut noted = Instant::now();
    let counters = || -> anyhow::Result<Counters> {
        let shards = block_on(engine.counters()).context("cannot read the counters")?;
        let sum = shards.into_iter().reduce(|a, b| a.plus(&b));
        sum.context("an engine has at least one shard")
    };
    let mut failure = None;
    load.run(&mut |moment| {
        if result.is_some() || failure.is_some() {
            return Next::Drain;
        }
        if moment.elapsed >= warm_up && measured.is_none() {
            match counters() {
                Ok(before) => {
                    progress.step("measuring");
                    *moment.tally = Tally::default();
                    measured = Some((Meter::start(), driver_cpu(), before));
                }
                Err(error) => failure = Some(error),
            }
            return Next::Run;
        }
        if moment.elapsed >= end
            && let Some((meter, driver_before, before)) = measured.take()
        {
            let tally = std::mem::take(moment.tally);
            let outcome =
                meter.finish("tidemill", "transfers", DURABILITY, tally.completed, &tally.transfers);
            let driver_cpu_seconds = (driver_cpu() - driver_before).as_secs_f64();
            match counters() {
                Ok(after) => {
                    result = Some(Window { tally, outcome, driver_cpu_seconds, before, after });
                }
                Err(error) => failure = Some(error),
            }
            return Next::Drain;
        }
        if noted.elapsed() >= Duration::from_millis(200) {
            noted = Instant::now();
            progress.note(&format!(
                "{}: {} transfers",
                if measured.is_some() { "measuring" } else { "warming up" },
                moment.tally.completed
            ));
        }
        Next::Run
    })?;
    match failure {
        Some(error) => Err(error),
        None => result.context("the load ended before its time"),
    }
}

/// CPU of this thread, which drives.
fn driver_cpu() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is writable for the call.
    let result = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    if result != 0 {
        return Duration::ZERO;
    }
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    Duration::new(seconds, u32::try_from(time.tv_nsec).unwrap_or(0))
}

/// Durable writes of the sizes that a journal makes.
fn ceiling(context: &Context) -> anyhow::Result<Vec<Sounding>> {
    let phase = |kib: usize, depth| Phase { direction: Direction::Write, bytes: kib << 10, depth };
    let phases = [phase(4, 1), phase(64, 1), phase(64, 4), phase(256, 4), phase(1024, 4)];
    measure_all(context, &phases, CEILING_SECONDS, 256 << 20)
}

/// Time for each phase of the ceiling.
const CEILING_SECONDS: f64 = 0.5;

impl Window {
    fn report(
        self,
        flags: &BankFlags,
        plan: &Plan,
        ceiling: Vec<Sounding>,
        invariants: Vec<Invariant>,
    ) -> Measured {
        let Self { tally, outcome, driver_cpu_seconds, before, after } = self;
        let part = |phase: &str, latencies: &Latencies| Outcome {
            phase: phase.to_owned(),
            latency_us: latencies.summary(),
            ..outcome.clone()
        };
        let append = part("append", &tally.append);
        let effects = part("wait-for-effects", &tally.effects);
        let journal_bytes = after.journal_bytes - before.journal_bytes;
        let journal_writes = after.journal_writes - before.journal_writes;
        let completed = tally.completed.max(1);
        #[allow(clippy::cast_precision_loss, reason = "for people")]
        let per = |amount: f64| amount * 1e6 / completed as f64;
        let engine_cpu = (outcome.cpu_seconds - driver_cpu_seconds).max(0.0);
        eprintln!(
            "journal {} B/transfer, {} writes of {} B; cpu us/transfer: engine {:.2} driver {:.2}; \
             {:.1} transfers/group; {:#?}",
            journal_bytes / completed,
            journal_writes,
            journal_bytes / journal_writes.max(1),
            per(engine_cpu),
            per(driver_cpu_seconds),
            completed as f64 / tally.groups.max(1) as f64,
            after,
        );
        let mut results = vec![outcome, append, effects];
        results.extend(ceiling.into_iter().map(|it| it.outcome));
        Measured {
            results,
            ratios: vec![],
            invariants,
            parameters: vec![("accounts", json!(plan.accounts())), ("cross", json!(flags.cross))],
        }
    }
}
