//! Whether a path can mean something on a `PState` of a layout: found before anything is read.
//!
//! It follows the types along the path. Where a type is not known (what a function makes, a value that serde
//! writes in several ways), every step fits, and evaluation says what does not.

use std::fmt;
use std::ops::Bound;

use super::{Query, Step, Value};
use crate::codec::KeyKind;
use crate::codec::table::shape::{FieldShape, TypeShape, ValueKind, ValueShape};
use crate::schema::layout::{FieldLayout, Layout};

/// A step that does not fit what it comes to.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the path does not fit `{pstate}`, a `{pstate_type}`: step {at}, `{step}`, takes {expected}, and comes to {found}",
    at = Place(.at)
)]
pub struct Refused {
    /// The `PState`, by its name.
    pub pstate: String,
    /// Its type.
    pub pstate_type: String,
    /// Which step, counted from 1; of a path inside of a step, first that one, then the one in it.
    pub at: Vec<usize>,
    /// The step, by its name in JSON.
    pub step: &'static str,
    /// What the step is for.
    pub expected: String,
    /// The type that is there.
    pub found: String,
}

/// Asserts that each step of a path takes what the steps before it lead to, in a `PState` of this name and
/// layout.
///
/// # Errors
/// [`Refused`] names the first step that does not.
pub fn check(pstate: &str, layout: &Layout, query: &Query) -> Result<(), Box<Refused>> {
    match along(&Type::Stored(layout), query) {
        Ok(_) => Ok(()),
        Err(Misfit { mut at, step, expected, found }) => {
            at.reverse();
            let (pstate, pstate_type) = (pstate.to_owned(), layout.to_string());
            Err(Box::new(Refused { pstate, pstate_type, at, step, expected, found }))
        }
    }
}

struct Place<'a>(&'a [usize]);

impl fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (nth, at) in self.0.iter().enumerate() {
            write!(f, "{}{at}", if nth == 0 { "" } else { "." })?;
        }
        Ok(())
    }
}

/// [`Refused`] without what only the start of the path knows; places are innermost first.
struct Misfit {
    at: Vec<usize>,
    step: &'static str,
    expected: String,
    found: String,
}

/// What is known of what a path has come to.
#[derive(Clone, PartialEq)]
enum Type<'l> {
    Any,
    Stored(&'l Layout),
    Key(&'l KeyKind),
    Shape(&'l ValueKind, &'l ValueShape),
    /// The name of a field.
    Name,
    /// A place or a size.
    Number,
    List(Box<Type<'l>>),
    Pair(Box<(Type<'l>, Type<'l>)>),
}

/// The type that a path leads to.
fn along<'l>(from: &Type<'l>, query: &Query) -> Result<Type<'l>, Misfit> {
    let mut here = from.clone();
    for (nth, step) in query.steps().iter().enumerate() {
        here = go(&here, step).map_err(|mut misfit| {
            misfit.at.push(nth + 1);
            misfit
        })?;
    }
    Ok(here)
}

