//! The engine as a service holds it: open, launch, append, select, wait, close.
//!
//! Handles are `Send + Sync + Clone`. Futures come from no runtime and need none: await them anywhere, or
//! hand them to [`block_on`] in a plain thread. Dropping a future cancels nothing.

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::ops::{Deref, Range};
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use futures_channel::oneshot;

use crate::codec::{self, FieldTable};
use crate::depot::{Batch, Key, batch::Builder};
use crate::env::Platform;
use crate::env::production::{self, Production};
use crate::error::{Error, Result};
use crate::module::{self, Depot, DepotIndex, Module, PlacedBy};
use crate::node::{Installed, Node, Options, Progress, Recovery};
use crate::schema::{Answer, ReadPlan, Reads, Rows, Select};
use crate::shard::message::{
    Acknowledge, AppendRequest, Counters, DepotSlice, Effects, Message, ReadAnswer,
    ReadDepotRequest, ReadOperation, ReadRequest, WaitRequest,
};
use crate::topology::Row;
use crate::types::{DepotId, Offset, PStateId, PartitionId, ShardId, TopologyId};

/// An open data directory. Clones are handles to the same engine; the last one dropped ends it as a
/// crash would, [`Engine::close`] ends it cleanly.
#[derive(Clone)]
pub struct Engine {
    inner: Arc<Inner>,
}

struct Inner {
    node: Node,
    recovery: Recovery,
    /// Spreads records that may go anywhere.
    next_random: std::sync::atomic::AtomicU64,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.node.end_all_later();
    }
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine").field("shards", &self.shards()).finish_non_exhaustive()
    }
}

impl Engine {
    /// Opens the data directory at `dir`, or creates it.
    ///
    /// # Errors
    /// `Open` if the directory or the machine is not fit, or another process has it open; `Corrupt` if
    /// stored data is damaged; `Invalid` if the options do not fit the directory.
    pub async fn open(dir: impl AsRef<Path>, options: Options) -> Result<Self> {
        Self::open_with(dir, options, |_| {}).await
    }

    /// [`Engine::open`], telling `progress` how far replay is.
    ///
    /// # Errors
    /// As [`Engine::open`].
    pub async fn open_with(
        dir: impl AsRef<Path>,
        options: Options,
        progress: impl Fn(Progress) + Send + Sync + 'static,
    ) -> Result<Self> {
        let production_options =
            production::Options { shards: options.shards, ..production::Options::default() };
        let platform = Production::open(dir.as_ref(), production_options)
            .map_err(|error| Error::Open { what: crate::error::chain(&error) })?;
        Self::open_on(platform, options, progress).await
    }

    /// Opens the directory that `platform` holds: how tests run the engine in a simulator.
    ///
    /// # Errors
    /// As [`Engine::open`].
    pub async fn open_on(
        platform: Arc<dyn Platform>,
        options: Options,
        progress: impl Fn(Progress) + Send + Sync + 'static,
    ) -> Result<Self> {
        let (node, recovery) = Node::open(platform, options, Arc::new(progress)).await?;
        let next_random = std::sync::atomic::AtomicU64::new(0);
        Ok(Self { inner: Arc::new(Inner { node, recovery, next_random }) })
    }

    /// What opening found.
    #[must_use]
    pub fn recovery(&self) -> &Recovery {
        &self.inner.recovery
    }

    /// How many shards it has.
    #[must_use]
    pub fn shards(&self) -> u16 {
        self.inner.node.setup.shards
    }

    /// How many partitions it has, for ever.
    #[must_use]
    pub fn partitions(&self) -> u32 {
        self.inner.node.setup.partitions
    }

