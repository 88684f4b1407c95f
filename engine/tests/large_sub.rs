//! A `Sub` with very many elements: what a page from its middle costs, and the deletion of its parent.
//!
//! `cargo test --release --test large_sub -- --include-ignored --nocapture` fills one with ten million.

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "tests look at the engine from outside, with clocks"
)]

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tidemill::env::production::{self, Production, SlowPolls};
use tidemill::module::{Depot, Module};
use tidemill::schema::{Map, PState, Sub};
use tidemill::shard::Counters;
use tidemill::testing::{EventHook, Io};
use tidemill::{Engine, Launched, Options, block_on};

#[path = "holds/directory.rs"]
mod directory;

use directory::directory;

#[derive(Clone, Debug, Serialize, Deserialize)]
enum Task {
    /// Elements from the first on, so many.
    Fill {
        of: u64,
        first: u64,
        count: u64,
    },
    /// A page from there on, into `pages`.
    Page {
        of: u64,
        from: u64,
    },
    Delete {
        of: u64,
    },
}

impl Task {
    fn of(&self) -> &u64 {
        match self {
            Self::Fill { of, .. } | Self::Page { of, .. } | Self::Delete { of } => of,
        }
    }
}

struct Large {
    tasks: Depot<Task>,
    elements: PState<Map<u64, Sub<Map<u64, u64>>>>,
    pages: PState<Map<u64, Vec<(u64, u64)>>>,
}

fn large(m: &Module) -> Large {
    let tasks = m.depot::<Task>("tasks").hash_by(Task::of);
    let t = m.microbatch(|| "large");
    let elements = t.pstate::<Map<u64, Sub<Map<u64, u64>>>>("elements");
    let pages = t.pstate::<Map<u64, Vec<(u64, u64)>>>("pages");
    t.source(tasks).using((elements, pages)).for_each(async |at, (elements, pages), task| {
        match task {
            Task::Fill { of, first, count } => {
                for n in first..first + count {
                    at.put(elements.key(of).key(n), value(n))?;
                }
            }
            Task::Page { of, from } => {
                let page = at.get(elements.key(of).range(from..).limit(PAGE)).await?;
                at.put(pages.key(of), page)?;
            }
            Task::Delete { of } => at.delete(elements.key(of))?,
        }
        Ok(())
    });
    Large { tasks, elements: elements.reader(), pages: pages.reader() }
}

const PAGE: u64 = 20;

/// Elements that one record fills in.
const AT_ONCE: u64 = 4_096;

/// The parent with many elements, and one in the same partition with few.
const PARENT: u64 = 7;

fn value(n: u64) -> u64 {
    n * 31
}

fn page(from: u64) -> Vec<(u64, u64)> {
    (from..from + PAGE).map(|n| (n, value(n))).collect()
}

/// An engine whose events and polls are watched.
struct Watched {
    engine: Engine,
    large: Launched<Large>,
    production: Arc<Production>,
    io: Arc<Mutex<Io>>,
}

impl Watched {
    fn open(dir: &Path, memory_bytes: u64) -> Self {
        let io = Arc::new(Mutex::new(Io::default()));
        let told = Arc::clone(&io);
        let event_hook = EventHook::new(move |event| *told.lock().unwrap() += event.io);
        let production = Production::open(dir, production::Options::default()).unwrap();
        let options = Options {
            shards: 1,
            // One, so that everything is in one tree.
            partitions: Some(1),
            // Far less than the elements take, so that what is read has to be fetched.
            memory_bytes,
            event_hook: Some(event_hook),
            ..Options::default()
        };
        let platform = Arc::clone(&production);
        let engine = block_on(Engine::open_on(platform, options, |_| {})).unwrap();
        let large = block_on(engine.launch("large", large)).unwrap();
        Self { engine, large, production, io }
    }

    /// Gives the topology tasks, waits until they are done, and says what they asked of the partition.
    fn run(&self, tasks: &[Task]) -> Io {
        *self.io.lock().unwrap() = Io::default();
        block_on(self.large.append_many(self.large.tasks, tasks)).unwrap();
        block_on(self.large.caught_up("large")).unwrap();
        *self.io.lock().unwrap()
    }

