//! Failures: which record they name, what they mean, and that nothing is left of them.

use std::error::Error as StdError;

use bytes::Bytes;

use super::{Item, append, items, launch};
use crate::schema::aggregate::{Count, Sum};
use crate::schema::{Map, Sub};
use crate::topology::{EventFailure, Failure, FailureKind, Panicked, StateError};

#[derive(Debug, thiserror::Error)]
#[error("account is closed")]
struct Closed;

/// A topology that fails at the item with the value 13, in one of several ways and places.
fn fail(how: &'static str) -> (Item, EventFailure, usize) {
    let (depot, engine) = launch(|m| {
        let depot = items(m);
        let t = m.microbatch(|| "t");
        let seen = t.pstate::<Map<u32, u64>>("seen");
        let sums = t.pstate::<Map<i64, i64>>("sums");
        t.source(depot)
            .also(|items| items.aggregate(seen, |seen, item| seen.key(item.key).add(Count)))
            .map(move |item| {
                assert!(how != "map" || item.value != 13, "cannot map 13");
                item
            })
            .filter_map(async move |at, item| {
                if item.value != 13 {
                    return Ok(Some(item));
                }
                match how {
                    "error" => Err(Closed.into()),
                    "parse" => {
                        let _: u32 = "thirteen".parse()?;
                        Ok(None)
                    }
                    "retry" => Err(Failure::retry(Closed)),
                    "panic" => panic!("thirteen"),
                    "panic later" => {
                        at.get(seen.key(item.key)).await?;
                        panic!("thirteen, {} times", 2)
                    }
                    "misplaced" => {
                        let elsewhere = (0..100).find(|key| {
                            let key = crate::codec::key::encode_key(key);
                            crate::codec::Placement::of(&key).partition(8) != at.partition()
                        });
                        at.put(seen.key(elsewhere.unwrap()), 1)?;
                        Ok(None)
                    }
                    "misplaced read" => {
                        for key in 0..100 {
                            at.get(seen.key(key)).await?;
                        }
                        Ok(None)
                    }
                    _ => Ok(Some(item)),
                }
            })
            .flat_map(|item| vec![item; 3])
            .hash_by(|item| &item.value)
            .map(|item| item.value)
            .filter_map(async move |_, value| {
                if how == "after hop" && value == 13 {
                    return Err(Closed.into());
                }
                Ok(Some(value))
            })
            .global()
            .map(move |value| {
                assert!(how != "after two hops" || value != 13);
                value
            })
            .aggregate(sums, move |sums, value| {
                sums.key(0).add(Sum(if how == "apply" { i64::MAX } else { value }))
            });
        depot
    });
    let mut engine = engine.cold().ordered_by(9).batches_of(5);
    let values = (0..60).map(|n| (n % 11, i64::from(n)));
    let mut record = None;
    for (key, value) in values {
        let origin = engine.append(depot, &Item { key, value }).unwrap();
        if value == 13 {
            record = Some(origin);
        }
    }
    let failure = engine.run().unwrap_err();
    let again = engine.run().unwrap_err();
    assert_eq!(failure.to_string(), again.to_string(), "a retry fails the same way");
    if how != "apply" {
        let origin = failure.origin.expect("the failure names its record");
        let record = record.unwrap();
        assert_eq!(
            (origin.depot, origin.partition, origin.offset),
            (record.depot, record.partition, record.offset)
        );
    }
    (Item { key: 13 % 11, value: 13 }, failure, engine.dump().len())
}

#[test]
fn a_failing_row_names_its_record_and_leaves_nothing() {
    for (how, kind, text) in [
        ("error", FailureKind::Reject, "account is closed"),
        ("parse", FailureKind::Reject, "invalid digit"),
        ("retry", FailureKind::Retry, "account is closed"),
        ("panic", FailureKind::Reject, "panicked: thirteen"),
        ("panic later", FailureKind::Reject, "panicked: thirteen, 2 times"),
        ("map", FailureKind::Reject, "panicked: cannot map 13"),
        ("misplaced", FailureKind::Reject, "hop there first"),
        ("misplaced read", FailureKind::Reject, "hop there first"),
        ("after hop", FailureKind::Reject, "account is closed"),
        ("after two hops", FailureKind::Reject, "panicked: assertion"),
    ] {
        let (_, failure, rows) = fail(how);
        assert_eq!(failure.kind, kind, "{how}");
        assert!(failure.to_string().contains(text), "{how}: {failure}");
        assert_eq!(rows, 0, "{how}: a failed microbatch wrote something");
    }
}

#[test]
fn errors_can_be_told_apart() {
    let (_, failure, _) = fail("error");
    assert!(failure.failure.source().is::<Closed>());
    let (_, failure, _) = fail("panic");
    assert!(failure.failure.source().is::<Panicked>());
    let (_, failure, _) = fail("misplaced");
    let Some(StateError::Misplaced { here, lives, .. }) = failure.failure.source().downcast_ref()
    else {
        panic!("{failure}");
    };
    assert_eq!(*here, failure.partition);
    assert_ne!(lives, here);
}

