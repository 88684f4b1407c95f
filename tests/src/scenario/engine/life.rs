//! One life of the engine: the directory is opened, checked, used while things go wrong, and left by a crash
//! or cleanly.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{join_all, join3};
use tidemill::client::{Engine, Launched};
use tidemill::error::Error;
use tidemill::node::Options;
use tidemill::types::ShardId;

use super::clients::Client;
use super::contents::{self, CRASHES_AMID, OTHER_SHARDS};
use super::module::{self, Bank, Era};
use super::oracles::{acknowledged, applied, backed_up, explained, offline, once, unchanged};
use super::{Shared, backups, read, recomputes, trouble};
use crate::disk::Faults;
use crate::node::Crash;
use crate::scenario::{Failure, check};
use crate::world::World;

/// No call of a client hangs longer than this, whatever goes wrong.
const LIFE_MAX: Duration = Duration::from_mins(10);

/// The same while stored data is damaged: nobody reopens then what has stopped.
const DAMAGED_LIFE_MAX: Duration = Duration::from_secs(20);

/// A reopening ends within this, whatever happens to the other shards meanwhile.
const REOPENING_MAX: Duration = Duration::from_mins(1);

/// So often a launch is repeated while shards stop and are reopened.
const LAUNCHES_MAX: u64 = 1_000;

/// How a life went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Left {
    Open,
    Closed,
}

/// A life in which everything may go wrong.
pub(super) async fn troubled(
    world: &World,
    shared: &Rc<Shared>,
    shards: u16,
) -> Result<(), Failure> {
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
        world.spawn("room", trouble::make_room(world.clone(), node.clone(), Rc::clone(&alive)));
    }
    let lived = live(world, shared, shards, &alive).await;
    alive.set(false);
    node.crash_never();
    node.disk().set_quota(None);
    node.disk().set_faults(Faults::default());
    let left = lived?;
    shared.closed.set(left == Left::Closed);
    contents::note_reuse(shared);
    if left == Left::Open && node.crashes() == crashes {
        node.crash(if world.random().one_in(4) { Crash::Kill } else { Crash::Power });
    }
    shared.verdict()?;
    shared.count("files verified", offline::judge(&node.disk(), left == Left::Closed)?);
    backed_up::directories(&node.disk())
}

/// A life in which stored data is damaged, and nothing else happens.
pub(super) async fn damaged(
    world: &World,
    shared: &Rc<Shared>,
    shards: u16,
    faults: Faults,
) -> Result<(), Failure> {
    shared.node.disk().set_faults(faults);
    let alive = Rc::new(Cell::new(false));
    live(world, shared, shards, &alive).await?;
    shared.verdict()?;
    shared.node.crash(Crash::Power);
    shared.node.disk().set_faults(Faults::default());
    offline::judge(&shared.node.disk(), false)?;
    Ok(())
}

async fn live(
    world: &World,
    shared: &Rc<Shared>,
    shards: u16,
    alive: &trouble::Alive,
) -> Result<Left, Failure> {
    let crashes = shared.node.crashes();
    let opened = match open(shared, shards).await {
        Ok(opened) => opened,
        Err(error) => {
            shared.tolerate(world, "opening", &error)?;
            shared.count("failed openings", 1);
            return Ok(Left::Open);
        }
    };
    // Sometimes shards stop while the module is launched.
    let early = alive.get() && world.random().one_in(3);
    if early {
        shared.count("launched in trouble", 1);
        start_trouble(world, shared, &opened, shards, alive);
    }
    let again = early.then_some(crashes);
    let Some(bank) = launch(world, shared, &opened, again).await? else { return Ok(Left::Open) };
    if note_migrations(shared, &bank).await && alive.get() && world.random().one_in(2) {
        trouble::plan_crash_soon(world, &shared.node);
    }
    let closed = shared.closed.replace(false);
    if explained::torn(&shared.node.disk(), &opened.recovery().torn, closed)? {
        shared.given_up.set(true);
        return Ok(Left::Open);
    }
    look(world, shared, &bank).await?;
    if !early {
        start_trouble(world, shared, &opened, shards, alive);
    }
    let (worked, backed_up, recomputed) = join3(
        work(world, shared, &bank, 40),
        backups::make(world, shared, &bank),
        recomputes::make(world, shared, &bank),
    )
    .await;
    worked?;
    backed_up?;
    recomputed?;
    note_progress(shared, &bank).await;
    if alive.get() && world.random().one_in(3) {
        return close(world, shared, opened, alive).await;
    }
    Ok(Left::Open)
}

