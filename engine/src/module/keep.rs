//! What of a depot is kept, and where a topology begins to read it.

use std::time::Duration;

use super::DepotIndex;
use super::build::Depot;
use crate::topology::Row;
use crate::types::WallTime;

/// What of each partition of a depot is kept at least. What is beyond every bound that is set may be deleted,
/// whole files at a time, once all topologies that read the depot are done with it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Keep {
    /// The newest records, as many.
    pub records: Option<u64>,
    /// What was appended within this time.
    pub time: Option<Duration>,
}

impl Keep {
    /// Whether anything may ever be deleted.
    #[must_use]
    pub fn is_bounded(&self) -> bool {
        self.records.is_some() || self.time.is_some()
    }
}

/// Where a topology begins in a depot that it reads for the first time. Afterwards it goes on where it was, whatever is
/// declared. Found once, when the topology is launched, in each partition by itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum StartAt {
    /// At the first record that is kept.
    #[default]
    Beginning,
    /// Behind all that is there: with what is appended from then on.
    End,
    /// At the newest records, so many of each partition.
    Newest(u64),
    /// At the first record that was appended at this time or later.
    Since(WallTime),
    /// At the first record that is no older than this when the topology is launched.
    Within(Duration),
}

/// What [`source`](super::Topology::source) takes: a depot, or a depot and where to begin in it.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is no source of records",
    label = "not a depot",
    note = "a source is a depot, or `depot.starting(StartAt::End)`"
)]
pub trait Records {
    /// The type of its records.
    type Record: Row;

    /// The depot, and where to begin.
    fn place(self) -> (DepotIndex, StartAt);
}

impl<T: Row, R> Records for Depot<T, R> {
    type Record = T;

    fn place(self) -> (DepotIndex, StartAt) {
        (self.index(), StartAt::Beginning)
    }
}

/// A depot, and where to begin in it; see [`Depot::starting`].
pub struct Starting<T, R> {
    depot: Depot<T, R>,
    start: StartAt,
}

impl<T, R> std::fmt::Debug for Starting<T, R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Starting").field("start", &self.start).finish_non_exhaustive()
    }
}

impl<T: Row, R> Depot<T, R> {
    /// The same depot, read from there on by a topology that is new to it.
    #[must_use]
    pub fn starting(self, start: StartAt) -> Starting<T, R> {
        Starting { depot: self, start }
    }
}

impl<T: Row, R> Records for Starting<T, R> {
    type Record = T;

    fn place(self) -> (DepotIndex, StartAt) {
        (self.depot.index(), self.start)
    }
}
