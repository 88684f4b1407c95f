//! Data several times larger than the memory budget, and how much memory that takes.

use std::path::Path;

use futures_util::stream::{FuturesUnordered, StreamExt};
use serde::{Deserialize, Serialize};
use tidemill::module::{Depot, Module};
use tidemill::schema::{Map, PState};
use tidemill::{Engine, Launched, Options, block_on};

use crate::kit::{Process, argument, directory, tell};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Document {
    id: u64,
    text: String,
}

struct Library {
    incoming: Depot<Document>,
    copies: Depot<Document>,
    documents: PState<Map<u64, Document>>,
}

fn library(m: &Module) -> Library {
    let incoming = m.depot::<Document>("incoming").random();
    let copies = m.depot::<Document>("copies").hash_by(|it| &it.id);
    let shelf = m.microbatch(|| "shelf");
    let documents = shelf.pstate::<Map<u64, Document>>("documents");
    shelf
        .source(incoming)
        .hash_by(|it| &it.id)
        .using(documents)
        .for_each(async |at, documents, it: Document| Ok(at.put(documents.key(it.id), it)?));
    Library { incoming, copies, documents: documents.reader() }
}

/// MiB of budget; more can be asked for than a test run has time for.
fn budget_mib() -> u64 {
    std::env::var("TIDEMILL_TEST_BUDGET_MIB").ok().and_then(|it| it.parse().ok()).unwrap_or(16)
}

fn options(shards: u16) -> Options {
    Options { shards, memory_bytes: budget_mib() << 20, ..Options::default() }
}

/// What a process may take: the budget, and the constant that is stated beside it.
fn allowed_mib(shards: u16) -> u64 {
    budget_mib() + 128 + 32 * u64::from(shards)
}

const DOCUMENT_BYTES: usize = 1_000;

fn documents() -> u64 {
    (budget_mib() << 20) * 17 / 4 / DOCUMENT_BYTES as u64
}

fn document(id: u64) -> Document {
    let mut text = format!("{id:016x}").repeat(DOCUMENT_BYTES.div_ceil(16));
    text.truncate(DOCUMENT_BYTES - 32);
    Document { id, text }
}

/// The n-th number in an order that looks random and takes no memory.
fn shuffled(n: u64, count: u64) -> u64 {
    // The multiplier is a prime that divides no count used here.
    n * 7_368_787 % count
}

/// The most memory that this process has had, in MiB.
fn peak_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches("kB").trim().parse::<u64>().unwrap() >> 10
}

#[test]
fn data_four_times_the_budget_keeps_to_it() {
    let dir = directory("memory");
    for (child, shards) in [("fill", 2), ("recover", 2), ("deal", 3)] {
        let lines = Process::start(child, &dir, shards.into()).finish();
        println!("{child}: {lines:?}");
        let peak: u64 = lines.last().unwrap().parse().unwrap();
        let allowed = allowed_mib(shards);
        assert!(peak <= allowed, "{child}: {peak} MiB at the most, {allowed} are allowed");
    }
}

/// Child: writes the data and reads it at random.
pub(crate) fn fill(dir: &Path) {
    block_on(async {
        let engine = Engine::open(dir, options(2)).await.unwrap();
        let library = engine.launch("library", library).await.unwrap();
        let count = documents();
        let started = std::time::Instant::now();
        let mut waiting = FuturesUnordered::new();
        let mut next = 0;
        while next < count {
            let upto = (next + 64).min(count);
            let batch: Vec<_> = (next..upto).map(|n| document(shuffled(n, count))).collect();
            next = upto;
            waiting.push(library.append_many(library.incoming, &batch));
            // A second depot, so that there are tails that no topology reads.
            if next % 256 == 0 {
                drop(library.append_many(library.copies, &batch)); // It goes on.
            }
            if waiting.len() >= 64 {
                waiting.next().await.unwrap().unwrap();
            }
        }
        while let Some(appended) = waiting.next().await {
            appended.unwrap();
        }
        tell(format_args!("appended after {:?}, {} MiB", started.elapsed(), peak_mib()));
        library.caught_up("shelf").await.unwrap();
        tell(format_args!("applied after {:?}, {} MiB", started.elapsed(), peak_mib()));
        read_back(&library).await;
        tell(format_args!("read after {:?}", started.elapsed()));
        let counters = engine.counters().await.unwrap();
        let misses: u64 = counters.iter().map(|it| it.page_misses).sum();
        let reads = counters.iter().map(|it| it.journal_used_bytes >> 20).collect::<Vec<_>>();
        tell(format_args!("{misses} pages read, journals of {reads:?} MiB"));
        // It cannot have been in memory, so reading must have gone to the disk.
        assert!(misses > READS / 4, "{misses} page misses");
        drop(library);
        engine.stop().await;
        tell(peak_mib());
    });
}

