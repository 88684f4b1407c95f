//! What one microbatch reads: its ranges less its exclusions, as one numbered list of records.

use super::super::{Exclusion, Origin, SourceOffset, SourceRange};
use crate::types::{Offset, ShardId};

/// Ranges and exclusions. Holds: ranges are sorted by source, one each, none empty; exclusions are
/// sorted by origin, each inside a range and there once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Plan {
    ranges: Vec<SourceRange>,
    exclusions: Vec<Exclusion>,
}

impl Plan {
    /// Sorts, and leaves out what is empty.
    pub(super) fn new(ranges: Vec<SourceRange>, exclusions: Vec<Exclusion>) -> Self {
        let mut plan = Self { ranges, exclusions: Vec::new() };
        plan.ranges.retain(|range| range.from < range.to);
        plan.ranges.sort_unstable();
        for exclusion in exclusions {
            if plan.reads(exclusion.origin) {
                plan.exclude(exclusion);
            }
        }
        plan
    }

    /// Adds an exclusion.
    pub(super) fn exclude(&mut self, exclusion: Exclusion) {
        assert!(self.reads(exclusion.origin), "only what is read can be excluded, and once");
        let place = self.exclusions.partition_point(|other| other.origin < exclusion.origin);
        self.exclusions.insert(place, exclusion);
    }

    pub(super) fn ranges(&self) -> &[SourceRange] {
        &self.ranges
    }

    pub(super) fn exclusions(&self) -> &[Exclusion] {
        &self.exclusions
    }

    /// Where the sources stand after this microbatch.
    pub(super) fn ends(&self) -> Vec<SourceOffset> {
        self.ranges
            .iter()
            .map(|range| SourceOffset { source: range.source, offset: range.to })
            .collect()
    }

    /// Whether the record is inside a range and not excluded.
    pub(super) fn reads(&self, origin: Origin) -> bool {
        self.ranges.iter().any(|range| contains(range, origin))
            && self.exclusions.iter().all(|exclusion| exclusion.origin != origin)
    }

    /// How many records are read.
    pub(super) fn records_count(&self) -> u64 {
        let lengths = self.ranges.iter().map(|range| range.to.0 - range.from.0);
        let listed = lengths.fold(0, u64::saturating_add);
        listed - u64::try_from(self.exclusions.len()).expect("a count of memory fits")
    }

    /// The record number `number` of those read, from 0, in the order of the ranges.
    pub(super) fn record(&self, number: u64) -> Option<Origin> {
        let mut left = number;
        for range in &self.ranges {
            for offset in range.from.0..range.to.0 {
                let origin = Origin { source: range.source, offset: Offset(offset) };
                if self.reads_in(origin) {
                    if left == 0 {
                        return Some(origin);
                    }
                    left -= 1;
                }
            }
        }
        None
    }

    /// The plan that reads only the first `count` records, with the exclusions among them.
    pub(super) fn prefix(&self, count: u64) -> Self {
        let Some(first_out) = self.record(count) else { return self.clone() };
        let ranges = self
            .ranges
            .iter()
            .filter(|range| range.source <= first_out.source)
            .map(|range| {
                let to = if range.source == first_out.source { first_out.offset } else { range.to };
                SourceRange { to, ..*range }
            })
            .collect();
        Self::new(ranges, self.exclusions.clone())
    }

    /// The plan that leaves these out, too, for a trial.
    pub(super) fn without(&self, origins: impl Iterator<Item = Origin>) -> Self {
        let mut plan = self.clone();
        plan.exclusions.extend(origins.map(|origin| Exclusion { origin, reason: String::new() }));
        plan.exclusions.sort_unstable();
        plan
    }

    /// The plan that reads about half as much: half of each range, or of the ranges where they have one
    /// record each. `None` if that would be nothing.
    pub(super) fn half(&self) -> Option<Self> {
        let halved: Vec<_> = self
            .ranges
            .iter()
            .map(|range| {
                let length = (range.to.0 - range.from.0).div_ceil(2);
                SourceRange { to: range.from.advance(length), ..*range }
            })
            .collect();
        if halved != self.ranges {
            return Some(Self::new(halved, self.exclusions.clone()));
        }
        let half = self.ranges.get(..self.ranges.len() / 2).filter(|half| !half.is_empty())?;
        Some(Self::new(half.to_vec(), self.exclusions.clone()))
    }

