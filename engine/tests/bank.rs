//! The bank of the documentation, through the public API, on real files.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use serde::{Deserialize, Serialize};
use tidemill::client::{Engine, Launched, block_on};
use tidemill::module::{Depot, Module};
use tidemill::node::Options;
use tidemill::schema::aggregate::Sum;
use tidemill::schema::{Map, PState, Sub};
use tidemill::shard::Effects;

#[path = "holds/directory.rs"]
mod directory;

use directory::directory;

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Deposit {
    account: u64,
    cents: i64,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Transfer {
    id: u64,
    from: u64,
    to: u64,
    cents: i64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Outgoing {
    to: u64,
    cents: i64,
    accepted: bool,
}

struct Bank {
    deposits: Depot<Deposit>,
    transfers: Depot<Transfer>,
    funds: PState<Map<u64, i64>>,
    outgoing: PState<Map<u64, Sub<Map<u64, Outgoing>>>>,
}

fn bank(m: &Module) -> Bank {
    let deposits = m.depot::<Deposit>("deposits").hash_by(|d| &d.account);
    let transfers = m.depot::<Transfer>("transfers").hash_by(|t| &t.from);

    let ledger = m.microbatch(|| "ledger");
    let funds = ledger.pstate::<Map<u64, i64>>("funds");
    let outgoing = ledger.pstate::<Map<u64, Sub<Map<u64, Outgoing>>>>("outgoing");

    ledger.source(deposits).aggregate(funds, |funds, d| funds.key(d.account).add(Sum(d.cents)));
    ledger
        .source(transfers)
        .using((funds, outgoing))
        .filter_map(async |at, (funds, outgoing), t: Transfer| {
            let balance = at.get(funds.key(t.from)).await?.unwrap_or(0);
            let accepted = balance >= t.cents;
            if accepted {
                at.put(funds.key(t.from), balance - t.cents)?;
            }
            let entry = Outgoing { to: t.to, cents: t.cents, accepted };
            at.put(outgoing.key(t.from).key(t.id), entry)?;
            Ok(accepted.then_some(t))
        })
        .aggregate(funds, |funds, t| funds.key(t.to).add(Sum(t.cents)));
    Bank { deposits, transfers, funds: funds.reader(), outgoing: outgoing.reader() }
}

fn options(shards: u16) -> Options {
    Options { shards, partitions: Some(8), ..Options::default() }
}

async fn total(bank: &Launched<Bank>) -> i64 {
    bank.select(bank.funds.all().values()).await.unwrap().iter().sum()
}

const ACCOUNTS: u64 = 40;

async fn fill(bank: &Launched<Bank>) {
    for account in 0..ACCOUNTS {
        let deposit = Deposit { account, cents: 1_000 };
        let appended = bank.append(bank.deposits, &deposit).await.unwrap();
        assert!(matches!(bank.wait("ledger", &appended).await.unwrap(), Effects::Applied { .. }));
    }
}

async fn transfer(bank: &Launched<Bank>, ids: std::ops::Range<u64>) {
    let transfers: Vec<Transfer> = ids
        .map(|id| Transfer { id, from: id % ACCOUNTS, to: (id * 7 + 3) % ACCOUNTS, cents: 30 })
        .collect();
    let appended = bank.append_many(bank.transfers, &transfers).await.unwrap();
    for appended in appended {
        bank.wait("ledger", &appended).await.unwrap();
    }
}

#[test]
fn money_is_conserved_over_transfers_reopening_and_another_number_of_shards() {
    let dir = directory("bank");
    for (round, shards) in [2, 2, 1, 3, 2].into_iter().enumerate() {
        block_on(async {
            let engine = Engine::open(&dir, options(shards)).await.unwrap();
            let bank = engine.launch("bank", bank).await.unwrap();
            if round == 0 {
                fill(&bank).await;
            }
            assert_eq!(total(&bank).await, 1_000 * i64::try_from(ACCOUNTS).unwrap());
            let first = round as u64 * 500;
            transfer(&bank, first..first + 500).await;
            assert_eq!(total(&bank).await, 1_000 * i64::try_from(ACCOUNTS).unwrap());
            let history = bank.select(bank.outgoing.key(5).all()).await.unwrap();
            let expected = (0..first + 500).filter(|id| id % ACCOUNTS == 5).count();
            assert_eq!(history.len(), expected, "round {round}");
            drop(bank);
            if round % 2 == 0 {
                engine.close().await.unwrap();
            } else {
                engine.stop().await;
            }
        });
    }
}
