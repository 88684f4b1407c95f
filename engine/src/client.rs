//! The engine as a service holds it: open, launch, append, select, wait, close.
//!
//! Handles are `Send + Sync + Clone`. Futures come from no runtime and need none: await them anywhere, or
//! hand them to [`block_on`] in a plain thread. Dropping a future cancels nothing that has begun.
//!
//! ```text
//! Engine     one open directory: launch, counters, reopen a shard, close
//! Launched   one running module: append (append.rs), select (select.rs), pages (pages.rs), query (query.rs),
//!            snapshot (snapshot.rs), difference (difference.rs), subscribe (subscribe.rs), wait (wait.rs),
//!            depots (records.rs), migrations (migrations.rs)
//! Append     an append on its way: a future
//! ```

use std::fmt;
use std::future::Future;
use std::ops::Deref;
use std::path::Path;
use std::sync::Arc;

use crate::backup;
use crate::env::Platform;
use crate::env::production::{self, Production};
use crate::error::{Error, Result};
use crate::module::{self, Module};
use crate::node::{Installed, Node, Options, Progress, Recovery};
use crate::shard::message::{Counters, Message};
use crate::types::ShardId;

mod append;
mod block_on;
mod difference;
mod merge;
mod migrations;
mod pages;
mod query;
mod recompute;
mod records;
mod select;
mod snapshot;
mod subscribe;
mod wait;

pub use append::{Append, AppendMany, Appended};
pub use block_on::block_on;
pub use difference::{Differences, Version};
pub use migrations::Migrating;
pub use pages::Pages;
pub use query::Querying;
pub use records::{DepotRecord, Rejected};
pub use select::{Selecting, SelectingMany};
pub use snapshot::Snapshot;
pub use subscribe::Subscription;

/// An open data directory. Clones are handles to the same engine; the last one dropped ends it as a
/// crash would, [`Engine::close`] ends it cleanly.
#[derive(Clone)]
pub struct Engine {
    inner: Arc<Inner>,
}

struct Inner {
    node: Node,
    recovery: Recovery,
    /// Spreads records that may go anywhere.
    next_random: std::sync::atomic::AtomicU64,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.node.end_all_later();
    }
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine").field("shards", &self.shards()).finish_non_exhaustive()
    }
}

impl Engine {
    /// Opens the data directory at `dir`, or creates it.
    ///
    /// # Errors
    /// `Open` if the directory or the machine is not fit, or another process has it open; `Corrupt` if
    /// stored data is damaged; `Invalid` if the options do not fit the directory.
    pub async fn open(dir: impl AsRef<Path>, options: Options) -> Result<Self> {
        Self::open_with(dir, options, |_| {}).await
    }

    /// [`Engine::open`], telling `progress` how far replay is.
    ///
    /// # Errors
    /// As [`Engine::open`].
    pub async fn open_with(
        dir: impl AsRef<Path>,
        options: Options,
        progress: impl Fn(Progress) + Send + Sync + 'static,
    ) -> Result<Self> {
        options.check()?;
        let (shards, threads) = (options.shards, options.threads.clone());
        let production_options =
            production::Options { shards, threads, ..production::Options::default() };
        let platform = Production::open(dir.as_ref(), production_options)
            .map_err(|error| Error::Open { what: crate::error::chain(&error) })?;
        Self::open_on(platform, options, progress).await
    }

    /// Opens the directory that `platform` holds: how tests run the engine in a simulator.
    ///
    /// # Errors
    /// As [`Engine::open`].
    pub async fn open_on(
        platform: Arc<dyn Platform>,
        options: Options,
        progress: impl Fn(Progress) + Send + Sync + 'static,
    ) -> Result<Self> {
        let (node, recovery) = Node::open(platform, options, Arc::new(progress)).await?;
        let next_random = std::sync::atomic::AtomicU64::new(0);
        Ok(Self { inner: Arc::new(Inner { node, recovery, next_random }) })
    }

    /// What opening found.
    #[must_use]
    pub fn recovery(&self) -> &Recovery {
        &self.inner.recovery
    }

    /// How many shards it has.
    #[must_use]
    pub fn shards(&self) -> u16 {
        self.inner.node.setup.shards
    }

    /// How many partitions it has, for ever.
    #[must_use]
    pub fn partitions(&self) -> u32 {
        self.inner.node.setup.partitions
    }

