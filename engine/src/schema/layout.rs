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
        /// Whether it has a head, which says how many elements it has: see [`sizes`](super::sizes).
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        counted: bool,
    },
    /// A set stored element by element: a row without a value for each.
    Set {
        /// Its elements.
        element: KeyKind,
        /// Whether it has a head, which says how many elements it has: see [`sizes`](super::sizes).
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        counted: bool,
    },
    /// A list stored element by element: each at its label, with rows that count. Of one that is a collection
    /// an id is at its label, and what hangs under it lies by that.
    List {
        /// Its elements.
        item: Box<Self>,
    },
    /// A record stored field by field: one byte for each field, then what its layout says.
    Record {
        /// Its Rust name.
        name: String,
        /// Its fields, and those it had before.
        fields: Vec<FieldLayout>,
    },
}

/// A field of a record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FieldLayout {
    /// The byte of its key: unique in the record, for ever.
    pub number: u8,
    /// Its Rust name.
    pub name: String,
    /// What is stored in it.
    pub layout: Layout,
    /// The record has lost it; rows of it may be stored.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub gone: bool,
}

impl Layout {
    /// The layout of a `PState`; the names in its values are added to `trace`.
    ///
    /// # Errors
    /// [`Error::NotStorable`].
    pub fn of<S: Schema>(trace: &mut Trace) -> Result<Self> {
        S::layout(trace)
    }

    /// Of a record, by the numbers, names and layouts of its fields.
    #[must_use]
    pub fn record<const N: usize>(name: &str, fields: [(u8, &str, Self); N]) -> Self {
        let fields = fields.map(|(number, name, layout)| FieldLayout {
            number,
            name: name.to_owned(),
            layout,
            gone: false,
        });
        Self::Record { name: name.to_owned(), fields: fields.into() }
    }

