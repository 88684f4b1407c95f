//! Random cases: the evaluator over rows does what paths mean.

use std::ops::ControlFlow;

use super::generate::{Case, Dice, case, erased};
use super::naive::{Ch, Got, V, call, moves, results, select as mean, stored, term_of};
use super::naive::{L, transform as become_};
use super::{
    Cx, FieldTable, Function, Functions, Navigate, Problem, Store, now, problem, select, transform,
};
use crate::codec;
use crate::schema::ast::{Query, Step, Term, Value};

/// 20,000 cases, or as many as `TIDEMILL_CASES` says, from the seed `TIDEMILL_SEED` on.
#[test]
fn random_paths_do_what_they_mean() {
    let number = |name, default| std::env::var(name).map_or(default, |it| it.parse().unwrap());
    let (cases, first) = (number("TIDEMILL_CASES", 20_000), number("TIDEMILL_SEED", 0));
    let mut counted = Counted::default();
    for seed in first..first + cases {
        run(seed, &mut counted);
    }
    if cases < 1_000 {
        return;
    }
    // So that nobody makes a generator of errors and of nothing.
    assert!(counted.reached * 3 > cases, "{counted:?}");
    assert!(counted.changed * 6 > cases, "{counted:?}");
    assert!(counted.failed * 50 > cases, "{counted:?}");
    assert!(counted.lists * 50 > cases && counted.records * 50 > cases, "{counted:?}");
    assert!(counted.earlier * 20 < cases, "{counted:?}");
    assert!(counted.nested * 9 > cases && counted.nested_changed * 40 > cases, "{counted:?}");
}

#[derive(Debug, Default)]
struct Counted {
    /// Selects that reached something, transforms that changed something, either that failed.
    reached: u64,
    changed: u64,
    failed: u64,
    /// Transforms that were refused for a key or a type before they could fail otherwise.
    earlier: u64,
    /// Cases with lists, or records, that are stored by rows and not empty.
    lists: u64,
    records: u64,
    /// Of the lists, those of collections that are not all empty; and the transforms that changed such a case.
    nested: u64,
    nested_changed: u64,
}

fn fields() -> FieldTable {
    let mut fields = FieldTable::new();
    fields.assign("Thing", ["a", "b"]);
    fields
}

/// What is left of a number that is divided by three, and the rest.
struct Parts;

impl Navigate for Parts {
    type From = i64;
    type To = i64;

    fn select(&self, from: i64, reach: &mut dyn FnMut(i64)) {
        reach(from.div_euclid(3));
        reach(from.rem_euclid(3));
    }

    fn transform(
        &self,
        from: i64,
        change: &mut dyn FnMut(i64) -> Result<Option<i64>, Problem>,
    ) -> Result<Option<i64>, Problem> {
        let whole = change(from.div_euclid(3))?.unwrap_or(0);
        let rest = change(from.rem_euclid(3))?.unwrap_or(0);
        Ok(Some(3 * whole + rest))
    }
}

/// The functions of the model, to be called with encoded values.
fn functions() -> Functions {
    ["inc", "copy", "gone", "sum", "even", "is_list", "some", "fails"].into_iter().fold(
        Functions::none().with_navigator("parts", Parts),
        |all, name| {
            let function = Function::raw(move |_, collected, value| {
                let collected: Vec<V> = collected.iter().map(|it| V::of(*it)).collect();
                let called = call(&Function::named(name), &collected, &V::of(value));
                called.map(|out| out.map(|out| out.value())).map_err(|_| codec::Error::PathsApart)
            });
            all.with(name, function)
        },
    )
}

fn kind(problem: &Problem) -> &'static str {
    match problem {
        Problem::Mismatch { .. } => "mismatch",
        Problem::BadKey { .. } => "bad key",
        Problem::WrongType { .. } => "wrong type",
        Problem::NotOne { .. } => "not one",
        Problem::NoField { .. } => "no field",
        Problem::NoFunction(_) => "no function",
        Problem::NoFix(_) => "no fix",
        Problem::Function(_) => "function",
        Problem::TooMuch(_)
        | Problem::Panicked(_)
        | Problem::BadPlace(_)
        | Problem::Misfit(_)
        | Problem::Bad(_)
        | Problem::BadRow(_)
        | Problem::Unlike { .. }
        | Problem::KeyTooLong { .. } => panic!("not here: {problem}"),
    }
}

