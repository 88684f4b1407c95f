//! Records that a topology cannot digest, and failures that are not the records' fault.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU32, Ordering};

use serde::{Deserialize, Serialize};
use tidemill::module::{Depot, Module};
use tidemill::schema::{Map, PState};
use tidemill::shard::Effects;
use tidemill::topology::Failure;
use tidemill::{Engine, Launched, block_on};

use crate::kit::{directory, options};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Order {
    id: u64,
    what: What,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
enum What {
    Fine,
    /// The stage returns an error.
    Error,
    /// The stage panics.
    Panic,
    /// It panics on the partition it hopped to.
    PanicAway,
    /// The stage asks for another try, so often.
    Retry(u32),
}

struct Shop {
    orders: Depot<Order>,
    done: PState<Map<u64, u64>>,
    counted: PState<Map<u64, u64>>,
}

#[derive(Debug, thiserror::Error)]
#[error("order {0} is refused")]
struct Refused(u64);

static RETRIES: AtomicU32 = AtomicU32::new(0);

fn shop(m: &Module) -> Shop {
    let orders = m.depot::<Order>("orders").hash_by(|it| &it.id);
    let t = m.microbatch(|| "handling");
    let done = t.pstate::<Map<u64, u64>>("done");
    let counted = t.pstate::<Map<u64, u64>>("counted");
    t.source(orders)
        .using(done)
        .filter_map(async |at, done, it: Order| {
            let before = at.get(done.key(it.id)).await?.unwrap_or(0);
            // Written before it fails, so that a failure has something to take back.
            at.put(done.key(it.id), before + 1)?;
            match it.what {
                What::Error => Err(Refused(it.id).into()),
                What::Panic => panic!("order {} is impossible", it.id),
                What::Retry(times) if RETRIES.fetch_add(1, Ordering::Relaxed) < times => {
                    Err(Failure::retry(Refused(it.id)))
                }
                What::Fine | What::Retry(_) | What::PanicAway => Ok(Some(it)),
            }
        })
        .hash_by_value(|it| it.id + 1)
        .using(counted)
        .for_each(async |at, counted, it: Order| {
            assert!(it.what != What::PanicAway, "impossible here");
            Ok(at.put(counted.key(it.id + 1), it.id)?)
        });
    Shop { orders, done: done.reader(), counted: counted.reader() }
}

async fn dead(shop: &Launched<Shop>) -> Vec<(u64, String)> {
    let mut dead = Vec::new();
    for partition in (0..shop.engine().partitions()).map(tidemill::types::PartitionId) {
        let letters = shop.dead_letters("handling", partition, tidemill::types::Offset(0));
        for letter in letters.await.unwrap() {
            assert_eq!((letter.depot.as_str(), letter.partition), ("orders", partition));
            let original = shop.read_depot(shop.orders, partition, letter.offset, 1).await.unwrap();
            dead.push((original[0].record.id, letter.reason));
        }
    }
    dead.sort();
    dead
}

#[test]
fn a_bad_record_becomes_a_dead_letter_and_stops_nothing() {
    let dir = directory("rejects");
    block_on(async {
        let engine = Engine::open(&dir, options(2)).await.unwrap();
        let shop = engine.launch("shop", shop).await.unwrap();
        let bad = [(100, What::Error), (205, What::Panic), (310, What::PanicAway)];
        let orders: Vec<Order> = (0..400)
            .map(|id| {
                let what = bad.iter().find(|(bad, _)| *bad == id).map_or(What::Fine, |it| it.1);
                Order { id, what }
            })
            .collect();
        // Together, so that the bad ones share microbatches with good ones.
        let appends: Vec<_> = orders.iter().map(|it| shop.append(shop.orders, it)).collect();
        let mut appended = Vec::new();
        for (order, append) in orders.iter().zip(appends) {
            appended.push(append.await.unwrap());
            let effects = shop.wait("handling", &appended[appended.len() - 1]).await.unwrap();
            let rejected = matches!(effects, Effects::DeadLettered { .. });
            assert_eq!(rejected, order.what != What::Fine, "{order:?}: {effects:?}");
        }
        let check = async |shop: &Launched<Shop>| {
            let done = shop.select(shop.done.all()).await.unwrap();
            let counted = shop.select(shop.counted.all().values()).await.unwrap();
            let good: BTreeSet<u64> =
                orders.iter().filter(|it| it.what == What::Fine).map(|it| it.id).collect();
            assert_eq!(done, good.iter().map(|&id| (id, 1)).collect::<Vec<_>>());
            assert_eq!(counted.into_iter().collect::<BTreeSet<_>>(), good);
            let dead = dead(shop).await;
            assert_eq!(dead.iter().map(|it| it.0).collect::<Vec<_>>(), [100, 205, 310]);
            let reasons = ["order 100 is refused", "order 205 is impossible", "impossible here"];
            for ((_, found), expected) in dead.iter().zip(reasons) {
                assert!(found.contains(expected), "{found}");
            }
        };
        check(&shop).await;
        // The topology goes on, and what is dead stays dead.
        let more = shop.append(shop.orders, &Order { id: 1_000, what: What::Retry(4) }).await;
        let effects = shop.wait("handling", &more.unwrap()).await.unwrap();
        assert!(matches!(effects, Effects::Applied { .. }), "{effects:?}");
        assert_eq!(shop.select(shop.done.key(1_000)).await.unwrap(), Some(1));
        assert!(RETRIES.load(Ordering::Relaxed) > 4);
        assert_eq!(dead(&shop).await.len(), 3);
        let dropped = shop.engine().counters().await.unwrap();
        assert_eq!(dropped.iter().map(|it| it.dead_letters).sum::<u64>(), 3);
        drop(shop);
        engine.stop().await;

        let engine = Engine::open(&dir, options(1)).await.unwrap();
        let shop = engine.launch("shop", self::shop).await.unwrap();
        assert_eq!(shop.select(shop.done.key(1_000)).await.unwrap(), Some(1));
        assert_eq!(dead(&shop).await.len(), 3);
        // However long ago, also when it lies in the trees.
        for fold in [false, true] {
            if fold {
                engine.fold().await.unwrap();
            }
            for (order, appended) in orders.iter().zip(&appended) {
                let effects = shop.wait("handling", appended).await.unwrap();
                let rejected = matches!(effects, Effects::DeadLettered { .. });
                assert_eq!(rejected, order.what != What::Fine, "{order:?}: {effects:?}");
            }
        }
        engine.close().await.unwrap();
    });
}

struct Desk {
    requests: Depot<u64>,
    taken: PState<Map<u64, u64>>,
}

/// Odd requests are marked as taken and refused later, on another partition; each even one is refused
/// while the odd one before it is taken.
fn desk(m: &Module) -> Desk {
    let requests = m.depot::<u64>("requests").single();
    let t = m.microbatch(|| "answering");
    let taken = t.pstate::<Map<u64, u64>>("taken");
    t.source(requests)
        .hash_by_value(|it| it / 2)
        .using(taken)
        .filter_map(async |at, taken, it: u64| {
            let odd = it | 1;
            if it == odd {
                at.put(taken.key(it / 2), it)?;
            } else if at.get(taken.key(it / 2)).await?.is_some() {
                return Err(Refused(it).into());
            }
            Ok(Some(it))
        })
        .hash_by_value(|it| it + 1)
        .for_each(async |_, it: u64| if it % 2 == 1 { Err(Refused(it).into()) } else { Ok(()) });
    Desk { requests, taken: taken.reader() }
}

#[test]
fn a_record_that_fails_because_of_another_rejected_one_is_not_given_up() {
    let dir = directory("contagion");
    block_on(async {
        let engine = Engine::open(&dir, options(2)).await.unwrap();
        let desk = engine.launch("desk", desk).await.unwrap();
        // 1 before 0, 3 before 2, ...: in one microbatch, so that each odd one harms the next.
        let requests: Vec<u64> = (0..8).flat_map(|it| [2 * it + 1, 2 * it]).collect();
        let appended = desk.append_many(desk.requests, &requests).await.unwrap();
        desk.caught_up("answering").await.unwrap();
        let [appended] = &appended[..] else { panic!("{appended:?}") };
        let letters = desk.dead_letters("answering", appended.partition, appended.offsets.start);
        let letters = letters.await.unwrap();
        let dead: Vec<u64> = letters
            .iter()
            .map(|it| requests[usize::try_from(it.offset.0 - appended.offsets.start.0).unwrap()])
            .collect();
        assert_eq!(dead, [1, 3, 5, 7, 9, 11, 13, 15], "{letters:?}");
        assert_eq!(desk.select(desk.taken.all()).await.unwrap(), []);
        drop(desk);
        engine.close().await.unwrap();
    });
}

/// The first version of a record.
#[derive(Serialize, Deserialize)]
struct Named {
    id: u64,
    amount: String,
}

/// The second, which cannot read the first.
#[derive(Serialize, Deserialize)]
struct Numbered {
    id: u64,
    amount: u64,
}

#[test]
fn a_record_that_cannot_be_decoded_becomes_a_dead_letter() {
    let dir = directory("undecodable");
    block_on(async {
        let engine = Engine::open(&dir, options(2)).await.unwrap();
        let first = |m: &Module| m.depot::<Named>("sales").hash_by(|it| &it.id);
        let sales = engine.launch("sales", first).await.unwrap();
        for id in 0..20 {
            let amount = "seven".to_owned();
            sales.append(*sales, &Named { id, amount }).await.unwrap();
        }
        drop(sales);
        engine.close().await.unwrap();

        let engine = Engine::open(&dir, options(2)).await.unwrap();
        let second = |m: &Module| {
            m.version(2);
            let sales = m.depot::<Numbered>("sales").hash_by(|it| &it.id);
            let t = m.microbatch(|| "adding");
            let totals = t.pstate::<Map<u64, u64>>("totals");
            t.source(sales).using(totals).for_each(async |at, totals, it: Numbered| {
                Ok(at.put(totals.key(it.id), it.amount)?)
            });
            (sales, totals.reader())
        };
        let shop = engine.launch("sales", second).await.unwrap();
        let (sales, totals) = *shop;
        let appended = shop.append(sales, &Numbered { id: 3, amount: 12 }).await.unwrap();
        let effects = shop.wait("adding", &appended).await.unwrap();
        assert!(matches!(effects, Effects::Applied { .. }), "{effects:?}");
        shop.caught_up("adding").await.unwrap();
        assert_eq!(shop.select(totals.all()).await.unwrap(), [(3, 12)]);
        let mut dead = 0;
        for partition in (0..engine.partitions()).map(tidemill::types::PartitionId) {
            let letters = shop.dead_letters("adding", partition, tidemill::types::Offset(0));
            dead += letters.await.unwrap().len();
        }
        assert_eq!(dead, 20);
        engine.close().await.unwrap();
    });
}
