//! The stored format stays as it is.

use std::collections::BTreeMap;

use super::frame::{HEADER_BYTES, Header};
use super::*;
use crate::types::Index;

/// Every kind of entry, several terms for one index, a group over two frames, a closing frame, and a
/// second opening.
fn sample() -> (Vec<u8>, CleanEnd) {
    let disk = MemoryDisk::new();
    let memo = Memo::new();
    let small = |run| Options {
        file_bytes: 32 << 10,
        bytes_max: 128 << 10,
        frame_bytes_max: 4096,
        ..options(run)
    };
    let kept = Rc::clone(&memo);
    run(&disk, move |env| async move {
        let journal = Journal::create(&env, small(3), kept).await.unwrap();
        for (kind, index) in Kind::ALL.into_iter().zip(1..) {
            let bytes = format!("{kind:?}");
            let one = EntryRef { kind, ..entry(5, index, bytes.as_bytes()) };
            let ticket = journal.append(&[one]).unwrap();
            if kind == Kind::Prepare {
                journal.wait(ticket).await.unwrap();
            }
        }
        journal.append(&[entry(6, 1, &[0xab; 5000]), entry(7, 1, b"")]).unwrap();
        let ticket =
            journal.append(&[EntryRef { term: Term(2), ..entry(5, 9, b"again") }]).unwrap();
        journal.wait(ticket).await.unwrap();
        journal.seal_idle();
        env.sleep(std::time::Duration::from_secs(1)).await;
    });
    let end = run(&disk, move |env| async move {
        let (_, recovered) = recover(&env, &memo, 4, None).await.unwrap();
        let journal = Journal::resume(&env, small(4), recovered, memo).await.unwrap();
        journal.append(&[entry(6, 2, b"second opening")]).unwrap();
        journal.close().await.unwrap()
    });
    (disk.contents(&slot_path(ID, 0)).unwrap(), end)
}

const GOLDEN: &[u8] = include_bytes!("../../../testdata/journal-1.bin");

#[test]
fn bytes_stay_as_they_were_stored_first() {
    let (bytes, _) = sample();
    assert!(bytes == GOLDEN, "this build writes other bytes than the one that made the sample");
}

#[test]
fn an_old_sample_is_read() {
    let end = CleanEnd {
        file: JournalFile::FIRST,
        byte: 5 * 4096,
        sequence: 6,
        crc: Header::peek(&GOLDEN[4 * 4096..]).unwrap().crc,
    };
    assert_eq!(end, sample().1);
    let files = BTreeMap::from([(0, GOLDEN)]);
    let mut walker = Walker::new(ID, JournalFile::FIRST, Run(4), Some(end), &files);
    let mut entries = Vec::new();
    let mut frames = Vec::new();
    while let Some(frame) = walker.next_frame().unwrap() {
        let header = frame.header;
        frames.push((
            header.run.0,
            header.sequence,
            header.durable_below,
            header.payload_bytes > 0,
        ));
        entries.extend(frame.groups.into_iter().flat_map(|group| group.entries));
    }
    let expected =
        [(3, 1, 1, true), (3, 2, 2, true), (3, 3, 2, true), (3, 4, 4, false), (4, 5, 5, true)];
    assert_eq!(frames, expected);
    for (kind, index) in Kind::ALL.into_iter().zip(1..) {
        let found = &entries[usize::try_from(index).unwrap() - 1];
        assert_eq!((found.kind, found.index, found.term), (kind, Index(index), Term(1)));
        assert_eq!(found.bytes, format!("{kind:?}"));
    }
    let mut sequence = Sequence::new(PartitionId(5));
    for entry in entries.iter().filter(|entry| entry.partition == PartitionId(5)) {
        sequence.insert(entry.clone()).unwrap();
    }
    let merged: Vec<_> = sequence.iter().map(|e| (e.index.0, e.term.0)).collect();
    // The higher term at 9 cuts 10.
    assert_eq!(merged, (1..9).map(|index| (index, 1)).chain([(9, 2)]).collect::<Vec<_>>());
    assert_eq!(walker.walked().entries, 14);
}

/// Makes frame `number` of the sample valid again after a change.
fn resealed(number: usize, change: impl FnOnce(&mut [u8])) -> Vec<u8> {
    let mut bytes = GOLDEN.to_vec();
    let frame = &mut bytes[number * 4096..(number + 1) * 4096];
    change(frame);
    frame[8..12].fill(0);
    let crc = crc32fast::hash(frame);
    frame[8..12].copy_from_slice(&crc.to_le_bytes());
    bytes
}

fn walk(bytes: &[u8]) -> Result<Walked, Error> {
    let files = BTreeMap::from([(0, bytes)]);
    let mut walker = Walker::new(ID, JournalFile::FIRST, Run(4), None, &files);
    while walker.next_frame()?.is_some() {}
    Ok(walker.walked())
}

#[test]
fn what_a_later_version_wrote_is_named() {
    let version = resealed(0, |frame| frame[4] = 2);
    assert!(matches!(walk(&version), Err(Error::Version { byte: 0, found: 2, known: 1, .. })));
    let kind = resealed(0, |frame| frame[HEADER_BYTES + 8 + 4] = 11);
    assert!(matches!(walk(&kind), Err(Error::Kind { byte: 0, found: 11, .. })));
}

#[test]
fn intact_frames_with_senseless_content_are_errors() {
    let cases: [fn(&mut [u8]); 6] = [
        |frame| frame[HEADER_BYTES..HEADER_BYTES + 4].fill(0xff),
        |frame| frame[HEADER_BYTES + 4] = 9,
        |frame| frame[HEADER_BYTES + 8 + 24] = 200,
        |frame| frame[HEADER_BYTES] -= 1,
        |frame| frame[72] -= 1,
        |frame| frame[76] = 1,
    ];
    for (number, case) in cases.into_iter().enumerate() {
        let result = walk(&resealed(0, case));
        assert!(matches!(result, Err(Error::Corrupt { .. })), "case {number}: {result:?}");
    }
}

#[test]
fn a_frame_of_an_opening_that_the_manifest_forgot_is_an_error() {
    let files = BTreeMap::from([(0, GOLDEN)]);
    let mut walker = Walker::new(ID, JournalFile::FIRST, Run(2), None, &files);
    assert!(matches!(walker.next_frame(), Err(Error::Corrupt { byte: 0, .. })));
}

#[test]
fn a_misdirected_frame_counts_nowhere() {
    // Frame 1 also lies where frame 2 should be: its own place tells.
    let mut bytes = GOLDEN.to_vec();
    bytes.copy_within(4096..8192, 8192);
    let result = walk(&bytes);
    assert!(matches!(result, Err(Error::Corrupt { byte: 8192, .. })), "{result:?}");
}
