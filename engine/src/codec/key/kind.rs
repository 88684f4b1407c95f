//! [`KeyKind`]: the type of a key as data, so that stored keys can be read without the module's code.
//!
//! It is recorded in the catalogue when a `PState` is first launched. Everything here follows the table of
//! the [parent module](super); the tests hold each kind against the `Key` implementation it describes.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::{Number, Value};
use uuid::Uuid;

use super::{END, ESCAPE, EncodeKey, KeyBuf};
use crate::codec::{Error, KEY_BYTES_MAX, Result};

mod value;

/// How a key is stored, and what its bytes mean.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KeyKind {
    /// `u8`.
    U8,
    /// `u16`.
    U16,
    /// `u32`.
    U32,
    /// `u64`.
    U64,
    /// `u128`.
    U128,
    /// `i8`.
    I8,
    /// `i16`.
    I16,
    /// `i32`.
    I32,
    /// `i64`.
    I64,
    /// `i128`.
    I128,
    /// `f32`.
    F32,
    /// `f64`.
    F64,
    /// `bool`.
    Bool,
    /// `char`.
    Char,
    /// `()`.
    Unit,
    /// `Uuid`.
    Uuid,
    /// `Vec<u8>`.
    Bytes,
    /// `[u8; N]`.
    Array(u32),
    /// `String`.
    Text,
    /// A tuple.
    Tuple(Vec<KeyKind>),
    /// `Reverse<K>`.
    Reverse(Box<KeyKind>),
    /// A newtype, stored as what it wraps.
    Named {
        /// Its name, without a path.
        name: String,
        /// What it wraps.
        inner: Box<KeyKind>,
    },
}

impl KeyKind {
    /// A newtype of this name.
    #[must_use]
    pub fn named(name: &str, inner: Self) -> Self {
        Self::Named { name: name.to_owned(), inner: Box::new(inner) }
    }

    /// How many bytes every key of this kind takes, if that is always the same.
    #[must_use]
    pub fn width(&self) -> Option<usize> {
        match self {
            Self::Unit => Some(0),
            Self::U8 | Self::I8 | Self::Bool => Some(1),
            Self::U16 | Self::I16 => Some(2),
            Self::U32 | Self::I32 | Self::F32 | Self::Char => Some(4),
            Self::U64 | Self::I64 | Self::F64 => Some(8),
            Self::U128 | Self::I128 | Self::Uuid => Some(16),
            Self::Array(bytes) => usize::try_from(*bytes).ok(),
            Self::Bytes | Self::Text => None,
            Self::Tuple(parts) => {
                parts.iter().try_fold(0_usize, |sum, part| sum.checked_add(part.width()?))
            }
            Self::Reverse(inner) | Self::Named { inner, .. } => inner.width(),
        }
    }

    /// Takes one key from the front of `input` without looking at what it means.
    ///
    /// # Errors
    /// [`Error::KeyMismatch`] if it is cut off, or a text in it is not well escaped; `input` is then left
    /// anywhere.
    pub fn skip(&self, input: &mut &[u8]) -> Result<()> {
        let mut bytes = Stored { rest: input, flip: 0 };
        bytes.skip(self).map_err(|problem| self.mismatch(problem))?;
        *input = bytes.rest;
        Ok(())
    }

    /// The key that all of `bytes` encode, as JSON: numbers, texts, arrays of a tuple's parts. Bytes are
    /// texts of hexadecimal digits; integers beyond 64 bits are texts of decimal digits; floats that JSON
    /// lacks are texts of their bits (`0x7ff8000000000000`).
    ///
    /// # Errors
    /// [`Error::KeyMismatch`], also if bytes are left over.
    pub fn to_json(&self, bytes: &[u8]) -> Result<Value> {
        let mut stored = Stored { rest: bytes, flip: 0 };
        let value = stored.value(self).map_err(|problem| self.mismatch(problem))?;
        if stored.rest.is_empty() { Ok(value) } else { Err(self.mismatch("bytes are left over")) }
    }

