//! What is found out about types, held against what the decoder does with values of them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::*;
use crate::codec::{decode, encode};

fn kind<T: DeserializeOwned>() -> ValueKind {
    Trace::default().kind_of::<T>().unwrap()
}

/// A kind as text: its shape, then the types in it.
fn shown<T: DeserializeOwned>() -> String {
    fn fields(kind: &ValueKind, fields: &[shape::FieldShape]) -> String {
        let shown = |it: &shape::FieldShape| {
            let mark = if it.optional { "?" } else { "" };
            format!("{}{mark}: {}", it.name, kind.written(&it.shape))
        };
        format!("{{{}}}", fields.iter().map(shown).collect::<Vec<_>>().join(", "))
    }
    let kind = kind::<T>();
    let mut text = kind.written(&kind.shape).to_string();
    for it in &kind.types {
        let inside = match it {
            shape::TypeShape::Struct { fields: all, .. } => fields(&kind, all),
            shape::TypeShape::Enum { variants, .. } => {
                let shown = |it: &shape::VariantShape| match &it.content {
                    shape::Content::Unit => it.name.clone(),
                    shape::Content::Newtype(shape) => {
                        format!("{}({})", it.name, kind.written(shape))
                    }
                    shape::Content::Tuple(parts) => {
                        let tuple = ValueShape::Tuple(parts.clone());
                        format!("{}{}", it.name, kind.written(&tuple))
                    }
                    shape::Content::Struct(all) => format!("{}{}", it.name, fields(&kind, all)),
                    shape::Content::Unseen | shape::Content::Opaque => format!("{}?!", it.name),
                };
                variants.iter().map(shown).collect::<Vec<_>>().join(" | ")
            }
        };
        write!(text, "; {} = {inside}", it.name()).unwrap();
    }
    text
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Tree {
    left: Option<Box<Tree>>,
    #[serde(default)]
    tags: Vec<(u8, Leaf)>,
    more: BTreeMap<String, Tree>,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
enum Leaf {
    Empty,
    One(f32),
    Two(char, [i16; 2]),
    Rest { size: u128, tree: Option<Box<Tree>> },
}

#[test]
fn shapes_are_those_of_the_types() {
    assert_eq!(shown::<u8>(), "u8");
    assert_eq!(shown::<Vec<Option<(String, i128, bool)>>>(), "Vec<Option<(String, i128, bool)>>");
    assert_eq!(shown::<BTreeMap<uuid::Uuid, BTreeSet<()>>>(), "BTreeMap<bytes, Vec<()>>");
    assert_eq!(
        shown::<Vec<Tree>>(),
        "Vec<Tree>; Tree = {left?: Option<Tree>, tags?: Vec<(u8, Leaf)>, more: BTreeMap<String, Tree>}; \
         Leaf = Empty | One(f32) | Two(char, (i16, i16)) | Rest{size: u128, tree?: Option<Tree>}"
    );
    assert_eq!(kind::<BTreeMap<String, Tree>>().name, "BTreeMap<String, Tree>");
}

#[test]
fn every_variant_is_visited_however_deep_it_lies() {
    #[derive(Debug, Deserialize)]
    #[allow(dead_code, reason = "only its shape matters")]
    enum Outer {
        Plain,
        Holds(Middle),
        Again(Box<Outer>, Vec<Inner>),
    }
    #[derive(Debug, Deserialize)]
    #[allow(dead_code, reason = "only its shape matters")]
    enum Middle {
        Plain,
        Holds { first: Inner, second: Option<Inner> },
    }
    #[derive(Debug, Deserialize)]
    #[allow(dead_code, reason = "only its shape matters")]
    enum Inner {
        X {
            x: u8,
        },
        Y {
            y: u8,
            #[serde(default)]
            z: u16,
        },
        Up(Option<Box<Outer>>),
    }
    assert_eq!(
        shown::<Outer>(),
        "Outer; Outer = Plain | Holds(Middle) | Again(Outer, Vec<Inner>); \
         Middle = Plain | Holds{first: Inner, second?: Option<Inner>}; \
         Inner = X{x: u8} | Y{y: u8, z?: u16} | Up(Option<Outer>)"
    );
    let mut trace = Trace::default();
    trace.add::<Outer>().unwrap();
    let table = trace.finish();
    assert_eq!(table.of_type("Inner::Y").unwrap().names(), ["y", "z"]);
}

#[test]
fn a_variant_is_found_by_its_parts_however_long_they_are() {
    let mut table = FieldTable::new();
    let parts = [1, 60, 63, 64, 200].map(|bytes| ("E".repeat(bytes), "v".repeat(bytes)));
    for (name, variant) in &parts {
        table.assign(&format!("{name}::{variant}"), [variant.as_str()]);
    }
    for (name, variant) in &parts {
        assert_eq!(table.of_variant(name, variant).unwrap().names(), [variant.as_str()]);
        assert_eq!(table.of_variant(variant, name), None);
    }
}

#[test]
fn a_trace_of_several_types_tells_of_each_what_it_would_tell_alone() {
    let mut trace = Trace::default();
    trace.add::<BTreeMap<u8, Leaf>>().unwrap();
    assert_eq!(trace.kind_of::<Leaf>().unwrap(), kind::<Leaf>());
    assert_eq!(trace.kind_of::<Vec<Tree>>().unwrap(), kind::<Vec<Tree>>());
}

#[test]
fn fields_may_be_missing_exactly_if_a_value_without_them_is_read() {
    #[derive(Debug, Deserialize)]
    #[allow(dead_code, reason = "only its shape matters")]
    struct Deep {
        a: Option<u8>,
        b: u8,
        inner: Picky,
        #[serde(default = "seven")]
        c: u8,
        d: Option<Picky>,
    }
    /// Its own check must not be taken for a missing field.
    #[derive(Debug, Deserialize)]
    #[serde(try_from = "Raw")]
    #[allow(dead_code, reason = "only its shape matters")]
    struct Picky(u8);
    #[derive(Debug, Deserialize)]
    #[serde(rename = "Picky")]
    struct Raw {
        level: u8,
        #[serde(default)]
        bonus: u8,
    }
    impl TryFrom<Raw> for Picky {
        type Error = &'static str;

        fn try_from(raw: Raw) -> std::result::Result<Self, &'static str> {
            if raw.bonus > 10 { Ok(Self(raw.level)) } else { Err("too little") }
        }
    }
    fn seven() -> u8 {
        7
    }
    assert_eq!(
        shown::<Deep>(),
        "Deep; Deep = {a?: Option<u8>, b: u8, inner: Picky, c?: u8, d?: Option<Picky>}; \
         Picky = {level: u8, bonus?: u8}"
    );
}

/// Every value of `From` is read as the same `To`, or `widen` says why not.
fn check<From: Serialize + DeserializeOwned, To: Serialize + DeserializeOwned>(samples: &[From]) {
    let mut trace = Trace::default();
    let (from, to) = (trace.kind_of::<From>().unwrap(), trace.kind_of::<To>().unwrap());
    let table = trace.finish();
    let reads = samples.iter().all(|sample| {
        let mut bytes = Vec::new();
        encode(&table, sample, &mut bytes).unwrap();
        let read = decode::<To>(&table, &bytes);
        // A `u128` is read as an `i128`, and as a UUID, but not as what it was.
        let json = serde_json::to_string(sample).unwrap();
        read.is_ok_and(|read| serde_json::to_string(&read).unwrap() == json)
    });
    let fits = from.widen(&to);
    assert_eq!(fits.is_ok(), reads, "{} as {}: {fits:?}", from.name, to.name);
    if let Ok(wider) = fits {
        assert_eq!(wider, to);
    }
}

#[test]
fn a_type_fits_another_exactly_if_its_extreme_values_are_read() {
    macro_rules! all {
        (@ [$($from:ty: $samples:expr),* $(,)?] $all:tt) => {
            $( all!(@@ $from: $samples, $all); )*
        };
        (@@ $from:ty: $samples:expr, [$($to:ty: $ignored:expr),* $(,)?]) => {
            $( check::<$from, $to>(&$samples); )*
        };
        ($all:tt) => {
            all!(@ $all $all);
        };
    }
    all!([
        u8: [0, u8::MAX],
        u16: [0, u16::MAX],
        u32: [0, u32::MAX],
        u64: [0, u64::MAX],
        u128: [0, u128::MAX],
        i8: [i8::MIN, i8::MAX],
        i16: [i16::MIN, i16::MAX],
        i32: [i32::MIN, i32::MAX],
        i64: [i64::MIN, i64::MAX],
        i128: [i128::MIN, i128::MAX],
        bool: [false, true],
        char: ['a', 'ä'],
        String: [String::new(), "two words".to_owned()],
        (): [()],
        Option<u8>: [None, Some(255)],
        Option<u16>: [None, Some(u16::MAX)],
        Option<Option<u16>>: [None, Some(None), Some(Some(u16::MAX))],
        Option<()>: [None, Some(())],
        Vec<u8>: [vec![], vec![1, 2, 3]],
        Vec<u32>: [vec![], vec![u32::MAX; 3]],
        (u8, u8): [(1, 255)],
        (u8, i64): [(255, i64::MIN)],
        (u8, u8, u8): [(1, 2, 255)],
        BTreeMap<u8, i8>: [BTreeMap::from([(255, -1)]), BTreeMap::new()],
        BTreeMap<u16, i16>: [BTreeMap::from([(u16::MAX, i16::MIN)]), BTreeMap::new()],
        Leaf: [Leaf::Empty, Leaf::One(1.5), Leaf::Rest { size: 1, tree: None }],
        Tree: [Tree { left: None, tags: vec![], more: BTreeMap::new() }],
        uuid::Uuid: [uuid::Uuid::from_u128(u128::MAX)],
    ]);
}

mod versions {
    //! One struct over time.

    use serde::{Deserialize, Serialize};

    macro_rules! version {
        ($name:ident { $($field:tt)* }) => {
            pub(super) mod $name {
                use super::*;

                #[derive(Debug, PartialEq, Serialize, Deserialize)]
                pub(in super::super) struct Sale { $($field)* }
            }
        };
    }
    version!(first { pub(in super::super) sku: String, pub(in super::super) count: u32 });
    version!(wider {
        sku: String,
        count: i64,
        note: Option<String>,
        #[serde(default)] gift: bool,
    });
    version!(narrow { sku: String, count: u8 });
    version!(required { sku: String, count: u32, note: String });
    version!(lost { sku: String });
    version!(back_as_text {
        sku: String,
        #[serde(default)]
        count: String
    });
    version!(back_required { sku: String, count: u32 });
    version!(back {
        #[serde(default)]
        count: u64,
        sku: String
    });

    #[derive(Serialize, Deserialize)]
    pub(super) struct Sold {
        sku: String,
        count: u32,
    }

    #[derive(Serialize, Deserialize)]
    pub(super) enum Event {
        Made,
        Paid(u8),
        Sent { to: String, by: u16 },
    }

    pub(super) mod later {
        use super::*;

        #[derive(Serialize, Deserialize)]
        pub(in super::super) enum Event {
            Lost,
            Sent { to: String, by: u32, at: Option<u64> },
            Paid(u16),
            Made,
        }
    }

    pub(super) mod fewer {
        use super::*;

        #[derive(Serialize, Deserialize)]
        pub(in super::super) enum Event {
            Made,
            Paid(u8),
        }
    }

    pub(super) mod other {
        use super::*;

        #[derive(Serialize, Deserialize)]
        pub(in super::super) enum Event {
            Made,
            Paid,
            Sent { to: String, by: u16 },
        }
    }
}

use versions::{back, back_as_text, back_required, first, lost, narrow, required, wider};

/// `Some(stored, declared, where)` if it does not fit.
fn misfit<From: DeserializeOwned, To: DeserializeOwned>() -> (String, String, String, String) {
    let Misfit { at, stored, declared, why } = kind::<From>().widen(&kind::<To>()).unwrap_err();
    (at.join(" > "), stored, declared, why)
}

#[test]
fn what_does_not_fit_is_told_with_its_place() {
    let (at, stored, declared, why) = misfit::<Vec<first::Sale>, Vec<narrow::Sale>>();
    assert_eq!((&*at, &*stored, &*declared), ("elements > Sale.count", "u32", "u8"));
    assert!(why.contains("every number"), "{why}");
    let (at, stored, declared, why) = misfit::<first::Sale, required::Sale>();
    assert_eq!((&*at, &*stored, &*declared), ("Sale.note", "nothing", "String"));
    assert!(why.contains("`#[serde(default)]`"), "{why}");
    let (at, stored, declared, why) = misfit::<first::Sale, versions::Sold>();
    assert_eq!((&*at, &*stored, &*declared), ("", "Sale", "Sold"));
    assert!(why.contains("#[serde(rename = \"Sale\")]"), "{why}");
    let (at, stored, declared, why) = misfit::<versions::Event, versions::fewer::Event>();
    assert_eq!((&*at, &*stored, &*declared), ("", "Event::Sent", "Event"));
    assert!(why.contains("gone"), "{why}");
    let (at, stored, declared, _) = misfit::<versions::Event, versions::other::Event>();
    assert_eq!((&*at, &*stored, &*declared), ("", "Event::Paid(u8)", "Event::Paid"));
    let (at, stored, declared, why) = misfit::<versions::later::Event, versions::Event>();
    assert_eq!((&*at, &*stored, &*declared), ("", "Event::Lost", "Event"), "{why}");
    let (at, stored, declared, why) = misfit::<(u8, Option<String>), (u8, String)>();
    assert_eq!((&*at, &*stored, &*declared), ("part 1", "Option<String>", "String"));
    assert!(why.contains("`None` may be stored"), "{why}");
    let (at, stored, declared, _) = misfit::<BTreeMap<u8, i8>, BTreeMap<u8, String>>();
    assert_eq!((&*at, &*stored, &*declared), ("values", "i8", "String"));
    let (at, stored, declared, _) = misfit::<first::Sale, versions::Event>();
    assert_eq!((&*at, &*stored, &*declared), ("", "struct Sale", "enum Event"));
}

#[test]
fn what_was_added_and_widened_fits_and_what_was_lost_is_remembered() {
    let (one, two) = (kind::<first::Sale>(), kind::<wider::Sale>());
    assert_eq!(one.widen(&two).unwrap(), two);
    two.widen(&one).unwrap_err();
    let event = kind::<versions::Event>();
    let later = kind::<versions::later::Event>();
    assert_eq!(event.widen(&later).unwrap(), later);

    // The field is dropped, and stays known.
    let lost = one.widen(&kind::<lost::Sale>()).unwrap();
    assert_ne!(lost, kind::<lost::Sale>());
    assert_eq!(lost.widen(&kind::<lost::Sale>()).unwrap(), lost);
    let text = lost.widen(&kind::<back_as_text::Sale>()).unwrap_err();
    assert_eq!((&*text.stored, &*text.declared), ("u32", "String"));
    let required = lost.widen(&kind::<back_required::Sale>()).unwrap_err();
    assert_eq!((&*required.stored, &*required.declared), ("u32, or nothing", "u32"));
    assert_eq!(lost.widen(&kind::<back::Sale>()).unwrap(), kind::<back::Sale>());

    // And the decoder agrees.
    let mut trace = Trace::default();
    trace.add::<first::Sale>().unwrap();
    trace.add::<wider::Sale>().unwrap();
    trace.add::<back::Sale>().unwrap();
    let table = trace.finish();
    let mut bytes = Vec::new();
    encode(&table, &first::Sale { sku: "nut".into(), count: u32::MAX }, &mut bytes).unwrap();
    decode::<wider::Sale>(&table, &bytes).unwrap();
    decode::<back::Sale>(&table, &bytes).unwrap();
    decode::<narrow::Sale>(&table, &bytes).unwrap_err();
}

#[test]
fn types_that_only_a_lost_field_has_are_remembered_with_it() {
    mod with {
        #[derive(serde::Deserialize)]
        #[allow(dead_code, reason = "only its shape matters")]
        pub(super) struct Outer {
            pub(super) tree: super::Tree,
            pub(super) plain: super::first::Sale,
        }
    }
    mod without {
        #[derive(serde::Deserialize)]
        #[allow(dead_code, reason = "only its shape matters")]
        pub(super) struct Outer {
            pub(super) plain: super::first::Sale,
        }
    }
    mod other {
        #[derive(serde::Deserialize)]
        #[allow(dead_code, reason = "only its shape matters")]
        pub(super) struct Outer {
            pub(super) plain: super::first::Sale,
            #[serde(default)]
            pub(super) tree: Option<Tree>,
        }
        #[derive(serde::Deserialize)]
        #[allow(dead_code, reason = "only its shape matters")]
        pub(super) struct Tree {
            #[serde(default)]
            pub(super) tags: Vec<(u8, u8)>,
        }
    }
    let lost = kind::<with::Outer>().widen(&kind::<without::Outer>()).unwrap();
    let names: Vec<_> = lost.types.iter().map(shape::TypeShape::name).collect();
    assert_eq!(names, ["Outer", "Sale", "Tree", "Leaf"]);
    assert_eq!(lost.widen(&kind::<without::Outer>()).unwrap(), lost);
    assert!(lost.widen(&kind::<with::Outer>()).is_err(), "it was required, and may be missing now");
    let misfit = lost.widen(&kind::<other::Outer>()).unwrap_err();
    assert_eq!(misfit.at.join(" > "), "Outer.tree > Tree.tags > elements > part 1");
    assert_eq!((&*misfit.stored, &*misfit.declared), ("Leaf", "u8"));
}

#[test]
fn a_kind_is_kept_in_json() {
    let kind = kind::<Vec<Tree>>();
    let text = serde_json::to_string(&kind).unwrap();
    assert_eq!(serde_json::from_str::<ValueKind>(&text).unwrap(), kind);
    let small = Trace::default().kind_of::<Option<u8>>().unwrap();
    let text = serde_json::to_string(&small).unwrap();
    assert_eq!(text, r#"{"name":"Option<u8>","shape":{"option":{"unsigned":8}}}"#);
}

#[test]
fn values_are_shown_with_all_their_names() {
    fn shown<T: Serialize + DeserializeOwned>(value: &T) -> String {
        let mut trace = Trace::default();
        let kind = trace.kind_of::<T>().unwrap();
        let table = trace.finish();
        let mut bytes = Vec::new();
        encode(&table, value, &mut bytes).unwrap();
        for cut in 0..bytes.len() {
            crate::codec::value::to_json_of(&table, &kind, &bytes[..cut]).unwrap_err();
        }
        let shown = crate::codec::value::to_json_of(&table, &kind, &bytes).unwrap();
        assert_eq!(shown, serde_json::to_string(value).unwrap());
        shown
    }
    let leaf = |tags| Tree { left: None, tags, more: BTreeMap::new() };
    let inner = leaf(vec![(1, Leaf::Empty), (2, Leaf::One(0.5))]);
    let rest = Leaf::Rest { size: u128::MAX, tree: Some(Box::new(inner)) };
    let tree = Tree {
        left: Some(Box::new(leaf(vec![(7, rest)]))),
        tags: vec![(3, Leaf::Two('ä', [-1, 300]))],
        more: BTreeMap::from([("more".to_owned(), leaf(vec![]))]),
    };
    assert_eq!(
        shown(&tree),
        r#"{"left":{"left":null,"tags":[[7,{"Rest":{"size":340282366920938463463374607431768211455,"tree":{"left":null,"tags":[[1,"Empty"],[2,{"One":0.5}]],"more":{}}}}]],"more":{}},"tags":[[3,{"Two":["ä",[-1,300]]}]],"more":{"more":{"left":null,"tags":[],"more":{}}}}"#
    );
    shown(&vec![Some(Some(Leaf::Empty)), Some(None), None]);
    shown(&BTreeMap::from([(-3_i128, (true, ())), (i128::MIN, (false, ()))]));
}
