//! Snapshots through the public API, on real files: the money in one is exact, whatever goes on.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tidemill::Error;
use tidemill::client::{Engine, Launched, block_on};
use tidemill::module::{Depot, Module};
use tidemill::node::Options;
use tidemill::schema::aggregate::{Count, Sum};
use tidemill::schema::{Map, PState};
use tidemill::shard::Effects;
use tidemill::types::{MicrobatchId, ShardId};

use crate::kit::{self, directory, until};

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Transfer {
    from: u64,
    to: u64,
    cents: i64,
}

struct Bank {
    transfers: Depot<Transfer>,
    funds: PState<Map<u64, i64>>,
    /// Per sender, kept by another topology.
    counts: PState<Map<u64, u64>>,
}

fn bank(m: &Module) -> Bank {
    let transfers = m.depot::<Transfer>("transfers").hash_by(|t| &t.from);
    let ledger = m.microbatch(|| "ledger");
    let funds = ledger.pstate::<Map<u64, i64>>("funds");
    ledger
        .source(transfers)
        .also(|it| it.aggregate(funds, |funds, t| funds.key(t.from).add(Sum(-t.cents))))
        .aggregate(funds, |funds, t| funds.key(t.to).add(Sum(t.cents)));
    let tally = m.microbatch(|| "tally");
    let counts = tally.pstate::<Map<u64, u64>>("counts");
    tally.source(transfers).aggregate(counts, |counts, t| counts.key(t.from).add(Count));
    Bank { transfers, funds: funds.reader(), counts: counts.reader() }
}

const ACCOUNTS: u64 = 400;

/// From where the money comes; its funds are what all others have, taken away.
const OUTSIDE: u64 = u64::MAX;

fn options() -> Options {
    Options { memory_bytes: 64 << 20, ..kit::options(2) }
}

async fn pay(bank: &Launched<Bank>, transfers: impl Iterator<Item = Transfer>) -> MicrobatchId {
    let transfers: Vec<Transfer> = transfers.collect();
    let mut last = MicrobatchId(0);
    for appended in bank.append_many(bank.transfers, &transfers).await.unwrap() {
        let effects = bank.wait("ledger", &appended).await.unwrap();
        let Effects::Applied { id } = effects else { panic!("{effects:?}") };
        last = id.max(last);
    }
    last
}

fn round(number: u64) -> impl Iterator<Item = Transfer> {
    (0..ACCOUNTS).map(move |from| {
        let to = (from * 7 + number * 13 + 1) % ACCOUNTS;
        Transfer { from, to, cents: 3 }
    })
}

fn deposits() -> impl Iterator<Item = Transfer> {
    (0..ACCOUNTS).map(|to| Transfer { from: OUTSIDE, to, cents: 1_000 })
}

fn history_bytes(engine: &Engine) -> u64 {
    block_on(engine.counters()).unwrap().iter().map(|it| it.history_bytes).sum()
}

/// Ends the other threads when its own has failed, too.
struct Done<'a>(&'a AtomicBool);

impl Drop for Done<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

#[test]
fn the_sum_of_all_balances_is_exact_while_transfers_run() {
    let engine = block_on(Engine::open(directory("snapshot-sum"), options())).unwrap();
    let bank = block_on(engine.launch("bank", bank)).unwrap();
    block_on(pay(&bank, deposits()));
    let done = AtomicBool::new(false);
    let mut moved = 0;
    std::thread::scope(|threads| {
        for payer in 0..2 {
            let (bank, done) = (&bank, &done);
            threads.spawn(move || {
                let mut number = payer;
                while !done.load(Ordering::SeqCst) {
                    block_on(pay(bank, round(number)));
                    number += 2;
                }
            });
        }
        threads.spawn(|| {
            while !done.load(Ordering::SeqCst) {
                block_on(engine.fold()).unwrap();
            }
        });
        let _done = Done(&done);
        block_on(async {
            let held = bank.snapshot().await.unwrap();
            let then = bank.select(bank.funds.all()).at(&held).await.unwrap();
            let mut last = held.ids()[0].1;
            for _ in 0..150 {
                // Without a snapshot of its own, a read over all partitions is of one moment, too.
                let funds = bank.select(bank.funds.all().values()).await.unwrap();
                assert_eq!(funds.iter().sum::<i64>(), 0);
                let one_by_one = (0..ACCOUNTS).chain([OUTSIDE]).map(|it| bank.funds.key(it));
                let funds = bank.select_many(one_by_one).await.unwrap();
                assert_eq!(funds.iter().map(|it| it.unwrap()).sum::<i64>(), 0);

                let now = bank.snapshot().await.unwrap();
                assert!(last <= now.ids()[0].1, "a handle went back");
                moved += u64::from(last < now.ids()[0].1);
                last = now.ids()[0].1;
                let one = bank.select(bank.funds.all()).at(&now).await.unwrap();
                assert_eq!(one.iter().map(|(_, cents)| cents).sum::<i64>(), 0);
                assert_eq!(one, bank.select(bank.funds.all()).at(&now).await.unwrap());
            }
            assert_eq!(then, bank.select(bank.funds.all()).at(&held).await.unwrap());
        });
    });
    assert!(moved > 20, "transfers ran only {moved} times between two snapshots");
    let counters = block_on(engine.counters()).unwrap();
    assert!(counters.iter().all(|it| it.folds_least > 5), "{counters:?}");
    until("nobody reads, and nothing is kept", || history_bytes(&engine) == 0);
    drop(bank);
    block_on(engine.close()).unwrap();
}

