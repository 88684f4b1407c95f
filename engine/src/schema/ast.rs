//! Paths as data: what a program can build, keep, send as JSON and have evaluated, on every `PState`.
//!
//! A [`Query`] is a sequence of [`Step`]s. Each step leads from what was reached so far to parts of it;
//! selecting gives all that the last step reaches, transforming replaces each of it by what a [`Term`]
//! makes of it. The steps mean the same whether a collection is a `Sub`, stored row by row, or lies
//! inside one value; only the costs differ, see [`eval`](super::eval).
//!
//! ```
//! use tidemill::schema::ast::{Op, Query, Step, Value};
//!
//! // The names of Ann's friends over thirty.
//! let friends = Query::from([
//!     Step::Key(Value::from("ann")),
//!     Step::Values,
//!     Step::Selected(Query::from([
//!         Step::Field { of: "Friend".into(), name: "age".into() },
//!         Step::Compare(Op::Greater, Value::from(30)),
//!     ])),
//!     Step::Field { of: "Friend".into(), name: "name".into() },
//! ]);
//! let json = friends.to_json()?;
//! assert_eq!(json.to_string(), concat!(
//!     r#"[["key","ann"],"values","#,
//!     r#"["selected",[["field","Friend","age"],["compare",">",30]]],["field","Friend","name"]]"#,
//! ));
//! assert_eq!(Query::from_json(&json)?, friends);
//! # Ok::<(), tidemill::schema::ast::JsonError>(())
//! ```
//!
//! # What holds for all steps
//!
//! * What is absent reads as nil, and nil is the empty collection of whatever kind a step expects.
//! * A transform that a step stops leaves what it was at as it was: nothing is created on the way.
//! * A term that gives nothing ([`Term::Void`]) removes the element from what holds it.
//! * Values are compared as [`Raw::compare`](crate::codec::value::raw::Raw::compare) says.
//! * Paths inside of steps begin with nothing collected, unless they are the way on (branches).
//! * Steps that collect put values aside. A result is then the list of them and of what was reached, and
//!   functions get them before the value.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Bound;
use std::sync::Arc;

use serde::Serialize;

use super::Data;
use crate::codec::value::raw::Raw;
use crate::codec::{self, FieldTable};

mod check;
mod json;
mod navigate;

pub use check::{Refused, check};
pub use json::JsonError;
pub use navigate::{LocalNavigator, Navigate, Navigator};

/// An encoded value.
#[derive(Clone)]
pub struct Value(Arc<[u8]>);

impl Value {
    /// Encodes `value` for the module whose table this is.
    ///
    /// # Errors
    /// As [`codec::encode`].
    pub fn of<T: Serialize + ?Sized>(fields: &FieldTable, value: &T) -> codec::Result<Self> {
        let mut bytes = Vec::new();
        codec::encode(fields, value, &mut bytes)?;
        Ok(Self(bytes.into()))
    }

    /// The value as `T`.
    ///
    /// # Errors
    /// As [`codec::decode`].
    pub fn decode<T: Data>(&self, fields: &FieldTable) -> codec::Result<T> {
        codec::decode(fields, &self.0)
    }

    /// For bytes that are one.
    pub(crate) fn from_bytes(bytes: impl Into<Arc<[u8]>>) -> Self {
        Self(bytes.into())
    }

    /// The encoded bytes, to be looked into.
    #[must_use]
    pub fn raw(&self) -> Raw<'_> {
        Raw::new(&self.0)
    }

    /// `None`.
    #[must_use]
    pub fn nil() -> Self {
        Self::plain(&())
    }

    /// A list of values.
    #[must_use]
    pub fn list<'v>(items: impl ExactSizeIterator<Item = &'v Self>) -> Self {
        let mut bytes = Vec::new();
        crate::codec::value::raw::push_list(&mut bytes, items.len());
        for item in items {
            bytes.extend_from_slice(&item.0);
        }
        Self(bytes.into())
    }

    /// Of a type without names, that always encodes.
    fn plain<T: Serialize + ?Sized>(value: &T) -> Self {
        let mut bytes = Vec::new();
        codec::encode(&FieldTable::new(), value, &mut bytes).expect("a plain value is no struct");
        Self(bytes.into())
    }
}

macro_rules! values {
    ($($type:ty),*) => { $(
        impl From<$type> for Value {
            fn from(value: $type) -> Self {
                Self::plain(&value)
            }
        }
    )* };
}

values!(bool, i32, i64, u8, u32, u64, f64);

impl From<&str> for Value {
    fn from(value: &str) -> Self {
        let mut bytes = Vec::new();
        rmp::encode::write_str(&mut bytes, value).expect("a Vec takes all bytes");
        Self(bytes.into())
    }
}

