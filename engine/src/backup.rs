//! Backups of a running engine: what is made, where it lies, and what is told of it.
//!
//! ```text
//! DIR/                      given to `Engine::backup`, for backups of one data directory
//!   LOCK                    one process makes backups here
//!   1/  2/  3/ ...          one backup each, complete by itself: a data directory that was closed cleanly
//!     BACKUP                the first file there: without a MANIFEST beside it, the backup was not finished
//!     catalogue-<n>  journal/  p/<partition>/{pages, d<depot>-<base offset>}
//!     MANIFEST              the last file there
//! ```
//!
//! *One moment.* Topologies are held: what they began comes to rest, applied everywhere or aborted, and nothing
//! begins, for 10 s at most. Then every partition's writes are frozen, and the topologies go on: that is the
//! pause. What was frozen is folded, each partition's root is held, and what the roots reach is copied beside
//! everything else, with the segments as far as the roots' own rows record them. So all `PState`s are at one
//! vector of ids, and each depot partition has what was durable when it was frozen, which is at least what those
//! ids have read. No entry of any journal is needed: the backup has one empty journal of its own, of no shard.
//!
//! *All or nothing.* Everything is synced, names included, before `MANIFEST` is written. Until then the
//! directory is refused when somebody opens it, by what `BACKUP` says; the next backup clears it away.
//! Nothing that happens to the target, be it full, broken, or gone, stops a shard.
//!
//! *Little again.* A backup takes over what the newest complete one beside it has. Sealed segments, which never
//! change, get a second name there, where the file system has such; they are compared by identity and by the
//! checksum of their end, which covers that of every block. Pages, and the beginnings of other segments, are
//! read from there instead of from the data directory, and checked as what comes from here is. So every backup
//! can be deleted, or opened and changed, without harm to the others; and damage in what is read is not handed
//! on.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::types::MicrobatchId;

pub(crate) mod target;

/// What a backup holds, and what it took to make it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Report {
    /// Where it lies: a data directory of its own.
    pub directory: PathBuf,
    /// The last microbatch of each running topology that is in it; nothing of a later one is.
    pub ids: Vec<BackedUp>,
    /// Bytes that were read from the data directory.
    pub copied_bytes: u64,
    /// Bytes that the backup before had.
    pub taken_over_bytes: u64,
    /// How long topologies began no microbatch.
    pub pause: Duration,
}

/// How far one topology is in a backup.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct BackedUp {
    /// The name of its module.
    pub module: String,
    /// Its name.
    pub topology: String,
    /// Its last microbatch there; 0 if there is none.
    pub id: MicrobatchId,
}

/// How far the copying is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Progress {
    /// Bytes that have their place in the backup.
    pub bytes_done: u64,
    /// About how many that will be.
    pub bytes_all: u64,
}

/// What the shards tell while they copy.
pub(crate) struct Tally {
    done: AtomicU64,
    all: AtomicU64,
    tell: Arc<dyn Fn(Progress) + Send + Sync>,
}

impl Tally {
    pub(crate) fn new(tell: Arc<dyn Fn(Progress) + Send + Sync>) -> Self {
        Self { done: AtomicU64::new(0), all: AtomicU64::new(0), tell }
    }

    pub(crate) fn expect(&self, bytes: u64) {
        self.all.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn done(&self, bytes: u64) {
        let bytes_done = self.done.fetch_add(bytes, Ordering::Relaxed) + bytes;
        let bytes_all = self.all.load(Ordering::Relaxed).max(bytes_done);
        (self.tell)(Progress { bytes_done, bytes_all });
    }
}

impl std::fmt::Debug for Tally {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tally")
            .field("done", &self.done)
            .field("all", &self.all)
            .finish_non_exhaustive()
    }
}
