//! A full journal, a full disk, copies, and what stops a journal.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::task::Poll;
use std::time::Duration;

use super::chaos_disk::ChaosDisk;
use super::*;

/// Runs `body` on a disk whose writes take time.
fn on_chaos<T: 'static, F: Future<Output = T> + 'static>(
    disk: &ChaosDisk,
    body: impl FnOnce(Env) -> F + 'static,
) -> T {
    let disk = disk.clone();
    run(&MemoryDisk::new(), move |env| body(disk.attach(&env)))
}

/// Whether `future` is still waiting after everything else had its turn.
async fn waits(env: &Env, future: &mut (impl Future + Unpin)) -> bool {
    for _ in 0..3 {
        let ready = std::future::poll_fn(|context| {
            Poll::Ready(std::pin::Pin::new(&mut *future).poll(context).is_ready())
        });
        if ready.await {
            return false;
        }
        env.sleep(Duration::from_millis(50)).await;
    }
    true
}

async fn fill(journal: &Journal, from: u64) -> u64 {
    let mut index = from;
    while journal.used_bytes() + 30_000 < journal.bytes_max() {
        journal.admit(8000, Admission::Client).await.unwrap();
        let ticket = journal.append(&[entry(0, index, &[1; 8000])]).unwrap();
        journal.wait(ticket).await.unwrap();
        index += 1;
    }
    index
}

#[test]
fn clients_wait_while_the_journal_is_full_and_the_system_does_not() {
    let disk = ChaosDisk::new(1);
    on_chaos(&disk, |env| async move {
        let memo = Memo::new();
        let journal = Journal::create(&env, options(1), Rc::clone(&memo) as _).await.unwrap();
        let next = fill(&journal, 1).await;
        let mut client = Box::pin(journal.admit(30_000, Admission::Client));
        assert!(waits(&env, &mut client).await);
        journal.admit(100_000, Admission::System).await.unwrap();
        let ticket = journal.append(&[entry(1, 1, &vec![2; 100_000])]).unwrap();
        journal.wait(ticket).await.unwrap();
        assert!(journal.used_bytes() > journal.bytes_max());
        assert_eq!(journal.holders(), [PartitionId(0)]);
        assert!(journal.share(PartitionId(0)) > 300_000);
        journal.covered(PartitionId(0), Index(next - 1), &[]);
        assert_eq!(journal.share(PartitionId(0)), 0);
        client.await.unwrap();
        assert!(memo.first().number > FileNumber(1));
        let too_large = journal.admit(1 << 20, Admission::Client).await;
        assert!(matches!(too_large, Err(Error::GroupTooLarge { .. })));
    });
}

#[test]
fn what_keeps_files_ahead_works_by_the_file_and_not_by_the_write() {
    const FILES: u64 = 20;

    let disk = ChaosDisk::new(4);
    on_chaos(&disk, |env| async move {
        let options = Options { bytes_max: 64 << 20, ..options(1) };
        let file_bytes = u64::from(options.file_bytes);
        let journal = Journal::create(&env, options, Memo::new() as _).await.unwrap();
        let before = settled(&env, &journal).await;
        let mut index = 0;
        let done = loop {
            index += 1;
            journal.admit(8, Admission::Client).await.unwrap();
            let ticket = journal.append(&[entry(0, index, &[1; 8])]).unwrap();
            journal.wait(ticket).await.unwrap();
            let counts = journal.counts();
            if counts.bytes_written - before.bytes_written > FILES * file_bytes {
                break counts;
            }
        };
        let (writes, chores) = (done.writes - before.writes, done.chores - before.chores);
        assert!(writes >= FILES * 16, "{writes} writes do not tell them apart");
        assert!(chores <= FILES * 8, "{chores} looks in {writes} writes to {FILES} files");
    });
}

