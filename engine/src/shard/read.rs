//! Reads of clients: at once when everything is in memory, else in a task of their own.

use std::collections::BTreeSet;
use std::future::Future;
use std::ops::ControlFlow;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{Either, select};

use super::Shard;
use super::message::{
    DepotSlice, ReadAnswer, ReadDepotRequest, ReadOperation, ReadRequest, When, answer,
};
use super::partition::Partition;
use super::seen::{Failed, Seen};
use crate::codec::KeyBuf;
use crate::depot::{self, Limits, Upto};
use crate::env::Class;
use crate::error::{Error, Result, chain};
use crate::module::PStateIndex;
use crate::node::Installed;
use crate::node::numbers::Numbers;
use crate::node::pins::Pin;
use crate::pstate::{self, Found, View};
use crate::schema::list::{self, List};
use crate::schema::{ReadOp, Rows};
use crate::topology::Scan;

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
        match self.read_at_once(&partition, &request) {
            Ok(Some(answers)) => answer(request.reply, Ok(answers)),
            Err(error) => answer(request.reply, Err(self.select_failed(&error))),
            Ok(None) => {
                let shard = Rc::clone(self);
                self.env.spawn(Class::Client, "read", async move {
                    let read = async {
                        let read = shard.read_later(&partition, &request).await;
                        read.map_err(|failed| shard.select_failed(&failed))
                    };
                    let read = shard.within(request.within, || request.what(), read).await;
                    answer(request.reply, read);
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
            return self.read_all(partition, request, &request.when).await;
        }
        for tries in 1.. {
            let when = When::Pinned(Arc::new(Pin::visible(&self.setup, &request.module)));
            match self.read_all(partition, request, &when).await {
                Err(Failed::Store(pstate::Error::Expired { .. })) if tries < TRIES_MAX => {}
                done => return done,
            }
        }
        unreachable!("the last try returns")
    }

    /// The answer, unless it takes longer than it may.
    pub(super) async fn within<T>(
        &self,
        within: Option<Duration>,
        what: impl Fn() -> String,
        read: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        let Some(within) = within else { return read.await };
        match select(pin!(read), self.env.sleep(within)).await {
            Either::Left((done, _)) => done,
            Either::Right(((), _)) => {
                let what = format!("{} on shard {}", what(), self.env.shard());
                Err(Error::Timeout { what, within })
            }
        }
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

    /// What a client gets to see of a read that was given up.
    pub(super) fn select_failed(&self, failed: &Failed) -> Error {
        match failed {
            Failed::Store(error) => self.read_failed(error),
            Failed::Undecodable(error) => Error::Decode { what: chain(error) },
            Failed::List(problem) => Error::Decode { what: list::malformed(problem).to_string() },
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

impl ReadRequest {
    /// What is read, and where.
    fn what(&self) -> String {
        let pstates = &self.module.definition.pstates;
        let read: BTreeSet<_> = self.operations.iter().map(|it| it.pstate.0 as usize).collect();
        let names: Vec<_> = read.iter().map(|it| format!("`{}`", pstates[*it].name)).collect();
        format!("a read of {} in partition {}", names.join(", "), self.partition)
    }
}

impl When {
    /// Where the module's `PState`s are stored at that moment, which is `now` for a read of what is visible.
    pub(super) fn numbers<'a>(&'a self, now: &'a Numbers) -> &'a Numbers {
        match self {
            Self::Now => now,
            Self::Pinned(pin) => pin.numbers(),
            Self::Begun(_, numbers) | Self::AsOf(_, numbers) => numbers,
        }
    }

    /// The moment, of what one topology of the module writes.
    pub(super) fn view(&self, module: &Installed, owner: usize) -> View<'static> {
        let topology = module.topologies[owner];
        match self {
            // What is visible anywhere was applied everywhere, so it is here, be it shown here or not.
            Self::Now => View::through(topology, module.visible_at(owner), None),
            Self::Begun(ids, _) => View::through(topology, ids[owner].1, None),
            Self::Pinned(pin) => {
                let (pinned, id) = pin.ids()[owner];
                assert_eq!(pinned, topology, "a pin is of one module");
                View::at(topology, id)
            }
            Self::AsOf(id, _) => View::at(topology, *id),
        }
    }
}

impl Shard {
    /// `None` if a page is missing, or if a scan would have to wait. Nothing changes here meanwhile; but another
    /// shard may show an id that is applied here, so what is visible is looked up once, and all of it is of one
    /// moment.
    fn read_at_once(
        &self,
        partition: &Partition,
        request: &ReadRequest,
    ) -> Result<Option<Vec<ReadAnswer>>, Failed> {
        let mut answers = Vec::with_capacity(request.operations.len());
        let begun = match (&request.when, &*request.operations) {
            (When::Now, [_, _, ..]) => {
                let (ids, numbers) = request.module.visible_with_numbers();
                Some(When::Begun(ids.into(), numbers))
            }
            _ => None,
        };
        let when = begun.as_ref().unwrap_or(&request.when);
        for operation in &request.operations {
            let (ReadOp::Get { key } | ReadOp::Has { key }) = &operation.op else {
                return Ok(None);
            };
            match self.seen(partition, request, operation, when).get(key.as_slice())? {
                Found::Ready(value) => answers.push(ReadAnswer::Value(value)),
                Found::Miss(_) => return Ok(None),
            }
        }
        Ok(Some(answers))
    }

    async fn read_all(
        &self,
        partition: &Partition,
        request: &ReadRequest,
        when: &When,
    ) -> Result<Vec<ReadAnswer>, Failed> {
        let mut answers = Vec::with_capacity(request.operations.len());
        prefetch(partition, request, when).await?;
        for operation in &request.operations {
            let seen = self.seen(partition, request, operation, when);
            let found;
            let op = match &operation.op {
                ReadOp::Behind(behind) => {
                    found = behind.resolve(&seen).await.map_err(list_failed)?;
                    found.as_ref()
                }
                op => Some(op),
            };
            answers.push(match op {
                None if operation.op.is_of_one() => ReadAnswer::Value(None),
                None => ReadAnswer::Rows(Rows::new()),
                Some(op) => read_one(&seen, op).await?,
            });
        }
        Ok(answers)
    }

    fn seen<'a>(
        &'a self,
        partition: &'a Partition,
        request: &'a ReadRequest,
        operation: &ReadOperation,
        when: &When,
    ) -> Seen<'a> {
        let of = (when.numbers(&request.numbers), operation.pstate);
        Seen::new(&self.env, partition, &request.module, of, when)
    }
}

async fn read_one(seen: &Seen<'_>, op: &ReadOp) -> Result<ReadAnswer, Failed> {
    Ok(match op {
        ReadOp::Get { key } | ReadOp::Has { key } => {
            ReadAnswer::Value(seen.read(key.as_slice()).await?)
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
            seen.scan(asked, &mut visit).await?;
            ReadAnswer::Rows(rows)
        }
        ReadOp::Items(items) => {
            let found = List::new(seen, &items.list).slice(items.from, items.count).await;
            ReadAnswer::Rows(items.rows(&found.map_err(list_failed)?))
        }
        ReadOp::Behind(_) => unreachable!("its items were found"),
    })
}

fn list_failed(error: list::Error<Failed>) -> Failed {
    match error {
        list::Error::Rows(failed) => failed,
        list::Error::Malformed(problem) => Failed::List(problem),
        list::Error::Beyond { .. } => unreachable!("a read ends where the list does"),
    }
}

/// Brings the leaves of all single keys in, at depth.
async fn prefetch(
    partition: &Partition,
    request: &ReadRequest,
    when: &When,
) -> Result<(), pstate::Error> {
    let mut gets: Vec<(PStateIndex, &[u8])> = request
        .operations
        .iter()
        .filter_map(|operation| match &operation.op {
            ReadOp::Get { key } | ReadOp::Has { key } => Some((operation.pstate, key.as_slice())),
            ReadOp::Range(_) | ReadOp::Items(_) | ReadOp::Behind(_) => None,
        })
        .collect();
    gets.sort_unstable();
    let (module, numbers) = (&request.module, when.numbers(&request.numbers));
    let number = |pstate: PStateIndex| numbers.pstates[pstate.0 as usize];
    for group in gets.chunk_by(|a, b| a.0 == b.0) {
        if let [(pstate, _), _, ..] = group {
            let keys = group.iter().map(|(_, key)| *key);
            let view = when.view(module, module.definition.pstates[pstate.0 as usize].owner);
            partition.store.prefetch_for(&view, number(*pstate), keys).await?;
            if let Some(moving) = module.moving(*pstate).filter(|it| !it.is_done()) {
                let old = number(moving.old);
                let units = group.iter().filter_map(|(_, key)| moving.unit(key));
                partition.store.prefetch_for(&view, old, units).await?;
            }
        }
    }
    Ok(())
}
