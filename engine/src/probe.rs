//! What simulation builds add to the engine: planted bugs that can be switched on, to prove that the
//! simulator catches them, and marks for states that must occur over a batch of seeds.
//!
//! Both compile to nothing without the `simulation` feature, which only the `tidemill-tests` crate
//! turns on. The switches are per thread: the simulator runs one seed on one thread.

macro_rules! named {
    ($(#[$doc:meta])* $kind:ident { $($(#[$variant_doc:meta])* $variant:ident = $name:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum $kind { $($(#[$variant_doc])* $variant,)* }

        impl $kind {
            /// Every one of them, in order of declaration.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// The name on the command line and in reports.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }
        }
    };
}

named! {
    /// A bug planted on purpose.
    Plant {
        /// An append or decision is acknowledged when its journal write was submitted.
        AckBeforeSync = "ack-before-sync",
        /// The coordinator sends a decision before the entry that holds it is durable.
        DecisionBeforeDurable = "decision-before-durable",
        /// A new file's directory entry is not synced.
        SkippedDirectorySync = "skipped-directory-sync",
        /// Recovery believes frames of a reused journal file's earlier life.
        ReusedFileTakenForNew = "reused-file-taken-for-new",
        /// A fold writes its root without syncing the pages first.
        RootBeforePages = "root-before-pages",
        /// Recovery drops prepared microbatches instead of asking for their outcome.
        PrepareForgotten = "prepare-forgotten",
        /// A recovered coordinator moves its source offsets without the microbatch's state.
        OffsetsWithoutState = "offsets-without-state",
        /// A fold brings one row back that a range delete had removed.
        DeadRowLost = "dead-row-lost",
        /// Recovery accepts a frame that lies beyond a gap.
        FrameBeyondGap = "frame-beyond-gap",
        /// A prepare counts for a decision that names another attempt.
        OtherAttemptAccepted = "other-attempt-accepted",
        /// The single-journal commit does not wait for lower undecided ids.
        SingleJournalOvertakes = "single-journal-overtakes",
        /// Records appended by a microbatch get their offsets when it is prepared.
        OffsetsBeforeCommitted = "offsets-before-committed",
        /// A segment's partly filled tail block is rewritten after its journal file was reused.
        TailBlockRewritten = "tail-block-rewritten",
        /// Partitions are dealt to other shards before what moves is folded; a crash in between loses it.
        DealtBeforeFolded = "dealt-before-folded",
        /// What a snapshot holds is let go while it is read, and nobody tells its reader.
        SnapshotReleasedWhileRead = "snapshot-released-while-read",
        /// Recovery forgets the heads of collections, which say how many elements they have.
        SizeForgottenInCrash = "size-forgotten-in-crash",
        /// A subscriber that reads its value anew misses the first microbatch above the id that it reads at.
        DiffLostAtResync = "diff-lost-at-resync",
        /// A difference of two ids leaves out what the oldest microbatch between them wrote.
        DiffLostInDifference = "diff-lost-in-difference",
        /// Folds write over pages of a root that a backup is copying.
        BackupForgetsHeldRoot = "backup-forgets-held-root",
        /// Changes of aggregations that wait on a shard are dropped when they take too much, instead of sent.
        ChangesLostOverBound = "changes-lost-over-bound",
        /// A step of a migration applies the function to what the function made.
        MigrationStepTwice = "migration-step-twice",
        /// A size that changes while the values that it counts are migrated stays in the old form as well.
        MigrationSizeLeft = "migration-size-left",
        /// Some shards go on writing to the old `PState`s after a recompute has switched to new ones.
        RecomputeSwitchTorn = "recompute-switch-torn",
        /// A depot lets go of records that a topology has not read yet.
        TrimIgnoresReaders = "trim-ignores-readers",
    }
}

named! {
    /// A state that must occur over a batch of seeds.
    State {
        /// A partition recovers a prepare without an outcome.
        PreparedUndecidedAtCrash = "prepared-undecided-at-crash",
        /// A recovered coordinator has a decision that a participant had not applied.
        DecidedUnappliedAtCrash = "decided-unapplied-at-crash",
        /// The sequence of a partition has prepares of two attempts of one id.
        TwoAttemptsPrepared = "two-attempts-prepared",
        /// An id is aborted while the next one is prepared.
        AbortWithNextPrepared = "abort-with-next-prepared",
        /// Recovery finds a gap in the journal with valid frames behind it.
        GapWithSurvivors = "gap-with-survivors",
        /// Recovery finds a bulk extent whose bytes do not match its entry.
        TornBulkExtent = "torn-bulk-extent",
        /// A crash while partitions are dealt to another number of shards.
        CrashWhileDealing = "crash-while-dealing",
        /// A fold covers an index above an undecided prepare.
        InDoubtAcrossFold = "in-doubt-across-fold",
        /// A fold finds no space.
        NoSpaceInFold = "no-space-in-fold",
        /// Recovery meets frames of a file's earlier life.
        StaleFrames = "stale-frames",
        /// One of the two root slots is damaged.
        TornRoot = "torn-root",
        /// A reader of an older id reads what was folded meanwhile.
        SnapshotAcrossFold = "snapshot-across-fold",
        /// An attempt that moved something of a migration has had no effect.
        MigrationStepDropped = "migration-step-dropped",
        /// A shard recovers a topology that is being recomputed.
        RecomputeAtCrash = "recompute-at-crash",
        /// A depot let go of files that it need not keep.
        DepotTrimmed = "depot-trimmed",
        /// A shard recovers a topology that is stopped for the end of a recompute.
        StoppedAtCrash = "stopped-at-crash",
        /// A segment ends in a damaged block.
        TornSegmentTail = "torn-segment-tail",
    }
}

/// Whether `plant` is switched on for this thread. Always `false` outside simulation builds.
#[inline]
#[must_use]
pub fn planted(plant: Plant) -> bool {
    #[cfg(feature = "simulation")]
    return switches::planted(plant);
    #[cfg(not(feature = "simulation"))]
    {
        let _ = plant;
        false
    }
}

/// Counts that `state` occurred. Nothing outside simulation builds.
#[inline]
pub fn reached(state: State) {
    #[cfg(feature = "simulation")]
    switches::reached(state);
    #[cfg(not(feature = "simulation"))]
    let _ = state;
}

#[cfg(feature = "simulation")]
pub use switches::{switch_on, take_reached};

#[cfg(feature = "simulation")]
mod switches {
    use std::cell::{Cell, RefCell};
    use std::collections::BTreeMap;

    use super::{Plant, State};

    thread_local! {
        static PLANTED: Cell<Option<Plant>> = const { Cell::new(None) };
        static REACHED: RefCell<BTreeMap<State, u64>> = const { RefCell::new(BTreeMap::new()) };
    }

    /// Plants one bug, or none, for this thread.
    pub fn switch_on(plant: Option<Plant>) {
        PLANTED.set(plant);
    }

    /// How often each state occurred on this thread since the last call.
    #[must_use]
    pub fn take_reached() -> BTreeMap<State, u64> {
        REACHED.take()
    }

    pub(super) fn planted(plant: Plant) -> bool {
        PLANTED.get() == Some(plant)
    }

    pub(super) fn reached(state: State) {
        REACHED.with_borrow_mut(|counts| *counts.entry(state).or_default() += 1);
    }
}
