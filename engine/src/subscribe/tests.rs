//! Random commits, and subscribers of every kind: what they fold is what a select would read, at every commit,
//! with gaps that are closed by difference or by value, and crashes.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::fmt::Debug;
use std::ops::{Bound, ControlFlow};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use serde::{Deserialize, Serialize};

use super::index::{Index, SubscriberId, Watch};
use super::mirror::{Branch, Branches, TreeDiff, Write};
use super::queue::{Made, RawDiff, RawWrite, Received, Receiver, Sender, Sent, queue};
use super::*;
use crate::codec::table::Trace;
use crate::codec::{FieldTable, Key, encode};
use crate::env::Env;
use crate::env::memory::{MemoryDisk, run};
use crate::page::Cache;
use crate::pstate::{self, Between, KEY_BYTES_MAX, Run, Store, Wanted, WriteSet};
use crate::schema::path::{Deep, Entry, Item, KeyOf, Size};
use crate::schema::plan::RangeOp;
use crate::schema::{
    Answer, Anyone, Counted, Direct, List, Many, Map, Maybe, One as Single, Owned, PState, Path,
    Position, Presence, ReadOp, Removal, Rows, Select, Set, Shape, Sub, list,
};
use crate::types::{Index as EntryIndex, PStateId, PartitionId, Time, TopologyId};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Line {
    text: String,
    count: u32,
}

type Lines = Map<String, Sub<Map<u16, Line>>>;
type Tags = Map<String, Sub<Set<(u8, String)>>>;
type Queues = Map<String, Sub<List<Line>>>;
type Last = Map<String, Line>;
type Groves = Map<String, Sub<Map<u8, Sub<Map<String, Sub<Set<u16>>>>>>>;
type Shelves = Map<String, Sub<Map<u8, Sub<Map<u16, Line>>>>>;

const LINES: PStateId = PStateId(1);
const TAGS: PStateId = PStateId(2);
const QUEUES: PStateId = PStateId(3);
const LAST: PStateId = PStateId(4);
const GROVES: PStateId = PStateId(5);
const SHELVES: PStateId = PStateId(6);

/// The owner of what is written here.
enum Me {}

/// `SplitMix64`.
struct Random(Cell<u64>);

impl Random {
    fn below(&self, below: u64) -> u64 {
        self.0.set(self.0.get().wrapping_add(0x9e37_79b9_7f4a_7c15));
        let mixed = self.0.get();
        let mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % below
    }

    fn small(&self, below: u16) -> u16 {
        u16::try_from(self.below(below.into())).unwrap()
    }

    /// Few, so that they are met often; one is the beginning of another.
    fn name(&self) -> &'static str {
        ["a", "ab", "b", ""][usize::from(self.small(4))]
    }

    fn tag(&self) -> (u8, String) {
        (u8::try_from(self.below(6)).unwrap(), ["x", "y"][usize::from(self.small(2))].to_owned())
    }

    fn line(&self) -> Line {
        let count = u32::from(self.small(4));
        Line { text: "word ".repeat(usize::from(self.small(6))), count }
    }
}

type RowKey = (PStateId, Vec<u8>);

/// All rows there are, and what the commit under way writes of them.
#[derive(Default)]
struct State {
    rows: RefCell<BTreeMap<RowKey, Vec<u8>>>,
    writes: RefCell<WriteSet>,
    fields: FieldTable,
}

impl State {
    fn new() -> Self {
        let mut trace = Trace::default();
        Shape::of::<Lines>(&mut trace).unwrap();
        Self { fields: trace.finish(), ..Self::default() }
    }

    fn put(&self, pstate: PStateId, key: &[u8], value: &[u8]) {
        self.rows.borrow_mut().insert((pstate, key.to_vec()), value.to_vec());
        self.writes.borrow_mut().put(pstate, key, value);
    }

    fn delete(&self, pstate: PStateId, key: &[u8]) {
        self.rows.borrow_mut().remove(&(pstate, key.to_vec()));
        self.writes.borrow_mut().delete(pstate, key);
    }

    fn delete_range(&self, pstate: PStateId, from: &[u8], to: Option<&[u8]>) {
        self.rows.borrow_mut().retain(|(it, key), _| {
            *it != pstate || key.as_slice() < from || to.is_some_and(|to| to <= key.as_slice())
        });
        self.writes.borrow_mut().delete_range(pstate, from, to);
    }

    fn remove<S: Position, M: Direct>(&self, path: Path<S, M, Me>) {
        match path.removal().unwrap() {
            Removal::Row(target) => self.delete(target.pstate, &target.key),
            Removal::Range { from, to } => {
                self.delete_range(from.pstate, &from.key, to.as_deref());
            }
        }
    }

