//! Aggregation: changes of one row are combined where they arise, travel once, and are applied where
//! the row lives.
//!
//! In one run of an event, all changes of a row by one aggregator become one partial. Partials of a row
//! stay in order where aggregators differ, so combining is never seen in the result. With the hop the
//! origins of rows are lost: a failure while applying names no record.

use std::cell::RefCell;
use std::future::{Future, ready};
use std::marker::PhantomData;

use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::chain::Sink;
use super::read::{fetch, index};
use super::run::{caught, failed, pause};
use super::token::Tokens;
use super::{
    At, Context, Done, Event, EventFailure, Local, NodeIndex, Outgoing, Result, Rows, StateError,
};
use crate::codec::KeyBuf;
use crate::env::LocalFuture;
use crate::schema::aggregate::{Apply, ChangeOps};
use crate::schema::{Change, Data, Owning};
use crate::types::{PStateId, PartitionId};

/// What the closure of `aggregate` returns: a change, `path.add(Sum(x))`; a tuple of up to eight of
/// changes, options and lists; an `Option` or a `Vec` of one of these.
///
/// Changes of one row that the same place of the tuple makes are applied in the order of the rows that
/// they are made of. Those of different places travel apart and are applied in any order.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a change to a PState",
    label = "not a change",
    note = "`aggregate` takes a closure that returns `token.key(k).add(Sum(x))`, or a tuple, an `Option` \
            or a `Vec` of these"
)]
pub trait Changes: 'static {
    /// Who may make them.
    type Owner;
    /// What is waiting to travel.
    type Buffers: Default;
    /// How many nodes apply them: one for each change of a tuple.
    const NODES: usize;

    /// Combines them with what is waiting.
    ///
    /// # Errors
    /// [`StateError::Refused`] if a path is none.
    fn collect(self, buffers: &mut Self::Buffers, context: &Context<'_>) -> Result<(), StateError>;

    /// Sends what is waiting to `nodes`.
    fn send(buffers: Self::Buffers, nodes: &[NodeIndex], partitions: u32, out: &mut Vec<Outgoing>);

    /// The code of each node that applies them.
    fn events(each: &mut dyn FnMut(NewEvent));
}

/// Makes the code of a node, given its index and name.
pub type NewEvent = fn(NodeIndex, String) -> Box<dyn Event>;

impl<P: Data, O: Owning> Changes for Change<P, O> {
    type Owner = O::Writer;
    type Buffers = Waiting<P>;
    const NODES: usize = 1;

    fn collect(self, buffers: &mut Waiting<P>, context: &Context<'_>) -> Result<(), StateError> {
        let target = self.target.map_err(|error| context.refused("add to", error))?;
        let to = target.place.partition(context.local().partitions());
        let (pstate, key, partial, ops) = (target.pstate, target.key, self.partial, self.ops);
        buffers.add(to, Pending { pstate, key, partial, ops });
        Ok(())
    }

    fn send(buffers: Waiting<P>, nodes: &[NodeIndex], partitions: u32, out: &mut Vec<Outgoing>) {
        let &[node] = nodes else { unreachable!("one change has one node") };
        buffers.send(node, partitions, out);
    }

    fn events(each: &mut dyn FnMut(NewEvent)) {
        each(|node, name| Box::new(Applied::<P> { node, name, partial: PhantomData }));
    }
}

/// A change that is made only sometimes.
impl<U: Changes> Changes for Option<U> {
    type Owner = U::Owner;
    type Buffers = U::Buffers;
    const NODES: usize = U::NODES;

    fn collect(self, buffers: &mut U::Buffers, context: &Context<'_>) -> Result<(), StateError> {
        self.map_or(Ok(()), |changes| changes.collect(buffers, context))
    }

    fn send(buffers: U::Buffers, nodes: &[NodeIndex], partitions: u32, out: &mut Vec<Outgoing>) {
        U::send(buffers, nodes, partitions, out);
    }

    fn events(each: &mut dyn FnMut(NewEvent)) {
        U::events(each);
    }
}

/// Any number of changes, in their order.
impl<U: Changes> Changes for Vec<U> {
    type Owner = U::Owner;
    type Buffers = U::Buffers;
    const NODES: usize = U::NODES;

    fn collect(self, buffers: &mut U::Buffers, context: &Context<'_>) -> Result<(), StateError> {
        self.into_iter().try_for_each(|changes| changes.collect(buffers, context))
    }

    fn send(buffers: U::Buffers, nodes: &[NodeIndex], partitions: u32, out: &mut Vec<Outgoing>) {
        U::send(buffers, nodes, partitions, out);
    }

