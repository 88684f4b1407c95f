//! What a shard does for a recompute: see [`crate::recompute`] for the whole, and `node/recompute.rs` for its order.
//!
//! A topology and its shadow have their coordinators on one shard, since those are placed by name; so both are
//! stopped in one step, at offsets that both can reach.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use futures_channel::oneshot;
use futures_util::future::{Either, select};
use tidemill_replication::two_phase::Source;
use tidemill_replication::two_phase::coordinator::{self, Coordinator, PauseReason};

use super::message::{Message, Reply, answer};
use super::microbatch::Topology;
use super::{NewEntry, Setup, Shard};
use crate::env::{Class, Env};
use crate::error::{Error, Result};
use crate::journal::Kind;
use crate::node::Installed;
use crate::node::catalogue::Catalogue;
use crate::node::numbers::{self, Numbers};
use crate::probe::{Plant, State, planted, reached};
use crate::types::{MicrobatchId, Offset, PStateId, PartitionId, ShardId, Time, TopologyId};

mod compare;

/// A microbatch of a shadow takes at most so many records of one source partition: it should not be in the way
/// of others for long.
pub(super) const RECORDS_MAX: u64 = 256;

/// Two that are no more records apart than this are near enough to stop for.
const NEAR_RECORDS: u64 = 8_192;

/// Between two looks at what takes its time.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// A shadow that is given up should be at rest by then.
const REST_MAX: Duration = Duration::from_secs(10);

/// What a node asks of a shard.
#[derive(Debug)]
pub(crate) enum Request {
    /// Where the sources of a topology begin here, if that is not at 0.
    Trimmed { topology: TopologyId, reply: Reply<Vec<(PartitionId, usize, Offset)>> },
    /// How far a shadow is; for the shard of the coordinators, like all down to `Rest`.
    Records { topology: TopologyId, shadow: TopologyId, reply: Reply<Records> },
    /// The moment at which it is near.
    Near { topology: TopologyId, shadow: TopologyId, reply: Reply<()> },
    /// Stops a topology and its shadow at the same offsets; answers when they are there. `expired` hears of it
    /// if they go on since it took too long.
    Stop {
        topology: TopologyId,
        shadow: TopologyId,
        number: u64,
        reply: Reply<Records>,
        expired: oneshot::Sender<Error>,
    },
    /// Both may go on, if they are not stopped any more.
    Go { topology: TopologyId, shadow: TopologyId },
    /// Brings a shadow to rest for ever.
    Rest { shadow: TopologyId, reply: Reply<()> },
    /// Compares all that lies here of a topology, which is stopped, with what its shadow has.
    Compare { module: Arc<Installed>, shadow: Arc<Installed>, reply: Reply<Option<String>> },
    /// Compares what the two have given up.
    CompareRejected { module: Arc<Installed>, shadow: Arc<Installed>, reply: Reply<Option<String>> },
    /// A shadow is over.
    Retire { topology: TopologyId },
}

/// How far a shadow is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Records {
    /// Records it has done.
    pub(crate) done: u64,
    /// Records that its topology has done.
    pub(crate) total: u64,
}

/// What recomputes note of one topology.
#[derive(Default)]
pub(super) struct OfTopology {
    /// Of a topology, and of a shadow: that the two are being stopped.
    stopping: RefCell<Option<Stopping>>,
    /// Of a shadow: since when it has been at work.
    since: Cell<Option<Time>>,
    /// Of a shadow: it rests until then.
    rests_until: Cell<Time>,
    /// Of a shadow: it does not go on.
    is_over: Cell<bool>,
}

struct Stopping {
    number: u64,
    /// The two of them.
    topology: TopologyId,
    shadow: TopologyId,
    /// Until they have stopped; with the topology.
    reply: Option<Reply<Records>>,
}

