//! What a shard does for a backup: see [`crate::backup`] for the whole, and `node/backup.rs` for its order.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use futures_util::lock::Mutex;
use tidemill_replication::two_phase::coordinator;

use super::Shard;
use super::message::{Message, Reply, answer};
use super::microbatch::Topology;
use super::partition::{Frozen, Partition, SYSTEM, SystemKey};
use crate::backup::Tally;
use crate::backup::target::{self, Place, partition_dir};
use crate::depot::{self, Recorded};
use crate::env::copy::{Pieces, TargetError};
use crate::env::{Class, Env};
use crate::error::{Error, Result, chain};
use crate::manifest::Manifest;
use crate::node::catalogue::Catalogue;
use crate::pstate::{self, Held};
use crate::types::{DepotId, MicrobatchId, PartitionId, ShardId, Time, TopologyId};

/// What a node asks of a shard. `number` tells backups of one process apart.
#[derive(Debug)]
pub(crate) enum Request {
    /// Folds everything, so that little is left to do while topologies are held.
    Prepare { number: u64, reply: Reply<()> },
    /// Finds and marks the backup's directory; one shard does.
    Begin { dir: String, reply: Reply<Place> },
    /// Holds a topology whose coordinator is here; answers with its last id once it is at rest.
    Hold { number: u64, topology: TopologyId, reply: Reply<MicrobatchId> },
    /// Has another shard answer, behind everything that this one has sent it.
    Echo { to: ShardId, reply: Reply<()> },
    /// The answer.
    Echoed { reply: Reply<()> },
    /// Freezes every partition, which is `frozen`; then folds and holds them, and answers how many bytes that
    /// is to copy, nearly.
    Freeze { number: u64, frozen: Reply<()>, held: Reply<u64> },
    /// Lets a topology go on. Answers how long it was held; `None` if that was not all the time.
    Release { number: u64, topology: TopologyId, reply: Reply<Option<Duration>> },
    /// Copies what is held.
    Copy { number: u64, place: Place, tally: Arc<Tally>, reply: Reply<Copied> },
    /// Makes the backup complete; one shard does.
    Finish { place: Place, manifest: Box<Manifest>, catalogue: Box<Catalogue>, reply: Reply<()> },
    /// The backup is over, however it went: nothing is held any more.
    End { number: u64 },
}

/// Bytes that have their place in a backup.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Copied {
    pub(crate) copied_bytes: u64,
    pub(crate) taken_over_bytes: u64,
}

/// What a shard holds for a backup.
#[derive(Default)]
pub(super) struct Backup {
    /// The one that is being made.
    number: Cell<u64>,
    held: RefCell<BTreeMap<PartitionId, Held>>,
    /// Taken by whoever copies.
    copying: Mutex<()>,
}

/// A topology's coordinator is held.
pub(super) struct Hold {
    number: u64,
    since: Time,
    /// Until it is at rest.
    reply: Option<Reply<MicrobatchId>>,
}

/// Topologies are not held longer than this: something is wrong, or some event waits for the world outside.
const HOLD_MAX: Duration = Duration::from_secs(10);

/// Between two looks at what cannot take long.
const LOOK_EVERY: Duration = Duration::from_millis(1);

/// A partition that no other fold takes.
struct Claim(Rc<Partition>);

impl Drop for Claim {
    fn drop(&mut self) {
        self.0.folding.set(false);
    }
}

