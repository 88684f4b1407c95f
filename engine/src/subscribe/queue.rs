//! From a shard to one subscriber: an ordered queue that is bounded in bytes and never waits.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockWriteGuard};
use std::task::Poll;

use futures_util::task::AtomicWaker;

use crate::types::MicrobatchId;

/// What one microbatch did to what is subscribed; nothing, if there are no writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RawDiff {
    /// The id up to which the subscriber was told before.
    pub(crate) from: MicrobatchId,
    pub(crate) to: MicrobatchId,
    pub(crate) made: Arc<Made>,
}

/// What was made of a run for all who subscribed the same.
#[derive(Debug, Default)]
pub(crate) struct Made {
    /// To be done in this order.
    writes: Vec<RawWrite>,
    bytes: u64,
    /// In so many queues it waits: the memory is counted once.
    queues: AtomicUsize,
}

impl PartialEq for Made {
    fn eq(&self, other: &Self) -> bool {
        self.writes == other.writes
    }
}

impl Eq for Made {}

impl Made {
    pub(crate) fn new(writes: Vec<RawWrite>) -> Self {
        let bytes = writes.iter().map(|write| write.bytes() as u64).sum();
        Self { writes, bytes, queues: AtomicUsize::new(0) }
    }

    /// The writes.
    pub(crate) fn writes(&self) -> &[RawWrite] {
        &self.writes
    }
}

/// A write, with whole row keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum RawWrite {
    /// Every row from the first key up to the second is gone; without the second, every row above.
    GoneRange(Box<[u8]>, Option<Box<[u8]>>),
    /// A row has a value.
    Put(Box<[u8]>, Box<[u8]>),
    /// A row is gone.
    Gone(Box<[u8]>),
}

/// About what a diff, or a write in it, takes beside its bytes.
pub(crate) const OVERHEAD_BYTES: usize = 64;

impl RawWrite {
    /// About how much memory it takes.
    pub(crate) fn bytes(&self) -> usize {
        OVERHEAD_BYTES
            + match self {
                Self::GoneRange(from, to) => from.len() + to.as_ref().map_or(0, |to| to.len()),
                Self::Put(key, value) => key.len() + value.len(),
                Self::Gone(key) => key.len(),
            }
    }
}

impl RawDiff {
    /// About how much memory it takes in a queue, if nobody shared it.
    fn bytes(&self) -> u64 {
        OVERHEAD_BYTES as u64 + self.made.bytes
    }

    /// It begins to wait in a queue; gives how much more memory is taken by all that waits.
    fn enter(&self) -> u64 {
        let is_first = self.made.queues.fetch_add(1, Ordering::Relaxed) == 0;
        OVERHEAD_BYTES as u64 + if is_first { self.made.bytes } else { 0 }
    }

    /// It does not wait there any more; gives how much less memory is taken.
    fn leave(&self) -> u64 {
        let is_last = self.made.queues.fetch_sub(1, Ordering::Relaxed) == 1;
        OVERHEAD_BYTES as u64 + if is_last { self.made.bytes } else { 0 }
    }
}

/// What both ends hold. The lock is taken for a few instructions at a time, by one end or the other.
#[derive(Debug)]
struct Shared {
    waiting: RwLock<Waiting>,
    /// The subscriber, if it waits for a diff.
    subscriber: AtomicWaker,
    /// Bytes that wait in all queues of the shard; what waits in several is counted once.
    of_shard: Arc<AtomicU64>,
}

#[derive(Debug, Default)]
struct Waiting {
    diffs: VecDeque<RawDiff>,
    bytes: u64,
    end: Option<End>,
}

/// Why nothing is sent any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// A diff was left out, and those that waited with it: nothing that comes later could be used.
    Gap,
    /// What was watched has another place now, and what waited is of the one before.
    Moved,
    /// There is no sender any more.
    Ended,
    /// There is no receiver any more.
    Abandoned,
}

impl Waiting {
    /// All that waited, and how much less memory that takes.
    fn take(&mut self) -> (VecDeque<RawDiff>, u64) {
        self.bytes = 0;
        let gone = std::mem::take(&mut self.diffs);
        let bytes = gone.iter().map(RawDiff::leave).sum();
        (gone, bytes)
    }
}

impl Shared {
    fn waiting(&self) -> RwLockWriteGuard<'_, Waiting> {
        self.waiting.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends it for this reason, if it has not ended; and gives out what waited if nobody will take it.
    fn end(&self, end: End) -> VecDeque<RawDiff> {
        let mut waiting = self.waiting();
        let (gone, bytes) = match *waiting.end.get_or_insert(end) {
            End::Ended => Default::default(),
            End::Gap | End::Moved | End::Abandoned => waiting.take(),
        };
        drop(waiting);
        self.of_shard.fetch_sub(bytes, Ordering::Relaxed);
        self.subscriber.wake();
        gone
    }
}

/// The shard's end.
#[derive(Debug)]
pub(crate) struct Sender {
    shared: Arc<Shared>,
    bytes_max: u64,
}

