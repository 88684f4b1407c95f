//! The write-ahead log of one shard.

use std::fmt;
use std::rc::Rc;
use std::time::Duration;

use crate::env::{BLOCK_BYTES, Env, IO_BYTES_MAX, LocalFuture};
use crate::types::{Index, PartitionId, Run};

mod entry;
mod error;

pub use entry::{Entry, EntryRef, Kind};
pub use error::Error;

/// A journal's name: unique for ever in a data directory, never reused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct JournalId(pub u32);

/// Counts the files of a journal over its life, from 1. A recycled slot gets a new number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileNumber(pub u64);

/// Counts the groups appended since the journal was opened: the n-th append has ticket n, and
/// `Ticket(0)` comes before all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(pub u64);

/// A file of a journal: which one in its life, and in which slot (`journal/<id>-<slot>`) it lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct JournalFile {
    /// Its number.
    pub number: FileNumber,
    /// The slot that holds it.
    pub slot: u32,
}

impl JournalFile {
    /// The first file of every journal.
    pub const FIRST: Self = Self { number: FileNumber(1), slot: 0 };
}

/// Where a cleanly closed journal ends. The manifest keeps it, so that every damaged byte before it
/// is an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CleanEnd {
    /// The file in which the next frame would lie.
    pub file: JournalFile,
    /// The byte at which it would start.
    pub byte: u64,
    /// The sequence number it would have.
    pub sequence: u64,
    /// Checksum of the last frame, 0 if there is none.
    pub crc: u32,
}

/// How a journal works.
#[derive(Clone, Debug)]
pub struct Options {
    /// Its name.
    pub id: JournalId,
    /// This opening; higher than that of every frame in the journal.
    pub run: Run,
    /// Size of a file, a multiple of [`BLOCK_BYTES`]. A resumed journal keeps the size it has.
    pub file_bytes: u32,
    /// Files are retained up to this many bytes; then clients wait.
    pub bytes_max: u64,
    /// No frame is larger. At most [`IO_BYTES_MAX`].
    pub frame_bytes_max: u32,
    /// No group is larger, encoded.
    pub group_bytes_max: u32,
    /// So many writes are in flight at most.
    pub in_flight_max: usize,
    /// After so long without work, one closing frame proves the last acknowledgements.
    pub seal_idle_after: Duration,
}

impl Options {
    /// The defaults for journal `id` in this opening.
    #[must_use]
    pub fn new(id: JournalId, run: Run) -> Self {
        Self {
            id,
            run,
            file_bytes: 16 << 20,
            bytes_max: 512 << 20,
            frame_bytes_max: 1 << 20,
            group_bytes_max: 64 << 20,
            in_flight_max: 4,
            seal_idle_after: Duration::from_millis(10),
        }
    }
}

/// Who asks for room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// New work: waits while the journal is full, and leaves a reserve.
    Client,
    /// Work that lets the journal shrink (decisions, outcomes, folds, copies): may use the reserve,
    /// and never waits.
    System,
}

/// Keeps the manifest in step with the journal.
pub trait Retain {
    /// Makes durable that `first` is the first file of journal `id` that recovery reads. Files before
    /// it are overwritten once this returned `Ok`; an error stops the journal.
    fn advance(&self, id: JournalId, first: JournalFile) -> LocalFuture<'_, Result<(), Error>>;
}

/// An open journal. Clones are handles to the same one; it stays on its shard.
#[derive(Clone)]
pub struct Journal {
    env: Env,
}

impl Journal {
    /// Makes a new, empty journal: its first file is allocated, pre-written and durable, its name
    /// too. Leftovers of an earlier creation that no manifest names are removed.
    ///
    /// # Errors
    /// `DiskFull`, `Io`.
    pub async fn create(
        _env: &Env,
        _options: Options,
        _retain: Rc<dyn Retain>,
    ) -> Result<Self, Error> {
        unimplemented!()
    }

    /// Goes on where recovery ended.
    ///
    /// # Errors
    /// `Io`.
    pub async fn resume(
        _env: &Env,
        _options: Options,
        _recovered: Recovered,
        _retain: Rc<dyn Retain>,
    ) -> Result<Self, Error> {
        unimplemented!()
    }

