//! What the simulated disk promises and what it may take back, over many seeds.

use std::collections::BTreeSet;
use std::io::ErrorKind;

use tidemill::env::{BLOCK_BYTES, Buf, Env, Open, Sync, read_full, write_full};
use tidemill::types::ShardId;
use tidemill_tests::counts::Fault;
use tidemill_tests::disk::Faults;
use tidemill_tests::node::{After, Crash, Node};
use tidemill_tests::world::{Finished, Options, World};

const SHARD: ShardId = ShardId(0);

fn run<T: 'static, F: Future<Output = T> + 'static>(
    seed: u64,
    body: impl FnOnce(World, Node) -> F,
) -> Finished<T> {
    World::run(&Options::seed(seed), |world| {
        let node = world.node();
        body(world, node)
    })
}

fn filled(byte: u8, blocks: usize) -> Buf {
    Buf::copy_of(&vec![byte; blocks * BLOCK_BYTES])
}

async fn put(env: &Env, path: &str, at: u64, byte: u8, blocks: usize, sync: Sync) {
    let file = env.disk().open(path, Open::Any).await.expect("its directory is there");
    write_full(&*file, at, filled(byte, blocks), sync).await.0.expect("no faults here");
}

/// What became of a block of `old` bytes overwritten by `new` bytes.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Fate {
    Kept,
    Lost,
    Torn,
}

fn fate(block: &[u8], old: u8, new: u8) -> Fate {
    assert!(block.iter().all(|&byte| byte == old || byte == new), "bytes from nowhere");
    for sector in block.chunks(512) {
        assert!(sector.iter().all(|&byte| byte == sector[0]), "a sector never tears");
    }
    match (block.contains(&old), block.contains(&new)) {
        (_, false) => Fate::Lost,
        (false, true) => Fate::Kept,
        (true, true) => Fate::Torn,
    }
}

#[test]
fn unsynced_units_survive_vanish_or_tear_each_on_its_own_and_synced_ones_stay() {
    let mut fates = BTreeSet::new();
    let mut mixed = false;
    for seed in 0..200 {
        let run = run(seed, |_, node| async move {
            node.run(SHARD, |env| async move {
                put(&env, "f", 0, 1, 16, Sync::No).await;
                let file = env.disk().open("f", Open::Existing).await.unwrap();
                file.sync().await.unwrap();
                env.disk().sync_dir(".").await.unwrap();
                put(&env, "f", 0, 2, 8, Sync::No).await;
                put(&env, "f", 8 * BLOCK_BYTES as u64, 3, 4, Sync::Data).await;
            })
            .await
            .unwrap();
            node.crash(Crash::Power);
            node.disk().contents("f").expect("its name was synced")
        });
        let bytes = run.result.unwrap();
        assert_eq!(bytes.len(), 16 * BLOCK_BYTES);
        let here: Vec<_> =
            bytes[..8 * BLOCK_BYTES].chunks(BLOCK_BYTES).map(|block| fate(block, 1, 2)).collect();
        mixed |= here.contains(&Fate::Kept) && here.contains(&Fate::Lost);
        fates.extend(here);
        assert!(bytes[8 * BLOCK_BYTES..12 * BLOCK_BYTES].iter().all(|&byte| byte == 3));
        assert!(bytes[12 * BLOCK_BYTES..].iter().all(|&byte| byte == 1));
    }
    assert_eq!(fates.len(), 3, "seen only {fates:?}");
    assert!(mixed, "units of one write share their fate");
}

#[test]
fn a_sync_covers_what_ended_before_it_was_issued_and_nothing_else() {
    let mut overtaken = 0;
    for seed in 0..200 {
        let run = run(seed, |_, node| async move {
            node.run(SHARD, |env| async move {
                put(&env, "f", 0, 1, 1, Sync::Data).await;
                env.disk().sync_dir(".").await.unwrap();
                let file = env.disk().open("f", Open::Existing).await.unwrap();
                write_full(&*file, 0, filled(2, 1), Sync::No).await.0.unwrap();
                let sync = file.sync();
                // Issued after the sync: not covered, even if it ends first.
                write_full(&*file, 0, filled(3, 1), Sync::No).await.0.unwrap();
                sync.await.unwrap();
            })
            .await
            .unwrap();
            node.crash(Crash::Power);
            node.disk().contents("f").unwrap()
        });
        let bytes = run.result.unwrap();
        overtaken += usize::from(fate(&bytes, 2, 3) == Fate::Lost);
    }
    assert!((1..200).contains(&overtaken), "{overtaken}");
}

#[test]
fn a_write_under_way_at_a_power_cut_may_leave_anything() {
    let mut fates = BTreeSet::new();
    for seed in 0..300 {
        let run = run(seed, |_, node| async move {
            node.run(SHARD, |env| async move {
                put(&env, "f", 0, 1, 4, Sync::Data).await;
                env.disk().sync_dir(".").await.unwrap();
            })
            .await
            .unwrap();
            // The open is submitted and answered, and the write submitted.
            node.crash_after(After::Operations(3), Crash::Power);
            node.start(SHARD, |env| {
                Box::pin(async move {
                    put(&env, "f", 0, 2, 4, Sync::Data).await;
                    panic!("the crash comes first");
                })
            })
            .unwrap();
            node.crashed_beyond(0).await;
            node.disk().contents("f").unwrap()
        });
        for block in run.result.unwrap().chunks(BLOCK_BYTES) {
            fates.insert(fate(block, 1, 2));
        }
    }
    assert_eq!(fates.len(), 3, "seen only {fates:?}");
}

