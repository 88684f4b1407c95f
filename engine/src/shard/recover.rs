//! From files to a running shard: what happens between `start` and the first message.
//!
//! 1. *Boot*, on shard 0 alone, once: `MANIFEST` is read or made, the run is raised durably, leftovers of
//!    journals that nobody names are removed.
//! 2. *Replay*, on every shard: the entries of its partitions are read from the journals that may hold
//!    them and applied in order of their index over what the folds contain. A gap is damage.
//! 3. Where the number of shards changed, *dealing*: every partition is folded, prepares in doubt are
//!    written to the new journals, and one manifest write makes the new journals the directory's. A crash
//!    before it finds the old ones complete; nothing new was accepted.
//!
//! A shard that stopped is started again the same way, without the boot: it raises the run itself and
//! replays its own journal. It waits for no other shard, since they may be down, too. What it committed and
//! not all others may have applied stays hidden, and prepares in doubt stay prepared, until the coordinators
//! say what became of them.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

use futures_channel::oneshot;
use futures_util::future::{join, join_all};

use super::background::no_space;
use super::entry::Prepare;
use super::keeper::{self, Ended, Hand};
use super::message::{Message, Reply, answer};
use super::partition::{Partition, TornExtent};
use super::{Ending, Setup, Shard, TERM, tails};
use crate::backup::target::{UNFINISHED, is_unfinished};
use crate::env::{Class, Env, LocalFuture, ShardMain};
use crate::error::{Error, Result, chain};
use crate::journal::{
    self, Admission, Entry, EntryRef, Journal, JournalId, Kind, Recovered, Recovery, TornTail,
};
use crate::manifest::{JournalRecord, Manifest};
use crate::node::Options;
use crate::node::catalogue::Catalogue;
use crate::page::Cache;
use crate::probe::{Plant, State, planted, reached};
use crate::pstate::Wanted;
use crate::types::{Index, MicrobatchId, PartitionId, Run, ShardId, TopologyId};

/// What boot found, and what was durable before it.
pub(crate) struct Boot {
    /// As stored now: this opening's run, not clean.
    pub(crate) manifest: Manifest,
    pub(crate) catalogue: Catalogue,
    /// With the clean ends that the last closing left.
    pub(crate) journals: Vec<JournalRecord>,
}

/// What one shard is told when it starts.
pub(crate) struct Start {
    pub(crate) setup: Arc<Setup>,
    pub(crate) life: Life,
    /// Called with how far replay is.
    pub(crate) progress: Arc<dyn Fn(Progress) + Send + Sync>,
    pub(crate) ready: Reply<Ready>,
    /// Comes as soon as it runs.
    pub(crate) ended: oneshot::Receiver<Ended>,
}

/// Which life of a shard begins.
pub(crate) enum Life {
    /// The first of this process.
    First(Run, Plan),
    /// One after it stopped.
    Next,
}

/// Where a shard's journal comes from.
pub(crate) enum Plan {
    /// The number of shards is the same: its own goes on.
    Resume(JournalRecord),
    /// A new one; what the old ones hold of its partitions is folded first.
    Create { id: JournalId, read: Vec<JournalRecord> },
}

impl Plan {
    /// The shard's journal from then on.
    pub(crate) fn journal(&self) -> JournalId {
        match self {
            Self::Resume(record) => record.id,
            Self::Create { id, .. } => *id,
        }
    }
}

/// How far an opening is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Progress {
    /// A shard has read so many entries of its journals.
    Replayed {
        /// Which shard.
        shard: ShardId,
        /// So many.
        entries: u64,
    },
    /// A shard has folded so many of its partitions, since the number of shards changed.
    Dealt {
        /// Which shard.
        shard: ShardId,
        /// So many.
        partitions: u64,
    },
}

/// What a started shard found.
#[derive(Debug)]
pub(crate) struct Ready {
    pub(crate) entries: u64,
    /// What a crash left behind the ends of journals and bulk appends, for people.
    pub(crate) torn: Vec<String>,
}

