use super::*;
use crate::page::EXTENT_BYTES;

const POSTS: PStateId = PStateId(7);

fn key(number: u64) -> [u8; 8] {
    number.to_be_bytes()
}

#[test]
fn a_file_shrinks_when_its_keys_go() {
    let disk = MemoryDisk::new();
    let same = disk.clone();
    run(&disk, |env| async move {
        let (store, _) = open(&env, Index(1)).await.unwrap();
        write(&store, 1, |set| {
            (0..60_000).for_each(|number| set.put(POSTS, &key(number), &[1; 100]));
        });
        let full = store.fold(Index(1), &[]).await.unwrap();
        assert!(full.file_bytes > 6_000_000);
        // Every tenth key stays, so every leaf has to be merged with its neighbours.
        write(&store, 2, |set| {
            (0..60_000).filter(|number| number % 10 > 0).for_each(|n| set.delete(POSTS, &key(n)));
        });
        store.fold(Index(2), &[]).await.unwrap();
        let mut report = store.fold(Index(3), &[]).await.unwrap();
        assert!(report.pages_live < full.pages_live / 8, "{report:?}");
        for round in 4..20 {
            report = store.fold(Index(round), &[]).await.unwrap();
        }
        sound(&same);
        assert!(report.file_bytes < full.file_bytes / 2, "{report:?}");
        // A range delete frees the subtree without reading its leaves.
        let reads = store.inner.cache.counts().misses;
        write(&store, 3, |set| set.delete_range(POSTS, &[], None));
        report = store.fold(Index(20), &[]).await.unwrap();
        assert!(store.inner.cache.counts().misses - reads < 10);
        assert_eq!(store.trees(), []);
        for round in 21..25 {
            report = store.fold(Index(round), &[]).await.unwrap();
        }
        assert!(report.pages_live <= 2, "{report:?}");
        assert!(report.file_bytes <= 8 * EXTENT_BYTES as u64, "{report:?}");
        sound(&same);
    });
}

#[test]
fn sparse_extents_are_emptied() {
    let disk = MemoryDisk::new();
    let same = disk.clone();
    run(&disk, |env| async move {
        let (store, _) = open(&env, Index(1)).await.unwrap();
        // Blobs of one page each, spread over many extents; then all but a few scattered ones go.
        write(&store, 1, |set| {
            (0..4_000).for_each(|number| set.put(POSTS, &key(number), &[2; 2_000]));
        });
        let full = store.fold(Index(1), &[]).await.unwrap();
        write(&store, 2, |set| {
            (0..4_000).filter(|n| n % 40 > 0).for_each(|n| set.delete(POSTS, &key(n)));
        });
        let mut report = full;
        for round in 2..20 {
            report = store.fold(Index(round), &[]).await.unwrap();
        }
        sound(&same);
        assert!(report.file_bytes < full.file_bytes / 4, "{full:?} {report:?}");
        for number in (0..4_000).step_by(40) {
            assert_eq!(value(&store, POSTS, &key(number)).await.unwrap(), [2; 2_000]);
        }
    });
}

#[test]
fn a_file_that_is_rewritten_over_and_over_stays_small() {
    let disk = MemoryDisk::new();
    run(&disk, |env| async move {
        let (store, _) = open(&env, Index(1)).await.unwrap();
        let mut chance = Chance(5);
        let mut report = FoldReport::default();
        for round in 1..200 {
            write(&store, round, |set| {
                for _ in 0..200 {
                    set.put(POSTS, &key(chance.below(5_000)), &[3; 100]);
                }
            });
            report = store.fold(Index(round), &[]).await.unwrap();
        }
        let live_bytes = report.pages_live * 4096;
        assert!(report.file_bytes < 4 * live_bytes + 8 * EXTENT_BYTES as u64, "{report:?}");
    });
}

