//! [`Trace`]: finds every name a type can be stored with, and what its values are made of, without having
//! a value of it.
//!
//! The type's own `Deserialize` is fed made-up data; on the way it tells the names of its structs,
//! fields, enums and variants, and what each part is read as. An enum shows one variant at a time, so a
//! type is fed again until no variant is left in which something was not visited. Where a type contains
//! itself, the inner ones get as little as possible: `None` and empty collections.
//!
//! Whether a field may be missing is found by leaving it out, in rounds of their own, whose failures are
//! the answers.
//!
//! A `Deserialize` may refuse made-up data (a text that must parse, a number in a range). Then other
//! samples are tried; a type that refuses them all is reported.

use std::any::type_name;
use std::collections::BTreeMap;
use std::mem::take;

use serde::de::{DeserializeOwned, Deserializer, Visitor};

use super::shape::{
    Content, FieldShape, Reader, TypeShape, ValueKind, ValueShape, VariantShape, join_fields,
    short_name,
};
use crate::codec::value::{Fault, NOT_SELF_DESCRIBING};
use crate::codec::{Error, FieldTable, Result, VALUE_DEPTH_MAX};

mod access;

use access::{Elements, Fields, OneVariant};

/// Collects the names of types into a [`FieldTable`], and their shapes.
#[derive(Debug, Default)]
pub struct Trace {
    table: FieldTable,
    /// What was seen of structs and enums so far.
    types: Vec<TypeShape>,
    /// Their places in `types`.
    places: BTreeMap<TypeId, u32>,
    enums: BTreeMap<TypeId, Vec<Visit>>,
    /// Which fields may be missing; by type, and by variant (or the empty text).
    missing: BTreeMap<(TypeId, &'static str), Vec<Missing>>,
    /// Which sample a leaf gets next, by the type of its visitor, after it refused earlier ones.
    samples: BTreeMap<&'static str, usize>,
    /// How far the samples below a field are shifted, by type and field: the leaves took earlier ones,
    /// and what is made of them refused.
    shifts: BTreeMap<(&'static str, &'static str), usize>,
}

/// A type by its visitor and its serde name: names alone are not unique.
type TypeId = (&'static str, &'static str);

/// What was done with a variant.
#[derive(Clone, Copy, Debug, Default)]
struct Visit {
    /// It is being fed, further out.
    begun: bool,
    /// It was fed, when so many of the enum's variants had been. The first one done contains no other
    /// value of the enum, so choosing it ends every recursion.
    done: Option<usize>,
    /// By [`Aim`]: it was fed, and nothing inside was left to visit.
    whole: [bool; 2],
}

/// Whether a type can do without a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Missing {
    Untried,
    /// It is being left out, further out.
    Trying,
    Allowed,
    Refused,
}