    /// Queues entries; after a crash, all of them are there or none. Returns at once.
    ///
    /// # Errors
    /// `GroupTooLarge`, `Stopped`, `Closed`.
    pub fn append(&self, _group: &[EntryRef<'_>]) -> Result<Ticket, Error> {
        unimplemented!()
    }

    /// Waits until `bytes` more can be appended. Append right after, without another await between.
    ///
    /// # Errors
    /// `DiskFull` (for `Client`), `Stopped`, `Closed`.
    pub async fn admit(&self, _bytes: usize, _who: Admission) -> Result<(), Error> {
        unimplemented!()
    }

    /// Every group up to this ticket survives a crash.
    pub fn durable(&self) -> Ticket {
        unimplemented!()
    }

    /// Waits until `ticket` is durable.
    ///
    /// # Errors
    /// `Stopped`: whether the group survives is unknown until recovery.
    pub async fn wait(&self, _ticket: Ticket) -> Result<(), Error> {
        unimplemented!()
    }

    /// Waits until more than `beyond` is durable; returns how far it is.
    ///
    /// # Errors
    /// As [`Journal::wait`].
    pub async fn advanced(&self, _beyond: Ticket) -> Result<Ticket, Error> {
        unimplemented!()
    }

    /// Entries of `partition` up to `index` are contained in a synced root and synced segments,
    /// except those in `pending`. Files that nothing needs any more are recycled.
    pub fn covered(&self, _partition: PartitionId, _index: Index, _pending: &[Index]) {
        unimplemented!()
    }

    /// Bytes of entries of `partition` in retained files that are not covered.
    pub fn share(&self, _partition: PartitionId) -> u64 {
        unimplemented!()
    }

    /// Bytes from the first retained file to the last append.
    pub fn used_bytes(&self) -> u64 {
        unimplemented!()
    }

    /// The partitions whose entries keep the first file from being recycled.
    pub fn holders(&self) -> Vec<PartitionId> {
        unimplemented!()
    }

    /// Appends what `partition` needs of the first retained file again, so that the file can be
    /// recycled; returns how many bytes that took, 0 if there was nothing to do.
    ///
    /// # Errors
    /// `Io`, `Corrupt`, `Stopped`, `Closed`.
    pub async fn copy_forward(&self, _partition: PartitionId) -> Result<u64, Error> {
        unimplemented!()
    }

    /// Why the journal stopped, if it did.
    pub fn failed(&self) -> Option<Error> {
        unimplemented!()
    }

    /// Writes a closing frame now if the last acknowledgements are not proved by a later frame.
    pub fn seal_idle(&self) {
        unimplemented!()
    }

    /// Waits until everything appended is durable, and ends the journal. The caller puts the end into
    /// the manifest.
    ///
    /// # Errors
    /// `Stopped`.
    pub async fn close(&self) -> Result<CleanEnd, Error> {
        unimplemented!()
    }
}

/// Reads a journal back after the directory was opened.
#[derive(Debug)]
pub struct Recovery {}

/// Entries that were appended together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// File in which the frame lies that the group starts in.
    pub file: JournalFile,
    /// First byte of that frame.
    pub byte: u64,
    /// The entries.
    pub entries: Vec<Entry>,
}

impl Recovery {
    /// Starts at `first`, as the manifest says; `run` is this opening's.
    ///
    /// # Errors
    /// `Io`.
    pub async fn open(
        _env: &Env,
        _id: JournalId,
        _first: JournalFile,
        _run: Run,
        _clean_end: Option<CleanEnd>,
    ) -> Result<Self, Error> {
        unimplemented!()
    }

    /// The next group, in the order of appends; `None` at the end of the longest unbroken chain.
    ///
    /// # Errors
    /// `Corrupt` if something durable is missing or damaged, `Version`, `Kind`, `Io`.
    pub async fn next(&mut self) -> Result<Option<Group>, Error> {
        unimplemented!()
    }

    /// Makes what was read durable, and says where to go on. Nothing that was read may be relied on
    /// before this returned.
    ///
    /// # Errors
    /// As [`Recovery::next`].
    pub async fn finish(self) -> Result<Recovered, Error> {
        unimplemented!()
    }
}

/// What recovery found, and where the journal goes on.
#[derive(Debug)]
pub struct Recovered {
    /// What lay beyond the end.
    pub torn: Option<TornTail>,
}

/// Damage or loss beyond the end that no later frame proves to have been durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TornTail {
    /// The file with the first missing frame.
    pub file: JournalFile,
    /// The byte at which it should start.
    pub byte: u64,
    /// Valid frames of this journal beyond it that were dropped.
    pub frames_discarded: u64,
    /// The last group in the chain was not complete.
    pub group_discarded: bool,
}

impl fmt::Display for FileNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for JournalId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

const _: () = assert!(IO_BYTES_MAX >= BLOCK_BYTES);
