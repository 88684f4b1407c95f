//! What transforming by a path means: what becomes of each part, and of what it is part of.

use super::*;

/// What becomes of a part.
#[derive(Clone, Debug)]
pub(in super::super) enum Ch {
    Same,
    Void,
    To(V),
}

pub(in super::super) fn term_of(term: &Term) -> impl FnMut(&[V], Option<&V>) -> Got<Ch> {
    move |collected, value| {
        Ok(match term {
            Term::Set(value) => Ch::To(V::of(value.raw())),
            Term::Void => Ch::Void,
            Term::Apply(function) => {
                let new = call(function, collected, value.unwrap_or(&V::Nil))?;
                new.map_or(Ch::Void, Ch::To)
            }
        })
    }
}

/// What the layout makes of a value: sorted, without an empty collection, or an error.
pub(in super::super) fn stored(layout: &L, value: V) -> Got<Option<V>> {
    let key = |key: &V| if let V::Int(_) = key { Ok(()) } else { Err("bad key") };
    match layout {
        L::Any => Ok(Some(value)),
        L::Int => {
            if let V::Int(_) = value {
                Ok(Some(value))
            } else {
                Err("wrong type")
            }
        }
        L::Set => {
            let mut items = value.list()?;
            items.iter().try_for_each(key)?;
            items.sort();
            items.dedup();
            Ok((!items.is_empty()).then_some(V::List(items)))
        }
        L::Map(inner) => {
            let mut entries: Vec<(V, V)> = Vec::new();
            for (k, v) in value.map()? {
                key(&k)?;
                entries.retain(|it| it.0 != k);
                entries.extend(stored(inner, v)?.map(|v| (k, v)));
            }
            entries.sort();
            Ok((!entries.is_empty()).then_some(V::Map(entries)))
        }
        L::List(item) | L::Part(item) => {
            let mut items = value.list()?;
            for it in &mut items {
                // An item that is empty stays.
                let new = stored(item, it.clone())?;
                *it = new.unwrap_or(V::Nil);
            }
            Ok((!items.is_empty()).then_some(V::List(items)))
        }
        L::Record(_) => {
            let mut entries: Vec<(V, V)> = Vec::new();
            for (k, v) in value.map()? {
                let field = layout.under(&k).ok_or("bad key")?;
                entries.retain(|it| it.0 != k);
                entries.extend(stored(field, v)?.map(|v| (k, v)));
            }
            let place = |key: &V| NAMES.iter().position(|it| *key == V::Text((*it).to_owned()));
            entries.sort_by_key(|it| place(&it.0));
            Ok((!entries.is_empty()).then_some(V::Map(entries)))
        }
    }
}

type Last<'l> = dyn FnMut(&[V], Option<&V>) -> Got<Ch> + 'l;

/// `layout` is that of what is here, if it is stored under keys and not part of something else. A collection that
/// becomes empty becomes nil.
pub(in super::super) fn transform(
    path: &Path,
    coll: Vec<V>,
    value: Option<&V>,
    layout: Option<&L>,
    last: &mut Last<'_>,
) -> Got<Ch> {
    // A row is looked at when all of it is there.
    let rows = layout.filter(|layout| layout.is_collection());
    let change = changed(path, coll, value, rows, last)?;
    match (change, layout) {
        (Ch::To(V::Nil), Some(layout)) if layout.is_collection() => Ok(Ch::To(V::Nil)),
        (Ch::To(new), Some(layout)) => Ok(Ch::To(stored(layout, new)?.unwrap_or(V::Nil))),
        (change, _) => Ok(change),
    }
}

/// The same for what lies under a key, where an empty collection is nothing.
fn transform_under(
    path: &Path,
    coll: Vec<V>,
    value: &V,
    layout: Option<&L>,
    last: &mut Last<'_>,
) -> Got<Ch> {
    match transform(path, coll, Some(value), layout, last)? {
        Ch::To(V::Nil) if layout.is_some_and(L::is_collection) => Ok(Ch::Void),
        change => Ok(change),
    }
}

fn splice(items: &[V], from: usize, to: usize, new: Vec<V>) -> Ch {
    Ch::To(V::List([items[..from].to_vec(), new, items[to..].to_vec()].concat()))
}

/// The entries with others added, which replace those of the same keys.
fn with_added(mut entries: Vec<(V, V)>, added: Vec<(V, V)>) -> Ch {
    for (key, value) in added {
        entries.retain(|it| it.0 != key);
        entries.push((key, value));
    }
    Ch::To(V::Map(entries))
}

