//! What differs between two ids of a path.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;

use super::{Engine, Launched, Snapshot};
use crate::codec::KeyBuf;
use crate::difference::Differ;
use crate::error::{Error, Result};
use crate::module::PStateIndex;
use crate::node::Installed;
use crate::node::numbers::Numbers;
use crate::schema::{Outside, ReadOp, ReadPlan, Reads};
use crate::shard::message::{DifferenceRequest, Message, RawDiffering};
use crate::subscribe::index::Watch;
use crate::subscribe::mirror::element_key;
use crate::types::{MicrobatchId, PartitionId};

impl<H> Launched<H> {
    /// What differs between two ids of the topology that writes what a path leads to: one value or parts of it, the
    /// elements of a collection, all of them or a range, or everything under a key; see [`difference`](crate::difference) for what is told of each. A range
    /// over first keys compares every partition and merges.
    ///
    /// Each id is a visible microbatch of that topology, or the one that a [`Snapshot`] holds; they come in any
    /// order. Only what was written between the two is looked at, never the whole range, so `Options::history`
    /// must reach back to the earlier one. A snapshot keeps what was there, but what was written only until the
    /// partition is folded.
    ///
    /// ```
    /// use tidemill::difference::Differing;
    /// use tidemill::schema::Map;
    /// use tidemill::{Engine, Options, block_on};
    /// # use std::time::Duration;
    /// # let dir = tempfile::tempdir_in(".").unwrap();
    /// # block_on(async {
    /// # let options = Options { history: Duration::from_secs(60), ..Options::default() };
    /// # let engine = Engine::open(dir.path(), options).await?;
    /// let shop = engine
    ///     .launch("shop", |m| {
    ///         let prices = m.depot::<(String, i64)>("prices").hash_by(|(item, _)| item);
    ///         let pricing = m.microbatch(|| "pricing");
    ///         let list = pricing.pstate::<Map<String, i64>>("list");
    ///         pricing
    ///             .source(prices)
    ///             .using(list)
    ///             .for_each(async |at, list, (item, cents)| Ok(at.put(list.key(item), cents)?));
    ///         (prices, list.reader())
    ///     })
    ///     .await?;
    /// let (prices, list) = *shop;
    /// for (item, cents) in [("salt", 80), ("tea", 450)] {
    ///     shop.append(prices, &(item.to_owned(), cents)).await?;
    /// }
    /// shop.caught_up("pricing").await?;
    /// let yesterday = shop.snapshot().await?;
    /// shop.append(prices, &("tea".to_owned(), 500)).await?;
    /// shop.caught_up("pricing").await?;
    ///
    /// let today = shop.snapshot().await?;
    /// let dearer = shop.difference(list.all(), &yesterday, &today).all().await?;
    /// assert_eq!(dearer, [Differing { key: "tea".to_owned(), from: Some(450), to: Some(500) }]);
    /// # engine.close().await?;
    /// # Ok::<(), tidemill::Error>(())
    /// # })
    /// # .unwrap();
    /// ```
    pub fn difference<P: Differ + Outside>(
        &self,
        path: P,
        from: impl Into<Version>,
        to: impl Into<Version>,
    ) -> Differences<P> {
        let (steps, reads) = match path.steps(&self.module.fields) {
            Ok(steps) => (Some(steps), path.watched()),
            Err(error) => (None, Err(error)),
        };
        Differences {
            engine: self.engine.clone(),
            module: Arc::clone(&self.module),
            state: State::New(reads.map_err(Error::invalid)),
            steps,
            versions: (from.into(), to.into()),
        }
    }
}

/// What one microbatch left, of what its topology writes.
#[derive(Clone, Debug)]
pub struct Version(Which);

#[derive(Clone, Debug)]
enum Which {
    Id(MicrobatchId),
    Held(Snapshot),
}

/// Of the topology that writes what is compared.
impl From<MicrobatchId> for Version {
    fn from(id: MicrobatchId) -> Self {
        Self(Which::Id(id))
    }
}

/// The snapshot, which must be of the same module, is held as long as the version.
impl From<&Snapshot> for Version {
    fn from(snapshot: &Snapshot) -> Self {
        Self(Which::Held(snapshot.clone()))
    }
}

