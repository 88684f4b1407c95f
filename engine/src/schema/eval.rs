//! Evaluates [queries](super::ast) over what is stored.
//!
//! One evaluator for events, clients and tests: it sees a `PState` through a [`Source`], and changes it
//! through a [`Writer`]. What a path costs follows from its steps:
//!
//! | at a collection stored by rows | cost |
//! |---|---|
//! | `Key`, `Must`, `MapKey`, `Elem`, a record's `Field` that lead to a row | one seek |
//! | `Range`, then `All`, `Keys` or `Values` over rows | one seek, and the rows up to the limit |
//! | the same over collections in it | one seek for each, and what the path reads of it |
//! | `First`, `Last` of a set | one seek, one row |
//! | `First`, `Last` of a list | one seek, one row |
//! | `Nth`, `Sublist` of a list, and what it reaches | one seek for the head, one scan of at most 64 rows for each level, and the rows |
//! | the same of a list whose items are collections, `All` | the same for ids, 64 at once; and for each item what the path reads of it |
//! | `Index`, `Size` of a list; `Size` of others | one seek; what `Keys` costs |
//! | T: `Key`s, then `Set` or `Void` to a row or a whole collection | nothing is read |
//! | T: `Range` without limit, then `Void`; `NewElem` | nothing is read |
//! | T: `InsertAt`, `BeforeFirst`, `AfterLast` in a list; `Nth` or `Index` that move or remove | what `Nth` costs, and a small row written for each level |
//! | T: `Nth` of a list that becomes something else | what `Nth` costs, and one row written |
//! | T: `Nth` of a list whose items are collections, then steps in the item | what `Nth` costs, and what they cost |
//! | T: `Sublist`, `Begin`, `End` | the same for each item that is another afterwards |
//! | T: `Values` | reads as selecting does; writes the rows that change |
//! | branches, and steps that collect | what their paths cost |
//! | any other step | reads the collection up to there as one value, of at most 16 MiB; T writes the rows that change |
//!
//! An item of a list that is a collection is there whether something is in it or not: `Void` of the item removes
//! it, and one that becomes empty, or nil, stays.
//!
//! To write in a collection that keeps its size costs what [`sizes`](super::sizes) says besides, and a `Range`
//! that is made `Void` there is read first.
//!
//! In a value no step reads anything, and only what lies before a part is looked at to find it.
//!
//! What is written is first decoded as the type that the `PState`'s rows have, so that a query, whoever
//! wrote it, leaves nothing behind that typed code cannot read. After an error a transform may have
//! written some of what it reached.

use std::cell::Cell;
use std::fmt;
use std::ops::ControlFlow;
use std::panic::AssertUnwindSafe;
use std::rc::Rc;

use super::ast::{Function, Functions, LocalNavigator, Navigator, Query, Step, Term, Value};
use super::{Described, Layout, Placing};
use crate::codec::value::raw::{Bad, Kind, Raw, push_list};
use crate::codec::{self, FieldTable, KeyKind, Placement};
use crate::env::LocalFuture;
use crate::topology::panic_message;

/// The steps that do not depend on the value, as a pattern: [`Trail::next`] takes them.
macro_rules! control_step {
    () => {
        Step::Stay
            | Step::Stop
            | Step::If(..)
            | Step::Cond(_)
            | Step::Multi(_)
            | Step::ThenStay(_)
            | Step::Fix(..)
            | Step::Again(_)
            | Step::Selected(_)
            | Step::NotSelected(_)
            | Step::Collected(_)
            | Step::Collect(_)
            | Step::CollectOne(_)
            | Step::PutValue(_)
            | Step::PutCurrent
            | Step::DropCollected
            | Step::Fresh(_)
    };
}

mod keys;
mod lists;
mod remote;
mod rows;
mod select;
#[cfg(test)]
mod tests;
mod transform;
mod within;

pub use remote::{Outcome, Queried};
pub(crate) use remote::{Selects, outcomes, query};
#[cfg(test)]
pub(crate) use tests::random_query;

