//! Paths run against a sorted map of encoded rows, and against what a reader would expect.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use proptest::collection::vec;
use proptest::prelude::*;
use serde::{Deserialize, Serialize};

use super::aggregate::{
    Apply, Combine, Count, First, How, Last, ListOf, Max, Merge, Min, SetOf, Sum,
};
use super::*;
use crate::codec::table::Trace;
use crate::codec::{Error, Placement, encode_key};
use crate::types::{PStateId, PartitionId};

type Posts = Map<String, Sub<Map<Reverse<u32>, Sub<Map<u8, Post>>>>>;
type Tags = Map<String, Sub<Set<(u8, String)>>>;

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
struct Post {
    text: String,
    likes: u32,
}

/// One partition's rows of one `PState`, and the table to read them with.
struct Tree {
    rows: BTreeMap<Vec<u8>, Vec<u8>>,
    table: FieldTable,
}

/// The topology that owns all `PState`s here.
enum Me {}

impl Tree {
    fn of<S: Schema>() -> (Self, Owned<S, Me>) {
        let mut trace = Trace::default();
        Shape::of::<S>(&mut trace).unwrap();
        (Self { rows: BTreeMap::new(), table: trace.finish() }, Owned::from_id(PStateId(3)))
    }

    #[allow(clippy::needless_pass_by_value, reason = "as the engine's own `put`")]
    fn put<S: Stored, M: Direct, O: OwnedBy<Me>>(&mut self, path: Path<S, M, O>, value: S::Value) {
        let target = path.target().unwrap();
        assert_eq!(target.pstate, PStateId(3));
        let mut bytes = Vec::new();
        match S::write(&self.table, &value, &mut bytes).unwrap() {
            Written::Value => self.rows.insert(target.key.to_vec(), bytes),
            Written::Nothing => self.rows.remove(target.key.as_slice()),
        };
    }

    fn delete<S: Position, M: Direct, O: OwnedBy<Me>>(&mut self, path: Path<S, M, O>) {
        match path.removal().unwrap() {
            Removal::Row(target) => drop(self.rows.remove(target.key.as_slice())),
            Removal::Range { from, to } => self.rows.retain(|key, _| {
                let above = key.as_slice() >= from.key.as_slice();
                let below = to.as_ref().is_none_or(|to| key.as_slice() < to.as_slice());
                !(above && below)
            }),
        }
    }

    fn add<P, O: OwnedBy<Me>, S>(&mut self, changes: Vec<Change<P, O, S>>) {
        // Combined per key first, as before a hop.
        let mut combined = BTreeMap::new();
        for Change { target, partial, ops, .. } in changes {
            let target = target.unwrap();
            match combined.entry(target.key.to_vec()) {
                std::collections::btree_map::Entry::Vacant(vacant) => {
                    vacant.insert((partial, ops));
                }
                std::collections::btree_map::Entry::Occupied(mut occupied) => {
                    (ops.combine)(&mut occupied.get_mut().0, partial);
                }
            }
        }
        for (key, (partial, ops)) in combined {
            let How::Rows { reads_old, apply } = ops.how else { panic!("no list is added to") };
            let old = self.rows.get(&key).filter(|_| reads_old).cloned();
            let rows = &mut self.rows;
            let to = Apply {
                table: &self.table,
                key: &key,
                old: old.as_deref(),
                scratch: &mut vec![1, 2, 3],
                write: &mut |key, value| match value {
                    Some(value) => drop(rows.insert(key.to_vec(), value.to_vec())),
                    None => drop(rows.remove(key)),
                },
            };
            apply(to, partial).unwrap();
        }
    }

    fn get<P: Select>(&self, path: P) -> P::Out {
        let reads = path.reads().unwrap();
        let found: Vec<_> = reads.as_slice().iter().map(|plan| self.run(plan)).collect();
        let answers: Vec<_> = found
            .iter()
            .map(|found| match found {
                Ok(value) => Answer::One(value.as_deref()),
                Err(rows) => Answer::Rows(rows),
            })
            .collect();
        P::decode(&self.table, reads.as_slice(), &answers).unwrap()
    }