    /// Appends the key that `value` is the JSON of; see [`KeyKind::to_json`]. After an error, `out` is as
    /// before.
    ///
    /// # Errors
    /// [`Error::KeyMismatch`] if it is no key of this kind, or longer than a key may be.
    pub fn from_json(&self, value: &Value, out: &mut KeyBuf) -> Result<()> {
        let start = out.len();
        let encoded = self.encode(value, out);
        let fits = if out.len() - start <= KEY_BYTES_MAX { encoded } else { Err("too long") };
        fits.map_err(|problem| {
            out.truncate(start);
            self.mismatch(problem)
        })
    }

    /// Whether keys of the two kinds are the same bytes for the same values: they differ at most in the
    /// names of newtypes.
    #[must_use]
    pub fn is_stored_as(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Named { inner, .. }, other) => inner.is_stored_as(other),
            (one, Self::Named { inner, .. }) => one.is_stored_as(inner),
            (Self::Reverse(one), Self::Reverse(other)) => one.is_stored_as(other),
            (Self::Tuple(one), Self::Tuple(other)) => {
                one.len() == other.len() && one.iter().zip(other).all(|(a, b)| a.is_stored_as(b))
            }
            (one, other) => one == other,
        }
    }

    #[cold]
    fn mismatch(&self, problem: &'static str) -> Error {
        Error::KeyMismatch { kind: self.to_string(), problem }
    }

    fn encode(&self, value: &Value, out: &mut KeyBuf) -> Result<(), Problem> {
        macro_rules! integer {
            ($type:ty) => {
                <$type>::try_from(integer(value)?)
                    .map_err(|_| "the number is out of range")?
                    .encode_key(out)
            };
        }
        match self {
            Self::U8 => integer!(u8),
            Self::U16 => integer!(u16),
            Self::U32 => integer!(u32),
            Self::U64 => integer!(u64),
            Self::U128 => match value.as_str().and_then(|text| text.parse::<u128>().ok()) {
                Some(number) => number.encode_key(out),
                None => integer!(u128),
            },
            Self::I8 => integer!(i8),
            Self::I16 => integer!(i16),
            Self::I32 => integer!(i32),
            Self::I64 => integer!(i64),
            Self::I128 => integer!(i128),
            Self::F32 => match bits(value)? {
                Some(bits) => f32::from_bits(u32::try_from(bits).map_err(|_| "too many bits")?),
                None => narrow(number(value)?)?,
            }
            .encode_key(out),
            Self::F64 => match bits(value)? {
                Some(bits) => f64::from_bits(bits),
                None => number(value)?,
            }
            .encode_key(out),
            Self::Bool => value.as_bool().ok_or("not `true` or `false`")?.encode_key(out),
            Self::Char => {
                let mut chars = text(value)?.chars();
                match (chars.next(), chars.next()) {
                    (Some(c), None) => c.encode_key(out),
                    _ => return Err("not a text of one character"),
                }
            }
            Self::Unit => value.as_null().ok_or("not `null`")?.encode_key(out),
            Self::Uuid => text(value)?.parse::<Uuid>().map_err(|_| "not a UUID")?.encode_key(out),
            Self::Bytes => unhex(text(value)?)?.encode_key(out),
            Self::Array(len) => {
                let bytes = unhex(text(value)?)?;
                if u32::try_from(bytes.len()) != Ok(*len) {
                    return Err("not as many bytes as the array has");
                }
                out.push_slice(&bytes);
            }
            Self::Text => text(value)?.encode_key(out),
            Self::Tuple(parts) => {
                let values = value.as_array().ok_or("not an array")?;
                if values.len() != parts.len() {
                    return Err("not as many elements as the tuple has");
                }
                for (part, value) in parts.iter().zip(values) {
                    part.encode(value, out)?;
                }
            }
            Self::Reverse(inner) => {
                let start = out.len();
                inner.encode(value, out)?;
                for byte in &mut out.as_mut_slice()[start..] {
                    *byte = !*byte;
                }
            }
            Self::Named { inner, .. } => inner.encode(value, out)?,
        }
        Ok(())
    }
}

