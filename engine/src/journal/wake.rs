//! How tasks of one shard wait for each other.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use super::Ticket;

/// Wakes everyone who listens; they look for themselves whether it concerns them.
#[derive(Debug, Default)]
pub(super) struct Bell {
    wakers: RefCell<Vec<Waker>>,
}

impl Bell {
    pub(super) fn listen(&self, context: &Context<'_>) {
        let mut wakers = self.wakers.borrow_mut();
        if !wakers.iter().any(|waker| waker.will_wake(context.waker())) {
            wakers.push(context.waker().clone());
        }
    }

    pub(super) fn ring(&self) {
        for waker in self.wakers.take() {
            waker.wake();
        }
    }

    /// Waits until `ready` gives something; it is asked anew whenever the bell rings.
    pub(super) fn until<'a, T>(
        &'a self,
        mut ready: impl FnMut() -> Option<T> + 'a,
    ) -> impl Future<Output = T> + 'a {
        std::future::poll_fn(move |context| {
            if let Some(value) = ready() {
                return Poll::Ready(value);
            }
            self.listen(context);
            Poll::Pending
        })
    }
}

/// Tasks that wait for a ticket each; only those that are due get woken.
#[derive(Debug, Default)]
pub(super) struct Waits {
    wakers: RefCell<BTreeMap<(Ticket, u64), Waker>>,
    serial: Cell<u64>,
}

impl Waits {
    /// Wakes whoever waits for `ticket` or an earlier one.
    pub(super) fn wake(&self, ticket: Ticket) {
        let later = self.wakers.borrow_mut().split_off(&(Ticket(ticket.0.saturating_add(1)), 0));
        for waker in self.wakers.replace(later).into_values() {
            waker.wake();
        }
    }

    pub(super) fn wake_all(&self) {
        for waker in self.wakers.take().into_values() {
            waker.wake();
        }
    }

    /// Waits until `ready` gives something; it is asked when `ticket` was woken.
    pub(super) fn until<T, F: FnMut() -> Option<T>>(
        &self,
        ticket: Ticket,
        ready: F,
    ) -> Wait<'_, F> {
        let serial = self.serial.get() + 1;
        self.serial.set(serial);
        Wait { waits: self, key: (ticket, serial), ready }
    }
}

/// See [`Waits::until`]. Dropping it leaves nothing behind.
#[derive(Debug)]
pub(super) struct Wait<'a, F> {
    waits: &'a Waits,
    key: (Ticket, u64),
    ready: F,
}

impl<T, F: FnMut() -> Option<T> + Unpin> Future for Wait<'_, F> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<T> {
        if let Some(value) = (self.ready)() {
            return Poll::Ready(value);
        }
        self.waits.wakers.borrow_mut().insert(self.key, context.waker().clone());
        Poll::Pending
    }
}

impl<F> Drop for Wait<'_, F> {
    fn drop(&mut self) {
        self.waits.wakers.borrow_mut().remove(&self.key);
    }
}
