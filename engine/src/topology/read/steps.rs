//! Typed steps, in events.

use super::QueryError;
use crate::codec;
use crate::schema::ast::{Function, Query, Term, Value};
use crate::schema::eval::{Outcome, Problem};
use crate::schema::steps::{Collects, Like};
use crate::schema::{Data, Owned, OwnedBy, Steps};
use crate::topology::At;

impl<O> At<'_, O> {
    /// All that typed steps lead to, in order; with what was collected on the way, as tuples. Sees and costs what
    /// [`At::query`] does.
    ///
    /// # Errors
    /// As [`At::query`].
    pub async fn find<O2, T, C: Collects>(
        self,
        steps: Steps<O2, T, C>,
    ) -> Result<Vec<C::Found<T>>, QueryError>
    where
        C::Found<T>: Outcome,
    {
        let query = self.query_of(&steps)?;
        self.query(&steps, &query).await
    }

    /// Replaces each part that typed steps lead to by what the function makes of it; `None` removes it. As
    /// [`At::transform`].
    ///
    /// # Errors
    /// As [`At::transform`].
    pub async fn change<O2: OwnedBy<O>, T: Data, C>(
        self,
        steps: Steps<O2, T, C>,
        change: impl Fn(T) -> Option<T> + Send + Sync + 'static,
    ) -> Result<(), QueryError> {
        self.turn(&steps, &Term::Apply(Function::of(change))).await
    }

    /// Puts a value in each place that typed steps lead to. As [`At::transform`].
    ///
    /// # Errors
    /// As [`At::transform`].
    pub async fn set<O2: OwnedBy<O>, T: Data, C>(
        self,
        steps: Steps<O2, T, C>,
        value: impl Like<T>,
    ) -> Result<(), QueryError> {
        let value = Value::of(self.context().fields(), &value.like());
        self.turn(&steps, &Term::Set(value.map_err(Problem::Function)?)).await
    }

    /// Removes each part that typed steps lead to. As [`At::transform`].
    ///
    /// # Errors
    /// As [`At::transform`].
    pub async fn erase<O2: OwnedBy<O>, T, C>(
        self,
        steps: Steps<O2, T, C>,
    ) -> Result<(), QueryError> {
        self.turn(&steps, &Term::Void).await
    }

    async fn turn<O2: OwnedBy<O>, T, C>(
        self,
        steps: &Steps<O2, T, C>,
        term: &Term,
    ) -> Result<(), QueryError> {
        let query = self.query_of(steps)?;
        self.transform(Owned::<(), O2>::from_id(steps.pstate()), &query, term).await
    }

    fn query_of<O2, T, C>(self, steps: &Steps<O2, T, C>) -> Result<Query, QueryError> {
        let query: codec::Result<Query> = steps.query(self.context().fields());
        Ok(query.map_err(Problem::Function)?)
    }
}
