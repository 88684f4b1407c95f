//! Reads and writes of an event: typed paths in, encoded keys and values out.
//!
//! The methods of [`At`] forward to functions that know neither owner nor path, so that topologies share
//! the code. A read whose row is in memory allocates nothing and is ready at once.

use std::future::Future;
use std::ops::ControlFlow;
use std::pin::Pin;
use std::task::{Context as Task, Poll};

use super::{Access, At, Context, Row, Scan, StateError, list};
use crate::codec::{self, FieldTable, KeyBuf};
use crate::env::LocalFuture;
use crate::module::{DepotIndex, PStateIndex};
use crate::schema::path::{Blind, Elements};
use crate::schema::plan::{RangeOp, RowRead};
use crate::schema::{
    Answer, Direct, Initial, Initially, Many, One, OwnedBy, Path, Position, ReadOp, ReadPlan,
    Reads, Removal, Rows, Select, Stored, Target, Written,
};
use crate::types::PStateId;

mod query;
mod steps;

pub use query::QueryError;

impl<'a, O> At<'a, O> {
    /// Reads what a path, or a tuple of paths under one first key, leads to. Sees what this topology
    /// has written before, in this microbatch and earlier ones; of another topology's `PState`s, what is
    /// visible. A range over first keys gives those of this partition.
    ///
    /// # Errors
    /// [`StateError::Misplaced`] if the first key lives elsewhere; [`StateError::Unavailable`].
    #[inline]
    pub fn get<P: Select + 'a>(self, path: P) -> Read<'a, P::Out>
    where
        P::Out: 'a,
    {
        let context = self.context();
        // A size may be asked for that is not written yet.
        let Some(row) = path.row().filter(|_| context.sizes().is_settled()) else {
            return read(context, path.reads(), P::decode);
        };
        Read(match read_row::<P>(context, row) {
            Ok(Ok(out)) => State::Now(Some(Ok(out))),
            Ok(Err(fetched)) => State::Later(Box::pin(read_after(context, fetched, path))),
            Err(error) => State::Now(Some(Err(error))),
        })
    }

    /// Writes one value. Never waits. Reads nothing, unless a collection around the value keeps its
    /// [size](crate::schema::sizes): then it looks whether the key is there, in memory or else when the event
    /// ends.
    ///
    /// # Errors
    /// [`StateError::Misplaced`] if the first key lives elsewhere; [`StateError::Refused`] if key or
    /// value are too long; [`StateError::Unavailable`].
    #[inline]
    #[allow(clippy::needless_pass_by_value, reason = "a literal or a computed value, as a rule")]
    pub fn put<S: Stored, M: Direct, O2: OwnedBy<O>>(
        self,
        path: Path<S, M, O2>,
        value: S::Value,
    ) -> Result<(), StateError> {
        let context = self.context();
        let target = path.target().map_err(|error| context.refused("put into", error))?;
        context.check_target("put into", &target)?;
        context.put_with(&target, None, |fields, out| S::write(fields, &value, out))
    }

    /// Deletes what a path leads to; of a `Sub` collection, all that is in it. It need not exist. Costs a read
    /// where [`At::put`] does: one, however much is deleted.
    ///
    /// # Errors
    /// As [`At::put`].
    pub fn delete<S: Position, M: Direct, O2: OwnedBy<O>>(
        self,
        path: Path<S, M, O2>,
    ) -> Result<(), StateError> {
        self.context().remove(path.removal())
    }

    /// Lets a value be its [initial](crate::schema::Initial) one again. Reads nothing.
    ///
    /// # Errors
    /// As [`At::put`].
    pub fn reset<I: Initial, O2: OwnedBy<O>>(
        self,
        path: Path<Initially<I>, One, O2>,
    ) -> Result<(), StateError> {
        self.context().remove(path.target().map(Removal::Row))
    }

