use std::cmp::Ordering;
use std::fmt::Debug;

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::codec::placement::Placement;
use crate::codec::value::raw::Raw;
use crate::codec::{FieldTable, encode};

crate::key! {
    /// A key made by the macro.
    #[derive(Copy)]
    struct AccountId(u64);
    /// One of no fixed width.
    struct Handle(String);
}

/// Order, round trip, prefix-freeness and width of two keys of one type.
fn check<K: Key + Debug>(a: &K, b: &K, order: Ordering) {
    let (bytes_a, bytes_b) = (encode_key(a), encode_key(b));
    assert_eq!(bytes_a.cmp(&bytes_b), order, "{a:?} {bytes_a:?} against {b:?} {bytes_b:?}");
    for (key, bytes) in [(a, &bytes_a), (b, &bytes_b)] {
        let decoded: K = decode_key(bytes).unwrap();
        assert_eq!(encode_key(&decoded), *bytes);
        assert_eq!(format!("{decoded:?}"), format!("{key:?}"));
        if let Some(width) = K::WIDTH {
            assert_eq!(bytes.len(), width);
        }
        let mut longer = bytes.clone();
        longer.push_slice(b"rest");
        let mut input = longer.as_slice();
        K::decode_key(&mut input).unwrap();
        assert_eq!(input, b"rest");
        let kind = K::kind();
        let mut input = longer.as_slice();
        kind.skip(&mut input).unwrap();
        assert_eq!(input, b"rest", "{kind} skips {key:?}");
        assert_eq!(kind.width(), K::WIDTH);
        let json = kind.to_json(bytes).unwrap();
        let mut back = KeyBuf::from(&b"before"[..]);
        kind.from_json(&json, &mut back).unwrap();
        assert_eq!(&back[6..], bytes.as_slice(), "{kind} by way of {json}");
        kind.to_json(&longer).unwrap_err();
        let (mut input, mut value) = (longer.as_slice(), Vec::new());
        kind.to_value(&mut input, &mut value).unwrap();
        assert_eq!(input, b"rest", "{kind} takes {key:?}");
        back.truncate(6);
        kind.from_value(Raw::new(&value), &mut back).unwrap();
        assert_eq!(&back[6..], bytes.as_slice(), "{kind} by way of {value:?}");
        for cut in 0..bytes.len() {
            assert!(decode_key::<K>(&bytes[..cut]).is_err(), "{key:?} cut to {cut} bytes");
            assert!(K::kind().skip(&mut &bytes[..cut]).is_err(), "{key:?} cut to {cut} bytes");
            assert!(K::kind().to_json(&bytes[..cut]).is_err(), "{key:?} cut to {cut} bytes");
            let cut = K::kind().to_value(&mut &bytes[..cut], &mut Vec::new());
            assert!(cut.is_err(), "{key:?} cut off");
        }
    }
    if order != Ordering::Equal {
        assert!(!bytes_a.starts_with(&bytes_b) && !bytes_b.starts_with(&bytes_a));
    }
}

fn check_ord<K: Key + Debug + Ord>(a: &K, b: &K) {
    check(a, b, a.cmp(b));
    check(&Reverse(a.clone_key()), &Reverse(b.clone_key()), b.cmp(a));
}

/// Keys need not be `Clone`; decoding makes another.
trait CloneKey {
    fn clone_key(&self) -> Self;
}

impl<K: Key> CloneKey for K {
    fn clone_key(&self) -> Self {
        decode_key(&encode_key(self)).unwrap()
    }
}

/// Texts and bytes with many of the bytes that need care.
fn bytes() -> impl Strategy<Value = Vec<u8>> {
    vec(prop_oneof![Just(0), Just(1), Just(2), Just(0xfe), Just(0xff), any::<u8>()], 0..12)
}

fn text() -> impl Strategy<Value = String> {
    vec(prop_oneof![Just('\0'), Just('\u{1}'), Just('\u{2}'), Just('a'), any::<char>()], 0..8)
        .prop_map(|chars| chars.into_iter().collect())
}

