//! One world: virtual time, one stream of chance, clients, and machines ([`Node`]) whose processes
//! run the unchanged engine on simulated disks.
//!
//! A world belongs to the thread that runs it. Everything in it happens in an order that the seed
//! decides: which ready task is polled next, how long a poll or an operation lasts, what fails, and
//! what a crash leaves behind.
//!
//! ```
//! use tidemill_tests::world::{Options, World};
//!
//! let run = World::run(&Options::seed(7), |world| async move {
//!     let started = world.now();
//!     world.sleep(std::time::Duration::from_secs(3600)).await;
//!     world.now().since(started).as_secs()
//! });
//! assert_eq!(run.result.unwrap(), 3600);
//! ```

use std::cell::{Cell, RefCell};
use std::fmt;
use std::future::Future;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Poll, Waker};
use std::time::Duration;

use tidemill::env::LocalFuture;
use tidemill::types::{Time, WallTime};

use crate::counts::Counts;
use crate::node::{Node, NodeState};
use crate::random::Random;
use crate::trace::{self, Trace};

mod executor;

pub(crate) use executor::{CLIENTS, Event, Executor, Fire, GroupId};

/// How to run a world.
#[derive(Clone, Debug)]
pub struct Options {
    /// Decides everything.
    pub seed: u64,
    /// Keeps a readable log of every event.
    pub log: bool,
    /// A scenario that polls more than this has a task that spins.
    pub polls_max: u64,
    /// A scenario that needs more virtual time than this waits for what never comes.
    pub time_max: Duration,
}

impl Options {
    /// The defaults, with `seed`.
    #[must_use]
    pub fn seed(seed: u64) -> Self {
        Self { seed, log: false, polls_max: 300_000, time_max: Duration::from_hours(24) }
    }
}

/// Why a world was stopped before its scenario was done. Each is a bug of the engine or the scenario.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Stuck {
    /// Every task waits for another one.
    #[error("deadlock: nothing is ready and nothing is due; waiting: {0}")]
    Deadlock(String),
    /// See [`Options::polls_max`].
    #[error("livelock: {polls} polls, the last of task {task}")]
    Polls {
        /// How many.
        polls: u64,
        /// The task polled last.
        task: &'static str,
    },
    /// See [`Options::time_max`].
    #[error("nothing came of {0:?} of virtual time; waiting: {1}")]
    Time(Duration, String),
}

/// What came of a world.
#[derive(Debug)]
pub struct Finished<T> {
    /// What the scenario returned.
    pub result: Result<T, Stuck>,
    /// The hash over everything that happened.
    pub trace: u64,
    /// How many events the trace has.
    pub events: u64,
    /// How many polls there were.
    pub polls: u64,
    /// Virtual time at the end.
    pub time: Time,
    /// What was injected, and how often.
    pub counts: Counts,
    /// The readable log, if it was asked for.
    pub log: Vec<String>,
}

/// The handle of a world, for the scenario that runs in it. Cheap to clone.
#[derive(Clone)]
pub struct World {
    pub(crate) core: Rc<Core>,
}

impl fmt::Debug for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("World").field("now", &self.now()).finish_non_exhaustive()
    }
}

pub(crate) struct Core {
    /// Tells worlds of one thread apart.
    pub(crate) serial: u64,
    pub(crate) now: Cell<u64>,
    pub(crate) random: Random,
    pub(crate) trace: Trace,
    pub(crate) executor: Executor,
    pub(crate) counts: RefCell<Counts>,
    pub(crate) nodes: RefCell<Vec<Rc<NodeState>>>,
    wall_offset: Cell<i64>,
}

thread_local! {
    static CURRENT: RefCell<Option<Rc<Core>>> = const { RefCell::new(None) };
    static WORLDS: Cell<u64> = const { Cell::new(0) };
}

/// The world this thread runs, if any.
pub(crate) fn current() -> Option<Rc<Core>> {
    CURRENT.try_with(|current| current.borrow().clone()).ok().flatten()
}

impl World {
    /// Runs `body` in a fresh world until it is done, or until the world is stuck.
    ///
    /// # Panics
    /// If this thread runs a world already; and with whatever the engine or `body` panicked, after the
    /// world was taken down.
    pub fn run<T: 'static, F: Future<Output = T> + 'static>(
        options: &Options,
        body: impl FnOnce(Self) -> F,
    ) -> Finished<T> {
        let serial = WORLDS.get() + 1;
        WORLDS.set(serial);
        let core = Rc::new(Core {
            serial,
            now: Cell::new(0),
            random: Random::new(options.seed),
            trace: Trace::new(options.log),
            executor: Executor::default(),
            counts: RefCell::default(),
            nodes: RefCell::default(),
            wall_offset: Cell::new(0),
        });
        assert_eq!(core.executor.new_group(), CLIENTS);
        let guard = Guard::enter(&core);
        let world = Self { core: Rc::clone(&core) };
        let result = Rc::new(RefCell::new(None));
        let slot = Rc::clone(&result);
        let future = body(world.clone());
        world.spawn("scenario", async move {
            let value = future.await;
            *slot.borrow_mut() = Some(value);
        });
        let (polls, stuck) = core.turn_until(options, || result.borrow().is_some());
        let time = Time(core.now.get());
        let (trace, events) = (core.trace.hash(), core.trace.events());
        drop(guard);
        let result = stuck
            .map_or_else(|| Ok(result.take().expect("the loop ended because it is there")), Err);
        let counts = core.counts.take();
        Finished { result, trace, events, polls, time, counts, log: core.trace.take_log() }
    }

