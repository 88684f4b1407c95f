//! One shard: a thread, a glommio executor, a ring, and the poller that joins them.
//!
//! The poller is a task like any other. At each of its turns it hands queued operations to the kernel,
//! takes completions, and wakes whoever waits for parcels. Then it rests while other tasks are due, for at
//! most [`TURN_MAX`]. When nobody is, it gives the core to
//! other threads and looks again; idle for longer than `spin`, it parks: glommio sleeps until the
//! shard's eventfd is written by the ring, by another shard or by a client, or until somebody's sleep
//! ends. Whatever task runs meanwhile, woken from outside, unparks it.
//!
//! A task that awaits something which another *thread* resolves is woken by the poller too, at its next
//! turn; see [`wake`](super::wake).

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant, SystemTime};

use glommio::io::{PollState, PollableFd};
use glommio::timer::Timer;
use glommio::{Latency, LocalExecutorBuilder, Placement, Shares, TaskQueueHandle};

use super::device::Device;
use super::disk::DirectDisk;
use super::mesh::{Inboxes, ShardMesh};
use super::ring::Ring;
use super::sleepers::Sleepers;
use super::wake::Wakers;
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
    pub(super) device: Arc<Device>,
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
        .preempt_timer(ROUND)
        .make()
        .map_err(|error| io::Error::other(format!("glommio cannot start an executor: {error}")))?;
    let ring = Ring::new(&plan.device)?;
    let mesh = ShardMesh::new(plan.shard, Arc::clone(&plan.inboxes));
    ring.register_eventfd(mesh.inbox().eventfd())?;
    executor.run(async move {
        let listening = Listening::begin(&mesh);
        started();
        let wakers = Wakers::begin(&plan.inboxes, plan.shard);
        let tasks = Rc::new(Tasks::new(plan.shard, Arc::clone(&plan.watchdog), wakers));
        let sleepers = Rc::new(Sleepers::default());
        let poller = Poller::new(&ring, &mesh, &sleepers, &tasks, plan.spin);
        tasks.spawn(Class::Core, POLLER, Box::pin(poller.run()));
        for every in HEARTBEATS {
            tasks.spawn(Class::Core, HEARTBEAT, Box::pin(heartbeat(Rc::clone(&tasks), every)));
        }
        let env = Env::new(
            plan.shard,
            Rc::new(DirectDisk::new(plan.root.clone(), Rc::clone(&ring), Rc::clone(&tasks.class))),
            Rc::new(SystemClock { started_at: plan.started_at, sleepers }),
            Rc::new(Rc::clone(&tasks)),
            Rc::clone(&mesh) as Rc<dyn crate::env::Mesh>,
            plan.seed,
        );
        tasks.run_main(main, env).await;
        // Tasks first, while everything they may touch in their destructors still works; then what
        // they left in flight; then the parcels nobody took.
        tasks.close();
        ring.drain();
        drop(listening);
    });
    Ok(())
}

/// Takes parcels while it lives; also when glommio itself panics, senders must hear of the end.
struct Listening(Rc<ShardMesh>);

impl Listening {
    fn begin(mesh: &Rc<ShardMesh>) -> Self {
        mesh.inbox().begin();
        Self(Rc::clone(mesh))
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.0.close();
        self.0.inbox().end();
    }
}

/// How long tasks run before the poller gets its turn, and before [`Env::should_yield`] asks a loop to
/// make room: a write or a message waits for so long on a busy shard, several times in each microbatch.
const TURN_MAX: Duration = Duration::from_micros(100);

/// How long the executor runs before glommio looks at its own rings.
///
/// glommio's executor goes to sleep *beside runnable tasks* if this time passes between its setting
/// the timer and running the first task, as happens where the thread loses its core in between. At
/// half a millisecond that was seen every few seconds on a busy machine, so it must be much longer
/// than a slice of the kernel's scheduler, and [`HEARTBEATS`] must end such a sleep.
const ROUND: Duration = Duration::from_millis(10);