#[allow(clippy::too_many_lines, reason = "one arm for each step")]
fn go<'l>(here: &Type<'l>, step: &Step) -> Result<Type<'l>, Misfit> {
    let misfit = |expected: &str| Misfit {
        at: Vec::new(),
        step: step.name(),
        expected: expected.to_owned(),
        found: here.to_string(),
    };
    let list = || here.items().ok_or_else(|| misfit("a list or a set"));
    let map = || here.entries().ok_or_else(|| misfit("a map"));
    let key = |key: &Value| match here.refuses(key) {
        Some(kind) => {
            let found = format!("{key:?} as a key of {here}");
            Err(Misfit { found, ..misfit(&format!("a key of type `{kind}`")) })
        }
        None => Ok(()),
    };
    Ok(match step {
        Step::Key(wanted) | Step::Must(wanted) => {
            let (_, value) = map()?;
            key(wanted)?;
            here.under(wanted).unwrap_or(value)
        }
        Step::MapKey(wanted) => {
            let (keys, _) = map()?;
            key(wanted)?;
            keys
        }
        Step::Elem(element) => {
            let item = list()?;
            key(element)?;
            item
        }
        Step::Field { of, name } => {
            let expected = format!("a `{of}` with a field or variant `{name}`");
            here.field(of, name).ok_or_else(|| misfit(&expected))?
        }
        Step::Nth(_)
        | Step::First
        | Step::Last
        | Step::BeforeFirst
        | Step::AfterLast
        | Step::InsertAt(_)
        | Step::NewElem => list()?,
        Step::Index(_) => {
            list()?;
            Type::Number
        }
        Step::All => match (here.items(), here.entries()) {
            (Some(item), _) => item,
            (None, Some(entry)) => Type::Pair(Box::new(entry)),
            (None, None) => return Err(misfit("a list, a set or a map")),
        },
        Step::Size => {
            if here.items().is_none() && here.entries().is_none() {
                return Err(misfit("a list, a set or a map"));
            }
            Type::Number
        }
        Step::Keys => map()?.0,
        Step::Values => map()?.1,
        Step::Indexed => Type::Pair(Box::new((Type::Number, list()?))),
        Step::Begin | Step::End | Step::Sublist(..) => Type::List(Box::new(list()?)),
        Step::SublistOf(from, to) => {
            let item = list()?;
            along(here, from)?;
            along(here, to)?;
            Type::List(Box::new(item))
        }
        Step::Range { from, to, .. } => {
            if here.items().is_none() && here.entries().is_none() {
                return Err(misfit("a map or a set"));
            }
            for bound in [from, to] {
                if let Bound::Included(bound) | Bound::Excluded(bound) = bound {
                    key(bound)?;
                }
            }
            here.clone()
        }
        Step::SubMap(keys) => {
            map()?;
            keys.iter().try_for_each(key)?;
            here.clone()
        }
        Step::SubSet(elements) => {
            let item = list()?;
            elements.iter().try_for_each(key)?;
            Type::List(Box::new(item))
        }
        Step::Filtered(path) => {
            let item = match (here.items(), here.entries()) {
                (Some(item), _) => item,
                (None, Some(entry)) => Type::Pair(Box::new(entry)),
                (None, None) => return Err(misfit("a list, a set or a map")),
            };
            along(&item, path)?;
            Type::List(Box::new(item))
        }
        Step::Runs(path) => {
            let item = list()?;
            along(&item, path)?;
            Type::List(Box::new(item))
        }
        Step::View(_) | Step::Navigate(_) | Step::Again(_) => Type::Any,
        Step::Transformed(path, _) => {
            along(here, path)?;
            Type::Any
        }
        Step::Selected(path)
        | Step::NotSelected(path)
        | Step::Collect(path)
        | Step::CollectOne(path) => {
            along(here, path)?;
            here.clone()
        }
        Step::If(test, then, other) => {
            along(here, test)?;
            joined([along(here, then)?, along(here, other)?])
        }
        Step::Cond(cases) => {
            let mut ends = Vec::new();
            for (test, then) in cases {
                along(here, test)?;
                ends.push(along(here, then)?);
            }
            joined(ends)
        }
        Step::Multi(paths) => {
            joined(paths.iter().map(|path| along(here, path)).collect::<Result<Vec<_>, _>>()?)
        }
        Step::SubSelect(path) => Type::List(Box::new(along(here, path)?)),
        Step::ThenStay(path) => joined([along(here, path)?, here.clone()]),
        Step::Fresh(path) => along(here, path)?,
        // What it comes to the second time is not known.
        Step::Fix(_, path) => {
            along(&Type::Any, path)?;
            Type::Any
        }
        // Nil, and nothing, can be anything before it is something.
        Step::Default(_) | Step::NoneTo(_) => match here {
            Type::Stored(Layout::Value(_)) | Type::Shape(..) => Type::Any,
            other => other.clone(),
        },
        Step::Stay
        | Step::Stop
        | Step::Compare(..)
        | Step::Test(_)
        | Step::Collected(_)
        | Step::PutValue(_)
        | Step::PutCurrent
        | Step::DropCollected => here.clone(),
    })
}

/// What several ways lead to: what is the same for all.
fn joined<'l>(ends: impl IntoIterator<Item = Type<'l>>) -> Type<'l> {
    let mut ends = ends.into_iter();
    let Some(first) = ends.next() else { return Type::Any };
    if ends.all(|end| end == first) { first } else { Type::Any }
}

impl<'l> Type<'l> {
    /// A value's shape, without the `Option`s around it.
    fn shape(&self) -> Option<(&'l ValueKind, &'l ValueShape)> {
        let (kind, mut shape) = match self {
            Self::Stored(Layout::Value(kind)) => (kind, &kind.shape),
            Self::Shape(kind, shape) => (*kind, *shape),
            _ => return None,
        };
        while let ValueShape::Option(inner) = shape {
            shape = inner;
        }
        Some((kind, shape))
    }

    fn is_open(&self) -> bool {
        let open = |(_, shape)| matches!(shape, &ValueShape::Unseen | &ValueShape::Opaque);
        matches!(self, Self::Any) || self.shape().is_some_and(open)
    }

