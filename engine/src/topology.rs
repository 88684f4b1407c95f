//! Topologies: dataflow graphs through which records flow into `PState`s.
//!
//! A [`Definition`] is the erased form that a shard executes: nodes, each with the [`Event`] that runs
//! between two hops, and the depots that feed them.

use std::fmt;
use std::panic::Location;

use crate::module::{DepotIndex, PStateIndex, StartAt};
use crate::recompute::Invariant;

mod aggregate;
mod at;
mod capture;
mod chain;
mod combine;
mod event;
mod explain;
mod failure;
mod flow;
pub mod harness;
mod hop;
mod list;
mod local;
mod pages;
mod read;
mod run;
mod sizes;
mod stage;
mod stored;
#[cfg(test)]
mod tests;
mod token;

pub use aggregate::{Changes, NewEvent};
pub use at::{At, Context};
pub use capture::{Captures, OneValue};
pub use chain::{Chain, Sink, Start};
pub use combine::Combined;
pub use event::{Done, Event, EventFailure, FailureKind, Origin, Outgoing, Record, Rows};
pub use explain::Explanation;
pub use failure::{Failure, Result};
pub use flow::{Branch, Captured, Ended, Flow, Hopped, Next, Using};
pub use hop::Row;
pub use local::{Access, Local, Scan, StateError, Visit};
pub use pages::Pages;
pub use read::{QueryError, Read};
pub use run::Panicked;
pub(crate) use run::{Intake, panic_message, take_records, take_timed};
pub(crate) use stored::Stored;
pub use token::{Named, Tokens};

/// A node's place in [`Definition::nodes`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeIndex(pub u32);

/// One topology, ready to run. Shards share it.
#[derive(Debug)]
pub struct Definition {
    /// Its name, unique in the module.
    pub name: String,
    /// Where it was declared.
    pub location: &'static Location<'static>,
    /// What feeds it.
    pub sources: Vec<Source>,
    /// Its nodes, in the order in which they were built.
    pub nodes: Vec<Node>,
    /// Whether its state is the same in whatever order records of different partitions come.
    pub order_free: bool,
    /// What holds of its `PState`s between microbatches.
    pub invariants: Vec<Invariant>,
}

/// A depot that feeds a topology. One depot can feed several nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Source {
    /// The depot, by its place in the module's definition.
    pub depot: DepotIndex,
    /// The node that takes its records, as [`Rows::records`], on the partition where they lie.
    pub node: NodeIndex,
    /// Where a topology begins that never read it. The same for all nodes of one.
    pub start: StartAt,
}

/// A vertex of the graph: one event.
pub struct Node {
    /// What it is called in explanations, metrics and errors.
    pub name: String,
    /// How rows come to it.
    pub input: Input,
    /// What it does with a row, in order.
    pub stages: Vec<Stage>,
    /// The code.
    pub event: Box<dyn Event>,
}

impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Node")
            .field("name", &self.name)
            .field("input", &self.input)
            .field("stages", &self.stages)
            .finish_non_exhaustive()
    }
}

/// How rows come to a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Input {
    /// Records of a depot, where they lie.
    Depot(DepotIndex),
    /// By the hash of a key.
    Hash,
    /// On every partition.
    All,
    /// On partition 0 only.
    Global,
    /// Rows to append to a depot, by its placement.
    Append(DepotIndex),
    /// Combined changes of an aggregation, by the first key of what they change.
    Aggregate,
}

/// One step of an event.
#[derive(Clone, Debug)]
pub struct Stage {
    /// The builder's method.
    pub name: &'static str,
    /// Where it was called.
    pub location: &'static Location<'static>,
    /// The `PState`s it is known to read.
    pub reads: Vec<PStateIndex>,
    /// The `PState`s it is known to write, or allowed to.
    pub writes: Vec<PStateIndex>,
    /// Nodes it sends rows to.
    pub sends: Vec<NodeIndex>,
}
