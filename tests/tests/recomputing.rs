//! The end of a recompute, step by step: crashes at each operation of the disk, a check that does not end or panics,
//! a full disk. What is there is always one state as a whole, the old one or the new one.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::{BTreeMap, BTreeSet};
use std::future::pending;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tidemill::client::{Engine, Launched};
use tidemill::env::LocalFuture;
use tidemill::error::Error;
use tidemill::module::{Depot, Module};
use tidemill::node::Options;
use tidemill::schema::aggregate::Sum;
use tidemill::schema::{Map, PState};
use tidemill::types::ShardId;
use tidemill::verify;
use tidemill_tests::node::{After, Crash, Node};
use tidemill_tests::small;
use tidemill_tests::world::{self, World};

const SHARDS: u16 = 2;

struct Counting {
    words: Depot<u64>,
    notes: Depot<(u64, String)>,
    counts: PState<Map<u64, u64>>,
    texts: PState<Map<u64, String>>,
}

/// Counts words, so many for each one; whoever recomputes with another number gets another state.
fn counting(m: &Module, each: u64, ends: &'static AtomicBool) -> Counting {
    let words = m.depot::<u64>("words").hash_by(|word| word);
    let notes = m.depot::<(u64, String)>("notes").hash_by(|(id, _)| id);
    let count = m.microbatch(|| "count");
    let counts = count.pstate::<Map<u64, u64>>("counts");
    let texts = count.pstate::<Map<u64, String>>("texts");
    count.invariant("all of one code", move |read| async move {
        let all = read.select(counts.all()).await?;
        if all.iter().any(|(_, n)| !n.is_multiple_of(each)) {
            return Err(format!("not all are multiples of {each}: {all:?}").into());
        }
        if !ends.load(Ordering::SeqCst) {
            pending::<()>().await;
        }
        Ok(())
    });
    // To other partitions, so that every microbatch needs several shards.
    count
        .source(words)
        .map(|word| word + 1)
        .hash_by(|word| word)
        .aggregate(counts, move |counts, word| counts.key(word).add(Sum(each)));
    count
        .source(notes)
        .using(texts)
        .for_each(async |at, texts, (id, text): (u64, String)| Ok(at.put(texts.key(id), text)?));
    Counting { words, notes, counts: counts.reader(), texts: texts.reader() }
}

/// Checks end.
static ENDS: AtomicBool = AtomicBool::new(true);

const WORDS: u64 = 30;

/// What the code of two days makes of one word: neither is a multiple of the other.
const OLD: u64 = 2;
const NEW: u64 = 3;

fn options() -> Options {
    Options { recompute_share: 1.0, ..small::options(SHARDS) }
}

async fn open(node: &Node, each: u64, ends: &'static AtomicBool) -> (Engine, Launched<Counting>) {
    let platform = Arc::new(node.platform());
    let engine = Engine::open_on(platform, options(), |_| {}).await.expect("it opens");
    let launched = engine.launch("counting", |m| counting(m, each, ends)).await.unwrap();
    (engine, launched)
}

/// Some words, counted by the old code; then the new one is launched.
async fn prepared(node: &Node, ends: &'static AtomicBool) -> (Engine, Launched<Counting>) {
    let (engine, of) = open(node, OLD, ends).await;
    let words: Vec<u64> = (0..WORDS).collect();
    of.append_many(of.words, &words).await.unwrap();
    of.caught_up("count").await.unwrap();
    drop(of);
    engine.close().await.unwrap();
    open(node, NEW, ends).await
}

async fn counts(of: &Launched<Counting>) -> BTreeMap<u64, u64> {
    of.select(of.counts.all()).await.unwrap().into_iter().collect()
}

/// All words, so many of each.
fn all(each: u64) -> BTreeMap<u64, u64> {
    (1..=WORDS).map(|word| (word, each)).collect()
}

fn in_worlds(seeds: u64, body: fn(World) -> LocalFuture<'static, ()>) {
    for seed in 0..seeds {
        let ran = World::run(&world::Options::seed(seed), body);
        assert_eq!(ran.result, Ok(()), "seed {seed}");
    }
}

fn sound(node: &Node) {
    let report = verify::directory(&node.disk().files(), &mut |_| {});
    assert!(report.findings.is_empty(), "{:?}", report.findings);
}

/// One recompute, with a crash at the given operation; says what it left, or none if it ended before.
async fn crashed(world: World, after: u64, crash: Crash) -> Option<u64> {
    let node = world.node();
    let (engine, of) = prepared(&node, &ENDS).await;
    assert_eq!(counts(&of).await, all(OLD));
    node.crash_after(After::Operations(after), crash);
    let recomputed = of.recompute("count").await;
    // What is left to do afterwards: the old state is dropped.
    let appended = of.append(of.words, &WORDS).await;
    if appended.is_ok() {
        drop(of.caught_up("count").await);
        drop(engine.fold().await);
    }
    if node.crashes() == 0 {
        node.crash_never();
        recomputed.unwrap();
        appended.unwrap();
        engine.close().await.unwrap();
        sound(&node);
        return None;
    }
    drop((of, engine));
    sound(&node);

    let (engine, of) = open(&node, NEW, &ENDS).await;
    of.caught_up("count").await.unwrap();
    let mut found = counts(&of).await;
    // Of the word that was added, one is there or none; and by the new code in any case.
    let added = found.remove(&(WORDS + 1));
    assert!(added.is_none_or(|n| n == NEW), "{added:?}");
    assert!(appended.is_err() || added.is_some(), "it was acknowledged");
    let each = found[&1];
    assert!(each == OLD || each == NEW, "{found:?}");
    assert_eq!(found, all(each));
    assert!(recomputed.is_err() || each == NEW, "it was told that it is done");
    // It is seen through, and goes on.
    if let Some(left) = of.recomputing().await.unwrap().pop() {
        assert_eq!(each, OLD, "it goes on although it is done: {left:?}");
    }
    of.recompute("count").await.unwrap();
    of.append(of.words, &0).await.unwrap();
    of.caught_up("count").await.unwrap();
    let mut expected = all(NEW);
    expected.extend(added.map(|n| (WORDS + 1, n)));
    *expected.get_mut(&1).unwrap() += NEW;
    assert_eq!(counts(&of).await, expected);
    engine.close().await.unwrap();
    sound(&node);
    Some(each)
}

