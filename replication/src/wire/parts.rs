//! The parts that messages and records share: native to flatbuffers and back.

use flatbuffers::{FlatBufferBuilder, ForwardsUOffset, Vector, WIPOffset};

use super::generated::two_phase as fb;
use super::{EXCLUSIONS_MAX, Error, LIST_MAX};
use crate::two_phase::{
    AttemptId, Exclusion, Origin, REASON_BYTES_MAX, Source, SourceOffset, SourceRange,
};
use crate::types::{Attempt, DepotId, MicrobatchId, Offset, PartitionId, Run};

type List<'a, T> = WIPOffset<Vector<'a, T>>;

pub(super) fn attempt_to(attempt: AttemptId) -> fb::AttemptId {
    fb::AttemptId::new(attempt.id.0, attempt.run.0, attempt.attempt.0)
}

pub(super) fn attempt_from(attempt: &fb::AttemptId) -> AttemptId {
    AttemptId {
        id: MicrobatchId(attempt.id()),
        run: Run(attempt.run()),
        attempt: Attempt(attempt.attempt()),
    }
}

pub(super) fn origin_to(origin: Origin) -> fb::SourceOffset {
    fb::SourceOffset::new(origin.source.depot.0, origin.source.partition.0, origin.offset.0)
}

pub(super) fn origin_from(origin: &fb::SourceOffset) -> Origin {
    let SourceOffset { source, offset } = offset_from(origin);
    Origin { source, offset }
}

fn offset_from(offset: &fb::SourceOffset) -> SourceOffset {
    SourceOffset {
        source: source(offset.depot(), offset.partition()),
        offset: Offset(offset.offset()),
    }
}

fn source(depot: u32, partition: u32) -> Source {
    Source { depot: DepotId(depot), partition: PartitionId(partition) }
}

pub(super) fn offsets_to<'a>(
    fbb: &mut FlatBufferBuilder<'a>,
    offsets: &[SourceOffset],
) -> List<'a, fb::SourceOffset> {
    let stored = offsets.iter().map(|SourceOffset { source, offset }| {
        fb::SourceOffset::new(source.depot.0, source.partition.0, offset.0)
    });
    let stored: Vec<_> = stored.collect();
    fbb.create_vector(&stored)
}

/// Offsets in any order.
pub(super) fn offsets_from(
    stored: Vector<'_, fb::SourceOffset>,
    field: &'static str,
) -> Result<Vec<SourceOffset>, Error> {
    bounded(stored.len(), LIST_MAX, field)?;
    Ok(stored.iter().map(offset_from).collect())
}

/// Offsets with ascending sources.
pub(super) fn ascending_offsets_from(
    stored: Vector<'_, fb::SourceOffset>,
    field: &'static str,
) -> Result<Vec<SourceOffset>, Error> {
    let offsets = offsets_from(stored, field)?;
    ascending(&offsets, |offset| offset.source, field)?;
    Ok(offsets)
}

pub(super) fn ranges_to<'a>(
    fbb: &mut FlatBufferBuilder<'a>,
    ranges: &[SourceRange],
) -> List<'a, fb::SourceRange> {
    let stored = ranges.iter().map(|SourceRange { source, from, to }| {
        fb::SourceRange::new(source.depot.0, source.partition.0, from.0, to.0)
    });
    let stored: Vec<_> = stored.collect();
    fbb.create_vector(&stored)
}

/// Ranges with ascending sources, none of which runs backwards.
pub(super) fn ranges_from(stored: Vector<'_, fb::SourceRange>) -> Result<Vec<SourceRange>, Error> {
    bounded(stored.len(), LIST_MAX, "ranges")?;
    let ranges = stored.iter().map(|range| SourceRange {
        source: source(range.depot(), range.partition()),
        from: Offset(range.from()),
        to: Offset(range.to()),
    });
    let ranges: Vec<_> = ranges.collect();
    ascending(&ranges, |range| range.source, "ranges")?;
    if ranges.iter().any(|range| range.from > range.to) {
        return Err(Error::Field { field: "ranges" });
    }
    Ok(ranges)
}

pub(super) fn partitions_to<'a>(
    fbb: &mut FlatBufferBuilder<'a>,
    partitions: &[PartitionId],
) -> List<'a, u32> {
    let stored: Vec<_> = partitions.iter().map(|partition| partition.0).collect();
    fbb.create_vector(&stored)
}

/// Ascending partitions.
pub(super) fn partitions_from(stored: Vector<'_, u32>) -> Result<Vec<PartitionId>, Error> {
    bounded(stored.len(), LIST_MAX, "touched")?;
    let partitions: Vec<_> = stored.iter().map(PartitionId).collect();
    ascending(&partitions, |partition| *partition, "touched")?;
    Ok(partitions)
}

pub(super) fn attempts_to<'a>(
    fbb: &mut FlatBufferBuilder<'a>,
    attempts: &[AttemptId],
) -> List<'a, fb::AttemptId> {
    let stored: Vec<_> = attempts.iter().copied().map(attempt_to).collect();
    fbb.create_vector(&stored)
}

/// Ascending attempts.
pub(super) fn attempts_from(stored: Vector<'_, fb::AttemptId>) -> Result<Vec<AttemptId>, Error> {
    bounded(stored.len(), LIST_MAX, "attempts")?;
    let attempts: Vec<_> = stored.iter().map(attempt_from).collect();
    ascending(&attempts, |attempt| *attempt, "attempts")?;
    Ok(attempts)
}

pub(super) fn exclusions_to<'a>(
    fbb: &mut FlatBufferBuilder<'a>,
    exclusions: &[Exclusion],
) -> List<'a, ForwardsUOffset<fb::Exclusion<'a>>> {
    let mut stored = Vec::with_capacity(exclusions.len());
    for exclusion in exclusions {
        let reason = Some(fbb.create_string(&exclusion.reason));
        let origin = origin_to(exclusion.origin);
        let arguments = fb::ExclusionArgs { origin: Some(&origin), reason };
        stored.push(fb::Exclusion::create(fbb, &arguments));
    }
    fbb.create_vector(&stored)
}

/// Exclusions with ascending origins.
pub(super) fn exclusions_from<'a>(
    stored: Vector<'a, ForwardsUOffset<fb::Exclusion<'a>>>,
) -> Result<Vec<Exclusion>, Error> {
    bounded(stored.len(), EXCLUSIONS_MAX, "exclusions")?;
    let mut exclusions = Vec::with_capacity(stored.len());
    for exclusion in stored {
        let origin = origin_from(exclusion.origin());
        exclusions.push(Exclusion { origin, reason: reason_from(exclusion.reason())? });
    }
    ascending(&exclusions, |exclusion| exclusion.origin, "exclusions")?;
    Ok(exclusions)
}

pub(super) fn reason_from(reason: &str) -> Result<String, Error> {
    bounded(reason.len(), REASON_BYTES_MAX, "reason")?;
    Ok(reason.to_owned())
}

pub(super) fn bounded(length: usize, limit: usize, field: &'static str) -> Result<(), Error> {
    if length <= limit { Ok(()) } else { Err(Error::Field { field }) }
}

pub(super) fn ascending<T, K: Ord>(
    list: &[T],
    key: impl Fn(&T) -> K,
    field: &'static str,
) -> Result<(), Error> {
    if list.is_sorted_by(|a, b| key(a) < key(b)) { Ok(()) } else { Err(Error::Field { field }) }
}
