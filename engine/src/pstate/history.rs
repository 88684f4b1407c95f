//! What readers of older ids need: undos of what was merged, and the trees that lay under them.
//!
//! A *generation* is one memtable, from the freeze before it to its own. What lies under it is the same all
//! the time, be it frozen layers over an old root or the root that a fold made of both.
//!
//! ```text
//!   ids of a topology   1 2 3 | 4 5 6 7 8 | 9 10 11          | a freeze
//!   generations            a        b         c (current)
//!   a reader at 5                 b: the undos of 6, 7, 8, then b's memtable, then what lay under b
//!   a reader at 8                             c: the undos of 9, 10, 11, then the memtable, ...
//! ```
//!
//! A `PState` is written by one topology, so a reader needs that topology's undos only, whatever others do
//! meanwhile. It reads in the generation in which the lowest id above its own was merged, and nothing that
//! comes after that generation concerns it: an old reader costs no more memory the older it gets.
//!
//! Invariants, of each topology in each generation (`Kept`):
//!
//! * `from <= last`; every id merged here in `(from, last]` is in exactly one undo, and undos ascend. None
//!   means `from == last`.
//! * An older generation's interval lies below a newer one's, and ends where the next one began.
//! * A reader at `id` is answered from the undos above `id` only if none of them holds an id at or below it,
//!   and `from <= id`: else it is refused. So whatever is dropped, and whenever, an answer is never wrong.
//! * The pages of a generation that is kept are not written again ([`Space::held`]).
//!
//! All of it is memory: durable roots know nothing of it, and a store that is opened has no history.
//!
//! [`Space::held`]: crate::page::space::Space::held

use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::time::Duration;

use super::layer::{Layer, Part};
use super::run::Run;
use super::undo::Undo;
use super::{Error, State, Store, Tree, View};
use crate::env::Class;
use crate::page::root::TreeRoot;
use crate::page::space::Live;
use crate::probe::{self, Plant, planted, reached};
use crate::types::{MicrobatchId, PStateId, Time, TopologyId};

/// Which older ids of a topology are read, or may be.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    /// Ids that somebody reads at.
    pub pins: Vec<MicrobatchId>,
    /// Every id that everybody saw at some moment of so long until now is wanted, too.
    pub window: Duration,
    /// Now.
    pub now: Time,
}

impl Wanted {
    /// Whether some reader stands at or above `from` and below `to`.
    fn between(&self, from: MicrobatchId, to: MicrobatchId) -> bool {
        self.pins.iter().any(|&pin| from <= pin && pin < to)
    }

    fn each(&self) -> bool {
        !self.window.is_zero()
    }

    /// Whether an id was current within the window whose successor was merged at `made`.
    fn lately(&self, made: Time) -> bool {
        self.now.since(made) < self.window
    }
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct History {
    /// Of the memtable.
    current: BTreeMap<TopologyId, Kept>,
    /// Oldest first; none is without undos.
    generations: VecDeque<Generation>,
    /// Of all undos, and of memtables of older generations.
    bytes: u64,
}

/// One topology in one generation.
#[derive(Debug, Default)]
struct Kept {
    from: MicrobatchId,
    last: MicrobatchId,
    undos: Vec<Undo>,
}

/// An older generation.
#[derive(Debug)]
struct Generation {
    kept: BTreeMap<TopologyId, Kept>,
    /// Its memtable, last, over what was frozen and not folded when it was frozen.
    layers: Vec<Rc<Layer>>,
    /// Under them.
    roots: BTreeMap<PStateId, TreeRoot>,
    fold: u64,
    live: Live,
}

/// Where a reader of an older id looks.
pub(super) struct Past<'a> {
    pub(super) parts: Vec<Part<'a>>,
    /// So many of them lie above what an undo calls *below*.
    pub(super) under: usize,
    pub(super) root: TreeRoot,
    /// The number of the fold that wrote the root: it tells roots apart.
    pub(super) fold: u64,
}

impl Kept {
    fn at(id: MicrobatchId) -> Self {
        Self { from: id, last: id, undos: Vec::new() }
    }

