//! Rows that hop with hardly any credit: they arrive, in order, once, while shards fail and records are
//! rejected.

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "a test has threads and clocks of its own"
)]

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tidemill::client::{Engine, Launched, block_on};
use tidemill::module::{Depot, Module};
use tidemill::node::Options;
use tidemill::schema::{Map, PState};
use tidemill::types::ShardId;

#[path = "holds/directory.rs"]
mod directory;

use directory::directory;

/// One record becomes a row for each target, three times over.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Burst {
    source: u64,
    number: u64,
}

const TARGETS: u64 = 16;
const COPIES: u64 = 3;
const SOURCES: u64 = 8;

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Ray {
    source: u64,
    target: u64,
    place: u64,
    /// So that few fit any credit.
    ballast: [u64; 16],
}

struct Rays {
    bursts: Depot<Burst>,
    /// Per way from a source to a target, how many rays came and how many of them after a later one.
    came: PState<Ways>,
}

/// By target and source.
type Ways = Map<(u64, u64), (u64, u64, u64)>;

fn rays(m: &Module) -> Rays {
    let bursts = m.depot::<Burst>("bursts").hash_by(|burst| &burst.source);
    let t = m.microbatch(|| "rays");
    let came = t.pstate::<Ways>("came");
    t.source(bursts)
        .flat_map(|burst: Burst| {
            let Burst { source, number } = burst;
            (0..TARGETS * COPIES).map(move |ray| Ray {
                source,
                target: ray % TARGETS,
                place: number * COPIES + ray / TARGETS + 1,
                ballast: [ray; 16],
            })
        })
        .hash_by(|ray| &ray.target)
        // And once more, so that shards send while they receive.
        .map(|ray| ray)
        .hash_by_value(|ray| (ray.target, ray.source))
        .using(came)
        .for_each(async |at, came, ray: Ray| {
            let key = (ray.target, ray.source);
            let (count, late, last) = at.get(came.key(key)).await?.unwrap_or_default();
            let late = late + u64::from(ray.place <= last);
            Ok(at.put(came.key(key), (count + 1, late, ray.place.max(last)))?)
        });
    Rays { bursts, came: came.reader() }
}

fn open(name: &str, shards: u16, hop_bytes_max: u64) -> (Engine, Launched<Rays>) {
    let options = Options { shards, partitions: Some(8), hop_bytes_max, ..Options::default() };
    let engine = block_on(Engine::open(directory(name), options)).unwrap();
    let module = block_on(engine.launch("rays", rays)).unwrap();
    (engine, module)
}

fn append(module: &Launched<Rays>, from: u64, to: u64) {
    for source in 0..SOURCES {
        let bursts: Vec<_> = (from..to).map(|number| Burst { source, number }).collect();
        block_on(module.append_many(module.bursts, &bursts)).unwrap();
    }
}

/// Everything came, once and in order.
fn check(engine: &Engine, module: &Launched<Rays>, bursts: u64) {
    let waiting = module.clone();
    let (done, finished) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        // Nobody listens any more if it took too long.
        let _unheard = done.send(block_on(async { waiting.caught_up("rays").await }));
    });
    if let Ok(result) = finished.recv_timeout(Duration::from_mins(1)) {
        result.unwrap();
    } else {
        for shard in (0..engine.shards()).map(ShardId) {
            println!("{}", block_on(engine.describe_shard(shard)).unwrap());
        }
        panic!("not caught up within a minute");
    }
    for source in 0..SOURCES {
        for target in 0..TARGETS {
            let key = module.came.key((target, source));
            let found = block_on(module.select(key)).unwrap().unwrap();
            assert_eq!(found, (bursts * COPIES, 0, bursts * COPIES), "of {source} at {target}");
        }
    }
}

fn spilled(engine: &Engine) -> u64 {
    block_on(engine.counters()).unwrap().iter().map(|it| it.rows_spilled).sum()
}

#[test]
fn rows_arrive_in_order_whatever_the_credit() {
    for (shards, hop_bytes_max) in [(2, 1), (3, 1_000), (2, 100_000)] {
        let (engine, module) =
            open(&format!("credit-{shards}-{hop_bytes_max}"), shards, hop_bytes_max);
        append(&module, 0, 300);
        check(&engine, &module, 300);
        assert!(spilled(&engine) > 0, "the credit was enough: nothing was tested");
        block_on(engine.close()).unwrap();
    }
}

#[test]
fn with_the_default_credit_little_waits() {
    let (engine, module) = open("credit-default", 2, Options::default().hop_bytes_max);
    append(&module, 0, 20);
    check(&engine, &module, 20);
    assert_eq!(spilled(&engine), 0);
    block_on(engine.close()).unwrap();
}

#[test]
fn credit_ends_with_the_life_of_a_shard() {
    let (engine, module) = open("credit-lives", 3, 500);
    let mut bursts = 0;
    for shard in [1, 2, 1].map(ShardId) {
        let before = spilled(&engine);
        append(&module, bursts, bursts + 200);
        bursts += 200;
        let started = Instant::now();
        while spilled(&engine) == before {
            assert!(started.elapsed() < Duration::from_mins(1), "nothing waits for credit");
        }
        engine.fail_shard(shard, "a test");
        while engine.stopped(shard).is_none() {
            assert!(started.elapsed() < Duration::from_mins(1), "the shard does not stop");
            std::thread::sleep(Duration::from_millis(1));
        }
        block_on(engine.reopen_shard(shard)).unwrap();
        check(&engine, &module, bursts);
    }
    block_on(engine.close()).unwrap();
}
