//! The write-ahead log of one shard: entries of all its partitions, one write for whatever has queued.
//!
//! ```text
//! append --> queue --> writer ==frames==> files <-- keeper: recycle, allocate, pre-write
//!   |        encodes   several in flight,   |           |
//! ticket     in place  acknowledged in      |           v
//!                      order                v         Retain (the manifest's first file)
//!                                       Recovery: chain -> groups; Walker: the same, offline
//! ```
//!
//! # What it guarantees
//!
//! * A group whose ticket is durable survives every crash, whole. Others survive whole or not at all,
//!   and none without all before it.
//! * What recovery dropped once never comes back: see `chain`.
//! * Damage to what was acknowledged is an error with file and byte if any later frame proves it; an
//!   idle journal writes a closing frame for that. In a journal that was closed cleanly all damage is
//!   an error. Else it is a reported torn tail.
//! * A file is overwritten only after `Retain` made a later first file durable, and a file becomes
//!   first only when one of its frames is durable.
//! * Space, length and name of a file are durable before anything acknowledged depends on them: no
//!   write and no sync meets a full disk.
//! * After a failed write, sync or `Retain`, nothing more is written, and nothing is tried again.
//!
//! # Order of an opening
//!
//! Raise the run in the manifest; [`Recovery::open`], [`Recovery::next`] until `None`,
//! [`Recovery::finish`]; [`Journal::resume`]; [`Journal::covered`] for every partition, since until
//! then everything counts as needed. To recover a failed journal in the same process, await
//! [`Journal::close`] first, whatever it returns.

use std::fmt;
use std::time::Duration;

use crate::env::{BLOCK_BYTES, Env, IO_BYTES_MAX, LocalFuture};
use crate::types::Run;

mod chain;
mod entry;
mod error;
mod frame;
mod group;
mod handle;
mod keeper;
mod queue;
mod recovery;
mod retention;
mod sequence;
mod shared;
mod slots;
mod source;
mod wake;
mod walk;
mod writer;

pub use entry::{Entry, EntryRef, Kind};
pub use error::Error;
pub use frame::Header;
pub use handle::Journal;
pub use recovery::{Recovered, Recovery};
pub use sequence::{Sequence, SequenceError};
pub use slots::remove;
use source::list_slots;
pub use walk::{Walked, WalkedFrame, Walker};

#[cfg(test)]
mod tests;

/// The directory of all journals.
pub const DIR: &str = "journal";

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
    /// Clients wait while so much is queued.
    pub queue_bytes_max: usize,
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
            group_bytes_max: GROUP_BYTES,
            queue_bytes_max: 16 << 20,
            in_flight_max: 4,
            seal_idle_after: Duration::from_millis(10),
        }
    }

    /// What clients leave for decisions, outcomes and copies.
    fn reserve_bytes(&self) -> u64 {
        self.bytes_max / 8
    }

    fn check(&self) {
        assert!((self.file_bytes as usize).is_multiple_of(BLOCK_BYTES));
        assert!((self.frame_bytes_max as usize).is_multiple_of(BLOCK_BYTES));
        assert!(self.frame_bytes_max as usize >= BLOCK_BYTES);
        assert!(self.frame_bytes_max as usize <= IO_BYTES_MAX);
        assert!(self.file_bytes >= self.frame_bytes_max, "a frame lies in one file");
        assert!(self.file_bytes <= frame::FILE_BYTES_MAX);
        assert!(self.group_bytes_max <= group::GROUP_BYTES_MAX);
        assert!(self.bytes_max >= 4 * u64::from(self.file_bytes), "files are recycled one by one");
        assert!(self.in_flight_max > 0);
    }
}

/// No file of a journal is larger.
pub(crate) const FILE_BYTES_MAX: u32 = frame::FILE_BYTES_MAX;

/// The default of [`Options::group_bytes_max`].
pub(crate) const GROUP_BYTES: u32 = 64 << 20;

/// Who asks for room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// New work: waits while the journal is full, and leaves a reserve.
    Client,
    /// Work that lets the journal shrink (decisions, outcomes, folds, copies): may use the reserve,
    /// and never waits.
    System,
}

/// What a journal has done since it was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Bytes of frames that are durable, padding included.
    pub bytes_written: u64,
    /// Frames that are durable.
    pub writes: u64,
    /// Groups appended.
    pub groups: u64,
    /// Entries appended.
    pub entries: u64,
    /// How often it was looked whether a file is to be prepared or can be given up. Writes alone cause it a
    /// few times a file, however many they are.
    pub chores: u64,
}

/// Keeps the manifest in step with the journal.
pub trait Retain {
    /// Makes durable that `first` is the first file of journal `id` that recovery reads. Files before
    /// it are overwritten once this returned `Ok`; an error stops the journal.
    fn advance(&self, id: JournalId, first: JournalFile) -> LocalFuture<'_, Result<(), Error>>;
}

/// Entries that were appended together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// File in which the frame lies that the group starts in.
    pub file: JournalFile,
    /// First byte of that frame.
    pub byte: u64,
    /// The frame in which it ends.
    pub sequence: u64,
    /// The entries.
    pub entries: Vec<Entry>,
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

/// The path of a slot's file.
#[must_use]
pub fn slot_path(id: JournalId, slot: u32) -> String {
    format!("{DIR}/{id}-{slot}")
}

/// Every journal that has files in the directory, in order of their names; the manifest may not know
/// all of them, see [`remove`].
///
/// # Errors
/// `Io`.
pub async fn list(env: &Env) -> Result<Vec<JournalId>, Error> {
    let names = env.disk().list(DIR).await.map_err(|e| Error::io("list", DIR, 0, e))?;
    let mut ids: Vec<_> = names.iter().filter_map(|name| parse_slot(name)).map(|s| s.0).collect();
    ids.sort_unstable();
    ids.dedup();
    Ok(ids)
}

/// What a name in [`DIR`] stands for.
#[must_use]
pub fn parse_slot(name: &str) -> Option<(JournalId, u32)> {
    let (id, slot) = name.split_once('-')?;
    Some((JournalId(id.parse().ok()?), slot.parse().ok()?))
}