impl Shard {
    pub(super) fn recompute(self: &Rc<Self>, request: Request) {
        let shard = Rc::clone(self);
        match request {
            Request::Trimmed { topology, reply } => answer(reply, self.trimmed(topology)),
            Request::Records { topology, shadow, reply } => {
                answer(reply, self.records(topology, shadow));
            }
            Request::Near { topology, shadow, reply } => {
                self.env.spawn(Class::Background, "wait for a recompute", async move {
                    shard.wait_near(topology, shadow, reply).await;
                });
            }
            Request::Stop { topology, shadow, number, reply, expired } => {
                self.stop((topology, shadow), number, reply, expired);
            }
            Request::Go { topology, shadow } => self.go(topology, shadow),
            Request::Rest { shadow, reply } => {
                self.env.spawn(Class::Background, "rest", async move {
                    answer(reply, shard.rest(shadow).await);
                });
            }
            Request::Compare { module, shadow, reply } => {
                self.env.spawn(Class::Topology, "compare a recompute", async move {
                    answer_who_waits(reply, shard.compare(&module, &shadow)).await;
                });
            }
            Request::CompareRejected { module, shadow, reply } => {
                self.env.spawn(Class::Topology, "compare a recompute", async move {
                    answer_who_waits(reply, shard.compare_rejected(&module, &shadow)).await;
                });
            }
            Request::Retire { topology } => self.retire(topology),
        }
    }

    fn trimmed(&self, id: TopologyId) -> Result<Vec<(PartitionId, usize, Offset)>> {
        let topology = self.topology(id)?;
        let mut trimmed = Vec::new();
        for source in &topology.definition().sources {
            let place = source.depot.0 as usize;
            for partition in self.partitions.values() {
                let depot = partition.known_depot(topology.module.depots[place]);
                let first = depot.map(|depot| depot.log.first()).unwrap_or_default();
                let source =
                    Source { depot: topology.module.depots[place], partition: partition.id };
                let begun = topology.module.starts[topology.place].get(&source);
                if first > begun.copied().unwrap_or_default() {
                    trimmed.push((partition.id, place, first));
                }
            }
        }
        Ok(trimmed)
    }

    // ---- catching up

    fn with_coordinator<T>(
        &self,
        id: TopologyId,
        ask: impl FnOnce(&Coordinator) -> T,
    ) -> Result<T> {
        let topology = self.topology(id)?;
        let coordinator = topology.coordinator();
        let coordinator = coordinator.as_ref().ok_or_else(|| Error::Recompute {
            what: format!("the coordinator of topology {id} is not on shard {}", self.env.shard()),
        })?;
        Ok(ask(coordinator))
    }

    fn records(&self, topology: TopologyId, shadow: TopologyId) -> Result<Records> {
        let done = |coordinator: &Coordinator| coordinator.records().0;
        let total = self.with_coordinator(topology, done)?;
        Ok(Records { done: self.with_coordinator(shadow, done)?, total })
    }

    async fn wait_near(&self, topology: TopologyId, shadow: TopologyId, reply: Reply<()>) {
        // Nobody to tell means that it was left alone for now.
        while !reply.is_canceled() {
            let distance = self.is_stuck(shadow).and_then(|()| self.distance(topology, shadow));
            match distance {
                Ok(distance) if distance > NEAR_RECORDS => self.env.sleep(LOOK_EVERY).await,
                Ok(_) => return answer(reply, Ok(())),
                Err(error) => return answer(reply, Err(error)),
            }
        }
    }

    /// How many records either of the two has to do until they are at the same ones.
    fn distance(&self, topology: TopologyId, shadow: TopologyId) -> Result<u64> {
        let first = self.with_coordinator(topology, Coordinator::planned)?;
        let second = self.with_coordinator(shadow, Coordinator::planned)?;
        let sources: BTreeSet<_> = first.keys().chain(second.keys()).collect();
        let at =
            |of: &BTreeMap<Source, Offset>, source| of.get(source).copied().unwrap_or_default();
        let apart = sources.into_iter().map(|it| at(&first, it).0.abs_diff(at(&second, it).0));
        Ok(apart.sum())
    }

    /// An error if a shadow cannot go on as long as the code is what it is.
    fn is_stuck(&self, shadow: TopologyId) -> Result<()> {
        let shadow = self.topology(shadow)?;
        let paused = shadow.paused.borrow();
        let Some(reason @ PauseReason::Rejected { .. }) = &*paused else { return Ok(()) };
        Err(Error::Recompute { what: format!("topology `{}`: {reason}", shadow.definition().name) })
    }

    /// A shadow begins a microbatch.
    pub(super) fn note_begin(&self, topology: &Topology) {
        let since = &topology.recompute.since;
        if topology.is_shadow() && since.get().is_none() {
            since.set(Some(self.env.now()));
        }
    }

