//! The bulk path: a large batch goes straight to its place in a segment, and the journal carries only
//! where that is and a checksum.
//!
//! An extent is a run of ordinary blocks. Extents that follow each other directly share a file; where
//! other records came between, a new file begins, because only a flush decides how many bytes those
//! take. So an extent never has to be moved, and recovery finds it where its entry says.

use std::cell::Cell;
use std::ops::Range;
use std::rc::Rc;

use futures_util::stream::{self, StreamExt, TryStreamExt};

use super::batch::{Batch, Extent, Head, LENGTH_BYTES, Payload, Tail as PayloadTail};
use super::flush::{StopOnDrop, cut, space_or_io};
use super::format::{
    FIRST_BLOCK_AT, HEAD_BYTES, IndexEntry, PART_BYTES, block_bytes, encode_block, encode_header,
};
use super::log::{Appended, Core, Inner, Log};
use super::records::Run;
use super::segment::Segment;
use super::state::SegmentState;
use super::tail::Place;
use super::{Error, Result};
use crate::env::{BLOCK_BYTES, Buf, File, IO_BYTES_MAX, LocalFuture, Sync, write_full};
use crate::types::{Index, Offset, WallTime};

/// The answer to a bulk append.
pub enum Bulk {
    /// Journal the payload and run `write`, both at once; the records are durable when both are,
    /// and [`Log::durable_end`] says so.
    Done {
        /// Offsets, time, and the payload of the entry `AppendBulk`.
        appended: Appended,
        /// Writes and syncs the records. Its error means that the shard has to stop. Dropping it
        /// unfinished stops the log.
        write: LocalFuture<'static, Result<()>>,
    },
    /// As [`super::Append::Repeated`].
    Repeated(Range<Offset>),
}

impl std::fmt::Debug for Bulk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Done { appended, .. } => f.debug_tuple("Done").field(appended).finish(),
            Self::Repeated(offsets) => f.debug_tuple("Repeated").field(offsets).finish(),
        }
    }
}

/// An extent on its way to the disk, or there.
#[derive(Debug)]
pub(super) struct ExtentWrite {
    pub(super) segment: Rc<Segment>,
    pub(super) first: Offset,
    pub(super) end: Offset,
    pub(super) extent: Extent,
    /// Where its last block starts.
    pub(super) last_at: u64,
    pub(super) append_time: WallTime,
    pub(super) index: Vec<IndexEntry>,
    /// Written and synced.
    pub(super) done: Cell<bool>,
}

impl ExtentWrite {
    /// The state of its segment once it counts.
    pub(super) fn state_after(&self) -> SegmentState {
        SegmentState {
            base: self.extent.base,
            end: self.end,
            file_id: self.extent.file_id,
            bytes: self.extent.at + self.extent.bytes,
            last_at: self.last_at,
            chain: self.extent.chain_after,
            append_time: self.append_time,
            sealed: false,
        }
    }
}

/// Where the next extent goes if no other record comes before it.
#[derive(Clone, Debug)]
pub(super) struct BulkFile {
    pub(super) segment: Rc<Segment>,
    pub(super) at: u64,
    pub(super) chain: u32,
}

/// A file that waits for its first extent, allocated under a provisional name, since the offset that
/// names it is not known before.
pub(super) struct Reserve {
    pub(super) path: String,
    file: Rc<dyn File>,
    allocated: u64,
}

impl std::fmt::Debug for Reserve {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reserve").field("path", &self.path).finish_non_exhaustive()
    }
}

/// What has to be written for one extent.
struct Work {
    write: Rc<ExtentWrite>,
    pieces: Vec<(u64, Buf)>,
    /// The provisional name of a new file.
    rename_from: Option<String>,
}

impl Log {
    /// Allocates what a bulk append of a body of `body_bytes` takes. A call of [`Log::append_bulk`]
    /// before anything else is awaited then finds it.
    ///
    /// # Errors
    /// [`Error::NoSpace`]; [`Error::Io`], [`Error::Stopped`].
    pub async fn reserve_bulk(&self, body_bytes: usize) -> Result<()> {
        let need = extent_bytes_max(body_bytes);
        let inner = &*self.inner;
        let _io = inner.io.lock().await;
        inner.check_running()?;
        loop {
            let follow = inner.core.borrow().following(inner, need);
            if let Some(bulk) = follow {
                if bulk.at + need <= bulk.segment.allocated.get() {
                    return Ok(());
                }
                let file = bulk.segment.file(&inner.env).await?;
                inner.allocate(&bulk.segment, &*file, bulk.at + need).await?;
                continue;
            }
            let len = FIRST_BLOCK_AT + need;
            let reserved = {
                let core = inner.core.borrow();
                core.reserve.as_ref().map(|r| (r.path.clone(), Rc::clone(&r.file), r.allocated))
            };
            let (path, file) = match reserved {
                Some((_, _, allocated)) if len <= allocated => return Ok(()),
                Some((path, file, _)) => (path, file),
                None => inner.new_reserve().await?,
            };
            let len = len.max(inner.options.allocation_bytes_min);
            let allocated = file.allocate(len).await;
            allocated.map_err(|error| space_or_io("allocate", &path, len, error))?;
            if let Some(reserve) = &mut inner.core.borrow_mut().reserve {
                reserve.allocated = len;
            }
        }
    }

