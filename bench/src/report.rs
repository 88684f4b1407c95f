//! The result document, and the table that a person reads.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::Context;
use comfy_table::{CellAlignment, Table};
use serde::Serialize;

use crate::cli::{Mode, Settings};
use crate::machine::Machine;
use crate::{Measured, Workload};

/// What `--json` writes.
#[derive(Clone, Debug, Serialize)]
pub struct Document {
    /// Version of this layout.
    pub schema: u32,
    /// The workload's name.
    pub workload: String,
    /// What distinguishes this run of it.
    pub variant: String,
    /// What it ran on.
    pub machine: Machine,
    /// What it ran with.
    pub parameters: Parameters,
    /// One for each phase and system.
    pub results: Vec<Outcome>,
    /// Comparisons; more is better.
    pub ratios: Vec<Ratio>,
    /// What else was measured, by a name with its unit.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub figures: BTreeMap<String, f64>,
    /// What must hold.
    pub invariants: Vec<Invariant>,
    /// Whether every invariant was checked and holds.
    pub verified: bool,
    #[serde(skip)]
    notes: Vec<String>,
    #[serde(skip)]
    quick: bool,
}

/// What a workload ran with.
#[derive(Clone, Debug, Serialize)]
pub struct Parameters {
    /// Measured seconds of all results.
    pub seconds: f64,
    /// Shards of the engine.
    pub shards: u16,
    /// Partitions of the engine.
    pub partitions: u32,
    /// Where everything random came from.
    pub seed: u64,
    /// Operations outstanding.
    pub in_flight: u64,
    /// Operations started per second, in an open loop.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate: Option<f64>,
    /// The workload's own.
    #[serde(flatten)]
    pub own: BTreeMap<String, serde_json::Value>,
}

/// One phase on one system.
#[derive(Clone, Debug, Serialize)]
pub struct Outcome {
    /// Who did it: `tidemill`, `raw`, or a peer.
    pub system: String,
    /// What was done.
    pub phase: String,
    /// By which call an operation was durable.
    pub durability: String,
    /// How many were completed.
    pub operations: u64,
    /// How long it took.
    pub seconds: f64,
    /// Operations per second.
    pub per_second: f64,
    /// How long an operation took.
    pub latency_us: Latency,
    /// CPU of the whole process.
    pub cpu_seconds: f64,
    /// Bytes handed to the disk.
    pub bytes_written: u64,
    /// Bytes fetched from the disk.
    pub bytes_read: u64,
}

/// Percentiles in microseconds.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Latency {
    /// Half were faster.
    pub p50: f64,
    /// 90 of 100 were faster.
    pub p90: f64,
    /// 99 of 100 were faster.
    pub p99: f64,
    /// 999 of 1,000 were faster.
    pub p999: f64,
    /// 9,999 of 10,000 were faster.
    pub p9999: f64,
    /// The slowest.
    pub max: f64,
}

/// Which number of a result a ratio compares.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Metric {
    /// Ours over theirs.
    PerSecond,
    /// Theirs over ours.
    LatencyP50,
    /// Theirs over ours.
    LatencyP99,
    /// Theirs over ours.
    BytesWritten,
}

/// How a result compares; more is better.
#[derive(Clone, Debug, Serialize)]
pub struct Ratio {
    /// Of which phase.
    pub phase: String,
    /// Which number.
    pub metric: Metric,
    /// With whom; `raw` is the ceiling.
    pub against: String,
    /// Above 1 where we are better.
    pub ratio: f64,
}

impl Metric {
    fn words(self) -> &'static str {
        match self {
            Self::PerSecond => "per second",
            Self::LatencyP50 => "latency p50",
            Self::LatencyP99 => "latency p99",
            Self::BytesWritten => "bytes written",
        }
    }
}

impl Ratio {
    /// Compares `ours` with `other`.
    #[must_use]
    pub fn of(metric: Metric, ours: &Outcome, other: &Outcome) -> Self {
        #[allow(clippy::cast_precision_loss, reason = "a ratio needs no more digits")]
        let (over, under) = match metric {
            Metric::PerSecond => (ours.per_second, other.per_second),
            Metric::LatencyP50 => (other.latency_us.p50, ours.latency_us.p50),
            Metric::LatencyP99 => (other.latency_us.p99, ours.latency_us.p99),
            Metric::BytesWritten => (other.bytes_written as f64, ours.bytes_written as f64),
        };
        let ratio = if under > 0.0 { over / under } else { 0.0 };
        let (phase, against) = (ours.phase.clone(), other.system.clone());
        Self { phase, metric, against, ratio }
    }
}

/// Something that must hold after a run.
#[derive(Clone, Debug, Serialize)]
pub struct Invariant {
    /// What, such as `money is conserved`.
    pub name: String,
    /// Whether it does.
    pub holds: bool,
    /// The numbers behind it.
    pub detail: String,
}

