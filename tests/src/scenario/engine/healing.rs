//! The last lives of a seed: one without faults, in which everything must heal and add up, and sometimes more
//! in which stored data is damaged.

use std::rc::Rc;
use std::time::Duration;

use futures_util::future::join3;
use tidemill::client::Launched;
use tidemill::error::Error;
use tidemill::types::PartitionId;

use super::clients::Client;
use super::module::{self, Bank};
use super::oracles::{backed_up, explained, folded, offline, sized};
use super::{PARTITIONS, Shared, backups, contents, life, read, recomputes, trouble};
use crate::disk::Faults;
use crate::scenario::Failure;
use crate::world::World;

const NAME: &str = "heals";

/// A healthy engine has caught up within this, whatever happened before.
const HEALING_MAX: Duration = Duration::from_mins(1);

/// Nothing goes wrong any more: everything catches up, adds up, and closes.
pub(super) async fn heal(world: &World, shared: &Rc<Shared>, shards: u16) -> Result<(), Failure> {
    shared.healthy.set(true);
    let healed = world.timeout(HEALING_MAX, Box::pin(healthy_life(world, shared, shards))).await;
    shared.verdict()?;
    healed.unwrap_or_else(|| {
        Err(Failure::new(NAME, format!("without faults it took more than {HEALING_MAX:?}")))
    })
}

async fn healthy_life(world: &World, shared: &Rc<Shared>, shards: u16) -> Result<(), Failure> {
    let failed = |what: &'static str| {
        move |error: Error| Failure::new(NAME, format!("{what} without faults: {error}"))
    };
    let engine = life::open(shared, shards).await.map_err(failed("opening"))?;
    let launching = engine.launch("bank", |m| module::bank(m, module::Era::Migrated));
    let bank = launching.await.map_err(failed("launching"))?;
    life::note_migrations(shared, &bank).await;
    explained::torn(&shared.node.disk(), &engine.recovery().torn, shared.closed.get())?;
    life::look(world, shared, &bank).await?;
    let mut rounds = 0;
    while !contents::worked_enough(shared, rounds)? {
        rounds += 1;
        touch_all(world, shared, &bank).await?;
        let (worked, backed_up, recomputed) = join3(
            life::work(world, shared, &bank, 20),
            backups::make(world, shared, &bank),
            recomputes::make(world, shared, &bank),
        )
        .await;
        worked?;
        recomputed?;
        backed_up?;
        for topology in module::TOPOLOGIES {
            bank.caught_up(topology).await.map_err(failed("catching up"))?;
        }
        engine.fold().await.map_err(failed("folding"))?;
    }
    for topology in module::TOPOLOGIES {
        bank.caught_up(topology).await.map_err(failed("catching up"))?;
    }
    while !bank.migrations().await.map_err(failed("migrating"))?.is_empty() {
        world.sleep(Duration::from_millis(1)).await;
    }
    let depots = read::depots(&bank).await.map_err(failed("reading depots"))?;
    let read = read::state(&bank, shared.shape.accounts).await;
    let (state, sizes) = read.map_err(failed("reading"))?;
    let letters = read::dead_letters(&bank).await.map_err(failed("reading dead letters"))?;
    life::look(world, shared, &bank).await?;
    folded::judge(&depots, &state, &letters)?;
    sized::judge(&sizes)?;
    let counters = engine.counters().await.map_err(failed("counting"))?;
    let folds_least = counters.iter().map(|it| it.folds_least).min().unwrap_or_default();
    shared.count("microbatches", shared.history.borrow().microbatches());
    shared.count("rows spilled", counters.iter().map(|it| it.rows_spilled).sum());
    contents::judge(world, shared, folds_least)?;
    let backup = shared.backup.take();
    if let Some(backup) = backup {
        backups::open(world, shared, backup).await?;
    }
    drop(bank);
    engine.close().await.map_err(failed("closing"))?;
    shared.count("files verified", offline::judge(&shared.node.disk(), true)?);
    backed_up::directories(&shared.node.disk())
}

/// Stored bytes of the partitions' files change silently: what is read is right, or the error names the
/// damage.
pub(super) async fn damage(world: &World, shared: &Rc<Shared>, shards: u16) -> Result<(), Failure> {
    shared.healthy.set(false);
    shared.damaging.set(true);
    let benign = Faults { damage_only: "p/", ..trouble::benign() };
    for _ in 0..2 {
        let faults = match world.random().below(4) {
            0 => Faults { misdirected_write: 6_000, ..benign.clone() },
            1 => Faults { lost_write: 6_000, ..benign.clone() },
            _ => Faults { bit_flip: 8_000, ..benign.clone() },
        };
        life::damaged(world, shared, shards, faults).await?;
        if shared.given_up.get() {
            shared.count("damage that was named", 1);
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
