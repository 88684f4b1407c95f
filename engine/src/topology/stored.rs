//! A partition's store, as one attempt of one microbatch sees it: what every [`Local`](super::Local) over a
//! store does.
//!
//! Reads see the attempt's own writes, over what lower ids of its topology left, over what is visible. A write
//! while a scan runs is refused, since what the scan would see next is undefined.

use std::cell::{Cell, RefCell};
use std::error::Error as StdError;
use std::ops::Bound;

use super::{Access, Scan, StateError, Visit};
use crate::env::LocalFuture;
use crate::pstate::{Direction, Found, KeyRange, Loaded, Store, View, WriteSet};
use crate::types::{MicrobatchId, PStateId, PartitionId, TopologyId};

/// See the module.
pub(crate) struct Stored<'s> {
    pub(crate) store: &'s Store,
    pub(crate) partition: PartitionId,
    /// Whose microbatch it is, and which.
    topology: TopologyId,
    id: MicrobatchId,
    writes: &'s RefCell<WriteSet>,
    /// Pages that the last miss brought; they stay until the read was repeated.
    loaded: RefCell<Vec<Loaded>>,
    /// Whether there are any.
    has_loaded: Cell<bool>,
}

impl<'s> Stored<'s> {
    pub(crate) fn new(
        store: &'s Store,
        partition: PartitionId,
        (topology, id): (TopologyId, MicrobatchId),
        writes: &'s RefCell<WriteSet>,
    ) -> Self {
        Self {
            store,
            partition,
            topology,
            id,
            writes,
            loaded: RefCell::default(),
            has_loaded: Cell::new(false),
        }
    }

    fn view<'w>(&self, writes: Option<&'w WriteSet>) -> View<'w> {
        View::through(self.topology, MicrobatchId(self.id.0 - 1), writes)
    }

    pub(crate) fn unavailable(
        &self,
        op: &'static str,
        source: impl Into<Box<dyn StdError + Send + Sync>>,
    ) -> StateError {
        StateError::Unavailable { op, partition: self.partition, source: source.into() }
    }

    /// As [`Local::get`](super::Local::get); calls `missed` if something has to be read first.
    pub(crate) fn get<'a>(
        &'a self,
        pstate: PStateId,
        key: &[u8],
        visit: &mut dyn FnMut(Option<&[u8]>),
        missed: impl FnOnce(),
    ) -> Result<Access<'a>, StateError> {
        let writes = self.writes.borrow();
        self.get_in(&self.view(Some(&writes)), pstate, key, visit, missed)
    }

    /// As [`Local::get_below`](super::Local::get_below).
    pub(crate) fn get_below<'a>(
        &'a self,
        pstate: PStateId,
        key: &[u8],
        visit: &mut dyn FnMut(Option<&[u8]>),
        missed: impl FnOnce(),
    ) -> Result<Access<'a>, StateError> {
        self.get_in(&self.view(None), pstate, key, visit, missed)
    }

    #[inline]
    fn get_in<'a>(
        &'a self,
        view: &View<'_>,
        pstate: PStateId,
        key: &[u8],
        visit: &mut dyn FnMut(Option<&[u8]>),
        missed: impl FnOnce(),
    ) -> Result<Access<'a>, StateError> {
        let found = self.store.get(view, pstate, key, visit);
        match found.map_err(|error| self.unavailable("read", error))? {
            Found::Ready(()) => {
                if self.has_loaded.replace(false) {
                    self.loaded.borrow_mut().clear();
                }
                Ok(Access::Ready)
            }
            Found::Miss(miss) => {
                missed();
                Ok(Access::Miss(Box::pin(async move {
                    let loaded = self.store.load(miss).await;
                    let loaded = loaded.map_err(|error| self.unavailable("read", error))?;
                    self.loaded.borrow_mut().push(loaded);
                    self.has_loaded.set(true);
                    Ok(())
                })))
            }
        }
    }

    /// As [`Local::scan`](super::Local::scan).
    #[allow(
        clippy::await_holding_refcell_ref,
        reason = "`write` refuses while a scan runs, and nobody else borrows mutably"
    )]
    pub(crate) fn scan<'a>(
        &'a self,
        pstate: PStateId,
        range: Scan<'a>,
        visit: &'a mut Visit<'a>,
    ) -> LocalFuture<'a, Result<(), StateError>> {
        Box::pin(async move {
            let writes = self.writes.borrow();
            let keys = KeyRange {
                from: Bound::Included(range.from),
                to: range.to.map_or(Bound::Unbounded, Bound::Excluded),
            };
            let direction = if range.reverse { Direction::Backward } else { Direction::Forward };
            let view = self.view(Some(&writes));
            let scanned = self.store.scan(&view, pstate, keys, direction, range.limit, visit).await;
            scanned.map(|_| ()).map_err(|error| self.unavailable("scan", error))
        })
    }

    /// Makes a write, and says how many bytes all of them take.
    pub(crate) fn write(
        &self,
        op: &'static str,
        write: impl FnOnce(&mut WriteSet),
    ) -> Result<u64, StateError> {
        let Ok(mut writes) = self.writes.try_borrow_mut() else {
            return Err(self.unavailable(op, "the event is scanning; write after the scan"));
        };
        write(&mut writes);
        Ok(writes.bytes())
    }
}
