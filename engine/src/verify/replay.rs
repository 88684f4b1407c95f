//! What the journals' entries say, and whether they continue the folds: recovery's replay, without
//! state but for what entries say about each other.

use std::collections::BTreeMap;
use std::ops::Range;

use tidemill_replication::two_phase::{AttemptId, Record};

use super::journals::{Found, Placed};
use super::partitions::{Coordinated, DepotFacts, Fold, pages_path};
use super::{Files, Survey};
use crate::depot::batch::{Decoded, Extent, Head};
use crate::depot::check_extent;
use crate::journal::{Entry, Kind, SequenceError};
use crate::pstate::Run;
use crate::shard::entry::{self, Committed, Prepare, Transaction};
use crate::types::{DepotId, Index, MicrobatchId, Offset, PartitionId, TopologyId, WallTime};

/// What an entry says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Detail {
    /// Records of a depot.
    Append {
        /// Whose.
        depot: DepotId,
        /// Their offsets.
        offsets: Range<Offset>,
        /// When they were appended.
        append_time: WallTime,
        /// Their bytes.
        bytes: u32,
    },
    /// Records of a depot that lie in its segment.
    Bulk {
        /// Their offsets, and more.
        head: Head,
        /// Where they lie.
        extent: Extent,
    },
    /// What an attempt wrote.
    Prepare {
        /// Of which topology.
        topology: TopologyId,
        /// Which attempt.
        attempt: AttemptId,
        /// How many keys and ranges it writes.
        writes: u64,
        /// How many records it appends to each depot.
        appends: Vec<(DepotId, u64)>,
    },
    /// An attempt takes effect.
    Committed {
        /// Of which topology.
        topology: TopologyId,
        /// Which attempt.
        attempt: AttemptId,
    },
    /// An attempt is dropped.
    Aborted {
        /// Of which topology.
        topology: TopologyId,
        /// Which attempt.
        attempt: AttemptId,
    },
    /// A record of a topology's coordinator.
    Coordinator {
        /// Which topology.
        topology: TopologyId,
        /// The record.
        record: Record,
    },
}

/// Decodes all of an entry.
///
/// # Errors
/// A sentence that says what is wrong with it.
pub fn describe(entry: &Entry) -> Result<Detail, String> {
    let text = |error: &dyn std::fmt::Display| error.to_string();
    let bytes = &entry.bytes;
    match entry.kind {
        Kind::Append | Kind::AppendBulk => {
            let decoded = Decoded::read(bytes).map_err(|error| text(&error))?;
            match (entry.kind, decoded) {
                (Kind::Append, Decoded::Append(head, _)) => Ok(Detail::Append {
                    depot: head.depot,
                    append_time: head.append_time,
                    bytes: head.body_bytes,
                    offsets: head.offsets,
                }),
                (Kind::AppendBulk, Decoded::Bulk(head, extent)) => {
                    Ok(Detail::Bulk { head, extent })
                }
                _ => Err("its records lie elsewhere than its kind says".to_owned()),
            }
        }
        Kind::Prepare => {
            let prepare = Prepare::decode(bytes).map_err(|error| text(&error))?;
            let run = Run::decode(prepare.writes).map_err(|error| text(&error))?;
            let Transaction { topology, attempt } = prepare.transaction;
            let appends = prepare.appends.depots.iter();
            Ok(Detail::Prepare {
                topology,
                attempt,
                writes: run.iter().count() as u64,
                appends: appends.map(|(depot, it)| (*depot, it.len() as u64)).collect(),
            })
        }
        Kind::Committed => {
            let committed = Committed::decode(bytes).map_err(|error| text(&error))?;
            let Transaction { topology, attempt } = committed.transaction;
            Ok(Detail::Committed { topology, attempt })
        }
        Kind::Aborted => {
            let transaction = Transaction::decode(bytes).map_err(|error| text(&error))?;
            let Transaction { topology, attempt } = transaction;
            Ok(Detail::Aborted { topology, attempt })
        }
        Kind::Begin | Kind::Decision | Kind::AllApplied => {
            let coordinated = entry::Coordinated::decode(bytes).map_err(|error| text(&error))?;
            let record = Record::decode(coordinated.record).map_err(|error| text(&error))?;
            let kind = match record {
                Record::Begin(_) => Kind::Begin,
                Record::Decision(_) => Kind::Decision,
                Record::AllApplied(_) => Kind::AllApplied,
            };
            if kind != entry.kind {
                return Err(format!("it holds a {kind:?} and says {:?}", entry.kind));
            }
            Ok(Detail::Coordinator { topology: coordinated.topology, record })
        }
        Kind::HardState | Kind::Catalogue => {
            Err(format!("{:?} belongs to a replicated directory", entry.kind))
        }
    }
}

