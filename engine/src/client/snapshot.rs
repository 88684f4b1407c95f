//! Reading what was: a [`Snapshot`] holds one moment of a module.

use std::fmt;
use std::sync::Arc;

use super::Launched;
use crate::error::{Error, Result};
use crate::node::Installed;
use crate::node::pins::Pin;
use crate::types::MicrobatchId;

/// One moment of a module: one id of each of its topologies. Whatever is read
/// [at](super::Selecting::at) it, and however often, is what these microbatches left, in every partition.
///
/// It costs memory while it lives: old values of what is written meanwhile, until each partition was folded
/// once. When that exceeds `Options::history_bytes`, or a disk is full, or a shard is reopened, reads get
/// [`Error::SnapshotExpired`]; they never get anything else than that moment. Dropping the last clone lets
/// go.
#[derive(Clone)]
pub struct Snapshot {
    pub(super) pin: Arc<Pin>,
    pub(super) module: Arc<Installed>,
}

impl fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Snapshot").field("ids", &self.ids()).finish_non_exhaustive()
    }
}

impl Snapshot {
    /// The topologies and the last microbatch of each that is contained, 0 if there was none.
    #[must_use]
    pub fn ids(&self) -> Vec<(&str, MicrobatchId)> {
        let topologies = self.module.definition.topologies.iter();
        topologies.zip(self.pin.ids()).map(|(it, (_, id))| (it.name.as_str(), *id)).collect()
    }
}

impl<H> Launched<H> {
    /// Holds what is visible now, so that it can be read while the topologies go on.
    ///
    /// ```
    /// use serde::{Deserialize, Serialize};
    /// use tidemill::schema::Map;
    /// use tidemill::schema::aggregate::Sum;
    /// use tidemill::{Engine, Options, block_on};
    ///
    /// #[derive(Serialize, Deserialize)]
    /// struct Deposit {
    ///     account: u64,
    ///     cents: i64,
    /// }
    /// # let dir = tempfile::tempdir_in(".").unwrap();
    /// # block_on(async {
    /// let engine = Engine::open(dir.path(), Options::default()).await.unwrap();
    /// let bank = engine
    ///     .launch("bank", |m| {
    ///         let deposits = m.depot::<Deposit>("deposits").hash_by(|d| &d.account);
    ///         let ledger = m.microbatch(|| "ledger");
    ///         let funds = ledger.pstate::<Map<u64, i64>>("funds");
    ///         ledger.source(deposits).aggregate(funds, |to, d| to.key(d.account).add(Sum(d.cents)));
    ///         (deposits, funds.reader())
    ///     })
    ///     .await
    ///     .unwrap();
    /// let (deposits, funds) = *bank;
    /// let before = bank.snapshot().await.unwrap();
    /// let appended = bank.append(deposits, &Deposit { account: 7, cents: 100 }).await.unwrap();
    /// bank.wait("ledger", &appended).await.unwrap();
    /// assert_eq!(bank.select(funds.key(7)).await.unwrap(), Some(100));
    /// assert_eq!(bank.select(funds.key(7)).at(&before).await.unwrap(), None);
    /// # engine.close().await.unwrap();
    /// # });
    /// ```
    ///
    /// # Errors
    /// `Closed`.
    #[allow(clippy::unused_async, reason = "with other nodes it will ask them")]
    pub async fn snapshot(&self) -> Result<Snapshot> {
        let setup = &self.engine.inner.node.setup;
        if setup.is_closed() {
            return Err(Error::Closed);
        }
        let pin = Arc::new(Pin::visible(setup, &self.module));
        Ok(Snapshot { pin, module: Arc::clone(&self.module) })
    }
}
