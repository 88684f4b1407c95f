//! Offline verification of a page file, over its bytes.
//!
//! Walks everything that the newest root reaches and checks each checksum, each page's structure, the
//! order of keys across pages, the counts of entries, and that the table of live pages names exactly the
//! pages that were reached. What nothing reaches is not looked at, and reported as unused.

use std::collections::BTreeMap;
use std::ops::Range;

use super::{KEY_BYTES_MAX, TreeInfo, catalogue};
use crate::page::blob::{self, Chunk, ChunkList, KIND_VALUE, Owner};
use crate::page::node::{Node, Value};
use crate::page::root::{CATALOGUE, Root, SLOT_AT, Slot, TABLE, Table, TreeRoot};
use crate::page::space::{self, live_pages, used_extents};
use crate::page::{Child, EXTENT_PAGES, PAGE_BYTES, PageRef};
use crate::types::{Index, PStateId, PartitionId};

/// Something that does not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Where in the file the block, page or chunk starts.
    pub byte: u64,
    /// What does not hold.
    pub what: &'static str,
}

/// What a page file holds, and what is wrong with it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verified {
    /// The partition of the newest root; none without a root.
    pub partition: Option<PartitionId>,
    /// The fold of the newest root; 0 without a root.
    pub fold: u64,
    /// What it covers.
    pub covers: Index,
    /// Prepares it does not contain the outcome of.
    pub pending: Vec<Index>,
    /// The trees it reaches.
    pub trees: Vec<TreeInfo>,
    /// Pages of each tree, those of its long values included.
    pub pages: BTreeMap<PStateId, u64>,
    /// A root slot that cannot be read; among the findings, too. A crash while a root was written leaves
    /// one, and only the journal can tell whether anything is missing then.
    pub root_damaged: Option<Finding>,
    /// Pages it reaches.
    pub pages_live: u64,
    /// Bytes that nothing reaches, in runs: free pages, and what only the older root reaches.
    pub unused: Vec<Range<u64>>,
    /// What does not hold, in the order found; empty if the file is sound.
    pub findings: Vec<Finding>,
}

/// Checks a page file. `partition` is whose it should be, if that is known. An empty file is sound: its
/// first fold did not finish.
#[must_use]
pub fn verify(bytes: &[u8], partition: Option<PartitionId>) -> Verified {
    verify_rows(bytes, partition, &mut |_| {})
}

/// One row of a tree, met while verifying.
#[derive(Clone, Copy, Debug)]
pub struct Row<'a> {
    /// Whose.
    pub pstate: PStateId,
    /// Its key.
    pub key: &'a [u8],
    /// The pieces of its value, in order.
    pub value: &'a [&'a [u8]],
}

/// Like [`verify`], and shows every row that can be read, in order of their keys within each tree.
pub fn verify_rows(
    bytes: &[u8],
    partition: Option<PartitionId>,
    visit: &mut dyn FnMut(Row<'_>),
) -> Verified {
    let mut walk = Walk { bytes, reached: Vec::new(), met: 0, verified: Verified::default() };
    let mut roots = Vec::new();
    for (number, at) in (0..).zip(SLOT_AT) {
        let from = usize::try_from(at).map_or(bytes.len(), |at| at.min(bytes.len()));
        let block = &bytes[from..bytes.len().min(from + PAGE_BYTES)];
        match Root::decode(block, number, partition) {
            Slot::Blank => {}
            Slot::Damaged(what) => {
                walk.verified.root_damaged = Some(Finding { byte: at, what });
                walk.find(at, what);
            }
            Slot::Foreign => {
                walk.find(at, "the file is of a version that this program does not know");
            }
            Slot::Root(root) => roots.push(root),
        }
    }
    if let Some(newest) = roots.into_iter().max_by_key(|root| root.fold) {
        walk.root(&newest, visit);
    }
    walk.collect_unused();
    walk.verified
}

struct Walk<'a> {
    bytes: &'a [u8],
    /// Pages seen so far, a bit each, by extent.
    reached: Vec<u64>,
    /// How many.
    met: u64,
    verified: Verified,
}

/// What a subtree turned out to hold.
#[derive(Clone, Copy, Default)]
struct Held {
    entries: u64,
    blobs: bool,
}

/// Bounds of the keys of a subtree.
#[derive(Clone, Copy)]
struct Bounds<'k> {
    low: &'k [u8],
    high: Option<&'k [u8]>,
}

