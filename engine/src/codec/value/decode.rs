//! The deserializer. Trusts nothing: every length is checked against the bytes that are left before
//! anything is allocated or skipped.

use rmp::Marker;
use serde::de::value::StrDeserializer;
use serde::de::{
    DeserializeSeed, Deserializer, EnumAccess, Error as _, MapAccess, SeqAccess, Unexpected,
    VariantAccess, Visitor,
};

use super::{Fault, NOT_SELF_DESCRIBING, SOMES, SOMES_MAX};
use crate::codec::table::TypeNames;
use crate::codec::{FieldTable, VALUE_DEPTH_MAX};

pub(super) struct Decoder<'de, 't> {
    table: &'t FieldTable,
    input: &'de [u8],
    depth: usize,
}

impl<'de, 't> Decoder<'de, 't> {
    #[inline]
    pub(super) fn new(table: &'t FieldTable, input: &'de [u8]) -> Self {
        Self { table, input, depth: 0 }
    }

    /// Asserts that nothing is left.
    #[inline]
    pub(super) fn finish(&self) -> Result<(), Fault> {
        match self.input.len() {
            0 => Ok(()),
            left => Err(Fault::new(format_args!("{left} bytes are left over"))),
        }
    }

    #[inline]
    pub(super) fn enter(&mut self) -> Result<(), Fault> {
        if self.depth == VALUE_DEPTH_MAX {
            return Err(Fault::new(format_args!("it nests deeper than {VALUE_DEPTH_MAX}")));
        }
        self.depth += 1;
        Ok(())
    }

    pub(super) fn leave(&mut self) {
        self.depth -= 1;
    }