    /// Deletes all elements of a range, without reading any; where a collection keeps its size, that is
    /// [`At::remove_range`]. A range over first keys deletes those of this partition.
    ///
    /// # Errors
    /// As [`At::put`].
    ///
    /// # Panics
    /// If the path has a limit: which elements that leaves is known only to a reader.
    pub fn delete_range<S: Blind, O2: OwnedBy<O>>(
        self,
        path: Path<S, Many, O2>,
    ) -> Result<(), StateError> {
        self.context().remove_blindly(path.rows())
    }

    /// Deletes the elements of a range, and says how many there were: it reads their keys, and then deletes the
    /// range at once. With `limit` the first ones, or with `reverse` the last. A range over first keys deletes
    /// those of this partition.
    ///
    /// # Errors
    /// As [`At::get`] and [`At::put`].
    pub async fn remove_range<S: Elements, O2: OwnedBy<O>>(
        self,
        path: Path<S, Many, O2>,
    ) -> Result<u64, StateError> {
        self.context().remove_range(path.rows()).await
    }

    /// Replaces a value by what `change` makes of it; `None` is no value, before and after. What has an
    /// [initial](crate::schema::Initial) value is never `None`, and an element of a set is there or not.
    ///
    /// # Errors
    /// As [`At::get`] and [`At::put`].
    pub async fn update<S: Stored, M: Direct, O2: OwnedBy<O>>(
        self,
        path: Path<S, M, O2>,
        change: impl FnOnce(S::Held) -> S::Held,
    ) -> Result<(), StateError> {
        update::<S>(self.context(), path.target(), change).await
    }
}

/// A read that is under way; await it.
#[must_use = "reads nothing unless awaited"]
pub struct Read<'a, Out>(State<'a, Out>);

enum State<'a, Out> {
    /// What was asked for was in memory. An error is boxed: what is moved on the way of every read is as large
    /// as what is read, and not as the largest error.
    Now(Option<Result<Out, Box<StateError>>>),
    /// It has to be fetched first, or is more than one row.
    Later(LocalFuture<'a, Result<Out, StateError>>),
}

impl<Out> std::fmt::Debug for Read<'_, Out> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Read")
    }
}

// Nothing in it is pinned in place: the other future is pinned in its box.
impl<Out> Unpin for Read<'_, Out> {}

impl<Out> Future for Read<'_, Out> {
    type Output = Result<Out, StateError>;

    #[inline]
    fn poll(mut self: Pin<&mut Self>, task: &mut Task<'_>) -> Poll<Self::Output> {
        match &mut self.0 {
            State::Now(out) => match out.take().expect("not polled after it was ready") {
                Ok(out) => Poll::Ready(Ok(out)),
                Err(error) => unboxed(error),
            },
            State::Later(future) => future.as_mut().poll(task),
        }
    }
}

/// Apart, so that what is read is not moved through as much memory as an error takes.
#[cold]
#[inline(never)]
#[allow(clippy::boxed_local, reason = "what comes in is in a box")]
fn unboxed<Out>(error: Box<StateError>) -> Poll<Result<Out, StateError>> {
    Poll::Ready(Err(*error))
}

type Decode<Out> = fn(&FieldTable, &[ReadPlan], &[Answer<'_>]) -> codec::Result<Out>;

/// Reads whatever is not one row that can be read in place.
fn read<'a, Out: 'a>(
    context: &'a Context<'a>,
    reads: codec::Result<Reads>,
    decode: Decode<Out>,
) -> Read<'a, Out> {
    let reads = match reads {
        Ok(reads) => reads,
        Err(error) => {
            return Read(State::Now(Some(Err(Box::new(context.refused("read", error))))));
        }
    };
    if let Err(error) = context.check_reads(&reads) {
        return Read(State::Now(Some(Err(Box::new(error)))));
    }
    Read(State::Later(Box::pin(async move {
        if context.is_any_unsettled(&reads) {
            context.settle().await?;
        }
        read_parts(context, reads, decode).await
    })))
}

type Fetched<'a> = LocalFuture<'a, Result<(), StateError>>;

/// Reads and decodes one row in place, or says what to wait for.
#[inline(always)]
#[allow(
    clippy::inline_always,
    reason = "a step of every read of a key; what it returns is large to move"
)]
fn read_row<'a, P: Select>(
    context: &Context<'a>,
    row: RowRead<'_>,
) -> Result<Result<P::Out, Fetched<'a>>, Box<StateError>> {
    if let Some(lives) = context.elsewhere(row.place) {
        return Err(Box::new(context.misplaced("read", row.pstate, lives)));
    }
    let fields = context.fields();
    let mut out = None;
    let mut visit = |value: Option<&[u8]>| {
        out = Some(P::decode(fields, &[], &[Answer::One(value)]).map_err(Box::new));
    };
    let asked = context.local().get(index(row.pstate), row.key, &mut visit);
    match context.noted(asked).map_err(Box::new)? {
        Access::Miss(fetched) => Ok(Err(fetched)),
        Access::Ready => {
            let out = out.expect("a ready access has called the visitor");
            out.map(Ok).map_err(|error| Box::new(context.undecodable(row.pstate, *error)))
        }
    }
}

