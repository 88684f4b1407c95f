use super::*;
use crate::env::memory::{MemoryDisk, run};
use crate::journal::FileNumber;

fn sample() -> Manifest {
    let file = |number, slot| JournalFile { number: FileNumber(number), slot };
    let end = CleanEnd { file: file(12, 1), byte: 8192, sequence: 99, crc: 0xfeed_f00d };
    let record = |id, shard, first, clean_end| JournalRecord {
        id: JournalId(id),
        shard: ShardId(shard),
        first,
        clean_end,
    };
    let mut manifest = Manifest::new(0x0011_2233_4455_6677_8899_aabb_ccdd_eeff, 32);
    manifest.run = Run(5);
    manifest.catalogue = CatalogueRef { number: 3, bytes: 1234, crc: 0xdead_beef };
    manifest.journals = vec![record(1, 0, file(9, 2), Some(end)), record(4, 1, file(1, 0), None)];
    manifest
}

fn stored(manifest: &Manifest, times: usize) -> (MemoryDisk, Manifest) {
    let disk = MemoryDisk::new();
    let mut manifest = manifest.clone();
    let last = run(&disk, move |env| async move {
        for _ in 0..times {
            manifest.store(&env).await.unwrap();
        }
        manifest
    });
    (disk, last)
}

fn load(disk: &MemoryDisk) -> Result<Option<Manifest>, Error> {
    run(disk, |env| async move { Manifest::load(&env).await })
}

fn check_golden(name: &str, bytes: &[u8], golden: &[u8]) {
    assert!(bytes == golden, "{name}: this build writes other bytes than the one that made it");
}

#[test]
fn is_read_back() {
    assert_eq!(load(&MemoryDisk::new()).unwrap(), None);
    let full =
        Manifest { journals: vec![sample().journals[0]; JOURNALS_MAX], ..Manifest::new(7, 16) };
    for manifest in [Manifest::new(1, 16), sample(), full] {
        for times in 1..5 {
            let (disk, last) = stored(&manifest, times);
            assert_eq!(load(&disk).unwrap(), Some(last));
        }
    }
    let disk = MemoryDisk::new();
    let error = run(&disk, |env| async move {
        let journals = vec![sample().journals[0]; JOURNALS_MAX + 1];
        Manifest { journals, ..sample() }.store(&env).await
    });
    assert!(matches!(error, Err(Error::TooManyJournals { .. })));
}

#[test]
fn bytes_stay_as_they_were_stored_first() {
    let open = stored(&sample(), 2).0.contents(PATH).unwrap();
    check_golden("open", &open, include_bytes!("../../testdata/manifest-1-open.bin"));
    let clean = stored(&Manifest { clean: true, ..sample() }, 1).0.contents(PATH).unwrap();
    check_golden("clean", &clean, include_bytes!("../../testdata/manifest-1-clean.bin"));
    let read = Manifest::parse(include_bytes!("../../testdata/manifest-1-clean.bin")).unwrap();
    assert_eq!(read.journals, sample().journals);
    assert_eq!((read.run, read.partitions, read.clean), (Run(5), 32, true));
    assert_eq!((read.data_id, read.catalogue), (sample().data_id, sample().catalogue));
}

#[test]
fn every_flipped_bit_and_every_truncation_of_a_clean_one_is_an_error_with_its_place() {
    let bytes = stored(&Manifest { clean: true, ..sample() }, 1).0.contents(PATH).unwrap();
    assert_eq!(bytes.len(), BYTES);
    let mut damaged = bytes.clone();
    for at in 0..bytes.len() {
        for bit in 0..8 {
            damaged[at] ^= 1 << bit;
            let slot = (at / slot::BYTES * slot::BYTES) as u64;
            match Manifest::parse(&damaged) {
                Err(Error::Corrupt { byte, .. }) => assert_eq!(byte, slot),
                other => panic!("bit {bit} of byte {at}: {other:?}"),
            }
            damaged[at] ^= 1 << bit;
        }
    }
    for len in 0..bytes.len() {
        let result = Manifest::parse(&bytes[..len]);
        assert!(matches!(result, Err(Error::Corrupt { .. })), "{len}: {result:?}");
    }
    let mut longer = bytes;
    longer.push(0);
    assert!(matches!(Manifest::parse(&longer), Err(Error::Corrupt { byte: 8192, .. })));
}

