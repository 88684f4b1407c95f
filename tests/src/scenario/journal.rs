//! The journal alone: random groups for several partitions, files that are covered, copied forward
//! and reused, a disk that fails, fills and stalls, and several lives of the shard, each ended by a
//! power cut, a kill, a failure of the journal, or cleanly.
//!
//! The manifest and the folds are played by the scenario: a [`Root`] that survives crashes says where
//! recovery starts, and [`Model`] what a fold is thought to have covered.

use std::cell::{Cell, RefCell};
use std::ops::Range;
use std::rc::Rc;
use std::time::Duration;

use tidemill::env::{Class, Env, LocalFuture};
use tidemill::journal::{
    Admission, CleanEnd, EntryRef, Error, FileNumber, Group, Journal, JournalFile, JournalId, Kind,
    Options, Recovery, Retain, Ticket,
};
use tidemill::types::{PartitionId, Run, ShardId, Term};

use super::mishaps::flip_a_bit;
use super::{Failure, Outcome, Scenario};
use crate::counts::Fault;
use crate::disk::Faults;
use crate::node::{After, Crash, Node};
use crate::random::Random;
use crate::world::World;

mod model;

use model::Model;

const SHARD: ShardId = ShardId(0);
const ID: JournalId = JournalId(1);

/// See the module.
#[derive(Debug)]
pub(super) struct Journals;

impl Scenario for Journals {
    fn name(&self) -> &'static str {
        "journal"
    }

    fn run(&self, world: World) -> LocalFuture<'static, Result<Outcome, Failure>> {
        Box::pin(run(world))
    }
}

async fn run(world: World) -> Result<Outcome, Failure> {
    let node = world.node();
    let shared = Rc::new(Shared {
        shape: Shape::draw(world.random()),
        model: RefCell::default(),
        root: RefCell::default(),
        failure: RefCell::default(),
        outcome: RefCell::default(),
        random: world.random().fork(),
        healthy: Cell::new(false),
        damaged: Cell::new(false),
        writes_damaged: Cell::new(false),
    });
    let lives = world.random().within(4..8);
    for life in 0..=lives {
        // The last life has no faults: everything must heal and be readable.
        let last = life == lives;
        shared.healthy.set(last);
        let ended = one_life(&world, &node, &shared, last).await;
        node.crash_never();
        if let Some(failure) = shared.failure.take() {
            return Err(failure);
        }
        match ended {
            Ended::Crashed => shared.root.borrow_mut().crash(&shared.random),
            Ended::Explained => break,
            Ended::Itself => {
                if world.random().one_in(3) {
                    node.crash(Crash::Power);
                    shared.root.borrow_mut().crash(&shared.random);
                }
            }
        }
        shared.damage(&node);
        let counts = world.counts();
        shared.damaged.set(counts.damage() > 0);
        let lost = counts.of(Fault::LostWrite) + counts.of(Fault::MisdirectedWrite);
        shared.writes_damaged.set(lost > 0);
    }
    let mut outcome = shared.outcome.take();
    outcome.add("lives", lives + 1);
    outcome.add("crashes", node.crashes());
    Ok(outcome)
}

/// How a life of the shard ended.
enum Ended {
    Crashed,
    Itself,
    /// Damage was found and named; nothing more can be asked of one replica.
    Explained,
}

