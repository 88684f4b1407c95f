//! Offline verification of a whole data directory, over the bytes of its files.
//!
//! ```text
//! MANIFEST -> catalogue
//!          -> p/<partition>/pages -> the fold's own rows -> segments of every depot
//!          -> journals -> entries --------------------------> replay over each partition's fold
//!                                                          -> topologies: decisions and outcomes
//! ```
//!
//! Nothing here opens, writes or locks anything: [`Files`] brings the bytes, mapped or in memory, and
//! nobody may change them meanwhile. Bytes are judged by the same code that the engine reads them with;
//! what is added is the sight over all files at once.
//!
//! The result keeps three things apart. A [`Report::findings`] entry is damage. A [`Report::notes`] entry
//! is what a crash leaves and recovery puts right: a torn tail, a torn slot. What nothing refers to is
//! [`Report::skipped`]: it was not looked at, since it has no meaning.

use std::collections::BTreeMap;

use crate::backup::target;
use crate::codec::FieldTable;
use crate::journal::JournalId;
use crate::manifest::{self, Manifest};
use crate::node::catalogue::{Catalogue, Numbered};
use crate::types::{DepotId, PartitionId};

mod journals;
mod names;
mod partitions;
mod replay;
mod report;
mod topologies;

pub use journals::{JournalFacts, entries};
pub use names::FileKind;
pub use partitions::{DepotFacts, PartitionFacts, SegmentFacts, records};
pub use replay::{Detail, describe};
pub use report::{Finding, Report, Skipped, Tally};
pub use tidemill_replication::two_phase::{AttemptId, Record, Source};
pub use topologies::TopologyFacts;

/// The files of a data directory, which do not change while they are looked at.
pub trait Files {
    /// The path of every file in it, with `/` between names.
    fn paths(&self) -> Vec<String>;

    /// All bytes of one; `None` if there is no such file.
    fn bytes(&self, path: &str) -> Option<&[u8]>;
}

/// Files in memory, by path.
impl Files for BTreeMap<String, Vec<u8>> {
    fn paths(&self) -> Vec<String> {
        self.keys().cloned().collect()
    }

    fn bytes(&self, path: &str) -> Option<&[u8]> {
        self.get(path).map(|bytes| &**bytes)
    }
}

/// How far a verification is.
#[derive(Clone, Copy, Debug)]
pub struct Progress<'a> {
    /// The file it turns to.
    pub path: &'a str,
    /// Bytes of the files before it.
    pub bytes_done: u64,
    /// Bytes of all files.
    pub bytes_all: u64,
}

/// Looks at everything. Never panics, whatever the bytes are.
pub fn directory<F: Files + ?Sized>(files: &F, progress: &mut dyn FnMut(Progress<'_>)) -> Report {
    let mut survey = Survey::new(files, progress);
    survey.manifest();
    survey.catalogue();
    let folds = partitions::look(&mut survey);
    let sequences = journals::look(&mut survey, &folds);
    let states = replay::look(&mut survey, folds, sequences);
    topologies::look(&mut survey, &states);
    names::look(&mut survey);
    survey.finish()
}

/// Looks at one file alone, knowing what a verification of the undamaged directory said about it. Says
/// what [`directory`] would find in that file by itself; much faster, for trials with damage.
pub fn file<F: Files + ?Sized>(files: &F, path: &str, known: &Report) -> Vec<Finding> {
    let ignore = &mut |_: Progress<'_>| {};
    let mut survey = Survey::new(files, ignore);
    survey.report.manifest.clone_from(&known.manifest);
    survey.report.catalogue.clone_from(&known.catalogue);
    match names::parse(path) {
        names::Name::Manifest => survey.manifest(),
        names::Name::Catalogue(_) => survey.catalogue(),
        names::Name::Journal(id, _) => journals::look_at(&mut survey, id, &mut |_, _| {}),
        names::Name::Pages(partition) => {
            partitions::pages(&mut survey, partition, &mut |_| {});
        }
        names::Name::Segment(partition, depot, _) => {
            let facts = known.partitions.get(&partition).and_then(|it| it.depots.get(&depot));
            let segments = facts.iter().flat_map(|facts| &facts.segments);
            for segment in segments.filter(|segment| segment.path == path) {
                partitions::segment(&mut survey, partition, depot, &segment.state);
            }
        }
        names::Name::Other => {}
    }
    survey.report.findings
}

/// What is known while looking.
struct Survey<'f, F: ?Sized> {
    files: &'f F,
    progress: &'f mut dyn FnMut(Progress<'_>),
    bytes_done: u64,
    bytes_all: u64,
    report: Report,
}

