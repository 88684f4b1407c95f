//! The meaning of paths, over plain trees: written from the semantics of navigators, one step after the
//! other, copying whatever is convenient. It knows nothing of rows but where they make a set sorted, a
//! map ordered and an empty collection nothing.

use std::cmp::Ordering;
use std::ops::Bound;

use crate::codec::value::raw::{Head, Raw, push_list, push_map};
use crate::schema::ast::{Function, Op, Query, Step, Term, Value};

mod change;

pub(super) use change::{Ch, stored, term_of, transform};

/// A value.
#[derive(Clone, Debug)]
pub(super) enum V {
    Nil,
    Bool(bool),
    Int(i64),
    Text(String),
    List(Vec<V>),
    Map(Vec<(V, V)>),
}

impl V {
    pub(super) fn of(raw: Raw<'_>) -> Self {
        match raw.head().unwrap() {
            Head::Nil => Self::Nil,
            Head::Bool(value) => Self::Bool(value),
            Head::Int(value) => Self::Int(value.try_into().unwrap()),
            Head::Text(text) => Self::Text(String::from_utf8(text.to_vec()).unwrap()),
            Head::List(_) => {
                Self::List(raw.items().unwrap().unwrap().map(|it| Self::of(it.unwrap())).collect())
            }
            Head::Map(_) => {
                let entry = |(key, value)| (Self::of(key), Self::of(value));
                Self::Map(raw.entries().unwrap().unwrap().map(|it| entry(it.unwrap())).collect())
            }
            other => panic!("not made here: {other:?}"),
        }
    }

    fn write(&self, out: &mut Vec<u8>) {
        match self {
            Self::Nil => out.push(0xc0),
            Self::Bool(value) => out.extend_from_slice(Value::from(*value).raw().bytes()),
            Self::Int(value) => out.extend_from_slice(Value::from(*value).raw().bytes()),
            Self::Text(text) => out.extend_from_slice(Value::from(text.as_str()).raw().bytes()),
            Self::List(items) => {
                push_list(out, items.len());
                for item in items {
                    item.write(out);
                }
            }
            Self::Map(entries) => {
                push_map(out, entries.len());
                for (key, value) in entries {
                    key.write(out);
                    value.write(out);
                }
            }
        }
    }

    pub(super) fn value(&self) -> Value {
        let mut out = Vec::new();
        self.write(&mut out);
        Value::from_bytes(out)
    }

    fn rank(&self) -> u8 {
        match self {
            Self::Nil => 0,
            Self::Bool(_) => 1,
            Self::Int(_) => 2,
            Self::Text(_) => 3,
            Self::List(_) => 4,
            Self::Map(_) => 5,
        }
    }

    fn list(&self) -> Got<Vec<V>> {
        match self {
            Self::Nil => Ok(Vec::new()),
            Self::List(items) => Ok(items.clone()),
            _ => Err("mismatch"),
        }
    }

    fn map(&self) -> Got<Vec<(V, V)>> {
        match self {
            Self::Nil => Ok(Vec::new()),
            Self::Map(entries) => Ok(entries.clone()),
            _ => Err("mismatch"),
        }
    }

    pub(super) fn size(&self) -> Got<V> {
        match self {
            Self::Nil => Ok(V::Int(0)),
            Self::List(items) => Ok(V::Int(i64::try_from(items.len()).unwrap())),
            Self::Map(entries) => Ok(V::Int(i64::try_from(entries.len()).unwrap())),
            _ => Err("mismatch"),
        }
    }

    fn int(&self) -> Got<i64> {
        if let Self::Int(value) = self { Ok(*value) } else { Err("mismatch") }
    }
}

impl Ord for V {
    fn cmp(&self, other: &Self) -> Ordering {
        match (self, other) {
            (Self::Bool(a), Self::Bool(b)) => a.cmp(b),
            (Self::Int(a), Self::Int(b)) => a.cmp(b),
            (Self::Text(a), Self::Text(b)) => a.cmp(b),
            (Self::List(a), Self::List(b)) => a.cmp(b),
            (Self::Map(a), Self::Map(b)) => {
                let sorted = |entries: &[(V, V)]| {
                    let mut entries = entries.to_vec();
                    entries.sort();
                    entries
                };
                sorted(a).cmp(&sorted(b))
            }
            _ => self.rank().cmp(&other.rank()),
        }
    }
}

