//! Who subscribed what in one partition, and what a run of writes did to it.
//!
//! What is subscribed is a row or a range of rows under a *prefix*, the key of the path before the range. A
//! written row is looked for by its whole key among the rows, and by each of its beginnings that is as long as
//! some prefix among the prefixes. A [`Filter`] stands in front of each: whole keys are hashed eight bytes at a time;
//! one pass over the key's bytes hashes all of its beginnings, if there are prefixes; each is tested in one counter,
//! and only a hit is looked up. So a write that nobody subscribed costs a few instructions, however many subscribers
//! there are.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::ops::{Bound, ControlFlow};

use super::queue::{OVERHEAD_BYTES, RawWrite};
use crate::codec::KeyBuf;
use crate::pstate::{Run, RunPart};
use crate::schema::ReadOp;
use crate::schema::plan::RangeOp;
use crate::types::PStateId;

/// Tells the subscribers of a shard apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct SubscriberId(pub(crate) u64);

/// What a subscriber watches: rows of one `PState`, in one partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Watch {
    pub(crate) pstate: PStateId,
    pub(crate) rows: Watched,
    /// Whether values are not looked at.
    pub(crate) keys_only: bool,
}

/// Which rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Watched {
    /// One, by its key.
    Row(KeyBuf),
    /// Those from one key up to another, all of which begin with the same bytes.
    Range { from: KeyBuf, to: Option<KeyBuf>, prefix_bytes: usize },
}

impl Watch {
    /// What a read of one row, or of a range under one first key, is to a subscriber.
    ///
    /// # Errors
    /// Why it cannot be watched, and what can.
    pub(crate) fn of(pstate: PStateId, op: ReadOp) -> Result<Self, &'static str> {
        let (rows, keys_only) = match op {
            ReadOp::Get { key } | ReadOp::Has { key } => (Watched::Row(key), false),
            ReadOp::Range(range) if range.limit.is_some() || range.reverse => {
                return Err(
                    "a range with a limit or in reverse cannot be subscribed: when an element goes, the one that \
                     moves up would have to be read; subscribe a range of keys, which comes in their order",
                );
            }
            ReadOp::Items(_) => {
                return Err(
                    "items of a list by their places cannot be subscribed: an insertion before them would move them \
                     all; subscribe the whole list with `.all()`",
                );
            }
            ReadOp::Behind(_) => {
                return Err(
                    "what hangs under an item of a list cannot be subscribed by the item's index, under which another \
                     item may lie at any time; subscribe the size of the list, and select what is under its items",
                );
            }
            ReadOp::Range(range) => {
                let RangeOp { from, to, prefix_bytes, keys_only, .. } = *range;
                (Watched::Range { from, to, prefix_bytes }, keys_only)
            }
        };
        Ok(Self { pstate, rows, keys_only })
    }

    /// How many bytes of each key belong to the path.
    pub(crate) fn prefix_bytes(&self) -> usize {
        match &self.rows {
            Watched::Row(key) => key.len(),
            Watched::Range { prefix_bytes, .. } => *prefix_bytes,
        }
    }

    /// The first key, and the first behind.
    pub(crate) fn bounds(&self) -> (KeyBuf, Option<KeyBuf>) {
        match &self.rows {
            Watched::Row(key) => {
                let mut behind = key.clone();
                behind.push(0);
                (key.clone(), Some(behind))
            }
            Watched::Range { from, to, .. } => (from.clone(), to.clone()),
        }
    }
}

/// Everything that is subscribed in one partition.
#[derive(Debug, Default)]
pub(crate) struct Index {
    /// Few, and one of them is looked for with every run.
    pstates: Vec<(PStateId, OfPState)>,
    /// How often the filter did not spare a look-up.
    looked_up: Cell<u64>,
}

/// What a run did to what some subscribers watch, which is the same for all of them; nothing of it is made yet.
pub(crate) struct Change<'a> {
    /// Ascending.
    pub(crate) ids: &'a [SubscriberId],
    part: RunPart<'a>,
    rows: Rows<'a>,
    keys_only: bool,
}

