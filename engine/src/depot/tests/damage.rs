//! Damage to stored bytes: an error, or bytes that nothing refers to; never wrong records.

use super::super::format::{Head, Kind};
use super::super::segment::Walk;
use super::super::walk::next;
use super::super::{Found, Report, inspect};
use super::crash_disk::{Chance, CrashDisk};
use super::*;
use crate::env::BLOCK_BYTES;

/// Fills one segment and 64 KiB of a second one, over several folds, and returns the state.
fn filled(disk: &MemoryDisk) -> State {
    memory::run(disk, |env| async move {
        // Blocks of 4 KiB, since trying each bit of a block costs its length.
        let options = Options { segment_bytes_max: 66 << 10, block_bytes: 4 << 10, ..small() };
        let from = State::default();
        let opened = Log::open(&env, PartitionId(3), DepotId(7), "p/3", &from, options);
        let log = opened.await.unwrap();
        let mut chance = Chance(7);
        let mut written = 0;
        let enough = |log: &Log| {
            let segments = &log.inner.core.borrow().segments;
            segments.len() > 1 && segments[1].state().bytes > 64 << 10
        };
        while !enough(&log) {
            let size = usize::try_from(chance.below(900)).unwrap();
            let records = [vec![1; size], vec![2; size / 2], Vec::new()];
            written += size + size / 2;
            log.append(&Batch::of(records).unwrap(), WallTime(written as u64)).unwrap();
            log.durable(log.end());
            if chance.one_in(12) {
                log.flush().await.unwrap();
            }
            if chance.one_in(40) {
                log.state();
            }
        }
        log.flush().await.unwrap();
        log.state()
    })
}

fn report(file: &[u8], state: &SegmentState) -> Report {
    inspect(file, Some(state), &mut |_| {})
}

fn path(state: &SegmentState) -> String {
    format!("p/3/d7-{}", state.base)
}

/// One sealed segment and one active segment with at least 64 KiB in each.
fn two_segments() -> (MemoryDisk, State) {
    let disk = MemoryDisk::new();
    let state = filled(&disk);
    assert_eq!(state.segments.len(), 2);
    for segment in &state.segments {
        assert!(segment.bytes > 64 << 10);
    }
    (disk, state)
}

#[test]
fn the_walker_sees_everything_that_is_there() {
    let (disk, state) = two_segments();
    let expected = memory::run(&disk, {
        let state = state.clone();
        |env| async move {
            let log = open(&env, &state).await.unwrap();
            log.recovered().await.unwrap();
            read_all(&log, Offset(0)).await.unwrap()
        }
    });
    let mut found = Vec::new();
    for segment in &state.segments {
        for proved in [Some(segment), None] {
            let file = disk.contents(&path(segment)).unwrap();
            let mut keep = Vec::new();
            let report = inspect(&file, proved, &mut |piece| {
                if let Found::Block { records, .. } = piece {
                    keep.extend(records.iter().map(|r| (r.bytes.to_vec(), r.append_time)));
                }
            });
            assert_eq!((report.damage, report.end), (None, segment.end));
            assert_eq!((report.sealed, report.unused_from), (segment.sealed, segment.bytes));
            assert_eq!((report.torn_at, report.unproved_from), (None, None));
            assert_eq!(report.records, segment.end.0 - segment.base.0);
            if proved.is_some() {
                found.append(&mut keep);
            }
        }
    }
    assert!(found == expected);
}

