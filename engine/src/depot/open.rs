//! Opening a log from what a fold recorded, and replaying the journal over it.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeSet, VecDeque};
use std::ops::Range;
use std::rc::Rc;

use bytes::Bytes;
use futures_util::lock::Mutex;

use super::batch::{Batch, Decoded, Extent, Head};
use super::bulk::ExtentWrite;
use super::flush::space_or_io;
use super::format::{IndexEntry, Kind};
use super::log::{Core, Inner, Log};
use super::segment::{Segment, Walk, Windows};
use super::state::State;
use super::tail::{Place, Tail};
use super::{Error, Options, Result};
use crate::env::Env;
use crate::probe;
use crate::types::{DepotId, Index, Offset, PartitionId};

/// What became of a replayed payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Replayed {
    /// Its records are in the log now.
    Applied(Range<Offset>),
    /// The log had them.
    Already,
    /// The entry is durable but its extent is damaged. If no frame proves the entry's frame, then neither it
    /// nor any record after it was acknowledged for good, and the log ends at `from`.
    Torn {
        /// The first offset that is gone.
        from: Offset,
        /// The segment with the extent.
        file: String,
        /// Where it is damaged.
        byte: u64,
    },
    /// It lies behind a torn extent and was dropped.
    BeyondCut,
}

/// What recovery found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recovered {
    /// Files that belonged to nothing any more.
    pub files_removed: u32,
    /// Damage behind what the fold recorded, by file and byte. Not an error: the journal has it all.
    pub torn_tail: Option<(String, u64)>,
    /// Where a torn extent cut the log.
    pub cut: Option<Offset>,
}

/// Where, and by which damage, a log was cut.
#[derive(Clone, Debug)]
pub(super) struct Cut {
    offset: Offset,
    file: String,
    byte: u64,
}

impl Log {
    /// Opens the log as the last fold recorded it; `State::default()` for a new one. Its files lie in
    /// `dir`, which is made with the first of them. Checks that every file is there and that the
    /// active one ends as recorded; the rest is checked when it is read.
    ///
    /// Then the entries above the fold come in order, by [`Log::replay`] and [`Log::place`], and
    /// [`Log::recovered`] ends recovery.
    ///
    /// # Errors
    /// [`Error::Corrupt`]: something `from` claims is missing or damaged. [`Error::BadPayload`]: `from`
    /// contradicts itself. [`Error::Io`].
    pub async fn open(
        env: &Env,
        partition: PartitionId,
        depot: DepotId,
        dir: &str,
        from: &State,
        options: Options,
    ) -> Result<Self> {
        from.check()?;
        let inner = Inner {
            env: env.clone(),
            partition,
            depot,
            dir: dir.to_owned(),
            options,
            core: RefCell::new(Core::from_state(from)),
            io: Mutex::new(()),
            failed: Cell::new(false),
            windows: Windows::default(),
            segment_bytes_max: Cell::new(options.segment_bytes_max),
            tail_bytes_max: Cell::new(options.tail_bytes_max),
            torn_tail: RefCell::new(None),
        };
        inner.open_segments(from).await?;
        Ok(Self { inner: Rc::new(inner) })
    }

