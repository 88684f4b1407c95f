//! Reads of `PState`s.
//!
//! A read is at one moment: one id of the topology that writes the `PState`. A read of one row is at what is
//! visible anywhere in the process when its shard does it, so whoever reads again never sees less, wherever
//! that lies. A read that takes longer is pinned while it lasts, by its shard, or here if it concerns several
//! partitions. If what it needs could not be kept that long, it begins again.

use std::collections::BTreeMap;
use std::future::Future;
use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_channel::oneshot;

use super::merge::{Part, merge_into};
use super::{Engine, Launched, Snapshot};
use crate::codec::FieldTable;
use crate::error::{Error, Result};
use crate::module::PStateIndex;
use crate::node::{Installed, pins};
use crate::schema::{Answer, Outside, ReadPlan, Reads, Rows, Select};
use crate::shard::message::{Message, ReadAnswer, ReadOperation, ReadRequest, When};
use crate::shard::read::TRIES_MAX;
use crate::types::{MicrobatchId, PartitionId, ShardId};

impl<H> Launched<H> {
    /// Reads one path, or a tuple of paths under one key, of what is visible, or of an older moment if the
    /// answer says so. A range over first keys asks every partition and merges; all of it is of one moment.
    ///
    /// # Errors
    /// `ShardStopped`, `Corrupt`, `Decode`; `Invalid` for a key that is too long or paths under different
    /// keys; `SnapshotExpired` if so much is written that what is read cannot be kept so long.
    pub fn select<P: Select + Outside>(&self, path: P) -> Selecting<P> {
        self.select_inside(path)
    }

    /// The same, of private `PState`s, too.
    pub(crate) fn select_inside<P: Select>(&self, path: P) -> Selecting<P> {
        let reads = path.reads().map_err(Error::invalid);
        let on = SelectOn { engine: self.engine.clone(), module: Arc::clone(&self.module) };
        Selecting { on, within: None, state: State::New(reads, Moment::Now), types: PhantomData }
    }

    /// As [`Launched::select`], of a path that leads to one place, and an error if nothing is there.
    ///
    /// # Errors
    /// `Absent`; and as [`Launched::select`].
    pub fn select_one<T, P: Select<Out = Option<T>> + Outside>(
        &self,
        path: P,
    ) -> impl Future<Output = Result<T>> + use<H, T, P> {
        let reads = path.reads().map_err(Error::invalid);
        let name = reads.as_ref().map(|reads| self.module.names(reads)).unwrap_or_default();
        let on = SelectOn { engine: self.engine.clone(), module: Arc::clone(&self.module) };
        let state = State::New(reads, Moment::Now);
        let selecting = Selecting::<P> { on, within: None, state, types: PhantomData };
        async move { selecting.await?.ok_or(Error::Absent { what: name }) }
    }

    /// Reads many paths, each like [`Launched::select`], with one request per partition; all of it is of one
    /// moment.
    ///
    /// # Errors
    /// As [`Launched::select`].
    pub fn select_many<P: Select + Outside, I: IntoIterator<Item = P>>(
        &self,
        paths: I,
    ) -> SelectingMany<P> {
        self.select_many_inside(paths)
    }

    /// The same, of private `PState`s, too.
    pub(crate) fn select_many_inside<P: Select>(
        &self,
        paths: impl IntoIterator<Item = P>,
    ) -> SelectingMany<P> {
        let reads: Result<Vec<Reads>> =
            paths.into_iter().map(|path| path.reads().map_err(Error::invalid)).collect();
        let on = SelectOn { engine: self.engine.clone(), module: Arc::clone(&self.module) };
        let state = ManyState::New(reads, Moment::Now);
        SelectingMany { on, within: None, state, types: PhantomData }
    }
}

/// The moment that is asked for.
#[derive(Clone, Debug)]
pub(super) enum Moment {
    Now,
    At(Snapshot),
    AsOf(String, MicrobatchId),
}

/// A read that was asked for: a future. Before it is polled for the first time it can be sent into the past.
#[must_use = "nothing is read before it is awaited"]
pub struct Selecting<P: Select> {
    on: SelectOn,
    within: Option<Duration>,
    state: State,
    types: PhantomData<fn() -> P>,
}

enum State {
    New(Result<Reads>, Moment),
    /// Of one partition, which needs no memory but this.
    One(Reads, ShardId, oneshot::Receiver<Result<Vec<ReadAnswer>>>),
    All(Boxed<(Reads, Vec<ReadAnswer>)>),
    Done,
}

