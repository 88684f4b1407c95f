//! What can go wrong with a journal, and where.

use std::io;
use std::sync::Arc;

use super::{FileNumber, JournalFile, JournalId, slot_path};

/// Why a journal operation did not succeed. Cheap to clone: one failure answers many waiters.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// The device refused. After a write or sync, what reached the disk is unknown: the journal has
    /// stopped for ever and must be recovered.
    #[error("cannot {op} journal file {path} at byte {byte}")]
    Io {
        /// What was attempted.
        op: &'static str,
        /// The file or directory.
        path: String,
        /// Where in it; 0 for whole-file operations.
        byte: u64,
        /// What the device said.
        #[source]
        source: Arc<io::Error>,
    },
    /// Stored bytes that must be there are not, or are not what was written.
    #[error("journal file {path} (number {file}) is damaged at byte {byte}: {what}")]
    Corrupt {
        /// The file's path.
        path: String,
        /// The number of the file in the life of the journal.
        file: FileNumber,
        /// The first byte of the frame that is damaged or missing.
        byte: u64,
        /// How it is damaged, and how that is known.
        what: &'static str,
    },
    /// An intact frame of a format that this build does not know.
    #[error(
        "journal file {path} has format version {found} at byte {byte}, this build reads {known}"
    )]
    Version {
        /// The file's path.
        path: String,
        /// The frame's first byte.
        byte: u64,
        /// The version found.
        found: u16,
        /// The version known.
        known: u16,
    },
    /// An intact frame holds an entry of a kind that this build does not know.
    #[error(
        "journal file {path} holds an entry of unknown kind {found} in the group at byte {byte}"
    )]
    Kind {
        /// The file's path.
        path: String,
        /// First byte of the frame in which the entry's group starts.
        byte: u64,
        /// The kind found.
        found: u8,
    },
    /// No space can be allocated. Nothing was appended; a later call works once there is space.
    #[error("disk full: the journal cannot reserve {bytes} bytes")]
    DiskFull {
        /// What was asked for.
        bytes: u64,
    },
    /// One group can never be appended.
    #[error("a group of {bytes} bytes exceeds the journal's limit of {bytes_max}")]
    GroupTooLarge {
        /// Size of the group, encoded.
        bytes: u64,
        /// The limit.
        bytes_max: u64,
    },
    /// The journal stopped earlier. Entries that were not durable by then are unknown until recovery.
    #[error("the journal has stopped")]
    Stopped {
        /// The first failure.
        #[source]
        cause: Arc<Error>,
    },
    /// The manifest could not be brought up to date.
    #[error("cannot record the journal's first file")]
    Retain {
        /// Why.
        #[source]
        source: Arc<dyn std::error::Error + Send + Sync>,
    },
    /// The journal was closed.
    #[error("the journal is closed")]
    Closed,
}

impl Error {
    /// For an implementation of [`super::Retain`] that failed.
    #[must_use]
    pub fn retain(source: impl std::error::Error + Send + Sync + 'static) -> Self {
        Self::Retain { source: Arc::new(source) }
    }

    pub(super) fn corrupt(
        journal: JournalId,
        file: JournalFile,
        byte: u64,
        what: &'static str,
    ) -> Self {
        Self::Corrupt { path: slot_path(journal, file.slot), file: file.number, byte, what }
    }

    pub(super) fn stopped(&self) -> Self {
        Self::Stopped { cause: Arc::new(self.clone()) }
    }

    pub(super) fn io(op: &'static str, path: &str, byte: u64, source: io::Error) -> Self {
        Self::Io { op, path: path.to_owned(), byte, source: Arc::new(source) }
    }
}