impl<'a> Walk<'a> {
    fn find(&mut self, byte: u64, what: &'static str) {
        self.verified.findings.push(Finding { byte, what });
    }

    fn root(&mut self, root: &Root, visit: &mut dyn FnMut(Row<'_>)) {
        self.verified.partition = Some(root.partition);
        self.verified.fold = root.fold;
        self.verified.covers = root.covers;
        let table = self.table(root);
        let mut entries = Vec::new();
        self.tree(CATALOGUE, root.catalogue, &mut |row| {
            entries.push((row.key.to_vec(), row.value.concat()));
        });
        for (key, value) in entries {
            let Some((pstate, tree, description)) = catalogue::decode(&key, &value) else {
                self.find(root.catalogue.child.page.byte(), "a catalogue entry is malformed");
                continue;
            };
            let before = self.met;
            self.tree(pstate, tree, visit);
            self.verified.pages.insert(pstate, self.met - before);
            self.verified.trees.push(TreeInfo {
                pstate,
                entries: tree.child.entries,
                depth: tree.depth,
                description,
            });
        }
        self.verified.pages_live = live_pages(&self.reached);
        if let Some(table) = table {
            self.compare_live(&table.live, root);
            self.verified.pending = table.pending;
        }
    }

    fn table(&mut self, root: &Root) -> Option<Table> {
        let mut bytes = Vec::new();
        let mut at = 0;
        for chunk in root.table.iter(TABLE) {
            at = chunk.page.byte();
            bytes.extend_from_slice(self.chunk(&chunk, TABLE)?);
        }
        let table = Table::decode(&bytes);
        match &table {
            None => self.find(at, "the table of live pages is malformed"),
            Some(table) => {
                if live_pages(&table.live) != root.live_pages {
                    self.find(at, "the number of live pages differs from the root's");
                }
                let used = used_extents(&table.live) as u64 * u64::from(EXTENT_PAGES);
                if (self.bytes.len() as u64) < used * PAGE_BYTES as u64 {
                    self.find(self.bytes.len() as u64, "the file is cut short");
                }
            }
        }
        table
    }

    fn compare_live(&mut self, live: &[u64], root: &Root) {
        // With damage above, what lies below was not reached, and that is no further finding.
        let sound = self.verified.findings.is_empty();
        let extents = live.len().max(self.reached.len());
        for extent in 0..extents {
            let live = live.get(extent).copied().unwrap_or(0);
            let reached = self.reached.get(extent).copied().unwrap_or(0);
            let first = extent as u64 * u64::from(EXTENT_PAGES);
            let byte = |bits: u64| (first + u64::from(bits.trailing_zeros())) * PAGE_BYTES as u64;
            if reached & !live != 0 {
                self.find(byte(reached & !live), "a page is reached but not marked live");
            }
            if sound && live & !reached != 0 {
                self.find(byte(live & !reached), "a page is marked live but nothing reaches it");
            }
        }
        if sound && root.live_pages != self.verified.pages_live {
            self.find(0, "the root counts other live pages than it reaches");
        }
    }

    fn tree(&mut self, pstate: PStateId, root: TreeRoot, visit: &mut dyn FnMut(Row<'_>)) {
        if root.depth > catalogue::DEPTH_MAX {
            return self.find(root.child.page.byte(), "a tree is impossibly deep");
        }
        if root.depth > 0 {
            let bounds = Bounds { low: &[], high: None };
            self.subtree(pstate, root.child, root.depth - 1, bounds, visit);
        }
    }

    /// Checks a subtree and returns what it holds, as far as it could be read.
    fn subtree(
        &mut self,
        pstate: PStateId,
        child: Child,
        level: u8,
        bounds: Bounds<'_>,
        visit: &mut dyn FnMut(Row<'_>),
    ) -> Option<Held> {
        let byte = child.page.byte();
        let bytes = self.pages(&child.page, 1)?;
        let node = match Node::check(bytes, &child.page, pstate, level) {
            Ok(node) => node,
            Err(what) => {
                self.find(byte, what);
                return None;
            }
        };
        let keys: Vec<Vec<u8>> = (0..node.count()).map(|nth| node.key(nth)).collect();
        // Keys ascend within the page, so the ends decide.
        let inside = keys.first().is_some_and(|key| &**key >= bounds.low)
            && keys.last().is_some_and(|key| bounds.high.is_none_or(|high| &**key < high));
        if !inside {
            self.find(byte, "a page's keys lie outside the bounds of the branch above");
        }
        let mut held = Some(Held::default());
        for (nth, key) in keys.iter().enumerate() {
            let found = if level > 0 {
                // The first child of the leftmost branch may begin below its own key.
                let low = if nth == 0 { bounds.low } else { key };
                let high = keys.get(nth + 1).map(|key| &**key).or(bounds.high);
                self.subtree(pstate, node.child(nth), level - 1, Bounds { low, high }, visit)
            } else {
                self.entry(pstate, key, node.value(nth), byte, visit)
            };
            held = held.zip(found).map(|(held, found)| Held {
                entries: held.entries + found.entries,
                blobs: held.blobs | found.blobs,
            });
        }
        if let Some(held) = held {
            if held.entries != child.entries {
                self.find(
                    byte,
                    "a subtree holds another number of keys than the branch above says",
                );
            }
            if held.blobs != child.blobs {
                self.find(byte, "a subtree's mark for blobs is wrong");
            }
        }
        held
    }

    fn entry(
        &mut self,
        pstate: PStateId,
        key: &[u8],
        value: Value<'_>,
        byte: u64,
        visit: &mut dyn FnMut(Row<'_>),
    ) -> Option<Held> {
        debug_assert!(key.len() <= KEY_BYTES_MAX);
        match value {
            Value::Inline(value) => {
                visit(Row { pstate, key, value: &[value] });
                Some(Held { entries: 1, blobs: false })
            }
            Value::Chunked(list) => {
                let owner = Owner { kind: KIND_VALUE, pstate, key };
                let Some(list) = ChunkList::decode(list, owner) else {
                    self.find(byte, "a value's list of chunks is malformed");
                    return None;
                };
                let mut value = Vec::with_capacity(list.chunks.len());
                for chunk in list.iter(owner) {
                    value.push(self.chunk(&chunk, owner)?);
                }
                visit(Row { pstate, key, value: &value });
                Some(Held { entries: 1, blobs: true })
            }
        }
    }

    fn chunk(&mut self, chunk: &Chunk, owner: Owner<'_>) -> Option<&'a [u8]> {
        let bytes = self.pages(&chunk.page, chunk.pages)?;
        match blob::check(bytes, &chunk.page, owner, chunk.data.len()) {
            Ok(data) => Some(data),
            Err(what) => {
                self.find(chunk.page.byte(), what);
                None
            }
        }
    }

    /// The bytes of a page or chunk with the right checksum, marked as reached.
    fn pages(&mut self, at: &PageRef, pages: u32) -> Option<&'a [u8]> {
        let byte = at.byte();
        let range = usize::try_from(byte).ok().and_then(|from| {
            let end = from.checked_add(pages as usize * PAGE_BYTES)?;
            self.bytes.get(from..end)
        });
        let crosses = at.place % EXTENT_PAGES + pages > EXTENT_PAGES;
        let Some(bytes) = range.filter(|_| !crosses && at.place >= EXTENT_PAGES) else {
            self.find(byte, "a reference leads out of the file");
            return None;
        };
        let (extent, bits) = space::bits(at.place, pages);
        if self.reached.len() <= extent {
            self.reached.resize(extent + 1, 0);
        }
        if self.reached[extent] & bits != 0 {
            self.find(byte, "a page is referred to twice");
            return None;
        }
        self.reached[extent] |= bits;
        self.met += u64::from(pages);
        if crc32fast::hash(bytes) != at.crc {
            self.find(byte, "a page's checksum does not match its reference");
            return None;
        }
        Some(bytes)
    }

    fn collect_unused(&mut self) {
        let len = self.bytes.len() as u64;
        let slots = SLOT_AT.map(|at| at / PAGE_BYTES as u64);
        for page in 0..len.div_ceil(PAGE_BYTES as u64) {
            let extent = usize::try_from(page / u64::from(EXTENT_PAGES)).unwrap_or(usize::MAX);
            let bits = self.reached.get(extent).copied().unwrap_or(0);
            if bits >> (page % u64::from(EXTENT_PAGES)) & 1 == 1 || slots.contains(&page) {
                continue;
            }
            let from = page * PAGE_BYTES as u64;
            let end = (from + PAGE_BYTES as u64).min(len);
            match self.verified.unused.last_mut() {
                Some(last) if last.end == from => last.end = end,
                _ => self.verified.unused.push(from..end),
            }
        }
    }
}