proptest! {
    #[test]
    fn integers_keep_their_order(a: i128, b: i128, shift in 0..128_u32) {
        let (a, b) = (a >> shift, b >> shift);
        macro_rules! check_as {
            ($($type:ty),*) => { $(
                #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, trivial_numeric_casts,
                    reason = "any value will do")]
                check_ord(&(a as $type), &(b as $type));
            )* };
        }
        check_as!(u8, u16, u32, u64, u128, i8, i16, i32, i64, i128);
    }

    #[test]
    fn floats_keep_their_total_order(a: u64, b: u64) {
        let (wide_a, wide_b) = (f64::from_bits(a), f64::from_bits(b));
        check(&wide_a, &wide_b, wide_a.total_cmp(&wide_b));
        #[allow(clippy::cast_possible_truncation, reason = "any bits will do")]
        let (a, b) = (f32::from_bits(a as u32), f32::from_bits(b as u32));
        check(&a, &b, a.total_cmp(&b));
    }

    #[test]
    fn texts_and_bytes_keep_their_order(a in bytes(), b in bytes(), s in text(), t in text()) {
        check_ord(&a, &b);
        check_ord(&s, &t);
        check_ord(&Handle(s.clone()), &Handle(t));
        prop_assert_eq!(encode_key(s.as_str()), encode_key(&s));
        prop_assert_eq!(encode_key(a.as_slice()), encode_key(&a));
    }

    #[test]
    fn other_types_keep_their_order(a: [u8; 16], b: [u8; 16], c: (bool, char), d: (bool, char)) {
        check_ord(&a, &b);
        check_ord(&Uuid::from_bytes(a), &Uuid::from_bytes(b));
        check_ord(&c, &d);
        check_ord(&c.0, &d.0);
        check_ord(&c.1, &d.1);
    }

    #[test]
    fn tuples_keep_their_order(
        a in (bytes(), any::<i16>(), text()),
        b in (bytes(), any::<i16>(), text()),
        same in 0..3_usize,
    ) {
        // Pairs with a common beginning are the interesting ones.
        let b = match same {
            0 => b,
            1 => (a.0.clone(), b.1, b.2),
            _ => (a.0.clone(), a.1, b.2),
        };
        check_ord(&a, &b);
        let reversed = |t: &(Vec<u8>, i16, String)| (Reverse(t.0.clone()), t.1, Reverse(t.2.clone()));
        check_ord(&reversed(&a), &reversed(&b));
        check_ord(&(a.0.clone(), (a.1, a.2.clone())), &(b.0.clone(), (b.1, b.2.clone())));
    }

    #[test]
    fn everything_under_a_key_is_one_range(a in text(), b in text(), under in bytes()) {
        let (from, other) = (encode_key(&a), encode_key(&b));
        let to = from.clone().prefix_end().expect("a text ends in 0");
        let mut inside = from.clone();
        inside.push_slice(&under);
        prop_assert!(from <= inside && inside < to);
        let mut beside = other.clone();
        beside.push_slice(&under);
        prop_assert_eq!(from <= beside && beside < to, a == b);
    }

    #[test]
    fn the_end_of_a_prefix_is_the_first_key_behind_it(prefix in bytes(), key in bytes()) {
        let end = KeyBuf::from(prefix.as_slice()).prefix_end();
        let is_below = end.as_ref().is_none_or(|end| key.as_slice() < end.as_slice());
        prop_assert_eq!(key.starts_with(&prefix), key >= prefix && is_below);
        prop_assert_eq!(end.is_none(), prefix.iter().all(|&byte| byte == 0xff));
    }

    #[test]
    fn hostile_bytes_never_panic(input in prop_oneof![bytes(), vec(any::<u8>(), 0..64)]) {
        /// What decodes must encode to the same bytes: one value, one key.
        fn hostile<K: Key>(input: &[u8]) {
            let mut rest = input;
            let (kind, mut skipped) = (K::kind(), input);
            let can_skip = kind.skip(&mut skipped).is_ok();
            if let Ok(key) = K::decode_key(&mut rest) {
                let taken = &input[..input.len() - rest.len()];
                assert_eq!(encode_key(&key).as_slice(), taken);
                assert!(can_skip && skipped == rest, "{kind} of {input:?}");
                let mut back = KeyBuf::new();
                kind.from_json(&kind.to_json(taken).unwrap(), &mut back).unwrap();
                assert_eq!(back.as_slice(), taken);
            } else if can_skip {
                // The end can be found without knowing whether what is before it is a key.
                let taken = &input[..input.len() - skipped.len()];
                assert!(kind.to_json(taken).is_err(), "{kind} of {input:?}");
            }
        }
        hostile::<u128>(&input);
        hostile::<i64>(&input);
        hostile::<f64>(&input);
        hostile::<bool>(&input);
        hostile::<char>(&input);
        hostile::<String>(&input);
        hostile::<Vec<u8>>(&input);
        hostile::<Uuid>(&input);
        hostile::<[u8; 3]>(&input);
        hostile::<Reverse<String>>(&input);
        hostile::<Reverse<Reverse<(char, Vec<u8>)>>>(&input);
        hostile::<(String, Reverse<u16>, bool, Vec<u8>, char, i8)>(&input);
    }

    #[test]
    fn a_buffer_holds_what_was_pushed(parts in vec(bytes(), 0..20), keep in 0..200_usize) {
        let mut key = KeyBuf::new();
        let mut model = Vec::new();
        for part in &parts {
            key.push_slice(part);
            model.extend_from_slice(part);
            prop_assert_eq!(key.as_slice(), model.as_slice());
            prop_assert_eq!(key.len(), model.len());
        }
        let mut copy = key.clone();
        copy.truncate(keep);
        model.truncate(keep);
        prop_assert_eq!(copy.as_slice(), model.as_slice());
        copy.push(7);
        model.push(7);
        prop_assert_eq!(copy.as_mut_slice(), model.as_mut_slice());
    }
}

