//! The layout of a segment file. Everything is little-endian; every structure starts at a multiple of
//! 4 KiB, is a multiple of it long, and has a CRC-32 over all of its bytes, padding included.
//!
//! ```text
//! file   = header | block ... block | footer (once sealed) | zeros or left-overs, never looked at
//!
//! header (4 KiB)                block                              footer
//!  0 u64 magic                   0 u32 magic                        0 u32 magic
//!  8 u32 version                 4 u32 chain before                 4 u32 chain before
//! 12 u32 partition               8 u64 file id                      8 u64 file id
//! 16 u32 depot                  16 u64 its byte in the file        16 u64 its byte in the file
//! 20 u32 zero                   24 u64 first offset                24 u64 offset after the last record
//! 24 u64 base offset            32 u32 records                     32 u32 index entries
//! 32 u64 file id                36 u32 bytes of parts              36 u32 zero
//! 40 zeros                      40 u64 first append time           40 u64 first append time
//! 4092 u32 crc                  48 u64 last append time            48 u64 last append time
//!                               56 u32 parts                       56 u32 zero
//!                               60 u32 crc                         60 u32 crc
//!                               64 parts, zeros                    64 entries, zeros
//!
//! part  = u64 append time, u32 records, u32 bytes, body (see `batch`): a batch or a piece of one
//! entry = u64 first offset, u64 first append time, u64 byte: of some blocks, in order
//! ```
//!
//! The *chain* is the CRC of the structure before, the header's for the first block. A CRC covers the
//! chain before it, so the last one vouches for every byte of the file up to it: a stale block, one
//! of an earlier life of the file, or one written to the wrong place does not fit in.

use crc32fast::Hasher;

use super::batch::{Reader, record_bytes};
use super::records::Run;
use crate::env::BLOCK_BYTES;
use crate::types::{DepotId, Offset, PartitionId, WallTime};

/// What tells a segment file from every other: each structure in it is bound to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Whose records it holds.
    pub partition: PartitionId,
    /// Whose records it holds.
    pub depot: DepotId,
    /// Its first offset.
    pub base: Offset,
    /// Drawn by chance when it was made, so that no other life of the file has the same.
    pub file_id: u64,
}

/// The numbers of a block's or a footer's head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) kind: Kind,
    pub(super) chain_before: u32,
    pub(super) file_id: u64,
    pub(super) at: u64,
    /// Of a footer: the offset after the last record.
    pub(super) first: Offset,
    /// Of a footer: how many index entries.
    pub(super) count: u32,
    pub(super) payload_bytes: u32,
    pub(super) time_first: WallTime,
    pub(super) time_last: WallTime,
    pub(super) parts: u32,
    pub(super) crc: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Block,
    Footer,
}

/// Where a block starts: one entry of the sparse index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IndexEntry {
    /// The block's first offset.
    pub first: Offset,
    /// Its first append time.
    pub time: WallTime,
    /// Its byte in the file.
    pub at: u64,
}

/// Why bytes are not the structure they should be.
pub(super) type Wrong = &'static str;

/// The header of a file, and the chain's first value.
pub(super) fn encode_header(identity: &Identity) -> ([u8; BLOCK_BYTES], u32) {
    let mut block = [0; BLOCK_BYTES];
    put(&mut block, 0, &FILE_MAGIC.to_le_bytes());
    put(&mut block, 8, &VERSION.to_le_bytes());
    put(&mut block, 12, &identity.partition.0.to_le_bytes());
    put(&mut block, 16, &identity.depot.0.to_le_bytes());
    put(&mut block, 24, &identity.base.0.to_le_bytes());
    put(&mut block, 32, &identity.file_id.to_le_bytes());
    let crc = crc32fast::hash(&block[..HEADER_CRC_AT]);
    put(&mut block, HEADER_CRC_AT, &crc.to_le_bytes());
    (block, crc)
}

