//! The whole engine: a bank on two or more shards through several lives, with crashes, refusing devices, full
//! disks, killed shards, and other numbers of shards.
//!
//! Each life opens the directory, checks that nothing is gone, lets clients work while things go wrong, and
//! ends in a crash, or cleanly. The last one has no faults: everything must heal and add up. What a
//! seed must contain is checked too, so that a seed which tests little is a failure.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use tidemill::client::{Engine, Launched};
use tidemill::codec::{Placement, encode_key};
use tidemill::depot;
use tidemill::env::LocalFuture;
use tidemill::error::Error;
use tidemill::journal::{JournalId, parse_slot};
use tidemill::node::Options;
use tidemill::types::{PartitionId, ShardId};

use super::{Failure, Outcome, Scenario, check};
use crate::disk::Faults;
use crate::node::{Crash, Node};
use crate::random::Random;
use crate::world::World;

mod clients;
mod history;
mod module;
mod oracles;
mod read;
mod replay;
mod trouble;

use clients::Client;
use history::History;
use module::Bank;
use oracles::explained::{self, Trouble};
use oracles::{acknowledged, applied, folded, offline, once, unchanged};

/// Fixed, since keys are picked by where they live.
const PARTITIONS: u32 = 8;

/// A healthy engine has caught up within this, whatever happened before.
const HEALING_MAX: Duration = Duration::from_mins(1);

/// No call of a client hangs longer than this, whatever goes wrong.
const LIFE_MAX: Duration = Duration::from_mins(10);

/// The same while stored data is damaged: nobody reopens then what has stopped.
const DAMAGED_LIFE_MAX: Duration = Duration::from_secs(20);

/// A reopening ends within this, whatever happens to the other shards meanwhile.
const REOPENING_MAX: Duration = Duration::from_mins(1);

/// So often a launch is repeated while shards stop and are reopened.
const LAUNCHES_MAX: u64 = 1_000;

/// What every seed must contain.
const APPENDS_MIN: u64 = 300;
const MICROBATCHES_MIN: u64 = 30;
const CRASHES_MIN: u64 = 3;
const IO_FAULTS_MIN: u64 = 20;
const FOLDS_MIN: u64 = 2;

/// See the module.
#[derive(Debug)]
pub(super) struct Engines;

impl Scenario for Engines {
    fn name(&self) -> &'static str {
        "engine"
    }

    fn run(&self, world: World) -> LocalFuture<'static, Result<Outcome, Failure>> {
        Box::pin(run(world))
    }
}

/// The sizes of one seed.
struct Shape {
    accounts: u64,
    bulk_bytes: usize,
    /// Keys that live where the coordinator of the audit lives.
    keys_at_audit: Vec<u64>,
    clients: u64,
    /// This seed opens with other numbers of shards.
    deals: bool,
    options: Options,
}

/// What outlives the process.
struct Shared {
    shape: Shape,
    node: Node,
    history: RefCell<History>,
    outcome: RefCell<Outcome>,
    failure: RefCell<Option<Failure>>,
    /// Nothing goes wrong any more.
    healthy: Cell<bool>,
    /// Bits of stored data flip.
    damaging: Cell<bool>,
    /// Damage was found and named; nothing more can be asked of one replica.
    given_up: Cell<bool>,
}

