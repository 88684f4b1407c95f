//! How far topologies are: waiting for the effects of appends, and why there are none.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;

use futures_channel::oneshot;

use super::{Appended, Launched};
use crate::error::{Error, Result};
use crate::module::DepotIndex;
use crate::shard::message::{Effects, Message, WaitRequest};
use crate::shard::microbatch::Topology;
use crate::types::{Offset, ShardId, TopologyId};

/// What one shard was asked for: the effects of the appends at these places.
struct Waits {
    shard: ShardId,
    places: Vec<usize>,
    answer: oneshot::Receiver<Result<Vec<Result<Effects>>>>,
}

impl<H> Launched<H> {
    /// Resolves when the effects of appended records on a topology are durable and visible, or the
    /// last of them was rejected; also if that was long ago. While a shard is down that the topology needs,
    /// it goes on waiting ([`Launched::paused`] says why).
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
        let shown = self.shown_everywhere(topology);
        let (engine, count) = (self.engine.clone(), appended.len());
        async move {
            let mut effects = vec![None; count];
            for Waits { shard, places, answer } in sent? {
                let answers = engine.inner.node.answered(shard, answer).await?;
                for (place, answer) in places.into_iter().zip(answers) {
                    effects[place] = Some(answer?);
                }
            }
            shown.await?;
            Ok(effects.into_iter().map(|it| it.expect("each of them was asked for")).collect())
        }
    }

    /// Resolves when readers of every shard that runs see of a topology what those of any shard see, once this
    /// is polled: the shard that answers a wait need not be the one where the effects lie.
    fn shown_everywhere(&self, topology: &str) -> impl Future<Output = Result<()>> + Send + use<H> {
        let found = self.topology(topology, None);
        let (engine, module) = (self.engine.clone(), Arc::clone(&self.module));
        async move {
            let topology = found?;
            let place = module.topologies.iter().position(|&it| it == topology);
            let place = place.expect("it was found among them");
            let node = &engine.inner.node;
            let (id, lagging) = module.lagging(place, engine.shards());
            let asked: Vec<_> = lagging
                .into_iter()
                .map(|shard| node.post(shard, |reply| Message::VisibleAt { topology, id, reply }))
                .collect();
            for answer in asked {
                // A shard that is down shows no less once it is opened again.
                drop(answer.await);
            }
            Ok(())
        }
    }

    /// One request for each shard.
    fn send_waits(&self, topology: &str, appended: &[Appended]) -> Result<Vec<Waits>> {
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
            Waits { shard, places, answer }
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
        let shown = self.shown_everywhere(topology);
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
            shown.await
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
        let partition = Topology::coordinator_partition(topology, self.engine.partitions());
        let shard = node.setup.owner(partition);
        node.ask(shard, |reply| Message::Paused { topology: id, reply }).await
    }

    pub(super) fn topology(&self, name: &str, reads: Option<DepotIndex>) -> Result<TopologyId> {
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
}
