//! Recomputes beside what else moves or compares: migrations, differences of ids, gaps of subscriptions.

use std::path::Path;
use std::time::Duration;

use futures_lite::future::poll_once;
use tidemill::Error;
use tidemill::client::{Engine, Launched, Snapshot, block_on};
use tidemill::difference::Differing;
use tidemill::migrate::Migration;
use tidemill::module::{Depot, Module};
use tidemill::node::Options;
use tidemill::schema::aggregate::Sum;
use tidemill::schema::{Map, PState, Sub};
use tidemill::subscribe::{Gap, What};
use tidemill::types::MicrobatchId;

use crate::kit::{self, close, directory};
use crate::recompute::stored;

fn launch<H: Send + Sync + 'static>(
    dir: &Path,
    options: Options,
    module: impl FnOnce(&Module) -> H,
) -> Launched<H> {
    let engine = block_on(Engine::open(dir, options)).unwrap();
    block_on(engine.launch("shop", module)).unwrap()
}

// ---- differences and gaps

struct Shop {
    sales: Depot<(u64, u64, i64)>,
    sold: PState<Map<u64, i64>>,
    items: PState<Map<u64, Sub<Map<u64, i64>>>>,
}

fn shop(m: &Module) -> Shop {
    let sales = m.depot::<(u64, u64, i64)>("sales").hash_by(|(shop, ..)| shop);
    let t = m.microbatch(|| "counting");
    t.order_free();
    let sold = t.pstate::<Map<u64, i64>>("sold");
    let items = t.pstate::<Map<u64, Sub<Map<u64, i64>>>>("items");
    t.source(sales)
        .also(|it| it.aggregate(sold, |sold, (shop, _, n)| sold.key(shop).add(Sum(n))))
        .aggregate(items, |items, (shop, item, n)| items.key(shop).key(item).add(Sum(n)));
    Shop { sales, sold: sold.reader(), items: items.reader() }
}

const SHOPS: u64 = 20;

fn sell(of: &Launched<Shop>, shops: std::ops::Range<u64>, item: u64) -> Snapshot {
    let sales: Vec<_> = shops.map(|shop| (shop, item, 1)).collect();
    block_on(of.append_many(of.sales, &sales)).unwrap();
    block_on(of.caught_up("counting")).unwrap();
    block_on(of.snapshot()).unwrap()
}

fn id(of: &Snapshot) -> MicrobatchId {
    of.ids()[0].1
}

#[test]
fn what_was_recomputed_between_two_moments_is_not_compared() {
    let options = Options {
        recompute_share: 1.0,
        recompute_pause_max: Duration::from_mins(2),
        history: Duration::from_mins(10),
        ..kit::options(2)
    };
    let dir = directory("recompute_differences");
    let of = launch(&dir, options, shop);
    let old = [sell(&of, 0..SHOPS, 1), sell(&of, 3..5, 2)];
    block_on(of.recompute("counting")).unwrap();
    let new = [block_on(of.snapshot()).unwrap(), sell(&of, 7..9, 3)];
    assert_eq!(id(&old[1]), id(&new[0]), "it stood still meanwhile");

    let changes = |shops: std::ops::Range<u64>| -> Vec<_> {
        shops.map(|key| Differing { key, from: Some(1), to: Some(2) }).collect()
    };
    let all = || of.sold.all();
    assert_eq!(block_on(of.difference(all(), &old[0], &old[1]).all()).unwrap(), changes(3..5));
    assert_eq!(block_on(of.difference(all(), id(&old[0]), &old[1]).all()).unwrap(), changes(3..5));
    assert_eq!(block_on(of.difference(all(), &new[0], &new[1]).all()).unwrap(), changes(7..9));
    let ids = (id(&new[0]), id(&new[1]));
    assert_eq!(block_on(of.difference(all(), ids.0, ids.1).all()).unwrap(), changes(7..9));

    let refused = [
        block_on(of.difference(all(), &old[0], &new[1]).all()),
        block_on(of.difference(all(), &new[1], &old[0]).all()),
        block_on(of.difference(all(), &old[1], &new[0]).all()),
        block_on(of.difference(all(), &new[0], &old[1]).all()),
        block_on(of.difference(all(), id(&old[0]), &new[1]).all()),
        block_on(of.difference(all(), id(&old[0]), id(&new[1])).all()),
        block_on(of.difference(all(), &old[1], ids.1).all()),
    ];
    for refused in refused {
        let Err(Error::Invalid { what }) = refused else { panic!("{refused:?}") };
        assert!(what.contains("`sold` was recomputed between the two moments"), "{what}");
    }
    drop((old, new));
    close(of);
    stored(&dir);
}

