//! One process: its options, its catalogue, and how its shards are opened, reopened and closed.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_channel::oneshot;
use futures_util::FutureExt;
use futures_util::future::{Either, select, select_all, try_join_all};
use futures_util::lock::Mutex;

use crate::depot;
use crate::env::{BLOCK_BYTES, Platform, production};
use crate::error::{Error, Result};
use crate::journal::{self, JournalId};
use crate::manifest::JournalRecord;
use crate::module::Definition;
use crate::shard::keeper::Keeper;
use crate::shard::message::{KeeperRequest, Message, Reply};
use crate::shard::recover::{self, Boot, Life, Plan, Ready, Start};
use crate::shard::{Setup, microbatch::Topology};
use crate::testing::EventHook;
use crate::types::ShardId;

mod backup;
pub mod catalogue;
pub(crate) mod numbers;
pub(crate) mod pins;
pub(crate) mod recompute;

pub use crate::shard::recover::Progress;
pub(crate) use catalogue::Installed;
use catalogue::{Catalogue, Starts};

/// How an engine works. The defaults suit a service that embeds it.
#[derive(Clone, Debug)]
pub struct Options {
    /// Cores to use; may differ from opening to opening. Default: one less than there are.
    pub shards: u16,
    /// Partitions, fixed for ever when the directory is created: a power of two. Default: the next one at
    /// or above 16 per shard.
    pub partitions: Option<u32>,
    /// Bytes of memory for pages, overlays, tail caches and queues of all shards together. Default: a
    /// quarter of the machine's, at most 4 GiB. At least 1 MiB.
    pub memory_bytes: u64,
    /// Bytes of journal per shard before appends wait. At least four files.
    pub journal_bytes_max: u64,
    /// Size of one journal file; a journal that exists keeps the size it has. Opening after a crash reads
    /// to the end of two of them, creating writes one.
    pub journal_file_bytes: u32,
    /// A microbatch takes at most this many records of one source partition.
    pub microbatch_records_max: u64,
    /// What a microbatch may hold on one shard: rows that wait, and writes. One that needs more is tried
    /// again with fewer records; a single record that needs more is rejected. At most 32 MiB, which is
    /// the default; at least 64 KiB. A small `memory_bytes` lowers it for microbatches of several records.
    pub microbatch_bytes_max: u64,
    /// How much of what a microbatch sends from one shard to another may lie there unread; the rest waits
    /// at its sender, as part of what the microbatch holds there. Less if a quarter of
    /// `microbatch_bytes_max`, shared among the senders, is less. Default: 4 MiB.
    pub hop_bytes_max: u64,
    /// How many values of one partition a microbatch moves to their new form at most, while a
    /// [migration](crate::migrate) is under way. More finishes sooner, and lengthens each microbatch, by at most
    /// about 250 us a partition. Default: 200.
    pub migration_values_max: usize,
    /// The part of the time, from a thousandth up to 1, for which a [recompute](crate::recompute) works while it
    /// catches up, beside everything else; in between it rests. Default: a quarter.
    pub recompute_share: f64,
    /// How long a topology may stand still at the end of its recompute, while what came out is checked. If that is
    /// not enough it goes on, and nothing is switched. Default: ten seconds.
    pub recompute_pause_max: Duration,
    /// How long an id of a topology can still be read after the next one became visible
    /// ([`Selecting::as_of`](crate::client::Selecting::as_of)). Costs memory, see `history_bytes_max`, and every
    /// read of an old id looks at all ids since. Default: zero, which keeps only what snapshots hold.
    pub history: Duration,
    /// Bytes of memory, beside `memory_bytes`, for what readers of older ids need, over all shards: old values
    /// of what was written, and what was written where that was folded meanwhile. Nothing is taken while
    /// nobody reads older ids. If it is not enough, the oldest goes, and its readers get `SnapshotExpired`.
    /// Default: a sixteenth of `memory_bytes`.
    pub history_bytes_max: Option<u64>,
    /// Bytes of changes that may wait for one subscriber. More is a gap: they are dropped, and the subscriber reads
    /// what they did together if `history` reaches back so far, else its value anew. Default: 1 MiB.
    pub subscription_bytes_max: u64,
    /// Subscriptions that each shard takes; more are refused with `TooManySubscriptions`. Each takes some hundred
    /// bytes of `memory_bytes`, and its changes what they take while they wait: for all subscribers of a shard
    /// together a sixteenth of its part at most. Beyond that, whoever has most waiting gets a gap. Default: 100,000.
    pub subscriptions_max: u64,
    /// After this time at most, a subscriber learns how far its topology is visible although nothing has changed
    /// for it, and one that went away is forgotten. Default: one second.
    pub subscription_heartbeat: Duration,
    /// Segment sizes and windows of depots.
    pub depot: depot::Options,
    /// How shards share the cores with other threads; of no use on another platform than production's.
    pub threads: production::Threads,
    /// Told what each event read and wrote, for tests that hold code to a budget. Default: nobody, which
    /// costs a branch per event.
    pub event_hook: Option<EventHook>,
}