/// Every flipped bit of every live byte, and every truncation, block by block.
#[test]
fn every_flipped_bit_and_truncation_is_noticed() {
    let (disk, state) = two_segments();
    for segment in &state.segments {
        let file = disk.contents(&path(segment)).unwrap();
        let identity = report(&file, segment).identity.unwrap();
        let mut header = file[..BLOCK_BYTES].to_vec();
        for bit in 0..header.len() * 8 {
            header[bit / 8] ^= 1 << (bit % 8);
            let damage = report(&header, segment).damage.expect("a flipped bit in the header");
            assert_eq!(damage.byte, 0);
            header[bit / 8] ^= 1 << (bit % 8);
        }
        let mut walk = Walk::start(&identity);
        let mut live = BLOCK_BYTES;
        while walk.at < segment.bytes {
            let from = usize::try_from(walk.at).unwrap();
            let head = next(&file, &identity, walk.at).unwrap();
            // Only this block is there, at its place, so that each look costs one block.
            let mut alone = vec![0; from];
            alone.extend_from_slice(&file[from..from + head.bytes()]);
            let accepted = |file: &[u8]| {
                let read = next(file, &identity, walk.at);
                read.and_then(|read| fits(&walk, &read)).is_ok()
            };
            assert!(accepted(&alone));
            for bit in 0..head.bytes() * 8 {
                alone[from + bit / 8] ^= 1 << (bit % 8);
                assert!(!accepted(&alone), "bit {bit} of the block at {from}");
                alone[from + bit / 8] ^= 1 << (bit % 8);
            }
            for length in 0..head.bytes() {
                assert!(!accepted(&alone[..from + length]), "cut at {}", from + length);
            }
            live += head.bytes();
            if head.kind == Kind::Footer {
                break;
            }
            walk.step(&head).unwrap();
        }
        assert_eq!(live as u64, segment.bytes, "all of it was tried");
    }
}

fn fits(walk: &Walk, head: &Head) -> Result<(), &'static str> {
    match head.kind {
        Kind::Block => walk.clone().step(head),
        Kind::Footer if head.chain_before == walk.chain && head.first == walk.end => Ok(()),
        Kind::Footer => Err("another footer"),
    }
}

/// The same through the log: damage anywhere is an error with the right file, or changes nothing.
#[test]
fn the_log_never_returns_damaged_records() {
    let (disk, state) = two_segments();
    let read = |disk: &MemoryDisk| {
        let state = state.clone();
        memory::run(disk, |env| async move {
            let log = open(&env, &state).await?;
            log.recovered().await?;
            read_all(&log, Offset(0)).await
        })
    };
    let expected = read(&disk).unwrap();
    let mut chance = Chance(3);
    for segment in &state.segments {
        let path = path(segment);
        let live = usize::try_from(segment.bytes).unwrap();
        let all = disk.contents(&path).unwrap().len();
        for round in 0..600 {
            let damaged = disk.snapshot();
            let byte = usize::try_from(chance.below(all as u64)).unwrap();
            let cut = round % 3 == 0;
            damaged.damage(&path, |bytes| {
                if cut {
                    bytes.truncate(byte);
                } else {
                    bytes[byte] ^= 1 << chance.below(8);
                }
            });
            match read(&damaged) {
                Ok(records) => assert!(byte >= live && records == expected),
                Err(Error::Corrupt { file, .. }) => assert!(byte < live && file == path),
                Err(error) => panic!("{error}"),
            }
            let report = report(&damaged.contents(&path).unwrap(), segment);
            assert_eq!(report.damage.is_some(), byte < live);
        }
    }
}

#[test]
fn blocks_of_another_place_file_or_life_never_count() {
    let (disk, state) = two_segments();
    let [first, second] = &state.segments[..] else { panic!("two segments") };
    let (a, b) = (disk.contents(&path(first)).unwrap(), disk.contents(&path(second)).unwrap());
    let fails = |path: &str, bytes: Vec<u8>| {
        let damaged = disk.snapshot();
        damaged.damage(path, |file| *file = bytes);
        let state = state.clone();
        let result = memory::run(&damaged, |env| async move {
            let log = open(&env, &state).await?;
            read_all(&log, Offset(0)).await
        });
        assert!(matches!(result, Err(Error::Corrupt { .. })), "{result:?}");
    };
    // The whole file in the other's place.
    fails(&path(first), b.clone());
    fails(&path(second), a.clone());
    // One block over its neighbour.
    let header = report(&a, first).identity.unwrap();
    let head = next(&a, &header, 4096).unwrap();
    let second_at = 4096 + head.bytes();
    let mut moved = a.clone();
    moved.copy_within(4096..second_at, second_at);
    fails(&path(first), moved);
    // A block of the other file.
    let mut foreign = a.clone();
    foreign[4096..8192].copy_from_slice(&b[4096..8192]);
    fails(&path(first), foreign);
}

