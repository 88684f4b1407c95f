//! What reaches a shard through the mesh, from its peers and from clients. Values are moved.

use std::sync::Arc;
use std::time::Duration;

use futures_channel::oneshot;

use crate::codec::KeyBuf;
use crate::depot::Batch;
use crate::error::{Error, Result};
use crate::journal::JournalId;
use crate::manifest::Manifest;
use crate::module::{Definition, PStateIndex, StartAt};
use crate::node::Installed;
use crate::node::catalogue::recomputes::Alteration;
use crate::node::catalogue::{Catalogue, Starts};
use crate::node::numbers::Numbers;
use crate::node::pins::Pin;
use crate::schema::ast::{Functions, Query, Value};
use crate::schema::{self, ReadOp};
use crate::shard::entry::Transaction;
use crate::subscribe::index::Watch;
use crate::subscribe::queue::Receiver;
use crate::topology::{NodeIndex, Rows};
use crate::types::{
    DepotId, MicrobatchId, Offset, PStateId, PartitionId, Run, ShardId, TopologyId,
};

/// Where the answer of a request goes. Dropping it unanswered means the shard ended first.
pub(crate) type Reply<T> = oneshot::Sender<Result<T>>;

/// Every reason for a shard to wake.
#[derive(Debug)]
pub(crate) enum Message {
    /// A message of two-phase commit, as `replication::wire` encodes it, from one life of the sender to
    /// one of the receiver.
    Control { from: Run, to: Run, bytes: Vec<u8> },
    /// Rows for partitions of this shard.
    Rows(RowBatch),
    /// Rows that this shard sent have been consumed.
    Credit(Credit),
    /// A peer stopped, or started again.
    Peer { shard: ShardId, run: Run, up: bool },
    /// Records for partitions of one depot.
    Append(AppendRequest),
    /// Reads of one partition at one moment.
    Read(ReadRequest),
    /// A query of one partition.
    Walk(WalkRequest),
    /// Somebody wants to know what becomes of some rows.
    Subscribe(SubscribeRequest),
    /// What they are at the id from which that is told.
    Page(PageRequest),
    /// What differs between two ids.
    Difference(DifferenceRequest),
    /// Records of one depot partition.
    ReadDepot(ReadDepotRequest),
    /// Where a topology begins that is new to depots, in each partition here that does not begin at 0.
    Starts { asked: Vec<(DepotId, StartAt)>, reply: Reply<Vec<(DepotId, PartitionId, Offset)>> },
    /// The effects of everything below an offset.
    Wait(WaitRequest),
    /// The moment at which a topology has applied all that is durable now in its sources here.
    CaughtUp { topology: TopologyId, reply: Reply<()> },
    /// The last id decided; for the shard of the topology's coordinator.
    Decided { topology: TopologyId, reply: Reply<MicrobatchId> },
    /// The moment at which readers here see an id.
    VisibleAt { topology: TopologyId, id: MicrobatchId, reply: Reply<()> },
    /// A partition here in which one of these has left something that is not applied for good.
    Unsettled { topologies: Vec<TopologyId>, reply: Reply<Option<(PartitionId, TopologyId)>> },
    /// Runs a module here, if it does not yet; its topologies start with [`Message::StartTopologies`].
    Install { module: Arc<Installed>, reply: Reply<()> },
    /// Every shard that runs has the module: coordinators may speak, if they do not yet.
    StartTopologies { topologies: Vec<TopologyId>, reply: Reply<()> },
    /// Why a topology begins no microbatch; for the shard of its coordinator.
    Paused { topology: TopologyId, reply: Reply<Option<String>> },
    /// Some shard has work for a microbatch of a topology, be there records or not; for the shard of its
    /// coordinator.
    Work { topology: TopologyId },
    /// What is left of a module's migrations here.
    Moves { module: Arc<Installed>, reply: Reply<Vec<Moving>> },
    /// Where the topologies stand, for people.
    Describe { reply: Reply<String> },
    /// What the shard has counted.
    Counters { reply: Reply<Counters> },
    /// Folds every partition.
    FoldAll { reply: Reply<()> },
    /// A step of a backup.
    Backup(super::backup::Request),
    /// A step of a recompute.
    Recompute(super::recompute::Request),
    /// Accepts nothing more, folds, closes the journal, and waits for [`Message::End`].
    Close { reply: Reply<Closed> },
    /// Ends the shard.
    End,
    /// Ends the shard as an error that must not be retried would: for tests.
    Fail { cause: String },
    /// Ends the shard by a panic of one of its tasks: for tests.
    Panic { cause: String },
    /// Something that the keeper of the manifest does with the device of this shard; any will do.
    Keeper(KeeperRequest),
}

