//! Flushing: what is durable in the journal goes into segment blocks, so that the journal can forget it.
//!
//! A block is written full, or while everything in it will still be replayed after a crash: only
//! then may the next flush write it again, longer, in the same place (the *open block*). Taking a
//! [`State`] ends that for what it covers; the next flush then starts a new block.

use std::io;
use std::rc::Rc;

use super::bulk::ExtentWrite;
use super::format::{
    FooterOf, HEAD_BYTES, IndexEntry, PART_BYTES, block_bytes, encode_block, encode_footer,
    encode_header, footer_bytes,
};
use super::log::{Core, Inner, Log};
use super::records::Run;
use super::segment::Segment;
use super::state::{SegmentState, State};
use super::tail::Place;
use super::{Error, Options, Result};
use crate::env::{Buf, File, Open, Sync, write_full};
use crate::probe::{self, Plant};
use crate::types::{Index, Offset, WallTime};

/// What a flush achieved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flushed {
    /// Records below are in the segments and synced: once a fold has recorded [`Log::state`], the
    /// journal needs them no more.
    pub below: Offset,
}

/// The last block of the active segment while it may be rewritten.
#[derive(Debug)]
pub(super) struct OpenBlock {
    runs: Vec<Run>,
    /// The microbatch commits in it.
    placed: Vec<(Offset, Index)>,
    /// How far the segment is written without it.
    pub(super) before: SegmentState,
    /// The last commit before it.
    placed_before: Index,
    /// It is being written just now.
    rewriting: bool,
}

impl OpenBlock {
    pub(super) fn is_rewriting(&self) -> bool {
        self.rewriting
    }
}

/// What the next step of a flush works on.
enum Step {
    /// An extent that lies in its place already.
    Adopt { write: Rc<ExtentWrite>, placed: Index },
    /// Batches, and the commits among them.
    Blocks { runs: Vec<Run>, placed: Vec<(Offset, Index)> },
}

impl Log {
    /// Writes every durable record into segments and syncs them. One at a time; a second call waits.
    /// Dropping it half-way stops the log, since writes may still be under way.
    ///
    /// # Errors
    /// [`Error::NoSpace`]: nothing is lost, try again later. [`Error::Io`]: the log stops.
    pub async fn flush(&self) -> Result<Flushed> {
        let inner = &*self.inner;
        let _io = inner.io.lock().await;
        inner.check_running()?;
        let guard = StopOnDrop::new(&self.inner);
        let result = inner.flush_steps().await;
        guard.disarm();
        result?;
        Ok(Flushed { below: inner.core.borrow().flushed })
    }

    /// What the segments hold now, for a fold to record. From here on its bytes never change.
    pub fn state(&self) -> State {
        let core = &mut *self.inner.core.borrow_mut();
        let mut segments: Vec<SegmentState> = core.segments.iter().map(|s| s.state()).collect();
        let mut placed = core.flushed_placed;
        match &core.open_block {
            // Its bytes are in motion, so this state ends before it.
            Some(open) if open.rewriting => {
                placed = open.placed_before;
                if let Some(last) = segments.last_mut() {
                    *last = open.before;
                }
            }
            Some(_) if probe::planted(Plant::TailBlockRewritten) => {}
            _ => core.open_block = None,
        }
        let end = segments.last().map_or(core.first, |last| last.end);
        let append_time = segments.last().map_or(WallTime(0), |last| last.append_time);
        let dedup = core.dedup_flushed.below(end);
        State { first: core.first, end, append_time, placed, segments, dedup }
    }

    /// Entries with records below `offset` will not be replayed any more. [`Log::state`] implies this
    /// for what it covers.
    pub fn journal_released(&self, offset: Offset) {
        let core = &mut *self.inner.core.borrow_mut();
        let settled = |open: &OpenBlock| !open.rewriting && open.before.end < offset;
        if core.open_block.as_ref().is_some_and(settled)
            && !probe::planted(Plant::TailBlockRewritten)
        {
            core.open_block = None;
        }
    }

