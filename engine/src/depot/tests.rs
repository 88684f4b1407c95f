//! The log against a `Vec`, with crashes.

mod crash_disk;
mod damage;
mod model;

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use futures_channel::oneshot;

use super::*;
use crate::env::memory::{self, MemoryDisk};
use crate::env::{Class, Clock, Disk, Env, File, LocalFuture, Mesh, Open, Parcel, Sender, Spawner};
use crate::types::{DepotId, Index, PartitionId, ShardId, Time, WallTime};

/// Small sizes, so that a few hundred records meet every boundary.
pub(super) fn small() -> Options {
    Options {
        allocation_bytes_min: 16 << 10,
        allocation_bytes_max: 64 << 10,
        segment_bytes_max: 96 << 10,
        block_bytes: 8 << 10,
        tail_bytes_max: 8 << 10,
        bulk_bytes_min: 10 << 10,
        dedup_clients_max: 4,
        dedup_sequences_max: 4,
    }
}

pub(super) fn everything() -> Limits {
    Limits { records: usize::MAX, bytes: usize::MAX, upto: Upto::Durable }
}

pub(super) async fn open(env: &Env, from: &State) -> Result<Log> {
    Log::open(env, PartitionId(3), DepotId(7), "p/3", from, small()).await
}

/// All records from `from` to the end, by as many reads as it takes.
pub(super) async fn read_all(log: &Log, from: Offset) -> Result<Vec<(Vec<u8>, WallTime)>> {
    let mut all = Vec::new();
    let mut next = from;
    loop {
        let records = log.read(next, everything()).await?;
        let Some(offsets) = records.offsets() else { return Ok(all) };
        assert_eq!(offsets.start, next);
        for record in records.iter() {
            assert_eq!(record.offset, next);
            next = next.advance(1);
            all.push((record.bytes.to_vec(), record.append_time));
        }
        assert_eq!(offsets.end, next);
    }
}

/// Runs `body` on a disk of any kind; `seed` starts the environment's chance.
pub(super) fn run_on<T: 'static, F: Future<Output = T> + 'static>(
    disk: Rc<dyn Disk>,
    seed: u64,
    body: impl FnOnce(Env) -> F + 'static,
) -> T {
    memory::run(&MemoryDisk::new(), move |inner| {
        let parts = Rc::new(Parts(inner));
        let env = Env::new(
            ShardId(0),
            disk,
            Rc::clone(&parts) as Rc<dyn Clock>,
            Rc::clone(&parts) as Rc<dyn Spawner>,
            parts,
            seed,
        );
        body(env)
    })
}

/// The memory environment's parts, for an environment with another disk.
struct Parts(Env);

impl Clock for Parts {
    fn now(&self) -> Time {
        self.0.now()
    }
    fn wall(&self) -> WallTime {
        self.0.wall()
    }
    fn sleep(&self, duration: Duration) -> LocalFuture<'static, ()> {
        self.0.sleep(duration)
    }
}

impl Spawner for Parts {
    fn spawn(&self, class: Class, name: &'static str, future: LocalFuture<'static, ()>) {
        self.0.spawn(class, name, future);
    }
    fn yield_now(&self) -> LocalFuture<'static, ()> {
        self.0.yield_now()
    }
    fn should_yield(&self) -> bool {
        self.0.should_yield()
    }
}

impl Mesh for Parts {
    fn send(&self, _to: ShardId, _parcel: Parcel) {}
    fn receive(&self) -> LocalFuture<'_, Vec<(Sender, Parcel)>> {
        Box::pin(std::future::pending())
    }
}

pub(super) fn appended(answer: Append) -> Appended {
    match answer {
        Append::Done(appended) => appended,
        Append::Repeated(offsets) => panic!("repeated at {offsets:?}"),
    }
}

#[test]
fn ten_depots_of_thirty_two_partitions_take_no_space_until_flushed() {
    let disk = MemoryDisk::new();
    memory::run(&disk, |env| async move {
        for depot in 0..10 {
            for partition in 0..32 {
                let dir = format!("p/{partition}");
                let (partition, depot) = (PartitionId(partition), DepotId(depot));
                let from = State::default();
                let opened = Log::open(&env, partition, depot, &dir, &from, Options::default());
                let log = opened.await.unwrap();
                log.recovered().await.unwrap();
                log.flush().await.unwrap();
            }
        }
    });
    assert!(disk.paths().is_empty());
}

