//! The real environment: threads, clocks, and files.
//!
//! Every shard is a thread with a glommio executor and an `io_uring` ring of its own, through which
//! all its file I/O goes, direct and aligned. A shard that has nothing to do sleeps in the kernel.
//!
//! ```text
//! Production ── LOCK, self-test, inboxes
//!   └─ shard (thread) ── executor ── tasks in four queues, under the watchdog
//!                     └─ poller  ── ring (files), inbox (mesh), eventfd (sleep)
//! ```
//!
//! A panic in a shard's tasks ends that shard, with its files closed, and nothing else.

#![allow(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "this is where threads and clocks come from"
)]

use std::fs;
use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::{Duration, Instant};

use futures_channel::oneshot;

use crate::env::{Elsewhere, Parcel, Platform, ShardMain};
use crate::types::ShardId;

mod check;
mod device;
mod disk;
mod lock;
mod memory;
mod mesh;
mod ring;
mod shard;
mod sleepers;
mod wake;
mod watchdog;

pub use check::{Item, Needs, Report, file_system, self_test};
pub use memory::{disable_huge_pages, memory_bytes};
pub use watchdog::{RECENT_MAX, SLOW_POLL, SlowPoll, SlowPolls};

/// How to run in a directory.
#[derive(Clone, Debug)]
pub struct Options {
    /// How many shards there can be, numbered from 0.
    pub shards: u16,
    /// How the shards share the cores with others.
    pub threads: Threads,
    /// Space without which the directory is not opened.
    pub free_bytes_min: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self { shards: 1, threads: Threads::default(), free_bytes_min: 64 << 20 }
    }
}

/// How the shards' threads share the cores with others. The defaults suit a library in somebody's
/// service.
#[derive(Clone, Debug)]
pub struct Threads {
    /// Bind shard `n` to core `n` (modulo the cores there are). Good for a daemon that has the machine
    /// to itself; bad for a library in somebody's service.
    pub pin: bool,
    /// How long a shard looks for work before it sleeps. Looking costs CPU, but other threads may
    /// take the core meanwhile; waking costs some 50 microseconds.
    pub spin: Duration,
}

impl Default for Threads {
    fn default() -> Self {
        Self { pin: false, spin: Duration::from_micros(50) }
    }
}

/// Why a directory cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Somebody else has it open.
    #[error(
        "{} is in use by {}: stop it first, or choose another directory",
        dir.display(),
        pid.map_or("another process".to_owned(), |pid| format!("process {pid}"))
    )]
    Locked {
        /// The directory.
        dir: PathBuf,
        /// Who, if it can be told.
        pid: Option<u32>,
    },
    /// The self-test failed; the message says what to do.
    #[error("{} cannot be used: {reason}", dir.display())]
    Unfit {
        /// The directory.
        dir: PathBuf,
        /// The first reason, with what to do about it.
        reason: String,
        /// All that was looked at.
        report: Box<Report>,
    },
    /// The operating system refused something.
    #[error("cannot {op} directory {}", dir.display())]
    Directory {
        /// The directory.
        dir: PathBuf,
        /// What was attempted.
        op: &'static str,
        /// What the operating system said.
        #[source]
        source: io::Error,
    },
    /// There are no shards to run.
    #[error("an engine has at least one shard")]
    NoShards,
}

/// An opened data directory and the shards that run in it. The lock is given back when this and all
/// shards are gone.
pub struct Production {
    options: Options,
    directory: Arc<Directory>,
    report: Report,
    inboxes: Arc<mesh::Inboxes>,
    watchdog: Arc<watchdog::Watchdog>,
    device: Arc<device::Device>,
    lives: Vec<Arc<Life>>,
    opened_at: Instant,
    cores: usize,
}

struct Directory {
    root: PathBuf,
    _lock: lock::Lock,
}

/// Whether a shard runs, and who waits for its end.
#[derive(Default)]
struct Life {
    state: Mutex<LifeState>,
}

#[derive(Default)]
struct LifeState {
    running: bool,
    waiting: Vec<oneshot::Sender<()>>,
}

impl std::fmt::Debug for Production {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Production")
            .field("root", &self.directory.root)
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

impl Production {
    /// Makes `dir` if it is missing, locks it and tests it. Shards run only when started.
    ///
    /// # Errors
    /// Why the directory cannot be used, with what to do.
    pub fn open(dir: &Path, options: Options) -> Result<Arc<Self>, Error> {
        if options.shards == 0 {
            return Err(Error::NoShards);
        }
        let failed = |op| move |source| Error::Directory { dir: dir.to_owned(), op, source };
        fs::create_dir_all(dir).map_err(failed("make"))?;
        let root = dir.canonicalize().map_err(failed("find"))?;
        let lock = lock::Lock::take(&root)?;
        let needs = Needs { shards: options.shards, free_bytes_min: options.free_bytes_min };
        let report = self_test(&root, needs);
        if let Some(reason) = report.refusal() {
            let (dir, reason) = (dir.to_owned(), reason.to_owned());
            return Err(Error::Unfit { dir, reason, report: Box::new(report) });
        }
        let inboxes = mesh::Inboxes::new(options.shards).map_err(failed("make an eventfd for"))?;
        let lives = (0..options.shards).map(|_| Arc::default()).collect();
        Ok(Arc::new(Self {
            options,
            directory: Arc::new(Directory { root, _lock: lock }),
            report,
            inboxes: Arc::new(inboxes),
            watchdog: Arc::default(),
            device: Arc::new(device::Device::new()),
            lives,
            opened_at: shard::now(),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
        }))
    }

