//! Runs of writes: what one attempt of one microbatch did to one partition.
//!
//! ```text
//! byte 0   u32 magic, u32 number of sections; sections ascend by PState
//! section  u32 PState, u32 number of range deletes, u32 number of points
//!   range  u16 length of from, u16 length of to (65,535: no end), from, to     disjoint, ascending
//!   point  u16 length of key, u32 length of value (2^32 - 1: deletion), key, value       ascending
//! ```
//!
//! Little-endian. The journal's frame carries the checksum; [`Run::decode`] checks the structure.

use std::ops::{Bound, Range};

use super::layer::{Known, Layer, Part};
use super::points::{head_of, search};
use super::{KEY_BYTES_MAX, VALUE_BYTES_MAX};
use crate::types::PStateId;

/// The writes of one attempt of one microbatch on one partition. Blind: it reads nothing.
#[derive(Debug, Default)]
pub struct WriteSet {
    layer: Layer,
}

impl WriteSet {
    /// Sets a key. Needs `key` and `value` within [`KEY_BYTES_MAX`] and [`VALUE_BYTES_MAX`].
    pub fn put(&mut self, pstate: PStateId, key: &[u8], value: &[u8]) {
        assert!(key.len() <= KEY_BYTES_MAX, "the typed layer refuses longer keys");
        assert!(value.len() <= VALUE_BYTES_MAX, "the typed layer refuses larger values");
        self.layer.put(pstate, key, Some(value));
    }

    /// Deletes a key, whether it exists or not.
    pub fn delete(&mut self, pstate: PStateId, key: &[u8]) {
        assert!(key.len() <= KEY_BYTES_MAX, "the typed layer refuses longer keys");
        self.layer.put(pstate, key, None);
    }

    /// Deletes every key in `from..to`; without `to`, every key at or above `from`. An end may be one
    /// byte longer than a key, so that it can lie just above one.
    pub fn delete_range(&mut self, pstate: PStateId, from: &[u8], to: Option<&[u8]>) {
        assert!(from.len() <= KEY_BYTES_MAX + 1, "the typed layer refuses longer keys");
        assert!(to.is_none_or(|to| to.len() <= KEY_BYTES_MAX + 1), "as above");
        self.layer.delete_range(pstate, from, to);
    }

    /// About how much memory it takes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.layer.bytes()
    }

    /// Whether nothing was written.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.layer.is_empty()
    }

    /// Makes it immutable.
    #[must_use]
    pub fn seal(self) -> Run {
        let points = self.layer.tables.values().map(|table| table.points.len()).sum();
        let mut run = Run {
            // An entry is counted with more than its key, its value and their lengths take.
            bytes: Vec::with_capacity(usize::try_from(self.bytes()).unwrap_or(0) + 64),
            sections: Vec::with_capacity(self.layer.tables.len()),
            ranges: Vec::new(),
            points: Vec::with_capacity(points),
            heads: Vec::with_capacity(points),
        };
        run.bytes.extend_from_slice(&MAGIC.to_le_bytes());
        run.bytes.extend_from_slice(&count(self.layer.tables.len()).to_le_bytes());
        for (pstate, table) in &self.layer.tables {
            let ranges = table.ranges.iter();
            run.bytes.extend_from_slice(&pstate.0.to_le_bytes());
            run.bytes.extend_from_slice(&count(ranges.len()).to_le_bytes());
            run.bytes.extend_from_slice(&count(table.points.len()).to_le_bytes());
            let (range_first, point_first) = (run.ranges.len(), run.points.len());
            for (from, to) in ranges {
                run.add_range(from, to);
            }
            for (key, value) in table.points.iter() {
                run.add_point(key, value);
            }
            run.sections.push(Section {
                pstate: *pstate,
                ranges: range_first..run.ranges.len(),
                points: point_first..run.points.len(),
            });
        }
        debug_assert!(Run::decode(&run.bytes).is_ok_and(|decoded| decoded == run));
        run
    }

    pub(super) fn part(&self, pstate: PStateId) -> Option<Part<'_>> {
        self.layer.tables.get(&pstate).map(Part::Table)
    }
}

fn count(len: usize) -> u32 {
    u32::try_from(len).expect("a run is below 4 GiB")
}

fn short(len: usize) -> u16 {
    u16::try_from(len).expect("keys were checked when written")
}

/// "RUN1".
const MAGIC: u32 = 0x314e_5552;
const NO_END: u16 = u16::MAX;
const DELETED: u32 = u32::MAX;

