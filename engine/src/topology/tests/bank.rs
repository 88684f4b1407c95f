//! The bank of the design, as it is written there.

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

#[test]
fn money_is_conserved_and_histories_are_right() {
    for partitions in [1, 8] {
        let (bank, module) = module::define("bank", bank).unwrap();
        let mut engine = Harness::new(module, partitions).unwrap().cold();
        for account in 0..50 {
            let deposit = Deposit { account: AccountId(account), cents: 1_000 };
            engine.append(bank.deposits, &deposit).unwrap();
        }
        engine.run().unwrap();
        for id in 0..500 {
            let (from, to) = (AccountId(id as u32 * 7 % 50), AccountId(id as u32 * 13 % 50));
            let cents = id as i64 % 400;
            engine
                .append(bank.transfers, &Transfer { id: TransferId(id), from, to, cents })
                .unwrap();
        }
        engine.run().unwrap();

        let mut model = vec![1_000; 50];
        let mut accepted = 0;
        let balances = engine.select(bank.funds.all()).unwrap();
        let histories: Vec<_> = (0..50)
            .flat_map(|id| engine.select(bank.outgoing.key(AccountId(id)).all()).unwrap())
            .collect();
        assert_eq!(histories.len(), 500);
        for (id, outgoing) in histories {
            assert_eq!(outgoing.to, AccountId(id.0 as u32 * 13 % 50));
            assert_eq!(outgoing.cents, id.0 as i64 % 400);
            if outgoing.accepted {
                accepted += 1;
                model[id.0 as usize * 7 % 50] -= outgoing.cents;
                model[id.0 as usize * 13 % 50] += outgoing.cents;
            }
        }
        assert!((1..500).contains(&accepted), "some are accepted and some are not: {accepted}");
        assert_eq!(balances.len(), 50);
        assert_eq!(balances.iter().map(|(_, cents)| cents).sum::<i64>(), 50_000);
        for (account, cents) in balances {
            assert!(cents >= 0);
            assert_eq!(cents, model[account.0 as usize]);
        }
    }
}
