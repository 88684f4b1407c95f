//! [`Layout`]: the type of a `PState` as data: what the catalogue remembers of it, and what reads stored
//! rows without the module's code.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Schema, list};
use crate::codec::table::{Misfit, Trace, ValueKind};
use crate::codec::{Error, KeyKind, Result};

/// What is stored at one place of a `PState`, and under it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Layout {
    /// One value: one row.
    Value(ValueKind),
    /// A map stored element by element: each key, then what the value's layout says.
    Map {
        /// Its keys.
        key: KeyKind,
        /// What is under each.
        value: Box<Self>,
    },
    /// A set stored element by element: a row without a value for each.
    Set {
        /// Its elements.
        element: KeyKind,
    },
    /// A list stored element by element: each at its label, with rows that count.
    List {
        /// Its elements.
        item: Box<Self>,
    },
}

impl Layout {
    /// The layout of a `PState`; the names in its values are added to `trace`.
    ///
    /// # Errors
    /// [`Error::NotStorable`].
    pub fn of<S: Schema>(trace: &mut Trace) -> Result<Self> {
        S::layout(trace)
    }

    /// The layout to remember once rows of both are stored: `declared`, and what it has lost of this.
    ///
    /// # Errors
    /// [`Misfit`] if a row of this layout cannot be read as `declared`.
    pub fn widen(&self, declared: &Self) -> Result<Self, Misfit> {
        match (self, declared) {
            (Self::Value(stored), Self::Value(declared)) => {
                stored.widen(declared).map(Self::Value)
            }
            (Self::Map { key: stored, value: from }, Self::Map { key, value: to }) => {
                keys_fit("keys", stored, key)?;
                let value = from.widen(to).map_err(|mut misfit| {
                    misfit.at.insert(0, "values".to_owned());
                    misfit
                })?;
                Ok(Self::Map { key: key.clone(), value: Box::new(value) })
            }
            (Self::Set { element: stored }, Self::Set { element }) => {
                keys_fit("elements", stored, element)?;
                Ok(declared.clone())
            }
            (Self::List { item: from }, Self::List { item: to }) => {
                let item = from.widen(to).map_err(|mut misfit| {
                    misfit.at.insert(0, "items".to_owned());
                    misfit
                })?;
                Ok(Self::List { item: Box::new(item) })
            }
            (Self::Value(_) | Self::Map { .. } | Self::Set { .. } | Self::List { .. }, _) => Err(Misfit {
                at: Vec::new(),
                stored: self.written(true),
                declared: declared.written(true),
                why: "what is stored element by element lies in other rows than what is stored as one value, \
                      or as another collection"
                    .to_owned(),
            }),
        }
    }

    /// The parts of a row's key as JSON, the placement key first, and what the row holds; `None` for the
    /// element of a set, which holds nothing, and for the rows of a list that count. An element of a list is
    /// shown by its label, which says what comes before what.
    ///
    /// # Errors
    /// [`Error::KeyMismatch`] if `key` is no key of a row of this layout.
    pub fn row(&self, key: &[u8]) -> Result<(Vec<Value>, Option<&ValueKind>)> {
        let (mut at, mut rest, mut parts) = (self, key, Vec::new());
        loop {
            let (part, next) = match at {
                Self::Value(kind) => {
                    return if rest.is_empty() {
                        Ok((parts, Some(kind)))
                    } else {
                        Err(self.no_row())
                    };
                }
                Self::Set { element } => {
                    parts.push(element.to_json(rest)?);
                    return Ok((parts, None));
                }
                Self::List { item } => {
                    let (part, after) = list::key_part(rest).ok_or_else(|| self.no_row())?;
                    match part {
                        list::KeyPart::Element(label) => {
                            parts.push(Value::from(format!("{label:032x}")));
                            (at, rest) = (item, after);
                            continue;
                        }
                        list::KeyPart::Head => parts.push(Value::from("head")),
                        list::KeyPart::Block { level, label } => {
                            parts.push(Value::from(format!("block {level} {label:032x}")));
                        }
                    }
                    return if after.is_empty() { Ok((parts, None)) } else { Err(self.no_row()) };
                }
                Self::Map { key, value } => (key, value),
            };
            let from = rest;
            part.skip(&mut rest)?;
            let bytes = from.get(..from.len() - rest.len()).ok_or_else(|| self.no_row())?;
            parts.push(part.to_json(bytes)?);
            at = next;
        }
    }

    #[cold]
    fn no_row(&self) -> Error {
        Error::KeyMismatch { kind: self.to_string(), problem: "bytes are left over" }
    }

    /// As in Rust, at the root or inside.
    fn written(&self, is_inside: bool) -> String {
        if is_inside { Inside(self).to_string() } else { self.to_string() }
    }
}

fn keys_fit(at: &str, stored: &KeyKind, declared: &KeyKind) -> Result<(), Misfit> {
    if stored.is_stored_as(declared) {
        return Ok(());
    }
    Err(Misfit {
        at: vec![at.to_owned()],
        stored: stored.to_string(),
        declared: declared.to_string(),
        why: "the bytes of a key decide where its row lies, so keys can get another name and no other type"
            .to_owned(),
    })
}

impl fmt::Display for Layout {
    /// As it would be written: `Map<String, Sub<Map<u64, Sale>>>`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Value(kind) => f.write_str(&kind.name),
            Self::Map { key, value } => write!(f, "Map<{key}, {}>", Inside(value)),
            Self::Set { element } => write!(f, "Set<{element}>"),
            Self::List { item } => write!(f, "List<{}>", Inside(item)),
        }
    }
}

/// A layout as it is written inside of another.
struct Inside<'a>(&'a Layout);

impl fmt::Display for Inside<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Layout::Value(_) => self.0.fmt(f),
            Layout::Map { .. } | Layout::Set { .. } | Layout::List { .. } => {
                write!(f, "Sub<{}>", self.0)
            }
        }
    }
}