impl Shard {
    pub(super) fn back_up(self: &Rc<Self>, request: Request) {
        let shard = Rc::clone(self);
        match request {
            Request::Prepare { number, reply } => {
                self.env.spawn(Class::Background, "prepare a backup", async move {
                    answer(reply, shard.prepare_backup(number).await);
                });
            }
            Request::Begin { dir, reply } => {
                self.env.spawn(Class::Background, "begin a backup", async move {
                    let begun = target::begin(&shard.env, &dir, shard.setup.data_id).await;
                    answer(reply, begun);
                });
            }
            Request::Hold { number, topology, reply } => self.hold(number, topology, reply),
            Request::Echo { to, reply } => {
                let echoed = Message::Backup(Request::Echoed { reply });
                self.env.mesh().send(to, Box::new(echoed));
            }
            Request::Echoed { reply } => answer(reply, Ok(())),
            Request::Freeze { number, frozen, held } => {
                self.env.spawn(Class::Core, "freeze for a backup", async move {
                    match shard.freeze(number).await {
                        Ok(parts) => {
                            answer(frozen, Ok(()));
                            shard.clone().env.spawn(Class::Background, "hold", async move {
                                answer(held, shard.hold_roots(number, parts).await);
                            });
                        }
                        Err(error) => answer(frozen, Err(error)),
                    }
                });
            }
            Request::Release { number, topology, reply } => {
                answer(reply, Ok(self.release_topology(number, topology)));
            }
            Request::Copy { number, place, tally, reply } => {
                self.env.spawn(Class::Background, "copy a backup", async move {
                    answer(reply, shard.copy(number, &place, tally).await);
                });
            }
            Request::Finish { place, manifest, catalogue, reply } => {
                self.env.spawn(Class::Background, "finish a backup", async move {
                    let finished = target::finish(&shard.env, &place, &manifest, &catalogue).await;
                    answer(reply, finished);
                });
            }
            Request::End { number } => self.end_backup(number),
        }
    }

    async fn prepare_backup(&self, number: u64) -> Result<()> {
        self.backup.number.set(number);
        self.backup.held.borrow_mut().clear();
        // An earlier one that was given up may still be writing its last piece.
        drop(self.backup.copying.lock().await);
        self.fold_all().await
    }

    fn end_backup(self: &Rc<Self>, number: u64) {
        if self.backup.number.get() == number {
            self.backup.number.set(0);
            self.backup.held.borrow_mut().clear();
        }
        let topologies: Vec<_> = self.topologies.borrow().keys().copied().collect();
        for topology in topologies {
            self.release_topology(number, topology);
        }
    }

    fn is_wanted(&self, number: u64) -> Result<()> {
        if self.closing.get() {
            return Err(Error::Closed);
        }
        if self.backup.number.get() == number {
            return Ok(());
        }
        let what =
            format!("shard {} was opened anew meanwhile, or it was given up", self.env.shard());
        Err(Error::Backup { what })
    }

    // ---- the moment ----

    fn hold(self: &Rc<Self>, number: u64, id: TopologyId, reply: Reply<MicrobatchId>) {
        let topology = match self.is_wanted(number).and_then(|()| self.topology(id)) {
            Ok(topology) => topology,
            Err(error) => return answer(reply, Err(error)),
        };
        let since = self.env.now();
        *topology.hold.borrow_mut() = Some(Hold { number, since, reply: Some(reply) });
        self.coordinate(&topology, coordinator::Input::Hold);
        let (shard, expires) = (Rc::clone(self), self.env.sleep(HOLD_MAX));
        self.env.spawn(Class::Core, "bound a hold", async move {
            expires.await;
            let waiting = {
                let mut hold = topology.hold.borrow_mut();
                let Some(hold) = hold.as_mut().filter(|it| it.number == number) else { return };
                hold.reply.take()
            };
            if let Some(reply) = waiting {
                answer(reply, Err(Self::restless(&topology)));
            }
            // Also if it is at rest: whoever asked for it may have forgotten about it.
            shard.release_topology(number, id);
        });
    }

    fn restless(topology: &Topology) -> Error {
        let paused = topology.paused.borrow().as_ref().map(ToString::to_string);
        let why = paused.unwrap_or_else(|| "some event takes long".to_owned());
        let name = &topology.definition().name;
        let what = format!("topology `{name}` did not come to rest within {HOLD_MAX:?}: {why}");
        Error::Backup { what }
    }

    /// Answers whoever waits for the coordinator to be at rest, if it is.
    pub(super) fn note_rest(topology: &Topology) {
        let mut hold = topology.hold.borrow_mut();
        let Some(waiting) = hold.as_mut().filter(|it| it.reply.is_some()) else { return };
        let coordinator = topology.coordinator();
        if let Some(coordinator) = coordinator.as_ref().filter(|it| it.is_at_rest())
            && let Some(reply) = waiting.reply.take()
        {
            answer(reply, Ok(coordinator.decided()));
        }
    }

    fn release_topology(self: &Rc<Self>, number: u64, id: TopologyId) -> Option<Duration> {
        let topology = self.topology(id).ok()?;
        let held = topology.hold.borrow_mut().take_if(|hold| hold.number == number)?;
        self.coordinate(&topology, coordinator::Input::Release);
        Some(self.env.now().since(held.since))
    }

