//! The production platform with a disk that can be told to fail.

use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use tidemill::env::production::{self, Production};
use tidemill::env::{
    Buf, Class, Clock, Disk, Env, File, LocalFuture, Open, Parcel, Platform, ShardMain, Spawner,
    Sync, WithBuf,
};
use tidemill::types::{ShardId, Time, WallTime};

/// What is wrong with the disk now. Clones share it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Faults {
    full: Arc<AtomicBool>,
    /// Whether the disk still says that there is space.
    lies: Arc<AtomicBool>,
    /// Bit n: writes and syncs of shard n fail.
    broken: Arc<AtomicU32>,
}

impl Faults {
    /// No space is given any more, or there is plenty again.
    pub(crate) fn full(&self, full: bool) {
        self.full.store(full, Ordering::SeqCst);
    }

    /// Whether the disk says that there is space when it is full, as it does when others are faster.
    pub(crate) fn lies(&self, lies: bool) {
        self.lies.store(lies, Ordering::SeqCst);
    }

    /// Writes and syncs of this shard fail, or work again.
    pub(crate) fn broken(&self, shard: ShardId, broken: bool) {
        let bit = 1 << shard.0;
        if broken {
            self.broken.fetch_or(bit, Ordering::SeqCst);
        } else {
            self.broken.fetch_and(!bit, Ordering::SeqCst);
        }
    }

    fn is_full(&self) -> bool {
        self.full.load(Ordering::SeqCst)
    }

    fn is_broken(&self, shard: ShardId) -> bool {
        self.broken.load(Ordering::SeqCst) >> shard.0 & 1 == 1
    }
}

/// See the module.
pub(crate) struct FaultyPlatform {
    inner: Arc<Production>,
    faults: Faults,
}

impl FaultyPlatform {
    pub(crate) fn open(dir: &std::path::Path, shards: u16, faults: &Faults) -> Arc<Self> {
        let options = production::Options { shards, ..production::Options::default() };
        let inner = Production::open(dir, options).unwrap();
        Arc::new(Self { inner, faults: faults.clone() })
    }
}

impl Platform for FaultyPlatform {
    fn start(&self, shard: ShardId, main: ShardMain) -> io::Result<()> {
        let faults = self.faults.clone();
        let wrapped: ShardMain = Box::new(move |env: Env| {
            let env = Rc::new(env);
            let disk = FaultyDisk { inner: Rc::clone(env.disk()), faults, shard };
            let seed = env.random();
            main(Env::new(
                shard,
                Rc::new(disk),
                Rc::new(Same(Rc::clone(&env))),
                Rc::new(Same(Rc::clone(&env))),
                Rc::clone(env.mesh()),
                seed,
            ))
        });
        self.inner.start(shard, wrapped)
    }

    fn post(&self, to: ShardId, parcel: Parcel) {
        self.inner.post(to, parcel);
    }

    fn ended(&self, shard: ShardId) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        self.inner.ended(shard)
    }
}

/// What is passed on unchanged.
struct Same(Rc<Env>);

impl Clock for Same {
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

impl Spawner for Same {
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

struct FaultyDisk {
    inner: Rc<dyn Disk>,
    faults: Faults,
    shard: ShardId,
}

impl Disk for FaultyDisk {
    fn open<'a>(&'a self, path: &'a str, how: Open) -> LocalFuture<'a, io::Result<Rc<dyn File>>> {
        Box::pin(async move {
            let inner = self.inner.open(path, how).await?;
            let (faults, shard) = (self.faults.clone(), self.shard);
            let file: Rc<dyn File> = Rc::new(FaultyFile { inner, faults, shard });
            Ok(file)
        })
    }

    fn list<'a>(&'a self, dir: &'a str) -> LocalFuture<'a, io::Result<Vec<String>>> {
        self.inner.list(dir)
    }

    fn create_dir<'a>(&'a self, dir: &'a str) -> LocalFuture<'a, io::Result<()>> {
        self.inner.create_dir(dir)
    }

    fn remove<'a>(&'a self, path: &'a str) -> LocalFuture<'a, io::Result<()>> {
        self.inner.remove(path)
    }

    fn rename<'a>(&'a self, from: &'a str, to: &'a str) -> LocalFuture<'a, io::Result<()>> {
        self.inner.rename(from, to)
    }

    fn sync_dir<'a>(&'a self, dir: &'a str) -> LocalFuture<'a, io::Result<()>> {
        self.inner.sync_dir(dir)
    }

    fn free_bytes(&self) -> io::Result<u64> {
        let told = self.faults.is_full() && !self.faults.lies.load(Ordering::SeqCst);
        if told { Ok(0) } else { self.inner.free_bytes() }
    }
}

struct FaultyFile {
    inner: Rc<dyn File>,
    faults: Faults,
    shard: ShardId,
}

fn broken() -> io::Error {
    io::Error::from_raw_os_error(5)
}

impl File for FaultyFile {
    fn read(&self, at: u64, buf: Buf) -> LocalFuture<'static, WithBuf> {
        self.inner.read(at, buf)
    }

    fn write(&self, at: u64, buf: Buf, sync: Sync) -> LocalFuture<'static, WithBuf> {
        if self.faults.is_broken(self.shard) {
            return Box::pin(std::future::ready((Err(broken()), buf)));
        }
        // Whatever is written lies in space that was allocated before: nothing else promises that a
        // write finds room. Only a new directory's first blocks can do without.
        let end = at + buf.len() as u64;
        let (len, new) = (self.inner.len().unwrap(), self.inner.path().starts_with("MANIFEST"));
        assert!(
            new || end <= len,
            "{} is written to {end}, allocated are {len}",
            self.inner.path()
        );
        self.inner.write(at, buf, sync)
    }

    fn sync(&self) -> LocalFuture<'static, io::Result<()>> {
        if self.faults.is_broken(self.shard) {
            return Box::pin(std::future::ready(Err(broken())));
        }
        self.inner.sync()
    }

    fn allocate(&self, len: u64) -> LocalFuture<'static, io::Result<()>> {
        if self.faults.is_full() && self.inner.len().unwrap() < len {
            return Box::pin(std::future::ready(Err(io::ErrorKind::StorageFull.into())));
        }
        self.inner.allocate(len)
    }

    fn truncate(&self, len: u64) -> LocalFuture<'static, io::Result<()>> {
        self.inner.truncate(len)
    }

    fn len(&self) -> io::Result<u64> {
        self.inner.len()
    }

    fn path(&self) -> &str {
        self.inner.path()
    }
}
