//! Credit: how much of what one shard sends to another may lie there unread, in bytes.
//!
//! ```text
//! sender: Outbox ── parts ──> receiver: queues ── events ──> consumed
//!    │  spill                                                   │
//!    '<────────────────────────── bytes ──────────────────── Owed
//! ```
//!
//! The sender counts what it has sent and not got back. What it may not send now waits in its *spill*, in
//! order, and everything later for the same shard behind it. The receiver gives back what its events have
//! consumed, once it owes more than a quarter of the limit, so that a small microbatch costs no message.
//!
//! Nobody waits for ever, whatever the sizes: when a receiver has consumed everything, it owes at most a
//! quarter of the limit; so at most a quarter is out, and while at most half of it is out, the next part may
//! be sent, however large. Therefore what lies unread is at most the limit, or half of it and one part that
//! is larger than the other half.
//!
//! An account belongs to one attempt at a microbatch and ends with it. As every attempt ends when a shard
//! does, no credit is ever lost: what was under way in either direction names an attempt that is over.

use std::collections::VecDeque;

/// The sending end: what goes from one shard to one other in one attempt.
#[derive(Debug)]
pub(super) struct Outbox<T> {
    bytes_max: u64,
    /// Sent, and not given back.
    out: u64,
    spill: VecDeque<(T, u64)>,
    spilled: u64,
}

impl<T> Outbox<T> {
    pub(super) fn new(bytes_max: u64) -> Self {
        Self { bytes_max, out: 0, spill: VecDeque::new(), spilled: 0 }
    }

    /// Gives the part back if it may be sent now, and counts it as sent. Else it waits here.
    pub(super) fn offer(&mut self, part: T, bytes: u64) -> Option<T> {
        if self.spill.is_empty() && self.may_send(bytes) {
            self.out += bytes;
            return Some(part);
        }
        self.spilled += bytes;
        self.spill.push_back((part, bytes));
        None
    }

    /// The receiver has consumed this much.
    pub(super) fn returned(&mut self, bytes: u64) {
        let left = self.out.checked_sub(bytes);
        self.out = left.expect("no more is given back than was sent");
    }

    /// The next part that may be sent, with its bytes, if one waits.
    pub(super) fn next(&mut self) -> Option<(T, u64)> {
        let bytes = self.spill.front()?.1;
        if !self.may_send(bytes) {
            return None;
        }
        self.out += bytes;
        self.spilled -= bytes;
        self.spill.pop_front()
    }

    /// Bytes that wait here.
    pub(super) fn spilled_bytes(&self) -> u64 {
        self.spilled
    }

    fn may_send(&self, bytes: u64) -> bool {
        self.out <= self.bytes_max / 2 || self.out.saturating_add(bytes) <= self.bytes_max
    }
}

/// The receiving end: what one other shard is owed in one attempt.
#[derive(Debug)]
pub(super) struct Owed {
    bytes_max: u64,
    bytes: u64,
}

impl Owed {
    /// Of an account with the same limit as the sender's.
    pub(super) fn new(bytes_max: u64) -> Self {
        Self { bytes_max, bytes: 0 }
    }

    /// Something was consumed; what must be given back now, if anything.
    #[must_use]
    pub(super) fn consumed(&mut self, bytes: u64) -> Option<u64> {
        self.bytes += bytes;
        (self.bytes > self.bytes_max / 4).then(|| std::mem::take(&mut self.bytes))
    }
}