    /// Fixes what the backup has of each partition: all of it is one moment for topologies, which are at rest.
    async fn freeze(&self, number: u64) -> Result<Vec<(Claim, Option<Frozen>)>> {
        self.is_wanted(number)?;
        let begun = self.env.now();
        let mut claims = Vec::new();
        for partition in self.partitions.values() {
            while partition.folding.replace(true) {
                self.env.sleep(LOOK_EVERY).await;
            }
            claims.push(Claim(Rc::clone(partition)));
        }
        self.resolve_doubt(begun).await?;
        let through: Vec<_> = claims.iter().map(|claim| claim.0.last()).collect();
        self.settle().await?;
        let freezing = claims.into_iter().zip(through).map(|(claim, through)| async move {
            if !claim.0.is_dirty() {
                return Ok((claim, None));
            }
            loop {
                let frozen = claim.0.freeze(through, self.wanted(), |_| {}).await;
                let frozen = frozen.map_err(|error| self.fold_error(&error))?;
                // Not while a log was being written just then: its newest records would be missing, and what was
                // committed behind them.
                if frozen.covers() >= through {
                    return Ok((claim, Some(frozen)));
                }
                if self.env.now().since(begun) > HOLD_MAX {
                    let what =
                        format!("partition {} is not written out within {HOLD_MAX:?}", claim.0.id);
                    return Err(Error::Backup { what });
                }
                self.env.sleep(LOOK_EVERY).await;
            }
        });
        let frozen: Result<Vec<(Claim, Option<Frozen>)>> =
            join_all(freezing.collect::<Vec<_>>()).await.into_iter().collect();
        let frozen = frozen?;
        for (Claim(partition), frozen) in &frozen {
            let pending =
                frozen.as_ref().map_or_else(|| partition.pending(), |it| it.pending.clone());
            if !pending.is_empty() || partition.hides_commits() {
                let what = format!("partition {} holds what is not decided yet", partition.id);
                return Err(Error::Backup { what });
            }
        }
        self.is_wanted(number)?;
        Ok(frozen)
    }

    /// Waits until no prepare is without an outcome.
    ///
    /// # Errors
    /// `Backup` if there is one of a topology that does not run: nobody will decide it.
    async fn resolve_doubt(&self, begun: Time) -> Result<()> {
        loop {
            let doubts = self
                .partitions
                .values()
                .flat_map(|it| it.in_doubt().into_iter().map(|transaction| (it.id, transaction)));
            let doubts: Vec<_> = doubts.collect();
            let Some((partition, first)) = doubts.first() else { return Ok(()) };
            let runs = |id| self.topologies.borrow().contains_key(&id);
            if let Some((partition, stuck)) = doubts.iter().find(|(_, it)| !runs(it.topology)) {
                let what = format!(
                    "partition {partition} holds a prepared microbatch of topology {}, which does not run, \
                     so nobody can say whether it counts: launch its module, and try again",
                    stuck.topology
                );
                return Err(Error::Backup { what });
            }
            if self.env.now().since(begun) > HOLD_MAX {
                let what = format!(
                    "partition {partition} has heard nothing of microbatch {} of topology {} within \
                     {HOLD_MAX:?}",
                    first.attempt, first.topology
                );
                return Err(Error::Backup { what });
            }
            self.env.sleep(LOOK_EVERY).await;
        }
    }

    /// Folds what was frozen, and holds the roots.
    async fn hold_roots(&self, number: u64, parts: Vec<(Claim, Option<Frozen>)>) -> Result<u64> {
        let mut bytes = 0;
        for (claim, frozen) in parts {
            let partition = &claim.0;
            if let Some(frozen) = frozen {
                self.fold_rest(partition, frozen).await?;
            }
            self.is_wanted(number)?;
            let held = partition.store.hold(partition.covers()).ok_or_else(|| Error::Backup {
                what: format!("partition {} has no root", partition.id),
            })?;
            let depots = partition.known_depots();
            let segments: u64 = depots.iter().map(|(_, depot)| depot.log.segment_bytes()).sum();
            bytes += held.bytes() + segments;
            self.backup.held.borrow_mut().insert(partition.id, held);
        }
        Ok(bytes)
    }

