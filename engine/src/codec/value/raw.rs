//! [`Raw`]: an encoded value, looked into without being decoded.
//!
//! A path that asks for one field of a stored value reads the bytes before it and no others, and builds
//! nothing. Every step is checked against the bytes that are there: bytes that are no value give [`Bad`].
//!
//! What encodings leave open is taken the way that values of one type need: numbers are compared by
//! value, whatever their width; maps by their entries, whatever their order. A map that has a key twice,
//! which no encoder writes, is looked up by its first.

use std::cmp::Ordering;

use rmp::Marker;

use super::SOMES;
use crate::codec::VALUE_DEPTH_MAX;

/// The bytes of one value, unchecked until they are looked at.
#[derive(Clone, Copy, Debug)]
pub struct Raw<'a>(&'a [u8]);

/// Bytes that are no value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the bytes are no value: {0}")]
pub struct Bad(&'static str);

/// What a value is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// `None`, or the unit.
    Nil,
    /// `Some`s around `None`.
    Somes,
    /// A boolean.
    Bool,
    /// An integer or a floating-point number.
    Number,
    /// A text.
    Text,
    /// Bytes; also an integer of 128 bits.
    Bytes,
    /// A sequence, a set, a tuple.
    List,
    /// A map, a struct, an enum's variant with content.
    Map,
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Nil => "nil",
            Self::Somes => "`Some` around `None`",
            Self::Bool => "a boolean",
            Self::Number => "a number",
            Self::Text => "a text",
            Self::Bytes => "bytes",
            Self::List => "a list",
            Self::Map => "a map",
        })
    }
}

/// What a value begins with.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Head<'a> {
    Nil,
    /// How many `Some`s there are around `None`.
    Somes(u8),
    Bool(bool),
    Int(i128),
    Single(f32),
    Double(f64),
    /// Not checked to be UTF-8.
    Text(&'a [u8]),
    Bytes(&'a [u8]),
    /// How many items follow.
    List(usize),
    /// How many entries follow.
    Map(usize),
}

impl Head<'_> {
    fn kind(&self) -> Kind {
        match self {
            Self::Nil => Kind::Nil,
            Self::Somes(_) => Kind::Somes,
            Self::Bool(_) => Kind::Bool,
            Self::Int(_) | Self::Single(_) | Self::Double(_) => Kind::Number,
            Self::Text(_) => Kind::Text,
            Self::Bytes(_) => Kind::Bytes,
            Self::List(_) => Kind::List,
            Self::Map(_) => Kind::Map,
        }
    }
}

impl<'a> Raw<'a> {
    /// `None`, which is also what is where nothing is.
    pub const NIL: Raw<'static> = Raw(&[0xc0]);

    /// The value that `bytes` encode, if they encode one.
    #[must_use]
    pub fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// The bytes.
    #[must_use]
    pub fn bytes(self) -> &'a [u8] {
        self.0
    }

    /// What it is, by its first bytes.
    ///
    /// # Errors
    /// [`Bad`].
    pub fn kind(self) -> Result<Kind, Bad> {
        Ok(self.head()?.kind())
    }

    pub(crate) fn head(self) -> Result<Head<'a>, Bad> {
        head(&mut { self.0 })
    }

    /// The items of a list; none of nil.
    ///
    /// # Errors
    /// `Ok(Err(kind))` if it is neither; [`Bad`].
    pub fn items(self) -> Result<Result<Items<'a>, Kind>, Bad> {
        let mut rest = self.0;
        Ok(match head(&mut rest)? {
            Head::List(left) => Ok(Items { rest, left }),
            Head::Nil => Ok(Items { rest, left: 0 }),
            other => Err(other.kind()),
        })
    }

    /// The entries of a map; none of nil.
    ///
    /// # Errors
    /// `Ok(Err(kind))` if it is neither; [`Bad`].
    pub fn entries(self) -> Result<Result<Entries<'a>, Kind>, Bad> {
        let mut rest = self.0;
        Ok(match head(&mut rest)? {
            Head::Map(entries) => Ok(Entries(Items { rest, left: 2 * entries })),
            Head::Nil => Ok(Entries(Items { rest, left: 0 })),
            other => Err(other.kind()),
        })
    }

    /// Orders values: by kind, then numbers by value, texts and bytes by their bytes, lists item by item,
    /// maps entry by entry in the order of their keys. Not a number is above all numbers.
    ///
    /// # Errors
    /// [`Bad`], also for values that nest deeper than any that can be stored.
    pub fn compare(self, other: Raw<'_>) -> Result<Ordering, Bad> {
        compare(self, other, VALUE_DEPTH_MAX)
    }

    /// Whether both are the same value.
    ///
    /// # Errors
    /// As [`Raw::compare`].
    pub fn is(self, other: Raw<'_>) -> Result<bool, Bad> {
        // Equal bytes, as nearly always, need no look.
        Ok(self.0 == other.0 || self.compare(other)?.is_eq())
    }

    /// Asserts that the bytes are one whole value, in every part.
    ///
    /// # Errors
    /// [`Bad`], also for bytes left over and for values that nest too deeply to be stored.
    pub fn check(self) -> Result<(), Bad> {
        let mut rest = self.0;
        // How many values are still to come on each level.
        let mut left = vec![1_usize];
        while let Some(last) = left.last_mut() {
            let Some(others) = last.checked_sub(1) else {
                left.pop();
                continue;
            };
            *last = others;
            match head(&mut rest)? {
                Head::List(items) => left.push(items),
                Head::Map(entries) => left.push(2 * entries),
                Head::Text(text) if str::from_utf8(text).is_err() => {
                    return Err(Bad("a text is not UTF-8"));
                }
                _ => {}
            }
            if left.len() > VALUE_DEPTH_MAX + 1 {
                return Err(TOO_DEEP);
            }
        }
        if rest.is_empty() { Ok(()) } else { Err(Bad("bytes are left over")) }
    }
}

