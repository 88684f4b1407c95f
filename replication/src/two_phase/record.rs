//! What a coordinator keeps: payloads of journal entries and of its row in the partition's tree.
//!
//! The bytes are flatbuffers, versioned and verified before use; see [`crate::wire`].

use std::collections::BTreeMap;

use super::{AttemptId, Exclusion, Source, SourceOffset, SourceRange};
use crate::types::{MicrobatchId, Offset, PartitionId};
use crate::wire;

/// What a retry must read again. Of several for one id, the last one written counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Begin {
    /// The attempt that began with it; later attempts with the same content write none.
    pub attempt: AttemptId,
    /// Sorted by source, none empty.
    pub ranges: Vec<SourceRange>,
    /// Sorted by origin.
    pub exclusions: Vec<Exclusion>,
    /// When the microbatch first began: microseconds of wall-clock time, the same for every attempt
    /// and on every shard, so that what user code makes of it is the same in a retry.
    pub began_us: u64,
}

/// The instant of commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// The attempt that counts.
    pub attempt: AttemptId,
    /// Where the sources that were read stand afterwards; others stay. Sorted by source.
    pub offsets: Vec<SourceOffset>,
    /// Partitions that hold its prepare. Sorted.
    pub touched: Vec<PartitionId>,
    /// All participants had applied the ids up to this one by then: their decisions can be
    /// forgotten.
    pub visible: MicrobatchId,
}

/// Every participant has applied this id and those below it: the decision can be forgotten.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AllApplied {
    /// The id.
    pub id: MicrobatchId,
}

/// One journal entry of a coordinator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    /// See [`Begin`].
    Begin(Begin),
    /// See [`Decision`].
    Decision(Decision),
    /// See [`AllApplied`].
    AllApplied(AllApplied),
}

impl Record {
    /// The bytes of a journal entry.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        wire::encode_record(self)
    }

    /// Reads the bytes of a journal entry.
    ///
    /// # Errors
    /// When the bytes are damaged, too large, or of a version that this build does not know.
    pub fn decode(bytes: &[u8]) -> Result<Self, wire::Error> {
        wire::decode_record(bytes)
    }
}

/// All that a coordinator must know when it starts again: the sum of its decisions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Row {
    /// The last id decided; 0 before the first.
    pub decided: MicrobatchId,
    /// Where each source stands after `decided`; 0 where missing.
    pub offsets: BTreeMap<Source, Offset>,
    /// Decisions that are perhaps not applied everywhere, with ascending ids up to `decided`.
    /// Their `offsets` are empty: they are contained in the row's.
    pub unapplied: Vec<Decision>,
}

/// A record that does not continue a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RowError {
    /// Decisions are dense.
    #[error("decision of microbatch {found} follows {decided}")]
    Gap {
        /// The last id decided.
        decided: MicrobatchId,
        /// The id of the decision that was added.
        found: MicrobatchId,
    },
    /// Offsets never go back.
    #[error(
        "decision of microbatch {id} moves depot {} partition {} back to offset {to}",
        from.depot, from.partition
    )]
    Backwards {
        /// The decision.
        id: MicrobatchId,
        /// The source.
        from: Source,
        /// Its offset in the decision.
        to: Offset,
    },
    /// Only what is decided can be applied.
    #[error("microbatch {id} is applied, but {decided} is the last one decided")]
    AppliedBeforeDecided {
        /// The last id decided.
        decided: MicrobatchId,
        /// The id of the record that was added.
        id: MicrobatchId,
    },
}

impl Row {
    /// Adds a record, in the order in which records were written. A `Begin`, and a record that the
    /// row already contains, change nothing.
    ///
    /// # Errors
    /// When the record cannot follow; the row is unchanged.
    pub fn add(&mut self, record: &Record) -> Result<(), RowError> {
        match record {
            Record::Begin(_) => Ok(()),
            Record::Decision(decision) => self.add_decision(decision),
            Record::AllApplied(applied) => self.add_all_applied(applied.id),
        }
    }

