//! An environment for unit tests: files in memory that never fail, virtual time, one executor.
//!
//! [`run`] polls the given future and everything it spawns on this thread until it is done; time
//! jumps to the next sleeper when nothing else can run. Tests that need crashes and faults belong to
//! the simulator of the `tidemill-tests` crate.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::future::Future;
use std::io;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use super::{
    Below, Buf, Class, Clock, Disk, Env, File, LocalFuture, Mesh, Open, Parcel, Sender, Spawner,
    Sync, WithBuf,
};
use crate::types::{ShardId, Time, WallTime};

/// A data directory in memory. Clones share the files, so a test can open a second engine on what
/// the first one left, and look at or damage the bytes.
#[derive(Clone, Debug, Default)]
pub struct MemoryDisk {
    files: Rc<RefCell<BTreeMap<String, Bytes>>>,
    bytes_max: Rc<Cell<Option<u64>>>,
}

type Bytes = Rc<RefCell<Vec<u8>>>;

impl MemoryDisk {
    /// An empty directory without a limit.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// From now on files may hold `bytes` in all; writes beyond that fail with `StorageFull`.
    pub fn limit(&self, bytes: Option<u64>) {
        self.bytes_max.set(bytes);
    }

    /// The paths of all files, sorted.
    #[must_use]
    pub fn paths(&self) -> Vec<String> {
        self.files.borrow().keys().cloned().collect()
    }

    /// A copy of a file's bytes, if it exists.
    #[must_use]
    pub fn contents(&self, path: &str) -> Option<Vec<u8>> {
        self.files.borrow().get(path).map(|bytes| bytes.borrow().clone())
    }

    /// Changes a file in place, as damage would.
    pub fn damage(&self, path: &str, change: impl FnOnce(&mut Vec<u8>)) {
        let file = self.files.borrow().get(path).cloned().expect("the file to damage exists");
        change(&mut file.borrow_mut());
    }

    /// A deep copy, to come back to.
    #[must_use]
    pub fn snapshot(&self) -> Self {
        let files = self.files.borrow();
        let copy = files
            .iter()
            .map(|(path, bytes)| (path.clone(), Rc::new(RefCell::new(bytes.borrow().clone()))));
        Self {
            files: Rc::new(RefCell::new(copy.collect())),
            bytes_max: Rc::new(Cell::new(self.bytes_max.get())),
        }
    }

    fn used(&self) -> u64 {
        self.files.borrow().values().map(|bytes| bytes.borrow().len() as u64).sum()
    }

    fn room(&self, more: u64) -> io::Result<()> {
        match self.bytes_max.get() {
            Some(max) if self.used() + more > max => Err(io::ErrorKind::StorageFull.into()),
            _ => Ok(()),
        }
    }
}

fn ready<T: 'static>(value: T) -> LocalFuture<'static, T> {
    Box::pin(std::future::ready(value))
}

impl Disk for MemoryDisk {
    fn open<'a>(&'a self, path: &'a str, how: Open) -> LocalFuture<'a, io::Result<Rc<dyn File>>> {
        let mut files = self.files.borrow_mut();
        let exists = files.contains_key(path);
        let result: io::Result<Rc<dyn File>> = match how {
            Open::Existing if !exists => Err(io::ErrorKind::NotFound.into()),
            Open::New if exists => Err(io::ErrorKind::AlreadyExists.into()),
            _ => {
                let bytes = Rc::clone(files.entry(path.to_owned()).or_default());
                Ok(Rc::new(MemoryFile { path: path.to_owned(), bytes, disk: self.clone() }))
            }
        };
        drop(files);
        ready(result)
    }

    fn list<'a>(&'a self, dir: &'a str) -> LocalFuture<'a, io::Result<Vec<String>>> {
        let prefix = if dir == "." { String::new() } else { format!("{dir}/") };
        let mut names: Vec<String> = self
            .files
            .borrow()
            .keys()
            .filter_map(|path| path.strip_prefix(&prefix))
            .map(|rest| rest.split('/').next().unwrap_or(rest).to_owned())
            .collect();
        names.dedup();
        ready(Ok(names))
    }

