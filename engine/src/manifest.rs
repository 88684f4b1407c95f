//! `MANIFEST`: what the data directory is, and where its journals begin.

use std::io;
use std::sync::Arc;

use crate::env::Env;
use crate::journal::{CleanEnd, JournalFile, JournalId};
use crate::types::{Run, ShardId};

/// The format of everything in the directory.
pub const FORMAT: u32 = 1;

/// So many journals fit a slot.
pub const JOURNALS_MAX: usize = 64;

/// The root of a data directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    /// Names the data, for ever.
    pub data_id: u128,
    /// `P`, fixed when the directory was created.
    pub partitions: u32,
    /// The last opening.
    pub run: Run,
    /// The directory was closed cleanly, and every journal has a clean end.
    pub clean: bool,
    /// The catalogue in force.
    pub catalogue: CatalogueRef,
    /// Every journal that holds entries.
    pub journals: Vec<JournalRecord>,
}

/// Names a catalogue file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CatalogueRef {
    /// Its number; 0 if there is none yet.
    pub number: u64,
    /// Its length in bytes.
    pub bytes: u64,
    /// CRC-32 of its content.
    pub crc: u32,
}

/// One journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JournalRecord {
    /// Its name.
    pub id: JournalId,
    /// The shard that writes it.
    pub shard: ShardId,
    /// Where recovery starts.
    pub first: JournalFile,
    /// Where it ends, if it was closed cleanly.
    pub clean_end: Option<CleanEnd>,
}

/// Why the manifest could not be read or written.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// The device refused.
    #[error("cannot {op} {path}")]
    Io {
        /// What was attempted.
        op: &'static str,
        /// The file or directory.
        path: &'static str,
        /// What the device said.
        #[source]
        source: Arc<io::Error>,
    },
    /// A slot that must be intact is not.
    #[error("MANIFEST is damaged at byte {byte}: {what}")]
    Corrupt {
        /// The slot's first byte.
        byte: u64,
        /// How.
        what: &'static str,
    },
    /// Written by another version.
    #[error("the directory has format {found}, this build reads {FORMAT}")]
    Format {
        /// The format found.
        found: u32,
    },
    /// More journals than a slot holds.
    #[error("{count} journals exceed the limit of {JOURNALS_MAX}")]
    TooManyJournals {
        /// How many there are.
        count: usize,
    },
}

impl Manifest {
    /// Reads the newest intact slot; `None` if the directory has no manifest.
    ///
    /// # Errors
    /// `Corrupt`, `Format`, `Io`.
    pub async fn load(_env: &Env) -> Result<Option<Self>, Error> {
        unimplemented!()
    }

    /// Makes this the directory's manifest; durable when it returns.
    ///
    /// # Errors
    /// `TooManyJournals`, `Io`.
    pub async fn store(&mut self, _env: &Env) -> Result<(), Error> {
        unimplemented!()
    }
}
