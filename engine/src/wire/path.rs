//! [`Query`] to bytes and back. A step is its kind and its arguments, sorted by what they are.

use std::ops::Bound;

use flatbuffers::{FlatBufferBuilder, WIPOffset};

use super::generated::path as fb;
use super::{Error, IDENTIFIER, TABLES_MAX, VERSION, root};
use crate::codec::value::raw::Raw;
use crate::schema::ast::{
    Function, Navigator, Op, QUERY_DEPTH_MAX, QUERY_STEPS_MAX, Query, Step, Term, Value,
};

impl Query {
    /// The query as bytes, to be kept or sent.
    ///
    /// # Errors
    /// [`Error::Local`]; [`Error::Size`], [`Error::TooLarge`] for what would not be read again.
    pub fn to_bytes(&self) -> Result<Vec<u8>, Error> {
        let mut out = Writer { fbb: FlatBufferBuilder::with_capacity(256), room: Room::new() };
        let path = Some(out.path(self)?);
        let mut fbb = out.fbb;
        let query = fb::Query::create(&mut fbb, &fb::QueryArgs { version: VERSION, path });
        fbb.finish(query, Some(IDENTIFIER));
        let bytes = fbb.finished_data().to_vec();
        match bytes.len() {
            found if found > super::BYTES_MAX => Err(Error::Size { found }),
            _ => Ok(bytes),
        }
    }

    /// The query that `bytes` are, whoever made them.
    ///
    /// # Errors
    /// All but [`Error::Local`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, Error> {
        Reader { room: Room::new(), met: 0 }.path(root(bytes)?.path())
    }
}

/// How much a path may still have.
struct Room {
    steps: usize,
    depth: usize,
    /// Tables that whoever reads it would have to visit.
    tables: usize,
}

impl Room {
    fn new() -> Self {
        Self { steps: QUERY_STEPS_MAX, depth: QUERY_DEPTH_MAX, tables: TABLES_MAX - 1 }
    }

    /// For one more path within another.
    fn enter(&mut self, steps: usize) -> Result<(), Error> {
        self.depth = self.depth.checked_sub(1).ok_or(Error::TooLarge)?;
        self.steps = self.steps.checked_sub(steps).ok_or(Error::TooLarge)?;
        Ok(())
    }

    /// For one more table of what is written.
    fn table(&mut self) -> Result<(), Error> {
        self.tables = self.tables.checked_sub(1).ok_or(Error::TooLarge)?;
        Ok(())
    }

    fn leave(&mut self) {
        self.depth += 1;
    }
}

/// The arguments of a step.
#[derive(Default)]
struct Arguments<'a> {
    values: Vec<&'a Value>,
    texts: Vec<&'a str>,
    places: Vec<i64>,
    paths: Vec<&'a Query>,
    detail: u8,
    limit: u64,
    term: Option<&'a Term>,
}

struct Writer {
    fbb: FlatBufferBuilder<'static>,
    room: Room,
}

impl Writer {
    fn path(&mut self, path: &Query) -> Result<WIPOffset<fb::Path<'static>>, Error> {
        self.room.enter(path.steps().len())?;
        self.room.table()?;
        let steps =
            path.steps().iter().map(|step| self.step(step)).collect::<Result<Vec<_>, _>>()?;
        self.room.leave();
        let steps = Some(self.fbb.create_vector(&steps));
        Ok(fb::Path::create(&mut self.fbb, &fb::PathArgs { steps }))
    }

    fn step(&mut self, step: &Step) -> Result<WIPOffset<fb::Step<'static>>, Error> {
        self.room.table()?;
        let (kind, arguments) = arguments(step)?;
        let values = arguments.values.into_iter().map(|value| self.value(value));
        let values = values.collect::<Result<Vec<_>, _>>()?;
        let texts = arguments.texts.into_iter().map(|text| self.fbb.create_string(text));
        let texts: Vec<_> = texts.collect();
        let paths = arguments.paths.into_iter().map(|path| self.path(path));
        let paths = paths.collect::<Result<Vec<_>, _>>()?;
        let term = arguments.term.map(|term| self.term(step, term)).transpose()?;
        // What a step does not have takes no bytes.
        let arguments = fb::StepArgs {
            kind,
            values: (!values.is_empty()).then(|| self.fbb.create_vector(&values)),
            texts: (!texts.is_empty()).then(|| self.fbb.create_vector(&texts)),
            places: (!arguments.places.is_empty())
                .then(|| self.fbb.create_vector(&arguments.places)),
            paths: (!paths.is_empty()).then(|| self.fbb.create_vector(&paths)),
            detail: arguments.detail,
            limit: arguments.limit,
            term,
        };
        Ok(fb::Step::create(&mut self.fbb, &arguments))
    }

    fn value(&mut self, value: &Value) -> Result<WIPOffset<fb::Data<'static>>, Error> {
        self.room.table()?;
        let bytes = Some(self.fbb.create_vector(value.raw().bytes()));
        Ok(fb::Data::create(&mut self.fbb, &fb::DataArgs { bytes }))
    }

    fn term(&mut self, step: &Step, term: &Term) -> Result<WIPOffset<fb::Term<'static>>, Error> {
        self.room.table()?;
        let arguments = match term {
            Term::Void => fb::TermArgs { kind: fb::TermKind::Void, ..fb::TermArgs::default() },
            Term::Set(value) => {
                let value = Some(self.value(value)?);
                fb::TermArgs { kind: fb::TermKind::Set, value, function: None }
            }
            Term::Apply(function) => {
                let function = Some(self.fbb.create_string(name(step, function)?));
                fb::TermArgs { kind: fb::TermKind::Apply, value: None, function }
            }
        };
        Ok(fb::Term::create(&mut self.fbb, &arguments))
    }
}

