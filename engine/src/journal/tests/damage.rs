//! Every flipped bit, every truncation, and what is not damage.

use std::collections::BTreeMap;

use super::*;

/// Files of a small journal that was closed cleanly: groups within and over frames and files, and one
/// file recycled.
fn closed() -> (BTreeMap<u32, Vec<u8>>, JournalFile, CleanEnd, usize) {
    let disk = MemoryDisk::new();
    let memo = Memo::new();
    let kept = Rc::clone(&memo);
    let small = Options { file_bytes: 16 << 10, frame_bytes_max: 8 << 10, ..options(1) };
    let small = Options { bytes_max: 128 << 10, ..small };
    let end = run(&disk, |env| async move {
        let journal = Journal::create(&env, small, kept).await.unwrap();
        for index in 1..=4 {
            journal.append(&[entry(0, index, &[3; 5000]), entry(1, index, b"x")]).unwrap();
            journal.wait(Ticket(index)).await.unwrap();
        }
        for partition in 0..2 {
            journal.covered(PartitionId(partition), Index(4), &[]);
        }
        for index in 5..=12_u8 {
            let bytes = [index; 7000];
            let ticket = journal.append(&[entry(0, u64::from(index), &bytes)]).unwrap();
            journal.wait(ticket).await.unwrap();
        }
        journal.append(&[entry(1, 5, &[0xee; 14_000]), entry(0, 13, b"last")]).unwrap();
        journal.close().await.unwrap()
    });
    let files: BTreeMap<u32, Vec<u8>> = disk
        .paths()
        .iter()
        .map(|path| (parse_slot(&path[DIR.len() + 1..]).unwrap().1, disk.contents(path).unwrap()))
        .collect();
    let first = memo.first();
    assert!(first.number > FileNumber(1));
    let groups = walk(&files, first, Some(end)).unwrap().1.len();
    (files, first, end, groups)
}

fn walk(
    files: &BTreeMap<u32, Vec<u8>>,
    first: JournalFile,
    end: Option<CleanEnd>,
) -> Result<(Walked, Vec<Group>), Error> {
    let files = files.iter().map(|(slot, bytes)| (*slot, &bytes[..])).collect();
    let mut walker = Walker::new(ID, first, Run(1), end, &files);
    let mut groups = Vec::new();
    while let Some(frame) = walker.next_frame()? {
        groups.extend(frame.groups);
    }
    Ok((walker.walked(), groups))
}

/// Live bytes: slot, from, to.
fn live(
    files: &BTreeMap<u32, Vec<u8>>,
    first: JournalFile,
    end: CleanEnd,
) -> Vec<(JournalFile, usize, usize)> {
    let files = files.iter().map(|(slot, bytes)| (*slot, &bytes[..])).collect();
    let mut walker = Walker::new(ID, first, Run(1), Some(end), &files);
    let mut live = Vec::new();
    while let Some(frame) = walker.next_frame().unwrap() {
        let header = frame.header;
        live.push((header.file, header.byte as usize, header.frame_bytes as usize));
    }
    live
}

#[test]
fn every_flipped_bit_of_a_live_byte_is_an_error_with_its_place() {
    let (mut files, first, end, _) = closed();
    let live = live(&files, first, end);
    let bytes: usize = live.iter().map(|(_, _, len)| len).sum();
    assert!(bytes >= 64 << 10, "{bytes}");
    for (file, from, len) in live {
        every_bit_counts(&files[&file.slot][from..from + len]);
        for at in from..from + len {
            // All bits of headers and group headers; elsewhere, where only the checksum sees them, one
            // of every sixteenth byte.
            let bits = match at - from {
                0..128 => 0..8,
                n if n % 16 == 0 => n / 16 % 8..n / 16 % 8 + 1,
                _ => continue,
            };
            for bit in bits {
                files.get_mut(&file.slot).unwrap()[at] ^= 1 << bit;
                match walk(&files, first, Some(end)) {
                    Err(Error::Corrupt { path, file: number, byte, .. }) => {
                        assert_eq!(path, slot_path(ID, file.slot));
                        assert_eq!((number, byte), (file.number, from as u64));
                    }
                    other => panic!("bit {bit} of byte {at} of {file:?}: {other:?}"),
                }
                files.get_mut(&file.slot).unwrap()[at] ^= 1 << bit;
            }
        }
    }
}

