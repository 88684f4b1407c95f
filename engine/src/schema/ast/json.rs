//! Queries, terms and values as JSON, both ways.
//!
//! A query is the array of its steps. A step is its name, or the array of its name and arguments:
//! `["key", "ann"]`, `"values"`, `["if", [..], [..], [..]]`. The bounds of a range are an object of
//! `from` or `above`, `to` or `through`, `limit` and `reverse`. Terms are `"void"`, `{"set": value}` and
//! `{"apply": "name"}`; functions are their names.
//!
//! Values are the JSON they look like. What JSON lacks is an object of one entry: `{"$bytes": "00ff"}`,
//! `{"$single": 1.5}` for a float of 32 bits, `{"$float": "nan"}` (`inf`, `-inf`), `{"$somes": 1}` for
//! `Some(None)`, and `{"$map": [[key, value], ..]}` for a map whose keys are not all texts.

use std::ops::Bound;

use serde_json::{Map as Object, Value as Json, json};

use super::{Function, Navigator, Op, QUERY_DEPTH_MAX, QUERY_STEPS_MAX, Query, Step, Term, Value};
use crate::codec::VALUE_DEPTH_MAX;
use crate::codec::value::raw::{Bad, Head, Raw, push_list, push_map};

/// Why JSON is no query, or a query is no JSON.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum JsonError {
    /// It is not written as this module says.
    #[error("{found} is not {expected}")]
    Expected {
        /// What should be there.
        expected: &'static str,
        /// What is, shortened.
        found: String,
    },
    /// A step of a name that there is not.
    #[error("there is no step `{0}`")]
    NoStep(String),
    /// More than can be evaluated: at most 4,096 steps that nest at most 32 deep.
    #[error("the query is too large: it has more than 4096 steps, or they nest deeper than 32")]
    TooLarge,
    /// A function of this process, which has no name to be sent by.
    #[error("a function without a name cannot be written as JSON: register it and name it")]
    Local,
    /// The bytes of a value in it are none.
    #[error(transparent)]
    Bad(#[from] Bad),
}

type Result<T, E = JsonError> = std::result::Result<T, E>;

impl Value {
    /// The value as JSON; numbers of fields are not replaced by their names.
    ///
    /// # Errors
    /// [`JsonError::Bad`] for bytes that are no value.
    pub fn to_json(&self) -> Result<Json> {
        self.raw().check()?;
        value_to(self.raw())
    }

    /// The value that `json` writes.
    ///
    /// # Errors
    /// [`JsonError::Expected`].
    pub fn from_json(json: &Json) -> Result<Self> {
        let mut out = Vec::new();
        value_from(json, &mut out, VALUE_DEPTH_MAX)?;
        Ok(Self::from_bytes(out))
    }
}

impl Query {
    /// The query as JSON.
    ///
    /// # Errors
    /// [`JsonError::Local`].
    pub fn to_json(&self) -> Result<Json> {
        self.steps().iter().map(step_to).collect::<Result<_>>().map(Json::Array)
    }

    /// The query that `json` writes.
    ///
    /// # Errors
    /// [`JsonError::Expected`], [`JsonError::NoStep`], [`JsonError::TooLarge`].
    pub fn from_json(json: &Json) -> Result<Self> {
        Reader { steps_left: QUERY_STEPS_MAX, depth_left: QUERY_DEPTH_MAX }.query(json)
    }
}

impl Term {
    /// The term as JSON.
    ///
    /// # Errors
    /// [`JsonError::Local`].
    pub fn to_json(&self) -> Result<Json> {
        Ok(match self {
            Self::Void => json!("void"),
            Self::Set(value) => json!({ "set": value.to_json()? }),
            Self::Apply(function) => json!({ "apply": function_to(function)? }),
        })
    }

    /// The term that `json` writes.
    ///
    /// # Errors
    /// [`JsonError::Expected`].
    pub fn from_json(json: &Json) -> Result<Self> {
        match (json, only(json)) {
            (Json::String(name), _) if name == "void" => Ok(Self::Void),
            (_, Some(("set", value))) => Value::from_json(value).map(Self::Set),
            (_, Some(("apply", function))) => function_from(function).map(Self::Apply),
            _ => Err(expected("a term: `\"void\"`, `{\"set\": ..}` or `{\"apply\": ..}`", json)),
        }
    }
}