impl Default for Options {
    fn default() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Self {
            shards: u16::try_from(cores.saturating_sub(1).max(1)).unwrap_or(u16::MAX),
            partitions: None,
            memory_bytes: (production::memory_bytes() / 4).min(4 << 30),
            journal_bytes_max: 512 << 20,
            journal_file_bytes: 4 << 20,
            microbatch_records_max: 1_024,
            microbatch_bytes_max: MICROBATCH_BYTES_LIMIT,
            hop_bytes_max: 4 << 20,
            migration_values_max: 200,
            recompute_share: 0.25,
            recompute_pause_max: Duration::from_secs(10),
            history: Duration::ZERO,
            history_bytes_max: None,
            subscription_bytes_max: 1 << 20,
            subscriptions_max: 100_000,
            subscription_heartbeat: Duration::from_secs(1),
            depot: depot::Options::default(),
            threads: production::Threads::default(),
            event_hook: None,
        }
    }
}

impl Options {
    /// The number of partitions a new directory gets.
    #[must_use]
    pub fn partitions_or_default(&self) -> u32 {
        self.partitions.unwrap_or_else(|| (u32::from(self.shards) * 16).next_power_of_two())
    }

    /// What one shard may keep for readers of older ids.
    pub(crate) fn history_bytes_of_shard(&self) -> u64 {
        let bytes = self.history_bytes_max.unwrap_or(self.memory_bytes / 16);
        bytes / u64::from(self.shards)
    }

    pub(crate) fn check(&self) -> Result<()> {
        let partitions = self.partitions_or_default();
        if self.shards == 0 || !partitions.is_power_of_two() || partitions < u32::from(self.shards)
        {
            let what = format!(
                "{} shards and {partitions} partitions: there must be at least one shard, and the \
                 partitions must be a power of two and no fewer than the shards",
                self.shards
            );
            return Err(Error::Invalid { what });
        }
        let file_bytes = self.journal_file_bytes;
        let fits = file_bytes > 0
            && file_bytes <= journal::FILE_BYTES_MAX
            && (file_bytes as usize).is_multiple_of(BLOCK_BYTES);
        let rules = [
            (
                self.memory_bytes >= MEMORY_BYTES_MIN,
                format!("memory_bytes is {}: take at least {MEMORY_BYTES_MIN}", self.memory_bytes),
            ),
            (
                fits,
                format!(
                    "journal_file_bytes is {file_bytes}: take a multiple of {BLOCK_BYTES} up to {}",
                    journal::FILE_BYTES_MAX
                ),
            ),
            (
                self.journal_bytes_max >= 4 * u64::from(file_bytes),
                format!(
                    "journal_bytes_max is {} and journal_file_bytes {file_bytes}: a journal is reused by \
                     the file, so give it room for four at least",
                    self.journal_bytes_max
                ),
            ),
            (
                self.microbatch_records_max > 0,
                "microbatch_records_max is 0: a microbatch takes at least one record".to_owned(),
            ),
            (
                self.microbatch_bytes_max >= MICROBATCH_BYTES_MIN,
                format!(
                    "microbatch_bytes_max is {}: take at least {MICROBATCH_BYTES_MIN}, since a \
                     record that needs more is rejected",
                    self.microbatch_bytes_max
                ),
            ),
            (
                self.hop_bytes_max > 0,
                "hop_bytes_max is 0: nothing could be sent from shard to shard".to_owned(),
            ),
            (
                self.migration_values_max > 0,
                "migration_values_max is 0: no migration would ever end".to_owned(),
            ),
            (
                (RECOMPUTE_SHARE_MIN..=1.0).contains(&self.recompute_share),
                format!(
                    "recompute_share is {}: take a part from {RECOMPUTE_SHARE_MIN} up to 1",
                    self.recompute_share
                ),
            ),
            (
                self.subscription_heartbeat > Duration::ZERO,
                "subscription_heartbeat is 0: shards would do nothing else".to_owned(),
            ),
        ];
        match rules.into_iter().find(|(holds, _)| !holds) {
            Some((_, what)) => Err(Error::Invalid { what }),
            None => Ok(()),
        }
    }
}

