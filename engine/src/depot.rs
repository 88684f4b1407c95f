//! Depots: partitioned append-only logs of records. A [`Log`] is one depot in one partition.
//!
//! The shard above owns the journal and the partition's sequence. A log turns batches into journal
//! payloads, keeps the newest records in a tail cache, flushes lazily into segment files and serves
//! reads. Records are bytes here.
//!
//! ```text
//! first         state.end       flushed        durable_end        end
//!   |  segments, proved  |  segments  |  journal only  |  in memory |
//!   |                    |<------------- tail cache --------------->|   (often reaches further back)
//! ```
//!
//! # What the shard does
//!
//! * *Append*: [`Log::append`], journal the payload, [`Log::durable`] when that is durable. From 1 MiB on:
//!   [`Log::reserve_bulk`], [`Log::append_bulk`], and run its `write` beside the journal write. Whatever is
//!   acknowledged or read lies below [`Log::durable_end`]; [`Watermark`] is the same for a partition.
//! * *Fold*: [`Log::flush`], then [`Log::state`] goes into the fold, and when that is durable
//!   [`Log::recorded`]. The journal may forget what the recorded state covers, nothing earlier.
//! * *Recover*: [`Log::open`] with the recorded state, [`Log::replay`] and [`Log::place`] in the order of the
//!   sequence, [`Log::recovered`]. Entries that the state covers may be among them.
//!
//! # What holds
//!
//! * Bytes that a state covers never change, so what it vouches for is there or is damage. What lies
//!   behind them is written over: the journal has those records.
//! * Space is taken by `allocate` before it is written, so only that can meet a full disk.
//! * After a failed write or sync the log writes no more ([`Error::Stopped`]); reads go on.
//! * An empty log has no file. Files are `d<depot>-<base offset>`; `d<depot>-reserve-<n>` waits for a bulk
//!   append and belongs to nothing after a crash.

use std::io;

use crate::types::Offset;

pub mod batch;
mod bulk;
mod copy;
mod dedup;
mod flush;
mod format;
mod log;
mod open;
mod read;
mod records;
mod segment;
mod state;
mod tail;
mod walk;
mod watermark;

pub use batch::{Batch, Key, Payload};
pub use bulk::Bulk;
pub(crate) use copy::{CopyError, Recorded};
pub use dedup::Dedup;
pub use flush::Flushed;
pub use format::{Identity, IndexEntry};
pub use log::{Append, Appended, Log};
pub use open::{Recovered, Replayed};
pub use read::{Limits, TryRead, Upto};
pub use records::{Record, Records};
pub use state::{SegmentState, State};
pub use walk::{Damage, Found, Report, check_extent, inspect};
pub use watermark::Watermark;

/// What this module's functions return.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What can go wrong with a log.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The device refused. What reached the disk is unknown, so the shard stops and recovers.
    #[error("{op} failed in {file} at byte {at}")]
    Io {
        /// What was attempted: `read`, `write`, `sync`, ...
        op: &'static str,
        /// Path within the data directory.
        file: String,
        /// Where in the file.
        at: u64,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// No room to allocate. Nothing is lost or changed: try again when there is space.
    #[error("no space for {bytes} bytes of {file}")]
    NoSpace {
        /// Path within the data directory.
        file: String,
        /// The length the file should have got.
        bytes: u64,
    },
    /// Stored bytes are not what was written.
    #[error("{file} is damaged at byte {byte}: {what}")]
    Corrupt {
        /// Path within the data directory.
        file: String,
        /// Where in the file the damaged structure starts.
        byte: u64,
        /// What is wrong.
        what: &'static str,
    },
    /// The journal's entries do not continue the log.
    #[error("replay brought offset {found} where {expected} was due")]
    Gap {
        /// The log's end.
        expected: Offset,
        /// What the payload said.
        found: Offset,
    },
    /// Replay brought other records for offsets the log has.
    #[error("replay brought other records for offset {offset}")]
    Conflict {
        /// The first of them.
        offset: Offset,
    },
    /// A journal payload that this version did not write, or a body that is none.
    #[error("bad payload: {what}")]
    BadPayload {
        /// What is wrong.
        what: &'static str,
    },
    /// A record or a batch above its limit.
    #[error("{bytes} bytes are above the limit of {limit}")]
    TooLarge {
        /// How large it is.
        bytes: usize,
        /// How large it may be.
        limit: usize,
    },
    /// An append of nothing.
    #[error("a batch needs at least one record")]
    Empty,
    /// The records asked for are gone.
    #[error("offset {asked} is below {first}, the first one kept")]
    Trimmed {
        /// What was asked for.
        asked: Offset,
        /// The first offset there is.
        first: Offset,
    },
    /// A bulk append without a reservation that fits; nothing was appended.
    #[error("no space is reserved for a bulk append of {bytes} bytes")]
    NotReserved {
        /// What it needs.
        bytes: u64,
    },
    /// An earlier write or sync of this log failed, so it does not touch its files any more.
    #[error("an earlier write failed; the shard has to recover")]
    Stopped,
}

/// Sizes and limits of a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// A new segment file's first allocation.
    pub allocation_bytes_min: u64,
    /// Allocations double up to this.
    pub allocation_bytes_max: u64,
    /// A segment this large is sealed.
    pub segment_bytes_max: u64,
    /// A block is closed when it holds this much.
    pub block_bytes: usize,
    /// Records that are in the segments leave the tail cache above this.
    pub tail_bytes_max: usize,
    /// From this size on [`Log::append_bulk`] is cheaper than [`Log::append`].
    pub bulk_bytes_min: usize,
    /// Clients whose appends are remembered, in each partition: those that appended last. Fewer while
    /// what is remembered in all depots takes more than its part of the memory budget.
    pub dedup_clients_max: usize,
    /// Appends remembered of each.
    pub dedup_sequences_max: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            allocation_bytes_min: 256 << 10,
            allocation_bytes_max: 64 << 20,
            segment_bytes_max: 256 << 20,
            block_bytes: 64 << 10,
            tail_bytes_max: 1 << 20,
            bulk_bytes_min: 1 << 20,
            dedup_clients_max: 256,
            dedup_sequences_max: 8,
        }
    }
}

#[cfg(test)]
mod tests;
