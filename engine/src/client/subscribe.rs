//! Subscriptions: see [`crate::subscribe`].

use std::fmt;
use std::future::Future;
use std::ops::ControlFlow;
use std::sync::Arc;

use futures_util::stream::{Stream, unfold};

use super::{Engine, Launched};
use crate::codec::KeyBuf;
use crate::error::{Error, Result};
use crate::module::PStateIndex;
use crate::node::Installed;
use crate::schema::{Outside, ReadPlan, Reads};
use crate::shard::message::{
    DifferenceRequest, Message, PageRequest, RawDiffering, SubscribeRequest, Subscribed,
};
use crate::shard::read::TRIES_MAX;
use crate::subscribe::index::{Watch, Watched};
use crate::subscribe::mirror::Write;
use crate::subscribe::queue::{RawDiff, RawWrite, Received, Receiver};
use crate::subscribe::{Change, ChangeOf, Gap, Mirror, Subscribe, VALUE_BYTES_MAX, What};
use crate::types::{MicrobatchId, PartitionId, ShardId};

impl<H> Launched<H> {
    /// The value at the end of a path, and from then on every change of it: once for each microbatch that becomes
    /// visible and changes it, as small as what it did, in order.
    ///
    /// The path leads to one row (a value, a field of a record, the presence of an element, a size) or to the
    /// elements of a `Sub` map, set or list, all of them or a range of keys, under one first key; to everything under a
    /// key, to any depth ([`Path::tree`](crate::schema::Path::tree)); or to parts of the value of one row
    /// ([`Path::inside`](crate::schema::Path::inside)).
    ///
    /// ```
    /// use tidemill::schema::{Map, Sub};
    /// use tidemill::subscribe::{MapDiff, What};
    /// # use tidemill::{Engine, Options};
    /// # let dir = tempfile::tempdir_in(".").unwrap();
    /// # futures_lite::future::block_on(async {
    /// # let engine = Engine::open(dir.path(), Options::default()).await?;
    /// let shop = engine
    ///     .launch("shop", |m| {
    ///         let prices = m.depot::<(String, String, i64)>("prices").hash_by(|(shop, _, _)| shop);
    ///         let pricing = m.microbatch(|| "pricing");
    ///         let list = pricing.pstate::<Map<String, Sub<Map<String, i64>>>>("list");
    ///         pricing.source(prices).using(list).for_each(async |at, list, (shop, item, cents)| {
    ///             Ok(at.put(list.key(shop).key(item), cents)?)
    ///         });
    ///         (prices, list.reader())
    ///     })
    ///     .await?;
    /// let (prices, list) = *shop;
    /// let mut ours = shop.subscribe(list.key("ours").all()).await?;
    /// assert!(ours.value().is_empty());
    ///
    /// shop.append(prices, &("ours".into(), "tea".into(), 450)).await?;
    /// let change = ours.next().await.unwrap()?;
    /// let What::Diffs(diffs) = change.what else { panic!("{change:?}") };
    /// assert_eq!(diffs, [MapDiff::Set { key: "tea".to_owned(), value: 450, old: None }]);
    /// assert_eq!(ours.value().get("tea"), Some(&450));
    /// # engine.close().await?;
    /// # Ok::<(), tidemill::Error>(())
    /// # })
    /// # .unwrap();
    /// ```
    ///
    /// # Errors
    /// `Invalid` for a range over first keys, which has no one place, for a range with a limit or in reverse,
    /// and if the value is larger than 16 MiB; `TooManySubscriptions`; otherwise as [`Launched::select`].
    pub fn subscribe<P: Subscribe + Outside>(
        &self,
        path: P,
    ) -> impl Future<Output = Result<Subscription<P>>> + Send + use<H, P> {
        let blank = path.mirror(&self.module.fields).map_err(Error::invalid);
        let planned = path.watched().map_err(Error::invalid).and_then(|reads| self.plan(reads));
        let (engine, module) = (self.engine.clone(), Arc::clone(&self.module));
        async move {
            let (mut place, blank) = (planned?, blank?);
            let registered = place.register(&engine, &module, Reading::First).await?;
            let read = place.read(blank, &engine, &module, registered, Reading::First).await?;
            let (read, registered) = read;
            place.watch.pstate = registered.number(place.pstate);
            let Subscribed { id, queue, .. } = registered;
            Ok(Subscription {
                engine,
                module,
                place,
                mirror: read,
                id,
                told: id,
                state: State::On(queue),
            })
        }
    }