    fn encoded(&self, line: &Line) -> Vec<u8> {
        let mut out = Vec::new();
        encode(&self.fields, line, &mut out).unwrap();
        out
    }

    /// The rows of a range.
    fn range(&self, pstate: PStateId, range: &RangeOp) -> Rows {
        let mut found = Rows::new();
        let rows = self.rows.borrow();
        let from = Bound::Included((pstate, range.from.to_vec()));
        let limit = usize::try_from(range.limit.unwrap_or(u64::MAX)).unwrap_or(usize::MAX);
        let all = rows.range((from, Bound::Unbounded)).take_while(|((it, key), _)| {
            *it == pstate && range.to.as_ref().is_none_or(|to| key.as_slice() < to.as_slice())
        });
        let mut all: Vec<_> = all.collect();
        if range.reverse {
            all.reverse();
        }
        for ((_, key), value) in all.into_iter().take(limit) {
            found.push(key, value);
        }
        found
    }

    fn select<P: Select>(&self, path: P) -> P::Out {
        let reads = path.reads().unwrap();
        let [plan] = reads.as_slice() else { panic!("one path") };
        let plans = reads.as_slice();
        match &plan.op {
            ReadOp::Get { key } | ReadOp::Has { key } => {
                let rows = self.rows.borrow();
                let row = rows.get(&(plan.pstate, key.to_vec()));
                P::decode(&self.fields, plans, &[Answer::One(row.map(Vec::as_slice))]).unwrap()
            }
            ReadOp::Items(_) | ReadOp::Behind(_) => {
                panic!("nobody can subscribe items by their places")
            }
            ReadOp::Range(range) => {
                let rows = self.range(plan.pstate, range);
                P::decode(&self.fields, plans, &[Answer::Rows(&rows)]).unwrap()
            }
        }
    }
}

/// Of [`QUEUES`].
impl list::Rows for State {
    type Error = Infallible;

    async fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, Infallible> {
        Ok(self.rows.borrow().get(&(QUEUES, key.to_vec())).cloned())
    }

    async fn scan(&self, range: &RangeOp) -> Result<Vec<list::Row>, Infallible> {
        let rows = self.range(QUEUES, range);
        Ok(rows.iter().map(|(key, value)| (key.to_vec(), value.to_vec())).collect())
    }
}

impl list::Edits for State {
    fn put(&self, key: &[u8], value: &[u8]) -> Result<(), Infallible> {
        Self::put(self, QUEUES, key, value);
        Ok(())
    }

    fn delete(&self, key: &[u8]) -> Result<(), Infallible> {
        Self::delete(self, QUEUES, key);
        Ok(())
    }

    fn delete_range(&self, from: &[u8], to: &[u8]) -> Result<(), Infallible> {
        Self::delete_range(self, QUEUES, from, Some(to));
        Ok(())
    }
}

fn now<T>(future: impl Future<Output = T>) -> T {
    future.now_or_never().expect("nothing waits here")
}

fn change(state: &State, random: &Random) {
    let name = random.name();
    match random.below(24) {
        16..20 => grow(state, random, name),
        20..24 => shelve(state, random, name),
        0..4 => {
            let key = Owned::<Lines, Me>::from_id(LINES).key(name).key(random.small(24));
            state.put(LINES, &key.target().unwrap().key, &state.encoded(&random.line()));
        }
        4 => state.remove(Owned::<Lines, Me>::from_id(LINES).key(name).key(random.small(24))),
        5 => {
            let from = random.small(24);
            let rows = Owned::<Lines, Me>::from_id(LINES).key(name).range(from..from + 6).rows();
            let ReadOp::Range(range) = rows.unwrap().op else { panic!("a range") };
            state.delete_range(LINES, &range.from, range.to.as_deref());
        }
        6 if random.below(4) == 0 => {
            state.remove(Owned::<Lines, Me>::from_id(LINES).key(name));
        }
        7..9 => {
            let key = Owned::<Tags, Me>::from_id(TAGS).key(name).has(random.tag());
            state.put(TAGS, &key.target().unwrap().key, &[]);
        }
        9 => {
            let key = Owned::<Tags, Me>::from_id(TAGS).key(name).has(random.tag());
            state.delete(TAGS, &key.target().unwrap().key);
        }
        10 if random.below(3) == 0 => state.remove(Owned::<Tags, Me>::from_id(TAGS).key(name)),
        11 => {
            let key = Owned::<Last, Me>::from_id(LAST).key(name);
            state.put(LAST, &key.target().unwrap().key, &state.encoded(&random.line()));
        }
        12 => state.remove(Owned::<Last, Me>::from_id(LAST).key(name)),
        _ => edit(state, random, name),
    }
}

