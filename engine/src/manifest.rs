//! `MANIFEST`: what the data directory is, and where its journals begin.
//!
//! Two slots of 4 KiB; the intact one with the higher sequence number holds. While the directory is
//! open, the two are written in turn, so a torn write costs nothing. A manifest that says *clean*, or
//! replaces one that does, is written whole beside the old one, synced, and renamed over it. So a
//! clean manifest is never torn, and damage in either slot of it is an error.
//!
//! All of it is read back through [`Manifest::parse`], which never trusts a length. See
//! `manifest/slot.rs` for the bytes.

use std::io;
use std::sync::Arc;

use crate::env::{BLOCK_BYTES, Buf, Env, File, Open, Sync, read_full, write_full};
use crate::journal::{CleanEnd, JournalFile, JournalId};
use crate::probe::{Plant, planted};
use crate::types::{Run, ShardId};

mod slot;
#[cfg(test)]
mod tests;

/// The format of everything in the directory.
pub const FORMAT: u32 = 1;

/// So many journals fit a slot.
pub const JOURNALS_MAX: usize = 64;

/// The file's name.
pub const PATH: &str = "MANIFEST";

/// What replaces it; between two replacements an empty one is kept, so that opening a clean directory
/// needs no space.
pub const PATH_NEW: &str = "MANIFEST.new";

/// Size of the file.
pub const BYTES: usize = 2 * slot::BYTES;

/// The root of a data directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    /// Names the data, for ever.
    pub data_id: u128,
    /// `P`, fixed when the directory was created.
    pub partitions: u32,
    /// The last opening. An opening raises it by one, and stores that before it writes anything else.
    pub run: Run,
    /// The directory was closed cleanly, and every journal has a clean end.
    pub clean: bool,
    /// The catalogue in force.
    pub catalogue: CatalogueRef,
    /// Every journal that holds entries.
    pub journals: Vec<JournalRecord>,
    sequence: u64,
    stored: Stored,
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

/// What is known of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stored {
    /// There is none.
    Nothing,
    /// Both slots are, or may be, in use, and neither says *clean*.
    InTurn,
    /// Both slots say *clean*.
    Clean,
    /// A write failed or was abandoned, so nothing is known, and nothing is tried again.
    Unknown,
    /// Read back after such a write. What was read may not be durable, so the file is replaced next.
    Doubted,
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
    #[error("{PATH} is damaged at byte {byte}: {what}")]
    Corrupt {
        /// The first byte of what is damaged.
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
    /// An earlier store failed or was abandoned; open the directory again.
    #[error("{PATH} is in an unknown state after a store that did not finish")]
    Unknown,
}

impl Manifest {
    /// The manifest of a new directory; not stored yet.
    #[must_use]
    pub fn new(data_id: u128, partitions: u32) -> Self {
        Self {
            data_id,
            partitions,
            run: Run(0),
            clean: false,
            catalogue: CatalogueRef::default(),
            journals: Vec::new(),
            sequence: 0,
            stored: Stored::Nothing,
        }
    }

