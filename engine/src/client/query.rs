//! Queries that are data.

use std::fmt;
use std::future::Future;
use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

#[cfg(doc)]
use super::Selecting;
use super::select::{Moment, SelectOn};
use super::{Launched, Snapshot};
use crate::env::LocalFuture;
use crate::error::{Error, Result};
use crate::module::PStateIndex;
use crate::schema::ast::{Functions, Query, Value, check};
use crate::schema::eval::{self, Cx, Outcome, Queried, Selects};
use crate::schema::steps::{Collects, Steps};
use crate::schema::{Described, Outside, Select};
use crate::shard::message::{Message, WalkRequest};
use crate::shard::read::TRIES_MAX;
use crate::shard::walk::path_failed;
use crate::types::{MicrobatchId, PStateId, PartitionId};

impl<H> Launched<H> {
    /// All that a query reaches of what is visible, in order, each as a `T`, or as it is as a
    /// [`Value`] that can be shown as JSON. Where the query names no first key,
    /// it reaches what lies on all partitions.
    ///
    /// All of it is of one moment. A query that begins with a first key is one request to the shard that has it,
    /// which evaluates it there. Any other is evaluated here, and its steps ask the shards for rows, one after
    /// the other.
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
    /// what it reaches; `Timeout` if it was given a time.
    pub fn query<T: Outcome>(&self, pstate: impl Queried + Outside, query: &Query) -> Querying<T> {
        self.query_with(pstate, query, &Functions::none())
    }

    /// [`Launched::query`], for queries that name functions.
    ///
    /// # Errors
    /// As [`Launched::query`].
    pub fn query_with<T: Outcome>(
        &self,
        pstate: impl Queried + Outside,
        query: &Query,
        functions: &Functions,
    ) -> Querying<T> {
        self.asking(pstate, query, functions)
    }

    fn asking<T>(&self, pstate: impl Queried, query: &Query, functions: &Functions) -> Querying<T> {
        let asked = Asked {
            on: SelectOn { engine: self.engine.clone(), module: Arc::clone(&self.module) },
            pstate: pstate.queried(),
            query: query.clone(),
            functions: functions.clone(),
            moment: Moment::Now,
            within: None,
        };
        Querying { state: State::New(Box::new(asked)), types: PhantomData }
    }
}

impl<H> Launched<H> {
    /// All that typed steps lead to of what is visible, in order; with what was collected on the way, as tuples. As
    /// [`Launched::query`].
    ///
    /// # Errors
    /// As [`Launched::query`].
    #[allow(clippy::needless_pass_by_value, reason = "as events give them; clones are cheap")]
    pub fn find<O, T, C: Collects>(&self, steps: Steps<O, T, C>) -> Querying<C::Found<T>>
    where
        Steps<O, T, C>: Outside,
        C::Found<T>: Outcome,
    {
        match steps.query(&self.module.fields) {
            Ok(query) => self.asking(&steps, &query, &Functions::none()),
            Err(error) => {
                Querying { state: State::Refused(Some(Error::invalid(error))), types: PhantomData }
            }
        }
    }
}

/// A query that was asked: a future, of the thread that asks. Before it is polled for the first time it can be
/// sent into the past.
#[must_use = "nothing is read before it is awaited"]
pub struct Querying<T> {
    state: State,
    types: PhantomData<fn() -> T>,
}

enum State {
    New(Box<Asked>),
    Running(LocalFuture<'static, Result<(SelectOn, Vec<Value>)>>),
    /// It cannot be asked.
    Refused(Option<Error>),
}

struct Asked {
    on: SelectOn,
    pstate: PStateId,
    query: Query,
    functions: Functions,
    moment: Moment,
    within: Option<Duration>,
}

impl<T> Querying<T> {
    /// Reads what the snapshot, which must be of the same module, holds.
    pub fn at(mut self, snapshot: &Snapshot) -> Self {
        if let Some(asked) = self.asked() {
            asked.moment = Moment::At(snapshot.clone());
        }
        self
    }

    /// Reads what `topology`, which must write what is read, had left when `id` was its last visible microbatch:
    /// see [`Selecting::as_of`].
    pub fn as_of(mut self, topology: &str, id: MicrobatchId) -> Self {
        if let Some(asked) = self.asked() {
            asked.moment = Moment::AsOf(topology.to_owned(), id);
        }
        self
    }