#[test]
fn an_older_version_of_a_block_is_noticed() {
    let disk = MemoryDisk::new();
    let older = memory::run(&disk.clone(), {
        let disk = disk.clone();
        |env| async move {
            let log = open(&env, &State::default()).await.unwrap();
            let mut older = None;
            for step in 0..40_u64 {
                log.append(&Batch::of([[1; 700]]).unwrap(), WallTime(step)).unwrap();
                log.durable(log.end());
                log.flush().await.unwrap();
                if step == 2 {
                    older = disk.contents("p/3/d7-0");
                }
            }
            (older.unwrap(), log.state())
        }
    });
    let (older, state) = older;
    disk.damage("p/3/d7-0", |file| file[4096..8192].copy_from_slice(&older[4096..8192]));
    let report = report(&disk.contents("p/3/d7-0").unwrap(), &state.segments[0]);
    assert!(report.damage.is_some());
    let read = memory::run(&disk, |env| async move {
        let log = open(&env, &state).await?;
        read_all(&log, Offset(0)).await
    });
    assert!(matches!(read, Err(Error::Corrupt { .. })));
}

#[test]
fn an_extent_that_was_proved_durable_is_corrupt_when_damaged_not_torn() {
    let disk = CrashDisk::new();
    let payloads = run_on(Rc::new(disk.clone()), 5, |env| async move {
        let log = open(&env, &State::default()).await.unwrap();
        log.reserve_bulk(30_000).await.unwrap();
        let batch = Batch::of([vec![9; 30_000]]).unwrap();
        let Bulk::Done { appended: bulk, write } = log.append_bulk(&batch, WallTime(1)).unwrap()
        else {
            panic!("no key, so not repeated")
        };
        let early = appended(log.append(&Batch::of(["a"]).unwrap(), WallTime(1)).unwrap());
        write.await.unwrap();
        log.durable(log.end());
        let late = appended(log.append(&Batch::of(["b"]).unwrap(), WallTime(1)).unwrap());
        [bulk.payload.to_vec(), early.payload.to_vec(), late.payload.to_vec()]
    });
    let path = disk.paths().pop().unwrap();
    let mut bytes = disk.contents(&path);
    bytes[9000] ^= 1;
    disk.set(&path, bytes);
    run_on(Rc::new(disk), 6, |env| async move {
        let log = open(&env, &State::default()).await.unwrap();
        let [bulk, early, late] = &payloads;
        let torn = log.replay(bulk).await.unwrap();
        assert!(matches!(torn, Replayed::Torn { from: Offset(0), .. }), "{torn:?}");
        assert_eq!(log.replay(early).await.unwrap(), Replayed::BeyondCut);
        assert!(matches!(log.replay(late).await, Err(Error::Corrupt { .. })));
    });
}

#[test]
fn a_torn_tail_behind_the_state_is_reported_and_written_over() {
    let disk = MemoryDisk::new();
    let (state, payload) = memory::run(&disk, |env| async move {
        let log = open(&env, &State::default()).await.unwrap();
        log.append(&Batch::of([[1; 5000]]).unwrap(), WallTime(1)).unwrap();
        log.durable(log.end());
        log.flush().await.unwrap();
        let state = log.state();
        let done = appended(log.append(&Batch::of([[2; 5000]]).unwrap(), WallTime(2)).unwrap());
        log.durable(log.end());
        log.flush().await.unwrap();
        (state, done.payload.to_vec())
    });
    let at = state.segments[0].bytes;
    disk.damage("p/3/d7-0", |file| file[usize::try_from(at).unwrap() + 4500] ^= 4);
    let seen = report(&disk.contents("p/3/d7-0").unwrap(), &state.segments[0]);
    assert_eq!((seen.damage, seen.unproved_from, seen.torn_at), (None, Some(at), Some(at)));
    memory::run(&disk, |env| async move {
        let log = open(&env, &state).await.unwrap();
        log.replay(&payload).await.unwrap();
        let recovered = log.recovered().await.unwrap();
        assert_eq!(recovered.torn_tail, Some(("p/3/d7-0".to_owned(), at)));
        log.flush().await.unwrap();
        let log = open(&env, &log.state()).await.unwrap();
        assert_eq!(read_all(&log, Offset(0)).await.unwrap().len(), 2);
    });
}

