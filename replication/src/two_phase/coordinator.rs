//! The coordinator of one topology.

use std::collections::BTreeMap;

use super::{
    AttemptId, Begin, Decision, Exclusion, Faults, Message, Record, Row, Source, SourceOffset,
};
use crate::types::{MicrobatchId, PartitionId, Run, ShardId};

/// What does not change while a coordinator lives.
#[derive(Clone, Debug)]
pub struct Config {
    /// The shard it lives on; its messages to itself go the same way as all others.
    pub own: ShardId,
    /// The shard of each partition: `owners[partition]`. Every shard that occurs takes part, and so does `own`.
    pub owners: Vec<ShardId>,
    /// A microbatch takes at most this many records of one source partition; at least 1.
    pub records_max: u64,
    /// Planted bugs; [`Faults::default`] outside simulation.
    pub faults: Faults,
}

/// Names one [`Effect::Persist`] or [`Effect::CommitLocally`] until it is durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Token(pub u64);

/// What happens to a coordinator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// The first input of all: nothing is sent before.
    Start,
    /// How far sources are durable; the same as [`Message::SourceEnds`] from a shard.
    SourceEnds(Vec<SourceOffset>),
    /// A participant says something.
    Message {
        /// The shard it lives on.
        from: ShardId,
        /// What it says.
        message: Message,
    },
    /// What this token named is durable.
    Persisted(Token),
    /// A shard stopped, and everything volatile on it is gone.
    ShardDown(ShardId),
    /// A shard has recovered, and its participant with it. All shards count as up at first.
    ShardUp(ShardId),
    /// The time asked for by [`Effect::WakeAt`] has come. A spurious one is harmless.
    Wake,
    /// Begin no further microbatch; what is under way completes.
    Pause,
    /// The opposite of `Pause`; it also ends a pause that a failure caused.
    Resume,
}

/// What a driver does for a coordinator, in the order given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Write the record to the coordinator's partition, and report `Persisted(token)` when durable.
    Persist {
        /// To be reported.
        token: Token,
        /// What to write.
        record: Record,
    },
    /// Write the record some time; it only saves work at recovery.
    PersistLazily {
        /// What to write.
        record: Record,
    },
    /// Hand the message to the participant on `to`; drop it if that shard is down.
    Send {
        /// Where to.
        to: ShardId,
        /// What.
        message: Message,
    },
    /// Everything that this attempt touched lies in the coordinator's own journal: hand
    /// [`super::participant::Input::CommitLocally`] to the own shard's participant, and write what it answers (prepares and
    /// commits), `begin` before and `decision` behind it, as one group that is durable as a whole or not at all. Then
    /// report `Persisted(token)`, and `CommittedDurable` to the participant.
    CommitLocally {
        /// To be reported.
        token: Token,
        /// Unless it was persisted before.
        begin: Option<Begin>,
        /// What is decided by this write.
        decision: Decision,
    },
    /// All ids up to this one are applied everywhere. Participants are told by messages of their own.
    Visible {
        /// The id.
        id: MicrobatchId,
        /// Offsets that changed.
        offsets: Vec<SourceOffset>,
    },
    /// Give [`Input::Wake`] at this time (nanoseconds of the clock that `step` is told). A later one replaces it.
    WakeAt(u64),
    /// No further microbatch begins, for this reason; the last one given counts.
    Paused {
        /// Why.
        reason: PauseReason,
    },
    /// The reason for the pause is gone.
    Resumed,
    /// A record was rejected for good: it is on the exclusion list of this microbatch from now on. For logs and counters; the
    /// dead letter itself is written by the microbatch.
    Excluded {
        /// The microbatch.
        id: MicrobatchId,
        /// The record, and why.
        exclusion: Exclusion,
    },
}

/// Why a topology begins no further microbatch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PauseReason {
    /// It was asked to.
    Asked,
    /// This shard is down.
    ShardDown(ShardId),
    /// A microbatch is rejected even without any record; only a change of code, and `Resume`, can help.
    Rejected {
        /// The microbatch.
        id: MicrobatchId,
        /// What the failing shard said.
        message: String,
    },
}

/// Decides the microbatches of one topology. See the [module](super) for what it guarantees.
#[derive(Clone, Debug)]
pub struct Coordinator {
    config: Config,
    run: Run,
    offsets: BTreeMap<Source, crate::types::Offset>,
}

impl Coordinator {
    /// A coordinator that goes on where the last one stopped; give it [`Input::Start`] next.
    ///
    /// `row` is what the decisions up to now add up to, `None` before the first. `begins` are the
    /// `Begin` records found, in the order written; those of decided ids are ignored. `run` was raised durably
    /// above that of every earlier coordinator of this topology.
    ///
    /// # Panics
    /// When `run` is not above every run found, or `config` names no partition.
    #[must_use]
    pub fn recover(config: Config, run: Run, row: Option<Row>, begins: Vec<Begin>) -> Self {
        let _ = begins;
        Self { config, run, offsets: row.unwrap_or_default().offsets }
    }

    /// Takes one input at `now_ns` and appends what is to be done.
    pub fn step(&mut self, now_ns: u64, input: Input, effects: &mut Vec<Effect>) {
        let _ = (now_ns, input, effects);
    }

    /// The run it started with.
    pub fn run(&self) -> Run {
        self.run
    }

    /// The last id decided durably; 0 before the first.
    pub fn decided(&self) -> MicrobatchId {
        MicrobatchId(0)
    }

    /// The last id that is visible; 0 before the first.
    pub fn visible(&self) -> MicrobatchId {
        MicrobatchId(0)
    }

    /// The attempts that are under way, by ascending id; at most two.
    pub fn undecided(&self) -> Vec<AttemptId> {
        Vec::new()
    }

    /// Whether nothing is under way or waiting to be applied, and no source has records left to read.
    pub fn is_caught_up(&self) -> bool {
        false
    }

    /// The shard of a partition.
    fn owner(&self, partition: PartitionId) -> ShardId {
        self.config.owners[partition.0 as usize]
    }
}