async fn one_life(world: &World, node: &Node, shared: &Rc<Shared>, last: bool) -> Ended {
    let random = world.random();
    node.disk().set_quota(None);
    node.disk().set_faults(match random.below(4) {
        _ if last => Faults::default(),
        0 => Faults::default(),
        1 | 2 => Faults::benign(),
        _ => Faults::errors(),
    });
    if !last && shared.shape.damages && random.one_in(3) {
        node.disk().set_faults(Faults::benign().with_damage("journal/"));
    }
    if !last {
        super::disturb(world, node, SHARD);
        let crash = *random.pick(&[Crash::Power, Crash::Power, Crash::Power, Crash::Kill]);
        let after = match random.below(4) {
            0 => After::Operations(random.within(1..60)),
            1 => After::Polls(random.within(1..3_000)),
            _ => After::Operations(random.within(60..700)),
        };
        node.crash_after(after, crash);
    }
    if !last && random.one_in(3) {
        let (world, disk) = (world.clone(), node.disk());
        let crashes = (node.clone(), node.crashes());
        world.clone().spawn("quota", async move {
            // The disk runs full a little later, and has space again after a while.
            world.sleep(Duration::from_micros(world.random().below(20_000))).await;
            if crashes.0.crashes() != crashes.1 {
                return;
            }
            disk.set_quota(Some(disk.used_bytes() + world.random().below(64 << 10)));
            world.sleep(Duration::from_millis(world.random().within(1..200))).await;
            disk.set_quota(None);
        });
    }
    let mine = Rc::clone(shared);
    let ended = node.run(SHARD, move |env| live(env, mine, last)).await;
    shared.damaged.set(world.counts().damage() > 0);
    match ended {
        None => Ended::Crashed,
        Some(Ok(())) => Ended::Itself,
        // Damage may have come in this very life.
        Some(Err(Stop::Corrupt(_))) if shared.damaged.get() => Ended::Explained,
        Some(Err(Stop::Corrupt(error))) => {
            shared.fail("no-false-corruption", format!("{error}, but nothing was damaged"));
            Ended::Itself
        }
        Some(Err(Stop::Device(error))) => {
            if is_full_disk(&error) {
                shared.fail("no-write-meets-a-full-disk", &error);
            }
            if last {
                shared.fail("heals", format!("without faults: {error}"));
            }
            Ended::Itself
        }
        Some(Err(Stop::Oracle(failure))) => {
            shared.failure.borrow_mut().get_or_insert(failure);
            Ended::Itself
        }
    }
}

/// Whether a write or sync failed for want of space, which must have been reserved before.
fn is_full_disk(error: &Error) -> bool {
    match error {
        Error::Stopped { cause } => is_full_disk(cause),
        Error::Io { source, .. } => source.kind() == std::io::ErrorKind::StorageFull,
        _ => false,
    }
}

/// Why a life ended early.
enum Stop {
    Corrupt(Error),
    Device(Error),
    Oracle(Failure),
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        match error {
            Error::Corrupt { .. } => Self::Corrupt(error),
            Error::Stopped { ref cause } if matches!(**cause, Error::Corrupt { .. }) => {
                Self::Corrupt(error)
            }
            _ => Self::Device(error),
        }
    }
}

impl From<Failure> for Stop {
    fn from(failure: Failure) -> Self {
        Self::Oracle(failure)
    }
}

/// The sizes of one seed.
struct Shape {
    partitions: u64,
    file_bytes: u32,
    files_max: u64,
    frame_bytes_max: u32,
    in_flight_max: usize,
    group_bytes: u64,
    /// One in so many seeds damages stored bytes.
    damages: bool,
}

impl Shape {
    fn draw(random: &Random) -> Self {
        Self {
            partitions: random.within(1..6),
            file_bytes: *random.pick(&[64 << 10, 128 << 10, 256 << 10]),
            files_max: random.within(4..9),
            frame_bytes_max: *random.pick(&[8 << 10, 16 << 10, 64 << 10]),
            in_flight_max: *random.pick(&[1, 2, 4, 8]),
            group_bytes: *random.pick(&[200, 2_000, 6_000, 20_000]),
            damages: random.one_in(6),
        }
    }

    fn options(&self, run: Run) -> Options {
        Options {
            file_bytes: self.file_bytes,
            bytes_max: u64::from(self.file_bytes) * self.files_max,
            frame_bytes_max: self.frame_bytes_max,
            group_bytes_max: self.file_bytes / 2,
            in_flight_max: self.in_flight_max,
            seal_idle_after: Duration::from_millis(2),
            ..Options::new(ID, run)
        }
    }
}

/// What outlives the process.
struct Shared {
    shape: Shape,
    model: RefCell<Model>,
    root: RefCell<Root>,
    failure: RefCell<Option<Failure>>,
    outcome: RefCell<Outcome>,
    random: Random,
    /// No fault is injected now.
    healthy: Cell<bool>,
    /// Stored bytes were damaged.
    damaged: Cell<bool>,
    /// Writes went elsewhere, or nowhere.
    writes_damaged: Cell<bool>,
}

impl Shared {
    fn fail(&self, oracle: &'static str, message: impl std::fmt::Display) {
        self.failure.borrow_mut().get_or_insert(Failure::new(oracle, message));
    }

    fn count(&self, name: &'static str, count: u64) {
        self.outcome.borrow_mut().add(name, count);
    }

    /// Between two lives a bit may flip in a journal file.
    fn damage(&self, node: &Node) {
        if !self.shape.damages || !self.random.one_in(3) {
            return;
        }
        if flip_a_bit(node, "journal/", &self.random) {
            self.count("damages", 1);
        }
    }
}