    fn run(&self, plan: &ReadPlan) -> Result<Option<Vec<u8>>, Rows> {
        match &plan.op {
            ReadOp::Get { key } => Ok(self.rows.get(key.as_slice()).cloned()),
            ReadOp::Has { key } => Ok(self.rows.get(key.as_slice()).map(|_| Vec::new())),
            ReadOp::Range(range) => {
                let mut found: Vec<_> = self
                    .rows
                    .iter()
                    .filter(|(key, _)| {
                        key.as_slice() >= range.from.as_slice()
                            && range.to.as_ref().is_none_or(|to| key.as_slice() < to.as_slice())
                    })
                    .collect();
                if range.reverse {
                    found.reverse();
                }
                let mut rows = Rows::new();
                let limit = usize::try_from(range.limit.unwrap_or(u64::MAX)).unwrap();
                for (key, value) in found.into_iter().take(limit) {
                    rows.push(key, if range.keys_only { &[] } else { value });
                }
                Err(rows)
            }
            ReadOp::Items(_) | ReadOp::Behind(_) => unreachable!("lists have tests of their own"),
        }
    }
}

fn name() -> impl Strategy<Value = String> {
    prop_oneof![Just(""), Just("a"), Just("a\0"), Just("ab"), Just("\u{1}"), Just("ä")]
        .prop_map(str::to_owned)
}

/// Few, with the ends among them.
fn time() -> impl Strategy<Value = u32> {
    prop_oneof![Just(0), Just(u32::MAX), 1..4_u32]
}

fn minor() -> impl Strategy<Value = u8> {
    prop_oneof![Just(0), Just(255), 1..4_u8]
}

proptest! {
    #[test]
    fn nested_maps_act_like_nested_maps(
        posts in vec((name(), time(), minor(), 0..9_u32), 0..40),
        gone in vec((name(), time()), 0..4),
        gone_names in vec(name(), 0..2),
        (who, from, to, at) in (name(), time(), time(), minor()),
        limit in 0..5_u64,
    ) {
        let (mut tree, token) = Tree::of::<Posts>();
        let mut model: BTreeMap<(String, Reverse<u32>, u8), Post> = BTreeMap::new();
        for (name, time, minor, likes) in posts {
            let post = Post { text: format!("by {name}"), likes };
            tree.put(token.key(&name).key(Reverse(time)).key(minor), post.clone());
            model.insert((name, Reverse(time), minor), post);
        }
        for (name, time) in gone {
            tree.delete(token.key(name.as_str()).key(Reverse(time)));
            model.retain(|key, _| (&key.0, key.1.0) != (&name, time));
        }
        for name in gone_names {
            tree.delete(token.key(name.as_str()));
            model.retain(|key, _| key.0 != name);
        }

        let inner = || token.reader().key(&who).key(Reverse(from));
        let expect: Vec<(u8, Post)> = model
            .iter()
            .filter(|(key, _)| (&key.0, key.1.0) == (&who, from))
            .map(|(key, post)| (key.2, post.clone()))
            .collect();
        prop_assert_eq!(tree.get(inner().all()), expect.clone());
        prop_assert_eq!(tree.get(inner().range(..)), expect.clone());
        prop_assert_eq!(tree.get(inner().key(at)), model.get(&(who.clone(), Reverse(from), at)).cloned());
        let posts: Vec<_> = expect.iter().map(|(_, post)| post.clone()).collect();
        prop_assert_eq!(tree.get(inner().all().values()), posts);

        // Every kind of range, both ways, with a limit.
        let to = u8::try_from(to % 256).unwrap();
        macro_rules! check {
            ($range:expr) => {
                let range = $range;
                let mut expect: Vec<_> = expect.iter().filter(|row| range.contains(&row.0)).collect();
                prop_assert_eq!(tree.get(inner().range(range.clone())), expect.iter().copied().cloned().collect::<Vec<_>>());
                expect.reverse();
                let keys: Vec<_> = expect.iter().map(|row| row.0).take(usize::try_from(limit).unwrap()).collect();
                prop_assert_eq!(tree.get(inner().range(range).reverse().limit(limit).keys()), keys);
            };
        }
        check!(at..to);
        check!(at..=to);
        check!(at..);
        check!(..at);
        check!(..=at);
    }

    #[test]
    fn sets_act_like_sets(
        ops in vec((name(), (minor(), name()), 0..4_u8), 0..40),
        (who, low, high) in (name(), (minor(), name()), (minor(), name())),
    ) {
        let (mut tree, token) = Tree::of::<Tags>();
        let mut model: BTreeMap<String, BTreeSet<(u8, String)>> = BTreeMap::new();
        let mut added = Vec::new();
        for (name, element, op) in ops {
            let set = model.entry(name.clone()).or_default();
            match op {
                0 | 1 => {
                    tree.put(token.key(&name).has(&element), op == 0);
                    if op == 0 { set.insert(element.clone()) } else { set.remove(&element) };
                }
                2 => {
                    tree.delete(token.key(&name).has(&element));
                    set.remove(&element);
                }
                _ => added.push((name.clone(), element.clone())),
            }
            prop_assert_eq!(tree.get(token.key(&name).has(element.clone())), set.contains(&element));
        }
        for (name, element) in &added {
            model.get_mut(name).unwrap().insert(element.clone());
        }
        tree.add(added.into_iter().map(|(name, e)| token.key(name).add(SetOf(e))).collect());
        let set = model.remove(&who).unwrap_or_default();
        let path = || token.key(&who);
        prop_assert_eq!(tree.get(path().all()), set.iter().cloned().collect::<Vec<_>>());
        let range: Vec<_> = set.iter().filter(|e| (&low..&high).contains(e)).cloned().collect();
        prop_assert_eq!(tree.get(path().range(low..high)), range);
    }

    #[test]
    fn a_place_is_that_of_the_first_key(who: String, time: u32, minor: u8) {
        let (_, token) = Tree::of::<Posts>();
        let place = Placement::of(&encode_key(&who));
        let path = token.key(&who).key(Reverse(time));
        prop_assert_eq!(path.clone().key(minor).target().unwrap().place, place);
        prop_assert_eq!(path.clone().all().reads().unwrap().as_slice()[0].place, Some(place));
        prop_assert_eq!(path.key(minor).reads().unwrap().partition(64).unwrap(), Some(place.partition(64)));
    }
}

