//! The way between shards, and from clients to shards.
//!
//! Every shard has an [`Inbox`]: one queue per sending shard, and one for all clients. Sending pushes,
//! marks the inbox ready, and writes the shard's eventfd if the shard is parked. Tasks that another thread
//! wakes come the same way; see [`wake`](super::wake).
//!
//! ```text
//! sender:  push; ready = true;  fence; if parked.swap(false) { write eventfd }
//! shard:   parked = true; fence; if ready { parked = false; go on } else { sleep on the eventfd }
//! ```
//!
//! Whichever fence comes first, the other side sees what was stored before it, so nobody sleeps beside
//! a parcel.
//!
//! A shard lives several times. Every parcel carries the life it was sent to, and is dropped when that
//! life is over: by the ending shard, by a sender that notices, or by the next life.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Poll, Waker};

use crossbeam_queue::SegQueue;

use crate::env::{LocalFuture, Mesh, Parcel, Sender};
use crate::types::ShardId;

/// The receiving end of one shard, alive or not.
pub(super) struct Inbox {
    /// One per sending shard, then one for clients.
    queues: Vec<SegQueue<(u64, Parcel)>>,
    /// Something was pushed since the shard last looked.
    ready: AtomicBool,
    /// Keys of tasks that other threads have woken, each with the life it is of.
    wakes: SegQueue<(u64, usize)>,
    woken: AtomicBool,
    /// The shard sleeps, or is about to.
    parked: AtomicBool,
    /// Odd while the shard runs.
    life: AtomicU64,
    eventfd: OwnedFd,
    /// Held while a life begins or ends, and by senders that clear away what came too late.
    edge: Mutex<()>,
}

impl Inbox {
    /// The inbox of one of `shards` shards.
    ///
    /// # Errors
    /// If there is no descriptor left for its eventfd.
    pub(super) fn new(shards: u16) -> io::Result<Self> {
        // SAFETY: a plain system call.
        let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor was just made and belongs to nobody else.
        let eventfd = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(Self {
            queues: (0..=shards).map(|_| SegQueue::new()).collect(),
            ready: AtomicBool::new(false),
            wakes: SegQueue::new(),
            woken: AtomicBool::new(false),
            parked: AtomicBool::new(false),
            life: AtomicU64::new(0),
            eventfd,
            edge: Mutex::new(()),
        })
    }

    /// Takes parcels from now on.
    pub(super) fn begin(&self) {
        let _edge = self.edge.lock().unwrap_or_else(PoisonError::into_inner);
        self.clear();
        let before = self.life.fetch_add(1, Ordering::SeqCst);
        assert!(before.is_multiple_of(2), "a shard begins once");
    }

    /// Takes no more parcels, and drops those that nobody took.
    pub(super) fn end(&self) {
        let _edge = self.edge.lock().unwrap_or_else(PoisonError::into_inner);
        let before = self.life.fetch_add(1, Ordering::SeqCst);
        assert!(!before.is_multiple_of(2), "a shard ends once");
        fence(Ordering::SeqCst);
        self.parked.store(false, Ordering::SeqCst);
        self.clear();
    }

    fn send(&self, sender: usize, parcel: Parcel) {
        let life = self.life.load(Ordering::SeqCst);
        if life.is_multiple_of(2) {
            return;
        }
        self.queues[sender].push((life, parcel));
        self.ready.store(true, Ordering::SeqCst);
        self.unpark_from_outside();
        if self.life.load(Ordering::SeqCst) != life {
            // The shard ended meanwhile. If it runs again it drops the parcel itself, else we do:
            // somebody may wait for what the parcel's destructor tells.
            let _edge = self.edge.lock().unwrap_or_else(PoisonError::into_inner);
            if self.life.load(Ordering::SeqCst).is_multiple_of(2) {
                self.clear();
            }
        }
    }

    /// Wakes a task of a life of the shard.
    pub(super) fn wake(&self, life: u64, key: usize) {
        if self.life.load(Ordering::SeqCst) != life {
            return;
        }
        // If that life ends meanwhile, the next one drops it.
        self.wakes.push((life, key));
        self.woken.store(true, Ordering::SeqCst);
        self.unpark_from_outside();
    }

    /// Takes the keys of all tasks that were woken; whether there were any.
    pub(super) fn take_wakes(&self, mut wake: impl FnMut(usize)) -> bool {
        if !self.woken.load(Ordering::Relaxed) || !self.woken.swap(false, Ordering::SeqCst) {
            return false;
        }
        let life = self.life.load(Ordering::SeqCst);
        while let Some((of, key)) = self.wakes.pop() {
            if of == life {
                wake(key);
            }
        }
        true
    }

