//! Opening a store: choosing a root, and reading the table and the catalogue it names.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::rc::Rc;

use super::history::History;
use super::layer::Layer;
use super::{Error, Inner, Opened, State, Store, Tree, catalogue};
use crate::env::{Buf, Env, File, Open, read_full};
use crate::page::blob::{self, ChunkList};
use crate::page::node::Value;
use crate::page::root::{CATALOGUE, Root, SLOT_AT, Slot, TABLE, Table, TreeRoot};
use crate::page::space::{Space, live_pages, used_extents};
use crate::page::{Cache, EXTENT_BYTES, Expected, FileId, PAGE_BYTES};
use crate::probe;
use crate::types::{Index, PStateId, PartitionId};

impl Store {
    /// Opens the trees of `partition` in `dir` (`p/<partition>`). `journal_from` is the first index
    /// the journal still has: a root is used only if it covers everything before that. The file is
    /// created by the first fold, not here.
    ///
    /// # Errors
    /// [`Error::Corrupt`] if no usable root is there although there must be one, [`Error::Io`].
    pub async fn open(
        env: &Env,
        cache: &Cache,
        dir: &str,
        partition: PartitionId,
        journal_from: Index,
    ) -> Result<(Self, Opened), Error> {
        let path = format!("{dir}/{FILE_NAME}");
        let file = match env.disk().open(&path, Open::Existing).await {
            Ok(file) => Some(file),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(Error::io("open", &path, 0, error)),
        };
        if let Some(file) = &file {
            // What is read may so far lie in the device's cache only, if the last process was killed; the
            // journal will soon forget what the root covers.
            file.sync().await.map_err(|error| Error::io("sync", &path, 0, error))?;
        }
        let reader = Reader { env, cache, path: &path, file_id: cache.register() };
        let chosen = match &file {
            Some(file) => reader.choose_root(file, partition, journal_from).await?,
            None if journal_from <= Index(1) => Chosen::default(),
            None => return Err(Error::corrupt(&path, 0, "the file is missing")),
        };
        let mut state = State {
            stacks: BTreeMap::new(),
            stacked_bytes: 0,
            memtable: Layer::default(),
            history: History::default(),
            frozen: Vec::new(),
            trees: BTreeMap::new(),
            holds: BTreeMap::new(),
            holds_last: 0,
            described: BTreeSet::new(),
            catalogue: TreeRoot::default(),
            table: ChunkList { bytes: 0, chunks: Vec::new() },
            space: Space::default(),
            fold: 0,
            fold_tried: chosen.fold_seen,
            slot: 1,
            file: file.clone(),
            named: false,
        };
        let damaged = chosen.damaged;
        let mut opened = Opened { covers: Index(0), pending: Vec::new(), fold: 0, damaged };
        if let (Some(file), Some((slot, root))) = (&file, chosen.root) {
            let table = reader.table(file, &root).await?;
            // What the other root reaches is spared by the next fold; if that cannot be told, nothing
            // could be read through it anyway.
            if let Some(other) = chosen.other
                && let Ok(table) = reader.table(file, &other).await
            {
                state.space.previous = table.live;
            }
            state.trees = reader.catalogue(file, root.catalogue).await?;
            state.space.durable = table.live;
            (state.catalogue, state.table) = (root.catalogue, root.table);
            (state.fold, state.slot) = (root.fold, slot);
            let pending = table.pending;
            opened = Opened { covers: root.covers, pending, fold: root.fold, damaged };
        }
        let inner = Inner {
            env: env.clone(),
            cache: cache.clone(),
            file_id: reader.file_id,
            dir: dir.to_owned(),
            path: path.clone(),
            partition,
            folding: Cell::new(false),
            state: RefCell::new(state),
        };
        Ok((Self { inner: Rc::new(inner) }, opened))
    }
}

/// The page file's name in the partition's directory.
pub(super) const FILE_NAME: &str = "pages";

/// The roots found.
#[derive(Default)]
struct Chosen {
    root: Option<(usize, Root)>,
    other: Option<Root>,
    damaged: Option<(u64, &'static str)>,
    /// At least the highest fold number there can be pages of.
    fold_seen: u64,
}

struct Reader<'a> {
    env: &'a Env,
    cache: &'a Cache,
    path: &'a str,
    file_id: FileId,
}

