//! Running a fused event over a batch: lineage, panics, and the order of rows.

use std::any::Any;
use std::collections::BTreeMap;
use std::iter::Enumerate;
use std::marker::PhantomData;
use std::panic::AssertUnwindSafe;
use std::vec;

use futures_util::FutureExt;

use super::chain::Sink;
use super::read::index;
use super::token::Tokens;
use super::{
    At, Context, Done, Event, EventFailure, Failure, FailureKind, Local, NodeIndex, Origin, Record,
    Result, Row, Rows, StateError,
};
use crate::codec::{KeyBuf, decode};
use crate::env::LocalFuture;
use crate::schema::{ReadOp, ReadPlan, Reads, Select};
use crate::types::{PStateId, WallTime};

/// A row and the record it was made of.
pub(crate) struct Traced<T> {
    pub(crate) origin: Origin,
    pub(crate) row: T,
}

/// Turns what arrives into rows.
pub(crate) enum Intake<T> {
    /// At once.
    Take(Take<T>),
    /// By applying what arrives.
    Apply(Apply<T>),
}

/// What is no row goes to the function, while the context names its record.
type Take<T> = fn(Rows, &Context<'_>, &mut dyn FnMut(Failure)) -> Vec<Traced<T>>;

/// Applies what arrives, and gives what came of it.
type Apply<T> = for<'a> fn(Rows, &'a Context<'a>) -> LocalFuture<'a, Result<Vec<Traced<T>>>>;

/// Brings what the first stages will read into memory, for a whole batch.
pub(crate) type Touch<T> = Box<
    dyn for<'a> Fn(&'a Context<'a>, &'a [Traced<T>]) -> LocalFuture<'a, Result<(), StateError>>
        + Send
        + Sync,
>;

/// An event made of one sink.
pub(crate) struct Fused<O, T, S> {
    pub(crate) node: NodeIndex,
    pub(crate) name: String,
    pub(crate) intake: Intake<T>,
    pub(crate) touches: Vec<Touch<T>>,
    pub(crate) sink: S,
    pub(crate) owner: PhantomData<fn() -> O>,
}

impl<O: 'static, T: Send + 'static, S: Sink<O, T>> Event for Fused<O, T, S> {
    fn run<'a>(
        &'a self,
        local: &'a dyn Local,
        rows: Rows,
    ) -> LocalFuture<'a, Result<Done, EventFailure>> {
        Box::pin(async move { self.run_all(&Context::new(local, self.node), rows).await })
    }
}

impl<O: 'static, T: Send + 'static, S: Sink<O, T>> Fused<O, T, S> {
    async fn run_all(&self, context: &Context<'_>, rows: Rows) -> Result<Done, EventFailure> {
        let named = |failure| failed(&self.name, context, failure);
        let mut rejected = Vec::new();
        let taken = caught(async {
            let rows = match self.intake {
                Intake::Take(take) => {
                    take(rows, context, &mut |failure| rejected.push(named(failure)))
                }
                Intake::Apply(apply) => apply(rows, context).await?,
            };
            for touch in &self.touches {
                touch(context, &rows).await?;
            }
            Ok(rows)
        });
        let mut rows = taken.await.map_err(named)?.into_iter().enumerate();
        let state = S::State::default();
        while let Err(failure) = caught(self.push_all(context, &state, &mut rows)).await {
            let failure = named(failure);
            if failure.kind != FailureKind::Reject || failure.origin.is_none() {
                return Err(failure);
            }
            rejected.push(failure);
        }
        context.end();
        let finished = caught(async {
            context.settle().await?;
            let mut done = Done::default();
            self.sink.finish(context, state, &mut done);
            Ok(done)
        });
        Ok(Done { rejected, ..finished.await.map_err(named)? })
    }

    /// Runs rows until one fails or there are none left.
    async fn push_all(
        &self,
        context: &Context<'_>,
        state: &S::State,
        rows: &mut Enumerate<vec::IntoIter<Traced<T>>>,
    ) -> Result<()> {
        let at = At::new(context);
        for (nth, traced) in rows {
            pause(context.local(), nth).await;
            context.begin(traced.origin);
            self.sink.push(state, at, traced.row).await?;
            if context.has_failed() {
                return Err(Failure::retry(WentOn));
            }
        }
        Ok(())
    }
}

/// The intake of a node behind a hop.
pub(crate) fn take_traced<T: Send + 'static>(
    rows: Rows,
    _context: &Context<'_>,
    _rejected: &mut dyn FnMut(Failure),
) -> Vec<Traced<T>> {
    rows.take()
}

