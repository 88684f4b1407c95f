//! Recomputing what topologies keep, while everything goes on.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use tidemill::client::{Engine, Launched, block_on};
use tidemill::module::{Depot, Module};
use tidemill::node::Options;
use tidemill::schema::aggregate::{Count, SetOf, Sum};
use tidemill::schema::{Map, PState, Set, Sub};
use tidemill::subscribe::{Gap, What};
use tidemill::types::{MicrobatchId, Offset, PStateId, PartitionId};
use tidemill::{Error, verify};

use crate::kit::{self, close, directory, files, records};

type Transfer = (u64, u64, i64, u64);

struct Bank {
    transfers: Depot<Transfer>,
    receipts: Depot<Transfer>,
    funds: PState<Map<u64, i64>>,
    done: PState<Map<u64, Sub<Set<u64>>>>,
    moved: PState<Map<u64, i64>>,
}

const ACCOUNTS: u64 = 100;

/// What a transfer costs in `moved`: the code of one day, and of another.
static FEE: AtomicI64 = AtomicI64::new(0);
static NO_FEE: AtomicI64 = AtomicI64::new(0);

/// From the nature of the topology `moving`.
#[derive(Clone, Copy)]
enum Moving {
    OrderFree,
    Invariant,
    Undeclared,
}

fn bank_of(moving: Moving, fee: &'static AtomicI64) -> impl Fn(&Module) -> Bank {
    move |m| {
        let transfers = m.depot::<Transfer>("transfers").hash_by(|(from, ..)| from);
        let receipts = m.depot::<Transfer>("receipts").hash_by(|(_, to, ..)| to);
        let ledger = m.microbatch(|| "ledger");
        ledger.order_free();
        let funds = ledger.pstate::<Map<u64, i64>>("funds");
        let done = ledger.pstate::<Map<u64, Sub<Set<u64>>>>("done");
        ledger.invariant("money", move |read| async move {
            let sum: i64 = read.select(funds.all()).await?.iter().map(|(_, cents)| cents).sum();
            if sum == 0 { Ok(()) } else { Err(format!("the funds add up to {sum}").into()) }
        });
        ledger
            .source(transfers)
            .also(|it| it.aggregate(funds, |funds, t| funds.key(t.0).add(Sum(-t.2))))
            .also(|it| it.aggregate(done, |done, t| done.key(t.0).add(SetOf(t.3))))
            .also(|it| it.aggregate(funds, |funds, t| funds.key(t.1).add(Sum(t.2))))
            .append_to(receipts);
        let mover = m.microbatch(|| "moving");
        let moved = mover.pstate::<Map<u64, i64>>("moved");
        match moving {
            Moving::OrderFree => mover.order_free(),
            Moving::Invariant => {
                mover.invariant("no account has lost anything", move |read| async move {
                    let all = read.select(moved.all()).await?;
                    let lost = all.into_iter().find(|(_, cents)| *cents < 0);
                    lost.map_or(Ok(()), |(account, cents)| {
                        Err(format!("account {account} has {cents}").into())
                    })
                });
            }
            Moving::Undeclared => {}
        }
        mover
            .source(transfers)
            .aggregate(moved, |moved, t| moved.key(t.0).add(Sum(t.2 - fee.load(Ordering::SeqCst))));
        Bank {
            transfers,
            receipts,
            funds: funds.reader(),
            done: done.reader(),
            moved: moved.reader(),
        }
    }
}

fn bank(m: &Module) -> Bank {
    bank_of(Moving::OrderFree, &NO_FEE)(m)
}

/// Opens the directory, and launches the bank.
fn open(data: &Path, options: Options, bank: impl Fn(&Module) -> Bank) -> Launched<Bank> {
    let engine = block_on(Engine::open(data, options)).unwrap();
    block_on(engine.launch("bank", bank)).unwrap()
}

fn options() -> Options {
    Options {
        memory_bytes: 64 << 20,
        recompute_share: 1.0,
        // Machines that run tests are slow at times.
        recompute_pause_max: Duration::from_mins(2),
        subscription_heartbeat: Duration::from_millis(10),
        history: Duration::from_mins(10),
        history_bytes_max: Some(1 << 30),
        ..kit::options(2)
    }
}

