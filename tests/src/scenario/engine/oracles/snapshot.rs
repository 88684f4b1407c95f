//! *snapshot*: all that is read in one snapshot is of one moment, over all partitions, however often it is read
//! and whatever goes on meanwhile: the money in it is what was paid in, to the cent. What lies in one
//! partition adds up with what lies in all. It is at or above what was seen before it was taken.

use std::collections::BTreeMap;

use tidemill::schema::Initial;

use super::super::history::{ChainOf, History};
use super::super::module::{Chain, Full, rounds_of};
use super::super::replay::State;
use crate::scenario::{Failure, check};

const NAME: &str = "snapshot";

/// How long each chain was when the snapshot was asked for, as far as somebody had seen it.
pub(in super::super) type Floors = BTreeMap<ChainOf, u64>;

/// Judges one reading of a snapshot, and compares it with the first one.
pub(in super::super) fn judge(
    history: &mut History,
    floors: &Floors,
    state: &State,
    first: Option<&State>,
) -> Result<(), Failure> {
    let (paid, total): (i64, i64) = (state.paid.values().sum(), state.funds.values().sum());
    check(NAME, paid == total, || format!("{paid} was paid in, {total} is there"))?;
    for (key, happened) in &state.happened {
        let counted = state.counted.get(key).map_or(0, |chain| chain.count);
        check(NAME, counted == *happened, || {
            format!("{happened} happened to {key}, and {counted} were counted")
        })?;
    }
    check(NAME, state.shown == state.happened, || {
        format!("{:?} happened, and {:?} went on", state.happened, state.shown)
    })?;
    for (key, chain) in &state.counted {
        let lined = state.lined.get(key).into_iter().flatten();
        let lined = lined.fold(Chain::default(), |chain, id| chain.with(*id));
        check(NAME, lined == *chain, || {
            format!(
                "{:?} of {key} are in its list, and {chain:?} were counted",
                state.lined.get(key)
            )
        })?;
        let rounds = rounds_of(state.lined.get(key).map_or(&[], |it| it));
        check(NAME, state.rounds.get(key) == Some(&rounds), || {
            format!(
                "the rounds of {key} are {:?}, and its list gives {rounds:?}",
                state.rounds.get(key)
            )
        })?;
    }
    let ids: BTreeMap<_, _> = state.amounts.iter().map(|(key, it)| (*key, it.keys())).collect();
    for (key, done) in &state.done {
        let amounts = ids.get(key).cloned().into_iter().flatten();
        check(NAME, done.iter().eq(amounts), || {
            format!(
                "{key} has sent {done:?}, and there are amounts of {:?}",
                state.amounts.get(key)
            )
        })?;
        for (id, line) in state.history.get(key).into_iter().flatten() {
            let amount = state.amounts.get(key).and_then(|it| it.get(id));
            check(NAME, amount == Some(&line.cents), || {
                format!("transfer {id} of {key} sent {}, and its amount is {amount:?}", line.cents)
            })?;
        }
    }
    let happened: u64 = state.happened.values().sum();
    check(NAME, happened == state.total, || {
        format!("{happened} happened, and {} were counted together", state.total)
    })?;
    let vault = Full::value() - paid;
    check(NAME, vault == state.vault, || {
        format!("{paid} was paid in, and the vault holds {} instead of {vault}", state.vault)
    })?;
    check(NAME, first.is_none_or(|first| first == state), || {
        let [was, is] = [format!("{first:?}"), format!("Some({state:?})")];
        let same = was.chars().zip(is.chars()).take_while(|(was, is)| was == is).count();
        let shown =
            |it: &str| -> String { it.chars().skip(same.saturating_sub(200)).take(300).collect() };
        let (was, is) = (shown(&was), shown(&is));
        format!(
            "what was read in a snapshot is not what was read in it before: ..{is}.. instead of ..{was}.."
        )
    })?;
    for (&of, &floor) in floors {
        let chains = match of {
            ChainOf::Sent(key) => state.sent.get(&key),
            ChainOf::Counted(key) => state.counted.get(&key),
            ChainOf::Received(_) => continue,
        };
        let chain = chains.copied().unwrap_or_default();
        history.see(of, floor, chain).map_err(|what| Failure::new(NAME, what))?;
    }
    Ok(())
}
