//! What a typed read of a key costs beside a raw read of the tree, in instructions; 1.3 times as much is asked
//! for, and more makes the program fail.
//!
//! `cargo run --release -p tidemill-bench --example path_cost`
//!
//! Instructions, unlike time, are the same on every machine and beside every load. The program runs itself
//! under `valgrind --tool=callgrind` (where that is missing, it says so and measures nothing), each kind of
//! read with few and with many reads, so that what is done before and after the reads cancels out.
//!
//! A raw read is `Store::get` of an encoded key, with the value's bytes looked at. A typed read is what a
//! topology does: build a path from a token, `get` it, await it, and have the value decoded. Both see what an
//! event sees, which is its own writes over what is visible over the tree; the tree has two levels and is in
//! memory.

use std::cell::RefCell;
use std::hint::black_box;
use std::process::{Command, ExitCode};
use std::rc::Rc;

use anyhow::{Context as _, bail, ensure};
use serde::{Deserialize, Serialize};
use tidemill::codec::{FieldTable, encode, encode_key};
use tidemill::env::memory::{Machine, MemoryDisk};
use tidemill::page::Cache;
use tidemill::pstate::{Found, Store, View, WriteSet};
use tidemill::schema::{Map, Sub};
use tidemill::testing::TestPState;
use tidemill::types::{Index, MicrobatchId, PStateId, PartitionId, TopologyId};

/// Rows of each tree: some hundred leaves.
const ROWS: u64 = 20_000;

/// Reads of the two runs whose difference is measured.
const FEW: u64 = 10_000;
const MANY: u64 = 60_000;

/// How much more a typed read may take.
const RATIO_MAX: f64 = 1.3;

#[derive(Clone, Copy, Serialize, Deserialize)]
struct Transfer {
    to: u64,
    cents: i64,
}

/// A row, and how it is read.
struct Kind {
    name: &'static str,
    /// Reads so many rows raw.
    raw: fn(u64),
    /// The same through paths.
    typed: fn(u64),
}

const KINDS: &[Kind] = &[
    Kind {
        name: "u64 -> i64",
        raw: |reads| raw(reads, |n| encode_key(&n).to_vec(), &cents),
        typed: |reads| {
            let state = TestPState::<Map<u64, i64>>::new().expect("it can be stored");
            let funds = state.token();
            let done = state.run(async |at| {
                (0..ROWS).try_for_each(|n| at.put(funds.key(n), cents(n)))?;
                Ok(())
            });
            done.expect("a store in memory does not fail");
            state.fold();
            let done = state.run_uncounted(async |at| {
                for n in order(reads) {
                    black_box(at.get(funds.key(black_box(n))).await?);
                }
                Ok(())
            });
            done.expect("a store in memory does not fail");
        },
    },
    Kind {
        name: "u64, u64 -> i64",
        raw: |reads| raw(reads, |n| encode_key(&(n / 100, n % 100)).to_vec(), &cents),
        typed: |reads| {
            let state =
                TestPState::<Map<u64, Sub<Map<u64, i64>>>>::new().expect("it can be stored");
            let sent = state.token();
            let done = state.run(async |at| {
                (0..ROWS).try_for_each(|n| at.put(sent.key(n / 100).key(n % 100), cents(n)))?;
                Ok(())
            });
            done.expect("a store in memory does not fail");
            state.fold();
            let done = state.run_uncounted(async |at| {
                for n in order(reads) {
                    let n = black_box(n);
                    black_box(at.get(sent.key(n / 100).key(n % 100)).await?);
                }
                Ok(())
            });
            done.expect("a store in memory does not fail");
        },
    },
    Kind {
        name: "u64 -> struct of two numbers",
        raw: |reads| raw(reads, |n| encode_key(&n).to_vec(), &|n| (n * 31, cents(n))),
        typed: |reads| {
            let state = TestPState::<Map<u64, Transfer>>::new().expect("it can be stored");
            let last = state.token();
            let done = state.run(async |at| {
                (0..ROWS).try_for_each(|n| {
                    at.put(last.key(n), Transfer { to: n * 31, cents: cents(n) })
                })?;
                Ok(())
            });
            done.expect("a store in memory does not fail");
            state.fold();
            let done = state.run_uncounted(async |at| {
                for n in order(reads) {
                    black_box(at.get(last.key(black_box(n))).await?);
                }
                Ok(())
            });
            done.expect("a store in memory does not fail");
        },
    },
];

fn cents(n: u64) -> i64 {
    250 + i64::try_from(n).expect("below the number of rows")
}

/// Rows in an order that visits all leaves.
fn order(reads: u64) -> impl Iterator<Item = u64> {
    (0..reads).map(|nth| nth * 7_919 % ROWS)
}

