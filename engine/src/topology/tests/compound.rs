//! Aggregators into values and into `Sub` collections, and several changes for one row.

use std::collections::{BTreeMap, BTreeSet};

use super::{Item, append, items, launch};
use crate::schema::aggregate::{
    Accumulate, Accumulator, And, Average, Combined, Combiner, Count, Last, Limit, ListOf, MapOf,
    Max, Mean, MergeMap, Min, MultiSet, Or, SetOf, SetRemove, Sum, Top, TopN, Void,
};
use crate::schema::{Map, Set, Sub, Uncounted};
use crate::topology::NodeIndex;

/// The items that key `key` gets, in order.
fn values(key: u32) -> impl Iterator<Item = i64> {
    (0..40).map(move |n| i64::from((n * 37 + key) % 23) - 11)
}

/// Appends all of them over two microbatches, so that stored values are met too.
fn run_all(engine: &mut super::Harness, depot: crate::module::Depot<Item>) {
    for half in 0..2 {
        for key in 0..20 {
            append(engine, depot, values(key).skip(half * 20).take(20).map(|v| (key, v)));
        }
        engine.run().unwrap();
    }
}

/// The least common multiple of those that are not zero.
enum Lcm {}

impl Combiner for Lcm {
    type Value = u64;

    fn zero() -> u64 {
        1
    }

    fn combine(earlier: u64, later: u64) -> u64 {
        let (mut a, mut b) = (earlier, later);
        while b > 0 {
            (a, b) = (b, a % b);
        }
        earlier / a * later
    }
}

/// How often the value rose, and the last one.
enum Rises {}

impl Accumulator for Rises {
    type Input = i64;
    type Value = (u32, Option<i64>);

    fn init() -> (u32, Option<i64>) {
        (0, None)
    }

    fn accumulate((rises, last): &mut (u32, Option<i64>), value: i64) {
        *rises += u32::from(last.is_some_and(|last| last < value));
        *last = Some(value);
    }
}

#[test]
fn eight_aggregators_at_once_into_values() {
    let ((depot, numbers, collections), engine) = launch(|m| {
        let depot = items(m);
        let t = m.microbatch(|| "t");
        let all = t.pstate::<Map<u32, bool>>("all");
        let any = t.pstate::<Map<u32, bool>>("any");
        let mean = t.pstate::<Map<u32, Mean<i64>>>("mean");
        let lcm = t.pstate::<Map<u32, u64>>("lcm");
        let rises = t.pstate::<Map<u32, (u32, Option<i64>)>>("rises");
        let counts = t.pstate::<Map<u32, BTreeMap<i64, u32>>>("counts");
        let top = t.pstate::<Map<u32, Top<u32, i64, 3>>>("top");
        let first = t.pstate::<Map<u32, Vec<i64>>>("first");
        t.source(depot).aggregate(
            (all, any, mean, lcm, rises, counts, top, first),
            |(all, any, mean, lcm, rises, counts, top, first), Item { key, value }| {
                (
                    all.key(key).add(And(value > -11)),
                    any.key(key).add(Or(value == 3)),
                    mean.key(key).add(Average(value)),
                    lcm.key(key).add(Combined::<Lcm>(1 + value.unsigned_abs())),
                    rises.key(key).add(Accumulate::<Rises>(value)),
                    counts.key(key).add(MultiSet(value)),
                    top.key(key % 4).add(TopN(key, value)),
                    first.key(key).add(Limit::<5, _>(value)),
                )
            },
        );
        let numbers = (all.reader(), any.reader(), mean.reader(), lcm.reader());
        (depot, numbers, (rises.reader(), counts.reader(), top.reader(), first.reader()))
    });
    let (all, any, mean, lcm) = numbers;
    let (rises, counts, top, first) = collections;
    let mut engine = engine.cold().ordered_by(3).batches_of(7);
    run_all(&mut engine, depot);
    for key in 0..20 {
        let list: Vec<_> = values(key).collect();
        assert_eq!(engine.select(all.key(key)).unwrap(), Some(!list.contains(&-11)));
        assert_eq!(engine.select(any.key(key)).unwrap(), Some(list.contains(&3)));
        let mean = engine.select(mean.key(key)).unwrap().unwrap();
        assert_eq!((mean.total(), mean.count()), (list.iter().map(|v| i128::from(*v)).sum(), 40));
        let folded = list.iter().fold(1, |a, b| Lcm::combine(a, 1 + b.unsigned_abs()));
        assert_eq!(engine.select(lcm.key(key)).unwrap(), Some(folded));
        let rose = list.windows(2).filter(|pair| pair[0] < pair[1]).count();
        let rose = (u32::try_from(rose).unwrap(), list.last().copied());
        assert_eq!(engine.select(rises.key(key)).unwrap(), Some(rose));
        let mut counted = BTreeMap::new();
        for value in &list {
            *counted.entry(*value).or_insert(0) += 1;
        }
        assert_eq!(engine.select(counts.key(key)).unwrap(), Some(counted));
        assert_eq!(engine.select(first.key(key)).unwrap(), Some(list[..5].to_vec()));
    }
    for group in 0..4 {
        let mut ranks: Vec<_> =
            (0..5).map(|n| group + 4 * n).map(|key| (key, values(key).max().unwrap())).collect();
        ranks.sort_by_key(|&(key, score)| (-score, key));
        let top = engine.select(top.key(group)).unwrap().unwrap();
        assert_eq!(top.ranked(), &ranks[..3]);
    }
}