/// Which rows.
#[derive(Clone, Copy)]
enum Rows<'a> {
    One(&'a [u8]),
    Range(&'a [u8], Option<&'a [u8]>),
}

impl Change<'_> {
    fn is_some(&self) -> bool {
        self.each(|_| ControlFlow::Break(())).is_break()
    }

    /// How much memory its writes take, or more than `most` if that is more.
    pub(crate) fn bytes(&self, most: u64) -> u64 {
        let mut bytes = 0;
        let (ControlFlow::Continue(()) | ControlFlow::Break(())) = self.each(|write| {
            bytes += write.bytes();
            if bytes > most { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        bytes
    }

    /// The writes, in the order in which the run did them.
    pub(crate) fn make(&self) -> Vec<RawWrite> {
        let mut made = Vec::new();
        let (ControlFlow::Continue(()) | ControlFlow::Break(())) = self.each(|write| {
            made.push(write.make());
            ControlFlow::Continue(())
        });
        made
    }

    fn each(&self, mut visit: impl FnMut(Cut<'_>) -> ControlFlow<()>) -> ControlFlow<()> {
        match self.rows {
            // The last write is all there is to say of a row.
            Rows::One(key) => visit(match self.part.value(key) {
                Some(value) => Cut::Put(key, value),
                None => Cut::Gone(key),
            }),
            Rows::Range(from, to) => {
                for (start, end) in self.part.ranges_within(from, to) {
                    visit(Cut::GoneRange(start, end))?;
                }
                let rows = (Bound::Included(from), to.map_or(Bound::Unbounded, Bound::Excluded));
                for (key, value) in self.part.points(rows) {
                    visit(match value {
                        Some(_) if self.keys_only => Cut::Put(key, &[]),
                        Some(value) => Cut::Put(key, value),
                        None => Cut::Gone(key),
                    })?;
                }
                ControlFlow::Continue(())
            }
        }
    }
}

/// A write in the run, cut to what is watched.
#[derive(Clone, Copy)]
enum Cut<'a> {
    GoneRange(&'a [u8], Option<&'a [u8]>),
    Put(&'a [u8], &'a [u8]),
    Gone(&'a [u8]),
}

impl Cut<'_> {
    /// As [`RawWrite::bytes`].
    fn bytes(self) -> u64 {
        let own = match self {
            Self::GoneRange(from, to) => from.len() + to.map_or(0, <[u8]>::len),
            Self::Put(key, value) => key.len() + value.len(),
            Self::Gone(key) => key.len(),
        };
        (OVERHEAD_BYTES + own) as u64
    }

    fn make(self) -> RawWrite {
        match self {
            Self::GoneRange(from, to) => RawWrite::GoneRange(from.into(), to.map(Box::from)),
            Self::Put(key, value) => RawWrite::Put(key.into(), value.into()),
            Self::Gone(key) => RawWrite::Gone(key.into()),
        }
    }
}

impl Index {
    /// Adds a subscriber.
    pub(crate) fn add(&mut self, id: SubscriberId, watch: &Watch) {
        let at = self.pstates.iter().position(|(pstate, _)| *pstate == watch.pstate);
        let at = at.unwrap_or_else(|| {
            self.pstates.push((watch.pstate, OfPState::default()));
            self.pstates.len() - 1
        });
        self.pstates[at].1.add(id, watch);
    }

    /// Removes one; `watch` is what it was added with.
    pub(crate) fn remove(&mut self, id: SubscriberId, watch: &Watch) {
        let at = self.pstates.iter().position(|(pstate, _)| *pstate == watch.pstate);
        let Some(at) = at else { return };
        let of = &mut self.pstates[at].1;
        of.remove(id, watch);
        if of.points.is_empty() && of.prefixes.is_empty() {
            self.pstates.swap_remove(at);
        }
    }

    /// Whether nothing is subscribed.
    pub(crate) fn is_empty(&self) -> bool {
        self.pstates.is_empty()
    }

    #[inline]
    fn of(&self, pstate: PStateId) -> Option<&OfPState> {
        self.pstates.iter().find(|(id, _)| *id == pstate).map(|(_, of)| of)
    }

    /// Whether a run writes a `PState` of which something is subscribed.
    pub(crate) fn concerns(&self, run: &Run) -> bool {
        run.parts().any(|(pstate, _)| self.of(pstate).is_some())
    }

    /// Whether a run may write something that is subscribed: one that does, does; one in many that do not, too.
    pub(crate) fn may_touch(&self, run: &Run) -> bool {
        run.parts().any(|(pstate, part)| {
            self.of(pstate).is_some_and(|of| {
                part.ranges().next().is_some() || part.keys().any(|key| of.may_have(key))
            })
        })
    }

    /// Gives what a run did to what is subscribed, once for all who watch the same.
    pub(crate) fn each_change(&self, run: &Run, mut tell: impl FnMut(&Change<'_>)) {
        for (pstate, part) in run.parts() {
            if let Some(of) = self.of(pstate) {
                of.each_change(part, &self.looked_up, &mut tell);
            }
        }
    }

    #[cfg(test)]
    pub(crate) fn looked_up(&self) -> u64 {
        self.looked_up.get()
    }
}

/// What is subscribed of one `PState`.
#[derive(Debug, Default)]
struct OfPState {
    /// Of whole keys.
    whole: Filter,
    /// Of their beginnings.
    begun: Filter,
    points: BTreeMap<Box<[u8]>, Vec<SubscriberId>>,
    prefixes: BTreeMap<Box<[u8]>, Ranges>,
    /// The lengths of the prefixes, ascending, and how many have each.
    lengths: Vec<(usize, usize)>,
}

/// Who watches which ranges under a prefix.
type Ranges = BTreeMap<Ranged, Vec<SubscriberId>>;

/// A range, and how it is watched.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Ranged {
    from: Box<[u8]>,
    to: Option<Box<[u8]>>,
    keys_only: bool,
}

impl Ranged {
    fn of(from: &[u8], to: Option<&[u8]>, keys_only: bool) -> Self {
        Self { from: from.into(), to: to.map(Box::from), keys_only }
    }
}

impl OfPState {
    fn add(&mut self, id: SubscriberId, watch: &Watch) {
        match &watch.rows {
            Watched::Row(key) => {
                let ids = self.points.entry(Box::from(key.as_slice())).or_default();
                insert(ids, id);
                if ids.len() == 1 {
                    self.whole.add(hash_whole(key));
                }
            }
            Watched::Range { from, to, prefix_bytes } => {
                let prefix = &from.as_slice()[..*prefix_bytes];
                let ranges = self.prefixes.entry(Box::from(prefix)).or_default();
                let is_first = ranges.is_empty();
                let ranged = Ranged::of(from, to.as_deref(), watch.keys_only);
                insert(ranges.entry(ranged).or_default(), id);
                if is_first {
                    self.begun.add(hash(prefix));
                    match self.lengths.binary_search_by_key(prefix_bytes, |(length, _)| *length) {
                        Ok(at) => self.lengths[at].1 += 1,
                        Err(at) => self.lengths.insert(at, (*prefix_bytes, 1)),
                    }
                }
            }
        }
        if self.whole.is_crowded() {
            self.whole = Filter::of(self.points.keys().map(|key| hash_whole(key)));
        }
        if self.begun.is_crowded() {
            self.begun = Filter::of(self.prefixes.keys().map(|key| hash(key)));
        }
    }

    fn remove(&mut self, id: SubscriberId, watch: &Watch) {
        match &watch.rows {
            Watched::Row(key) => {
                let Some(ids) = self.points.get_mut(key.as_slice()) else { return };
                remove(ids, id);
                if ids.is_empty() {
                    self.points.remove(key.as_slice());
                    self.whole.remove(hash_whole(key));
                }
            }
            Watched::Range { from, to, prefix_bytes } => {
                let prefix = &from.as_slice()[..*prefix_bytes];
                let Some(ranges) = self.prefixes.get_mut(prefix) else { return };
                let ranged = Ranged::of(from, to.as_deref(), watch.keys_only);
                let Some(ids) = ranges.get_mut(&ranged) else { return };
                remove(ids, id);
                if ids.is_empty() {
                    ranges.remove(&ranged);
                }
                if ranges.is_empty() {
                    self.prefixes.remove(prefix);
                    self.begun.remove(hash(prefix));
                    let at = self.lengths.binary_search_by_key(prefix_bytes, |(length, _)| *length);
                    let at = at.expect("it was counted when it was added");
                    self.lengths[at].1 -= 1;
                    if self.lengths[at].1 == 0 {
                        self.lengths.remove(at);
                    }
                }
            }
        }
    }

    /// What the run did to each row and range that is watched. Which ones may be concerned is found out first.
    fn each_change<'a>(
        &'a self,
        part: RunPart<'a>,
        looked_up: &Cell<u64>,
        tell: &mut impl FnMut(&Change<'_>),
    ) {
        let (mut rows, mut prefixes) = (BTreeMap::new(), BTreeMap::new());
        self.deleted(part, &mut rows, &mut prefixes, looked_up);
        self.written(part, &mut rows, &mut prefixes, looked_up);
        for (key, ids) in rows {
            tell(&Change { ids, part, rows: Rows::One(key), keys_only: false });
        }
        for (ranged, ids) in prefixes.into_values().flatten() {
            let Ranged { from, to, keys_only } = ranged;
            let rows = Rows::Range(from, to.as_deref());
            let change = Change { ids, part, rows, keys_only: *keys_only };
            if change.is_some() {
                tell(&change);
            }
        }
    }

    /// Where the rows are that a run has written.
    fn written<'a>(
        &'a self,
        part: RunPart<'a>,
        rows: &mut BTreeMap<&'a [u8], &'a [SubscriberId]>,
        prefixes: &mut BTreeMap<&'a [u8], &'a Ranges>,
        looked_up: &Cell<u64>,
    ) {
        for key in part.keys() {
            self.begun.beginnings(key, &self.lengths, |length| {
                looked_up.set(looked_up.get() + 1);
                if let Some((prefix, ranges)) = self.prefixes.get_key_value(&key[..length]) {
                    prefixes.insert(prefix, ranges);
                }
                ControlFlow::Continue(())
            });
            if self.whole.has(|| hash_whole(key)) {
                looked_up.set(looked_up.get() + 1);
                if let Some(ids) = self.points.get(key) {
                    rows.insert(key, ids);
                }
            }
        }
    }

    /// Whether the filters let a key through.
    fn may_have(&self, key: &[u8]) -> bool {
        let mut begins = false;
        self.begun.beginnings(key, &self.lengths, |_| {
            begins = true;
            ControlFlow::Break(())
        });
        begins || self.whole.has(|| hash_whole(key))
    }

    /// Where the ranges are that a run has deleted. They are few, and each is looked up.
    fn deleted<'a>(
        &'a self,
        part: RunPart<'a>,
        rows: &mut BTreeMap<&'a [u8], &'a [SubscriberId]>,
        prefixes: &mut BTreeMap<&'a [u8], &'a Ranges>,
        looked_up: &Cell<u64>,
    ) {
        for (from, to) in part.ranges() {
            looked_up.set(looked_up.get() + 1);
            let within = (Bound::Included(from), to.map_or(Bound::Unbounded, Bound::Excluded));
            let inside = self.points.range::<[u8], _>(within);
            rows.extend(inside.map(|(key, ids)| (&**key, &**ids)));
            // A prefix whose rows reach into the range is in the range itself, or what the range begins with.
            let around = self.lengths.iter().filter_map(|&(length, _)| {
                let prefix = from.get(..length).filter(|prefix| prefix.len() < from.len())?;
                self.prefixes.get_key_value(prefix)
            });
            let inside = self.prefixes.range::<[u8], _>(within);
            prefixes.extend(around.chain(inside).map(|(prefix, ranges)| (&**prefix, ranges)));
        }
    }
}

