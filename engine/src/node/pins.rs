//! Who reads at which ids: what shards must be able to give back.
//!
//! One registry for the process, and no message: a shard that merges an id looks here first, and takes down
//! what the merge changes if somebody stands below it ([`crate::pstate`]).
//!
//! A reader pins what is visible, all topologies of a module at once. That no id is missed rests on the lock,
//! whose sections follow one another, and on the order of two steps on each side:
//!
//! ```text
//!   shard    V  note that id m is visible           client   under the lock:
//!            L  under the lock: read the pins                  R  read what is visible
//!            M  merge m, with an undo if a pin is below m      P  add the pin
//! ```
//!
//! If L comes before the client's section, V happens before R, since V precedes L on its shard and the lock
//! passes that on. So the client pins m or something above it, and needs no undo of m. Otherwise L comes after
//! P and sees the pin. The same holds for the shard that drops what no pin wants: a pin that it does not see
//! will be at least at every id that it has merged.
//!
//! A pin also ends the retention of what it alone wanted, at the next look of each shard. What a shard had to
//! drop although it was wanted (too much memory, a full disk, the end of the shard) it knows itself, and
//! refuses; nothing here has to be right for an answer to be right.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

use super::Installed;
use super::numbers::Numbers;
use crate::probe::{Plant, planted};
use crate::shard::Setup;
use crate::types::{MicrobatchId, TopologyId};

/// How many readers stand at each id.
#[derive(Debug, Default)]
pub(crate) struct Pins {
    held: RwLock<BTreeMap<(TopologyId, MicrobatchId), u64>>,
}

impl Pins {
    /// The ids of a topology that somebody reads at, ascending.
    pub(crate) fn of(&self, topology: TopologyId) -> Vec<MicrobatchId> {
        if planted(Plant::SnapshotReleasedWhileRead) {
            return Vec::new();
        }
        let held = self.held.read().unwrap_or_else(PoisonError::into_inner);
        let all = (topology, MicrobatchId(0))..=(topology, MicrobatchId(u64::MAX));
        held.range(all).map(|((_, id), _)| *id).collect()
    }
}

/// Holds one id of each topology of a module, while it lives.
#[derive(Debug)]
pub(crate) struct Pin {
    setup: Arc<Setup>,
    ids: Vec<(TopologyId, MicrobatchId)>,
    /// What is stored where at those ids.
    numbers: Arc<Numbers>,
}

impl Pin {
    /// Holds what is visible now.
    pub(crate) fn visible(setup: &Arc<Setup>, module: &Installed) -> Self {
        let mut held = setup.pins.held.write().unwrap_or_else(PoisonError::into_inner);
        let (ids, numbers) = module.visible_with_numbers();
        for place in &ids {
            *held.entry(*place).or_default() += 1;
        }
        Self { setup: Arc::clone(setup), ids, numbers }
    }

    /// The ids, in the order in which the module declares its topologies.
    pub(crate) fn ids(&self) -> &[(TopologyId, MicrobatchId)] {
        &self.ids
    }

    /// The numbers that the module's `PState`s had at these ids.
    pub(crate) fn numbers(&self) -> &Arc<Numbers> {
        &self.numbers
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        let mut held = self.setup.pins.held.write().unwrap_or_else(PoisonError::into_inner);
        for place in &self.ids {
            let count = held.get_mut(place).expect("a pin is counted until it is dropped");
            *count -= 1;
            if *count == 0 {
                held.remove(place);
            }
        }
    }
}