    /// Seals segments that are as large as this, or as the log's options say if that is less, from now on. Only whole
    /// segments are [trimmed](Log::trim).
    pub fn bound_segments(&self, bytes: u64) {
        self.inner.segment_bytes_max.set(self.inner.options.segment_bytes_max.min(bytes));
    }

    /// Forgets whole sealed segments below `below` of which every record was appended before `before`, and
    /// returns the first offset that is left. The files go when a state without them was [`Log::recorded`].
    pub fn trim(&self, below: Offset, before: WallTime) -> Offset {
        let core = &mut *self.inner.core.borrow_mut();
        let gone = core.segments.partition_point(|segment| {
            let state = segment.state();
            state.sealed && state.end <= below && state.append_time < before
        });
        // The last one stays, so that the log keeps its end and its clock.
        let gone = gone.min(core.segments.len().saturating_sub(1));
        core.trimmed.extend(core.segments.drain(..gone));
        if gone > 0
            && let Some(lowest) = core.segments.first()
        {
            core.first = core.first.max(lowest.identity.base);
        }
        core.first
    }

    /// The fold that holds `state` is durable: removes the files of trimmed segments it does not list.
    ///
    /// # Errors
    /// [`Error::Io`]; the files stay for the next time.
    pub async fn recorded(&self, state: &State) -> Result<()> {
        let inner = &*self.inner;
        let _io = inner.io.lock().await;
        let listed = |segment: &Segment| {
            state.segments.iter().any(|s| s.file_id == segment.identity.file_id)
        };
        loop {
            let next = {
                let core = inner.core.borrow();
                core.trimmed.iter().find(|segment| !listed(segment)).cloned()
            };
            let Some(segment) = next else { return Ok(()) };
            let result = inner.env.disk().remove(&segment.path).await;
            if let Err(error) = result
                && error.kind() != io::ErrorKind::NotFound
            {
                return Err(segment.io("remove", 0, error));
            }
            let mut core = inner.core.borrow_mut();
            core.trimmed.retain(|other| !Rc::ptr_eq(other, &segment));
            core.segments_used.retain(|other| !Rc::ptr_eq(other, &segment));
        }
    }
}

impl Core {
    fn next_step(&self) -> Option<Step> {
        let limit = self.durable_end();
        let mut chunks = self.tail.from(self.flushed).take_while(|chunk| chunk.end() <= limit);
        let first = chunks.next()?;
        if let Place::Extent(write) = &first.place {
            return Some(Step::Adopt { write: Rc::clone(write), placed: first.placed });
        }
        let mut bytes = 0;
        let mut placed = Vec::new();
        let runs = std::iter::once(first)
            .chain(chunks)
            .take_while(|chunk| {
                let more = bytes < STEP_BYTES && matches!(chunk.place, Place::Blocks);
                bytes += chunk.run.body.len();
                more
            })
            .map(|chunk| {
                if chunk.placed > Index(0) {
                    placed.push((chunk.first(), chunk.placed));
                }
                chunk.run.clone()
            })
            .collect();
        Some(Step::Blocks { runs, placed })
    }
}

/// Stops the log unless disarmed: a write that is dropped half-way may still reach the disk, over
/// what a later one puts there.
pub(super) struct StopOnDrop(Option<Rc<Inner>>);

impl StopOnDrop {
    pub(super) fn new(inner: &Rc<Inner>) -> Self {
        Self(Some(Rc::clone(inner)))
    }

    pub(super) fn disarm(mut self) {
        self.0 = None;
    }
}

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        if let Some(inner) = &self.0 {
            inner.fail();
        }
    }
}

impl Inner {
    async fn flush_steps(&self) -> Result<()> {
        loop {
            let step = self.core.borrow().next_step();
            match step {
                None => return Ok(()),
                Some(Step::Adopt { write, placed }) => self.adopt(&write, placed).await?,
                Some(Step::Blocks { runs, placed }) => self.write_blocks(runs, placed).await?,
            }
        }
    }

