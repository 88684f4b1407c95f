use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::num::NonZeroU16;

use proptest::collection::vec;
use proptest::prelude::*;
use serde::Deserialize;
use uuid::Uuid;

use super::*;
use crate::codec::VALUE_DEPTH_MAX;
use crate::codec::table::Trace;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Order {
    id: u64,
    buyer: String,
    lines: Vec<Line>,
    note: Option<String>,
    state: State,
    tags: BTreeMap<String, BTreeSet<i32>>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Line {
    sku: Sku,
    count: NonZeroU16,
    price: f64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Sku(u32);

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
enum State {
    New,
    Paid(i64),
    Sent { to: String, at: (u8, i16) },
    Split(Box<State>, Box<State>),
    Bundle(Vec<Order>),
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Everything {
    bools: (bool, bool),
    wide: (u128, i128),
    small: (i8, i16, i32, u8, u16, u32),
    letter: char,
    float: f32,
    unit: (),
    marker: Marker,
    #[allow(clippy::option_option, reason = "what looks like `None` must come back, too")]
    deep: Option<Option<Option<()>>>,
    maybe: Option<Marker>,
    id: Uuid,
    blob: Blob,
    pair: Pair,
    fixed: [u16; 3],
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Marker;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Pair(i64, String);

/// Bytes as bytes, not as a sequence of numbers.
#[derive(Clone, Debug, PartialEq)]
struct Blob(Vec<u8>);

impl Serialize for Blob {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.0)
    }
}

impl<'de> Deserialize<'de> for Blob {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Bytes;
        impl serde::de::Visitor<'_> for Bytes {
            type Value = Blob;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("bytes")
            }

            fn visit_bytes<E>(self, bytes: &[u8]) -> Result<Blob, E> {
                Ok(Blob(bytes.to_vec()))
            }
        }
        deserializer.deserialize_bytes(Bytes)
    }
}

fn table_of<T: DeserializeOwned>() -> FieldTable {
    let mut trace = Trace::default();
    trace.add::<T>().unwrap();
    trace.finish()
}

fn encoded<T: Serialize>(table: &FieldTable, value: &T) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode(table, value, &mut bytes).unwrap();
    bytes
}

fn check<T: Serialize + DeserializeOwned + PartialEq + Debug>(value: &T) {
    let table = table_of::<T>();
    let bytes = encoded(&table, value);
    assert_eq!(decode::<T>(&table, &bytes).unwrap(), *value);
    for cut in 0..bytes.len() {
        decode::<T>(&table, &bytes[..cut]).unwrap_err();
    }
}

fn line() -> impl Strategy<Value = Line> {
    (any::<u32>(), any::<NonZeroU16>(), any::<i32>()).prop_map(|(sku, count, cents)| Line {
        sku: Sku(sku),
        count,
        price: f64::from(cents) / 100.0,
    })
}

fn order() -> impl Strategy<Value = Order> {
    let state = prop_oneof![
        Just(State::New),
        any::<i64>().prop_map(State::Paid),
        any::<(String, (u8, i16))>().prop_map(|(to, at)| State::Sent { to, at }),
    ];
    let order = order_in(state.boxed());
    let state = prop_oneof![
        vec(order.clone(), 0..3).prop_map(State::Bundle),
        any::<i64>().prop_map(|paid| State::Split(State::New.into(), State::Paid(paid).into())),
    ];
    order_in(state.boxed())
}

fn order_in(state: BoxedStrategy<State>) -> BoxedStrategy<Order> {
    let tags = proptest::collection::btree_map(
        any::<String>(),
        proptest::collection::btree_set(any::<i32>(), 0..3),
        0..3,
    );
    (any::<u64>(), any::<String>(), vec(line(), 0..4), any::<Option<String>>(), state, tags)
        .prop_map(|(id, buyer, lines, note, state, tags)| Order {
            id,
            buyer,
            lines,
            note,
            state,
            tags,
        })
        .boxed()
}

