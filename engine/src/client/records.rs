//! Direct reads of depots, and of the records that topologies gave up.

use std::ops::Range;

use super::Launched;
use crate::codec;
use crate::error::{Error, Result};
use crate::module::Depot;
use crate::shard::message::{DepotSlice, Message, ReadDepotRequest};
use crate::topology::Row;
use crate::types::{DepotId, Offset, PartitionId};

/// One record read back from a depot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DepotRecord<T> {
    /// Its offset.
    pub offset: Offset,
    /// When it was appended.
    pub append_time: crate::types::WallTime,
    /// The record.
    pub record: T,
}

/// A record that a topology gave up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejected {
    /// Its place among the topology's dead letters of this partition: to go on behind it, read from the
    /// next one.
    pub place: Offset,
    /// The depot it lies in.
    pub depot: String,
    /// Its partition.
    pub partition: PartitionId,
    /// Its offset.
    pub offset: Offset,
    /// What the last attempt failed of.
    pub reason: String,
    /// The record, as the depot has it.
    pub record: Vec<u8>,
}

impl<H> Launched<H> {
    /// Reads durable records of one depot partition from an offset on, at most `records_max` and about
    /// 1 MiB. Empty at the end.
    ///
    /// # Errors
    /// `Trimmed`, `Corrupt`, `Decode`, `ShardStopped`.
    pub async fn read_depot<T: Row, R>(
        &self,
        depot: Depot<T, R>,
        partition: PartitionId,
        from: Offset,
        records_max: usize,
    ) -> Result<Vec<DepotRecord<T>>> {
        let id = self.module.depots[depot.index().0 as usize];
        let slice = self.slice(id, partition, from, records_max).await?;
        let decoded = slice.records.iter().map(|record| {
            let value = codec::decode(&self.module.fields, record.bytes);
            Ok(DepotRecord {
                offset: record.offset,
                append_time: record.append_time,
                record: value.map_err(|error| Error::Decode { what: error.to_string() })?,
            })
        });
        decoded.collect()
    }

    /// The offsets of one depot partition that are kept and durable.
    ///
    /// # Errors
    /// `ShardStopped`.
    pub async fn depot_range<T: Row, R>(
        &self,
        depot: Depot<T, R>,
        partition: PartitionId,
    ) -> Result<Range<Offset>> {
        let id = self.module.depots[depot.index().0 as usize];
        let slice = self.slice(id, partition, Offset(u64::MAX), 0).await?;
        Ok(slice.first..slice.end)
    }

    /// Records that a topology gave up in one partition, in that order, from a place on: at most 1,024, and
    /// about 1 MiB. Empty at the end.
    ///
    /// # Errors
    /// As [`Launched::read_depot`].
    pub async fn dead_letters(
        &self,
        topology: &str,
        partition: PartitionId,
        from: Offset,
    ) -> Result<Vec<Rejected>> {
        let id = self.topology(topology, None)?;
        let place = self.module.topologies.iter().position(|&it| it == id);
        let depot = self.module.dead_letters[place.expect("found above")];
        let slice = self.slice(depot, partition, from, 1_024).await?;
        let letters = slice.records.iter().map(|record| {
            let letter = crate::shard::DeadLetter::decode(record.bytes)
                .ok_or_else(|| Error::Decode { what: "a dead letter".to_owned() })?;
            let depots = &self.module.depots;
            let place = depots.iter().position(|&it| it == letter.depot);
            let name = place.map(|place| self.module.definition.depots[place].name.clone());
            Ok(Rejected {
                place: record.offset,
                depot: name.unwrap_or_else(|| letter.depot.to_string()),
                partition,
                offset: letter.offset,
                reason: letter.reason.to_owned(),
                record: letter.record.to_vec(),
            })
        });
        letters.collect()
    }

    async fn slice(
        &self,
        depot: DepotId,
        partition: PartitionId,
        from: Offset,
        records_max: usize,
    ) -> Result<DepotSlice> {
        if partition.0 >= self.engine.partitions() {
            return Err(Error::Invalid { what: format!("there is no partition {partition}") });
        }
        let node = &self.engine.inner.node;
        let shard = node.setup.owner(partition);
        node.ask(shard, |reply| {
            Message::ReadDepot(ReadDepotRequest { depot, partition, from, records_max, reply })
        })
        .await
    }
}
