//! The small environment traits: clock, spawner, mesh, platform.

use std::future::Future;
use std::io;
use std::path::Path;
use std::pin::Pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use tidemill::env::{
    Class, Clock, Elsewhere, LocalFuture, Mesh, Parcel, Platform, Sender, ShardMain, Spawner,
};
use tidemill::types::{ShardId, Time, WallTime};

use super::{NodeState, Shard};
use crate::world::{Core, GroupId, current};

/// Where a process runs its shards. Holds ids only, so it is `Send` and `Sync` as the engine asks; it
/// works on the thread that runs its world, and elsewhere or later it reaches nothing.
#[derive(Clone, Copy, Debug)]
pub struct SimPlatform {
    pub(super) world: u64,
    pub(super) node: usize,
    pub(super) incarnation: u64,
}

impl SimPlatform {
    fn node(self) -> Option<Rc<NodeState>> {
        let core = current().filter(|core| core.serial == self.world)?;
        let node = core.nodes.borrow().get(self.node).cloned();
        node.filter(|node| node.incarnation() == self.incarnation)
    }
}

impl Platform for SimPlatform {
    fn start(&self, shard: ShardId, main: ShardMain) -> io::Result<()> {
        let node = self.node().ok_or_else(|| io::Error::other("the process has crashed"))?;
        NodeState::start(&node, shard, main)
    }

    fn post(&self, to: ShardId, parcel: Parcel) {
        if let Some(node) = self.node() {
            NodeState::send(&node, Sender::Client, to, parcel);
        }
    }

    fn ended(&self, shard: ShardId) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        let platform = *self;
        // It means the life that runs now, whatever comes after it.
        let life = platform.node().and_then(|node| node.life(shard));
        Box::pin(std::future::poll_fn(move |context| match platform.node() {
            Some(node) if life.is_some() && node.life(shard) == life => {
                node.wait(context.waker().clone());
                Poll::Pending
            }
            _ => Poll::Ready(()),
        }))
    }

    fn elsewhere(&self, dir: &Path) -> io::Result<Elsewhere> {
        let node = self.node().ok_or_else(|| io::Error::other("the process has crashed"))?;
        let dir = dir.to_str().ok_or(io::ErrorKind::InvalidInput)?.to_owned();
        node.disk.make_dir(&dir);
        Ok(Elsewhere { dir, claim: Box::new(()) })
    }
}

pub(super) struct ShardClock {
    pub(super) core: Rc<Core>,
}

impl Clock for ShardClock {
    fn now(&self) -> Time {
        Time(self.core.now.get())
    }

    fn wall(&self) -> WallTime {
        self.core.wall()
    }

    fn sleep(&self, duration: Duration) -> LocalFuture<'static, ()> {
        self.core.sleep(duration)
    }
}

pub(super) struct ShardSpawner {
    pub(super) core: Rc<Core>,
    pub(super) group: GroupId,
}

impl Spawner for ShardSpawner {
    fn spawn(&self, _class: Class, name: &'static str, future: LocalFuture<'static, ()>) {
        self.core.spawn(self.group, name, future);
    }

    fn yield_now(&self) -> LocalFuture<'static, ()> {
        let mut yielded = false;
        Box::pin(std::future::poll_fn(move |context| {
            if yielded {
                return Poll::Ready(());
            }
            yielded = true;
            context.waker().wake_by_ref();
            Poll::Pending
        }))
    }

    fn should_yield(&self) -> bool {
        self.core.random.one_in(16)
    }
}

pub(super) struct ShardMesh {
    pub(super) node: Rc<NodeState>,
    pub(super) shard: Rc<Shard>,
}

impl Mesh for ShardMesh {
    fn send(&self, to: ShardId, parcel: Parcel) {
        // What a dead shard's tasks send while they are dropped goes nowhere.
        if self.shard.alive.get() {
            NodeState::send(&self.node, Sender::Shard(self.shard.id), to, parcel);
        }
    }

    fn receive(&self) -> LocalFuture<'_, Vec<(Sender, Parcel)>> {
        Box::pin(std::future::poll_fn(|context| {
            let parcels = self.shard.queue.take();
            if parcels.is_empty() {
                *self.shard.receiver.borrow_mut() = Some(context.waker().clone());
                return Poll::Pending;
            }
            Poll::Ready(parcels.into())
        }))
    }
}