    /// A microbatch of a shadow is done: it rests in proportion, unless somebody waits for it.
    pub(super) fn pace(self: &Rc<Self>, topology: &Rc<Topology>) {
        let noted = &topology.recompute;
        if !topology.is_shadow() || noted.is_over.get() {
            return;
        }
        let now = self.env.now();
        let since = noted.since.take().unwrap_or(now);
        if topology.coordinator().as_ref().is_some_and(|it| !it.undecided().is_empty()) {
            noted.since.set(Some(now));
        }
        if self.is_stopped(topology) {
            return;
        }
        let share = self.setup.options.recompute_share;
        let rest = now.since(since).mul_f64((1.0 - share) / share);
        noted.rests_until.set(noted.rests_until.get().max(now).after(rest));
        self.coordinate(topology, coordinator::Input::Hold);
        let (shard, topology) = (Rc::clone(self), Rc::clone(topology));
        let rested = self.env.sleep(noted.rests_until.get().since(now));
        self.env.spawn(Class::Background, "rest of a recompute", async move {
            rested.await;
            let noted = &topology.recompute;
            let is_held_for_backup = topology.hold.borrow().is_some();
            if noted.rests_until.get() <= shard.env.now()
                && !noted.is_over.get()
                && !is_held_for_backup
            {
                shard.coordinate(&topology, coordinator::Input::Release);
            }
        });
    }

    // ---- stopping

    /// Whether a topology, or the one that it is the shadow of, is stopped.
    fn is_stopped(&self, topology: &Topology) -> bool {
        let place = topology.place;
        if !topology.is_shadow() {
            return topology.module.stops.is_stopped(place);
        }
        let module = self.setup.module(&topology.module.definition.name);
        module.is_some_and(|module| module.stops.is_stopped(place))
    }

    /// A coordinator that is about to start stays where it is if its topology is stopped.
    pub(super) fn keep_stopped(self: &Rc<Self>, topology: &Rc<Topology>) {
        if self.is_stopped(topology)
            && let Ok(planned) = self.with_coordinator(topology.id, Coordinator::planned)
        {
            reached(State::StoppedAtCrash);
            self.coordinate(topology, coordinator::Input::Until(Some(planned)));
            let (module, place) = (&topology.module, topology.place);
            let shadow = self.setup.shadow(&module.definition.name, place);
            if !topology.is_shadow()
                && let (Some(number), Some(shadow)) = (module.stops.held(place), shadow)
            {
                // The bound ended with the life before.
                self.bound_stop(topology, shadow.topologies[place], number, None);
            }
        }
    }

    fn stop(
        self: &Rc<Self>,
        (topology, shadow): (TopologyId, TopologyId),
        number: u64,
        reply: Reply<Records>,
        expired: oneshot::Sender<Error>,
    ) {
        if reply.is_canceled() {
            // Whoever asked has left; nobody else would let them go on before the time is over.
            return;
        }
        let both = self.topology(topology).and_then(|it| Ok((it, self.topology(shadow)?)));
        let begun = both.and_then(|(first, second)| {
            let mut target = self.with_coordinator(topology, Coordinator::planned)?;
            for (source, offset) in self.with_coordinator(shadow, Coordinator::planned)? {
                let known = target.entry(source).or_default();
                *known = offset.max(*known);
            }
            first.module.stops.stop(first.place, number)?;
            Ok((first, second, target))
        });
        let (first, second, target) = match begun {
            Ok(begun) => begun,
            Err(error) => return answer(reply, Err(error)),
        };
        let stopping = |reply| Some(Stopping { number, topology, shadow, reply });
        *first.recompute.stopping.borrow_mut() = stopping(Some(reply));
        *second.recompute.stopping.borrow_mut() = stopping(None);
        for it in [&first, &second] {
            self.coordinate(it, coordinator::Input::Until(Some(target.clone())));
        }
        // Not before it is bounded: if it rests, it would begin with all that there is, be it above the target or not.
        self.coordinate(&second, coordinator::Input::Release);
        self.bound_stop(&first, shadow, number, Some(expired));
    }

