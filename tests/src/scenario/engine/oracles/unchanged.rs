//! *unchanged*: what a client has read from a depot stays there, and what it has seen in a `PState` never
//! goes back, within a life of the engine and over crashes.

use super::super::history::{ChainOf, History};
use super::super::replay::{Depots, State};
use crate::scenario::{Failure, check};

const NAME: &str = "unchanged";

/// Judges what was just read from all depots, and remembers it.
pub(in super::super) fn depots(history: &mut History, depots: &Depots) -> Result<(), Failure> {
    for (place, &id) in &history.read {
        let found = depots.get(place).map(super::super::history::Record::id);
        check(NAME, found == Some(id), || {
            format!("record {id} was read at {place:?}; now {found:?} lies there")
        })?;
    }
    history.read = depots.iter().map(|(&place, record)| (place, record.id())).collect();
    Ok(())
}

/// Judges a state that was just read; nothing else was reading meanwhile.
pub(in super::super) fn state(history: &mut History, state: &State) -> Result<(), Failure> {
    let longest = history.longest.clone();
    for (of, floor) in longest {
        let (chains, key) = match of {
            ChainOf::Sent(key) => (&state.sent, key),
            ChainOf::Received(key) => (&state.received, key),
            ChainOf::Counted(key) => (&state.counted, key),
        };
        let chain = chains.get(&key).copied().unwrap_or_default();
        history.see(of, floor, chain).map_err(|what| Failure::new(NAME, what))?;
    }
    Ok(())
}

/// Judges one chain that a client read.
pub(in super::super) fn chain(
    history: &mut History,
    of: ChainOf,
    floor: u64,
    chain: super::super::module::Chain,
) -> Result<(), Failure> {
    history.see(of, floor, chain).map_err(|what| Failure::new(NAME, what))
}