/// Timers that are always pending, so that no sleep lasts longer: see [`ROUND`]. Two, since the one
/// that fires could meet with the same fate. A parked shard has them five times as rare, where they
/// cost it about a thousandth of a core.
const HEARTBEATS: [Duration; 2] = [Duration::from_millis(20), Duration::from_millis(330)];

/// The key of the shard's first future.
const MAIN: usize = 0;

/// Names of the tasks that are no work.
const POLLER: &str = "poller";
const HEARTBEAT: &str = "heartbeat";

async fn heartbeat(tasks: Rc<Tasks>, every: Duration) {
    loop {
        let parked = tasks.parked.borrow().is_some();
        Timer::new(if parked { every * 5 } else { every }).await;
    }
}

/// The tasks of one shard. It owns their futures, so that they end with the shard and not with the
/// last waker that somebody outside keeps.
struct Tasks {
    shard: ShardId,
    watchdog: Arc<Watchdog>,
    wakers: Rc<Wakers>,
    queues: [TaskQueueHandle; 4],
    /// Of the task that runs.
    class: Rc<Cell<Class>>,
    futures: RefCell<Futures>,
    /// Polls of tasks that are work: how the poller sees whether anybody had some.
    polls: Cell<u64>,
    /// When the poller's turn began.
    turn_at: Cell<Instant>,
    /// When the last poll ended.
    polled_at: Cell<Instant>,
    /// When they were last counted, and how many they were.
    preemptions: Cell<(Instant, i64)>,
    /// Time of the current poll in which others had the core on purpose.
    given_away: Cell<Duration>,
    /// The poller's, while it is parked.
    parked: RefCell<Option<Waker>>,
    /// The poller's, while it lets others run.
    resting: RefCell<Option<Waker>>,
    /// A task panicked: the shard must end.
    failed: Cell<bool>,
}

/// By key.
struct Futures {
    slots: Vec<Option<LocalFuture<'static, ()>>>,
    free: Vec<usize>,
    closed: bool,
}

impl Tasks {
    fn new(shard: ShardId, watchdog: Arc<Watchdog>, wakers: Rc<Wakers>) -> Self {
        let queue = |shares, latency, name| {
            glommio::executor().create_task_queue(Shares::Static(shares), latency, name)
        };
        let queues = [
            queue(1000, Latency::NotImportant, "core"),
            queue(500, Latency::NotImportant, "client"),
            queue(400, Latency::NotImportant, "topology"),
            queue(100, Latency::NotImportant, "background"),
        ];
        Self {
            shard,
            watchdog,
            wakers,
            queues,
            class: Rc::new(Cell::new(Class::Core)),
            futures: RefCell::new(Futures { slots: vec![None], free: Vec::new(), closed: false }),
            polls: Cell::new(0),
            turn_at: Cell::new(now()),
            polled_at: Cell::new(now()),
            preemptions: Cell::new((now(), preemptions())),
            given_away: Cell::default(),
            parked: RefCell::default(),
            resting: RefCell::default(),
            failed: Cell::new(false),
        }
    }

    /// Runs the first future until it ends or any task panics.
    async fn run_main(self: &Rc<Self>, main: ShardMain, env: Env) {
        let Ok(mut future) = catch_unwind(AssertUnwindSafe(|| main(env))) else { return };
        let waker = self.wakers.waker(MAIN);
        poll_fn(|context| {
            self.wakers.register(MAIN, context.waker());
            if self.failed.get() {
                return Poll::Ready(());
            }
            self.wakers.polled(MAIN);
            let poll = self.poll("main", &mut future, &mut Context::from_waker(&waker));
            self.end_rest();
            poll.unwrap_or(Poll::Ready(()))
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
        if name != POLLER && name != HEARTBEAT {
            self.polls.set(self.polls.get() + 1);
            // It may queue operations, or sleep, and the poller must know.
            if let Some(poller) = self.parked.take() {
                self.turn();
                poller.wake();
            }
        }
        let before = now();
        let poll = catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(context)));
        let after = now();
        self.polled_at.set(after);
        let duration = (after - before).saturating_sub(self.given_away.take());
        if duration > SLOW_POLL {
            let preempted = preemptions() != self.preemptions.get().1;
            let poll = SlowPoll { shard: self.shard, task: name, duration, preempted };
            self.watchdog.bark(poll, after);
            self.preemptions.set((after, preemptions()));
        }
        if after - self.turn_at.get() > TURN_MAX {
            end_turn_of_queue();
        }
        poll.ok()
    }

