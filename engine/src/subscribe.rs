//! Subscriptions: the value at the end of a path, and then every change of it, commit by commit.
//!
//! ```text
//!   shard    make visible ──> runs ──> index.rs ──> queue.rs ═══╗  no old value is read here
//!   client                                 mirror.rs <══════════╝  the mirror has it
//! ```
//!
//! A microbatch that becomes visible is one sealed run of writes in each partition, in memory. What it did to a
//! subscribed row or range is taken from there, so a change costs as much as it is large, and what nobody
//! subscribed costs one pass over its key ([`index`]). Where a run is cut to what a subscriber sees stands in
//! [`index`], what a subscriber makes of it in [`mirror`].
//!
//! *Registration is one moment* of the shard: it notes the visible id of the topology, pins it, and adds the
//! subscriber. The client reads the value at the pin, while changes from that id on wait in its queue. So
//! nothing is lost between the value and the first change, and nothing is there twice.
//!
//! *Gaps.* A queue holds at most `Options::subscription_bytes_max`. A subscriber that does not keep up is taken
//! off the index and finds a gap; it registers again, and asks for the difference of the id that it has and the
//! one that it registered at. If what was written between them is not known any more (`Options::history`), it reads
//! the value anew. The same after its shard was reopened. It is told of both; between two values that it was given
//! without such a word lie all changes.
//!
//! *A migration* of what is subscribed ([`crate::migrate`]) is no change: values are told in the new form from
//! the first one on, and a row that is written as it was is nothing to tell.
//!
//! *Trees and parts.* What lies under a key to any depth is one range of rows, and the mirror of a map of collections is a
//! map of mirrors ([`mirror::Branches`]). Of a part of a value the whole row is sent, and the subscriber looks into it.
//!
//! What many subscribe alike is made once, and shared by their queues (`queue.rs`); it is made only if it fits
//! into one of them.
//!
//! What comes as values without their keys cannot be followed, since nobody could say which of them changed:
//!
//! ```compile_fail,E0277
//! # use tidemill::schema::{Map, PState, Sub};
//! async fn follow(shop: tidemill::Launched<()>, list: PState<Map<u32, Sub<Map<u32, i64>>>>) {
//!     let _ = shop.subscribe(list.key(1).all().values()).await;
//! }
//! ```
//!
//! A value has no tree, since it is one row:
//!
//! ```compile_fail,E0277
//! # use tidemill::schema::{Map, PState};
//! async fn follow(shop: tidemill::Launched<()>, funds: PState<Map<u32, i64>>) {
//!     let _ = shop.subscribe(funds.key(1).tree()).await;
//! }
//! ```

use std::fmt;

use crate::types::MicrobatchId;

pub(crate) mod index;
pub mod mirror;
pub(crate) mod queue;
#[cfg(test)]
mod tests;

pub use mirror::{
    Branches, Elements, Entries, Items, ListDiff, MapDiff, Mirror, One, Parts, Replaced, SetDiff,
    Subscribe, TreeDiff,
};

/// The largest value a subscription begins with: as much is read at one pin, and held by the client.
pub const VALUE_BYTES_MAX: usize = 16 << 20;

/// What `P`'s subscribers are told.
pub type ChangeOf<P> = Change<<<P as Subscribe>::Mirror as Mirror>::Diff, <P as Subscribe>::Mirror>;

/// One step of a subscription: what became of its value between two ids of the topology that writes it.
///
/// The `from` of each is the `to` of the one before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change<D, M> {
    /// The value before it is that of this id.
    pub from: MicrobatchId,
    /// The value with it is that of this id.
    pub to: MicrobatchId,
    /// What happened.
    pub what: What<D, M>,
}

/// What happened between two ids.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What<D, M> {
    /// The microbatch `to` changed the value, as told here, in this order.
    Diffs(Vec<D>),
    /// Nothing: rows were written that left the value as it was, or none were for a while.
    Unchanged,
    /// The changes between were lost one by one, and what they did together was read.
    Bridged {
        /// Why.
        gap: Gap,
        /// What they did, if anything.
        diffs: Vec<D>,
    },
    /// Changes were lost, and the value was read anew.
    Resynced {
        /// Why.
        gap: Gap,
        /// What the value was before.
        old: M,
    },
}

/// Why changes were lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gap {
    /// More of them waited than `Options::subscription_bytes_max`.
    Overrun,
    /// The shard had stopped, and was reopened.
    Reopened,
    /// A change could not be decoded.
    Undecodable,
    /// A [recompute](crate::recompute) has put another state in the place of what was watched.
    Recomputed,
}

impl fmt::Display for Gap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Overrun => "the subscriber did not keep up",
            Self::Reopened => "the shard was reopened",
            Self::Undecodable => "a change could not be decoded",
            Self::Recomputed => "the state was recomputed",
        })
    }
}
