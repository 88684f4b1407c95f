//! [`Migrated`]: a partition as events see it while migrations are under way: [`Local`], over another one.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::{Half, Halves, Move, find, scan_both};
use crate::codec::{self, FieldTable};
use crate::env::LocalFuture;
use crate::module::{DepotIndex, PStateIndex};
use crate::probe::{Plant, planted};
use crate::schema::{Described, Layout, Rows};
use crate::topology::{
    Access, Done, EventFailure, Local, Node, Rows as EventRows, Scan, StateError, Visit,
};
use crate::types::{PartitionId, WallTime};

/// One event's access to its partition. [`Migrated::settle`] comes last.
pub(super) struct Migrated<'l> {
    inner: &'l dyn Local,
    moves: Vec<&'l Move>,
    /// Units that must be moved and whose old form has to be read first, by their `PState`, and what was
    /// written inside of them meanwhile.
    waiting: RefCell<BTreeMap<Unit, Vec<Write>>>,
    /// Bytes of those writes.
    waiting_bytes: Cell<usize>,
    /// Units of which the event knows that nothing of them is in the old form: it looks there once for each.
    moved: RefCell<BTreeSet<Unit>>,
}

/// A unit's key, and the `PState` that it is of.
type Unit = (PStateIndex, Vec<u8>);

/// How to look up what lies under a number.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Ask {
    /// [`Local::get`].
    Now,
    /// [`Local::get_below`].
    Below,
}

/// A write inside a unit.
enum Write {
    Put(Vec<u8>, Vec<u8>),
    Delete(Vec<u8>),
    DeleteRange(Vec<u8>, Option<Vec<u8>>),
}

impl Write {
    fn bytes(&self) -> usize {
        match self {
            Self::Put(key, value) => key.len() + value.len(),
            Self::Delete(key) => key.len(),
            Self::DeleteRange(from, to) => from.len() + to.as_ref().map_or(0, Vec::len),
        }
    }

    /// Whether it says what is at a key.
    fn touches(&self, key: &[u8]) -> bool {
        match self {
            Self::Put(at, _) | Self::Delete(at) => at == key,
            Self::DeleteRange(from, to) => {
                **from <= *key && to.as_ref().is_none_or(|to| *key < **to)
            }
        }
    }

    /// What it leaves where it touches.
    fn value(&self) -> Option<&[u8]> {
        match self {
            Self::Put(_, value) => Some(value),
            Self::Delete(_) | Self::DeleteRange(..) => None,
        }
    }

    fn make(&self, local: &dyn Local, pstate: PStateIndex) -> Result<(), StateError> {
        match self {
            Self::Put(key, value) => local.put(pstate, key, value),
            Self::Delete(key) => local.delete(pstate, key),
            Self::DeleteRange(from, to) => local.delete_range(pstate, from, to.as_deref()),
        }
    }
}

impl<'l> Migrated<'l> {
    /// What events see of `inner`, while these are under way; none if none of them is any more.
    fn over(inner: &'l dyn Local, moves: &'l [Arc<Move>]) -> Option<Self> {
        let moves: Vec<&Move> = moves.iter().map(|it| &**it).filter(|it| !it.is_done()).collect();
        (!moves.is_empty()).then(|| Self {
            inner,
            moves,
            waiting: RefCell::default(),
            waiting_bytes: Cell::new(0),
            moved: RefCell::default(),
        })
    }

    /// Ends the event: every unit that it has written into is where it was written.
    ///
    /// # Errors
    /// As [`Local::get`] and [`Local::put`].
    async fn settle(&self) -> Result<(), StateError> {
        for moving in &self.moves {
            self.settle_one(moving).await?;
        }
        Ok(())
    }

    async fn settle_one(&self, moving: &Move) -> Result<(), StateError> {
        loop {
            let all = (moving.pstate, Vec::new())..(PStateIndex(moving.pstate.0 + 1), Vec::new());
            let next = self.waiting.borrow().range(all).next().map(|((_, unit), _)| unit.clone());
            match next {
                Some(unit) => self.settle_unit(moving, &unit).await?,
                None => return Ok(()),
            }
        }
    }

    /// Moves a unit that waits for that, and makes the writes that wait for it.
    async fn settle_unit(&self, moving: &Move, unit: &[u8]) -> Result<(), StateError> {
        while let Some(fetched) = self.move_unit(moving, unit)? {
            fetched.await?;
        }
        let writes = self.waiting.borrow_mut().remove(&(moving.pstate, unit.to_vec()));
        self.no_longer_waiting(writes.as_deref().unwrap_or_default());
        writes.into_iter().flatten().try_for_each(|write| write.make(self.inner, moving.pstate))
    }

