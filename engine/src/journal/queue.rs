//! What was appended and is not yet written: frames under construction, encoded in place.
//!
//! A frame's place is known when it is opened, because the one before it is complete then. So frames
//! fill every file to its last byte, and groups flow from frame to frame and from file to file.

use std::collections::VecDeque;

use zerocopy::IntoBytes;

use super::frame::HEADER_BYTES;
use super::group::{EntryHeader, GROUP_HEADER_BYTES, GroupHeader, encoded_bytes};
use super::{EntryRef, FileNumber, Ticket};
use crate::env::{BLOCK_BYTES, Buf};

/// A byte in the life of a journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Position {
    pub(super) file: FileNumber,
    pub(super) byte: u32,
}

/// A frame under construction.
#[derive(Debug)]
pub(super) struct Building {
    /// The frame's bytes; its header is still missing.
    pub(super) buf: Buf,
    pub(super) at: Position,
    pub(super) payload_bytes: usize,
    pub(super) continued_bytes: usize,
    /// The last group that ends in it.
    pub(super) ticket: Option<Ticket>,
    capacity: usize,
}

impl Building {
    fn room(&self) -> usize {
        self.capacity - HEADER_BYTES - self.payload_bytes
    }

    fn put(&mut self, bytes: &[u8]) {
        let from = HEADER_BYTES + self.payload_bytes;
        self.buf[from..from + bytes.len()].copy_from_slice(bytes);
        self.payload_bytes += bytes.len();
    }

    pub(super) fn frame_bytes(&self) -> usize {
        (HEADER_BYTES + self.payload_bytes).next_multiple_of(BLOCK_BYTES)
    }
}

#[derive(Debug)]
pub(super) struct Queue {
    file_bytes: u32,
    frame_bytes_max: usize,
    /// Where the next frame to be opened starts.
    next: Position,
    full: VecDeque<Building>,
    open: Option<Building>,
    pool: Vec<Buf>,
    full_bytes: usize,
}

/// So many buffers are kept for the next frames.
const POOL_MAX: usize = 6;

impl Queue {
    pub(super) fn new(file_bytes: u32, frame_bytes_max: u32, next: Position) -> Self {
        Self {
            file_bytes,
            frame_bytes_max: frame_bytes_max as usize,
            next,
            full: VecDeque::new(),
            open: None,
            pool: Vec::new(),
            full_bytes: 0,
        }
    }

    /// Encodes a group; returns the file in which it starts.
    pub(super) fn append(&mut self, group: &[EntryRef<'_>], ticket: Ticket) -> FileNumber {
        let bytes = encoded_bytes(group);
        let bytes = u32::try_from(bytes).expect("the caller checks the size of a group");
        let mut left = GROUP_HEADER_BYTES + bytes as usize;
        if self.open(0).room() < GROUP_HEADER_BYTES {
            self.close();
        }
        let start = self.open(0).at.file;
        self.put(GroupHeader::new(bytes, group.len()).as_bytes(), &mut left);
        for entry in group {
            self.put(EntryHeader::of(entry).as_bytes(), &mut left);
            self.put(entry.bytes, &mut left);
        }
        assert_eq!(left, 0, "a group is as long as announced");
        self.open(0).ticket = Some(ticket);
        if self.open(0).room() == 0 {
            self.close();
        }
        start
    }

    /// The next frame to write: a full one, or, if `partial`, also the one being filled.
    pub(super) fn take(&mut self, partial: bool) -> Option<Building> {
        if self.full.is_empty() && partial {
            self.close();
        }
        let building = self.full.pop_front()?;
        self.full_bytes -= building.frame_bytes();
        Some(building)
    }

    /// Makes a frame without content, if nothing else is queued.
    pub(super) fn put_empty(&mut self) {
        if self.is_empty() {
            self.open(0);
        }
    }

    /// Where the frame lies that `take` would return.
    pub(super) fn front(&self) -> Option<Position> {
        self.full.front().or(self.open.as_ref()).map(|building| building.at)
    }

    pub(super) fn has_full(&self) -> bool {
        !self.full.is_empty()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.full.is_empty() && self.open.is_none()
    }

    /// Takes back a buffer that was written.
    pub(super) fn recycle(&mut self, mut buf: Buf) {
        if self.pool.len() < POOL_MAX {
            buf.set_len(self.frame_bytes_max);
            self.pool.push(buf);
        }
    }

    pub(super) fn queued_bytes(&self) -> usize {
        self.full_bytes + self.open.as_ref().map_or(0, Building::frame_bytes)
    }

    /// Where the last frame ends, the one being filled included.
    pub(super) fn end(&self) -> Position {
        match &self.open {
            Some(open) => self.after(open),
            None => self.next,
        }
    }

    fn after(&self, building: &Building) -> Position {
        let bytes = u32::try_from(building.frame_bytes()).expect("a frame fits a file");
        let byte = building.at.byte + bytes;
        if byte < self.file_bytes {
            Position { file: building.at.file, byte }
        } else {
            Position { file: FileNumber(building.at.file.0 + 1), byte: 0 }
        }
    }

    fn put(&mut self, mut bytes: &[u8], left: &mut usize) {
        while !bytes.is_empty() {
            let open = self.open(*left);
            let (now, later) = bytes.split_at(bytes.len().min(open.room()));
            open.put(now);
            *left -= now.len();
            if !later.is_empty() {
                self.close();
            }
            bytes = later;
        }
    }

    /// The frame being filled; a new one starts with what is `left` of the current group.
    fn open(&mut self, left: usize) -> &mut Building {
        let Self { open, pool, next, frame_bytes_max, file_bytes, .. } = self;
        open.get_or_insert_with(|| {
            let buf = pool.pop().unwrap_or_else(|| Buf::zeroed(*frame_bytes_max));
            let capacity = (*frame_bytes_max).min((*file_bytes - next.byte) as usize);
            Building {
                buf,
                at: *next,
                payload_bytes: 0,
                continued_bytes: left.min(capacity - HEADER_BYTES),
                ticket: None,
                capacity,
            }
        })
    }

    fn close(&mut self) {
        let Some(mut open) = self.open.take() else { return };
        open.buf.set_len(open.frame_bytes());
        self.next = self.after(&open);
        self.full_bytes += open.frame_bytes();
        self.full.push_back(open);
    }
}
