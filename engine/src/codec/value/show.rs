//! Values as JSON, for people who look at a directory without the module's code.
//!
//! The bytes say which numbers are there, the table says the names of a type's numbers; what type a
//! *field* has, only a [`ValueKind`] says. With one, all names are shown. Without, those of the outermost
//! type are, and of the variant if it is an enum; further in, fields have their numbers for names.

use std::fmt::Write;

use rmp::Marker;

use super::decode::{Decoder, Integer};
use super::{Error, Fault, Result, SOMES};
use crate::codec::FieldTable;
use crate::codec::table::shape::{Content, FieldShape, TypeShape, ValueKind, VariantShape};
use crate::codec::table::{TypeNames, ValueShape};

/// The value as JSON. `type_name` is that of the outermost type, if it is known and has names. Bytes
/// are shown in hexadecimal, map keys that are no text by their JSON, numbers that JSON lacks as null.
///
/// # Errors
/// [`Error::Decode`] if the bytes are no value.
pub fn to_json(table: &FieldTable, type_name: Option<&str>, bytes: &[u8]) -> Result<String> {
    let names = type_name.and_then(|name| table.of_type(name));
    shown(table, &ValueKind::default(), names.map_or(Known::Nothing, Known::Names), bytes)
}

/// The value as JSON, with the names of all fields and variants in it. Where the bytes are not what `kind`
/// says, they are shown as without it.
///
/// # Errors
/// [`Error::Decode`] if the bytes are no value.
pub fn to_json_of(table: &FieldTable, kind: &ValueKind, bytes: &[u8]) -> Result<String> {
    shown(table, kind, Known::Shape(&kind.shape), bytes)
}

fn shown(table: &FieldTable, kind: &ValueKind, known: Known<'_>, bytes: &[u8]) -> Result<String> {
    let mut decoder = Decoder::new(table, bytes);
    let mut out = String::new();
    let shown = show(&mut decoder, kind, known, &mut out).and_then(|()| decoder.finish());
    shown.map(|()| out).map_err(|fault| {
        let (at, problem) = fault.into_parts();
        Error::Decode { value_type: "JSON", at, problem }
    })
}

