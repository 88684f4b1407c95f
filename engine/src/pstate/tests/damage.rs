use super::*;
use crate::page::PAGE_BYTES;

const USERS: PStateId = PStateId(1);
const BLOBS: PStateId = PStateId(2);

/// A store after two folds that both left much alive: leaves, branches, blobs, tables.
async fn build(env: &Env) -> Model {
    let (store, _) = open(env, Index(1)).await.unwrap();
    let mut model = Model::new();
    let mut put = |set: &mut WriteSet, pstate, key: Vec<u8>, value: Vec<u8>| {
        set.put(pstate, &key, &value);
        model.insert((pstate, key), value);
    };
    write(&store, 1, |set| {
        for number in 0..1_200_u32 {
            put(set, USERS, format!("user/{number:06}").into_bytes(), vec![7; 30]);
        }
    });
    store.fold(Index(1), &[]).await.unwrap();
    write(&store, 2, |set| {
        for number in (0..1_200_u32).step_by(300) {
            put(set, USERS, format!("user/{number:06}").into_bytes(), b"again".to_vec());
        }
        put(set, BLOBS, b"one".to_vec(), vec![8; 30_000]);
        put(set, BLOBS, b"two".to_vec(), vec![9; 300_000]);
    });
    store.fold(Index(2), &[Index(1)]).await.unwrap();
    model
}

/// Opens and reads everything: right, or an error; never wrong.
async fn read_all(env: &Env, model: &Model) -> Result<(), Error> {
    let (store, opened) = open(env, Index(3)).await?;
    assert_eq!((opened.covers, opened.pending), (Index(2), vec![Index(1)]));
    for pstate in [USERS, BLOBS] {
        let mut found = Vec::new();
        let view = View::visible();
        let scan = store.scan(&view, pstate, KeyRange::ALL, Direction::Forward, 10_000, |k, v| {
            found.push((k.to_vec(), v.to_vec()));
            ControlFlow::Continue(())
        });
        scan.await?;
        let expected = model.iter().filter(|((of, _), _)| *of == pstate);
        assert!(found.into_iter().eq(expected.map(|((_, k), v)| (k.clone(), v.clone()))));
    }
    Ok(())
}

fn built() -> (MemoryDisk, Model) {
    let disk = MemoryDisk::new();
    let model = run(&disk, |env| async move { build(&env).await });
    let verified = sound(&disk);
    assert!(verified.pages_live * PAGE_BYTES as u64 >= 64 << 10);
    (disk, model)
}

/// The pages that live: all but the unused ones, without the slots.
fn live_pages(verified: &Verified, len: usize) -> Vec<usize> {
    let unused = |page: &usize| {
        let byte = (page * PAGE_BYTES) as u64;
        verified.unused.iter().any(|range| range.contains(&byte))
    };
    (1..len / PAGE_BYTES).filter(|page| !unused(page) && page * PAGE_BYTES != 131_072).collect()
}

#[test]
fn every_flipped_bit_of_a_live_page_is_found() {
    let (disk, _) = built();
    let bytes = disk.contents(PATH).unwrap();
    let verified = sound(&disk);
    // One walk per bit would check all other pages each time. A walk checks every live page's
    // checksum (the next test), so it is enough that every bit changes the checksum of its page.
    let pages = live_pages(&verified, bytes.len());
    assert!(pages.len() * PAGE_BYTES >= 64 << 10);
    for page in pages.into_iter().take(16) {
        let mut copy = bytes[page * PAGE_BYTES..][..PAGE_BYTES].to_vec();
        let crc = crc32fast::hash(&copy);
        for at in 0..PAGE_BYTES {
            for bit in 0..8 {
                copy[at] ^= 1 << bit;
                assert_ne!(crc32fast::hash(&copy), crc, "byte {at} of page {page}");
                copy[at] ^= 1 << bit;
            }
        }
    }
    // Root slots have no reference above: every bit of both, through the whole walk's eyes.
    for slot in [0, 131_072] {
        for at in 0..PAGE_BYTES {
            for bit in 0..8 {
                let mut block = bytes[slot..slot + PAGE_BYTES].to_vec();
                block[at] ^= 1 << bit;
                let number = u32::from(slot > 0);
                let read = crate::page::root::Root::decode(&block, number, Some(PARTITION));
                assert!(matches!(read, crate::page::root::Slot::Damaged(_)), "{slot} {at} {bit}");
            }
        }
    }
}