impl Document {
    /// Puts a run together.
    #[must_use]
    pub fn new(
        workload: &dyn Workload,
        settings: &Settings,
        machine: Machine,
        measured: Measured,
    ) -> Self {
        let Measured { results, ratios, invariants, parameters, figures, notes } = measured;
        let figures = figures.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        let own = parameters.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        let parameters = Parameters {
            // Phases of one window each say how long it was.
            seconds: results.iter().map(|outcome| outcome.seconds).fold(0.0, f64::max),
            shards: settings.shards,
            partitions: settings.partitions,
            seed: settings.seed,
            in_flight: settings.in_flight,
            rate: settings.rate,
            own,
        };
        // A run that checked nothing proves nothing.
        let verified = !invariants.is_empty() && invariants.iter().all(|invariant| invariant.holds);
        Self {
            schema: 1,
            workload: workload.name().to_owned(),
            variant: workload.variant(),
            machine,
            parameters,
            results,
            ratios,
            figures,
            invariants,
            verified,
            notes,
            quick: settings.mode == Mode::Quick,
        }
    }

    /// Prints the table, and writes the document to `json` if asked.
    ///
    /// # Errors
    /// If the document cannot be written.
    pub fn show(&self, json: Option<&Path>) -> anyhow::Result<()> {
        let Some(path) = json else {
            println!("{}", self.table());
            return Ok(());
        };
        let text = serde_json::to_string_pretty(self)?;
        if path == Path::new("-") {
            eprintln!("{}", self.table());
            println!("{text}");
        } else {
            println!("{}", self.table());
            fs::write(path, text + "\n")
                .with_context(|| format!("cannot write {}", path.display()))?;
        }
        Ok(())
    }

    /// All of it as text for people.
    #[must_use]
    pub fn table(&self) -> String {
        let machine = &self.machine;
        let variant =
            if self.variant.is_empty() { String::new() } else { format!(", {}", self.variant) };
        let mut lines = vec![format!("{}{variant}", self.workload)];
        lines.push(format!(
            "{} cores, {:.1} GiB, Linux {}, {}, durable 4 KiB write {:.0} us",
            machine.cores,
            gib(machine.memory_bytes),
            machine.kernel,
            machine.file_system,
            machine.device_sync_us_p50,
        ));
        lines.push(self.results_table().to_string());
        let mut durabilities: Vec<String> = Vec::new();
        for outcome in &self.results {
            let line = format!("{}: {}", outcome.system, outcome.durability);
            if !durabilities.contains(&line) {
                durabilities.push(line);
            }
        }
        lines.push(format!("durable by: {}", durabilities.join("; ")));
        lines.extend(
            self.figures
                .iter()
                .map(|(name, value)| format!("{}: {}", name.replace('_', " "), number(*value))),
        );
        lines.extend(self.ratios.iter().map(|Ratio { phase, metric, against, ratio }| {
            format!("{phase}: {ratio:.3} x {against} ({}; more is better)", metric.words())
        }));
        lines.extend(self.invariants.iter().map(|Invariant { name, holds, detail }| {
            let verdict = if *holds { "holds" } else { "DOES NOT HOLD" };
            format!("{name}: {verdict} ({detail})")
        }));
        lines.extend(self.notes.iter().cloned());
        if self.quick {
            lines.push("a quick run: good for a look, no gate (--gate measures longer)".to_owned());
        }
        lines.join("\n")
    }

    fn results_table(&self) -> Table {
        let mut table = Table::new();
        table.load_style(comfy_table::presets::NOTHING);
        table.set_header([
            "system",
            "phase",
            "per second",
            "p50 us",
            "p90 us",
            "p99 us",
            "p99.9 us",
            "max us",
            "CPU s",
            "written MB/s",
            "read MB/s",
        ]);
        for outcome in &self.results {
            let latency = &outcome.latency_us;
            // Some phases count without timing each.
            let micros = |value| if latency.max > 0.0 { number(value) } else { "-".to_owned() };
            table.add_row([
                outcome.system.clone(),
                outcome.phase.clone(),
                grouped(outcome.per_second),
                micros(latency.p50),
                micros(latency.p90),
                micros(latency.p99),
                micros(latency.p999),
                micros(latency.max),
                format!("{:.2}", outcome.cpu_seconds),
                number(rate(outcome.bytes_written, outcome.seconds)),
                number(rate(outcome.bytes_read, outcome.seconds)),
            ]);
        }
        for column in table.column_iter_mut().skip(2) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        table
    }
}

#[allow(clippy::cast_precision_loss, reason = "for display")]
fn gib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 30)
}

#[allow(clippy::cast_precision_loss, reason = "for display")]
fn rate(bytes: u64, seconds: f64) -> f64 {
    if seconds > 0.0 { bytes as f64 / seconds / 1e6 } else { 0.0 }
}

fn number(value: f64) -> String {
    match value {
        ..10.0 => format!("{value:.2}"),
        ..100.0 => format!("{value:.1}"),
        _ => grouped(value),
    }
}

/// A whole number with commas.
fn grouped(value: f64) -> String {
    let digits = format!("{value:.0}");
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_readable() {
        let cases = [
            (0.0, "0.00"),
            (9.876, "9.88"),
            (12.34, "12.3"),
            (123.4, "123"),
            (1234.0, "1,234"),
            (1e6, "1,000,000"),
        ];
        for (value, expected) in cases {
            assert_eq!(number(value), expected);
        }
    }
}
