//! Changes of an aggregation on their way: combined by row, in one run of an event, and then with those of
//! other runs of the microbatch.
//!
//! ```text
//! event runs ── Combined ──> what waits on their shard ── rows ──> where each row lives
//!              (one run)     (all runs, all partitions)
//! ```
//!
//! A partial is combined with the latest one of its row, and only if the same aggregator made both: so
//! changes of a row that arose on one partition stay in their order, and combining is never seen in the
//! result. Whoever holds changes may send them at any time.

use std::any::Any;

use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::run::{Panicked, panic_of};
use super::{EventFailure, Failure, FailureKind, NodeIndex, Outgoing, Rows};
use crate::codec::KeyBuf;
use crate::schema::Data;
use crate::schema::aggregate::ChangeOps;
use crate::types::{PStateId, PartitionId};

/// Changes for one node, combined by row, of one partial type that only the node knows.
pub struct Combined {
    /// The node that applies them.
    pub node: NodeIndex,
    changes: Box<dyn Combining>,
}

impl std::fmt::Debug for Combined {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Combined").field("node", &self.node).finish_non_exhaustive()
    }
}

impl Combined {
    /// What a run leaves for `node`, if it is anything.
    pub(super) fn new<P, K>(node: NodeIndex, changes: Waiting<P, K>) -> Option<Self>
    where
        P: Data,
        K: Send + 'static,
    {
        (!changes.changes.is_empty()).then(|| Self { node, changes: Box::new(changes) })
    }

    /// Adds what a later run, on `partition`, left for the same node, whose name is `name`.
    ///
    /// # Errors
    /// The user's code that combines panicked: the attempt must not commit.
    pub(crate) fn merge(
        &mut self,
        later: Self,
        name: &str,
        partition: PartitionId,
    ) -> Result<(), EventFailure> {
        assert_eq!(self.node, later.node);
        panic_of(|| self.changes.merge(later.changes)).map_err(|panicked: Panicked| EventFailure {
            kind: FailureKind::Reject,
            origin: None,
            node: name.to_owned(),
            partition,
            failure: Failure::reject(panicked),
        })
    }

    /// About how many bytes of memory they take. Of partials that own memory, every one that was combined
    /// counts: how much of it is left, nobody knows.
    pub(crate) fn bytes(&self) -> usize {
        self.changes.bytes()
    }

    /// Sends them, in batches of at most `rows_max`.
    pub(crate) fn send(self, partitions: u32, rows_max: usize, out: &mut Vec<Outgoing>) {
        self.changes.send(self.node, partitions, rows_max, out);
    }
}

/// [`Waiting`], without its type.
trait Combining: Any + Send {
    fn merge(&mut self, later: Box<dyn Combining>);
    fn bytes(&self) -> usize;
    fn send(
        self: Box<Self>,
        node: NodeIndex,
        partitions: u32,
        rows_max: usize,
        out: &mut Vec<Outgoing>,
    );
}

impl<P: Data, K: Send + 'static> Combining for Waiting<P, K> {
    fn merge(&mut self, later: Box<dyn Combining>) {
        let later: Box<dyn Any> = later;
        let later: Box<Self> = later.downcast().expect("a node's changes are of one type");
        self.owned_bytes += later.owned_bytes;
        for (hash, to, change) in later.changes {
            self.add_hashed(hash, to, change);
        }
    }

    fn bytes(&self) -> usize {
        let changes = self.changes.len() * size_of::<(u64, PartitionId, Pending<P, K>)>();
        changes + self.slots.len() * size_of::<u32>() + self.owned_bytes
    }

    fn send(
        self: Box<Self>,
        node: NodeIndex,
        partitions: u32,
        rows_max: usize,
        out: &mut Vec<Outgoing>,
    ) {
        let mut buckets = Vec::new();
        buckets.resize_with(partitions as usize, Vec::new);
        for (_, to, change) in self.changes {
            buckets[to.0 as usize].push(change);
        }
        for (to, bucket) in (0..).map(PartitionId).zip(buckets) {
            let mut left = bucket.into_iter();
            while left.len() > 0 {
                let rows: Vec<_> = left.by_ref().take(rows_max).collect();
                out.push(Outgoing { node, to, rows: Rows::new(rows) });
            }
        }
    }
}

