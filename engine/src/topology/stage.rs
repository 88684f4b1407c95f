//! The stages of an event: what lies between two hops.

use std::future::Future;
use std::marker::PhantomData;

use super::chain::{AndThen, Chain, Each, Maybe, Sink};
use super::{At, Context, Done, Result};

macro_rules! opaque_debug {
    ($($name:ident<$($param:ident),*>),* $(,)?) => {$(
        impl<$($param),*> std::fmt::Debug for $name<$($param),*> {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(stringify!($name))
            }
        }
    )*};
}

opaque_debug!(
    Map<C, F, U>, MapSink<F, N, U>,
    Filter<C, F>, FilterSink<F, N>,
    FlatMap<C, F, I>, FlatMapSink<F, N, I>,
    FilterMap<C, F, U>, FilterMapSink<F, N, U>,
    FilterMapWith<C, P, F, U>, FilterMapWithSink<P, F, N, U>,
    ForEach<F>, ForEachWith<P, F>,
    Also<C, B>, AlsoSink<B, N>,
);

/// `map`: every row becomes another.
pub struct Map<C, F, U> {
    pub(crate) chain: C,
    pub(crate) f: F,
    pub(crate) row: PhantomData<fn() -> U>,
}

/// [`Map`], fused.
pub struct MapSink<F, N, U> {
    f: F,
    next: N,
    row: PhantomData<fn() -> U>,
}

impl<O, C: Chain<O>, U: 'static, F> Chain<O> for Map<C, F, U>
where
    F: Fn(C::Out) -> U + Send + Sync + 'static,
{
    type In = C::In;
    type Out = U;
    type Fused<N: Sink<O, U>> = C::Fused<MapSink<F, N, U>>;

    fn fuse<N: Sink<O, U>>(self, next: N) -> Self::Fused<N> {
        self.chain.fuse(MapSink { f: self.f, next, row: PhantomData })
    }
}

impl<O, T, U: 'static, F, N> Sink<O, T> for MapSink<F, N, U>
where
    F: Fn(T) -> U + Send + Sync + 'static,
    N: Sink<O, U>,
{
    type State = N::State;

    #[inline]
    fn push<'a>(
        &'a self,
        state: &'a Self::State,
        at: At<'a, O>,
        row: T,
    ) -> impl Future<Output = Result<()>> {
        self.next.push(state, at, (self.f)(row))
    }

    fn finish(&self, context: &Context<'_>, state: Self::State, done: &mut Done) {
        self.next.finish(context, state, done);
    }
}

/// `filter`: rows that do not pass are dropped.
pub struct Filter<C, F> {
    pub(crate) chain: C,
    pub(crate) f: F,
}

/// [`Filter`], fused.
pub struct FilterSink<F, N> {
    f: F,
    next: N,
}

impl<O, C: Chain<O>, F> Chain<O> for Filter<C, F>
where
    F: Fn(&C::Out) -> bool + Send + Sync + 'static,
{
    type In = C::In;
    type Out = C::Out;
    type Fused<N: Sink<O, C::Out>> = C::Fused<FilterSink<F, N>>;

    fn fuse<N: Sink<O, C::Out>>(self, next: N) -> Self::Fused<N> {
        self.chain.fuse(FilterSink { f: self.f, next })
    }
}

impl<O, T, F, N> Sink<O, T> for FilterSink<F, N>
where
    F: Fn(&T) -> bool + Send + Sync + 'static,
    N: Sink<O, T>,
{
    type State = N::State;

    #[inline]
    fn push<'a>(
        &'a self,
        state: &'a Self::State,
        at: At<'a, O>,
        row: T,
    ) -> impl Future<Output = Result<()>> {
        Maybe::new((self.f)(&row).then(|| self.next.push(state, at, row)))
    }

    fn finish(&self, context: &Context<'_>, state: Self::State, done: &mut Done) {
        self.next.finish(context, state, done);
    }
}

/// `flat_map`: every row becomes any number of others.
pub struct FlatMap<C, F, I> {
    pub(crate) chain: C,
    pub(crate) f: F,
    pub(crate) rows: PhantomData<fn() -> I>,
}

