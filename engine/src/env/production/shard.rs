//! One shard: a thread, a glommio executor, a ring, and the poller that joins them.
//!
//! The poller is a task like any other. At each of its turns it hands queued operations to the kernel,
//! takes completions, and wakes whoever waits for parcels. With nothing to do it gives the core to
//! other threads and looks again; idle for longer than `spin`, it parks: glommio sleeps until the
//! shard's eventfd is written by the ring, by another shard or by a client, or until a timer fires.

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant, SystemTime};

use glommio::io::{PollState, PollableFd};
use glommio::{Latency, LocalExecutorBuilder, Placement, Shares, TaskQueueHandle};

use super::disk::DirectDisk;
use super::mesh::{Inboxes, ShardMesh};
use super::ring::Ring;
use super::watchdog::{SLOW_POLL, SlowPoll, Watchdog};
use crate::env::{Class, Clock, Env, LocalFuture, ShardMain, Spawner};
use crate::types::{ShardId, Time, WallTime};

/// What a shard is started with.
pub(super) struct Plan {
    pub(super) shard: ShardId,
    pub(super) root: PathBuf,
    pub(super) core: Option<usize>,
    pub(super) spin: Duration,
    pub(super) started_at: Instant,
    pub(super) seed: u64,
    pub(super) inboxes: Arc<Inboxes>,
    pub(super) watchdog: Arc<Watchdog>,
}

/// Runs a shard on this thread until `main` ends; calls `started` once it is known to run.
///
/// # Errors
/// Why it cannot run; `started` was not called then.
pub(super) fn run(plan: Plan, main: ShardMain, started: impl FnOnce()) -> io::Result<()> {
    let placement = plan.core.map_or(Placement::Unbound, Placement::Fixed);
    let executor = LocalExecutorBuilder::new(placement)
        .name("tidemill")
        // Files do not go through glommio's rings, so they can be small.
        .io_memory(64 << 10)
        .ring_depth(128)
        .preempt_timer(TURN_MAX)
        .make()
        .map_err(|error| io::Error::other(format!("glommio cannot start an executor: {error}")))?;
    let ring = Ring::new()?;
    let mesh = ShardMesh::new(plan.shard, Arc::clone(&plan.inboxes));
    ring.register_eventfd(mesh.inbox().eventfd())?;
    executor.run(async move {
        mesh.inbox().begin();
        started();
        let tasks = Rc::new(Tasks::new(plan.shard, Arc::clone(&plan.watchdog)));
        let poller = Poller::new(&ring, &mesh, &tasks, plan.spin);
        tasks.spawn(Class::Core, "poller", Box::pin(poller.run()));
        let env = Env::new(
            plan.shard,
            Rc::new(DirectDisk::new(plan.root.clone(), Rc::clone(&ring))),
            Rc::new(SystemClock { started_at: plan.started_at }),
            Rc::new(Rc::clone(&tasks)),
            Rc::clone(&mesh) as Rc<dyn crate::env::Mesh>,
            plan.seed,
        );
        tasks.run_main(main, env).await;
        // Tasks first, while everything they may touch in their destructors still works; then what
        // they left in flight; then the parcels nobody took.
        tasks.close();
        ring.on_queued(None);
        ring.drain();
        mesh.close();
        mesh.inbox().end();
    });
    Ok(())
}

/// How long tasks run before glommio looks at its own rings and timers, and before
/// [`Env::should_yield`] asks a loop to make room.
const TURN_MAX: Duration = Duration::from_micros(500);

/// The tasks of one shard. It owns their futures, so that they end with the shard and not with the
/// last waker that somebody outside keeps.
struct Tasks {
    shard: ShardId,
    watchdog: Arc<Watchdog>,
    queues: [TaskQueueHandle; 4],
    futures: RefCell<Futures>,
    /// Polls of all tasks but the poller's own: how it sees whether anybody else had work.
    polls: Cell<u64>,
    /// A task panicked: the shard must end.
    failed: Cell<bool>,
    main: RefCell<Option<Waker>>,
}

#[derive(Default)]
struct Futures {
    slots: Vec<Option<LocalFuture<'static, ()>>>,
    free: Vec<usize>,
    closed: bool,
}

