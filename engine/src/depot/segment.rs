//! One segment file: who it is, how far it is written, its sparse index, and reading blocks.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io;
use std::rc::Rc;

use bytes::Bytes;

use super::format::{
    BYTES_MAX, FIRST_BLOCK_AT, HEAD_BYTES, Head, Identity, IndexEntry, Kind, Wrong, decode_entries,
    decode_header, decode_parts, encode_header,
};
use super::records::Run;
use super::state::SegmentState;
use super::{Error, Result};
use crate::env::{BLOCK_BYTES, Buf, Env, File, IO_BYTES_MAX, Open, read_full};
use crate::types::{Offset, WallTime};

/// An open or openable segment file.
pub(super) struct Segment {
    pub(super) identity: Identity,
    pub(super) path: String,
    state: Cell<SegmentState>,
    file: RefCell<Option<Rc<dyn File>>>,
    /// Bytes that are allocated for sure.
    pub(super) allocated: Cell<u64>,
    /// What was in it when it was opened; `None` if it was made by this opening.
    opened: Option<SegmentState>,
    /// Index of the blocks below `opened`, once somebody asked.
    index_opened: RefCell<Option<Rc<Vec<IndexEntry>>>>,
    /// Index of the blocks written since.
    index_new: RefCell<Vec<IndexEntry>>,
}

impl std::fmt::Debug for Segment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Segment").field("path", &self.path).finish_non_exhaustive()
    }
}

/// A block that was checked against its checksum.
#[derive(Debug)]
pub(super) struct Block {
    pub(super) head: Head,
    bytes: Bytes,
}

impl Block {
    /// Its records; bodies share the block's memory.
    pub(super) fn runs(&self) -> Result<Vec<Run>, Wrong> {
        let mut first = self.head.first;
        let mut runs = Vec::new();
        for (append_time, count, body) in decode_parts(&self.bytes, &self.head)? {
            runs.push(Run { first, count, append_time, body: self.bytes.slice(body) });
            first = first.advance(u64::from(count));
        }
        Ok(runs)
    }
}

/// The few pieces of segments that were read last: a sequential reader finds its next block here.
#[derive(Debug, Default)]
pub(super) struct Windows {
    windows: RefCell<VecDeque<Rc<Window>>>,
}

#[derive(Debug)]
struct Window {
    file_id: u64,
    at: u64,
    bytes: Bytes,
    /// Where the last block starts that was checked here; saves checking it at each small read.
    checked: Cell<Option<u64>>,
}

impl Windows {
    fn find(&self, file_id: u64, at: u64) -> Option<Rc<Window>> {
        let mut windows = self.windows.borrow_mut();
        let slot = windows
            .iter()
            .position(|w| w.file_id == file_id && w.at <= at && at < w.at + w.bytes.len() as u64)?;
        let window = windows.remove(slot)?;
        windows.push_back(Rc::clone(&window));
        Some(window)
    }

    /// Forgets them.
    pub(super) fn clear(&self) {
        self.windows.borrow_mut().clear();
    }

    /// Memory they take.
    pub(super) fn bytes(&self) -> usize {
        self.windows.borrow().iter().map(|window| window.bytes.len()).sum()
    }

    fn put(&self, window: &Rc<Window>) {
        let mut windows = self.windows.borrow_mut();
        if windows.len() >= WINDOWS_MAX {
            windows.pop_front();
        }
        windows.push_back(Rc::clone(window));
    }
}

/// A buffer that [`Bytes`] can own.
struct Owned(Buf);

impl AsRef<[u8]> for Owned {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Segment {
    /// A segment that is to be made, with nothing in it but its header; `time` is the append time of
    /// the record before its first.
    pub(super) fn new(identity: Identity, path: String, time: WallTime) -> Self {
        let (_, chain) = encode_header(&identity);
        let state = SegmentState {
            base: identity.base,
            end: identity.base,
            file_id: identity.file_id,
            bytes: FIRST_BLOCK_AT,
            last_at: 0,
            chain,
            append_time: time,
            sealed: false,
        };
        Self {
            identity,
            path,
            state: Cell::new(state),
            file: RefCell::new(None),
            allocated: Cell::new(0),
            opened: None,
            index_opened: RefCell::new(None),
            index_new: RefCell::new(Vec::new()),
        }
    }

