//! A root that stays as it is while it is copied, and the copying.
//!
//! Pages of a held root are not written again ([`Space::held`]), however many folds follow. The copy has every
//! page at its place, so that references and checksums fit it unchanged. It is made by walking down from
//! the root: whatever is copied was checked by what refers to it, as a reader checks it.
//!
//! A page is the same wherever its place, its fold and its checksum are. So where an earlier copy has it,
//! it is read from there, and believed for the same reason. The device that serves reads less then.
//!
//! [`Space::held`]: crate::page::space::Space::held

use std::io;
use std::rc::Rc;

use super::{Error, Store, catalogue};
use crate::env::copy::{Pieces, TargetError};
use crate::env::{Buf, Env, File, Open, Sync, read_full, write_full};
use crate::page::blob::{self, Chunk, ChunkList, KIND_VALUE, Owner};
use crate::page::node::{Node, Value};
use crate::page::root::{CATALOGUE, Root, SLOT_AT, Slot, TABLE, Table, TreeRoot};
use crate::page::space::{live_pages, used_extents};
use crate::page::{Child, EXTENT_BYTES, EXTENT_PAGES, PAGE_BYTES, PageRef};
use crate::types::{Index, PStateId, PartitionId};

/// A durable root of a store, while this lives, or until a fold needs the space that it takes.
pub(crate) struct Held {
    store: Store,
    number: u64,
    root: Root,
    slot: usize,
    file: Rc<dyn File>,
    extents: usize,
}

/// Is shown keys and values.
type Show<'s> = dyn FnMut(&[u8], &[u8]) + 's;

/// Why there is no copy.
#[derive(Debug)]
pub(crate) enum CopyError {
    /// The store cannot be read: the device refused, or stored data is damaged.
    Source(Error),
    /// Where the copy should be, the device refused.
    Target(TargetError),
    /// A fold found no space, and got what was held for the copy.
    Released { file: String },
    /// Whoever wanted it has changed his mind.
    Stopped,
}

impl From<TargetError> for CopyError {
    fn from(error: TargetError) -> Self {
        Self::Target(error)
    }
}

impl Store {
    /// Holds the durable root, which covers `covers`; none before the first fold. Not while a fold is under way.
    pub(crate) fn hold(&self, covers: Index) -> Option<Held> {
        let mut state = self.inner.state.borrow_mut();
        let file = state.file.clone().filter(|_| state.fold > 0)?;
        assert!(!self.inner.folding.get(), "the root is about to be another");
        let live = state.space.durable.clone();
        let root = Root {
            partition: self.inner.partition,
            fold: state.fold,
            covers,
            catalogue: state.catalogue,
            live_pages: live_pages(&live),
            table: state.table.clone(),
        };
        let extents = used_extents(&live).max(1);
        state.holds_last += 1;
        let number = state.holds_last;
        state.holds.insert(number, live);
        state.hold_pages();
        Some(Held { store: self.clone(), number, root, slot: state.slot, file, extents })
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut state = self.store.inner.state.borrow_mut();
        state.holds.remove(&self.number);
        state.hold_pages();
    }
}

impl Held {
    /// Bytes of what the root reaches.
    pub(crate) fn bytes(&self) -> u64 {
        self.root.live_pages * PAGE_BYTES as u64
    }

