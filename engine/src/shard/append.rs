//! Appends of clients: queued, admitted by the journal, given offsets and journalled in groups.
//!
//! Whatever waits for one depot partition when the appender comes round becomes one batch and one
//! entry, so the cost of an entry is shared by all records that arrived meanwhile.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::ops::Range;
use std::rc::Rc;
use std::task::{Poll, Waker};

use super::message::{Acknowledge, AppendRequest, answer};
use super::partition::Partition;
use super::parts::Part;
use super::{Ack, NewEntry, Shard};
use crate::depot::{self, Append, Batch, Bulk};
use crate::env::Class;
use crate::error::{Error, Result, chain};
use crate::journal::{self, Kind};
use crate::types::{DepotId, Offset, PartitionId};

/// A batch for one depot partition.
struct Waiting {
    batch: Batch,
    acknowledge: Acknowledge,
    reply: Part<Result<Offset>>,
}

/// Batches by where they go, in order.
type Groups = BTreeMap<(PartitionId, DepotId), Vec<Waiting>>;

/// Appends that have no place yet.
#[derive(Default)]
pub(super) struct Queue {
    groups: RefCell<Groups>,
    bytes: Cell<u64>,
    waker: RefCell<Option<Waker>>,
    /// Who waits until there is nothing to append.
    drained: RefCell<Vec<Waker>>,
}

/// Whatever the budget is, so much may wait to be appended.
const QUEUE_BYTES_MIN: u64 = 4 << 20;

/// What one entry costs beside its records.
const ENTRY_BYTES: usize = 96;

impl Queue {
    /// Takes a request, or refuses it if more than `limit_bytes` wait already.
    pub(super) fn push(&self, request: AppendRequest, limit_bytes: u64) {
        let AppendRequest { depot, batches, acknowledge, reply } = request;
        let Some(&(partition, _)) = batches.first() else { return answer(reply, Ok(Vec::new())) };
        if self.bytes.get() > limit_bytes {
            return answer(reply, Err(Error::Overloaded { partition, limit_bytes }));
        }
        let mut groups = self.groups.borrow_mut();
        let replies = Part::of(reply, batches.len());
        for ((partition, batch), reply) in batches.into_iter().zip(replies) {
            self.bytes.set(self.bytes.get() + batch.body().len() as u64);
            let waiting = Waiting { batch, acknowledge, reply };
            groups.entry((partition, depot)).or_default().push(waiting);
        }
        drop(groups);
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    async fn take(&self) -> Groups {
        std::future::poll_fn(|context| {
            let groups = self.groups.take();
            if groups.is_empty() {
                *self.waker.borrow_mut() = Some(context.waker().clone());
                self.drained.take().into_iter().for_each(Waker::wake);
                return Poll::Pending;
            }
            self.bytes.set(0);
            Poll::Ready(groups)
        })
        .await
    }
}

impl Queue {
    /// Waits until everything that was taken has its place.
    pub(super) async fn drained(&self) {
        std::future::poll_fn(|context| {
            // The appender waits only for the next request.
            if self.waker.borrow().is_some() && self.groups.borrow().is_empty() {
                return Poll::Ready(());
            }
            self.drained.borrow_mut().push(context.waker().clone());
            Poll::Pending
        })
        .await;
    }
}

impl Shard {
    /// Appends beyond this many waiting bytes are refused, so that a full journal cannot fill the memory.
    pub(super) fn queue_bytes_max(&self) -> u64 {
        let share = self.setup.options.memory_bytes / 8 / u64::from(self.setup.shards);
        share.max(QUEUE_BYTES_MIN)
    }

    pub(super) async fn run_appends(self: Rc<Self>) {
        loop {
            let groups = self.appends.take().await;
            for ((partition, depot), requests) in groups {
                match self.partition(partition) {
                    Ok(found) => {
                        let partition = Rc::clone(found);
                        self.append_group(&partition, depot, requests).await;
                    }
                    Err(error) => refuse(requests, &error),
                }
            }
        }
    }