impl Tasks {
    fn new(shard: ShardId, watchdog: Arc<Watchdog>) -> Self {
        let queue = |shares, latency, name| {
            glommio::executor().create_task_queue(Shares::Static(shares), latency, name)
        };
        let queues = [
            queue(1000, Latency::Matters(TURN_MAX), "core"),
            queue(500, Latency::NotImportant, "client"),
            queue(400, Latency::NotImportant, "topology"),
            queue(100, Latency::NotImportant, "background"),
        ];
        Self {
            shard,
            watchdog,
            queues,
            futures: RefCell::default(),
            polls: Cell::new(0),
            failed: Cell::new(false),
            main: RefCell::default(),
        }
    }

    /// Runs the first future until it ends or any task panics.
    async fn run_main(self: &Rc<Self>, main: ShardMain, env: Env) {
        let Ok(mut future) = catch_unwind(AssertUnwindSafe(|| main(env))) else { return };
        poll_fn(|context| {
            if self.failed.get() {
                return Poll::Ready(());
            }
            *self.main.borrow_mut() = Some(context.waker().clone());
            match self.poll("main", &mut future, context) {
                Some(poll) => poll,
                None => Poll::Ready(()),
            }
        })
        .await;
        // A destructor that panics must not leave the files open.
        let dropped = catch_unwind(AssertUnwindSafe(|| drop(future)));
        drop(dropped);
    }

    /// Polls under the watchdog; `None` if it panicked.
    fn poll(
        &self,
        name: &'static str,
        future: &mut LocalFuture<'static, ()>,
        context: &mut Context<'_>,
    ) -> Option<Poll<()>> {
        self.polls.set(self.polls.get() + 1);
        let before = now();
        let poll = catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(context)));
        let after = now();
        let duration = after - before;
        if duration > SLOW_POLL {
            self.watchdog.bark(SlowPoll { shard: self.shard, task: name, duration }, after);
        }
        poll.ok()
    }

    /// Drops every task. Their destructors may still spawn, which does nothing.
    fn close(&self) {
        self.futures.borrow_mut().closed = true;
        let mut key = 0;
        loop {
            let mut futures = self.futures.borrow_mut();
            let Some(slot) = futures.slots.get_mut(key) else { break };
            let future = slot.take();
            drop(futures);
            let dropped = catch_unwind(AssertUnwindSafe(|| drop(future)));
            drop(dropped);
            key += 1;
        }
        drop(self.main.take());
    }

    fn fail(&self) {
        self.failed.set(true);
        if let Some(main) = self.main.take() {
            main.wake();
        }
    }
}

impl Spawner for Rc<Tasks> {
    fn spawn(&self, class: Class, name: &'static str, future: LocalFuture<'static, ()>) {
        let mut futures = self.futures.borrow_mut();
        if futures.closed {
            drop(futures);
            drop(future);
            return;
        }
        let key = match futures.free.pop() {
            Some(key) => key,
            None => {
                futures.slots.push(None);
                futures.slots.len() - 1
            }
        };
        futures.slots[key] = Some(future);
        drop(futures);
        let task = TaskFuture { tasks: Rc::clone(self), key, name };
        let queue = self.queues[class as usize];
        let task = glommio::spawn_local_into(task, queue).expect("the queues live with the shard");
        drop(task.detach());
    }

    fn yield_now(&self) -> LocalFuture<'static, ()> {
        Box::pin(yield_queue())
    }

    fn should_yield(&self) -> bool {
        glommio::executor().need_preempt()
    }
}

/// What glommio runs: looks the future up, so that it can be dropped from outside.
struct TaskFuture {
    tasks: Rc<Tasks>,
    key: usize,
    name: &'static str,
}

impl Future for TaskFuture {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let future = self.tasks.futures.borrow_mut().slots[self.key].take();
        let Some(mut future) = future else { return Poll::Ready(()) };
        let poll = self.tasks.poll(self.name, &mut future, context);
        if poll.is_none() {
            self.tasks.fail();
        }
        let mut futures = self.tasks.futures.borrow_mut();
        if poll == Some(Poll::Pending) && !futures.closed {
            futures.slots[self.key] = Some(future);
            return Poll::Pending;
        }
        futures.free.push(self.key);
        drop(futures);
        let dropped = catch_unwind(AssertUnwindSafe(|| drop(future)));
        if dropped.is_err() {
            self.tasks.fail();
        }
        Poll::Ready(())
    }
}

