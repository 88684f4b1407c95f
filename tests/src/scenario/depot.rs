//! One depot in one partition: appends with and without keys, bulk extents, records placed by
//! microbatches, flushes, folds that record what the segments hold, trims, reads, and several lives on
//! a failing disk.
//!
//! The journal is played by the scenario: entries become durable in order, a crash keeps a prefix of
//! the others, and what a recorded fold covers is never replayed again.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use tidemill::depot::{
    Append, Batch, Bulk, Error, Key, Limits, Log, Options, Replayed, State, Upto,
};
use tidemill::env::{Class, Env, LocalFuture};
use tidemill::types::{DepotId, Offset, PartitionId, ShardId, WallTime};

use super::mishaps::{Mishaps, flip_a_bit};
use super::{Failure, Outcome, Scenario, check};
use crate::disk::Faults;
use crate::node::{Crash, Node};
use crate::random::Random;
use crate::world::World;

mod model;

use model::{Content, Model};

const SHARD: ShardId = ShardId(0);
const PARTITION: PartitionId = PartitionId(3);
const DEPOT: DepotId = DepotId(4);
const DIR: &str = "p/3";

/// See the module.
#[derive(Debug)]
pub(super) struct Depots;

impl Scenario for Depots {
    fn name(&self) -> &'static str {
        "depot"
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
    options: Options,
    damaged: Cell<bool>,
    damages: bool,
}

/// Why a life ended early.
#[derive(Debug)]
enum Stop {
    Log(Error),
    Oracle(Failure),
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Self::Log(error)
    }
}

impl From<Failure> for Stop {
    fn from(failure: Failure) -> Self {
        Self::Oracle(failure)
    }
}

type Stopped = Rc<RefCell<Option<Stop>>>;

async fn run(world: World) -> Result<Outcome, Failure> {
    let node = world.node();
    let random = world.random();
    let shared = Rc::new(Shared {
        random: random.fork(),
        model: RefCell::default(),
        outcome: RefCell::default(),
        options: Options {
            allocation_bytes_min: 16 << 10,
            allocation_bytes_max: 64 << 10,
            segment_bytes_max: *random.pick(&[96 << 10, 256 << 10]),
            block_bytes: *random.pick(&[4 << 10, 16 << 10]),
            tail_bytes_max: *random.pick(&[4 << 10, 64 << 10]),
            bulk_bytes_min: 16 << 10,
            dedup_clients_max: 4,
            dedup_sequences_max: 4,
        },
        damaged: Cell::new(false),
        damages: random.one_in(6),
    });
    let lives = random.within(3..7);
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
            Some(Err(Stop::Log(error @ Error::Corrupt { .. }))) => {
                if !shared.damaged.get() {
                    let message = format!("{error}, but nothing was damaged");
                    return Err(Failure::new("no-false-corruption", message));
                }
                break;
            }
            Some(Err(Stop::Log(error))) => {
                let device = matches!(error, Error::Io { .. } | Error::Stopped);
                if last || !device {
                    let message = format!("{error} {:?}", std::error::Error::source(&error));
                    return Err(Failure::new("heals", message));
                }
                shared.count("stops", 1);
            }
        }
        shared.model.borrow_mut().crash(&shared.random);
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
        polls_max: 1_000,
        operations_max: 400,
        errors: Faults::errors(),
        rest_bytes_max: 64 << 10,
        damage_only: "p/3/",
    }
}

/// Between two lives a bit may flip in a segment.
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
    let log = recover(&env, &shared).await?;
    verify(&log, &shared).await?;
    shared.count("recoveries", 1);
    let stop: Stopped = Rc::default();
    let tasks = Rc::new(Cell::new(0));
    journal(&env, &shared, &log);
    let steps = if last { 20 } else { 30 + env.random() % 150 };
    for _ in 0..steps {
        match env.random() % 12 {
            0 => bulk(&env, &shared, &log, &stop, &tasks).await?,
            1 => place(&env, &shared, &log)?,
            2 if tasks.get() == 0 => {
                let (log, shared, env_too) = (log.clone(), Rc::clone(&shared), env.clone());
                spawn(&env, &stop, &tasks, async move {
                    if env_too.random().is_multiple_of(2) {
                        flush(&env_too, &log, &shared).await?;
                    }
                    fold(&env_too, &log, &shared).await
                });
            }
            3 if env.random().is_multiple_of(4) => trim(&shared, &log),
            4 | 5 => look(&log, &shared).await?,
            _ => append(&env, &shared, &log)?,
        }
        if let Some(stop) = stop.take() {
            return Err(stop);
        }
        env.sleep(Duration::from_micros(env.random() % 400)).await;
        shared.model.borrow_mut().acknowledged(log.durable_end());
    }
    while tasks.get() > 0 {
        env.sleep(Duration::from_millis(1)).await;
    }
    if last {
        flush(&env, &log, &shared).await?;
        fold(&env, &log, &shared).await?;
    }
    if let Some(stop) = stop.take() {
        return Err(stop);
    }
    verify(&log, &shared).await
}

