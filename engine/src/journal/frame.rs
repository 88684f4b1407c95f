//! A frame: one write of the journal. A multiple of 4 KiB; all numbers little-endian.
//!
//! ```text
//! byte  0  magic "TMJF"       4  version u16        6  reserved u16, 0
//!       8  CRC-32 of the whole frame, this field taken as 0
//!      12  CRC-32 of the frame before (0 for the first one of a journal)
//!      16  journal u32       20  slot u32          24  slot of the file after this one u32
//!      28  file size u32     32  run u64           40  sequence u64
//!      48  file number u64   56  durable_below u64
//!      64  own byte in the file u32                68  frame size u32
//!      72  payload size u32  76  of which continue a group begun in an earlier frame u32
//!      80  payload, then zeros
//! ```
//!
//! The payloads of successive frames, one after the other, are a stream of groups, so a group may
//! span frames and files; see [`super::group`]. Magic, version, CRC and frame size keep their places
//! in every version.
//!
//! Every frame names the slot of the file after its own. The choice is made, and the slot's space
//! and directory entry are durable, before the first frame of a file is written.

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::{FileNumber, JournalFile, JournalId};
use crate::env::{BLOCK_BYTES, IO_BYTES_MAX};
use crate::types::Run;

/// The format written.
pub(super) const VERSION: u16 = 1;

/// Where a frame's payload starts.
pub(super) const HEADER_BYTES: usize = size_of::<Stored>();

/// No file is larger: positions in one are 32 bits wide.
pub(super) const FILE_BYTES_MAX: u32 = 1 << 30;

const MAGIC: [u8; 4] = *b"TMJF";
const CRC_AT: usize = 8;
const CRC_BYTES: usize = 4;

/// What a frame says about itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Its format.
    pub version: u16,
    /// CRC-32 of the frame.
    pub crc: u32,
    /// CRC-32 of the frame before it.
    pub previous_crc: u32,
    /// The journal it belongs to.
    pub journal: JournalId,
    /// The file it lies in.
    pub file: JournalFile,
    /// The slot of the file after that.
    pub next_slot: u32,
    /// The size of every file of the journal.
    pub file_bytes: u32,
    /// The opening that wrote it.
    pub run: Run,
    /// Counts the frames of the journal, from 1.
    pub sequence: u64,
    /// Every frame with a lower sequence was durable when this one was submitted.
    pub durable_below: u64,
    /// Its first byte in the file.
    pub byte: u32,
    /// Its size.
    pub frame_bytes: u32,
    /// Size of its payload.
    pub payload_bytes: u32,
    /// How many bytes at the start of the payload continue a group of an earlier frame.
    pub continued_bytes: u32,
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Stored {
    magic: [u8; 4],
    version: U16,
    reserved: U16,
    crc: U32,
    previous_crc: U32,
    journal: U32,
    slot: U32,
    next_slot: U32,
    file_bytes: U32,
    run: U64,
    sequence: U64,
    file: U64,
    durable_below: U64,
    byte: U32,
    frame_bytes: U32,
    payload_bytes: U32,
    continued_bytes: U32,
}

const _: () = assert!(size_of::<Stored>() == 80);

impl Header {
    /// Completes a frame whose payload is in place: pads, writes the header and the checksum, and
    /// returns that. `self.crc` is ignored.
    pub(super) fn seal(&self, frame: &mut [u8]) -> u32 {
        assert_eq!(frame.len(), self.frame_bytes as usize);
        let end = HEADER_BYTES + self.payload_bytes as usize;
        frame[end..].fill(0);
        let mut stored = Stored {
            magic: MAGIC,
            version: U16::new(self.version),
            reserved: U16::ZERO,
            crc: U32::ZERO,
            previous_crc: U32::new(self.previous_crc),
            journal: U32::new(self.journal.0),
            slot: U32::new(self.file.slot),
            next_slot: U32::new(self.next_slot),
            file_bytes: U32::new(self.file_bytes),
            run: U64::new(self.run.0),
            sequence: U64::new(self.sequence),
            file: U64::new(self.file.number.0),
            durable_below: U64::new(self.durable_below),
            byte: U32::new(self.byte),
            frame_bytes: U32::new(self.frame_bytes),
            payload_bytes: U32::new(self.payload_bytes),
            continued_bytes: U32::new(self.continued_bytes),
        };
        frame[..HEADER_BYTES].copy_from_slice(stored.as_bytes());
        let crc = crc32fast::hash(frame);
        stored.crc = U32::new(crc);
        frame[..HEADER_BYTES].copy_from_slice(stored.as_bytes());
        crc
    }

