//! Lists.

use super::{Adds, Aggregate, ChangeOps, How};
use crate::codec::{Error, FieldTable, KEY_BYTES_MAX, Result, encode};
use crate::schema::plan::Target;
use crate::schema::{Data, List, Sub, list};

/// Appends an element to a list: to a `Sub<List<T>>`, of which only the head is read, however long it is, or
/// to a `Vec<T>` that is one value. Elements from one partition keep their order.
///
/// ```
/// # use tidemill::schema::{List, Map, Owned, Sub, aggregate::ListOf};
/// # fn example<O>(visited: Owned<Map<u64, Sub<List<String>>>, O>) {
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

/// One read of the head and one write of it for all that is combined, and a row for each element.
impl<T: Data> Adds<Sub<List<T>>> for ListOf<T> {
    type Sent = Vec<T>;

    const OPS: &'static ChangeOps<Vec<T>> = &ChangeOps {
        combine: |a, mut b| a.append(&mut b),
        must_flush: None,
        how: How::Append { items: encoded::<T> },
    };

    fn sent(self, target: &mut Result<Target>) -> Vec<T> {
        if let Ok(there) = target {
            let bytes = there.key.len() + list::KEY_BYTES;
            if bytes > KEY_BYTES_MAX {
                let element_type = std::any::type_name::<T>();
                *target = Err(Error::ElementTooLong { element_type, bytes });
            } else {
                there.key = list::head_key(&there.key);
            }
        }
        vec![self.0]
    }
}

fn encoded<T: Data>(table: &FieldTable, items: Vec<T>) -> Result<Vec<Vec<u8>>> {
    let encoded = |item: T| {
        let mut out = Vec::new();
        encode(table, &item, &mut out)?;
        Ok(out)
    };
    items.into_iter().map(encoded).collect()
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