#[test]
fn a_small_journal_has_its_next_file_before_it_needs_it() {
    let disk = ChaosDisk::new(5);
    on_chaos(&disk, |env| async move {
        // What is kept ahead is less than a file, so it is missing from the middle of a file on.
        let options = Options { bytes_max: 4 * (64 << 10), ..options(1) };
        let memo = Memo::new();
        let journal = Journal::create(&env, options.clone(), memo as _).await.unwrap();
        let write = async |indexes: RangeInclusive<u64>| {
            for index in indexes {
                let ticket = journal.append(&[entry(0, index, &[1; 8])]).unwrap();
                journal.wait(ticket).await.unwrap();
            }
            settled(&env, &journal).await
        };
        let before = write(1..=1).await;
        let after = write(2..=8).await;
        assert!(after.bytes_written < u64::from(options.file_bytes), "still in the first file");
        assert!(after.chores > before.chores, "nothing was prepared");
    });
}

/// What the journal has done once it has nothing left to do.
async fn settled(env: &Env, journal: &Journal) -> Counts {
    loop {
        let before = journal.counts();
        env.sleep(Duration::from_secs(1)).await;
        if before.chores > 0 && before == journal.counts() {
            return before;
        }
    }
}

#[test]
fn a_pending_prepare_is_copied_forward_and_found_again() {
    let disk = ChaosDisk::new(2);
    let memo = Memo::new();
    let kept = Rc::clone(&memo);
    on_chaos(&disk, |env| async move {
        let journal = Journal::create(&env, options(1), Rc::clone(&kept) as _).await.unwrap();
        // One that begins in the first file and ends in the second, beside others of its group.
        journal.append(&[entry(0, 1, &vec![1; 60_000])]).unwrap();
        journal.append(&[entry(0, 2, &[2; 9000]), entry(1, 1, &vec![3; 20_000])]).unwrap();
        let next = fill(&journal, 3).await;
        journal.covered(PartitionId(1), Index(1), &[Index(1)]);
        journal.covered(PartitionId(0), Index(next - 1), &[]);
        assert_eq!(journal.holders(), [PartitionId(1)]);
        assert_eq!(kept.first(), JournalFile::FIRST);
        assert_eq!(journal.copy_forward(PartitionId(0), |_| true).await.unwrap(), 0);
        assert_eq!(journal.copy_forward(PartitionId(1), |_| true).await.unwrap(), 20_028);
        while kept.first() == JournalFile::FIRST {
            env.sleep(Duration::from_millis(1)).await;
        }
        assert!(journal.used_bytes() < 150_000);
    });
    disk.power_failure();
    on_chaos(&disk, |env| async move {
        let (groups, _) = recover(&env, &memo, 2, None).await.unwrap();
        let found = flat(&groups);
        assert!(found.contains(&(1, 1, vec![3; 20_000])));
    });
}

#[test]
fn a_full_disk_is_told_at_once_and_healed_without_a_restart() {
    let disk = ChaosDisk::new(3);
    let inner = disk.clone();
    on_chaos(&disk, |env| async move {
        let memo = Memo::new();
        let journal = Journal::create(&env, options(1), Rc::clone(&memo) as _).await.unwrap();
        inner.limit(Some(inner.used()));
        let mut index = 1;
        let error = loop {
            if let Err(error) = journal.admit(8000, Admission::Client).await {
                break error;
            }
            let ticket = journal.append(&[entry(0, index, &[1; 8000])]).unwrap();
            journal.wait(ticket).await.unwrap();
            index += 1;
        };
        assert!(matches!(error, Error::DiskFull { .. }), "{error}");
        assert!(index > 2, "what was allocated can be used");
        let again = journal.admit(8000, Admission::Client).await;
        assert!(matches!(again, Err(Error::DiskFull { .. })));
        // Nothing half made is left, and the reserve carries what lets the journal shrink.
        assert_eq!(inner.used(), 2 * u64::from(options(1).file_bytes));
        journal.admit(4000, Admission::System).await.unwrap();
        let ticket = journal.append(&[entry(1, 1, &[2; 4000])]).unwrap();
        journal.wait(ticket).await.unwrap();
        inner.limit(None);
        // The retries are at most a second apart.
        env.sleep(Duration::from_millis(1_100)).await;
        journal.admit(8000, Admission::Client).await.unwrap();
        let next = fill(&journal, index).await;
        assert!(next > index);
        assert!(journal.failed().is_none());
    });
}

