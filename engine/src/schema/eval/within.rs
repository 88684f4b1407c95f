//! Paths inside one value: recursion over its bytes, reading nothing else.

use std::ops::{Bound, ControlFlow};

use super::{Amount, Collected, Cx, Fork, Next, Problem, Trail, gathered, result};
use crate::codec::value::raw::{Head, Kind, Raw, sort};
use crate::schema::ast::{Op, Step, Term, Value};

mod change;
mod parts;

pub(super) use change::transform;
use parts::{At, entries, items, items_or_entries, key_of_field, places};
pub(super) use parts::{cut, pair, place};

/// What is called with what is reached.
pub(super) type Sink<'s> = dyn FnMut(&Collected, Raw<'_>) -> Result<ControlFlow<()>, Problem> + 's;

/// What a transform makes of a part.
#[derive(Debug)]
pub(super) enum Change {
    /// It stays as it is, or absent.
    Same,
    /// It goes.
    Void,
    /// It becomes this.
    To(Vec<u8>),
}

/// What is called with each part that a transform reaches; `None` is a part that is not there yet.
pub(super) type Last<'s> = dyn FnMut(&Collected, Option<Raw<'_>>) -> Result<Change, Problem> + 's;

/// What a term makes of a part.
pub(super) fn finish(
    cx: &Cx<'_>,
    term: &Term,
    collected: &Collected,
    value: Option<Raw<'_>>,
) -> Result<Change, Problem> {
    Ok(match term {
        Term::Set(value) => Change::To(value.raw().bytes().to_vec()),
        Term::Void => Change::Void,
        Term::Apply(function) => match cx.call(function, collected, value.unwrap_or(Raw::NIL))? {
            Some(value) => Change::To(value.raw().bytes().to_vec()),
            None => Change::Void,
        },
    })
}

const ON: ControlFlow<()> = ControlFlow::Continue(());

