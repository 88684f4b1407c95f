//! Depots that do not keep everything, and topologies that begin elsewhere than at the first record.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tidemill::module::{Depot, Module, StartAt};
use tidemill::schema::aggregate::{Count, Sum};
use tidemill::schema::{Map, PState, Single};
use tidemill::topology::Failure;
use tidemill::types::{Offset, PartitionId, WallTime};
use tidemill::{Engine, Error, Launched, Options, block_on, verify};

use crate::kit::{close, directory, files, options, until};

/// Files of depots are small, so that some are full soon.
fn small() -> Options {
    let mut options = options(2);
    options.depot.segment_bytes_max = 64 << 10;
    options.depot.allocation_bytes_min = 16 << 10;
    options.depot.block_bytes = 4 << 10;
    options.depot.tail_bytes_max = 8 << 10;
    options
}

const KEPT: u64 = 50;

struct Club {
    plays: Depot<Play>,
    /// How many there were, and the sum of their numbers.
    total: PState<Single<u64>>,
    sum: PState<Map<u8, u64>>,
}

type Play = (u64, String);

fn club(m: &Module) -> Club {
    keeping(m, KEPT)
}

fn keeping(m: &Module, records: u64) -> Club {
    let plays = m.depot::<Play>("plays").keep_records(records).single();
    let t = m.microbatch(|| "points");
    t.order_free();
    let total = t.pstate::<Single<u64>>("total");
    let sum = t.pstate::<Map<u8, u64>>("sum");
    t.source(plays).aggregate((total, sum), |(total, sum), (number, _)| {
        (total.whole().add(Count), sum.key(0).add(Sum(number)))
    });
    Club { plays, total: total.reader(), sum: sum.reader() }
}

/// Appends records with these numbers, of about 1 KiB each. What one fold writes goes into one file, and it is the
/// next one that begins another: so a few of them.
fn append<H>(to: &Launched<H>, plays: Depot<Play>, numbers: std::ops::Range<u64>) {
    for number in numbers {
        block_on(to.append(plays, &(number, "x".repeat(1_000)))).unwrap();
        if number % 70 == 0 {
            block_on(to.engine().fold()).unwrap();
        }
    }
}

fn range<H>(of: &Launched<H>, plays: Depot<Play>) -> std::ops::Range<u64> {
    let range = block_on(of.depot_range(plays, PartitionId(0))).unwrap();
    range.start.0..range.end.0
}

#[test]
fn what_is_beyond_the_bound_goes_once_it_was_read_and_nothing_of_the_state_does() {
    let dir = directory("trimming");
    for life in 0..3 {
        let engine = block_on(Engine::open(&dir, small())).unwrap();
        let it = block_on(engine.launch("club", club)).unwrap();
        drop(engine);
        append(&it, it.plays, life * 400..(life + 1) * 400);
        block_on(it.caught_up("points")).unwrap();
        block_on(it.engine().fold()).unwrap();
        let (all, kept) = ((life + 1) * 400, range(&it, it.plays));
        assert_eq!(kept.end, all);
        assert!(kept.start > life * 400, "{kept:?}: files of this life went");
        assert!(kept.start <= all - KEPT, "{kept:?}: the newest are kept");
        let read = block_on(it.read_depot(it.plays, PartitionId(0), Offset(kept.start - 1), 10));
        assert!(matches!(read, Err(Error::Trimmed { .. })), "{read:?}");
        let read =
            block_on(it.read_depot(it.plays, PartitionId(0), Offset(kept.start), 1)).unwrap();
        assert_eq!(read[0].record.0, kept.start);
        assert_eq!(block_on(it.select(it.total.whole())).unwrap(), Some(all));
        assert_eq!(block_on(it.select(it.sum.key(0))).unwrap(), Some(all * (all - 1) / 2));

        // What is not there any more cannot be read again.
        let refused = block_on(it.recompute("points")).unwrap_err().to_string();
        assert!(refused.contains("`plays` has no records below"), "{refused}");
        close(it);
    }
    let report = verify::directory(&files(&dir), &mut |_| {});
    assert!(report.findings.is_empty(), "{:?}", report.findings);

    // A backup has what is left, opens, and goes on.
    let target = directory("trimming_backup");
    let it = block_on(block_on(Engine::open(&dir, small())).unwrap().launch("club", club)).unwrap();
    let backup = block_on(it.engine().backup(&target)).unwrap();
    let kept = range(&it, it.plays);
    close(it);
    let engine = block_on(Engine::open(&backup.directory, small())).unwrap();
    let it = block_on(engine.launch("club", club)).unwrap();
    drop(engine);
    assert_eq!(range(&it, it.plays), kept);
    append(&it, it.plays, 1_200..1_201);
    block_on(it.caught_up("points")).unwrap();
    assert_eq!(block_on(it.select(it.total.whole())).unwrap(), Some(1_201));
    close(it);
}

