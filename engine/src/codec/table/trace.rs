//! [`Trace`]: finds every name a type can be stored with, without having a value of it.
//!
//! The type's own `Deserialize` is fed made-up data; on the way it tells the names of its structs,
//! fields, enums and variants. An enum shows one variant at a time, so a type is fed again until no
//! variant is left that was not visited. Where a type contains itself, the inner ones get as little as
//! possible: `None` and empty collections.
//!
//! A `Deserialize` may refuse made-up data (a text that must parse, a number in a range). Then other
//! samples are tried; a type that refuses them all is reported.

use std::any::type_name;
use std::collections::BTreeMap;

use serde::de::value::BorrowedStrDeserializer;
use serde::de::{
    DeserializeOwned, DeserializeSeed, Deserializer, EnumAccess, Error as _, MapAccess, SeqAccess,
    VariantAccess, Visitor,
};

use crate::codec::value::{Fault, NOT_SELF_DESCRIBING};
use crate::codec::{Error, FieldTable, Result, VALUE_DEPTH_MAX};

/// Collects the names of types into a [`FieldTable`].
#[derive(Debug, Default)]
pub struct Trace {
    table: FieldTable,
    /// By the type of the visitor: names alone are not unique.
    enums: BTreeMap<&'static str, Variants>,
    /// Which sample a leaf gets next, by the type of its visitor, after it refused earlier ones.
    samples: BTreeMap<&'static str, usize>,
    /// How far the samples below a field are shifted, by type and field: the leaves took earlier ones,
    /// and what is made of them refused.
    shifts: BTreeMap<(&'static str, &'static str), usize>,
}

#[derive(Debug)]
struct Variants {
    visits: Vec<Visit>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Visit {
    Never,
    Begun,
    /// With how many of the enum's variants were done before. The first one done contains no other
    /// value of the enum, so choosing it ends every recursion.
    Done(usize),
}

impl Trace {
    /// Names get the numbers they have in `stored`; new ones are appended.
    #[must_use]
    pub fn onto(stored: FieldTable) -> Self {
        Self { table: stored, ..Self::default() }
    }

    /// Adds every name that values of type `T` can be stored with.
    ///
    /// # Errors
    /// [`Error::NotStorable`] if the type needs a self-describing format, or refuses every sample.
    pub fn add<T: DeserializeOwned>(&mut self) -> Result<()> {
        let mut progress = self.progress();
        let mut shift = 0;
        loop {
            let mut samples = Samples { trace: self, shift, stack: Vec::new(), nested: 0 };
            let fault = T::deserialize(&mut samples).err();
            let before = std::mem::replace(&mut progress, self.progress());
            match fault {
                Some(fault) if fault.is_final() || (progress == before && shift == SHIFTS) => {
                    let (at, problem) = fault.into_parts();
                    return Err(Error::NotStorable { value_type: type_name::<T>(), at, problem });
                }
                None if progress == before => return Ok(()),
                Some(_) if progress == before => shift += 1,
                _ => shift = 0,
            }
        }
    }

    /// The table with all names.
    #[must_use]
    pub fn finish(self) -> FieldTable {
        self.table
    }

    /// Grows with every variant done and every sample refused. Both are bounded, so a round that adds
    /// none comes, and ends the search.
    fn progress(&self) -> usize {
        let visits = self.enums.values().flat_map(|variants| &variants.visits);
        visits.filter(|visit| matches!(visit, Visit::Done(_))).count()
            + self.samples.values().sum::<usize>()
            + self.shifts.values().sum::<usize>()
    }
}

/// Feeds one round of made-up data.
struct Samples<'t> {
    trace: &'t mut Trace,
    /// Begin with later samples.
    shift: usize,
    /// The visitors of the types that are being fed, outermost first.
    stack: Vec<&'static str>,
    /// How many of those are inside a type of the same kind.
    nested: usize,
}

