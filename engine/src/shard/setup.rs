//! What all shards of a node know, and the node with them: its shape, which shards run, what is launched.
//! Little of it changes, and rarely.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock, Weak};

use super::keeper::Keeper;
use crate::error::{Error, Result};
use crate::node::numbers::Numbers;
use crate::node::pins::Pins;
use crate::node::{Installed, Options};
use crate::types::{MicrobatchId, PStateId, PartitionId, Run, ShardId, TopologyId};

/// See the module.
#[derive(Debug)]
pub(crate) struct Setup {
    pub(crate) shards: u16,
    pub(crate) partitions: u32,
    pub(crate) data_id: u128,
    pub(crate) options: Options,
    pub(crate) keeper: Keeper,
    /// Who reads at which ids.
    pub(crate) pins: Pins,
    states: Vec<RwLock<State>>,
    /// The run of the last life of each shard that has opened and has all modules.
    runs: Vec<AtomicU64>,
    /// Every module that was given numbers in this process, in that order: a shard that starts installs
    /// all of them by itself.
    modules: RwLock<Vec<Arc<Installed>>>,
    leftovers: RwLock<Leftovers>,
    /// How many `PState`s are to be dropped, for those who look whether there are new ones.
    dropped_count: AtomicUsize,
    closed: AtomicBool,
    /// How many have asked that nothing is let go of that depots need not keep.
    holding_trims: AtomicUsize,
}

/// While it lives, depots keep what they have; see [`Setup::hold_trims`].
pub(crate) struct HeldTrims<'s>(&'s AtomicUsize);

impl Drop for HeldTrims<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// What recomputes have left.
#[derive(Debug, Default)]
struct Leftovers {
    topologies: BTreeSet<TopologyId>,
    dropped: Vec<Dropped>,
    /// Those that were replaced, as long as somebody may read what lies under them.
    replaced: Vec<Weak<Numbers>>,
}

/// `PState`s to be dropped, once nobody reads them any more.
#[derive(Clone, Debug)]
pub(crate) struct Dropped {
    pub(crate) pstates: Vec<PStateId>,
    /// Each alive as long as somebody may read them.
    readers: Vec<Weak<Numbers>>,
}

impl Dropped {
    /// Whether nobody reads them any more.
    pub(crate) fn is_due(&self) -> bool {
        self.readers.iter().all(|it| it.strong_count() == 0)
    }
}

/// Whether a shard runs.
#[derive(Clone, Debug)]
enum State {
    Running,
    /// Why it does not.
    Stopped(String),
    /// It has stopped for this reason, and somebody is about to start it again.
    Claimed(String),
}

/// The right to start a shard again; given back when dropped.
pub(crate) struct Claim<'s> {
    setup: &'s Setup,
    shard: ShardId,
}

impl Setup {
    /// Every shard counts as running, in its life `run`.
    pub(crate) fn new(
        options: Options,
        (partitions, data_id): (u32, u128),
        run: Run,
        keeper: Keeper,
    ) -> Self {
        Self {
            shards: options.shards,
            partitions,
            data_id,
            states: (0..options.shards).map(|_| RwLock::new(State::Running)).collect(),
            runs: (0..options.shards).map(|_| run.0.into()).collect(),
            options,
            keeper,
            pins: Pins::default(),
            modules: RwLock::default(),
            leftovers: RwLock::default(),
            dropped_count: AtomicUsize::default(),
            closed: AtomicBool::new(false),
            holding_trims: AtomicUsize::new(0),
        }
    }