/// A change on its way, with what goes on from where it is applied.
pub(super) struct Pending<P: 'static, K = ()> {
    pub(super) pstate: PStateId,
    pub(super) key: KeyBuf,
    pub(super) partial: P,
    pub(super) ops: &'static ChangeOps<P>,
    /// Of changes that are combined, that of the first one stays.
    pub(super) tag: K,
}

/// Changes, combined by row: in the order of their first change, found by an open-addressed table of
/// places in it.
pub struct Waiting<P: 'static, K = ()> {
    changes: Vec<(u64, PartitionId, Pending<P, K>)>,
    /// 0 is free, else a place in `changes` plus 1: of the latest change of a row. At most half full.
    slots: Vec<u32>,
    /// Bytes of partials that were combined with others and may own memory, which those do now.
    owned_bytes: usize,
}

impl<P: 'static, K> Default for Waiting<P, K> {
    fn default() -> Self {
        Self { changes: Vec::new(), slots: Vec::new(), owned_bytes: 0 }
    }
}

impl<P: 'static, K> std::fmt::Debug for Waiting<P, K> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Waiting").field("changes", &self.changes.len()).finish_non_exhaustive()
    }
}

impl<P: 'static, K> Waiting<P, K> {
    /// Adds a change that goes to partition `to`.
    pub(super) fn add(&mut self, to: PartitionId, new: Pending<P, K>) {
        let hash = xxh3_64_with_seed(&new.key, u64::from(new.pstate.0));
        self.add_hashed(hash, to, new);
    }

    fn add_hashed(&mut self, hash: u64, to: PartitionId, new: Pending<P, K>) {
        if self.slots.len() < 2 * (self.changes.len() + 1) {
            self.grow();
        }
        let slot = self.slot(hash, |pending| {
            pending.pstate == new.pstate && pending.key.as_slice() == new.key.as_slice()
        });
        let latest = self.slots[slot] as usize;
        if let Some((_, _, before)) = latest.checked_sub(1).and_then(|at| self.changes.get_mut(at))
        {
            // Another aggregator's change of the row must stay between those before and after it, and a
            // partial that is full takes no more.
            let is_full = || new.ops.must_flush.is_some_and(|is_full| is_full(&before.partial));
            if std::ptr::eq(before.ops, new.ops) && !is_full() {
                (new.ops.combine)(&mut before.partial, new.partial);
                if std::mem::needs_drop::<P>() {
                    self.owned_bytes += size_of::<P>();
                }
                return;
            }
        }
        self.changes.push((hash, to, new));
        self.slots[slot] = place(self.changes.len());
    }

    /// The slot of a row, or the free one where it belongs.
    fn slot(&self, hash: u64, is_it: impl Fn(&Pending<P, K>) -> bool) -> usize {
        let mask = self.slots.len() - 1;
        let mut slot = usize::try_from(hash & mask as u64).expect("below a length");
        loop {
            match (self.slots[slot] as usize).checked_sub(1) {
                None => return slot,
                Some(at) => {
                    let (other, _, pending) = &self.changes[at];
                    if *other == hash && is_it(pending) {
                        return slot;
                    }
                }
            }
            slot = (slot + 1) & mask;
        }
    }

    #[cold]
    fn grow(&mut self) {
        self.slots = vec![0; (2 * self.slots.len()).max(64)];
        for at in 0..self.changes.len() {
            let (hash, _, new) = &self.changes[at];
            let slot = self.slot(*hash, |pending| {
                pending.pstate == new.pstate && pending.key.as_slice() == new.key.as_slice()
            });
            self.slots[slot] = place(at + 1);
        }
    }
}

