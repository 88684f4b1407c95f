//! The numbers under which a module's `PState`s are stored, which a [recompute](crate::recompute) replaces while
//! everything runs.
//!
//! All of a module's numbers are one [`Numbers`], replaced as a whole: whoever takes it sees all of the old ones or
//! all of the new ones, and what lies under them is not dropped as long as anybody holds it. So every request, pin
//! and microbatch takes it once, when it begins, and holds it to its end.
//!
//! A topology is *stopped* while it and its shadow stand at the same offsets and nothing of either happens:
//!
//! ```text
//!   (runs) ──stop──> Held ──begin_switch──> Switching ──end_switch──> (runs)
//!     ^               │                      only when it is known whether the catalogue has the new numbers
//!     '────release────'
//! ```
//!
//! It is a fact of the process and not of a shard: a coordinator that is recovered meanwhile stays where it is, too.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

use crate::error::{Error, Result};
use crate::types::{MicrobatchId, PStateId};

/// See the module.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Numbers {
    /// By place in the definition; behind them, the old ones of those that are being migrated.
    pub(crate) pstates: Vec<PStateId>,
    /// Of each topology by its place: what lies under these numbers is of this id at the earliest.
    pub(crate) since: Vec<MicrobatchId>,
}

/// The newest ones.
#[derive(Debug)]
pub(crate) struct Current(RwLock<Arc<Numbers>>);

impl Current {
    pub(crate) fn new(numbers: Numbers) -> Self {
        Self(RwLock::new(Arc::new(numbers)))
    }

    pub(crate) fn get(&self) -> Arc<Numbers> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Gives the place to others; answers with the old ones.
    pub(crate) fn replace(&self, numbers: Numbers) -> Arc<Numbers> {
        let mut current = self.0.write().unwrap_or_else(PoisonError::into_inner);
        std::mem::replace(&mut current, Arc::new(numbers))
    }
}

/// Which topologies are stopped, by place; see the module. `number` tells the one who stops from others before.
#[derive(Debug, Default)]
pub(crate) struct Stops(RwLock<BTreeMap<usize, Stop>>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stop {
    Held(u64),
    Switching(u64),
}

impl Stops {
    fn with<T>(&self, look: impl FnOnce(&mut BTreeMap<usize, Stop>) -> T) -> T {
        look(&mut self.0.write().unwrap_or_else(PoisonError::into_inner))
    }

    /// Before anything is asked to stop, so that who is recovered meanwhile stops, too.
    pub(crate) fn stop(&self, place: usize, number: u64) -> Result<()> {
        self.with(|stops| {
            if stops.contains_key(&place) {
                let what =
                    "an earlier recompute of it is not over: try again a moment later".to_owned();
                return Err(Error::Recompute { what });
            }
            stops.insert(place, Stop::Held(number));
            Ok(())
        })
    }

    /// Whether it may run now; not if it did not stop for `number`, or is being switched.
    pub(crate) fn release(&self, place: usize, number: u64) -> bool {
        self.with(|stops| {
            let is_held = stops.get(&place) == Some(&Stop::Held(number));
            if is_held {
                stops.remove(&place);
            }
            is_held
        })
    }

    /// From here on it is stopped until the outcome is known.
    pub(crate) fn begin_switch(&self, place: usize, number: u64) -> Result<()> {
        self.with(|stops| match stops.get_mut(&place) {
            Some(stop) if *stop == Stop::Held(number) => {
                *stop = Stop::Switching(number);
                Ok(())
            }
            _ => Err(took_too_long()),
        })
    }

    /// The outcome is known. Whether there was a switch under way.
    pub(crate) fn end_switch(&self, place: usize) -> bool {
        self.with(|stops| {
            let is_switching = matches!(stops.get(&place), Some(Stop::Switching(_)));
            if is_switching {
                stops.remove(&place);
            }
            is_switching
        })
    }

    /// For whom it is stopped, if not for a switch.
    pub(crate) fn held(&self, place: usize) -> Option<u64> {
        self.with(|stops| match stops.get(&place) {
            Some(Stop::Held(number)) => Some(*number),
            Some(Stop::Switching(_)) | None => None,
        })
    }

    pub(crate) fn is_stopped(&self, place: usize) -> bool {
        self.with(|stops| stops.contains_key(&place))
    }
}

/// What is said of a stop that was over before there was an outcome.
pub(crate) fn took_too_long() -> Error {
    let what = "the check took longer than `Options::recompute_pause_max`, so the topology went on without \
                waiting for it; nothing was switched, and what was recomputed goes on, too: raise that, and try again"
        .to_owned();
    Error::Recompute { what }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_being_switched_is_released_only_by_its_outcome() {
        let stops = Stops::default();
        stops.stop(1, 7).unwrap();
        assert!(stops.stop(1, 8).is_err());
        assert!(stops.is_stopped(1) && !stops.is_stopped(0));
        assert!(!stops.release(1, 6), "somebody else's");
        assert_eq!((stops.held(1), stops.held(0)), (Some(7), None));
        stops.begin_switch(1, 7).unwrap();
        assert_eq!(stops.held(1), None);
        assert!(!stops.release(1, 7));
        assert!(stops.is_stopped(1));
        assert!(stops.end_switch(1) && !stops.end_switch(1));
        assert!(!stops.is_stopped(1));

        stops.stop(1, 8).unwrap();
        assert!(stops.release(1, 8));
        assert!(stops.begin_switch(1, 8).is_err(), "it may have gone on");
    }
}
