//! Wakers of a shard's tasks, which work at once from every thread.
//!
//! glommio keeps what another thread wakes until its next round, and rounds are long on a busy shard. So
//! tasks are polled with wakers of ours. On the shard's own thread they wake glommio's; on any other they
//! leave the task's key in the shard's inbox, as a parcel, and the poller wakes the task at its next turn.
//!
//! Keys are used again, so a waker that somebody kept after its task ended may wake a later one: once too
//! often, which every future must bear.
//!
//! All wakes of a task come by here, so it is known how many are *due*: woken, or new, and not polled since.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Wake, Waker};

use super::mesh::Inboxes;
use crate::types::ShardId;

/// The wakers of one life of a shard, by key of task.
pub(super) struct Wakers {
    owner: Owner,
    slots: RefCell<Vec<Slot>>,
    due_count: Cell<usize>,
}

/// One life of a shard.
#[derive(Clone)]
struct Owner {
    inboxes: Arc<Inboxes>,
    shard: ShardId,
    life: u64,
}

struct Slot {
    ours: Arc<TaskWaker>,
    /// While there is a task that was polled.
    glommios: Option<Waker>,
    due: Due,
}

/// Whether a task is to be polled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Due {
    No,
    Yes,
    /// Nobody asks: it is no work.
    Never,
}

struct TaskWaker {
    owner: Owner,
    key: usize,
}

thread_local! {
    /// Those of the shard that runs on this thread.
    static HERE: RefCell<Option<Rc<Wakers>>> = const { RefCell::new(None) };
}

impl Wakers {
    /// For the shard on this thread, whose life has begun.
    pub(super) fn begin(inboxes: &Arc<Inboxes>, shard: ShardId) -> Rc<Self> {
        let life = inboxes.of(shard).expect("the shard exists").life();
        let owner = Owner { inboxes: Arc::clone(inboxes), shard, life };
        let wakers = Rc::new(Self { owner, slots: RefCell::default(), due_count: Cell::default() });
        HERE.set(Some(Rc::clone(&wakers)));
        wakers
    }

    /// No task of this life is woken any more.
    pub(super) fn end(&self) {
        HERE.set(None);
        let slots = self.slots.take();
        drop(slots);
    }

    /// Our waker for the task with this key.
    pub(super) fn waker(&self, key: usize) -> Waker {
        let mut slots = self.slots.borrow_mut();
        while slots.len() <= key {
            let waker = TaskWaker { owner: self.owner.clone(), key: slots.len() };
            slots.push(Slot { ours: Arc::new(waker), glommios: None, due: Due::No });
        }
        Waker::from(Arc::clone(&slots[key].ours))
    }

    /// There is a new task with this key. If it is no work, it is never due.
    pub(super) fn spawned(&self, key: usize, is_work: bool) {
        self.mark(key, if is_work { Due::Yes } else { Due::Never });
    }

    /// A task is polled.
    pub(super) fn polled(&self, key: usize) {
        self.mark(key, Due::No);
    }

    /// How many tasks are due.
    pub(super) fn due_count(&self) -> usize {
        self.due_count.get()
    }

    fn mark(&self, key: usize, due: Due) {
        if let Some(slot) = self.slots.borrow_mut().get_mut(key) {
            slot.mark(due, &self.due_count);
        }
    }

    /// A task is polled for the first time: what wakes it in glommio.
    pub(super) fn register(&self, key: usize, waker: &Waker) {
        let before = match self.slots.borrow_mut().get_mut(key) {
            Some(slot) => slot.glommios.replace(waker.clone()),
            None => None,
        };
        drop(before);
    }

    /// A task has ended.
    pub(super) fn forget(&self, key: usize) {
        let waker = self.slots.borrow_mut().get_mut(key).and_then(|slot| {
            slot.mark(Due::No, &self.due_count);
            slot.due = Due::No;
            slot.glommios.take()
        });
        drop(waker);
    }

    /// Wakes the task with this key, if there is one.
    pub(super) fn wake(&self, key: usize) {
        // Waking only queues the task: it runs no code that could come back here.
        if let Some(slot) = self.slots.borrow_mut().get_mut(key)
            && let Some(waker) = &slot.glommios
        {
            waker.wake_by_ref();
            slot.mark(Due::Yes, &self.due_count);
        }
    }

    /// Wakes whom other threads have woken; whether there was anybody.
    pub(super) fn turn(&self) -> bool {
        let inbox = self.owner.inboxes.of(self.owner.shard).expect("the shard exists");
        inbox.take_wakes(|key| self.wake(key))
    }
}

impl Slot {
    /// Counts a change; what is never due stays so until it is forgotten.
    fn mark(&mut self, due: Due, count: &Cell<usize>) {
        match (self.due, due) {
            (Due::No, Due::Yes) => count.set(count.get() + 1),
            (Due::Yes, Due::No) => count.set(count.get() - 1),
            (Due::No, Due::Never) => {}
            _ => return,
        }
        self.due = due;
    }
}

impl Owner {
    fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.inboxes, &other.inboxes)
            && self.shard == other.shard
            && self.life == other.life
    }
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        // Without the local the thread is ending, and with it the shard that ran there.
        let here = HERE.try_with(|here| match &*here.borrow() {
            Some(wakers) if wakers.owner.is(&self.owner) => {
                wakers.wake(self.key);
                true
            }
            _ => false,
        });
        if here != Ok(true)
            && let Some(inbox) = self.owner.inboxes.of(self.owner.shard)
        {
            inbox.wake(self.owner.life, self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_is_due_once_from_its_wake_to_its_poll() {
        let inboxes = Arc::new(Inboxes::new(1).unwrap());
        inboxes.of(ShardId(0)).unwrap().begin();
        let wakers = Wakers::begin(&inboxes, ShardId(0));
        let (work, poller) = (wakers.waker(1), wakers.waker(2));
        wakers.spawned(1, true);
        wakers.spawned(2, false);
        assert_eq!(wakers.due_count(), 1, "a new task is due, what is no work never");
        work.wake_by_ref();
        for key in [1, 2] {
            wakers.polled(key);
            wakers.register(key, Waker::noop());
        }
        assert_eq!(wakers.due_count(), 0);
        poller.wake_by_ref();
        work.wake_by_ref();
        work.wake_by_ref();
        assert_eq!(wakers.due_count(), 1, "however often it was woken");
        wakers.forget(1);
        assert_eq!(wakers.due_count(), 0, "it has ended");
        work.wake_by_ref();
        assert_eq!(wakers.due_count(), 0, "and who keeps its waker wakes nobody");
        wakers.forget(2);
        wakers.spawned(2, true);
        assert_eq!(wakers.due_count(), 1, "the key belongs to another task now");
        wakers.end();
    }
}
