//! The page store of one partition: random runs of puts, deletes and range deletes, microbatches that
//! are prepared, committed and aborted, folds at any time, and several lives on a failing disk.
//!
//! The journal is played by the scenario: every entry is remembered, and each life replays those that
//! the newest root does not cover, as recovery does. The model is a `BTreeMap`.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::ops::{Bound, ControlFlow};
use std::rc::Rc;
use std::time::Duration;

use tidemill::env::{Class, Env, LocalFuture};
use tidemill::page::Cache;
use tidemill::pstate::{Direction, Error, KeyRange, Run, Store, View, WriteSet};
use tidemill::types::{Index, MicrobatchId, PStateId, PartitionId, ShardId, TopologyId};

use super::mishaps::{Mishaps, flip_a_bit};
use super::{Failure, Outcome, Scenario};
use crate::disk::Faults;
use crate::node::{Crash, Node};
use crate::random::Random;
use crate::world::World;

mod model;

use model::{Change, Entry, Model, Rows};

const SHARD: ShardId = ShardId(0);
const PARTITION: PartitionId = PartitionId(5);
const DIR: &str = "p/5";
/// Commits each of its ids at once.
const PLAIN: TopologyId = TopologyId(1);
/// Leaves its ids undecided for a while.
const SLOW: TopologyId = TopologyId(2);
const PSTATES: [PStateId; 2] = [PStateId(1), PStateId(7)];

/// See the module.
#[derive(Debug)]
pub(super) struct Stores;

impl Scenario for Stores {
    fn name(&self) -> &'static str {
        "pstate"
    }

    fn run(&self, world: World) -> LocalFuture<'static, Result<Outcome, Failure>> {
        Box::pin(run(world))
    }
}

/// What outlives the process.
struct Shared {
    random: Random,
    model: RefCell<Model>,
    outcome: RefCell<Outcome>,
    cache_bytes: u64,
    /// The highest index that an answered fold covers, and the lowest the played journal still has.
    covered: Cell<Index>,
    journal_from: Cell<Index>,
    damaged: Cell<bool>,
    damages: bool,
}

/// Why a life ended early.
enum Stop {
    Store(Error),
    Oracle(Failure),
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Self::Store(error)
    }
}

impl From<Failure> for Stop {
    fn from(failure: Failure) -> Self {
        Self::Oracle(failure)
    }
}

async fn run(world: World) -> Result<Outcome, Failure> {
    let node = world.node();
    let random = world.random();
    let shared = Rc::new(Shared {
        random: random.fork(),
        model: RefCell::default(),
        outcome: RefCell::default(),
        cache_bytes: *random.pick(&[32 << 10, 128 << 10, 1 << 20]),
        covered: Cell::new(Index(0)),
        journal_from: Cell::new(Index(1)),
        damaged: Cell::new(false),
        damages: random.one_in(6),
    });
    let lives = random.within(3..6);
    for life in 0..=lives {
        let last = life == lives;
        mishaps().plan(&world, &node, SHARD, last, shared.damages);
        let mine = Rc::clone(&shared);
        let ended = node.run(SHARD, move |env| live(env, mine, last)).await;
        node.crash_never();
        shared.damaged.set(world.counts().damage() > 0);
        match ended {
            None | Some(Ok(())) => {}
            Some(Err(Stop::Oracle(failure))) => return Err(failure),
            Some(Err(Stop::Store(error @ Error::Corrupt { .. }))) => {
                if !shared.damaged.get() {
                    let message = format!("{error}, but nothing was damaged");
                    return Err(Failure::new("no-false-corruption", message));
                }
                break;
            }
            Some(Err(Stop::Store(error))) => {
                if last {
                    return Err(Failure::new("heals", format!("without faults: {error}")));
                }
                shared.count("stops", 1);
            }
        }
        if random.one_in(3) {
            node.crash(Crash::Power);
        }
        damage(&shared, &node);
        shared.damaged.set(world.counts().damage() > 0);
    }
    let mut outcome = shared.outcome.take();
    outcome.add("crashes", node.crashes());
    Ok(outcome)
}

/// What goes wrong here.
fn mishaps() -> Mishaps {
    Mishaps {
        polls_max: 2_000,
        operations_max: 500,
        errors: Faults { stall: 1_000, ..Faults::errors() },
        rest_bytes_max: 128 << 10,
        damage_only: "pages",
    }
}

/// Between two lives a bit may flip in the page file.
fn damage(shared: &Shared, node: &Node) {
    if shared.damages && shared.random.one_in(2) && flip_a_bit(node, DIR, &shared.random) {
        shared.count("damages", 1);
    }
}