    /// Declares a module, makes its numbers durable and starts its topologies, which go on where they
    /// stopped. Returns when what was decided before is applied everywhere.
    ///
    /// A launch that failed is repeated: it does what is missing. One of a module that runs gives handles to
    /// that.
    ///
    /// # Errors
    /// `Invalid` names the lines at fault, or says that a module of this name runs with other declarations;
    /// `ShardStopped` if a shard is down: reopen it, then launch again; `DiskFull`.
    #[track_caller]
    pub fn launch<H, F: FnOnce(&Module) -> H>(
        &self,
        name: &str,
        module: F,
    ) -> impl Future<Output = Result<Launched<H>>> + use<H, F> {
        let defined = module::define(name, |m| module(m));
        let engine = self.clone();
        async move {
            let (handles, definition) = defined.map_err(Error::invalid)?;
            let module = engine.inner.node.launch(definition).await?;
            Ok(Launched { engine, module, handles: Arc::new(handles) })
        }
    }

    /// What each shard has counted.
    ///
    /// # Errors
    /// `ShardStopped`.
    pub async fn counters(&self) -> Result<Vec<Counters>> {
        let node = &self.inner.node;
        let mut counters = Vec::new();
        for shard in node.shards() {
            counters.push(self.counters_of(shard).await?);
        }
        Ok(counters)
    }

    /// What one shard has counted: while others are down, too.
    ///
    /// # Errors
    /// `ShardStopped`.
    pub async fn counters_of(&self, shard: ShardId) -> Result<Counters> {
        self.inner.node.ask(shard, |reply| Message::Counters { reply }).await
    }

    /// Folds every partition now.
    ///
    /// # Errors
    /// `DiskFull` loses nothing; `ShardStopped`.
    pub async fn fold(&self) -> Result<()> {
        let node = &self.inner.node;
        let answers: Vec<_> = node
            .shards()
            .map(|shard| (shard, node.post(shard, |reply| Message::FoldAll { reply })))
            .collect();
        for (shard, answer) in answers {
            node.answered(shard, answer).await?;
        }
        Ok(())
    }

    /// Makes a backup while everything goes on, in a directory of its own below `dir`: `dir/1`, `dir/2`, ...
    /// Each is complete by itself: it can be verified, opened, copied elsewhere, and deleted without harm to
    /// others. Not opened but deleted is what a backup that failed has left; the next one does that by itself.
    ///
    /// All `PState`s in it are at one vector of ids ([`Report::ids`](backup::Report::ids)), and depots have at
    /// least what those have read. For that, no microbatch begins for a moment, mostly some milliseconds
    /// ([`Report::pause`](backup::Report::pause)); appends and reads go on. Copying runs in the background.
    ///
    /// A second backup reads from the data directory what has changed; the rest it takes from the first one:
    /// segments that are full as second names of the same files, all else as copies, checked. So space is taken
    /// anew each time for what `PState`s hold and for segments that are not full.
    ///
    /// `dir` is made if it is missing; it is for backups of this data only, outside of the data directory, on a
    /// file system that allows direct I/O. A dropped future gives the backup up.
    ///
    /// ```
    /// use tidemill::{Engine, Options, block_on};
    ///
    /// # let (data, backups) = (tempfile::tempdir_in(".").unwrap(), tempfile::tempdir_in(".").unwrap());
    /// # let (data, backups) = (data.path(), backups.path());
    /// let engine = block_on(Engine::open(data, Options::default()))?;
    /// let report = block_on(engine.backup(backups))?;
    /// println!("{}: {} bytes", report.directory.display(), report.copied_bytes);
    ///
    /// let copy = block_on(Engine::open(&report.directory, Options::default()))?;
    /// # block_on(copy.close())?;
    /// # block_on(engine.close())?;
    /// # Ok::<(), tidemill::Error>(())
    /// ```
    ///
    /// # Errors
    /// None of them stops anything. `Backup` says what failed: the target's device, a topology that does not
    /// come to rest, a prepared microbatch of a module that is not launched. `DiskFull` if there is no room here
    /// or there; `Corrupt` names what is damaged in the data directory; `ShardStopped`; `Invalid` if `dir` is
    /// not for backups of this data, or another backup is being made; `Closed`.
    pub async fn backup(&self, dir: impl AsRef<Path>) -> Result<backup::Report> {
        self.backup_with(dir, |_| {}).await
    }

    /// [`Engine::backup`], telling `progress` how far the copying is, on threads of the engine.
    ///
    /// # Errors
    /// As [`Engine::backup`].
    pub async fn backup_with(
        &self,
        dir: impl AsRef<Path>,
        progress: impl Fn(backup::Progress) + Send + Sync + 'static,
    ) -> Result<backup::Report> {
        self.inner.node.backup(dir.as_ref(), Arc::new(progress)).await
    }

    /// Why a shard has stopped; `None` while it runs.
    #[must_use]
    pub fn stopped(&self, shard: ShardId) -> Option<String> {
        self.inner.node.setup.stopped_cause(shard)
    }