    /// Counts an extent's records as flushed; its segment becomes the active one if it was not.
    async fn adopt(&self, write: &Rc<ExtentWrite>, placed: Index) -> Result<()> {
        let active = self.core.borrow().segments.last().cloned();
        let same = active.as_ref().is_some_and(|active| Rc::ptr_eq(active, &write.segment));
        if let Some(active) = active
            && !same
        {
            self.seal(&active).await?;
        }
        let core = &mut *self.core.borrow_mut();
        if !same {
            core.segments.push(Rc::clone(&write.segment));
        }
        write.segment.advance(write.state_after(), &write.index);
        core.open_block = None;
        self.flushed(core, write.end);
        core.flushed_placed = core.flushed_placed.max(placed);
        self.evict(core);
        Ok(())
    }

    async fn write_blocks(
        &self,
        mut runs: Vec<Run>,
        mut placed: Vec<(Offset, Index)>,
    ) -> Result<()> {
        let segment = self.active().await?;
        let file = segment.file(&self.env).await?;
        let (before, placed_before) = {
            let core = &mut *self.core.borrow_mut();
            if let Some(open) = &mut core.open_block {
                // From here on a state ends before this block, even while space is allocated.
                open.rewriting = true;
                runs.splice(0..0, open.runs.iter().cloned());
                placed.splice(0..0, open.placed.iter().copied());
                (open.before, open.placed_before)
            } else {
                (segment.state(), core.flushed_placed)
            }
        };
        let batch_starts: Vec<Offset> = runs.iter().map(|run| run.first).collect();
        let blocks = cut(runs, self.options.block_bytes);
        let bytes: u64 = blocks.iter().map(|block| block_bytes(block) as u64).sum();
        let allocated = self.allocate(&segment, &*file, before.bytes + bytes).await;
        if allocated.is_err()
            && let Some(open) = &mut self.core.borrow_mut().open_block
        {
            open.rewriting = false;
        }
        allocated?;

        let mut state = before;
        let mut last_block = before;
        let mut index = Vec::with_capacity(blocks.len());
        let mut buffer = Vec::new();
        let mut buffer_at = before.bytes;
        for block in &blocks {
            last_block = state;
            let from = buffer.len();
            buffer.resize(from + block_bytes(block), 0);
            let at = state.bytes;
            let chain = encode_block(&mut buffer[from..], block, before.file_id, at, state.chain);
            let (first, last) = (&block[0], &block[block.len() - 1]);
            index.push(IndexEntry { first: first.first, time: first.append_time, at });
            state = SegmentState {
                end: last.end(),
                bytes: at + block_bytes(block) as u64,
                last_at: at,
                chain,
                append_time: last.append_time,
                ..state
            };
            if buffer.len() >= WRITE_BYTES {
                self.write(&segment, &*file, buffer_at, &buffer).await?;
                buffer_at += buffer.len() as u64;
                buffer.clear();
            }
            if self.env.should_yield() {
                self.env.yield_now().await;
            }
        }
        if !buffer.is_empty() {
            self.write(&segment, &*file, buffer_at, &buffer).await?;
        }
        self.sync(&segment, &*file).await?;

        let core = &mut *self.core.borrow_mut();
        segment.advance(state, &index);
        self.flushed(core, state.end);
        let commit_before = |end: Offset| {
            let last = placed.iter().rev().find(|(first, _)| *first < end);
            last.map_or(placed_before, |(_, index)| *index)
        };
        core.flushed_placed = commit_before(state.end);
        let room = state.bytes - state.last_at < self.options.block_bytes as u64 * 3 / 4;
        // A state must end between two batches, so a block that starts within one stays as it is.
        let between = batch_starts.binary_search(&last_block.end).is_ok();
        core.open_block = blocks.into_iter().next_back().filter(|_| room && between).map(|runs| {
            let placed_before = commit_before(last_block.end);
            let placed =
                placed.iter().filter(|(first, _)| *first >= last_block.end).copied().collect();
            OpenBlock { runs, placed, before: last_block, placed_before, rewriting: false }
        });
        self.evict(core);
        Ok(())
    }

