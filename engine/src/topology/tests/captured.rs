//! Flows that go on behind an aggregation.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use serde::{Deserialize, Serialize};

use super::{append, items, launch};
use crate::schema::aggregate::{Last, ListOf, Sum, Void};
use crate::schema::{Initial, Initially, List, Map, Single, Sub};
use crate::topology::{Failure, FailureKind, NodeIndex};

/// What was captured: the key, and the new value.
type Captured = (u32, Option<i64>);

#[test]
fn a_flow_goes_on_with_the_new_value_where_it_lives() {
    let ((depot, full), mut engine) = launch(|m| {
        let depot = m.depot::<(u32, i64)>("pairs").random();
        let t = m.microbatch(|| "t");
        let sums = t.pstate::<Map<u32, i64>>("sums");
        let full = t.pstate::<Map<u32, (i64, bool)>>("full");
        t.source(depot)
            .aggregate_into(sums, |sums, (key, value)| (key, sums.key(key).add(Sum(value))))
            .filter(|(_, sum)| sum.is_some_and(|sum| sum >= 100))
            // No hop: it is where the key lives.
            .using((sums, full))
            .for_each(async |at, (sums, full), (key, sum): Captured| {
                let is_stored = at.get(sums.key(key)).await? == sum;
                Ok(at.put(full.key(key), (sum.unwrap_or_default(), is_stored))?)
            });
        (depot, full.reader())
    });
    for n in 0..160_u32 {
        engine.append(depot, &(n % 4, i64::from(n % 4))).unwrap();
    }
    engine.run().unwrap();
    assert_eq!(engine.select(full.all()).unwrap(), [(3, (120, true))]);
    for _ in 0..2 {
        engine.append(depot, &(2, 11)).unwrap();
    }
    engine.run().unwrap();
    assert_eq!(engine.select(full.all()).unwrap(), [(2, (102, true)), (3, (120, true))]);
}

#[test]
fn of_one_sender_each_row_that_was_added_to_comes_once() {
    let ((depot, came), mut engine) = launch(|m| {
        let depot = m.depot::<(u32, i64)>("pairs").single();
        let t = m.microbatch(|| "t");
        let sums = t.pstate::<Map<u32, i64>>("sums");
        let came = t.pstate::<Map<u32, Sub<List<Captured>>>>("came");
        t.source(depot)
            .aggregate_into(sums, |sums, (key, value)| {
                let row = sums.key(key);
                if value == 0 { vec![] } else { vec![(key, row.add(Sum(value)))] }
            })
            .hash_by(|(key, _)| key)
            .using(came)
            .for_each(async |at, came, it: Captured| Ok(at.push(came.key(it.0), it).await?));
        (depot, came.reader())
    });
    engine = engine.batches_of(3);
    for records in
        [[(1, 5), (2, 7), (1, 6), (3, 0), (1, 0)], [(2, 1), (1, -11), (2, -8), (1, 0), (2, 2)]]
    {
        for record in records {
            engine.append(depot, &record).unwrap();
        }
        let ran = engine.run().unwrap();
        assert_eq!(ran[0].rows[&NodeIndex(1)], 2, "changes travel combined");
        assert_eq!(ran[0].rows[&NodeIndex(2)], 2);
    }
    let of = |key: u32| engine.select(came.key(key).all()).unwrap();
    assert_eq!(of(1), [(1, Some(11)), (1, Some(0))]);
    assert_eq!(of(2), [(2, Some(7)), (2, Some(2))]);
    assert_eq!(of(3), [], "nothing was added to it");
}

#[test]
fn a_row_that_a_batch_changes_several_times_comes_once_with_the_last_value() {
    let ((depot, came), mut engine) = launch(|m| {
        let depot = m.depot::<(u32, i64)>("pairs").single();
        let t = m.microbatch(|| "t");
        let values = t.pstate::<Map<u32, i64>>("values");
        let came = t.pstate::<Map<u32, Sub<List<Captured>>>>("came");
        t.source(depot)
            // Partials of different aggregators are not combined.
            .aggregate_into(values, |values, (key, value)| {
                let row = values.key(key);
                (key, if value < 0 { row.add(Last(-value)) } else { row.add(Sum(value)) })
            })
            .aggregate(came, |came, it: Captured| came.key(it.0).add(ListOf(it)));
        (depot, came.reader())
    });
    for value in [1, 2, -100, 3, 4] {
        engine.append(depot, &(5, value)).unwrap();
    }
    let ran = engine.run().unwrap();
    assert_eq!(ran[0].rows[&NodeIndex(1)], 3, "changes that are not combined");
    assert_eq!(engine.select(came.key(5).all()).unwrap(), [(5, Some(107))]);
}

#[test]
fn a_row_that_is_removed_comes_without_a_value() {
    let ((depot, came), mut engine) = launch(|m| {
        let depot = items(m);
        let t = m.microbatch(|| "t");
        let values = t.pstate::<Map<u32, i64>>("values");
        let came = t.pstate::<Map<u32, Captured>>("came");
        t.source(depot)
            .filter(|item| item.value >= 0)
            .aggregate(values, |values, item| values.key(item.key).add(Last(item.value)));
        t.source(depot)
            .filter(|item| item.value < 0)
            .aggregate_into(values, |values, item| Some((item.key, values.key(item.key).add(Void))))
            .aggregate(came, |came, it| came.key(it.0).add(Last(it)));
        (depot, came.reader())
    });
    append(&mut engine, depot, [(1, 5), (2, 6)]);
    engine.run().unwrap();
    append(&mut engine, depot, [(2, -1)]);
    engine.run().unwrap();
    assert_eq!(engine.select(came.all()).unwrap(), [(2, (2, None))]);
}

/// A hundred at first.
enum Hundred {}

