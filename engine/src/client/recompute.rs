//! Recomputes: see [`crate::recompute`].

use std::future::Future;
use std::sync::Arc;

use super::Launched;
use crate::error::Result;
use crate::node::recompute::From;
use crate::recompute::{Reading, Recompute, Recomputed};

impl<H> Launched<H> {
    /// Builds all `PState`s of a topology anew from its depots, checks what came out, and puts it in their place;
    /// see [`crate::recompute`]. It goes on with what an earlier call has begun.
    ///
    /// The topology runs meanwhile. At the end it stands still, for as long as the check takes, and at most for
    /// [`Options::recompute_pause_max`](crate::Options::recompute_pause_max): appends and reads go on, and what was
    /// appended becomes visible afterwards.
    ///
    /// Dropping the future leaves the recompute where it is: it goes on catching up, and [`Launched::recomputing`]
    /// tells how far it is; it is not switched before this is called again, and ended by
    /// [`Launched::end_recompute`].
    ///
    /// ```
    /// use tidemill::schema::Map;
    /// use tidemill::schema::aggregate::Sum;
    /// # use tidemill::{Engine, Options, block_on};
    /// # let dir = tempfile::tempdir_in(".").unwrap();
    /// # let engine = block_on(Engine::open(dir.path(), Options::default()))?;
    /// let shop = block_on(engine.launch("shop", |m| {
    ///     let sales = m.depot::<(String, i64)>("sales").hash_by(|(item, _)| item);
    ///     let counting = m.microbatch(|| "counting");
    ///     counting.order_free();
    ///     let sold = counting.pstate::<Map<String, i64>>("sold");
    ///     counting.source(sales).aggregate(sold, |sold, (item, n)| sold.key(item).add(Sum(n)));
    ///     (sales, sold.reader())
    /// }))?;
    /// # let (sales, sold) = *shop;
    /// # block_on(async {
    /// # shop.append(sales, &("tea".to_owned(), 3)).await?;
    /// # shop.caught_up("counting").await?;
    /// let recomputed = shop.recompute("counting").await?;
    /// assert_eq!(recomputed.records, 1);
    /// assert_eq!(shop.select(sold.key("tea")).await?, Some(3));
    /// # Ok::<(), tidemill::Error>(())
    /// # })?;
    /// # block_on(engine.close())?;
    /// # Ok::<(), tidemill::Error>(())
    /// ```
    ///
    /// # Errors
    /// After all of them the state is what it was. `Recompute` if a migration of one of its `PState`s is under way; if
    /// what came out is not equal, or does not fulfil an invariant: the recompute is over, and the first difference is
    /// named; or if the two did not come to the same records, or the check did not end, within
    /// `Options::recompute_pause_max`: topology and recompute go on, and it can be tried again.
    /// `Invalid` if there is no such topology, if it is neither `order_free` nor has invariants, if records of its
    /// sources were trimmed, or if another call is recomputing. `ShardStopped`: reopen the shard, and call again.
    /// `DiskFull`, `Closed`.
    pub fn recompute(
        &self,
        topology: &str,
    ) -> impl Future<Output = Result<Recomputed>> + Send + use<H> {
        self.recompute_from(topology, From::Beginning)
    }

    /// The same from the records that its sources have kept, where they let go of others: what comes out has nothing of
    /// those. It cannot be compared with what is there, so the topology must have an invariant, and that is all that
    /// is checked.
    ///
    /// # Errors
    /// As [`Launched::recompute`]; `Invalid` if the topology has no invariant.
    pub fn recompute_kept(
        &self,
        topology: &str,
    ) -> impl Future<Output = Result<Recomputed>> + Send + use<H> {
        self.recompute_from(topology, From::Kept)
    }

    fn recompute_from(
        &self,
        topology: &str,
        from: From,
    ) -> impl Future<Output = Result<Recomputed>> + Send + use<H> {
        let place = self.topology(topology, None).map(|_| self.place_of(topology));
        let (engine, module) = (self.engine.clone(), Arc::clone(&self.module));
        async move {
            let place = place?;
            let reading = |shadow| {
                Reading::new(Launched {
                    engine: engine.clone(),
                    module: shadow,
                    handles: Arc::new(()),
                })
            };
            let records = engine.inner.node.recompute(&module, place, from, reading).await?;
            Ok(Recomputed { topology: module.definition.topologies[place].name.clone(), records })
        }
    }

    /// The recomputes of the module that are under way, be it that somebody waits for them or not.
    ///
    /// # Errors
    /// `ShardStopped`, `Closed`.
    pub async fn recomputing(&self) -> Result<Vec<Recompute>> {
        let mut under_way = Vec::new();
        for (place, topology) in self.module.definition.topologies.iter().enumerate() {
            let records = self.engine.inner.node.recomputing(&self.module, place).await?;
            under_way.extend(records.map(|records| Recompute {
                topology: topology.name.clone(),
                records_done: records.done,
                records_total: records.total,
            }));
        }
        Ok(under_way)
    }

    /// Gives up a recompute that is under way and that nobody waits for.
    ///
    /// # Errors
    /// `Invalid` if there is no such topology, or a call is recomputing; `Recompute` if there is nothing to end, or
    /// if it does not come to rest; `ShardStopped`, `DiskFull`, `Closed`.
    pub async fn end_recompute(&self, topology: &str) -> Result<()> {
        self.topology(topology, None)?;
        self.engine.inner.node.end_recompute(&self.module, self.place_of(topology)).await
    }

    /// The place of a topology that is there.
    fn place_of(&self, topology: &str) -> usize {
        let place = self.module.definition.topologies.iter().position(|it| it.name == topology);
        place.expect("it was looked up")
    }
}