    /// A task was polled: ends the poller's rest if nobody else is due, or after a while.
    fn end_rest(&self) {
        let over = self.polled_at.get() - self.turn_at.get() > TURN_MAX;
        if (over || self.wakers.due_count() == 0)
            && let Some(poller) = self.resting.take()
        {
            poller.wake();
        }
    }

    /// Begins a turn of the poller.
    fn turn(&self) {
        let now = now();
        self.turn_at.set(now);
        // Not at every turn: it is a system call.
        if now - self.preemptions.get().0 > Duration::from_millis(1) {
            self.preemptions.set((now, preemptions()));
        }
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
        self.wakers.end();
    }

    fn fail(&self) {
        self.failed.set(true);
        self.wakers.wake(MAIN);
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
        let key = futures.free.pop().unwrap_or_else(|| {
            futures.slots.push(None);
            futures.slots.len() - 1
        });
        futures.slots[key] = Some(future);
        drop(futures);
        let waker = self.wakers.waker(key);
        self.wakers.spawned(key, name != POLLER && name != HEARTBEAT);
        let task =
            TaskFuture { tasks: Rc::clone(self), key, class, name, waker, is_registered: false };
        let queue = self.queues[class as usize];
        let task = glommio::spawn_local_into(task, queue).expect("the queues live with the shard");
        drop(task.detach());
    }

    fn class(&self) -> Class {
        self.class.get()
    }

    fn yield_now(&self) -> LocalFuture<'static, ()> {
        Box::pin(yield_queue())
    }

    fn should_yield(&self) -> bool {
        now() - self.turn_at.get() > TURN_MAX
    }
}

/// What glommio runs: looks the future up, so that it can be dropped from outside.
struct TaskFuture {
    tasks: Rc<Tasks>,
    key: usize,
    class: Class,
    name: &'static str,
    waker: Waker,
    /// [`Wakers`] knows glommio's waker.
    is_registered: bool,
}

impl Future for TaskFuture {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if !self.is_registered {
            self.is_registered = true;
            self.tasks.wakers.register(self.key, context.waker());
        }
        self.tasks.wakers.polled(self.key);
        let poll = self.poll_once();
        if self.name != POLLER {
            self.tasks.end_rest();
        }
        poll
    }
}