/// [`FlatMap`], fused.
pub struct FlatMapSink<F, N, I> {
    f: F,
    next: N,
    rows: PhantomData<fn() -> I>,
}

impl<O, C: Chain<O>, I, F> Chain<O> for FlatMap<C, F, I>
where
    I: IntoIterator<Item: 'static> + 'static,
    F: Fn(C::Out) -> I + Send + Sync + 'static,
{
    type In = C::In;
    type Out = I::Item;
    type Fused<N: Sink<O, I::Item>> = C::Fused<FlatMapSink<F, N, I>>;

    fn fuse<N: Sink<O, I::Item>>(self, next: N) -> Self::Fused<N> {
        self.chain.fuse(FlatMapSink { f: self.f, next, rows: PhantomData })
    }
}

impl<O, T, I, F, N> Sink<O, T> for FlatMapSink<F, N, I>
where
    I: IntoIterator<Item: 'static> + 'static,
    F: Fn(T) -> I + Send + Sync + 'static,
    N: Sink<O, I::Item>,
{
    type State = N::State;

    #[inline]
    fn push<'a>(
        &'a self,
        state: &'a Self::State,
        at: At<'a, O>,
        row: T,
    ) -> impl Future<Output = Result<()>> {
        Each::new((self.f)(row).into_iter(), move |row| self.next.push(state, at, row))
    }

    fn finish(&self, context: &Context<'_>, state: Self::State, done: &mut Done) {
        self.next.finish(context, state, done);
    }
}

/// `filter_map`: user code with a handle to the partition.
pub struct FilterMap<C, F, U> {
    pub(crate) chain: C,
    pub(crate) f: F,
    pub(crate) row: PhantomData<fn() -> U>,
}

/// [`FilterMap`], fused.
pub struct FilterMapSink<F, N, U> {
    f: F,
    next: N,
    row: PhantomData<fn() -> U>,
}

