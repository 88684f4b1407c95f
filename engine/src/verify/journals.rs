//! The journals: every frame of their chains, and every entry in them.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::partitions::Fold;
use super::replay::{Detail, describe};
use super::{Files, Finding, Survey, names};
use crate::journal::{
    Entry, Error, JournalFile, JournalId, Kind, Sequence, Walked, WalkedFrame, Walker, slot_path,
};
use crate::manifest::{JournalRecord, Manifest};
use crate::types::{Index, PartitionId, Term};

/// What one journal holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JournalFacts {
    /// As the manifest names it.
    pub record: JournalRecord,
    /// The slots that have a file.
    pub slots: Vec<u32>,
    /// Frames, groups and entries in the chain, and what lies beyond it.
    pub walked: Walked,
    /// For each kind of entry how many there are, and their bytes.
    pub kinds: BTreeMap<Kind, (u64, u64)>,
    /// Where the chain ends: file and byte.
    pub end: (JournalFile, u64),
}

/// What the journals have of one partition above its fold, and of what the fold waits for.
pub(super) struct Found {
    /// The index of the entry met first: what recovery takes for the first one that is still there.
    pub(super) first: Index,
    /// The entries, their bytes replaced by a digest.
    pub(super) sequence: Sequence,
    pub(super) placed: BTreeMap<(Index, Term), Placed>,
}

/// An entry, and where it lies.
pub(super) struct Placed {
    pub(super) path: String,
    pub(super) byte: u64,
    /// The frame in which its group ends.
    pub(super) sequence: u64,
    pub(super) journal: JournalId,
    pub(super) detail: Detail,
}

/// Shows every frame of a journal that `manifest` names, in order, to the end of the chain. Returns
/// what is damaged, if the chain does not end there.
pub fn entries<F: Files + ?Sized>(
    files: &F,
    manifest: &Manifest,
    id: JournalId,
    visit: &mut dyn FnMut(&WalkedFrame),
) -> Option<Finding> {
    let record = manifest.journals.iter().find(|record| record.id == id)?;
    let slots = slots(files, id);
    walk(files, manifest, record, &slots, visit).2
}

fn slots<F: Files + ?Sized>(files: &F, id: JournalId) -> Vec<u32> {
    let paths = files.paths();
    let slots = paths.iter().filter_map(|path| match names::parse(path) {
        names::Name::Journal(of, slot) if of == id => Some(slot),
        _ => None,
    });
    slots.collect()
}

fn walk<F: Files + ?Sized>(
    files: &F,
    manifest: &Manifest,
    record: &JournalRecord,
    slots: &[u32],
    visit: &mut dyn FnMut(&WalkedFrame),
) -> (Walked, (JournalFile, u64), Option<Finding>) {
    let bytes: BTreeMap<u32, &[u8]> = slots
        .iter()
        .filter_map(|&slot| Some((slot, files.bytes(&slot_path(record.id, slot))?)))
        .collect();
    let JournalRecord { id, first, clean_end, .. } = *record;
    let mut walker = Walker::new(id, first, manifest.run, clean_end, &bytes);
    let damage = loop {
        match walker.next_frame() {
            Ok(Some(frame)) => visit(&frame),
            Ok(None) => break None,
            Err(error) => break Some(finding(&error, walker.position(), id)),
        }
    };
    (walker.walked(), walker.position(), damage)
}

fn finding(error: &Error, (file, at): (JournalFile, u64), id: JournalId) -> Finding {
    let (path, byte) = match error {
        Error::Corrupt { path, byte, .. }
        | Error::Version { path, byte, .. }
        | Error::Kind { path, byte, .. }
        | Error::Io { path, byte, .. } => (path.clone(), *byte),
        _ => (slot_path(id, file.slot), at),
    };
    let what = match error {
        Error::Corrupt { file, what, .. } => format!("{what} (file {file} of the journal)"),
        _ => error.to_string(),
    };
    Finding { path, byte, what }
}

/// Is shown an entry, with the path and the byte where its group begins, and the frame in which it ends.
type Visit<'v> = dyn FnMut((&str, u64, u64), Entry) + 'v;

