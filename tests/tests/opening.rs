//! Openings of a cleanly closed directory that are killed at every step, each followed by a whole one and a
//! power cut.

use std::time::Duration;

use tidemill::client::Engine;
use tidemill::module::{Depot, Module};
use tidemill::types::PartitionId;
use tidemill_tests::node::{After, Crash, Node};
use tidemill_tests::small;
use tidemill_tests::world::{self, World};

struct Words {
    words: Depot<u64>,
}

fn words(m: &Module) -> Words {
    Words { words: m.depot::<u64>("words").hash_by(|word| word) }
}

/// Kills the opening after so many operations of its disk. Whether it came that far.
async fn killed_opening(world: &World, node: &Node, operations: u64) -> bool {
    let before = node.crashes();
    node.crash_after(After::Operations(operations), Crash::Kill);
    let opened = world.timeout(Duration::from_secs(10), small::open(node, 1)).await;
    if let Some(Ok(engine)) = opened {
        // It was over before. The kill comes while it closes, or not at all.
        drop(engine.close().await);
    }
    node.crash_never();
    node.crashes() > before
}

/// One whole life: everything that was acknowledged before is there, and so is one record more.
async fn live(node: &Node, acknowledged: &mut u64) -> Engine {
    let engine = small::open(node, 1).await.expect("it opens");
    let module = engine.launch("words", words).await.expect("nothing fails here");
    let mut count = 0;
    for partition in 0..8 {
        let range = module.depot_range(module.words, PartitionId(partition));
        count += range.await.expect("it runs").end.0;
    }
    assert_eq!(count, *acknowledged);
    module.append(module.words, acknowledged).await.expect("there is room");
    *acknowledged += 1;
    engine
}

#[test]
fn what_an_opening_left_that_was_killed_does_not_come_back_from_before_it() {
    let mut operations = 0;
    loop {
        operations += 1;
        let mut came_so_far = false;
        // What a power cut takes back is chance.
        for seed in 0..4 {
            let ran = World::run(&world::Options::seed(seed), |world| async move {
                let node = world.node();
                let mut acknowledged = 0;
                live(&node, &mut acknowledged).await.close().await.unwrap();
                let came_so_far = killed_opening(&world, &node, operations).await;
                let _engine = live(&node, &mut acknowledged).await;
                node.crash(Crash::Power);
                live(&node, &mut acknowledged).await.close().await.unwrap();
                came_so_far
            });
            came_so_far |= ran.result.unwrap_or_else(|why| {
                panic!("killed after {operations} operations, seed {seed}: {why:?}")
            });
        }
        if !came_so_far {
            break;
        }
    }
    assert!(operations > 20, "an opening has more than {operations} operations");
}
