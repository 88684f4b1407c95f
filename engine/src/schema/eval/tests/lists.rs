//! Lists and records that are stored by rows: what steps on them read and write.

use super::*;
use crate::schema::{List, Map, Schema, Set, Sub, Uncounted};

type Logs = Map<u32, Sub<List<i64>>>;

/// A list that is long enough for two more levels.
fn logs(count: i64) -> Fixture {
    let fixture = Fixture::of::<Logs>();
    let items: Vec<_> = (0..count).collect();
    let items = serde_json::json!({ "set": items }).to_string();
    let did = fixture.set(r#"[["key",1]]"#, &items).unwrap();
    assert_eq!((did.seeks, did.range_deletes), (0, 1), "it is written whole and nothing is read");
    fixture
}

#[test]
fn items_are_found_in_a_scan_for_each_level() {
    let fixture = logs(10_000);
    // 64^2 < 10,000 < 64^3: head, two levels of blocks, items.
    fixture.check(r#"[["key",1],["nth",5000]]"#, "[5000]", 4, 2 + 64 + 9);
    fixture.check(r#"[["key",1],["nth",-5000]]"#, "[5000]", 4, 2 + 64 + 9);
    fixture.check(r#"[["key",1],["nth",10000]]"#, "[]", 1, 0);
    fixture.check(r#"[["key",1],"first"]"#, "[0]", 1, 1);
    fixture.check(r#"[["key",1],"last"]"#, "[9999]", 1, 1);
    fixture.check(r#"[["key",1],"size"]"#, "[10000]", 1, 0);
    fixture.check(r#"[["key",1],["index",-1]]"#, "[9999]", 1, 0);
    let page = r#"[["key",1],["sublist",5000,5003]]"#;
    let (found, did) = fixture.get(page).unwrap();
    assert_eq!(found[0].to_json().unwrap(), serde_json::json!([5000, 5001, 5002]));
    // One head for the length, and one for the way.
    assert!(did.seeks == 5 && did.rows < 3 * 64, "{did:?}");
    let (found, _) =
        fixture.get(r#"[["key",1],["sublist",100,9000],["sublist",10,-10],"size"]"#).unwrap();
    assert_eq!(found[0].to_json().unwrap(), 8880);
    let (found, _) = fixture.get(r#"[["key",1],["sublist",4,8],"indexed"]"#).unwrap();
    assert_eq!(found[3].to_json().unwrap(), serde_json::json!([3, 7]));
    // Enough is known with one item.
    fixture.check(r#"[["selected",[["key",1],"all"]],["key",1],"first"]"#, "[0]", 2, 2);
    fixture.check(r#"[["key",2],["nth",0]]"#, "[]", 1, 0);
    fixture.check(r#"[["key",2],"size"]"#, "[0]", 1, 0);
    fixture.check(r#"[["key",2]]"#, "[null]", 1, 0);
}

#[test]
fn a_change_of_one_item_writes_a_row_for_each_level() {
    let fixture = logs(10_000);
    let did = |path: &str, term: &str| fixture.set(path, term).unwrap();
    let set = did(r#"[["key",1],["nth",5000]]"#, r#"{"set":-1}"#);
    assert_eq!((set.seeks, set.puts, set.deletes), (4, 1, 0));
    let insert = did(r#"[["key",1],["insert_at",5000]]"#, r#"{"set":-2}"#);
    assert!(insert.puts <= 6 && insert.deletes == 0 && insert.seeks <= 8, "{insert:?}");
    let remove = did(r#"[["key",1],["nth",3]]"#, r#""void""#);
    assert!(remove.puts <= 4 && remove.deletes == 1 && remove.seeks <= 14, "{remove:?}");
    let push = did(r#"[["key",1],"after_last"]"#, r#"{"set":-3}"#);
    assert!(push.puts <= 4 && push.seeks == 1, "{push:?}");
    let moved = did(r#"[["key",1],["index",-1]]"#, r#"{"set":0}"#);
    assert!(moved.puts <= 12, "{moved:?}");
    let ends = r#"[["key",1],["sublist",0,3]]"#;
    let (found, did_read) = fixture.get(ends).unwrap();
    assert_eq!(found[0].to_json().unwrap(), serde_json::json!([-3, 0, 1]));
    // The head for the length, and again for the way.
    assert!(did_read.seeks == 5 && did_read.rows <= 2 * 65 + 3, "{did_read:?}");
    // One of three items is another afterwards.
    let part = did(ends, r#"{"set":[-3,9,1]}"#);
    assert_eq!((part.puts, part.deletes), (1, 0));
    did(ends, r#""void""#);
    let (found, _) = fixture.get(r#"[["key",1],"size"]"#).unwrap();
    assert_eq!(found[0].to_json().unwrap(), 9998);
    let (found, _) = fixture.get(r#"[["key",1],["nth",4996]]"#).unwrap();
    assert_eq!(found[0].to_json().unwrap(), 4999);
    did(r#"[["key",1]]"#, r#""void""#);
    assert!(fixture.store.rows.borrow().is_empty());
}

#[test]
fn an_item_that_typed_code_could_not_read_is_not_stored() {
    let fixture = logs(3);
    let before = fixture.store.rows.borrow().clone();
    for (path, term) in [
        (r#"[["key",1],["nth",1]]"#, r#"{"set":"text"}"#),
        (r#"[["key",1],"after_last"]"#, r#"{"set":null}"#),
        (r#"[["key",1],"end"]"#, r#"{"set":[1,"text"]}"#),
        (r#"[["key",1]]"#, r#"{"set":[1,"text"]}"#),
        (r#"[["key",1],["sublist",0,2]]"#, r#"{"set":[1.5]}"#),
    ] {
        let refused = fixture.set(path, term);
        assert!(matches!(refused, Err(Problem::WrongType { .. })), "{path}: {refused:?}");
    }
    let refused = fixture.set(r#"[["key",1]]"#, r#"{"set":7}"#);
    assert!(matches!(refused, Err(Problem::Mismatch { .. })), "{refused:?}");
    assert_eq!(*fixture.store.rows.borrow(), before);
}

#[test]
fn damaged_lists_are_errors() {
    let fixture = logs(200);
    let (head, _) =
        fixture.store.rows.borrow().iter().next().map(|(k, v)| (k.clone(), v.clone())).unwrap();
    let last = fixture.store.rows.borrow().keys().rfind(|key| key[4] == 1).unwrap().clone();
    fixture.store.rows.borrow_mut().remove(&last);
    let short = fixture.get(r#"[["key",1],["nth",199]]"#).map(drop);
    assert!(matches!(short, Err(Problem::BadRow(_))), "{short:?}");
    let short = fixture.get(r#"[["key",1],["sublist",0,200]]"#).map(drop);
    assert!(matches!(short, Err(Problem::BadRow(_))), "{short:?}");
    fixture.store.rows.borrow_mut().insert(head, vec![0xc0]);
    let damaged = fixture.get(r#"[["key",1],"size"]"#).map(drop);
    assert!(matches!(damaged, Err(Problem::BadRow(_))), "{damaged:?}");
    let odd = [&0_u32.to_be_bytes()[..], &[1, 2, 3]].concat();
    fixture.store.rows.borrow_mut().insert(odd, Vec::new());
    let damaged = fixture.get("[]").map(drop);
    assert!(matches!(damaged, Err(Problem::BadRow(_))), "{damaged:?}");
}

type Games = Map<u32, Sub<List<Sub<Map<String, i64>, Uncounted>>>>;

/// Under each item of a list that is long enough for two more levels, two rows; under the last one none.
fn games(count: i64) -> Fixture {
    let fixture = Fixture::of::<Games>();
    let items = (0..count).map(|nth| serde_json::json!({ "ann": nth, "bob": -nth }));
    let items: Vec<_> = items.chain([serde_json::Value::Null]).collect();
    let items = serde_json::json!({ "set": items }).to_string();
    let did = fixture.set(r#"[["key",1]]"#, &items).unwrap();
    assert_eq!((did.seeks, did.range_deletes), (0, 1), "it is written whole and nothing is read");
    fixture
}

/// What the path gives, and how many seeks it costs; a level of the list costs no more rows than a block has.
fn found(fixture: &Fixture, path: &str, expected: &str, seeks: usize) {
    let (found, did) = fixture.get(path).unwrap();
    let found: Vec<_> = found.iter().map(|it| it.to_json().unwrap()).collect();
    assert_eq!(serde_json::Value::Array(found), Fixture::json(expected), "{path}");
    assert!(did.seeks == seeks && did.rows <= 3 * 65, "{path}: {did:?}");
}

#[test]
fn a_path_goes_on_in_an_item_that_is_a_collection() {
    let fixture = games(5_000);
    // What finding the item costs, and one seek behind it.
    found(&fixture, r#"[["key",1],["nth",2500],["key","bob"]]"#, "[-2500]", 5);
    fixture.check(r#"[["key",1],"first",["key","bob"]]"#, "[0]", 2, 1);
    fixture.check(r#"[["key",1],"last",["key","bob"]]"#, "[null]", 2, 1);
    fixture.check(r#"[["key",1],"last"]"#, "[null]", 2, 1);
    fixture.check(r#"[["key",1],"last",["must","bob"]]"#, "[]", 2, 1);
    found(&fixture, r#"[["key",1],["nth",1],"keys"]"#, r#"["ann","bob"]"#, 5);
    fixture.check(r#"[["key",1],["nth",5001],"keys"]"#, "[]", 1, 0);
    fixture.check(r#"[["key",1],"size"]"#, "[5001]", 1, 0);
    // Enough is known with one item: the ids of so many are looked up at once.
    fixture.check(r#"[["selected",[["key",1],"all"]],["key",1],"size"]"#, "[5001]", 3, 64 + 2);
    let (found, did) =
        fixture.get(r#"[["key",1],["sublist",100,104],"all",["key","ann"]]"#).unwrap();
    let found: Vec<_> = found.iter().map(|it| it.to_json().unwrap()).collect();
    assert_eq!(found, [100, 101, 102, 103]);
    // The head twice, the way to the first, the ids, and a seek for each.
    assert!(did.seeks == 2 + 2 + 1 + 4 && did.rows < 2 * 65 + 64, "{did:?}");
    let (found, _) = fixture.get(r#"[["key",1],["sublist",-2,9000],"indexed"]"#).unwrap();
    let found: Vec<_> = found.iter().map(|it| it.to_json().unwrap()).collect();
    assert_eq!(found[0], serde_json::json!([0, { "ann": 4999, "bob": -4999 }]));
    assert_eq!(found[1], serde_json::json!([1, null]));
}

#[test]
fn a_change_in_an_item_writes_its_rows_and_one_of_items_moves_none() {
    let fixture = games(5_000);
    let did = |path: &str, term: &str| fixture.set(path, term).unwrap();
    let rows = || fixture.store.rows.borrow().len();
    let count = rows();
    let put = did(r#"[["key",1],["nth",2500],["key","bob"]]"#, r#"{"set":7}"#);
    assert_eq!((put.seeks, put.puts, put.deletes), (4, 1, 0));
    found(&fixture, r#"[["key",1],["nth",2500],["key","bob"]]"#, "[7]", 5);
    // What becomes empty stays; what becomes nothing goes, with all that hangs under it.
    let empty = did(r#"[["key",1],["nth",7],"values"]"#, r#""void""#);
    assert_eq!((empty.puts, empty.deletes), (0, 2));
    fixture.check(r#"[["key",1],"size"]"#, "[5001]", 1, 0);
    let remove = did(r#"[["key",1],["nth",2501]]"#, r#""void""#);
    assert!(remove.puts <= 4 && remove.deletes == 1 && remove.range_deletes == 2, "{remove:?}");
    fixture.check(r#"[["key",1],"size"]"#, "[5000]", 1, 0);
    assert_eq!(rows(), count - 2 - 3);
    let moved = did(r#"[["key",1],["index",-2]]"#, r#"{"set":0}"#);
    assert!(moved.puts <= 12 && moved.range_deletes == 0, "{moved:?}");
    fixture.check(r#"[["key",1],"first",["key","bob"]]"#, "[-4999]", 2, 1);
    let new = did(r#"[["key",1],["insert_at",1]]"#, r#"{"set":{"cid":3}}"#);
    assert!(new.puts <= 6, "{new:?}");
    found(&fixture, r#"[["key",1],["nth",1],["key","cid"]]"#, "[3]", 5);
    let set = did(r#"[["key",1],["nth",1]]"#, r#"{"set":{"dan":4}}"#);
    assert_eq!((set.puts, set.range_deletes), (1, 1));
    let (found, _) = fixture.get(r#"[["key",1],["sublist",0,3]]"#).unwrap();
    let expected = serde_json::json!([{"ann":4999,"bob":-4999},{"dan":4},{"ann":0,"bob":0}]);
    assert_eq!(found[0].to_json().unwrap(), expected);
    did(r#"[["key",1]]"#, r#""void""#);
    assert_eq!(rows(), 0);
}

/// Of several paths one removes the item, and the next one writes to it: it stays, with what was written.
#[test]
fn an_item_that_is_written_after_it_became_nothing_stays() {
    let mut fixture = games(3);
    let function = Function::of(|it: Option<i64>| match it {
        Some(2) => None,
        _ => Some(5),
    });
    fixture.functions = Functions::none().with("function", function);
    let both = r#"[["key",1],["nth",1],["multi",[["size"],[["key","ann"]]]]]"#;
    fixture.set(both, r#"{"apply":"function"}"#).unwrap();
    let (found, _) = fixture.get(r#"[["key",1],["sublist",0,3]]"#).unwrap();
    let expected = serde_json::json!([{"ann":0,"bob":0},{"ann":5},{"ann":2,"bob":-2}]);
    assert_eq!(found[0].to_json().unwrap(), expected);
    // The other way round it goes.
    let other = r#"[["key",1],["nth",0],["multi",[[["key","ann"]],["size"]]]]"#;
    fixture.set(other, r#"{"apply":"function"}"#).unwrap();
    let (found, _) = fixture.get(r#"[["key",1],"first"]"#).unwrap();
    assert_eq!(found[0].to_json().unwrap(), serde_json::json!({"ann":5}));
    fixture.check(r#"[["key",1],"size"]"#, "[3]", 1, 0);
}

#[test]
fn what_no_item_can_be_is_not_stored() {
    let fixture = games(3);
    let before = fixture.store.rows.borrow().clone();
    for (path, term) in [
        (r#"[["key",1],["nth",1]]"#, r#"{"set":{"ann":"text"}}"#),
        (r#"[["key",1],"after_last"]"#, r#"{"set":{"ann":null}}"#),
        (r#"[["key",1],["sublist",0,2]]"#, r#"{"set":[{},{"ann":1.5}]}"#),
        (r#"[["key",1],"begin"]"#, r#"{"set":[{"ann":1},{"ann":false}]}"#),
    ] {
        let refused = fixture.set(path, term);
        assert!(matches!(refused, Err(Problem::WrongType { .. })), "{path}: {refused:?}");
    }
    for (path, term) in [
        (r#"[["key",1],["nth",1]]"#, r#"{"set":7}"#),
        (r#"[["key",1],"after_last"]"#, r#"{"set":[1]}"#),
    ] {
        let refused = fixture.set(path, term);
        assert!(matches!(refused, Err(Problem::Mismatch { .. })), "{path}: {refused:?}");
    }
    assert_eq!(*fixture.store.rows.borrow(), before);
}

#[test]
fn rows_of_an_item_that_is_gone_are_passed_over() {
    let fixture = games(3);
    let (before, _) = fixture.get(r#"[["key",1]]"#).unwrap();
    let head = fixture.store.rows.borrow().keys().next().unwrap().clone();
    let list = crate::codec::KeyBuf::from(&head[..head.len() - 1]);
    let mut orphan = crate::schema::list::under(&list, 77).to_vec();
    orphan.extend(b"ann\0");
    fixture.store.rows.borrow_mut().insert(orphan, vec![7]);
    assert_eq!(fixture.get(r#"[["key",1]]"#).unwrap().0, before);
    fixture.check(r#"[["key",1],["nth",2],["key","ann"]]"#, "[2]", 3, 3);
}

#[allow(dead_code, reason = "a type to describe what is stored with")]
#[derive(Schema)]
struct Profile {
    name: String,
    age: u32,
    fans: Sub<Set<String>, Uncounted>,
    #[field(9)]
    posts: Sub<List<String>>,
}

fn profiles() -> Fixture {
    let fixture = Fixture::of::<Map<u32, Profile>>();
    for (path, term) in [
        (r#"[["key",1],["field","Profile","name"]]"#, r#"{"set":"ann"}"#),
        (r#"[["key",1],["key","age"]]"#, r#"{"set":31}"#),
        (r#"[["key",1],["field","Profile","fans"],"new_elem"]"#, r#"{"set":"bob"}"#),
    ] {
        let did = fixture.set(path, term).unwrap();
        assert_eq!(did, Did { puts: 1, ..Did::default() }, "a field is put by itself");
    }
    fixture
        .set(r#"[["key",1],["field","Profile","posts"],"after_last"]"#, r#"{"set":"hi"}"#)
        .unwrap();
    fixture
}

#[test]
fn a_record_is_a_map_of_the_names_of_its_fields() {
    let fixture = profiles();
    fixture.check(r#"[["key",1],["field","Profile","age"]]"#, "[31]", 1, 0);
    fixture.check(r#"[["key",1],["key","name"]]"#, r#"["ann"]"#, 1, 0);
    fixture.check(r#"[["key",2],["key","name"]]"#, "[null]", 1, 0);
    fixture.check(r#"[["key",1],["field","Profile","posts"],["nth",-1]]"#, r#"["hi"]"#, 1, 1);
    let whole = r#"[{"name":"ann","age":31,"fans":["bob"],"posts":["hi"]}]"#;
    let (found, _) = fixture.get(r#"[["key",1]]"#).unwrap();
    assert_eq!(serde_json::json!([found[0].to_json().unwrap()]), Fixture::json(whole));
    let (found, _) = fixture.get(r#"[["key",1],"keys"]"#).unwrap();
    let found: Vec<_> = found.iter().map(|it| it.to_json().unwrap()).collect();
    assert_eq!(found, ["name", "age", "fans", "posts"]);
    let (found, _) = fixture.get(r#"["all","last",["field","Profile","age"]]"#).unwrap();
    assert_eq!(found[0].to_json().unwrap(), 31, "also where it was read as one value");
    fixture.set(r#"[["key",1],["field","Profile","fans"]]"#, r#""void""#).unwrap();
    fixture.check(r#"[["key",1],"size"]"#, "[3]", 4, 3);
    let did = fixture.set(r#"[["key",1]]"#, r#""void""#).unwrap();
    assert_eq!(did, Did { range_deletes: 1, ..Did::default() });
    assert!(fixture.store.rows.borrow().is_empty());
}

#[test]
fn what_a_record_does_not_have_is_refused() {
    let fixture = profiles();
    let before = fixture.store.rows.borrow().clone();
    let unknown = fixture.get(r#"[["key",1],["field","Profile","nam"]]"#).map(drop);
    assert!(matches!(unknown, Err(Problem::NoField { .. })), "{unknown:?}");
    let unknown = fixture.set(r#"[["key",1],["key","nam"]]"#, r#"{"set":1}"#);
    assert!(matches!(unknown, Err(Problem::BadKey { .. })), "{unknown:?}");
    let renamed = fixture.set(r#"[["key",1],["map_key","name"]]"#, r#"{"set":"age"}"#);
    assert!(matches!(renamed, Err(Problem::WrongType { .. })), "{renamed:?}");
    let wrong = fixture.set(r#"[["key",1]]"#, r#"{"set":{"name":"x","age":"y"}}"#);
    assert!(matches!(wrong, Err(Problem::WrongType { .. })), "{wrong:?}");
    assert_eq!(*fixture.store.rows.borrow(), before);
}

/// A field that the record has lost leaves rows, which are not its any more.
#[test]
fn rows_of_lost_fields_are_passed_over() {
    let fixture = profiles();
    let row = [&1_u32.to_be_bytes()[..], &[77]].concat();
    fixture.store.rows.borrow_mut().insert(row, vec![7]);
    let (found, _) = fixture.get(r#"[["key",1],"keys"]"#).unwrap();
    assert_eq!(found.len(), 4);
    let (found, _) = fixture.get(r#"[["key",1],"size"]"#).unwrap();
    assert_eq!(found[0].to_json().unwrap(), 4);
    let (found, _) = fixture.get(r#"[["key",1]]"#).unwrap();
    assert_eq!(found[0].to_json().unwrap().as_object().unwrap().len(), 4);
    fixture.set(r#"[["key",1],"values",["compare","=",31]]"#, r#"{"set":32}"#).unwrap();
    fixture.check(r#"[["key",1],["key","age"]]"#, "[32]", 1, 0);
}