    /// Moves a unit, if it is still in the old form. Or says what must be read first.
    fn move_unit(
        &self,
        moving: &Move,
        unit: &[u8],
    ) -> Result<Option<LocalFuture<'_, Result<(), StateError>>>, StateError> {
        if self.is_moved(moving, unit) {
            return Ok(None);
        }
        let mut old = None;
        let mut copy = |value: Option<&[u8]>| old = value.map(<[u8]>::to_vec);
        if let Access::Miss(fetched) = self.inner.get(moving.old, unit, &mut copy)? {
            return Ok(Some(fetched));
        }
        if let Some(old) = old {
            put_moved(self.inner, moving, unit, &old)?;
        } else if moving.sizes.is_some() {
            // From here on the attempt knows by itself that nothing is there. What keeps sizes counts on that: a
            // look-up that has to wait would mean to it that the attempt wrote nothing there.
            self.inner.delete(moving.old, unit)?;
        }
        self.note_moved(moving, unit);
        Ok(None)
    }

    fn note_moved(&self, moving: &Move, unit: &[u8]) {
        self.moved.borrow_mut().insert((moving.pstate, unit.to_vec()));
    }

    fn is_moved(&self, moving: &Move, unit: &[u8]) -> bool {
        self.moved.borrow().contains(&(moving.pstate, unit.to_vec()))
    }

    /// Writes inside a unit, which is moved before.
    fn write_inside(&self, moving: &Move, unit: &[u8], write: Write) -> Result<(), StateError> {
        let place = (moving.pstate, unit.to_vec());
        let is_waiting = self.waiting.borrow().contains_key(&place);
        if !is_waiting && self.move_unit(moving, unit)?.is_none() {
            return write.make(self.inner, moving.pstate);
        }
        self.waiting_bytes.set(self.waiting_bytes.get() + write.bytes());
        self.waiting.borrow_mut().entry(place).or_default().push(write);
        // They take memory until the event ends, as rows that it sends do.
        self.inner.emitted(self.waiting_bytes.get())
    }

    fn no_longer_waiting(&self, writes: &[Write]) {
        let bytes: usize = writes.iter().map(Write::bytes).sum();
        self.waiting_bytes.set(self.waiting_bytes.get() - bytes);
    }

    /// Looks up what is at a key in the new form, by one of the two ways to look up.
    fn look<'a>(
        &'a self,
        moving: &Move,
        unit: &[u8],
        key: &[u8],
        visit: &mut dyn FnMut(Option<&[u8]>),
        ask: Ask,
    ) -> Result<Access<'a>, StateError> {
        let mut is_there = false;
        let mut new = |value: Option<&[u8]>| {
            if value.is_some() {
                is_there = true;
                visit(value);
            }
        };
        if let miss @ Access::Miss(_) = self.ask(ask, moving.pstate, key, &mut new)? {
            return Ok(miss);
        }
        if is_there {
            return Ok(Access::Ready);
        }
        if ask == Ask::Now && self.is_moved(moving, unit) {
            visit(None);
            return Ok(Access::Ready);
        }
        let (mut made, mut is_old) = (Ok(None), false);
        let mut old = |value: Option<&[u8]>| {
            is_old = value.is_some();
            made = value.map(|old| moving.rows(self.fields(), unit, old)).transpose();
        };
        if let miss @ Access::Miss(_) = self.ask(ask, moving.old, unit, &mut old)? {
            return Ok(miss);
        }
        if ask == Ask::Now && !is_old {
            self.note_moved(moving, unit);
        }
        let made = made.map_err(|error| undecodable(self.inner, moving, error))?;
        visit(made.as_ref().and_then(|rows| find(rows, key)));
        Ok(Access::Ready)
    }

    fn ask<'a>(
        &'a self,
        ask: Ask,
        pstate: PStateIndex,
        key: &[u8],
        visit: &mut dyn FnMut(Option<&[u8]>),
    ) -> Result<Access<'a>, StateError> {
        match ask {
            Ask::Now => self.inner.get(pstate, key, visit),
            Ask::Below => self.inner.get_below(pstate, key, visit),
        }
    }

    fn moving(&self, pstate: PStateIndex) -> Option<&'l Move> {
        self.moves.iter().find(|it| it.pstate == pstate).copied()
    }
}