/// The least that the simulator runs with; [`Options::memory_bytes`] is divided into shares among the shards.
const MEMORY_BYTES_MIN: u64 = 1 << 20;

/// A recompute with less would not end.
const RECOMPUTE_SHARE_MIN: f64 = 0.001;

/// Bounds [`Options::microbatch_bytes_max`] from below.
const MICROBATCH_BYTES_MIN: u64 = 64 << 10;

/// What a prepare and the batch of records in it can be, with room for what they are wrapped in.
pub(crate) const MICROBATCH_BYTES_LIMIT: u64 = 32 << 20;

// The prepares of a shard are one group of its journal, so that one write makes the vote durable. What is
// counted is more than what they are encoded to.
const _: () = assert!(MICROBATCH_BYTES_LIMIT * 2 <= crate::journal::GROUP_BYTES as u64);

/// The shards of this process, and what they run.
pub(crate) struct Node {
    platform: Arc<dyn Platform>,
    pub(crate) setup: Arc<Setup>,
    progress: Arc<dyn Fn(Progress) + Send + Sync>,
    /// All shards were ended: those that may run on the platform now belong to another opening.
    ended: AtomicBool,
    /// Held by a launch, and while topologies are held.
    launching: Mutex<()>,
    /// Held while a backup is made: how many there were.
    backups: Mutex<u64>,
    /// Held by a recompute: how many there were.
    recomputes: Mutex<u64>,
}

/// What an opening found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Recovery {
    /// Journal entries that were read.
    pub entries: u64,
    /// Ends of journals and bulk appends that no later frame proves durable: what a crash leaves. Each
    /// with the position, for people.
    pub torn: Vec<String>,
}

impl Node {
    pub(crate) async fn open(
        platform: Arc<dyn Platform>,
        options: Options,
        progress: Arc<dyn Fn(Progress) + Send + Sync>,
    ) -> Result<(Self, Recovery)> {
        // Again, for those who bring their own platform.
        options.check()?;
        let boot = boot(&platform, &options).await?;
        let plans = plan(options.shards, &boot.journals);
        let (run, shape) = (boot.manifest.run, (boot.manifest.partitions, boot.manifest.data_id));
        let (dropped, retired) = boot.catalogue.left_over();
        let keeper = Keeper::new(boot.manifest, boot.catalogue);
        let setup = Arc::new(Setup::new(options, shape, run, keeper));
        setup.note_dropped(dropped);
        setup.note_retired(retired);
        let dealt = plans.iter().any(|plan| matches!(plan, Plan::Create { .. }));
        let journals: Vec<JournalId> = plans.iter().map(Plan::journal).collect();
        let node = Self {
            platform,
            setup,
            progress,
            ended: AtomicBool::new(false),
            launching: Mutex::default(),
            backups: Mutex::default(),
            recomputes: Mutex::default(),
        };
        let mut waiting = Vec::new();
        for (shard, plan) in node.shards().zip(plans) {
            waiting.push(node.start(shard, Life::First(run, plan)));
        }
        let mut recovery = Recovery::default();
        let mut failure = None;
        for (shard, started) in node.shards().zip(waiting) {
            let ready = match started {
                Ok(ready) => node.answered(shard, ready).await,
                Err(error) => Err(error),
            };
            match ready {
                Ok(ready) => {
                    recovery.entries += ready.entries;
                    recovery.torn.extend(ready.torn);
                }
                Err(error) => failure = failure.or(Some(error)),
            }
        }
        if let Some(error) = failure {
            node.end_all().await;
            return Err(error);
        }
        if dealt {
            let journals = (0..).map(ShardId).zip(journals).collect();
            let switch = |reply| Message::Keeper(KeeperRequest::Switch { journals, reply });
            if let Err(error) = node.ask(BOOT, switch).await {
                node.end_all().await;
                return Err(error);
            }
        }
        Ok((node, recovery))
    }

