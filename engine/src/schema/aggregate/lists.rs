//! Lists that are one value.

use super::Aggregate;
use crate::schema::Data;

/// Appends an element to a `Vec<T>` that is one value.
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