fn name<'f>(step: &Step, function: &'f Function) -> Result<&'f str, Error> {
    match function {
        Function::Named(name) => Ok(name),
        Function::Local(_) => Err(Error::Local { step: step.name() }),
    }
}

/// A step without arguments, or with those of one sort.
macro_rules! sorted {
    ($kind:ident) => {
        (fb::StepKind::$kind, Arguments::default())
    };
    ($kind:ident, $($sort:ident: [$($argument:expr),*]),+) => {
        (fb::StepKind::$kind, Arguments { $($sort: vec![$($argument),*],)+ ..Arguments::default() })
    };
}

#[allow(clippy::too_many_lines, reason = "one arm for each step")]
fn arguments(step: &Step) -> Result<(fb::StepKind, Arguments<'_>), Error> {
    Ok(match step {
        Step::Key(key) => sorted!(Key, values: [key]),
        Step::Must(key) => sorted!(Must, values: [key]),
        Step::MapKey(key) => sorted!(MapKey, values: [key]),
        Step::Elem(element) => sorted!(Elem, values: [element]),
        Step::Field { of, name } => sorted!(Field, texts: [of, name]),
        Step::Nth(at) => sorted!(Nth, places: [*at]),
        Step::First => sorted!(First),
        Step::Last => sorted!(Last),
        Step::Index(at) => sorted!(Index, places: [*at]),
        Step::All => sorted!(All),
        Step::Keys => sorted!(Keys),
        Step::Values => sorted!(Values),
        Step::Size => sorted!(Size),
        Step::Indexed => sorted!(Indexed),
        Step::Begin => sorted!(Begin),
        Step::End => sorted!(End),
        Step::BeforeFirst => sorted!(BeforeFirst),
        Step::AfterLast => sorted!(AfterLast),
        Step::InsertAt(at) => sorted!(InsertAt, places: [*at]),
        Step::NewElem => sorted!(NewElem),
        Step::Range { from, to, limit, reverse } => {
            let mut values = Vec::new();
            let mut bound = |bound| match bound {
                &Bound::Unbounded => UNBOUNDED,
                Bound::Included(value) => {
                    values.push(value);
                    INCLUDED
                }
                Bound::Excluded(value) => {
                    values.push(value);
                    EXCLUDED
                }
            };
            let mut detail = bound(from) | bound(to) << 2;
            detail |= if *reverse { REVERSE } else { 0 };
            detail |= if limit.is_some() { LIMIT } else { 0 };
            let limit = limit.unwrap_or(0);
            (fb::StepKind::Range, Arguments { values, detail, limit, ..Arguments::default() })
        }
        Step::Sublist(from, to) => sorted!(Sublist, places: [*from, *to]),
        Step::SublistOf(from, to) => sorted!(SublistOf, paths: [from, to]),
        Step::SubMap(keys) => {
            let values = keys.iter().collect();
            (fb::StepKind::SubMap, Arguments { values, ..Arguments::default() })
        }
        Step::SubSet(elements) => {
            let values = elements.iter().collect();
            (fb::StepKind::SubSet, Arguments { values, ..Arguments::default() })
        }
        Step::Filtered(path) => sorted!(Filtered, paths: [path]),
        Step::Runs(path) => sorted!(Runs, paths: [path]),
        Step::Compare(op, value) => {
            let (values, detail) = (vec![value], op_to(*op));
            (fb::StepKind::Compare, Arguments { values, detail, ..Arguments::default() })
        }
        Step::Test(function) => sorted!(Test, texts: [name(step, function)?]),
        Step::Selected(path) => sorted!(Selected, paths: [path]),
        Step::NotSelected(path) => sorted!(NotSelected, paths: [path]),
        Step::Collected(function) => sorted!(Collected, texts: [name(step, function)?]),
        Step::View(function) => sorted!(View, texts: [name(step, function)?]),
        Step::Default(value) => sorted!(Default, values: [value]),
        Step::NoneTo(value) => sorted!(NoneTo, values: [value]),
        Step::Navigate(Navigator::Named(name)) => sorted!(Navigate, texts: [name]),
        Step::Navigate(Navigator::Local(_)) => return Err(Error::Local { step: step.name() }),
        Step::Transformed(path, term) => {
            let (paths, term) = (vec![path], Some(&**term));
            (fb::StepKind::Transformed, Arguments { paths, term, ..Arguments::default() })
        }
        Step::Stay => sorted!(Stay),
        Step::Stop => sorted!(Stop),
        Step::If(test, then, other) => sorted!(If, paths: [test, then, other]),
        Step::Cond(cases) => {
            let paths = cases.iter().flat_map(|(test, then)| [test, then]).collect();
            (fb::StepKind::Cond, Arguments { paths, ..Arguments::default() })
        }
        Step::Multi(paths) => {
            let paths = paths.iter().collect();
            (fb::StepKind::Multi, Arguments { paths, ..Arguments::default() })
        }
        Step::SubSelect(path) => sorted!(SubSelect, paths: [path]),
        Step::ThenStay(path) => sorted!(ThenStay, paths: [path]),
        Step::Fix(name, path) => sorted!(Fix, texts: [name], paths: [path]),
        Step::Again(name) => sorted!(Again, texts: [name]),
        Step::Collect(path) => sorted!(Collect, paths: [path]),
        Step::CollectOne(path) => sorted!(CollectOne, paths: [path]),
        Step::PutValue(value) => sorted!(PutValue, values: [value]),
        Step::PutCurrent => sorted!(PutCurrent),
        Step::DropCollected => sorted!(DropCollected),
        Step::Fresh(path) => sorted!(Fresh, paths: [path]),
    })
}