/// What a node asks of the keeper of the manifest.
#[derive(Debug)]
pub(crate) enum KeeperRequest {
    /// Gives numbers to a module and makes them durable.
    Launch { definition: Arc<Definition>, starts: Arc<Starts>, reply: Reply<Arc<Installed>> },
    /// What the directory holds, as its manifest has it.
    Read { reply: Reply<(Manifest, Catalogue)> },
    /// Changes the catalogue for a recompute.
    Alter { alteration: Alteration, reply: Reply<Catalogue> },
    /// Every journal was closed: the directory is clean.
    Clean { closed: Vec<Closed>, reply: Reply<()> },
    /// Journals that were created are the directory's journals from now on, and no others.
    Switch { journals: Vec<(ShardId, JournalId)>, reply: Reply<()> },
}

/// What is left of one migration in one partition.
#[derive(Debug)]
pub(crate) struct Moving {
    /// The migration's place in the module.
    pub(crate) nth: usize,
    pub(crate) partition: PartitionId,
    /// Exact as long as they are few.
    pub(crate) rows: u64,
    /// Why it does not go on.
    pub(crate) problem: Option<String>,
}

/// Rows of one attempt for several partitions of one shard, in the order sent.
#[derive(Debug)]
pub(crate) struct RowBatch {
    /// The sender's life.
    pub(crate) from: Run,
    pub(crate) transaction: Transaction,
    pub(crate) parts: Vec<(PartitionId, NodeIndex, Rows)>,
}

/// Bytes of rows of one attempt that were consumed where they were sent to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Credit {
    /// The life of the shard that consumed them.
    pub(crate) from: Run,
    pub(crate) transaction: Transaction,
    pub(crate) bytes: u64,
}

/// Batches for partitions of one depot, all of them on one shard.
#[derive(Debug)]
pub(crate) struct AppendRequest {
    pub(crate) depot: DepotId,
    pub(crate) batches: Vec<(PartitionId, Batch)>,
    /// When to answer.
    pub(crate) acknowledge: Acknowledge,
    /// Gets the first offset of each batch, when all of them are through.
    pub(crate) reply: Reply<Vec<Result<Offset>>>,
}

/// When an append is answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Acknowledge {
    /// As soon as it has an offset; a crash may still lose it.
    None,
    /// When it survives a crash of this node.
    #[default]
    Durable,
}

#[derive(Debug)]
pub(crate) struct ReadRequest {
    pub(crate) module: Arc<Installed>,
    pub(crate) partition: PartitionId,
    pub(crate) operations: Vec<ReadOperation>,
    /// Where that lies which is read as it is now.
    pub(crate) numbers: Arc<Numbers>,
    pub(crate) when: When,
    /// How long it may take here.
    pub(crate) within: Option<Duration>,
    pub(crate) reply: Reply<Vec<ReadAnswer>>,
}

/// A query that stays in one partition.
#[derive(Debug)]
pub(crate) struct WalkRequest {
    pub(crate) module: Arc<Installed>,
    pub(crate) partition: PartitionId,
    pub(crate) pstate: PStateIndex,
    pub(crate) query: Query,
    pub(crate) functions: Functions,
    pub(crate) when: When,
    /// How long it may take here.
    pub(crate) within: Option<Duration>,
    pub(crate) reply: Reply<Vec<Value>>,
}

/// The moment that is read.
#[derive(Clone, Debug)]
pub(crate) enum When {
    /// What is visible anywhere in the process when the read begins, or something above it.
    Now,
    /// The ids of the module's topologies when the read began, by their places, and what is stored where at those
    /// ids. Only for a read that does not wait.
    Begun(Arc<[(TopologyId, MicrobatchId)]>, Arc<Numbers>),
    /// What is pinned; the pin is held until the answer is there.
    Pinned(Arc<Pin>),
    /// An id of the topology that writes all of what is read, which is stored under these numbers.
    AsOf(MicrobatchId, Arc<Numbers>),
}