    /// Forgets everything below `id`.
    fn restart(&mut self, id: MicrobatchId) -> Vec<Undo> {
        (self.from, self.last) = (id, id);
        std::mem::take(&mut self.undos)
    }

    fn check(&self) {
        assert!(self.from <= self.last);
        assert_eq!(self.undos.last().map_or(self.from, |undo| undo.last), self.last);
        debug_assert!(self.undos.first().is_none_or(|undo| self.from < undo.first));
        debug_assert!(self.undos.iter().all(|undo| undo.first <= undo.last));
        debug_assert!(self.undos.windows(2).all(|pair| pair[0].last < pair[1].first));
    }

    /// The undos that a reader at `id` needs; none if they are not there.
    fn above(&self, id: MicrobatchId) -> Option<&[Undo]> {
        let above = &self.undos[self.undos.partition_point(|undo| undo.last <= id)..];
        let exact = above.first().is_none_or(|undo| id < undo.first);
        (self.from <= id && exact).then_some(above)
    }

    /// The lowest id above one that cannot be read, and below `last`.
    fn next_readable(&self, id: MicrobatchId) -> MicrobatchId {
        if id < self.from {
            return self.from;
        }
        self.undos[self.undos.partition_point(|undo| undo.last <= id)].last
    }

    /// The undo that learns what `id`, which is merged next, changes.
    fn merging(&mut self, id: MicrobatchId, wanted: &Wanted) -> &mut Undo {
        // Ids that no reader stands between share one: the least memory, and the fewest places to look.
        let share = !wanted.each() && !wanted.between(self.last, id);
        if !share || self.undos.is_empty() {
            self.undos.push(Undo::new(id, wanted.now));
        }
        let undo = self.undos.last_mut().expect("one was pushed if there was none");
        (undo.last, undo.made, self.last) = (id, wanted.now, id);
        undo
    }

    /// Takes out the oldest undos, as long as nobody wants them.
    fn trim(&mut self, wanted: &Wanted) -> Vec<Undo> {
        let unwanted =
            |undo: &&Undo| !wanted.between(self.from, undo.last) && !wanted.lately(undo.made);
        let count = self.undos.iter().take_while(unwanted).count();
        let dropped: Vec<Undo> = self.undos.drain(..count).collect();
        self.from = dropped.last().map_or(self.from, |undo| undo.last);
        dropped
    }
}

impl Generation {
    fn own_bytes(&self) -> u64 {
        self.layers.last().map_or(0, |memtable| memtable.bytes())
    }
}

impl History {
    /// Everything up to `id` may be contained in what was opened.
    pub(super) fn note_contained(&mut self, topology: TopologyId, id: MicrobatchId) {
        let kept = self.current.entry(topology).or_default();
        assert!(kept.undos.is_empty(), "said before anything is merged");
        kept.restart(kept.last.max(id));
    }