/// The part of a manifest that the journal needs. A change under way at a crash happened or not.
#[derive(Default)]
struct Root {
    run: u64,
    first: Option<JournalFile>,
    clean_end: Option<CleanEnd>,
    under_way: Option<JournalFile>,
}

impl Root {
    fn crash(&mut self, random: &Random) {
        if let Some(first) = self.under_way.take()
            && random.one_in(2)
        {
            self.first = Some(first);
        }
    }
}

struct Manifest {
    env: Env,
    shared: Rc<Shared>,
}

impl Retain for Manifest {
    fn advance(&self, id: JournalId, first: JournalFile) -> LocalFuture<'_, Result<(), Error>> {
        Box::pin(async move {
            assert_eq!(id, ID);
            self.shared.root.borrow_mut().under_way = Some(first);
            self.env.sleep(Duration::from_micros(self.env.random() % 2_000)).await;
            let mut root = self.shared.root.borrow_mut();
            let before = root.first.map_or(FileNumber(0), |file| file.number);
            if first.number < before {
                drop(root);
                self.shared.fail("retain-advances", format!("{before} is followed by {first:?}"));
                return Ok(());
            }
            root.first = Some(first);
            root.under_way = None;
            drop(root);
            self.shared.count("advances", 1);
            Ok(())
        })
    }
}

async fn live(env: Env, shared: Rc<Shared>, last: bool) -> Result<(), Stop> {
    let retain = || Rc::new(Manifest { env: env.clone(), shared: Rc::clone(&shared) });
    let run = {
        let mut root = shared.root.borrow_mut();
        root.run += 1;
        root.under_way = None;
        Run(root.run)
    };
    let options = shared.shape.options(run);
    let (first, clean_end) = {
        let root = shared.root.borrow();
        (root.first, root.clean_end)
    };
    let journal = if let Some(first) = first {
        if env.random().is_multiple_of(3) {
            // Reading twice gives the same twice, also if the first reader goes away in between.
            let one = read(&env, first, run, clean_end).await?.0;
            let two = read(&env, first, run, clean_end).await?.0;
            if one != two {
                let message = format!("{} groups, then {}", one.len(), two.len());
                return Err(Failure::new("recovery-is-deterministic", message).into());
            }
        }
        let (groups, recovery) = read(&env, first, run, clean_end).await?;
        let plan = shared.model.borrow().judge(&groups, clean_end.is_some());
        let recovered = recovery.finish().await?;
        let torn = recovered.torn;
        if let Err(failure) = plan.map(|plan| shared.model.borrow_mut().settle(plan)) {
            // One replica cannot do better than to say that its tail is damaged; where the last
            // writes were lost, it cannot even know.
            let known = torn.is_some() || shared.writes_damaged.get();
            if !(shared.damaged.get() && known && failure.oracle == model::LOST) {
                return Err(failure.into());
            }
            shared.model.borrow_mut().forgive(&groups);
        }
        shared.count("recoveries", 1);
        shared.count("torn-tails", u64::from(torn.is_some()));
        shared.root.borrow_mut().clean_end = None;
        Journal::resume(&env, options, recovered, retain()).await?
    } else {
        let journal = Journal::create(&env, options, retain()).await?;
        shared.root.borrow_mut().first = Some(JournalFile::FIRST);
        journal
    };
    work(&env, &shared, &journal, last).await?;
    let end = journal.close().await?;
    shared.model.borrow_mut().all_durable();
    shared.root.borrow_mut().clean_end = Some(end);
    shared.count("clean-closes", 1);
    Ok(())
}

async fn read(
    env: &Env,
    first: JournalFile,
    run: Run,
    clean_end: Option<CleanEnd>,
) -> Result<(Vec<Group>, Recovery), Error> {
    let mut recovery = Recovery::open(env, ID, first, run, clean_end).await?;
    let mut groups = Vec::new();
    while let Some(group) = recovery.next().await? {
        groups.push(group);
    }
    Ok((groups, recovery))
}

