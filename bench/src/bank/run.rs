//! One measured run: deposits, warm-up, the measured window, verification, and the ceiling beside it.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use serde_json::json;
use tidemill::client::{Engine, Launched, block_on};
use tidemill::node::Options;
use tidemill::shard::Counters;

use super::BankFlags;
use super::audit::{self, Audit};
use super::check::{Books, Ids};
use super::load::{Load, Next, Pace, Tally};
use super::module::{Bank, Deposit, LEDGER, bank};
use super::plan::{FUNDS_AT_FIRST, Plan};
use crate::ceiling::{Direction, Phase, measure_all};
use crate::cli::Mode;
use crate::meter::{Latencies, Memory, Meter};
use crate::report::{Invariant, Latency, Metric, Outcome, Ratio};
use crate::{Context, Measured};

/// By which call the engine's acknowledgements are durable.
pub(super) const DURABILITY: &str = "journal write with RWF_DSYNC, of a record and of its effects";

/// Accounts unless the user says otherwise.
const ACCOUNTS: u64 = 100_000;

pub(super) fn run(flags: &BankFlags, context: &Context) -> anyhow::Result<Measured> {
    let Context { settings, data, progress } = context;
    let (shards, partitions) = (settings.shards, settings.partitions);
    let accounts = flags.accounts.unwrap_or(ACCOUNTS);
    let plan = Plan::new(settings.seed, accounts, flags.cross, shards, partitions)?;

    progress.plan(5);
    progress.step("opening, depositing");
    let dir = data.fresh("bank")?;
    let options = options(flags, shards, partitions);
    let memory = MemoryBound::new(&options);
    let (engine, launched) = block_on(open(&dir, options))?;
    block_on(deposit(&launched, &plan))?;

    let pace = match settings.rate {
        Some(rate) => Pace::Open { rate },
        None => Pace::Closed { in_flight: settings.in_flight },
    };
    let batch = usize::try_from(flags.batch)?;
    let mut load = Load::new(&launched, &plan, pace, batch, 0, settings.seed);
    let seconds = settings.phase_seconds(12.0, 300.0);
    let audit = flags.audit.then(|| Audit::start(&launched, plan.accounts()));
    let window = window(context, &engine, &mut load, seconds)?;
    let audited = audit.map(Audit::finish).transpose()?;
    let ids = 0..load.next();
    let memory = memory.check();

    progress.step("reading everything back");
    let mut sent = Ids::default();
    ids.for_each(|id| assert!(sent.insert(id)));
    let books = block_on(Books::read(&launched, &plan, |accounts| {
        progress.note(&format!("reading everything back: {accounts} accounts"));
    }))?;
    let mut invariants = books.invariants(&plan, &sent);
    invariants.push(Invariant {
        name: "no transfer was given up".to_owned(),
        holds: window.tally.rejected == 0,
        detail: format!("{} among the dead letters", window.tally.rejected),
    });
    invariants.push(memory);
    invariants.extend(audited.as_ref().map(audit::Audited::invariant));
    if settings.mode == Mode::Gate {
        invariants.push(window.folds());
    }
    if let Some(path) = &flags.dump {
        let balances = block_on(launched.select(launched.funds.all()));
        super::dump(path, balances.context("cannot read the balances back")?)?;
    }
    drop(launched);
    progress.step("closing");
    block_on(engine.close()).context("cannot close the engine")?;

    let mut measured = window.report(invariants);
    measured.figures.extend(audited.iter().flat_map(audit::Audited::figures));
    compare_with_the_disk(context, &mut measured)?;
    measured.parameters = vec![
        ("accounts", json!(accounts)),
        ("cross_percent", json!(plan.cross_percent())),
        ("batch", json!(flags.batch)),
        ("memory_mib", json!(flags.memory)),
        ("journal_mib", json!(flags.journal)),
    ];
    if shards == 1 {
        measured.notes.push("one shard: no transfer leaves it".to_owned());
    }
    Ok(measured)
}

fn options(flags: &BankFlags, shards: u16, partitions: u32) -> Options {
    let mut options = Options { shards, partitions: Some(partitions), ..Options::default() };
    options.memory_bytes = flags.memory.map_or(options.memory_bytes, |mib| mib << 20);
    if let Some(journal) = flags.journal {
        options.journal_bytes_max = journal << 20;
        // Eight files at least: one at a time is reused.
        let file_bytes = u64::from(options.journal_file_bytes).min(options.journal_bytes_max / 8);
        options.journal_file_bytes = u32::try_from(file_bytes).expect("it was a u32 before");
    }
    if flags.audit {
        options.history = audit::HISTORY;
        // The default, said so that the bound on memory knows of it.
        options.history_bytes_max = Some(options.memory_bytes / 16);
    }
    options
}