/// The rows of one `PState`.
pub trait Source {
    /// What reading can fail with.
    type Error;

    /// Calls `visit` once, with the value of the row if there is one.
    ///
    /// # Errors
    /// The row cannot be read, or lies elsewhere.
    fn get<'a>(
        &'a self,
        row: Row<'a>,
        visit: &'a mut (dyn FnMut(Option<&[u8]>) + 'a),
    ) -> LocalFuture<'a, Result<(), Self::Error>>;

    /// Calls `visit` with keys and values of a range, in its order, until it breaks or the limit is
    /// reached.
    ///
    /// # Errors
    /// As [`Source::get`].
    fn scan<'a>(
        &'a self,
        scan: Scan<'a>,
        visit: &'a mut Visit<'a>,
    ) -> LocalFuture<'a, Result<(), Self::Error>>;
}

/// What [`Source::scan`] calls with each key and value.
pub type Visit<'v> = dyn FnMut(&[u8], &[u8]) -> ControlFlow<()> + 'v;

/// The rows of one `PState`, to be changed. Sees its own writes; none are made while it scans.
pub trait Writer: Source {
    /// Writes a row, reading nothing.
    ///
    /// # Errors
    /// The row cannot be written, or lies elsewhere.
    fn put(&self, row: Row<'_>, value: &[u8]) -> Result<(), Self::Error>;

    /// Deletes a row, which need not be there.
    ///
    /// # Errors
    /// As [`Writer::put`].
    fn delete(&self, row: Row<'_>) -> Result<(), Self::Error>;

    /// Deletes the rows from `from` up to but without `to`; `None` is the end of the `PState`.
    ///
    /// # Errors
    /// As [`Writer::put`].
    fn delete_range(&self, from: Row<'_>, to: Option<&[u8]>) -> Result<(), Self::Error>;
}

/// A row, by its key.
#[derive(Clone, Copy, Debug)]
pub struct Row<'a> {
    /// The encoded key.
    pub key: &'a [u8],
    /// How many bytes of it are the first key, which says where the row lives; 0 if the path has none.
    pub first_bytes: usize,
}

impl Row<'_> {
    /// The bytes of the first key, if the path has one.
    pub(crate) fn first(&self) -> Option<&[u8]> {
        self.key.get(..self.first_bytes).filter(|first| !first.is_empty())
    }
}

/// Rows, by a range of keys.
#[derive(Clone, Copy, Debug)]
pub struct Scan<'a> {
    /// The smallest key. Its first key is that of all rows, unless it has none.
    pub from: Row<'a>,
    /// The end, not included; `None` is the end of the `PState`.
    pub to: Option<&'a [u8]>,
    /// From the largest key down.
    pub reverse: bool,
    /// At most so many.
    pub limit: usize,
    /// Values are not looked at: the visitor may be given empty ones.
    pub keys_only: bool,
}

/// Why a query was given up.
#[derive(Debug, thiserror::Error)]
pub enum Error<E> {
    /// The rows cannot be read or written.
    #[error(transparent)]
    Source(E),
    /// The path does not fit what is there, or asks for too much.
    #[error(transparent)]
    Path(Problem),
}

impl<E> From<Problem> for Error<E> {
    fn from(problem: Problem) -> Self {
        Self::Path(problem)
    }
}

impl<E> From<Bad> for Error<E> {
    fn from(bad: Bad) -> Self {
        Self::Path(bad.into())
    }
}