    /// What a list or set consists of; none if this is neither.
    fn items(&self) -> Option<Self> {
        if self.is_open() {
            return Some(Self::Any);
        }
        match self {
            Self::Stored(Layout::Set { element, .. }) => return Some(Self::Key(element)),
            Self::Stored(Layout::List { item }) => return Some(Self::Stored(item)),
            Self::List(item) => return Some((**item).clone()),
            Self::Pair(both) => return Some(joined([both.0.clone(), both.1.clone()])),
            Self::Key(kind) => {
                let is_list =
                    matches!(bare(kind), KeyKind::Tuple(_) | KeyKind::Bytes | KeyKind::Array(_));
                return is_list.then_some(Self::Any);
            }
            _ => {}
        }
        match self.shape()? {
            (kind, ValueShape::Seq(item)) => Some(Self::Shape(kind, item)),
            (_, ValueShape::Tuple(_)) => Some(Self::Any),
            _ => None,
        }
    }

    /// The keys and values of a map; none if this is none.
    fn entries(&self) -> Option<(Self, Self)> {
        if self.is_open() {
            return Some((Self::Any, Self::Any));
        }
        match self {
            Self::Stored(Layout::Map { key, value, .. }) => {
                return Some((Self::Key(key), Self::Stored(value)));
            }
            Self::Stored(Layout::Record { fields, .. }) => {
                let fields = fields.iter().filter(|it| !it.gone);
                return Some((Self::Name, joined(fields.map(|it| Self::Stored(&it.layout)))));
            }
            _ => {}
        }
        match self.shape()? {
            (kind, ValueShape::Map(both)) => {
                Some((Self::Shape(kind, &both.0), Self::Shape(kind, &both.1)))
            }
            // Structs are maps of numbers, as are variants with content.
            (_, ValueShape::Type(_)) => Some((Self::Number, Self::Any)),
            _ => None,
        }
    }

    /// What a field, or the content of a variant, is; none if there is no such field.
    fn field(&self, of: &str, name: &str) -> Option<Self> {
        if self.is_open() {
            return Some(Self::Any);
        }
        if let Self::Stored(Layout::Record { name: record, fields }) = self {
            let has = |it: &&FieldLayout| !it.gone && it.name == name;
            let field = fields.iter().find(has).filter(|_| record == of)?;
            return Some(Self::Stored(&field.layout));
        }
        let (kind, ValueShape::Type(place)) = self.shape()? else { return None };
        match kind.type_of(*place)? {
            TypeShape::Struct { name: found, fields } => {
                let has = |it: &&FieldShape| it.name == name;
                let field = fields.iter().find(has).filter(|_| found == of)?;
                Some(Self::Shape(kind, &field.shape))
            }
            TypeShape::Enum { name: found, variants } => {
                let has = variants.iter().any(|it| it.name == name);
                (has && found == of).then_some(Self::Any)
            }
        }
    }

    /// What is under a key, where that depends on the key.
    fn under(&self, key: &Value) -> Option<Self> {
        let Self::Stored(Layout::Record { name, .. }) = self else { return None };
        let field = key.to_json().ok()?;
        self.field(name, field.as_str()?)
    }

    /// The type that keys or elements have here, if this is none.
    fn refuses(&self, key: &Value) -> Option<String> {
        match self {
            Self::Stored(Layout::Map { key: kind, .. } | Layout::Set { element: kind, .. }) => {
                let fits = kind.from_value(key.raw(), &mut crate::codec::KeyBuf::new());
                fits.is_err().then(|| kind.to_string())
            }
            Self::Stored(Layout::Record { name, .. }) => {
                self.under(key).is_none().then(|| format!("field of {name}"))
            }
            _ => None,
        }
    }
}

/// A key's kind without names.
fn bare(kind: &KeyKind) -> &KeyKind {
    match kind {
        KeyKind::Named { inner, .. } | KeyKind::Reverse(inner) => bare(inner),
        other => other,
    }
}