/// Runs an event over a partition, which it sees through these migrations.
pub(crate) async fn run_event(
    node: &Node,
    (local, moves): (&dyn Local, &[Arc<Move>]),
    rows: EventRows,
) -> Result<Done, EventFailure> {
    let Some(migrated) = Migrated::over(local, moves) else {
        return node.event.run(local, rows).await;
    };
    let done = node.event.run(&migrated, rows).await?;
    let settled = migrated.settle().await;
    settled.map_err(|error| EventFailure::of_surroundings(&node.name, local.partition(), error))?;
    Ok(done)
}

/// Moves a unit whose old form is known.
///
/// # Errors
/// As [`Local::put`]; [`StateError::Undecodable`] if there is no new form of it. Then nothing was written.
fn put_moved(local: &dyn Local, moving: &Move, unit: &[u8], old: &[u8]) -> Result<(), StateError> {
    let rows = moving.rows(local.fields(), unit, old);
    put_rows(local, moving, unit, rows.map_err(|error| undecodable(local, moving, error))?)
}

/// Moves a unit of which these are the rows in the new form.
///
/// # Errors
/// As [`Local::put`].
pub(super) fn put_rows(
    local: &dyn Local,
    moving: &Move,
    unit: &[u8],
    mut rows: Rows,
) -> Result<(), StateError> {
    if planted(Plant::MigrationStepTwice) {
        let again = rows.iter().next().map(|(_, made)| moving.rows(local.fields(), unit, made));
        rows = again.and_then(Result::ok).unwrap_or(rows);
    }
    for (key, value) in rows.iter() {
        local.put(moving.pstate, key, value)?;
    }
    local.delete(moving.old, unit)
}

#[cold]
fn undecodable(local: &dyn Local, moving: &Move, source: codec::Error) -> StateError {
    StateError::Undecodable { pstate: moving.pstate, partition: local.partition(), source }
}

/// Both forms, as an event sees them.
struct Seen<'l> {
    local: &'l dyn Local,
    moving: &'l Move,
}

impl Halves for Seen<'_> {
    type Error = StateError;

    async fn scan(
        &self,
        half: Half,
        range: Scan<'_>,
        visit: &mut Visit<'_>,
    ) -> Result<(), StateError> {
        let pstate = match half {
            Half::Old => self.moving.old,
            Half::New => self.moving.pstate,
        };
        self.local.scan(pstate, range, visit).await
    }

    fn rows(&self, unit: &[u8], old: &[u8]) -> Result<Rows, StateError> {
        let rows = self.moving.rows(self.local.fields(), unit, old);
        rows.map_err(|error| undecodable(self.local, self.moving, error))
    }
}

