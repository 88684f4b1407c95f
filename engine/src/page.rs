//! Page files: checked pages, where they lie, and a cache of them.
//!
//! A partition has one page file. Page numbers (*places*) count 4 KiB pages from its start; 64 of
//! them are an extent. Extent 0 holds the two root slots (at byte 0 and 131,072), and nothing else.
//! Every other page is reached from a root through [`PageRef`]s, each of which names the place, the
//! fold that wrote the page and the CRC-32 of its bytes. A torn, lost, stale or misdirected page is
//! therefore found out by whoever follows the reference, before any byte of it is used.
//!
//! * `node`: leaves and branches of a tree; `blob`: runs of pages that hold what a leaf cannot.
//! * `root`: the root slots, and the table of what lives where.
//! * `space`: which pages may be written; `writer`: a fold's writes, gathered.
//! * [`Cache`]: pages in memory, shared by all partitions of a shard.

use std::io;
use std::sync::Arc;

pub(crate) mod blob;
mod cache;
pub(crate) mod node;
pub(crate) mod root;
pub(crate) mod space;
pub(crate) mod writer;

pub use cache::{Cache, CacheCounts};
pub(crate) use cache::{Expected, FileId, Page};

use crate::types::{MicrobatchId, TopologyId};

/// Bytes of a page: what one random read fetches, and what the device writes atomically at best.
pub const PAGE_BYTES: usize = 4096;

/// Pages of an extent: 256 KiB is the largest background write that leaves the foreground alone.
pub const EXTENT_PAGES: u32 = 64;

/// Bytes of an extent.
pub const EXTENT_BYTES: usize = PAGE_BYTES * EXTENT_PAGES as usize;

/// A reference that finds out whether it reached what it was made for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct PageRef {
    /// Page number in the file.
    pub(crate) place: u32,
    /// CRC-32 of the page, or of the whole chunk.
    pub(crate) crc: u32,
    /// The fold that wrote it.
    pub(crate) fold: u64,
}

impl PageRef {
    pub(crate) const BYTES: usize = 16;

    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.place.to_le_bytes());
        out.extend_from_slice(&self.crc.to_le_bytes());
        out.extend_from_slice(&self.fold.to_le_bytes());
    }

    pub(crate) fn decode(raw: [u8; Self::BYTES]) -> Self {
        Self { place: u32_at(&raw, 0), crc: u32_at(&raw, 4), fold: u64_at(&raw, 8) }
    }

    /// Its first byte in the file.
    pub(crate) fn byte(&self) -> u64 {
        u64::from(self.place) * PAGE_BYTES as u64
    }
}

/// A subtree, as the branch above it has it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Child {
    pub(crate) page: PageRef,
    /// Keys in its leaves.
    pub(crate) entries: u64,
    /// Whether any of its leaves refers to a blob, so that it must be read before it is freed.
    pub(crate) blobs: bool,
}

impl Child {
    pub(crate) const BYTES: usize = 24;
    const BLOBS: u64 = 1 << 63;

    pub(crate) fn encode(&self) -> [u8; Self::BYTES] {
        let mut out = Vec::with_capacity(Self::BYTES);
        self.page.encode(&mut out);
        let flag = if self.blobs { Self::BLOBS } else { 0 };
        out.extend_from_slice(&(self.entries | flag).to_le_bytes());
        out.try_into().expect("16 and 8 bytes")
    }

    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let (page, entries) = bytes.split_first_chunk::<{ PageRef::BYTES }>()?;
        let entries = u64::from_le_bytes(entries.try_into().ok()?);
        Some(Self {
            page: PageRef::decode(*page),
            entries: entries & !Self::BLOBS,
            blobs: entries & Self::BLOBS != 0,
        })
    }
}

/// Fields of pages whose length is known.
pub(crate) fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(bytes[at..at + 2].try_into().expect("two bytes"))
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

pub(crate) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

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
    /// A view at an older id whose history is gone, or was never kept.
    #[error(
        "topology {topology} cannot be read at {wanted} any more; the oldest id above is {oldest}"
    )]
    Expired {
        /// Whose `PState`s were asked for.
        topology: TopologyId,
        /// The id asked for.
        wanted: MicrobatchId,
        /// The lowest id above it that can be read.
        oldest: MicrobatchId,
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

impl Error {
    pub(crate) fn io(op: &'static str, file: &str, byte: u64, source: io::Error) -> Self {
        Self::Io { op, file: file.to_owned(), byte, source: Arc::new(source) }
    }

    pub(crate) fn corrupt(file: &str, byte: u64, what: &'static str) -> Self {
        Self::Corrupt { file: file.to_owned(), byte, what }
    }
}
