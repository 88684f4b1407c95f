//! Point reads: without waiting where everything is in memory, and loads of what is not.

use std::rc::Rc;

use futures_util::stream::{FuturesUnordered, StreamExt};

use super::undo::first_known;
use super::{Error, Found, State, Store, View};
use crate::env::File;
use crate::page::blob::{self, ChunkList, KIND_VALUE, Owner};
use crate::page::node::Value;
use crate::page::root::TreeRoot;
use crate::page::{Expected, Page};
use crate::types::{MicrobatchId, PStateId, TopologyId};

/// What a read was missing.
#[derive(Debug)]
pub struct Miss {
    /// Of a view at an id.
    exact: Option<(TopologyId, MicrobatchId)>,
    pstate: PStateId,
    key: Box<[u8]>,
}

/// Keeps loaded pages in the cache while it lives; hold it until the read was repeated.
#[derive(Debug, Default)]
#[must_use = "the pages may be evicted before the read is repeated"]
pub struct Loaded {
    pins: Vec<Rc<Page>>,
}

/// The fold of a root, the root, and the file that it lies in.
pub(super) type Ground = (u64, TreeRoot, Option<Rc<dyn File>>);

/// Loads in flight of one prefetch: the depth at which the device is busy.
const PREFETCH_DEPTH: usize = 32;

impl Store {
    /// Reads one key. Does not wait and, for what is cached, does not allocate. `f` gets the value if
    /// there is one, and must not write to this store.
    ///
    /// # Errors
    /// [`Error::Corrupt`]; [`Error::Expired`] of a view at an id; an I/O error comes from [`Store::load`].
    #[inline(always)]
    #[allow(clippy::inline_always, reason = "reading a key is this, and few places do it")]
    pub fn get<R>(
        &self,
        view: &View<'_>,
        pstate: PStateId,
        key: &[u8],
        f: impl FnOnce(Option<&[u8]>) -> R,
    ) -> Result<Found<R>, Error> {
        let state = self.inner.state.borrow();
        let exact = view.exact();
        let root = if let Some(exact) = exact {
            let past = state.past(view, exact, pstate)?;
            if let Some(known) = first_known(&past.parts, past.under, |_, part| part.lookup(key)) {
                return Ok(Found::Ready(f(known.value())));
            }
            past.root
        } else {
            let known = state.known(view, pstate, key);
            debug_assert_eq!(known, state.parts(view, pstate).find_map(|part| part.lookup(key)));
            if let Some(known) = known {
                return Ok(Found::Ready(f(known.value())));
            }
            state.trees.get(&pstate).map(|tree| tree.root).unwrap_or_default()
        };
        if root.depth == 0 {
            return Ok(Found::Ready(f(None)));
        }
        let miss = || Found::Miss(Miss { exact, pstate, key: key.into() });
        let mut at = root.child.page;
        for level in (0..root.depth).rev() {
            let expected = Expected::Node { pstate, level };
            let Some(page) = self.inner.cache.lookup(self.inner.file_id, &at, expected) else {
                return Ok(miss());
            };
            let node = page.node();
            if level > 0 {
                at = node.child(node.child_of(key)).page;
                continue;
            }
            let Ok(nth) = node.search(key) else { break };
            return Ok(match node.value(nth) {
                Value::Inline(value) => Found::Ready(f(Some(value))),
                Value::Chunked(list) => {
                    let list = self.chunk_list(pstate, key, list, at.byte())?;
                    match self.cached_blob(pstate, key, &list)? {
                        Some(value) => Found::Ready(f(Some(&value))),
                        None => miss(),
                    }
                }
            });
        }
        Ok(Found::Ready(f(None)))
    }

    /// Reads what was missing; then the read is repeated, while [`Loaded`] is held. Loads of one page
    /// share one read. Dropping the future leaves nothing behind.
    ///
    /// # Errors
    /// [`Error::Corrupt`], [`Error::Io`]; [`Error::Expired`] of a view at an id.
    pub async fn load(&self, miss: Miss) -> Result<Loaded, Error> {
        let view = miss.exact.map_or(View::visible(), |(topology, id)| View::at(topology, id));
        loop {
            let (fold, root, file) = self.ground(&view, miss.pstate)?;
            let Some(file) = file else { return Ok(Loaded::default()) };
            match self.load_path(&file, root, &miss).await {
                Err(Error::Corrupt { .. }) if self.has_moved(&view, miss.pstate, fold) => {}
                done => return done,
            }
        }
    }

    /// Where a view begins to read the tree of a `PState`: the root's fold, the root, and the file.
    pub(super) fn ground(&self, view: &View<'_>, pstate: PStateId) -> Result<Ground, Error> {
        let state = self.state();
        let (fold, root) = state.root_of(view, pstate)?;
        Ok((fold, root, state.file.clone()))
    }

    /// Whether a view no longer reads what the root of `fold` reaches: a later fold may have overwritten it,
    /// so what looks like damage need not be any.
    pub(super) fn has_moved(&self, view: &View<'_>, pstate: PStateId, fold: u64) -> bool {
        self.state().root_of(view, pstate).map_or(true, |(now, _)| now != fold)
    }