    async fn append_group(
        self: &Rc<Self>,
        partition: &Rc<Partition>,
        id: DepotId,
        requests: Vec<Waiting>,
    ) {
        let depot = match partition.depot(id).await {
            Ok(depot) => depot,
            Err(error) => {
                let cause = chain(&error);
                self.fail(&error);
                let shard = self.env.shard();
                return refuse(requests, &Error::ShardStopped { shard, cause });
            }
        };
        // A batch with a key of its own is an entry of its own, since the answer is remembered for it.
        let mut merged: Vec<Waiting> = Vec::new();
        for request in requests {
            let bulk = request.batch.body().len() >= self.setup.options.depot.bulk_bytes_min;
            if bulk || request.batch.key().is_some() {
                self.append_merged(partition, id, &depot, std::mem::take(&mut merged)).await;
                if bulk {
                    self.append_bulk(partition, id, &depot, request).await;
                } else {
                    self.append_merged(partition, id, &depot, vec![request]).await;
                }
            } else {
                merged.push(request);
            }
        }
        self.append_merged(partition, id, &depot, merged).await;
    }

    /// Appends the records of several requests as one batch.
    async fn append_merged(
        self: &Rc<Self>,
        partition: &Rc<Partition>,
        id: DepotId,
        depot: &Rc<super::Depot>,
        requests: Vec<Waiting>,
    ) {
        let mut rest = requests.into_iter().peekable();
        while rest.peek().is_some() {
            let mut taken = Vec::new();
            let mut bytes = 0;
            while let Some(next) = rest.peek() {
                let more = next.batch.body().len();
                if bytes > 0 && bytes + more > MERGED_BYTES_MAX {
                    break;
                }
                bytes += more;
                taken.extend(rest.next());
            }
            if let Err(error) = self.room_for_appends().await {
                refuse(taken, &error);
                continue;
            }
            if let Err(error) = self.room_in_journal(bytes + ENTRY_BYTES).await {
                self.refuse_journal(taken, &error);
                continue;
            }
            self.append_admitted(partition, id, depot, taken);
        }
    }

    fn append_admitted(
        self: &Rc<Self>,
        partition: &Rc<Partition>,
        id: DepotId,
        depot: &Rc<super::Depot>,
        requests: Vec<Waiting>,
    ) {
        let batch = match requests.as_slice() {
            [only] => only.batch.clone(),
            several => match Batch::concat(several.iter().map(|request| &request.batch)) {
                Ok(batch) => batch,
                Err(error) => return refuse(requests, &Error::invalid(chain(&error))),
            },
        };
        let appended = match depot.log.append(&batch, self.env.wall()) {
            Ok(Append::Done(appended)) => appended,
            Ok(Append::Repeated(offsets)) => return self.repeated(depot, &offsets, requests),
            Err(error) => return self.refuse_depot(requests, &error),
        };
        {
            let mut counters = self.counters.borrow_mut();
            counters.appends += u64::from(batch.count());
            counters.append_bytes += batch.body().len() as u64;
        }
        self.tails_grew(batch.body().len());
        let entry = NewEntry::new(partition, Kind::Append, appended.payload.to_vec());
        depot.note(entry.index, appended.offsets.end);
        let mut replies = Vec::with_capacity(requests.len());
        let mut offset = appended.offsets.start;
        for request in requests {
            let first = offset;
            offset = offset.advance(u64::from(request.batch.count()));
            match request.acknowledge {
                Acknowledge::None => request.reply.answer(Ok(first)),
                Acknowledge::Durable => replies.push((request.reply, first)),
            }
        }
        let (depot, partition, end) = (Rc::clone(depot), partition.id, appended.offsets.end);
        self.log(&[entry], vec![Ack::Append { depot, id, partition, end, replies }]);
    }

    /// Nothing new is written; the first append may still be on its way to the disk.
    fn repeated(
        self: &Rc<Self>,
        depot: &Rc<super::Depot>,
        offsets: &Range<Offset>,
        requests: Vec<Waiting>,
    ) {
        let (shard, depot, offsets) = (Rc::clone(self), Rc::clone(depot), offsets.clone());
        self.env.spawn(Class::Client, "repeated append", async move {
            if let Err(error) = depot.log.durable_through(offsets.end).await {
                return shard.refuse_depot(requests, &error);
            }
            for request in requests {
                request.reply.answer(Ok(offsets.start));
            }
        });
    }

