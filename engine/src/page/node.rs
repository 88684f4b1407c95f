//! Leaves and branches: the pages of a tree.
//!
//! ```text
//! byte 0   u32 place · u8 kind (1 leaf, 2 branch) · u8 level (0 leaf) · u16 number of entries
//!      8   u64 fold
//!     16   u32 PState · u16 length of the common prefix · u16 end of the data
//!     24   u64 zero
//!     32   heads: [8 bytes; entries]: the first 8 key bytes behind the prefix, padded with zeros
//!          slots: [u16 data's place in the page, u16 length of the key behind the prefix; entries];
//!                 the length's top bit: the value is a list of blob chunks (see `blob`)
//!          prefix, then per entry: the key's bytes behind head and prefix, and its value
//!          zeros to the end
//! ```
//!
//! Heads are compared as big-endian numbers before anything else is looked at; key bytes are stored
//! once, in prefix, head or data. In a branch the value is a [`Child`], and its key is a lower bound of
//! the keys below the child; the first key of a branch below a branch equals its key in the parent.

use super::{Child, EXTENT_PAGES, PAGE_BYTES, PageRef, u16_at, u32_at, u64_at};
use crate::types::PStateId;

const HEADER_BYTES: usize = 32;
const HEAD_BYTES: usize = 8;
/// Head and slot.
const ENTRY_BYTES: usize = 12;
const CHUNKED: u16 = 0x8000;

pub(crate) const KIND_LEAF: u8 = 1;
pub(crate) const KIND_BRANCH: u8 = 2;

/// The longest key a page takes; two of them and their children fit a branch.
pub(crate) const KEY_BYTES_MAX: usize = 1024;

/// A checked page, to read.
#[derive(Clone, Copy)]
pub(crate) struct Node<'a> {
    bytes: &'a [u8],
    count: usize,
    prefix: &'a [u8],
}