/// Every key in the file decodes and encodes as on the day it was written.
#[test]
fn golden_keys_stay_as_they_are() {
    let stored = include_str!("../../../testdata/codec-keys.txt");
    let mut stored = stored.lines().filter(|line| !line.starts_with('#'));
    let mut golden = |name: &str, bytes: KeyBuf| {
        let hex = crate::codec::hex(&bytes);
        let hash = Placement::of(&bytes).hash();
        assert_eq!(format!("{name}\t{hex}\t{hash:016x}"), stored.next().unwrap_or_default());
    };
    golden("()", encode_key(&()));
    golden("true", encode_key(&true));
    golden("7_u8", encode_key(&7_u8));
    golden("-2_i8", encode_key(&-2_i8));
    golden("258_u16", encode_key(&258_u16));
    golden("-1_i16", encode_key(&-1_i16));
    golden("1_u32", encode_key(&1_u32));
    golden("i32::MIN", encode_key(&i32::MIN));
    golden("u64::MAX", encode_key(&u64::MAX));
    golden("1_i64", encode_key(&1_i64));
    golden("1_u128", encode_key(&1_u128));
    golden("-1_i128", encode_key(&-1_i128));
    golden("1.5_f32", encode_key(&1.5_f32));
    golden("-0.0_f64", encode_key(&-0.0_f64));
    golden("-1e300_f64", encode_key(&-1e300_f64));
    golden("'ä'", encode_key(&'ä'));
    golden("\"\"", encode_key(""));
    golden("\"ann\"", encode_key("ann"));
    golden("\"a\\0b\\x01c\"", encode_key("a\0b\x01c"));
    golden("[0, 1, 2, 255]", encode_key(&vec![0_u8, 1, 2, 255]));
    golden("[u8; 4]", encode_key(&[0_u8, 1, 2, 255]));
    golden("Uuid", encode_key(&Uuid::from_u128(0x0123_4567_89ab_cdef_0123_4567_89ab_cdef)));
    golden("Reverse(\"ann\")", encode_key(&Reverse("ann")));
    golden("Reverse(1_u16)", encode_key(&Reverse(1_u16)));
    golden("(\"ann\", 7_u64)", encode_key(&("ann", 7_u64)));
    golden("AccountId(42)", encode_key(&AccountId(42)));
    golden("70 times 'x'", encode_key(&"x".repeat(70)));
    assert_eq!(stored.next(), None);
}