    /// Merges the next run of a topology, with an undo if somebody wants one; what is no longer wanted comes
    /// back.
    pub(super) fn merge(
        &mut self,
        (topology, id): (TopologyId, MicrobatchId),
        wanted: &Wanted,
        memtable: &mut Layer,
        run: &Run,
    ) -> Vec<Layer> {
        let kept = self.current.entry(topology).or_default();
        assert!(kept.last < id, "ids are merged in order");
        if !wanted.each() && !wanted.between(kept.from, id) {
            memtable.apply(run, None);
            let dropped = Dropped { undos: kept.restart(id), ..Dropped::default() };
            self.bytes -= dropped.bytes();
            return dropped.into_layers();
        }
        let undo = kept.merging(id, wanted);
        // One that was just made is not counted yet.
        let before = if undo.first == id { 0 } else { undo.bytes() };
        memtable.apply(run, Some(undo));
        self.bytes = self.bytes + undo.bytes() - before;
        kept.check();
        Vec::new()
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(super) fn is_empty(&self) -> bool {
        self.bytes == 0 && self.generations.is_empty()
    }

    /// The undos that a reader of `topology` at `id` needs, and their generation if it is not the current
    /// one.
    ///
    /// # Errors
    /// [`Error::Expired`] if they are not there.
    fn find(
        &self,
        topology: TopologyId,
        id: MicrobatchId,
    ) -> Result<(Option<&Generation>, &[Undo]), Error> {
        let expired = |oldest| Error::Expired { topology, wanted: id, oldest };
        let Some(current) = self.current.get(&topology) else { return Ok((None, &[])) };
        if planted(Plant::SnapshotReleasedWhileRead) && id < current.from {
            return Ok((None, &[]));
        }
        if current.last <= id {
            return Ok((None, &[]));
        }
        if current.from <= id {
            let undos = current.above(id).ok_or_else(|| expired(current.next_readable(id)))?;
            return Ok((None, undos));
        }
        let mut oldest = current.from;
        for generation in self.generations.iter().rev() {
            let Some(kept) = generation.kept.get(&topology) else { continue };
            if kept.last <= id {
                break;
            }
            if let Some(undos) = kept.above(id) {
                return Ok((Some(generation), undos));
            }
            oldest = kept.next_readable(id);
        }
        Err(expired(oldest))
    }

    /// The undos of what was merged of `topology` above `from` and up to `to`, in all generations.
    ///
    /// # Errors
    /// [`Error::Expired`] if some of it was not taken down, or is not there any more; `oldest` is then from where on
    /// it is.
    pub(super) fn between(
        &self,
        topology: TopologyId,
        from: MicrobatchId,
        to: MicrobatchId,
    ) -> Result<Vec<&Undo>, Error> {
        let Some(current) = self.current.get(&topology) else { return Ok(Vec::new()) };
        let older = self.generations.iter().filter_map(|it| it.kept.get(&topology));
        let mut undos = Vec::new();
        let (mut oldest, mut at) = (from, from);
        for kept in older.chain(std::iter::once(current)) {
            if kept.last <= at || to <= at {
                continue;
            }
            if kept.above(at).is_none() {
                at = kept.next_readable(at);
                oldest = at;
                undos.clear();
            }
            let above = kept.above(at).expect("it can be read, so what is above it is exact");
            undos.extend(above.iter().take_while(|undo| undo.first <= to));
            at = kept.last;
        }
        if oldest != from {
            return Err(Error::Expired { topology, wanted: from, oldest });
        }
        Ok(undos)
    }

    /// The undos of what was merged of `topology` above `from` and up to `to`, and what else those hold: an undo
    /// may have taken up ids above `from` since that was the end of one.
    ///
    /// # Errors
    /// [`Error::Expired`] if some of it is not there any more.
    pub(super) fn around(
        &self,
        topology: TopologyId,
        from: MicrobatchId,
        to: MicrobatchId,
    ) -> Result<Vec<&Undo>, Error> {
        let Some(current) = self.current.get(&topology) else { return Ok(Vec::new()) };
        let older = self.generations.iter().filter_map(|it| it.kept.get(&topology));
        let mut undos = Vec::new();
        let mut at = from;
        for kept in older.chain(std::iter::once(current)) {
            if kept.last <= at || to <= at {
                continue;
            }
            if at < kept.from {
                return Err(Error::Expired { topology, wanted: from, oldest: kept.from });
            }
            let above = &kept.undos[kept.undos.partition_point(|undo| undo.last <= at)..];
            undos.extend(above.iter().take_while(|undo| undo.first <= to));
            at = kept.last;
        }
        Ok(undos)
    }

    /// The memtable is frozen: it is the last of `layers`, which lie over `trees`. The current generation
    /// becomes an older one if somebody needs it.
    pub(super) fn freeze(
        &mut self,
        layers: &[Rc<Layer>],
        trees: &BTreeMap<PStateId, Tree>,
        (fold, live): (u64, &Live),
    ) {
        let mut kept = BTreeMap::new();
        for (&topology, current) in &mut self.current {
            current.check();
            let next = Kept::at(current.last);
            let ended = std::mem::replace(current, next);
            if !ended.undos.is_empty() {
                kept.insert(topology, ended);
            }
        }
        if kept.is_empty() {
            return;
        }
        let roots = trees.iter().map(|(pstate, tree)| (*pstate, tree.root)).collect();
        let (layers, live) = (layers.to_vec(), live.clone());
        let generation = Generation { kept, layers, roots, fold, live };
        self.bytes += generation.own_bytes();
        self.generations.push_back(generation);
    }

    /// Takes out what nobody wants; a topology that `wanted` knows nothing of has no readers.
    fn trim(&mut self, wanted: &impl Fn(TopologyId) -> Wanted) -> Dropped {
        let mut dropped = Dropped::default();
        let generations = self.generations.iter_mut().map(|it| &mut it.kept);
        for kept in generations.chain(std::iter::once(&mut self.current)) {
            for (&topology, kept) in kept.iter_mut().filter(|(_, kept)| !kept.undos.is_empty()) {
                dropped.undos.extend(kept.trim(&wanted(topology)));
                kept.check();
            }
        }
        for generation in &mut self.generations {
            generation.kept.retain(|_, kept| !kept.undos.is_empty());
        }
        let unused = |it: &Generation| it.kept.is_empty();
        let (unused, used) = self.generations.drain(..).partition(unused);
        self.generations = used;
        dropped.generations = unused;
        self.bytes -= dropped.bytes();
        dropped
    }

    /// Takes out the oldest generation; if there is none, the undos of the current one.
    fn drop_oldest(&mut self) -> Dropped {
        let mut dropped = Dropped::default();
        if let Some(oldest) = self.generations.pop_front() {
            dropped.generations.push_back(oldest);
        } else {
            for kept in self.current.values_mut() {
                dropped.undos.extend(kept.restart(kept.last));
            }
        }
        self.bytes -= dropped.bytes();
        dropped
    }

    /// Every page that an older generation reaches.
    fn held(&self) -> Live {
        let mut held = Live::new();
        for generation in &self.generations {
            held.resize(held.len().max(generation.live.len()), 0);
            held.iter_mut().zip(&generation.live).for_each(|(held, live)| *held |= live);
        }
        held
    }
}

/// What nobody can reach any more, and what takes time to drop.
#[derive(Default)]
struct Dropped {
    generations: VecDeque<Generation>,
    undos: Vec<Undo>,
}

impl Dropped {
    fn bytes(&self) -> u64 {
        let kept = self.generations.iter().flat_map(|it| it.kept.values());
        let undos = kept.flat_map(|kept| &kept.undos).chain(&self.undos);
        undos.map(Undo::bytes).sum::<u64>()
            + self.generations.iter().map(Generation::own_bytes).sum::<u64>()
    }

