//! The page cache of one shard: checked pages by where they lie, evicted by CLOCK.
//!
//! A frame is found by file and place and used only if it is exactly the page that was asked for
//! (place, fold, checksum and kind), so frames of freed pages do no harm. Reads of one page that
//! overlap in time share one I/O, which runs as a task of its own: dropping a reader leaves it to the
//! others. A page that somebody holds is never evicted.
//!
//! A read for a client or for background work may be made to wait by the environment. If somebody joins it
//! who must not, the page is read a second time, and whichever read ends first serves all.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::io;
use std::rc::Rc;

use futures_channel::oneshot;

use super::node::Node;
use super::{EXTENT_PAGES, Error, PAGE_BYTES, PageRef};
use crate::env::{Buf, Class, Env, File, read_full};
use crate::types::PStateId;

/// Pages in memory, shared by all partitions of a shard. Cheap to clone.
#[derive(Clone)]
pub struct Cache {
    inner: Rc<RefCell<Inner>>,
}

/// What a cache holds and did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CacheCounts {
    /// Lookups that found their page.
    pub hits: u64,
    /// Pages that had to be read.
    pub misses: u64,
    /// Pages dropped to make room.
    pub evictions: u64,
    /// Bytes held now.
    pub bytes: u64,
}

/// A file's number in the cache; never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct FileId(u32);

/// What a reader takes a page for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Expected {
    /// A leaf (level 0) or branch.
    Node { pstate: PStateId, level: u8 },
    /// A chunk of a blob of so many pages; its user checks the rest against the owner.
    Chunk { pages: u32 },
}

/// A page or chunk in memory, checked.
#[derive(Debug)]
pub(crate) struct Page {
    at: PageRef,
    expected: Expected,
    buf: Buf,
}

impl Page {
    /// Takes what was just written or checked.
    pub(crate) fn new(at: PageRef, expected: Expected, buf: Buf) -> Self {
        Self { at, expected, buf }
    }

    pub(crate) fn at(&self) -> PageRef {
        self.at
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.buf
    }

    pub(crate) fn node(&self) -> Node<'_> {
        debug_assert!(matches!(self.expected, Expected::Node { .. }));
        Node::new(&self.buf)
    }

    fn cost(&self) -> u64 {
        self.buf.len() as u64 + FRAME_BYTES
    }
}

/// What a frame costs beside its page: its slot, its `Rc` and its share of the index.
const FRAME_BYTES: u64 = 96;

struct Inner {
    bytes_max: u64,
    /// So many of them are used for something else.
    lent: u64,
    bytes: u64,
    frames: Vec<Option<Frame>>,
    unused: Vec<u32>,
    index: Index,
    hand: usize,
    flights: BTreeMap<(FileId, PageRef), Flight>,
    file_last: u32,
    hits: Cell<u64>,
    misses: u64,
    evictions: u64,
}

type Loaded = Result<Rc<Page>, Error>;

/// A page that is being read.
struct Flight {
    /// The environment may let it wait.
    patient: bool,
    waiters: Vec<oneshot::Sender<Loaded>>,
}

struct Frame {
    file: FileId,
    page: Rc<Page>,
    used: Cell<bool>,
}

impl std::fmt::Debug for Cache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cache").field("counts", &self.counts()).finish_non_exhaustive()
    }
}

impl Cache {
    /// A cache of at most `bytes_max` bytes, exceeded only by pages that are in use right now.
    #[must_use]
    pub fn new(bytes_max: u64) -> Self {
        let inner = Inner {
            bytes_max,
            lent: 0,
            bytes: 0,
            frames: Vec::new(),
            unused: Vec::new(),
            index: Index::new(),
            hand: 0,
            flights: BTreeMap::new(),
            file_last: 0,
            hits: Cell::new(0),
            misses: 0,
            evictions: 0,
        };
        Self { inner: Rc::new(RefCell::new(inner)) }
    }

    /// What it holds and did.
    #[must_use]
    pub fn counts(&self) -> CacheCounts {
        let inner = self.inner.borrow();
        CacheCounts {
            hits: inner.hits.get(),
            misses: inner.misses,
            evictions: inner.evictions,
            bytes: inner.bytes,
        }
    }