/// Reads a file's header: who it is, and the chain's first value.
pub(super) fn decode_header(block: &[u8]) -> Result<(Identity, u32), Wrong> {
    let block: &[u8; BLOCK_BYTES] = block.first_chunk().ok_or("the header is cut off")?;
    let (covered, stored) = block.split_at(HEADER_CRC_AT);
    let mut reader = Reader { rest: covered };
    let mut fields = || -> super::Result<(u64, u32, Identity)> {
        let magic = reader.u64()?;
        let version = reader.u32()?;
        let partition = PartitionId(reader.u32()?);
        let depot = DepotId(reader.u32()?);
        reader.u32()?;
        let base = Offset(reader.u64()?);
        let file_id = reader.u64()?;
        Ok((magic, version, Identity { partition, depot, base, file_id }))
    };
    let (magic, version, identity) = fields().map_err(|_| "the header is cut off")?;
    let crc = crc32fast::hash(covered);
    if magic != FILE_MAGIC {
        return Err("this is not the header of a segment");
    }
    if stored != crc.to_le_bytes() {
        return Err("the header does not match its checksum");
    }
    if version != VERSION {
        return Err("the segment has a format this version does not know");
    }
    Ok((identity, crc))
}

/// Bytes of a block with these parts, padding included.
pub(super) fn block_bytes(runs: &[Run]) -> usize {
    let parts: usize = runs.iter().map(|run| PART_BYTES + run.body.len()).sum();
    (HEAD_BYTES + parts).next_multiple_of(BLOCK_BYTES)
}

/// Writes a block into `target`, which is zeroed and exactly [`block_bytes`] long; returns the
/// chain after it.
pub(super) fn encode_block(
    target: &mut [u8],
    runs: &[Run],
    file_id: u64,
    at: u64,
    chain_before: u32,
) -> u32 {
    assert_eq!(target.len(), block_bytes(runs), "the target is the block");
    let (first, last) = (&runs[0], &runs[runs.len() - 1]);
    let mut cursor = HEAD_BYTES;
    for run in runs {
        put(target, cursor, &run.append_time.0.to_le_bytes());
        put(target, cursor + 8, &run.count.to_le_bytes());
        put(target, cursor + 12, &small(run.body.len()).to_le_bytes());
        put(target, cursor + PART_BYTES, &run.body);
        cursor += PART_BYTES + run.body.len();
    }
    let head = Head {
        kind: Kind::Block,
        chain_before,
        file_id,
        at,
        first: first.first,
        count: runs.iter().map(|run| run.count).sum(),
        payload_bytes: small(cursor - HEAD_BYTES),
        time_first: first.append_time,
        time_last: last.append_time,
        parts: small(runs.len()),
        crc: 0,
    };
    head.seal(target)
}

/// Bytes of a footer with this many entries, padding included.
pub(super) fn footer_bytes(entries: usize) -> usize {
    (HEAD_BYTES + entries * ENTRY_BYTES).next_multiple_of(BLOCK_BYTES)
}

/// What a footer says beside the index.
#[derive(Clone, Copy, Debug)]
pub(super) struct FooterOf {
    pub(super) file_id: u64,
    pub(super) at: u64,
    pub(super) chain_before: u32,
    pub(super) end: Offset,
    pub(super) time_last: WallTime,
}

/// Writes a footer into `target`, zeroed and [`footer_bytes`] long; returns its checksum.
pub(super) fn encode_footer(target: &mut [u8], entries: &[IndexEntry], of: &FooterOf) -> u32 {
    assert_eq!(target.len(), footer_bytes(entries.len()), "the target is the footer");
    for (slot, entry) in entries.iter().enumerate() {
        let at = HEAD_BYTES + slot * ENTRY_BYTES;
        put(target, at, &entry.first.0.to_le_bytes());
        put(target, at + 8, &entry.time.0.to_le_bytes());
        put(target, at + 16, &entry.at.to_le_bytes());
    }
    let head = Head {
        kind: Kind::Footer,
        chain_before: of.chain_before,
        file_id: of.file_id,
        at: of.at,
        first: of.end,
        count: small(entries.len()),
        payload_bytes: 0,
        time_first: entries.first().map_or(of.time_last, |entry| entry.time),
        time_last: of.time_last,
        parts: 0,
        crc: 0,
    };
    head.seal(target)
}