/// Calls `out` with all that the path reaches from `value`, until it breaks.
pub(super) fn select(
    cx: &Cx<'_>,
    mut trail: Trail<'_>,
    value: Raw<'_>,
    out: &mut Sink<'_>,
) -> Result<ControlFlow<()>, Problem> {
    let step = match trail.next(cx)? {
        Next::End => return out(&trail.collected, value),
        Next::Stop => return Ok(ON),
        Next::Fork(Fork::Choose(cases, otherwise)) => {
            let mut chosen = otherwise;
            for (test, then) in cases {
                if reaches(cx, trail.alone(test), value)? {
                    chosen = then;
                    break;
                }
            }
            return match chosen {
                Some(path) => select(cx, trail.enter(path), value, out),
                None => Ok(ON),
            };
        }
        Next::Fork(Fork::Each(paths)) => {
            for path in paths {
                if select(cx, trail.enter(path), value, out)?.is_break() {
                    return Ok(ControlFlow::Break(()));
                }
            }
            return Ok(ON);
        }
        Next::Fork(Fork::Collect(path, amount)) => {
            let found = gather(cx, trail.alone(path), value, amount)?;
            trail.collect(found);
            return select(cx, trail, value, out);
        }
        Next::Fork(Fork::Current) => {
            trail.collect(Value::from_bytes(value.bytes()));
            return select(cx, trail, value, out);
        }
        Next::Step(step) => step,
    };
    let part: Option<Raw<'_>> = match step {
        Step::Key(key) => Some(find(value, key.raw(), "key")?.unwrap_or(Raw::NIL)),
        Step::Field { of, name } => {
            let key = key_of_field(cx, of, name)?;
            Some(find(value, Raw::new(&key), "field")?.unwrap_or(Raw::NIL))
        }
        Step::Must(key) => find(value, key.raw(), "must")?,
        Step::MapKey(key) => find(value, key.raw(), "map_key")?.map(|_| key.raw()),
        Step::Elem(element) => {
            let mut found = None;
            for item in items(value, "elem")? {
                if item.is(element.raw())? {
                    found = Some(item);
                    break;
                }
            }
            found
        }
        Step::Nth(at) => nth(value, *at, "nth")?,
        Step::First => nth(value, 0, "first")?,
        Step::Last => nth(value, -1, "last")?,
        Step::Index(at) => {
            let Some(at) = place(*at, items(value, "index")?.len()) else { return Ok(ON) };
            return select(cx, trail, Value::from(at as u64).raw(), out);
        }
        Step::Size => {
            return select(cx, trail, Value::from(size(value)?).raw(), out);
        }
        Step::Compare(op, other) => compare(value, *op, other.raw())?.then_some(value),
        Step::Test(function) => {
            cx.test("test", function, &trail.collected, value)?.then_some(value)
        }
        Step::View(function) => {
            let seen = cx.call(function, &trail.collected, value)?;
            return select(cx, trail, seen.as_ref().map_or(Raw::NIL, Value::raw), out);
        }
        Step::Navigate(navigator) => {
            for part in cx.navigator(navigator)?.select(cx.fields, value)? {
                if select(cx, trail.clone(), part.raw(), out)?.is_break() {
                    return Ok(ControlFlow::Break(()));
                }
            }
            None
        }
        Step::Default(other) if value.kind()? == Kind::Nil => Some(other.raw()),
        Step::Default(_) | Step::NoneTo(_) => Some(value),
        Step::BeforeFirst | Step::AfterLast | Step::InsertAt(_) => {
            items(value, "insert")?;
            None
        }
        Step::NewElem => {
            items(value, "new_elem")?;
            None
        }
        Step::Begin | Step::End => {
            items(value, "begin")?;
            Some(Raw::new(&[0x90]))
        }
        Step::All => {
            for part in items_or_entries(value, "all")? {
                let flow = match part {
                    At::Item(item) => select(cx, trail.clone(), item, out)?,
                    At::Entry(key, value) => {
                        select(cx, trail.clone(), Raw::new(&pair(key, value)), out)?
                    }
                };
                if flow.is_break() {
                    return Ok(flow);
                }
            }
            None
        }
        Step::Keys | Step::Values => {
            let is_keys = matches!(step, Step::Keys);
            for (key, value) in entries(value, if is_keys { "keys" } else { "values" })? {
                let part = if is_keys { key } else { value };
                if select(cx, trail.clone(), part, out)?.is_break() {
                    return Ok(ControlFlow::Break(()));
                }
            }
            None
        }
        Step::Indexed => {
            for (at, item) in items(value, "indexed")?.into_iter().enumerate() {
                let at = Value::from(at as u64);
                if select(cx, trail.clone(), Raw::new(&pair(at.raw(), item)), out)?.is_break() {
                    return Ok(ControlFlow::Break(()));
                }
            }
            None
        }
        Step::Runs(path) => {
            let items = items(value, "runs")?;
            for (from, to) in runs(cx, &trail, path.steps(), &items)? {
                let run = parts::list(&items[from..to]);
                if select(cx, trail.clone(), Raw::new(&run), out)?.is_break() {
                    return Ok(ControlFlow::Break(()));
                }
            }
            None
        }
        Step::Range { .. }
        | Step::Sublist(..)
        | Step::SublistOf(..)
        | Step::SubMap(_)
        | Step::SubSet(_) => {
            let part = several(cx, &trail, step, value)?.value(step, value)?;
            return select(cx, trail, Raw::new(&part), out);
        }
        Step::SubSelect(path) => {
            let found = found(cx, trail.alone(path.steps()), value)?;
            return select(cx, trail, Value::list(found.iter()).raw(), out);
        }
        Step::Filtered(path) => {
            let path = [Step::All, Step::Selected(path.clone())];
            let found = found(cx, trail.alone(&path), value)?;
            return select(cx, trail, Value::list(found.iter()).raw(), out);
        }
        Step::Transformed(path, term) => {
            let change = transformed(cx, trail.alone(path.steps()), value, term)?;
            return match change {
                Change::Same => select(cx, trail, value, out),
                Change::Void => select(cx, trail, Raw::NIL, out),
                Change::To(new) => select(cx, trail, Raw::new(&new), out),
            };
        }
        control_step!() => unreachable!("the trail has taken it"),
    };
    match part {
        Some(part) => select(cx, trail, part, out),
        None => Ok(ON),
    }
}