    /// The number of the shard's life, odd while it runs.
    pub(super) fn life(&self) -> u64 {
        self.life.load(Ordering::SeqCst)
    }

    fn unpark_from_outside(&self) {
        fence(Ordering::SeqCst);
        if self.parked.load(Ordering::SeqCst) && self.parked.swap(false, Ordering::SeqCst) {
            self.ring_bell();
        }
    }

    /// Takes everything that is there.
    fn take(&self, into: &mut Vec<(Sender, Parcel)>) {
        if !self.ready.load(Ordering::Relaxed) || !self.ready.swap(false, Ordering::SeqCst) {
            return;
        }
        let life = self.life.load(Ordering::SeqCst);
        let clients = self.queues.len() - 1;
        for (index, queue) in self.queues.iter().enumerate() {
            let sender = match u16::try_from(index) {
                Ok(shard) if index < clients => Sender::Shard(ShardId(shard)),
                _ => Sender::Client,
            };
            while let Some((sent_to, parcel)) = queue.pop() {
                if sent_to == life {
                    into.push((sender, parcel));
                }
            }
        }
    }

    fn clear(&self) {
        for queue in &self.queues {
            while queue.pop().is_some() {}
        }
        while self.wakes.pop().is_some() {}
    }

    /// Says that the shard is going to sleep; what comes from now on writes the eventfd.
    pub(super) fn park(&self) {
        self.parked.store(true, Ordering::SeqCst);
        fence(Ordering::SeqCst);
    }

    /// Says that the shard is awake, and forgets bells that rang.
    pub(super) fn unpark(&self) {
        self.parked.store(false, Ordering::SeqCst);
        let mut count = 0_u64;
        // SAFETY: eight writable bytes, as an eventfd wants them; it does not block.
        let read = unsafe {
            libc::read(self.eventfd.as_raw_fd(), (&raw mut count).cast(), size_of::<u64>())
        };
        // Nothing to read means that no bell rang, which is as good.
        debug_assert!(read == 8 || read == -1);
    }

    fn ring_bell(&self) {
        let one = 1_u64;
        // SAFETY: eight readable bytes, as an eventfd wants them.
        let written = unsafe {
            libc::write(self.eventfd.as_raw_fd(), (&raw const one).cast(), size_of::<u64>())
        };
        // It fails only when 2^64 bells are pending, and then the shard wakes all the same.
        debug_assert!(written == 8 || written == -1);
    }

    /// What a parked shard waits on.
    pub(super) fn eventfd(&self) -> RawFd {
        self.eventfd.as_raw_fd()
    }
}

/// All inboxes of a node.
pub(super) struct Inboxes {
    inboxes: Vec<Inbox>,
}

impl Inboxes {
    /// Inboxes for shards `0..shards`.
    ///
    /// # Errors
    /// If there are not enough descriptors.
    pub(super) fn new(shards: u16) -> io::Result<Self> {
        let inboxes = (0..shards).map(|_| Inbox::new(shards)).collect::<io::Result<_>>()?;
        Ok(Self { inboxes })
    }

    /// The inbox of `shard`, if there is such a shard.
    pub(super) fn of(&self, shard: ShardId) -> Option<&Inbox> {
        self.inboxes.get(usize::from(shard.0))
    }

    /// Sends from a client.
    pub(super) fn post(&self, to: ShardId, parcel: Parcel) {
        if let Some(inbox) = self.of(to) {
            inbox.send(self.inboxes.len(), parcel);
        }
    }
}

/// One running shard's end of the mesh.
pub(super) struct ShardMesh {
    shard: ShardId,
    inboxes: Arc<Inboxes>,
    receiver: RefCell<Option<Waker>>,
}

impl ShardMesh {
    /// The end of `shard`, which must exist.
    pub(super) fn new(shard: ShardId, inboxes: Arc<Inboxes>) -> Rc<Self> {
        assert!(inboxes.of(shard).is_some());
        Rc::new(Self { shard, inboxes, receiver: RefCell::new(None) })
    }

    /// The shard's own inbox.
    pub(super) fn inbox(&self) -> &Inbox {
        self.inboxes.of(self.shard).expect("checked when made")
    }

    /// Whether there is something for somebody who waits.
    pub(super) fn has_work(&self) -> bool {
        let inbox = self.inbox();
        inbox.woken.load(Ordering::SeqCst)
            || inbox.ready.load(Ordering::SeqCst) && self.receiver.borrow().is_some()
    }

