//! Flips bits in the files of a cleanly closed directory, one at a time, and sees whether each is found.
//!
//! ```text
//! flip                      about 1 GiB of real files, 10,000 random bits of all their bytes
//! flip --exhaustive         every bit, and a cut at every byte, of 64 KiB of each kind of file
//! ```
//!
//! A flip is judged by `tidemill::verify::file`, which looks at the file alone: the same code as
//! `tidemill verify`, without the other files. A bit in a live byte must be found, in this file and at a
//! byte at or before it. A bit in a byte that was skipped as unused must change nothing.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use indicatif::{ProgressBar, ProgressStyle};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tidemill::client::{Engine, block_on};
use tidemill::module::{Depot, Module};
use tidemill::node::Options;
use tidemill::schema::{Map, PState, Sub};
use tidemill::verify::{self, FileKind, Files, Finding, Report};
use tidemill_tests::random::Random;

/// Flips bits in a closed directory and sees whether each is found.
#[derive(Debug, Parser)]
struct Arguments {
    /// Where the directory is made; it must not exist.
    #[arg(long, default_value = "target/flip")]
    dir: PathBuf,
    /// So many bytes of files at least.
    #[arg(long, default_value_t = 1 << 30)]
    bytes: u64,
    /// So many flips.
    #[arg(long, default_value_t = 10_000)]
    flips: u64,
    /// Of everything that is left to chance.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Instead: every bit and every cut of so many live bytes of each kind of file, in a small directory.
    #[arg(long, value_name = "BYTES", num_args = 0..=1, default_missing_value = "65536")]
    exhaustive: Option<u64>,
    /// Leaves the directory there.
    #[arg(long)]
    keep: bool,
    /// Writes the counts there.
    #[arg(long)]
    json: Option<PathBuf>,
}

fn main() -> Result<ExitCode> {
    let arguments = Arguments::parse();
    ensure!(!arguments.dir.exists(), "{} exists already", arguments.dir.display());
    let random = Random::new(arguments.seed);
    let result = run(&arguments, &random);
    if !arguments.keep {
        // It may not have been made.
        drop(fs::remove_dir_all(&arguments.dir));
    }
    let counts = result?;
    print(&counts);
    if let Some(path) = &arguments.json {
        fs::write(path, serde_json::to_vec_pretty(&counts.json())?)?;
    }
    Ok(if counts.wrong.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn run(arguments: &Arguments, random: &Random) -> Result<Counts> {
    match arguments.exhaustive {
        None => make(&arguments.dir, 64, arguments.bytes, random)?,
        Some(live) => make(&arguments.dir, 1, live * 4, random)?,
    }
    let files = read(&arguments.dir)?;
    let report = verify::directory(&files, &mut |_| {});
    ensure!(report.is_sound(), "before any flip: {}", report.findings[0]);
    ensure!(report.manifest.as_ref().is_some_and(|it| it.clean), "the directory was closed");
    let trial = Trial { files: &files, report: &report };
    Ok(match arguments.exhaustive {
        None => trial.chance(arguments.flips, random),
        Some(live) => trial.exhaust(live),
    })
}

// ---- the directory ----

#[derive(Serialize, Deserialize)]
struct Note {
    id: u64,
    author: u64,
    text: String,
}

struct Notes {
    posted: Depot<Note>,
    _by_author: PState<Map<u64, Sub<Map<u64, String>>>>,
}

/// Records in a depot, and again in a `PState`.
fn notes(m: &Module) -> Notes {
    let posted = m.depot::<Note>("posted").hash_by(|note| &note.author);
    let shelf = m.microbatch(|| "shelf");
    let by_author = shelf.pstate::<Map<u64, Sub<Map<u64, String>>>>("by_author");
    shelf.source(posted).using(by_author).for_each(async |at, by_author, note: Note| {
        at.put(by_author.key(note.author).key(note.id), note.text)?;
        Ok(())
    });
    Notes { posted, _by_author: by_author.reader() }
}

/// Fills a new directory with at least so many bytes of files, and a quarter of that of records, since
/// files are made ahead of what goes into them; and closes it.
fn make(dir: &Path, partitions: u32, bytes: u64, random: &Random) -> Result<()> {
    let shards = if partitions > 1 { 2 } else { 1 };
    let mut options = Options { shards, partitions: Some(partitions), ..Options::default() };
    options.memory_bytes = 256 << 20;
    options.journal_bytes_max = 128 << 20;
    if partitions == 1 {
        options.journal_file_bytes = 1 << 20;
    }
    // Enough for several batches, and a few of them large enough for the bulk path.
    let batch = (bytes / 4_000).clamp(100, 6_000);
    let bar = bar(bytes, "filling");
    block_on(async {
        let engine = Engine::open(dir, options).await?;
        let notes = engine.launch("notes", notes).await?;
        let mut id = 0;
        for round in 0.. {
            let filled = bytes_below(dir)?;
            bar.set_position(filled.min(bytes));
            if filled >= bytes && id * RECORD_BYTES >= bytes / 4 {
                break;
            }
            let records: Vec<Note> = (0..batch)
                .map(|_| {
                    id += 1;
                    let author = if round % 16 == 7 { 7 } else { random.below(100_000) };
                    let text =
                        (0..random.below(110)).map(|_| format!("{:08x}", random.bits() >> 32));
                    let text = text.collect();
                    Note { id, author, text }
                })
                .collect();
            let appended = notes.append_many(notes.posted, &records).await?;
            for appended in &appended {
                notes.wait("shelf", appended).await?;
            }
        }
        drop(notes);
        Ok::<(), anyhow::Error>(engine.close().await?)
    })
    .context("filling the directory")?;
    bar.finish_and_clear();
    Ok(())
}

/// About the size of a record, on average.
const RECORD_BYTES: u64 = 440;

fn bytes_below(dir: &Path) -> std::io::Result<u64> {
    let mut bytes = 0;
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        bytes += if metadata.is_dir() { bytes_below(&entry.path())? } else { metadata.len() };
    }
    Ok(bytes)
}

fn read(dir: &Path) -> Result<BTreeMap<String, Vec<u8>>> {
    let mut files = BTreeMap::new();
    let mut waiting = vec![String::new()];
    while let Some(below) = waiting.pop() {
        for entry in fs::read_dir(dir.join(&below))? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let path = if below.is_empty() { name } else { format!("{below}/{name}") };
            if entry.file_type()?.is_dir() {
                waiting.push(path);
            } else {
                files.insert(path, fs::read(entry.path())?);
            }
        }
    }
    Ok(files)
}

