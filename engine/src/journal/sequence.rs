//! One partition's entries, merged from everything that recovery found.
//!
//! Entries of a partition can lie in several journals (it moved between shards), twice in one (copied
//! forward), and, under replication, with several terms for one index. What holds does not depend on
//! the order in which they are found: an entry is dead if there is one of a higher term at its index
//! or a lower one, and the others are the sequence.

use std::collections::BTreeMap;

use super::Entry;
use crate::types::{Index, PartitionId, Term};

/// Merges the entries of one partition.
#[derive(Debug)]
pub struct Sequence {
    partition: PartitionId,
    /// Terms do not decrease with the index.
    entries: BTreeMap<Index, Entry>,
}

/// Why entries do not form a sequence.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SequenceError {
    /// One position, one term, two contents.
    #[error("partition {partition} has two different entries at index {index}, term {term}")]
    Conflict {
        /// The partition.
        partition: PartitionId,
        /// The index of both.
        index: Index,
        /// The term of both.
        term: Term,
    },
    /// Entries that must be there are not.
    #[error("partition {partition} lacks the entry at index {index}, though it has later ones")]
    Gap {
        /// The partition.
        partition: PartitionId,
        /// The first that is missing.
        index: Index,
    },
}

impl Sequence {
    /// An empty sequence.
    #[must_use]
    pub fn new(partition: PartitionId) -> Self {
        Self { partition, entries: BTreeMap::new() }
    }

    /// Adds an entry, wherever and in whatever order it was found.
    ///
    /// # Errors
    /// `Conflict`.
    ///
    /// # Panics
    /// If it belongs to another partition.
    pub fn insert(&mut self, entry: Entry) -> Result<(), SequenceError> {
        assert_eq!(entry.partition, self.partition);
        let (index, term) = (entry.index, entry.term);
        let before = self.entries.range(..=index).next_back();
        if let Some((_, before)) = before {
            if before.term > term {
                return Ok(());
            }
            if before.index == index && before.term == term {
                let same = before.kind == entry.kind && before.bytes == entry.bytes;
                let partition = self.partition;
                return if same {
                    Ok(())
                } else {
                    Err(SequenceError::Conflict { partition, index, term })
                };
            }
        }
        // A higher term cuts what lower ones had from here on; the lowest of them comes first.
        while let Some((&later, found)) = self.entries.range(index..).next()
            && found.term < term
        {
            self.entries.remove(&later);
        }
        self.entries.insert(index, entry);
        Ok(())
    }

    /// The entries found, in order of their indexes.
    pub fn iter(&self) -> impl Iterator<Item = &Entry> {
        self.entries.values()
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The entries above `covered`, which must be dense, and those at or below it in `pending`, which
    /// must be there: what has to be applied to a fold. In order of their indexes.
    ///
    /// # Errors
    /// `Gap`.
    pub fn above(mut self, covered: Index, pending: &[Index]) -> Result<Vec<Entry>, SequenceError> {
        let partition = self.partition;
        let gap = |index| SequenceError::Gap { partition, index };
        let above = self.entries.split_off(&Index(covered.0.saturating_add(1)));
        let mut kept = Vec::with_capacity(above.len() + pending.len());
        let mut pending = pending.to_vec();
        pending.sort_unstable();
        for index in pending.into_iter().filter(|index| *index <= covered) {
            kept.push(self.entries.remove(&index).ok_or_else(|| gap(index))?);
        }
        let mut expected = covered;
        for (index, entry) in above {
            expected = Index(expected.0 + 1);
            if index != expected {
                return Err(gap(expected));
            }
            kept.push(entry);
        }
        Ok(kept)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;

    use super::*;
    use crate::journal::Kind;

    fn entry(term: u64, index: u64) -> Entry {
        Entry {
            partition: PartitionId(0),
            term: Term(term),
            index: Index(index),
            kind: Kind::Append,
            bytes: Bytes::from(format!("{term}/{index}")),
        }
    }

    fn merged(entries: &[(u64, u64)]) -> Vec<(u64, u64)> {
        let mut sequence = Sequence::new(PartitionId(0));
        for &(term, index) in entries {
            sequence.insert(entry(term, index)).unwrap();
        }
        sequence.iter().map(|entry| (entry.term.0, entry.index.0)).collect()
    }

    #[test]
    fn the_highest_term_wins_and_cuts_the_rest() {
        let log = [(1, 1), (1, 2), (1, 3), (1, 4), (2, 2), (2, 3)];
        assert_eq!(merged(&log), [(1, 1), (2, 2), (2, 3)]);
        let copies_come_late = [(2, 2), (1, 3), (1, 1), (1, 4), (2, 3), (1, 2)];
        assert_eq!(merged(&copies_come_late), [(1, 1), (2, 2), (2, 3)]);
    }

    #[test]
    fn two_contents_for_one_place_are_a_conflict() {
        let mut sequence = Sequence::new(PartitionId(0));
        sequence.insert(entry(1, 1)).unwrap();
        sequence.insert(entry(1, 1)).unwrap();
        let other = Entry { bytes: Bytes::from_static(b"other"), ..entry(1, 1) };
        assert!(matches!(sequence.insert(other), Err(SequenceError::Conflict { .. })));
    }

    #[test]
    fn what_a_fold_lacks_is_dense_above_it() {
        let of = |indexes: &[u64]| {
            let mut sequence = Sequence::new(PartitionId(0));
            for &index in indexes {
                sequence.insert(entry(1, index)).unwrap();
            }
            sequence
        };
        let indexes = |result: Result<Vec<Entry>, SequenceError>| {
            result.map(|entries| entries.iter().map(|e| e.index.0).collect::<Vec<_>>())
        };
        let gap =
            |index| Err(SequenceError::Gap { partition: PartitionId(0), index: Index(index) });
        assert_eq!(indexes(of(&[2, 5, 6]).above(Index(4), &[])), Ok(vec![5, 6]));
        assert_eq!(indexes(of(&[2, 5, 6]).above(Index(4), &[Index(2)])), Ok(vec![2, 5, 6]));
        assert_eq!(indexes(of(&[2, 5, 6]).above(Index(4), &[Index(3)])), gap(3));
        assert_eq!(indexes(of(&[2, 5, 7]).above(Index(4), &[])), gap(6));
        assert_eq!(indexes(of(&[2, 5, 6]).above(Index(3), &[])), gap(4));
        assert_eq!(indexes(of(&[]).above(Index(3), &[])), Ok(vec![]));
    }

    proptest! {
        #[test]
        fn the_order_of_finding_does_not_matter(
            log in proptest::collection::vec((1_u64..4, 1_u64..8), 0..20),
            seed in any::<u64>(),
        ) {
            let mut shuffled = log.clone();
            for (at, state) in (1..shuffled.len()).zip(seed..) {
                let other = state.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 33;
                shuffled.swap(at, usize::try_from(other).unwrap() % (at + 1));
            }
            let dead = |&(term, index): &(u64, u64)| {
                log.iter().any(|&(other, at)| other > term && at <= index)
            };
            let mut expected: Vec<_> = log.iter().filter(|e| !dead(e)).copied().collect();
            expected.sort_by_key(|&(_, index)| index);
            expected.dedup();
            prop_assert_eq!(merged(&log), expected.clone());
            prop_assert_eq!(merged(&shuffled), expected);
        }
    }
}
