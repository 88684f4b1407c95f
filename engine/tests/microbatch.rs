//! Microbatches through the public API, on real files: what a user is promised, while shards fail under
//! load, engines close under load, and records fail.

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "a test has threads and clocks of its own"
)]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tidemill::Error;
use tidemill::client::{Engine, Launched, block_on};
use tidemill::module::{Depot, Module};
use tidemill::node::Options;
use tidemill::schema::aggregate::Sum;
use tidemill::schema::{Map, PState, Sub};
use tidemill::types::{Offset, PartitionId, ShardId};

#[path = "holds/directory.rs"]
mod directory;

use directory::directory;

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Transfer {
    id: u64,
    from: u64,
    to: u64,
    cents: i64,
}

/// Per account, what happened to each transfer: how often, and when its microbatch began.
type Times = Map<u64, Sub<Map<u64, (u64, u64)>>>;

/// Money moves from account to account, perhaps into debt.
struct Moves {
    transfers: Depot<Transfer>,
    funds: PState<Map<u64, i64>>,
    /// Per receiving account.
    arrived: PState<Times>,
    /// Per sending account.
    left: PState<Times>,
}

fn moves(m: &Module) -> Moves {
    let transfers = m.depot::<Transfer>("transfers").hash_by(|t| &t.from);
    let ledger = m.microbatch(|| "ledger");
    let funds = ledger.pstate::<Map<u64, i64>>("funds");
    let left = ledger.pstate::<Times>("left");
    let arrived = ledger.pstate::<Times>("arrived");
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

fn options(shards: u16) -> Options {
    Options { shards, partitions: Some(8), ..Options::default() }
}

/// Waits for a condition, and gives up loudly after far longer than it can take.
fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let started = Instant::now();
    while !condition() {
        assert!(started.elapsed() < Duration::from_mins(1), "not within a minute: {what}");
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
    let received = receiver.recv_timeout(Duration::from_mins(1));
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

#[test]
fn an_engine_closed_or_stopped_under_load_goes_on_where_it_was() {
    let dir = directory("microbatch-close");
    let next = Arc::new(AtomicU64::new(0));
    let mut acknowledged = 0;
    for round in 0..20_u16 {
        // Now and then with another number of shards, so that doubts change their shard.
        let shards = if round % 5 == 4 { 2 } else { 3 };
        let engine = block_on(Engine::open(&dir, options(shards))).unwrap();
        let launching = engine.clone();
        let moves =
            soon(&engine, "launching", async move { launching.launch("moves", moves).await });
        let moves = moves.unwrap();
        let load = Load::start(&moves, &next);
        until("appends", || load.acknowledged() > 200);
        if round % 2 == 0 {
            let closing = engine.clone();
            soon(&engine, "closing", async move { closing.close().await }).unwrap();
        } else {
            block_on(engine.clone().stop());
        }
        acknowledged += load.end();
    }
    let engine = block_on(Engine::open(&dir, options(3))).unwrap();
    let moves = block_on(engine.launch("moves", moves)).unwrap();
    let checked = moves.clone();
    soon(&engine, "the effects", async move { check(&checked, acknowledged).await });
}

/// Arithmetic, and what several topologies make of them.
struct Arithmetic {
    numbers: Depot<u64>,
    /// By the number, from one topology.
    squares: PState<Map<u64, u64>>,
    /// How many there were, all in one place, from the other.
    count: PState<Map<String, u64>>,
    /// How many copies of each reached a partition.
    copies: PState<Map<u64, u64>>,
}

/// Rejects multiples of ten, if it is told to.
fn numbers(rejects: bool) -> impl FnOnce(&Module) -> Arithmetic {
    move |m| {
        let numbers = m.depot::<u64>("numbers").hash_by(|number| number);
        let first = m.microbatch(|| "squaring");
        let squares = first.pstate::<Map<u64, u64>>("squares");
        first.source(numbers).using(squares).for_each(async move |at, squares, number: u64| {
            if rejects && number.is_multiple_of(10) {
                return Err(std::fmt::Error.into());
            }
            Ok(at.put(squares.key(number), number * number)?)
        });
        let second = m.microbatch(|| "counting");
        let count = second.pstate::<Map<String, u64>>("count");
        let copies = second.pstate::<Map<u64, u64>>("copies");
        second
            .source(numbers)
            .global()
            .aggregate(count, |count, _: u64| count.key("all".to_owned()).add(Sum(1)));
        second
            .source(numbers)
            .all()
            .aggregate(copies, |copies, number| copies.key(number).add(Sum(1)));
        Arithmetic {
            numbers,
            squares: squares.reader(),
            count: count.reader(),
            copies: copies.reader(),
        }
    }
}

#[test]
fn all_bad_records_of_a_microbatch_are_found_by_few_attempts() {
    let dir = directory("microbatch-rejects");
    let engine = block_on(Engine::open(&dir, options(2))).unwrap();
    let module = block_on(engine.launch("numbers", numbers(true))).unwrap();
    let all: Vec<u64> = (0..2_000).collect();
    block_on(module.append_many(module.numbers, &all)).unwrap();
    let waiting = module.clone();
    soon(&engine, "the effects", async move { waiting.caught_up("squaring").await }).unwrap();
    let mut letters = Vec::new();
    for partition in (0..8).map(PartitionId) {
        letters.extend(block_on(module.dead_letters("squaring", partition, Offset(0))).unwrap());
    }
    assert_eq!(letters.len(), 200);
    for number in 0..2_000 {
        let square = block_on(module.select(module.squares.key(number))).unwrap();
        let expected = (!number.is_multiple_of(10)).then_some(number * number);
        assert_eq!(square, expected, "of {number}");
    }
    let counters = block_on(engine.counters()).unwrap();
    let aborts: u64 = counters.iter().map(|it| it.aborts).sum();
    // Two per microbatch and shard that met any, and the appends came in few microbatches.
    assert!(aborts < 100, "{aborts} aborts");
    block_on(engine.close()).unwrap();
}

#[test]
fn topologies_that_read_one_depot_each_read_all_of_it_on_any_number_of_shards() {
    for shards in [1, 3] {
        let dir = directory(&format!("microbatch-two-{shards}"));
        let engine = block_on(Engine::open(&dir, options(shards))).unwrap();
        let module = block_on(engine.launch("numbers", numbers(false))).unwrap();
        for from in (0..600).step_by(60) {
            let some: Vec<u64> = (from..from + 60).collect();
            block_on(module.append_many(module.numbers, &some)).unwrap();
        }
        for topology in ["squaring", "counting"] {
            let waiting = module.clone();
            soon(&engine, topology, async move { waiting.caught_up(topology).await }).unwrap();
            assert_eq!(block_on(module.paused(topology)).unwrap(), None);
        }
        let count = block_on(module.select(module.count.key("all".to_owned()))).unwrap();
        assert_eq!(count, Some(600));
        for number in 0..600 {
            let square = block_on(module.select(module.squares.key(number))).unwrap();
            let copies = block_on(module.select(module.copies.key(number))).unwrap();
            assert_eq!((square, copies), (Some(number * number), Some(8)), "of {number}");
        }
        block_on(engine.close()).unwrap();
    }
}

/// Strings, of which one topology makes many longer ones.
struct Strings {
    strings: Depot<String>,
    lengths: PState<Map<String, u64>>,
}

fn strings(m: &Module) -> Strings {
    let strings = m.depot::<String>("strings").hash_by(|string| string);
    let t = m.microbatch(|| "measuring");
    let lengths = t.pstate::<Map<String, u64>>("lengths");
    let copies = t.pstate::<Map<String, Sub<Map<u64, String>>>>("copies");
    t.source(strings).using((lengths, copies)).for_each(async |at, (lengths, copies), string| {
        // A huge one where the string asks for it.
        let times = if string.starts_with("huge") { 1_000 } else { 3 };
        for copy in 0..times {
            at.put(copies.key(string.clone()).key(copy), string.repeat(10))?;
        }
        let length = string.len() as u64;
        Ok(at.put(lengths.key(string), length)?)
    });
    Strings { strings, lengths: lengths.reader() }
}

#[test]
fn a_microbatch_that_is_too_large_is_split_and_a_record_that_is_too_large_rejected() {
    for shards in [1, 2] {
        let dir = directory(&format!("microbatch-large-{shards}"));
        let options = Options { microbatch_bytes_max: 1 << 20, ..options(shards) };
        let engine = block_on(Engine::open(&dir, options)).unwrap();
        let module = block_on(engine.launch("strings", strings)).unwrap();
        let mut all: Vec<String> =
            (0..300).map(|number| format!("{number}{}", "x".repeat(1_000))).collect();
        all.insert(150, format!("huge{}", "x".repeat(1_000)));
        block_on(module.append_many(module.strings, &all)).unwrap();
        let waiting = module.clone();
        soon(&engine, "the effects", async move { waiting.caught_up("measuring").await }).unwrap();
        for (place, string) in all.iter().enumerate() {
            let length = block_on(module.select(module.lengths.key(string.clone()))).unwrap();
            let expected = (place != 150).then_some(string.len() as u64);
            assert_eq!(length, expected, "of string {place}");
        }
        let mut letters = Vec::new();
        for partition in (0..8).map(PartitionId) {
            let found = module.dead_letters("measuring", partition, Offset(0));
            letters.extend(block_on(found).unwrap());
        }
        assert_eq!(letters.len(), 1);
        assert!(letters[0].reason.contains("needs more than"), "{}", letters[0].reason);
        block_on(engine.close()).unwrap();
    }
}

/// What the largest event below did before it was told to stop.
static WRITTEN: AtomicU64 = AtomicU64::new(0);
static SENT: AtomicU64 = AtomicU64::new(0);

struct Multiplied {
    numbers: Depot<u64>,
    last: PState<Map<u64, u64>>,
}

/// An odd number writes as many values of 10,000 bytes, an even one sends a thousand times as many rows.
fn multiplied(m: &Module) -> Multiplied {
    let numbers = m.depot::<u64>("numbers").hash_by(|number| number);
    let t = m.microbatch(|| "multiplying");
    let last = t.pstate::<Map<u64, u64>>("last");
    let values = t.pstate::<Map<u64, Sub<Map<u64, String>>>>("values");
    let sums = t.pstate::<Map<u64, u64>>("sums");
    t.source(numbers).using((last, values)).for_each(async |at, (last, values), number| {
        for nth in 0..number * (number % 2) {
            at.put(values.key(number).key(nth), "v".repeat(10_000))?;
            WRITTEN.fetch_max(nth + 1, Ordering::Relaxed);
        }
        Ok(at.put(last.key(number), number)?)
    });
    t.source(numbers)
        .flat_map(|number| {
            (0..(number + 1) % 2 * number * 1_000).map(|nth| {
                SENT.fetch_max(nth + 1, Ordering::Relaxed);
                nth % 100
            })
        })
        .hash_by(|nth| nth)
        .aggregate(sums, |sums, nth| sums.key(nth).add(Sum(1)));
    Multiplied { numbers, last: last.reader() }
}

#[test]
fn an_event_that_multiplies_what_it_was_given_is_stopped_half_way() {
    let dir = directory("microbatch-multiplied");
    let options = Options { microbatch_bytes_max: 4 << 20, ..options(2) };
    let engine = block_on(Engine::open(&dir, options)).unwrap();
    let module = block_on(engine.launch("multiplied", multiplied)).unwrap();
    block_on(module.append_many(module.numbers, &[0, 1_000, 1_001])).unwrap();
    let waiting = module.clone();
    soon(&engine, "the effects", async move { waiting.caught_up("multiplying").await }).unwrap();
    let last = |number| block_on(module.select(module.last.key(number))).unwrap();
    assert_eq!((last(0), last(1_000), last(1_001)), (Some(0), None, None));
    let written = WRITTEN.load(Ordering::Relaxed);
    assert!(written < 600, "{written} values were written");
    let sent = SENT.load(Ordering::Relaxed);
    assert!(sent < 500_000, "{sent} rows were sent");
    let counters = block_on(engine.counters()).unwrap();
    assert_eq!(counters.iter().map(|it| it.dead_letters).sum::<u64>(), 2);
    block_on(engine.close()).unwrap();
}

#[test]
fn a_shard_that_is_down_pauses_a_topology_and_two_can_be_reopened_in_any_order() {
    let dir = directory("microbatch-down");
    let engine = block_on(Engine::open(&dir, options(3))).unwrap();
    let moves = block_on(engine.launch("moves", moves)).unwrap();
    let all: Vec<_> = (0..200).map(transfer).collect();
    block_on(moves.append_many(moves.transfers, &all)).unwrap();
    for order in [[1, 2], [2, 1]].map(|order| order.map(ShardId)) {
        for shard in order {
            engine.fail_shard(shard, "a test");
            until("the end of a shard", || engine.stopped(shard).is_some());
        }
        until("a pause", || match block_on(moves.paused("ledger")) {
            Ok(reason) => reason.is_some_and(|reason| reason.contains("is down")),
            Err(_) => true,
        });
        for shard in order {
            let reopening = engine.clone();
            soon(&engine, "reopening", async move { reopening.reopen_shard(shard).await }).unwrap();
        }
        let waiting = moves.clone();
        soon(&engine, "the effects", async move { check(&waiting, 200).await });
        assert_eq!(block_on(moves.paused("ledger")).unwrap(), None);
    }
    block_on(engine.close()).unwrap();
}
