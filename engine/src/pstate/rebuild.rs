//! Bringing changes into a tree: a copy of what changes, in key order, each leaf touched once.
//!
//! The old tree is walked from left to right. A subtree that nothing changes is passed on as it is; the
//! others are taken apart, and their entries flow, merged with the changes, through one [`Level`] per
//! level of the new tree, which cuts them into pages. A level holds up to two pages back, so that it
//! can even out their sizes when the stream is interrupted by a subtree that is passed on; if what it
//! holds is too little for a page, that subtree is taken apart too. So underfull neighbours merge, and
//! a chain of such merges ends at once, because two uneven pages are evened out.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::rc::Rc;

use futures_util::stream::{FuturesUnordered, StreamExt};

use super::catalogue::DEPTH_MAX;
use super::changes::Changes;
use super::small::Small;
use crate::env::{Buf, LocalFuture};
use crate::page::blob::{self, Chunk, ChunkList, KIND_VALUE, Owner};
use crate::page::node::{Entries, Node, Value, separator};
use crate::page::root::TreeRoot;
use crate::page::writer::Writer;
use crate::page::{Cache, Child, EXTENT_PAGES, Error, Expected, PAGE_BYTES, Page};
use crate::probe::{self, Plant};
use crate::types::PStateId;

/// Values up to here lie in the leaf.
pub(super) const INLINE_BYTES_MAX: usize = 1024;

/// A page with less is merged with its right neighbour.
const FILL_BYTES_MIN: usize = PAGE_BYTES / 3;

/// Children read at once ahead of the walk.
const READ_DEPTH: usize = 16;

/// What is moved out of extents that a fold empties.
#[derive(Debug, Default)]
pub(super) struct Evacuation {
    /// The extents, ascending.
    pub(super) extents: Vec<u32>,
    /// Keys whose leaves, or branches above, lie there or refer to blobs there.
    pub(super) keys: BTreeMap<PStateId, BTreeSet<Small>>,
}

impl Evacuation {
    fn moves(&self, place: u32) -> bool {
        self.extents.binary_search(&(place / EXTENT_PAGES)).is_ok()
    }
}

/// One tree being rebuilt.
pub(super) struct Rebuild<'a> {
    pub(super) writer: &'a mut Writer,
    pub(super) cache: &'a Cache,
    pub(super) pstate: PStateId,
    pub(super) changes: &'a Changes<'a>,
    pub(super) evacuation: &'a Evacuation,
    levels: Vec<Level>,
    /// Where the next leaf's keys begin at the latest; none while it starts in mid-stream.
    low: Option<Vec<u8>>,
    /// The last key of the leaf written last.
    leaf_last: Vec<u8>,
}

/// The stream of entries of one level, on its way into pages.
#[derive(Default)]
struct Level {
    entries: Entries,
    /// How many entries fill the first page, once it is known.
    full: Option<usize>,
    pages_written: u64,
}

/// A subtree of the old tree and the keys that belong there: at or above `low`, below `high`.
struct Old {
    child: Child,
    level: u8,
    /// Its key in the branch above; for the leftmost one every smaller key belongs there, too.
    key: Vec<u8>,
    leftmost: bool,
    high: Option<Vec<u8>>,
}

impl Old {
    fn low(&self) -> &[u8] {
        if self.leftmost { &[] } else { &self.key }
    }
}

impl<'a> Rebuild<'a> {
    pub(super) fn new(
        writer: &'a mut Writer,
        cache: &'a Cache,
        pstate: PStateId,
        changes: &'a Changes<'a>,
        evacuation: &'a Evacuation,
    ) -> Self {
        Self {
            writer,
            cache,
            pstate,
            changes,
            evacuation,
            levels: Vec::new(),
            low: None,
            leaf_last: Vec::new(),
        }
    }

    /// The new tree. Old pages that it no longer needs are freed in the writer's draft.
    pub(super) async fn run(mut self, root: TreeRoot) -> Result<TreeRoot, Error> {
        if root.depth == 0 {
            self.add_points(&[], None).await?;
        } else {
            let old = Old {
                child: root.child,
                level: root.depth - 1,
                key: Vec::new(),
                leftmost: true,
                high: None,
            };
            if !self.must_open(&old) {
                return Ok(root);
            }
            self.open(old).await?;
        }
        self.finish().await
    }

    /// Whether something in the subtree changes or moves.
    fn must_open(&self, old: &Old) -> bool {
        let moved = self.evacuation.keys.get(&self.pstate).is_some_and(|keys| {
            let upper = old.high.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
            let inside = old.high.as_deref().is_none_or(|high| old.low() < high);
            inside && keys.range::<[u8], _>((Bound::Included(old.low()), upper)).next().is_some()
        });
        moved
            || self.evacuation.moves(old.child.page.place)
            || self.changes.touch(old.low(), old.high.as_deref())
    }