impl Reader<'_> {
    async fn choose_root(
        &self,
        file: &Rc<dyn File>,
        partition: PartitionId,
        journal_from: Index,
    ) -> Result<Chosen, Error> {
        let mut damaged = None;
        let mut roots = Vec::new();
        for (slot, at) in SLOT_AT.iter().enumerate() {
            let number = u32::try_from(slot).expect("two slots");
            let bytes = self.block(file, *at).await?;
            match Root::decode(&bytes, number, Some(partition)) {
                Slot::Blank => {}
                Slot::Damaged(what) => {
                    probe::reached(probe::State::TornRoot);
                    damaged = Some((*at, what));
                }
                Slot::Foreign => {
                    let what = "the file is of a version that this program does not know";
                    return Err(Error::corrupt(self.path, *at, what));
                }
                Slot::Root(root) => roots.push((slot, root)),
            }
        }
        roots.sort_by_key(|(_, root)| root.fold);
        let newest = roots.pop();
        let covers = newest.as_ref().map_or(Index(0), |(_, root)| root.covers);
        // A damaged slot may have held a newer root, and a blank or old one a root that was lost. The
        // journal may have dropped what that one covered.
        if covers.next() < journal_from {
            let (byte, what) = damaged.unwrap_or((0, "the newest root is missing"));
            return Err(Error::corrupt(self.path, byte, what));
        }
        let fold = newest.as_ref().map_or(0, |(_, root)| root.fold);
        Ok(Chosen {
            root: newest,
            other: roots.pop().map(|(_, root)| root),
            damaged,
            // A root that cannot be read, and a fold that did not finish, may have left pages.
            fold_seen: fold + 1,
        })
    }

    /// A slot's block; shorter where the file ends.
    async fn block(&self, file: &Rc<dyn File>, at: u64) -> Result<Vec<u8>, Error> {
        let failed = |error| Error::io("read", self.path, at, error);
        let len = file.len().map_err(failed)?;
        if len < at + PAGE_BYTES as u64 {
            return Ok(Vec::new());
        }
        let (result, buf) = read_full(&**file, at, Buf::zeroed(PAGE_BYTES)).await;
        result.map_err(failed)?;
        Ok(buf.to_vec())
    }

    async fn table(&self, file: &Rc<dyn File>, root: &Root) -> Result<Table, Error> {
        let mut bytes = Vec::new();
        let mut at = 0;
        for chunk in root.table.iter(TABLE) {
            let expected = Expected::Chunk { pages: chunk.pages };
            let files = (self.file_id, file);
            let page = self.cache.load(self.env, files, chunk.page, expected).await?;
            let data = blob::check(page.bytes(), &chunk.page, TABLE, chunk.data.len());
            let corrupt = |what| Error::corrupt(self.path, chunk.page.byte(), what);
            bytes.extend_from_slice(data.map_err(corrupt)?);
            at = chunk.page.byte();
        }
        let corrupt = |what| Error::corrupt(self.path, at, what);
        let table = Table::decode(&bytes).ok_or(corrupt("the table of live pages is malformed"))?;
        if live_pages(&table.live) != root.live_pages {
            return Err(corrupt("the number of live pages differs from the root's"));
        }
        let used_bytes = used_extents(&table.live) as u64 * EXTENT_BYTES as u64;
        let len = file.len().map_err(|error| Error::io("measure", self.path, 0, error))?;
        if len < used_bytes {
            return Err(Error::corrupt(self.path, len, "the file is cut short"));
        }
        Ok(table)
    }

    /// All trees: a few hundred at most, so they are kept in memory.
    async fn catalogue(
        &self,
        file: &Rc<dyn File>,
        root: TreeRoot,
    ) -> Result<BTreeMap<PStateId, Tree>, Error> {
        let mut trees = BTreeMap::new();
        let mut to_read = Vec::new();
        if root.depth > catalogue::DEPTH_MAX {
            return Err(Error::corrupt(self.path, 0, "the catalogue is impossibly deep"));
        }
        if root.depth > 0 {
            to_read.push((root.child, root.depth - 1));
        }
        while let Some((child, level)) = to_read.pop() {
            let expected = Expected::Node { pstate: CATALOGUE, level };
            let files = (self.file_id, file);
            let page = self.cache.load(self.env, files, child.page, expected).await?;
            let node = page.node();
            for nth in 0..node.count() {
                if level > 0 {
                    to_read.push((node.child(nth), level - 1));
                    continue;
                }
                let entry = match node.value(nth) {
                    Value::Inline(value) => catalogue::decode(&node.key(nth), value),
                    Value::Chunked(_) => None,
                };
                let (pstate, root, description) = entry.ok_or_else(|| {
                    Error::corrupt(self.path, child.page.byte(), "a catalogue entry is malformed")
                })?;
                trees.insert(pstate, Tree { root, description });
            }
        }
        Ok(trees)
    }
}
