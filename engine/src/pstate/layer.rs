//! Mutable layers of writes: a microbatch's write set, and the memtable.

use std::collections::BTreeMap;
use std::ops::Bound;

use super::points::{PointMap, TOGETHER};
use super::run::{Run, RunPart};
use super::small::Small;
use super::undo::Undo;
use crate::types::PStateId;

/// Writes by `PState`. Keys win over ranges: a range delete drops the keys that came before it.
#[derive(Debug, Default)]
pub(crate) struct Layer {
    pub(super) tables: BTreeMap<PStateId, Table>,
    bytes: u64,
}

impl Layer {
    pub(crate) fn put(&mut self, pstate: PStateId, key: &[u8], value: Option<&[u8]>) {
        self.tables.entry(pstate).or_default().put(key, value, &mut self.bytes);
    }

    pub(crate) fn delete_range(&mut self, pstate: PStateId, from: &[u8], to: Option<&[u8]>) {
        if to.is_some_and(|to| to <= from) {
            return;
        }
        let table = self.tables.entry(pstate).or_default();
        table.points.remove_range(from, to, |key, value| {
            self.bytes -= POINT_BYTES + key.heap_bytes() + value.map_or(0, Small::heap_bytes);
        });
        let before = table.ranges.bytes;
        table.ranges.insert(from, to);
        self.bytes = self.bytes + table.ranges.bytes - before;
    }

    /// Marks a range, and leaves the keys in it: they win over it.
    pub(super) fn cover(&mut self, pstate: PStateId, from: &[u8], to: Option<&[u8]>) {
        let ranges = &mut self.tables.entry(pstate).or_default().ranges;
        let before = ranges.bytes;
        ranges.insert(from, to);
        self.bytes = self.bytes + ranges.bytes - before;
    }

    /// Applies a run; `undo`, if somebody wants it, first learns what the layer says of everything that
    /// changes.
    pub(crate) fn apply(&mut self, run: &Run, mut undo: Option<&mut Undo>) {
        for (pstate, part) in run.parts() {
            for (from, to) in part.ranges() {
                if let Some(undo) = &mut undo {
                    undo.before_range(pstate, (from, to), self.tables.get(&pstate));
                }
                self.delete_range(pstate, from, to);
            }
            let table = self.tables.entry(pstate).or_default();
            let mut points = part.points((Bound::Unbounded, Bound::Unbounded));
            let (mut some, mut keys) = (Vec::with_capacity(TOGETHER), Vec::with_capacity(TOGETHER));
            loop {
                some.extend(points.by_ref().take(TOGETHER));
                if some.is_empty() {
                    break;
                }
                keys.extend(some.iter().map(|(key, _)| *key));
                table.points.expect(&keys);
                keys.clear();
                for (key, value) in some.drain(..) {
                    if let Some(undo) = &mut undo {
                        undo.before_point(pstate, key, table);
                    }
                    table.put(key, value, &mut self.bytes);
                }
            }
        }
    }

    /// Drops up to about `count` keys; whether there are more. The layer is no longer good for reads.
    pub(crate) fn drop_some(&mut self, count: usize) -> bool {
        let Some(mut table) = self.tables.first_entry() else { return false };
        if !table.get_mut().points.drop_some(count) {
            table.remove();
        }
        true
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.tables.is_empty()
    }
}

/// What a map entry costs beside the heap: two `Small`s and its share of a leaf.
pub(super) const POINT_BYTES: u64 = 64;

/// One `PState`'s writes in a layer.
#[derive(Debug, Default)]
pub(crate) struct Table {
    /// A value, or a deletion.
    pub(super) points: PointMap,
    pub(super) ranges: Ranges,
}

impl Table {
    /// What it says about a key; none if nothing.
    pub(super) fn lookup(&self, key: &[u8]) -> Option<Known<'_>> {
        self.points.get(key).or_else(|| self.ranges.covers(key).then_some(Known::Gone))
    }

    /// Sets a key, and counts in `bytes` what that takes.
    fn put(&mut self, key: &[u8], value: Option<&[u8]>, bytes: &mut u64) {
        *bytes += value.map_or(0, Small::heap_bytes_of);
        match self.points.insert(key, value) {
            Some(old) => *bytes -= old.as_ref().map_or(0, Small::heap_bytes),
            None => *bytes += POINT_BYTES + Small::heap_bytes_of(key),
        }
    }
}

