//! [`FieldTable`]: the numbers of fields and enum variants, one table per catalogue.
//!
//! A name gets its number when a module that uses it is first launched, before any record is written,
//! and keeps it for ever; a name that is no longer used keeps its number too. Numbers count from 0
//! within a type, and a type is known by its serde name (two types of one name share their numbers,
//! which harms nobody). The fields of the variant `V` of an enum `E` belong to the type `E::V`.
//!
//! # Stored form
//!
//! ```text
//! version: u16 = 1 | types: u32 | per type: name, names: u32, per name: name | name = u16 length, UTF-8
//! ```
//!
//! Integers are little-endian; a name's number is its position. The catalogue adds the checksum.

use std::collections::BTreeSet;

use super::{Error, Result};

pub mod shape;
#[cfg(test)]
mod tests;
mod trace;
mod widen;

pub use shape::{ValueKind, ValueShape};
pub use trace::Trace;
pub use widen::Misfit;

/// The numbers of fields and enum variants. Immutable once the catalogue is written; shared by `Arc`.
#[derive(Clone, Debug, Default)]
pub struct FieldTable {
    types: Vec<TypeNames>,
    index: Index,
}

/// The names of one type; a name's position is its number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TypeNames {
    name: String,
    names: Vec<String>,
}

impl TypeNames {
    /// The type's serde name, or `Enum::Variant`.
    #[must_use]
    pub fn type_name(&self) -> &str {
        &self.name
    }

    /// The name with this number.
    #[inline]
    #[must_use]
    pub fn name(&self, number: u32) -> Option<&str> {
        self.names.get(usize::try_from(number).ok()?).map(String::as_str)
    }

    /// All names, in the order of their numbers.
    #[must_use]
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// The number of a name. `hint` is where to look first: fields come in the order of declaration,
    /// which nearly always is that of their numbers, so one comparison finds them.
    #[inline]
    #[must_use]
    pub fn number(&self, name: &str, hint: u32) -> Option<u32> {
        if self.name(hint) == Some(name) { Some(hint) } else { self.number_slow(name) }
    }

    #[cold]
    fn number_slow(&self, name: &str) -> Option<u32> {
        let number = self.names.iter().position(|known| known == name)?;
        u32::try_from(number).ok()
    }
}

impl FieldTable {
    /// A table without names.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The names of a type.
    #[inline]
    #[must_use]
    pub fn of_type(&self, name: &str) -> Option<&TypeNames> {
        self.index.find(name, &self.types)
    }

    /// The names of the fields of an enum's variant, which are those of a type `Enum::Variant`.
    #[must_use]
    pub fn of_variant(&self, name: &str, variant: &str) -> Option<&TypeNames> {
        // Joined on the stack, so that a value that allocates nothing is read and written without. Names
        // that do not fit are rare.
        let mut joined = [0; 128];
        let mut bytes = 0;
        for part in [name, "::", variant] {
            let Some(place) = joined.get_mut(bytes..bytes + part.len()) else {
                return self.of_type(&format!("{name}::{variant}"));
            };
            place.copy_from_slice(part.as_bytes());
            bytes += part.len();
        }
        self.of_type(std::str::from_utf8(&joined[..bytes]).expect("made of whole texts"))
    }

    /// All types, in the order they were first met.
    pub fn types(&self) -> impl ExactSizeIterator<Item = &TypeNames> {
        self.types.iter()
    }

    /// Gives numbers to those of `names` that have none in the type.
    pub fn assign<'n>(&mut self, type_name: &str, names: impl IntoIterator<Item = &'n str>) {
        let at = self.types.iter().position(|known| known.name == type_name).unwrap_or_else(|| {
            self.types.push(TypeNames { name: type_name.to_owned(), names: Vec::new() });
            self.index = Index::of(&self.types);
            self.types.len() - 1
        });
        let known = &mut self.types[at].names;
        for name in names {
            if !known.iter().any(|other| other == name) {
                known.push(name.to_owned());
            }
        }
    }

    /// Takes over what `later` has and this has not; every number of this stays as it is. Numbers of
    /// `later` may change: values are only to be encoded with the merged table.
    pub fn merge(&mut self, later: &Self) {
        for names in &later.types {
            self.assign(&names.name, names.names.iter().map(String::as_str));
        }
    }

    /// Whether every name of `other` has the same number here, so that its values decode here.
    #[must_use]
    pub fn contains(&self, other: &Self) -> bool {
        other.types.iter().all(|theirs| {
            self.of_type(&theirs.name).is_some_and(|ours| ours.names.starts_with(&theirs.names))
        })
    }

    /// Appends the stored form.
    ///
    /// # Errors
    /// [`Error::BadTable`] if a name is longer than 64 KiB.
    pub fn encode(&self, out: &mut Vec<u8>) -> Result<()> {
        out.extend_from_slice(&VERSION.to_le_bytes());
        push_count(out, self.types.len())?;
        for names in &self.types {
            push_name(out, &names.name)?;
            push_count(out, names.names.len())?;
            for name in &names.names {
                push_name(out, name)?;
            }
        }
        Ok(())
    }

    /// Reads the stored form, all of `bytes`.
    ///
    /// # Errors
    /// [`Error::BadTable`].
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let mut input = bytes;
        if u16::from_le_bytes(take(&mut input)?) != VERSION {
            return Err(Error::BadTable { problem: "its version is not known here" });
        }
        let mut types = Vec::new();
        let mut seen = BTreeSet::new();
        for _ in 0..u32::from_le_bytes(take(&mut input)?) {
            let name = take_name(&mut input)?;
            let mut names = Vec::new();
            let mut names_seen = BTreeSet::new();
            for _ in 0..u32::from_le_bytes(take(&mut input)?) {
                let name = take_name(&mut input)?;
                if !names_seen.insert(name.clone()) {
                    return Err(Error::BadTable { problem: "a type has one name twice" });
                }
                names.push(name);
            }
            if !seen.insert(name.clone()) {
                return Err(Error::BadTable { problem: "it has one type twice" });
            }
            types.push(TypeNames { name, names });
        }
        if !input.is_empty() {
            return Err(Error::BadTable { problem: "bytes are left over" });
        }
        let index = Index::of(&types);
        Ok(Self { types, index })
    }
}

