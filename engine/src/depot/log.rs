//! The log's handle: appending and positions. Opening, flushing, the bulk path and reading have files
//! of their own.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::ops::Range;
use std::rc::Rc;
use std::task::{Poll, Waker};

use futures_util::lock::Mutex;

use super::batch::{Batch, Head, Key, Payload, Tail as PayloadTail};
use super::bulk::{BulkFile, ExtentWrite, Reserve};
use super::dedup::Dedup;
use super::flush::OpenBlock;
use super::format::Identity;
use super::open::Cut;
use super::records::Run;
use super::segment::{Segment, Windows};
use super::tail::{Chunk, Place, Tail};
use super::{Error, Options, Result};
use crate::env::Env;
use crate::types::{DepotId, Index, Offset, PartitionId, WallTime};

/// One depot in one partition. A cheap handle: clones are the same log. Stays on its shard.
#[derive(Clone, Debug)]
pub struct Log {
    pub(super) inner: Rc<Inner>,
}

#[derive(Debug)]
pub(super) struct Inner {
    pub(super) env: Env,
    pub(super) partition: PartitionId,
    pub(super) depot: DepotId,
    pub(super) dir: String,
    pub(super) options: Options,
    /// At most what the options say.
    pub(super) segment_bytes_max: Cell<u64>,
    pub(super) core: RefCell<Core>,
    /// Held by whoever writes: flushes, bulk writes, removals go one after the other.
    pub(super) io: Mutex<()>,
    /// A write or sync failed.
    pub(super) failed: Cell<bool>,
    pub(super) windows: Windows,
    /// The tail cache's share now.
    pub(super) tail_bytes_max: Cell<usize>,
    /// Damage found behind the recorded end.
    pub(super) torn_tail: RefCell<Option<(String, u64)>>,
}

/// Positions. Holds: first <= flushed <= `durable_end` <= end, and tail.first <= flushed.
#[derive(Debug)]
pub(super) struct Core {
    pub(super) first: Offset,
    pub(super) end: Offset,
    /// The journal has everything below.
    pub(super) journal_durable: Offset,
    /// The segments have everything below, synced.
    pub(super) flushed: Offset,
    /// The last microbatch commit below `flushed`.
    pub(super) flushed_placed: Index,
    /// The last microbatch commit.
    pub(super) placed: Index,
    /// Of the last record.
    pub(super) append_time: WallTime,
    pub(super) tail: Tail,
    /// In order; only the last one is not sealed.
    pub(super) segments: Vec<Rc<Segment>>,
    /// Sealed segments whose file or index is in memory, the last used one at the end.
    pub(super) segments_used: VecDeque<Rc<Segment>>,
    pub(super) open_block: Option<OpenBlock>,
    /// Extents that are not yet written and synced, in order.
    pub(super) extents: VecDeque<Rc<ExtentWrite>>,
    /// Where the next extent can follow the last one; `None` once other records came between.
    pub(super) bulk_file: Option<BulkFile>,
    pub(super) reserve: Option<Reserve>,
    pub(super) reserve_serial: u64,
    /// As of `end`.
    pub(super) dedup: Dedup,
    /// As of `flushed`: what lies above may be lost in a crash, and must not push anything out then.
    pub(super) dedup_flushed: Dedup,
    /// There are extents that payloads should prove durable.
    pub(super) extents_used: bool,
    /// Recovery met a torn extent.
    pub(super) cut: Option<Cut>,
    pub(super) dir_made: bool,
    /// No longer listed, but perhaps by the fold that is on disk.
    pub(super) trimmed: Vec<Rc<Segment>>,
    /// Who waits for `durable_end` to move.
    pub(super) waiting: Vec<Waker>,
}

/// The answer to an append.
#[derive(Debug)]
pub enum Append {
    /// It got these offsets. Journal the payload.
    Done(Appended),
    /// An append with the same key got these offsets before. Acknowledge it once
    /// [`Log::durable_end`] has reached their end; there is nothing to journal.
    Repeated(Range<Offset>),
}

/// Offsets and time of an append, and what the journal has to carry.
#[derive(Debug)]
pub struct Appended {
    /// Dense, directly above those of the append before.
    pub offsets: Range<Offset>,
    /// `max(previous, clock)`.
    pub append_time: WallTime,
    /// Of the entry `Append` or `AppendBulk`.
    pub payload: Payload,
}