/// Reads or makes the manifest and raises the run. Runs on shard 0 before any shard starts.
pub(crate) async fn boot(env: &Env, options: &Options) -> Result<Boot> {
    let failed = |error: crate::manifest::Error| match error {
        crate::manifest::Error::Corrupt { .. } | crate::manifest::Error::Format { .. } => {
            Error::Corrupt { what: chain(&error) }
        }
        _ => Error::Open { what: chain(&error) },
    };
    let Some(manifest) = Manifest::load(env).await.map_err(failed)? else {
        return create(env, options).await;
    };
    let mut manifest = manifest.doubted();
    if let Some(wanted) = options.partitions.filter(|&wanted| wanted != manifest.partitions) {
        let what = format!(
            "the directory has {} partitions for ever, {wanted} were asked for",
            manifest.partitions
        );
        return Err(Error::Invalid { what });
    }
    let journals = manifest.journals.clone();
    manifest.run = Run(manifest.run.0 + 1);
    manifest.clean = false;
    for journal in &mut manifest.journals {
        journal.clean_end = None;
    }
    manifest.store(env).await.map_err(failed)?;
    if keeper::remove_unlisted(env, &manifest).await? {
        reached(State::CrashWhileDealing);
    }
    let catalogue = keeper::read_catalogue(env, manifest.catalogue).await?;
    Ok(Boot { manifest, catalogue, journals })
}

async fn create(env: &Env, options: &Options) -> Result<Boot> {
    if is_unfinished(env).await {
        return Err(Error::Open { what: UNFINISHED.to_owned() });
    }
    for dir in ["journal", "p"] {
        let names = env.disk().list(dir).await;
        if names.is_ok_and(|names| dir == "p" && !names.is_empty()) {
            let what = "the directory has partitions but no MANIFEST".to_owned();
            return Err(Error::Corrupt { what });
        }
    }
    let data_id = u128::from(env.random()) << 64 | u128::from(env.random());
    let mut manifest = Manifest::new(data_id, options.partitions_or_default());
    manifest.run = Run(1);
    let failed = |error: crate::manifest::Error| Error::Open { what: chain(&error) };
    manifest.store(env).await.map_err(failed)?;
    keeper::remove_unlisted(env, &manifest).await?;
    Ok(Boot { manifest, catalogue: Catalogue::default(), journals: Vec::new() })
}