    pub(super) fn table(&self) -> &'t FieldTable {
        self.table
    }

    /// An integer, of either sign.
    pub(super) fn any_integer(&mut self) -> Result<Integer, Fault> {
        self.integer()?.ok_or_else(|| self.unexpected("a value"))
    }

    #[inline]
    pub(super) fn peek(&self) -> Result<Marker, Fault> {
        self.input.first().map(|&byte| Marker::from_u8(byte)).ok_or_else(cut_off)
    }

    #[inline]
    pub(super) fn marker(&mut self) -> Result<Marker, Fault> {
        let [byte] = self.take()?;
        Ok(Marker::from_u8(byte))
    }

    #[inline]
    pub(super) fn take<const N: usize>(&mut self) -> Result<[u8; N], Fault> {
        let (head, rest) = self.input.split_first_chunk().ok_or_else(cut_off)?;
        self.input = rest;
        Ok(*head)
    }

    #[inline]
    fn take_slice(&mut self, len: usize) -> Result<&'de [u8], Fault> {
        let (head, rest) = self.input.split_at_checked(len).ok_or_else(cut_off)?;
        self.input = rest;
        Ok(head)
    }

    #[inline]
    fn len8(&mut self) -> Result<usize, Fault> {
        Ok(usize::from(u8::from_be_bytes(self.take()?)))
    }

    #[inline]
    fn len16(&mut self) -> Result<usize, Fault> {
        Ok(usize::from(u16::from_be_bytes(self.take()?)))
    }

    #[inline]
    fn len32(&mut self) -> Result<usize, Fault> {
        usize::try_from(u32::from_be_bytes(self.take()?)).map_err(|_| cut_off())
    }

    /// An integer, if it is one; nothing is taken if not. By its byte: naming the marker first would be a second
    /// branch on the same byte, in what most values are made of.
    #[inline(always)]
    #[allow(
        clippy::inline_always,
        reason = "most values are numbers, and a call costs as much as this does"
    )]
    fn integer(&mut self) -> Result<Option<Integer>, Fault> {
        let (&byte, rest) = self.input.split_first().ok_or_else(cut_off)?;
        let before = std::mem::replace(&mut self.input, rest);
        Ok(Some(match byte {
            0x00..=0x7f => Integer::Positive(u64::from(byte)),
            0xe0..=0xff => Integer::of(i64::from(byte.cast_signed())),
            0xcc => Integer::Positive(u64::from(u8::from_be_bytes(self.take()?))),
            0xcd => Integer::Positive(u64::from(u16::from_be_bytes(self.take()?))),
            0xce => Integer::Positive(u64::from(u32::from_be_bytes(self.take()?))),
            0xcf => Integer::Positive(u64::from_be_bytes(self.take()?)),
            0xd0 => Integer::of(i64::from(i8::from_be_bytes(self.take()?))),
            0xd1 => Integer::of(i64::from(i16::from_be_bytes(self.take()?))),
            0xd2 => Integer::of(i64::from(i32::from_be_bytes(self.take()?))),
            0xd3 => Integer::of(i64::from_be_bytes(self.take()?)),
            _ => {
                self.input = before;
                return Ok(None);
            }
        }))
    }

    /// The next byte begins something else than was `expected`.
    #[cold]
    fn unexpected(&self, expected: &'static str) -> Fault {
        self.peek().map_or_else(|fault| fault, |marker| unexpected(marker, expected))
    }

    /// A field's or a variant's number; one that no table has room for is `u32::MAX`, which no table has either.
    #[inline]
    fn number(&mut self) -> Result<u32, Fault> {
        // Nearly all are below 128, which is one byte.
        if let [byte @ 0..=127, rest @ ..] = self.input {
            self.input = rest;
            return Ok(u32::from(*byte));
        }
        match self.integer()? {
            Some(Integer::Positive(number)) => Ok(u32::try_from(number).unwrap_or(u32::MAX)),
            Some(Integer::Negative(_)) => {
                Err(Fault::new("the number of a field or variant is negative"))
            }
            None => Err(self.unexpected("the number of a field or variant")),
        }
    }

    #[inline(always)]
    #[allow(clippy::inline_always, reason = "as above")]
    fn visit_integer<V: Visitor<'de>>(&mut self, visitor: V) -> Result<V::Value, Fault> {
        match self.integer()? {
            Some(Integer::Positive(value)) => visitor.visit_u64(value),
            Some(Integer::Negative(value)) => visitor.visit_i64(value),
            None => Err(self.unexpected("an integer")),
        }
    }

    #[inline]
    pub(super) fn text(&mut self) -> Result<&'de str, Fault> {
        let marker = self.marker()?;
        let len = match marker {
            Marker::FixStr(len) => usize::from(len),
            Marker::Str8 => self.len8()?,
            Marker::Str16 => self.len16()?,
            Marker::Str32 => self.len32()?,
            _ => return Err(unexpected(marker, "a text")),
        };
        str::from_utf8(self.take_slice(len)?).map_err(|_| Fault::new("a text is not UTF-8"))
    }

    pub(super) fn bytes(&mut self) -> Result<&'de [u8], Fault> {
        let marker = self.marker()?;
        let len = match marker {
            Marker::Bin8 => self.len8()?,
            Marker::Bin16 => self.len16()?,
            Marker::Bin32 => self.len32()?,
            _ => return Err(unexpected(marker, "bytes")),
        };
        self.take_slice(len)
    }

    /// A 128-bit integer; `None` if it was a narrower one when it was written.
    fn wide(&mut self) -> Result<Option<[u8; 16]>, Fault> {
        if !matches!(self.peek()?, Marker::Bin8 | Marker::Bin16 | Marker::Bin32) {
            return Ok(None);
        }
        let bytes = self.bytes()?.try_into();
        bytes.map(Some).map_err(|_| Fault::new("a 128-bit integer has other than 16 bytes"))
    }

    /// The length of an array; every element takes a byte or more.
    #[inline]
    pub(super) fn array(&mut self) -> Result<usize, Fault> {
        let marker = self.marker()?;
        let len = match marker {
            Marker::FixArray(len) => usize::from(len),
            Marker::Array16 => self.len16()?,
            Marker::Array32 => self.len32()?,
            _ => return Err(unexpected(marker, "a sequence")),
        };
        if len <= self.input.len() { Ok(len) } else { Err(cut_off()) }
    }

    /// The length of a map; every entry takes two bytes or more.
    #[inline]
    pub(super) fn map(&mut self) -> Result<usize, Fault> {
        let marker = self.marker()?;
        let len = match marker {
            Marker::FixMap(len) => usize::from(len),
            Marker::Map16 => self.len16()?,
            Marker::Map32 => self.len32()?,
            _ => return Err(unexpected(marker, "a map")),
        };
        if len <= self.input.len() / 2 { Ok(len) } else { Err(cut_off()) }
    }

    /// Takes one value of any kind. Not recursive: this is where unknown bytes go.
    fn skip(&mut self) -> Result<(), Fault> {
        let mut left: usize = 1;
        while let Some(others) = left.checked_sub(1) {
            left = others;
            let marker = self.peek()?;
            // Array and map lengths are at most the bytes left, so the sum cannot overflow.
            let bytes = match marker {
                Marker::FixArray(_) | Marker::Array16 | Marker::Array32 => {
                    left += self.array()?;
                    continue;
                }
                Marker::FixMap(_) | Marker::Map16 | Marker::Map32 => {
                    left += 2 * self.map()?;
                    continue;
                }
                Marker::FixStr(_) | Marker::Str8 | Marker::Str16 | Marker::Str32 => {
                    self.text()?;
                    continue;
                }
                Marker::Bin8 | Marker::Bin16 | Marker::Bin32 => {
                    self.bytes()?;
                    continue;
                }
                Marker::FixPos(_)
                | Marker::FixNeg(_)
                | Marker::Null
                | Marker::True
                | Marker::False => 0,
                Marker::U8 | Marker::I8 => 1,
                Marker::U16 | Marker::I16 | Marker::FixExt1 => 2,
                Marker::U32 | Marker::I32 | Marker::F32 => 4,
                Marker::U64 | Marker::I64 | Marker::F64 => 8,
                _ => return Err(unexpected(marker, "a value")),
            };
            self.take_slice(1 + bytes)?;
        }
        Ok(())
    }

    /// The names of a type.
    #[inline]
    fn names(&self, type_name: &str) -> Result<&'t TypeNames, Fault> {
        self.table.of_type(type_name).ok_or_else(|| not_in_catalogue(type_name))
    }

    fn visit_fields<V: Visitor<'de>>(
        &mut self,
        names: &'t TypeNames,
        visitor: V,
    ) -> Result<V::Value, Fault> {
        let left = self.map()?;
        let mut fields = Fields { decoder: self, names, left, field: None };
        let value = visitor.visit_map(&mut fields).map_err(|fault| fields.locate(fault))?;
        // A visitor that stops early leaves fields that are none of its own.
        while fields.left > 0 {
            fields.left -= 1;
            fields.decoder.number()?;
            fields.decoder.skip()?;
        }
        Ok(value)
    }

    fn visit_elements<V: Visitor<'de>>(&mut self, visitor: V) -> Result<V::Value, Fault> {
        let mut elements = Elements { left: self.array()?, decoder: self };
        let value = visitor.visit_seq(&mut elements)?;
        elements.finish(value)
    }
}