    /// Gives it so long, counted where it is done; where it is evaluated here, each of its requests. Then it
    /// ends with [`Error::Timeout`].
    pub fn within(mut self, time: Duration) -> Self {
        if let Some(asked) = self.asked() {
            asked.within = Some(time);
        }
        self
    }

    /// None if it cannot be asked.
    fn asked(&mut self) -> Option<&mut Asked> {
        match &mut self.state {
            State::New(asked) => Some(asked),
            State::Refused(_) => None,
            State::Running(_) => panic!("how a query is done is said before it is polled"),
        }
    }
}

impl<T> fmt::Debug for Querying<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Querying").finish_non_exhaustive()
    }
}

impl<T: Outcome> Future for Querying<T> {
    type Output = Result<Vec<T>>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        if let State::New(asked) = &mut self.state {
            let asked = asked.take();
            self.state = State::Running(Box::pin(async move {
                let found = asked.found().await?;
                Ok((asked.on, found))
            }));
        }
        let running = match &mut self.state {
            State::Running(running) => running,
            State::Refused(error) => {
                let error = error.take().expect("not polled after it was ready");
                return Poll::Ready(Err(error));
            }
            State::New(_) => unreachable!("it was begun"),
        };
        let Poll::Ready(done) = running.as_mut().poll(context) else { return Poll::Pending };
        let (on, found) = done?;
        let outcomes = eval::outcomes(&on.module.fields, found);
        Poll::Ready(outcomes.map_err(|problem| path_failed(&problem)))
    }
}

impl Asked {
    /// What is asked, to be moved into its future.
    fn take(&mut self) -> Self {
        Self {
            on: self.on.clone(),
            pstate: self.pstate,
            query: self.query.clone(),
            functions: std::mem::take(&mut self.functions),
            moment: std::mem::replace(&mut self.moment, Moment::Now),
            within: self.within,
        }
    }

    async fn found(&self) -> Result<Vec<Value>> {
        let pstate = PStateIndex(self.pstate.0);
        let pstate = self.on.module.described(pstate);
        check(pstate.name, pstate.layout, &self.query).map_err(Error::invalid)?;
        let place = eval::place(pstate, &self.query);
        let place = place.map_err(|problem| path_failed(&problem))?;
        match place {
            Some(place) => self.walked(place.partition(self.on.engine.partitions())).await,
            None => self.spread(pstate).await,
        }
    }

    /// The results of a query that stays in one partition.
    async fn walked(&self, partition: PartitionId) -> Result<Vec<Value>> {
        let pstate = PStateIndex(self.pstate.0);
        let when = self.on.when_of(&self.moment, [pstate].into_iter())?;
        let node = &self.on.engine.inner.node;
        let asked = node.ask(node.setup.owner(partition), |reply| {
            Message::Walk(WalkRequest {
                module: Arc::clone(&self.on.module),
                partition,
                pstate,
                query: self.query.clone(),
                functions: self.functions.clone(),
                when,
                within: self.within,
                reply,
            })
        });
        asked.await
    }

    /// The results of any other.
    async fn spread(&self, pstate: Described<'_>) -> Result<Vec<Value>> {
        let is_now = matches!(self.moment, Moment::Now);
        for tries in 1.. {
            let moment = if is_now { self.on.now() } else { self.moment.clone() };
            let rows = AtMoment { on: &self.on, moment, within: self.within };
            let cx = Cx::of(pstate, &self.on.module.fields, &self.functions);
            match eval::query(&rows, self.pstate, &cx, &self.query).await {
                // What comes next is of another moment, and nothing of this one was given out.
                Err(eval::Error::Source(Error::SnapshotExpired { .. }))
                    if is_now && tries < TRIES_MAX => {}
                done => {
                    return done.map_err(|error| match error {
                        eval::Error::Source(error) => error,
                        eval::Error::Path(problem) => path_failed(&problem),
                    });
                }
            }
        }
        unreachable!("the last try returns")
    }
}

/// The selects of a query that is evaluated here.
struct AtMoment<'a> {
    on: &'a SelectOn,
    moment: Moment,
    within: Option<Duration>,
}

impl Selects for AtMoment<'_> {
    type Error = Error;

    async fn ask<P: Select + 'static>(&self, path: P) -> Result<P::Out> {
        self.on.select(path, self.moment.clone(), self.within).await
    }
}