    fn create_dir<'a>(&'a self, _dir: &'a str) -> LocalFuture<'a, io::Result<()>> {
        ready(Ok(()))
    }

    fn remove<'a>(&'a self, path: &'a str) -> LocalFuture<'a, io::Result<()>> {
        let removed = self.files.borrow_mut().remove(path);
        ready(removed.map(|_| ()).ok_or_else(|| io::ErrorKind::NotFound.into()))
    }

    fn rename<'a>(&'a self, from: &'a str, to: &'a str) -> LocalFuture<'a, io::Result<()>> {
        let mut files = self.files.borrow_mut();
        let moved = files.remove(from).map(|bytes| files.insert(to.to_owned(), bytes));
        drop(files);
        ready(moved.map(|_| ()).ok_or_else(|| io::ErrorKind::NotFound.into()))
    }

    fn sync_dir<'a>(&'a self, _dir: &'a str) -> LocalFuture<'a, io::Result<()>> {
        ready(Ok(()))
    }

    fn free_bytes(&self) -> io::Result<u64> {
        let max = self.bytes_max.get().unwrap_or(1 << 50);
        Ok(max.saturating_sub(self.used()))
    }

    fn elsewhere(&self, dir: &str) -> io::Result<Rc<dyn Disk>> {
        let disk: Rc<dyn Disk> = Rc::new(self.clone());
        Ok(Rc::new(Below::new(&disk, dir)))
    }

    fn link<'a>(&'a self, from: &'a str, to: &'a str) -> LocalFuture<'a, io::Result<()>> {
        let mut files = self.files.borrow_mut();
        let result = match (files.get(from).cloned(), files.contains_key(to)) {
            (None, _) => Err(io::ErrorKind::NotFound.into()),
            (Some(_), true) => Err(io::ErrorKind::AlreadyExists.into()),
            (Some(bytes), false) => {
                files.insert(to.to_owned(), bytes);
                Ok(())
            }
        };
        drop(files);
        ready(result)
    }
}

struct MemoryFile {
    path: String,
    bytes: Bytes,
    disk: MemoryDisk,
}

impl MemoryFile {
    fn grow(&self, len: u64) -> io::Result<()> {
        let mut bytes = self.bytes.borrow_mut();
        let more = len.saturating_sub(bytes.len() as u64);
        if more > 0 {
            drop(bytes);
            self.disk.room(more)?;
            bytes = self.bytes.borrow_mut();
            bytes.resize(usize::try_from(len).expect("test files fit memory"), 0);
        }
        Ok(())
    }
}

impl File for MemoryFile {
    fn read(&self, at: u64, mut buf: Buf) -> LocalFuture<'static, WithBuf> {
        let bytes = self.bytes.borrow();
        let from = usize::try_from(at).expect("test files fit memory").min(bytes.len());
        let count = buf.len().min(bytes.len() - from);
        buf[..count].copy_from_slice(&bytes[from..from + count]);
        ready((Ok(count), buf))
    }

    fn write(&self, at: u64, buf: Buf, _sync: Sync) -> LocalFuture<'static, WithBuf> {
        if let Err(error) = self.grow(at + buf.len() as u64) {
            return ready((Err(error), buf));
        }
        let from = usize::try_from(at).expect("test files fit memory");
        self.bytes.borrow_mut()[from..from + buf.len()].copy_from_slice(&buf);
        ready((Ok(buf.len()), buf))
    }

    fn sync(&self) -> LocalFuture<'static, io::Result<()>> {
        ready(Ok(()))
    }

    fn allocate(&self, len: u64) -> LocalFuture<'static, io::Result<()>> {
        ready(self.grow(len))
    }

    fn truncate(&self, len: u64) -> LocalFuture<'static, io::Result<()>> {
        self.bytes.borrow_mut().truncate(usize::try_from(len).expect("test files fit memory"));
        ready(Ok(()))
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.bytes.borrow().len() as u64)
    }

    fn path(&self) -> &str {
        &self.path
    }
}

