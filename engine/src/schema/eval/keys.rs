//! The keys of a collection that is stored by rows, as values and back: those of maps and sets by their kind,
//! those of a record as the names of its fields.

use super::Problem;
use crate::codec::value::raw::{Head, Raw};
use crate::codec::{self, KeyBuf, KeyKind};
use crate::schema::ast::Value;
use crate::schema::layout::{FieldLayout, Layout};

/// What elements are found by.
#[derive(Clone, Copy, Debug)]
pub(super) enum Keys<'l> {
    Kind(&'l KeyKind),
    Fields { record: &'l str, fields: &'l [FieldLayout] },
}

impl<'l> Keys<'l> {
    /// Of a collection that has keys: any but a list.
    pub(super) fn of(layout: &'l Layout) -> Self {
        match layout {
            Layout::Map { key, .. } => Self::Kind(key),
            Layout::Set { element, .. } => Self::Kind(element),
            Layout::Record { name, fields } => Self::Fields { record: name, fields },
            Layout::Value(_) | Layout::List { .. } => unreachable!("it has no keys"),
        }
    }

    /// Appends the key that `value` is to `prefix`.
    pub(super) fn push(self, value: Raw<'_>, prefix: &mut KeyBuf) -> Result<(), Problem> {
        match self {
            Self::Kind(kind) => kind
                .from_value(value, prefix)
                .map_err(|source| Problem::BadKey { key_type: kind.to_string(), source })?,
            Self::Fields { record, fields } => match value.head()? {
                Head::Text(name) => {
                    let field = fields.iter().find(|it| !it.gone && it.name.as_bytes() == name);
                    let field = field.ok_or_else(|| no_field(record, "it has no such field"))?;
                    prefix.push(field.number);
                }
                _ => return Err(no_field(record, "fields have names, which are texts")),
            },
        }
        match prefix.len() {
            bytes if bytes > codec::KEY_BYTES_MAX => Err(Problem::KeyTooLong { bytes }),
            _ => Ok(()),
        }
    }

    /// Appends the value that the key at the front of `input` is.
    pub(super) fn value(self, mut input: &[u8], out: &mut Vec<u8>) -> Result<(), Problem> {
        match self {
            Self::Kind(kind) => kind.to_value(&mut input, out).map_err(Problem::BadRow),
            Self::Fields { fields, .. } => {
                let field =
                    field(fields, input).ok_or_else(|| no_row("no field has its number"))?;
                out.extend_from_slice(Value::from(field.name.as_str()).raw().bytes());
                Ok(())
            }
        }
    }

    /// How many bytes the key at the front of `input` has.
    pub(super) fn bytes(self, input: &[u8]) -> Result<usize, Problem> {
        let mut rest = input;
        match self {
            Self::Kind(kind) => kind.skip(&mut rest).map_err(Problem::BadRow)?,
            Self::Fields { .. } => {
                rest = rest.get(1..).ok_or_else(|| no_row("it has no number of a field"))?;
            }
        }
        Ok(input.len() - rest.len())
    }

    /// Whether the element is one: rows of fields that a record has lost may be stored.
    pub(super) fn know(self, input: &[u8]) -> bool {
        match self {
            Self::Kind(_) => true,
            Self::Fields { fields, .. } => field(fields, input).is_some(),
        }
    }
}

/// The field whose number `input` begins with.
pub(super) fn field<'l>(fields: &'l [FieldLayout], input: &[u8]) -> Option<&'l FieldLayout> {
    let number = *input.first()?;
    fields.iter().find(|field| !field.gone && field.number == number)
}

#[cold]
fn no_field(record: &str, problem: &'static str) -> Problem {
    let key_type = format!("field of {record}");
    let source = codec::Error::KeyMismatch { kind: key_type.clone(), problem };
    Problem::BadKey { key_type, source }
}

#[cold]
pub(super) fn no_row(problem: &'static str) -> Problem {
    Problem::BadRow(codec::Error::BadKey { key_type: "a row", problem })
}
