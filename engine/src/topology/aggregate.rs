//! Aggregation: changes of one row are combined where they arise, travel once, and are applied where
//! the row lives.
//!
//! All changes of a row by one aggregator that arise on one shard in one microbatch become one partial, as
//! far as memory allows; see [`combine`](super::combine). With the hop the origins of rows are lost: a
//! failure while applying names no record.

use std::cell::RefCell;
use std::future::{Future, ready};
use std::marker::PhantomData;

use super::capture::NewValues;
use super::chain::Sink;
use super::combine::{Combined, Pending, Waiting};
use super::read::{fetch, index};
use super::run::{caught, failed, pause};
use super::token::Tokens;
use super::{
    At, Context, Done, Event, EventFailure, Local, NodeIndex, Result, Rows, StateError, list,
};
use crate::env::LocalFuture;
use crate::schema::aggregate::{Apply, How};
use crate::schema::{Change, Data, Owning};

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

    /// Ends a run of an event: what is waiting goes to `nodes`, once no more comes.
    fn leave(buffers: Self::Buffers, nodes: &[NodeIndex], done: &mut Done);

    /// The code of each node that applies them.
    fn events(each: &mut dyn FnMut(NewEvent));
}

/// Makes the code of a node, given its index and name.
pub type NewEvent = fn(NodeIndex, String) -> Box<dyn Event>;

impl<P: Data, O: Owning, S: 'static> Changes for Change<P, O, S> {
    type Owner = O::Writer;
    type Buffers = Waiting<P>;
    const NODES: usize = 1;

    fn collect(self, buffers: &mut Waiting<P>, context: &Context<'_>) -> Result<(), StateError> {
        let target = self.target.map_err(|error| context.refused("add to", error))?;
        let to = target.place.partition(context.local().partitions());
        let (pstate, key, partial, ops) = (target.pstate, target.key, self.partial, self.ops);
        buffers.add(to, Pending { pstate, key, partial, ops, tag: () });
        Ok(())
    }

    fn leave(buffers: Waiting<P>, nodes: &[NodeIndex], done: &mut Done) {
        let &[node] = nodes else { unreachable!("one change has one node") };
        done.changes.extend(Combined::new(node, buffers));
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

    fn leave(buffers: U::Buffers, nodes: &[NodeIndex], done: &mut Done) {
        U::leave(buffers, nodes, done);
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

    fn leave(buffers: U::Buffers, nodes: &[NodeIndex], done: &mut Done) {
        U::leave(buffers, nodes, done);
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

            fn leave(buffers: Self::Buffers, nodes: &[NodeIndex], done: &mut Done) {
                let rest = nodes;
                $(
                    let (nodes, rest) = rest.split_at($change::NODES);
                    $change::leave(buffers.$at, nodes, done);
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

    fn finish(&self, _context: &Context<'_>, state: Self::State, done: &mut Done) {
        U::leave(state.into_inner(), &self.nodes, done);
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
                apply_all(&context, rows.take::<Pending<P>>(), None).await?;
                Ok(context.settle().await?)
            });
            let applied = applied.await;
            applied.map_err(|failure| failed(&self.name, &context, failure))?;
            Ok(Done::default())
        })
    }
}

/// Applies changes in their order; what is written to the row of each is added to `captured`, if there is one.
pub(super) async fn apply_all<P: 'static, K>(
    context: &Context<'_>,
    changes: Vec<Pending<P, K>>,
    mut captured: Option<&mut NewValues<K>>,
) -> Result<()> {
    let local = context.local();
    prefetch(local, &changes).await?;
    let (mut old, mut scratch, mut new) = (Vec::new(), Vec::new(), None);
    for (nth, Pending { pstate, key, partial, ops, tag }) in changes.into_iter().enumerate() {
        pause(local, nth).await;
        let refused = |error| context.codec_error(pstate, error);
        let (reads_old, apply) = match ops.how {
            How::Rows { reads_old, apply } => (reads_old, apply),
            How::Append { items } => {
                let items = items(local.fields(), partial).map_err(refused)?;
                list::append(context, pstate, &key, &items).await?;
                continue;
            }
        };
        let mut is_there = false;
        if reads_old {
            // Copied, so that nothing of the partition is borrowed while it is written.
            is_there = fetch(context, pstate, &key, |value| {
                old.clear();
                old.extend_from_slice(value.unwrap_or_default());
                value.is_some()
            })
            .await?;
        }
        let (mut written, target, captures) = (Ok(()), key.as_slice(), captured.is_some());
        let mut write = |key: &[u8], value: Option<&[u8]>| {
            if written.is_ok() {
                let was_there = (reads_old && key == target).then_some(is_there);
                written = match value {
                    Some(value) => context.put(index(pstate), key, value, was_there),
                    None => context.delete(index(pstate), key, was_there),
                };
            }
            if captures && key == target {
                new = value.map(<[u8]>::to_vec);
            }
        };
        let to = Apply {
            table: local.fields(),
            key: &key,
            old: is_there.then_some(old.as_slice()),
            scratch: &mut scratch,
            write: &mut write,
        };
        apply(to, partial).map_err(refused)?;
        written?;
        if let Some(captured) = &mut captured {
            captured.note((pstate, key), new.take(), tag);
        }
    }
    Ok(())
}

/// Has all rows that will be read fetched at once. Changes of one `PState` follow each other, as a rule.
async fn prefetch<P: 'static, K>(
    local: &dyn Local,
    changes: &[Pending<P, K>],
) -> Result<(), StateError> {
    for group in changes.chunk_by(|a, b| a.pstate == b.pstate) {
        let read = group.iter().filter(|change| match change.ops.how {
            How::Rows { reads_old, .. } => reads_old,
            How::Append { .. } => true,
        });
        let keys: Vec<&[u8]> = read.map(|change| change.key.as_slice()).collect();
        if let (Some(first), false) = (group.first(), keys.is_empty()) {
            local.prefetch(index(first.pstate), &keys).await?;
        }
    }
    Ok(())
}