    fn start(&self, shard: ShardId, life: Life) -> Result<oneshot::Receiver<Result<Ready>>> {
        self.setup.note_stopped(shard, None);
        let (ready, waiting) = oneshot::channel();
        let (setup, progress) = (Arc::clone(&self.setup), Arc::clone(&self.progress));
        let (ending, ended) = oneshot::channel();
        let start = Start { setup, life, progress, ready, ended };
        let started = self.platform.start(shard, recover::main(start));
        started.map_err(|error| {
            // It never ran, so nothing else tells.
            self.setup.note_stopped(shard, Some(error.to_string()));
            Error::Open { what: format!("shard {shard}: {error}") }
        })?;
        // Asked for while it runs, so it means this life. A shard that has ended already needs no answer.
        drop(ending.send(self.platform.ended(shard).shared()));
        Ok(waiting)
    }

    /// Sends a message that is not answered.
    pub(crate) fn tell(&self, shard: ShardId, message: Message) {
        self.platform.post(shard, Box::new(message));
    }

    /// Sends a message that is answered.
    pub(crate) fn post<T>(
        &self,
        shard: ShardId,
        message: impl FnOnce(Reply<T>) -> Message,
    ) -> oneshot::Receiver<Result<T>> {
        let (reply, answer) = oneshot::channel();
        self.platform.post(shard, Box::new(message(reply)));
        answer
    }

    /// Sends a message and waits for the answer.
    pub(crate) async fn ask<T>(
        &self,
        shard: ShardId,
        message: impl FnOnce(Reply<T>) -> Message,
    ) -> Result<T> {
        let answer = self.post(shard, message);
        self.answered(shard, answer).await
    }

    /// The answer of a shard, or why there is none.
    pub(crate) async fn answered<T>(
        &self,
        shard: ShardId,
        answer: oneshot::Receiver<Result<T>>,
    ) -> Result<T> {
        answer.await.unwrap_or_else(|_| Err(self.setup.stopped_error(shard)))
    }

    /// Runs a module on every shard. What a launch that failed has left undone, the next one does.
    ///
    /// # Errors
    /// `ShardStopped` if some shard is down: it installs the module by itself when it is reopened.
    pub(crate) async fn launch(&self, definition: Definition) -> Result<Arc<Installed>> {
        let _one = self.launching.lock().await;
        // Where a topology is to begin must still be there when it does.
        let _held = self.setup.hold_trims();
        let module = self.number(definition).await?;
        self.bring_up(&module).await?;
        for place in 0..module.topologies.len() {
            if let Some(shadow) = self.setup.shadow(&module.definition.name, place) {
                self.bring_up(&shadow).await?;
            }
        }
        Ok(module)
    }

    /// Has every shard run a module, or the shadow of one of its topologies.
    async fn bring_up(&self, module: &Arc<Installed>) -> Result<()> {
        // Whoever is down now finds it among the modules when it starts; so this asks all of them.
        let installed =
            self.ask_all(|reply| Message::Install { module: Arc::clone(module), reply });
        let installed = installed.await;
        // Coordinators may speak from now on, since each shard that runs understands them.
        module.note_everywhere();
        let started = self.ask_all(|reply| Message::StartTopologies {
            topologies: module.running().map(|(_, id)| id).collect(),
            reply,
        });
        installed.and(started.await)?;
        self.settle(module).await?;
        // A shard that was opened meanwhile may show more than the others have applied: it did not know
        // that there would be readers. One that is opened from now on knows.
        module.note_readers();
        self.settle(module).await
    }

