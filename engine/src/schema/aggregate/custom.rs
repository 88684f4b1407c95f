//! Rules of one's own: of the value itself ([`Merge`]), of a type beside it ([`Combiner`]), or one that
//! needs what was added in order ([`Accumulator`]).

use std::fmt;

use super::Aggregate;
use crate::schema::Data;

/// Combines with the value's own rule, its [`Merge`].
///
/// ```
/// # use serde::{Deserialize, Serialize};
/// # use tidemill::schema::{Map, Owned, aggregate::{Combine, Merge}};
/// #[derive(Serialize, Deserialize)]
/// struct Extent {
///     low: i64,
///     high: i64,
/// }
///
/// impl Merge for Extent {
///     fn merge(&mut self, other: Self) {
///         self.low = self.low.min(other.low);
///         self.high = self.high.max(other.high);
///     }
/// }
/// # fn example<O>(prices: Owned<Map<String, Extent>, O>) {
/// let _ = prices.key("TIDE").add(Combine(Extent { low: 7, high: 7 }));
/// # }
/// ```
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

/// A rule to make two values one, that need not be the values' own: for numbers and other types that are
/// not yours, and where one type has several rules. The rule is a type of its own, never a value.
///
/// `combine(combine(a, b), c)` must give what `combine(a, combine(b, c))` gives, and `combine` with
/// [`Combiner::zero`], on either side, what it is combined with.
///
/// ```
/// # use tidemill::schema::{Map, Owned, aggregate::{Combined, Combiner}};
/// enum Union {}
///
/// impl Combiner for Union {
///     type Value = u32;
///
///     fn zero() -> u32 {
///         0
///     }
///
///     fn combine(earlier: u32, later: u32) -> u32 {
///         earlier | later
///     }
/// }
/// # fn example<O>(flags: Owned<Map<u64, u32>, O>) {
/// let _ = flags.key(7).add(Combined::<Union>(0b100));
/// # }
/// ```
pub trait Combiner: 'static {
    /// What is stored, and what is added.
    type Value: Data;

    /// What nothing stored counts as.
    fn zero() -> Self::Value;

    /// Takes the later value in.
    fn combine(earlier: Self::Value, later: Self::Value) -> Self::Value;

    /// Whether a value combined of what was added has grown so much that it must travel as it is, for
    /// values that grow with each addition: what comes later is combined for itself. All of it is
    /// combined in the end; this bounds what one message takes.
    fn must_flush(combined: &Self::Value) -> bool {
        let _ = combined;
        false
    }
}

/// Combines by the rule of `C`; see [`Combiner`].
pub struct Combined<C: Combiner>(pub C::Value);

impl<C: Combiner> fmt::Debug for Combined<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct(std::any::type_name::<Self>()).finish_non_exhaustive()
    }
}

impl<C: Combiner> Aggregate<C::Value> for Combined<C> {
    /// `None` only while its value is being combined.
    type Partial = Option<C::Value>;
    const MUST_FLUSH: Option<fn(&Self::Partial) -> bool> =
        Some(|partial| partial.as_ref().is_some_and(C::must_flush));

    fn partial(self) -> Option<C::Value> {
        Some(self.0)
    }

    fn combine(a: &mut Option<C::Value>, b: Option<C::Value>) {
        *a = match (a.take(), b) {
            (Some(a), Some(b)) => Some(C::combine(a, b)),
            (one, other) => one.or(other),
        };
    }

    fn apply(partial: Option<C::Value>, old: Option<C::Value>) -> Option<C::Value> {
        let partial = partial.unwrap_or_else(C::zero);
        Some(C::combine(old.unwrap_or_else(C::zero), partial))
    }
}

/// A rule that takes in one input after the other. Nothing is combined ahead: the inputs travel to the
/// row and are applied there, those from one partition in their order. Where a [`Combiner`] or a
/// [`Merge`] can do it, less travels.
///
/// ```
/// # use tidemill::schema::{Map, Owned, aggregate::{Accumulate, Accumulator}};
/// /// How often the price changed its direction.
/// enum Turns {}
///
/// impl Accumulator for Turns {
///     type Input = i64;
///     type Value = (i64, bool, u32);
///
///     fn init() -> (i64, bool, u32) {
///         (0, true, 0)
///     }
///
///     fn accumulate((last, rising, turns): &mut (i64, bool, u32), price: i64) {
///         let rises = price >= *last;
///         *turns += u32::from(rises != *rising);
///         (*last, *rising) = (price, rises);
///     }
/// }
/// # fn example<O>(turns: Owned<Map<String, (i64, bool, u32)>, O>) {
/// let _ = turns.key("TIDE").add(Accumulate::<Turns>(250));
/// # }
/// ```
pub trait Accumulator: 'static {
    /// What is added.
    type Input: Data;
    /// What is stored.
    type Value: Data;

    /// What nothing stored counts as.
    fn init() -> Self::Value;

    /// Takes one input in.
    fn accumulate(value: &mut Self::Value, input: Self::Input);
}

/// Adds an input of the rule `A`; see [`Accumulator`].
pub struct Accumulate<A: Accumulator>(pub A::Input);

impl<A: Accumulator> fmt::Debug for Accumulate<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct(std::any::type_name::<Self>()).finish_non_exhaustive()
    }
}

impl<A: Accumulator> Aggregate<A::Value> for Accumulate<A> {
    type Partial = Vec<A::Input>;

    fn partial(self) -> Vec<A::Input> {
        vec![self.0]
    }

    fn combine(a: &mut Vec<A::Input>, mut b: Vec<A::Input>) {
        a.append(&mut b);
    }

    fn apply(partial: Vec<A::Input>, old: Option<A::Value>) -> Option<A::Value> {
        let mut value = old.unwrap_or_else(A::init);
        for input in partial {
            A::accumulate(&mut value, input);
        }
        Some(value)
    }
}