    /// What of which partition a path watches.
    fn plan(&self, reads: Reads) -> Result<Place> {
        fn invalid<T>(what: &str) -> Result<T> {
            Err(Error::Invalid { what: what.to_owned() })
        }
        let Reads::One(ReadPlan { pstate, place, op }) = reads else {
            return invalid("one path is subscribed at a time, since each has changes of its own");
        };
        let Some(place) = place else {
            return invalid(
                "a range over first keys cannot be subscribed: its elements lie in all partitions, which do not \
                 change at one moment; subscribe what is under one first key",
            );
        };
        let partition = place.partition(self.engine.partitions());
        let at = pstate.0 as usize;
        let owner = self.module.definition.pstates[at].owner;
        let watch = Watch::of(self.module.numbers().pstates[at], op).or_else(invalid)?;
        let shard = self.engine.inner.node.setup.owner(partition);
        Ok(Place { shard, partition, owner, pstate: PStateIndex(pstate.0), watch })
    }
}

/// Where the rows of a subscription lie, and which they are.
struct Place {
    shard: ShardId,
    partition: PartitionId,
    owner: usize,
    pstate: PStateIndex,
    /// With the number under which that lay which the subscriber has.
    watch: Watch,
}

/// Which reading of a value it is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reading {
    /// The subscriber has nothing yet, and may be refused.
    First,
    /// It has missed something.
    Again,
}

impl Place {
    async fn register(
        &self,
        engine: &Engine,
        module: &Arc<Installed>,
        reading: Reading,
    ) -> Result<Subscribed> {
        let registered = engine.inner.node.ask(self.shard, |reply| {
            Message::Subscribe(SubscribeRequest {
                module: Arc::clone(module),
                owner: self.owner,
                partition: self.partition,
                pstate: self.pstate,
                watch: self.watch.clone(),
                again: reading == Reading::Again,
                reply,
            })
        });
        registered.await
    }

    /// Reads the value from which the queue of a registration goes on. What cannot be kept so long is begun anew.
    async fn read<M: Mirror>(
        &self,
        blank: M,
        engine: &Engine,
        module: &Arc<Installed>,
        mut registered: Subscribed,
        reading: Reading,
    ) -> Result<(M, Subscribed)> {
        for tries in 1.. {
            let fresh = blank.cleared(&module.fields).map_err(undecodable)?;
            match self.read_pages(fresh, engine, module, &registered, reading).await {
                Err(Error::SnapshotExpired { .. }) if tries < TRIES_MAX => {
                    registered = self.register(engine, module, reading).await?;
                }
                read => return Ok((read?, registered)),
            }
        }
        unreachable!("the last try returns")
    }

    /// What was written between an id and that of a registration, if that is known and less than a whole value may
    /// be.
    async fn written_since(
        &self,
        engine: &Engine,
        module: &Installed,
        id: MicrobatchId,
        registered: &Subscribed,
    ) -> Result<Option<Vec<RawWrite>>> {
        // What lies there now comes of a recompute, and was not written since.
        if registered.number(self.pstate) != self.watch.pstate {
            return Ok(None);
        }
        if registered.id <= id {
            // It never goes back.
            return Ok((id == registered.id).then(Vec::new));
        }
        // What a migration rewrote was written, too, and under another number than what it was read from.
        if module.moving(self.pstate).is_some() {
            return Ok(None);
        }
        let mut writes = Vec::new();
        let mut bytes = 0;
        let mut after: Option<KeyBuf> = None;
        loop {
            let page = engine.inner.node.ask(self.shard, |reply| {
                Message::Difference(DifferenceRequest {
                    topology: registered.pin.ids()[self.owner].0,
                    partition: self.partition,
                    watch: self.watch.clone(),
                    ids: (id, registered.id),
                    after: after.take(),
                    after_only: true,
                    reply,
                })
            });
            let page = match page.await {
                Err(Error::SnapshotExpired { .. }) => return Ok(None),
                page => page?,
            };
            bytes += page.rows.iter().map(RawDiffering::bytes).sum::<usize>();
            if bytes > VALUE_BYTES_MAX {
                return Ok(None);
            }
            after = page.rows.last().map(|row| KeyBuf::from(&*row.key));
            writes.extend(page.rows.into_iter().map(|row| match row.after {
                Some(value) => RawWrite::Put(row.key, value),
                None => RawWrite::Gone(row.key),
            }));
            if page.is_last {
                return Ok(Some(writes));
            }
        }
    }