    // ---- copying ----

    async fn copy(&self, number: u64, place: &Place, tally: Arc<Tally>) -> Result<Copied> {
        let _alone = self.backup.copying.lock().await;
        let to = place.open(&self.env)?;
        let earlier = place.open_earlier(&self.env)?;
        let meter = Meter { shard: self, number, tally, copied: Cell::default() };
        for &partition in self.partitions.keys() {
            self.is_wanted(number)?;
            let held = self.backup.held.borrow_mut().remove(&partition);
            let lost = || Error::Backup { what: format!("partition {partition} is not held") };
            self.copy_partition(
                partition,
                held.ok_or_else(lost)?,
                place,
                (&to, earlier.as_ref()),
                &meter,
            )
            .await?;
        }
        Ok(meter.copied.get())
    }

    async fn copy_partition(
        &self,
        partition: PartitionId,
        held: Held,
        place: &Place,
        (to, earlier): (&Env, Option<&Env>),
        meter: &Meter<'_>,
    ) -> Result<()> {
        let target_error = |error: TargetError| place.error(&error);
        let dir = partition_dir(partition);
        let made = to.disk().create_dir(&dir).await;
        made.map_err(TargetError::of("create", &dir, 0)).map_err(target_error)?;
        let mut states: Vec<Result<(DepotId, depot::State), String>> = Vec::new();
        let mut show = |key: &[u8], value: &[u8]| {
            if let Some(SystemKey::Depot(id)) = SystemKey::decode(key) {
                let state = depot::State::decode(value).map_err(|error| error.to_string());
                states.push(state.map(|state| (id, state)));
            }
        };
        let path = format!("{dir}/pages");
        let copied = held.copy((&path, to), earlier, meter, (SYSTEM, &mut show)).await;
        copied.map_err(|error| match error {
            pstate::CopyError::Source(error @ pstate::Error::Corrupt { .. }) => {
                Error::Corrupt { what: chain(&error) }
            }
            pstate::CopyError::Source(error) => Error::Backup { what: chain(&error) },
            pstate::CopyError::Target(error) => target_error(error),
            pstate::CopyError::Released { file } => {
                let what = format!("the data directory needed what {file} held for the backup");
                Error::DiskFull { what }
            }
            pstate::CopyError::Stopped => Error::Backup { what: "it was given up".to_owned() },
        })?;
        // Segments need no pages: what is recorded of them never changes.
        drop(held);
        for state in states {
            let damaged = |what| Error::Corrupt { what: format!("{path}: a depot's row: {what}") };
            let (depot, state) = state.map_err(damaged)?;
            for segment in state.segments {
                self.is_wanted(meter.number)?;
                let path = format!("{dir}/d{depot}-{}", segment.base);
                let segment = Recorded::new(partition, depot, segment);
                if let Some(earlier) = earlier
                    && segment.is_sealed_in(&path, earlier).await
                    && place.link(&self.env, &path).await?
                {
                    meter.done(segment.bytes(), true);
                    continue;
                }
                let copied = segment.copy(&path, &self.env, to, earlier, meter).await;
                copied.map_err(|error| match error {
                    depot::CopyError::Source(error @ depot::Error::Corrupt { .. }) => {
                        Error::Corrupt { what: chain(&error) }
                    }
                    depot::CopyError::Source(error) => Error::Backup { what: chain(&error) },
                    depot::CopyError::Target(error) => target_error(error),
                    depot::CopyError::Stopped => {
                        Error::Backup { what: "it was given up".to_owned() }
                    }
                })?;
            }
        }
        let synced = to.disk().sync_dir(&dir).await;
        synced.map_err(TargetError::of("sync", &dir, 0)).map_err(target_error)
    }
}

/// Counts, and looks whether the backup is still wanted.
struct Meter<'s> {
    shard: &'s Shard,
    number: u64,
    tally: Arc<Tally>,
    copied: Cell<Copied>,
}

impl Pieces for Meter<'_> {
    fn done(&self, bytes: u64, taken_over: bool) -> bool {
        let mut copied = self.copied.get();
        if taken_over {
            copied.taken_over_bytes += bytes;
        } else {
            copied.copied_bytes += bytes;
        }
        self.copied.set(copied);
        self.tally.done(bytes);
        self.shard.is_wanted(self.number).is_ok()
    }
}
