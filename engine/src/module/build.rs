//! The typed builder of a module.

use std::any::Any;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::marker::PhantomData;
use std::panic::Location;
use std::sync::Arc;
use std::time::Duration;

use super::{
    Batch, Definition, DepotDecl, DepotIndex, Error, Keep, Owner, PStateDecl, PStateIndex,
    PlacedBy, Placer, Records, StartAt,
};
use crate::codec::table::Trace;
use crate::codec::{self, EncodeKey, Placement, key::encode_key};
use crate::migrate::{Declared, InnerValues, Migration, Values, ValuesAt};
use crate::recompute::{Invariant, Reading, Unfulfilled};
use crate::schema::{Data, Owned, Schema};
use crate::topology::{
    self, Hopped, Input, Intake, Node, NodeIndex, Row, Source, take_records, take_timed,
};
use crate::types::{PStateId, WallTime};

/// Calls a module function and gives back what it returned, and what it declared.
///
/// # Errors
/// [`Error`], which names the lines at fault.
#[track_caller]
pub fn define<H>(name: &str, build: impl FnOnce(&Module) -> H) -> Result<(H, Definition), Error> {
    let module = Module { draft: RefCell::new(ModuleDraft::new(name)) };
    module.draft.borrow_mut().check_name(name, Location::caller());
    let handles = build(&module);
    Ok((handles, module.draft.into_inner().finish()?))
}

/// A module while it is being declared.
pub struct Module {
    draft: RefCell<ModuleDraft>,
}

impl fmt::Debug for Module {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Module").finish_non_exhaustive()
    }
}

impl Module {
    /// The module's version; 1 unless said.
    pub fn version(&self, version: u32) {
        self.draft.borrow_mut().version = version;
    }

    /// Declares a depot of records of type `T`, once it is said how they are placed.
    #[track_caller]
    pub fn depot<T: Row>(&self, name: &str) -> NewDepot<'_, T> {
        let location = Location::caller();
        let (name, keep) = (name.to_owned(), Keep::default());
        NewDepot { module: self, name, keep, location, record: PhantomData }
    }

    /// Declares a microbatch topology: `m.microbatch(|| "ledger")`.
    #[track_caller]
    pub fn microbatch<B: Owner>(&self, owner: B) -> Topology<'_, Batch<B>> {
        let location = Location::caller();
        let name = owner.name();
        let mut draft = self.draft.borrow_mut();
        draft.claim(name, location);
        let topology = draft.topologies.len();
        draft.topologies.push(TopologyDraft::new(name, location));
        Topology { draft: Draft { module: self, topology }, owner: PhantomData }
    }
}

/// A depot that lacks its placement.
#[must_use = "a depot is declared by `hash_by`, `random` or `single`"]
pub struct NewDepot<'m, T> {
    module: &'m Module,
    name: String,
    keep: Keep,
    location: &'static Location<'static>,
    record: PhantomData<fn() -> T>,
}

impl<T> fmt::Debug for NewDepot<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NewDepot").field("name", &self.name).finish_non_exhaustive()
    }
}

impl<T: Row> NewDepot<'_, T> {
    /// Keeps the newest `count` records of each partition at least, and what topologies still have to read. What
    /// is older may be deleted, whole files at a time, also where a dead letter of a very large record has but its
    /// beginning. Without this or [`NewDepot::keep_for`], everything is kept.
    pub fn keep_records(mut self, count: u64) -> Self {
        self.keep.records = Some(count);
        self
    }

    /// Keeps what was appended within `time`, and what topologies still have to read; as
    /// [`NewDepot::keep_records`]. If both are given, what either one asks for is kept.
    pub fn keep_for(mut self, time: Duration) -> Self {
        self.keep.time = Some(time);
        self
    }

    /// A record goes where a key in it lives: records of one key stay in order.
    pub fn hash_by<K, F>(self, key: F) -> Depot<T>
    where
        K: EncodeKey + ?Sized,
        F: Fn(&T) -> &K + Send + Sync + 'static,
    {
        let place = move |record: &dyn Any| {
            let record = record.downcast_ref::<T>().expect("a depot is given its own records");
            Placement::of(&encode_key(key(record)))
        };
        self.declare(PlacedBy::Hash(Placer(Arc::new(place))))
    }

    /// A record goes anywhere: for records that belong to no key.
    pub fn random(self) -> Depot<T> {
        self.declare(PlacedBy::Random)
    }

    /// All records go to partition 0, in one order.
    pub fn single(self) -> Depot<T> {
        self.declare(PlacedBy::Single)
    }

    fn declare(self, placed_by: PlacedBy) -> Depot<T> {
        let Self { module, name, keep, location, .. } = self;
        let mut draft = module.draft.borrow_mut();
        draft.claim(&name, location);
        let index = DepotIndex(count(&draft.depots));
        draft.depots.push(DepotDecl::of::<T>(name, placed_by, keep, location));
        Depot { index, types: PhantomData }
    }
}

