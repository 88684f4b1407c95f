//! Folds that are asked for at once.

use std::sync::Arc;

use futures_util::future::join3;
use tidemill::client::Engine;
use tidemill::module::{Depot, Module};
use tidemill::node::Options;
use tidemill_tests::world::{self, World};

fn words(m: &Module) -> Depot<u64> {
    m.depot::<u64>("words").hash_by(|word| word)
}

/// A root that covers nothing new, torn by a crash, cannot be told from damage.
#[test]
fn folds_asked_for_at_once_write_one_root_each() {
    for seed in 0..10 {
        let ran = World::run(&world::Options::seed(seed), |world| async move {
            let node = world.node();
            let options = Options {
                shards: 2,
                partitions: Some(8),
                memory_bytes: 4 << 20,
                journal_bytes_max: 1 << 20,
                journal_file_bytes: 128 << 10,
                ..Options::default()
            };
            let engine = Engine::open_on(Arc::new(node.platform()), options, |_| {}).await.unwrap();
            let running = engine.launch("words", words).await.unwrap();
            let words: Vec<u64> = (0..200).collect();
            running.append_many(*running, &words).await.unwrap();
            let folds = async || -> u64 {
                engine.counters().await.unwrap().iter().map(|counters| counters.folds).sum()
            };
            let before = folds().await;
            let (one, two, three) = join3(engine.fold(), engine.fold(), engine.fold()).await;
            assert!(one.is_ok() && two.is_ok() && three.is_ok());
            assert_eq!(folds().await - before, 8, "every partition was folded once");
        });
        assert_eq!(ran.result, Ok(()), "seed {seed}");
    }
}