/// The items of a list.
#[derive(Clone, Debug)]
pub struct Items<'a> {
    rest: &'a [u8],
    left: usize,
}

impl Items<'_> {
    /// How many are to come.
    #[must_use]
    pub fn len(&self) -> usize {
        self.left
    }

    /// Whether none is to come.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.left == 0
    }
}

impl<'a> Iterator for Items<'a> {
    type Item = Result<Raw<'a>, Bad>;

    fn next(&mut self) -> Option<Self::Item> {
        self.left = self.left.checked_sub(1)?;
        let start = self.rest;
        let skipped = skip(&mut self.rest);
        if skipped.is_err() {
            self.left = 0;
        }
        Some(skipped.map(|()| Raw(&start[..start.len() - self.rest.len()])))
    }
}

/// The entries of a map.
#[derive(Clone, Debug)]
pub struct Entries<'a>(Items<'a>);

impl<'a> Iterator for Entries<'a> {
    type Item = Result<(Raw<'a>, Raw<'a>), Bad>;

    fn next(&mut self) -> Option<Self::Item> {
        let key = match self.0.next()? {
            Ok(key) => key,
            Err(bad) => return Some(Err(bad)),
        };
        let value = self.0.next()?;
        Some(value.map(|value| (key, value)))
    }
}

/// Takes the head of a value from the front of `rest`; of texts and bytes all, of lists and maps what
/// says how many parts they have. No more than can be in the bytes left: each part takes a byte.
fn head<'a>(rest: &mut &'a [u8]) -> Result<Head<'a>, Bad> {
    let [first] = take(rest)?;
    Ok(match Marker::from_u8(first) {
        Marker::Null => Head::Nil,
        Marker::False => Head::Bool(false),
        Marker::True => Head::Bool(true),
        Marker::FixPos(value) => Head::Int(value.into()),
        Marker::FixNeg(value) => Head::Int(value.into()),
        Marker::U8 => Head::Int(u8::from_be_bytes(take(rest)?).into()),
        Marker::U16 => Head::Int(u16::from_be_bytes(take(rest)?).into()),
        Marker::U32 => Head::Int(u32::from_be_bytes(take(rest)?).into()),
        Marker::U64 => Head::Int(u64::from_be_bytes(take(rest)?).into()),
        Marker::I8 => Head::Int(i8::from_be_bytes(take(rest)?).into()),
        Marker::I16 => Head::Int(i16::from_be_bytes(take(rest)?).into()),
        Marker::I32 => Head::Int(i32::from_be_bytes(take(rest)?).into()),
        Marker::I64 => Head::Int(i64::from_be_bytes(take(rest)?).into()),
        Marker::F32 => Head::Single(f32::from_be_bytes(take(rest)?)),
        Marker::F64 => Head::Double(f64::from_be_bytes(take(rest)?)),
        Marker::FixExt1 => match take(rest)? {
            [kind, somes] if somes > 0 && [kind] == SOMES.to_be_bytes() => Head::Somes(somes),
            _ => return Err(Bad("an unknown extension")),
        },
        Marker::FixStr(len) => Head::Text(slice(rest, len.into())?),
        Marker::Str8 => Head::Text(len8(rest).and_then(|len| slice(rest, len))?),
        Marker::Str16 => Head::Text(len16(rest).and_then(|len| slice(rest, len))?),
        Marker::Str32 => Head::Text(len32(rest).and_then(|len| slice(rest, len))?),
        Marker::Bin8 => Head::Bytes(len8(rest).and_then(|len| slice(rest, len))?),
        Marker::Bin16 => Head::Bytes(len16(rest).and_then(|len| slice(rest, len))?),
        Marker::Bin32 => Head::Bytes(len32(rest).and_then(|len| slice(rest, len))?),
        Marker::FixArray(len) => Head::List(parts(rest, len.into(), 1)?),
        Marker::Array16 => Head::List(len16(rest).and_then(|len| parts(rest, len, 1))?),
        Marker::Array32 => Head::List(len32(rest).and_then(|len| parts(rest, len, 1))?),
        Marker::FixMap(len) => Head::Map(parts(rest, len.into(), 2)?),
        Marker::Map16 => Head::Map(len16(rest).and_then(|len| parts(rest, len, 2))?),
        Marker::Map32 => Head::Map(len32(rest).and_then(|len| parts(rest, len, 2))?),
        _ => return Err(Bad("no value begins so")),
    })
}