/// Runs `body` with an environment on `disk` until it is done, with everything it spawns.
///
/// # Panics
/// If nothing can run any more while `body` still waits: a deadlock.
pub fn run<T: 'static, F: Future<Output = T> + 'static>(
    disk: &MemoryDisk,
    body: impl FnOnce(Env) -> F,
) -> T {
    let executor = Rc::new(Executor::default());
    let result = Rc::new(RefCell::new(None));
    let future = body(executor.env(disk));
    let slot = Rc::clone(&result);
    executor.spawn(
        Class::Core,
        "body",
        Box::pin(async move { *slot.borrow_mut() = Some(future.await) }),
    );
    while result.borrow().is_none() {
        assert!(executor.turn(), "{DEADLOCK}");
    }
    executor.end();
    result.take().expect("the loop ended because it is there")
}

/// An environment on which one future after the other is run to its end, for what outlives each of them.
pub struct Machine {
    env: Env,
    executor: Rc<Executor>,
}

impl Machine {
    /// A machine with this disk.
    #[must_use]
    pub fn new(disk: &MemoryDisk) -> Self {
        let executor = Rc::new(Executor::default());
        Self { env: executor.env(disk), executor }
    }

    /// What its futures use.
    #[must_use]
    pub fn env(&self) -> &Env {
        &self.env
    }

    /// Runs `future` to its end, and what is spawned meanwhile as far as it gets.
    ///
    /// # Panics
    /// If nothing can run any more while `future` still waits: a deadlock.
    pub fn block_on<T>(&self, future: impl Future<Output = T>) -> T {
        let mut future = pin!(future);
        let woken = Arc::new(Flag(AtomicBool::new(true)));
        let waker = Waker::from(Arc::clone(&woken));
        loop {
            if woken.0.swap(false, Ordering::AcqRel) {
                self.executor.class.set(Some(Class::Core));
                let polled = future.as_mut().poll(&mut Context::from_waker(&waker));
                if let Poll::Ready(out) = polled {
                    return out;
                }
            }
            let turned = self.executor.turn();
            assert!(turned || woken.0.load(Ordering::Acquire), "{DEADLOCK}");
        }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.executor.end();
    }
}

impl std::fmt::Debug for Machine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Machine").finish_non_exhaustive()
    }
}

const DEADLOCK: &str = "deadlock: every task waits and nobody sleeps";

#[derive(Default)]
struct Executor {
    now: Cell<u64>,
    /// Of the task that runs.
    class: Cell<Option<Class>>,
    tasks: RefCell<Vec<Task>>,
    spawned: RefCell<Vec<Task>>,
    sleepers: RefCell<BTreeMap<(u64, u64), Waker>>,
    sleeper_last: Cell<u64>,
}

struct Task {
    class: Class,
    future: LocalFuture<'static, ()>,
    woken: Arc<Flag>,
}

#[derive(Default)]
struct Flag(AtomicBool);

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Release);
    }
}

impl Executor {
    fn env(self: &Rc<Self>, disk: &MemoryDisk) -> Env {
        Env::new(
            ShardId(0),
            Rc::new(disk.clone()),
            Rc::new(Rc::clone(self)),
            Rc::clone(self) as Rc<dyn Spawner>,
            Rc::new(LoopbackMesh::default()),
            1,
        )
    }

    /// Drops all tasks: they hold the executor through their environment, so this breaks the circle.
    fn end(&self) {
        self.tasks.borrow_mut().clear();
        self.spawned.borrow_mut().clear();
    }