    async fn visit(&mut self, old: Old) -> Result<(), Error> {
        if !self.must_open(&old) && self.can_pass(old.level) {
            return self.pass(&old).await;
        }
        if self.changes.delete_all(old.low(), old.high.as_deref())
            && !probe::planted(Plant::DeadRowLost)
        {
            self.free_subtree(old.child, old.level).await?;
            self.begin(&old);
            return self.add_points(old.low(), old.high.as_deref()).await;
        }
        self.open(old).await
    }

    /// Takes a subtree apart.
    fn open(&mut self, old: Old) -> LocalFuture<'_, Result<(), Error>> {
        Box::pin(async move {
            let page = self.read(old.child, old.level).await?;
            self.writer.free(old.child.page.place, 1)?;
            self.begin(&old);
            let node = page.node();
            if old.level == 0 {
                return self.merge_leaf(&node, &old).await;
            }
            for nth in 0..node.count() {
                if nth % READ_DEPTH == 0 {
                    self.read_ahead(&node, nth, &old).await?;
                }
                let child = Self::nth_child(&node, nth, &old);
                self.visit(child).await?;
            }
            Ok(())
        })
    }

    fn nth_child(node: &Node<'_>, nth: usize, old: &Old) -> Old {
        let last = nth + 1 == node.count();
        Old {
            child: node.child(nth),
            level: old.level - 1,
            key: node.key(nth),
            leftmost: old.leftmost && nth == 0,
            high: if last { old.high.clone() } else { Some(node.key(nth + 1)) },
        }
    }

    /// Reads the next children that will be opened, at the same time.
    async fn read_ahead(&self, node: &Node<'_>, from: usize, old: &Old) -> Result<(), Error> {
        let mut reads = FuturesUnordered::new();
        for nth in from..node.count().min(from + READ_DEPTH) {
            let child = Self::nth_child(node, nth, old);
            let deleted = self.changes.delete_all(child.low(), child.high.as_deref());
            if self.must_open(&child) && !deleted {
                reads.push(self.read(child.child, child.level));
            }
        }
        while let Some(read) = reads.next().await {
            drop(read?);
        }
        Ok(())
    }

    async fn read(&self, child: Child, level: u8) -> Result<Rc<Page>, Error> {
        let expected = Expected::Node { pstate: self.pstate, level };
        let files = (self.writer.file_id, &self.writer.file);
        self.cache.load(&self.writer.env, files, child.page, expected).await
    }

    /// Notes where a leaf begins if this is where its first entry comes from.
    fn begin(&mut self, old: &Old) {
        if self.levels.first().is_none_or(|leaves| leaves.entries.is_empty()) {
            self.low = Some(old.key.clone());
        }
    }

    async fn merge_leaf(&mut self, node: &Node<'_>, old: &Old) -> Result<(), Error> {
        let mut points = self.changes.points(old.low(), old.high.as_deref());
        let mut key = Vec::new();
        let mut spared = false;
        for nth in 0..node.count() {
            node.key_into(nth, &mut key);
            while points.peek_key().is_some_and(|point| point < &*key) {
                if let Some((point, Some(value))) = points.next() {
                    self.add(point, value).await?;
                }
            }
            let replaced = points.peek_key().is_some_and(|point| point == &*key);
            let mut gone = replaced || self.changes.cover(&key);
            if gone && !replaced && !spared && probe::planted(Plant::DeadRowLost) {
                (gone, spared) = (false, true);
            }
            match (gone, node.value(nth)) {
                (false, Value::Inline(value)) => {
                    self.push(0, &key, Value::Inline(value)).await?;
                }
                (false, Value::Chunked(list)) => self.keep_blob(&key, list, old).await?,
                (true, Value::Chunked(list)) => self.free_blob(&key, list, old.child)?,
                (true, Value::Inline(_)) => {}
            }
            if replaced && let Some((point, Some(value))) = points.next() {
                self.add(point, value).await?;
            }
        }
        for (point, value) in points {
            if let Some(value) = value {
                self.add(point, value).await?;
            }
        }
        self.writer.pause().await;
        Ok(())
    }

    /// New keys where no old leaf is left.
    async fn add_points(&mut self, from: &[u8], to: Option<&[u8]>) -> Result<(), Error> {
        for (key, value) in self.changes.points(from, to) {
            if let Some(value) = value {
                self.add(key, value).await?;
            }
        }
        Ok(())
    }

    async fn add(&mut self, key: &[u8], value: &[u8]) -> Result<(), Error> {
        if value.len() <= INLINE_BYTES_MAX {
            return self.push(0, key, Value::Inline(value)).await;
        }
        let owner = Owner { kind: KIND_VALUE, pstate: self.pstate, key };
        let list = write_blob(self.writer, owner, value).await?;
        let mut encoded = Vec::new();
        list.encode(&mut encoded);
        self.push(0, key, Value::Chunked(&encoded)).await
    }

    /// Keeps a blob that stays, and moves its chunks out of extents that are emptied.
    async fn keep_blob(&mut self, key: &[u8], list: &[u8], old: &Old) -> Result<(), Error> {
        let owner = Owner { kind: KIND_VALUE, pstate: self.pstate, key };
        let mut list = self.chunk_list(owner, list, old.child)?;
        let chunks: Vec<Chunk> = list.iter(owner).collect();
        for (nth, chunk) in chunks.iter().enumerate() {
            if !self.evacuation.moves(chunk.page.place) {
                continue;
            }
            let expected = Expected::Chunk { pages: chunk.pages };
            let files = (self.writer.file_id, &self.writer.file);
            let page = self.cache.load(&self.writer.env, files, chunk.page, expected).await?;
            let data = blob::check(page.bytes(), &chunk.page, owner, chunk.data.len())
                .map_err(|what| self.writer.corrupt(chunk.page.place, what))?;
            self.writer.free(chunk.page.place, chunk.pages)?;
            let place = self.writer.claim(chunk.pages).await?;
            let mut buf = Buf::zeroed(chunk.pages as usize * PAGE_BYTES);
            list.chunks[nth] = blob::build(owner, data, &mut buf, place, self.writer.fold);
            self.writer.put(place, &buf).await?;
        }
        let mut encoded = Vec::new();
        list.encode(&mut encoded);
        self.push(0, key, Value::Chunked(&encoded)).await
    }

    fn free_blob(&mut self, key: &[u8], list: &[u8], leaf: Child) -> Result<(), Error> {
        let owner = Owner { kind: KIND_VALUE, pstate: self.pstate, key };
        let list = self.chunk_list(owner, list, leaf)?;
        list.iter(owner).try_for_each(|chunk| self.writer.free(chunk.page.place, chunk.pages))
    }

    fn chunk_list(&self, owner: Owner<'_>, list: &[u8], leaf: Child) -> Result<ChunkList, Error> {
        ChunkList::decode(list, owner).ok_or_else(|| {
            self.writer.corrupt(leaf.page.place, "a value's list of chunks is malformed")
        })
    }

    /// Frees everything below a child. Leaves are read only if they refer to blobs.
    fn free_subtree(&mut self, child: Child, level: u8) -> LocalFuture<'_, Result<(), Error>> {
        Box::pin(async move {
            if level > 0 || child.blobs {
                let page = self.read(child, level).await?;
                let node = page.node();
                for nth in 0..node.count() {
                    if level > 0 {
                        self.free_subtree(node.child(nth), level - 1).await?;
                    } else if let Value::Chunked(list) = node.value(nth) {
                        self.free_blob(&node.key(nth), list, child)?;
                    }
                }
                self.writer.pause().await;
            }
            self.writer.free(child.page.place, 1)
        })
    }

    /// Whether the stream can be interrupted below `level`'s parent without leaving a page too empty.
    fn can_pass(&self, level: u8) -> bool {
        let below = &self.levels[..self.levels.len().min(usize::from(level) + 1)];
        let mut from_below = false;
        below.iter().all(|level| {
            let held = level.entries.page_bytes(0..level.entries.len());
            if level.entries.is_empty() && !from_below {
                return true;
            }
            from_below = true;
            held >= FILL_BYTES_MIN
        })
    }

    /// Passes a subtree on as it is.
    async fn pass(&mut self, old: &Old) -> Result<(), Error> {
        for level in 0..=usize::from(old.level) {
            self.flush(level, true).await?;
        }
        let value = old.child.encode();
        self.push(usize::from(old.level) + 1, &old.key, Value::Inline(&value)).await
    }

    /// Adds an entry to a level, and writes a page when two are full.
    async fn push(&mut self, level: usize, key: &[u8], value: Value<'_>) -> Result<(), Error> {
        while self.levels.len() <= level {
            self.levels.push(Level::default());
        }
        let stream = &mut self.levels[level];
        stream.entries.push(key, value);
        let count = stream.entries.len();
        match stream.full {
            None if stream.entries.page_bytes(0..count) > PAGE_BYTES => {
                stream.full = Some(count - 1);
            }
            Some(full) if stream.entries.page_bytes(full..count) > PAGE_BYTES => {
                self.write_page(level, full).await?;
                self.levels[level].full = Some(count - 1 - full);
            }
            _ => {}
        }
        Ok(())
    }

    /// Writes what a level holds, in one page or two; evened out if the stream goes on elsewhere.
    async fn flush(&mut self, level: usize, even: bool) -> Result<(), Error> {
        let Some(stream) = self.levels.get_mut(level) else { return Ok(()) };
        if let Some(full) = stream.full.take() {
            let count = stream.entries.len();
            let rest = stream.entries.page_bytes(full..count);
            let cut =
                if even && rest < FILL_BYTES_MIN { halve(&stream.entries, full) } else { full };
            self.write_page(level, cut).await?;
        }
        let count = self.levels[level].entries.len();
        if count > 0 {
            self.write_page(level, count).await?;
        }
        Ok(())
    }

    /// Writes the first `count` entries of a level as a page, and adds it to the level above.
    fn write_page(&mut self, level: usize, count: usize) -> LocalFuture<'_, Result<(), Error>> {
        Box::pin(async move {
            let place = self.writer.claim(1).await?;
            let stream = &mut self.levels[level];
            let level_number = u8::try_from(level).ok().filter(|level| *level < DEPTH_MAX);
            let level_number = level_number.expect("2^32 pages make no deeper tree");
            let mut buf = Buf::zeroed(PAGE_BYTES);
            let at = stream.entries.build(
                0..count,
                &mut buf,
                place,
                self.writer.fold,
                self.pstate,
                level_number,
            );
            let first = stream.entries.key(0);
            let mut child = Child { page: at, entries: count as u64, blobs: false };
            let key = if level > 0 {
                let children = (0..count).map(|nth| stream.entries.child(nth));
                child.entries = children.clone().map(|child| child.entries).sum();
                child.blobs = children.clone().any(|child| child.blobs);
                first.to_vec()
            } else {
                child.blobs = stream.entries.any_chunked(0..count);
                // In mid-stream the shortest key between the two leaves; else where the old leaf
                // began, unless something smaller came in on the left edge.
                let key = match self.low.take() {
                    Some(low) if &*low <= first => low,
                    Some(_) => first.to_vec(),
                    None => separator(&self.leaf_last, first).to_vec(),
                };
                self.leaf_last = stream.entries.key(count - 1).to_vec();
                key
            };
            stream.entries.drain(count);
            stream.pages_written += 1;
            self.writer.put(place, &buf).await?;
            let expected = Expected::Node { pstate: self.pstate, level: level_number };
            self.cache.insert(self.writer.file_id, Rc::new(Page::new(at, expected, buf)));
            self.writer.pause().await;
            self.push(level + 1, &key, Value::Inline(&child.encode())).await
        })
    }

    /// Ends the stream and returns the root.
    async fn finish(mut self) -> Result<TreeRoot, Error> {
        let mut level = 0;
        loop {
            let above = self.levels.get(level + 1..).unwrap_or_default();
            let alone =
                above.iter().all(|above| above.entries.is_empty() && above.pages_written == 0);
            let Some(stream) = self.levels.get(level) else { return Ok(TreeRoot::default()) };
            if alone && stream.pages_written == 0 {
                if level > 0 && stream.entries.len() == 1 {
                    let depth = u8::try_from(level).expect("below the depth limit");
                    return Ok(TreeRoot { child: stream.entries.child(0), depth });
                }
                if stream.entries.is_empty() {
                    return Ok(TreeRoot::default());
                }
            }
            self.flush(level, false).await?;
            level += 1;
        }
    }
}

/// Where to cut entries that fill more than one page, so that both pages are about half full.
fn halve(entries: &Entries, full: usize) -> usize {
    let count = entries.len();
    let mut cut = full;
    while cut > 1 {
        let (left, right) = (entries.page_bytes(0..cut - 1), entries.page_bytes(cut - 1..count));
        if right > PAGE_BYTES || right > left {
            break;
        }
        cut -= 1;
    }
    cut
}

/// Writes a value as a blob.
pub(super) async fn write_blob(
    writer: &mut Writer,
    owner: Owner<'_>,
    value: &[u8],
) -> Result<ChunkList, Error> {
    let mut list = ChunkList { bytes: value.len(), chunks: Vec::new() };
    for data in value.chunks(owner.chunk_bytes()) {
        let pages = blob::chunk_pages(owner.key.len(), data.len());
        let place = writer.claim(pages).await?;
        let mut buf = Buf::zeroed(pages as usize * PAGE_BYTES);
        list.chunks.push(blob::build(owner, data, &mut buf, place, writer.fold));
        writer.put(place, &buf).await?;
        writer.pause().await;
    }
    Ok(list)
}
