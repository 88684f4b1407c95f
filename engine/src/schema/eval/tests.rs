//! The evaluator against the meaning of paths, and its costs, counted.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::ops::{Bound, ControlFlow};

use super::{Cx, Error, Problem, Row, Scan, Source, Visit, Writer, select, transform};
use crate::codec::FieldTable;
use crate::codec::table::Trace;
use crate::env::LocalFuture;
use crate::schema::ast::{Function, Functions, Navigate, Navigator, Op, Query, Step, Term, Value};
use crate::schema::{Layout, Map, Schema, Set, Sub, Uncounted};

mod generate;
mod lists;
mod naive;
mod random;

/// Rows in memory that count what is done with them.
#[derive(Debug, Default)]
struct Store {
    rows: RefCell<BTreeMap<Vec<u8>, Vec<u8>>>,
    did: Cell<Did>,
    scanning: Cell<bool>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Did {
    /// Rows read by key, and scans begun.
    seeks: usize,
    /// Rows that scans gave.
    rows: usize,
    puts: usize,
    deletes: usize,
    range_deletes: usize,
}

impl Store {
    fn count(&self, add: impl FnOnce(&mut Did)) {
        let mut did = self.did.get();
        add(&mut did);
        self.did.set(did);
    }
}

impl Source for Store {
    type Error = Infallible;

    fn get<'a>(
        &'a self,
        row: Row<'a>,
        visit: &'a mut (dyn FnMut(Option<&[u8]>) + 'a),
    ) -> LocalFuture<'a, Result<(), Infallible>> {
        self.count(|did| did.seeks += 1);
        visit(self.rows.borrow().get(row.key).map(Vec::as_slice));
        Box::pin(async { Ok(()) })
    }

    fn scan<'a>(
        &'a self,
        scan: Scan<'a>,
        visit: &'a mut Visit<'a>,
    ) -> LocalFuture<'a, Result<(), Infallible>> {
        self.count(|did| did.seeks += 1);
        self.scanning.set(true);
        let from = Bound::Included(scan.from.key.to_vec());
        let to = scan.to.map_or(Bound::Unbounded, |to| Bound::Excluded(to.to_vec()));
        let rows = self.rows.borrow();
        let mut range = rows.range((from, to));
        let next = || if scan.reverse { range.next_back() } else { range.next() };
        for (key, value) in std::iter::from_fn(next).take(scan.limit) {
            self.count(|did| did.rows += 1);
            if visit(key, if scan.keys_only { &[] } else { value }).is_break() {
                break;
            }
        }
        self.scanning.set(false);
        Box::pin(async { Ok(()) })
    }
}

impl Writer for Store {
    fn put(&self, row: Row<'_>, value: &[u8]) -> Result<(), Infallible> {
        assert!(!self.scanning.get(), "nothing is written during a scan");
        assert!(0 < row.first_bytes && row.first_bytes <= row.key.len());
        self.count(|did| did.puts += 1);
        self.rows.borrow_mut().insert(row.key.to_vec(), value.to_vec());
        Ok(())
    }

    fn delete(&self, row: Row<'_>) -> Result<(), Infallible> {
        assert!(!self.scanning.get(), "nothing is written during a scan");
        assert!(0 < row.first_bytes && row.first_bytes <= row.key.len());
        self.count(|did| did.deletes += 1);
        self.rows.borrow_mut().remove(row.key);
        Ok(())
    }

    fn delete_range(&self, from: Row<'_>, to: Option<&[u8]>) -> Result<(), Infallible> {
        assert!(!self.scanning.get(), "nothing is written during a scan");
        self.count(|did| did.range_deletes += 1);
        let is_in = |key: &[u8]| from.key <= key && to.is_none_or(|to| key < to);
        self.rows.borrow_mut().retain(|key, _| !is_in(key));
        Ok(())
    }
}

/// A query such as the random tests ask.
pub(crate) fn random_query(seed: u64) -> Query {
    generate::case(&mut generate::Dice::new(seed)).query
}

/// A store in memory never waits.
fn now<T>(future: impl Future<Output = T>) -> T {
    futures_lite::future::block_on(future)
}

fn problem(error: Error<Infallible>) -> Problem {
    match error {
        Error::Path(problem) => problem,
        Error::Source(never) => match never {},
    }
}

/// One `PState` and what it costs to ask it.
struct Fixture {
    store: Store,
    layout: Layout,
    fields: FieldTable,
    functions: Functions,
}

impl Fixture {
    fn of<S: Schema>() -> Self {
        let mut fields = FieldTable::new();
        fields.assign("Sale", ["item", "count"]);
        let (store, functions) = (Store::default(), Functions::none());
        let layout = Layout::of::<S>(&mut Trace::default()).unwrap();
        Self { store, layout, fields, functions }
    }

