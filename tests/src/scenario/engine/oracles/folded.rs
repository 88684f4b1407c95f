//! *folded*: when every topology has caught up, each `PState` is what folding the depots gives: every record
//! exactly once, in order, refused ones not at all; money is conserved.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;

use tidemill::types::{Offset, PartitionId};

use super::super::history::Record;
use super::super::replay::{Depots, State, replay, written_by_ledger};
use crate::scenario::{Failure, check};

const NAME: &str = "folded";

pub(in super::super) fn judge(
    depots: &Depots,
    found: &State,
    letters: &[(PartitionId, Offset)],
) -> Result<(), Failure> {
    let expected = replay(depots);
    same("sent", &expected.sent, &found.sent)?;
    same("funds", &expected.funds, &found.funds)?;
    same("paid", &expected.paid, &found.paid)?;
    same("history", &expected.history, &found.history)?;
    same("done", &expected.done, &found.done)?;
    same("amounts", &expected.amounts, &found.amounts)?;
    same("received", &expected.received, &found.received)?;
    same("tallied", &expected.tallied, &found.tallied)?;
    same("counted", &expected.counted, &found.counted)?;
    same("happened", &expected.happened, &found.happened)?;
    same("shown", &expected.shown, &found.shown)?;
    same("lined", &expected.lined, &found.lined)?;
    same("rounds", &expected.rounds, &found.rounds)?;
    let (wanted, got) = ((expected.vault, expected.total), (found.vault, found.total));
    check(NAME, wanted == got, || {
        format!("vault and total are {got:?}; the depots give {wanted:?}")
    })?;
    let receipts: BTreeMap<_, _> = written_by_ledger(depots).collect();
    same("receipts", &expected.receipts, &receipts)?;
    let dead: BTreeSet<_> = letters.iter().copied().collect();
    check(NAME, dead == expected.dead && dead.len() == letters.len(), || {
        format!("dead letters are {letters:?}; expected were {:?}", expected.dead)
    })?;
    let paid: i64 = depots.values().map(deposited).sum();
    let total: i64 = found.funds.values().sum();
    check(NAME, paid == total, || format!("{paid} was paid in, {total} is there"))
}

fn deposited(record: &Record) -> i64 {
    match record {
        Record::Deposit(it) => it.cents,
        Record::Transfer(_) | Record::Happening(_) | Record::Receipt(_) => 0,
    }
}

/// Names the first key that differs.
fn same<K: Ord + Debug, V: PartialEq + Debug>(
    what: &str,
    expected: &BTreeMap<K, V>,
    found: &BTreeMap<K, V>,
) -> Result<(), Failure> {
    let keys: BTreeSet<&K> = expected.keys().chain(found.keys()).collect();
    for key in keys {
        let (wanted, got) = (expected.get(key), found.get(key));
        check(NAME, wanted == got, || {
            format!("{what}[{key:?}] is {got:?}; the depots give {wanted:?}")
        })?;
    }
    Ok(())
}