/// The subscriber's end.
#[derive(Debug)]
pub(crate) struct Receiver {
    shared: Arc<Shared>,
}

/// What came of sending.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Sent {
    /// It waits to be taken.
    Queued,
    /// Nobody will take it, so that the sender is of no use any more: the receiver is gone, or has a gap. With what
    /// waited, which takes time to drop.
    Ended(VecDeque<RawDiff>),
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

/// Both ends of a queue that holds at most so many bytes, which `of_shard` counts, too.
pub(crate) fn queue(bytes_max: u64, of_shard: &Arc<AtomicU64>) -> (Sender, Receiver) {
    let shared = Arc::new(Shared {
        waiting: RwLock::default(),
        subscriber: AtomicWaker::new(),
        of_shard: Arc::clone(of_shard),
    });
    let receiver = Receiver { shared: Arc::clone(&shared) };
    (Sender { shared, bytes_max }, receiver)
}

impl Sender {
    /// Queues a diff, or makes a gap if that would be too much.
    pub(crate) fn send(&self, diff: RawDiff) -> Sent {
        let bytes = diff.bytes();
        let mut waiting = self.shared.waiting();
        if waiting.end.is_some() || waiting.bytes.saturating_add(bytes) > self.bytes_max {
            drop(waiting);
            return Sent::Ended(self.give_up());
        }
        waiting.bytes += bytes;
        // Before it can be taken, so that the sum is never below what waits.
        self.shared.of_shard.fetch_add(diff.enter(), Ordering::Relaxed);
        waiting.diffs.push_back(diff);
        drop(waiting);
        self.shared.subscriber.wake();
        Sent::Queued
    }

    /// Whether a diff would be queued whose writes take so many bytes.
    pub(crate) fn has_room(&self, writes_bytes: u64) -> bool {
        let bytes = OVERHEAD_BYTES as u64 + writes_bytes;
        let waiting = self.shared.waiting();
        waiting.end.is_none() && waiting.bytes.saturating_add(bytes) <= self.bytes_max
    }

    /// Makes a gap in place of what waits, which it gives out.
    pub(crate) fn give_up(&self) -> VecDeque<RawDiff> {
        self.shared.end(End::Gap)
    }

    /// Nothing more comes, since what was watched has another place now; gives out what waited.
    pub(crate) fn cut(&self) -> VecDeque<RawDiff> {
        self.shared.end(End::Moved)
    }

    /// How many bytes wait.
    pub(crate) fn bytes(&self) -> u64 {
        self.shared.waiting().bytes
    }

    /// Whether the receiver was dropped.
    pub(crate) fn is_abandoned(&self) -> bool {
        self.shared.waiting().end == Some(End::Abandoned)
    }
}

/// What waits can still be taken.
impl Drop for Sender {
    fn drop(&mut self) {
        drop(self.shared.end(End::Ended));
    }
}