const READS: u64 = 10_000;

async fn read_back(library: &Launched<Library>) {
    let count = documents();
    let mut reading = FuturesUnordered::new();
    for n in 0..READS {
        let id = shuffled(n * 31 % count, count);
        let read = library.select(library.documents.key(id));
        reading.push(async move { (id, read.await) });
        if reading.len() >= 256 {
            check(reading.next().await.unwrap());
        }
    }
    while let Some(read) = reading.next().await {
        check(read);
    }
    for first in (0..READS).step_by(200) {
        let ids: Vec<u64> = (first..first + 200).map(|n| shuffled(n % count, count)).collect();
        let paths = ids.iter().map(|id| library.documents.key(id));
        for read in ids.iter().zip(library.select_many(paths).await.unwrap()) {
            check((*read.0, Ok(read.1)));
        }
    }
}

fn check((id, read): (u64, Result<Option<Document>, tidemill::Error>)) {
    assert_eq!(read.unwrap(), Some(document(id)));
}

fn reopen(dir: &Path, shards: u16) {
    block_on(async {
        let started = std::time::Instant::now();
        let engine = Engine::open(dir, options(shards)).await.unwrap();
        let entries = engine.recovery().entries;
        let opened = peak_mib();
        tell(format_args!("opened after {:?}: {entries} entries, {opened} MiB", started.elapsed()));
        let library = engine.launch("library", library).await.unwrap();
        read_back(&library).await;
        drop(library);
        engine.stop().await;
        tell(peak_mib());
    });
}

/// Records of ten depots that no topology reads, and recovering them.
#[test]
fn records_that_nobody_reads_keep_to_the_budget() {
    let dir = directory("tails");
    for (child, shards) in [("tails", 2), ("reopen", 2), ("reopen", 3)] {
        let lines = Process::start(child, &dir, shards).finish();
        println!("{child} {shards}: {lines:?}");
        let peak: u64 = lines.last().unwrap().parse().unwrap();
        let allowed = allowed_mib(u16::try_from(shards).unwrap());
        assert!(peak <= allowed, "{child}: {peak} MiB at the most, {allowed} are allowed");
    }
}

fn shelves(m: &Module) -> Vec<Depot<Document>> {
    (0..10).map(|n| m.depot::<Document>(&format!("shelf-{n}")).random()).collect()
}

/// Child: opens, and appends a lot to ten depots.
pub(crate) fn tails(dir: &Path) {
    let shards = u16::try_from(argument()).unwrap();
    block_on(async {
        let engine = Engine::open(dir, options(shards)).await.unwrap();
        tell(format_args!("opened: {} entries, {} MiB", engine.recovery().entries, peak_mib()));
        let shelves = engine.launch("shelves", shelves).await.unwrap();
        let count = allowed_mib(2) * (5 << 18) / 65_536;
        let mut waiting = FuturesUnordered::new();
        for n in 0..count {
            let batch: Vec<_> = (0..64).map(|id| document(n * 64 + id)).collect();
            let shelf = shelves[usize::try_from(n % 10).unwrap()];
            waiting.push(shelves.append_many(shelf, &batch));
            if waiting.len() >= 16 {
                waiting.next().await.unwrap().unwrap();
            }
        }
        while let Some(appended) = waiting.next().await {
            appended.unwrap();
        }
        let counters = engine.counters().await.unwrap();
        let used: u64 = counters.iter().map(|it| it.journal_used_bytes >> 20).sum();
        tell(format_args!("appended, journals of {used} MiB"));
        drop(shelves);
        engine.stop().await;
        tell(peak_mib());
    });
}