fn spawn(
    env: &Env,
    stop: &Stopped,
    tasks: &Rc<Cell<u64>>,
    work: impl Future<Output = Result<(), Stop>> + 'static,
) {
    let (stop, tasks) = (Rc::clone(stop), Rc::clone(tasks));
    tasks.set(tasks.get() + 1);
    env.spawn(Class::Background, "depot work", async move {
        if let Err(error) = work.await {
            stop.borrow_mut().get_or_insert(error);
        }
        tasks.set(tasks.get() - 1);
    });
}

/// Opens what the newest recorded fold names, and replays the journal over it.
async fn recover(env: &Env, shared: &Shared) -> Result<Log, Stop> {
    let state = shared.model.borrow().recorded();
    let state = State::decode(&state.encode())?;
    let log = Log::open(env, PARTITION, DEPOT, DIR, &state, shared.options).await?;
    let entries = shared.model.borrow().replay();
    for (number, entry) in entries.iter().enumerate() {
        let end = Offset(entry.first.0 + entry.records.len() as u64);
        let replayed = match &entry.content {
            Content::Payload(bytes) => log.replay(bytes).await?,
            Content::Placed(index, batch, time) => match log.place(*index, batch, *time)? {
                Some(offsets) => {
                    log.durable(offsets.end);
                    Replayed::Applied(offsets)
                }
                None => Replayed::Already,
            },
        };
        match replayed {
            Replayed::Applied(offsets) => {
                check("offsets-never-change", offsets == (entry.first..end), || {
                    format!("{offsets:?}, {}..{end} when appended", entry.first)
                })?;
            }
            Replayed::Already => {
                check("replay-is-complete", end <= log.end(), || {
                    format!("{}..{end} is said to be there", entry.first)
                })?;
            }
            Replayed::Torn { .. } => {
                shared.count("torn-extents", 1);
                shared.model.borrow_mut().cut(number, shared.damaged.get())?;
                break;
            }
            Replayed::BeyondCut => {
                return Err(Failure::new("cut-comes-first", "nothing was cut yet").into());
            }
        }
    }
    log.recovered().await?;
    Ok(log)
}

/// Plays the journal: entries become durable in order, a little later.
fn journal(env: &Env, shared: &Rc<Shared>, log: &Log) {
    let (env_too, shared, log) = (env.clone(), Rc::clone(shared), log.clone());
    env.spawn(Class::Core, "journal", async move {
        loop {
            let (count, end) = shared.model.borrow().appended();
            env_too.sleep(Duration::from_micros(50 + env_too.random() % 400)).await;
            // What was there when the write began is durable when it ends.
            shared.model.borrow_mut().journaled(count);
            log.durable(end);
        }
    });
}

fn records(random: &Random, bytes: u64) -> Vec<Vec<u8>> {
    let count = if random.one_in(4) { 1 + random.below(30) } else { 1 };
    (0..count)
        .map(|_| {
            let stream = random.fork();
            let len = random.below(1 + bytes / count);
            (0..len.div_ceil(8)).flat_map(|_| stream.bits().to_le_bytes()).collect()
        })
        .collect()
}

fn batch(shared: &Shared, records: &[Vec<u8>]) -> Batch {
    let batch = Batch::of(records).expect("small enough");
    if shared.random.one_in(3) {
        let client = u128::from(shared.random.below(3));
        return batch.with_key(Key { client, sequence: shared.random.below(100_000) });
    }
    batch
}

fn append(env: &Env, shared: &Rc<Shared>, log: &Log) -> Result<(), Stop> {
    let again = shared.model.borrow().newest_keyed();
    if let Some((batch, offsets)) = again.filter(|_| shared.random.one_in(8)) {
        let answer = log.append(&batch, env.wall())?;
        shared.count("repeated", 1);
        let same = matches!(&answer, Append::Repeated(found) if *found == offsets);
        check("repeated-appends-are-known", same, || {
            format!("{answer:?} instead of {offsets:?} again")
        })?;
        return Ok(());
    }
    let bytes = *shared.random.pick(&[20, 300, 3_000, 12_000]);
    let records = records(&shared.random, bytes);
    let batch = batch(shared, &records);
    let Append::Done(appended) = log.append(&batch, env.wall())? else { return Ok(()) };
    shared.count("appends", 1);
    let content = Content::Payload(appended.payload.to_vec());
    let keyed = batch.key().map(|_| batch);
    shared.model.borrow_mut().append(&appended.offsets, content, records, keyed)?;
    Ok(())
}