/// An immutable run of writes, sorted by `PState` and key: what a prepare carries.
#[derive(PartialEq, Eq)]
pub struct Run {
    bytes: Vec<u8>,
    sections: Vec<Section>,
    ranges: Vec<RangeAt>,
    points: Vec<PointAt>,
    /// The head of each point's key, for searches.
    heads: Vec<u64>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Section {
    pstate: PStateId,
    ranges: Range<usize>,
    points: Range<usize>,
}

/// Where a range lies in the bytes; `to_len` is none without an end.
#[derive(Clone, Copy, PartialEq, Eq)]
struct RangeAt {
    at: u32,
    from_len: u16,
    to_len: Option<u16>,
}

/// Where a point lies in the bytes; `value_len` is none for a deletion.
#[derive(Clone, Copy, PartialEq, Eq)]
struct PointAt {
    at: u32,
    key_len: u16,
    value_len: Option<u32>,
}

/// Why bytes are not a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a run of writes: {what} at byte {at}")]
pub struct RunError {
    /// What does not hold.
    pub what: &'static str,
    /// Where, from the start of the run.
    pub at: usize,
}

/// One write of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Write<'a> {
    /// Every key from `from` up to, not including, `to` is gone. Comes before the `PState`'s keys.
    DeleteRange {
        /// Whose.
        pstate: PStateId,
        /// First key.
        from: &'a [u8],
        /// End; none: no end.
        to: Option<&'a [u8]>,
    },
    /// A key has a value.
    Put {
        /// Whose.
        pstate: PStateId,
        /// The key.
        key: &'a [u8],
        /// The value.
        value: &'a [u8],
    },
    /// A key is gone.
    Delete {
        /// Whose.
        pstate: PStateId,
        /// The key.
        key: &'a [u8],
    },
}

impl Run {
    /// Reads what [`Run::encode`] wrote; all of `bytes` must be it.
    ///
    /// # Errors
    /// What is wrong with the bytes, and where.
    pub fn decode(bytes: &[u8]) -> Result<Self, RunError> {
        Self::parse(bytes.to_vec())
    }

    /// Appends the run's bytes to `out`; exactly [`Run::encoded_bytes`] many.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.bytes);
    }

    /// How many bytes [`Run::encode`] appends.
    #[must_use]
    pub fn encoded_bytes(&self) -> usize {
        self.bytes.len()
    }

    /// Its writes: by `PState`, in each first the range deletes, then the keys, both ascending.
    pub fn iter(&self) -> impl Iterator<Item = Write<'_>> {
        self.parts().flat_map(|(pstate, part)| {
            let ranges =
                part.ranges().map(move |(from, to)| Write::DeleteRange { pstate, from, to });
            let points = part.points((Bound::Unbounded, Bound::Unbounded));
            ranges.chain(points.map(move |(key, value)| match value {
                Some(value) => Write::Put { pstate, key, value },
                None => Write::Delete { pstate, key },
            }))
        })
    }

    /// A bug that can be planted, see [`Plant`](crate::probe::Plant): without the heads of collections that
    /// have other rows here. Their keys are what those rows' keys begin with, which holds of no other row of a
    /// module.
    pub(crate) fn without_heads(&self) -> Self {
        let mut kept = WriteSet::default();
        let mut writes = self.iter().peekable();
        while let Some(write) = writes.next() {
            match write {
                Write::Put { pstate, key, value } => {
                    let is_head = matches!(
                        writes.peek(),
                        Some(Write::Put { pstate: of, key: next, .. } | Write::Delete { pstate: of, key: next })
                            if *of == pstate && next.starts_with(key)
                    );
                    if !is_head || pstate == PStateId(0) {
                        kept.put(pstate, key, value);
                    }
                }
                Write::Delete { pstate, key } => kept.delete(pstate, key),
                Write::DeleteRange { pstate, from, to } => kept.delete_range(pstate, from, to),
            }
        }
        kept.seal()
    }

    /// Its parts, ascending by `PState`.
    pub(crate) fn parts(&self) -> impl Iterator<Item = (PStateId, RunPart<'_>)> {
        self.sections.iter().map(|section| (section.pstate, RunPart { run: self, section }))
    }

    /// Whether it holds no write.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.sections.is_empty()
    }

    /// About how much memory it takes.
    #[must_use]
    pub fn memory_bytes(&self) -> u64 {
        let index = self.points.len() * (size_of::<PointAt>() + size_of::<u64>())
            + self.ranges.len() * size_of::<RangeAt>()
            + self.sections.len() * size_of::<Section>();
        (self.bytes.capacity() + index) as u64
    }

    fn parse(bytes: Vec<u8>) -> Result<Self, RunError> {
        let mut reader = Reader { bytes: &bytes, at: 0 };
        if u32::try_from(bytes.len()).is_err() {
            return Err(reader.error("longer than 4 GiB"));
        }
        if reader.u32()? != MAGIC {
            return Err(RunError { what: "wrong magic", at: 0 });
        }
        let section_count = reader.u32()?;
        let mut sections: Vec<Section> = Vec::new();
        let mut ranges = Vec::new();
        let mut points = Vec::new();
        let mut heads = Vec::new();
        for _ in 0..section_count {
            let pstate = PStateId(reader.u32()?);
            if sections.last().is_some_and(|last| last.pstate >= pstate) {
                return Err(reader.error("sections do not ascend"));
            }
            let (range_count, point_count) = (reader.u32()?, reader.u32()?);
            let (range_first, point_first) = (ranges.len(), points.len());
            reader.ranges(range_count, &mut ranges)?;
            reader.points(point_count, &mut points, &mut heads)?;
            sections.push(Section {
                pstate,
                ranges: range_first..ranges.len(),
                points: point_first..points.len(),
            });
        }
        if reader.at != bytes.len() {
            return Err(reader.error("bytes after the end"));
        }
        Ok(Self { bytes, sections, ranges, points, heads })
    }

    pub(super) fn part(&self, pstate: PStateId) -> Option<Part<'_>> {
        let found = self.sections.binary_search_by_key(&pstate, |section| section.pstate).ok()?;
        Some(Part::Run(RunPart { run: self, section: &self.sections[found] }))
    }

    fn add_range(&mut self, from: &[u8], to: Option<&[u8]>) {
        let (from_len, to_len) = (short(from.len()), to.map(|to| short(to.len())));
        self.bytes.extend_from_slice(&from_len.to_le_bytes());
        self.bytes.extend_from_slice(&to_len.unwrap_or(NO_END).to_le_bytes());
        self.ranges.push(RangeAt { at: count(self.bytes.len()), from_len, to_len });
        self.bytes.extend_from_slice(from);
        self.bytes.extend_from_slice(to.unwrap_or_default());
    }

    fn add_point(&mut self, key: &[u8], value: Option<&[u8]>) {
        let (key_len, value_len) = (short(key.len()), value.map(|value| count(value.len())));
        self.bytes.extend_from_slice(&key_len.to_le_bytes());
        self.bytes.extend_from_slice(&value_len.unwrap_or(DELETED).to_le_bytes());
        self.points.push(PointAt { at: count(self.bytes.len()), key_len, value_len });
        self.heads.push(head_of(key));
        self.bytes.extend_from_slice(key);
        self.bytes.extend_from_slice(value.unwrap_or_default());
    }

    fn range(&self, range: &RangeAt) -> (&[u8], Option<&[u8]>) {
        let at = range.at as usize;
        let mid = at + usize::from(range.from_len);
        (&self.bytes[at..mid], range.to_len.map(|len| &self.bytes[mid..mid + usize::from(len)]))
    }

    fn key(&self, point: &PointAt) -> &[u8] {
        let at = point.at as usize;
        &self.bytes[at..at + usize::from(point.key_len)]
    }

    fn value(&self, point: &PointAt) -> Option<&[u8]> {
        let at = point.at as usize + usize::from(point.key_len);
        point.value_len.map(|len| &self.bytes[at..at + len as usize])
    }
}