#[test]
fn a_range_over_first_keys_is_everywhere() {
    let (mut tree, token) = Tree::of::<Map<u64, i64>>();
    for id in 0..5 {
        tree.put(token.key(id), -2);
    }
    let reads = token.reader().range(1..3).reads().unwrap();
    assert_eq!(reads.as_slice()[0].place, None);
    assert_eq!(reads.partition(8).unwrap(), None);
    assert_eq!(tree.get(token.range(1..3)), [(1, -2), (2, -2)]);
    assert_eq!(tree.get(token.all().keys().reverse().limit(2)), [4, 3]);
    assert_eq!(tree.get(token.all().limit(1).limit(7).reverse().reverse()), [(0, -2)]);
}

#[test]
fn damaged_rows_are_errors() {
    fn decoded<P: Select>(_: &P, table: &FieldTable, reads: &Reads, row: (&[u8], &[u8])) -> Error {
        let mut rows = Rows::new();
        rows.push(row.0, row.1);
        P::decode(table, reads.as_slice(), &[Answer::Rows(&rows)]).map(drop).unwrap_err()
    }

    let (tree, token) = Tree::of::<Posts>();
    let path = || token.key("ann").key(Reverse(1)).all();
    let reads = path().reads().unwrap();
    let key = path().keys();
    for bad in [&b""[..], b"ann", b"ann\0\xff\xff\xff\xfe", b"ann\0\xff\xff\xff\xfe\x07\x07"] {
        let error = decoded(&key, &tree.table, &reads, (bad, &[]));
        assert!(matches!(error, Error::BadKey { .. }), "{error}");
    }
    let good = b"ann\0\xff\xff\xff\xfe\x07";
    let error = decoded(&path(), &tree.table, &reads, (good, &[0x80]));
    assert!(matches!(error, Error::Decode { .. }), "{error}");
}