    /// As [`Log::append`], for [`super::Options::bulk_bytes_min`] and more.
    ///
    /// # Errors
    /// [`Error::NotReserved`] without [`Log::reserve_bulk`]; as [`Log::append`]. Nothing was
    /// appended then.
    pub fn append_bulk(&self, batch: &Batch, now: WallTime) -> Result<Bulk> {
        let inner = &self.inner;
        inner.check(batch)?;
        let core = &mut *inner.core.borrow_mut();
        if let Some(offsets) = batch.key().and_then(|key| core.dedup.lookup(key)) {
            return Ok(Bulk::Repeated(offsets));
        }
        assert!(core.cut.is_none(), "recovered() comes before the first append");
        let head = inner.next_head(core, batch, now);
        let run = Run {
            first: head.offsets.start,
            count: batch.count(),
            append_time: head.append_time,
            body: batch.body().clone(),
        };
        let blocks = cut(vec![run], BULK_BLOCK_BYTES);
        let bytes: u64 = blocks.iter().map(|block| block_bytes(block) as u64).sum();
        let (bulk, rename_from) = inner.place_extent(core, bytes)?;
        let work = encode(&bulk, &head, &blocks, rename_from);
        let write = Rc::clone(&work.write);
        let payload = Payload::new(&head, &PayloadTail::Extent(&write.extent));
        core.extents_used = true;
        core.extents.push_back(Rc::clone(&write));
        inner.admit(core, &head, batch, Index(0), Place::Extent(Rc::clone(&write)));
        core.bulk_file = Some(write.followed_by());
        let Head { offsets, append_time, .. } = head;
        // Made here and not at the first poll: an extent that is never written would hold back all
        // that comes after it.
        let guard = StopOnDrop::new(inner);
        let inner = Rc::clone(inner);
        let write = Box::pin(async move {
            let result = inner.write_extent(work).await;
            guard.disarm();
            result.map_err(|error| inner.stop(error))
        });
        Ok(Bulk::Done { appended: Appended { offsets, append_time, payload }, write })
    }
}

impl ExtentWrite {
    /// Where the next extent would go.
    pub(super) fn followed_by(&self) -> BulkFile {
        BulkFile {
            segment: Rc::clone(&self.segment),
            at: self.extent.at + self.extent.bytes,
            chain: self.extent.chain_after,
        }
    }
}

impl Core {
    /// The file that can take an extent of `bytes` behind the last one.
    fn following(&self, inner: &Inner, bytes: u64) -> Option<BulkFile> {
        let fits = |bulk: &&BulkFile| bulk.at + bytes <= inner.segment_bytes_max.get();
        self.bulk_file.as_ref().filter(fits).cloned()
    }
}

impl Inner {
    /// Finds the place of an extent of `bytes`; with it, the provisional name if its file is new.
    fn place_extent(&self, core: &mut Core, bytes: u64) -> Result<(BulkFile, Option<String>)> {
        if let Some(bulk) = core.following(self, bytes)
            && bulk.at + bytes <= bulk.segment.allocated.get()
        {
            return Ok((bulk, None));
        }
        let fits = |reserve: &mut Reserve| FIRST_BLOCK_AT + bytes <= reserve.allocated;
        let Some(reserve) = core.reserve.take_if(fits) else {
            return Err(Error::NotReserved { bytes });
        };
        let identity = self.identity(core.end, self.env.random());
        let segment = Segment::new(identity, self.path(core.end), core.append_time);
        segment.attach(reserve.file);
        segment.allocated.set(reserve.allocated);
        let chain = segment.state().chain;
        let bulk = BulkFile { segment: Rc::new(segment), at: FIRST_BLOCK_AT, chain };
        Ok((bulk, Some(reserve.path)))
    }

    async fn new_reserve(&self) -> Result<(String, Rc<dyn File>)> {
        self.make_dir().await?;
        let serial = {
            let mut core = self.core.borrow_mut();
            core.reserve_serial += 1;
            core.reserve_serial
        };
        let path = format!("{}/d{}-reserve-{serial}", self.dir, self.depot);
        let file = self.create(&path).await?;
        let reserve = Reserve { path: path.clone(), file: Rc::clone(&file), allocated: 0 };
        self.core.borrow_mut().reserve = Some(reserve);
        Ok((path, file))
    }

