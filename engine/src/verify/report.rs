//! What a verification says.

use std::collections::BTreeMap;
use std::ops::Range;

use super::{FileKind, JournalFacts, PartitionFacts, TopologyFacts};
use crate::manifest::Manifest;
use crate::node::catalogue::Catalogue;
use crate::types::PartitionId;

/// Something that is so at one place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The file, within the data directory.
    pub path: String,
    /// Where in it the structure starts that is meant.
    pub byte: u64,
    /// What is so.
    pub what: String,
}

impl std::fmt::Display for Finding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} at byte {}: {}", self.path, self.byte, self.what)
    }
}

/// Bytes that were not looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Skipped {
    /// The file, within the data directory.
    pub path: String,
    /// Which of its bytes.
    pub bytes: Range<u64>,
    /// Why nothing depends on them.
    pub why: &'static str,
}

/// How much there is of one kind of file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// How many files.
    pub files: u64,
    /// Bytes in them.
    pub bytes: u64,
    /// Bytes that were checked; the others are skipped.
    pub bytes_live: u64,
    /// Findings in them.
    pub findings: u64,
}

/// Everything that was found, good and bad.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// `MANIFEST`, if it can be read.
    pub manifest: Option<Manifest>,
    /// The catalogue, if it can be read; empty before the first launch.
    pub catalogue: Option<Catalogue>,
    /// The journals that the manifest names, in its order.
    pub journals: Vec<JournalFacts>,
    /// Every partition.
    pub partitions: BTreeMap<PartitionId, PartitionFacts>,
    /// Every topology of the catalogue.
    pub topologies: Vec<TopologyFacts>,
    /// Damage. Empty if the directory is sound.
    pub findings: Vec<Finding>,
    /// What a crash left and recovery puts right.
    pub notes: Vec<Finding>,
    /// What was not looked at, in order of path and byte.
    pub skipped: Vec<Skipped>,
    /// The length of every file.
    pub files: BTreeMap<String, u64>,
    /// The bytes of every file used that were checked, in order.
    pub live: BTreeMap<String, Vec<Range<u64>>>,
}

impl Report {
    /// Whether there is no damage.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        self.findings.is_empty()
    }

    /// Whether a byte was checked: a changed one is an error.
    #[must_use]
    pub fn is_live(&self, path: &str, byte: u64) -> bool {
        let Some(ranges) = self.live.get(path) else { return false };
        let after = ranges.partition_point(|range| range.end <= byte);
        ranges.get(after).is_some_and(|range| range.contains(&byte))
    }

    /// How much there is of each kind of file.
    #[must_use]
    pub fn tallies(&self) -> BTreeMap<FileKind, Tally> {
        let mut tallies: BTreeMap<FileKind, Tally> = BTreeMap::new();
        for (path, bytes) in &self.files {
            let tally = tallies.entry(FileKind::of(path)).or_default();
            tally.files += 1;
            tally.bytes += bytes;
            let live = self.live.get(path).into_iter().flatten();
            tally.bytes_live += live.map(|range| range.end - range.start).sum::<u64>();
        }
        for finding in &self.findings {
            tallies.entry(FileKind::of(&finding.path)).or_default().findings += 1;
        }
        tallies
    }

    pub(super) fn skip(&mut self, path: &str, bytes: Range<u64>, why: &'static str) {
        self.skipped.push(Skipped { path: path.to_owned(), bytes, why });
    }

    /// Brings what was collected into order; what is not live of a file that was used is skipped.
    pub(super) fn settle(&mut self) {
        let mut skipped = std::mem::take(&mut self.skipped);
        for (path, ranges) in &mut self.live {
            let length = self.files.get(path).copied().unwrap_or_default();
            *ranges = merged(std::mem::take(ranges), length);
            let mut from = 0;
            let end = length..length;
            for range in ranges.iter().chain([&end]) {
                if from < range.start {
                    let why = unused(FileKind::of(path));
                    skipped.push(Skipped { path: path.clone(), bytes: from..range.start, why });
                }
                from = range.end;
            }
        }
        skipped.sort_by(|a, b| (&a.path, a.bytes.start).cmp(&(&b.path, b.bytes.start)));
        self.skipped = skipped;
    }
}

/// The ranges in order, disjoint and within the file.
fn merged(mut ranges: Vec<Range<u64>>, length: u64) -> Vec<Range<u64>> {
    ranges.sort_unstable_by_key(|range| (range.start, range.end));
    let mut merged: Vec<Range<u64>> = Vec::new();
    for range in ranges {
        let range = range.start.min(length)..range.end.min(length);
        match merged.last_mut() {
            Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
            _ if range.is_empty() => {}
            _ => merged.push(range),
        }
    }
    merged
}

fn unused(kind: FileKind) -> &'static str {
    match kind {
        FileKind::Manifest => "behind the two slots",
        FileKind::Catalogue => "behind the catalogue's end",
        FileKind::Journal => {
            "no frame of the chain: space for later ones, or frames no longer needed"
        }
        FileKind::Pages => "pages that the newest root does not reach",
        FileKind::Segment => {
            "behind what the fold recorded: space, or records that the journal has"
        }
        FileKind::Other => "an unknown name",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_live_is_skipped() {
        let mut report = Report::default();
        report.files.insert("MANIFEST".to_owned(), 100);
        report.live.insert("MANIFEST".to_owned(), vec![50..60, 10..20, 20..30, 90..200]);
        report.settle();
        assert_eq!(report.live["MANIFEST"], [10..30, 50..60, 90..100]);
        let skipped: Vec<_> = report.skipped.iter().map(|it| it.bytes.clone()).collect();
        assert_eq!(skipped, [0..10, 30..50, 60..90]);
        for byte in 0..120 {
            let live = [10..30, 50..60, 90..100].iter().any(|range| range.contains(&byte));
            assert_eq!(report.is_live("MANIFEST", byte), live, "{byte}");
        }
    }
}
