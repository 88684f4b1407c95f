//! What every seed must contain, so that a seed which tests little is itself a failure. The scenario goes on
//! until it is there, up to a bound.

use std::collections::BTreeMap;

use tidemill::journal::{JournalId, parse_slot};

use super::Shared;
use crate::scenario::{Failure, check};
use crate::world::World;

const NAME: &str = "contents";

const SHARDS_MIN: u16 = 2;
const APPENDS_MIN: u64 = 300;
const MICROBATCHES_MIN: u64 = 30;
const CRASHES_MIN: u64 = 3;
const SNAPSHOTS_MIN: u64 = 3;
const FOLLOWED_MIN: u64 = 3;
const IO_FAULTS_MIN: u64 = 20;
/// Of each partition, and every partition is appended to.
pub(super) const FOLDS_MIN: u64 = 2;

/// Lives with trouble in a seed; more if they contained too little, up to a bound.
const LIVES_MIN: u64 = 3;
const LIVES_MAX: u64 = 40;

/// Rounds of work of the life without faults.
const ROUNDS_MAX: u64 = 60;

/// Counters that more than one place needs.
pub(super) const OTHER_SHARDS: &str = "openings by another number of shards";
pub(super) const SNAPSHOTS: &str = "snapshots read";
pub(super) const FOLLOWED: &str = "values of subscribers compared";
pub(super) const CRASHES_AMID: &str = "crashes amid a migration";
pub(super) const REUSED: &str = "reused journal files";

/// Whether the lives with trouble contained what only they can.
pub(super) fn troubled_enough(world: &World, shared: &Shared, lives: u64) -> Result<bool, Failure> {
    let enough = LIVES_MIN <= lives
        && CRASHES_MIN <= shared.node.crashes()
        && APPENDS_MIN <= shared.counted("appends")
        && IO_FAULTS_MIN <= world.counts().io_faults();
    check(NAME, enough || lives < LIVES_MAX, || {
        format!("{lives} lives were not enough: {:?}", shared.outcome.borrow().counters)
    })?;
    Ok(enough)
}

/// Whether the rounds of the life without faults made up for what was missing.
pub(super) fn worked_enough(shared: &Shared, rounds: u64) -> Result<bool, Failure> {
    note_reuse(shared);
    let enough = FOLDS_MIN <= rounds
        && APPENDS_MIN <= shared.counted("acknowledged")
        && MICROBATCHES_MIN <= shared.history.borrow().microbatches()
        && SNAPSHOTS_MIN <= shared.counted(SNAPSHOTS)
        && FOLLOWED_MIN <= shared.counted(FOLLOWED)
        && 0 < shared.counted(REUSED);
    check(NAME, enough || rounds < ROUNDS_MAX, || {
        format!("{rounds} rounds were not enough: {:?}", shared.outcome.borrow().counters)
    })?;
    Ok(enough)
}

/// Judges the whole seed, before its data is damaged.
pub(super) fn judge(world: &World, shared: &Shared, folds_least: u64) -> Result<(), Failure> {
    let deals = u64::from(shared.shape.deals);
    let contained = [
        ("shards", u64::from(shared.shards_max.get()), u64::from(SHARDS_MIN)),
        ("acknowledged appends", shared.counted("acknowledged"), APPENDS_MIN),
        ("microbatches", shared.history.borrow().microbatches(), MICROBATCHES_MIN),
        (SNAPSHOTS, shared.counted(SNAPSHOTS), SNAPSHOTS_MIN),
        (FOLLOWED, shared.counted(FOLLOWED), FOLLOWED_MIN),
        ("crashes", shared.node.crashes(), CRASHES_MIN),
        ("I/O faults", world.counts().io_faults(), IO_FAULTS_MIN),
        ("folds of the partition folded least", folds_least, FOLDS_MIN),
        (REUSED, shared.counted(REUSED), 1),
        (OTHER_SHARDS, shared.counted(OTHER_SHARDS), deals),
    ];
    for (what, count, least) in contained {
        check(NAME, least <= count, || format!("{count} {what}, {least} must be"))?;
    }
    Ok(())
}

/// Counts the journals that have written more files than they have: those use some of them again.
pub(super) fn note_reuse(shared: &Shared) {
    let disk = shared.node.disk();
    let mut journals: BTreeMap<JournalId, (u64, u64)> = BTreeMap::new();
    for path in disk.paths() {
        let Some((id, _)) = path.strip_prefix("journal/").and_then(parse_slot) else { continue };
        let (files, number_max) = journals.entry(id).or_default();
        *files += 1;
        // The number of the file stands in its first frame; see the journal's format.
        let head = disk.head(&path);
        if let Some(number) = head.get(48..56).filter(|_| head.starts_with(b"TMJF")) {
            let number = u64::from_le_bytes(number.try_into().expect("8 bytes"));
            *number_max = number.max(*number_max);
        }
    }
    let reused = journals.values().filter(|(files, number_max)| number_max > files).count() as u64;
    shared.count(REUSED, reused);
}
