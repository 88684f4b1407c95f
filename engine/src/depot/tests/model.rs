//! Lives of one log: random operations, then a crash or a clean end, then recovery from the last
//! fold and the journal, each time compared with what a `Vec` says.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use super::crash_disk::{Chance, CrashDisk};
use super::*;

/// What the shard above would have.
#[derive(Default)]
struct World {
    /// Every record with its append time.
    records: Vec<(Vec<u8>, WallTime)>,
    /// Keys and the offsets they got.
    keys: Vec<(Key, std::ops::Range<Offset>)>,
    journal: Vec<Entry>,
    /// So many entries of the journal are durable.
    journal_durable: usize,
    /// The last fold.
    recorded: State,
    acknowledged: Offset,
    index: u64,
    torn: u32,
    /// How large the disk is.
    space: Rc<Cell<u64>>,
    refused: u32,
}

#[derive(Clone)]
struct Entry {
    end: Offset,
    what: What,
}

#[derive(Clone)]
enum What {
    Payload(Vec<u8>),
    Place(Index, Batch, WallTime),
}

type Shared = Rc<RefCell<World>>;

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Small,
    WithBulk,
}

fn batch(chance: &mut Chance, bulk: bool) -> Batch {
    let records = if bulk { 1 + chance.below(40) } else { 1 + chance.below(5) };
    let size_max = match chance.below(12) {
        0 => 9_000,
        1 if bulk => 60_000,
        _ if bulk => 1_500,
        _ => 60,
    };
    let record = |chance: &mut Chance| {
        let size = usize::try_from(chance.below(size_max + 1)).unwrap();
        vec![chance.next().to_le_bytes()[0]; size]
    };
    let records: Vec<Vec<u8>> = (0..records).map(|_| record(chance)).collect();
    Batch::of(records).unwrap()
}

fn note(world: &mut World, batch: &Batch, offsets: &std::ops::Range<Offset>, time: WallTime) {
    assert_eq!(offsets.start.0, world.records.len() as u64);
    let mut rest: &[u8] = batch.body();
    while !rest.is_empty() {
        let length = u32::from_le_bytes(*rest.first_chunk().unwrap()) as usize;
        world.records.push((rest[4..4 + length].to_vec(), time));
        rest = &rest[4 + length..];
    }
    assert_eq!(offsets.end.0, world.records.len() as u64);
    if let Some(key) = batch.key() {
        world.keys.push((key, offsets.clone()));
    }
}

/// Forgets records from `end` on.
fn truncate(world: &mut World, end: Offset) {
    world.records.truncate(usize::try_from(end.0).unwrap());
    world.keys.retain(|(_, offsets)| offsets.end <= end);
}

/// Opens, replays, compares, and forgets what the crash took.
async fn recover(env: &Env, shared: &Shared, chance: &mut Chance) -> Result<Log> {
    let (recorded, journal) = {
        let world = shared.borrow();
        (world.recorded.clone(), world.journal.clone())
    };
    let recorded = State::decode(&recorded.encode()).unwrap();
    let log = open(env, &recorded).await?;
    let mut kept = Vec::new();
    let mut cut = false;
    for entry in journal {
        match &entry.what {
            What::Payload(payload) => match log.replay(payload).await? {
                Replayed::Applied(offsets) => assert_eq!(offsets.end, entry.end),
                Replayed::Already => assert!(entry.end <= recorded.end),
                Replayed::Torn { .. } => {
                    shared.borrow_mut().torn += 1;
                    cut = true;
                }
                Replayed::BeyondCut => assert!(cut),
            },
            What::Place(index, batch, time) => {
                let placed = log.place(*index, batch, *time)?;
                match placed {
                    Some(offsets) if cut => {
                        // Committed all the same, at the cut.
                        let mut world = shared.borrow_mut();
                        truncate(&mut world, offsets.start);
                        note(&mut world, batch, &offsets, log.append_time());
                        let what = What::Place(*index, batch.clone(), *time);
                        kept.push(Entry { end: offsets.end, what });
                    }
                    Some(offsets) => assert_eq!(offsets.end, entry.end),
                    None => assert!(!cut),
                }
            }
        }
        if cut {
            // Appends behind a torn extent never were.
            continue;
        }
        assert!(log.end() >= entry.end);
        kept.push(entry);
        if chance.one_in(20) {
            log.durable(log.end());
            match log.flush().await {
                Ok(_) | Err(Error::NoSpace { .. }) => {}
                Err(error) => return Err(error),
            }
        }
    }
    let recovered = log.recovered().await?;
    assert_eq!(recovered.cut.is_some(), cut);
    {
        let mut world = shared.borrow_mut();
        world.journal_durable = kept.len();
        world.journal = kept;
        assert!(log.end() >= world.acknowledged, "acknowledged records are lost");
        assert_eq!(log.durable_end(), log.end());
        let end = usize::try_from(log.end().0).unwrap();
        assert!(end <= world.records.len());
        truncate(&mut world, log.end());
        world.acknowledged = log.end();
    }
    let first = log.first();
    let found = read_all(&log, first).await?;
    let world = shared.borrow();
    let expected = &world.records[usize::try_from(first.0).unwrap()..];
    assert!(found == expected, "records differ after recovery");
    for (key, offsets) in world.keys.iter().rev().take(2) {
        let again = Batch::of(["again"]).unwrap().with_key(*key);
        match log.append(&again, WallTime(0))? {
            Append::Repeated(first) => assert_eq!(first, *offsets),
            Append::Done(_) => panic!("a repeated append was taken for new"),
        }
    }
    drop(world);
    Ok(log)
}