    /// So many of its bytes, at most half, are used for something else from now on.
    pub(crate) fn lend(&self, bytes: u64) {
        let mut inner = self.inner.borrow_mut();
        let bytes = bytes.min(inner.bytes_max / 2);
        let before = std::mem::replace(&mut inner.lent, bytes);
        if before < inner.lent {
            inner.make_room(0);
        }
    }

    pub(crate) fn register(&self) -> FileId {
        let mut inner = self.inner.borrow_mut();
        inner.file_last = inner.file_last.checked_add(1).expect("2^32 openings are out of reach");
        FileId(inner.file_last)
    }

    /// Drops every page of a file.
    pub(crate) fn forget_file(&self, file: FileId) {
        let mut inner = self.inner.borrow_mut();
        for slot in 0..inner.frames.len() {
            if inner.frames[slot].as_ref().is_some_and(|frame| frame.file == file) {
                inner.remove(slot);
            }
        }
    }

    /// Drops a page that nothing refers to any more.
    pub(crate) fn forget(&self, file: FileId, place: u32) {
        let mut inner = self.inner.borrow_mut();
        if let Some(slot) = inner.index.find(key(file, place)) {
            inner.remove(slot as usize);
        }
    }

    /// The page, if it is in memory.
    pub(crate) fn lookup(
        &self,
        file: FileId,
        at: &PageRef,
        expected: Expected,
    ) -> Option<Rc<Page>> {
        let inner = self.inner.borrow();
        let slot = inner.index.find(key(file, at.place))?;
        let frame = inner.frames[slot as usize].as_ref()?;
        if frame.page.at != *at || frame.page.expected != expected {
            return None;
        }
        frame.used.set(true);
        inner.hits.set(inner.hits.get() + 1);
        Some(Rc::clone(&frame.page))
    }

    /// Takes a page that was just written.
    pub(crate) fn insert(&self, file: FileId, page: Rc<Page>) {
        self.inner.borrow_mut().insert(file, page);
    }

    /// The page, from memory or the file.
    ///
    /// # Errors
    /// [`Error::Corrupt`] if it is not what `at` and `expected` say, [`Error::Io`].
    pub(crate) async fn load(
        &self,
        env: &Env,
        (id, file): (FileId, &Rc<dyn File>),
        at: PageRef,
        expected: Expected,
    ) -> Result<Rc<Page>, Error> {
        if let Some(page) = self.lookup(id, &at, expected) {
            return Ok(page);
        }
        let loading = self.start(env, (id, file), at, expected);
        let ended =
            |_| Error::io("read", file.path(), at.byte(), io::ErrorKind::Interrupted.into());
        let page = loading.await.map_err(ended)??;
        if page.expected == expected {
            Ok(page)
        } else {
            // Two references to one page take it for two kinds; at most one of them can be right.
            Err(Error::corrupt(file.path(), at.byte(), "a page is referred to as two kinds"))
        }
    }

    /// Begins to read a page, or joins whoever already does.
    pub(crate) fn start(
        &self,
        env: &Env,
        (id, file): (FileId, &Rc<dyn File>),
        at: PageRef,
        expected: Expected,
    ) -> oneshot::Receiver<Loaded> {
        let (sender, receiver) = oneshot::channel();
        let class = env.class();
        let mut inner = self.inner.borrow_mut();
        if let Some(flight) = inner.flights.get_mut(&(id, at)) {
            flight.waiters.push(sender);
            if class.is_patient() || !std::mem::take(&mut flight.patient) {
                return receiver;
            }
        } else {
            let flight = Flight { patient: class.is_patient(), waiters: vec![sender] };
            inner.flights.insert((id, at), flight);
        }
        inner.misses += 1;
        drop(inner);
        let (cache, file) = (self.clone(), Rc::clone(file));
        let class = if class.is_patient() { class } else { Class::Core };
        env.spawn(class, "page read", async move {
            let loaded = read_page(&*file, at, expected).await.map(Rc::new);
            let mut inner = cache.inner.borrow_mut();
            // Nobody waits if another read of the page was faster.
            let Some(flight) = inner.flights.remove(&(id, at)) else { return };
            if let Ok(page) = &loaded {
                inner.insert(id, Rc::clone(page));
            }
            drop(inner);
            for waiter in flight.waiters {
                // A reader that was dropped no longer listens.
                drop(waiter.send(loaded.clone()));
            }
        });
        receiver
    }
}