    /// Reads the header at the start of `block`; `None` if it cannot be one. The checksum, which
    /// needs the whole frame, is not looked at.
    pub(super) fn peek(block: &[u8]) -> Option<Self> {
        let header = Self::peek_anything(block)?;
        let stored = Stored::ref_from_prefix(block).ok()?.0;
        let frame_bytes = header.frame_bytes as usize;
        let room = frame_bytes.checked_sub(HEADER_BYTES)?;
        let plausible = stored.magic == MAGIC
            && frame_bytes.is_multiple_of(BLOCK_BYTES)
            && frame_bytes <= IO_BYTES_MAX
            && header.payload_bytes as usize <= room
            && header.continued_bytes <= header.payload_bytes
            && (header.byte as usize).is_multiple_of(BLOCK_BYTES)
            && u64::from(header.byte) + u64::from(header.frame_bytes)
                <= u64::from(header.file_bytes)
            && (header.file_bytes as usize).is_multiple_of(BLOCK_BYTES)
            && header.file_bytes <= FILE_BYTES_MAX
            && header.durable_below <= header.sequence;
        plausible.then_some(header)
    }

    /// Whether a damaged block still looks as if it had been the frame that is expected here: at most
    /// one of the five fields that identify it is wrong. `sequence` is `None` where it is not known.
    pub(super) fn resembles(
        block: &[u8],
        journal: JournalId,
        file: JournalFile,
        byte: u64,
        sequence: Option<u64>,
    ) -> bool {
        let Some(header) = Self::peek_anything(block) else { return false };
        let matching = [
            block.starts_with(&MAGIC),
            header.journal == journal,
            header.file.number == file.number,
            u64::from(header.byte) == byte,
            sequence.is_none_or(|sequence| header.sequence == sequence),
        ];
        matching.iter().filter(|&&matches| matches).count() >= matching.len() - 1
    }

    fn peek_anything(block: &[u8]) -> Option<Self> {
        let (stored, _) = Stored::ref_from_prefix(block).ok()?;
        Some(Self {
            version: stored.version.get(),
            crc: stored.crc.get(),
            previous_crc: stored.previous_crc.get(),
            journal: JournalId(stored.journal.get()),
            file: JournalFile { number: FileNumber(stored.file.get()), slot: stored.slot.get() },
            next_slot: stored.next_slot.get(),
            file_bytes: stored.file_bytes.get(),
            run: Run(stored.run.get()),
            sequence: stored.sequence.get(),
            durable_below: stored.durable_below.get(),
            byte: stored.byte.get(),
            frame_bytes: stored.frame_bytes.get(),
            payload_bytes: stored.payload_bytes.get(),
            continued_bytes: stored.continued_bytes.get(),
        })
    }

    /// Whether `frame`, which starts with this header, is intact.
    pub(super) fn verify(&self, frame: &[u8]) -> bool {
        let Some(frame) = frame.get(..self.frame_bytes as usize) else { return false };
        let (Some(before), Some(after)) = (frame.get(..CRC_AT), frame.get(CRC_AT + CRC_BYTES..))
        else {
            return false;
        };
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(before);
        hasher.update(&[0; CRC_BYTES]);
        hasher.update(after);
        hasher.finalize() == self.crc
    }

    /// The payload of `frame`, which starts with this header.
    pub(super) fn payload<'a>(&self, frame: &'a [u8]) -> &'a [u8] {
        frame.get(HEADER_BYTES..HEADER_BYTES + self.payload_bytes as usize).unwrap_or_default()
    }
}