/// What was read of a step's arguments.
struct Found {
    values: Vec<Value>,
    texts: Vec<String>,
    places: Vec<i64>,
    paths: Vec<Query>,
    detail: u8,
    limit: u64,
    term: Option<Term>,
}

impl Found {
    /// So many of each sort, and nothing else.
    fn exactly<const V: usize, const T: usize, const P: usize, const Q: usize>(
        self,
    ) -> Result<Exactly<V, T, P, Q>, Problem> {
        if self.detail != 0 || self.limit != 0 || self.term.is_some() {
            return Err(ARGUMENTS);
        }
        Ok((
            self.values.try_into().map_err(|_| ARGUMENTS)?,
            self.texts.try_into().map_err(|_| ARGUMENTS)?,
            self.places.try_into().map_err(|_| ARGUMENTS)?,
            self.paths.try_into().map_err(|_| ARGUMENTS)?,
        ))
    }
}

/// Values, texts, places and paths.
type Exactly<const V: usize, const T: usize, const P: usize, const Q: usize> =
    ([Value; V], [String; T], [i64; P], [Query; Q]);

type Problem = &'static str;

struct Reader {
    room: Room,
    /// How many steps were met.
    met: usize,
}

impl Reader {
    fn path(&mut self, path: fb::Path<'_>) -> Result<Query, Error> {
        let steps = path.steps();
        self.room.enter(steps.len())?;
        let steps = steps.iter().map(|step| self.step(step)).collect::<Result<Vec<_>, _>>()?;
        self.room.leave();
        Ok(Query::from(steps))
    }

    fn step(&mut self, step: fb::Step<'_>) -> Result<Step, Error> {
        self.met += 1;
        let at = self.met;
        let failed = |problem| Error::Step { at, problem };
        let mut values = Vec::new();
        for value in step.values().into_iter().flatten() {
            values.push(value_from(value).map_err(failed)?);
        }
        let mut paths = Vec::new();
        for path in step.paths().into_iter().flatten() {
            paths.push(self.path(path)?);
        }
        let found = Found {
            values,
            texts: step.texts().into_iter().flatten().map(str::to_owned).collect(),
            places: step.places().into_iter().flatten().collect(),
            paths,
            detail: step.detail(),
            limit: step.limit(),
            term: step.term().map(term_from).transpose().map_err(failed)?,
        };
        step_from(step.kind(), found).map_err(failed)
    }
}

