//! How far a whole partition is durable when some of its entries have bytes outside the journal.

use std::collections::BTreeSet;

use crate::types::Index;

/// The highest index of a partition's sequence below which everything is durable in the journal and,
/// for bulk appends, in its extent too. Nothing above it is acknowledged or released.
#[derive(Clone, Debug, Default)]
pub struct Watermark {
    journal: Index,
    waiting: BTreeSet<Index>,
}

impl Watermark {
    /// Everything up to `durable` is.
    pub fn new(durable: Index) -> Self {
        Self { journal: durable, waiting: BTreeSet::new() }
    }

    /// Entry `index` is an `AppendBulk`; call before its journal write can be durable.
    pub fn extent(&mut self, index: Index) {
        assert!(index > self.journal, "an extent is announced before its entry is durable");
        self.waiting.insert(index);
    }

    /// The extent of entry `index` is written and synced.
    pub fn written(&mut self, index: Index) {
        self.waiting.remove(&index);
    }

    /// The journal has everything up to `index`.
    pub fn journal(&mut self, index: Index) {
        self.journal = self.journal.max(index);
    }

    /// Everything up to this index is durable in both places.
    pub fn durable(&self) -> Index {
        let waiting = self.waiting.first().map(|index| Index(index.0 - 1));
        waiting.map_or(self.journal, |below| below.min(self.journal))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_for_both_places_in_order() {
        let mut mark = Watermark::new(Index(3));
        mark.extent(Index(5));
        mark.extent(Index(7));
        mark.journal(Index(8));
        assert_eq!(mark.durable(), Index(4));
        mark.written(Index(7));
        assert_eq!(mark.durable(), Index(4));
        mark.written(Index(5));
        assert_eq!(mark.durable(), Index(8));
        mark.extent(Index(9));
        mark.written(Index(9));
        assert_eq!(mark.durable(), Index(8), "the extent alone is not enough");
    }
}
