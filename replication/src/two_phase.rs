//! Two-phase commit of microbatches: one coordinator per topology, one participant per shard.
//!
//! ```text
//!  coordinator                                    participant, one per shard
//!    Begin(ranges, exclusions) ------------------>  runs the graph into overlays, rows flow
//!                        <------------------ Report(sent, received, idle)
//!    Probe(round)        ------------------------>
//!                        <------------------ Report: equal and unchanged, all idle: quiescent
//!    Prepare             ------------------------>  writes its overlay and its vote, durably
//!                        <------------------ Vote(touched partitions)
//!    persists Commit(id, run, attempt, offsets, touched)        <- the instant of commit
//!    Decided             ------------------------>  journals Committed per touched partition
//!                        <------------------ Applied
//!    Visible(id, offsets)------------------------>  readers advance
//! ```
//!
//! What holds, whatever is lost, repeated or restarted:
//!
//! - An id commits once, with one attempt, on every partition that attempt touched, or not at all.
//! - Ids commit in order, and the offsets a decision carries advance exactly with the state.
//! - A prepare is released by *aborted* alone. No timeout decides: time only asks again.
//! - An attempt of another run or number than the one decided can never commit: a coordinator
//!   raises its run durably before it starts, and within a run it never uses an attempt's number
//!   twice.
//! - Nothing is visible before every participant has applied it durably.
//!
//! What the drivers (the engine) owe:
//!
//! - Messages of one ordered pair of shards arrive in order or not at all, perhaps more than once;
//!   rows arrive exactly once. A lost message means that `ShardDown` is reported for one of the
//!   two.
//! - What was under way to or from a shard when it went down is dropped, or delivered before
//!   `ShardDown` is reported. `ShardDown` comes before `ShardUp`, and `ShardUp` before any message
//!   of the shard's next life. What the coordinator sent before it took `ShardUp` never reaches
//!   that life.
//! - Effects are performed in order: what is persisted stands before what is sent because of it.

pub mod coordinator;
pub mod message;
#[cfg(test)]
mod model;
pub mod participant;
pub mod record;

use std::fmt;

pub use coordinator::Coordinator;
pub use message::Message;
pub use participant::Participant;
pub use record::{AllApplied, Begin, Decision, Record, Row};

use crate::types::{Attempt, DepotId, MicrobatchId, Offset, PartitionId, Run};

/// One try at one microbatch of one topology: the name that a prepare, a vote and a decision share.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AttemptId {
    /// The microbatch.
    pub id: MicrobatchId,
    /// The coordinator's run.
    pub run: Run,
    /// Counted from 1 within `(id, run)`.
    pub attempt: Attempt,
}

impl fmt::Display for AttemptId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (run {}, attempt {})", self.id, self.run, self.attempt)
    }
}

/// One partition of a depot that a topology reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Source {
    /// The depot.
    pub depot: DepotId,
    /// Its partition.
    pub partition: PartitionId,
}

/// A position in a source: how far it is durable, or how far a topology has read it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SourceOffset {
    /// Where.
    pub source: Source,
    /// The first offset that is not included.
    pub offset: Offset,
}

/// The records `from..to` of a source.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SourceRange {
    /// Where.
    pub source: Source,
    /// The first record.
    pub from: Offset,
    /// The first record that is not included.
    pub to: Offset,
}

/// The record that a row descends from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Origin {
    /// Where it lies.
    pub source: Source,
    /// Its offset there.
    pub offset: Offset,
}

/// A record that a microbatch leaves out and puts among the dead letters instead.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Exclusion {
    /// The record.
    pub origin: Origin,
    /// Why, in at most [`REASON_BYTES_MAX`] bytes.
    pub reason: String,
}

/// What an attempt failed of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailureKind {
    /// The world's fault (outside call, I/O, deadline, no space): tried again, never dead-lettered.
    Retry,
    /// The record's fault (user error, panic, undecodable): dead-lettered when it happens twice.
    Reject,
    /// The microbatch is too large for a shard's memory or journal: tried again with fewer records, at
    /// once. A single record that is too large is rejected.
    TooLarge,
}

/// Why an attempt cannot go on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The record that caused it, unless an aggregation lost track.
    pub origin: Option<Origin>,
    /// What to do about it.
    pub kind: FailureKind,
    /// For people; cut to [`REASON_BYTES_MAX`] bytes on its way.
    pub message: String,
}

/// Bugs that simulation builds plant, to prove that tests notice them. All off by default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(
    clippy::struct_excessive_bools,
    reason = "independent switches, of which one is on at most"
)]
pub struct Faults {
    /// The coordinator sends a decision before the record that holds it is durable.
    pub decision_before_durable: bool,
    /// A prepare counts for a decision that names another attempt.
    pub other_attempt_accepted: bool,
    /// The commit in a single journal does not wait for lower undecided ids.
    pub single_journal_overtakes: bool,
    /// A recovered coordinator moves its offsets past an undecided microbatch.
    pub offsets_without_state: bool,
}

/// Length limit of texts that travel: enough for a person to find the cause.
pub const REASON_BYTES_MAX: usize = 256;

/// Cuts `text` to [`REASON_BYTES_MAX`] bytes, between characters.
#[must_use]
pub fn cut_reason(text: &str) -> String {
    text.get(..text.floor_char_boundary(REASON_BYTES_MAX)).unwrap_or_default().to_owned()
}