impl Log {
    /// Assigns offsets and append time: the records are *appended*. The caller journals the payload,
    /// and when that is durable calls [`Log::durable`].
    ///
    /// # Errors
    /// [`Error::Empty`]; [`Error::Stopped`]. Nothing was appended then.
    ///
    /// # Panics
    /// If recovery cut the log and [`Log::recovered`] was not called.
    pub fn append(&self, batch: &Batch, now: WallTime) -> Result<Append> {
        self.inner.check(batch)?;
        let core = &mut *self.inner.core.borrow_mut();
        if let Some(offsets) = batch.key().and_then(|key| core.dedup.lookup(key)) {
            return Ok(Append::Repeated(offsets));
        }
        assert!(core.cut.is_none(), "recovered() comes before the first append");
        let head = self.inner.next_head(core, batch, now);
        let payload = Payload::new(&head, &PayloadTail::Body(batch.body()));
        self.inner.admit(core, &head, batch, Index(0), Place::Blocks);
        let Head { offsets, append_time, .. } = head;
        Ok(Append::Done(Appended { offsets, append_time, payload }))
    }

    /// Gives a microbatch's records their offsets at the place of its entry `Committed`, whose index
    /// is `index`; they need no payload of their own, since that entry is at the same place of the
    /// sequence at every replay. One batch for each index. `time` comes from the entries, so that it
    /// is the same at replay. `None` if the log has the records of that index already.
    ///
    /// Recovery may have cut the log before them. They are committed all the same, so they get the
    /// offsets at the cut: nobody was told the others, since those were not durable.
    ///
    /// # Errors
    /// As [`Log::append`].
    pub fn place(
        &self,
        index: Index,
        batch: &Batch,
        time: WallTime,
    ) -> Result<Option<Range<Offset>>> {
        assert!(index > Index(0), "entries count from 1");
        let core = &mut *self.inner.core.borrow_mut();
        if index <= core.placed {
            return Ok(None);
        }
        self.inner.check(batch)?;
        let head = self.inner.next_head(core, batch, time);
        self.inner.admit(core, &head, batch, index, Place::Blocks);
        core.placed = index;
        Ok(Some(head.offsets))
    }

    /// The journal made every record below `offset` durable.
    pub fn durable(&self, offset: Offset) {
        let core = &mut *self.inner.core.borrow_mut();
        core.journal_durable = core.journal_durable.max(offset.min(core.end));
        core.wake();
    }

    /// Waits until [`Log::durable_end`] has reached `offset`.
    ///
    /// # Errors
    /// [`Error::Stopped`] once that may never happen.
    pub async fn durable_through(&self, offset: Offset) -> Result<()> {
        std::future::poll_fn(|context| {
            let mut core = self.inner.core.borrow_mut();
            if core.durable_end() >= offset {
                return Poll::Ready(Ok(()));
            }
            if self.inner.failed.get() {
                return Poll::Ready(Err(Error::Stopped));
            }
            core.waiting.push(context.waker().clone());
            Poll::Pending
        })
        .await
    }

    /// The first record that is kept.
    pub fn first(&self) -> Offset {
        self.inner.core.borrow().first
    }

    /// The offset the next record gets.
    pub fn end(&self) -> Offset {
        self.inner.core.borrow().end
    }

    /// Every record below is durable, in the journal and where its bytes lie: acknowledge and
    /// release up to here.
    pub fn durable_end(&self) -> Offset {
        self.inner.core.borrow().durable_end()
    }

    /// Every record below is in the segments and synced.
    pub fn flushed_end(&self) -> Offset {
        self.inner.core.borrow().flushed
    }

    /// Bytes that hold something in its segments.
    pub(crate) fn segment_bytes(&self) -> u64 {
        self.inner.core.borrow().segments.iter().map(|it| it.state().bytes).sum()
    }

    /// The append time of the last record.
    pub fn append_time(&self) -> WallTime {
        self.inner.core.borrow().append_time
    }

    /// Memory the tail cache takes, nearly. Above its share only records that are not flushed are
    /// in it: then it is time for [`Log::flush`].
    pub fn tail_bytes(&self) -> usize {
        self.inner.core.borrow().tail.bytes()
    }

    /// Memory all caches of this log take: the tail, what was read ahead from segments, and the window
    /// of repeated appends.
    pub fn cached_bytes(&self) -> usize {
        self.tail_bytes() + self.inner.windows.bytes() + self.dedup_bytes()
    }

    /// Memory the window of repeated appends takes, nearly.
    pub fn dedup_bytes(&self) -> usize {
        let core = self.inner.core.borrow();
        core.dedup.bytes() + core.dedup_flushed.bytes()
    }

    /// Memory is short: makes the window of repeated appends smaller, if it takes more than `bytes`. The
    /// clients that appended longest ago are forgotten first.
    pub fn shrink_dedup(&self, bytes: usize) {
        let core = &mut *self.inner.core.borrow_mut();
        core.dedup.shrink(bytes / 2);
        core.dedup_flushed.shrink(bytes / 2);
    }

