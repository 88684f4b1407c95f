//! The typed builder of a topology's graph.

use std::marker::PhantomData;
use std::panic::Location;

use super::aggregate::{AggregateSink, Changes};
use super::capture::{CaptureSink, Captures};
use super::chain::{Chain, Sink, Start};
use super::hop::{AppendSink, ByKey, ByValue, Everywhere, Globally, HopSink, Placed, Route, Row};
use super::run::{Fused, Intake, Touch, take_traced, touch};
use super::stage::{Also, Filter, FilterMap, FilterMapWith, FlatMap, ForEach, ForEachWith, Map};
use super::token::Tokens;
use super::{At, Input, Node, NodeIndex, Result, Stage};
use crate::codec::EncodeKey;
use crate::module::{Depot, Draft};
use crate::schema::{OwnedBy, Select};

/// Rows of type `T` on their way through topology `O`.
///
/// Each method adds a stage. Stages up to the next hop run as one event: a row passes all of them
/// before the next one starts, and nothing else of the topology runs on that partition meanwhile.
#[must_use = "a flow does nothing until it ends, in `aggregate` or `for_each`"]
pub struct Flow<'m, O, T, C, R> {
    draft: Draft<'m>,
    root: R,
    chain: C,
    stages: Vec<Stage>,
    types: PhantomData<fn() -> (O, T)>,
}

impl<O, T, C, R> std::fmt::Debug for Flow<'_, O, T, C, R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Flow").field("stages", &self.stages).finish_non_exhaustive()
    }
}

/// Where an event begins, and what becomes of it when it is complete.
pub trait Root<O, In> {
    /// What the end of the flow gives back.
    type Done<S>;

    /// Takes the complete event.
    fn done<S: Sink<O, In>>(self, draft: Draft<'_>, stages: Vec<Stage>, sink: S) -> Self::Done<S>;
}

/// The event becomes a node of the graph; `D` is what an earlier part of the flow gives back.
pub struct AtNode<T, D> {
    node: NodeIndex,
    input: Input,
    intake: Intake<T>,
    touches: Vec<Touch<T>>,
    carried: D,
}

impl<T, D> std::fmt::Debug for AtNode<T, D> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AtNode").field("node", &self.node).finish_non_exhaustive()
    }
}

impl<O: 'static, T: Send + 'static, D> Root<O, T> for AtNode<T, D> {
    type Done<S> = D;

    fn done<S: Sink<O, T>>(self, draft: Draft<'_>, stages: Vec<Stage>, sink: S) -> D {
        let Self { node, input, intake, touches, carried } = self;
        let name = draft.node_name(node, input);
        let event = Fused {
            node,
            name: name.clone(),
            intake,
            touches,
            sink,
            owner: PhantomData::<fn() -> O>,
        };
        draft.add_node(node, Node { name, input, stages, event: Box::new(event) });
        carried
    }
}

/// The event is part of the one that branched.
#[derive(Debug)]
pub struct InBranch;

impl<O, T> Root<O, T> for InBranch {
    type Done<S> = Branch<S>;

    fn done<S: Sink<O, T>>(self, _draft: Draft<'_>, stages: Vec<Stage>, sink: S) -> Branch<S> {
        Branch { sink, stages }
    }
}

/// A branch that was led to its end.
#[must_use = "a branch is what the closure of `also` returns"]
pub struct Branch<S> {
    sink: S,
    stages: Vec<Stage>,
}

impl<S> std::fmt::Debug for Branch<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Branch").field("stages", &self.stages).finish_non_exhaustive()
    }
}

/// What a flow gives back when `S` ends it.
pub type Ended<O, C, R, S> = <R as Root<O, <C as Chain<O>>::In>>::Done<<C as Chain<O>>::Fused<S>>;

/// A flow behind a hop, which `S` sent its rows on.
pub type Next<'m, O, T, C, R, S> = Hopped<'m, O, T, Ended<O, C, R, HopSink<S, T>>>;

/// A flow behind an aggregation, of the new values; `S` sent what made them.
pub type Captured<'m, O, C, R, P, F, U> =
    Hopped<'m, O, <U as Captures>::Row, Ended<O, C, R, CaptureSink<P, F, U>>>;