fn everything() -> impl Strategy<Value = Everything> {
    let first =
        (any::<(bool, bool)>(), any::<(u128, i128)>(), any::<(i8, i16, i32, u8, u16, u32)>());
    let second = (any::<char>(), any::<i32>(), any::<Option<Option<Option<()>>>>(), any::<bool>());
    let third = (any::<u128>(), any::<Vec<u8>>(), any::<(i64, String)>(), any::<[u16; 3]>());
    (first, second, third).prop_map(|(first, second, third)| Everything {
        bools: first.0,
        wide: first.1,
        small: first.2,
        letter: second.0,
        #[allow(clippy::cast_precision_loss, reason = "any value will do")]
        float: second.1 as f32,
        unit: (),
        marker: Marker,
        deep: second.2,
        maybe: second.3.then_some(Marker),
        id: Uuid::from_u128(third.0),
        blob: Blob(third.1),
        pair: Pair(third.2.0, third.2.1),
        fixed: third.3,
    })
}

proptest! {
    // Each case decodes every prefix of its bytes.
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn values_come_back(order in order(), everything in everything()) {
        check(&order);
        check(&everything);
    }
}

proptest! {
    #[test]
    fn numbers_come_back(signed: i64, unsigned: u64, shift in 0..64_u32, wide: f64) {
        check(&(signed >> shift));
        check(&(unsigned >> shift));
        if !wide.is_nan() {
            check(&wide);
        }
    }

    #[test]
    fn hostile_bytes_never_panic(bytes in vec(any::<u8>(), 0..200)) {
        let (orders, rest) = (table_of::<Order>(), table_of::<Everything>());
        // What decodes may be written otherwise, but it comes back as the same value.
        if let Ok(order) = decode::<Order>(&orders, &bytes) {
            prop_assert_eq!(decode::<Order>(&orders, &encoded(&orders, &order)).unwrap(), order);
        }
        drop(decode::<Everything>(&rest, &bytes));
        drop(decode::<Vec<Option<Option<()>>>>(&rest, &bytes));
        drop(decode::<serde::de::IgnoredAny>(&rest, &bytes));
        drop(to_json(&orders, Some("State"), &bytes));
    }

    #[test]
    fn damaged_bytes_never_panic(order in order(), at: prop::sample::Index, byte: u8) {
        let table = table_of::<Order>();
        let mut bytes = encoded(&table, &order);
        let at = at.index(bytes.len());
        bytes[at] = byte;
        if let Ok(order) = decode::<Order>(&table, &bytes) {
            let again = encoded(&table, &order);
            prop_assert_eq!(encoded(&table, &decode::<Order>(&table, &again).unwrap()), again);
        }
    }
}

fn sample() -> Order {
    Order {
        id: 300,
        buyer: "ann".into(),
        lines: vec![Line { sku: Sku(7), count: NonZeroU16::MIN, price: 1.5 }],
        note: None,
        state: State::Sent { to: "bob".into(), at: (1, -2) },
        tags: BTreeMap::from([("x".into(), BTreeSet::from([-1, 2]))]),
    }
}

#[test]
fn golden_values_stay_as_they_are() {
    let orders = table_of::<Order>();
    let rest = table_of::<Everything>();
    let everything = Everything {
        bools: (false, true),
        wide: (1, -1),
        small: (-1, -300, 70_000, 200, 60_000, 5),
        letter: 'ä',
        float: 0.5,
        unit: (),
        marker: Marker,
        deep: Some(Some(None)),
        maybe: Some(Marker),
        id: Uuid::from_u128(1),
        blob: Blob(vec![1, 2]),
        pair: Pair(-5, "five".into()),
        fixed: [1, 128, 256],
    };
    let mut table = Vec::new();
    orders.encode(&mut table).unwrap();
    let actual = [
        ("order", encoded(&orders, &sample())),
        ("everything", encoded(&rest, &everything)),
        ("table of order", table.clone()),
    ];
    let stored = include_str!("../../../testdata/codec-values.txt");
    let stored: Vec<_> = stored.lines().filter(|line| !line.starts_with('#')).collect();
    let actual = actual.map(|(name, bytes)| format!("{name}\t{}", crate::codec::hex(&bytes)));
    assert_eq!(actual.as_slice(), stored);
    assert_eq!(FieldTable::decode(&table).unwrap(), orders);
}