    /// Declares a module, makes its numbers durable and starts its topologies, which go on where they
    /// stopped. Returns when what was decided before is applied everywhere.
    ///
    /// # Errors
    /// `Invalid` names the lines at fault; `ShardStopped`, `DiskFull`.
    #[track_caller]
    pub fn launch<H, F: FnOnce(&Module) -> H>(
        &self,
        name: &str,
        module: F,
    ) -> impl Future<Output = Result<Launched<H>>> + use<H, F> {
        let defined = module::define(name, |m| module(m));
        let engine = self.clone();
        async move {
            let (handles, definition) = defined.map_err(Error::invalid)?;
            let module = engine.inner.node.launch(definition).await?;
            Ok(Launched { engine, module, handles: Arc::new(handles) })
        }
    }

    /// What each shard has counted.
    ///
    /// # Errors
    /// `ShardStopped`.
    pub async fn counters(&self) -> Result<Vec<Counters>> {
        let node = &self.inner.node;
        let mut counters = Vec::new();
        for shard in node.shards() {
            counters.push(node.ask(shard, |reply| Message::Counters { reply }).await?);
        }
        Ok(counters)
    }

    /// Folds every partition now.
    ///
    /// # Errors
    /// `DiskFull` loses nothing; `ShardStopped`.
    pub async fn fold(&self) -> Result<()> {
        let node = &self.inner.node;
        let answers: Vec<_> = node
            .shards()
            .map(|shard| (shard, node.post(shard, |reply| Message::FoldAll { reply })))
            .collect();
        for (shard, answer) in answers {
            node.answered(shard, answer).await?;
        }
        Ok(())
    }

    /// Why a shard has stopped; `None` while it runs.
    #[must_use]
    pub fn stopped(&self, shard: ShardId) -> Option<String> {
        self.inner.node.setup.stopped_cause(shard)
    }

    /// Where the topologies of a shard stand, for people.
    ///
    /// # Errors
    /// `ShardStopped`.
    #[doc(hidden)]
    pub async fn describe_shard(&self, shard: ShardId) -> Result<String> {
        self.inner.node.ask(shard, |reply| Message::Describe { reply }).await
    }

    /// Ends a shard as a failure of its disk or a bug would: for tests of what comes after.
    #[doc(hidden)]
    pub fn fail_shard(&self, shard: ShardId, cause: &str) {
        self.inner.node.tell(shard, Message::Fail { cause: cause.to_owned() });
    }

    /// Ends a shard by a panic: for tests of what comes after.
    #[doc(hidden)]
    pub fn panic_shard(&self, shard: ShardId, cause: &str) {
        self.inner.node.tell(shard, Message::Panic { cause: cause.to_owned() });
    }

    /// Recovers a stopped shard in place. The other shards have gone on meanwhile.
    ///
    /// # Errors
    /// As [`Engine::open`]; `Invalid` if the shard is running.
    pub async fn reopen_shard(&self, shard: ShardId) -> Result<()> {
        self.inner.node.reopen(shard).await
    }

    /// Ends the engine as a crash would, but waits until it has let go of its files. Nothing durable is
    /// lost; opening replays the journals.
    pub async fn stop(self) {
        self.inner.node.end_all().await;
    }

    /// Ends the engine cleanly: nothing more is accepted, everything is folded, the ends of the journals
    /// are recorded.
    ///
    /// # Errors
    /// `ShardStopped`, `DiskFull`: then the directory is as after a crash, and loses nothing.
    pub async fn close(self) -> Result<()> {
        self.inner.node.close().await
    }
}

/// A running module: its handles, and what can be done with them. Dereferences to what the module
/// function returned.
pub struct Launched<H> {
    engine: Engine,
    module: Arc<Installed>,
    handles: Arc<H>,
}

impl<H> Clone for Launched<H> {
    fn clone(&self) -> Self {
        Self {
            engine: self.engine.clone(),
            module: Arc::clone(&self.module),
            handles: Arc::clone(&self.handles),
        }
    }
}

impl<H> Deref for Launched<H> {
    type Target = H;

    fn deref(&self) -> &H {
        &self.handles
    }
}

impl<H> fmt::Debug for Launched<H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Launched")
            .field("module", &self.module.definition.name)
            .finish_non_exhaustive()
    }
}