/// Changes a map of maps of sets, and the heads of what it writes in.
fn grow(state: &State, random: &Random, name: &str) {
    let all = Owned::<Groves, Me>::from_id(GROVES).key(name);
    let some = all.clone().key(u8::try_from(random.below(4)).unwrap());
    let set = some.clone().key(["x", "", "xy"][usize::from(random.small(3))]);
    match random.below(10) {
        0..5 => {
            for size in [all.target(), some.target(), set.clone().target()] {
                state.put(GROVES, &size.unwrap().key, &[u8::try_from(random.below(9)).unwrap()]);
            }
            let element = set.has(random.small(6)).target().unwrap().key;
            state.put(GROVES, &element, &[]);
        }
        5..8 => state.delete(GROVES, &set.has(random.small(6)).target().unwrap().key),
        8 if random.below(16) == 0 => state.remove(all),
        8 => state.remove(some),
        _ => state.remove(set),
    }
}

/// Changes a map of maps, which deletes ranges across what lies under its keys, too.
fn shelve(state: &State, random: &Random, name: &str) {
    let all = Owned::<Shelves, Me>::from_id(SHELVES).key(name);
    let line = || all.clone().key(u8::try_from(random.below(4)).unwrap()).key(random.small(6));
    match random.below(8) {
        0..5 => {
            let key = line().target().unwrap().key;
            state.put(SHELVES, &key, &state.encoded(&random.line()));
        }
        5 => state.remove(line()),
        6 => {
            let [a, b] = [line(), line()].map(|it| it.target().unwrap().key);
            if a != b {
                state.delete_range(SHELVES, a.clone().min(b.clone()).as_slice(), Some(&a.max(b)));
            }
        }
        _ => state.remove(all.clone().key(u8::try_from(random.below(4)).unwrap())),
    }
}

/// Changes a list. Many elements come to the same place, so that labels are given anew now and then.
fn edit(state: &State, random: &Random, name: &str) {
    let path = Owned::<Queues, Me>::from_id(QUEUES).key(name);
    let count = state.select(path.clone().size());
    let target = path.clone().list_target(KEY_BYTES_MAX / 2).unwrap();
    let list = list::List::new(state, &target.key);
    let line = state.encoded(&random.line());
    match random.below(12) {
        0..3 => now(list.push(&line)).unwrap(),
        3..8 => now(list.insert(count.min(1), &line)).unwrap(),
        8 => now(list.insert(random.below(count + 1), &line)).unwrap(),
        9 if count > 0 => now(list.set(random.below(count), &line)).unwrap(),
        10 if count > 0 => {
            for _ in 0..=random.below(4).min(count - 1) {
                now(list.remove(random.below(count.saturating_sub(4).max(1)))).unwrap();
            }
        }
        _ if count > 30 => state.remove(path),
        _ => {}
    }
}

/// A path whose changes a test can do itself.
trait Folds: Subscribe + Clone {
    type Folded: Clone + PartialEq + Debug;
    fn selected(self, state: &State) -> Self::Folded;
    fn fold(out: &mut Self::Folded, diff: <Self::Mirror as Mirror>::Diff);
    fn seen(value: &<Self::Mirror as Mirror>::Value) -> Self::Folded;
}

macro_rules! selected {
    () => {
        type Folded = <Self as Select>::Out;

        fn selected(self, state: &State) -> Self::Folded {
            state.select(self)
        }
    };
}

type Grove = BTreeMap<u8, BTreeMap<String, BTreeSet<u16>>>;

/// Sees no rows but elements, whose keys it takes apart by itself.
impl Folds for Path<Sub<Map<u8, Sub<Map<String, Sub<Set<u16>>>>>>, Deep, Anyone> {
    type Folded = Grove;

    fn selected(self, state: &State) -> Grove {
        let ReadOp::Range(range) = self.clone().deep().unwrap().op else { panic!("a range") };
        let mut all = Grove::new();
        for (mut key, _) in state.range(GROVES, &range).iter() {
            key = &key[range.prefix_bytes..];
            let some = u8::decode_key(&mut key).unwrap();
            if key.is_empty() {
                continue;
            }
            let name = String::decode_key(&mut key).unwrap();
            if key.is_empty() {
                continue;
            }
            let element = u16::decode_key(&mut key).unwrap();
            all.entry(some).or_default().entry(name).or_default().insert(element);
        }
        assert_eq!(Self::seen(&state.select(self)), all);
        all
    }

