//! Transfers between accounts, with histories on both sides, exactly once.
//!
//! ```text
//! plan (seed, id -> transfer) ─> load (one thread, closed or open loop) ─> module (on the engine)
//!          └────────────────────────> check <── the whole state, read back ──┘
//!
//! run    measures              crash  kills a child under load, again and again, and checks each time
//! audit  sums up meanwhile     real   books the transactions of a file instead
//! ```

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::Args;

use crate::{Context, Measured, Workload};

mod audit;
pub mod check;
pub mod crash;
pub mod load;
pub mod module;
pub mod plan;
pub mod real;
mod run;

/// The flags of this workload.
#[derive(Clone, Debug, Args)]
pub struct BankFlags {
    /// Accounts [default: 100,000; with --crash 10,000]
    #[arg(long, value_name = "N")]
    pub accounts: Option<u64>,
    /// Transfers in a hundred whose accounts live on different shards
    #[arg(long, value_name = "PERCENT", default_value_t = 50,
        value_parser = clap::value_parser!(u8).range(..=100))]
    pub cross: u8,
    /// Most transfers in one call: those of a shard that start together are appended by one call
    #[arg(long, value_name = "N", default_value_t = 64,
        value_parser = clap::value_parser!(u64).range(1..))]
    pub batch: u64,
    /// MiB of memory for the engine's pages, overlays, caches and queues [default: a quarter of the
    /// machine's, at most 4,096]
    #[arg(long, value_name = "MIB", conflicts_with_all = ["crash", "input"],
        value_parser = clap::value_parser!(u64).range(16..))]
    pub memory: Option<u64>,
    /// MiB of journal for each shard before appends wait: with less, folds come sooner [default: 512]
    #[arg(long, value_name = "MIB", conflicts_with_all = ["crash", "input"],
        value_parser = clap::value_parser!(u64).range(64..))]
    pub journal: Option<u64>,
    /// Kill a child under load so many times, and verify what it left each time
    #[arg(long, value_name = "N", conflicts_with_all = ["rate", "gate", "seconds"],
        value_parser = clap::value_parser!(u32).range(1..))]
    pub crash: Option<u32>,
    /// Beside the load, read all accounts as of one id after the other; every sum must be exact
    #[arg(long, conflicts_with_all = ["crash", "input"])]
    pub audit: bool,
    /// Book the transactions of this file instead of drawing transfers
    #[arg(long, value_name = "FILE", conflicts_with_all = [
        "crash", "accounts", "rate", "gate", "seconds", "cross", "batch", "seed",
    ])]
    pub input: Option<PathBuf>,
    /// Write `account_id,balance` lines after the run, one for each account
    #[arg(long, value_name = "FILE", conflicts_with = "crash")]
    pub dump: Option<PathBuf>,
}

impl Workload for BankFlags {
    fn name(&self) -> &'static str {
        "bank"
    }

    fn variant(&self) -> String {
        match (&self.input, self.crash) {
            (Some(_), _) => "real transactions".to_owned(),
            (None, None) => format!("cross-shard {}%", self.cross),
            (None, Some(kills)) => format!("cross-shard {}%, {kills} crashes", self.cross),
        }
    }

    fn in_flight_default(&self) -> u64 {
        1_024
    }

    fn run(&self, context: &Context) -> anyhow::Result<Measured> {
        match (&self.input, self.crash) {
            (Some(input), _) => real::run(input, self.dump.as_deref(), context),
            (None, Some(kills)) => crash::run(self, kills, context),
            (None, None) => run::run(self, context),
        }
    }
}

/// Writes one line for each account.
fn dump(path: &Path, balances: impl IntoIterator<Item = (u64, i64)>) -> anyhow::Result<()> {
    let mut balances: Vec<(u64, i64)> = balances.into_iter().collect();
    balances.sort_unstable();
    let mut lines = String::new();
    for (account, balance) in balances {
        writeln!(lines, "{account},{balance}").context("no memory for the lines")?;
    }
    std::fs::write(path, lines).with_context(|| format!("--dump: cannot write {}", path.display()))
}
