//! The kit itself, and the cost rules of reads and writes, which it asserts.

use std::collections::BTreeMap;

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::module;
use crate::schema::aggregate::{
    Count, Last, ListOf, MapOf, MergeMap, MultiSet, SetOf, SetRemove, Sum,
};
use crate::schema::{List, Map, Owned, Set, Sub, Uncounted};
use crate::topology::{Failure, NodeIndex};

type Posts = Map<u32, Sub<Map<u32, String>, Uncounted>>;

/// Three users with a hundred posts each.
fn posts() -> TestPState<Posts> {
    let state = TestPState::new().unwrap();
    let posts = state.token();
    let write = async |at: crate::topology::At<'_, Test>| {
        for user in 0..3 {
            for post in 0..100 {
                at.put(posts.key(user).key(post), format!("post {post}"))?;
            }
        }
        Ok(())
    };
    state.run(write).unwrap();
    assert_eq!(state.take_io(), Io { puts: 300, ..Io::default() });
    state
}

/// What `code` costs: while all is in memory, from the tree, and from a tree that is not in memory.
fn check_cost(expected: Io, code: impl Fn(&TestPState<Posts>, Owned<Posts, Test>)) {
    for depth in 0..3 {
        let mut state = posts();
        match depth {
            0 => {}
            1 => state.fold(),
            _ => state.reopen(),
        }
        code(&state, state.token());
        let io = state.take_io();
        if expected.seeks() == 0 {
            assert_eq!(io, expected, "at depth {depth}: what reads nothing waits for nothing");
        } else {
            assert_eq!(Io { misses: 0, ..io }, expected, "at depth {depth}");
            let waits = depth == 2 && expected.reads > 0;
            assert_eq!(io.misses > 0, waits, "at depth {depth}: {io:?}");
        }
    }
}

#[test]
fn a_key_is_one_seek() {
    let one = Io { reads: 1, ..Io::default() };
    check_cost(one, |state, posts| {
        assert_eq!(state.select(posts.key(1).key(7)).unwrap().as_deref(), Some("post 7"));
    });
    check_cost(one, |state, posts| {
        assert_eq!(state.select(posts.key(1).key(700)).unwrap(), None);
    });
}

#[test]
fn a_range_is_one_seek_and_the_rows_it_gives() {
    let range = |rows_scanned| Io { scans: 1, rows_scanned, ..Io::default() };
    assert_eq!(range(10).seeks(), 1);
    check_cost(range(10), |state, posts| {
        assert_eq!(state.select(posts.key(1).range(20..30)).unwrap().len(), 10);
    });
    check_cost(range(100), |state, posts| {
        assert_eq!(state.select(posts.key(1).all().keys()).unwrap().len(), 100);
    });
    check_cost(range(2), |state, posts| {
        let last = state.select(posts.key(1).all().reverse().limit(2).keys()).unwrap();
        assert_eq!(last, [99, 98]);
    });
    check_cost(range(0), |state, posts| {
        assert!(state.select(posts.key(1).range(200..)).unwrap().is_empty());
    });
}

#[test]
fn several_paths_cost_what_they_cost_alone() {
    check_cost(Io { reads: 2, scans: 1, rows_scanned: 5, ..Io::default() }, |state, posts| {
        let user = posts.key(1);
        state.select((user.clone().key(1), user.clone().key(2), user.range(..5))).unwrap();
    });
}

#[test]
fn writes_read_nothing() {
    check_cost(Io { puts: 1, ..Io::default() }, |state, posts| {
        state.put(posts.key(1).key(7), "changed".to_owned()).unwrap();
    });
    check_cost(Io { deletes: 1, ..Io::default() }, |state, posts| {
        state.delete(posts.key(1).key(7)).unwrap();
    });
    check_cost(Io { deletes: 1, ..Io::default() }, |state, posts| {
        state.delete(posts.key(1).key(700)).unwrap();
    });
    check_cost(Io { range_deletes: 1, ..Io::default() }, |state, posts| {
        state.run(async |at| Ok(at.delete_range(posts.key(1).range(20..))?)).unwrap();
    });
}

