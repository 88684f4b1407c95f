use std::collections::BTreeMap;

use super::*;

type Model = BTreeMap<Vec<u8>, Option<Vec<u8>>>;
type Point<'a> = (&'a [u8], Option<&'a [u8]>);

/// The same numbers every time.
struct Chance(u64);

impl Chance {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(99_991);
        (self.0 >> 33) % end
    }
}

/// How the keys of a test look, by number.
#[derive(Clone, Copy, Debug)]
enum Shape {
    /// Eight bytes.
    Account,
    /// Up to a few keys for each of a few heads, some of them longer than what lies in place.
    Tied,
    /// One head for all.
    Prefixed,
    /// Nothing, zeros and others, shorter and longer than a head: many differ in padding only.
    Short,
}

const SHAPES: [Shape; 4] = [Shape::Account, Shape::Tied, Shape::Prefixed, Shape::Short];

impl Shape {
    fn key(self, number: u64) -> Vec<u8> {
        match self {
            Self::Account => number.to_be_bytes().to_vec(),
            Self::Tied => {
                let mut key = (number / 200).to_be_bytes().to_vec();
                let long = if number.is_multiple_of(9) { 30 } else { 8 };
                key.extend(std::iter::repeat_n(number.to_le_bytes()[0], long));
                key
            }
            Self::Prefixed => format!("account/history/{number}").into_bytes(),
            Self::Short => {
                let (len, fill) = (number % 12, number / 12);
                let mut key = vec![0; usize::try_from(len).unwrap()];
                // The letter moves through the key, so that zeros come before and after it.
                if let Some(at) = (fill / 3).checked_rem(len) {
                    key[usize::try_from(at).unwrap()] =
                        [0, b'a', 0xff][usize::try_from(fill % 3).unwrap()];
                }
                key
            }
        }
    }
}

fn points<'a>(model: &'a Model, range: (Bound<&[u8]>, Bound<&[u8]>)) -> Vec<Point<'a>> {
    model.range::<[u8], _>(range).map(|(key, value)| (&**key, value.as_deref())).collect()
}

/// What always holds: leaves that are not empty, in a directory that is right, and keys that ascend.
fn check(map: &PointMap, model: &Model) {
    assert_eq!(map.firsts, map.leaves.iter().map(|leaf| leaf.heads[0]).collect::<Vec<_>>());
    assert_eq!(map.len(), map.leaves.iter().map(|leaf| leaf.len()).sum::<usize>());
    for leaf in &map.leaves {
        assert!(leaf.len() > 0);
        for nth in 0..leaf.len() {
            assert_eq!(leaf.heads[nth], head_of(&leaf.entry(nth).key));
        }
    }
    assert_eq!(map.iter().collect::<Vec<_>>(), points(model, (Bound::Unbounded, Bound::Unbounded)));
}

fn check_range(map: &PointMap, model: &Model, from: Bound<&[u8]>, to: Bound<&[u8]>) {
    let found: Vec<_> = map.range((from, to)).collect();
    let inverted = match (from, to) {
        (Bound::Unbounded, _) | (_, Bound::Unbounded) => false,
        (Bound::Excluded(from), Bound::Excluded(to)) => from >= to,
        (
            Bound::Included(from) | Bound::Excluded(from),
            Bound::Included(to) | Bound::Excluded(to),
        ) => from > to,
    };
    let expected = if inverted { Vec::new() } else { points(model, (from, to)) };
    assert_eq!(found, expected, "{from:?} {to:?}");
    let mut backward: Vec<_> = map.range((from, to)).rev().collect();
    backward.reverse();
    assert_eq!(backward, expected, "{from:?} {to:?} backward");
}

/// Both ends at once meet in the middle.
fn check_both_ends(map: &PointMap) {
    let (mut points, mut seen) = (map.iter(), 0);
    while let Some(front) = points.next() {
        seen += 1;
        if let Some(back) = points.next_back() {
            assert!(front.0 < back.0);
            seen += 1;
        }
    }
    assert_eq!(seen, map.len());
}