impl Local for Migrated<'_> {
    fn partition(&self) -> PartitionId {
        self.inner.partition()
    }

    fn partitions(&self) -> u32 {
        self.inner.partitions()
    }

    fn now(&self) -> WallTime {
        self.inner.now()
    }

    fn seed(&self) -> u64 {
        self.inner.seed()
    }

    fn is_recompute(&self) -> bool {
        self.inner.is_recompute()
    }

    fn fields(&self) -> &FieldTable {
        self.inner.fields()
    }

    fn get<'a>(
        &'a self,
        pstate: PStateIndex,
        key: &[u8],
        visit: &mut dyn FnMut(Option<&[u8]>),
    ) -> Result<Access<'a>, StateError> {
        let moving = self.moving(pstate).and_then(|it| Some((it, it.unit(key)?)));
        let Some((moving, unit)) = moving else { return self.inner.get(pstate, key, visit) };
        if let Some(writes) = self.waiting.borrow().get(&(pstate, unit.to_vec())) {
            // What this event wrote there it knows, as it does of any other row.
            if let Some(last) = writes.iter().rev().find(|write| write.touches(key)) {
                visit(last.value());
                return Ok(Access::Ready);
            }
            let unit = unit.to_vec();
            return Ok(Access::Miss(Box::pin(
                async move { self.settle_unit(moving, &unit).await },
            )));
        }
        self.look(moving, unit, key, visit, Ask::Now)
    }

    fn get_below<'a>(
        &'a self,
        pstate: PStateIndex,
        key: &[u8],
        visit: &mut dyn FnMut(Option<&[u8]>),
    ) -> Result<Access<'a>, StateError> {
        let moving = self.moving(pstate).and_then(|it| Some((it, it.unit(key)?)));
        match moving {
            Some((moving, unit)) => self.look(moving, unit, key, visit, Ask::Below),
            None => self.inner.get_below(pstate, key, visit),
        }
    }

    fn described(&self, pstate: PStateIndex) -> Described<'_> {
        self.inner.described(pstate)
    }

    fn sizes(&self, pstate: PStateIndex) -> Option<&Layout> {
        self.inner.sizes(pstate)
    }

    fn scan<'a>(
        &'a self,
        pstate: PStateIndex,
        range: Scan<'a>,
        visit: &'a mut Visit<'a>,
    ) -> LocalFuture<'a, Result<(), StateError>> {
        let Some(moving) = self.moving(pstate) else {
            return self.inner.scan(pstate, range, visit);
        };
        Box::pin(async move {
            self.settle_one(moving).await?;
            scan_both(&Seen { local: self.inner, moving }, moving, range, visit).await
        })
    }

    fn put(&self, pstate: PStateIndex, key: &[u8], value: &[u8]) -> Result<(), StateError> {
        let Some(moving) = self.moving(pstate) else { return self.inner.put(pstate, key, value) };
        match moving.unit(key) {
            Some(unit) if !moving.is_row(unit) => {
                self.write_inside(moving, unit, Write::Put(key.to_vec(), value.to_vec()))
            }
            Some(unit) => {
                self.inner.put(pstate, key, value)?;
                if planted(Plant::MigrationSizeLeft) && moving.is_head(unit) {
                    return Ok(());
                }
                self.inner.delete(moving.old, unit)
            }
            None => self.inner.put(pstate, key, value),
        }
    }

    fn delete(&self, pstate: PStateIndex, key: &[u8]) -> Result<(), StateError> {
        let Some(moving) = self.moving(pstate) else { return self.inner.delete(pstate, key) };
        match moving.unit(key) {
            Some(unit) if !moving.is_row(unit) => {
                self.write_inside(moving, unit, Write::Delete(key.to_vec()))
            }
            Some(unit) => {
                self.inner.delete(pstate, key)?;
                self.inner.delete(moving.old, unit)
            }
            None => self.inner.delete(pstate, key),
        }
    }

    fn delete_range(
        &self,
        pstate: PStateIndex,
        from: &[u8],
        to: Option<&[u8]>,
    ) -> Result<(), StateError> {
        let Some(moving) = self.moving(pstate) else {
            return self.inner.delete_range(pstate, from, to);
        };
        // Of what the range begins or ends inside of, the rest stays.
        let last = to.and_then(|to| moving.cut(to));
        let first = moving.cut(from).filter(|first| Some(*first) != last);
        for unit in first.into_iter().chain(last) {
            let end = moving.end_of(unit);
            let from = from.max(unit).to_vec();
            let to = to.map(<[u8]>::to_vec).into_iter().chain(end).min();
            self.write_inside(moving, unit, Write::DeleteRange(from, to))?;
        }
        self.inner.delete_range(pstate, from, to)?;
        let to = last.or(to);
        if to.is_some_and(|to| to <= from) {
            return Ok(());
        }
        self.inner.delete_range(moving.old, from, to)?;
        let whole = |unit: &[u8]| from <= unit && to.is_none_or(|to| unit < to);
        self.waiting.borrow_mut().retain(|(other, unit), writes| {
            let stays = *other != pstate || !whole(unit);
            if !stays {
                self.no_longer_waiting(writes);
            }
            stays
        });
        Ok(())
    }

    fn emitted(&self, bytes: usize) -> Result<(), StateError> {
        self.inner.emitted(bytes)
    }

    fn prefetch<'a>(
        &'a self,
        pstate: PStateIndex,
        keys: &'a [&'a [u8]],
    ) -> LocalFuture<'a, Result<(), StateError>> {
        let Some(moving) = self.moving(pstate) else { return self.inner.prefetch(pstate, keys) };
        Box::pin(async move {
            self.inner.prefetch(pstate, keys).await?;
            let mut units: Vec<_> = keys.iter().filter_map(|key| moving.unit(key)).collect();
            units.sort_unstable();
            units.dedup();
            self.inner.prefetch(moving.old, &units).await
        })
    }

    fn pause(&self) -> Option<LocalFuture<'_, ()>> {
        self.inner.pause()
    }

    fn append(&self, depot: DepotIndex, record: &[u8]) -> Result<(), StateError> {
        self.inner.append(depot, record)
    }
}