impl Shared {
    fn count(&self, name: &'static str, count: u64) {
        self.outcome.borrow_mut().add(name, count);
    }
}

async fn live(env: Env, shared: Rc<Shared>, last: bool) -> Result<(), Stop> {
    env.disk().create_dir(DIR).await.expect("directories never fail here");
    for dir in [".", "p"] {
        if env.disk().sync_dir(dir).await.is_err() {
            return Ok(());
        }
    }
    let cache = Cache::new(shared.cache_bytes);
    let from = shared.journal_from.get();
    let (store, opened) = Store::open(&env, &cache, DIR, PARTITION, from).await?;
    if opened.covers.next() < from || opened.covers > shared.model.borrow().last() {
        let message = format!("covers {} with the journal from {from}", opened.covers);
        return Err(Failure::new("root-is-usable", message).into());
    }
    if !shared.damaged.get() && opened.covers < shared.covered.get() {
        let message = format!("covers {}, a fold answered {}", opened.covers, shared.covered.get());
        return Err(Failure::new("folds-are-durable", message).into());
    }
    let replay = shared.model.borrow().replay(opened.covers, &opened.pending)?;
    for change in &replay {
        apply(&store, change);
    }
    shared.count("recoveries", 1);
    verify(&store, &shared).await?;

    let stop: Rc<RefCell<Option<Stop>>> = Rc::default();
    let folding = Rc::new(Cell::new(false));
    let steps = if last { 20 } else { 30 + env.random() % 150 };
    for _ in 0..steps {
        let change = shared.model.borrow_mut().next_change(&shared.random);
        apply(&store, &change);
        shared.count("entries", 1);
        if env.random().is_multiple_of(12) && !folding.replace(true) {
            start_fold(&env, &store, &shared, &folding, &stop);
        }
        look(&store, &shared).await?;
        if let Some(stop) = stop.take() {
            return Err(stop);
        }
        env.sleep(Duration::from_micros(env.random() % 400)).await;
    }
    while folding.get() {
        env.sleep(Duration::from_millis(1)).await;
    }
    if let Some(stop) = stop.take() {
        return Err(stop);
    }
    if last {
        fold(&env, &store, &shared).await?;
    }
    verify(&store, &shared).await
}

fn apply(store: &Store, entry: &Entry) {
    match &entry.change {
        Change::Write(run) => {
            let id = MicrobatchId(entry.index.0);
            store.stack(PLAIN, id, run.clone());
            store.merge(PLAIN, id);
        }
        Change::Prepare(id, run) => store.stack(SLOW, *id, run.clone()),
        Change::Commit(id) => store.merge(SLOW, *id),
        Change::Abort(id) => store.unstack(SLOW, *id),
    }
}

fn start_fold(
    env: &Env,
    store: &Store,
    shared: &Rc<Shared>,
    folding: &Rc<Cell<bool>>,
    stop: &Rc<RefCell<Option<Stop>>>,
) {
    let (env_too, store, shared) = (env.clone(), store.clone(), Rc::clone(shared));
    let (folding, stop) = (Rc::clone(folding), Rc::clone(stop));
    env.spawn(Class::Background, "fold", async move {
        if let Err(error) = fold(&env_too, &store, &shared).await {
            stop.borrow_mut().get_or_insert(error);
        }
        folding.set(false);
    });
}

/// Folds until there is space for it.
async fn fold(env: &Env, store: &Store, shared: &Shared) -> Result<(), Stop> {
    for _ in 0..10_000 {
        let (covers, pending) = {
            let model = shared.model.borrow();
            (model.last(), model.undecided())
        };
        match store.fold(covers, &pending).await {
            Ok(_) => {
                shared.covered.set(shared.covered.get().max(covers));
                // The journal forgets what the fold covers, at once or a little later.
                if env.random().is_multiple_of(2) {
                    shared.journal_from.set(shared.journal_from.get().max(covers.next()));
                }
                shared.count("folds", 1);
                return Ok(());
            }
            Err(Error::NoSpace { .. }) => {
                shared.count("no-space", 1);
                env.sleep(Duration::from_millis(1 + env.random() % 10)).await;
            }
            Err(error) => return Err(error.into()),
        }
    }
    Err(Failure::new("heals", "a fold found no space though there is some").into())
}