#[test]
fn deleting_a_parent_is_one_range_delete() {
    check_cost(Io { range_deletes: 1, ..Io::default() }, |state, posts| {
        state.delete(posts.key(1)).unwrap();
    });
    let state = posts();
    state.delete(state.token().key(1)).unwrap();
    for (user, count) in [(0, 100), (1, 0), (2, 100)] {
        assert_eq!(state.select(state.token().key(user).all()).unwrap().len(), count);
    }
}

#[test]
fn an_update_is_a_read_and_a_write() {
    check_cost(Io { reads: 1, puts: 1, ..Io::default() }, |state, posts| {
        let change = |old: Option<String>| old.map(|text| text + "!");
        state.run(async |at| Ok(at.update(posts.key(1).key(7), change).await?)).unwrap();
    });
}

#[test]
fn aggregators_read_what_they_say() {
    let counted = || Io { prefetched: 1, reads: 1, puts: 1, ..Io::default() };
    let numbers = TestPState::<Map<u8, u64>>::new().unwrap();
    let number = numbers.token().key(1);
    numbers.aggregate(vec![number.clone().add(Sum(5)), number.clone().add(Sum(6))]).unwrap();
    assert_eq!(numbers.take_io(), counted(), "combined first");
    numbers.aggregate(number.clone().add(Last(7))).unwrap();
    assert_eq!(numbers.take_io(), Io { puts: 1, ..Io::default() });
    numbers.aggregate((number.clone().add(Count), number.clone().add(Sum(1)))).unwrap();
    assert_eq!(numbers.take_io().reads, 2, "apart");
    assert_eq!(numbers.select(number).unwrap(), Some(9));

    let sets = TestPState::<Map<u8, Sub<Set<u8>, Uncounted>>>::new().unwrap();
    let set = sets.token().key(1);
    sets.aggregate(set.clone().add(SetOf(3))).unwrap();
    assert_eq!(sets.take_io(), Io { puts: 1, ..Io::default() });
    sets.aggregate(set.clone().add(SetRemove(3))).unwrap();
    assert_eq!(sets.take_io(), Io { deletes: 1, ..Io::default() });
    assert!(sets.select(set.all()).unwrap().is_empty());

    let lists = TestPState::<Map<u8, Sub<List<u8>>>>::new().unwrap();
    let list = lists.token().key(1);
    for _ in 0..2 {
        lists.aggregate((0..20).map(|n| list.clone().add(ListOf(n))).collect::<Vec<_>>()).unwrap();
        let (read, written) = (Io { prefetched: 1, reads: 1, ..Io::default() }, 20 + 1);
        assert_eq!(lists.take_io(), Io { puts: written, ..read }, "the head, and the elements");
    }
    assert_eq!(lists.select(list.size()).unwrap(), 40);

    let maps = TestPState::<Map<u8, Sub<Map<u8, u64>, Uncounted>>>::new().unwrap();
    let map = maps.token().key(1);
    maps.aggregate(map.clone().add(MapOf(3, 4))).unwrap();
    assert_eq!(maps.take_io(), Io { puts: 1, ..Io::default() });
    maps.aggregate(map.clone().add(MergeMap(BTreeMap::from([(1, 1), (2, 2)])))).unwrap();
    assert_eq!(maps.take_io(), Io { puts: 2, ..Io::default() });
    maps.aggregate(map.clone().add(MultiSet(3))).unwrap();
    assert_eq!(maps.take_io(), counted());
    assert_eq!(maps.select(map.all()).unwrap(), [(1, 1), (2, 2), (3, 5)]);
}

#[test]
fn what_fails_leaves_nothing() {
    let state = posts();
    let post = || state.token().key(1).key(7);
    let failed = state.run(async |at| {
        at.put(post(), "changed".to_owned())?;
        assert_eq!(at.get(post()).await?.as_deref(), Some("changed"), "sees its own writes");
        Err::<(), _>(Failure::reject("no"))
    });
    assert!(failed.is_err());
    assert_eq!(state.select(post()).unwrap().as_deref(), Some("post 7"));
}

