//! A machine: a disk that outlives everything, and one process at a time, with its shards.
//!
//! A crash ends every task of the process between two polls, so at any await of any of them. A power
//! cut also forgets what was not synced; a kill leaves it, as the kernel does. Each crash starts a new
//! incarnation: handles of an earlier one reach nothing any more.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::io;
use std::rc::Rc;
use std::task::{Poll, Waker};
use std::time::Duration;

use tidemill::env::{Env, LocalFuture, Parcel, Platform, Sender};
use tidemill::types::ShardId;

use crate::counts::Fault;
use crate::disk::{DiskHandle, DiskState, ProcessDisk};
use crate::trace;
use crate::world::{Core, Event, Fire, GroupId};

mod platform;

pub use platform::SimPlatform;
use platform::{ShardClock, ShardMesh, ShardSpawner};

/// What ends a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Crash {
    /// SIGKILL: what the kernel has taken stays, each write still under way is finished or not.
    Kill,
    /// The machine loses power: see [`crate::disk`] for what is left.
    Power,
}

/// A point in the future of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum After {
    /// When its tasks were polled so many times.
    Polls(u64),
    /// When so many operations of its disk have been submitted or completed.
    Operations(u64),
}

/// The handle of a machine. Cheap to clone.
#[derive(Clone)]
pub struct Node {
    state: Rc<NodeState>,
}

impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Node").field("crashes", &self.crashes()).finish_non_exhaustive()
    }
}

pub(crate) struct NodeState {
    pub(crate) index: usize,
    pub(crate) core: Rc<Core>,
    pub(crate) disk: Rc<DiskState>,
    incarnation: Cell<u64>,
    crashes: Cell<u64>,
    planned: Cell<Option<(After, Crash)>>,
    shards: RefCell<BTreeMap<ShardId, Rc<Shard>>>,
    waiting: RefCell<Vec<Waker>>,
}

/// One life of one shard.
pub(crate) struct Shard {
    pub(crate) id: ShardId,
    pub(crate) group: GroupId,
    pub(crate) node: usize,
    pub(crate) alive: Cell<bool>,
    /// Operations the kernel still holds; the shard has not let go of its files before they are done.
    pub(crate) operations: Cell<u64>,
    queue: RefCell<VecDeque<(Sender, Parcel)>>,
    receiver: RefCell<Option<Waker>>,
    /// When the last parcel of each sender arrives: parcels of one sender keep their order.
    arrivals: RefCell<BTreeMap<Option<ShardId>, u64>>,
}

impl Node {
    pub(crate) fn new(core: &Rc<Core>) -> Self {
        let mut nodes = core.nodes.borrow_mut();
        let state = Rc::new(NodeState {
            index: nodes.len(),
            core: Rc::clone(core),
            disk: DiskState::new(core),
            incarnation: Cell::new(1),
            crashes: Cell::new(0),
            planned: Cell::new(None),
            shards: RefCell::default(),
            waiting: RefCell::default(),
        });
        nodes.push(Rc::clone(&state));
        Self { state }
    }

    /// The disk, from outside: faults, quota, what lies on it.
    #[must_use]
    pub fn disk(&self) -> DiskHandle {
        DiskHandle::new(&self.state.disk)
    }

    /// Where the present process runs its shards. After a crash this one reaches nothing; take a new
    /// one to start the next process.
    #[must_use]
    pub fn platform(&self) -> SimPlatform {
        SimPlatform {
            world: self.state.core.serial,
            node: self.state.index,
            incarnation: self.state.incarnation.get(),
        }
    }

    /// Starts a shard whose main need not be `Send`, as [`Platform::start`] asks: what it captures may
    /// be shared with the scenario.
    ///
    /// # Errors
    /// `ResourceBusy` if the shard runs.
    pub fn start(
        &self,
        shard: ShardId,
        main: impl FnOnce(Env) -> LocalFuture<'static, ()>,
    ) -> io::Result<()> {
        NodeState::start(&self.state, shard, main)
    }

    /// Runs `body` as the main of `shard`; resolves with what it returned, or with `None` if the
    /// process or the shard ended first.
    ///
    /// # Panics
    /// If the shard runs already.
    pub async fn run<T: 'static, F: Future<Output = T> + 'static>(
        &self,
        shard: ShardId,
        body: impl FnOnce(Env) -> F + 'static,
    ) -> Option<T> {
        let result = Rc::new(RefCell::new(None));
        let slot = Rc::clone(&result);
        self.start(shard, move |env| {
            let future = body(env);
            Box::pin(async move {
                let value = future.await;
                *slot.borrow_mut() = Some(value);
            })
        })
        .expect("the shard does not run");
        self.platform().ended(shard).await;
        result.take()
    }

