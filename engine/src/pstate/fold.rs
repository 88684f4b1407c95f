//! Folds: bringing what is visible into the trees, and making that durable.
//!
//! 1. The memtable is frozen; a new one starts over it.
//! 2. Every tree with changes is rebuilt into free pages, then the catalogue, then the table of live
//!    pages, which also marks its own pages.
//! 3. Everything written so far is made durable.
//! 4. The root is written into the slot of the older root, durably.
//! 5. Only now do readers see the new trees, and the frozen memtable goes.
//!
//! Until 4 has returned, the old root and all it reaches is untouched, so a crash or [`Error::NoSpace`]
//! anywhere before loses nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use super::changes::Changes;
use super::layer::{Layer, Table as Writes};
use super::rebuild::{Evacuation, Rebuild};
use super::small::Small;
use super::{Error, FoldReport, State, Store, Tree, catalogue};
use crate::env::{Buf, File, Open, Sync, read_full, write_full};
use crate::page::blob::{self, ChunkList};
use crate::page::node::{KIND_BRANCH, KIND_LEAF, Node};
use crate::page::root::{CATALOGUE, Root, SLOT_AT, TABLE, Table, TreeRoot};
use crate::page::space::{Draft, Live, live_pages, used_extents};
use crate::page::writer::{Writer, no_space};
use crate::page::{EXTENT_BYTES, EXTENT_PAGES, PAGE_BYTES, PageRef, u16_at, u32_at, u64_at};
use crate::probe::{self, Plant};
use crate::types::{Index, PStateId};

/// Live pages moved out of sparse extents by one fold at least, if there are such; a larger fold
/// moves in proportion to the bytes it folds.
const EVACUATION_PAGES_MIN: u64 = 256;

/// Pages or keys dropped without a pause.
pub(super) const FORGET_COUNT: usize = 500;

/// Free extents at the file's end that are kept, so that it does not shrink and grow all the time.
const TAIL_EXTENTS_KEPT: usize = 4;

impl Store {
    /// Merges everything visible into the trees and makes it durable, with `covers` and `pending` as
    /// [`Opened`](super::Opened) will report them. One at a time per store. Reads and merges go on
    /// meanwhile; what is merged after the call belongs to the next fold. Must not be dropped before it
    /// ends, except with the store: writes may be in flight.
    ///
    /// # Errors
    /// [`Error::NoSpace`]: nothing is lost, the next fold tries again. Anything else: the shard must
    /// stop; what reached the disk is unknown, but the old root is intact.
    pub async fn fold(&self, covers: Index, pending: &[Index]) -> Result<FoldReport, Error> {
        let frozen = self.freeze();
        self.fold_frozen(frozen, covers, pending).await
    }

    /// Fixes what the next fold brings into the trees: what is visible now. [`Store::fold_frozen`] follows; if
    /// it does not, the next fold contains it.
    pub fn freeze(&self) -> Frozen {
        let mut state = self.inner.state.borrow_mut();
        let memtable = std::mem::take(&mut state.memtable);
        if !memtable.is_empty() {
            state.frozen.push(Rc::new(memtable));
            state.keep_generation();
        }
        Frozen { layers: state.frozen.clone() }
    }

    /// The rest of [`Store::fold`]. Nothing was frozen since.
    ///
    /// # Errors
    /// As [`Store::fold`].
    pub async fn fold_frozen(
        &self,
        frozen: Frozen,
        covers: Index,
        pending: &[Index],
    ) -> Result<FoldReport, Error> {
        assert!(pending.windows(2).all(|pair| pair[0] < pair[1]), "pending entries ascend");
        assert!(pending.last().is_none_or(|last| *last <= covers), "pending entries are covered");
        assert!(!self.inner.folding.replace(true), "one fold at a time");
        // All of them are dropped at the end.
        assert_eq!(frozen.layers.len(), self.inner.state.borrow().frozen.len(), "the last freeze");
        if !pending.is_empty() {
            probe::reached(probe::State::InDoubtAcrossFold);
        }
        let described = std::mem::take(&mut self.inner.state.borrow_mut().described);
        let result = self.fold_layers(frozen.layers, covers, pending, &described).await;
        if result.is_err() {
            self.inner.state.borrow_mut().described.extend(described);
        }
        if matches!(result, Err(Error::NoSpace { .. })) {
            probe::reached(probe::State::NoSpaceInFold);
            self.drop_held_pages();
        }
        self.inner.folding.set(false);
        result
    }

