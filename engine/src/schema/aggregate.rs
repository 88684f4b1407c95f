//! Adding to what is stored: `path.add(Sum(x))`.
//!
//! An aggregator turns what is added into a *partial*. Partials of one row that arise on one shard in one
//! microbatch are combined before they travel to where the row lives, and applied to the stored value there. So combining must not depend
//! on how partials are grouped; it may depend on their order, which is kept among those that come
//! from one partition.
//!
//! | aggregator | into a value | into a `Sub`, without reading unless said | order matters |
//! |---|---|---|---|
//! | [`Sum`], [`Count`] | a number | | no |
//! | [`Average`] | [`Mean<T>`](Mean) | | no |
//! | [`Min`], [`Max`] | the number, text, .. | | no |
//! | [`First`], [`Last`] | anything | | yes |
//! | [`And`], [`Or`] | `bool` | | no |
//! | [`Void`] | anything: removes it | | no |
//! | [`SetOf`], [`SetRemove`] | `BTreeSet<E>` | `Sub<Set<E>>` | of one against the other |
//! | [`MultiSet`] | `BTreeMap<E, N>` | `Sub<Map<E, N>>`; reads the element's count | no |
//! | [`MapOf`], [`MergeMap`] | `BTreeMap<K, V>` | `Sub<Map<K, V>>` | of values for one key |
//! | [`ListOf`] | `Vec<T>` | `Sub<List<T>>`; reads the list's head | yes |
//! | [`Limit`] | `Vec<T>` | | yes |
//! | [`TopN`]: also a sorted limit | [`Top<I, S, N>`](Top) | | no |
//! | [`Combine`] | a [`Merge`] | | its own affair |
//! | [`Combined`] | the value of a [`Combiner`] | | its own affair |
//! | [`Accumulate`] | the value of an [`Accumulator`] | | yes |
//!
//! Nothing stored is no value: there is no need to put a zero first. What a fold over nothing would give
//! (`0` of a sum, `true` of [`And`]) is what a missing row stands for, and no row is made for it.
//!
//! To keep some of what is added is a choice of the stored type: [`Limit`] keeps the first `N` elements; [`TopN`]
//! keeps the `N` highest by any key, `TopN(element, key)`, in their order, and with
//! [`Reverse(key)`](std::cmp::Reverse) the `N` lowest. Equal elements with equal keys are one there, so make an
//! id part of those that should count one by one.
//!
//! To group is to add under a key: `sold.key(country).key(day).add(Sum(x))` keeps a sum per country and
//! day. To add only sometimes, or many times, return an `Option` or a `Vec` of changes from `aggregate`;
//! to add to several places, a tuple of them.
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
use crate::codec::{Error, FieldTable, KEY_BYTES_MAX, Key, KeyBuf, Result, decode, encode};

mod choice;
mod custom;
mod lists;
mod logic;
mod maps;
mod mean;
#[cfg(doctest)]
mod misuse;
mod numbers;
mod sets;
#[cfg(test)]
mod tests;
mod top;

pub use choice::{First, Last, Max, Min, Void};
pub use custom::{Accumulate, Accumulator, Combine, Combined, Combiner, Merge};
pub use lists::{Limit, ListOf};
pub use logic::{And, Or};
pub use maps::{MapOf, MergeMap, MultiSet};
pub use mean::{Average, Averaged, Mean};
pub use numbers::{Count, Counter, Sum, Summand};
pub use sets::{SetOf, SetRemove};
pub use top::{Top, TopN};

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

    /// Whether a partial has grown so much that it must travel as it is: what comes later makes another
    /// one. `None` is never; see [`Combiner::must_flush`].
    const MUST_FLUSH: Option<fn(&Self::Partial) -> bool> = None;
}

/// Something that can be added where a path has the position `S`: an [`Aggregate`] where that is a
/// value, [`SetOf`] and others where it is a `Sub`.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be added to what is stored here, a `{S}`",
    label = "does not fit a `{S}`",
    note = "the table in `tidemill::schema::aggregate` says which aggregator fits what"
)]
pub trait Adds<S> {
    /// What travels.
    type Sent: Data;

    /// What the engine does with it.
    const OPS: &'static ChangeOps<Self::Sent>;