/// The value of a leaf's entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Value<'a> {
    Inline(&'a [u8]),
    /// An encoded list of chunks, see [`super::blob::ChunkList`].
    Chunked(&'a [u8]),
}

impl<'a> Node<'a> {
    /// Takes a page that [`Node::check`] has accepted.
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        let count = usize::from(u16_at(bytes, 6));
        let prefix_at = HEADER_BYTES + count * ENTRY_BYTES;
        let prefix = &bytes[prefix_at..prefix_at + usize::from(u16_at(bytes, 20))];
        Self { bytes, count, prefix }
    }

    /// Checks everything that reading relies on: the identity, and that every entry lies inside the
    /// page, in order. The caller has compared the checksum.
    ///
    /// # Errors
    /// What does not hold.
    pub(crate) fn check(
        bytes: &'a [u8],
        page: &PageRef,
        pstate: PStateId,
        level: u8,
    ) -> Result<Self, &'static str> {
        if bytes.len() != PAGE_BYTES {
            return Err("a page is cut short");
        }
        if u32_at(bytes, 0) != page.place || u64_at(bytes, 8) != page.fold {
            return Err("a page names another place or fold");
        }
        let kind = if level == 0 { KIND_LEAF } else { KIND_BRANCH };
        if bytes[4] != kind || bytes[5] != level {
            return Err("a page is of another kind or level");
        }
        if u32_at(bytes, 16) != pstate.0 {
            return Err("a page belongs to another PState");
        }
        let count = usize::from(u16_at(bytes, 6));
        let prefix_bytes = usize::from(u16_at(bytes, 20));
        let data_end = usize::from(u16_at(bytes, 22));
        let data_at = HEADER_BYTES + count * ENTRY_BYTES + prefix_bytes;
        if count == 0 || data_at > data_end || data_end > PAGE_BYTES || prefix_bytes > KEY_BYTES_MAX
        {
            return Err("a page's header does not fit the page");
        }
        if u64_at(bytes, 24) != 0 || bytes[data_end..].iter().any(|&byte| byte != 0) {
            return Err("a page's unused bytes are not zero");
        }
        let node = Self::new(bytes);
        let mut at = data_at;
        for nth in 0..count {
            let (start, suffix_bytes, chunked) = node.slot(nth);
            let end = node.data_end(nth);
            let tail_bytes = suffix_bytes.saturating_sub(HEAD_BYTES);
            if start != at || end > data_end || start + tail_bytes > end {
                return Err("an entry lies outside its page");
            }
            if prefix_bytes + suffix_bytes > KEY_BYTES_MAX {
                return Err("a key is too long");
            }
            let head = node.head(nth);
            if suffix_bytes < HEAD_BYTES && head << (8 * suffix_bytes) != 0 {
                return Err("a head's padding is not zero");
            }
            if level > 0 && (chunked || Child::decode(node.raw_value(nth)).is_none()) {
                return Err("a branch entry is not a child");
            }
            if nth > 0 && node.compare_suffix(nth - 1, node.suffix(nth)).is_ge() {
                return Err("keys do not ascend");
            }
            at = end;
        }
        if at != data_end {
            return Err("a page's data has a hole");
        }
        Ok(node)
    }

    pub(crate) fn count(&self) -> usize {
        self.count
    }

    /// Where `key` is, or where it would be.
    pub(crate) fn search(&self, key: &[u8]) -> Result<usize, usize> {
        let shared = key.len().min(self.prefix.len());
        match key[..shared].cmp(&self.prefix[..shared]) {
            std::cmp::Ordering::Less => return Err(0),
            std::cmp::Ordering::Greater => return Err(self.count),
            std::cmp::Ordering::Equal if key.len() < self.prefix.len() => return Err(0),
            std::cmp::Ordering::Equal => {}
        }
        let suffix = Suffix::of(&key[self.prefix.len()..]);
        let (mut low, mut high) = (0, self.count);
        while low < high {
            let mid = usize::midpoint(low, high);
            match self.compare_suffix(mid, suffix) {
                std::cmp::Ordering::Less => low = mid + 1,
                std::cmp::Ordering::Equal => return Ok(mid),
                std::cmp::Ordering::Greater => high = mid,
            }
        }
        Err(low)
    }

    /// The child below which `key` would be; the first one also takes every smaller key.
    pub(crate) fn child_of(&self, key: &[u8]) -> usize {
        match self.search(key) {
            Ok(nth) => nth,
            Err(nth) => nth.saturating_sub(1),
        }
    }

    /// Replaces `out` by the `nth` key.
    pub(crate) fn key_into(&self, nth: usize, out: &mut Vec<u8>) {
        let suffix = self.suffix(nth);
        out.clear();
        out.extend_from_slice(self.prefix);
        let head = suffix.head.to_be_bytes();
        out.extend_from_slice(&head[..suffix.len.min(HEAD_BYTES)]);
        out.extend_from_slice(suffix.tail);
    }

    /// A copy of the `nth` key.
    pub(crate) fn key(&self, nth: usize) -> Vec<u8> {
        let mut key = Vec::new();
        self.key_into(nth, &mut key);
        key
    }

    /// The value of a leaf's `nth` entry.
    pub(crate) fn value(&self, nth: usize) -> Value<'a> {
        let value = self.raw_value(nth);
        if self.slot(nth).2 { Value::Chunked(value) } else { Value::Inline(value) }
    }

    /// A branch's `nth` child.
    pub(crate) fn child(&self, nth: usize) -> Child {
        Child::decode(self.raw_value(nth)).expect("checked when the page was read")
    }

    fn raw_value(&self, nth: usize) -> &'a [u8] {
        let (start, suffix_bytes, _) = self.slot(nth);
        &self.bytes[start + suffix_bytes.saturating_sub(HEAD_BYTES)..self.data_end(nth)]
    }

    fn head(&self, nth: usize) -> u64 {
        let at = HEADER_BYTES + nth * HEAD_BYTES;
        u64::from_be_bytes(self.bytes[at..at + HEAD_BYTES].try_into().expect("eight bytes"))
    }

    /// Start of the data, length of the key behind the prefix, whether the value is chunked.
    fn slot(&self, nth: usize) -> (usize, usize, bool) {
        let at = HEADER_BYTES + self.count * HEAD_BYTES + nth * 4;
        let len = u16_at(self.bytes, at + 2);
        (usize::from(u16_at(self.bytes, at)), usize::from(len & !CHUNKED), len & CHUNKED != 0)
    }

    fn data_end(&self, nth: usize) -> usize {
        if nth + 1 < self.count {
            self.slot(nth + 1).0
        } else {
            usize::from(u16_at(self.bytes, 22))
        }
    }

    fn suffix(&self, nth: usize) -> Suffix<'a> {
        let (start, len, _) = self.slot(nth);
        let tail = &self.bytes[start..start + len.saturating_sub(HEAD_BYTES)];
        Suffix { head: self.head(nth), len, tail }
    }

    fn compare_suffix(&self, nth: usize, other: Suffix<'_>) -> std::cmp::Ordering {
        // The head alone decides nearly always, and then nothing else of the entry is touched.
        self.head(nth).cmp(&other.head).then_with(|| {
            let own = self.suffix(nth);
            // Equal heads: where both keys go beyond them the tails decide; else the shorter key is a
            // prefix of the longer one, since the padding is zeros.
            own.len.min(HEAD_BYTES).cmp(&other.len.min(HEAD_BYTES)).then(own.tail.cmp(other.tail))
        })
    }
}