/// A transfer of each account, done.
fn pay_through(bank: &Launched<Bank>, number: u64) {
    pay(bank, number);
    block_on(bank.caught_up("ledger")).unwrap();
}

/// A transfer of each account.
fn pay(bank: &Launched<Bank>, number: u64) {
    let transfers: Vec<Transfer> = (0..ACCOUNTS)
        .map(|from| (from, (from * 7 + number) % ACCOUNTS, 3, number * ACCOUNTS + from))
        .collect();
    block_on(bank.append_many(bank.transfers, &transfers)).unwrap();
}

/// Money is conserved, and each transfer was done and told once.
fn judge(bank: &Launched<Bank>) {
    for topology in ["ledger", "moving"] {
        block_on(bank.caught_up(topology)).unwrap();
    }
    let transfers = records(bank, bank.transfers);
    let mut funds: BTreeMap<u64, i64> = BTreeMap::new();
    let mut done: BTreeMap<u64, BTreeSet<u64>> = BTreeMap::new();
    for &(from, to, cents, id) in &transfers {
        *funds.entry(from).or_default() -= cents;
        *funds.entry(to).or_default() += cents;
        assert!(done.entry(from).or_default().insert(id));
    }
    let found = block_on(bank.select(bank.funds.all())).unwrap();
    assert_eq!(found.into_iter().collect::<BTreeMap<_, _>>(), funds);
    for (&account, ids) in &done {
        let (all, size) = (bank.done.key(account).all(), bank.done.key(account).size());
        let (found, size) = block_on(bank.select((all, size))).unwrap();
        assert_eq!(found.into_iter().collect::<BTreeSet<_>>(), *ids);
        assert_eq!(size, ids.len() as u64);
    }
    let mut told = records(bank, bank.receipts);
    let mut sent = transfers;
    told.sort_unstable();
    sent.sort_unstable();
    assert!(told == sent, "{} transfers and {} receipts", sent.len(), told.len());
}

fn refusal<T: std::fmt::Debug>(result: Result<T, Error>) -> String {
    match result {
        Err(Error::Recompute { what } | Error::Invalid { what }) => what,
        other => panic!("{other:?}"),
    }
}

/// The `PState`s of which the directory, which must be sound, has rows.
pub(super) fn stored(dir: &Path) -> BTreeSet<u32> {
    let report = verify::directory(&files(dir), &mut |_| {});
    let wrong: Vec<_> = report.findings.iter().chain(&report.notes).collect();
    assert!(wrong.is_empty(), "{wrong:?}");
    let trees = report.partitions.values().flat_map(|it| &it.trees);
    let full = trees.filter(|it| it.entries > 0 && it.pstate > PStateId(0));
    full.map(|it| it.pstate.0).collect()
}