/// Values are the same if they compare as equal.
impl PartialEq for Value {
    fn eq(&self, other: &Self) -> bool {
        self.raw().is(other.raw()) == Ok(true)
    }
}

impl fmt::Debug for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.to_json() {
            Ok(json) => write!(f, "{json}"),
            Err(_) => write!(f, "{:?}", &self.0),
        }
    }
}

/// A path: steps, one after the other. Clones share the steps.
#[derive(Clone, Debug, PartialEq)]
pub struct Query(Arc<[Step]>);

impl Query {
    /// The path that stays where it is.
    #[must_use]
    pub fn here() -> Self {
        Self::from([])
    }

    /// The steps.
    #[must_use]
    pub fn steps(&self) -> &[Step] {
        &self.0
    }
}

impl<const N: usize> From<[Step; N]> for Query {
    fn from(steps: [Step; N]) -> Self {
        Self(Arc::new(steps))
    }
}

impl From<Vec<Step>> for Query {
    fn from(steps: Vec<Step>) -> Self {
        Self(steps.into())
    }
}

/// One step of a path. "S" says what selecting reaches, "T" what a transform does with the outcome.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    // To parts that are there.
    /// What is under a key of a map. S: nil if the key is absent. T: sets or removes the entry.
    Key(Value),
    /// As [`Step::Key`], and stops if the key is absent.
    Must(Value),
    /// The key itself, if the map has it. T: renames it, over an entry that has the new name.
    MapKey(Value),
    /// An element of a set, if the set has it. T: replaces or removes it.
    Elem(Value),
    /// A field of a struct, or the content of an enum's variant, by the names that serde gives them.
    /// S: nil if it is absent. T: sets it or removes it.
    Field {
        /// The name of the struct, of the enum, or `Enum::Variant`.
        of: String,
        /// The name of the field or variant.
        name: String,
    },
    /// An item of a list, counted from 0, or from the end with -1 for the last. Stops if there is none.
    Nth(i64),
    /// The first item of a list or set. Stops if it is empty.
    First,
    /// The last item of a list or set. Stops if it is empty.
    Last,
    /// The place of an item, as [`Step::Nth`] counts it. S: counted from 0. T: moves the item there, or
    /// to the nearest end; removes it.
    Index(i64),
    /// Each item of a list, element of a set, or `[key, value]` of a map.
    All,
    /// Each key of a map. T: renames it; of entries that get one name, the last stays.
    Keys,
    /// Each value of a map.
    Values,
    /// How many items, elements or entries there are; none of nil. T: the outcome takes the place of what was
    /// here.
    Size,
    /// Each `[place, item]` of a list. T: changes items, and puts them in the order of the new places;
    /// those of the same place stay in the order they had.
    Indexed,

    // To parts that are not there: S reaches nothing, except that the two empty lists are reached.
    /// The empty list at the front. T: puts the items of a list there.
    Begin,
    /// The empty list at the end. T: puts the items of a list there.
    End,
    /// T: puts one item at the front of a list.
    BeforeFirst,
    /// T: puts one item at the end of a list.
    AfterLast,
    /// T: puts one item before another, as [`Step::Nth`] counts it; the length is the end. Stops beyond.
    InsertAt(i64),
    /// T: adds an element to a set, at its end where order counts.
    NewElem,

    // To several parts as one value, in whose place T puts the outcome.
    /// The entries of a map, or the elements of a set, whose keys lie between two: the map or set of
    /// them, nil if there are none. T: removes those it reached and adds the outcome's.
    Range {
        /// The lowest.
        from: Bound<Value>,
        /// The highest.
        to: Bound<Value>,
        /// At most so many, from the low end, or reversed from the high end.
        limit: Option<u64>,
        /// From the highest down.
        reverse: bool,
    },
    /// The items of a list from one place, up to but without another, cut down to those there are.
    /// Negative places count from the end.
    Sublist(i64, i64),
    /// As [`Step::Sublist`], between places that the paths lead to, each to one number, from the list.
    SublistOf(Query, Query),
    /// The entries of a map that have one of these keys, in their order.
    SubMap(Vec<Value>),
    /// Those of these elements that a set has, in their order.
    SubSet(Vec<Value>),
    /// The items of a list from which the path reaches something, as a list. T: as [`Step::SubSelect`].
    Filtered(Query),
    /// Each longest run of items from which the path reaches something, as a list. T: puts the items of
    /// a list in its place.
    Runs(Query),

    // On, or not.
    /// Goes on if the comparison holds between what is here and the value. Values of different kinds
    /// are unequal, and neither is less.
    Compare(Op, Value),
    /// Goes on if the function, given what is here, says `true`.
    Test(Function),
    /// Goes on if the path reaches something.
    Selected(Query),
    /// Goes on if the path reaches nothing.
    NotSelected(Query),
    /// Goes on if the function says `true`, given what was collected and not what is here.
    Collected(Function),

    // To something else in the place of what is here.
    /// What the function makes of it. T: the outcome takes the place of what was here.
    View(Function),
    /// The value in the place of nil.
    Default(Value),
    /// T: the value in the place of nothing, as after [`Step::NewElem`].
    NoneTo(Value),
    /// What a navigator of one's own reaches. T: as the navigator says.
    Navigate(Navigator),
    /// What is here after the transform.
    Transformed(Query, Box<Term>),

    // Which way.
    /// Nothing: for a branch that does nothing.
    Stay,
    /// Ends here and reaches nothing.
    Stop,
    /// If the first path reaches something the second, else the third.
    If(Query, Query, Query),
    /// The second path of the first pair whose first path reaches something; stops if there is none.
    Cond(Vec<(Query, Query)>),
    /// S: what each path reaches, in turn. T: each in turn, on the outcome of those before.
    Multi(Vec<Query>),
    /// All that the path reaches, as one list. T: puts the items of a list in their places one by one;
    /// those for which it has none are removed.
    SubSelect(Query),
    /// First what the path reaches, then what is here.
    ThenStay(Query),
    /// The path, in which [`Step::Again`] with this name stands for it.
    Fix(String, Query),
    /// The innermost path around it that has this name, once more from here.
    Again(String),

    // What is put aside.
    /// Collects the list of all that the path reaches.
    Collect(Query),
    /// Collects what the path reaches; an error if that is not one.
    CollectOne(Query),
    /// Collects a value.
    PutValue(Value),
    /// Collects what is here.
    PutCurrent,
    /// Forgets what was collected.
    DropCollected,
    /// The path with nothing collected; what it collects is forgotten at its end, and what was collected
    /// before is there again.
    Fresh(Query),
}

