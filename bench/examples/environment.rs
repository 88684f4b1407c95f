//! What the environment costs: durable writes against the raw ring, the mesh, clients, and sleep.
//!
//! `cargo run --release -p tidemill-bench --example environment [DIR] [SPIN_US] [ROUNDS]`

#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "it measures real time from real threads"
)]

use std::cell::Cell;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use tidemill::env::production::{Options, Production, Threads};
use tidemill::env::{Buf, Class, Env, LocalFuture, Open, Platform, Sync};
use tidemill::types::ShardId;
use tidemill_bench::ceiling::{Direction, Phase, RawFile, measure};
use tidemill_bench::meter::{Latencies, Usage};

fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let dir = PathBuf::from(arguments.next().unwrap_or_else(|| "environment-data".to_owned()));
    let spin = arguments.next().map_or(Ok(50), |spin| spin.parse())?;
    let rounds: u32 = arguments.next().map_or(Ok(3), |rounds| rounds.parse())?;
    let threads = Threads { spin: Duration::from_micros(spin), ..Threads::default() };
    let options = Options { shards: 2, threads, ..Options::default() };
    let production = Production::open(&dir, options)?;
    for _ in 0..rounds {
        for depth in [1, 16] {
            raw_writes(&dir, depth)?;
            env_writes(&production, depth as u64);
        }
    }
    for round in 0..rounds {
        for pause in [Duration::ZERO, Duration::from_millis(1), Duration::from_secs(1)] {
            for (readers, class) in
                [(0, Class::Client), (256, Class::Topology), (256, Class::Client)]
            {
                // The first round also fills the file that is read.
                beside_reads(&production, readers, class, pause, round == 0);
            }
        }
    }
    for pause in [Duration::ZERO, Duration::from_millis(2)] {
        clients(&production, pause);
    }
    mesh(&production);
    idle(&production);
    drop(production);
    std::fs::remove_dir_all(dir)?;
    Ok(())
}

fn raw_writes(dir: &Path, depth: usize) -> anyhow::Result<()> {
    let path = dir.join("raw");
    let mut file = RawFile::create(&path, 64 << 20, 1)?;
    let phase = Phase { direction: Direction::Write, bytes: 4096, depth };
    let sounding = measure(&mut file, phase, 1.0, 1)?;
    let (outcome, latency) = (&sounding.outcome, &sounding.outcome.latency_us);
    println!(
        "raw durable 4k x{depth}: {:.0}/s, p50 {:.1} us, p99 {:.1} us, {:.2} s CPU",
        outcome.per_second, latency.p50, latency.p99, outcome.cpu_seconds
    );
    std::fs::remove_file(path)?;
    Ok(())
}

fn env_writes(production: &Production, depth: u64) {
    let before = Usage::now();
    let latencies = on_shard(production, ShardId(0), move |env| {
        Box::pin(async move {
            let disk = env.disk();
            let file = disk.open("env", Open::Any).await.expect("opened");
            let blocks = 16_384_u64;
            file.allocate(blocks * 4096).await.expect("allocated");
            for at in (0..blocks * 4096).step_by(1 << 20) {
                file.write(at, Buf::zeroed(1 << 20), Sync::No).await.0.expect("written");
            }
            file.sync().await.expect("synced");
            let until = Instant::now() + Duration::from_secs(1);
            let writers = (0..depth).map(|writer| {
                let file = &file;
                async move {
                    let mut latencies = Latencies::default();
                    let mut buf = Buf::zeroed(4096);
                    let mut block = writer;
                    while Instant::now() < until {
                        let started_at = Instant::now();
                        let (result, back) = file.write(block * 4096, buf, Sync::Data).await;
                        result.expect("written");
                        latencies.record(started_at.elapsed());
                        buf = back;
                        block = (block + depth) % blocks;
                    }
                    latencies
                }
            });
            let mut all = Latencies::default();
            for latencies in join_all(writers).await {
                all.merge(&latencies);
            }
            all
        })
    });
    let used = Usage::now().since(before);
    let latency = latencies.summary();
    println!(
        "env durable 4k x{depth}: {}/s, p50 {:.1} us, p99 {:.1} us, {:.2} s CPU with filling",
        latencies.count(),
        latency.p50,
        latency.p99,
        used.cpu_seconds
    );
}

/// Durable writes, one after the other, beside random reads that tasks of one class ask for.
fn beside_reads(
    production: &Arc<Production>,
    readers: u64,
    class: Class,
    pause: Duration,
    fill: bool,
) {
    const BLOCKS: u64 = 131_072;
    let (latencies, reads) = on_shard(production, ShardId(0), move |env| {
        Box::pin(async move {
            let disk = env.disk();
            let file = disk.open("read", Open::Any).await.expect("opened");
            if fill && file.len().expect("asked") < BLOCKS * 4096 {
                for at in (0..BLOCKS * 4096).step_by(1 << 20) {
                    file.write(at, Buf::zeroed(1 << 20), Sync::No).await.0.expect("written");
                }
                file.sync().await.expect("synced");
            }
            let log = disk.open("env", Open::Any).await.expect("opened");
            let until = Instant::now() + Duration::from_secs(2);
            let reads = Rc::new(Cell::new(0_u64));
            let running = Rc::new(Cell::new(readers));
            for _ in 0..readers {
                let (reader, file, reads) = (env.clone(), Rc::clone(&file), Rc::clone(&reads));
                let running = Rc::clone(&running);
                env.spawn(class, "reader", async move {
                    let mut buf = Buf::zeroed(4096);
                    while Instant::now() < until {
                        let (result, back) = file.read(reader.random() % BLOCKS * 4096, buf).await;
                        assert_eq!(result.expect("read"), 4096);
                        buf = back;
                        reads.set(reads.get() + 1);
                    }
                    running.set(running.get() - 1);
                });
            }
            let mut latencies = Latencies::default();
            let (mut buf, mut block) = (Buf::zeroed(4096), 0);
            while Instant::now() < until {
                let started_at = Instant::now();
                let (result, back) = log.write(block * 4096, buf, Sync::Data).await;
                result.expect("written");
                latencies.record(started_at.elapsed());
                (buf, block) = (back, (block + 1) % 16_384);
                if !pause.is_zero() {
                    env.sleep(pause).await;
                }
            }
            while running.get() > 0 {
                env.sleep(Duration::from_millis(1)).await;
            }
            (latencies, reads.get())
        })
    });
    let latency = latencies.summary();
    println!(
        "durable 4k every {pause:?} beside {readers} reads of {class:?}: {} writes, p50 {:.0} us, \
         p99 {:.0} us; {} reads/s",
        latencies.count(),
        latency.p50,
        latency.p99,
        reads / 2,
    );
}