#[test]
fn after_a_store_that_did_not_finish_the_file_is_replaced() {
    let (disk, _) = stored(&sample(), 2);
    let before = disk.contents(PATH).unwrap();
    run(&disk, |env| async move {
        let mut doubted = Manifest::load_doubted(&env).await.unwrap();
        assert_eq!(doubted.run, sample().run);
        doubted.run = Run(9);
        doubted.store(&env).await.unwrap();
        assert_eq!(Manifest::load(&env).await.unwrap().unwrap().run, Run(9));
        // From then on as ever.
        doubted.run = Run(10);
        doubted.store(&env).await.unwrap();
        assert_eq!(Manifest::load(&env).await.unwrap().unwrap().run, Run(10));
    });
    let after = disk.contents(PATH).unwrap();
    let slots = |bytes: &[u8]| [bytes[..slot::BYTES].to_vec(), bytes[slot::BYTES..].to_vec()];
    assert!(slots(&before).iter().all(|slot| !slots(&after).contains(slot)), "both were replaced");
}

#[test]
fn a_torn_slot_of_an_open_one_leaves_the_other() {
    for times in 1..4 {
        let (disk, before) = stored(&sample(), times);
        let old = disk.contents(PATH).unwrap();
        let mut after = before.clone();
        after.run = Run(6);
        let after = run(&disk, move |env| async move {
            after.store(&env).await.unwrap();
            after
        });
        let new = disk.contents(PATH).unwrap();
        for cut in (0..=BYTES).step_by(512) {
            let torn: Vec<u8> = new[..cut].iter().chain(&old[cut..]).copied().collect();
            let read = Manifest::parse(&torn).unwrap();
            let same = if read.sequence == after.sequence { &after } else { &before };
            assert_eq!(read.sequence, same.sequence);
            assert_eq!(read.journals, same.journals);
            // A run that may have been stored is never given out again.
            assert!(torn == old || read.run >= Run(6), "{cut}");
        }
    }
}

#[test]
fn a_clean_one_is_replaced_and_never_written_in_place() {
    let (disk, mut manifest) = stored(&Manifest { clean: true, ..sample() }, 1);
    let clean = disk.contents(PATH).unwrap();
    manifest.clean = false;
    let held = disk.clone();
    let manifest = run(&disk, move |env| async move {
        let old = env.disk().open(PATH, Open::Existing).await.unwrap();
        manifest.store(&env).await.unwrap();
        // What was open before is the file that was replaced.
        let (result, buf) = read_full(&*old, 0, Buf::zeroed(BYTES)).await;
        result.unwrap();
        assert_eq!(&buf[..], &clean[..]);
        assert_ne!(held.contents(PATH).unwrap(), clean);
        manifest
    });
    assert_eq!(load(&disk).unwrap(), Some(manifest));
}

#[test]
fn other_formats_are_named() {
    let mut bytes = stored(&sample(), 1).0.contents(PATH).unwrap();
    for slot in bytes.chunks_mut(slot::BYTES) {
        slot[4] = 2;
        slot[8..12].fill(0);
        let crc = crc32fast::hash(slot);
        slot[8..12].copy_from_slice(&crc.to_le_bytes());
    }
    assert!(matches!(Manifest::parse(&bytes), Err(Error::Format { found: 2 })));
}

#[test]
fn a_store_that_failed_or_was_dropped_is_the_last() {
    let disk = MemoryDisk::new();
    disk.limit(Some(4096));
    let kept = disk.clone();
    run(&disk, move |env| async move {
        let mut manifest = sample();
        assert!(matches!(manifest.store(&env).await, Err(Error::Io { .. })));
        kept.limit(None);
        assert!(matches!(manifest.store(&env).await, Err(Error::Unknown)));
    });
}

#[test]
fn opening_a_clean_directory_needs_no_space() {
    let (disk, mut manifest) = stored(&Manifest { clean: true, ..sample() }, 1);
    disk.limit(Some(0));
    manifest.clean = false;
    run(&disk, move |env| async move { manifest.store(&env).await.unwrap() });
    assert!(!load(&disk).unwrap().unwrap().clean);
}
