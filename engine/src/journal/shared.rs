//! What the handles, the writer and the keeper of one open journal share.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

use super::queue::{Position, Queue};
use super::retention::Retention;
use super::slots::Slot;
use super::wake::{Bell, Waits};
use super::{Counts, Error, FileNumber, JournalFile, Options, Retain, Ticket};
use crate::env::Env;
use crate::types::PartitionId;

pub(super) struct Shared {
    pub(super) env: Env,
    pub(super) options: Options,
    pub(super) retain: Rc<dyn Retain>,
    pub(super) state: RefCell<State>,
    /// Who waits for a ticket to become durable.
    pub(super) durable: Waits,
    /// Who waits for room.
    pub(super) room: Waits,
    /// Something for the writer to do.
    pub(super) writer: Bell,
    /// Something for the keeper to do.
    pub(super) keeper: Bell,
    /// Writer or keeper ended something that somebody may wait for.
    pub(super) ended: Bell,
    /// Readers of retained files; none is recycled meanwhile.
    pub(super) pins: Cell<usize>,
}

#[allow(clippy::struct_excessive_bools, reason = "each is a fact of its own, in any combination")]
pub(super) struct State {
    pub(super) failed: Option<Error>,
    /// Nothing more is appended; the tasks end when everything is durable.
    pub(super) closing: bool,
    /// Nobody holds the journal any more; the tasks end at once.
    pub(super) abandoned: bool,
    pub(super) writer_ended: bool,
    pub(super) keeper_ended: bool,

    pub(super) queue: Queue,
    pub(super) retention: Retention,
    /// The last group appended.
    pub(super) appended: Ticket,
    /// Groups up to here are durable.
    pub(super) durable: Ticket,

    /// The frame submitted next.
    pub(super) sequence: u64,
    pub(super) previous_crc: u32,
    pub(super) flights: VecDeque<Flight>,
    /// Every frame with a lower sequence is durable.
    pub(super) durable_below: u64,
    /// The file of the last durable frame: files before it can be given up.
    pub(super) durable_file: FileNumber,
    /// The last frame with content.
    pub(super) content: u64,
    /// The highest `durable_below` that a durable frame carries.
    pub(super) proof: u64,
    pub(super) seal_now: bool,
    /// Groups that name bytes outside the journal which are still being written, each with the frame that
    /// it ends in once that is submitted.
    pub(super) held: BTreeMap<Ticket, Option<u64>>,

    /// Retained files, the one being written, and the one chosen to follow it.
    pub(super) files: BTreeMap<FileNumber, Slot>,
    pub(super) first: JournalFile,
    /// A new first file is being made durable.
    pub(super) advancing: bool,
    pub(super) spares: VecDeque<Slot>,
    /// The largest admission that found no allocated space.
    pub(super) demand: u64,
    pub(super) disk_full: bool,
    pub(super) counts: Counts,
}

/// A write under way.
#[derive(Debug)]
pub(super) struct Flight {
    pub(super) sequence: u64,
    pub(super) file: FileNumber,
    pub(super) ticket: Option<Ticket>,
    pub(super) durable_below: u64,
    pub(super) frame_bytes: u32,
    pub(super) done: bool,
}

/// Whether there is room for an append.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Room {
    Enough,
    /// Until files are recycled or the queue is written.
    Full,
    /// Until the keeper has allocated more.
    NotAllocated,
}

impl State {
    /// Something that stops every operation.
    pub(super) fn check(&self) -> Result<(), Error> {
        match &self.failed {
            Some(cause) => Err(cause.stopped()),
            None if self.closing => Err(Error::Closed),
            None => Ok(()),
        }
    }

    /// What the next frame can prove: the durable frames before the first one with a held group.
    pub(super) fn provable(&self) -> u64 {
        let held = self.held.values().flatten().min();
        held.map_or(self.durable_below, |&sequence| self.durable_below.min(sequence))
    }

    /// Whether some durable frame has no later durable frame that proves it, and the next one could.
    pub(super) fn unproved(&self) -> bool {
        self.content >= self.proof && self.content > 0 && self.provable() > self.proof
    }

    pub(super) fn idle(&self) -> bool {
        self.flights.is_empty() && self.queue.is_empty()
    }

    /// The partitions that keep the first file, if it could be given up otherwise.
    pub(super) fn holders(&self) -> Vec<PartitionId> {
        self.retention.holders(self.first.number, self.durable).collect()
    }

    /// The file that recovery could start at by now.
    pub(super) fn needed_from(&self) -> FileNumber {
        let mut first = self.first.number;
        let is_free = |file| self.retention.holders(file, self.durable).next().is_none();
        while first < self.durable_file && is_free(first) {
            first.0 += 1;
        }
        first
    }

    fn absolute(position: Position, file_bytes: u64) -> u64 {
        position.file.0 * file_bytes + u64::from(position.byte)
    }

    /// The end of allocated files, as a position in the life of the journal.
    pub(super) fn allocated(&self, file_bytes: u64) -> u64 {
        let last = self.files.last_key_value().map_or(self.first.number, |(number, _)| *number);
        (last.0 + 1 + self.spares.len() as u64) * file_bytes
    }

    /// What `allocated` must be to write `ahead` bytes more than are queued. A file is only begun when
    /// the one after it is there.
    pub(super) fn wanted(&self, ahead: u64, file_bytes: u64) -> u64 {
        ((Self::absolute(self.queue.end(), file_bytes) + ahead) / file_bytes + 2) * file_bytes
    }

    pub(super) fn used(&self, file_bytes: u64) -> u64 {
        let end = Self::absolute(self.queue.end(), file_bytes);
        end - self.first.number.0 * file_bytes
    }

    pub(super) fn room(&self, bytes: u64, options: &Options) -> Room {
        let file_bytes = u64::from(options.file_bytes);
        if self.used(file_bytes) + bytes + options.reserve_bytes() > options.bytes_max
            || self.queue.queued_bytes() > options.queue_bytes_max
        {
            return Room::Full;
        }
        if self.wanted(bytes + file_bytes / 2, file_bytes) > self.allocated(file_bytes) {
            return Room::NotAllocated;
        }
        Room::Enough
    }
}

impl Shared {
    /// The journal stops for ever.
    pub(super) fn fail(&self, error: Error) {
        self.state.borrow_mut().failed.get_or_insert(error);
        self.wake_everyone();
    }

    pub(super) fn wake_everyone(&self) {
        self.durable.wake_all();
        self.room.wake_all();
        self.writer.ring();
        self.keeper.ring();
        self.ended.ring();
    }
}
