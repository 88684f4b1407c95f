//! The load generator: named workloads that show what Tidemill does on a machine, beside what the
//! machine could do at all.
//!
//! ```text
//! cli ── settings ──> a workload (one file each) ── outcome ──> report (table, JSON)
//!                        │ data directory, machine, meter, progress
//! ```
//!
//! A workload is a struct of its command-line flags that implements [`Workload`]; it is added to
//! [`cli::Command`] and gets everything else from its [`Context`].

#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "a load generator measures real time from real threads"
)]

use std::ffi::OsString;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Parser;
use clap::error::ErrorKind;

pub mod bank;
pub mod ceiling;
pub mod cli;
pub mod data;
pub mod machine;
pub mod meter;
pub mod progress;
pub mod report;

use cli::{Cli, Command, Settings};
use data::DataDir;
use progress::Progress;
use report::{Document, Invariant, Outcome, Ratio};

/// Something to run.
pub trait Workload {
    /// Its name on the command line and in the document.
    fn name(&self) -> &'static str;

    /// What distinguishes this run of it, such as `cross-shard 50%`; may be empty.
    fn variant(&self) -> String;

    /// How many operations are outstanding unless `--in-flight` says otherwise.
    fn in_flight_default(&self) -> u64 {
        64
    }

    /// Runs it.
    ///
    /// # Errors
    /// Why it could not run to its end, in words for the user.
    fn run(&self, context: &Context) -> anyhow::Result<Measured>;
}

/// What a workload works with.
#[derive(Debug)]
pub struct Context {
    /// Flags that every workload has, with defaults filled in.
    pub settings: Settings,
    /// Where files go.
    pub data: DataDir,
    /// What the user sees meanwhile.
    pub progress: Progress,
}

/// What a workload found.
#[derive(Debug, Default)]
pub struct Measured {
    /// One for each phase and system.
    pub results: Vec<Outcome>,
    /// Comparisons between them.
    pub ratios: Vec<Ratio>,
    /// What must hold afterwards; at least one.
    pub invariants: Vec<Invariant>,
    /// Parameters beside those every workload has.
    pub parameters: Vec<(&'static str, serde_json::Value)>,
    /// What else was measured, by a name with its unit, such as `engine_cpu_us_per_transfer`.
    pub figures: Vec<(&'static str, f64)>,
    /// What a reader of the table has to know.
    pub notes: Vec<String>,
}

/// Parses `arguments`, runs, reports; the status is 0 if every invariant holds, 1 if one does not,
/// and 2 if it could not run.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(error) => {
            let asked = matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion);
            // There is nobody to tell if the terminal is gone.
            drop(error.print());
            return if asked { ExitCode::SUCCESS } else { ExitCode::from(2) };
        }
    };
    if let Command::BankChild(child) = &cli.command {
        return match child.run() {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("tidemill-bench: {error:#}");
                ExitCode::from(2)
            }
        };
    }
    match execute(&cli) {
        Ok(document) if document.verified => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("tidemill-bench: {error:#}");
            ExitCode::from(2)
        }
    }
}

/// Runs what the command line asks for and shows it; the document is what `--json` writes.
///
/// # Errors
/// Why it could not run, in one line with what to do.
pub fn execute(cli: &Cli) -> anyhow::Result<Document> {
    let (common, workload) =
        cli.command.parts().context("this part of a workload reports nothing")?;
    let settings = common.settings(workload.in_flight_default())?;
    let data = DataDir::open(common.data.as_deref())?;
    let machine = machine::look(&data)?;
    let context = Context { settings, data, progress: Progress::new() };
    let mut measured = workload.run(&context)?;
    context.progress.finish();
    if !measured.invariants.iter().all(|it| it.holds) {
        // Whoever finds out why needs the files.
        context.data.keep();
        let kept = context.data.root().display();
        measured.notes.push(format!("an invariant does not hold: the files are kept in {kept}"));
    }
    let document = Document::new(workload, &context.settings, machine, measured);
    document.show(common.json.as_deref())?;
    Ok(document)
}