    fn fold(out: &mut Grove, diff: <Self::Mirror as Mirror>::Diff) {
        fold_tree(
            out,
            diff,
            |names, diff| {
                fold_tree(
                    names,
                    diff,
                    |set, diff| {
                        match diff {
                            SetDiff::Added(element) => assert!(set.insert(element)),
                            SetDiff::Removed(element) => assert!(set.remove(&element)),
                            SetDiff::RemovedRange(gone) => {
                                assert!(gone.iter().all(|it| set.remove(it)));
                            }
                        }
                        set.is_empty()
                    },
                    |set| set.iter().copied().collect(),
                );
                names.is_empty()
            },
            seen_names,
        );
    }

    fn seen(value: &<Self::Mirror as Mirror>::Value) -> Grove {
        assert!(value.iter().all(|(key, names)| value.get(key) == Some(names)));
        value.iter().map(|(key, names)| (*key, seen_names(names))).collect()
    }
}

fn seen_names(names: &Branches<String, Elements<u16>>) -> BTreeMap<String, BTreeSet<u16>> {
    let set = |set: &Elements<u16>| set.iter().copied().collect();
    names.iter().map(|(name, elements)| (name.clone(), set(elements))).collect()
}

type Shelf = BTreeMap<u8, Vec<(u16, Line)>>;

impl Folds for Path<Sub<Map<u8, Sub<Map<u16, Line>>>>, Deep, Anyone> {
    type Folded = Shelf;

    fn selected(self, state: &State) -> Shelf {
        let ReadOp::Range(range) = self.clone().deep().unwrap().op else { panic!("a range") };
        let mut all = Shelf::new();
        for (key, value) in state.range(SHELVES, &range).iter() {
            let mut key = &key[range.prefix_bytes..];
            let shelf = all.entry(u8::decode_key(&mut key).unwrap()).or_default();
            let line = crate::codec::decode(&state.fields, value).unwrap();
            shelf.push((u16::decode_key(&mut key).unwrap(), line));
        }
        assert_eq!(Self::seen(&state.select(self)), all);
        all
    }

    fn fold(out: &mut Shelf, diff: <Self::Mirror as Mirror>::Diff) {
        fold_tree(
            out,
            diff,
            |shelf, diff| {
                fold_entries(shelf, diff);
                shelf.is_empty()
            },
            seen_lines,
        );
    }

    fn seen(value: &<Self::Mirror as Mirror>::Value) -> Shelf {
        value.iter().map(|(key, lines)| (*key, seen_lines(lines))).collect()
    }
}

fn seen_lines(lines: &Entries<u16, Line>) -> Vec<(u16, Line)> {
    lines.iter().map(|(key, line)| (*key, line.clone())).collect()
}

/// Does one change of a map of collections; `fold` does one to a collection, and says whether that is empty.
fn fold_tree<K: Ord + Clone + Debug, D, M, B: Default + PartialEq + Debug>(
    out: &mut BTreeMap<K, B>,
    diff: TreeDiff<K, D, M>,
    fold: impl Fn(&mut B, D) -> bool,
    seen: impl Fn(&M) -> B,
) {
    match diff {
        TreeDiff::Under { key, diffs } => {
            assert!(!diffs.is_empty());
            let under = out.entry(key.clone()).or_default();
            let is_empty = diffs.into_iter().fold(false, |_, diff| fold(under, diff));
            if is_empty {
                out.remove(&key);
            }
        }
        TreeDiff::Removed { key, old } => assert_eq!(out.remove(&key), Some(seen(&old))),
    }
}

fn replace<V: PartialEq + Debug>(out: &mut V, Replaced { value, old }: Replaced<V>) {
    assert_eq!(*out, old);
    *out = value;
}

impl Folds for Path<Line, Maybe, Anyone> {
    selected!();

    fn fold(out: &mut Self::Folded, diff: Replaced<Option<Line>>) {
        replace(out, diff);
    }

    fn seen(value: &Option<Line>) -> Self::Folded {
        value.clone()
    }
}

impl Folds for Path<Presence, Single, Anyone> {
    selected!();

    fn fold(out: &mut bool, diff: Replaced<bool>) {
        assert_ne!(diff.value, diff.old);
        replace(out, diff);
    }

    fn seen(value: &bool) -> bool {
        *value
    }
}

impl Folds for Path<Size<Sub<List<Line>>>, Single, Anyone> {
    selected!();