    /// What the self-test found when the directory was opened.
    #[must_use]
    pub fn report(&self) -> &Report {
        &self.report
    }

    /// The data directory, absolute.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.directory.root
    }

    /// Polls that kept a shard from everything else for too long.
    #[must_use]
    pub fn slow_polls(&self) -> SlowPolls {
        self.watchdog.slow_polls()
    }

    fn life(&self, shard: ShardId) -> io::Result<&Arc<Life>> {
        self.lives.get(usize::from(shard.0)).ok_or_else(|| {
            let shards = self.options.shards;
            let message = format!("there is no shard {}: shards are 0..{shards}", shard.0);
            io::Error::new(io::ErrorKind::InvalidInput, message)
        })
    }
}

impl Platform for Production {
    fn start(&self, shard: ShardId, main: ShardMain) -> io::Result<()> {
        let life = Arc::clone(self.life(shard)?);
        life.begin(shard)?;
        let plan = shard::Plan {
            shard,
            root: self.directory.root.clone(),
            core: self.options.threads.pin.then(|| usize::from(shard.0) % self.cores),
            spin: self.options.threads.spin,
            started_at: self.opened_at,
            seed: seed(),
            inboxes: Arc::clone(&self.inboxes),
            watchdog: Arc::clone(&self.watchdog),
            device: Arc::clone(&self.device),
        };
        let directory = Arc::clone(&self.directory);
        let (started, wait) = mpsc::sync_channel(1);
        let thread = std::thread::Builder::new()
            .name(format!("tidemill-{}", shard.0))
            // Futures of deep graphs are large before the optimiser has seen them; what is not
            // touched costs nothing.
            .stack_size(16 << 20)
            .spawn({
                let life = Arc::clone(&life);
                move || {
                    // Also when the executor itself panics, whoever waits must hear of the end.
                    let ended = Ended(life);
                    let ok = started.clone();
                    let result = shard::run(plan, main, move || {
                        // Nobody hears it only if `start` itself is gone.
                        drop(ok.send(Ok(())));
                    });
                    // The lock must be free before anybody hears that the shard has ended.
                    drop(directory);
                    drop(ended);
                    if let Err(error) = result {
                        drop(started.send(Err(error)));
                    }
                }
            });
        if let Err(error) = thread {
            life.end();
            return Err(error);
        }
        wait.recv().unwrap_or_else(|_| {
            Err(io::Error::other(format!("shard {} panicked while it was started", shard.0)))
        })
    }

    fn post(&self, to: ShardId, parcel: Parcel) {
        self.inboxes.post(to, parcel);
    }

    fn ended(&self, shard: ShardId) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        let Ok(life) = self.life(shard) else { return Box::pin(std::future::ready(())) };
        let mut state = life.lock();
        if !state.running {
            return Box::pin(std::future::ready(()));
        }
        let (sender, receiver) = oneshot::channel();
        state.waiting.push(sender);
        Box::pin(async move {
            // A dropped sender means the end as well.
            receiver.await.unwrap_or_default();
        })
    }

    fn elsewhere(&self, dir: &Path) -> io::Result<Elsewhere> {
        let refused = |what: String| io::Error::new(io::ErrorKind::InvalidInput, what);
        let root = make_durably(dir)?;
        let own = &self.directory.root;
        if root.starts_with(own) || own.starts_with(&root) {
            let what = format!("one of it and {} lies within the other", own.display());
            return Err(refused(what));
        }
        let text = root.to_str().ok_or_else(|| refused("its name is not UTF-8".to_owned()))?;
        let claim = lock::Lock::take(&root)
            .map_err(|error| io::Error::new(io::ErrorKind::ResourceBusy, error))?;
        Ok(Elsewhere { dir: text.to_owned(), claim: Box::new(claim) })
    }
}

/// Makes a directory and what is missing above it, with names that survive a crash. Returns its path, absolute.
fn make_durably(dir: &Path) -> io::Result<PathBuf> {
    let dir = std::path::absolute(dir)?;
    let mut missing: Vec<&Path> = dir.ancestors().take_while(|it| !it.exists()).collect();
    while let Some(next) = missing.pop() {
        if let Err(error) = fs::create_dir(next)
            && error.kind() != io::ErrorKind::AlreadyExists
        {
            return Err(error);
        }
        if let Some(above) = next.parent() {
            fs::File::open(above)?.sync_all()?;
        }
    }
    dir.canonicalize()
}

impl Life {
    fn lock(&self) -> std::sync::MutexGuard<'_, LifeState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn begin(&self, shard: ShardId) -> io::Result<()> {
        let mut state = self.lock();
        if state.running {
            let message = format!("shard {} runs already", shard.0);
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, message));
        }
        state.running = true;
        Ok(())
    }

    fn end(&self) {
        let waiting = {
            let mut state = self.lock();
            state.running = false;
            std::mem::take(&mut state.waiting)
        };
        for sender in waiting {
            // Whoever waited may have stopped doing so.
            sender.send(()).unwrap_or_default();
        }
    }
}

/// Ends a life when dropped.
struct Ended(Arc<Life>);

impl Drop for Ended {
    fn drop(&mut self) {
        self.0.end();
    }
}

/// Where a shard's stream of chance starts.
fn seed() -> u64 {
    let mut seed = [0; 8];
    // SAFETY: eight writable bytes; up to 256 bytes are given whole.
    let count = unsafe { libc::getrandom(seed.as_mut_ptr().cast(), seed.len(), 0) };
    assert_eq!(count, 8, "the kernel has random numbers");
    u64::from_le_bytes(seed)
}
