//! Everything that comes from outside enters here: disk, time, chance, tasks, and the way from shard
//! to shard. The engine names no runtime, no ring and no clock; it holds an [`Env`].
//!
//! Three sides implement the traits: `production` (glommio and a direct `io_uring` ring), [`memory`]
//! (a disk that never fails, for unit tests), and the simulator of the `tidemill-tests` crate (one
//! thread, virtual time, one seed, a disk that forgets what was not synced). [`suite`] is the one
//! conformance suite that all of them pass.
//!
//! # Contracts
//!
//! * Files are opened for direct I/O: offsets, lengths and buffers are multiples of [`BLOCK_BYTES`].
//! * A buffer belongs to the environment until the future that took it returns it. Dropping such a
//!   future early is allowed: the operation runs on, its buffer is kept alive and dropped at the end.
//! * Reads and writes may be *short*; [`read_full`] and [`write_full`] continue them.
//! * Nothing written is durable before [`Sync::Data`] or [`File::sync`] returned `Ok`; a new name is
//!   durable only after [`Disk::sync_dir`] of its directory. After an error of a write or a sync, what
//!   reached the disk is unknown, and retrying proves nothing.

use std::any::Any;
use std::cell::Cell;
use std::future::Future;
use std::io;
use std::path::Path;
use std::pin::Pin;
use std::rc::Rc;
use std::time::Duration;

use crate::types::{ShardId, Time, WallTime};

mod below;
mod buf;
pub(crate) mod copy;
pub mod memory;
pub mod production;
pub mod suite;

pub use below::Below;
pub use buf::Buf;

/// The unit of every write: larger than any device asks for, and what a crash may tear at most.
pub const BLOCK_BYTES: usize = 4096;

/// No single read or write is larger; kernels have wedged on reads above 6 MiB.
pub const IO_BYTES_MAX: usize = 1 << 20;

/// A future that stays on its shard.
pub type LocalFuture<'a, T> = Pin<Box<dyn Future<Output = T> + 'a>>;

/// What one shard has of the outside world. Cheap to clone; never leaves its shard.
#[derive(Clone)]
pub struct Env {
    inner: Rc<Inner>,
}

struct Inner {
    shard: ShardId,
    disk: Rc<dyn Disk>,
    clock: Rc<dyn Clock>,
    spawner: Rc<dyn Spawner>,
    mesh: Rc<dyn Mesh>,
    random_state: Cell<u64>,
}

impl std::fmt::Debug for Env {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Env").field("shard", &self.inner.shard).finish_non_exhaustive()
    }
}

impl Env {
    /// Bundles the parts; `seed` starts the shard's stream of chance.
    #[must_use]
    pub fn new(
        shard: ShardId,
        disk: Rc<dyn Disk>,
        clock: Rc<dyn Clock>,
        spawner: Rc<dyn Spawner>,
        mesh: Rc<dyn Mesh>,
        seed: u64,
    ) -> Self {
        let random_state = Cell::new(seed);
        Self { inner: Rc::new(Inner { shard, disk, clock, spawner, mesh, random_state }) }
    }

    /// The same with another disk: tasks, time and mesh are shared, the stream of chance begins anew.
    #[must_use]
    pub fn with_disk(&self, disk: Rc<dyn Disk>) -> Self {
        let Inner { shard, clock, spawner, mesh, .. } = &*self.inner;
        let (clock, spawner, mesh) = (Rc::clone(clock), Rc::clone(spawner), Rc::clone(mesh));
        Self::new(*shard, disk, clock, spawner, mesh, self.random())
    }

    /// The shard this environment belongs to.
    #[must_use]
    pub fn shard(&self) -> ShardId {
        self.inner.shard
    }

    /// The data directory.
    #[must_use]
    pub fn disk(&self) -> &Rc<dyn Disk> {
        &self.inner.disk
    }

    /// The way to the other shards and from clients.
    #[must_use]
    pub fn mesh(&self) -> &Rc<dyn Mesh> {
        &self.inner.mesh
    }

