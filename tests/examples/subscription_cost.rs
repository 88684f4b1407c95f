//! What subscribers cost a commit that touches none of them: instructions, counted by callgrind in worlds that
//! differ in nothing but the number of subscribers. Fails if it is 1 % or more with 10,000 of them.
//!
//! ```text
//! cargo run --release -p tidemill-tests --example subscription_cost
//! ```
//!
//! A commit here is a microbatch of 16 records, each of which adds to a key of its own: the engine from the append to
//! the merge, with the simulated disk in place of a real one. Two runs of different length, taken apart, leave
//! out what happens once; several seeds and many commits level out when folds happen to be. The allocator is that of
//! the load generator: that of the C library takes more or fewer instructions for the same request, by what was freed
//! before, and ten thousand registrations free much. Built without `lto`, it gave 741,492 and 743,351 instructions,
//! +0.25 %; single seeds from -0.06 to +0.48 %. (With the C library's, 200 commits of eight seeds gave from -0.4 to +2.5 %,
//! on average 1.24 %, when the index took about two thousand instructions more.) Heartbeats, which cost by time and not by commit, are left out:
//! simulated time has nothing to do with instructions.

#![allow(clippy::unwrap_used, reason = "a measurement ends when anything fails")]

use std::process::{Command, ExitCode};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::try_join_all;
use tidemill::client::Engine;
use tidemill::module::{Depot, Module};
use tidemill::node::Options;
use tidemill::schema::aggregate::Sum;
use tidemill::schema::{Map, PState};
use tidemill_tests::small;
use tidemill_tests::world::{self, World};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const SUBSCRIBERS: u64 = 10_000;
const COMMITS: [u64; 2] = [50, 850];
const RECORDS: u64 = 16;
/// From 1 on.
const SEEDS: u64 = 3;

struct Bank {
    deposits: Depot<(u64, i64)>,
    funds: PState<Map<u64, i64>>,
}

fn bank(m: &Module) -> Bank {
    let deposits = m.depot::<(u64, i64)>("deposits").hash_by(|(account, _)| account);
    let ledger = m.microbatch(|| "ledger");
    let funds = ledger.pstate::<Map<u64, i64>>("funds");
    ledger.source(deposits).aggregate(funds, |funds, (to, cents)| funds.key(to).add(Sum(cents)));
    Bank { deposits, funds: funds.reader() }
}

/// Runs so many commits, none of which touches a subscriber.
fn commit(seed: u64, subscribers: u64, commits: u64) {
    let options = world::Options { polls_max: u64::MAX, ..world::Options::seed(seed) };
    let ran = World::run(&options, move |world| async move {
        let heartbeat = Duration::from_hours(24);
        let options = Options { subscription_heartbeat: heartbeat, ..small::options(1) };
        let platform = Arc::new(world.node().platform());
        let engine = Engine::open_on(platform, options, |_| {}).await.unwrap();
        let bank = engine.launch("bank", bank).await.unwrap();
        let subscribed = (0..subscribers).map(|account| bank.subscribe(bank.funds.key(account)));
        let subscribed = try_join_all(subscribed).await.unwrap();
        for commit in 0..commits {
            let first = SUBSCRIBERS + commit * RECORDS;
            let deposits: Vec<(u64, i64)> = (first..first + RECORDS).map(|it| (it, 1)).collect();
            bank.append_many(bank.deposits, &deposits).await.unwrap();
            bank.caught_up("ledger").await.unwrap();
        }
        assert!(subscribed.iter().all(|it| it.value().is_none()));
        engine.stop().await;
    });
    ran.result.unwrap();
}

/// Instructions of a run of this program with these arguments.
fn count(seed: u64, subscribers: u64, commits: u64) -> u64 {
    let mut command = Command::new("valgrind");
    command.args(["--tool=callgrind", "--callgrind-out-file=/dev/null"]);
    command.arg(std::env::current_exe().unwrap());
    command.args([seed, subscribers, commits].map(|it| it.to_string()));
    let ran = command.output().unwrap();
    let told = String::from_utf8_lossy(&ran.stderr);
    assert!(ran.status.success(), "{told}");
    let collected = told.lines().find_map(|line| line.split_once("Collected :"));
    collected.expect("callgrind tells what it collected").1.trim().parse().unwrap()
}

fn main() -> ExitCode {
    let arguments: Vec<u64> = std::env::args().skip(1).map(|it| it.parse().unwrap()).collect();
    if let [seed, subscribers, commits] = arguments[..] {
        commit(seed, subscribers, commits);
        return ExitCode::SUCCESS;
    }
    if Command::new("valgrind").arg("--version").output().is_err() {
        println!("skipped: there is no valgrind here to count instructions with");
        return ExitCode::SUCCESS;
    }
    let mut all = [0, 0];
    for seed in 1..=SEEDS {
        let [without, with] = [0, SUBSCRIBERS].map(|subscribers| {
            let [few, many] = COMMITS.map(|commits| count(seed, subscribers, commits));
            (many - few) / (COMMITS[1] - COMMITS[0])
        });
        println!("seed {seed}: {without} instructions a commit, {with} beside subscribers");
        all = [all[0] + without, all[1] + with];
    }
    let [without, with] = all.map(|it| it / SEEDS);
    let [before, after] = [without, with].map(|it| f64::from(u32::try_from(it).unwrap()));
    let more = (after - before) / before * 100.0;
    println!(
        "a commit of {RECORDS} records: {without} instructions, {with} beside {SUBSCRIBERS} subscribers of \
         other keys: {more:+.2} %"
    );
    if more < 1.0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
