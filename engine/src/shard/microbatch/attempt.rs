//! What an attempt does to the partitions: prepare, commit, drop, become visible; who waits for that.

use std::rc::Rc;

use tidemill_replication::two_phase::{
    AttemptId, Coordinator, Decision, Record, Source, SourceOffset, coordinator, participant,
};

use super::{Durable, Running, Topology};
use crate::env::Class;
use crate::error::{Error, Result};
use crate::journal::Kind;
use crate::probe::{State, reached};
use crate::pstate::{Found, View};
use crate::shard::entry::{Committed, Prepare, Transaction};
use crate::shard::message::{Effects, Reply, WaitRequest, answer};
use crate::shard::partition::{SYSTEM, dead_letter_key};
use crate::shard::parts::Part;
use crate::shard::{Ack, NewEntry, Shard};
use crate::types::{MicrobatchId, Offset, PartitionId, TopologyId};

impl Shard {
    pub(super) fn transaction(topology: &Topology, attempt: AttemptId) -> Transaction {
        Transaction { topology: topology.id, attempt }
    }

    /// Seals the writes of each partition and makes its prepare entry.
    pub(super) fn prepare(
        &self,
        topology: &Topology,
        attempt: AttemptId,
        partitions: &[PartitionId],
    ) -> Vec<NewEntry> {
        let transaction = Self::transaction(topology, attempt);
        let running = topology.running.borrow_mut().remove(&attempt);
        let running = running.expect("only a running attempt is prepared");
        assert!(!running.held.waits(), "changes that wait are work that is not finished");
        let mut entries = Vec::with_capacity(partitions.len());
        for id in partitions {
            let work = running.works.borrow_mut().remove(id).expect("it was touched");
            let partition = &self.partitions[id];
            let mut writes = work.writes.take();
            for key in work.letters.take() {
                writes.put(SYSTEM, &key, &[]);
            }
            let run = Rc::new(writes.seal());
            let appends = work.appends.take();
            let mut bytes = Vec::with_capacity(64 + run.encoded_bytes());
            Prepare::encode_into(transaction, &appends, &mut bytes, |out| run.encode(out));
            let entry = NewEntry::new(partition, Kind::Prepare, bytes);
            partition.add_prepared(transaction, entry.index, run, appends);
            partition.stack(transaction);
            entries.push(entry);
        }
        entries
    }

    /// Makes the committed entry of each partition; appended records take their offsets.
    pub(super) fn commit(
        &self,
        topology: &Topology,
        attempt: AttemptId,
        partitions: &[PartitionId],
    ) -> (Vec<NewEntry>, Vec<Ack>) {
        let transaction = Self::transaction(topology, attempt);
        let committed = Committed { transaction, append_time: self.env.wall() };
        let mut entries = Vec::with_capacity(partitions.len());
        let mut depots = Vec::new();
        for id in partitions {
            let partition = &self.partitions[id];
            let entry = NewEntry::new(partition, Kind::Committed, committed.encode());
            let placed = partition.placing(transaction);
            if let Err(what) = partition.commit(committed, entry.index) {
                self.fail(&Error::Corrupt { what });
            }
            for depot in placed {
                if let Some(known) = partition.known_depot(depot) {
                    let end = known.log.end();
                    depots.push((known, depot, *id, end));
                }
            }
            entries.push(entry);
        }
        let acks = if depots.is_empty() { Vec::new() } else { vec![Ack::Placed { depots }] };
        (entries, acks)
    }

    /// The planted bug [`Plant::OffsetsBeforeCommitted`](crate::probe::Plant): records take their offsets
    /// with the prepare.
    pub(super) fn place_prepared(
        &self,
        topology: &Topology,
        attempt: AttemptId,
        partitions: &[PartitionId],
    ) -> Ack {
        let transaction = Self::transaction(topology, attempt);
        let mut depots = Vec::new();
        for id in partitions {
            let partition = &self.partitions[id];
            let placed = partition.placing(transaction);
            partition.place_prepared(transaction, self.env.wall());
            for depot in placed {
                if let Some(known) = partition.known_depot(depot) {
                    let end = known.log.end();
                    depots.push((known, depot, *id, end));
                }
            }
        }
        Ack::Placed { depots }
    }

