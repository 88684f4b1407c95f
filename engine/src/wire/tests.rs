//! Queries through bytes, and bytes that are none.

use proptest::prelude::*;

use super::{Error, IDENTIFIER, VERSION};
use crate::schema::ast::{Function, Navigator, Op, Query, Step, Term, Value};
use crate::schema::eval::random_query;

#[test]
fn queries_go_through_bytes_and_json_and_back() {
    for seed in 0..3_000 {
        let query = random_query(seed);
        let bytes = query.to_bytes().unwrap();
        let again = Query::from_bytes(&bytes).unwrap();
        assert_eq!(again, query);
        // The entries of a map can come back in another order, which makes it no other value.
        let json = again.to_json().unwrap();
        let read = Query::from_json(&json).unwrap();
        assert_eq!(Query::from_bytes(&read.to_bytes().unwrap()).unwrap(), query, "{json}");
    }
}

#[test]
fn every_step_keeps_its_arguments() {
    let path = || Query::from([Step::Nth(-3)]);
    let value = || Value::from("v");
    let term = Term::Apply(Function::named("f"));
    let steps = vec![
        Step::Field { of: "Of".into(), name: "name".into() },
        Step::Sublist(-1, 9),
        Step::SublistOf(path(), Query::here()),
        Step::SubMap(vec![]),
        Step::SubSet(vec![value(), Value::nil()]),
        Step::Compare(Op::GreaterOrEqual, value()),
        Step::Test(Function::named("t")),
        Step::Transformed(path(), Box::new(Term::Void)),
        Step::Transformed(path(), Box::new(Term::Set(value()))),
        Step::Transformed(path(), Box::new(term)),
        Step::If(path(), Query::here(), Query::from([Step::Stop])),
        Step::Cond(vec![(path(), Query::here()), (Query::here(), path())]),
        Step::Cond(vec![]),
        Step::Multi(vec![path(), path(), Query::here()]),
        Step::Fix("f".into(), Query::from([Step::Again("f".into())])),
        Step::Range {
            from: std::ops::Bound::Excluded(value()),
            to: std::ops::Bound::Included(Value::from(7)),
            limit: Some(0),
            reverse: true,
        },
        Step::Range {
            from: std::ops::Bound::Unbounded,
            to: std::ops::Bound::Excluded(value()),
            limit: None,
            reverse: false,
        },
        Step::Fresh(path()),
        Step::Size,
        Step::Navigate(Navigator::named("n")),
    ];
    let query = Query::from(steps);
    assert_eq!(Query::from_bytes(&query.to_bytes().unwrap()).unwrap(), query);
}

#[test]
fn what_cannot_be_sent_or_read_again_is_refused() {
    let local =
        Query::from([Step::Multi(vec![Query::from([Step::View(Function::of(|it: i64| {
            Some(it)
        }))])])]);
    assert_eq!(local.to_bytes(), Err(Error::Local { step: "view" }));
    let mut deep = Query::here();
    for _ in 0..40 {
        deep = Query::from([Step::Selected(deep)]);
    }
    assert_eq!(deep.to_bytes(), Err(Error::TooLarge));
    let long = Query::from(vec![Step::Stay; 5_000]);
    assert_eq!(long.to_bytes(), Err(Error::TooLarge));
    // The widest and the deepest that are written can be read.
    let wide = |keys: usize| Query::from([Step::SubMap(vec![Value::from(1); keys])]);
    let widest = wide(super::TABLES_MAX - 3);
    assert_eq!(wide(super::TABLES_MAX - 2).to_bytes(), Err(Error::TooLarge));
    assert_eq!(Query::from_bytes(&widest.to_bytes().unwrap()).unwrap(), widest);
    let last = Step::Transformed(Query::here(), Box::new(Term::Set(Value::nil())));
    let deepest = (0..30).fold(Query::from([last]), |path, _| Query::from([Step::Selected(path)]));
    assert_eq!(Query::from_bytes(&deepest.to_bytes().unwrap()).unwrap(), deepest);
}

#[test]
fn versions_and_identifiers_are_looked_at() {
    assert_eq!(Query::from_bytes(&[]), Err(Error::Size { found: 0 }));
    let bytes = Query::from([Step::First]).to_bytes().unwrap();
    assert_eq!(&bytes[4..8], IDENTIFIER.as_bytes());
    let mut other = bytes.clone();
    other[4] = b'X';
    assert_eq!(Query::from_bytes(&other), Err(Error::Identifier { found: *b"XMPQ" }));
    // The version is the only field of its value.
    let newer = (8..bytes.len() - 1).filter_map(|at| {
        let mut newer = bytes.clone();
        newer[at..at + 2].copy_from_slice(&(VERSION + 1).to_le_bytes());
        (bytes[at..at + 2] == VERSION.to_le_bytes()).then(|| Query::from_bytes(&newer))
    });
    assert!(newer.into_iter().any(|read| read == Err(Error::Version { found: VERSION + 1 })));
}

#[test]
fn every_cut_and_every_changed_bit_is_survived() {
    let mut refused = 0;
    for seed in 0..40 {
        let bytes = random_query(seed).to_bytes().unwrap();
        for cut in 0..bytes.len() {
            refused += u32::from(Query::from_bytes(&bytes[..cut]).is_err());
        }
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            // A query, perhaps another one, or an error: never a panic. What is read can be written.
            if let Ok(query) = Query::from_bytes(&flipped) {
                query.to_bytes().unwrap();
            }
        }
    }
    assert!(refused > 1_000, "{refused}");
}

proptest! {
    #[test]
    fn hostile_bytes_never_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        drop(Query::from_bytes(&bytes));
        if bytes.len() >= 8 {
            bytes[4..8].copy_from_slice(IDENTIFIER.as_bytes());
            bytes[..4].copy_from_slice(&8_u32.to_le_bytes());
            drop(Query::from_bytes(&bytes));
        }
    }
}
