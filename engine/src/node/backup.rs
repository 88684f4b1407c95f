//! The steps of a backup, over all shards. What each of them is for: see [`crate::backup`].

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures_channel::oneshot;

use super::catalogue::Catalogue;
use super::{BOOT, Node};
use crate::backup::{BackedUp, Progress, Report, Tally};
use crate::error::{Error, Result};
use crate::manifest::Manifest;
use crate::shard::backup::{Copied, Request};
use crate::shard::message::{KeeperRequest, Message, Reply};
use crate::shard::microbatch::Topology;
use crate::types::{MicrobatchId, ShardId, TopologyId};

/// Tells every shard that a backup is over, when it is dropped.
struct Making<'n> {
    node: &'n Node,
    number: u64,
}

impl Drop for Making<'_> {
    fn drop(&mut self) {
        for shard in self.node.shards() {
            self.node.tell(shard, Message::Backup(Request::End { number: self.number }));
        }
    }
}

/// What all of a backup belongs to.
struct Moment {
    ids: Vec<BackedUp>,
    manifest: Manifest,
    catalogue: Catalogue,
    pause: Duration,
}

/// A shard that folds and holds what it froze, and what tells how many bytes that is.
type Holding = (ShardId, oneshot::Receiver<Result<u64>>);

/// One topology that is held.
struct HeldTopology {
    id: TopologyId,
    coordinator: ShardId,
    name: String,
    module: String,
    /// It belongs to a recompute.
    is_shadow: bool,
}

impl Node {
    /// Makes a backup in `dir`.
    pub(crate) async fn backup(
        &self,
        dir: &Path,
        tell: Arc<dyn Fn(Progress) + Send + Sync>,
    ) -> Result<Report> {
        let Some(mut last) = self.backups.try_lock() else {
            return Err(Error::Invalid { what: "another backup is being made".to_owned() });
        };
        *last += 1;
        let number = *last;
        // What is copied is files that must stay where they are.
        let _held = self.setup.hold_trims();
        let elsewhere = self.platform.elsewhere(dir).map_err(|error| Error::Backup {
            what: format!("{} cannot be used: {error}", dir.display()),
        })?;
        let making = Making { node: self, number };
        self.of_all(|reply| Request::Prepare { number, reply }).await?;
        let dir = elsewhere.dir.clone();
        let place = self.of(BOOT, |reply| Request::Begin { dir, reply }).await?;
        let tally = Arc::new(Tally::new(tell));
        let (moment, holding) = self.moment(number).await?;
        for (shard, held) in holding {
            tally.expect(self.answered(shard, held).await?);
        }
        let copied = self.of_all(|reply| {
            let (place, tally) = (place.clone(), Arc::clone(&tally));
            Request::Copy { number, place, tally, reply }
        });
        let copied = copied.await?;
        let path = place.path();
        let Moment { ids, manifest, catalogue, pause } = moment;
        let (manifest, catalogue) = (Box::new(manifest), Box::new(catalogue));
        self.of(BOOT, |reply| Request::Finish { place, manifest, catalogue, reply }).await?;
        drop(making);
        let sum = |of: fn(&Copied) -> u64| copied.iter().map(of).sum();
        Ok(Report {
            directory: PathBuf::from(path),
            ids,
            copied_bytes: sum(|it| it.copied_bytes),
            taken_over_bytes: sum(|it| it.taken_over_bytes),
            pause,
        })
    }

    /// Brings all topologies to rest and has every partition frozen. What was frozen is folded and held
    /// afterwards, while they go on.
    async fn moment(&self, number: u64) -> Result<(Moment, Vec<Holding>)> {
        // What is launched now would not be held.
        let _no_launch = self.launching.lock().await;
        let topologies = self.topologies();
        let holding: Vec<_> = topologies
            .iter()
            .map(|it| {
                let (topology, shard) = (it.id, it.coordinator);
                (shard, self.post_to(shard, |reply| Request::Hold { number, topology, reply }))
            })
            .collect();
        let mut ids = Vec::new();
        for ((shard, held), topology) in holding.into_iter().zip(&topologies) {
            let id: MicrobatchId = self.answered(shard, held).await?;
            let (module, name) = (topology.module.clone(), topology.name.clone());
            if !topology.is_shadow {
                ids.push(BackedUp { module, topology: name, id });
            }
        }
        // What coordinators have said is everywhere when every shard has heard something they said later.
        let coordinators: BTreeSet<ShardId> = topologies.iter().map(|it| it.coordinator).collect();
        for from in coordinators {
            let echoes: Vec<_> = self
                .shards()
                .map(|to| (to, self.post_to(from, |reply| Request::Echo { to, reply })))
                .collect();
            for (to, echo) in echoes {
                self.answered(to, echo).await?;
            }
        }
        let (manifest, catalogue) =
            self.ask(BOOT, |reply| Message::Keeper(KeeperRequest::Read { reply })).await?;
        let freezing: Vec<_> = self
            .shards()
            .map(|shard| {
                let (held, holding) = oneshot::channel();
                let frozen = self.post_to(shard, |frozen| Request::Freeze { number, frozen, held });
                (shard, frozen, holding)
            })
            .collect();
        let mut holding = Vec::new();
        for (shard, frozen, held) in freezing {
            self.answered(shard, frozen).await?;
            holding.push((shard, held));
        }
        let mut pause = Duration::ZERO;
        for it in &topologies {
            let (topology, shard) = (it.id, it.coordinator);
            let released =
                self.of(shard, |reply| Request::Release { number, topology, reply }).await?;
            // One that was not held all the time may have begun something.
            let broken = || Error::Backup {
                what: format!(
                    "topology `{}` was not held to the end: shard {shard} was opened anew, or it took too long",
                    it.name
                ),
            };
            let held = released.ok_or_else(broken)?;
            pause = pause.max(held);
        }
        Ok((Moment { ids, manifest, catalogue, pause }, holding))
    }

    /// Every topology that runs.
    fn topologies(&self) -> Vec<HeldTopology> {
        let mut all = Vec::new();
        for module in self.setup.modules() {
            let definition = &module.definition;
            for (place, id) in module.running() {
                let name = definition.topologies[place].name.clone();
                let home = Topology::coordinator_partition(&name, self.setup.partitions);
                let coordinator = self.setup.owner(home);
                let (module, is_shadow) = (definition.name.clone(), module.shadow.is_some());
                all.push(HeldTopology { id, coordinator, name, module, is_shadow });
            }
        }
        all
    }

    fn post_to<T>(
        &self,
        shard: ShardId,
        request: impl FnOnce(Reply<T>) -> Request,
    ) -> oneshot::Receiver<Result<T>> {
        self.post(shard, |reply| Message::Backup(request(reply)))
    }

    async fn of<T>(&self, shard: ShardId, request: impl FnOnce(Reply<T>) -> Request) -> Result<T> {
        let answer = self.post_to(shard, request);
        self.answered(shard, answer).await
    }

    /// The answers of all shards; the first error once all have answered.
    async fn of_all<T>(&self, request: impl Fn(Reply<T>) -> Request) -> Result<Vec<T>> {
        let asked: Vec<_> =
            self.shards().map(|shard| (shard, self.post_to(shard, &request))).collect();
        let mut answers = Vec::new();
        for (shard, answer) in asked {
            answers.push(self.answered(shard, answer).await?);
        }
        Ok(answers)
    }
}
