//! Microbatches through the public API, on real files: what a user is promised, while shards fail under
//! load, engines close under load, and records fail.

#![allow(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "a test has threads and clocks of its own"
)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tidemill::Error;
use tidemill::client::{Engine, Launched, block_on};
use tidemill::module::{Depot, Module};
use tidemill::node::Options;
use tidemill::schema::{Map, PState, Sub};
use tidemill::types::{Offset, PartitionId, ShardId};

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Transfer {
    id: u64,
    from: u64,
    to: u64,
    cents: i64,
}

/// Money moves from account to account, perhaps into debt.
struct Moves {
    transfers: Depot<Transfer>,
    funds: PState<Map<u64, i64>>,
    /// Per receiving account, how often each transfer arrived, and when its microbatch began.
    arrived: PState<Map<u64, Sub<Map<u64, (u64, u64)>>>>,
    /// Per sending account, how often each transfer left, and when its microbatch began.
    left: PState<Map<u64, Sub<Map<u64, (u64, u64)>>>>,
}

fn moves(m: &Module) -> Moves {
    let transfers = m.depot::<Transfer>("transfers").hash_by(|t| &t.from);
    let ledger = m.microbatch(|| "ledger");
    let funds = ledger.pstate::<Map<u64, i64>>("funds");
    let left = ledger.pstate::<Map<u64, Sub<Map<u64, (u64, u64)>>>>("left");
    let arrived = ledger.pstate::<Map<u64, Sub<Map<u64, (u64, u64)>>>>("arrived");
    ledger
        .source(transfers)
        .using((funds, left))
        .filter_map(async |at, (funds, left), t: Transfer| {
            let balance = at.get(funds.key(t.from)).await?.unwrap_or(0);
            at.put(funds.key(t.from), balance - t.cents)?;
            let count = at.get(left.key(t.from).key(t.id)).await?.map_or(0, |(count, _)| count);
            at.put(left.key(t.from).key(t.id), (count + 1, at.now().0))?;
            Ok(Some(t))
        })
        .hash_by(|t| &t.to)
        .using((funds, arrived))
        .for_each(async |at, (funds, arrived), t: Transfer| {
            let balance = at.get(funds.key(t.to)).await?.unwrap_or(0);
            at.put(funds.key(t.to), balance + t.cents)?;
            let count = at.get(arrived.key(t.to).key(t.id)).await?.map_or(0, |(count, _)| count);
            at.put(arrived.key(t.to).key(t.id), (count + 1, at.now().0))?;
            Ok(())
        });
    Moves { transfers, funds: funds.reader(), arrived: arrived.reader(), left: left.reader() }
}

const ACCOUNTS: u64 = 40;

fn transfer(id: u64) -> Transfer {
    let from = id % ACCOUNTS;
    Transfer { id, from, to: (from + 1 + id / ACCOUNTS % (ACCOUNTS - 1)) % ACCOUNTS, cents: 7 }
}

fn directory(name: &str) -> PathBuf {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    if dir.exists() {
        std::fs::remove_dir_all(&dir).unwrap();
    }
    std::fs::create_dir_all(&dir).unwrap();
    dir
}

fn options(shards: u16) -> Options {
    Options { shards, partitions: Some(8), ..Options::default() }
}

