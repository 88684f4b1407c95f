//! Root slots: where everything starts.
//!
//! ```text
//! byte 0   u64 magic "TIDEPAGE" · u32 version · u32 partition
//!     16   u64 fold · u64 covers
//!     32   catalogue tree: child, 24 bytes · u8 depth · 3 zeros
//!     60   u32 slot (0 or 1)
//!     64   u64 number of live pages
//!     72   u32 number of chunks of the table · u32 length of the table
//!     80   references to the table's chunks, 16 bytes each; zeros
//!   4092   u32 CRC-32 of what is before
//! ```
//!
//! The table is a blob: `u32` number of pending entries, `u32` number of extents, the pending indexes
//! (`u64`), and one `u64` per extent whose bits are its live pages.

use super::blob::{ChunkList, KIND_TABLE, Owner};
use super::{Child, PAGE_BYTES, PageRef, u32_at, u64_at};
use crate::types::{Index, PStateId, PartitionId};

/// "TIDEPAGE".
const MAGIC: u64 = u64::from_le_bytes(*b"TIDEPAGE");
const VERSION: u32 = 1;
const CHUNKS_AT: usize = 80;
const CRC_AT: usize = PAGE_BYTES - 4;

/// More than a file of 2^32 pages needs.
const CHUNKS_MAX: usize = (CRC_AT - CHUNKS_AT) / PageRef::BYTES;

/// Where the slots are. Far apart, so that no single torn or misdirected write of a few blocks and no
/// single bad spot of a device takes both.
pub(crate) const SLOT_AT: [u64; 2] = [0, 131_072];

/// The `PState` number under which the catalogue's own pages are kept.
pub(crate) const CATALOGUE: PStateId = PStateId(u32::MAX);

/// The owner of the table.
pub(crate) const TABLE: Owner<'static> = Owner { kind: KIND_TABLE, pstate: CATALOGUE, key: &[] };

/// A tree: its root and how many levels it has; depth 0 is an empty tree.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct TreeRoot {
    pub(crate) child: Child,
    pub(crate) depth: u8,
}

/// What a slot says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Root {
    pub(crate) partition: PartitionId,
    pub(crate) fold: u64,
    pub(crate) covers: Index,
    pub(crate) catalogue: TreeRoot,
    pub(crate) live_pages: u64,
    pub(crate) table: ChunkList,
}

/// What was found in a slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Slot {
    /// Never written.
    Blank,
    /// Written, and not readable now.
    Damaged(&'static str),
    /// Whole, but of a version that this code does not know.
    Foreign,
    /// A root.
    Root(Root),
}

impl Root {
    /// The block to write into `slot`.
    pub(crate) fn encode(&self, slot: u32) -> Vec<u8> {
        assert!(self.table.chunks.len() <= CHUNKS_MAX, "a table this long needs 2^32 pages");
        let mut out = Vec::with_capacity(PAGE_BYTES);
        out.extend_from_slice(&MAGIC.to_le_bytes());
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&self.partition.0.to_le_bytes());
        out.extend_from_slice(&self.fold.to_le_bytes());
        out.extend_from_slice(&self.covers.0.to_le_bytes());
        out.extend_from_slice(&self.catalogue.child.encode());
        out.extend_from_slice(&[self.catalogue.depth, 0, 0, 0]);
        out.extend_from_slice(&slot.to_le_bytes());
        out.extend_from_slice(&self.live_pages.to_le_bytes());
        let chunks = u32::try_from(self.table.chunks.len()).expect("bounded above");
        out.extend_from_slice(&chunks.to_le_bytes());
        self.table.encode(&mut out);
        out.resize(CRC_AT, 0);
        let crc = crc32fast::hash(&out);
        out.extend_from_slice(&crc.to_le_bytes());
        out
    }

    /// Reads the block of `slot`; `bytes` may be short where the file ends.
    pub(crate) fn decode(bytes: &[u8], slot: u32, partition: Option<PartitionId>) -> Slot {
        if bytes.iter().all(|&byte| byte == 0) {
            return Slot::Blank;
        }
        let Some(bytes) = bytes.get(..PAGE_BYTES) else {
            return Slot::Damaged("a root is cut short");
        };
        if u32_at(bytes, CRC_AT) != crc32fast::hash(&bytes[..CRC_AT]) {
            return Slot::Damaged("a root's checksum does not match");
        }
        if u64_at(bytes, 0) != MAGIC {
            return Slot::Damaged("a root's block holds something else");
        }
        if u32_at(bytes, 8) != VERSION {
            return Slot::Foreign;
        }
        if u32_at(bytes, 60) != slot {
            return Slot::Damaged("a root belongs to the other slot");
        }
        let found = PartitionId(u32_at(bytes, 12));
        if partition.is_some_and(|partition| partition != found) {
            return Slot::Damaged("a root belongs to another partition");
        }
        let depth = bytes[56];
        let chunk_count = u32_at(bytes, 72) as usize;
        let list_end = chunk_count
            .checked_mul(PageRef::BYTES)
            .and_then(|refs| refs.checked_add(CHUNKS_AT))
            .filter(|end| *end <= CRC_AT);
        let table = list_end.and_then(|end| ChunkList::decode(&bytes[CHUNKS_AT - 4..end], TABLE));
        let child = Child::decode(&bytes[32..32 + Child::BYTES]);
        let (Some(table), Some(child), Some(list_end)) = (table, child, list_end) else {
            return Slot::Damaged("a root's references are malformed");
        };
        if bytes[57..60] != [0; 3] || bytes[list_end..CRC_AT].iter().any(|&byte| byte != 0) {
            return Slot::Damaged("a root's unused bytes are not zero");
        }
        Slot::Root(Self {
            partition: found,
            fold: u64_at(bytes, 16),
            covers: Index(u64_at(bytes, 24)),
            catalogue: TreeRoot { child, depth },
            live_pages: u64_at(bytes, 64),
            table,
        })
    }
}

/// The contents of the table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Table {
    pub(crate) pending: Vec<Index>,
    /// Live pages of every extent; extents beyond the end have none.
    pub(crate) live: Vec<u64>,
}

impl Table {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(Self::bytes(self.pending.len(), self.live.len()));
        for count in [self.pending.len(), self.live.len()] {
            let count = u32::try_from(count).expect("far below 2^32");
            out.extend_from_slice(&count.to_le_bytes());
        }
        self.pending.iter().for_each(|index| out.extend_from_slice(&index.0.to_le_bytes()));
        self.live.iter().for_each(|bits| out.extend_from_slice(&bits.to_le_bytes()));
        out
    }

    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let (header, words) = bytes.split_first_chunk::<8>()?;
        let (pending, extents) = (u32_at(header, 0) as usize, u32_at(header, 4) as usize);
        let (words, rest) = words.as_chunks::<8>();
        if !rest.is_empty() || words.len() != pending.checked_add(extents)? {
            return None;
        }
        let mut words = words.iter().map(|raw| u64::from_le_bytes(*raw));
        let pending: Vec<Index> = words.by_ref().take(pending).map(Index).collect();
        let live: Vec<u64> = words.collect();
        let ascending = pending.windows(2).all(|pair| pair[0] < pair[1]);
        // Extent 0 belongs to the root slots.
        (ascending && live.first().is_none_or(|&bits| bits == 0)).then_some(Self { pending, live })
    }

    /// Bytes of a table with so many pending entries and extents.
    pub(crate) fn bytes(pending: usize, extents: usize) -> usize {
        8 + 8 * (pending + extents)
    }
}