#[test]
fn verification_and_readers_find_a_flip_in_every_live_page() {
    let (disk, model) = built();
    let model = Rc::new(model);
    let bytes = disk.contents(PATH).unwrap();
    let pages = live_pages(&sound(&disk), bytes.len());
    let mut chance = Chance(3);
    let mut found_by_readers = 0;
    for page in &pages {
        let at = page * PAGE_BYTES + usize::try_from(chance.below(4096)).unwrap();
        let bit = chance.below(8);
        let damaged = disk.snapshot();
        damaged.damage(PATH, |bytes| bytes[at] ^= 1 << bit);
        let verified = verify(&damaged.contents(PATH).unwrap(), Some(PARTITION));
        // A chunk is found at its first page.
        let finding = verified.findings.first().expect("the flip is found");
        assert!(finding.byte <= at as u64, "{finding:?} for byte {at}");
        let model = Rc::clone(&model);
        let result = run(&damaged, |env| async move { read_all(&env, &model).await });
        assert!(matches!(result, Err(Error::Corrupt { .. })), "{result:?} for byte {at}");
        found_by_readers += 1;
    }
    assert_eq!(found_by_readers, pages.len());
}

#[test]
fn every_truncation_is_found() {
    let (disk, model) = built();
    let model = Rc::new(model);
    let bytes = disk.contents(PATH).unwrap();
    let last = live_pages(&sound(&disk), bytes.len()).into_iter().max().unwrap();
    for len in (0..=last * PAGE_BYTES).step_by(PAGE_BYTES / 2).chain([(last + 1) * PAGE_BYTES - 1])
    {
        let cut = disk.snapshot();
        cut.damage(PATH, |bytes| bytes.truncate(len));
        let verified = verify(&cut.contents(PATH).unwrap(), Some(PARTITION));
        assert!(!verified.findings.is_empty() || verified.fold < 2, "cut to {len}");
        if len % (16 * PAGE_BYTES) == 0 {
            let model = Rc::clone(&model);
            let result = run(&cut, |env| async move { read_all(&env, &model).await });
            assert!(matches!(result, Err(Error::Corrupt { .. })), "{result:?} cut to {len}");
        }
    }
}

#[test]
fn lost_stale_torn_and_misdirected_pages_are_found() {
    let disk = MemoryDisk::new();
    run(&disk, |env| async move { build(&env).await });
    let old = disk.contents(PATH).unwrap();
    let model = run(&disk, |env| async move {
        let (store, opened) = open(&env, Index(3)).await.unwrap();
        // Rewrite twice, so that places of the first folds are used again.
        for round in 3..5 {
            write(&store, round, |set| {
                (0..1_200_u32)
                    .for_each(|n| set.put(USERS, format!("user/{n:06}").as_bytes(), &[1; 40]));
            });
            store.fold(Index(opened.covers.0 + round), &[]).await.unwrap();
        }
        let mut model = Model::new();
        for pstate in [USERS, BLOBS] {
            let view = View::visible();
            let all =
                scan_all(&store, &view, pstate, KeyRange::ALL, Direction::Forward, 9_999).await;
            model.extend(all.into_iter().map(|(key, value)| ((pstate, key), value)));
        }
        model
    });
    assert_eq!(model.len(), 1_202);
    let new = disk.contents(PATH).unwrap();
    let pages = live_pages(&sound(&disk), new.len());
    let mut changed = 0;
    for (nth, page) in pages.iter().enumerate() {
        let at = page * PAGE_BYTES;
        let was = old.get(at..at + PAGE_BYTES).map_or(vec![0; PAGE_BYTES], <[u8]>::to_vec);
        let other = pages[(nth + 1) % pages.len()] * PAGE_BYTES;
        let mut torn = new[at..at + PAGE_BYTES].to_vec();
        torn[PAGE_BYTES / 2..].copy_from_slice(&was[PAGE_BYTES / 2..]);
        for image in [was, new[other..other + PAGE_BYTES].to_vec(), torn, vec![0; PAGE_BYTES]] {
            let mut bytes = new.clone();
            bytes[at..at + PAGE_BYTES].copy_from_slice(&image);
            if bytes == new {
                continue;
            }
            changed += 1;
            let verified = verify(&bytes, Some(PARTITION));
            assert!(!verified.findings.is_empty(), "page {page}");
        }
    }
    assert!(changed > pages.len(), "most images differ");
}

