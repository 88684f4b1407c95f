//! The newest records of depots, in memory: their share of the memory, and what keeps them within it.
//!
//! A log keeps what its segments do not have yet. Folds write that out, but as the journal's space asks
//! for it, which may be far more than the memory. So when the logs of a shard together hold more than
//! half of their share, the largest are flushed and let go of most, until they hold a quarter; and appends
//! wait while they hold more than all of it.
//!
//! The windows of repeated appends are counted, too. They cannot be written out; when memory is asked for,
//! they keep an eighth of the share together, and the clients that appended longest ago are forgotten.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::task::{Poll, Waker};
use std::time::Duration;

use futures_util::future::join_all;

use super::Shard;
use super::background::no_space;
use super::partition::{self, Depot, Partition};
use crate::node::Options;
use crate::types::{DepotId, PartitionId};

/// How much the logs hold, nearly.
#[derive(Default)]
pub(super) struct Tails {
    bytes: Cell<u64>,
    /// What was left when the largest had been written out: with many logs, more than the share.
    floor: Cell<u64>,
    waker: RefCell<Option<Waker>>,
    /// There was no space to write them out.
    no_space: Cell<bool>,
}

/// A share below this is not worth the small writes; it is part of the constant that each shard takes
/// beside the budget.
const BYTES_MIN: u64 = 8 << 20;

/// So many logs are written at the same time.
const WRITES_AT_ONCE: usize = 32;

/// A log that was written out keeps this part of it, the newest records, unless it is small: then the write
/// is worth more if all of it goes.
const KEPT_PART: u64 = 4;
const SMALL_BYTES: u64 = 256 << 10;

/// Pauses between two looks at a disk that is full.
const PAUSE_MIN: Duration = Duration::from_millis(20);
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// What the logs of one shard may hold.
pub(super) fn bytes_max(options: &Options, shards: u16) -> u64 {
    (options.memory_bytes / 8 / u64::from(shards)).max(BYTES_MIN)
}

/// What the logs of some partitions hold.
pub(super) fn held<'p>(partitions: impl Iterator<Item = &'p Rc<Partition>>) -> u64 {
    partitions.flat_map(|it| it.known_depots()).map(|(_, depot)| held_by(&depot)).sum()
}

fn held_by(depot: &Depot) -> u64 {
    depot.log.cached_bytes() as u64
}

/// Writes the largest logs out until all together hold at most `bytes_max`, or nothing more can be let
/// go. Returns what they hold then.
///
/// # Errors
/// No space loses nothing; after anything else the shard must stop.
pub(super) async fn shrink<'p>(
    partitions: impl Iterator<Item = &'p Rc<Partition>>,
    bytes_max: u64,
) -> Result<u64, partition::Error> {
    let mut logs: Vec<(u64, PartitionId, DepotId, Rc<Depot>)> = partitions
        .flat_map(|partition| {
            let depots = partition.known_depots().into_iter();
            depots.map(|(id, depot)| (held_by(&depot), partition.id, id, depot))
        })
        .filter(|log| log.0 > 0)
        .collect();
    logs.sort_unstable_by_key(|log| std::cmp::Reverse(log.0));
    let mut held: u64 = logs.iter().map(|log| log.0).sum();
    for some in logs.chunks(WRITES_AT_ONCE) {
        if held <= bytes_max {
            break;
        }
        let flushes = some.iter().map(|(_, partition, id, depot)| async {
            let (partition, depot_id) = (*partition, *id);
            let failed = |source| partition::Error::Depot { partition, depot: depot_id, source };
            depot.log.flush().await.map_err(failed)
        });
        for flushed in join_all(flushes).await {
            flushed?;
        }
        for (before, _, _, depot) in some {
            let max = depot.log.options().tail_bytes_max;
            let kept = if *before < SMALL_BYTES { 0 } else { before / KEPT_PART };
            depot.log.let_go(usize::try_from(kept).unwrap_or(max).min(max));
            held = (held + held_by(depot)).saturating_sub(*before);
        }
    }
    // Windows of repeated appends cannot be written out; all together get half of what is to be held.
    let windows: Vec<&Depot> =
        logs.iter().map(|log| &*log.3).filter(|it| it.log.dedup_bytes() > 0).collect();
    let bytes: u64 = windows.iter().map(|it| it.log.dedup_bytes() as u64).sum();
    if bytes > bytes_max / 2 {
        let each_max = usize::try_from(bytes_max / 2).unwrap_or(usize::MAX) / windows.len();
        for depot in &windows {
            depot.log.shrink_dedup(each_max);
        }
        held = logs.iter().map(|log| held_by(&log.3)).sum();
    }
    Ok(held)
}

impl Shard {
    fn tail_bytes_max(&self) -> u64 {
        bytes_max(&self.setup.options, self.setup.shards)
    }

    /// Records were taken into a log.
    pub(super) fn tails_grew(&self, bytes: usize) {
        self.tails.bytes.set(self.tails.bytes.get() + bytes as u64);
        self.wake_tails();
    }

    /// Looks at what the logs really hold.
    pub(super) fn look_at_tails(&self) {
        self.tails.bytes.set(held(self.partitions.values()));
        self.wake_tails();
    }

    /// Whether appends may go on, as far as this is concerned.
    pub(super) fn tails_have_room(&self) -> bool {
        // What cannot be let go is no reason to wait for ever.
        let max = self.tail_bytes_max();
        self.tails.bytes.get() <= max.max(self.tails.floor.get() + max / 2)
    }

    /// Whether there is no space to write logs out.
    pub(super) fn tails_found_no_space(&self) -> bool {
        self.tails.no_space.get()
    }

    fn tails_are_due(&self) -> bool {
        let max = self.tail_bytes_max();
        self.tails.bytes.get() > (max / 2).max(self.tails.floor.get() + max / 4)
    }

    fn wake_tails(&self) {
        if self.tails_are_due()
            && let Some(waker) = self.tails.waker.take()
        {
            waker.wake();
        }
    }

    /// Writes logs out whenever they hold too much, for ever.
    pub(super) async fn run_tails(self: Rc<Self>) {
        let mut pause = PAUSE_MIN;
        loop {
            std::future::poll_fn(|context| {
                if self.tails_are_due() {
                    return Poll::Ready(());
                }
                *self.tails.waker.borrow_mut() = Some(context.waker().clone());
                Poll::Pending
            })
            .await;
            // What is not durable cannot be written out, and will be soon.
            if self.settle().await.is_err() {
                return;
            }
            match shrink(self.partitions.values(), self.tail_bytes_max() / 4).await {
                Ok(held) => {
                    self.tails.bytes.set(held);
                    self.tails.floor.set(held);
                    self.tails.no_space.set(false);
                    pause = PAUSE_MIN;
                    self.relieve();
                }
                Err(error) if no_space(&error) => {
                    self.tails.no_space.set(true);
                    self.relieve();
                    self.env.sleep(pause).await;
                    pause = (pause * 2).min(PAUSE_MAX);
                }
                Err(error) => return self.fail(&error),
            }
        }
    }
}