    /// Gives a module its numbers, durably, and adds it to what every shard installs.
    async fn number(&self, definition: Definition) -> Result<Arc<Installed>> {
        let definition = Arc::new(definition);
        let mut module = self.setup.module(&definition.name);
        if module.is_none() {
            let read = self.ask_any(|reply| Message::Keeper(KeeperRequest::Read { reply }));
            let (_, catalogue) = read.await?;
            self.check_owners(&definition, &catalogue).await?;
            let starts = Arc::new(self.starts(&definition, &catalogue).await?);
            let numbered = self.ask_any(|reply| {
                let (definition, starts) = (Arc::clone(&definition), Arc::clone(&starts));
                Message::Keeper(KeeperRequest::Launch { definition, starts, reply })
            });
            let numbered = numbered.await?;
            let read = self.ask_any(|reply| Message::Keeper(KeeperRequest::Read { reply }));
            let (_, catalogue) = read.await?;
            // At once, so that no depot lets go of what a shadow has still to read.
            let numbered = self.setup.add_module(numbered);
            self.add_shadows(&numbered, &catalogue);
            module = Some(numbered);
        }
        let module = module.expect("it was added");
        if !module.definition.declares_the_same(&definition) {
            let what = format!(
                "module `{}` was launched with other declarations before; open the engine anew to launch \
                 another version",
                definition.name
            );
            return Err(Error::Invalid { what });
        }
        Ok(module)
    }

    /// Where topologies of a module begin in depots that are new to them.
    async fn starts(&self, definition: &Definition, catalogue: &Catalogue) -> Result<Starts> {
        let mut starts = Starts::new();
        let Some(entry) = catalogue.modules.iter().find(|it| it.name == definition.name) else {
            return Ok(starts);
        };
        for topology in &definition.topologies {
            entry.check_starts(topology)?;
            let new = entry.new_sources(topology, definition);
            if new.is_empty() {
                continue;
            }
            let asked: Vec<_> = new.iter().map(|&(_, depot, start)| (depot, start)).collect();
            for shard in self.shards() {
                let ask = |reply| Message::Starts { asked: asked.clone(), reply };
                for (depot, partition, offset) in self.ask(shard, ask).await? {
                    let (name, ..) = new.iter().find(|it| it.1 == depot).expect("it was asked for");
                    let place = (topology.name.clone(), (*name).to_owned());
                    starts.entry(place).or_default().insert(partition.0, offset.0);
                }
            }
        }
        Ok(starts)
    }

    /// Asserts that whoever wrote before what another topology writes from now on has left nothing unapplied.
    /// Nobody runs the module meanwhile, so none of that can be new.
    async fn check_owners(&self, definition: &Definition, catalogue: &Catalogue) -> Result<()> {
        let disowned = catalogue.disowned(definition);
        if disowned.is_empty() {
            return Ok(());
        }
        let topologies: Vec<_> = disowned.iter().map(|it| it.topology).collect();
        for shard in self.shards() {
            let topologies = topologies.clone();
            let left = self.ask(shard, |reply| Message::Unsettled { topologies, reply }).await?;
            if let Some((partition, topology)) = left {
                let whose = disowned.iter().find(|it| it.topology == topology);
                return Err(whose.expect("it was asked for").refused(partition));
            }
        }
        Ok(())
    }

    /// Waits until readers of every shard see what was decided before.
    async fn settle(&self, module: &Installed) -> Result<()> {
        for (place, topology) in module.running() {
            let name = &module.definition.topologies[place].name;
            let partition = Topology::coordinator_partition(name, self.setup.partitions);
            let coordinator = self.setup.owner(partition);
            let decided = self.ask(coordinator, |reply| Message::Decided { topology, reply });
            let id = decided.await?;
            self.ask_all(|reply| Message::VisibleAt { topology, id, reply }).await?;
        }
        Ok(())
    }

    /// Sends a message to every shard and waits for all answers.
    async fn ask_all(&self, message: impl Fn(Reply<()>) -> Message) -> Result<()> {
        let asked: Vec<_> =
            self.shards().map(|shard| (shard, self.post(shard, &message))).collect();
        let mut result = Ok(());
        for (shard, answer) in asked {
            result = result.and(self.answered(shard, answer).await);
        }
        result
    }

    /// Asks one shard after the other, until one does not stop over it.
    async fn ask_any<T>(&self, message: impl Fn(Reply<T>) -> Message) -> Result<T> {
        let mut result = Err(Error::Closed);
        for shard in self.shards() {
            result = self.ask(shard, &message).await;
            if !matches!(result, Err(Error::ShardStopped { .. })) {
                break;
            }
        }
        result
    }

