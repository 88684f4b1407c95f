//! Queries from outside of events: results as types, and rows read by selects.

use std::future::Future;
use std::ops::ControlFlow;

use super::{Cx, Error, Problem, Row, Scan, Source, Visit, select};
use crate::codec::{FieldTable, KeyBuf, Result, decode};
use crate::env::LocalFuture;
use crate::schema::ast::{Query, Value};
use crate::schema::plan::RangeOp;
use crate::schema::{Answer, Data, Owned, PState, Placing, ReadOp, ReadPlan, Rows, Select};
use crate::types::PStateId;

/// What results of queries can be had as: any data, or [`Value`].
pub trait Outcome: Sized {
    /// The result as `Self`.
    ///
    /// # Errors
    /// As [`decode`].
    fn of(fields: &FieldTable, value: Value) -> Result<Self>;
}

impl<T: Data> Outcome for T {
    fn of(fields: &FieldTable, value: Value) -> Result<Self> {
        decode(fields, value.raw().bytes())
    }
}

impl Outcome for Value {
    fn of(_: &FieldTable, value: Value) -> Result<Self> {
        Ok(value)
    }
}

/// A token of a `PState`.
pub trait Queried {
    /// Which one.
    fn queried(self) -> PStateId;
}

impl<S> Queried for PState<S> {
    fn queried(self) -> PStateId {
        self.id()
    }
}

impl<S, O> Queried for Owned<S, O> {
    fn queried(self) -> PStateId {
        self.id()
    }
}

/// What answers the selects of single rows and of ranges.
pub(crate) trait Selects {
    type Error;

    /// What the path gives.
    fn ask<P: Select + 'static>(
        &self,
        path: P,
    ) -> impl Future<Output = std::result::Result<P::Out, Self::Error>>;
}

/// Evaluates a query by selects, each of which sees the state of its own moment.
pub(crate) async fn query<T: Outcome, Q: Selects>(
    selects: &Q,
    pstate: PStateId,
    cx: &Cx<'_>,
    query: &Query,
) -> std::result::Result<Vec<T>, Error<Q::Error>> {
    let mut found = Vec::new();
    let mut reach = |value| {
        found.push(value);
        ControlFlow::Continue(())
    };
    select(&Remote { selects, pstate, placing: cx.placing }, cx, query, &mut reach).await?;
    Ok(outcomes(cx.fields, found)?)
}

/// The results as what they were asked for as.
pub(crate) fn outcomes<T: Outcome>(
    fields: &FieldTable,
    found: Vec<Value>,
) -> std::result::Result<Vec<T>, Problem> {
    let found = found.into_iter().map(|value| T::of(fields, value));
    found.collect::<Result<_>>().map_err(|source| Problem::Unlike { source })
}

struct Remote<'q, Q> {
    selects: &'q Q,
    pstate: PStateId,
    placing: Placing,
}

impl<Q> Remote<'_, Q> {
    /// A read of what begins with a row.
    fn plan(&self, row: Row<'_>, op: ReadOp) -> Result<ReadPlan> {
        Ok(ReadPlan { pstate: self.pstate, place: self.placing.of(row.first())?, op })
    }
}

impl<Q: Selects> Source for Remote<'_, Q> {
    type Error = Q::Error;

    fn get<'a>(
        &'a self,
        row: Row<'a>,
        visit: &'a mut (dyn FnMut(Option<&[u8]>) + 'a),
    ) -> LocalFuture<'a, std::result::Result<(), Q::Error>> {
        Box::pin(async move {
            let op = ReadOp::Get { key: KeyBuf::from(row.key) };
            visit(self.selects.ask(OneRow(self.plan(row, op))).await?.as_deref());
            Ok(())
        })
    }

    fn scan<'a>(
        &'a self,
        scan: Scan<'a>,
        visit: &'a mut Visit<'a>,
    ) -> LocalFuture<'a, std::result::Result<(), Q::Error>> {
        Box::pin(async move {
            let range = RangeOp {
                from: KeyBuf::from(scan.from.key),
                to: scan.to.map(KeyBuf::from),
                reverse: scan.reverse,
                limit: (scan.limit < usize::MAX).then_some(scan.limit as u64),
                keys_only: scan.keys_only,
                prefix_bytes: 0,
            };
            let op = ReadOp::Range(Box::new(range));
            let rows = self.selects.ask(ManyRows(self.plan(scan.from, op))).await?;
            for (key, value) in rows.iter().take(scan.limit) {
                if visit(key, value).is_break() {
                    break;
                }
            }
            Ok(())
        })
    }
}

struct OneRow(Result<ReadPlan>);

impl Select for OneRow {
    type Out = Option<Vec<u8>>;
    const READS: usize = 1;

    fn push_reads(self, reads: &mut impl FnMut(ReadPlan)) -> Result<()> {
        reads(self.0?);
        Ok(())
    }

    fn decode(_: &FieldTable, _: &[ReadPlan], answers: &[Answer<'_>]) -> Result<Self::Out> {
        match answers {
            [Answer::One(value)] => Ok(value.map(<[u8]>::to_vec)),
            _ => unreachable!("one row was asked for"),
        }
    }
}

struct ManyRows(Result<ReadPlan>);

impl Select for ManyRows {
    type Out = Rows;
    const READS: usize = 1;

    fn push_reads(self, reads: &mut impl FnMut(ReadPlan)) -> Result<()> {
        reads(self.0?);
        Ok(())
    }

    fn decode(_: &FieldTable, _: &[ReadPlan], answers: &[Answer<'_>]) -> Result<Self::Out> {
        match answers {
            [Answer::Rows(rows)] => Ok((*rows).clone()),
            _ => unreachable!("a range was asked for"),
        }
    }
}
