//! [`Seen`]: the rows of a `PState` in one partition, as one moment left them and in the form that its module
//! declares, whatever was moved of them by then. Everything that clients are told of rows is read here.

use std::ops::{Bound, ControlFlow};

use super::message::When;
use super::partition::Partition;
use crate::codec::{self, FieldTable};
use crate::env::{Env, LocalFuture};
use crate::migrate::{Half, Halves, Move, scan_both};
use crate::module::PStateIndex;
use crate::node::Installed;
use crate::node::numbers::Numbers;
use crate::pstate::{self, Direction, Found, KeyRange, Loaded, View};
use crate::schema::eval::{self, Row, Source};
use crate::schema::plan::RangeOp;
use crate::schema::{Rows, list};
use crate::topology::{Scan, Visit};
use crate::types::PStateId;

/// Rows, and the moment.
pub(super) struct Seen<'a> {
    env: &'a Env,
    partition: &'a Partition,
    view: View<'static>,
    pstate: PStateId,
    migrated: Option<Migrated<'a>>,
}

/// Its migration is under way, or was when the process began.
#[derive(Clone, Copy)]
struct Migrated<'a> {
    moving: &'a Move,
    old: PStateId,
    fields: &'a FieldTable,
}

/// Why rows cannot be given.
#[derive(Debug)]
pub(super) enum Failed {
    Store(pstate::Error),
    /// What is stored in an old form has no new one.
    Undecodable(codec::Error),
    /// The rows of a list contradict each other.
    List(&'static str),
}

impl From<pstate::Error> for Failed {
    fn from(error: pstate::Error) -> Self {
        Self::Store(error)
    }
}

impl<'a> Seen<'a> {
    /// The rows of a `PState` of `module`. Of one moment, if `when` is that of an id; else a single row is.
    /// `numbers` are those of `when` ([`When::numbers`]), which somebody holds meanwhile.
    pub(super) fn new(
        env: &'a Env,
        partition: &'a Partition,
        module: &'a Installed,
        (numbers, pstate): (&Numbers, PStateIndex),
        when: &When,
    ) -> Self {
        let owner = module.definition.pstates[pstate.0 as usize].owner;
        // Also once it is done: at an older moment, what was moved since lies under the old number.
        let is_now = matches!(when, When::Now | When::Begun(..));
        let moving = module.moving(pstate).filter(|moving| !is_now || !moving.is_done());
        let migrated = moving.map(|moving| {
            let old = numbers.pstates[moving.old.0 as usize];
            Migrated { moving, old, fields: &module.fields }
        });
        let (view, pstate) = (when.view(module, owner), numbers.pstates[pstate.0 as usize]);
        Self { env, partition, view, pstate, migrated }
    }

    /// Looks one row up, in both forms if it may be in either: nothing changes between the two looks.
    pub(super) fn get(&self, key: &[u8]) -> Result<Found<Option<Vec<u8>>>, Failed> {
        let to_vec = |value: Option<&[u8]>| value.map(<[u8]>::to_vec);
        let store = &self.partition.store;
        let found = store.get(&self.view, self.pstate, key, to_vec)?;
        let (Found::Ready(None), Some(Migrated { moving, old, fields })) = (&found, self.migrated)
        else {
            return Ok(found);
        };
        let Some(unit) = moving.unit(key) else { return Ok(found) };
        Ok(match store.get(&self.view, old, unit, to_vec)? {
            Found::Ready(Some(stored)) => {
                let made = moving.value(fields, unit, &stored, key);
                Found::Ready(made.map_err(Failed::Undecodable)?)
            }
            other => other,
        })
    }

    /// The same, and waits for what has to be read from disk.
    pub(super) async fn read(&self, key: &[u8]) -> Result<Option<Vec<u8>>, Failed> {
        let mut _held = Loaded::default();
        loop {
            match self.get(key)? {
                Found::Ready(value) => return Ok(value),
                Found::Miss(miss) => _held = self.partition.store.load(miss).await?,
            }
        }
    }

