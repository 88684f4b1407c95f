//! The steps of a recompute, over all shards. What each of them is for: see [`crate::recompute`].
//!
//! Nothing here has to be right for the switch to be: that a topology stays stopped while the catalogue is written
//! is kept by [`Stops`](super::numbers::Stops) and the keeper, whether whoever asked for it is still there or not.

use std::collections::{BTreeMap, BTreeSet};
use std::pin::pin;
use std::sync::Arc;

use futures_channel::oneshot;
use futures_util::future::{Either, select};

use super::catalogue::recomputes::{Alteration, Step};
use super::catalogue::{Begun, Catalogue, Installed};
use super::{BOOT, Node};
use crate::error::{Error, Result};
use crate::module::StartAt;
use crate::recompute::Reading;
use crate::shard::message::{KeeperRequest, Message, Reply};
use crate::shard::microbatch::Topology;
use crate::shard::recompute::{Records, Request};
use crate::types::{MicrobatchId, PStateId, ShardId, TopologyId};

/// With which records a recompute begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum From {
    /// Those with which the topology began.
    Beginning,
    /// Those with which its sources begin by now.
    Kept,
}

/// One topology and its shadow.
struct Pair<'n> {
    node: &'n Node,
    module: &'n Arc<Installed>,
    shadow: Arc<Installed>,
    place: usize,
    number: u64,
}

/// Lets a topology go on when it is dropped, unless it is being switched.
struct Stopped<'p, 'n>(&'p Pair<'n>);

impl Drop for Stopped<'_, '_> {
    fn drop(&mut self) {
        let Pair { node, module, place, number, .. } = *self.0;
        if module.stops.release(place, number) {
            let (topology, shadow) = self.0.ids();
            node.tell(self.0.home(), Message::Recompute(Request::Go { topology, shadow }));
        }
    }
}

impl Node {
    /// Recomputes a topology: how many records that took.
    pub(crate) async fn recompute(
        &self,
        module: &Arc<Installed>,
        place: usize,
        from: From,
        reading: impl Fn(Arc<Installed>) -> Reading,
    ) -> Result<u64> {
        let definition = &module.definition.topologies[place];
        if from == From::Kept && definition.invariants.is_empty() {
            let what = format!(
                "topology `{}`, declared at {}, has no invariant: what comes out of the records that are left cannot \
                 be compared with what came of all of them, so nothing would be checked",
                definition.name, definition.location
            );
            return Err(Error::Invalid { what });
        }
        if !definition.order_free && definition.invariants.is_empty() {
            let what = format!(
                "topology `{}`, declared at {}, says nothing by which what comes out of a recompute could be \
                 checked: declare it `order_free`, or declare an `invariant`",
                definition.name, definition.location
            );
            return Err(Error::Invalid { what });
        }
        let mut last = self.one_recompute()?;
        *last += 1;
        let shadow = self.shadow(module, place, from).await?;
        let pair = Pair { node: self, module, shadow, place, number: *last };
        let (topology, shadow) = pair.ids();
        self.of_recompute(pair.home(), |reply| Request::Near { topology, shadow, reply }).await?;
        // Neither a backup nor a launch may hold or start anything meanwhile.
        let _alone = self.launching.lock().await;
        let number = pair.number;
        let stopped = Stopped(&pair);
        let (expired, over) = oneshot::channel();
        let stop = |reply| Request::Stop { topology, shadow, number, reply, expired };
        let Records { done, .. } = self.of_recompute(pair.home(), stop).await?;
        let checked = pin!(async {
            self.settle(module).await?;
            self.settle(&pair.shadow).await?;
            pair.check(reading).await
        });
        let checked = match select(checked, over).await {
            Either::Left((checked, _)) => checked?,
            Either::Right((Ok(expired), _)) => return Err(expired),
            // Their shard was lost. It may come back with both of them stopped, where they were.
            Either::Right((Err(oneshot::Canceled), checked)) => checked.await?,
        };
        if let Some(why) = checked {
            // What is stopped is at rest, so this ends it for good.
            self.end(module, place).await?;
            drop(stopped);
            let what = format!(
                "{why}; topology `{}` is what it was, and the recompute is over",
                definition.name
            );
            return Err(Error::Recompute { what });
        }
        let id = module.visible_at(place);
        pair.switch(id).await?;
        Ok(done)
    }