#[test]
fn a_gap_over_a_recompute_is_closed_by_value() {
    let options = Options {
        recompute_share: 1.0,
        recompute_pause_max: Duration::from_mins(2),
        history: Duration::from_mins(10),
        subscription_bytes_max: 400,
        subscription_heartbeat: Duration::from_millis(5),
        ..kit::options(2)
    };
    let dir = directory("recompute_gaps");
    let of = launch(&dir, options, shop);
    sell(&of, 0..SHOPS, 1);
    let path = || of.items.key(3).all();
    let mut subscribed = block_on(of.subscribe(path())).unwrap();
    let mut item = 1;
    let mut overrun = || {
        for _ in 0..20 {
            item += 1;
            sell(&of, 3..4, item);
        }
    };
    // The changes up to a gap, which is passed to `check`.
    let mut next_gap = |check: &dyn Fn(&What<_, _>) -> bool| {
        for _ in 0..100 {
            let change = block_on(subscribed.next()).unwrap().unwrap();
            match change.what {
                What::Diffs(_) | What::Unchanged => {}
                what => {
                    assert!(check(&what), "{what:?}");
                    let now = block_on(of.select(path())).unwrap();
                    let seen: Vec<_> =
                        subscribed.value().iter().map(|(key, value)| (*key, *value)).collect();
                    assert_eq!(seen, now);
                    return;
                }
            }
        }
        panic!("there is no gap");
    };
    overrun();
    next_gap(&|what| matches!(what, What::Bridged { gap: Gap::Overrun, .. }));
    // What was missed was written to another place than what is there now.
    overrun();
    block_on(of.recompute("counting")).unwrap();
    next_gap(&|what| matches!(what, What::Resynced { gap: Gap::Overrun, .. }));
    // From then on that is followed.
    overrun();
    next_gap(&|what| matches!(what, What::Bridged { gap: Gap::Overrun, .. }));
    // Who is up to date hears of it, although nothing is written.
    block_on(of.recompute("counting")).unwrap();
    next_gap(&|what| matches!(what, What::Resynced { gap: Gap::Recomputed, .. }));
    drop(subscribed);
    close(of);
    stored(&dir);
}

// ---- migrations

struct Counting<T: 'static> {
    orders: Depot<u64>,
    looks: Depot<u64>,
    counts: PState<Map<u64, T>>,
    seen: PState<Map<u64, i64>>,
}

fn first(m: &Module) -> Counting<u32> {
    let (orders, looks) = depots(m);
    let t = m.microbatch(|| "counting");
    t.order_free();
    let counts = t.pstate::<Map<u64, u32>>("counts");
    t.source(orders).aggregate(counts, |counts, item| counts.key(item).add(Sum(1)));
    let counts = counts.reader();
    let w = m.microbatch(|| "watching");
    let seen = w.pstate::<Map<u64, i64>>("seen");
    w.source(looks).using(seen).for_each(async move |at, seen, item| {
        let count = at.get(counts.key(item)).await?.unwrap_or_default();
        Ok(at.put(seen.key(item), i64::from(count))?)
    });
    Counting { orders, looks, counts, seen: seen.reader() }
}

fn depots(m: &Module) -> (Depot<u64>, Depot<u64>) {
    (m.depot("orders").hash_by(|item| item), m.depot("looks").hash_by(|item| item))
}

/// What the second version counts from.
const BASE: i64 = 1 << 40;

/// The item whose count has no new form, where it has none.
const STUCK: u64 = 5;

