//! A shard: one core and everything it owns. Messages come through the mesh; all it shares
//! with other shards is [`Setup`], which no row passes.
//!
//! ```text
//!   mesh ──> receiver ──> append queue ──> appender ──> journal ──> acknowledger ──> replies,
//!                │                                         ^            │            sources grew,
//!                ├──> reads (at once, or a task)           │            │            votes, applied
//!                └──> microbatches: events on partitions ──┘            └──> coordinators, participants
//!   background: folds, segment flushes, copies of old entries
//! ```
//!
//! The [`Partition`]s hold the state; this module moves work to them and answers back. Whatever was
//! appended to the journal has an [`Ack`] waiting for it, in order; nothing is released before.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::sync::Arc;

use tidemill_replication::two_phase;

use crate::env::{Class, Env, Sender};
use crate::error::{Error, Result, chain};
use crate::journal::{self, EntryRef, Journal, JournalId, Kind, Ticket};
use crate::page::Cache;
use crate::types::{DepotId, Offset, PartitionId, Run, Term, TopologyId};

pub(crate) mod append;
mod background;
pub(crate) mod backup;
mod credit;
mod difference;
pub(crate) mod entry;
mod event;
mod history;
pub(crate) mod keeper;
mod local;
pub(crate) mod message;
pub(crate) mod microbatch;
mod migrate;
pub(crate) mod partition;
mod parts;
mod peers;
mod pressure;
pub(crate) mod read;
pub(crate) mod recompute;
pub(crate) mod recover;
mod seen;
pub(crate) mod setup;
mod subscribers;
mod tails;
#[cfg(test)]
mod tests;
mod trim;
pub(crate) mod walk;

pub use event::DeadLetter;
pub use message::{Acknowledge, Counters, Effects};
use message::{Message, answer};
use microbatch::Topology;
use partition::{Depot, Partition};
use parts::Part;
pub(crate) use setup::Setup;

/// Everything one shard owns. Tasks of the shard share it; it never leaves the shard.
pub(crate) struct Shard {
    pub(crate) env: Env,
    /// Of this start of the shard.
    run: Run,
    peers: peers::Peers,
    journal_id: JournalId,
    pub(crate) setup: Arc<Setup>,
    pub(crate) journal: Journal,
    pub(crate) cache: Cache,
    pub(crate) partitions: BTreeMap<PartitionId, Rc<Partition>>,
    topologies: RefCell<BTreeMap<TopologyId, Rc<Topology>>>,
    appends: append::Queue,
    subscribers: subscribers::Subscribers,
    pressure: pressure::Pressure,
    tails: tails::Tails,
    /// Something is visible and not merged, and a task merges.
    merge_due: Cell<bool>,
    merging: Cell<bool>,
    acks: RefCell<VecDeque<(Ticket, Ack)>>,
    /// The last group that was logged.
    logged: Cell<Ticket>,
    counters: RefCell<Counters>,
    hand: keeper::Hand,
    /// Set once, when the shard must end; wakes its main task.
    ending: RefCell<Option<Ending>>,
    ended: RefCell<Vec<std::task::Waker>>,
    closing: Cell<bool>,
    /// Old entries are being copied to the end of the journal.
    copying: Cell<bool>,
    backup: backup::Backup,
    dropped: recompute::DroppedHere,
}

/// Why a shard ends.
#[derive(Clone, Debug)]
pub(crate) enum Ending {
    /// It was asked to.
    Closed,
    /// Something failed that must not be retried.
    Failed(String),
}

/// What waits for a group of the journal to be durable.
pub(crate) enum Ack {
    /// Records of one depot; replies with their first offsets.
    Append {
        depot: Rc<Depot>,
        id: DepotId,
        partition: PartitionId,
        end: Offset,
        replies: Vec<(Part<Result<Offset>>, Offset)>,
    },
    /// Records placed by a microbatch.
    Placed { depots: Vec<(Rc<Depot>, DepotId, PartitionId, Offset)> },
    /// Votes, decisions and commits of one topology.
    TwoPhase { topology: Rc<Topology>, step: microbatch::Durable },
}

/// One entry to log.
pub(crate) struct NewEntry {
    pub(crate) partition: Rc<Partition>,
    pub(crate) kind: Kind,
    pub(crate) bytes: Vec<u8>,
    pub(crate) index: crate::types::Index,
}

impl NewEntry {
    /// Takes the next place in the partition's sequence; must be logged before anything else awaits.
    pub(crate) fn new(partition: &Rc<Partition>, kind: Kind, bytes: Vec<u8>) -> Self {
        let index = partition.take_index();
        Self { partition: Rc::clone(partition), kind, bytes, index }
    }
}

/// While there is one replica, nobody campaigns.
const TERM: Term = Term(1);