impl Shape {
    fn draw(random: &Random) -> Self {
        let lives_at_audit = |key: &u64| {
            Placement::of(&encode_key(key)).partition(PARTITIONS)
                == Placement::of(module::AUDIT.as_bytes()).partition(PARTITIONS)
        };
        let file_bytes: u32 = *random.pick(&[64 << 10, 128 << 10]);
        let bulk_bytes_min = 8 << 10;
        let accounts = random.within(12..40);
        // Drawn with the accounts, so that seeds in which nothing waits for credit are what they were.
        let hop_bytes_max =
            [1 << 20, 1, 300, 4 << 10][usize::try_from(accounts % 4).expect("small")];
        Self {
            accounts,
            bulk_bytes: bulk_bytes_min,
            keys_at_audit: (0..64).filter(lives_at_audit).collect(),
            clients: random.within(2..6),
            deals: random.one_in(2),
            options: Options {
                shards: 2,
                partitions: Some(PARTITIONS),
                memory_bytes: *random.pick(&[1 << 20, 4 << 20]),
                journal_bytes_max: u64::from(file_bytes) * random.within(5..9),
                journal_file_bytes: file_bytes,
                microbatch_records_max: *random.pick(&[2, 8, 64]),
                microbatch_bytes_max: 1 << 20,
                hop_bytes_max,
                depot: depot::Options {
                    allocation_bytes_min: 16 << 10,
                    allocation_bytes_max: 64 << 10,
                    segment_bytes_max: *random.pick(&[48 << 10, 256 << 10]),
                    block_bytes: *random.pick(&[4 << 10, 16 << 10]),
                    tail_bytes_max: *random.pick(&[2 << 10, 32 << 10]),
                    bulk_bytes_min,
                    dedup_clients_max: 16,
                    dedup_sequences_max: 16,
                },
            },
        }
    }
}

impl Shared {
    fn count(&self, name: &'static str, count: u64) {
        self.outcome.borrow_mut().add(name, count);
    }

    fn counted(&self, name: &'static str) -> u64 {
        self.outcome.borrow().counters.get(name).copied().unwrap_or_default()
    }

    fn fail(&self, failure: Failure) {
        self.failure.borrow_mut().get_or_insert(failure);
    }

    /// The first failure that anybody saw.
    fn verdict(&self) -> Result<(), Failure> {
        self.failure.borrow().clone().map_or(Ok(()), Err)
    }

    fn tolerate(&self, world: &World, what: &str, error: &Error) -> Result<(), Failure> {
        world.note(0, || format!("{what}: {error}"));
        self.count("errors", 1);
        let trouble = Trouble { any: !self.healthy.get() };
        if explained::judge(&self.node.disk(), trouble, what, error)? {
            self.given_up.set(true);
        }
        Ok(())
    }
}

async fn run(world: World) -> Result<Outcome, Failure> {
    module::forget_failures();
    let shared = Rc::new(Shared {
        shape: Shape::draw(world.random()),
        node: world.node(),
        history: RefCell::default(),
        outcome: RefCell::default(),
        failure: RefCell::default(),
        healthy: Cell::new(false),
        damaging: Cell::new(false),
        given_up: Cell::new(false),
    });
    let node = &shared.node;
    let mut shards = 2;
    let mut lives = 0;
    while lives < LIVES_MIN || !is_enough(&world, &shared) {
        check("contents", lives < LIVES_MAX, || {
            format!("{lives} lives were not enough: {:?}", shared.outcome.borrow().counters)
        })?;
        lives += 1;
        one_life(&world, &shared, shards).await?;
        if world.random().one_in(2) {
            shared.count("files verified", offline::judge(&node.disk())?);
        }
        if shared.shape.deals && world.random().one_in(2) {
            shards = 2 + u16::try_from(world.random().below(2)).expect("small");
            shared.count("other shards", 1);
        }
    }
    heal(&world, &shared, shards).await?;
    if world.random().one_in(3) {
        shared.count("damaged", 1);
        damage(&world, &shared, shards).await?;
    }
    let mut outcome = shared.outcome.take();
    outcome.add("lives", lives);
    outcome.add("crashes", node.crashes());
    Ok(outcome)
}

/// Lives with trouble in a seed; more if they contained too little, up to a bound.
const LIVES_MIN: u64 = 3;
const LIVES_MAX: u64 = 40;

/// Whether the lives so far contained what a seed must contain.
fn is_enough(world: &World, shared: &Shared) -> bool {
    shared.node.crashes() >= CRASHES_MIN
        && shared.counted("appends") >= APPENDS_MIN
        && world.counts().io_faults() >= IO_FAULTS_MIN
}

/// Rounds of work of the last life.
const ROUNDS_MAX: u64 = 60;

/// Whether enough microbatches ran and a journal file was used again.
fn is_rich(shared: &Shared) -> bool {
    shared.history.borrow().microbatches() >= MICROBATCHES_MIN
        && (shared.counted("reused journals") > 0 || note_reuse(shared))
}

