//! PStates as bytes: the copy-on-write trees of one partition and the writes that lie over them.
//!
//! ```text
//!   WriteSet            one attempt's own writes, not yet prepared
//!   stacked Runs        prepared or not yet visible, per topology in id order
//!   memtable            visible, not yet in a tree
//!   frozen memtable     being folded
//!   trees               on disk, one per PState, under one root
//! ```
//!
//! A reader looks from the top down and takes the first layer that knows its key: as a value, as a
//! deletion, or as covered by a range delete. Within a layer a key always wins over a range, since a
//! range delete drops the keys below it that came earlier.

use std::ops::{Bound, ControlFlow};
use std::rc::Rc;

use crate::env::Env;
use crate::page::Cache;
pub use crate::page::Error;
use crate::types::{Index, MicrobatchId, PStateId, PartitionId, TopologyId};

/// The longest key.
pub const KEY_BYTES_MAX: usize = 1024;

/// The largest value.
pub const VALUE_BYTES_MAX: usize = 16 << 20;

/// The trees of one partition and what lies over them. Cheap to clone; stays on its shard.
#[derive(Clone, Debug)]
pub struct Store {
    inner: Rc<()>,
}

/// What was found when a store was opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opened {
    /// Every entry up to here is contained, except what `pending` names.
    pub covers: Index,
    /// Entries at or below `covers` that are prepares whose outcome is not contained, ascending.
    pub pending: Vec<Index>,
    /// The number of the fold that wrote the root; 0 if there was none yet.
    pub fold: u64,
}

/// What a fold did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FoldReport {
    /// Its number.
    pub fold: u64,
    /// Pages written, the root's block not counted.
    pub pages_written: u64,
    /// Pages that live now, over all trees and tables.
    pub pages_live: u64,
    /// The file's length in bytes.
    pub file_bytes: u64,
    /// Bytes of memory given back.
    pub memtable_bytes: u64,
}

/// One tree, as the catalogue has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TreeInfo {
    /// Whose tree it is.
    pub pstate: PStateId,
    /// Keys in the tree; what lies over it is not counted.
    pub entries: u64,
    /// Levels, leaves included; 0 for an empty tree.
    pub depth: u8,
    /// The free-form bytes set with [`Store::describe`].
    pub description: Vec<u8>,
}

/// Which layers a reader sees.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    topology: Option<(TopologyId, MicrobatchId)>,
    writes: Option<&'a WriteSet>,
}

impl<'a> View<'a> {
    /// What everybody sees: visible writes and the trees.
    #[must_use]
    pub fn visible() -> Self {
        Self { topology: None, writes: None }
    }

    /// What the work on `topology`'s microbatch sees: also that topology's stacked runs up to and
    /// including `id`, and its own writes so far.
    #[must_use]
    pub fn through(topology: TopologyId, id: MicrobatchId, writes: Option<&'a WriteSet>) -> Self {
        Self { topology: Some((topology, id)), writes }
    }
}

/// The answer of a read that does not wait.
#[derive(Debug)]
pub enum Found<R> {
    /// Everything was in memory.
    Ready(R),
    /// Pages are missing; [`Store::load`] brings them.
    Miss(Miss),
}

/// What a read was missing.
#[derive(Debug)]
pub struct Miss {
    pstate: PStateId,
}

/// Keeps loaded pages in the cache while it lives; hold it until the read was repeated.
#[derive(Debug)]
#[must_use = "the pages may be evicted before the read is repeated"]
pub struct Loaded {
    _pins: Vec<Rc<()>>,
}

/// A range of keys of one PState.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyRange<'a> {
    /// Lower end.
    pub from: Bound<&'a [u8]>,
    /// Upper end.
    pub to: Bound<&'a [u8]>,
}

impl KeyRange<'_> {
    /// Every key.
    pub const ALL: KeyRange<'static> = KeyRange { from: Bound::Unbounded, to: Bound::Unbounded };
}

/// Which way a scan goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From small keys to large ones.
    Forward,
    /// From large keys to small ones.
    Backward,
}

/// The writes of one attempt of one microbatch on one partition. Blind: it reads nothing.
#[derive(Debug, Default)]
pub struct WriteSet {}