/// A flow at the start of an event.
pub type Hopped<'m, O, T, D> = Flow<'m, O, T, Start<T>, AtNode<T, D>>;

impl<'m, O: 'static, T: Send + 'static> Hopped<'m, O, T, ()> {
    pub(crate) fn source(
        draft: Draft<'m>,
        node: NodeIndex,
        input: Input,
        intake: Intake<T>,
    ) -> Self {
        Self::at_node(draft, node, input, intake, ())
    }
}

impl<'m, O: 'static, T: Send + 'static, D> Hopped<'m, O, T, D> {
    fn at_node(
        draft: Draft<'m>,
        node: NodeIndex,
        input: Input,
        intake: Intake<T>,
        carried: D,
    ) -> Self {
        let root = AtNode { node, input, intake, touches: Vec::new(), carried };
        Self { draft, root, chain: Start::new(), stages: Vec::new(), types: PhantomData }
    }
}

impl<'m, O: 'static, T: 'static, C: Chain<O, Out = T>, R: Root<O, C::In>> Flow<'m, O, T, C, R> {
    /// Every row becomes another.
    #[track_caller]
    pub fn map<U: 'static, F>(self, f: F) -> Flow<'m, O, U, Map<C, F, U>, R>
    where
        F: Fn(T) -> U + Send + Sync + 'static,
    {
        self.stage("map").grow(|chain| Map { chain, f, row: PhantomData })
    }

    /// Rows for which `f` is false are dropped.
    #[track_caller]
    pub fn filter<F>(self, f: F) -> Flow<'m, O, T, Filter<C, F>, R>
    where
        F: Fn(&T) -> bool + Send + Sync + 'static,
    {
        self.stage("filter").grow(|chain| Filter { chain, f })
    }

    /// Every row becomes any number of others, in order.
    #[track_caller]
    pub fn flat_map<I, F>(self, f: F) -> Flow<'m, O, I::Item, FlatMap<C, F, I>, R>
    where
        I: IntoIterator<Item: 'static> + 'static,
        F: Fn(T) -> I + Send + Sync + 'static,
    {
        self.stage("flat_map").grow(|chain| FlatMap { chain, f, rows: PhantomData })
    }