#[test]
fn several_paths_are_one_read() {
    let (mut tree, token) = Tree::of::<Posts>();
    let post = Post { text: "hi".into(), likes: 0 };
    tree.put(token.key("ann").key(Reverse(1)).key(2), post.clone());
    let at = || token.key("ann").key(Reverse(1));
    let (one, none, (rows, keys)) =
        tree.get((at().key(2), at().key(3), (at().all(), at().all().keys())));
    assert_eq!((one, none, rows, keys), (Some(post.clone()), None, vec![(2, post)], vec![2]));

    let together = (at().key(2), token.key("ann").key(Reverse(9)).all()).reads().unwrap();
    let place = Placement::of(&encode_key("ann"));
    assert_eq!(together.partition(16).unwrap(), Some(place.partition(16)));
    // "ann" and some other name lie apart as soon as there are enough partitions.
    let apart = (at().key(2), token.key("bob").key(Reverse(1)).key(2)).reads().unwrap();
    assert_eq!(apart.partition(1).unwrap(), Some(PartitionId(0)));
    assert!(matches!(apart.partition(1 << 30), Err(Error::PathsApart)));
    let half =
        (at().key(2), Owned::<Map<u64, u64>, Me>::from_id(PStateId(1)).all()).reads().unwrap();
    assert!(matches!(half.partition(1), Err(Error::PathsApart)));
}

#[test]
fn a_key_that_is_too_long_names_its_path() {
    let token = PState::<Tags>::from_id(PStateId(8));
    let fits = "x".repeat(1020);
    token.key(fits.as_str()).has((1, "a".to_owned())).reads().unwrap();
    let over = "x".repeat(1021);
    for error in [
        token.key(over.as_str()).has((1, "a".to_owned())).reads().unwrap_err(),
        token.key(over.as_str()).range(..(1, "a".to_owned())).limit(1).reads().unwrap_err(),
    ] {
        let Error::KeyTooLong { pstate, part, bytes, .. } = error else { panic!("{error}") };
        assert_eq!((pstate, part, bytes), (PStateId(8), 2, 1025));
    }
    let hopeless = "x".repeat(100_000);
    let error = Owned::<Tags, Me>::from_id(PStateId(8)).key(&hopeless).removal().unwrap_err();
    let text = error.to_string();
    assert!(
        text.contains("PState 8") && text.contains("String") && text.contains("100001"),
        "{text}"
    );
}

#[test]
fn a_set_element_that_makes_the_key_too_long_is_an_error() {
    let token = Owned::<Tags, Me>::from_id(PStateId(8));
    let Change { target, .. } = token.key("ann").add(SetOf((1, "x".repeat(1100))));
    let Err(Error::ElementTooLong { element_type, bytes }) = target else { panic!("{target:?}") };
    assert!(element_type.contains("String") && bytes > 1100, "{element_type}, {bytes}");
}

#[test]
fn aggregators_combine_and_apply() {
    /// Adds each addend on its own, then all at once: both must give `expected`.
    #[allow(clippy::needless_pass_by_value, reason = "reads better where it is called")]
    fn check<V, A, const N: usize>(addends: impl Fn() -> [A; N], old: Option<V>, expected: &V)
    where
        V: Data + Clone + PartialEq + std::fmt::Debug + Position,
        A: Aggregate<V>,
    {
        for at_once in [true, false] {
            let (mut tree, token) = Tree::of::<Map<u8, V>>();
            if let Some(old) = old.clone() {
                tree.put(token.key(1), old);
            }
            let changes: Vec<_> = addends().map(|addend| token.key(1).add(addend)).into();
            if at_once {
                tree.add(changes);
            } else {
                for change in changes {
                    tree.add(vec![change]);
                }
            }
            assert_eq!(tree.get(token.key(1)).as_ref(), Some(expected));
        }
    }
    check(|| [Sum(5), Sum(-7)], None, &-2_i64);
    check(|| [Sum(5), Sum(-7)], Some(10), &8_i64);
    check(|| [Sum(0.5), Sum(0.25)], Some(1.0), &1.75_f64);
    check(|| [Count, Count, Count], Some(4), &7_u32);
    check(|| [Count], None, &1_i128);
    check(|| [Min(5), Min(3), Min(4)], None, &3_u8);
    check(|| [Min(5)], Some(2), &2_u8);
    check(|| [Max(5), Max(3)], Some(4), &5_u8);
    check(|| [Last("a".to_owned()), Last("b".to_owned())], Some("c".to_owned()), &"b".to_owned());
    check(|| [First(1), First(2)], None, &1_u8);
    check(|| [First(1), First(2)], Some(3), &3_u8);
    check(|| [SetOf(2), SetOf(1), SetOf(2)], Some(BTreeSet::from([7])), &BTreeSet::from([1, 2, 7]));
    check(|| [ListOf(2), ListOf(1), ListOf(2)], Some(vec![7]), &vec![7, 2, 1, 2]);
    let post = |text: &str, likes| Post { text: text.into(), likes };
    check(|| [Combine(post("b", 1)), Combine(post("c", 2))], Some(post("a", 3)), &post("abc", 6));
}