/// Where appended records lie.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Appended {
    depot: DepotIndex,
    /// The depot's partition.
    pub partition: PartitionId,
    /// Their offsets there, without gaps.
    pub offsets: Range<Offset>,
}

/// One record read back from a depot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DepotRecord<T> {
    /// Its offset.
    pub offset: Offset,
    /// When it was appended.
    pub append_time: crate::types::WallTime,
    /// The record.
    pub record: T,
}

impl<H> Launched<H> {
    /// The engine it runs on.
    #[must_use]
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// Appends one record, durably.
    ///
    /// # Errors
    /// `DiskFull` and `Overloaded` appended nothing; after `ShardStopped` it is unknown whether the record
    /// was appended; `Invalid` if it cannot be encoded.
    pub fn append<T: Row, R>(&self, depot: Depot<T, R>, record: &T) -> Append {
        self.append_with(depot, record, None, Acknowledge::Durable)
    }

    /// Appends one record under a key: repeated with the same key, it is appended once and gets the
    /// first answer, within the window that [`crate::depot::Options`] states. Not for depots whose
    /// records may go anywhere.
    ///
    /// # Errors
    /// As [`Launched::append`].
    pub fn append_once<T: Row, R>(&self, depot: Depot<T, R>, key: Key, record: &T) -> Append {
        self.append_with(depot, record, Some(key), Acknowledge::Durable)
    }

    /// Appends one record and says when to be answered.
    ///
    /// # Errors
    /// As [`Launched::append`].
    pub fn append_acknowledged<T: Row, R>(
        &self,
        depot: Depot<T, R>,
        record: &T,
        acknowledge: Acknowledge,
    ) -> Append {
        self.append_with(depot, record, None, acknowledge)
    }

    fn append_with<T: Row, R>(
        &self,
        depot: Depot<T, R>,
        record: &T,
        key: Option<Key>,
        acknowledge: Acknowledge,
    ) -> Append {
        let encode = || {
            let mut builder = Builder::default();
            self.push(&mut builder, record)?;
            let batch = builder.finish();
            let batch = match key {
                Some(key) => batch.with_key(key),
                None => batch,
            };
            Ok((self.place(depot.index(), record), batch))
        };
        match encode() {
            Ok((partition, batch)) => {
                let shard = self.engine.inner.node.setup.owner(partition);
                let batches = vec![(partition, batch)];
                Append(Ok(self.send(depot.index(), shard, batches, acknowledge)))
            }
            Err(error) => Append(Err(Some(error))),
        }
    }

    /// Appends many records, durably: those of one partition together or not at all. The answer has one
    /// element per partition.
    ///
    /// # Errors
    /// As [`Launched::append`]; other partitions' records may have been appended all the same.
    pub fn append_many<'r, T: Row, R, I: IntoIterator<Item = &'r T>>(
        &self,
        depot: Depot<T, R>,
        records: I,
    ) -> AppendMany {
        let mut builders: BTreeMap<PartitionId, Builder> = BTreeMap::new();
        for record in records {
            let partition = self.place(depot.index(), record);
            let builder = builders.entry(partition).or_default();
            if let Err(error) = self.push(builder, record) {
                let failure = Some(error);
                return AppendMany { sent: Vec::new().into_iter(), failure, appended: Vec::new() };
            }
        }
        let mut by_shard: BTreeMap<ShardId, Vec<(PartitionId, Batch)>> = BTreeMap::new();
        let mut counts = 0;
        for (partition, builder) in builders {
            counts += 1;
            let shard = self.engine.inner.node.setup.owner(partition);
            by_shard.entry(shard).or_default().push((partition, builder.finish()));
        }
        let sent: Vec<Sent> = by_shard
            .into_iter()
            .map(|(shard, batches)| self.send(depot.index(), shard, batches, Acknowledge::Durable))
            .collect();
        let appended = Vec::with_capacity(counts);
        AppendMany { sent: sent.into_iter(), failure: None, appended }
    }

