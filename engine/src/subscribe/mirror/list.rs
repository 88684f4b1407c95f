//! The elements of a list, by index. Rows of a list have labels that ascend as the elements do
//! (`schema/list.rs`); the mirror keeps them beside the elements, so a written row is found by bisection.
//!
//! Sometimes a list labels some of its elements anew, which removes and adds rows and changes nothing. To tell
//! that from a change, the mirror keeps a hash of each element's bytes, of 128 bits so that two that differ do
//! not share one.

use std::fmt;
use std::ops::{Bound, Range};

use xxhash_rust::xxh3::xxh3_128;

use super::{Mirror, Result, Write};
use crate::codec::{Error, FieldTable, decode};
use crate::schema::Data;
use crate::schema::list::{KeyPart, key_part};

/// The elements of a list.
#[derive(Clone)]
pub struct Items<T> {
    items: Vec<T>,
    /// Of each element.
    rows: Vec<Row>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Row {
    label: u128,
    hash: u128,
}

/// One change of a list. Several of one microbatch are told from the front to the end, each with the index that
/// counts once those before it are done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListDiff<T> {
    /// Elements were added at the end.
    Appended(Vec<T>),
    /// In place of some elements, which may be none, others were put, which may be none.
    Spliced {
        /// Where they begin.
        at: usize,
        /// What was there.
        removed: Vec<T>,
        /// What is there instead.
        inserted: Vec<T>,
    },
}

impl<T: PartialEq> PartialEq for Items<T> {
    /// Where the rows lie is no part of the value.
    fn eq(&self, other: &Self) -> bool {
        self.items == other.items
    }
}

impl<T: Eq> Eq for Items<T> {}

impl<T: fmt::Debug> fmt::Debug for Items<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(&self.items).finish()
    }
}

/// Elements that go, by their old indexes, and those that come instead, in order.
#[derive(Debug)]
pub struct Splice<'a> {
    old: Range<usize>,
    new: Vec<(Row, &'a [u8])>,
}

impl<T> Items<T> {
    pub(super) fn new() -> Self {
        Self { items: Vec::new(), rows: Vec::new() }
    }

    /// What the writes replace, from the front to the end; between two of them lies what stays.
    fn splices<'a>(&self, writes: &[Write<'a>]) -> Result<Vec<Splice<'a>>> {
        let mut splices: Vec<Splice<'a>> = Vec::with_capacity(writes.len());
        for write in writes {
            let (old, new) = match *write {
                Write::GoneRange(from, to) => (self.within(from, to), Vec::new()),
                Write::Gone(key) => {
                    let Some(label) = label(key)? else { continue };
                    (self.at(label), Vec::new())
                }
                Write::Put(key, value) => {
                    let Some(label) = label(key)? else { continue };
                    (self.at(label), vec![(Row { label, hash: xxh3_128(value) }, value)])
                }
            };
            if !old.is_empty() || !new.is_empty() {
                splices.push(Splice { old, new });
            }
        }
        // Ranges come first, and points in the order of their labels, which a stable sort keeps.
        splices.sort_by_key(|splice| splice.old.start);
        let mut apart: Vec<Splice<'a>> = Vec::with_capacity(splices.len());
        for next in splices {
            match apart.last_mut() {
                Some(last) if next.old.start <= last.old.end => {
                    last.old.end = last.old.end.max(next.old.end);
                    last.new.extend(next.new);
                }
                Some(_) | None => apart.push(next),
            }
        }
        Ok(apart)
    }

    /// The index of a label, or where it would be.
    fn at(&self, label: u128) -> Range<usize> {
        match self.rows.binary_search_by_key(&label, |row| row.label) {
            Ok(at) => at..at + 1,
            Err(at) => at..at,
        }
    }

    /// The indexes of the labels between two keys, which need not be those of elements.
    fn within(&self, from: Bound<&[u8]>, to: Bound<&[u8]>) -> Range<usize> {
        let below = |bound: &[u8]| {
            self.rows.partition_point(|row| element_key(row.label).as_slice() < bound)
        };
        let through = |bound: &[u8]| {
            self.rows.partition_point(|row| element_key(row.label).as_slice() <= bound)
        };
        let start = match from {
            Bound::Unbounded => 0,
            Bound::Included(from) => below(from),
            Bound::Excluded(from) => through(from),
        };
        let end = match to {
            Bound::Unbounded => self.rows.len(),
            Bound::Included(to) => through(to),
            Bound::Excluded(to) => below(to),
        };
        start..end.max(start)
    }
}