    /// Ends the process now.
    ///
    /// # Panics
    /// When called from a task of the process itself, which must not see its own death; use
    /// [`Node::crash_after`] there.
    pub fn crash(&self, crash: Crash) {
        NodeState::crash(&self.state, crash);
    }

    /// Ends the process at a point in its future; replaces what was planned before.
    pub fn crash_after(&self, after: After, crash: Crash) {
        self.state.disk.take_activity();
        self.state.planned.set(Some((after, crash)));
    }

    /// Forgets a planned crash.
    pub fn crash_never(&self) {
        self.state.planned.set(None);
    }

    /// How often it crashed.
    #[must_use]
    pub fn crashes(&self) -> u64 {
        self.state.crashes.get()
    }

    /// Waits until it has crashed more than `count` times.
    pub async fn crashed_beyond(&self, count: u64) {
        std::future::poll_fn(|context| {
            if self.state.crashes.get() > count {
                return Poll::Ready(());
            }
            self.state.waiting.borrow_mut().push(context.waker().clone());
            Poll::Pending
        })
        .await;
    }

    /// Ends one shard, as a panic or a failed sync would; what it gave to the disk runs on.
    pub fn kill_shard(&self, shard: ShardId) {
        let found = self.state.shards.borrow().get(&shard).cloned();
        if let Some(found) = found.filter(|found| found.alive.get()) {
            self.state.core.counts.borrow_mut().add(Fault::ShardKill);
            self.state.end(&found);
        }
    }

    /// Lets one shard stand still; the others and the disk go on.
    pub fn pause_shard(&self, shard: ShardId, duration: Duration) {
        let found = self.state.shards.borrow().get(&shard).cloned();
        let Some(found) = found.filter(|found| found.alive.get()) else { return };
        let core = &self.state.core;
        core.counts.borrow_mut().add(Fault::ShardPause);
        core.trace(found.group.0 as u64, trace::Event::Shard, 3, || "paused");
        core.executor.pause(found.group);
        let at = core.now.get() + u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX / 2);
        let resume = Resume { core: Rc::clone(core), group: found.group };
        core.executor.schedule(at, Event::Fire(Rc::new(resume)));
    }
}

impl NodeState {
    pub(crate) fn start(
        node: &Rc<Self>,
        id: ShardId,
        main: impl FnOnce(Env) -> LocalFuture<'static, ()>,
    ) -> io::Result<()> {
        if node.runs(id) {
            return Err(io::ErrorKind::ResourceBusy.into());
        }
        let core = &node.core;
        let shard = Rc::new(Shard {
            id,
            group: core.executor.new_group(),
            node: node.index,
            alive: Cell::new(true),
            operations: Cell::new(0),
            queue: RefCell::default(),
            receiver: RefCell::default(),
            arrivals: RefCell::default(),
        });
        core.trace(shard.group.0 as u64, trace::Event::Shard, 1, || format!("{id} started"));
        node.shards.borrow_mut().insert(id, Rc::clone(&shard));
        let env = Env::new(
            id,
            Rc::new(ProcessDisk::new(&node.disk, &shard)),
            Rc::new(ShardClock { core: Rc::clone(core) }),
            Rc::new(ShardSpawner { core: Rc::clone(core), group: shard.group }),
            Rc::new(ShardMesh { node: Rc::clone(node), shard: Rc::clone(&shard) }),
            core.random.bits(),
        );
        let future = main(env);
        let node = Rc::clone(node);
        core.spawn(
            shard.group,
            "shard main",
            Box::pin(async move {
                future.await;
                node.end(&shard);
            }),
        );
        Ok(())
    }

    /// Whether a shard is alive or the kernel still works for it.
    pub(crate) fn runs(&self, id: ShardId) -> bool {
        self.life(id).is_some()
    }

    /// The present life of a shard, if [`NodeState::runs`].
    pub(crate) fn life(&self, id: ShardId) -> Option<GroupId> {
        let shards = self.shards.borrow();
        let shard = shards.get(&id)?;
        (shard.alive.get() || shard.operations.get() > 0).then_some(shard.group)
    }

    pub(crate) fn incarnation(&self) -> u64 {
        self.incarnation.get()
    }