/// A key behind the common prefix.
#[derive(Clone, Copy)]
struct Suffix<'a> {
    head: u64,
    len: usize,
    tail: &'a [u8],
}

impl<'a> Suffix<'a> {
    fn of(key: &'a [u8]) -> Self {
        let mut head = [0; HEAD_BYTES];
        let in_head = key.len().min(HEAD_BYTES);
        head[..in_head].copy_from_slice(&key[..in_head]);
        Self { head: u64::from_be_bytes(head), len: key.len(), tail: &key[in_head..] }
    }
}

/// Entries on their way into a page, in ascending order.
#[derive(Debug, Default)]
pub(crate) struct Entries {
    bytes: Vec<u8>,
    entries: Vec<EntryAt>,
}

#[derive(Clone, Copy, Debug)]
struct EntryAt {
    at: usize,
    key_bytes: usize,
    value_bytes: usize,
    chunked: bool,
    /// Bytes of keys and values up to and including this entry's.
    sum: usize,
    /// The first of the entries up to this one whose keys are all as long as this one's.
    same_from: usize,
}

impl Entries {
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub(crate) fn push(&mut self, key: &[u8], value: Value<'_>) {
        let (value, chunked) = match value {
            Value::Inline(value) => (value, false),
            Value::Chunked(value) => (value, true),
        };
        assert!(key.len() <= KEY_BYTES_MAX);
        if let Some(last) = self.entries.len().checked_sub(1) {
            assert!(self.key(last) < key, "entries come in ascending order");
        }
        let before = self.entries.last().map_or(0, |last| last.sum);
        let same_from = match self.entries.last() {
            Some(last) if last.key_bytes == key.len() => last.same_from,
            _ => self.entries.len(),
        };
        self.entries.push(EntryAt {
            at: self.bytes.len(),
            key_bytes: key.len(),
            value_bytes: value.len(),
            chunked,
            sum: before + key.len() + value.len(),
            same_from,
        });
        self.bytes.extend_from_slice(key);
        self.bytes.extend_from_slice(value);
    }

    pub(crate) fn key(&self, nth: usize) -> &[u8] {
        let entry = &self.entries[nth];
        &self.bytes[entry.at..entry.at + entry.key_bytes]
    }

    fn value(&self, nth: usize) -> &[u8] {
        let entry = &self.entries[nth];
        &self.bytes[entry.at + entry.key_bytes..][..entry.value_bytes]
    }

    /// The `nth` entry of a branch.
    pub(crate) fn child(&self, nth: usize) -> Child {
        Child::decode(self.value(nth)).expect("branches are built from children")
    }

    /// Whether any entry's value is chunked.
    pub(crate) fn any_chunked(&self, range: std::ops::Range<usize>) -> bool {
        self.entries[range].iter().any(|entry| entry.chunked)
    }

