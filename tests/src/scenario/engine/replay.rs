//! The model: what the depots hold, folded in the plainest way.

use std::collections::{BTreeMap, BTreeSet};

use tidemill::schema::Initial;
use tidemill::types::{Offset, PartitionId};

use super::history::{Kind, Place, Record};
use super::module::{BY_LEDGER, Chain, Full, Line, Refused, forgets, rounds_of};

/// What lies in all depots, by place.
pub(super) type Depots = BTreeMap<Place, Record>;

/// What the `PState`s must hold once every topology has caught up.
#[derive(Debug, Default, PartialEq)]
pub(super) struct State {
    pub(super) funds: BTreeMap<u64, i64>,
    pub(super) paid: BTreeMap<u64, i64>,
    pub(super) sent: BTreeMap<u64, Chain>,
    pub(super) history: BTreeMap<u64, BTreeMap<u64, Line>>,
    pub(super) done: BTreeMap<u64, BTreeSet<u64>>,
    pub(super) amounts: BTreeMap<u64, BTreeMap<u64, i64>>,
    pub(super) received: BTreeMap<u64, Chain>,
    pub(super) tallied: BTreeMap<u64, i64>,
    pub(super) counted: BTreeMap<u64, Chain>,
    pub(super) happened: BTreeMap<u64, u64>,
    pub(super) shown: BTreeMap<u64, u64>,
    pub(super) lined: BTreeMap<u64, Vec<u64>>,
    pub(super) rounds: BTreeMap<u64, Vec<BTreeSet<u64>>>,
    pub(super) vault: i64,
    pub(super) total: u64,
    /// Transfers that were refused.
    pub(super) dead: BTreeSet<(PartitionId, Offset)>,
    /// Receipts that the ledger wrote, with their senders' transfers: (id, to, cents).
    pub(super) receipts: BTreeMap<u64, (u64, i64)>,
}

/// Applies every record in the order of its depot partition. The order of partitions does not matter.
pub(super) fn replay(depots: &Depots) -> State {
    let mut state = State { vault: Full::value(), ..State::default() };
    for (place, record) in depots {
        match record {
            Record::Deposit(it) => {
                *state.funds.entry(it.account).or_default() += it.cents;
                *state.paid.entry(it.account).or_default() += it.cents;
                state.vault -= it.cents;
            }
            Record::Transfer(it) if it.refused != Refused::Nowhere => {
                state.dead.insert((place.partition, place.offset));
            }
            Record::Transfer(it) => {
                let sent = state.sent.entry(it.from).or_default();
                *sent = sent.with(it.id);
                *state.funds.entry(it.from).or_default() -= it.cents;
                *state.funds.entry(it.to).or_default() += it.cents;
                let history = state.history.entry(it.from).or_default();
                if it.clears {
                    history.clear();
                } else if forgets(it.id) {
                    history.pop_first();
                    history.pop_first();
                }
                let line = Line { to: it.to, cents: it.cents, memo: it.memo.clone() };
                history.insert(it.id, line);
                state.done.entry(it.from).or_default().insert(it.id);
                state.amounts.entry(it.from).or_default().insert(it.id, it.cents);
                state.receipts.insert(it.id | BY_LEDGER, (it.to, it.cents));
            }
            Record::Happening(it) => {
                let counted = state.counted.entry(it.key).or_default();
                *counted = counted.with(it.id);
                *state.happened.entry(it.key).or_default() += 1;
                *state.shown.entry(it.key).or_default() += 1;
                state.lined.entry(it.key).or_default().push(it.id);
                state.total += 1;
            }
            Record::Receipt(it) => {
                let received = state.received.entry(it.to).or_default();
                *received = received.with(it.id);
                *state.tallied.entry(it.to % 5).or_default() += it.cents;
            }
        }
    }
    state.rounds = state.lined.iter().map(|(&key, ids)| (key, rounds_of(ids))).collect();
    state
}

/// Receipts in the depot that the ledger wrote.
pub(super) fn written_by_ledger(depots: &Depots) -> impl Iterator<Item = (u64, (u64, i64))> {
    depots.iter().filter_map(|(place, record)| match record {
        Record::Receipt(it) if place.kind == Kind::Receipts && it.id & BY_LEDGER != 0 => {
            Some((it.id, (it.to, it.cents)))
        }
        _ => None,
    })
}
