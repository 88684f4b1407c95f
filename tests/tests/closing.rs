//! Closing an engine of which a shard is gone, and opening beside handles of a closed one.

use std::time::Duration;

use tidemill::client::Engine;
use tidemill::env::LocalFuture;
use tidemill::error::Error;
use tidemill::module::{Depot, Module};
use tidemill::schema::aggregate::Count;
use tidemill::schema::{Map, PState};
use tidemill::types::ShardId;
use tidemill_tests::node::Node;
use tidemill_tests::small;
use tidemill_tests::world::{self, World};

struct Counting {
    words: Depot<u64>,
    counts: PState<Map<u64, u64>>,
}

fn counting(m: &Module) -> Counting {
    let words = m.depot::<u64>("words").hash_by(|word| word);
    let count = m.microbatch(|| "count");
    let counts = count.pstate::<Map<u64, u64>>("counts");
    // To another partition, so that every microbatch needs several shards.
    count
        .source(words)
        .map(|word| word + 1)
        .hash_by(|word| word)
        .aggregate(counts, |counts, word| counts.key(word).add(Count));
    Counting { words, counts: counts.reader() }
}

async fn open(node: &Node) -> Engine {
    small::open(node, 2).await.expect("it opens")
}

fn in_worlds(body: fn(World) -> LocalFuture<'static, ()>) {
    for seed in 0..20 {
        let ran = World::run(&world::Options::seed(seed), body);
        assert_eq!(ran.result, Ok(()), "seed {seed}");
    }
}

#[test]
fn closing_does_not_wait_for_a_shard_that_is_gone() {
    in_worlds(|world| {
        Box::pin(async move {
            let node = world.node();
            let engine = open(&node).await;
            let bank = engine.launch("counting", counting).await.unwrap();
            // Nobody waits for these, so microbatches are under way when the shard goes.
            let words: Vec<u64> = (0..200).collect();
            drop(bank.append_many(bank.words, &words).await.unwrap());
            node.kill_shard(ShardId(1));
            let closed = world.timeout(Duration::from_mins(1), engine.close()).await;
            assert!(matches!(closed, Some(Err(Error::ShardStopped { .. }))), "{closed:?}");
            // It let go of everything, and nothing is lost.
            let engine = open(&node).await;
            let bank = engine.launch("counting", counting).await.unwrap();
            bank.caught_up("count").await.unwrap();
            let counts = bank.select(bank.counts.all()).await.unwrap();
            assert_eq!(counts.len(), 200);
        })
    });
}

#[test]
fn a_handle_of_a_closed_engine_does_not_end_the_next_one() {
    in_worlds(|world| {
        Box::pin(async move {
            let node = world.node();
            let engine = open(&node).await;
            let kept = engine.clone();
            engine.close().await.unwrap();
            let next = open(&node).await;
            drop(kept);
            world.sleep(Duration::from_millis(10)).await;
            next.close().await.unwrap();
        })
    });
}
