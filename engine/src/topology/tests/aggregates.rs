//! Aggregators, and how many rows travel for them.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use serde::{Deserialize, Serialize};

use super::{append, items, launch};
use crate::schema::aggregate::{Combine, Count, First, Last, ListOf, Max, Merge, Min, SetOf, Sum};
use crate::schema::{Map, Set, Sub};
use crate::topology::NodeIndex;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Extent {
    lowest: i64,
    highest: i64,
}

impl Merge for Extent {
    fn merge(&mut self, other: Self) {
        self.lowest = self.lowest.min(other.lowest);
        self.highest = self.highest.max(other.highest);
    }
}

#[test]
fn every_aggregator_gives_what_a_fold_gives() {
    let (handles, engine) = launch(|m| {
        let depot = items(m);
        let t = m.microbatch(|| "t");
        let sum = t.pstate::<Map<u32, i64>>("sum");
        let count = t.pstate::<Map<u32, u64>>("count");
        let min = t.pstate::<Map<u32, i64>>("min");
        let max = t.pstate::<Map<u32, i64>>("max");
        let first = t.pstate::<Map<u32, i64>>("first");
        let last = t.pstate::<Map<u32, i64>>("last");
        let list = t.pstate::<Map<u32, Vec<i64>>>("list");
        let set = t.pstate::<Map<u32, BTreeSet<i64>>>("set");
        let subset = t.pstate::<Map<u32, Sub<Set<i64>>>>("subset");
        let extent = t.pstate::<Map<u32, Extent>>("extent");
        t.source(depot)
            .also(|items| {
                items.aggregate((sum, count, min, max), |(sum, count, min, max), item| {
                    let (key, value) = (item.key, item.value);
                    (
                        sum.key(key).add(Sum(value)),
                        count.key(key).add(Count),
                        min.key(key).add(Min(value)),
                        max.key(key).add(Max(value)),
                    )
                })
            })
            .also(|items| {
                items.aggregate((first, last, list), |(first, last, list), item| {
                    let (key, value) = (item.key, item.value);
                    (
                        first.key(key).add(First(value)),
                        last.key(key).add(Last(value)),
                        list.key(key).add(ListOf(value)),
                    )
                })
            })
            .aggregate((set, subset, extent), |(set, subset, extent), item| {
                let value = item.value;
                (
                    set.key(item.key).add(SetOf(value)),
                    subset.key(item.key).add(SetOf(value)),
                    extent.key(item.key).add(Combine(Extent { lowest: value, highest: value })),
                )
            });
        let numbers = (sum.reader(), count.reader(), min.reader(), max.reader());
        let others = (first.reader(), last.reader(), list.reader());
        (depot, numbers, others, (set.reader(), subset.reader(), extent.reader()))
    });
    let (depot, (sum, count, min, max), (first, last, list), (set, subset, extent)) = handles;
    let mut engine = engine.cold().ordered_by(3).batches_of(7);
    let values = |key: u32| (0..40).map(move |n| i64::from((n * 37 + key) % 23) - 11);
    // Over two microbatches, so that stored values are met too.
    for half in 0..2 {
        for key in 0..20 {
            append(&mut engine, depot, values(key).skip(half * 20).take(20).map(|v| (key, v)));
        }
        engine.run().unwrap();
    }
    for key in 0..20 {
        let all: Vec<_> = values(key).collect();
        let distinct: BTreeSet<_> = all.iter().copied().collect();
        let numbers = (sum.key(key), count.key(key), min.key(key), max.key(key));
        assert_eq!(
            engine.select(numbers).unwrap(),
            (Some(all.iter().sum()), Some(40), distinct.first().copied(), distinct.last().copied())
        );
        let (first, last, list) =
            engine.select((first.key(key), last.key(key), list.key(key))).unwrap();
        assert_eq!((first, last), (all.first().copied(), all.last().copied()));
        assert_eq!(list, Some(all.clone()));
        assert_eq!(engine.select(set.key(key)).unwrap(), Some(distinct.clone()));
        let elements = engine.select(subset.key(key).all()).unwrap();
        assert_eq!(elements, distinct.iter().copied().collect::<Vec<_>>());
        assert_eq!(
            engine.select(extent.key(key)).unwrap(),
            Some(Extent { lowest: *distinct.first().unwrap(), highest: *distinct.last().unwrap() })
        );
    }
}

#[test]
fn changes_of_a_row_are_combined_before_they_travel() {
    let ((depot, sums), mut engine) = launch(|m| {
        let depot = m.depot::<(u32, i64)>("pairs").random();
        let t = m.microbatch(|| "t");
        let sums = t.pstate::<Map<u32, i64>>("sums");
        t.source(depot).aggregate(sums, |sums, (key, value)| sums.key(key).add(Sum(value)));
        (depot, sums.reader())
    });
    // Whether its records are run at once or in many runs of the event.
    for (batch, rounds) in [(usize::MAX, 1), (7, 2)] {
        engine = engine.batches_of(batch);
        for n in 0..8_000_u32 {
            // The partitions take turns, so each of them sees each of the 100 keys.
            engine.append(depot, &(n / 8 % 100, 1)).unwrap();
        }
        let ran = engine.run().unwrap();
        assert_eq!(ran[0].rows[&NodeIndex(1)], 8 * 100, "one per key and sending partition");
        assert_eq!(ran[0].prefetched, 8 * 100);
        assert_eq!(engine.select(sums.key(17)).unwrap(), Some(80 * rounds));
        assert_eq!(engine.select(sums.all()).unwrap().len(), 100);
    }
}