impl WriteSet {
    /// Sets a key. Needs `key` and `value` within [`KEY_BYTES_MAX`] and [`VALUE_BYTES_MAX`].
    pub fn put(&mut self, pstate: PStateId, key: &[u8], value: &[u8]) {
        unimplemented!("{pstate} {key:?} {value:?}")
    }
    /// Deletes a key, whether it exists or not.
    pub fn delete(&mut self, pstate: PStateId, key: &[u8]) {
        unimplemented!("{pstate} {key:?}")
    }
    /// Deletes every key in `from..to`; without `to`, every key at or above `from`.
    pub fn delete_range(&mut self, pstate: PStateId, from: &[u8], to: Option<&[u8]>) {
        unimplemented!("{pstate} {from:?} {to:?}")
    }
    /// About how much memory it takes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        unimplemented!()
    }
    /// Whether nothing was written.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        unimplemented!()
    }
    /// Makes it immutable.
    #[must_use]
    pub fn seal(self) -> Run {
        unimplemented!()
    }
}

/// An immutable run of writes, sorted by PState and key: what a prepare carries.
#[derive(Debug)]
pub struct Run {
    bytes: Vec<u8>,
}

/// Why bytes are not a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a run of writes: {what} at byte {at}")]
pub struct RunError {
    /// What does not hold.
    pub what: &'static str,
    /// Where, from the start of the run.
    pub at: usize,
}

/// One write of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Write<'a> {
    /// Every key from `from` up to, not including, `to` is gone. Comes before the PState's keys.
    DeleteRange {
        /// Whose.
        pstate: PStateId,
        /// First key.
        from: &'a [u8],
        /// End; none: no end.
        to: Option<&'a [u8]>,
    },
    /// A key has a value.
    Put {
        /// Whose.
        pstate: PStateId,
        /// The key.
        key: &'a [u8],
        /// The value.
        value: &'a [u8],
    },
    /// A key is gone.
    Delete {
        /// Whose.
        pstate: PStateId,
        /// The key.
        key: &'a [u8],
    },
}

impl Run {
    /// Appends the run's bytes to `out`; exactly [`Run::encoded_bytes`] many.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.bytes);
    }
    /// How many bytes [`Run::encode`] appends.
    #[must_use]
    pub fn encoded_bytes(&self) -> usize {
        self.bytes.len()
    }
    /// Reads what [`Run::encode`] wrote; all of `bytes` must be it.
    ///
    /// # Errors
    /// What is wrong with the bytes, and where.
    pub fn decode(bytes: &[u8]) -> Result<Self, RunError> {
        unimplemented!("{bytes:?}")
    }
    /// Its writes: by PState, in each first the range deletes, then the keys, both ascending.
    pub fn iter(&self) -> impl Iterator<Item = Write<'_>> {
        std::iter::empty()
    }
    /// Whether it holds no write.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        unimplemented!()
    }
    /// About how much memory it takes.
    #[must_use]
    pub fn memory_bytes(&self) -> u64 {
        unimplemented!()
    }
}

impl Store {
    /// Opens the trees of `partition` in `dir` (`p/<partition>`). `journal_from` is the first index
    /// the journal still has: an older root is used only if it covers everything before that.
    /// The file is created by the first fold, not here.
    ///
    /// # Errors
    /// [`Error::Corrupt`] if no usable root is there although there must be one, [`Error::Io`].
    pub async fn open(
        env: &Env,
        cache: &Cache,
        dir: &str,
        partition: PartitionId,
        journal_from: Index,
    ) -> Result<(Self, Opened), Error> {
        unimplemented!("{env:?} {cache:?} {dir} {partition} {journal_from}")
    }

    /// Puts a prepared run on top of `topology`'s; `id` must be above all of them.
    pub fn stack(&self, topology: TopologyId, id: MicrobatchId, run: Rc<Run>) {
        unimplemented!("{topology} {id} {run:?}")
    }

    /// Drops a stacked run: the abort. Ids above it must have been dropped before.
    pub fn unstack(&self, topology: TopologyId, id: MicrobatchId) {
        unimplemented!("{topology} {id}")
    }

