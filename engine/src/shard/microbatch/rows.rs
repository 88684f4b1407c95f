//! Rows on their way: from sources, from other shards, from event to event on this one.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use tidemill_replication::two_phase::{
    AttemptId, Exclusion, Failure, FailureKind, SourceOffset, SourceRange, participant,
};

use super::hops::Hops;
use super::{Queued, Running, Topology, Work};
use crate::env::Class;
use crate::node::MICROBATCH_BYTES_LIMIT;
use crate::shard::Shard;
use crate::shard::message::RowBatch;
use crate::topology::{NodeIndex, Rows};
use crate::types::{PartitionId, ShardId, WallTime};

/// Whatever the budget is, an attempt of several records may hold so much on a shard.
const ATTEMPT_BYTES_MIN: u64 = 8 << 20;

impl Shard {
    /// Rows came from another shard.
    pub(in crate::shard) fn rows(self: &Rc<Self>, sender: ShardId, batch: RowBatch) {
        // The news first: they drop what earlier lives sent, and this may be held.
        if !self.hear(sender, batch.from, true) {
            return;
        }
        let id = batch.transaction.topology;
        let Some(topology) = self.topologies.borrow().get(&id).cloned() else { return };
        let attempt = batch.transaction.attempt;
        let admission = topology.participant.borrow().admission(attempt);
        let running = topology.running.borrow().get(&attempt).cloned();
        match (admission, running) {
            (participant::Admission::Run, Some(running)) => {
                self.run_batch(&topology, &running, sender, batch);
            }
            // Without the attempt: the participant has begun it, but an earlier effect of the same step
            // is still being performed.
            (participant::Admission::Run | participant::Admission::Hold, _) => {
                topology.held.borrow_mut().push_back((sender, batch));
            }
            (participant::Admission::Stale, _) => {}
        }
    }

    /// Rows that came early may be due now.
    pub(super) fn offer_held(self: &Rc<Self>, topology: &Rc<Topology>) {
        for (sender, batch) in topology.held.take() {
            self.rows(sender, batch);
        }
    }

    fn run_batch(
        self: &Rc<Self>,
        topology: &Rc<Topology>,
        running: &Rc<Running>,
        sender: ShardId,
        batch: RowBatch,
    ) {
        let attempt = running.attempt;
        self.participate(topology, participant::Input::BatchReceived { attempt, count: 1 });
        for (partition, node, rows) in batch.parts {
            self.queue_rows(
                topology,
                running,
                partition,
                Queued { node, rows, sender: Some(sender) },
            );
        }
        self.participate(topology, participant::Input::WorkFinished { attempt, count: 1 });
    }

    /// Queues rows that come from this shard.
    pub(in crate::shard) fn queue_own_rows(
        self: &Rc<Self>,
        topology: &Rc<Topology>,
        running: &Rc<Running>,
        partition: PartitionId,
        node: NodeIndex,
        rows: Rows,
    ) {
        self.queue_rows(topology, running, partition, Queued { node, rows, sender: None });
    }

    /// Queues one batch on a partition of this shard, as one item of work.
    fn queue_rows(
        self: &Rc<Self>,
        topology: &Rc<Topology>,
        running: &Rc<Running>,
        partition: PartitionId,
        queued: Queued,
    ) {
        if running.failed.get() {
            return;
        }
        let attempt = running.attempt;
        self.participate(topology, participant::Input::WorkStarted { attempt, count: 1 });
        let work = running.work(&self.partitions[&partition]);
        self.count_bytes(topology, running, running.bytes.get() + queued.rows.bytes() as u64);
        work.queue.borrow_mut().push_back(queued);
        if !work.busy.replace(true) {
            let (shard, topology, running) =
                (Rc::clone(self), Rc::clone(topology), Rc::clone(running));
            self.env.spawn(Class::Topology, "event", async move {
                shard.run_queue(&topology, &running, &work).await;
                work.busy.set(false);
            });
        }
    }

    /// Notes what an attempt holds here. Too much fails it: neither the memory nor a prepare has room.
    pub(super) fn count_bytes(
        self: &Rc<Self>,
        topology: &Rc<Topology>,
        running: &Running,
        bytes: u64,
    ) {
        running.bytes.set(bytes);
        self.bound_bytes(topology, running, bytes);
    }

    /// Whether the attempt goes on, and has room for what an event has written and emitted so far. If
    /// not, it has failed.
    pub(in crate::shard) fn has_room(
        self: &Rc<Self>,
        topology: &Rc<Topology>,
        running: &Running,
        work: &Work,
        written: u64,
        emitted: u64,
    ) -> bool {
        let counted = work.counted_bytes.get();
        let more = (written + work.appended_bytes.get()).saturating_sub(counted) + emitted;
        let bytes = running.bytes.get() + more;
        if bytes > running.bytes_max {
            self.bound_bytes(topology, running, bytes);
        }
        !running.failed.get()
    }

