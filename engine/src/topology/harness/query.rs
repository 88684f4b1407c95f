//! Queries that are data, of a module running in memory.

use super::{Harness, block_on};
use crate::codec;
use crate::module::PStateIndex;
use crate::schema::Select;
use crate::schema::ast::{Functions, Query, check};
use crate::schema::eval::{self, Cx, Outcome, Problem, Queried, Selects};

impl Harness {
    /// All that a query reaches, in order, each as a `T`. Where the query names no first key, it reaches
    /// what lies on all partitions.
    ///
    /// # Errors
    /// The query does not fit what is stored, or `T` not what it reaches.
    pub fn query<T: Outcome>(
        &self,
        pstate: impl Queried,
        query: &Query,
        functions: &Functions,
    ) -> Result<Vec<T>, eval::Error<codec::Error>> {
        let pstate = pstate.queried();
        let described = self.described(PStateIndex(pstate.0));
        check(described.name, described.layout, query).map_err(Problem::Misfit)?;
        let cx = Cx::of(described, &self.fields, functions);
        block_on(eval::query(self, pstate, &cx, query))
    }
}

impl Selects for Harness {
    type Error = codec::Error;

    async fn ask<P: Select + 'static>(&self, path: P) -> codec::Result<P::Out> {
        self.select(path)
    }
}