impl Version {
    /// The moment, of a topology of the module, by its place.
    fn moment(&self, module: &Arc<Installed>, owner: usize) -> Result<Moment> {
        let name = &module.definition.name;
        match &self.0 {
            Which::Held(snapshot) if Arc::ptr_eq(&snapshot.module, module) => {
                Ok((snapshot.pin.ids()[owner].1, Some(Arc::clone(snapshot.pin.numbers()))))
            }
            Which::Held(snapshot) => Err(Error::Invalid {
                what: format!(
                    "a snapshot of module `{}` cannot be compared through `{name}`, or it is of another opening",
                    snapshot.module.definition.name
                ),
            }),
            Which::Id(id) => {
                let (visible, topology) =
                    (module.visible_at(owner), &module.definition.topologies[owner].name);
                if visible < *id {
                    let what = format!(
                        "topology `{topology}` is visible up to {visible}, so {id} cannot be compared"
                    );
                    return Err(Error::Invalid { what });
                }
                Ok((*id, None))
            }
        }
    }
}

/// What differs between two ids, page by page: see [`Launched::difference`].
pub struct Differences<P: Differ> {
    engine: Engine,
    module: Arc<Installed>,
    state: State,
    /// There if the path is one.
    steps: Option<P::Steps>,
    /// Held, if they are snapshots, until the last page was read.
    versions: (Version, Version),
}

enum State {
    New(Result<Reads>),
    Reading(Reading),
}

struct Reading {
    owner: usize,
    /// With the number of `watch`, which nobody drops as long as these are held.
    _numbers: Arc<Numbers>,
    watch: Watch,
    /// The earlier id first.
    ids: (MicrobatchId, MicrobatchId),
    /// They were given the other way round.
    is_backward: bool,
    sources: Vec<Source>,
}

/// What one partition gives.
struct Source {
    partition: PartitionId,
    rows: VecDeque<RawDiffering>,
    /// The last key that was read.
    after: Option<KeyBuf>,
    is_last: bool,
}

impl<P: Differ> fmt::Debug for Differences<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Differences").field("versions", &self.versions).finish_non_exhaustive()
    }
}

impl<P: Differ> Differences<P> {
    /// The next entries that differ, in the order of their keys: some hundred KiB of them. `None` behind the
    /// last. If the future was dropped, the same page is read again.
    ///
    /// # Errors
    /// `SnapshotExpired` if what was written since the earlier id is not known any more; it says from which id on it
    /// is. `Invalid` for an id that is not visible yet, a snapshot of another module, a range with a limit or in
    /// reverse, a key that is too long, moments between which the `PState` was [recomputed](crate::recompute), and
    /// a `PState` of which a [migration](crate::migrate) was under way since the engine was opened;
    /// `ShardStopped`, `Corrupt`, `Decode`.
    pub async fn next(&mut self) -> Result<Option<Vec<P::Entry>>> {
        if let State::New(reads) = &self.state {
            self.state = State::Reading(self.begin(reads.clone()?)?);
        }
        let State::Reading(reading) = &mut self.state else { unreachable!("it was begun") };
        loop {
            reading.fill(&self.engine, &self.module).await?;
            let steps = self.steps.as_ref().expect("the path is one, or it was refused above");
            let page = reading.take::<P>(steps, &self.module)?;
            if !page.is_empty() {
                return Ok(Some(page));
            }
            if reading.sources.iter().all(Source::is_done) {
                return Ok(None);
            }
        }
    }

    /// All of them; for what is known to be little.
    ///
    /// # Errors
    /// As [`Differences::next`].
    pub async fn all(mut self) -> Result<Vec<P::Entry>> {
        let mut all = Vec::new();
        while let Some(page) = self.next().await? {
            all.extend(page);
        }
        Ok(all)
    }

    fn begin(&self, reads: Reads) -> Result<Reading> {
        let Reads::One(ReadPlan { pstate, place, op }) = reads else {
            unreachable!("tuples of paths have no difference")
        };
        if let ReadOp::Range(range) = &op
            && (range.limit.is_some() || range.reverse)
        {
            let what = "a difference comes in the order of the keys, and in pages: leave `limit` and `reverse` \
                        out, or compare a range of keys";
            return Err(Error::invalid(what));
        }
        let at = pstate.0 as usize;
        let owner = self.module.definition.pstates[at].owner;
        if let Some(moving) = self.module.moving(PStateIndex(pstate.0)) {
            let (name, id) = (&self.module.definition.pstates[at].name, &moving.id);
            let what = format!(
                "what was written of `{name}` cannot be told from what migration `{id}` rewrote of it; it can be \
                 once the engine is opened again with the migration done"
            );
            return Err(Error::Invalid { what });
        }
        let mut moments = [
            self.versions.0.moment(&self.module, owner)?,
            self.versions.1.moment(&self.module, owner)?,
        ];
        let [from, to] = [moments[0].0, moments[1].0];
        moments.sort_by_key(|(id, _)| *id);
        let numbers = self.numbers(moments, at)?;
        let watch = Watch::of(numbers.pstates[at], op).map_err(Error::invalid)?;
        let partitions = self.engine.partitions();
        let partitions = match place {
            Some(place) => vec![place.partition(partitions)],
            None => (0..partitions).map(PartitionId).collect(),
        };
        let source = |partition| Source {
            partition,
            rows: VecDeque::new(),
            after: None,
            // The same moment, of which nothing need be known.
            is_last: from == to,
        };
        Ok(Reading {
            owner,
            _numbers: numbers,
            watch,
            ids: (from.min(to), from.max(to)),
            is_backward: to < from,
            sources: partitions.into_iter().map(source).collect(),
        })
    }

