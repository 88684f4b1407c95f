//! The partitions as their last folds left them: page files, the engine's own rows in them, and the
//! segments that these name.

use std::collections::BTreeMap;

use tidemill_replication::two_phase::{AttemptId, Begin, Row};

use super::{Files, Survey};
use crate::depot::{self, Found, SegmentState, State};
use crate::pstate::{self, TreeInfo, Verified};
use crate::shard::partition::{SYSTEM, SystemKey, decode_begins};
use crate::types::{DepotId, Index, MicrobatchId, Offset, PStateId, PartitionId, TopologyId};

/// What one partition holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PartitionFacts {
    /// The number of its newest fold; 0 if there is none.
    pub fold: u64,
    /// What that covers.
    pub covers: Index,
    /// Prepares at or below, whose outcome it does not contain.
    pub pending: Vec<Index>,
    /// Its trees.
    pub trees: Vec<TreeInfo>,
    /// Pages of each.
    pub pages: BTreeMap<PStateId, u64>,
    /// Pages of the file that are in use.
    pub pages_live: u64,
    /// Its depots.
    pub depots: BTreeMap<DepotId, DepotFacts>,
    /// Entries of the journals that recovery applies to the fold.
    pub entries: u64,
    /// The last microbatch of each topology that was committed here.
    pub committed: BTreeMap<TopologyId, MicrobatchId>,
    /// Prepared attempts without an outcome here.
    pub in_doubt: Vec<(TopologyId, AttemptId)>,
}

/// What one depot holds in one partition.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DepotFacts {
    /// The first record that is kept.
    pub first: Offset,
    /// Records below are in the segments.
    pub recorded: Offset,
    /// Records below are there, in the segments or in the journal.
    pub end: Offset,
    /// Its files, in order.
    pub segments: Vec<SegmentFacts>,
}

/// What one segment file holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentFacts {
    /// Its path.
    pub path: String,
    /// What the fold recorded of it.
    pub state: SegmentState,
    /// Blocks found in order.
    pub blocks: u64,
    /// Records in them.
    pub records: u64,
    /// Where bytes begin that the fold did not record.
    pub unproved_from: Option<u64>,
}

/// A partition's fold, with what only verification needs of it.
#[derive(Default)]
pub(super) struct Fold {
    pub(super) facts: PartitionFacts,
    /// Whether its files are sound.
    pub(super) sound: bool,
    /// A root slot that cannot be read, which is damage unless the journal makes up for it.
    pub(super) root_damaged: Option<pstate::Finding>,
    pub(super) depots: BTreeMap<DepotId, State>,
    pub(super) coordinated: BTreeMap<TopologyId, Coordinated>,
}

/// What a topology's coordinator has made durable.
#[derive(Clone, Debug, Default)]
pub(super) struct Coordinated {
    pub(super) row: Row,
    pub(super) begins: Vec<Begin>,
}

/// The path of a partition's page file.
pub(super) fn pages_path(partition: PartitionId) -> String {
    format!("p/{partition}/pages")
}

/// Checks the files of every partition.
pub(super) fn look<F: Files + ?Sized>(survey: &mut Survey<'_, F>) -> BTreeMap<PartitionId, Fold> {
    let partitions = survey.partitions();
    partitions.into_iter().map(|partition| (partition, fold(survey, partition))).collect()
}

fn fold<F: Files + ?Sized>(survey: &mut Survey<'_, F>, partition: PartitionId) -> Fold {
    let before = survey.report.findings.len();
    let mut rows = Vec::new();
    let verified = pages(survey, partition, &mut |row| {
        if row.pstate == SYSTEM {
            rows.push((row.key.to_vec(), row.value.concat()));
        }
    });
    let path = pages_path(partition);
    let mut fold = Fold::default();
    let Some(verified) = verified else {
        if survey.has_begun() {
            survey.find(&path, 0, "the file is missing");
        }
        fold.sound = survey.report.findings.len() == before;
        return fold;
    };
    for (key, value) in rows {
        if let Err(what) = fold.row(&key, &value) {
            survey.find(&path, 0, format!("the engine's own row {key:02x?}: {what}"));
        }
    }
    fold.root_damaged = verified.root_damaged;
    fold.facts.fold = verified.fold;
    fold.facts.covers = verified.covers;
    fold.facts.pending = verified.pending;
    fold.facts.trees = verified.trees;
    fold.facts.pages = verified.pages;
    fold.facts.pages_live = verified.pages_live;
    for (&depot, state) in &fold.depots {
        if !survey.knows_depot(depot) {
            survey.find(&path, 0, format!("depot {depot} is not in the catalogue"));
        }
        let segments: Vec<_> =
            state.segments.iter().map(|it| segment(survey, partition, depot, it)).collect();
        let facts =
            DepotFacts { first: state.first, recorded: state.end, end: state.end, segments };
        fold.facts.depots.insert(depot, facts);
    }
    fold.sound = survey.report.findings.len() == before;
    fold
}