    /// Makes the page file `path` of `to`, which must not exist, with what the root reaches and nothing
    /// else; synced, but for its name. Pages that the file of that path has in `earlier` are taken from
    /// there. Shows every row of `shown`.
    ///
    /// # Errors
    /// See [`CopyError`]; what there is of the copy is of no use.
    pub(crate) async fn copy(
        &self,
        (path, to): (&str, &Env),
        earlier: Option<&Env>,
        pieces: &dyn Pieces,
        (shown, show): (PStateId, &mut Show<'_>),
    ) -> Result<(), CopyError> {
        let earlier = match earlier {
            Some(env) => Earlier::open(env, path, self.root.partition).await,
            None => None,
        };
        let opened = to.disk().open(path, Open::New).await;
        let target = opened.map_err(TargetError::of("create", path, 0))?;
        let bytes = self.extents as u64 * EXTENT_BYTES as u64;
        // Nothing below meets a full disk then.
        target.allocate(bytes).await.map_err(TargetError::of("allocate", path, bytes))?;
        let mut copy = Copy { held: self, earlier, target, pieces, pages: 0 };
        copy.all(shown, show).await?;
        let at = SLOT_AT[self.slot];
        let slot = u32::try_from(self.slot).expect("two slots");
        copy.write(at, Buf::copy_of(&self.root.encode(slot))).await?;
        let target = copy.target;
        target.sync().await.map_err(TargetError::of("sync", path, 0))?;
        Ok(())
    }

    fn is_released(&self) -> bool {
        !self.store.inner.state.borrow().holds.contains_key(&self.number)
    }

    /// What is wrong with a page: damage, unless it was given to somebody else meanwhile.
    fn corrupt(&self, byte: u64, what: &'static str) -> CopyError {
        let file = self.file.path().to_owned();
        if self.is_released() {
            CopyError::Released { file }
        } else {
            CopyError::Source(Error::corrupt(&file, byte, what))
        }
    }
}

/// The page file of an earlier copy.
struct Earlier {
    file: Rc<dyn File>,
    /// It has no page of a later fold.
    fold: u64,
}

impl Earlier {
    /// None if there is no such file, or none that can be of use.
    async fn open(env: &Env, path: &str, partition: PartitionId) -> Option<Self> {
        let file = env.disk().open(path, Open::Existing).await.ok()?;
        let mut newest = None;
        for (slot, at) in (0..).zip(SLOT_AT) {
            let (read, block) = read_full(&*file, at, Buf::zeroed(PAGE_BYTES)).await;
            if read.is_ok()
                && let Slot::Root(root) = Root::decode(&block, slot, Some(partition))
            {
                newest = newest.max(Some(root.fold));
            }
        }
        Some(Self { file, fold: newest? })
    }
}

/// One copying.
struct Copy<'c> {
    held: &'c Held,
    earlier: Option<Earlier>,
    target: Rc<dyn File>,
    pieces: &'c dyn Pieces,
    /// Pages copied so far.
    pages: u64,
}

/// What is wrong with pages as they were read, and at which byte of the file.
type IsSound<'f> = dyn Fn(&[u8]) -> Option<(u64, &'static str)> + 'f;

/// Neighbouring pages, at most an extent.
struct Span {
    place: u32,
    pages: u32,
    /// All of them may be in the earlier copy.
    is_old: bool,
}