/// Waits for a condition, and gives up loudly after far longer than it can take.
fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let started = Instant::now();
    while !condition() {
        assert!(started.elapsed() < Duration::from_secs(60), "not within a minute: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Awaits something that must not take longer than a minute: a microbatch that hangs is the failure
/// looked for here.
fn soon<T: Send + 'static>(
    engine: &Engine,
    what: &str,
    future: impl Future<Output = T> + Send + 'static,
) -> T {
    let (sender, receiver) = std::sync::mpsc::channel();
    std::thread::spawn(move || drop(sender.send(block_on(future))));
    let received = receiver.recv_timeout(Duration::from_secs(60));
    received.unwrap_or_else(|error| {
        for shard in (0..engine.shards()).map(ShardId) {
            let engine = engine.clone();
            std::thread::spawn(move || {
                println!("{shard}: {:?}", engine.stopped(shard));
                println!("{shard}: {:?}", block_on(engine.counters()));
                println!("{shard}: {}", block_on(engine.describe_shard(shard)).unwrap());
            });
        }
        std::thread::sleep(Duration::from_secs(3));
        panic!("not within a minute: {what} ({error})")
    })
}

/// Threads that append transfers for as long as it lives, in batches whose outcomes they count.
struct Load {
    stop: Arc<AtomicBool>,
    acknowledged: Arc<AtomicU64>,
    threads: Vec<std::thread::JoinHandle<()>>,
}

impl Load {
    fn start(moves: &Launched<Moves>, next: &Arc<AtomicU64>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let acknowledged = Arc::new(AtomicU64::new(0));
        let thread = |_| {
            let (moves, next) = (moves.clone(), Arc::clone(next));
            let (stop, acknowledged) = (Arc::clone(&stop), Arc::clone(&acknowledged));
            std::thread::spawn(move || {
                while !stop.load(Ordering::SeqCst) {
                    let first = next.fetch_add(16, Ordering::SeqCst);
                    let batch: Vec<_> = (first..first + 16).map(transfer).collect();
                    match block_on(moves.append_many(moves.transfers, &batch)) {
                        Ok(_) => drop(acknowledged.fetch_add(16, Ordering::SeqCst)),
                        Err(Error::ShardStopped { .. } | Error::Closed) => {
                            std::thread::sleep(Duration::from_millis(1));
                        }
                        Err(error) => panic!("{error}"),
                    }
                }
            })
        };
        let threads = (0..3).map(thread).collect();
        Self { stop, acknowledged, threads }
    }

    fn acknowledged(&self) -> u64 {
        self.acknowledged.load(Ordering::SeqCst)
    }

    fn end(self) -> u64 {
        self.stop.store(true, Ordering::SeqCst);
        for thread in self.threads {
            thread.join().unwrap();
        }
        self.acknowledged.load(Ordering::SeqCst)
    }
}

/// How often each transfer lies in the depot.
async fn appended(moves: &Launched<Moves>) -> BTreeMap<u64, u64> {
    let mut counts = BTreeMap::new();
    for partition in (0..8).map(PartitionId) {
        let range = moves.depot_range(moves.transfers, partition).await.unwrap();
        let mut from = range.start;
        while from < range.end {
            let records = moves.read_depot(moves.transfers, partition, from, 1_000).await.unwrap();
            for record in &records {
                *counts.entry(record.record.id).or_default() += 1;
            }
            from = Offset(from.0 + records.len() as u64);
        }
    }
    counts
}

/// Everything in the depot took effect exactly once, on both sides, with one time for both.
async fn check(moves: &Launched<Moves>, acknowledged: u64) -> u64 {
    moves.caught_up("ledger").await.unwrap();
    let appended = appended(moves).await;
    let total: u64 = appended.values().sum();
    assert!(total >= acknowledged, "{total} records, {acknowledged} were acknowledged");
    let mut balances = BTreeMap::<u64, i64>::new();
    let (mut left, mut arrived) = (BTreeMap::new(), BTreeMap::new());
    for account in 0..ACCOUNTS {
        left.extend(moves.select(moves.left.key(account).all()).await.unwrap());
        arrived.extend(moves.select(moves.arrived.key(account).all()).await.unwrap());
    }
    for (&id, &count) in &appended {
        let transfer = transfer(id);
        let times = i64::try_from(count).unwrap();
        *balances.entry(transfer.from).or_default() -= times * transfer.cents;
        *balances.entry(transfer.to).or_default() += times * transfer.cents;
        assert_eq!(left.get(&id).map(|it| it.0), Some(count), "transfer {id} leaves");
        assert_eq!(left.get(&id), arrived.get(&id), "transfer {id} arrives, and began then");
    }
    assert_eq!((left.len(), arrived.len()), (appended.len(), appended.len()));
    for (account, balance) in balances {
        let stored = moves.select(moves.funds.key(account)).await.unwrap();
        assert_eq!(stored, Some(balance), "account {account}");
    }
    total
}

#[test]
fn shards_that_fail_under_load_are_reopened_and_every_transfer_counts_once() {
    let dir = directory("microbatch-reopen");
    let engine = block_on(Engine::open(&dir, options(3))).unwrap();
    let moves = block_on(engine.launch("moves", moves)).unwrap();
    let next = Arc::new(AtomicU64::new(0));
    let load = Load::start(&moves, &next);
    for round in 0..30_u16 {
        let before = load.acknowledged();
        until("appends", || {
            let stopped: Vec<_> = (0..3).map(|it| engine.stopped(ShardId(it))).collect();
            assert!(stopped.iter().all(Option::is_none), "round {round}: {stopped:?}");
            load.acknowledged() > before + 100
        });
        let shard = ShardId(round % 3);
        if round % 2 == 0 {
            engine.fail_shard(shard, "a test");
        } else {
            engine.panic_shard(shard, "a test");
        }
        until("the end of a shard", || engine.stopped(shard).is_some());
        let reopening = engine.clone();
        soon(&engine, "reopening", async move { reopening.reopen_shard(shard).await }).unwrap();
    }
    let acknowledged = load.end();
    let checked = moves.clone();
    let total = soon(&engine, "the effects", async move { check(&checked, acknowledged).await });
    assert!(total > 3_000);
    drop(moves);
    block_on(engine.close()).unwrap();
}