#[test]
fn the_macro_keeps_order_and_serde_form() {
    check_ord(&AccountId(1), &AccountId(2));
    assert_eq!(AccountId::WIDTH, Some(8));
    assert_eq!(encode_key(&AccountId(5)), encode_key(&5_u64));
    assert_eq!(<(AccountId, Uuid)>::WIDTH, Some(24));
    assert_eq!(<(AccountId, Handle)>::WIDTH, None);
}

#[test]
fn a_path_buffer_is_one_cache_line() {
    assert_eq!(size_of::<KeyBuf>(), 64);
}

/// As a value, a key is what serde makes of its type.
#[test]
fn keys_are_values_as_serde_writes_them() {
    fn check<K: Key + serde::Serialize>(key: &K) {
        let bytes = encode_key(key);
        let (mut value, mut expected) = (Vec::new(), Vec::new());
        K::kind().to_value(&mut bytes.as_slice(), &mut value).unwrap();
        encode(&FieldTable::new(), key, &mut expected).unwrap();
        assert_eq!(value, expected, "{}", K::kind());
    }
    check(&7_u8);
    check(&300_u16);
    check(&70_000_u32);
    check(&u64::MAX);
    check(&u128::MAX);
    check(&-7_i8);
    check(&-300_i16);
    check(&70_000_i32);
    check(&i64::MIN);
    check(&i128::MIN);
    check(&-1.5_f32);
    check(&2.5_f64);
    check(&true);
    check(&'ä');
    check(&());
    check(&Uuid::from_u128(77));
    check(&b"a\0b".to_vec());
    check(&[0_u8, 200, 3]);
    check(&"a\0b".to_owned());
    check(&(1_u8, "x".to_owned(), Reverse(-5_i64)));
    check(&AccountId(3));
    check(&Handle("h".to_owned()));
}

#[test]
fn values_that_are_no_keys_are_refused() {
    fn check<K: Key>(values: &[&[u8]]) {
        for value in values {
            let mut out = KeyBuf::from(&b"before"[..]);
            assert!(K::kind().from_value(Raw::new(value), &mut out).is_err(), "{value:?}");
            assert_eq!(out.as_slice(), b"before");
        }
    }
    check::<u8>(&[&[], &[0xc0], &[0xff], &[0xcd, 1, 0], &[0xa1, b'7'], &[0xca, 0, 0, 0, 0]]);
    check::<i8>(&[&[0xcc, 200]]);
    check::<u128>(&[&[0xc4, 2, 0, 0], &[0xff]]);
    check::<f32>(&[&[0xcb, 0x3f, 0xb9, 0x99, 0x99, 0x99, 0x99, 0x99, 0x9a], &[0xc3]]);
    check::<bool>(&[&[1], &[0xc0]]);
    check::<char>(&[&[0xa0], &[0xa2, b'a', b'b']]);
    check::<String>(&[&[0xa1, 0xff], &[0xa2, b'a'], &[0xc4, 1, b'a']]);
    check::<Uuid>(&[&[0xa1, b'a'], &[0xc4, 1, 1]]);
    check::<Vec<u8>>(&[&[0x92, 1], &[0x91, 0xcd, 1, 0], &[0x91, 0xa0], &[1]]);
    check::<[u8; 2]>(&[&[0x91, 1], &[0xc4, 1, 1]]);
    check::<(u8, String)>(&[&[0x91, 1], &[0x92, 1, 2], &[0x92, 1], &[0x93, 1, 0xa0, 0xa0]]);
    check::<(String, Reverse<u8>)>(&[&[0x92, 0xa1, b'a', 0xa0]]);
}

