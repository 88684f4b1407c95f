//! Values with a rule of their own.

use super::Aggregate;
use crate::schema::Data;

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