#[test]
fn space_that_was_reserved_and_synced_stays_whatever_becomes_of_later_reservations() {
    const EIGHT: u64 = 8 * BLOCK_BYTES as u64;

    let mut later = BTreeSet::new();
    for seed in 0..100 {
        let run = run(seed, |_, node| async move {
            node.run(SHARD, |env| async move {
                let file = env.disk().open("f", Open::Any).await.unwrap();
                file.allocate(EIGHT).await.unwrap();
                file.sync().await.unwrap();
                env.disk().sync_dir(".").await.unwrap();
                file.allocate(2 * EIGHT).await.unwrap();
            })
            .await
            .unwrap();
            node.crash(Crash::Power);
            node.disk().set_quota(Some(node.disk().used_bytes()));
            let written = node.run(SHARD, |env| async move {
                let file = env.disk().open("f", Open::Existing).await.unwrap();
                let mut written = Vec::new();
                for at in [0, EIGHT] {
                    written.push(write_full(&*file, at, filled(1, 8), Sync::No).await.0.is_ok());
                }
                written
            });
            written.await.unwrap()
        });
        let written = run.result.unwrap();
        assert!(written[0], "seed {seed}: a write met a full disk where space was reserved");
        later.insert(written[1]);
    }
    assert_eq!(later.len(), 2, "what was not synced sometimes stays and sometimes not: {later:?}");
}

#[test]
fn names_are_durable_after_a_sync_of_their_directory_only() {
    let mut seen = BTreeSet::new();
    for seed in 0..200 {
        let run = run(seed, |_, node| async move {
            node.run(SHARD, |env| async move {
                let disk = env.disk();
                disk.create_dir("d").await.unwrap();
                disk.sync_dir(".").await.unwrap();
                put(&env, "d/stays", 0, 1, 1, Sync::Data).await;
                put(&env, "d/removed", 0, 1, 1, Sync::Data).await;
                put(&env, "d/from", 0, 1, 1, Sync::Data).await;
                disk.sync_dir("d").await.unwrap();
                put(&env, "d/new", 0, 1, 1, Sync::Data).await;
                disk.remove("d/removed").await.unwrap();
                disk.rename("d/from", "d/to").await.unwrap();
                disk.create_dir("e").await.unwrap();
                put(&env, "e/inside", 0, 1, 1, Sync::Data).await;
                disk.sync_dir("e").await.unwrap();
            })
            .await
            .unwrap();
            node.crash(Crash::Power);
            node.disk().paths()
        });
        let paths = run.result.unwrap();
        let has = |path: &str| paths.iter().any(|other| other == path);
        assert!(has("d/stays"));
        assert!(has("d/from") != has("d/to"), "a rename is atomic: {paths:?}");
        for path in ["d/new", "d/removed", "d/to", "e/inside"] {
            seen.insert((path, has(path)));
        }
    }
    assert_eq!(seen.len(), 8, "each is sometimes there and sometimes not: {seen:?}");
}

#[test]
fn growth_may_vanish_but_not_below_what_a_durable_write_needs() {
    let mut lens = BTreeSet::new();
    for seed in 0..200 {
        let run = run(seed, |_, node| async move {
            node.run(SHARD, |env| async move {
                let file = env.disk().open("f", Open::New).await.unwrap();
                env.disk().sync_dir(".").await.unwrap();
                file.allocate(64 << 10).await.unwrap();
                put(&env, "f", 8192, 1, 1, Sync::Data).await;
            })
            .await
            .unwrap();
            node.crash(Crash::Power);
            node.disk().contents("f").unwrap()
        });
        let bytes = run.result.unwrap();
        assert_eq!(fate(&bytes[8192..12288], 0, 1), Fate::Kept);
        lens.insert(bytes.len());
    }
    assert_eq!(lens, BTreeSet::from([12 << 10, 64 << 10]));
}

#[test]
fn the_quota_refuses_new_space_and_nothing_else() {
    let run = run(1, |_, node| async move {
        let disk = node.disk();
        node.run(SHARD, move |env| async move {
            let file = env.disk().open("f", Open::New).await.unwrap();
            file.allocate(64 << 10).await.unwrap();
            assert_eq!(disk.used_bytes(), 64 << 10);
            disk.set_quota(Some(32 << 10));
            assert_eq!(env.disk().free_bytes().unwrap(), 0);
            // Reserved space never meets the full disk, though the quota shrank below it.
            put(&env, "f", 0, 1, 16, Sync::Data).await;
            let (result, _) = write_full(&*file, 64 << 10, filled(1, 1), Sync::No).await;
            assert_eq!(result.unwrap_err().kind(), ErrorKind::StorageFull);
            assert_eq!(file.allocate(1 << 20).await.unwrap_err().kind(), ErrorKind::StorageFull);
            file.truncate(16 << 10).await.unwrap();
            assert_eq!(disk.used_bytes(), 16 << 10);
            file.allocate(32 << 10).await.unwrap();
            env.disk().remove("f").await.unwrap();
            assert_eq!(disk.used_bytes(), 0);
            put(&env, "g", 0, 1, 8, Sync::Data).await;
        })
        .await
        .unwrap();
    });
    run.result.unwrap();
    assert_eq!(run.counts.of(Fault::NoSpace), 2);
}