#[test]
fn what_a_topology_has_still_to_read_is_kept() {
    static IS_HELD: AtomicBool = AtomicBool::new(true);
    let dir = directory("trimming_readers");
    let engine = block_on(Engine::open(&dir, small())).unwrap();
    let it = block_on(engine.launch("club", |m| {
        let club = club(m);
        let slow = m.microbatch(|| "slow");
        let seen = slow.pstate::<Single<u64>>("seen");
        slow.source(club.plays).using(seen).for_each(async |at, seen, (number, _): Play| {
            if IS_HELD.load(Ordering::SeqCst) {
                return Err(Failure::retry("it is held"));
            }
            Ok(at.put(seen.whole(), number)?)
        });
        (club, seen.reader())
    }))
    .unwrap();
    drop(engine);
    let (club, seen) = (&it.0, it.1);
    append(&it, club.plays, 0..400);
    block_on(it.caught_up("points")).unwrap();
    block_on(it.engine().fold()).unwrap();
    assert_eq!(range(&it, club.plays).start, 0, "`slow` has read nothing");

    IS_HELD.store(false, Ordering::SeqCst);
    block_on(it.caught_up("slow")).unwrap();
    append(&it, club.plays, 400..401);
    block_on(it.caught_up("slow")).unwrap();
    block_on(it.caught_up("points")).unwrap();
    block_on(it.engine().fold()).unwrap();
    assert!(range(&it, club.plays).start > 0);
    assert_eq!(block_on(it.select(seen.whole())).unwrap(), Some(400));
    close(it);
}

/// The first version with another topology that begins there, and lists what it was given.
fn with_late(start: StartAt) -> impl FnOnce(&Module) -> (Club, PState<Map<u64, u64>>) {
    move |m| {
        m.version(2);
        let club = club(m);
        let late = m.microbatch(|| "late");
        late.order_free();
        let seen = late.pstate::<Map<u64, u64>>("seen");
        late.source(club.plays.starting(start))
            .aggregate(seen, |seen, (number, _)| seen.key(number).add(Count));
        (club, seen.reader())
    }
}

/// Every number that it was given, and how often.
fn seen<H>(of: &Launched<H>, seen: PState<Map<u64, u64>>) -> Vec<(u64, u64)> {
    let mut all = block_on(of.select(seen.all())).unwrap();
    all.sort_unstable();
    all
}

fn once(numbers: std::ops::Range<u64>) -> Vec<(u64, u64)> {
    numbers.map(|number| (number, 1)).collect()
}

