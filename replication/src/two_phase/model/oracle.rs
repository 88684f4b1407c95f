//! What must hold of durable entries and of what readers are told.

use std::collections::{BTreeMap, BTreeSet};

use super::parts::{Bad, Entry, Item, Write, owner};
use crate::two_phase::{AttemptId, Decision, Origin, Source, SourceOffset};
use crate::types::{MicrobatchId, Offset, PartitionId, Run};

/// Everything ever decided, and what the records ask for.
#[derive(Debug, Default)]
pub(super) struct Oracle {
    pub(super) items: BTreeMap<Source, Vec<Item>>,
    /// Durable decisions; the first has id 1.
    pub(super) decisions: Vec<Decision>,
    pub(super) offsets: BTreeMap<Source, Offset>,
    dropped: BTreeSet<AttemptId>,
    /// When each id began, as told to participants by each run.
    began: BTreeMap<(MicrobatchId, Run), u64>,
}

impl Oracle {
    pub(super) fn decided(&self) -> MicrobatchId {
        MicrobatchId(self.decisions.len() as u64)
    }

    /// A decision has become durable. `prepares` are all durable prepares.
    pub(super) fn decision(
        &mut self,
        decision: &Decision,
        prepares: &BTreeMap<(AttemptId, PartitionId), BTreeSet<Write>>,
    ) -> Result<(), String> {
        let attempt = decision.attempt;
        if attempt.id != self.decided().next() {
            return Err(format!("{attempt} is decided after id {}", self.decided()));
        }
        if self.dropped.contains(&attempt) {
            return Err(format!("{attempt} is decided, but a participant had dropped it"));
        }
        let mut written = BTreeSet::new();
        for &partition in &decision.touched {
            let Some(writes) = prepares.get(&(attempt, partition)) else {
                return Err(format!("{attempt} is decided without a prepare on {partition}"));
            };
            written.extend(writes.iter().copied());
        }
        if let Some(id) = written.iter().filter_map(Write::work).find(|id| *id != attempt.id) {
            return Err(format!("{attempt} commits the work of {id}"));
        }
        written.retain(|write| write.work().is_none());
        let mut expected = BTreeSet::new();
        for SourceOffset { source, offset } in &decision.offsets {
            let before = self.offsets.insert(*source, *offset).unwrap_or_default();
            let items = self.items.get(source).map_or(&[][..], Vec::as_slice);
            for (item, number) in items.iter().zip(0..) {
                if (before.0..offset.0).contains(&number) {
                    let origin = Origin { source: *source, offset: Offset(number) };
                    expected.extend(item.writes(origin));
                }
            }
        }
        if written != expected {
            return Err(format!("{attempt} commits {written:?}, where {expected:?} was read"));
        }
        self.decisions.push(decision.clone());
        Ok(())
    }

    /// A participant gives up an attempt. Where it touched nothing, that changes nothing.
    pub(super) fn drop(&mut self, shard: usize, attempt: AttemptId) -> Result<(), String> {
        let decision = self.decisions.iter().find(|decision| decision.attempt == attempt);
        match decision {
            Some(decision) if decision.touched.iter().any(|&p| owner(p) == shard) => {
                Err(format!("{attempt} is dropped on {shard}, but it is decided"))
            }
            Some(_) => Ok(()),
            None => {
                self.dropped.insert(attempt);
                Ok(())
            }
        }
    }

    /// A participant writes commits.
    pub(super) fn commit(
        &self,
        attempt: AttemptId,
        partitions: &[PartitionId],
    ) -> Result<(), String> {
        let decision = self.decisions.iter().find(|decision| decision.attempt == attempt);
        let Some(decision) = decision else {
            return Err(format!("{attempt} is committed, but not decided durably"));
        };
        match partitions.iter().find(|partition| !decision.touched.contains(partition)) {
            Some(partition) => Err(format!("{attempt} commits on {partition}, not touched")),
            None => Ok(()),
        }
    }

    /// Commits are about to be written to this journal: on a partition, ids follow each other.
    pub(super) fn order(
        &self,
        attempt: AttemptId,
        partitions: &[PartitionId],
        journal: &[Entry],
    ) -> Result<(), String> {
        let committed = committed(journal);
        for lower in self.decisions.iter().filter(|lower| lower.attempt.id < attempt.id) {
            for partition in partitions.iter().filter(|at| lower.touched.contains(at)) {
                if !committed.contains(&(lower.attempt, *partition)) {
                    return Err(format!("{attempt} overtakes {} on {partition}", lower.attempt));
                }
            }
        }
        Ok(())
    }

    /// An attempt starts: an id began when it first began, on every shard and in every attempt.
    pub(super) fn began(&mut self, attempt: AttemptId, began_us: u64) -> Result<(), String> {
        let told = *self.began.entry((attempt.id, attempt.run)).or_insert(began_us);
        if told == began_us {
            Ok(())
        } else {
            Err(format!("{attempt} began at {began_us}, but earlier at {told}"))
        }
    }

    /// An attempt starts on a shard with this journal.
    pub(super) fn start(
        &self,
        shard: usize,
        attempt: AttemptId,
        below: Option<AttemptId>,
        journal: &[Entry],
    ) -> Result<(), String> {
        if below.is_some_and(|below| below.id.next() != attempt.id) {
            return Err(format!("{attempt} starts on top of {below:?}"));
        }
        if attempt.id > self.decided().next() && below.is_none() {
            return Err(format!("{attempt} starts on a shard that does not hold the id below"));
        }
        let committed = committed(journal);
        for decision in &self.decisions {
            let lower = decision.attempt.id < attempt.id && below != Some(decision.attempt);
            for &partition in &decision.touched {
                let is_there = committed.contains(&(decision.attempt, partition));
                if lower && owner(partition) == shard && !is_there {
                    return Err(format!("{attempt} starts before {} is applied", decision.attempt));
                }
            }
        }
        Ok(())
    }

    /// Readers are told; `durable` are the durable parts of all journals.
    pub(super) fn visible(&self, id: MicrobatchId, durable: &[&[Entry]]) -> Result<(), String> {
        if id > self.decided() {
            return Err(format!("{id} is visible, but not decided"));
        }
        let committed: BTreeSet<_> = durable.iter().flat_map(|part| committed(part)).collect();
        for decision in self.decisions.iter().filter(|decision| decision.attempt.id <= id) {
            for &partition in &decision.touched {
                if !committed.contains(&(decision.attempt, partition)) {
                    return Err(format!("{id} is visible, but not applied on {partition}"));
                }
            }
        }
        Ok(())
    }
}

fn committed(journal: &[Entry]) -> BTreeSet<(AttemptId, PartitionId)> {
    let flat = journal.iter().flat_map(Entry::parts);
    flat.filter_map(|entry| match entry {
        Entry::Committed { attempt, partition } => Some((*attempt, *partition)),
        Entry::Prepare { .. } | Entry::Aborted { .. } | Entry::Record(_) | Entry::Group(_) => None,
    })
    .collect()
}

impl Item {
    /// What must be in the state, once, when this record has been read.
    fn writes(&self, origin: Origin) -> Vec<Write> {
        match self.bad {
            Bad::Named(_) | Bad::Nameless(_) => vec![Write { origin, hop: 0, dead: true }],
            Bad::Never | Bad::Flaky(_) => {
                let hops = 0..self.path.len();
                hops.map(|hop| Write { origin, hop, dead: false }).collect()
            }
        }
    }
}
