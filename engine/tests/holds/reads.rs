//! What clients read of an engine that goes on writing: queries and pages are of one moment, and end in time.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tidemill::module::{Depot, Module};
use tidemill::schema::aggregate::Sum;
use tidemill::schema::ast::{Function, Functions, Query, Value};
use tidemill::schema::{List, Map, PState, Sub};
use tidemill::types::ShardId;
use tidemill::{Engine, Error, Launched, block_on};

use crate::kit::{directory, options};

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Transfer {
    from: u32,
    to: u32,
    cents: i64,
}

struct Bank {
    transfers: Depot<Transfer>,
    funds: PState<Map<u32, i64>>,
    /// Each account's money in two pockets, of which the second has what the first one lacks.
    pockets: PState<Map<u32, Sub<Map<u8, i64>>>>,
    /// What each account has sent.
    sent: PState<Map<u32, Sub<List<i64>>>>,
}

fn bank(m: &Module) -> Bank {
    let transfers = m.depot::<Transfer>("transfers").hash_by(|t| &t.from);
    let ledger = m.microbatch(|| "ledger");
    let funds = ledger.pstate::<Map<u32, i64>>("funds");
    let pockets = ledger.pstate::<Map<u32, Sub<Map<u8, i64>>>>("pockets");
    let sent = ledger.pstate::<Map<u32, Sub<List<i64>>>>("sent");
    let from = ledger.source(transfers);
    from.using((pockets, sent)).for_each(async |at, (pockets, sent), t: Transfer| {
        at.put(pockets.key(t.from).key(1), t.cents)?;
        at.put(pockets.key(t.from).key(2), -t.cents)?;
        Ok(at.push(sent.key(t.from), t.cents).await?)
    });
    ledger
        .source(transfers)
        .also(|it| it.aggregate(funds, |funds, t| funds.key(t.from).add(Sum(-t.cents))))
        .aggregate(funds, |funds, t| funds.key(t.to).add(Sum(t.cents)));
    Bank { transfers, funds: funds.reader(), pockets: pockets.reader(), sent: sent.reader() }
}

const ACCOUNTS: u32 = 300;

fn round(number: u32) -> Vec<Transfer> {
    let transfer = |from| Transfer {
        from,
        to: (from * 7 + number * 13 + 1) % ACCOUNTS,
        cents: i64::from(from % 5 + number % 7),
    };
    (0..ACCOUNTS).map(transfer).collect()
}

async fn pay(bank: &Launched<Bank>, number: u32) {
    bank.append_many(bank.transfers, &round(number)).await.unwrap();
    bank.caught_up("ledger").await.unwrap();
}

fn query(path: &str) -> Query {
    Query::from_json(&serde_json::from_str(path).unwrap()).unwrap()
}

/// Ends the other thread when its own has failed, too.
struct Done<'a>(&'a AtomicBool);

impl Drop for Done<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// Lets somebody pay, and the engine fold, until the reader is done.
fn while_paying(name: &str, reader: impl FnOnce(&Launched<Bank>)) {
    let engine = block_on(Engine::open(directory(name), options(2))).unwrap();
    let bank = block_on(engine.launch("bank", bank)).unwrap();
    block_on(pay(&bank, 0));
    let done = AtomicBool::new(false);
    std::thread::scope(|threads| {
        threads.spawn(|| {
            for number in 1.. {
                if done.load(Ordering::SeqCst) {
                    break;
                }
                block_on(pay(&bank, number));
                if number % 4 == 0 {
                    block_on(engine.fold()).unwrap();
                }
            }
        });
        let _done = Done(&done);
        reader(&bank);
    });
    drop(bank);
    block_on(engine.close()).unwrap();
}

