//! The serializer.

use rmp::encode as mp;
use serde::Serialize;
use serde::ser::{
    SerializeMap, SerializeSeq, SerializeStruct, SerializeStructVariant, SerializeTuple,
    SerializeTupleStruct, SerializeTupleVariant, Serializer,
};

use super::{Fault, SOMES, SOMES_MAX};
use crate::codec::table::TypeNames;
use crate::codec::{FieldTable, VALUE_BYTES_MAX, VALUE_DEPTH_MAX};

pub(super) struct Encoder<'a> {
    table: &'a FieldTable,
    out: &'a mut Vec<u8>,
    start: usize,
    depth: usize,
}

impl<'a> Encoder<'a> {
    pub(super) fn new(table: &'a FieldTable, out: &'a mut Vec<u8>) -> Self {
        let start = out.len();
        Self { table, out, start, depth: 0 }
    }

    #[inline]
    fn enter(&mut self) -> Result<(), Fault> {
        if self.depth == VALUE_DEPTH_MAX {
            return Err(Fault::new(format_args!("it nests deeper than {VALUE_DEPTH_MAX}")));
        }
        self.depth += 1;
        Ok(())
    }

    /// Before each part: a value that is too large ends here, and not when memory does.
    #[inline]
    fn check_size(&self, more: usize) -> Result<(), Fault> {
        let bytes = self.out.len() - self.start + more;
        if bytes <= VALUE_BYTES_MAX { Ok(()) } else { Err(Fault::too_large(bytes)) }
    }

    #[inline]
    fn number(&mut self, number: u32) {
        match u8::try_from(number) {
            // Nearly all are below 128, which is one byte.
            Ok(byte @ 0..=127) => self.out.push(byte),
            _ => written(mp::write_uint(self.out, u64::from(number))),
        }
    }

    #[inline]
    fn array(&mut self, len: usize) -> Result<(), Fault> {
        let len = u32::try_from(len).map_err(|_| Fault::new("it has more than 2^32 elements"))?;
        written(mp::write_array_len(self.out, len));
        Ok(())
    }

    #[inline]
    fn map(&mut self, len: usize) -> Result<(), Fault> {
        let len = u32::try_from(len).map_err(|_| Fault::new("it has more than 2^32 elements"))?;
        written(mp::write_map_len(self.out, len));
        Ok(())
    }

    /// Begins an array or a map. Without a known length it gets the longest header, which is filled
    /// in at the end.
    fn counted(
        &mut self,
        len: Option<usize>,
        marker: rmp::Marker,
        header: impl FnOnce(&mut Self, usize) -> Result<(), Fault>,
    ) -> Result<Option<usize>, Fault> {
        if let Some(len) = len {
            header(self, len)?;
            return Ok(None);
        }
        self.out.push(marker.to_u8());
        self.out.extend_from_slice(&[0; 4]);
        Ok(Some(self.out.len() - 4))
    }

    /// The names of a type.
    #[inline]
    fn names(&self, type_name: &str) -> Result<&'a TypeNames, Fault> {
        self.table.of_type(type_name).ok_or_else(|| not_found(type_name))
    }

    /// Begins a variant that has content: a map of one entry.
    fn variant(&mut self, name: &str, index: u32, variant: &str) -> Result<(), Fault> {
        let number = number(self.names(name)?, variant, index)?;
        self.enter()?;
        self.map(1)?;
        self.number(number);
        Ok(())
    }
}

/// The number of a name of a type.
#[inline]
fn number(names: &TypeNames, name: &str, hint: u32) -> Result<u32, Fault> {
    names.number(name, hint).ok_or_else(|| {
        Fault::new(format_args!(
            "`{}.{name}` was not found at launch: a field that is written must also be read",
            names.type_name()
        ))
    })
}

/// Writing to a `Vec` cannot fail.
#[inline]
fn written<T, E: std::fmt::Debug>(result: Result<T, E>) {
    result.expect("a Vec takes all bytes");
}

macro_rules! integer {
    ($($method:ident $type:ty, $write:ident $wide:ty);*) => { $(
        #[inline]
        fn $method(self, value: $type) -> Result<(), Fault> {
            written(mp::$write(self.out, <$wide>::from(value)));
            Ok(())
        }
    )* };
}

impl<'e, 'a> Serializer for &'e mut Encoder<'a> {
    type Ok = ();
    type Error = Fault;
    type SerializeSeq = Sequence<'e, 'a>;
    type SerializeTuple = Sequence<'e, 'a>;
    type SerializeTupleStruct = Sequence<'e, 'a>;
    type SerializeTupleVariant = Sequence<'e, 'a>;
    type SerializeMap = Sequence<'e, 'a>;
    type SerializeStruct = Fields<'e, 'a>;
    type SerializeStructVariant = Fields<'e, 'a>;