#[test]
fn what_is_stored_is_read_ahead_and_only_if_needed() {
    let ((depot, sums), engine) = launch(|m| {
        let depot = items(m);
        let t = m.microbatch(|| "t");
        let sums = t.pstate::<Map<u32, i64>>("sums");
        let last = t.pstate::<Map<u32, i64>>("last");
        t.source(depot).aggregate((sums, last), |(sums, last), item| {
            (sums.key(item.key).add(Sum(item.value)), last.key(item.key).add(Last(item.value)))
        });
        (depot, sums.reader())
    });
    let mut engine = engine.cold();
    append(&mut engine, depot, (0..30).map(|key| (key, 1)));
    let ran = engine.run().unwrap();
    assert_eq!(ran[0].prefetched, 30, "`Last` needs no old value");
    assert_eq!(ran[0].misses, 0);
    assert_eq!(engine.select(sums.key(3)).unwrap(), Some(1));
}

#[test]
fn different_aggregators_of_one_row_keep_their_order() {
    let ((depot, values), mut engine) = launch(|m| {
        let depot = items(m);
        let t = m.microbatch(|| "t");
        let values = t.pstate::<Map<u32, i64>>("values");
        t.source(depot).aggregate(values, |values, item| {
            let value = values.key(item.key);
            if item.value < 0 { value.add(Last(-item.value)) } else { value.add(Sum(item.value)) }
        });
        (depot, values.reader())
    });
    append(&mut engine, depot, [(1, 1_000)]);
    engine.run().unwrap();
    append(&mut engine, depot, [(1, 5), (1, 6), (1, -100), (1, 7), (1, 8)]);
    engine.run().unwrap();
    assert_eq!(engine.select(values.key(1)).unwrap(), Some(115));
}

#[test]
fn an_aggregator_can_remove_the_row() {
    struct Drain(i64);

    impl crate::schema::Aggregate<i64> for Drain {
        type Partial = i64;

        fn partial(self) -> i64 {
            self.0
        }

        fn combine(a: &mut i64, b: i64) {
            *a += b;
        }

        fn apply(partial: i64, old: Option<i64>) -> Option<i64> {
            old.map(|old| old - partial).filter(|left| *left > 0)
        }
    }

    let ((depot, values), mut engine) = launch(|m| {
        let depot = items(m);
        let t = m.microbatch(|| "t");
        let values = t.pstate::<Map<u32, i64>>("values");
        t.source(depot)
            .also(|items| {
                items
                    .filter(|item| item.value > 0)
                    .aggregate(values, |values, item| values.key(item.key).add(Sum(item.value)))
            })
            .filter(|item| item.value < 0)
            .aggregate(values, |values, item| values.key(item.key).add(Drain(-item.value)));
        (depot, values.reader())
    });
    append(&mut engine, depot, [(1, 5), (2, 9)]);
    engine.run().unwrap();
    append(&mut engine, depot, [(1, -5), (2, -3), (3, -1)]);
    engine.run().unwrap();
    assert_eq!(engine.select(values.all()).unwrap(), [(2, 6)]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// With one sender, combining must not be seen, whatever aggregators meet in one row, however
    /// the records are cut into batches and microbatches, and however long changes wait for others.
    #[test]
    fn combining_is_never_seen(
        changes in prop::collection::vec((0_u32..150, 0_u8..4, -50_i64..50), 1..600),
        rows in 1_usize..200,
        held_bytes in prop_oneof![Just(0), 200_usize..20_000, Just(usize::MAX)],
        cut in 0_usize..600,
        order: u64,
    ) {
        let ((depot, values), engine) = launch(|m| {
            let depot = m.depot::<(u32, u8, i64)>("changes").single();
            let t = m.microbatch(|| "t");
            let values = t.pstate::<Map<u32, i64>>("values");
            t.source(depot).aggregate(values, |values, (key, how, value)| {
                let path = values.key(key);
                match how {
                    0 => path.add(Sum(value)),
                    1 => path.add(Last(value)),
                    2 => path.add(Min(value)),
                    _ => path.add(Max(value)),
                }
            });
            (depot, values.reader())
        });
        let mut engine = engine.cold().batches_of(rows).holding(held_bytes).ordered_by(order);
        let mut model = BTreeMap::new();
        for (nth, &(key, how, value)) in changes.iter().enumerate() {
            if nth == cut {
                engine.run().unwrap();
            }
            engine.append(depot, &(key, how, value)).unwrap();
            let old = model.get(&key).copied();
            let new = match how {
                0 => old.unwrap_or(0) + value,
                1 => value,
                2 => old.map_or(value, |old| value.min(old)),
                _ => old.map_or(value, |old| value.max(old)),
            };
            model.insert(key, new);
        }
        engine.run().unwrap();
        let found: BTreeMap<_, _> = engine.select(values.all()).unwrap().into_iter().collect();
        prop_assert_eq!(found, model);
    }
}
