//! What the disk can do: raw, direct `io_uring` on one preallocated file that was written before.
//!
//! Durable writes (`RWF_DSYNC`) run through the file from start to end, over and over, as a journal
//! does; reads jump about in it. No engine is involved, so this is what an engine can reach at most.

use clap::Args;
use serde_json::json;

use crate::meter::{Latencies, Meter};
use crate::report::{Invariant, Outcome};
use crate::{Context, Measured, Workload};

mod raw;

pub use raw::RawFile;

/// The flags of this workload.
#[derive(Clone, Debug, Args)]
pub struct Ceiling {
    /// Size of the file
    #[arg(long, value_name = "BYTES", default_value_t = 1 << 30)]
    pub file_bytes: u64,
}

/// One thing to measure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Phase {
    /// Reading or writing.
    pub direction: Direction,
    /// Bytes of one operation: whole blocks of 4 KiB.
    pub bytes: usize,
    /// Operations outstanding.
    pub depth: usize,
}

/// Which way the bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Durable, one after the other.
    Write,
    /// At random.
    Read,
}

impl Phase {
    /// Every phase of the workload, in order.
    #[must_use]
    pub fn all() -> Vec<Self> {
        let kib = |kib: usize| kib << 10;
        let writes = [4, 16, 64, 256, 1024].into_iter().flat_map(|size| {
            [1, 4, 16].map(|depth| Self { direction: Direction::Write, bytes: kib(size), depth })
        });
        let reads = [1, 4, 16, 32, 64, 128].map(|depth| Self {
            direction: Direction::Read,
            bytes: kib(4),
            depth,
        });
        writes.chain(reads).collect()
    }

    /// Its name, such as `write-4k-1`.
    #[must_use]
    pub fn name(self) -> String {
        let direction = match self.direction {
            Direction::Write => "write",
            Direction::Read => "read",
        };
        let size = match self.bytes >> 10 {
            kib if kib >= 1024 && kib.is_multiple_of(1024) => format!("{}m", kib / 1024),
            kib => format!("{kib}k"),
        };
        format!("{direction}-{size}-{}", self.depth)
    }
}

/// A phase's result, and how many blocks read were not what had been written.
#[derive(Clone, Debug)]
pub struct Sounding {
    /// The numbers, of system `raw`.
    pub outcome: Outcome,
    /// How many operations read something else than was written there; 0 on a sound disk.
    pub wrong: u64,
}

/// Measures one phase on `file` for `seconds`; `seed` says where the reads jump.
///
/// # Errors
/// What the kernel or the device said.
pub fn measure(
    file: &mut RawFile,
    phase: Phase,
    seconds: f64,
    seed: u64,
) -> anyhow::Result<Sounding> {
    let durability = match phase.direction {
        Direction::Write => "write with RWF_DSYNC",
        Direction::Read => "direct read",
    };
    let mut latencies = Latencies::default();
    let meter = Meter::start();
    let wrong = file.run(phase, seconds, seed, &mut latencies)?;
    let outcome = meter.finish("raw", &phase.name(), durability, latencies.count(), &latencies);
    Ok(Sounding { outcome, wrong })
}

/// Measures `phases` on a fresh file of `file_bytes` in the data directory, and removes it.
///
/// # Errors
/// What the kernel or the device said.
pub fn measure_all(
    context: &Context,
    phases: &[Phase],
    seconds: f64,
    file_bytes: u64,
) -> anyhow::Result<Vec<Sounding>> {
    context.progress.plan(phases.len() + 1);
    context.progress.step("writing the file");
    let path = context.data.fresh("ceiling")?;
    let seed = context.settings.seed;
    let mut file = RawFile::create(&path, file_bytes, seed)?;
    let mut soundings = Vec::with_capacity(phases.len());
    for phase in phases {
        context.progress.step(&phase.name());
        // A little beforehand, so that neither sleep states nor caches of the host are measured.
        measure(&mut file, *phase, seconds / 10.0, seed)?;
        soundings.push(measure(&mut file, *phase, seconds, seed)?);
    }
    drop(file);
    std::fs::remove_file(path)?;
    Ok(soundings)
}

impl Workload for Ceiling {
    fn name(&self) -> &'static str {
        "ceiling"
    }

    fn variant(&self) -> String {
        String::new()
    }

    fn run(&self, context: &Context) -> anyhow::Result<Measured> {
        // 21 phases and their warm-up, and writing the file, fit a minute.
        let seconds = context.settings.phase_seconds(2.0, 60.0);
        let soundings = measure_all(context, &Phase::all(), seconds, self.file_bytes)?;
        let wrong: u64 = soundings.iter().map(|sounding| sounding.wrong).sum();
        let reads: u64 = soundings
            .iter()
            .filter(|sounding| sounding.outcome.phase.starts_with("read"))
            .map(|sounding| sounding.outcome.operations)
            .sum();
        Ok(Measured {
            results: soundings.into_iter().map(|sounding| sounding.outcome).collect(),
            invariants: vec![Invariant {
                name: "every block read is the block that was written".to_owned(),
                holds: wrong == 0,
                detail: format!("{wrong} of {reads} reads were wrong"),
            }],
            parameters: vec![("file_bytes", json!(self.file_bytes))],
            ..Measured::default()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phases_have_the_agreed_names() {
        let names: Vec<String> = Phase::all().into_iter().map(Phase::name).collect();
        assert_eq!(names.len(), 21);
        for name in ["write-4k-1", "write-64k-16", "write-1m-4", "read-4k-1", "read-4k-128"] {
            assert!(names.iter().any(|found| found == name), "{name}");
        }
    }
}
