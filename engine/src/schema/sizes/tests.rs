//! What keys lead to, and which sizes can be kept.

use super::*;
use crate::codec::key::encode_key;
use crate::codec::table::Trace;
use crate::module;
use crate::schema::{List, Map, Schema, Set, Sub};

#[derive(Schema)]
struct Book {
    title: String,
    tags: Sub<Set<u8>>,
    notes: Sub<List<u8>>,
}

#[derive(Schema)]
struct Loose {
    seen: Sub<Set<u8>, Uncounted>,
}

type Deep = Map<u16, Sub<Map<String, Sub<Set<u8>>>>>;
type Plain = Map<u16, Sub<Map<u8, u64>, Uncounted>>;
type Alone = Map<u8, Book>;
type Shelf = Map<u8, Sub<Map<u8, Book>>>;

/// Maps in maps, all of which count.
type Two<V> = Sub<Map<u8, Sub<Map<u8, V>>>>;
type Eight = Two<Two<Two<Two<u8>>>>;
type Nine = Sub<Map<u8, Eight>>;

fn layout<S: Schema>() -> Result<Layout> {
    Layout::of::<S>(&mut Trace::default())
}

fn refusal<S: Schema>() -> String {
    layout::<S>().unwrap_err().to_string()
}

/// What a key leads to, and how long the prefixes are of the collections that count it.
fn check<S: Schema>(key: &[u8], expected: Place, lens: &[usize]) {
    let (place, mut around) = layout::<S>().unwrap().place(key);
    let mut found = Vec::new();
    while let Some((len, outer)) = around.pop() {
        found.insert(0, len);
        around = outer;
    }
    assert_eq!((place, &*found), (expected, lens), "{key:?}");
}

#[test]
fn a_key_leads_to_a_row_and_to_what_counts_it() {
    check::<Deep>(&[], Place::Collection, &[]);
    check::<Deep>(&[0], Place::Between, &[]);
    check::<Deep>(&[0, 7], Place::Collection, &[]);
    let inner = [&[0, 7][..], &encode_key("ab")].concat();
    check::<Deep>(&inner, Place::Collection, &[2]);
    check::<Deep>(&inner[..3], Place::Between, &[2]);
    check::<Deep>(&[&*inner, &[9]].concat(), Place::Row, &[2, inner.len()]);
    check::<Deep>(&[&*inner, &[9, 9]].concat(), Place::Between, &[2, inner.len()]);
    check::<Plain>(&[0, 7, 1], Place::Row, &[]);
    assert!(!layout::<Plain>().unwrap().keeps_sizes());
    assert!(layout::<Deep>().unwrap().keeps_sizes());
    // A record counts its fields only where it is counted itself.
    check::<Alone>(&[7, 1], Place::Row, &[]);
    check::<Alone>(&[7, 2, 5], Place::Row, &[2]);
    check::<Alone>(&[7, 3, list::HEAD], Place::ListHead, &[]);
    check::<Shelf>(&[7, 8], Place::Collection, &[1]);
    check::<Shelf>(&[7, 8, 1], Place::Row, &[1, 2]);
    check::<Shelf>(&[7, 8, 9], Place::Between, &[1, 2]);
    check::<Shelf>(&[7, 8, 2, 5], Place::Row, &[1, 2, 3]);
    check::<Shelf>(&[7, 8, 3], Place::List, &[1, 2]);
    check::<Shelf>(&[7, 8, 3, list::HEAD], Place::ListHead, &[1, 2]);
    check::<Shelf>(&[7, 8, 3, 1, 0], Place::ListRow, &[1, 2]);
}

#[derive(Schema)]
struct Board {
    columns: Sub<List<Sub<Map<u8, Book>>>>,
}