    /// Lets a topology and its shadow go on when they were stopped for too long, and tells whoever waits.
    fn bound_stop(
        self: &Rc<Self>,
        first: &Rc<Topology>,
        shadow: TopologyId,
        number: u64,
        expired: Option<oneshot::Sender<Error>>,
    ) {
        let (shard, first) = (Rc::clone(self), Rc::clone(first));
        let pause_max = self.setup.options.recompute_pause_max;
        let expires = self.env.sleep(pause_max);
        self.env.spawn(Class::Core, "bound a stop", async move {
            expires.await;
            let waiting = {
                let mut stopping = first.recompute.stopping.borrow_mut();
                let stopping = stopping.as_mut().filter(|it| it.number == number);
                stopping.and_then(|it| it.reply.take())
            };
            if let Some(reply) = waiting {
                let what = format!(
                    "topology `{}` and its recompute did not come to the same records within {pause_max:?}; both \
                     go on: try again when there is less to do, or raise `Options::recompute_pause_max`",
                    first.definition().name
                );
                answer(reply, Err(Error::Recompute { what }));
            }
            if first.module.stops.release(first.place, number) {
                shard.go(first.id, shadow);
                if let Some(expired) = expired {
                    drop(expired.send(numbers::took_too_long()));
                }
            }
        });
    }

    /// Answers whoever waits for a topology and its shadow to stop, if they have.
    pub(super) fn note_reached(&self, topology: &Topology) {
        let (topology, shadow) = match &*topology.recompute.stopping.borrow() {
            None => return,
            Some(stopping) => (stopping.topology, stopping.shadow),
        };
        let reached = |id| self.with_coordinator(id, Coordinator::has_reached).unwrap_or(false);
        if !reached(topology) || !reached(shadow) {
            return;
        }
        let Ok(first) = self.topology(topology) else { return };
        let waiting = first.recompute.stopping.borrow_mut().as_mut().and_then(|it| it.reply.take());
        if let Some(reply) = waiting {
            answer(reply, self.records(topology, shadow));
        }
    }

    fn go(self: &Rc<Self>, topology: TopologyId, shadow: TopologyId) {
        for id in [topology, shadow] {
            let Ok(topology) = self.topology(id) else { continue };
            if !self.is_stopped(&topology) {
                topology.recompute.stopping.take();
                self.coordinate(&topology, coordinator::Input::Until(None));
            }
        }
    }

    /// Brings a shadow to rest. What it has prepared and not committed is aborted when it is retired.
    async fn rest(self: &Rc<Self>, id: TopologyId) -> Result<()> {
        let shadow = self.topology(id)?;
        let begun = self.env.now();
        shadow.recompute.is_over.set(true);
        self.coordinate(&shadow, coordinator::Input::Hold);
        loop {
            if self.with_coordinator(id, Coordinator::is_at_rest)? {
                return Ok(());
            }
            if self.env.now().since(begun) > REST_MAX {
                shadow.recompute.is_over.set(false);
                self.coordinate(&shadow, coordinator::Input::Release);
                let what = format!(
                    "the recompute of topology `{}` did not come to rest within {REST_MAX:?}, so it goes on: try \
                     again, when all shards run",
                    shadow.definition().name
                );
                return Err(Error::Recompute { what });
            }
            self.env.sleep(LOOK_EVERY).await;
        }
    }

    /// A shadow runs no more. All that was committed is applied; what is in doubt here was aborted, or nobody will
    /// ever ask for it.
    pub(super) fn retire(self: &Rc<Self>, id: TopologyId) {
        let known = self.forget_topology(id);
        let mut entries = Vec::new();
        for partition in self.partitions.values() {
            for transaction in partition.in_doubt().into_iter().filter(|it| it.topology == id) {
                partition.forget_prepared(transaction);
                entries.push(NewEntry::new(partition, Kind::Aborted, transaction.encode()));
            }
            // Or no fold could ever cover them.
            partition.merge_rest(id);
        }
        if !entries.is_empty() {
            self.log(&entries, Vec::new());
        }
        if let Some(topology) = known {
            topology.recompute.is_over.set(true);
        }
    }

    // ---- following