/// The limit of one account where `shards` share the work: what all others send to one shard together must
/// not make a microbatch too large there, and leaves it room for what it writes.
pub(super) fn bytes_max(hop_bytes_max: u64, microbatch_bytes_max: u64, shards: u16) -> u64 {
    let senders = u64::from(shards).saturating_sub(1).max(1);
    hop_bytes_max.min(microbatch_bytes_max / 4 / senders)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Deterministic numbers (`SplitMix64`).
    struct Numbers(u64);

    impl Numbers {
        fn below(&mut self, bound: u64) -> u64 {
            self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            (mixed ^ (mixed >> 31)) % bound
        }
    }

    /// Both ends, what is under way between them, and what an attempt is known to have sent.
    struct World {
        bytes_max: u64,
        attempt: u64,
        outbox: Outbox<u64>,
        owed: Owed,
        /// Parts on their way, each with its attempt, number and bytes.
        rows: VecDeque<(u64, u64, u64)>,
        /// Parts that the receiver holds.
        queue: VecDeque<(u64, u64)>,
        /// Credit on its way back.
        credit: VecDeque<(u64, u64)>,
        offered: u64,
        consumed: u64,
        spilled_ever: bool,
    }

    impl World {
        fn new(bytes_max: u64) -> Self {
            Self {
                bytes_max,
                attempt: 0,
                outbox: Outbox::new(bytes_max),
                owed: Owed::new(bytes_max),
                rows: VecDeque::new(),
                queue: VecDeque::new(),
                credit: VecDeque::new(),
                offered: 0,
                consumed: 0,
                spilled_ever: false,
            }
        }

        fn offer(&mut self, bytes: u64) {
            let number = self.offered;
            self.offered += 1;
            match self.outbox.offer(number, bytes) {
                Some(number) => self.rows.push_back((self.attempt, number, bytes)),
                None => self.spilled_ever = true,
            }
        }

        fn deliver(&mut self) -> bool {
            let Some((attempt, number, bytes)) = self.rows.pop_front() else { return false };
            if attempt == self.attempt {
                self.queue.push_back((number, bytes));
            }
            true
        }

        fn consume(&mut self) -> bool {
            let Some((number, bytes)) = self.queue.pop_front() else { return false };
            assert_eq!(number, self.consumed, "parts arrive in the order sent");
            self.consumed += 1;
            if let Some(back) = self.owed.consumed(bytes) {
                self.credit.push_back((self.attempt, back));
            }
            true
        }

        fn give_back(&mut self) -> bool {
            let Some((attempt, bytes)) = self.credit.pop_front() else { return false };
            if attempt == self.attempt {
                self.outbox.returned(bytes);
                while let Some((number, bytes)) = self.outbox.next() {
                    self.rows.push_back((self.attempt, number, bytes));
                }
            }
            true
        }

        /// The attempt is given up, or a shard dies: nothing under way is called back.
        fn abort(&mut self) {
            self.attempt += 1;
            self.outbox = Outbox::new(self.bytes_max);
            self.owed = Owed::new(self.bytes_max);
            self.queue.clear();
            (self.offered, self.consumed) = (0, 0);
        }

        fn check(&self, part_max: u64) {
            let now = |attempt: &u64| *attempt == self.attempt;
            let under_way: u64 =
                self.rows.iter().filter(|it| now(&it.0)).map(|it| it.2).sum::<u64>()
                    + self.queue.iter().map(|it| it.1).sum::<u64>();
            let coming: u64 = self.credit.iter().filter(|it| now(&it.0)).map(|it| it.1).sum();
            assert_eq!(self.outbox.out, under_way + self.owed.bytes + coming, "nothing leaks");
            let bound = self.bytes_max.max(self.bytes_max / 2 + part_max);
            assert!(under_way <= bound, "{under_way} bytes lie unread, of {bound}");
            let waiting: u64 = self.outbox.spill.iter().map(|it| it.1).sum();
            assert_eq!(self.outbox.spilled_bytes(), waiting);
        }
    }

    #[test]
    fn no_order_of_sends_receipts_and_aborts_leaks_credit_or_leaves_a_part_waiting() {
        for seed in 0..400 {
            let mut numbers = Numbers(seed);
            let bytes_max = [1, 7, 100, 4_096][usize::try_from(seed % 4).unwrap()];
            let part_max = 1 + numbers.below(2 * bytes_max);
            let mut world = World::new(bytes_max);
            for _ in 0..numbers.below(600) {
                match numbers.below(16) {
                    0..6 => world.offer(1 + numbers.below(part_max)),
                    6..9 => drop(world.deliver()),
                    9..12 => drop(world.consume()),
                    12..15 => drop(world.give_back()),
                    _ => {
                        if numbers.below(20) == 0 {
                            world.abort();
                        }
                    }
                }
                world.check(part_max);
            }
            // Left alone, everything arrives and is consumed.
            while world.deliver() || world.consume() || world.give_back() {
                world.check(part_max);
            }
            assert_eq!(world.consumed, world.offered, "seed {seed}: a part waits for ever");
            assert_eq!(world.outbox.spilled_bytes(), 0);
        }
    }

    #[test]
    fn what_waits_is_sent_in_order_and_what_comes_later_waits_behind_it() {
        let mut outbox = Outbox::new(100);
        assert_eq!(outbox.offer('a', 80), Some('a'));
        assert_eq!(outbox.offer('b', 40), None, "more than half is out, and it does not fit");
        assert_eq!(outbox.offer('c', 1), None, "it fits, but would overtake");
        assert_eq!(outbox.next(), None);
        outbox.returned(30);
        assert_eq!((outbox.next(), outbox.next()), (Some(('b', 40)), Some(('c', 1))));
        assert_eq!(outbox.offer('d', 1_000), None);
        outbox.returned(91);
        assert_eq!(outbox.next(), Some(('d', 1_000)), "however large it is");
    }

    #[test]
    fn a_small_microbatch_gets_nothing_back() {
        let mut owed = Owed::new(100);
        assert_eq!(owed.consumed(20), None);
        assert_eq!(owed.consumed(5), None);
        assert_eq!(owed.consumed(1), Some(26));
        assert_eq!(owed.consumed(1), None);
    }

    #[test]
    fn all_senders_together_leave_room_at_the_receiver() {
        assert_eq!(bytes_max(4 << 20, 32 << 20, 1), 4 << 20);
        assert_eq!(bytes_max(4 << 20, 32 << 20, 2), 4 << 20);
        assert_eq!(bytes_max(4 << 20, 32 << 20, 9), 1 << 20);
    }
}
