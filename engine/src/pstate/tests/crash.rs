//! Crashes at every point of a fold: each block that was not synced survives, vanishes or tears.

use std::io;
use std::time::Duration;

use super::*;
use crate::env::{Buf, Class, Clock, Disk, File, LocalFuture, Open, Spawner, Sync, WithBuf};
use crate::page::PAGE_BYTES;
use crate::types::{Time, WallTime};

#[derive(Clone, Debug)]
enum Op {
    Write { at: usize, bytes: Vec<u8>, sync: Sync },
    Sync,
    SyncDir(String),
    Resize(usize),
}

type Log = Rc<RefCell<Vec<Op>>>;

/// Remembers what is done to the page file.
struct Recorder {
    disk: Rc<dyn Disk>,
    log: Log,
}

struct Recorded {
    file: Rc<dyn File>,
    log: Log,
}

impl Disk for Recorder {
    fn open<'a>(&'a self, path: &'a str, how: Open) -> LocalFuture<'a, io::Result<Rc<dyn File>>> {
        Box::pin(async move {
            let file = self.disk.open(path, how).await?;
            Ok(Rc::new(Recorded { file, log: Rc::clone(&self.log) }) as Rc<dyn File>)
        })
    }
    fn list<'a>(&'a self, dir: &'a str) -> LocalFuture<'a, io::Result<Vec<String>>> {
        self.disk.list(dir)
    }
    fn create_dir<'a>(&'a self, dir: &'a str) -> LocalFuture<'a, io::Result<()>> {
        self.disk.create_dir(dir)
    }
    fn remove<'a>(&'a self, path: &'a str) -> LocalFuture<'a, io::Result<()>> {
        self.disk.remove(path)
    }
    fn rename<'a>(&'a self, from: &'a str, to: &'a str) -> LocalFuture<'a, io::Result<()>> {
        self.disk.rename(from, to)
    }
    fn sync_dir<'a>(&'a self, dir: &'a str) -> LocalFuture<'a, io::Result<()>> {
        self.log.borrow_mut().push(Op::SyncDir(dir.to_owned()));
        self.disk.sync_dir(dir)
    }
    fn free_bytes(&self) -> io::Result<u64> {
        self.disk.free_bytes()
    }
}

impl File for Recorded {
    fn read(&self, at: u64, buf: Buf) -> LocalFuture<'static, WithBuf> {
        self.file.read(at, buf)
    }
    fn write(&self, at: u64, buf: Buf, sync: Sync) -> LocalFuture<'static, WithBuf> {
        let at_bytes = usize::try_from(at).unwrap();
        assert!(at + buf.len() as u64 <= self.file.len().unwrap(), "space is allocated before");
        self.log.borrow_mut().push(Op::Write { at: at_bytes, bytes: buf.to_vec(), sync });
        self.file.write(at, buf, sync)
    }
    fn sync(&self) -> LocalFuture<'static, io::Result<()>> {
        self.log.borrow_mut().push(Op::Sync);
        self.file.sync()
    }
    fn allocate(&self, len: u64) -> LocalFuture<'static, io::Result<()>> {
        self.log.borrow_mut().push(Op::Resize(usize::try_from(len).unwrap()));
        self.file.allocate(len)
    }
    fn truncate(&self, len: u64) -> LocalFuture<'static, io::Result<()>> {
        self.log.borrow_mut().push(Op::Resize(usize::try_from(len).unwrap()));
        self.file.truncate(len)
    }
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }
    fn path(&self) -> &str {
        self.file.path()
    }
}

/// An environment's clock and tasks, where it is always time to yield.
struct Yielding(Env);

impl Clock for Yielding {
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

impl Spawner for Yielding {
    fn spawn(&self, class: Class, name: &'static str, future: LocalFuture<'static, ()>) {
        self.0.spawn(class, name, future);
    }
    fn yield_now(&self) -> LocalFuture<'static, ()> {
        self.0.yield_now()
    }
    fn should_yield(&self) -> bool {
        true
    }
}

fn recording(env: &Env, log: &Log) -> Env {
    let disk = Recorder { disk: Rc::clone(env.disk()), log: Rc::clone(log) };
    yielding(env, Rc::new(disk))
}

/// The environment over another disk, always in the mood to let others run.
pub(super) fn yielding(env: &Env, disk: Rc<dyn Disk>) -> Env {
    let yielding = Rc::new(Yielding(env.clone()));
    let (clock, spawner) = (Rc::clone(&yielding) as Rc<dyn Clock>, yielding as Rc<dyn Spawner>);
    Env::new(env.shard(), disk, clock, spawner, Rc::clone(env.mesh()), 1)
}

/// What the file may hold after a crash when `ops` were begun and only the last may be unfinished.
fn crash_image(ops: &[Op], chance: &mut Chance) -> Vec<u8> {
    let mut durable: Vec<u8> = Vec::new();
    let mut len = 0;
    let mut unsynced: Vec<(usize, Vec<u8>)> = Vec::new();
    for (nth, op) in ops.iter().enumerate() {
        let finished = nth + 1 < ops.len() || chance.below(2) == 0;
        match op {
            Op::Write { at, bytes, sync } => {
                let blocks = bytes.chunks(PAGE_BYTES).enumerate();
                for (block, bytes) in blocks {
                    let at = at + block * PAGE_BYTES;
                    if *sync == Sync::Data && finished {
                        durable.resize(durable.len().max(at + PAGE_BYTES), 0);
                        durable[at..at + PAGE_BYTES].copy_from_slice(bytes);
                    } else {
                        unsynced.push((at, bytes.to_vec()));
                    }
                }
            }
            Op::Sync if finished => {
                durable.resize(len, 0);
                for (at, bytes) in unsynced.drain(..) {
                    durable[at..at + PAGE_BYTES].copy_from_slice(&bytes);
                }
            }
            Op::Sync | Op::SyncDir(_) => {}
            Op::Resize(new) => len = *new,
        }
    }
    if chance.below(2) == 0 {
        durable.resize(len, 0);
    }
    for (at, bytes) in unsynced {
        let kept = match chance.below(3) {
            0 => 0,
            1 => PAGE_BYTES,
            _ => usize::try_from(chance.below(8)).unwrap() * 512,
        };
        if kept > 0 {
            durable.resize(durable.len().max(at + PAGE_BYTES), 0);
            durable[at..at + kept].copy_from_slice(&bytes[..kept]);
        }
    }
    durable
}

