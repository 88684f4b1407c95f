//! The ordered map of one `PState`'s written keys, made for small keys and for merges in key order.
//!
//! ```text
//!   firsts   [u64; leaves]     head of each leaf's first key
//!   leaf     heads  [u64]      ascending
//!            order  [u8]       slot of the nth key
//!            slots  [entry]    key and value, in order of arrival
//! ```
//!
//! A key's *head* is its first eight bytes, big-endian, short keys padded with zeros. Heads order as
//! their keys do, except that different keys may share one; only then are keys compared. So a search
//! reads two short arrays of integers and one entry, where a tree of keys reads a node a level. An
//! insert moves heads and slot numbers, not entries. The directory is one array: a split moves 16 bytes
//! for every leaf behind it, which for a million keys is some microseconds every [`SPLIT`] inserts.

use std::cmp::Ordering;
use std::ops::{Bound, Range};

use super::ahead::fetch;
use super::layer::Known;
use super::small::Small;

/// A sorted map from keys to values or deletions.
#[derive(Debug, Default)]
pub(super) struct PointMap {
    /// `firsts[i] == leaves[i].heads[0]`.
    firsts: Vec<u64>,
    /// None is empty.
    #[expect(clippy::vec_box, reason = "a split moves what lies behind: pointers, not leaves")]
    leaves: Vec<Box<Leaf>>,
    len: usize,
    /// Where the last insert went. A hint: the next key often belongs there too.
    last: usize,
}

/// An entry's value; none is a deletion.
type Value = Option<Small>;

/// The most keys in a leaf. Larger leaves make a smaller directory and dearer inserts and splits.
const LEAF_MAX: usize = 64;

/// What stays in a leaf that is split.
const SPLIT: usize = LEAF_MAX / 2;

/// So many leaves are fetched at the same time. More would push each other out of the cache.
pub(super) const TOGETHER: usize = 32;

/// Of more keys than this, the first would be gone before they are looked up.
const EXPECTED_MAX: usize = 256;

/// Of keys with the same head, so many are fetched ahead.
const TIED_MAX: usize = 8;

const _: () = assert!(LEAF_MAX <= 256, "slot numbers are bytes");

impl PointMap {
    /// Sets a key's value; what it was before, if the key was there.
    pub(super) fn insert(&mut self, key: &[u8], value: Option<&[u8]>) -> Option<Value> {
        let value = value.map(Small::from);
        let head = head_of(key);
        let mut at =
            if self.certain(self.last, head) { self.last } else { self.leaf_of(head, key) };
        let mut nth = match self.leaves.get(at).map_or(Err(0), |leaf| leaf.search(head, key)) {
            Ok(nth) => {
                self.last = at;
                return Some(std::mem::replace(self.leaves[at].value_mut(nth), value));
            }
            Err(nth) => nth,
        };
        if at == self.leaves.len() || self.leaves[at].len() == LEAF_MAX {
            if nth == LEAF_MAX && at + 1 == self.leaves.len() {
                // Keys that ascend fill one leaf after the other, instead of leaving halves behind.
                (at, nth) = (at + 1, 0);
                self.add_leaf(at, Leaf::with_capacity(LEAF_MAX));
            } else if nth == 0 && at == self.leaves.len() {
                self.add_leaf(at, Leaf::with_capacity(4));
            } else {
                let upper = self.leaves[at].take(SPLIT..LEAF_MAX);
                self.add_leaf(at + 1, upper);
                if nth > SPLIT {
                    (at, nth) = (at + 1, nth - SPLIT);
                }
            }
        }
        self.leaves[at].insert(nth, head, Entry { key: Small::from(key), value });
        if nth == 0 {
            self.firsts[at] = head;
        }
        self.len += 1;
        self.last = at;
        None
    }

