//! `PState`s as bytes: the copy-on-write trees of one partition and the writes that lie over them.
//!
//! ```text
//!   WriteSet            one attempt's own writes, not yet prepared
//!   stacked Runs        per topology in id order: prepared, then visible, then
//!   memtable            merged into one, not yet in a tree
//!   frozen memtable     being folded
//!   trees               on disk, one per PState, under one root
//! ```
//!
//! A reader looks from the top down and takes the first layer that knows its key: as a value, as a
//! deletion, or as covered by a range delete. Within a layer a key always wins over a range, since a
//! range delete drops the keys below it that came earlier.
//!
//! A reader of an older id ([`View::at`]) looks into undos first: see [`history`] for what is kept for whom,
//! and [`undo`] for what an undo says. Nothing is kept unless somebody wants it, and current readers look
//! nowhere else than without.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::rc::Rc;

use crate::env::{Env, File};
pub use crate::page::Error;
use crate::page::root::TreeRoot;
use crate::page::space::{Live, Space};
use crate::page::{Cache, EXTENT_BYTES, FileId, PAGE_BYTES};
use crate::types::{Index, MicrobatchId, PStateId, PartitionId, TopologyId};

mod ahead;
mod catalogue;
mod changes;
mod difference;
mod fold;
mod held;
mod history;
mod layer;
mod open;
mod points;
mod read;
mod rebuild;
mod run;
mod scan;
mod small;
#[cfg(test)]
mod tests;
mod undo;
mod verify;

pub use difference::Between;
pub use fold::Frozen;
pub(crate) use held::{CopyError, Held};
pub use history::Wanted;
use layer::{Known, Layer, Part};
pub use read::{Loaded, Miss};
pub(crate) use run::RunPart;
pub use run::{Run, RunError, Write, WriteSet};
pub use verify::{Finding, Row, Verified, verify, verify_rows};

/// The longest key.
pub const KEY_BYTES_MAX: usize = crate::page::node::KEY_BYTES_MAX;

/// The largest value.
pub const VALUE_BYTES_MAX: usize = 16 << 20;

/// The trees of one partition and what lies over them. Cheap to clone; stays on its shard.
#[derive(Clone)]
pub struct Store {
    inner: Rc<Inner>,
}

struct Inner {
    env: Env,
    cache: Cache,
    file_id: FileId,
    dir: String,
    path: String,
    partition: PartitionId,
    folding: Cell<bool>,
    state: RefCell<State>,
}

/// No borrow of it is held across an await.
struct State {
    stacks: BTreeMap<TopologyId, Stack>,
    stacked_bytes: u64,
    memtable: Layer,
    history: history::History,
    /// What folds took out of the memtable and have not brought into the trees yet, oldest first;
    /// more than one only after a fold found no space.
    frozen: Vec<Rc<Layer>>,
    trees: BTreeMap<PStateId, Tree>,
    /// Pages of roots that are being copied, by the number of the copy.
    holds: BTreeMap<u64, Live>,
    holds_last: u64,
    /// Whose description changed since the last fold began.
    described: BTreeSet<PStateId>,
    catalogue: TreeRoot,
    table: crate::page::blob::ChunkList,
    space: Space,
    /// The number of the durable root, and the highest one tried.
    fold: u64,
    fold_tried: u64,
    /// The slot of the durable root.
    slot: usize,
    /// None before the first fold.
    file: Option<Rc<dyn File>>,
    /// Whether this opening has made the file's name durable.
    named: bool,
}

/// Runs of one topology that are not in the memtable, in id order.
#[derive(Default)]
struct Stack {
    runs: Vec<(MicrobatchId, Rc<Run>)>,
    /// Everybody sees the runs up to here.
    visible: MicrobatchId,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Tree {
    root: TreeRoot,
    description: Vec<u8>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.cache.forget_file(self.file_id);
    }
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store").field("partition", &self.inner.partition).finish_non_exhaustive()
    }
}

/// What was found when a store was opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opened {
    /// Every entry up to here is contained, except what `pending` names.
    pub covers: Index,
    /// Entries at or below `covers` that are prepares whose outcome is not contained, ascending.
    pub pending: Vec<Index>,
    /// The number of the fold that wrote the root; 0 if there was none yet.
    pub fold: u64,
    /// A root slot that cannot be read: the byte, and what is wrong. It may have held a newer root, so what
    /// was opened is right only if the journal has an entry above `covers`, and none is missing.
    pub damaged: Option<(u64, &'static str)>,
}