    /// The bytes a page of these entries takes: exact if their keys are of one length, as they are in
    /// most collections; else an upper bound.
    pub(crate) fn page_bytes(&self, range: std::ops::Range<usize>) -> usize {
        let Some(last) = range.end.checked_sub(1).filter(|last| *last >= range.start) else {
            return 0;
        };
        let before = range.start.checked_sub(1).map_or(0, |nth| self.entries[nth].sum);
        let prefix = common_prefix(self.key(range.start), self.key(last));
        let (count, last) = (range.len(), &self.entries[last]);
        let in_head = if last.same_from <= range.start {
            (last.key_bytes - prefix).min(HEAD_BYTES)
        } else {
            0
        };
        HEADER_BYTES + prefix + count * ENTRY_BYTES + last.sum - before - count * (prefix + in_head)
    }

    /// Writes the entries of `range` as a page and returns its reference.
    pub(crate) fn build(
        &self,
        range: std::ops::Range<usize>,
        out: &mut [u8],
        place: u32,
        fold: u64,
        pstate: PStateId,
        level: u8,
    ) -> PageRef {
        assert!(self.page_bytes(range.clone()) <= PAGE_BYTES && !range.is_empty());
        let out = &mut out[..PAGE_BYTES];
        out.fill(0);
        let count = range.len();
        let prefix_bytes = common_prefix(self.key(range.start), self.key(range.end - 1));
        out[0..4].copy_from_slice(&place.to_le_bytes());
        out[4] = if level == 0 { KIND_LEAF } else { KIND_BRANCH };
        out[5] = level;
        out[6..8].copy_from_slice(&small(count).to_le_bytes());
        out[8..16].copy_from_slice(&fold.to_le_bytes());
        out[16..20].copy_from_slice(&pstate.0.to_le_bytes());
        out[20..22].copy_from_slice(&small(prefix_bytes).to_le_bytes());
        let mut at = HEADER_BYTES + count * ENTRY_BYTES;
        out[at..at + prefix_bytes].copy_from_slice(&self.key(range.start)[..prefix_bytes]);
        at += prefix_bytes;
        for (nth, entry) in range.enumerate() {
            let suffix = Suffix::of(&self.key(entry)[prefix_bytes..]);
            let value = self.value(entry);
            let head_at = HEADER_BYTES + nth * HEAD_BYTES;
            out[head_at..head_at + HEAD_BYTES].copy_from_slice(&suffix.head.to_be_bytes());
            let slot_at = HEADER_BYTES + count * HEAD_BYTES + nth * 4;
            let chunked = if self.entries[entry].chunked { CHUNKED } else { 0 };
            out[slot_at..slot_at + 2].copy_from_slice(&small(at).to_le_bytes());
            out[slot_at + 2..slot_at + 4]
                .copy_from_slice(&(small(suffix.len) | chunked).to_le_bytes());
            out[at..at + suffix.tail.len()].copy_from_slice(suffix.tail);
            at += suffix.tail.len();
            out[at..at + value.len()].copy_from_slice(value);
            at += value.len();
        }
        out[22..24].copy_from_slice(&small(at).to_le_bytes());
        PageRef { place, fold, crc: crc32fast::hash(out) }
    }

    /// Drops the first `count` entries.
    pub(crate) fn drain(&mut self, count: usize) {
        if count == self.entries.len() {
            self.entries.clear();
            self.bytes.clear();
            return;
        }
        let (cut, sum) = (self.entries[count].at, self.entries[count - 1].sum);
        self.bytes.drain(..cut);
        self.entries.drain(..count);
        for entry in &mut self.entries {
            entry.at -= cut;
            entry.sum -= sum;
            entry.same_from = entry.same_from.saturating_sub(count);
        }
    }
}

fn small(value: usize) -> u16 {
    u16::try_from(value).expect("places in a page fit 16 bits")
}

/// How many leading bytes two keys share.
pub(crate) fn common_prefix(a: &[u8], b: &[u8]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

/// The shortest key above `below` and at or under `key`, which is above `below`.
pub(crate) fn separator<'k>(below: &[u8], key: &'k [u8]) -> &'k [u8] {
    &key[..(common_prefix(below, key) + 1).min(key.len())]
}