/// What the process may take under load, in MiB: the budget, the constant that is stated beside it, and what
/// it had before there was an engine.
struct MemoryBound {
    budget: u64,
    constant: u64,
    driver: u64,
}

impl MemoryBound {
    fn new(options: &Options) -> Self {
        Self {
            budget: options.memory_bytes >> 20,
            constant: 128
                + 32 * u64::from(options.shards)
                + (options.history_bytes_max.unwrap_or(0) >> 20),
            driver: Memory::now().resident_bytes.div_ceil(1 << 20),
        }
    }

    /// To be asked before everything is read back, which is the driver's own.
    fn check(&self) -> Invariant {
        let Self { budget, constant, driver } = self;
        let peak_mib = Memory::now().peak_bytes.div_ceil(1 << 20);
        Invariant {
            name: "memory keeps to the budget".to_owned(),
            holds: peak_mib <= budget + constant + driver,
            detail: format!(
                "{peak_mib} MiB at the most up to the end of the load; {budget} of budget and \
                 {constant} beside it are allowed, and the driver's {driver}, which it had \
                 before the engine was opened"
            ),
        }
    }
}

pub(super) async fn open(dir: &Path, options: Options) -> anyhow::Result<(Engine, Launched<Bank>)> {
    let engine = Engine::open(dir, options).await.context("cannot open the engine")?;
    let launched = engine.launch("bank", bank).await.context("cannot launch the bank")?;
    Ok((engine, launched))
}

/// Gives every account its first funds, and waits until they are there.
pub(super) async fn deposit(bank: &Launched<Bank>, plan: &Plan) -> anyhow::Result<()> {
    let accounts: Vec<u64> = (0..plan.accounts()).collect();
    for accounts in accounts.chunks(DEPOSITS_AT_ONCE) {
        let deposits: Vec<Deposit> =
            accounts.iter().map(|&account| Deposit { account, amount: FUNDS_AT_FIRST }).collect();
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
    driver_cpu: Duration,
    before: Counters,
    after: Counters,
}

/// A window that has begun.
struct Begun {
    meter: Meter,
    driver_cpu: Duration,
    before: Counters,
}

/// Warms up, measures, and lets what was started finish.
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
    let mut begun: Option<Begun> = None;
    let mut window: Option<anyhow::Result<Window>> = None;
    let mut noted = Instant::now();
    load.run(&mut |moment| {
        if window.is_some() {
            return Next::Drain;
        }
        match begun.take() {
            None if moment.elapsed >= warm_up => match counters(engine) {
                Ok(before) => {
                    progress.step("measuring");
                    *moment.tally = Tally::default();
                    let (meter, driver_cpu) = (Meter::start(), driver_cpu());
                    begun = Some(Begun { meter, driver_cpu, before });
                }
                Err(error) => window = Some(Err(error)),
            },
            Some(it) if moment.elapsed >= end => {
                let tally = std::mem::take(moment.tally);
                window = Some(it.end(engine, tally));
                return Next::Drain;
            }
            other => begun = other,
        }
        if noted.elapsed() >= Duration::from_millis(200) {
            noted = Instant::now();
            let what = if begun.is_some() { "measuring" } else { "warming up" };
            let completed = moment.tally.completed;
            progress.note(&format!("{what}: {completed} transfers"));
        }
        Next::Run
    })?;
    window.context("the load ended before its time")?
}

impl Begun {
    fn end(self, engine: &Engine, tally: Tally) -> anyhow::Result<Window> {
        let Self { meter, driver_cpu: driver_before, before } = self;
        let outcome =
            meter.finish("tidemill", "transfers", DURABILITY, tally.completed, &tally.transfers);
        let driver_cpu = driver_cpu().saturating_sub(driver_before);
        Ok(Window { tally, outcome, driver_cpu, before, after: counters(engine)? })
    }
}

/// Of all shards together.
fn counters(engine: &Engine) -> anyhow::Result<Counters> {
    let shards = block_on(engine.counters()).context("cannot read the counters")?;
    let sum = shards.into_iter().reduce(|a, b| a.plus(&b));
    sum.context("an engine has at least one shard")
}

/// CPU of this thread, which drives.
fn driver_cpu() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is writable for the call.
    let result = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    assert!(result == 0, "every thread has this clock");
    let nanos = u32::try_from(time.tv_nsec).expect("below a second");
    Duration::new(u64::try_from(time.tv_sec).expect("CPU time is not negative"), nanos)
}

