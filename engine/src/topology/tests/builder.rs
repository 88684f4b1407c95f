//! Declarations: what is refused, and what `explain` shows.

use super::{Item, items};
use crate::module::{self, Error, Owner, PlacedBy};
use crate::schema::Map;
use crate::schema::aggregate::Sum;
use crate::topology::harness::Harness;

#[test]
fn names_are_unique_and_plain() {
    let twice = module::define("test", |m| {
        items(m);
        let t = m.microbatch(|| "t");
        let _ = t.pstate::<Map<u32, i64>>("items");
    });
    let Err(Error::Duplicate { name, first, second }) = twice else { panic!("{twice:?}") };
    assert_eq!(name, "items");
    assert_ne!(first.file(), second.file());
    assert!(second.file().ends_with("builder.rs"));
    let text = Error::Duplicate { name, first, second }.to_string();
    assert!(text.contains(&first.to_string()) && text.contains(&second.to_string()), "{text}");

    for name in ["", "a b", "a/b", "ä", &"x".repeat(101)] {
        let bad = module::define("test", |m| m.depot::<Item>(name).random());
        assert!(matches!(bad, Err(Error::BadName { .. })), "{bad:?}");
        assert!(matches!(module::define(name, |_| ()), Err(Error::BadName { .. })));
    }
}

#[test]
fn flows_must_end_and_topologies_must_begin() {
    let mut line = 0;
    let unfinished = module::define("test", |m| {
        let depot = items(m);
        let t = m.microbatch(|| "t");
        let source = t.source(depot);
        line = line!() - 1;
        drop(source.map(|item| item.key));
    });
    let Err(Error::Unfinished { topology, location }) = unfinished else {
        panic!("{unfinished:?}")
    };
    assert_eq!((topology.as_str(), location.line()), ("t", line));

    let idle = module::define("test", |m| {
        m.microbatch(|| "t");
    });
    assert!(matches!(idle, Err(Error::NoSource { .. })), "{idle:?}");
}

#[derive(Clone, Copy)]
struct Ledger;

impl Owner for Ledger {
    fn name(&self) -> &'static str {
        "ledger"
    }
}

#[test]
fn explanations_name_lines_hops_and_pstates() {
    let ((), module) = module::define("test", |m| {
        m.version(7);
        let depot = items(m);
        let loose = m.depot::<Item>("loose").random();
        let t = m.microbatch(Ledger);
        let funds = t.pstate::<Map<u32, i64>>("funds");
        let limits = t.pstate::<Map<u32, i64>>("limits");
        t.source(depot)
            .using((funds, limits.reader()))
            .filter_map(async |_, _, item| Ok(Some(item)))
            .hash_by(|item| &item.value)
            .also(|items| items.append_to(loose))
            .aggregate(funds, |funds, item| funds.key(item.key).add(Sum(item.value)));
    })
    .unwrap();
    assert_eq!(module.version, 7);
    assert!(matches!(module.depots[0].placed_by, PlacedBy::Hash(_)));
    assert!(matches!(module.depots[1].placed_by, PlacedBy::Random));
    let text = module.topologies[0].explain(&module).to_string();
    let lines: Vec<_> = text.lines().map(str::trim).collect();
    let has = |start: &str, end: &str| {
        let found = lines.iter().any(|line| line.starts_with(start) && line.ends_with(end));
        assert!(found, "`{start} .. {end}` is missing in:\n{text}");
    };
    has("topology ledger (", ")");
    has("0: each record of items", "");
    has("filter_map (", " reads funds, limits writes funds");
    has("hash_by (", " -> 1");
    has("1: where the key lives", "");
    has("append_to (", " -> 2");
    has("2: where loose puts the record", "");
    has("aggregate (", " -> 3");
    has("apply (", " reads funds writes funds");
    has("3: where the changed key lives", "");
    assert!(lines.iter().filter(|line| line.contains("tests/builder.rs:")).count() >= 6, "{text}");
}

#[test]
fn types_that_cannot_be_stored_are_refused_before_anything_runs() {
    #[derive(Clone, serde::Serialize, serde::Deserialize)]
    #[serde(untagged)]
    enum Guess {
        Number(u64),
        Text(String),
    }
    let ((), module) = module::define("test", |m| {
        let depot = m.depot::<Guess>("guesses").random();
        let t = m.microbatch(|| "t");
        t.source(depot).for_each(async |_, guess| match guess {
            Guess::Number(0) => Err(crate::topology::Failure::reject("none")),
            Guess::Number(_) | Guess::Text(_) => Ok(()),
        });
    })
    .unwrap();
    let error = Harness::new(module, 8).unwrap_err();
    assert!(error.to_string().contains("Guess"), "{error}");
}

#[test]
fn what_shards_share_and_send_can_be() {
    fn shared<T: Send + Sync>() {}
    fn sent<T: Send>() {}
    shared::<module::Definition>();
    shared::<module::Depot<Item>>();
    shared::<crate::schema::PState<Map<u32, i64>>>();
    shared::<crate::topology::EventFailure>();
    sent::<crate::topology::Outgoing>();
}
