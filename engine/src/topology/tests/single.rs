//! `PState`s that live in one partition.

use super::{append, items, launch};
use crate::schema::aggregate::{Count, First, MapOf, Min, SetOf, Sum, Void};
use crate::schema::ast::{Function, Functions, Query, Term, Value};
use crate::schema::{Initial, Initially, List, Map, PState, Schema, Set, Single, Sub};
use crate::testing::TestPState;
use crate::topology::StateError;

#[derive(Schema)]
struct Facts {
    name: String,
    total: i64,
    tags: Sub<Set<String>>,
    by_key: Sub<Map<u32, Sub<List<i64>>>>,
}

fn query(text: &str) -> Query {
    Query::from_json(&serde_json::from_str(text).unwrap()).unwrap()
}

#[test]
fn everything_can_be_single_and_is_reached_from_everywhere_by_aggregates() {
    let ((depot, count, facts, latest, seen), mut engine) = launch(|m| {
        let depot = items(m);
        let t = m.microbatch(|| "t");
        let count = t.pstate::<Single<u64>>("count");
        let facts = t.pstate::<Single<Facts>>("facts");
        let latest = t.pstate::<Single<Sub<Map<u32, i64>>>>("latest");
        let seen = t.pstate::<Single<Sub<Set<u32>>>>("seen");
        t.source(depot).aggregate(
            (count, facts, latest, seen),
            |(count, facts, latest, seen), it| {
                (
                    count.whole().add(Count),
                    facts.field(|it| it.total).add(Sum(it.value)),
                    facts.field(|it| it.tags).add(SetOf(format!("tag {}", it.value % 3))),
                    latest.whole().add(MapOf(it.key, it.value)),
                    seen.whole().add(SetOf(it.key)),
                )
            },
        );
        (depot, count.reader(), facts.reader(), latest.reader(), seen.reader())
    });
    append(&mut engine, depot, (0..100).map(|n| (n % 20, i64::from(n))));
    let ran = engine.run().unwrap();
    // From each of the partitions with records a single partial went to the counter.
    let counted = ran[0].rows.values().next().unwrap();
    assert!((2..=8).contains(counted), "{ran:?}");

    assert_eq!(engine.select(count.whole()).unwrap(), Some(100));
    assert_eq!(engine.select(facts.field(|it| it.total)).unwrap(), Some(4_950));
    assert_eq!(engine.select(facts.field(|it| it.tags).size()).unwrap(), 3);
    assert_eq!(engine.select(latest.size()).unwrap(), 20);
    assert_eq!(engine.select(latest.key(7)).unwrap(), Some(87));
    assert_eq!(engine.select(latest.range(18..)).unwrap(), [(18, 98), (19, 99)]);
    assert_eq!(engine.select(seen.all()).unwrap(), (0..20).collect::<Vec<_>>());
    assert!(engine.select((seen.has(3), latest.key(3), count.whole())).unwrap().0);
    // All of it lies in partition 0.
    assert!(engine.dump().iter().all(|(partition, ..)| partition.0 == 0));

    let ask = |pstate: u32, path: &str| -> Vec<Value> {
        let pstate = PState::<Single<u64>>::from_id(crate::types::PStateId(pstate));
        engine.query(pstate, &query(path), &Functions::none()).unwrap()
    };
    assert_eq!(ask(0, "[]"), [Value::from(100)]);
    assert_eq!(ask(1, r#"[["key","total"]]"#), [Value::from(4_950)]);
    assert_eq!(ask(2, r#"[["key",7]]"#), [Value::from(87)]);
    assert_eq!(ask(2, r#"["size"]"#), [Value::from(20)]);
    assert_eq!(ask(3, r#"["first"]"#), [Value::from(0)]);
}

#[test]
fn it_is_written_where_it_lives_and_nowhere_else() {
    let (depot, mut engine) = launch(|m| {
        let depot = items(m);
        let t = m.microbatch(|| "t");
        let log = t.pstate::<Single<Sub<List<i64>>>>("log");
        let limit = t.pstate::<Single<i64>>("limit");
        t.source(depot).also(|b| {
            b.using((limit, log)).for_each(async |at, (limit, log), item| {
                let elsewhere = at.partition().0 != 0;
                let put = at.put(limit.whole(), item.value);
                let got = at.get(limit.whole()).await;
                let asked = at.query::<Value>(limit, &query("[]")).await;
                let set = Term::Set(Value::from(item.value));
                let changed = at.transform(limit, &query("[]"), &set).await;
                let pushed = at.push(log.whole(), item.value).await;
                let refused =
                    [put.is_err(), got.is_err(), asked.is_err(), changed.is_err(), pushed.is_err()];
                assert_eq!(refused, [elsewhere; 5], "on {}", at.partition());
                if let Err(error @ StateError::Misplaced { .. }) = put {
                    assert!(
                        error.to_string().ends_with(
                            "the key lives on partition 0; the whole PState does, since it is `Single`: go there \
                             by `global()`, or let `aggregate` do it"
                        ),
                        "{error}"
                    );
                }
                Ok(())
            })
        })
        .global()
        .using(log)
        .for_each(async |at, log, item| {
            at.push(log.whole(), item.value).await?;
            if item.value == 9 {
                at.remove(log.whole(), 0).await?;
            }
            Ok(())
        });
        depot
    });
    append(&mut engine, depot, (0..40).map(|key| (key, 5)));
    engine.run().unwrap();
}

#[test]
fn in_the_store_it_is_written_read_and_deleted_like_any_other() {
    let mut count = TestPState::<Single<u64>>::new().unwrap();
    let it = count.token();
    assert_eq!(count.select(it.whole()).unwrap(), None);
    count.aggregate(vec![it.whole().add(Sum(3)), it.whole().add(Sum(4))]).unwrap();
    count.reopen();
    assert_eq!(count.select(it.whole()).unwrap(), Some(7));
    count.run(async |at| Ok(at.update(it.whole(), |old| old.map(|it| it * 6)).await?)).unwrap();
    count.reopen();
    assert_eq!(count.select(it.whole()).unwrap(), Some(42));
    count.delete(it.whole()).unwrap();
    count.reopen();
    assert_eq!(count.select(it.whole()).unwrap(), None);

    let mut facts = TestPState::<Single<Facts>>::new().unwrap();
    let it = facts.token();
    facts.put(it.field(|it| it.name), "ann".to_owned()).unwrap();
    let push = async |key, value| {
        facts.run(async |at| Ok(at.push(it.field(|it| it.by_key).key(key), value).await?))
    };
    for (key, value) in [(1, 10), (2, 20), (1, 11)] {
        futures_lite::future::block_on(push(key, value)).unwrap();
    }
    facts.put(it.field(|it| it.tags).has("a"), true).unwrap();
    facts.reopen();
    let lists = it.field(|it| it.by_key);
    assert_eq!(facts.select(lists.clone().size()).unwrap(), 2);
    assert_eq!(facts.select(lists.key(1).all()).unwrap(), [10, 11]);
    let all = facts.run(async |at| Ok(at.query::<Value>(it, &query("[]")).await?)).unwrap();
    assert_eq!(
        all[0].to_json().unwrap().to_string(),
        r#"{"by_key":{"$map":[[1,[10,11]],[2,[20]]]},"name":"ann","tags":["a"]}"#
    );
    facts.delete(it.whole()).unwrap();
    facts.reopen();
    let all = facts.run(async |at| Ok(at.query::<Value>(it, &query("[]")).await?)).unwrap();
    assert!(all[0].to_json().unwrap().is_null(), "{all:?}");
}

/// What is there before anything is written.
enum Hundred {}

impl Initial for Hundred {
    type Value = i64;

    fn value() -> i64 {
        100
    }
}

#[test]
fn an_initial_value_is_seen_wherever_nothing_was_written() {
    let ((depot, left, seen), mut engine) = launch(|m| {
        let depot = items(m);
        let t = m.microbatch(|| "t");
        let left = t.pstate::<Single<Initially<Hundred>>>("left");
        let seen = t.pstate::<Single<Sub<List<(i64, i64)>>>>("seen");
        t.source(depot).global().using((left, seen)).for_each(async |at, (left, seen), item| {
            let before = at.get(left.whole()).await?;
            let asked: Vec<i64> = at.query(left, &query("[]")).await?;
            at.push(seen.whole(), (before, asked[0])).await?;
            match item.value {
                -1 => at.reset(left.whole())?,
                -2 => {
                    let halved = Function::of(|it: i64| Some(it / 2));
                    at.transform(left, &query("[]"), &Term::Apply(halved)).await?;
                }
                value => at.put(left.whole(), before - value)?,
            }
            Ok(())
        });
        (depot, left.reader(), seen.reader())
    });
    let ask = |engine: &crate::topology::harness::Harness| {
        let asked = engine.query::<i64>(left, &query("[]"), &Functions::none()).unwrap();
        assert_eq!(asked, [engine.select(left.whole()).unwrap()]);
        let large = query(r#"[["compare",">",99]]"#);
        let large = engine.query::<i64>(left, &large, &Functions::none()).unwrap();
        (asked[0], large.len())
    };
    assert_eq!(ask(&engine), (100, 1));
    append(&mut engine, depot, [(1, 30)]);
    engine.run().unwrap();
    assert_eq!(ask(&engine), (70, 0));
    append(&mut engine, depot, [(1, -1)]);
    engine.run().unwrap();
    assert_eq!(ask(&engine), (100, 1));
    assert!(engine.dump().iter().all(|(_, pstate, ..)| pstate.0 == 1), "no row stands for it");
    append(&mut engine, depot, [(1, -2)]);
    engine.run().unwrap();
    assert_eq!(ask(&engine), (50, 0));
    let expected = [(100, 100), (70, 70), (100, 100)];
    assert_eq!(engine.select(seen.all()).unwrap(), expected);
}

#[test]
fn aggregates_begin_with_the_initial_value() {
    let left = TestPState::<Single<Initially<Hundred>>>::new().unwrap();
    let it = left.token();
    left.aggregate(vec![it.whole().add(Sum(-1)), it.whole().add(Sum(-2))]).unwrap();
    assert_eq!(left.select(it.whole()).unwrap(), 97);
    for _ in 0..2 {
        left.aggregate(it.whole().add(Void)).unwrap();
        assert_eq!(left.select(it.whole()).unwrap(), 100);
    }
    left.aggregate(it.whole().add(Min(200))).unwrap();
    assert_eq!(left.select(it.whole()).unwrap(), 100);
    left.run(async |at| Ok(at.reset(it.whole())?)).unwrap();
    left.aggregate(it.whole().add(First(3))).unwrap();
    assert_eq!(left.select(it.whole()).unwrap(), 100, "it was first");
    left.put(it.whole(), 7).unwrap();
    assert_eq!(left.select(it.whole()).unwrap(), 7);
}

#[test]
fn an_update_begins_with_the_initial_value_and_toggles_elements() {
    let left = TestPState::<Single<Initially<Hundred>>>::new().unwrap();
    let it = left.token();
    for expected in [99, 98] {
        left.run(async |at| Ok(at.update(it.whole(), |old| old - 1).await?)).unwrap();
        assert_eq!(left.select(it.whole()).unwrap(), expected);
    }

    let fans = TestPState::<Map<u8, Sub<Set<u16>>>>::new().unwrap();
    let of = |fan| fans.token().key(1).has(fan);
    for expected in [true, false, true] {
        fans.run(async |at| Ok(at.update(of(7), |is_fan| !is_fan).await?)).unwrap();
        assert_eq!(fans.select(of(7)).unwrap(), expected);
        assert_eq!(fans.select(fans.token().key(1).size()).unwrap(), u64::from(expected));
    }
}

#[test]
fn sizes_at_the_root_are_kept_within_an_event_and_over_folds() {
    let mut state = TestPState::<Single<Sub<Map<u8, Sub<Set<u16>>>>>>::new().unwrap();
    let it = state.token();
    let sizes = |state: &TestPState<_>| {
        (state.select(it.size()).unwrap(), state.select(it.key(1).size()).unwrap())
    };
    state
        .run(async |at| {
            for n in 0..30 {
                at.put(it.key(u8::try_from(n % 3).unwrap()).has(n), true)?;
            }
            assert_eq!(at.get((it.size(), it.key(1).size())).await?, (3, 10));
            at.delete(it.key(2))?;
            assert_eq!(at.get(it.size()).await?, 2);
            Ok(())
        })
        .unwrap();
    state.reopen();
    assert_eq!(sizes(&state), (2, 10));
    let removed = state.run(async |at| Ok(at.remove_range(it.key(1).all()).await?)).unwrap();
    assert_eq!(removed, 10);
    state.reopen();
    assert_eq!(sizes(&state), (1, 0));
    state.delete(it.whole()).unwrap();
    assert_eq!(sizes(&state), (0, 0));
    state.reopen();
    assert_eq!(sizes(&state), (0, 0));
}
