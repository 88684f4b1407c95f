//! Which files are still needed, and because of whom.
//!
//! Per file and partition, the journal knows the runs of indexes that lie there. An entry is needed
//! while it is above what its partition has covered, or an undecided prepare; and it is needed *in*
//! a file unless a later file holds a durable copy.

use std::collections::{BTreeMap, BTreeSet};

use super::group::ENTRY_HEADER_BYTES;
use super::{FileNumber, Ticket};
use crate::types::{Index, PartitionId};

#[derive(Debug, Default)]
pub(super) struct Retention {
    files: BTreeMap<FileNumber, BTreeMap<PartitionId, Vec<Span>>>,
    covered: BTreeMap<PartitionId, Covered>,
}

/// Adjacent indexes of one partition in one file.
#[derive(Clone, Copy, Debug)]
struct Span {
    first: u64,
    /// Inclusive.
    last: u64,
    bytes: u64,
    /// The last append that added to it.
    ticket: Ticket,
}

#[derive(Debug, Default)]
struct Covered {
    index: u64,
    pending: BTreeSet<u64>,
}

impl Retention {
    /// An entry of `len` bytes lies in (or starts in) `file`.
    pub(super) fn note(
        &mut self,
        file: FileNumber,
        partition: PartitionId,
        index: Index,
        len: usize,
        ticket: Ticket,
    ) {
        let bytes = (ENTRY_HEADER_BYTES + len) as u64;
        let spans = self.files.entry(file).or_default().entry(partition).or_default();
        match spans.last_mut() {
            Some(span) if span.last.checked_add(1) == Some(index.0) => {
                *span = Span { last: index.0, bytes: span.bytes + bytes, ticket, ..*span };
            }
            _ => spans.push(Span { first: index.0, last: index.0, bytes, ticket }),
        }
    }

    /// See [`super::Journal::covered`].
    pub(super) fn cover(&mut self, partition: PartitionId, index: Index, pending: &[Index]) {
        let pending = pending.iter().map(|index| index.0).collect();
        self.covered.insert(partition, Covered { index: index.0, pending });
    }

    /// Forgets the files before `first`.
    pub(super) fn drop_before(&mut self, first: FileNumber) {
        self.files = self.files.split_off(&first);
    }

    /// The partitions that need `file`, given that appends up to `durable` are durable.
    pub(super) fn holders(
        &self,
        file: FileNumber,
        durable: Ticket,
    ) -> impl Iterator<Item = PartitionId> {
        let held = self.files.get(&file).into_iter().flatten().filter(move |(partition, spans)| {
            spans.iter().any(|span| self.needs(file, **partition, span, durable))
        });
        held.map(|(partition, _)| *partition)
    }

    /// Whether `index` of `partition` is needed and `file` is the last that holds it.
    pub(super) fn needs_entry(
        &self,
        file: FileNumber,
        partition: PartitionId,
        index: Index,
        durable: Ticket,
    ) -> bool {
        let span = Span { first: index.0, last: index.0, bytes: 0, ticket: Ticket(0) };
        self.needs(file, partition, &span, durable)
    }

    /// Bytes of entries of `partition` that are needed, in all files. Within a run of indexes they
    /// count as equally large.
    pub(super) fn share(&self, partition: PartitionId) -> u64 {
        let nothing = Covered::default();
        let covered = self.covered.get(&partition).unwrap_or(&nothing);
        let spans = self.files.values().filter_map(|file| file.get(&partition)).flatten();
        spans
            .map(|span| {
                let above =
                    span.last.saturating_sub(covered.index.max(span.first.saturating_sub(1)));
                let below = covered.pending.range(span.first..);
                let below = below.take_while(|index| **index <= span.last.min(covered.index));
                let needed = above + below.count() as u64;
                let count = span.last - span.first + 1;
                let share = u128::from(span.bytes) * u128::from(needed) / u128::from(count);
                u64::try_from(share).unwrap_or(u64::MAX)
            })
            .sum()
    }