fn place(count: usize) -> u32 {
    u32::try_from(count).expect("what waits on a shard is bounded below 2^32 changes")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::aggregate::{Adds, Last, ListOf, Sum};

    fn change(key: u8, partial: i64, ops: &'static ChangeOps<i64>) -> Pending<i64> {
        Pending { pstate: PStateId(0), key: KeyBuf::from(&[key][..]), partial, ops, tag: () }
    }

    fn run(changes: impl IntoIterator<Item = Pending<i64>>) -> Combined {
        let mut waiting = Waiting::default();
        for change in changes {
            waiting.add(PartitionId(u32::from(change.key.as_slice()[0]) % 2), change);
        }
        Combined::new(NodeIndex(3), waiting).unwrap()
    }

    /// Each batch, as the partition it goes to with keys and partials.
    fn sent(combined: Combined, rows_max: usize) -> Vec<(u32, Vec<(u8, i64)>)> {
        let mut out = Vec::new();
        combined.send(2, rows_max, &mut out);
        let batch = |sent: Outgoing| {
            assert_eq!(sent.node, NodeIndex(3));
            let rows = sent.rows.take::<Pending<i64>>().into_iter();
            (sent.to.0, rows.map(|it| (it.key.as_slice()[0], it.partial)).collect())
        };
        out.into_iter().map(batch).collect()
    }

    #[test]
    fn runs_are_combined_by_row_and_keep_the_order_of_each_row() {
        let (sum, last) = (<Sum<i64> as Adds<i64>>::OPS, <Last<i64> as Adds<i64>>::OPS);
        let mut all = run([change(1, 5, sum), change(2, 7, sum), change(1, 6, sum)]);
        let merged = all.merge(run([change(1, 1, sum), change(2, 9, last)]), "n", PartitionId(0));
        merged.unwrap();
        let merged = all.merge(run([change(2, 4, last), change(2, 1, sum)]), "n", PartitionId(0));
        merged.unwrap();
        let expected = [(0, vec![(2, 7), (2, 4), (2, 1)]), (1, vec![(1, 12)])];
        assert_eq!(sent(all, 100), expected);
    }

    #[test]
    fn what_is_sent_is_cut_into_batches() {
        let count = <Sum<i64> as Adds<i64>>::OPS;
        let mut all = run((0..100).map(|key| change(key, 1, count)));
        all.merge(run((0..50).map(|key| change(key, 1, count))), "n", PartitionId(0)).unwrap();
        let batches = sent(all, 16);
        assert!(batches.iter().all(|(_, rows)| (1..=16).contains(&rows.len())));
        assert_eq!(batches.len(), 8, "50 rows for each of two partitions");
        let rows: Vec<_> = batches.into_iter().flat_map(|(_, rows)| rows).collect();
        assert!(rows.iter().all(|&(key, partial)| partial == if key < 50 { 2 } else { 1 }));
    }

    #[test]
    fn partials_that_own_memory_count_however_often_they_are_combined() {
        let ops = <ListOf<u64> as Adds<Vec<u64>>>::OPS;
        let mut waiting = Waiting::default();
        let key = KeyBuf::from(&[1][..]);
        for n in 0..1_000 {
            let (pstate, key, partial) = (PStateId(0), key.clone(), vec![n]);
            waiting.add(PartitionId(0), Pending { pstate, key, partial, ops, tag: () });
        }
        assert_eq!(waiting.changes.len(), 1);
        assert!(waiting.bytes() >= 999 * size_of::<Vec<u64>>());
        let sum = <Sum<i64> as Adds<i64>>::OPS;
        let one = run([change(1, 1, sum)]).bytes();
        assert_eq!(run((0..1_000).map(|n| change(1, n, sum))).bytes(), one);
    }

    #[test]
    fn a_panic_while_combining_is_a_failure_of_no_record() {
        let sum = <Sum<i64> as Adds<i64>>::OPS;
        let mut all = run([change(1, i64::MAX, sum)]);
        let failure = all.merge(run([change(1, 1, sum)]), "there", PartitionId(7)).unwrap_err();
        assert_eq!((failure.kind, failure.origin), (FailureKind::Reject, None));
        let text = failure.to_string();
        assert!(
            text.contains("there") && text.contains('7') && text.contains("overflow"),
            "{text}"
        );
    }
}