#[test]
fn an_aggregation_loses_the_record_and_says_so() {
    let (_, failure, rows) = fail("apply");
    assert_eq!(failure.kind, FailureKind::Reject);
    assert!(failure.to_string().contains("overflow"), "{failure}");
    assert_eq!(rows, 0);
}

#[test]
fn an_undecodable_record_is_rejected_by_name() {
    let ((depot, sums), mut engine) = launch(|m| {
        let depot = items(m);
        let t = m.microbatch(|| "t");
        let sums = t.pstate::<Map<u32, i64>>("sums");
        t.source(depot).aggregate(sums, |sums, item| sums.key(item.key).add(Sum(item.value)));
        (depot, sums.reader())
    });
    append(&mut engine, depot, (0..20).map(|n| (n, 1)));
    let to = crate::types::PartitionId(3);
    for garbage in [&b""[..], b"\xc1", b"\x81\x00", b"\x82\x00\x01\x01", b"\xdd\xff\xff\xff\xff"] {
        let origin = engine.append_bytes(depot.index(), to, Bytes::from_static(garbage));
        let failure = engine.run().unwrap_err();
        assert_eq!(failure.kind, FailureKind::Reject, "{failure}");
        assert_eq!(failure.origin.unwrap().partition, to);
        assert!(failure.origin.unwrap().offset <= origin.offset);
    }
    assert_eq!(engine.select(sums.key(1)).unwrap(), None);
}

#[test]
fn keys_that_are_too_long_condemn_the_row() {
    let (depot, mut engine) = launch(|m| {
        let depot = m.depot::<String>("texts").random();
        let t = m.microbatch(|| "t");
        let counts = t.pstate::<Map<String, u64>>("counts");
        t.source(depot).aggregate(counts, |counts, text| counts.key(text).add(Count));
        depot
    });
    let origin = engine.append(depot, &"x".repeat(2_000)).unwrap();
    let failure = engine.run().unwrap_err();
    assert_eq!((failure.kind, failure.origin), (FailureKind::Reject, Some(origin)));
    let cause: &dyn StdError = failure.failure.source();
    assert!(cause.is::<StateError>());
    assert!(failure.to_string().contains("too long"), "{failure}");
}

#[test]
fn surroundings_that_fail_are_never_the_record_s_fault() {
    let run = |fail_after: usize| {
        let ((depot, sums, rows), engine) = launch(|m| {
            let depot = items(m);
            let t = m.microbatch(|| "t");
            let sums = t.pstate::<Map<u32, i64>>("sums");
            let rows = t.pstate::<Map<u32, Sub<Map<i64, i64>>>>("rows");
            let loose = m.depot::<Item>("loose").random();
            t.source(depot)
                .using((sums, rows))
                .filter_map(async |at, (sums, rows), item| {
                    // All the ways of not passing an error on as it is.
                    let swallowed = at.get(sums.key(item.key)).await.unwrap_or_default();
                    at.put(rows.key(item.key).key(item.value), swallowed.unwrap_or(0)).ok();
                    let renamed = at.get(rows.key(item.key).all()).await.map_err(|_| Closed)?;
                    let both = at.get((sums.key(item.key), sums.key(item.key))).await;
                    assert!(both.is_ok(), "in vain");
                    at.delete(rows.key(item.key + 8_000_000)).ok();
                    at.update(sums.key(item.key), |sum| Some(sum.unwrap_or(0) + 1)).await?;
                    Ok(Some(Item { value: renamed.len().try_into()?, ..item }))
                })
                .also(|items| items.append_to(loose))
                .hash_by(|item| &item.value)
                .aggregate(sums, |sums, item| sums.key(item.key).add(Sum(item.value)));
            (depot, sums.reader(), rows.reader())
        });
        let mut engine = engine.cold();
        append(&mut engine, depot, (0..6).map(|n| (n % 3, i64::from(n))));
        engine.fail_after(fail_after);
        let failed = engine.run().err();
        if let Some(failure) = &failed {
            assert_eq!(failure.kind, FailureKind::Retry, "after {fail_after}: {failure}");
            assert_eq!(engine.dump(), [], "after {fail_after}");
            engine.run().unwrap();
        }
        let _ = rows;
        assert_eq!(engine.select(sums.all()).unwrap().len(), 3);
        (failed.is_some(), engine.dump())
    };
    let (failed, expected) = run(usize::MAX);
    assert!(!failed);
    let failures = (0..).map(run).take_while(|(failed, dump)| {
        assert_eq!(*dump, expected);
        *failed
    });
    assert!(failures.count() > 50, "every access failed once");
}
