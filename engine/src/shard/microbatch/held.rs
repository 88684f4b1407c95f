//! Changes of aggregations that wait on the shard where they arose, to be combined with later ones of the
//! same attempt: so that as few as possible travel.
//!
//! They are one piece of work, so that no attempt looks quiet while some wait, and count among its bytes.
//! They leave when nothing else is left to do here, which is once for an attempt whose changes come from
//! the records themselves; or when they take more than a quarter of what one shard may send another, so
//! that what leaves together needs no spill. Nobody waits for them to leave, so they hold nobody up.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::rc::Rc;

use super::{ROWS_MAX, Running, Topology};
use crate::probe::{Plant, planted};
use crate::shard::Shard;
use crate::topology::{Combined, NodeIndex};
use crate::types::PartitionId;

/// What waits in one attempt on one shard, for each node, from all of the shard's partitions.
#[derive(Default)]
pub(super) struct Held {
    changes: RefCell<BTreeMap<NodeIndex, Combined>>,
    bytes: Cell<u64>,
}

impl Held {
    /// Whether changes wait.
    pub(super) fn waits(&self) -> bool {
        !self.changes.borrow().is_empty()
    }

    /// The attempt is over.
    pub(super) fn clear(&self) {
        drop(self.changes.take());
    }
}

impl Shard {
    /// Changes that an event on `partition` made wait, with those that wait already.
    pub(in crate::shard) fn hold_changes(
        self: &Rc<Self>,
        topology: &Rc<Topology>,
        running: &Rc<Running>,
        partition: PartitionId,
        made: Vec<Combined>,
    ) {
        if made.is_empty() || running.failed.get() {
            return;
        }
        let held = &running.held;
        if !held.waits() {
            self.begin_piece(topology, running);
        }
        for changes in made {
            let mut waiting = held.changes.borrow_mut();
            match waiting.entry(changes.node) {
                Entry::Vacant(entry) => drop(entry.insert(changes)),
                Entry::Occupied(mut entry) => {
                    let name = &topology.definition().nodes[changes.node.0 as usize].name;
                    let merged = entry.get_mut().merge(changes, name, partition);
                    drop(waiting);
                    if let Err(failure) = merged {
                        return self.event_failed(topology, running, &failure);
                    }
                }
            }
        }
        let bytes = held.changes.borrow().values().map(|changes| changes.bytes() as u64).sum();
        let before = held.bytes.replace(bytes);
        self.count_bytes(topology, running, (running.bytes.get() + bytes).saturating_sub(before));
        if bytes > self.hop_bytes_max() / 4 {
            if planted(Plant::ChangesLostOverBound) {
                held.clear();
            }
            self.send_held(topology, running);
            self.end_pieces(topology, running, 1);
        }
    }

    /// Changes that wait leave: those for this shard are queued, the others go with the rows that do.
    pub(super) fn send_held(self: &Rc<Self>, topology: &Rc<Topology>, running: &Rc<Running>) {
        let mut outgoing = Vec::new();
        for changes in running.held.changes.take().into_values() {
            changes.send(self.setup.partitions, ROWS_MAX, &mut outgoing);
        }
        let bytes = running.held.bytes.take();
        self.count_bytes(topology, running, running.bytes.get().saturating_sub(bytes));
        self.send_rows(topology, running, outgoing);
    }
}
