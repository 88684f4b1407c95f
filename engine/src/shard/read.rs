//! Reads of clients: at once when everything is in memory, else in a task of their own.

use std::ops::{Bound, ControlFlow};
use std::rc::Rc;
use std::sync::Arc;

use super::Shard;
use super::message::{
    DepotSlice, ReadAnswer, ReadDepotRequest, ReadOperation, ReadRequest, When, answer,
};
use super::partition::Partition;
use crate::codec::{self, FieldTable, KeyBuf};
use crate::depot::{self, Limits, Upto};
use crate::env::Class;
use crate::error::{Error, Result, chain};
use crate::migrate::{Half, Halves, Move, scan_both};
use crate::node::pins::Pin;
use crate::pstate::{self, Direction, Found, KeyRange, Loaded, View};
use crate::schema::{ReadOp, Rows};
use crate::topology::{Scan, Visit};
use crate::types::PStateId;

/// Bytes of records that one read of a depot returns at most, beside a first one that is larger.
const DEPOT_READ_BYTES_MAX: usize = 1 << 20;

/// So often a read begins again whose moment could not be kept until it was done.
pub(crate) const TRIES_MAX: u32 = 8;

impl Shard {
    pub(super) fn read(self: &Rc<Self>, request: ReadRequest) {
        let partition = match self.partition(request.partition) {
            Ok(partition) => Rc::clone(partition),
            Err(error) => return answer(request.reply, Err(error)),
        };
        self.counters.borrow_mut().reads += request.operations.len() as u64;
        match read_at_once(&partition, &request) {
            Ok(Some(answers)) => answer(request.reply, Ok(answers)),
            Err(error) => answer(request.reply, Err(self.select_failed(&error))),
            Ok(None) => {
                let shard = Rc::clone(self);
                self.env.spawn(Class::Client, "read", async move {
                    let result = shard.read_later(&partition, &request).await;
                    answer(request.reply, result.map_err(|error| shard.select_failed(&error)));
                });
            }
        }
    }

    /// A read that has to wait. If it consists of several steps, all of them are of one moment.
    async fn read_later(
        &self,
        partition: &Partition,
        request: &ReadRequest,
    ) -> Result<Vec<ReadAnswer>, Failed> {
        let one_row = matches!(
            &*request.operations,
            [ReadOperation { op: ReadOp::Get { .. } | ReadOp::Has { .. }, .. }]
        );
        if one_row || !matches!(request.when, When::Now) {
            return read_all(partition, request, &request.when).await;
        }
        for tries in 1.. {
            let when = When::Pinned(Arc::new(Pin::visible(&self.setup, &request.module)));
            match read_all(partition, request, &when).await {
                Err(Failed::Read(pstate::Error::Expired { .. })) if tries < TRIES_MAX => {}
                done => return done,
            }
        }
        unreachable!("the last try returns")
    }

    pub(super) fn read_depot(self: &Rc<Self>, request: ReadDepotRequest) {
        let shard = Rc::clone(self);
        self.env.spawn(Class::Client, "read depot", async move {
            let ReadDepotRequest { depot, partition, from, records_max, reply } = request;
            let result = async {
                let partition = Rc::clone(shard.partition(partition)?);
                let opened = partition.depot(depot).await;
                let depot = opened.map_err(|error| shard.stopped_by(&error))?;
                let limits = Limits {
                    records: records_max,
                    bytes: DEPOT_READ_BYTES_MAX,
                    upto: Upto::Durable,
                };
                let records = depot.log.read(from, limits).await.map_err(|error| match error {
                    depot::Error::Trimmed { .. } => Error::Trimmed { what: error.to_string() },
                    depot::Error::Corrupt { .. } => Error::Corrupt { what: chain(&error) },
                    _ => shard.stopped_by(&error),
                })?;
                let (first, end) = (depot.log.first(), depot.log.durable_end());
                Ok(DepotSlice { records, first, end })
            };
            answer(reply, result.await);
        });
    }

