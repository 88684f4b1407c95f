//! Migrations on one shard: how far each is in each partition, the steps within microbatches, and the end.
//!
//! A step is a piece of work of an attempt, like an event, on each partition that has something left; so it
//! commits with what the events write, or not at all. A shard whose topologies have work left asks the
//! coordinators for microbatches, every few milliseconds: they begin them even without records.
//!
//! How far a partition is, is not stored: a shard that is opened looks again from the beginning of what is
//! left. Nothing is put under an old number since the launch that began the migration: what older code had
//! prepared was decided, and is applied, before the first attempt begins. So a partition in which a visible
//! attempt has found nothing is done for ever.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::time::Duration;

use tidemill_replication::two_phase::{AttemptId, coordinator};

use super::Shard;
use super::local::EventLocal;
use super::message::{Message, Moving, Reply, answer};
use super::microbatch::{Running, Topology, Work};
use super::partition::Partition;
use crate::env::Class;
use crate::error::{Error, Result, chain};
use crate::migrate::{Move, Stepped, step};
use crate::node::{Installed, MICROBATCH_BYTES_LIMIT};
use crate::probe::{State, reached};
use crate::pstate::{Direction, KeyRange, View};
use crate::topology::{EventFailure, StateError};
use crate::types::{MicrobatchId, PartitionId, TopologyId};

/// How far the migrations of one topology are on this shard, by their place in the module.
#[derive(Default)]
pub(crate) struct Moves {
    places: RefCell<BTreeMap<(usize, PartitionId), Place>>,
}

/// One migration in one partition.
struct Place {
    /// Whatever is visible was moved below here; none if all of it was.
    visible: Option<Vec<u8>>,
    /// Where the attempts that are not visible have ended, in the order of their ids.
    attempts: VecDeque<(AttemptId, Option<Vec<u8>>)>,
    /// Why it does not go on.
    problem: Option<String>,
}

impl Place {
    /// Where the next step begins.
    fn next(&self) -> Option<&[u8]> {
        self.attempts.back().map_or(&self.visible, |(_, next)| next).as_deref()
    }
}

impl Moves {
    /// Of the topology at `place` of its module, on a shard with these partitions.
    pub(super) fn new(
        module: &Installed,
        place: usize,
        partitions: &BTreeMap<PartitionId, Rc<Partition>>,
    ) -> Self {
        let fresh =
            || Place { visible: Some(Vec::new()), attempts: VecDeque::new(), problem: None };
        let own = module.moves_of(place).flat_map(|(nth, _)| {
            partitions.keys().map(move |&partition| ((nth, partition), fresh()))
        });
        Self { places: RefCell::new(own.collect()) }
    }

    /// Every id up to this one is visible, and no other attempt at it.
    pub(crate) fn visible(&self, id: MicrobatchId) {
        for place in self.places.borrow_mut().values_mut() {
            while let Some((_, next)) = place.attempts.pop_front_if(|(attempt, _)| attempt.id <= id)
            {
                place.visible = next;
            }
        }
    }

    /// An attempt has had no effect, nor those above it.
    pub(crate) fn dropped(&self, attempt: AttemptId) {
        for place in self.places.borrow_mut().values_mut() {
            let taken = place.attempts.len();
            place.attempts.retain(|(it, _)| it.id < attempt.id);
            if place.attempts.len() < taken {
                reached(State::MigrationStepDropped);
            }
        }
    }

    /// The partitions where a step would find something.
    fn left(&self) -> Vec<PartitionId> {
        let places = self.places.borrow();
        let left =
            places.iter().filter(|(_, place)| place.problem.is_none() && place.next().is_some());
        left.map(|((_, partition), _)| *partition).collect()
    }

    /// Whether nothing visible is left of a migration.
    fn is_done(&self, nth: usize) -> bool {
        let places = self.places.borrow();
        places.iter().filter(|((it, _), _)| *it == nth).all(|(_, place)| place.visible.is_none())
    }

    fn next(&self, nth: usize, partition: PartitionId) -> Option<Vec<u8>> {
        self.places.borrow().get(&(nth, partition))?.next().map(<[u8]>::to_vec)
    }

    fn stepped(&self, nth: usize, partition: PartitionId, attempt: AttemptId, stepped: Stepped) {
        let mut places = self.places.borrow_mut();
        let Some(place) = places.get_mut(&(nth, partition)) else { return };
        place.attempts.push_back((attempt, stepped.next));
        place.problem = stepped.problem.map(|problem| chain(&problem));
    }
}

impl Shard {
    /// Lets an attempt that begins take a step on each partition with something left. Only a first attempt
    /// does: one that failed is tried again without, so that no record is blamed for what the step took.
    pub(super) fn queue_moves(self: &Rc<Self>, topology: &Rc<Topology>, running: &Rc<Running>) {
        if running.attempt.attempt.0 > 1 {
            return;
        }
        for partition in topology.moves.left() {
            self.queue_step(topology, running, partition);
        }
    }

    /// The step of an attempt on one partition.
    pub(super) async fn run_moves(
        self: &Rc<Self>,
        topology: &Rc<Topology>,
        running: &Rc<Running>,
        work: &Rc<Work>,
    ) {
        let partition = work.partition.id;
        let local = EventLocal::new(self, topology, running, work);
        let began = self.env.now();
        for (nth, moving) in topology.module.moves_of(topology.place) {
            let Some(from) = topology.moves.next(nth, partition) else { continue };
            if running.failed.get() {
                return;
            }
            let bytes_max = running.bytes_max / SHARE;
            let goes_on = |bytes: usize| {
                self.env.now().since(began) < SLICE && running.holds(bytes as u64) < bytes_max
            };
            let options = &self.setup.options;
            let units_max = options.migration_values_max;
            let ever = options.microbatch_bytes_max.min(MICROBATCH_BYTES_LIMIT);
            let room = (running.bytes_max.saturating_sub(running.holds(0)), ever);
            match step(&local, moving, &from, units_max, room, goes_on).await {
                // It was dropped meanwhile, so what was found may not be so.
                Ok(_) if running.failed.get() => return,
                Ok(stepped) => topology.moves.stepped(nth, partition, running.attempt, stepped),
                Err(error) => {
                    return self.step_failed(topology, running, (moving, partition), error);
                }
            }
        }
    }