    fn json(text: &str) -> serde_json::Value {
        serde_json::from_str(text).unwrap()
    }

    fn query(path: &str) -> Query {
        Query::from_json(&Self::json(path)).unwrap()
    }

    fn set(&self, path: &str, term: &str) -> Result<Did, Problem> {
        self.store.did.set(Did::default());
        let term = Term::from_json(&Self::json(term)).unwrap();
        let cx = Cx::new(&self.layout, &self.fields, &self.functions);
        let query = Self::query(path);
        let done = transform(&self.store, &cx, &query, &term);
        now(done).map_err(problem).map(|()| self.store.did.get())
    }

    fn get(&self, path: &str) -> Result<(Vec<Value>, Did), Problem> {
        self.store.did.set(Did::default());
        let cx = Cx::new(&self.layout, &self.fields, &self.functions);
        let mut found = Vec::new();
        let mut reach = |value| {
            found.push(value);
            ControlFlow::Continue(())
        };
        let query = Self::query(path);
        let done = select(&self.store, &cx, &query, &mut reach);
        now(done).map_err(problem)?;
        Ok((found, self.store.did.get()))
    }

    /// What the path gives, and what it costs: seeks and rows.
    fn check(&self, path: &str, expected: &str, seeks: usize, rows: usize) {
        let (found, did) = self.get(path).unwrap();
        let found: Vec<_> = found.iter().map(|it| it.to_json().unwrap()).collect();
        assert_eq!(serde_json::Value::Array(found), Self::json(expected), "{path}");
        assert_eq!(did, Did { seeks, rows, ..Did::default() }, "{path}");
    }
}

type Nested = Map<String, Sub<Map<u64, Vec<i64>>, Uncounted>>;