/// What a fold did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FoldReport {
    /// Its number.
    pub fold: u64,
    /// Pages written, the root's block not counted.
    pub pages_written: u64,
    /// Pages that live now, over all trees and tables.
    pub pages_live: u64,
    /// The file's length in bytes.
    pub file_bytes: u64,
    /// Bytes of memory given back.
    pub memtable_bytes: u64,
}

/// One tree, as the catalogue has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TreeInfo {
    /// Whose tree it is.
    pub pstate: PStateId,
    /// Keys in the tree; what lies over it is not counted.
    pub entries: u64,
    /// Levels, leaves included; 0 for an empty tree.
    pub depth: u8,
    /// The free-form bytes set with [`Store::describe`].
    pub description: Vec<u8>,
}

/// Which layers a reader sees.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    seen: Seen,
    writes: Option<&'a WriteSet>,
}

/// How far a view sees the ids of topologies; of all others than the one named, what is visible.
#[derive(Clone, Copy, Debug)]
enum Seen {
    Visible,
    Through(TopologyId, MicrobatchId),
    At(TopologyId, MicrobatchId),
}

impl Seen {
    /// How far it sees what is stacked of a topology.
    fn limit(self, topology: TopologyId, visible: MicrobatchId) -> MicrobatchId {
        match self {
            Self::Through(own, id) if own == topology => visible.max(id),
            Self::At(own, id) if own == topology => id,
            Self::Visible | Self::Through(..) | Self::At(..) => visible,
        }
    }
}

impl<'a> View<'a> {
    /// What everybody sees: visible writes and the trees.
    #[must_use]
    pub fn visible() -> Self {
        Self { seen: Seen::Visible, writes: None }
    }

    /// What the work on `topology`'s microbatch sees: also that topology's stacked runs up to and
    /// including `id`, and its own writes so far.
    #[must_use]
    pub fn through(topology: TopologyId, id: MicrobatchId, writes: Option<&'a WriteSet>) -> Self {
        Self { seen: Seen::Through(topology, id), writes }
    }

    /// `topology`'s `PState`s as they are at `id`: with all ids up to it, and none above. Reads fail with
    /// [`Error::Expired`] if that is not known any more. What other topologies write is not to be read
    /// through this view.
    #[must_use]
    pub fn at(topology: TopologyId, id: MicrobatchId) -> Self {
        Self { seen: Seen::At(topology, id), writes: None }
    }

    /// The topology and the id of a view at an id.
    fn exact(&self) -> Option<(TopologyId, MicrobatchId)> {
        match self.seen {
            Seen::At(topology, id) => Some((topology, id)),
            Seen::Visible | Seen::Through(..) => None,
        }
    }
}

/// The answer of a read that does not wait.
#[derive(Debug)]
pub enum Found<R> {
    /// Everything was in memory.
    Ready(R),
    /// Pages are missing; [`Store::load`] brings them.
    Miss(Miss),
}

/// A range of keys of one `PState`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyRange<'a> {
    /// Lower end.
    pub from: Bound<&'a [u8]>,
    /// Upper end.
    pub to: Bound<&'a [u8]>,
}

impl KeyRange<'_> {
    /// Every key.
    pub const ALL: KeyRange<'static> = KeyRange { from: Bound::Unbounded, to: Bound::Unbounded };
}

/// Which way a scan goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From small keys to large ones.
    Forward,
    /// From large keys to small ones.
    Backward,
}

impl Store {
    /// Puts a prepared run on top of `topology`'s; `id` must be above all of them.
    pub fn stack(&self, topology: TopologyId, id: MicrobatchId, run: Rc<Run>) {
        let mut state = self.inner.state.borrow_mut();
        state.stacked_bytes += run.memory_bytes();
        let runs = &mut state.stacks.entry(topology).or_default().runs;
        assert!(runs.last().is_none_or(|(top, _)| *top < id), "runs are stacked in id order");
        runs.push((id, run));
    }

    /// Drops a stacked run: the abort. Ids above it must have been dropped before.
    pub fn unstack(&self, topology: TopologyId, id: MicrobatchId) {
        let mut state = self.inner.state.borrow_mut();
        let stack = state.stacks.get_mut(&topology).expect("what is unstacked was stacked");
        assert!(id > stack.visible, "what is visible stays");
        let (top, run) = stack.runs.pop().expect("what is unstacked was stacked");
        assert_eq!(top, id, "an abort starts at the top: what lies above was built on it");
        state.stacked_bytes -= run.memory_bytes();
    }