/// Where a partition stands after recovery.
#[derive(Default)]
pub(super) struct State {
    pub(super) committed: BTreeMap<TopologyId, MicrobatchId>,
    /// Attempts without an outcome.
    pub(super) prepared: BTreeMap<(TopologyId, AttemptId), Vec<(DepotId, u64)>>,
    pub(super) coordinated: BTreeMap<TopologyId, Coordinated>,
    pub(super) logs: BTreeMap<DepotId, Log>,
}

/// A depot log, as far as offsets go.
#[derive(Default)]
pub(super) struct Log {
    pub(super) end: Offset,
    /// The last commit whose records lie below the fold's end.
    placed: Index,
    /// Where a torn extent cut it: the offset, and the file and byte of the damage.
    cut: Option<(Offset, String, u64)>,
}

/// Applies what the journals have to every fold that is sound, and completes the facts.
pub(super) fn look<F: Files + ?Sized>(
    survey: &mut Survey<'_, F>,
    folds: BTreeMap<PartitionId, Fold>,
    mut sequences: BTreeMap<PartitionId, Found>,
) -> BTreeMap<PartitionId, State> {
    // Behind damage in a journal entries are missing, and that is no further finding.
    let journals_sound = survey.report.manifest.is_some() && survey.report.is_sound();
    let mut states = BTreeMap::new();
    for (partition, mut fold) in folds {
        let found = sequences.remove(&partition);
        root(survey, partition, &mut fold, found.as_ref());
        let mut state = State {
            committed: fold.facts.committed.clone(),
            coordinated: std::mem::take(&mut fold.coordinated),
            ..State::default()
        };
        for (&depot, recorded) in &fold.depots {
            let log = Log { end: recorded.end, placed: recorded.placed, cut: None };
            state.logs.insert(depot, log);
        }
        if journals_sound && fold.sound {
            replay(survey, partition, &mut fold, &mut state, found);
        }
        fold.facts.committed.clone_from(&state.committed);
        fold.facts.in_doubt = state.prepared.keys().copied().collect();
        for (&depot, log) in &state.logs {
            fold.facts.depots.entry(depot).or_insert_with(DepotFacts::default).end = log.end;
        }
        survey.report.partitions.insert(partition, fold.facts);
        states.insert(partition, state);
    }
    states
}

/// A root slot that cannot be read is what a crash leaves if the journal reaches back to the other one.
fn root<F: Files + ?Sized>(
    survey: &mut Survey<'_, F>,
    partition: PartitionId,
    fold: &mut Fold,
    found: Option<&Found>,
) {
    let Some(damaged) = fold.root_damaged.take() else { return };
    let path = pages_path(partition);
    let reaches = found.is_some_and(|found| found.first <= fold.facts.covers.next());
    if reaches || !survey.has_begun() {
        let what = format!("{}; the journal has everything above the other root", damaged.what);
        survey.note(&path, damaged.byte, what);
    } else {
        fold.sound = false;
        survey.find(&path, damaged.byte, damaged.what);
    }
}

fn replay<F: Files + ?Sized>(
    survey: &mut Survey<'_, F>,
    partition: PartitionId,
    fold: &mut Fold,
    state: &mut State,
    found: Option<Found>,
) {
    let (sequence, mut placed) = match found {
        Some(found) => (found.sequence, found.placed),
        None => (crate::journal::Sequence::new(partition), BTreeMap::new()),
    };
    let entries = match sequence.above(fold.facts.covers, &fold.facts.pending) {
        Ok(entries) => entries,
        Err(error) => {
            let SequenceError::Gap { index, .. } = error else { return };
            // The first entry behind the gap shows that there must be more before it.
            let behind = placed.range((index, crate::types::Term(0))..).next();
            let pages = (pages_path(partition), 0);
            let (path, byte) = behind.map_or(pages, |(_, it)| (it.path.clone(), it.byte));
            return survey.find(&path, byte, format!("no journal has it: {error}"));
        }
    };
    fold.facts.entries = entries.len() as u64;
    for entry in entries {
        let Some(found) = placed.remove(&(entry.index, entry.term)) else { continue };
        let Placed { path, byte, sequence, journal, detail } = found;
        let mut journals = survey.report.journals.iter();
        let journal = journals.find(|it| it.record.id == journal);
        let proved = journal.is_some_and(|it| sequence < it.walked.proved_below);
        let place = (path.as_str(), byte, proved);
        if let Err(what) = state.apply(survey, partition, entry.index, detail, place) {
            let what = format!("entry {} of partition {partition}: {what}", entry.index);
            return survey.find(&path, byte, what);
        }
    }
}