    /// Monotonic time.
    #[must_use]
    pub fn now(&self) -> Time {
        self.inner.clock.now()
    }

    /// Wall-clock time, for append times and user code.
    #[must_use]
    pub fn wall(&self) -> WallTime {
        self.inner.clock.wall()
    }

    /// Waits at least `duration`.
    #[must_use]
    pub fn sleep(&self, duration: Duration) -> LocalFuture<'static, ()> {
        self.inner.clock.sleep(duration)
    }

    /// Runs `future` on this shard, in `class`; `name` is what the watchdog prints if one of its polls
    /// lasts too long. The task ends with the shard.
    pub fn spawn(
        &self,
        class: Class,
        name: &'static str,
        future: impl Future<Output = ()> + 'static,
    ) {
        self.inner.spawner.spawn(class, name, Box::pin(future));
    }

    /// The class of the task that runs; [`Class::Core`] where the environment makes no difference.
    #[must_use]
    pub fn class(&self) -> Class {
        self.inner.spawner.class()
    }

    /// Lets every other ready task of the shard run.
    #[must_use]
    pub fn yield_now(&self) -> LocalFuture<'static, ()> {
        self.inner.spawner.yield_now()
    }

    /// Whether a long loop should call [`Env::yield_now`] now.
    #[must_use]
    pub fn should_yield(&self) -> bool {
        self.inner.spawner.should_yield()
    }

    /// The next number of the shard's stream of chance (`SplitMix64`; Steele, Lea, Flood 2014).
    #[must_use]
    pub fn random(&self) -> u64 {
        let state = self.inner.random_state.get().wrapping_add(0x9e37_79b9_7f4a_7c15);
        self.inner.random_state.set(state);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

/// A class of work; classes share a core by weights, highest share first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// Journal writes, the mesh, and whatever else others wait for.
    Core,
    /// Reads and appends of clients.
    Client,
    /// Events of topologies.
    Topology,
    /// Folds, segment flushes, trims, verification.
    Background,
}

impl Class {
    /// Whether its reads of the disk let durable writes go first.
    #[must_use]
    pub fn is_patient(self) -> bool {
        match self {
            Self::Core | Self::Topology => false,
            Self::Client | Self::Background => true,
        }
    }
}

/// One data directory. Paths are relative to it, with `/` between parts, never empty, never `..`.
pub trait Disk {
    /// Opens a file for direct I/O, for reading and writing.
    ///
    /// # Errors
    /// `NotFound` with [`Open::Existing`], `AlreadyExists` with [`Open::New`].
    fn open<'a>(&'a self, path: &'a str, how: Open) -> LocalFuture<'a, io::Result<Rc<dyn File>>>;

    /// The names in a directory, in no order; empty if it does not exist.
    fn list<'a>(&'a self, dir: &'a str) -> LocalFuture<'a, io::Result<Vec<String>>>;

    /// Creates a directory and its parents; no error if it exists. Not durable before the parent's
    /// [`Disk::sync_dir`].
    fn create_dir<'a>(&'a self, dir: &'a str) -> LocalFuture<'a, io::Result<()>>;

    /// Removes a file; durable after [`Disk::sync_dir`]. Open handles stay usable.
    fn remove<'a>(&'a self, path: &'a str) -> LocalFuture<'a, io::Result<()>>;