pub(super) enum Integer {
    Positive(u64),
    Negative(i64),
}

impl Integer {
    #[inline]
    fn of(value: i64) -> Self {
        u64::try_from(value).map_or(Self::Negative(value), Self::Positive)
    }
}

macro_rules! integers {
    ($($method:ident),*) => { $(
        #[inline]
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
            self.visit_integer(visitor)
        }
    )* };
}

impl<'de> Deserializer<'de> for &mut Decoder<'de, '_> {
    type Error = Fault;

    fn is_human_readable(&self) -> bool {
        false
    }

    integers!(
        deserialize_i8,
        deserialize_i16,
        deserialize_i32,
        deserialize_i64,
        deserialize_u8,
        deserialize_u16,
        deserialize_u32,
        deserialize_u64
    );

    fn deserialize_i128<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match self.wide()? {
            Some(bytes) => visitor.visit_i128(i128::from_be_bytes(bytes)),
            None => self.visit_integer(visitor),
        }
    }

    fn deserialize_u128<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match self.wide()? {
            Some(bytes) => visitor.visit_u128(u128::from_be_bytes(bytes)),
            None => self.visit_integer(visitor),
        }
    }

    fn deserialize_f32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match self.marker()? {
            Marker::F32 => visitor.visit_f32(f32::from_be_bytes(self.take()?)),
            // Was an `f64` when it was written; rounds as a cast does.
            Marker::F64 => visitor.visit_f64(f64::from_be_bytes(self.take()?)),
            marker => Err(unexpected(marker, "a floating-point number")),
        }
    }

    fn deserialize_f64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        self.deserialize_f32(visitor)
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match self.marker()? {
            Marker::True => visitor.visit_bool(true),
            Marker::False => visitor.visit_bool(false),
            marker => Err(unexpected(marker, "a boolean")),
        }
    }

    fn deserialize_char<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        self.deserialize_str(visitor)
    }

    #[inline]
    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        visitor.visit_borrowed_str(self.text()?)
    }

    #[inline]
    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        visitor.visit_borrowed_str(self.text()?)
    }

    fn deserialize_bytes<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        visitor.visit_borrowed_bytes(self.bytes()?)
    }

    fn deserialize_byte_buf<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        self.deserialize_bytes(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match self.peek()? {
            Marker::Null => {
                self.marker()?;
                visitor.visit_none()
            }
            Marker::FixExt1 => {
                let [_, kind, somes] = self.take()?;
                let nil = match usize::from(somes).checked_sub(1) {
                    Some(inner) if [kind] == SOMES.to_be_bytes() => NILS.get(inner),
                    _ => None,
                };
                let nil = nil.ok_or_else(|| Fault::new("a broken count of `Some`s"))?;
                self.enter()?;
                let mut inner = Decoder { table: self.table, input: nil, depth: self.depth };
                let value = visitor.visit_some(&mut inner)?;
                inner.finish()?;
                self.depth -= 1;
                Ok(value)
            }
            _ => {
                self.enter()?;
                let value = visitor.visit_some(&mut *self)?;
                self.depth -= 1;
                Ok(value)
            }
        }
    }

    fn deserialize_unit<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match self.marker()? {
            Marker::Null => visitor.visit_unit(),
            marker => Err(unexpected(marker, "nil")),
        }
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Fault> {
        self.deserialize_unit(visitor)
    }

    #[inline]
    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Fault> {
        self.enter()?;
        let value = visitor.visit_newtype_struct(&mut *self)?;
        self.depth -= 1;
        Ok(value)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        self.enter()?;
        let value = self.visit_elements(visitor)?;
        self.depth -= 1;
        Ok(value)
    }

    fn deserialize_tuple<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value, Fault> {
        self.deserialize_seq(visitor)
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: usize,
        visitor: V,
    ) -> Result<V::Value, Fault> {
        self.deserialize_seq(visitor)
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        self.enter()?;
        let mut elements = Elements { left: self.map()?, decoder: self };
        let value = visitor.visit_map(&mut elements)?;
        let value = elements.finish(value)?;
        self.depth -= 1;
        Ok(value)
    }

    #[inline]
    fn deserialize_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        self.enter()?;
        let names = self.names(name)?;
        let value = self.visit_fields(names, visitor)?;
        self.depth -= 1;
        Ok(value)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        self.enter()?;
        let has_content = matches!(self.peek()?, Marker::FixMap(_));
        if has_content && self.map()? != 1 {
            return Err(Fault::new("a variant is not a map of one entry"));
        }
        let number = self.number()?;
        let variant = self.names(name).ok().and_then(|names| names.name(number));
        let variant = variant.ok_or_else(|| {
            Fault::new(format_args!("the catalogue has no variant {number} of `{name}`"))
        })?;
        let value = visitor
            .visit_enum(OneVariant { decoder: self, name, variant, has_content })
            .map_err(|fault| fault.within(name, variant))?;
        self.depth -= 1;
        Ok(value)
    }

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Fault> {
        Err(Fault::fatal(NOT_SELF_DESCRIBING))
    }

    fn deserialize_identifier<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Fault> {
        Err(Fault::fatal(NOT_SELF_DESCRIBING))
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        self.skip()?;
        visitor.visit_unit()
    }
}