/// One read; keys are encoded.
#[derive(Clone, Debug)]
pub(crate) struct ReadOperation {
    pub(crate) pstate: PStateIndex,
    pub(crate) op: ReadOp,
}

/// The answer of one [`ReadOperation`].
#[derive(Clone, Debug)]
pub(crate) enum ReadAnswer {
    Value(Option<Vec<u8>>),
    Rows(schema::Rows),
}

#[derive(Debug)]
pub(crate) struct SubscribeRequest {
    pub(crate) module: Arc<Installed>,
    /// The place of the topology that writes what is watched among those of its module.
    pub(crate) owner: usize,
    pub(crate) partition: PartitionId,
    /// What is watched. Its number is that of the registration's pin, not the one in `watch`.
    pub(crate) pstate: PStateIndex,
    pub(crate) watch: Watch,
    /// The subscriber had registered before, and has missed something.
    pub(crate) again: bool,
    pub(crate) reply: Reply<Subscribed>,
}

/// A registration: from `id` on, which the pin holds, everything comes through the queue.
#[derive(Debug)]
pub(crate) struct Subscribed {
    pub(crate) pin: Arc<Pin>,
    pub(crate) id: MicrobatchId,
    pub(crate) queue: Receiver,
}

impl Subscribed {
    /// The number under which what is watched lies at its pin, and from then on.
    pub(crate) fn number(&self, pstate: PStateIndex) -> PStateId {
        self.pin.numbers().pstates[pstate.0 as usize]
    }
}

#[derive(Debug)]
pub(crate) struct PageRequest {
    pub(crate) module: Arc<Installed>,
    pub(crate) pin: Arc<Pin>,
    /// As in the registration, like the next two.
    pub(crate) partition: PartitionId,
    pub(crate) pstate: PStateIndex,
    pub(crate) watch: Watch,
    /// The last key of the page before.
    pub(crate) after: Option<KeyBuf>,
    pub(crate) reply: Reply<Page>,
}

/// Rows of a range, in order.
#[derive(Debug)]
pub(crate) struct Page {
    pub(crate) rows: schema::Rows,
    pub(crate) is_last: bool,
}

#[derive(Debug)]
pub(crate) struct DifferenceRequest {
    /// Whose ids they are.
    pub(crate) topology: TopologyId,
    pub(crate) partition: PartitionId,
    /// What is compared.
    pub(crate) watch: Watch,
    /// The earlier id first.
    pub(crate) ids: (MicrobatchId, MicrobatchId),
    /// The last key of the page before.
    pub(crate) after: Option<KeyBuf>,
    /// Whether the asker knows what was there at the earlier id.
    pub(crate) after_only: bool,
    pub(crate) reply: Reply<Difference>,
}

/// Rows that differ, in order.
#[derive(Debug)]
pub(crate) struct Difference {
    pub(crate) rows: Vec<RawDiffering>,
    pub(crate) is_last: bool,
}

/// A row that differs, with its whole key. Values that nobody asked for are empty.
#[derive(Debug)]
pub(crate) struct RawDiffering {
    pub(crate) key: Box<[u8]>,
    pub(crate) before: Option<Box<[u8]>>,
    pub(crate) after: Option<Box<[u8]>>,
}

impl RawDiffering {
    /// About how much memory it takes.
    pub(crate) fn bytes(&self) -> usize {
        let value = |value: &Option<Box<[u8]>>| value.as_ref().map_or(0, |value| value.len());
        size_of::<Self>() + self.key.len() + value(&self.before) + value(&self.after)
    }
}

#[derive(Debug)]
pub(crate) struct ReadDepotRequest {
    pub(crate) depot: DepotId,
    pub(crate) partition: PartitionId,
    pub(crate) from: Offset,
    pub(crate) records_max: usize,
    pub(crate) reply: Reply<DepotSlice>,
}

/// A piece of a depot partition.
#[derive(Debug)]
pub(crate) struct DepotSlice {
    pub(crate) records: crate::depot::Records,
    /// The first offset that is kept, and the first that is not durable yet.
    pub(crate) first: Offset,
    pub(crate) end: Offset,
}

/// Records of one depot, in partitions of one shard.
#[derive(Debug)]
pub(crate) struct WaitRequest {
    pub(crate) topology: TopologyId,
    pub(crate) depot: DepotId,
    pub(crate) records: Vec<(PartitionId, Offset)>,
    /// Gets what became of each, when all of them are through.
    pub(crate) reply: Reply<Vec<Result<Effects>>>,
}