/// Disjoint deleted ranges: start to end, none for no end. Neighbours that touch are one.
#[derive(Debug, Default)]
pub(crate) struct Ranges {
    map: BTreeMap<Small, Option<Small>>,
    bytes: u64,
}

impl Ranges {
    fn insert(&mut self, from: &[u8], to: Option<&[u8]>) {
        let mut from = Small::from(from);
        let mut to = to.map(Small::from);
        let mut before = self.map.range::<[u8], _>((Bound::Unbounded, Bound::Included(&*from)));
        if let Some((start, end)) = before.next_back()
            && end.as_ref().is_none_or(|end| *end >= from)
        {
            from = start.clone();
        }
        // Every range that starts within, or touches the end, is swallowed.
        let upper = to.as_deref().map_or(Bound::Unbounded, Bound::Included);
        let swallowed: Vec<Small> = self
            .map
            .range::<[u8], _>((Bound::Included(&*from), upper))
            .map(|(start, _)| start.clone())
            .collect();
        for start in swallowed {
            let end = self.map.remove(&*start).flatten();
            self.bytes -= Self::cost(&start, end.as_ref());
            to = match (to, end) {
                (Some(a), Some(b)) => Some(a.max(b)),
                _ => None,
            };
        }
        self.bytes += Self::cost(&from, to.as_ref());
        self.map.insert(from, to);
    }

    fn cost(from: &Small, to: Option<&Small>) -> u64 {
        POINT_BYTES + from.heap_bytes() + to.map_or(0, Small::heap_bytes)
    }

    pub(crate) fn covers(&self, key: &[u8]) -> bool {
        if self.map.is_empty() {
            return false;
        }
        let mut before = self.map.range::<[u8], _>((Bound::Unbounded, Bound::Included(key)));
        before.next_back().is_some_and(|(_, end)| end.as_deref().is_none_or(|end| key < end))
    }

    /// Whether one range covers all of `from..to`.
    pub(crate) fn covers_all(&self, from: &[u8], to: Option<&[u8]>) -> bool {
        let mut before = self.map.range::<[u8], _>((Bound::Unbounded, Bound::Included(from)));
        before.next_back().is_some_and(|(_, end)| match (end.as_deref(), to) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(end), Some(to)) => to <= end,
        })
    }

    /// Whether any range has a key in common with `from..to`.
    pub(crate) fn overlaps(&self, from: &[u8], to: Option<&[u8]>) -> bool {
        let upper = to.map_or(Bound::Unbounded, Bound::Excluded);
        if to.is_some_and(|to| to <= from) {
            return false;
        }
        self.covers(from)
            || self.map.range::<[u8], _>((Bound::Included(from), upper)).next().is_some()
    }

    /// The ranges from the one on that holds `from` or begins behind it, ascending.
    fn reaching<'a>(
        &'a self,
        from: &[u8],
    ) -> impl Iterator<Item = (&'a [u8], Option<&'a [u8]>)> + use<'a> {
        let mut before = self.map.range::<[u8], _>((Bound::Unbounded, Bound::Excluded(from)));
        let first = before.next_back();
        let first = first.filter(|(_, end)| end.as_deref().is_none_or(|end| from < end));
        let behind = self.map.range::<[u8], _>((Bound::Included(from), Bound::Unbounded));
        first.into_iter().chain(behind).map(|(start, end)| (&**start, end.as_deref()))
    }

    /// What these ranges and `from..to`, which is not empty, have in common, ascending.
    pub(super) fn within(&self, from: &[u8], to: Option<&[u8]>) -> Vec<(Small, Option<Small>)> {
        let upper = to.map_or(Bound::Unbounded, Bound::Excluded);
        let mut before = self.map.range::<[u8], _>((Bound::Unbounded, Bound::Excluded(from)));
        let first = before.next_back();
        let first = first.filter(|(_, end)| end.as_deref().is_none_or(|end| from < end));
        let inside = self.map.range::<[u8], _>((Bound::Included(from), upper));
        let clipped = first.into_iter().chain(inside).map(|(start, end)| {
            let start = if **start < *from { Small::from(from) } else { start.clone() };
            let end = match (end.as_deref(), to) {
                (Some(end), Some(to)) => Some(end.min(to)),
                (end, to) => end.or(to),
            };
            (start, end.map(Small::from))
        });
        clipped.collect()
    }

    /// The parts of `from..to`, which is not empty, that no range covers, ascending.
    pub(super) fn gaps(&self, from: &[u8], to: Option<&[u8]>) -> Vec<(Small, Option<Small>)> {
        let mut gaps = Vec::new();
        let mut at = Some(Small::from(from));
        for (start, end) in self.within(from, to) {
            let begin = at.expect("a range without an end is the last one");
            if begin < start {
                gaps.push((begin, Some(start)));
            }
            at = end;
        }
        // After a range without an end there is nothing, nor after one that ends where `from..to` does.
        if let Some(begin) = at
            && to.is_none_or(|to| *begin < *to)
        {
            gaps.push((begin, to.map(Small::from)));
        }
        gaps
    }

    pub(crate) fn iter(&self) -> impl ExactSizeIterator<Item = (&[u8], Option<&[u8]>)> {
        self.map.iter().map(|(from, to)| (&**from, to.as_deref()))
    }
}

