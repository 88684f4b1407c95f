//! Recomputes, made while clients work and everything may go wrong. All topologies of the bank are declared
//! `order_free`, so whatever crashes and devices do, they come out equal.

use std::rc::Rc;
use std::time::Duration;

use tidemill::client::Launched;
use tidemill::error::Error;
use tidemill::types::ShardId;

use super::Shared;
use super::module::{self, Bank, TOPOLOGIES};
use crate::node::{After, Crash};
use crate::scenario::Failure;
use crate::world::World;

const NAME: &str = "recomputed";

/// A device that stalls makes it slow, but not for ever.
const RECOMPUTE_MAX: Duration = Duration::from_mins(10);

/// Recomputes that are asked for in one life with trouble, and in all of the last one, which must end soon.
const TRIES: u64 = 3;
const HEALTHY_TRIES: u64 = 2;

/// How often the state was replaced in the last life.
const HEALTHY: &str = "recomputes without faults";

/// Recomputes topologies, if this is a seed that does. Some of that is left alone half-way, and found again by
/// whoever asks next.
pub(super) async fn make(
    world: &World,
    shared: &Rc<Shared>,
    bank: &Launched<Bank>,
) -> Result<(), Failure> {
    if !shared.shape.recomputes || shared.damaging.get() {
        return Ok(());
    }
    let tries = if shared.healthy.get() {
        u64::from(shared.counted(HEALTHY) < HEALTHY_TRIES)
    } else {
        TRIES
    };
    for _ in 0..tries {
        world.sleep(Duration::from_micros(world.random().below(20_000))).await;
        let topology = *world.random().pick(&TOPOLOGIES);
        if world.random().one_in(8) {
            give_up(world, shared, bank, topology).await?;
        }
        let left_alone = world.random().one_in(4) && !shared.healthy.get();
        let most = if left_alone {
            Duration::from_micros(world.random().below(20_000))
        } else {
            RECOMPUTE_MAX
        };
        if !shared.healthy.get() && world.random().one_in(2) {
            module::while_stopped(Some(hit_while_stopped(world, shared, bank)));
        }
        let ended = world.timeout(most, bank.recompute(topology)).await;
        module::while_stopped(None);
        match ended {
            Some(Ok(recomputed)) => {
                world.note(0, || format!("{recomputed:?}"));
                shared.count("recomputes", 1);
                shared.count(HEALTHY, u64::from(shared.healthy.get()));
            }
            Some(Err(error)) => {
                judge(world, shared, &error)?;
                shared.count("recomputes that failed", 1);
            }
            None if left_alone => shared.count("recomputes left alone", 1),
            None => {
                let what = format!("a recompute took more than {RECOMPUTE_MAX:?}");
                return Err(Failure::new("answers", what));
            }
        }
    }
    Ok(())
}

/// A shard ends while a topology is stopped, or the machine a little later.
fn hit_while_stopped(
    world: &World,
    shared: &Rc<Shared>,
    bank: &Launched<Bank>,
) -> Box<dyn Fn() -> bool> {
    let random = world.random();
    let shard =
        ShardId(u16::try_from(random.below(u64::from(bank.engine().shards()))).expect("few"));
    let (engine, node, shared) = (bank.engine().clone(), shared.node.clone(), Rc::clone(shared));
    let after = After::Operations(random.within(1..25));
    let (is_shard, waits) = (random.one_in(2), random.one_in(2));
    Box::new(move || {
        shared.count("hits of stopped topologies", 1);
        if is_shard {
            engine.fail_shard(shard, "it was hit while a topology was stopped");
        } else {
            node.crash_after(after, Crash::Power);
        }
        is_shard && waits
    })
}

async fn give_up(
    world: &World,
    shared: &Rc<Shared>,
    bank: &Launched<Bank>,
    topology: &str,
) -> Result<(), Failure> {
    match bank.end_recompute(topology).await {
        Ok(()) => {
            shared.count("recomputes given up", 1);
            Ok(())
        }
        Err(Error::Recompute { what }) if what.contains("is not being recomputed") => Ok(()),
        Err(error) => judge(world, shared, &error),
    }
}

/// What came out is equal; everything else needs a reason.
fn judge(world: &World, shared: &Shared, error: &Error) -> Result<(), Failure> {
    match error {
        Error::Recompute { what } if what.ends_with("the recompute is over") => {
            Err(Failure::new(NAME, what.clone()))
        }
        // A refusal is an answer: it migrates first.
        Error::Recompute { what } if what.contains("is being migrated") => {
            shared.count("recomputes refused amid migrations", 1);
            Ok(())
        }
        // Of the end of the one before, which is told in its own time.
        Error::Recompute { what } if what.contains("an earlier recompute") => Ok(()),
        error => shared.tolerate(world, "a recompute", error),
    }
}
