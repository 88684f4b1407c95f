//! Records: structs that are stored field by field.
//!
//! ```
//! use serde::{Deserialize, Serialize};
//! use tidemill::schema::{Map, Owned, Path, Schema, Set, Sub};
//!
//! #[derive(Serialize, Deserialize)]
//! struct Address { street: String, town: String }
//!
//! #[derive(Schema)]
//! struct Profile {
//!     name: String,
//!     address: Address,
//!     fans: Sub<Set<u64>>,
//!     #[field(7)]
//!     posts: Sub<Map<u64, String>>,
//! }
//!
//! fn paths<O>(profiles: Owned<Map<u64, Profile>, O>) {
//!     let ann = profiles.key(1);
//!     let _name = ann.clone().field(|it| it.name); // put, got and deleted by itself
//!     let _is_fan = ann.clone().field(|it| it.fans).has(2);
//!     let _last_ten = ann.clone().field(|it| it.posts).all().reverse().limit(10);
//!     let _all_of_ann = ann; // `delete` removes all that hangs under it
//! }
//! ```
//!
//! A field's row has the key `enc(record's key) ++ number`, and a `Sub` hangs under that key. So fields lie
//! side by side, in the order of their numbers; each is written without reading, and may be absent. Several
//! are read together as a tuple of paths. A record is not a value: its fields are put one by one.
//!
//! Numbers stand in stored keys: the catalogue remembers whose they are, and a launch that gives one to
//! another field is refused. A field that is dropped keeps its number.
//!
//! A struct that is *one value* derives serde's traits instead; both together do not compile:
//!
//! ```compile_fail,E0119
//! use tidemill::schema::Schema;
//! #[derive(serde::Serialize, serde::Deserialize, Schema)]
//! struct Both { name: String }
//! ```
//!
//! Nor does a field that cannot be stored, or that the record does not have, nor a field of a value, nor the
//! whole record as a value, nor a value of another type:
//!
//! ```compile_fail,E0277
//! use tidemill::schema::Schema;
//! struct NoSerde;
//! #[derive(Schema)]
//! struct Profile { name: NoSerde }
//! ```
//!
//! ```compile_fail,E0609
//! # use tidemill::schema::{Map, PState, Schema};
//! #[derive(Schema)]
//! struct Profile { name: String }
//! fn path(profiles: PState<Map<u64, Profile>>) {
//!     profiles.key(1).field(|it| it.nam);
//! }
//! ```
//!
//! ```compile_fail,E0277
//! # use tidemill::schema::{Map, PState, Schema};
//! #[derive(Schema)]
//! struct Profile { name: String }
//! fn path(profiles: PState<Map<u64, Profile>>) {
//!     profiles.key(1).field(|it| it.name).field(|it| it.len);
//! }
//! ```
//!
//! ```compile_fail,E0277
//! # use tidemill::schema::{Map, PState, Schema, Select};
//! #[derive(Schema)]
//! struct Profile { name: String }
//! fn select<P: Select>(_: P) {}
//! fn path(profiles: PState<Map<u64, Profile>>) {
//!     select(profiles.key(1));
//! }
//! ```
//!
//! ```compile_fail,E0308
//! # use tidemill::schema::{Map, Owned, Schema};
//! # use tidemill::topology::At;
//! #[derive(Schema)]
//! struct Profile { name: String }
//! fn write<O>(at: &At<'_, O>, profiles: Owned<Map<u64, Profile>, O>) {
//!     at.put(profiles.key(1).field(|it| it.name), 7).unwrap();
//! }
//! ```

use std::fmt;
use std::marker::PhantomData;

use super::Position;

#[cfg(test)]
mod tests;

/// A struct that is stored field by field; made by `#[derive(Schema)]`.
#[diagnostic::on_unimplemented(
    message = "no fields here: `{Self}` is not a record stored field by field",
    label = "has no fields that a path can lead to",
    note = "derive `tidemill::schema::Schema` for a struct to store each of its fields by itself; a value \
            that derives serde's traits is read and written whole"
)]
pub trait Record: Position {
    /// Its name, as the catalogue knows it.
    const NAME: &'static str;

    /// A [`Field`] for each field, by its name.
    type Fields;

    /// All fields.
    fn fields() -> Self::Fields;
}

/// The field of a record `R` at which `F` is stored.
pub struct Field<R, F> {
    number: u8,
    name: &'static str,
    types: PhantomData<fn() -> (R, F)>,
}

impl<R: Record, F> Field<R, F> {
    /// For the derive, which numbers the fields.
    #[must_use]
    pub const fn new(number: u8, name: &'static str) -> Self {
        Self { number, name, types: PhantomData }
    }

    /// The byte of its key.
    #[inline]
    #[must_use]
    pub const fn number(self) -> u8 {
        self.number
    }

    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        self.name
    }
}

impl<R, F> Clone for Field<R, F> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<R, F> Copy for Field<R, F> {}

impl<R, F> fmt::Debug for Field<R, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Field({})", self.number)
    }
}