    fn fill(&self, of: u64, elements: u64) {
        let tasks = (0..elements).step_by(usize::try_from(AT_ONCE).unwrap());
        let tasks: Vec<Task> = tasks
            .map(|first| Task::Fill { of, first, count: AT_ONCE.min(elements - first) })
            .collect();
        // So few that their writes fit one microbatch.
        for tasks in tasks.chunks(32) {
            self.run(tasks);
        }
        block_on(self.engine.fold()).unwrap();
    }

    fn counters(&self) -> Counters {
        block_on(self.engine.counters()).unwrap().remove(0)
    }
}

/// Polls of more than 2 ms since `before`, without those that may be the machine's.
fn slow(before: &SlowPolls, after: &SlowPolls) -> u64 {
    (after.count - before.count) - (after.preempted_count - before.preempted_count)
}

fn check(elements: u64, memory_bytes: u64, name: &str) {
    let dir = directory(name);
    let it = Watched::open(&dir, memory_bytes);
    let started = Instant::now();
    it.fill(PARENT, elements);
    let neighbours = [PARENT - 1, PARENT + 1];
    for of in neighbours {
        it.fill(of, 100);
    }
    println!("{elements} elements filled in within {:.1} s", started.elapsed().as_secs_f64());

    // A page from the middle, for an event: one seek, and the rows that it has.
    let middle = elements / 2;
    let io = it.run(&[Task::Page { of: PARENT, from: middle }]);
    assert_eq!(io, Io { scans: 1, rows_scanned: PAGE, puts: 1, ..Io::default() });
    assert_eq!(io.seeks(), 1);
    let read = block_on(it.large.select(it.large.pages.key(PARENT))).unwrap();
    assert_eq!(read.unwrap(), page(middle));

    // The same for a client: no more pages are fetched than the way down has, and the leaf behind.
    let before = it.counters();
    let from = middle / 2;
    let started = Instant::now();
    let path = it.large.elements.key(PARENT).range(from..).limit(PAGE);
    assert_eq!(block_on(it.large.select(path)).unwrap(), page(from));
    let elapsed = started.elapsed();
    let fetched = it.counters().page_misses - before.page_misses;
    println!("a page for a client: {fetched} pages fetched, {elapsed:?}");
    assert!(fetched <= 6, "{fetched} pages for one seek");

    // The deletion of the parent: one write, and nothing is read.
    let polls = it.production.slow_polls();
    let io = it.run(&[Task::Delete { of: PARENT }]);
    assert_eq!(io, Io { range_deletes: 1, ..Io::default() });
    let all = it.large.elements.key(PARENT).all();
    assert_eq!(block_on(it.large.select(all.clone())).unwrap(), []);

    // What is left for the background: to free the pages.
    let before = it.counters();
    let started = Instant::now();
    block_on(it.engine.fold()).unwrap();
    let elapsed = started.elapsed();
    let fetched = it.counters().page_misses - before.page_misses;
    let after = it.production.slow_polls();
    let slow = slow(&polls, &after);
    println!(
        "the deletion: {elapsed:?} in the background, {fetched} pages fetched, {slow} polls over 2 ms, of {} \
         with those in which the core may have been away",
        after.count - polls.count
    );
    assert_eq!(block_on(it.large.select(all)).unwrap(), []);
    for of in neighbours {
        let rest = block_on(it.large.select(it.large.elements.key(of).all())).unwrap();
        assert_eq!(rest, (0..100).map(|n| (n, value(n))).collect::<Vec<_>>());
    }
    // Leaves hold at least fifty of these elements; only what is above them is read.
    assert!(fetched <= 8 + elements / 1_000, "{fetched} pages fetched to free {elements} elements");
    // Without optimisation, and beside other tests, time says nothing.
    if !cfg!(debug_assertions) {
        assert!(elapsed <= Duration::from_secs(1), "{elapsed:?}");
        assert_eq!(slow, 0, "{:?}", after.recent);
    }
    let Watched { engine, large, .. } = it;
    drop(large);
    block_on(engine.close()).unwrap();
}

#[test]
fn two_hundred_thousand_elements() {
    check(200_000, 2 << 20, "large-sub");
}

#[test]
#[ignore = "takes minutes: for a machine that is not busy"]
fn ten_million_elements() {
    check(10_000_000, 64 << 20, "large-sub-10m");
}
