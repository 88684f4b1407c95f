//! What a schedule is made of: choices, records, journal entries, and chance.

use std::collections::{BTreeMap, BTreeSet};

use crate::two_phase::{AttemptId, Origin, Source};
use crate::types::{DepotId, MicrobatchId, Offset, PartitionId};

pub(super) const SHARDS: usize = 3;
pub(super) const PARTITIONS: usize = 6;

/// Shard of a partition.
pub(super) fn owner(partition: PartitionId) -> usize {
    partition.0 as usize % SHARDS
}

/// What a seed chooses before it starts.
#[derive(Clone, Copy, Debug)]
pub(super) struct Options {
    pub(super) seed: u64,
    pub(super) crashes: u64,
    pub(super) repeats: bool,
    /// How often work is asked for that no record brings.
    pub(super) asks: u64,
    pub(super) bad_percent: u64,
    pub(super) local_percent: u64,
    pub(super) steps: u64,
    /// Whether aborted entries are written soon.
    pub(super) hurry: bool,
    /// Steps between misfortunes.
    pub(super) calm: u64,
    /// Instead of misfortunes: one crash at this place.
    pub(super) crash: Option<Crash>,
}

/// One crash, before a step.
#[derive(Clone, Copy, Debug)]
pub(super) struct Crash {
    pub(super) step: u64,
    /// All of them, if there is no such shard.
    pub(super) shard: usize,
}

impl Options {
    pub(super) fn of(seed: u64) -> Self {
        let mut rng = Rng(seed ^ 0x5eed);
        Self {
            seed,
            crashes: rng.below(5),
            repeats: rng.below(2) == 0,
            bad_percent: [0, 0, 10, 30][rng.index(4)],
            local_percent: [0, 50, 90][rng.index(3)],
            steps: 100 + rng.below(600),
            hurry: rng.below(2) == 0,
            calm: 20 + rng.below(100),
            asks: [0, 0, 3, 12][rng.index(4)],
            crash: None,
        }
    }
}

/// Situations that must occur over a batch of seeds, or the model tests too little.
#[derive(Debug, Default)]
pub(super) struct Seen {
    counts: BTreeMap<&'static str, u64>,
}

impl Seen {
    pub(super) fn mark(&mut self, situation: &'static str) {
        *self.counts.entry(situation).or_default() += 1;
    }

    pub(super) fn add(&mut self, other: &Self) {
        for (situation, count) in &other.counts {
            *self.counts.entry(situation).or_default() += count;
        }
    }

    pub(super) fn assert_all_occurred(&self) {
        for situation in [
            "local commit",
            "local commit refused",
            "prepare failed",
            "too large",
            "repeated message",
            "shard crash",
            "home crash",
            "crash of all",
            "prepared and undecided at a crash",
            "decided and unapplied at a crash",
            "two attempts of one id prepared",
            "prepared dropped with next prepared",
            "record excluded",
            "begin taken up",
            "row batch held",
            "stale row batch",
            "two undecided",
            "work without records",
            "held at rest",
        ] {
            assert!(self.counts.contains_key(situation), "{situation} never occurred: {self:?}");
        }
    }
}

/// One record: where its row goes, and what is wrong with it.
#[derive(Clone, Debug)]
pub(super) struct Item {
    pub(super) path: Vec<PartitionId>,
    pub(super) bad: Bad,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Bad {
    Never,
    /// Rejected at this hop, with its name.
    Named(usize),
    /// Rejected at this hop, without.
    Nameless(usize),
    /// Fails so often, at the first hop, in a way that may pass.
    Flaky(u64),
}

/// One effect of a record on the state; or of work that no record brought, see [`Write::of_work`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Write {
    pub(super) origin: Origin,
    pub(super) hop: usize,
    pub(super) dead: bool,
}

impl Write {
    /// What a shard does of its own accord in a microbatch: it writes the number of that.
    pub(super) fn of_work(partition: PartitionId, id: MicrobatchId) -> Self {
        let source = Source { depot: WORK, partition };
        Self { origin: Origin { source, offset: Offset(id.0) }, hop: 0, dead: false }
    }

    /// Of which microbatch it says that it is, if it came of no record.
    pub(super) fn work(&self) -> Option<MicrobatchId> {
        (self.origin.source.depot == WORK).then_some(MicrobatchId(self.origin.offset.0))
    }
}

/// No depot that is read.
const WORK: DepotId = DepotId(u32::MAX);

#[derive(Clone, Debug)]
pub(super) enum Entry {
    Prepare {
        attempt: AttemptId,
        partition: PartitionId,
        writes: BTreeSet<Write>,
    },
    Committed {
        attempt: AttemptId,
        partition: PartitionId,
    },
    Aborted {
        attempt: AttemptId,
        partition: PartitionId,
    },
    Record(Vec<u8>),
    /// All or nothing.
    Group(Vec<Entry>),
}

impl Entry {
    pub(super) fn parts(&self) -> Vec<&Entry> {
        match self {
            Self::Group(parts) => parts.iter().collect(),
            Self::Prepare { .. }
            | Self::Committed { .. }
            | Self::Aborted { .. }
            | Self::Record(_) => vec![self],
        }
    }
}

/// splitmix64: chance that is the same everywhere.
#[derive(Clone, Debug)]
pub(super) struct Rng(pub(super) u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub(super) fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    pub(super) fn index(&mut self, length: usize) -> usize {
        usize::try_from(self.below(length as u64)).unwrap()
    }
}
