//! Sums and counts.

use super::Aggregate;
use crate::schema::Data;

/// Adds a number. Nothing stored counts as zero. Of floats, the last digits depend on the order in which
/// they were added; integers do not.
///
/// ```
/// # use tidemill::schema::{Map, Owned, aggregate::Sum};
/// # fn example<O>(cents: Owned<Map<u64, i64>, O>) {
/// let _ = cents.key(7).add(Sum(-250));
/// # }
/// ```
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
///
/// ```
/// # use tidemill::schema::{Map, Owned, aggregate::Count};
/// # fn example<O>(visits: Owned<Map<String, u64>, O>) {
/// let _ = visits.key("ann").add(Count);
/// # }
/// ```
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