type Boxed<T> = Pin<Box<dyn Future<Output = Result<T>> + Send>>;

/// [`Selecting`], of many paths.
#[must_use = "nothing is read before it is awaited"]
pub struct SelectingMany<P: Select> {
    on: SelectOn,
    within: Option<Duration>,
    state: ManyState,
    types: PhantomData<fn() -> P>,
}

enum ManyState {
    New(Result<Vec<Reads>>, Moment),
    All(Boxed<(Vec<Reads>, Vec<Vec<ReadAnswer>>)>),
    Done,
}

macro_rules! moments {
    ($name:ident, $state:ident) => {
        impl<P: Select> $name<P> {
            /// Reads what the snapshot, which must be of the same module, holds.
            pub fn at(mut self, snapshot: &Snapshot) -> Self {
                self.set(Moment::At(snapshot.clone()));
                self
            }

            /// Reads what `topology`, which must write what is read, had left when `id` was its last visible
            /// microbatch. It was, within the last `Options::history`; older ids may be there, and get
            /// `SnapshotExpired` if they are not.
            pub fn as_of(mut self, topology: &str, id: MicrobatchId) -> Self {
                self.set(Moment::AsOf(topology.to_owned(), id));
                self
            }

            /// Gives it so long, counted on its shards from when they get to it: then it ends with
            /// [`Error::Timeout`], which says what was read and where.
            pub fn within(mut self, time: Duration) -> Self {
                self.within = Some(time);
                self
            }

            fn set(&mut self, wanted: Moment) {
                match &mut self.state {
                    $state::New(_, moment) => *moment = wanted,
                    _ => panic!("the moment of a read is set before it is polled"),
                }
            }
        }

        impl<P: Select> std::fmt::Debug for $name<P> {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.debug_struct(stringify!($name)).finish_non_exhaustive()
            }
        }
    };
}

moments!(Selecting, State);
moments!(SelectingMany, ManyState);

impl<P: Select> Future for Selecting<P> {
    type Output = Result<P::Out>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        loop {
            let (reads, answers) = match &mut this.state {
                State::New(..) => {
                    let State::New(reads, moment) = std::mem::replace(&mut this.state, State::Done)
                    else {
                        unreachable!("looked at a moment ago")
                    };
                    this.state = this.on.begin(reads?, moment, this.within)?;
                    continue;
                }
                State::One(_, shard, answer) => {
                    let Poll::Ready(answered) = Pin::new(answer).poll(context) else {
                        return Poll::Pending;
                    };
                    let node = &this.on.engine.inner.node;
                    let answers =
                        answered.unwrap_or_else(|_| Err(node.setup.stopped_error(*shard)));
                    let State::One(reads, ..) = std::mem::replace(&mut this.state, State::Done)
                    else {
                        unreachable!("polled a moment ago")
                    };
                    (reads, answers?)
                }
                State::All(all) => {
                    let Poll::Ready(read) = all.as_mut().poll(context) else {
                        return Poll::Pending;
                    };
                    this.state = State::Done;
                    read?
                }
                State::Done => panic!("polled after it was ready"),
            };
            return Poll::Ready(decode::<P>(&this.on.module.fields, &reads, &answers));
        }
    }
}

impl<P: Select> Future for SelectingMany<P> {
    type Output = Result<Vec<P::Out>>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        if let ManyState::New(..) = this.state
            && let ManyState::New(reads, moment) =
                std::mem::replace(&mut this.state, ManyState::Done)
        {
            let (on, reads, within) = (this.on.clone(), reads?, this.within);
            this.state = ManyState::All(Box::pin(async move {
                let answers = on.read(&reads, moment, within).await?;
                Ok((reads, answers))
            }));
        }
        let ManyState::All(all) = &mut this.state else { panic!("polled after it was ready") };
        let Poll::Ready(read) = all.as_mut().poll(context) else { return Poll::Pending };
        this.state = ManyState::Done;
        let (reads, answers) = read?;
        let fields = &this.on.module.fields;
        let outs = reads.iter().zip(&answers).map(|(reads, own)| decode::<P>(fields, reads, own));
        Poll::Ready(outs.collect())
    }
}

/// What a select needs of a module, without the handles' type.
#[derive(Clone)]
pub(super) struct SelectOn {
    pub(super) engine: Engine,
    pub(super) module: Arc<Installed>,
}