/// After each fold: how many operations had ended, and what was visible.
type History = Vec<(usize, Model)>;

async fn workload(env: Env, log: Log, seed: u64) -> History {
    let env = recording(&env, &log);
    let shape =
        Shape { keys: 4_000, value_max: 40_000, cache_bytes: 1 << 20, rounds: 0, writes: 700 };
    let (mut chance, mut model) = (Chance(seed), Model::new());
    let (store, _) = open(&env, Index(1)).await.unwrap();
    let mut history = vec![(0, Model::new())];
    for round in 1..10 {
        let set = write_set(&mut chance, &shape, &mut model);
        store.stack(LEDGER, MicrobatchId(round), Rc::new(set.seal()));
        store.merge(LEDGER, MicrobatchId(round));
        store.fold(Index(round), &[]).await.unwrap();
        history.push((log.borrow().len(), model.clone()));
    }
    history
}

#[test]
fn a_crash_anywhere_leaves_the_old_state_or_the_new_one() {
    for seed in 0..3 {
        let log = Log::default();
        let (disk, same) = (MemoryDisk::new(), Rc::clone(&log));
        let history = run(&disk, move |env| workload(env, same, seed));
        let history = Rc::new(history);
        let ops = log.take();
        let mut chance = Chance(seed);
        let (mut old, mut new) = (0, 0);
        for begun in (1..=ops.len()).flat_map(|begun| [begun, begun]) {
            let image = crash_image(&ops[..begun], &mut chance);
            // The last operation may be unfinished, and then its fold has not returned.
            let folded = history.iter().rposition(|(ended, _)| *ended < begun).unwrap() as u64;
            let disk = MemoryDisk::new();
            let (copy, history) = (disk.clone(), Rc::clone(&history));
            let covers = run(&disk, |env| async move {
                env.disk().open(PATH, Open::New).await.unwrap();
                copy.damage(PATH, |bytes| *bytes = image);
                let (store, opened) = open(&env, Index(folded + 1)).await.unwrap();
                let covers = opened.covers.0;
                assert!(covers == folded || covers == folded + 1, "{covers} after {folded}");
                let (_, model) = &history[usize::try_from(covers).unwrap()];
                check_all(&store, model).await;
                // What the crash left over does not disturb the folds that follow.
                for round in 1..3 {
                    write(&store, round, |set| set.put(PStateId(2), b"after", &[1; 5_000]));
                    store.fold(Index(covers + round), &[]).await.unwrap();
                    sound_or_torn_slot(&copy, round);
                }
                let mut model = model.clone();
                model.insert((PStateId(2), b"after".to_vec()), vec![1; 5_000]);
                check_all(&store, &model).await;
                covers
            });
            *(if covers == folded { &mut old } else { &mut new }) += 1;
        }
        assert!(old > 20 && new > 0, "both outcomes occur: {old} {new}");
    }
}

/// One slot may be torn until the second fold after the crash has written it again.
fn sound_or_torn_slot(disk: &MemoryDisk, round: u64) {
    let findings = verify(&disk.contents(PATH).unwrap(), Some(PARTITION)).findings;
    let slots = [0, 131_072];
    assert!(findings.iter().all(|f| round < 2 && slots.contains(&f.byte)), "{findings:?}");
}

async fn check_all(store: &Store, model: &Model) {
    for pstate in (0..3).map(PStateId) {
        let view = View::visible();
        let found = scan_all(store, &view, pstate, KeyRange::ALL, Direction::Forward, usize::MAX);
        let expected = model.iter().filter(|((of, _), _)| *of == pstate);
        let expected = expected.map(|((_, key), value)| (key.clone(), value.clone()));
        assert!(found.await.into_iter().eq(expected));
    }
}

/// A process that died right after it created the file leaves a name that is not durable.
#[test]
fn a_file_that_was_only_found_gets_a_durable_name_and_contents() {
    let (disk, log) = (MemoryDisk::new(), Log::default());
    let same = Rc::clone(&log);
    run(&disk, |env| async move {
        env.disk().open(PATH, Open::New).await.unwrap();
        let env = recording(&env, &same);
        let (store, _) = open(&env, Index(1)).await.unwrap();
        assert!(matches!(same.take()[..], [Op::Sync]), "what is read is made durable first");
        store.fold(Index(1), &[]).await.unwrap();
    });
    let ops = log.take();
    let root = ops.iter().position(|op| matches!(op, Op::Write { sync: Sync::Data, .. })).unwrap();
    for dir in [DIR, "p", "."] {
        let synced = |op: &Op| matches!(op, Op::SyncDir(synced) if synced == dir);
        assert!(ops[..root].iter().any(synced), "{dir} is synced before the fold is answered");
    }
}
