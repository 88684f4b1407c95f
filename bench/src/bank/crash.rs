//! Kills the bank under load, again and again, and checks what is left each time.
//!
//! ```text
//! parent: deposits, then for each round
//!           start child ──> child opens, says so, sends transfers; each durable id goes into a pipe
//!           SIGKILL at a random moment
//!           verify the files as they lie there
//!           open, let the topology catch up, read everything back, reconcile with all ids so far
//! ```
//!
//! The pipe outlives the child, so the parent knows every id that the child had an acknowledgement for and
//! managed to tell. Ids of different rounds differ in their upper half.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use clap::Args;
use serde_json::json;
use tidemill::client::block_on;
use tidemill::node::Options;

use super::BankFlags;
use super::check::{Books, Ids, PIECE_BITS};
use super::load::{Load, Next, Pace};
use super::module::LEDGER;
use super::plan::{Plan, Random};
use super::run::{DURABILITY, deposit, open};
use crate::meter::{Latencies, Meter};
use crate::report::{Invariant, Outcome};
use crate::{Context, Measured};

/// What the killed process runs.
#[derive(Clone, Debug, Args)]
pub struct Child {
    /// The engine's directory
    #[arg(long)]
    dir: PathBuf,
    #[arg(long)]
    shards: u16,
    #[arg(long)]
    partitions: u32,
    #[arg(long)]
    accounts: u64,
    #[arg(long)]
    cross: u8,
    #[arg(long)]
    seed: u64,
    #[arg(long)]
    in_flight: u64,
    #[arg(long)]
    batch: usize,
    /// Its ids begin here
    #[arg(long)]
    first: u64,
}

/// What a child writes first: it has opened the engine and the load begins. No id is that high.
const READY: u64 = u64::MAX;

impl Child {
    /// Sends transfers until it is killed, or nobody reads what it says.
    ///
    /// # Errors
    /// If the engine fails.
    pub fn run(&self) -> anyhow::Result<()> {
        let plan = Plan::new(self.seed, self.accounts, self.cross, self.shards, self.partitions)?;
        let (_engine, launched) = block_on(open(&self.dir, self.options()))?;
        let pace = Pace::Closed { in_flight: self.in_flight };
        let mut load = Load::new(&launched, &plan, pace, self.batch, self.first, self.seed);
        let mut pipe = std::io::stdout().lock();
        pipe.write_all(&READY.to_le_bytes()).context("nobody listens")?;
        pipe.flush().context("nobody listens")?;
        let mut bytes = Vec::new();
        let mut heard = Ok(());
        load.run(&mut |moment| {
            bytes.clear();
            bytes.extend(moment.acknowledged.iter().flat_map(|id| id.to_le_bytes()));
            if heard.is_ok() && !bytes.is_empty() {
                heard = pipe.write_all(&bytes).and_then(|()| pipe.flush());
            }
            if heard.is_ok() { Next::Run } else { Next::Drain }
        })?;
        heard.context("nobody listens any more")
    }

    fn options(&self) -> Options {
        Options { shards: self.shards, partitions: Some(self.partitions), ..Options::default() }
    }

    fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command.arg("bank-child").arg("--dir").arg(&self.dir);
        for (flag, value) in [
            ("--shards", u64::from(self.shards)),
            ("--partitions", u64::from(self.partitions)),
            ("--accounts", self.accounts),
            ("--cross", u64::from(self.cross)),
            ("--seed", self.seed),
            ("--in-flight", self.in_flight),
            ("--batch", self.batch as u64),
            ("--first", self.first),
        ] {
            command.arg(flag).arg(value.to_string());
        }
        command
    }

    /// Starts it and kills it `after` it was ready, or `after` its start if it is to be killed while it
    /// opens. Returns the ids that it acknowledged, and how long it had been under load.
    fn run_and_kill(&self, kill: Kill) -> anyhow::Result<(Vec<u64>, Duration)> {
        let program = std::env::current_exe().context("cannot tell which program this is")?;
        let mut child = self
            .command(&program)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("cannot start a child of this program")?;
        let mut pipe = child.stdout.take().context("the pipe was asked for")?;
        let mut errors = child.stderr.take().context("the pipe was asked for")?;
        let (ready, is_ready) = mpsc::channel();
        let reader = thread::spawn(move || -> std::io::Result<Vec<u64>> {
            let mut ids = Vec::new();
            let mut word = [0; 8];
            // The last word of a killed process may be cut off.
            while read_word(&mut pipe, &mut word)? {
                match u64::from_le_bytes(word) {
                    READY => drop(ready.send(Instant::now())),
                    id => ids.push(id),
                }
            }
            Ok(ids)
        });
        let said = thread::spawn(move || {
            let mut said = String::new();
            // What a killed process said last is for people only.
            drop(errors.read_to_string(&mut said));
            said
        });
        let began = match kill {
            Kill::UnderLoad(after) => {
                let began = is_ready.recv_timeout(OPENING_MAX);
                if began.is_ok() {
                    thread::sleep(after);
                }
                began.ok()
            }
            Kill::WhileOpening(after) => {
                thread::sleep(after);
                None
            }
        };
        let ended = child.try_wait().context("cannot look after the child")?;
        child.kill().context("cannot kill the child")?;
        let loaded = began.map_or(Duration::ZERO, |began| began.elapsed());
        child.wait().context("cannot wait for the child")?;
        let joined = reader.join().ok().context("the reader of the pipe panicked")?;
        let ids = joined.context("cannot read what the child said")?;
        let said = said.join().ok().unwrap_or_default();
        let said = said.lines().last().unwrap_or("it said nothing");
        if let Some(status) = ended {
            bail!("a child ended by itself, {status}, before it was killed: {said}");
        }
        ensure!(
            began.is_some() || matches!(kill, Kill::WhileOpening(_)),
            "a child had not opened the engine after {} s: {said}",
            OPENING_MAX.as_secs()
        );
        Ok((ids, loaded))
    }
}