    /// Removes every key at or above `from` and below `to`, if there is an end; `dropped` sees each.
    pub(super) fn remove_range(
        &mut self,
        from: &[u8],
        to: Option<&[u8]>,
        mut dropped: impl FnMut(&Small, Option<&Small>),
    ) {
        let from = self.seek(Bound::Included(from));
        let to = to.map_or(self.end(), |to| self.seek(Bound::Included(to)));
        if from >= to {
            return;
        }
        let mut removed = 0;
        let mut see = |leaf: &Leaf| {
            removed += leaf.len();
            leaf.slots.iter().for_each(|entry| dropped(&entry.key, entry.value.as_ref()));
        };
        if from.leaf == to.leaf {
            see(&self.leaves[from.leaf].take(from.nth..to.nth));
        } else {
            if let Some(leaf) = self.leaves.get_mut(to.leaf) {
                see(&leaf.take(0..to.nth));
            }
            let first = &mut self.leaves[from.leaf];
            see(&first.take(from.nth..first.len()));
            self.leaves.drain(from.leaf + 1..to.leaf).for_each(|leaf| see(&leaf));
            self.firsts.drain(from.leaf + 1..to.leaf);
        }
        self.len -= removed;
        self.last = 0;
        // Only the leaves around the gap have shrunk; the one after it comes first, since a removal
        // moves what lies behind.
        self.tidy(from.leaf + 1);
        self.tidy(from.leaf);
        self.tidy(from.leaf.saturating_sub(1));
    }

    /// Drops the last leaves, about `count` keys; whether there may be more.
    pub(super) fn drop_some(&mut self, count: usize) -> bool {
        let mut left = count;
        while left > 0 {
            let Some(leaf) = self.leaves.pop() else { return false };
            self.firsts.pop();
            self.len -= leaf.len();
            left = left.saturating_sub(leaf.len());
        }
        self.last = 0;
        true
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// What is known of a key, if it is there.
    pub(super) fn get(&self, key: &[u8]) -> Option<Known<'_>> {
        if self.leaves.is_empty() {
            return None;
        }
        let head = head_of(key);
        let leaf = &self.leaves[self.leaf_of(head, key)];
        let nth = leaf.search(head, key).ok()?;
        Some(leaf.entry(nth).value.as_deref().into())
    }

    /// Fetches what looking these keys up will read: first all their leaves, then in each the entries.
    pub(super) fn expect(&self, keys: &[&[u8]]) {
        for keys in keys[..keys.len().min(EXPECTED_MAX)].chunks(TOGETHER) {
            let mut leaves = [None; TOGETHER];
            for (key, leaf) in keys.iter().zip(&mut leaves) {
                *leaf = self.leaves.get(self.leaf_of(head_of(key), key));
                if let Some(leaf) = *leaf {
                    fetch(std::slice::from_ref(&**leaf));
                }
            }
            for (key, leaf) in keys.iter().zip(leaves) {
                if let Some(leaf) = leaf {
                    leaf.expect(head_of(key));
                }
            }
        }
    }

