//! Averages, stored so that more can be added.

use serde::{Deserialize, Serialize};

use super::{Aggregate, Summand};
use crate::schema::Data;

/// Adds a number to a [`Mean`].
///
/// ```
/// # use tidemill::schema::{Map, Owned, aggregate::{Average, Mean}};
/// # fn example<O>(waits: Owned<Map<String, Mean<u32>>, O>) {
/// let _ = waits.key("checkout").add(Average(35));
/// # }
/// ```
///
/// # Panics
/// As [`Sum`](super::Sum), if the total overflows: that of integers is kept in a wider type.
#[derive(Clone, Copy, Debug)]
pub struct Average<T>(pub T);

impl<T: Averaged> Aggregate<Mean<T>> for Average<T> {
    type Partial = Mean<T>;

    fn partial(self) -> Mean<T> {
        Mean { total: self.0.widen(), count: 1 }
    }

    fn combine(a: &mut Mean<T>, b: Mean<T>) {
        *a = Mean { total: a.total.plus(b.total), count: a.count.plus(b.count) };
    }

    fn apply(mut partial: Mean<T>, old: Option<Mean<T>>) -> Option<Mean<T>> {
        if let Some(mut old) = old {
            Self::combine(&mut old, partial);
            partial = old;
        }
        Some(partial)
    }
}

/// The average of numbers: their total and how many they are, so that two can be made one and nothing
/// is lost to rounding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(bound = "T: Averaged")]
pub struct Mean<T: Averaged> {
    total: T::Total,
    count: u64,
}

impl<T: Averaged> Mean<T> {
    /// The average. Of what an [`Average`] has left, never of nothing.
    #[must_use]
    pub fn value(self) -> f64 {
        T::ratio(self.total, self.count)
    }

    /// The sum.
    #[must_use]
    pub fn total(self) -> T::Total {
        self.total
    }

    /// How many numbers were added.
    #[must_use]
    pub fn count(self) -> u64 {
        self.count
    }
}

/// Numbers that [`Average`] can add.
#[diagnostic::on_unimplemented(message = "`{Self}` has no average", label = "not a number")]
pub trait Averaged: Data + Copy {
    /// What they are summed in.
    type Total: Summand;

    /// The number, in that type.
    #[must_use]
    fn widen(self) -> Self::Total;

    /// The total over the count, as near as a float comes.
    #[must_use]
    fn ratio(total: Self::Total, count: u64) -> f64;
}

macro_rules! averaged {
    ($($total:ty: $($type:ty),*;)*) => { $($(
        impl Averaged for $type {
            type Total = $total;

            fn widen(self) -> $total {
                self.into()
            }

            #[allow(clippy::cast_precision_loss, reason = "a float is what is asked for")]
            #[allow(trivial_numeric_casts, reason = "of one total only")]
            fn ratio(total: $total, count: u64) -> f64 {
                total as f64 / count as f64
            }
        }
    )*)* };
}

averaged! {
    u64: u8, u16, u32;
    i64: i8, i16, i32;
    u128: u64, u128;
    i128: i64, i128;
    f64: f32, f64;
}
