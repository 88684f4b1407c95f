//! Folds that are asked for at once.

use futures_util::future::join3;
use tidemill::module::{Depot, Module};
use tidemill::types::PartitionId;
use tidemill_tests::disk::Faults;
use tidemill_tests::small;
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
            let engine = small::open(&node, 2).await.expect("it opens");
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

/// Nothing knows of a root from above. So one that the device lost must be missed while the journal still has
/// what it covered.
#[test]
fn a_root_that_the_device_has_lost_ends_its_fold_and_costs_nothing() {
    for seed in 0..10 {
        let ran = World::run(&world::Options::seed(seed), |world| async move {
            let node = world.node();
            // One shard, which ends: another one would go on with folds whose pages are lost as well.
            let engine = small::open(&node, 1).await.expect("it opens");
            let running = engine.launch("words", words).await.unwrap();
            let words_in: Vec<u64> = (0..200).collect();
            running.append_many(*running, &words_in).await.unwrap();
            let losing =
                Faults { lost_write: 1_000_000, damage_only: "pages", ..Faults::default() };
            node.disk().set_faults(losing);
            let folded = engine.fold().await.unwrap_err().to_string();
            assert!(folded.contains("the device has not kept the root"), "{folded}");
            node.disk().set_faults(Faults::default());
            drop(running);
            engine.stop().await;
            let engine = small::open(&node, 1).await.expect("it opens");
            let running = engine.launch("words", words).await.unwrap();
            let mut count = 0;
            for partition in (0..8).map(PartitionId) {
                count += running.depot_range(*running, partition).await.unwrap().end.0;
            }
            assert_eq!(count, 200);
            engine.fold().await.unwrap();
        });
        assert_eq!(ran.result, Ok(()), "seed {seed}");
    }
}