type Question = std::sync::mpsc::SyncSender<()>;

fn clients(production: &Arc<Production>, pause: Duration) {
    start(production, ShardId(0), |env| Box::pin(answer(env)));
    let mut latencies = Latencies::default();
    let before = Usage::now();
    for _ in 0..if pause.is_zero() { 100_000 } else { 500 } {
        let (question, answer) = std::sync::mpsc::sync_channel(1);
        let started_at = Instant::now();
        production.post(ShardId(0), Box::new(Some::<Question>(question)));
        answer.recv().expect("answered");
        latencies.record(started_at.elapsed());
        if !pause.is_zero() {
            std::thread::sleep(pause);
        }
    }
    let used = Usage::now().since(before);
    production.post(ShardId(0), Box::new(None::<Question>));
    wait_for(production, ShardId(0));
    let latency = latencies.summary();
    println!(
        "client round trip, {pause:?} between: p50 {:.2} us, p99 {:.2} us, {:.2} s CPU",
        latency.p50, latency.p99, used.cpu_seconds
    );
}

async fn answer(env: Env) {
    loop {
        for (_, parcel) in env.mesh().receive().await {
            match *parcel.downcast::<Option<Question>>().expect("only questions") {
                Some(question) => question.send(()).expect("somebody waits"),
                None => return,
            }
        }
    }
}

fn mesh(production: &Arc<Production>) {
    start(production, ShardId(1), |env| {
        Box::pin(async move {
            loop {
                for (_, parcel) in env.mesh().receive().await {
                    let last = *parcel.downcast_ref::<u64>().expect("a number") == u64::MAX;
                    env.mesh().send(ShardId(0), parcel);
                    if last {
                        return;
                    }
                }
            }
        })
    });
    let (latencies, stream) = on_shard(production, ShardId(0), |env| {
        Box::pin(async move {
            let mut latencies = Latencies::default();
            for number in 0..100_000_u64 {
                let started_at = Instant::now();
                env.mesh().send(ShardId(1), Box::new(number));
                env.mesh().receive().await;
                latencies.record(started_at.elapsed());
            }
            let started_at = Instant::now();
            let (count, mut received) = (1_000_000_u64, 0);
            for number in 0..count {
                env.mesh().send(ShardId(1), Box::new(number));
                if number % 256 == 0 {
                    env.yield_now().await;
                }
            }
            while received < count {
                received += env.mesh().receive().await.len() as u64;
            }
            let stream = started_at.elapsed();
            env.mesh().send(ShardId(1), Box::new(u64::MAX));
            (latencies, stream)
        })
    });
    wait_for(production, ShardId(1));
    let latency = latencies.summary();
    println!("mesh round trip: p50 {:.2} us, p99 {:.2} us", latency.p50, latency.p99);
    println!("mesh stream: a million parcels there and back in {stream:?}");
}

fn idle(production: &Arc<Production>) {
    for shard in [ShardId(0), ShardId(1)] {
        start(production, shard, |env| {
            Box::pin(async move {
                env.mesh().receive().await;
            })
        });
    }
    std::thread::sleep(Duration::from_millis(100));
    let before = Usage::now();
    std::thread::sleep(Duration::from_secs(3));
    let used = Usage::now().since(before);
    println!("two idle shards over 3 s: {:.1} ms CPU", used.cpu_seconds * 1e3);
    for shard in [ShardId(0), ShardId(1)] {
        production.post(shard, Box::new(()));
        wait_for(production, shard);
    }
}

fn start(
    production: &Production,
    shard: ShardId,
    main: impl FnOnce(Env) -> LocalFuture<'static, ()> + Send + 'static,
) {
    production.start(shard, Box::new(main)).expect("the shard starts");
}

/// Runs `body` as a shard and waits for its result.
fn on_shard<T: Send + 'static>(
    production: &Production,
    shard: ShardId,
    body: impl FnOnce(Env) -> LocalFuture<'static, T> + Send + 'static,
) -> T {
    let (done, result) = std::sync::mpsc::sync_channel(1);
    start(production, shard, move |env| {
        let future = body(env);
        Box::pin(async move { done.send(future.await).unwrap_or_default() })
    });
    let result = result.recv().expect("the shard got through");
    wait_for(production, shard);
    result
}

fn wait_for(production: &Production, shard: ShardId) {
    let mut ended = production.ended(shard);
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    while ended.as_mut().poll(&mut context).is_pending() {
        std::thread::sleep(Duration::from_micros(100));
    }
}