    fn push<T: Row>(&self, builder: &mut Builder, record: &T) -> Result<()> {
        let mut encoded = Ok(());
        let pushed = builder.push_with(|out| {
            encoded = codec::encode(&self.module.fields, record, out);
        });
        encoded.map_err(Error::invalid)?;
        pushed.map_err(Error::invalid)
    }

    fn place<T: 'static>(&self, depot: DepotIndex, record: &T) -> PartitionId {
        let partitions = self.engine.partitions();
        match &self.module.definition.depots[depot.0 as usize].placed_by {
            PlacedBy::Hash(placer) => placer.place(record).partition(partitions),
            PlacedBy::Random => {
                // Any spread will do; a counter needs no source of chance.
                let next = &self.engine.inner.next_random;
                let turn = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                let turn = u32::try_from(turn % u64::from(partitions));
                PartitionId(turn.expect("below the number of partitions"))
            }
            PlacedBy::Single => PartitionId(0),
        }
    }

    /// Sends batches for partitions of one shard.
    fn send(
        &self,
        depot: DepotIndex,
        shard: ShardId,
        batches: Vec<(PartitionId, Batch)>,
        acknowledge: Acknowledge,
    ) -> Sent {
        let node = &self.engine.inner.node;
        let counts = batches.iter().map(|(partition, batch)| (*partition, batch.count())).collect();
        let id = self.module.depots[depot.0 as usize];
        let answer = node.post(shard, |reply| {
            Message::Append(AppendRequest { depot: id, batches, acknowledge, reply })
        });
        let setup = Arc::clone(&node.setup);
        Sent { answer, setup, shard, depot, counts }
    }

    /// Reads one path, or a tuple of paths under one key, of what is visible. A range over first keys asks
    /// every partition and merges.
    ///
    /// # Errors
    /// `ShardStopped`, `Corrupt`, `Decode`; `Invalid` for a key that is too long or paths under different
    /// keys.
    pub fn select<P: Select>(&self, path: P) -> impl Future<Output = Result<P::Out>> + use<P, H> {
        let reads = path.reads().map_err(Error::invalid);
        let launched = SelectOn { engine: self.engine.clone(), module: Arc::clone(&self.module) };
        async move {
            let reads = reads?;
            let answers = launched.read(&reads).await?;
            decode::<P>(&launched.module.fields, &reads, &answers)
        }
    }

    /// Reads many paths, each like [`Launched::select`], with one request per partition.
    ///
    /// # Errors
    /// As [`Launched::select`].
    pub fn select_many<P: Select, I: IntoIterator<Item = P>>(
        &self,
        paths: I,
    ) -> impl Future<Output = Result<Vec<P::Out>>> + use<P, I, H> {
        let reads: Result<Vec<Reads>> =
            paths.into_iter().map(|path| path.reads().map_err(Error::invalid)).collect();
        let launched = SelectOn { engine: self.engine.clone(), module: Arc::clone(&self.module) };
        async move {
            let reads = reads?;
            let partitions = launched.engine.partitions();
            let mut by_partition: BTreeMap<PartitionId, Vec<usize>> = BTreeMap::new();
            let mut spread = Vec::new();
            for (place, read) in reads.iter().enumerate() {
                match read.partition(partitions).map_err(Error::invalid)? {
                    Some(partition) => by_partition.entry(partition).or_default().push(place),
                    None => spread.push(place),
                }
            }
            let mut outs: Vec<Option<P::Out>> = Vec::new();
            outs.resize_with(reads.len(), || None);
            let mut sent = Vec::new();
            for (partition, places) in by_partition {
                let plans = places.iter().flat_map(|&place| reads[place].as_slice());
                sent.push((places.clone(), launched.ask(partition, plans)));
            }
            for (places, (shard, answer)) in sent {
                let answers = launched.engine.inner.node.answered(shard, answer).await?;
                let mut rest = answers.as_slice();
                for place in places {
                    let (own, others) = rest.split_at(reads[place].as_slice().len());
                    rest = others;
                    outs[place] = Some(decode::<P>(&launched.module.fields, &reads[place], own)?);
                }
            }
            for place in spread {
                let answers = launched.read(&reads[place]).await?;
                outs[place] = Some(decode::<P>(&launched.module.fields, &reads[place], &answers)?);
            }
            Ok(outs.into_iter().map(|out| out.expect("each place was read")).collect())
        }
    }

    /// Resolves when the effects of appended records on a topology are durable and visible, or the
    /// last of them was rejected.
    ///
    /// # Errors
    /// `Invalid` if the module has no such topology or it does not read the depot; `ShardStopped` if it is
    /// unknown.
    pub fn wait(
        &self,
        topology: &str,
        appended: &Appended,
    ) -> impl Future<Output = Result<Effects>> + Send + use<H> {
        let all = self.wait_all(topology, std::slice::from_ref(appended));
        async move { Ok(all.await?.pop().expect("one answer for each append")) }
    }

    /// [`Launched::wait`] for several appends to one depot, such as [`Launched::append_many`] returns them:
    /// the effects of each, in the same order, when all of them are through.
    ///
    /// # Errors
    /// As [`Launched::wait`]; `Invalid` if the appends are to different depots.
    pub fn wait_all(
        &self,
        topology: &str,
        appended: &[Appended],
    ) -> impl Future<Output = Result<Vec<Effects>>> + Send + use<H> {
        let sent = self.send_waits(topology, appended);
        let (engine, count) = (self.engine.clone(), appended.len());
        async move {
            let mut effects = vec![None; count];
            for (shard, places, answer) in sent? {
                let answers = engine.inner.node.answered(shard, answer).await?;
                for (place, answer) in places.into_iter().zip(answers) {
                    effects[place] = Some(answer);
                }
            }
            Ok(effects.into_iter().map(|it| it.expect("each of them was asked for")).collect())
        }
    }

    /// One request for each shard, with the places of its appends among `appended`.
    #[allow(clippy::type_complexity, reason = "of one caller")]
    fn send_waits(
        &self,
        topology: &str,
        appended: &[Appended],
    ) -> Result<Vec<(ShardId, Vec<usize>, oneshot::Receiver<Result<Vec<Effects>>>)>> {
        let index = appended.first().map(|appended| appended.depot);
        let id = self.topology(topology, index)?;
        let Some(index) = index else { return Ok(Vec::new()) };
        if appended.iter().any(|appended| appended.depot != index) {
            let what = "appends to different depots are waited for one depot at a time";
            return Err(Error::Invalid { what: what.to_owned() });
        }
        let depot = self.module.depots[index.0 as usize];
        let node = &self.engine.inner.node;
        let mut by_shard: BTreeMap<ShardId, (Vec<usize>, Vec<_>)> = BTreeMap::new();
        for (place, appended) in appended.iter().enumerate() {
            let last = Offset(appended.offsets.end.0.saturating_sub(1));
            let (places, records) =
                by_shard.entry(node.setup.owner(appended.partition)).or_default();
            places.push(place);
            records.push((appended.partition, last));
        }
        let sent = by_shard.into_iter().map(|(shard, (places, records))| {
            let answer = node.post(shard, |reply| {
                Message::Wait(WaitRequest { topology: id, depot, records, reply })
            });
            (shard, places, answer)
        });
        Ok(sent.collect())
    }

    /// Resolves when a topology has applied everything that was durable in its depots when this was
    /// called.
    ///
    /// # Errors
    /// As [`Launched::wait`].
    pub fn caught_up(&self, topology: &str) -> impl Future<Output = Result<()>> + Send + use<H> {
        let found = self.topology(topology, None);
        let engine = self.engine.clone();
        async move {
            let topology = found?;
            let node = &engine.inner.node;
            let asked: Vec<_> = node
                .shards()
                .map(|shard| {
                    (shard, node.post(shard, |reply| Message::CaughtUp { topology, reply }))
                })
                .collect();
            for (shard, answer) in asked {
                node.answered(shard, answer).await?;
            }
            Ok(())
        }
    }

    /// Why a topology begins no further microbatch; `None` while it goes on. A shard that is down
    /// pauses it until that is opened again, a microbatch that its code rejects as a whole until the
    /// code is changed.
    ///
    /// # Errors
    /// `Invalid` if the module has no such topology, `ShardStopped` if its coordinator's shard is down.
    pub async fn paused(&self, topology: &str) -> Result<Option<String>> {
        let id = self.topology(topology, None)?;
        let node = &self.engine.inner.node;
        let partition = crate::shard::microbatch::Topology::coordinator_partition(
            topology,
            self.engine.partitions(),
        );
        let shard = node.setup.owner(partition);
        node.ask(shard, |reply| Message::Paused { topology: id, reply }).await
    }

    fn topology(&self, name: &str, reads: Option<DepotIndex>) -> Result<TopologyId> {
        let topologies = &self.module.definition.topologies;
        let Some(place) = topologies.iter().position(|it| it.name == name) else {
            let known: Vec<_> = topologies.iter().map(|it| it.name.as_str()).collect();
            let what = format!("no topology `{name}`; the module has {}", known.join(", "));
            return Err(Error::Invalid { what });
        };
        let sources = &topologies[place].sources;
        if let Some(depot) = reads.filter(|&depot| sources.iter().all(|it| it.depot != depot)) {
            let depot = &self.module.definition.depots[depot.0 as usize].name;
            let what = format!("topology `{name}` does not read depot `{depot}`");
            return Err(Error::Invalid { what });
        }
        Ok(self.module.topologies[place])
    }

    /// Reads durable records of one depot partition from an offset on, at most `records_max` and about
    /// 1 MiB. Empty at the end.
    ///
    /// # Errors
    /// `Trimmed`, `Corrupt`, `Decode`, `ShardStopped`.
    pub async fn read_depot<T: Row, R>(
        &self,
        depot: Depot<T, R>,
        partition: PartitionId,
        from: Offset,
        records_max: usize,
    ) -> Result<Vec<DepotRecord<T>>> {
        let id = self.module.depots[depot.index().0 as usize];
        let slice = self.slice(id, partition, from, records_max).await?;
        let decoded = slice.records.iter().map(|record| {
            let value = codec::decode(&self.module.fields, record.bytes);
            Ok(DepotRecord {
                offset: record.offset,
                append_time: record.append_time,
                record: value.map_err(|error| Error::Decode { what: error.to_string() })?,
            })
        });
        decoded.collect()
    }

    /// The offsets of one depot partition that are kept and durable.
    ///
    /// # Errors
    /// `ShardStopped`.
    pub async fn depot_range<T: Row, R>(
        &self,
        depot: Depot<T, R>,
        partition: PartitionId,
    ) -> Result<Range<Offset>> {
        let id = self.module.depots[depot.index().0 as usize];
        let slice = self.slice(id, partition, Offset(u64::MAX), 0).await?;
        Ok(slice.first..slice.end)
    }

    /// Rejected records of a topology in one partition, in order: depot, offset, reason, record.
    ///
    /// # Errors
    /// As [`Launched::read_depot`].
    pub async fn dead_letters(
        &self,
        topology: &str,
        partition: PartitionId,
        from: Offset,
    ) -> Result<Vec<Rejected>> {
        let id = self.topology(topology, None)?;
        let place = self.module.topologies.iter().position(|&it| it == id);
        let depot = self.module.dead_letters[place.expect("found above")];
        let slice = self.slice(depot, partition, from, 1_024).await?;
        let letters = slice.records.iter().map(|record| {
            let letter = crate::shard::DeadLetter::decode(record.bytes)
                .ok_or_else(|| Error::Decode { what: "a dead letter".to_owned() })?;
            let depots = &self.module.depots;
            let place = depots.iter().position(|&it| it == letter.depot);
            let name = place.map(|place| self.module.definition.depots[place].name.clone());
            Ok(Rejected {
                depot: name.unwrap_or_else(|| letter.depot.to_string()),
                partition,
                offset: letter.offset,
                reason: letter.reason.to_owned(),
                record: letter.record.to_vec(),
            })
        });
        letters.collect()
    }

    async fn slice(
        &self,
        depot: DepotId,
        partition: PartitionId,
        from: Offset,
        records_max: usize,
    ) -> Result<DepotSlice> {
        if partition.0 >= self.engine.partitions() {
            return Err(Error::Invalid { what: format!("there is no partition {partition}") });
        }
        let node = &self.engine.inner.node;
        let shard = node.setup.owner(partition);
        node.ask(shard, |reply| {
            Message::ReadDepot(ReadDepotRequest { depot, partition, from, records_max, reply })
        })
        .await
    }
}