impl Window {
    /// Whether background work was measured too.
    fn folds(&self) -> Invariant {
        let folds = self.after.folds_least.saturating_sub(self.before.folds_least);
        Invariant {
            name: "at least 3 folds of every partition fell into the window".to_owned(),
            holds: folds >= FOLDS_MIN,
            detail: format!("at least {folds}; measure longer with --seconds for more"),
        }
    }

    #[allow(clippy::cast_precision_loss, reason = "nobody counts to 2^53")]
    fn report(self, invariants: Vec<Invariant>) -> Measured {
        let Self { tally, outcome, driver_cpu, before, after } = self;
        let part = |phase: &str, latencies: &Latencies| Outcome {
            phase: phase.to_owned(),
            latency_us: latencies.summary(),
            ..outcome.clone()
        };
        let append = part("append", &tally.append);
        let effects = part("wait-for-effects", &tally.effects);
        let writes = after.journal_writes - before.journal_writes;
        let journal = Outcome {
            phase: "journal-writes".to_owned(),
            operations: writes,
            per_second: writes as f64 / outcome.seconds,
            latency_us: Latency::default(),
            bytes_written: after.journal_bytes - before.journal_bytes,
            bytes_read: 0,
            ..outcome.clone()
        };
        let completed = tally.completed.max(1) as f64;
        let driver_seconds = driver_cpu.as_secs_f64();
        let engine_seconds = (outcome.cpu_seconds - driver_seconds).max(0.0);
        let figures = vec![
            ("journal_bytes_per_transfer", journal.bytes_written as f64 / completed),
            ("journal_bytes_per_write", journal.bytes_written as f64 / writes.max(1) as f64),
            ("engine_cpu_us_per_transfer", engine_seconds * 1e6 / completed),
            ("driver_cpu_us_per_transfer", driver_seconds * 1e6 / completed),
            ("transfers_per_append", completed / tally.groups.max(1) as f64),
            ("prepares_per_second", (after.prepares - before.prepares) as f64 / outcome.seconds),
            ("folds", (after.folds - before.folds) as f64),
            ("attempts_aborted", (after.aborts - before.aborts) as f64),
        ];
        Measured {
            results: vec![outcome, append, effects, journal],
            invariants,
            figures,
            notes: vec![
                "a transfer is completed when its effects are durable and visible; append is until \
                 its record is durable, wait-for-effects is the rest"
                    .to_owned(),
            ],
            ..Measured::default()
        }
    }
}

/// What a gate asks for.
const FOLDS_MIN: u64 = 3;

/// Measures what the disk can do, with writes as large as the journal's were, and compares.
fn compare_with_the_disk(context: &Context, measured: &mut Measured) -> anyhow::Result<()> {
    let find = |measured: &Measured, phase: &str| {
        let found = measured.results.iter().find(|it| it.phase == phase);
        found.cloned().context("every phase was measured")
    };
    let (append, journal) = (find(measured, "append")?, find(measured, "journal-writes")?);
    let mean = usize::try_from(journal.bytes_written / journal.operations.max(1))?;
    let bytes = mean.next_multiple_of(4096).clamp(4096, 1 << 20);
    let write = |bytes, depth| Phase { direction: Direction::Write, bytes, depth };
    let phases = [write(4096, 1), write(bytes, 1), write(bytes, 4), write(1 << 20, 4)];
    let seconds = context
        .settings
        .phase_seconds(CEILING_SECONDS, CEILING_SECONDS_MAX)
        .min(CEILING_SECONDS_MAX);
    let file_bytes = if seconds < CEILING_SECONDS { 16 << 20 } else { CEILING_FILE_BYTES };
    let raw: Vec<Outcome> = measure_all(context, &phases, seconds, file_bytes)?
        .into_iter()
        .map(|sounding| sounding.outcome)
        .collect();
    let [single, alone, several, _] = raw.as_slice() else {
        unreachable!("one for each phase");
    };
    let best = if alone.per_second > several.per_second { alone } else { several };
    measured.ratios.push(Ratio::of(Metric::LatencyP50, &append, single));
    measured.ratios.push(Ratio::of(Metric::PerSecond, &journal, best));
    measured.notes.push(format!(
        "raw, measured after the run on the same file system: the append ratio is {} over the wait \
         for a durable record under this load; the journal-writes ratio is journal writes per second \
         over what the disk does alone at that size ({}); far below 1 means that the disk is not the \
         limit",
        single.phase, best.phase
    ));
    measured.results.extend(raw);
    Ok(())
}

/// Time for each phase of the ceiling in a quick run.
const CEILING_SECONDS: f64 = 0.5;

/// More tells nothing more.
const CEILING_SECONDS_MAX: f64 = 10.0;

/// The ceiling's file: larger than what a controller might keep back.
const CEILING_FILE_BYTES: u64 = 256 << 20;