// ---- the trials ----

struct Trial<'a> {
    files: &'a BTreeMap<String, Vec<u8>>,
    report: &'a Report,
}

/// The files, with other bytes for one of them.
struct Changed<'a> {
    files: &'a BTreeMap<String, Vec<u8>>,
    path: &'a str,
    bytes: &'a [u8],
}

impl Files for Changed<'_> {
    fn paths(&self) -> Vec<String> {
        self.files.paths()
    }

    fn bytes(&self, path: &str) -> Option<&[u8]> {
        if path == self.path { Some(self.bytes) } else { self.files.bytes(path) }
    }
}

impl Trial<'_> {
    /// Random bits of all bytes of all files.
    fn chance(&self, flips: u64, random: &Random) -> Counts {
        let mut counts = Counts::new(self);
        let bytes: u64 = self.report.files.values().sum();
        let mut places: Vec<(u64, u8)> = (0..flips)
            .map(|_| (random.below(bytes), u8::try_from(random.below(8)).unwrap_or_default()))
            .collect();
        places.sort_unstable();
        let mut places = places.into_iter().peekable();
        let bar = bar(flips, "flipping");
        let mut start = 0;
        for (path, bytes) in self.files {
            let end = start + bytes.len() as u64;
            let mut changed = bytes.clone();
            while let Some((place, bit)) = places.next_if(|&(place, _)| place < end) {
                self.flip(path, &mut changed, place - start, bit, &mut counts);
                bar.inc(1);
            }
            start = end;
        }
        bar.finish_and_clear();
        counts
    }

    /// Every bit and every cut of the first live bytes of a file of each kind; of all files where a kind
    /// has less than that.
    fn exhaust(&self, bytes_min: u64) -> Counts {
        let mut counts = Counts::new(self);
        for kind in FileKind::ALL {
            let mut live: Vec<(u64, &String)> = (self.report.live.iter())
                .filter(|(path, _)| FileKind::of(path) == kind)
                .map(|(path, ranges)| (ranges.iter().map(|it| it.end - it.start).sum(), path))
                .collect();
            live.sort_unstable();
            let enough = live.iter().find(|(bytes, _)| *bytes >= bytes_min).copied();
            let chosen = enough.map_or(live, |one| vec![one]);
            for (bytes, path) in chosen {
                self.exhaust_file(path, bytes.min(bytes_min), &mut counts);
            }
        }
        counts
    }

    fn exhaust_file(&self, path: &str, bytes: u64, counts: &mut Counts) {
        let bar = bar(bytes, path);
        let mut changed = self.files[path].clone();
        let ranges = &self.report.live[path];
        for at in ranges.iter().flat_map(Clone::clone).zip(0..bytes).map(|(at, _)| at) {
            for bit in 0..8 {
                self.flip(path, &mut changed, at, bit, counts);
            }
            self.cut(path, at, counts);
            bar.inc(1);
        }
        bar.finish_and_clear();
    }

    fn flip(&self, path: &str, changed: &mut [u8], at: u64, bit: u8, counts: &mut Counts) {
        let place = usize::try_from(at).expect("it is in memory");
        changed[place] ^= 1 << bit;
        let findings = self.look(path, changed);
        changed[place] ^= 1 << bit;
        let what = format!("bit {bit} of byte {at} of {path}");
        counts.flip(path, at, self.report.is_live(path, at), &findings, &what);
    }

    fn cut(&self, path: &str, at: u64, counts: &mut Counts) {
        let place = usize::try_from(at).expect("it is in memory");
        let findings = self.look(path, &self.files[path][..place]);
        counts.cut(path, &findings, &format!("{path} cut at byte {at}"));
    }

    fn look(&self, path: &str, bytes: &[u8]) -> Vec<Finding> {
        verify::file(&Changed { files: self.files, path, bytes }, path, self.report)
    }
}

