//! Queries of clients that stay in one partition: evaluated there, at one moment, as one request.

use std::ops::{Bound, ControlFlow};
use std::rc::Rc;
use std::sync::Arc;

use super::Shard;
use super::message::{WalkRequest, When, answer};
use super::partition::Partition;
use super::read::TRIES_MAX;
use crate::env::{Env, LocalFuture};
use crate::error::{Error, Result};
use crate::node::pins::Pin;
use crate::pstate::{self, Direction, KeyRange, View};
use crate::schema::ast::Value;
use crate::schema::eval::{self, Cx, Problem, Row, Scan, Source, Visit};
use crate::schema::list;
use crate::schema::plan::RangeOp;
use crate::types::PStateId;

impl Shard {
    pub(super) fn walk(self: &Rc<Self>, request: WalkRequest) {
        let partition = match self.partition(request.partition) {
            Ok(partition) => Rc::clone(partition),
            Err(error) => return answer(request.reply, Err(error)),
        };
        self.counters.borrow_mut().reads += 1;
        let shard = Rc::clone(self);
        self.env.spawn(crate::env::Class::Client, "query", async move {
            let what = || {
                let (name, _) = request.module.described(request.pstate);
                format!("a query of `{name}` in partition {}", request.partition)
            };
            let walked = shard.walked(&partition, &request);
            let walked = shard.within(request.within, what, walked).await;
            answer(request.reply, walked);
        });
    }

    /// The results, all of one moment.
    async fn walked(&self, partition: &Partition, request: &WalkRequest) -> Result<Vec<Value>> {
        let is_now = matches!(request.when, When::Now);
        for tries in 1.. {
            let when = match &request.when {
                When::Now => When::Pinned(Arc::new(Pin::visible(&self.setup, &request.module))),
                when => when.clone(),
            };
            match self.walked_at(partition, request, &when).await {
                Err(eval::Error::Source(pstate::Error::Expired { .. }))
                    if is_now && tries < TRIES_MAX => {}
                done => {
                    return done.map_err(|error| match error {
                        eval::Error::Source(error) => self.read_failed(&error),
                        eval::Error::Path(problem) => path_failed(&problem),
                    });
                }
            }
        }
        unreachable!("the last try returns")
    }

    async fn walked_at(
        &self,
        partition: &Partition,
        request: &WalkRequest,
        when: &When,
    ) -> Result<Vec<Value>, eval::Error<pstate::Error>> {
        let WalkRequest { module, pstate, query, functions, .. } = request;
        let place = pstate.0 as usize;
        let view = when.view(module, module.definition.pstates[place].owner);
        let numbers = match when {
            When::Now => &module.numbers(),
            When::Pinned(pin) => pin.numbers(),
            When::AsOf(_, numbers) => numbers,
        };
        let rows = Rows { env: &self.env, partition, view, pstate: numbers.pstates[place] };
        let (_, layout) = module.described(*pstate);
        let cx = Cx::new(layout, &module.fields, functions);
        let mut found = Vec::new();
        let mut reach = |value| {
            found.push(value);
            ControlFlow::Continue(())
        };
        eval::select(&rows, &cx, query, &mut reach).await?;
        Ok(found)
    }
}

/// What a client gets to see of a query that was given up.
pub(crate) fn path_failed(problem: &Problem) -> Error {
    let what = crate::error::chain(problem);
    if problem.is_of_rows() { Error::Decode { what } } else { Error::Invalid { what } }
}

/// The rows of a `PState` in one partition, as one moment left them.
pub(super) struct Rows<'a> {
    pub(super) env: &'a Env,
    pub(super) partition: &'a Partition,
    pub(super) view: View<'static>,
    pub(super) pstate: PStateId,
}

impl Rows<'_> {
    /// Rows that are in memory never wait, and a walk can ask for many.
    async fn pause(&self) {
        if self.env.should_yield() {
            self.env.yield_now().await;
        }
    }
}

impl Source for Rows<'_> {
    type Error = pstate::Error;

    fn get<'a>(
        &'a self,
        row: Row<'a>,
        visit: &'a mut (dyn FnMut(Option<&[u8]>) + 'a),
    ) -> LocalFuture<'a, Result<(), pstate::Error>> {
        Box::pin(async move {
            self.pause().await;
            self.partition.store.read(&self.view, self.pstate, row.key, visit).await
        })
    }

    fn scan<'a>(
        &'a self,
        scan: Scan<'a>,
        visit: &'a mut Visit<'a>,
    ) -> LocalFuture<'a, Result<(), pstate::Error>> {
        Box::pin(async move {
            self.pause().await;
            let keys = KeyRange {
                from: Bound::Included(scan.from.key),
                to: scan.to.map_or(Bound::Unbounded, Bound::Excluded),
            };
            let direction = if scan.reverse { Direction::Backward } else { Direction::Forward };
            let store = &self.partition.store;
            store.scan(&self.view, self.pstate, keys, direction, scan.limit, visit).await?;
            Ok(())
        })
    }
}

impl list::Rows for Rows<'_> {
    type Error = pstate::Error;

    async fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, pstate::Error> {
        let copy = |value: Option<&[u8]>| value.map(<[u8]>::to_vec);
        self.partition.store.read(&self.view, self.pstate, key, copy).await
    }

    async fn scan(&self, range: &RangeOp) -> Result<Vec<list::Row>, pstate::Error> {
        let mut rows = Vec::new();
        let mut visit = |key: &[u8], value: &[u8]| {
            rows.push((key.to_vec(), value.to_vec()));
            ControlFlow::Continue(())
        };
        if range.to.as_ref().is_some_and(|to| *to <= range.from) {
            return Ok(rows);
        }
        let limit = range.limit.and_then(|limit| usize::try_from(limit).ok());
        let scan = Scan {
            from: Row { key: &range.from, first_bytes: 0 },
            to: range.to.as_deref(),
            reverse: range.reverse,
            limit: limit.unwrap_or(usize::MAX),
            keys_only: range.keys_only,
        };
        Source::scan(self, scan, &mut visit).await?;
        Ok(rows)
    }
}
