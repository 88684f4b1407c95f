//! How the stages between two hops become one event.
//!
//! A flow grows a [`Chain`], from the first stage to the last. Its end fuses it, from the last stage to
//! the first, into nested [`Sink`]s: each does its step and pushes on into the next. The glue is futures
//! made by hand: an `async fn` would move the row through memory once more at each layer, which is
//! most of the cost of a stage.

use std::future::{Future, Ready, ready};
use std::marker::PhantomData;
use std::pin::Pin;
use std::task::{Context as Task, Poll};

use pin_project_lite::pin_project;

use super::{At, Context, Done, Result};

/// Takes rows one by one. One object serves all partitions; what belongs to one run of the event is in
/// `State`.
pub trait Sink<O, T>: Send + Sync + 'static {
    /// Rows by destination, combine buffers.
    type State: Default;

    /// Takes one row through everything that is left of the event.
    fn push<'a>(
        &'a self,
        state: &'a Self::State,
        at: At<'a, O>,
        row: T,
    ) -> impl Future<Output = Result<()>>;

    /// Ends a run: what was collected leaves.
    fn finish(&self, context: &Context<'_>, state: Self::State, done: &mut Done);
}

/// Stages that still lack what comes after them.
pub trait Chain<O> {
    /// The rows of the first stage.
    type In: Send + 'static;
    /// The rows of the last.
    type Out: 'static;
    /// The whole, ended by `N`.
    type Fused<N: Sink<O, Self::Out>>: Sink<O, Self::In>;

    /// Ends the chain.
    fn fuse<N: Sink<O, Self::Out>>(self, next: N) -> Self::Fused<N>;
}

/// No stage yet.
pub struct Start<T>(PhantomData<fn() -> T>);

impl<T> Start<T> {
    pub(crate) fn new() -> Self {
        Self(PhantomData)
    }
}

impl<T> std::fmt::Debug for Start<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Start")
    }
}

impl<O, T: Send + 'static> Chain<O> for Start<T> {
    type In = T;
    type Out = T;
    type Fused<N: Sink<O, T>> = N;

    fn fuse<N: Sink<O, T>>(self, next: N) -> N {
        next
    }
}

pin_project! {
    /// First `first`, then what `then` makes of its result, if anything.
    #[project = AndThenState]
    pub(crate) enum AndThen<A, F, B> {
        First { #[pin] first: A, then: Option<F> },
        Second { #[pin] second: B },
    }
}

impl<A, F, B> AndThen<A, F, B> {
    pub(crate) fn new(first: A, then: F) -> Self {
        Self::First { first, then: Some(then) }
    }
}

impl<A, X, F, B> Future for AndThen<A, F, B>
where
    A: Future<Output = Result<X>>,
    F: FnOnce(X) -> Option<B>,
    B: Future<Output = Result<()>>,
{
    type Output = Result<()>;

    #[inline]
    fn poll(mut self: Pin<&mut Self>, task: &mut Task<'_>) -> Poll<Result<()>> {
        if let AndThenState::First { first, then } = self.as_mut().project() {
            let row = match first.poll(task) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Err(failure)) => return Poll::Ready(Err(failure)),
                Poll::Ready(Ok(row)) => row,
            };
            let then = then.take().expect("the first part is done only once");
            match then(row) {
                None => return Poll::Ready(Ok(())),
                Some(second) => self.set(Self::Second { second }),
            }
        }
        match self.project() {
            AndThenState::First { .. } => unreachable!("replaced above"),
            AndThenState::Second { second } => second.poll(task),
        }
    }
}

pin_project! {
    /// A future, or nothing to do.
    pub(crate) struct Maybe<B> {
        #[pin]
        inner: Option<B>,
    }
}

impl<B> Maybe<B> {
    pub(crate) fn new(inner: Option<B>) -> Self {
        Self { inner }
    }
}

impl<B: Future<Output = Result<()>>> Future for Maybe<B> {
    type Output = Result<()>;

    #[inline]
    fn poll(self: Pin<&mut Self>, task: &mut Task<'_>) -> Poll<Result<()>> {
        self.project().inner.as_pin_mut().map_or(Poll::Ready(Ok(())), |inner| inner.poll(task))
    }
}

pin_project! {
    /// One future after the other, for each of some rows.
    pub(crate) struct Each<I, F, B> {
        rows: I,
        push: F,
        #[pin]
        current: Option<B>,
    }
}

impl<I, F, B> Each<I, F, B> {
    pub(crate) fn new(rows: I, push: F) -> Self {
        Self { rows, push, current: None }
    }
}

impl<I, F, B> Future for Each<I, F, B>
where
    I: Iterator,
    F: FnMut(I::Item) -> B,
    B: Future<Output = Result<()>>,
{
    type Output = Result<()>;

    #[inline]
    fn poll(self: Pin<&mut Self>, task: &mut Task<'_>) -> Poll<Result<()>> {
        let mut this = self.project();
        loop {
            if let Some(current) = this.current.as_mut().as_pin_mut() {
                match current.poll(task) {
                    Poll::Ready(Ok(())) => {}
                    other => return other,
                }
            }
            match this.rows.next() {
                None => {
                    this.current.set(None);
                    return Poll::Ready(Ok(()));
                }
                Some(row) => this.current.set(Some((this.push)(row))),
            }
        }
    }
}

/// The end of a chain that has nothing to wait for.
pub(crate) fn done() -> Ready<Result<()>> {
    ready(Ok(()))
}