    /// Its layers. A memtable that a fold still works with is dropped by that.
    fn into_layers(self) -> Vec<Layer> {
        let mut layers = Vec::new();
        for generation in self.generations {
            layers.extend(generation.layers.into_iter().filter_map(Rc::into_inner));
            let undos = generation.kept.into_values().flat_map(|kept| kept.undos);
            layers.extend(undos.flat_map(Undo::into_layers));
        }
        layers.extend(self.undos.into_iter().flat_map(Undo::into_layers));
        layers.retain(|layer| !layer.is_empty());
        layers
    }
}

impl Store {
    /// Notes that what was opened may contain `topology`'s ids up to `id`: they cannot be told apart. To be
    /// said before anything is merged.
    pub fn note_contained(&self, topology: TopologyId, id: MicrobatchId) {
        self.inner.state.borrow_mut().history.note_contained(topology, id);
    }

    /// Drops what readers of older ids no longer need.
    pub fn trim_history(&self, wanted: impl Fn(TopologyId) -> Wanted) {
        let mut state = self.inner.state.borrow_mut();
        if state.history.is_empty() {
            return;
        }
        let dropped = state.history.trim(&wanted);
        self.drop_history(&mut state, dropped);
    }

    /// Drops the oldest of it, although somebody wants it; false if there was nothing. Its readers get
    /// [`Error::Expired`] from now on.
    pub fn drop_oldest_history(&self) -> bool {
        let mut state = self.inner.state.borrow_mut();
        if state.history.is_empty() {
            return false;
        }
        let dropped = state.history.drop_oldest();
        self.drop_history(&mut state, dropped);
        true
    }

    /// Bytes of memory that it takes.
    #[must_use]
    pub fn history_bytes(&self) -> u64 {
        self.inner.state.borrow().history.bytes()
    }

