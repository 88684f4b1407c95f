//! What goes into a coordinator, and what comes out.

use std::collections::BTreeMap;

use crate::two_phase::{
    Decision, Exclusion, Failure, Faults, Message, Record, Source, SourceOffset,
};
use crate::types::{MicrobatchId, Offset, ShardId};

/// What does not change while a coordinator lives.
#[derive(Clone, Debug)]
pub struct Config {
    /// The shard it lives on; its messages to itself go the same way as all others.
    pub own: ShardId,
    /// The shard of each partition: `owners[partition]`. Every shard that occurs takes part, and so
    /// does `own`.
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
    /// What [`Effect::CommitLocally`] asked for was not written at all, and will not be (no space, or
    /// too much for one write).
    /// The participant was not told yet.
    Refused {
        /// What was asked for.
        token: Token,
        /// Why; of kind `Retry` or `TooLarge`.
        failure: Failure,
    },
    /// A shard stopped, and everything volatile on it is gone.
    ShardDown(ShardId),
    /// A shard has recovered, and its participant with it. All shards count as up at first.
    ShardUp(ShardId),
    /// The time asked for by [`Effect::WakeAt`] has come. A spurious one is harmless.
    Wake,
    /// Somebody has work of its own for a microbatch: one begins as soon as it can, with records or without.
    /// All who ask before it begins share it, and it is forgotten when the coordinator stops: whoever still
    /// has work asks again.
    Work,
    /// Begin no further microbatch; what is under way completes.
    Pause,
    /// The opposite of `Pause`; it also ends a pause that a failure caused.
    Resume,
    /// Start no attempt, not even at what has failed before; what is under way completes. A coordinator
    /// that recovers is not held. See [`Coordinator::is_at_rest`](super::Coordinator::is_at_rest).
    Hold,
    /// The opposite of `Hold`.
    Release,
    /// Of each source, plan nothing at or above this offset, and nothing of a source that is not named, and
    /// begin nothing for [`Input::Work`] alone; with `None`, go on as far as there are records. What was planned
    /// before stays planned, so give at least [`Coordinator::planned`](super::Coordinator::planned). A
    /// coordinator that recovers is not bounded.
    /// See [`Coordinator::has_reached`](super::Coordinator::has_reached).
    Until(Option<BTreeMap<Source, Offset>>),
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
    /// Everything that this attempt read and touched lies in the coordinator's own journal: hand
    /// [`CommitLocally`](crate::two_phase::participant::Input::CommitLocally) to the own shard's participant,
    /// and write what it answers (prepares and commits) and then `decision` as one group that is
    /// durable as a whole or not at all. Its `Begin` was given to `Persist` earlier, so it lies
    /// before them. Once durable, report `Persisted(token)` here and `CommittedDurable` to the
    /// participant.
    CommitLocally {
        /// To be reported.
        token: Token,
        /// What is decided by this write.
        decision: Decision,
    },
    /// All ids up to this one are applied everywhere. Participants are told by messages of their
    /// own.
    Visible {
        /// The id.
        id: MicrobatchId,
        /// Offsets that changed.
        offsets: Vec<SourceOffset>,
    },
    /// Give [`Input::Wake`] at this time (nanoseconds of the clock that `step` is told). A later
    /// one replaces it.
    WakeAt(u64),
    /// No further microbatch begins, for this reason; the last one given counts.
    Paused {
        /// Why.
        reason: PauseReason,
    },
    /// The reason for the pause is gone.
    Resumed,
    /// A record was rejected for good: it is on the exclusion list of this microbatch from now on.
    /// For logs and counters; the dead letter itself is written by the microbatch.
    Excluded {
        /// The microbatch.
        id: MicrobatchId,
        /// The record, and why.
        exclusion: Exclusion,
    },
}

/// Why a topology begins no further microbatch.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PauseReason {
    /// It was asked to.
    #[error("it was asked to pause")]
    Asked,
    /// This shard is down.
    #[error("shard {0} is down")]
    ShardDown(ShardId),
    /// A microbatch is rejected even without any record; only a change of code, and `Resume`, can
    /// help.
    #[error("microbatch {id} is rejected even without any record: {message}")]
    Rejected {
        /// The microbatch.
        id: MicrobatchId,
        /// What the failing shard said.
        message: String,
    },
}
