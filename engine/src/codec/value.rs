//! Values: serde types as `MessagePack` maps keyed by field *numbers*.
//!
//! Compact, since names are not repeated in every record, and evolvable: fields can be added, removed
//! and put in another order. A field that is missing gets its serde default, `None`, or is an error
//! that names it; a number that the type does not know is skipped. The names of all numbers are in
//! the catalogue's [`FieldTable`].
//!
//! # Layout, fixed for ever
//!
//! | serde | `MessagePack` |
//! |---|---|
//! | integers | the shortest integer; 128 bits: 16 bytes, big-endian |
//! | `f32`, `f64`, `bool`, text, bytes | the same |
//! | `char` | text |
//! | unit, unit struct, `None` | nil |
//! | `Some(x)` | `x`; if that is nil, a one-byte extension of type 1 that counts the `Some`s around it |
//! | newtype struct | its content |
//! | sequence, tuple, tuple struct | array |
//! | map | map |
//! | struct | map from field numbers |
//! | unit variant | its number |
//! | other variants | a map of one entry, from the variant's number to the content |
//!
//! Types that only a self-describing format can hold (`#[serde(untagged)]`, `#[serde(tag)]`,
//! `#[serde(flatten)]`, `serde_json::Value`) are refused when a module is launched.

use std::any::type_name;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{Error, FieldTable, Result, VALUE_BYTES_MAX};

mod decode;
mod encode;
mod fault;
pub mod raw;
mod show;
#[cfg(test)]
mod tests;

pub(in crate::codec) use fault::Fault;
pub use show::{to_json, to_json_of};

/// Appends the encoded value to `out`; after an error, `out` is as before.
///
/// # Errors
/// [`Error::ValueTooLarge`]; [`Error::Encode`] if a name has no number in `table`, the value nests too
/// deeply, or its `Serialize` fails.
pub fn encode<T: Serialize + ?Sized>(
    table: &FieldTable,
    value: &T,
    out: &mut Vec<u8>,
) -> Result<()> {
    let start = out.len();
    let fault = value.serialize(&mut encode::Encoder::new(table, out)).err();
    let bytes = out.len() - start;
    if fault.is_none() && bytes <= VALUE_BYTES_MAX {
        return Ok(());
    }
    out.truncate(start);
    let value_type = type_name::<T>();
    let too_large = fault.as_ref().map_or(Some(bytes), Fault::bytes_too_large);
    Err(match (too_large, fault) {
        (Some(bytes), _) => Error::ValueTooLarge { value_type, bytes },
        (None, fault) => {
            let fault = fault.expect("without a fault it is too large");
            let (at, problem) = fault.into_parts();
            Error::Encode { value_type, at, problem }
        }
    })
}

/// The value that all of `bytes` encode.
///
/// # Errors
/// [`Error::Decode`] if they encode no value of this type; [`Error::ValueTooLarge`].
#[inline(always)]
#[allow(
    clippy::inline_always,
    reason = "a step of every read, and short: what is long is the type's own"
)]
pub fn decode<T: DeserializeOwned>(table: &FieldTable, bytes: &[u8]) -> Result<T> {
    if bytes.len() > VALUE_BYTES_MAX {
        return Err(Error::ValueTooLarge { value_type: type_name::<T>(), bytes: bytes.len() });
    }
    let mut decoder = decode::Decoder::new(table, bytes);
    let decoded = T::deserialize(&mut decoder).and_then(|value| decoder.finish().map(|()| value));
    decoded.map_err(|fault| undecodable(type_name::<T>(), fault))
}

#[cold]
fn undecodable(value_type: &'static str, fault: Fault) -> Error {
    let (at, problem) = fault.into_parts();
    Error::Decode { value_type, at, problem }
}

/// The extension type that counts `Some`s around nil.
const SOMES: i8 = 1;

/// How many `Some`s may lie around nil.
const SOMES_MAX: u8 = 8;

/// Why a type is refused.
pub(in crate::codec) const NOT_SELF_DESCRIBING: &str = "it needs a self-describing format, which values are not: `untagged`, `tag` and `flatten` of \
     serde, and types like `serde_json::Value`, cannot be stored";
