//! [`Shape`]: the type of a `PState` as data, for the catalogue and for tools that have no module code.

use crate::codec::table::Trace;
use crate::codec::{Key, Result};

use super::{Data, Schema};

/// The type of a `PState`: keys from the outside in, then what the innermost one leads to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Shape {
    /// The keys' types, by their Rust names without paths.
    pub keys: Vec<String>,
    /// The values' type, by its Rust name without paths; `None` if the innermost collection is a set.
    pub value: Option<String>,
}

impl Shape {
    /// The shape of `S`; the names in its values are added to `trace`.
    ///
    /// # Errors
    /// [`Error::NotStorable`](crate::codec::Error::NotStorable).
    pub fn of<S: Schema>(trace: &mut Trace) -> Result<Self> {
        let mut shape = Self::default();
        S::describe(&mut Describe { shape: &mut shape, trace })?;
        Ok(shape)
    }

    /// A number that tells shapes apart: XXH3-64 of the shape as it is displayed.
    #[must_use]
    pub fn fingerprint(&self) -> u64 {
        xxhash_rust::xxh3::xxh3_64(self.to_string().as_bytes())
    }
}

impl std::fmt::Display for Shape {
    /// As it would be written: `Map<String, Sub<Map<u64, Sale>>>`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (depth, key) in self.keys.iter().enumerate() {
            let sub = if depth == 0 { "" } else { "Sub<" };
            let innermost = depth + 1 == self.keys.len();
            match &self.value {
                None if innermost => write!(f, "{sub}Set<{key}")?,
                _ => write!(f, "{sub}Map<{key}, ")?,
            }
        }
        if let Some(value) = &self.value {
            f.write_str(value)?;
        }
        let open = (2 * self.keys.len()).saturating_sub(1);
        write!(f, "{:>>open$}", "")
    }
}

/// Collects a [`Shape`].
#[derive(Debug)]
pub struct Describe<'a> {
    shape: &'a mut Shape,
    trace: &'a mut Trace,
}

impl Describe<'_> {
    pub(super) fn value<T: Data>(&mut self) -> Result<()> {
        self.shape.value = Some(short_name::<T>());
        self.trace.add::<T>()
    }

    pub(super) fn map<K: Key>(&mut self) {
        self.shape.keys.push(short_name::<K>());
    }

    pub(super) fn set<E: Key>(&mut self) {
        self.shape.keys.push(short_name::<E>());
    }
}

/// A type's name without the paths in it: `Vec<Sale>` and not `alloc::vec::Vec<shop::Sale>`. Paths
/// would tie the catalogue to where code happens to lie.
fn short_name<T>() -> String {
    let full = std::any::type_name::<T>();
    let mut short = String::with_capacity(full.len());
    let mut word = 0;
    let mut rest = full;
    while let Some(c) = rest.chars().next() {
        if let Some(after) = rest.strip_prefix("::") {
            short.truncate(word);
            rest = after;
            continue;
        }
        short.push(c);
        rest = &rest[c.len_utf8()..];
        if !(c.is_alphanumeric() || c == '_') {
            word = short.len();
        }
    }
    short
}
