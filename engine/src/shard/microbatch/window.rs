//! How much of its sources a microbatch may take, in bytes: the coordinator counts records and knows no
//! sizes. A shard tells it only of records within a window ahead of what was taken; the window moves when
//! a microbatch begins.

use super::Topology;
use crate::shard::Shard;
use crate::shard::partition::Depot;
use crate::types::Offset;
use tidemill_replication::two_phase::{Source, SourceOffset, participant};

use std::collections::BTreeMap;
use std::rc::Rc;

/// What of one source the coordinator may know of.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Window {
    /// Up to here, microbatches have begun or are visible.
    taken: Offset,
    /// Up to here, the coordinator was told.
    told: Offset,
    /// Bytes between the two, nearly.
    bytes: u64,
}

/// All windows of a topology on one shard together take no more, whatever the budget is: what a microbatch
/// writes on a shard must fit one group of its journal, and is a few times what it reads.
const SHARD_BYTES_MAX: u64 = 24 << 20;

/// A window smaller than this is not worth a microbatch.
const WINDOW_BYTES_MIN: u64 = 16 << 10;

/// The windows of a topology that begins there.
pub(super) fn beginning(starts: &BTreeMap<Source, Offset>) -> BTreeMap<Source, Window> {
    let at = |offset| Window { taken: offset, told: offset, bytes: 0 };
    starts.iter().map(|(&source, &offset)| (source, at(offset))).collect()
}

impl Shard {
    fn window_bytes(&self, topology: &Topology) -> u64 {
        let shards = u64::from(self.setup.shards);
        let share = (self.setup.options.memory_bytes / 8).min(SHARD_BYTES_MAX * shards);
        let sources = topology.definition().sources.len().max(1) as u64;
        (share / u64::from(self.setup.partitions) / sources).max(WINDOW_BYTES_MIN)
    }

    /// Tells the coordinator of durable records, as far as the windows go.
    pub(super) fn tell_source(
        self: &Rc<Self>,
        topology: &Rc<Topology>,
        sources: impl Iterator<Item = Source>,
    ) {
        let window_bytes = self.window_bytes(topology);
        let mut ends = Vec::new();
        for source in sources {
            let Some(depot) = self.source_depot(source) else { continue };
            let mut windows = topology.windows.borrow_mut();
            let window = windows.entry(source).or_default();
            let room = window_bytes.saturating_sub(window.bytes);
            if room == 0 {
                continue;
            }
            let (told, bytes) = depot.log.reach(window.told, room);
            if window.told < told {
                (window.told, window.bytes) = (told, window.bytes + bytes);
                ends.push(SourceOffset { source, offset: told });
            }
        }
        if !ends.is_empty() {
            self.participate(topology, participant::Input::SourceEnds(ends));
        }
    }

    /// Microbatches have begun up to here, or are visible: the windows move.
    pub(super) fn sources_taken(
        self: &Rc<Self>,
        topology: &Rc<Topology>,
        taken: impl Iterator<Item = SourceOffset> + Clone,
    ) {
        let own = |at: &SourceOffset| self.partitions.contains_key(&at.source.partition);
        for at in taken.clone().filter(own) {
            let mut windows = topology.windows.borrow_mut();
            windows.entry(at.source).or_default().take(at.offset);
        }
        self.tell_source(topology, taken.filter(own).map(|at| at.source));
    }

    fn source_depot(&self, source: Source) -> Option<Rc<Depot>> {
        self.partitions.get(&source.partition)?.known_depot(source.depot)
    }
}

impl Window {
    fn take(&mut self, upto: Offset) {
        if upto <= self.taken {
            return;
        }
        if self.told <= upto {
            *self = Self { taken: upto, told: upto, bytes: 0 };
            return;
        }
        // Of records that are about as large as each other.
        let (left, all) = (self.told.0 - upto.0, self.told.0 - self.taken.0);
        let bytes = u128::from(self.bytes) * u128::from(left) / u128::from(all);
        self.bytes = u64::try_from(bytes).expect("a part of a u64");
        self.taken = upto;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_taken_leaves_its_part_of_the_window() {
        let mut window = Window { taken: Offset(10), told: Offset(30), bytes: 2_000 };
        window.take(Offset(5));
        assert_eq!((window.taken, window.told, window.bytes), (Offset(10), Offset(30), 2_000));
        window.take(Offset(15));
        assert_eq!((window.taken, window.told, window.bytes), (Offset(15), Offset(30), 1_500));
        window.take(Offset(30));
        assert_eq!((window.taken, window.told, window.bytes), (Offset(30), Offset(30), 0));
        window.take(Offset(90));
        assert_eq!((window.taken, window.told, window.bytes), (Offset(90), Offset(90), 0));
    }
}