    fn needs(
        &self,
        file: FileNumber,
        partition: PartitionId,
        span: &Span,
        durable: Ticket,
    ) -> bool {
        let nothing = Covered::default();
        let covered = self.covered.get(&partition).unwrap_or(&nothing);
        let mut below = covered.pending.range(span.first..=span.last).peekable();
        if span.last <= covered.index && below.peek().is_none() {
            return false;
        }
        let mut copies: Vec<(u64, u64)> = self
            .files
            .range(FileNumber(file.0 + 1)..)
            .filter_map(|(_, partitions)| partitions.get(&partition))
            .flatten()
            .filter(|copy| copy.ticket <= durable)
            .filter(|copy| copy.first <= span.last && span.first <= copy.last)
            .map(|copy| (copy.first, copy.last))
            .collect();
        copies.sort_unstable();
        let copied =
            |index: u64| copies.iter().any(|&(first, last)| first <= index && index <= last);
        if below.any(|&index| !copied(index)) {
            return true;
        }
        // The first index above what is covered that no copy seen so far holds.
        let mut missing = span.first.max(covered.index.saturating_add(1));
        for (first, last) in copies {
            if first > missing {
                break;
            }
            missing = missing.max(last.saturating_add(1));
        }
        missing <= span.last && covered.index < span.last
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const P: PartitionId = PartitionId(3);
    const ALL: Ticket = Ticket(u64::MAX);

    fn with(entries: &[(u64, u64)]) -> Retention {
        let mut retention = Retention::default();
        for &(file, index) in entries {
            retention.note(FileNumber(file), P, Index(index), 100, Ticket(index));
        }
        retention
    }

    fn holders(retention: &Retention, file: u64, durable: Ticket) -> Vec<PartitionId> {
        retention.holders(FileNumber(file), durable).collect()
    }

    #[test]
    fn a_file_is_held_until_everything_in_it_is_covered() {
        let mut retention = with(&[(1, 1), (1, 2), (2, 3)]);
        for (covered, held) in [(0, true), (1, true), (2, false), (3, false)] {
            retention.cover(P, Index(covered), &[]);
            assert_eq!(holders(&retention, 1, ALL) == [P], held, "{covered}");
        }
        retention.cover(P, Index(2), &[]);
        assert_eq!(holders(&retention, 2, ALL), [P]);
        retention.cover(P, Index(u64::MAX), &[]);
        assert_eq!(holders(&retention, 2, ALL), []);
    }

    #[test]
    fn a_pending_prepare_holds_its_file_until_a_durable_copy_exists() {
        let mut retention = with(&[(1, 1), (1, 2), (1, 3), (2, 4)]);
        retention.cover(P, Index(4), &[Index(2)]);
        assert_eq!(holders(&retention, 1, ALL), [P]);
        assert!(retention.needs_entry(FileNumber(1), P, Index(2), ALL));
        assert!(!retention.needs_entry(FileNumber(1), P, Index(1), ALL));
        retention.note(FileNumber(2), P, Index(2), 100, Ticket(9));
        assert_eq!(holders(&retention, 1, Ticket(8)), [P]);
        assert_eq!(holders(&retention, 1, Ticket(9)), []);
        assert_eq!(holders(&retention, 2, ALL), [P]);
        retention.cover(P, Index(4), &[]);
        assert_eq!(holders(&retention, 2, ALL), []);
    }

    #[test]
    fn copies_must_leave_no_hole() {
        let mut retention = with(&[(1, 1), (1, 2), (1, 3), (1, 4)]);
        retention.cover(P, Index(1), &[]);
        for index in [2, 4] {
            retention.note(FileNumber(2), P, Index(index), 100, Ticket(9));
            assert_eq!(holders(&retention, 1, ALL), [P]);
        }
        retention.note(FileNumber(3), P, Index(3), 100, Ticket(9));
        assert_eq!(holders(&retention, 1, ALL), []);
    }

    #[test]
    fn share_counts_what_is_above_and_what_is_pending() {
        let mut retention = with(&[(1, 1), (1, 2), (1, 3), (2, 4)]);
        assert_eq!(retention.share(P), 4 * 128);
        retention.cover(P, Index(3), &[Index(2)]);
        assert_eq!(retention.share(P), 2 * 128);
        retention.drop_before(FileNumber(2));
        assert_eq!(retention.share(P), 128);
        assert_eq!(retention.share(PartitionId(0)), 0);
    }
}
