//! Shards that stop, in every order, and what the others and the launches do meanwhile.

use std::time::{Duration, Instant};

use tidemill::types::{PartitionId, ShardId};
use tidemill::{Engine, Error, Launched, Options, block_on};

use crate::kit::{directory, options};
use crate::notes::{Notes, check, note, notes};

/// Fails a shard, and waits until it has stopped.
fn stop(engine: &Engine, shard: ShardId) {
    engine.fail_shard(shard, "a test");
    wait(|| engine.stopped(shard).is_some());
}

#[track_caller]
fn wait(mut until: impl FnMut() -> bool) {
    let started = Instant::now();
    while !until() {
        assert!(started.elapsed() < Duration::from_mins(1), "it does not happen");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Appends some notes and remembers those that were acknowledged.
async fn append(notes: &Launched<Notes>, ids: std::ops::Range<u64>, acknowledged: &mut Vec<u64>) {
    let appends: Vec<_> = ids.map(|id| (id, notes.append(notes.depot, &note(id)))).collect();
    for (id, append) in appends {
        if append.await.is_ok() {
            acknowledged.push(id);
        }
    }
}

#[test]
fn shards_that_all_stopped_are_reopened_one_after_the_other_in_any_order() {
    let dir = directory("one after the other");
    block_on(async {
        let engine = Engine::open(&dir, options(3)).await.unwrap();
        let notes = engine.launch("notes", notes).await.unwrap();
        let mut acknowledged = Vec::new();
        let orders = [[0, 1, 2], [2, 1, 0], [1, 0, 2], [2, 0, 1]];
        for (round, order) in (0..).zip(orders) {
            append(&notes, round * 1_000..round * 1_000 + 200, &mut acknowledged).await;
            let before = notes.select(notes.seen.all()).await.unwrap();
            // Amid work, so that there are prepares in doubt and decisions that not all have applied.
            let ids = round * 1_000 + 200..round * 1_000 + 400;
            let more: Vec<_> = ids.map(|id| notes.append(notes.depot, &note(id))).collect();
            for shard in order.map(ShardId) {
                stop(&engine, shard);
            }
            drop(more);
            for shard in order.map(ShardId) {
                engine.reopen_shard(shard).await.unwrap();
                // Alone, it serves what it has: appends, and reads of what was seen before.
                for partition in (0..engine.partitions()).map(PartitionId) {
                    if partition.0 % 3 == u32::from(shard.0) {
                        notes.depot_range(notes.depot, partition).await.unwrap();
                    }
                }
            }
            for (id, count) in before {
                assert_eq!(notes.select(notes.seen.key(id)).await.unwrap(), Some(count));
            }
            check(&notes, &acknowledged).await;
        }
        drop(notes);
        engine.close().await.unwrap();
    });
}

#[test]
fn a_topology_says_which_shard_it_waits_for_and_goes_on_when_that_is_back() {
    let dir = directory("paused");
    block_on(async {
        let engine = Engine::open(&dir, options(2)).await.unwrap();
        let notes = engine.launch("notes", notes).await.unwrap();
        for shard in [0, 1].map(ShardId) {
            stop(&engine, shard);
            let why = notes.paused("reading").await;
            match why {
                // The coordinator lives on the other one, which may not have heard yet.
                Ok(_) => wait(|| block_on(notes.paused("reading")).unwrap().is_some()),
                Err(Error::ShardStopped { shard: stopped, .. }) => assert_eq!(stopped, shard),
                Err(error) => panic!("{error}"),
            }
            engine.reopen_shard(shard).await.unwrap();
            let appended = notes.append(notes.depot, &note(u64::from(shard.0))).await.unwrap();
            notes.wait("reading", &appended).await.unwrap();
            wait(|| block_on(notes.paused("reading")).unwrap().is_none());
        }
        let refused = engine.reopen_shard(ShardId(7)).await;
        assert!(matches!(&refused, Err(Error::Invalid { what }) if what.contains("no shard 7")));
        drop(notes);
        engine.clone().close().await.unwrap();
        // What was closed is not started again, and says so.
        let refused = engine.reopen_shard(ShardId(0)).await;
        assert!(matches!(refused, Err(Error::Closed)), "{refused:?}");
    });
}

#[test]
fn a_shard_is_reopened_by_one_caller_and_by_nobody_who_only_asked() {
    let dir = directory("claims");
    block_on(async {
        let engine = Engine::open(&dir, options(2)).await.unwrap();
        let notes = engine.launch("notes", notes).await.unwrap();
        let mut acknowledged = Vec::new();
        for round in 0..6 {
            let shard = ShardId(round % 2);
            append(&notes, u64::from(round) * 100..u64::from(round) * 100 + 50, &mut acknowledged)
                .await;
            stop(&engine, shard);
            let callers: Vec<_> = (0..4)
                .map(|_| {
                    let engine = engine.clone();
                    std::thread::spawn(move || block_on(engine.reopen_shard(shard)))
                })
                .collect();
            let results: Vec<_> = callers.into_iter().map(|it| it.join().unwrap()).collect();
            assert_eq!(results.iter().filter(|it| it.is_ok()).count(), 1, "{results:?}");
            let refused = results.iter().filter_map(|it| it.as_ref().err());
            assert!(refused.into_iter().all(|it| matches!(it, Error::Invalid { .. })));

            // A future that is dropped before it was polled did nothing; after that it goes on.
            stop(&engine, shard);
            drop(engine.reopen_shard(shard));
            assert!(engine.stopped(shard).is_some());
            let mut reopening = Box::pin(engine.reopen_shard(shard));
            let waker = std::task::Waker::noop();
            let _pending = reopening.as_mut().poll(&mut std::task::Context::from_waker(waker));
            drop(reopening);
            wait(|| match engine.stopped(shard) {
                None => true,
                Some(_) => block_on(engine.reopen_shard(shard)).is_ok(),
            });
            check(&notes, &acknowledged).await;
        }
        drop(notes);
        engine.close().await.unwrap();
    });
}

#[test]
fn a_launch_while_a_shard_is_down_is_finished_by_the_next_one() {
    let dir = directory("launches");
    block_on(async {
        for down in [0, 1].map(ShardId) {
            let engine = Engine::open(&dir, options(2)).await.unwrap();
            stop(&engine, down);
            for _ in 0..2 {
                let failed = engine.launch("notes", notes).await.unwrap_err();
                assert!(matches!(failed, Error::ShardStopped { shard, .. } if shard == down));
            }
            engine.reopen_shard(down).await.unwrap();
            let notes = engine.launch("notes", self::notes).await.unwrap();
            let mut acknowledged = Vec::new();
            let first = u64::from(down.0) * 100;
            append(&notes, first..first + 100, &mut acknowledged).await;
            assert_eq!(acknowledged.len(), 100);
            check(&notes, &acknowledged).await;
            // Once more is the same again; something else under its name is not.
            let again = engine.launch("notes", self::notes).await.unwrap();
            check(&again, &acknowledged).await;
            let other = |m: &tidemill::module::Module| m.depot::<u64>("numbers").random();
            let refused = engine.launch("notes", other).await.unwrap_err();
            assert!(refused.to_string().contains("open the engine anew"), "{refused}");
            // A module that nobody launched again after a shard came back is there all the same.
            stop(&engine, down);
            engine.reopen_shard(down).await.unwrap();
            check(&again, &acknowledged).await;
            drop((notes, again));
            engine.close().await.unwrap();
        }
    });
}

#[test]
fn the_other_shards_use_their_journals_again_while_one_is_down() {
    let dir = directory("recycling");
    let small = Options { journal_bytes_max: 4 << 20, journal_file_bytes: 1 << 20, ..options(2) };
    block_on(async {
        let engine = Engine::open(&dir, small).await.unwrap();
        let blobs = |m: &tidemill::module::Module| m.depot::<Vec<u8>>("blobs").random();
        let blobs = engine.launch("blobs", blobs).await.unwrap();
        for down in [0, 1].map(ShardId) {
            stop(&engine, down);
            let written = |engine: &Engine| {
                let other = block_on(engine.counters_of(ShardId(1 - down.0))).unwrap();
                other.journal_bytes
            };
            let before = written(&engine);
            let mut text = vec![7_u8; 200 << 10];
            let started = Instant::now();
            while written(&engine) < before + (12 << 20) {
                text[0] = text[0].wrapping_add(1);
                // Every other one goes to the shard that is down.
                drop(blobs.append(*blobs, &text).await);
                assert!(started.elapsed() < Duration::from_mins(2), "the journal is stuck");
            }
            engine.reopen_shard(down).await.unwrap();
        }
        drop(blobs);
        engine.close().await.unwrap();
    });
}

#[test]
fn attempts_leave_nothing_behind_on_shards_that_they_do_not_touch() {
    let dir = directory("left behind");
    block_on(async {
        let engine = Engine::open(&dir, options(2)).await.unwrap();
        let notes = engine.launch("notes", notes).await.unwrap();
        for _ in 0..20 {
            let appended = notes.append(notes.depot, &note(3)).await.unwrap();
            notes.wait("reading", &appended).await.unwrap();
        }
        wait(|| {
            (0..2).map(ShardId).all(|shard| {
                block_on(engine.describe_shard(shard)).unwrap().contains("spilled: []")
            })
        });
        drop(notes);
        engine.close().await.unwrap();
    });
}