    /// Makes the stacked runs of `topology` up to `id` visible. That costs next to nothing;
    /// [`Store::merge`] follows, in its own time.
    pub fn show(&self, topology: TopologyId, id: MicrobatchId) {
        let mut state = self.inner.state.borrow_mut();
        let stack = state.stacks.entry(topology).or_default();
        stack.visible = stack.visible.max(id);
    }

    /// Visits the stacked runs of `topology` with an id above one and up to another, in that order.
    pub(crate) fn each_stacked(
        &self,
        topology: TopologyId,
        above: MicrobatchId,
        through: MicrobatchId,
        mut visit: impl FnMut(MicrobatchId, &Rc<Run>),
    ) {
        let state = self.inner.state.borrow();
        let Some(stack) = state.stacks.get(&topology) else { return };
        // The newest are looked for, and they are last.
        let from = stack.runs.iter().rposition(|(id, _)| *id <= above).map_or(0, |at| at + 1);
        for (id, run) in stack.runs.iter().skip(from).take_while(|(id, _)| *id <= through) {
            visit(*id, run);
        }
    }

    /// Moves the lowest stacked run of `topology`, which must be `id`, into the memtable; from then on it
    /// is visible, and ids below it cannot be read.
    pub fn merge(&self, topology: TopologyId, id: MicrobatchId) {
        self.merge_keeping(topology, id, &Wanted::default());
    }

    /// [`Store::merge`], after which those can still be read that are `wanted`.
    pub fn merge_keeping(&self, topology: TopologyId, id: MicrobatchId, wanted: &Wanted) {
        let mut state = self.inner.state.borrow_mut();
        let state: &mut State = &mut state;
        let stack = state.stacks.get_mut(&topology).filter(|stack| !stack.runs.is_empty());
        let stack = stack.expect("what is merged was stacked");
        let (lowest, run) = stack.runs.remove(0);
        assert_eq!(lowest, id, "ids become visible in order");
        stack.visible = stack.visible.max(id);
        state.stacked_bytes -= run.memory_bytes();
        let dropped = state.history.merge((topology, id), wanted, &mut state.memtable, &run);
        self.drop_later(dropped);
    }

    /// Reads of these keys, or writes, come next: a hint to the core's cache.
    pub fn expect(&self, pstate: PStateId, keys: &[&[u8]]) {
        let state = self.inner.state.borrow();
        if let Some(table) = state.memtable.tables.get(&pstate) {
            table.points.expect(keys);
        }
    }

    /// Bytes of memory in stacked runs and memtables. The cache counts for itself, and so does what readers
    /// of older ids need ([`Store::history_bytes`]).
    #[must_use]
    pub fn memory_bytes(&self) -> u64 {
        self.inner.state.borrow().stacked_bytes + self.memtable_bytes()
    }

    /// Bytes of what is visible and not yet folded.
    #[must_use]
    pub fn memtable_bytes(&self) -> u64 {
        let state = self.inner.state.borrow();
        let frozen: u64 = state.frozen.iter().map(|layer| layer.bytes()).sum();
        state.memtable.bytes() + frozen
    }

    /// About how many bytes the file grows by at most if what is visible is folded now: what is to be
    /// reserved before more is admitted.
    #[must_use]
    pub fn fold_bytes_max(&self) -> u64 {
        let state = self.inner.state.borrow();
        let pages: u64 = crate::page::space::live_pages(&state.space.durable);
        let frozen: u64 = state.frozen.iter().map(|layer| layer.bytes()).sum();
        let bytes = state.memtable.bytes() + frozen;
        // In the worst case every key lies in a leaf of its own; all branches and the table follow.
        let leaves = (bytes / layer::POINT_BYTES).min(pages) * PAGE_BYTES as u64;
        2 * bytes + leaves + leaves / 8 + 2 * EXTENT_BYTES as u64
    }

    /// The trees that are not empty or have a description, by `PState`.
    #[must_use]
    pub fn trees(&self) -> Vec<TreeInfo> {
        let state = self.inner.state.borrow();
        let info = |(pstate, tree): (&PStateId, &Tree)| TreeInfo {
            pstate: *pstate,
            entries: tree.root.child.entries,
            depth: tree.root.depth,
            description: tree.description.clone(),
        };
        state.trees.iter().filter(|(_, tree)| **tree != Tree::default()).map(info).collect()
    }

