//! Depots that do not keep everything: what may go, and where topologies that are new to a depot begin.
//!
//! A fold of a partition is what deletes: it records the logs' segments, and files that no record lists are
//! removed. So when it fixes what it will contain, the whole segments are let go of that are beyond what the depot
//! [keeps](crate::module::Keep) and that every declared topology has read. How far those are is what they have made
//! visible: nothing of it is ever read again. A topology that this shard has not heard of since it was started
//! counts as one that has read nothing. Until a module is launched, nobody says what its depots keep, and they
//! keep everything.

use std::rc::Rc;
use std::time::Duration;

use tidemill_replication::two_phase::Source;

use super::Shard;
use super::message::{Reply, answer};
use super::partition::Partition;
use crate::depot::{self, Log};
use crate::env::Class;
use crate::error::{Error, Result, chain};
use crate::module::{Keep, StartAt};
use crate::probe::{Plant, State, planted, reached};
use crate::types::{DepotId, Offset, PartitionId, WallTime};

/// Segments of depots that do not keep everything are sealed at this: about the most that a partition has too much.
const SEGMENT_BYTES_MAX: u64 = 16 << 20;

impl Shard {
    /// Lets go of what no depot of a partition keeps and no topology needs; the fold that follows deletes it.
    pub(super) fn trim(&self, partition: &Partition) {
        if self.setup.are_trims_held() {
            return;
        }
        for module in self.setup.modules().iter().filter(|it| it.shadow.is_none()) {
            for (&depot, decl) in module.depots.iter().zip(&module.definition.depots) {
                if !decl.keep.is_bounded() {
                    continue;
                }
                let Some(log) = partition.known_depot(depot) else { continue };
                log.log.bound_segments(SEGMENT_BYTES_MAX);
                let source = Source { depot, partition: partition.id };
                let (below, before) = self.beyond(decl.keep, &log.log);
                let first = log.log.first();
                if log.log.trim(below.min(self.read_by_all(source)), before) > first {
                    self.counters.borrow_mut().trims += 1;
                    reached(State::DepotTrimmed);
                }
            }
        }
    }

    /// Below which offset, and appended before which time, a depot need not keep what it has.
    fn beyond(&self, keep: Keep, log: &Log) -> (Offset, WallTime) {
        let below =
            keep.records.map_or(u64::MAX, |count| log.durable_end().0.saturating_sub(count));
        let now = self.env.wall();
        (Offset(below), keep.time.map_or(WallTime(u64::MAX), |time| ago(now, time)))
    }

    /// Up to where all topologies have read a source for the last time.
    fn read_by_all(&self, source: Source) -> Offset {
        if planted(Plant::TrimIgnoresReaders) {
            return Offset(u64::MAX);
        }
        let topologies = self.topologies.borrow();
        let mut lowest = Offset(u64::MAX);
        for module in self.setup.modules() {
            for (place, id) in module.running() {
                let sources = &module.definition.topologies[place].sources;
                if sources.iter().any(|it| module.depots[it.depot.0 as usize] == source.depot) {
                    let read = topologies.get(&id).map_or(Offset(0), |it| it.read_of(source));
                    lowest = lowest.min(read);
                }
            }
        }
        lowest
    }

    /// Where to begin in depots of this shard's partitions; 0 is left out.
    pub(super) fn find_starts(
        self: &Rc<Self>,
        asked: Vec<(DepotId, StartAt)>,
        reply: Reply<Vec<(DepotId, PartitionId, Offset)>>,
    ) {
        let shard = Rc::clone(self);
        self.env.spawn(Class::Client, "find starts", async move {
            let found = async {
                let mut starts = Vec::new();
                for partition in shard.partitions.values() {
                    for &(depot, start) in &asked {
                        let opened = partition.depot(depot).await;
                        let log = opened.map_err(|error| shard.stopped_by(&error))?;
                        let offset = shard.start_in(&log.log, start).await?;
                        if offset > Offset(0) {
                            starts.push((depot, partition.id, offset));
                        }
                    }
                }
                Ok(starts)
            };
            answer(reply, found.await);
        });
    }

    /// Among durable records: what is not may be lost, and then others get its offsets.
    async fn start_in(&self, log: &Log, start: StartAt) -> Result<Offset> {
        let (first, end) = (log.first(), log.durable_end());
        let since = match start {
            StartAt::Beginning => return Ok(first),
            StartAt::End => return Ok(end.max(first)),
            StartAt::Newest(count) => return Ok(first.max(Offset(end.0.saturating_sub(count)))),
            StartAt::Since(time) => time,
            StartAt::Within(time) => ago(self.env.wall(), time),
        };
        log.offset_at(since).await.map_err(|error| match error {
            depot::Error::Corrupt { .. } => Error::Corrupt { what: chain(&error) },
            error => self.stopped_by(&error),
        })
    }
}

fn ago(now: WallTime, time: Duration) -> WallTime {
    WallTime(now.0.saturating_sub(u64::try_from(time.as_micros()).unwrap_or(u64::MAX)))
}