#[cold]
async fn read_after<'a, P: Select>(
    context: &'a Context<'a>,
    mut fetched: Fetched<'a>,
    path: P,
) -> Result<P::Out, StateError> {
    loop {
        context.noted(fetched.await)?;
        let row = path.row().expect("only a read of one row waits here");
        match read_row::<P>(context, row).map_err(|error| *error)? {
            Ok(out) => return Ok(out),
            Err(again) => fetched = again,
        }
    }
}

/// Reads several rows: what was found is copied until all of it is there.
async fn read_parts<'a, Out>(
    context: &'a Context<'a>,
    reads: Reads,
    decode: Decode<Out>,
) -> Result<Out, StateError> {
    let plans = reads.as_slice();
    let local = context.local();
    let mut parts = Vec::with_capacity(plans.len());
    for plan in plans {
        let found;
        let op = match &plan.op {
            ReadOp::Behind(behind) => {
                found = list::behind(context, plan.pstate, behind).await?;
                found.as_ref()
            }
            op => Some(op),
        };
        parts.push(match op {
            None if plan.op.is_of_one() => Part::One(None),
            None => Part::Rows(Rows::new()),
            Some(op) => read_part(context, plan.pstate, op).await?,
        });
    }
    let answers = parts.iter().map(|part| match part {
        Part::One(value) => Answer::One(value.as_deref()),
        Part::Rows(rows) => Answer::Rows(rows),
    });
    let answers: Vec<_> = answers.collect();
    let pstate = plans.first().map_or(PStateId(0), |plan| plan.pstate);
    decode(local.fields(), plans, &answers).map_err(|error| context.undecodable(pstate, error))
}

enum Part {
    One(Option<Vec<u8>>),
    Rows(Rows),
}

async fn read_part(
    context: &Context<'_>,
    pstate: PStateId,
    op: &ReadOp,
) -> Result<Part, StateError> {
    Ok(match op {
        ReadOp::Get { key } | ReadOp::Has { key } => {
            let copy = |value: Option<&[u8]>| value.map(<[u8]>::to_vec);
            Part::One(fetch(context, pstate, key, copy).await?)
        }
        ReadOp::Range(range) => Part::Rows(scan(context, pstate, range).await?),
        ReadOp::Items(items) => Part::Rows(list::items(context, pstate, items).await?),
        ReadOp::Behind(_) => unreachable!("its items were found"),
    })
}

/// Calls `visit` with the value of one row, once it is in memory.
pub(crate) async fn fetch<X>(
    context: &Context<'_>,
    pstate: PStateId,
    key: &[u8],
    mut visit: impl FnMut(Option<&[u8]>) -> X,
) -> Result<X, StateError> {
    loop {
        let mut out = None;
        let asked = context.local().get(index(pstate), key, &mut |value| out = Some(visit(value)));
        match context.noted(asked)? {
            Access::Ready => return Ok(out.expect("a ready access has called the visitor")),
            Access::Miss(fetched) => context.noted(fetched.await)?,
        }
    }
}