/// The index entries of a footer that [`Head::check`] has accepted.
pub(super) fn decode_entries(footer: &[u8], head: &Head) -> Result<Vec<IndexEntry>, Wrong> {
    let bytes = head.count as usize * ENTRY_BYTES;
    let entries =
        footer.get(HEAD_BYTES..HEAD_BYTES + bytes).ok_or("the footer's index is cut off")?;
    let decode = |chunk: &[u8]| -> super::Result<IndexEntry> {
        let mut reader = Reader { rest: chunk };
        let (first, time) = (Offset(reader.u64()?), WallTime(reader.u64()?));
        Ok(IndexEntry { first, time, at: reader.u64()? })
    };
    entries
        .chunks_exact(ENTRY_BYTES)
        .map(|chunk| decode(chunk).map_err(|_| "the footer's index is cut off"))
        .collect()
}

impl Head {
    /// Reads the head at the front of `bytes` and checks that it can be one of file `file_id` at
    /// byte `at`. Nothing else of it is proved before [`Head::check`].
    pub(super) fn decode(bytes: &[u8], file_id: u64, at: u64) -> Result<Self, Wrong> {
        let mut reader = Reader { rest: bytes };
        let head = Self::fields(&mut reader).map_err(|_| "the block is cut off")??;
        if head.file_id != file_id {
            return Err("the block belongs to another file, or to an earlier life of this one");
        }
        if head.at != at {
            return Err("the block belongs to another place in the file");
        }
        if head.bytes() > BYTES_MAX {
            return Err("the block claims an impossible length");
        }
        Ok(head)
    }

    fn fields(reader: &mut Reader<'_>) -> super::Result<Result<Self, Wrong>> {
        let kind = match reader.u32()? {
            BLOCK_MAGIC => Kind::Block,
            FOOTER_MAGIC => Kind::Footer,
            _ => return Ok(Err("no block starts here")),
        };
        Ok(Ok(Self {
            kind,
            chain_before: reader.u32()?,
            file_id: reader.u64()?,
            at: reader.u64()?,
            first: Offset(reader.u64()?),
            count: reader.u32()?,
            payload_bytes: reader.u32()?,
            time_first: WallTime(reader.u64()?),
            time_last: WallTime(reader.u64()?),
            parts: reader.u32()?,
            crc: reader.u32()?,
        }))
    }

    /// How long the structure is, padding included.
    pub(super) fn bytes(&self) -> usize {
        match self.kind {
            Kind::Block => (HEAD_BYTES + self.payload_bytes as usize).next_multiple_of(BLOCK_BYTES),
            Kind::Footer => footer_bytes(self.count as usize),
        }
    }

    /// Checks all bytes of the structure against its checksum.
    pub(super) fn check(&self, bytes: &[u8]) -> Result<(), Wrong> {
        let bytes = bytes.get(..self.bytes()).ok_or("the block is cut off")?;
        if checksum(bytes) == self.crc {
            Ok(())
        } else {
            Err("the block does not match its checksum")
        }
    }

    /// The offset after the block's last record.
    pub(super) fn end(&self) -> Result<Offset, Wrong> {
        let end = self.first.0.checked_add(u64::from(self.count));
        end.map(Offset).ok_or("the block's offsets are impossible")
    }

