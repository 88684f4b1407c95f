//! Queries that are data, asked by events and of the module.

use super::{append, items, launch};
use crate::schema::ast::{Function, Functions, Op, Query, Step, Term, Value};
use crate::schema::{Map, Set, Sub};
use crate::testing::{Io, TestPState};
use crate::topology::{FailureKind, QueryError, StateError};

type Rows = Map<u32, Sub<Map<i64, Vec<i64>>>>;

fn key(key: u32, rest: impl IntoIterator<Item = Step>) -> Query {
    Query::from([Step::Key(Value::from(key))].into_iter().chain(rest).collect::<Vec<_>>())
}

#[test]
fn events_change_and_read_parts_of_what_they_wrote() {
    let ((depot, rows, found), engine) = launch(|m| {
        let depot = items(m);
        let t = m.microbatch(|| "t");
        let rows = t.pstate::<Rows>("rows");
        let found = t.pstate::<Map<u32, Vec<Vec<i64>>>>("found");
        t.source(depot).using((rows, found)).for_each(async |at, (rows, found), item| {
            if item.value >= 0 {
                // Into the list of the tens, which is there or not.
                let ten = Step::Key(Value::from(item.value / 10));
                let query = key(item.key, [ten, Step::AfterLast]);
                at.transform(rows, &query, &Term::Set(Value::from(item.value))).await?;
                return Ok(());
            }
            let double = Functions::none().with("double", Function::of(|it: i64| Some(2 * it)));
            let odd = Query::from([Step::Test(Function::of(|it: i64| Some(it % 2 != 0)))]);
            let odd = key(item.key, [Step::Values, Step::All, Step::Selected(odd)]);
            let term = Term::Apply(Function::named("double"));
            at.transform_with(rows, &odd, &term, &double).await?;
            let small = key(
                item.key,
                [
                    Step::Values,
                    Step::Filtered(Query::from([Step::Compare(Op::Less, Value::from(15))])),
                ],
            );
            let lists: Vec<Vec<i64>> = at.query(rows, &small).await?;
            Ok(at.put(found.key(item.key), lists)?)
        });
        (depot, rows.reader(), found.reader())
    });
    let mut engine = engine.cold();
    for user in [1, 2, 3] {
        append(&mut engine, depot, (0..30).map(|value| (user, value)));
        append(&mut engine, depot, [(user, -1)]);
    }
    engine.run().unwrap();
    let changed = |value: i64| if value % 2 == 0 { value } else { 2 * value };
    for user in [1, 2, 3] {
        let tens: Vec<Vec<i64>> =
            (0..3).map(|ten| (10 * ten..10 * ten + 10).map(changed).collect()).collect();
        let stored = engine.select(rows.key(user).all().values()).unwrap();
        assert_eq!(stored, tens);
        let mut small = tens.clone();
        for ten in &mut small {
            ten.retain(|&value| value < 15);
        }
        assert_eq!(engine.select(found.key(user)).unwrap().unwrap(), small);
    }
    // Over all partitions; an element's key is one of the last things that it asks for.
    let lasts = Query::from([Step::Values, Step::Values, Step::Last]);
    let mut lasts: Vec<i64> = engine.query(rows, &lasts, &Functions::none()).unwrap();
    lasts.sort_unstable();
    assert_eq!(lasts, [18, 18, 18, 38, 38, 38, 58, 58, 58]);
    let text = engine.query::<String>(rows, &key(1, [Step::Keys]), &Functions::none());
    assert!(text.is_err(), "whole numbers are no texts");
}

#[test]
fn a_key_of_another_partition_is_misplaced_and_a_wrong_step_rejects_the_row() {
    let ((depot, _), mut engine) = launch(|m| {
        let depot = items(m);
        let t = m.microbatch(|| "t");
        let rows = t.pstate::<Rows>("rows");
        t.source(depot).using(rows).for_each(async |at, rows, item| {
            let mut misplaced = 0;
            for user in 0..32 {
                let term = Term::Set(Value::list([Value::from(1)].iter()));
                let query = key(user, [Step::Key(Value::from(1))]);
                let there = at.query::<Value>(rows, &query).await.is_ok();
                match at.transform(rows, &query, &term).await {
                    Ok(()) => assert!(there),
                    Err(QueryError::Source(StateError::Misplaced { lives, .. })) => {
                        assert!(lives != at.partition() && !there);
                        misplaced += 1;
                    }
                    Err(other) => panic!("{other}"),
                }
            }
            assert!((1..32).contains(&misplaced), "{misplaced} of 32 live elsewhere");
            // An entry does not move to where it cannot be written.
            let renamed = Query::from([Step::MapKey(Value::from(item.key))]);
            let moves = (0..32).map(|user| Term::Set(Value::from(user)));
            let mut kept = 0;
            for term in moves {
                let done = at.transform(rows, &renamed, &term).await;
                kept += u32::from(matches!(
                    done,
                    Err(QueryError::Source(StateError::Misplaced { .. }))
                ));
            }
            assert!(kept > 0);
            at.transform(rows, &Query::from([Step::Nth(0)]), &Term::Void).await?;
            Ok(())
        });
        (depot, rows)
    });
    append(&mut engine, depot, [(7, 7)]);
    let failure = engine.run().unwrap_err();
    assert_eq!(failure.kind, FailureKind::Reject);
    let source = failure.to_string();
    assert!(source.contains("nth"), "{source}");
}

#[test]
fn a_failed_read_is_tried_again_and_not_the_row_s_fault() {
    let (depot, mut engine) = launch(|m| {
        let depot = items(m);
        let t = m.microbatch(|| "t");
        let rows = t.pstate::<Rows>("rows");
        t.source(depot).using(rows).for_each(async |at, rows, item| {
            // Code that swallows the error does not save the run.
            drop(at.query::<Value>(rows, &key(item.key, [Step::Values])).await);
            Ok(())
        });
        depot
    });
    append(&mut engine, depot, [(7, 7)]);
    engine.fail_after(0);
    assert_eq!(engine.run().unwrap_err().kind, FailureKind::Retry);
    engine.run().unwrap();
}

/// Where a collection knows its size, a query that asks for it reads that, also what the event itself has written.
#[test]
fn a_size_is_read_where_it_is_kept() {
    let state = TestPState::<Map<u32, Sub<Set<i64>>>>::new().unwrap();
    let token = state.token();
    let size = Query::from([Step::Key(Value::from(1)), Step::Size]);
    let sizes = state.run(async |at| {
        let mut sizes = Vec::new();
        for element in 0..50 {
            at.put(token.key(1).has(element % 20), true)?;
            sizes.extend(at.query::<u64>(token, &size).await?);
        }
        Ok(sizes)
    });
    assert!(sizes.unwrap().into_iter().eq((1..=20).chain([20; 30])));
    state.take_io();
    let found = state.run(async |at| Ok(at.query::<u64>(token, &size).await?)).unwrap();
    assert_eq!((found, state.take_io()), (vec![20], Io { reads: 1, ..Io::default() }));
}
