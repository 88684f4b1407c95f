//! What the shards of a node know of the device they share: whether anybody waits for a durable write,
//! and how many *patient* reads are with it, those of clients and of background work.
//!
//! A device serves what it has been given in an order of its own, so what is to come first must be alone
//! with few others. A durable 4 KiB write beside 4, 16 and 32 random reads takes 204, 309 and 659
//! microseconds here. So while one is queued or under way, and for a moment after, since the next one
//! comes soon where there was one, at most [`BESIDE_WRITES`] patient reads are started; and never more than
//! [`ALONE`], beyond which a device gives no more of them per second and a write that comes then waits
//! for all. The others wait in the rings of their shards, in order. Reads of microbatches are not patient.
//!
//! Every shard may always have one of its own, so nobody starves, and whoever has some waiting has one whose
//! end lets it look again.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::shard::now;

/// Patient reads beside a durable write.
pub(super) const BESIDE_WRITES: usize = 8;

/// Patient reads when nobody writes.
pub(super) const ALONE: usize = 64;

/// For so long after a durable write another one is expected.
const MOMENT: Duration = Duration::from_millis(2);

/// All of it is policy: a stale number starts a read too many or too few, and nothing else.
pub(super) struct Device {
    writes: AtomicUsize,
    reads: AtomicUsize,
    /// Until when another write is expected: microseconds after `made`.
    expected_until_us: AtomicU64,
    made: Instant,
}

impl Device {
    pub(super) fn new() -> Self {
        Self {
            writes: AtomicUsize::new(0),
            reads: AtomicUsize::new(0),
            expected_until_us: AtomicU64::new(0),
            made: now(),
        }
    }

    /// A durable write is queued.
    pub(super) fn write_begins(&self) {
        self.writes.fetch_add(1, Ordering::Relaxed);
    }

    /// It is done.
    pub(super) fn write_ends(&self) {
        self.writes.fetch_sub(1, Ordering::Relaxed);
        self.expected_until_us.store(self.micros(MOMENT), Ordering::Relaxed);
    }

    /// Whether a shard that has `own` patient reads under way may start another.
    pub(super) fn read_may_begin(&self, own: usize) -> bool {
        if own == 0 {
            return true;
        }
        let busy = self.writes.load(Ordering::Relaxed) > 0
            || self.micros(Duration::ZERO) < self.expected_until_us.load(Ordering::Relaxed);
        self.reads.load(Ordering::Relaxed) < if busy { BESIDE_WRITES } else { ALONE }
    }

    /// A patient read goes to the device.
    pub(super) fn read_begins(&self) {
        self.reads.fetch_add(1, Ordering::Relaxed);
    }

    /// It is done.
    pub(super) fn read_ends(&self) {
        self.reads.fetch_sub(1, Ordering::Relaxed);
    }

    /// A time so long from now.
    fn micros(&self, later: Duration) -> u64 {
        let since = now().saturating_duration_since(self.made) + later;
        u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_reads_begin_beside_a_write_and_soon_after_but_one_of_each_shard_always() {
        let device = Device::new();
        let begin_all = |own: usize| {
            let mut own = own;
            while device.read_may_begin(own) {
                device.read_begins();
                own += 1;
            }
            own
        };
        assert_eq!(begin_all(0), ALONE);
        assert!(device.read_may_begin(0), "another shard has none yet");
        for _ in 0..ALONE {
            device.read_ends();
        }
        device.write_begins();
        assert_eq!(begin_all(0), BESIDE_WRITES);
        assert!(device.read_may_begin(0));
        device.write_ends();
        assert!(!device.read_may_begin(1), "another write is expected");
        device.expected_until_us.store(0, Ordering::Relaxed);
        assert_eq!(begin_all(1), 1 + ALONE - BESIDE_WRITES);
    }
}