/// The content of an array, or of a map with keys of its own.
struct Elements<'d, 'de, 't> {
    decoder: &'d mut Decoder<'de, 't>,
    left: usize,
}

impl Elements<'_, '_, '_> {
    fn finish<T>(self, value: T) -> Result<T, Fault> {
        match self.left {
            0 => Ok(value),
            left => Err(Fault::new(format_args!("it has {left} elements too many"))),
        }
    }
}

impl<'de> SeqAccess<'de> for &mut Elements<'_, 'de, '_> {
    type Error = Fault;

    fn next_element_seed<S: DeserializeSeed<'de>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, Fault> {
        let Some(left) = self.left.checked_sub(1) else { return Ok(None) };
        self.left = left;
        seed.deserialize(&mut *self.decoder).map(Some)
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.left)
    }
}

impl<'de> MapAccess<'de> for &mut Elements<'_, 'de, '_> {
    type Error = Fault;

    fn next_key_seed<S: DeserializeSeed<'de>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, Fault> {
        self.next_element_seed(seed)
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, Fault> {
        seed.deserialize(&mut *self.decoder)
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.left)
    }
}

/// A map keyed by field numbers.
struct Fields<'d, 'de, 't> {
    decoder: &'d mut Decoder<'de, 't>,
    names: &'t TypeNames,
    left: usize,
    /// The number of the one whose value is being decoded.
    field: Option<u32>,
}