fn step_to(step: &Step) -> Result<Json> {
    let values = |values: &[Value]| {
        values.iter().map(Value::to_json).collect::<Result<_>>().map(Json::Array)
    };
    Ok(match step {
        Step::Key(key) => json!(["key", key.to_json()?]),
        Step::Must(key) => json!(["must", key.to_json()?]),
        Step::MapKey(key) => json!(["map_key", key.to_json()?]),
        Step::Elem(element) => json!(["elem", element.to_json()?]),
        Step::Field { of, name } => json!(["field", of, name]),
        Step::Nth(place) => json!(["nth", place]),
        Step::First => json!("first"),
        Step::Last => json!("last"),
        Step::Index(place) => json!(["index", place]),
        Step::All => json!("all"),
        Step::Keys => json!("keys"),
        Step::Values => json!("values"),
        Step::Indexed => json!("indexed"),
        Step::Size => json!("size"),
        Step::Begin => json!("begin"),
        Step::End => json!("end"),
        Step::BeforeFirst => json!("before_first"),
        Step::AfterLast => json!("after_last"),
        Step::InsertAt(place) => json!(["insert_at", place]),
        Step::NewElem => json!("new_elem"),
        Step::Range { from, to, limit, reverse } => {
            let mut bounds = Object::new();
            for (bound, included, excluded) in [(from, "from", "above"), (to, "through", "to")] {
                let (name, value) = match bound {
                    Bound::Included(value) => (included, value),
                    Bound::Excluded(value) => (excluded, value),
                    Bound::Unbounded => continue,
                };
                bounds.insert(name.to_owned(), value.to_json()?);
            }
            if let Some(limit) = limit {
                bounds.insert("limit".to_owned(), json!(limit));
            }
            if *reverse {
                bounds.insert("reverse".to_owned(), json!(true));
            }
            json!(["range", bounds])
        }
        Step::Sublist(from, to) => json!(["sublist", from, to]),
        Step::SublistOf(from, to) => json!(["sublist_of", from.to_json()?, to.to_json()?]),
        Step::SubMap(keys) => json!(["sub_map", values(keys)?]),
        Step::SubSet(elements) => json!(["sub_set", values(elements)?]),
        Step::Filtered(path) => json!(["filtered", path.to_json()?]),
        Step::Runs(path) => json!(["runs", path.to_json()?]),
        Step::Compare(op, value) => json!(["compare", op_to(*op), value.to_json()?]),
        Step::Test(function) => json!(["test", function_to(function)?]),
        Step::Selected(path) => json!(["selected", path.to_json()?]),
        Step::NotSelected(path) => json!(["not_selected", path.to_json()?]),
        Step::Collected(function) => json!(["collected", function_to(function)?]),
        Step::View(function) => json!(["view", function_to(function)?]),
        Step::Default(value) => json!(["default", value.to_json()?]),
        Step::NoneTo(value) => json!(["none_to", value.to_json()?]),
        Step::Navigate(Navigator::Named(name)) => json!(["navigate", name]),
        Step::Navigate(Navigator::Local(_)) => return Err(JsonError::Local),
        Step::Transformed(path, term) => json!(["transformed", path.to_json()?, term.to_json()?]),
        Step::Stay => json!("stay"),
        Step::Stop => json!("stop"),
        Step::If(test, then, other) => {
            json!(["if", test.to_json()?, then.to_json()?, other.to_json()?])
        }
        Step::Cond(cases) => {
            let case =
                |(test, then): &(Query, Query)| Ok(json!([test.to_json()?, then.to_json()?]));
            json!(["cond", cases.iter().map(case).collect::<Result<Vec<_>>>()?])
        }
        Step::Multi(paths) => {
            json!(["multi", paths.iter().map(Query::to_json).collect::<Result<Vec<_>>>()?])
        }
        Step::SubSelect(path) => json!(["sub_select", path.to_json()?]),
        Step::ThenStay(path) => json!(["then_stay", path.to_json()?]),
        Step::Fix(name, path) => json!(["fix", name, path.to_json()?]),
        Step::Again(name) => json!(["again", name]),
        Step::Collect(path) => json!(["collect", path.to_json()?]),
        Step::CollectOne(path) => json!(["collect_one", path.to_json()?]),
        Step::PutValue(value) => json!(["put_value", value.to_json()?]),
        Step::PutCurrent => json!("put_current"),
        Step::DropCollected => json!("drop_collected"),
        Step::Fresh(path) => json!(["fresh", path.to_json()?]),
    })
}

