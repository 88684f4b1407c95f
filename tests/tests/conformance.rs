//! The simulated environment does what every environment must do, whatever the seed.

use tidemill::env::suite;
use tidemill::types::ShardId;
use tidemill_tests::disk::Faults;
use tidemill_tests::world::{Options, World};

#[test]
fn one_shard_conforms() {
    for seed in 0..20 {
        let run = World::run(&Options::seed(seed), |world| async move {
            let node = world.node();
            // Short counts and stalls are no faults to an environment.
            let (short_read, short_write, stall) = (100_000, 100_000, 10_000);
            let faults = Faults { short_read, short_write, stall, ..Faults::default() };
            node.disk().set_faults(faults);
            node.run(ShardId(0), |env| async move { suite::all(&env).await }).await
        });
        assert_eq!(run.result, Ok(Some(())), "seed {seed}");
    }
}

#[test]
fn the_mesh_conforms() {
    for seed in 0..20 {
        let run = World::run(&Options::seed(seed), |world| async move {
            let node = world.node();
            let one = node.run(ShardId(0), |env| async move {
                suite::mesh_between(&env, ShardId(1), 500).await;
            });
            let other = node.run(ShardId(1), |env| async move {
                suite::mesh_between(&env, ShardId(0), 500).await;
            });
            futures_util::future::join(one, other).await
        });
        assert_eq!(run.result, Ok((Some(()), Some(()))), "seed {seed}");
    }
}