/// The main task of a shard.
pub(crate) fn main(start: Start) -> ShardMain {
    Box::new(move |env: Env| -> LocalFuture<'static, ()> { Box::pin(run(env, start)) })
}

async fn run(env: Env, start: Start) {
    let Start { setup, life, progress, ready, ended } = start;
    let mut guard = Guard {
        env: env.clone(),
        setup: Arc::clone(&setup),
        run: setup.run(env.shard()),
        cause: "a task panicked; what it said went to standard error".to_owned(),
    };
    let opened = async {
        let abandoned = |_| Error::Open { what: "nobody waits for the shard".to_owned() };
        let hand = Hand::new(&env, &setup, ended.await.map_err(abandoned)?);
        let (run, plan) = match life {
            Life::First(run, plan) => (run, plan),
            Life::Next => {
                let (run, record) = hand.raise_run().await?;
                (run, Plan::Resume(record))
            }
        };
        guard.run = run;
        let (shard, found) = open(&env, &setup, run, plan, hand, &*progress).await?;
        shard.rejoin().await?;
        Ok::<_, Error>((shard, found))
    };
    let (shard, found) = match opened.await {
        Ok(opened) => opened,
        Err(error) => {
            guard.cause = error.to_string();
            drop(guard);
            return answer(ready, Err(error));
        }
    };
    if planted(Plant::DealtBeforeFolded) {
        let late = Rc::clone(&shard);
        env.spawn(Class::Background, "late folds", async move { drop(late.fold_all().await) });
    }
    answer(ready, Ok(found));
    match shard.ending().await {
        Ending::Closed => "it was closed".clone_into(&mut guard.cause),
        Ending::Failed(cause) => guard.cause = cause,
    }
}

/// Tells everybody that the shard ended, however it did.
struct Guard {
    env: Env,
    setup: Arc<Setup>,
    /// Of this life; until it has one, of the one before.
    run: Run,
    cause: String,
}

impl Drop for Guard {
    fn drop(&mut self) {
        let shard = self.env.shard();
        self.setup.note_stopped(shard, Some(std::mem::take(&mut self.cause)));
        for peer in (0..self.setup.shards).map(ShardId).filter(|&peer| peer != shard) {
            let message = Message::Peer { shard, run: self.run, up: false };
            self.env.mesh().send(peer, Box::new(message));
        }
    }
}

pub(super) async fn open(
    env: &Env,
    setup: &Arc<Setup>,
    run: Run,
    plan: Plan,
    hand: Hand,
    progress: &(dyn Fn(Progress) + Send + Sync),
) -> Result<(Rc<Shard>, Ready)> {
    let shares = u64::from(setup.shards) * 2;
    let cache = Cache::new(setup.options.memory_bytes / shares);
    let mut replay = Replay {
        env,
        setup,
        cache: &cache,
        partitions: BTreeMap::new(),
        entries: 0,
        taken_bytes: 0,
        progress,
        fresh: matches!(&plan, Plan::Create { read, .. } if read.is_empty()),
        torn: Vec::new(),
        torn_extents: Vec::new(),
        proved: BTreeMap::new(),
        visible: setup.visible(),
    };
    replay.open_partitions().await?;
    let journal_id = plan.journal();
    let read = match &plan {
        Plan::Resume(record) => vec![*record],
        Plan::Create { read, .. } => read.clone(),
    };
    let mut resumed = None;
    for record in read {
        let recovered = replay.journal(record, run).await?;
        resumed = Some(recovered);
    }
    replay.judge_extents()?;
    let (entries, torn) = (replay.entries, std::mem::take(&mut replay.torn));
    let partitions = replay.finish().await?;
    let mut options = journal::Options::new(journal_id, run);
    options.bytes_max = setup.options.journal_bytes_max;
    options.file_bytes = setup.options.journal_file_bytes;
    // A frame lies in one file.
    options.frame_bytes_max = options.frame_bytes_max.min(options.file_bytes);
    let retain = Rc::new(hand.clone());
    let failed = |error: journal::Error| journal_error(&error);
    let journal = match (&plan, resumed) {
        (Plan::Resume(_), Some(recovered)) => {
            // First of all, since new frames prove those before them: what was cut off with a torn extent
            // must not be met again.
            for partition in partitions.values().filter(|it| it.must_fold()) {
                if partition.is_cut() {
                    partition.merge_all();
                }
                partition
                    .fold(partition.last(), nobody)
                    .await
                    .map_err(|error| partition_error(&error))?;
            }
            Journal::resume(env, options, recovered, retain).await.map_err(failed)?
        }
        (Plan::Resume(_), None) => unreachable!("its own journal was read"),
        (Plan::Create { .. }, _) => {
            // Neither needs the other, and both wait for the disk most of the time.
            let created = Journal::create(env, options, retain);
            let (created, folded) = join(created, deal(env, &partitions, progress)).await;
            folded?;
            let journal = created.map_err(failed)?;
            copy_doubtful(&journal, &partitions).await?;
            journal
        }
    };
    for partition in partitions.values() {
        journal.covered(partition.id, partition.covers(), &partition.pending());
    }
    let shard = Shard::new(env, setup, run, (journal_id, journal), cache, partitions, hand);
    Ok((Rc::new(shard), Ready { entries, torn }))
}

/// Folds what the old journals hold.
async fn deal(
    env: &Env,
    partitions: &BTreeMap<PartitionId, Rc<Partition>>,
    progress: &(dyn Fn(Progress) + Send + Sync),
) -> Result<()> {
    let partitions: Vec<&Rc<Partition>> = partitions.values().collect();
    let mut dealt = 0;
    for some in partitions.chunks(FOLDS_AT_ONCE) {
        let folds = some.iter().map(|partition| async {
            // A partition that has no root yet gets one, so that a missing file is always damage.
            let due = partition.is_dirty() && !planted(Plant::DealtBeforeFolded);
            if due || partition.must_fold() {
                partition
                    .fold(partition.last(), nobody)
                    .await
                    .map_err(|error| partition_error(&error))?;
            }
            Ok(())
        });
        for folded in join_all(folds).await {
            folded?;
            dealt += 1;
            progress(Progress::Dealt { shard: env.shard(), partitions: dealt });
        }
    }
    Ok(())
}

/// So many partitions are folded together: each waits for several syncs, and takes memory meanwhile.
const FOLDS_AT_ONCE: usize = 8;

/// Writes what is in doubt to the new journal.
async fn copy_doubtful(
    journal: &Journal,
    partitions: &BTreeMap<PartitionId, Rc<Partition>>,
) -> Result<()> {
    for partition in partitions.values() {
        for (transaction, prepared) in partition.prepared() {
            let mut bytes = Vec::new();
            Prepare::encode_into(transaction, &prepared.appends, &mut bytes, |out| {
                prepared.run.encode(out);
            });
            let entry = EntryRef {
                partition: partition.id,
                term: TERM,
                index: prepared.index,
                kind: Kind::Prepare,
                bytes: &bytes,
            };
            let failed = |error: journal::Error| journal_error(&error);
            journal.admit(bytes.len() + 64, Admission::System).await.map_err(failed)?;
            let ticket = journal.append(&[entry]).map_err(failed)?;
            journal.wait(ticket).await.map_err(failed)?;
        }
    }
    Ok(())
}

/// Entries on their way into partitions.
struct Replay<'r> {
    env: &'r Env,
    setup: &'r Arc<Setup>,
    cache: &'r Cache,
    partitions: BTreeMap<PartitionId, Replaying>,
    entries: u64,
    /// Of entries that were taken since the logs were looked at.
    taken_bytes: u64,
    progress: &'r (dyn Fn(Progress) + Send + Sync),
    /// The directory is being created: partitions need not have files yet.
    fresh: bool,
    /// See [`Ready`].
    torn: Vec<String>,
    /// Damaged extents, each with the frame its entry ends in.
    torn_extents: Vec<(Frame, TornExtent)>,
    /// Below which frame each journal is proved to have been durable.
    proved: BTreeMap<JournalId, u64>,
    /// How far topologies with readers were visible when this began. What was committed above that, readers
    /// see when all participants have applied it.
    visible: BTreeMap<TopologyId, MicrobatchId>,
}

