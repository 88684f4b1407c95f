//! Modules: one application's depots, `PState`s and topologies, under one name and version.

use std::any::Any;
use std::fmt;
use std::panic::Location;
use std::sync::Arc;

use crate::topology;

/// A depot's place in [`Definition::depots`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DepotIndex(pub u32);

/// A `PState`'s place in [`Definition::pstates`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PStateIndex(pub u32);

impl fmt::Display for DepotIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl fmt::Display for PStateIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// A module in the erased form that shards execute.
#[derive(Debug)]
pub struct Definition {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: u32,
    /// Its depots, by [`DepotIndex`].
    pub depots: Vec<DepotDecl>,
    /// Its `PState`s, by [`PStateIndex`].
    pub pstates: Vec<PStateDecl>,
    /// Its topologies.
    pub topologies: Vec<topology::Definition>,
}

/// A declared depot.
#[derive(Debug)]
pub struct DepotDecl {
    /// Its name, unique in the module.
    pub name: String,
    /// Where its records go.
    pub placement: Placement,
    /// Where it was declared.
    pub location: &'static Location<'static>,
}

/// A declared `PState`.
#[derive(Debug)]
pub struct PStateDecl {
    /// Its name, unique in the module.
    pub name: String,
    /// The topology that alone writes it, by its place in [`Definition::topologies`].
    pub owner: usize,
    /// Where it was declared.
    pub location: &'static Location<'static>,
}

/// Which partition of a depot a record goes to.
#[derive(Clone)]
pub enum Placement {
    /// By the placement hash of a key in the record.
    Hash(Placer),
    /// Any; whoever appends chooses.
    Random,
    /// Partition 0.
    Single,
}

impl fmt::Debug for Placement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Hash(_) => "Hash",
            Self::Random => "Random",
            Self::Single => "Single",
        })
    }
}

/// Finds the placement hash of a record.
#[derive(Clone)]
pub struct Placer(Arc<dyn Fn(&dyn Any) -> u64 + Send + Sync>);

impl Placer {
    /// The placement hash of `record`, which must be of the depot's record type.
    #[must_use]
    pub fn hash(&self, record: &dyn Any) -> u64 {
        (self.0)(record)
    }
}

impl fmt::Debug for Placer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Placer")
    }
}