/// Reads a query of bounded size.
struct Reader {
    steps_left: usize,
    depth_left: usize,
}

impl Reader {
    fn query(&mut self, json: &Json) -> Result<Query> {
        let steps = array(json, "a path, which is an array of steps")?;
        self.depth_left = self.depth_left.checked_sub(1).ok_or(JsonError::TooLarge)?;
        self.steps_left = self.steps_left.checked_sub(steps.len()).ok_or(JsonError::TooLarge)?;
        let query = steps.iter().map(|step| self.step(step)).collect::<Result<Vec<_>>>();
        self.depth_left += 1;
        query.map(Query::from)
    }

    fn queries(&mut self, json: &Json) -> Result<Vec<Query>> {
        array(json, "an array of paths")?.iter().map(|path| self.query(path)).collect()
    }

    fn step(&mut self, json: &Json) -> Result<Step> {
        let (name, arguments) = match json {
            Json::String(name) => (name, &[][..]),
            Json::Array(parts) => match &parts[..] {
                [Json::String(name), arguments @ ..] => (name, arguments),
                _ => return Err(expected(STEP, json)),
            },
            _ => return Err(expected(STEP, json)),
        };
        Ok(match (name.as_str(), arguments) {
            ("key", [key]) => Step::Key(Value::from_json(key)?),
            ("must", [key]) => Step::Must(Value::from_json(key)?),
            ("map_key", [key]) => Step::MapKey(Value::from_json(key)?),
            ("elem", [element]) => Step::Elem(Value::from_json(element)?),
            ("field", [of, name]) => Step::Field { of: text(of)?, name: text(name)? },
            ("nth", [at]) => Step::Nth(place(at)?),
            ("first", []) => Step::First,
            ("last", []) => Step::Last,
            ("index", [at]) => Step::Index(place(at)?),
            ("all", []) => Step::All,
            ("keys", []) => Step::Keys,
            ("values", []) => Step::Values,
            ("indexed", []) => Step::Indexed,
            ("size", []) => Step::Size,
            ("begin", []) => Step::Begin,
            ("end", []) => Step::End,
            ("before_first", []) => Step::BeforeFirst,
            ("after_last", []) => Step::AfterLast,
            ("insert_at", [at]) => Step::InsertAt(place(at)?),
            ("new_elem", []) => Step::NewElem,
            ("range", [bounds]) => range(bounds)?,
            ("sublist", [from, to]) => Step::Sublist(place(from)?, place(to)?),
            ("sublist_of", [from, to]) => Step::SublistOf(self.query(from)?, self.query(to)?),
            ("sub_map", [keys]) => Step::SubMap(values(keys)?),
            ("sub_set", [elements]) => Step::SubSet(values(elements)?),
            ("filtered", [path]) => Step::Filtered(self.query(path)?),
            ("runs", [path]) => Step::Runs(self.query(path)?),
            ("compare", [op, value]) => Step::Compare(op_from(op)?, Value::from_json(value)?),
            ("test", [function]) => Step::Test(function_from(function)?),
            ("selected", [path]) => Step::Selected(self.query(path)?),
            ("not_selected", [path]) => Step::NotSelected(self.query(path)?),
            ("collected", [function]) => Step::Collected(function_from(function)?),
            ("view", [function]) => Step::View(function_from(function)?),
            ("default", [value]) => Step::Default(Value::from_json(value)?),
            ("none_to", [value]) => Step::NoneTo(Value::from_json(value)?),
            ("navigate", [name]) => Step::Navigate(Navigator::Named(text(name)?)),
            ("transformed", [path, term]) => {
                Step::Transformed(self.query(path)?, Box::new(Term::from_json(term)?))
            }
            ("stay", []) => Step::Stay,
            ("stop", []) => Step::Stop,
            ("if", [test, then]) => {
                Step::If(self.query(test)?, self.query(then)?, Query::from([Step::Stop]))
            }
            ("if", [test, then, other]) => {
                Step::If(self.query(test)?, self.query(then)?, self.query(other)?)
            }
            ("cond", [cases]) => {
                let cases = array(cases, "an array of pairs of paths")?;
                let case = |case: &Json| match array(case, "a pair of paths")? {
                    [test, then] => Ok((self.query(test)?, self.query(then)?)),
                    _ => Err(expected("a pair of paths", case)),
                };
                Step::Cond(cases.iter().map(case).collect::<Result<_>>()?)
            }
            ("multi", [paths]) => Step::Multi(self.queries(paths)?),
            ("sub_select", [path]) => Step::SubSelect(self.query(path)?),
            ("then_stay", [path]) => Step::ThenStay(self.query(path)?),
            ("fix", [name, path]) => Step::Fix(text(name)?, self.query(path)?),
            ("again", [name]) => Step::Again(text(name)?),
            ("collect", [path]) => Step::Collect(self.query(path)?),
            ("collect_one", [path]) => Step::CollectOne(self.query(path)?),
            ("put_value", [value]) => Step::PutValue(Value::from_json(value)?),
            ("put_current", []) => Step::PutCurrent,
            ("drop_collected", []) => Step::DropCollected,
            ("fresh", [path]) => Step::Fresh(self.query(path)?),
            (name, _) if STEPS.contains(&name) => {
                return Err(expected("a step with the arguments that it takes", json));
            }
            (name, _) => return Err(JsonError::NoStep(name.to_owned())),
        })
    }
}