    fn fold(out: &mut u64, diff: Replaced<u64>) {
        assert_ne!(diff.value, diff.old);
        replace(out, diff);
    }

    fn seen(value: &u64) -> u64 {
        *value
    }
}

impl Folds for Path<Entry<u16, Line, Counted>, Many, Anyone> {
    selected!();

    fn fold(out: &mut Self::Folded, diff: MapDiff<u16, Line>) {
        fold_entries(out, diff);
    }

    fn seen(value: &Entries<u16, Line>) -> Self::Folded {
        for (key, line) in value.iter() {
            assert_eq!(value.get(key), Some(line));
        }
        seen_lines(value)
    }
}

fn fold_entries(out: &mut Vec<(u16, Line)>, diff: MapDiff<u16, Line>) {
    {
        match diff {
            MapDiff::Set { key, value, old } => match out.binary_search_by_key(&key, |it| it.0) {
                Ok(at) => assert_eq!(old, Some(std::mem::replace(&mut out[at].1, value))),
                Err(at) => {
                    assert_eq!(old, None);
                    out.insert(at, (key, value));
                }
            },
            MapDiff::Removed { key, old } => {
                let at = out.binary_search_by_key(&key, |it| it.0).unwrap();
                assert_eq!(out.remove(at), (key, old));
            }
            MapDiff::RemovedRange { entries } => {
                let at = out.iter().position(|it| *it == entries[0]).unwrap();
                let gone: Vec<_> = out.drain(at..at + entries.len()).collect();
                assert_eq!(gone, entries);
            }
        }
    }
}

impl<E: crate::codec::Key + Clone + Ord + Debug + Send> Folds
    for Path<KeyOf<E, Counted>, Many, Anyone>
{
    selected!();

    fn fold(out: &mut Self::Folded, diff: SetDiff<E>) {
        match diff {
            SetDiff::Added(element) => {
                let at = out.binary_search(&element).unwrap_err();
                out.insert(at, element);
            }
            SetDiff::Removed(element) => {
                let at = out.binary_search(&element).unwrap();
                out.remove(at);
            }
            SetDiff::RemovedRange(elements) => {
                let at = out.binary_search(&elements[0]).unwrap();
                assert_eq!(out.drain(at..at + elements.len()).collect::<Vec<_>>(), elements);
            }
        }
    }

    fn seen(value: &Elements<E>) -> Self::Folded {
        assert!(value.iter().all(|element| value.contains(element)));
        value.iter().cloned().collect()
    }
}

impl Folds for Path<Item<Line>, Many, Anyone> {
    selected!();

    fn fold(out: &mut Self::Folded, diff: ListDiff<Line>) {
        match diff {
            ListDiff::Appended(lines) => out.extend(lines),
            ListDiff::Spliced { at, removed, inserted } => {
                // No more than what changed, even where elements got other labels.
                assert!(removed.is_empty() || removed.first() != inserted.first());
                assert!(removed.is_empty() || removed.last() != inserted.last());
                let gone: Vec<_> = out.splice(at..at + removed.len(), inserted).collect();
                assert_eq!(gone, removed);
            }
        }
    }

    fn seen(value: &[Line]) -> Self::Folded {
        value.to_vec()
    }
}

/// What each subscriber is told of a run.
fn matches(index: &Index, run: &Run) -> BTreeMap<SubscriberId, Vec<RawWrite>> {
    let mut matches = BTreeMap::new();
    index.each_change(run, |change| {
        matches.extend(change.ids.iter().map(|&id| (id, change.make())));
    });
    matches
}

/// A subscriber, of whatever.
trait Follows {
    fn watch(&self) -> &Watch;
    /// How far it is.
    fn at(&self) -> MicrobatchId;
    /// Sends what a commit did; whether it was kept.
    fn send(&mut self, to: MicrobatchId, writes: Vec<RawWrite>) -> Sent;
    /// Takes what waits, and is what is selected now; how many elements were told as changes, or that there is a
    /// gap.
    fn catch_up(&mut self, state: &State) -> Option<usize>;
    /// Nobody sends any more.
    fn end(&mut self);
    /// After a gap, does what was written since, and is what is selected now.
    fn bridge(&mut self, state: &State, id: MicrobatchId, writes: &[RawWrite]);
    /// After a gap, reads the value anew.
    fn read(&mut self, state: &State, id: MicrobatchId);
}

struct Follower<P: Folds> {
    path: P,
    watch: Watch,
    told: MicrobatchId,
    bytes_max: u64,
    ends: (Sender, Receiver),
    mirror: P::Mirror,
    folded: P::Folded,
    /// How far the mirror is.
    at: MicrobatchId,
}