    fn is_human_readable(&self) -> bool {
        false
    }

    integer!(
        serialize_i8 i8, write_sint i64; serialize_i16 i16, write_sint i64;
        serialize_i32 i32, write_sint i64; serialize_i64 i64, write_sint i64;
        serialize_u8 u8, write_uint u64; serialize_u16 u16, write_uint u64;
        serialize_u32 u32, write_uint u64; serialize_u64 u64, write_uint u64;
        serialize_f32 f32, write_f32 f32; serialize_f64 f64, write_f64 f64
    );

    fn serialize_i128(self, value: i128) -> Result<(), Fault> {
        self.serialize_bytes(&value.to_be_bytes())
    }

    fn serialize_u128(self, value: u128) -> Result<(), Fault> {
        self.serialize_bytes(&value.to_be_bytes())
    }

    fn serialize_bool(self, value: bool) -> Result<(), Fault> {
        written(mp::write_bool(self.out, value));
        Ok(())
    }

    fn serialize_char(self, value: char) -> Result<(), Fault> {
        self.serialize_str(value.encode_utf8(&mut [0; 4]))
    }

    #[inline]
    fn serialize_str(self, value: &str) -> Result<(), Fault> {
        self.check_size(value.len())?;
        written(mp::write_str(self.out, value));
        Ok(())
    }

    fn serialize_bytes(self, value: &[u8]) -> Result<(), Fault> {
        self.check_size(value.len())?;
        written(mp::write_bin(self.out, value));
        Ok(())
    }

    fn serialize_none(self) -> Result<(), Fault> {
        self.serialize_unit()
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<(), Fault> {
        let at = self.out.len();
        self.enter()?;
        value.serialize(&mut *self)?;
        self.depth -= 1;
        // What looks like `None` gets a count of the `Some`s around it.
        let nil = rmp::Marker::Null.to_u8();
        let extension = rmp::Marker::FixExt1.to_u8();
        match self.out.get_mut(at..) {
            Some([byte]) if *byte == nil => {
                self.out.truncate(at);
                self.out.extend_from_slice(&[extension, SOMES.to_be_bytes()[0], 1]);
            }
            Some([marker, _, somes]) if *marker == extension => {
                if *somes == SOMES_MAX {
                    return Err(Fault::new("too many `Some`s around `None`"));
                }
                *somes += 1;
            }
            _ => {}
        }
        Ok(())
    }

    fn serialize_unit(self) -> Result<(), Fault> {
        self.out.push(rmp::Marker::Null.to_u8());
        Ok(())
    }

    fn serialize_unit_struct(self, _: &'static str) -> Result<(), Fault> {
        self.serialize_unit()
    }

    fn serialize_unit_variant(
        self,
        name: &'static str,
        index: u32,
        variant: &'static str,
    ) -> Result<(), Fault> {
        let number = number(self.names(name)?, variant, index)?;
        self.number(number);
        Ok(())
    }

    #[inline]
    fn serialize_newtype_struct<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        value: &T,
    ) -> Result<(), Fault> {
        self.enter()?;
        value.serialize(&mut *self)?;
        self.depth -= 1;
        Ok(())
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        name: &'static str,
        index: u32,
        variant: &'static str,
        value: &T,
    ) -> Result<(), Fault> {
        self.variant(name, index, variant)?;
        value.serialize(&mut *self).map_err(|fault| fault.within(name, variant))?;
        self.depth -= 1;
        Ok(())
    }

    fn serialize_seq(self, len: Option<usize>) -> Result<Sequence<'e, 'a>, Fault> {
        self.enter()?;
        let fill_in = self.counted(len, rmp::Marker::Array32, Encoder::array)?;
        Ok(Sequence { encoder: self, expected: len, count: 0, fill_in })
    }

    fn serialize_tuple(self, len: usize) -> Result<Sequence<'e, 'a>, Fault> {
        self.serialize_seq(Some(len))
    }

    fn serialize_tuple_struct(
        self,
        _: &'static str,
        len: usize,
    ) -> Result<Sequence<'e, 'a>, Fault> {
        self.serialize_seq(Some(len))
    }

    fn serialize_tuple_variant(
        self,
        name: &'static str,
        index: u32,
        variant: &'static str,
        len: usize,
    ) -> Result<Sequence<'e, 'a>, Fault> {
        self.variant(name, index, variant)?;
        self.array(len)?;
        Ok(Sequence { encoder: self, expected: Some(len), count: 0, fill_in: None })
    }