/// Each bit of a frame makes it another one to whoever follows the chain. A walk for each bit would check
/// all frames before it, too.
fn every_bit_counts(frame: &[u8]) {
    use crate::journal::frame::Header;

    let intact = Header::peek(frame).unwrap();
    assert!(intact.verify(frame));
    let mut flipped = frame.to_vec();
    for bit in 0..frame.len() * 8 {
        flipped[bit / 8] ^= 1 << (bit % 8);
        let accepted = Header::peek(&flipped).is_some_and(|header| header.verify(&flipped));
        assert!(!accepted, "bit {bit} of {intact:?}");
        flipped[bit / 8] ^= 1 << (bit % 8);
    }
}

#[test]
fn every_truncation_of_a_live_byte_is_an_error() {
    let (mut files, first, end, _) = closed();
    for (file, from, len) in live(&files, first, end) {
        let whole = files[&file.slot].clone();
        // From the end, so that each cut only shortens what the last one left.
        for cut in (from..from + len).rev() {
            files.get_mut(&file.slot).unwrap().truncate(cut);
            let result = walk(&files, first, Some(end));
            let Err(Error::Corrupt { path, byte, .. }) = result else {
                panic!("{cut}: {result:?}")
            };
            assert_eq!(path, slot_path(ID, file.slot));
            assert!(byte <= cut as u64, "{byte} for a cut at {cut}");
        }
        files.insert(file.slot, whole);
        let mut files = files.clone();
        files.remove(&file.slot);
        let result = walk(&files, first, Some(end));
        assert!(matches!(result, Err(Error::Corrupt { byte: 0, .. })), "{result:?}");
    }
}

/// The same damage, not cleanly closed: what a later frame proves is an error, the rest is a tail.
#[test]
fn without_a_clean_end_damage_is_an_error_or_a_reported_tail() {
    let (files, first, end, groups) = closed();
    let live = live(&files, first, end);
    let whole = walk(&files, first, None).unwrap();
    assert_eq!((whole.0.torn, whole.1.len()), (None, groups));
    for (number, (file, from, len)) in live.iter().enumerate() {
        for at in (*from..from + len).step_by(97) {
            let mut files = files.clone();
            files.get_mut(&file.slot).unwrap()[at] ^= 0x10;
            match walk(&files, first, None) {
                Err(Error::Corrupt { byte, file: found, .. }) => {
                    assert_eq!((found, byte), (file.number, *from as u64));
                }
                Ok((walked, found)) => {
                    assert!(live.len() - number <= 4, "frame {number} of {}", live.len());
                    let torn = walked.torn.expect("the damage is reported");
                    assert_eq!((torn.file, torn.byte), (*file, *from as u64));
                    assert_eq!(found[..], whole.1[..found.len()]);
                }
                Err(other) => panic!("{other}"),
            }
        }
    }
}

#[test]
fn disk_and_memory_agree() {
    let (files, first, end, groups) = closed();
    let disk = MemoryDisk::new();
    let memo = Memo::new();
    *memo.0.borrow_mut() = first;
    let copy = files.clone();
    let found = run(&disk, move |env| async move {
        for (slot, bytes) in &copy {
            let path = slot_path(ID, *slot);
            let file = env.disk().open(&path, crate::env::Open::New).await.unwrap();
            let buf = crate::env::Buf::copy_of(bytes);
            file.write(0, buf, crate::env::Sync::Data).await.0.unwrap();
        }
        recover(&env, &memo, 2, Some(end)).await.unwrap().0
    });
    assert_eq!(found.len(), groups);
    assert_eq!(found, walk(&files, first, Some(end)).unwrap().1);
}