impl Samples<'_> {
    /// Feeds a type that has a name and may contain itself.
    fn named<V, T>(
        &mut self,
        feed: impl FnOnce(&mut Self) -> Result<T, Fault>,
    ) -> Result<T, Fault> {
        if self.stack.len() == VALUE_DEPTH_MAX {
            return Err(Fault::fatal("it nests without end"));
        }
        let nested = usize::from(self.stack.contains(&type_name::<V>()));
        self.nested += nested;
        self.stack.push(type_name::<V>());
        let fed = feed(self);
        self.stack.pop();
        self.nested -= nested;
        fed
    }

    /// One of the samples for a leaf; if it is refused, the next round gives another.
    fn leaf<V, S: Copy, T>(
        &mut self,
        samples: &[S],
        visit: impl FnOnce(S) -> Result<T, Fault>,
    ) -> Result<T, Fault> {
        let refused = self.trace.samples.get(type_name::<V>()).copied().unwrap_or(0);
        visit(samples[(refused + self.shift) % samples.len()]).map_err(|fault| {
            if refused + 1 == samples.len() {
                return fault;
            }
            self.trace.samples.insert(type_name::<V>(), refused + 1);
            fault.reacted_to()
        })
    }

    /// How many elements a collection gets.
    fn elements(&self) -> usize {
        usize::from(self.nested == 0)
    }

    fn assign(&mut self, type_name: &str, names: &'static [&'static str]) {
        self.trace.table.assign(type_name, names.iter().copied());
    }
}

macro_rules! number {
    ($($method:ident $visit:ident $type:ty),*) => { $(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
            self.leaf::<V, _, _>(&[1, 0, 2, 12, 100], |sample: u8| {
                // Every number type holds 0 to 100.
                visitor.$visit(<$type>::try_from(sample).unwrap_or_default())
            })
        }
    )* };
}

impl<'de> Deserializer<'de> for &mut Samples<'_> {
    type Error = Fault;

    fn is_human_readable(&self) -> bool {
        false
    }

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Fault> {
        Err(Fault::fatal(NOT_SELF_DESCRIBING))
    }

    number!(
        deserialize_i8 visit_i8 i8, deserialize_i16 visit_i16 i16, deserialize_i32 visit_i32 i32,
        deserialize_i64 visit_i64 i64, deserialize_i128 visit_i128 i128,
        deserialize_u8 visit_u8 u8, deserialize_u16 visit_u16 u16, deserialize_u32 visit_u32 u32,
        deserialize_u64 visit_u64 u64, deserialize_u128 visit_u128 u128,
        deserialize_f32 visit_f32 f32, deserialize_f64 visit_f64 f64
    );

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        self.leaf::<V, _, _>(&[false, true], |sample| visitor.visit_bool(sample))
    }

    fn deserialize_char<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        self.leaf::<V, _, _>(&['a', '0'], |sample| visitor.visit_char(sample))
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        self.leaf::<V, _, _>(TEXTS, |sample| visitor.visit_borrowed_str(sample))
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        self.deserialize_str(visitor)
    }

    fn deserialize_bytes<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        self.leaf::<V, _, _>(BYTE_LENGTHS, |length| visitor.visit_borrowed_bytes(&ZEROS[..length]))
    }

    fn deserialize_byte_buf<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        self.deserialize_bytes(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        if self.nested > 0 {
            return visitor.visit_none();
        }
        self.named::<V, _>(|this| visitor.visit_some(this))
    }

    fn deserialize_unit<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        visitor.visit_unit()
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Fault> {
        visitor.visit_unit()
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Fault> {
        self.named::<V, _>(|this| visitor.visit_newtype_struct(this))
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        let left = self.elements();
        self.named::<V, _>(|this| visitor.visit_seq(Elements { samples: this, left }))
    }

    fn deserialize_tuple<V: Visitor<'de>>(
        self,
        left: usize,
        visitor: V,
    ) -> Result<V::Value, Fault> {
        self.named::<V, _>(|this| visitor.visit_seq(Elements { samples: this, left }))
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        left: usize,
        visitor: V,
    ) -> Result<V::Value, Fault> {
        self.deserialize_tuple(left, visitor)
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        let left = self.elements();
        self.named::<V, _>(|this| visitor.visit_map(Elements { samples: this, left }))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        self.assign(name, fields);
        self.named::<V, _>(|this| visitor.visit_map(Fields { samples: this, left: fields, name }))
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        self.assign(name, variants);
        let key = type_name::<V>();
        let visits = &mut self
            .trace
            .enums
            .entry(key)
            .or_insert_with(|| Variants { visits: vec![Visit::Never; variants.len()] })
            .visits;
        // One that was never visited; else one that is known to end; else any, round about, which
        // leads on to other enums that still have an end.
        let at = visits
            .iter()
            .position(|&visit| visit == Visit::Never)
            .or_else(|| visits.iter().position(|&visit| visit == Visit::Done(0)))
            .or_else(|| self.stack.len().checked_rem(variants.len()));
        let Some(at) = at else {
            return Err(Fault::fatal("an enum without variants has no values"));
        };
        if let Some(visit @ Visit::Never) = visits.get_mut(at) {
            *visit = Visit::Begun;
        }
        let value = self.named::<V, _>(|this| {
            visitor.visit_enum(OneVariant { samples: this, name, variant: variants[at] })
        });
        if let Some(Variants { visits }) = self.trace.enums.get_mut(key)
            && visits[at] == Visit::Begun
        {
            let done = visits.iter().filter(|visit| matches!(visit, Visit::Done(_))).count();
            // One that failed is tried again, with other samples.
            visits[at] = if value.is_ok() { Visit::Done(done) } else { Visit::Never };
        }
        value
    }

    fn deserialize_identifier<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Fault> {
        Err(Fault::fatal(NOT_SELF_DESCRIBING))
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        visitor.visit_unit()
    }
}