    /// Where the `PState` at place `at` is stored at both moments, of which the earlier one comes first.
    fn numbers(&self, moments: [Moment; 2], at: usize) -> Result<Arc<Numbers>> {
        let definition = &self.module.definition;
        let pstate = &definition.pstates[at];
        let [(from, earlier), (_, later)] = moments;
        let numbers = later.unwrap_or_else(|| self.module.numbers());
        let since = numbers.since[pstate.owner];
        let is_elsewhere =
            earlier.is_some_and(|earlier| earlier.pstates[at] != numbers.pstates[at]);
        if from < since || is_elsewhere {
            let (name, topology) = (&pstate.name, &definition.topologies[pstate.owner].name);
            let what = format!(
                "`{name}` was recomputed between the two moments: what it is since then was not written one after \
                 the other, so it cannot be compared with what it was at {from} of topology `{topology}`; compare \
                 moments that were both seen after it, or both held by snapshots from before"
            );
            return Err(Error::Invalid { what });
        }
        Ok(numbers)
    }
}

/// An id, and where the module's `PState`s are stored at it; none if it is not held, so that it counts as one of
/// what is stored now.
type Moment = (MicrobatchId, Option<Arc<Numbers>>);

impl Reading {
    /// Reads on wherever nothing is left of what was read; all partitions at once.
    async fn fill(&mut self, engine: &Engine, module: &Installed) -> Result<()> {
        let node = &engine.inner.node;
        let mut asked = Vec::new();
        for (place, source) in self.sources.iter().enumerate() {
            if !source.rows.is_empty() || source.is_last {
                continue;
            }
            let shard = node.setup.owner(source.partition);
            let answer = node.post(shard, |reply| {
                Message::Difference(DifferenceRequest {
                    topology: module.topologies[self.owner],
                    partition: source.partition,
                    watch: self.watch.clone(),
                    ids: self.ids,
                    after: source.after.clone(),
                    after_only: false,
                    reply,
                })
            });
            asked.push((place, shard, answer));
        }
        for (place, shard, answer) in asked {
            let page = node.answered(shard, answer).await?;
            let source = &mut self.sources[place];
            source.after = page.rows.last().map(|row| KeyBuf::from(&*row.key));
            (source.rows, source.is_last) = (page.rows.into(), page.is_last);
        }
        Ok(())
    }

    /// Takes what is known to come next.
    fn take<P: Differ>(&mut self, steps: &P::Steps, module: &Installed) -> Result<Vec<P::Entry>> {
        let mut page = Vec::new();
        while self.sources.iter().all(|it| it.is_last || !it.rows.is_empty()) {
            let some = self.sources.iter_mut().filter(|it| !it.rows.is_empty());
            let next = some.min_by(|a, b| a.rows[0].key.cmp(&b.rows[0].key));
            let Some(source) = next else { break };
            let RawDiffering { key, before, after } = &source.rows[0];
            let (from, to) = if self.is_backward { (after, before) } else { (before, after) };
            let entry = element_key(key, self.watch.prefix_bytes()).and_then(|key| {
                P::entry(steps, &module.fields, key, from.as_deref(), to.as_deref())
            });
            match entry {
                Ok(entry) => page.extend(entry),
                // It stays where it is, and is met again behind what comes before it.
                Err(_) if !page.is_empty() => break,
                Err(error) => return Err(Error::Decode { what: error.to_string() }),
            }
            source.rows.pop_front();
        }
        Ok(page)
    }
}

impl Source {
    fn is_done(&self) -> bool {
        self.is_last && self.rows.is_empty()
    }
}