    /// How many records the longest range has.
    pub(super) fn range_len_max(&self) -> u64 {
        self.ranges.iter().map(|range| range.to.0 - range.from.0).max().unwrap_or(0)
    }

    /// The part whose sources lie on `shard`.
    pub(super) fn part(
        &self,
        shard: ShardId,
        owners: &[ShardId],
    ) -> (Vec<SourceRange>, Vec<Exclusion>) {
        let lies_there = |partition: crate::types::PartitionId| {
            owners.get(partition.0 as usize).is_some_and(|&owner| owner == shard)
        };
        let ranges = self.ranges.iter().filter(|range| lies_there(range.source.partition));
        let exclusions = self
            .exclusions
            .iter()
            .filter(|exclusion| lies_there(exclusion.origin.source.partition));
        (ranges.copied().collect(), exclusions.cloned().collect())
    }

    fn reads_in(&self, origin: Origin) -> bool {
        self.exclusions.binary_search_by_key(&origin, |exclusion| exclusion.origin).is_err()
    }
}

fn contains(range: &SourceRange, origin: Origin) -> bool {
    range.source == origin.source && range.from <= origin.offset && origin.offset < range.to
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::two_phase::Source;
    use crate::types::{DepotId, PartitionId};

    fn range(partition: u32, from: u64, to: u64) -> SourceRange {
        SourceRange { source: source(partition), from: Offset(from), to: Offset(to) }
    }

    fn source(partition: u32) -> Source {
        Source { depot: DepotId(1), partition: PartitionId(partition) }
    }

    fn exclusion(partition: u32, offset: u64) -> Exclusion {
        let origin = Origin { source: source(partition), offset: Offset(offset) };
        Exclusion { origin, reason: String::new() }
    }

    #[test]
    fn records_are_numbered_across_ranges_without_exclusions() {
        let plan = Plan::new(
            vec![range(3, 10, 12), range(0, 5, 8), range(1, 4, 4)],
            vec![exclusion(3, 10), exclusion(0, 6), exclusion(0, 9)],
        );
        assert_eq!(plan.ranges(), [range(0, 5, 8), range(3, 10, 12)]);
        assert_eq!(plan.exclusions(), [exclusion(0, 6), exclusion(3, 10)]);
        assert_eq!(plan.records_count(), 3);
        let listed: Vec<_> = (0..4)
            .map(|number| plan.record(number).map(|o| (o.source.partition.0, o.offset.0)))
            .collect();
        assert_eq!(listed, [Some((0, 5)), Some((0, 7)), Some((3, 11)), None]);
    }

    #[test]
    fn a_prefix_reads_exactly_the_first_records() {
        let plan = Plan::new(
            vec![range(0, 5, 8), range(1, 0, 3), range(3, 10, 12)],
            vec![exclusion(0, 6), exclusion(3, 10)],
        );
        for count in 0..=plan.records_count() + 1 {
            let prefix = plan.prefix(count);
            let expected = count.min(plan.records_count());
            assert_eq!(prefix.records_count(), expected, "prefix of {count}");
            for number in 0..expected {
                assert_eq!(prefix.record(number), plan.record(number));
            }
        }
    }

    #[test]
    fn halves_end_at_one_record() {
        let plan = Plan::new(vec![range(0, 5, 8), range(3, 10, 11)], vec![exclusion(0, 7)]);
        let half = plan.half().unwrap();
        assert_eq!(half.ranges(), [range(0, 5, 7), range(3, 10, 11)]);
        assert_eq!((half.exclusions().len(), half.range_len_max()), (0, 2));
        let quarter = half.half().unwrap();
        assert_eq!(quarter.ranges(), [range(0, 5, 6), range(3, 10, 11)]);
        let last = quarter.half().unwrap();
        assert_eq!(last.ranges(), [range(0, 5, 6)]);
        assert_eq!(last.half(), None);
    }

    #[test]
    fn parts_follow_the_owners() {
        let plan =
            Plan::new(vec![range(0, 5, 8), range(1, 0, 3)], vec![exclusion(0, 6), exclusion(1, 1)]);
        let owners = [ShardId(0), ShardId(1)];
        assert_eq!(plan.part(ShardId(1), &owners), (vec![range(1, 0, 3)], vec![exclusion(1, 1)]));
        assert_eq!(plan.part(ShardId(2), &owners), (vec![], vec![]));
    }
}