/// Reads and checks a page or chunk.
async fn read_page(file: &dyn File, at: PageRef, expected: Expected) -> Result<Page, Error> {
    let pages = match expected {
        Expected::Node { .. } => 1,
        Expected::Chunk { pages } => pages,
    };
    let corrupt = |what| Error::corrupt(file.path(), at.byte(), what);
    if pages == 0 || pages > EXTENT_PAGES {
        return Err(corrupt("a chunk's length is impossible"));
    }
    let (result, buf) = read_full(file, at.byte(), Buf::zeroed(pages as usize * PAGE_BYTES)).await;
    result.map_err(|error| match error.kind() {
        io::ErrorKind::UnexpectedEof => corrupt("a page lies beyond the end of the file"),
        _ => Error::io("read", file.path(), at.byte(), error),
    })?;
    if crc32fast::hash(&buf) != at.crc {
        return Err(corrupt("a page's checksum does not match its reference"));
    }
    if let Expected::Node { pstate, level } = expected {
        Node::check(&buf, &at, pstate, level).map_err(corrupt)?;
    }
    Ok(Page::new(at, expected, buf))
}

impl Inner {
    fn insert(&mut self, file: FileId, page: Rc<Page>) {
        let key = key(file, page.at.place);
        if let Some(slot) = self.index.find(key) {
            self.remove(slot as usize);
        }
        let cost = page.cost();
        self.make_room(cost);
        self.bytes += cost;
        let frame = Frame { file, page, used: Cell::new(false) };
        let slot = self.unused.pop().unwrap_or_else(|| {
            self.frames.push(None);
            u32::try_from(self.frames.len() - 1).expect("2^32 frames are 16 TiB")
        });
        self.frames[slot as usize] = Some(frame);
        self.index.insert(key, slot);
    }

    fn remove(&mut self, slot: usize) {
        let frame = self.frames[slot].take().expect("the slot was found by its key");
        self.bytes -= frame.page.cost();
        self.index.remove(key(frame.file, frame.page.at.place));
        self.unused.push(u32::try_from(slot).expect("slots are numbered in 32 bits"));
    }

    /// CLOCK: two rounds at most, since the first takes every mark away. Held pages stay, even if the
    /// cache then is above its limit for a while.
    fn make_room(&mut self, cost: u64) {
        for _ in 0..2 * self.frames.len() {
            if self.bytes + cost <= self.bytes_max - self.lent {
                return;
            }
            self.hand = (self.hand + 1) % self.frames.len();
            let Some(frame) = &self.frames[self.hand] else { continue };
            if Rc::strong_count(&frame.page) > 1 || frame.used.replace(false) {
                continue;
            }
            self.remove(self.hand);
            self.evictions += 1;
        }
    }
}

fn key(file: FileId, place: u32) -> u64 {
    u64::from(file.0) << 32 | u64::from(place)
}

/// A hash table from key to slot: open addressing with linear probing. Nobody iterates over it.
struct Index {
    /// Key and slot; slot [`Index::EMPTY`] marks a free cell. A power of two long.
    cells: Vec<(u64, u32)>,
    count: usize,
}

impl Index {
    const EMPTY: u32 = u32::MAX;

    fn new() -> Self {
        Self { cells: vec![(0, Self::EMPTY); 64], count: 0 }
    }

    /// Fibonacci hashing (Knuth, volume 3, 6.4): the high bits of the product are well mixed.
    fn home(&self, key: u64) -> usize {
        let mixed = key.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
        usize::try_from(mixed).expect("32 bits") & (self.cells.len() - 1)
    }

    fn position(&self, key: u64) -> Result<usize, usize> {
        let mut at = self.home(key);
        loop {
            match self.cells[at] {
                (_, Self::EMPTY) => return Err(at),
                (found, _) if found == key => return Ok(at),
                _ => at = (at + 1) & (self.cells.len() - 1),
            }
        }
    }

    fn find(&self, key: u64) -> Option<u32> {
        self.position(key).ok().map(|at| self.cells[at].1)
    }

