//! [`Shape`]: the type of a `PState` as it is written, and a number for it.

use super::{Layout, Schema};
use crate::codec::Result;
use crate::codec::table::Trace;

/// The type of a `PState` as it would be written in Rust, without paths.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shape(String);

impl Shape {
    /// The shape of `S`; the names in its values are added to `trace`.
    ///
    /// # Errors
    /// [`Error::NotStorable`](crate::codec::Error::NotStorable).
    pub fn of<S: Schema>(trace: &mut Trace) -> Result<Self> {
        Layout::of::<S>(trace).map(|layout| Self(layout.to_string()))
    }

    /// A number that tells shapes apart: XXH3-64 of the shape as it is displayed.
    #[must_use]
    pub fn fingerprint(&self) -> u64 {
        xxhash_rust::xxh3::xxh3_64(self.0.as_bytes())
    }
}

impl std::fmt::Display for Shape {
    /// As it would be written: `Map<String, Sub<Map<u64, Sale>>>`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(&self.0)
    }
}