    /// Wakes `waker` when a shard has ended or the process crashed.
    pub(crate) fn wait(&self, waker: Waker) {
        self.waiting.borrow_mut().push(waker);
    }

    fn end(&self, shard: &Rc<Shard>) {
        shard.alive.set(false);
        self.core.trace(shard.group.0 as u64, trace::Event::Shard, 2, || "ended");
        self.core.executor.kill(shard.group);
        // Parcels may own what wakes and sends when it is dropped.
        let queue = shard.queue.take();
        drop(queue);
        drop(shard.receiver.take());
        self.wake_waiting();
    }

    fn wake_waiting(&self) {
        for waker in self.waiting.take() {
            waker.wake();
        }
    }

    fn crash(node: &Rc<Self>, crash: Crash) {
        node.planned.set(None);
        node.incarnation.set(node.incarnation.get() + 1);
        node.crashes.set(node.crashes.get() + 1);
        let fault = match crash {
            Crash::Kill => Fault::ProcessKill,
            Crash::Power => Fault::PowerCut,
        };
        node.core.counts.borrow_mut().add(fault);
        node.core.trace(node.index as u64, trace::Event::Crash, fault as u64, || fault.name());
        let shards = node.shards.take();
        for shard in shards.values() {
            shard.alive.set(false);
        }
        // The disk first: what tasks do while they are dropped comes too late.
        node.disk.crash(crash);
        for shard in shards.values() {
            node.end(shard);
        }
        node.wake_waiting();
    }

    /// Called after each poll of any task.
    pub(crate) fn after_poll(self: &Rc<Self>, group: GroupId) {
        let Some((after, crash)) = self.planned.get() else { return };
        let after = match after {
            After::Polls(count) => {
                let mine = self.shards.borrow().values().any(|shard| shard.group == group);
                After::Polls(count.saturating_sub(u64::from(mine)))
            }
            After::Operations(count) => {
                After::Operations(count.saturating_sub(self.disk.take_activity()))
            }
        };
        match after {
            After::Polls(0) | After::Operations(0) => Self::crash(self, crash),
            After::Polls(_) | After::Operations(_) => self.planned.set(Some((after, crash))),
        }
    }

    /// An operation of `shard` came back.
    pub(crate) fn operation_ended(&self, shard: &Shard) {
        shard.operations.set(shard.operations.get() - 1);
        if shard.operations.get() == 0 && !shard.alive.get() {
            self.wake_waiting();
        }
    }

    /// The parcel arrives a little later, after everything `from` sent before.
    pub(crate) fn send(node: &Rc<Self>, from: Sender, to: ShardId, parcel: Parcel) {
        let target = node.shards.borrow().get(&to).filter(|shard| shard.alive.get()).cloned();
        let Some(target) = target else {
            // Dropped with nothing borrowed: a parcel may own what wakes.
            return drop(parcel);
        };
        let core = &node.core;
        let key = match from {
            Sender::Shard(id) => Some(id),
            Sender::Client => None,
        };
        let slow = if core.random.one_in(64) { 200_000 } else { 2_000 };
        let at = core.now.get() + 100 + core.random.below(slow);
        let before = target.arrivals.borrow().get(&key).copied().unwrap_or(0);
        let at = at.max(before + 1);
        target.arrivals.borrow_mut().insert(key, at);
        let delivery =
            Delivery { core: Rc::clone(core), target, parcel: RefCell::new(Some((from, parcel))) };
        core.executor.schedule(at, Event::Fire(Rc::new(delivery)));
    }

    /// Ends the process for good, because the world ends.
    pub(crate) fn take_down(&self) {
        for shard in self.shards.take().into_values() {
            shard.alive.set(false);
            self.end(&shard);
        }
        self.disk.take_down();
    }
}

struct Delivery {
    core: Rc<Core>,
    target: Rc<Shard>,
    parcel: RefCell<Option<(Sender, Parcel)>>,
}

impl Fire for Delivery {
    fn fire(self: Rc<Self>) {
        let parcel = self.parcel.take();
        if !self.target.alive.get() {
            return drop(parcel);
        }
        self.core.trace(self.target.group.0 as u64, trace::Event::Deliver, 0, || "parcel");
        self.target.queue.borrow_mut().extend(parcel);
        if let Some(waker) = self.target.receiver.take() {
            waker.wake();
        }
    }
}

struct Resume {
    core: Rc<Core>,
    group: GroupId,
}

impl Fire for Resume {
    fn fire(self: Rc<Self>) {
        self.core.executor.resume(self.group);
    }
}
