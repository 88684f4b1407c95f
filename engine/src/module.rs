//! Modules: one application's depots, `PState`s and topologies, under one name and version.
//!
//! A module is a function over a [`Module`]. It declares, and returns the tokens that clients and other
//! code need; [`define`] calls it and keeps what it declared.
//!
//! ```
//! use serde::{Deserialize, Serialize};
//! use tidemill::module::{self, Depot, Module};
//! use tidemill::schema::aggregate::Count;
//! use tidemill::schema::{Map, PState};
//! use tidemill::topology::harness::Harness;
//!
//! #[derive(Clone, Serialize, Deserialize)]
//! struct Visit { user: String, page: String }
//!
//! struct Visits { visits: Depot<Visit>, pages: PState<Map<String, u64>> }
//!
//! fn visits(m: &Module) -> Visits {
//!     let visits = m.depot::<Visit>("visits").hash_by(|visit| &visit.user);
//!     let counter = m.microbatch(|| "counter");
//!     let last = counter.pstate::<Map<String, String>>("last");
//!     let pages = counter.pstate::<Map<String, u64>>("pages");
//!     counter
//!         .source(visits)
//!         .using(last)
//!         .filter_map(async |at, last, visit| {             // where the user lives
//!             let before = at.get(last.key(&visit.user)).await?;
//!             at.put(last.key(&visit.user), visit.page.clone())?;
//!             Ok((before.as_ref() != Some(&visit.page)).then_some(visit.page))
//!         })
//!         .aggregate(pages, |pages, page| pages.key(page).add(Count));  // where the page lives
//!     Visits { visits, pages: pages.reader() }
//! }
//!
//! let (visits, module) = module::define("visits", visits)?;
//! let mut engine = Harness::new(module, 4)?;
//! for page in ["a", "a", "b", "a"] {
//!     engine.append(visits.visits, &Visit { user: "ann".into(), page: page.into() })?;
//! }
//! engine.run()?;
//! assert_eq!(engine.select(visits.pages.key("a"))?, Some(2));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Only the topology that declared a `PState` can write it; anything else does not compile:
//!
//! ```compile_fail,E0277
//! # use tidemill::module::Module;
//! # use tidemill::schema::Map;
//! fn two(m: &Module) {
//!     let depot = m.depot::<u64>("depot").random();
//!     let mine = m.microbatch(|| "mine").pstate::<Map<u64, u64>>("mine_too");
//!     m.microbatch(|| "theirs")
//!         .source(depot)
//!         .for_each(async move |at, n| Ok(at.put(mine.key(n), n)?));
//! }
//! ```

use std::any::Any;
use std::fmt;
use std::panic::Location;
use std::sync::Arc;

use crate::codec::table::Trace;
use crate::codec::{self, FieldTable, Placement};
use crate::migrate::Declared;
use crate::schema::{Described, EncodeInitial, Layout, Placing, Schema};
use crate::topology::{self, Row};

mod build;
mod keep;
mod owner;

pub(crate) use build::Draft;
pub use build::{Depot, Module, NewDepot, Topology, define};
pub use keep::{Keep, Records, StartAt, Starting};
pub use owner::{Batch, Owner};

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

impl Definition {
    /// Whether `other` came from the same module function, as far as declarations tell: handles made with
    /// one of the two work with the other.
    pub(crate) fn declares_the_same(&self, other: &Self) -> bool {
        let depots = |it: &Self| -> Vec<_> {
            it.depots.iter().map(|depot| (depot.name.clone(), depot.record, depot.keep)).collect()
        };
        let pstates = |it: &Self| -> Vec<_> {
            let id = |it: &PStateDecl| it.migration.as_ref().map(|it| it.id.clone());
            it.pstates.iter().map(|it| (it.name.clone(), it.schema, id(it))).collect()
        };
        let same = |(a, b): (&topology::Definition, &topology::Definition)| {
            a.name == b.name
                && a.location == b.location
                && a.sources == b.sources
                && a.nodes.iter().map(|it| &it.name).eq(b.nodes.iter().map(|it| &it.name))
        };
        self.version == other.version
            && depots(self) == depots(other)
            && pstates(self) == pstates(other)
            && self.topologies.len() == other.topologies.len()
            && self.topologies.iter().zip(&other.topologies).all(same)
    }

