//! Hops: the end of an event that sends its rows to other partitions.

use std::cell::{Cell, RefCell};
use std::future::{Future, ready};
use std::marker::PhantomData;

use super::chain::{Sink, done};
use super::run::Traced;
use super::{At, Context, Done, NodeIndex, Outgoing, Result, Rows};
use crate::codec::{EncodeKey, Placement, key::encode_key};
use crate::module::{DepotIndex, PlacedBy};
use crate::types::PartitionId;

macro_rules! opaque_debug {
    ($($name:ident<$($param:ident),*>),* $(,)?) => {$(
        impl<$($param),*> std::fmt::Debug for $name<$($param),*> {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(stringify!($name))
            }
        }
    )*};
}

opaque_debug!(ByValue<F, K>, HopSink<R, T>, Buckets<T>);

/// What can leave a partition: rows that another shard, or another node, goes on with.
#[diagnostic::on_unimplemented(
    message = "rows of type `{Self}` cannot move to another partition",
    note = "a row that hops is `Send`, `'static`, and serde's `Serialize` and `Deserialize`"
)]
pub trait Row: serde::Serialize + serde::de::DeserializeOwned + Send + 'static {}

#[diagnostic::do_not_recommend]
impl<T: serde::Serialize + serde::de::DeserializeOwned + Send + 'static> Row for T {}

/// Chooses where a row goes.
pub trait Route<T>: Send + Sync + 'static {
    /// Calls `send` with the row for each partition it goes to.
    fn route(&self, row: T, context: &Context<'_>, send: impl FnMut(PartitionId, T));
}

/// `hash_by`: where a key that is part of the row lives.
pub struct ByKey<F, K: ?Sized> {
    pub(crate) key: F,
    pub(crate) types: PhantomData<fn(&K)>,
}

impl<F, K: ?Sized> std::fmt::Debug for ByKey<F, K> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ByKey")
    }
}

impl<T, K: EncodeKey + ?Sized + 'static, F> Route<T> for ByKey<F, K>
where
    F: Fn(&T) -> &K + Send + Sync + 'static,
{
    fn route(&self, row: T, context: &Context<'_>, mut send: impl FnMut(PartitionId, T)) {
        let place = Placement::of(&encode_key((self.key)(&row)));
        send(place.partition(context.local().partitions()), row);
    }
}

/// `hash_by_value`: where a key made of the row lives.
pub struct ByValue<F, K> {
    pub(crate) key: F,
    pub(crate) types: PhantomData<fn() -> K>,
}

impl<T, K: EncodeKey + 'static, F> Route<T> for ByValue<F, K>
where
    F: Fn(&T) -> K + Send + Sync + 'static,
{
    fn route(&self, row: T, context: &Context<'_>, mut send: impl FnMut(PartitionId, T)) {
        let place = Placement::of(&encode_key(&(self.key)(&row)));
        send(place.partition(context.local().partitions()), row);
    }
}

/// `all`: every partition.
#[derive(Debug)]
pub struct Everywhere;

impl<T: Clone> Route<T> for Everywhere {
    fn route(&self, row: T, context: &Context<'_>, mut send: impl FnMut(PartitionId, T)) {
        let last = context.local().partitions() - 1;
        for partition in 0..last {
            send(PartitionId(partition), row.clone());
        }
        send(PartitionId(last), row);
    }
}

/// `global`: partition 0.
#[derive(Debug)]
pub struct Globally;

impl<T> Route<T> for Globally {
    fn route(&self, row: T, _context: &Context<'_>, mut send: impl FnMut(PartitionId, T)) {
        send(PartitionId(0), row);
    }
}

/// `append_to`: where a depot puts the record.
#[derive(Debug)]
pub struct Placed {
    pub(crate) placed_by: PlacedBy,
}

impl<T: 'static> Route<T> for Placed {
    fn route(&self, row: T, context: &Context<'_>, mut send: impl FnMut(PartitionId, T)) {
        let to = match &self.placed_by {
            PlacedBy::Hash(placer) => placer.place(&row).partition(context.local().partitions()),
            PlacedBy::Random => context.local().partition(),
            PlacedBy::Single => PartitionId(0),
        };
        send(to, row);
    }
}

/// Appends rows to the depot's partition they were sent to.
#[derive(Debug)]
pub(crate) struct AppendSink {
    pub(crate) depot: DepotIndex,
}

impl<O, T: Row> Sink<O, T> for AppendSink {
    type State = ();

    fn push<'a>(&'a self, (): &'a (), at: At<'a, O>, row: T) -> impl Future<Output = Result<()>> {
        ready(at.context().append(self.depot, &row).map_err(Into::into))
    }

    fn finish(&self, _context: &Context<'_>, (): (), _done: &mut Done) {}
}

/// Sorts rows by where they go.
pub struct HopSink<R, T> {
    pub(crate) route: R,
    pub(crate) node: NodeIndex,
    pub(crate) row: PhantomData<fn() -> T>,
}

/// The rows for each partition; those of partitions that nothing went to are empty.
pub struct Buckets<T> {
    rows: RefCell<Vec<Vec<Traced<T>>>>,
    count: Cell<usize>,
}

/// After every so many rows of one event it is asked whether there is room for more.
const ROWS_UNTOLD_MAX: usize = 4_096;

impl<T> Default for Buckets<T> {
    fn default() -> Self {
        Self { rows: RefCell::default(), count: Cell::default() }
    }
}

impl<T> Buckets<T> {
    pub(crate) fn push(&self, partitions: u32, to: PartitionId, row: Traced<T>) {
        self.count.set(self.count.get() + 1);
        let mut buckets = self.rows.borrow_mut();
        if buckets.is_empty() {
            buckets.resize_with(partitions as usize, Vec::new);
        }
        buckets[to.0 as usize].push(row);
    }

    pub(crate) fn send(self, node: NodeIndex, out: &mut Vec<Outgoing>)
    where
        T: Send + 'static,
    {
        for (to, rows) in (0..).zip(self.rows.into_inner()) {
            if !rows.is_empty() {
                out.push(Outgoing { node, to: PartitionId(to), rows: Rows::new(rows) });
            }
        }
    }
}

impl<O, T: Send + 'static, R: Route<T>> Sink<O, T> for HopSink<R, T> {
    type State = Buckets<T>;

    #[inline]
    fn push<'a>(
        &'a self,
        state: &'a Buckets<T>,
        at: At<'a, O>,
        row: T,
    ) -> impl Future<Output = Result<()>> {
        let context = at.context();
        let partitions = context.local().partitions();
        let before = state.count.get();
        self.route.route(row, context, |to, row| {
            state.push(partitions, to, Traced { origin: context.sent(), row });
        });
        let count = state.count.get();
        if before / ROWS_UNTOLD_MAX == count / ROWS_UNTOLD_MAX {
            return done();
        }
        let emitted = context.local().emitted(count * size_of::<Traced<T>>());
        ready(emitted.map_err(Into::into))
    }

    fn finish(&self, _context: &Context<'_>, state: Buckets<T>, done: &mut Done) {
        state.send(self.node, &mut done.outgoing);
    }
}