/// One frame of a journal.
type Frame = (JournalId, u64);

pub(super) struct Replaying {
    pub(super) partition: Rc<Partition>,
    /// The entry after those that its root covers.
    opened_at: Index,
    /// See [`super::partition::Opened`].
    doubt: Option<String>,
    /// Entries that came before their turn, from another journal.
    early: BTreeMap<Index, (Entry, Frame)>,
}

impl Replay<'_> {
    async fn journal(&mut self, record: JournalRecord, run: Run) -> Result<Recovered> {
        let failed = |error: journal::Error| journal_error(&error);
        let JournalRecord { id, first, clean_end, .. } = record;
        let mut recovery =
            Recovery::open(self.env, id, first, run, clean_end).await.map_err(failed)?;
        while let Some(group) = recovery.next().await.map_err(failed)? {
            for entry in group.entries {
                if self.setup.owner(entry.partition) == self.env.shard() {
                    self.entry(entry, (id, group.sequence)).await?;
                }
            }
            self.bound_memory(&recovery).await?;
            self.bound_tails().await?;
            if self.env.should_yield() {
                (self.progress)(Progress::Replayed {
                    shard: self.env.shard(),
                    entries: self.entries,
                });
                self.env.yield_now().await;
            }
        }
        let recovered = recovery.finish().await.map_err(failed)?;
        if let Some(tail) = recovered.torn {
            let TornTail { file, byte, frames_discarded, .. } = tail;
            self.torn.push(format!(
                "journal {id}: file {} at byte {byte}, {frames_discarded} later frames discarded",
                file.number
            ));
        }
        // Whoever closed the directory knew all of it to be durable.
        let proved = if clean_end.is_some() { u64::MAX } else { recovered.proved_below() };
        self.proved.insert(id, proved);
        Ok(recovered)
    }

    /// Damaged extents are the end of their logs, unless a frame says that they were durable.
    fn judge_extents(&mut self) -> Result<()> {
        for ((journal, sequence), extent) in std::mem::take(&mut self.torn_extents) {
            let TornExtent { from, file, byte } = extent;
            if self.proved.get(&journal).is_some_and(|&proved| sequence < proved) {
                let what = format!(
                    "{file} is damaged at byte {byte}: a bulk append from offset {from} on, which was durable \
                     when later frames of journal {journal} were written"
                );
                return Err(Error::Corrupt { what });
            }
            self.torn.push(format!(
                "{file} at byte {byte}: a bulk append that no later frame proves durable, and what follows it, \
                 from offset {from} on"
            ));
        }
        Ok(())
    }

    async fn entry(&mut self, entry: Entry, frame: Frame) -> Result<()> {
        self.entries += 1;
        self.taken_bytes += entry.bytes.len() as u64;
        if entry.partition.0 >= self.setup.partitions {
            let what = format!("the journal names partition {}", entry.partition);
            return Err(Error::Corrupt { what });
        }
        let own = self.partitions.get_mut(&entry.partition);
        let own = own.expect("all partitions of the shard are open");
        own.take(entry, frame, &self.visible, &mut self.torn_extents).await
    }

    /// Folds while replaying, when what was replayed outgrows the overlays' share of the memory.
    async fn bound_memory(&mut self, journal: &Recovery) -> Result<()> {
        let options = &self.setup.options;
        let bytes_max = options.memory_bytes / 4 / u64::from(self.setup.shards);
        // Not one that lost the end of a log: nothing may cover that before it is known to be no damage.
        let sound = || self.partitions.values().filter(|it| !it.partition.is_cut());
        if sound().map(|it| it.partition.overlay_bytes()).sum::<u64>() <= bytes_max {
            return Ok(());
        }
        let largest = sound().max_by_key(|it| it.partition.overlay_bytes());
        let Some(largest) = largest else { return Ok(()) };
        // What was read may be in the device's cache only. No fold contains the end of a microbatch whose
        // decision the next crash takes away.
        journal.make_durable().await.map_err(|error| journal_error(&error))?;
        largest.partition.replayed_is_durable();
        let folded = largest.partition.fold(largest.partition.last(), nobody).await;
        folded.map_err(|error| partition_error(&error))?;
        Ok(())
    }

    /// Writes logs out when the newest records outgrow their share of the memory.
    async fn bound_tails(&mut self) -> Result<()> {
        let bytes_max = tails::bytes_max(&self.setup.options, self.setup.shards);
        if self.taken_bytes <= bytes_max / 4 {
            return Ok(());
        }
        self.taken_bytes = 0;
        let partitions = || self.partitions.values().map(|it| &it.partition);
        if tails::held(partitions()) <= bytes_max / 2 {
            return Ok(());
        }
        partitions().for_each(|it| it.replayed_is_durable());
        match tails::shrink(partitions(), bytes_max / 4).await {
            // On a full disk memory holds it until there is space.
            Err(error) if !no_space(&error) => Err(partition_error(&error)),
            Ok(_) | Err(_) => Ok(()),
        }
    }

    /// Opens the shard's partitions as their files have them.
    async fn open_partitions(&mut self) -> Result<()> {
        let own = |id: &PartitionId| self.setup.owner(*id) == self.env.shard();
        let ids = (0..self.setup.partitions).map(PartitionId).filter(own);
        // Together: each waits for the disk several times.
        let (env, setup, cache) = (self.env, self.setup, self.cache);
        let opening = ids.map(|id| async move {
            let opened = open_partition(env, setup, cache, id).await;
            opened.map(|opened| (id, opened))
        });
        for opened in join_all(opening.collect::<Vec<_>>()).await {
            let (id, opened) = opened?;
            self.partitions.insert(id, opened);
        }
        Ok(())
    }

    /// Checks that nothing is missing.
    async fn finish(self) -> Result<BTreeMap<PartitionId, Rc<Partition>>> {
        let mut partitions = BTreeMap::new();
        for (id, replaying) in self.partitions {
            let missing = match (replaying.early.keys().next(), replaying.partition.first_awaited())
            {
                (Some(early), _) => {
                    Some(format!("entries {}..{early}", replaying.partition.next()))
                }
                (None, Some(pending)) => Some(format!("the prepare at entry {pending}")),
                (None, None) => None,
            };
            if let Some(missing) = missing {
                let what = format!("the journals lack {missing} of partition {id}");
                return Err(Error::Corrupt { what });
            }
            let replayed = replaying.opened_at < replaying.partition.next();
            if let Some(doubt) = replaying.doubt.filter(|_| !replayed && !self.fresh) {
                return Err(Error::Corrupt { what: doubt });
            }
            partitions.insert(id, replaying.partition);
        }
        for recovered in join_all(partitions.values().map(|it| it.recovered())).await {
            recovered.map_err(|error| partition_error(&error))?;
        }
        Ok(partitions)
    }
}

