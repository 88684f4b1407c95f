//! The rows of a `PState` in one partition, in the form that the module declares.

use std::ops::ControlFlow;

use super::{Harness, Partition, State, block_on, visit_range};
use crate::codec::{self, FieldTable};
use crate::migrate::{Half, Halves, Move, scan_both};
use crate::module::PStateIndex;
use crate::schema::list;
use crate::schema::plan::RangeOp;
use crate::schema::{Rows, list::Row};
use crate::topology::{Scan, Visit};

/// Rows, of which some may be stored in an old form.
pub(super) struct Seen<'h> {
    state: &'h State,
    pstate: PStateIndex,
    fields: &'h FieldTable,
    moving: Option<&'h Move>,
}

impl Harness {
    pub(super) fn seen<'h>(&'h self, partition: &'h Partition, pstate: PStateIndex) -> Seen<'h> {
        let moving = self.moves.iter().find(|it| it.pstate == pstate && !it.is_done());
        let (state, fields) = (&partition.state, &self.fields);
        Seen { state, pstate, fields, moving: moving.map(|it| &**it) }
    }
}

impl Seen<'_> {
    /// What is at a key.
    pub(super) fn get(&self, key: &[u8]) -> codec::Result<Option<Vec<u8>>> {
        let found = self.state.get(&(self.pstate, key.to_vec())).cloned();
        let (None, Some(moving)) = (&found, self.moving) else { return Ok(found) };
        let Some(unit) = moving.unit(key) else { return Ok(None) };
        match self.state.get(&(moving.old, unit.to_vec())) {
            Some(old) => moving.value(self.fields, unit, old, key),
            None => Ok(None),
        }
    }

    /// Visits rows of a range in its order.
    pub(super) fn scan(&self, range: Scan<'_>, visit: &mut Visit<'_>) -> codec::Result<()> {
        match self.moving {
            None => visit_range(self.state, self.pstate, range, visit),
            Some(moving) => block_on(scan_both(self, moving, range, visit))?,
        }
        Ok(())
    }
}

impl Halves for Seen<'_> {
    type Error = codec::Error;

    async fn scan(&self, half: Half, range: Scan<'_>, visit: &mut Visit<'_>) -> codec::Result<()> {
        let pstate = match (half, self.moving) {
            (Half::Old, Some(moving)) => moving.old,
            (Half::Old, None) => unreachable!("there are two forms only while it is migrated"),
            (Half::New, _) => self.pstate,
        };
        visit_range(self.state, pstate, range, visit);
        Ok(())
    }

    fn rows(&self, unit: &[u8], old: &[u8]) -> codec::Result<Rows> {
        let Some(moving) = self.moving else {
            unreachable!("there are two forms only while it is migrated")
        };
        moving.rows(self.fields, unit, old)
    }
}

impl list::Rows for Seen<'_> {
    type Error = codec::Error;

    async fn get(&self, key: &[u8]) -> codec::Result<Option<Vec<u8>>> {
        self.get(key)
    }

    async fn scan(&self, range: &RangeOp) -> codec::Result<Vec<Row>> {
        let mut rows = Vec::new();
        self.scan(scan_of(range), &mut |key, value| {
            rows.push((key.to_vec(), value.to_vec()));
            ControlFlow::Continue(())
        })?;
        Ok(rows)
    }
}

/// A range as reads ask for it.
pub(super) fn scan_of(range: &RangeOp) -> Scan<'_> {
    let limit = range.limit.and_then(|limit| usize::try_from(limit).ok());
    Scan {
        from: &range.from,
        to: range.to.as_deref(),
        reverse: range.reverse,
        limit: limit.unwrap_or(usize::MAX),
        keys_only: range.keys_only,
    }
}
