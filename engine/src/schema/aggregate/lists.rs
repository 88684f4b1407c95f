//! Lists that are one value.

use super::Aggregate;
use crate::schema::Data;

/// Appends an element to a `Vec<T>` that is one value. Elements from one partition keep their order.
///
/// ```
/// # use tidemill::schema::{Map, Owned, aggregate::ListOf};
/// # fn example<O>(visited: Owned<Map<u64, Vec<String>>, O>) {
/// let _ = visited.key(7).add(ListOf("/tides".to_owned()));
/// # }
/// ```
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

/// Appends an element to a `Vec<T>` that is one value, as long as it has fewer than `N`: keeps the first
/// ones. To keep the highest, see [`TopN`](super::TopN).
///
/// ```
/// # use tidemill::schema::{Map, Owned, aggregate::Limit};
/// # fn example<O>(samples: Owned<Map<u64, Vec<String>>, O>) {
/// let _ = samples.key(7).add(Limit::<20, _>("/tides".to_owned()));
/// # }
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Limit<const N: usize, T>(pub T);

impl<const N: usize, T: Data> Aggregate<Vec<T>> for Limit<N, T> {
    type Partial = Vec<T>;

    fn partial(self) -> Vec<T> {
        const { assert!(N > 0, "a limit of 0 keeps nothing") };
        vec![self.0]
    }

    fn combine(a: &mut Vec<T>, b: Vec<T>) {
        a.extend(b.into_iter().take(N.saturating_sub(a.len())));
    }

    /// A list that is longer already, by [`ListOf`] or under a higher limit before, stays as it is.
    fn apply(partial: Vec<T>, old: Option<Vec<T>>) -> Option<Vec<T>> {
        let mut list = old.unwrap_or_default();
        Self::combine(&mut list, partial);
        Some(list)
    }
}