#[test]
fn append_flush_reopen_read() {
    let disk = MemoryDisk::new();
    memory::run(&disk, |env| async move {
        let log = open(&env, &State::default()).await.unwrap();
        let first = appended(log.append(&Batch::of(["a", "b"]).unwrap(), WallTime(5)).unwrap());
        assert_eq!(first.offsets, Offset(0)..Offset(2));
        assert!(read_all(&log, Offset(0)).await.unwrap().is_empty(), "nothing is durable yet");
        let limits = Limits { upto: Upto::Appended, ..everything() };
        assert_eq!(log.read(Offset(1), limits).await.unwrap().len(), 1);
        log.durable(Offset(2));
        let second = appended(log.append(&Batch::of(["c"]).unwrap(), WallTime(3)).unwrap());
        assert_eq!(second.append_time, WallTime(5), "append times never run backwards");
        assert_eq!(log.flush().await.unwrap().below, Offset(2), "only what is durable is flushed");
        let state = State::decode(&log.state().encode()).unwrap();

        let log = open(&env, &state).await.unwrap();
        assert_eq!(log.replay(&first.payload.to_vec()).await.unwrap(), Replayed::Already);
        let replayed = log.replay(&second.payload.to_vec()).await.unwrap();
        assert_eq!(replayed, Replayed::Applied(Offset(2)..Offset(3)));
        log.recovered().await.unwrap();
        let records: Vec<Vec<u8>> =
            read_all(&log, Offset(0)).await.unwrap().into_iter().map(|r| r.0).collect();
        assert_eq!(records, [b"a", b"b", b"c"]);
    });
}

#[test]
fn a_reader_reaches_as_far_as_its_bytes_and_one_record_at_least() {
    let disk = MemoryDisk::new();
    memory::run(&disk, |env| async move {
        let log = open(&env, &State::default()).await.unwrap();
        assert_eq!(log.reach(Offset(0), 100), (Offset(0), 0), "there is nothing");
        for batch in 0..40 {
            let records = (0..=(batch % 7)).map(|n| vec![7; 100 * (1 + batch % 3) + n]);
            log.append(&Batch::of(records).unwrap(), WallTime(5)).unwrap();
        }
        let end = log.end();
        assert_eq!(log.reach(Offset(0), u64::MAX), (Offset(0), 0), "nothing is durable");
        log.durable(end);
        let check = || {
            for from in (0..end.0).map(Offset) {
                let mut before = from;
                for bytes in [0, 1, 90, 350, 1_000, 5_000, 1 << 20] {
                    let (upto, used) = log.reach(from, bytes);
                    assert!(from < upto && before <= upto && upto <= end);
                    assert!(used <= bytes.max(400) && used >= 90 * (upto.0 - from.0));
                    before = upto;
                }
            }
            assert_eq!(log.reach(end, 1_000), (end, 0));
        };
        check();
        assert_eq!(log.reach(Offset(0), 1 << 20).0, end);
        // Also where all that is known is how large a segment is.
        log.flush().await.unwrap();
        let before = log.tail_bytes();
        log.let_go(0);
        assert!(log.tail_bytes() < before / 2, "{} of {before}", log.tail_bytes());
        check();
        assert_eq!(read_all(&log, Offset(0)).await.unwrap().len() as u64, end.0);
    });
}

#[test]
fn what_is_let_go_takes_no_memory_and_the_next_flush_goes_on_behind_it() {
    let disk = MemoryDisk::new();
    memory::run(&disk, |env| async move {
        let log = open(&env, &State::default()).await.unwrap();
        for round in 0..20_u64 {
            let batch = Batch::of([round.to_le_bytes()]).unwrap();
            log.append(&batch, WallTime(round)).unwrap();
            log.let_go(0);
            assert!(log.tail_bytes() > 0, "only memory has it");
            log.durable(log.end());
            log.flush().await.unwrap();
            log.let_go(0);
            assert_eq!(log.tail_bytes(), 0);
        }
        let log = open(&env, &State::decode(&log.state().encode()).unwrap()).await.unwrap();
        log.recovered().await.unwrap();
        let records = read_all(&log, Offset(0)).await.unwrap();
        let expected: Vec<_> =
            (0..20_u64).map(|n| (n.to_le_bytes().to_vec(), WallTime(n))).collect();
        assert_eq!(records, expected);
    });
}

