//! Queries that are data, in events.

use std::ops::ControlFlow;

use super::{fetch, index};
use crate::codec;
use crate::env::LocalFuture;
use crate::schema::ast::{Functions, Query, Term, check};
use crate::schema::eval::{self, Cx, Outcome, Problem, Queried, Row, Source, Writer};
use crate::schema::{Owned, OwnedBy};
use crate::topology::{At, Context, Scan, StateError};
use crate::types::PStateId;

/// Why a query of an event was given up.
pub type QueryError = eval::Error<StateError>;

impl<O> At<'_, O> {
    /// All that a query reaches, in order, each as a `T`, or as it is as a
    /// [`Value`](crate::schema::ast::Value). Sees what [`At::get`] sees; where the query names no first
    /// key, it reaches what lies on this partition. What it costs, [`eval`] says.
    ///
    /// ```
    /// # use tidemill::module::{self, Module};
    /// use tidemill::schema::ast::{Op, Query, Step, Value};
    /// use tidemill::schema::{Map, Sub};
    ///
    /// # fn declare(m: &Module) {
    /// let asked = m.depot::<String>("asked").hash_by(|user| user);
    /// let t = m.microbatch(|| "t");
    /// let scores = t.pstate::<Map<String, Sub<Map<u64, Vec<i64>>>>>("scores");
    /// let best = t.pstate::<Map<String, i64>>("best");
    /// t.source(asked).using((scores, best)).for_each(async |at, (scores, best), user| {
    ///     // The last score of each of the last ten games, if it is above 100.
    ///     let query = Query::from([
    ///         Step::Key(Value::from(user.as_str())),
    ///         Step::Range {
    ///             from: std::ops::Bound::Unbounded,
    ///             to: std::ops::Bound::Unbounded,
    ///             limit: Some(10),
    ///             reverse: true,
    ///         },
    ///         Step::Values,
    ///         Step::Last,
    ///         Step::Compare(Op::Greater, Value::from(100)),
    ///     ]);
    ///     let high: Vec<i64> = at.query(scores, &query).await?;
    ///     at.put(best.key(user), high.into_iter().max().unwrap_or(0))?;
    ///     Ok(())
    /// });
    /// # }
    /// # module::define("m", declare).unwrap();
    /// ```
    ///
    /// # Errors
    /// [`eval::Error::Source`] as of [`At::get`]; [`eval::Error::Path`] if the query does not fit what is
    /// stored, or `T` not what it reaches.
    pub async fn query<T: Outcome>(
        self,
        pstate: impl Queried,
        query: &Query,
    ) -> Result<Vec<T>, QueryError> {
        self.query_with(pstate, query, &Functions::none()).await
    }

    /// [`At::query`], for queries that name functions.
    ///
    /// # Errors
    /// As [`At::query`].
    pub async fn query_with<T: Outcome>(
        self,
        pstate: impl Queried,
        query: &Query,
        functions: &Functions,
    ) -> Result<Vec<T>, QueryError> {
        let context = self.context();
        let rows = Rows { context, pstate: pstate.queried() };
        let mut found = Vec::new();
        let mut reach = |value| {
            found.push(value);
            ControlFlow::Continue(())
        };
        let cx = rows.cx(query, functions)?;
        rows.noted(eval::select(&rows, &cx, query, &mut reach).await)?;
        Ok(eval::outcomes(context.local().fields(), found)?)
    }

    /// Replaces each part that a query reaches by what the term makes of it. What is written is of the
    /// type that the `PState` has. Where the query names no first key, it reaches what lies on this
    /// partition. What it costs, [`eval`] says.
    ///
    /// After an error some of what was reached may have been written: it belongs to the row, as all its
    /// writes do.
    ///
    /// # Errors
    /// [`eval::Error::Source`] as of [`At::get`] and [`At::put`], also for an entry that would get a first
    /// key that lives elsewhere; [`eval::Error::Path`] if query or term do not fit what is stored.
    pub async fn transform<S: 'static, O2: OwnedBy<O>>(
        self,
        pstate: Owned<S, O2>,
        query: &Query,
        term: &Term,
    ) -> Result<(), QueryError> {
        self.transform_with(pstate, query, term, &Functions::none()).await
    }

    /// [`At::transform`], for queries and terms that name functions.
    ///
    /// # Errors
    /// As [`At::transform`].
    pub async fn transform_with<S: 'static, O2: OwnedBy<O>>(
        self,
        pstate: Owned<S, O2>,
        query: &Query,
        term: &Term,
        functions: &Functions,
    ) -> Result<(), QueryError> {
        let context = self.context();
        let rows = Rows { context, pstate: pstate.id() };
        let cx = rows.cx(query, functions)?;
        rows.noted(eval::transform(&rows, &cx, query, term).await)
    }
}