#[test]
fn a_topology_begins_where_it_says_and_goes_on_where_it_was() {
    let starts = [
        (StartAt::Beginning, None),
        (StartAt::End, Some(300)),
        (StartAt::Newest(7), Some(293)),
        (StartAt::Newest(1_000), None),
        (StartAt::Since(WallTime(0)), None),
        (StartAt::Since(WallTime(u64::MAX)), Some(300)),
        (StartAt::Within(Duration::ZERO), Some(300)),
        (StartAt::Within(Duration::from_hours(1)), None),
    ];
    for (start, expected) in starts {
        let dir = directory("trimming_starts");
        let it = block_on(block_on(Engine::open(&dir, small())).unwrap().launch("club", club));
        let it = it.unwrap();
        append(&it, it.plays, 0..300);
        block_on(it.caught_up("points")).unwrap();
        block_on(it.engine().fold()).unwrap();
        let first = range(&it, it.plays).start;
        assert!(first > 0, "the oldest are gone");
        let expected = expected.unwrap_or(first);
        close(it);

        let engine = block_on(Engine::open(&dir, small())).unwrap();
        let it = block_on(engine.launch("club", with_late(start))).unwrap();
        drop(engine);
        block_on(it.caught_up("late")).unwrap();
        assert_eq!(seen(&it, it.1), once(expected..300), "{start:?}");
        append(&it, it.0.plays, 300..310);
        block_on(it.caught_up("late")).unwrap();
        assert_eq!(seen(&it, it.1), once(expected..310), "{start:?}");
        close(it);

        // Whatever is declared: it has begun.
        let engine = block_on(Engine::open(&dir, small())).unwrap();
        let it = block_on(engine.launch("club", with_late(StartAt::End))).unwrap();
        drop(engine);
        append(&it, it.0.plays, 310..311);
        block_on(it.caught_up("late")).unwrap();
        assert_eq!(seen(&it, it.1), once(expected..311), "{start:?}");
        // Entry by entry the same, though the depot has not all, or more.
        block_on(it.recompute("late")).unwrap();
        assert_eq!(seen(&it, it.1), once(expected..311), "{start:?}");
        close(it);
    }
}

#[test]
fn where_a_topology_begins_is_found_once_even_if_it_does_not_get_to_do_anything() {
    let dir = directory("trimming_once");
    let engine = block_on(Engine::open(&dir, small())).unwrap();
    let it = block_on(engine.launch("club", club)).unwrap();
    drop(engine);
    append(&it, it.plays, 0..10);
    close(it);

    let engine = block_on(Engine::open(&dir, small())).unwrap();
    let it = block_on(engine.launch("club", with_late(StartAt::End))).unwrap();
    drop(engine);
    close(it);

    // The first version again: `late` does not run while these are appended.
    let engine = block_on(Engine::open(&dir, small())).unwrap();
    let it = block_on(engine.launch("club", club)).unwrap();
    drop(engine);
    append(&it, it.plays, 10..20);
    block_on(it.caught_up("points")).unwrap();
    close(it);

    let engine = block_on(Engine::open(&dir, small())).unwrap();
    let it = block_on(engine.launch("club", with_late(StartAt::End))).unwrap();
    drop(engine);
    block_on(it.caught_up("late")).unwrap();
    assert_eq!(seen(&it, it.1), once(10..20));
    close(it);
}

#[test]
fn a_topology_that_was_away_while_its_records_went_says_so_and_does_nothing() {
    let dir = directory("trimming_away");
    let engine = block_on(Engine::open(&dir, small())).unwrap();
    let it = block_on(engine.launch("club", with_late(StartAt::Beginning))).unwrap();
    drop(engine);
    append(&it, it.0.plays, 0..10);
    block_on(it.caught_up("late")).unwrap();
    close(it);

    let engine = block_on(Engine::open(&dir, small())).unwrap();
    let it = block_on(engine.launch("club", club)).unwrap();
    drop(engine);
    append(&it, it.plays, 10..400);
    block_on(it.caught_up("points")).unwrap();
    block_on(it.engine().fold()).unwrap();
    assert!(range(&it, it.plays).start > 10);
    close(it);

    let engine = block_on(Engine::open(&dir, small())).unwrap();
    let it = block_on(engine.launch("club", with_late(StartAt::Beginning))).unwrap();
    drop(engine);
    let mut paused = None;
    until("it says why it does nothing", || {
        paused = block_on(it.paused("late")).unwrap();
        paused.is_some()
    });
    let paused = paused.unwrap();
    assert!(paused.contains("let go of records in partition 0"), "{paused}");
    assert_eq!(seen(&it, it.1), once(0..10));
    close(it);
}

#[test]
fn a_topology_begins_in_one_place_of_a_depot() {
    let defined = tidemill::module::define("club", |m| {
        let plays = m.depot::<Play>("plays").single();
        let t = m.microbatch(|| "t");
        let (old, new) = (t.pstate::<Single<u64>>("old"), t.pstate::<Single<u64>>("new"));
        t.source(plays).aggregate(old, |old, _| old.whole().add(Count));
        t.source(plays.starting(StartAt::End)).aggregate(new, |new, _| new.whole().add(Count));
    });
    let error = defined.unwrap_err().to_string();
    assert!(error.contains("begins to read depot `plays` in two places"), "{error}");
}