    /// Where the topologies of a shard stand, for people.
    ///
    /// # Errors
    /// `ShardStopped`.
    #[doc(hidden)]
    pub async fn describe_shard(&self, shard: ShardId) -> Result<String> {
        self.inner.node.ask(shard, |reply| Message::Describe { reply }).await
    }

    /// Ends a shard as a failure of its disk or a bug would: for tests of what comes after.
    #[doc(hidden)]
    pub fn fail_shard(&self, shard: ShardId, cause: &str) {
        self.inner.node.tell(shard, Message::Fail { cause: cause.to_owned() });
    }

    /// Ends a shard by a panic: for tests of what comes after.
    #[doc(hidden)]
    pub fn panic_shard(&self, shard: ShardId, cause: &str) {
        self.inner.node.tell(shard, Message::Panic { cause: cause.to_owned() });
    }

    /// Recovers a stopped shard in place; the other shards go on meanwhile. It waits for no other shard, so
    /// several can be reopened in any order, one after the other or at the same time.
    ///
    /// When it returns, the shard takes appends and serves what readers had seen before it stopped. Its
    /// topologies go on when all shards they need are there ([`Launched::paused`]). If it fails, the shard
    /// is as it was, and can be reopened later. A dropped future leaves the shard stopped or lets the
    /// reopening go on, as [`Engine::stopped`] says.
    ///
    /// ```
    /// use tidemill::types::ShardId;
    /// use tidemill::{Engine, Options, block_on};
    ///
    /// /// What a service does now and then.
    /// async fn look_after(engine: &Engine) {
    ///     for shard in (0..engine.shards()).map(ShardId) {
    ///         if let Some(cause) = engine.stopped(shard) {
    ///             eprintln!("shard {shard} stopped: {cause}");
    ///             if let Err(error) = engine.reopen_shard(shard).await {
    ///                 eprintln!("and could not be reopened yet: {error}");
    ///             }
    ///         }
    ///     }
    /// }
    /// # let dir = tempfile::tempdir_in(".").unwrap();
    /// # let engine = block_on(Engine::open(dir.path(), Options::default())).unwrap();
    /// # engine.fail_shard(ShardId(0), "a test");
    /// # while engine.stopped(ShardId(0)).is_none() {
    /// #     std::thread::yield_now();
    /// # }
    /// # block_on(look_after(&engine));
    /// # assert_eq!(engine.stopped(ShardId(0)), None);
    /// # block_on(engine.close()).unwrap();
    /// ```
    ///
    /// # Errors
    /// As [`Engine::open`]; `Invalid` if the shard is running or being reopened already; `Closed`.
    pub async fn reopen_shard(&self, shard: ShardId) -> Result<()> {
        self.inner.node.reopen(shard).await
    }

    /// Ends the engine as a crash would, but waits until it has let go of its files. Nothing durable is
    /// lost; opening replays the journals.
    pub async fn stop(self) {
        self.inner.node.end_all().await;
    }

    /// Ends the engine cleanly: nothing more is accepted, everything is folded, the ends of the journals
    /// are recorded. Other handles may still be there; their calls fail with `Closed` from now on.
    ///
    /// # Errors
    /// `ShardStopped`, `DiskFull`: then the directory is as after a crash, and loses nothing.
    pub async fn close(self) -> Result<()> {
        self.inner.node.close().await
    }
}

/// A running module: its handles, and what can be done with them. Dereferences to what the module
/// function returned.
pub struct Launched<H> {
    engine: Engine,
    module: Arc<Installed>,
    handles: Arc<H>,
}

impl<H> Clone for Launched<H> {
    fn clone(&self) -> Self {
        Self {
            engine: self.engine.clone(),
            module: Arc::clone(&self.module),
            handles: Arc::clone(&self.handles),
        }
    }
}

impl<H> Deref for Launched<H> {
    type Target = H;

    fn deref(&self) -> &H {
        &self.handles
    }
}

impl<H> fmt::Debug for Launched<H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Launched")
            .field("module", &self.module.definition.name)
            .finish_non_exhaustive()
    }
}

impl<H> Launched<H> {
    /// The engine it runs on.
    #[must_use]
    pub fn engine(&self) -> &Engine {
        &self.engine
    }
}

/// What this module promises of its handles, and of the futures that a service keeps.
const _: () = {
    const fn handle<T: Clone + Send + Sync + 'static>() {}
    const fn future<T: Send + 'static>() {}
    handle::<Engine>();
    handle::<Launched<()>>();
    handle::<Appended>();
    handle::<Snapshot>();
    handle::<Rejected>();
    handle::<Error>();
    future::<Append>();
    future::<AppendMany>();
};
