//! What user code can do with the state of its partition.

use super::{append, items, launch};
use crate::schema::{Map, Owned, Set, Sub};
use crate::topology::{At, Result};

#[test]
fn ranges_are_read_both_ways_with_bounds_and_limits() {
    let ((depot, found), engine) = launch(|m| {
        let depot = items(m);
        let t = m.microbatch(|| "t");
        let rows = t.pstate::<Map<u32, Sub<Map<i64, String>>>>("rows");
        let found = t.pstate::<Map<u32, Vec<Vec<i64>>>>("found");
        t.source(depot).using((rows, found)).for_each(async |at, (rows, found), item| {
            if item.value >= 0 {
                at.put(rows.key(item.key).key(item.value), format!("row {}", item.value))?;
                return Ok(());
            }
            let (high, low) = (7, 3);
            let all = at.get(rows.key(item.key).all()).await?;
            for (key, value) in &all {
                assert_eq!(*value, format!("row {key}"));
            }
            let lists = vec![
                all.into_iter().map(|(key, _)| key).collect(),
                at.get(rows.key(item.key).range(3..7).keys()).await?,
                at.get(rows.key(item.key).range(3..=7).reverse().keys()).await?,
                at.get(rows.key(item.key).range(..5).reverse().limit(2).keys()).await?,
                at.get(rows.key(item.key).range(5..).limit(2).keys()).await?,
                at.get(rows.key(item.key).range(high..low).keys()).await?,
                at.get(rows.key(item.key).all().limit(0).keys()).await?,
            ];
            Ok(at.put(found.key(item.key), lists)?)
        });
        (depot, found.reader())
    });
    let mut engine = engine.cold();
    for key in [1, 2] {
        append(&mut engine, depot, (0..10).rev().map(|value| (key, value)));
        append(&mut engine, depot, [(key, -1)]);
    }
    engine.run().unwrap();
    let expected: [&[i64]; 7] = [
        &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9],
        &[3, 4, 5, 6],
        &[7, 6, 5, 4, 3],
        &[4, 3],
        &[5, 6],
        &[],
        &[],
    ];
    for key in [1, 2] {
        assert_eq!(engine.select(found.key(key)).unwrap().unwrap(), expected);
    }
}

#[test]
fn a_topology_sees_its_own_writes_and_deletes() {
    let ((depot, values, tags), engine) = launch(|m| {
        let depot = items(m);
        let t = m.microbatch(|| "t");
        let values = t.pstate::<Map<u32, i64>>("values");
        let tags = t.pstate::<Map<u32, Sub<Set<i64>>>>("tags");
        t.source(depot).using((values, tags)).for_each(async |at, (values, tags), item| {
            let value = values.key(item.key);
            at.put(value.clone(), item.value)?;
            assert_eq!(at.get(value.clone()).await?, Some(item.value));
            at.update(value.clone(), |old| old.map(|old| old * 2)).await?;
            let both = (value.clone(), tags.key(item.key).has(item.value));
            assert_eq!(at.get(both).await?, (Some(item.value * 2), false));
            at.put(tags.key(item.key).has(item.value), true)?;
            at.put(tags.key(item.key).has(-1), true)?;
            at.put(tags.key(item.key).has(-1), false)?;
            assert_eq!(at.get(tags.key(item.key).all()).await?.len(), 1);
            if item.value == 7 {
                at.delete(value.clone())?;
                at.delete(tags.key(item.key))?;
                assert_eq!(at.get(value).await?, None);
                assert_eq!(at.get(tags.key(item.key).all()).await?, Vec::<i64>::new());
            } else if item.value == 8 {
                at.update(value, |_| None).await?;
            }
            Ok(())
        });
        (depot, values.reader(), tags.reader())
    });
    let mut engine = engine.cold();
    append(&mut engine, depot, [(1, 5), (2, 7), (3, 8)]);
    engine.run().unwrap();
    assert_eq!(engine.select(values.all()).unwrap(), [(1, 10)]);
    assert_eq!(engine.select(tags.key(1).all()).unwrap(), [5]);
    assert_eq!(engine.select(tags.key(2).all()).unwrap(), Vec::<i64>::new());
    assert!(engine.select(tags.key(3).has(8)).unwrap());
}

/// A helper that works for any owner.
async fn debit<O>(at: At<'_, O>, funds: Owned<Map<u32, i64>, O>, key: u32) -> Result<bool> {
    let left = at.get(funds.key(key)).await?.unwrap_or(10);
    if left < 3 {
        return Ok(false);
    }
    at.put(funds.key(key), left - 3)?;
    Ok(true)
}

#[test]
fn helpers_are_generic_and_rows_see_what_earlier_rows_wrote() {
    let ((depot, done), engine) = launch(|m| {
        let depot = items(m);
        let t = m.microbatch(|| "t");
        let funds = t.pstate::<Map<u32, i64>>("funds");
        let done = t.pstate::<Map<u32, Vec<bool>>>("done");
        // Captured tokens work too.
        t.source(depot)
            .filter_map(async move |at, item| {
                let debited = debit(at, funds, item.key).await?;
                Ok(Some((item.key, debited)))
            })
            .for_each(async move |at, (key, debited)| {
                let mut list = at.get(done.key(key)).await?.unwrap_or_default();
                list.push(debited);
                Ok(at.put(done.key(key), list)?)
            });
        (depot, done.reader())
    });
    let mut engine = engine.cold();
    append(&mut engine, depot, (0..5).flat_map(|n| [(1, n), (2, n)]));
    engine.run().unwrap();
    for key in [1, 2] {
        let done = engine.select(done.key(key)).unwrap().unwrap();
        assert_eq!(done, [true, true, true, false, false]);
    }
}

#[test]
fn declared_reads_are_fetched_together() {
    let ((depot, sums), engine) = launch(|m| {
        let depot = items(m);
        let t = m.microbatch(|| "t");
        let sums = t.pstate::<Map<u32, i64>>("sums");
        t.source(depot).using(sums).touching(|sums, item| sums.key(item.key)).for_each(
            async |at, sums, item| {
                let sum = at.get(sums.key(item.key)).await?.unwrap_or(0);
                Ok(at.put(sums.key(item.key), sum + item.value)?)
            },
        );
        (depot, sums.reader())
    });
    let mut engine = engine.cold();
    append(&mut engine, depot, (0..100).map(|n| (n % 50, 1)));
    let ran = engine.run().unwrap();
    assert_eq!((ran[0].prefetched, ran[0].misses), (100, 0));
    assert_eq!(engine.select(sums.key(7)).unwrap(), Some(2));
}

#[test]
fn other_topologies_can_be_read() {
    let ((depot, copies), mut engine) = launch(|m| {
        let depot = items(m);
        let t = m.microbatch(|| "t");
        let values = t.pstate::<Map<u32, i64>>("values");
        t.source(depot)
            .using(values)
            .for_each(async |at, values, item| Ok(at.put(values.key(item.key), item.value)?));
        let u = m.microbatch(|| "u");
        let copies = u.pstate::<Map<u32, i64>>("copies");
        u.source(depot).using((values.reader(), copies)).for_each(
            async |at, (values, copies), item| {
                let value = at.get(values.key(item.key)).await?.unwrap_or(-1);
                Ok(at.put(copies.key(item.key), value)?)
            },
        );
        (depot, copies.reader())
    });
    append(&mut engine, depot, [(1, 11), (2, 22)]);
    engine.run().unwrap();
    assert_eq!(engine.select((copies.key(1), copies.key(1))).unwrap(), (Some(11), Some(11)));
    assert_eq!(engine.select(copies.key(2)).unwrap(), Some(22));
}
