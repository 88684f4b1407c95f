//! A list that is written whole.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::convert::Infallible;

use futures_util::FutureExt;

use super::{Edits, Error, List, Row, Rows};
use crate::schema::plan::RangeOp;

/// The rows of a list of these values, which are those that adding them one after the other leaves.
pub(crate) fn rows_of<'v>(
    prefix: &[u8],
    values: impl Iterator<Item = &'v [u8]>,
) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let memory = Memory::default();
    for value in values {
        let pushed = List::new(&memory, prefix).push(value).now_or_never();
        match pushed.expect("memory does not wait") {
            Ok(()) => {}
            Err(Error::Rows(never)) => match never {},
            Err(Error::Beyond { .. } | Error::Malformed(_)) => {
                unreachable!("the list was made here")
            }
        }
    }
    memory.0.into_inner()
}

/// The rows of a list of so many collections, of which nothing is stored yet: their ids are those below `count`.
pub(crate) fn rows_of_new(prefix: &[u8], count: usize) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let memory = Memory::default();
    for _ in 0..count {
        let pushed = List::new(&memory, prefix).push_new().now_or_never();
        match pushed.expect("memory does not wait") {
            Ok(_) => {}
            Err(Error::Rows(never)) => match never {},
            Err(Error::Beyond { .. } | Error::Malformed(_)) => {
                unreachable!("the list was made here")
            }
        }
    }
    memory.0.into_inner()
}

/// Rows that are not stored yet.
#[derive(Default)]
struct Memory(RefCell<BTreeMap<Vec<u8>, Vec<u8>>>);

impl Rows for Memory {
    type Error = Infallible;

    async fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, Infallible> {
        Ok(self.0.borrow().get(key).cloned())
    }

    async fn scan(&self, range: &RangeOp) -> Result<Vec<Row>, Infallible> {
        let rows = self.0.borrow();
        let to = range.to.as_ref().map_or(&[][..], |to| to.as_slice());
        let rows = rows.range(range.from.to_vec()..).take_while(|(key, _)| key.as_slice() < to);
        let limit = range.limit.and_then(|limit| usize::try_from(limit).ok());
        let rows = rows.map(|(key, value)| (key.clone(), value.clone()));
        Ok(rows.take(limit.unwrap_or(usize::MAX)).collect())
    }
}

impl Edits for Memory {
    fn put(&self, key: &[u8], value: &[u8]) -> Result<(), Infallible> {
        self.0.borrow_mut().insert(key.to_vec(), value.to_vec());
        Ok(())
    }

    fn delete(&self, key: &[u8]) -> Result<(), Infallible> {
        self.0.borrow_mut().remove(key);
        Ok(())
    }

    fn delete_range(&self, from: &[u8], to: &[u8]) -> Result<(), Infallible> {
        self.0.borrow_mut().retain(|key, _| key.as_slice() < from || to <= key.as_slice());
        Ok(())
    }
}