impl Replaying {
    pub(super) fn new(opened: super::partition::Opened) -> Self {
        Self {
            opened_at: opened.partition.next(),
            partition: Rc::new(opened.partition),
            doubt: opened.doubt,
            early: BTreeMap::new(),
        }
    }

    /// Applies an entry when its turn has come, and those that waited for it.
    pub(super) async fn take(
        &mut self,
        entry: Entry,
        frame: Frame,
        visible: &BTreeMap<TopologyId, MicrobatchId>,
        torn: &mut Vec<(Frame, TornExtent)>,
    ) -> Result<()> {
        let partition = Rc::clone(&self.partition);
        let mut apply = async |entry: &Entry, frame: Frame| {
            let replayed = partition.replay(entry.index, entry.kind, &entry.bytes, visible).await;
            let extent = replayed.map_err(|error| partition_error(&error))?;
            torn.extend(extent.map(|extent| (frame, extent)));
            Ok(())
        };
        if entry.index < partition.next() {
            // Contained in the fold or read before, unless it is a prepare that the fold left out.
            if partition.take_awaited(entry.index) {
                if planted(Plant::PrepareForgotten) {
                    return Ok(());
                }
                apply(&entry, frame).await?;
            }
            return Ok(());
        }
        self.early.insert(entry.index, (entry, frame));
        while let Some((entry, frame)) = self.early.remove(&partition.next()) {
            assert_eq!(partition.take_index(), entry.index);
            if planted(Plant::PrepareForgotten) && entry.kind == Kind::Prepare {
                continue;
            }
            apply(&entry, frame).await?;
        }
        Ok(())
    }
}