/// The rows of a `PState` as an event sees them.
struct Rows<'c, 'a> {
    context: &'c Context<'a>,
    pstate: PStateId,
}

impl<'c> Rows<'c, '_> {
    /// What an evaluation needs, of a query that fits.
    fn cx(&self, query: &Query, functions: &'c Functions) -> Result<Cx<'c>, QueryError> {
        let local = self.context.local();
        let pstate = local.described(index(self.pstate));
        check(pstate.name, pstate.layout, query).map_err(Problem::Misfit)?;
        Ok(Cx::of(pstate, local.fields(), functions))
    }

    fn check(&self, op: &'static str, row: Row<'_>) -> Result<(), StateError> {
        let local = self.context.local();
        let place = local.described(index(self.pstate)).placing.of(row.first());
        let place = place.map_err(|error| self.context.refused(op, error))?;
        match place.map(|place| place.partition(local.partitions())) {
            Some(lives) if lives != local.partition() => {
                Err(self.context.misplaced(op, self.pstate, lives))
            }
            _ => Ok(()),
        }
    }

    /// Damage to what is stored is not the row's fault.
    fn noted<X>(&self, result: Result<X, QueryError>) -> Result<X, QueryError> {
        result.map_err(|error| match error {
            eval::Error::Path(Problem::BadRow(source)) => {
                eval::Error::Source(self.context.undecodable(self.pstate, source))
            }
            eval::Error::Path(Problem::Bad(bad)) => {
                let (value_type, at, problem) = ("a row", String::new(), bad.to_string());
                let source = codec::Error::Decode { value_type, at, problem };
                eval::Error::Source(self.context.undecodable(self.pstate, source))
            }
            other => other,
        })
    }
}

impl Source for Rows<'_, '_> {
    type Error = StateError;

    fn get<'a>(
        &'a self,
        row: Row<'a>,
        visit: &'a mut (dyn FnMut(Option<&[u8]>) + 'a),
    ) -> LocalFuture<'a, Result<(), StateError>> {
        Box::pin(async move {
            self.check("read", row)?;
            if self.context.is_head(index(self.pstate), row.key) {
                self.context.settle().await?;
            }
            fetch(self.context, self.pstate, row.key, visit).await
        })
    }

    fn scan<'a>(
        &'a self,
        scan: eval::Scan<'a>,
        visit: &'a mut eval::Visit<'a>,
    ) -> LocalFuture<'a, Result<(), StateError>> {
        Box::pin(async move {
            self.check("read", scan.from)?;
            // A head is what tells that there is a collection: it must not be out of date.
            self.context.settle().await?;
            let eval::Scan { from, to, reverse, limit, keys_only } = scan;
            let scan = Scan { from: from.key, to, reverse, limit, keys_only };
            let local = self.context.local();
            self.context.noted(local.scan(index(self.pstate), scan, visit).await)
        })
    }
}

impl Writer for Rows<'_, '_> {
    fn put(&self, row: Row<'_>, value: &[u8]) -> Result<(), StateError> {
        self.check("transform", row)?;
        self.context.put(index(self.pstate), row.key, value, None)
    }

    fn delete(&self, row: Row<'_>) -> Result<(), StateError> {
        self.check("transform", row)?;
        self.context.delete(index(self.pstate), row.key, None)
    }

    fn delete_range(&self, from: Row<'_>, to: Option<&[u8]>) -> Result<(), StateError> {
        self.check("transform", from)?;
        self.context.delete_range(index(self.pstate), from.key, to)
    }
}