#[test]
fn a_failed_read_cannot_be_passed_over() {
    let state = TestPState::<Map<u8, String>>::new().unwrap();
    let numbers = Owned::<Map<u8, u64>, Test>::from_id(state.token().id());
    state.put(numbers.key(1), 5).unwrap();
    let passed_over = state.run(async |at| {
        let found = at.get(state.token().key(1)).await.unwrap_or_default();
        Ok(at.put(state.token().key(2), found.unwrap_or_default())?)
    });
    assert!(passed_over.is_err());
    assert_eq!(state.select(state.token().key(2)).unwrap(), None);
}

#[test]
fn a_harness_counts_for_each_node() {
    let ((depot, sums, log), module) = module::define("test", |m| {
        let depot = m.depot::<(u32, i64)>("items").hash_by(|(key, _)| key);
        let t = m.microbatch(|| "t");
        let sums = t.pstate::<Map<u32, i64>>("sums");
        let log = t.pstate::<Map<u32, Sub<Map<u64, i64>, Uncounted>>>("log");
        t.source(depot)
            .using(log)
            .filter_map(async move |at, log, (key, n): (u32, i64)| {
                at.put(log.key(key).key(at.random()), n)?;
                Ok(Some((key, n)))
            })
            .aggregate(sums, |sums, (key, n)| sums.key(key).add(Sum(n)));
        (depot, sums.reader(), log.reader())
    })
    .unwrap();
    let mut harness = Harness::new(module, 4).unwrap();
    for n in 0..40 {
        harness.append(depot, &(n % 4, 1)).unwrap();
    }
    let ran = harness.run().unwrap().remove(0);
    assert_eq!(ran.io[&NodeIndex(0)], Io { puts: 40, ..Io::default() });
    let applied = Io { prefetched: 4, reads: 4, puts: 4, ..Io::default() };
    assert_eq!(ran.io[&NodeIndex(1)], applied);
    assert_eq!(harness.select(sums.key(3)).unwrap(), Some(10));
    assert_eq!(harness.select(log.key(3).all()).unwrap().len(), 10);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Through all layers: own writes, the memtable, the tree, and a tree that has to be read.
    #[test]
    fn acts_like_a_map(
        ops in vec((0_u32..4, 0_u32..30, ".{0,40}", 0_u8..12), 1..120),
        (low, high) in (0_u32..30, 0_u32..30),
    ) {
        let mut state = TestPState::<Posts>::new().unwrap();
        let posts = state.token();
        let mut model: BTreeMap<(u32, u32), String> = BTreeMap::new();
        for (user, post, text, op) in ops {
            match op {
                0 => state.fold(),
                1 => state.reopen(),
                2 => {
                    state.delete(posts.key(user)).unwrap();
                    model.retain(|(other, _), _| *other != user);
                }
                3 | 4 => {
                    state.delete(posts.key(user).key(post)).unwrap();
                    model.remove(&(user, post));
                }
                _ => {
                    state.put(posts.key(user).key(post), text.clone()).unwrap();
                    model.insert((user, post), text);
                }
            }
            let found = state.select(posts.key(user).key(post)).unwrap();
            prop_assert_eq!(found.as_ref(), model.get(&(user, post)));
        }
        for user in 0..4 {
            let all: Vec<_> = model.iter().filter(|((of, _), _)| *of == user).collect();
            let all: Vec<_> = all.into_iter().map(|((_, post), text)| (*post, text.clone())).collect();
            prop_assert_eq!(&state.select(posts.key(user).all()).unwrap(), &all);
            let within: Vec<_> = all.into_iter().filter(|(post, _)| (low..high).contains(post)).collect();
            prop_assert_eq!(state.select(posts.key(user).range(low..high)).unwrap(), within);
        }
    }
}