/// Whether a journal has written more files than it has, which it counts.
fn note_reuse(shared: &Shared) -> bool {
    let disk = shared.node.disk();
    let mut journals: BTreeMap<JournalId, (u64, u64)> = BTreeMap::new();
    for path in disk.paths() {
        let Some((id, _)) = path.strip_prefix("journal/").and_then(parse_slot) else { continue };
        let (files, number_max) = journals.entry(id).or_default();
        *files += 1;
        // The number of the file stands in its first frame; see the journal's format.
        let head = disk.contents(&path).unwrap_or_default();
        if let Some(number) = head.get(48..56).filter(|_| head.starts_with(b"TMJF")) {
            let number = u64::from_le_bytes(number.try_into().expect("8 bytes"));
            *number_max = number.max(*number_max);
        }
    }
    let reused = journals.values().filter(|(files, number_max)| number_max > files).count() as u64;
    shared.count("reused journals", reused);
    reused > 0
}

/// The directory is opened, checked, used, and left by a crash or cleanly.
async fn one_life(world: &World, shared: &Rc<Shared>, shards: u16) -> Result<(), Failure> {
    let node = &shared.node;
    let crashes = node.crashes();
    let alive = Rc::new(Cell::new(true));
    node.disk().set_faults(if world.random().one_in(4) {
        Faults { read_error: 1_000, write_error: 1_500, sync_error: 1_500, ..trouble::benign() }
    } else {
        trouble::benign()
    });
    trouble::plan_crash(world, node);
    if world.random().one_in(8) {
        // Hardly any room while it opens, which matters where files are made or partitions folded.
        let rest = world.random().below(4 << 20);
        node.disk().set_quota(Some(node.disk().used_bytes() + rest));
    }
    let lived = live(world, shared, shards, &alive).await;
    alive.set(false);
    node.crash_never();
    node.disk().set_quota(None);
    node.disk().set_faults(Faults::default());
    lived?;
    note_reuse(shared);
    if node.crashes() == crashes {
        node.crash(if world.random().one_in(4) { Crash::Kill } else { Crash::Power });
    }
    shared.verdict()
}

async fn live(
    world: &World,
    shared: &Rc<Shared>,
    shards: u16,
    alive: &trouble::Alive,
) -> Result<(), Failure> {
    let opened = match open(shared, shards).await {
        Ok(opened) => opened,
        Err(error) => {
            shared.tolerate(world, "opening", &error)?;
            shared.count("failed openings", 1);
            return Ok(());
        }
    };
    // Sometimes shards stop while the module is launched.
    let early = alive.get() && world.random().one_in(3);
    if early {
        shared.count("launched in trouble", 1);
        trouble::start(world, &shared.node, shards, alive);
        start_reopening(world, shared, &opened, shards, alive);
    }
    let Some(bank) = launch(world, shared, &opened, early).await? else { return Ok(()) };
    shared.count("openings", 1);
    if explained::torn(&shared.node.disk(), &opened.recovery().torn) {
        shared.given_up.set(true);
        return Ok(());
    }
    look(world, shared, &bank).await?;
    if !early {
        trouble::start(world, &shared.node, shards, alive);
        start_reopening(world, shared, &opened, shards, alive);
    }
    work(world, shared, &bank, 40).await?;
    note_progress(shared, &bank).await;
    Ok(())
}

/// Launches the bank; again and again, if shards are down that somebody reopens.
async fn launch(
    world: &World,
    shared: &Rc<Shared>,
    engine: &Engine,
    again: bool,
) -> Result<Option<Launched<Bank>>, Failure> {
    let crashes = shared.node.crashes();
    for _ in 0..LAUNCHES_MAX {
        let launched = world.timeout(LIFE_MAX, engine.launch("bank", module::bank)).await;
        let Some(launched) = launched else {
            return Err(Failure::new("answers", format!("a launch took more than {LIFE_MAX:?}")));
        };
        match launched {
            Ok(bank) => return Ok(Some(bank)),
            Err(error) => shared.tolerate(world, "launching", &error)?,
        }
        if !again || shared.node.crashes() != crashes {
            return Ok(None);
        }
        shared.count("repeated launches", 1);
        world.sleep(Duration::from_millis(5)).await;
    }
    Err(Failure::new("answers", format!("{LAUNCHES_MAX} launches did not succeed")))
}