fn range(json: &Json) -> Result<Step> {
    const BOUNDS: &str = "an object of `from` or `above`, `to` or `through`, `limit`, `reverse`";
    let bounds = json.as_object().ok_or_else(|| expected(BOUNDS, json))?;
    let (mut from, mut to) = (Bound::Unbounded, Bound::Unbounded);
    let (mut limit, mut reverse) = (None, false);
    for (name, value) in bounds {
        match (name.as_str(), &from, &to) {
            ("from", Bound::Unbounded, _) => from = Bound::Included(Value::from_json(value)?),
            ("above", Bound::Unbounded, _) => from = Bound::Excluded(Value::from_json(value)?),
            ("through", _, Bound::Unbounded) => to = Bound::Included(Value::from_json(value)?),
            ("to", _, Bound::Unbounded) => to = Bound::Excluded(Value::from_json(value)?),
            ("limit", _, _) => {
                limit = Some(value.as_u64().ok_or_else(|| expected("a count", value))?);
            }
            ("reverse", _, _) => {
                reverse = value.as_bool().ok_or_else(|| expected("`true` or `false`", value))?;
            }
            _ => return Err(expected(BOUNDS, json)),
        }
    }
    Ok(Step::Range { from, to, limit, reverse })
}

fn values(json: &Json) -> Result<Vec<Value>> {
    array(json, "an array of values")?.iter().map(Value::from_json).collect()
}

fn op_to(op: Op) -> &'static str {
    match op {
        Op::Equal => "=",
        Op::NotEqual => "!=",
        Op::Less => "<",
        Op::LessOrEqual => "<=",
        Op::Greater => ">",
        Op::GreaterOrEqual => ">=",
    }
}

fn op_from(json: &Json) -> Result<Op> {
    Ok(match json.as_str() {
        Some("=") => Op::Equal,
        Some("!=") => Op::NotEqual,
        Some("<") => Op::Less,
        Some("<=") => Op::LessOrEqual,
        Some(">") => Op::Greater,
        Some(">=") => Op::GreaterOrEqual,
        _ => return Err(expected("one of `=`, `!=`, `<`, `<=`, `>`, `>=`", json)),
    })
}