    /// Renames a file over another of the same directory; durable after [`Disk::sync_dir`].
    fn rename<'a>(&'a self, from: &'a str, to: &'a str) -> LocalFuture<'a, io::Result<()>>;

    /// Gives a file a second name; durable after [`Disk::sync_dir`] of that one's directory.
    ///
    /// # Errors
    /// `Unsupported` where there is no such thing; whatever the operating system says where these two names
    /// cannot be those of one file.
    fn link<'a>(&'a self, _from: &'a str, _to: &'a str) -> LocalFuture<'a, io::Result<()>> {
        Box::pin(std::future::ready(Err(io::ErrorKind::Unsupported.into())))
    }

    /// Makes creations, removals and renames in `dir` durable. The root is `"."`.
    fn sync_dir<'a>(&'a self, dir: &'a str) -> LocalFuture<'a, io::Result<()>>;

    /// Bytes the file system still gives us.
    ///
    /// # Errors
    /// What the operating system said.
    fn free_bytes(&self) -> io::Result<u64>;

    /// Another directory, for reading and writing beside this one. `dir` comes from [`Platform::elsewhere`].
    ///
    /// # Errors
    /// `Unsupported` where there is only one; what the operating system said.
    fn elsewhere(&self, _dir: &str) -> io::Result<Rc<dyn Disk>> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

/// A directory beside the data directory that this process alone writes to, as long as this lives.
pub struct Elsewhere {
    /// What [`Disk::elsewhere`] takes.
    pub dir: String,
    /// Gives the directory back when it is dropped.
    pub claim: Box<dyn Any + Send + std::marker::Sync>,
}

impl std::fmt::Debug for Elsewhere {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Elsewhere").field("dir", &self.dir).finish_non_exhaustive()
    }
}

/// How to open a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Open {
    /// It must exist.
    Existing,
    /// It must not exist.
    New,
    /// Either way.
    Any,
}

/// What a write promises when it returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sync {
    /// Nothing: a later [`File::sync`] makes it durable.
    No,
    /// The written bytes are durable (`RWF_DSYNC`).
    Data,
}

/// A result and the buffer that went into the operation.
pub type WithBuf = (io::Result<usize>, Buf);

/// An open file. Operations may run at the same time and complete in any order.
#[allow(clippy::len_without_is_empty, reason = "an empty file is no special case here")]
pub trait File {
    /// Reads into `buf` from byte `at`; returns how many bytes are valid, 0 at the end of the file. Asked
    /// for by a task of a patient [`Class`], it may wait while durable writes are under way.
    fn read(&self, at: u64, buf: Buf) -> LocalFuture<'static, WithBuf>;

    /// Writes `buf` at byte `at`, growing the file if needed; returns how many bytes were taken.
    fn write(&self, at: u64, buf: Buf, sync: Sync) -> LocalFuture<'static, WithBuf>;

    /// Makes everything written so far durable, the file's length included (`fdatasync`).
    fn sync(&self) -> LocalFuture<'static, io::Result<()>>;

    /// Reserves blocks so that bytes below `len` never meet a full disk, and grows the file to at
    /// least `len`. New bytes read as zero.
    fn allocate(&self, len: u64) -> LocalFuture<'static, io::Result<()>>;

    /// Cuts the file to `len` bytes.
    fn truncate(&self, len: u64) -> LocalFuture<'static, io::Result<()>>;

    /// The file's length in bytes.
    ///
    /// # Errors
    /// What the operating system said.
    fn len(&self) -> io::Result<u64>;

    /// Its path, for error messages.
    fn path(&self) -> &str;
}

/// Time of one node.
pub trait Clock {
    /// Monotonic.
    fn now(&self) -> Time;
    /// May jump.
    fn wall(&self) -> WallTime;
    /// Ends at least `duration` later.
    fn sleep(&self, duration: Duration) -> LocalFuture<'static, ()>;
}

/// Tasks of one shard.
pub trait Spawner {
    /// See [`Env::spawn`].
    fn spawn(&self, class: Class, name: &'static str, future: LocalFuture<'static, ()>);
    /// See [`Env::class`].
    fn class(&self) -> Class {
        Class::Core
    }
    /// See [`Env::yield_now`].
    fn yield_now(&self) -> LocalFuture<'static, ()>;
    /// See [`Env::should_yield`].
    fn should_yield(&self) -> bool;
}

/// What travels between shards, or from a client to a shard: values are moved, not encoded.
pub type Parcel = Box<dyn Any + Send>;