/// Reads eight bytes; `false` at the end, wherever it comes.
fn read_word(pipe: &mut impl Read, word: &mut [u8; 8]) -> std::io::Result<bool> {
    match pipe.read_exact(word) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    }
}

#[derive(Clone, Copy, Debug)]
enum Kill {
    UnderLoad(Duration),
    WhileOpening(Duration),
}

/// All files below `dir`, by their path in it, with `/` between names.
fn read_files(
    dir: &Path,
    prefix: &str,
    files: &mut BTreeMap<String, Vec<u8>>,
) -> anyhow::Result<()> {
    for entry in fs::read_dir(dir).with_context(|| dir.display().to_string())? {
        let entry = entry.with_context(|| dir.display().to_string())?;
        let path = entry.path();
        let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
        if entry.file_type().with_context(|| path.display().to_string())?.is_dir() {
            read_files(&path, &format!("{name}/"), files)?;
        } else {
            files.insert(name, fs::read(&path).with_context(|| path.display().to_string())?);
        }
    }
    Ok(())
}

/// No opening takes this long.
const OPENING_MAX: Duration = Duration::from_mins(1);

/// A load lasts up to this long before it is killed.
const LOAD_MAX: Duration = Duration::from_millis(1_200);

/// Kills while opening come this soon.
const OPENING_KILL_MAX: Duration = Duration::from_millis(60);

/// Few enough for all of them to be read back after each crash.
const ACCOUNTS: u64 = 10_000;

/// What all rounds together found.
#[derive(Default)]
struct Findings {
    acknowledged: Ids,
    load: Duration,
    recoveries: Latencies,
    killed_opening: u32,
    entries: u64,
    torn: usize,
    verified: u32,
    /// What verification found wrong with the files of a killed process, in words.
    damage: Vec<String>,
    invariants: Vec<Invariant>,
    /// Why a round did not come to its end.
    failure: Option<String>,
}

pub(super) fn run(flags: &BankFlags, kills: u32, context: &Context) -> anyhow::Result<Measured> {
    let Context { settings, data, progress } = context;
    let accounts = flags.accounts.unwrap_or(ACCOUNTS);
    let (shards, partitions, seed) = (settings.shards, settings.partitions, settings.seed);
    let plan = Plan::new(seed, accounts, flags.cross, shards, partitions)?;
    let mut child = Child {
        dir: data.fresh("bank")?,
        shards,
        partitions,
        accounts,
        cross: flags.cross,
        seed,
        in_flight: settings.in_flight,
        batch: usize::try_from(flags.batch)?,
        first: 0,
    };
    progress.plan(usize::try_from(kills)? + 1);
    progress.step("opening, depositing");
    block_on(async {
        let (engine, launched) = open(&child.dir, child.options()).await?;
        deposit(&launched, &plan).await?;
        drop(launched);
        engine.close().await.context("cannot close the engine")
    })?;

    let mut random = Random::new(seed);
    let mut moment = |longest: Duration| longest.mul_f64(random.fraction());
    let mut findings = Findings::default();
    let meter = Meter::start();
    let mut survived = 0;
    for round in 1..=kills {
        progress.step(&format!(
            "crash {round} of {kills}; {} transfers acknowledged so far, none lost",
            findings.acknowledged.count()
        ));
        child.first = u64::from(round) << PIECE_BITS;
        let opening = (round % 3 == 0).then(|| moment(OPENING_KILL_MAX));
        let load = moment(LOAD_MAX);
        if let Err(error) = findings.crash(&child, &plan, opening, load, round % 2 == 0) {
            // A directory that cannot be opened or read after a crash is what this looks for.
            findings.failure = Some(format!("{error:#}"));
            break;
        }
        if findings.invariants.iter().any(|it| !it.holds) || !findings.damage.is_empty() {
            break;
        }
        survived = round;
    }
    Ok(findings.report(meter, survived, kills, &child))
}

