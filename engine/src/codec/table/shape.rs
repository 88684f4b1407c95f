//! [`ValueKind`]: the type of a value as data: what [`Trace`](super::Trace) sees while it feeds a type.
//!
//! Fields and variants are known by their names, whose numbers are in the catalogue's field table. Types
//! with names stand in a list of their own, since they may contain themselves.

use std::fmt;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::FieldTable;
use crate::codec::value::raw::Raw;
use crate::codec::{Error, Result, decode};

/// The type of a value.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ValueKind {
    /// Its Rust name, without paths.
    pub name: String,
    /// What it is stored as.
    pub shape: ValueShape,
    /// The structs and enums in it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub types: Vec<TypeShape>,
    /// How the code that has the type reads its values.
    #[serde(skip)]
    pub(crate) reader: Reader,
}

/// How typed code reads values of a kind. A kind that was stored does not know.
#[derive(Clone, Copy, Default)]
pub(crate) struct Reader(Option<Read>);

type Read = fn(&FieldTable, &[u8]) -> Result<()>;

impl Reader {
    pub(super) fn of<T: DeserializeOwned>() -> Self {
        Self(Some(|fields, bytes| decode::<T>(fields, bytes).map(drop)))
    }
}

/// What a kind is does not depend on whether its code is at hand.
impl PartialEq for Reader {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Reader {}

impl fmt::Debug for Reader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "Reader" } else { "none" })
    }
}

/// What a value, or a part of one, is stored as. Newtype structs are what they wrap.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ValueShape {
    /// No value was ever seen in this place, as in a `Vec` of a type that has none.
    #[default]
    Unseen,
    /// Different in different values, or skipped without being looked at.
    Opaque,
    /// Nothing: `()`, unit structs.
    Unit,
    /// A boolean.
    Bool,
    /// A character, stored as a text.
    Char,
    /// A text.
    Text,
    /// Bytes.
    Bytes,
    /// An unsigned integer of so many bits.
    Unsigned(u8),
    /// A signed integer of so many bits.
    Signed(u8),
    /// A float of so many bits.
    Float(u8),
    /// Something or nothing.
    Option(Box<Self>),
    /// Any number of values: lists and sets.
    Seq(Box<Self>),
    /// Keys and their values.
    Map(Box<(Self, Self)>),
    /// A fixed number of values: tuples, tuple structs, arrays.
    Tuple(Vec<Self>),
    /// A struct or an enum, by its place in [`ValueKind::types`].
    Type(u32),
}

/// A type with named parts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TypeShape {
    /// A struct.
    Struct {
        /// Its serde name.
        name: String,
        /// Its fields, in the order of declaration.
        fields: Vec<FieldShape>,
    },
    /// An enum.
    Enum {
        /// Its serde name.
        name: String,
        /// Its variants, in the order of declaration.
        variants: Vec<VariantShape>,
    },
}

/// A field of a struct, or of a variant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FieldShape {
    /// Its serde name.
    pub name: String,
    /// What is stored in it.
    pub shape: ValueShape,
    /// A value without it can be read: an `Option`, or a field with a default.
    #[serde(default, skip_serializing_if = "is_false")]
    pub optional: bool,
    /// The type has lost it; values that were stored before have it.
    #[serde(default, skip_serializing_if = "is_false")]
    pub gone: bool,
}

/// A variant of an enum.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VariantShape {
    /// Its serde name.
    pub name: String,
    /// What is stored with it.
    pub content: Content,
}

/// What is stored with a variant.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Content {
    /// Never seen.
    #[default]
    Unseen,
    /// Different from value to value.
    Opaque,
    /// Nothing.
    Unit,
    /// One value.
    Newtype(ValueShape),
    /// Several.
    Tuple(Vec<ValueShape>),
    /// Several with names.
    Struct(Vec<FieldShape>),
}

