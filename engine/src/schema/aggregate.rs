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

use std::fmt;
use std::marker::PhantomData;

use super::Data;
use super::plan::Target;
use crate::codec::{FieldTable, Result, decode, encode};

mod choice;
mod custom;
mod lists;
mod numbers;
mod sets;

pub use choice::{First, Last, Max, Min};
pub use custom::{Combine, Merge};
pub use lists::ListOf;
pub use numbers::{Count, Counter, Sum, Summand};
pub use sets::SetOf;

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
