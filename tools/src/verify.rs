//! `tidemill verify`: is everything there, and is it what was written?

use std::collections::BTreeMap;
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Result;
use comfy_table::{CellAlignment, Table, presets};
use indicatif::{ProgressBar, ProgressStyle};
use tidemill::verify::{Progress, Report};

use crate::cli::Exit;
use crate::directory::{Directory, Error};
use crate::json;

/// What to verify, and how to say it.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// The data directory.
    pub dir: PathBuf,
    /// Look even if a process has the directory open. What it writes meanwhile looks like damage.
    #[arg(long)]
    pub force: bool,
    /// Print the result as JSON.
    #[arg(long)]
    pub json: bool,
    /// List every range of bytes that was skipped, not only their sums.
    #[arg(long)]
    pub skipped: bool,
}

/// Verifies a directory that nobody has open.
///
/// # Errors
/// Why it could not be looked at; damage is in the report.
pub fn directory(dir: &Path, progress: &mut dyn FnMut(Progress<'_>)) -> Result<Report, Error> {
    let files = Directory::map(dir, false)?;
    Ok(tidemill::verify::directory(&files, progress))
}

/// Runs the command.
///
/// # Errors
/// Why nothing could be looked at, or printed.
pub fn run(arguments: &Arguments) -> Result<Exit> {
    let files = Directory::map(&arguments.dir, arguments.force)?;
    let report = look(&files);
    let mut out = std::io::stdout().lock();
    if arguments.json {
        serde_json::to_writer_pretty(&mut out, &json::report(&report))?;
        writeln!(out)?;
    } else {
        print(&mut out, &report, arguments.skipped)?;
    }
    Ok(if report.is_sound() { Exit::Sound } else { Exit::Damaged })
}

/// Verifies, with a bar on a terminal.
pub(crate) fn look(files: &Directory) -> Report {
    if !std::io::stderr().is_terminal() {
        return tidemill::verify::directory(files, &mut |_| {});
    }
    let bar = ProgressBar::new(0);
    let template = "{spinner} {bytes}/{total_bytes} {wide_msg} [{elapsed}]";
    bar.set_style(ProgressStyle::with_template(template).expect("the template is fine"));
    bar.enable_steady_tick(Duration::from_millis(100));
    let report = tidemill::verify::directory(files, &mut |progress| {
        bar.set_length(progress.bytes_all);
        bar.set_position(progress.bytes_done);
        bar.set_message(progress.path.to_owned());
    });
    bar.finish_and_clear();
    report
}

fn print(out: &mut dyn Write, report: &Report, all_skipped: bool) -> Result<()> {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(["kind", "files", "bytes", "checked", "skipped", "findings"]);
    for (kind, tally) in report.tallies() {
        let numbers = [
            tally.files,
            tally.bytes,
            tally.bytes_live,
            tally.bytes.saturating_sub(tally.bytes_live),
            tally.findings,
        ];
        let cells = numbers.map(grouped);
        table.add_row(std::iter::once(kind.to_string()).chain(cells));
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    writeln!(out, "{table}")?;
    print_skipped(out, report, all_skipped)?;
    for note in &report.notes {
        writeln!(out, "note: {note}")?;
    }
    for finding in &report.findings {
        writeln!(out, "DAMAGE: {finding}")?;
    }
    writeln!(out, "{}", verdict(report))?;
    Ok(())
}

fn print_skipped(out: &mut dyn Write, report: &Report, all: bool) -> Result<()> {
    if all {
        for skipped in &report.skipped {
            let range = &skipped.bytes;
            writeln!(
                out,
                "skipped: {} {}..{}: {}",
                skipped.path, range.start, range.end, skipped.why
            )?;
        }
        return Ok(());
    }
    let mut sums: BTreeMap<&str, (u64, u64, &str)> = BTreeMap::new();
    for skipped in &report.skipped {
        let sum = sums.entry(skipped.why).or_insert((0, 0, &skipped.path));
        sum.0 += skipped.bytes.end - skipped.bytes.start;
        sum.1 += 1;
    }
    for (why, (bytes, ranges, path)) in sums {
        let places = match ranges {
            1 => path.to_owned(),
            _ => format!("{ranges} places, as {path}"),
        };
        writeln!(out, "skipped: {} bytes ({places}): {why}", grouped(bytes))?;
    }
    Ok(())
}

/// The result in a line.
#[must_use]
pub fn verdict(report: &Report) -> String {
    let how = match &report.manifest {
        Some(manifest) if manifest.clean => "closed cleanly",
        Some(_) => "not closed: a process had it open when it ended",
        None => "without a readable MANIFEST",
    };
    match (report.findings.len(), report.notes.len()) {
        (0, 0) => format!("sound ({how})"),
        (0, notes) => format!("sound ({how}; {notes} notes)"),
        (findings, _) => format!("damaged: {findings} findings ({how})"),
    }
}

/// A number with its thousands apart.
pub(crate) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (nth, digit) in digits.chars().enumerate() {
        if nth > 0 && (digits.len() - nth).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped() {
        let cases = [(0, "0"), (999, "999"), (1000, "1,000"), (1_234_567, "1,234,567")];
        for (number, text) in cases {
            assert_eq!(grouped(number), text);
        }
    }
}
