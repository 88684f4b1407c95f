//! What was injected, and how often. A batch of seeds in which a kind never fired tested nothing of
//! that kind.

macro_rules! kinds {
    ($($(#[$doc:meta])* $variant:ident = $name:literal,)*) => {
        /// A kind of fault.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Fault { $($(#[$doc])* $variant,)* }

        impl Fault {
            /// Every kind, in order of declaration.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// The name in reports.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }
        }
    };
}

kinds! {
    /// A machine lost power.
    PowerCut = "power-cut",
    /// A process was killed.
    ProcessKill = "process-kill",
    /// One shard was killed.
    ShardKill = "shard-kill",
    /// One shard stood still for a while.
    ShardPause = "shard-pause",
    /// A read failed.
    ReadError = "read-error",
    /// A write failed; a part of it may be there.
    WriteError = "write-error",
    /// A sync failed; what it should have synced may be gone.
    SyncError = "sync-error",
    /// The disk was full.
    NoSpace = "no-space",
    /// A read returned less than was asked.
    ShortRead = "short-read",
    /// A write took less than was given.
    ShortWrite = "short-write",
    /// An operation took seconds.
    Stall = "stall",
    /// A bit of stored data flipped.
    BitFlip = "bit-flip",
    /// A write went to another place of its file.
    MisdirectedWrite = "misdirected-write",
    /// A write was acknowledged and forgotten.
    LostWrite = "lost-write",
    /// A crash took an unsynced unit back.
    UnitVanished = "unit-vanished",
    /// A crash left a mixture of two versions of a unit.
    UnitTorn = "unit-torn",
    /// A crash left an unsynced unit where it was.
    UnitSurvived = "unit-survived",
    /// A crash took an unsynced directory entry back.
    EntryVanished = "entry-vanished",
    /// A crash took an unsynced change of a file's length back.
    LengthVanished = "length-vanished",
    /// A crash took reserved space back.
    AllocationVanished = "allocation-vanished",
}

/// A counter per kind.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts([u64; Fault::ALL.len()]);

impl Counts {
    /// How often `fault` was injected.
    #[must_use]
    pub fn of(&self, fault: Fault) -> u64 {
        self.0[fault as usize]
    }

    /// Counts one more.
    pub fn add(&mut self, fault: Fault) {
        self.0[fault as usize] += 1;
    }

    /// Adds all counts of `other`.
    pub fn merge(&mut self, other: &Self) {
        for (mine, theirs) in self.0.iter_mut().zip(other.0) {
            *mine += theirs;
        }
    }

    /// Every kind with its count.
    pub fn iter(&self) -> impl Iterator<Item = (Fault, u64)> + '_ {
        Fault::ALL.iter().map(|&fault| (fault, self.of(fault)))
    }

    /// How often stored bytes were damaged silently.
    #[must_use]
    pub fn damage(&self) -> u64 {
        self.of(Fault::BitFlip) + self.of(Fault::MisdirectedWrite) + self.of(Fault::LostWrite)
    }

    /// Errors and misbehaviour of the disk while it ran; crashes and what they left are not among them.
    #[must_use]
    pub fn io_faults(&self) -> u64 {
        [
            Fault::ReadError,
            Fault::WriteError,
            Fault::SyncError,
            Fault::NoSpace,
            Fault::ShortRead,
            Fault::ShortWrite,
            Fault::Stall,
            Fault::BitFlip,
            Fault::MisdirectedWrite,
            Fault::LostWrite,
        ]
        .iter()
        .map(|&fault| self.of(fault))
        .sum()
    }
}