    async fn write_extent(&self, work: Work) -> Result<()> {
        let _io = self.io.lock().await;
        let Work { write, pieces, rename_from } = work;
        let segment = &*write.segment;
        self.check_running()?;
        let file = segment.file(&self.env).await?;
        if let Some(from) = &rename_from {
            let renamed = self.env.disk().rename(from, &segment.path).await;
            renamed.map_err(|error| segment.io("rename", 0, error))?;
        }
        stream::iter(pieces)
            .map(|(at, buf)| {
                let file = Rc::clone(&file);
                async move {
                    let (result, _buf) = write_full(&*file, at, buf, Sync::No).await;
                    result.map_err(|error| segment.io("write", at, error))
                }
            })
            .buffer_unordered(WRITES_IN_FLIGHT)
            .try_for_each(|()| async { Ok(()) })
            .await?;
        self.sync(segment, &*file).await?;
        if rename_from.is_some() {
            self.sync_dir(segment).await?;
        }
        write.done.set(true);
        let core = &mut *self.core.borrow_mut();
        while core.extents.pop_front_if(|extent| extent.done.get()).is_some() {}
        core.wake();
        Ok(())
    }
}

/// Encodes an extent's blocks, and the header before them if the file is new.
fn encode(bulk: &BulkFile, head: &Head, blocks: &[Vec<Run>], rename_from: Option<String>) -> Work {
    let file_id = bulk.segment.identity.file_id;
    let mut pieces = Vec::new();
    if rename_from.is_some() {
        let (header, _) = encode_header(&bulk.segment.identity);
        pieces.push((0, Buf::copy_of(&header)));
    }
    let mut at = bulk.at;
    let mut chain = bulk.chain;
    let mut last_at = at;
    let mut index = Vec::with_capacity(blocks.len());
    let mut rest = blocks;
    while let Some(group) = next_group(&mut rest) {
        let bytes: usize = group.iter().map(|block| block_bytes(block)).sum();
        let mut buf = Buf::zeroed(bytes);
        let mut from = 0;
        for block in group {
            last_at = at + from as u64;
            let to = from + block_bytes(block);
            chain = encode_block(&mut buf[from..to], block, file_id, last_at, chain);
            let entry =
                IndexEntry { first: block[0].first, time: block[0].append_time, at: last_at };
            index.push(entry);
            from = to;
        }
        if bytes <= IO_BYTES_MAX {
            pieces.push((at, buf));
        } else {
            let parts = buf.chunks(IO_BYTES_MAX).enumerate();
            pieces.extend(
                parts.map(|(n, part)| (at + (n * IO_BYTES_MAX) as u64, Buf::copy_of(part))),
            );
        }
        at += bytes as u64;
    }
    let extent = Extent {
        base: bulk.segment.identity.base,
        file_id,
        at: bulk.at,
        bytes: at - bulk.at,
        chain_before: bulk.chain,
        chain_after: chain,
    };
    let write = Rc::new(ExtentWrite {
        segment: Rc::clone(&bulk.segment),
        first: head.offsets.start,
        end: head.offsets.end,
        extent,
        last_at,
        append_time: head.append_time,
        index,
        done: Cell::new(false),
    });
    Work { write, pieces, rename_from }
}

/// Takes as many blocks as one write can carry, at least one.
fn next_group<'a>(rest: &mut &'a [Vec<Run>]) -> Option<&'a [Vec<Run>]> {
    let mut bytes = 0;
    let fitting = rest.iter().take_while(|block| {
        bytes += block_bytes(block);
        bytes <= IO_BYTES_MAX
    });
    let count = fitting.count().max(1).min(rest.len());
    let (group, behind) = rest.split_at(count);
    *rest = behind;
    (!group.is_empty()).then_some(group)
}

/// No extent of a body this long takes more: two neighbouring blocks together hold more than one
/// block's room, or a record would have gone into the first.
fn extent_bytes_max(body_bytes: usize) -> u64 {
    let blocks = 2 * (body_bytes / (BULK_BLOCK_BYTES - HEAD_BYTES - PART_BYTES)) + 2;
    (body_bytes + blocks * (HEAD_BYTES + PART_BYTES + LENGTH_BYTES + BLOCK_BYTES)) as u64
}

/// Larger than a flush's blocks: fewer heads, and one read brings a quarter of a megabyte.
const BULK_BLOCK_BYTES: usize = 256 << 10;

/// Measured: four writes of 1 MiB in flight fill the device.
const WRITES_IN_FLIGHT: usize = 4;