#[test]
fn into_sub_collections_element_by_element() {
    let ((depot, sets, maps), engine) = launch(|m| {
        let depot = items(m);
        let t = m.microbatch(|| "t");
        let set = t.pstate::<Map<u32, Sub<Set<i64>>>>("set");
        let counts = t.pstate::<Map<u32, Sub<Map<i64, u32>>>>("counts");
        let map = t.pstate::<Map<u32, Sub<Map<i64, i64>>>>("map");
        let merged = t.pstate::<Map<u32, Sub<Map<i64, i64>>>>("merged");
        t.source(depot).aggregate(
            (set, counts, map, merged),
            |(set, counts, map, merged), Item { key, value }| {
                // In and out again, in the order of the records.
                let member = set.key(key);
                let element = value.abs();
                (
                    if value < 0 {
                        member.add(SetRemove(element))
                    } else {
                        member.add(SetOf(element))
                    },
                    counts.key(key).add(MultiSet(value)),
                    map.key(key).add(MapOf(element, value)),
                    merged.key(key).add(MergeMap(BTreeMap::from([(value, 1), (element, value)]))),
                )
            },
        );
        (depot, set.reader(), (counts.reader(), map.reader(), merged.reader()))
    });
    let (counts, map, merged) = maps;
    let mut engine = engine.cold().ordered_by(9).batches_of(7);
    run_all(&mut engine, depot);
    for key in 0..20 {
        let mut set = BTreeSet::new();
        let (mut counted, mut mapped, mut all) =
            (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        for value in values(key) {
            let element = value.abs();
            if value < 0 {
                set.remove(&element)
            } else {
                set.insert(element)
            };
            *counted.entry(value).or_insert(0) += 1;
            mapped.insert(element, value);
            all.extend(BTreeMap::from([(value, 1), (element, value)]));
        }
        let found = engine.select(sets.key(key).all()).unwrap();
        assert_eq!(found, set.into_iter().collect::<Vec<_>>());
        let found = engine.select(counts.key(key).all()).unwrap();
        assert_eq!(found, counted.into_iter().collect::<Vec<_>>());
        assert_eq!(
            engine.select(map.key(key).all()).unwrap(),
            mapped.into_iter().collect::<Vec<_>>()
        );
        assert_eq!(
            engine.select(merged.key(key).all()).unwrap(),
            all.into_iter().collect::<Vec<_>>()
        );
    }
}

#[test]
fn only_counting_reads_what_is_in_a_sub() {
    let (depot, engine) = launch(|m| {
        let depot = items(m);
        let t = m.microbatch(|| "t");
        let set = t.pstate::<Map<u32, Sub<Set<i64>, Uncounted>>>("set");
        let counts = t.pstate::<Map<u32, Sub<Map<i64, u32>, Uncounted>>>("counts");
        let map = t.pstate::<Map<u32, Sub<Map<i64, i64>, Uncounted>>>("map");
        t.source(depot).aggregate((set, counts, map), |(set, counts, map), Item { key, value }| {
            (
                vec![set.key(key).add(SetOf(value)), set.key(key).add(SetRemove(value + 1))],
                counts.key(key).add(MultiSet(value)),
                map.key(key).add(MapOf(value, value)),
            )
        });
        depot
    });
    let mut engine = engine.cold();
    append(&mut engine, depot, (0..30).map(|n| (7, n % 10)));
    let ran = engine.run().unwrap();
    assert_eq!((ran[0].prefetched, ran[0].misses), (10, 0), "one row of each counted element");
}

#[test]
fn some_rows_change_nothing_and_some_change_much() {
    let ((depot, sums, seen), mut engine) = launch(|m| {
        let depot = items(m);
        let t = m.microbatch(|| "t");
        let sums = t.pstate::<Map<u32, i64>>("sums");
        let seen = t.pstate::<Map<u32, Vec<i64>>>("seen");
        t.source(depot).aggregate((sums, seen), |(sums, seen), Item { key, value }| {
            let large = (value >= 10).then(|| seen.key(key).add(ListOf(value)));
            // To the key and to its tens.
            let both = vec![sums.key(key).add(Sum(value)), sums.key(key / 10).add(Sum(value))];
            let never = Some(sums.key(key).add(Sum(1_000))).filter(|_| false);
            (both, (large, never))
        });
        (depot, sums.reader(), seen.reader())
    });
    append(&mut engine, depot, [(70, 5), (70, 11), (71, 3), (70, 12)]);
    engine.run().unwrap();
    assert_eq!(engine.select(seen.all()).unwrap(), [(70, vec![11, 12])]);
    let mut found = engine.select(sums.all()).unwrap();
    found.sort_unstable();
    assert_eq!(found, [(7, 31), (70, 28), (71, 3)]);
}

#[test]
fn void_removes_the_value() {
    let ((depot, values), mut engine) = launch(|m| {
        let depot = items(m);
        let t = m.microbatch(|| "t");
        let values = t.pstate::<Map<u32, i64>>("values");
        t.source(depot).aggregate(values, |values, Item { key, value }| {
            let path = values.key(key);
            (
                (value > 0).then(|| path.clone().add(Last(value))),
                (value == 0).then(|| path.add(Void)),
            )
        });
        (depot, values.reader())
    });
    append(&mut engine, depot, [(1, 5), (2, 6)]);
    engine.run().unwrap();
    append(&mut engine, depot, [(1, 0)]);
    engine.run().unwrap();
    assert_eq!(engine.select(values.all()).unwrap(), [(2, 6)]);
}

#[test]
fn a_partial_that_is_full_travels_and_another_one_begins() {
    /// Texts put behind each other.
    enum Joined {}

    impl Combiner for Joined {
        type Value = String;

        fn zero() -> String {
            String::new()
        }

        fn combine(earlier: String, later: String) -> String {
            earlier + &later
        }

        fn must_flush(combined: &String) -> bool {
            combined.len() >= 10
        }
    }

    let ((depot, texts), mut engine) = launch(|m| {
        let depot = items(m);
        let t = m.microbatch(|| "t");
        let texts = t.pstate::<Map<u32, String>>("texts");
        t.source(depot).aggregate(texts, |texts, Item { key, value }| {
            texts.key(key).add(Combined::<Joined>(value.to_string()))
        });
        (depot, texts.reader())
    });
    // Two keys that take turns, 25 bytes each: partials of 10, 10 and 5.
    append(&mut engine, depot, (0..50).map(|n| (n % 2, i64::from(n / 2 % 10))));
    let ran = engine.run().unwrap();
    assert_eq!(ran[0].rows[&NodeIndex(1)], 6);
    for key in 0..2 {
        let text = engine.select(texts.key(key)).unwrap();
        assert_eq!(text.as_deref(), Some("0123456789012345678901234"));
    }
}

#[test]
fn an_element_that_is_too_long_is_the_fault_of_its_record() {
    let (depot, mut engine) = launch(|m| {
        let depot = items(m);
        let t = m.microbatch(|| "t");
        let maps = t.pstate::<Map<u32, Sub<Map<String, i64>>>>("maps");
        t.source(depot).aggregate(maps, |maps, Item { key, value }| {
            let name = "x".repeat(usize::try_from(value).unwrap());
            maps.key(key).add(MergeMap(BTreeMap::from([(name, value)])))
        });
        depot
    });
    append(&mut engine, depot, [(1, 5), (1, 2_000), (1, 6)]);
    let failure = engine.run().unwrap_err();
    assert_eq!(failure.origin.map(|origin| origin.offset.0), Some(1), "{failure}");
}

#[test]
fn groups_are_keys() {
    let ((depot, sold), mut engine) = launch(|m| {
        let depot = m.depot::<(String, u32, i64)>("sales").random();
        let t = m.microbatch(|| "t");
        // What was sold per country and day: how often, and the least and the most at once.
        let sold = t.pstate::<Map<String, Sub<Map<u32, u64>>>>("sold");
        let least = t.pstate::<Map<String, Sub<Map<u32, i64>>>>("least");
        let most = t.pstate::<Map<String, Sub<Map<u32, i64>>>>("most");
        t.source(depot).aggregate((sold, least, most), |(sold, least, most), (country, day, n)| {
            (
                sold.key(&country).key(day).add(Count),
                least.key(&country).key(day).add(Min(n)),
                most.key(&country).key(day).add(Max(n)),
            )
        });
        (depot, (sold.reader(), least.reader(), most.reader()))
    });
    for n in 0..60_i64 {
        let country = if n % 3 == 0 { "fr" } else { "no" };
        engine.append(depot, &(country.to_owned(), u32::try_from(n / 20).unwrap(), n)).unwrap();
    }
    engine.run().unwrap();
    let (sold, least, most) = sold;
    assert_eq!(engine.select(sold.key("fr").all()).unwrap(), [(0, 7), (1, 7), (2, 6)]);
    assert_eq!(engine.select(least.key("no").all()).unwrap(), [(0, 1), (1, 20), (2, 40)]);
    assert_eq!(engine.select(most.key("no").all()).unwrap(), [(0, 19), (1, 38), (2, 59)]);
}