/// Where a parcel came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sender {
    /// A shard of this node; parcels of one sender arrive in the order sent.
    Shard(ShardId),
    /// A thread outside the engine.
    Client,
}

/// One shard's end of the mesh. Sending never waits: what may be outstanding is bounded above, by
/// credits.
pub trait Mesh {
    /// Sends to another shard, or to this one. Parcels to a shard that does not run are dropped.
    fn send(&self, to: ShardId, parcel: Parcel);

    /// Waits until something is there and takes all of it. One caller at a time.
    fn receive(&self) -> LocalFuture<'_, Vec<(Sender, Parcel)>>;
}

/// The first future a shard runs; the shard ends when it does.
pub type ShardMain = Box<dyn FnOnce(Env) -> LocalFuture<'static, ()> + Send>;

/// Where shards run: threads in production, one executor in the simulator.
pub trait Platform: Send + std::marker::Sync + 'static {
    /// Starts `main` on `shard`. A shard that ended can be started again.
    ///
    /// # Errors
    /// Why the shard cannot run here, with what to do about it.
    fn start(&self, shard: ShardId, main: ShardMain) -> io::Result<()>;

    /// Sends a parcel from any thread; dropped if the shard does not run.
    fn post(&self, to: ShardId, parcel: Parcel);

    /// Resolves when `shard` has ended and let go of its files. At once if it does not run.
    fn ended(&self, shard: ShardId) -> Pin<Box<dyn Future<Output = ()> + Send>>;

    /// Makes another directory if it is missing, durably, and claims it for this process.
    ///
    /// # Errors
    /// `Unsupported` where there is only the data directory. Else why this one cannot be used, with what to do
    /// about it.
    fn elsewhere(&self, _dir: &Path) -> io::Result<Elsewhere> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

/// Fills `buf` from byte `at`, continuing short reads.
///
/// # Errors
/// `UnexpectedEof` if the file ends first; else what the device said.
pub async fn read_full(file: &dyn File, at: u64, buf: Buf) -> (io::Result<()>, Buf) {
    let want = buf.len();
    let (result, buf) = file.read(at, buf).await;
    let mut have = match result {
        Ok(have) if have == want => return (Ok(()), buf),
        Ok(0) => return (Err(io::ErrorKind::UnexpectedEof.into()), buf),
        Ok(have) => have,
        Err(error) => return (Err(error), buf),
    };
    let mut buf = buf;
    while have < want {
        // Direct I/O continues at a block boundary, so a short block is read again as a whole.
        have -= have % BLOCK_BYTES;
        let rest = Buf::zeroed(want - have);
        let (result, rest) = file.read(at + have as u64, rest).await;
        match result {
            Ok(count) if count >= BLOCK_BYTES || have + count == want => {
                buf[have..have + count].copy_from_slice(&rest[..count]);
                have += count;
            }
            Ok(_) => return (Err(io::ErrorKind::UnexpectedEof.into()), buf),
            Err(error) => return (Err(error), buf),
        }
    }
    (Ok(()), buf)
}

/// Writes all of `buf` at byte `at`, continuing short writes.
///
/// # Errors
/// What the device said; what reached the disk is then unknown.
pub async fn write_full(file: &dyn File, at: u64, buf: Buf, sync: Sync) -> (io::Result<()>, Buf) {
    let want = buf.len();
    let (result, buf) = file.write(at, buf, sync).await;
    let mut have = match result {
        Ok(have) if have == want => return (Ok(()), buf),
        Ok(have) => have,
        Err(error) => return (Err(error), buf),
    };
    while have < want {
        have -= have % BLOCK_BYTES;
        let rest = Buf::copy_of(&buf[have..]);
        let (result, _rest) = file.write(at + have as u64, rest, sync).await;
        match result {
            Ok(count) if count >= BLOCK_BYTES => have += count,
            Ok(_) => return (Err(io::ErrorKind::WriteZero.into()), buf),
            Err(error) => return (Err(error), buf),
        }
    }
    (Ok(()), buf)
}
