//! Rows that leave for other shards, within their credit; see [`credit`](crate::shard::credit).
//!
//! An event never waits for credit: its rows wait in the spill, counted among the bytes of the attempt and
//! as work that is not finished, and the shard goes on receiving. Only sources wait while much is spilled,
//! since they hold nothing that somebody else needs.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Poll, Waker};

use tidemill_replication::two_phase::participant;

use super::{ROWS_MAX, Running, Topology};
use crate::node::MICROBATCH_BYTES_LIMIT;
use crate::shard::Shard;
use crate::shard::credit::{self, Outbox, Owed};
use crate::shard::message::{Credit, Message, RowBatch};
use crate::topology::{NodeIndex, Outgoing, Rows};
use crate::types::{PartitionId, ShardId};

/// The accounts of one attempt on one shard.
#[derive(Default)]
pub(super) struct Hops {
    /// What leaves with the next batches.
    away: RefCell<BTreeMap<ShardId, Away>>,
    outboxes: RefCell<BTreeMap<ShardId, Outbox<Part>>>,
    owed: RefCell<BTreeMap<ShardId, Owed>>,
    /// Sources that wait for the spill to shrink.
    sources: RefCell<Vec<Waker>>,
}

/// Rows for one node on one partition.
type Part = (PartitionId, NodeIndex, Rows);

/// Rows for another shard, in the order made.
#[derive(Default)]
struct Away {
    parts: Vec<Part>,
    /// The last part for each partition.
    last: BTreeMap<PartitionId, usize>,
}

impl Away {
    /// Adds rows behind all others for their partition; they join those if the same node takes them.
    fn add(&mut self, to: PartitionId, node: NodeIndex, rows: Rows) {
        let last = self.last.get(&to).and_then(|&place| self.parts.get_mut(place));
        match last {
            Some((_, taker, before))
                if *taker == node && before.count() + rows.count() <= ROWS_MAX =>
            {
                before.append(rows);
            }
            _ => {
                self.last.insert(to, self.parts.len());
                self.parts.push((to, node, rows));
            }
        }
    }
}

impl Hops {
    /// The attempt is over.
    pub(super) fn clear(&self) {
        drop(self.away.take());
        drop(self.outboxes.take());
        self.wake_sources();
    }

    pub(super) fn spilled_bytes(&self) -> u64 {
        self.outboxes.borrow().values().map(Outbox::spilled_bytes).sum()
    }

    fn wake_sources(&self) {
        for waker in self.sources.take() {
            waker.wake();
        }
    }
}

impl Running {
    /// Waits while more is spilled than one account may have under way, or until the attempt is over.
    pub(in crate::shard) async fn sources_may_go_on(&self, shard: &Shard) {
        let bytes_max = shard.hop_bytes_max();
        poll_fn(|context| {
            if self.failed.get() || self.hops.spilled_bytes() <= bytes_max {
                return Poll::Ready(());
            }
            self.hops.sources.borrow_mut().push(context.waker().clone());
            Poll::Pending
        })
        .await;
    }
}

impl Shard {
    pub(super) fn hop_bytes_max(&self) -> u64 {
        let options = &self.setup.options;
        let microbatch_bytes_max = options.microbatch_bytes_max.min(MICROBATCH_BYTES_LIMIT);
        credit::bytes_max(options.hop_bytes_max, microbatch_bytes_max, self.setup.shards)
    }

    /// Rows of one event: those for this shard are queued, those for others wait for
    /// [`Shard::send_away`].
    pub(in crate::shard) fn send_rows(
        self: &Rc<Self>,
        topology: &Rc<Topology>,
        running: &Rc<Running>,
        outgoing: Vec<Outgoing>,
    ) {
        let own = self.env.shard();
        for out in outgoing {
            let owner = self.setup.owner(out.to);
            if owner == own {
                self.queue_own_rows(topology, running, out.to, out.node, out.rows);
            } else {
                let mut away = running.hops.away.borrow_mut();
                away.entry(owner).or_default().add(out.to, out.node, out.rows);
            }
        }
    }