impl PartialOrd for V {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for V {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for V {}

/// How what is here is stored: what the layout demands of it.
#[derive(Clone, Debug)]
pub(super) enum L {
    /// In one row, of any value, or of whole numbers only.
    Any,
    Int,
    Map(Box<L>),
    Set,
    /// Of values or of collections.
    List(Box<L>),
    /// A part of a list, which is changed as one value.
    Part(Box<L>),
    /// Of fields [`NAMES`].
    Record(Box<[L; 3]>),
}

/// The fields of the record that there is, in the order in which they are stored.
pub(super) const NAMES: [&str; 3] = ["c", "a", "b"];

impl L {
    pub(super) fn has_records(&self) -> bool {
        match self {
            Self::Any | Self::Int | Self::Set => false,
            Self::Map(inner) | Self::List(inner) | Self::Part(inner) => inner.has_records(),
            Self::Record(_) => true,
        }
    }

    /// Whether it is stored by many rows.
    pub(super) fn is_collection(&self) -> bool {
        !matches!(self, Self::Any | Self::Int)
    }

    /// What the items of a list are, if they are stored by themselves.
    pub(super) fn item(&self) -> Option<&L> {
        match self {
            Self::List(item) | Self::Part(item) => Some(&**item).filter(|it| it.is_collection()),
            _ => None,
        }
    }