impl fmt::Display for KeyKind {
    /// As in Rust: `(AccountId, Reverse<u64>)`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::U8 => "u8",
            Self::U16 => "u16",
            Self::U32 => "u32",
            Self::U64 => "u64",
            Self::U128 => "u128",
            Self::I8 => "i8",
            Self::I16 => "i16",
            Self::I32 => "i32",
            Self::I64 => "i64",
            Self::I128 => "i128",
            Self::F32 => "f32",
            Self::F64 => "f64",
            Self::Bool => "bool",
            Self::Char => "char",
            Self::Unit => "()",
            Self::Uuid => "Uuid",
            Self::Bytes => "Vec<u8>",
            Self::Text => "String",
            Self::Named { name, .. } => name,
            Self::Array(len) => return write!(f, "[u8; {len}]"),
            Self::Reverse(inner) => return write!(f, "Reverse<{inner}>"),
            Self::Tuple(parts) => {
                f.write_str("(")?;
                for (at, part) in parts.iter().enumerate() {
                    write!(f, "{}{part}", if at == 0 { "" } else { ", " })?;
                }
                return f.write_str(if parts.len() == 1 { ",)" } else { ")" });
            }
        })
    }
}

type Problem = &'static str;

/// Stored bytes that are read from the front.
struct Stored<'a> {
    rest: &'a [u8],
    /// What each byte is combined with: all ones inside an odd number of `Reverse`s.
    flip: u8,
}

impl Stored<'_> {
    fn byte(&mut self) -> Result<u8, Problem> {
        let (byte, rest) = self.rest.split_first().ok_or(TOO_SHORT)?;
        self.rest = rest;
        Ok(byte ^ self.flip)
    }

    fn fixed(&mut self, len: usize) -> Result<Vec<u8>, Problem> {
        let (bytes, rest) = self.rest.split_at_checked(len).ok_or(TOO_SHORT)?;
        self.rest = rest;
        Ok(bytes.iter().map(|byte| byte ^ self.flip).collect())
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Problem> {
        let (bytes, rest) = self.rest.split_first_chunk::<N>().ok_or(TOO_SHORT)?;
        self.rest = rest;
        Ok(bytes.map(|byte| byte ^ self.flip))
    }

    /// The next byte of a text or of bytes; `None` at its end.
    fn escaped(&mut self) -> Result<Option<u8>, Problem> {
        Ok(match self.byte()? {
            END => None,
            ESCAPE => match self.byte()? {
                byte @ (1 | 2) => Some(byte - 1),
                _ => return Err("a broken escape"),
            },
            byte => Some(byte),
        })
    }

    fn unescaped(&mut self) -> Result<Vec<u8>, Problem> {
        let mut plain = Vec::new();
        while let Some(byte) = self.escaped()? {
            plain.push(byte);
        }
        Ok(plain)
    }

    fn flipped<T>(
        &mut self,
        inner: impl FnOnce(&mut Self) -> Result<T, Problem>,
    ) -> Result<T, Problem> {
        self.flip = !self.flip;
        let result = inner(self);
        self.flip = !self.flip;
        result
    }

    fn skip(&mut self, kind: &KeyKind) -> Result<(), Problem> {
        match kind {
            KeyKind::Bytes | KeyKind::Text => while self.escaped()?.is_some() {},
            KeyKind::Tuple(parts) => {
                for part in parts {
                    self.skip(part)?;
                }
            }
            // Where a text ends is known only after flipping it back.
            KeyKind::Reverse(inner) => self.flipped(|this| this.skip(inner))?,
            KeyKind::Named { inner, .. } => self.skip(inner)?,
            fixed => {
                let width = fixed.width().ok_or(TOO_SHORT)?;
                self.rest = self.rest.get(width..).ok_or(TOO_SHORT)?;
            }
        }
        Ok(())
    }

    fn value(&mut self, kind: &KeyKind) -> Result<Value, Problem> {
        /// Flips back the sign bit.
        macro_rules! signed {
            ($type:ty) => {
                <$type>::from_be_bytes(self.array()?) ^ <$type>::MIN
            };
        }
        Ok(match kind {
            KeyKind::U8 => self.byte()?.into(),
            KeyKind::U16 => u16::from_be_bytes(self.array()?).into(),
            KeyKind::U32 => u32::from_be_bytes(self.array()?).into(),
            KeyKind::U64 => u64::from_be_bytes(self.array()?).into(),
            KeyKind::U128 => {
                let number = u128::from_be_bytes(self.array()?);
                u64::try_from(number).map_or_else(|_| number.to_string().into(), Value::from)
            }
            KeyKind::I8 => signed!(i8).into(),
            KeyKind::I16 => signed!(i16).into(),
            KeyKind::I32 => signed!(i32).into(),
            KeyKind::I64 => signed!(i64).into(),
            KeyKind::I128 => {
                let number = signed!(i128);
                let wide = |_| u64::try_from(number).map(Value::from);
                let short = i64::try_from(number).map(Value::from).or_else(wide);
                short.unwrap_or_else(|_| number.to_string().into())
            }
            KeyKind::F32 => {
                let ordered = u32::from_be_bytes(self.array()?);
                let bits = if ordered >> 31 == 0 { !ordered } else { ordered ^ (1 << 31) };
                let number = Number::from_f64(f64::from(f32::from_bits(bits)));
                number.map_or_else(|| format!("0x{bits:08x}").into(), Value::Number)
            }
            KeyKind::F64 => {
                let ordered = u64::from_be_bytes(self.array()?);
                let bits = if ordered >> 63 == 0 { !ordered } else { ordered ^ (1 << 63) };
                let number = Number::from_f64(f64::from_bits(bits));
                number.map_or_else(|| format!("0x{bits:016x}").into(), Value::Number)
            }
            KeyKind::Bool => match self.byte()? {
                0 => false.into(),
                1 => true.into(),
                _ => return Err("neither 0 nor 1"),
            },
            KeyKind::Char => {
                let c = char::from_u32(u32::from_be_bytes(self.array()?));
                c.ok_or("not a code point")?.to_string().into()
            }
            KeyKind::Unit => Value::Null,
            KeyKind::Uuid => Uuid::from_bytes(self.array()?).to_string().into(),
            KeyKind::Bytes => hex(&self.unescaped()?).into(),
            KeyKind::Array(len) => {
                hex(&self.fixed(usize::try_from(*len).map_err(|_| TOO_SHORT)?)?).into()
            }
            KeyKind::Text => String::from_utf8(self.unescaped()?).map_err(|_| "not UTF-8")?.into(),
            KeyKind::Tuple(parts) => {
                parts.iter().map(|part| self.value(part)).collect::<Result<Vec<_>, _>>()?.into()
            }
            KeyKind::Reverse(inner) => self.flipped(|this| this.value(inner))?,
            KeyKind::Named { inner, .. } => self.value(inner)?,
        })
    }
}

