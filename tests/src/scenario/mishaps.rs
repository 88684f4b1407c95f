//! What goes wrong in one life of a part that is tried alone: a device in some mood, a crash, a full disk, and
//! in some seeds silent damage.

use std::time::Duration;

use tidemill::types::ShardId;

use crate::disk::Faults;
use crate::node::{After, Crash, Node};
use crate::random::Random;
use crate::world::World;

/// The measures of a scenario.
pub(super) struct Mishaps {
    /// A crash comes within so many polls, or so many operations of the disk.
    pub(super) polls_max: u64,
    pub(super) operations_max: u64,
    /// A device at its worst, which still does no silent damage.
    pub(super) errors: Faults,
    /// A full disk has less than this left.
    pub(super) rest_bytes_max: u64,
    /// Silent damage hits files whose path contains this.
    pub(super) damage_only: &'static str,
}

impl Mishaps {
    /// Plans a life of `shard`: nothing goes wrong in the `last` one.
    pub(super) fn plan(
        &self,
        world: &World,
        node: &Node,
        shard: ShardId,
        last: bool,
        damages: bool,
    ) {
        let random = world.random();
        node.disk().set_quota(None);
        node.disk().set_faults(match random.below(4) {
            _ if last => Faults::default(),
            0 => Faults::default(),
            1 | 2 => Faults::benign(),
            _ => self.errors.clone(),
        });
        if last {
            return;
        }
        if damages && random.one_in(3) {
            node.disk().set_faults(Faults::benign().with_damage(self.damage_only));
        }
        super::disturb(world, node, shard);
        let crash = *random.pick(&[Crash::Power, Crash::Power, Crash::Power, Crash::Kill]);
        let after = match random.below(3) {
            0 => After::Polls(random.within(1..self.polls_max)),
            1 => After::Operations(random.within(1..60)),
            _ => After::Operations(random.within(60..self.operations_max)),
        };
        node.crash_after(after, crash);
        if random.one_in(3) {
            let (world, disk, rest) = (world.clone(), node.disk(), self.rest_bytes_max);
            world.clone().spawn("quota", async move {
                world.sleep(Duration::from_micros(world.random().below(20_000))).await;
                disk.set_quota(Some(disk.used_bytes() + world.random().below(rest)));
                world.sleep(Duration::from_millis(world.random().within(1..100))).await;
                disk.set_quota(None);
            });
        }
    }
}

/// Flips a bit somewhere in a file whose path begins with `prefix`; false if there is no byte in it.
pub(super) fn flip_a_bit(node: &Node, prefix: &str, random: &Random) -> bool {
    let disk = node.disk();
    let paths: Vec<_> = disk.paths().into_iter().filter(|path| path.starts_with(prefix)).collect();
    if paths.is_empty() {
        return false;
    }
    let path = random.pick(&paths);
    let len = disk.contents(path).map_or(0, |bytes| bytes.len() as u64);
    if len > 0 {
        let bit = u32::try_from(random.below(8)).expect("below 8");
        disk.flip_bit(path, random.below(len), bit);
    }
    len > 0
}