/// Bytes that somebody made up, with the right checksum: errors or other records, never a panic.
#[test]
fn made_up_blocks_and_payloads_never_panic() {
    let (disk, state) = two_segments();
    let mut chance = Chance(11);
    for segment in &state.segments {
        let file = disk.contents(&path(segment)).unwrap();
        let identity = report(&file, segment).identity.unwrap();
        for round in 0..3000 {
            let at = if round % 3 == 0 { segment.last_at } else { 4096 };
            let from = usize::try_from(at).unwrap();
            let bytes = next(&file, &identity, at).unwrap().bytes();
            // The header, and this structure in the place of the first block.
            let mut made_up = file[..4096].to_vec();
            made_up.extend_from_slice(&file[from..from + bytes]);
            made_up[4096 + 16..4096 + 24].copy_from_slice(&4096_u64.to_le_bytes());
            for _ in 0..=chance.below(3) {
                let field = usize::try_from(chance.below(120)).unwrap();
                let value = match chance.below(3) {
                    0 => 0xff,
                    1 => 0,
                    _ => chance.next().to_le_bytes()[0],
                };
                made_up[4096 + field] = value;
            }
            let crc = super::super::format::checksum(&made_up[4096..]);
            made_up[4096 + 60..4096 + 64].copy_from_slice(&crc.to_le_bytes());
            inspect(&made_up, None, &mut |_| {});
            inspect(&made_up, Some(segment), &mut |_| {});
        }
    }
    let payload = memory::run(&disk, |env| async move {
        let log = open(&env, &State::default()).await.unwrap();
        let batch = Batch::of(["tide", "", "mill"]).unwrap();
        let batch = batch.with_key(Key { client: 1, sequence: 2 });
        appended(log.append(&batch, WallTime(1)).unwrap()).payload.to_vec()
    });
    let encoded = state.encode();
    for _ in 0..20_000 {
        for original in [&payload, &encoded] {
            let mut bytes = original.clone();
            let place = usize::try_from(chance.below(bytes.len() as u64)).unwrap();
            bytes[place] = chance.next().to_le_bytes()[0];
            bytes.truncate(bytes.len() - usize::try_from(chance.below(3)).unwrap());
            drop(batch::Decoded::read(&bytes));
            drop(batch::head(&bytes));
            drop(State::decode(&bytes));
        }
    }
}

/// The format must not change by accident: these bytes were written by the first version.
#[test]
fn golden_segments_are_written_and_read_as_ever() {
    let disk = MemoryDisk::new();
    let state = memory::run(&disk, |env| async move {
        let options = Options { segment_bytes_max: 12 << 10, ..small() };
        let from = State::default();
        let opened = Log::open(&env, PartitionId(3), DepotId(7), "p/3", &from, options);
        let log = opened.await.unwrap();
        for step in 0..4_u64 {
            let key = Key { client: 0x0102_0304, sequence: step };
            let batch = Batch::of(["tide", "", "mill"]).unwrap().with_key(key);
            log.append(&batch, WallTime(1_700_000_000_000_000 + step)).unwrap();
            log.durable(log.end());
            log.flush().await.unwrap();
            log.state();
        }
        log.state()
    });
    let [sealed, active] = &state.segments[..] else { panic!("two segments") };
    let active_bytes = usize::try_from(active.bytes).unwrap();
    let written = [
        ("segment-1-sealed.bin", disk.contents(&path(sealed)).unwrap()),
        ("segment-1-active.bin", disk.contents(&path(active)).unwrap()[..active_bytes].to_vec()),
        ("segment-1-state.bin", state.encode()),
    ];
    for (name, bytes) in &written {
        let stored = format!("{}/testdata/{name}", env!("CARGO_MANIFEST_DIR"));
        if std::env::var_os("TIDEMILL_WRITE_GOLDEN").is_some() {
            std::fs::write(&stored, bytes).unwrap();
        }
        assert!(std::fs::read(&stored).unwrap() == *bytes, "{name} differs from the stored one");
    }
    let [(_, sealed_bytes), (_, active_bytes), (_, state_bytes)] = &written;
    let state = State::decode(state_bytes).unwrap();
    for (bytes, segment) in [sealed_bytes, active_bytes].into_iter().zip(&state.segments) {
        assert_eq!(report(bytes, segment).damage, None);
    }
}