impl<O: 'static, C: Chain<O>, U: 'static, F> Chain<O> for FilterMap<C, F, U>
where
    F: AsyncFn(At<'_, O>, C::Out) -> Result<Option<U>> + Send + Sync + 'static,
{
    type In = C::In;
    type Out = U;
    type Fused<N: Sink<O, U>> = C::Fused<FilterMapSink<F, N, U>>;

    fn fuse<N: Sink<O, U>>(self, next: N) -> Self::Fused<N> {
        self.chain.fuse(FilterMapSink { f: self.f, next, row: PhantomData })
    }
}

impl<O: 'static, T: 'static, U: 'static, F, N> Sink<O, T> for FilterMapSink<F, N, U>
where
    F: AsyncFn(At<'_, O>, T) -> Result<Option<U>> + Send + Sync + 'static,
    N: Sink<O, U>,
{
    type State = N::State;

    #[inline]
    fn push<'a>(
        &'a self,
        state: &'a Self::State,
        at: At<'a, O>,
        row: T,
    ) -> impl Future<Output = Result<()>> {
        AndThen::new((self.f)(at, row), move |row: Option<U>| {
            row.map(|row| self.next.push(state, at, row))
        })
    }

    fn finish(&self, context: &Context<'_>, state: Self::State, done: &mut Done) {
        self.next.finish(context, state, done);
    }
}

/// `using(tokens).filter_map`: as [`FilterMap`], with the tokens as an argument.
pub struct FilterMapWith<C, P, F, U> {
    pub(crate) chain: C,
    pub(crate) tokens: P,
    pub(crate) f: F,
    pub(crate) row: PhantomData<fn() -> U>,
}

/// [`FilterMapWith`], fused.
pub struct FilterMapWithSink<P, F, N, U> {
    tokens: P,
    f: F,
    next: N,
    row: PhantomData<fn() -> U>,
}

impl<O: 'static, C: Chain<O>, P, U: 'static, F> Chain<O> for FilterMapWith<C, P, F, U>
where
    P: Copy + Send + Sync + 'static,
    F: AsyncFn(At<'_, O>, P, C::Out) -> Result<Option<U>> + Send + Sync + 'static,
{
    type In = C::In;
    type Out = U;
    type Fused<N: Sink<O, U>> = C::Fused<FilterMapWithSink<P, F, N, U>>;

    fn fuse<N: Sink<O, U>>(self, next: N) -> Self::Fused<N> {
        let Self { chain, tokens, f, .. } = self;
        chain.fuse(FilterMapWithSink { tokens, f, next, row: PhantomData })
    }
}

impl<O: 'static, T: 'static, P, U: 'static, F, N> Sink<O, T> for FilterMapWithSink<P, F, N, U>
where
    P: Copy + Send + Sync + 'static,
    F: AsyncFn(At<'_, O>, P, T) -> Result<Option<U>> + Send + Sync + 'static,
    N: Sink<O, U>,
{
    type State = N::State;

    #[inline]
    fn push<'a>(
        &'a self,
        state: &'a Self::State,
        at: At<'a, O>,
        row: T,
    ) -> impl Future<Output = Result<()>> {
        AndThen::new((self.f)(at, self.tokens, row), move |row: Option<U>| {
            row.map(|row| self.next.push(state, at, row))
        })
    }

    fn finish(&self, context: &Context<'_>, state: Self::State, done: &mut Done) {
        self.next.finish(context, state, done);
    }
}

/// `for_each`: user code that ends the flow.
pub struct ForEach<F> {
    pub(crate) f: F,
}

impl<O: 'static, T: 'static, F> Sink<O, T> for ForEach<F>
where
    F: AsyncFn(At<'_, O>, T) -> Result<()> + Send + Sync + 'static,
{
    type State = ();

    #[inline]
    fn push<'a>(&'a self, (): &'a (), at: At<'a, O>, row: T) -> impl Future<Output = Result<()>> {
        (self.f)(at, row)
    }

    fn finish(&self, _context: &Context<'_>, (): (), _done: &mut Done) {}
}

/// `using(tokens).for_each`: as [`ForEach`], with the tokens as an argument.
pub struct ForEachWith<P, F> {
    pub(crate) tokens: P,
    pub(crate) f: F,
}

impl<O: 'static, T: 'static, P, F> Sink<O, T> for ForEachWith<P, F>
where
    P: Copy + Send + Sync + 'static,
    F: AsyncFn(At<'_, O>, P, T) -> Result<()> + Send + Sync + 'static,
{
    type State = ();

    #[inline]
    fn push<'a>(&'a self, (): &'a (), at: At<'a, O>, row: T) -> impl Future<Output = Result<()>> {
        (self.f)(at, self.tokens, row)
    }

    fn finish(&self, _context: &Context<'_>, (): (), _done: &mut Done) {}
}

/// `also`: a copy of every row goes through the branch, then the row goes on.
pub struct Also<C, B> {
    pub(crate) chain: C,
    pub(crate) branch: B,
}

/// [`Also`], fused.
pub struct AlsoSink<B, N> {
    branch: B,
    next: N,
}

impl<O: 'static, C: Chain<O>, B> Chain<O> for Also<C, B>
where
    C::Out: Clone,
    B: Sink<O, C::Out>,
{
    type In = C::In;
    type Out = C::Out;
    type Fused<N: Sink<O, C::Out>> = C::Fused<AlsoSink<B, N>>;

    fn fuse<N: Sink<O, C::Out>>(self, next: N) -> Self::Fused<N> {
        self.chain.fuse(AlsoSink { branch: self.branch, next })
    }
}

impl<O: 'static, T: Clone + 'static, B, N> Sink<O, T> for AlsoSink<B, N>
where
    B: Sink<O, T>,
    N: Sink<O, T>,
{
    type State = (B::State, N::State);

    #[inline]
    fn push<'a>(
        &'a self,
        state: &'a Self::State,
        at: At<'a, O>,
        row: T,
    ) -> impl Future<Output = Result<()>> {
        AndThen::new(self.branch.push(&state.0, at, row.clone()), move |()| {
            Some(self.next.push(&state.1, at, row))
        })
    }

    fn finish(&self, context: &Context<'_>, state: Self::State, done: &mut Done) {
        self.branch.finish(context, state.0, done);
        self.next.finish(context, state.1, done);
    }
}