#[test]
fn a_fold_without_space_loses_nothing_and_is_tried_again() {
    let disk = MemoryDisk::new();
    let same = disk.clone();
    run(&disk, |env| async move {
        let (store, _) = open(&env, Index(1)).await.unwrap();
        write(&store, 1, |set| (0..100).for_each(|n| set.put(POSTS, &key(n), b"old")));
        store.fold(Index(1), &[]).await.unwrap();
        same.limit(Some(same.contents(PATH).unwrap().len() as u64 + 100_000));
        for round in 2..5 {
            write(&store, round, |set| {
                set.delete_range(POSTS, &key(round * 10), Some(&key(round * 10 + 5)));
                (0..3_000).for_each(|n| set.put(POSTS, &key(1_000 * round + n), &[4; 900]));
            });
            let result = store.fold(Index(round), &[]).await;
            assert!(matches!(result, Err(Error::NoSpace { .. })), "{result:?}");
            sound(&same);
        }
        let check = async |store: &Store| {
            let view = View::visible();
            let all = scan_all(store, &view, POSTS, KeyRange::ALL, Direction::Forward, usize::MAX);
            let all = all.await;
            assert_eq!(all.len(), 85 + 5_000);
            assert_eq!(all[20].0, key(25));
            assert_eq!(all.last().unwrap().0, key(6_999));
        };
        check(&store).await;
        same.limit(None);
        store.fold(Index(4), &[]).await.unwrap();
        check(&store).await;
        assert_eq!(store.memtable_bytes(), 0);
        sound(&same);
        let (store, opened) = open(&env, Index(5)).await.unwrap();
        assert_eq!(opened.covers, Index(4));
        check(&store).await;
    });
}

#[test]
fn reads_of_one_page_share_one_read_and_data_may_exceed_the_cache() {
    let disk = MemoryDisk::new();
    run(&disk, |env| async move {
        let (store, _) = open(&env, Index(1)).await.unwrap();
        write(&store, 1, |set| (0..50_000).for_each(|n| set.put(POSTS, &key(n), &[5; 80])));
        store.fold(Index(1), &[]).await.unwrap();
        drop(store);
        let cache = Cache::new(400_000);
        let (store, _) = Store::open(&env, &cache, DIR, PARTITION, Index(1)).await.unwrap();
        let before = cache.counts().misses;
        let same_leaf: Vec<[u8; 8]> = (0..20).map(key).collect();
        store.prefetch(POSTS, same_leaf.iter().map(|key| &key[..])).await.unwrap();
        let depth = u64::from(store.trees()[0].depth);
        assert_eq!(cache.counts().misses - before, depth);
        for key in &same_leaf {
            let found = store.get(&View::visible(), POSTS, key, |value| value.is_some()).unwrap();
            assert!(matches!(found, Found::Ready(true)));
        }
        let mut chance = Chance(1);
        let keys: Vec<[u8; 8]> = (0..3_000).map(|_| key(chance.below(50_000))).collect();
        store.prefetch(POSTS, keys.iter().map(|key| &key[..])).await.unwrap();
        for key in keys {
            assert_eq!(value(&store, POSTS, &key).await.unwrap(), [5; 80]);
        }
        assert!(cache.counts().evictions > 1_000);
        assert!(cache.counts().bytes <= 400_000);
    });
}

#[test]
fn merges_and_reads_go_on_while_a_fold_runs() {
    let disk = MemoryDisk::new();
    let same = disk.clone();
    run(&disk, |env| async move {
        // So small a cache makes the fold wait for its reads, and others run meanwhile.
        let cache = Cache::new(30_000);
        let (store, _) = Store::open(&env, &cache, DIR, PARTITION, Index(1)).await.unwrap();
        let mut chance = Chance(9);
        for round in 1..30_u64 {
            let first = chance.below(20_000);
            write(&store, 2 * round, |set| {
                (0..2_000)
                    .for_each(|n| set.put(POSTS, &key((first + 7 * n) % 20_000), &key(round)));
            });
            let fold = store.fold(Index(round), &[]);
            let others = async {
                for step in 0..20 {
                    let number = (first + 7 * step) % 20_000;
                    assert_eq!(value(&store, POSTS, &key(number)).await.unwrap(), key(round));
                }
                write(&store, 2 * round + 1, |set| set.put(POSTS, &key(first), b"meanwhile"));
                let range = KeyRange { from: Bound::Unbounded, to: Bound::Excluded(&key(20_000)) };
                scan_all(&store, &View::visible(), POSTS, range, Direction::Backward, 3_000).await
            };
            let (report, scanned) = futures_util::future::join(fold, others).await;
            report.unwrap();
            assert!(scanned.is_sorted_by(|a, b| a.0 > b.0));
            assert_eq!(value(&store, POSTS, &key(first)).await.unwrap(), b"meanwhile");
            sound(&same);
        }
    });
}
