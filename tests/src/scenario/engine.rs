//! The whole engine: a bank on one to four shards through several lives, with crashes, refusing devices, full
//! disks, killed shards, and other numbers of shards.
//!
//! Each life opens the directory, checks that nothing is gone, lets clients work while things go wrong, and
//! ends in a crash, or cleanly; then its files are verified as they lie there. The last one has no faults:
//! everything must heal and add up. In some seeds more lives follow in which stored data is damaged. What a
//! seed must contain is checked too, so that a seed which tests little is a failure.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

use tidemill::env::LocalFuture;
use tidemill::error::Error;

use super::{Failure, Outcome, Scenario};
use crate::node::Node;
use crate::world::World;

mod backups;
mod clients;
mod contents;
mod followers;
mod healing;
mod history;
mod life;
mod module;
mod oracles;
mod read;
mod recomputes;
mod replay;
mod shape;
mod trouble;

use history::History;
use module::Era;
use oracles::explained::{self, Trouble};
use shape::Shape;

/// Fixed, since keys are picked by where they live.
const PARTITIONS: u32 = 8;

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

/// What outlives the process.
struct Shared {
    shape: Shape,
    node: Node,
    history: RefCell<History>,
    outcome: RefCell<Outcome>,
    failure: RefCell<Option<Failure>>,
    /// The call that each client waits for.
    calls: RefCell<BTreeMap<u128, &'static str>>,
    /// How many shards opened the directory last, and at most.
    shards_last: Cell<Option<u16>>,
    shards_max: Cell<u16>,
    /// The version of the module that is launched.
    era: Cell<Era>,
    /// The backup that is opened at the end.
    backup: RefCell<Option<backups::Made>>,
    /// How much was left to migrate when that was looked at last.
    left_to_migrate: Cell<Option<u64>>,
    /// The last life ended in a clean close.
    closed: Cell<bool>,
    /// Nothing goes wrong any more.
    healthy: Cell<bool>,
    /// Stored data is damaged.
    damaging: Cell<bool>,
    /// Damage was found and named; nothing more can be asked of one replica.
    given_up: Cell<bool>,
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

    /// Nothing can come between a snapshot and its reader: no shard ends, no disk is full, and there is memory
    /// for more than is written.
    fn keeps_snapshots(&self) -> bool {
        self.healthy.get() && self.shape.options.history_bytes_max == Some(shape::HISTORY_ROOMY)
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
        calls: RefCell::default(),
        shards_last: Cell::new(None),
        shards_max: Cell::new(0),
        era: Cell::new(Era::Migrated),
        backup: RefCell::default(),
        left_to_migrate: Cell::new(None),
        closed: Cell::new(false),
        healthy: Cell::new(false),
        damaging: Cell::new(false),
        given_up: Cell::new(false),
    });
    let mut shards = shared.shape.shards;
    let mut lives = 0;
    while !contents::troubled_enough(&world, &shared, lives)? {
        let first = shared.shape.migrates_after.is_some_and(|after| lives < after);
        shared.era.set(if first { Era::First } else { Era::Migrated });
        lives += 1;
        life::troubled(&world, &shared, shards).await?;
        let last = shared.shards_last.get().unwrap_or(shards);
        shards = shared.shape.next_shards(last, world.random());
    }
    if shared.shape.deals && shared.counted(contents::OTHER_SHARDS) == 0 {
        let last = shared.shards_last.get().unwrap_or(shards);
        shards = shape::another(last, world.random());
    }
    shared.era.set(Era::Migrated);
    healing::heal(&world, &shared, shards).await?;
    if world.random().one_in(3) {
        shared.count("damaged", 1);
        healing::damage(&world, &shared, shards).await?;
    }
    let mut outcome = shared.outcome.take();
    outcome.add("deals", u64::from(shared.shape.deals));
    outcome.add("migrations", u64::from(shared.shape.migrates_after.is_some()));
    let spilled = outcome.counters.get("rows spilled").is_some_and(|&rows| rows > 0);
    outcome.add("seeds with spilled rows", u64::from(spilled));
    outcome.add("lives", lives);
    outcome.add("crashes", shared.node.crashes());
    Ok(outcome)
}