impl Step {
    /// Its name in JSON.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Key(_) => "key",
            Self::Must(_) => "must",
            Self::MapKey(_) => "map_key",
            Self::Elem(_) => "elem",
            Self::Field { .. } => "field",
            Self::Nth(_) => "nth",
            Self::First => "first",
            Self::Last => "last",
            Self::Index(_) => "index",
            Self::All => "all",
            Self::Keys => "keys",
            Self::Values => "values",
            Self::Size => "size",
            Self::Indexed => "indexed",
            Self::Begin => "begin",
            Self::End => "end",
            Self::BeforeFirst => "before_first",
            Self::AfterLast => "after_last",
            Self::InsertAt(_) => "insert_at",
            Self::NewElem => "new_elem",
            Self::Range { .. } => "range",
            Self::Sublist(..) => "sublist",
            Self::SublistOf(..) => "sublist_of",
            Self::SubMap(_) => "sub_map",
            Self::SubSet(_) => "sub_set",
            Self::Filtered(_) => "filtered",
            Self::Runs(_) => "runs",
            Self::Compare(..) => "compare",
            Self::Test(_) => "test",
            Self::Selected(_) => "selected",
            Self::NotSelected(_) => "not_selected",
            Self::Collected(_) => "collected",
            Self::View(_) => "view",
            Self::Default(_) => "default",
            Self::NoneTo(_) => "none_to",
            Self::Navigate(_) => "navigate",
            Self::Transformed(..) => "transformed",
            Self::Stay => "stay",
            Self::Stop => "stop",
            Self::If(..) => "if",
            Self::Cond(_) => "cond",
            Self::Multi(_) => "multi",
            Self::SubSelect(_) => "sub_select",
            Self::ThenStay(_) => "then_stay",
            Self::Fix(..) => "fix",
            Self::Again(_) => "again",
            Self::Collect(_) => "collect",
            Self::CollectOne(_) => "collect_one",
            Self::PutValue(_) => "put_value",
            Self::PutCurrent => "put_current",
            Self::DropCollected => "drop_collected",
            Self::Fresh(_) => "fresh",
        }
    }
}

/// How values are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// The same value.
    Equal,
    /// Another value.
    NotEqual,
    /// Less.
    Less,
    /// Less, or the same.
    LessOrEqual,
    /// Greater.
    Greater,
    /// Greater, or the same.
    GreaterOrEqual,
}

/// What a transform does with each part that its path reaches.
#[derive(Clone, Debug, PartialEq)]
pub enum Term {
    /// Puts this value there. Where a key leads to a whole row, nothing is read.
    Set(Value),
    /// Removes it. Where a key or a range leads to whole rows, nothing is read.
    Void,
    /// Puts there what the function makes of what was collected and what is there; removes it if that
    /// is nothing.
    Apply(Function),
}

/// A function that steps and terms call: by its name, which can be sent, or itself.
#[derive(Clone)]
pub enum Function {
    /// One of the [`Functions`] that the query is evaluated with.
    Named(String),
    /// Code of this process.
    Local(Local),
}

