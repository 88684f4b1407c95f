//! Recomputes, made while clients work and everything may go wrong. All topologies of the bank are declared
//! `order_free`, so whatever crashes and devices do, they come out equal.

use std::rc::Rc;
use std::time::Duration;

use tidemill::client::Launched;
use tidemill::error::Error;

use super::Shared;
use super::module::{Bank, TOPOLOGIES};
use crate::scenario::Failure;
use crate::world::World;

const NAME: &str = "recomputed";

/// A device that stalls makes it slow, but not for ever.
const RECOMPUTE_MAX: Duration = Duration::from_mins(10);

/// Recomputes that are asked for in one life, or one round of the last one.
const TRIES: u64 = 3;

/// How often the state was replaced.
pub(super) const RECOMPUTES: &str = "recomputes";

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
    for _ in 0..TRIES {
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
        match world.timeout(most, bank.recompute(topology)).await {
            Some(Ok(recomputed)) => {
                world.note(0, || format!("{recomputed:?}"));
                shared.count(RECOMPUTES, 1);
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
        // Of the end of the one before, which is told in its own time.
        Error::Recompute { what } if what.contains("an earlier recompute") => Ok(()),
        error => shared.tolerate(world, "a recompute", error),
    }
}