    /// From a shard's next message on, no depot of it lets go of anything, until the answer is dropped.
    pub(crate) fn hold_trims(&self) -> HeldTrims<'_> {
        self.holding_trims.fetch_add(1, Ordering::SeqCst);
        HeldTrims(&self.holding_trims)
    }

    pub(crate) fn are_trims_held(&self) -> bool {
        self.holding_trims.load(Ordering::SeqCst) > 0
    }

    /// The shard that has a partition.
    pub(crate) fn owner(&self, partition: PartitionId) -> ShardId {
        let shard = partition.0 % u32::from(self.shards);
        ShardId(u16::try_from(shard).expect("below the number of shards"))
    }

    // ---- which shards run

    /// What a call meets whose shard does not answer.
    pub(crate) fn stopped_error(&self, shard: ShardId) -> Error {
        if self.is_closed() { Error::Closed } else { self.ended_error(shard) }
    }

    /// The same while the engine is being closed: what went wrong with that.
    pub(crate) fn ended_error(&self, shard: ShardId) -> Error {
        let cause = self.stopped_cause(shard);
        let cause = cause.unwrap_or_else(|| "it ended before it answered".to_owned());
        Error::ShardStopped { shard, cause }
    }

    /// Why a shard has stopped; `None` while it runs.
    pub(crate) fn stopped_cause(&self, shard: ShardId) -> Option<String> {
        match self.state(shard)? {
            State::Running => None,
            State::Stopped(cause) | State::Claimed(cause) => Some(cause),
        }
    }

    fn state(&self, shard: ShardId) -> Option<State> {
        let state = self.states.get(usize::from(shard.0))?;
        Some(state.read().unwrap_or_else(PoisonError::into_inner).clone())
    }

    /// Notes that a shard runs, or why it does not.
    pub(crate) fn note_stopped(&self, shard: ShardId, cause: Option<String>) {
        if let Some(state) = self.states.get(usize::from(shard.0)) {
            *state.write().unwrap_or_else(PoisonError::into_inner) =
                cause.map_or(State::Running, State::Stopped);
        }
    }

    /// The right to start a shard that has stopped; one at a time has it.
    ///
    /// # Errors
    /// `Invalid` if it runs, or somebody else is starting it; `Closed`.
    pub(crate) fn claim(&self, shard: ShardId) -> Result<Claim<'_>> {
        if self.is_closed() {
            return Err(Error::Closed);
        }
        let state = self.states.get(usize::from(shard.0)).ok_or_else(|| Error::Invalid {
            what: format!("there is no shard {shard}: they are 0..{}", self.shards),
        })?;
        let mut state = state.write().unwrap_or_else(PoisonError::into_inner);
        match &*state {
            State::Running => Err(Error::Invalid { what: format!("shard {shard} is running") }),
            State::Claimed(_) => {
                Err(Error::Invalid { what: format!("shard {shard} is being reopened already") })
            }
            State::Stopped(cause) => {
                *state = State::Claimed(cause.clone());
                Ok(Claim { setup: self, shard })
            }
        }
    }

    /// The run of the last life of a shard that has opened.
    pub(crate) fn run(&self, shard: ShardId) -> Run {
        let run = self.runs.get(usize::from(shard.0));
        Run(run.map(|run| run.load(Ordering::SeqCst)).unwrap_or_default())
    }

    /// Notes the run of a shard that has opened.
    pub(crate) fn note_run(&self, shard: ShardId, run: Run) {
        if let Some(known) = self.runs.get(usize::from(shard.0)) {
            known.store(run.0, Ordering::SeqCst);
        }
    }

    /// Nothing is accepted any more.
    pub(crate) fn note_closed(&self) {
        self.closed.store(true, Ordering::SeqCst);
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::SeqCst)
    }

    // ---- what is launched

    /// Every module that was given numbers in this process.
    pub(crate) fn modules(&self) -> Vec<Arc<Installed>> {
        self.modules.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The module of this name, if it was given numbers.
    pub(crate) fn module(&self, name: &str) -> Option<Arc<Installed>> {
        let is_it = |it: &Arc<Installed>| it.shadow.is_none() && it.definition.name == name;
        self.modules().into_iter().find(is_it)
    }

    /// The second instance of a topology, which is being recomputed.
    pub(crate) fn shadow(&self, name: &str, place: usize) -> Option<Arc<Installed>> {
        let is_it = |it: &Arc<Installed>| it.shadow == Some(place) && it.definition.name == name;
        self.modules().into_iter().find(is_it)
    }

    /// Takes out second instances that are over.
    pub(crate) fn remove_shadows(&self, is_over: impl Fn(TopologyId) -> bool) {
        let mut modules = self.modules.write().unwrap_or_else(PoisonError::into_inner);
        modules.retain(|it| it.shadow.is_none_or(|place| !is_over(it.topologies[place])));
    }

    // ---- what recomputes have left

    /// Notes topologies that never run again; answers with those that are new.
    pub(crate) fn note_retired(
        &self,
        ids: impl IntoIterator<Item = TopologyId>,
    ) -> Vec<TopologyId> {
        let mut leftovers = self.leftovers.write().unwrap_or_else(PoisonError::into_inner);
        ids.into_iter().filter(|&id| leftovers.topologies.insert(id)).collect()
    }

    /// Topologies that never run again.
    pub(crate) fn retired(&self) -> BTreeSet<TopologyId> {
        let leftovers = self.leftovers.read().unwrap_or_else(PoisonError::into_inner);
        leftovers.topologies.clone()
    }

    /// Notes numbers that nobody takes any more.
    pub(crate) fn note_replaced(&self, numbers: &Arc<Numbers>) {
        let mut leftovers = self.leftovers.write().unwrap_or_else(PoisonError::into_inner);
        leftovers.replaced.retain(|it| it.strong_count() > 0);
        leftovers.replaced.push(Arc::downgrade(numbers));
    }

    /// Notes `PState`s that are to be dropped once nobody holds any numbers that have them, however often those
    /// were replaced since; what is known is left out.
    pub(crate) fn note_dropped(&self, mut pstates: Vec<PStateId>) {
        let mut leftovers = self.leftovers.write().unwrap_or_else(PoisonError::into_inner);
        let known = |id: &PStateId| leftovers.dropped.iter().any(|it| it.pstates.contains(id));
        pstates.retain(|id| !known(id));
        if !pstates.is_empty() {
            let has_some = |it: &&Weak<Numbers>| {
                it.upgrade().is_some_and(|it| it.pstates.iter().any(|id| pstates.contains(id)))
            };
            let readers = leftovers.replaced.iter().filter(has_some).cloned().collect();
            self.dropped_count.fetch_add(pstates.len(), Ordering::SeqCst);
            leftovers.dropped.push(Dropped { pstates, readers });
        }
    }

    /// How many `PState`s are to be dropped.
    pub(crate) fn dropped_count(&self) -> usize {
        self.dropped_count.load(Ordering::SeqCst)
    }

    /// `PState`s to be dropped.
    pub(crate) fn dropped(&self) -> Vec<Dropped> {
        let leftovers = self.leftovers.read().unwrap_or_else(PoisonError::into_inner);
        leftovers.dropped.clone()
    }

    /// Adds a module; the one that is there already under its name, if there is one.
    pub(crate) fn add_module(&self, module: Arc<Installed>) -> Arc<Installed> {
        let mut modules = self.modules.write().unwrap_or_else(PoisonError::into_inner);
        let name = &module.definition.name;
        let is_known = |known: &&Arc<Installed>| {
            known.shadow == module.shadow && known.definition.name == *name
        };
        if let Some(known) = modules.iter().find(is_known) {
            return Arc::clone(known);
        }
        modules.push(Arc::clone(&module));
        module
    }

    /// How far each topology is visible, if its module's readers may have seen it.
    pub(crate) fn visible(&self) -> BTreeMap<TopologyId, MicrobatchId> {
        let modules = self.modules();
        let all = modules.iter().filter(|module| module.has_readers());
        all.flat_map(|it| it.running().map(|(place, id)| (id, it.visible_at(place)))).collect()
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        let Some(state) = self.setup.states.get(usize::from(self.shard.0)) else { return };
        let mut state = state.write().unwrap_or_else(PoisonError::into_inner);
        if let State::Claimed(cause) = &*state {
            *state = State::Stopped(cause.clone());
        }
    }
}