impl<P: Folds> Follower<P> {
    fn new(path: P, bytes_max: u64, state: &State) -> Self {
        let reads = path.clone().watched().unwrap();
        let [plan] = reads.as_slice() else { panic!("one path") };
        let mirror = path.mirror(&state.fields).unwrap();
        let mut new = Self {
            watch: Watch::of(plan.pstate, plan.op.clone()).unwrap(),
            folded: path.clone().selected(state),
            path,
            told: MicrobatchId(0),
            bytes_max,
            ends: queue(bytes_max, &Arc::default()),
            mirror,
            at: MicrobatchId(0),
        };
        new.read(state, MicrobatchId(0));
        new
    }

    fn register(&mut self, id: MicrobatchId) {
        (self.told, self.at) = (id, id);
        self.ends = queue(self.bytes_max, &Arc::default());
    }

    /// Does writes to the mirror, and the diffs that come of them to what is folded.
    fn do_writes(&mut self, state: &State, writes: &[RawWrite]) -> usize {
        let read = |raw| Write::of(raw, self.watch.prefix_bytes()).unwrap();
        let writes: Vec<Write<'_>> = writes.iter().map(read).collect();
        let diffs = self.mirror.apply(&state.fields, &writes).unwrap();
        let told = diffs.len();
        for diff in diffs {
            P::fold(&mut self.folded, diff);
        }
        told
    }

    fn compare(&self, state: &State) {
        let selected = self.path.clone().selected(state);
        assert_eq!(P::seen(self.mirror.value()), selected);
        assert_eq!(self.folded, selected);
    }
}

impl<P: Folds> Follows for Follower<P> {
    fn watch(&self) -> &Watch {
        &self.watch
    }

    fn at(&self) -> MicrobatchId {
        self.at
    }

    fn send(&mut self, to: MicrobatchId, writes: Vec<RawWrite>) -> Sent {
        let from = std::mem::replace(&mut self.told, to);
        let made = Arc::new(Made::new(writes));
        self.ends.0.send(RawDiff { from, to, made })
    }

    fn catch_up(&mut self, state: &State) -> Option<usize> {
        let mut told = 0;
        while let Some(received) = self.ends.1.next().now_or_never() {
            let Received::Diff(diff) = received else { return None };
            assert_eq!(diff.from, self.at);
            self.at = diff.to;
            told += self.do_writes(state, diff.made.writes());
        }
        self.compare(state);
        Some(told)
    }

    fn end(&mut self) {
        // What waits is taken before the end is met.
        self.ends.0 = queue(0, &Arc::default()).0;
    }

    fn bridge(&mut self, state: &State, id: MicrobatchId, writes: &[RawWrite]) {
        self.do_writes(state, writes);
        self.register(id);
        self.compare(state);
    }

    fn read(&mut self, state: &State, id: MicrobatchId) {
        self.register(id);
        let (from, to) = self.watch.bounds();
        let range = RangeOp {
            from,
            to,
            reverse: false,
            limit: None,
            keys_only: false,
            prefix_bytes: self.watch.prefix_bytes(),
        };
        let rows = state.range(self.watch.pstate, &range);
        let read = |(key, value)| Write::read(key, value, range.prefix_bytes).unwrap();
        let writes: Vec<Write<'_>> = rows.iter().map(read).collect();
        self.mirror = self.mirror.cleared(&state.fields).unwrap();
        self.mirror.apply(&state.fields, &writes).unwrap();
        self.folded = P::seen(self.mirror.value());
        self.compare(state);
    }
}

fn followers(state: &State) -> Vec<Box<dyn Follows>> {
    let (lines, tags) = (PState::<Lines>::from_id(LINES), PState::<Tags>::from_id(TAGS));
    let (queues, last) = (PState::<Queues>::from_id(QUEUES), PState::<Last>::from_id(LAST));
    let (groves, shelves) =
        (PState::<Groves>::from_id(GROVES), PState::<Shelves>::from_id(SHELVES));
    let mut all: Vec<Box<dyn Follows>> = Vec::new();
    for (name, bytes_max) in [("a", 1 << 20), ("ab", 900), ("", 400)] {
        let name = name.to_owned();
        all.push(Box::new(Follower::new(lines.key(&name).all(), bytes_max, state)));
        all.push(Box::new(Follower::new(lines.key(&name).range(6..18), bytes_max, state)));
        all.push(Box::new(Follower::new(lines.key(&name).all().keys(), bytes_max, state)));
        all.push(Box::new(Follower::new(lines.key(&name).key(7), bytes_max, state)));
        all.push(Box::new(Follower::new(tags.key(&name).all(), bytes_max, state)));
        let some = (2, String::new())..=(4, "x".to_owned());
        all.push(Box::new(Follower::new(tags.key(&name).range(some), bytes_max, state)));
        let tag = (3, "y".to_owned());
        all.push(Box::new(Follower::new(tags.key(&name).has(tag), bytes_max, state)));
        all.push(Box::new(Follower::new(queues.key(&name).all(), bytes_max, state)));
        all.push(Box::new(Follower::new(queues.key(&name).size(), bytes_max, state)));
        all.push(Box::new(Follower::new(last.key(&name), bytes_max, state)));
        all.push(Box::new(Follower::new(groves.key(&name).tree(), bytes_max, state)));
        all.push(Box::new(Follower::new(groves.key(&name).trees(1..=2), bytes_max, state)));
        all.push(Box::new(Follower::new(shelves.key(&name).tree(), bytes_max, state)));
    }
    all
}