/// What became of an append's effects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effects {
    /// They are durable and visible.
    Applied {
        /// The first microbatch at which that was seen.
        id: MicrobatchId,
    },
    /// The record was rejected twice; it lies in the topology's dead-letter depot.
    DeadLettered {
        /// The first microbatch at which that was seen.
        id: MicrobatchId,
    },
}

/// How a clean shutdown of a shard ended.
#[derive(Debug)]
pub(crate) struct Closed {
    pub(crate) journal: JournalId,
    pub(crate) end: crate::journal::CleanEnd,
}

/// What one shard has counted since it was started.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counters {
    /// Records appended by clients.
    pub appends: u64,
    /// Bytes of their batches.
    pub append_bytes: u64,
    /// Reads of `PState`s by clients.
    pub reads: u64,
    /// Bytes written to the journal, padding included.
    pub journal_bytes: u64,
    /// Durable writes of the journal.
    pub journal_writes: u64,
    /// Bytes of the journal that cannot be reused yet.
    pub journal_used_bytes: u64,
    /// Bytes of old entries that were copied to the journal's end, so that their file could be reused.
    pub copied_bytes: u64,
    /// Microbatches whose prepare this shard wrote.
    pub prepares: u64,
    /// Rows run by events of topologies.
    pub rows: u64,
    /// Row batches sent to other shards.
    pub batches_sent: u64,
    /// Rows that had to wait for credit before they were sent to another shard.
    pub rows_spilled: u64,
    /// Reads in events that were not in memory and not declared beforehand.
    pub undeclared_misses: u64,
    /// Records given up and put among the dead letters.
    pub dead_letters: u64,
    /// Attempts at microbatches that were dropped.
    pub aborts: u64,
    /// Folds done.
    pub folds: u64,
    /// Times that old files of a depot partition were let go of, since nothing needs them.
    pub trims: u64,
    /// The fewest folds that any partition with state has seen.
    pub folds_least: u64,
    /// Bytes of memory in overlays.
    pub overlay_bytes: u64,
    /// Bytes of memory that readers of older ids need.
    pub history_bytes: u64,
    /// Times that some of that had to be given up although somebody wanted it.
    pub history_drops: u64,
    /// Subscribers.
    pub subscribers: u64,
    /// Bytes of memory that they take, and what waits for them.
    pub subscriber_bytes: u64,
    /// Pages found in memory, and read from disk.
    pub page_hits: u64,
    /// See `page_hits`.
    pub page_misses: u64,
}

impl Counters {
    /// The sums of two shards.
    #[must_use]
    pub fn plus(&self, other: &Self) -> Self {
        Self {
            appends: self.appends + other.appends,
            append_bytes: self.append_bytes + other.append_bytes,
            reads: self.reads + other.reads,
            journal_bytes: self.journal_bytes + other.journal_bytes,
            journal_writes: self.journal_writes + other.journal_writes,
            journal_used_bytes: self.journal_used_bytes + other.journal_used_bytes,
            copied_bytes: self.copied_bytes + other.copied_bytes,
            prepares: self.prepares + other.prepares,
            rows: self.rows + other.rows,
            batches_sent: self.batches_sent + other.batches_sent,
            rows_spilled: self.rows_spilled + other.rows_spilled,
            undeclared_misses: self.undeclared_misses + other.undeclared_misses,
            dead_letters: self.dead_letters + other.dead_letters,
            aborts: self.aborts + other.aborts,
            folds: self.folds + other.folds,
            trims: self.trims + other.trims,
            folds_least: self.folds_least.min(other.folds_least),
            overlay_bytes: self.overlay_bytes + other.overlay_bytes,
            history_bytes: self.history_bytes + other.history_bytes,
            history_drops: self.history_drops + other.history_drops,
            subscribers: self.subscribers + other.subscribers,
            subscriber_bytes: self.subscriber_bytes + other.subscriber_bytes,
            page_hits: self.page_hits + other.page_hits,
            page_misses: self.page_misses + other.page_misses,
        }
    }
}

/// Answers; a client that went away is no error.
pub(crate) fn answer<T>(reply: Reply<T>, result: Result<T, Error>) {
    drop(reply.send(result));
}