/// What is wrong with a path, seen from what is stored.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Problem {
    /// A step met a value of another kind than it is for.
    #[error("step `{step}` takes {expected}, and met {found}")]
    Mismatch {
        /// The step, by its name in JSON.
        step: &'static str,
        /// What it is for.
        expected: &'static str,
        /// What was there.
        found: Kind,
    },
    /// A step does not fit what it would come to; nothing was read.
    #[error(transparent)]
    Misfit(#[from] Box<super::ast::Refused>),
    /// A key is not of the type that the keys of the collection have.
    #[error("a key of the path is no `{key_type}`, which the keys of the collection are")]
    BadKey {
        /// The type of the collection's keys.
        key_type: String,
        /// Why not.
        #[source]
        source: codec::Error,
    },
    /// Where a first key lives cannot be said.
    #[error("a first key of the path is none that says where it lives")]
    BadPlace(#[source] codec::Error),
    /// A key is longer than [`KEY_BYTES_MAX`](codec::KEY_BYTES_MAX).
    #[error(
        "a key has {bytes} bytes with all its parts, and at most {} are allowed",
        codec::KEY_BYTES_MAX
    )]
    KeyTooLong {
        /// How long it would be.
        bytes: usize,
    },
    /// What would be stored is not of the type that the rows have. It was not stored.
    #[error("the outcome is not what is stored there")]
    WrongType {
        /// Why not.
        #[source]
        source: codec::Error,
    },
    /// `collect_one` or `sublist_of` with a path that leads to none or to several.
    #[error("the path inside of `{step}` leads to exactly one value, and here to {found}")]
    NotOne {
        /// The step.
        step: &'static str,
        /// How many there are.
        found: usize,
    },
    /// The catalogue has no such field or variant.
    #[error("the type `{of}` has no field or variant `{name}` in this module")]
    NoField {
        /// The type.
        of: String,
        /// The field or variant.
        name: String,
    },
    /// A function or a navigator of the query panicked.
    #[error("a function or navigator of the query panicked: {0}")]
    Panicked(String),
    /// No function, or no navigator, of this name was given.
    #[error("there is no function or navigator `{0}`: register it where the query is evaluated")]
    NoFunction(String),
    /// `again` outside of a `fix` of this name.
    #[error("there is no `fix` of the name `{0}` around this `again`")]
    NoFix(String),
    /// A function does not take what it was given, or failed.
    #[error("a function of the path failed")]
    Function(#[source] codec::Error),
    /// A result is not of the type that it was asked for as.
    #[error("the query reaches what is not of the type that was asked for")]
    Unlike {
        /// Why not.
        #[source]
        source: codec::Error,
    },
    /// A path that goes on too long, or a value too large for one.
    #[error("the query asks for too much: {0}")]
    TooMuch(&'static str),
    /// Stored bytes are damaged.
    #[error(transparent)]
    Bad(#[from] Bad),
    /// A stored key is damaged, or was written for another type.
    #[error("a stored key does not decode")]
    BadRow(#[source] codec::Error),
}

impl Problem {
    /// Whether the path may be right, and what is stored is not what was to be read.
    pub(crate) fn is_of_rows(&self) -> bool {
        matches!(self, Self::Unlike { .. } | Self::Bad(_) | Self::BadRow(_))
    }
}

/// Calls `reach` with each result of a query in order, until it breaks: what was reached, or the list of
/// what was collected and it.
///
/// # Errors
/// As [`Error`] says.
pub async fn select<S: Source>(
    source: &S,
    cx: &Cx<'_>,
    query: &Query,
    reach: &mut dyn FnMut(Value) -> ControlFlow<()>,
) -> Result<(), Error<S::Error>> {
    let mut out = |collected: &Collected, value: Raw<'_>| Ok(reach(result(collected, value)));
    let spot = rows::Spot::root(cx.layout);
    let flow = select::select(source, cx, Trail::of(query.steps()), spot, &mut out).await?;
    // Whether the caller wanted no more is the caller's to know.
    let (ControlFlow::Continue(()) | ControlFlow::Break(())) = flow;
    Ok(())
}

/// All that a path reaches in one value, or where there is none.
pub(crate) fn within_value(
    fields: &FieldTable,
    query: &Query,
    value: Option<&[u8]>,
) -> Result<Vec<Value>, Problem> {
    // There are no rows to look for, and functions come with the path.
    const FUNCTIONS: &Functions = &Functions::none();
    const LAYOUT: &Layout = &Layout::Set { element: KeyKind::U8, counted: false };
    let cx = Cx::new(LAYOUT, fields, FUNCTIONS);
    let mut found = Vec::new();
    let mut out = |collected: &Collected, value: Raw<'_>| {
        found.push(result(collected, value));
        Ok(ControlFlow::Continue(()))
    };
    let value = value.map_or(Raw::NIL, Raw::new);
    let (ControlFlow::Continue(()) | ControlFlow::Break(())) =
        within::select(&cx, Trail::of(query.steps()), value, &mut out)?;
    Ok(found)
}

/// Where all that a query can reach lies: of a `PState` that lives in one place that place, of others that of
/// the first key, if the query names one before it goes anywhere.
pub(crate) fn place(pstate: Described<'_>, query: &Query) -> Result<Option<Placement>, Problem> {
    let of = |first: Option<&[u8]>| pstate.placing.of(first).map_err(Problem::BadPlace);
    for step in query.steps() {
        match step {
            Step::Stay | Step::PutValue(_) | Step::DropCollected => {}
            Step::Key(key) | Step::Must(key) | Step::MapKey(key) | Step::Elem(key)
                if !pstate.placing.is_single() =>
            {
                return of(Some(&rows::Spot::root(pstate.layout).key(key.raw())?));
            }
            _ => break,
        }
    }
    of(None)
}

/// Replaces each part that a query reaches by what the term makes of it.
///
/// # Errors
/// As [`Error`] says.
pub async fn transform<W: Writer>(
    writer: &W,
    cx: &Cx<'_>,
    query: &Query,
    term: &Term,
) -> Result<(), Error<W::Error>> {
    let spot = rows::Spot::root(cx.layout);
    transform::transform(writer, cx, Trail::of(query.steps()), spot, term).await
}

/// What an evaluation has beside the rows.
#[derive(Debug)]
pub struct Cx<'a> {
    /// How the `PState` lies in rows.
    layout: &'a Layout,
    /// Where they live.
    placing: Placing,
    /// Of a single value: its bytes where nothing is stored.
    initial: Option<&'a [u8]>,
    fields: &'a FieldTable,
    functions: &'a Functions,
    /// How many more steps it may take.
    steps_left: Cell<u64>,
}

/// Runs code of users. A query of a client runs on a shard, which goes on whatever that code does.
pub(super) fn guarded<T>(code: impl FnOnce() -> Result<T, Problem>) -> Result<T, Problem> {
    std::panic::catch_unwind(AssertUnwindSafe(code))
        .unwrap_or_else(|payload| Err(Problem::Panicked(panic_message(&*payload))))
}

impl<'a> Cx<'a> {
    /// For a `PState` of this layout whose rows live where their first keys say, values encoded with `fields`, and paths that call `functions`.
    #[must_use]
    pub fn new(layout: &'a Layout, fields: &'a FieldTable, functions: &'a Functions) -> Self {
        let (placing, initial) = (Placing::Hash, None);
        Self { layout, placing, initial, fields, functions, steps_left: Cell::new(STEPS_MAX) }
    }

    /// The same, for a `PState` of a module.
    #[must_use]
    pub fn of(pstate: Described<'a>, fields: &'a FieldTable, functions: &'a Functions) -> Self {
        let Described { layout, placing, initial, .. } = pstate;
        Self { placing, initial, ..Self::new(layout, fields, functions) }
    }

    /// The value of a row, or what is there where none is stored. (Only a single value has an initial one, and
    /// then there are no other rows.)
    fn stored<'v>(&self, row: Option<&'v [u8]>) -> Option<&'v [u8]>
    where
        'a: 'v,
    {
        row.or(self.initial)
    }

    fn call(
        &self,
        function: &Function,
        collected: &Collected,
        value: Raw<'_>,
    ) -> Result<Option<Value>, Problem> {
        let local = self.functions.find(function);
        let local = local.map_err(|name| Problem::NoFunction(name.to_owned()))?;
        let collected = list(collected);
        let collected: Vec<_> = collected.iter().map(|value| value.raw()).collect();
        guarded(|| local.call(self.fields, &collected, value).map_err(Problem::Function))
    }

    fn navigator<'n>(&'n self, navigator: &'n Navigator) -> Result<&'n LocalNavigator, Problem> {
        let found = self.functions.navigator(navigator);
        found.map_err(|name| Problem::NoFunction(name.to_owned()))
    }

    fn test(
        &self,
        step: &'static str,
        function: &Function,
        collected: &Collected,
        value: Raw<'_>,
    ) -> Result<bool, Problem> {
        let answer = self.call(function, collected, value)?;
        let answer = answer.as_ref().map_or(Raw::NIL, Value::raw);
        match answer.bytes() {
            [0xc3] => Ok(true),
            [0xc2] => Ok(false),
            _ => {
                let expected = "a function that says true or false";
                Err(Problem::Mismatch { step, expected, found: answer.kind()? })
            }
        }
    }
}