    /// Completes `target`, whose payload is in place; returns its checksum.
    fn seal(&self, target: &mut [u8]) -> u32 {
        let magic = match self.kind {
            Kind::Block => BLOCK_MAGIC,
            Kind::Footer => FOOTER_MAGIC,
        };
        put(target, 0, &magic.to_le_bytes());
        put(target, 4, &self.chain_before.to_le_bytes());
        put(target, 8, &self.file_id.to_le_bytes());
        put(target, 16, &self.at.to_le_bytes());
        put(target, 24, &self.first.0.to_le_bytes());
        put(target, 32, &self.count.to_le_bytes());
        put(target, 36, &self.payload_bytes.to_le_bytes());
        put(target, 40, &self.time_first.0.to_le_bytes());
        put(target, 48, &self.time_last.0.to_le_bytes());
        put(target, 56, &self.parts.to_le_bytes());
        let crc = checksum(target);
        put(target, CRC_AT, &crc.to_le_bytes());
        crc
    }
}

/// Cuts a checked block's payload into its parts: for each, its append time, how many records, and
/// where in the block its body lies.
pub(super) fn decode_parts(
    block: &[u8],
    head: &Head,
) -> Result<Vec<(WallTime, u32, std::ops::Range<usize>)>, Wrong> {
    const WRONG: Wrong = "the block's parts do not fit its head";
    let payload_end = HEAD_BYTES + head.payload_bytes as usize;
    let mut cursor = HEAD_BYTES;
    let mut records = 0_u32;
    let mut parts = Vec::new();
    while cursor < payload_end {
        let mut reader = Reader { rest: block.get(cursor..payload_end).ok_or(WRONG)? };
        let mut fields = || -> super::Result<(u64, u32, u32)> {
            Ok((reader.u64()?, reader.u32()?, reader.u32()?))
        };
        let (time, count, bytes) = fields().map_err(|_| WRONG)?;
        let body = cursor + PART_BYTES..cursor + PART_BYTES + bytes as usize;
        let mut rest = block.get(..payload_end).and_then(|b| b.get(body.clone())).ok_or(WRONG)?;
        for _ in 0..count {
            rest = rest.get(record_bytes(rest).ok_or(WRONG)?..).ok_or(WRONG)?;
        }
        if !rest.is_empty() || count == 0 {
            return Err(WRONG);
        }
        cursor = body.end;
        records = records.checked_add(count).ok_or(WRONG)?;
        parts.push((WallTime(time), count, body));
    }
    if records != head.count || parts.len() != head.parts as usize || parts.is_empty() {
        return Err(WRONG);
    }
    Ok(parts)
}

/// Over a block or footer, except the field that holds it.
pub(super) fn checksum(bytes: &[u8]) -> u32 {
    let mut hasher = Hasher::new();
    hasher.update(&bytes[..CRC_AT]);
    hasher.update(&bytes[HEAD_BYTES..]);
    hasher.finalize()
}

fn put(target: &mut [u8], at: usize, bytes: &[u8]) {
    target[at..at + bytes.len()].copy_from_slice(bytes);
}

fn small(number: usize) -> u32 {
    u32::try_from(number).expect("blocks are far below 4 GiB")
}

/// Of a block's and a footer's head.
pub(super) const HEAD_BYTES: usize = 64;
/// Before each part.
pub(super) const PART_BYTES: usize = 16;
/// The header fills the first 4 KiB, so the first block starts here.
pub(super) const FIRST_BLOCK_AT: u64 = BLOCK_BYTES as u64;
/// Above any block (one record of 16 MiB) and any footer: a length beyond it is damage.
pub(super) const BYTES_MAX: usize = 17 << 20;

const ENTRY_BYTES: usize = 24;
const CRC_AT: usize = 60;
const HEADER_CRC_AT: usize = BLOCK_BYTES - 4;
const VERSION: u32 = 1;
const FILE_MAGIC: u64 = u64::from_le_bytes(*b"TIDESEGM");
const BLOCK_MAGIC: u32 = u32::from_le_bytes(*b"TDBL");
const FOOTER_MAGIC: u32 = u32::from_le_bytes(*b"TDFT");
