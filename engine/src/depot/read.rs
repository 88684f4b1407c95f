//! Reading: the tail cache first, then segments through the sparse index.

use std::rc::Rc;

use super::log::{Inner, Log};
use super::records::{Budget, Records};
use super::segment::{Block, Segment};
use super::tail::Chunk;
use super::{Error, Result};
use crate::types::{Offset, WallTime};

/// How much one read may return.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// At most so many records, at least 1.
    pub records: usize,
    /// At most so many bytes, except that one record always comes.
    pub bytes: usize,
    /// How far.
    pub upto: Upto,
}

/// Which records a reader may see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Upto {
    /// Those that survive a crash: for everybody.
    Durable,
    /// Those that have an offset: for a topology that releases nothing before they are durable.
    Appended,
}

/// What [`Log::try_read`] finds in memory.
#[derive(Debug)]
pub enum TryRead {
    /// All there is to say: no records only if `from` is at the end.
    Hit(Records),
    /// [`Log::read`] has to ask the segments.
    Miss,
}

impl Log {
    /// About how far a reader gets from `from` on with so many bytes, and how many it really takes: at
    /// least one record, if one is durable. What is not in memory is taken for as large as its neighbours.
    pub fn reach(&self, from: Offset, bytes: u64) -> (Offset, u64) {
        let core = self.inner.core.borrow();
        let end = core.durable_end();
        let from = from.max(core.first);
        if from >= end {
            return (from, 0);
        }
        if core.tail.first().is_none_or(|chunk| from < chunk.first()) {
            let states = core.segments.iter().map(|segment| segment.state());
            let segment = states.into_iter().find(|state| from < state.end);
            let (size, upto) = segment.map_or((1, end), |state| {
                (state.bytes / (state.end.0 - state.base.0).max(1), state.end)
            });
            let count = (bytes / size.max(1)).max(1).min(upto.min(end).0 - from.0);
            return (from.advance(count), count * size);
        }
        let (mut at, mut used) = (from, 0);
        for chunk in core.tail.from(from) {
            if at >= end || (used >= bytes && at > from) {
                break;
            }
            let size = (chunk.run.body.len() as u64 / u64::from(chunk.run.count).max(1)).max(1);
            let there = chunk.end().min(end).0 - at.0;
            let count = ((bytes - used.min(bytes)) / size).max(u64::from(at == from)).min(there);
            if count == 0 {
                break;
            }
            (at, used) = (at.advance(count), used + count * size);
        }
        (at, used)
    }

    /// Reads from memory alone, without waiting.
    ///
    /// # Errors
    /// [`Error::Trimmed`].
    pub fn try_read(&self, from: Offset, limits: Limits) -> Result<TryRead> {
        let core = self.inner.core.borrow();
        if from < core.first {
            return Err(Error::Trimmed { asked: from, first: core.first });
        }
        let end = match limits.upto {
            Upto::Durable => core.durable_end(),
            Upto::Appended => core.end,
        };
        let mut records = Records::default();
        if from >= end {
            return Ok(TryRead::Hit(records));
        }
        if core.tail.first().is_none_or(|chunk| from < chunk.first()) {
            return Ok(TryRead::Miss);
        }
        let budget = Budget { records: limits.records.max(1), bytes: limits.bytes, end };
        core.tail.read(from, budget, &mut records);
        Ok(TryRead::Hit(records))
    }

    /// Reads consecutive records from `from` on; none only if it is at the end, or above. May return
    /// fewer than the limits allow. Takes memory for what it returns, and up to 1 MiB for reading
    /// ahead.
    ///
    /// # Errors
    /// [`Error::Trimmed`], [`Error::Corrupt`], [`Error::Io`].
    pub async fn read(&self, from: Offset, limits: Limits) -> Result<Records> {
        loop {
            if let TryRead::Hit(records) = self.try_read(from, limits)? {
                return Ok(records);
            }
            let Some((segment, readable)) = self.inner.segment_of(from) else {
                // Trimmed between the two looks; the next one says so.
                continue;
            };
            let budget =
                Budget { records: limits.records.max(1), bytes: limits.bytes, end: readable.end };
            return match self.inner.read_segment(&segment, readable, from, budget).await {
                // Its file may have been removed meanwhile.
                Err(Error::Io { .. } | Error::Corrupt { .. }) if from < self.first() => {
                    Err(Error::Trimmed { asked: from, first: self.first() })
                }
                read => read,
            };
        }
    }

