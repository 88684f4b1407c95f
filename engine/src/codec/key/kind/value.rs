//! Keys as values and back: a key has two encodings, one that keeps the order, and that of values, which is
//! what serde makes of its type. Newtypes are what they wrap.

use rmp::encode as mp;
use uuid::Uuid;

use super::{EncodeKey, KeyBuf, KeyKind, Problem, Stored, TOO_SHORT};
use crate::codec::Result;
use crate::codec::value::raw::{Bad, Head, Raw, push_list};

impl KeyKind {
    /// Takes one key from the front of `input` and appends the value that it is.
    ///
    /// # Errors
    /// [`Error::KeyMismatch`](crate::codec::Error::KeyMismatch); `input` is then left anywhere.
    pub fn to_value(&self, input: &mut &[u8], out: &mut Vec<u8>) -> Result<()> {
        let mut stored = Stored { rest: input, flip: 0 };
        write(&mut stored, self, out).map_err(|problem| self.mismatch(problem))?;
        *input = stored.rest;
        Ok(())
    }

    /// Appends the key that a value is. After an error, `out` is as before.
    ///
    /// # Errors
    /// [`Error::KeyMismatch`](crate::codec::Error::KeyMismatch) if it is no key of this kind.
    pub fn from_value(&self, value: Raw<'_>, out: &mut KeyBuf) -> Result<()> {
        let start = out.len();
        push(self, value, out).map_err(|problem| {
            out.truncate(start);
            self.mismatch(problem)
        })
    }
}

fn write(stored: &mut Stored<'_>, kind: &KeyKind, out: &mut Vec<u8>) -> Result<(), Problem> {
    /// Flips back the sign bit.
    macro_rules! signed {
        ($type:ty) => {
            <$type>::from_be_bytes(stored.array()?) ^ <$type>::MIN
        };
    }
    match kind {
        KeyKind::U8 => written(mp::write_uint(out, stored.byte()?.into())),
        KeyKind::U16 => written(mp::write_uint(out, u16::from_be_bytes(stored.array()?).into())),
        KeyKind::U32 => written(mp::write_uint(out, u32::from_be_bytes(stored.array()?).into())),
        KeyKind::U64 => written(mp::write_uint(out, u64::from_be_bytes(stored.array()?))),
        KeyKind::U128 | KeyKind::Uuid => written(mp::write_bin(out, &stored.array::<16>()?)),
        KeyKind::I8 => written(mp::write_sint(out, signed!(i8).into())),
        KeyKind::I16 => written(mp::write_sint(out, signed!(i16).into())),
        KeyKind::I32 => written(mp::write_sint(out, signed!(i32).into())),
        KeyKind::I64 => written(mp::write_sint(out, signed!(i64))),
        KeyKind::I128 => written(mp::write_bin(out, &signed!(i128).to_be_bytes())),
        KeyKind::F32 => {
            let ordered = u32::from_be_bytes(stored.array()?);
            let bits = if ordered >> 31 == 0 { !ordered } else { ordered ^ (1 << 31) };
            written(mp::write_f32(out, f32::from_bits(bits)));
        }
        KeyKind::F64 => {
            let ordered = u64::from_be_bytes(stored.array()?);
            let bits = if ordered >> 63 == 0 { !ordered } else { ordered ^ (1 << 63) };
            written(mp::write_f64(out, f64::from_bits(bits)));
        }
        KeyKind::Bool => match stored.byte()? {
            0 => written(mp::write_bool(out, false)),
            1 => written(mp::write_bool(out, true)),
            _ => return Err("neither 0 nor 1"),
        },
        KeyKind::Char => {
            let c = char::from_u32(u32::from_be_bytes(stored.array()?));
            let c = c.ok_or("not a code point")?;
            written(mp::write_str(out, c.encode_utf8(&mut [0; 4])));
        }
        KeyKind::Unit => written(mp::write_nil(out)),
        KeyKind::Bytes => bytes(&stored.unescaped()?, out),
        KeyKind::Array(len) => {
            bytes(&stored.fixed(usize::try_from(*len).map_err(|_| TOO_SHORT)?)?, out);
        }
        KeyKind::Text => {
            let text = stored.unescaped()?;
            written(mp::write_str(out, str::from_utf8(&text).map_err(|_| "not UTF-8")?));
        }
        KeyKind::Tuple(parts) => {
            push_list(out, parts.len());
            parts.iter().try_for_each(|part| write(stored, part, out))?;
        }
        KeyKind::Reverse(inner) => stored.flipped(|stored| write(stored, inner, out))?,
        KeyKind::Named { inner, .. } => write(stored, inner, out)?,
    }
    Ok(())
}

/// Bytes as serde sees a `Vec<u8>` and an array.
fn bytes(bytes: &[u8], out: &mut Vec<u8>) {
    push_list(out, bytes.len());
    for byte in bytes {
        written(mp::write_uint(out, (*byte).into()));
    }
}