impl Initial for Hundred {
    type Value = i64;

    fn value() -> i64 {
        100
    }
}

#[test]
fn a_value_with_an_initial_one_is_never_missing() {
    let ((depot, came), mut engine) = launch(|m| {
        let depot = items(m);
        let t = m.microbatch(|| "t");
        let left = t.pstate::<Single<Initially<Hundred>>>("left");
        let came = t.pstate::<Map<i64, u32>>("came");
        t.source(depot)
            .aggregate_into(left, |left, item| {
                let left = left.whole();
                let how = if item.value < 0 { left.add(Sum(item.value)) } else { return None };
                Some((item.key, how))
            })
            .aggregate(came, |came, (key, left): (u32, i64)| came.key(left).add(Last(key)));
        (depot, came.reader())
    });
    append(&mut engine, depot, [(7, -30), (7, 5), (7, -3)]);
    engine.run().unwrap();
    assert_eq!(engine.select(came.all()).unwrap(), [(67, 7)]);
}

#[test]
fn a_row_that_fails_behind_an_aggregation_names_no_record() {
    #[derive(Debug, thiserror::Error)]
    #[error("too much")]
    struct TooMuch;

    let ((depot, hops), mut engine) = launch(|m| {
        let depot = items(m);
        let t = m.microbatch(|| "t");
        let sums = t.pstate::<Map<u32, i64>>("sums");
        let hops = t.pstate::<Map<u32, i64>>("hops");
        t.source(depot)
            .aggregate_into(sums, |sums, item| (item.key, sums.key(item.key).add(Sum(item.value))))
            .hash_by_value(|(key, _)| key + 1)
            .using(hops)
            .for_each(async |at, hops, (key, sum): Captured| match sum {
                Some(10..) => Err(Failure::reject(TooMuch)),
                sum => Ok(at.put(hops.key(key + 1), sum.unwrap_or_default())?),
            });
        (depot, hops.reader())
    });
    append(&mut engine, depot, [(1, 4), (2, 7), (1, 5), (2, 3)]);
    let failure = engine.run().unwrap_err();
    assert_eq!((failure.kind, failure.origin), (FailureKind::Reject, None), "{failure}");
    assert!(failure.to_string().contains("too much"), "{failure}");
    assert_eq!(engine.select(hops.all()).unwrap(), [], "nothing is left of the attempt");
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Drawn {
    key: u32,
    id: u128,
}

#[test]
fn ids_drawn_behind_an_aggregation_differ() {
    let ((depot, drawn), mut engine) = launch(|m| {
        let depot = m.depot::<(u32, i64)>("pairs").random();
        let t = m.microbatch(|| "t");
        let sums = t.pstate::<Map<u32, i64>>("sums");
        let drawn = t.pstate::<Map<u128, u32>>("drawn");
        t.source(depot)
            .aggregate_into(sums, |sums, (key, value)| (key, sums.key(key).add(Sum(value))))
            .filter_map(async |at, (key, _): Captured| Ok(Some(Drawn { key, id: at.unique_id() })))
            .hash_by(|it| &it.id)
            .using(drawn)
            .for_each(async |at, drawn, it: Drawn| Ok(at.put(drawn.key(it.id), it.key)?));
        (depot, drawn.reader())
    });
    for n in 0..400_u32 {
        engine.append(depot, &(n % 10, 1)).unwrap();
    }
    let ran = engine.run().unwrap();
    let captured = ran[0].rows[&NodeIndex(2)];
    assert!(captured >= 10);
    assert_eq!(engine.select(drawn.all()).unwrap().len(), captured);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// However changes travel: every row that was added to comes in each microbatch, and ends with what is stored.
    #[test]
    fn the_last_captured_value_is_the_stored_one(
        microbatches in prop::collection::vec(
            prop::collection::vec((0_u32..20, -9_i64..9), 0..80), 1..5),
        rows in 1_usize..40,
        held_bytes in prop_oneof![Just(0), 200_usize..5_000, Just(usize::MAX)],
        order: u64,
    ) {
        let ((depot, sums, came), engine) = launch(|m| {
            let depot = m.depot::<(u32, i64)>("pairs").random();
            let t = m.microbatch(|| "t");
            let sums = t.pstate::<Map<u32, i64>>("sums");
            let came = t.pstate::<Map<u32, Sub<List<Option<i64>>>>>("came");
            t.source(depot)
                .aggregate_into(sums, |sums, (key, value)| (key, sums.key(key).add(Sum(value))))
                .using(came)
                .for_each(async |at, came, (key, sum): Captured| {
                    Ok(at.push(came.key(key), sum).await?)
                });
            (depot, sums.reader(), came.reader())
        });
        let mut engine = engine.cold().batches_of(rows).holding(held_bytes).ordered_by(order);
        let mut model = BTreeMap::<u32, i64>::new();
        let mut seen = BTreeMap::<u32, usize>::new();
        for records in microbatches {
            for &(key, value) in &records {
                engine.append(depot, &(key, value)).unwrap();
                *model.entry(key).or_default() += value;
            }
            engine.run().unwrap();
            let added: BTreeSet<u32> = records.iter().map(|&(key, _)| key).collect();
            for key in 0..20 {
                let all = engine.select(came.key(key).all()).unwrap();
                let before = seen.insert(key, all.len()).unwrap_or(0);
                let most = if added.contains(&key) { records.len() } else { 0 };
                let least = usize::from(added.contains(&key));
                prop_assert!((least..=most).contains(&(all.len() - before)));
                prop_assert_eq!(all.last().copied().flatten(), model.get(&key).copied());
                prop_assert_eq!(engine.select(sums.key(key)).unwrap(), model.get(&key).copied());
            }
        }
    }
}