    fn add_decision(&mut self, decision: &Decision) -> Result<(), RowError> {
        let id = decision.attempt.id;
        if id <= self.decided {
            return Ok(());
        }
        if id != self.decided.next() {
            return Err(RowError::Gap { decided: self.decided, found: id });
        }
        for moved in &decision.offsets {
            let stood = self.offsets.get(&moved.source).copied().unwrap_or_default();
            if moved.offset < stood {
                return Err(RowError::Backwards { id, from: moved.source, to: moved.offset });
            }
        }
        self.decided = id;
        self.offsets.extend(decision.offsets.iter().map(|moved| (moved.source, moved.offset)));
        self.unapplied.retain(|lower| lower.attempt.id > decision.visible);
        self.unapplied.push(Decision { offsets: Vec::new(), ..decision.clone() });
        Ok(())
    }

    fn add_all_applied(&mut self, id: MicrobatchId) -> Result<(), RowError> {
        if id > self.decided {
            return Err(RowError::AppliedBeforeDecided { decided: self.decided, id });
        }
        self.unapplied.retain(|decision| decision.attempt.id > id);
        Ok(())
    }

    /// The bytes of the row.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        wire::encode_row(self)
    }

    /// Reads the bytes of a row.
    ///
    /// # Errors
    /// When the bytes are damaged, too large, or of a version that this build does not know.
    pub fn decode(bytes: &[u8]) -> Result<Self, wire::Error> {
        wire::decode_row(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{Attempt, DepotId, Run};

    fn source(partition: u32) -> Source {
        Source { depot: DepotId(1), partition: PartitionId(partition) }
    }

    fn decision(id: u64, visible: u64, offsets: &[(u32, u64)]) -> Record {
        let offsets = offsets.iter().map(|&(partition, offset)| SourceOffset {
            source: source(partition),
            offset: Offset(offset),
        });
        Record::Decision(Decision {
            attempt: AttemptId { id: MicrobatchId(id), run: Run(1), attempt: Attempt(1) },
            offsets: offsets.collect(),
            touched: vec![],
            visible: MicrobatchId(visible),
        })
    }

    fn unapplied(row: &Row) -> Vec<u64> {
        row.unapplied.iter().map(|decision| decision.attempt.id.0).collect()
    }

    #[test]
    fn a_row_is_the_sum_of_its_records() {
        let mut row = Row::default();
        row.add(&decision(1, 0, &[(0, 3), (1, 2)])).unwrap();
        row.add(&decision(2, 0, &[(1, 5)])).unwrap();
        assert_eq!(unapplied(&row), [1, 2]);
        row.add(&decision(3, 1, &[(0, 3)])).unwrap();
        assert_eq!(unapplied(&row), [2, 3], "the decision says that 1 is applied");
        row.add(&Record::AllApplied(AllApplied { id: MicrobatchId(2) })).unwrap();
        assert_eq!(unapplied(&row), [3]);
        assert_eq!(row.decided, MicrobatchId(3));
        let offsets: Vec<_> = row.offsets.iter().map(|(s, o)| (s.partition.0, o.0)).collect();
        assert_eq!(offsets, [(0, 3), (1, 5)]);
    }

    #[test]
    fn what_a_row_contains_already_changes_nothing() {
        let mut row = Row::default();
        let records = [decision(1, 0, &[(0, 3)]), decision(2, 1, &[(0, 4)])];
        for record in &records {
            row.add(record).unwrap();
        }
        let before = row.clone();
        for record in &records {
            row.add(record).unwrap();
        }
        assert_eq!(row, before);
    }

    #[test]
    fn what_does_not_follow_is_refused_and_leaves_the_row_alone() {
        let mut row = Row::default();
        row.add(&decision(1, 0, &[(0, 3)])).unwrap();
        let before = row.clone();
        let (decided, found) = (MicrobatchId(1), MicrobatchId(3));
        assert_eq!(row.add(&decision(3, 0, &[])), Err(RowError::Gap { decided, found }));
        let backwards = RowError::Backwards { id: MicrobatchId(2), from: source(0), to: Offset(2) };
        assert_eq!(row.add(&decision(2, 0, &[(1, 9), (0, 2)])), Err(backwards));
        let id = MicrobatchId(2);
        assert_eq!(
            row.add(&Record::AllApplied(AllApplied { id })),
            Err(RowError::AppliedBeforeDecided { decided, id })
        );
        assert_eq!(row, before);
    }
}