#[test]
fn every_name_has_a_number_before_the_first_value() {
    let table = table_of::<Order>();
    let names: BTreeMap<_, _> =
        table.types().map(|names| (names.type_name(), names.names().join(" "))).collect();
    let expected = [
        ("Line", "sku count price"),
        ("Order", "id buyer lines note state tags"),
        ("State", "New Paid Sent Split Bundle"),
        ("State::Sent", "to at"),
    ];
    assert_eq!(names, expected.map(|(name, names)| (name, names.to_owned())).into());
}

mod evolved {
    use super::*;

    /// A later `Order`: other order, a field gone, two new ones.
    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    pub(super) struct Order {
        pub(super) state: State,
        #[serde(default = "five")]
        pub(super) rating: u8,
        pub(super) buyer: String,
        pub(super) coupon: Option<String>,
        pub(super) id: u64,
        pub(super) tags: BTreeMap<String, BTreeSet<i32>>,
        pub(super) lines: Vec<Line>,
    }

    fn five() -> u8 {
        5
    }

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    pub(super) enum State {
        Lost,
        Sent { at: (u8, i16), by: Option<u32>, to: String },
        New,
    }
}

#[test]
fn types_evolve() {
    let old = table_of::<Order>();
    let bytes = encoded(&old, &sample());
    let mut trace = Trace::onto(old.clone());
    trace.add::<evolved::Order>().unwrap();
    let new = trace.finish();
    assert!(new.contains(&old) && !old.contains(&new));
    let order = new.of_type("Order").unwrap();
    assert_eq!(order.names().join(" "), "id buyer lines note state tags rating coupon");

    let later: evolved::Order = decode(&new, &bytes).unwrap();
    assert_eq!((later.id, later.rating, later.coupon.as_ref()), (300, 5, None));
    assert_eq!(later.state, evolved::State::Sent { at: (1, -2), by: None, to: "bob".into() });

    // Code that was rolled back reads what later code wrote, with the old table and with the new.
    let later = evolved::Order { coupon: Some("10%".into()), rating: 1, ..later };
    let bytes = encoded(&new, &later);
    for table in [&old, &new] {
        assert_eq!(decode::<Order>(table, &bytes).unwrap(), sample());
    }

    let lost = evolved::Order { state: evolved::State::Lost, ..later };
    let error = decode::<Order>(&new, &encoded(&new, &lost)).unwrap_err().to_string();
    assert!(error.contains("at Order.state, State.Lost: unknown variant `Lost`"), "{error}");
}

#[test]
fn numbers_can_become_wider() {
    let table = FieldTable::new();
    for number in [0, 1, -1, 127, -128, i32::MAX, i32::MIN] {
        let bytes = encoded(&table, &number);
        assert_eq!(decode::<i64>(&table, &bytes).unwrap(), i64::from(number));
        assert_eq!(decode::<i128>(&table, &bytes).unwrap(), i128::from(number));
        assert_eq!(decode::<u128>(&table, &bytes).ok(), u128::try_from(number).ok());
        assert_eq!(decode::<u8>(&table, &bytes).ok(), u8::try_from(number).ok());
    }
    let bytes = encoded(&table, &0.5_f32);
    assert_eq!(decode::<f64>(&table, &bytes).unwrap().to_bits(), 0.5_f64.to_bits());
}