/// Whether a path reaches something.
fn reaches(cx: &Cx<'_>, trail: Trail<'_>, value: Raw<'_>) -> Result<bool, Problem> {
    let mut stop = |_: &Collected, _: Raw<'_>| Ok(ControlFlow::Break(()));
    Ok(select(cx, trail, value, &mut stop)?.is_break())
}

/// What a step that collects adds.
fn gather(cx: &Cx<'_>, trail: Trail<'_>, value: Raw<'_>, amount: Amount) -> Result<Value, Problem> {
    let mut found = Vec::new();
    let mut out = |collected: &Collected, value: Raw<'_>| {
        found.push(result(collected, value));
        Ok(ON)
    };
    // It wants all there is.
    let (ControlFlow::Continue(()) | ControlFlow::Break(())) = select(cx, trail, value, &mut out)?;
    gathered(amount, found)
}

/// All that a path reaches, without what it collects.
fn found(cx: &Cx<'_>, trail: Trail<'_>, value: Raw<'_>) -> Result<Vec<Value>, Problem> {
    let mut found = Vec::new();
    let mut out = |_: &Collected, value: Raw<'_>| {
        found.push(Value::from_bytes(value.bytes()));
        Ok(ON)
    };
    let (ControlFlow::Continue(()) | ControlFlow::Break(())) = select(cx, trail, value, &mut out)?;
    Ok(found)
}

fn transformed(
    cx: &Cx<'_>,
    trail: Trail<'_>,
    value: Raw<'_>,
    term: &Term,
) -> Result<Change, Problem> {
    transform(cx, trail, Some(value), &mut |collected, value| finish(cx, term, collected, value))
}

/// The value under a key.
fn find<'a>(map: Raw<'a>, key: Raw<'_>, step: &'static str) -> Result<Option<Raw<'a>>, Problem> {
    let entries = map.entries()?.map_err(|found| mismatch(step, "a map", found))?;
    for entry in entries {
        let (other, value) = entry?;
        if other.is(key)? {
            return Ok(Some(value));
        }
    }
    Ok(None)
}

fn nth<'a>(list: Raw<'a>, at: i64, step: &'static str) -> Result<Option<Raw<'a>>, Problem> {
    let mut items = list.items()?.map_err(|found| mismatch(step, "a list", found))?;
    match place(at, items.len()) {
        Some(at) => Ok(items.nth(at).transpose()?),
        None => Ok(None),
    }
}

/// How many parts a list or a map has.
fn size(value: Raw<'_>) -> Result<u64, Problem> {
    match value.head()? {
        Head::Nil => Ok(0),
        Head::List(parts) | Head::Map(parts) => Ok(parts as u64),
        _ => Err(mismatch("size", "a list or a map", value.kind()?)),
    }
}

fn mismatch(step: &'static str, expected: &'static str, found: Kind) -> Problem {
    Problem::Mismatch { step, expected, found }
}

pub(super) fn compare(value: Raw<'_>, op: Op, other: Raw<'_>) -> Result<bool, Problem> {
    let order = value.compare(other)?;
    let comparable = value.kind()? == other.kind()?;
    Ok(match op {
        Op::Equal => order.is_eq(),
        Op::NotEqual => order.is_ne(),
        Op::Less => comparable && order.is_lt(),
        Op::LessOrEqual => comparable && order.is_le(),
        Op::Greater => comparable && order.is_gt(),
        Op::GreaterOrEqual => comparable && order.is_ge(),
    })
}