/// Takes one value. Not recursive: this is where unknown bytes go.
fn skip(rest: &mut &[u8]) -> Result<(), Bad> {
    let mut left: usize = 1;
    while let Some(others) = left.checked_sub(1) {
        left = others;
        // Neither length is above that of the bytes left, so the sum cannot overflow.
        match head(rest)? {
            Head::List(items) => left += items,
            Head::Map(entries) => left += 2 * entries,
            _ => {}
        }
    }
    Ok(())
}

fn take<const N: usize>(rest: &mut &[u8]) -> Result<[u8; N], Bad> {
    let (head, tail) = rest.split_first_chunk().ok_or(CUT_OFF)?;
    *rest = tail;
    Ok(*head)
}

fn slice<'a>(rest: &mut &'a [u8], len: usize) -> Result<&'a [u8], Bad> {
    let (head, tail) = rest.split_at_checked(len).ok_or(CUT_OFF)?;
    *rest = tail;
    Ok(head)
}

fn parts(rest: &[u8], len: usize, each: usize) -> Result<usize, Bad> {
    if len <= rest.len() / each { Ok(len) } else { Err(CUT_OFF) }
}

fn len8(rest: &mut &[u8]) -> Result<usize, Bad> {
    Ok(u8::from_be_bytes(take(rest)?).into())
}

fn len16(rest: &mut &[u8]) -> Result<usize, Bad> {
    Ok(u16::from_be_bytes(take(rest)?).into())
}

fn len32(rest: &mut &[u8]) -> Result<usize, Bad> {
    usize::try_from(u32::from_be_bytes(take(rest)?)).map_err(|_| CUT_OFF)
}

fn compare(a: Raw<'_>, b: Raw<'_>, depth: usize) -> Result<Ordering, Bad> {
    let depth = depth.checked_sub(1).ok_or(TOO_DEEP)?;
    let (x, y) = (a.head()?, b.head()?);
    Ok(match (x, y) {
        (Head::Somes(x), Head::Somes(y)) => x.cmp(&y),
        (Head::Bool(x), Head::Bool(y)) => x.cmp(&y),
        (Head::Text(x), Head::Text(y)) | (Head::Bytes(x), Head::Bytes(y)) => x.cmp(y),
        (Head::List(_), Head::List(_)) => {
            let (Ok(mut xs), Ok(mut ys)) = (a.items()?, b.items()?) else {
                unreachable!("both are lists");
            };
            loop {
                match (xs.next().transpose()?, ys.next().transpose()?) {
                    (Some(x), Some(y)) => match compare(x, y, depth)? {
                        Ordering::Equal => {}
                        unequal => return Ok(unequal),
                    },
                    (x, y) => return Ok(x.is_some().cmp(&y.is_some())),
                }
            }
        }
        (Head::Map(_), Head::Map(_)) => {
            let (xs, ys) = (sorted(a, depth)?, sorted(b, depth)?);
            for (x, y) in xs.iter().zip(&ys) {
                let key = compare(x.0, y.0, depth)?;
                let entry = if key.is_eq() { compare(x.1, y.1, depth)? } else { key };
                if entry.is_ne() {
                    return Ok(entry);
                }
            }
            xs.len().cmp(&ys.len())
        }
        (x, y) => match (number(x), number(y)) {
            (Some(x), Some(y)) => x.compare(y),
            _ => x.kind().cmp(&y.kind()),
        },
    })
}