/// What was collected, last first.
type Collected = Option<Rc<Link>>;

struct Link {
    value: Value,
    before: Collected,
}

/// What was collected, first to last.
fn list(collected: &Collected) -> Vec<&Value> {
    let links = std::iter::successors(collected.as_deref(), |link| link.before.as_deref());
    let mut values: Vec<_> = links.map(|link| &link.value).collect();
    values.reverse();
    values
}

/// What the end of a path gives.
fn result(collected: &Collected, value: Raw<'_>) -> Value {
    if collected.is_none() {
        return Value::from_bytes(value.bytes());
    }
    let collected = list(collected);
    let mut out = Vec::new();
    push_list(&mut out, collected.len() + 1);
    for part in collected {
        out.extend_from_slice(part.raw().bytes());
    }
    out.extend_from_slice(value.bytes());
    Value::from_bytes(out)
}

/// The way that is left to go: steps, then what lies behind the step that these are a branch of. Cheap to
/// clone; allocates nothing for a path without branches.
#[derive(Clone)]
struct Trail<'p> {
    steps: &'p [Step],
    then: Option<Rc<Then<'p>>>,
    /// The paths that `again` can name.
    scope: Option<Rc<Scope<'p>>>,
    collected: Collected,
    /// How many steps lie behind.
    depth: usize,
}

