//! What goes into a participant, and what comes out.

use crate::two_phase::{AttemptId, Exclusion, Failure, Faults, Message, SourceOffset, SourceRange};
use crate::types::{MicrobatchId, PartitionId, ShardId};

/// What does not change while a participant lives.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// The shard it lives on.
    pub own: ShardId,
    /// The shard of the topology's coordinator.
    pub coordinator: ShardId,
    /// Planted bugs; [`Faults::default`] outside simulation.
    pub faults: Faults,
}

/// What a shard's partitions know when they are opened.
#[derive(Clone, Debug, Default)]
pub struct Recovered {
    /// Prepares without an outcome, in any order.
    pub prepares: Vec<(AttemptId, PartitionId)>,
    /// The last id committed on each partition. A partition may be missing when that is not known;
    /// then a lost prepare there goes unnoticed.
    pub committed: Vec<(PartitionId, MicrobatchId)>,
}

/// What happens to a participant. Inputs about an attempt that is over are ignored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// The first input of all: asks for the outcome of what was recovered.
    Start,
    /// The coordinator says something.
    Message(Message),
    /// This shard's sources are durable up to these offsets: all of them at first, then those that
    /// grew, as often as is convenient. The coordinator hears of what grew.
    SourceEnds(Vec<SourceOffset>),
    /// More work for the attempt is queued or running.
    WorkStarted {
        /// Which.
        attempt: AttemptId,
        /// How many items.
        count: u64,
    },
    /// Work is done: an item named by `WorkStarted`, a batch named by `BatchReceived`, or the
    /// sources handed out by [`Effect::StartSources`], which are one item. What an item caused is
    /// reported before it.
    WorkFinished {
        /// Which.
        attempt: AttemptId,
        /// How many items.
        count: u64,
    },
    /// Row batches are about to go to other shards. Rows that stay on this shard are not counted.
    BatchSent {
        /// Which.
        attempt: AttemptId,
        /// How many.
        count: u64,
    },
    /// A row batch came from another shard and was admitted ([`super::Participant::admission`] said
    /// `Run`). It counts as work until finished.
    BatchReceived {
        /// Which.
        attempt: AttemptId,
        /// How many.
        count: u64,
    },
    /// The attempt has written to this partition.
    Touched {
        /// Which.
        attempt: AttemptId,
        /// Where.
        partition: PartitionId,
    },
    /// The attempt cannot be completed here; reported before the work that failed is finished, or
    /// instead of `PrepareDurable`. After a `Reject` that names a record, the driver drops that
    /// record's rows and goes on, so that one attempt finds all bad records; after any other, it
    /// may stop.
    Failed {
        /// Which.
        attempt: AttemptId,
        /// Why.
        failure: Failure,
    },
    /// What [`Effect::WritePrepare`] asked for is durable.
    PrepareDurable {
        /// Which.
        attempt: AttemptId,
    },
    /// What [`Effect::WriteCommitted`] asked for, or the whole group of a local commit, is durable.
    CommittedDurable {
        /// Which.
        attempt: AttemptId,
    },
    /// The coordinator on this shard commits in one write
    /// ([`crate::two_phase::coordinator::Effect::CommitLocally`]); answered by [`Effect::WriteLocally`].
    CommitLocally {
        /// Which.
        attempt: AttemptId,
    },
    /// The time asked for by [`Effect::WakeAt`] has come. A spurious one is harmless.
    Wake,
}

/// What a driver does for a participant, in the order given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Run the graph over these records. Ask again about the row batches that are held back. Report
    /// `WorkFinished` once for the sources as such, after `WorkStarted` for everything they
    /// started.
    StartSources {
        /// Which try at which microbatch.
        attempt: AttemptId,
        /// What to read on this shard; may be empty.
        ranges: Vec<SourceRange>,
        /// What to leave out and write to the dead letters instead, sorted by origin.
        exclusions: Vec<Exclusion>,
        /// The attempt at `id - 1` on whose overlay this one runs, if its commit is not durable on
        /// this shard yet. Everything lower is committed, or its `WriteCommitted` was given before;
        /// no other overlay may be read.
        below: Option<AttemptId>,
        /// When the microbatch first began: microseconds of wall-clock time, the same on every shard
        /// and in every attempt.
        began_us: u64,
    },
    /// Write a prepare entry, with the overlay and the depot appends, to each of these partitions.
    WritePrepare {
        /// Which.
        attempt: AttemptId,
        /// Where; sorted, never empty.
        partitions: Vec<PartitionId>,
    },
    /// Write a committed entry to each of these partitions: the writes take effect there.
    WriteCommitted {
        /// Which.
        attempt: AttemptId,
        /// Where; sorted, never empty.
        partitions: Vec<PartitionId>,
    },
    /// Write a prepare and a committed entry to each of these partitions, as part of the group that
    /// [`crate::two_phase::coordinator::Effect::CommitLocally`] describes.
    WriteLocally {
        /// Which.
        attempt: AttemptId,
        /// Where; sorted, perhaps empty.
        partitions: Vec<PartitionId>,
    },
    /// Stop what runs for this attempt, drop its overlay and its rows. With `aborted`, a prepare
    /// was written or may have been: write an aborted entry to each of these partitions. It need
    /// not be waited for, and may be written any time later: until then a recovered shard asks
    /// again, and hears the same.
    Drop {
        /// Which.
        attempt: AttemptId,
        /// Partitions with a prepare; sorted.
        aborted: Vec<PartitionId>,
    },
    /// Readers of this shard may see all ids up to this one.
    MergeVisible {
        /// The id.
        id: MicrobatchId,
        /// How far the topology has read, for sources that changed.
        offsets: Vec<SourceOffset>,
    },
    /// Hand the message to the coordinator; drop it if that shard is down.
    Send {
        /// Where it lives.
        to: ShardId,
        /// What.
        message: Message,
    },
    /// Give [`Input::Wake`] at this time (nanoseconds of the clock that `step` is told). A later
    /// one replaces it.
    WakeAt(u64),
    /// The coordinator committed an attempt that these partitions should hold, and do not: stored
    /// data is lost. The shard stops with an error.
    Lost {
        /// Which.
        attempt: AttemptId,
        /// Where.
        partitions: Vec<PartitionId>,
    },
}

/// What to do with a row batch that arrives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// Report `BatchReceived` and process it.
    Run,
    /// Its attempt has not begun here: keep it, and ask again after the next `StartSources` or
    /// `Drop`.
    Hold,
    /// Its attempt is over: drop it.
    Stale,
}