    fn select_failed(&self, failed: &Failed) -> Error {
        match failed {
            Failed::Read(error) => self.read_failed(error),
            Failed::Undecodable(error) => Error::Decode { what: chain(error) },
        }
    }

    /// Damage concerns whoever reads it; a device that refuses concerns everybody.
    pub(super) fn read_failed(&self, error: &pstate::Error) -> Error {
        match error {
            pstate::Error::Corrupt { .. } => Error::Corrupt { what: chain(error) },
            pstate::Error::Expired { wanted, oldest, .. } => {
                Error::SnapshotExpired { wanted: *wanted, oldest: *oldest }
            }
            _ => self.stopped_by(error),
        }
    }

    pub(super) fn stopped_by(&self, error: &(dyn std::error::Error + 'static)) -> Error {
        self.fail(error);
        Error::ShardStopped { shard: self.env.shard(), cause: chain(error) }
    }
}

/// Why a read of a client has failed.
enum Failed {
    Read(pstate::Error),
    /// What is stored in an old form has no new one.
    Undecodable(codec::Error),
}

impl From<pstate::Error> for Failed {
    fn from(error: pstate::Error) -> Self {
        Self::Read(error)
    }
}

impl ReadRequest {
    /// The migration under way of what an operation reads, as far as it concerns the moment that is read: at
    /// older ones, what was moved since lies under the old number.
    fn moving(&self, operation: &ReadOperation, when: &When) -> Option<(&Move, PStateId)> {
        let moving = self.module.moving(operation.pstate)?;
        let is_now = matches!(when, When::Now);
        let old = self.module.pstates[moving.old.0 as usize];
        (!is_now || !moving.is_done()).then_some((moving, old))
    }

    fn view(&self, owner: usize, when: &When) -> View<'static> {
        let topology = self.module.topologies[owner];
        match when {
            // What is visible anywhere was applied everywhere, so it is here, be it shown here or not.
            When::Now => View::through(topology, self.module.visible_at(owner), None),
            When::Pinned(pin) => {
                let (pinned, id) = pin.ids()[owner];
                assert_eq!(pinned, topology, "a pin is of one module");
                View::at(topology, id)
            }
            When::AsOf(id) => View::at(topology, *id),
        }
    }
}

/// `None` if a page is missing, or if a scan would have to wait. Nothing changes meanwhile, so that all of it
/// is of one moment.
fn read_at_once(
    partition: &Partition,
    request: &ReadRequest,
) -> Result<Option<Vec<ReadAnswer>>, Failed> {
    let mut answers = Vec::with_capacity(request.operations.len());
    for operation in &request.operations {
        let (ReadOp::Get { key } | ReadOp::Has { key }) = &operation.op else { return Ok(None) };
        match get(partition, request, operation, key.as_slice(), &request.when)? {
            Found::Ready(value) => answers.push(ReadAnswer::Value(value)),
            Found::Miss(_) => return Ok(None),
        }
    }
    Ok(Some(answers))
}

/// Looks one key up, in both forms if it may be in either: nothing changes between the two looks.
fn get(
    partition: &Partition,
    request: &ReadRequest,
    operation: &ReadOperation,
    key: &[u8],
    when: &When,
) -> Result<Found<Option<Vec<u8>>>, Failed> {
    let to_vec = |value: Option<&[u8]>| value.map(<[u8]>::to_vec);
    let view = request.view(operation.owner, when);
    let found = partition.store.get(&view, operation.pstate, key, to_vec)?;
    let (Found::Ready(None), Some((moving, old))) = (&found, request.moving(operation, when))
    else {
        return Ok(found);
    };
    let Some(unit) = moving.unit(key) else { return Ok(found) };
    Ok(match partition.store.get(&view, old, unit, to_vec)? {
        Found::Ready(Some(stored)) => {
            let made = moving.value(&request.module.fields, unit, &stored, key);
            Found::Ready(made.map_err(Failed::Undecodable)?)
        }
        other => other,
    })
}