impl SelectOn {
    /// Holds what is visible now.
    pub(super) fn now(&self) -> Moment {
        let pin = Arc::new(pins::Pin::visible(&self.engine.inner.node.setup, &self.module));
        Moment::At(Snapshot { pin, module: Arc::clone(&self.module) })
    }

    pub(super) fn select<P: Select>(
        &self,
        path: P,
        moment: Moment,
        within: Option<Duration>,
    ) -> Selecting<P> {
        let reads = path.reads().map_err(Error::invalid);
        Selecting { on: self.clone(), within, state: State::New(reads, moment), types: PhantomData }
    }

    /// Asks for what lies in one partition; gets ready to ask for what does not.
    fn begin(&self, reads: Reads, moment: Moment, within: Option<Duration>) -> Result<State> {
        let partition = reads.partition(self.engine.partitions()).map_err(Error::invalid)?;
        let Some(partition) = partition else {
            let on = self.clone();
            return Ok(State::All(Box::pin(async move {
                let reads = [reads];
                let mut answers = on.read(&reads, moment, within).await?;
                let [reads] = reads;
                Ok((reads, answers.pop().expect("one answer for each")))
            })));
        };
        let when = self.when(&moment, std::slice::from_ref(&reads))?;
        let (shard, answer) = self.ask(partition, reads.as_slice(), when, within);
        Ok(State::One(reads, shard, answer))
    }

    /// The answers of each, all of one moment.
    async fn read(
        &self,
        reads: &[Reads],
        moment: Moment,
        within: Option<Duration>,
    ) -> Result<Vec<Vec<ReadAnswer>>> {
        let now = matches!(moment, Moment::Now);
        for tries in 1.. {
            let when = match self.when(&moment, reads)? {
                When::Now => {
                    let setup = &self.engine.inner.node.setup;
                    When::Pinned(Arc::new(pins::Pin::visible(setup, &self.module)))
                }
                when => when,
            };
            match self.read_once(reads, &when, within).await {
                // What comes next is of another moment, and nothing of this one was given out.
                Err(Error::SnapshotExpired { .. }) if now && tries < TRIES_MAX => {}
                done => return done,
            }
        }
        unreachable!("the last try returns")
    }

    async fn read_once(
        &self,
        reads: &[Reads],
        when: &When,
        within: Option<Duration>,
    ) -> Result<Vec<Vec<ReadAnswer>>> {
        let partitions = self.engine.partitions();
        // Everything is asked for before the first answer is awaited.
        let mut by_partition: BTreeMap<PartitionId, Vec<usize>> = BTreeMap::new();
        let mut spread = Vec::new();
        for (place, read) in reads.iter().enumerate() {
            match read.partition(partitions).map_err(Error::invalid)? {
                Some(partition) => by_partition.entry(partition).or_default().push(place),
                None => spread.push(place),
            }
        }
        for partition in (0..partitions).map(PartitionId).filter(|_| !spread.is_empty()) {
            by_partition.entry(partition).or_default().extend(&spread);
        }
        let mut sent = Vec::with_capacity(by_partition.len());
        for (partition, places) in by_partition {
            let plans = places.iter().flat_map(|&place| reads[place].as_slice());
            let asked = self.ask(partition, plans, when.clone(), within);
            sent.push((places, asked));
        }
        // By place, the answers of each partition asked.
        let mut parts: Vec<Vec<Vec<ReadAnswer>>> = Vec::new();
        parts.resize_with(reads.len(), Vec::new);
        for (places, (shard, answer)) in sent {
            let mut answers = self.engine.inner.node.answered(shard, answer).await?.into_iter();
            for place in places {
                let own = answers.by_ref().take(reads[place].as_slice().len());
                parts[place].push(own.collect());
            }
        }
        let merged = reads.iter().zip(parts).map(|(read, mut parts)| {
            if parts.len() == 1 {
                return parts.pop().expect("there is one");
            }
            let plans = read.as_slice().iter().enumerate();
            plans.map(|(nth, plan)| merge(plan, parts.iter().map(|part| &part[nth]))).collect()
        });
        Ok(merged.collect())
    }

    /// What shards are told of the moment, which must fit what is read.
    fn when(&self, moment: &Moment, reads: &[Reads]) -> Result<When> {
        let owners = reads.iter().flat_map(Reads::as_slice);
        self.when_of(moment, owners.map(|plan| PStateIndex(plan.pstate.0)))
    }