/// The same rows in a store of its own, read by their keys.
fn raw<V: Serialize>(reads: u64, key: impl Fn(u64) -> Vec<u8>, value: &dyn Fn(u64) -> V) {
    const TOPOLOGY: TopologyId = TopologyId(1);
    const PSTATE: PStateId = PStateId(0);
    let machine = Machine::new(&MemoryDisk::new());
    let cache = Cache::new(64 << 20);
    let opened = Store::open(machine.env(), &cache, "p/0", PartitionId(0), Index(1));
    let (store, _) = machine.block_on(opened).expect("a disk in memory does not fail");

    let (fields, mut writes, mut bytes) = (FieldTable::new(), WriteSet::default(), Vec::new());
    let keys: Vec<Vec<u8>> = (0..ROWS).map(key).collect();
    for (n, key) in (0..).zip(&keys) {
        bytes.clear();
        encode(&fields, &value(n), &mut bytes).expect("numbers can be encoded");
        writes.put(PSTATE, key, &bytes);
    }
    let id = MicrobatchId(1);
    store.stack(TOPOLOGY, id, Rc::new(writes.seal()));
    store.show(TOPOLOGY, id);
    store.merge(TOPOLOGY, id);
    machine.block_on(store.fold(Index(1), &[])).expect("a disk in memory does not fail");

    let writes = RefCell::new(WriteSet::default());
    for n in order(reads) {
        let key = &keys[usize::try_from(n).expect("below the number of rows")];
        let writes = black_box(&writes).borrow();
        let found = store.get(
            &View::through(TOPOLOGY, id, Some(&writes)),
            PSTATE,
            black_box(key),
            |value| {
                black_box(value);
            },
        );
        match found {
            Ok(Found::Ready(())) => {}
            Ok(Found::Miss(miss)) => {
                // Brings the page; the read that waited is not repeated, which changes one in hundreds.
                drop(machine.block_on(store.load(miss)).expect("a disk in memory does not fail"));
            }
            Err(error) => panic!("{error}"),
        }
    }
}

fn main() -> anyhow::Result<ExitCode> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.as_slice() {
        [] => measure(),
        [how, kind, reads] => {
            let kind = KINDS.get(kind.parse::<usize>()?).context("no such kind of row")?;
            let reads = reads.parse()?;
            match how.as_str() {
                "raw" => (kind.raw)(reads),
                "typed" => (kind.typed)(reads),
                other => bail!("no way to read is called {other}"),
            }
            Ok(ExitCode::SUCCESS)
        }
        _ => bail!("call it without arguments"),
    }
}

/// Prints a line for each kind; fails if one takes too much.
#[allow(clippy::cast_precision_loss, reason = "some thousand instructions")]
fn measure() -> anyhow::Result<ExitCode> {
    let mut exit = ExitCode::SUCCESS;
    println!(
        "instructions for a read of one row, in memory; at most {RATIO_MAX} times are asked for"
    );
    for (index, kind) in KINDS.iter().enumerate() {
        let Some(raw) = instructions_per_read("raw", index)? else {
            println!("skipped: valgrind is not installed");
            return Ok(exit);
        };
        let typed = instructions_per_read("typed", index)?.context("it was there a moment ago")?;
        let ratio = typed as f64 / raw as f64;
        println!("{:<30} raw {raw:>5}  typed {typed:>5}  {ratio:.2} times", kind.name);
        if ratio > RATIO_MAX {
            exit = ExitCode::FAILURE;
        }
    }
    Ok(exit)
}

fn instructions_per_read(how: &str, kind: usize) -> anyhow::Result<Option<u64>> {
    let (Some(few), Some(many)) = (instructions(how, kind, FEW)?, instructions(how, kind, MANY)?)
    else {
        return Ok(None);
    };
    Ok(Some(many.saturating_sub(few) / (MANY - FEW)))
}

/// Of a whole run of this program; `None` where there is no valgrind.
fn instructions(how: &str, kind: usize, reads: u64) -> anyhow::Result<Option<u64>> {
    let program = std::env::current_exe().context("cannot find this program")?;
    let mut valgrind = Command::new("valgrind");
    valgrind.args(["--tool=callgrind", "--callgrind-out-file=/dev/null"]).arg(program);
    valgrind.args([how, &kind.to_string(), &reads.to_string()]);
    let output = match valgrind.output() {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        output => output.context("cannot run valgrind")?,
    };
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "valgrind failed: {said}");
    let collected = said.lines().find_map(|line| line.split_once("Collected : "));
    let (_, count) = collected.with_context(|| format!("valgrind did not say a count: {said}"))?;
    Ok(Some(count.trim().parse().with_context(|| format!("no count: {count}"))?))
}