/// The token of a depot of records of type `T`.
pub struct Depot<T, R = ()> {
    index: DepotIndex,
    types: PhantomData<fn() -> (T, R)>,
}

impl<T, R> Depot<T, R> {
    /// Its place in the module's definition.
    #[must_use]
    pub fn index(self) -> DepotIndex {
        self.index
    }
}

impl<T, R> Clone for Depot<T, R> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T, R> Copy for Depot<T, R> {}

impl<T, R> fmt::Debug for Depot<T, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Depot").field("index", &self.index).finish()
    }
}

/// A topology while it is being declared; `O` is its type as an owner.
pub struct Topology<'m, O> {
    draft: Draft<'m>,
    owner: PhantomData<fn() -> O>,
}

impl<O> Clone for Topology<'_, O> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<O> Copy for Topology<'_, O> {}

impl<O> fmt::Debug for Topology<'_, O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Topology").finish_non_exhaustive()
    }
}

impl<'m, O: 'static> Topology<'m, O> {
    /// Declares a `PState` that this topology alone writes.
    #[track_caller]
    pub fn pstate<S: Schema>(&self, name: &str) -> Owned<S, O> {
        self.declare::<S>(name, None, Location::caller())
    }

    /// Declares a `PState` that this topology alone writes, and whose values were stored as `V1` before. See
    /// [`crate::migrate`].
    ///
    /// The declaration stays until the migration is done ([`Launched::migrations`]); a launch without it is
    /// refused before. Afterwards it does nothing, and can be replaced by [`Topology::pstate`]. In a directory that
    /// does not have the `PState` yet, there is nothing to migrate.
    ///
    /// [`Launched::migrations`]: crate::Launched::migrations
    #[track_caller]
    pub fn pstate_migrated<S: Values, V1: Data>(
        &self,
        name: &str,
        migration: Migration<V1, S::Value>,
    ) -> Owned<S, O> {
        self.declare::<S>(name, Some(migration.declare(S::KEYS)), Location::caller())
    }

    /// [`Topology::pstate_migrated`], where the values are those of the inner maps.
    #[track_caller]
    pub fn pstate_migrated_within<S: InnerValues, V1: Data>(
        &self,
        name: &str,
        migration: Migration<V1, S::Value>,
    ) -> Owned<S, O> {
        self.declare::<S>(name, Some(migration.declare(S::KEYS)), Location::caller())
    }

    /// [`Topology::pstate_migrated`], where `KEYS` keys lead to the values.
    ///
    /// ```
    /// # use tidemill::migrate::Migration;
    /// # use tidemill::module::{Module, define};
    /// # use tidemill::schema::{Map, Sub};
    /// /// Steps by year, month and day, which were stored as `u16` before.
    /// type Steps = Map<u16, Sub<Map<u8, Sub<Map<u8, u64>>>>>;
    ///
    /// # fn walks(m: &Module) {
    /// # let walked = m.depot::<(u16, u8, u8, u64)>("walked").hash_by(|(year, ..)| year);
    /// # let walks = m.microbatch(|| "walks");
    /// let steps = walks.pstate_migrated_at::<Steps, _, 3>(
    ///     "steps",
    ///     Migration::values("2026-11-many-steps", |steps: u16| u64::from(steps)),
    /// );
    /// # walks.source(walked).using(steps).for_each(async |at, steps, (year, month, day, more)| {
    /// #     let day = steps.key(year).key(month).key(day);
    /// #     Ok(at.update(day, |steps| Some(steps.unwrap_or(0) + more)).await?)
    /// # });
    /// # }
    /// # define("walks", walks).unwrap();
    /// ```
    #[track_caller]
    pub fn pstate_migrated_at<S: ValuesAt<KEYS>, V1: Data, const KEYS: usize>(
        &self,
        name: &str,
        migration: Migration<V1, S::Value>,
    ) -> Owned<S, O> {
        self.declare::<S>(name, Some(migration.declare(KEYS)), Location::caller())
    }

    fn declare<S: Schema>(
        &self,
        name: &str,
        migration: Option<Declared>,
        location: &'static Location<'static>,
    ) -> Owned<S, O> {
        let mut draft = self.draft.module.draft.borrow_mut();
        draft.claim(name, location);
        let index = PStateIndex(count(&draft.pstates));
        let (name, owner) = (name.to_owned(), self.draft.topology);
        draft.pstates.push(PStateDecl::of::<S>(name, owner, migration, location));
        Owned::from_id(PStateId(index.0))
    }

    /// Promises that what this topology keeps depends on which records there are, and not on how microbatches
    /// group them, on the order of those of different partitions, on the time or on chance: sums and counts are
    /// so, the last of something is not. A [recompute](crate::recompute) must then come out equal.
    pub fn order_free(&self) {
        self.draft.module.draft.borrow_mut().topologies[self.draft.topology].order_free = true;
    }

    /// Declares what holds of this topology's `PState`s after every microbatch. A
    /// [recompute](crate::recompute) that does not fulfil it is given up.
    ///
    /// ```
    /// # use tidemill::module::{Module, define};
    /// # use tidemill::schema::Map;
    /// # use tidemill::schema::aggregate::Sum;
    /// # fn bank(m: &Module) {
    /// # let transfers = m.depot::<(u64, i64)>("transfers").hash_by(|(to, _)| to);
    /// # let ledger = m.microbatch(|| "ledger");
    /// let funds = ledger.pstate::<Map<u64, i64>>("funds");
    /// ledger.invariant("no account is in debt", move |read| async move {
    ///     let debtor = read.select(funds.all()).await?.into_iter().find(|(_, cents)| *cents < 0);
    ///     debtor.map_or(Ok(()), |(account, cents)| Err(format!("{account} has {cents}").into()))
    /// });
    /// # ledger.source(transfers).aggregate(funds, |funds, (to, n)| funds.key(to).add(Sum(n)));
    /// # }
    /// # define("bank", bank).unwrap();
    /// ```
    pub fn invariant<F, R>(&self, name: &str, holds: F)
    where
        F: Fn(Reading) -> R + Send + Sync + 'static,
        R: Future<Output = std::result::Result<(), Unfulfilled>> + Send + 'static,
    {
        let invariant = Invariant::new(name, holds);
        let mut draft = self.draft.module.draft.borrow_mut();
        draft.topologies[self.draft.topology].invariants.push(invariant);
    }

    /// A flow of the records of a depot, each where it lies. From the first one on, unless the depot is
    /// [`starting`](Depot::starting) elsewhere.
    #[track_caller]
    pub fn source<S: Records>(&self, depot: S) -> Hopped<'m, O, S::Record, ()> {
        self.source_as(depot.place(), Intake::Take(take_records))
    }

    /// A flow of the records of a depot, each where it lies, with the times they were appended.
    #[track_caller]
    pub fn source_timed<S: Records>(&self, depot: S) -> Hopped<'m, O, (WallTime, S::Record), ()> {
        self.source_as(depot.place(), Intake::Take(take_timed))
    }

    #[track_caller]
    fn source_as<T: Send + 'static>(
        &self,
        (depot, start): (DepotIndex, StartAt),
        intake: Intake<T>,
    ) -> Hopped<'m, O, T, ()> {
        let location = Location::caller();
        let node = self.draft.reserve_node(location);
        let mut draft = self.draft.module.draft.borrow_mut();
        let draft = &mut *draft;
        let topology = &mut draft.topologies[self.draft.topology];
        let other = topology.sources.iter().find(|it| it.depot == depot && it.start != start);
        if let Some(other) = other {
            let first = topology.nodes[other.node.0 as usize].0;
            let depot = draft.depots[depot.0 as usize].name.clone();
            draft.errors.push(Error::TwoStarts { depot, first, second: location });
        }
        topology.sources.push(Source { depot, node, start });
        Hopped::source(self.draft, node, Input::Depot(depot), intake)
    }
}