    /// Sends what events left for other shards, all that goes to one of them together; what has no credit
    /// is spilled.
    pub(super) fn send_away(self: &Rc<Self>, topology: &Rc<Topology>, running: &Running) {
        for (to, Away { parts, .. }) in running.hops.away.take() {
            if running.failed.get() {
                // What was spilled is too much: nothing of this attempt counts any more.
                return;
            }
            let (mut spilled, mut spilled_rows, mut spilled_bytes) = (0, 0, 0);
            let mut now = Vec::with_capacity(parts.len());
            let mut outboxes = running.hops.outboxes.borrow_mut();
            let outbox = outboxes.entry(to).or_insert_with(|| Outbox::new(self.hop_bytes_max()));
            for part in parts {
                let (rows, bytes) = (part.2.count() as u64, part.2.bytes() as u64);
                if let Some(part) = outbox.offer(part, bytes) {
                    now.push(part);
                } else {
                    spilled += 1;
                    spilled_rows += rows;
                    spilled_bytes += bytes;
                }
            }
            drop(outboxes);
            self.send_batch(topology, running, to, now);
            if spilled > 0 {
                // They keep the attempt from looking finished here.
                let attempt = running.attempt;
                let input = participant::Input::WorkStarted { attempt, count: spilled };
                self.participate(topology, input);
                self.counters.borrow_mut().rows_spilled += spilled_rows;
                self.count_bytes(topology, running, running.bytes.get() + spilled_bytes);
            }
        }
    }

    fn send_batch(
        self: &Rc<Self>,
        topology: &Rc<Topology>,
        running: &Running,
        to: ShardId,
        parts: Vec<Part>,
    ) {
        if parts.is_empty() {
            return;
        }
        let attempt = running.attempt;
        let transaction = Self::transaction(topology, attempt);
        self.counters.borrow_mut().batches_sent += 1;
        self.participate(topology, participant::Input::BatchSent { attempt, count: 1 });
        let batch = RowBatch { from: self.run, transaction, parts };
        self.env.mesh().send(to, Box::new(Message::Rows(batch)));
    }

    /// Rows that `sender` sent were consumed, or will not be needed.
    pub(super) fn give_back(
        &self,
        topology: &Topology,
        running: &Running,
        sender: ShardId,
        bytes: u64,
    ) {
        let mut owed = running.hops.owed.borrow_mut();
        let owed = owed.entry(sender).or_insert_with(|| Owed::new(self.hop_bytes_max()));
        if let Some(bytes) = owed.consumed(bytes) {
            let transaction = Self::transaction(topology, running.attempt);
            let credit = Credit { from: self.run, transaction, bytes };
            self.env.mesh().send(sender, Box::new(Message::Credit(credit)));
        }
    }

    /// Another shard has consumed rows: what waited may go.
    pub(in crate::shard) fn credit(self: &Rc<Self>, from: ShardId, credit: Credit) {
        if !self.hear(from, credit.from, true) {
            return;
        }
        let id = credit.transaction.topology;
        let Some(topology) = self.topologies.borrow().get(&id).cloned() else { return };
        let attempt = credit.transaction.attempt;
        // An attempt that is over, or prepared, sends nothing more.
        let Some(running) = topology.running.borrow().get(&attempt).cloned() else { return };
        let mut released = Vec::new();
        let mut released_bytes = 0;
        if let Some(outbox) = running.hops.outboxes.borrow_mut().get_mut(&from) {
            outbox.returned(credit.bytes);
            while let Some((part, bytes)) = outbox.next() {
                released.push(part);
                released_bytes += bytes;
            }
        }
        if released.is_empty() || running.failed.get() {
            return;
        }
        let count = released.len() as u64;
        self.count_bytes(&topology, &running, running.bytes.get().saturating_sub(released_bytes));
        self.send_batch(&topology, &running, from, released);
        self.participate(&topology, participant::Input::WorkFinished { attempt, count });
        running.hops.wake_sources();
    }
}