    /// Sets a `PState`'s free-form bytes (at most 512) in the catalogue, with the next fold.
    pub fn describe(&self, pstate: PStateId, bytes: Vec<u8>) {
        assert!(bytes.len() <= DESCRIPTION_BYTES_MAX, "a description fits a leaf");
        let mut state = self.inner.state.borrow_mut();
        state.trees.entry(pstate).or_default().description = bytes;
        state.described.insert(pstate);
    }

    /// Whether there may be rows of a `PState` in the trees or over them; those of stacked runs do not count.
    #[must_use]
    pub fn holds(&self, pstate: PStateId) -> bool {
        let state = self.inner.state.borrow();
        let mut layers = state.frozen.iter().map(|layer| &**layer).chain([&state.memtable]);
        layers.any(|layer| layer.tables.contains_key(&pstate))
            || state.trees.get(&pstate).is_some_and(|tree| tree.root.depth > 0)
    }

    /// Deletes a `PState` that nobody reads any more, at any id: everything visible of it. Its tree is freed by the
    /// next fold.
    pub fn discard(&self, pstate: PStateId) {
        self.inner.state.borrow_mut().memtable.delete_range(pstate, &[], None);
    }

    /// Deletes a `PState`: everything visible of it, and its description. Its tree is freed by the next
    /// fold. No older id can be read afterwards.
    pub fn drop_pstate(&self, pstate: PStateId) {
        while self.drop_oldest_history() {}
        self.inner.state.borrow_mut().memtable.delete_range(pstate, &[], None);
        self.describe(pstate, Vec::new());
    }
}

/// The longest description, see [`Store::describe`].
pub const DESCRIPTION_BYTES_MAX: usize = 512;

impl State {
    /// What lies over the trees for one `PState`, newest first. For all views but those at an id: see
    /// [`State::past`].
    fn parts<'a>(
        &'a self,
        view: &View<'a>,
        pstate: PStateId,
    ) -> impl Iterator<Item = Part<'a>> + 'a {
        let writes = view.writes.and_then(|writes| writes.part(pstate));
        let visible = std::iter::once(&self.memtable).chain(self.frozen.iter().rev().map(|l| &**l));
        let visible = visible.filter_map(move |layer| layer.tables.get(&pstate)).map(Part::Table);
        writes.into_iter().chain(self.stacked(view, pstate)).chain(visible)
    }

    /// What the newest of the [parts](Self::parts) that knows a key says about it. Every read of a key does this.
    /// Written out: with more than one caller the pieces of the iterator become functions of their own, which takes
    /// 150 instructions more.
    #[inline(always)]
    #[allow(clippy::inline_always, reason = "all of a read of a key that is not in the tree")]
    fn known<'a>(&'a self, view: &View<'a>, pstate: PStateId, key: &[u8]) -> Option<Known<'a>> {
        let written = view.writes.and_then(|writes| writes.part(pstate)?.lookup(key));
        if written.is_some() {
            return written;
        }
        for (&topology, stack) in &self.stacks {
            if stack.runs.is_empty() {
                continue;
            }
            let through = view.seen.limit(topology, stack.visible);
            for (id, run) in stack.runs.iter().rev() {
                let known = run.part(pstate).filter(|_| *id <= through);
                if let Some(known) = known.and_then(|part| part.lookup(key)) {
                    return Some(known);
                }
            }
        }
        let lookup = |layer: &'a Layer| Part::Table(layer.tables.get(&pstate)?).lookup(key);
        let known = lookup(&self.memtable);
        if known.is_some() {
            return known;
        }
        self.frozen.iter().rev().find_map(|layer| lookup(layer))
    }

    /// The stacked runs that a view sees, newest first.
    fn stacked<'a>(
        &'a self,
        view: &View<'a>,
        pstate: PStateId,
    ) -> impl Iterator<Item = Part<'a>> + 'a {
        let seen = view.seen;
        let stacked = self.stacks.iter().flat_map(move |(&topology, stack)| {
            let through = seen.limit(topology, stack.visible);
            stack.runs.iter().rev().filter(move |(stacked, _)| *stacked <= through)
        });
        stacked.filter_map(move |(_, run)| run.part(pstate))
    }
}
