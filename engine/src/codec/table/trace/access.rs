//! What the parts of a type are fed with, and what is seen of them.

use std::mem::take;

use serde::de::value::BorrowedStrDeserializer;
use serde::de::{
    DeserializeSeed, EnumAccess, Error as _, MapAccess, SeqAccess, VariantAccess, Visitor,
};

use super::{Aim, Content, Fault, SHIFTS, Samples, TypeId, ValueShape};

/// Elements of sequences and tuples, keys and values of maps.
pub(super) struct Elements<'s, 't> {
    samples: &'s mut Samples<'t>,
    left: usize,
    /// What each of them was.
    shapes: &'s mut Vec<ValueShape>,
}

impl<'s, 't> Elements<'s, 't> {
    pub(super) fn new(
        samples: &'s mut Samples<'t>,
        left: usize,
        shapes: &'s mut Vec<ValueShape>,
    ) -> Self {
        Self { samples, left, shapes }
    }

    fn feed<'de, S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, Fault> {
        self.samples.found = ValueShape::Unseen;
        let fed = seed.deserialize(&mut *self.samples);
        self.shapes.push(take(&mut self.samples.found));
        fed
    }
}

impl<'de> SeqAccess<'de> for Elements<'_, '_> {
    type Error = Fault;

    fn next_element_seed<S: DeserializeSeed<'de>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, Fault> {
        let Some(left) = self.left.checked_sub(1) else { return Ok(None) };
        self.left = left;
        self.feed(seed).map(Some)
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
        self.feed(seed)
    }
}

/// The fields of a struct or of a variant.
pub(super) struct Fields<'s, 't> {
    samples: &'s mut Samples<'t>,
    type_name: &'static str,
    names: &'static [&'static str],
    /// The next one.
    at: usize,
    /// The one that is left out.
    without: Option<usize>,
    /// What each of them was.
    shapes: Vec<ValueShape>,
    /// One of them could not be fed.
    inner_failed: bool,
}

impl<'s, 't> Fields<'s, 't> {
    pub(super) fn new(
        samples: &'s mut Samples<'t>,
        type_name: &'static str,
        names: &'static [&'static str],
        without: Option<usize>,
    ) -> Self {
        let shapes = vec![ValueShape::Unseen; names.len()];
        Self { samples, type_name, names, at: 0, without, shapes, inner_failed: false }
    }

    /// What each of them was, and whether one of them could not be fed.
    pub(super) fn finish(self) -> (Vec<ValueShape>, bool) {
        (self.shapes, self.inner_failed)
    }
}

impl<'de> MapAccess<'de> for &mut Fields<'_, '_> {
    type Error = Fault;

    fn next_key_seed<S: DeserializeSeed<'de>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, Fault> {
        if self.without == Some(self.at) {
            self.at += 1;
        }
        let Some(field) = self.names.get(self.at) else { return Ok(None) };
        seed.deserialize(BorrowedStrDeserializer::new(field)).map(Some)
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, Fault> {
        let at = self.at;
        let field = self.names.get(at).ok_or_else(|| Fault::custom("no field"))?;
        self.at += 1;
        let key = (self.type_name, *field);
        let shift = self.samples.trace.shifts.get(&key).copied().unwrap_or(0);
        self.samples.shift += shift;
        self.samples.found = ValueShape::Unseen;
        let value = seed.deserialize(&mut *self.samples);
        self.shapes[at] = take(&mut self.samples.found);
        self.samples.shift -= shift;
        value.map_err(|fault| {
            self.inner_failed = true;
            let fault = fault.within(self.type_name, field);
            let is_known = fault.is_final() || fault.is_reacted_to() || shift == SHIFTS;
            if is_known || self.samples.aim == Aim::Missing {
                return fault;
            }
            self.samples.trace.shifts.insert(key, shift + 1);
            fault.reacted_to()
        })
    }
}

/// An enum, as one of its variants.
pub(super) struct OneVariant<'s, 't> {
    pub(super) samples: &'s mut Samples<'t>,
    /// The enum.
    pub(super) id: TypeId,
    pub(super) variant: &'static str,
}

impl OneVariant<'_, '_> {
    fn within(&self) -> impl Fn(Fault) -> Fault + use<> {
        let (name, variant) = (self.id.1, self.variant);
        move |fault| fault.within(name, variant)
    }
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
        self.samples.content = Content::Unit;
        Ok(())
    }

    fn newtype_variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<S::Value, Fault> {
        let within = self.within();
        self.samples.found = ValueShape::Unseen;
        let fed = seed.deserialize(&mut *self.samples);
        self.samples.content = Content::Newtype(take(&mut self.samples.found));
        fed.map_err(within)
    }

    fn tuple_variant<V: Visitor<'de>>(self, left: usize, visitor: V) -> Result<V::Value, Fault> {
        let within = self.within();
        let mut shapes = Vec::new();
        let fed = visitor.visit_seq(Elements::new(self.samples, left, &mut shapes));
        shapes.resize(left, ValueShape::Unseen);
        self.samples.content = Content::Tuple(shapes);
        fed.map_err(within)
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        let within = self.within();
        self.samples.assign(&format!("{}::{}", self.id.1, self.variant), fields);
        let (fed, shapes) =
            self.samples.fields(self.id, self.variant, fields, |fields| visitor.visit_map(fields));
        self.samples.content = Content::Struct(shapes);
        fed.map_err(within)
    }
}