    /// The first offset whose record was appended at or after `time`; [`Log::durable_end`] if there is
    /// none yet.
    ///
    /// # Errors
    /// As [`Log::read`].
    pub async fn offset_at(&self, time: WallTime) -> Result<Offset> {
        let (found, first) = {
            let core = self.inner.core.borrow();
            let before_tail = core.tail.first().is_none_or(|chunk| time <= chunk.run.append_time);
            let slot = core.segments.partition_point(|s| s.state().append_time < time);
            let segment = core.segments.get(slot).filter(|_| before_tail);
            (segment.map(|segment| segment.identity.base), core.first)
        };
        if let Some(base) = found
            && let Some((segment, readable)) = self.inner.segment_of(base)
            && let Some(found) = self.inner.seek_time(&segment, readable, time).await?
        {
            return Ok(found.max(first));
        }
        let core = self.inner.core.borrow();
        let durable_end = core.durable_end();
        let mut chunks = core.tail.from(core.first);
        let chunk = chunks.find(|chunk| chunk.run.append_time >= time);
        Ok(chunk.map_or(durable_end, Chunk::first).min(durable_end))
    }
}

/// How far a segment can be read from its file: what lies above may be rewritten, and is in memory.
#[derive(Clone, Copy, Debug)]
struct Readable {
    end: Offset,
    bytes: u64,
}

impl Inner {
    /// The segment with `offset`; `None` if it is trimmed, or not in a segment.
    fn segment_of(&self, offset: Offset) -> Option<(Rc<Segment>, Readable)> {
        let core = &mut *self.core.borrow_mut();
        let slot = core.segments.partition_point(|segment| segment.identity.base <= offset);
        let segment = Rc::clone(core.segments.get(slot.checked_sub(1)?)?);
        let state = segment.state();
        let last = slot == core.segments.len();
        let stable = core.open_block.as_ref().filter(|_| last).map_or(state, |open| open.before);
        if state.sealed {
            // A few sealed segments keep their file and index open.
            core.segments_used.retain(|used| !Rc::ptr_eq(used, &segment));
            core.segments_used.push_back(Rc::clone(&segment));
            if core.segments_used.len() > SEGMENTS_OPEN_MAX
                && let Some(oldest) = core.segments_used.pop_front()
            {
                oldest.rest();
            }
        }
        let bytes = if state.sealed { state.last_at } else { stable.bytes };
        Some((segment, Readable { end: stable.end, bytes }))
    }

    async fn read_segment(
        &self,
        segment: &Segment,
        readable: Readable,
        from: Offset,
        mut budget: Budget,
    ) -> Result<Records> {
        let mut at = segment.seek(&self.env, &self.windows, |entry| entry.first <= from).await?;
        let mut records = Records::default();
        let mut next: Option<Offset> = None;
        loop {
            let block = self.next_block(segment, readable, &mut at, &mut next, from).await?;
            if block.head.end() <= Ok(from) {
                continue;
            }
            let runs = block.runs().map_err(|what| segment.corrupt(block.head.at, what))?;
            for run in runs.iter().filter(|run| run.end() > from) {
                let skip = u32::try_from(from.0.saturating_sub(run.first.0)).unwrap_or(u32::MAX);
                let position = run.position(skip, (0, 0));
                if !budget.take(run, skip, position, &mut records) {
                    return Ok(records);
                }
            }
            if next >= Some(readable.end) {
                return Ok(records);
            }
        }
    }

    /// The block at `at`, which must start with offset `next` if that is known; moves both on.
    async fn next_block(
        &self,
        segment: &Segment,
        readable: Readable,
        at: &mut u64,
        next: &mut Option<Offset>,
        wanted: Offset,
    ) -> Result<Block> {
        const MISSING: &str = "offsets are missing here";
        let here = *at;
        let corrupt = |what| segment.corrupt(here, what);
        let block = segment.block_at(&self.env, &self.windows, here, readable.bytes).await?;
        let follows = next.map_or(block.head.first <= wanted, |next| next == block.head.first);
        if !follows || block.head.kind != super::format::Kind::Block {
            return Err(corrupt(MISSING));
        }
        *next = Some(block.head.end().map_err(corrupt)?);
        *at += block.head.bytes() as u64;
        if self.env.should_yield() {
            self.env.yield_now().await;
        }
        Ok(block)
    }

    /// The first offset of the segment appended at or after `time`.
    async fn seek_time(
        &self,
        segment: &Segment,
        readable: Readable,
        time: WallTime,
    ) -> Result<Option<Offset>> {
        let mut at = segment.seek(&self.env, &self.windows, |entry| entry.time < time).await?;
        let mut next = None;
        while at < readable.bytes {
            let all = Offset(u64::MAX);
            let block = self.next_block(segment, readable, &mut at, &mut next, all).await?;
            if block.head.time_last < time {
                continue;
            }
            let runs = block.runs().map_err(|what| segment.corrupt(block.head.at, what))?;
            return Ok(runs.iter().find(|run| run.append_time >= time).map(|run| run.first));
        }
        Ok(None)
    }
}

/// Sealed segments of a log that are held open.
const SEGMENTS_OPEN_MAX: usize = 4;