    fn events(each: &mut dyn FnMut(NewEvent)) {
        U::events(each);
    }
}

macro_rules! tuples {
    ($($change:ident $at:tt),*) => {
        impl<O, $($change: Changes<Owner = O>),*> Changes for ($($change,)*) {
            type Owner = O;
            type Buffers = ($($change::Buffers,)*);
            const NODES: usize = 0 $(+ $change::NODES)*;

            fn collect(
                self,
                buffers: &mut Self::Buffers,
                context: &Context<'_>,
            ) -> Result<(), StateError> {
                $(self.$at.collect(&mut buffers.$at, context)?;)*
                Ok(())
            }

            fn send(
                buffers: Self::Buffers,
                nodes: &[NodeIndex],
                partitions: u32,
                out: &mut Vec<Outgoing>,
            ) {
                let rest = nodes;
                $(
                    let (nodes, rest) = rest.split_at($change::NODES);
                    $change::send(buffers.$at, nodes, partitions, out);
                )*
                assert!(rest.is_empty());
            }

            fn events(each: &mut dyn FnMut(NewEvent)) {
                $($change::events(each);)*
            }
        }
    };
}

tuples!(A 0, B 1);
tuples!(A 0, B 1, C 2);
tuples!(A 0, B 1, C 2, D 3);
tuples!(A 0, B 1, C 2, D 3, E 4);
tuples!(A 0, B 1, C 2, D 3, E 4, F 5);
tuples!(A 0, B 1, C 2, D 3, E 4, F 5, G 6);
tuples!(A 0, B 1, C 2, D 3, E 4, F 5, G 6, H 7);

/// A change on its way.
struct Pending<P: 'static> {
    pstate: PStateId,
    key: KeyBuf,
    partial: P,
    ops: &'static ChangeOps<P>,
}

/// Changes of one run, combined by row: in the order of their first change, found by an open-addressed
/// table of places in it.
pub struct Waiting<P: 'static> {
    changes: Vec<(u64, PartitionId, Pending<P>)>,
    /// 0 is free, else a place in `changes` plus 1: of the latest change of a row. At most half full.
    slots: Vec<u32>,
}

impl<P: 'static> Default for Waiting<P> {
    fn default() -> Self {
        Self { changes: Vec::new(), slots: Vec::new() }
    }
}

impl<P: 'static> std::fmt::Debug for Waiting<P> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Waiting").field("changes", &self.changes.len()).finish_non_exhaustive()
    }
}

impl<P: 'static> Waiting<P> {
    fn add(&mut self, to: PartitionId, new: Pending<P>) {
        if self.slots.len() < 2 * (self.changes.len() + 1) {
            self.grow();
        }
        let hash = xxh3_64_with_seed(&new.key, u64::from(new.pstate.0));
        let slot = self.slot(hash, |pending| {
            pending.pstate == new.pstate && pending.key.as_slice() == new.key.as_slice()
        });
        let latest = self.slots[slot] as usize;
        if let Some((_, _, before)) = latest.checked_sub(1).and_then(|at| self.changes.get_mut(at))
        {
            // Another aggregator's change of the row must stay between those before and after it, and a
            // partial that is full takes no more.
            let is_full = || new.ops.must_flush.is_some_and(|is_full| is_full(&before.partial));
            if std::ptr::eq(before.ops, new.ops) && !is_full() {
                (new.ops.combine)(&mut before.partial, new.partial);
                return;
            }
        }
        self.changes.push((hash, to, new));
        self.slots[slot] = place(self.changes.len());
    }

    /// The slot of a row, or the free one where it belongs.
    fn slot(&self, hash: u64, is_it: impl Fn(&Pending<P>) -> bool) -> usize {
        let mask = self.slots.len() - 1;
        let mut slot = usize::try_from(hash & mask as u64).expect("below a length");
        loop {
            match (self.slots[slot] as usize).checked_sub(1) {
                None => return slot,
                Some(at) => {
                    let (other, _, pending) = &self.changes[at];
                    if *other == hash && is_it(pending) {
                        return slot;
                    }
                }
            }
            slot = (slot + 1) & mask;
        }
    }

    #[cold]
    fn grow(&mut self) {
        self.slots = vec![0; (2 * self.slots.len()).max(64)];
        for at in 0..self.changes.len() {
            let (hash, _, new) = &self.changes[at];
            let slot = self.slot(*hash, |pending| {
                pending.pstate == new.pstate && pending.key.as_slice() == new.key.as_slice()
            });
            self.slots[slot] = place(at + 1);
        }
    }

    fn send(self, node: NodeIndex, partitions: u32, out: &mut Vec<Outgoing>)
    where
        P: Data,
    {
        let mut buckets = Vec::new();
        buckets.resize_with(partitions as usize, Vec::new);
        for (_, to, pending) in self.changes {
            buckets[to.0 as usize].push(pending);
        }
        for (to, changes) in (0..).zip(buckets) {
            if !changes.is_empty() {
                out.push(Outgoing { node, to: PartitionId(to), rows: Rows::new(changes) });
            }
        }
    }
}

