//! A `PState` takes another type while it is read and written, over crashes.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use serde::{Deserialize, Serialize};
use tidemill::migrate::Migration;
use tidemill::module::{Depot, Module};
use tidemill::schema::aggregate::Sum;
use tidemill::schema::{List, Map, PState, Single, Sub};
use tidemill::{Engine, Error, Launched, Options, block_on};

use crate::kit::{self, directory, until};

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Order {
    item: u64,
    number: u64,
}

/// How often an item was ordered, and by which orders. In the first version numbers from 0 and one value.
struct First {
    orders: Depot<Order>,
}

fn first(m: &Module) -> First {
    let orders = m.depot::<Order>("orders").hash_by(|it| &it.item);
    let t = m.microbatch(|| "counting");
    let counts = t.pstate::<Map<u64, u32>>("counts");
    let by_item = t.pstate::<Map<u64, Vec<u64>>>("by_item");
    t.source(orders).using((counts, by_item)).for_each(async |at, (counts, by_item), it: Order| {
        at.update(counts.key(it.item), |n| Some(n.unwrap_or_default() + 1)).await?;
        let more =
            |old: Option<Vec<u64>>| Some([old.unwrap_or_default(), vec![it.number]].concat());
        Ok(at.update(by_item.key(it.item), more).await?)
    });
    First { orders }
}

/// From where the second version counts: a function that may not be applied twice.
const BASE: i64 = 1 << 40;

type Counts = Map<u64, i64>;
type ByItem = Map<u64, Sub<Map<u64, u64>>>;

struct Second {
    orders: Depot<Order>,
    counts: PState<Counts>,
    by_item: PState<ByItem>,
}

