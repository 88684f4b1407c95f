//! What an engine costs that has nothing to do.

use std::path::Path;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tidemill::module::{Depot, Module};
use tidemill::schema::aggregate::Sum;
use tidemill::schema::{Map, PState};
use tidemill::{Engine, Options, block_on};

use crate::kit::{Process, directory, tell};

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Item {
    key: u64,
    amount: i64,
}

struct Ten {
    depots: Vec<Depot<Item>>,
    sums: PState<Map<u64, i64>>,
}

fn ten(m: &Module) -> Ten {
    let depots: Vec<_> =
        (0..10).map(|n| m.depot::<Item>(&format!("depot-{n}")).hash_by(|it| &it.key)).collect();
    let totals = m.microbatch(|| "totals");
    let sums = totals.pstate::<Map<u64, i64>>("sums");
    for &depot in &depots {
        totals.source(depot).aggregate(sums, |sums, it| sums.key(it.key).add(Sum(it.amount)));
    }
    Ten { depots, sums: sums.reader() }
}

fn options() -> Options {
    Options { shards: 2, ..Options::default() }
}

/// Bytes of disk that a directory takes, and not only the lengths of its files.
fn disk_bytes(dir: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let mut bytes = 0;
    for entry in std::fs::read_dir(dir).unwrap() {
        let entry = entry.unwrap();
        let metadata = entry.metadata().unwrap();
        bytes += metadata.blocks() * 512;
        if metadata.is_dir() {
            bytes += disk_bytes(&entry.path());
        }
    }
    bytes
}

/// CPU time that all threads of this process have used.
fn cpu_time() -> Duration {
    let mut nanoseconds = 0;
    for task in std::fs::read_dir("/proc/self/task").unwrap() {
        let path = task.unwrap().path().join("schedstat");
        let stat = std::fs::read_to_string(path).unwrap_or_default();
        nanoseconds += stat.split(' ').next().and_then(|it| it.parse().ok()).unwrap_or(0);
    }
    Duration::from_nanos(nanoseconds)
}

#[test]
fn an_empty_engine_with_ten_depots_takes_little_disk() {
    let dir = directory("empty");
    block_on(async {
        for opening in 0..3 {
            let started = Instant::now();
            let engine = Engine::open(&dir, options()).await.unwrap();
            let opened = started.elapsed();
            let ten = engine.launch("ten", ten).await.unwrap();
            let launched = started.elapsed();
            let bytes = disk_bytes(&dir);
            println!(
                "opening {opening}: {opened:?}, with launch {launched:?}, {} MiB",
                bytes >> 20
            );
            assert!(bytes < 200 << 20, "{bytes} bytes of disk");
            for (key, &depot) in (0..).zip(&ten.depots) {
                let item = Item { key, amount: 1 };
                let appended = ten.append(depot, &item).await.unwrap();
                ten.wait("totals", &appended).await.unwrap();
                assert_eq!(ten.select(ten.sums.key(key)).await.unwrap(), Some(opening + 1));
            }
            drop(ten);
            // Once after a clean end, once after a crash.
            if opening == 0 { engine.close().await.unwrap() } else { engine.stop().await }
        }
    });
}

#[test]
fn an_idle_engine_sleeps() {
    let lines = Process::start("idle", &directory("idle"), 0).finish();
    println!("{lines:?}");
    let used: f64 = lines[0].parse().unwrap();
    // Asked for are 2 % of a core and shard; the margin is for machines that are busy otherwise.
    assert!(used < 10.0, "{used} % of a core per shard");
}

/// Child: opens, does something, and tells how much CPU it uses afterwards, in percent per shard.
pub(crate) fn idle(dir: &Path) {
    block_on(async {
        let engine = Engine::open(dir, options()).await.unwrap();
        let ten = engine.launch("ten", ten).await.unwrap();
        let appended = ten.append(ten.depots[0], &Item { key: 1, amount: 1 }).await.unwrap();
        ten.wait("totals", &appended).await.unwrap();
        std::thread::sleep(Duration::from_secs(1));
        let before = (cpu_time(), Instant::now());
        std::thread::sleep(Duration::from_secs(4));
        let used =
            cpu_time().saturating_sub(before.0).as_secs_f64() / before.1.elapsed().as_secs_f64();
        tell(format_args!("{:.2}", used * 100.0 / f64::from(engine.shards())));
        engine.stop().await;
    });
}