fn place(count: usize) -> u32 {
    u32::try_from(count).expect("a run has fewer than 2^32 changes")
}

/// Makes changes of rows and combines them.
pub struct AggregateSink<P, F, U> {
    pub(crate) tokens: P,
    pub(crate) f: F,
    pub(crate) nodes: Vec<NodeIndex>,
    pub(crate) changes: PhantomData<fn() -> U>,
}

impl<P, F, U> std::fmt::Debug for AggregateSink<P, F, U> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AggregateSink").field("nodes", &self.nodes).finish_non_exhaustive()
    }
}

impl<O: 'static, T: 'static, P, F, U> Sink<O, T> for AggregateSink<P, F, U>
where
    P: Tokens,
    F: Fn(P, T) -> U + Send + Sync + 'static,
    U: Changes,
{
    type State = RefCell<U::Buffers>;

    #[inline]
    fn push<'a>(
        &'a self,
        state: &'a Self::State,
        at: At<'a, O>,
        row: T,
    ) -> impl Future<Output = Result<()>> {
        let changes = (self.f)(self.tokens, row);
        ready(changes.collect(&mut state.borrow_mut(), at.context()).map_err(Into::into))
    }

    fn finish(&self, context: &Context<'_>, state: Self::State, out: &mut Vec<Outgoing>) {
        U::send(state.into_inner(), &self.nodes, context.local().partitions(), out);
    }
}

/// Applies changes.
struct Applied<P> {
    node: NodeIndex,
    name: String,
    partial: PhantomData<fn() -> P>,
}

impl<P: Data> Event for Applied<P> {
    fn run<'a>(
        &'a self,
        local: &'a dyn Local,
        rows: Rows,
    ) -> LocalFuture<'a, Result<Done, EventFailure>> {
        Box::pin(async move {
            let context = Context::new(local, self.node);
            let applied = caught(async {
                apply_all::<P>(&context, rows.take()).await?;
                Ok(context.settle().await?)
            });
            let applied = applied.await;
            applied.map_err(|failure| failed(&self.name, &context, failure))?;
            Ok(Done::default())
        })
    }
}

async fn apply_all<P: 'static>(context: &Context<'_>, changes: Vec<Pending<P>>) -> Result<()> {
    let local = context.local();
    prefetch(local, &changes).await?;
    let (mut old, mut scratch) = (Vec::new(), Vec::new());
    for (nth, Pending { pstate, key, partial, ops }) in changes.into_iter().enumerate() {
        pause(local, nth).await;
        let mut is_there = false;
        if ops.reads_old {
            // Copied, so that nothing of the partition is borrowed while it is written.
            is_there = fetch(context, pstate, &key, |value| {
                old.clear();
                old.extend_from_slice(value.unwrap_or_default());
                value.is_some()
            })
            .await?;
        }
        let (mut written, target) = (Ok(()), key.as_slice());
        let mut write = |key: &[u8], value: Option<&[u8]>| {
            if written.is_ok() {
                let was_there = (ops.reads_old && key == target).then_some(is_there);
                written = match value {
                    Some(value) => context.put(index(pstate), key, value, was_there),
                    None => context.delete(index(pstate), key, was_there),
                };
            }
        };
        let apply = Apply {
            table: local.fields(),
            key: &key,
            old: is_there.then_some(old.as_slice()),
            scratch: &mut scratch,
            write: &mut write,
        };
        (ops.apply)(apply, partial).map_err(|error| context.codec_error(pstate, error))?;
        written?;
    }
    Ok(())
}

/// Has all rows that will be read fetched at once. Changes of one `PState` follow each other, as a rule.
async fn prefetch<P: 'static>(local: &dyn Local, changes: &[Pending<P>]) -> Result<(), StateError> {
    for group in changes.chunk_by(|a, b| a.pstate == b.pstate) {
        let read = group.iter().filter(|change| change.ops.reads_old);
        let keys: Vec<&[u8]> = read.map(|change| change.key.as_slice()).collect();
        if let (Some(first), false) = (group.first(), keys.is_empty()) {
            local.prefetch(index(first.pstate), &keys).await?;
        }
    }
    Ok(())
}
