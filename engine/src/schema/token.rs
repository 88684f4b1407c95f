//! Tokens: what module code holds of a `PState`.

use std::fmt;
use std::marker::PhantomData;

use super::path::{Counts, KeyIn, Many, Maybe, One, Path, RangeOf, Ranged, Size};
use super::{Is, Root};
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

    /// The whole collection, as the start of a path.
    #[inline]
    pub(super) fn path(self) -> Path<Root<S>, One, O> {
        Path::root(self.id)
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

    /// The whole collection, as the start of a path.
    #[inline]
    pub(super) fn path(self) -> Path<Root<S>, One, Anyone> {
        Path::root(self.id)
    }
}

macro_rules! steps {
    ([$($parameters:ident),*] $token:ty, $owner:ty) => {
        impl<$($parameters),*> $token {
            /// What is under one key.
            #[inline]
            pub fn key<Q: KeyIn<Root<S>>>(self, key: Q) -> Path<Q::Value, Maybe, $owner> {
                self.path().key(key)
            }

            /// Whether an element is in the set.
            #[inline]
            pub fn has<Q: super::path::ElementOf<Root<S>>>(
                self,
                element: Q,
            ) -> Path<super::path::Presence, One, $owner> {
                self.path().has(element)
            }

            /// The elements whose keys lie in a range.
            pub fn range<R: RangeOf<Root<S>>>(self, range: R) -> Path<R::Element, Many, $owner> {
                self.path().range(range)
            }

            /// First keys are spread over all partitions, so no one counts them: this does not compile, and
            /// says so.
            pub fn size(self) -> Path<Size<Root<S>>, One, $owner>
            where
                Root<S>: Counts,
            {
                self.path().size()
            }

            /// All elements, in key order.
            pub fn all<X: Ranged>(self) -> Path<X::Element, Many, $owner>
            where
                Root<S>: Is<X>,
            {
                self.path().all()
            }
        }
    };
}

steps!([S, O] Owned<S, O>, O);
steps!([S] PState<S>, Anyone);

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