/// Adds one to those that are there, which ascend.
fn insert(ids: &mut Vec<SubscriberId>, id: SubscriberId) {
    if let Err(at) = ids.binary_search(&id) {
        ids.insert(at, id);
    }
}

/// Takes one out. The last one is taken fastest, so whoever takes many begins there.
fn remove(ids: &mut Vec<SubscriberId>, id: SubscriberId) {
    if let Ok(at) = ids.binary_search(&id) {
        ids.remove(at);
    }
}

/// Counts keys by a hash; a key whose counter is zero is not there.
#[derive(Debug, Default)]
struct Filter {
    /// A power of two, or none at all. A counter that is full stays so.
    slots: Box<[u8]>,
    keys: usize,
}

/// So many slots there are at least for each key: of the others one in so many is looked up in vain.
const SLOTS_PER_KEY: usize = 16;

/// Fewer slots are not worth it.
const SLOTS_MIN: usize = 64;

impl Filter {
    /// A filter that holds these, with room for as many again.
    fn of(hashes: impl Iterator<Item = u64> + Clone) -> Self {
        let slots = (2 * SLOTS_PER_KEY * hashes.clone().count()).next_power_of_two();
        let mut filter = Self { slots: vec![0; slots.max(SLOTS_MIN)].into(), keys: 0 };
        for hash in hashes {
            filter.add(hash);
        }
        filter
    }

