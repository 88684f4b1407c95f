//! Groups of entries, the unit that a crash leaves whole or not at all; all numbers little-endian.
//!
//! ```text
//! group    0  size of its entries u32     4  count of entries u32     8  entries
//! entry    0  partition u32   4  kind u8   5  zeros [3]   8  term u64   16  index u64
//!         24  size u32       28  bytes
//! ```
//!
//! A group header never spans frames: a frame with less than 8 bytes left is closed. What follows
//! the header may.

use std::collections::VecDeque;

use bytes::Bytes;
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::frame::Header;
use super::{Entry, EntryRef, Error, Group, JournalFile, JournalId, Kind, slot_path};
use crate::types::{Index, PartitionId, Run, Term};

/// No stored group is larger; what claims to be is damage.
pub(super) const GROUP_BYTES_MAX: u32 = 128 << 20;

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct GroupHeader {
    bytes: U32,
    entries: U32,
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct EntryHeader {
    partition: U32,
    kind: u8,
    zeros: [u8; 3],
    term: U64,
    index: U64,
    bytes: U32,
}

pub(super) const GROUP_HEADER_BYTES: usize = size_of::<GroupHeader>();
pub(super) const ENTRY_HEADER_BYTES: usize = size_of::<EntryHeader>();

const _: () = assert!(GROUP_HEADER_BYTES == 8);
const _: () = assert!(ENTRY_HEADER_BYTES == 28);

impl GroupHeader {
    pub(super) fn new(bytes: u32, entries: usize) -> Self {
        let entries = u32::try_from(entries).expect("a group's size bounds its entries");
        Self { bytes: U32::new(bytes), entries: U32::new(entries) }
    }
}

impl EntryHeader {
    pub(super) fn of(entry: &EntryRef<'_>) -> Self {
        let bytes = u32::try_from(entry.bytes.len()).expect("a group's size bounds its entries");
        Self {
            partition: U32::new(entry.partition.0),
            kind: entry.kind as u8,
            zeros: [0; 3],
            term: U64::new(entry.term.0),
            index: U64::new(entry.index.0),
            bytes: U32::new(bytes),
        }
    }
}

/// Size of a group without its header.
pub(super) fn encoded_bytes(group: &[EntryRef<'_>]) -> u64 {
    group.iter().map(|entry| (ENTRY_HEADER_BYTES + entry.bytes.len()) as u64).sum()
}

/// Puts groups together from the payloads of a chain of frames.
#[derive(Debug)]
pub(super) struct Assembler {
    journal: JournalId,
    open: Option<Open>,
    /// Whether a frame was seen: only the first one may continue a group nobody has seen.
    started: bool,
    /// The bytes that continue belong to a group that began before the first frame.
    skipping: bool,
}

#[derive(Debug)]
struct Open {
    file: JournalFile,
    byte: u64,
    run: Run,
    want: usize,
    entries: u32,
    have: Vec<u8>,
}

impl Assembler {
    pub(super) fn new(journal: JournalId) -> Self {
        Self { journal, open: None, started: false, skipping: false }
    }

    /// Takes the next frame of the chain; complete groups go to `out`.
    pub(super) fn push(
        &mut self,
        header: &Header,
        payload: &[u8],
        out: &mut VecDeque<Group>,
    ) -> Result<(), Error> {
        let (continued, mut rest) = payload
            .split_at_checked(header.continued_bytes as usize)
            .ok_or_else(|| corrupt(header, "its payload is shorter than it says"))?;
        if !self.started {
            self.started = true;
            self.skipping = true;
        }
        if let Some(mut open) = self.open.take() {
            if header.run > open.run && continued.is_empty() {
                // The opening that wrote the first part ended before the group was complete.
            } else {
                if continued.len() != (open.want - open.have.len()).min(payload.len()) {
                    return Err(corrupt(header, "it does not continue the group before it"));
                }
                open.have.extend_from_slice(continued);
                self.finish(open, header, out)?;
            }
        } else if !self.skipping && !continued.is_empty() {
            return Err(corrupt(header, "it continues a group that never began"));
        }
        self.skipping = self.skipping && rest.is_empty() && !continued.is_empty();
        while !rest.is_empty() {
            let (group, after) = GroupHeader::ref_from_prefix(rest)
                .map_err(|_| corrupt(header, "a group header is cut"))?;
            let want = group.bytes.get();
            if want > GROUP_BYTES_MAX {
                return Err(corrupt(header, "a group is larger than any that was written"));
            }
            let want = want as usize;
            let (have, after) = after.split_at(want.min(after.len()));
            rest = after;
            let open = Open {
                file: header.file,
                byte: u64::from(header.byte),
                run: header.run,
                want,
                entries: group.entries.get(),
                have: have.to_vec(),
            };
            self.finish(open, header, out)?;
        }
        Ok(())
    }

    /// Whether the chain ended within a group.
    pub(super) fn is_open(&self) -> bool {
        self.open.is_some()
    }

    fn finish(
        &mut self,
        open: Open,
        last: &Header,
        out: &mut VecDeque<Group>,
    ) -> Result<(), Error> {
        if open.have.len() < open.want {
            self.open = Some(open);
        } else {
            out.push_back(open.decode(self.journal, last.sequence)?);
        }
        Ok(())
    }
}

impl Open {
    fn decode(self, journal: JournalId, sequence: u64) -> Result<Group, Error> {
        let Self { file, byte, have, .. } = self;
        let bytes = Bytes::from(have);
        let mut rest = &bytes[..];
        let mut entries = Vec::new();
        let damaged = |what| Error::corrupt(journal, file, byte, what);
        while !rest.is_empty() {
            let (stored, after) = EntryHeader::ref_from_prefix(rest)
                .map_err(|_| damaged("an entry header is cut"))?;
            let (content, after) = after
                .split_at_checked(stored.bytes.get() as usize)
                .ok_or_else(|| damaged("an entry is longer than its group"))?;
            rest = after;
            let kind = Kind::from_stored(stored.kind).ok_or_else(|| Error::Kind {
                path: slot_path(journal, file.slot),
                byte,
                found: stored.kind,
            })?;
            entries.push(Entry {
                partition: PartitionId(stored.partition.get()),
                term: Term(stored.term.get()),
                index: Index(stored.index.get()),
                kind,
                bytes: bytes.slice_ref(content),
            });
        }
        if entries.len() != self.entries as usize {
            return Err(damaged("a group does not hold as many entries as it says"));
        }
        Ok(Group { file, byte, sequence, entries })
    }
}

fn corrupt(header: &Header, what: &'static str) -> Error {
    Error::corrupt(header.journal, header.file, u64::from(header.byte), what)
}