    pub(super) fn iter(&self) -> Iter<'_> {
        Iter { map: self, from: Place::default(), to: self.end() }
    }

    /// The entries in a range; none if it is inverted.
    pub(super) fn range(&self, (from, to): (Bound<&[u8]>, Bound<&[u8]>)) -> Iter<'_> {
        let from = match from {
            Bound::Unbounded => Place::default(),
            from => self.seek(from),
        };
        let to = match to {
            Bound::Unbounded => self.end(),
            Bound::Included(to) => self.seek(Bound::Excluded(to)),
            Bound::Excluded(to) => self.seek(Bound::Included(to)),
        };
        Iter { map: self, from, to: to.max(from) }
    }

    /// Whether a key with `head` can only be in this leaf, as far as heads tell.
    fn certain(&self, leaf: usize, head: u64) -> bool {
        self.firsts.get(leaf).is_some_and(|&first| first < head)
            && self.firsts.get(leaf + 1).is_none_or(|&next| head < next)
    }

    /// The leaf a key is in, or belongs in: the last one that does not start above it, or the first.
    fn leaf_of(&self, head: u64, key: &[u8]) -> usize {
        let mut after = self.firsts.partition_point(|&first| first < head);
        if self.firsts.get(after) == Some(&head) {
            let tied = self.firsts[after..].partition_point(|&first| first == head);
            let tied = &self.leaves[after..after + tied];
            after += tied.partition_point(|leaf| order(&leaf.entry(0).key, key).is_le());
        }
        after.saturating_sub(1)
    }

    /// The first place at or above (included), or above (excluded), a key.
    fn seek(&self, bound: Bound<&[u8]>) -> Place {
        let (key, above) = match bound {
            Bound::Unbounded => return Place::default(),
            Bound::Included(key) => (key, false),
            Bound::Excluded(key) => (key, true),
        };
        if self.leaves.is_empty() {
            return self.end();
        }
        let head = head_of(key);
        let leaf = self.leaf_of(head, key);
        let nth = match self.leaves[leaf].search(head, key) {
            Ok(nth) => nth + usize::from(above),
            Err(nth) => nth,
        };
        if nth < self.leaves[leaf].len() {
            Place { leaf, nth }
        } else {
            Place { leaf: leaf + 1, nth: 0 }
        }
    }

    fn end(&self) -> Place {
        Place { leaf: self.leaves.len(), nth: 0 }
    }

    fn add_leaf(&mut self, at: usize, leaf: Leaf) {
        self.firsts.insert(at, leaf.heads[0]);
        self.leaves.insert(at, Box::new(leaf));
    }

    /// Restores what holds for a leaf, if there is one, after keys were taken out of it: it is not
    /// empty, it is in the directory, and it is not small beside another small one.
    fn tidy(&mut self, at: usize) {
        let Some(leaf) = self.leaves.get(at) else { return };
        let len = leaf.len();
        if len == 0 {
            self.leaves.remove(at);
            self.firsts.remove(at);
            return;
        }
        self.firsts[at] = leaf.heads[0];
        if self.leaves.get(at + 1).is_some_and(|next| len + next.len() <= SPLIT) {
            let next = self.leaves.remove(at + 1);
            self.firsts.remove(at + 1);
            self.leaves[at].append(*next);
        }
    }
}

/// Place of an entry, or the end of the map: the leaf after the last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    leaf: usize,
    nth: usize,
}

#[derive(Debug)]
struct Entry {
    key: Small,
    value: Value,
}

#[derive(Debug)]
struct Leaf {
    /// Up to the number of slots, ascending.
    heads: [u64; LEAF_MAX],
    /// The slot of the nth key.
    order: [u8; LEAF_MAX],
    slots: Vec<Entry>,
}

impl Leaf {
    fn with_capacity(count: usize) -> Self {
        let slots = Vec::with_capacity(count);
        Self { heads: [0; LEAF_MAX], order: [0; LEAF_MAX], slots }
    }

    fn insert(&mut self, nth: usize, head: u64, entry: Entry) {
        let len = self.len();
        self.heads.copy_within(nth..len, nth + 1);
        self.heads[nth] = head;
        self.order.copy_within(nth..len, nth + 1);
        self.order[nth] = u8::try_from(len).expect("a leaf is small");
        self.slots.push(entry);
    }

    /// Takes entries out, into a leaf of their own.
    fn take(&mut self, nths: Range<usize>) -> Self {
        let mut kept = Self::with_capacity(LEAF_MAX);
        let mut taken = Self::with_capacity(LEAF_MAX);
        let mut slots: Vec<Option<Entry>> = self.slots.drain(..).map(Some).collect();
        for (nth, (head, slot)) in self.heads.iter().zip(self.order).take(slots.len()).enumerate() {
            let entry = slots[usize::from(slot)].take().expect("each slot is in the order once");
            let to = if nths.contains(&nth) { &mut taken } else { &mut kept };
            to.insert(to.len(), *head, entry);
        }
        *self = kept;
        taken
    }

    /// Adds the entries of the leaf behind this one.
    fn append(&mut self, mut next: Self) {
        let (before, count) = (self.len(), next.len());
        self.heads[before..before + count].copy_from_slice(&next.heads[..count]);
        for (nth, slot) in next.order[..count].iter().enumerate() {
            self.order[before + nth] =
                u8::try_from(before + usize::from(*slot)).expect("a leaf is small");
        }
        self.slots.append(&mut next.slots);
    }

    fn value_mut(&mut self, nth: usize) -> &mut Value {
        &mut self.slots[usize::from(self.order[nth])].value
    }