    /// Whether it has too little room to be of use.
    fn is_crowded(&self) -> bool {
        self.slots.len() < SLOTS_PER_KEY * self.keys
    }

    fn add(&mut self, hash: u64) {
        self.keys += 1;
        if let Some(at) = self.at(hash) {
            self.slots[at] = self.slots[at].saturating_add(1);
        }
    }

    fn remove(&mut self, hash: u64) {
        self.keys -= 1;
        if let Some(at) = self.at(hash)
            && self.slots[at] < u8::MAX
        {
            self.slots[at] -= 1;
        }
    }

    fn at(&self, hash: u64) -> Option<usize> {
        let mask = self.slots.len().checked_sub(1)?;
        // The high bits are the mixed ones.
        Some(usize::try_from(hash >> 32).unwrap_or(0) & mask)
    }

    /// Gives each beginning of `key` that has one of these lengths and may be there, until `hit` breaks.
    fn beginnings(
        &self,
        key: &[u8],
        lengths: &[(usize, usize)],
        mut hit: impl FnMut(usize) -> ControlFlow<()>,
    ) {
        let mut hash = Hash::default();
        let mut hashed = 0;
        for &(length, _) in lengths {
            let Some(more) = key.get(hashed..length) else { break };
            hash.add(more);
            hashed = length;
            if self.has(|| hash.mixed()) && hit(length).is_break() {
                break;
            }
        }
    }

