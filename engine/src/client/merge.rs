//! Rows of several partitions in one order: the smallest of their first rows, and again.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use crate::schema::Rows;

/// Rows of one partition, in the order that is wanted.
#[derive(Debug)]
pub(super) struct Part<'r> {
    pub(super) rows: &'r Rows,
    /// So many of them were taken.
    pub(super) taken: usize,
    /// There are no others behind these.
    pub(super) ends: bool,
}

impl<'r> Part<'r> {
    fn head(&self) -> Option<(&'r [u8], &'r [u8])> {
        self.rows.get(self.taken)
    }
}

/// Appends rows to `merged` until it has `limit`, or the next one may be one that is not here yet.
pub(super) fn merge_into(parts: &mut [Part<'_>], reverse: bool, limit: usize, merged: &mut Rows) {
    let mut heads = BinaryHeap::with_capacity(parts.len());
    for (part, it) in parts.iter().enumerate() {
        match it.head() {
            Some((key, _)) => heads.push(Head { key, part, reverse }),
            None if it.ends => {}
            None => return,
        }
    }
    while merged.len() < limit
        && let Some(Head { part, .. }) = heads.pop()
    {
        let it = &mut parts[part];
        let (key, value) = it.head().expect("it was there when it was pushed");
        merged.push(key, value);
        it.taken += 1;
        match it.head() {
            Some((key, _)) => heads.push(Head { key, part, reverse }),
            None if it.ends => {}
            None => return,
        }
    }
}

/// The first row of a part; the greatest comes next.
#[derive(PartialEq, Eq)]
struct Head<'r> {
    key: &'r [u8],
    part: usize,
    reverse: bool,
}

impl Ord for Head<'_> {
    fn cmp(&self, other: &Self) -> Ordering {
        let order = self.key.cmp(other.key);
        if self.reverse { order } else { order.reverse() }
    }
}

impl PartialOrd for Head<'_> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(keys: &[u8]) -> Rows {
        let mut rows = Rows::new();
        for key in keys {
            rows.push(&[*key], &[key + 100]);
        }
        rows
    }

    fn check(parts: &[(&[u8], bool)], reverse: bool, limit: usize, expected: &[u8]) {
        let rows: Vec<_> = parts.iter().map(|(keys, _)| rows(keys)).collect();
        let ends = parts.iter().map(|(_, ends)| *ends);
        let mut parts: Vec<_> =
            rows.iter().zip(ends).map(|(rows, ends)| Part { rows, taken: 0, ends }).collect();
        let mut merged = Rows::new();
        merge_into(&mut parts, reverse, limit, &mut merged);
        let keys: Vec<_> = merged.iter().map(|(key, _)| key[0]).collect();
        assert_eq!(keys, expected);
        assert!(merged.iter().all(|(key, value)| value == [key[0] + 100]));
        assert_eq!(parts.iter().map(|part| part.taken).sum::<usize>(), expected.len());
    }

    #[test]
    fn the_smallest_comes_next_as_long_as_it_is_known() {
        check(&[], false, 9, &[]);
        check(
            &[(&[1, 4, 6], true), (&[], true), (&[2, 3, 7], true)],
            false,
            9,
            &[1, 2, 3, 4, 6, 7],
        );
        check(&[(&[6, 4, 1], true), (&[7, 3, 2], true)], true, 4, &[7, 6, 4, 3]);
        // Behind 4 the first one may have a 5.
        check(&[(&[1, 4], false), (&[2, 6], true)], false, 9, &[1, 2, 4]);
        check(&[(&[], false), (&[2, 6], true)], false, 9, &[]);
        check(&[(&[1, 4], false), (&[2, 6], false)], false, 2, &[1, 2]);
    }
}