/// Code that a path can call.
#[derive(Clone)]
pub struct Local(Arc<Code>);

type Code =
    dyn Fn(&FieldTable, &[Raw<'_>], Raw<'_>) -> Result<Option<Value>, codec::Error> + Send + Sync;

impl Function {
    /// The function of this name.
    pub fn named(name: impl Into<String>) -> Self {
        Self::Named(name.into())
    }

    /// A function of what is here. `None` is nothing: as a term it removes.
    pub fn of<T: Data, U: Data>(f: impl Fn(T) -> Option<U> + Send + Sync + 'static) -> Self {
        Self::raw(move |fields, _, value| {
            let out = f(codec::decode(fields, value.bytes())?);
            out.map(|out| Value::of(fields, &out)).transpose()
        })
    }

    /// A function of what was collected, as a tuple or a `Vec`, and of what is here.
    pub fn with<C: Data, T: Data, U: Data>(
        f: impl Fn(C, T) -> Option<U> + Send + Sync + 'static,
    ) -> Self {
        Self::raw(move |fields, collected, value| {
            let out = f(gathered(fields, collected)?, codec::decode(fields, value.bytes())?);
            out.map(|out| Value::of(fields, &out)).transpose()
        })
    }

    /// A function of encoded values: what was collected, first to last, and what is here.
    pub fn raw(
        f: impl Fn(&FieldTable, &[Raw<'_>], Raw<'_>) -> Result<Option<Value>, codec::Error>
        + Send
        + Sync
        + 'static,
    ) -> Self {
        Self::Local(Local(Arc::new(f)))
    }
}

/// What was collected, first to last, as a tuple or a `Vec`.
pub(super) fn gathered<C: Data>(
    fields: &FieldTable,
    collected: &[Raw<'_>],
) -> Result<C, codec::Error> {
    let values: Vec<_> = collected.iter().map(|value| Value::from_bytes(value.bytes())).collect();
    Value::list(values.iter()).decode(fields)
}

impl fmt::Debug for Local {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Local")
    }
}

impl Local {
    pub(crate) fn call(
        &self,
        fields: &FieldTable,
        collected: &[Raw<'_>],
        value: Raw<'_>,
    ) -> Result<Option<Value>, codec::Error> {
        (self.0)(fields, collected, value)
    }
}

/// Functions of this process are the same if they are one.
impl PartialEq for Function {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Named(a), Self::Named(b)) => a == b,
            (Self::Local(a), Self::Local(b)) => Arc::ptr_eq(&a.0, &b.0),
            (Self::Named(_), Self::Local(_)) | (Self::Local(_), Self::Named(_)) => false,
        }
    }
}

impl fmt::Debug for Function {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Named(name) => f.debug_tuple("Named").field(name).finish(),
            Self::Local(_) => f.write_str("Local"),
        }
    }
}

/// Functions and navigators by name, for queries that come from outside.
///
/// Paths that do are no longer than [`QUERY_STEPS_MAX`] and no deeper than [`QUERY_DEPTH_MAX`].
#[derive(Clone, Debug, Default)]
pub struct Functions {
    functions: BTreeMap<String, Function>,
    navigators: BTreeMap<String, LocalNavigator>,
}

impl Functions {
    /// None.
    #[must_use]
    pub const fn none() -> Self {
        Self { functions: BTreeMap::new(), navigators: BTreeMap::new() }
    }

    /// These and one more, in place of one of the same name.
    #[must_use]
    pub fn with(mut self, name: impl Into<String>, function: Function) -> Self {
        self.functions.insert(name.into(), function);
        self
    }

    /// These and a navigator, in place of one of the same name.
    #[must_use]
    pub fn with_navigator(mut self, name: impl Into<String>, navigator: impl Navigate) -> Self {
        self.navigators.insert(name.into(), LocalNavigator::of(navigator));
        self
    }

    pub(crate) fn navigator<'f>(
        &'f self,
        navigator: &'f Navigator,
    ) -> Result<&'f LocalNavigator, &'f str> {
        match navigator {
            Navigator::Local(local) => Ok(local),
            Navigator::Named(name) => self.navigators.get(name).ok_or(name),
        }
    }

    pub(crate) fn find<'f>(&'f self, function: &'f Function) -> Result<&'f Local, &'f str> {
        match function {
            Function::Local(local) => Ok(local),
            Function::Named(name) => match self.functions.get(name) {
                Some(Function::Local(local)) => Ok(local),
                // A name for a name would be a way to loop.
                Some(Function::Named(_)) | None => Err(name),
            },
        }
    }
}

/// Paths that come from outside are no larger than anyone writes.
pub const QUERY_STEPS_MAX: usize = 4096;

/// How deep paths nest in paths, if they come from outside.
pub const QUERY_DEPTH_MAX: usize = 32;