fn run(shape: Shape, keys: u64, seed: u64) {
    let (mut map, mut model, mut chance) = (PointMap::default(), Model::new(), Chance(seed));
    for step in 0..3_000 {
        let key = shape.key(chance.below(keys));
        let other = shape.key(chance.below(keys));
        let value: Option<Vec<u8>> = (chance.below(5) > 0).then(|| {
            let long = if chance.below(10) == 0 { 40 } else { 3 };
            vec![u8::try_from(step % 251).unwrap(); long]
        });
        match chance.below(200) {
            0 => {
                let to = (chance.below(20) > 0).then_some(&*other);
                let upper = to.map_or(Bound::Unbounded, Bound::Excluded);
                let gone: Vec<(Vec<u8>, Option<Vec<u8>>)> = if to.is_some_and(|to| to <= &*key) {
                    Vec::new()
                } else {
                    let range = (Bound::Included(&*key), upper);
                    let gone = points(&model, range).into_iter();
                    gone.map(|(key, value)| (key.to_vec(), value.map(<[u8]>::to_vec))).collect()
                };
                let mut dropped = Model::new();
                map.remove_range(&key, to, |key, value| {
                    dropped.insert(key.to_vec(), value.map(|value| value.to_vec()));
                });
                for (key, _) in &gone {
                    assert!(model.remove(key).is_some());
                }
                assert_eq!(dropped, gone.into_iter().collect::<Model>());
                check(&map, &model);
            }
            1..=5 => {
                let ends = |key| [Bound::Unbounded, Bound::Included(key), Bound::Excluded(key)];
                for from in ends(&*key) {
                    for to in ends(&*other) {
                        check_range(&map, &model, from, to);
                    }
                }
            }
            6..=20 => {
                // Neighbours, as a merge brings them.
                for near in 0..20 {
                    let key = shape.key(step * 7 % keys + near);
                    let old = map.insert(&key, value.as_deref());
                    let before = model.insert(key, value.clone());
                    assert_eq!(old.map(|old| old.map(|old| old.to_vec())), before);
                }
            }
            _ => {
                let expected = model.get(&other).map(|value| Known::from(value.as_deref()));
                assert_eq!(map.get(&other), expected, "{other:?}");
                let old = map.insert(&key, value.as_deref());
                let before = model.insert(key, value);
                assert_eq!(old.map(|old| old.map(|old| old.to_vec())), before);
            }
        }
        if step % 64 == 0 {
            check(&map, &model);
            check_both_ends(&map);
        }
    }
    let full = map.len();
    assert_eq!(full, model.len());
    let mut before = full;
    while map.drop_some(100) {
        assert!(map.len() + 100 + LEAF_MAX > before, "no portion is much larger than asked for");
        before = map.len();
    }
    assert_eq!(map.len(), 0);
}

#[test]
fn agrees_with_an_ordered_map() {
    for shape in SHAPES {
        for (seed, keys) in [(1, 40), (2, 300), (3, 5_000), (4, 100_000)] {
            run(shape, keys, seed);
        }
    }
}

#[test]
fn keys_that_differ_in_padding_only_are_different() {
    let mut map = PointMap::default();
    let keys: [&[u8]; 6] = [b"", b"\0", b"\0\0\0\0\0\0\0\0", b"\0\0\0\0\0\0\0\0\0", b"a", b"a\0"];
    for (nth, key) in keys.iter().enumerate().rev() {
        assert_eq!(map.insert(key, Some(&[u8::try_from(nth).unwrap()])), None);
    }
    for (nth, key) in keys.iter().enumerate() {
        assert_eq!(map.get(key), Some(Known::Value(&[u8::try_from(nth).unwrap()])));
    }
    assert_eq!(map.iter().map(|(key, _)| key).collect::<Vec<_>>(), keys);
    assert_eq!(map.get(b"a\0\0"), None);
    assert_eq!(map.get(b"\0\0"), None);
}

#[test]
fn ascending_keys_fill_their_leaves() {
    let mut map = PointMap::default();
    for number in 0..1_000_u64 {
        map.insert(&number.to_be_bytes(), None);
    }
    assert_eq!(map.leaves.len(), 1_000_usize.div_ceil(LEAF_MAX));
}

#[test]
fn what_range_removals_leave_is_brought_together() {
    let mut map = PointMap::default();
    for number in 0..10_000_u64 {
        map.insert(&number.to_be_bytes(), None);
    }
    for number in (0..10_000_u64).step_by(100) {
        let (from, to) = ((number + 1).to_be_bytes(), (number + 100).to_be_bytes());
        map.remove_range(&from, Some(&to), |_, _| {});
    }
    assert_eq!(map.len(), 100);
    assert!(map.leaves.len() <= 10, "{} leaves", map.leaves.len());
}