/// A record that a topology gave up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejected {
    /// The depot it lies in.
    pub depot: String,
    /// Its partition.
    pub partition: PartitionId,
    /// Its offset.
    pub offset: Offset,
    /// What the last attempt failed of.
    pub reason: String,
    /// The record, as the depot has it.
    pub record: Vec<u8>,
}

/// What a select needs of a module, without the handles' type.
struct SelectOn {
    engine: Engine,
    module: Arc<Installed>,
}

impl SelectOn {
    async fn read(&self, reads: &Reads) -> Result<Vec<ReadAnswer>> {
        let partitions = self.engine.partitions();
        let plans = reads.as_slice();
        if let Some(partition) = reads.partition(partitions).map_err(Error::invalid)? {
            let (shard, answer) = self.ask(partition, plans);
            return self.engine.inner.node.answered(shard, answer).await;
        }
        let sent: Vec<_> = (0..partitions).map(|it| self.ask(PartitionId(it), plans)).collect();
        let mut parts: Vec<Vec<ReadAnswer>> = Vec::with_capacity(sent.len());
        for (shard, answer) in sent {
            parts.push(self.engine.inner.node.answered(shard, answer).await?);
        }
        Ok(plans
            .iter()
            .enumerate()
            .map(|(place, plan)| merge(plan, parts.iter().map(|answers| &answers[place])))
            .collect())
    }

