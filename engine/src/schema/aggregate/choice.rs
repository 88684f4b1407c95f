//! One of what was added: the smallest, the largest, the first, the last.

use super::Aggregate;
use crate::schema::Data;

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