    /// What is stored under a key, if it is stored by itself.
    pub(super) fn under(&self, key: &V) -> Option<&L> {
        match (self, key) {
            (Self::Map(inner), _) => Some(inner),
            (Self::Record(fields), V::Text(name)) => {
                NAMES.iter().position(|it| it == name).map(|at| &fields[at])
            }
            _ => None,
        }
    }
}

/// An error is its kind.
pub(super) type Got<T> = Result<T, &'static str>;

#[derive(Clone)]
enum Move {
    Do(Step),
    Restore(Vec<V>),
}

pub(super) fn moves(query: &Query) -> Path {
    Path(query.steps().iter().cloned().map(Move::Do).collect())
}

#[derive(Clone)]
pub(super) struct Path(Vec<Move>);

impl Path {
    fn before(&self, steps: &Query) -> Self {
        Self(moves(steps).0.into_iter().chain(self.0.iter().cloned()).collect())
    }
}

pub(super) fn call(function: &Function, collected: &[V], value: &V) -> Got<Option<V>> {
    let Function::Named(name) = function else { panic!("functions have names here") };
    Ok(match (name.as_str(), value) {
        ("inc", V::Int(value)) => Some(V::Int(value + 1)),
        ("gone", V::Int(value)) if value % 2 != 0 => None,
        ("inc" | "copy" | "gone", other) => Some(other.clone()),
        ("sum", value) => {
            let all = collected.iter().chain([value]);
            Some(V::Int(all.map(|it| if let V::Int(it) = it { *it } else { 7 }).sum()))
        }
        ("even", V::Int(value)) => Some(V::Bool(value % 2 == 0)),
        ("even", _) => Some(V::Bool(false)),
        ("is_list", value) => Some(V::Bool(matches!(value, V::List(_)))),
        ("some", _) => Some(V::Bool(!collected.is_empty())),
        ("fails", _) => return Err("function"),
        _ => return Err("no function"),
    })
}

fn test(function: &Function, collected: &[V], value: &V) -> Got<bool> {
    match call(function, collected, value)? {
        Some(V::Bool(answer)) => Ok(answer),
        _ => Err("mismatch"),
    }
}

fn at(place: i64, len: usize) -> Option<usize> {
    let len = i64::try_from(len).unwrap();
    let place = if place < 0 { place + len } else { place };
    (0..len).contains(&place).then(|| usize::try_from(place).unwrap())
}

fn cut(from: i64, to: i64, len: usize) -> (usize, usize) {
    let len = i64::try_from(len).unwrap();
    let clamp = |place: i64| {
        usize::try_from((if place < 0 { place + len } else { place }).clamp(0, len)).unwrap()
    };
    (clamp(from), clamp(to).max(clamp(from)))
}

fn holds(value: &V, op: Op, other: &V) -> bool {
    let same_kind = value.rank() == other.rank();
    match op {
        Op::Equal => value == other,
        Op::NotEqual => value != other,
        Op::Less => same_kind && value < other,
        Op::LessOrEqual => same_kind && value <= other,
        Op::Greater => same_kind && value > other,
        Op::GreaterOrEqual => same_kind && value >= other,
    }
}

fn field(of: &str, name: &str) -> Got<V> {
    match (of, name) {
        ("Thing", "a") => Ok(V::Int(0)),
        ("Thing", "b") => Ok(V::Int(1)),
        ("Record", name) if NAMES.contains(&name) => Ok(V::Text(name.to_owned())),
        _ => Err("no field"),
    }
}

/// The body of a `fix` with itself in the place of `again`.
fn unrolled(name: &str, body: &Query, path: &Query) -> Query {
    let go = |path: &Query| unrolled(name, body, path);
    let steps = path.steps().iter().map(|step| match step {
        Step::Again(other) if other == name => Step::Fix(name.to_owned(), body.clone()),
        Step::If(a, b, c) => Step::If(go(a), go(b), go(c)),
        Step::Multi(paths) => Step::Multi(paths.iter().map(go).collect()),
        Step::ThenStay(path) => Step::ThenStay(go(path)),
        Step::SubSelect(path) => Step::SubSelect(go(path)),
        Step::Collect(path) => Step::Collect(go(path)),
        other => other.clone(),
    });
    Query::from(steps.collect::<Vec<_>>())
}

/// Which of the keys a range or a choice takes, in its order; `None` if the step is neither.
fn taken(step: &Step, keys: &[V]) -> Vec<usize> {
    let choose = |wanted: &[Value]| {
        let mut places = Vec::new();
        for wanted in wanted {
            let place = keys.iter().position(|key| *key == V::of(wanted.raw()));
            places.extend(place.filter(|place| !places.contains(place)));
        }
        places
    };
    match step {
        Step::SubMap(wanted) | Step::SubSet(wanted) => choose(wanted),
        Step::Range { from, to, limit, reverse } => {
            let bound = |bound: &Bound<Value>| bound.as_ref().map(|value| V::of(value.raw()));
            let bounds = (bound(from), bound(to));
            let inside = |key: &V| {
                (match &bounds.0 {
                    Bound::Included(from) => key >= from,
                    Bound::Excluded(from) => key > from,
                    Bound::Unbounded => true,
                }) && (match &bounds.1 {
                    Bound::Included(to) => key <= to,
                    Bound::Excluded(to) => key < to,
                    Bound::Unbounded => true,
                })
            };
            let mut places: Vec<_> = (0..keys.len()).filter(|&it| inside(&keys[it])).collect();
            places.sort_by(|&a, &b| keys[a].cmp(&keys[b]));
            if *reverse {
                places.reverse();
            }
            places.truncate(usize::try_from(limit.unwrap_or(u64::MAX)).unwrap());
            places
        }
        _ => panic!("not such a step"),
    }
}

/// Collected values and what was reached.
pub(super) type Reached = (Vec<V>, V);

pub(super) fn results(reached: Vec<Reached>) -> Vec<V> {
    let tuple = |(mut collected, value): Reached| {
        if collected.is_empty() {
            return value;
        }
        collected.push(value);
        V::List(collected)
    };
    reached.into_iter().map(tuple).collect()
}

fn reaches(query: &Query, value: &V) -> Got<bool> {
    // Looks no further than the first one: what comes behind it cannot fail.
    let mut found = false;
    let ended = select(&moves(query), Vec::new(), value, &mut |_, _| {
        found = true;
        Err("enough")
    });
    match ended {
        Err("enough") => Ok(found),
        Err(other) => Err(other),
        Ok(()) => Ok(false),
    }
}

fn all(query: &Query, value: &V) -> Got<Vec<Reached>> {
    let mut out = Vec::new();
    select(&moves(query), Vec::new(), value, &mut |collected, value| {
        out.push((collected, value));
        Ok(())
    })?;
    Ok(out)
}

fn values_of(query: &Query, value: &V) -> Got<Vec<V>> {
    Ok(all(query, value)?.into_iter().map(|it| it.1).collect())
}

fn filtered(query: &Query) -> Query {
    Query::from([Step::All, Step::Selected(query.clone())])
}

fn bounds(from: &Query, to: &Query, value: &V) -> Got<(i64, i64)> {
    let one = |path: &Query| match &values_of(path, value)?[..] {
        [one] => one.int(),
        _ => Err("not one"),
    };
    Ok((one(from)?, one(to)?))
}

fn runs(query: &Query, items: &[V]) -> Got<Vec<(usize, usize)>> {
    let mut runs: Vec<(usize, usize)> = Vec::new();
    for (at, item) in items.iter().enumerate() {
        if reaches(query, item)? {
            match runs.last_mut() {
                Some(run) if run.1 == at => run.1 += 1,
                _ => runs.push((at, at + 1)),
            }
        }
    }
    Ok(runs)
}

type Out<'o> = dyn FnMut(Vec<V>, V) -> Got<()> + 'o;

pub(super) fn select(path: &Path, mut coll: Vec<V>, value: &V, out: &mut Out<'_>) -> Got<()> {
    let Some((first, rest)) = path.0.split_first() else { return out(coll, value.clone()) };
    let rest = Path(rest.to_vec());
    let step = match first {
        Move::Restore(collected) => return select(&rest, collected.clone(), value, out),
        Move::Do(step) => step,
    };
    let mut next: Vec<V> = Vec::new();
    match step {
        Step::Stop => {}
        Step::Key(key) => {
            let key = V::of(key.raw());
            let found = value.map()?.into_iter().find(|it| it.0 == key);
            next.push(found.map_or(V::Nil, |it| it.1));
        }
        Step::Field { of, name } => {
            let key = field(of, name)?;
            let found = value.map()?.into_iter().find(|it| it.0 == key);
            next.push(found.map_or(V::Nil, |it| it.1));
        }
        Step::Must(key) => {
            let key = V::of(key.raw());
            next.extend(value.map()?.into_iter().find(|it| it.0 == key).map(|it| it.1));
        }
        Step::MapKey(key) => {
            let key = V::of(key.raw());
            next.extend(value.map()?.into_iter().find(|it| it.0 == key).map(|it| it.0));
        }
        Step::Elem(element) => {
            let element = V::of(element.raw());
            next.extend(value.list()?.into_iter().find(|it| *it == element));
        }
        Step::Nth(place) => {
            let items = value.list()?;
            next.extend(at(*place, items.len()).map(|at| items[at].clone()));
        }
        Step::First => next.extend(value.list()?.first().cloned()),
        Step::Last => next.extend(value.list()?.last().cloned()),
        Step::Index(place) => {
            let place = at(*place, value.list()?.len());
            next.extend(place.map(|at| V::Int(i64::try_from(at).unwrap())));
        }
        Step::All => match value {
            V::Map(entries) => {
                next.extend(entries.iter().map(|(k, v)| V::List(vec![k.clone(), v.clone()])));
            }
            other => next = other.list()?,
        },
        Step::Keys => next.extend(value.map()?.into_iter().map(|it| it.0)),
        Step::Values => next.extend(value.map()?.into_iter().map(|it| it.1)),
        Step::Size => next.push(value.size()?),
        Step::Indexed => {
            let pairs = (0..).zip(value.list()?).map(|(at, it)| V::List(vec![V::Int(at), it]));
            next.extend(pairs);
        }
        Step::Begin | Step::End => {
            value.list()?;
            next.push(V::List(Vec::new()));
        }
        Step::BeforeFirst | Step::AfterLast | Step::InsertAt(_) | Step::NewElem => {
            value.list()?;
        }
        Step::Range { .. } | Step::SubMap(_) | Step::SubSet(_) => next.push(match (value, step) {
            (V::Nil, _) => V::Nil,
            (V::Map(entries), Step::Range { .. })
                if taken(step, &entries.iter().map(|it| it.0.clone()).collect::<Vec<_>>())
                    .is_empty() =>
            {
                V::Nil
            }
            (V::List(items), Step::Range { .. }) if taken(step, items).is_empty() => V::Nil,
            (V::Map(entries), Step::Range { .. } | Step::SubMap(_)) => {
                let keys: Vec<_> = entries.iter().map(|it| it.0.clone()).collect();
                V::Map(taken(step, &keys).into_iter().map(|at| entries[at].clone()).collect())
            }
            (V::List(items), Step::Range { .. } | Step::SubSet(_)) => {
                V::List(taken(step, items).into_iter().map(|at| items[at].clone()).collect())
            }
            _ => return Err("mismatch"),
        }),
        Step::Sublist(..) | Step::SublistOf(..) => {
            let items = value.list()?;
            let (from, to) = match step {
                Step::SublistOf(from, to) => bounds(from, to, value)?,
                Step::Sublist(from, to) => (*from, *to),
                _ => unreachable!(),
            };
            let (from, to) = cut(from, to, items.len());
            let nil = *value == V::Nil;
            next.push(if nil { V::Nil } else { V::List(items[from..to].to_vec()) });
        }
        Step::Filtered(query) => next.push(V::List(values_of(&filtered(query), value)?)),
        Step::SubSelect(query) => next.push(V::List(values_of(query, value)?)),
        Step::Runs(query) => {
            let items = value.list()?;
            let runs = runs(query, &items)?;
            next.extend(runs.into_iter().map(|(from, to)| V::List(items[from..to].to_vec())));
        }
        Step::Compare(op, other) => {
            next.extend(holds(value, *op, &V::of(other.raw())).then(|| value.clone()));
        }
        Step::Test(function) => next.extend(test(function, &coll, value)?.then(|| value.clone())),
        Step::Selected(query) => next.extend(reaches(query, value)?.then(|| value.clone())),
        Step::NotSelected(query) => next.extend((!reaches(query, value)?).then(|| value.clone())),
        Step::Collected(function) => {
            next.extend(test(function, &coll, &V::Nil)?.then(|| value.clone()));
        }
        Step::Navigate(_) => {
            let V::Int(it) = value else { return Err("function") };
            next.extend([V::Int(it.div_euclid(3)), V::Int(it.rem_euclid(3))]);
        }
        Step::View(function) => next.push(call(function, &coll, value)?.unwrap_or(V::Nil)),
        Step::Default(other) if *value == V::Nil => next.push(V::of(other.raw())),
        Step::Default(_) | Step::Stay | Step::NoneTo(_) => next.push(value.clone()),
        Step::Transformed(query, term) => {
            next.push(
                match transform(&moves(query), Vec::new(), Some(value), None, &mut term_of(term))? {
                    Ch::Same => value.clone(),
                    Ch::Void => V::Nil,
                    Ch::To(new) => new,
                },
            );
        }
        Step::If(condition, then, other) => {
            let branch = if reaches(condition, value)? { then } else { other };
            return select(&rest.before(branch), coll, value, out);
        }
        Step::Cond(cases) => {
            for (condition, then) in cases {
                if reaches(condition, value)? {
                    return select(&rest.before(then), coll, value, out);
                }
            }
        }
        Step::Multi(paths) => {
            for path in paths {
                select(&rest.before(path), coll.clone(), value, out)?;
            }
        }
        Step::ThenStay(path) => {
            select(&rest.before(path), coll.clone(), value, out)?;
            next.push(value.clone());
        }
        Step::Fix(name, body) => {
            return select(&rest.before(&unrolled(name, body, body)), coll, value, out);
        }
        Step::Again(_) => return Err("no fix"),
        Step::Collect(query) => {
            coll.push(V::List(results(all(query, value)?)));
            next.push(value.clone());
        }
        Step::CollectOne(query) => {
            let mut found = results(all(query, value)?);
            if found.len() != 1 {
                return Err("not one");
            }
            coll.append(&mut found);
            next.push(value.clone());
        }
        Step::PutValue(other) => {
            coll.push(V::of(other.raw()));
            next.push(value.clone());
        }
        Step::PutCurrent => {
            coll.push(value.clone());
            next.push(value.clone());
        }
        Step::DropCollected => {
            coll.clear();
            next.push(value.clone());
        }
        Step::Fresh(query) => {
            let mut path = moves(query);
            path.0.push(Move::Restore(coll));
            path.0.extend(rest.0);
            return select(&path, Vec::new(), value, out);
        }
    }
    next.iter().try_for_each(|part| select(&rest, coll.clone(), part, out))
}