    fn ask<'p>(
        &self,
        partition: PartitionId,
        plans: impl IntoIterator<Item = &'p ReadPlan>,
    ) -> (ShardId, oneshot::Receiver<Result<Vec<ReadAnswer>>>) {
        let operations = plans
            .into_iter()
            .map(|plan| ReadOperation { pstate: self.pstate(plan.pstate), op: plan.op.clone() })
            .collect();
        let node = &self.engine.inner.node;
        let shard = node.setup.owner(partition);
        let answer =
            node.post(shard, |reply| Message::Read(ReadRequest { partition, operations, reply }));
        (shard, answer)
    }

    /// Tokens number `PState`s within their module.
    fn pstate(&self, token: PStateId) -> PStateId {
        self.module.pstates[token.0 as usize]
    }
}

/// Rows of one range from several partitions, in the order asked for.
fn merge<'a>(plan: &ReadPlan, parts: impl Iterator<Item = &'a ReadAnswer>) -> ReadAnswer {
    let crate::schema::ReadOp::Range(range) = &plan.op else {
        unreachable!("only ranges over first keys lie in all partitions");
    };
    let mut rows: Vec<(&[u8], &[u8])> = Vec::new();
    for part in parts {
        if let ReadAnswer::Rows(part) = part {
            rows.extend(part.iter());
        }
    }
    rows.sort_unstable_by(|a, b| if range.reverse { b.0.cmp(a.0) } else { a.0.cmp(b.0) });
    let limit =
        range.limit.map_or(usize::MAX, |limit| usize::try_from(limit).unwrap_or(usize::MAX));
    let mut merged = Rows::new();
    for (key, value) in rows.into_iter().take(limit) {
        merged.push(key, value);
    }
    ReadAnswer::Rows(merged)
}