    fn step_failed(
        self: &Rc<Self>,
        topology: &Rc<Topology>,
        running: &Rc<Running>,
        (moving, partition): (&Move, PartitionId),
        error: StateError,
    ) {
        let node = format!("migration {}", moving.id);
        let failure = EventFailure::of_surroundings(&node, partition, error);
        self.event_failed(topology, running, &failure);
    }

    /// Asks for microbatches while something is left, and says when nothing is.
    pub(super) fn watch_moves(self: &Rc<Self>, topology: &Rc<Topology>) {
        if topology.module.moves_of(topology.place).next().is_none() {
            return;
        }
        let (shard, topology) = (Rc::clone(self), Rc::clone(topology));
        self.env.spawn(Class::Background, "migrate", async move {
            let mut pause = ASK_EVERY;
            loop {
                shard.env.sleep(pause).await;
                match shard.look_at_moves(&topology).await {
                    Ok(true) => return,
                    Ok(false) => pause = ASK_EVERY,
                    // A full disk: it goes on as it is, and looks at both numbers.
                    Err(Error::DiskFull { .. }) => pause = BACK_OFF,
                    Err(error) => return shard.fail(&error),
                }
            }
        });
    }

    /// Whether all migrations of a topology are done.
    async fn look_at_moves(self: &Rc<Self>, topology: &Rc<Topology>) -> Result<bool> {
        let module = &topology.module;
        if self.closing.get() {
            return Ok(true);
        }
        let coordinator = self.setup.owner(topology.coordinator_partition);
        let own = self.env.shard();
        if !topology.moves.left().is_empty() {
            let message = Message::Work { topology: topology.id };
            self.env.mesh().send(coordinator, Box::new(message));
        }
        for (nth, moving) in module.moves_of(topology.place) {
            if topology.moves.is_done(nth) {
                module.note_moved(nth, own);
            }
            // One of them tells the catalogue.
            if own == coordinator && module.is_moved(nth, self.setup.shards) && !moving.is_done() {
                let pstate = &module.definition.pstates[moving.pstate.0 as usize].name;
                self.hand.migrated(&module.definition.name, pstate, &moving.id).await?;
                moving.note_done();
            }
        }
        Ok(module.moves_of(topology.place).all(|(_, moving)| moving.is_done()))
    }

    /// Somebody has work for a microbatch of a topology whose coordinator lives here.
    pub(super) fn work(self: &Rc<Self>, id: TopologyId) {
        let topology = self.topologies.borrow().get(&id).cloned();
        if let Some(topology) = topology {
            self.coordinate(&topology, coordinator::Input::Work);
        }
    }

    /// Counts what is left of a module's migrations on this shard.
    pub(super) fn count_moves(
        self: &Rc<Self>,
        module: std::sync::Arc<Installed>,
        reply: Reply<Vec<Moving>>,
    ) {
        let shard = Rc::clone(self);
        self.env.spawn(Class::Client, "count what is left to migrate", async move {
            let (mut counted, numbers) = (Vec::new(), module.numbers());
            for (nth, moving) in module.moves.iter().enumerate().filter(|(_, it)| !it.is_done()) {
                let owner = module.definition.pstates[moving.pstate.0 as usize].owner;
                let topology = shard.topologies.borrow().get(&module.topologies[owner]).cloned();
                for partition in shard.partitions.values() {
                    let old = numbers.pstates[moving.old.0 as usize];
                    let tree = partition.store.trees().into_iter().find(|tree| tree.pstate == old);
                    let view = View::visible();
                    let mut values = 0;
                    let count = partition.store.scan(
                        &view,
                        old,
                        KeyRange::ALL,
                        Direction::Forward,
                        COUNT_MAX,
                        |unit, _| {
                            values += u64::from(!moving.is_head(unit));
                            std::ops::ControlFlow::Continue(())
                        },
                    );
                    let seen = match count.await {
                        Ok(seen) => seen,
                        Err(error) => return answer(reply, Err(shard.read_failed(&error))),
                    };
                    // Beyond that, heads count among the values. One that is left alone does, too: it is left.
                    let rows = match seen {
                        0..COUNT_MAX => values.max(u64::from(seen > 0)),
                        _ => values.max(tree.map_or(0, |tree| tree.entries)),
                    };
                    let places = topology.as_ref().map(|it| it.moves.places.borrow());
                    let place = places.as_ref().and_then(|it| it.get(&(nth, partition.id)));
                    let problem = place.and_then(|it| it.problem.clone());
                    counted.push(Moving { nth, partition: partition.id, rows, problem });
                }
            }
            answer(reply, Ok(counted));
        });
    }
}

/// How long the step of a partition takes, about: it lengthens every microbatch while a migration runs.
const SLICE: Duration = Duration::from_micros(250);

/// The steps of a shard leave the rest of what an attempt may hold to its events.
const SHARE: u64 = 8;

/// How often an idle topology is asked for a microbatch. A busy one takes its steps in those that it has.
const ASK_EVERY: Duration = Duration::from_millis(5);

/// The pause after the disk was found to be full.
const BACK_OFF: Duration = Duration::from_secs(1);

/// Rows are counted up to here, and beyond that estimated.
const COUNT_MAX: usize = 10_000;