    /// Gives back what the disk holds for readers of older ids and for copies only: a fold needs the space.
    pub(super) fn drop_held_pages(&self) {
        let mut state = self.inner.state.borrow_mut();
        state.holds.clear();
        state.hold_pages();
        let mut dropped = Dropped::default();
        // The newest generation's root may be the durable one still; then it holds nothing by itself.
        while state.history.generations.len() > 1 {
            dropped.generations.extend(state.history.generations.pop_front());
        }
        state.history.bytes -= dropped.bytes();
        self.drop_history(&mut state, dropped);
    }

    fn drop_history(&self, state: &mut State, dropped: Dropped) {
        if !dropped.generations.is_empty() {
            state.hold_pages();
        }
        self.drop_later(dropped.into_layers());
    }

    /// Drops layers in small portions: a map of a million keys takes long to drop.
    pub(super) fn drop_later(&self, mut layers: Vec<Layer>) {
        if layers.iter().map(Layer::bytes).sum::<u64>() <= DROP_AT_ONCE_BYTES {
            return;
        }
        let env = self.inner.env.clone();
        self.inner.env.spawn(Class::Background, "drop history", async move {
            for layer in &mut layers {
                while layer.drop_some(super::fold::FORGET_COUNT) {
                    if env.should_yield() {
                        env.yield_now().await;
                    }
                }
            }
        });
    }
}

/// What is dropped where it is: some dozens of microseconds.
const DROP_AT_ONCE_BYTES: u64 = 64 << 10;

impl State {
    /// The memtable was frozen, and is the last of the frozen layers.
    pub(super) fn keep_generation(&mut self) {
        let under = (self.fold, &self.space.durable);
        self.history.freeze(&self.frozen, &self.trees, under);
        self.hold_pages();
    }

    /// Pages of older generations, and of roots that are copied, are not written as long as somebody may read
    /// them.
    pub(super) fn hold_pages(&mut self) {
        let mut held = self.history.held();
        if !planted(Plant::BackupForgetsHeldRoot) {
            for live in self.holds.values() {
                held.resize(held.len().max(live.len()), 0);
                held.iter_mut().zip(live).for_each(|(held, live)| *held |= live);
            }
        }
        self.space.held = held;
    }

    /// Where a reader of an older id looks for what is in `pstate`.
    pub(super) fn past<'a>(
        &'a self,
        view: &View<'a>,
        (topology, id): (TopologyId, MicrobatchId),
        pstate: PStateId,
    ) -> Result<Past<'a>, Error> {
        let (generation, undos) = self.history.find(topology, id)?;
        let mut parts: Vec<Part<'a>> = Vec::new();
        if generation.is_some() {
            reached(probe::State::SnapshotAcrossFold);
        }
        if generation.is_none() {
            parts.extend(self.stacked(view, pstate));
        }
        parts.extend(undos.iter().flat_map(|undo| undo.parts(pstate)));
        let table = |layer: &'a Layer| layer.tables.get(&pstate).map(Part::Table);
        let (root, fold) = match generation {
            None => (self.trees.get(&pstate).map(|tree| tree.root), self.fold),
            Some(generation) => (generation.roots.get(&pstate).copied(), generation.fold),
        };
        let (memtable, frozen) = match generation {
            None => (&self.memtable, &self.frozen[..]),
            Some(generation) => {
                let layers = generation.layers.split_last();
                let (memtable, frozen) = layers.expect("a generation has its memtable");
                (&**memtable, frozen)
            }
        };
        parts.extend(table(memtable));
        let under = parts.len();
        parts.extend(frozen.iter().rev().filter_map(|layer| table(layer)));
        Ok(Past { parts, under, root: root.unwrap_or_default(), fold })
    }

    /// The root of a `PState` that a view reads, and its fold.
    pub(super) fn root_of(
        &self,
        view: &View<'_>,
        pstate: PStateId,
    ) -> Result<(u64, TreeRoot), Error> {
        if let Some((topology, id)) = view.exact()
            && let (Some(generation), _) = self.history.find(topology, id)?
        {
            let root = generation.roots.get(&pstate).copied();
            return Ok((generation.fold, root.unwrap_or_default()));
        }
        let root = self.trees.get(&pstate).map(|tree| tree.root);
        Ok((self.fold, root.unwrap_or_default()))
    }
}