fn push(kind: &KeyKind, value: Raw<'_>, out: &mut KeyBuf) -> Result<(), Problem> {
    let head = value.head().map_err(broken)?;
    macro_rules! integer {
        ($type:ty) => {
            match head {
                Head::Int(number) => <$type>::try_from(number)
                    .map_err(|_| "the number is out of range")?
                    .encode_key(out),
                _ => return Err("not a whole number"),
            }
        };
    }
    match kind {
        KeyKind::U8 => integer!(u8),
        KeyKind::U16 => integer!(u16),
        KeyKind::U32 => integer!(u32),
        KeyKind::U64 => integer!(u64),
        KeyKind::I8 => integer!(i8),
        KeyKind::I16 => integer!(i16),
        KeyKind::I32 => integer!(i32),
        KeyKind::I64 => integer!(i64),
        KeyKind::U128 => match sixteen(&head) {
            Some(bytes) => u128::from_be_bytes(bytes).encode_key(out),
            None => integer!(u128),
        },
        KeyKind::I128 => match sixteen(&head) {
            Some(bytes) => i128::from_be_bytes(bytes).encode_key(out),
            None => integer!(i128),
        },
        KeyKind::F32 => narrow(&head)?.encode_key(out),
        KeyKind::F64 => float(&head)?.encode_key(out),
        KeyKind::Bool => match head {
            Head::Bool(value) => value.encode_key(out),
            _ => return Err("not `true` or `false`"),
        },
        KeyKind::Char => {
            let mut chars = text(&head)?.chars();
            match (chars.next(), chars.next()) {
                (Some(c), None) => c.encode_key(out),
                _ => return Err("not a text of one character"),
            }
        }
        KeyKind::Unit => match head {
            Head::Nil => ().encode_key(out),
            _ => return Err("not nil"),
        },
        KeyKind::Uuid => match sixteen(&head) {
            Some(bytes) => Uuid::from_bytes(bytes),
            None => text(&head)?.parse::<Uuid>().map_err(|_| "not a UUID")?,
        }
        .encode_key(out),
        KeyKind::Bytes => byte_string(value, &head)?.encode_key(out),
        KeyKind::Array(len) => {
            let bytes = byte_string(value, &head)?;
            if u32::try_from(bytes.len()) != Ok(*len) {
                return Err("not as many bytes as the array has");
            }
            out.push_slice(&bytes);
        }
        KeyKind::Text => text(&head)?.encode_key(out),
        KeyKind::Tuple(parts) => {
            let Head::List(len) = head else { return Err("not a list") };
            if len != parts.len() {
                return Err("not as many elements as the tuple has");
            }
            let items = value.items().map_err(broken)?.map_err(|_| "not a list")?;
            for (part, item) in parts.iter().zip(items) {
                push(part, item.map_err(broken)?, out)?;
            }
        }
        KeyKind::Reverse(inner) => {
            let start = out.len();
            push(inner, value, out)?;
            for byte in &mut out.as_mut_slice()[start..] {
                *byte = !*byte;
            }
        }
        KeyKind::Named { inner, .. } => push(inner, value, out)?,
    }
    Ok(())
}

fn sixteen(head: &Head<'_>) -> Option<[u8; 16]> {
    if let Head::Bytes(bytes) = head { (*bytes).try_into().ok() } else { None }
}

fn float(head: &Head<'_>) -> Result<f64, Problem> {
    match *head {
        Head::Single(value) => Ok(value.into()),
        Head::Double(value) => Ok(value),
        // Where people write 1 for 1.0.
        Head::Int(value) => i32::try_from(value).map(f64::from).map_err(|_| "not a float"),
        _ => Err("not a number"),
    }
}

fn narrow(head: &Head<'_>) -> Result<f32, Problem> {
    if let Head::Single(value) = *head {
        return Ok(value);
    }
    let wide = float(head)?;
    #[allow(clippy::cast_possible_truncation, reason = "what does not fit is refused")]
    let narrow = wide as f32;
    if f64::from(narrow).to_bits() == wide.to_bits() {
        Ok(narrow)
    } else {
        Err("the number has more digits than are stored")
    }
}

fn text<'a>(head: &Head<'a>) -> Result<&'a str, Problem> {
    match *head {
        Head::Text(text) => str::from_utf8(text).map_err(|_| "not UTF-8"),
        _ => Err("not a text"),
    }
}

fn byte_string(value: Raw<'_>, head: &Head<'_>) -> Result<Vec<u8>, Problem> {
    if let Head::Bytes(bytes) = *head {
        return Ok(bytes.to_vec());
    }
    let Head::List(_) = head else { return Err("not bytes") };
    let items = value.items().map_err(broken)?.map_err(|_| "not a list")?;
    let byte = |item: Result<Raw<'_>, Bad>| match item.and_then(Raw::head).map_err(broken)? {
        Head::Int(byte) => u8::try_from(byte).map_err(|_| "not a byte"),
        _ => Err("not a byte"),
    };
    items.map(byte).collect()
}

fn broken(_: Bad) -> Problem {
    "a broken value"
}

/// Writing to a `Vec` cannot fail.
fn written<T, E: std::fmt::Debug>(result: Result<T, E>) {
    result.expect("a Vec takes all bytes");
}
