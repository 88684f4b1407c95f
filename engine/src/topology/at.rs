//! The handle that user code has to the partition it runs on.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::marker::PhantomData;

use xxhash_rust::xxh3::{xxh3_64, xxh3_128};

use super::sizes::Sizes;
use super::{FailureKind, Local, NodeIndex, Origin, StateError};
use crate::codec::{FieldTable, Placement};
use crate::types::{PartitionId, WallTime};

/// One run of an event: which row it is at.
pub struct Context<'a> {
    local: &'a dyn Local,
    /// What of the partition never changes, at hand.
    partition: PartitionId,
    partitions: u32,
    fields: &'a FieldTable,
    node: NodeIndex,
    origin: Cell<Option<Origin>>,
    /// Random numbers drawn for this row.
    drawn: Cell<u32>,
    /// Rows sent on that were made of this row.
    sent: Cell<u32>,
    /// Whether the surroundings have failed this run, whatever user code made of it.
    failed: Cell<bool>,
    /// Where values are encoded.
    scratch: RefCell<Vec<u8>>,
    /// What the run has changed in sizes of collections.
    sizes: Sizes,
}

impl std::fmt::Debug for Context<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Context").field("node", &self.node).finish_non_exhaustive()
    }
}

impl<'a> Context<'a> {
    pub(crate) fn new(local: &'a dyn Local, node: NodeIndex) -> Self {
        let (origin, drawn, sent) = (Cell::new(None), Cell::new(0), Cell::new(0));
        let (failed, scratch) = (Cell::new(false), RefCell::new(Vec::new()));
        let sizes = Sizes::default();
        let (partition, partitions, fields) =
            (local.partition(), local.partitions(), local.fields());
        Self {
            local,
            partition,
            partitions,
            fields,
            node,
            origin,
            drawn,
            sent,
            failed,
            scratch,
            sizes,
        }
    }

    pub(crate) fn local(&self) -> &'a dyn Local {
        self.local
    }

    /// The numbers of names in values.
    #[inline]
    pub(crate) fn fields(&self) -> &'a FieldTable {
        self.fields
    }

    /// Where a key lives, if not in this partition.
    #[inline]
    pub(super) fn elsewhere(&self, place: Placement) -> Option<PartitionId> {
        Some(place.partition(self.partitions)).filter(|&lives| lives != self.partition)
    }

    pub(crate) fn scratch(&self) -> &RefCell<Vec<u8>> {
        &self.scratch
    }

    pub(super) fn sizes(&self) -> &Sizes {
        &self.sizes
    }

    /// Remembers if the surroundings failed: then the run counts for nothing, even if user code turns
    /// the error into another one, or goes on without what it asked for.
    #[inline]
    pub(crate) fn noted<X>(&self, result: Result<X, StateError>) -> Result<X, StateError> {
        if let Err(error) = &result {
            self.note(error);
        }
        result
    }

    #[cold]
    pub(crate) fn note(&self, error: &StateError) {
        self.failed.set(self.failed.get() || error.kind() == FailureKind::Retry);
    }

    /// Whether the surroundings have failed this run.
    #[inline]
    pub(crate) fn has_failed(&self) -> bool {
        self.failed.get()
    }

    /// The next row comes from `origin`.
    pub(crate) fn begin(&self, origin: Origin) {
        self.origin.set(Some(origin));
        self.drawn.set(0);
        self.sent.set(0);
    }

    /// No single row is being worked on any more.
    pub(crate) fn end(&self) {
        self.origin.set(None);
    }

    /// The record that is to blame if the current row fails, if it is one.
    pub(crate) fn origin(&self) -> Option<Origin> {
        self.origin.get().and_then(Origin::blamed)
    }

    /// The origin of a row that is sent on: that of the current row, told apart from all other rows
    /// made of the same record, in a way that does not depend on when the row arrived here.
    pub(crate) fn sent(&self) -> Origin {
        let origin = self.origin.get().expect("rows are sent while one is worked on");
        let count = self.sent.get();
        self.sent.set(count + 1);
        let step = u64::from(self.node.0) << 32 | u64::from(count);
        let mixed = (origin.branch ^ step).wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        Origin { branch: mixed ^ (mixed >> 31), ..origin }
    }

    /// What makes the next random number of this row what it is.
    fn draw(&self) -> [u8; 40] {
        let origin = self.origin.get().expect("chance belongs to a row");
        let count = self.drawn.get();
        self.drawn.set(count + 1);
        let mut bytes = [0; 40];
        bytes[..8].copy_from_slice(&self.local.seed().to_le_bytes());
        bytes[8..12].copy_from_slice(&origin.depot.0.to_le_bytes());
        bytes[12..16].copy_from_slice(&origin.partition.0.to_le_bytes());
        bytes[16..24].copy_from_slice(&origin.offset.0.to_le_bytes());
        bytes[24..32].copy_from_slice(&origin.branch.to_le_bytes());
        bytes[32..36].copy_from_slice(&self.node.0.to_le_bytes());
        bytes[36..].copy_from_slice(&count.to_le_bytes());
        bytes
    }
}