/// The intake of a source node.
pub(crate) fn take_records<T: Row>(
    rows: Rows,
    context: &Context<'_>,
    rejected: &mut dyn FnMut(Failure),
) -> Vec<Traced<T>> {
    decode_all(rows, context, rejected, |_, record| record)
}

/// The intake of a source node that wants the times of appending.
pub(crate) fn take_timed<T: Row>(
    rows: Rows,
    context: &Context<'_>,
    rejected: &mut dyn FnMut(Failure),
) -> Vec<Traced<(WallTime, T)>> {
    decode_all(rows, context, rejected, |appended, record| (appended, record))
}

fn decode_all<T: Row, U>(
    rows: Rows,
    context: &Context<'_>,
    rejected: &mut dyn FnMut(Failure),
    row: impl Fn(WallTime, T) -> U,
) -> Vec<Traced<U>> {
    let fields = context.local().fields();
    let records = rows.take::<Record>();
    let mut rows = Vec::with_capacity(records.len());
    for Record { origin, appended, bytes } in records {
        context.begin(origin);
        match decode(fields, &bytes) {
            Ok(record) => rows.push(Traced { origin, row: row(appended, record) }),
            Err(error) => rejected(error.into()),
        }
    }
    context.end();
    rows
}

/// Fetches what the rows of a batch lead to. What cannot be read here is left to the stage that will
/// try, and say so.
pub(crate) fn touch<T, P, X, F>(tokens: P, paths: F) -> Touch<T>
where
    T: 'static,
    P: Tokens,
    X: Select,
    F: Fn(P, &T) -> X + Send + Sync + 'static,
{
    Box::new(move |context, rows| {
        let mut keys: BTreeMap<PStateId, Vec<KeyBuf>> = BTreeMap::new();
        for traced in rows {
            context.begin(traced.origin);
            let Ok(reads) = paths(tokens, &traced.row).reads() else { continue };
            let plans = match reads {
                Reads::One(plan) => vec![plan],
                Reads::Several(plans) => plans,
            };
            for ReadPlan { pstate, op, .. } in plans {
                if let ReadOp::Get { key } | ReadOp::Has { key } = op {
                    keys.entry(pstate).or_default().push(key);
                }
            }
        }
        context.end();
        let local = context.local();
        Box::pin(async move {
            for (pstate, keys) in keys {
                let keys: Vec<&[u8]> = keys.iter().map(KeyBuf::as_slice).collect();
                local.prefetch(index(pstate), &keys).await?;
            }
            Ok(())
        })
    })
}

/// Runs `event`; a panic in it is a failure.
///
/// What the code holds across a panic is dropped with the future, and whatever it wrote is dropped
/// with the attempt, so no half-changed value is seen again; user closures can share nothing mutable.
pub(crate) async fn caught<X>(event: impl Future<Output = Result<X>>) -> Result<X> {
    match AssertUnwindSafe(event).catch_unwind().await {
        Ok(result) => result,
        Err(payload) => Err(Failure::reject(Panicked(panic_message(&*payload)))),
    }
}

/// Runs code of the user's that waits for nothing; see [`caught`].
pub(crate) fn panic_of(run: impl FnOnce()) -> Result<(), Panicked> {
    std::panic::catch_unwind(AssertUnwindSafe(run))
        .map_err(|payload| Panicked(panic_message(&*payload)))
}

/// Adds where it happened.
pub(crate) fn failed(name: &str, context: &Context<'_>, failure: Failure) -> EventFailure {
    let partition = context.local().partition();
    let kind = if context.has_failed() { FailureKind::Retry } else { failure.kind() };
    EventFailure { kind, origin: context.origin(), node: name.to_owned(), partition, failure }
}

/// Lets other work of the shard run now and then, between rows.
#[inline]
pub(crate) async fn pause(local: &dyn Local, nth: usize) {
    if nth % PAUSE_ROWS == PAUSE_ROWS - 1
        && let Some(others) = local.pause()
    {
        others.await;
    }
}

/// How many rows run before others are asked after: some microseconds' worth.
const PAUSE_ROWS: usize = 32;

/// User code went on although a read or write had failed.
#[derive(Debug, thiserror::Error)]
#[error("a read or write failed, and the code went on")]
struct WentOn;

/// User code panicked.
#[derive(Debug, thiserror::Error)]
#[error("panicked: {0}")]
pub struct Panicked(pub String);

/// What a panic said.
pub(crate) fn panic_message(payload: &(dyn Any + Send)) -> String {
    if let Some(text) = payload.downcast_ref::<&str>() {
        return (*text).to_owned();
    }
    payload.downcast_ref::<String>().cloned().unwrap_or_else(|| "(not a text)".to_owned())
}