// A branch must hold two children even with the longest keys, else trees could not grow.
const _: () = assert!(
    HEADER_BYTES + 2 * (ENTRY_BYTES + KEY_BYTES_MAX + Child::BYTES) <= PAGE_BYTES
        && EXTENT_PAGES as usize <= u64::BITS as usize
);

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    const OWNER: PStateId = PStateId(5);

    fn build(entries: &Entries) -> (PageRef, Vec<u8>) {
        let mut page = vec![0xee; PAGE_BYTES];
        let at = entries.build(0..entries.len(), &mut page, 70, 9, OWNER, 0);
        (at, page)
    }

    /// Keys that share heads, end inside them, contain zeros, and are prefixes of each other.
    fn awkward_keys(prefix: &[u8]) -> BTreeMap<Vec<u8>, Vec<u8>> {
        let mut keys = BTreeMap::new();
        for tail in [
            &b""[..],
            b"\0",
            b"\0\0",
            b"\0\0\0\0\0\0\0",
            b"\0\0\0\0\0\0\0\0",
            b"\0\0\0\0\0\0\0\0\0",
            b"a",
            b"a\0",
            b"abcdefg",
            b"abcdefg\0",
            b"abcdefgh",
            b"abcdefgh\0",
            b"abcdefghi",
            b"abcdefghj",
            b"abcdefgi",
            b"b",
            b"\xff",
            b"\xff\xff\xff\xff\xff\xff\xff\xff\xff",
        ] {
            keys.insert([prefix, tail].concat(), tail.to_vec());
        }
        keys
    }

    #[test]
    fn finds_awkward_keys_and_the_gaps_between_them() {
        for prefix in [&b""[..], b"p", b"account/", b"account/history/\0"] {
            let keys = awkward_keys(prefix);
            let mut entries = Entries::default();
            for (key, value) in &keys {
                entries.push(key, Value::Inline(value));
            }
            let (at, page) = build(&entries);
            assert!(page.len() >= entries.page_bytes(0..entries.len()));
            let node = Node::check(&page, &at, OWNER, 0).unwrap();
            assert_eq!(node.count(), keys.len());
            for (nth, (key, value)) in keys.iter().enumerate() {
                assert_eq!(node.search(key), Ok(nth), "{key:?}");
                assert_eq!(node.key(nth), *key);
                assert_eq!(node.value(nth), Value::Inline(value));
            }
            let mut probes: Vec<Vec<u8>> = awkward_keys(b"account").into_keys().collect();
            probes.extend(awkward_keys(b"accp").into_keys());
            probes.extend(keys.keys().flat_map(|key| {
                [[key, &b"\x01"[..]].concat(), key[..key.len().saturating_sub(1)].to_vec()]
            }));
            for probe in probes {
                let expected = keys.range(..probe.clone()).count();
                let expected = if keys.contains_key(&probe) { Ok(expected) } else { Err(expected) };
                assert_eq!(node.search(&probe), expected, "{probe:?} below {prefix:?}");
            }
        }
    }

    #[test]
    fn a_checked_page_never_panics_whatever_its_bytes() {
        let mut entries = Entries::default();
        for (key, value) in awkward_keys(b"account/") {
            entries.push(&key, Value::Inline(&value));
        }
        let (at, page) = build(&entries);
        let used = page.iter().rposition(|&byte| byte != 0).unwrap();
        let mut accepted = 0;
        for byte in 0..=used {
            for change in [1, 2, 16, 64, 128, 255] {
                let mut page = page.clone();
                page[byte] ^= change;
                // The checksum is what detects damage; here the structure alone must hold together.
                if let Ok(node) = Node::check(&page, &at, OWNER, 0) {
                    accepted += 1;
                    for nth in 0..node.count() {
                        assert_eq!(node.search(&node.key(nth)), Ok(nth));
                        assert!(matches!(node.value(nth), Value::Inline(_) | Value::Chunked(_)));
                    }
                }
            }
        }
        assert!(accepted > 0, "changes within a value are structurally fine");
    }

    #[test]
    fn separators_are_short_and_between() {
        for (below, key, expected) in [
            (&b""[..], &b"abc"[..], &b"a"[..]),
            (b"abc", b"abd", b"abd"),
            (b"abc", b"abcd", b"abcd"),
            (b"abc", b"b", b"b"),
            (b"account/1", b"account/27", b"account/2"),
        ] {
            let found = separator(below, key);
            assert_eq!(found, expected);
            assert!(below < found && found <= key);
        }
    }
}