async fn step(
    env: &Env,
    log: &Log,
    shared: &Shared,
    chance: &mut Chance,
    kind: Kind,
) -> Result<()> {
    let clock = WallTime(1000 + chance.below(50) + shared.borrow().records.len() as u64);
    match chance.below(16) {
        0..=4 => {
            let mut batch = batch(chance, false);
            if chance.one_in(3) {
                let sequence = chance.next();
                batch = batch.with_key(Key { client: u128::from(chance.below(3)), sequence });
            }
            let done = appended(log.append(&batch, clock)?);
            let world = &mut *shared.borrow_mut();
            note(world, &batch, &done.offsets, done.append_time);
            let what = What::Payload(done.payload.to_vec());
            world.journal.push(Entry { end: done.offsets.end, what });
        }
        5 => {
            let batch = batch(chance, false);
            let world = &mut *shared.borrow_mut();
            world.index += 1;
            let index = Index(world.index);
            let offsets = log.place(index, &batch, clock)?.expect("live, so it is new");
            note(world, &batch, &offsets, log.append_time());
            let what = What::Place(index, batch, clock);
            world.journal.push(Entry { end: offsets.end, what });
        }
        6 | 7 if kind == Kind::WithBulk => {
            let batch = batch(chance, true);
            log.reserve_bulk(batch.body().len()).await?;
            let Bulk::Done { appended, write } = log.append_bulk(&batch, clock)? else {
                panic!("no key, so not repeated")
            };
            env.spawn(Class::Core, "extent", async move { drop(write.await) });
            let world = &mut *shared.borrow_mut();
            note(world, &batch, &appended.offsets, appended.append_time);
            let what = What::Payload(appended.payload.to_vec());
            world.journal.push(Entry { end: appended.offsets.end, what });
        }
        6..=9 => {
            let world = &mut *shared.borrow_mut();
            let more = world.journal.len() - world.journal_durable;
            world.journal_durable += usize::try_from(chance.below(more as u64 + 1)).unwrap();
            if let Some(last) = world.journal_durable.checked_sub(1) {
                log.durable(world.journal[last].end);
            }
        }
        10 | 11 => {
            log.flush().await?;
        }
        12 => {
            // A fold. Sometimes its root is never written; sometimes a flush runs at the same time.
            if chance.one_in(2) {
                let other = log.clone();
                env.spawn(Class::Background, "flush", async move { drop(other.flush().await) });
                for _ in 0..chance.below(12) {
                    env.yield_now().await;
                }
            } else {
                log.flush().await?;
            }
            let state = log.state();
            if chance.one_in(3) {
                return Ok(());
            }
            {
                let world = &mut *shared.borrow_mut();
                let released =
                    world.journal.iter().take_while(|entry| entry.end <= state.end).count();
                let released = released.min(world.journal_durable);
                // What a fold covers is named conservatively, so some of it is replayed all the same.
                let released = usize::try_from(chance.below(released as u64 + 1)).unwrap();
                world.journal.drain(..released);
                world.journal_durable -= released;
                world.recorded = state.clone();
            }
            log.journal_released(state.end);
            log.recorded(&state).await?;
        }
        13 if chance.one_in(4) => {
            let below = Offset(chance.below(log.end().0 + 1));
            assert!(log.trim(below, WallTime(u64::MAX)) <= below.max(log.first()));
        }
        13 if chance.one_in(3) => {
            let space = if chance.one_in(2) { u64::MAX } else { chance.below(600_000) };
            shared.borrow().space.set(space);
        }
        14 => {
            let time = WallTime(chance.below(log.append_time().0 + 2));
            let found = log.offset_at(time).await?;
            let world = shared.borrow();
            let first = usize::try_from(log.first().0).unwrap();
            let expected = world.records.iter().skip(first).position(|r| r.1 >= time);
            let expected = expected.map_or(u64::MAX, |slot| (first + slot) as u64);
            assert_eq!(found.0, expected.min(log.durable_end().0));
        }
        _ => {
            let first = log.first();
            let from = Offset(first.0 + chance.below(log.end().0 - first.0 + 1));
            let upto = if chance.one_in(3) { Upto::Appended } else { Upto::Durable };
            let records = usize::try_from(chance.below(30)).unwrap();
            let bytes = usize::try_from(chance.below(20_000)).unwrap();
            let end = if upto == Upto::Durable { log.durable_end() } else { log.end() };
            let found = log.read(from, Limits { records, bytes, upto }).await?;
            assert!(found.len() <= records.max(1));
            assert_eq!(found.is_empty(), from >= end);
            let size: usize = found.iter().map(|r| r.bytes.len() + 4).sum();
            assert!(size <= bytes || found.len() == 1);
            let world = shared.borrow();
            for (step, record) in found.iter().enumerate() {
                let at = usize::try_from(from.0).unwrap() + step;
                assert_eq!(record.offset.0, at as u64);
                assert!(record.bytes == world.records[at].0, "wrong bytes at {at}");
                assert_eq!(record.append_time, world.records[at].1);
            }
        }
    }
    let world = &mut *shared.borrow_mut();
    world.acknowledged = world.acknowledged.max(log.durable_end());
    Ok(())
}

