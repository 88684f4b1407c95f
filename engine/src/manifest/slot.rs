//! One slot of the manifest: 4 KiB, all numbers little-endian.
//!
//! ```text
//! byte  0  magic "TMMF"          4  format u32
//!       8  CRC-32 of the slot, this field taken as 0
//!      12  flags u32: 1 = clean
//!      16  data id u128         32  sequence u64        40  run u64
//!      48  partitions u32       52  count of journals u32
//!      56  catalogue: number u64, 64 bytes u64, 72 crc u32
//!      76  zeros [4]
//!      80  journals, 56 bytes each, then zeros to the end
//!
//! journal   0  id u32            4  shard u16            6  1 = it has a clean end, u16
//!           8  first file: number u64, 16 slot u32
//!          20  clean end: slot u32, 24 file number u64, 32 byte u64, 40 sequence u64, 48 crc u32
//!          52  zeros [4]
//! ```
//!
//! Even sequence numbers lie in the lower slot, odd ones in the upper.

use zerocopy::little_endian::{U16, U32, U64, U128};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::{CatalogueRef, Error, FORMAT, JOURNALS_MAX, JournalRecord, Manifest, Stored};
use crate::env::BLOCK_BYTES;
use crate::journal::{CleanEnd, FileNumber, JournalFile, JournalId};
use crate::types::{Run, ShardId};

/// Size of a slot: what a crash may tear at most.
pub(super) const BYTES: usize = BLOCK_BYTES;

const MAGIC: [u8; 4] = *b"TMMF";
const CLEAN: u32 = 1;

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Head {
    magic: [u8; 4],
    format: U32,
    crc: U32,
    flags: U32,
    data_id: U128,
    sequence: U64,
    run: U64,
    partitions: U32,
    journals: U32,
    catalogue_number: U64,
    catalogue_bytes: U64,
    catalogue_crc: U32,
    zeros: [u8; 4],
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Journal {
    id: U32,
    shard: U16,
    ended: U16,
    first_number: U64,
    first_slot: U32,
    end_slot: U32,
    end_number: U64,
    end_byte: U64,
    end_sequence: U64,
    end_crc: U32,
    zeros: [u8; 4],
}

const _: () = assert!(size_of::<Head>() == 80);
const _: () = assert!(size_of::<Journal>() == 56);
const _: () = assert!(size_of::<Head>() + JOURNALS_MAX * size_of::<Journal>() <= BYTES);

/// The first byte of the slot with this sequence number.
pub(super) fn place(sequence: u64) -> u64 {
    sequence % 2 * BYTES as u64
}

pub(super) fn encode(manifest: &Manifest) -> [u8; BYTES] {
    let journals = u32::try_from(manifest.journals.len()).expect("at most JOURNALS_MAX");
    let mut head = Head {
        magic: MAGIC,
        format: U32::new(FORMAT),
        crc: U32::ZERO,
        flags: U32::new(if manifest.clean { CLEAN } else { 0 }),
        data_id: U128::new(manifest.data_id),
        sequence: U64::new(manifest.sequence),
        run: U64::new(manifest.run.0),
        partitions: U32::new(manifest.partitions),
        journals: U32::new(journals),
        catalogue_number: U64::new(manifest.catalogue.number),
        catalogue_bytes: U64::new(manifest.catalogue.bytes),
        catalogue_crc: U32::new(manifest.catalogue.crc),
        zeros: [0; 4],
    };
    let mut slot = [0; BYTES];
    let (start, rest) = slot.split_at_mut(size_of::<Head>());
    start.copy_from_slice(head.as_bytes());
    for (record, place) in manifest.journals.iter().zip(rest.chunks_mut(size_of::<Journal>())) {
        place.copy_from_slice(Journal::of(record).as_bytes());
    }
    head.crc = U32::new(crc32fast::hash(&slot));
    slot[..size_of::<Head>()].copy_from_slice(head.as_bytes());
    slot
}

/// Reads the slot that lies in place `number`, 0 or 1. The inner error says how it is damaged; an
/// intact one of another format is the outer error.
pub(super) fn decode(slot: &[u8], number: u64) -> Result<Result<Manifest, &'static str>, Error> {
    if slot.len() != BYTES {
        return Ok(Err("the file is cut short"));
    }
    let Ok((head, rest)) = Head::ref_from_prefix(slot) else {
        return Ok(Err("the file is cut short"));
    };
    if head.magic != MAGIC {
        return Ok(Err("the slot does not start with its magic number"));
    }
    let mut hasher = crc32fast::Hasher::new();
    let (before, after) = slot.split_at(8);
    hasher.update(before);
    hasher.update(&[0; 4]);
    hasher.update(after.get(4..).unwrap_or_default());
    if hasher.finalize() != head.crc.get() {
        return Ok(Err("the slot does not match its checksum"));
    }
    if head.format.get() != FORMAT {
        return Err(Error::Format { found: head.format.get() });
    }
    if head.sequence.get() % 2 != number {
        return Ok(Err("the slot belongs to the other place"));
    }
    let count = head.journals.get() as usize;
    if count > JOURNALS_MAX {
        return Ok(Err("the slot names more journals than it holds"));
    }
    let records = rest.chunks_exact(size_of::<Journal>()).take(count);
    let journals = records.filter_map(|bytes| Journal::ref_from_bytes(bytes).ok());
    let clean = head.flags.get() & CLEAN != 0;
    Ok(Ok(Manifest {
        data_id: head.data_id.get(),
        partitions: head.partitions.get(),
        run: Run(head.run.get()),
        clean,
        catalogue: CatalogueRef {
            number: head.catalogue_number.get(),
            bytes: head.catalogue_bytes.get(),
            crc: head.catalogue_crc.get(),
        },
        journals: journals.map(Journal::record).collect(),
        sequence: head.sequence.get(),
        stored: if clean { Stored::Clean } else { Stored::InTurn },
    }))
}

impl Journal {
    fn of(record: &JournalRecord) -> Self {
        let nowhere = CleanEnd {
            file: JournalFile { number: FileNumber(0), slot: 0 },
            byte: 0,
            sequence: 0,
            crc: 0,
        };
        let end = record.clean_end.unwrap_or(nowhere);
        Self {
            id: U32::new(record.id.0),
            shard: U16::new(record.shard.0),
            ended: U16::new(u16::from(record.clean_end.is_some())),
            first_number: U64::new(record.first.number.0),
            first_slot: U32::new(record.first.slot),
            end_slot: U32::new(end.file.slot),
            end_number: U64::new(end.file.number.0),
            end_byte: U64::new(end.byte),
            end_sequence: U64::new(end.sequence),
            end_crc: U32::new(end.crc),
            zeros: [0; 4],
        }
    }

    fn record(&self) -> JournalRecord {
        let end = CleanEnd {
            file: JournalFile {
                number: FileNumber(self.end_number.get()),
                slot: self.end_slot.get(),
            },
            byte: self.end_byte.get(),
            sequence: self.end_sequence.get(),
            crc: self.end_crc.get(),
        };
        JournalRecord {
            id: JournalId(self.id.get()),
            shard: ShardId(self.shard.get()),
            first: JournalFile {
                number: FileNumber(self.first_number.get()),
                slot: self.first_slot.get(),
            },
            clean_end: (self.ended.get() != 0).then_some(end),
        }
    }
}