impl Fields<'_, '_, '_> {
    #[cold]
    fn locate(&self, fault: Fault) -> Fault {
        match self.field.and_then(|number| self.names.name(number)) {
            Some(field) => fault.within(self.names.type_name(), field),
            // Not in a field: one of the type's is missing, or comes twice.
            None => fault.within_type(self.names.type_name()),
        }
    }
}

impl<'de> MapAccess<'de> for &mut Fields<'_, 'de, '_> {
    type Error = Fault;

    #[inline]
    fn next_key_seed<S: DeserializeSeed<'de>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, Fault> {
        loop {
            let Some(left) = self.left.checked_sub(1) else { return Ok(None) };
            self.left = left;
            let number = self.decoder.number()?;
            let Some(name) = self.names.name(number) else {
                // Written by later code, which knows a field that this catalogue does not.
                self.decoder.skip()?;
                continue;
            };
            let key = seed.deserialize(StrDeserializer::new(name))?;
            self.field = Some(number);
            return Ok(Some(key));
        }
    }

    #[inline]
    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, Fault> {
        let value = seed.deserialize(&mut *self.decoder)?;
        self.field = None;
        Ok(value)
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.left)
    }
}

struct OneVariant<'d, 'de, 't> {
    decoder: &'d mut Decoder<'de, 't>,
    name: &'static str,
    variant: &'t str,
    has_content: bool,
}

impl OneVariant<'_, '_, '_> {
    fn content(&self, expected: bool) -> Result<(), Fault> {
        match (self.has_content, expected) {
            (true, true) | (false, false) => Ok(()),
            (false, true) => Err(Fault::new("the variant has no content")),
            (true, false) => Err(Fault::new("the variant has content")),
        }
    }
}

impl<'de> EnumAccess<'de> for OneVariant<'_, 'de, '_> {
    type Error = Fault;
    type Variant = Self;

    fn variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<(S::Value, Self), Fault> {
        Ok((seed.deserialize(StrDeserializer::new(self.variant))?, self))
    }
}

impl<'de> VariantAccess<'de> for OneVariant<'_, 'de, '_> {
    type Error = Fault;

    fn unit_variant(self) -> Result<(), Fault> {
        self.content(false)
    }

    fn newtype_variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<S::Value, Fault> {
        self.content(true)?;
        seed.deserialize(self.decoder)
    }

    fn tuple_variant<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value, Fault> {
        self.content(true)?;
        self.decoder.visit_elements(visitor)
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        self.content(true)?;
        let names = self.decoder.table.of_variant(self.name, self.variant);
        let names =
            names.ok_or_else(|| not_in_catalogue(&format!("{}::{}", self.name, self.variant)))?;
        self.decoder.visit_fields(names, visitor)
    }
}

#[cold]
fn not_in_catalogue(type_name: &str) -> Fault {
    Fault::new(format_args!("its type `{type_name}` is not in the catalogue"))
}

#[cold]
fn cut_off() -> Fault {
    Fault::new("it is cut off")
}

#[cold]
fn unexpected(marker: Marker, expected: &'static str) -> Fault {
    let found = match marker {
        Marker::FixPos(_)
        | Marker::FixNeg(_)
        | Marker::U8
        | Marker::U16
        | Marker::U32
        | Marker::U64
        | Marker::I8
        | Marker::I16
        | Marker::I32
        | Marker::I64 => Unexpected::Other("an integer"),
        Marker::FixMap(_) | Marker::Map16 | Marker::Map32 => Unexpected::Map,
        Marker::FixArray(_) | Marker::Array16 | Marker::Array32 => Unexpected::Seq,
        Marker::FixStr(_) | Marker::Str8 | Marker::Str16 | Marker::Str32 => {
            Unexpected::Other("a text")
        }
        Marker::Bin8 | Marker::Bin16 | Marker::Bin32 => Unexpected::Other("bytes"),
        Marker::F32 | Marker::F64 => Unexpected::Other("a floating-point number"),
        Marker::True | Marker::False => Unexpected::Other("a boolean"),
        Marker::Null => Unexpected::Other("nil"),
        _ => Unexpected::Other("bytes that no value begins with"),
    };
    Fault::invalid_type(found, &expected)
}

/// Encodings of nil with ever more `Some`s around it.
static NILS: [&[u8]; SOMES_MAX as usize] = [
    &[0xc0],
    &[0xd4, 1, 1],
    &[0xd4, 1, 2],
    &[0xd4, 1, 3],
    &[0xd4, 1, 4],
    &[0xd4, 1, 5],
    &[0xd4, 1, 6],
    &[0xd4, 1, 7],
];