#[test]
fn what_is_counted_begins_anew_in_an_item() {
    type Boards = Map<u8, Sub<Map<u8, Board>>>;
    let item = [7, 8, 1, 0xff, 0, 0, 0, 0, 0, 0, 0, 9];
    let at = |rest: &[u8]| [&item[..], rest].concat();
    check::<Boards>(&[7, 8, 1], Place::List, &[1, 2]);
    check::<Boards>(&[7, 8, 1, list::HEAD], Place::ListHead, &[1, 2]);
    check::<Boards>(&item[..11], Place::ListRow, &[1, 2]);
    check::<Boards>(&item, Place::Collection, &[]);
    check::<Boards>(&at(&[5, 1]), Place::Row, &[12, 13]);
    check::<Boards>(&at(&[5, 2, 6]), Place::Row, &[12, 13, 14]);
    check::<Boards>(&at(&[5, 3, list::HEAD]), Place::ListHead, &[12, 13]);
    // Eight that count lie around it, and none does.
    layout::<Map<u8, Two<Two<Two<Sub<List<Eight>>>>>>>().unwrap();
    assert!(refusal::<Map<u8, Sub<List<Nine>>>>().contains("at values > items > values"));
    // A list of what does not count keeps no sizes, and may lie in what does.
    let loose = layout::<Map<u8, Sub<List<Sub<Set<u8>, Uncounted>>>>>().unwrap();
    assert!(!loose.keeps_sizes());
    layout::<Map<u8, Sub<Map<u8, Sub<List<Loose>>>>>>().unwrap();
}

#[test]
fn a_head_is_shown_as_one() {
    let shelf = layout::<Shelf>().unwrap();
    let shown = |key: &[u8]| serde_json::Value::from(shelf.row(key).unwrap().0).to_string();
    assert_eq!(shown(&[7]), r#"[7,"head"]"#);
    assert_eq!(shown(&[7, 8]), r#"[7,8,"head"]"#);
    assert_eq!(shown(&[7, 8, 2]), r#"[7,8,"tags","head"]"#);
    let plain = layout::<Map<u8, Sub<Set<u8>, Uncounted>>>().unwrap();
    plain.row(&[7]).unwrap_err();
    layout::<Map<u8, Book>>().unwrap().row(&[7]).unwrap_err();
}

#[test]
fn what_is_in_a_collection_that_counts_counts() {
    let refused = refusal::<Map<u8, Sub<Map<u8, Sub<Set<u8>, Uncounted>>>>>();
    let parts = [
        "the size of `Sub<Set<u8>, Uncounted>` at values > values cannot be kept",
        "let it count too",
    ];
    for part in parts {
        assert!(refused.contains(part), "{refused}");
    }
    let refused = refusal::<Map<u8, Sub<Map<u8, Loose>>>>();
    assert!(refused.contains("at values > values > Loose.seen"), "{refused}");
    layout::<Map<u8, Loose>>().unwrap();
    layout::<Map<u8, Sub<Map<u8, Sub<Set<u8>, Uncounted>>, Uncounted>>>().unwrap();
    layout::<Map<u8, Sub<Map<u8, Sub<Set<u8>>>, Uncounted>>>().unwrap();
    assert!(refusal::<Map<u8, Sub<Set<((), ())>>>>().contains("its keys have no bytes"));
    layout::<Map<u8, Sub<Set<()>, Uncounted>>>().unwrap();
}

#[test]
fn a_module_is_not_built_whose_sizes_cannot_be_kept() {
    let built = module::define("m", |m| {
        let depot = m.depot::<u8>("depot").random();
        let t = m.microbatch(|| "t");
        t.pstate::<Map<u8, Sub<Map<u8, Sub<Set<u8>, Uncounted>>>>>("seen");
        t.source(depot).for_each(async |_, _| Ok(()));
    });
    let Err(error @ module::Error::NotCountable { .. }) = built else { panic!("it was built") };
    assert!(error.to_string().contains("PState `seen`, declared at "), "{error}");
    let source = std::error::Error::source(&error).unwrap();
    assert!(source.to_string().contains("`Sub<Set<u8>, Uncounted>`"), "{source}");
}

#[test]
fn only_so_many_that_count_lie_in_each_other() {
    let eight = layout::<Map<u8, Eight>>().unwrap();
    let (place, around) = eight.place(&[0; 9]);
    assert_eq!((place, around.pop().unwrap().0), (Place::Row, 8));
    assert!(
        refusal::<Map<u8, Nine>>().contains("in eight others"),
        "{}",
        refusal::<Map<u8, Nine>>()
    );
}