/// The longest runs of items from which the path reaches something.
fn runs(
    cx: &Cx<'_>,
    trail: &Trail<'_>,
    path: &[Step],
    items: &[Raw<'_>],
) -> Result<Vec<(usize, usize)>, Problem> {
    let mut runs: Vec<(usize, usize)> = Vec::new();
    for (at, item) in items.iter().enumerate() {
        if !reaches(cx, trail.alone(path), *item)? {
            continue;
        }
        match runs.last_mut() {
            Some((_, to)) if *to == at => *to += 1,
            _ => runs.push((at, at + 1)),
        }
    }
    Ok(runs)
}

/// Several parts that are reached as one value.
enum Several {
    /// Neighbours in a list.
    Span { from: usize, to: usize },
    /// Items of a list by their places, in this order.
    Items(Vec<usize>),
    /// Entries of a map by their places, in this order.
    Entries(Vec<usize>),
}

impl Several {
    /// The parts as one value; of nil, nil, and a range of nothing, too: a collection that is stored by
    /// rows has none to say what it would be.
    fn value(&self, step: &Step, whole: Raw<'_>) -> Result<Vec<u8>, Problem> {
        Ok(match (self, whole.head()?) {
            (Self::Items(places) | Self::Entries(places), _)
                if places.is_empty() && matches!(step, Step::Range { .. }) =>
            {
                Raw::NIL.bytes().to_vec()
            }
            (Self::Span { .. } | Self::Items(_) | Self::Entries(_), Head::Nil) => {
                whole.bytes().to_vec()
            }
            (&Self::Span { from, to }, _) => parts::list(&items(whole, "sublist")?[from..to]),
            (Self::Items(places), _) => {
                let items = items(whole, "range")?;
                parts::list(&places.iter().map(|&at| items[at]).collect::<Vec<_>>())
            }
            (Self::Entries(places), _) => {
                let entries = entries(whole, "range")?;
                parts::map(&places.iter().map(|&at| entries[at]).collect::<Vec<_>>())
            }
        })
    }
}

/// What the steps of this kind reach.
fn several(
    cx: &Cx<'_>,
    trail: &Trail<'_>,
    step: &Step,
    value: Raw<'_>,
) -> Result<Several, Problem> {
    Ok(match step {
        Step::Sublist(from, to) => {
            let (from, to) = cut(*from, *to, items(value, "sublist")?.len());
            Several::Span { from, to }
        }
        Step::SublistOf(from, to) => {
            let len = items(value, "sublist_of")?.len();
            let bound = |path: &[Step]| {
                let mut bounds = found(cx, trail.alone(path), value)?;
                let (Some(bound), true) = (bounds.pop(), bounds.is_empty()) else {
                    let found = bounds.len() + usize::from(!bounds.is_empty());
                    return Err(Problem::NotOne { step: "sublist_of", found });
                };
                integer(bound.raw(), "sublist_of")
            };
            let (from, to) = cut(bound(from.steps())?, bound(to.steps())?, len);
            Several::Span { from, to }
        }
        Step::SubMap(keys) => {
            let entries = entries(value, "sub_map")?;
            let keys_there: Vec<_> = entries.iter().map(|entry| entry.0).collect();
            Several::Entries(places(keys, &keys_there)?)
        }
        Step::SubSet(elements) => Several::Items(places(elements, &items(value, "sub_set")?)?),
        Step::Range { from, to, limit, reverse } => {
            let keys: Vec<Raw<'_>> = items_or_entries(value, "range")?
                .iter()
                .map(|part| match *part {
                    At::Item(key) | At::Entry(key, _) => key,
                })
                .collect();
            let mut inside = Vec::new();
            for (at, key) in keys.iter().enumerate() {
                let above = match from {
                    Bound::Included(from) => key.compare(from.raw())?.is_ge(),
                    Bound::Excluded(from) => key.compare(from.raw())?.is_gt(),
                    Bound::Unbounded => true,
                };
                let below = match to {
                    Bound::Included(to) => key.compare(to.raw())?.is_le(),
                    Bound::Excluded(to) => key.compare(to.raw())?.is_lt(),
                    Bound::Unbounded => true,
                };
                if above && below {
                    inside.push(at);
                }
            }
            let mut inside = sort(inside, &|a, b| keys[a].compare(keys[b]))?;
            if *reverse {
                inside.reverse();
            }
            inside.truncate(limit.map_or(usize::MAX, |it| it.try_into().unwrap_or(usize::MAX)));
            let is_map = value.kind()? == Kind::Map;
            if is_map { Several::Entries(inside) } else { Several::Items(inside) }
        }
        _ => unreachable!("no step that reaches several parts as one"),
    })
}

/// A place or a bound.
pub(super) fn integer(value: Raw<'_>, step: &'static str) -> Result<i64, Problem> {
    match value.head()? {
        Head::Int(value) => Ok(i64::try_from(value).unwrap_or(i64::MAX)),
        _ => Err(mismatch(step, "a whole number", value.kind()?)),
    }
}