    /// A segment that a fold recorded.
    pub(super) fn recorded(identity: Identity, path: String, state: SegmentState) -> Self {
        let segment = Self::new(identity, path, state.append_time);
        segment.state.set(state);
        Self { opened: Some(state), ..segment }
    }

    /// How far it is written and synced.
    pub(super) fn state(&self) -> SegmentState {
        self.state.get()
    }

    /// Moves on, once what `state` says is synced.
    pub(super) fn advance(&self, state: SegmentState, index: &[IndexEntry]) {
        let before = self.state.replace(state);
        assert!(before.end <= state.end && !before.sealed, "only active segments grow");
        let mut entries = self.index_new.borrow_mut();
        for entry in index {
            let sparse = entries.last().is_none_or(|last| entry.at >= last.at + INDEX_EVERY);
            if sparse {
                entries.push(*entry);
            }
        }
    }

    /// The error for damage at `byte`.
    pub(super) fn corrupt(&self, byte: u64, what: Wrong) -> Error {
        Error::Corrupt { file: self.path.clone(), byte, what }
    }

    /// The error for a failed operation.
    pub(super) fn io(&self, op: &'static str, at: u64, source: io::Error) -> Error {
        Error::Io { op, file: self.path.clone(), at, source }
    }

    /// Uses `file` from here on.
    pub(super) fn attach(&self, file: Rc<dyn File>) {
        *self.file.borrow_mut() = Some(file);
    }

    /// Lets go of the file and the index of a segment that is not written any more.
    pub(super) fn rest(&self) {
        if self.state.get().sealed {
            *self.file.borrow_mut() = None;
            if self.opened.is_some_and(|opened| opened.sealed) {
                *self.index_opened.borrow_mut() = None;
            }
        }
    }

    /// The file, opened and its header checked if nobody has yet.
    pub(super) async fn file(&self, env: &Env) -> Result<Rc<dyn File>> {
        if let Some(file) = &*self.file.borrow() {
            return Ok(Rc::clone(file));
        }
        let file = match env.disk().open(&self.path, Open::Existing).await {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(self.corrupt(0, "the file is missing"));
            }
            Err(error) => return Err(self.io("open", 0, error)),
        };
        let header = self.read_raw(&*file, 0, BLOCK_BYTES).await?;
        let (identity, _) = decode_header(&header).map_err(|what| self.corrupt(0, what))?;
        if identity != self.identity {
            return Err(self.corrupt(0, "the header is that of another segment"));
        }
        self.attach(Rc::clone(&file));
        Ok(file)
    }

    /// How many bytes the file has, in whole blocks.
    pub(super) async fn file_bytes(&self, env: &Env) -> Result<u64> {
        let file = self.file(env).await?;
        let len = file.len().map_err(|error| self.io("measure", 0, error))?;
        Ok(len - len % BLOCK_BYTES as u64)
    }

    /// Whether the block at `at` was never written, or lies beyond the file's end.
    pub(super) async fn is_blank(&self, env: &Env, at: u64, file_bytes: u64) -> Result<bool> {
        if file_bytes < at + BLOCK_BYTES as u64 {
            return Ok(true);
        }
        let file = self.file(env).await?;
        Ok(self.read_raw(&*file, at, BLOCK_BYTES).await?.iter().all(|&byte| byte == 0))
    }

    /// Reads whole blocks; the file's end is damage, since callers know how long it is.
    async fn read_raw(&self, file: &dyn File, at: u64, bytes: usize) -> Result<Bytes> {
        let wrap = |error: io::Error, at| match error.kind() {
            io::ErrorKind::UnexpectedEof => self.corrupt(at, "the file ends too early"),
            _ => self.io("read", at, error),
        };
        if bytes <= IO_BYTES_MAX {
            let (result, buf) = read_full(file, at, Buf::zeroed(bytes)).await;
            result.map_err(|error| wrap(error, at))?;
            return Ok(Bytes::from_owner(Owned(buf)));
        }
        let mut all = Vec::with_capacity(bytes);
        while all.len() < bytes {
            let piece_at = at + all.len() as u64;
            let piece = Buf::zeroed((bytes - all.len()).min(IO_BYTES_MAX));
            let (result, buf) = read_full(file, piece_at, piece).await;
            result.map_err(|error| wrap(error, piece_at))?;
            all.extend_from_slice(&buf);
        }
        Ok(Bytes::from(all))
    }