    /// The one stream of chance.
    #[must_use]
    pub fn random(&self) -> &Random {
        &self.core.random
    }

    /// Virtual time.
    #[must_use]
    pub fn now(&self) -> Time {
        Time(self.core.now.get())
    }

    /// What was injected so far.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.core.counts.borrow().clone()
    }

    /// Moves every machine's wall clock by `seconds`; engines must not order anything by it.
    pub fn jump_wall(&self, seconds: i64) {
        self.core.wall_offset.set(self.core.wall_offset.get() + seconds * 1_000_000);
    }

    /// Waits in virtual time.
    #[must_use]
    pub fn sleep(&self, duration: Duration) -> LocalFuture<'static, ()> {
        self.core.sleep(duration)
    }

    /// Runs a task outside every process: it survives their crashes.
    pub fn spawn(&self, name: &'static str, future: impl Future<Output = ()> + 'static) {
        self.core.spawn(CLIENTS, name, Box::pin(future));
    }

    /// A new machine with an empty disk. Nothing runs on it yet.
    #[must_use]
    pub fn node(&self) -> Node {
        Node::new(&self.core)
    }

    /// `None` if `future` is not done after `duration`; it is dropped then.
    pub async fn timeout<T>(
        &self,
        duration: Duration,
        future: impl Future<Output = T>,
    ) -> Option<T> {
        let mut future = pin!(future);
        let mut sleep = self.sleep(duration);
        std::future::poll_fn(|context| {
            if let Poll::Ready(value) = future.as_mut().poll(context) {
                return Poll::Ready(Some(value));
            }
            Pin::new(&mut sleep).poll(context).map(|()| None)
        })
        .await
    }

    /// Adds a line to the trace: what a scenario does is part of what must repeat.
    pub fn note<T: fmt::Display>(&self, detail: u64, text: impl FnOnce() -> T) {
        self.core.trace(u64::MAX >> 8, trace::Event::Note, detail, text);
    }
}

impl Core {
    fn turn_until(&self, options: &Options, done: impl Fn() -> bool) -> (u64, Option<Stuck>) {
        let time_max = u64::try_from(options.time_max.as_nanos()).unwrap_or(u64::MAX);
        let mut polls = 0;
        while !done() {
            self.executor.fire_due(self.now.get());
            if let Some(polled) = self.executor.poll_one(&self.random) {
                polls += 1;
                // A poll costs a little time, so that sleepers and the disk get in between.
                self.now.set(self.now.get() + 50 + (self.random.bits() & 511));
                self.trace(polled.slot as u64, trace::Event::Poll, polls, || polled.name);
                self.after_poll(polled.group);
                if polls >= options.polls_max {
                    return (polls, Some(Stuck::Polls { polls, task: polled.name }));
                }
            } else if let Some(at) = self.executor.next_at() {
                self.now.set(self.now.get().max(at));
            } else {
                return (polls, Some(Stuck::Deadlock(self.executor.names().join(", "))));
            }
            if self.now.get() > time_max {
                let names = self.executor.names().join(", ");
                return (polls, Some(Stuck::Time(options.time_max, names)));
            }
        }
        (polls, None)
    }

    /// Crashes that were set to happen at a certain poll or operation happen between two polls.
    fn after_poll(&self, group: GroupId) {
        let count = self.nodes.borrow().len();
        for index in 0..count {
            let node = Rc::clone(&self.nodes.borrow()[index]);
            node.after_poll(group);
        }
    }

    pub(crate) fn trace<T: fmt::Display>(
        &self,
        who: u64,
        event: trace::Event,
        detail: u64,
        text: impl FnOnce() -> T,
    ) {
        self.trace.add(self.now.get(), who, event, detail, text);
    }

    pub(crate) fn spawn(
        &self,
        group: GroupId,
        name: &'static str,
        future: LocalFuture<'static, ()>,
    ) {
        self.trace(group.0 as u64, trace::Event::Spawn, 0, || name);
        self.executor.spawn(self.serial, group, name, future);
    }

    pub(crate) fn wall(&self) -> WallTime {
        let micros = 1_700_000_000_000_000 + self.now.get() / 1_000;
        WallTime(micros.saturating_add_signed(self.wall_offset.get()))
    }

    pub(crate) fn sleep(self: &Rc<Self>, duration: Duration) -> LocalFuture<'static, ()> {
        let wake_at = Time(self.now.get()).after(duration).0;
        let core = Rc::clone(self);
        let mut registered: Option<Waker> = None;
        Box::pin(std::future::poll_fn(move |context| {
            if core.now.get() >= wake_at {
                return Poll::Ready(());
            }
            if !registered.as_ref().is_some_and(|waker| waker.will_wake(context.waker())) {
                core.executor.schedule(wake_at, Event::Wake(context.waker().clone()));
                registered = Some(context.waker().clone());
            }
            Poll::Pending
        }))
    }
}

/// Makes a world the thread's current one, and takes it down, also when it panics: tasks hold the
/// world and the world holds the tasks, so that circle must be broken.
struct Guard {
    core: Rc<Core>,
}

impl Guard {
    fn enter(core: &Rc<Core>) -> Self {
        let before = CURRENT.replace(Some(Rc::clone(core)));
        assert!(before.is_none(), "a thread runs one world at a time");
        Self { core: Rc::clone(core) }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        for node in self.core.nodes.take() {
            node.take_down();
        }
        self.core.executor.clear();
        CURRENT.set(None);
    }
}
