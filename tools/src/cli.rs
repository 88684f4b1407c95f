//! Arguments and exit codes.

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::{inspect, verify};

/// Looks after Tidemill's data directories.
#[derive(Debug, Parser)]
#[command(name = "tidemill", version, about, long_about = None)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Check every checksum and structure of a directory that nobody has open.
    ///
    /// Reads everything, writes nothing. Says what is damaged, in which file and at which byte; what a
    /// crash left that recovery puts right (a torn tail is no damage); and which bytes were skipped, as
    /// nothing refers to them.
    #[command(after_help = EXIT_CODES)]
    Verify(verify::Arguments),
    /// Print what a directory holds.
    ///
    /// Manifest, catalogue, journals, partitions, depots and topologies; with options, every entry,
    /// row or record. Survives damage: it prints what can be read and lists the rest.
    #[command(after_help = EXIT_CODES)]
    Inspect(inspect::Arguments),
}

const EXIT_CODES: &str = "Exit codes:
  0  sound; a torn tail after a crash is reported and is sound
  1  damaged: the findings say where
  2  not looked at: bad usage, no data directory, or a process has it open";

/// Runs the command line.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let arguments = match Arguments::try_parse_from(arguments) {
        Ok(arguments) => arguments,
        Err(error) => {
            // Nothing is left to tell if the terminal is gone.
            drop(error.print());
            return if error.use_stderr() { Exit::Unfit.into() } else { Exit::Sound.into() };
        }
    };
    let result = match &arguments.command {
        Command::Verify(arguments) => verify::run(arguments),
        Command::Inspect(arguments) => inspect::run(arguments),
    };
    match result {
        Ok(exit) => exit.into(),
        // Whoever reads has seen enough: `tidemill inspect DIR | head`.
        Err(error) if is_broken_pipe(&error) => Exit::Sound.into(),
        Err(error) => {
            eprintln!("tidemill: {error:#}");
            Exit::Unfit.into()
        }
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let io = error.downcast_ref::<std::io::Error>();
    io.is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
}

/// How a command ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Everything that was looked at is in order.
    Sound,
    /// Something is damaged.
    Damaged,
    /// Nothing could be looked at.
    Unfit,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(match exit {
            Exit::Sound => 0,
            Exit::Damaged => 1,
            Exit::Unfit => 2,
        })
    }
}