pub(crate) async fn scan(
    context: &Context<'_>,
    pstate: PStateId,
    range: &RangeOp,
) -> Result<Rows, StateError> {
    let mut rows = Rows::new();
    scan_with(context, pstate, range, &mut |key, value| rows.push(key, value)).await?;
    Ok(rows)
}

async fn scan_with(
    context: &Context<'_>,
    pstate: PStateId,
    range: &RangeOp,
    visit: &mut dyn FnMut(&[u8], &[u8]),
) -> Result<(), StateError> {
    let (from, to) = (range.from.as_slice(), range.to.as_deref());
    if to.is_some_and(|to| to <= from) {
        return Ok(());
    }
    let limit =
        range.limit.map_or(usize::MAX, |limit| usize::try_from(limit).unwrap_or(usize::MAX));
    let asked = Scan { from, to, reverse: range.reverse, limit, keys_only: range.keys_only };
    let mut visit = |key: &[u8], value: &[u8]| {
        visit(key, value);
        ControlFlow::Continue(())
    };
    context.noted(context.local().scan(index(pstate), asked, &mut visit).await)
}

/// Reads, changes and writes one value.
async fn update<S: Stored>(
    context: &Context<'_>,
    target: codec::Result<Target>,
    change: impl FnOnce(S::Held) -> S::Held,
) -> Result<(), StateError> {
    let fields = context.fields();
    let target = target.map_err(|error| context.refused("update", error))?;
    context.check_target("update", &target)?;
    let read = |row: Option<&[u8]>| (row.is_some(), S::held(fields, row));
    let (was_there, old) = fetch(context, target.pstate, &target.key, read).await?;
    let old = old.map_err(|error| context.undecodable(target.pstate, error))?;
    match S::kept(change(old)) {
        None => context.delete(index(target.pstate), &target.key, Some(was_there)),
        Some(new) => {
            context.put_with(&target, Some(was_there), |fields, out| S::write(fields, &new, out))
        }
    }
}

/// Tokens number the `PState`s of a module in the order of its definition.
pub(crate) fn index(pstate: PStateId) -> PStateIndex {
    PStateIndex(pstate.0)
}

