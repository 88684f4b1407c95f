//! The page cache of one shard.

use std::rc::Rc;

/// Pages in memory, shared by all partitions of a shard. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Cache {
    inner: Rc<u64>,
}

/// What a cache holds and did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CacheCounts {
    /// Lookups that found their page.
    pub hits: u64,
    /// Lookups that had to read.
    pub misses: u64,
    /// Pages dropped to make room.
    pub evictions: u64,
    /// Bytes held now.
    pub bytes: u64,
}

impl Cache {
    /// A cache of at most `bytes_max` bytes, exceeded only by pages that are in use right now.
    #[must_use]
    pub fn new(bytes_max: u64) -> Self {
        Self { inner: Rc::new(bytes_max) }
    }

    /// What it holds and did.
    #[must_use]
    pub fn counts(&self) -> CacheCounts {
        unimplemented!("{}", self.inner)
    }
}