impl<'f, F: Files + ?Sized> Survey<'f, F> {
    fn new(files: &'f F, progress: &'f mut dyn FnMut(Progress<'_>)) -> Self {
        let mut report = Report::default();
        for path in files.paths() {
            let bytes = files.bytes(&path).map_or(0, <[u8]>::len) as u64;
            report.files.insert(path, bytes);
        }
        let bytes_all = report.files.values().sum();
        Self { files, progress, bytes_done: 0, bytes_all, report }
    }

    /// The bytes of a file, which is used from now on.
    fn open(&mut self, path: &str) -> Option<&'f [u8]> {
        let bytes = self.files.bytes(path)?;
        let (bytes_done, bytes_all) = (self.bytes_done, self.bytes_all);
        (self.progress)(Progress { path, bytes_done, bytes_all });
        self.bytes_done += bytes.len() as u64;
        self.report.live.entry(path.to_owned()).or_default();
        Some(bytes)
    }

    fn find(&mut self, path: &str, byte: u64, what: impl Into<String>) {
        self.report.findings.push(Finding { path: path.to_owned(), byte, what: what.into() });
    }

    fn note(&mut self, path: &str, byte: u64, what: impl Into<String>) {
        self.report.notes.push(Finding { path: path.to_owned(), byte, what: what.into() });
    }

    /// Damage where everything was durable when the directory was closed; else what a crash may leave.
    fn find_if_clean(&mut self, path: &str, byte: u64, what: impl Into<String>) {
        if self.is_clean() { self.find(path, byte, what) } else { self.note(path, byte, what) }
    }

    fn live(&mut self, path: &str, bytes: std::ops::Range<u64>) {
        self.report.live.entry(path.to_owned()).or_default().push(bytes);
    }

    fn is_clean(&self) -> bool {
        self.report.manifest.as_ref().is_some_and(|manifest| manifest.clean)
    }

    /// Whether shards have begun to work in the directory: from then on every partition has a root.
    fn has_begun(&self) -> bool {
        self.report.manifest.as_ref().is_some_and(|manifest| !manifest.journals.is_empty())
    }

    fn manifest(&mut self) {
        let Some(bytes) = self.open(manifest::PATH) else {
            // Until the first manifest is durable, nothing else is made but empty directories.
            if self.report.files.contains_key(target::MARK) {
                self.find(manifest::PATH, 0, target::UNFINISHED);
            } else if self.report.files.keys().any(|path| path.starts_with("p/")) {
                self.find(manifest::PATH, 0, "the file is missing, though there are partitions");
            } else {
                self.note(manifest::PATH, 0, "there is none: the directory was never opened");
            }
            return;
        };
        let live = (bytes.len() as u64).min(manifest::BYTES as u64);
        self.live(manifest::PATH, 0..live);
        match Manifest::parse(bytes) {
            Ok(manifest) if !possible(&manifest) => {
                self.find(manifest::PATH, 0, "it names an impossible number of partitions");
            }
            Ok(manifest) => {
                if let Some((byte, what)) = Manifest::torn_slot(bytes) {
                    let what = format!("{what}; a crash tore its write, and the other slot holds");
                    self.note(manifest::PATH, byte, what);
                }
                self.report.manifest = Some(manifest);
            }
            Err(manifest::Error::Corrupt { byte, what }) => self.find(manifest::PATH, byte, what),
            Err(error) => self.find(manifest::PATH, 0, error.to_string()),
        }
    }