    /// Wakes the receiver if there is something; whether it did.
    pub(super) fn turn(&self) -> bool {
        if !self.inbox().ready.load(Ordering::Relaxed) {
            return false;
        }
        let receiver = self.receiver.borrow_mut().take();
        receiver.map(Waker::wake).is_some()
    }

    /// Forgets who waited.
    pub(super) fn close(&self) {
        drop(self.receiver.take());
    }
}

impl Mesh for ShardMesh {
    fn send(&self, to: ShardId, parcel: Parcel) {
        let Some(inbox) = self.inboxes.of(to) else { return };
        inbox.send(usize::from(self.shard.0), parcel);
        if to == self.shard {
            // No bell is needed to wake oneself.
            self.turn();
        }
    }

    fn receive(&self) -> LocalFuture<'_, Vec<(Sender, Parcel)>> {
        Box::pin(poll_fn(|context| {
            let mut parcels = Vec::new();
            self.inbox().take(&mut parcels);
            if parcels.is_empty() {
                *self.receiver.borrow_mut() = Some(context.waker().clone());
                return Poll::Pending;
            }
            Poll::Ready(parcels)
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(inbox: &Inbox) -> Vec<(Sender, u32)> {
        let mut parcels = Vec::new();
        inbox.take(&mut parcels);
        let number = |parcel: Parcel| *parcel.downcast::<u32>().unwrap();
        parcels.into_iter().map(|(sender, parcel)| (sender, number(parcel))).collect()
    }

    #[test]
    fn a_life_gets_its_own_parcels_only() {
        let inboxes = Inboxes::new(2).unwrap();
        let inbox = inboxes.of(ShardId(1)).unwrap();
        inboxes.post(ShardId(1), Box::new(1_u32));
        inbox.begin();
        assert_eq!(taken(inbox), [], "sent before it began");
        inbox.send(0, Box::new(2_u32));
        inboxes.post(ShardId(1), Box::new(3_u32));
        inbox.send(0, Box::new(4_u32));
        let from_0 = Sender::Shard(ShardId(0));
        assert_eq!(taken(inbox), [(from_0, 2), (from_0, 4), (Sender::Client, 3)]);
        let old = inbox.life.load(Ordering::SeqCst);
        let token = Arc::new(());
        inbox.send(0, Box::new(Arc::clone(&token)));
        inbox.end();
        assert_eq!(Arc::strong_count(&token), 1, "the end drops what nobody took");
        inbox.begin();
        // What a sender does that was held up between looking at the life and pushing.
        inbox.queues[0].push((old, Box::new(5_u32)));
        inbox.send(0, Box::new(6_u32));
        assert_eq!(taken(inbox), [(from_0, 6)]);
        assert_eq!(taken(inbox), []);
    }

    #[test]
    fn a_parked_shard_hears_the_bell_once() {
        let inboxes = Inboxes::new(1).unwrap();
        let inbox = inboxes.of(ShardId(0)).unwrap();
        let bells = || {
            let mut poll = libc::pollfd { fd: inbox.eventfd(), events: libc::POLLIN, revents: 0 };
            // SAFETY: one writable entry, and no waiting.
            unsafe { libc::poll(&raw mut poll, 1, 0) }
        };
        inbox.begin();
        inboxes.post(ShardId(0), Box::new(()));
        assert_eq!(bells(), 0, "a shard that looks needs no bell");
        inbox.park();
        assert!(inbox.ready.load(Ordering::SeqCst), "it must look once more before it sleeps");
        inboxes.post(ShardId(0), Box::new(()));
        assert_eq!(bells(), 1);
        inbox.unpark();
        assert_eq!(bells(), 0);
    }

    #[test]
    fn tasks_are_woken_in_their_own_life_only() {
        let inboxes = Inboxes::new(1).unwrap();
        let inbox = inboxes.of(ShardId(0)).unwrap();
        let woken = || {
            let mut keys = Vec::new();
            inbox.take_wakes(|key| keys.push(key));
            keys
        };
        inbox.begin();
        let first = inbox.life();
        inbox.wake(first, 3);
        inbox.wake(first, 4);
        assert_eq!((woken(), woken()), (vec![3, 4], vec![]));
        inbox.end();
        inbox.begin();
        inbox.wake(first, 5);
        // What a thread does that was held up between looking at the life and pushing.
        inbox.wakes.push((first, 6));
        inbox.wake(inbox.life(), 7);
        assert_eq!(woken(), [7]);
    }
}
