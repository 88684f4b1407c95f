//! Stages and hops: which rows arrive where, and how often.

use std::collections::BTreeSet;

use super::{append, items, launch};
use crate::codec::{Placement, key::encode_key};
use crate::schema::aggregate::{Count, ListOf, SetOf, Sum};
use crate::schema::{Map, Set, Sub};
use crate::topology::NodeIndex;
use crate::types::WallTime;

#[test]
fn rows_are_mapped_filtered_and_multiplied() {
    let ((depot, sums), mut engine) = launch(|m| {
        let depot = items(m);
        let t = m.microbatch(|| "t");
        let sums = t.pstate::<Map<u32, i64>>("sums");
        t.source(depot)
            .filter(|item| item.value % 2 == 0)
            .map(|item| (item.key, item.value))
            .flat_map(|(key, value)| (0..3).map(move |nth| (key + 100 * nth, value)))
            .filter_map(async |_, (key, value)| Ok((key < 200).then_some((key, value))))
            .aggregate(sums, |sums, (key, value)| sums.key(key).add(Sum(value)));
        (depot, sums.reader())
    });
    append(&mut engine, depot, [(1, 2), (1, 3), (2, 4), (1, 6)]);
    engine.run().unwrap();
    let mut found = engine.select(sums.all()).unwrap();
    found.sort_unstable();
    assert_eq!(found, [(1, 8), (2, 4), (101, 8), (102, 4)]);
}

#[test]
fn a_hop_runs_where_the_key_lives_and_keeps_the_order_of_one_sender() {
    let ((depot, lists), mut engine) = launch(|m| {
        let depot = m.depot::<(u32, String)>("pairs").single();
        let t = m.microbatch(|| "t");
        let lists = t.pstate::<Map<String, Vec<u32>>>("lists");
        t.source(depot).hash_by(|(_, name)| name).using(lists).for_each(
            async |at, lists, (number, name)| {
                let place = Placement::of(&encode_key(&name)).partition(8);
                assert_eq!(at.partition(), place);
                at.update(lists.key(&name), |list| {
                    let mut list = list.unwrap_or_default();
                    list.push(number);
                    Some(list)
                })
                .await?;
                Ok(())
            },
        );
        (depot, lists.reader())
    });
    for number in 0..100 {
        engine.append(depot, &(number, format!("name {}", number % 7))).unwrap();
    }
    let mut engine = engine.batches_of(9).ordered_by(5);
    engine.run().unwrap();
    for nth in 0..7 {
        let list = engine.select(lists.key(format!("name {nth}"))).unwrap().unwrap();
        let expected: Vec<_> = (0..100).filter(|number| number % 7 == nth).collect();
        assert_eq!(list, expected);
    }
}

#[test]
fn all_reaches_every_partition_and_global_one() {
    let ((depot, seen), mut engine) = launch(|m| {
        let depot = items(m);
        let t = m.microbatch(|| "t");
        let seen = t.pstate::<Map<String, Sub<Set<u32>>>>("seen");
        t.source(depot)
            .all()
            .filter_map(async |at, _| Ok(Some(("everywhere", at.partition().0))))
            .aggregate(seen, |seen, (what, at)| seen.key(what).add(SetOf(at)));
        t.source(depot)
            .global()
            .filter_map(async |at, _| Ok(Some(("global", at.partition().0))))
            .aggregate(seen, |seen, (what, at)| seen.key(what).add(SetOf(at)));
        (depot, seen.reader())
    });
    append(&mut engine, depot, [(1, 1), (2, 1), (3, 1)]);
    let ran = engine.run().unwrap();
    assert_eq!(engine.select(seen.key("everywhere").all()).unwrap(), (0..8).collect::<Vec<_>>());
    assert_eq!(engine.select(seen.key("global").all()).unwrap(), [0]);
    assert_eq!(ran[0].rows[&NodeIndex(1)], 3 * 8, "each row goes to each of 8 partitions");
}

#[test]
fn hash_by_value_takes_keys_made_of_the_row() {
    let ((depot, counts), mut engine) = launch(|m| {
        let depot = items(m);
        let t = m.microbatch(|| "t");
        let counts = t.pstate::<Map<(u32, i64), u64>>("counts");
        t.source(depot).hash_by_value(|item| (item.key % 2, item.value)).using(counts).for_each(
            async |at, counts, item| {
                // Misplaced unless the hop went where this very key lives.
                Ok(at.put(counts.key((item.key % 2, item.value)), 1)?)
            },
        );
        (depot, counts.reader())
    });
    append(&mut engine, depot, (0..100).map(|n| (n, i64::from(n % 10))));
    engine.run().unwrap();
    assert_eq!(engine.select(counts.all()).unwrap().len(), 10);
}

