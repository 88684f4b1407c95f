//! How far migrations are.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::Launched;
use crate::error::Result;
use crate::shard::message::Message;
use crate::types::PartitionId;

/// A migration under way.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Migrating {
    /// The name of its `PState`.
    pub pstate: String,
    /// Its id.
    pub id: String,
    /// How many values each partition has that are still stored in the old form; those without any are left
    /// out. Exact up to 10,000 a partition, beyond that as of the partition's last fold.
    pub left: BTreeMap<PartitionId, u64>,
    /// Where the rewriting does not go on, and why: the function has no new form of a stored value. Reads of
    /// that value fail, too. A launch of the module with a better function goes on.
    pub problems: BTreeMap<PartitionId, String>,
}

impl<H> Launched<H> {
    /// The migrations of the module that are under way; none once all of them are done, and the directory has
    /// dropped the old forms for ever. Everybody reads the new form all the time, whatever this says.
    ///
    /// # Errors
    /// `ShardStopped`, `Corrupt`.
    pub async fn migrations(&self) -> Result<Vec<Migrating>> {
        let moves = self.module.moves.iter();
        let mut found: Vec<_> = moves
            .map(|moving| {
                let pstate = &self.module.definition.pstates[moving.pstate.0 as usize];
                (!moving.is_done()).then(|| Migrating {
                    pstate: pstate.name.clone(),
                    id: moving.id.clone(),
                    left: BTreeMap::new(),
                    problems: BTreeMap::new(),
                })
            })
            .collect();
        if found.iter().all(Option::is_none) {
            return Ok(Vec::new());
        }
        let node = &self.engine.inner.node;
        let asked: Vec<_> = node
            .shards()
            .map(|shard| {
                let module = Arc::clone(&self.module);
                (shard, node.post(shard, |reply| Message::Moves { module, reply }))
            })
            .collect();
        for (shard, answer) in asked {
            for counted in node.answered(shard, answer).await? {
                let Some(Some(running)) = found.get_mut(counted.nth) else { continue };
                if counted.rows > 0 {
                    running.left.insert(counted.partition, counted.rows);
                }
                running.problems.extend(counted.problem.map(|it| (counted.partition, it)));
            }
        }
        Ok(found.into_iter().flatten().collect())
    }
}
