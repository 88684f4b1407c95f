//! Random layouts, rows, paths and terms. Paths mostly fit what they are for, so that most of them
//! reach something.

use super::naive::{L, NAMES, V};
use super::{Bound, Function, Layout, Navigator, Op, Query, Step, Term, Trace, Value};
use crate::codec::KeyKind;
use crate::codec::table::ValueKind;
use crate::schema::layout::FieldLayout;

/// A row of random numbers: xorshift, so that a case is known by its seed.
pub(super) struct Dice {
    state: u64,
    /// Fields of records have a meaning.
    has_records: bool,
}

impl Dice {
    pub(super) fn new(seed: u64) -> Self {
        let state = (seed + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut dice = Self { state, has_records: false };
        (0..4).for_each(|_| assert!(dice.below(2) < 2));
        dice
    }

    fn below(&mut self, end: u64) -> u64 {
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        (self.state >> 11) % end
    }

    fn place(&mut self) -> i64 {
        i64::try_from(self.below(7)).unwrap() - 3
    }

    fn one_in(&mut self, end: u64) -> bool {
        self.below(end) == 0
    }
}

/// What values look like.
#[derive(Clone, Debug)]
enum Shape {
    Int,
    List(Box<Shape>),
    Map(Box<Shape>),
    /// Of fields [`NAMES`](super::naive::NAMES).
    Record(Box<[Shape; 3]>),
}

pub(super) struct Case {
    pub(super) layout: L,
    pub(super) rows: V,
    pub(super) query: Query,
    pub(super) term: Term,
}

pub(super) fn case(dice: &mut Dice) -> Case {
    if dice.one_in(5) {
        return case_of_items(dice);
    }
    let shape = loop {
        let shape = shape(dice, 4);
        if !matches!(shape, Shape::Int) {
            break shape;
        }
    };
    let stored = 1 + dice.below(3);
    let layout = match layout(dice, &shape, stored) {
        layout @ (L::Map(_) | L::Set) => layout,
        // A list is no PState, a map of lists is.
        L::Any | L::Int | L::List(_) | L::Part(_) | L::Record(_) => return case(dice),
    };
    dice.has_records = layout.has_records();
    let rows = value(dice, &shape);
    let budget = 1 + dice.below(6);
    let (steps, end) = path(dice, &shape, budget, 2);
    let term = term(dice, &end);
    Case { layout, rows, query: Query::from(steps), term }
}

fn term(dice: &mut Dice, end: &Shape) -> Term {
    match dice.below(4) {
        0 => Term::Void,
        1 => Term::Apply(function(dice)),
        _ => Term::Set(value(dice, end).value()),
    }
}

/// A map of lists of collections, and a path that goes to an item of one, as a rule.
fn case_of_items(dice: &mut Dice) -> Case {
    let item = loop {
        let shape = shape(dice, 3);
        if !matches!(shape, Shape::Int) {
            break shape;
        }
    };
    let levels = 1 + dice.below(2);
    let stored = match layout(dice, &item, levels) {
        L::Any | L::Int => return case(dice),
        stored => stored,
    };
    let layout = L::Map(Box::new(L::List(Box::new(stored))));
    dice.has_records = layout.has_records();
    let list = Shape::List(Box::new(item.clone()));
    let rows = value(dice, &Shape::Map(Box::new(list.clone())));
    let at = match &rows {
        V::Map(entries) if !entries.is_empty() => {
            let at = dice.below(entries.len() as u64);
            entries[usize::try_from(at).unwrap()].0.value()
        }
        _ => key(dice),
    };
    let mut steps = vec![if dice.one_in(4) { Step::Values } else { Step::Key(at) }];
    if dice.one_in(4) {
        steps.push(Step::Sublist(dice.place(), dice.place()));
    }
    let mut from = item;
    match dice.below(8) {
        0 => steps.push(Step::First),
        1 => steps.push(Step::Last),
        2 => steps.push(Step::All),
        3 => from = list,
        _ => steps.push(Step::Nth(dice.place())),
    }
    let budget = dice.below(5);
    let (more, end) = path(dice, &from, budget, 2);
    steps.extend(more);
    let term = term(dice, &end);
    Case { layout, rows, query: Query::from(steps), term }
}

fn shape(dice: &mut Dice, depth: u64) -> Shape {
    match dice.below(6) {
        _ if depth == 0 => Shape::Int,
        0 | 1 => Shape::List(Box::new(shape(dice, depth - 1))),
        2 | 3 => Shape::Map(Box::new(shape(dice, depth - 1))),
        4 if dice.one_in(2) => Shape::Map(Box::new(shape(dice, depth - 1))),
        4 => Shape::Record(Box::new([0; 3].map(|_| shape(dice, depth - 1)))),
        _ => Shape::Int,
    }
}

/// The outermost levels of it stored by rows.
fn layout(dice: &mut Dice, shape: &Shape, levels: u64) -> L {
    match shape {
        Shape::Map(inner) if levels > 0 => L::Map(Box::new(layout(dice, inner, levels - 1))),
        Shape::Record(fields) if levels > 0 => {
            L::Record(Box::new(fields.each_ref().map(|it| layout(dice, it, levels - 1))))
        }
        Shape::List(inner) if levels > 0 => match **inner {
            Shape::Int if dice.one_in(2) => L::Set,
            _ if dice.one_in(8) => L::Any,
            _ => {
                // Of collections as a rule, where the items can be some.
                let levels = if dice.one_in(4) { 0 } else { levels - 1 };
                L::List(Box::new(layout(dice, inner, levels)))
            }
        },
        Shape::Int if dice.one_in(2) => L::Int,
        _ => L::Any,
    }
}

pub(super) fn erased(layout: &L) -> Layout {
    match layout {
        L::Any => Layout::Value(ValueKind::default()),
        L::Int => Layout::Value(Trace::default().kind_of::<i64>().unwrap()),
        L::Set => Layout::Set { element: KeyKind::I64, counted: false },
        L::Map(inner) => {
            let (key, value) = (KeyKind::I64, Box::new(erased(inner)));
            Layout::Map { key, value, counted: false }
        }
        L::List(item) | L::Part(item) => Layout::List { item: Box::new(erased(item)) },
        L::Record(fields) => {
            let fields = (NAMES.iter().zip(fields.iter()).zip([2, 7, 200])).map(
                |((name, field), number)| FieldLayout {
                    number,
                    name: (*name).to_owned(),
                    layout: erased(field),
                    gone: false,
                },
            );
            Layout::Record { name: "Record".to_owned(), fields: fields.collect() }
        }
    }
}

fn value(dice: &mut Dice, shape: &Shape) -> V {
    if dice.one_in(40) {
        return [V::Nil, V::Bool(true), V::Text("t".into())]
            [usize::try_from(dice.below(3)).unwrap()]
        .clone();
    }
    match shape {
        Shape::Int => V::Int(dice.place()),
        Shape::List(inner) => V::List((0..dice.below(5)).map(|_| value(dice, inner)).collect()),
        Shape::Map(inner) => {
            let mut entries: Vec<(V, V)> = Vec::new();
            for _ in 0..dice.below(5) {
                let key = V::Int(dice.place());
                if entries.iter().all(|it| it.0 != key) {
                    entries.push((key, value(dice, inner)));
                }
            }
            V::Map(entries)
        }
        Shape::Record(fields) => {
            let mut entries = Vec::new();
            for (name, field) in NAMES.iter().zip(fields.iter()) {
                if !dice.one_in(4) {
                    entries.push((V::Text((*name).to_owned()), value(dice, field)));
                }
            }
            if dice.one_in(2) {
                entries.reverse();
            }
            V::Map(entries)
        }
    }
}

fn function(dice: &mut Dice) -> Function {
    const NAMES: [&str; 12] =
        ["inc", "inc", "inc", "copy", "copy", "gone", "gone", "sum", "sum", "sum", "fails", "none"];
    Function::named(NAMES[usize::try_from(dice.below(NAMES.len() as u64)).unwrap()])
}

fn key(dice: &mut Dice) -> Value {
    if dice.one_in(60) { Value::from("text") } else { Value::from(dice.place()) }
}

fn name(dice: &mut Dice) -> &'static str {
    if dice.one_in(60) { "other" } else { NAMES[usize::try_from(dice.below(3)).unwrap()] }
}

