//! Transforms inside one value: parts that change are put between the bytes of those that do not.

use std::borrow::Cow;

use super::parts::{At, entries, items, items_or_entries, key_of_field, list, pair, place};
use super::{
    Change, Last, Several, compare, found, gather, integer, mismatch, reaches, runs, several, size,
    transformed,
};
use crate::codec::value::raw::{Kind, Raw, push_list, push_map};
use crate::schema::ast::{Step, Value};
use crate::schema::eval::{Cx, Fork, Next, Problem, Trail};

type Part<'a> = Cow<'a, [u8]>;

/// Calls `last` with each part that the path reaches, and puts what it says in the place of the part.
/// `value` is `None` where something may be put and nothing is.
pub(in super::super) fn transform(
    cx: &Cx<'_>,
    mut trail: Trail<'_>,
    value: Option<Raw<'_>>,
    last: &mut Last<'_>,
) -> Result<Change, Problem> {
    let here = value.unwrap_or(Raw::NIL);
    let step = match trail.next(cx)? {
        Next::End => return last(&trail.collected, value),
        Next::Stop => return Ok(Change::Same),
        Next::Fork(Fork::Choose(cases, otherwise)) => {
            let mut chosen = otherwise;
            for (test, then) in cases {
                if reaches(cx, trail.alone(test), here)? {
                    chosen = then;
                    break;
                }
            }
            return match chosen {
                Some(path) => transform(cx, trail.enter(path), value, last),
                None => Ok(Change::Same),
            };
        }
        Next::Fork(Fork::Each(paths)) => {
            let mut change = Change::Same;
            for path in paths {
                let now = match &change {
                    Change::Same => value,
                    Change::Void => Some(Raw::NIL),
                    Change::To(new) => Some(Raw::new(new)),
                };
                match transform(cx, trail.enter(path), now, last)? {
                    Change::Same => {}
                    other => change = other,
                }
            }
            return Ok(change);
        }
        Next::Fork(Fork::Collect(path, amount)) => {
            let found = gather(cx, trail.alone(path), here, amount)?;
            trail.collect(found);
            return transform(cx, trail, value, last);
        }
        Next::Fork(Fork::Current) => {
            trail.collect(Value::from_bytes(here.bytes()));
            return transform(cx, trail, value, last);
        }
        Next::Step(step) => step,
    };
    // What the rest of the path makes of one part.
    let mut change = |part: Option<Raw<'_>>| transform(cx, trail.clone(), part, last);
    match step {
        Step::Key(key) => entry(here, key.raw(), "key", true, &mut change),
        Step::Must(key) => entry(here, key.raw(), "must", false, &mut change),
        Step::Field { of, name } => {
            let key = key_of_field(cx, of, name)?;
            entry(here, Raw::new(&key), "field", true, &mut change)
        }
        Step::MapKey(key) => {
            let is_it = |key_there: Raw<'_>| Ok(key_there.is(key.raw())?);
            renamed(here, "map_key", &is_it, &mut |_| change(Some(key.raw())))
        }
        Step::Keys => renamed(here, "keys", &|_| Ok(true), &mut |key| change(Some(key))),
        Step::Values => {
            let mut parts = Vec::new();
            let mut changed = false;
            for (key, value) in entries(here, "values")? {
                if let Some(value) = applied(change(Some(value))?, value, &mut changed) {
                    parts.push((key.bytes().into(), value));
                }
            }
            Ok(if changed { Change::To(map(&parts)) } else { Change::Same })
        }
        Step::All => all(here, &mut change),
        Step::Elem(element) => {
            let items = items(here, "elem")?;
            let mut at = None;
            for (place, item) in items.iter().enumerate() {
                if item.is(element.raw())? {
                    at = Some(place);
                    break;
                }
            }
            let Some(at) = at else { return Ok(Change::Same) };
            match change(Some(items[at]))? {
                Change::To(new) => {
                    let mut others = items.clone();
                    others.remove(at);
                    let is_there = contains(&others, Raw::new(&new))?;
                    let new = if is_there { &[][..] } else { &[Raw::new(&new)][..] };
                    Ok(Change::To(spliced(&items, at, at + 1, new)))
                }
                Change::Void => Ok(Change::To(spliced(&items, at, at + 1, &[]))),
                Change::Same => Ok(Change::Same),
            }
        }
        Step::NewElem => {
            let items = items(here, "new_elem")?;
            let Change::To(new) = change(None)? else { return Ok(Change::Same) };
            if contains(&items, Raw::new(&new))? {
                return Ok(Change::Same);
            }
            Ok(Change::To(spliced(&items, items.len(), items.len(), &[Raw::new(&new)])))
        }
        Step::Nth(_) | Step::First | Step::Last => {
            let (at, name) = match step {
                Step::Nth(at) => (*at, "nth"),
                Step::First => (0, "first"),
                _ => (-1, "last"),
            };
            let items = items(here, name)?;
            let Some(at) = place(at, items.len()) else { return Ok(Change::Same) };
            Ok(match change(Some(items[at]))? {
                Change::Same => Change::Same,
                Change::Void => Change::To(spliced(&items, at, at + 1, &[])),
                Change::To(new) => Change::To(spliced(&items, at, at + 1, &[Raw::new(&new)])),
            })
        }
        Step::Index(at) => {
            let mut items = items(here, "index")?;
            let Some(at) = place(*at, items.len()) else { return Ok(Change::Same) };
            let to = match change(Some(Value::from(at as u64).raw()))? {
                Change::Same => return Ok(Change::Same),
                Change::Void => {
                    items.remove(at);
                    return Ok(Change::To(list(&items)));
                }
                Change::To(new) => integer(Raw::new(&new), "index")?,
            };
            let item = items.remove(at);
            let end = i64::try_from(items.len()).unwrap_or(i64::MAX);
            // Of the list as it was, whose last place is the length without the item.
            let to = if to < 0 { to.saturating_add(end).saturating_add(1) } else { to };
            items.insert(usize::try_from(to.clamp(0, end)).unwrap_or(0), item);
            Ok(Change::To(list(&items)))
        }
        Step::Size => transform(cx, trail, Some(Value::from(size(here)?).raw()), last),
        Step::Indexed => indexed(here, &mut change),
        Step::Begin | Step::End => {
            let items = items(here, "begin")?;
            let Change::To(new) = change(Some(Raw::new(&[0x90])))? else {
                return Ok(Change::Same);
            };
            let at = if matches!(step, Step::Begin) { 0 } else { items.len() };
            Ok(Change::To(spliced(&items, at, at, &list_of(&new, "begin")?)))
        }
        Step::BeforeFirst | Step::AfterLast | Step::InsertAt(_) => {
            let items = items(here, "insert")?;
            let at = match step {
                Step::BeforeFirst => Some(0),
                Step::InsertAt(at) if usize::try_from(*at) == Ok(items.len()) => Some(items.len()),
                Step::InsertAt(at) => place(*at, items.len()),
                _ => Some(items.len()),
            };
            let Some(at) = at else { return Ok(Change::Same) };
            let Change::To(new) = change(None)? else { return Ok(Change::Same) };
            Ok(Change::To(spliced(&items, at, at, &[Raw::new(&new)])))
        }
        Step::Range { .. }
        | Step::Sublist(..)
        | Step::SublistOf(..)
        | Step::SubMap(_)
        | Step::SubSet(_) => {
            let parts = several(cx, &trail, step, here)?;
            let part = parts.value(step, here)?;
            match transform(cx, trail.clone(), Some(Raw::new(&part)), last)? {
                Change::Same => Ok(Change::Same),
                Change::Void => replaced(step, here, &parts, Raw::NIL),
                Change::To(new) => replaced(step, here, &parts, Raw::new(&new)),
            }
        }
        Step::SubSelect(path) => scattered(cx, &trail, path.steps(), here, last),
        Step::Filtered(path) => {
            let path = [Step::All, Step::Selected(path.clone())];
            scattered(cx, &trail, &path, here, last)
        }
        Step::Runs(path) => {
            let items = items(here, "runs")?;
            let mut parts: Vec<Part<'_>> = Vec::new();
            let (mut done, mut changed) = (0, false);
            for (from, to) in runs(cx, &trail, path.steps(), &items)? {
                parts.extend(items[done..from].iter().map(|item| Part::from(item.bytes())));
                done = to;
                let run = list(&items[from..to]);
                match transform(cx, trail.clone(), Some(Raw::new(&run)), last)? {
                    Change::Same => {
                        parts.extend(items[from..to].iter().map(|item| Part::from(item.bytes())));
                    }
                    Change::Void => changed = true,
                    Change::To(new) => {
                        changed = true;
                        let new = list_of(&new, "runs")?;
                        parts.extend(new.iter().map(|item| Part::from(item.bytes().to_vec())));
                    }
                }
            }
            parts.extend(items[done..].iter().map(|item| Part::from(item.bytes())));
            Ok(if changed { Change::To(list_from(&parts)) } else { Change::Same })
        }
        Step::Compare(op, other) => {
            if compare(here, *op, other.raw())? {
                change(value)
            } else {
                Ok(Change::Same)
            }
        }
        Step::Test(function) => {
            let passes = cx.test("test", function, &trail.collected, here)?;
            if passes { transform(cx, trail, value, last) } else { Ok(Change::Same) }
        }
        Step::View(function) => {
            let seen = cx.call(function, &trail.collected, here)?;
            transform(cx, trail, Some(seen.as_ref().map_or(Raw::NIL, Value::raw)), last)
        }
        Step::Navigate(navigator) => {
            let mut part = |part: Raw<'_>| {
                Ok(match change(Some(part))? {
                    Change::Same => Some(Value::from_bytes(part.bytes())),
                    Change::Void => None,
                    Change::To(new) => Some(Value::from_bytes(new)),
                })
            };
            let whole = cx.navigator(navigator)?.transform(cx.fields, here, &mut part)?;
            Ok(match whole {
                Some(whole) if whole.raw().bytes() == here.bytes() => Change::Same,
                Some(whole) => Change::To(whole.raw().bytes().to_vec()),
                None => Change::Void,
            })
        }
        Step::Default(other) if here.kind()? == Kind::Nil => change(Some(other.raw())),
        Step::NoneTo(other) if value.is_none() => change(Some(other.raw())),
        Step::Default(_) | Step::NoneTo(_) => change(value),
        Step::Transformed(path, term) => {
            match transformed(cx, trail.alone(path.steps()), here, term)? {
                Change::Same => change(value),
                Change::Void => change(None),
                Change::To(new) => change(Some(Raw::new(&new))),
            }
        }
        control_step!() => unreachable!("the trail has taken it"),
    }
}

