//! SIGKILL under load and while opening, with other numbers of shards.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt};
use serde::{Deserialize, Serialize};
use tidemill::module::{Depot, Module};
use tidemill::schema::aggregate::Sum;
use tidemill::schema::{Map, PState};
use tidemill::types::{Offset, PartitionId};
use tidemill::{Engine, Launched, block_on};

use crate::kit::{Process, argument, directory, options, tell};

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Payment {
    id: u64,
    to: u64,
    amount: i64,
}

struct Ledger {
    payments: Depot<Payment>,
    seen: PState<Map<u64, i64>>,
    funds: PState<Map<u64, i64>>,
}

const ACCOUNTS: u64 = 50;

fn ledger(m: &Module) -> Ledger {
    let payments = m.depot::<Payment>("payments").hash_by(|it| &it.id);
    let t = m.microbatch(|| "ledger");
    let seen = t.pstate::<Map<u64, i64>>("seen");
    let funds = t.pstate::<Map<u64, i64>>("funds");
    t.source(payments)
        .also(|it| it.aggregate(seen, |seen, it| seen.key(it.id).add(Sum(1))))
        .aggregate(funds, |funds, it| funds.key(it.to).add(Sum(it.amount)));
    Ledger { payments, seen: seen.reader(), funds: funds.reader() }
}

fn payment(id: u64) -> Payment {
    Payment { id, to: id * 7 % ACCOUNTS, amount: i64::try_from(id % 100).unwrap() + 1 }
}

/// Child: opens with `argument % 8` shards and appends from id `argument / 8` on until it is killed, telling
/// what was acknowledged, and what was applied.
pub(crate) fn load(dir: &Path) {
    let (shards, first) = (argument() % 8, argument() / 8);
    block_on(async {
        tell("opening");
        let engine = Engine::open(dir, options(u16::try_from(shards).unwrap())).await.unwrap();
        let ledger = engine.launch("ledger", ledger).await.unwrap();
        tell("opened");
        let mut waiting = FuturesUnordered::new();
        for id in first.. {
            let ledger = &ledger;
            waiting.push(async move {
                let append = ledger.append(ledger.payments, &payment(id));
                let appended = append.await.unwrap();
                tell(format_args!("acknowledged {id}"));
                if id.is_multiple_of(16) {
                    ledger.wait("ledger", &appended).await.unwrap();
                    tell(format_args!("applied {id}"));
                }
            });
            if waiting.len() >= 64 {
                waiting.next().await;
            }
        }
    });
}

/// What children told.
#[derive(Default)]
struct Told {
    acknowledged: BTreeSet<u64>,
    applied: BTreeSet<u64>,
}

impl Told {
    fn note(&mut self, line: &str) {
        let Some((what, id)) = line.split_once(' ') else { return };
        let id = id.parse().unwrap();
        match what {
            "acknowledged" => assert!(self.acknowledged.insert(id)),
            "applied" => assert!(self.applied.insert(id)),
            _ => panic!("{line}"),
        }
    }
}

async fn records(ledger: &Launched<Ledger>) -> BTreeMap<u64, Payment> {
    let mut records = BTreeMap::new();
    for partition in (0..ledger.engine().partitions()).map(PartitionId) {
        let mut from = Offset(0);
        loop {
            let some = ledger.read_depot(ledger.payments, partition, from, 1_000).await.unwrap();
            let Some(last) = some.last() else { break };
            from = last.offset.advance(1);
            for record in some {
                let id = record.record.id;
                assert!(records.insert(id, record.record).is_none(), "{id} is there twice");
            }
        }
    }
    records
}

/// Everything that was acknowledged is there, once, and the state is the sum of what is there.
async fn check(ledger: &Launched<Ledger>, told: &Told) {
    // What was told to be applied is visible at once.
    for &id in told.applied.iter().rev().take(100) {
        assert_eq!(ledger.select(ledger.seen.key(id)).await.unwrap(), Some(1), "{id}");
    }
    ledger.caught_up("ledger").await.unwrap();
    let records = records(ledger).await;
    let lost: Vec<_> = told.acknowledged.iter().filter(|it| !records.contains_key(it)).collect();
    assert!(lost.is_empty(), "acknowledged and lost: {lost:?}");
    let seen = ledger.select(ledger.seen.all()).await.unwrap();
    assert_eq!(seen, records.keys().map(|&id| (id, 1)).collect::<Vec<_>>());
    let mut funds: BTreeMap<u64, i64> = BTreeMap::new();
    for it in records.values() {
        *funds.entry(it.to).or_default() += it.amount;
    }
    let found = ledger.select(ledger.funds.all()).await.unwrap();
    assert_eq!(found, funds.into_iter().collect::<Vec<_>>());
}

#[test]
fn everything_acknowledged_survives_kills_under_load_and_while_opening_with_any_number_of_shards() {
    let dir = directory("killed");
    let mut told = Told::default();
    let mut opened_late = 0;
    for (round, shards) in [2, 1, 3, 4, 2, 3, 3].into_iter().enumerate() {
        let round = round as u64;
        let first = round * 1_000_000;
        // Openings that do not get far: each ends somewhere else.
        for attempt in 0..if round == 0 { 0 } else { 4 } {
            let mut process =
                Process::start("load", &dir, (first + attempt * 100_000) * 8 + shards);
            assert_eq!(process.line().as_deref(), Some("opening"));
            std::thread::sleep(Duration::from_millis((attempt * 97 + round * 31) % 400));
            process.kill();
            let lines = process.rest();
            opened_late += usize::from(lines.iter().any(|line| line == "opened"));
            lines.iter().for_each(|line| told.note(line));
        }
        let mut process = Process::start("load", &dir, (first + 500_000) * 8 + shards);
        let wanted = told.acknowledged.len() + 2_000;
        while told.acknowledged.len() < wanted {
            told.note(&process.line().expect("it runs until it is killed"));
        }
        process.kill();
        process.rest().iter().for_each(|line| told.note(line));
        // And with yet another number of shards.
        let next = [1, 4, 2, 3][usize::try_from(round).unwrap() % 4];
        block_on(async {
            let engine = Engine::open(&dir, options(next)).await.unwrap();
            let ledger = engine.launch("ledger", ledger).await.unwrap();
            check(&ledger, &told).await;
            drop(ledger);
            if round % 2 == 0 { engine.stop().await } else { engine.close().await.unwrap() }
        });
    }
    let acknowledged = told.acknowledged.len();
    println!("{acknowledged} acknowledged, {opened_late} of 24 openings killed too late");
}
