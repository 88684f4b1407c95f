//! The newest records, in memory: what is not yet in segments, and as much of what is as its share
//! of memory allows, so that topologies normally never read the disk.

use std::cell::OnceCell;
use std::collections::VecDeque;
use std::rc::Rc;

use super::batch::Key;
use super::bulk::ExtentWrite;
use super::records::{Budget, Records, Run};
use crate::types::{Index, Offset};

/// One appended batch.
#[derive(Debug)]
pub(super) struct Chunk {
    pub(super) run: Run,
    /// The entry that placed it, if a microbatch did; else 0.
    pub(super) placed: Index,
    /// What it was appended under.
    pub(super) key: Option<Key>,
    pub(super) place: Place,
    /// Where every [`MARK_EVERY`]th record starts; made when a read first starts inside.
    marks: OnceCell<Vec<usize>>,
}

/// How a chunk gets into a segment.
#[derive(Clone, Debug)]
pub(super) enum Place {
    /// By a flush.
    Blocks,
    /// It has its place already.
    Extent(Rc<ExtentWrite>),
}

impl Chunk {
    pub(super) fn new(run: Run, placed: Index, key: Option<Key>, place: Place) -> Self {
        Self { run, placed, key, place, marks: OnceCell::new() }
    }

    pub(super) fn first(&self) -> Offset {
        self.run.first
    }

    pub(super) fn end(&self) -> Offset {
        self.run.end()
    }

    fn bytes(&self) -> usize {
        self.run.body.len() + CHUNK_BYTES
    }

    /// Where record `skip` starts in the body.
    fn position(&self, skip: u32) -> usize {
        if skip < MARK_EVERY {
            return self.run.position(skip, (0, 0));
        }
        let marks = self.marks.get_or_init(|| {
            let mut marks = vec![0];
            let mut record = MARK_EVERY;
            while record < self.run.count {
                let known = marks.last().map_or((0, 0), |&at| (record - MARK_EVERY, at));
                marks.push(self.run.position(record, known));
                record += MARK_EVERY;
            }
            marks
        });
        let mark = skip / MARK_EVERY;
        let at = marks.get(mark as usize).copied().unwrap_or(0);
        self.run.position(skip, (mark * MARK_EVERY, at))
    }
}

/// Chunks in order of offset, without gaps.
#[derive(Debug, Default)]
pub(super) struct Tail {
    /// Boxed, since there may be very many and a growing queue moves them.
    chunks: VecDeque<Box<Chunk>>,
    bytes: usize,
}

impl Tail {
    pub(super) fn push(&mut self, chunk: Chunk) {
        assert!(self.chunks.back().is_none_or(|last| last.end() == chunk.first()), "no gaps");
        self.bytes += chunk.bytes();
        self.chunks.push_back(Box::new(chunk));
    }

    /// Memory it takes, nearly.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// The first offset it has; `None` if it has nothing.
    pub(super) fn first(&self) -> Option<&Chunk> {
        self.chunks.front().map(|chunk| &**chunk)
    }

    /// The chunks from the one that holds `from` on.
    pub(super) fn from(&self, from: Offset) -> impl Iterator<Item = &Chunk> {
        // Who reads mostly reads the newest: ever larger steps back from the end, then a search in the last.
        let (mut above, mut step) = (self.chunks.len(), 1);
        while let Some(at) = above.checked_sub(step)
            && self.chunks[at].end() > from
        {
            (above, step) = (at, step * 2);
        }
        let below = above.saturating_sub(step);
        let (mut low, mut high) = (below, above);
        while low < high {
            let mid = usize::midpoint(low, high);
            if self.chunks[mid].end() <= from {
                low = mid + 1;
            } else {
                high = mid;
            }
        }
        self.chunks.range(low..).map(|chunk| &**chunk)
    }

    /// Fills `records` from `from` on, which it has.
    pub(super) fn read(&self, from: Offset, mut budget: Budget, records: &mut Records) {
        let mut skip = None;
        for chunk in self.from(from) {
            let skip = skip.replace(0).unwrap_or_else(|| {
                u32::try_from(from.0 - chunk.first().0).expect("within the chunk")
            });
            if !budget.take(&chunk.run, skip, chunk.position(skip), records) {
                break;
            }
        }
    }

    /// Drops the oldest chunks that end at or below `flushed` while more than `bytes_max` is used.
    pub(super) fn evict(&mut self, flushed: Offset, bytes_max: usize) {
        while self.bytes > bytes_max
            && let Some(chunk) = self.chunks.pop_front_if(|chunk| chunk.end() <= flushed)
        {
            self.bytes -= chunk.bytes();
        }
    }
}

/// What a chunk takes beside its body, roughly.
const CHUNK_BYTES: usize = 160;

/// A read that starts inside a chunk walks over at most this many records.
const MARK_EVERY: u32 = 64;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::depot::Batch;
    use crate::types::WallTime;

    fn tail_of(sizes: &[u32]) -> Tail {
        let mut tail = Tail::default();
        let mut first = Offset(10);
        for &count in sizes {
            let records = (0..u64::from(count)).map(|step| (first.0 + step).to_le_bytes());
            let body = Batch::of(records).unwrap().body().clone();
            let run = Run { first, count, append_time: WallTime(0), body };
            tail.push(Chunk::new(run, Index(0), None, Place::Blocks));
            first = first.advance(u64::from(count));
        }
        tail
    }

    #[test]
    fn every_range_is_read_right() {
        let tail = tail_of(&[1, 300, 64, 1, 1, 2, 1, 1, 1, 3, 1, 1, 65, 1, 1, 1]);
        let end = 10 + 445;
        for from in 10..end {
            for count in [1, 2, 63, 64, 200, 1000] {
                let budget = Budget { records: count, bytes: usize::MAX, end: Offset(end) };
                let mut records = Records::default();
                tail.read(Offset(from), budget, &mut records);
                let read: Vec<u64> = records
                    .iter()
                    .map(|r| {
                        assert_eq!(r.bytes, r.offset.0.to_le_bytes());
                        r.offset.0
                    })
                    .collect();
                let expected: Vec<u64> = (from..end.min(from + count as u64)).collect();
                assert_eq!(read, expected);
            }
        }
    }

    #[test]
    fn limits_hold_and_one_record_always_comes() {
        let tail = tail_of(&[5, 5]);
        let read = |bytes, end| {
            let mut records = Records::default();
            tail.read(Offset(12), Budget { records: 9, bytes, end: Offset(end) }, &mut records);
            records.len()
        };
        assert_eq!((read(0, 20), read(12, 20), read(35, 20), read(36, 20)), (1, 1, 2, 3));
        assert_eq!((read(48, 20), read(1000, 20), read(1000, 16)), (4, 8, 4));
    }
}