/// The partition that the code of a stage runs on, for topology `O`. Passed by value.
pub struct At<'a, O> {
    context: &'a Context<'a>,
    owner: PhantomData<fn() -> O>,
}

impl<O> Clone for At<'_, O> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<O> Copy for At<'_, O> {}

impl<O> std::fmt::Debug for At<'_, O> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("At").field("partition", &self.partition()).finish()
    }
}

impl<'a, O> At<'a, O> {
    pub(crate) fn new(context: &'a Context<'a>) -> Self {
        Self { context, owner: PhantomData }
    }

    pub(crate) fn context(self) -> &'a Context<'a> {
        self.context
    }

    /// The partition's number.
    #[must_use]
    pub fn partition(self) -> PartitionId {
        self.context.partition
    }

    /// The time the microbatch began; the same in every attempt.
    #[must_use]
    pub fn now(self) -> WallTime {
        self.context.local.now()
    }

    /// A random number. The same in every attempt, whatever else happens at the same time: it is made
    /// of the microbatch, the record, the row's way through the graph, and how many were drawn before.
    #[must_use]
    pub fn random(self) -> u64 {
        xxh3_64(&self.context.draw())
    }

    /// An id that no other call returns, in this topology or another. The same in every attempt, as
    /// [`At::random`] is.
    #[must_use]
    pub fn unique_id(self) -> u128 {
        xxh3_128(&self.context.draw())
    }
    /// Does something outside of the engine, like telling another service what happened. Not in a
    /// [recompute](crate::recompute), which answers with `None` at once: what its records have to do with others was
    /// done when they were processed first.
    ///
    /// So state must not depend on the answer, or it could not be recomputed: have it appended to a depot and
    /// process it from there. A microbatch that is tried again calls again; [`At::unique_id`], drawn before, tells
    /// whoever is called that it is the same one.
    ///
    /// ```
    /// # use tidemill::module::{Module, define};
    /// # use tidemill::topology::Failure;
    /// # async fn send_mail(id: u128, to: String) -> Result<(), std::io::Error> { Ok(()) }
    /// # fn club(m: &Module) {
    /// # let joined = m.depot::<String>("joined").hash_by(|name| name);
    /// # let greeting = m.microbatch(|| "greeting");
    /// greeting.source(joined).for_each(async |at, name: String| {
    ///     let id = at.unique_id();
    ///     match at.outside(send_mail(id, name)).await {
    ///         Some(Err(error)) => Err(Failure::retry(error)),
    ///         Some(Ok(())) | None => Ok(()),
    ///     }
    /// });
    /// # }
    /// # define("club", club).unwrap();
    /// ```
    pub async fn outside<T>(self, call: impl Future<Output = T>) -> Option<T> {
        if self.context.local.is_recompute() { None } else { Some(call.await) }
    }
}