    /// The same, of these `PState`s.
    pub(super) fn when_of(
        &self,
        moment: &Moment,
        mut read: impl Iterator<Item = PStateIndex>,
    ) -> Result<When> {
        let definition = &self.module.definition;
        match moment {
            Moment::Now => Ok(When::Now),
            Moment::At(snapshot) if Arc::ptr_eq(&snapshot.module, &self.module) => {
                Ok(When::Pinned(Arc::clone(&snapshot.pin)))
            }
            Moment::At(snapshot) => Err(Error::Invalid {
                what: format!(
                    "a snapshot of module `{}` cannot be read through `{}`, or it is of another opening",
                    snapshot.module.definition.name, definition.name
                ),
            }),
            Moment::AsOf(topology, id) => {
                let place = definition.topologies.iter().position(|it| it.name == *topology);
                let place = place.ok_or_else(|| Error::Invalid {
                    what: format!(
                        "module `{}` has no topology `{topology}` to read as of {id}",
                        definition.name
                    ),
                })?;
                let owner = |read: PStateIndex| definition.pstates[read.0 as usize].owner;
                if let Some(foreign) = read.find(|it| owner(*it) != place) {
                    let pstate = &definition.pstates[foreign.0 as usize];
                    let owner = &definition.topologies[pstate.owner].name;
                    let what = format!(
                        "`{}` is written by topology `{owner}`, so its ids count and not those of \
                         `{topology}`",
                        pstate.name
                    );
                    return Err(Error::Invalid { what });
                }
                let visible = self.module.visible_at(place);
                if visible < *id {
                    let what = format!(
                        "topology `{topology}` is visible up to {visible}, so it cannot be read as of {id}"
                    );
                    return Err(Error::Invalid { what });
                }
                let numbers = self.module.numbers();
                let oldest = numbers.since[place];
                if *id < oldest {
                    return Err(Error::SnapshotExpired { wanted: *id, oldest });
                }
                Ok(When::AsOf(*id, numbers))
            }
        }
    }

    pub(super) fn ask<'p>(
        &self,
        partition: PartitionId,
        plans: impl IntoIterator<Item = &'p ReadPlan>,
        when: When,
        within: Option<Duration>,
    ) -> (ShardId, oneshot::Receiver<Result<Vec<ReadAnswer>>>) {
        let operations = plans
            .into_iter()
            .map(|plan| ReadOperation { pstate: PStateIndex(plan.pstate.0), op: plan.op.clone() });
        let operations = operations.collect();
        let (module, numbers) = (Arc::clone(&self.module), self.module.numbers());
        let node = &self.engine.inner.node;
        let shard = node.setup.owner(partition);
        let answer = node.post(shard, |reply| {
            Message::Read(ReadRequest {
                module,
                partition,
                operations,
                numbers,
                when,
                within,
                reply,
            })
        });
        (shard, answer)
    }
}

/// Rows of one range from several partitions, in the order asked for.
fn merge<'a>(plan: &ReadPlan, parts: impl Iterator<Item = &'a ReadAnswer>) -> ReadAnswer {
    let crate::schema::ReadOp::Range(range) = &plan.op else {
        unreachable!("only ranges over first keys lie in all partitions");
    };
    let parts = parts.map(|part| match part {
        ReadAnswer::Rows(rows) => Part { rows, taken: 0, ends: true },
        ReadAnswer::Value(_) => unreachable!("a range is answered by rows"),
    });
    let mut parts: Vec<_> = parts.collect();
    let limit = range.limit.and_then(|limit| usize::try_from(limit).ok());
    let mut merged = Rows::new();
    merge_into(&mut parts, range.reverse, limit.unwrap_or(usize::MAX), &mut merged);
    ReadAnswer::Rows(merged)
}

pub(super) fn decode<P: Select>(
    fields: &FieldTable,
    reads: &Reads,
    answers: &[ReadAnswer],
) -> Result<P::Out> {
    let answers: Vec<Answer<'_>> = answers
        .iter()
        .map(|answer| match answer {
            ReadAnswer::Value(value) => Answer::One(value.as_deref()),
            ReadAnswer::Rows(rows) => Answer::Rows(rows),
        })
        .collect();
    P::decode(fields, reads.as_slice(), &answers)
        .map_err(|error| Error::Decode { what: error.to_string() })
}
