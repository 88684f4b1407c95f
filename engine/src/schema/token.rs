//! Tokens: what module code holds of a `PState`.

use std::fmt;
use std::marker::PhantomData;

use super::path::{
    Counts, Direct, ElementOf, KeyIn, Many, Maybe, One, Path, Presence, RangeOf, Ranged, Size,
};
use super::{Field, Is, Record, Schema, Steps, Whole};
use crate::types::PStateId;

/// A `PState` that belongs to the topology `O`, which alone may write it.
pub struct Owned<S, O> {
    id: PStateId,
    types: PhantomData<fn() -> (S, O)>,
}

/// A `PState` as everyone else sees it: readable.
pub struct PState<S> {
    id: PStateId,
    types: PhantomData<fn() -> S>,
}

/// The owner of paths that start at a reader's token: they can be read and not written.
#[derive(Clone, Copy, Debug)]
pub enum Anyone {}

impl<S, O> Owned<S, O> {
    /// For the module builder, which numbers the `PState`s.
    #[must_use]
    pub fn from_id(id: PStateId) -> Self {
        Self { id, types: PhantomData }
    }

    /// The token for other topologies, queries and clients.
    #[must_use]
    pub fn reader(self) -> PState<S> {
        PState::from_id(self.id)
    }

    /// The number of this `PState`.
    #[must_use]
    pub fn id(self) -> PStateId {
        self.id
    }
}

impl<S> PState<S> {
    /// For the module builder, which numbers the `PState`s.
    #[must_use]
    pub fn from_id(id: PStateId) -> Self {
        Self { id, types: PhantomData }
    }

    /// The number of this `PState`.
    #[must_use]
    pub fn id(self) -> PStateId {
        self.id
    }
}

macro_rules! steps {
    ([$($owner:ident)?] $token:ty, $seen:ty) => {
        impl<S: Schema<Held: Direct> $(, $owner)?> $token {
            /// All of it, as the start of a path.
            #[inline]
            fn path(self) -> Path<S::Root, S::Held, $seen> {
                Path::root(self.id, S::PLACING)
            }

            /// What is under one key.
            #[inline]
            pub fn key<Q: KeyIn<S::Root>>(self, key: Q) -> Path<Q::Value, Maybe, $seen> {
                self.path().key(key)
            }

            /// Whether an element is in the set.
            #[inline]
            pub fn has<Q: ElementOf<S::Root>>(self, element: Q) -> Path<Presence, One, $seen> {
                self.path().has(element)
            }

            /// The elements whose keys lie in a range.
            pub fn range<R: RangeOf<S::Root>>(self, range: R) -> Path<R::Element, Many, $seen> {
                self.path().range(range)
            }

            /// How many elements a [`Single`](super::Single) collection has. First keys that are spread over
            /// all partitions are counted by no one: then this does not compile, and says so.
            pub fn size(self) -> Path<Size<S::Root>, One, $seen>
            where
                S::Root: Counts,
            {
                self.path().size()
            }

            /// All elements, in key order.
            pub fn all<X: Ranged>(self) -> Path<X::Element, Many, $seen>
            where
                S::Root: Is<X>,
            {
                self.path().all()
            }

            /// All that a [`Single`](super::Single) holds: the value, or the collection or record to go on from.
            pub fn whole(self) -> Path<S::Root, S::Held, $seen>
            where
                S: Whole,
            {
                self.path()
            }

            /// The start of typed [`Steps`](super::steps), that go into values, too.
            pub fn steps(self) -> Steps<$seen, S::Root> {
                Steps::root(self.id)
            }

            /// One field of a record that lives in one partition.
            pub fn field<F>(
                self,
                field: impl FnOnce(<S::Root as Record>::Fields) -> Field<S::Root, F>,
            ) -> Path<F, Maybe, $seen>
            where
                S::Root: Record,
            {
                self.path().field(field)
            }
        }
    };
}

steps!([O] Owned<S, O>, S::Seen<O>);
steps!([] PState<S>, S::Seen<Anyone>);

impl<S, O> Clone for Owned<S, O> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<S, O> Copy for Owned<S, O> {}

impl<S> Clone for PState<S> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<S> Copy for PState<S> {}

impl<S, O> fmt::Debug for Owned<S, O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Owned({})", self.id)
    }
}

impl<S> fmt::Debug for PState<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PState({})", self.id)
    }
}
