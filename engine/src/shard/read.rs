//! Reads of clients: at once when everything is in memory, else in a task of their own.

use std::future::Future;
use std::ops::{Bound, ControlFlow};
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
use super::walk::Rows as ListRows;
use crate::codec::KeyBuf;
use crate::depot::{self, Limits, Upto};
use crate::env::Class;
use crate::error::{Error, Result, chain};
use crate::node::Installed;
use crate::node::pins::Pin;
use crate::pstate::{self, Direction, Found, KeyRange, View};
use crate::schema::list::{self, List};
use crate::schema::{ReadOp, Rows};
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
            Err(error) => answer(request.reply, Err(self.read_failed(&error))),
            Ok(None) => {
                let shard = Rc::clone(self);
                self.env.spawn(Class::Client, "read", async move {
                    let read = async {
                        let read = shard.read_later(&partition, &request).await;
                        read.map_err(|failed| match failed {
                            Failed::Store(error) => shard.read_failed(&error),
                            Failed::List(problem) => {
                                Error::Decode { what: list::malformed(problem).to_string() }
                            }
                        })
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

/// Why there is no answer.
enum Failed {
    Store(pstate::Error),
    /// The rows of a list contradict each other.
    List(&'static str),
}

impl From<pstate::Error> for Failed {
    fn from(error: pstate::Error) -> Self {
        Self::Store(error)
    }
}

impl ReadRequest {
    fn view(&self, owner: usize, when: &When) -> View<'static> {
        when.view(&self.module, owner)
    }

    /// What is read, and where.
    fn what(&self) -> String {
        let pstates = self.numbers.pstates.iter().zip(&self.module.definition.pstates);
        let mut names: Vec<_> = pstates
            .filter(|(number, _)| self.operations.iter().any(|read| read.pstate == **number))
            .map(|(_, pstate)| format!("`{}`", pstate.name))
            .collect();
        names.dedup();
        format!("a read of {} in partition {}", names.join(", "), self.partition)
    }
}

impl When {
    /// The moment, of what one topology of the module writes.
    pub(super) fn view(&self, module: &Installed, owner: usize) -> View<'static> {
        let topology = module.topologies[owner];
        match self {
            // What is visible anywhere was applied everywhere, so it is here, be it shown here or not.
            Self::Now => View::through(topology, module.visible_at(owner), None),
            Self::Pinned(pin) => {
                let (pinned, id) = pin.ids()[owner];
                assert_eq!(pinned, topology, "a pin is of one module");
                View::at(topology, id)
            }
            Self::AsOf(id, _) => View::at(topology, *id),
        }
    }
}

/// `None` if a page is missing, or if a scan would have to wait. Nothing changes meanwhile, so that all of it
/// is of one moment.
fn read_at_once(
    partition: &Partition,
    request: &ReadRequest,
) -> Result<Option<Vec<ReadAnswer>>, pstate::Error> {
    let mut answers = Vec::with_capacity(request.operations.len());
    for operation in &request.operations {
        let (ReadOp::Get { key } | ReadOp::Has { key }) = &operation.op else { return Ok(None) };
        let to_vec = |value: Option<&[u8]>| value.map(<[u8]>::to_vec);
        let view = request.view(operation.owner, &request.when);
        let found = partition.store.get(&view, operation.pstate, key.as_slice(), to_vec)?;
        match found {
            Found::Ready(value) => answers.push(ReadAnswer::Value(value)),
            Found::Miss(_) => return Ok(None),
        }
    }
    Ok(Some(answers))
}

impl Shard {
    async fn read_all(
        &self,
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
                    let to_vec = |value: Option<&[u8]>| value.map(<[u8]>::to_vec);
                    let read = partition.store.read(&view, pstate, key.as_slice(), to_vec);
                    ReadAnswer::Value(read.await?)
                }
                ReadOp::Range(range) => {
                    let to = range.to.as_ref().map(KeyBuf::as_slice);
                    let keys = KeyRange {
                        from: Bound::Included(range.from.as_slice()),
                        to: to.map_or(Bound::Unbounded, Bound::Excluded),
                    };
                    let direction =
                        if range.reverse { Direction::Backward } else { Direction::Forward };
                    let limit = range.limit.and_then(|limit| usize::try_from(limit).ok());
                    let mut rows = Rows::new();
                    if to.is_none_or(|to| range.from.as_slice() < to) {
                        let visit = |key: &[u8], value: &[u8]| {
                            rows.push(key, if range.keys_only { &[] } else { value });
                            ControlFlow::Continue(())
                        };
                        let limit = limit.unwrap_or(usize::MAX);
                        partition.store.scan(&view, pstate, keys, direction, limit, visit).await?;
                    }
                    ReadAnswer::Rows(rows)
                }
                ReadOp::Items(items) => {
                    let rows = ListRows { env: &self.env, partition, view, pstate };
                    let found = List::new(&rows, &items.list).slice(items.from, items.count).await;
                    ReadAnswer::Rows(items.rows(&found.map_err(|error| match error {
                        list::Error::Rows(error) => Failed::Store(error),
                        list::Error::Malformed(problem) => Failed::List(problem),
                        list::Error::Beyond { .. } => {
                            unreachable!("a slice ends where the list does")
                        }
                    })?))
                }
            });
        }
        Ok(answers)
    }
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
            ReadOp::Range(_) | ReadOp::Items(_) => None,
        })
        .collect();
    gets.sort_unstable();
    for group in gets.chunk_by(|a, b| a.0 == b.0) {
        if let [(pstate, owner, _), _, ..] = group {
            let keys = group.iter().map(|(_, _, key)| *key);
            let view = request.view(*owner, when);
            partition.store.prefetch_for(&view, *pstate, keys).await?;
        }
    }
    Ok(())
}
