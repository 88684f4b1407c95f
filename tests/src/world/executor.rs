//! Tasks and events of one world. Ready tasks are picked at random; events (timers, completions of
//! the disk, deliveries) fire in order of virtual time.
//!
//! Nothing here is borrowed while foreign code runs: polls, drops and [`Fire::fire`] may call back.

use std::cell::{Cell, RefCell};
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Wake, Waker};

use tidemill::env::LocalFuture;

use super::current;
use crate::random::Random;

/// A set of tasks that live and die together: one shard of one incarnation of a process, or the
/// clients, who never die.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct GroupId(pub(crate) usize);

/// The group of clients and of the scenario itself.
pub(crate) const CLIENTS: GroupId = GroupId(0);

/// What happens at a time.
pub(crate) enum Event {
    Wake(Waker),
    Fire(Rc<dyn Fire>),
}

/// Something that happens later, outside any task.
pub(crate) trait Fire {
    fn fire(self: Rc<Self>);
}

#[derive(Default)]
pub(crate) struct Executor {
    tasks: RefCell<Vec<Slot>>,
    free: RefCell<Vec<usize>>,
    ready: RefCell<Vec<TaskId>>,
    groups: RefCell<Vec<Group>>,
    events: RefCell<BinaryHeap<Reverse<Scheduled>>>,
    serial: Cell<u64>,
}

/// A slot of the task table and which life of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TaskId {
    slot: usize,
    life: u64,
}

#[derive(Default)]
struct Slot {
    life: u64,
    task: Option<Task>,
}

struct Task {
    group: GroupId,
    name: &'static str,
    /// Absent while it is polled.
    future: Option<LocalFuture<'static, ()>>,
    flag: Arc<Flag>,
}

struct Group {
    alive: bool,
    /// Ready tasks of a paused group wait here.
    paused: Option<Vec<TaskId>>,
}

struct Scheduled {
    at: u64,
    serial: u64,
    event: Event,
}

impl PartialEq for Scheduled {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.serial) == (other.at, other.serial)
    }
}

impl Eq for Scheduled {}

impl PartialOrd for Scheduled {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Scheduled {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.serial).cmp(&(other.at, other.serial))
    }
}

/// What a waker points at. It holds ids only, as wakers are `Send`; the world is found through the
/// thread, and a wake that comes after the end of its world is ignored.
struct Flag {
    world: u64,
    id: TaskId,
    queued: AtomicBool,
}

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.queued.swap(true, Ordering::Relaxed)
            && let Some(core) = current()
            && core.serial == self.world
        {
            core.executor.ready.borrow_mut().push(self.id);
        }
    }
}

/// What one poll was about.
pub(crate) struct Polled {
    pub(crate) slot: usize,
    pub(crate) group: GroupId,
    pub(crate) name: &'static str,
}

impl Executor {
    pub(crate) fn new_group(&self) -> GroupId {
        let mut groups = self.groups.borrow_mut();
        groups.push(Group { alive: true, paused: None });
        GroupId(groups.len() - 1)
    }

    /// Adds a task; in a dead group it is dropped at once.
    pub(crate) fn spawn(
        &self,
        world: u64,
        group: GroupId,
        name: &'static str,
        future: LocalFuture<'static, ()>,
    ) {
        if !self.groups.borrow()[group.0].alive {
            return;
        }
        let mut tasks = self.tasks.borrow_mut();
        let slot = self.free.borrow_mut().pop().unwrap_or_else(|| {
            tasks.push(Slot::default());
            tasks.len() - 1
        });
        let life = tasks[slot].life + 1;
        let id = TaskId { slot, life };
        let flag = Arc::new(Flag { world, id, queued: AtomicBool::new(true) });
        tasks[slot] = Slot { life, task: Some(Task { group, name, future: Some(future), flag }) };
        self.ready.borrow_mut().push(id);
    }