#[test]
fn a_gap_a_conflict_and_another_depot_are_errors() {
    let disk = MemoryDisk::new();
    memory::run(&disk, |env| async move {
        let log = open(&env, &State::default()).await.unwrap();
        let a = appended(log.append(&Batch::of(["a"]).unwrap(), WallTime(5)).unwrap());
        let b = appended(log.append(&Batch::of(["b"]).unwrap(), WallTime(5)).unwrap());
        let log = open(&env, &State::default()).await.unwrap();
        let error = log.replay(&b.payload.to_vec()).await.unwrap_err();
        assert!(matches!(error, Error::Gap { expected: Offset(0), found: Offset(1) }));
        log.replay(&a.payload.to_vec()).await.unwrap();
        let other = open(&env, &State::default()).await.unwrap();
        let x = appended(other.append(&Batch::of(["x"]).unwrap(), WallTime(5)).unwrap());
        let error = log.replay(&x.payload.to_vec()).await.unwrap_err();
        assert!(matches!(error, Error::Conflict { offset: Offset(0) }));
        let from = State::default();
        let log = Log::open(&env, PartitionId(3), DepotId(8), "p/3", &from, small());
        let error = log.await.unwrap().replay(&a.payload.to_vec()).await.unwrap_err();
        assert!(matches!(error, Error::BadPayload { .. }));
    });
}

#[test]
fn a_repeated_key_gets_the_first_answer_after_fold_and_replay() {
    let disk = MemoryDisk::new();
    memory::run(&disk, |env| async move {
        let keyed = |sequence| Batch::of(["a", "b"]).unwrap().with_key(Key { client: 9, sequence });
        let again = |log: &Log, sequence| match log.append(&keyed(sequence), WallTime(9)).unwrap() {
            Append::Repeated(offsets) => offsets,
            Append::Done(appended) => panic!("appended again at {:?}", appended.offsets),
        };
        let log = open(&env, &State::default()).await.unwrap();
        appended(log.append(&keyed(1), WallTime(5)).unwrap());
        log.durable(log.end());
        log.flush().await.unwrap();
        let payload = appended(log.append(&keyed(2), WallTime(5)).unwrap()).payload;
        assert_eq!(again(&log, 1), Offset(0)..Offset(2));
        let state = log.state();

        let log = open(&env, &State::decode(&state.encode()).unwrap()).await.unwrap();
        assert_eq!(log.end(), Offset(2));
        log.replay(&payload.to_vec()).await.unwrap();
        log.recovered().await.unwrap();
        assert_eq!(again(&log, 1), Offset(0)..Offset(2));
        assert_eq!(again(&log, 2), Offset(2)..Offset(4));
        let log = open(&env, &state).await.unwrap();
        log.recovered().await.unwrap();
        appended(log.append(&keyed(2), WallTime(5)).unwrap());
    });
}

#[test]
fn a_full_disk_delays_the_flush_and_loses_nothing() {
    let disk = MemoryDisk::new();
    let limited = disk.clone();
    memory::run(&disk, |env| async move {
        let log = open(&env, &State::default()).await.unwrap();
        let mut count = 0_u64;
        let mut refused = 0;
        limited.limit(Some(40 << 10));
        for step in 0..60_u64 {
            let record = vec![step.to_le_bytes()[0]; 2000];
            appended(log.append(&Batch::of([record]).unwrap(), WallTime(step)).unwrap());
            count += 1;
            log.durable(log.end());
            match log.flush().await {
                Ok(flushed) => assert_eq!(flushed.below, Offset(count)),
                Err(Error::NoSpace { .. }) => refused += 1,
                Err(error) => panic!("{error}"),
            }
            assert!(matches!(log.reserve_bulk(50_000).await, Err(Error::NoSpace { .. })));
        }
        assert!(refused > 20);
        assert_eq!(read_all(&log, Offset(0)).await.unwrap().len(), 60);
        limited.limit(None);
        log.flush().await.unwrap();
        log.reserve_bulk(50_000).await.unwrap();
        let log = open(&env, &log.state()).await.unwrap();
        assert_eq!(read_all(&log, Offset(0)).await.unwrap().len(), 60);
    });
}