    pub(crate) fn shards(&self) -> impl Iterator<Item = ShardId> + use<> {
        (0..self.setup.shards).map(ShardId)
    }

    /// Starts a shard again that has stopped. It needs no other shard; whether it works or not, it ends.
    pub(crate) async fn reopen(&self, shard: ShardId) -> Result<()> {
        let claim = self.setup.claim(shard)?;
        self.platform.ended(shard).await;
        // From here on it is the new life that says how it is: it may end, and be claimed by somebody else,
        // before this goes on.
        std::mem::forget(claim);
        let ready = self.start(shard, Life::Next)?;
        if self.setup.is_closed() {
            // Whoever closes may have told it to end before there was anybody to hear it.
            self.tell(shard, Message::End);
        }
        self.answered(shard, ready).await.map(|_| ())
    }

    /// Folds everything, records the ends of the journals, and ends all shards.
    pub(crate) async fn close(&self) -> Result<()> {
        self.setup.note_closed();
        let answers = self.shards().map(|shard| {
            let answer = self.post(shard, |reply| Message::Close { reply });
            self.closing(shard, answer)
        });
        let mut ended: Vec<_> = self.shards().map(|shard| self.platform.ended(shard)).collect();
        // Each shard waits for microbatches that others take part in, so the first one that is gone ends the
        // wait for all.
        let answers = pin!(try_join_all(answers));
        let closed = match select(answers, select_all(&mut ended)).await {
            Either::Left((closed, _)) => closed,
            Either::Right((((), index, _), _)) => {
                let shard = self.shards().nth(index).expect("one future for each shard");
                Err(self.setup.ended_error(shard))
            }
        };
        let clean = match closed {
            Ok(closed) => {
                let clean = |reply| Message::Keeper(KeeperRequest::Clean { closed, reply });
                self.closing(BOOT, self.post(BOOT, clean)).await
            }
            Err(error) => Err(error),
        };
        self.end_all().await;
        clean
    }

    /// What a shard answers to a step of closing, or what went wrong with that.
    async fn closing<T>(&self, shard: ShardId, answer: oneshot::Receiver<Result<T>>) -> Result<T> {
        answer.await.unwrap_or_else(|_| Err(self.setup.ended_error(shard)))
    }

    /// Ends every shard as it is.
    pub(crate) async fn end_all(&self) {
        self.setup.note_closed();
        for shard in self.shards() {
            self.platform.post(shard, Box::new(Message::End));
        }
        for shard in self.shards() {
            self.platform.ended(shard).await;
        }
        self.ended.store(true, Ordering::Release);
    }

    /// Ends every shard as it is, without waiting; nothing if that was done before.
    pub(crate) fn end_all_later(&self) {
        if self.ended.load(Ordering::Acquire) {
            return;
        }
        for shard in self.shards() {
            self.platform.post(shard, Box::new(Message::End));
        }
    }
}

/// The shard that boots, and does what must be done once for all.
const BOOT: ShardId = ShardId(0);

async fn boot(platform: &Arc<dyn Platform>, options: &Options) -> Result<Boot> {
    let (reply, answer) = oneshot::channel();
    let main = recover::boot_main(options.clone(), reply);
    let failed = |what: String| Error::Open { what };
    platform.start(BOOT, main).map_err(|error| failed(error.to_string()))?;
    let boot = answer.await.unwrap_or_else(|_| Err(failed("start-up was interrupted".to_owned())));
    platform.ended(BOOT).await;
    boot
}

/// Each shard goes on with its own journal if every shard has exactly one; else all get new ones.
fn plan(shards: u16, journals: &[JournalRecord]) -> Vec<Plan> {
    let mut own: Vec<Option<JournalRecord>> = vec![None; usize::from(shards)];
    let mut same = journals.len() == own.len();
    for record in journals {
        match own.get_mut(usize::from(record.shard.0)) {
            Some(place @ None) => *place = Some(*record),
            Some(Some(_)) | None => same = false,
        }
    }
    if same {
        return own.into_iter().flatten().map(Plan::Resume).collect();
    }
    let next = journals.iter().map(|record| record.id.0 + 1).max().unwrap_or(1);
    (0..u32::from(shards))
        .map(|shard| Plan::Create { id: JournalId(next + shard), read: journals.to_vec() })
        .collect()
}