/// Where a flow puts the nodes it has completed.
#[derive(Clone, Copy)]
pub struct Draft<'m> {
    module: &'m Module,
    topology: usize,
}

impl fmt::Debug for Draft<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Draft").field("topology", &self.topology).finish_non_exhaustive()
    }
}

impl Draft<'_> {
    /// The next node's index; [`Draft::add_node`] must follow.
    pub(crate) fn reserve_node(self, location: &'static Location<'static>) -> NodeIndex {
        let mut draft = self.module.draft.borrow_mut();
        let nodes = &mut draft.topologies[self.topology].nodes;
        let index = NodeIndex(count(nodes));
        nodes.push((location, None));
        index
    }

    pub(crate) fn add_node(self, index: NodeIndex, node: Node) {
        let mut draft = self.module.draft.borrow_mut();
        draft.topologies[self.topology].nodes[index.0 as usize].1 = Some(node);
    }

    /// How a depot that was declared before places its records.
    pub(crate) fn placed_by(self, depot: DepotIndex) -> PlacedBy {
        self.module.draft.borrow().depots[depot.0 as usize].placed_by.clone()
    }

    /// What a node is called.
    pub(crate) fn node_name(self, index: NodeIndex, input: Input) -> String {
        let draft = self.module.draft.borrow();
        let topology = &draft.topologies[self.topology].name;
        let input = match input {
            Input::Depot(depot) => format!("source {}", draft.depots[depot.0 as usize].name),
            Input::Hash => "by hash".to_owned(),
            Input::All => "everywhere".to_owned(),
            Input::Global => "global".to_owned(),
            Input::Aggregate => "aggregate".to_owned(),
            Input::Append(depot) => format!("append to {}", draft.depots[depot.0 as usize].name),
        };
        format!("{topology}#{} {input}", index.0)
    }
}