impl<T: Data> Mirror for Items<T> {
    type Value = [T];
    type Diff = ListDiff<T>;

    /// With two of each new element: one to keep, one to tell.
    type Read<'a> = Vec<(Splice<'a>, Vec<T>, Vec<T>)>;

    fn cleared(&self, _: &FieldTable) -> Result<Self> {
        Ok(Self::new())
    }

    fn value(&self) -> &[T] {
        &self.items
    }

    fn read<'a>(&self, fields: &FieldTable, writes: &[Write<'a>]) -> Result<Self::Read<'a>> {
        let values = |splice: &Splice<'_>| -> Result<Vec<T>> {
            splice.new.iter().map(|(_, value)| decode(fields, value)).collect()
        };
        let read = |splice: Splice<'a>| Ok((values(&splice)?, values(&splice)?, splice));
        let read = self.splices(writes)?.into_iter().map(read);
        read.map(|read| read.map(|(kept, told, splice)| (splice, kept, told))).collect()
    }

    fn take(&mut self, read: Self::Read<'_>) -> Vec<Self::Diff> {
        let mut diffs = Vec::with_capacity(read.len());
        // From the end to the front, so that the indexes of those in front stay what they are.
        for (splice, kept, told) in read.into_iter().rev() {
            diffs.extend(self.replace(splice, kept, told));
        }
        diffs.reverse();
        move_along(&mut diffs);
        diffs
    }
}

impl<T> Items<T> {
    /// Does one splice, and tells what of it is a change; nothing if the same elements got other labels.
    fn replace(&mut self, splice: Splice<'_>, kept: Vec<T>, told: Vec<T>) -> Option<ListDiff<T>> {
        let Splice { old, new } = splice;
        let is_at_end = old.end == self.rows.len();
        let rows: Vec<Row> = new.into_iter().map(|(row, _)| row).collect();
        let old_rows: Vec<Row> = self.rows.splice(old.clone(), rows.iter().copied()).collect();
        let mut removed: Vec<T> = self.items.splice(old.clone(), kept).collect();
        let mut inserted = told;
        let same = |(a, b): &(&Row, &Row)| a.hash == b.hash;
        let front = old_rows.iter().zip(&rows).take_while(same).count();
        let rest = old_rows[front..].iter().rev().zip(rows[front..].iter().rev());
        let back = rest.take_while(same).count();
        removed.truncate(removed.len() - back);
        removed.drain(..front);
        inserted.truncate(inserted.len() - back);
        inserted.drain(..front);
        match (removed.is_empty(), inserted.is_empty()) {
            (true, true) => None,
            (true, false) if is_at_end && back == 0 => Some(ListDiff::Appended(inserted)),
            _ => Some(ListDiff::Spliced { at: old.start + front, removed, inserted }),
        }
    }
}

/// Makes indexes into the old list those that count once the changes in front are done.
fn move_along<T>(diffs: &mut [ListDiff<T>]) {
    let mut moved = 0_isize;
    for diff in diffs {
        if let ListDiff::Spliced { at, removed, inserted } = diff {
            *at = at.checked_add_signed(moved).expect("what was removed lay in front of it");
            // Both are in memory, and shorter than the largest `isize`.
            moved += inserted.len().cast_signed() - removed.len().cast_signed();
        }
    }
}

/// What an element's key has behind the path to its list.
fn element_key(label: u128) -> [u8; 17] {
    let mut key = [1; 17];
    key[1..].copy_from_slice(&label.to_be_bytes());
    key
}

/// The label in the key of an element; none of a row that counts elements.
fn label(key: &[u8]) -> Result<Option<u128>> {
    match key_part(key) {
        Some((KeyPart::Element(label), [])) => Ok(Some(label)),
        Some((KeyPart::Head | KeyPart::Block { .. }, [])) => Ok(None),
        Some(_) | None => {
            Err(Error::BadKey { key_type: "Sub<List<_>>", problem: "it is not a row of a list" })
        }
    }
}