fn start_reopening(
    world: &World,
    shared: &Rc<Shared>,
    engine: &Engine,
    shards: u16,
    alive: &trouble::Alive,
) {
    let all: Vec<ShardId> = (0..shards).map(ShardId).collect();
    // One task for each, or one that reopens them one after the other, as services do.
    let each = if world.random().one_in(2) { 1 } else { all.len() };
    for some in all.chunks(each) {
        let (world, shared, engine) = (world.clone(), Rc::clone(shared), engine.clone());
        let (some, alive) = (some.to_vec(), Rc::clone(alive));
        world.clone().spawn("reopen", reopen_stopped(world, shared, engine, some, alive));
    }
}

async fn open(shared: &Rc<Shared>, shards: u16) -> Result<Engine, Error> {
    let options = Options { shards, ..shared.shape.options.clone() };
    Engine::open_on(Arc::new(shared.node.platform()), options, |_| {}).await
}

/// Clients work until they are done; after a crash each call of theirs must fail.
async fn work(
    world: &World,
    shared: &Rc<Shared>,
    bank: &Launched<Bank>,
    operations: u64,
) -> Result<(), Failure> {
    let mut working = Vec::new();
    for number in 0..shared.shape.clients {
        let client = Client {
            world: world.clone(),
            shared: Rc::clone(shared),
            bank: bank.clone(),
            name: u128::from(number) + 1,
            operations: operations / shared.shape.clients + 5,
        };
        let (done, waiting) = futures_channel::oneshot::channel();
        world.spawn("client", async move {
            client.run().await;
            // Nobody waits if the life was given up.
            let _unheard = done.send(());
        });
        working.push(waiting);
    }
    let most = if shared.damaging.get() { DAMAGED_LIFE_MAX } else { LIFE_MAX };
    let done = world.timeout(most, join_all(working)).await;
    shared.verdict()?;
    if shared.damaging.get() {
        // What a shard that stays down owes is not answered before the engine ends.
        return Ok(());
    }
    check("answers", done.is_some(), || format!("a call was not answered within {LIFE_MAX:?}"))
}

/// What was there before must be there; nobody else reads meanwhile.
async fn look(world: &World, shared: &Rc<Shared>, bank: &Launched<Bank>) -> Result<(), Failure> {
    let found = async {
        let depots = read::depots(bank).await?;
        Ok::<_, Error>((depots, read::state(bank, shared.shape.accounts).await?))
    };
    match found.await {
        Ok((depots, state)) => {
            let mut history = shared.history.borrow_mut();
            acknowledged::judge(&history, &depots)?;
            once::judge(&history, &depots)?;
            unchanged::depots(&mut history, &depots)?;
            unchanged::state(&mut history, &state)?;
            applied::judge(&history, &state)
        }
        Err(error) => shared.tolerate(world, "reading everything", &error),
    }
}

/// Reopens shards whenever they stopped, one after the other.
async fn reopen_stopped(
    world: World,
    shared: Rc<Shared>,
    engine: Engine,
    shards: Vec<ShardId>,
    alive: trouble::Alive,
) {
    while alive.get() {
        world.sleep(Duration::from_millis(5)).await;
        for &shard in shards.iter().filter(|&&shard| engine.stopped(shard).is_some()) {
            if !alive.get() {
                return;
            }
            world.note(u64::from(shard.0), || format!("reopening {shard}"));
            let reopened = world.timeout(REOPENING_MAX, engine.reopen_shard(shard)).await;
            let Some(reopened) = reopened else {
                let what = format!("shard {shard} was not reopened within {REOPENING_MAX:?}");
                return shared.fail(Failure::new("answers", what));
            };
            match reopened {
                Ok(()) => shared.count("reopened shards", 1),
                Err(_) if !alive.get() => return,
                Err(error) => {
                    if let Err(failure) = shared.tolerate(&world, "reopening a shard", &error) {
                        shared.fail(failure);
                    }
                }
            }
        }
    }
}

