//! Running one event on one partition, and where its rows go; reading the sources of an attempt.

use std::rc::Rc;

use bytes::Bytes;
use tidemill_replication::two_phase::{
    self, Exclusion, Failure, FailureKind, SourceRange, participant,
};

use super::local::EventLocal;
use super::microbatch::{ROWS_MAX, Running, Topology, Work};
use super::{Shard, partition};
use crate::depot::batch::RECORD_BYTES_MAX;
use crate::depot::{self, Limits, Record as DepotRecord, Upto};
use crate::migrate::run_event;
use crate::module::DepotIndex;
use crate::topology::{self, EventFailure, Local, NodeIndex, Origin, Record, Rows};
use crate::types::{DepotId, Offset};

/// Records are handed to source nodes in batches of at most this many bytes.
const BATCH_BYTES_MAX: usize = 256 << 10;

impl Shard {
    pub(super) async fn run_event(
        self: &Rc<Self>,
        topology: &Rc<Topology>,
        running: &Rc<Running>,
        work: &Rc<Work>,
        node: NodeIndex,
        rows: Rows,
    ) {
        if running.failed.get() {
            return;
        }
        self.counters.borrow_mut().rows += rows.count() as u64;
        let local = EventLocal::new(self, topology, running, work);
        let seen: (&dyn Local, _) = (&local, &*topology.module.moves);
        let definition = topology.definition();
        let ran = match &self.setup.options.event_hook {
            Some(hook) if !topology.is_shadow() => hook.run(definition, node, seen, rows).await,
            Some(_) | None => run_event(&definition.nodes[node.0 as usize], seen, rows).await,
        };
        match ran {
            Ok(done) => {
                for failure in &done.rejected {
                    self.event_failed(topology, running, failure);
                }
                self.hold_changes(topology, running, work.partition.id, done.changes);
                self.send_rows(topology, running, done.outgoing);
            }
            Err(failure) => self.event_failed(topology, running, &failure),
        }
    }

    pub(super) fn event_failed(
        self: &Rc<Self>,
        topology: &Rc<Topology>,
        running: &Rc<Running>,
        failure: &EventFailure,
    ) {
        // A bad record is left behind; the rest goes on, so that one attempt finds all of them.
        let goes_on = failure.kind == topology::FailureKind::Reject && failure.origin.is_some();
        if running.failed.get() || !goes_on && running.failed.replace(true) {
            return;
        }
        let origin = failure.origin.map(|origin| two_phase::Origin {
            source: two_phase::Source {
                depot: topology.module.depots[origin.depot.0 as usize],
                partition: origin.partition,
            },
            offset: origin.offset,
        });
        let kind = match failure.kind {
            topology::FailureKind::Retry => FailureKind::Retry,
            topology::FailureKind::Reject => FailureKind::Reject,
        };
        let message = two_phase::cut_reason(&failure.to_string());
        let failure = Failure { origin, kind, message };
        let attempt = running.attempt;
        self.participate(topology, participant::Input::Failed { attempt, failure });
    }

    /// Reads the records `range` names and queues them on the source nodes of their depot; what
    /// `exclusions` name goes to the dead letters.
    pub(super) async fn read_source(
        self: &Rc<Self>,
        topology: &Rc<Topology>,
        running: &Rc<Running>,
        range: SourceRange,
        exclusions: &[Exclusion],
    ) {
        match self.read_range(topology, running, range, exclusions).await {
            Ok(()) => {}
            // Nobody wants its records any more: those that did, with another attempt, may have let them go.
            Err(partition::Error::Depot { source: depot::Error::Trimmed { .. }, .. })
                if running.failed.get() => {}
            // It was not declared when they went. Others are none the worse for it.
            Err(partition::Error::Depot {
                source: source @ depot::Error::Trimmed { .. }, ..
            }) => {
                running.failed.set(true);
                let message = format!(
                    "depot {} let go of records in partition {} that the topology has still to read, while no \
                     module that was launched declared it: {source}. Declare it under another name, and it begins \
                     with those that are there",
                    range.source.depot, range.source.partition
                );
                let failure = Failure { origin: None, kind: FailureKind::Reject, message };
                let attempt = running.attempt;
                self.participate(topology, participant::Input::Failed { attempt, failure });
            }
            // A source that cannot be read cannot be read by a retry either: the shard recovers.
            Err(error) => self.fail(&error),
        }
    }

    async fn read_range(
        self: &Rc<Self>,
        topology: &Rc<Topology>,
        running: &Rc<Running>,
        range: SourceRange,
        exclusions: &[Exclusion],
    ) -> Result<(), partition::Error> {
        let depot_id = range.source.depot;
        let partition = Rc::clone(&self.partitions[&range.source.partition]);
        let depot = partition.depot(depot_id).await?;
        let index = depot_index(topology, depot_id);
        let nodes: Vec<NodeIndex> = topology
            .definition()
            .sources
            .iter()
            .filter(|source| source.depot == index)
            .map(|source| source.node)
            .collect();
        let left_out: Vec<&Exclusion> =
            exclusions.iter().filter(|it| it.origin.source == range.source).collect();
        let mut from = range.from;
        while from < range.to && !running.failed.get() {
            running.sources_may_go_on(self).await;
            let wanted = usize::try_from(range.to.0 - from.0).unwrap_or(usize::MAX);
            let limits = Limits {
                records: wanted.min(ROWS_MAX),
                bytes: BATCH_BYTES_MAX,
                upto: Upto::Durable,
            };
            let failed = |source| partition::Error::Depot {
                partition: partition.id,
                depot: depot_id,
                source,
            };
            let records = depot.log.read(from, limits).await.map_err(failed)?;
            let Some(offsets) = records.offsets() else {
                return Err(partition::Error::Entry {
                    partition: partition.id,
                    index: partition.next(),
                    what: format!("depot {depot_id} ends before offset {}", range.to),
                });
            };
            let mut batch = Vec::with_capacity(records.len());
            for record in records.iter() {
                match left_out.iter().find(|it| it.origin.offset == record.offset) {
                    Some(exclusion) => {
                        self.dead_letter(topology, running, &partition, record, exclusion);
                    }
                    None => batch.push(Record {
                        origin: Origin::record(index, partition.id, record.offset),
                        appended: record.append_time,
                        bytes: Bytes::copy_from_slice(record.bytes),
                    }),
                }
            }
            if !batch.is_empty() {
                let (last, others) = nodes.split_last().expect("a range is of a source");
                for &node in others {
                    let rows = Rows::records(batch.clone());
                    self.queue_own_rows(topology, running, partition.id, node, rows);
                }
                let rows = Rows::records(batch);
                self.queue_own_rows(topology, running, partition.id, *last, rows);
            }
            from = offsets.end;
        }
        Ok(())
    }

