//! What coordinator and participants say to each other. Bytes: [`crate::wire`].

use super::{AttemptId, Exclusion, Failure, SourceOffset, SourceRange};
use crate::types::{MicrobatchId, PartitionId, Run};

/// One message between a topology's coordinator and the participant of one shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    // From the coordinator.
    /// A coordinator with this run has started: attempts of older runs that were not prepared are
    /// over, and the outcome of those that were can be asked for.
    Hello {
        /// Its run.
        run: Run,
    },
    /// Process these records of the receiving shard, leaving out the exclusions.
    Begin {
        /// Which try at which microbatch.
        attempt: AttemptId,
        /// The receiving shard's part of the ranges; may be empty.
        ranges: Vec<SourceRange>,
        /// The receiving shard's part of the exclusions, sorted.
        exclusions: Vec<Exclusion>,
        /// When the microbatch first began; see [`super::record::Begin::began_us`].
        began_us: u64,
    },
    /// Say where your counters stand.
    Probe {
        /// Of which attempt.
        attempt: AttemptId,
        /// To be repeated in the report, from 1.
        round: u32,
    },
    /// All rows have arrived: make what you hold durable and vote.
    Prepare {
        /// Of which attempt.
        attempt: AttemptId,
    },
    /// The attempt is committed, durably.
    Decided {
        /// The one attempt of its id that counts.
        attempt: AttemptId,
        /// The receiving shard's partitions that it touched.
        touched: Vec<PartitionId>,
    },
    /// The attempt can no longer commit.
    Abort {
        /// Which.
        attempt: AttemptId,
    },
    /// Neither decided nor aborted yet: ask again. The other two answers to [`Message::Ask`] are
    /// [`Message::Decided`] and [`Message::Abort`].
    Undecided {
        /// Which.
        attempt: AttemptId,
    },
    /// Every id up to this one has been applied everywhere.
    Visible {
        /// The id.
        id: MicrobatchId,
        /// Offsets that changed since the last such message, or all of them.
        offsets: Vec<SourceOffset>,
    },

    // From a participant.
    /// How far the sending shard's sources are durable.
    SourceEnds {
        /// Those that grew.
        ends: Vec<SourceOffset>,
    },
    /// Where the sending shard stands in processing an attempt.
    Report {
        /// Which.
        attempt: AttemptId,
        /// The round of the probe it answers; 0 when sent because the shard became idle.
        round: u32,
        /// Row batches sent to other shards so far.
        sent: u64,
        /// Row batches received from other shards so far.
        received: u64,
        /// Whether no work is queued or running.
        idle: bool,
        /// Partitions that hold writes of this attempt so far, sorted.
        touched: Vec<PartitionId>,
    },
    /// The sending shard's part is prepared, durably.
    Vote {
        /// Which attempt.
        attempt: AttemptId,
        /// Its partitions that hold a prepare, sorted; none when the shard was not touched.
        touched: Vec<PartitionId>,
    },
    /// The sending shard cannot complete the attempt.
    Failed {
        /// Which.
        attempt: AttemptId,
        /// Why.
        failure: Failure,
    },
    /// The sending shard has journalled the commit on all its touched partitions, durably.
    Applied {
        /// Which attempt.
        attempt: AttemptId,
    },
    /// What became of these prepared attempts?
    Ask {
        /// Sorted.
        attempts: Vec<AttemptId>,
    },
}
