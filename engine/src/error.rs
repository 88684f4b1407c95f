//! What a caller of the engine can meet.

use crate::types::{MicrobatchId, PartitionId, ShardId};

/// What the functions of the client API return.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a call failed. Cloneable, since one cause can end many calls.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The directory or the machine is not fit; nothing was opened.
    #[error("cannot open the engine: {what}")]
    Open {
        /// What to do about it.
        what: String,
    },
    /// Stored data is damaged. Nothing of it was used or changed.
    #[error("{what}")]
    Corrupt {
        /// Which file, where, and what is wrong.
        what: String,
    },
    /// The shard that has this partition stopped. What was under way there is *unknown* until it is
    /// reopened; `Engine::reopen_shard` does that in place.
    #[error("shard {shard} stopped and can be reopened in place: {cause}")]
    ShardStopped {
        /// Which.
        shard: ShardId,
        /// Why.
        cause: String,
    },
    /// Nothing was appended, since the disk is full. Reads go on; appends work again when space is
    /// back.
    #[error("the disk is full: {what}")]
    DiskFull {
        /// What could not be allocated.
        what: String,
    },
    /// Nothing was appended, since so many appends wait already.
    #[error("partition {partition} has {limit_bytes} bytes of appends waiting; retry later")]
    Overloaded {
        /// Where.
        partition: PartitionId,
        /// The limit that was reached.
        limit_bytes: u64,
    },
    /// The call cannot be right: a key that is too long, a record that cannot be encoded, a depot
    /// without a module.
    #[error("{what}")]
    Invalid {
        /// What is wrong with it.
        what: String,
    },
    /// Stored bytes do not fit the type they are read as.
    #[error("cannot decode {what}")]
    Decode {
        /// Which value or record, and why.
        what: String,
    },
    /// The records asked for were trimmed.
    #[error("{what}")]
    Trimmed {
        /// What was asked for, and what there is.
        what: String,
    },
    /// What was asked for is of an older moment than is kept. Nothing of another moment was given instead.
    #[error(
        "microbatch {wanted} cannot be read any more, the oldest one above it is {oldest}: take another \
         snapshot; if that happens too soon, raise `Options::history_bytes_max`, or for reads as of an id \
         `Options::history`"
    )]
    SnapshotExpired {
        /// The microbatch whose result was asked for.
        wanted: MicrobatchId,
        /// The lowest one above it that can be read in that partition.
        oldest: MicrobatchId,
    },
    /// Nothing is stored where one thing was asked for.
    #[error("{what}: nothing is stored there")]
    Absent {
        /// What was read.
        what: String,
    },
    /// It was not done within the time that it was given. Nothing of it was answered; what was read on the way
    /// may be in memory now.
    #[error("{what} was not done within {within:?}")]
    Timeout {
        /// What was read, and where.
        what: String,
        /// The time that it was given, counted on its shard.
        within: std::time::Duration,
    },
    /// No backup was made. The engine goes on.
    #[error("the backup was not made: {what}")]
    Backup {
        /// Why, and where.
        what: String,
    },
    /// Nothing was subscribed, since the shard has as many subscribers as it takes.
    #[error(
        "shard {shard} has {limit} subscriptions, which is its limit: drop some, or raise \
         `Options::subscriptions_max`"
    )]
    TooManySubscriptions {
        /// Which.
        shard: ShardId,
        /// How many it takes.
        limit: u64,
    },
    /// A recompute was not done, or ended without a switch: the topology and its `PState`s are what they were.
    #[error("the recompute was not done: {what}")]
    Recompute {
        /// Which, what stood in its way, and what to do.
        what: String,
    },
    /// The engine was closed.
    #[error("the engine is closed")]
    Closed,
}

impl Error {
    #[allow(clippy::needless_pass_by_value, reason = "called as `map_err(Error::invalid)`")]
    pub(crate) fn invalid(what: impl ToString) -> Self {
        Self::Invalid { what: what.to_string() }
    }
}

/// An error with everything behind it, in one line.
pub(crate) fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        text.push_str(": ");
        text.push_str(&next.to_string());
        cause = next.source();
    }
    text
}
