//! Ids and positions used everywhere; those that also cross nodes come from
//! [`tidemill_replication::types`].

use std::time::Duration;

pub use tidemill_replication::types::{
    Attempt, DepotId, Index, MicrobatchId, Offset, PStateId, PartitionId, Run, ShardId, Term,
    TopologyId,
};

/// Monotonic time of this node: nanoseconds since an arbitrary start. Our own type, since a test
/// cannot make up a std `Instant`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Time(pub u64);

impl Time {
    /// The time `duration` later; saturates at the end of time.
    #[must_use]
    pub fn after(self, duration: Duration) -> Self {
        let nanos = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        Self(self.0.saturating_add(nanos))
    }

    /// How long ago `earlier` was; zero if it is in the future.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

/// Wall-clock time: microseconds since 1970-01-01 UTC. Never orders anything by itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WallTime(pub u64);