    /// Polls one ready task, picked at random; `None` if no task is ready.
    pub(crate) fn poll_one(&self, random: &Random) -> Option<Polled> {
        let (id, mut future, flag, polled) = self.take_ready(random)?;
        let waker = Waker::from(Arc::clone(&flag));
        let done = future.as_mut().poll(&mut Context::from_waker(&waker)).is_ready();
        let mut tasks = self.tasks.borrow_mut();
        let slot = &mut tasks[id.slot];
        let killed = slot.life != id.life || slot.task.is_none();
        let mut finished = None;
        if !killed && done {
            finished = slot.task.take();
            self.free.borrow_mut().push(id.slot);
        } else if !killed {
            slot.task.as_mut().expect("not killed").future = Some(future);
            return Some(polled);
        }
        // What the future owns may wake, spawn and send when it is dropped.
        drop(tasks);
        drop(future);
        drop(finished);
        Some(polled)
    }

    fn take_ready(
        &self,
        random: &Random,
    ) -> Option<(TaskId, LocalFuture<'static, ()>, Arc<Flag>, Polled)> {
        let mut ready = self.ready.borrow_mut();
        let mut tasks = self.tasks.borrow_mut();
        let mut groups = self.groups.borrow_mut();
        while !ready.is_empty() {
            let index = if ready.len() == 1 { 0 } else { random.index(ready.len()) };
            let id = ready.swap_remove(index);
            let slot = &mut tasks[id.slot];
            let Some(task) = slot.task.as_mut().filter(|_| slot.life == id.life) else {
                continue;
            };
            if let Some(parked) = &mut groups[task.group.0].paused {
                parked.push(id);
                continue;
            }
            task.flag.queued.store(false, Ordering::Relaxed);
            let future = task.future.take().expect("a task is polled by one caller at a time");
            let polled = Polled { slot: id.slot, group: task.group, name: task.name };
            return Some((id, future, Arc::clone(&task.flag), polled));
        }
        None
    }

    /// Ends every task of a group, wherever it waits.
    pub(crate) fn kill(&self, group: GroupId) {
        self.groups.borrow_mut()[group.0] = Group { alive: false, paused: None };
        let mut killed = Vec::new();
        for (index, slot) in self.tasks.borrow_mut().iter_mut().enumerate() {
            if slot.task.as_ref().is_some_and(|task| task.group == group) {
                killed.extend(slot.task.take());
                self.free.borrow_mut().push(index);
            }
        }
        drop(killed);
    }

    /// From now on no task of the group is polled.
    pub(crate) fn pause(&self, group: GroupId) {
        let mut groups = self.groups.borrow_mut();
        if groups[group.0].alive && groups[group.0].paused.is_none() {
            groups[group.0].paused = Some(Vec::new());
        }
    }

    /// Ends [`Executor::pause`].
    pub(crate) fn resume(&self, group: GroupId) {
        let parked = self.groups.borrow_mut()[group.0].paused.take();
        self.ready.borrow_mut().extend(parked.into_iter().flatten());
    }

    /// Ends everything, also the clients.
    pub(crate) fn clear(&self) {
        let count = self.groups.borrow().len();
        for group in 0..count {
            self.kill(GroupId(group));
        }
        let events = self.events.take();
        drop(events);
    }

    pub(crate) fn schedule(&self, at: u64, event: Event) {
        let serial = self.serial.get();
        self.serial.set(serial + 1);
        self.events.borrow_mut().push(Reverse(Scheduled { at, serial, event }));
    }

    /// When the next event happens.
    pub(crate) fn next_at(&self) -> Option<u64> {
        self.events.borrow().peek().map(|Reverse(scheduled)| scheduled.at)
    }

    /// Lets everything happen that is due at `now`.
    pub(crate) fn fire_due(&self, now: u64) {
        while self.next_at().is_some_and(|at| at <= now) {
            let Some(Reverse(scheduled)) = self.events.borrow_mut().pop() else { return };
            match scheduled.event {
                Event::Wake(waker) => waker.wake(),
                Event::Fire(event) => event.fire(),
            }
        }
    }

    /// The names of all tasks, for a report of a deadlock.
    pub(crate) fn names(&self) -> Vec<&'static str> {
        let tasks = self.tasks.borrow();
        tasks.iter().filter_map(|slot| slot.task.as_ref().map(|task| task.name)).collect()
    }
}