    fn catalogue(&mut self) {
        let Some(named) = self.report.manifest.as_ref().map(|manifest| manifest.catalogue) else {
            return;
        };
        if named.number == 0 {
            self.report.catalogue = Some(Catalogue::default());
            return;
        }
        let path = format!("catalogue-{}", named.number);
        let Some(bytes) = self.open(&path) else {
            return self.find(&path, 0, "the file is missing, though MANIFEST names it");
        };
        let length = usize::try_from(named.bytes).unwrap_or(usize::MAX);
        let Some(content) = bytes.get(..length) else {
            return self.find(&path, bytes.len() as u64, "the file is cut short");
        };
        self.live(&path, 0..named.bytes);
        if crc32fast::hash(content) != named.crc {
            return self.find(&path, 0, "its checksum is not the one in MANIFEST");
        }
        match Catalogue::decode(content) {
            Ok(catalogue) => {
                for what in faults(&catalogue) {
                    self.find(&path, 0, what);
                }
                self.report.catalogue = Some(catalogue);
            }
            Err(what) => self.find(&path, 0, what),
        }
    }

    /// Whether a depot may occur in stored data.
    fn knows_depot(&self, depot: DepotId) -> bool {
        let catalogue = self.report.catalogue.as_ref();
        catalogue.is_none_or(|catalogue| {
            let depots = catalogue.modules.iter().flat_map(|module| &module.depots);
            depots.into_iter().any(|known| known.number == depot.0)
        })
    }

    /// The journals that the manifest names.
    fn journals(&self) -> Vec<JournalId> {
        let records = self.report.manifest.iter().flat_map(|manifest| &manifest.journals);
        records.map(|record| record.id).collect()
    }

    /// The partitions that there should be, or, where nothing says, those that have files.
    fn partitions(&self) -> Vec<PartitionId> {
        if let Some(manifest) = &self.report.manifest {
            return (0..manifest.partitions).map(PartitionId).collect();
        }
        let mut found: Vec<_> =
            self.report.files.keys().filter_map(|path| names::parse(path).partition()).collect();
        found.dedup();
        found.sort_unstable();
        found.dedup();
        found
    }

    fn finish(mut self) -> Report {
        self.report.settle();
        self.report
    }
}

/// Whether an engine can have written this: what follows loops over the partitions.
fn possible(manifest: &Manifest) -> bool {
    manifest.partitions.is_power_of_two() && manifest.partitions <= PARTITIONS_MAX
}

/// More than one for every shard there can be.
const PARTITIONS_MAX: u32 = 1 << 20;

/// Kinds of which recomputes have some, too.
#[derive(Clone, Copy)]
enum Of {
    PStates,
    Topologies,
}

/// Every name and number of a kind, old forms and those of recomputes included.
fn numbered(catalogue: &Catalogue, of: Of) -> Vec<Numbered> {
    let mut all = Vec::new();
    for module in &catalogue.modules {
        match of {
            Of::PStates => all.extend(module.stored()),
            Of::Topologies => all.extend(module.topologies.iter().cloned()),
        }
        for it in &module.recomputes {
            match of {
                Of::PStates => all.extend(it.pstates.iter().cloned()),
                Of::Topologies => all.push(Numbered::new(&it.topology, it.number)),
            }
        }
    }
    let left = match of {
        Of::PStates => &catalogue.leftovers.pstates,
        Of::Topologies => &catalogue.leftovers.topologies,
    };
    all.extend(left.iter().map(|&number| Numbered::new("of an earlier recompute", number)));
    all
}

/// What contradicts itself in a catalogue.
fn faults(catalogue: &Catalogue) -> Vec<String> {
    let mut faults = Vec::new();
    if !catalogue.fields.is_empty()
        && let Err(error) = FieldTable::decode(&catalogue.fields)
    {
        faults.push(format!("the table of field numbers: {error}"));
    }
    let modules = &catalogue.modules;
    let kinds: [(&str, u32, Vec<Numbered>); 3] = [
        (
            "depot",
            catalogue.next_depot,
            modules.iter().flat_map(|it| &it.depots).cloned().collect(),
        ),
        ("PState", catalogue.next_pstate, numbered(catalogue, Of::PStates)),
        ("topology", catalogue.next_topology, numbered(catalogue, Of::Topologies)),
    ];
    for (kind, next, numbered) in kinds {
        let mut seen = BTreeMap::new();
        for Numbered { name, number, .. } in numbered {
            if number == 0 || next <= number {
                faults.push(format!("{kind} {name} has the number {number}, {next} is next"));
            }
            if let Some(other) = seen.insert(number, name.clone()) {
                faults.push(format!("{kind}s {other} and {name} share the number {number}"));
            }
        }
    }
    faults
}

#[cfg(test)]
mod tests;