    async fn fold_layers(
        &self,
        frozen: Vec<Rc<Layer>>,
        covers: Index,
        pending: &[Index],
        described: &BTreeSet<PStateId>,
    ) -> Result<FoldReport, Error> {
        let file = self.file().await?;
        let evacuation = self.plan_evacuation(&file, &frozen).await?;
        let (fold, slot, draft) = self.begin(&file, &evacuation)?;
        let files = (self.inner.file_id, Rc::clone(&file));
        let mut writer = Writer::new(self.inner.env.clone(), files, fold, draft);

        let written = self.write(&mut writer, &frozen, &evacuation, described, pending).await;
        let (roots, catalogue, table) = match written {
            Ok(written) => written,
            Err(error) => {
                writer.settle().await;
                return Err(error);
            }
        };
        if !probe::planted(Plant::RootBeforePages) {
            let synced = file.sync().await;
            synced.map_err(|error| Error::io("sync", file.path(), 0, error))?;
        }

        let live = live_pages(&writer.draft.live);
        let root = Root {
            partition: self.inner.partition,
            fold,
            covers,
            catalogue,
            live_pages: live,
            table: table.clone(),
        };
        let block = Buf::copy_of(&root.encode(u32::try_from(slot).expect("two slots")));
        let (written, block) = write_full(&*file, SLOT_AT[slot], block, Sync::Data).await;
        written.map_err(|error| Error::io("write", file.path(), SLOT_AT[slot], error))?;
        self.read_back(&*file, slot, &block).await?;

        let pages_written = writer.draft.pages_claimed();
        let memtable_bytes = frozen.iter().map(|layer| layer.bytes()).sum();
        let Draft { live: new_live, freed, .. } = writer.draft;
        self.switch(Switch { fold, slot, roots, catalogue, table, live: new_live });
        self.forget(frozen, &freed).await;
        let file_bytes = self.shrink(&file).await?;
        Ok(FoldReport { fold, pages_written, pages_live: live, file_bytes, memtable_bytes })
    }

    /// Checks that the device has the root it was just given.
    ///
    /// One that lost the write would show the older root at the next opening, and nothing could tell once the
    /// journal no longer reaches back to it: every page but the root is known from above. So this is asked
    /// while the journal still does.
    async fn read_back(&self, file: &dyn File, slot: usize, block: &Buf) -> Result<(), Error> {
        let (read, found) = read_full(file, SLOT_AT[slot], Buf::zeroed(block.len())).await;
        read.map_err(|error| Error::io("read back", file.path(), SLOT_AT[slot], error))?;
        if found[..] == block[..] {
            return Ok(());
        }
        let what = "the device has not kept the root that a fold has just written";
        Err(Error::corrupt(file.path(), SLOT_AT[slot], what))
    }

    /// Writes everything but the root.
    async fn write(
        &self,
        writer: &mut Writer,
        frozen: &[Rc<Layer>],
        evacuation: &Evacuation,
        described: &BTreeSet<PStateId>,
        pending: &[Index],
    ) -> Result<(BTreeMap<PStateId, TreeRoot>, TreeRoot, ChunkList), Error> {
        let roots = self.rebuild_trees(writer, frozen, evacuation).await?;
        let catalogue = self.rebuild_catalogue(writer, &roots, described, evacuation).await?;
        let table = self.write_table(writer, pending).await?;
        writer.finish().await?;
        Ok((roots, catalogue, table))
    }

    /// The file, created if it is not there. Its name is durable afterwards: one that was only found
    /// proves nothing, since whoever created it may have died before it synced the directory.
    async fn file(&self) -> Result<Rc<dyn File>, Error> {
        let (found, named) = {
            let state = self.inner.state.borrow();
            (state.file.clone(), state.named)
        };
        if let Some(file) = found.clone().filter(|_| named) {
            return Ok(file);
        }
        let (disk, path, dir) = (self.inner.env.disk(), &self.inner.path, &self.inner.dir);
        let created = |op| {
            move |error: std::io::Error| {
                if no_space(&error) {
                    Error::NoSpace { file: path.clone(), bytes: 0 }
                } else {
                    Error::io(op, path, 0, error)
                }
            }
        };
        let file = if let Some(file) = found {
            file
        } else {
            disk.create_dir(dir).await.map_err(created("create the directory"))?;
            disk.open(path, Open::Any).await.map_err(created("create"))?
        };
        let failed = |error| Error::io("sync the directory", path, 0, error);
        if !probe::planted(Plant::SkippedDirectorySync) {
            // Every directory on the way, since the ones above may be as new.
            let mut above = Some(dir.as_str());
            while let Some(dir) = above {
                disk.sync_dir(dir).await.map_err(failed)?;
                above = dir.rsplit_once('/').map(|(above, _)| above);
            }
            disk.sync_dir(".").await.map_err(failed)?;
        }
        let mut state = self.inner.state.borrow_mut();
        state.file = Some(Rc::clone(&file));
        state.named = true;
        Ok(file)
    }