impl Receiver {
    /// The next diff. A gap comes in place of the diffs that waited in front of it: they are of no use when the
    /// value is read anew. Dropping the future loses nothing.
    pub(crate) async fn next(&mut self) -> Received {
        poll_fn(|context| {
            // Before a look, so that what is sent after it wakes.
            self.shared.subscriber.register(context.waker());
            let mut waiting = self.shared.waiting();
            if let Some(diff) = waiting.diffs.pop_front() {
                waiting.bytes -= diff.bytes();
                drop(waiting);
                self.shared.of_shard.fetch_sub(diff.leave(), Ordering::Relaxed);
                return Poll::Ready(Received::Diff(diff));
            }
            match waiting.end {
                None => Poll::Pending,
                Some(End::Gap) => Poll::Ready(Received::Gap),
                Some(End::Moved) => Poll::Ready(Received::Moved),
                Some(End::Ended | End::Abandoned) => Poll::Ready(Received::Ended),
            }
        })
        .await
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        let mut waiting = self.shared.waiting();
        let (gone, bytes) = waiting.take();
        waiting.end = Some(End::Abandoned);
        drop(waiting);
        self.shared.of_shard.fetch_sub(bytes, Ordering::Relaxed);
        drop(gone);
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    fn diff(to: u64, value_bytes: usize) -> RawDiff {
        let put = RawWrite::Put(Box::from(*b"key"), vec![0; value_bytes].into());
        let made = Arc::new(Made::new(vec![put]));
        RawDiff { from: MicrobatchId(to - 1), to: MicrobatchId(to), made }
    }

    #[test]
    fn more_than_the_bound_is_a_gap_and_less_is_not() {
        let each = diff(1, 100).bytes();
        let all = Arc::default();
        let (sender, mut receiver) = queue(3 * each, &all);
        for to in 1..=9 {
            assert_eq!(sender.send(diff(to, 100)), Sent::Queued);
            assert_eq!(all.load(Ordering::Relaxed), each);
            assert_eq!(receiver.next().now_or_never(), Some(Received::Diff(diff(to, 100))));
        }
        assert_eq!(receiver.next().now_or_never(), None);
        for to in 10..=12 {
            assert_eq!(sender.send(diff(to, 100)), Sent::Queued);
        }
        assert_eq!((sender.bytes(), all.load(Ordering::Relaxed)), (3 * each, 3 * each));
        // What waited takes no memory any more, whether the receiver looks or not.
        let waited = (10..=12).map(|to| diff(to, 100)).collect();
        assert_eq!(sender.send(diff(13, 100)), Sent::Ended(waited));
        assert_eq!((sender.bytes(), all.load(Ordering::Relaxed)), (0, 0));
        assert_eq!(sender.send(diff(14, 1)), Sent::Ended(VecDeque::new()));
        assert_eq!(receiver.next().now_or_never(), Some(Received::Gap));
        drop(sender);
        assert_eq!(receiver.next().now_or_never(), Some(Received::Gap));
    }

    #[test]
    fn what_is_cut_is_of_no_use_any_more() {
        let all = Arc::default();
        let (sender, mut receiver) = queue(1 << 20, &all);
        assert_eq!(sender.send(diff(1, 1)), Sent::Queued);
        assert_eq!(sender.cut(), [diff(1, 1)]);
        assert_eq!((sender.bytes(), all.load(Ordering::Relaxed)), (0, 0));
        assert_eq!(receiver.next().now_or_never(), Some(Received::Moved));
        drop(sender);
        assert_eq!(receiver.next().now_or_never(), Some(Received::Moved), "that is why it ended");
    }

    #[test]
    fn what_waits_in_several_queues_is_counted_once() {
        let all = Arc::default();
        let shared = diff(1, 1_000);
        let ends: Vec<_> = (0..10).map(|_| queue(1 << 20, &all)).collect();
        for (sender, _) in &ends {
            assert!(sender.has_room(1_000));
            assert_eq!(sender.send(shared.clone()), Sent::Queued);
        }
        let each = OVERHEAD_BYTES as u64;
        let waits = || all.load(Ordering::Relaxed);
        assert_eq!(waits(), shared.made.bytes + 10 * each);
        // Taken, given up and abandoned: whoever is last gives it back.
        let (last, mut others): (Vec<_>, Vec<_>) =
            ends.into_iter().enumerate().partition(|(nth, _)| *nth == 9);
        for (nth, (sender, receiver)) in &mut others {
            match *nth % 2 {
                0 => assert!(matches!(receiver.next().now_or_never(), Some(Received::Diff(_)))),
                _ => drop(sender.give_up()),
            }
        }
        assert_eq!(waits(), shared.made.bytes + each);
        drop(last);
        assert_eq!(waits(), 0);
        let (sender, _receiver) = queue(1_000, &all);
        assert!(!sender.has_room(1_000) && sender.has_room(900));
    }

    #[test]
    fn each_end_learns_that_the_other_one_is_gone() {
        let all = Arc::default();
        let (sender, mut receiver) = queue(1 << 20, &all);
        assert_eq!(sender.send(diff(1, 1)), Sent::Queued);
        drop(sender);
        assert!(matches!(receiver.next().now_or_never(), Some(Received::Diff(_))));
        assert_eq!(receiver.next().now_or_never(), Some(Received::Ended));
        let (sender, receiver) = queue(1 << 20, &all);
        assert_eq!(sender.send(diff(1, 1)), Sent::Queued);
        assert!(!sender.is_abandoned());
        drop(receiver);
        assert!(sender.is_abandoned());
        assert_eq!(all.load(Ordering::Relaxed), 0);
        assert!(matches!(sender.send(diff(1, 1)), Sent::Ended(_)));
    }

    #[test]
    fn who_waits_is_woken_by_a_diff_a_gap_a_cut_and_the_end() {
        let all = Arc::default();
        for end in 0..4 {
            let (sender, mut receiver) = queue(1 << 10, &all);
            let (woken, waker) = counting_waker();
            let mut next = std::pin::pin!(receiver.next());
            let mut context = std::task::Context::from_waker(&waker);
            assert!(next.as_mut().poll(&mut context).is_pending());
            assert_eq!(woken.load(Ordering::Relaxed), 0);
            match end {
                0 => drop(sender.send(diff(1, 1))),
                1 => drop(sender.send(diff(1, 2 << 10))),
                2 => drop(sender.cut()),
                _ => drop(sender),
            }
            assert_eq!(woken.load(Ordering::Relaxed), 1);
            assert!(next.as_mut().poll(&mut context).is_ready());
        }
    }

    /// A waker that counts.
    fn counting_waker() -> (Arc<AtomicU64>, std::task::Waker) {
        struct Counts(Arc<AtomicU64>);
        impl std::task::Wake for Counts {
            fn wake(self: Arc<Self>) {
                self.0.fetch_add(1, Ordering::Relaxed);
            }
        }
        let count = Arc::default();
        (Arc::clone(&count), Arc::new(Counts(count)).into())
    }
}
