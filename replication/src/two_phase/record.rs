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
    #[error("decision of microbatch {id} moves depot {} partition {} back to offset {to}", from.depot, from.partition)]
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