struct ModuleDraft {
    name: String,
    version: u32,
    depots: Vec<DepotDecl>,
    pstates: Vec<PStateDecl>,
    topologies: Vec<TopologyDraft>,
    names: BTreeMap<String, &'static Location<'static>>,
    errors: Vec<Error>,
}

struct TopologyDraft {
    name: String,
    location: &'static Location<'static>,
    sources: Vec<Source>,
    nodes: Vec<(&'static Location<'static>, Option<Node>)>,
    order_free: bool,
    invariants: Vec<Invariant>,
}

impl ModuleDraft {
    fn new(name: &str) -> Self {
        let (depots, pstates, topologies) = (Vec::new(), Vec::new(), Vec::new());
        let (name, names, errors) = (name.to_owned(), BTreeMap::new(), Vec::new());
        Self { name, version: 1, depots, pstates, topologies, names, errors }
    }

    /// Gives out a name once.
    fn claim(&mut self, name: &str, location: &'static Location<'static>) {
        self.check_name(name, location);
        if let Some(first) = self.names.insert(name.to_owned(), location) {
            self.errors.push(Error::Duplicate { name: name.to_owned(), first, second: location });
        }
    }

    fn check_name(&mut self, name: &str, location: &'static Location<'static>) {
        let fits = (1..=NAME_BYTES_MAX).contains(&name.len());
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte);
        if !fits || !name.bytes().all(plain) {
            self.errors.push(Error::BadName { name: name.to_owned(), location });
        }
    }

    fn finish(self) -> Result<Definition, Error> {
        if let Some(error) = self.errors.into_iter().next() {
            return Err(error);
        }
        let topologies = self.topologies.into_iter().map(TopologyDraft::finish);
        let topologies = topologies.collect::<Result<Vec<_>, Error>>()?;
        let Self { name, version, depots, pstates, .. } = self;
        for pstate in &pstates {
            // What is wrong with the types of values is said by whoever stores them.
            if let Err(source @ codec::Error::NotCountable { .. }) =
                (pstate.layout)(&mut Trace::default())
            {
                let (pstate, location) = (pstate.name.clone(), pstate.location);
                return Err(Error::NotCountable { pstate, location, source });
            }
        }
        Ok(Definition { name, version, depots, pstates, topologies })
    }
}

impl TopologyDraft {
    fn new(name: &str, location: &'static Location<'static>) -> Self {
        let (sources, nodes, invariants) = (Vec::new(), Vec::new(), Vec::new());
        Self { name: name.to_owned(), location, sources, nodes, order_free: false, invariants }
    }

    fn finish(self) -> Result<topology::Definition, Error> {
        let Self { name, location, sources, nodes, order_free, invariants } = self;
        if sources.is_empty() {
            return Err(Error::NoSource { topology: name, location });
        }
        let complete = nodes.into_iter().map(|(location, node)| {
            node.ok_or_else(|| Error::Unfinished { topology: name.clone(), location })
        });
        let nodes = complete.collect::<Result<Vec<_>, Error>>()?;
        Ok(topology::Definition { name, location, sources, nodes, order_free, invariants })
    }
}

fn count<T>(items: &[T]) -> u32 {
    u32::try_from(items.len()).expect("a module has fewer than 2^32 parts")
}

/// Names stand in paths, addresses and metrics.
const NAME_BYTES_MAX: usize = 100;