    /// The value at the registration's pin.
    async fn read_pages<M: Mirror>(
        &self,
        mut mirror: M,
        engine: &Engine,
        module: &Arc<Installed>,
        registered: &Subscribed,
        reading: Reading,
    ) -> Result<M> {
        let prefix_bytes = self.watch.prefix_bytes();
        let mut bytes = 0;
        let mut after: Option<KeyBuf> = None;
        loop {
            let page = engine.inner.node.ask(self.shard, |reply| {
                Message::Page(PageRequest {
                    module: Arc::clone(module),
                    pin: Arc::clone(&registered.pin),
                    partition: self.partition,
                    pstate: self.pstate,
                    watch: self.watch.clone(),
                    after: after.take(),
                    reply,
                })
            });
            let page = page.await?;
            bytes += page.rows.bytes_len();
            let is_row = matches!(self.watch.rows, Watched::Row(_));
            if bytes > VALUE_BYTES_MAX && reading == Reading::First && !is_row {
                let what = format!(
                    "what is to be subscribed holds more than {VALUE_BYTES_MAX} bytes: subscribe a range of it, \
                     `.range(a..b)` or `.trees(a..b)`"
                );
                return Err(Error::Invalid { what });
            }
            let rows = page.rows.iter();
            let writes = rows.map(|(key, value)| Write::read(key, value, prefix_bytes));
            let writes: Vec<Write<'_>> =
                writes.collect::<crate::codec::Result<_>>().map_err(undecodable)?;
            mirror.apply(&module.fields, &writes).map_err(undecodable)?;
            if page.is_last {
                return Ok(mirror);
            }
            after = page.rows.iter().last().map(|(key, _)| key.into());
        }
    }
}

#[allow(clippy::needless_pass_by_value, reason = "called as `map_err(undecodable)`")]
fn undecodable(error: crate::codec::Error) -> Error {
    Error::Decode { what: error.to_string() }
}

/// A value that is kept up to date by whoever asks for its changes; see [`Launched::subscribe`].
///
/// ```text
///   id    the value is that of this microbatch of the topology that writes it
///   next  ──> Diffs | Unchanged | Bridged | Resynced   moves the value to a later id
///         ──> Err(ShardStopped), and so on             the value stays what it is; the next call registers again
///         ──> Err(Closed), then None
/// ```
///
/// Nothing happens by itself: changes wait, up to `Options::subscription_bytes_max`, until [`next`](Self::next)
/// is awaited. Dropping it ends the subscription.
pub struct Subscription<P: Subscribe> {
    engine: Engine,
    module: Arc<Installed>,
    place: Place,
    mirror: P::Mirror,
    /// The mirror is what is visible at this id.
    id: MicrobatchId,
    /// The last id in a change that was given out.
    told: MicrobatchId,
    state: State,
}

enum State {
    /// Changes come from here.
    On(Receiver),
    /// They do not any more, for this reason.
    Off(Gap),
    /// The engine was closed.
    Over,
}

impl<P: Subscribe> fmt::Debug for Subscription<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subscription").field("id", &self.id).finish_non_exhaustive()
    }
}

impl<P: Subscribe> Subscription<P> {
    /// The value, as it is at [`Subscription::id`].
    #[must_use]
    pub fn value(&self) -> &<P::Mirror as Mirror>::Value {
        self.mirror.value()
    }

    /// The microbatch, of the topology that writes the value, at which the value is what it is here.
    #[must_use]
    pub fn id(&self) -> MicrobatchId {
        self.id
    }

    /// The next change, which the value contains from then on; waits for it. `None` once the engine was closed
    /// and an error has said so.
    ///
    /// Dropping the future loses nothing.
    ///
    /// # Errors
    /// `ShardStopped`: the next call registers again, and gives [`What::Bridged`] or [`What::Resynced`] if the shard
    /// is back. It does
    /// not wait for that, so let some time pass before.
    /// `TooManySubscriptions` if others came in its place after a gap, `SnapshotExpired` if so much is written that the value cannot be read while it is kept, `Corrupt`,
    /// `Decode`: the same. `Closed`. After an error the value and its id are what they were before.
    pub async fn next(&mut self) -> Option<Result<ChangeOf<P>>> {
        loop {
            let queue = match &mut self.state {
                State::On(queue) => queue,
                State::Off(gap) => {
                    let gap = *gap;
                    return Some(self.resync(gap).await);
                }
                State::Over => return None,
            };
            match queue.next().await {
                Received::Diff(diff) => {
                    let applied = self.apply(&diff);
                    if applied.is_err() {
                        self.state = State::Off(Gap::Undecodable);
                    }
                    return Some(applied.map(|what| self.tell(what)));
                }
                // The queue goes, with what is in it.
                Received::Gap => self.state = State::Off(Gap::Overrun),
                Received::Moved => self.state = State::Off(Gap::Recomputed),
                Received::Ended => {
                    self.state = State::Off(Gap::Reopened);
                    let error = self.engine.inner.node.setup.stopped_error(self.place.shard);
                    return Some(Err(self.noted(error)));
                }
            }
        }
    }