impl ValueKind {
    /// Asserts that the code that has this type can read a value. Of a kind that was stored, that it is a
    /// value at all.
    ///
    /// # Errors
    /// [`Error::Decode`].
    pub fn check(&self, fields: &FieldTable, bytes: &[u8]) -> Result<()> {
        if let Some(read) = self.reader.0 {
            return read(fields, bytes);
        }
        Raw::new(bytes).check().map_err(|bad| Error::Decode {
            value_type: "a value",
            at: String::new(),
            problem: bad.to_string(),
        })
    }

    /// The struct or enum that a shape refers to.
    #[must_use]
    pub fn type_of(&self, place: u32) -> Option<&TypeShape> {
        self.types.get(usize::try_from(place).ok()?)
    }

    /// A shape of this kind as it would be written in Rust: `Option<Vec<Sale>>`.
    pub fn written<'a>(&'a self, shape: &'a ValueShape) -> impl fmt::Display + 'a {
        fmt::from_fn(move |f| self.write(shape, f))
    }

    fn write(&self, shape: &ValueShape, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all = |f: &mut fmt::Formatter<'_>, shapes: &[ValueShape]| {
            for (at, shape) in shapes.iter().enumerate() {
                f.write_str(if at == 0 { "" } else { ", " })?;
                self.write(shape, f)?;
            }
            Ok(())
        };
        let (name, inside) = match shape {
            ValueShape::Unseen | ValueShape::Opaque => return f.write_str("_"),
            ValueShape::Unit => return f.write_str("()"),
            ValueShape::Bool => return f.write_str("bool"),
            ValueShape::Char => return f.write_str("char"),
            ValueShape::Text => return f.write_str("String"),
            ValueShape::Bytes => return f.write_str("bytes"),
            ValueShape::Unsigned(bits) => return write!(f, "u{bits}"),
            ValueShape::Signed(bits) => return write!(f, "i{bits}"),
            ValueShape::Float(bits) => return write!(f, "f{bits}"),
            ValueShape::Type(place) => {
                return f.write_str(self.type_of(*place).map_or("_", TypeShape::name));
            }
            ValueShape::Tuple(parts) => {
                f.write_str("(")?;
                all(f, parts)?;
                return f.write_str(if parts.len() == 1 { ",)" } else { ")" });
            }
            ValueShape::Option(inner) => ("Option", std::slice::from_ref(&**inner)),
            ValueShape::Seq(inner) => ("Vec", std::slice::from_ref(&**inner)),
            ValueShape::Map(both) => {
                write!(f, "BTreeMap<")?;
                self.write(&both.0, f)?;
                f.write_str(", ")?;
                self.write(&both.1, f)?;
                return f.write_str(">");
            }
        };
        write!(f, "{name}<")?;
        all(f, inside)?;
        f.write_str(">")
    }
}

impl TypeShape {
    /// Its serde name.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::Struct { name, .. } | Self::Enum { name, .. } => name,
        }
    }

    /// Whether this is a struct, or an enum, for people.
    #[must_use]
    pub fn what(&self) -> &'static str {
        match self {
            Self::Struct { .. } => "struct",
            Self::Enum { .. } => "enum",
        }
    }
}

impl ValueShape {
    /// What both are: where one has seen nothing, the other counts.
    pub(super) fn join(self, other: Self) -> Self {
        match (self, other) {
            (Self::Unseen, shape) | (shape, Self::Unseen) => shape,
            (Self::Option(one), Self::Option(other)) => Self::Option(Box::new(one.join(*other))),
            (Self::Seq(one), Self::Seq(other)) => Self::Seq(Box::new(one.join(*other))),
            (Self::Map(one), Self::Map(other)) => {
                Self::Map(Box::new((one.0.join(other.0), one.1.join(other.1))))
            }
            (Self::Tuple(one), Self::Tuple(other)) if one.len() == other.len() => {
                Self::Tuple(join_all(one, other))
            }
            (one, other) if one == other => one,
            _ => Self::Opaque,
        }
    }