/// What is known of the value that comes next.
#[derive(Clone, Copy)]
enum Known<'a> {
    Nothing,
    /// The names of its numbers.
    Names(&'a TypeNames),
    Shape(&'a ValueShape),
    /// It is a sequence of these.
    Parts(&'a [ValueShape]),
    /// It has fields.
    Fields(&'a TypeNames, &'a [FieldShape]),
    /// It is an enum.
    Variants(&'a TypeNames, &'a [VariantShape]),
}

impl<'a> Known<'a> {
    /// The same, as near to what is stored as can be.
    fn resolved(self, table: &'a FieldTable, kind: &'a ValueKind) -> Self {
        let Self::Shape(mut shape) = self else { return self };
        // A `Some` is what is in it.
        while let ValueShape::Option(inner) = shape {
            shape = inner;
        }
        match shape {
            ValueShape::Tuple(parts) => Self::Parts(parts),
            ValueShape::Type(place) => {
                let found =
                    kind.type_of(*place).and_then(|it| Some((it, table.of_type(it.name())?)));
                match found {
                    Some((TypeShape::Struct { fields, .. }, names)) => Self::Fields(names, fields),
                    Some((TypeShape::Enum { variants, .. }, names)) => {
                        Self::Variants(names, variants)
                    }
                    None => Self::Nothing,
                }
            }
            shape => Self::Shape(shape),
        }
    }

    /// What is known of an element.
    fn element(self, at: usize) -> Self {
        match self {
            Self::Parts(parts) => parts.get(at).map_or(Self::Nothing, Self::Shape),
            Self::Shape(ValueShape::Seq(inner)) => Self::Shape(inner),
            _ => Self::Nothing,
        }
    }

    /// The name of a number, and what is known of the value behind it.
    fn named(self, table: &'a FieldTable, number: u64) -> Option<(&'a str, Self)> {
        match self {
            Self::Nothing | Self::Shape(_) | Self::Parts(_) => None,
            Self::Names(names) => {
                let name = name(names, number)?;
                // If this is an enum, the content may be that of a variant with fields.
                let variant = table.of_type(&format!("{}::{name}", names.type_name()));
                Some((name, variant.map_or(Self::Nothing, Self::Names)))
            }
            Self::Fields(names, fields) => {
                let name = name(names, number)?;
                let field = fields.iter().find(|field| field.name == name);
                Some((name, field.map_or(Self::Nothing, |field| Self::Shape(&field.shape))))
            }
            Self::Variants(names, variants) => {
                let name = name(names, number)?;
                let content = variants.iter().find(|variant| variant.name == name);
                let known = match content.map(|variant| &variant.content) {
                    Some(Content::Newtype(shape)) => Self::Shape(shape),
                    Some(Content::Tuple(parts)) => Self::Parts(parts),
                    Some(Content::Struct(fields)) => {
                        let names = table.of_type(&format!("{}::{name}", names.type_name()));
                        names.map_or(Self::Nothing, |names| Self::Fields(names, fields))
                    }
                    Some(Content::Unseen | Content::Opaque | Content::Unit) | None => Self::Nothing,
                };
                Some((name, known))
            }
        }
    }
}

fn show<'t>(
    decoder: &mut Decoder<'_, 't>,
    kind: &'t ValueKind,
    known: Known<'t>,
    out: &mut String,
) -> Result<(), Fault> {
    decoder.enter()?;
    let known = known.resolved(decoder.table(), kind);
    match decoder.peek()? {
        Marker::FixStr(_) | Marker::Str8 | Marker::Str16 | Marker::Str32 => {
            quote(decoder.text()?, out);
        }
        Marker::Bin8 | Marker::Bin16 | Marker::Bin32 => show_bytes(decoder.bytes()?, known, out),
        Marker::FixArray(_) | Marker::Array16 | Marker::Array32 => {
            out.push('[');
            for at in 0..decoder.array()? {
                out.push_str(if at == 0 { "" } else { "," });
                show(decoder, kind, known.element(at), out)?;
            }
            out.push(']');
        }
        Marker::FixMap(_) | Marker::Map16 | Marker::Map32 => show_map(decoder, kind, known, out)?,
        Marker::F32
        | Marker::F64
        | Marker::Null
        | Marker::True
        | Marker::False
        | Marker::FixExt1 => match decoder.marker()? {
            Marker::F32 => float(f64::from(f32::from_be_bytes(decoder.take()?)), out),
            Marker::F64 => float(f64::from_be_bytes(decoder.take()?), out),
            Marker::True => out.push_str("true"),
            Marker::False => out.push_str("false"),
            Marker::FixExt1 => match decoder.take::<2>()? {
                [kind, _] if [kind] == SOMES.to_be_bytes() => out.push_str("null"),
                _ => return Err(Fault::new("an unknown extension")),
            },
            _ => out.push_str("null"),
        },
        _ => match decoder.any_integer()? {
            Integer::Positive(number) => match known.named(decoder.table(), number) {
                // A variant without content.
                Some((variant, _)) => quote(variant, out),
                None => text(out, format_args!("{number}")),
            },
            Integer::Negative(number) => text(out, format_args!("{number}")),
        },
    }
    decoder.leave();
    Ok(())
}

fn show_map<'t>(
    decoder: &mut Decoder<'_, 't>,
    kind: &'t ValueKind,
    known: Known<'t>,
    out: &mut String,
) -> Result<(), Fault> {
    let (of_keys, of_values) = match known {
        Known::Shape(ValueShape::Map(both)) => (Known::Shape(&both.0), Known::Shape(&both.1)),
        _ => (Known::Nothing, Known::Nothing),
    };
    out.push('{');
    for at in 0..decoder.map()? {
        out.push_str(if at == 0 { "" } else { "," });
        let mut inside = of_values;
        let mut key = String::new();
        if matches!(known, Known::Shape(_) | Known::Nothing | Known::Parts(_)) {
            show(decoder, kind, of_keys, &mut key)?;
        } else {
            let mut number = String::new();
            show(decoder, kind, Known::Nothing, &mut number)?;
            match number.parse().ok().and_then(|it| known.named(decoder.table(), it)) {
                Some((name, content)) => {
                    quote(name, &mut key);
                    inside = content;
                }
                None => key = number,
            }
        }
        if key.starts_with('"') {
            out.push_str(&key);
        } else {
            quote(&key, out);
        }
        out.push(':');
        show(decoder, kind, inside, out)?;
    }
    out.push('}');
    Ok(())
}

/// Bytes, or an integer of 128 bits.
fn show_bytes(bytes: &[u8], known: Known<'_>, out: &mut String) {
    match (known, <[u8; 16]>::try_from(bytes)) {
        (Known::Shape(ValueShape::Unsigned(128)), Ok(bytes)) => {
            text(out, format_args!("{}", u128::from_be_bytes(bytes)));
        }
        (Known::Shape(ValueShape::Signed(128)), Ok(bytes)) => {
            text(out, format_args!("{}", i128::from_be_bytes(bytes)));
        }
        _ => {
            out.push('"');
            for byte in bytes {
                text(out, format_args!("{byte:02x}"));
            }
            out.push('"');
        }
    }
}

fn name(names: &TypeNames, number: u64) -> Option<&str> {
    names.name(u32::try_from(number).ok()?)
}

fn float(value: f64, out: &mut String) {
    if value.is_finite() {
        text(out, format_args!("{value:?}"));
    } else {
        out.push_str("null");
    }
}

fn quote(plain: &str, out: &mut String) {
    out.push('"');
    for c in plain.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\0'..='\u{1f}' => text(out, format_args!("\\u{:04x}", u32::from(c))),
            _ => out.push(c),
        }
    }
    out.push('"');
}

fn text(out: &mut String, arguments: std::fmt::Arguments<'_>) {
    out.write_fmt(arguments).expect("a String takes everything");
}