/// One `PState`'s part of a layer, whatever kind of layer that is.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Part<'a> {
    Table(&'a Table),
    Run(RunPart<'a>),
    /// Keys and ranges of an undo that the memtable knew nothing of; see [`Undo`].
    Below(&'a Table),
}

/// What a layer that knows a key says about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Known<'a> {
    Value(&'a [u8]),
    Gone,
    /// What lies under the memtable counts, whatever the memtable says now. Only [`Part::Below`] says so.
    Below,
}

impl<'a> Known<'a> {
    pub(crate) fn value(self) -> Option<&'a [u8]> {
        match self {
            Self::Value(value) => Some(value),
            Self::Gone => None,
            Self::Below => unreachable!("whoever reads undos looks further"),
        }
    }
}

impl<'a> From<Option<&'a [u8]>> for Known<'a> {
    fn from(value: Option<&'a [u8]>) -> Self {
        value.map_or(Self::Gone, Self::Value)
    }
}

/// Points of a part in a range, in one direction; or its ranges, with their ends.
pub(crate) type Points<'a> = Box<dyn Iterator<Item = (&'a [u8], Option<&'a [u8]>)> + 'a>;

impl<'a> Part<'a> {
    /// What the layer says about a key; none if nothing.
    pub(crate) fn lookup(&self, key: &[u8]) -> Option<Known<'a>> {
        let point = match self {
            Self::Table(table) => table.points.get(key),
            Self::Run(run) => run.point(key),
            Self::Below(table) => return table.lookup(key).map(|_| Known::Below),
        };
        point.or_else(|| self.covers(key).then_some(Known::Gone))
    }

    /// Whether a range delete of this layer covers `key`.
    pub(crate) fn covers(&self, key: &[u8]) -> bool {
        match self {
            Self::Table(table) | Self::Below(table) => table.ranges.covers(key),
            Self::Run(run) => run.covers(key),
        }
    }

    /// The ranges that it deletes, ascending, from the one on that holds `from` or begins behind it.
    pub(super) fn ranges(&self, from: &'a [u8]) -> Points<'a> {
        match self {
            Self::Table(table) | Self::Below(table) => Box::new(table.ranges.reaching(from)),
            Self::Run(run) => {
                let ends_before = move |end: Option<&[u8]>| end.is_some_and(|end| end <= from);
                Box::new(run.ranges().skip_while(move |(_, end)| ends_before(*end)))
            }
        }
    }

    /// Its points in `range`, which must not be inverted.
    pub(crate) fn points(&self, range: (Bound<&[u8]>, Bound<&[u8]>), backward: bool) -> Points<'a> {
        match self {
            Self::Table(table) | Self::Below(table) => {
                let points = table.points.range(range);
                if backward { Box::new(points.rev()) } else { Box::new(points) }
            }
            Self::Run(run) => {
                let points = run.points(range);
                if backward { Box::new(points.rev()) } else { Box::new(points) }
            }
        }
    }
}