#[test]
fn a_kill_keeps_what_was_completed() {
    for seed in 0..50 {
        let run = run(seed, |_, node| async move {
            node.run(SHARD, |env| async move {
                env.disk().create_dir("d").await.unwrap();
                put(&env, "d/f", 0, 7, 4, Sync::No).await;
            })
            .await
            .unwrap();
            node.crash(Crash::Kill);
            node.disk().contents("d/f").expect("the kernel knows the name")
        });
        assert_eq!(run.result.unwrap(), vec![7; 4 * BLOCK_BYTES]);
    }
}

#[test]
fn errors_come_and_short_counts_are_continued() {
    let mut counts = tidemill_tests::counts::Counts::default();
    for seed in 0..60 {
        let run = run(seed, |_, node| async move {
            let disk = node.disk();
            disk.set_faults(Faults {
                read_error: 50_000,
                write_error: 50_000,
                sync_error: 50_000,
                short_read: 300_000,
                short_write: 300_000,
                stall: 10_000,
                ..Faults::default()
            });
            node.run(SHARD, |env| async move {
                let file = env.disk().open("f", Open::New).await.unwrap();
                for byte in 1..20 {
                    if write_full(&*file, 0, filled(byte, 8), Sync::No).await.0.is_err() {
                        continue;
                    }
                    let (result, read) = read_full(&*file, 0, filled(0, 8)).await;
                    if result.is_ok() {
                        assert!(read.iter().all(|&other| other == byte));
                    }
                    drop(file.sync().await);
                }
            })
            .await
            .unwrap();
        });
        run.result.unwrap();
        counts.merge(&run.counts);
    }
    for fault in [
        Fault::ReadError,
        Fault::WriteError,
        Fault::SyncError,
        Fault::ShortRead,
        Fault::ShortWrite,
        Fault::Stall,
    ] {
        assert!(counts.of(fault) > 0, "{} never happened", fault.name());
    }
}

#[test]
fn a_failed_sync_drops_what_a_second_sync_then_calls_clean() {
    let mut lost = 0;
    for seed in 0..100 {
        let run = run(seed, |_, node| async move {
            let disk = node.disk();
            node.run(SHARD, move |env| async move {
                put(&env, "f", 0, 1, 1, Sync::Data).await;
                env.disk().sync_dir(".").await.unwrap();
                put(&env, "f", 0, 2, 1, Sync::No).await;
                let file = env.disk().open("f", Open::Existing).await.unwrap();
                disk.set_faults(Faults { sync_error: 1_000_000, ..Faults::default() });
                file.sync().await.unwrap_err();
                disk.set_faults(Faults::default());
                file.sync().await.unwrap();
            })
            .await
            .unwrap();
            node.crash(Crash::Power);
            node.disk().contents("f").unwrap()
        });
        lost += usize::from(fate(&run.result.unwrap(), 1, 2) == Fate::Lost);
    }
    assert!((10..90).contains(&lost), "{lost}");
}

#[test]
fn damage_happens_and_is_registered() {
    let faults = [
        Faults { bit_flip: 1_000_000, ..Faults::default() },
        Faults { misdirected_write: 1_000_000, ..Faults::default() },
        Faults { lost_write: 1_000_000, ..Faults::default() },
    ];
    let mut wrong = [0; 3];
    for seed in 0..60 {
        for (kind, faults) in faults.iter().cloned().enumerate() {
            let run = run(seed, |_, node| async move {
                let disk = node.disk();
                node.run(SHARD, move |env| async move {
                    put(&env, "f", 0, 1, 16, Sync::Data).await;
                    disk.set_faults(faults);
                    put(&env, "f", 16384, 2, 2, Sync::Data).await;
                })
                .await
                .unwrap();
                let bytes = node.disk().contents("f").unwrap();
                (bytes, node.disk().damage())
            });
            let (bytes, damage) = run.result.unwrap();
            for (index, block) in bytes.chunks(BLOCK_BYTES).enumerate() {
                let wanted = if index == 4 || index == 5 { 2 } else { 1 };
                if block.iter().any(|&byte| byte != wanted) {
                    wrong[kind] += 1;
                    let at = (index * BLOCK_BYTES) as u64;
                    assert!(damage.iter().any(|damage| damage.at == at), "{index}: {damage:?}");
                }
            }
        }
    }
    assert!(wrong.iter().all(|&count| count >= 50), "{wrong:?}");
}