/// Child: opens what the one before left, and ends as it is.
pub(crate) fn reopen_shelves(dir: &Path) {
    block_on(async {
        let shards = u16::try_from(argument()).unwrap();
        let engine = Engine::open(dir, options(shards)).await.unwrap();
        let shelves = engine.launch("shelves", shelves).await.unwrap();
        let partitions = (0..engine.partitions()).map(tidemill::types::PartitionId);
        let mut found = 0;
        for partition in partitions {
            for &shelf in &*shelves {
                let range = shelves.depot_range(shelf, partition).await.unwrap();
                found += range.end.0 - range.start.0;
            }
        }
        assert_eq!(found, allowed_mib(2) * (5 << 18) / 65_536 * 64);
        tell(format_args!("{} entries", engine.recovery().entries));
        drop(shelves);
        engine.stop().await;
        tell(peak_mib());
    });
}

/// Records so large that a microbatch of the usual number would not fit.
#[test]
fn large_records_keep_to_the_budget() {
    let dir = directory("large");
    let lines = Process::start("large", &dir, 2).finish();
    println!("large: {lines:?}");
    let peak: u64 = lines.last().unwrap().parse().unwrap();
    let allowed = allowed_mib(2);
    assert!(peak <= allowed, "{peak} MiB at the most, {allowed} are allowed");
}

/// Child: large records through a topology.
pub(crate) fn large(dir: &Path) {
    block_on(async {
        let engine = Engine::open(dir, options(2)).await.unwrap();
        // The topology comes when everything is there, so that nothing but the engine bounds a microbatch.
        let only_depot = |m: &Module| m.depot::<Document>("incoming").random();
        let depot = engine.launch("library", only_depot).await.unwrap();
        let count = allowed_mib(2) * 2 * 16;
        let large = |id: u64| Document { id, text: "x".repeat(64 << 10) };
        let mut waiting = FuturesUnordered::new();
        for n in 0..count {
            waiting.push(depot.append(*depot, &large(n)));
            if waiting.len() >= 32 {
                waiting.next().await.unwrap().unwrap();
            }
        }
        while let Some(appended) = waiting.next().await {
            appended.unwrap();
        }
        tell(format_args!("appended, {} MiB", peak_mib()));
        drop(depot);
        engine.close().await.unwrap();
        let engine = Engine::open(dir, options(2)).await.unwrap();
        let library = engine.launch("library", library).await.unwrap();
        let overlays = overlays_while(&engine, library.caught_up("shelf")).await;
        tell(format_args!("applied, overlays of {} MiB at the most", overlays >> 20));
        // Whatever the pace of the folds is: their share, and the microbatches under way.
        let overlays_max = (budget_mib() << 20) / 4 + (24 << 20);
        assert!(overlays <= overlays_max, "overlays of {overlays} bytes");
        let found = library.select(library.documents.key(count / 2)).await.unwrap();
        assert_eq!(found.unwrap().text.len(), 64 << 10);
        drop(library);
        engine.stop().await;
        tell(peak_mib());
    });
}

/// The most that overlays took of the memory while something went on.
async fn overlays_while<E: std::fmt::Debug>(
    engine: &Engine,
    work: impl Future<Output = Result<(), E>>,
) -> u64 {
    let done = std::cell::Cell::new(false);
    let watch = async {
        let mut most = 0;
        while !done.get() {
            let counters = engine.counters().await.unwrap();
            most = counters.iter().map(|it| it.overlay_bytes).sum::<u64>().max(most);
        }
        most
    };
    let work = async {
        work.await.unwrap();
        done.set(true);
    };
    futures_util::future::join(watch, work).await.0
}

/// Child: recovers what the one before left.
pub(crate) fn recover(dir: &Path) {
    reopen(dir, 2);
}

/// Child: deals the partitions out to three shards.
pub(crate) fn deal(dir: &Path) {
    reopen(dir, 3);
}
