//! Going on behind an aggregation, with what it made of the rows that it changed.
//!
//! The partials travel as those of [`aggregate`](super::aggregate) do, each with the key that the flow goes
//! on with. Where they are applied, the new value of each row is kept, and when all of a batch are applied,
//! they become the rows of the rest of the event: in the order of each row's first change.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::future::{Future, ready};
use std::marker::PhantomData;

use super::aggregate::apply_all;
use super::chain::Sink;
use super::combine::{Combined, Pending, Waiting};
use super::run::Traced;
use super::token::Tokens;
use super::{At, Context, Done, Failure, NodeIndex, Origin, Result, Rows, StateError};
use crate::codec::{self, FieldTable, KeyBuf, decode};
use crate::env::LocalFuture;
use crate::schema::{Change, Data, Initial, Initially, Owning};
use crate::types::PStateId;

/// What the closure of `aggregate_into` returns: a key and a change of one value, `(key, path.add(Sum(x)))`;
/// or an `Option` or a `Vec` of these.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a change whose new value the flow can go on with",
    label = "not a key with a change of one value",
    note = "`aggregate_into` takes a closure that returns `(key, token.key(k).add(Sum(x)))`, or an `Option` or \
            a `Vec` of these; the flow goes on with the key and the new value"
)]
pub trait Captures: 'static {
    /// Who may make the changes.
    type Owner;
    /// What the flow goes on with.
    type Row: Send + 'static;
    /// What is waiting to travel.
    type Buffer: Default;

    /// Combines them with what is waiting.
    ///
    /// # Errors
    /// [`StateError::Refused`] if a path is none.
    fn collect(self, buffer: &mut Self::Buffer, context: &Context<'_>) -> Result<(), StateError>;

    /// Ends a run of an event: what is waiting goes to `node`, once no more comes.
    fn leave(buffer: Self::Buffer, node: NodeIndex, done: &mut Done);

    /// Applies what came, and gives the new values.
    #[doc(hidden)]
    #[allow(private_interfaces, reason = "called by the builder only")]
    fn apply<'a>(
        rows: Rows,
        context: &'a Context<'a>,
    ) -> LocalFuture<'a, Result<Vec<Traced<Self::Row>>>>;
}

/// What has one value, which is new after an addition.
#[diagnostic::on_unimplemented(
    message = "a flow cannot go on with what is stored here, a `{Self}`: it is not one value",
    label = "has no single new value",
    note = "`aggregate_into` goes on with the new value of one row; what is added to a `Sub` goes to rows of its \
            elements: add to one of them, by `.key(k).add(..)`, or use `aggregate`"
)]
pub trait OneValue: 'static {
    /// How the flow gets it.
    type New: Send + 'static;

    /// Reads what the row holds, if it is there.
    #[doc(hidden)]
    fn read_new(table: &FieldTable, stored: Option<&[u8]>) -> codec::Result<Self::New>;
}

/// None if the row was removed.
#[diagnostic::do_not_recommend]
impl<V: Data> OneValue for V {
    type New = Option<V>;

    fn read_new(table: &FieldTable, stored: Option<&[u8]>) -> codec::Result<Option<V>> {
        stored.map(|value| decode(table, value)).transpose()
    }
}

/// The initial value, if the row was removed.
impl<I: Initial> OneValue for Initially<I> {
    type New = I::Value;

    fn read_new(table: &FieldTable, stored: Option<&[u8]>) -> codec::Result<I::Value> {
        Self::read(table, stored)
    }
}

impl<K: Data, P: Data, O: Owning, S: OneValue> Captures for (K, Change<P, O, S>) {
    type Owner = O::Writer;
    type Row = (K, S::New);
    type Buffer = Waiting<P, (Origin, K)>;

    fn collect(self, buffer: &mut Self::Buffer, context: &Context<'_>) -> Result<(), StateError> {
        let (tag, change) = self;
        let target = change.target.map_err(|error| context.refused("add to", error))?;
        let to = target.place.partition(context.local().partitions());
        let (pstate, key, partial, ops) = (target.pstate, target.key, change.partial, change.ops);
        let tag = (context.sent().of_many(), tag);
        buffer.add(to, Pending { pstate, key, partial, ops, tag });
        Ok(())
    }