fn keys(dice: &mut Dice) -> Vec<Value> {
    (0..dice.below(4)).map(|_| key(dice)).collect()
}

fn bound(dice: &mut Dice) -> Bound<Value> {
    match dice.below(3) {
        0 => Bound::Unbounded,
        1 => Bound::Included(key(dice)),
        _ => Bound::Excluded(key(dice)),
    }
}

/// Steps from something of a shape, and the shape of what they lead to.
fn path(dice: &mut Dice, shape: &Shape, budget: u64, depth: u64) -> (Vec<Step>, Shape) {
    let (mut steps, mut shape) = (Vec::new(), shape.clone());
    for _ in 0..budget {
        let other = if dice.one_in(25) { self::shape(dice, 2) } else { shape.clone() };
        let step = if depth > 0 && dice.one_in(3) {
            any(dice, &shape, depth - 1)
        } else {
            let (step, to) = fitting(dice, &other, depth);
            shape = to;
            step
        };
        steps.push(step);
    }
    (steps, shape)
}

fn query(dice: &mut Dice, shape: &Shape, depth: u64) -> Query {
    let budget = dice.below(3);
    Query::from(path(dice, shape, budget, depth).0)
}

/// A step that stays in its place, whatever is there.
fn any(dice: &mut Dice, shape: &Shape, depth: u64) -> Step {
    let mut q = || query(dice, shape, depth);
    let (a, b, c) = (q(), q(), q());
    match dice.below(23) {
        0 => Step::Stay,
        1 if dice.one_in(4) => Step::Stop,
        1 | 2 => Step::If(a, Query::here(), Query::from([Step::Stay])),
        3 => Step::Cond(vec![(a, Query::here()), (b, Query::from([Step::PutValue(key(dice))]))]),
        4 => Step::Multi(vec![Query::here(), Query::from([Step::PutCurrent])]),
        5 => Step::ThenStay(Query::from([Step::PutValue(key(dice))])),
        6 => Step::Selected(a),
        7 => Step::NotSelected(a),
        8 => Step::Collect(a),
        9 => Step::CollectOne(a),
        10 => Step::PutValue(key(dice)),
        11 => Step::PutCurrent,
        12 => Step::DropCollected,
        13 => {
            Step::Fresh(Query::from([Step::Collect(a), Step::Collected(Function::named("some"))]))
        }
        14 => Step::Collected(Function::named(if dice.one_in(5) { "inc" } else { "some" })),
        15 => Step::Default(value(dice, shape).value()),
        16 => Step::NoneTo(value(dice, shape).value()),
        17 => Step::Transformed(a, Box::new(Term::Apply(function(dice)))),
        18 => {
            // Every item of lists in lists, and what is none.
            let walk = [Step::All, Step::Again("walk".into())];
            let test = Query::from([Step::Test(Function::named("is_list"))]);
            let walk = Step::If(test, Query::from(walk), Query::here());
            Step::Fix("walk".into(), Query::from([walk]))
        }
        // Changes of one place after the other.
        19 => Step::Multi(vec![a, b, c]),
        20 => Step::If(a, b, c),
        21 => Step::Cond(vec![(a, b)]),
        _ => Step::ThenStay(a),
    }
}

