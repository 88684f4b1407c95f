//! The command line.

use std::path::PathBuf;

use anyhow::{bail, ensure};
use clap::{Args, Parser, Subcommand};

use crate::{Workload, bank, ceiling};

/// Measures Tidemill, and the machine below it, with named workloads.
#[derive(Debug, Parser)]
#[command(name = "tidemill-bench", version, about, long_about = None)]
pub struct Cli {
    /// What to run.
    #[command(subcommand)]
    pub command: Command,
}

/// The workloads.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// What the disk can do: raw `io_uring` on one preallocated file, no engine
    Ceiling(Run<ceiling::Ceiling>),
    /// Transfers between accounts with histories on both sides, exactly once
    Bank(Run<bank::BankFlags>),
    /// What `bank --crash` runs and kills
    #[command(hide = true)]
    BankChild(bank::crash::Child),
}

impl Command {
    /// The common flags, and the workload with its own; none for a part of a workload.
    #[must_use]
    pub fn parts(&self) -> Option<(&Common, &dyn Workload)> {
        match self {
            Self::Ceiling(run) => Some((&run.common, &run.workload)),
            Self::Bank(run) => Some((&run.common, &run.workload)),
            Self::BankChild(_) => None,
        }
    }
}

/// A workload's own flags and those of all.
#[derive(Debug, Args)]
pub struct Run<W: Args> {
    /// Flags every workload has.
    #[command(flatten)]
    pub common: Common,
    /// Its own.
    #[command(flatten)]
    pub workload: W,
}

/// Flags every workload has.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Flags of every workload")]
pub struct Common {
    /// Fit a minute; no gate (default)
    #[arg(long, conflicts_with = "gate")]
    pub quick: bool,
    /// Each phase at least 60 s, engines with background work 300 s
    #[arg(long)]
    pub gate: bool,
    /// Measured seconds after warm-up, in place of either
    #[arg(long, value_name = "S")]
    pub seconds: Option<f64>,
    /// Shards of the engine [default: 2, or the number of cores if that is smaller]
    #[arg(long, value_name = "N")]
    pub shards: Option<u16>,
    /// Partitions, a power of two [default: 16 per shard]
    #[arg(long, value_name = "P")]
    pub partitions: Option<u32>,
    /// Where files go, kept afterwards [default: a fresh directory here, removed at the end]
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// Where everything random comes from
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,
    /// Closed loop: operations outstanding
    #[arg(long, value_name = "N", conflicts_with = "rate")]
    pub in_flight: Option<u64>,
    /// Open loop: operations started per second, at times drawn beforehand
    #[arg(long, value_name = "R")]
    pub rate: Option<f64>,
    /// The engine in this process (embedded) or a daemon (tcp://HOST:PORT)
    #[arg(long, value_name = "WHERE", default_value = "embedded")]
    pub target: String,
    /// Run the same work on these, alternating; all for every one built in
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    pub peers: Vec<String>,
    /// Write the result document; - for standard output
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}

/// How much to measure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// A look: everything within a minute.
    Quick,
    /// Numbers that stand.
    Gate,
}

/// The common flags, checked, with their defaults.
#[derive(Clone, Debug)]
pub struct Settings {
    /// How much to measure.
    pub mode: Mode,
    /// Measured seconds of each phase, if the user chose.
    pub seconds: Option<f64>,
    /// Shards of the engine.
    pub shards: u16,
    /// Partitions of the engine.
    pub partitions: u32,
    /// Where everything random comes from.
    pub seed: u64,
    /// Operations outstanding in a closed loop.
    pub in_flight: u64,
    /// Operations started per second in an open loop, if it is one.
    pub rate: Option<f64>,
}

impl Common {
    /// Checks the flags and fills in what is missing.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn settings(&self, in_flight_default: u64) -> anyhow::Result<Settings> {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let shards = self.shards.unwrap_or(if cores < 2 { 1 } else { 2 });
        ensure!(shards > 0, "--shards: an engine has at least one shard");
        let partitions =
            self.partitions.unwrap_or_else(|| (16 * u32::from(shards)).next_power_of_two());
        ensure!(
            partitions.is_power_of_two(),
            "--partitions: {partitions} is no power of two, {} is",
            partitions.next_power_of_two()
        );
        for (flag, value) in [("--seconds", self.seconds), ("--rate", self.rate)] {
            let proper = value.is_none_or(|value| value.is_finite() && value > 0.0);
            ensure!(proper, "{flag}: a number above zero is needed");
        }
        let in_flight = self.in_flight.unwrap_or(in_flight_default);
        ensure!(in_flight > 0, "--in-flight: at least one operation is outstanding");
        if self.target != "embedded" {
            bail!("--target {}: only `embedded` can be measured so far", self.target);
        }
        if !self.peers.is_empty() {
            bail!("--peers: no peers are built in");
        }
        let mode = if self.gate { Mode::Gate } else { Mode::Quick };
        let (seed, seconds, rate) = (self.seed, self.seconds, self.rate);
        Ok(Settings { mode, seconds, shards, partitions, seed, in_flight, rate })
    }
}

impl Settings {
    /// Measured seconds of each phase: the user's choice, else `quick` or `gate`.
    #[must_use]
    pub fn phase_seconds(&self, quick: f64, gate: f64) -> f64 {
        self.seconds.unwrap_or(match self.mode {
            Mode::Quick => quick,
            Mode::Gate => gate,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(arguments: &[&str]) -> anyhow::Result<Settings> {
        let arguments = ["tidemill-bench", "ceiling"].iter().chain(arguments);
        let cli = Cli::try_parse_from(arguments)?;
        cli.command.parts().unwrap().0.settings(64)
    }

    #[test]
    fn defaults_are_filled_in_and_nonsense_is_refused() {
        let defaults = settings(&["--shards", "3"]).unwrap();
        assert_eq!((defaults.partitions, defaults.in_flight, defaults.seed), (64, 64, 1));
        assert!((defaults.phase_seconds(2.0, 60.0) - 2.0).abs() < f64::EPSILON);
        let gate = settings(&["--gate"]).unwrap();
        assert!((gate.phase_seconds(2.0, 60.0) - 60.0).abs() < f64::EPSILON);
        for wrong in [
            &["--partitions", "12"][..],
            &["--shards", "0"],
            &["--seconds", "0"],
            &["--seconds", "NaN"],
            &["--in-flight", "0"],
            &["--in-flight", "1", "--rate", "5"],
            &["--quick", "--gate"],
            &["--peers", "all"],
            &["--target", "tcp://localhost:1"],
        ] {
            assert!(settings(wrong).is_err(), "{wrong:?}");
        }
    }
}