/// Launches the bank; again and again, if shards are down that somebody reopens, until the process crashes,
/// which had crashed so often when it was opened.
async fn launch(
    world: &World,
    shared: &Rc<Shared>,
    engine: &Engine,
    again: Option<u64>,
) -> Result<Option<Launched<Bank>>, Failure> {
    for tries in 0..LAUNCHES_MAX {
        let era = shared.era.get();
        let launching = engine.launch("bank", move |m| module::bank(m, era));
        let launched = world.timeout(LIFE_MAX, launching).await;
        let Some(launched) = launched else {
            return Err(Failure::new("answers", format!("a launch took more than {LIFE_MAX:?}")));
        };
        match launched {
            Ok(bank) => return Ok(Some(bank)),
            Err(error) => shared.tolerate(world, "launching", &error)?,
        }
        if again != Some(shared.node.crashes()) {
            return Ok(None);
        }
        shared.count("repeated launches", 1);
        // A shard that stopped can hold an operation that stalls for seconds, and is not reopened before.
        let pause = if tries < 100 { 5 } else { 50 };
        world.sleep(Duration::from_millis(pause)).await;
    }
    Err(Failure::new("answers", format!("{LAUNCHES_MAX} launches did not succeed")))
}

/// Starts what goes wrong while an engine runs, and those who reopen what stopped.
fn start_trouble(
    world: &World,
    shared: &Rc<Shared>,
    engine: &Engine,
    shards: u16,
    alive: &trouble::Alive,
) {
    if !alive.get() {
        return;
    }
    trouble::start(world, &shared.node, shards, alive);
    let all: Vec<ShardId> = (0..shards).map(ShardId).collect();
    // One task for each, or one that reopens them one after the other, as services do.
    let each = if world.random().one_in(2) { 1 } else { all.len() };
    for some in all.chunks(each) {
        let (world, shared, engine) = (world.clone(), Rc::clone(shared), engine.clone());
        let (some, alive) = (some.to_vec(), Rc::clone(alive));
        world.clone().spawn("reopen", reopen_stopped(world, shared, engine, some, alive));
    }
}

/// Closes the engine while the device is in a good mood; a crash may come all the same.
async fn close(
    world: &World,
    shared: &Rc<Shared>,
    engine: Engine,
    alive: &trouble::Alive,
) -> Result<Left, Failure> {
    alive.set(false);
    let disk = shared.node.disk();
    disk.set_quota(None);
    disk.set_faults(trouble::benign());
    let closed = world.timeout(LIFE_MAX, engine.close()).await;
    let closed = closed
        .ok_or_else(|| Failure::new("answers", format!("closing took longer than {LIFE_MAX:?}")))?;
    match closed {
        Ok(()) => {
            shared.count("clean closes", 1);
            Ok(Left::Closed)
        }
        Err(error) => {
            shared.tolerate(world, "closing", &error)?;
            Ok(Left::Open)
        }
    }
}

/// Opens the directory with so many shards.
pub(super) async fn open(shared: &Shared, shards: u16) -> Result<Engine, Error> {
    let options = Options { shards, ..shared.shape.options.clone() };
    let engine = Engine::open_on(Arc::new(shared.node.platform()), options, |_| {}).await?;
    shared.count("openings", 1);
    shared.count(OPENED_BY[usize::from(shards) - 1], 1);
    shared.shards_max.set(shared.shards_max.get().max(shards));
    if shared.shards_last.replace(Some(shards)).is_some_and(|last| last != shards) {
        shared.count(OTHER_SHARDS, 1);
    }
    Ok(engine)
}

const OPENED_BY: [&str; 4] =
    ["openings by 1 shard", "openings by 2 shards", "openings by 3 shards", "openings by 4 shards"];

/// Clients work until they are done; after a crash each call of theirs must fail.
pub(super) async fn work(
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
    check("answers", done.is_some(), || {
        let calls = shared.calls.borrow();
        format!("calls were not answered within {LIFE_MAX:?}: {calls:?}")
    })
}

/// What was there before must be there; nobody else reads meanwhile.
pub(super) async fn look(
    world: &World,
    shared: &Rc<Shared>,
    bank: &Launched<Bank>,
) -> Result<(), Failure> {
    let found = async {
        let depots = read::depots(bank).await?;
        // Others write meanwhile, and this is not read in one moment: sizes may differ from elements.
        let (state, _) = read::state(bank, shared.shape.accounts).await?;
        Ok::<_, Error>((depots, state))
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

/// Notes how much is left to migrate after a launch, and whether the life before left a migration half done.
/// Whether one has just begun.
pub(super) async fn note_migrations(shared: &Rc<Shared>, bank: &Launched<Bank>) -> bool {
    let Ok(running) = bank.migrations().await else { return false };
    if shared.era.get() == Era::First {
        return false;
    }
    let left: u64 = running.iter().flat_map(|it| it.left.values()).sum();
    let before = shared.left_to_migrate.replace(Some(left));
    // Some was moved since the first launch that migrates, and not all of it.
    if before.is_some_and(|before| 0 < left && left < before) {
        let name = if shared.closed.get() { "clean closes amid a migration" } else { CRASHES_AMID };
        shared.count(name, 1);
    }
    before.is_none() && 0 < left
}

/// Counts what an engine did before it goes.
async fn note_progress(shared: &Rc<Shared>, bank: &Launched<Bank>) {
    if let Ok(counters) = bank.engine().counters().await {
        shared.count("automatic folds", counters.iter().map(|it| it.folds).sum());
        shared.count("aborts", counters.iter().map(|it| it.aborts).sum());
        shared.count("rows spilled", counters.iter().map(|it| it.rows_spilled).sum());
    }
}