    /// Makes the lowest stacked run of `topology`, which must be `id`, visible.
    pub fn merge(&self, topology: TopologyId, id: MicrobatchId) {
        unimplemented!("{topology} {id}")
    }

    /// Reads one key. Does not wait and, for what is cached, does not allocate. `f` gets the value if
    /// there is one, and must not write to this store.
    ///
    /// # Errors
    /// [`Error::Corrupt`]; an I/O error comes from [`Store::load`].
    pub fn get<R>(
        &self,
        view: &View<'_>,
        pstate: PStateId,
        key: &[u8],
        f: impl FnOnce(Option<&[u8]>) -> R,
    ) -> Result<Found<R>, Error> {
        { let _ = f; unimplemented!("{view:?} {pstate} {key:?}") }
    }

    /// Reads what was missing; then the read is repeated. Loads of one page share one read. Dropping
    /// the future leaves nothing behind.
    ///
    /// # Errors
    /// [`Error::Corrupt`], [`Error::Io`].
    pub async fn load(&self, miss: Miss) -> Result<Loaded, Error> {
        unimplemented!("{miss:?}")
    }

    /// [`Store::get`] and [`Store::load`] until it is there.
    ///
    /// # Errors
    /// [`Error::Corrupt`], [`Error::Io`].
    pub async fn read<R>(
        &self,
        view: &View<'_>,
        pstate: PStateId,
        key: &[u8],
        f: impl FnOnce(Option<&[u8]>) -> R,
    ) -> Result<R, Error> {
        { let _ = f; unimplemented!("{view:?} {pstate} {key:?}") }
    }

    /// Visits at most `limit` keys of `range` in order, until `visit` breaks. Returns how many it
    /// visited. Each key and value is current when it is visited; what becomes visible meanwhile may or
    /// may not be seen. Yields between pages.
    ///
    /// # Errors
    /// [`Error::Corrupt`], [`Error::Io`].
    pub async fn scan(
        &self,
        view: &View<'_>,
        pstate: PStateId,
        range: KeyRange<'_>,
        direction: Direction,
        limit: usize,
        visit: impl FnMut(&[u8], &[u8]) -> ControlFlow<()>,
    ) -> Result<usize, Error> {
        let _ = visit;
        unimplemented!("{view:?} {pstate} {range:?} {direction:?} {limit}")
    }

    /// Brings the leaves of many keys in, at depth; a hint, so that the reads that follow are ready.
    ///
    /// # Errors
    /// [`Error::Corrupt`], [`Error::Io`].
    pub async fn prefetch<'k>(
        &self,
        pstate: PStateId,
        keys: impl IntoIterator<Item = &'k [u8]>,
    ) -> Result<(), Error> {
        let _ = keys.into_iter().count();
        unimplemented!("{pstate}")
    }

    /// Merges everything visible into the trees and makes it durable; see the design. One at a time
    /// per store. Reads and merges go on meanwhile.
    ///
    /// # Errors
    /// [`Error::NoSpace`]: nothing is lost, try again later. Anything else: the shard must stop.
    pub async fn fold(&self, covers: Index, pending: &[Index]) -> Result<FoldReport, Error> {
        unimplemented!("{covers} {pending:?}")
    }

    /// Bytes of memory in stacked runs and memtables (the cache counts for itself).
    #[must_use]
    pub fn memory_bytes(&self) -> u64 {
        unimplemented!("{:?}", self.inner)
    }

    /// Bytes of what is visible and not yet folded.
    #[must_use]
    pub fn memtable_bytes(&self) -> u64 {
        unimplemented!("{:?}", self.inner)
    }

    /// The trees that are not empty or have a description, by PState.
    #[must_use]
    pub fn trees(&self) -> Vec<TreeInfo> {
        unimplemented!("{:?}", self.inner)
    }

    /// Sets a PState's free-form bytes (at most 512) in the catalogue, with the next fold.
    pub fn describe(&self, pstate: PStateId, bytes: Vec<u8>) {
        unimplemented!("{pstate} {bytes:?}")
    }

    /// Deletes a PState: everything visible of it, its tree and its description.
    pub fn drop_pstate(&self, pstate: PStateId) {
        unimplemented!("{pstate}")
    }
}