fn run(seed: u64, counted: &mut Counted) {
    let case = case(&mut Dice::new(seed));
    let Case { layout, query, term, .. } = &case;
    // Rows that do not fit the layout are none to begin with.
    let rows = stored(layout, case.rows.clone()).ok().flatten().unwrap_or(V::Nil);
    let (fields, functions) = (fields(), functions());
    let erased = erased(layout);
    let store = Store::default();
    let cx = || Cx::new(&erased, &fields, &functions);
    let at = format!("seed {seed}: {layout:?} with {rows:?}, {query:?}, {term:?}");
    now(transform(&store, &cx(), &Query::here(), &Term::Set(rows.value()))).unwrap();
    let read = |query: &Query| -> Got<Vec<V>> {
        let mut found = Vec::new();
        let mut reach = |value: Value| {
            found.push(V::of(value.raw()));
            ControlFlow::Continue(())
        };
        let done = now(select(&store, &cx(), query, &mut reach));
        done.map_err(|error| kind(&problem(error))).map(|()| found)
    };
    assert_eq!(read(&Query::here()), Ok(vec![rows.clone()]), "{at}");
    counted.lists += u64::from(!lists(layout, &rows).is_empty());
    let nests = nests(layout, &rows);
    counted.nested += u64::from(nests);
    counted.records += u64::from(layout.has_records() && rows != V::Nil);

    let found = read(query);
    let meant = meaning(query, &rows);
    if found == Err("bad key") {
        counted.earlier += 1;
    } else {
        assert_eq!(found, meant, "select: {at}");
        counted.reached += u64::from(found.is_ok_and(|it| !it.is_empty()));
    }

    let before = store.rows.borrow().clone();
    let done = now(transform(&store, &cx(), query, term));
    let done = done.map_err(|error| kind(&problem(error)));
    let meant = meant_change(layout, query, &rows, term);
    let expected = match (&done, &meant) {
        (Ok(()), Ok(expected)) => expected,
        // A transform can be refused for what it would store before the model gets to fail.
        (Err("bad key" | "wrong type"), Err(_)) | (Err("bad key"), Ok(_)) => {
            counted.earlier += u64::from(meant.err() != done.err());
            return;
        }
        // Within a range rows are written one path after the other; to the model the range is one value, of which
        // only what all paths leave has to fit.
        (Err("mismatch" | "wrong type"), Ok(_)) if is_of_several_in_a_range(query) => {
            counted.earlier += 1;
            return;
        }
        _ => {
            assert_eq!(done, meant.as_ref().map(|_| ()).map_err(|it| *it), "transform: {at}");
            counted.failed += 1;
            return;
        }
    };
    assert_eq!(read(&Query::here()), Ok(vec![expected.clone()]), "transform: {at}");
    for (list, items) in lists(layout, expected) {
        let with = |step: Step| Query::from([&list[..], &[step]].concat());
        assert_eq!(read(&with(Step::Size)), Ok(vec![items.size().unwrap()]), "{at}");
    }
    let is_changed = *store.rows.borrow() != before;
    counted.changed += u64::from(is_changed);
    counted.nested_changed += u64::from(is_changed && nests);
}

/// Whether something hangs under an item of a list.
fn nests(layout: &L, value: &V) -> bool {
    match (layout, value) {
        (L::List(item), V::List(items)) => {
            item.is_collection() && items.iter().any(|item| *item != V::Nil)
        }
        (L::Map(_) | L::Record(_), V::Map(entries)) => {
            entries.iter().any(|(key, value)| nests(layout.under(key).unwrap(), value))
        }
        _ => false,
    }
}

/// Whether several paths are followed, one after the other, somewhere in a query that has a range.
fn is_of_several_in_a_range(query: &Query) -> bool {
    let text = format!("{query:?}");
    text.contains("Range {") && ["ThenStay(", "Multi("].iter().any(|step| text.contains(step))
}

/// The paths to all lists that are stored by rows, and their items.
fn lists(layout: &L, value: &V) -> Vec<(Vec<Step>, V)> {
    match (layout, value) {
        (L::List(item), V::List(items)) => {
            let mut found = vec![(Vec::new(), V::List(items.clone()))];
            for (at, value) in (0..).zip(items) {
                for (path, items) in lists(item, value) {
                    found.push(([vec![Step::Nth(at)], path].concat(), items));
                }
            }
            found
        }
        (L::Map(_) | L::Record(_), V::Map(entries)) => {
            let mut found = Vec::new();
            for (key, value) in entries {
                let under = layout.under(key).expect("it is stored under its key");
                for (path, items) in lists(under, value) {
                    found.push(([vec![Step::Key(key.value())], path].concat(), items));
                }
            }
            found
        }
        _ => Vec::new(),
    }
}

fn meaning(query: &Query, rows: &V) -> Got<Vec<V>> {
    let mut reached = Vec::new();
    mean(&moves(query), Vec::new(), rows, &mut |collected, value| {
        reached.push((collected, value));
        Ok(())
    })?;
    Ok(results(reached))
}

fn meant_change(layout: &L, query: &Query, rows: &V, term: &Term) -> Got<V> {
    let last = &mut term_of(term);
    Ok(match become_(&moves(query), Vec::new(), Some(rows), Some(layout), last)? {
        Ch::Same => rows.clone(),
        Ch::Void => V::Nil,
        Ch::To(new) => new,
    })
}