fn value_from(value: fb::Data<'_>) -> Result<Value, Problem> {
    let bytes = value.bytes().bytes();
    Raw::new(bytes).check().map_err(|_| "a value that is none")?;
    Ok(Value::from_bytes(bytes))
}

fn term_from(term: fb::Term<'_>) -> Result<Term, Problem> {
    match (term.kind(), term.value(), term.function()) {
        (fb::TermKind::Void, None, None) => Ok(Term::Void),
        (fb::TermKind::Set, Some(value), None) => Ok(Term::Set(value_from(value)?)),
        (fb::TermKind::Apply, None, Some(name)) => Ok(Term::Apply(Function::named(name))),
        _ => Err("an unknown term"),
    }
}

/// A step with exactly these arguments.
macro_rules! step {
    ($found:ident => |$values:pat_param, $texts:pat_param, $places:pat_param, $paths:pat_param| $step:expr) => {{
        let ($values, $texts, $places, $paths) = $found.exactly()?;
        $step
    }};
}

#[allow(clippy::too_many_lines, reason = "one arm for each step")]
fn step_from(kind: fb::StepKind, found: Found) -> Result<Step, Problem> {
    Ok(match kind {
        fb::StepKind::Key => step!(found => |[key], [], [], []| Step::Key(key)),
        fb::StepKind::Must => step!(found => |[key], [], [], []| Step::Must(key)),
        fb::StepKind::MapKey => step!(found => |[key], [], [], []| Step::MapKey(key)),
        fb::StepKind::Elem => step!(found => |[element], [], [], []| Step::Elem(element)),
        fb::StepKind::Field => step!(found => |[], [of, name], [], []| Step::Field { of, name }),
        fb::StepKind::Nth => step!(found => |[], [], [at], []| Step::Nth(at)),
        fb::StepKind::First => step!(found => |[], [], [], []| Step::First),
        fb::StepKind::Last => step!(found => |[], [], [], []| Step::Last),
        fb::StepKind::Index => step!(found => |[], [], [at], []| Step::Index(at)),
        fb::StepKind::All => step!(found => |[], [], [], []| Step::All),
        fb::StepKind::Keys => step!(found => |[], [], [], []| Step::Keys),
        fb::StepKind::Values => step!(found => |[], [], [], []| Step::Values),
        fb::StepKind::Size => step!(found => |[], [], [], []| Step::Size),
        fb::StepKind::Indexed => step!(found => |[], [], [], []| Step::Indexed),
        fb::StepKind::Begin => step!(found => |[], [], [], []| Step::Begin),
        fb::StepKind::End => step!(found => |[], [], [], []| Step::End),
        fb::StepKind::BeforeFirst => step!(found => |[], [], [], []| Step::BeforeFirst),
        fb::StepKind::AfterLast => step!(found => |[], [], [], []| Step::AfterLast),
        fb::StepKind::InsertAt => step!(found => |[], [], [at], []| Step::InsertAt(at)),
        fb::StepKind::NewElem => step!(found => |[], [], [], []| Step::NewElem),
        fb::StepKind::Range => range_from(found)?,
        fb::StepKind::Sublist => step!(found => |[], [], [from, to], []| Step::Sublist(from, to)),
        fb::StepKind::SublistOf => {
            step!(found => |[], [], [], [from, to]| Step::SublistOf(from, to))
        }
        fb::StepKind::SubMap => Step::SubMap(values_from(found)?),
        fb::StepKind::SubSet => Step::SubSet(values_from(found)?),
        fb::StepKind::Filtered => step!(found => |[], [], [], [path]| Step::Filtered(path)),
        fb::StepKind::Runs => step!(found => |[], [], [], [path]| Step::Runs(path)),
        fb::StepKind::Compare => {
            let op = op_from(found.detail)?;
            let found = Found { detail: 0, ..found };
            step!(found => |[value], [], [], []| Step::Compare(op, value))
        }
        fb::StepKind::Test => {
            step!(found => |[], [name], [], []| Step::Test(Function::Named(name)))
        }
        fb::StepKind::Selected => step!(found => |[], [], [], [path]| Step::Selected(path)),
        fb::StepKind::NotSelected => step!(found => |[], [], [], [path]| Step::NotSelected(path)),
        fb::StepKind::Collected => {
            step!(found => |[], [name], [], []| Step::Collected(Function::Named(name)))
        }
        fb::StepKind::View => {
            step!(found => |[], [name], [], []| Step::View(Function::Named(name)))
        }
        fb::StepKind::Default => step!(found => |[value], [], [], []| Step::Default(value)),
        fb::StepKind::NoneTo => step!(found => |[value], [], [], []| Step::NoneTo(value)),
        fb::StepKind::Navigate => {
            step!(found => |[], [name], [], []| Step::Navigate(Navigator::Named(name)))
        }
        fb::StepKind::Transformed => {
            let mut found = found;
            let term = found.term.take().ok_or(ARGUMENTS)?;
            step!(found => |[], [], [], [path]| Step::Transformed(path, Box::new(term)))
        }
        fb::StepKind::Stay => step!(found => |[], [], [], []| Step::Stay),
        fb::StepKind::Stop => step!(found => |[], [], [], []| Step::Stop),
        fb::StepKind::If => {
            step!(found => |[], [], [], [test, then, other]| Step::If(test, then, other))
        }
        fb::StepKind::Cond => {
            let mut paths = paths_from(found)?.into_iter();
            let mut cases = Vec::new();
            while let Some(test) = paths.next() {
                cases.push((test, paths.next().ok_or(ARGUMENTS)?));
            }
            Step::Cond(cases)
        }
        fb::StepKind::Multi => Step::Multi(paths_from(found)?),
        fb::StepKind::SubSelect => step!(found => |[], [], [], [path]| Step::SubSelect(path)),
        fb::StepKind::ThenStay => step!(found => |[], [], [], [path]| Step::ThenStay(path)),
        fb::StepKind::Fix => step!(found => |[], [name], [], [path]| Step::Fix(name, path)),
        fb::StepKind::Again => step!(found => |[], [name], [], []| Step::Again(name)),
        fb::StepKind::Collect => step!(found => |[], [], [], [path]| Step::Collect(path)),
        fb::StepKind::CollectOne => step!(found => |[], [], [], [path]| Step::CollectOne(path)),
        fb::StepKind::PutValue => step!(found => |[value], [], [], []| Step::PutValue(value)),
        fb::StepKind::PutCurrent => step!(found => |[], [], [], []| Step::PutCurrent),
        fb::StepKind::DropCollected => step!(found => |[], [], [], []| Step::DropCollected),
        fb::StepKind::Fresh => step!(found => |[], [], [], [path]| Step::Fresh(path)),
        _ => return Err("a kind that this build does not know"),
    })
}