    /// The numbers of a topology's `PState`s, from now on; whoever watches what lies under others is told.
    pub(super) fn look_at_numbers(&self, topology: &Topology) -> Arc<Numbers> {
        let now = topology.module.numbers();
        let mut seen = topology.numbers.borrow_mut();
        if Arc::ptr_eq(&seen, &now)
            || planted(Plant::RecomputeSwitchTorn) && self.env.shard().0 % 2 == 1
        {
            return Arc::clone(&seen);
        }
        *seen = Arc::clone(&now);
        drop(seen);
        self.cut_moved(topology.id, &now);
        now
    }

    /// Drops what recomputes have left and nobody reads any more: what lies over the trees is folded into them
    /// first, so that the rest is a mark for the next fold, which frees whole pages.
    pub(super) async fn drop_left_over(&self) -> Result<()> {
        if self.dropped.borrow().len() == self.setup.dropped_count() {
            return Ok(());
        }
        for dropped in self.setup.dropped().into_iter().filter(super::setup::Dropped::is_due) {
            for pstate in dropped.pstates {
                if self.dropped.borrow().contains(&pstate) {
                    continue;
                }
                for (&id, partition) in &self.partitions {
                    if partition.store.holds(pstate) {
                        self.fold(id).await?;
                        partition.store.discard(pstate);
                    }
                }
                self.dropped.borrow_mut().insert(pstate);
            }
        }
        Ok(())
    }
}

/// Answers with what comes out, unless nobody waits for it any more.
async fn answer_who_waits<T>(mut reply: Reply<T>, outcome: impl Future<Output = Result<T>>) {
    let outcome = pin!(outcome);
    let outcome = match select(outcome, reply.cancellation()).await {
        Either::Left((outcome, _)) => outcome,
        Either::Right(((), _)) => return,
    };
    answer(reply, outcome);
}

/// Has everybody in the process do as the catalogue, which is durable, says. The keeper's lock is held.
pub(super) fn follow(env: &Env, setup: &Setup, catalogue: &Catalogue) {
    let (dropped, retired) = catalogue.left_over();
    let tell = |shard: ShardId, request| {
        env.mesh().send(shard, Box::new(Message::Recompute(request)));
    };
    let modules = setup.modules();
    for module in &modules {
        let definition = &module.definition;
        let Some(entry) = catalogue.modules.iter().find(|it| it.name == definition.name) else {
            continue;
        };
        let before = module.numbers();
        // Behind the declared ones are the old numbers of migrations, which stay.
        let (mut pstates, mut since) = (before.pstates.clone(), before.since.clone());
        for (number, pstate) in pstates.iter_mut().zip(&definition.pstates) {
            // A shadow reads what others write where they write it, and has numbers of its own for the rest.
            let known = entry.pstates.iter().find(|it| it.name == pstate.name);
            let Some(known) = known.filter(|_| module.shadow != Some(pstate.owner)) else {
                continue;
            };
            *number = PStateId(known.number);
            since[pstate.owner] = since[pstate.owner].max(MicrobatchId(known.since));
        }
        if pstates == before.pstates {
            continue;
        }
        setup.note_replaced(&before);
        module.renumber(Numbers { pstates, since });
    }
    let is_over = |it: &&Arc<Installed>| {
        it.shadow.is_some_and(|place| retired.contains(&it.topologies[place]))
    };
    for shadow in modules.iter().filter(is_over) {
        setup.note_replaced(&shadow.numbers());
    }
    setup.remove_shadows(|id| retired.contains(&id));
    setup.note_dropped(dropped);
    for topology in setup.note_retired(retired) {
        for shard in (0..setup.shards).map(ShardId) {
            tell(shard, Request::Retire { topology });
        }
    }
    // What was switched may go on, as everybody sees the new numbers when its coordinator speaks again.
    for module in modules.iter().filter(|it| it.shadow.is_none()) {
        for (place, topology) in module.running() {
            if module.stops.end_switch(place) {
                let name = &module.definition.topologies[place].name;
                let home = Topology::coordinator_partition(name, setup.partitions);
                let shadow = setup.shadow(&module.definition.name, place);
                let shadow = shadow.map_or(topology, |it| it.topologies[place]);
                tell(setup.owner(home), Request::Go { topology, shadow });
            }
        }
    }
}

/// What a shard has dropped of what recomputes have left.
pub(super) type DroppedHere = RefCell<BTreeSet<PStateId>>;