fn changed(
    path: &Path,
    mut coll: Vec<V>,
    value: Option<&V>,
    layout: Option<&L>,
    last: &mut Last<'_>,
) -> Got<Ch> {
    let here = value.unwrap_or(&V::Nil);
    let Some((first, rest)) = path.0.split_first() else { return last(&coll, value) };
    let rest = Path(rest.to_vec());
    let step = match first {
        Move::Restore(collected) => {
            return transform(&rest, collected.clone(), value, layout, last);
        }
        Move::Do(step) => step,
    };
    // On from here, as it is.
    macro_rules! on {
        ($rest:expr) => {
            transform(&$rest, coll.clone(), value, layout, last)
        };
        ($rest:expr, $value:expr) => {
            transform(&$rest, coll.clone(), $value, None, last)
        };
    }
    match step {
        Step::Stay => on!(rest),
        Step::Stop => Ok(Ch::Same),
        Step::Key(_) | Step::Must(_) | Step::Field { .. } => {
            let key = match step {
                Step::Field { of, name } => field(of, name)?,
                Step::Key(key) | Step::Must(key) => V::of(key.raw()),
                _ => unreachable!(),
            };
            let mut entries = here.map()?;
            let place = entries.iter().position(|it| it.0 == key);
            let old = place.map_or(V::Nil, |at| entries[at].1.clone());
            if place.is_none() && matches!(step, Step::Must(_)) {
                return Ok(Ch::Same);
            }
            // A field of a struct lies in a value, that of a record in rows of its own.
            let inner = match step {
                Step::Field { of, .. } if of != "Record" => None,
                Step::Field { .. } if !matches!(layout, Some(L::Record(_))) => None,
                _ => layout.and_then(|layout| layout.under(&key)),
            };
            Ok(match (transform_under(&rest, coll, &old, inner, last)?, place) {
                (Ch::Same, _) | (Ch::Void, None) => Ch::Same,
                (Ch::Void, Some(at)) => {
                    entries.remove(at);
                    Ch::To(V::Map(entries))
                }
                (Ch::To(new), Some(at)) => {
                    entries[at].1 = new;
                    Ch::To(V::Map(entries))
                }
                (Ch::To(new), None) => {
                    entries.push((key, new));
                    Ch::To(V::Map(entries))
                }
            })
        }
        Step::MapKey(_) | Step::Keys => {
            let only = if let Step::MapKey(key) = step { Some(V::of(key.raw())) } else { None };
            let (mut kept, mut renamed, mut changed) = (Vec::new(), Vec::new(), false);
            for (key, value) in here.map()? {
                let asked = only.as_ref().is_none_or(|only| *only == key);
                match if asked { on!(rest, Some(&key))? } else { Ch::Same } {
                    Ch::Same => kept.push((key, value)),
                    Ch::Void => changed = true,
                    Ch::To(new) => {
                        changed = true;
                        renamed.push((new, value));
                    }
                }
            }
            Ok(if changed { with_added(kept, renamed) } else { Ch::Same })
        }
        Step::Values => {
            let (mut kept, mut changed) = (Vec::new(), false);
            for (key, value) in here.map()? {
                let inner = layout.and_then(|layout| layout.under(&key));
                match transform_under(&rest, coll.clone(), &value, inner, last)? {
                    Ch::Same => kept.push((key, value)),
                    Ch::Void => changed = true,
                    Ch::To(new) => {
                        changed = true;
                        kept.push((key, new));
                    }
                }
            }
            Ok(if changed { Ch::To(V::Map(kept)) } else { Ch::Same })
        }
        Step::All if matches!(here, V::Map(_)) => {
            let (mut kept, mut renamed, mut changed) = (Vec::new(), Vec::new(), false);
            for (key, value) in here.map()? {
                let pair = V::List(vec![key.clone(), value.clone()]);
                match on!(rest, Some(&pair))? {
                    Ch::Same => kept.push((key, value)),
                    Ch::Void => changed = true,
                    Ch::To(new) => {
                        changed = true;
                        let [new, value] =
                            <[V; 2]>::try_from(new.list()?).map_err(|_| "mismatch")?;
                        if new == key {
                            kept.push((new, value));
                        } else {
                            renamed.push((new, value));
                        }
                    }
                }
            }
            Ok(if changed { with_added(kept, renamed) } else { Ch::Same })
        }
        Step::All => {
            let (mut kept, mut changed) = (Vec::new(), false);
            for item in here.list()? {
                match on!(rest, Some(&item))? {
                    Ch::Same => kept.push(item),
                    Ch::Void => changed = true,
                    Ch::To(new) => {
                        changed = true;
                        kept.push(new);
                    }
                }
            }
            Ok(if changed { Ch::To(V::List(kept)) } else { Ch::Same })
        }
        Step::Size => on!(rest, Some(&here.size()?)),
        Step::Indexed => {
            let (mut kept, mut changed) = (Vec::new(), false);
            for (place, item) in (0..).zip(here.list()?) {
                match on!(rest, Some(&V::List(vec![V::Int(place), item.clone()])))? {
                    Ch::Same => kept.push((place, item)),
                    Ch::Void => changed = true,
                    Ch::To(new) => {
                        changed = true;
                        let [place, item] =
                            <[V; 2]>::try_from(new.list()?).map_err(|_| "mismatch")?;
                        kept.push((place.int()?, item));
                    }
                }
            }
            kept.sort_by_key(|it| it.0);
            let kept = kept.into_iter().map(|it| it.1).collect();
            Ok(if changed { Ch::To(V::List(kept)) } else { Ch::Same })
        }
        Step::Elem(element) => {
            let items = here.list()?;
            let element = V::of(element.raw());
            let Some(at) = items.iter().position(|it| *it == element) else { return Ok(Ch::Same) };
            Ok(match on!(rest, Some(&items[at]))? {
                Ch::Same => Ch::Same,
                Ch::Void => splice(&items, at, at + 1, vec![]),
                Ch::To(new) => {
                    let twice = (0..items.len()).any(|it| it != at && items[it] == new);
                    splice(&items, at, at + 1, if twice { vec![] } else { vec![new] })
                }
            })
        }
        Step::NewElem => {
            let items = here.list()?;
            Ok(match on!(rest, None)? {
                Ch::To(new) if !items.contains(&new) => {
                    splice(&items, items.len(), items.len(), vec![new])
                }
                _ => Ch::Same,
            })
        }
        Step::Nth(_) | Step::First | Step::Last => {
            let items = here.list()?;
            let place = match step {
                Step::Nth(place) => *place,
                Step::First => 0,
                _ => -1,
            };
            let Some(at) = at(place, items.len()) else { return Ok(Ch::Same) };
            let item = layout.and_then(L::item);
            Ok(match transform(&rest, coll, Some(&items[at]), item, last)? {
                Ch::Same => Ch::Same,
                Ch::Void => splice(&items, at, at + 1, vec![]),
                Ch::To(new) => splice(&items, at, at + 1, vec![new]),
            })
        }
        Step::Index(place) => {
            let mut items = here.list()?;
            let len = i64::try_from(items.len()).unwrap();
            let Some(at) = at(*place, items.len()) else { return Ok(Ch::Same) };
            match on!(rest, Some(&V::Int(i64::try_from(at).unwrap())))? {
                Ch::Same => Ok(Ch::Same),
                Ch::Void => Ok(splice(&items, at, at + 1, vec![])),
                Ch::To(new) => {
                    let to = new.int()?;
                    let to = if to < 0 { to + len } else { to }.clamp(0, len - 1);
                    let item = items.remove(at);
                    items.insert(usize::try_from(to).unwrap(), item);
                    Ok(Ch::To(V::List(items)))
                }
            }
        }
        Step::Begin | Step::End => {
            let items = here.list()?;
            let at = if matches!(step, Step::Begin) { 0 } else { items.len() };
            match on!(rest, Some(&V::List(vec![])))? {
                Ch::To(new) => Ok(splice(&items, at, at, new.list()?)),
                _ => Ok(Ch::Same),
            }
        }
        Step::BeforeFirst | Step::AfterLast | Step::InsertAt(_) => {
            let items = here.list()?;
            let place = match step {
                Step::BeforeFirst => 0,
                Step::InsertAt(place) if *place < 0 => {
                    let Some(at) = at(*place, items.len()) else { return Ok(Ch::Same) };
                    at
                }
                Step::InsertAt(place) => usize::try_from(*place).unwrap(),
                _ => items.len(),
            };
            if place > items.len() {
                return Ok(Ch::Same);
            }
            match on!(rest, None)? {
                Ch::To(new) => Ok(splice(&items, place, place, vec![new])),
                _ => Ok(Ch::Same),
            }
        }
        Step::Range { .. } | Step::SubMap(_) | Step::SubSet(_) => {
            let list_only = matches!(step, Step::SubSet(_));
            let map_only = matches!(step, Step::SubMap(_));
            if (list_only && matches!(here, V::Map(_)))
                || (map_only && matches!(here, V::List(_)))
                || !matches!(here, V::Nil | V::Map(_) | V::List(_))
            {
                return Err("mismatch");
            }
            let keys: Vec<V> = match here {
                V::Map(entries) => entries.iter().map(|it| it.0.clone()).collect(),
                other => other.list()?,
            };
            let places = taken(step, &keys);
            let part = match here {
                _ if places.is_empty() && matches!(step, Step::Range { .. }) => V::Nil,
                V::Map(entries) => V::Map(places.iter().map(|&at| entries[at].clone()).collect()),
                V::List(items) => V::List(places.iter().map(|&at| items[at].clone()).collect()),
                _ => V::Nil,
            };
            let new = match on!(rest, Some(&part))? {
                Ch::Same => return Ok(Ch::Same),
                Ch::Void => V::Nil,
                Ch::To(new) => new,
            };
            match (here, new) {
                (V::Nil, V::Nil) => Ok(Ch::Same),
                (V::Nil, V::List(_)) if map_only => Err("mismatch"),
                (V::Nil, V::Map(_)) if list_only => Err("mismatch"),
                (V::Map(_), new) => Ok(with_kept(here.map()?, &places, new.map()?)),
                (V::Nil, V::Map(new)) => Ok(with_added(vec![], new)),
                (_, new) => {
                    let mut items: Vec<V> = here.list()?;
                    let mut at = 0;
                    items.retain(|_| {
                        at += 1;
                        !places.contains(&(at - 1))
                    });
                    for item in new.list()? {
                        if !items.contains(&item) {
                            items.push(item);
                        }
                    }
                    Ok(Ch::To(V::List(items)))
                }
            }
        }
        Step::Sublist(..) | Step::SublistOf(..) => {
            let items = here.list()?;
            let (from, to) = match step {
                Step::SublistOf(from, to) => bounds(from, to, here)?,
                Step::Sublist(from, to) => (*from, *to),
                _ => unreachable!(),
            };
            let (from, to) = cut(from, to, items.len());
            let part = if *here == V::Nil { V::Nil } else { V::List(items[from..to].to_vec()) };
            let within = layout.and_then(L::item).map(|item| L::Part(Box::new(item.clone())));
            match transform(&rest, coll, Some(&part), within.as_ref(), last)? {
                Ch::Same => Ok(Ch::Same),
                Ch::Void | Ch::To(V::Nil) if *here == V::Nil => Ok(Ch::Same),
                Ch::Void => Ok(splice(&items, from, to, vec![])),
                Ch::To(new) => Ok(splice(&items, from, to, new.list()?)),
            }
        }
        Step::SubSelect(_) | Step::Filtered(_) => {
            let query = match step {
                Step::SubSelect(query) => query.clone(),
                Step::Filtered(query) => filtered(query),
                _ => unreachable!(),
            };
            let new = match on!(rest, Some(&V::List(values_of(&query, here)?)))? {
                Ch::Same => return Ok(Ch::Same),
                Ch::Void => vec![],
                Ch::To(new) => new.list()?,
            };
            let mut new = new.into_iter();
            transform(&moves(&query), vec![], Some(here), None, &mut |_, part| {
                Ok(match part {
                    None => Ch::Same,
                    Some(_) => new.next().map_or(Ch::Void, Ch::To),
                })
            })
        }
        Step::Runs(query) => {
            let items = here.list()?;
            let (mut out, mut done, mut changed) = (Vec::new(), 0, false);
            for (from, to) in runs(query, &items)? {
                out.extend_from_slice(&items[done..from]);
                done = to;
                match on!(rest, Some(&V::List(items[from..to].to_vec())))? {
                    Ch::Same => out.extend_from_slice(&items[from..to]),
                    Ch::Void => changed = true,
                    Ch::To(new) => {
                        changed = true;
                        out.extend(new.list()?);
                    }
                }
            }
            out.extend_from_slice(&items[done..]);
            Ok(if changed { Ch::To(V::List(out)) } else { Ch::Same })
        }
        Step::Compare(op, other) => {
            if holds(here, *op, &V::of(other.raw())) {
                on!(rest, value)
            } else {
                Ok(Ch::Same)
            }
        }
        Step::Test(function) => {
            if test(function, &coll, here)? {
                on!(rest, value)
            } else {
                Ok(Ch::Same)
            }
        }
        Step::Selected(query) => {
            if reaches(query, here)? {
                on!(rest)
            } else {
                Ok(Ch::Same)
            }
        }
        Step::NotSelected(query) => {
            if reaches(query, here)? {
                Ok(Ch::Same)
            } else {
                on!(rest)
            }
        }
        Step::Collected(function) => {
            if test(function, &coll, &V::Nil)? {
                on!(rest)
            } else {
                Ok(Ch::Same)
            }
        }
        Step::Navigate(_) => {
            let V::Int(it) = here else { return Err("function") };
            let mut parts = Vec::new();
            for part in [it.div_euclid(3), it.rem_euclid(3)] {
                parts.push(match on!(rest, Some(&V::Int(part)))? {
                    Ch::Same => part,
                    Ch::Void => 0,
                    Ch::To(V::Int(new)) => new,
                    Ch::To(_) => return Err("wrong type"),
                });
            }
            let new = 3 * parts[0] + parts[1];
            Ok(if new == *it { Ch::Same } else { Ch::To(V::Int(new)) })
        }
        Step::View(function) => {
            let seen = call(function, &coll, here)?.unwrap_or(V::Nil);
            on!(rest, Some(&seen))
        }
        Step::Default(other) if *here == V::Nil => on!(rest, Some(&V::of(other.raw()))),
        Step::NoneTo(other) if value.is_none() => on!(rest, Some(&V::of(other.raw()))),
        Step::Default(_) | Step::NoneTo(_) => on!(rest, value),
        Step::Transformed(query, term) => {
            match transform(&moves(query), vec![], Some(here), None, &mut term_of(term))? {
                Ch::Same => on!(rest, value),
                Ch::Void => on!(rest, None),
                Ch::To(new) => on!(rest, Some(&new)),
            }
        }
        Step::If(condition, then, other) => {
            let branch = if reaches(condition, here)? { then } else { other };
            on!(rest.before(branch))
        }
        Step::Cond(cases) => {
            for (condition, then) in cases {
                if reaches(condition, here)? {
                    return on!(rest.before(then));
                }
            }
            Ok(Ch::Same)
        }
        Step::Multi(_) | Step::ThenStay(_) => {
            let paths = match step {
                Step::Multi(paths) => paths.clone(),
                Step::ThenStay(path) => vec![path.clone(), Query::here()],
                _ => unreachable!(),
            };
            let mut change = Ch::Same;
            let layout = layout.filter(|layout| !matches!(layout, L::Part(_)));
            for path in paths {
                let now = match &change {
                    Ch::Same => value.cloned(),
                    Ch::Void => Some(V::Nil),
                    Ch::To(new) => Some(new.clone()),
                };
                let path = rest.before(&path);
                match transform(&path, coll.clone(), now.as_ref(), layout, last)? {
                    Ch::Same => {}
                    other => change = other,
                }
            }
            Ok(change)
        }
        Step::Fix(name, body) => on!(rest.before(&unrolled(name, body, body))),
        Step::Again(_) => Err("no fix"),
        Step::Collect(query) => {
            coll.push(V::List(results(all(query, here)?)));
            on!(rest)
        }
        Step::CollectOne(query) => {
            let mut found = results(all(query, here)?);
            if found.len() != 1 {
                return Err("not one");
            }
            coll.append(&mut found);
            on!(rest)
        }
        Step::PutValue(other) => {
            coll.push(V::of(other.raw()));
            on!(rest)
        }
        Step::PutCurrent => {
            coll.push(here.clone());
            on!(rest)
        }
        Step::DropCollected => {
            coll.clear();
            on!(rest)
        }
        Step::Fresh(query) => {
            let mut path = moves(query);
            path.0.push(Move::Restore(std::mem::take(&mut coll)));
            path.0.extend(rest.0);
            on!(path)
        }
    }
}

/// A map with other entries in the place of some.
fn with_kept(entries: Vec<(V, V)>, gone: &[usize], new: Vec<(V, V)>) -> Ch {
    let kept = entries.into_iter().enumerate().filter(|(at, _)| !gone.contains(at));
    with_added(kept.map(|it| it.1).collect(), new)
}
