//! The sizes of one seed, and how many shards open the directory in each of its lives.

use std::time::Duration;

use tidemill::codec::{Placement, encode_key};
use tidemill::depot;
use tidemill::env::production::Threads;
use tidemill::node::Options;

use super::{PARTITIONS, module};
use crate::random::Random;

/// The sizes of one seed.
pub(super) struct Shape {
    pub(super) accounts: u64,
    pub(super) bulk_bytes: usize,
    /// Keys that live where the coordinator of the audit lives.
    pub(super) keys_at_audit: Vec<u64>,
    pub(super) clients: u64,
    /// How many shards it begins with; a seed that does not deal keeps to them.
    pub(super) shards: u16,
    /// This seed reopens with other numbers of shards.
    pub(super) deals: bool,
    /// In this seed the module begins as [`Era::First`](module::Era), and is launched migrated after so many
    /// lives.
    pub(super) migrates_after: Option<u64>,
    /// This seed makes backups.
    pub(super) backs_up: bool,
    /// This seed recomputes.
    pub(super) recomputes: bool,
    pub(super) options: Options,
}

impl Shape {
    pub(super) fn draw(random: &Random) -> Self {
        let lives_at_audit = |key: &u64| {
            Placement::of(&encode_key(key)).partition(PARTITIONS)
                == Placement::of(module::AUDIT.as_bytes()).partition(PARTITIONS)
        };
        let file_bytes: u32 = *random.pick(&[64 << 10, 128 << 10]);
        let bulk_bytes_min = 8 << 10;
        let accounts = random.within(12..40);
        Self {
            accounts,
            backs_up: accounts.is_multiple_of(3),
            // Half of those that do, and half of those that do not.
            recomputes: accounts.is_multiple_of(2),
            bulk_bytes: bulk_bytes_min,
            keys_at_audit: (0..64).filter(lives_at_audit).collect(),
            clients: random.within(2..6),
            shards: *random.pick(&[2, 2, 2, 3]),
            deals: random.one_in(3),
            migrates_after: random.one_in(2).then(|| random.within(1..3)),
            options: Options {
                shards: 2,
                partitions: Some(PARTITIONS),
                memory_bytes: *random.pick(&[1 << 20, 4 << 20]),
                journal_bytes_max: u64::from(file_bytes) * random.within(5..9),
                journal_file_bytes: file_bytes,
                microbatch_records_max: *random.pick(&[2, 8, 64]),
                microbatch_bytes_max: 1 << 20,
                migration_values_max: *random.pick(&[1, 1, 200]),
                recompute_share: if accounts.is_multiple_of(4) { 1.0 } else { 0.25 },
                recompute_pause_max: Duration::from_secs(10),
                // Gaps are closed by difference where it reaches back.
                history: Duration::from_millis(if accounts.is_multiple_of(2) { 40 } else { 0 }),
                history_bytes_max: Some(*random.pick(&[HISTORY_ROOMY, HISTORY_ROOMY, 128 << 10])),
                subscription_bytes_max: *random.pick(&[1 << 20, 250, 250]),
                subscriptions_max: 100_000,
                subscription_heartbeat: Duration::from_millis(10),
                hop_bytes_max: *random.pick(&[1 << 20, 1, 300, 4 << 10]),
                depot: depot::Options {
                    allocation_bytes_min: 16 << 10,
                    allocation_bytes_max: 64 << 10,
                    segment_bytes_max: *random.pick(&[48 << 10, 256 << 10]),
                    block_bytes: *random.pick(&[4 << 10, 16 << 10]),
                    tail_bytes_max: *random.pick(&[2 << 10, 32 << 10]),
                    bulk_bytes_min,
                    dedup_clients_max: 16,
                    dedup_sequences_max: 16,
                },
                threads: Threads::default(),
                event_hook: None,
            },
        }
    }

    /// How many shards open the directory next, if `last` opened it before.
    pub(super) fn next_shards(&self, last: u16, random: &Random) -> u16 {
        if self.deals && random.one_in(2) { another(last, random) } else { last }
    }
}

/// More than any life writes.
pub(super) const HISTORY_ROOMY: u64 = 64 << 20;

/// A number of shards that is not `last`.
pub(super) fn another(last: u16, random: &Random) -> u16 {
    let numbers: Vec<u16> = (1..=SHARDS_MAX).filter(|&shards| shards != last).collect();
    *random.pick(&numbers)
}

/// Enough that some shards have one partition and others have several.
const SHARDS_MAX: u16 = 4;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn audits_commit_alone() {
        assert!(Shape::draw(&Random::new(1)).keys_at_audit.len() > 2);
    }
}