/// What the second version declares of its two `PState`s.
#[derive(Clone, Copy)]
enum Declares {
    Migrations(&'static str),
    Nothing,
}

fn second(m: &Module, declares: Declares) -> Second {
    let orders = m.depot::<Order>("orders").hash_by(|it| &it.item);
    let t = m.microbatch(|| "counting");
    let (counts, by_item) = match declares {
        Declares::Migrations(id) => (
            t.pstate_migrated::<Counts, _>(
                "counts",
                Migration::values(id, |n: u32| BASE + i64::from(n)),
            ),
            t.pstate_migrated::<ByItem, _>(
                "by_item",
                Migration::structure(id, |old: Vec<u64>, new| {
                    old.into_iter().try_for_each(|number| new.put(new.key(number), number))
                }),
            ),
        ),
        Declares::Nothing => (t.pstate::<Counts>("counts"), t.pstate::<ByItem>("by_item")),
    };
    t.source(orders)
        .also(|it| it.aggregate(counts, |counts, it| counts.key(it.item).add(Sum(1))))
        .using(by_item)
        .for_each(async |at, by_item, it: Order| {
            Ok(at.put(by_item.key(it.item).key(it.number), it.number)?)
        });
    Second { orders, counts: counts.reader(), by_item: by_item.reader() }
}

const ITEMS: u64 = 240;

/// Orders of each item before the second version.
const EACH: u64 = 3;

fn options() -> Options {
    // As slow as can be, so that there is much to see.
    Options { migration_values_max: 1, memory_bytes: 64 << 20, ..kit::options(2) }
}

fn open(dir: &Path) -> Engine {
    block_on(Engine::open(dir, options())).unwrap()
}

/// A directory with the first version's orders.
fn ordered(name: &str) -> std::path::PathBuf {
    let dir = directory(name);
    let engine = open(&dir);
    let shop = block_on(engine.launch("shop", first)).unwrap();
    for number in 0..EACH {
        let orders: Vec<_> = (0..ITEMS).map(|item| Order { item, number }).collect();
        block_on(shop.append_many(shop.orders, &orders)).unwrap();
    }
    block_on(shop.caught_up("counting")).unwrap();
    block_on(engine.close()).unwrap();
    dir
}

fn launch(engine: &Engine, declares: Declares) -> Result<Launched<Second>, Error> {
    block_on(engine.launch("shop", |m| second(m, declares)))
}

fn left(shop: &Launched<Second>) -> Option<u64> {
    let running = block_on(shop.migrations()).unwrap();
    assert!(running.iter().all(|it| it.problems.is_empty()), "{running:?}");
    if running.is_empty() {
        return None;
    }
    Some(running.iter().flat_map(|it| it.left.values()).sum())
}

/// Whatever is read is in the new form, and the two `PState`s agree.
fn read(shop: &Launched<Second>, item: u64) -> Result<(), Error> {
    let both = (shop.counts.key(item), shop.by_item.key(item).all());
    let (count, orders) = block_on(shop.select(both))?;
    let count = count.unwrap();
    assert_eq!(count, BASE + i64::try_from(orders.len()).unwrap(), "item {item}: {orders:?}");
    assert!((0..EACH).all(|number| orders.contains(&(number, number))), "item {item}: {orders:?}");
    if item.is_multiple_of(16) {
        let some = block_on(shop.select(shop.counts.range(item..).limit(20)))?;
        let items: Vec<u64> = some.iter().map(|(item, _)| *item).collect();
        assert_eq!(items, (item..ITEMS).take(20).collect::<Vec<_>>());
        let all = block_on(shop.select(shop.counts.all().reverse()))?;
        assert_eq!(all.len() as u64, ITEMS);
        assert!(
            all.iter().all(|(_, count)| *count >= BASE + i64::try_from(EACH).unwrap()),
            "{all:?}"
        );
    }
    Ok(())
}

#[test]
fn every_read_sees_the_new_form_under_load_and_over_crashes() {
    let dir = ordered("migration-under-load");
    let acked = Mutex::new(BTreeSet::new());
    let next = AtomicU64::new(EACH);
    let all = 2 * ITEMS;
    let mut seen = false;
    for life in 0..5 {
        let engine = open(&dir);
        let shop = launch(&engine, Declares::Migrations("second")).unwrap();
        let done = AtomicBool::new(false);
        std::thread::scope(|threads| {
            threads.spawn(|| {
                let mut item = 0;
                while !done.load(Ordering::SeqCst) {
                    let number = next.fetch_add(1, Ordering::SeqCst);
                    item = (item * 7 + 3) % ITEMS;
                    let orders = (0..16).map(|n| Order { item: (item + n) % ITEMS, number });
                    let orders: Vec<_> = orders.collect();
                    if block_on(shop.append_many(shop.orders, &orders)).is_err() {
                        return;
                    }
                    acked.lock().unwrap().extend(orders.iter().map(|it| (it.item, number)));
                }
            });
            threads.spawn(|| {
                for item in (0..).map(|n| n * 5 % ITEMS) {
                    if done.load(Ordering::SeqCst) || read(&shop, item).is_err() {
                        return;
                    }
                }
            });
            let less = if life < 4 { Some(all - (life + 1) * all / 5) } else { None };
            until("it goes on", || match (left(&shop), less) {
                (None, _) => true,
                (Some(left), Some(less)) => {
                    seen |= 0 < left && left < all;
                    left <= less
                }
                (Some(_), None) => false,
            });
            done.store(true, Ordering::SeqCst);
        });
        block_on(shop.caught_up("counting")).unwrap();
        for item in 0..ITEMS {
            read(&shop, item).unwrap();
        }
        drop(shop);
        block_on(engine.stop());
    }
    assert!(seen, "how far it was could be seen");

    let engine = open(&dir);
    let shop = launch(&engine, Declares::Nothing).unwrap();
    block_on(shop.caught_up("counting")).unwrap();
    assert_eq!(left(&shop), None);
    let mut stored: BTreeMap<u64, BTreeSet<u64>> = BTreeMap::new();
    for item in 0..ITEMS {
        let orders = block_on(shop.select(shop.by_item.key(item).all())).unwrap();
        stored.insert(item, orders.into_iter().map(|(number, _)| number).collect());
        read(&shop, item).unwrap();
    }
    let acked = acked.into_inner().unwrap();
    assert!(!acked.is_empty(), "orders went on");
    assert!(acked.iter().all(|(item, number)| stored[item].contains(number)));
    block_on(engine.close()).unwrap();
}

#[test]
fn an_idle_topology_migrates_and_the_old_form_takes_no_space_any_more() {
    let dir = ordered("migration-idle");
    let engine =
        block_on(Engine::open(&dir, Options { migration_values_max: 200, ..options() })).unwrap();
    let shop = launch(&engine, Declares::Migrations("second")).unwrap();
    let first = block_on(shop.snapshot()).unwrap();
    until("it is done", || left(&shop).is_none());
    // What was held before is what it was.
    let held = block_on(shop.select(shop.counts.all()).at(&first)).unwrap();
    assert_eq!(held, block_on(shop.select(shop.counts.all())).unwrap());
    assert_eq!(held.len() as u64, ITEMS);
    drop((shop, first));
    block_on(engine.close()).unwrap();
    let mut rows = BTreeMap::<u32, u64>::new();
    for partition in 0..8 {
        let bytes = std::fs::read(dir.join(format!("p/{partition}/pages"))).unwrap();
        let verified = tidemill::pstate::verify_rows(
            &bytes,
            Some(tidemill::types::PartitionId(partition)),
            &mut |row| {
                *rows.entry(row.pstate.0).or_default() += 1;
            },
        );
        assert!(verified.findings.is_empty(), "{:?}", verified.findings);
    }
    rows.remove(&0);
    // The new numbers, with a size for each item, and nothing under 1 and 2.
    assert_eq!(rows, BTreeMap::from([(3, ITEMS), (4, ITEMS * (EACH + 1))]));
}

#[test]
fn launches_that_would_leave_a_migration_are_refused_before_anything_happens() {
    let dir = ordered("migration-refused");
    let refused = |declares| {
        let engine = open(&dir);
        let Err(Error::Invalid { what }) = launch(&engine, declares) else { panic!("launched") };
        block_on(engine.stop());
        what
    };
    let what = refused(Declares::Nothing);
    assert!(what.contains("declared as `Map<u64, i64>`") || what.contains("migrate it"), "{what}");
    let engine = open(&dir);
    let shop = launch(&engine, Declares::Migrations("second")).unwrap();
    assert!(matches!(launch(&engine, Declares::Migrations("third")), Err(Error::Invalid { .. })));
    drop(shop);
    block_on(engine.stop());
    let what = refused(Declares::Migrations("third"));
    assert!(
        what.contains("with the migration `third`, and its migration `second` is under way"),
        "{what}"
    );
    let what = refused(Declares::Nothing);
    assert!(
        what.contains("without a migration, and its migration `second` is under way"),
        "{what}"
    );
    let engine = open(&dir);
    let shop = launch(&engine, Declares::Migrations("second")).unwrap();
    until("it is done", || left(&shop).is_none());
    drop(shop);
    block_on(engine.stop());
    // The same again does nothing.
    let engine = open(&dir);
    let shop = launch(&engine, Declares::Migrations("second")).unwrap();
    assert_eq!(left(&shop), None);
    assert_eq!(block_on(shop.select(shop.counts.key(0))).unwrap(), Some(BASE + 3));
    block_on(engine.close()).unwrap();
}

/// All orders there were: how many, and which items. In the first version one number and one value.
fn first_totals(m: &Module) -> Depot<Order> {
    let orders = m.depot::<Order>("orders").hash_by(|it| &it.item);
    let t = m.microbatch(|| "counting");
    let total = t.pstate::<Single<u64>>("total");
    let items = t.pstate::<Single<Vec<u64>>>("items");
    t.source(orders).global().using((total, items)).for_each(
        async |at, (total, items), it: Order| {
            at.update(total.whole(), |n| Some(n.unwrap_or_default() + 1)).await?;
            let more =
                |old: Option<Vec<u64>>| Some([old.unwrap_or_default(), vec![it.item]].concat());
            Ok(at.update(items.whole(), more).await?)
        },
    );
    orders
}

type Totals = (Depot<Order>, PState<Single<String>>, PState<Single<Sub<List<u64>>>>);

fn second_totals(m: &Module, declares: Declares) -> Totals {
    let orders = m.depot::<Order>("orders").hash_by(|it| &it.item);
    let t = m.microbatch(|| "counting");
    let (total, items) = match declares {
        Declares::Migrations(id) => (
            t.pstate_migrated::<Single<String>, _>(
                "total",
                Migration::values(id, |n: u64| format!("{n} of old")),
            ),
            t.pstate_migrated::<Single<Sub<List<u64>>>, _>(
                "items",
                Migration::structure(id, |old: Vec<u64>, new| {
                    old.into_iter().try_for_each(|item| new.push(new.here(), item))
                }),
            ),
        ),
        Declares::Nothing => (t.pstate("total"), t.pstate("items")),
    };
    t.source(orders).global().using((total, items)).for_each(
        async |at, (total, items), it: Order| {
            at.update(total.whole(), |n| Some(n.unwrap_or_default() + ", 1 more")).await?;
            Ok(at.push(items.whole(), it.item).await?)
        },
    );
    (orders, total.reader(), items.reader())
}

#[test]
fn what_lives_in_one_partition_migrates_too() {
    let dir = directory("migration-single");
    let engine = open(&dir);
    let shop = block_on(engine.launch("shop", first_totals)).unwrap();
    let order = |item| Order { item, number: 0 };
    block_on(shop.append_many(*shop, &[order(5), order(5), order(5)])).unwrap();
    block_on(shop.caught_up("counting")).unwrap();
    drop(shop);
    block_on(engine.close()).unwrap();

    let mut told = "3 of old".to_owned();
    for life in 0..3 {
        let engine = open(&dir);
        let declares = if life < 2 { Declares::Migrations("single") } else { Declares::Nothing };
        let shop = block_on(engine.launch("shop", |m| second_totals(m, declares))).unwrap();
        let (orders, total, items) = *shop;
        let check = |told: &str, when: &str| {
            assert_eq!(
                block_on(shop.select(total.whole())).unwrap().as_deref(),
                Some(told),
                "{when}"
            );
            let all = block_on(shop.select(items.whole().all())).unwrap();
            assert_eq!(all, vec![5; 3 + life], "{when}");
            assert_eq!(block_on(shop.select(items.whole().size())).unwrap(), 3 + life as u64);
        };
        check(&told, "at the launch");
        until("both are rewritten", || block_on(shop.migrations()).unwrap().is_empty());
        check(&told, "rewritten");
        block_on(shop.append(orders, &order(5))).unwrap();
        block_on(shop.caught_up("counting")).unwrap();
        told += ", 1 more";
        drop(shop);
        block_on(engine.close()).unwrap();
    }
}
