//! Adding to what is stored: `path.add(Sum(x))`.
//!
//! An aggregator turns what is added into a *partial*. Partials of one row are combined before they
//! travel to where the row lives, and applied to the stored value there. So combining must not depend
//! on how partials are grouped; it may depend on their order, which is kept among those that come
//! from one partition.
//!
//! ```
//! use tidemill::schema::aggregate::{Count, Sum};
//! use tidemill::schema::{Map, Owned};
//! fn both<O>(cents: Owned<Map<u64, i64>, O>, visits: Owned<Map<String, u64>, O>) {
//!     let _ = cents.key(7).add(Sum(-250));
//!     let _ = visits.key("ann").add(Count);
//! }
//! ```

use std::collections::BTreeSet;
use std::fmt;
use std::marker::PhantomData;

use super::plan::Target;
use super::{Data, Set, Sub};
use crate::codec::{Error, FieldTable, KEY_BYTES_MAX, Key, KeyBuf, Result, decode, encode};

/// Something that can be added to a stored value of type `V`.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be aggregated into a value of type `{V}`",
    label = "does not fit a value of type `{V}`"
)]
pub trait Aggregate<V> {
    /// What travels to the stored value.
    type Partial: Data;

    /// The partial of this alone.
    fn partial(self) -> Self::Partial;

    /// Adds the later partial `b` to the earlier `a`.
    fn combine(a: &mut Self::Partial, b: Self::Partial);

    /// The new value, given the old one, if there is one; `None` removes the row.
    fn apply(partial: Self::Partial, old: Option<V>) -> Option<V>;

    /// Whether [`Aggregate::apply`] looks at the old value. Where not, nothing is read.
    const READS_OLD: bool = true;
}

/// Something that can be added where a path has the position `S`: an [`Aggregate`] where that is a
/// value, [`SetOf`] where it is a `Sub<Set<E>>`.
pub trait Adds<S> {
    /// What travels.
    type Sent: Data;

    /// What the engine does with it.
    const OPS: &'static ChangeOps<Self::Sent>;

    /// What to send.
    fn sent(self) -> Self::Sent;
}

/// The functions of a [`Change`], without the types of value and aggregator.
pub struct ChangeOps<P> {
    /// Adds a later partial to an earlier one.
    pub combine: fn(&mut P, P),
    /// Whether `apply` must be given the old value of the target's row.
    pub reads_old: bool,
    /// Applies a partial.
    pub apply: fn(Apply<'_>, P) -> Result<()>,
}

/// What applying a partial works with.
#[allow(missing_debug_implementations, reason = "lives for one call only")]
pub struct Apply<'a> {
    /// The catalogue's numbers.
    pub table: &'a FieldTable,
    /// The target's key.
    pub key: &'a [u8],
    /// The old value of the target's row, if there is such a row and `reads_old` is set.
    pub old: Option<&'a [u8]>,
    /// Overwritten.
    pub scratch: &'a mut Vec<u8>,
    /// Takes each row to write, as key and value, or as key and `None` for a row to remove.
    pub write: &'a mut WriteRow<'a>,
}

/// Takes one row: its key, and its value or `None` to remove it.
pub type WriteRow<'a> = dyn FnMut(&[u8], Option<&[u8]>) + 'a;

/// One addition to what is stored at a path.
pub struct Change<P: 'static, O> {
    /// Where, or why the path is none.
    pub target: Result<Target>,
    /// What.
    pub partial: P,
    /// How.
    pub ops: &'static ChangeOps<P>,
    owner: PhantomData<fn() -> O>,
}

impl<P, O> Change<P, O> {
    pub(super) fn new<S, A: Adds<S, Sent = P>>(target: Result<Target>, addend: A) -> Self {
        Self { target, partial: addend.sent(), ops: A::OPS, owner: PhantomData }
    }
}

impl<P, O> fmt::Debug for Change<P, O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Change").field("target", &self.target).finish_non_exhaustive()
    }
}

impl<P> fmt::Debug for ChangeOps<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChangeOps").field("reads_old", &self.reads_old).finish_non_exhaustive()
    }
}

impl<V: Data, A: Aggregate<V>> Adds<V> for A {
    type Sent = A::Partial;