/// Counts what an engine did before it goes.
async fn note_progress(shared: &Rc<Shared>, bank: &Launched<Bank>) {
    if let Ok(counters) = bank.engine().counters().await {
        shared.count("automatic folds", counters.iter().map(|it| it.folds).sum());
        shared.count("aborts", counters.iter().map(|it| it.aborts).sum());
        shared.count("rows spilled", counters.iter().map(|it| it.rows_spilled).sum());
    }
}

/// Nothing goes wrong any more: everything catches up, adds up, and closes.
async fn heal(world: &World, shared: &Rc<Shared>, shards: u16) -> Result<(), Failure> {
    shared.healthy.set(true);
    let healed = world.timeout(HEALING_MAX, healthy_life(world, shared, shards)).await;
    shared.verdict()?;
    healed.unwrap_or_else(|| {
        Err(Failure::new("heals", format!("without faults it took more than {HEALING_MAX:?}")))
    })
}

async fn healthy_life(world: &World, shared: &Rc<Shared>, shards: u16) -> Result<(), Failure> {
    let failed = |what: &'static str| {
        move |error: Error| Failure::new("heals", format!("{what} without faults: {error}"))
    };
    let engine = open(shared, shards).await.map_err(failed("opening"))?;
    let bank = engine.launch("bank", module::bank).await.map_err(failed("launching"))?;
    look(world, shared, &bank).await?;
    let mut rounds = 0;
    while rounds < FOLDS_MIN || !is_rich(shared) {
        check("contents", rounds < ROUNDS_MAX, || {
            format!("{rounds} rounds were not enough: {:?}", shared.outcome.borrow().counters)
        })?;
        rounds += 1;
        touch_all(world, shared, &bank).await?;
        work(world, shared, &bank, 20).await?;
        for topology in module::TOPOLOGIES {
            bank.caught_up(topology).await.map_err(failed("catching up"))?;
        }
        engine.fold().await.map_err(failed("folding"))?;
    }
    for topology in module::TOPOLOGIES {
        bank.caught_up(topology).await.map_err(failed("catching up"))?;
    }
    let depots = read::depots(&bank).await.map_err(failed("reading depots"))?;
    let state = read::state(&bank, shared.shape.accounts).await.map_err(failed("reading"))?;
    let letters = read::dead_letters(&bank).await.map_err(failed("reading dead letters"))?;
    look(world, shared, &bank).await?;
    folded::judge(&depots, &state, &letters)?;
    let counters = engine.counters().await.map_err(failed("counting"))?;
    let folds = counters.iter().map(|it| it.folds_least).min().unwrap_or_default();
    let microbatches = shared.history.borrow().microbatches();
    shared.count("microbatches", microbatches);
    shared.count("rows spilled", counters.iter().map(|it| it.rows_spilled).sum());
    check("contents", folds >= FOLDS_MIN, || format!("some partition was folded {folds} times"))?;
    drop(bank);
    engine.close().await.map_err(failed("closing"))?;
    shared.count("files verified", offline::judge(&shared.node.disk())?);
    Ok(())
}

/// Bits of the partitions' files flip: what is read is right, or the error names the damage.
async fn damage(world: &World, shared: &Rc<Shared>, shards: u16) -> Result<(), Failure> {
    shared.healthy.set(false);
    shared.damaging.set(true);
    for _ in 0..2 {
        let node = &shared.node;
        let faults = Faults { bit_flip: 8_000, damage_only: "p/", ..trouble::benign() };
        node.disk().set_faults(faults);
        let alive = Rc::new(Cell::new(false));
        live(world, shared, shards, &alive).await?;
        shared.verdict()?;
        node.crash(Crash::Power);
        if shared.given_up.get() {
            break;
        }
    }
    Ok(())
}

/// Appends something to every partition.
async fn touch_all(
    world: &World,
    shared: &Rc<Shared>,
    bank: &Launched<Bank>,
) -> Result<(), Failure> {
    let client = Client {
        world: world.clone(),
        shared: Rc::clone(shared),
        bank: bank.clone(),
        name: 999,
        operations: 0,
    };
    for partition in (0..PARTITIONS).map(PartitionId) {
        client.touch(partition).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn audits_commit_alone() {
        assert!(Shape::draw(&Random::new(1)).keys_at_audit.len() > 2);
    }
}