fn function_to(function: &Function) -> Result<Json> {
    match function {
        Function::Named(name) => Ok(json!(name)),
        Function::Local(_) => Err(JsonError::Local),
    }
}

fn function_from(json: &Json) -> Result<Function> {
    text(json).map(Function::Named)
}

fn text(json: &Json) -> Result<String> {
    json.as_str().map(str::to_owned).ok_or_else(|| expected("a name", json))
}

fn place(json: &Json) -> Result<i64> {
    json.as_i64().ok_or_else(|| expected("the place of an item", json))
}

fn array<'j>(json: &'j Json, what: &'static str) -> Result<&'j [Json]> {
    json.as_array().map(Vec::as_slice).ok_or_else(|| expected(what, json))
}

/// The entry of an object that has one.
fn only(json: &Json) -> Option<(&str, &Json)> {
    let mut entries = json.as_object()?.iter();
    match (entries.next(), entries.next()) {
        (Some((name, value)), None) => Some((name, value)),
        _ => None,
    }
}

#[cold]
fn expected(expected: &'static str, found: &Json) -> JsonError {
    let mut found = found.to_string();
    if let Some((cut, _)) = found.char_indices().nth(FOUND_CHARS_MAX) {
        found.truncate(cut);
        found.push_str("..");
    }
    JsonError::Expected { expected, found }
}

fn value_to(value: Raw<'_>) -> Result<Json> {
    Ok(match value.head()? {
        Head::Nil => Json::Null,
        Head::Somes(count) => json!({ "$somes": count }),
        Head::Bool(value) => json!(value),
        Head::Int(value) => match (u64::try_from(value), i64::try_from(value)) {
            (Ok(value), _) => json!(value),
            (_, Ok(value)) => json!(value),
            _ => unreachable!("integers that wide are bytes"),
        },
        Head::Single(value) if value.is_finite() => json!({ "$single": value }),
        Head::Double(value) if value.is_finite() => json!(value),
        Head::Single(value) => json!({ "$single": not_finite(value.into()) }),
        Head::Double(value) => json!({ "$float": not_finite(value) }),
        Head::Text(text) => json!(String::from_utf8_lossy(text)),
        Head::Bytes(bytes) => {
            let hex = bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]);
            let hex: String = hex.filter_map(|it| char::from_digit(it.into(), 16)).collect();
            json!({ "$bytes": hex })
        }
        Head::List(_) => {
            let Ok(items) = value.items()? else { unreachable!("it is a list") };
            Json::Array(items.map(|item| value_to(item?)).collect::<Result<_>>()?)
        }
        Head::Map(_) => {
            let Ok(entries) = value.entries()? else { unreachable!("it is a map") };
            let mut object = Object::new();
            let mut pairs = Vec::new();
            for entry in entries {
                let (key, value) = entry?;
                let (key, value) = (value_to(key)?, value_to(value)?);
                if let Json::String(name) = &key {
                    object.insert(name.clone(), value.clone());
                }
                pairs.push(json!([key, value]));
            }
            let plain = object.len() == pairs.len() && !object.keys().any(|it| it.starts_with('$'));
            if plain { Json::Object(object) } else { json!({ "$map": pairs }) }
        }
    })
}

fn not_finite(value: f64) -> &'static str {
    if value.is_nan() {
        "nan"
    } else if value > 0.0 {
        "inf"
    } else {
        "-inf"
    }
}