#[test]
fn a_damaged_root_is_tolerated_as_far_as_the_journal_reaches() {
    let (disk, _) = built();
    let roots = [0, 131_072].map(|at| {
        let bytes = disk.contents(PATH).unwrap();
        match crate::page::root::Root::decode(&bytes[at..at + PAGE_BYTES], u32::from(at > 0), None)
        {
            crate::page::root::Slot::Root(root) => (root.fold, at),
            other => panic!("{other:?}"),
        }
    });
    let (newest, older) = (roots.into_iter().max().unwrap().1, roots.into_iter().min().unwrap().1);
    let torn = disk.snapshot();
    torn.damage(PATH, |bytes| bytes[newest + 100..newest + 3000].fill(0xa5));
    run(&torn, |env| async move {
        // The older root covers 1, so entry 2 must still be in the journal.
        let (store, opened) = open(&env, Index(2)).await.unwrap();
        assert_eq!((opened.covers, opened.fold), (Index(1), 1));
        assert_eq!(value(&store, USERS, b"user/000300").await.unwrap(), [7; 30]);
        let result = open(&env, Index(3)).await;
        let Err(Error::Corrupt { byte, .. }) = result else { panic!("{result:?}") };
        assert_eq!(byte, newest as u64);
        // The fold that follows repairs the slot, under a number of its own.
        let report = store.fold(Index(2), &[]).await.unwrap();
        assert!(report.fold > 2);
        drop(store);
        assert_eq!(open(&env, Index(3)).await.unwrap().1.covers, Index(2));
    });
    sound(&torn);
    let other = disk.snapshot();
    other.damage(PATH, |bytes| bytes[older] ^= 1);
    run(&other, |env| async move {
        assert_eq!(open(&env, Index(3)).await.unwrap().1.covers, Index(2));
    });
    let both = disk.snapshot();
    both.damage(PATH, |bytes| bytes[older..older + 9].fill(1));
    both.damage(PATH, |bytes| bytes[newest..newest + 9].fill(1));
    run(&both, |env| async move {
        assert!(open(&env, Index(2)).await.is_err());
        assert_eq!(open(&env, Index(1)).await.unwrap().1.covers, Index(0));
    });
}

#[test]
fn a_missing_file_is_damage_only_if_the_journal_relies_on_it() {
    run(&MemoryDisk::new(), |env| async move {
        assert_eq!(open(&env, Index(1)).await.unwrap().1.fold, 0);
        assert!(matches!(open(&env, Index(2)).await, Err(Error::Corrupt { .. })));
    });
}

#[test]
fn damaged_runs_are_errors_or_other_runs_never_panics() {
    let mut set = WriteSet::default();
    set.put(USERS, b"a", b"1");
    set.put(USERS, b"bb", &[3; 300]);
    set.delete(BLOBS, b"gone");
    set.delete_range(BLOBS, b"from", Some(b"to"));
    set.delete_range(BLOBS, b"up", None);
    let mut bytes = Vec::new();
    set.seal().encode(&mut bytes);
    for len in 0..bytes.len() {
        assert!(Run::decode(&bytes[..len]).is_err(), "cut to {len}");
    }
    for at in 0..bytes.len() {
        for bit in 0..8 {
            let mut flipped = bytes.clone();
            flipped[at] ^= 1 << bit;
            if let Ok(run) = Run::decode(&flipped) {
                assert!(run.iter().count() <= 5);
            }
        }
    }
}
