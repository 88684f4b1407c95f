//! A depot that keeps its newest records only, through several lives of one to three shards: files go while clients
//! append, topologies lag behind and processes crash; and a topology is added on the way, which begins somewhere.
//!
//! Each client appends numbers in order under one key, each until it is acknowledged, so what lies in the depot
//! is known. The oracles: *folded*, every topology has applied every record that it was to see exactly once, in
//! order, whatever was let go of; *kept*, what the depot need keep is there, as it was acknowledged, and the rest is
//! gone or as it was.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use serde::{Deserialize, Serialize};
use tidemill::client::{Engine, Launched};
use tidemill::depot::{self, Key};
use tidemill::env::LocalFuture;
use tidemill::error::Error;
use tidemill::module::{Depot, Module, StartAt};
use tidemill::node::Options;
use tidemill::schema::{Map, PState};
use tidemill::types::{Offset, PartitionId};

use super::{Failure, Outcome, Scenario, check};
use crate::disk::Faults;
use crate::node::{After, Crash, Node};
use crate::random::Random;
use crate::world::World;

const PARTITIONS: u32 = 4;
const CLIENTS: u64 = 6;
/// How many numbers each client appends in all lives together.
const NUMBERS: u64 = 40;
/// No call takes longer in a life without faults.
const HEALTHY_MAX: Duration = Duration::from_mins(10);

/// See the module.
#[derive(Debug)]
pub(super) struct Trims;

impl Scenario for Trims {
    fn name(&self) -> &'static str {
        "trims"
    }

    fn run(&self, world: World) -> LocalFuture<'static, Result<Outcome, Failure>> {
        Box::pin(run(world))
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Tick {
    client: u64,
    number: u64,
    memo: String,
}

/// The numbers that were given to a topology, by client, in the order given.
type Given = Map<u64, Vec<u64>>;

struct Ticks {
    depot: Depot<Tick>,
    given: PState<Given>,
    late: Option<PState<Given>>,
}

/// What outlives the process.
struct Shared {
    node: Node,
    keep: u64,
    start: StartAt,
    options: Options,
    /// What each client has appended, and where: acknowledged, so once.
    placed: RefCell<BTreeMap<u64, Vec<(PartitionId, Offset)>>>,
    /// How many records were known of each partition when the second version was to be launched first.
    before_late: RefCell<Option<BTreeMap<PartitionId, u64>>>,
    /// How many numbers of each client had been sent when that had succeeded.
    after_late: RefCell<Option<BTreeMap<u64, u64>>>,
    /// How many numbers each client has sent, be they acknowledged or not.
    sent: RefCell<BTreeMap<u64, u64>>,
    /// Nothing goes wrong any more.
    is_healthy: Cell<bool>,
}

impl Shared {
    fn known(&self) -> BTreeMap<PartitionId, u64> {
        let mut known = BTreeMap::new();
        for (partition, _) in self.placed.borrow().values().flatten() {
            *known.entry(*partition).or_default() += 1;
        }
        known
    }

    /// An error that something accounts for.
    fn tolerate(&self, what: &str, error: &Error) -> Result<(), Failure> {
        check("explained", !self.is_healthy.get(), || format!("{what} without faults: {error}"))
    }
}

fn module(m: &Module, keep: u64, late: Option<StartAt>) -> Ticks {
    m.version(if late.is_some() { 2 } else { 1 });
    let ticks = m.depot::<Tick>("ticks").keep_records(keep).hash_by(|tick| &tick.client);
    let count = m.microbatch(|| "count");
    let given = count.pstate::<Given>("given");
    count.source(ticks).using(given).for_each(async |at, given, tick: Tick| {
        Ok(at.update(given.key(tick.client), |old| Some(with(old, tick.number))).await?)
    });
    let late = late.map(|start| {
        let late = m.microbatch(|| "late");
        let given = late.pstate::<Given>("given-late");
        late.source(ticks.starting(start)).using(given).for_each(async |at, given, tick: Tick| {
            Ok(at.update(given.key(tick.client), |old| Some(with(old, tick.number))).await?)
        });
        given.reader()
    });
    Ticks { depot: ticks, given: given.reader(), late }
}

fn with(old: Option<Vec<u64>>, number: u64) -> Vec<u64> {
    let mut all = old.unwrap_or_default();
    all.push(number);
    all
}