impl Shard {
    /// A shard whose partitions were recovered; [`Shard::start`] sets it to work.
    pub(crate) fn new(
        env: &Env,
        setup: &Arc<Setup>,
        run: Run,
        (journal_id, journal): (JournalId, Journal),
        cache: Cache,
        partitions: BTreeMap<PartitionId, Rc<Partition>>,
        hand: keeper::Hand,
    ) -> Self {
        Self {
            env: env.clone(),
            run,
            peers: peers::Peers::new(setup, env.shard(), run),
            journal_id,
            setup: Arc::clone(setup),
            journal,
            cache,
            partitions,
            topologies: RefCell::default(),
            appends: append::Queue::default(),
            subscribers: subscribers::Subscribers::default(),
            pressure: pressure::Pressure::default(),
            tails: tails::Tails::default(),
            merge_due: Cell::default(),
            merging: Cell::default(),
            acks: RefCell::default(),
            logged: Cell::default(),
            counters: RefCell::default(),
            hand,
            ending: RefCell::default(),
            ended: RefCell::default(),
            closing: Cell::default(),
            copying: Cell::default(),
            backup: backup::Backup::default(),
            dropped: recompute::DroppedHere::default(),
        }
    }

    /// The partition, which must be one of this shard's.
    pub(crate) fn partition(&self, id: PartitionId) -> Result<&Rc<Partition>> {
        self.partitions.get(&id).ok_or_else(|| Error::Invalid {
            what: format!("partition {id} does not live on shard {}", self.env.shard()),
        })
    }

    /// Queues one atomic group and remembers what waits for it. A journal that refuses has failed,
    /// and the shard with it.
    pub(crate) fn log(&self, entries: &[NewEntry], acks: Vec<Ack>) {
        let group: Vec<EntryRef<'_>> = entries
            .iter()
            .map(|entry| EntryRef {
                partition: entry.partition.id,
                term: TERM,
                index: entry.index,
                kind: entry.kind,
                bytes: &entry.bytes,
            })
            .collect();
        match self.journal.append(&group) {
            Ok(ticket) => {
                self.logged.set(ticket);
                self.acks.borrow_mut().extend(acks.into_iter().map(|ack| (ticket, ack)));
            }
            Err(error) => self.fail(&error),
        }
    }