fn nested() -> Fixture {
    let fixture = Fixture::of::<Nested>();
    for (user, count) in [("ann", 600), ("bob", 2), ("cid", 3)] {
        for row in 0..count {
            let path = format!(r#"[["key","{user}"],["key",{row}]]"#);
            let did = fixture.set(&path, &format!(r#"{{"set":[{row},7]}}"#)).unwrap();
            assert_eq!(did, Did { puts: 1, ..Did::default() }, "a put reads nothing");
        }
    }
    fixture
}

#[test]
fn reads_cost_what_their_steps_say() {
    let fixture = nested();
    fixture.check(r#"[["key","ann"],["key",5]]"#, "[[5,7]]", 1, 0);
    fixture.check(r#"[["key","ann"],["key",5],["nth",0]]"#, "[5]", 1, 0);
    fixture.check(r#"[["key","ann"],["must",600]]"#, "[]", 1, 0);
    fixture.check(r#"[["key","ann"],["key",600]]"#, "[null]", 1, 0);
    fixture.check(r#"[["key","ann"],["map_key",3]]"#, "[3]", 1, 0);
    let range = r#"[["key","ann"],["range",{"from":100,"limit":3}],"values","first"]"#;
    fixture.check(range, "[100,101,102]", 1, 3);
    let range = r#"[["key","ann"],["range",{"to":100,"limit":2,"reverse":true}],"keys"]"#;
    fixture.check(range, "[99,98]", 1, 2);
    let range = r#"[["key","ann"],["range",{"above":7,"through":9}]]"#;
    fixture.check(range, r#"[{"$map":[[8,[8,7]],[9,[9,7]]]}]"#, 1, 2);
    // A first key costs a seek, not all that lies under it; and one that there are no more.
    fixture.check(r#"["keys"]"#, r#"["ann","bob","cid"]"#, 4, 3);
    fixture.check(r#"[["range",{"limit":2}],"keys"]"#, r#"["ann","bob"]"#, 2, 2);
    let both = r#"[["key","bob"],["multi",[[["key",0]],[["key",1]]]],"last"]"#;
    fixture.check(both, "[7,7]", 2, 0);
    // Each user's newest: a seek for the user, and one for the row.
    let newest = r#"["values",["range",{"limit":1,"reverse":true}],"keys"]"#;
    fixture.check(newest, "[599,1,2]", 7, 6);
    // Enough is known with one row.
    let has =
        r#"[["selected",[["key","ann"],["range",{"from":9}],"values"]],["key","bob"],["key",0]]"#;
    fixture.check(has, "[[0,7]]", 2, 1);
}

#[test]
fn writes_cost_what_their_steps_say() {
    let fixture = nested();
    let did = |path: &str, term: &str| fixture.set(path, term).unwrap();
    let blind = Did::default();
    assert_eq!(did(r#"[["key","bob"],["key",0]]"#, r#""void""#), Did { deletes: 1, ..blind });
    let one = Did { range_deletes: 1, ..blind };
    assert_eq!(did(r#"[["key","ann"],["range",{"from":500}]]"#, r#""void""#), one);
    fixture.check(r#"[["key","ann"],["range",{"limit":1,"reverse":true}],"keys"]"#, "[499]", 1, 1);
    // In pages of 256 rows, of which those that change are written.
    let even = r#"[["key","ann"],"values",["selected",["first",["compare","<",9]]],"last"]"#;
    assert_eq!(did(even, r#"{"set":8}"#), Did { seeks: 2, rows: 500, puts: 9, ..blind });
    fixture.check(r#"[["key","ann"],["key",8]]"#, "[[8,8]]", 1, 0);
    fixture.check(r#"[["key","ann"],["key",9]]"#, "[[9,7]]", 1, 0);
    let whole = r#"{"set":{"$map":[[1,[]],[2,[3]]]}}"#;
    assert_eq!(did(r#"[["key","ann"]]"#, whole), Did { range_deletes: 1, puts: 2, ..blind });
    fixture.check(r#"[["key","ann"]]"#, r#"[{"$map":[[1,[]],[2,[3]]]}]"#, 1, 2);
    assert_eq!(did(r#"[["key","ann"]]"#, r#""void""#), one);
    fixture.check(r#"[["key","ann"]]"#, "[null]", 1, 0);

    let tags = Fixture::of::<Map<u8, Sub<Set<String>, Uncounted>>>();
    for tag in ["b", "a", "c"] {
        let did = tags.set(r#"[["key",1],"new_elem"]"#, &format!(r#"{{"set":"{tag}"}}"#)).unwrap();
        assert_eq!(did, Did { puts: 1, ..blind }, "adding to a set reads nothing");
    }
    tags.check(r#"[["key",1],"all"]"#, r#"["a","b","c"]"#, 1, 3);
    tags.check(r#"[["key",1],"last"]"#, r#"["c"]"#, 1, 1);
    tags.check(r#"[["key",1],["elem","b"]]"#, r#"["b"]"#, 1, 0);
    let renamed = tags.set(r#"[["key",1],["elem","b"]]"#, r#"{"set":"z"}"#).unwrap();
    assert_eq!(renamed, Did { seeks: 1, rows: 1, puts: 1, deletes: 1, ..blind });
    tags.check(r#"[["key",1]]"#, r#"[["a","c","z"]]"#, 1, 3);
}

#[test]
fn what_typed_code_could_not_read_is_not_stored() {
    let fixture = nested();
    let before = fixture.store.rows.borrow().clone();
    let refused = fixture.set(r#"[["key","ann"],["key",5],["nth",0]]"#, r#"{"set":"text"}"#);
    assert!(matches!(refused, Err(Problem::WrongType { .. })), "{refused:?}");
    let refused = fixture.set(r#"[["key","ann"]]"#, r#"{"set":{"$map":[[1,[1]],[2,3]]}}"#);
    assert!(matches!(refused, Err(Problem::WrongType { .. })), "{refused:?}");
    let refused = fixture.set(r#"[["key","ann"],["key","x"]]"#, r#"{"set":[1]}"#);
    assert!(matches!(refused, Err(Problem::BadKey { .. })), "{refused:?}");
    let refused = fixture.set(r#"[["key",7]]"#, r#""void""#);
    assert!(matches!(refused, Err(Problem::BadKey { .. })), "{refused:?}");
    let long = format!(r#"[["key","{}"]]"#, "k".repeat(1024));
    let refused = fixture.set(&long, r#""void""#);
    assert!(matches!(refused, Err(Problem::KeyTooLong { bytes: 1025 })), "{refused:?}");
    assert_eq!(*fixture.store.rows.borrow(), before);
}

#[test]
fn fields_are_found_by_their_names() {
    #[derive(serde::Serialize, serde::Deserialize)]
    struct Sale {
        item: String,
        count: Option<u32>,
    }
    let fixture = Fixture::of::<crate::schema::Map<u8, Sale>>();
    let set = |path: &str, term: &str| fixture.set(path, term);
    assert!(
        matches!(
            set(r#"[["key",1],["field","Sale","count"]]"#, r#"{"set":3}"#),
            Err(Problem::WrongType { .. })
        ),
        "a sale without an item is none"
    );
    set(r#"[["key",1]]"#, r#"{"set":{"$map":[[0,"tea"]]}}"#).unwrap();
    set(r#"[["key",1],["field","Sale","count"]]"#, r#"{"set":3}"#).unwrap();
    fixture.check(r#"[["key",1],["field","Sale","count"]]"#, "[3]", 1, 0);
    set(r#"[["key",1],["field","Sale","count"]]"#, r#""void""#).unwrap();
    fixture.check(r#"[["key",1],["field","Sale","count"]]"#, "[null]", 1, 0);
    let unknown = fixture.get(r#"[["key",1],["field","Sale","price"]]"#);
    assert!(matches!(unknown, Err(Problem::NoField { .. })), "{unknown:?}");
}

#[test]
fn endless_paths_end_with_an_error() {
    let fixture = nested();
    for endless in [
        r#"[["fix","f",[["again","f"]]]]"#,
        r#"[["key","bob"],["key",0],["fix","f",[["again","f"]]]]"#,
        r#"[["key","bob"],["key",0],["fix","f",[["multi",[[["again","f"]],[["again","f"]]]]]]]"#,
        r#"[["fix","f",[["if",[["again","f"]],[],[]]]]]"#,
    ] {
        let found = fixture.get(endless).map(drop);
        assert!(matches!(found, Err(Problem::TooMuch(_))), "{endless}: {found:?}");
        let done = fixture.set(endless, r#""void""#);
        assert!(matches!(done, Err(Problem::TooMuch(_))), "{endless}: {done:?}");
    }
    let unknown = fixture.get(r#"[["fix","f",[]],["again","f"]]"#).map(drop);
    assert!(matches!(unknown, Err(Problem::NoFix(_))), "{unknown:?}");
}

#[test]
fn damaged_rows_are_errors() {
    let fixture = nested();
    let key = fixture.store.rows.borrow().keys().next().unwrap().clone();
    fixture.store.rows.borrow_mut().insert(key, vec![0x92, 0]);
    let damaged = fixture.get(r#"[["key","ann"],["key",0],["nth",1]]"#).map(drop);
    assert!(matches!(damaged, Err(Problem::Bad(_))), "{damaged:?}");
    fixture.store.rows.borrow_mut().insert(b"zed\0abc".to_vec(), vec![0]);
    let damaged = fixture.get(r#"[["key","zed"],"keys"]"#).map(drop);
    assert!(matches!(damaged, Err(Problem::BadRow(_))), "{damaged:?}");
}

#[test]
fn queries_go_through_json_and_back() {
    let mut dice = generate::Dice::new(1);
    for _ in 0..3_000 {
        let case = generate::case(&mut dice);
        let json = case.query.to_json().unwrap().to_string();
        let again = Query::from_json(&serde_json::from_str(&json).unwrap()).unwrap();
        assert_eq!(again, case.query, "{json}");
        let json = case.term.to_json().unwrap();
        assert_eq!(Term::from_json(&json).unwrap(), case.term, "{json}");
    }
    let odd = r#"[{"$map":[[1,2],["$x",{"$somes":2}]]},{"$bytes":"00ff"},{"$float":"-inf"},{"$single":1.5},-3,1.0]"#;
    let odd = Fixture::json(odd);
    assert_eq!(Value::from_json(&odd).unwrap().to_json().unwrap(), odd);
    let local = Query::from([Step::Test(Function::of(|it: i64| Some(it > 0)))]);
    assert!(local.to_json().is_err());
    for wrong in [
        "{}",
        r#"[["key"]]"#,
        r#"["nothing"]"#,
        r#"[["range",{"from":1,"above":2}]]"#,
        r#"[["compare","~",1]]"#,
        r#"[["key",{"$odd":1}]]"#,
        r#"[["nth",1.5]]"#,
        "[[]]",
    ] {
        assert!(Query::from_json(&Fixture::json(wrong)).is_err(), "{wrong}");
    }
    let deep = r#"[["selected","#.repeat(40) + "[]" + &"]]".repeat(40);
    assert!(Query::from_json(&Fixture::json(&deep)).is_err());
}

#[test]
fn functions_of_this_process_get_typed_values() {
    let fixture = nested();
    let sum = Function::with(|collected: Vec<i64>, it: Vec<i64>| {
        Some(collected.iter().chain(&it).sum::<i64>())
    });
    let path = Query::from([
        Step::Key(Value::from("cid")),
        Step::PutValue(Value::from(100)),
        Step::Values,
        Step::View(sum),
        Step::DropCollected,
        Step::Compare(Op::Greater, Value::from(107)),
    ]);
    let cx = Cx::new(&fixture.layout, &fixture.fields, &fixture.functions);
    let mut found = Vec::new();
    let mut reach = |value: Value| {
        found.push(value.decode::<i64>(&fixture.fields).unwrap());
        ControlFlow::Continue(())
    };
    now(select(&fixture.store, &cx, &path, &mut reach)).unwrap();
    assert_eq!(found, [108, 109]);
}