impl Merge for Post {
    fn merge(&mut self, other: Self) {
        self.text.push_str(&other.text);
        self.likes += other.likes;
    }
}

#[test]
#[should_panic(expected = "a sum overflows `u8`")]
fn a_sum_never_wraps() {
    let (mut tree, token) = Tree::of::<Map<(), u8>>();
    tree.add(vec![token.key(()).add(Sum(200)), token.key(()).add(Sum(100))]);
}

#[test]
fn an_aggregator_of_ones_own_can_remove_the_row() {
    /// Takes from a stock; a row of zero is no row.
    struct Take(u32);
    impl Aggregate<u32> for Take {
        type Partial = u32;

        fn partial(self) -> u32 {
            self.0
        }

        fn combine(a: &mut u32, b: u32) {
            *a += b;
        }

        fn apply(taken: u32, stock: Option<u32>) -> Option<u32> {
            stock?.checked_sub(taken).filter(|&left| left > 0)
        }
    }
    let (mut tree, token) = Tree::of::<Map<String, u32>>();
    tree.put(token.key("nuts"), 5);
    tree.add(vec![token.key("nuts").add(Take(2)), token.key("nuts").add(Take(2))]);
    assert_eq!(tree.get(token.key("nuts")), Some(1));
    tree.add(vec![token.key("nuts").add(Take(1))]);
    assert!(tree.rows.is_empty());
}

#[test]
fn shapes_are_written_as_in_rust() {
    fn shown<S: Schema>() -> String {
        Shape::of::<S>(&mut Trace::default()).unwrap().to_string()
    }
    fn fingerprint<S: Schema>() -> u64 {
        Shape::of::<S>(&mut Trace::default()).unwrap().fingerprint()
    }
    assert_eq!(shown::<Posts>(), "Map<String, Sub<Map<Reverse<u32>, Sub<Map<u8, Post>>>>>");
    assert_eq!(fingerprint::<Tags>(), fingerprint::<Tags>());
    assert_ne!(fingerprint::<Tags>(), fingerprint::<Posts>());
    assert_eq!(shown::<Tags>(), "Map<String, Sub<Set<(u8, String)>>>");
    assert_eq!(shown::<Set<u8>>(), "Set<u8>");
    // Lists lie anywhere in maps and records, and what their items are is one value.
    assert_eq!(
        shown::<Map<u8, Sub<Map<u8, Sub<List<Vec<u8>>>>>>>(),
        "Map<u8, Sub<Map<u8, Sub<List<Vec<u8>>>>>>"
    );
    assert_eq!(shown::<Map<(), BTreeMap<u8, Vec<Post>>>>(), "Map<(), BTreeMap<u8, Vec<Post>>>");
}

#[test]
fn paths_and_tokens_are_small_and_sent() {
    fn is_sent<T: Send + Sync + Clone>(_: &T) {}
    let token = Owned::<Map<u8, std::cell::Cell<u8>>, std::rc::Rc<()>>::from_id(PStateId(1));
    is_sent(&token);
    is_sent(&token.key(1));
    assert_eq!(size_of_val(&token), 4);
    assert!(size_of_val(&token.key(1)) <= 88);
}