fn text(value: &Value) -> Result<&str, Problem> {
    value.as_str().ok_or("not a text")
}

/// An integer, or a text of one.
fn integer(value: &Value) -> Result<i128, Problem> {
    match value {
        Value::Number(number) => number.as_i128().ok_or("not an integer"),
        Value::String(text) => text.parse().map_err(|_| "not an integer"),
        _ => Err("not a number"),
    }
}

fn number(value: &Value) -> Result<f64, Problem> {
    value.as_f64().ok_or("not a number")
}

/// The nearest `f32`, as Rust reads a literal.
fn narrow(number: f64) -> Result<f32, Problem> {
    #[allow(clippy::cast_possible_truncation, reason = "rounds, and what is too large is refused")]
    let narrow = number as f32;
    if narrow.is_finite() { Ok(narrow) } else { Err("the number is out of range") }
}

/// The bits of a float, if it is given by them.
fn bits(value: &Value) -> Result<Option<u64>, Problem> {
    let Some(text) = value.as_str() else { return Ok(None) };
    let digits = text.strip_prefix("0x").ok_or("not a number")?;
    u64::from_str_radix(digits, 16).map(Some).map_err(|_| "not the bits of a number")
}

fn hex(bytes: &[u8]) -> String {
    let digits = bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]);
    digits.filter_map(|digit| char::from_digit(digit.into(), 16)).collect()
}

fn unhex(text: &str) -> Result<Vec<u8>, Problem> {
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let pair = |pair: &[u8]| match pair {
        [high, low] => Some(digit(*high)? << 4 | digit(*low)?),
        _ => None,
    };
    text.as_bytes().chunks(2).map(pair).collect::<Option<_>>().ok_or("not hexadecimal digits")
}

const TOO_SHORT: Problem = "too short";