    /// Calls `f` with the value and the change that led to it, change by change, until it breaks. What the
    /// change replaced is in the change: a copy of a whole collection for each would cost more than its size.
    ///
    /// # Errors
    /// As [`Subscription::next`]; it can be called again.
    pub async fn on_change(
        &mut self,
        mut f: impl FnMut(&<P::Mirror as Mirror>::Value, &ChangeOf<P>) -> ControlFlow<()>,
    ) -> Result<()> {
        while let Some(change) = self.next().await {
            if f(self.mirror.value(), &change?).is_break() {
                break;
            }
        }
        Ok(())
    }

    /// The changes as a stream, for those who need no value. It ends when the engine is closed.
    pub fn into_stream(self) -> impl Stream<Item = Result<ChangeOf<P>>> {
        unfold(self, async |mut subscription| {
            subscription.next().await.map(|change| (change, subscription))
        })
    }

    /// Does what one microbatch did.
    fn apply(&mut self, diff: &RawDiff) -> Result<What<DiffOf<P>, P::Mirror>> {
        assert_eq!(diff.from, self.id, "a change comes after the one before it");
        let diffs = self.do_writes(diff.made.writes())?;
        self.id = diff.to;
        Ok(if diffs.is_empty() { What::Unchanged } else { What::Diffs(diffs) })
    }

    /// Does writes to the value: all of them or, if there is an error, none.
    fn do_writes(&mut self, writes: &[RawWrite]) -> Result<Vec<DiffOf<P>>> {
        let prefix_bytes = self.place.watch.prefix_bytes();
        let writes = writes.iter().map(|raw| Write::of(raw, prefix_bytes));
        let writes: Vec<Write<'_>> =
            writes.collect::<crate::codec::Result<_>>().map_err(undecodable)?;
        self.mirror.apply(&self.module.fields, &writes).map_err(undecodable)
    }

    async fn resync(&mut self, gap: Gap) -> Result<ChangeOf<P>> {
        let what = self.close(gap).await.map_err(|error| self.noted(error))?;
        Ok(self.tell(what))
    }

    /// Registers again, and brings the value up to the id of that: by what was written since the one it has if that
    /// is known, else by reading it anew.
    async fn close(&mut self, gap: Gap) -> Result<What<DiffOf<P>, P::Mirror>> {
        let (engine, module, place) = (&self.engine, &self.module, &self.place);
        let registered = place.register(engine, module, Reading::Again).await?;
        if gap != Gap::Undecodable
            && let Some(writes) = place.written_since(engine, module, self.id, &registered).await?
            && let Ok(diffs) = self.do_writes(&writes)
        {
            self.id = registered.id;
            self.state = State::On(registered.queue);
            return Ok(What::Bridged { gap, diffs });
        }
        let (engine, module, place) = (&self.engine, &self.module, &self.place);
        let blank = self.mirror.cleared(&module.fields).map_err(undecodable)?;
        let read = place.read(blank, engine, module, registered, Reading::Again).await?;
        let (mirror, registered) = read;
        let old = std::mem::replace(&mut self.mirror, mirror);
        self.place.watch.pstate = registered.number(place.pstate);
        let Subscribed { id, queue, .. } = registered;
        self.id = id;
        self.state = State::On(queue);
        Ok(What::Resynced { gap, old })
    }

    fn tell(&mut self, what: What<DiffOf<P>, P::Mirror>) -> ChangeOf<P> {
        let from = std::mem::replace(&mut self.told, self.id);
        Change { from, to: self.id, what }
    }

    /// Remembers that the end has come, if it has.
    fn noted(&mut self, error: Error) -> Error {
        if matches!(error, Error::Closed) {
            self.state = State::Over;
        }
        error
    }
}

/// What a service keeps, and the futures that it awaits, go from thread to thread.
const _: () = {
    const fn sent<T: Send>(_: &T) {}

    #[allow(dead_code, reason = "the compiler checks it")]
    fn check<P: Subscribe>(mut subscription: Subscription<P>) {
        sent(&subscription);
        sent(&subscription.next());
        sent(&subscription.into_stream());
    }
};

type DiffOf<P> = <<P as Subscribe>::Mirror as Mirror>::Diff;