    /// With places of types put through `place`.
    pub(super) fn with_places(&self, place: &mut impl FnMut(u32) -> u32) -> Self {
        match self {
            Self::Option(inner) => Self::Option(Box::new(inner.with_places(place))),
            Self::Seq(inner) => Self::Seq(Box::new(inner.with_places(place))),
            Self::Map(both) => {
                Self::Map(Box::new((both.0.with_places(place), both.1.with_places(place))))
            }
            Self::Tuple(parts) => {
                Self::Tuple(parts.iter().map(|part| part.with_places(place)).collect())
            }
            Self::Type(at) => Self::Type(place(*at)),
            other => other.clone(),
        }
    }
}

impl VariantShape {
    pub(super) fn new(name: &str) -> Self {
        Self { name: name.to_owned(), content: Content::Unseen }
    }
}

impl Content {
    pub(super) fn join(self, other: Self) -> Self {
        match (self, other) {
            (Self::Unseen, content) | (content, Self::Unseen) => content,
            (Self::Newtype(one), Self::Newtype(other)) => Self::Newtype(one.join(other)),
            (Self::Tuple(one), Self::Tuple(other)) if one.len() == other.len() => {
                Self::Tuple(join_all(one, other))
            }
            (Self::Struct(mut one), Self::Struct(other)) => {
                join_fields(&mut one, other);
                Self::Struct(one)
            }
            (one, other) if one == other => one,
            _ => Self::Opaque,
        }
    }

    pub(super) fn with_places(&self, place: &mut impl FnMut(u32) -> u32) -> Self {
        match self {
            Self::Newtype(shape) => Self::Newtype(shape.with_places(place)),
            Self::Tuple(parts) => {
                Self::Tuple(parts.iter().map(|part| part.with_places(place)).collect())
            }
            Self::Struct(fields) => Self::Struct(fields_with_places(fields, place)),
            other => other.clone(),
        }
    }
}

impl TypeShape {
    pub(super) fn with_places(&self, place: &mut impl FnMut(u32) -> u32) -> Self {
        match self {
            Self::Struct { name, fields } => {
                Self::Struct { name: name.clone(), fields: fields_with_places(fields, place) }
            }
            Self::Enum { name, variants } => {
                let variants = variants.iter().map(|variant| VariantShape {
                    name: variant.name.clone(),
                    content: variant.content.with_places(place),
                });
                Self::Enum { name: name.clone(), variants: variants.collect() }
            }
        }
    }
}

fn join_all(one: Vec<ValueShape>, other: Vec<ValueShape>) -> Vec<ValueShape> {
    one.into_iter().zip(other).map(|(one, other)| one.join(other)).collect()
}

/// Adds what another visit saw of the fields.
pub(super) fn join_fields(fields: &mut Vec<FieldShape>, seen: Vec<FieldShape>) {
    for seen in seen {
        match fields.iter_mut().find(|field| field.name == seen.name) {
            Some(field) => {
                field.shape = std::mem::take(&mut field.shape).join(seen.shape);
                field.optional |= seen.optional;
            }
            None => fields.push(seen),
        }
    }
}

fn fields_with_places(
    fields: &[FieldShape],
    place: &mut impl FnMut(u32) -> u32,
) -> Vec<FieldShape> {
    let moved =
        |field: &FieldShape| FieldShape { shape: field.shape.with_places(place), ..field.clone() };
    fields.iter().map(moved).collect()
}

/// A type's name without the paths in it: `Vec<Sale>` and not `alloc::vec::Vec<shop::Sale>`. Paths
/// would tie the catalogue to where code happens to lie.
pub(super) fn short_name<T>() -> String {
    let full = std::any::type_name::<T>();
    let mut short = String::with_capacity(full.len());
    let mut word = 0;
    let mut rest = full;
    while let Some(c) = rest.chars().next() {
        if let Some(after) = rest.strip_prefix("::") {
            short.truncate(word);
            rest = after;
            continue;
        }
        short.push(c);
        rest = &rest[c.len_utf8()..];
        if !(c.is_alphanumeric() || c == '_') {
            word = short.len();
        }
    }
    short
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_false(is: &bool) -> bool {
    !is
}