    /// Everything below `end` is in the segments now.
    fn flushed(&self, core: &mut Core, end: Offset) {
        let Core { tail, dedup_flushed, .. } = core;
        for chunk in tail.from(core.flushed).take_while(|chunk| chunk.end() <= end) {
            if let Some(key) = chunk.key {
                self.remember(dedup_flushed, key, chunk.first()..chunk.end());
            }
        }
        core.flushed = end;
    }

    /// The segment that takes the next block: sealed and succeeded when it is full.
    async fn active(&self) -> Result<Rc<Segment>> {
        let active = self.core.borrow().segments.last().cloned();
        if let Some(active) = active {
            let state = active.state();
            if !state.sealed {
                if state.bytes < self.segment_bytes_max.get() {
                    return Ok(active);
                }
                self.seal(&active).await?;
            }
        }
        let (base, time) = {
            let core = self.core.borrow();
            let time = core.segments.last().map_or(WallTime(0), |last| last.state().append_time);
            (core.flushed, time)
        };
        let identity = self.identity(base, self.env.random());
        let segment = Rc::new(Segment::new(identity, self.path(base), time));
        self.make_dir().await?;
        let file = self.create(&segment.path).await?;
        segment.attach(Rc::clone(&file));
        self.allocate(&segment, &*file, self.options.allocation_bytes_min).await?;
        let (header, _) = encode_header(&identity);
        self.write(&segment, &*file, 0, &header).await?;
        self.sync(&segment, &*file).await?;
        self.sync_dir(&segment).await?;
        self.core.borrow_mut().segments.push(Rc::clone(&segment));
        Ok(segment)
    }

    /// Ends an active segment with its footer and gives back what it does not need.
    async fn seal(&self, segment: &Rc<Segment>) -> Result<()> {
        let before = segment.state();
        if before.sealed {
            return Ok(());
        }
        let index = segment.index(&self.env, &self.windows).await?;
        let file = segment.file(&self.env).await?;
        let mut footer = vec![0; footer_bytes(index.len())];
        let of = FooterOf {
            file_id: before.file_id,
            at: before.bytes,
            chain_before: before.chain,
            end: before.end,
            time_last: before.append_time,
        };
        let chain = encode_footer(&mut footer, &index, &of);
        let end = before.bytes + footer.len() as u64;
        self.allocate(segment, &*file, end).await?;
        self.write(segment, &*file, before.bytes, &footer).await?;
        let cut = file.truncate(end).await;
        cut.map_err(|error| self.stop(segment.io("truncate", end, error)))?;
        self.sync(segment, &*file).await?;

        let state =
            SegmentState { bytes: end, last_at: before.bytes, chain, sealed: true, ..before };
        let sealed = Segment::recorded(segment.identity, segment.path.clone(), state);
        let core = &mut *self.core.borrow_mut();
        core.open_block = None;
        if let Some(last) = core.segments.last_mut() {
            assert!(Rc::ptr_eq(last, segment), "only the last segment is active");
            *last = Rc::new(sealed);
        }
        Ok(())
    }

    /// Opens a file for a new life: whatever was in it is gone.
    pub(super) async fn create(&self, path: &str) -> Result<Rc<dyn File>> {
        let file = self.env.disk().open(path, Open::Any).await;
        let file = file.map_err(|error| space_or_io("create", path, 0, error))?;
        file.truncate(0).await.map_err(|error| space_or_io("truncate", path, 0, error))?;
        Ok(file)
    }

