//! From a shard to one subscriber: an ordered queue that is bounded in bytes and never waits.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use futures_channel::mpsc;
use futures_util::StreamExt;

use crate::types::MicrobatchId;

/// What one microbatch did to what is subscribed; nothing, if there are no writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RawDiff {
    /// The id up to which the subscriber was told before.
    pub(crate) from: MicrobatchId,
    pub(crate) to: MicrobatchId,
    /// To be done in this order.
    pub(crate) writes: Vec<RawWrite>,
}

/// A write, with whole row keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum RawWrite {
    /// Every row from the first key up to the second is gone; without the second, every row above.
    GoneRange(Box<[u8]>, Option<Box<[u8]>>),
    /// A row has a value, which several subscribers may share.
    Put(Box<[u8]>, Arc<[u8]>),
    /// A row is gone.
    Gone(Box<[u8]>),
}

/// About what a diff, or a write in it, takes beside its bytes.
const OVERHEAD_BYTES: usize = 64;

impl RawWrite {
    fn bytes(&self) -> usize {
        OVERHEAD_BYTES
            + match self {
                Self::GoneRange(from, to) => from.len() + to.as_ref().map_or(0, |to| to.len()),
                Self::Put(key, value) => key.len() + value.len(),
                Self::Gone(key) => key.len(),
            }
    }
}

impl RawDiff {
    /// About how much memory it takes.
    fn bytes(&self) -> u64 {
        let writes: usize = self.writes.iter().map(RawWrite::bytes).sum();
        (OVERHEAD_BYTES + writes) as u64
    }
}

/// What both ends know.
#[derive(Debug, Default)]
struct Shared {
    /// Of diffs that wait.
    bytes: AtomicU64,
    /// A diff was left out: nothing that comes later can be used.
    gap: AtomicBool,
    /// What was watched is of the past.
    moved: AtomicBool,
}

/// The shard's end.
#[derive(Debug)]
pub(crate) struct Sender {
    diffs: mpsc::UnboundedSender<RawDiff>,
    shared: Arc<Shared>,
    bytes_max: u64,
}

/// The subscriber's end.
#[derive(Debug)]
pub(crate) struct Receiver {
    diffs: mpsc::UnboundedReceiver<RawDiff>,
    shared: Arc<Shared>,
}

/// What came of sending.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sent {
    /// It waits to be taken.
    Queued,
    /// Nobody will take it, so that the sender is of no use any more: the receiver is gone, or has a gap.
    Ended,
}

/// What a subscriber receives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Received {
    Diff(RawDiff),
    /// Something is missing here.
    Gap,
    /// What was watched has another place now.
    Moved,
    /// The shard ended.
    Ended,
}

/// Both ends of a queue that holds at most so many bytes.
pub(crate) fn queue(bytes_max: u64) -> (Sender, Receiver) {
    let (sender, receiver) = mpsc::unbounded();
    let shared = Arc::new(Shared::default());
    let receiver = Receiver { diffs: receiver, shared: Arc::clone(&shared) };
    (Sender { diffs: sender, shared, bytes_max }, receiver)
}

impl Sender {
    /// Queues a diff, or marks a gap if that would be too much.
    pub(crate) fn send(&self, diff: RawDiff) -> Sent {
        let bytes = diff.bytes();
        // The other side only takes away, so this can be too strict by what it takes just now.
        if self.shared.bytes.load(Ordering::Relaxed).saturating_add(bytes) > self.bytes_max {
            self.shared.gap.store(true, Ordering::Release);
            return Sent::Ended;
        }
        self.shared.bytes.fetch_add(bytes, Ordering::Relaxed);
        match self.diffs.unbounded_send(diff) {
            Ok(()) => Sent::Queued,
            Err(_) => Sent::Ended,
        }
    }

    /// Nothing more comes, since what was watched has another place now; whoever calls this drops the sender.
    pub(crate) fn cut(&self) {
        self.shared.moved.store(true, Ordering::Release);
    }

    /// Whether nothing waits.
    pub(crate) fn is_empty(&self) -> bool {
        self.shared.bytes.load(Ordering::Relaxed) == 0
    }

    /// Whether the receiver was dropped.
    pub(crate) fn is_abandoned(&self) -> bool {
        self.diffs.is_closed()
    }
}

impl Receiver {
    /// The next diff. A gap comes before the diffs that wait in front of it: they are of no use when the value
    /// is read anew. Dropping the future loses nothing.
    pub(crate) async fn next(&mut self) -> Received {
        if self.shared.moved.load(Ordering::Acquire) {
            return Received::Moved;
        }
        if self.has_gap() {
            return Received::Gap;
        }
        match Pin::new(&mut self.diffs).next().await {
            Some(diff) => {
                self.shared.bytes.fetch_sub(diff.bytes(), Ordering::Relaxed);
                Received::Diff(diff)
            }
            None if self.shared.moved.load(Ordering::Acquire) => Received::Moved,
            None if self.has_gap() => Received::Gap,
            None => Received::Ended,
        }
    }

    fn has_gap(&self) -> bool {
        self.shared.gap.load(Ordering::Acquire)
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    fn diff(to: u64, value_bytes: usize) -> RawDiff {
        let put = RawWrite::Put(Box::from(*b"key"), vec![0; value_bytes].into());
        RawDiff { from: MicrobatchId(to - 1), to: MicrobatchId(to), writes: vec![put] }
    }

    #[test]
    fn more_than_the_bound_is_a_gap_and_less_is_not() {
        let each = diff(1, 100).bytes();
        let (sender, mut receiver) = queue(3 * each);
        for to in 1..=9 {
            assert_eq!(sender.send(diff(to, 100)), Sent::Queued);
            assert_eq!(receiver.next().now_or_never(), Some(Received::Diff(diff(to, 100))));
        }
        assert_eq!(receiver.next().now_or_never(), None);
        for to in 10..=12 {
            assert_eq!(sender.send(diff(to, 100)), Sent::Queued);
        }
        assert_eq!(sender.send(diff(13, 100)), Sent::Ended);
        assert_eq!(receiver.next().now_or_never(), Some(Received::Gap));
    }

    #[test]
    fn each_end_learns_that_the_other_one_is_gone() {
        let (sender, mut receiver) = queue(1 << 20);
        assert_eq!(sender.send(diff(1, 1)), Sent::Queued);
        drop(sender);
        assert!(matches!(receiver.next().now_or_never(), Some(Received::Diff(_))));
        assert_eq!(receiver.next().now_or_never(), Some(Received::Ended));
        let (sender, receiver) = queue(1 << 20);
        assert!(!sender.is_abandoned());
        drop(receiver);
        assert!(sender.is_abandoned());
        assert_eq!(sender.send(diff(1, 1)), Sent::Ended);
    }
}