    fn dead_letter(
        self: &Rc<Self>,
        topology: &Rc<Topology>,
        running: &Rc<Running>,
        partition: &Rc<partition::Partition>,
        record: DepotRecord<'_>,
        exclusion: &Exclusion,
    ) {
        let work = running.work(partition);
        let mut letter = DeadLetter {
            depot: exclusion.origin.source.depot,
            offset: record.offset,
            reason: &exclusion.reason,
            record: &[],
        };
        // A record that only just fits a depot is cut: the whole of it lies where the letter says.
        let room = RECORD_BYTES_MAX - letter.encode().len();
        letter.record = record.bytes.get(..room).unwrap_or(record.bytes);
        // So that whoever waits for the record hears of it, however long ago it was.
        let key = partition::dead_letter_key(topology.id, letter.depot, record.offset);
        note_letter(&work, key);
        if !topology.is_shadow() {
            let depot = topology.module.dead_letters[topology.place];
            push_append(&work, depot, letter.encode());
        }
        self.wrote(topology, running, &work, 0);
    }
}

/// The place of a depot in the module of a topology that reads it.
fn depot_index(topology: &Topology, depot: DepotId) -> DepotIndex {
    let place = topology.module.depots.iter().position(|&it| it == depot);
    let place = place.expect("a topology reads its own module's depots");
    DepotIndex(u32::try_from(place).expect("a module declares fewer than 2^32 depots"))
}

/// Adds a record to what an attempt appends.
pub(super) fn push_append(work: &Work, depot: DepotId, record: Vec<u8>) {
    // A vector in a vector, and a length in the batch.
    let bytes = record.len() as u64 + size_of::<Vec<u8>>() as u64;
    work.appended_bytes.set(work.appended_bytes.get() + bytes);
    let mut appends = work.appends.borrow_mut();
    match appends.depots.iter_mut().find(|(id, _)| *id == depot) {
        Some((_, records)) => records.push(record),
        None => appends.depots.push((depot, vec![record])),
    }
}

/// Adds a row that marks a refused record. It is not among the writes before those are sealed: an event, or a
/// step of a migration, may be scanning over them just then.
fn note_letter(work: &Work, key: partition::DeadLetterKey) {
    work.appended_bytes.set(work.appended_bytes.get() + size_of_val(&key) as u64);
    work.letters.borrow_mut().push(key);
}

/// A record of a dead-letter depot.
///
/// ```text
/// version u8 = 1, depot u32, offset u64, reason: length u32 + UTF-8, then the record as it was
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeadLetter<'a> {
    /// The depot the record lies in; its partition is the dead letter's.
    pub depot: DepotId,
    /// Its offset there.
    pub offset: Offset,
    /// What the last attempt failed of.
    pub reason: &'a str,
    /// The record; its beginning, if it is about as large as a record can be.
    pub record: &'a [u8],
}

impl<'a> DeadLetter<'a> {
    fn encode(&self) -> Vec<u8> {
        let mut out = vec![1];
        out.extend_from_slice(&self.depot.0.to_le_bytes());
        out.extend_from_slice(&self.offset.0.to_le_bytes());
        let len = u32::try_from(self.reason.len()).expect("reasons are cut short");
        out.extend_from_slice(&len.to_le_bytes());
        out.extend_from_slice(self.reason.as_bytes());
        out.extend_from_slice(self.record);
        out
    }

    /// Reads a record of a dead-letter depot; `None` if it is none.
    #[must_use]
    pub fn decode(bytes: &'a [u8]) -> Option<Self> {
        let ([1], rest) = bytes.split_first_chunk::<1>()? else { return None };
        let (depot, rest) = rest.split_first_chunk::<4>()?;
        let (offset, rest) = rest.split_first_chunk::<8>()?;
        let (len, rest) = rest.split_first_chunk::<4>()?;
        let (reason, record) = rest.split_at_checked(u32::from_le_bytes(*len) as usize)?;
        Some(Self {
            depot: DepotId(u32::from_le_bytes(*depot)),
            offset: Offset(u64::from_le_bytes(*offset)),
            reason: std::str::from_utf8(reason).ok()?,
            record,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dead_letter_comes_back_and_its_truncations_do_not() {
        let letter =
            DeadLetter { depot: DepotId(3), offset: Offset(4), reason: "no", record: b"r" };
        let bytes = letter.encode();
        assert_eq!(DeadLetter::decode(&bytes), Some(letter));
        for len in 0..bytes.len() - 1 {
            assert_eq!(DeadLetter::decode(&bytes[..len]), None);
        }
    }
}