    /// Reads and checks the block or footer at `at`; bytes at or above `readable` may change while
    /// they are read and are not touched.
    pub(super) async fn block_at(
        &self,
        env: &Env,
        windows: &Windows,
        at: u64,
        readable: u64,
    ) -> Result<Block> {
        const CUT: Wrong = "the block reaches beyond what was written";
        let file_id = self.identity.file_id;
        let mut window = match windows.find(file_id, at) {
            Some(window) => window,
            None => self.window(env, windows, at, readable, WINDOW_BYTES).await?,
        };
        let inside = |window: &Window| usize::try_from(at - window.at).expect("found in it");
        let rest = window.bytes.get(inside(&window)..).unwrap_or_default();
        let head = Head::decode(rest, file_id, at).map_err(|what| self.corrupt(at, what))?;
        let bytes = head.bytes();
        if at + bytes as u64 > readable {
            return Err(self.corrupt(at, CUT));
        }
        if bytes > rest.len() {
            window = self.window(env, windows, at, readable, bytes.max(WINDOW_BYTES)).await?;
        }
        let from = inside(&window);
        let block = window.bytes.get(from..from + bytes).ok_or_else(|| self.corrupt(at, CUT))?;
        // Read anew, the head could differ from the one decoded above.
        let head = Head::decode(block, file_id, at).map_err(|what| self.corrupt(at, what))?;
        if window.checked.get() != Some(at) {
            head.check(block).map_err(|what| self.corrupt(at, what))?;
            window.checked.set(Some(at));
        }
        Ok(Block { head, bytes: window.bytes.slice(from..from + bytes) })
    }

    async fn window(
        &self,
        env: &Env,
        windows: &Windows,
        at: u64,
        readable: u64,
        bytes: usize,
    ) -> Result<Rc<Window>> {
        assert!(bytes <= BYTES_MAX, "heads with larger lengths are refused");
        let left = usize::try_from(readable.saturating_sub(at)).unwrap_or(usize::MAX);
        if left < BLOCK_BYTES {
            return Err(self.corrupt(at, "a block is missing"));
        }
        let file = self.file(env).await?;
        let bytes = self.read_raw(&*file, at, bytes.min(left)).await?;
        let file_id = self.identity.file_id;
        let window = Rc::new(Window { file_id, at, bytes, checked: Cell::new(None) });
        windows.put(&window);
        Ok(window)
    }

    /// The last index entry for which `below` holds, or the first block.
    pub(super) async fn seek(
        &self,
        env: &Env,
        windows: &Windows,
        below: impl Fn(&IndexEntry) -> bool,
    ) -> Result<u64> {
        {
            let new = self.index_new.borrow();
            let slot = new.partition_point(&below);
            if let Some(entry) = slot.checked_sub(1).and_then(|slot| new.get(slot)) {
                return Ok(entry.at);
            }
        }
        let opened = self.index_of_opened(env, windows).await?;
        let slot = opened.partition_point(below);
        Ok(slot.checked_sub(1).and_then(|slot| opened.get(slot)).map_or(FIRST_BLOCK_AT, |e| e.at))
    }

    /// The whole sparse index.
    pub(super) async fn index(&self, env: &Env, windows: &Windows) -> Result<Vec<IndexEntry>> {
        let mut all = self.index_of_opened(env, windows).await?.to_vec();
        all.extend_from_slice(&self.index_new.borrow());
        Ok(all)
    }

    async fn index_of_opened(&self, env: &Env, windows: &Windows) -> Result<Rc<Vec<IndexEntry>>> {
        if let Some(index) = &*self.index_opened.borrow() {
            return Ok(Rc::clone(index));
        }
        let index = match self.opened {
            None => Vec::new(),
            Some(opened) if opened.sealed => {
                let footer = self.block_at(env, windows, opened.last_at, opened.bytes).await?;
                self.expect_last(&footer, &opened)?;
                decode_entries(&footer.bytes, &footer.head)
                    .map_err(|what| self.corrupt(opened.last_at, what))?
            }
            Some(opened) => self.scan(env, windows, &opened).await?,
        };
        let index = Rc::new(index);
        *self.index_opened.borrow_mut() = Some(Rc::clone(&index));
        Ok(index)
    }

