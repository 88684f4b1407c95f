//! What goes wrong around a life of the engine.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use tidemill::types::ShardId;

use crate::disk::Faults;
use crate::node::{After, Crash, Node};
use crate::world::World;

/// Whether what was started for a life may still act.
pub(super) type Alive = Rc<Cell<bool>>;

/// Short counts and stalls in such numbers that a seed meets enough of them.
pub(super) fn benign() -> Faults {
    Faults { short_read: 60_000, short_write: 60_000, stall: 500, ..Faults::default() }
}

/// Devices that refuse now and then: each refusal of a write or sync stops a shard.
fn errors() -> Faults {
    Faults { read_error: 1_000, write_error: 2_000, sync_error: 2_000, ..benign() }
}

/// Sets the crash of a life up, sometimes so early that it comes while the engine opens.
pub(super) fn plan_crash(world: &World, node: &Node) {
    let random = world.random();
    let crash = *random.pick(&[Crash::Power, Crash::Power, Crash::Power, Crash::Kill]);
    let after = match random.below(6) {
        0 => After::Operations(random.within(1..120)),
        1 => After::Polls(random.within(1..4_000)),
        2..=3 => After::Polls(random.within(4_000..20_000)),
        _ => After::Operations(random.within(120..2_500)),
    };
    node.crash_after(after, crash);
}

/// Lets the crash of a life come while what was begun just now is half done.
pub(super) fn plan_crash_soon(world: &World, node: &Node) {
    node.crash_after(After::Polls(world.random().within(200..3_000)), Crash::Power);
}

/// Starts what disturbs a running engine, until `alive` is unset.
pub(super) fn start(world: &World, node: &Node, shards: u16, alive: &Alive) {
    world.spawn("bad device", bad_device(world.clone(), node.clone(), Rc::clone(alive)));
    if world.random().one_in(2) {
        let full = full_disk(world.clone(), node.clone(), Rc::clone(alive));
        world.spawn("full disk", full);
    }
    if world.random().one_in(2) {
        let hit = hit_shards(world.clone(), node.clone(), shards, Rc::clone(alive));
        world.spawn("hit shards", hit);
    }
}

/// Phases in which the device refuses.
async fn bad_device(world: World, node: Node, alive: Alive) {
    while alive.get() {
        world.sleep(Duration::from_micros(world.random().below(60_000))).await;
        if !alive.get() {
            return;
        }
        node.disk().set_faults(errors());
        world.sleep(Duration::from_micros(world.random().below(10_000))).await;
        if alive.get() {
            node.disk().set_faults(benign());
        }
    }
}

/// The disk runs full, and has space again after a while.
async fn full_disk(world: World, node: Node, alive: Alive) {
    let random = world.random();
    world.sleep(Duration::from_micros(random.below(30_000))).await;
    if !alive.get() {
        return;
    }
    let disk = node.disk();
    // Either nothing at all can be taken any more, or what the engine keeps free is not there.
    let rest = if random.one_in(2) { random.below(64 << 10) } else { random.below(9 << 20) };
    disk.set_quota(Some(disk.used_bytes() + rest));
    world.sleep(Duration::from_millis(random.within(1..300))).await;
    if alive.get() {
        disk.set_quota(None);
    }
}

/// There is room again a while after the disk was full: what waits for room, as the effects of a record may,
/// is answered then.
pub(super) async fn make_room(world: World, node: Node, alive: Alive) {
    world.sleep(Duration::from_millis(world.random().below(2_000))).await;
    if alive.get() {
        node.disk().set_quota(None);
    }
}

/// One shard is killed, or stands still.
async fn hit_shards(world: World, node: Node, shards: u16, alive: Alive) {
    let random = world.random();
    for _ in 0..random.within(1..3) {
        world.sleep(Duration::from_micros(random.below(40_000))).await;
        if !alive.get() {
            return;
        }
        let shard = ShardId(u16::try_from(random.below(u64::from(shards))).expect("few shards"));
        if random.one_in(2) {
            node.kill_shard(shard);
        } else {
            node.pause_shard(shard, Duration::from_micros(random.below(50_000)));
        }
    }
}