    fn len(&self) -> usize {
        self.slots.len()
    }

    fn entry(&self, nth: usize) -> &Entry {
        &self.slots[usize::from(self.order[nth])]
    }

    /// Fetches the entries that a search for a key with this head looks at, and the place of a new one.
    fn expect(&self, head: u64) {
        let heads = &self.heads[..self.len()];
        let first = heads.partition_point(|&below| below < head);
        let tied = heads[first..].iter().take_while(|&&tied| tied == head).count();
        for &slot in &self.order[first..first + tied.min(TIED_MAX)] {
            fetch(std::slice::from_ref(&self.slots[usize::from(slot)]));
        }
        fetch(&self.slots[self.len().saturating_sub(1)..]);
    }

    /// Where a key is, or would be.
    fn search(&self, head: u64, key: &[u8]) -> Result<usize, usize> {
        search(&self.heads[..self.len()], head, key, |nth| &self.entry(nth).key)
    }
}

/// Iterates in both directions.
#[derive(Clone, Debug)]
pub(super) struct Iter<'a> {
    map: &'a PointMap,
    from: Place,
    to: Place,
}

impl<'a> Iter<'a> {
    fn at(&self, place: Place) -> (&'a [u8], Option<&'a [u8]>) {
        let map: &'a PointMap = self.map;
        let entry = map.leaves[place.leaf].entry(place.nth);
        (&entry.key, entry.value.as_deref())
    }
}

impl<'a> Iterator for Iter<'a> {
    type Item = (&'a [u8], Option<&'a [u8]>);

    fn next(&mut self) -> Option<Self::Item> {
        if self.from >= self.to {
            return None;
        }
        let here = self.at(self.from);
        self.from.nth += 1;
        if self.from.nth == self.map.leaves[self.from.leaf].len() {
            self.from = Place { leaf: self.from.leaf + 1, nth: 0 };
        }
        Some(here)
    }
}

impl DoubleEndedIterator for Iter<'_> {
    fn next_back(&mut self) -> Option<Self::Item> {
        if self.from >= self.to {
            return None;
        }
        if self.to.nth == 0 {
            let leaf = self.to.leaf - 1;
            self.to = Place { leaf, nth: self.map.leaves[leaf].len() };
        }
        self.to.nth -= 1;
        Some(self.at(self.to))
    }
}

/// The first eight bytes of a key, as an integer that orders as they do.
pub(super) fn head_of(key: &[u8]) -> u64 {
    if let Some(head) = key.first_chunk() {
        return u64::from_be_bytes(*head);
    }
    let mut head = [0; 8];
    head[..key.len()].copy_from_slice(key);
    u64::from_be_bytes(head)
}

/// Where a key is, or would be, among sorted keys with these heads.
pub(super) fn search<'k>(
    heads: &[u64],
    head: u64,
    key: &[u8],
    key_at: impl Fn(usize) -> &'k [u8],
) -> Result<usize, usize> {
    let first = heads.partition_point(|&below| below < head);
    if heads.get(first) != Some(&head) {
        return Err(first);
    }
    // Mostly one key has the head, and mostly it is this one.
    match order(key_at(first), key) {
        Ordering::Equal => return Ok(first),
        Ordering::Greater => return Err(first),
        Ordering::Less => {}
    }
    let (mut low, mut high) =
        (first + 1, first + heads[first..].partition_point(|&tied| tied == head));
    // New keys often come behind all others, as in a history.
    if low < high && order(key_at(high - 1), key) == Ordering::Less {
        return Err(high);
    }
    while low < high {
        let mid = usize::midpoint(low, high);
        match order(key_at(mid), key) {
            Ordering::Equal => return Ok(mid),
            Ordering::Less => low = mid + 1,
            Ordering::Greater => high = mid,
        }
    }
    Err(low)
}

/// Compares keys that have the same head.
fn order(a: &[u8], b: &[u8]) -> Ordering {
    if a.len() == 8 && b.len() == 8 { Ordering::Equal } else { a.cmp(b) }
}

#[cfg(test)]
mod tests;
