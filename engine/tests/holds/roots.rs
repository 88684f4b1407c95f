//! `PState`s that live in one partition, that begin with a value, or whose keys are placed by a function: in an
//! engine with several partitions, over folds and reopenings, as clients see them.

use serde::{Deserialize, Serialize};
use tidemill::client::Subscription;
use tidemill::codec::EncodeKey;
use tidemill::module::{Depot, Module};
use tidemill::schema::aggregate::{Count, Sum};
use tidemill::schema::ast::{Query, Value};
use tidemill::schema::eval::{Outcome, Queried};
use tidemill::schema::{
    Initial, Initially, List, Map, Outside, PState, PlaceBy, Placed, Private, Single, Sub,
};
use tidemill::subscribe::{Mirror, Replaced, Subscribe, What};
use tidemill::{Engine, Error, Launched, block_on};

use crate::kit::{directory, options};

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Order {
    country: String,
    number: u64,
    cents: i64,
}

enum Budget {}

impl Initial for Budget {
    type Value = i64;

    fn value() -> i64 {
        1_000_000
    }
}

enum Country {}

impl PlaceBy<(String, u64)> for Country {
    const NAME: &'static str = "country";

    fn by((country, _): &(String, u64)) -> impl EncodeKey {
        country
    }
}

/// The cents of orders, by where they come from and their number.
type Cents = Placed<Map<(String, u64), i64>, Country>;

struct Shop {
    orders: Depot<Order>,
    count: PState<Single<u64>>,
    budget: PState<Single<Initially<Budget>>>,
    by_country: PState<Single<Sub<Map<String, i64>>>>,
    log: PState<Single<Sub<List<u64>>>>,
    placed: PState<Cents>,
}

fn shop(m: &Module) -> Shop {
    let orders = m.depot::<Order>("orders").hash_by(|order| &order.number);
    let t = m.microbatch(|| "shop");
    let count = t.pstate::<Single<u64>>("count");
    let budget = t.pstate::<Single<Initially<Budget>>>("budget");
    let by_country = t.pstate::<Single<Sub<Map<String, i64>>>>("by_country");
    let log = t.pstate::<Single<Sub<List<u64>>>>("log");
    let placed = t.pstate::<Cents>("placed");
    let seen = t.pstate::<Private<Map<u64, u64>>>("seen");
    t.source(orders)
        .using(seen)
        .filter_map(async |at, seen, order: Order| {
            let times = at.get(seen.key(order.number)).await?.unwrap_or(0);
            at.put(seen.key(order.number), times + 1)?;
            Ok((times == 0).then_some(order))
        })
        .also(|b| {
            b.aggregate((count, budget, by_country), |(count, budget, by_country), order| {
                (
                    count.whole().add(Count),
                    budget.whole().add(Sum(-order.cents)),
                    by_country.key(&order.country).add(Sum(order.cents)),
                )
            })
        })
        .also(|b| {
            b.hash_by(|order| &order.country).using(placed).for_each(async |at, placed, order| {
                at.put(placed.key((order.country, order.number)), order.cents)?;
                Ok(())
            })
        })
        .global()
        .using(log)
        .for_each(async |at, log, order| Ok(at.push(log.whole(), order.number).await?));
    Shop {
        orders,
        count: count.reader(),
        budget: budget.reader(),
        by_country: by_country.reader(),
        log: log.reader(),
        placed: placed.reader(),
    }
}

const COUNTRIES: [&str; 5] = ["at", "ch", "de", "fr", "it"];

fn order(number: u64) -> Order {
    let country = COUNTRIES[usize::try_from(number % 5).unwrap()].to_owned();
    Order { country, number, cents: i64::try_from(number % 90).unwrap() }
}

async fn ask<T: Outcome>(
    shop: &Launched<Shop>,
    pstate: impl Queried + Outside,
    path: &str,
) -> Vec<T> {
    let query = Query::from_json(&serde_json::from_str(path).unwrap()).unwrap();
    shop.query(pstate, &query).await.unwrap()
}