/// A step for something of a shape.
fn fitting(dice: &mut Dice, shape: &Shape, depth: u64) -> (Step, Shape) {
    let pair = || Shape::List(Box::new(Shape::Int));
    let same = shape.clone();
    match shape {
        Shape::Int => match dice.below(5) {
            4 => (Step::Navigate(Navigator::named("parts")), same),
            0 => {
                const OPS: [Op; 6] = [
                    Op::Equal,
                    Op::NotEqual,
                    Op::Less,
                    Op::LessOrEqual,
                    Op::Greater,
                    Op::GreaterOrEqual,
                ];
                let op = OPS[usize::try_from(dice.below(6)).unwrap()];
                (Step::Compare(op, key(dice)), same)
            }
            1 => (Step::Test(Function::named("even")), same),
            2 => (Step::View(function(dice)), same),
            _ => (Step::Default(key(dice)), same),
        },
        Shape::Record(fields) => {
            let (name, inner) = (name(dice), &fields[usize::try_from(dice.below(3)).unwrap()]);
            let at = NAMES.iter().position(|it| *it == name);
            let field = at.map_or(Shape::Int, |at| fields[at].clone());
            let key = Value::from(name);
            match dice.below(14) {
                0..=3 if dice.has_records => {
                    (Step::Field { of: "Record".into(), name: name.into() }, field)
                }
                0..=4 => (Step::Key(key), field),
                5 => (Step::Must(key), field),
                6 => (Step::MapKey(key), Shape::Int),
                7 => (Step::Keys, Shape::Int),
                8 | 9 => (Step::Values, inner.clone()),
                10 => (Step::All, pair()),
                11 => (Step::SubMap(vec![key, Value::from("c")]), same),
                12 => (Step::Size, Shape::Int),
                _ => {
                    let (limit, reverse) = (dice.one_in(2).then_some(1), dice.one_in(2));
                    let (from, to) = (Bound::Included(key), Bound::Unbounded);
                    (Step::Range { from, to, limit, reverse }, same)
                }
            }
        }
        Shape::Map(inner) => match dice.below(15) {
            0..=3 => (Step::Key(key(dice)), (**inner).clone()),
            4 => (Step::Must(key(dice)), (**inner).clone()),
            5 => (Step::MapKey(key(dice)), Shape::Int),
            6 => (Step::All, pair()),
            7 => (Step::Keys, Shape::Int),
            8 | 9 => (Step::Values, (**inner).clone()),
            10 => (Step::SubMap(keys(dice)), same),
            12 => (Step::Size, Shape::Int),
            11 if dice.one_in(3) => {
                (Step::Field { of: "Thing".into(), name: "b".into() }, (**inner).clone())
            }
            _ => (range(dice), same),
        },
        Shape::List(inner) => match dice.below(24) {
            0 | 1 => (Step::Nth(dice.place()), (**inner).clone()),
            2 => (Step::First, (**inner).clone()),
            3 => (Step::Last, (**inner).clone()),
            4 | 5 => (Step::All, (**inner).clone()),
            6 => (Step::Index(dice.place()), Shape::Int),
            7 => (Step::Indexed, pair()),
            8 => (Step::Begin, same),
            9 => (Step::End, same),
            10 => (Step::BeforeFirst, (**inner).clone()),
            11 => (Step::AfterLast, (**inner).clone()),
            12 => (Step::InsertAt(dice.place()), (**inner).clone()),
            13 | 14 => (Step::NewElem, (**inner).clone()),
            15 => (Step::Elem(key(dice)), (**inner).clone()),
            16 => (Step::Sublist(dice.place(), dice.place()), same),
            17 => {
                let ends = (Query::from([Step::Index(0)]), Query::from([Step::Index(-1)]));
                (Step::SublistOf(ends.0, ends.1), same)
            }
            18 => (Step::SubSet(keys(dice)), same),
            22 => (Step::Size, Shape::Int),
            19 => (Step::Filtered(query(dice, inner, depth.saturating_sub(1))), same),
            20 => (Step::Runs(query(dice, inner, depth.saturating_sub(1))), same),
            21 => {
                let reached = query(dice, shape, depth.saturating_sub(1));
                (Step::SubSelect(reached), Shape::List(Box::new(Shape::Int)))
            }
            _ => (range(dice), same),
        },
    }
}

fn range(dice: &mut Dice) -> Step {
    let limit = dice.one_in(2).then(|| dice.below(4));
    Step::Range { from: bound(dice), to: bound(dice), limit, reverse: dice.one_in(3) }
}