/// What came of the trials.
struct Counts {
    bytes: u64,
    bytes_live: u64,
    kinds: BTreeMap<FileKind, Kind>,
    /// What should have been found and was not, or the other way round.
    wrong: Vec<String>,
}

#[derive(Default)]
struct Kind {
    bytes: u64,
    bytes_live: u64,
    found: u64,
    unused: u64,
    cuts: u64,
    /// From the finding's byte to the flipped one, at most.
    distance_max: u64,
}

impl Counts {
    fn new(trial: &Trial<'_>) -> Self {
        let mut kinds: BTreeMap<FileKind, Kind> = BTreeMap::new();
        for (kind, tally) in trial.report.tallies() {
            let counts = kinds.entry(kind).or_default();
            (counts.bytes, counts.bytes_live) = (tally.bytes, tally.bytes_live);
        }
        let bytes = kinds.values().map(|it| it.bytes).sum();
        let bytes_live = kinds.values().map(|it| it.bytes_live).sum();
        Self { bytes, bytes_live, kinds, wrong: Vec::new() }
    }

    fn flip(&mut self, path: &str, at: u64, live: bool, findings: &[Finding], what: &str) {
        let kind = self.kinds.entry(FileKind::of(path)).or_default();
        match findings.first() {
            Some(finding) if live && finding.path == path && finding.byte <= at => {
                kind.found += 1;
                kind.distance_max = kind.distance_max.max(at - finding.byte);
            }
            None if !live => kind.unused += 1,
            Some(finding) => self.wrong.push(format!("{what} was reported as {finding}")),
            None => self.wrong.push(format!("{what} was missed")),
        }
    }

    fn cut(&mut self, path: &str, findings: &[Finding], what: &str) {
        if findings.iter().any(|finding| finding.path == path) {
            self.kinds.entry(FileKind::of(path)).or_default().cuts += 1;
        } else {
            self.wrong.push(format!("{what} was missed"));
        }
    }

    fn json(&self) -> serde_json::Value {
        let kinds = self.kinds.iter().map(|(kind, it)| {
            let value = json!({
                "bytes": it.bytes,
                "bytes_live": it.bytes_live,
                "flips_found": it.found,
                "flips_in_unused_bytes": it.unused,
                "cuts_found": it.cuts,
                "distance_max": it.distance_max,
            });
            (kind.to_string(), value)
        });
        json!({
            "bytes": self.bytes,
            "bytes_live": self.bytes_live,
            "kinds": kinds.collect::<serde_json::Map<_, _>>(),
            "wrong": self.wrong,
        })
    }
}

fn print(counts: &Counts) {
    println!("{} bytes of files, {} of them live", counts.bytes, counts.bytes_live);
    println!(
        "{:<10} {:>12} {:>12} {:>9} {:>9} {:>9} {:>9}",
        "kind", "bytes", "live", "found", "unused", "cuts", "distance"
    );
    for (kind, it) in &counts.kinds {
        println!(
            "{kind:<10} {:>12} {:>12} {:>9} {:>9} {:>9} {:>9}",
            it.bytes, it.bytes_live, it.found, it.unused, it.cuts, it.distance_max
        );
    }
    for wrong in counts.wrong.iter().take(20) {
        println!("WRONG: {wrong}");
    }
    println!("{} wrong", counts.wrong.len());
}

fn bar(length: u64, what: &str) -> ProgressBar {
    let template = "{msg} {wide_bar} {pos}/{len} [{elapsed}]";
    let style = ProgressStyle::with_template(template).expect("the template is fine");
    ProgressBar::new(length).with_style(style).with_message(what.to_owned())
}