    fn begin(
        &self,
        file: &Rc<dyn File>,
        evacuation: &Evacuation,
    ) -> Result<(u64, usize, Draft), Error> {
        let len = file.len().map_err(|error| Error::io("measure", file.path(), 0, error))?;
        let mut state = self.inner.state.borrow_mut();
        // A number is not used twice while this store is open, so that a page of a fold that found no
        // space is never taken for one of its successor.
        state.fold_tried = state.fold_tried.max(state.fold) + 1;
        // An extent that the file has only in part is allocated before it is used.
        state.space.extents = u32::try_from(len / EXTENT_BYTES as u64).unwrap_or(u32::MAX);
        let draft = state.space.draft(&evacuation.extents);
        Ok((state.fold_tried, 1 - state.slot, draft))
    }

    /// Reads the extents to empty, and notes whose pages lie there. What is read is not checked: if it
    /// is wrong, less is moved than could be.
    async fn plan_evacuation(
        &self,
        file: &Rc<dyn File>,
        frozen: &[Rc<Layer>],
    ) -> Result<Evacuation, Error> {
        let folded_pages: u64 = frozen.iter().map(|layer| layer.bytes()).sum::<u64>() / 4096;
        let extents: Vec<(u32, u64)> = {
            let state = self.inner.state.borrow();
            let extents = state.space.sparse(folded_pages.max(EVACUATION_PAGES_MIN));
            extents.iter().map(|&extent| (extent, state.space.durable[extent as usize])).collect()
        };
        let mut evacuation = Evacuation::default();
        for (extent, live) in extents {
            let at = u64::from(extent) * EXTENT_BYTES as u64;
            let (result, buf) = read_full(&**file, at, Buf::zeroed(EXTENT_BYTES)).await;
            result.map_err(|error| Error::io("read", file.path(), at, error))?;
            for page in 0..EXTENT_PAGES {
                if live >> page & 1 == 1
                    && let Some((pstate, key)) =
                        owner(&buf[page as usize * PAGE_BYTES..], extent * EXTENT_PAGES + page)
                {
                    let keys = evacuation.keys.entry(pstate).or_default();
                    keys.insert(Small::from(&*key));
                }
            }
            evacuation.extents.push(extent);
            self.pause().await;
        }
        evacuation.extents.sort_unstable();
        Ok(evacuation)
    }

    /// The new roots of all trees that change.
    async fn rebuild_trees(
        &self,
        writer: &mut Writer,
        frozen: &[Rc<Layer>],
        evacuation: &Evacuation,
    ) -> Result<BTreeMap<PStateId, TreeRoot>, Error> {
        let mut pstates: BTreeSet<PStateId> = evacuation.keys.keys().copied().collect();
        pstates.extend(frozen.iter().flat_map(|layer| layer.tables.keys().copied()));
        pstates.remove(&CATALOGUE);
        let mut roots = BTreeMap::new();
        for pstate in pstates {
            let tables = frozen.iter().rev().filter_map(|layer| layer.tables.get(&pstate));
            let changes = Changes::new(tables.collect());
            let old = self.inner.state.borrow().trees.get(&pstate).map(|tree| tree.root);
            let old = old.unwrap_or_default();
            let rebuild = Rebuild::new(writer, &self.inner.cache, pstate, &changes, evacuation);
            let new = rebuild.run(old).await?;
            if new != old {
                roots.insert(pstate, new);
            }
        }
        Ok(roots)
    }

    async fn rebuild_catalogue(
        &self,
        writer: &mut Writer,
        roots: &BTreeMap<PStateId, TreeRoot>,
        described: &BTreeSet<PStateId>,
        evacuation: &Evacuation,
    ) -> Result<TreeRoot, Error> {
        let mut layer = Layer::default();
        let old = {
            let state = self.inner.state.borrow();
            for pstate in roots.keys().chain(described) {
                let mut tree = state.trees.get(pstate).cloned().unwrap_or_default();
                tree.root = roots.get(pstate).copied().unwrap_or(tree.root);
                let value = catalogue::encode(&tree);
                layer.put(CATALOGUE, &catalogue::key(*pstate), value.as_deref());
            }
            state.catalogue
        };
        let tables: Vec<&Writes> = layer.tables.values().collect();
        let changes = Changes::new(tables);
        Rebuild::new(writer, &self.inner.cache, CATALOGUE, &changes, evacuation).run(old).await
    }