#[test]
fn branches_see_every_row_before_it_goes_on() {
    let ((depot, counts, sums, big), mut engine) = launch(|m| {
        let depot = items(m);
        let t = m.microbatch(|| "t");
        let counts = t.pstate::<Map<u32, u64>>("counts");
        let sums = t.pstate::<Map<u32, i64>>("sums");
        let big = t.pstate::<Map<i64, Vec<u32>>>("big");
        t.source(depot)
            .also(|items| items.aggregate(counts, |counts, item| counts.key(item.key).add(Count)))
            .also(|items| {
                // A branch can hop, and go on from there.
                items
                    .filter(|item| item.value > 50)
                    .hash_by(|item| &item.value)
                    .aggregate(big, |big, item| big.key(item.value).add(ListOf(item.key)))
            })
            .filter(|item| item.value > 10)
            .aggregate(sums, |sums, item| sums.key(item.key).add(Sum(item.value)));
        (depot, counts.reader(), sums.reader(), big.reader())
    });
    append(&mut engine, depot, [(1, 5), (1, 20), (2, 7), (2, 60), (2, 30)]);
    engine.run().unwrap();
    assert_eq!(engine.select((counts.key(1), sums.key(1))).unwrap(), (Some(2), Some(20)));
    assert_eq!(engine.select((counts.key(2), sums.key(2))).unwrap(), (Some(3), Some(90)));
    assert_eq!(engine.select(big.key(60)).unwrap(), Some(vec![2]));
    assert_eq!(engine.select(big.all()).unwrap().len(), 1);
}

#[test]
fn rows_can_be_appended_to_depots_that_feed_topologies() {
    let ((depot, labels, loose, seen), mut engine) = launch(|m| {
        let depot = items(m);
        let labels = m.depot::<String>("labels").hash_by(|label| label.as_str());
        let loose = m.depot::<String>("loose").random();
        let t = m.microbatch(|| "t");
        t.source(depot)
            .map(|item| format!("label {}", item.key))
            .also(|labels| labels.append_to(loose))
            .append_to(labels);
        let u = m.microbatch(|| "u");
        let seen = u.pstate::<Map<String, u64>>("seen");
        // Misplaced unless the record was appended where its label lives.
        u.source(labels).using(seen).for_each(async |at, seen, label| {
            Ok(at.update(seen.key(&label), |count| Some(count.unwrap_or(0) + 1)).await?)
        });
        (depot, labels, loose, seen.reader())
    });
    append(&mut engine, depot, [(1, 1), (2, 1), (1, 1)]);
    engine.run().unwrap();
    assert_eq!(engine.records(labels.index()), 3);
    assert_eq!(engine.records(loose.index()), 3);
    assert_eq!(engine.select(seen.key("label 1")).unwrap(), Some(2));
    // Nothing is read twice.
    engine.run().unwrap();
    assert_eq!(engine.records(labels.index()), 3);
    assert_eq!(engine.select(seen.key("label 2")).unwrap(), Some(1));
}

#[test]
fn a_timed_source_knows_when_records_were_appended() {
    let ((depot, times), mut engine) = launch(|m| {
        let depot = items(m);
        let t = m.microbatch(|| "t");
        let times = t.pstate::<Map<u32, Vec<u64>>>("times");
        t.source_timed(depot).aggregate(times, |times, (WallTime(appended), item)| {
            times.key(item.key).add(ListOf(appended))
        });
        (depot, times.reader())
    });
    append(&mut engine, depot, [(1, 1), (1, 1), (1, 1)]);
    engine.run().unwrap();
    // The harness counts in records per partition.
    assert_eq!(engine.select(times.key(1)).unwrap(), Some(vec![0, 1, 2]));
}

#[test]
fn ids_and_chance_are_unique_and_the_same_in_every_order() {
    let run = |order: u64, rows: usize| {
        let ((depot, ids), engine) = launch(|m| {
            let depot = items(m);
            let t = m.microbatch(|| "t");
            let ids = t.pstate::<Map<u32, Sub<Set<(u128, u64)>>>>("ids");
            t.source(depot)
                .flat_map(|item| [item.clone(), item])
                .filter_map(async |at, item| Ok(Some((item, at.unique_id(), at.random()))))
                .map(|(item, id, random)| (item.key, id, random))
                // Rows of many partitions, and several of each record, meet on one.
                .global()
                .flat_map(|row| [row, row])
                .filter_map(async |at, (key, ..)| Ok(Some((key, at.unique_id(), at.random()))))
                .aggregate(ids, |ids, (key, id, random)| ids.key(key).add(SetOf((id, random))));
            (depot, ids.reader())
        });
        let mut engine = engine.ordered_by(order).batches_of(rows);
        append(&mut engine, depot, (0..50).map(|n| (n % 10, 0)));
        engine.run().unwrap();
        (0..10).map(|key| engine.select(ids.key(key).all()).unwrap()).collect::<Vec<_>>()
    };
    let first = run(1, 1_000);
    let all: Vec<_> = first.iter().flatten().collect();
    assert_eq!(all.len(), 50 * 4, "every row got another id");
    assert_eq!(all.iter().map(|(_, random)| random).collect::<BTreeSet<_>>().len(), 50 * 4);
    for order in 2..10 {
        assert_eq!(run(order, 3), first);
    }
}
