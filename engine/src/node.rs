//! One process: its options, its catalogue, and how its shards are opened, reopened and closed.

use std::sync::{Arc, RwLock};

use futures_channel::oneshot;

use crate::depot;
use crate::env::{Platform, production};
use crate::error::{Error, Result};
use crate::journal::JournalId;
use crate::manifest::JournalRecord;
use crate::module::Definition;
use crate::shard::keeper::KEEPER;
use crate::shard::message::{Closed, KeeperRequest, Message, Reply};
use crate::shard::recover::{self, Boot, Plan, Ready, Start};
use crate::shard::{Setup, microbatch::Topology};
use crate::types::ShardId;

pub mod catalogue;

pub use crate::shard::recover::Progress;
pub(crate) use catalogue::Installed;

/// How an engine works. The defaults suit a service that embeds it.
#[derive(Clone, Debug)]
pub struct Options {
    /// Cores to use; may differ from opening to opening. Default: one less than there are.
    pub shards: u16,
    /// Partitions, fixed for ever when the directory is created: a power of two. Default: the next one at
    /// or above 16 per shard.
    pub partitions: Option<u32>,
    /// Bytes of memory for pages, overlays, tail caches and queues of all shards together. Default: a
    /// quarter of the machine's, at most 4 GiB.
    pub memory_bytes: u64,
    /// Bytes of journal per shard before appends wait.
    pub journal_bytes_max: u64,
    /// Size of one journal file; a journal that exists keeps the size it has. Opening after a crash reads
    /// to the end of two of them, creating writes one.
    pub journal_file_bytes: u32,
    /// A microbatch takes at most this many records of one source partition.
    pub microbatch_records_max: u64,
    /// What a microbatch may hold on one shard: rows that wait, and writes. One that needs more is tried
    /// again with fewer records; a single record that needs more is rejected. At most 32 MiB, which is
    /// the default. A small `memory_bytes` lowers it for microbatches of several records.
    pub microbatch_bytes_max: u64,
    /// Segment sizes and windows of depots.
    pub depot: depot::Options,
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
            depot: depot::Options::default(),
        }
    }
}

impl Options {
    /// The number of partitions a new directory gets.
    #[must_use]
    pub fn partitions_or_default(&self) -> u32 {
        self.partitions.unwrap_or_else(|| (u32::from(self.shards) * 16).next_power_of_two())
    }

    fn check(&self) -> Result<()> {
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
        Ok(())
    }
}

/// What a prepare and the batch of records in it can be, with room for what they are wrapped in.
pub(crate) const MICROBATCH_BYTES_LIMIT: u64 = 32 << 20;

// The prepares of a shard are one group of its journal, so that one write makes the vote durable. What is
// counted is more than what they are encoded to.
const _: () = assert!(MICROBATCH_BYTES_LIMIT * 2 <= crate::journal::GROUP_BYTES as u64);

/// A module on its way into the catalogue.
#[derive(Debug)]
pub(crate) struct Launch {
    pub(crate) definition: Definition,
}

/// The shards of this process, and what they run.
pub(crate) struct Node {
    platform: Arc<dyn Platform>,
    pub(crate) setup: Arc<Setup>,
    modules: RwLock<Vec<Arc<Installed>>>,
    progress: Arc<dyn Fn(Progress) + Send + Sync>,
}

/// What an opening found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Recovery {
    /// Journal entries that were read.
    pub entries: u64,
    /// Journals that ended in frames which no later frame proves durable: what a crash leaves. Each with
    /// the position, for people.
    pub torn: Vec<String>,
}