    /// Whether a record of this name in it has this field.
    #[must_use]
    pub fn has_field(&self, record: &str, field: &str) -> bool {
        match self {
            Self::Value(_) | Self::Set { .. } => false,
            Self::Map { value: inner, .. } | Self::List { item: inner } => {
                inner.has_field(record, field)
            }
            Self::Record { name, fields } => {
                let mut kept = fields.iter().filter(|it| !it.gone);
                kept.any(|it| {
                    (name == record && it.name == field) || it.layout.has_field(record, field)
                })
            }
        }
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
            (
                Self::Map { key: stored, value: from, counted: was },
                Self::Map { key, value: to, counted },
            ) => {
                keys_fit("keys", stored, key)?;
                self.sizes_fit(*was, declared, *counted)?;
                let value = from.widen(to).map_err(|misfit| within("values".to_owned(), misfit))?;
                Ok(Self::Map { key: key.clone(), value: Box::new(value), counted: *counted })
            }
            (
                Self::Set { element: stored, counted: was },
                Self::Set { element, counted },
            ) => {
                keys_fit("elements", stored, element)?;
                self.sizes_fit(*was, declared, *counted)?;
                Ok(declared.clone())
            }
            (Self::List { item: from }, Self::List { item: to }) => {
                let item = from.widen(to).map_err(|mut misfit| {
                    misfit.at.insert(0, "items".to_owned());
                    misfit
                })?;
                Ok(Self::List { item: Box::new(item) })
            }
            (Self::Record { fields: stored, .. }, Self::Record { name, fields }) => {
                let fields = widen_fields(stored, name, fields)?;
                Ok(Self::Record { name: name.clone(), fields })
            }
            (
                Self::Value(_)
                | Self::Map { .. }
                | Self::Set { .. }
                | Self::List { .. }
                | Self::Record { .. },
                _,
            ) => Err(Misfit {
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
    /// element of a set, which holds nothing, and for the rows that count elements: heads, and others of lists.
    /// An element of a list is shown by its label, which says what comes before what; where elements are
    /// collections, the row there holds an id, and what hangs under it is shown by that.
    ///
    /// # Errors
    /// [`Error::KeyMismatch`] if `key` is no key of a row of this layout.
    pub fn row(&self, key: &[u8]) -> Result<(Vec<Value>, Option<&ValueKind>)> {
        let (mut at, mut rest, mut parts) = (self, key, Vec::new());
        let mut is_counted = false;
        loop {
            is_counted = at.has_head(is_counted);
            if rest.is_empty() && is_counted {
                parts.push(HEAD.into());
                return Ok((parts, None));
            }
            let (part, next) = match at {
                Self::Value(kind) => {
                    return if rest.is_empty() {
                        Ok((parts, Some(kind)))
                    } else {
                        Err(self.no_row("bytes are left over"))
                    };
                }
                Self::Set { element, .. } => {
                    parts.push(element.to_json(rest)?);
                    return Ok((parts, None));
                }
                Self::List { item } => {
                    let (part, after) = list::key_part(rest)
                        .ok_or_else(|| self.no_row("it is no row of a list"))?;
                    match part {
                        list::KeyPart::Element(label) => {
                            parts.push(Value::from(format!("{label:032x}")));
                            if matches!(**item, Self::Value(_)) {
                                (at, rest) = (&**item, after);
                                continue;
                            }
                        }
                        list::KeyPart::Under(id) if !matches!(**item, Self::Value(_)) => {
                            parts.push(Value::from(format!("item {id}")));
                            (at, rest) = (&**item, after);
                            continue;
                        }
                        list::KeyPart::Under(_) => {
                            return Err(self.no_row("nothing hangs under items that are values"));
                        }
                        list::KeyPart::Head => parts.push(HEAD.into()),
                        list::KeyPart::Block { level, label } => {
                            parts.push(Value::from(format!("block {level} {label:032x}")));
                        }
                    }
                    return if after.is_empty() {
                        Ok((parts, None))
                    } else {
                        Err(self.no_row("bytes are left over"))
                    };
                }
                Self::Map { key, value, .. } => (key, &**value),
                Self::Record { fields, .. } => {
                    let found = rest.split_first().and_then(|(number, rest)| {
                        Some((fields.iter().find(|field| field.number == *number)?, rest))
                    });
                    let (field, under) =
                        found.ok_or_else(|| self.no_row("no field has this number"))?;
                    parts.push(field.name.as_str().into());
                    (at, rest) = (&field.layout, under);
                    continue;
                }
            };
            let from = rest;
            part.skip(&mut rest)?;
            let bytes =
                from.get(..from.len() - rest.len()).ok_or_else(|| self.no_row("too short"))?;
            parts.push(part.to_json(bytes)?);
            at = next;
        }
    }

    #[cold]
    fn no_row(&self, problem: &'static str) -> Error {
        Error::KeyMismatch { kind: self.to_string(), problem }
    }

    /// Heads are there from the first element on, or never.
    fn sizes_fit(&self, was: bool, declared: &Self, is: bool) -> Result<(), Misfit> {
        let why = match (was, is) {
            (false, true) => {
                "its elements were never counted, so its size is not known: write `Uncounted`, as in \
                 `Sub<.., Uncounted>`, to declare what is stored"
            }
            (true, false) => "its elements are counted: declare it without `Uncounted`",
            (true, true) | (false, false) => return Ok(()),
        };
        let (stored, declared) = (self.written(true), declared.written(true));
        Err(Misfit { at: Vec::new(), stored, declared, why: why.to_owned() })
    }

    /// As in Rust, at the root or inside.
    pub(crate) fn written(&self, is_inside: bool) -> String {
        if is_inside { Inside(self).to_string() } else { self.to_string() }
    }
}

/// The fields to remember. Any may be absent, so new ones need nothing; a number is never given again.
fn widen_fields(
    stored: &[FieldLayout],
    record: &str,
    declared: &[FieldLayout],
) -> Result<Vec<FieldLayout>, Misfit> {
    let mut wider = declared.to_vec();
    for from in stored {
        let by_name = wider.iter_mut().find(|to| to.name == from.name);
        let Some(to) = by_name else {
            if let Some(taker) = wider.iter().find(|to| to.number == from.number) {
                let why = format!(
                    "the number {} belongs to `{}`, whose rows may be stored: give `{}` another one with \
                     `#[field(n)]`, and the fields behind it theirs",
                    from.number, from.name, taker.name
                );
                let at = format!("{record}.{}", taker.name);
                return Err(misfit_of_field(at, from, taker, why));
            }
            wider.push(FieldLayout { gone: true, ..from.clone() });
            continue;
        };
        let at = format!("{record}.{}", from.name);
        if to.number != from.number {
            let why = format!(
                "the number is part of the keys of its rows: write `#[field({})]` before it",
                from.number
            );
            return Err(misfit_of_field(at, from, to, why));
        }
        to.layout = from.layout.widen(&to.layout).map_err(|misfit| within(at, misfit))?;
    }
    Ok(wider)
}

#[cold]
fn misfit_of_field(
    at: String,
    stored: &FieldLayout,
    declared: &FieldLayout,
    why: String,
) -> Misfit {
    let written = |it: &FieldLayout| format!("field {}: {}", it.number, it.layout.written(true));
    Misfit { at: vec![at], stored: written(stored), declared: written(declared), why }
}

#[cold]
fn within(part: String, mut misfit: Misfit) -> Misfit {
    misfit.at.insert(0, part);
    misfit
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

/// What stands in the place of a key in the key of a head.
const HEAD: &str = "head";

impl fmt::Display for Layout {
    /// As it would be written: `Map<String, Sub<Map<u64, Sale>>>`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Value(kind) => f.write_str(&kind.name),
            Self::Map { key, value, .. } => write!(f, "Map<{key}, {}>", Inside(value)),
            Self::Set { element, .. } => write!(f, "Set<{element}>"),
            Self::List { item } => write!(f, "List<{}>", Inside(item)),
            Self::Record { name, .. } => f.write_str(name),
        }
    }
}

/// A layout as it is written inside of another.
struct Inside<'a>(&'a Layout);

impl fmt::Display for Inside<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Layout::Value(_) | Layout::Record { .. } => self.0.fmt(f),
            Layout::Map { counted: false, .. } | Layout::Set { counted: false, .. } => {
                write!(f, "Sub<{}, Uncounted>", self.0)
            }
            Layout::Map { .. } | Layout::Set { .. } | Layout::List { .. } => {
                write!(f, "Sub<{}>", self.0)
            }
        }
    }
}
