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

/// How much a read may still return.
#[derive(Clone, Copy, Debug)]
pub(super) struct Budget {
    pub(super) records: usize,
    pub(super) bytes: usize,
    /// Records at or above are not for this reader.
    pub(super) end: Offset,
}

impl Budget {
    /// Moves what fits of `run`, from record `skip` on (which starts at byte `at`), into `records`.
    /// The first record of all is returned even if it is too large. True if there may be room left.
    pub(super) fn take(&mut self, run: &Run, skip: u32, at: usize, records: &mut Records) -> bool {
        let first = run.first.advance(u64::from(skip));
        let below_end = self.end.0.saturating_sub(first.0);
        let all = u64::from(run.count - skip);
        let bound = u64::try_from(self.records).unwrap_or(u64::MAX).min(below_end);
        let bytes = run.body.len() - at;
        if all <= bound && bytes <= self.bytes {
            records.push(Run {
                first,
                count: run.count - skip,
                append_time: run.append_time,
                body: run.body.slice(at..),
            });
            self.records -= run.count as usize - skip as usize;
            self.bytes -= bytes;
            return self.records > 0 && self.bytes > 0 && all < below_end;
        }
        let mut end = at;
        let mut count = 0;
        while u64::from(count) < bound.min(all) {
            let rest = run.body.get(end..).unwrap_or_default();
            let length = record_bytes(rest).expect("a run's body holds its records");
            let forced = records.is_empty() && count == 0;
            if end - at + length > self.bytes && !forced {
                break;
            }
            end += length;
            count += 1;
        }
        if count > 0 {
            let body = run.body.slice(at..end);
            records.push(Run { first, count, append_time: run.append_time, body });
        }
        false
    }
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

    /// Cuts before record `count` (fewer than all): the first `count` records, and the others.
    pub(super) fn split(&self, count: u32) -> (Self, Self) {
        assert!(0 < count && count < self.count, "both parts hold records");
        let at = self.position(count, (0, 0));
        let (left, right) = (self.body.slice(..at), self.body.slice(at..));
        let first = self.first.advance(u64::from(count));
        (
            Self { count, body: left, ..self.clone() },
            Self { first, count: self.count - count, body: right, ..*self },
        )
    }

    /// How many records, at least one, fit into `bytes` of body.
    pub(super) fn fitting(&self, bytes: usize) -> u32 {
        let mut rest: &[u8] = &self.body;
        let mut count = 0;
        let mut used = 0;
        while let Some(length) = record_bytes(rest) {
            used += length;
            if used > bytes {
                break;
            }
            count += 1;
            rest = rest.get(length..).unwrap_or_default();
        }
        count.max(1)
    }

    /// The byte in the body where record `skip` starts, counted from a known `(record, byte)` at or
    /// before it.
    pub(super) fn position(&self, skip: u32, known: (u32, usize)) -> usize {
        let (mut record, mut at) = known;
        while record < skip {
            let rest = self.body.get(at..).unwrap_or_default();
            at += record_bytes(rest).expect("a run's body holds its records: checked when made");
            record += 1;
        }
        at
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
