//! Names of things that cross the boundary between agreement and the engine: each is a newtype, so
//! that two numbers of one width cannot be swapped.

use std::fmt;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }
    };
}

id!(
    /// One core of a node: one executor and everything it owns. 0-based, dense.
    ShardId(u16)
);
id!(
    /// One slice of the hash space, engine-wide. 0-based, dense, below the directory's `P`.
    PartitionId(u32)
);
id!(
    /// A depot, numbered by the catalogue; never reused.
    DepotId(u32)
);
id!(
    /// A `PState`, numbered by the catalogue; never reused. 0 is the engine's own system state.
    PStateId(u32)
);
id!(
    /// A topology, numbered by the catalogue; never reused.
    TopologyId(u32)
);
id!(
    /// Dense 0-based position of a record in its depot partition; never changes.
    Offset(u64)
);
id!(
    /// Dense position of an entry in its partition's sequence. The first entry has index 1, so 0
    /// means "before everything".
    Index(u64)
);
id!(
    /// Orders attempts to lead a partition (Raft's word). 1 while there is one replica.
    Term(u64)
);
id!(
    /// Raised durably each time a directory is opened, a shard reopened, or a coordinator starts,
    /// before anything else is written.
    Run(u64)
);
id!(
    /// The number of one microbatch of a topology; the first is 1, dense.
    MicrobatchId(u64)
);
id!(
    /// One try at a microbatch, counted from 1 within `(topology, id, run)`.
    Attempt(u32)
);

impl Offset {
    /// The offset `count` records further.
    #[must_use]
    pub fn advance(self, count: u64) -> Self {
        Self(self.0.checked_add(count).expect("2^64 records are out of reach"))
    }
}

impl Index {
    /// The index of the entry after this one.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0.checked_add(1).expect("2^64 entries are out of reach"))
    }
}

impl MicrobatchId {
    /// The id after this one.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0.checked_add(1).expect("2^64 microbatches are out of reach"))
    }
}