    fn insert(&mut self, key: u64, slot: u32) {
        if (self.count + 1) * 4 > self.cells.len() * 3 {
            let bigger = vec![(0, Self::EMPTY); self.cells.len() * 2];
            for (key, slot) in std::mem::replace(&mut self.cells, bigger) {
                if slot != Self::EMPTY {
                    let at = self.position(key).expect_err("keys are there once");
                    self.cells[at] = (key, slot);
                }
            }
        }
        let at = self.position(key).expect_err("the old frame was removed first");
        self.cells[at] = (key, slot);
        self.count += 1;
    }

    /// Removes by moving later cells of the probe sequence back, so that no tombstones pile up.
    fn remove(&mut self, key: u64) {
        let mask = self.cells.len() - 1;
        let mut hole = self.position(key).expect("only what is there is removed");
        let mut at = hole;
        loop {
            at = (at + 1) & mask;
            let (moved, slot) = self.cells[at];
            if slot == Self::EMPTY {
                break;
            }
            // A cell may move back if its home does not lie behind the hole.
            if at.wrapping_sub(self.home(moved)) & mask >= at.wrapping_sub(hole) & mask {
                self.cells[hole] = (moved, slot);
                hole = at;
            }
        }
        self.cells[hole] = (0, Self::EMPTY);
        self.count -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn index_agrees_with_a_map_through_growth_and_removal() {
        let (mut index, mut model) = (Index::new(), BTreeMap::new());
        let mut state = 7_u64;
        for step in 0..20_000_u32 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let key = state >> 54;
            if model.remove(&key).is_some() {
                index.remove(key);
            } else {
                index.insert(key, step);
                model.insert(key, step);
            }
        }
        for key in 0..1024 {
            assert_eq!(index.find(key), model.get(&key).copied());
        }
    }

    #[test]
    fn stays_within_its_bytes_and_keeps_what_is_held() {
        let cache = Cache::new(10 * (4096 + FRAME_BYTES));
        let file = cache.register();
        let expected = Expected::Node { pstate: PStateId(1), level: 0 };
        let page = |place| {
            let at = PageRef { place, crc: 0, fold: 1 };
            Rc::new(Page::new(at, expected, Buf::zeroed(PAGE_BYTES)))
        };
        let held = page(1);
        cache.insert(file, Rc::clone(&held));
        for place in 2..100 {
            cache.insert(file, page(place));
        }
        assert!(cache.counts().bytes <= 10 * (4096 + FRAME_BYTES));
        // What is lent is given up, but never more than half.
        for (lent, left) in [(4096 + FRAME_BYTES, 9), (0, 9), (1 << 30, 5)] {
            cache.lend(lent);
            assert_eq!(cache.counts().bytes, left * (4096 + FRAME_BYTES));
        }
        assert!(cache.lookup(file, &held.at, expected).is_some());
        let other_fold = PageRef { fold: 2, ..held.at };
        assert!(cache.lookup(file, &other_fold, expected).is_none());
        cache.forget_file(file);
        assert_eq!(cache.counts().bytes, 0);
    }

    #[test]
    fn who_must_not_wait_reads_a_page_again_that_somebody_patient_reads() {
        use crate::env::memory::{MemoryDisk, run};
        use crate::env::{Open, Sync, write_full};

        let disk = MemoryDisk::new();
        let misses = run(&disk, |env| async move {
            let file = env.disk().open("a", Open::New).await.unwrap();
            let page = Buf::zeroed(PAGE_BYTES);
            let at = PageRef { place: 0, crc: crc32fast::hash(&page), fold: 1 };
            write_full(&*file, 0, page, Sync::No).await.0.unwrap();
            let cache = Cache::new(1 << 20);
            let id = cache.register();
            let mut loading = Vec::new();
            for class in [Class::Client, Class::Background, Class::Topology, Class::Topology] {
                let (done, loaded) = oneshot::channel();
                let (cache, file, reader) = (cache.clone(), Rc::clone(&file), env.clone());
                env.spawn(class, "reader", async move {
                    let expected = Expected::Chunk { pages: 1 };
                    let page = cache.load(&reader, (id, &file), at, expected).await;
                    assert!(done.send(page.is_ok()).is_ok());
                });
                loading.push(loaded);
            }
            for loaded in loading {
                assert!(loaded.await.unwrap());
            }
            assert!(cache.inner.borrow().flights.is_empty());
            cache.counts().misses
        });
        assert_eq!(misses, 2, "one patient read, and one that was not");
    }
}