fn second(m: &Module, version: u32, sticks: bool) -> Counting<i64> {
    m.version(version);
    let (orders, looks) = depots(m);
    let t = m.microbatch(|| "counting");
    t.order_free();
    let migration = Migration::values("from-base", move |n: u32| {
        assert!(!sticks || n != 2, "it has no new form");
        BASE + i64::from(n)
    });
    let counts = t.pstate_migrated::<Map<u64, i64>, _>("counts", migration);
    t.source(orders).using(counts).for_each(async |at, counts, item| {
        Ok(at.update(counts.key(item), |n| Some(n.unwrap_or(BASE) + 1)).await?)
    });
    let counts = counts.reader();
    let w = m.microbatch(|| "watching");
    w.order_free();
    let seen = w.pstate::<Map<u64, i64>>("seen");
    w.source(looks).using(seen).for_each(async move |at, seen, item| {
        let count = at.get(counts.key(item)).await?.unwrap_or_default();
        Ok(at.put(seen.key(item), count)?)
    });
    Counting { orders, looks, counts, seen: seen.reader() }
}

const ITEMS: u64 = 40;

fn options() -> Options {
    Options { recompute_share: 1.0, recompute_pause_max: Duration::from_mins(2), ..kit::options(2) }
}

/// One order of each item, and another one of the one that sticks.
fn order(of: &Launched<Counting<u32>>) {
    let orders: Vec<_> = (0..ITEMS).chain([STUCK]).collect();
    block_on(of.append_many(of.orders, &orders)).unwrap();
    block_on(of.caught_up("counting")).unwrap();
}

fn expected(item: u64) -> i64 {
    BASE + if item == STUCK { 2 } else { 1 }
}