struct Elements<'s, 't> {
    samples: &'s mut Samples<'t>,
    left: usize,
}

impl<'de> SeqAccess<'de> for Elements<'_, '_> {
    type Error = Fault;

    fn next_element_seed<S: DeserializeSeed<'de>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, Fault> {
        let Some(left) = self.left.checked_sub(1) else { return Ok(None) };
        self.left = left;
        seed.deserialize(&mut *self.samples).map(Some)
    }
}

impl<'de> MapAccess<'de> for Elements<'_, '_> {
    type Error = Fault;

    fn next_key_seed<S: DeserializeSeed<'de>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, Fault> {
        self.next_element_seed(seed)
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, Fault> {
        seed.deserialize(&mut *self.samples)
    }
}

struct Fields<'s, 't> {
    samples: &'s mut Samples<'t>,
    /// Those still to come.
    left: &'static [&'static str],
    name: &'static str,
}

impl<'de> MapAccess<'de> for Fields<'_, '_> {
    type Error = Fault;

    fn next_key_seed<S: DeserializeSeed<'de>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, Fault> {
        let Some(field) = self.left.first() else { return Ok(None) };
        seed.deserialize(BorrowedStrDeserializer::new(field)).map(Some)
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, Fault> {
        let (field, rest) = self.left.split_first().ok_or_else(|| Fault::custom("no field"))?;
        self.left = rest;
        let key = (self.name, *field);
        let shift = self.samples.trace.shifts.get(&key).copied().unwrap_or(0);
        self.samples.shift += shift;
        let value = seed.deserialize(&mut *self.samples);
        self.samples.shift -= shift;
        value.map_err(|fault| {
            let fault = fault.within(self.name, field);
            if fault.is_final() || fault.is_reacted_to() || shift == SHIFTS {
                return fault;
            }
            self.samples.trace.shifts.insert(key, shift + 1);
            fault.reacted_to()
        })
    }
}

struct OneVariant<'s, 't> {
    samples: &'s mut Samples<'t>,
    name: &'static str,
    variant: &'static str,
}

impl<'de> EnumAccess<'de> for OneVariant<'_, '_> {
    type Error = Fault;
    type Variant = Self;

    fn variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<(S::Value, Self), Fault> {
        Ok((seed.deserialize(BorrowedStrDeserializer::new(self.variant))?, self))
    }
}

impl<'de> VariantAccess<'de> for OneVariant<'_, '_> {
    type Error = Fault;

    fn unit_variant(self) -> Result<(), Fault> {
        Ok(())
    }

    fn newtype_variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<S::Value, Fault> {
        seed.deserialize(&mut *self.samples).map_err(|fault| fault.within(self.name, self.variant))
    }

    fn tuple_variant<V: Visitor<'de>>(self, left: usize, visitor: V) -> Result<V::Value, Fault> {
        visitor
            .visit_seq(Elements { samples: self.samples, left })
            .map_err(|fault| fault.within(self.name, self.variant))
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        self.samples.assign(&format!("{}::{}", self.name, self.variant), fields);
        visitor
            .visit_map(Fields { samples: self.samples, left: fields, name: self.variant })
            .map_err(|fault| fault.within(self.name, self.variant))
    }
}

/// Texts that the usual types parse from.
const TEXTS: &[&str] = &[
    "",
    "a",
    "1",
    "2000-01-01T00:00:00Z",
    "2000-01-01T00:00:00",
    "2000-01-01",
    "00:00:00",
    "00000000-0000-0000-0000-000000000000",
    "127.0.0.1",
    "127.0.0.1:80",
    "http://a.b/",
    "1.0.0",
    "true",
];

/// Lengths of the usual fixed-size byte strings; 16 is a UUID.
const BYTE_LENGTHS: &[usize] = &[16, 0, 1, 4, 8, 12, 20, 24, 32, 48, 64];

static ZEROS: [u8; 64] = [0; 64];

/// How often all samples are shifted before a type counts as refusing them.
const SHIFTS: usize = 16;