const TOPOLOGY: TopologyId = TopologyId(1);

/// Ids of the last so long can be compared.
const WINDOW: Duration = Duration::from_millis(60);

/// The partition in which the commits are made, and what it knows of older ids.
struct Partition {
    env: Env,
    store: Store,
    folded: EntryIndex,
}

impl Partition {
    async fn open(env: Env, folded: EntryIndex) -> Self {
        let cache = Cache::new(1 << 20);
        let opened = Store::open(&env, &cache, "p/0", PartitionId(0), folded.next());
        let (store, _) = opened.await.unwrap();
        Self { env, store, folded }
    }

    fn wanted(id: MicrobatchId) -> Wanted {
        let now = Time::default().after(Duration::from_millis(id.0));
        Wanted { pins: Vec::new(), window: WINDOW, now }
    }

    async fn commit(&mut self, id: MicrobatchId, run: &Rc<Run>) {
        self.store.stack(TOPOLOGY, id, Rc::clone(run));
        self.store.merge_keeping(TOPOLOGY, id, &Self::wanted(id));
        if id.0.is_multiple_of(16) {
            self.store.trim_history(|_| Self::wanted(id));
        }
        if id.0.is_multiple_of(400) {
            self.fold().await;
        }
    }

    async fn fold(&mut self) {
        self.folded = self.folded.next();
        self.store.fold(self.folded, &[]).await.unwrap();
    }

    /// Everything was folded, and what was kept of older ids is gone.
    async fn crash(mut self, id: MicrobatchId) -> Self {
        self.fold().await;
        let opened = Self::open(self.env, self.folded).await;
        opened.store.note_contained(TOPOLOGY, id);
        opened
    }

    /// What a shard answers to whoever has a gap.
    async fn written_since(
        &self,
        watch: &Watch,
        (from, to): (MicrobatchId, MicrobatchId),
    ) -> Option<Vec<RawWrite>> {
        let mut writes = Vec::new();
        let visit = |key: &[u8], _: Option<&[u8]>, value: Option<&[u8]>| {
            writes.push(match value {
                Some(value) => RawWrite::Put(key.into(), value.into()),
                None => RawWrite::Gone(key.into()),
            });
            ControlFlow::Continue(())
        };
        let (lower, upper) = watch.bounds();
        let keys = (lower.as_slice(), upper.as_ref().map(crate::codec::KeyBuf::as_slice));
        let between = Between { topology: TOPOLOGY, from, to };
        match self.store.difference(between, watch.pstate, keys, visit).await {
            Ok(_) => Some(writes),
            Err(pstate::Error::Expired { .. }) => None,
            Err(error) => panic!("{error}"),
        }
    }
}

/// More with `TIDEMILL_COMMITS`.
const COMMITS: u64 = 100_000;

#[test]
fn folded_changes_are_what_is_selected_at_every_commit() {
    let commits = std::env::var("TIDEMILL_COMMITS").map_or(COMMITS, |it| it.parse().unwrap());
    run(&MemoryDisk::new(), move |env| folded_changes(env, commits));
}