/// The entries of a map in the order of their keys.
fn sorted(map: Raw<'_>, depth: usize) -> Result<Vec<(Raw<'_>, Raw<'_>)>, Bad> {
    let Ok(entries) = map.entries()? else { unreachable!("it is a map") };
    sort(entries.collect::<Result<Vec<_>, _>>()?, &|x, y| compare(x.0, y.0, depth))
}

/// A stable sort whose comparisons can fail, for which std's sorts have no place: on bytes that are no
/// values there is no order, and without one they may panic.
pub(crate) fn sort<T: Copy, E>(
    mut items: Vec<T>,
    compare: &impl Fn(T, T) -> Result<Ordering, E>,
) -> Result<Vec<T>, E> {
    let mut run = 1;
    while run < items.len() {
        let mut merged = Vec::with_capacity(items.len());
        for pair in items.chunks(2 * run) {
            let (mut left, mut right) = pair.split_at(run.min(pair.len()));
            while let ([x, more_left @ ..], [y, more_right @ ..]) = (left, right) {
                if compare(*x, *y)?.is_le() {
                    merged.push(*x);
                    left = more_left;
                } else {
                    merged.push(*y);
                    right = more_right;
                }
            }
            merged.extend_from_slice(left);
            merged.extend_from_slice(right);
        }
        items = merged;
        run *= 2;
    }
    Ok(items)
}

#[derive(Clone, Copy)]
enum Number {
    Int(i128),
    Float(f64),
}

fn number(head: Head<'_>) -> Option<Number> {
    match head {
        Head::Int(value) => Some(Number::Int(value)),
        Head::Single(value) => Some(Number::Float(value.into())),
        Head::Double(value) => Some(Number::Float(value)),
        _ => None,
    }
}

impl Number {
    fn compare(self, other: Self) -> Ordering {
        match (self, other) {
            (Self::Int(x), Self::Int(y)) => x.cmp(&y),
            (Self::Float(x), Self::Float(y)) => {
                x.partial_cmp(&y).unwrap_or_else(|| x.is_nan().cmp(&y.is_nan()))
            }
            (Self::Int(x), Self::Float(y)) => int_with_float(x, y),
            (Self::Float(x), Self::Int(y)) => int_with_float(y, x).reverse(),
        }
    }
}

/// Exact, though not every integer is a float.
fn int_with_float(int: i128, float: f64) -> Ordering {
    // Integers here have 64 bits and a sign: floats beyond, which an `i128` may not hold, are above or
    // below all of them.
    const BEYOND: f64 = 36_893_488_147_419_103_232.0;
    if float.is_nan() || float >= BEYOND {
        return Ordering::Less;
    }
    if float <= -BEYOND {
        return Ordering::Greater;
    }
    #[allow(clippy::cast_possible_truncation, reason = "bounded above")]
    let whole = float.trunc() as i128;
    int.cmp(&whole).then_with(|| 0.0.partial_cmp(&float.fract()).unwrap_or(Ordering::Equal))
}

/// Appends the head of a list of so many items.
pub(crate) fn push_list(out: &mut Vec<u8>, len: usize) {
    let len = u32::try_from(len).expect("items take memory, and there is less than that");
    rmp::encode::write_array_len(out, len).expect("a Vec takes all bytes");
}

/// Appends the head of a map of so many entries.
pub(crate) fn push_map(out: &mut Vec<u8>, len: usize) {
    let len = u32::try_from(len).expect("entries take memory, and there is less than that");
    rmp::encode::write_map_len(out, len).expect("a Vec takes all bytes");
}

const CUT_OFF: Bad = Bad("it is cut off");

