use std::cell::Cell;
use std::rc::Rc;

use super::super::tests::{open, read_all, small};
use super::super::{Append, Batch, Log, Options, State};
use super::*;
use crate::env::memory::{MemoryDisk, run};
use crate::env::{Below, Disk};
use crate::types::{Offset, WallTime};

#[derive(Default)]
struct Counted {
    copied: Cell<u64>,
    taken_over: Cell<u64>,
}

impl Pieces for Counted {
    fn done(&self, bytes: u64, taken_over: bool) -> bool {
        let counter = if taken_over { &self.taken_over } else { &self.copied };
        counter.set(counter.get() + bytes);
        true
    }
}

async fn fill(log: &Log, records: std::ops::Range<u64>) {
    for number in records {
        let bytes = vec![number.to_le_bytes()[0]; 100 + usize::try_from(number % 7).unwrap() * 300];
        let batch = Batch::of([&bytes[..]]).unwrap();
        let Append::Done(appended) = log.append(&batch, WallTime(number)).unwrap() else {
            panic!("a repeated append")
        };
        log.durable(appended.offsets.end);
        if number % 40 == 0 {
            log.flush().await.unwrap();
        }
    }
    log.flush().await.unwrap();
}

fn recorded(state: &State) -> Vec<(String, Recorded)> {
    let of = |it: &SegmentState| {
        let path = format!("p/3/d7-{}", it.base);
        (path, Recorded::new(PartitionId(3), DepotId(7), *it))
    };
    state.segments.iter().map(of).collect()
}

#[test]
fn what_a_state_records_is_copied_whatever_comes_after_it() {
    let disk = MemoryDisk::new();
    let own = disk.clone();
    run(&disk, |env| async move {
        let log = open(&env, &State::default()).await.unwrap();
        fill(&log, 0..400).await;
        let state = log.state();
        let then = read_all(&log, Offset(0)).await.unwrap();
        fill(&log, 400..450).await;
        let shared: Rc<dyn Disk> = Rc::new(own.clone());
        let to = env.with_disk(Rc::new(Below::new(&shared, "copy")));
        let counted = Counted::default();
        let segments = recorded(&state);
        assert!(segments.len() > 2, "sealed ones and an active one");
        for (path, segment) in &segments {
            segment.copy(path, &env, &to, None, &counted).await.unwrap();
            let sealed = segment.state.sealed;
            assert_eq!(segment.is_sealed_in(path, &to).await, sealed);
        }
        assert_eq!(counted.copied.get(), segments.iter().map(|(_, it)| it.bytes()).sum::<u64>());
        let copy = open(&to, &state).await.unwrap();
        assert_eq!(read_all(&copy, Offset(0)).await.unwrap(), then);
    });
}

#[test]
fn every_damaged_block_is_found_and_another_file_is_not_the_same() {
    let disk = MemoryDisk::new();
    let own = disk.clone();
    run(&disk, |env| async move {
        let log = open(&env, &State::default()).await.unwrap();
        fill(&log, 0..400).await;
        let state = log.state();
        let shared: Rc<dyn Disk> = Rc::new(own.clone());
        let mut copies = 0;
        for (path, segment) in recorded(&state) {
            for at in (10..segment.bytes()).step_by(4_999) {
                let index = usize::try_from(at).unwrap();
                own.damage(&path, |file| file[index] ^= 1);
                copies += 1;
                let dir = format!("copy{copies}");
                let to = env.with_disk(Rc::new(Below::new(&shared, &dir)));
                let result = segment.copy(&path, &env, &to, None, &Counted::default()).await;
                let Err(CopyError::Source(Error::Corrupt { file, byte, .. })) = result else {
                    panic!("{path} at {at}: {result:?}")
                };
                assert!(file == path && byte <= at, "{at}: {byte}");
                let ends = at < 4_096 || segment.state.last_at <= at;
                let same = segment.is_sealed_in(&path, &env).await;
                assert_eq!(same, segment.state.sealed && !ends, "{path} at {at}");
                own.damage(&path, |file| file[index] ^= 1);
            }
            own.damage(&path, |file| {
                file.truncate(usize::try_from(segment.bytes()).unwrap() - 4_096);
            });
            let to = env.with_disk(Rc::new(Below::new(&shared, &format!("cut{copies}"))));
            let result = segment.copy(&path, &env, &to, None, &Counted::default()).await;
            assert!(matches!(result, Err(CopyError::Source(Error::Corrupt { .. }))), "{result:?}");
            assert!(!segment.is_sealed_in(&path, &env).await);
        }
    });
}

#[test]
fn the_beginning_of_a_segment_is_taken_from_an_earlier_copy_if_it_is_right_there() {
    let disk = MemoryDisk::new();
    let own = disk.clone();
    run(&disk, |env| async move {
        let options = Options { segment_bytes_max: 8 << 20, ..small() };
        let (partition, depot) = (PartitionId(3), DepotId(7));
        let log =
            Log::open(&env, partition, depot, "p/3", &State::default(), options).await.unwrap();
        fill(&log, 0..1_000).await;
        let shared: Rc<dyn Disk> = Rc::new(own.clone());
        let copy = async |dir: &str, earlier: Option<&str>| {
            let below = |dir: &str| env.with_disk(Rc::new(Below::new(&shared, dir)));
            let (to, earlier) = (below(dir), earlier.map(below));
            let (path, segment) = &recorded(&log.state())[0];
            let counted = Counted::default();
            segment.copy(path, &env, &to, earlier.as_ref(), &counted).await.unwrap();
            let bytes = usize::try_from(segment.bytes()).unwrap();
            let (made, there) = (own.contents(&format!("{dir}/{path}")), own.contents(path));
            assert_eq!(made.unwrap()[..], there.unwrap()[..bytes], "{dir}");
            (counted.copied.get(), counted.taken_over.get())
        };
        let (first, _) = copy("1", None).await;
        assert!(first > 4 * PIECE_BYTES as u64, "{first}");
        fill(&log, 1_000..1_010).await;
        let (copied, taken_over) = copy("2", Some("1")).await;
        assert_eq!(taken_over, first - first % PIECE_BYTES as u64);
        assert!(0 < copied && copied < 2 * PIECE_BYTES as u64, "{copied}");
        // One that is damaged, or that went on without this log, is of no use.
        own.damage("2/p/3/d7-0", |file| file[PIECE_BYTES + 9] ^= 1);
        let (copied, taken_over) = copy("3", Some("2")).await;
        assert!(taken_over == 0 && copied > first, "{copied}, {taken_over}");
    });
}