/// Lets other queues run before this task's queue goes on.
async fn yield_queue() {
    glommio::executor().yield_task_queue_now().await;
}

struct Poller {
    ring: Rc<Ring>,
    mesh: Rc<ShardMesh>,
    tasks: Rc<Tasks>,
    spin: Duration,
    eventfd: PollableFd<BorrowedEventfd>,
}

/// The inbox owns the descriptor and outlives the shard.
struct BorrowedEventfd(RawFd);

impl AsRawFd for BorrowedEventfd {
    fn as_raw_fd(&self) -> RawFd {
        self.0
    }
}

impl Poller {
    fn new(ring: &Rc<Ring>, mesh: &Rc<ShardMesh>, tasks: &Rc<Tasks>, spin: Duration) -> Self {
        let eventfd = PollableFd::new(BorrowedEventfd(mesh.inbox().eventfd()))
            .expect("made on the executor's thread");
        let (ring, mesh, tasks) = (Rc::clone(ring), Rc::clone(mesh), Rc::clone(tasks));
        Self { ring, mesh, tasks, spin, eventfd }
    }

    async fn run(self) {
        let mut polls_seen = 0;
        let mut idle_since = None;
        // Kept over all parkings: a registration that did not fire serves the next one.
        let mut bell = PollState::new();
        loop {
            let completed = self.ring.turn();
            let received = self.mesh.turn();
            // One poll is our own.
            let polls = self.tasks.polls.get();
            let others_ran = polls > polls_seen + 1;
            polls_seen = polls;
            if completed || received || others_ran {
                idle_since = None;
                yield_queue().await;
                continue;
            }
            let now = now();
            let since = *idle_since.get_or_insert(now);
            if now - since >= self.spin {
                self.park(&mut bell).await;
                idle_since = None;
                polls_seen = self.tasks.polls.get();
                continue;
            }
            yield_thread();
            yield_queue().await;
        }
    }

    async fn park(&self, bell: &mut PollState) {
        let inbox = self.mesh.inbox();
        self.ring.notify(true);
        inbox.park();
        poll_fn(|context| {
            // The first look comes after `park`, so nothing can slip in between.
            if self.ring.has_work() || self.mesh.has_work() {
                return Poll::Ready(());
            }
            self.ring.on_queued(Some(context.waker().clone()));
            match self.eventfd.poll_readable(context, bell) {
                Poll::Ready(Ok(())) => Poll::Ready(()),
                Poll::Ready(Err(error)) => panic!("cannot wait for the shard's eventfd: {error}"),
                Poll::Pending => Poll::Pending,
            }
        })
        .await;
        self.ring.on_queued(None);
        inbox.unpark();
        self.ring.notify(false);
    }
}

struct SystemClock {
    started_at: Instant,
}

impl Clock for SystemClock {
    fn now(&self) -> Time {
        Time::default().after(now() - self.started_at)
    }

    #[allow(clippy::disallowed_methods, reason = "this is where wall-clock time comes from")]
    fn wall(&self) -> WallTime {
        let since_epoch = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let micros = since_epoch.map_or(0, |duration| duration.as_micros());
        WallTime(u64::try_from(micros).unwrap_or(u64::MAX))
    }

    fn sleep(&self, duration: Duration) -> LocalFuture<'static, ()> {
        let until = now().checked_add(duration);
        Box::pin(async move {
            loop {
                let left = match until {
                    Some(until) => until.saturating_duration_since(now()),
                    None => Duration::from_secs(1 << 30),
                };
                if left.is_zero() {
                    break;
                }
                // Timers are kept in ticks, so the last one may fire a little early.
                glommio::timer::Timer::new(left).await;
            }
        })
    }
}

#[allow(clippy::disallowed_methods, reason = "this is where monotonic time comes from")]
pub(super) fn now() -> Instant {
    Instant::now()
}

#[allow(clippy::disallowed_methods, reason = "a shard that looks for work lets others run")]
fn yield_thread() {
    std::thread::yield_now();
}