    const OPS: &'static ChangeOps<A::Partial> = &ChangeOps {
        combine: A::combine,
        reads_old: A::READS_OLD,
        apply: |to, partial| {
            let old = to.old.map(|bytes| decode(to.table, bytes)).transpose()?;
            match A::apply(partial, old) {
                None => (to.write)(to.key, None),
                Some(new) => {
                    to.scratch.clear();
                    encode::<V>(to.table, &new, to.scratch)?;
                    (to.write)(to.key, Some(to.scratch));
                }
            }
            Ok(())
        },
    };

    fn sent(self) -> A::Partial {
        self.partial()
    }
}

impl<E: Key + Data + Ord> Adds<Sub<Set<E>>> for SetOf<E> {
    type Sent = BTreeSet<E>;

    const OPS: &'static ChangeOps<BTreeSet<E>> = &ChangeOps {
        combine: |a, mut b| a.append(&mut b),
        reads_old: false,
        apply: |to, elements| {
            for element in &elements {
                let mut key = KeyBuf::from(to.key);
                element.encode_key(&mut key);
                if key.len() > KEY_BYTES_MAX {
                    return Err(Error::ElementTooLong {
                        element_type: std::any::type_name::<E>(),
                        bytes: key.len(),
                    });
                }
                (to.write)(&key, Some(&[]));
            }
            Ok(())
        },
    };

    fn sent(self) -> BTreeSet<E> {
        BTreeSet::from([self.0])
    }
}

/// Adds a number. Nothing stored counts as zero.
///
/// # Panics
/// Where it is combined or applied, if an integer sum overflows: a wrong sum would be worse.
#[derive(Clone, Copy, Debug)]
pub struct Sum<T>(pub T);

impl<T: Summand> Aggregate<T> for Sum<T> {
    type Partial = T;

    fn partial(self) -> T {
        self.0
    }

    fn combine(a: &mut T, b: T) {
        *a = a.plus(b);
    }

    fn apply(partial: T, old: Option<T>) -> Option<T> {
        Some(old.map_or(partial, |old| old.plus(partial)))
    }
}

/// Counts how often it was added.
#[derive(Clone, Copy, Debug)]
pub struct Count;

impl<V: Counter> Aggregate<V> for Count {
    type Partial = u64;

    fn partial(self) -> u64 {
        1
    }

    fn combine(a: &mut u64, b: u64) {
        *a = a.plus(b);
    }

    fn apply(partial: u64, old: Option<V>) -> Option<V> {
        Some(V::count(old, partial))
    }
}

/// Keeps the smallest.
#[derive(Clone, Copy, Debug)]
pub struct Min<T>(pub T);

impl<T: Data + Ord> Aggregate<T> for Min<T> {
    type Partial = T;

    fn partial(self) -> T {
        self.0
    }

    fn combine(a: &mut T, b: T) {
        if b < *a {
            *a = b;
        }
    }

    fn apply(partial: T, old: Option<T>) -> Option<T> {
        old.into_iter().chain([partial]).min()
    }
}

/// Keeps the largest.
#[derive(Clone, Copy, Debug)]
pub struct Max<T>(pub T);

impl<T: Data + Ord> Aggregate<T> for Max<T> {
    type Partial = T;

    fn partial(self) -> T {
        self.0
    }

    fn combine(a: &mut T, b: T) {
        if b > *a {
            *a = b;
        }
    }

    fn apply(partial: T, old: Option<T>) -> Option<T> {
        old.into_iter().chain([partial]).max()
    }
}

/// Keeps the last one added.
#[derive(Clone, Copy, Debug)]
pub struct Last<T>(pub T);

impl<T: Data> Aggregate<T> for Last<T> {
    type Partial = T;
    const READS_OLD: bool = false;

    fn partial(self) -> T {
        self.0
    }

    fn combine(a: &mut T, b: T) {
        *a = b;
    }

    fn apply(partial: T, _old: Option<T>) -> Option<T> {
        Some(partial)
    }
}

/// Keeps the first one added.
#[derive(Clone, Copy, Debug)]
pub struct First<T>(pub T);

impl<T: Data> Aggregate<T> for First<T> {
    type Partial = T;

    fn partial(self) -> T {
        self.0
    }