    /// What to send, given where the path leads. An addition to a `Sub` goes to the row of its element:
    /// it lengthens the key, and turns a target whose key gets too long into an error.
    fn sent(self, target: &mut Result<Target>) -> Self::Sent;
}

/// The functions of a [`Change`], without the types of value and aggregator.
pub struct ChangeOps<P> {
    /// Adds a later partial to an earlier one.
    pub combine: fn(&mut P, P),
    /// See [`Aggregate::MUST_FLUSH`].
    pub must_flush: Option<fn(&P) -> bool>,
    /// What applying a partial does.
    pub how: How<P>,
}

/// What applying a partial does.
pub enum How<P> {
    /// It writes rows, given at most one of them.
    Rows {
        /// Whether `apply` must be given the old value of the target's row.
        reads_old: bool,
        /// Applies the partial.
        apply: fn(Apply<'_>, P) -> Result<()>,
    },
    /// It appends to a list that is stored element by element; the target is the list's head.
    Append {
        /// The elements, encoded.
        items: fn(&FieldTable, P) -> Result<Vec<Vec<u8>>>,
    },
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

impl Apply<'_> {
    /// Writes the target's row, or removes it.
    pub(super) fn replace<V: Data>(self, new: Option<&V>) -> Result<()> {
        match new {
            None => (self.write)(self.key, None),
            Some(new) => {
                self.scratch.clear();
                encode(self.table, new, self.scratch)?;
                (self.write)(self.key, Some(self.scratch));
            }
        }
        Ok(())
    }
}

/// Takes one row: its key, and its value or `None` to remove it.
pub type WriteRow<'a> = dyn FnMut(&[u8], Option<&[u8]>) + 'a;

/// One addition to what is stored at a path, where the position is `S`.
pub struct Change<P: 'static, O, S> {
    /// Where, or why the path is none.
    pub target: Result<Target>,
    /// What.
    pub partial: P,
    /// How.
    pub ops: &'static ChangeOps<P>,
    types: PhantomData<fn() -> (O, S)>,
}

impl<P, O, S> Change<P, O, S> {
    pub(super) fn new<A: Adds<S, Sent = P>>(mut target: Result<Target>, addend: A) -> Self {
        let partial = addend.sent(&mut target);
        Self { target, partial, ops: A::OPS, types: PhantomData }
    }
}

impl<P, O, S> fmt::Debug for Change<P, O, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Change").field("target", &self.target).finish_non_exhaustive()
    }
}

impl<P> fmt::Debug for ChangeOps<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChangeOps").field("how", &self.how).finish_non_exhaustive()
    }
}

impl<P> fmt::Debug for How<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rows { reads_old, .. } => {
                f.debug_struct("Rows").field("reads_old", reads_old).finish_non_exhaustive()
            }
            Self::Append { .. } => f.write_str("Append"),
        }
    }
}

#[diagnostic::do_not_recommend]
impl<V: Data, A: Aggregate<V>> Adds<V> for A {
    type Sent = A::Partial;

    const OPS: &'static ChangeOps<A::Partial> = &ChangeOps {
        combine: A::combine,
        must_flush: A::MUST_FLUSH,
        how: How::Rows {
            reads_old: A::READS_OLD,
            apply: |to, partial| {
                let old = to.old.map(|bytes| decode(to.table, bytes)).transpose()?;
                to.replace(A::apply(partial, old).as_ref())
            },
        },
    };

    fn sent(self, _target: &mut Result<Target>) -> A::Partial {
        self.partial()
    }
}

/// Moves the target from a collection to the row of one of its elements.
fn to_element<E: Key>(target: &mut Result<Target>, element: &E) {
    if let Ok(there) = target {
        element.encode_key(&mut there.key);
        if let Err(error) = check_element::<E>(&there.key) {
            *target = Err(error);
        }
    }
}

/// Whether the row of an element can have this key.
fn check_element<E>(key: &KeyBuf) -> Result<()> {
    let bytes = key.len();
    if bytes > KEY_BYTES_MAX {
        return Err(Error::ElementTooLong { element_type: std::any::type_name::<E>(), bytes });
    }
    Ok(())
}