#[test]
fn a_crash_at_any_step_leaves_the_old_state_or_the_new_one() {
    for crash in [Crash::Power, Crash::Kill] {
        let mut left = Vec::new();
        for after in 1.. {
            let seed = world::Options::seed(after);
            let ran = World::run(&seed, |world| crashed(world, after, crash));
            match ran.result {
                Ok(Some(each)) => left.push(each),
                Ok(None) => break,
                Err(error) => panic!("{crash:?} after {after} operations: {error:?}"),
            }
        }
        // There were steps before the switch and behind it.
        let seen: BTreeSet<u64> = left.iter().copied().collect();
        assert_eq!(seen, BTreeSet::from([OLD, NEW]), "{crash:?}: {left:?}");
        assert!(left.len() > 30, "only {} steps", left.len());
    }
}

static HANGS: AtomicBool = AtomicBool::new(false);

#[test]
fn a_check_that_does_not_end_is_left_and_nothing_has_changed() {
    in_worlds(10, |world| {
        Box::pin(async move {
            HANGS.store(false, Ordering::SeqCst);
            let node = world.node();
            let (engine, of) = prepared(&node, &HANGS).await;
            let pause_max = options().recompute_pause_max;
            let begun = world.now();
            let left = of.recompute("count").await;
            let Err(Error::Recompute { what }) = left else { panic!("{left:?}") };
            assert!(
                what.contains("the check took longer than `Options::recompute_pause_max`"),
                "{what}"
            );
            let took = world.now().since(begun);
            assert!(pause_max <= took && took < pause_max + Duration::from_secs(2), "{took:?}");
            assert_eq!(counts(&of).await, all(OLD));
            assert_eq!(of.recomputing().await.unwrap().len(), 1, "it goes on");
            // So does the topology, without being asked.
            of.append(of.words, &WORDS).await.unwrap();
            of.caught_up("count").await.unwrap();
            let mut found = counts(&of).await;
            assert_eq!(found.remove(&(WORDS + 1)), Some(NEW));
            assert_eq!(found, all(OLD));

            // The same if a shard is lost meanwhile, be it the one on which both were stopped.
            for shard in (0..SHARDS).map(ShardId) {
                let mut waiting = Box::pin(of.recompute("count"));
                let ended = world.timeout(pause_max / 2, &mut waiting).await;
                assert!(ended.is_none(), "{ended:?}");
                node.kill_shard(shard);
                while engine.stopped(shard).is_none() {
                    world.sleep(Duration::from_micros(10)).await;
                }
                engine.reopen_shard(shard).await.unwrap();
                of.append(of.words, &WORDS).await.unwrap();
                of.caught_up("count").await.unwrap();
                drop(waiting);
            }
            assert_eq!(counts(&of).await[&(WORDS + 1)], NEW * 3);

            HANGS.store(true, Ordering::SeqCst);
            of.recompute("count").await.unwrap();
            let mut found = counts(&of).await;
            assert_eq!(found.remove(&(WORDS + 1)), Some(NEW * 3));
            assert_eq!(found, all(NEW));
            engine.close().await.unwrap();
            sound(&node);
        })
    });
}

/// Some megabytes of them: more than journals and memory hold, so that what comes out needs room on the disk.
const NOTES: u64 = 1_000;

#[test]
fn a_full_disk_delays_a_recompute_and_changes_nothing() {
    in_worlds(10, |world| {
        Box::pin(async move {
            let node = world.node();
            let (engine, of) = prepared(&node, &ENDS).await;
            let note = |id: u64| format!("{id}: {}", "text ".repeat(800));
            for ids in (0..NOTES).collect::<Vec<u64>>().chunks(20) {
                let notes: Vec<_> = ids.iter().map(|&id| (id, note(id))).collect();
                of.append_many(of.notes, &notes).await.unwrap();
            }
            of.caught_up("count").await.unwrap();
            engine.fold().await.unwrap();

            // Room for some of what comes out, and not for all of it.
            node.disk().set_quota(Some(node.disk().used_bytes() + (256 << 10)));
            let ended = world.timeout(Duration::from_mins(1), of.recompute("count")).await;
            match ended {
                None | Some(Err(Error::DiskFull { .. })) => {}
                Some(Err(Error::Recompute { what })) => {
                    assert!(what.contains("did not come to the same records"), "{what}");
                }
                ended => panic!("there is no room for that: {ended:?}"),
            }
            assert_eq!(of.recomputing().await.unwrap().len(), 1, "it waits for room");
            assert_eq!(counts(&of).await, all(OLD));
            assert_eq!(of.select(of.texts.key(7)).await.unwrap(), Some(note(7)));

            node.disk().set_quota(None);
            let ended = world.timeout(Duration::from_mins(10), of.recompute("count")).await;
            ended.expect("there is room now").unwrap();
            assert_eq!(counts(&of).await, all(NEW));
            for id in 0..NOTES {
                assert_eq!(of.select(of.texts.key(id)).await.unwrap(), Some(note(id)));
            }
            engine.close().await.unwrap();
            sound(&node);
        })
    });
}