/// Changes what is under one key; nil may become an entry where `creates`.
fn entry(
    map_there: Raw<'_>,
    key: Raw<'_>,
    step: &'static str,
    creates: bool,
    change: &mut dyn FnMut(Option<Raw<'_>>) -> Result<Change, Problem>,
) -> Result<Change, Problem> {
    let mut parts = entries(map_there, step)?;
    let mut at = None;
    for (place, (other, _)) in parts.iter().enumerate() {
        if other.is(key)? {
            at = Some(place);
            break;
        }
    }
    if at.is_none() && !creates {
        return Ok(Change::Same);
    }
    let old = at.map_or(Raw::NIL, |at| parts[at].1);
    Ok(match (change(Some(old))?, at) {
        (Change::Same, _) | (Change::Void, None) => Change::Same,
        (Change::Void, Some(at)) => {
            parts.remove(at);
            Change::To(super::parts::map(&parts))
        }
        (Change::To(new), Some(at)) => {
            parts[at].1 = Raw::new(&new);
            Change::To(super::parts::map(&parts))
        }
        (Change::To(new), None) => {
            parts.push((key, Raw::new(&new)));
            Change::To(super::parts::map(&parts))
        }
    })
}

/// Renames keys; of entries that get one name, the last stays.
fn renamed(
    map_there: Raw<'_>,
    step: &'static str,
    is_asked: &dyn Fn(Raw<'_>) -> Result<bool, Problem>,
    change: &mut dyn FnMut(Raw<'_>) -> Result<Change, Problem>,
) -> Result<Change, Problem> {
    let (mut kept, mut fresh): (Vec<(Part<'_>, Part<'_>)>, Vec<_>) = (Vec::new(), Vec::new());
    let mut changed = false;
    for (key, value) in entries(map_there, step)? {
        let new = if is_asked(key)? { change(key)? } else { Change::Same };
        match new {
            Change::Same => kept.push((key.bytes().into(), value.bytes().into())),
            Change::Void => changed = true,
            Change::To(new) => {
                changed = true;
                fresh.push((Part::from(new), value.bytes().into()));
            }
        }
    }
    if !changed {
        return Ok(Change::Same);
    }
    // Those with new names win over those that kept theirs.
    kept.append(&mut fresh);
    Ok(Change::To(map(&last_of_each(kept)?)))
}

/// Of entries with one key the last.
fn last_of_each<'a>(
    entries: Vec<(Part<'a>, Part<'a>)>,
) -> Result<Vec<(Part<'a>, Part<'a>)>, Problem> {
    let mut order: Vec<usize> = (0..entries.len()).collect();
    let key = |at: usize| Raw::new(&entries[at].0);
    order = crate::codec::value::raw::sort(order, &|a, b| key(a).compare(key(b)))?;
    let mut stays = vec![true; entries.len()];
    for pair in order.windows(2) {
        if let &[a, b] = pair
            && key(a).is(key(b))?
        {
            stays[a] = false;
        }
    }
    let entries = entries.into_iter().zip(stays);
    Ok(entries.filter_map(|(entry, stays)| stays.then_some(entry)).collect())
}

/// Changes each item, or each entry as a pair.
fn all(
    here: Raw<'_>,
    change: &mut dyn FnMut(Option<Raw<'_>>) -> Result<Change, Problem>,
) -> Result<Change, Problem> {
    let (mut list, mut kept, mut fresh) = (Vec::new(), Vec::new(), Vec::new());
    let mut changed = false;
    for part in items_or_entries(here, "all")? {
        match part {
            At::Item(item) => {
                list.extend(applied(change(Some(item))?, item, &mut changed));
            }
            At::Entry(key, value) => match change(Some(Raw::new(&pair(key, value))))? {
                Change::Same => kept.push((Part::from(key.bytes()), Part::from(value.bytes()))),
                Change::Void => changed = true,
                Change::To(new) => {
                    changed = true;
                    let [new_key, value] = pair_of(&new, "all")?;
                    let entry =
                        (Part::from(new_key.bytes().to_vec()), Part::from(value.bytes().to_vec()));
                    // One that keeps its key keeps its place.
                    if new_key.is(key)? { kept.push(entry) } else { fresh.push(entry) }
                }
            },
        }
    }
    if !changed {
        return Ok(Change::Same);
    }
    if here.kind()? == Kind::List {
        return Ok(Change::To(list_from(&list)));
    }
    kept.append(&mut fresh);
    Ok(Change::To(map(&last_of_each(kept)?)))
}

/// Changes items and their places.
fn indexed(
    here: Raw<'_>,
    change: &mut dyn FnMut(Option<Raw<'_>>) -> Result<Change, Problem>,
) -> Result<Change, Problem> {
    let mut parts: Vec<(i64, Part<'_>)> = Vec::new();
    let mut changed = false;
    for (place, item) in (0_i64..).zip(items(here, "indexed")?) {
        let at = Value::from(place);
        match change(Some(Raw::new(&pair(at.raw(), item))))? {
            Change::Same => parts.push((place, item.bytes().into())),
            Change::Void => changed = true,
            Change::To(new) => {
                changed = true;
                let [place, item] = pair_of(&new, "indexed")?;
                parts.push((integer(place, "indexed")?, item.bytes().to_vec().into()));
            }
        }
    }
    parts.sort_by_key(|part| part.0);
    let parts: Vec<_> = parts.into_iter().map(|part| part.1).collect();
    Ok(if changed { Change::To(list_from(&parts)) } else { Change::Same })
}

/// Puts `new` in the place of several parts.
fn replaced(step: &Step, whole: Raw<'_>, parts: &Several, new: Raw<'_>) -> Result<Change, Problem> {
    if whole.kind()? == Kind::Nil && new.kind()? == Kind::Nil {
        return Ok(Change::Same);
    }
    let is_map = match parts {
        Several::Entries(_) => whole.kind()? == Kind::Map || new.kind()? == Kind::Map,
        // A range of nil may be one of a map.
        Several::Items(_) if matches!(step, Step::Range { .. }) => {
            whole.kind()? == Kind::Nil && new.kind()? == Kind::Map
        }
        Several::Items(_) | Several::Span { .. } => false,
    };
    Ok(match parts {
        &Several::Span { from, to } => {
            let items = items(whole, "sublist")?;
            let new = new.items()?.map_err(|found| mismatch("sublist", "a list", found))?;
            let new = new.collect::<Result<Vec<_>, _>>()?;
            Change::To(spliced(&items, from, to, &new))
        }
        Several::Entries(places) | Several::Items(places) if is_map => {
            let mut all = Vec::new();
            for (at, (key, value)) in entries(whole, "range")?.into_iter().enumerate() {
                if !places.contains(&at) {
                    all.push((Part::from(key.bytes()), Part::from(value.bytes())));
                }
            }
            for (key, value) in entries(new, "range")? {
                all.push((key.bytes().into(), value.bytes().into()));
            }
            Change::To(map(&last_of_each(all)?))
        }
        Several::Entries(_) => {
            let found = new.kind()?;
            return Err(mismatch("sub_map", "a map", found));
        }
        Several::Items(places) => {
            let mut all: Vec<_> = (items(whole, "range")?.into_iter().enumerate())
                .filter_map(|(at, item)| (!places.contains(&at)).then_some(item))
                .collect();
            for item in items(new, "range")? {
                if !contains(&all, item)? {
                    all.push(item);
                }
            }
            Change::To(list(&all))
        }
    })
}

/// Reaches all of a path as one list, and puts the items of the outcome in their places.
fn scattered(
    cx: &Cx<'_>,
    trail: &Trail<'_>,
    path: &[Step],
    here: Raw<'_>,
    last: &mut Last<'_>,
) -> Result<Change, Problem> {
    let gathered = found(cx, trail.alone(path), here)?;
    let gathered = Value::list(gathered.iter());
    let new = match transform(cx, trail.clone(), Some(gathered.raw()), last)? {
        Change::Same => return Ok(Change::Same),
        Change::Void => vec![0x90],
        Change::To(new) => new,
    };
    let mut new = list_of(&new, "sub_select")?.into_iter();
    transform(cx, trail.alone(path), Some(here), &mut |_, part| {
        // What is not there yet was not reached, and has no item.
        Ok(match (part, new.len()) {
            (None, _) => Change::Same,
            (Some(_), 0) => Change::Void,
            (Some(_), _) => new.next().map_or(Change::Void, |it| Change::To(it.bytes().to_vec())),
        })
    })
}

/// The part after the change; `None` if it goes.
fn applied<'a>(change: Change, part: Raw<'a>, changed: &mut bool) -> Option<Part<'a>> {
    match change {
        Change::Same => Some(part.bytes().into()),
        Change::Void => {
            *changed = true;
            None
        }
        Change::To(new) => {
            *changed = true;
            Some(new.into())
        }
    }
}

fn contains(items: &[Raw<'_>], item: Raw<'_>) -> Result<bool, Problem> {
    for other in items {
        if other.is(item)? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The list with `new` in the place of what lies between two places.
fn spliced(items: &[Raw<'_>], from: usize, to: usize, new: &[Raw<'_>]) -> Vec<u8> {
    list(&[&items[..from], new, &items[to..]].concat())
}

fn list_of<'a>(bytes: &'a [u8], step: &'static str) -> Result<Vec<Raw<'a>>, Problem> {
    items(Raw::new(bytes), step)
}

fn pair_of<'a>(bytes: &'a [u8], step: &'static str) -> Result<[Raw<'a>; 2], Problem> {
    let pair = list_of(bytes, step)?;
    pair.try_into().map_err(|_| mismatch(step, "a list of two", Kind::List))
}

fn list_from(parts: &[Part<'_>]) -> Vec<u8> {
    let mut out = Vec::new();
    push_list(&mut out, parts.len());
    for part in parts {
        out.extend_from_slice(part);
    }
    out
}

fn map(parts: &[(Part<'_>, Part<'_>)]) -> Vec<u8> {
    let mut out = Vec::new();
    push_map(&mut out, parts.len());
    for (key, value) in parts {
        out.extend_from_slice(key);
        out.extend_from_slice(value);
    }
    out
}