    /// Code with a handle to the partition the row is on; may drop the row.
    #[track_caller]
    pub fn filter_map<U: 'static, F>(self, f: F) -> Flow<'m, O, U, FilterMap<C, F, U>, R>
    where
        F: AsyncFn(At<'_, O>, T) -> Result<Option<U>> + Send + Sync + 'static,
    {
        self.stage("filter_map").grow(|chain| FilterMap { chain, f, row: PhantomData })
    }

    /// Code with a handle to the partition the row is on; ends the flow.
    #[track_caller]
    pub fn for_each<F>(self, f: F) -> Ended<O, C, R, ForEach<F>>
    where
        F: AsyncFn(At<'_, O>, T) -> Result<()> + Send + Sync + 'static,
    {
        self.stage("for_each").end(ForEach { f })
    }

    /// Gives `tokens` to the next stage, as the argument after the handle: no `move` is needed, and
    /// [`explain`](super::Definition::explain) knows the `PState`s of the stage.
    pub fn using<P: Tokens>(self, tokens: P) -> Using<'m, O, T, C, R, P> {
        Using { flow: self, tokens }
    }

    /// A copy of each row goes through `branch` first, then the row goes on.
    pub fn also<B, F>(self, branch: F) -> Flow<'m, O, T, Also<C, B>, R>
    where
        T: Clone + Send,
        B: Sink<O, T>,
        F: FnOnce(Flow<'m, O, T, Start<T>, InBranch>) -> Branch<B>,
    {
        let Self { draft, root, chain, mut stages, .. } = self;
        let empty = Flow {
            draft,
            root: InBranch,
            chain: Start::new(),
            stages: Vec::new(),
            types: PhantomData,
        };
        let Branch { sink, stages: of_branch } = branch(empty);
        stages.extend(of_branch);
        Flow { draft, root, chain: Also { chain, branch: sink }, stages, types: PhantomData }
    }

    /// To the partition where a key that is part of the row lives.
    #[track_caller]
    pub fn hash_by<K, F>(self, key: F) -> Next<'m, O, T, C, R, ByKey<F, K>>
    where
        T: Row,
        K: EncodeKey + ?Sized + 'static,
        F: Fn(&T) -> &K + Send + Sync + 'static,
    {
        self.hop("hash_by", Input::Hash, ByKey { key, types: PhantomData })
    }

    /// To the partition where a key made of the row lives.
    #[track_caller]
    pub fn hash_by_value<K, F>(self, key: F) -> Next<'m, O, T, C, R, ByValue<F, K>>
    where
        T: Row,
        K: EncodeKey + 'static,
        F: Fn(&T) -> K + Send + Sync + 'static,
    {
        self.hop("hash_by_value", Input::Hash, ByValue { key, types: PhantomData })
    }

    /// A copy to every partition.
    #[track_caller]
    pub fn all(self) -> Next<'m, O, T, C, R, Everywhere>
    where
        T: Row + Clone,
    {
        self.hop("all", Input::All, Everywhere)
    }

    /// To partition 0.
    #[track_caller]
    pub fn global(self) -> Next<'m, O, T, C, R, Globally>
    where
        T: Row,
    {
        self.hop("global", Input::Global, Globally)
    }

    /// Adds to what is stored, at the path that `change` gives for each row; ends the flow. Changes are
    /// combined here and applied where the path's first key lives: no hop is needed before.
    #[track_caller]
    pub fn aggregate<P, U, F>(self, tokens: P, change: F) -> Ended<O, C, R, AggregateSink<P, F, U>>
    where
        P: Tokens,
        U: Changes<Owner: OwnedBy<O>>,
        F: Fn(P, T) -> U + Send + Sync + 'static,
    {
        let location = Location::caller();
        let draft = self.draft;
        let mut flow = self.stage("aggregate");
        let mut nodes = Vec::with_capacity(U::NODES);
        U::events(&mut |event| {
            let node = draft.reserve_node(location);
            let (input, mut stage) = (Input::Aggregate, Stage::new("apply", location));
            stage.name_tokens(&tokens);
            let name = draft.node_name(node, input);
            let event = event(node, name.clone());
            draft.add_node(node, Node { name, input, stages: vec![stage], event });
            nodes.push(node);
        });
        flow.last_stage().sends.extend(&nodes);
        flow.end(AggregateSink { tokens, f: change, nodes, changes: PhantomData })
    }

    /// Adds to what is stored, as [`Flow::aggregate`] does, and goes on with the new values, where they live.
    ///
    /// `change` gives a key with each change, as `(t.to, funds.key(t.to).add(Sum(t.cents)))`. The flow goes on
    /// with rows of `(key, Some(value))`, and of `(key, None)` where the row was removed; of a value with an
    /// initial one, with `(key, value)`. The key is whatever
    /// names the row in what follows: of changes of one row that were combined, the first one's is kept, so it
    /// should be the same for all of them.
    ///
    /// There is one such row for every row that something was added to, and for every batch of changes that is
    /// applied there, with the value that the batch ended with: not one for each addition, since those are
    /// combined. A microbatch applies one batch or some, depending on how its changes travelled; the last row of
    /// a key has the microbatch's value. A row that was added to without being changed counts like others.
    #[track_caller]
    pub fn aggregate_into<P, U, F>(self, tokens: P, change: F) -> Captured<'m, O, C, R, P, F, U>
    where
        P: Tokens,
        U: Captures<Owner: OwnedBy<O>>,
        F: Fn(P, T) -> U + Send + Sync + 'static,
    {
        let draft = self.draft;
        let node = draft.reserve_node(Location::caller());
        let mut flow = self.stage("aggregate_into");
        flow.last_stage().sends.push(node);
        let carried = flow.end(CaptureSink { tokens, f: change, node, changes: PhantomData });
        let intake = Intake::Apply(U::apply);
        let mut flow = Flow::at_node(draft, node, Input::Aggregate, intake, carried).stage("apply");
        flow.last_stage().name_tokens(&tokens);
        flow
    }

    /// Appends each row to a depot of the module, where the depot's placement puts it; of a random depot,
    /// here. The records get their offsets with the microbatch; ends the flow.
    #[track_caller]
    pub fn append_to<A>(self, depot: Depot<T, A>) -> Ended<O, C, R, HopSink<Placed, T>>
    where
        T: Row,
    {
        let index = depot.index();
        let route = Placed { placed_by: self.draft.placed_by(index) };
        let hopped = self.hop("append_to", Input::Append(index), route);
        hopped.stage("append").end(AppendSink { depot: index })
    }

    #[track_caller]
    fn hop<X: Route<T>>(self, name: &'static str, input: Input, route: X) -> Next<'m, O, T, C, R, X>
    where
        T: Row,
    {
        let draft = self.draft;
        let node = draft.reserve_node(Location::caller());
        let mut flow = self.stage(name);
        flow.last_stage().sends.push(node);
        let carried = flow.end(HopSink { route, node, row: PhantomData });
        Flow::at_node(draft, node, input, Intake::Take(take_traced), carried)
    }

    #[track_caller]
    pub(crate) fn stage(mut self, name: &'static str) -> Self {
        self.stages.push(Stage::new(name, Location::caller()));
        self
    }

    fn last_stage(&mut self) -> &mut Stage {
        self.stages.last_mut().expect("called after `stage`")
    }

    fn grow<U, C2>(self, add: impl FnOnce(C) -> C2) -> Flow<'m, O, U, C2, R> {
        let Self { draft, root, chain, stages, .. } = self;
        Flow { draft, root, chain: add(chain), stages, types: PhantomData }
    }

    fn end<S: Sink<O, T>>(self, sink: S) -> Ended<O, C, R, S> {
        self.root.done(self.draft, self.stages, self.chain.fuse(sink))
    }
}

/// A flow whose next stage gets tokens.
#[must_use = "tokens are for the next stage"]
pub struct Using<'m, O, T, C, R, P> {
    flow: Flow<'m, O, T, C, R>,
    tokens: P,
}

impl<O, T, C, R, P> std::fmt::Debug for Using<'_, O, T, C, R, P> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Using").field("flow", &self.flow).finish_non_exhaustive()
    }
}

