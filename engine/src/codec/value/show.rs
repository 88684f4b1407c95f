//! Values as JSON, for people who look at a directory without the module's code.
//!
//! The bytes say which numbers are there, the table says the names of a type's numbers; what type a
//! *field* has, neither says. So the names of the outermost type are shown, and of the variant if it
//! is an enum; further in, fields have their numbers for names.

use std::fmt::Write;

use rmp::Marker;

use super::decode::{Decoder, Integer};
use super::{Error, Fault, Result, SOMES};
use crate::codec::FieldTable;
use crate::codec::table::TypeNames;

/// The value as JSON. `type_name` is that of the outermost type, if it is known and has names. Bytes
/// are shown in hexadecimal, map keys that are no text by their JSON, numbers that JSON lacks as null.
///
/// # Errors
/// [`Error::Decode`] if the bytes are no value.
pub fn to_json(table: &FieldTable, type_name: Option<&str>, bytes: &[u8]) -> Result<String> {
    let mut decoder = Decoder::new(table, bytes);
    let mut out = String::new();
    let names = type_name.and_then(|name| table.of_type(name));
    let shown = show(&mut decoder, names, &mut out).and_then(|()| decoder.finish());
    shown.map(|()| out).map_err(|fault| {
        let (at, problem) = fault.into_parts();
        Error::Decode { value_type: "JSON", at, problem }
    })
}

fn show(
    decoder: &mut Decoder<'_, '_>,
    names: Option<&TypeNames>,
    out: &mut String,
) -> Result<(), Fault> {
    decoder.enter()?;
    match decoder.peek()? {
        Marker::FixStr(_) | Marker::Str8 | Marker::Str16 | Marker::Str32 => {
            quote(decoder.text()?, out);
        }
        Marker::Bin8 | Marker::Bin16 | Marker::Bin32 => {
            out.push('"');
            for byte in decoder.bytes()? {
                text(out, format_args!("{byte:02x}"));
            }
            out.push('"');
        }
        Marker::FixArray(_) | Marker::Array16 | Marker::Array32 => {
            out.push('[');
            for at in 0..decoder.array()? {
                out.push_str(if at == 0 { "" } else { "," });
                show(decoder, None, out)?;
            }
            out.push(']');
        }
        Marker::FixMap(_) | Marker::Map16 | Marker::Map32 => show_map(decoder, names, out)?,
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
        _ => match (decoder.any_integer()?, names) {
            (Integer::Positive(number), Some(names)) => match name(names, number) {
                // A variant without content.
                Some(variant) => quote(variant, out),
                None => text(out, format_args!("{number}")),
            },
            (Integer::Positive(number), None) => text(out, format_args!("{number}")),
            (Integer::Negative(number), _) => text(out, format_args!("{number}")),
        },
    }
    decoder.leave();
    Ok(())
}

fn show_map(
    decoder: &mut Decoder<'_, '_>,
    names: Option<&TypeNames>,
    out: &mut String,
) -> Result<(), Fault> {
    out.push('{');
    for at in 0..decoder.map()? {
        out.push_str(if at == 0 { "" } else { "," });
        let mut key = String::new();
        show(decoder, names, &mut key)?;
        if key.starts_with('"') {
            out.push_str(&key);
        } else {
            quote(&key, out);
        }
        out.push(':');
        // If this is an enum, the content may be that of a variant with fields.
        let variant = names.and_then(|names| {
            let variant = format!("{}::{}", names.type_name(), key.trim_matches('"'));
            decoder.table().of_type(&variant)
        });
        show(decoder, variant, out)?;
    }
    out.push('}');
    Ok(())
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