impl TaskFuture {
    fn poll_once(&self) -> Poll<()> {
        let future = self.tasks.futures.borrow_mut().slots[self.key].take();
        let Some(mut future) = future else { return Poll::Ready(()) };
        self.tasks.class.set(self.class);
        let context = &mut Context::from_waker(&self.waker);
        let poll = self.tasks.poll(self.name, &mut future, context);
        self.tasks.class.set(Class::Core);
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
        self.tasks.wakers.forget(self.key);
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

/// Marks the running queue as having had enough, so that the next one, the poller's at the latest,
/// gets its turn before this one's other tasks.
fn end_turn_of_queue() {
    let mut yielding = pin!(yield_queue());
    // The mark is set by the first poll. The task itself is not woken: it may have ended.
    let poll = yielding.as_mut().poll(&mut Context::from_waker(Waker::noop()));
    debug_assert!(poll.is_pending());
}

struct Poller {
    ring: Rc<Ring>,
    mesh: Rc<ShardMesh>,
    sleepers: Rc<Sleepers>,
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
    fn new(
        ring: &Rc<Ring>,
        mesh: &Rc<ShardMesh>,
        sleepers: &Rc<Sleepers>,
        tasks: &Rc<Tasks>,
        spin: Duration,
    ) -> Self {
        let eventfd = PollableFd::new(BorrowedEventfd(mesh.inbox().eventfd()))
            .expect("made on the executor's thread");
        let (ring, mesh) = (Rc::clone(ring), Rc::clone(mesh));
        let (sleepers, tasks) = (Rc::clone(sleepers), Rc::clone(tasks));
        Self { ring, mesh, sleepers, tasks, spin, eventfd }
    }

    async fn run(self) {
        let mut polls_seen = 0;
        let mut idle_since = None;
        // Kept over all parkings: a registration that did not fire serves the next one.
        let mut bell = PollState::new();
        loop {
            self.tasks.turn();
            let completed = self.ring.turn();
            let received = self.mesh.turn();
            let woke = self.sleepers.turn() | self.tasks.wakers.turn();
            let polls = self.tasks.polls.get();
            let others_ran = polls > polls_seen;
            polls_seen = polls;
            let due = self.tasks.wakers.due_count() > 0;
            if completed || received || woke || others_ran || due {
                idle_since = None;
                if due {
                    self.rest().await;
                } else {
                    yield_queue().await;
                }
                continue;
            }
            let before = now();
            if before - *idle_since.get_or_insert(before) >= self.spin {
                self.park(&mut bell).await;
                idle_since = None;
                continue;
            }
            std::thread::yield_now();
            let away = self.tasks.given_away.get() + before.elapsed();
            self.tasks.given_away.set(away);
            yield_queue().await;
        }
    }

    /// Lets the tasks that are due run, for at most a turn. The poller must not be runnable meanwhile: the
    /// executor gives each queue its share of the core, and this one, which uses next to nothing, would have
    /// to burn its own first.
    async fn rest(&self) {
        let mut is_first = true;
        poll_fn(|context| {
            if !std::mem::take(&mut is_first) {
                return Poll::Ready(());
            }
            *self.tasks.resting.borrow_mut() = Some(context.waker().clone());
            Poll::Pending
        })
        .await;
    }

    async fn park(&self, bell: &mut PollState) {
        let inbox = self.mesh.inbox();
        self.ring.notify(true);
        inbox.park();
        let next = self.sleepers.next();
        let mut timer = next.map(|at| Timer::new(at.saturating_duration_since(now())));
        let polls = self.tasks.polls.get();
        poll_fn(|context| {
            // The first look comes after `inbox.park`, so nothing can slip in between.
            let work = self.ring.has_work() || self.mesh.has_work();
            if work || self.tasks.polls.get() != polls {
                return Poll::Ready(());
            }
            if let Some(timer) = &mut timer
                && Pin::new(timer).poll(context).is_ready()
            {
                return Poll::Ready(());
            }
            *self.tasks.parked.borrow_mut() = Some(context.waker().clone());
            match self.eventfd.poll_readable(context, bell) {
                Poll::Ready(Ok(())) => Poll::Ready(()),
                Poll::Ready(Err(error)) => panic!("cannot wait for the shard's eventfd: {error}"),
                Poll::Pending => Poll::Pending,
            }
        })
        .await;
        drop(self.tasks.parked.take());
        self.ring.notify(false);
        inbox.unpark();
    }
}

struct SystemClock {
    started_at: Instant,
    sleepers: Rc<Sleepers>,
}

impl Clock for SystemClock {
    fn now(&self) -> Time {
        Time::default().after(now() - self.started_at)
    }

    fn wall(&self) -> WallTime {
        let since_epoch = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let micros = since_epoch.map_or(0, |duration| duration.as_micros());
        WallTime(u64::try_from(micros).unwrap_or(u64::MAX))
    }

    fn sleep(&self, duration: Duration) -> LocalFuture<'static, ()> {
        match now().checked_add(duration) {
            Some(until) => Box::pin(self.sleepers.sleep(until)),
            None => Box::pin(std::future::pending()),
        }
    }
}

/// How often the kernel took the core from this thread to give it to another.
fn preemptions() -> i64 {
    // SAFETY: `rusage` is plain numbers, for which zeros are valid.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: `usage` is writable for the call, which cannot fail for one's own thread.
    unsafe { libc::getrusage(libc::RUSAGE_THREAD, &raw mut usage) };
    usage.ru_nivcsw
}

/// Monotonic time.
pub(super) fn now() -> Instant {
    Instant::now()
}