    /// How far the recompute of a topology is, if there is one.
    pub(crate) async fn recomputing(
        &self,
        module: &Arc<Installed>,
        place: usize,
    ) -> Result<Option<Records>> {
        let shadow = self.setup.shadow(&module.definition.name, place);
        // One that just begins is not on all shards yet.
        let Some(shadow) = shadow.filter(|it| it.is_everywhere()) else { return Ok(None) };
        let pair = Pair { node: self, module, shadow, place, number: 0 };
        let (topology, shadow) = pair.ids();
        let asked = |reply| Request::Records { topology, shadow, reply };
        let records = self.of_recompute(pair.home(), asked).await;
        // It may have ended before it was asked.
        let is_over = self.setup.shadow(&module.definition.name, place).is_none();
        if is_over { Ok(None) } else { records.map(Some) }
    }

    /// Gives up the recompute of a topology.
    pub(crate) async fn end_recompute(&self, module: &Arc<Installed>, place: usize) -> Result<()> {
        let _one = self.one_recompute()?;
        let _alone = self.launching.lock().await;
        self.adopt(module, place).await?;
        let Some(shadow) = self.setup.shadow(&module.definition.name, place) else {
            let name = &module.definition.topologies[place].name;
            let what = format!("topology `{name}` is not being recomputed");
            return Err(Error::Recompute { what });
        };
        let pair = Pair { node: self, module, shadow, place, number: 0 };
        let (_, shadow) = pair.ids();
        self.of_recompute(pair.home(), |reply| Request::Rest { shadow, reply }).await?;
        self.end(module, place).await
    }