#[test]
fn under_load_an_order_free_topology_comes_out_equal_and_takes_its_own_place() {
    let data = directory("recompute_load");
    let bank = open(&data, options(), self::bank);
    for number in 0..50 {
        pay(&bank, number);
    }
    block_on(bank.caught_up("ledger")).unwrap();
    let before = block_on(bank.snapshot()).unwrap();
    let all = |of: &tidemill::client::Snapshot| -> Vec<(u64, i64)> {
        block_on(bank.select(bank.funds.all()).at(of)).unwrap()
    };
    let funds_before = all(&before);
    let id_before = before.ids().into_iter().find(|(name, _)| *name == "ledger").unwrap().1;
    let mut subscribed = block_on(bank.subscribe(bank.funds.key(3))).unwrap();

    let (stop, rounds) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(50)));
    let paying = {
        let (bank, stop, rounds) = (bank.clone(), Arc::clone(&stop), Arc::clone(&rounds));
        std::thread::spawn(move || {
            while !stop.load(Ordering::SeqCst) {
                pay_through(&bank, rounds.fetch_add(1, Ordering::SeqCst));
            }
        })
    };
    let reading = {
        let (bank, stop) = (bank.clone(), Arc::clone(&stop));
        std::thread::spawn(move || {
            let (mut reads, mut most) = (0, 0);
            while !stop.load(Ordering::SeqCst) {
                let funds = block_on(bank.select(bank.funds.all())).unwrap();
                assert_eq!(funds.iter().map(|(_, cents)| cents).sum::<i64>(), 0);
                let done = block_on(bank.select(bank.done.key(5).size())).unwrap();
                assert!(most <= done, "a reader went back from {most} to {done}");
                (reads, most) = (reads + 1, done);
            }
            reads
        })
    };
    for round in 0..2 {
        let goal = rounds.load(Ordering::SeqCst) + 5;
        while rounds.load(Ordering::SeqCst) < goal {
            std::thread::sleep(Duration::from_millis(1));
        }
        let recomputed = block_on(bank.recompute("ledger")).unwrap();
        assert_eq!(recomputed.topology, "ledger");
        assert!(recomputed.records >= 50 * ACCOUNTS, "{recomputed:?}");
        assert_eq!(block_on(bank.recomputing()).unwrap(), []);
        assert_eq!(all(&before), funds_before, "round {round}: what is held stays");
    }
    stop.store(true, Ordering::SeqCst);
    paying.join().unwrap();
    assert!(reading.join().unwrap() > 10);
    judge(&bank);

    // Ids go on, and those from before cannot be read without a snapshot.
    let after = block_on(bank.snapshot()).unwrap();
    let id_after = after.ids().into_iter().find(|(name, _)| *name == "ledger").unwrap().1;
    assert!(id_before < id_after);
    let expired = block_on(bank.select(bank.funds.all()).as_of("ledger", id_before));
    assert!(matches!(expired, Err(Error::SnapshotExpired { .. })), "{expired:?}");
    block_on(bank.select(bank.funds.all()).as_of("ledger", id_after)).unwrap();
    let moved = block_on(bank.select(bank.moved.all()).as_of("moving", MicrobatchId(1)));
    assert!(!matches!(moved, Err(Error::Invalid { .. })), "other topologies have their ids");
    drop((before, after));

    // The subscriber hears of it, and has what everybody else sees.
    let mut resynced = 0;
    let funds = block_on(bank.select(bank.funds.key(3))).unwrap();
    while resynced == 0 || *subscribed.value() != funds {
        let change = block_on(subscribed.next()).unwrap().unwrap();
        resynced += u32::from(matches!(change.what, What::Resynced { gap: Gap::Recomputed, .. }));
    }
    drop(subscribed);

    // Nobody reads the old ones any more, so they go: `moved` is left, and the last of the others.
    for tries in 1.. {
        // A partition is folded, and what was dropped in it freed, only when something was written there since.
        pay(&bank, 1_000_000 + tries);
        judge(&bank);
        block_on(bank.engine().fold()).unwrap();
        let copy = directory("recompute_load_copy");
        let copy = block_on(bank.engine().backup(&copy)).unwrap().directory;
        let left = stored(&copy);
        if left == BTreeSet::from([3, 6, 7]) {
            break;
        }
        assert!(tries < 500, "it holds {left:?}");
        std::thread::sleep(Duration::from_millis(10));
    }
    close(bank);

    let bank = open(&data, options(), self::bank);
    judge(&bank);
    block_on(bank.recompute("moving")).unwrap();
    block_on(bank.recompute("ledger")).unwrap();
    judge(&bank);
    let engine = bank.engine().clone();
    drop(bank);
    block_on(engine.stop());
    let bank = open(&data, options(), self::bank);
    judge(&bank);
    close(bank);
    stored(&data);
}