/// What a round is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Aim {
    /// To find names and shapes.
    Names,
    /// To find out which fields may be missing.
    Missing,
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
        self.names_of::<T>().map(drop)
    }

    /// The same; gives back what values of the type are made of.
    ///
    /// # Errors
    /// As [`Trace::add`].
    pub fn kind_of<T: DeserializeOwned>(&mut self) -> Result<ValueKind> {
        let shape = self.names_of::<T>()?;
        self.try_without::<T>();
        let (name, reader) = (short_name::<T>(), Reader::of::<T>());
        let mut kind = ValueKind { name, reader, ..ValueKind::default() };
        // Types get places in the order they are met, whatever else was traced before.
        let mut met = Met::default();
        kind.shape = shape.with_places(&mut |at| met.place(at));
        while let Some(&at) = met.0.get(kind.types.len()) {
            let found = &self.types[usize::try_from(at).expect("it is a place in memory")];
            kind.types.push(found.with_places(&mut |at| met.place(at)));
        }
        Ok(kind)
    }

    fn names_of<T: DeserializeOwned>(&mut self) -> Result<ValueShape> {
        let mut progress = self.progress();
        let mut shift = 0;
        let mut shape = ValueShape::Unseen;
        loop {
            let mut samples = Samples::new(self, Aim::Names, shift);
            let fault = T::deserialize(&mut samples).err();
            shape = shape.join(take(&mut samples.found));
            let before = std::mem::replace(&mut progress, self.progress());
            match fault {
                Some(fault) if fault.is_final() || (progress == before && shift == SHIFTS) => {
                    let (at, problem) = fault.into_parts();
                    return Err(Error::NotStorable { value_type: type_name::<T>(), at, problem });
                }
                None if progress == before => return Ok(shape),
                Some(_) if progress == before => shift += 1,
                _ => shift = 0,
            }
        }
    }

    /// Leaves out each field once. A field that cannot be left out fails the round, and what is behind it
    /// is reached in a later one.
    fn try_without<T: DeserializeOwned>(&mut self) {
        let mut progress = self.progress();
        loop {
            let mut samples = Samples::new(self, Aim::Missing, 0);
            drop(T::deserialize(&mut samples));
            let before = std::mem::replace(&mut progress, self.progress());
            if progress == before {
                return;
            }
        }
    }

    /// The table with all names.
    #[must_use]
    pub fn finish(self) -> FieldTable {
        self.table
    }

    /// Grows with everything that was done and found out. All of it is bounded, so a round that adds
    /// nothing comes, and ends the search.
    fn progress(&self) -> usize {
        let visits = self.enums.values().flatten();
        visits
            .map(|it| {
                usize::from(it.done.is_some()) + it.whole.map(usize::from).iter().sum::<usize>()
            })
            .sum::<usize>()
            + self.missing.values().flatten().filter(|it| it.is_known()).count()
            + self.samples.values().sum::<usize>()
            + self.shifts.values().sum::<usize>()
    }

    fn visits(&mut self, id: TypeId) -> &mut Vec<Visit> {
        self.enums.entry(id).or_default()
    }

    fn type_at(&mut self, place: u32) -> Option<&mut TypeShape> {
        self.types.get_mut(usize::try_from(place).ok()?)
    }

    /// The place of a struct or enum.
    fn place(&mut self, id: TypeId, new: impl FnOnce() -> TypeShape) -> u32 {
        *self.places.entry(id).or_insert_with(|| {
            self.types.push(new());
            u32::try_from(self.types.len() - 1).expect("fewer than 2^32 types")
        })
    }
}

/// Numbers for places, in the order they are met.
#[derive(Default)]
pub(super) struct Met(pub(super) Vec<u32>);

impl Met {
    pub(super) fn place(&mut self, at: u32) -> u32 {
        let known = self.0.iter().position(|&other| other == at).unwrap_or_else(|| {
            self.0.push(at);
            self.0.len() - 1
        });
        u32::try_from(known).expect("fewer than 2^32 types")
    }
}

impl Missing {
    fn is_known(self) -> bool {
        matches!(self, Self::Allowed | Self::Refused)
    }
}

/// Feeds one round of made-up data.
struct Samples<'t> {
    trace: &'t mut Trace,
    aim: Aim,
    /// Begin with later samples.
    shift: usize,
    /// The visitors of the types that are being fed, outermost first.
    stack: Vec<&'static str>,
    /// How many of those are inside a type of the same kind.
    nested: usize,
    /// How many types were left that need more rounds.
    open: usize,
    /// What was fed last.
    found: ValueShape,
    /// The content of the variant that was fed last.
    content: Content,
}

impl<'t> Samples<'t> {
    fn new(trace: &'t mut Trace, aim: Aim, shift: usize) -> Self {
        let (found, content) = (ValueShape::Unseen, Content::Unseen);
        Self { trace, aim, shift, stack: Vec::new(), nested: 0, open: 0, found, content }
    }
}