    /// Everything lies in this shard's journal: one write for all of it.
    pub(super) fn commit_locally(
        self: &Rc<Self>,
        topology: &Rc<Topology>,
        token: coordinator::Token,
        decision: Decision,
    ) {
        let attempt = decision.attempt;
        let mut effects = Vec::new();
        let input = participant::Input::CommitLocally { attempt };
        topology.participant.borrow_mut().step(self.env.now().0, input, &mut effects);
        let mut entries = Vec::new();
        let mut acks = Vec::new();
        for effect in effects {
            if let participant::Effect::WriteLocally { attempt, partitions } = effect {
                self.counters.borrow_mut().prepares += 1;
                entries.extend(self.prepare(topology, attempt, &partitions));
                let (committed, placed) = self.commit(topology, attempt, &partitions);
                entries.extend(committed);
                acks.extend(placed);
            } else {
                self.perform_participant(topology, effect);
            }
        }
        let record = Record::Decision(decision);
        entries.push(self.record_entry(topology, &record));
        let step = Durable::Locally { token, attempt, record };
        acks.push(Ack::TwoPhase { topology: Rc::clone(topology), step });
        self.log(&entries, acks);
    }

    /// An attempt is over without effect.
    pub(super) fn drop_attempt(
        self: &Rc<Self>,
        topology: &Rc<Topology>,
        attempt: AttemptId,
        aborted: &[PartitionId],
    ) {
        let transaction = Self::transaction(topology, attempt);
        self.counters.borrow_mut().aborts += 1;
        if let Some(running) = topology.running.borrow_mut().remove(&attempt) {
            running.failed.set(true);
            for work in running.works.borrow().values() {
                work.queue.borrow_mut().clear();
            }
            self.wake_events();
            running.hops.clear();
            running.held.clear();
        }
        topology.moves.dropped(attempt);
        let above = topology.running.borrow().keys().any(|it| it.id > attempt.id);
        let prepared_above = aborted.iter().any(|id| {
            let in_doubt = self.partitions[id].in_doubt();
            in_doubt.iter().any(|it| it.topology == topology.id && it.attempt.id > attempt.id)
        });
        if above || prepared_above {
            reached(State::AbortWithNextPrepared);
        }
        let mut entries = Vec::new();
        for id in aborted {
            let partition = &self.partitions[id];
            partition.forget_prepared(transaction);
            entries.push(NewEntry::new(partition, Kind::Aborted, transaction.encode()));
        }
        if !entries.is_empty() {
            self.log(&entries, Vec::new());
        }
        self.offer_held(topology);
    }

    /// Every id up to this one has been applied everywhere: readers advance, waiters hear of it.
    pub(super) fn make_visible(
        self: &Rc<Self>,
        topology: &Rc<Topology>,
        id: MicrobatchId,
        offsets: &[SourceOffset],
    ) {
        self.look_at_numbers(topology);
        // First, so that a shard that is opened now shows no less.
        topology.module.note_visible(topology.place, id);
        self.note_news(topology.id, topology.visible.get(), id);
        for partition in self.partitions.values() {
            partition.show_through(topology.id, id);
        }
        topology.visible.set(id);
        topology.moves.visible(id);
        topology.module.note_shown(topology.place, self.env.shard(), id);
        // What had nothing to prepare here is still among the running ones.
        topology.running.borrow_mut().retain(|attempt, _| attempt.id > id);
        self.merge_due.set(true);
        self.merge_soon();
        self.tell_news();
        for (wanted, reply) in topology.visible_waiting.take() {
            if wanted <= id {
                answer(reply, Ok(()));
            } else {
                topology.visible_waiting.borrow_mut().push((wanted, reply));
            }
        }
        let mut read = topology.read.borrow_mut();
        for moved in offsets {
            read.insert(moved.source, moved.offset);
        }
        drop(read);
        self.sources_taken(topology, offsets.iter().copied());
        for moved in offsets {
            let mut waiting = topology.waiting.borrow_mut();
            let from = (moved.source, Offset(0));
            let ready: Vec<_> =
                waiting.range(from..(moved.source, moved.offset)).map(|(&key, _)| key).collect();
            for key in ready {
                for reply in waiting.remove(&key).unwrap_or_default() {
                    self.tell_effects(topology, key.0, key.1, reply);
                }
            }
        }
    }