#[test]
fn who_waits_for_durability_wakes() {
    let disk = MemoryDisk::new();
    memory::run(&disk, |env| async move {
        let log = open(&env, &State::default()).await.unwrap();
        log.reserve_bulk(20_000).await.unwrap();
        let batch = Batch::of([vec![7; 20_000]]).unwrap();
        let Bulk::Done { write, .. } = log.append_bulk(&batch, WallTime(1)).unwrap() else {
            panic!("no key, so not repeated")
        };
        let waiting = log.clone();
        let (done, wait) = futures_channel::oneshot::channel();
        env.spawn(Class::Core, "wait", async move {
            waiting.durable_through(Offset(1)).await.unwrap();
            done.send(()).unwrap();
        });
        log.durable(Offset(1));
        assert_eq!(log.durable_end(), Offset(0), "the extent is not written");
        write.await.unwrap();
        wait.await.unwrap();
        assert_eq!(log.durable_end(), Offset(1));
    });
}

#[test]
fn placing_is_idempotent_by_index() {
    let disk = MemoryDisk::new();
    memory::run(&disk, |env| async move {
        let log = open(&env, &State::default()).await.unwrap();
        let batch = Batch::of(["a"]).unwrap();
        let place = |log: &Log, index| log.place(Index(index), &batch, WallTime(index)).unwrap();
        assert_eq!(place(&log, 4), Some(Offset(0)..Offset(1)));
        assert_eq!(place(&log, 4), None);
        log.durable(Offset(1));
        log.flush().await.unwrap();
        assert_eq!(place(&log, 6), Some(Offset(1)..Offset(2)));
        let log = open(&env, &log.state()).await.unwrap();
        assert_eq!(place(&log, 4), None);
        assert_eq!(place(&log, 6), Some(Offset(1)..Offset(2)));
    });
}

/// A disk on which opening a file that there is waits for somebody, once.
struct SlowOpen {
    disk: MemoryDisk,
    gate: Rc<Cell<Option<oneshot::Receiver<()>>>>,
}

impl Disk for SlowOpen {
    fn open<'a>(
        &'a self,
        path: &'a str,
        how: Open,
    ) -> LocalFuture<'a, std::io::Result<Rc<dyn File>>> {
        let gate = if matches!(how, Open::Existing) { self.gate.take() } else { None };
        Box::pin(async move {
            if let Some(gate) = gate {
                gate.await.unwrap();
            }
            self.disk.open(path, how).await
        })
    }

    fn list<'a>(&'a self, dir: &'a str) -> LocalFuture<'a, std::io::Result<Vec<String>>> {
        self.disk.list(dir)
    }

    fn create_dir<'a>(&'a self, dir: &'a str) -> LocalFuture<'a, std::io::Result<()>> {
        self.disk.create_dir(dir)
    }

    fn remove<'a>(&'a self, path: &'a str) -> LocalFuture<'a, std::io::Result<()>> {
        self.disk.remove(path)
    }

    fn rename<'a>(&'a self, from: &'a str, to: &'a str) -> LocalFuture<'a, std::io::Result<()>> {
        self.disk.rename(from, to)
    }

    fn sync_dir<'a>(&'a self, dir: &'a str) -> LocalFuture<'a, std::io::Result<()>> {
        self.disk.sync_dir(dir)
    }

    fn free_bytes(&self) -> std::io::Result<u64> {
        self.disk.free_bytes()
    }
}

#[test]
fn a_read_that_meets_a_removed_file_says_trimmed() {
    let gate = Rc::new(Cell::new(None));
    let disk = Rc::new(SlowOpen { disk: MemoryDisk::new(), gate: Rc::clone(&gate) });
    run_on(disk, 1, |env| async move {
        let log = open(&env, &State::default()).await.unwrap();
        for round in 0..40 {
            let batch = Batch::of([vec![7_u8; 8_000]]).unwrap();
            log.append(&batch, WallTime(round)).unwrap();
            log.durable(log.end());
            log.flush().await.unwrap();
        }
        let state = State::decode(&log.state().encode()).unwrap();
        // As after a restart: the file is not held open.
        let log = open(&env, &state).await.unwrap();
        log.recovered().await.unwrap();
        let (go, wait) = oneshot::channel();
        gate.set(Some(wait));
        let read = log.read(Offset(0), everything());
        let trim = async {
            assert!(log.trim(Offset(30), WallTime(u64::MAX)) > Offset(0));
            let state = log.state();
            log.recorded(&state).await.unwrap();
            go.send(()).unwrap();
        };
        let (read, ()) = futures_util::future::join(read, trim).await;
        let error = read.unwrap_err();
        assert!(matches!(error, Error::Trimmed { .. }), "{error:?}");
    });
}
