//! Queries of clients that stay in one partition: evaluated there, at one moment, as one request.

use std::ops::ControlFlow;
use std::rc::Rc;
use std::sync::Arc;

use super::Shard;
use super::message::{WalkRequest, When, answer};
use super::partition::Partition;
use super::read::TRIES_MAX;
use super::seen::{Failed, Seen};
use crate::error::{Error, Result};
use crate::node::pins::Pin;
use crate::pstate;
use crate::schema::ast::Value;
use crate::schema::eval::{self, Cx, Problem};

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
                let name = request.module.described(request.pstate).name;
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
                Err(eval::Error::Source(Failed::Store(pstate::Error::Expired { .. })))
                    if is_now && tries < TRIES_MAX => {}
                done => {
                    return done.map_err(|error| match error {
                        eval::Error::Source(failed) => self.select_failed(&failed),
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
    ) -> Result<Vec<Value>, eval::Error<Failed>> {
        let WalkRequest { module, pstate, query, functions, .. } = request;
        let now = module.numbers();
        let of = (when.numbers(&now), *pstate);
        let rows = Seen::new(&self.env, partition, module, of, when);
        let cx = Cx::of(module.described(*pstate), &module.fields, functions);
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