impl State {
    fn apply<F: Files + ?Sized>(
        &mut self,
        survey: &mut Survey<'_, F>,
        partition: PartitionId,
        index: Index,
        detail: Detail,
        place: (&str, u64, bool),
    ) -> Result<(), String> {
        match detail {
            Detail::Append { depot, offsets, .. } => {
                known(survey, depot)?;
                let log = self.logs.entry(depot).or_default();
                if log.cut.is_none() && log.continues(&offsets)? {
                    log.end = offsets.end;
                }
            }
            Detail::Bulk { head, extent } => {
                known(survey, head.depot)?;
                let log = self.logs.entry(head.depot).or_default();
                log.bulk(survey, partition, &head, &extent, place)?;
            }
            Detail::Prepare { topology, attempt, appends, .. } => {
                for (depot, _) in &appends {
                    known(survey, *depot)?;
                }
                self.prepared.insert((topology, attempt), appends);
            }
            Detail::Committed { topology, attempt } => self.commit(topology, attempt, index)?,
            Detail::Aborted { topology, attempt } => {
                self.prepared.remove(&(topology, attempt));
            }
            Detail::Coordinator { topology, record } => {
                let coordinated = self.coordinated.entry(topology).or_default();
                coordinated.row.add(&record).map_err(|error| error.to_string())?;
                if let Record::Begin(begin) = record {
                    coordinated.begins.push(begin);
                }
                let decided = coordinated.row.decided;
                coordinated.begins.retain(|begin| begin.attempt.id > decided);
            }
        }
        Ok(())
    }

    fn commit(
        &mut self,
        topology: TopologyId,
        attempt: AttemptId,
        index: Index,
    ) -> Result<(), String> {
        let committed = self.committed.entry(topology).or_default();
        let Some(appends) = self.prepared.remove(&(topology, attempt)) else {
            // The fold contains it, or nothing does.
            return if attempt.id <= *committed {
                Ok(())
            } else {
                Err(format!("microbatch {attempt} of topology {topology} was never prepared here"))
            };
        };
        for (depot, count) in appends {
            let log = self.logs.entry(depot).or_default();
            if log.placed < index && log.cut.is_none() {
                log.end = log.end.advance(count);
                log.placed = index;
            }
        }
        *committed = attempt.id.max(*committed);
        // Older attempts of the same or a lower id can never commit now.
        self.prepared.retain(|(of, other), _| *of != topology || other.id > attempt.id);
        Ok(())
    }
}

fn known<F: Files + ?Sized>(survey: &Survey<'_, F>, depot: DepotId) -> Result<(), String> {
    if survey.knows_depot(depot) {
        Ok(())
    } else {
        Err(format!("depot {depot} is not in the catalogue"))
    }
}

impl Log {
    /// Whether records with these offsets are the next ones; false if they are there already.
    fn continues(&self, offsets: &Range<Offset>) -> Result<bool, String> {
        if offsets.end <= self.end {
            return Ok(false);
        }
        if offsets.start == self.end {
            return Ok(true);
        }
        let (start, end) = (offsets.start, self.end);
        Err(format!("it brings offset {start} where {end} is due"))
    }

    fn bulk<F: Files + ?Sized>(
        &mut self,
        survey: &mut Survey<'_, F>,
        partition: PartitionId,
        head: &Head,
        extent: &Extent,
        (path, byte, proved): (&str, u64, bool),
    ) -> Result<(), String> {
        if let Some((offset, file, at)) = &self.cut {
            if head.proof.is_some_and(|proof| proof > *offset) {
                let what = "an extent is damaged that was durable when later entries were written";
                survey.find(file, *at, what);
            }
            return Ok(());
        }
        if !self.continues(&head.offsets)? {
            return Ok(());
        }
        let file = format!("p/{partition}/d{}-{}", head.depot, extent.base);
        let bytes = survey.open(&file).unwrap_or_default();
        match check_extent(bytes, partition, head, extent) {
            Ok(()) => {
                self.end = head.offsets.end;
                survey.live(&file, extent.at..extent.at.saturating_add(extent.bytes));
            }
            Err(damage) if proved => {
                let what = format!(
                    "{}: a bulk append that was durable when later frames were written; its entry is at \
                     byte {byte} of {path}",
                    damage.what
                );
                survey.find(&file, damage.byte, what);
                self.cut = Some((head.offsets.start, file, damage.byte));
            }
            Err(damage) => {
                let what = format!(
                    "torn bulk append: {}; its entry is at byte {byte} of {path}",
                    damage.what
                );
                survey.find_if_clean(&file, damage.byte, what);
                self.cut = Some((head.offsets.start, file, damage.byte));
            }
        }
        Ok(())
    }
}