    /// [`Store::get`] and [`Store::load`] until it is there.
    ///
    /// # Errors
    /// [`Error::Corrupt`], [`Error::Io`]; [`Error::Expired`] of a view at an id.
    pub async fn read<R>(
        &self,
        view: &View<'_>,
        pstate: PStateId,
        key: &[u8],
        f: impl FnOnce(Option<&[u8]>) -> R,
    ) -> Result<R, Error> {
        let mut f = Some(f);
        let mut _held = Loaded::default();
        loop {
            let ask = |value: Option<&[u8]>| (f.take().expect("asked once when ready"))(value);
            match self.get(view, pstate, key, ask)? {
                Found::Ready(answer) => return Ok(answer),
                Found::Miss(miss) => _held = self.load(miss).await?,
            }
        }
    }

    /// Brings the leaves of many keys in, at depth; a hint, so that the reads that follow are ready.
    /// Returns how many keys were not in memory.
    ///
    /// # Errors
    /// [`Error::Corrupt`], [`Error::Io`].
    pub async fn prefetch<'k>(
        &self,
        pstate: PStateId,
        keys: impl IntoIterator<Item = &'k [u8]>,
    ) -> Result<usize, Error> {
        self.prefetch_for(&View::visible(), pstate, keys).await
    }

    /// [`Store::prefetch`] of what a view reads.
    ///
    /// # Errors
    /// As [`Store::load`].
    pub async fn prefetch_for<'k>(
        &self,
        view: &View<'_>,
        pstate: PStateId,
        keys: impl IntoIterator<Item = &'k [u8]>,
    ) -> Result<usize, Error> {
        let mut loads = FuturesUnordered::new();
        let mut missed = 0;
        for key in keys {
            if let Found::Miss(miss) = self.get(view, pstate, key, |_| ())? {
                missed += 1;
                loads.push(self.load(miss));
            }
            if loads.len() >= PREFETCH_DEPTH
                && let Some(loaded) = loads.next().await
            {
                drop(loaded?);
            }
        }
        while let Some(loaded) = loads.next().await {
            drop(loaded?);
        }
        Ok(missed)
    }

    async fn load_path(
        &self,
        file: &Rc<dyn File>,
        root: TreeRoot,
        miss: &Miss,
    ) -> Result<Loaded, Error> {
        let mut loaded = Loaded::default();
        let mut at = root.child.page;
        for level in (0..root.depth).rev() {
            let expected = Expected::Node { pstate: miss.pstate, level };
            let files = (self.inner.file_id, file);
            let page = self.inner.cache.load(&self.inner.env, files, at, expected).await?;
            let node = page.node();
            if level > 0 {
                at = node.child(node.child_of(&miss.key)).page;
            } else if let Ok(nth) = node.search(&miss.key)
                && let Value::Chunked(list) = node.value(nth)
            {
                let list = self.chunk_list(miss.pstate, &miss.key, list, at.byte())?;
                let chunks = self.load_blob(file, miss.pstate, &miss.key, &list).await?;
                loaded.pins.extend(chunks.pins);
            }
            loaded.pins.push(page);
        }
        Ok(loaded)
    }

    /// Brings all chunks of a blob in.
    pub(super) async fn load_blob(
        &self,
        file: &Rc<dyn File>,
        pstate: PStateId,
        key: &[u8],
        list: &ChunkList,
    ) -> Result<Loaded, Error> {
        let mut loaded = Loaded::default();
        for chunk in list.iter(Owner { kind: KIND_VALUE, pstate, key }) {
            let expected = Expected::Chunk { pages: chunk.pages };
            let files = (self.inner.file_id, file);
            let load = self.inner.cache.load(&self.inner.env, files, chunk.page, expected);
            loaded.pins.push(load.await?);
        }
        Ok(loaded)
    }

    /// A blob's value, if all its chunks are in memory.
    pub(super) fn cached_blob(
        &self,
        pstate: PStateId,
        key: &[u8],
        list: &ChunkList,
    ) -> Result<Option<Vec<u8>>, Error> {
        let owner = Owner { kind: KIND_VALUE, pstate, key };
        let mut value = Vec::with_capacity(list.bytes);
        for chunk in list.iter(owner) {
            let expected = Expected::Chunk { pages: chunk.pages };
            let Some(page) = self.inner.cache.lookup(self.inner.file_id, &chunk.page, expected)
            else {
                return Ok(None);
            };
            let data = blob::check(page.bytes(), &chunk.page, owner, chunk.data.len());
            value.extend_from_slice(data.map_err(|what| self.corrupt(chunk.page.byte(), what))?);
        }
        Ok(Some(value))
    }

    pub(super) fn chunk_list(
        &self,
        pstate: PStateId,
        key: &[u8],
        list: &[u8],
        byte: u64,
    ) -> Result<ChunkList, Error> {
        let list = ChunkList::decode(list, Owner { kind: KIND_VALUE, pstate, key });
        list.ok_or_else(|| self.corrupt(byte, "a value's list of chunks is malformed"))
    }

    pub(super) fn corrupt(&self, byte: u64, what: &'static str) -> Error {
        Error::corrupt(&self.inner.path, byte, what)
    }

    pub(super) fn state(&self) -> std::cell::Ref<'_, State> {
        self.inner.state.borrow()
    }
}
