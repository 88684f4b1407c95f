//! A shard whose disk fails stops alone, says why, and comes back in place. And what handles are.

use std::sync::Arc;

use futures_util::future::join_all;
use tidemill::client::{Append, AppendMany, Appended};
use tidemill::env::Platform;
use tidemill::types::{PartitionId, ShardId};
use tidemill::{Engine, Error, Launched, block_on};

use crate::faults::{Faults, FaultyPlatform};
use crate::kit::{directory, options};
use crate::notes::{Notes, check, note, notes};

#[test]
fn handles_can_go_anywhere() {
    fn handle<T: Clone + Send + Sync + 'static>() {}
    fn sent<T: Send>(_: T) {}
    handle::<Engine>();
    handle::<Launched<Notes>>();
    handle::<Appended>();
    handle::<Error>();
    fn future<T: Send + 'static>() {}
    future::<Append>();
    future::<AppendMany>();
    // Every future can move to another thread; nothing here runs.
    let _futures = |engine: &Engine, notes: &Launched<Notes>, appended: &Appended| {
        sent(Engine::open("", options(1)));
        sent(engine.launch("notes", self::notes));
        sent(engine.counters());
        sent(engine.fold());
        sent(engine.reopen_shard(ShardId(0)));
        sent(engine.clone().stop());
        sent(engine.clone().close());
        sent(notes.append(notes.notes, &note(1)));
        sent(notes.append_many(notes.notes, &[note(1)]));
        sent(notes.select(notes.seen.key(1)));
        sent(notes.select_many([notes.seen.key(1)]));
        sent(notes.wait("reading", appended));
        sent(notes.caught_up("reading"));
        sent(notes.read_depot(notes.notes, PartitionId(0), tidemill::types::Offset(0), 1));
    };
}

#[test]
fn handles_work_from_many_threads_at_once() {
    let dir = directory("threads");
    let engine = block_on(Engine::open(&dir, options(2))).unwrap();
    let notes = block_on(engine.launch("notes", notes)).unwrap();
    let threads: Vec<_> = (0..4)
        .map(|thread| {
            let notes = notes.clone();
            std::thread::spawn(move || {
                for id in thread * 100..thread * 100 + 100 {
                    let appended = block_on(notes.append(notes.notes, &note(id))).unwrap();
                    block_on(notes.wait("reading", &appended)).unwrap();
                    let text = block_on(notes.select(notes.texts.key(id + 1))).unwrap();
                    assert_eq!(text, Some(note(id).text));
                }
            })
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
    // An executor that knows nothing of the engine.
    futures_lite::future::block_on(async {
        check(&notes, &(0..400).collect::<Vec<_>>()).await;
        drop(notes);
        engine.close().await.unwrap();
    });
}

/// Appends a hundred notes; those that failed did so since this shard has stopped.
async fn append(
    notes: &Launched<Notes>,
    next: &mut u64,
    acknowledged: &mut Vec<u64>,
    stopped: ShardId,
) -> (usize, usize) {
    let ids: Vec<u64> = (*next..*next + 100).collect();
    *next += 100;
    let appends: Vec<_> = ids.iter().map(|&id| notes.append(notes.notes, &note(id))).collect();
    let (mut done, mut failed) = (0, 0);
    for (id, result) in ids.iter().zip(join_all(appends).await) {
        match result {
            Ok(appended) => {
                acknowledged.push(*id);
                done += 1;
                let _partition = appended.partition;
            }
            Err(Error::ShardStopped { shard, cause }) => {
                assert_eq!(shard, stopped);
                assert!(cause.contains("os error 5"), "{cause}");
                failed += 1;
            }
            Err(error) => panic!("{error}"),
        }
    }
    (done, failed)
}

#[test]
fn a_shard_whose_disk_fails_stops_alone_and_is_reopened_in_place() {
    let dir = directory("stopped");
    let faults = Faults::default();
    let (mut next, mut acknowledged) = (0, Vec::new());
    block_on(async {
        let platform: Arc<dyn Platform> = FaultyPlatform::open(&dir, 2, &faults);
        let engine = Engine::open_on(platform, options(2), |_| {}).await.unwrap();
        let notes = engine.launch("notes", notes).await.unwrap();
        // Shard 0 keeps the manifest, shard 1 does not.
        for broken in [1, 0, 1, 1].map(ShardId) {
            let healthy = append(&notes, &mut next, &mut acknowledged, broken).await;
            assert_eq!(healthy, (100, 0));
            assert_eq!(engine.stopped(broken), None);
            let refused = engine.reopen_shard(broken).await;
            assert!(matches!(refused, Err(Error::Invalid { .. })), "{refused:?}");

            // In the middle of work, as such things are.
            let before = notes.append_many(notes.notes, &[note(next), note(next + 1)]);
            next += 2;
            faults.broken(broken, true);
            let (done, failed) = append(&notes, &mut next, &mut acknowledged, broken).await;
            assert!(done > 0 && failed > 0, "{done} worked and {failed} failed");
            drop(before.await);
            let (done, failed) = append(&notes, &mut next, &mut acknowledged, broken).await;
            assert!(done > 0 && failed > 0, "{done} worked and {failed} failed");
            let cause = engine.stopped(broken).unwrap();
            assert!(cause.contains("os error 5"), "{cause}");
            // While it is broken it does not come back either, and says so.
            let failed = engine.reopen_shard(broken).await;
            assert!(failed.is_err());

            faults.broken(broken, false);
            engine.reopen_shard(broken).await.unwrap();
            assert_eq!(engine.stopped(broken), None);
            let healthy = append(&notes, &mut next, &mut acknowledged, broken).await;
            assert_eq!(healthy, (100, 0));
            check(&notes, &acknowledged).await;
        }
        drop(notes);
        engine.close().await.unwrap();

        let platform: Arc<dyn Platform> = FaultyPlatform::open(&dir, 3, &faults);
        let engine = Engine::open_on(platform, options(3), |_| {}).await.unwrap();
        let notes = engine.launch("notes", self::notes).await.unwrap();
        check(&notes, &acknowledged).await;
        drop(notes);
        engine.close().await.unwrap();
    });
}