#[test]
fn what_does_not_come_out_equal_is_named_and_changes_nothing() {
    let data = directory("recompute_differs");
    let moved = |bank: &Launched<Bank>| block_on(bank.select(bank.moved.all())).unwrap();
    let bank = open(&data, options(), bank_of(Moving::OrderFree, &FEE));
    pay(&bank, 0);
    judge(&bank);
    let (was, first) = (moved(&bank), moved(&bank)[0].0);
    assert_eq!(was, (0..ACCOUNTS).map(|account| (account, 3)).collect::<Vec<_>>());

    // The code changes.
    FEE.store(1, Ordering::SeqCst);
    let why = refusal(block_on(bank.recompute("moving")));
    assert!(why.contains("PState `moved` differs in partition "), "{why}");
    assert!(why.contains("it is 3, and came out as 2; topology `moving` is what it was"), "{why}");
    assert!(why.contains("first at key "), "{why}");
    assert_eq!(moved(&bank), was);
    assert_eq!(block_on(bank.recomputing()).unwrap(), []);
    // The other topology is not concerned.
    block_on(bank.recompute("ledger")).unwrap();
    FEE.store(0, Ordering::SeqCst);
    block_on(bank.recompute("moving")).unwrap();
    pay(&bank, 1);
    judge(&bank);
    assert_eq!(moved(&bank)[0], (first, 6));
    close(bank);

    // Who promises no order may come out otherwise, if that is valid.
    let bank = open(&data, options(), bank_of(Moving::Invariant, &FEE));
    FEE.store(4, Ordering::SeqCst);
    let why = refusal(block_on(bank.recompute("moving")));
    assert!(why.contains("does not fulfil the invariant `no account has lost anything`"), "{why}");
    assert_eq!(moved(&bank)[0], (first, 6));
    FEE.store(1, Ordering::SeqCst);
    block_on(bank.recompute("moving")).unwrap();
    assert_eq!(moved(&bank)[0], (first, 4));
    pay(&bank, 2);
    judge(&bank);
    assert_eq!(moved(&bank)[0], (first, 6));
    close(bank);
    stored(&data);

    let bank = open(&data, options(), bank_of(Moving::Undeclared, &FEE));
    let why = refusal(block_on(bank.recompute("moving")));
    assert!(why.contains("declare it `order_free`, or declare an `invariant`"), "{why}");
    assert!(refusal(block_on(bank.recompute("mowing"))).contains("no topology `mowing`"));
    close(bank);
    FEE.store(0, Ordering::SeqCst);
}

/// Rounds of payments that are more than `NEAR_RECORDS` of the engine by some microbatches.
const ROUNDS: u64 = 90;

#[test]
fn what_was_interrupted_goes_on_where_it_was() {
    let data = directory("recompute_interrupted");
    // After each microbatch it rests for a thousand times as long as that took.
    let slow = || Options { recompute_share: 0.001, microbatch_records_max: 20, ..options() };
    let bank = open(&data, options(), self::bank);
    // More than is near: it takes several microbatches until it waits for the end.
    for number in 0..ROUNDS {
        pay(&bank, number);
    }
    judge(&bank);
    close(bank);
    let bank = open(&data, slow(), self::bank);
    let begin = |bank: &Launched<Bank>| {
        let bank = bank.clone();
        std::thread::spawn(move || block_on(bank.recompute("ledger")))
    };
    let waiting = begin(&bank);
    let progress = |bank: &Launched<Bank>| block_on(bank.recomputing()).unwrap().pop();
    let some_done = |bank: &Launched<Bank>| loop {
        if let Some(it) = progress(bank).filter(|it| it.records_done > 0) {
            return it.records_done;
        }
        std::thread::sleep(Duration::from_millis(1));
    };
    some_done(&bank);
    let why = refusal(block_on(bank.recompute("moving")));
    assert!(why.contains("another call is recomputing"), "{why}");
    block_on(bank.engine().clone().stop());
    drop(bank);
    assert!(waiting.join().unwrap().is_err());

    let bank = open(&data, slow(), self::bank);
    let Some(under_way) = progress(&bank) else { panic!("it is remembered") };
    assert_eq!(under_way.topology, "ledger");
    assert!(0 < under_way.records_done && under_way.records_done < under_way.records_total);
    assert_eq!(under_way.records_total, ROUNDS * ACCOUNTS);
    // It does not begin anew, and is ended by whoever does not want it any more.
    block_on(bank.end_recompute("ledger")).unwrap();
    assert_eq!(progress(&bank), None);
    assert!(refusal(block_on(bank.end_recompute("ledger"))).contains("is not being recomputed"));
    let waiting = begin(&bank);
    let done = some_done(&bank);
    close(bank);
    assert!(waiting.join().unwrap().is_err());

    let bank = open(&data, options(), self::bank);
    assert!(done <= progress(&bank).unwrap().records_done);
    pay(&bank, ROUNDS);
    block_on(bank.recompute("ledger")).unwrap();
    judge(&bank);
    close(bank);
    stored(&data);
}