/// A few reads, compared with the model as of now.
async fn look(store: &Store, shared: &Shared) -> Result<(), Stop> {
    for _ in 0..shared.random.below(3) {
        let pstate = *shared.random.pick(&PSTATES);
        let key = model::key(&shared.random);
        // Nothing changes while this waits: the scenario applies only between two looks.
        let found = store.read(&View::visible(), pstate, &key, |v| v.map(<[u8]>::to_vec)).await?;
        same(shared.model.borrow().visible(), pstate, &key, found.as_deref(), "get")?;
        let through = shared.model.borrow().prepared_top();
        if let Some((id, rows)) = through {
            let view = View::through(SLOW, id, None);
            let found = store.read(&view, pstate, &key, |v| v.map(<[u8]>::to_vec)).await?;
            same(&rows, pstate, &key, found.as_deref(), "get through")?;
        }
    }
    if shared.random.one_in(10) {
        let pstate = *shared.random.pick(&PSTATES);
        let (one, two) = (model::key(&shared.random), model::key(&shared.random));
        let (low, high) = if one <= two { (one, two) } else { (two, one) };
        let range = KeyRange { from: Bound::Included(&low), to: Bound::Excluded(&high) };
        let limit = 1 + shared.random.index(40);
        let direction = *shared.random.pick(&[Direction::Forward, Direction::Backward]);
        scan_and_compare(store, shared, pstate, range, direction, limit).await?;
    }
    Ok(())
}

/// Everything, both ways.
async fn verify(store: &Store, shared: &Shared) -> Result<(), Stop> {
    for pstate in PSTATES {
        for direction in [Direction::Forward, Direction::Backward] {
            scan_and_compare(store, shared, pstate, KeyRange::ALL, direction, usize::MAX).await?;
        }
    }
    Ok(())
}

async fn scan_and_compare(
    store: &Store,
    shared: &Shared,
    pstate: PStateId,
    range: KeyRange<'_>,
    direction: Direction,
    limit: usize,
) -> Result<(), Stop> {
    let mut found = Vec::new();
    let visited = store
        .scan(&View::visible(), pstate, range, direction, limit, |key, value| {
            found.push((key.to_vec(), value.to_vec()));
            ControlFlow::Continue(())
        })
        .await?;
    let model = shared.model.borrow();
    let inside = |key: &[u8]| {
        let above = match range.from {
            Bound::Included(from) => from <= key,
            Bound::Excluded(from) => from < key,
            Bound::Unbounded => true,
        };
        let below = match range.to {
            Bound::Included(to) => key <= to,
            Bound::Excluded(to) => key < to,
            Bound::Unbounded => true,
        };
        above && below
    };
    let rows = model.visible().iter().filter(|((of, key), _)| *of == pstate && inside(key));
    let mut expected: Vec<_> =
        rows.map(|((_, key), value)| (key.clone(), value.to_vec())).collect();
    if direction == Direction::Backward {
        expected.reverse();
    }
    expected.truncate(limit);
    if found != expected || visited != found.len() {
        let at = found.iter().zip(&expected).position(|(one, two)| one != two);
        let message = format!(
            "a scan of {pstate} {direction:?} {range:?} at entry {}: {} rows instead of {}, the \
             first difference is row {at:?}",
            model.last(),
            found.len(),
            expected.len()
        );
        return Err(Failure::new("state-is-the-model", message).into());
    }
    Ok(())
}

fn same(
    rows: &Rows,
    pstate: PStateId,
    key: &[u8],
    found: Option<&[u8]>,
    how: &str,
) -> Result<(), Failure> {
    let expected = rows.get(&(pstate, key.to_vec())).map(|value| &value[..]);
    if found == expected {
        return Ok(());
    }
    let (found, expected) = (found.map(<[u8]>::len), expected.map(<[u8]>::len));
    let message = format!("{how} of {pstate} {key:?}: length {found:?} instead of {expected:?}");
    Err(Failure::new("state-is-the-model", message))
}

/// A run and what it does to the model's rows.
fn random_run(random: &Random) -> (Rc<Run>, BTreeMap<usize, model::Write>) {
    let mut set = WriteSet::default();
    let mut writes = BTreeMap::new();
    let count = if random.one_in(20) { 300 } else { 1 + random.index(30) };
    for number in 0..count {
        let write = model::Write::draw(random, &PSTATES);
        match &write {
            model::Write::Put(pstate, key, value) => set.put(*pstate, key, value),
            model::Write::Delete(pstate, key) => set.delete(*pstate, key),
            model::Write::DeleteRange(pstate, from, to) => {
                set.delete_range(*pstate, from, to.as_deref());
            }
        }
        writes.insert(number, write);
    }
    let run = set.seal();
    let mut bytes = Vec::new();
    run.encode(&mut bytes);
    // What replays is what was decoded from the journal.
    let run = if random.one_in(2) { Run::decode(&bytes).expect("it was encoded") } else { run };
    (Rc::new(run), writes)
}