/// Walks over one journal that the manifest names and shows every entry.
pub(super) fn look_at<F: Files + ?Sized>(
    survey: &mut Survey<'_, F>,
    id: JournalId,
    visit: &mut Visit<'_>,
) {
    let Some(manifest) = survey.report.manifest.clone() else { return };
    let Some(record) = manifest.journals.iter().find(|record| record.id == id) else { return };
    let slots = slots(survey.files, id);
    for &slot in &slots {
        survey.open(&slot_path(id, slot));
    }
    if manifest.clean && record.clean_end.is_none() {
        let what = format!("the directory was closed, but journal {id} has no end");
        survey.find(crate::manifest::PATH, 0, what);
    }
    let mut kinds: BTreeMap<Kind, (u64, u64)> = BTreeMap::new();
    let mut live = Vec::new();
    let (walked, end, damage) = walk(survey.files, &manifest, record, &slots, &mut |frame| {
        let header = frame.header;
        let from = u64::from(header.byte);
        live.push((header.file.slot, from..from + u64::from(header.frame_bytes)));
        for group in &frame.groups {
            let path = slot_path(id, group.file.slot);
            for entry in &group.entries {
                let tally = kinds.entry(entry.kind).or_default();
                tally.0 += 1;
                tally.1 += entry.bytes.len() as u64;
                visit((&path, group.byte, group.sequence), entry.clone());
            }
        }
    });
    for (slot, bytes) in live {
        survey.live(&slot_path(id, slot), bytes);
    }
    if let Some(finding) = damage {
        survey.report.findings.push(finding);
    }
    if let Some(torn) = walked.torn {
        let what = format!(
            "torn tail: the journal ends here, {} later frames were never acknowledged{}",
            torn.frames_discarded,
            if torn.group_discarded { ", nor was the group that began before" } else { "" }
        );
        survey.note(&slot_path(id, torn.file.slot), torn.byte, what);
    }
    let facts = JournalFacts { record: *record, slots, walked, kinds, end };
    survey.report.journals.push(facts);
}

/// Walks over all journals and keeps what has to be applied to the folds.
pub(super) fn look<F: Files + ?Sized>(
    survey: &mut Survey<'_, F>,
    folds: &BTreeMap<PartitionId, Fold>,
) -> BTreeMap<PartitionId, Found> {
    let mut all: BTreeMap<PartitionId, Found> = BTreeMap::new();
    let mut wrong: Vec<Finding> = Vec::new();
    for id in survey.journals() {
        look_at(survey, id, &mut |(path, byte, sequence), entry| {
            let mut find = |what: String| {
                wrong.push(Finding { path: path.to_owned(), byte, what });
            };
            let Some(fold) = folds.get(&entry.partition) else {
                return find(format!(
                    "an entry of partition {}, which does not exist",
                    entry.partition
                ));
            };
            let detail = match describe(&entry) {
                Ok(detail) => detail,
                Err(what) => {
                    let Entry { partition, index, .. } = entry;
                    return find(format!("entry {index} of partition {partition}: {what}"));
                }
            };
            let found = all.entry(entry.partition).or_insert_with(|| Found {
                first: entry.index,
                sequence: Sequence::new(entry.partition),
                placed: BTreeMap::new(),
            });
            if entry.index <= fold.facts.covers && !fold.facts.pending.contains(&entry.index) {
                return;
            }
            let place = (entry.index, entry.term);
            match found.sequence.insert(digested(&entry)) {
                Ok(()) => {
                    let path = path.to_owned();
                    let placed = Placed { path, byte, sequence, journal: id, detail };
                    found.placed.entry(place).or_insert(placed);
                }
                Err(error) => find(error.to_string()),
            }
        });
    }
    survey.report.findings.append(&mut wrong);
    all
}

/// The entry without its bytes, which may be many; two with the same digest count as equal.
fn digested(entry: &Entry) -> Entry {
    let mut digest = entry.bytes.len().to_le_bytes().to_vec();
    digest.extend_from_slice(&crc32fast::hash(&entry.bytes).to_le_bytes());
    Entry { bytes: Bytes::from(digest), ..entry.clone() }
}
