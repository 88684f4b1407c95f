//! What keys were before some microbatches were merged into a memtable.
//!
//! An [`Undo`] belongs to one topology, one memtable, and neighbouring ids of that topology. It says of
//! every key that these ids touch what the memtable said of it before the first of them did:
//!
//! ```text
//!            a key                         a range that was deleted
//!   known    its value, or that it was gone   the parts that were deleted before
//!   below    the memtable said nothing        all of it: where nothing else is said, as for a key
//! ```
//!
//! Looked up in this order (keys of `known`, ranges of `known`, then `below`) the answer is exact:
//!
//! * Whoever comes first, stays: a key or a part of a range that the undo knows is not touched again, so
//!   what is there is from before the first id.
//! * A range of `known` holds no key of `below`. The memtable's ranges only grow. One that covered the key
//!   before its first write would have made it *gone*; one that came later was a write of these ids, and
//!   what was deleted before it, the undo had learned before.

use super::layer::{Known, Layer, Part, Table};
use super::small::Small;
use crate::types::{MicrobatchId, PStateId, Time};

/// See the module.
#[derive(Debug)]
pub(crate) struct Undo {
    /// The lowest and the highest id that it takes back; between them, none is left out that was merged.
    pub(super) first: MicrobatchId,
    pub(super) last: MicrobatchId,
    /// When the highest was merged: until then its result was what everybody read.
    pub(super) made: Time,
    known: Layer,
    below: Layer,
}

/// From a key up to, not including, another; none is no end.
type KeysFrom<'a> = (&'a [u8], Option<&'a [u8]>);

impl Undo {
    pub(super) fn new(id: MicrobatchId, made: Time) -> Self {
        let (known, below) = (Layer::default(), Layer::default());
        Self { first: id, last: id, made, known, below }
    }

    /// A key is about to be written in a memtable whose `table` is as it was.
    pub(super) fn before_point(&mut self, pstate: PStateId, key: &[u8], table: &Table) {
        let touched = self.below.tables.get(&pstate);
        if self.knows_point(pstate, key) || touched.is_some_and(|it| it.ranges.covers(key)) {
            return;
        }
        match table.lookup(key) {
            Some(known) => self.known.put(pstate, key, known.value()),
            None => self.below.put(pstate, key, None),
        }
    }

    /// A range is about to be deleted from a memtable whose `table`, if there is one, is as it was.
    pub(super) fn before_range(
        &mut self,
        pstate: PStateId,
        (from, to): KeysFrom<'_>,
        table: Option<&Table>,
    ) {
        assert!(to.is_none_or(|to| from < to), "runs hold no empty ranges");
        let touched = self.below.tables.get(&pstate);
        let fresh: Vec<(Small, Option<Small>)> = touched.map_or_else(
            || vec![(Small::from(from), to.map(Small::from))],
            |touched| touched.ranges.gaps(from, to),
        );
        for (from, to) in fresh {
            let (from, to) = (&*from, to.as_deref());
            if let Some(table) = table {
                let upper = to.map_or(std::ops::Bound::Unbounded, std::ops::Bound::Excluded);
                for (key, value) in table.points.range((std::ops::Bound::Included(from), upper)) {
                    if !self.knows_point(pstate, key) {
                        self.known.put(pstate, key, value);
                    }
                }
                for (from, to) in table.ranges.within(from, to) {
                    self.known.cover(pstate, &from, to.as_deref());
                }
            }
            self.below.cover(pstate, from, to);
        }
    }

    fn knows_point(&self, pstate: PStateId, key: &[u8]) -> bool {
        let has = |layer: &Layer| {
            layer.tables.get(&pstate).is_some_and(|table| table.points.get(key).is_some())
        };
        has(&self.known) || has(&self.below)
    }

    /// What it knows of a `PState`, in the order in which it is asked.
    pub(super) fn parts(&self, pstate: PStateId) -> impl Iterator<Item = Part<'_>> {
        let known = self.known.tables.get(&pstate).map(Part::Table);
        known.into_iter().chain(self.below.tables.get(&pstate).map(Part::Below))
    }

    /// What its ids wrote of a `PState`: keys, whatever is said of them, and ranges.
    pub(super) fn written(&self, pstate: PStateId) -> impl Iterator<Item = Part<'_>> {
        let layers = [&self.known, &self.below].into_iter();
        layers.filter_map(move |layer| layer.tables.get(&pstate)).map(Part::Table)
    }

    pub(super) fn bytes(&self) -> u64 {
        self.known.bytes() + self.below.bytes() + size_of::<Self>() as u64
    }

    /// What is to be dropped with it.
    pub(super) fn into_layers(self) -> [Layer; 2] {
        [self.known, self.below]
    }
}

/// What the layers say of a key, newest first; `under` is how many of them lie above what
/// [`Known::Below`] leads to.
pub(super) fn first_known<'a>(
    parts: &[Part<'a>],
    under: usize,
    mut ask: impl FnMut(usize, &Part<'a>) -> Option<Known<'a>>,
) -> Option<Known<'a>> {
    let mut asked = parts.iter().enumerate();
    match asked.find_map(|(nth, part)| ask(nth, part)) {
        Some(Known::Below) => {
            let mut asked = parts.iter().enumerate().skip(under);
            asked.find_map(|(nth, part)| ask(nth, part))
        }
        known => known,
    }
}