async fn run(world: World) -> Result<Outcome, Failure> {
    let random = world.random();
    let keep = random.within(1..12);
    let shared = Rc::new(Shared {
        node: world.node(),
        keep,
        start: match random.below(4) {
            0 => StartAt::Beginning,
            1 => StartAt::End,
            2 => StartAt::Newest(random.below(8)),
            _ => StartAt::Within(Duration::from_millis(random.below(60))),
        },
        options: options(random),
        placed: RefCell::default(),
        before_late: RefCell::default(),
        after_late: RefCell::default(),
        sent: RefCell::default(),
        is_healthy: Cell::new(false),
    });
    let lives = random.within(2..5);
    let mut outcome = Outcome::default();
    for life in 0..=lives {
        let node = &shared.node;
        shared.is_healthy.set(life == lives);
        node.disk().set_faults(if shared.is_healthy.get() {
            Faults::default()
        } else {
            faults(random)
        });
        if life < lives {
            let after = match random.below(3) {
                0 => After::Polls(random.within(500..12_000)),
                _ => After::Operations(random.within(60..900)),
            };
            node.crash_after(after, *random.pick(&[Crash::Power, Crash::Power, Crash::Kill]));
        }
        let is_second = life > 0;
        let crashes = node.crashes();
        let lived = live(&world, &shared, is_second, &mut outcome).await;
        node.crash_never();
        lived?;
        if life < lives && node.crashes() == crashes {
            node.crash(Crash::Power);
        }
    }
    outcome.add("crashes", shared.node.crashes());
    Ok(outcome)
}

fn faults(random: &Random) -> Faults {
    let benign =
        Faults { short_read: 60_000, short_write: 60_000, stall: 500, ..Faults::default() };
    if random.one_in(3) {
        Faults { write_error: 1_000, sync_error: 1_000, ..benign }
    } else {
        benign
    }
}

fn options(random: &Random) -> Options {
    Options {
        partitions: Some(PARTITIONS),
        memory_bytes: 1 << 20,
        journal_bytes_max: 1 << 20,
        journal_file_bytes: 128 << 10,
        microbatch_records_max: *random.pick(&[1, 2, 16]),
        microbatch_bytes_max: 1 << 20,
        depot: depot::Options {
            allocation_bytes_min: 8 << 10,
            allocation_bytes_max: 16 << 10,
            segment_bytes_max: *random.pick(&[8 << 10, 12 << 10]),
            block_bytes: 4 << 10,
            tail_bytes_max: *random.pick(&[1 << 10, 16 << 10]),
            ..depot::Options::default()
        },
        ..Options::default()
    }
}

async fn live(
    world: &World,
    shared: &Rc<Shared>,
    is_second: bool,
    outcome: &mut Outcome,
) -> Result<(), Failure> {
    let shards = u16::try_from(world.random().within(1..4)).expect("below 4");
    let options = Options { shards, ..shared.options.clone() };
    let engine = match Engine::open_on(Arc::new(shared.node.platform()), options, |_| {}).await {
        Ok(engine) => engine,
        Err(error) => return shared.tolerate("opening", &error),
    };
    if is_second && shared.before_late.borrow().is_none() {
        *shared.before_late.borrow_mut() = Some(shared.known());
    }
    let (keep, late) = (shared.keep, is_second.then_some(shared.start));
    let it = match engine.launch("ticks", |m| module(m, keep, late)).await {
        Ok(it) => it,
        Err(error) => return shared.tolerate("launching", &error),
    };
    if is_second && shared.after_late.borrow().is_none() {
        *shared.after_late.borrow_mut() = Some(shared.sent.borrow().clone());
    }
    let done = Rc::new(Cell::new(false));
    let folder = fold_often(world.clone(), engine.clone(), Rc::clone(&done));
    let appending = (0..CLIENTS).map(|client| append(world, shared, &it, client));
    let work = async {
        let appended = join_all(appending).await;
        done.set(true);
        appended.into_iter().collect::<Result<Vec<_>, _>>()
    };
    let (appended, ()) = futures_util::future::join(work, folder).await;
    appended?;
    if shared.is_healthy.get() {
        judge(world, shared, &it, outcome).await?;
    }
    Ok(())
}

async fn fold_often(world: World, engine: Engine, done: Rc<Cell<bool>>) {
    while !done.get() {
        world.sleep(Duration::from_micros(world.random().below(3_000))).await;
        if engine.fold().await.is_err() {
            return;
        }
    }
}

/// Appends the numbers that are left, or in a life that ends some of them, each until it is acknowledged.
async fn append(
    world: &World,
    shared: &Shared,
    it: &Launched<Ticks>,
    client: u64,
) -> Result<(), Failure> {
    let healthy = shared.is_healthy.get();
    for _ in 0..if healthy { NUMBERS } else { NUMBERS / 3 } {
        let number = shared.placed.borrow().get(&client).map_or(0, Vec::len) as u64;
        if number == NUMBERS {
            return Ok(());
        }
        let tick = Tick { client, number, memo: "x".repeat(300) };
        shared.sent.borrow_mut().insert(client, number + 1);
        let key = Key { client: u128::from(client) + 1, sequence: number };
        match it.append_once(it.depot, key, &tick).await {
            Ok(appended) => {
                let place = (appended.partition, appended.offsets.start);
                shared.placed.borrow_mut().entry(client).or_default().push(place);
            }
            Err(error) => return shared.tolerate("appending", &error),
        }
        if world.random().one_in(4) {
            world.sleep(Duration::from_micros(world.random().below(500))).await;
        }
    }
    Ok(())
}

