//! Code of users that panics ends what it was called for, and no shard.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tidemill::migrate::Migration;
use tidemill::module::{Depot, Module};
use tidemill::schema::ast::{Functions, Navigate, Navigator, Query, Step, Value};
use tidemill::schema::eval::Problem;
use tidemill::schema::{Initial, Initially, Map, PState, Single, Sub, Uncounted};
use tidemill::{Engine, Error, Options, block_on};

use crate::kit::{directory, options};

type Shop = (Depot<(u64, String)>, PState<Map<u64, String>>);

fn prices(m: &Module) -> Shop {
    let set = m.depot::<(u64, String)>("set").hash_by(|(item, _)| item);
    let pricing = m.microbatch(|| "pricing");
    let prices = pricing.pstate::<Map<u64, String>>("prices");
    pricing.source(set).using(prices).for_each(async |at, prices, (item, price): (u64, String)| {
        Ok(at.put(prices.key(item), price)?)
    });
    (set, prices.reader())
}

/// Has no way.
struct Broken;

impl Navigate for Broken {
    type From = String;
    type To = String;

    fn select(&self, from: String, _: &mut dyn FnMut(String)) {
        panic!("no way from {from}");
    }

    fn transform(
        &self,
        _: String,
        _: &mut dyn FnMut(String) -> Result<Option<String>, Problem>,
    ) -> Result<Option<String>, Problem> {
        unreachable!("it is not changed")
    }
}

enum Broke {}

impl Initial for Broke {
    type Value = u64;

    fn value() -> u64 {
        panic!("nothing to begin with")
    }
}

#[test]
fn what_panics_in_a_query_or_a_launch_ends_that_alone() {
    let engine = block_on(Engine::open(directory("panics"), options(2))).unwrap();
    let shop = block_on(engine.launch("shop", prices)).unwrap();
    let (set, prices) = *shop;
    let appended = block_on(shop.append(set, &(7, "twelve".to_owned()))).unwrap();
    block_on(shop.wait("pricing", &appended)).unwrap();

    let parsed = || prices.steps().must(7).view(|price: String| price.parse::<u64>().unwrap());
    for _ in 0..3 {
        let error = block_on(shop.find(parsed())).unwrap_err();
        assert!(error.to_string().contains("panicked: called `Result::unwrap()`"), "{error}");
    }
    let query =
        Query::from([Step::Must(Value::from(7_u64)), Step::Navigate(Navigator::named("broken"))]);
    let functions = Functions::none().with_navigator("broken", Broken);
    let error = block_on(shop.query_with::<String>(prices, &query, &functions)).unwrap_err();
    assert!(error.to_string().contains("panicked: no way from twelve"), "{error}");

    let broken = engine.launch("broken", |m| {
        let records = m.depot::<u64>("records").hash_by(|it| it);
        let t = m.microbatch(|| "t");
        t.pstate::<Single<Initially<Broke>>>("broke");
        t.source(records).for_each(async |_, _| Ok(()));
    });
    let error = block_on(broken).unwrap_err();
    assert!(
        matches!(&error, Error::Invalid { what } if what.contains("nothing to begin with")),
        "{error}"
    );

    // Everything goes on.
    let appended = block_on(shop.append(set, &(7, "13".to_owned()))).unwrap();
    block_on(shop.wait("pricing", &appended)).unwrap();
    assert_eq!(block_on(shop.find(parsed())).unwrap(), [13]);
    block_on(engine.close()).unwrap();
}

type Before = Map<u64, u32>;
type Since = Map<u64, Sub<Map<u32, u32>, Uncounted>>;

static CALLS: AtomicU64 = AtomicU64::new(0);

/// A value becomes so many rows.
fn rows(m: &Module) -> (Depot<(u64, u32)>, PState<Since>) {
    let set = m.depot::<(u64, u32)>("set").hash_by(|(key, _)| key);
    let t = m.microbatch(|| "t");
    let grown = Migration::structure("grown", |count: u32, new| {
        CALLS.fetch_add(1, Ordering::Relaxed);
        (0..count).try_for_each(|n| new.put(new.key(n), n))
    });
    let state = t.pstate_migrated::<Since, _>("state", grown);
    t.source(set)
        .using(state)
        .for_each(async |at, state, (key, n): (u64, u32)| Ok(at.put(state.key(key).key(0), n)?));
    (set, state.reader())
}

#[test]
fn a_value_whose_new_form_fits_no_microbatch_is_named_and_stops_nobody_else() {
    let directory = directory("migrations-too-large");
    let small = || Options { microbatch_bytes_max: 1 << 20, ..options(2) };
    let engine = block_on(Engine::open(&directory, small())).unwrap();
    let before = |m: &Module| {
        let set = m.depot::<(u64, u32)>("set").hash_by(|(key, _)| key);
        let t = m.microbatch(|| "t");
        let state = t.pstate::<Before>("state");
        t.source(set)
            .using(state)
            .for_each(async |at, state, (key, n): (u64, u32)| Ok(at.put(state.key(key), n)?));
        set
    };
    let t = block_on(engine.launch("m", before)).unwrap();
    for key in 0..100 {
        // One of them becomes 100,000 rows.
        block_on(t.append(*t, &(key, if key == 50 { 100_000 } else { 2 }))).unwrap();
    }
    block_on(t.caught_up("t")).unwrap();
    drop(t);
    block_on(engine.close()).unwrap();

    let engine = block_on(Engine::open(&directory, small())).unwrap();
    let t = block_on(engine.launch("m", rows)).unwrap();
    let problem = || {
        let migrations = block_on(t.migrations()).unwrap();
        migrations.iter().find_map(|it| it.problems.values().next().cloned())
    };
    let started = Instant::now();
    let told = loop {
        if let Some(told) = problem() {
            break told;
        }
        assert!(
            started.elapsed() < Duration::from_mins(1),
            "nothing is said of it within a minute"
        );
        std::thread::sleep(Duration::from_millis(5));
    };
    assert!(told.contains("needs") && told.contains("and a microbatch holds 1048576"), "{told}");
    let calls = CALLS.load(Ordering::Relaxed);
    // The topology goes on as ever, and does not try that one again.
    let (set, state) = *t;
    for n in 0..100 {
        let appended = block_on(t.append(set, &(200 + n, 9))).unwrap();
        block_on(t.wait("t", &appended)).unwrap();
    }
    assert_eq!(block_on(t.select(state.key(299).key(0))).unwrap(), Some(9));
    assert!(CALLS.load(Ordering::Relaxed) < calls + 100, "it is tried again and again");
    // And it is still read.
    assert_eq!(block_on(t.select(state.key(50).key(99_999))).unwrap(), Some(99_999));
    block_on(engine.close()).unwrap();
}
