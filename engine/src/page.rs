//! Page files: checked pages, where they lie, and a cache of them.
//!
//! A partition has one page file. Page numbers (*places*) count 4 KiB pages from its start; 64 of
//! them are an extent. Extent 0 holds the two root slots (at byte 0 and 131,072), and nothing else.
//! Every other page is reached from a root through [`PageRef`]s, each of which names the place, the
//! fold that wrote the page and the CRC-32 of its bytes. A torn, lost, stale or misdirected page is
//! therefore found out by whoever follows the reference, before any byte of it is used.
//!
//! * [`node`]: leaves and branches of a tree; [`blob`]: runs of pages that hold what a leaf cannot.
//! * [`root`]: the root slots; [`extent`]: which pages live, and which may be written.
//! * [`Cache`]: pages in memory, shared by all partitions of a shard; [`file`]: reading and writing.

use std::io;
use std::sync::Arc;

pub mod cache;

pub use cache::Cache;

/// Bytes of a page: what one random read fetches, and what the device writes atomically at best.
pub const PAGE_BYTES: usize = 4096;

/// Pages of an extent: 256 KiB is the largest background write that leaves the foreground alone.
pub const EXTENT_PAGES: u32 = 64;

/// What can go wrong with a page file.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// Stored bytes are not what was written. Nothing of them was used.
    #[error("{file} is damaged at byte {byte}: {what}")]
    Corrupt {
        /// The file's path.
        file: String,
        /// Where the damaged block, page or run of pages starts.
        byte: u64,
        /// What does not hold.
        what: &'static str,
    },
    /// The file could not grow. Nothing is lost: the same fold can be tried again.
    #[error("no space to grow {file} to {bytes} bytes")]
    NoSpace {
        /// The file's path.
        file: String,
        /// The length that was asked for.
        bytes: u64,
    },
    /// The device refused. After a write or sync, what reached the disk is unknown, so the shard must
    /// stop and recover.
    #[error("{op} failed in {file} at byte {byte}")]
    Io {
        /// What was attempted.
        op: &'static str,
        /// The file's path.
        file: String,
        /// Where.
        byte: u64,
        /// What the operating system said.
        #[source]
        source: Arc<io::Error>,
    },
}
