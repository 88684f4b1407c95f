//! What a fold brings into one tree: the frozen layers, seen as one.

use std::ops::Bound;

use super::layer::{Known, Part, Points, Table};

/// One `PState`'s writes over several layers, newest first.
pub(super) struct Changes<'a> {
    tables: Vec<&'a Table>,
}

impl<'a> Changes<'a> {
    pub(super) fn new(tables: Vec<&'a Table>) -> Self {
        Self { tables }
    }

    /// Whether anything in `from..to` changes; no `to` is no end.
    pub(super) fn touch(&self, from: &[u8], to: Option<&[u8]>) -> bool {
        let upper = to.map_or(Bound::Unbounded, Bound::Excluded);
        if to.is_some_and(|to| to <= from) {
            return false;
        }
        self.tables.iter().any(|table| {
            table.ranges.overlaps(from, to)
                || table.points.range((Bound::Included(from), upper)).next().is_some()
        })
    }

    /// Whether everything in `from..to` that is in the tree is deleted. May miss a range that is put
    /// together from several layers; then the leaves are simply read.
    pub(super) fn delete_all(&self, from: &[u8], to: Option<&[u8]>) -> bool {
        self.tables.iter().any(|table| table.ranges.covers_all(from, to))
    }

    /// Whether a range delete covers a key of the tree.
    pub(super) fn cover(&self, key: &[u8]) -> bool {
        self.tables.iter().any(|table| table.ranges.covers(key))
    }

    /// The keys written in `from..to`, ascending, each with its newest value.
    pub(super) fn points(&self, from: &[u8], to: Option<&[u8]>) -> Merged<'a> {
        let upper = to.map_or(Bound::Unbounded, Bound::Excluded);
        let sources = self
            .tables
            .iter()
            .map(|table| {
                let part = Part::Table(table);
                let empty = to.is_some_and(|to| to <= from);
                let mut points: Points<'a> = if empty {
                    Box::new(std::iter::empty())
                } else {
                    part.points((Bound::Included(from), upper), false)
                };
                let next = points.next();
                (part, points, next)
            })
            .collect();
        Merged { sources }
    }
}

type Point<'a> = (&'a [u8], Option<&'a [u8]>);

/// Iterates over the points of several layers as one.
pub(super) struct Merged<'a> {
    sources: Vec<(Part<'a>, Points<'a>, Option<Point<'a>>)>,
}

impl<'a> Merged<'a> {
    pub(super) fn peek_key(&self) -> Option<&'a [u8]> {
        self.sources.iter().filter_map(|(_, _, next)| next.map(|(key, _)| key)).min()
    }
}

impl<'a> Iterator for Merged<'a> {
    type Item = Point<'a>;

    fn next(&mut self) -> Option<Point<'a>> {
        let key = self.peek_key()?;
        let mut value = None;
        for (part, points, next) in &mut self.sources {
            let here = next.filter(|(found, _)| *found == key);
            if value.is_none() {
                // A range delete of a newer layer hides an older layer's value.
                value = match here {
                    Some((_, value)) => Some(Known::from(value)),
                    None => part.covers(key).then_some(Known::Gone),
                };
            }
            if here.is_some() {
                *next = points.next();
            }
        }
        Some((key, value.and_then(Known::value)))
    }
}