    /// Writes the table of live pages, its own included.
    async fn write_table(
        &self,
        writer: &mut Writer,
        pending: &[Index],
    ) -> Result<ChunkList, Error> {
        let old = self.inner.state.borrow().table.clone();
        for chunk in old.iter(TABLE) {
            writer.free(chunk.page.place, chunk.pages)?;
        }
        // The table's own pages may make the file longer, and so the table: it is written with room.
        let mut table = Table { pending: pending.to_vec(), live: Vec::new() };
        let spare = 2 + writer.draft.live.len() / 1000;
        let extents = writer.draft.live.len() + spare;
        let bytes = Table::bytes(pending.len(), extents);
        let mut places = Vec::new();
        let mut left = bytes;
        while left > 0 {
            let data_bytes = left.min(TABLE.chunk_bytes());
            let pages = blob::chunk_pages(0, data_bytes);
            places.push((writer.claim(pages).await?, pages, data_bytes));
            left -= data_bytes;
        }
        assert!(
            used_extents(&writer.draft.live) <= extents,
            "the spare room is more than it grows"
        );
        table.live = writer.draft.live.clone();
        table.live.resize(extents, 0);
        let encoded = table.encode();
        assert_eq!(encoded.len(), bytes);
        let mut list = ChunkList { bytes, chunks: Vec::new() };
        let mut at = 0;
        for (place, pages, data_bytes) in places {
            let mut buf = Buf::zeroed(pages as usize * PAGE_BYTES);
            let data = &encoded[at..at + data_bytes];
            list.chunks.push(blob::build(TABLE, data, &mut buf, place, writer.fold));
            writer.put(place, &buf).await?;
            at += data_bytes;
        }
        Ok(list)
    }

    /// Makes the new root the one that is read.
    fn switch(&self, new: Switch) {
        let mut state = self.inner.state.borrow_mut();
        let state: &mut State = &mut state;
        for (pstate, root) in new.roots {
            state.trees.entry(pstate).or_default().root = root;
        }
        state
            .trees
            .retain(|pstate, tree| *tree != Tree::default() || state.described.contains(pstate));
        state.frozen.clear();
        (state.catalogue, state.table) = (new.catalogue, new.table);
        (state.fold, state.slot) = (new.fold, new.slot);
        state.space.previous = std::mem::replace(&mut state.space.durable, new.live);
    }

    /// Drops what is no longer read, in small portions: a map of a million keys takes long to drop.
    async fn forget(&self, frozen: Vec<Rc<Layer>>, freed: &[(u32, u32)]) {
        for (nth, (place, pages)) in freed.iter().enumerate() {
            for place in *place..*place + *pages {
                if !self.state().space.holds(place) {
                    self.inner.cache.forget(self.inner.file_id, place);
                }
            }
            if nth % FORGET_COUNT == 0 {
                self.pause().await;
            }
        }
        for layer in frozen {
            // If readers of older ids hold it, it is dropped with their history.
            let Some(mut layer) = Rc::into_inner(layer) else { continue };
            while layer.drop_some(FORGET_COUNT) {
                self.pause().await;
            }
        }
    }

    async fn pause(&self) {
        if self.inner.env.should_yield() {
            self.inner.env.yield_now().await;
        }
    }

    /// Gives the end of the file back, as far as no root reaches it.
    async fn shrink(&self, file: &Rc<dyn File>) -> Result<u64, Error> {
        let needed = self.inner.state.borrow().space.used_extents().max(1);
        let failed = |op| move |error| Error::io(op, file.path(), 0, error);
        let len = file.len().map_err(failed("measure"))?;
        let keep = (needed + TAIL_EXTENTS_KEPT.max(needed / 16)) as u64 * EXTENT_BYTES as u64;
        if len <= keep {
            return Ok(len);
        }
        let needed = needed as u64 * EXTENT_BYTES as u64;
        file.truncate(needed).await.map_err(failed("truncate"))?;
        Ok(needed)
    }
}

/// What a fold brings into the trees: memtables, oldest first.
#[derive(Debug)]
#[must_use]
pub struct Frozen {
    layers: Vec<Rc<Layer>>,
}

/// What a fold changes in the store when it is durable.
struct Switch {
    fold: u64,
    slot: usize,
    roots: BTreeMap<PStateId, TreeRoot>,
    catalogue: TreeRoot,
    table: ChunkList,
    live: Live,
}

/// Whose page or chunk starts with `bytes`, as far as it says so itself: a `PState`, and a key that
/// leads to it.
fn owner(bytes: &[u8], place: u32) -> Option<(PStateId, Vec<u8>)> {
    if u32_at(bytes, 0) != place {
        return None;
    }
    let pstate = PStateId(u32_at(bytes, 16));
    match bytes[4] {
        KIND_LEAF | KIND_BRANCH => {
            let at = PageRef { place, crc: 0, fold: u64_at(bytes, 8) };
            let node = Node::check(&bytes[..PAGE_BYTES], &at, pstate, bytes[5]).ok()?;
            Some((pstate, node.key(0)))
        }
        blob::KIND_VALUE => {
            let key_bytes = usize::from(u16_at(bytes, 6));
            let key = bytes.get(blob::HEADER_BYTES..blob::HEADER_BYTES + key_bytes)?;
            Some((pstate, key.to_vec()))
        }
        _ => None,
    }
}