    /// The names of the `PState`s that a topology writes, in the order of declaration.
    pub(crate) fn owned_by(&self, topology: &str) -> Option<Vec<String>> {
        let place = self.topologies.iter().position(|it| it.name == topology)?;
        let owned = self.pstates.iter().filter(|it| it.owner == place);
        Some(owned.map(|it| it.name.clone()).collect())
    }

    /// The field table that the module's records and values are encoded with: `stored`, with the names
    /// that are new appended.
    ///
    /// # Errors
    /// [`codec::Error::NotStorable`] names the type at fault.
    pub fn field_table(&self, stored: FieldTable) -> codec::Result<FieldTable> {
        self.trace(stored).map(|traced| traced.fields)
    }

    /// The same, and the layouts of its `PState`s.
    ///
    /// # Errors
    /// [`codec::Error::NotStorable`] names the type at fault.
    pub fn trace(&self, stored: FieldTable) -> codec::Result<Traced> {
        let mut trace = Trace::onto(stored);
        for depot in &self.depots {
            (depot.trace)(&mut trace)?;
        }
        let layouts = self.pstates.iter().map(|pstate| (pstate.layout)(&mut trace));
        let layouts = layouts.collect::<codec::Result<Vec<_>>>()?;
        let old = self.pstates.iter().zip(&layouts).map(|(pstate, layout)| {
            let migration = pstate.migration.as_ref();
            migration.map(|it| it.old_layout(layout, &mut trace)).transpose()
        });
        let old_layouts = old.collect::<codec::Result<_>>()?;
        let fields = trace.finish();
        let initial = |pstate: &PStateDecl| {
            let encode = pstate.initial?;
            let mut bytes = Vec::new();
            Some(encode(&fields, &mut bytes).map(|()| bytes))
        };
        let initials = self.pstates.iter().map(|pstate| initial(pstate).transpose());
        let initials = initials.collect::<codec::Result<_>>()?;
        Ok(Traced { fields, layouts, old_layouts, initials })
    }
}

/// The types of a module as data.
#[derive(Debug)]
pub struct Traced {
    /// What records and values are encoded with.
    pub fields: FieldTable,
    /// The layouts of the `PState`s, by [`PStateIndex`].
    pub layouts: Vec<Layout>,
    /// What they were before the migrations that are declared.
    pub old_layouts: Vec<Option<Layout>>,
    /// The bytes of what single values are where nothing is stored, by [`PStateIndex`].
    pub initials: Vec<Option<Vec<u8>>>,
}

impl Traced {
    /// The layouts of those `PState`s in which sizes of collections are kept, by [`PStateIndex`].
    pub(crate) fn sizes(&self) -> Vec<Option<Layout>> {
        let sized = self.layouts.iter().map(|it| it.keeps_sizes().then(|| it.clone()));
        sized.collect()
    }
}

/// A declared depot.
#[derive(Debug)]
pub struct DepotDecl {
    /// Its name, unique in the module.
    pub name: String,
    /// Where its records go.
    pub placed_by: PlacedBy,
    /// The Rust type of its records.
    pub record: &'static str,
    /// Adds the names in a record's type to what the field table must number.
    ///
    /// # Errors
    /// The type cannot be stored.
    pub trace: fn(&mut Trace) -> codec::Result<()>,
    /// What of it is kept.
    pub keep: Keep,
    /// Where it was declared.
    pub location: &'static Location<'static>,
}

impl DepotDecl {
    fn of<T: Row>(
        name: String,
        placed_by: PlacedBy,
        keep: Keep,
        location: &'static Location<'static>,
    ) -> Self {
        let (record, trace) = (std::any::type_name::<T>(), Trace::add::<T> as fn(&mut Trace) -> _);
        Self { name, placed_by, record, trace, keep, location }
    }
}