#[test]
fn a_failed_write_stops_the_journal_for_ever() {
    let disk = ChaosDisk::new(4);
    let inner = disk.clone();
    let memo = Memo::new();
    let kept = Rc::clone(&memo);
    on_chaos(&disk, |env| async move {
        let journal = Journal::create(&env, options(1), Rc::clone(&kept) as _).await.unwrap();
        let good = journal.append(&[entry(0, 1, b"good")]).unwrap();
        journal.wait(good).await.unwrap();
        inner.fail_one_write_in(1);
        let bad = journal.append(&[entry(0, 2, b"bad")]).unwrap();
        assert!(matches!(journal.wait(bad).await, Err(Error::Stopped { .. })));
        inner.fail_one_write_in(0);
        journal.wait(good).await.unwrap();
        assert!(matches!(journal.stopped().await, Error::Io { op: "write", .. }));
        assert!(matches!(journal.append(&[entry(0, 3, b"")]), Err(Error::Stopped { .. })));
        assert!(matches!(journal.wait(bad).await, Err(Error::Stopped { .. })));
        assert!(matches!(journal.advanced(good).await, Err(Error::Stopped { .. })));
        let admit = journal.admit(1, Admission::System).await;
        assert!(matches!(admit, Err(Error::Stopped { .. })));
        assert!(matches!(
            journal.copy_forward(PartitionId(0), |_| true).await,
            Err(Error::Stopped { .. })
        ));
        assert!(matches!(journal.close().await, Err(Error::Stopped { .. })));
    });
    on_chaos(&disk, |env| async move {
        let (groups, _) = recover(&env, &memo, 2, None).await.unwrap();
        assert_eq!(flat(&groups)[0], (0, 1, b"good".to_vec()));
    });
}

/// A manifest that cannot be written.
#[derive(Debug)]
struct Broken(Cell<u32>);

impl Retain for Broken {
    fn advance(&self, _id: JournalId, _first: JournalFile) -> LocalFuture<'_, Result<(), Error>> {
        self.0.set(self.0.get() + 1);
        let error = Error::retain(std::io::Error::other("no"));
        Box::pin(std::future::ready(Err(error)))
    }
}

#[test]
fn nothing_is_recycled_when_the_manifest_cannot_be_written() {
    let disk = ChaosDisk::new(5);
    on_chaos(&disk, |env| async move {
        let broken = Rc::new(Broken(Cell::new(0)));
        let journal = Journal::create(&env, options(1), Rc::clone(&broken) as _).await.unwrap();
        let next = fill(&journal, 1).await;
        journal.covered(PartitionId(0), Index(next - 1), &[]);
        assert!(matches!(journal.stopped().await, Error::Retain { .. }));
        assert_eq!(broken.0.get(), 1, "a failed write is not tried again");
    });
}

#[test]
fn an_idle_journal_proves_its_last_frame_once() {
    let disk = ChaosDisk::new(6);
    let memo = Memo::new();
    let kept = Rc::clone(&memo);
    on_chaos(&disk, |env| async move {
        let journal = Journal::create(&env, options(1), kept).await.unwrap();
        env.sleep(Duration::from_millis(100)).await;
        assert_eq!(journal.counts().writes, 0);
        let ticket = journal.append(&[entry(0, 1, b"tide")]).unwrap();
        journal.wait(ticket).await.unwrap();
        assert_eq!(journal.counts().writes, 1);
        env.sleep(Duration::from_secs(1)).await;
        let counts = journal.counts();
        let wanted = Counts { bytes_written: 8192, writes: 2, groups: 1, entries: 1, ..counts };
        assert_eq!(counts, wanted);
    });
    disk.power_failure();
    disk.overwrite(&slot_path(ID, 0), 100, 0xff);
    let memo_again = Rc::clone(&memo);
    let result = on_chaos(&disk, |env| async move { recover(&env, &memo_again, 2, None).await });
    assert!(matches!(result, Err(Error::Corrupt { byte: 0, .. })), "the closing frame proves it");
}