    fn leave(buffer: Self::Buffer, node: NodeIndex, done: &mut Done) {
        done.changes.extend(Combined::new(node, buffer));
    }

    #[allow(private_interfaces, reason = "called by the builder only")]
    fn apply<'a>(
        rows: Rows,
        context: &'a Context<'a>,
    ) -> LocalFuture<'a, Result<Vec<Traced<Self::Row>>>> {
        Box::pin(async move {
            let changes: Vec<Pending<P, (Origin, K)>> = rows.take();
            let mut captured = NewValues::default();
            apply_all(context, changes, Some(&mut captured)).await?;
            let fields = context.local().fields();
            let decoded = captured.rows.into_iter().map(|new| {
                let value = S::read_new(fields, new.value.as_deref());
                let value = value.map_err(|error| context.undecodable(new.pstate, error))?;
                let (origin, key) = new.tag;
                Ok::<_, Failure>(Traced { origin, row: (key, value) })
            });
            decoded.collect()
        })
    }
}

/// A change that is made only sometimes.
impl<U: Captures> Captures for Option<U> {
    type Owner = U::Owner;
    type Row = U::Row;
    type Buffer = U::Buffer;

    fn collect(self, buffer: &mut U::Buffer, context: &Context<'_>) -> Result<(), StateError> {
        self.map_or(Ok(()), |change| change.collect(buffer, context))
    }

    fn leave(buffer: U::Buffer, node: NodeIndex, done: &mut Done) {
        U::leave(buffer, node, done);
    }

    #[allow(private_interfaces, reason = "called by the builder only")]
    fn apply<'a>(
        rows: Rows,
        context: &'a Context<'a>,
    ) -> LocalFuture<'a, Result<Vec<Traced<U::Row>>>> {
        U::apply(rows, context)
    }
}

/// Any number of changes, in their order.
impl<U: Captures> Captures for Vec<U> {
    type Owner = U::Owner;
    type Row = U::Row;
    type Buffer = U::Buffer;

    fn collect(self, buffer: &mut U::Buffer, context: &Context<'_>) -> Result<(), StateError> {
        self.into_iter().try_for_each(|change| change.collect(buffer, context))
    }

    fn leave(buffer: U::Buffer, node: NodeIndex, done: &mut Done) {
        U::leave(buffer, node, done);
    }

    #[allow(private_interfaces, reason = "called by the builder only")]
    fn apply<'a>(
        rows: Rows,
        context: &'a Context<'a>,
    ) -> LocalFuture<'a, Result<Vec<Traced<U::Row>>>> {
        U::apply(rows, context)
    }
}

/// What the rows that a batch of changes was applied to hold now.
pub(super) struct NewValues<K> {
    /// In the order of each row's first change.
    rows: Vec<NewValue<K>>,
    places: BTreeMap<(PStateId, KeyBuf), usize>,
}

struct NewValue<K> {
    pstate: PStateId,
    value: Option<Vec<u8>>,
    tag: K,
}

impl<K> Default for NewValues<K> {
    fn default() -> Self {
        Self { rows: Vec::new(), places: BTreeMap::new() }
    }
}

impl<K> NewValues<K> {
    /// The row holds `value` now; `tag` comes with the change.
    pub(super) fn note(&mut self, row: (PStateId, KeyBuf), value: Option<Vec<u8>>, tag: K) {
        let pstate = row.0;
        let place = *self.places.entry(row).or_insert(self.rows.len());
        match self.rows.get_mut(place) {
            Some(there) => there.value = value,
            None => self.rows.push(NewValue { pstate, value, tag }),
        }
    }
}

/// Makes changes of rows and combines them, with the keys of their new values.
pub struct CaptureSink<P, F, U> {
    pub(crate) tokens: P,
    pub(crate) f: F,
    pub(crate) node: NodeIndex,
    pub(crate) changes: PhantomData<fn() -> U>,
}

impl<P, F, U> std::fmt::Debug for CaptureSink<P, F, U> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CaptureSink").field("node", &self.node).finish_non_exhaustive()
    }
}

impl<O: 'static, T: 'static, P, F, U> Sink<O, T> for CaptureSink<P, F, U>
where
    P: Tokens,
    F: Fn(P, T) -> U + Send + Sync + 'static,
    U: Captures,
{
    type State = RefCell<U::Buffer>;

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
        U::leave(state.into_inner(), self.node, done);
    }
}