/// Whether an error is the crash that was planned.
fn is_crash(error: &Error) -> bool {
    match error {
        Error::Io { source, .. } => source.to_string() == "the machine crashed",
        Error::Stopped => true,
        _ => false,
    }
}

/// How often an extent was torn, and the disk full.
fn lives(seed: u64, kind: Kind, lives: u32) -> (u32, u32) {
    let mut chance = Chance(seed);
    let mut disk = CrashDisk::new();
    let shared = Shared::default();
    for _ in 0..lives {
        let steps = chance.below(120);
        let fuse = chance.one_in(2).then(|| 20 + chance.below(150));
        disk.fuse.set(fuse);
        shared.borrow_mut().space = Rc::clone(&disk.bytes_max);
        disk.bytes_max.set(if chance.one_in(8) { 100_000 } else { u64::MAX });
        let world = Rc::clone(&shared);
        let mut inner = Chance(chance.next());
        let body = move |env: Env| async move {
            let log = recover(&env, &world, &mut inner).await?;
            for _ in 0..steps {
                match step(&env, &log, &world, &mut inner, kind).await {
                    Err(Error::NoSpace { .. }) => world.borrow_mut().refused += 1,
                    result => result?,
                }
            }
            // With space, everything that was refused is possible.
            world.borrow().space.set(u64::MAX);
            log.flush().await?;
            assert_eq!(log.flushed_end(), log.durable_end());
            Ok(())
        };
        let result: Result<()> = run_on(Rc::new(disk.clone()), chance.next(), body);
        if let Err(error) = result {
            assert!(is_crash(&error), "seed {seed}: {error}");
        }
        // The journal keeps what was durable, and perhaps some of what was not.
        let world = &mut *shared.borrow_mut();
        let more = world.journal.len() - world.journal_durable;
        let kept = world.journal_durable + usize::try_from(chance.below(more as u64 + 1)).unwrap();
        world.journal.truncate(kept);
        disk = if chance.one_in(3) { disk.kill() } else { disk.crash(&mut chance) };
    }
    let world = shared.borrow();
    (world.torn, world.refused)
}

#[test]
fn small_appends_survive_crashes() {
    // 1053: a state was taken while the flush that rewrites the last block allocated space.
    for seed in (0..100).chain([1053]) {
        lives(seed, Kind::Small, 8);
    }
}

#[test]
fn bulk_appends_survive_crashes() {
    let (mut torn, mut refused) = (0, 0);
    for seed in 0..40 {
        let life = lives(seed, Kind::WithBulk, 8);
        torn += life.0;
        refused += life.1;
    }
    assert!(torn > 5, "torn extents must occur: {torn}");
    assert!(refused > 5, "a full disk must occur: {refused}");
}
/// Compiled where the whole workspace is tested: the simulation crate turns the switches on.
#[cfg(feature = "simulation")]
#[test]
fn planted_bugs_are_caught_and_the_named_states_occur() {
    use crate::probe::{Plant, State, switch_on, take_reached};

    for plant in [Plant::TailBlockRewritten, Plant::SkippedDirectorySync] {
        switch_on(Some(plant));
        let caught = (0..100)
            .any(|seed| std::panic::catch_unwind(|| lives(seed, Kind::WithBulk, 8)).is_err());
        switch_on(None);
        assert!(caught, "{plant:?}");
    }
    drop(take_reached());
    let mut wanted = vec![State::TornBulkExtent, State::TornSegmentTail];
    for seed in 0..200 {
        lives(seed, Kind::WithBulk, 8);
        let reached = take_reached();
        wanted.retain(|state| !reached.contains_key(state));
        if wanted.is_empty() {
            break;
        }
    }
    assert_eq!(wanted, []);
}