fn range_from(found: Found) -> Result<Step, Problem> {
    let detail = found.detail;
    if detail & !(0b1111 | REVERSE | LIMIT) != 0 {
        return Err(ARGUMENTS);
    }
    let limit = match (detail & LIMIT != 0, found.limit) {
        (true, limit) => Some(limit),
        (false, 0) => None,
        (false, _) => return Err(ARGUMENTS),
    };
    let mut values = values_from(Found { detail: 0, limit: 0, ..found })?.into_iter();
    let mut bound = |kind: u8| match kind {
        UNBOUNDED => Ok(Bound::Unbounded),
        INCLUDED => values.next().map(Bound::Included).ok_or(ARGUMENTS),
        EXCLUDED => values.next().map(Bound::Excluded).ok_or(ARGUMENTS),
        _ => Err(ARGUMENTS),
    };
    let (from, to) = (bound(detail & 3)?, bound(detail >> 2 & 3)?);
    if values.next().is_some() {
        return Err(ARGUMENTS);
    }
    Ok(Step::Range { from, to, limit, reverse: detail & REVERSE != 0 })
}

fn values_from(mut found: Found) -> Result<Vec<Value>, Problem> {
    let values = std::mem::take(&mut found.values);
    found.exactly::<0, 0, 0, 0>().map(|_| values)
}

fn paths_from(mut found: Found) -> Result<Vec<Query>, Problem> {
    let paths = std::mem::take(&mut found.paths);
    found.exactly::<0, 0, 0, 0>().map(|_| paths)
}

fn op_to(op: Op) -> u8 {
    match op {
        Op::Equal => 0,
        Op::NotEqual => 1,
        Op::Less => 2,
        Op::LessOrEqual => 3,
        Op::Greater => 4,
        Op::GreaterOrEqual => 5,
    }
}

fn op_from(op: u8) -> Result<Op, Problem> {
    Ok(match op {
        0 => Op::Equal,
        1 => Op::NotEqual,
        2 => Op::Less,
        3 => Op::LessOrEqual,
        4 => Op::Greater,
        5 => Op::GreaterOrEqual,
        _ => return Err(ARGUMENTS),
    })
}

/// Bounds of a range, two bits each, and what else it may have.
const UNBOUNDED: u8 = 0;
const INCLUDED: u8 = 1;
const EXCLUDED: u8 = 2;
const REVERSE: u8 = 1 << 4;
const LIMIT: u8 = 1 << 5;

const ARGUMENTS: Problem = "other arguments than it takes";
