//! Who sleeps on a shard, and until when.
//!
//! glommio has timers too, but looks at them only between its own rounds, which are long on a busy
//! shard; the poller looks here at every turn.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use super::shard::now;

/// The sleepers of one shard.
#[derive(Default)]
pub(super) struct Sleepers {
    inner: RefCell<Inner>,
}

#[derive(Default)]
struct Inner {
    /// By the time they want to wake; the serial number tells those of one time apart.
    wakers: BTreeMap<(Instant, u64), Waker>,
    serial_last: u64,
}

impl Sleepers {
    /// A future that ends at `until` or later.
    pub(super) fn sleep(self: &Rc<Self>, until: Instant) -> Sleep {
        let mut inner = self.inner.borrow_mut();
        inner.serial_last += 1;
        Sleep { sleepers: Rc::clone(self), key: (until, inner.serial_last) }
    }

    /// Wakes everybody whose time has come; whether there was anybody.
    pub(super) fn turn(&self) -> bool {
        if self.next().is_none() {
            return false;
        }
        let now = now();
        let mut woke = false;
        while self.next().is_some_and(|next| next <= now) {
            let first = self.inner.borrow_mut().wakers.pop_first();
            if let Some((_, waker)) = first {
                waker.wake();
                woke = true;
            }
        }
        woke
    }

    /// When the first of them wants to wake.
    pub(super) fn next(&self) -> Option<Instant> {
        self.inner.borrow().wakers.first_key_value().map(|((until, _), _)| *until)
    }
}

/// See [`Sleepers::sleep`].
pub(super) struct Sleep {
    sleepers: Rc<Sleepers>,
    key: (Instant, u64),
}

impl Future for Sleep {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if now() >= self.key.0 {
            return Poll::Ready(());
        }
        let waker = context.waker().clone();
        let before = self.sleepers.inner.borrow_mut().wakers.insert(self.key, waker);
        drop(before);
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        let waker = self.sleepers.inner.borrow_mut().wakers.remove(&self.key);
        drop(waker);
    }
}