#[test]
fn a_topology_without_records_and_one_shard_that_is_reopened() {
    let data = directory("recompute_small");
    let bank = open(&data, options(), self::bank);
    assert_eq!(block_on(bank.recompute("ledger")).unwrap().records, 0);
    pay(&bank, 0);
    judge(&bank);
    let engine = bank.engine().clone();
    for shard in (0..engine.shards()).map(tidemill::types::ShardId) {
        block_on(bank.recompute("ledger")).unwrap();
        engine.fail_shard(shard, "a test");
        while engine.stopped(shard).is_none() {
            std::thread::yield_now();
        }
        assert!(block_on(bank.recompute("ledger")).is_err(), "shard {shard} is down");
        block_on(engine.reopen_shard(shard)).unwrap();
        pay(&bank, 1 + u64::from(shard.0));
        judge(&bank);
        block_on(bank.recompute("ledger")).unwrap();
        judge(&bank);
    }
    drop(engine);
    close(bank);
    stored(&data);
}

struct Picky {
    words: Depot<String>,
    counts: PState<Map<String, u64>>,
}

static PICKY: AtomicU64 = AtomicU64::new(0);

fn picky(m: &Module) -> Picky {
    let words = m.depot::<String>("words").hash_by(|word| word);
    let counting = m.microbatch(|| "counting");
    counting.invariant("none", |_| async { Ok(()) });
    let counts = counting.pstate::<Map<String, u64>>("counts");
    counting
        .source(words)
        .filter_map(async |_, word: String| {
            if word.len() as u64 > PICKY.load(Ordering::SeqCst) {
                return Err(std::io::Error::other(format!("{word} is too long")).into());
            }
            Ok(Some(word))
        })
        .aggregate(counts, |counts, word| counts.key(&word).add(Count));
    Picky { words, counts: counts.reader() }
}

#[test]
fn what_was_given_up_stays_so_and_nothing_else_is_given_up() {
    let data = directory("recompute_rejects");
    PICKY.store(5, Ordering::SeqCst);
    let engine = block_on(Engine::open(&data, options())).unwrap();
    let picky = block_on(engine.launch("picky", self::picky)).unwrap();
    for word in ["tea", "coffee", "water", "lemonade"] {
        let appended = block_on(picky.append(picky.words, &word.to_owned())).unwrap();
        block_on(picky.wait("counting", &appended)).unwrap();
    }
    let letters = || {
        let all = (0..picky.engine().partitions()).map(|partition| {
            block_on(picky.dead_letters("counting", PartitionId(partition), Offset(0)))
                .unwrap()
                .len()
        });
        all.sum::<usize>()
    };
    assert_eq!(letters(), 2);
    block_on(picky.recompute("counting")).unwrap();
    assert_eq!(letters(), 2, "nothing is given up again");

    PICKY.store(4, Ordering::SeqCst);
    let why = refusal(block_on(picky.recompute("counting")));
    assert!(why.contains("the recompute rejected record "), "{why}");
    assert!(why.contains(" of depot `words` of partition "), "{why}");
    assert!(why.contains("which topology `counting` has taken"), "{why}");
    let water =
        |picky: &Launched<Picky>| block_on(picky.select(picky.counts.key("water"))).unwrap();
    assert_eq!((water(&picky), letters()), (Some(1), 2));

    // What could not be done then can be done now.
    PICKY.store(6, Ordering::SeqCst);
    block_on(picky.recompute("counting")).unwrap();
    assert_eq!(block_on(picky.select(picky.counts.key("coffee"))).unwrap(), Some(1));
    assert_eq!(block_on(picky.select(picky.counts.key("lemonade"))).unwrap(), None);
    drop(picky);
    block_on(engine.close()).unwrap();
    stored(&data);
}