    /// Reads the directory's manifest; `None` if it has none.
    ///
    /// # Errors
    /// `Corrupt`, `Format`, `Io`.
    pub async fn load(env: &Env) -> Result<Option<Self>, Error> {
        let file = match env.disk().open(PATH, Open::Existing).await {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed("open", PATH)(error)),
        };
        let len = file.len().map_err(failed("measure", PATH))?;
        // A longer file is damaged as well; one block more is enough to see it.
        let len = usize::try_from(len).unwrap_or(usize::MAX).min(BYTES + BLOCK_BYTES);
        let whole = len - len % BLOCK_BYTES;
        if whole == 0 {
            return Self::parse(&[]).map(Some);
        }
        let (result, buf) = read_full(&*file, 0, Buf::zeroed(whole)).await;
        result.map_err(failed("read", PATH))?;
        Self::parse(&buf).map(Some)
    }

    /// Reads the manifest back after a store that failed or was abandoned, when nothing of that store is
    /// under way any more. The next store makes all of it durable.
    ///
    /// # Errors
    /// As [`Manifest::load`], and `Io` if there is none.
    pub(crate) async fn load_doubted(env: &Env) -> Result<Self, Error> {
        let loaded = Self::load(env).await?;
        let missing = || failed("find", PATH)(io::ErrorKind::NotFound.into());
        Ok(loaded.ok_or_else(missing)?.doubted())
    }

    /// As read, but perhaps not durable: the next store replaces the file. So it is for whoever opens a
    /// directory, since the one before may have been killed before the name of what it stored was durable.
    pub(crate) fn doubted(self) -> Self {
        Self { stored: Stored::Doubted, ..self }
    }

    /// Reads a manifest's bytes. If one slot of a manifest that is not clean is damaged, a crash may
    /// have torn it: the other one holds, and its run is raised by one, since the damaged one may have
    /// held that.
    ///
    /// # Errors
    /// `Corrupt`, `Format`.
    pub fn parse(bytes: &[u8]) -> Result<Self, Error> {
        let (lower, upper) = bytes.split_at(bytes.len().min(slot::BYTES));
        let (upper, beyond) = upper.split_at(upper.len().min(slot::BYTES));
        let slots = [slot::decode(lower, 0)?, slot::decode(upper, 1)?];
        let manifest = match slots {
            [Ok(lower), Ok(upper)] => {
                let (newer, older) =
                    if lower.sequence > upper.sequence { (lower, upper) } else { (upper, lower) };
                if newer.clean != older.clean {
                    return Err(Error::Corrupt {
                        byte: slot::place(older.sequence),
                        what: "one slot says that the directory was closed, the other does not",
                    });
                }
                newer
            }
            [Ok(mut intact), Err(what)] | [Err(what), Ok(mut intact)] => {
                if intact.clean {
                    let byte = slot::place(intact.sequence + 1);
                    return Err(Error::Corrupt { byte, what });
                }
                intact.run = Run(intact.run.0.saturating_add(1));
                intact
            }
            [Err(what), Err(_)] => return Err(Error::Corrupt { byte: 0, what }),
        };
        if manifest.clean && !beyond.is_empty() {
            let what = "the file is longer than it was written";
            return Err(Error::Corrupt { byte: BYTES as u64, what });
        }
        Ok(manifest)
    }

    /// Where and how one of the two slots is damaged, if [`Manifest::parse`] reads the other: what a crash
    /// leaves that tore a write.
    #[must_use]
    pub fn torn_slot(bytes: &[u8]) -> Option<(u64, &'static str)> {
        let (lower, upper) = bytes.split_at(bytes.len().min(slot::BYTES));
        let upper = &upper[..upper.len().min(slot::BYTES)];
        let slots = [(0, lower), (1, upper)];
        let mut damaged = slots.into_iter().filter_map(|(number, slot)| {
            let what = slot::decode(slot, number).ok()?.err()?;
            Some((number * slot::BYTES as u64, what))
        });
        damaged.next()
    }

    /// Makes this the directory's manifest; durable when it returns. After an error, or when the
    /// future was dropped, which one holds is unknown, and every later call fails.
    ///
    /// # Errors
    /// `TooManyJournals` (then nothing was done), `Unknown`, `Io`.
    pub async fn store(&mut self, env: &Env) -> Result<(), Error> {
        if self.journals.len() > JOURNALS_MAX {
            return Err(Error::TooManyJournals { count: self.journals.len() });
        }
        match std::mem::replace(&mut self.stored, Stored::Unknown) {
            Stored::Unknown => return Err(Error::Unknown),
            Stored::InTurn if !self.clean => self.store_one(env).await?,
            Stored::Nothing | Stored::Clean | Stored::Doubted | Stored::InTurn => {
                self.store_both(env).await?;
            }
        }
        self.stored = if self.clean { Stored::Clean } else { Stored::InTurn };
        Ok(())
    }

    /// Overwrites the older slot.
    async fn store_one(&mut self, env: &Env) -> Result<(), Error> {
        let file = env.disk().open(PATH, Open::Existing).await.map_err(failed("open", PATH))?;
        self.sequence += 1;
        let buf = Buf::copy_of(&slot::encode(self));
        let (result, _) = write_full(&*file, slot::place(self.sequence), buf, Sync::Data).await;
        result.map_err(failed("write", PATH))
    }

    /// Replaces the file.
    async fn store_both(&mut self, env: &Env) -> Result<(), Error> {
        let disk = env.disk();
        let file = disk.open(PATH_NEW, Open::Any).await.map_err(failed("open", PATH_NEW))?;
        let mut buf = Buf::zeroed(BYTES);
        for _ in 0..2 {
            self.sequence += 1;
            let (lower, upper) = buf.split_at_mut(slot::BYTES);
            let half = if slot::place(self.sequence) == 0 { lower } else { upper };
            half.copy_from_slice(&slot::encode(self));
        }
        let (result, _) = write_full(&*file, 0, buf, Sync::No).await;
        result.map_err(failed("write", PATH_NEW))?;
        if file.len().map_err(failed("measure", PATH_NEW))? > BYTES as u64 {
            file.truncate(BYTES as u64).await.map_err(failed("truncate", PATH_NEW))?;
        }
        file.sync().await.map_err(failed("sync", PATH_NEW))?;
        disk.rename(PATH_NEW, PATH).await.map_err(failed("rename", PATH_NEW))?;
        if !planted(Plant::SkippedDirectorySync) {
            disk.sync_dir(".").await.map_err(failed("sync", "."))?;
        }
        keep_a_new_one(env).await
    }
}

/// Reserves the space of the next replacement, if there is any. Until then a full disk is no error.
async fn keep_a_new_one(env: &Env) -> Result<(), Error> {
    let reserve = async |file: &dyn File| file.allocate(BYTES as u64).await;
    let result = match env.disk().open(PATH_NEW, Open::Any).await {
        Ok(file) => reserve(&*file).await,
        Err(error) => Err(error),
    };
    match result {
        Err(error)
            if !matches!(
                error.kind(),
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
            ) =>
        {
            Err(failed("allocate", PATH_NEW)(error))
        }
        _ => Ok(()),
    }
}

fn failed(op: &'static str, path: &'static str) -> impl Fn(io::Error) -> Error {
    move |source| Error::Io { op, path, source: Arc::new(source) }
}
