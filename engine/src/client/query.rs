//! Queries that are data.

use super::Launched;
use crate::error::{Error, Result};
use crate::module::PStateIndex;
use crate::schema::Select;
use crate::schema::ast::{Functions, Query, check};
use crate::schema::eval::{self, Cx, Outcome, Queried, Selects};

impl<H> Launched<H> {
    /// All that a query reaches of what is visible, in order, each as a `T`, or as it is as a
    /// [`Value`](crate::schema::ast::Value) that can be shown as JSON. Where the query names no first key,
    /// it reaches what lies on all partitions.
    ///
    /// Steps that read rows ask the shards one after the other, so what several of them find need not have
    /// been visible at one moment. The future stays on its thread: the query's own values are shared
    /// within it.
    ///
    /// ```
    /// use tidemill::schema::Map;
    /// use tidemill::schema::ast::{Query, Value};
    /// # use tidemill::{Engine, Options, block_on};
    /// # let dir = tempfile::tempdir_in(".").unwrap();
    /// # let engine = block_on(Engine::open(dir.path(), Options::default()))?;
    ///
    /// let shop = block_on(engine.launch("shop", |m| {
    ///     let sales = m.depot::<(String, i64)>("sales").hash_by(|(item, _)| item);
    ///     let selling = m.microbatch(|| "selling");
    ///     let sold = selling.pstate::<Map<String, Vec<i64>>>("sold");
    ///     selling.source(sales).using(sold).for_each(async |at, sold, (item, n)| {
    ///         Ok(at.update(sold.key(item), |old| Some([old.unwrap_or_default(), vec![n]].concat())).await?)
    ///     });
    ///     (sales, sold.reader())
    /// }))?;
    /// let (sales, sold) = *shop;
    /// for n in [3, 12, 40] {
    ///     let appended = block_on(shop.append(sales, &("tea".to_owned(), n)))?;
    ///     block_on(shop.wait("selling", &appended))?;
    /// }
    /// let large = r#"[["key","tea"],"all",["compare",">",10]]"#;
    /// let large = Query::from_json(&serde_json::from_str(large).unwrap()).unwrap();
    /// assert_eq!(block_on(shop.query::<i64>(sold, &large))?, [12, 40]);
    /// assert_eq!(block_on(shop.query::<Value>(sold, &large))?[0].to_json().unwrap(), 12);
    /// block_on(engine.close())?;
    /// # Ok::<(), tidemill::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`Launched::select`]; `Invalid` if the query does not fit what is stored, `Decode` if `T` is not
    /// what it reaches.
    pub async fn query<T: Outcome>(&self, pstate: impl Queried, query: &Query) -> Result<Vec<T>> {
        self.query_with(pstate, query, &Functions::none()).await
    }

    /// [`Launched::query`], for queries that name functions.
    ///
    /// # Errors
    /// As [`Launched::query`].
    pub async fn query_with<T: Outcome>(
        &self,
        pstate: impl Queried,
        query: &Query,
        functions: &Functions,
    ) -> Result<Vec<T>> {
        let pstate = pstate.queried();
        let (name, layout) = self.module.described(PStateIndex(pstate.0));
        check(name, layout, query).map_err(Error::invalid)?;
        let cx = Cx::new(layout, &self.module.fields, functions);
        let found = eval::query(self, pstate, &cx, query).await;
        found.map_err(|error| match error {
            eval::Error::Source(error) => error,
            eval::Error::Path(problem) if problem.is_of_rows() => {
                Error::Decode { what: problem.to_string() }
            }
            eval::Error::Path(problem) => Error::invalid(problem),
        })
    }
}

impl<H> Selects for Launched<H> {
    type Error = Error;

    async fn ask<P: Select + 'static>(&self, path: P) -> Result<P::Out> {
        self.select(path).await
    }
}