    async fn end(&self, module: &Installed, place: usize) -> Result<()> {
        match self.alter(module, place, Step::End).await {
            // A shard that failed over it may have done it.
            Err(Error::Recompute { what })
                if self.setup.shadow(&module.definition.name, place).is_some() =>
            {
                Err(Error::Recompute { what })
            }
            Ok(_) | Err(Error::Recompute { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn one_recompute(&self) -> Result<futures_util::lock::MutexGuard<'_, u64>> {
        self.recomputes.try_lock().ok_or_else(|| Error::Invalid {
            what: "another call is recomputing: one topology is recomputed at a time".to_owned(),
        })
    }

    /// The shadow of a topology, which runs: the one that there is, or a new one.
    async fn shadow(
        &self,
        module: &Arc<Installed>,
        place: usize,
        from: From,
    ) -> Result<Arc<Installed>> {
        let _one = self.launching.lock().await;
        // Until the shadow is one of those that what it reads is kept for.
        let _held = self.setup.hold_trims();
        self.adopt(module, place).await?;
        if self.setup.shadow(&module.definition.name, place).is_none() {
            let sources = match from {
                From::Beginning => {
                    self.untrimmed(module, place).await?;
                    Vec::new()
                }
                From::Kept => self.kept(module, place).await?,
            };
            let name = &module.definition.topologies[place].name;
            let pstates = module.definition.owned_by(name).expect("it is declared");
            let catalogue = self.alter(module, place, Step::Begin { pstates, sources }).await?;
            self.add_shadows(module, &catalogue);
        }
        let shadow = self.setup.shadow(&module.definition.name, place);
        let shadow = shadow.ok_or_else(|| Error::Recompute {
            what: "it was ended by another launch while it began".to_owned(),
        })?;
        if from == From::Beginning && shadow.starts[place] != module.starts[place] {
            let what = format!(
                "a recompute of topology `{}` from what its sources have kept is under way: call `recompute_kept` to see \
                 it through, or `end_recompute`",
                module.definition.topologies[place].name
            );
            return Err(Error::Invalid { what });
        }
        // Also if it was there: what an earlier call has left undone.
        self.bring_up(&shadow).await?;
        Ok(shadow)
    }

    /// Takes up a recompute that the catalogue has, and this process does not: whoever began it went away meanwhile.
    async fn adopt(&self, module: &Arc<Installed>, place: usize) -> Result<()> {
        if self.setup.shadow(&module.definition.name, place).is_none() {
            let read = self.ask_any(|reply| Message::Keeper(KeeperRequest::Read { reply }));
            let (_, catalogue) = read.await?;
            self.add_shadows(module, &catalogue);
            if let Some(shadow) = self.setup.shadow(&module.definition.name, place) {
                self.bring_up(&shadow).await?;
            }
        }
        Ok(())
    }

    /// Has every shard that starts install the shadows that the catalogue has.
    pub(super) fn add_shadows(&self, module: &Arc<Installed>, catalogue: &Catalogue) {
        let definition = &module.definition;
        let Some(entry) = catalogue.modules.iter().find(|it| it.name == definition.name) else {
            return;
        };
        for (place, topology) in definition.topologies.iter().enumerate() {
            let Some(recomputing) = entry.recomputing(&topology.name) else { continue };
            let mut pstates = module.numbers().pstates.clone();
            for new in &recomputing.pstates {
                let place = definition.pstates.iter().position(|it| it.name == new.name);
                pstates[place.expect("a launch ends what it does not declare")] =
                    PStateId(new.number);
            }
            let id = TopologyId(recomputing.number);
            self.setup.add_module(Arc::new(module.shadow(
                place,
                id,
                pstates,
                &recomputing.sources,
            )));
        }
    }

    /// Where the sources of a topology begin now.
    async fn kept(&self, module: &Installed, place: usize) -> Result<Vec<Begun>> {
        let sources = &module.definition.topologies[place].sources;
        let depots: BTreeSet<_> =
            sources.iter().map(|it| module.depots[it.depot.0 as usize]).collect();
        let asked: Vec<_> = depots.iter().map(|&it| (it, StartAt::Beginning)).collect();
        let mut kept: BTreeMap<_, _> = depots.into_iter().map(|it| (it, BTreeMap::new())).collect();
        for shard in self.shards() {
            let ask = |reply| Message::Starts { asked: asked.clone(), reply };
            for (depot, partition, offset) in self.ask(shard, ask).await? {
                kept.entry(depot).or_default().insert(partition.0, offset.0);
            }
        }
        // Where a topology begins later than that, it does so again.
        for (source, begun) in &module.starts[place] {
            let starts = kept.entry(source.depot).or_default();
            let start = starts.entry(source.partition.0).or_default();
            *start = begun.0.max(*start);
        }
        Ok(kept.into_iter().map(|(depot, starts)| Begun { depot: depot.0, starts }).collect())
    }

    /// An error if a source of a topology does not begin with its first record.
    async fn untrimmed(&self, module: &Arc<Installed>, place: usize) -> Result<()> {
        let topology = module.topologies[place];
        for shard in self.shards() {
            let asked = |reply| Request::Trimmed { topology, reply };
            let trimmed = self.of_recompute(shard, asked).await?;
            if let Some((partition, depot, first)) = trimmed.first() {
                let what = format!(
                    "depot `{}` has no records below {first} in partition {partition} any more, and topology `{}` \
                     has read some of them, so its state cannot be recomputed",
                    module.definition.depots[*depot].name, module.definition.topologies[place].name
                );
                return Err(Error::Invalid { what });
            }
        }
        Ok(())
    }

    async fn alter(&self, module: &Installed, place: usize, step: Step) -> Result<Catalogue> {
        let topology = module.definition.topologies[place].name.clone();
        let alteration = Alteration { module: module.definition.name.clone(), topology, step };
        let altered = self.ask_any(|reply| {
            let alteration = alteration.clone();
            Message::Keeper(KeeperRequest::Alter { alteration, reply })
        });
        altered.await
    }

    async fn of_recompute<T>(
        &self,
        shard: ShardId,
        request: impl FnOnce(Reply<T>) -> Request,
    ) -> Result<T> {
        self.ask(shard, |reply| Message::Recompute(request(reply))).await
    }
}

impl Pair<'_> {
    fn ids(&self) -> (TopologyId, TopologyId) {
        (self.module.topologies[self.place], self.shadow.topologies[self.place])
    }

    /// The shard of both coordinators.
    fn home(&self) -> ShardId {
        let setup = &self.node.setup;
        let name = &self.module.definition.topologies[self.place].name;
        setup.owner(Topology::coordinator_partition(name, setup.partitions))
    }

    /// Why what came out must not take the place of what is there.
    async fn check(&self, reading: impl Fn(Arc<Installed>) -> Reading) -> Result<Option<String>> {
        let definition = &self.module.definition.topologies[self.place];
        let (began, begins) = (&self.module.starts[self.place], &self.shadow.starts[self.place]);
        if definition.order_free
            && began == begins
            && let Some(differs) = self
                .compare(|module, shadow, reply| Request::Compare { module, shadow, reply })
                .await?
        {
            return Ok(Some(differs));
        }
        let rejected = self.compare(|module, shadow, reply| Request::CompareRejected {
            module,
            shadow,
            reply,
        });
        if let Some(differs) = rejected.await? {
            return Ok(Some(differs));
        }
        for invariant in &definition.invariants {
            if let Err(why) = invariant.check(reading(Arc::clone(&self.shadow))).await {
                // An engine that fails says nothing about what came out.
                return match why.downcast::<Error>() {
                    Ok(error) => Err(*error),
                    Err(why) => Ok(Some(format!(
                        "what came out does not fulfil the invariant `{}`: {why}",
                        invariant.name()
                    ))),
                };
            }
        }
        Ok(None)
    }

    /// The first difference that a shard finds; all look at the same time.
    async fn compare(
        &self,
        request: impl Fn(Arc<Installed>, Arc<Installed>, Reply<Option<String>>) -> Request,
    ) -> Result<Option<String>> {
        let node = self.node;
        let asked: Vec<_> = node
            .shards()
            .map(|shard| {
                let (module, shadow) = (Arc::clone(self.module), Arc::clone(&self.shadow));
                let message = |reply| Message::Recompute(request(module, shadow, reply));
                (shard, node.post(shard, message))
            })
            .collect();
        let mut first = None;
        for (shard, answer) in asked {
            let differs = node.answered(shard, answer).await?;
            first = first.or(differs);
        }
        Ok(first)
    }

    /// Has the shadow's `PState`s take the place of the topology's, which is at `since`.
    async fn switch(&self, since: MicrobatchId) -> Result<()> {
        let Self { node, module, place, number, .. } = *self;
        let step = Step::Switch { place, number, since };
        let topology = module.definition.topologies[place].name.clone();
        let alteration = Alteration { module: module.definition.name.clone(), topology, step };
        let running = node.shards().find(|&it| node.setup.stopped_cause(it).is_none());
        // By one shard only: whoever comes after one that failed has to look how it ended.
        let altered = node.ask(running.unwrap_or(BOOT), |reply| {
            Message::Keeper(KeeperRequest::Alter { alteration, reply })
        });
        let Err(error) = altered.await else { return Ok(()) };
        let read = node.ask_any(|reply| Message::Keeper(KeeperRequest::Read { reply }));
        read.await?;
        let is_switched = module.numbers().pstates == self.shadow.numbers().pstates;
        if is_switched { Ok(()) } else { Err(error) }
    }
}