impl Samples<'_> {
    /// Whether a value of this type is being fed further out.
    fn is_inside<V>(&self) -> bool {
        self.stack.contains(&type_name::<V>())
    }

    /// Feeds a type that has a name and may contain itself.
    fn named<V, T>(
        &mut self,
        feed: impl FnOnce(&mut Self) -> Result<T, Fault>,
    ) -> Result<T, Fault> {
        if self.stack.len() == VALUE_DEPTH_MAX {
            return Err(Fault::fatal("it nests without end"));
        }
        let nested = usize::from(self.is_inside::<V>());
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
        shape: ValueShape,
        samples: &[S],
        visit: impl FnOnce(S) -> Result<T, Fault>,
    ) -> Result<T, Fault> {
        self.found = shape;
        let refused = self.trace.samples.get(type_name::<V>()).copied().unwrap_or(0);
        visit(samples[(refused + self.shift) % samples.len()]).map_err(|fault| {
            if refused + 1 == samples.len() || self.aim == Aim::Missing {
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

    /// Feeds fields, all or all but one, and gives back what they are.
    fn fields<T>(
        &mut self,
        id: TypeId,
        variant: &'static str,
        names: &'static [&'static str],
        visit: impl FnOnce(&mut Fields<'_, '_>) -> Result<T, Fault>,
    ) -> (Result<T, Fault>, Vec<FieldShape>) {
        let key = (id, variant);
        let without =
            (self.aim == Aim::Missing).then(|| self.leave_out(key, names.len())).flatten();
        let type_name = if variant.is_empty() { id.1 } else { variant };
        let mut fields = Fields::new(self, type_name, names, without);
        let fed = visit(&mut fields);
        let (shapes, inner_failed) = fields.finish();
        if let Some(at) = without {
            let missing = self.missing(key, names.len());
            missing[at] = match &fed {
                Ok(_) => Missing::Allowed,
                Err(_) if inner_failed => Missing::Untried,
                Err(_) => Missing::Refused,
            };
        }
        if self.aim == Aim::Missing && self.nested == 0 {
            let untried = self.missing(key, names.len()).contains(&Missing::Untried);
            self.open += usize::from(untried);
        }
        let missing = self.trace.missing.get(&key);
        let shapes = names.iter().zip(shapes).enumerate().map(|(at, (name, shape))| FieldShape {
            name: (*name).to_owned(),
            shape,
            optional: missing.is_some_and(|missing| missing.get(at) == Some(&Missing::Allowed)),
            gone: false,
        });
        let shapes = shapes.collect();
        (fed, shapes)
    }

    fn missing(&mut self, key: (TypeId, &'static str), count: usize) -> &mut Vec<Missing> {
        self.trace.missing.entry(key).or_insert_with(|| vec![Missing::Untried; count])
    }

    /// The field to leave out this time.
    fn leave_out(&mut self, key: (TypeId, &'static str), count: usize) -> Option<usize> {
        let missing = self.missing(key, count);
        if missing.contains(&Missing::Trying) {
            return None;
        }
        let at = missing.iter().position(|&it| it == Missing::Untried)?;
        missing[at] = Missing::Trying;
        Some(at)
    }

    /// The variant to feed: one in which something was not visited; where the enum is inside itself, one
    /// that is known to end; else any, round about, which leads on to other enums that still have an end.
    fn choose(&self, visits: &[Visit], is_inside: bool) -> Option<usize> {
        let aim = self.aim as usize;
        let fresh = || {
            let is_fresh =
                |it: &Visit| !it.begun && !it.whole[aim] && (!is_inside || it.done.is_none());
            visits.iter().position(is_fresh)
        };
        let end = || visits.iter().position(|it| it.done == Some(0));
        let chosen = if is_inside { end().or_else(fresh) } else { fresh().or_else(end) };
        chosen.or_else(|| self.stack.len().checked_rem(visits.len()))
    }
}

macro_rules! number {
    ($($method:ident $visit:ident $type:ty: $shape:ident),*) => { $(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
            #[allow(clippy::cast_possible_truncation, reason = "at most 128")]
            let shape = ValueShape::$shape(8 * size_of::<$type>() as u8);
            self.leaf::<V, _, _>(shape, &[1, 0, 2, 12, 100], |sample: u8| {
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
        deserialize_i8 visit_i8 i8: Signed, deserialize_i16 visit_i16 i16: Signed, deserialize_i32 visit_i32 i32: Signed,
        deserialize_i64 visit_i64 i64: Signed, deserialize_i128 visit_i128 i128: Signed,
        deserialize_u8 visit_u8 u8: Unsigned, deserialize_u16 visit_u16 u16: Unsigned, deserialize_u32 visit_u32 u32: Unsigned,
        deserialize_u64 visit_u64 u64: Unsigned, deserialize_u128 visit_u128 u128: Unsigned,
        deserialize_f32 visit_f32 f32: Float, deserialize_f64 visit_f64 f64: Float
    );

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        self.leaf::<V, _, _>(ValueShape::Bool, &[false, true], |sample| visitor.visit_bool(sample))
    }

    fn deserialize_char<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        self.leaf::<V, _, _>(ValueShape::Char, &['a', '0'], |sample| visitor.visit_char(sample))
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        self.leaf::<V, _, _>(ValueShape::Text, TEXTS, |sample| visitor.visit_borrowed_str(sample))
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        self.deserialize_str(visitor)
    }

    fn deserialize_bytes<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        self.leaf::<V, _, _>(ValueShape::Bytes, BYTE_LENGTHS, |length| {
            visitor.visit_borrowed_bytes(&ZEROS[..length])
        })
    }

    fn deserialize_byte_buf<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        self.deserialize_bytes(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        self.found = ValueShape::Unseen;
        let fed = if self.nested > 0 {
            visitor.visit_none()
        } else {
            self.named::<V, _>(|this| visitor.visit_some(this))
        };
        self.found = ValueShape::Option(Box::new(take(&mut self.found)));
        fed
    }

    fn deserialize_unit<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        self.found = ValueShape::Unit;
        visitor.visit_unit()
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Fault> {
        self.deserialize_unit(visitor)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Fault> {
        self.found = ValueShape::Unseen;
        self.named::<V, _>(|this| visitor.visit_newtype_struct(this))
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        let left = self.elements();
        let mut shapes = Vec::new();
        let fed =
            self.named::<V, _>(|this| visitor.visit_seq(Elements::new(this, left, &mut shapes)));
        self.found = ValueShape::Seq(Box::new(shapes.pop().unwrap_or_default()));
        fed
    }

    fn deserialize_tuple<V: Visitor<'de>>(
        self,
        left: usize,
        visitor: V,
    ) -> Result<V::Value, Fault> {
        let mut shapes = Vec::new();
        let fed =
            self.named::<V, _>(|this| visitor.visit_seq(Elements::new(this, left, &mut shapes)));
        shapes.resize(left, ValueShape::Unseen);
        self.found = ValueShape::Tuple(shapes);
        fed
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
        let mut shapes = Vec::new();
        let fed =
            self.named::<V, _>(|this| visitor.visit_map(Elements::new(this, left, &mut shapes)));
        let mut shapes = shapes.into_iter();
        let mut next = || shapes.next().unwrap_or_default();
        self.found = ValueShape::Map(Box::new((next(), next())));
        fed
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        self.assign(name, fields);
        let id = (type_name::<V>(), name);
        let place = self
            .trace
            .place(id, || TypeShape::Struct { name: name.to_owned(), fields: Vec::new() });
        let mut seen = Vec::new();
        let fed = self.named::<V, _>(|this| {
            let (fed, shapes) = this.fields(id, "", fields, |fields| visitor.visit_map(fields));
            seen = shapes;
            fed
        });
        if let Some(TypeShape::Struct { fields, .. }) = self.trace.type_at(place) {
            join_fields(fields, seen);
        }
        self.found = ValueShape::Type(place);
        fed
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        self.assign(name, variants);
        let id = (type_name::<V>(), name);
        let place = self.trace.place(id, || TypeShape::Enum {
            name: name.to_owned(),
            variants: variants.iter().map(|name| VariantShape::new(name)).collect(),
        });
        let is_inside = self.is_inside::<V>();
        let visits =
            self.trace.enums.entry(id).or_insert_with(|| vec![Visit::default(); variants.len()]);
        let before = visits.clone();
        let Some(at) = self.choose(&before, is_inside) else {
            return Err(Fault::fatal("an enum without variants has no values"));
        };
        self.trace.visits(id)[at].begun = true;
        let open = self.open;
        self.content = Content::Unseen;
        let value = self.named::<V, _>(|this| {
            visitor.visit_enum(OneVariant { samples: this, id, variant: variants[at] })
        });
        let content = take(&mut self.content);
        let is_whole = value.is_ok() && self.open == open && self.nested == 0 && !is_inside;
        let aim = self.aim as usize;
        let visits = self.trace.visits(id);
        let done = visits.iter().filter(|it| it.done.is_some()).count();
        let visit = &mut visits[at];
        visit.begun = before[at].begun;
        visit.whole[aim] |= is_whole;
        if value.is_ok() && visit.done.is_none() {
            visit.done = Some(done);
        }
        // Inside itself, or inside another type that is, it is not for this place to visit all of it.
        let is_open = visits.iter().any(|it| !it.whole[aim]) && self.nested == 0 && !is_inside;
        self.open += usize::from(is_open);
        if let Some(TypeShape::Enum { variants, .. }) = self.trace.type_at(place)
            && let Some(variant) = variants.get_mut(at)
        {
            variant.content = take(&mut variant.content).join(content);
        }
        self.found = ValueShape::Type(place);
        value
    }

    fn deserialize_identifier<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Fault> {
        Err(Fault::fatal(NOT_SELF_DESCRIBING))
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        self.found = ValueShape::Opaque;
        visitor.visit_unit()
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
