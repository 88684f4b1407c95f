//! The bank of the design, as it is written there.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::module::{self, Depot, Module};
use crate::schema::aggregate::Sum;
use crate::schema::{Map, PState, Sub};
use crate::topology::harness::Harness;

crate::key! {
    #[derive(Copy)]
    pub(crate) struct AccountId(pub u32);
    #[derive(Copy)]
    pub(crate) struct TransferId(pub u64);
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Deposit {
    pub(crate) account: AccountId,
    pub(crate) cents: i64,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Transfer {
    pub(crate) id: TransferId,
    pub(crate) from: AccountId,
    pub(crate) to: AccountId,
    pub(crate) cents: i64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Outgoing {
    to: AccountId,
    cents: i64,
    accepted: bool,
}

impl Outgoing {
    fn of(transfer: &Transfer, accepted: bool) -> Self {
        Self { to: transfer.to, cents: transfer.cents, accepted }
    }
}

pub(crate) struct Bank {
    pub(crate) deposits: Depot<Deposit>,
    pub(crate) transfers: Depot<Transfer>,
    pub(crate) funds: PState<Map<AccountId, i64>>,
    pub(crate) outgoing: PState<Map<AccountId, Sub<Map<TransferId, Outgoing>>>>,
}

pub(crate) fn bank(m: &Module) -> Bank {
    let deposits = m.depot::<Deposit>("deposits").hash_by(|d| &d.account);
    let transfers = m.depot::<Transfer>("transfers").hash_by(|t| &t.from);

    let ledger = m.microbatch(|| "ledger");
    let funds = ledger.pstate::<Map<AccountId, i64>>("funds");
    let outgoing = ledger.pstate::<Map<AccountId, Sub<Map<TransferId, Outgoing>>>>("outgoing");

    ledger.source(deposits).aggregate(funds, |funds, d| funds.key(d.account).add(Sum(d.cents)));

    ledger
        .source(transfers)
        .using((funds, outgoing))
        .filter_map(async |at, (funds, outgoing), t| {
            let balance = at.get(funds.key(t.from)).await?.unwrap_or(0);
            let accepted = balance >= t.cents;
            if accepted {
                at.put(funds.key(t.from), balance - t.cents)?;
            }
            at.put(outgoing.key(t.from).key(t.id), Outgoing::of(&t, accepted))?;
            Ok(accepted.then_some(t))
        })
        .aggregate(funds, |funds, t| funds.key(t.to).add(Sum(t.cents)));
    Bank { deposits, transfers, funds: funds.reader(), outgoing: outgoing.reader() }
}

/// The transfer `id` of the test: amounts and accounts are mixed, some are more than there is.
fn transfer(id: u32) -> Transfer {
    let (from, to) = (AccountId(id * 7 % 50), AccountId(id * 13 % 50));
    Transfer { id: TransferId(id.into()), from, to, cents: i64::from(id % 400) }
}

#[test]
fn money_is_conserved_and_histories_are_right() {
    for partitions in [1, 8] {
        let (bank, module) = module::define("bank", bank).unwrap();
        let mut engine = Harness::new(module, partitions).unwrap().cold().batches_of(20);
        for account in 0..50 {
            let deposit = Deposit { account: AccountId(account), cents: 1_000 };
            engine.append(bank.deposits, &deposit).unwrap();
        }
        engine.run().unwrap();
        for id in 0..500 {
            engine.append(bank.transfers, &transfer(id)).unwrap();
        }
        engine.run().unwrap();

        let mut model: BTreeMap<_, _> = (0..50).map(|id| (AccountId(id), 1_000)).collect();
        let mut accepted = 0;
        for account in 0..50 {
            let expected = (0..500).map(transfer).filter(|t| t.from == AccountId(account));
            let history = engine.select(bank.outgoing.key(AccountId(account)).all()).unwrap();
            for (transfer, (id, outgoing)) in expected.zip(&history) {
                assert_eq!(*id, transfer.id);
                assert_eq!(*outgoing, Outgoing::of(&transfer, outgoing.accepted));
                if outgoing.accepted {
                    accepted += 1;
                    *model.get_mut(&transfer.from).unwrap() -= transfer.cents;
                    *model.get_mut(&transfer.to).unwrap() += transfer.cents;
                }
            }
            assert_eq!(history.len(), 10);
        }
        assert!((1..500).contains(&accepted), "some are accepted and some are not: {accepted}");
        let balances: BTreeMap<_, _> =
            engine.select(bank.funds.all()).unwrap().into_iter().collect();
        assert_eq!(balances, model);
        assert_eq!(balances.values().sum::<i64>(), 50_000);
        assert!(balances.values().all(|cents| *cents >= 0), "accepted only what was there");
    }
}