/// All that clients can read is what the orders below `count` come to, each counted once.
async fn compare(shop: &Launched<Shop>, count: u64) {
    let cents = |country: Option<&str>| -> i64 {
        let orders = (0..count).map(order);
        let of = orders.filter(|order| country.is_none_or(|it| order.country == it));
        of.map(|order| order.cents).sum()
    };
    let some = (count > 0).then_some(count);
    assert_eq!(shop.select(shop.count.whole()).await.unwrap(), some);
    assert_eq!(shop.select(shop.budget.whole()).await.unwrap(), 1_000_000 - cents(None));
    // Of one moment, and all three in one place.
    let together = (shop.count.whole(), shop.budget.whole(), shop.by_country.size());
    let countries = count.min(5);
    assert_eq!(shop.select(together).await.unwrap(), (some, 1_000_000 - cents(None), countries));
    let by_country = shop.select(shop.by_country.all()).await.unwrap();
    let expected: Vec<_> = COUNTRIES.iter().map(|it| ((*it).to_owned(), cents(Some(it)))).collect();
    assert_eq!(by_country, if count == 0 { Vec::new() } else { expected });
    let mut log = shop.select(shop.log.all()).await.unwrap();
    assert_eq!(shop.select(shop.log.size()).await.unwrap(), count);
    log.sort_unstable();
    assert_eq!(log, (0..count).collect::<Vec<_>>());

    let all = shop.select(shop.placed.all()).await.unwrap();
    assert_eq!(all.len() as u64, count);
    let mut pages = shop.pages(shop.by_country.all().keys(), 2);
    let mut paged = Vec::new();
    while let Some(page) = pages.next().await.unwrap() {
        paged.extend(page);
    }
    assert_eq!(paged.len() as u64, countries);
    let paths = (0..count).map(|number| shop.placed.key((order(number).country, number)));
    let found = shop.select_many(paths).await.unwrap();
    assert!(found.into_iter().eq((0..count).map(|number| Some(order(number).cents))));

    // Queries go where typed paths go.
    assert_eq!(ask::<Option<u64>>(shop, shop.count, "[]").await, [some]);
    assert_eq!(ask::<i64>(shop, shop.budget, "[]").await, [1_000_000 - cents(None)]);
    assert_eq!(ask::<u64>(shop, shop.by_country, r#"["size"]"#).await, [countries]);
    let swiss = (count > 0).then(|| cents(Some("ch")));
    assert_eq!(ask::<Option<i64>>(shop, shop.by_country, r#"[["key","ch"]]"#).await, [swiss]);
    assert_eq!(ask::<i64>(shop, shop.placed, r#"["values"]"#).await.len() as u64, count);
    for number in (0..count).step_by(37) {
        let Order { country, cents, .. } = order(number);
        let key = format!(r#"[["key",["{country}",{number}]]]"#);
        assert_eq!(ask::<Option<i64>>(shop, shop.placed, &key).await, [Some(cents)], "{key}");
    }
}

/// Follows a value to what it is now.
async fn follow<T, P>(subscription: &mut Subscription<P>, to: &T)
where
    T: PartialEq + std::fmt::Debug,
    P: Subscribe<Mirror: Mirror<Value = T, Diff = Replaced<T>>>,
{
    let mut told = None;
    while subscription.value() != to {
        let change = subscription.next().await.unwrap().unwrap();
        let What::Diffs(diffs) = change.what else { continue };
        let [Replaced { value, old }] = <[_; 1]>::try_from(diffs).expect("one value");
        assert!(told.is_none_or(|told| told == old), "{old:?} was not told");
        told = Some(value);
    }
}

#[test]
fn what_has_a_place_of_its_own_is_found_there_over_folds_and_reopenings() {
    let dir = directory("roots");
    let mut count = 0;
    for shards in [2, 1, 3] {
        block_on(async {
            let engine = Engine::open(&dir, options(shards)).await.unwrap();
            let shop = engine.launch("shop", shop).await.unwrap();
            compare(&shop, count).await;
            let mut counted = shop.subscribe(shop.count.whole()).await.unwrap();
            let mut budget = shop.subscribe(shop.budget.whole()).await.unwrap();
            let mut countries = shop.subscribe(shop.by_country.all()).await.unwrap();
            let before = shop.snapshot().await.unwrap();
            let (was, left) = (*counted.value(), *budget.value());
            for _ in 0..3 {
                let next: Vec<Order> = (count..count + 70).map(order).collect();
                // Twice: what is private knows.
                for _ in 0..2 {
                    shop.append_many(shop.orders, &next).await.unwrap();
                }
                count += 70;
                shop.caught_up("shop").await.unwrap();
                compare(&shop, count).await;
                engine.fold().await.unwrap();
            }
            compare(&shop, count).await;
            follow(&mut counted, &Some(count)).await;
            let now = shop.select(shop.budget.whole()).await.unwrap();
            follow(&mut budget, &now).await;
            while countries.value().len() < 5 {
                countries.next().await.unwrap().unwrap();
            }
            assert_eq!(shop.select(shop.count.whole()).at(&before).await.unwrap(), was);
            assert_eq!(shop.select(shop.budget.whole()).at(&before).await.unwrap(), left);
            drop((counted, budget, countries, before, shop));
            if shards == 1 {
                engine.close().await.unwrap();
            } else {
                engine.stop().await;
            }
        });
    }
}

/// The same names with rows elsewhere.
fn plain(m: &Module) {
    let orders = m.depot::<Order>("orders").hash_by(|order| &order.number);
    let t = m.microbatch(|| "shop");
    t.pstate::<Map<(String, u64), i64>>("placed");
    t.source(orders).for_each(async |_, _| Ok(()));
}

#[test]
fn what_is_stored_cannot_be_placed_otherwise() {
    let dir = directory("roots-placed");
    block_on(async {
        let engine = Engine::open(&dir, options(2)).await.unwrap();
        let launched = engine.launch("shop", shop).await.unwrap();
        launched.append(launched.orders, &order(7)).await.unwrap();
        launched.caught_up("shop").await.unwrap();
        drop(launched);
        engine.close().await.unwrap();
        let engine = Engine::open(&dir, options(2)).await.unwrap();
        let refused = engine.launch("shop", plain).await.err().unwrap();
        let Error::Invalid { what } = &refused else { panic!("{refused}") };
        assert!(
            what.contains("placed by `country`") && what.contains("Nothing was changed"),
            "{what}"
        );
        // And it is as it was.
        let launched = engine.launch("shop", shop).await.unwrap();
        let path = launched.placed.key(("de".to_owned(), 7));
        assert_eq!(launched.select(path).await.unwrap(), Some(7));
        assert_eq!(ask::<Value>(&launched, launched.log, "[]").await.len(), 1);
        drop(launched);
        engine.close().await.unwrap();
    });
}