const TOO_DEEP: Bad = Bad("it nests too deeply");

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::codec::{FieldTable, encode};

    fn bytes<T: serde::Serialize>(value: &T) -> Vec<u8> {
        let mut out = Vec::new();
        encode(&FieldTable::new(), value, &mut out).unwrap();
        out
    }

    #[test]
    fn parts_are_the_bytes_of_the_parts() {
        let list = bytes(&(1_u8, "two", vec![3_i64, -4], None::<u8>));
        let items: Result<Vec<_>, _> = Raw::new(&list).items().unwrap().unwrap().collect();
        let items: Vec<_> = items.unwrap().into_iter().map(|item| item.bytes().to_vec()).collect();
        let expected = [bytes(&1_u8), bytes(&"two"), bytes(&vec![3_i64, -4]), bytes(&())];
        assert_eq!(items, expected);
        let map = bytes(&std::collections::BTreeMap::from([("a", 1.5), ("b", 2.5)]));
        let entries: Result<Vec<_>, _> = Raw::new(&map).entries().unwrap().unwrap().collect();
        let entries = entries.unwrap();
        assert_eq!(entries[1].0.bytes(), bytes(&"b"));
        assert_eq!(entries[1].1.bytes(), bytes(&2.5));
        assert_eq!(Raw::new(&map).items().unwrap().unwrap_err(), Kind::Map);
        assert_eq!(Raw::new(&list).entries().unwrap().unwrap_err(), Kind::List);
        assert!(Raw::NIL.items().unwrap().unwrap().is_empty());
    }

    #[test]
    fn numbers_are_compared_by_value() {
        let ascending = [
            bytes(&f64::NEG_INFINITY),
            bytes(&i64::MIN),
            bytes(&-1.5),
            bytes(&-1),
            bytes(&0.25_f32),
            bytes(&1),
            bytes(&9_007_199_254_740_992.0_f64),
            bytes(&9_007_199_254_740_993_u64),
            bytes(&u64::MAX),
            bytes(&18_446_744_073_709_551_616.0_f64),
            bytes(&f64::INFINITY),
            bytes(&f64::NAN),
        ];
        for (at, x) in ascending.iter().enumerate() {
            for (to, y) in ascending.iter().enumerate() {
                assert_eq!(Raw::new(x).compare(Raw::new(y)), Ok(at.cmp(&to)), "{x:?} {y:?}");
            }
        }
        let equal = [bytes(&2_u8), vec![0xcd, 0, 2], bytes(&2.0_f32), bytes(&2.0_f64)];
        for (x, y) in equal.iter().zip(equal.iter().rev()) {
            assert!(Raw::new(x).is(Raw::new(y)).unwrap());
        }
        assert!(Raw::new(&bytes(&-0.0)).is(Raw::new(&bytes(&0))).unwrap());
    }

    #[test]
    fn the_order_of_entries_means_nothing() {
        // {1: 2, 3: 4} and {3: 4, 1: 2}
        let (x, y) = ([0x82, 1, 2, 3, 4], [0x82, 3, 4, 1, 2]);
        assert!(Raw::new(&x).is(Raw::new(&y)).unwrap());
        let z = [0x82, 3, 4, 1, 5];
        assert_eq!(Raw::new(&x).compare(Raw::new(&z)), Ok(Ordering::Less));
    }

    #[test]
    fn hostile_lengths_and_depths_are_errors() {
        for hostile in [
            &[][..],
            &[0xdd, 0xff, 0xff, 0xff, 0xff],
            &[0xdf, 0xff, 0xff, 0xff, 0xff, 0],
            &[0xdb, 0xff, 0xff, 0xff, 0xff],
            &[0xc1],
            &[0xd4, 2, 1],
            &[0x91],
            &[0x81, 0],
        ] {
            let raw = Raw::new(hostile);
            assert!(raw.check().is_err(), "{hostile:?}");
        }
        let deep = vec![0x91; 1 << 20];
        assert_eq!(Raw::new(&deep).check(), Err(TOO_DEEP));
        let mut nested = vec![0x91; 4096];
        nested.push(0);
        assert_eq!(Raw::new(&nested).compare(Raw::new(&nested)), Err(TOO_DEEP));
    }

    proptest! {
        #[test]
        fn the_sort_is_the_stable_one(items in prop::collection::vec((0_u8..8, any::<u8>()), 0..40)) {
            let sorted = sort(items.clone(), &|x, y| Ok::<_, ()>(x.0.cmp(&y.0)));
            let mut expected = items;
            expected.sort_by_key(|item| item.0);
            prop_assert_eq!(sorted, Ok(expected));
        }

        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            let raw = Raw::new(&bytes);
            let is_value = raw.check().is_ok();
            let mut all_parts = raw.kind().is_ok();
            if let Ok(Ok(items)) = raw.items() {
                all_parts &= items.map(|item| item.and_then(Raw::check)).all(|it| it.is_ok());
            }
            if let Ok(Ok(entries)) = raw.entries() {
                all_parts &= entries.map(|it| it.and_then(|(k, v)| k.check().and(v.check()))).all(|it| it.is_ok());
            }
            prop_assert!(all_parts || !is_value);
            if is_value {
                prop_assert_eq!(raw.compare(raw), Ok(Ordering::Equal));
            } else {
                prop_assert!(raw.compare(raw).is_ok_and(Ordering::is_eq) || raw.compare(raw).is_err());
            }
        }
    }
}