impl Fold {
    fn row(&mut self, key: &[u8], value: &[u8]) -> Result<(), String> {
        match SystemKey::decode(key).ok_or("an unknown key")? {
            SystemKey::Depot(depot) => {
                let state = State::decode(value).map_err(|error| error.to_string())?;
                self.depots.insert(depot, state);
            }
            SystemKey::Committed(topology) => {
                let id = value.try_into().map_err(|_| "not 8 bytes")?;
                self.facts.committed.insert(topology, MicrobatchId(u64::from_le_bytes(id)));
            }
            SystemKey::Row(topology) => {
                let row = Row::decode(value).map_err(|error| error.to_string())?;
                self.coordinated.entry(topology).or_default().row = row;
            }
            SystemKey::Begins(topology) => {
                self.coordinated.entry(topology).or_default().begins = decode_begins(value)?;
            }
            SystemKey::DeadLetter if value.is_empty() => {}
            SystemKey::DeadLetter => return Err("it has a value".to_owned()),
        }
        Ok(())
    }
}

/// Checks a page file. A root slot that cannot be read is left to the caller, unless the directory was
/// closed cleanly.
pub(super) fn pages<F: Files + ?Sized>(
    survey: &mut Survey<'_, F>,
    partition: PartitionId,
    visit: &mut dyn FnMut(pstate::Row<'_>),
) -> Option<Verified> {
    let path = pages_path(partition);
    let bytes = survey.open(&path)?;
    let mut verified = pstate::verify_rows(bytes, Some(partition), visit);
    if survey.is_clean() {
        verified.root_damaged = None;
    }
    for finding in &verified.findings {
        if verified.root_damaged.as_ref() != Some(finding) {
            survey.find(&path, finding.byte, finding.what);
        }
    }
    // Before shards begin to work, every partition gets a root.
    if verified.fold == 0 && verified.findings.is_empty() && survey.has_begun() {
        survey.find(&path, 0, "there is no root in the file");
    }
    let mut from = 0;
    let end = bytes.len() as u64;
    for unused in verified.unused.iter().chain([&(end..end)]) {
        survey.live(&path, from..unused.start);
        from = unused.end;
    }
    Some(verified)
}

/// Checks a segment against what the fold recorded of it.
pub(super) fn segment<F: Files + ?Sized>(
    survey: &mut Survey<'_, F>,
    partition: PartitionId,
    depot: DepotId,
    state: &SegmentState,
) -> SegmentFacts {
    let path = format!("p/{partition}/d{depot}-{}", state.base);
    let mut facts = SegmentFacts {
        path: path.clone(),
        state: *state,
        blocks: 0,
        records: 0,
        unproved_from: None,
    };
    let Some(bytes) = survey.open(&path) else {
        survey.find(&path, 0, "the file is missing, though the fold recorded it");
        return facts;
    };
    let report = depot::inspect(bytes, Some(state), &mut |_| {});
    (facts.blocks, facts.records) = (report.blocks, report.records);
    facts.unproved_from = report.unproved_from;
    survey.live(&path, 0..state.bytes);
    if let Some(damage) = report.damage {
        survey.find(&path, damage.byte, damage.what);
    } else if report.identity.is_some_and(|it| (it.partition, it.depot) != (partition, depot)) {
        survey.find(&path, 0, "the file belongs to another depot or partition");
    }
    if let Some(at) = report.torn_at.filter(|_| !survey.is_clean()) {
        let what =
            "torn tail of a segment: the journal has its records, and recovery writes over it";
        survey.note(&path, at, what);
    }
    facts
}

/// Shows every record of a depot in one partition that the segments hold, as far as they are intact.
pub fn records<F: Files + ?Sized>(
    files: &F,
    facts: &DepotFacts,
    visit: &mut dyn FnMut(depot::Record<'_>),
) {
    for segment in &facts.segments {
        let Some(bytes) = files.bytes(&segment.path) else { return };
        let report = depot::inspect(bytes, Some(&segment.state), &mut |found| {
            if let Found::Block { records, .. } = found {
                for record in records.iter().filter(|record| record.offset >= facts.first) {
                    visit(record);
                }
            }
        });
        if report.damage.is_some() {
            return;
        }
    }
}