struct Then<'p> {
    steps: &'p [Step],
    next: Option<Rc<Then<'p>>>,
    scope: Option<Rc<Scope<'p>>>,
    /// What is collected again from here on.
    restore: Option<Collected>,
}

struct Scope<'p> {
    name: &'p str,
    path: &'p [Step],
    outer: Option<Rc<Scope<'p>>>,
}

impl fmt::Debug for Trail<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Trail").field("steps", &self.steps).finish_non_exhaustive()
    }
}

/// What comes next.
enum Next<'p> {
    /// A step that depends on what is here.
    Step(&'p Step),
    /// A step that depends on what is here, and leads nowhere else.
    Fork(Fork<'p>),
    /// Nothing: this was reached.
    End,
    /// Nothing: no further.
    Stop,
}

/// Steps that stay where they are, and mean the same wherever that is.
enum Fork<'p> {
    /// The first path whose test reaches something, or the last; `None` is to stop.
    Choose(Vec<(&'p [Step], Option<&'p [Step]>)>, Option<&'p [Step]>),
    /// One after the other.
    Each(Vec<&'p [Step]>),
    /// Collect what the path reaches.
    Collect(&'p [Step], Amount),
    /// Collect what is here.
    Current,
}

#[derive(Clone, Copy)]
enum Amount {
    Any,
    One,
}

impl<'p> Trail<'p> {
    fn of(steps: &'p [Step]) -> Self {
        Self { steps, then: None, scope: None, collected: None, depth: 0 }
    }

    /// The path of a step, for its own sake.
    fn alone(&self, steps: &'p [Step]) -> Self {
        Self { steps, then: None, scope: self.scope.clone(), collected: None, depth: self.depth }
    }

    /// The path of a step, and after it what this has left.
    fn enter(&self, steps: &'p [Step]) -> Self {
        let mut entered = self.clone();
        entered.push(steps, None);
        entered
    }

    fn push(&mut self, steps: &'p [Step], restore: Option<Collected>) {
        let then = Then {
            steps: std::mem::replace(&mut self.steps, steps),
            next: self.then.take(),
            scope: self.scope.clone(),
            restore,
        };
        self.then = Some(Rc::new(then));
    }

    fn collect(&mut self, value: Value) {
        self.collected = Some(Rc::new(Link { value, before: self.collected.take() }));
    }

    /// Takes the next step, and those before it that do not depend on what is here.
    fn next(&mut self, cx: &Cx<'_>) -> Result<Next<'p>, Problem> {
        loop {
            let Some((step, rest)) = self.steps.split_first() else {
                let Some(then) = self.then.take() else { return Ok(Next::End) };
                self.steps = then.steps;
                self.then.clone_from(&then.next);
                self.scope.clone_from(&then.scope);
                if let Some(collected) = &then.restore {
                    self.collected.clone_from(collected);
                }
                continue;
            };
            self.depth += 1;
            if self.depth > DEPTH_MAX {
                return Err(Problem::TooMuch("a path of more than 48 steps, one after the other"));
            }
            let left = cx.steps_left.get().checked_sub(1);
            cx.steps_left.set(left.ok_or(Problem::TooMuch("more than ten million steps in all"))?);
            self.steps = rest;
            match step {
                Step::Stay => {}
                Step::Stop => return Ok(Next::Stop),
                Step::PutValue(value) => self.collect(value.clone()),
                Step::DropCollected => self.collected = None,
                Step::Fresh(path) => {
                    let collected = self.collected.take();
                    self.push(path.steps(), Some(collected));
                }
                Step::Collected(function) => {
                    if !cx.test("collected", function, &self.collected, Raw::NIL)? {
                        return Ok(Next::Stop);
                    }
                }
                Step::Fix(name, path) => {
                    self.push(path.steps(), None);
                    let outer = self.scope.take();
                    self.scope = Some(Rc::new(Scope { name, path: path.steps(), outer }));
                }
                Step::Again(name) => {
                    let scopes = std::iter::successors(self.scope.clone(), |it| it.outer.clone());
                    let fix = { scopes }.find(|scope| scope.name == name.as_str());
                    let fix = fix.ok_or_else(|| Problem::NoFix(name.clone()))?;
                    self.push(fix.path, None);
                    self.scope = Some(fix);
                }
                _ => return Ok(fork(step).map_or(Next::Step(step), Next::Fork)),
            }
        }
    }
}

fn fork(step: &Step) -> Option<Fork<'_>> {
    Some(match step {
        Step::If(test, then, other) => {
            Fork::Choose(vec![(test.steps(), Some(then.steps()))], Some(other.steps()))
        }
        Step::Cond(cases) => {
            let cases = cases.iter().map(|(test, then)| (test.steps(), Some(then.steps())));
            Fork::Choose(cases.collect(), None)
        }
        Step::Selected(test) => Fork::Choose(vec![(test.steps(), Some(&[]))], None),
        Step::NotSelected(test) => Fork::Choose(vec![(test.steps(), None)], Some(&[])),
        Step::Multi(paths) => Fork::Each(paths.iter().map(Query::steps).collect()),
        Step::ThenStay(path) => Fork::Each(vec![path.steps(), &[]]),
        Step::Collect(path) => Fork::Collect(path.steps(), Amount::Any),
        Step::CollectOne(path) => Fork::Collect(path.steps(), Amount::One),
        Step::PutCurrent => Fork::Current,
        _ => return None,
    })
}

/// What collecting adds.
fn gathered(step: Amount, mut found: Vec<Value>) -> Result<Value, Problem> {
    match step {
        Amount::Any => Ok(Value::list(found.iter())),
        Amount::One if found.len() == 1 => Ok(found.swap_remove(0)),
        Amount::One => Err(Problem::NotOne { step: "collect_one", found: found.len() }),
    }
}

/// Bounds the stack that a path can take, of itself or through `again`: unoptimised, a step over rows
/// takes up to 32 KiB, and threads have 2 MiB.
const DEPTH_MAX: usize = 48;

/// Bounds the time that a path can take: `again` in two branches doubles with every level.
const STEPS_MAX: u64 = 10_000_000;