#[test]
fn what_is_young_enough_is_kept() {
    let dir = directory("trimming_time");
    let engine = block_on(Engine::open(&dir, small())).unwrap();
    let it = block_on(engine.launch("club", |m| {
        let hour = Duration::from_hours(1);
        let young = m.depot::<Play>("young").keep_for(hour).single();
        let few = m.depot::<Play>("few").keep_for(Duration::ZERO).single();
        let both = m.depot::<Play>("both").keep_records(KEPT).keep_for(hour).single();
        let t = m.microbatch(|| "t");
        let count = t.pstate::<Single<u64>>("count");
        for depot in [young, few, both] {
            t.source(depot).aggregate(count, |count, _| count.whole().add(Count));
        }
        [young, few, both]
    }))
    .unwrap();
    drop(engine);
    for &depot in it.iter() {
        append(&it, depot, 0..300);
    }
    block_on(it.caught_up("t")).unwrap();
    block_on(it.engine().fold()).unwrap();
    let first = it.map(|depot| range(&it, depot).start);
    assert_eq!((first[0], first[2]), (0, 0));
    assert!(first[1] > 0);
    close(it);
}

#[test]
fn a_recompute_of_what_is_kept_has_nothing_of_what_went_and_goes_on_from_there() {
    let with_invariant = |m: &Module| {
        let club = club(m);
        let kept = m.microbatch(|| "kept");
        let (total, sum) =
            (kept.pstate::<Single<u64>>("kept-total"), kept.pstate::<Single<u64>>("kept-sum"));
        kept.order_free();
        kept.invariant("numbers ascend", move |read| async move {
            let (total, sum) = read.select((total.whole(), sum.whole())).await?;
            let (total, sum) = (total.unwrap_or(0), sum.unwrap_or(0));
            let least = total * total.saturating_sub(1) / 2;
            if sum < least {
                Err(format!("{total} numbers add up to {sum}").into())
            } else {
                Ok(())
            }
        });
        kept.source(club.plays).aggregate((total, sum), |(total, sum), (number, _)| {
            (total.whole().add(Count), sum.whole().add(Sum(number)))
        });
        (club, total.reader(), sum.reader())
    };
    let dir = directory("trimming_kept");
    let mut all = 0;
    for _ in 0..2 {
        let engine = block_on(Engine::open(&dir, small())).unwrap();
        let it = block_on(engine.launch("club", with_invariant)).unwrap();
        drop(engine);
        let plays = it.0.plays;
        append(&it, plays, all..all + 400);
        all += 400;
        block_on(it.caught_up("kept")).unwrap();
        block_on(it.caught_up("points")).unwrap();
        block_on(it.engine().fold()).unwrap();
        let first = range(&it, plays).start;
        assert!(first > 0);

        let refused = block_on(it.recompute("kept")).unwrap_err().to_string();
        assert!(refused.contains("`plays` has no records below"), "{refused}");
        let refused = block_on(it.recompute_kept("points")).unwrap_err().to_string();
        assert!(refused.contains("has no invariant"), "{refused}");
        let recomputed = block_on(it.recompute_kept("kept")).unwrap();
        assert_eq!(recomputed.records, all);
        let holds = |of: std::ops::Range<u64>| {
            let found = block_on(it.select((it.1.whole(), it.2.whole()))).unwrap();
            assert_eq!(found, (Some(of.end - of.start), Some(of.sum())));
        };
        holds(first..all);
        append(&it, plays, all..all + 1);
        all += 1;
        block_on(it.caught_up("kept")).unwrap();
        holds(first..all);
        close(it);
    }
}

#[test]
fn another_bound_is_another_declaration() {
    let dir = directory("trimming_declared");
    let engine = block_on(Engine::open(&dir, small())).unwrap();
    let it = block_on(engine.launch("club", club)).unwrap();
    block_on(engine.launch("club", |m| keeping(m, KEPT))).unwrap();
    let again = block_on(engine.launch("club", |m| keeping(m, KEPT + 1)));
    let error = again.unwrap_err().to_string();
    assert!(error.contains("launched with other declarations"), "{error}");
    drop(engine);
    close(it);
}
