//! The bank: an ordinary module, written as a service would write it.
//!
//! ```text
//! deposits  ──────────────────────────────────────────────> funds += amount
//! transfers ── at `from`: enough? funds -= amount, outgoing ──┬─ no: recorded as refused, nothing else
//!                                                             └─ yes: hop to `to`: funds += amount, incoming
//! ```

use serde::{Deserialize, Serialize};
use tidemill::module::{Depot, Module};
use tidemill::schema::aggregate::Sum;
use tidemill::schema::{Map, PState, Sub, Uncounted};

/// The topology's name.
pub const LEDGER: &str = "ledger";

/// Money that comes from outside.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Deposit {
    /// Who gets it.
    pub account: u64,
    /// How much.
    pub amount: i64,
}

/// Money that goes from one account to another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Transfer {
    /// Names the transfer; no two share it.
    pub id: u64,
    /// Who pays.
    pub from: u64,
    /// Who gets it.
    pub to: u64,
    /// How much.
    pub amount: i64,
}

/// A transfer, in the history of who pays.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outgoing {
    /// Who gets it.
    pub to: u64,
    /// How much.
    pub amount: i64,
    /// Whether there was enough.
    pub accepted: bool,
}

/// An accepted transfer, in the history of who gets it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Incoming {
    /// Who paid.
    pub from: u64,
    /// How much.
    pub amount: i64,
}

/// One side's transfers of one account, by id. Nobody asks how many there are.
pub type History<T> = Sub<Map<u64, T>, Uncounted>;

/// The module's handles.
#[derive(Debug)]
pub struct Bank {
    /// Placed by account.
    pub deposits: Depot<Deposit>,
    /// Placed by who pays.
    pub transfers: Depot<Transfer>,
    /// What each account holds.
    pub funds: PState<Map<u64, i64>>,
    /// Transfers by who pays, then by id.
    pub outgoing: PState<Map<u64, History<Outgoing>>>,
    /// Accepted transfers by who gets them, then by id.
    pub incoming: PState<Map<u64, History<Incoming>>>,
}

/// Declares the module.
pub fn bank(m: &Module) -> Bank {
    let deposits = m.depot::<Deposit>("deposits").hash_by(|deposit| &deposit.account);
    let transfers = m.depot::<Transfer>("transfers").hash_by(|transfer| &transfer.from);

    let ledger = m.microbatch(|| LEDGER);
    let funds = ledger.pstate::<Map<u64, i64>>("funds");
    let outgoing = ledger.pstate::<Map<u64, History<Outgoing>>>("outgoing");
    let incoming = ledger.pstate::<Map<u64, History<Incoming>>>("incoming");

    ledger
        .source(deposits)
        .aggregate(funds, |funds, deposit| funds.key(deposit.account).add(Sum(deposit.amount)));
    ledger
        .source(transfers)
        .using((funds, outgoing))
        .touching(|(funds, _), transfer| funds.key(transfer.from))
        .filter_map(async |at, (funds, outgoing), transfer: Transfer| {
            let Transfer { id, from, to, amount } = transfer;
            let balance = at.get(funds.key(from)).await?.unwrap_or(0);
            let accepted = balance >= amount;
            if accepted {
                at.put(funds.key(from), balance - amount)?;
            }
            at.put(outgoing.key(from).key(id), Outgoing { to, amount, accepted })?;
            Ok(accepted.then_some(transfer))
        })
        .hash_by(|transfer| &transfer.to)
        .using((funds, incoming))
        .touching(|(funds, _), transfer| funds.key(transfer.to))
        .for_each(async |at, (funds, incoming), transfer| {
            let Transfer { id, from, to, amount } = transfer;
            let balance = at.get(funds.key(to)).await?.unwrap_or(0);
            at.put(funds.key(to), balance + amount)?;
            at.put(incoming.key(to).key(id), Incoming { from, amount })?;
            Ok(())
        });
    Bank {
        deposits,
        transfers,
        funds: funds.reader(),
        outgoing: outgoing.reader(),
        incoming: incoming.reader(),
    }
}