/// Writers, and a folder that lets the journal shrink, until the writers are done.
async fn work(env: &Env, shared: &Rc<Shared>, journal: &Journal, last: bool) -> Result<(), Stop> {
    // After a recovery the folds say again what they cover.
    shared.model.borrow().say_covered(journal);
    let writers = 1 + env.random() % 6;
    let done = Rc::new(Cell::new(0));
    let stop: Rc<RefCell<Option<Error>>> = Rc::default();
    for _ in 0..writers {
        let (env_too, journal, shared) = (env.clone(), journal.clone(), Rc::clone(shared));
        let (done, stop) = (Rc::clone(&done), Rc::clone(&stop));
        let groups = if last { 10 } else { 20 + env.random() % 200 };
        env.spawn(Class::Core, "writer", async move {
            for _ in 0..groups {
                if let Err(error) = write(&env_too, &shared, &journal).await {
                    stop.borrow_mut().get_or_insert(error);
                    break;
                }
            }
            done.set(done.get() + 1);
        });
    }
    while done.get() < writers {
        env.sleep(Duration::from_micros(env.random() % 2_000)).await;
        fold(env, shared, journal).await?;
    }
    let stopped = stop.take();
    if let Some(error) = stopped {
        shared.count("stops", 1);
        return Err(error.into());
    }
    if env.random().is_multiple_of(2) {
        // An idle journal proves its last acknowledgements.
        env.sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

async fn write(env: &Env, shared: &Rc<Shared>, journal: &Journal) -> Result<(), Error> {
    let group = {
        let random = &shared.random;
        let partitions = shared.shape.partitions;
        let count = 1 + if random.one_in(4) { random.below(5) } else { 0 };
        (0..count)
            .map(|_| {
                let partition = PartitionId(u32::try_from(random.below(partitions)).unwrap_or(0));
                let len = random.below(1 + shared.shape.group_bytes / count);
                (partition, content(random, len))
            })
            .collect::<Vec<_>>()
    };
    let bytes: usize = group.iter().map(|(_, bytes)| bytes.len() + 64).sum();
    loop {
        match journal.admit(bytes, Admission::Client).await {
            Ok(()) => break,
            Err(Error::DiskFull { .. }) => {
                shared.count("disk-full", 1);
                env.sleep(Duration::from_millis(1 + env.random() % 20)).await;
            }
            Err(error) => return Err(error),
        }
    }
    let ticket = {
        let mut model = shared.model.borrow_mut();
        let run = shared.root.borrow().run;
        let items = model.next_group(&group);
        let entries: Vec<_> = items
            .iter()
            .map(|(partition, index, bytes)| EntryRef {
                partition: *partition,
                term: Term(run),
                index: *index,
                kind: Kind::Append,
                bytes,
            })
            .collect();
        let ticket = journal.append(&entries)?;
        model.appended(ticket, items);
        ticket
    };
    shared.count("groups", 1);
    if env.random().is_multiple_of(4) {
        // Somebody who does not care; a later answer covers this one as well.
        return Ok(());
    }
    journal.wait(ticket).await?;
    acknowledged(shared, journal, ticket);
    Ok(())
}

fn acknowledged(shared: &Shared, journal: &Journal, ticket: Ticket) {
    if journal.durable() < ticket {
        shared.fail("durable-is-monotone", format!("{ticket:?} was answered before"));
    }
    shared.model.borrow_mut().durable(ticket);
}

/// Plays the folds: covers what is durable, keeps some prepares pending, copies forward.
async fn fold(env: &Env, shared: &Rc<Shared>, journal: &Journal) -> Result<(), Error> {
    let bytes_max = u64::from(shared.shape.file_bytes) * shared.shape.files_max;
    if journal.failed().is_some() {
        return Ok(());
    }
    // Whoever appended may not have waited, but what is durable can be folded.
    shared.model.borrow_mut().durable(journal.durable());
    if journal.used_bytes() > bytes_max / 2 || env.random().is_multiple_of(8) {
        for partition in journal.holders() {
            if env.random().is_multiple_of(8) && !shared.shape.is_tight() {
                // A crash may leave a copy that nobody was told of.
                shared.model.borrow_mut().copied();
                match journal.copy_forward(partition, |_| true).await {
                    Ok(bytes) => shared.count("copies", u64::from(bytes > 0)),
                    Err(Error::DiskFull { .. } | Error::Stopped { .. } | Error::Closed) => {}
                    Err(error) => return Err(error),
                }
            } else {
                shared.model.borrow_mut().cover(partition, &shared.random);
                shared.model.borrow().say(partition, journal);
            }
        }
    }
    Ok(())
}

impl Shape {
    /// A journal of a few files has no room for copies beside new work.
    fn is_tight(&self) -> bool {
        self.files_max < 5
    }
}

/// Bytes that tell themselves apart.
fn content(random: &Random, len: u64) -> Rc<[u8]> {
    let range: Range<u64> = 0..len.div_ceil(8);
    let stream = random.fork();
    range.flat_map(|_| stream.bits().to_le_bytes()).collect()
}