/// While a shard recovers, its partitions keep no history: nobody reads here.
fn nobody(_: TopologyId) -> Wanted {
    Wanted::default()
}

async fn open_partition(
    env: &Env,
    setup: &Setup,
    cache: &Cache,
    id: PartitionId,
) -> Result<Replaying> {
    let opened = Partition::open(env, cache, id, setup.options.depot).await;
    let opened = opened.map_err(|error| partition_error(&error))?;
    Ok(Replaying::new(opened))
}

fn journal_error(error: &journal::Error) -> Error {
    match error {
        journal::Error::Corrupt { .. }
        | journal::Error::Version { .. }
        | journal::Error::Kind { .. } => Error::Corrupt { what: chain(error) },
        journal::Error::DiskFull { .. } => Error::DiskFull { what: chain(error) },
        _ => Error::Open { what: chain(error) },
    }
}

fn partition_error(error: &super::partition::Error) -> Error {
    use super::partition::Error as Part;
    let what = chain(error);
    match error {
        Part::Entry { .. }
        | Part::PState { source: crate::pstate::Error::Corrupt { .. }, .. }
        | Part::Depot { source: crate::depot::Error::Corrupt { .. }, .. }
        | Part::Depot { source: crate::depot::Error::Gap { .. }, .. } => Error::Corrupt { what },
        Part::PState { source: crate::pstate::Error::NoSpace { .. }, .. }
        | Part::Depot { source: crate::depot::Error::NoSpace { .. }, .. } => {
            Error::DiskFull { what }
        }
        Part::PState { .. } | Part::Depot { .. } => Error::Open { what },
    }
}

/// Runs boot alone on a shard, for whoever opens the engine.
pub(crate) fn boot_main(options: Options, reply: oneshot::Sender<Result<Boot>>) -> ShardMain {
    Box::new(move |env: Env| -> LocalFuture<'static, ()> {
        Box::pin(async move {
            // Nobody listens any more: the opening was given up.
            drop(reply.send(boot(&env, &options).await));
        })
    })
}
