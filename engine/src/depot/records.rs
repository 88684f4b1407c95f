//! What a read returns: slices of the buffers the records already lie in; nothing is copied.

use std::ops::Range;

use bytes::Bytes;

use super::batch::{LENGTH_BYTES, record_bytes};
use crate::types::{Offset, WallTime};

/// Consecutive records. Cheap to clone; may cross threads. Holds the memory they lie in, which can be
/// more than their own bytes (a read-ahead window of up to 1 MiB), so copy what is kept for long.
#[derive(Clone, Debug, Default)]
pub struct Records {
    runs: Vec<Run>,
}

/// Records of one batch, or of a part of it.
#[derive(Clone, Debug)]
pub(super) struct Run {
    pub(super) first: Offset,
    pub(super) count: u32,
    pub(super) append_time: WallTime,
    pub(super) body: Bytes,
}

/// One record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// Its place in the depot partition.
    pub offset: Offset,
    /// Never before that of the record before it.
    pub append_time: WallTime,
    /// What was appended.
    pub bytes: &'a [u8],
}

impl Records {
    /// In order of offset, without gaps.
    pub fn iter(&self) -> impl Iterator<Item = Record<'_>> {
        self.runs.iter().flat_map(Run::iter)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.runs.iter().map(|run| run.count as usize).sum()
    }

    /// Whether there is none: the log ends here, for now.
    pub fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    /// Their offsets; `None` if there is none.
    pub fn offsets(&self) -> Option<Range<Offset>> {
        let first = self.runs.first()?.first;
        let last = self.runs.last()?;
        Some(first..last.end())
    }

    pub(super) fn push(&mut self, run: Run) {
        debug_assert!(self.runs.last().is_none_or(|last| last.end() == run.first));
        self.runs.push(run);
    }
}

impl Run {
    pub(super) fn end(&self) -> Offset {
        self.first.advance(u64::from(self.count))
    }

    fn iter(&self) -> impl Iterator<Item = Record<'_>> {
        let mut rest: &[u8] = &self.body;
        (0..u64::from(self.count)).map_while(move |step| {
            let bytes = record_bytes(rest)?;
            let (record, behind) = rest.split_at_checked(bytes)?;
            rest = behind;
            Some(Record {
                offset: self.first.advance(step),
                append_time: self.append_time,
                bytes: record.get(LENGTH_BYTES..)?,
            })
        })
    }
}
