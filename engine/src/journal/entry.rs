//! What the journal holds: entries of partitions, appended in atomic groups.

use bytes::Bytes;

use crate::types::{Index, PartitionId, Term};

/// What an entry does when it is applied; see the table in `ARCHITECTURE.md`. The numbers are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Kind {
    /// Records of a depot, inline.
    Append = 1,
    /// Records of a depot whose bytes lie in the segment.
    AppendBulk = 2,
    /// The writes of one attempt of a microbatch; no effect until `Committed`.
    Prepare = 3,
    /// A prepare takes effect here.
    Committed = 4,
    /// A prepare is dropped.
    Aborted = 5,
    /// A microbatch's ranges, which a retry must read again.
    Begin = 6,
    /// The instant of commit of a microbatch.
    Decision = 7,
    /// A decision can be forgotten.
    AllApplied = 8,
    /// Term, vote and commit of a replicated partition.
    HardState = 9,
    /// A change of the catalogue.
    Catalogue = 10,
}

impl Kind {
    /// Every kind, in the order of their numbers.
    pub const ALL: [Self; 10] = [
        Self::Append,
        Self::AppendBulk,
        Self::Prepare,
        Self::Committed,
        Self::Aborted,
        Self::Begin,
        Self::Decision,
        Self::AllApplied,
        Self::HardState,
        Self::Catalogue,
    ];

    /// The kind with this stored number, if there is one.
    #[must_use]
    pub fn from_stored(number: u8) -> Option<Self> {
        Self::ALL.get(usize::from(number).checked_sub(1)?).copied()
    }
}

/// One item to append.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EntryRef<'a> {
    /// Whose sequence it belongs to.
    pub partition: PartitionId,
    /// Who led the partition when it was proposed.
    pub term: Term,
    /// Its position in the partition's sequence.
    pub index: Index,
    /// What it does.
    pub kind: Kind,
    /// Its content, opaque to the journal.
    pub bytes: &'a [u8],
}

/// One item read back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Whose sequence it belongs to.
    pub partition: PartitionId,
    /// Who led the partition when it was proposed.
    pub term: Term,
    /// Its position in the partition's sequence.
    pub index: Index,
    /// What it does.
    pub kind: Kind,
    /// Its content; shares memory with the other entries of its group.
    pub bytes: Bytes,
}

impl Entry {
    /// The same entry, borrowed, to append it again.
    #[must_use]
    pub fn borrowed(&self) -> EntryRef<'_> {
        EntryRef {
            partition: self.partition,
            term: self.term,
            index: self.index,
            kind: self.kind,
            bytes: &self.bytes,
        }
    }
}