    fn has(&self, hash: impl FnOnce() -> u64) -> bool {
        // Where nothing is, nothing need be hashed.
        self.keys > 0 && self.at(hash()).is_some_and(|at| self.slots[at] > 0)
    }
}

/// FNV-1a (Fowler, Noll, Vo), which gives the hash of every beginning on its way; mixed once more, since its high
/// bits change least.
#[derive(Clone, Copy)]
struct Hash(u64);

impl Default for Hash {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Hash {
    fn add(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }

    fn mixed(self) -> u64 {
        (self.0 ^ (self.0 >> 29)).wrapping_mul(0x9e37_79b9_7f4a_7c15)
    }
}

/// Of a key that is asked for as a whole, eight bytes at a time.
fn hash_whole(key: &[u8]) -> u64 {
    const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;
    let (words, rest) = key.as_chunks::<8>();
    let mut hash = key.len() as u64;
    for word in words {
        hash = (hash ^ u64::from_le_bytes(*word)).wrapping_mul(FACTOR).rotate_left(29);
    }
    let rest = rest.iter().fold(0, |word, &byte| word << 8 | u64::from(byte));
    let hash = (hash ^ rest).wrapping_mul(FACTOR);
    (hash ^ (hash >> 32)).wrapping_mul(FACTOR)
}

fn hash(key: &[u8]) -> u64 {
    let mut hash = Hash::default();
    hash.add(key);
    hash.mixed()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::encode_key;
    use crate::pstate::WriteSet;

    const P: PStateId = PStateId(3);

    fn row(key: impl AsRef<[u8]>) -> Watch {
        Watch { pstate: P, rows: Watched::Row(key.as_ref().into()), keys_only: false }
    }

    fn range(prefix: &[u8], from: &[u8], to: Option<&[u8]>) -> Watch {
        let from = KeyBuf::from([prefix, from].concat().as_slice());
        let to = match to {
            Some(to) => Some(KeyBuf::from([prefix, to].concat().as_slice())),
            None => KeyBuf::from(prefix).prefix_end(),
        };
        let rows = Watched::Range { from, to, prefix_bytes: prefix.len() };
        Watch { pstate: P, rows, keys_only: false }
    }

    fn run(write: impl FnOnce(&mut WriteSet)) -> Run {
        let mut writes = WriteSet::default();
        write(&mut writes);
        writes.seal()
    }

    #[test]
    fn writes_reach_those_who_watch_them_and_nobody_else() {
        let watches = [
            row(b"aa"),
            row(b"ab"),
            range(b"a", b"", None),
            range(b"a", b"b", Some(b"d")),
            range(b"ab", b"", None),
            range(b"b", b"", None),
            range(b"", b"", None),
        ];
        let mut index = Index::default();
        for (id, watch) in (0..).zip(&watches) {
            index.add(SubscriberId(id), watch);
        }
        let told = |run: &Run| -> Vec<u64> {
            let told: Vec<u64> = matches(&index, run).keys().map(|it| it.0).collect();
            assert!(index.may_touch(run) || told.is_empty());
            told
        };
        let put = |key: &[u8]| run(|writes| writes.put(P, key, b"v"));
        assert_eq!(told(&put(b"aa")), [0, 2, 6]);
        assert_eq!(told(&put(b"ab")), [1, 2, 3, 4, 6]);
        assert_eq!(told(&put(b"abc")), [2, 3, 4, 6]);
        assert_eq!(told(&put(b"ad")), [2, 6]);
        assert_eq!(told(&put(b"c")), [6]);
        assert!(told(&run(|writes| writes.put(PStateId(4), b"aa", b"v"))).is_empty());
        let gone = |from: &[u8], to: Option<&[u8]>| run(|it| it.delete_range(P, from, to));
        assert_eq!(told(&gone(b"aa", Some(b"ab"))), [0, 2, 6]);
        assert_eq!(told(&gone(b"aa\0", Some(b"ab"))), [2, 6]);
        assert_eq!(told(&gone(b"abx", Some(b"aby"))), [2, 3, 4, 6]);
        assert_eq!(told(&gone(b"ad", Some(b"b"))), [2, 6]);
        assert_eq!(told(&gone(b"b", None)), [5, 6]);
        assert_eq!(told(&gone(b"", None)), [0, 1, 2, 3, 4, 5, 6]);
        for (id, watch) in (0..).zip(&watches) {
            assert!(!index.is_empty());
            index.remove(SubscriberId(id), watch);
        }
        assert!(index.is_empty());
    }

    /// What each subscriber is told of a run.
    fn matches(index: &Index, run: &Run) -> BTreeMap<SubscriberId, Vec<RawWrite>> {
        let mut matches = BTreeMap::new();
        index.each_change(run, |change| {
            let made = change.make();
            let bytes: usize = made.iter().map(RawWrite::bytes).sum();
            assert_eq!(change.bytes(u64::MAX), bytes as u64);
            assert!(change.bytes(1) > 1 && !made.is_empty());
            for &id in change.ids {
                assert!(matches.insert(id, made.clone()).is_none());
            }
        });
        matches
    }

    #[test]
    fn an_empty_range_is_told_nothing() {
        let mut index = Index::default();
        index.add(SubscriberId(1), &range(b"a", b"d", Some(b"b")));
        let run = run(|writes| {
            writes.delete_range(P, b"a", Some(b"b"));
            writes.put(P, b"ac", b"v");
        });
        assert!(matches(&index, &run).is_empty());
    }

    #[test]
    fn what_many_watch_is_given_once() {
        let mut index = Index::default();
        for id in 0..10_000 {
            index.add(SubscriberId(id), &range(b"a", b"", None));
        }
        index.add(SubscriberId(10_000), &range(b"a", b"c", None));
        let run = run(|writes| {
            for key in 0..1_000_u32 {
                writes.put(P, &[b"ab".as_slice(), &key.to_be_bytes()].concat(), b"v");
            }
        });
        let mut told = Vec::new();
        index.each_change(&run, |change| told.push((change.ids.len(), change.make().len())));
        assert_eq!(told, [(10_000, 1_000)]);
    }

    #[test]
    fn a_subscriber_is_told_in_the_order_of_the_run_and_of_its_own_rows_only() {
        let mut index = Index::default();
        index.add(SubscriberId(1), &range(b"a", b"c", Some(b"f")));
        index.add(SubscriberId(2), &Watch { keys_only: true, ..range(b"a", b"", None) });
        let run = run(|writes| {
            writes.delete_range(P, b"aa", Some(b"ad"));
            writes.put(P, b"ac", b"1");
            writes.delete(P, b"ae");
            writes.put(P, b"af", b"2");
        });
        let of = |key: &[u8]| -> Box<[u8]> { key.into() };
        let matches = matches(&index, &run);
        let put = |key: &[u8], value: &[u8]| RawWrite::Put(key.into(), value.into());
        let gone = RawWrite::Gone(of(b"ae"));
        let cut = RawWrite::GoneRange(of(b"ac"), Some(of(b"ad")));
        assert_eq!(matches[&SubscriberId(1)], [cut, put(b"ac", b"1"), gone.clone()]);
        let whole = RawWrite::GoneRange(of(b"aa"), Some(of(b"ad")));
        assert_eq!(matches[&SubscriberId(2)], [whole, put(b"ac", b""), gone, put(b"af", b"")]);
    }

    #[test]
    fn what_nobody_watches_is_hardly_ever_looked_up() {
        let mut index = Index::default();
        for key in 0..10_000_u64 {
            index.add(SubscriberId(key), &row(encode_key(&key)));
            let name = format!("user {key}");
            index.add(SubscriberId(key), &range(&encode_key(&name), b"", None));
        }
        let numbers = run(|writes| {
            for key in 10_000..20_000_u64 {
                writes.put(P, &encode_key(&key), b"v");
            }
        });
        assert!(matches(&index, &numbers).is_empty());
        let one = |key: u64| run(|writes| writes.put(P, &encode_key(&key), b"v"));
        let touched = (10_000..20_000).filter(|&key| index.may_touch(&one(key))).count();
        assert!(touched < 2_000, "{touched} of 10,000 runs");
        assert!((0..10_000).all(|key| index.may_touch(&one(key))));
        // The name's key and the element's: every length of a watched name is one beginning to test.
        let names = run(|writes| {
            for key in 10_000..20_000_u64 {
                writes.put(P, &encode_key(&(format!("user {key}"), key)), b"v");
            }
        });
        assert!(matches(&index, &names).is_empty());
        let looked_up = index.looked_up();
        assert!(0 < looked_up && looked_up < 4_000, "{looked_up} look-ups for 20,000 rows");
        // The counters go back with the subscribers.
        for key in 0..10_000_u64 {
            index.remove(SubscriberId(key), &row(encode_key(&key)));
        }
        let watched = run(|writes| {
            for key in 0..10_000_u64 {
                writes.put(P, &encode_key(&key), b"v");
            }
        });
        assert!(matches(&index, &watched).is_empty());
        assert!(index.looked_up() - looked_up < 2_000, "{}", index.looked_up());
    }
}
