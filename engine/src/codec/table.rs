//! [`FieldTable`]: the numbers of fields and enum variants, one table per catalogue.
//!
//! A name gets its number when a module that uses it is first launched, before any record is written,
//! and keeps it for ever; a name that is no longer used keeps its number too. Numbers count from 0
//! within a type, and a type is known by its serde name (two types of one name share their numbers,
//! which harms nobody). The fields of the variant `V` of an enum `E` belong to the type `E::V`.

use super::{Error, Result};

/// The numbers of fields and enum variants. Immutable once the catalogue is written; shared by `Arc`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldTable {
    types: Vec<TypeEntry>,
}

/// The names of one type; a name's position is its number.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TypeEntry {
    name: String,
    names: Vec<String>,
}