    /// Merges what is visible, a partition at a time, and lets others run between.
    fn merge_soon(self: &Rc<Self>) {
        if self.merging.replace(true) {
            return;
        }
        let shard = Rc::clone(self);
        self.env.spawn(Class::Topology, "merge", async move {
            while shard.merge_due.take() {
                shard.bound_history();
                for partition in shard.partitions.values() {
                    // Asked for now, since somebody may have come while others ran.
                    partition.merge_shown(&shard.wanted());
                    if shard.env.should_yield() {
                        shard.env.yield_now().await;
                    }
                }
            }
            shard.merging.set(false);
        });
    }

    /// A client waits for the effects of records.
    pub(in crate::shard) fn wait(self: &Rc<Self>, request: WaitRequest) {
        let WaitRequest { topology, depot, records, reply } = request;
        let topology = match self.topology(topology) {
            Ok(topology) => topology,
            Err(error) => return answer(reply, Err(error)),
        };
        if records.is_empty() {
            return answer(reply, Ok(Vec::new()));
        }
        let replies = Part::of(reply, records.len());
        for ((partition, offset), reply) in records.into_iter().zip(replies) {
            self.wait_for(&topology, Source { depot, partition }, offset, reply);
        }
    }

    /// Answers when the record at `offset` of `source` was read and its effects are visible.
    fn wait_for(
        self: &Rc<Self>,
        topology: &Rc<Topology>,
        source: Source,
        offset: Offset,
        reply: Part<Result<Effects>>,
    ) {
        let read = topology.read.borrow().get(&source).copied().unwrap_or_default();
        if offset < read {
            self.tell_effects(topology, source, offset, reply);
        } else {
            topology.waiting.borrow_mut().entry((source, offset)).or_default().push(reply);
        }
    }

    /// Tells what became of a record below the visible offsets: at once, unless a page must be read.
    fn tell_effects(
        self: &Rc<Self>,
        topology: &Topology,
        source: Source,
        offset: Offset,
        reply: Part<Result<Effects>>,
    ) {
        let id = topology.visible.get();
        let told = move |is_dead: bool| {
            Ok(if is_dead { Effects::DeadLettered { id } } else { Effects::Applied { id } })
        };
        let Some(partition) = self.partitions.get(&source.partition).cloned() else {
            let what = format!("partition {} does not live here", source.partition);
            return reply.answer(Err(Error::Invalid { what }));
        };
        let letters = partition.known_depot(topology.module.dead_letters[topology.place]);
        if letters.is_none_or(|letters| letters.log.end() == Offset(0)) {
            return reply.answer(told(false));
        }
        let key = dead_letter_key(topology.id, source.depot, offset);
        let view = View::visible();
        match partition.store.get(&view, SYSTEM, &key, |value| value.is_some()) {
            Ok(Found::Ready(is_dead)) => reply.answer(told(is_dead)),
            Ok(Found::Miss(_)) => {
                let shard = Rc::clone(self);
                self.env.spawn(Class::Client, "look a dead letter up", async move {
                    let view = View::visible();
                    let found = partition.store.read(&view, SYSTEM, &key, |it| it.is_some());
                    let found = found.await.map_err(|error| shard.read_failed(&error));
                    reply.answer(found.and_then(told));
                });
            }
            Err(error) => reply.answer(Err(self.read_failed(&error))),
        }
    }

