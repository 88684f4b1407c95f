//! The log: what the shard calls.

use std::ops::Range;
use std::rc::Rc;

use super::batch::{Batch, Payload};
use super::records::Records;
use super::state::State;
use super::{Options, Result};
use crate::env::{Env, LocalFuture};
use crate::types::{DepotId, Index, Offset, PartitionId, WallTime};

/// One depot in one partition. A cheap handle; clones are the same log. Stays on its shard.
#[derive(Clone, Debug)]
pub struct Log {
    inner: Rc<Inner>,
}

#[derive(Debug)]
struct Inner {}

impl Log {
    /// Opens the log that the last fold recorded as `from` (`State::default()` for a new one). Its files lie in
    /// `dir` (`p/<partition>`), which is made when the first is. Checks that everything `from` claims is there, then wants
    /// the journal's entries above the fold by [`Log::replay`] and its siblings, and at their end [`Log::recovered`].
    pub async fn open(
        env: &Env,
        partition: PartitionId,
        depot: DepotId,
        dir: &str,
        from: &State,
        options: Options,
    ) -> Result<Self>;

    // ---- appending: all synchronous ----

    /// Assigns offsets and append time; the records are *appended*. The caller journals the payload (entry `Append`), then calls
    /// [`Log::durable`]. A repeated key gets the first answer: acknowledge it when `durable_end()` has reached its end.
    pub fn append(&self, batch: &Batch, now: WallTime) -> Result<Append>;

    /// A microbatch's records get their offsets at the place of its `Committed` (entry `index`), which needs no payload of its
    /// own. `time` must be the same at replay: take it from the entries. At replay returns `None` if the segments already have them.
    pub fn place(&self, index: Index, batch: &Batch, time: WallTime) -> Result<Option<Range<Offset>>>;

    /// Allocates room for a bulk append of `body_bytes`; afterwards `append_bulk` called in the same poll succeeds.
    pub async fn reserve_bulk(&self, body_bytes: usize) -> Result<()>;

    /// As `append`, for `bulk_bytes_min` and more: the payload (entry `AppendBulk`) names an extent; `write` has to be polled
    /// (spawned) to write and sync it. Its offsets are durable when both are done: `durable_end` sees to that.
    pub fn append_bulk(&self, batch: &Batch, now: WallTime) -> Result<Bulk>;

    /// The journal made every record below `offset` durable.
    pub fn durable(&self, offset: Offset);

    // ---- recovery ----

    /// Applies the payload of an `Append` or `AppendBulk` in its place in the sequence. What the segments already have is skipped.
    /// A torn extent cuts the log: `Torn`, and everything later is `BeyondCut`.
    pub async fn replay(&self, payload: &[u8]) -> Result<Replayed>;

    /// All entries are replayed and durable: removes files nobody refers to.
    pub async fn recovered(&self) -> Result<Recovered>;

    // ---- positions ----
    pub fn first(&self) -> Offset;
    pub fn end(&self) -> Offset;
    pub fn durable_end(&self) -> Offset;
    pub fn flushed_end(&self) -> Offset;
    pub fn unflushed_bytes(&self) -> usize;
    pub fn tail_bytes(&self) -> usize;

    // ---- reading ----
    pub fn try_read(&self, from: Offset, limits: Limits) -> Result<TryRead>;
    pub async fn read(&self, from: Offset, limits: Limits) -> Result<Records>;
    /// The first offset appended at or after `time`; `durable_end` if there is none yet.
    pub async fn offset_at(&self, time: WallTime) -> Result<Offset>;

    // ---- flushing, folding, trimming ----

    /// Writes what is durable into segments and syncs. After it (and a fold that records `state()`) the journal can forget.
    pub async fn flush(&self) -> Result<Flushed>;
    /// What is in the segments now, to be recorded by a fold. From here on its blocks never change.
    pub fn state(&self) -> State;
    /// The fold that holds `state` is durable: removes the files of segments it no longer lists.
    pub async fn recorded(&self, state: &State) -> Result<()>;
    /// Entries with records below `offset` will not be replayed any more.
    pub fn journal_released(&self, offset: Offset);
    /// Forgets whole segments below `offset`; their files go when a state without them is `recorded`.
    pub fn trim(&self, below: Offset) -> Offset;
}

/// The answer to an append.
pub enum Append { Done(Appended), Repeated(Range<Offset>) }
pub struct Appended { pub offsets: Range<Offset>, pub append_time: WallTime, pub payload: Payload }
pub enum Bulk { Done { appended: Appended, write: LocalFuture<'static, Result<()>> }, Repeated(Range<Offset>) }
pub enum Replayed { Applied(Range<Offset>), Already, Torn { from: Offset }, BeyondCut }
pub struct Recovered { pub files_removed: u32, pub tail_torn: Option<(String, u64)> }
pub struct Flushed { pub below: Offset }
pub struct Limits { pub records: usize, pub bytes: usize, pub upto: Upto }
pub enum Upto { Durable, Appended }
pub enum TryRead { Hit(Records), Miss }
