//! Recomputing the state of a topology from its depots, while it runs.
//!
//! The code of a topology changes, or its state is doubted: [`Launched::recompute`] builds all `PState`s of the
//! topology anew beside the ones in use, from the first record of every source, checks what came out, and puts it in
//! their place at one moment.
//!
//! ```text
//!   begin   the catalogue gives numbers to a second instance of the topology, its shadow, and to PStates for it
//!   run     the shadow is a topology like any other, with offsets of its own, from the first record on; but it
//!           appends nothing, calls nobody, and works for `Options::recompute_share` of the time
//!   stop    when it is near, both are bounded to the same offsets, and come to rest there
//!   check   an `order_free` topology: entry by entry; all: that the invariants hold, and that nothing is rejected
//!           that was taken before
//!   switch  one catalogue makes the shadow's numbers those of the topology's PStates; then the topology goes on
//!   drop    the old ones, when nobody reads them any more
//! ```
//!
//! The topology keeps its name, its ids and its offsets; only where its `PState`s are stored changes. A request, a
//! snapshot or a page that began before the switch reads the old state to its end; what begins later reads the new
//! one. Subscriptions are told ([`Gap::Recomputed`](crate::subscribe::Gap::Recomputed)). An id from before the switch
//! cannot be read by `as_of` any more, nor compared with one from after it.
//!
//! A topology of which a `PState` is being [migrated](crate::migrate) is not recomputed, and a launch that would begin
//! a migration of one that is being recomputed is refused. A launch of another version of the module ends its
//! recomputes: what came out so far was made by other code.
//!
//! After a crash at any step before the switch the shadow goes on where it was, as any topology does, as soon as its
//! module is launched; [`Launched::recompute`] is called again to see it through. At and after the switch, it is over.
//!
//! A topology stands still from *stop* to *switch*, at most for `Options::recompute_pause_max`: appends and reads go
//! on, and nothing new becomes visible. What takes longer is left, and both instances go on.
//!
//! What a recompute cannot know: chance and time are not what they were, and `PState`s of other topologies are read
//! as they are now. What code does outside by other means than [`At::outside`](crate::topology::At::outside) it does
//! again.
//!
//! [`Launched::recompute`]: crate::Launched::recompute

use std::fmt;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;

use futures_util::FutureExt;

use crate::client::{Launched, Pages, Selecting, SelectingMany};
use crate::schema::path::Many;
use crate::schema::{Path, RowOf, Select};
use crate::topology::{Panicked, panic_message};

/// How far a recompute is.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Recompute {
    /// The topology.
    pub topology: String,
    /// Records of its sources that were done again.
    pub records_done: u64,
    /// Records that the topology itself has done.
    pub records_total: u64,
}

/// A recompute that is over.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Recomputed {
    /// The topology.
    pub topology: String,
    /// Records that were done again.
    pub records: u64,
}

/// Why an invariant does not hold, in a sentence; or why that could not be found out.
pub type Unfulfilled = Box<dyn std::error::Error + Send + Sync>;

/// Something that holds of a topology's `PState`s after every microbatch; see
/// [`Topology::invariant`](crate::module::Topology::invariant).
#[derive(Clone)]
pub struct Invariant {
    name: Arc<str>,
    holds: Arc<Holds>,
}

type Holds = dyn Fn(Reading) -> Outcome + Send + Sync;
type Outcome = Pin<Box<dyn Future<Output = Result<(), Unfulfilled>> + Send>>;

impl Invariant {
    pub(crate) fn new<F, R>(name: &str, holds: F) -> Self
    where
        F: Fn(Reading) -> R + Send + Sync + 'static,
        R: Future<Output = Result<(), Unfulfilled>> + Send + 'static,
    {
        Self { name: name.into(), holds: Arc::new(move |reading| Box::pin(holds(reading))) }
    }

    /// What it is called.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// One that panics is not fulfilled. What it held is dropped with its future, and it can only read.
    pub(crate) async fn check(&self, reading: Reading) -> Result<(), Unfulfilled> {
        let held = AssertUnwindSafe(async { (self.holds)(reading).await }).catch_unwind().await;
        held.unwrap_or_else(|payload| Err(Panicked(panic_message(&*payload)).into()))
    }
}

impl fmt::Debug for Invariant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Invariant").field("name", &self.name).finish_non_exhaustive()
    }
}

/// What came out of a recompute, to be looked at before it counts: private `PState`s, too. Tokens mean its `PState`s.
#[derive(Clone)]
pub struct Reading {
    launched: Launched<()>,
}

impl Reading {
    pub(crate) fn new(launched: Launched<()>) -> Self {
        Self { launched }
    }

    /// See [`Launched::select`].
    pub fn select<P: Select>(&self, path: P) -> Selecting<P> {
        self.launched.select_inside(path)
    }

    /// See [`Launched::select_many`].
    pub fn select_many<P: Select, I: IntoIterator<Item = P>>(&self, paths: I) -> SelectingMany<P> {
        self.launched.select_many_inside(paths)
    }

    /// See [`Launched::pages`].
    ///
    /// # Panics
    /// If `rows` is 0.
    pub fn pages<S: RowOf, O>(&self, path: Path<S, Many, O>, rows: usize) -> Pages<S> {
        self.launched.pages_inside(path, rows)
    }
}

impl fmt::Debug for Reading {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reading").finish_non_exhaustive()
    }
}
