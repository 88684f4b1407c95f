//! Reads of `PState`s.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;

use futures_channel::oneshot;

use super::{Engine, Launched};
use crate::codec::FieldTable;
use crate::error::{Error, Result};
use crate::node::Installed;
use crate::schema::{Answer, ReadPlan, Reads, Rows, Select};
use crate::shard::message::{Message, ReadAnswer, ReadOperation, ReadRequest};
use crate::types::{PStateId, PartitionId, ShardId};

impl<H> Launched<H> {
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