    /// Visits rows of a range in its order.
    pub(super) async fn scan(&self, range: Scan<'_>, visit: &mut Visit<'_>) -> Result<(), Failed> {
        match self.migrated {
            None => self.scan_of(self.pstate, range, visit).await,
            Some(migrated) => scan_both(self, migrated.moving, range, visit).await,
        }
    }

    async fn scan_of(
        &self,
        pstate: PStateId,
        range: Scan<'_>,
        visit: &mut Visit<'_>,
    ) -> Result<(), Failed> {
        if range.to.is_some_and(|to| to <= range.from) {
            return Ok(());
        }
        let keys = KeyRange {
            from: Bound::Included(range.from),
            to: range.to.map_or(Bound::Unbounded, Bound::Excluded),
        };
        let direction = if range.reverse { Direction::Backward } else { Direction::Forward };
        let store = &self.partition.store;
        store.scan(&self.view, pstate, keys, direction, range.limit, visit).await?;
        Ok(())
    }

    /// Rows that are in memory never wait, and a walk can ask for many.
    async fn pause(&self) {
        if self.env.should_yield() {
            self.env.yield_now().await;
        }
    }
}

impl Halves for Seen<'_> {
    type Error = Failed;

    async fn scan(&self, half: Half, range: Scan<'_>, visit: &mut Visit<'_>) -> Result<(), Failed> {
        let pstate = match (half, &self.migrated) {
            (Half::Old, Some(migrated)) => migrated.old,
            (Half::Old, None) => unreachable!("there are two forms only while it is migrated"),
            (Half::New, _) => self.pstate,
        };
        self.scan_of(pstate, range, visit).await
    }

    fn rows(&self, unit: &[u8], old: &[u8]) -> Result<Rows, Failed> {
        let Some(migrated) = &self.migrated else {
            unreachable!("there are two forms only while it is migrated")
        };
        migrated.moving.rows(migrated.fields, unit, old).map_err(Failed::Undecodable)
    }
}

impl Source for Seen<'_> {
    type Error = Failed;

    fn get<'a>(
        &'a self,
        row: Row<'a>,
        visit: &'a mut (dyn FnMut(Option<&[u8]>) + 'a),
    ) -> LocalFuture<'a, Result<(), Failed>> {
        Box::pin(async move {
            self.pause().await;
            if self.migrated.is_none() {
                self.partition.store.read(&self.view, self.pstate, row.key, visit).await?;
            } else {
                visit(self.read(row.key).await?.as_deref());
            }
            Ok(())
        })
    }

    fn scan<'a>(
        &'a self,
        scan: eval::Scan<'a>,
        visit: &'a mut eval::Visit<'a>,
    ) -> LocalFuture<'a, Result<(), Failed>> {
        Box::pin(async move {
            self.pause().await;
            let eval::Scan { from, to, reverse, limit, keys_only } = scan;
            let range = Scan { from: from.key, to, reverse, limit, keys_only };
            self.scan(range, visit).await
        })
    }
}

impl list::Rows for Seen<'_> {
    type Error = Failed;

    async fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, Failed> {
        self.read(key).await
    }

    async fn scan(&self, range: &RangeOp) -> Result<Vec<list::Row>, Failed> {
        self.pause().await;
        let limit = range.limit.and_then(|limit| usize::try_from(limit).ok());
        let scan = Scan {
            from: &range.from,
            to: range.to.as_deref(),
            reverse: range.reverse,
            limit: limit.unwrap_or(usize::MAX),
            keys_only: range.keys_only,
        };
        let mut rows = Vec::new();
        let mut visit = |key: &[u8], value: &[u8]| {
            rows.push((key.to_vec(), value.to_vec()));
            ControlFlow::Continue(())
        };
        self.scan(scan, &mut visit).await?;
        Ok(rows)
    }
}