impl fmt::Display for Type<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("anything"),
            Self::Stored(layout @ (Layout::Value(_) | Layout::Record { .. })) => {
                write!(f, "`{layout}`")
            }
            Self::Stored(layout) => write!(f, "`Sub<{layout}>`"),
            Self::Key(kind) => write!(f, "`{kind}`"),
            Self::Shape(kind, shape) => write!(f, "`{}`", kind.written(shape)),
            Self::Name => f.write_str("the name of a field"),
            Self::Number => f.write_str("a whole number"),
            Self::List(item) => write!(f, "a list of {item}"),
            Self::Pair(both) => write!(f, "a pair of {} and {}", both.0, both.1),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde::{Deserialize, Serialize};

    use super::*;
    use crate::codec::table::Trace;
    use crate::schema::{List, Map, Schema, Set, Sub};

    #[allow(dead_code, reason = "a type to describe what is stored with")]
    #[derive(Serialize, Deserialize)]
    struct Sale {
        item: String,
        counts: Vec<u32>,
        note: Option<Kind>,
    }

    #[derive(Serialize, Deserialize)]
    enum Kind {
        Plain,
        Gift(String),
    }

    #[allow(dead_code, reason = "a type to describe what is stored with")]
    #[derive(Schema)]
    struct Shop {
        name: String,
        sales: Sub<List<Sale>>,
        tags: Sub<Set<u64>>,
    }

    fn checked(path: &str) -> Result<(), Box<Refused>> {
        let layout = Layout::of::<Map<String, Shop>>(&mut Trace::default()).unwrap();
        let query = Query::from_json(&serde_json::from_str(path).unwrap()).unwrap();
        check("shops", &layout, &query)
    }

    #[test]
    fn what_fits_is_let_through() {
        for path in [
            "[]",
            r#"["values",["field","Shop","sales"],["nth",-1],["field","Sale","counts"],"all"]"#,
            r#"[["key","a"],["key","sales"],["sublist",0,20],"all",["field","Sale","item"]]"#,
            r#"[["key","a"],["field","Shop","tags"],["range",{"from":1}],"all",["compare","<",9]]"#,
            r#"[["key","a"],["field","Shop","tags"],["elem",7]]"#,
            r#"[["key","a"],["field","Shop","sales"],"first",["field","Sale","note"],["field","Kind","Gift"]]"#,
            r#"[["key","a"],"size"]"#,
            r#"["all","last",["field","Shop","name"]]"#,
            r#"[["range",{"from":"a","to":"b"}],"keys"]"#,
            r#"[["if",[["must","a"]],["keys"],["values"]],["view","any"],["key",1]]"#,
            r#"[["key","a"],["multi",[[["key","name"]],[["key","tags"],"size"]]]]"#,
            r#"[["fix","f",["all",["again","f"]]]]"#,
            r#"[["key","a"],["field","Shop","sales"],["filtered",[["field","Sale","item"],["compare","=","tea"]]]]"#,
        ] {
            assert_eq!(checked(path), Ok(()), "{path}");
        }
    }

    #[test]
    fn what_does_not_fit_is_named_with_both_types() {
        for (path, says) in [
            (
                r#"[["key",7]]"#,
                "the path does not fit `shops`, a `Map<String, Shop>`: step 1, `key`, takes a key of type \
                 `String`, and comes to 7 as a key of `Sub<Map<String, Shop>>`",
            ),
            (
                r#"[["nth",0]]"#,
                "step 1, `nth`, takes a list or a set, and comes to `Sub<Map<String, Shop>>`",
            ),
            (
                r#"[["key","a"],["key","nam"]]"#,
                "step 2, `key`, takes a key of type `field of Shop`",
            ),
            (
                r#"["values",["field","Shop","nam"]]"#,
                "step 2, `field`, takes a `Shop` with a field or variant `nam`, and comes to `Shop`",
            ),
            (
                r#"["values",["field","Sale","item"]]"#,
                "takes a `Sale` with a field or variant `item`",
            ),
            (
                r#"[["key","a"],["field","Shop","sales"],["key",1]]"#,
                "step 3, `key`, takes a map, and comes to `Sub<List<Sale>>`",
            ),
            (
                r#"[["key","a"],["field","Shop","sales"],"first",["field","Sale","counts"],["nth",0],["nth",0]]"#,
                "step 6, `nth`, takes a list or a set, and comes to `u32`",
            ),
            (
                r#"[["key","a"],["field","Shop","tags"],["range",{"from":"x"}]]"#,
                "takes a key of type `u64`, and comes to \"x\" as a key of `Sub<Set<u64>>`",
            ),
            (
                r#"["values",["selected",[["field","Shop","name"],"all"]]]"#,
                "step 2.2, `all`, takes a list, a set or a map, and comes to `String`",
            ),
            (
                r#"[["multi",[[],[["key","a"],["key","name"],"keys"]]]]"#,
                "step 1.3, `keys`, takes a map, and comes to `String`",
            ),
        ] {
            let refused = checked(path).unwrap_err().to_string();
            assert!(refused.contains(says), "{path}: {refused}");
        }
    }
}
