//! Queries that are data, and terms, do the same whether sizes are kept or not, and keep them.

use crate::schema::ast::{Query, Term, Value};
use crate::schema::{Map, Owned, Schema, Set, Sub, Uncounted};
use crate::testing::{Test, TestPState};

/// The same with and without sizes.
type Counted = Map<u8, Sub<Map<u8, Sub<Set<u8>>>>>;
type Plain = Map<u8, Sub<Map<u8, Sub<Set<u8>, Uncounted>>, Uncounted>>;

fn filled<S: Schema>(put: impl Fn(&TestPState<S>, u8, u8, u8)) -> TestPState<S> {
    let state = TestPState::<S>::new().unwrap();
    for (key, inner, element) in [(1, 1, 1), (1, 1, 2), (1, 2, 0), (1, 3, 7), (2, 0, 0), (2, 0, 5)]
    {
        put(&state, key, inner, element);
    }
    state
}

fn query(text: &str) -> Query {
    Query::from_json(&serde_json::from_str(text).unwrap()).unwrap()
}

fn ask<S: Schema>(state: &TestPState<S>, path: &str) -> Vec<Value> {
    let (token, path) = (state.token(), query(path));
    state.run(async |at| Ok(at.query(token, &path).await?)).unwrap()
}

/// Whether it was done.
fn change<S: Schema>(state: &TestPState<S>, path: &str, term: &Term) -> bool {
    let (token, path) = (state.token(), query(path));
    state.run(async |at| Ok(at.transform(token, &path, term).await?)).is_ok()
}

fn both() -> (TestPState<Counted>, TestPState<Plain>) {
    (
        filled::<Counted>(|state, key, inner, element| {
            state.put(state.token().key(key).key(inner).has(element), true).unwrap();
        }),
        filled::<Plain>(|state, key, inner, element| {
            state.put(state.token().key(key).key(inner).has(element), true).unwrap();
        }),
    )
}

/// Every size is the number of what is there.
fn check_sizes(state: &TestPState<Counted>, context: &str) {
    let all: Owned<Counted, Test> = state.token();
    for key in 0..4 {
        let mut full = 0;
        for inner in 0..5 {
            let set = all.key(key).key(inner);
            let (size, elements) = state.select((set.clone().size(), set.all())).unwrap();
            assert_eq!(size, elements.len() as u64, "{context}: {key} {inner}");
            full += u64::from(size > 0);
        }
        assert_eq!(state.select(all.key(key).size()).unwrap(), full, "{context}: {key}");
    }
}

const PATHS: &[&str] = &[
    "[]",
    r#"["keys"]"#,
    r#"["values"]"#,
    r#"["all"]"#,
    r#"["values","keys"]"#,
    r#"["values","values","all"]"#,
    r#"[["key",1]]"#,
    r#"[["key",1],"keys"]"#,
    r#"[["key",1],"all"]"#,
    r#"[["key",1],["range",{"from":2}]]"#,
    r#"[["key",1],["range",{"through":2,"reverse":true,"limit":1}],"keys"]"#,
    r#"[["key",1],["range",{"to":3}],"values","first"]"#,
    r#"[["key",1],["must",3],"last"]"#,
    r#"[["key",1],["must",4]]"#,
    r#"[["key",1],["key",1],["range",{"from":2}]]"#,
    r#"[["key",1],["key",1],["range",{"limit":1}]]"#,
    r#"[["key",1],["key",1],"first"]"#,
    r#"[["key",2],["key",0],["elem",5]]"#,
    r#"[["key",2],["map_key",0]]"#,
    r#"[["range",{"from":2}],"values","values"]"#,
    r#"[["selected",[["key",1],["key",3],["elem",7]]],["key",2]]"#,
];

#[test]
fn what_counts_is_not_seen() {
    let (mut counted, plain) = both();
    for round in 0..2 {
        for path in PATHS {
            assert_eq!(ask(&counted, path), ask(&plain, path), "{path} {round}");
        }
        counted.reopen();
    }
}

#[test]
fn what_is_changed_is_counted() {
    let terms = [
        r#""void""#,
        r#"{"set":[1,3]}"#,
        r#"{"set":{"$map":[[4,[1]],[0,[0,2]]]}}"#,
        r#"{"set":3}"#,
        r#"{"set":null}"#,
    ];
    let terms = terms.map(|term| Term::from_json(&serde_json::from_str(term).unwrap()).unwrap());
    let mut done = 0;
    let more = [
        r#"[["key",3],["key",0],"new_elem"]"#,
        r#"[["key",1],["key",1],"new_elem"]"#,
        r#"[["key",1],["key",3],"begin"]"#,
        r#"[["key",3],["key",2]]"#,
        r#"[["key",3]]"#,
        r#"[["multi",[[["key",1],["key",1],["elem",1]],[["key",1],["key",2]]]]]"#,
    ];
    for path in PATHS.iter().chain(&more) {
        for term in &terms {
            let (counted, plain) = both();
            let context = format!("{path} {term:?}");
            let is_done = change(&counted, path, term);
            assert_eq!(is_done, change(&plain, path, term), "{context}");
            assert_eq!(ask(&counted, "[]"), ask(&plain, "[]"), "{context}");
            check_sizes(&counted, &context);
            done += usize::from(is_done);
        }
    }
    assert!(done > 40, "{done} of these change something");
}

#[test]
fn what_was_just_emptied_is_not_found() {
    let (counted, _) = both();
    let all = counted.token();
    let found: Vec<u8> = counted
        .run(async |at| {
            at.delete(all.key(1).key(3).has(7))?;
            at.put(all.key(1).key(4).has(0), true)?;
            Ok(at.query(all, &query(r#"[["key",1],"keys"]"#)).await?)
        })
        .unwrap();
    assert_eq!(found, [1, 2, 4]);
}