impl Findings {
    /// One round: kills while opening if asked, kills under load, and looks at what is left each time.
    fn crash(
        &mut self,
        child: &Child,
        plan: &Plan,
        opening: Option<Duration>,
        load: Duration,
        close: bool,
    ) -> anyhow::Result<()> {
        if let Some(opening) = opening {
            child.run_and_kill(Kill::WhileOpening(opening))?;
            self.killed_opening += 1;
            self.verify(&child.dir)?;
        }
        let (ids, loaded) = child.run_and_kill(Kill::UnderLoad(load))?;
        self.load += loaded;
        for id in ids {
            ensure!(self.acknowledged.insert(id), "a child acknowledged {id} twice");
        }
        self.verify(&child.dir)?;
        self.examine(child, plan, close)
    }

    /// Checks every checksum and structure of the files, without opening them as an engine does.
    fn verify(&mut self, dir: &Path) -> anyhow::Result<()> {
        let mut files = BTreeMap::new();
        read_files(dir, "", &mut files).context("cannot read what a killed process left")?;
        let report = tidemill::verify::directory(&files, &mut |_| {});
        self.verified += 1;
        self.damage.extend(report.findings.iter().map(ToString::to_string));
        Ok(())
    }

    /// Opens what a killed process left, and reconciles it with everything acknowledged so far.
    fn examine(&mut self, child: &Child, plan: &Plan, close: bool) -> anyhow::Result<()> {
        let began = Instant::now();
        block_on(async {
            let (engine, launched) = open(&child.dir, child.options()).await?;
            launched.caught_up(LEDGER).await.context("the topology does not catch up")?;
            self.recoveries.record(began.elapsed());
            self.entries += engine.recovery().entries;
            self.torn += engine.recovery().torn.len();
            let books = Books::read(&launched, plan, |_| {}).await?;
            self.invariants = books.invariants(plan, &self.acknowledged);
            drop(launched);
            if close {
                engine.close().await.context("cannot close the engine")?;
            } else {
                engine.stop().await;
            }
            Ok(())
        })
    }

    #[allow(clippy::cast_precision_loss, reason = "nobody counts to 2^53")]
    fn report(self, meter: Meter, survived: u32, kills: u32, child: &Child) -> Measured {
        let recoveries = self.recoveries.count();
        let recover = meter.finish("tidemill", "recover", DURABILITY, recoveries, &self.recoveries);
        let acknowledged = self.acknowledged.count();
        let seconds = self.load.as_secs_f64();
        let transfers = Outcome {
            phase: "transfers".to_owned(),
            operations: acknowledged,
            seconds,
            per_second: acknowledged as f64 / seconds.max(1e-9),
            latency_us: crate::report::Latency::default(),
            ..recover.clone()
        };
        let mut invariants = self.invariants;
        invariants.push(Invariant {
            name: "the files of every killed process verify".to_owned(),
            holds: self.damage.is_empty(),
            detail: match self.damage.first() {
                None => format!("{} verifications, nothing found", self.verified),
                Some(first) => format!("{} findings; the first: {first}", self.damage.len()),
            },
        });
        invariants.push(Invariant {
            name: "every crash was survived".to_owned(),
            holds: survived == kills,
            detail: match self.failure {
                None => format!("{survived} of {kills} SIGKILLs under load"),
                Some(failure) => {
                    format!("{survived} of {kills} SIGKILLs under load, then {failure}")
                }
            },
        });
        let notes = vec![
            "recover is opening until every effect is visible again; transfers counts durable appends \
             of the killed children, which take no latencies with them"
                .to_owned(),
        ];
        Measured {
            results: vec![transfers, recover],
            invariants,
            parameters: vec![
                ("accounts", json!(child.accounts)),
                ("cross_percent", json!(child.cross)),
                ("crashes", json!(kills)),
            ],
            figures: vec![
                ("kills_under_load", f64::from(survived)),
                ("kills_while_opening", f64::from(self.killed_opening)),
                ("journal_entries_replayed", self.entries as f64),
                ("torn_journal_tails", self.torn as f64),
            ],
            notes,
            ..Measured::default()
        }
    }
}