fn value_from(json: &Json, out: &mut Vec<u8>, depth: usize) -> Result<()> {
    let depth = depth.checked_sub(1).ok_or(JsonError::TooLarge)?;
    match json {
        Json::Null => out.push(0xc0),
        Json::Bool(value) => written(rmp::encode::write_bool(out, *value)),
        Json::Number(number) => match (number.as_u64(), number.as_i64(), number.as_f64()) {
            (Some(value), _, _) => written(rmp::encode::write_uint(out, value)),
            (_, Some(value), _) => written(rmp::encode::write_sint(out, value)),
            (_, _, Some(value)) => written(rmp::encode::write_f64(out, value)),
            _ => return Err(expected("a number of 64 bits", json)),
        },
        Json::String(text) => written(rmp::encode::write_str(out, text)),
        Json::Array(items) => {
            push_list(out, items.len());
            for item in items {
                value_from(item, out, depth)?;
            }
        }
        Json::Object(entries) => {
            if let Some((name, value)) = only(json).filter(|(name, _)| name.starts_with('$')) {
                special(name, value, json, out, depth)?;
            } else {
                push_map(out, entries.len());
                for (name, value) in entries {
                    if name.starts_with('$') {
                        return Err(expected("an object whose names do not begin with `$`", json));
                    }
                    written(rmp::encode::write_str(out, name));
                    value_from(value, out, depth)?;
                }
            }
        }
    }
    Ok(())
}

/// What JSON lacks.
fn special(name: &str, value: &Json, all: &Json, out: &mut Vec<u8>, depth: usize) -> Result<()> {
    let float = || match value.as_str() {
        Some("nan") => Some(f64::NAN),
        Some("inf") => Some(f64::INFINITY),
        Some("-inf") => Some(f64::NEG_INFINITY),
        Some(_) => None,
        None => value.as_f64(),
    };
    let wrong = || expected("a value", all);
    match name {
        "$bytes" => {
            let digits = value.as_str().ok_or_else(wrong)?;
            let digits: Option<Vec<u32>> = digits.chars().map(|it| it.to_digit(16)).collect();
            let digits = digits.filter(|it| it.len().is_multiple_of(2)).ok_or_else(wrong)?;
            let bytes = digits.chunks(2).map(|pair| pair.iter().fold(0, |all, it| all << 4 | it));
            let bytes: Vec<u8> = bytes.filter_map(|byte| u8::try_from(byte).ok()).collect();
            written(rmp::encode::write_bin(out, &bytes));
        }
        "$single" => {
            #[allow(clippy::cast_possible_truncation, reason = "it was one of 32 bits")]
            let single = float().ok_or_else(wrong)? as f32;
            written(rmp::encode::write_f32(out, single));
        }
        "$float" => written(rmp::encode::write_f64(out, float().ok_or_else(wrong)?)),
        "$somes" => {
            let count = value.as_u64().and_then(|count| u8::try_from(count).ok());
            let count = count.filter(|&count| count > 0).ok_or_else(wrong)?;
            out.extend_from_slice(&[0xd4, 1, count]);
        }
        "$map" => {
            let pairs = array(value, "an array of pairs")?;
            push_map(out, pairs.len());
            for pair in pairs {
                let [key, value] = array(pair, "a pair of key and value")? else {
                    return Err(expected("a pair of key and value", pair));
                };
                value_from(key, out, depth)?;
                value_from(value, out, depth)?;
            }
        }
        _ => return Err(wrong()),
    }
    Ok(())
}

fn written<T, E: std::fmt::Debug>(result: Result<T, E>) {
    result.expect("a Vec takes all bytes");
}

const STEP: &str = "a step: its name, or an array of its name and arguments";

const STEPS: [&str; 52] = [
    "key",
    "must",
    "map_key",
    "elem",
    "field",
    "nth",
    "first",
    "last",
    "index",
    "all",
    "keys",
    "values",
    "indexed",
    "size",
    "begin",
    "end",
    "before_first",
    "after_last",
    "insert_at",
    "new_elem",
    "range",
    "sublist",
    "sublist_of",
    "sub_map",
    "sub_set",
    "filtered",
    "runs",
    "compare",
    "test",
    "selected",
    "not_selected",
    "collected",
    "view",
    "default",
    "none_to",
    "navigate",
    "transformed",
    "stay",
    "stop",
    "if",
    "cond",
    "multi",
    "sub_select",
    "then_stay",
    "fix",
    "again",
    "collect",
    "collect_one",
    "put_value",
    "put_current",
    "drop_collected",
    "fresh",
];

/// What an error shows of what it met.
const FOUND_CHARS_MAX: usize = 80;