#[test]
fn kinds_are_named_as_in_rust_and_kept_in_json() {
    fn check<K: Key>(name: &str, json: &str) {
        let kind = K::kind();
        assert_eq!(kind.to_string(), name);
        assert_eq!(serde_json::to_string(&kind).unwrap(), json);
        assert_eq!(serde_json::from_str::<KeyKind>(json).unwrap(), kind);
    }
    check::<u8>("u8", r#""u8""#);
    check::<i128>("i128", r#""i128""#);
    check::<String>("String", r#""text""#);
    check::<Vec<u8>>("Vec<u8>", r#""bytes""#);
    check::<[u8; 5]>("[u8; 5]", r#"{"array":5}"#);
    check::<(char,)>("(char,)", r#"{"tuple":["char"]}"#);
    check::<(AccountId, Reverse<f32>)>(
        "(AccountId, Reverse<f32>)",
        r#"{"tuple":[{"named":{"name":"AccountId","inner":"u64"}},{"reverse":"f32"}]}"#,
    );
}

#[test]
fn keys_are_written_in_json_as_people_would() {
    fn check<K: Key>(key: &K, json: &str) {
        assert_eq!(K::kind().to_json(&encode_key(key)).unwrap().to_string(), json);
    }
    check(&-7_i8, "-7");
    check(&u64::MAX, "18446744073709551615");
    check(&i64::MIN, "-9223372036854775808");
    check(&u128::MAX, r#""340282366920938463463374607431768211455""#);
    check(&-1_i128, "-1");
    check(&i128::MIN, r#""-170141183460469231731687303715884105728""#);
    check(&1.5_f32, "1.5");
    check(&-0.0_f64, "-0.0");
    check(&f64::INFINITY, r#""0x7ff0000000000000""#);
    check(&'ä', r#""ä""#);
    check(&(), "null");
    check(&vec![0_u8, 1, 255], r#""0001ff""#);
    check(&[7_u8, 8], r#""0708""#);
    check(&Reverse("a\0b".to_owned()), r#""a\u0000b""#);
    check(&(AccountId(7), Reverse(Reverse(true))), "[7,true]");
    check(&Uuid::from_u128(1), r#""00000000-0000-0000-0000-000000000001""#);
}

#[test]
fn json_that_is_no_key_is_refused_and_leaves_nothing() {
    fn check<K: Key>(json: &serde_json::Value, problem: &str) {
        let mut out = KeyBuf::from(&b"before"[..]);
        let error = K::kind().from_json(json, &mut out).unwrap_err().to_string();
        assert!(error.contains(problem), "{error}");
        assert_eq!(out.as_slice(), b"before");
    }
    use serde_json::json;
    check::<u8>(&json!(256), "no key of type `u8`: the number is out of range");
    check::<u64>(&json!(-1), "out of range");
    check::<u128>(&json!(-1), "out of range");
    check::<i64>(&json!(1.5), "not an integer");
    check::<f32>(&json!(1e300), "out of range");
    check::<f32>(&json!("0x7ff0000000000000"), "too many bits");
    check::<f64>(&json!("one"), "not a number");
    check::<char>(&json!("ab"), "one character");
    check::<[u8; 2]>(&json!("010203"), "as many bytes");
    check::<Vec<u8>>(&json!("012"), "hexadecimal");
    check::<(u8, u8)>(&json!([1]), "as many elements");
    check::<(String, bool)>(&json!(["long", 1]), "`true` or `false`");
    check::<String>(&json!("x".repeat(2000)), "too long");
}

#[test]
fn only_the_names_of_newtypes_may_differ_in_what_is_stored_alike() {
    let alike = |a: KeyKind, b: KeyKind| a.is_stored_as(&b) && b.is_stored_as(&a);
    assert!(alike(AccountId::kind(), u64::kind()));
    assert!(alike(<(AccountId, Reverse<Handle>)>::kind(), <(u64, Reverse<String>)>::kind()));
    for (a, b) in [
        (u64::kind(), i64::kind()),
        (u32::kind(), u64::kind()),
        (String::kind(), <Vec<u8>>::kind()),
        (u64::kind(), Reverse::<u64>::kind()),
        (<(u8, u8)>::kind(), <(u8, u8, u8)>::kind()),
        (<(u8, u8)>::kind(), <(u8, bool)>::kind()),
        (<[u8; 2]>::kind(), <[u8; 3]>::kind()),
    ] {
        assert!(!alike(a.clone(), b.clone()), "{a} and {b}");
    }
}