    /// Makes the partition's directory, durably, before its first file.
    pub(super) async fn make_dir(&self) -> Result<()> {
        if self.core.borrow().dir_made {
            return Ok(());
        }
        let dir = &self.dir;
        let made = self.env.disk().create_dir(dir).await;
        made.map_err(|error| space_or_io("create", dir, 0, error))?;
        let mut child = dir.as_str();
        while child != "." {
            child = child.rsplit_once('/').map_or(".", |(parent, _)| parent);
            let synced = self.env.disk().sync_dir(child).await;
            synced.map_err(|error| self.stop(space_or_io("sync", child, 0, error)))?;
        }
        self.core.borrow_mut().dir_made = true;
        Ok(())
    }

    /// Makes a new file's name durable.
    pub(super) async fn sync_dir(&self, segment: &Segment) -> Result<()> {
        if probe::planted(Plant::SkippedDirectorySync) {
            return Ok(());
        }
        let synced = self.env.disk().sync_dir(&self.dir).await;
        synced.map_err(|error| self.stop(segment.io("sync directory of", 0, error)))
    }

    /// Grows the file to at least `need`: by doubling, or by less if there is no space for that.
    pub(super) async fn allocate(
        &self,
        segment: &Segment,
        file: &dyn File,
        need: u64,
    ) -> Result<()> {
        let have = segment.allocated.get();
        if need <= have {
            return Ok(());
        }
        let Options { allocation_bytes_min: min, allocation_bytes_max: max, .. } = self.options;
        let wish = (have + have.clamp(min, max)).max(need);
        let mut len = wish;
        let mut result = file.allocate(wish).await;
        if result.as_ref().is_err_and(no_space) && need < wish {
            len = need;
            result = file.allocate(need).await;
        }
        result.map_err(|error| space_or_io("allocate", &segment.path, len, error))?;
        segment.allocated.set(segment.allocated.get().max(len));
        Ok(())
    }

    /// Writes at `at`, in pieces that do not stall the foreground.
    async fn write(&self, segment: &Segment, file: &dyn File, at: u64, bytes: &[u8]) -> Result<()> {
        let mut at = at;
        for piece in bytes.chunks(WRITE_BYTES) {
            let (result, _buf) = write_full(file, at, Buf::copy_of(piece), Sync::No).await;
            result.map_err(|error| self.stop(segment.io("write", at, error)))?;
            at += piece.len() as u64;
        }
        Ok(())
    }

    pub(super) async fn sync(&self, segment: &Segment, file: &dyn File) -> Result<()> {
        let synced = file.sync().await;
        synced.map_err(|error| self.stop(segment.io("sync", 0, error)))
    }
}

/// Distributes batches over blocks: whole ones while they fit; one that no block can hold is cut
/// between records.
pub(super) fn cut(runs: Vec<Run>, bytes_max: usize) -> Vec<Vec<Run>> {
    let room_max = bytes_max - HEAD_BYTES;
    let mut blocks: Vec<Vec<Run>> = Vec::new();
    let mut room = 0;
    for mut run in runs {
        loop {
            let bytes = PART_BYTES + run.body.len();
            if bytes <= room
                && let Some(block) = blocks.last_mut()
            {
                block.push(run);
                room -= bytes;
                break;
            }
            let fitting = run.fitting(room_max - PART_BYTES);
            if fitting >= run.count {
                room = room_max.saturating_sub(bytes);
                blocks.push(vec![run]);
                break;
            }
            let (left, right) = run.split(fitting);
            blocks.push(vec![left]);
            room = 0;
            run = right;
        }
    }
    blocks
}

fn no_space(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

pub(super) fn space_or_io(op: &'static str, path: &str, at: u64, error: io::Error) -> Error {
    if no_space(&error) {
        Error::NoSpace { file: path.to_owned(), bytes: at }
    } else {
        Error::Io { op, file: path.to_owned(), at, source: error }
    }
}

/// What one step of a flush writes before it syncs, so that a long flush makes progress in between.
const STEP_BYTES: usize = 8 << 20;

/// No single write of a flush is larger, lest it delay the journal's.
const WRITE_BYTES: usize = 256 << 10;