impl Copy<'_> {
    async fn all(&mut self, shown: PStateId, show: &mut Show<'_>) -> Result<(), CopyError> {
        let held = self.held;
        let mut bytes = Vec::with_capacity(held.root.table.bytes);
        for chunk in held.root.table.iter(TABLE) {
            self.chunk(&chunk, TABLE, Some(&mut bytes)).await?;
        }
        let table = Table::decode(&bytes);
        let at = held.root.table.chunks.first().map_or(0, PageRef::byte);
        let fits = table.is_some_and(|table| live_pages(&table.live) == held.root.live_pages);
        if !fits {
            return Err(held.corrupt(at, "the table of live pages does not fit the root"));
        }
        let mut trees = Vec::new();
        self.tree(
            CATALOGUE,
            held.root.catalogue,
            Some(&mut |key, value| {
                trees.push(catalogue::decode(key, value).map(|(pstate, root, _)| (pstate, root)));
            }),
        )
        .await?;
        for tree in trees {
            let at = held.root.catalogue.child.page.byte();
            let malformed = || held.corrupt(at, "a catalogue entry is malformed");
            let (pstate, root) = tree.ok_or_else(malformed)?;
            let show: Option<&mut Show<'_>> = if pstate == shown { Some(&mut *show) } else { None };
            self.tree(pstate, root, show).await?;
        }
        if self.pages != held.root.live_pages {
            return Err(held.corrupt(0, "the root counts other live pages than it reaches"));
        }
        Ok(())
    }

    /// Copies a tree, and shows its rows.
    async fn tree(
        &mut self,
        pstate: PStateId,
        root: TreeRoot,
        mut show: Option<&mut Show<'_>>,
    ) -> Result<(), CopyError> {
        if root.depth > catalogue::DEPTH_MAX {
            return Err(self.held.corrupt(root.child.page.byte(), "a tree is impossibly deep"));
        }
        // Siblings that are to be copied, with their level: depth first, so it stays small.
        let mut due: Vec<(u8, Vec<Child>)> = Vec::new();
        if root.depth > 0 {
            due.push((root.depth - 1, vec![root.child]));
        }
        while let Some((level, mut siblings)) = due.pop() {
            siblings.sort_unstable_by_key(|child| child.page.place);
            let mut rest = &siblings[..];
            while let Some(span) = self.span(rest) {
                let (now, later) = rest.split_at(span.pages as usize);
                rest = later;
                let is_sound = |bytes: &[u8]| {
                    now.iter().zip(bytes.chunks_exact(PAGE_BYTES)).find_map(|(child, page)| {
                        let checked = check_page(page, &child.page, pstate, level);
                        checked.err().map(|what| (child.page.byte(), what))
                    })
                };
                let bytes = self.pages(&span, &is_sound).await?;
                for (child, page) in now.iter().zip(bytes.chunks_exact(PAGE_BYTES)) {
                    let node = Node::new(page);
                    if level > 0 {
                        let below = (0..node.count()).map(|nth| node.child(nth)).collect();
                        due.push((level - 1, below));
                    } else if child.blobs || show.is_some() {
                        self.leaf(pstate, &child.page, &node, show.as_deref_mut()).await?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Copies what a leaf refers to, and shows its rows.
    async fn leaf(
        &mut self,
        pstate: PStateId,
        at: &PageRef,
        node: &Node<'_>,
        mut show: Option<&mut Show<'_>>,
    ) -> Result<(), CopyError> {
        for nth in 0..node.count() {
            let list = match node.value(nth) {
                Value::Inline(value) => {
                    if let Some(show) = show.as_deref_mut() {
                        show(&node.key(nth), value);
                    }
                    continue;
                }
                Value::Chunked(list) => list,
            };
            let key = node.key(nth);
            let owner = Owner { kind: KIND_VALUE, pstate, key: &key };
            let list = ChunkList::decode(list, owner);
            let malformed =
                || self.held.corrupt(at.byte(), "a value's list of chunks is malformed");
            let list = list.ok_or_else(malformed)?;
            let mut value = Vec::new();
            for chunk in list.iter(owner) {
                let wanted = show.is_some().then_some(&mut value);
                self.chunk(&chunk, owner, wanted).await?;
            }
            if let Some(show) = show.as_deref_mut() {
                show(&key, &value);
            }
        }
        Ok(())
    }

    /// Copies a chunk, and appends its data to `data`.
    async fn chunk(
        &mut self,
        chunk: &Chunk,
        owner: Owner<'_>,
        data: Option<&mut Vec<u8>>,
    ) -> Result<(), CopyError> {
        let Chunk { page, pages, .. } = chunk;
        if *pages > EXTENT_PAGES {
            return Err(self.held.corrupt(page.byte(), "a chunk is longer than an extent"));
        }
        let span = Span { place: page.place, pages: *pages, is_old: self.is_old(page) };
        let is_sound = |bytes: &[u8]| {
            let checked = check_chunk(bytes, page, owner, chunk.data.len());
            checked.err().map(|what| (page.byte(), what))
        };
        let bytes = self.pages(&span, &is_sound).await?;
        if let Some(data) = data {
            let checked = blob::check(&bytes, page, owner, chunk.data.len());
            data.extend_from_slice(checked.expect("it was checked a moment ago"));
        }
        Ok(())
    }

    fn is_old(&self, page: &PageRef) -> bool {
        self.earlier.as_ref().is_some_and(|earlier| page.fold <= earlier.fold)
    }

    /// The first of `siblings`, and those that lie directly behind it.
    fn span(&self, siblings: &[Child]) -> Option<Span> {
        let first = siblings.first()?.page;
        let is_old = self.is_old(&first);
        let behind = (0..EXTENT_PAGES).zip(siblings).take_while(|(nth, child)| {
            let place = first.place.checked_add(*nth);
            place == Some(child.page.place) && self.is_old(&child.page) == is_old
        });
        let pages = u32::try_from(behind.count()).expect("at most an extent");
        Some(Span { place: first.place, pages, is_old })
    }

    /// Reads pages, has them checked, and writes them to their place.
    async fn pages(&mut self, span: &Span, is_sound: &IsSound<'_>) -> Result<Buf, CopyError> {
        let held = self.held;
        let at = u64::from(span.place) * PAGE_BYTES as u64;
        let end = u64::from(span.place) + u64::from(span.pages);
        let inside =
            span.place >= EXTENT_PAGES && end <= held.extents as u64 * u64::from(EXTENT_PAGES);
        self.pages += u64::from(span.pages);
        if !inside || self.pages > held.root.live_pages {
            return Err(held.corrupt(at, "a reference leads out of what the root says is live"));
        }
        let buf = || Buf::zeroed(span.pages as usize * PAGE_BYTES);
        let mut found = None;
        if let Some(earlier) = self.earlier.as_ref().filter(|_| span.is_old) {
            let (read, bytes) = read_full(&*earlier.file, at, buf()).await;
            // Anything else than these pages is of no interest: the store has them.
            found = (read.is_ok() && is_sound(&bytes).is_none()).then_some(bytes);
        }
        let taken_over = found.is_some();
        let bytes = match found {
            Some(bytes) => bytes,
            None => self.read(at, buf(), is_sound).await?,
        };
        let bytes = self.write(at, bytes).await?;
        if !self.pieces.done(bytes.len() as u64, taken_over) {
            return Err(CopyError::Stopped);
        }
        let env = &held.store.inner.env;
        if env.should_yield() {
            env.yield_now().await;
        }
        Ok(bytes)
    }

    /// Reads pages of the store, and has them checked.
    async fn read(&self, at: u64, buf: Buf, is_sound: &IsSound<'_>) -> Result<Buf, CopyError> {
        let held = self.held;
        let (read, bytes) = read_full(&*held.file, at, buf).await;
        match read {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                return Err(held.corrupt(at, "the file is cut short"));
            }
            Err(error) => {
                return Err(CopyError::Source(Error::io("read", held.file.path(), at, error)));
            }
        }
        match is_sound(&bytes) {
            Some((byte, what)) => Err(held.corrupt(byte, what)),
            None => Ok(bytes),
        }
    }

    async fn write(&self, at: u64, bytes: Buf) -> Result<Buf, CopyError> {
        let (written, bytes) = write_full(&*self.target, at, bytes, Sync::No).await;
        written.map_err(TargetError::of("write", self.target.path(), at))?;
        Ok(bytes)
    }
}

fn check_page(
    bytes: &[u8],
    page: &PageRef,
    pstate: PStateId,
    level: u8,
) -> Result<(), &'static str> {
    if crc32fast::hash(bytes) != page.crc {
        return Err("a page's checksum does not match its reference");
    }
    Node::check(bytes, page, pstate, level).map(|_| ())
}

fn check_chunk(
    bytes: &[u8],
    page: &PageRef,
    owner: Owner<'_>,
    data_bytes: usize,
) -> Result<(), &'static str> {
    if crc32fast::hash(bytes) != page.crc {
        return Err("a chunk's checksum does not match its reference");
    }
    blob::check(bytes, page, owner, data_bytes).map(|_| ())
}
