//! One of what was added: the smallest, the largest, the first, the last; or none of it.

use super::Aggregate;
use crate::schema::Data;

/// Keeps the smallest; the earlier of equal ones.
///
/// ```
/// # use tidemill::schema::{Map, Owned, aggregate::Min};
/// # fn example<O>(cheapest: Owned<Map<String, u64>, O>) {
/// let _ = cheapest.key("tea").add(Min(1_250));
/// # }
/// ```
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
        Some(old.filter(|old| *old <= partial).unwrap_or(partial))
    }
}

/// Keeps the largest; the earlier of equal ones.
///
/// ```
/// # use tidemill::schema::{Map, Owned, aggregate::Max};
/// # fn example<O>(dearest: Owned<Map<String, u64>, O>) {
/// let _ = dearest.key("tea").add(Max(1_250));
/// # }
/// ```
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
        Some(old.filter(|old| *old >= partial).unwrap_or(partial))
    }
}

/// Keeps the last one added.
///
/// ```
/// # use tidemill::schema::{Map, Owned, aggregate::Last};
/// # fn example<O>(price: Owned<Map<String, u64>, O>) {
/// let _ = price.key("tea").add(Last(1_250));
/// # }
/// ```
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
///
/// ```
/// # use tidemill::schema::{Map, Owned, aggregate::First};
/// # fn example<O>(listed: Owned<Map<String, u64>, O>) {
/// let _ = listed.key("tea").add(First(1_250));
/// # }
/// ```
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

/// Removes the value, whatever it is.
///
/// ```
/// # use tidemill::schema::{Map, Owned, aggregate::Void};
/// # fn example<O>(open_orders: Owned<Map<u64, String>, O>) {
/// let _ = open_orders.key(7).add(Void);
/// # }
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Void;

impl<V: Data> Aggregate<V> for Void {
    type Partial = ();
    const READS_OLD: bool = false;

    fn partial(self) {}

    fn combine(_a: &mut (), _b: ()) {}

    fn apply(_partial: (), _old: Option<V>) -> Option<V> {
        None
    }
}
