//! What readers see of a shard that was reopened while others are down: what they saw before, and nothing
//! that not all participants have applied.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tidemill::client::{Engine, Launched};
use tidemill::codec::{Placement, encode_key};
use tidemill::module::{Depot, Module};
use tidemill::node::Options;
use tidemill::schema::{Map, PState};
use tidemill::types::ShardId;
use tidemill_tests::world::{self, World};

const PARTITIONS: u32 = 8;
const A: ShardId = ShardId(0);
const B: ShardId = ShardId(1);

struct Mail {
    letters: Depot<(u64, u64)>,
    sent: PState<Map<u64, u64>>,
    received: PState<Map<u64, u64>>,
}

/// Letters are noted as sent, and where they go as received.
fn mail(m: &Module, topology: &'static str) -> Mail {
    let letters = m.depot::<(u64, u64)>("letters").hash_by(|(from, _)| from);
    let t = m.microbatch(move || topology);
    let sent = t.pstate::<Map<u64, u64>>("sent");
    let received = t.pstate::<Map<u64, u64>>("received");
    t.source(letters)
        .using(sent)
        .filter_map(async |at, sent, (from, to): (u64, u64)| {
            at.put(sent.key(from), to)?;
            Ok(Some((from, to)))
        })
        .hash_by_value(|(_, to)| *to)
        .using(received)
        .for_each(async |at, received, (from, to)| Ok(at.put(received.key(to), from)?));
    Mail { letters, sent: sent.reader(), received: received.reader() }
}

fn lives_on(key: &[u8]) -> ShardId {
    let partition = Placement::of(key).partition(PARTITIONS);
    ShardId(u16::try_from(partition.0 % 2).unwrap())
}

/// Keys that live on a shard, above `from`.
fn keys(shard: ShardId, from: u64) -> impl Iterator<Item = u64> {
    (from..).filter(move |key| lives_on(&encode_key(key)) == shard)
}

async fn sent(mail: &Launched<Mail>, all: &[(u64, u64)]) -> BTreeSet<(u64, u64)> {
    let found = mail.select_many(all.iter().map(|(from, _)| mail.sent.key(*from))).await.unwrap();
    all.iter().zip(found).filter(|(_, found)| found.is_some()).map(|(&it, _)| it).collect()
}

async fn is_stopped(world: &World, engine: &Engine, shard: ShardId) {
    while engine.stopped(shard).is_none() {
        world.sleep(Duration::from_micros(1)).await;
    }
}

async fn run(world: World, topology: &'static str) {
    let node = world.node();
    let options = Options {
        shards: 2,
        partitions: Some(PARTITIONS),
        journal_file_bytes: 128 << 10,
        journal_bytes_max: 1 << 20,
        ..Options::default()
    };
    let engine = Engine::open_on(Arc::new(node.platform()), options, |_| {}).await.unwrap();
    let mail = engine.launch("mail", |m| mail(m, topology)).await.unwrap();
    let mut all: Vec<(u64, u64)> = Vec::new();
    for round in 0..12 {
        let senders: Vec<u64> = keys(A, round * 1_000).take(12).collect();
        let letters: Vec<(u64, u64)> =
            senders.into_iter().zip(keys(B, 100_000 + round * 1_000)).collect();
        all.extend(&letters);
        let seen = Rc::new(RefCell::new(BTreeSet::new()));
        for (nth, letter) in (0..).zip(letters) {
            let (mail, seen) = (mail.clone(), Rc::clone(&seen));
            let (clock, wait) = (world.clone(), Duration::from_micros(nth * 40));
            world.spawn("letter", async move {
                clock.sleep(wait).await;
                if mail.append(mail.letters, &letter).await.is_err() {
                    return;
                }
                if let Ok(Some(to)) = mail.select(mail.sent.key(letter.0)).await {
                    seen.borrow_mut().insert((letter.0, to));
                }
            });
        }
        world.sleep(Duration::from_micros(world.random().below(1_500))).await;
        node.kill_shard(B);
        world.sleep(Duration::from_micros(world.random().below(300))).await;
        node.kill_shard(A);
        is_stopped(&world, &engine, A).await;
        is_stopped(&world, &engine, B).await;
        engine.reopen_shard(A).await.unwrap();
        let shown = sent(&mail, &all).await;
        let gone: Vec<_> = seen.borrow().difference(&shown).copied().collect();
        assert!(gone.is_empty(), "was seen before shard A stopped: {gone:?}");
        // Nobody can tell B what became of its prepares.
        node.kill_shard(A);
        is_stopped(&world, &engine, A).await;
        engine.reopen_shard(B).await.unwrap();
        for (from, to) in shown {
            let received = mail.select(mail.received.key(to)).await.unwrap();
            assert_eq!(received, Some(from), "{from} was shown as sent; B has not applied it");
        }
        engine.reopen_shard(A).await.unwrap();
        mail.caught_up(topology).await.unwrap();
        assert!(sent(&mail, &all).await.is_superset(&seen.borrow()));
    }
    drop(mail);
    engine.close().await.unwrap();
}

#[test]
fn a_reopened_shard_shows_what_was_seen_and_only_what_all_have_applied() {
    // One whose coordinator lives on each shard.
    let names = ["post", "mail", "courier", "express", "parcels", "pigeons"];
    for shard in [A, B] {
        let name = names.into_iter().find(|name| lives_on(name.as_bytes()) == shard).unwrap();
        for seed in 0..12 {
            let finished = World::run(&world::Options::seed(seed), |world| run(world, name));
            finished.result.unwrap_or_else(|stuck| panic!("seed {seed}, {name}: {stuck:?}"));
        }
    }
}
