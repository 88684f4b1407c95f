//! The erased form of a topology's code: what a shard calls without knowing any row type.
//!
//! An [`Event`] is everything between two hops, fused into one object. It takes a batch of [`Rows`],
//! reads and writes the partition it runs on through [`Local`], and gives back rows for other nodes.

use std::any::Any;
use std::fmt;

use bytes::Bytes;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::{Combined, Failure, Local, NodeIndex, StateError};
use crate::env::LocalFuture;
use crate::module::DepotIndex;
use crate::types::{Offset, PartitionId, WallTime};

/// The code of one node.
pub trait Event: Send + Sync {
    /// Runs one batch on the partition behind `local`.
    ///
    /// Row after row passes all stages of the event, in the order of the batch. A row that condemns
    /// its record is left behind, and the rest goes on, so that one attempt finds all bad records. Its
    /// writes are not undone here: after any failure, whoever runs the event must drop everything this
    /// attempt wrote. The future never unwinds: a panic in user code is an [`EventFailure`]. Dropping
    /// the future early leaves the writes of the rows that were done.
    ///
    /// # Errors
    /// A failure that no record is named for, or that is not a record's fault: the rest of the batch
    /// was not run.
    ///
    /// # Panics
    /// If `rows` are not of the type that this node takes, which only the engine can cause.
    fn run<'a>(
        &'a self,
        local: &'a dyn Local,
        rows: Rows,
    ) -> LocalFuture<'a, Result<Done, EventFailure>>;
}

/// What came of a batch that was run to its end.
#[derive(Debug, Default)]
pub struct Done {
    /// Rows for other nodes.
    pub outgoing: Vec<Outgoing>,
    /// Changes for other nodes, at most once for each: they travel when nothing more can be combined with
    /// them, or nothing more should.
    pub changes: Vec<Combined>,
    /// Rows that condemned their record. Unless this is empty, the attempt must not commit.
    pub rejected: Vec<EventFailure>,
}

/// A batch of rows of one type, each with its [`Origin`]. Between the shards of one process it
/// travels as it is, unencoded.
pub struct Rows {
    batch: Box<dyn Any + Send>,
    count: usize,
    bytes: usize,
    /// Appends a batch of the same type: whoever queues rows does not know it.
    join: fn(&mut (dyn Any + Send), Box<dyn Any + Send>),
}

impl Rows {
    /// The input of a source node: records as they lie in the depot.
    #[must_use]
    pub fn records(records: Vec<Record>) -> Self {
        let bytes = records.iter().map(|record| size_of::<Record>() + record.bytes.len()).sum();
        Self { bytes, ..Self::new(records) }
    }

    pub(crate) fn new<T: Send + 'static>(rows: Vec<T>) -> Self {
        let (count, bytes) = (rows.len(), rows.len() * size_of::<T>());
        Self { count, bytes, batch: Box::new(rows), join: join::<T> }
    }

    /// Adds the rows of another batch for the same node, behind these.
    pub(crate) fn append(&mut self, more: Self) {
        (self.join)(&mut *self.batch, more.batch);
        self.count += more.count;
        self.bytes += more.bytes;
    }

    pub(crate) fn take<T: 'static>(self) -> Vec<T> {
        *self.batch.downcast().expect("a node is sent the rows it was built for")
    }

    /// How many rows.
    #[must_use]
    pub fn count(&self) -> usize {
        self.count
    }

    /// About how many bytes of memory they take, not counting what their fields point to; for
    /// credit and the memory budget.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

fn join<T: 'static>(batch: &mut (dyn Any + Send), more: Box<dyn Any + Send>) {
    let batch: &mut Vec<T> = batch.downcast_mut().expect("a batch is of the type it was made of");
    let mut more: Box<Vec<T>> = more.downcast().expect("a node takes rows of one type");
    batch.append(&mut more);
}

impl fmt::Debug for Rows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rows").field("count", &self.count).finish_non_exhaustive()
    }
}

/// One record of a source's depot.
#[derive(Clone, Debug)]
pub struct Record {
    /// Where it lies.
    pub origin: Origin,
    /// When it was appended.
    pub appended: WallTime,
    /// The record, encoded by the depot's codec.
    pub bytes: Bytes,
}

/// The record a row was made of. Rows keep it until an aggregation, so that a failing row names its
/// record; one that goes on behind it names none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Origin {
    /// The depot, in its module.
    pub depot: DepotIndex,
    /// The depot's partition.
    pub partition: PartitionId,
    /// The record's offset there.
    pub offset: Offset,
    /// Which of the rows made of that record: 0 for the record itself, a hash of the way through the
    /// graph after a hop. The same in every attempt.
    pub branch: u64,
}

impl Origin {
    /// Of a row that many records made, as one of them began it: it can be told apart from others, and no
    /// record is blamed for it.
    pub(crate) fn of_many(self) -> Self {
        let branch = xxh3_64_with_seed(&self.branch.to_le_bytes(), u64::from(self.depot.0));
        Self { depot: DEPOT_OF_MANY, branch, ..self }
    }

    /// Itself, if it is one record that is to blame.
    pub(crate) fn blamed(self) -> Option<Self> {
        (self.depot != DEPOT_OF_MANY).then_some(self)
    }

    /// The record itself.
    #[must_use]
    pub fn record(depot: DepotIndex, partition: PartitionId, offset: Offset) -> Self {
        Self { depot, partition, offset, branch: 0 }
    }
}

/// No module declares so many depots.
const DEPOT_OF_MANY: DepotIndex = DepotIndex(u32::MAX);

/// Rows for another node of the topology, in the order in which they were made; those for a partition must
/// arrive in the order sent.
#[derive(Debug)]
pub struct Outgoing {
    /// The node that takes them.
    pub node: NodeIndex,
    /// The partition to run it on; may be the one they come from.
    pub to: PartitionId,
    /// The rows; never empty.
    pub rows: Rows,
}

/// Why a batch could not be run to its end, or without one of its records. All that its attempt wrote
/// must be dropped.
#[derive(Debug, thiserror::Error)]
#[error("{node} failed on partition {partition}{}: {failure}", at_record(*.origin))]
pub struct EventFailure {
    /// What to do about it.
    pub kind: FailureKind,
    /// The record whose row failed; `None` after an aggregation, or if no single row is at fault.
    pub origin: Option<Origin>,
    /// The node's name.
    pub node: String,
    /// The partition it ran on.
    pub partition: PartitionId,
    /// What the user's code or the engine said.
    pub failure: Failure,
}

impl EventFailure {
    /// What is no record's fault has failed, in the name of `node`.
    pub(crate) fn of_surroundings(node: &str, partition: PartitionId, error: StateError) -> Self {
        let (node, failure) = (node.to_owned(), Failure::retry(error));
        Self { kind: FailureKind::Retry, origin: None, node, partition, failure }
    }
}

/// What to do about a failed batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailureKind {
    /// The surroundings are at fault (I/O, a stopped shard, an outside call): try again, with
    /// back-off. Never a reason to give a record up.
    Retry,
    /// The record is at fault (an error or panic of user code, an undecodable record): given up after
    /// two failures.
    Reject,
}

fn at_record(origin: Option<Origin>) -> String {
    origin.map_or_else(String::new, |origin| {
        let Origin { depot, partition, offset, .. } = origin;
        format!(", at record {offset} of partition {partition} of depot {depot}")
    })
}
