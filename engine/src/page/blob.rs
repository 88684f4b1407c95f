//! Blobs: values too large for a leaf, and tables, in runs of neighbouring pages called chunks.
//!
//! ```text
//! byte 0   u32 place · u8 kind (3 value, 4 table) · u8 zero · u16 length of the owner's key
//!      8   u64 fold
//!     16   u32 PState · u32 length of the data
//!     24   u64 zero
//!     32   the owner's key, data, zeros to the end of the last page
//! ```
//!
//! A chunk is at most an extent long and never crosses one. What refers to a blob is a [`ChunkList`]:
//! `u32` length, then one encoded [`PageRef`] per chunk, whose CRC is over the whole chunk. All chunks
//! but the last are full, so each one's length follows from the blob's and the key's. The key leads
//! from a chunk to its owner when its extent is evacuated.

use super::{EXTENT_BYTES, PAGE_BYTES, PageRef, u16_at, u32_at, u64_at};
use crate::types::PStateId;

pub(crate) const HEADER_BYTES: usize = 32;

pub(crate) const KIND_VALUE: u8 = 3;
pub(crate) const KIND_TABLE: u8 = 4;

/// Who a blob belongs to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Owner<'a> {
    pub(crate) kind: u8,
    pub(crate) pstate: PStateId,
    pub(crate) key: &'a [u8],
}

impl Owner<'_> {
    /// Data bytes of a full chunk.
    pub(crate) fn chunk_bytes(&self) -> usize {
        EXTENT_BYTES - HEADER_BYTES - self.key.len()
    }
}

/// Where the chunks of a blob are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ChunkList {
    pub(crate) bytes: usize,
    pub(crate) chunks: Vec<PageRef>,
}

/// One chunk of a blob: its reference, its pages, its place in the data.
#[derive(Clone, Debug)]
pub(crate) struct Chunk {
    pub(crate) page: PageRef,
    pub(crate) pages: u32,
    pub(crate) data: std::ops::Range<usize>,
}

impl ChunkList {
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        let bytes = u32::try_from(self.bytes).expect("blobs are far below 4 GiB");
        out.extend_from_slice(&bytes.to_le_bytes());
        for chunk in &self.chunks {
            chunk.encode(out);
        }
    }

    /// Reads a list whose number of chunks must fit its length.
    pub(crate) fn decode(bytes: &[u8], owner: Owner<'_>) -> Option<Self> {
        let (length, refs) = bytes.split_first_chunk::<4>()?;
        let length = u32::from_le_bytes(*length) as usize;
        let (refs, rest) = refs.as_chunks::<{ PageRef::BYTES }>();
        if !rest.is_empty() || refs.len() != length.div_ceil(owner.chunk_bytes()).max(1) {
            return None;
        }
        Some(Self { bytes: length, chunks: refs.iter().map(|raw| PageRef::decode(*raw)).collect() })
    }

    /// The chunks in order.
    pub(crate) fn iter(&self, owner: Owner<'_>) -> impl Iterator<Item = Chunk> {
        let (full, total, key_bytes) = (owner.chunk_bytes(), self.bytes, owner.key.len());
        self.chunks.iter().enumerate().map(move |(nth, page)| {
            let data = nth * full..total.min((nth + 1) * full);
            Chunk { page: *page, pages: chunk_pages(key_bytes, data.len()), data }
        })
    }
}

/// Pages of a chunk with so much data.
pub(crate) fn chunk_pages(key_bytes: usize, data_bytes: usize) -> u32 {
    let pages = (HEADER_BYTES + key_bytes + data_bytes).div_ceil(PAGE_BYTES);
    u32::try_from(pages).expect("a chunk is at most an extent")
}

/// Writes a chunk into `out`, whole pages, and returns its reference.
pub(crate) fn build(
    owner: Owner<'_>,
    data: &[u8],
    out: &mut [u8],
    place: u32,
    fold: u64,
) -> PageRef {
    out.fill(0);
    let key_bytes = u16::try_from(owner.key.len()).expect("keys are at most 1,024 bytes");
    let data_bytes = u32::try_from(data.len()).expect("a chunk is at most an extent");
    out[0..4].copy_from_slice(&place.to_le_bytes());
    out[4] = owner.kind;
    out[6..8].copy_from_slice(&key_bytes.to_le_bytes());
    out[8..16].copy_from_slice(&fold.to_le_bytes());
    out[16..20].copy_from_slice(&owner.pstate.0.to_le_bytes());
    out[20..24].copy_from_slice(&data_bytes.to_le_bytes());
    let data_at = HEADER_BYTES + owner.key.len();
    out[HEADER_BYTES..data_at].copy_from_slice(owner.key);
    out[data_at..data_at + data.len()].copy_from_slice(data);
    PageRef { place, fold, crc: crc32fast::hash(out) }
}

/// Checks a chunk whose checksum the caller has compared, and returns its data.
///
/// # Errors
/// What does not hold.
pub(crate) fn check<'a>(
    bytes: &'a [u8],
    page: &PageRef,
    owner: Owner<'_>,
    data_bytes: usize,
) -> Result<&'a [u8], &'static str> {
    let data_at = HEADER_BYTES + owner.key.len();
    let Some(data) = bytes.get(data_at..data_at + data_bytes) else {
        return Err("a chunk is cut short");
    };
    if u32_at(bytes, 0) != page.place || u64_at(bytes, 8) != page.fold {
        return Err("a chunk names another place or fold");
    }
    if bytes[4] != owner.kind || bytes[5] != 0 || u64_at(bytes, 24) != 0 {
        return Err("a chunk is of another kind");
    }
    let same_owner = u32_at(bytes, 16) == owner.pstate.0
        && usize::from(u16_at(bytes, 6)) == owner.key.len()
        && &bytes[HEADER_BYTES..data_at] == owner.key;
    if !same_owner {
        return Err("a chunk belongs to another key");
    }
    if u32_at(bytes, 20) as usize != data_bytes {
        return Err("a chunk has another length");
    }
    if bytes[data_at + data_bytes..].iter().any(|&byte| byte != 0) {
        return Err("a chunk's unused bytes are not zero");
    }
    Ok(data)
}