async fn judge(
    world: &World,
    shared: &Shared,
    it: &Launched<Ticks>,
    outcome: &mut Outcome,
) -> Result<(), Failure> {
    for topology in ["count", "late"] {
        let done = world.timeout(HEALTHY_MAX, it.caught_up(topology)).await;
        let Some(Ok(())) = done else {
            let why = it.paused(topology).await;
            let message = format!("`{topology}` does not catch up ({done:?}): {why:?}");
            return Err(Failure::new("folded", message));
        };
    }
    let failed = |error: Error| Failure::new("folded", format!("reading without faults: {error}"));
    let given: BTreeMap<_, _> =
        it.select(it.given.all()).await.map_err(failed)?.into_iter().collect();
    let late = it.late.expect("the last version has it");
    let late: BTreeMap<_, _> = it.select(late.all()).await.map_err(failed)?.into_iter().collect();
    let all: Vec<u64> = (0..NUMBERS).collect();
    for client in 0..CLIENTS {
        let found = given.get(&client);
        check("folded", found == Some(&all), || {
            format!("of client {client}, `count` was given {found:?}")
        })?;
        begun(shared, client, late.get(&client).map_or(&[], |it| it))?;
    }
    for partition in (0..PARTITIONS).map(PartitionId) {
        kept(shared, it, partition, outcome).await?;
    }
    Ok(())
}

/// What the topology that was added was given of one client.
fn begun(shared: &Shared, client: u64, given: &[u64]) -> Result<(), Failure> {
    let placed = &shared.placed.borrow()[&client];
    let first = NUMBERS - given.len() as u64;
    check("folded", given.iter().copied().eq(first..NUMBERS), || {
        format!("of client {client}, `late` was given {given:?}: not all from one on, in order")
    })?;
    let (partition, _) = placed[0];
    let before = shared.before_late.borrow();
    let before = before.as_ref().and_then(|it| it.get(&partition)).copied().unwrap_or_default();
    let not_below = match shared.start {
        StartAt::End => before,
        StartAt::Newest(count) => before.saturating_sub(count),
        StartAt::Beginning | StartAt::Within(_) | StartAt::Since(_) => 0,
    };
    let given_from = placed.get(usize::try_from(first).expect("few")).map(|(_, offset)| offset.0);
    check("folded", given_from.is_none_or(|from| from >= not_below), || {
        format!(
            "of client {client}, `late` was given offset {given_from:?}, and begins {:?} of {before}",
            shared.start
        )
    })?;
    let sent = shared.after_late.borrow();
    let sent = sent.as_ref().and_then(|it| it.get(&client)).copied().unwrap_or_default();
    check("folded", first <= sent, || {
        format!("of client {client}, `late` missed numbers below {first}, and ran from {sent} on")
    })
}

/// What a partition of the depot still has.
async fn kept(
    shared: &Shared,
    it: &Launched<Ticks>,
    partition: PartitionId,
    outcome: &mut Outcome,
) -> Result<(), Failure> {
    let failed = |error: Error| Failure::new("kept", format!("reading without faults: {error}"));
    let mut expected = BTreeMap::new();
    for (&client, placed) in shared.placed.borrow().iter() {
        for (number, &(at, offset)) in (0..).zip(placed) {
            if at == partition {
                expected.insert(offset, (client, number));
            }
        }
    }
    let count = expected.len() as u64;
    // More may go at any time.
    let (start, found) = loop {
        let range = it.depot_range(it.depot, partition).await.map_err(failed)?;
        let is_all = expected.keys().copied().eq((0..count).map(Offset));
        check("kept", range.end == Offset(count) && is_all, || {
            format!("{partition} ends at {}, and {count} records were acknowledged", range.end)
        })?;
        match records(it, partition, range.clone()).await {
            Ok(found) => break (range.start, found),
            Err(Error::Trimmed { .. }) => {}
            Err(error) => return Err(failed(error)),
        }
    };
    check("kept", count - start.0 >= shared.keep.min(count), || {
        format!("{partition} has {} records left, and must keep {}", count - start.0, shared.keep)
    })?;
    outcome.add("records let go of", start.0);
    let wanted = expected.range(start..).map(|(&at, &it)| (at, it));
    check("kept", found.iter().copied().eq(wanted), || {
        format!("{partition} has {found:?} from {start} on")
    })?;
    if start > Offset(0) {
        let below = Offset(start.0 - 1);
        let read = it.read_depot(it.depot, partition, below, 1).await;
        let is_gone = matches!(read, Err(Error::Trimmed { .. }));
        check("kept", is_gone, || {
            format!("{partition} was asked for {below}, and answered {read:?}")
        })?;
    }
    Ok(())
}

/// Offset, client and number of each record in a range.
async fn records(
    it: &Launched<Ticks>,
    partition: PartitionId,
    range: Range<Offset>,
) -> Result<Vec<(Offset, (u64, u64))>, Error> {
    let mut found = Vec::new();
    let mut from = range.start;
    while from < range.end {
        let records = it.read_depot(it.depot, partition, from, 100).await?;
        let Some(last) = records.last() else { break };
        from = last.offset.advance(1);
        let each = records.into_iter().map(|it| (it.offset, (it.record.client, it.record.number)));
        found.extend(each);
    }
    Ok(found)
}