    /// Gives the tail cache another share, and lets go of everything above it that is in segments,
    /// and of what was read ahead.
    pub fn set_tail_bytes_max(&self, bytes: usize) {
        self.inner.tail_bytes_max.set(bytes);
        self.inner.windows.clear();
        self.inner.evict(&mut self.inner.core.borrow_mut());
    }

    /// Lets go once of everything above `bytes` that is in segments, and of what was read ahead. If that
    /// takes it, the next flush starts a new block.
    pub fn let_go(&self, bytes: usize) {
        self.inner.windows.clear();
        let core = &mut *self.inner.core.borrow_mut();
        let stable = core.open_block.as_ref().map_or(core.flushed, |open| open.before.end);
        core.tail.evict(stable, bytes);
        let closable = core.open_block.as_ref().is_some_and(|open| !open.is_rewriting());
        if closable && core.tail.bytes() > bytes {
            core.open_block = None;
            core.tail.evict(core.flushed, bytes);
        }
    }

    /// Whether the tail cache is above its share.
    pub fn wants_flush(&self) -> bool {
        self.tail_bytes() > self.inner.tail_bytes_max.get()
    }

    /// The options it was opened with.
    pub fn options(&self) -> &Options {
        &self.inner.options
    }

    /// Whose records these are.
    pub fn depot(&self) -> DepotId {
        self.inner.depot
    }
}

impl Core {
    pub(super) fn durable_end(&self) -> Offset {
        let waiting = self.extents.iter().find(|extent| !extent.done.get());
        waiting.map_or(self.journal_durable, |e| self.journal_durable.min(e.first))
    }

    /// Something changed for those who wait.
    pub(super) fn wake(&mut self) {
        self.waiting.drain(..).for_each(Waker::wake);
    }
}

impl Inner {
    pub(super) fn check(&self, batch: &Batch) -> Result<()> {
        if batch.count() == 0 {
            return Err(Error::Empty);
        }
        self.check_running()
    }

    pub(super) fn check_running(&self) -> Result<()> {
        if self.failed.get() { Err(Error::Stopped) } else { Ok(()) }
    }

    /// Remembers that a write failed, and passes the error on.
    pub(super) fn stop(&self, error: Error) -> Error {
        self.fail();
        error
    }

    /// From here on nothing is written: what reached the disk is unknown.
    pub(super) fn fail(&self) {
        self.failed.set(true);
        self.core.borrow_mut().wake();
    }

    pub(super) fn next_head(&self, core: &Core, batch: &Batch, now: WallTime) -> Head {
        Head {
            depot: self.depot,
            offsets: core.end..core.end.advance(u64::from(batch.count())),
            append_time: core.append_time.max(now),
            key: batch.key(),
            proof: core.extents_used.then(|| core.durable_end()),
            body_bytes: u32::try_from(batch.body().len()).expect("below BATCH_BYTES_MAX"),
        }
    }

    /// Takes a batch into the tail.
    pub(super) fn admit(
        &self,
        core: &mut Core,
        head: &Head,
        batch: &Batch,
        placed: Index,
        place: Place,
    ) {
        assert_eq!(head.offsets.start, core.end, "offsets are dense");
        if let Some(key) = head.key {
            self.remember(&mut core.dedup, key, head.offsets.clone());
        }
        if matches!(place, Place::Blocks) {
            core.bulk_file = None;
        }
        let run = Run {
            first: head.offsets.start,
            count: batch.count(),
            append_time: head.append_time,
            body: batch.body().clone(),
        };
        core.tail.push(Chunk::new(run, placed, head.key, place));
        core.end = head.offsets.end;
        core.append_time = head.append_time;
        self.evict(core);
    }

    pub(super) fn remember(&self, dedup: &mut Dedup, key: Key, offsets: Range<Offset>) {
        let Options { dedup_clients_max, dedup_sequences_max, .. } = self.options;
        dedup.insert(key, offsets, dedup_clients_max, dedup_sequences_max);
    }

    /// Brings the tail cache back to its share, as far as the segments have its records.
    pub(super) fn evict(&self, core: &mut Core) {
        // Records of the open block are needed when it is rewritten, and read from memory meanwhile.
        let stable = core.open_block.as_ref().map_or(core.flushed, |open| open.before.end);
        core.tail.evict(stable, self.tail_bytes_max.get());
    }

    pub(super) fn path(&self, base: Offset) -> String {
        format!("{}/d{}-{base}", self.dir, self.depot)
    }

    pub(super) fn identity(&self, base: Offset, file_id: u64) -> Identity {
        Identity { partition: self.partition, depot: self.depot, base, file_id }
    }
}
