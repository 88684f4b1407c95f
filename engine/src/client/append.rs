//! Appends: where records go, and the futures that tell where they lie.

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_channel::oneshot;

use super::Launched;
use crate::codec;
use crate::depot::{Batch, Key, batch::Builder};
use crate::error::{Error, Result};
use crate::module::{Depot, DepotIndex, PlacedBy};
use crate::shard::Setup;
use crate::shard::message::{Acknowledge, AppendRequest, Message};
use crate::topology::Row;
use crate::types::{Offset, PartitionId, ShardId};

/// Where appended records lie.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Appended {
    pub(super) depot: DepotIndex,
    /// The depot's partition.
    pub partition: PartitionId,
    /// Their offsets there, without gaps.
    pub offsets: Range<Offset>,
}

impl<H> Launched<H> {
    /// Appends one record, durably.
    ///
    /// # Errors
    /// `DiskFull` and `Overloaded` appended nothing; after `ShardStopped` it is unknown whether the record
    /// was appended; `Invalid` if it cannot be encoded.
    pub fn append<T: Row, R>(&self, depot: Depot<T, R>, record: &T) -> Append {
        self.append_with(depot, record, None, Acknowledge::Durable)
    }

    /// Appends one record under a key: repeated with the same key, it is appended once and gets the
    /// first answer, within the window that [`crate::depot::Options`] states. That is what to do after an
    /// append of unknown outcome.
    ///
    /// # Errors
    /// As [`Launched::append`]; `Invalid` for depots that spread their records, where the repetition could go
    /// to another partition.
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
            let declared = &self.module.definition.depots[depot.index().0 as usize];
            if key.is_some() && matches!(declared.placed_by, PlacedBy::Random) {
                let what = format!(
                    "depot `{}` spreads its records, so a repeated append could go to another partition; \
                     declare it with `hash_by` or `single` to append under keys",
                    declared.name
                );
                return Err(Error::Invalid { what });
            }
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
        let appended = Vec::with_capacity(builders.len());
        for (partition, builder) in builders {
            let shard = self.engine.inner.node.setup.owner(partition);
            by_shard.entry(shard).or_default().push((partition, builder.finish()));
        }
        let sent: Vec<Sent> = by_shard
            .into_iter()
            .map(|(shard, batches)| self.send(depot.index(), shard, batches, Acknowledge::Durable))
            .collect();
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
}

/// An append on its way; resolves to where the records lie. The append goes on if this is dropped.
///
/// Appends that are awaited together share durable writes:
///
/// ```
/// use futures_util::future::join_all;
/// use tidemill::{Engine, Options, block_on};
/// # let dir = tempfile::tempdir_in(".").unwrap();
/// # let dir = dir.path();
///
/// block_on(async {
///     let engine = Engine::open(dir, Options::default()).await?;
///     let log = engine.launch("log", |m| m.depot::<u64>("numbers").single()).await?;
///     let appends: Vec<_> = (0..100).map(|n| log.append(*log, &n)).collect(); // all on their way
///     for (n, appended) in (0..).zip(join_all(appends).await) {
///         assert_eq!(appended?.offsets.start.0, n);
///     }
///     drop(log);
///     engine.close().await
/// })
/// # .unwrap();
/// ```
#[must_use = "whether it worked is known only when this resolved"]
pub struct Append(std::result::Result<Sent, Option<Error>>);

/// Batches on their way to one shard.
struct Sent {
    answer: oneshot::Receiver<Result<Vec<Result<Offset>>>>,
    setup: Arc<Setup>,
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