    fn serialize_map(self, len: Option<usize>) -> Result<Sequence<'e, 'a>, Fault> {
        self.enter()?;
        let fill_in = self.counted(len, rmp::Marker::Map32, Encoder::map)?;
        Ok(Sequence { encoder: self, expected: len, count: 0, fill_in })
    }

    #[inline]
    fn serialize_struct(self, name: &'static str, len: usize) -> Result<Fields<'e, 'a>, Fault> {
        let names = self.names(name)?;
        self.enter()?;
        self.map(len)?;
        Ok(Fields { encoder: self, names, next: 0, left: len })
    }

    fn serialize_struct_variant(
        self,
        name: &'static str,
        index: u32,
        variant: &'static str,
        len: usize,
    ) -> Result<Fields<'e, 'a>, Fault> {
        self.variant(name, index, variant)?;
        let names = self.table.of_variant(name, variant);
        let names = names.ok_or_else(|| not_found(&format!("{name}::{variant}")))?;
        self.map(len)?;
        Ok(Fields { encoder: self, names, next: 0, left: len })
    }
}

/// An array or a map with keys of its own.
pub(super) struct Sequence<'e, 'a> {
    encoder: &'e mut Encoder<'a>,
    expected: Option<usize>,
    count: usize,
    /// Where the number of elements is still to be written, big-endian.
    fill_in: Option<usize>,
}

impl Sequence<'_, '_> {
    fn element<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Fault> {
        self.count += 1;
        self.encoder.check_size(0)?;
        value.serialize(&mut *self.encoder)
    }

    fn finish(self) -> Result<(), Fault> {
        self.encoder.depth -= 1;
        if self.expected.is_some_and(|expected| expected != self.count) {
            return Err(Fault::new("its `Serialize` announced another number of elements"));
        }
        if let Some(at) = self.fill_in {
            let count = u32::try_from(self.count)
                .map_err(|_| Fault::new("it has more than 2^32 elements"))?;
            self.encoder.out[at..at + 4].copy_from_slice(&count.to_be_bytes());
        }
        Ok(())
    }
}

macro_rules! sequence {
    ($($trait:ident $method:ident),*) => { $(
        impl $trait for Sequence<'_, '_> {
            type Ok = ();
            type Error = Fault;

            fn $method<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Fault> {
                self.element(value)
            }

            fn end(self) -> Result<(), Fault> {
                self.finish()
            }
        }
    )* };
}

sequence!(
    SerializeSeq serialize_element, SerializeTuple serialize_element,
    SerializeTupleStruct serialize_field, SerializeTupleVariant serialize_field
);

impl SerializeMap for Sequence<'_, '_> {
    type Ok = ();
    type Error = Fault;

    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<(), Fault> {
        self.element(key)
    }

    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Fault> {
        value.serialize(&mut *self.encoder)
    }

    fn end(self) -> Result<(), Fault> {
        self.finish()
    }
}

/// A map keyed by field numbers.
pub(super) struct Fields<'e, 'a> {
    encoder: &'e mut Encoder<'a>,
    names: &'a TypeNames,
    /// The number that the next field has if the order is that of the table.
    next: u32,
    left: usize,
}

impl Fields<'_, '_> {
    #[inline]
    fn field<T: Serialize + ?Sized>(&mut self, name: &str, value: &T) -> Result<(), Fault> {
        let number = number(self.names, name, self.next)?;
        self.next = number + 1;
        self.left = self
            .left
            .checked_sub(1)
            .ok_or_else(|| Fault::new("its `Serialize` announced fewer fields"))?;
        self.encoder.number(number);
        value
            .serialize(&mut *self.encoder)
            .map_err(|fault| fault.within(self.names.type_name(), name))
    }

    #[inline]
    fn finish(self) -> Result<(), Fault> {
        self.encoder.depth -= 1;
        if self.left == 0 {
            Ok(())
        } else {
            Err(Fault::new("its `Serialize` announced more fields"))
        }
    }
}

#[cold]
fn not_found(type_name: &str) -> Fault {
    Fault::new(format_args!("its type `{type_name}` was not found at launch"))
}

macro_rules! fields {
    ($($trait:ident),*) => { $(
        impl $trait for Fields<'_, '_> {
            type Ok = ();
            type Error = Fault;

            #[inline]
            fn serialize_field<T: Serialize + ?Sized>(
                &mut self,
                name: &'static str,
                value: &T,
            ) -> Result<(), Fault> {
                self.field(name, value)
            }

            #[inline]
            fn end(self) -> Result<(), Fault> {
                self.finish()
            }
        }
    )* };
}

fields!(SerializeStruct, SerializeStructVariant);