    fn combine(_a: &mut T, _b: T) {}

    fn apply(partial: T, old: Option<T>) -> Option<T> {
        Some(old.unwrap_or(partial))
    }
}

/// Adds an element to a set: to a `Sub<Set<E>>`, or to a `BTreeSet<E>` that is one value.
#[derive(Clone, Copy, Debug)]
pub struct SetOf<E>(pub E);

impl<E: Data + Ord> Aggregate<BTreeSet<E>> for SetOf<E> {
    type Partial = BTreeSet<E>;

    fn partial(self) -> BTreeSet<E> {
        BTreeSet::from([self.0])
    }

    fn combine(a: &mut BTreeSet<E>, mut b: BTreeSet<E>) {
        a.append(&mut b);
    }

    fn apply(mut partial: BTreeSet<E>, old: Option<BTreeSet<E>>) -> Option<BTreeSet<E>> {
        partial.append(&mut old.unwrap_or_default());
        Some(partial)
    }
}

/// Appends an element to a `Vec<T>` that is one value.
#[derive(Clone, Copy, Debug)]
pub struct ListOf<T>(pub T);

impl<T: Data> Aggregate<Vec<T>> for ListOf<T> {
    type Partial = Vec<T>;

    fn partial(self) -> Vec<T> {
        vec![self.0]
    }

    fn combine(a: &mut Vec<T>, mut b: Vec<T>) {
        a.append(&mut b);
    }

    fn apply(mut partial: Vec<T>, old: Option<Vec<T>>) -> Option<Vec<T>> {
        let mut list = old.unwrap_or_default();
        list.append(&mut partial);
        Some(list)
    }
}

/// Combines with the value's own rule, its [`Merge`].
#[derive(Clone, Copy, Debug)]
pub struct Combine<V>(pub V);

/// A value that knows how two of it become one. `a.merge(b)` then `merge(c)` must give what
/// `a.merge(b.merge(c))` gives.
#[diagnostic::on_unimplemented(
    message = "`{Self}` has no rule to combine two of it",
    label = "does not implement `Merge`"
)]
pub trait Merge: Data {
    /// Takes the later value `other` in.
    fn merge(&mut self, other: Self);
}

impl<V: Merge> Aggregate<V> for Combine<V> {
    type Partial = V;

    fn partial(self) -> V {
        self.0
    }

    fn combine(a: &mut V, b: V) {
        a.merge(b);
    }

    fn apply(partial: V, old: Option<V>) -> Option<V> {
        Some(match old {
            None => partial,
            Some(mut merged) => {
                merged.merge(partial);
                merged
            }
        })
    }
}

/// Numbers that [`Sum`] can add.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be summed",
    label = "not a number",
    note = "for a type of your own, implement `Merge` and add `Combine(value)`"
)]
pub trait Summand: Data + Copy {
    /// The sum.
    ///
    /// # Panics
    /// If an integer overflows.
    #[must_use]
    fn plus(self, other: Self) -> Self;
}

/// Numbers that [`Count`] can count in.
#[diagnostic::on_unimplemented(message = "`{Self}` cannot count", label = "not an integer")]
pub trait Counter: Data {
    /// The count, raised by `by`; nothing counts as zero.
    ///
    /// # Panics
    /// If it overflows.
    #[must_use]
    fn count(old: Option<Self>, by: u64) -> Self;
}

macro_rules! integer {
    ($($type:ty),*) => { $(
        impl Summand for $type {
            #[inline]
            fn plus(self, other: Self) -> Self {
                self.checked_add(other).expect(concat!("a sum overflows `", stringify!($type), "`"))
            }
        }

        impl Counter for $type {
            fn count(old: Option<Self>, by: u64) -> Self {
                Self::try_from(by)
                    .ok()
                    .and_then(|by| old.unwrap_or(0).checked_add(by))
                    .expect(concat!("a count overflows `", stringify!($type), "`"))
            }
        }
    )* };
}

integer!(u8, u16, u32, u64, u128, i8, i16, i32, i64, i128);

impl Summand for f32 {
    fn plus(self, other: Self) -> Self {
        self + other
    }
}

impl Summand for f64 {
    fn plus(self, other: Self) -> Self {
        self + other
    }
}