#[test]
fn a_query_sees_one_moment_in_one_partition_and_in_all() {
    let both = query(r#"[["key",7],["multi",[[["key",1]],[["key",2]]]]]"#);
    // All money is nobody's: each way reaches all of it, one after the other.
    let all = query(r#"[["multi",[["values"],["values"],[["range",{"reverse":true}],"values"]]]]"#);
    while_paying("reads-queries", |bank| {
        let mut seen = std::collections::BTreeSet::new();
        let started = Instant::now();
        for asked in 0.. {
            if asked >= 300 && seen.len() > 2 {
                break;
            }
            assert!(started.elapsed() < Duration::from_mins(1), "somebody pays: {seen:?}");
            let pockets: Vec<i64> = block_on(bank.query(bank.pockets, &both)).unwrap();
            assert_eq!((pockets.len(), pockets.iter().sum::<i64>()), (2, 0));
            seen.insert(pockets[0]);
        }
        for _ in 0..30 {
            let all: Vec<i64> = block_on(bank.query(bank.funds, &all)).unwrap();
            let (first, rest) = all.split_at(all.len() / 3);
            let (second, third) = rest.split_at(rest.len() / 2);
            assert_eq!(first, second);
            assert_eq!(first.iter().rev().collect::<Vec<_>>(), third.iter().collect::<Vec<_>>());
            assert_eq!(first.iter().sum::<i64>(), 0);
        }
    });
}

#[test]
fn rows_that_are_read_together_are_of_one_moment() {
    // The two rows are read at once, in some hundred nanoseconds, while the shard that commits makes another id
    // visible: with many reads for each of many commits, a read that looked twice would have seen two of them.
    const SEEN: usize = 400;
    while_paying("reads-together", |bank| {
        let started = Instant::now();
        let mut seen = 0;
        let mut last = [None; 8];
        while seen < SEEN {
            assert!(started.elapsed() < Duration::from_mins(2), "somebody pays: {seen}");
            // On both shards.
            for (account, last) in (0..).zip(&mut last) {
                let pocket = |nth| bank.pockets.key(account).key(nth);
                let both = (pocket(1), pocket(2));
                let (Some(one), Some(other)) = block_on(bank.select(both)).unwrap() else {
                    panic!("account {account} has sent money");
                };
                assert_eq!(one + other, 0, "account {account}");
                seen += usize::from(last.replace(one) != Some(one));
            }
        }
    });
}

#[test]
fn queries_read_snapshots() {
    let engine = block_on(Engine::open(directory("reads-past"), options(2))).unwrap();
    let bank = block_on(engine.launch("bank", bank)).unwrap();
    block_on(async {
        pay(&bank, 0).await;
        let before = bank.snapshot().await.unwrap();
        let size = query(r#"[["key",7],"size"]"#);
        let last = query(r#"[["key",7],["nth",-1]]"#);
        pay(&bank, 1).await;
        assert_eq!(bank.query::<u64>(bank.sent, &size).await.unwrap(), [2]);
        assert_eq!(bank.query::<u64>(bank.sent, &size).at(&before).await.unwrap(), [1]);
        assert_eq!(bank.query::<i64>(bank.sent, &last).at(&before).await.unwrap(), [2]);
        assert_eq!(bank.query::<i64>(bank.sent, &last).await.unwrap(), [3]);
        let (_, id) = before.ids()[0];
        assert_eq!(bank.query::<u64>(bank.sent, &size).as_of("ledger", id).await.unwrap(), [1]);
        let all = query(r#"["values","size"]"#);
        let sizes = bank.query::<u64>(bank.sent, &all).at(&before).await.unwrap();
        assert_eq!(sizes, vec![1; ACCOUNTS as usize]);
        // As deep as a query that was sent can be, over rows.
        let deep =
            (0..30).fold(r#""first""#.to_owned(), |path, _| format!(r#"["selected",[{path}]]"#));
        let deep = query(&format!(r#"[["key",7],{deep},"size"]"#));
        let sent = Query::from_bytes(&deep.to_bytes().unwrap()).unwrap();
        assert_eq!(bank.query::<u64>(bank.sent, &sent).await.unwrap(), [2]);
        // What does not fit is refused before anything is read.
        let wrong = bank.query::<Value>(bank.sent, &query(r#"[["key","x"]]"#)).await.unwrap_err();
        let says = "does not fit `sent`, a `Map<u32, Sub<List<i64>>>`: step 1, `key`, takes a key of type `u32`";
        assert!(matches!(&wrong, Error::Invalid { what } if what.contains(says)), "{wrong}");
        let wrong = bank.query::<String>(bank.sent, &last).await.unwrap_err();
        assert!(matches!(&wrong, Error::Decode { .. }), "{wrong}");
        let wrong = query(r#"[["key",7],"first",["view","nobody"]]"#);
        let wrong = bank.query::<Value>(bank.sent, &wrong).await.unwrap_err();
        assert!(matches!(&wrong, Error::Invalid { what } if what.contains("nobody")), "{wrong}");
    });
    block_on(engine.close()).unwrap();
}

#[test]
fn pages_are_of_one_moment_and_in_one_order_over_all_partitions() {
    while_paying("reads-pages", |bank| {
        block_on(async {
            for rows in [1, 7, 64, 1_000] {
                let mut pages = bank.pages(bank.funds.all(), rows);
                let mut all = Vec::new();
                while let Some(page) = pages.next().await.unwrap() {
                    let is_full = page.len() == rows;
                    all.extend(page);
                    assert!(is_full || all.len() == ACCOUNTS as usize);
                }
                assert!(pages.next().await.unwrap().is_none());
                assert!(all.iter().map(|row| row.0).eq(0..ACCOUNTS), "{all:?}");
                assert_eq!(all.iter().map(|row| row.1).sum::<i64>(), 0);
            }
            let mut pages = bank.pages(bank.funds.range(..=200).reverse().limit(9).keys(), 4);
            let mut all = Vec::new();
            while let Some(page) = pages.next().await.unwrap() {
                assert!(page.len() <= 4);
                all.extend(page);
            }
            assert!(all.into_iter().eq((192..=200).rev()));
            // Of one list, at a moment that is already past.
            let before = bank.snapshot().await.unwrap();
            let whole = bank.select(bank.sent.key(7).all()).at(&before).await.unwrap();
            for path in [bank.sent.key(7).all(), bank.sent.key(7).items(0..u64::MAX)] {
                let mut pages = bank.pages(path, 3).at(&before).within(Duration::from_mins(1));
                let mut all = Vec::new();
                while let Some(page) = pages.next().await.unwrap() {
                    all.extend(page);
                }
                assert_eq!(all, whole);
            }
            let mut part = bank.pages(bank.sent.key(7).items(1..whole.len() as u64), 2).at(&before);
            let first = part.next().await.unwrap();
            assert_eq!(
                first.unwrap_or_default(),
                whole[1..].iter().copied().take(2).collect::<Vec<_>>()
            );
            let backwards = bank.pages(bank.sent.key(7).items(0..9).reverse(), 2).next().await;
            assert!(matches!(backwards, Err(Error::Invalid { .. })), "{backwards:?}");
        });
    });
}

#[test]
fn items_of_a_list_are_read_by_their_places() {
    let engine = block_on(Engine::open(directory("reads-items"), options(2))).unwrap();
    let bank = block_on(engine.launch("bank", bank)).unwrap();
    block_on(async {
        let sent: Vec<i64> = (0..5_000).collect();
        let transfers = sent.iter().map(|&cents| Transfer { from: 1, to: 2, cents });
        bank.append_many(bank.transfers, &transfers.collect::<Vec<_>>()).await.unwrap();
        bank.caught_up("ledger").await.unwrap();
        for fold in [false, true] {
            if fold {
                engine.fold().await.unwrap();
            }
            let list = || bank.sent.key(1);
            assert_eq!(bank.select(list().item(4_321)).await.unwrap(), Some(4_321));
            assert_eq!(bank.select_one(list().item(0)).await.unwrap(), 0);
            assert_eq!(bank.select(list().item(5_000)).await.unwrap(), None);
            assert_eq!(bank.select(bank.sent.key(3).item(0)).await.unwrap(), None);
            let absent = bank.select_one(list().item(5_000)).await.unwrap_err();
            assert!(
                matches!(&absent, Error::Absent { what } if what.contains("`sent`")),
                "{absent}"
            );
            assert_eq!(bank.select(list().items(2_000..2_100)).await.unwrap(), sent[2_000..2_100]);
            assert_eq!(bank.select(list().items(4_990..9_000)).await.unwrap(), sent[4_990..]);
            let reversed = list().items(10..20).reverse().limit(2);
            assert_eq!(bank.select(reversed).await.unwrap(), [19, 18]);
            let both = (list().size(), list().item(7));
            assert_eq!(bank.select(both).await.unwrap(), (5_000, Some(7)));
        }
    });
    block_on(engine.close()).unwrap();
}

/// Whether a timeout says what was read, and where.
fn names(late: &Error, read: &str) -> bool {
    matches!(late, Error::Timeout { what, .. } if what.starts_with(read) && what.contains(" on shard "))
}

#[test]
fn who_does_not_wait_forever_is_told_what_was_not_read() {
    let engine = block_on(Engine::open(directory("reads-timeouts"), options(2))).unwrap();
    let bank = block_on(engine.launch("bank", bank)).unwrap();
    block_on(async {
        let transfers = (0..30_000).map(|cents| Transfer { from: 1, to: 2, cents });
        bank.append_many(bank.transfers, &transfers.collect::<Vec<_>>()).await.unwrap();
        bank.caught_up("ledger").await.unwrap();
        let (short, long) = (Duration::from_nanos(1), Duration::from_mins(1));

        let late = bank.select(bank.sent.key(1).all()).within(short).await.unwrap_err();
        assert!(names(&late, "a read of `sent` in partition "), "{late}");
        assert_eq!(bank.select(bank.sent.key(1).all()).within(long).await.unwrap().len(), 30_000);
        let late = bank.pages(bank.sent.key(1).all(), 30_000).within(short).next().await;
        assert!(matches!(&late, Err(Error::Timeout { .. })), "{late:?}");
        let late = bank.select_many([bank.sent.key(1).all()]).within(short).await;
        assert!(matches!(&late, Err(Error::Timeout { .. })), "{late:?}");

        // A query ends between two rows that it looks at.
        let slow = Function::of(|it: i64| {
            std::thread::sleep(Duration::from_millis(20));
            Some(it)
        });
        let slow = Functions::none().with("slow", slow);
        let path = query(
            r#"[["key",1],["multi",[[["key",1],["view","slow"]],[["key",2],["view","slow"]]]]]"#,
        );
        let asked = || bank.query_with::<i64>(bank.pockets, &path, &slow);
        let late = asked().within(Duration::from_millis(1)).await.unwrap_err();
        assert!(names(&late, "a query of `pockets` in partition "), "{late}");
        assert_eq!(asked().within(long).await.unwrap(), [29_999, -29_999]);

        // Whoever asks a shard that is down hears so.
        for shard in [0, 1].map(ShardId) {
            engine.fail_shard(shard, "a test");
        }
        while [0, 1].map(ShardId).iter().any(|shard| engine.stopped(*shard).is_none()) {
            std::thread::yield_now();
        }
        let down = bank.select(bank.sent.key(1).all()).within(long).await.map(drop);
        assert!(matches!(&down, Err(Error::ShardStopped { .. })), "{down:?}");
        let down = asked().within(long).await;
        assert!(matches!(&down, Err(Error::ShardStopped { .. })), "{down:?}");
        let down = bank.pages(bank.funds.all(), 10).next().await;
        assert!(matches!(&down, Err(Error::ShardStopped { .. })), "{down:?}");
    });
}

/// A number that does not decode while [`PICKY`] is set, if it is a three.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
struct Picky(u64);

static PICKY: AtomicBool = AtomicBool::new(false);

impl<'de> Deserialize<'de> for Picky {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let number = u64::deserialize(from)?;
        if number == 3 && PICKY.load(Ordering::SeqCst) {
            return Err(serde::de::Error::custom("not a three, please"));
        }
        Ok(Self(number))
    }
}

#[test]
fn a_page_that_does_not_decode_is_not_passed_over() {
    block_on(async {
        let engine = Engine::open(directory("pages-decode"), options(2)).await.unwrap();
        let shop = engine.launch("shop", |m| {
            let numbers = m.depot::<u64>("numbers").hash_by(|number| number);
            let t = m.microbatch(|| "t");
            let stored = t.pstate::<Map<u64, Picky>>("stored");
            t.source(numbers)
                .using(stored)
                .for_each(async |at, stored, it| Ok(at.put(stored.key(it), Picky(it))?));
            (numbers, stored.reader())
        });
        let shop = shop.await.unwrap();
        let (numbers, stored) = *shop;
        shop.append_many(numbers, &(0..10).collect::<Vec<_>>()).await.unwrap();
        shop.caught_up("t").await.unwrap();
        let all: Vec<u64> = (0..10).collect();
        for rows in [1, 2, 4, 20] {
            let mut pages = shop.pages(stored.all(), rows);
            let (mut found, mut failures) = (Vec::new(), 0);
            PICKY.store(true, Ordering::SeqCst);
            loop {
                match pages.next().await {
                    Ok(Some(page)) => found.extend(page.into_iter().map(|(key, _)| key)),
                    Ok(None) => break,
                    Err(error) => {
                        assert!(matches!(error, Error::Decode { .. }), "{error:?}");
                        assert_eq!(found.len(), 3 / rows * rows, "pages of {rows}");
                        failures += 1;
                        // It fails again, and comes whole once it can be read.
                        PICKY.store(failures < 3, Ordering::SeqCst);
                    }
                }
            }
            assert_eq!((&found, failures), (&all, 3), "pages of {rows}");
        }
        engine.close().await.unwrap();
    });
}
