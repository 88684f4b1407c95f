//! Parts of one value: what steps reach in it.

use std::fmt;
use std::sync::Arc;

use xxhash_rust::xxh3::xxh3_128;

use super::{Mirror, Replaced, Result, Subscribe, Write};
use crate::codec::{Error, FieldTable, decode};
use crate::schema::ast::{Query, Value};
use crate::schema::eval::within_value;
use crate::schema::{Data, Inside, Reads, Select};

/// The parts of a value that steps reach, in their order; see [`Path::inside`](crate::schema::Path::inside).
#[derive(Clone)]
pub struct Parts<T> {
    query: Arc<Query>,
    found: Vec<T>,
    /// Of the parts' bytes. What else is in the value is no part of it.
    hash: u128,
}

impl<T: fmt::Debug> fmt::Debug for Parts<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.found.fmt(f)
    }
}

impl<T: PartialEq> PartialEq for Parts<T> {
    fn eq(&self, other: &Self) -> bool {
        self.found == other.found
    }
}

impl<T: Eq> Eq for Parts<T> {}

/// Parts to keep and to tell, which differ from those that are held.
#[derive(Debug)]
pub struct Found<T> {
    parts: [Vec<T>; 2],
    hash: u128,
}

impl<T: Data> Parts<T> {
    /// Those of no value.
    fn new(query: Arc<Query>, fields: &FieldTable) -> Result<Self> {
        let values = reach(&query, fields, None)?;
        let found = decoded(fields, &values)?;
        Ok(Self { query, found, hash: hash(&values) })
    }
}

/// The parts of a row's value, or of none.
fn reach(query: &Query, fields: &FieldTable, row: Option<&[u8]>) -> Result<Vec<Value>> {
    within_value(fields, query, row).map_err(|problem| Error::Decode {
        value_type: "a part of a value",
        at: String::new(),
        problem: problem.to_string(),
    })
}

fn decoded<T: Data>(fields: &FieldTable, values: &[Value]) -> Result<Vec<T>> {
    values.iter().map(|value| decode(fields, value.raw().bytes())).collect()
}

/// Each value knows where it ends, so their bytes tell lists of them apart.
fn hash(values: &[Value]) -> u128 {
    let bytes: Vec<u8> = values.iter().flat_map(|it| it.raw().bytes().iter().copied()).collect();
    xxh3_128(&bytes)
}

/// The parts of two values, or of none, if they are not the same.
pub(crate) fn differing<T: Data>(
    fields: &FieldTable,
    query: &Query,
    from: Option<&[u8]>,
    to: Option<&[u8]>,
) -> Result<Option<(Vec<T>, Vec<T>)>> {
    let (from, to) = (reach(query, fields, from)?, reach(query, fields, to)?);
    let bytes = |it: &Value| it.raw().bytes().to_vec();
    if from.iter().map(bytes).eq(to.iter().map(bytes)) {
        return Ok(None);
    }
    Ok(Some((decoded(fields, &from)?, decoded(fields, &to)?)))
}

impl<T: Data> Mirror for Parts<T> {
    type Value = [T];
    type Diff = Replaced<Vec<T>>;
    type Read<'a> = Option<Found<T>>;

    fn cleared(&self, fields: &FieldTable) -> Result<Self> {
        Self::new(Arc::clone(&self.query), fields)
    }

    fn value(&self) -> &[T] {
        &self.found
    }

    fn read<'a>(&self, fields: &FieldTable, writes: &[Write<'a>]) -> Result<Self::Read<'a>> {
        let row = match writes.last() {
            None => return Ok(None),
            Some(Write::Put(_, value)) => Some(*value),
            Some(Write::Gone(_) | Write::GoneRange(..)) => None,
        };
        let values = reach(&self.query, fields, row)?;
        let hash = hash(&values);
        if hash == self.hash {
            return Ok(None);
        }
        let parts = [decoded(fields, &values)?, decoded(fields, &values)?];
        Ok(Some(Found { parts, hash }))
    }

    fn take(&mut self, read: Self::Read<'_>) -> Vec<Self::Diff> {
        let Some(Found { parts: [kept, value], hash }) = read else { return Vec::new() };
        self.hash = hash;
        let old = std::mem::replace(&mut self.found, kept);
        vec![Replaced { value, old }]
    }
}

impl<V: Data, T: Data, O> Subscribe for Inside<V, T, O> {
    type Mirror = Parts<T>;

    fn mirror(&self, fields: &FieldTable) -> Result<Parts<T>> {
        Parts::new(Arc::new(self.query(fields)?), fields)
    }

    fn watched(self) -> Result<Reads> {
        self.into_path().reads()
    }
}
