//! Backups, made while clients work and everything may go wrong. The last one of a seed is opened on a machine
//! of its own; or the last one that was made while a migration was half done.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join;
use tidemill::backup;
use tidemill::client::{Engine, Launched};
use tidemill::error::Error;
use tidemill::node::Options;
use tidemill::types::PartitionId;

use super::clients::Client;
use super::history::{Fate, Place};
use super::module::{self, Bank};
use super::oracles::{backed_up, folded, offline, sized, snapshot};
use super::{PARTITIONS, Shared, read};
use crate::scenario::{Failure, check};
use crate::world::World;

/// Where they lie on the disk.
pub(super) const DIR: &str = "backups";

/// A device that stalls makes it slow, but not for ever.
const BACKUP_MAX: Duration = Duration::from_mins(10);

/// A backup, and what clients knew when it was asked for.
pub(super) struct Made {
    pub(super) report: backup::Report,
    /// It holds a migration that goes on when it is opened.
    is_amid: bool,
    floors: snapshot::Floors,
    acknowledged: Vec<(Place, u64)>,
}

/// Makes a backup, if this is a seed that does, and keeps it to be opened.
pub(super) async fn make(
    world: &World,
    shared: &Rc<Shared>,
    bank: &Launched<Bank>,
) -> Result<(), Failure> {
    if !shared.shape.backs_up || shared.damaging.get() {
        return Ok(());
    }
    world.sleep(Duration::from_micros(world.random().below(20_000))).await;
    let (floors, acknowledged) = {
        let history = shared.history.borrow();
        let acknowledged = history.sent.iter().filter_map(|(&id, sent)| match sent.fate {
            Fate::Acknowledged(place) => Some((place, id)),
            Fate::Refused | Fate::Unknown => None,
        });
        (history.longest.clone(), acknowledged.collect())
    };
    let over = Cell::new(false);
    let making = async {
        let made = world.timeout(BACKUP_MAX, bank.engine().backup(DIR)).await;
        over.set(true);
        made
    };
    let (made, disturbed) = join(making, disturb(world, shared, bank, &over)).await;
    disturbed?;
    let Some(made) = made else {
        return Err(Failure::new("answers", format!("a backup took more than {BACKUP_MAX:?}")));
    };
    match made {
        Ok(report) => {
            shared.count("backups", 1);
            shared.count("backup bytes taken over", report.taken_over_bytes);
            world.note(0, || format!("{report:?}"));
            backed_up::whole(&shared.node.disk(), &report)?;
            let is_amid = backed_up::is_migrating(&shared.node.disk(), &report);
            let mut kept = shared.backup.borrow_mut();
            if is_amid || kept.as_ref().is_none_or(|kept| !kept.is_amid) {
                *kept = Some(Made { report, is_amid, floors, acknowledged });
            }
            Ok(())
        }
        Err(error) => {
            shared.tolerate(world, "a backup", &error)?;
            shared.count("backups that failed", 1);
            Ok(())
        }
    }
}

/// Writes to all partitions and folds them again and again, so that pages which are not held are written over.
async fn disturb(
    world: &World,
    shared: &Rc<Shared>,
    bank: &Launched<Bank>,
    over: &Cell<bool>,
) -> Result<(), Failure> {
    let client = Client {
        world: world.clone(),
        shared: Rc::clone(shared),
        bank: bank.clone(),
        name: 998,
        operations: 0,
    };
    while !over.get() {
        for partition in (0..PARTITIONS).map(PartitionId) {
            client.touch(partition).await?;
        }
        // Whatever it answers: a full disk and a stopped shard are part of the game.
        drop(bank.engine().fold().await);
        world.sleep(Duration::from_micros(world.random().below(1_000))).await;
    }
    Ok(())
}

/// Opens a backup as an engine of its own, and judges what it holds.
pub(super) async fn open(world: &World, shared: &Shared, made: Made) -> Result<(), Failure> {
    let failed = |what: &'static str| {
        move |error: Error| Failure::new(backed_up::NAME, format!("{what} a backup: {error}"))
    };
    let node = world.node();
    for (path, bytes) in backed_up::files(&shared.node.disk(), &made.report) {
        node.disk().put(&path, &bytes);
    }
    // Its topologies go on at once, so the moment of the backup is an older one soon.
    let options = Options {
        shards: 1 + u16::try_from(world.random().below(3)).expect("below 3"),
        history: Duration::from_hours(1),
        history_bytes_max: Some(super::shape::HISTORY_ROOMY),
        ..shared.shape.options.clone()
    };
    let platform = Arc::new(node.platform());
    let engine = Engine::open_on(platform, options, |_| {}).await.map_err(failed("opening"))?;
    let torn = &engine.recovery().torn;
    check(backed_up::NAME, torn.is_empty(), || format!("a backup has torn ends: {torn:?}"))?;
    // Whatever was launched when it was made: what it has not migrated yet it migrates now.
    let launching = engine.launch("bank", |m| module::bank(m, module::Era::Migrated));
    let bank = launching.await.map_err(failed("launching"))?;
    let running = bank.migrations().await.map_err(failed("migrating"))?;
    let amid = running.iter().any(|it| !it.left.is_empty());
    shared.count("backups opened amid a migration", u64::from(amid));
    let read = read::backed_up(&bank, &made.report, shared.shape.accounts).await;
    let (then, sizes) = read.map_err(failed("reading"))?;
    sized::judge(&sizes)?;
    {
        let mut history = shared.history.borrow_mut();
        snapshot::judge(&mut history, &made.floors, &then, None)?;
        backed_up::chains(&mut history, &made.floors, &then)?;
    }
    for topology in module::TOPOLOGIES {
        bank.caught_up(topology).await.map_err(failed("catching up in"))?;
    }
    let depots = read::depots(&bank).await.map_err(failed("reading depots of"))?;
    backed_up::records(&shared.history.borrow(), &made.acknowledged, &depots)?;
    while !bank.migrations().await.map_err(failed("migrating"))?.is_empty() {
        world.sleep(Duration::from_millis(1)).await;
    }
    let read = read::state(&bank, shared.shape.accounts).await;
    let (state, sizes) = read.map_err(failed("reading"))?;
    sized::judge(&sizes)?;
    let letters = read::dead_letters(&bank).await.map_err(failed("reading dead letters of"))?;
    folded::judge(&depots, &state, &letters)?;
    drop(bank);
    engine.close().await.map_err(failed("closing"))?;
    offline::judge(&node.disk(), true)?;
    shared.count("backups opened", 1);
    Ok(())
}
