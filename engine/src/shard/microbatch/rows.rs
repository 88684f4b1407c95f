//! Rows on their way: from sources, from other shards, from event to event on this one.

use std::rc::Rc;

use futures_util::FutureExt;
use tidemill_replication::two_phase::{
    AttemptId, Exclusion, Failure, FailureKind, SourceOffset, SourceRange, participant,
};

use super::{Queued, ROWS_MAX, Running, Topology, Work};
use crate::env::Class;
use crate::node::MICROBATCH_BYTES_LIMIT;
use crate::shard::Shard;
use crate::shard::message::RowBatch;
use crate::topology::{NodeIndex, Rows};
use crate::types::{PartitionId, ShardId, WallTime};

/// Whatever the budget is, an attempt of several records may hold so much on a shard.
const ATTEMPT_BYTES_MIN: u64 = 8 << 20;
impl Queued {
    /// Whether `more` can join these.
    fn takes(&self, more: &Self) -> bool {
        self.node == more.node && self.rows.count() + more.rows.count() <= ROWS_MAX
    }

    fn join(&mut self, more: Self) {
        self.rows.append(more.rows);
        self.owed.extend(more.owed);
    }
}

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
                Queued { owed: vec![(sender, rows.bytes() as u64)], node, rows },
            );
        }
        self.participate(topology, participant::Input::WorkFinished { attempt, count: 1 });
    }

    /// A piece of work begins: the participant hears of the first one.
    pub(super) fn begin_piece(self: &Rc<Self>, topology: &Rc<Topology>, running: &Running) {
        let before = running.pieces.replace(running.pieces.get() + 1);
        if before == 0 {
            let attempt = running.attempt;
            self.participate(topology, participant::Input::WorkStarted { attempt, count: 1 });
        }
    }

    /// Pieces of work have ended, and the rows that came of them are queued or sent: the participant hears
    /// of the last one. Changes that wait are one, and leave when they are the last.
    pub(super) fn end_pieces(
        self: &Rc<Self>,
        topology: &Rc<Topology>,
        running: &Rc<Running>,
        count: u64,
    ) {
        let left = running.pieces.get().checked_sub(count);
        let left = left.expect("a piece of work begins before it ends");
        running.pieces.set(left);
        if left == 1 && running.held.waits() {
            self.send_held(topology, running);
            self.send_away(topology, running);
            self.end_pieces(topology, running, 1);
        } else if left == 0 && count > 0 {
            let attempt = running.attempt;
            self.participate(topology, participant::Input::WorkFinished { attempt, count: 1 });
        }
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
        self.queue_rows(topology, running, partition, Queued { node, rows, owed: Vec::new() });
    }

    /// Queues one batch on a partition of this shard. It joins what waits there at last, if the same node
    /// takes that: an event over many rows costs little more than one over few.
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
        let work = running.work(&self.partitions[&partition]);
        let bytes = queued.rows.bytes() as u64;
        let joined = match work.queue.borrow_mut().back_mut() {
            Some(last) if last.takes(&queued) => {
                last.join(queued);
                None
            }
            _ => Some(queued),
        };
        if let Some(queued) = joined {
            self.begin_piece(topology, running);
            work.queue.borrow_mut().push_back(queued);
            if !work.busy.replace(true) {
                self.make_ready(topology, running, work);
            }
        }
        self.count_bytes(topology, running, running.bytes.get() + bytes);
    }

    /// Queues the step of the topology's migrations on a partition of this shard.
    pub(in crate::shard) fn queue_step(
        self: &Rc<Self>,
        topology: &Rc<Topology>,
        running: &Rc<Running>,
        partition: PartitionId,
    ) {
        let work = running.work(&self.partitions[&partition]);
        if !work.has_step.replace(true) {
            self.begin_piece(topology, running);
            if !work.busy.replace(true) {
                self.make_ready(topology, running, work);
            }
        }
    }

    /// Rows wait on a partition, and no event runs there.
    fn make_ready(self: &Rc<Self>, topology: &Rc<Topology>, running: &Rc<Running>, work: Rc<Work>) {
        running.ready.borrow_mut().push_back(work);
        if !running.is_run.replace(true) {
            let (shard, topology, running) =
                (Rc::clone(self), Rc::clone(topology), Rc::clone(running));
            self.env.spawn(Class::Topology, "event", async move {
                shard.run_ready(&topology, &running).await;
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
                topology.title(),
                self.env.shard()
            );
            let failure = Failure { origin: None, kind: FailureKind::TooLarge, message };
            let attempt = running.attempt;
            self.participate(topology, participant::Input::Failed { attempt, failure });
        }
    }

    /// Runs the events of an attempt, one batch of each partition a round, until nothing is ready. Rows
    /// for other shards leave after each round, or when others want to run.
    async fn run_ready(self: &Rc<Self>, topology: &Rc<Topology>, running: &Rc<Running>) {
        loop {
            let round = running.ready.take();
            if round.is_empty() {
                running.is_run.set(false);
                return;
            }
            let mut ended = 0;
            for work in round {
                ended += u64::from(self.run_next(topology, running, work));
                if self.env.should_yield() {
                    self.send_away(topology, running);
                    self.end_pieces(topology, running, std::mem::take(&mut ended));
                    self.env.yield_now().await;
                }
            }
            self.send_away(topology, running);
            self.end_pieces(topology, running, ended);
        }
    }

    /// Runs the first batch that waits on a partition. Whether it ended: if it has to wait for something,
    /// the rest of it becomes a task.
    fn run_next(
        self: &Rc<Self>,
        topology: &Rc<Topology>,
        running: &Rc<Running>,
        work: Rc<Work>,
    ) -> bool {
        let next = work.queue.borrow_mut().pop_front();
        let has_step = next.is_none() && work.has_step.take();
        if next.is_none() && !has_step {
            // It was dropped with its attempt.
            work.busy.set(false);
            return true;
        }
        let mut event = Box::pin({
            let (shard, topology, running, work) =
                (Rc::clone(self), Rc::clone(topology), Rc::clone(running), Rc::clone(&work));
            async move {
                shard.room_for_events(&running.failed).await;
                let Some(Queued { node, rows, owed }) = next else {
                    shard.run_moves(&topology, &running, &work).await;
                    return shard.wrote(&topology, &running, &work, 0);
                };
                let queued = rows.bytes() as u64;
                shard.run_event(&topology, &running, &work, node, rows).await;
                shard.wrote(&topology, &running, &work, queued);
                for (sender, bytes) in owed {
                    shard.give_back(&topology, &running, sender, bytes);
                }
            }
        });
        // Whatever it waits for meets the task's waker when that polls it again.
        let is_done = event.as_mut().now_or_never().is_some();
        if is_done {
            self.after_event(topology, running, work);
            return true;
        }
        let (shard, topology, running) = (Rc::clone(self), Rc::clone(topology), Rc::clone(running));
        self.env.spawn(Class::Topology, "event", async move {
            event.await;
            shard.after_event(&topology, &running, work);
            shard.send_away(&topology, &running);
            shard.end_pieces(&topology, &running, 1);
        });
        false
    }

    fn after_event(
        self: &Rc<Self>,
        topology: &Rc<Topology>,
        running: &Rc<Running>,
        work: Rc<Work>,
    ) {
        if work.queue.borrow().is_empty() && !work.has_step.get() {
            work.busy.set(false);
        } else {
            self.make_ready(topology, running, work);
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
        let bytes_max = self.attempt_bytes_max(records);
        let numbers = self.look_at_numbers(topology);
        let running = Rc::new(Running::new(attempt, began, bytes_max, numbers));
        topology.running.borrow_mut().insert(attempt, Rc::clone(&running));
        if !ranges.is_empty() {
            self.begin_piece(topology, &running);
            let (shard, topology, running) =
                (Rc::clone(self), Rc::clone(topology), Rc::clone(&running));
            let (ranges, exclusions) = (ranges.to_vec(), Rc::from(exclusions));
            self.env.spawn(Class::Topology, "source", async move {
                shard.read_sources(&topology, &running, ranges, &exclusions).await;
                shard.end_pieces(&topology, &running, 1);
            });
        }
        self.queue_moves(topology, &running);
        self.participate(topology, participant::Input::WorkFinished { attempt, count: 1 });
        self.offer_held(topology);
        let taken = ranges.iter().map(|it| SourceOffset { source: it.source, offset: it.to });
        self.sources_taken(topology, taken);
    }

    /// Reads the sources of an attempt one after the other; what is not in memory is read by tasks of their
    /// own, all at the same time.
    async fn read_sources(
        self: &Rc<Self>,
        topology: &Rc<Topology>,
        running: &Rc<Running>,
        ranges: Vec<SourceRange>,
        exclusions: &Rc<[Exclusion]>,
    ) {
        for range in ranges {
            let mut read = Box::pin({
                let (shard, topology, running, exclusions) = (
                    Rc::clone(self),
                    Rc::clone(topology),
                    Rc::clone(running),
                    Rc::clone(exclusions),
                );
                async move { shard.read_source(&topology, &running, range, &exclusions).await }
            });
            if read.as_mut().now_or_never().is_none() {
                self.begin_piece(topology, running);
                let (shard, topology, running) =
                    (Rc::clone(self), Rc::clone(topology), Rc::clone(running));
                self.env.spawn(Class::Topology, "source", async move {
                    read.await;
                    shard.end_pieces(&topology, &running, 1);
                });
            }
            if self.env.should_yield() {
                self.env.yield_now().await;
            }
        }
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
        // A shadow marks refused records, and appends nothing.
        let is_touched = !work.writes.borrow().is_empty()
            || !work.appends.borrow().depots.is_empty()
            || !work.letters.borrow().is_empty();
        if is_touched && !work.touched.replace(true) {
            let (attempt, partition) = (running.attempt, work.partition.id);
            self.participate(topology, participant::Input::Touched { attempt, partition });
        }
    }
}