impl Context<'_> {
    /// Whether it may be read here.
    #[inline]
    pub(crate) fn check_reads(&self, reads: &Reads) -> Result<(), StateError> {
        let lives = reads.partition(self.local().partitions());
        match lives.map_err(|error| self.refused("read", error))? {
            Some(lives) if lives != self.local().partition() => {
                let pstate = reads.as_slice().first().map_or(PStateId(0), |plan| plan.pstate);
                Err(self.misplaced("read", pstate, lives))
            }
            _ => Ok(()),
        }
    }

    /// Whether it may be written here.
    #[inline]
    pub(crate) fn check_target(&self, op: &'static str, target: &Target) -> Result<(), StateError> {
        match self.elsewhere(target.place) {
            None => Ok(()),
            Some(lives) => Err(self.misplaced(op, target.pstate, lives)),
        }
    }

    fn put_with(
        &self,
        target: &Target,
        was_there: Option<bool>,
        write: impl FnOnce(&FieldTable, &mut Vec<u8>) -> codec::Result<Written>,
    ) -> Result<(), StateError> {
        let mut value = self.scratch().borrow_mut();
        value.clear();
        let written = write(self.local().fields(), &mut value);
        match written.map_err(|error| self.refused("write", error))? {
            Written::Value => self.put(index(target.pstate), &target.key, &value, was_there),
            Written::Nothing => self.delete(index(target.pstate), &target.key, was_there),
        }
    }

    /// Appends a record to this partition of a depot.
    pub(crate) fn append<T: Row>(&self, depot: DepotIndex, row: &T) -> Result<(), StateError> {
        let local = self.local();
        let mut record = self.scratch().borrow_mut();
        record.clear();
        codec::encode(local.fields(), row, &mut record)
            .map_err(|error| self.refused("append", error))?;
        self.noted(local.append(depot, &record))
    }

    fn remove(&self, removal: codec::Result<Removal>) -> Result<(), StateError> {
        let removal = removal.map_err(|error| self.refused("delete from", error))?;
        match removal {
            Removal::Row(target) => {
                self.check_target("delete from", &target)?;
                self.delete(index(target.pstate), &target.key, None)
            }
            Removal::Range { from, to } => {
                self.check_target("delete from", &from)?;
                self.delete_range(index(from.pstate), &from.key, to.as_deref())
            }
        }
    }

    /// Deletes the rows of a range that nobody counts.
    fn remove_blindly(&self, rows: codec::Result<ReadPlan>) -> Result<(), StateError> {
        let (pstate, range) = self.range_here("delete a range of", rows)?;
        assert!(range.limit.is_none(), "a range that is deleted has no limit");
        let (from, to) = (range.from.as_slice(), range.to.as_deref());
        if to.is_some_and(|to| to <= from) {
            return Ok(());
        }
        self.delete_range(index(pstate), from, to)
    }

    /// Deletes the rows of a range, and counts them.
    async fn remove_range(&self, rows: codec::Result<ReadPlan>) -> Result<u64, StateError> {
        let (pstate, range) = self.range_here("remove a range of", rows)?;
        let (mut count, mut first, mut last) = (0, None, None);
        let mut visit = |key: &[u8], _: &[u8]| {
            count += 1;
            if first.is_none() {
                first = Some(KeyBuf::from(key));
            }
            last = Some(KeyBuf::from(key));
        };
        scan_with(self, pstate, &range, &mut visit).await?;
        let (Some(first), Some(last)) = (first, last) else { return Ok(0) };
        let (lowest, highest) = if range.reverse { (last, first) } else { (first, last) };
        let end = crate::schema::sizes::first_element(&highest);
        self.delete_counted(index(pstate), &lowest, &end, count)?;
        Ok(count)
    }

    /// A range that may be written here.
    fn range_here(
        &self,
        op: &'static str,
        rows: codec::Result<ReadPlan>,
    ) -> Result<(PStateId, RangeOp), StateError> {
        let plan = rows.map_err(|error| self.refused(op, error))?;
        if let Some(lives) = plan.place.and_then(|place| self.elsewhere(place)) {
            return Err(self.misplaced(op, plan.pstate, lives));
        }
        let ReadOp::Range(range) = plan.op else { unreachable!("a range was asked for") };
        Ok((plan.pstate, *range))
    }

    /// Whether a size is to be read that is not written yet.
    #[inline]
    fn is_any_unsettled(&self, reads: &Reads) -> bool {
        let is_unsettled = |plan: &ReadPlan| match plan.op.last() {
            // What a key leads to is the same whatever the ids of items in it.
            ReadOp::Get { key } => self.is_head(index(plan.pstate), key),
            ReadOp::Has { .. } | ReadOp::Range(_) | ReadOp::Items(_) | ReadOp::Behind(_) => false,
        };
        !self.sizes().is_settled() && reads.as_slice().iter().any(is_unsettled)
    }

    #[cold]
    fn misplaced(
        &self,
        op: &'static str,
        pstate: PStateId,
        lives: crate::types::PartitionId,
    ) -> StateError {
        let here = self.local().partition();
        let pstate = index(pstate);
        let placing = self.local().described(pstate).placing;
        StateError::Misplaced { op, pstate, here, lives, placing }
    }

    #[cold]
    pub(crate) fn refused(&self, op: &'static str, source: codec::Error) -> StateError {
        StateError::Refused { op, partition: self.local().partition(), source }
    }

    /// Of an aggregator, which both reads and writes.
    #[cold]
    pub(crate) fn codec_error(&self, pstate: PStateId, error: codec::Error) -> StateError {
        match error {
            codec::Error::Decode { .. } | codec::Error::BadKey { .. } => {
                self.undecodable(pstate, error)
            }
            error => self.refused("add to", error),
        }
    }

    #[cold]
    pub(crate) fn undecodable(&self, pstate: PStateId, source: codec::Error) -> StateError {
        let partition = self.local().partition();
        let error = StateError::Undecodable { pstate: index(pstate), partition, source };
        self.note(&error);
        error
    }
}