#[test]
fn values_are_shown_as_json() {
    let table = table_of::<Order>();
    let bytes = encoded(&table, &sample());
    assert_eq!(
        to_json(&table, Some("Order"), &bytes).unwrap(),
        r#"{"id":300,"buyer":"ann","lines":[{"0":7,"1":1,"2":1.5}],"note":null,"#.to_owned()
            + r#""state":{"2":{"0":"bob","1":[1,-2]}},"tags":{"x":[-1,2]}}"#
    );
    let state = encoded(&table, &sample().state);
    let shown = to_json(&table, Some("State"), &state).unwrap();
    assert_eq!(shown, r#"{"Sent":{"to":"bob","at":[1,-2]}}"#);
    assert_eq!(to_json(&table, Some("State"), &encoded(&table, &State::New)).unwrap(), r#""New""#);
    let odd = (Blob(vec![1, 255]), "\"\\\n", f64::NAN, Some(()), BTreeMap::from([(1, true)]));
    let shown = to_json(&table, None, &encoded(&table, &odd)).unwrap();
    assert_eq!(shown, r#"["01ff","\"\\\u000a",null,null,{"1":true}]"#);
    for cut in 0..bytes.len() {
        to_json(&table, Some("Order"), &bytes[..cut]).unwrap_err();
    }
    to_json(&table, None, &[0x91].repeat(1_000_000)).unwrap_err();
}

#[test]
fn a_merged_table_keeps_every_number() {
    let mut table = table_of::<Order>();
    let before = table.clone();
    table.merge(&table_of::<evolved::Order>());
    assert!(table.contains(&before));
    assert!(!table.contains(&table_of::<evolved::Order>()));
    let merged = table.clone();
    table.merge(&before);
    assert_eq!(table, merged);
}

#[test]
fn errors_name_type_and_field() {
    #[derive(Debug, Serialize, Deserialize)]
    struct Outer {
        inner: Vec<Inner>,
    }
    #[derive(Debug, Serialize, Deserialize)]
    struct Inner {
        count: u8,
    }
    let table = table_of::<Outer>();
    let problem = |bytes: &[u8]| decode::<Outer>(&table, bytes).unwrap_err().to_string();

    let error = problem(&[0x81, 0, 0x91, 0x81, 0, 0xcd, 1, 0]);
    assert!(error.contains("Outer` at Outer.inner, Inner.count: "), "{error}");
    assert!(error.contains("256"), "{error}");
    let error = problem(&[0x81, 0, 0x91, 0x80]);
    assert!(error.ends_with("at Outer.inner, Inner: missing field `count`"), "{error}");
    let error = problem(&[0x81, 0, 0x91, 0xa1, b'x']);
    assert!(error.ends_with("at Outer.inner: invalid type: a text, expected a map"), "{error}");
    let error = problem(&[0x81, 0, 0x90, 0]);
    assert!(error.ends_with("1 bytes are left over"), "{error}");
    let error = problem(&[0x82, 0, 0x90, 0, 0x90]);
    assert!(error.ends_with("at Outer.inner: duplicate field `inner`"), "{error}");
}

#[test]
fn a_name_without_a_number_is_an_error_and_leaves_nothing() {
    let mut bytes = vec![9];
    let error = encode(&FieldTable::new(), &sample(), &mut bytes).unwrap_err();
    assert!(
        matches!(&error, Error::Encode { problem, .. } if problem.contains("`Order`")),
        "{error}"
    );
    assert_eq!(bytes, [9]);
}

#[test]
fn hostile_lengths_allocate_nothing() {
    let table = FieldTable::new();
    // A sequence, a map, a text and bytes of 4 GiB each.
    decode::<Vec<u64>>(&table, &[0xdd, 0xff, 0xff, 0xff, 0xff, 1]).unwrap_err();
    decode::<BTreeMap<u8, u8>>(&table, &[0xdf, 0xff, 0xff, 0xff, 0xff, 1, 1]).unwrap_err();
    decode::<String>(&table, &[0xdb, 0xff, 0xff, 0xff, 0xff, b'x']).unwrap_err();
    decode::<Blob>(&table, &[0xc6, 0xff, 0xff, 0xff, 0xff, 1]).unwrap_err();
    for bytes in [&[0xdd, 0xff, 0xff, 0xff, 0xff, 1], &[0xdf, 0xff, 0xff, 0xff, 0xff, 1]] {
        decode::<serde::de::IgnoredAny>(&table, bytes).unwrap_err();
    }
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Chain {
    next: Option<Box<Chain>>,
}

#[test]
fn depth_is_bounded_both_ways() {
    let table = table_of::<Chain>();
    let chain = |length: usize| {
        (0..length).fold(Chain { next: None }, |chain, _| Chain { next: Some(chain.into()) })
    };
    // Each link takes two levels: the struct and the `Some`.
    check(&chain(VALUE_DEPTH_MAX / 2 - 1));
    encode(&table, &chain(VALUE_DEPTH_MAX / 2), &mut Vec::new()).unwrap_err();

    // A hostile chain of a million links, as known and as skipped fields.
    let bytes: Vec<u8> = [0x81, 0].repeat(1_000_000);
    let error = decode::<Chain>(&table, &bytes).unwrap_err().to_string();
    assert!(error.contains("deeper"), "{error}");
    let bytes = [&[0x81, 9][..], &[0x91].repeat(1_000_000), &[0xc0]].concat();
    assert_eq!(decode::<Chain>(&table, &bytes).unwrap(), Chain { next: None });
}

#[test]
fn sizes_are_bounded_both_ways() {
    let table = FieldTable::new();
    let mut bytes = Vec::new();
    encode(&table, &"x".repeat(VALUE_BYTES_MAX - 5), &mut bytes).unwrap();
    assert_eq!(bytes.len(), VALUE_BYTES_MAX);
    bytes.clear();
    let too_large = |result| matches!(result, Err(Error::ValueTooLarge { .. }));
    assert!(too_large(encode(&table, &"x".repeat(VALUE_BYTES_MAX - 4), &mut bytes)));
    assert!(too_large(encode(&table, &vec![0_u8; VALUE_BYTES_MAX], &mut bytes)));
    assert!(bytes.is_empty());
    assert!(too_large(decode::<String>(&table, &vec![0; VALUE_BYTES_MAX + 1]).map(drop)));
}

#[test]
fn types_for_self_describing_formats_are_refused_before_anything_is_written() {
    #[derive(Debug, Deserialize)]
    #[serde(tag = "kind")]
    #[allow(dead_code, reason = "only its shape matters")]
    enum Tagged {
        A { x: u8 },
    }
    #[derive(Debug, Deserialize)]
    #[allow(dead_code, reason = "only its shape matters")]
    struct Flat {
        #[serde(flatten)]
        rest: BTreeMap<String, u8>,
    }
    #[derive(Debug, Deserialize)]
    #[allow(dead_code, reason = "only its shape matters")]
    struct Holds {
        things: Option<Vec<Tagged>>,
    }
    fn problem<T: DeserializeOwned>() -> String {
        match Trace::default().add::<T>().unwrap_err() {
            Error::NotStorable { at, problem, .. } => format!("{at}: {problem}"),
            other => panic!("{other}"),
        }
    }
    assert_eq!(problem::<Tagged>(), format!(": {NOT_SELF_DESCRIBING}"));
    assert_eq!(problem::<Holds>(), format!(" at Holds.things: {NOT_SELF_DESCRIBING}"));
    assert!(problem::<Flat>().contains(NOT_SELF_DESCRIBING));
}

#[test]
fn tracing_finds_what_hides_behind_recursion_and_validation() {
    #[derive(Debug, Deserialize)]
    #[allow(dead_code, reason = "only its shape matters")]
    enum Expression {
        Sum(Box<Expression>, Box<Expression>),
        Call { name: String, arguments: Vec<Expression> },
        Inner(Box<Statement>),
        Literal(Literal),
    }
    #[derive(Debug, Deserialize)]
    #[allow(dead_code, reason = "only its shape matters")]
    enum Statement {
        Print { what: Expression },
        Block(Vec<Statement>),
        Empty,
    }
    #[derive(Debug, Deserialize)]
    #[allow(dead_code, reason = "only its shape matters")]
    struct Literal {
        page: Page<Page<u8>>,
        even: Even,
        small: Small,
        address: std::net::SocketAddr,
        last: Hidden,
    }
    /// The same name twice, for two types.
    #[derive(Debug, Deserialize)]
    #[allow(dead_code, reason = "only its shape matters")]
    struct Page<T> {
        rows: Vec<T>,
        more: Option<Hidden>,
    }
    #[derive(Debug, Deserialize)]
    #[allow(dead_code, reason = "only its shape matters")]
    struct Hidden {
        treasure: (),
    }
    #[derive(Debug, Deserialize)]
    #[serde(try_from = "u64")]
    struct Even;
    impl TryFrom<u64> for Even {
        type Error = &'static str;

        fn try_from(number: u64) -> Result<Self, &'static str> {
            if number == 12 { Ok(Self) } else { Err("not twelve") }
        }
    }
    #[derive(Debug, Deserialize)]
    #[serde(try_from = "u64")]
    struct Small;
    impl TryFrom<u64> for Small {
        type Error = &'static str;

        fn try_from(number: u64) -> Result<Self, &'static str> {
            if number < 2 { Ok(Self) } else { Err("not small") }
        }
    }
    let table = table_of::<BTreeMap<u8, Expression>>();
    for (name, names) in [
        ("Expression", "Sum Call Inner Literal"),
        ("Expression::Call", "name arguments"),
        ("Statement", "Print Block Empty"),
        ("Statement::Print", "what"),
        ("Literal", "page even small address last"),
        ("Page", "rows more"),
        ("Hidden", "treasure"),
    ] {
        let found = table.of_type(name).unwrap_or_else(|| panic!("{name} was not found"));
        assert_eq!(found.names().join(" "), names);
    }
}

#[test]
fn a_type_that_refuses_everything_is_reported() {
    #[derive(Debug, Deserialize)]
    #[serde(try_from = "u64")]
    struct Never;
    impl TryFrom<u64> for Never {
        type Error = &'static str;

        fn try_from(_: u64) -> Result<Self, &'static str> {
            Err("no number is good enough")
        }
    }
    #[derive(Debug, Deserialize)]
    #[allow(dead_code, reason = "only its shape matters")]
    struct Holder {
        never: Never,
    }
    let error = Trace::default().add::<Holder>().unwrap_err().to_string();
    assert!(error.contains("at Holder.never: no number is good enough"), "{error}");
}

#[test]
fn sequences_of_unknown_length_are_counted() {
    struct Evens(u32);
    impl Serialize for Evens {
        fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            serializer.collect_seq((0..self.0).filter(|number| number % 2 == 0))
        }
    }
    let table = FieldTable::new();
    let numbers: Vec<u32> = decode(&table, &encoded(&table, &Evens(7))).unwrap();
    assert_eq!(numbers, [0, 2, 4, 6]);
}

#[test]
fn a_damaged_table_is_an_error() {
    let mut bytes = Vec::new();
    table_of::<Order>().encode(&mut bytes).unwrap();
    for cut in 0..bytes.len() {
        FieldTable::decode(&bytes[..cut]).unwrap_err();
    }
    for at in 0..bytes.len() {
        for bit in 0..8 {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1 << bit;
            // The catalogue's checksum finds damage; here it must only not panic, nor be the same.
            if let Ok(table) = FieldTable::decode(&damaged) {
                assert_ne!(table, table_of::<Order>());
            }
        }
    }
}