    /// Answers when every record that is durable now in the topology's sources here was read and
    /// applied.
    pub(in crate::shard) fn wait_caught_up(self: &Rc<Self>, id: TopologyId, reply: Reply<()>) {
        let topology = match self.topology(id) {
            Ok(topology) => topology,
            Err(error) => return answer(reply, Err(error)),
        };
        let mut ends = self.source_ends(&topology);
        ends.retain(|end| end.offset > Offset(0));
        if ends.is_empty() {
            return answer(reply, Ok(()));
        }
        let (all, answered) = futures_channel::oneshot::channel();
        for (end, reply) in ends.iter().zip(Part::of(all, ends.len())) {
            self.wait_for(&topology, end.source, Offset(end.offset.0 - 1), reply);
        }
        self.env.spawn(Class::Client, "wait until caught up", async move {
            // If nobody answers, the shard ended; dropping `reply` says so.
            if let Ok(answered) = answered.await {
                let all = answered.and_then(|all| all.into_iter().try_for_each(|it| it.map(drop)));
                answer(reply, all);
            }
        });
    }

    /// The last id that the coordinator, which lives here, has decided.
    pub(in crate::shard) fn decided(&self, id: TopologyId) -> Result<MicrobatchId> {
        let topology = self.topology(id)?;
        let coordinator = topology.coordinator.borrow();
        Ok(coordinator.as_ref().map(Coordinator::decided).unwrap_or_default())
    }

    /// Why the coordinator, which lives here, begins no microbatch.
    pub(in crate::shard) fn paused(&self, id: TopologyId) -> Result<Option<String>> {
        Ok(self.topology(id)?.paused.borrow().as_ref().map(ToString::to_string))
    }

    /// What the two machines of each topology hold.
    pub(in crate::shard) fn describe(&self) -> String {
        let topologies = self.topologies.borrow();
        let lines = topologies.values().map(|topology| {
            let running = topology.running.borrow();
            let spilled = |it: &Rc<Running>| it.hops.spilled_bytes();
            let running: Vec<_> = running.iter().map(|(key, it)| (key, spilled(it))).collect();
            format!(
                "{}: {:?}\nrunning, with bytes spilled: {:?}\nheld {:?}\n{:?}\n{:?}\n",
                topology.title(),
                self.peers,
                running,
                topology.held.borrow(),
                topology.participant.borrow(),
                topology.coordinator.borrow(),
            )
        });
        lines.collect()
    }

    /// Answers when readers of this shard see an id.
    pub(in crate::shard) fn wait_visible(
        &self,
        topology: TopologyId,
        id: MicrobatchId,
        reply: Reply<()>,
    ) {
        match self.topology(topology) {
            Ok(topology) if topology.visible.get() >= id => answer(reply, Ok(())),
            Ok(topology) => match self.peers.down().first() {
                Some(&down) => answer(reply, Err(self.setup.stopped_error(down))),
                None => topology.visible_waiting.borrow_mut().push((id, reply)),
            },
            Err(error) => answer(reply, Err(error)),
        }
    }

    /// Takes out a topology that runs no more.
    pub(in crate::shard) fn forget_topology(&self, id: TopologyId) -> Option<Rc<Topology>> {
        self.topologies.borrow_mut().remove(&id)
    }

    pub(in crate::shard) fn topology(&self, id: TopologyId) -> Result<Rc<Topology>> {
        let found = self.topologies.borrow().get(&id).cloned();
        // Clients know no topology that was not launched, so this life of the shard is a new one.
        found.ok_or_else(|| Error::ShardStopped {
            shard: self.env.shard(),
            cause: format!("topology {id} is being started again"),
        })
    }
}