impl std::fmt::Debug for Run {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Run")
            .field("bytes", &self.bytes.len())
            .field("points", &self.points.len())
            .field("ranges", &self.ranges.len())
            .finish_non_exhaustive()
    }
}

/// One `PState`'s part of a run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RunPart<'a> {
    run: &'a Run,
    section: &'a Section,
}

impl<'a> RunPart<'a> {
    pub(super) fn point(&self, key: &[u8]) -> Option<Known<'a>> {
        let points = &self.run.points[self.section.points.clone()];
        let heads = &self.run.heads[self.section.points.clone()];
        let found = search(heads, head_of(key), key, |nth| self.run.key(&points[nth])).ok()?;
        Some(self.run.value(&points[found]).into())
    }

    pub(crate) fn ranges(self) -> impl Iterator<Item = (&'a [u8], Option<&'a [u8]>)> + 'a {
        let run = self.run;
        run.ranges[self.section.ranges.clone()].iter().map(|range| run.range(range))
    }

    /// The ranges that reach into one, each cut to it.
    pub(crate) fn ranges_within(
        self,
        from: &'a [u8],
        to: Option<&'a [u8]>,
    ) -> impl Iterator<Item = (&'a [u8], Option<&'a [u8]>)> + 'a {
        let run = self.run;
        let ranges = &run.ranges[self.section.ranges.clone()];
        let first =
            ranges.partition_point(|range| run.range(range).1.is_some_and(|end| end <= from));
        let reaching = ranges[first..].iter().map(|range| run.range(range));
        reaching.take_while(move |(start, _)| to.is_none_or(|to| *start.max(&from) < to)).map(
            move |(start, end)| {
                let end = match (end, to) {
                    (Some(end), Some(to)) => Some(end.min(to)),
                    (end, to) => end.or(to),
                };
                (start.max(from), end)
            },
        )
    }

    /// The value that it gives a key, if it does.
    pub(crate) fn value(&self, key: &[u8]) -> Option<&'a [u8]> {
        self.points((Bound::Included(key), Bound::Included(key)))
            .next()
            .and_then(|(_, value)| value)
    }

    pub(super) fn covers(&self, key: &[u8]) -> bool {
        let ranges = &self.run.ranges[self.section.ranges.clone()];
        let after = ranges.partition_point(|range| self.run.range(range).0 <= key);
        let before = after.checked_sub(1).map(|last| self.run.range(&ranges[last]));
        before.is_some_and(|(_, to)| to.is_none_or(|to| key < to))
    }

    /// The keys of its points, in order.
    pub(crate) fn keys(self) -> impl Iterator<Item = &'a [u8]> {
        let run = self.run;
        run.points[self.section.points.clone()].iter().map(|point| run.key(point))
    }

    pub(crate) fn points(
        self,
        (from, to): (Bound<&[u8]>, Bound<&[u8]>),
    ) -> impl DoubleEndedIterator<Item = (&'a [u8], Option<&'a [u8]>)> + 'a {
        let run = self.run;
        let points = &run.points[self.section.points.clone()];
        let first = match from {
            Bound::Unbounded => 0,
            Bound::Included(from) => points.partition_point(|point| run.key(point) < from),
            Bound::Excluded(from) => points.partition_point(|point| run.key(point) <= from),
        };
        let end = match to {
            Bound::Unbounded => points.len(),
            Bound::Included(to) => points.partition_point(|point| run.key(point) <= to),
            Bound::Excluded(to) => points.partition_point(|point| run.key(point) < to),
        };
        points[first..end.max(first)].iter().map(move |point| (run.key(point), run.value(point)))
    }
}