async fn folded_changes(env: Env, commits: u64) {
    let (state, random) = (State::new(), Random(Cell::new(7)));
    let mut partition = Partition::open(env, EntryIndex(0)).await;
    let mut followers = followers(&state);
    let mut index = Index::default();
    for (id, follower) in (0..).zip(&followers) {
        index.add(SubscriberId(id), follower.watch());
    }
    let mut changes = vec![0; followers.len()];
    // Gaps closed by what was written, of which so many after a crash; and by value.
    let (mut bridged, mut bridged_after_crash, mut read) = (0, 0, 0);
    let mut crashed = MicrobatchId(0);
    for id in (1..=commits).map(MicrobatchId) {
        for _ in 0..=random.below(3) {
            change(&state, &random);
        }
        let run = Rc::new(state.writes.take().seal());
        partition.commit(id, &run).await;
        let any = random.below(followers.len() as u64);
        let mut look_at = vec![usize::try_from(any).unwrap()];
        for (number, writes) in matches(&index, &run) {
            let at = usize::try_from(number.0).unwrap();
            if followers[at].send(id, writes) != Sent::Queued {
                index.remove(number, followers[at].watch());
            }
            // Some keep up, others fall behind.
            if random.below(8) >= number.0 / 13 * 3 {
                look_at.push(at);
            }
        }
        if random.below(1_000) == 0 {
            partition = partition.crash(id).await;
            crashed = id;
            for (number, follower) in (0..).zip(&mut followers) {
                index.remove(SubscriberId(number), follower.watch());
                follower.end();
            }
        }
        for at in look_at {
            let follower = &mut followers[at];
            if let Some(told) = follower.catch_up(&state) {
                changes[at] += told;
                continue;
            }
            let ids = (follower.at(), id);
            if let Some(writes) = partition.written_since(follower.watch(), ids).await {
                follower.bridge(&state, id, &writes);
                bridged += 1;
                bridged_after_crash += u64::from(ids.0 <= crashed);
            } else {
                follower.read(&state, id);
                read += 1;
            }
            index.add(SubscriberId(at as u64), follower.watch());
        }
    }
    assert!(changes.iter().all(|&told| told as u64 > commits / 1_000), "{changes:?}");
    let gaps = [bridged, bridged_after_crash, read];
    assert!(gaps.iter().all(|&count| count > commits / 10_000), "{gaps:?}");
    assert!(bridged > commits / 1_000 && read > commits / 1_000, "{gaps:?}");
}

#[test]
fn a_row_that_is_written_as_it_was_is_no_change() {
    let state = State::new();
    let line = |count| state.encoded(&Line { text: String::new(), count });
    let (one, two, key) = (line(1), line(2), 7_u16.to_be_bytes());

    let mut value = One::<Path<Line, Maybe, Anyone>>::empty(&state.fields).unwrap();
    let mut told = |write| value.apply(&state.fields, &[write]).unwrap().len();
    let writes = [Write::Put(&[], &one), Write::Put(&[], &one), Write::Put(&[], &two)];
    assert_eq!(writes.map(&mut told), [1, 0, 1]);
    let writes = [Write::Gone(&[]), Write::Gone(&[]), Write::Put(&[], &two)];
    assert_eq!(writes.map(&mut told), [1, 0, 1]);

    let mut lines = <Entries<u16, Line> as Branch>::empty();
    let mut told = |writes: &[Write<'_>]| lines.apply(&state.fields, writes).unwrap().len();
    let (put, again) = (Write::Put(&key, &one), Write::Put(&key, &two));
    assert_eq!([[put], [put], [again], [again], [put]].map(|it| told(&it)), [1, 0, 1, 0, 1]);
    // What goes and comes in one microbatch is told as that.
    let all = Write::GoneRange(Bound::Unbounded, Bound::Unbounded);
    assert_eq!(told(&[all, put]), 2);
    assert_eq!(told(&[put]), 0);
}

#[test]
fn a_list_that_is_labelled_anew_tells_only_what_changed() {
    let state = State::new();
    let path = PState::<Queues>::from_id(QUEUES).key("a").all();
    let mut follower = Follower::new(path, 1 << 20, &state);
    let mut index = Index::default();
    index.add(SubscriberId(0), follower.watch());
    let target = Owned::<Queues, Me>::from_id(QUEUES).key("a").list_target(64).unwrap();
    let mut longest = 0;
    for nth in 0..400 {
        let list = list::List::new(&state, &target.key);
        let line = state.encoded(&Line { text: String::new(), count: nth });
        now(list.insert(u64::from(nth.min(1)), &line)).unwrap();
        let run = state.writes.take().seal();
        let mut matches = matches(&index, &run);
        let writes = matches.remove(&SubscriberId(0)).unwrap();
        longest = longest.max(writes.len());
        let id = MicrobatchId(u64::from(nth) + 1);
        assert_eq!(follower.send(id, writes), Sent::Queued);
        assert_eq!(follower.catch_up(&state), Some(1));
        assert_eq!(follower.folded.len() as u64, u64::from(nth) + 1);
    }
    assert!(longest > 20, "labels were never given anew: {longest}");
}