fn migrated(of: &Launched<Counting<i64>>) {
    for _ in 0..6_000 {
        if block_on(of.migrations()).unwrap().is_empty() {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("the migration does not end");
}

fn judge(of: &Launched<Counting<i64>>) {
    let all = block_on(of.select(of.counts.all())).unwrap();
    assert_eq!(all, (0..ITEMS).map(|item| (item, expected(item))).collect::<Vec<_>>());
}

fn refused<T: std::fmt::Debug>(result: Result<T, Error>) -> String {
    match result {
        Err(Error::Recompute { what } | Error::Invalid { what }) => what,
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_is_being_migrated_is_recomputed_when_that_is_done() {
    let dir = directory("recompute_migrating");
    let of = launch(&dir, options(), first);
    order(&of);
    close(of);

    let of = launch(&dir, options(), |m| second(m, 1, true));
    let why = refused(block_on(of.recompute("counting")));
    assert!(why.contains("PState `counts` of topology `counting`"), "{why}");
    assert!(why.contains("is being migrated: try again when that is done"), "{why}");
    assert_eq!(block_on(of.recomputing()).unwrap(), []);
    // Another topology reads the new form, also when it is recomputed, of what is not moved yet, too.
    let items: Vec<_> = (0..ITEMS).filter(|&item| item != STUCK).collect();
    block_on(of.append_many(of.looks, &items)).unwrap();
    block_on(of.caught_up("watching")).unwrap();
    block_on(of.recompute("watching")).unwrap();
    for &item in &items {
        assert_eq!(block_on(of.select(of.seen.key(item))).unwrap(), Some(expected(item)));
        assert_eq!(block_on(of.select(of.counts.key(item))).unwrap(), Some(expected(item)));
    }
    close(of);

    // Both in one life of the module: what migrations leave behind stays where it is over a switch.
    let of = launch(&dir, options(), |m| second(m, 1, false));
    block_on(of.recompute("watching")).unwrap();
    migrated(&of);
    judge(&of);
    let before = block_on(of.snapshot()).unwrap();
    block_on(of.recompute("counting")).unwrap();
    judge(&of);
    block_on(of.append(of.orders, &7)).unwrap();
    block_on(of.caught_up("counting")).unwrap();
    assert_eq!(block_on(of.select(of.counts.key(7))).unwrap(), Some(expected(7) + 1));
    assert_eq!(block_on(of.select(of.counts.key(7)).at(&before)).unwrap(), Some(expected(7)));
    let all = block_on(of.select(of.counts.all()).at(&before)).unwrap();
    assert_eq!(all, (0..ITEMS).map(|item| (item, expected(item))).collect::<Vec<_>>());
    drop(before);
    close(of);
    stored(&dir);

    let of = launch(&dir, options(), |m| second(m, 1, false));
    assert_eq!(block_on(of.select(of.counts.key(7))).unwrap(), Some(expected(7) + 1));
    close(of);
}

#[test]
fn a_launch_does_not_begin_a_migration_of_what_is_being_recomputed() {
    let dir = directory("recompute_then_migrate");
    let no_time = Options { recompute_pause_max: Duration::ZERO, ..options() };
    let of = launch(&dir, no_time, first);
    order(&of);
    refused(block_on(of.recompute("counting")));
    assert_eq!(block_on(of.recomputing()).unwrap().len(), 1, "it goes on");
    close(of);
    stored(&dir);

    let engine = block_on(Engine::open(&dir, options())).unwrap();
    let why = refused(block_on(engine.launch("shop", |m| second(m, 1, false))).map(drop));
    assert!(why.contains("PState `counts` of module `shop` is declared with a migration"), "{why}");
    assert!(why.contains("`counting` is being recomputed. Nothing was changed."), "{why}");
    let of = block_on(engine.launch("shop", first)).unwrap();
    drop(engine);
    assert_eq!(block_on(of.recomputing()).unwrap().len(), 1);
    assert_eq!(block_on(of.select(of.counts.key(STUCK))).unwrap(), Some(2));
    close(of);

    // Another version ends it.
    let of = launch(&dir, options(), |m| second(m, 2, false));
    assert_eq!(block_on(of.recomputing()).unwrap(), []);
    judge(&of);
    migrated(&of);
    block_on(of.recompute("counting")).unwrap();
    judge(&of);
    close(of);
    stored(&dir);
}

// ---- what other topologies write

#[test]
fn a_recompute_that_was_left_alone_reads_what_another_one_has_moved() {
    let dir = directory("recompute_of_two");
    let of = launch(&dir, options(), |m| second(m, 1, false));
    let orders: Vec<_> = (0..ITEMS).chain([STUCK]).collect();
    block_on(of.append_many(of.orders, &orders)).unwrap();
    block_on(of.caught_up("counting")).unwrap();
    // More than those for which it would be near at once.
    for _ in 0..300 {
        block_on(of.append_many(of.looks, &(0..ITEMS).collect::<Vec<_>>())).unwrap();
    }
    block_on(of.caught_up("watching")).unwrap();
    let before = block_on(of.snapshot()).unwrap();
    let mut left = Box::pin(of.recompute("watching"));
    while block_on(of.recomputing()).unwrap().is_empty() {
        assert!(block_on(poll_once(&mut left)).is_none(), "it is not near");
    }
    drop(left);
    block_on(of.recompute("counting")).unwrap();
    assert_eq!(block_on(of.recomputing()).unwrap().len(), 1, "it goes on by itself");
    block_on(of.append(of.orders, &7)).unwrap();
    block_on(of.caught_up("counting")).unwrap();
    block_on(of.engine().fold()).unwrap();
    block_on(of.append(of.looks, &7)).unwrap();
    block_on(of.caught_up("watching")).unwrap();
    block_on(of.recompute("watching")).unwrap();
    assert_eq!(block_on(of.select(of.seen.key(7))).unwrap(), Some(expected(7) + 1));
    // A snapshot keeps what lay elsewhere then, of both.
    std::thread::sleep(Duration::from_millis(200));
    block_on(of.append(of.orders, &8)).unwrap();
    block_on(of.caught_up("counting")).unwrap();
    block_on(of.engine().fold()).unwrap();
    let was: Vec<_> = (0..ITEMS).map(|item| (item, expected(item))).collect();
    assert_eq!(block_on(of.select(of.counts.all()).at(&before)).unwrap(), was);
    assert_eq!(block_on(of.select(of.seen.all()).at(&before)).unwrap(), was);
    drop(before);
    close(of);
    stored(&dir);
}