/// A declared `PState`.
#[derive(Debug)]
pub struct PStateDecl {
    /// Its name, unique in the module.
    pub name: String,
    /// The topology that alone writes it, by its place in [`Definition::topologies`].
    pub owner: usize,
    /// The Rust type it was declared as.
    pub schema: &'static str,
    /// Its layout, for the catalogue; adds the names in its values to what the field table must number.
    ///
    /// # Errors
    /// The type cannot be stored.
    pub layout: fn(&mut Trace) -> codec::Result<Layout>,
    /// How what was stored as another type becomes this one.
    pub migration: Option<Declared>,
    /// Where its rows live.
    pub placing: Placing,
    /// Of a single value: appends what it is where nothing is stored.
    pub initial: Option<EncodeInitial>,
    /// Where it was declared.
    pub location: &'static Location<'static>,
}

impl PStateDecl {
    fn of<S: Schema>(
        name: String,
        owner: usize,
        migration: Option<Declared>,
        location: &'static Location<'static>,
    ) -> Self {
        let schema = std::any::type_name::<S>();
        let (layout, placing, initial) = (S::layout, S::PLACING, S::INITIAL);
        Self { name, owner, schema, layout, migration, placing, initial, location }
    }

    /// What is to be known of it to read its rows, given what its types come to.
    pub(crate) fn described<'a>(
        &'a self,
        layout: &'a Layout,
        initial: Option<&'a [u8]>,
    ) -> Described<'a> {
        Described { name: &self.name, layout, placing: self.placing, initial }
    }
}

/// Which partition of a depot a record goes to.
#[derive(Clone)]
pub enum PlacedBy {
    /// By the hash of a key in the record.
    Hash(Placer),
    /// Any; whoever appends chooses.
    Random,
    /// Partition 0.
    Single,
}

impl fmt::Debug for PlacedBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Hash(_) => "Hash",
            Self::Random => "Random",
            Self::Single => "Single",
        })
    }
}

/// Finds out where a record lives.
#[derive(Clone)]
pub struct Placer(Arc<Place>);

type Place = dyn Fn(&dyn Any) -> Placement + Send + Sync;

impl Placer {
    /// Where `record` lives.
    ///
    /// # Panics
    /// If it is not of the depot's record type.
    #[must_use]
    pub fn place(&self, record: &dyn Any) -> Placement {
        (self.0)(record)
    }
}

impl fmt::Debug for Placer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Placer")
    }
}

/// A module that cannot be.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Names are unique in a module, over all kinds of things.
    #[error("two things are named `{name}`: at {first} and at {second}")]
    Duplicate {
        /// The name.
        name: String,
        /// Where it was given first.
        first: &'static Location<'static>,
        /// Where it was given again.
        second: &'static Location<'static>,
    },
    /// A topology reads a depot once, however many flows it feeds.
    #[error(
        "a topology begins to read depot `{depot}` in two places: as declared at {first}, and at {second}. Let \
         both begin in the same, or read it in two topologies"
    )]
    TwoStarts {
        /// The depot's name.
        depot: String,
        /// Where it was used first.
        first: &'static Location<'static>,
        /// Where it was used to begin elsewhere.
        second: &'static Location<'static>,
    },
    /// Names have 1 to 100 bytes: ASCII letters, digits, `_`, `-` and `.`.
    #[error("`{name}`, at {location}, is no name: use 1 to 100 letters, digits, `_`, `-` and `.`")]
    BadName {
        /// What was given.
        name: String,
        /// Where.
        location: &'static Location<'static>,
    },
    /// A topology without a source never runs.
    #[error("topology `{topology}`, at {location}, has no source")]
    NoSource {
        /// The topology.
        topology: String,
        /// Where it was declared.
        location: &'static Location<'static>,
    },
    /// A size in a `PState` cannot be kept.
    #[error(
        "the type of PState `{pstate}`, declared at {location}, keeps a size that cannot be kept"
    )]
    NotCountable {
        /// The `PState`.
        pstate: String,
        /// Where it was declared.
        location: &'static Location<'static>,
        /// Which collection, and why not.
        source: codec::Error,
    },
    /// A flow was dropped before it ended.
    #[error(
        "a flow of topology `{topology}`, begun at {location}, does not end in a stage that does \
             something: `aggregate` or `for_each`"
    )]
    Unfinished {
        /// The topology.
        topology: String,
        /// Where its last event begins.
        location: &'static Location<'static>,
    },
}
