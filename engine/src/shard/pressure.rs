//! When clients' appends have to wait or to be refused, beyond what the journal itself asks for.
//!
//! Every append causes overlays, and every overlay a fold. So appends are admitted only while the overlays
//! and the newest records fit their shares of the memory, and while the disk has room for the folds and
//! segments that what was admitted will cause. Folds, decisions and trims always go on: they are what
//! brings the room back.
//!
//! A topology that catches up with records of long ago causes overlays without appends. So events wait,
//! too, while what is visible and not folded exceeds the overlays' share: that much a fold can always give
//! back, whatever becomes of the microbatches under way.

use std::cell::{Cell, RefCell};
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use super::Shard;
use crate::error::{Error, Result};
use crate::journal::{self, Admission};

/// See the module.
#[derive(Default)]
pub(super) struct Pressure {
    disk_full: Cell<bool>,
    /// The last fold found no space; cleared by one that did.
    fold_failed: Cell<bool>,
    waiting: RefCell<Vec<Waker>>,
    /// Events that wait for a fold.
    events: RefCell<Vec<Waker>>,
    /// The task that folds, while it rests.
    folder: RefCell<Option<Waker>>,
}

/// A fold writes what it merges, the pages around it, and the tables; overlays are counted this often.
const FOLD_FACTOR: u64 = 3;

/// Kept free on top, so that tables, manifests and short segments always fit.
const MARGIN_BYTES: u64 = 8 << 20;

impl Pressure {
    fn wait(&self, context: &Context<'_>) {
        let mut waiting = self.waiting.borrow_mut();
        if !waiting.iter().any(|waker| waker.will_wake(context.waker())) {
            waiting.push(context.waker().clone());
        }
    }
}

impl Shard {
    /// Waits until the memory has room for more.
    ///
    /// # Errors
    /// `DiskFull`, at once: waiting would not help before somebody frees space.
    pub(super) async fn room_for_appends(&self) -> Result<()> {
        std::future::poll_fn(|context| {
            if self.pressure.disk_full.get() {
                let what = "no room is left for the folds of what is appended".to_owned();
                return Poll::Ready(Err(Error::DiskFull { what }));
            }
            if self.memory_has_room() {
                return Poll::Ready(Ok(()));
            }
            if self.closing.get() {
                return Poll::Ready(Err(Error::Closed));
            }
            self.pressure.wait(context);
            Poll::Pending
        })
        .await
    }

    /// Waits until the journal has room for entries of `bytes`. It may wait for folds, which a full disk
    /// keeps from ending.
    ///
    /// # Errors
    /// As [`Journal::admit`](crate::journal::Journal::admit); `DiskFull` also when the folds find no space.
    pub(super) async fn room_in_journal(&self, bytes: usize) -> Result<(), journal::Error> {
        let mut admitted = pin!(self.journal.admit(bytes, Admission::Client));
        std::future::poll_fn(|context| {
            if let Poll::Ready(admitted) = admitted.as_mut().poll(context) {
                return Poll::Ready(admitted);
            }
            if self.pressure.disk_full.get() {
                return Poll::Ready(Err(journal::Error::DiskFull { bytes: bytes as u64 }));
            }
            if self.closing.get() {
                return Poll::Ready(Err(journal::Error::Closed));
            }
            self.pressure.wait(context);
            Poll::Pending
        })
        .await
    }

    /// Waits until folds have made room for what an event writes, or `given_up` says that it need not run.
    pub(super) async fn room_for_events(&self, given_up: &Cell<bool>) {
        std::future::poll_fn(|context| {
            if given_up.get() || self.foldable_bytes() <= self.overlay_bytes_max() {
                return Poll::Ready(());
            }
            self.pressure.events.borrow_mut().push(context.waker().clone());
            if let Some(folder) = self.pressure.folder.take() {
                folder.wake();
            }
            Poll::Pending
        })
        .await;
    }

    /// Lets waiting events look again: room was made, or an attempt was given up.
    pub(super) fn wake_events(&self) {
        for waker in self.pressure.events.take() {
            waker.wake();
        }
    }

    /// Resolves after `pause`, or when events wait for a fold.
    pub(super) async fn until_fold_may_be_due(&self, pause: Duration) {
        let mut sleep = self.env.sleep(pause);
        std::future::poll_fn(|context| {
            let blocked = !self.pressure.events.borrow().is_empty();
            if blocked && self.foldable_bytes() > self.overlay_bytes_max() {
                return Poll::Ready(());
            }
            *self.pressure.folder.borrow_mut() = Some(context.waker().clone());
            sleep.as_mut().poll(context)
        })
        .await;
    }

    /// Bytes of memory that folds can give back.
    pub(super) fn foldable_bytes(&self) -> u64 {
        self.partitions.values().map(|it| it.overlay_bytes()).sum()
    }

    fn memory_has_room(&self) -> bool {
        self.overlay_bytes() < self.overlay_bytes_max() && self.tails_have_room()
    }

    /// Bytes of memory in runs and memtables.
    pub(super) fn overlay_bytes(&self) -> u64 {
        self.partitions.values().map(|it| it.store.memory_bytes()).sum()
    }

    /// What the overlays of this shard may take of the memory budget.
    pub(super) fn overlay_bytes_max(&self) -> u64 {
        self.setup.options.memory_bytes / 4 / u64::from(self.setup.shards)
    }

    /// Looks at the disk and the memory again.
    pub(super) fn relieve(&self) {
        let needed = self.overlay_bytes() * FOLD_FACTOR + MARGIN_BYTES;
        // An error says nothing about the space; the next write will say what is wrong.
        let free = self.env.disk().free_bytes().unwrap_or(u64::MAX);
        let found_none = self.pressure.fold_failed.get() || self.tails_found_no_space();
        self.pressure.disk_full.set(found_none || free < needed);
        if self.foldable_bytes() <= self.overlay_bytes_max() {
            self.wake_events();
        }
        if self.pressure.disk_full.get() || self.closing.get() || self.memory_has_room() {
            for waker in self.pressure.waiting.take() {
                waker.wake();
            }
        }
    }

    /// A fold found space, or did not.
    pub(super) fn fold_ended(&self, found_space: bool) {
        self.pressure.fold_failed.set(!found_space);
        self.relieve();
    }
}