impl Node {
    pub(crate) async fn open(
        platform: Arc<dyn Platform>,
        options: Options,
        progress: Arc<dyn Fn(Progress) + Send + Sync>,
    ) -> Result<(Self, Recovery)> {
        options.check()?;
        let boot = boot(&platform, &options).await?;
        let setup = Arc::new(Setup {
            shards: options.shards,
            partitions: boot.manifest.partitions,
            data_id: boot.manifest.data_id,
            stopped: (0..options.shards).map(|_| RwLock::default()).collect(),
            runs: (0..options.shards).map(|_| boot.manifest.run.0.into()).collect(),
            options,
        });
        let plans = plan(&setup, &boot);
        let dealt = plans.iter().any(|plan| matches!(plan, Plan::Create { .. }));
        let journals: Vec<JournalId> = plans.iter().map(Plan::journal).collect();
        let node = Self { platform, setup, modules: RwLock::default(), progress };
        let mut waiting = Vec::new();
        for (shard, plan) in (0..node.setup.shards).map(ShardId).zip(plans) {
            let keeper = (shard == KEEPER).then(|| (boot.manifest.clone(), boot.catalogue.clone()));
            waiting.push(node.start(shard, boot.manifest.run, plan, keeper)?);
        }
        let mut recovery = Recovery::default();
        let mut failure = None;
        for (shard, ready) in (0..node.setup.shards).map(ShardId).zip(waiting) {
            match node.answered(shard, ready).await {
                Ok(ready) => {
                    recovery.entries += ready.entries;
                    recovery.torn.extend(ready.torn.iter().map(|(journal, tail)| {
                        format!(
                            "journal {journal}: file {} at byte {}, {} later frames discarded",
                            tail.file.number, tail.byte, tail.frames_discarded
                        )
                    }));
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
            node.ask(KEEPER, switch).await?;
        }
        Ok((node, recovery))
    }

    fn start(
        &self,
        shard: ShardId,
        run: crate::types::Run,
        journal: Plan,
        keeper: Option<(crate::manifest::Manifest, catalogue::Catalogue)>,
    ) -> Result<oneshot::Receiver<Result<Ready>>> {
        self.setup.note_stopped(shard, None);
        let (ready, waiting) = oneshot::channel();
        let (setup, progress) = (Arc::clone(&self.setup), Arc::clone(&self.progress));
        let start = Start { setup, run, journal, keeper, progress, ready };
        let started = self.platform.start(shard, recover::main(start));
        started.map_err(|error| {
            // It never ran, so nothing else tells.
            self.setup.note_stopped(shard, Some(error.to_string()));
            Error::Open { what: format!("shard {shard}: {error}") }
        })?;
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

    /// Runs a module on every shard.
    pub(crate) async fn launch(&self, definition: Definition) -> Result<Arc<Installed>> {
        let launch = Box::new(Launch { definition });
        let module = self
            .ask(KEEPER, |reply| Message::Keeper(KeeperRequest::Launch { launch, reply }))
            .await?;
        for shard in self.shards() {
            let module = Arc::clone(&module);
            self.ask(shard, |reply| Message::Install { module, reply }).await?;
        }
        for shard in self.shards() {
            let topologies = module.topologies.clone();
            self.ask(shard, |reply| Message::StartTopologies { topologies, reply }).await?;
        }
        if let Ok(mut modules) = self.modules.write() {
            modules.push(Arc::clone(&module));
        }
        for shard in self.shards() {
            self.settle(shard, &module).await?;
        }
        Ok(module)
    }

    /// Waits until readers of a shard see what was decided before.
    async fn settle(&self, shard: ShardId, module: &Installed) -> Result<()> {
        for (definition, &topology) in module.definition.topologies.iter().zip(&module.topologies) {
            let name = &definition.name;
            let partition = Topology::coordinator_partition(name, self.setup.partitions);
            let coordinator = self.setup.owner(partition);
            let decided = self.ask(coordinator, |reply| Message::Decided { topology, reply });
            let id = decided.await?;
            self.ask(shard, |reply| Message::VisibleAt { topology, id, reply }).await?;
        }
        Ok(())
    }

    pub(crate) fn shards(&self) -> impl Iterator<Item = ShardId> + use<> {
        (0..self.setup.shards).map(ShardId)
    }

    /// Starts a shard again that has stopped.
    pub(crate) async fn reopen(&self, shard: ShardId) -> Result<()> {
        if self.setup.stopped_cause(shard).is_none() {
            return Err(Error::Invalid { what: format!("shard {shard} is running") });
        }
        self.platform.ended(shard).await;
        let (run, records, keeper) = if shard == KEEPER {
            let boot = boot(&self.platform, &self.setup.options).await?;
            (boot.manifest.run, boot.journals, Some((boot.manifest, boot.catalogue)))
        } else {
            let raise = |reply| Message::Keeper(KeeperRequest::RaiseRun { reply });
            let restart = self.ask(KEEPER, raise).await?;
            (restart.run, restart.journals, None)
        };
        let record = records.iter().find(|record| record.shard == shard).copied();
        let record: JournalRecord = record.ok_or_else(|| Error::Corrupt {
            what: format!("MANIFEST names no journal of shard {shard}"),
        })?;
        let ready = self.start(shard, run, Plan::Resume(record), keeper)?;
        self.answered(shard, ready).await?;
        let modules = self.modules.read().map(|modules| modules.clone()).unwrap_or_default();
        for module in &modules {
            let install = Arc::clone(module);
            self.ask(shard, |reply| Message::Install { module: install, reply }).await?;
        }
        // Before the news, so that a peer that starts just now reads it if it cannot be told.
        self.setup.note_run(shard, run);
        for peer in self.shards().filter(|&peer| peer != shard) {
            self.platform.post(peer, Box::new(Message::Peer { shard, run, up: true }));
        }
        for module in &modules {
            let topologies = module.topologies.clone();
            self.ask(shard, |reply| Message::StartTopologies { topologies, reply }).await?;
        }
        for module in &modules {
            match self.settle(shard, module).await {
                Err(Error::ShardStopped { shard: stopped, .. }) if stopped != shard => {
                    // Nothing is decided without it, and what was decided becomes visible when it is
                    // opened too.
                    break;
                }
                settled => settled?,
            }
        }
        Ok(())
    }

    /// Folds everything, records the ends of the journals, and ends all shards.
    pub(crate) async fn close(&self) -> Result<()> {
        let answers: Vec<_> = self
            .shards()
            .map(|shard| (shard, self.post(shard, |reply| Message::Close { reply })))
            .collect();
        let mut closed: Vec<Closed> = Vec::new();
        let mut failure = None;
        for (shard, answer) in answers {
            match self.answered(shard, answer).await {
                Ok(end) => closed.push(end),
                Err(error) => failure = failure.or(Some(error)),
            }
        }
        if failure.is_none() {
            let clean = |reply| Message::Keeper(KeeperRequest::Clean { closed, reply });
            failure = self.ask(KEEPER, clean).await.err();
        }
        self.end_all().await;
        failure.map_or(Ok(()), Err)
    }

    /// Ends every shard as it is.
    pub(crate) async fn end_all(&self) {
        for shard in self.shards() {
            self.platform.post(shard, Box::new(Message::End));
        }
        for shard in self.shards() {
            self.platform.ended(shard).await;
        }
    }

    /// Ends every shard as it is, without waiting.
    pub(crate) fn end_all_later(&self) {
        for shard in self.shards() {
            self.platform.post(shard, Box::new(Message::End));
        }
    }
}

async fn boot(platform: &Arc<dyn Platform>, options: &Options) -> Result<Boot> {
    let (reply, answer) = oneshot::channel();
    let main = recover::boot_main(options.clone(), reply);
    let failed = |what: String| Error::Open { what };
    platform.start(KEEPER, main).map_err(|error| failed(error.to_string()))?;
    let boot = answer.await.unwrap_or_else(|_| Err(failed("start-up was interrupted".to_owned())));
    platform.ended(KEEPER).await;
    boot
}

/// Each shard goes on with its own journal if every shard has exactly one; else all get new ones.
fn plan(setup: &Setup, boot: &Boot) -> Vec<Plan> {
    let mut own: Vec<Option<JournalRecord>> = vec![None; usize::from(setup.shards)];
    let mut same = boot.journals.len() == own.len();
    for record in &boot.journals {
        match own.get_mut(usize::from(record.shard.0)) {
            Some(place @ None) => *place = Some(*record),
            Some(Some(_)) | None => same = false,
        }
    }
    if same {
        return own.into_iter().flatten().map(Plan::Resume).collect();
    }
    let next = boot.journals.iter().map(|record| record.id.0 + 1).max().unwrap_or(1);
    (0..u32::from(setup.shards))
        .map(|shard| Plan::Create { id: JournalId(next + shard), read: boot.journals.clone() })
        .collect()
}
