//! Additions that must not compile, as in [`crate::schema::misuse`]. They share one beginning with the
//! right ones, which show that it is not the beginning that is refused.

macro_rules! cases {
    ($fence:literal, $($code:literal)*) => {
        $(
            #[doc = concat!("```", $fence, r#"
# use std::collections::{BTreeMap, BTreeSet};
# use tidemill::schema::aggregate::*;
# use tidemill::schema::{List, Map, Owned, Set, Sub};
# enum Desk {}
# enum Union {}
# impl Combiner for Union {
#     type Value = i64;
#     fn zero() -> i64 { 0 }
#     fn combine(earlier: i64, later: i64) -> i64 { earlier | later }
# }
# enum Turns {}
# impl Accumulator for Turns {
#     type Input = u8;
#     type Value = i64;
#     fn init() -> i64 { 0 }
#     fn accumulate(value: &mut i64, input: u8) { *value += i64::from(input); }
# }
# fn module(
#     sum: Owned<Map<u64, i64>, Desk>,
#     truth: Owned<Map<u64, bool>, Desk>,
#     mean: Owned<Map<u64, Mean<i32>>, Desk>,
#     list: Owned<Map<u64, Vec<i64>>, Desk>,
#     set: Owned<Map<u64, BTreeSet<String>>, Desk>,
#     map: Owned<Map<u64, BTreeMap<String, u32>>, Desk>,
#     top: Owned<Map<u64, Top<u64, i64, 10>>, Desk>,
#     sub_set: Owned<Map<u64, Sub<Set<String>>>, Desk>,
#     sub_list: Owned<Map<u64, Sub<List<i64>>>, Desk>,
#     sub_map: Owned<Map<u64, Sub<Map<String, u32>>>, Desk>,
# ) {
"#, $code, "\n# }\n# fn main() {}\n```")]
            const _: () = ();
        )*
    };
}

cases! {
    "no_run",
    r#"
let _ = sum.key(1).add(Sum(7));
let _ = sum.key(1).add(Count);
let _ = sum.key(1).add(Combined::<Union>(0b100));
let _ = sum.key(1).add(Accumulate::<Turns>(7));
let _ = truth.key(1).add(And(true));
let _ = truth.key(1).add(Void);
let _ = mean.key(1).add(Average(7));
let _ = list.key(1).add(Limit::<3, _>(7));
let _ = set.key(1).add(SetRemove("ann".to_owned()));
let _ = map.key(1).add(MapOf("ann".to_owned(), 3));
let _ = map.key(1).add(MergeMap(BTreeMap::new()));
let _ = map.key(1).add(MultiSet("ann".to_owned()));
let _ = top.key(1).add(TopN(7, 3));
let _ = sub_set.key(1).add(SetRemove("ann".to_owned()));
let _ = sub_list.key(1).add(ListOf(7));
let _ = sub_map.key(1).add(MapOf("ann".to_owned(), 3));
let _ = sub_map.key(1).add(MergeMap(BTreeMap::new()));
let _ = sub_map.key(1).add(MultiSet("ann".to_owned()));
"#
}

// A truth in a number, and a number as a truth.
cases! {
    "compile_fail,E0277",
    "let _ = sum.key(1).add(And(true));"
    "let _ = truth.key(1).add(Sum(1));"
}

// An average where no `Mean` is stored, of another type, and of what is no number.
cases! {
    "compile_fail,E0277",
    "let _ = sum.key(1).add(Average(7_i64));"
    "let _ = mean.key(1).add(Average(7_u64));"
    r#"let _ = mean.key(1).add(Average("seven".to_owned()));"#
}

// Elements of another type, or of another kind of collection.
cases! {
    "compile_fail,E0277",
    "let _ = set.key(1).add(SetRemove(7));"
    "let _ = sub_set.key(1).add(SetRemove(7));"
    r#"let _ = sub_map.key(1).add(SetRemove("ann".to_owned()));"#
    r#"let _ = sub_set.key(1).add(MultiSet("ann".to_owned()));"#
    "let _ = sub_map.key(1).add(MultiSet(7));"
    r#"let _ = list.key(1).add(Limit::<3, _>("ann".to_owned()));"#
    r#"let _ = sub_list.key(1).add(ListOf("ann".to_owned()));"#
    "let _ = sub_list.key(1).add(Limit::<3, _>(7));"
    r#"let _ = sub_set.key(1).add(ListOf("ann".to_owned()));"#
}

// Keys and values of another type.
cases! {
    "compile_fail,E0277",
    "let _ = sub_map.key(1).add(MapOf(7, 3));"
    r#"let _ = sub_map.key(1).add(MapOf("ann".to_owned(), "three".to_owned()));"#
    r#"let _ = map.key(1).add(MapOf("ann".to_owned(), "three".to_owned()));"#
    "let _ = sub_map.key(1).add(MergeMap(BTreeMap::from([(7, 3)])));"
}

// The best, where they are no `Top`, and by scores of another type.
cases! {
    "compile_fail,E0277",
    "let _ = list.key(1).add(TopN(7_u64, 3_i64));"
    r#"let _ = top.key(1).add(TopN(7_u64, "high".to_owned()));"#
}

// Rules of one's own for values of another type, and into a `Sub`.
cases! {
    "compile_fail,E0277",
    "let _ = truth.key(1).add(Combined::<Union>(0b100));"
    "let _ = truth.key(1).add(Accumulate::<Turns>(7));"
    "let _ = sub_map.key(1).add(Accumulate::<Turns>(7));"
}
