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