    /// Ends the shard, for a reason that must not be retried. Only the first one counts.
    pub(crate) fn fail(&self, error: &(dyn std::error::Error + 'static)) {
        self.end(Ending::Failed(chain(error)));
    }

    fn end(&self, ending: Ending) {
        self.ending.borrow_mut().get_or_insert(ending);
        for waker in self.ended.take() {
            waker.wake();
        }
    }

    /// Resolves when the shard must end.
    pub(crate) async fn ending(&self) -> Ending {
        std::future::poll_fn(|context| {
            if let Some(ending) = &*self.ending.borrow() {
                return std::task::Poll::Ready(ending.clone());
            }
            self.ended.borrow_mut().push(context.waker().clone());
            std::task::Poll::Pending
        })
        .await
    }

    /// Starts the tasks that never end.
    pub(crate) fn start(self: &Rc<Self>) {
        let env = self.env.clone();
        env.spawn(Class::Core, "receive", Rc::clone(self).receive());
        env.spawn(Class::Core, "acknowledge", Rc::clone(self).acknowledge());
        env.spawn(Class::Client, "append", Rc::clone(self).run_appends());
        env.spawn(Class::Background, "fold", Rc::clone(self).run_folds());
        env.spawn(Class::Background, "flush", Rc::clone(self).run_tails());
        env.spawn(Class::Client, "heartbeat", Rc::clone(self).run_heartbeats());
    }

    async fn receive(self: Rc<Self>) {
        loop {
            let parcels = self.env.mesh().receive().await;
            for (sender, parcel) in parcels {
                match parcel.downcast::<Message>() {
                    Ok(message) => self.handle(sender, *message),
                    Err(_) => unreachable!("only messages are sent through the mesh"),
                }
            }
        }
    }

    fn handle(self: &Rc<Self>, sender: Sender, message: Message) {
        match message {
            Message::Append(request) if self.closing.get() => {
                answer(request.reply, Err(Error::Closed));
            }
            Message::Append(request) => self.appends.push(request, self.queue_bytes_max()),
            Message::Read(request) => self.read(request),
            Message::Walk(request) => self.walk(request),
            Message::Subscribe(request) => self.subscribe(request),
            Message::Page(request) => self.page(request),
            Message::Difference(request) => self.difference(request),
            Message::ReadDepot(request) => self.read_depot(request),
            Message::Starts { asked, reply } => self.find_starts(asked, reply),
            Message::Wait(request) => self.wait(request),
            Message::Control { from, to, bytes } => self.control(sender, (from, to), &bytes),
            Message::Rows(batch) => match sender {
                Sender::Shard(from) => self.rows(from, batch),
                Sender::Client => unreachable!("clients send no rows"),
            },
            Message::Credit(credit) => match sender {
                Sender::Shard(from) => self.credit(from, credit),
                Sender::Client => unreachable!("clients are sent no rows"),
            },
            Message::CaughtUp { topology, reply } => self.wait_caught_up(topology, reply),
            Message::Decided { topology, reply } => answer(reply, self.decided(topology)),
            Message::Unsettled { topologies, reply } => {
                let all = self.partitions.iter().flat_map(|(&id, partition)| {
                    topologies.iter().map(move |&topology| (id, partition, topology))
                });
                let mut left = all.filter(|(_, partition, it)| partition.is_unsettled(*it));
                answer(reply, Ok(left.next().map(|(id, _, topology)| (id, topology))));
            }
            Message::VisibleAt { topology, id, reply } => self.wait_visible(topology, id, reply),
            Message::Peer { shard, run, up } => {
                self.hear(shard, run, up);
            }
            Message::Install { module, reply } => {
                let shard = Rc::clone(self);
                self.env.spawn(Class::Core, "install", async move {
                    let result = shard.install(module).await;
                    answer(reply, result);
                });
            }
            Message::StartTopologies { topologies, reply } => {
                self.start_topologies(&topologies);
                answer(reply, Ok(()));
            }
            Message::Paused { topology, reply } => answer(reply, self.paused(topology)),
            Message::Work { topology } => self.work(topology),
            Message::Moves { module, reply } => self.count_moves(module, reply),
            Message::Describe { reply } => answer(reply, Ok(self.describe())),
            Message::Counters { reply } => answer(reply, Ok(self.counters())),
            Message::FoldAll { reply } => {
                let shard = Rc::clone(self);
                self.env.spawn(Class::Background, "fold all", async move {
                    answer(reply, shard.fold_all().await);
                });
            }
            Message::Backup(request) => self.back_up(request),
            Message::Recompute(request) => self.recompute(request),
            Message::Close { reply } => {
                let shard = Rc::clone(self);
                self.env.spawn(Class::Background, "close", async move {
                    answer(reply, shard.close().await);
                });
            }
            Message::End => self.end(Ending::Closed),
            Message::Fail { cause } => self.end(Ending::Failed(cause)),
            Message::Panic { cause } => panic!("{cause}"),
            Message::Keeper(request) => {
                let shard = Rc::clone(self);
                self.env.spawn(Class::Core, "keep", async move { shard.keep(request).await });
            }
        }
    }

    /// Releases what waits, in order, as the journal becomes durable.
    async fn acknowledge(self: Rc<Self>) {
        let mut durable = Ticket::default();
        loop {
            durable = match self.journal.advanced(durable).await {
                Ok(durable) => durable,
                // A clean end: everything was durable and released before.
                Err(journal::Error::Closed) => return,
                Err(error) => return self.fail(&error),
            };
            let mut grown = BTreeMap::new();
            loop {
                let ack = {
                    let mut acks = self.acks.borrow_mut();
                    match acks.front() {
                        Some((ticket, _)) if *ticket <= durable => acks.pop_front(),
                        _ => None,
                    }
                };
                let Some((_, ack)) = ack else { break };
                self.release(ack, &mut grown);
            }
            self.sources_grew(&grown);
        }
    }

    fn release(self: &Rc<Self>, ack: Ack, grown: &mut BTreeMap<two_phase::Source, Offset>) {
        match ack {
            Ack::Append { depot, id, partition, end, replies } => {
                depot.log.durable(end);
                grown.insert(two_phase::Source { depot: id, partition }, depot.log.durable_end());
                if end <= depot.log.durable_end() {
                    return answer_all(replies);
                }
                // A bulk append before them is still being written.
                self.env.spawn(Class::Client, "acknowledge behind a bulk append", async move {
                    // If that fails the shard stops, and dropping the replies says so.
                    if depot.log.durable_through(end).await.is_ok() {
                        answer_all(replies);
                    }
                });
            }
            Ack::Placed { depots } => {
                for (depot, id, partition, end) in depots {
                    depot.log.durable(end);
                    let source = two_phase::Source { depot: id, partition };
                    grown.insert(source, depot.log.durable_end());
                }
            }
            Ack::TwoPhase { topology, step } => self.two_phase_durable(&topology, step),
        }
    }

    fn counters(&self) -> Counters {
        let overlay = self.partitions.values().map(|it| it.store.memory_bytes()).sum();
        let folds_least = self.partitions.values().map(|it| it.folds.get()).min();
        let pages = self.cache.counts();
        let journal = self.journal.counts();
        Counters {
            journal_bytes: journal.bytes_written,
            journal_writes: journal.writes,
            journal_used_bytes: self.journal.used_bytes(),
            folds_least: folds_least.unwrap_or_default(),
            overlay_bytes: overlay,
            history_bytes: self.history_bytes(),
            subscribers: self.subscribers_count(),
            subscriber_bytes: self.subscriber_bytes(),
            page_hits: pages.hits,
            page_misses: pages.misses,
            ..self.counters.borrow().clone()
        }
    }
}

fn answer_all(replies: Vec<(Part<Result<Offset>>, Offset)>) {
    for (reply, offset) in replies {
        reply.answer(Ok(offset));
    }
}
