//! What partitions keep for readers of older ids: who wants what, and how much memory it may take.

use super::Shard;
use crate::pstate::Wanted;
use crate::types::TopologyId;

impl Shard {
    /// Which older ids of a topology are read, or may be, from now on.
    pub(super) fn wanted(&self) -> impl Fn(TopologyId) -> Wanted {
        let (now, window) = (self.env.now(), self.setup.options.history);
        let pins = &self.setup.pins;
        move |topology| Wanted { pins: pins.of(topology), window, now }
    }

    /// Lets go of what nobody wants any more.
    pub(super) fn trim_history(&self) {
        let wanted = self.wanted();
        for partition in self.partitions.values() {
            partition.store.trim_history(&wanted);
        }
    }

    /// Gives up the oldest history of the partition that has most, as long as all of it takes too much.
    pub(super) fn bound_history(&self) {
        let bytes_max = self.setup.options.history_bytes_of_shard();
        while self.history_bytes() > bytes_max {
            let largest = self.partitions.values().max_by_key(|it| it.store.history_bytes());
            let dropped = largest.is_some_and(|it| it.store.drop_oldest_history());
            assert!(dropped, "a sum above zero has a part above zero");
            self.counters.borrow_mut().history_drops += 1;
        }
    }

    pub(super) fn history_bytes(&self) -> u64 {
        self.partitions.values().map(|it| it.store.history_bytes()).sum()
    }
}