    /// What an attempt may hold here that reads `records` records of this shard. The whole of what a
    /// prepare can be for a single record; else no more than the memory budget has to spare, since one
    /// that is too large is tried again with fewer records.
    fn attempt_bytes_max(&self, records: u64) -> u64 {
        let options = &self.setup.options;
        let share = options.memory_bytes / 8 / u64::from(self.setup.shards);
        let spare = if records > 1 { share.max(ATTEMPT_BYTES_MIN) } else { u64::MAX };
        options.microbatch_bytes_max.min(MICROBATCH_BYTES_LIMIT).min(spare)
    }

    fn bound_bytes(self: &Rc<Self>, topology: &Rc<Topology>, running: &Running, bytes: u64) {
        let bytes_max = running.bytes_max;
        if bytes > bytes_max && !running.failed.replace(true) {
            let message = format!(
                "microbatch {} of {} needs more than {bytes_max} bytes on shard {}",
                running.attempt.id,
                topology.definition().name,
                self.env.shard()
            );
            let failure = Failure { origin: None, kind: FailureKind::TooLarge, message };
            let attempt = running.attempt;
            self.participate(topology, participant::Input::Failed { attempt, failure });
        }
    }

    /// Runs a partition's batches one after the other until there is none.
    async fn run_queue(
        self: &Rc<Self>,
        topology: &Rc<Topology>,
        running: &Rc<Running>,
        work: &Rc<Work>,
    ) {
        loop {
            let next = work.queue.borrow_mut().pop_front();
            let Some(Queued { node, rows, sender }) = next else { return };
            let queued = rows.bytes() as u64;
            self.room_for_events(&running.failed).await;
            self.run_event(topology, running, work, node, rows).await;
            let attempt = running.attempt;
            self.wrote(topology, running, work, queued);
            if let Some(sender) = sender {
                self.give_back(topology, running, sender, queued);
            }
            self.participate(topology, participant::Input::WorkFinished { attempt, count: 1 });
            if self.env.should_yield() {
                self.env.yield_now().await;
            }
        }
    }

    /// Begins an attempt: reads the records of its ranges and feeds them to the source nodes.
    pub(super) fn start_sources(
        self: &Rc<Self>,
        topology: &Rc<Topology>,
        attempt: AttemptId,
        began: WallTime,
        ranges: &[SourceRange],
        exclusions: &[Exclusion],
    ) {
        let records = ranges.iter().map(|range| range.to.0 - range.from.0).sum();
        let running = Rc::new(Running {
            attempt,
            began,
            failed: Cell::new(false),
            bytes: Cell::default(),
            hops: Hops::default(),
            bytes_max: self.attempt_bytes_max(records),
            works: RefCell::default(),
        });
        topology.running.borrow_mut().insert(attempt, Rc::clone(&running));
        for range in ranges {
            self.participate(topology, participant::Input::WorkStarted { attempt, count: 1 });
            let left_out: Vec<Exclusion> =
                exclusions.iter().filter(|it| it.origin.source == range.source).cloned().collect();
            let (shard, topology, running, range) =
                (Rc::clone(self), Rc::clone(topology), Rc::clone(&running), *range);
            self.env.spawn(Class::Topology, "source", async move {
                shard.read_source(&topology, &running, range, &left_out).await;
                let attempt = running.attempt;
                shard
                    .participate(&topology, participant::Input::WorkFinished { attempt, count: 1 });
            });
        }
        self.participate(topology, participant::Input::WorkFinished { attempt, count: 1 });
        self.offer_held(topology);
        let taken = ranges.iter().map(|it| SourceOffset { source: it.source, offset: it.to });
        self.sources_taken(topology, taken);
    }

    /// Notes what an attempt has written to a partition, in the stead of `queued` bytes of rows.
    pub(in crate::shard) fn wrote(
        self: &Rc<Self>,
        topology: &Rc<Topology>,
        running: &Running,
        work: &Work,
        queued: u64,
    ) {
        let written = work.writes.borrow().bytes() + work.appended_bytes.get();
        let before = work.counted_bytes.replace(written) + queued;
        let bytes = (running.bytes.get() + written).saturating_sub(before);
        self.count_bytes(topology, running, bytes);
        let is_touched =
            !work.writes.borrow().is_empty() || !work.appends.borrow().depots.is_empty();
        if is_touched && !work.touched.replace(true) {
            let (attempt, partition) = (running.attempt, work.partition.id);
            self.participate(topology, participant::Input::Touched { attempt, partition });
        }
    }
}