/// Takes fields off the front of untrusted bytes.
struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn error(&self, what: &'static str) -> RunError {
        RunError { what, at: self.at }
    }

    fn take(&mut self, len: usize) -> Result<&'a [u8], RunError> {
        let end = self.at.checked_add(len);
        let taken = end.and_then(|end| self.bytes.get(self.at..end));
        let taken = taken.ok_or(self.error("ends too early"))?;
        self.at += len;
        Ok(taken)
    }

    fn u16(&mut self) -> Result<u16, RunError> {
        let taken = self.take(2)?;
        Ok(u16::from_le_bytes(taken.try_into().expect("two bytes were taken")))
    }

    fn u32(&mut self) -> Result<u32, RunError> {
        let taken = self.take(4)?;
        Ok(u32::from_le_bytes(taken.try_into().expect("four bytes were taken")))
    }

    fn here(&self) -> u32 {
        u32::try_from(self.at).expect("the length was checked first")
    }

    fn ranges(&mut self, count: u32, out: &mut Vec<RangeAt>) -> Result<(), RunError> {
        let mut last_end: Option<&[u8]> = None;
        for nth in 0..count {
            let from_len = self.u16()?;
            let to_len = Some(self.u16()?).filter(|&len| len != NO_END);
            let at = self.here();
            let from = self.take(usize::from(from_len))?;
            let to = to_len.map(|len| self.take(usize::from(len))).transpose()?;
            if from.len() > KEY_BYTES_MAX + 1 || to.is_some_and(|to| to.len() > KEY_BYTES_MAX + 1) {
                return Err(self.error("an end of a range is too long"));
            }
            if to.is_some_and(|to| to <= from) {
                return Err(self.error("an empty range"));
            }
            if nth > 0 && last_end.is_none_or(|end| from <= end) {
                return Err(self.error("ranges overlap or do not ascend"));
            }
            last_end = to;
            out.push(RangeAt { at, from_len, to_len });
        }
        Ok(())
    }

    fn points(
        &mut self,
        count: u32,
        out: &mut Vec<PointAt>,
        heads: &mut Vec<u64>,
    ) -> Result<(), RunError> {
        let mut last_key: Option<&[u8]> = None;
        for _ in 0..count {
            let key_len = self.u16()?;
            let value_len = Some(self.u32()?).filter(|&len| len != DELETED);
            let at = self.here();
            let key = self.take(usize::from(key_len))?;
            let value_bytes = value_len.unwrap_or(0) as usize;
            if key.len() > KEY_BYTES_MAX {
                return Err(self.error("a key is too long"));
            }
            if value_bytes > VALUE_BYTES_MAX {
                return Err(self.error("a value is too large"));
            }
            self.take(value_bytes)?;
            if last_key.is_some_and(|last| last >= key) {
                return Err(self.error("keys do not ascend"));
            }
            last_key = Some(key);
            out.push(PointAt { at, key_len, value_len });
            heads.push(head_of(key));
        }
        Ok(())
    }
}