impl<'m, O, T, C, R, P> Using<'m, O, T, C, R, P>
where
    O: 'static,
    T: 'static,
    C: Chain<O, Out = T>,
    R: Root<O, C::In>,
    P: Tokens,
{
    /// [`Flow::filter_map`], with the tokens.
    #[track_caller]
    pub fn filter_map<U: 'static, F>(self, f: F) -> Flow<'m, O, U, FilterMapWith<C, P, F, U>, R>
    where
        F: AsyncFn(At<'_, O>, P, T) -> Result<Option<U>> + Send + Sync + 'static,
    {
        let Self { flow, tokens } = self;
        let mut flow = flow.stage("filter_map");
        flow.last_stage().name_tokens(&tokens);
        flow.grow(|chain| FilterMapWith { chain, tokens, f, row: PhantomData })
    }

    /// [`Flow::for_each`], with the tokens.
    #[track_caller]
    pub fn for_each<F>(self, f: F) -> Ended<O, C, R, ForEachWith<P, F>>
    where
        F: AsyncFn(At<'_, O>, P, T) -> Result<()> + Send + Sync + 'static,
    {
        let Self { flow, tokens } = self;
        let mut flow = flow.stage("for_each");
        flow.last_stage().name_tokens(&tokens);
        flow.end(ForEachWith { tokens, f })
    }
}

impl<O: 'static, T: Send + 'static, D, P: Tokens> Using<'_, O, T, Start<T>, AtNode<T, D>, P> {
    /// Says what the event is going to read: the paths of a whole batch are fetched together, before its
    /// first row runs. For the first stages of an event, where all rows are known.
    pub fn touching<X: Select, F>(mut self, paths: F) -> Self
    where
        F: Fn(P, &T) -> X + Send + Sync + 'static,
    {
        self.flow.root.touches.push(touch(self.tokens, paths));
        self
    }
}

impl Stage {
    fn new(name: &'static str, location: &'static Location<'static>) -> Self {
        Self { name, location, reads: Vec::new(), writes: Vec::new(), sends: Vec::new() }
    }

    fn name_tokens<P: Tokens>(&mut self, tokens: &P) {
        tokens.each(&mut |token| {
            self.reads.push(token.pstate);
            if token.owned {
                self.writes.push(token.pstate);
            }
        });
    }
}