    /// Rebuilds the index of an active segment from its blocks, checking all of them.
    async fn scan(
        &self,
        env: &Env,
        windows: &Windows,
        opened: &SegmentState,
    ) -> Result<Vec<IndexEntry>> {
        let mut index: Vec<IndexEntry> = Vec::new();
        let mut walk = Walk::start(&self.identity);
        while walk.at < opened.bytes {
            let block = self.block_at(env, windows, walk.at, opened.bytes).await?;
            let entry =
                IndexEntry { first: block.head.first, time: block.head.time_first, at: walk.at };
            walk.step(&block.head).map_err(|what| self.corrupt(walk.at, what))?;
            if index.last().is_none_or(|last| entry.at >= last.at + INDEX_EVERY) {
                index.push(entry);
            }
            if env.should_yield() {
                env.yield_now().await;
            }
        }
        if (walk.end, walk.chain) != (opened.end, opened.chain) {
            return Err(self.corrupt(opened.last_at, "the blocks are not those the fold recorded"));
        }
        Ok(index)
    }

    /// Checks that the file ends as the fold recorded it: its last structure is there.
    pub(super) async fn check_last(&self, env: &Env, windows: &Windows) -> Result<()> {
        let Some(opened) = self.opened else { return Ok(()) };
        if opened.last_at == 0 {
            let (_, chain) = encode_header(&self.identity);
            self.file(env).await?;
            if chain != opened.chain {
                return Err(self.corrupt(0, "the header is not the one the fold recorded"));
            }
            return Ok(());
        }
        let block = self.block_at(env, windows, opened.last_at, opened.bytes).await?;
        self.expect_last(&block, &opened)
    }

    fn expect_last(&self, block: &Block, opened: &SegmentState) -> Result<()> {
        let kind = if opened.sealed { Kind::Footer } else { Kind::Block };
        let end = match block.head.kind {
            Kind::Footer => Ok(block.head.first),
            Kind::Block => block.head.end(),
        };
        let fits = block.head.kind == kind
            && block.head.crc == opened.chain
            && end == Ok(opened.end)
            && opened.last_at + block.head.bytes() as u64 == opened.bytes;
        if fits {
            return Ok(());
        }
        Err(self.corrupt(opened.last_at, "the last block is not the one the fold recorded"))
    }
}

/// Follows the chain of a file's blocks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Walk {
    /// Where the next block starts.
    pub(super) at: u64,
    pub(super) chain: u32,
    /// The offset it starts with.
    pub(super) end: Offset,
    pub(super) time: WallTime,
}

impl Walk {
    /// At a file's first block.
    pub(super) fn start(identity: &Identity) -> Self {
        let (_, chain) = encode_header(identity);
        Self { at: FIRST_BLOCK_AT, chain, end: identity.base, time: WallTime(0) }
    }

    /// Goes over a checked block, if it is the next one.
    pub(super) fn step(&mut self, head: &Head) -> Result<(), Wrong> {
        if head.chain_before != self.chain {
            return Err("the block does not follow the one before it");
        }
        if head.first != self.end {
            return Err("offsets are missing between this block and the one before it");
        }
        if head.time_first < self.time || head.time_last < head.time_first {
            return Err("append times run backwards");
        }
        if head.kind == Kind::Footer {
            return Err("a footer stands where a block was expected");
        }
        self.end = head.end()?;
        self.at += head.bytes() as u64;
        self.chain = head.crc;
        self.time = head.time_last;
        Ok(())
    }
}

/// One index entry for so many bytes: a read walks over at most this and one block.
const INDEX_EVERY: u64 = 32 << 10;

/// What is read ahead.
const WINDOW_BYTES: usize = 256 << 10;

/// Pieces kept per log; as many sequential readers do not disturb each other.
const WINDOWS_MAX: usize = 2;

const _: () = assert!(HEAD_BYTES <= BLOCK_BYTES && WINDOW_BYTES <= IO_BYTES_MAX);