fn decode<P: Select>(fields: &FieldTable, reads: &Reads, answers: &[ReadAnswer]) -> Result<P::Out> {
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

/// An append on its way; resolves to where the records lie. The append goes on if this is dropped.
#[must_use = "whether it worked is known only when this resolved"]
pub struct Append(std::result::Result<Sent, Option<Error>>);

/// Batches on their way to one shard.
struct Sent {
    answer: oneshot::Receiver<Result<Vec<Result<Offset>>>>,
    setup: Arc<crate::shard::Setup>,
    shard: ShardId,
    depot: DepotIndex,
    /// How many records for each partition.
    counts: Vec<(PartitionId, u32)>,
}

impl Sent {
    /// What became of each batch.
    fn poll(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Result<impl Iterator<Item = Result<Appended>> + use<>>> {
        let Poll::Ready(answered) = Pin::new(&mut self.answer).poll(context) else {
            return Poll::Pending;
        };
        let answers = answered.unwrap_or_else(|_| Err(self.setup.stopped_error(self.shard)));
        let (depot, counts) = (self.depot, std::mem::take(&mut self.counts));
        Poll::Ready(answers.map(|answers| {
            counts.into_iter().zip(answers).map(move |((partition, count), answer)| {
                let first = answer?;
                let offsets = first..first.advance(u64::from(count));
                Ok(Appended { depot, partition, offsets })
            })
        }))
    }
}

impl fmt::Debug for Append {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Append").finish_non_exhaustive()
    }
}

impl Future for Append {
    type Output = Result<Appended>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut self.0 {
            Err(error) => Poll::Ready(Err(error.take().unwrap_or(Error::Closed))),
            Ok(sent) => sent.poll(context).map(|answers| {
                answers?.next().expect("a shard answers for each batch it was sent")
            }),
        }
    }
}