/// Both forms of what an operation reads.
struct Seen<'r> {
    partition: &'r Partition,
    view: View<'r>,
    fields: &'r FieldTable,
    moving: &'r Move,
    pstate: PStateId,
    old: PStateId,
}

impl Halves for Seen<'_> {
    type Error = Failed;

    async fn scan(&self, half: Half, range: Scan<'_>, visit: &mut Visit<'_>) -> Result<(), Failed> {
        let pstate = match half {
            Half::Old => self.old,
            Half::New => self.pstate,
        };
        scan(self.partition, &self.view, pstate, range, visit).await
    }

    fn rows(&self, unit: &[u8], old: &[u8]) -> Result<Rows, Failed> {
        self.moving.rows(self.fields, unit, old).map_err(Failed::Undecodable)
    }
}

async fn scan(
    partition: &Partition,
    view: &View<'_>,
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
    partition.store.scan(view, pstate, keys, direction, range.limit, visit).await?;
    Ok(())
}

async fn read_all(
    partition: &Partition,
    request: &ReadRequest,
    when: &When,
) -> Result<Vec<ReadAnswer>, Failed> {
    let mut answers = Vec::with_capacity(request.operations.len());
    prefetch(partition, request, when).await?;
    for operation in &request.operations {
        let pstate = operation.pstate;
        let view = request.view(operation.owner, when);
        answers.push(match &operation.op {
            ReadOp::Get { key } | ReadOp::Has { key } => {
                let mut _held = Loaded::default();
                loop {
                    match get(partition, request, operation, key.as_slice(), when)? {
                        Found::Ready(value) => break ReadAnswer::Value(value),
                        Found::Miss(miss) => _held = partition.store.load(miss).await?,
                    }
                }
            }
            ReadOp::Range(range) => {
                let limit = range.limit.and_then(|limit| usize::try_from(limit).ok());
                let asked = Scan {
                    from: range.from.as_slice(),
                    to: range.to.as_ref().map(KeyBuf::as_slice),
                    reverse: range.reverse,
                    limit: limit.unwrap_or(usize::MAX),
                    keys_only: range.keys_only,
                };
                let mut rows = Rows::new();
                let mut visit = |key: &[u8], value: &[u8]| {
                    rows.push(key, if range.keys_only { &[] } else { value });
                    ControlFlow::Continue(())
                };
                match request.moving(operation, when) {
                    None => scan(partition, &view, pstate, asked, &mut visit).await?,
                    Some((moving, old)) => {
                        let fields = &request.module.fields;
                        let seen = Seen { partition, view, fields, moving, pstate, old };
                        scan_both(&seen, moving, asked, &mut visit).await?;
                    }
                }
                ReadAnswer::Rows(rows)
            }
        });
    }
    Ok(answers)
}

/// Brings the leaves of all single keys in, at depth.
async fn prefetch(
    partition: &Partition,
    request: &ReadRequest,
    when: &When,
) -> Result<(), pstate::Error> {
    let mut gets: Vec<(PStateId, usize, &[u8])> = request
        .operations
        .iter()
        .filter_map(|operation| match &operation.op {
            ReadOp::Get { key } | ReadOp::Has { key } => {
                Some((operation.pstate, operation.owner, key.as_slice()))
            }
            ReadOp::Range(_) => None,
        })
        .collect();
    gets.sort_unstable();
    for group in gets.chunk_by(|a, b| a.0 == b.0) {
        if let [(pstate, owner, _), _, ..] = group {
            let keys = group.iter().map(|(_, _, key)| *key);
            let view = request.view(*owner, when);
            partition.store.prefetch_for(&view, *pstate, keys).await?;
            if let Some(moving) = request.module.moving(*pstate).filter(|it| !it.is_done()) {
                let old = request.module.pstates[moving.old.0 as usize];
                let units = group.iter().filter_map(|(_, _, key)| moving.unit(key));
                partition.store.prefetch_for(&view, old, units).await?;
            }
        }
    }
    Ok(())
}