#[test]
fn older_ids_can_be_read_within_the_window() {
    let options = Options { history: Duration::from_hours(1), ..options() };
    block_on(async {
        let engine = Engine::open(directory("snapshot-window"), options).await.unwrap();
        let bank = engine.launch("bank", bank).await.unwrap();
        let mut seen = Vec::new();
        for cents in 1..30 {
            let transfer = Transfer { from: OUTSIDE, to: 5, cents };
            let id = pay(&bank, std::iter::once(transfer)).await;
            seen.push((id, bank.select(bank.funds.key(5)).await.unwrap()));
            if cents % 7 == 0 {
                engine.fold().await.unwrap();
            }
        }
        for (id, cents) in seen {
            let then = bank.select(bank.funds.key(5)).as_of("ledger", id).await.unwrap();
            assert_eq!(then, cents);
            let all = bank.select(bank.funds.all().values()).as_of("ledger", id).await.unwrap();
            assert_eq!(all.iter().sum::<i64>(), 0);
        }
        let before = bank.select(bank.funds.all()).as_of("ledger", MicrobatchId(0));
        assert_eq!(before.await.unwrap(), []);
        // What cannot be meant.
        let above = bank.select(bank.funds.key(5)).as_of("ledger", MicrobatchId(1 << 40)).await;
        assert!(matches!(&above, Err(Error::Invalid { what }) if what.contains("visible up to")));
        let other = bank.select(bank.counts.key(5)).as_of("ledger", MicrobatchId(1)).await;
        assert!(
            matches!(&other, Err(Error::Invalid { what }) if what.contains("by topology `tally`")),
            "{other:?}"
        );
        let none = bank.select(bank.funds.key(5)).as_of("legder", MicrobatchId(1)).await;
        assert!(matches!(&none, Err(Error::Invalid { what }) if what.contains("no topology")));
        drop(bank);
        engine.close().await.unwrap();
    });
}

#[test]
fn what_cannot_be_kept_is_refused() {
    let options = Options { history_bytes_max: Some(20_000), ..options() };
    block_on(async {
        let engine = Engine::open(directory("snapshot-bound"), options).await.unwrap();
        let bank = engine.launch("bank", bank).await.unwrap();
        pay(&bank, deposits()).await;
        let held = bank.snapshot().await.unwrap();
        let mut number = 0;
        let error = loop {
            pay(&bank, round(number)).await;
            number += 1;
            assert!(number < 1_000, "the bound is never reached");
            assert!(history_bytes_of(&engine).await < 200_000);
            match bank.select(bank.funds.all().values()).at(&held).await {
                Ok(funds) => assert_eq!(funds.iter().sum::<i64>(), 0),
                Err(error) => break error,
            }
        };
        assert!(error.to_string().contains("take another snapshot"), "{error}");
        let Error::SnapshotExpired { wanted, oldest } = error else { panic!("{error}") };
        assert!(wanted == held.ids()[0].1 && wanted < oldest, "{wanted} {oldest}");
        let drops: u64 = engine.counters().await.unwrap().iter().map(|it| it.history_drops).sum();
        assert!(drops > 0);
        let now = bank.snapshot().await.unwrap();
        let funds = bank.select(bank.funds.all().values()).at(&now).await.unwrap();
        assert_eq!(funds.iter().sum::<i64>(), 0);
        drop(bank);
        engine.close().await.unwrap();
    });
}

async fn history_bytes_of(engine: &Engine) -> u64 {
    engine.counters().await.unwrap().iter().map(|it| it.history_bytes).sum()
}

#[test]
fn a_shard_that_was_reopened_refuses_what_it_lost() {
    let engine = block_on(Engine::open(directory("snapshot-reopened"), options())).unwrap();
    let bank = block_on(engine.launch("bank", bank)).unwrap();
    block_on(pay(&bank, deposits()));
    let held = block_on(bank.snapshot()).unwrap();
    block_on(pay(&bank, round(0)));
    engine.fail_shard(ShardId(1), "a test");
    until("the shard stops", || engine.stopped(ShardId(1)).is_some());
    block_on(engine.reopen_shard(ShardId(1))).unwrap();
    block_on(pay(&bank, round(1)));
    let old = block_on(bank.select(bank.funds.all().values()).at(&held));
    assert!(matches!(old, Err(Error::SnapshotExpired { .. })), "{old:?}");
    let now = block_on(bank.select(bank.funds.all().values())).unwrap();
    assert_eq!(now.iter().sum::<i64>(), 0);

    // A snapshot belongs to its module in its opening.
    drop(bank);
    block_on(engine.stop());
    let again = block_on(Engine::open(directory("snapshot-other"), options())).unwrap();
    let bank = block_on(again.launch("bank", self::bank)).unwrap();
    let foreign = block_on(bank.select(bank.funds.key(1)).at(&held));
    assert!(matches!(foreign, Err(Error::Invalid { .. })), "{foreign:?}");
    drop(bank);
    block_on(again.close()).unwrap();
}