/// Appends to several partitions on their way; resolves to where the records lie, one element per
/// partition. They go on if this is dropped.
#[must_use = "whether it worked is known only when this resolved"]
pub struct AppendMany {
    sent: std::vec::IntoIter<Sent>,
    failure: Option<Error>,
    appended: Vec<Appended>,
}

impl fmt::Debug for AppendMany {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AppendMany").finish_non_exhaustive()
    }
}

impl Future for AppendMany {
    type Output = Result<Vec<Appended>>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        // All were sent already, so it costs nothing to look at one after the other.
        while let Some(sent) = this.sent.as_mut_slice().first_mut() {
            let Poll::Ready(answers) = sent.poll(context) else { return Poll::Pending };
            this.sent.next();
            let mut failed = |error| this.failure = this.failure.take().or(Some(error));
            match answers {
                Ok(answers) => {
                    for answer in answers {
                        answer.map_or_else(&mut failed, |done| this.appended.push(done));
                    }
                }
                Err(error) => failed(error),
            }
        }
        Poll::Ready(match this.failure.take() {
            None => {
                this.appended.sort_unstable_by_key(|appended| appended.partition);
                Ok(std::mem::take(&mut this.appended))
            }
            Some(error) => Err(error),
        })
    }
}

/// Runs a future to its end on this thread, which sleeps meanwhile: the engine's futures need no
/// runtime.
pub fn block_on<T>(future: impl Future<Output = T>) -> T {
    struct Unpark(std::thread::Thread);

    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }

    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut context = Context::from_waker(&waker);
    let mut future = std::pin::pin!(future);
    loop {
        if let Poll::Ready(value) = future.as_mut().poll(&mut context) {
            return value;
        }
        // A spurious return polls once more and costs nothing else.
        std::thread::park_timeout(Duration::from_mins(1));
    }
}