    /// Applies the payload of an `Append` or `AppendBulk` at its place in the sequence. What comes
    /// from the journal is durable, so the records are. Flushes when the tail cache is above its share.
    ///
    /// # Errors
    /// [`Error::Gap`], [`Error::Conflict`]: the entries do not fit the log. [`Error::BadPayload`].
    /// [`Error::Corrupt`]: an extent is damaged that was durable once. [`Error::Io`].
    pub async fn replay(&self, payload: &[u8]) -> Result<Replayed> {
        let inner = &self.inner;
        let decoded = Decoded::read(payload)?;
        let (Decoded::Append(head, _) | Decoded::Bulk(head, _)) = &decoded;
        if let Some(early) = inner.skip(head, &decoded)? {
            return Ok(early);
        }
        let replayed = match decoded {
            Decoded::Append(head, body) => {
                let batch = inner.batch(&head, Bytes::copy_from_slice(body))?;
                let core = &mut *inner.core.borrow_mut();
                inner.admit(core, &head, &batch, Index(0), Place::Blocks);
                core.journal_durable = core.end;
                Replayed::Applied(head.offsets)
            }
            Decoded::Bulk(head, extent) => inner.replay_extent(&head, &extent).await?,
        };
        if self.wants_flush() {
            self.durable(self.end());
            match self.flush().await {
                // Memory holds it until there is space.
                Ok(_) | Err(Error::NoSpace { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(replayed)
    }

    /// Ends recovery: everything replayed is durable; removes files that belong to nothing.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub async fn recovered(&self) -> Result<Recovered> {
        let inner = &*self.inner;
        let _io = inner.io.lock().await;
        let (cut, known) = {
            let core = &mut *inner.core.borrow_mut();
            core.journal_durable = core.end;
            let waiting = core.tail.from(core.flushed).filter_map(|chunk| match &chunk.place {
                Place::Extent(write) => Some(write.segment.path.clone()),
                Place::Blocks => None,
            });
            let listed = core.segments.iter().chain(&core.trimmed);
            let listed = listed.map(|segment| segment.path.clone());
            let reserve = core.reserve.iter().map(|reserve| reserve.path.clone());
            let known: BTreeSet<String> = listed.chain(waiting).chain(reserve).collect();
            (core.cut.take().map(|cut| cut.offset), known)
        };
        let mut files_removed = 0;
        let listed = inner.env.disk().list(&inner.dir).await;
        let listed = listed.map_err(|error| space_or_io("list", &inner.dir, 0, error))?;
        let prefix = format!("d{}-", inner.depot);
        for name in listed.iter().filter(|name| name.starts_with(&prefix)) {
            let path = format!("{}/{name}", inner.dir);
            if !known.contains(&path) {
                let removed = inner.env.disk().remove(&path).await;
                removed.map_err(|error| space_or_io("remove", &path, 0, error))?;
                files_removed += 1;
            }
        }
        Ok(Recovered { files_removed, torn_tail: inner.torn_tail.borrow().clone(), cut })
    }
}

impl Core {
    fn from_state(state: &State) -> Self {
        Self {
            first: state.first,
            end: state.end,
            journal_durable: state.end,
            flushed: state.end,
            flushed_placed: state.placed,
            placed: state.placed,
            append_time: state.append_time,
            tail: Tail::default(),
            segments: Vec::new(),
            segments_used: VecDeque::new(),
            open_block: None,
            extents: VecDeque::new(),
            bulk_file: None,
            reserve: None,
            reserve_serial: 0,
            dedup: state.dedup.clone(),
            dedup_flushed: state.dedup.clone(),
            extents_used: false,
            cut: None,
            dir_made: false,
            trimmed: Vec::new(),
            waiting: Vec::new(),
        }
    }
}

impl Inner {
    async fn open_segments(&self, from: &State) -> Result<()> {
        if from.segments.is_empty() {
            return Ok(());
        }
        let listed = self.env.disk().list(&self.dir).await;
        let listed = listed.map_err(|error| space_or_io("list", &self.dir, 0, error))?;
        let names: BTreeSet<String> = listed.into_iter().collect();
        let mut segments = Vec::with_capacity(from.segments.len());
        for state in &from.segments {
            let identity = self.identity(state.base, state.file_id);
            let segment = Segment::recorded(identity, self.path(state.base), *state);
            if !names.contains(&format!("d{}-{}", self.depot, state.base)) {
                return Err(segment.corrupt(0, "the file is missing"));
            }
            segments.push(Rc::new(segment));
        }
        let last = segments.last().cloned();
        {
            let mut core = self.core.borrow_mut();
            core.segments = segments;
            core.dir_made = true;
        }
        if let Some(last) = last {
            last.check_last(&self.env, &self.windows).await?;
            if !last.state().sealed {
                *self.torn_tail.borrow_mut() = self.look_behind(&last).await?;
            }
        }
        Ok(())
    }

    /// Looks at what an earlier opening wrote behind the recorded end. The journal has it all, and it
    /// will be written over; damage in it is only reported.
    async fn look_behind(&self, segment: &Segment) -> Result<Option<(String, u64)>> {
        let state = segment.state();
        let windows = Windows::default();
        let readable = segment.file_bytes(&self.env).await?;
        let mut walk =
            Walk { at: state.bytes, chain: state.chain, end: state.end, time: state.append_time };
        for _ in 0..LOOK_BLOCKS_MAX {
            if segment.is_blank(&self.env, walk.at, readable).await? {
                break;
            }
            let found = segment.block_at(&self.env, &windows, walk.at, readable).await;
            let fits = match found {
                Ok(block) if block.head.kind == Kind::Footer => break,
                Ok(block) => walk.step(&block.head).is_ok(),
                Err(Error::Corrupt { .. }) => false,
                Err(error) => return Err(error),
            };
            if !fits {
                probe::reached(probe::State::TornSegmentTail);
                return Ok(Some((segment.path.clone(), walk.at)));
            }
        }
        Ok(None)
    }

    /// Whether a payload has nothing to add.
    fn skip(&self, head: &Head, decoded: &Decoded<'_>) -> Result<Option<Replayed>> {
        let core = self.core.borrow();
        if head.depot != self.depot {
            return Err(Error::BadPayload { what: "the payload is of another depot" });
        }
        if let Some(cut) = &core.cut {
            if head.proof.is_some_and(|proof| proof > cut.offset) {
                let what = "an extent is damaged that was durable when later entries were written";
                return Err(Error::Corrupt { file: cut.file.clone(), byte: cut.byte, what });
            }
            return Ok(Some(Replayed::BeyondCut));
        }
        if head.offsets.end <= core.end {
            let known = core.tail.first().is_some_and(|t| t.first() <= head.offsets.start);
            let same = match (core.tail.from(head.offsets.start).next(), decoded) {
                (Some(chunk), Decoded::Append(_, body)) if known => {
                    chunk.first() == head.offsets.start && chunk.run.body == *body
                }
                _ => true,
            };
            let offset = head.offsets.start;
            return if same {
                Ok(Some(Replayed::Already))
            } else {
                Err(Error::Conflict { offset })
            };
        }
        if head.offsets.start != core.end {
            return Err(Error::Gap { expected: core.end, found: head.offsets.start });
        }
        self.check_running()?;
        Ok(None)
    }

    fn batch(&self, head: &Head, body: Bytes) -> Result<Batch> {
        let batch = Batch::from_body(body, head.count())?;
        self.check(&batch)?;
        Ok(match head.key {
            Some(key) => batch.with_key(key),
            None => batch,
        })
    }

    async fn replay_extent(&self, head: &Head, extent: &Extent) -> Result<Replayed> {
        let (segment, known) = self.extent_segment(extent);
        match self.verify_extent(&segment, head, extent).await {
            Ok((body, write)) => {
                // What is seen now need not be durable: the crash may have come before the sync.
                let file = segment.file(&self.env).await?;
                self.sync(&segment, &*file).await?;
                if !known {
                    self.make_dir().await?;
                    self.sync_dir(&segment).await?;
                }
                let batch = self.batch(head, body)?;
                let core = &mut *self.core.borrow_mut();
                let write = Rc::new(write);
                self.admit(core, head, &batch, Index(0), Place::Extent(Rc::clone(&write)));
                core.bulk_file = Some(write.followed_by());
                core.extents_used = true;
                core.journal_durable = core.end;
                Ok(Replayed::Applied(head.offsets.clone()))
            }
            Err(Error::Corrupt { file, byte, .. }) => {
                probe::reached(probe::State::TornBulkExtent);
                let from = head.offsets.start;
                let cut = Cut { offset: from, file: file.clone(), byte };
                self.core.borrow_mut().cut = Some(cut);
                Ok(Replayed::Torn { from, file, byte })
            }
            Err(error) => Err(error),
        }
    }

    /// The segment an extent lies in, and whether its name is known to be durable.
    fn extent_segment(&self, extent: &Extent) -> (Rc<Segment>, bool) {
        let core = self.core.borrow();
        let identity = self.identity(extent.base, extent.file_id);
        let active = core.segments.last().filter(|segment| !segment.state().sealed);
        let bulk = core.bulk_file.as_ref().map(|bulk| &bulk.segment);
        let known = active.into_iter().chain(bulk).find(|s| s.identity == identity);
        if let Some(segment) = known {
            return (Rc::clone(segment), true);
        }
        let path = self.path(extent.base);
        (Rc::new(Segment::new(identity, path, core.append_time)), false)
    }

    /// Checks every byte of an extent and collects its records.
    async fn verify_extent(
        &self,
        segment: &Rc<Segment>,
        head: &Head,
        extent: &Extent,
    ) -> Result<(Bytes, ExtentWrite)> {
        const WRONG: &str = "the extent is not the one its entry describes";
        let corrupt = |at, what| segment.corrupt(at, what);
        let end = extent.at.checked_add(extent.bytes).ok_or_else(|| corrupt(extent.at, WRONG))?;
        // Not the log's own windows: a torn extent is written over later.
        let windows = Windows::default();
        let mut body = Vec::new();
        let mut index = Vec::new();
        let mut last_at = extent.at;
        let mut walk = Walk {
            at: extent.at,
            chain: extent.chain_before,
            end: head.offsets.start,
            time: head.append_time,
        };
        while walk.at < end {
            last_at = walk.at;
            let block = segment.block_at(&self.env, &windows, walk.at, end).await?;
            walk.step(&block.head).map_err(|what| corrupt(last_at, what))?;
            let runs = block.runs().map_err(|what| corrupt(last_at, what))?;
            for run in &runs {
                body.extend_from_slice(&run.body);
            }
            if body.len() > head.body_bytes as usize {
                return Err(corrupt(last_at, WRONG));
            }
            let entry =
                IndexEntry { first: block.head.first, time: block.head.time_first, at: last_at };
            index.push(entry);
            if self.env.should_yield() {
                self.env.yield_now().await;
            }
        }
        let fits = walk.at == end
            && walk.chain == extent.chain_after
            && walk.end == head.offsets.end
            && walk.time == head.append_time
            && body.len() == head.body_bytes as usize;
        if !fits {
            return Err(corrupt(last_at, WRONG));
        }
        let write = ExtentWrite {
            segment: Rc::clone(segment),
            first: head.offsets.start,
            end: head.offsets.end,
            extent: *extent,
            last_at,
            append_time: head.append_time,
            index,
            done: Cell::new(true),
        };
        Ok((Bytes::from(body), write))
    }
}

/// How many blocks behind the recorded end are looked at when a log is opened; each is a read.
const LOOK_BLOCKS_MAX: usize = 16;
