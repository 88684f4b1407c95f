//! `PState`s that are placed by a function of their first keys.

use super::{append, items, launch};
use crate::codec::{EncodeKey, Placement, encode_key};
use crate::schema::aggregate::Count;
use crate::schema::ast::{Functions, Query, Value};
use crate::schema::{Map, PlaceBy, Placed, Private, Set, Sub};
use crate::topology::StateError;

/// Tens live together.
enum Tens {}

impl PlaceBy<u32> for Tens {
    const NAME: &'static str = "tens";

    fn by(key: &u32) -> impl EncodeKey {
        key / 10
    }
}

fn query(text: &str) -> Query {
    Query::from_json(&serde_json::from_str(text).unwrap()).unwrap()
}

#[test]
fn keys_are_written_and_found_where_the_function_says() {
    let ((depot, counts, seen), mut engine) = launch(|m| {
        let depot = items(m);
        let t = m.microbatch(|| "t");
        let counts = t.pstate::<Placed<Map<u32, Sub<Map<i64, u64>>>, Tens>>("counts");
        let seen = t.pstate::<Placed<Set<u32>, Tens>>("seen");
        t.source(depot)
            .also(|b| b.aggregate(counts, |counts, it| counts.key(it.key).key(it.value).add(Count)))
            .hash_by_value(|it| it.key / 10)
            .using((counts, seen))
            .for_each(async |at, (counts, seen), it| {
                at.put(seen.has(it.key), true)?;
                let tenth = (it.key / 10 + 1) * 10;
                match at.put(counts.key(tenth).key(0), 0) {
                    Err(error @ StateError::Misplaced { .. }) => assert!(
                        error.to_string().ends_with(
                            "keys are placed by `tens`: hop there first, by `hash_by` of what that makes of them"
                        ),
                        "{error}"
                    ),
                    // By chance they are neighbours.
                    Ok(()) => at.delete(counts.key(tenth).key(0))?,
                    Err(error) => return Err(error.into()),
                }
                let path = Query::from([crate::schema::ast::Step::Key(Value::from(it.key))]);
                at.query::<Value>(counts, &path).await?;
                Ok(())
            });
        (depot, counts.reader(), seen.reader())
    });
    append(&mut engine, depot, (0..200).map(|n| (n % 100, i64::from(n % 7))));
    engine.run().unwrap();
    for (partition, pstate, key, _) in engine.dump() {
        let key: u32 = crate::codec::key::decode_key(&key[..4]).unwrap();
        let lives = Placement::of(&encode_key(&(key / 10))).partition(8);
        assert_eq!(partition, lives, "key {key} of {pstate}");
    }
    for key in 0..100 {
        assert!(engine.select(seen.has(key)).unwrap());
        assert_eq!(engine.select(counts.key(key).size()).unwrap(), 2);
        let asked = query(&format!(r#"[["key",{key}],"keys"]"#));
        let asked = engine.query::<i64>(counts, &asked, &Functions::none()).unwrap();
        assert_eq!(asked, [i64::from(key % 7), i64::from((key + 100) % 7)].sorted());
    }
    let mut all = engine.select(seen.all()).unwrap();
    all.sort_unstable();
    assert_eq!(all, (0..100).collect::<Vec<_>>());
    let spread = engine.query::<u32>(seen, &query(r#"["all"]"#), &Functions::none()).unwrap();
    assert_eq!(spread.len(), 100);
}

trait Sorted {
    fn sorted(self) -> Self;
}

impl Sorted for [i64; 2] {
    fn sorted(mut self) -> Self {
        self.sort_unstable();
        self
    }
}

#[test]
fn what_is_private_is_written_and_read_within_the_module() {
    let ((depot, sums), mut engine) = launch(|m| {
        let depot = items(m);
        let t = m.microbatch(|| "t");
        let last = t.pstate::<Private<Placed<Map<u32, i64>, Tens>>>("last");
        let sums = t.pstate::<Map<u32, u64>>("sums");
        t.source(depot)
            .also(|b| {
                // One tuple has changes of both.
                b.aggregate((last, sums), |(last, sums), it| {
                    let last = last.key(it.key).add(crate::schema::aggregate::Max(it.value));
                    (last, sums.key(it.key).add(Count))
                })
            })
            .hash_by_value(|it| it.key / 10)
            .using(last)
            .for_each(async |at, last, it| {
                let before = at.get(last.key(it.key)).await?.unwrap_or(-1);
                Ok(at.put(last.key(it.key), before.max(it.value))?)
            });
        let other = m.microbatch(|| "other");
        let copied = other.pstate::<Private<Map<u32, Option<i64>>>>("copied");
        other.source(depot).using((last.reader(), copied)).for_each(
            async |at, (last, copied), it| {
                if let Ok(seen) = at.get(last.key(it.key)).await {
                    at.put(copied.key(it.key), seen)?;
                }
                Ok(())
            },
        );
        (depot, (sums.reader(), last.reader(), copied))
    });
    let (sums, last, copied) = sums;
    append(&mut engine, depot, (0..40).map(|n| (n % 20, i64::from(n))));
    engine.run().unwrap();
    assert_eq!(engine.select(sums.key(3)).unwrap(), Some(2));
    assert_eq!(engine.select(last.key(3)).unwrap(), Some(23));
    assert!(!engine.select(copied.all()).unwrap().is_empty());
}