impl PartialEq for FieldTable {
    fn eq(&self, other: &Self) -> bool {
        self.types == other.types
    }
}

impl Eq for FieldTable {}

/// Finds a type by its name: open addressing, at most half full, a fixed hash.
#[derive(Clone, Debug, Default)]
struct Index {
    /// Position in the list of types plus 1; 0: free. A power of two long.
    slots: Vec<u32>,
}

impl Index {
    fn of(types: &[TypeNames]) -> Self {
        let mut slots = vec![0; (2 * types.len()).next_power_of_two().max(2)];
        let mask = slots.len() - 1;
        for (at, names) in types.iter().enumerate() {
            let mut slot = hash(&names.name) & mask;
            while slots[slot] != 0 {
                slot = (slot + 1) & mask;
            }
            slots[slot] = u32::try_from(at + 1).expect("fewer than 2^32 types");
        }
        Self { slots }
    }

    #[inline]
    fn find<'t>(&self, name: &str, types: &'t [TypeNames]) -> Option<&'t TypeNames> {
        let mask = self.slots.len().checked_sub(1)?;
        let mut slot = hash(name) & mask;
        loop {
            // The table is at most half full, so this ends.
            let at = usize::try_from(self.slots[slot]).ok()?.checked_sub(1)?;
            let names = types.get(at)?;
            if names.name == name {
                return Some(names);
            }
            slot = (slot + 1) & mask;
        }
    }
}

/// Mixes the length and the last bytes: type names are few and differ most at their end, and this is
/// on the way of every struct that is encoded or decoded.
#[inline]
fn hash(name: &str) -> usize {
    let bytes = name.as_bytes();
    let tail = bytes.last_chunk::<8>().map_or_else(
        || bytes.iter().fold(0, |hash, &byte| (hash << 8) | u64::from(byte)),
        |tail| u64::from_le_bytes(*tail),
    );
    let mixed = (tail ^ (bytes.len() as u64)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    #[allow(clippy::cast_possible_truncation, reason = "any bits will do")]
    let hash = (mixed >> 32) as usize;
    hash
}

fn push_count(out: &mut Vec<u8>, count: usize) -> Result<()> {
    let count = u32::try_from(count).map_err(|_| Error::BadTable { problem: "too many names" })?;
    out.extend_from_slice(&count.to_le_bytes());
    Ok(())
}

fn push_name(out: &mut Vec<u8>, name: &str) -> Result<()> {
    let len = u16::try_from(name.len())
        .map_err(|_| Error::BadTable { problem: "a name is longer than 64 KiB" })?;
    out.extend_from_slice(&len.to_le_bytes());
    out.extend_from_slice(name.as_bytes());
    Ok(())
}

fn take<const N: usize>(input: &mut &[u8]) -> Result<[u8; N]> {
    let (head, rest) =
        input.split_first_chunk().ok_or(Error::BadTable { problem: "it is cut off" })?;
    *input = rest;
    Ok(*head)
}

fn take_name(input: &mut &[u8]) -> Result<String> {
    let len = usize::from(u16::from_le_bytes(take(input)?));
    let (name, rest) =
        input.split_at_checked(len).ok_or(Error::BadTable { problem: "it is cut off" })?;
    *input = rest;
    let name =
        str::from_utf8(name).map_err(|_| Error::BadTable { problem: "a name is not UTF-8" })?;
    Ok(name.to_owned())
}

/// Of the stored form.
const VERSION: u16 = 1;