    /// The bulk path: the records go straight to the segment, the journal carries their place.
    async fn append_bulk(
        self: &Rc<Self>,
        partition: &Rc<Partition>,
        id: DepotId,
        depot: &Rc<super::Depot>,
        request: Waiting,
    ) {
        let bytes = request.batch.body().len();
        if let Err(error) = self.room_for_appends().await {
            return refuse(vec![request], &error);
        }
        let (appended, write) = loop {
            if let Err(error) = depot.log.reserve_bulk(bytes).await {
                return self.refuse_depot(vec![request], &error);
            }
            if let Err(error) = self.room_in_journal(ENTRY_BYTES).await {
                return self.refuse_journal(vec![request], &error);
            }
            match depot.log.append_bulk(&request.batch, self.env.wall()) {
                Ok(Bulk::Done { appended, write }) => break (appended, write),
                Ok(Bulk::Repeated(offsets)) => {
                    return self.repeated(depot, &offsets, vec![request]);
                }
                // While this waited for the journal, a microbatch placed records behind the last extent.
                Err(depot::Error::NotReserved { .. }) => {}
                Err(error) => return self.refuse_depot(vec![request], &error),
            }
        };
        {
            let mut counters = self.counters.borrow_mut();
            counters.appends += u64::from(request.batch.count());
            counters.append_bytes += bytes as u64;
        }
        self.tails_grew(bytes);
        let entry = NewEntry::new(partition, Kind::AppendBulk, appended.payload.to_vec());
        depot.note(entry.index, appended.offsets.end);
        let (end, first) = (appended.offsets.end, appended.offsets.start);
        let ack = Ack::Append {
            depot: Rc::clone(depot),
            id,
            partition: partition.id,
            end,
            replies: Vec::new(),
        };
        self.log(&[entry], vec![ack]);
        let ticket = self.logged.get();
        self.journal.hold(ticket);
        let (shard, depot, partition) = (Rc::clone(self), Rc::clone(depot), partition.id);
        let write = async move |shard: &Self| {
            let written = write.await;
            match &written {
                Ok(()) => shard.journal.release(ticket),
                Err(error) => shard.fail(error),
            }
            written.is_ok()
        };
        if request.acknowledge == Acknowledge::None {
            request.reply.answer(Ok(first));
            self.env.spawn(Class::Client, "bulk write", async move {
                write(&shard).await;
            });
            return;
        }
        self.env.spawn(Class::Client, "bulk write", async move {
            if !write(&shard).await {
                return;
            }
            // The extent is durable; the entry may be behind it or before it.
            if let Err(error) = depot.log.durable_through(end).await {
                return shard.fail(&error);
            }
            let source = tidemill_replication::two_phase::Source { depot: id, partition };
            shard.sources_grew(&BTreeMap::from([(source, depot.log.durable_end())]));
            request.reply.answer(Ok(first));
        });
    }

    fn refuse_journal(&self, requests: Vec<Waiting>, error: &journal::Error) {
        let refusal = match error {
            journal::Error::DiskFull { .. } => Error::DiskFull { what: error.to_string() },
            journal::Error::GroupTooLarge { .. } => Error::invalid(error),
            journal::Error::Closed => Error::Closed,
            _ => {
                self.fail(error);
                Error::ShardStopped { shard: self.env.shard(), cause: chain(error) }
            }
        };
        refuse(requests, &refusal);
    }

    fn refuse_depot(&self, requests: Vec<Waiting>, error: &depot::Error) {
        let refusal = match error {
            depot::Error::NoSpace { .. } => Error::DiskFull { what: error.to_string() },
            depot::Error::TooLarge { .. } | depot::Error::Empty => Error::invalid(error),
            _ => {
                self.fail(error);
                Error::ShardStopped { shard: self.env.shard(), cause: chain(error) }
            }
        };
        refuse(requests, &refusal);
    }
}

/// Requests are merged up to this, so that one entry stays well inside a frame.
const MERGED_BYTES_MAX: usize = 256 << 10;

fn refuse(requests: Vec<Waiting>, error: &Error) {
    for request in requests {
        request.reply.answer(Err(error.clone()));
    }
}