#[test]
fn groups_queue_while_writes_are_under_way() {
    let disk = ChaosDisk::new(7);
    on_chaos(&disk, |env| async move {
        let large = Options { frame_bytes_max: 64 << 10, ..options(1) };
        let journal = Journal::create(&env, large, Memo::new()).await.unwrap();
        let mut tickets = BTreeMap::new();
        for index in 1..=100 {
            tickets.insert(index, journal.append(&[entry(0, index, &[5; 100])]).unwrap());
            env.yield_now().await;
        }
        journal.wait(tickets[&100]).await.unwrap();
        let counts = journal.counts();
        assert_eq!((counts.groups, counts.entries), (100, 100));
        assert!(counts.writes <= 10, "{} writes for what fits few", counts.writes);
    });
}

#[test]
fn a_dropped_journal_ends_its_tasks_and_can_be_recovered_in_place() {
    let disk = ChaosDisk::new(8);
    on_chaos(&disk, |env| async move {
        let memo = Memo::new();
        let journal = Journal::create(&env, options(1), Rc::clone(&memo) as _).await.unwrap();
        let ticket = journal.append(&[entry(0, 1, b"kept")]).unwrap();
        journal.wait(ticket).await.unwrap();
        drop(journal);
        env.sleep(Duration::from_millis(10)).await;
        assert_eq!(Rc::strong_count(&memo), 1, "no task holds the journal");
        assert_eq!(list(&env).await.unwrap(), [ID]);
        let (groups, recovered) = recover(&env, &memo, 2, None).await.unwrap();
        assert_eq!(flat(&groups), [(0, 1, b"kept".to_vec())]);
        let journal = Journal::resume(&env, options(2), recovered, memo).await.unwrap();
        let ticket = journal.append(&[entry(0, 2, b"more")]).unwrap();
        journal.wait(ticket).await.unwrap();
        journal.close().await.unwrap();
        remove(&env, ID).await.unwrap();
        assert_eq!(list(&env).await.unwrap(), []);
    });
}

#[test]
fn the_tail_of_a_group_that_was_not_complete_is_reported_and_written_over() {
    let disk = MemoryDisk::new();
    let memo = Memo::new();
    let kept = Rc::clone(&memo);
    run(&disk, |env| async move {
        let journal = Journal::create(&env, options(1), kept).await.unwrap();
        journal.append(&[entry(0, 1, b"whole")]).unwrap();
        let ticket = journal.append(&[entry(0, 2, &vec![1; 50_000])]).unwrap();
        journal.wait(ticket).await.unwrap();
    });
    // The third frame of four is lost: the first two stay in the chain, their group does not count.
    disk.damage(&slot_path(ID, 0), |bytes| bytes[32 << 10..48 << 10].fill(0));
    for (opening, torn) in [(2, true), (3, true), (4, false)] {
        let memo = Rc::clone(&memo);
        run(&disk, move |env| async move {
            let (groups, recovered) = recover(&env, &memo, opening, None).await.unwrap();
            assert_eq!(flat(&groups)[0], (0, 1, b"whole".to_vec()));
            assert_eq!(groups.len(), if torn { 1 } else { 2 });
            let expected = TornTail {
                file: JournalFile::FIRST,
                byte: 32 << 10,
                frames_discarded: 1,
                group_discarded: true,
            };
            assert_eq!(recovered.torn, torn.then_some(expected));
            if opening == 3 {
                let journal = Journal::resume(&env, options(3), recovered, memo).await.unwrap();
                let ticket = journal.append(&[entry(0, 2, &vec![2; 9000])]).unwrap();
                journal.wait(ticket).await.unwrap();
            }
        });
    }
}