    /// Polls every woken task once, or moves time to the next sleeper; false if neither is possible.
    fn turn(&self) -> bool {
        let mut tasks = self.tasks.take();
        tasks.append(&mut self.spawned.borrow_mut());
        let mut polled = false;
        tasks.retain_mut(|task| {
            if !task.woken.0.swap(false, Ordering::AcqRel) {
                return true;
            }
            polled = true;
            let waker = Waker::from(Arc::clone(&task.woken));
            self.class.set(Some(task.class));
            task.future.as_mut().poll(&mut Context::from_waker(&waker)).is_pending()
        });
        *self.tasks.borrow_mut() = tasks;
        if polled || !self.spawned.borrow().is_empty() {
            return true;
        }
        let next = self.sleepers.borrow_mut().pop_first();
        if let Some(((time, _), waker)) = next {
            self.now.set(self.now.get().max(time));
            waker.wake();
            return true;
        }
        false
    }
}

impl Spawner for Executor {
    fn spawn(&self, class: Class, _name: &'static str, future: LocalFuture<'static, ()>) {
        let woken = Arc::new(Flag(AtomicBool::new(true)));
        self.spawned.borrow_mut().push(Task { class, future, woken });
    }

    fn class(&self) -> Class {
        self.class.get().unwrap_or(Class::Core)
    }

    fn yield_now(&self) -> LocalFuture<'static, ()> {
        let mut yielded = false;
        Box::pin(std::future::poll_fn(move |context| {
            if yielded {
                return Poll::Ready(());
            }
            yielded = true;
            context.waker().wake_by_ref();
            Poll::Pending
        }))
    }

    fn should_yield(&self) -> bool {
        false
    }
}

impl Clock for Rc<Executor> {
    fn now(&self) -> Time {
        Time(self.now.get())
    }

    fn wall(&self) -> WallTime {
        WallTime(1_700_000_000_000_000 + self.now.get() / 1_000)
    }

    fn sleep(&self, duration: Duration) -> LocalFuture<'static, ()> {
        let wake_at = Clock::now(self).after(duration).0;
        let executor = Rc::clone(self);
        let mut registered = false;
        Box::pin(std::future::poll_fn(move |context| {
            if registered && executor.now.get() >= wake_at {
                return Poll::Ready(());
            }
            registered = true;
            let serial = executor.sleeper_last.get() + 1;
            executor.sleeper_last.set(serial);
            executor.sleepers.borrow_mut().insert((wake_at, serial), context.waker().clone());
            Poll::Pending
        }))
    }
}

/// A mesh of one shard: what it sends to itself arrives, what it sends elsewhere is dropped.
#[derive(Default)]
struct LoopbackMesh {
    queue: RefCell<VecDeque<Parcel>>,
    waker: RefCell<Option<Waker>>,
}

impl Mesh for LoopbackMesh {
    fn send(&self, to: ShardId, parcel: Parcel) {
        if to == ShardId(0) {
            self.queue.borrow_mut().push_back(parcel);
            if let Some(waker) = self.waker.take() {
                waker.wake();
            }
        }
    }

    fn receive(&self) -> LocalFuture<'_, Vec<(Sender, Parcel)>> {
        Box::pin(std::future::poll_fn(|context| {
            let parcels: Vec<_> =
                self.queue.take().into_iter().map(|p| (Sender::Shard(ShardId(0)), p)).collect();
            if parcels.is_empty() {
                *self.waker.borrow_mut() = Some(context.waker().clone());
                return Poll::Pending;
            }
            Poll::Ready(parcels)
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env::{read_full, write_full};

    #[test]
    fn files_keep_what_was_written_and_time_moves() {
        let disk = MemoryDisk::new();
        let slept = run(&disk, |env| async move {
            let file = env.disk().open("a/b", Open::New).await.unwrap();
            let (result, buf) = write_full(&*file, 4096, Buf::copy_of(b"tide"), Sync::Data).await;
            result.unwrap();
            let (result, buf) = read_full(&*file, 4096, buf).await;
            result.unwrap();
            assert_eq!(&buf[..4], b"tide");
            let before = env.now();
            env.sleep(Duration::from_secs(5)).await;
            env.now().since(before)
        });
        assert_eq!(slept, Duration::from_secs(5));
        assert_eq!(disk.paths(), ["a/b"]);
    }
}