async fn bulk(
    env: &Env,
    shared: &Rc<Shared>,
    log: &Log,
    stop: &Stopped,
    tasks: &Rc<Cell<u64>>,
) -> Result<(), Stop> {
    let records: Vec<Vec<u8>> =
        (0..4).flat_map(|_| records(&shared.random, 10_000)).chain([vec![9; 8_000]]).collect();
    let batch = batch(shared, &records);
    match log.reserve_bulk(batch.body().len()).await {
        Ok(()) => {}
        Err(Error::NoSpace { .. }) => {
            shared.count("no-space", 1);
            return Ok(());
        }
        Err(error) => return Err(error.into()),
    }
    let Bulk::Done { appended, write } = log.append_bulk(&batch, env.wall())? else {
        return Ok(());
    };
    shared.count("bulk-appends", 1);
    let content = Content::Payload(appended.payload.to_vec());
    let keyed = batch.key().map(|_| batch);
    shared.model.borrow_mut().append(&appended.offsets, content, records, keyed)?;
    spawn(env, stop, tasks, async move { Ok(write.await?) });
    Ok(())
}

/// A microbatch's records get their offsets at its place in the sequence.
fn place(env: &Env, shared: &Rc<Shared>, log: &Log) -> Result<(), Stop> {
    let records = records(&shared.random, 2_000);
    let batch = Batch::of(&records).expect("small enough");
    let time = env.wall();
    let index = shared.model.borrow().next_index();
    let Some(offsets) = log.place(index, &batch, time)? else {
        return Err(Failure::new("placed-once", format!("entry {index} is new")).into());
    };
    shared.count("placed", 1);
    let content = Content::Placed(index, batch, time);
    shared.model.borrow_mut().append(&offsets, content, records, None)?;
    Ok(())
}

async fn flush(env: &Env, log: &Log, shared: &Shared) -> Result<(), Stop> {
    for _ in 0..10_000 {
        match log.flush().await {
            Ok(flushed) => {
                shared.count("flushes", 1);
                let end = log.end();
                return Ok(check("flushes-what-is-there", flushed.below <= end, || {
                    format!("flushed below {} of {end}", flushed.below)
                })?);
            }
            Err(Error::NoSpace { .. }) => {
                shared.count("no-space", 1);
                env.sleep(Duration::from_millis(1 + env.random() % 10)).await;
            }
            Err(error) => return Err(error.into()),
        }
    }
    Err(Failure::new("heals", "a flush found no space though there is some").into())
}

/// Records durably what the segments hold; then the journal forgets what that covers.
async fn fold(env: &Env, log: &Log, shared: &Shared) -> Result<(), Stop> {
    let state = log.state();
    shared.model.borrow_mut().recording(state.clone());
    env.sleep(Duration::from_micros(env.random() % 2_000)).await;
    shared.model.borrow_mut().record();
    shared.count("folds", 1);
    log.recorded(&state).await?;
    Ok(())
}

fn trim(shared: &Shared, log: &Log) {
    let (first, end) = (log.first().0, log.flushed_end().0);
    let below = first + shared.random.below(1 + (end - first) / 2);
    shared.model.borrow_mut().trimmed(log.trim(Offset(below), WallTime(u64::MAX)));
    shared.count("trims", 1);
}

/// A read somewhere, compared with what was appended.
async fn look(log: &Log, shared: &Shared) -> Result<(), Stop> {
    let (first, end) = (log.first().0, log.end().0);
    let from = Offset(first + shared.random.below(1 + end - first));
    let upto = *shared.random.pick(&[Upto::Durable, Upto::Appended]);
    let bytes = 1 + shared.random.index(20_000);
    let limits = Limits { records: 1 + shared.random.index(50), bytes, upto };
    let before = log.durable_end();
    let found = log.read(from, limits).await?;
    let expected = if upto == Upto::Durable { before } else { Offset(end) };
    check("reads-what-is-there", !found.is_empty() || from >= expected, || {
        format!("nothing at {from} below {expected}")
    })?;
    Ok(shared.model.borrow().same(from, &found)?)
}

/// Everything, in order.
async fn verify(log: &Log, shared: &Shared) -> Result<(), Stop> {
    let mut from = log.first();
    let mut time = WallTime(0);
    while from < log.end() {
        let limits = Limits { records: 1_000, bytes: 64 << 10, upto: Upto::Appended };
        let found = log.read(from, limits).await?;
        shared.model.borrow().same(from, &found)?;
        for record in found.iter() {
            check("append-time-is-monotone", time <= record.append_time, || {
                format!("{:?} at {} after {time:?}", record.append_time, record.offset)
            })?;
            time = record.append_time;
        }
        let Some(offsets) = found.offsets() else {
            let message = format!("nothing at {from} below {}", log.end());
            return Err(Failure::new("reads-what-is-there", message).into());
        };
        from = offsets.end;
    }
    Ok(shared.model.borrow().complete(log.first(), log.end())?)
}
