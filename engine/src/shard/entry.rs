//! Payloads of the journal entries that belong to microbatches, little-endian, version first.
//!
//! ```text
//! Transaction  version u8, topology u32, id u64, run u64, attempt u32                    25 bytes
//! Prepare      Transaction, run of writes: length u32 + bytes, appends: count u32,
//!              each: depot u32, records u32, each: length u32 + bytes
//! Committed    Transaction, append time u64 (us since 1970) of the records it places
//! Aborted      Transaction
//! ```
//!
//! `Begin`, `Decision` and `AllApplied` carry the records of `tidemill_replication::two_phase` behind
//! a version byte and the topology; [`Coordinated`]. `Append` and `AppendBulk` carry what
//! `depot::Log` made.

use tidemill_replication::two_phase::AttemptId;

use crate::types::{Attempt, DepotId, MicrobatchId, Run, TopologyId, WallTime};

/// Version of every payload in this file.
const VERSION: u8 = 1;

/// One try at one microbatch of one topology; what a decision names exactly.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Transaction {
    pub(crate) topology: TopologyId,
    pub(crate) attempt: AttemptId,
}

/// A prepare takes effect; its records are appended at this time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Committed {
    pub(crate) transaction: Transaction,
    pub(crate) append_time: WallTime,
}

/// A payload that is not what it claims to be: damage that no checksum saw, or a newer version.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("journal payload of kind {kind}: {what}")]
pub(crate) struct Malformed {
    /// What kind of payload was expected.
    pub(crate) kind: &'static str,
    /// What is wrong with it.
    pub(crate) what: &'static str,
}

/// Records that a microbatch appends to one depot of its partition; their offsets follow when it is
/// committed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct PreparedAppends {
    pub(crate) depots: Vec<(DepotId, Vec<Vec<u8>>)>,
}

/// What a partition promises to do if its microbatch commits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Prepare<'a> {
    pub(crate) transaction: Transaction,
    /// The encoded run of writes; `pstate::Run::decode` reads it.
    pub(crate) writes: &'a [u8],
    pub(crate) appends: PreparedAppends,
}

impl Transaction {
    const KIND: &'static str = "transaction";

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(25);
        self.encode_into(&mut out);
        out
    }

    fn encode_into(self, out: &mut Vec<u8>) {
        out.push(VERSION);
        out.extend_from_slice(&self.topology.0.to_le_bytes());
        out.extend_from_slice(&self.attempt.id.0.to_le_bytes());
        out.extend_from_slice(&self.attempt.run.0.to_le_bytes());
        out.extend_from_slice(&self.attempt.attempt.0.to_le_bytes());
    }

    /// Reads what [`Transaction::encode`] wrote, and nothing beyond it.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader { bytes, kind: Self::KIND };
        let transaction = Self::read(&mut reader)?;
        reader.end()?;
        Ok(transaction)
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, Malformed> {
        reader.version()?;
        let topology = TopologyId(reader.u32()?);
        let id = MicrobatchId(reader.u64()?);
        let run = Run(reader.u64()?);
        let attempt = AttemptId { id, run, attempt: Attempt(reader.u32()?) };
        Ok(Self { topology, attempt })
    }
}

impl Committed {
    pub(crate) fn encode(self) -> Vec<u8> {
        let mut out = self.transaction.encode();
        out.extend_from_slice(&self.append_time.0.to_le_bytes());
        out
    }

    /// Reads what [`Committed::encode`] wrote, and nothing beyond it.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader { bytes, kind: "committed" };
        let transaction = Transaction::read(&mut reader)?;
        let append_time = WallTime(reader.u64()?);
        reader.end()?;
        Ok(Self { transaction, append_time })
    }
}

impl<'a> Prepare<'a> {
    /// Appends the payload to `out`; `writes` puts the encoded run behind what is there.
    pub(crate) fn encode_into(
        transaction: Transaction,
        appends: &PreparedAppends,
        out: &mut Vec<u8>,
        writes: impl FnOnce(&mut Vec<u8>),
    ) {
        transaction.encode_into(out);
        let length_at = out.len();
        out.extend_from_slice(&[0; 4]);
        writes(out);
        let length = count_u32(out.len() - length_at - 4);
        out[length_at..length_at + 4].copy_from_slice(&length.to_le_bytes());
        out.extend_from_slice(&count_u32(appends.depots.len()).to_le_bytes());
        for (depot, records) in &appends.depots {
            out.extend_from_slice(&depot.0.to_le_bytes());
            out.extend_from_slice(&count_u32(records.len()).to_le_bytes());
            for record in records {
                out.extend_from_slice(&count_u32(record.len()).to_le_bytes());
                out.extend_from_slice(record);
            }
        }
    }

    /// Reads what [`Prepare::encode_into`] wrote, and nothing beyond it.
    pub(crate) fn decode(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let mut reader = Reader { bytes, kind: "prepare" };
        let transaction = Transaction::read(&mut reader)?;
        let writes = reader.sized()?;
        let mut depots = Vec::new();
        for _ in 0..reader.u32()? {
            let depot = DepotId(reader.u32()?);
            let mut records = Vec::new();
            for _ in 0..reader.u32()? {
                records.push(reader.sized()?.to_vec());
            }
            depots.push((depot, records));
        }
        reader.end()?;
        Ok(Self { transaction, writes, appends: PreparedAppends { depots } })
    }
}

/// A record of a topology's coordinator in its partition's sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Coordinated<'a> {
    pub(crate) topology: TopologyId,
    pub(crate) record: &'a [u8],
}

impl<'a> Coordinated<'a> {
    pub(crate) fn encode(&self) -> Vec<u8> {
        tagged(self.topology.0, self.record)
    }

    pub(crate) fn decode(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let (topology, record) = untagged(bytes, "coordinator record")?;
        Ok(Self { topology: TopologyId(topology), record })
    }
}

fn tagged(tag: u32, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(5 + payload.len());
    out.push(VERSION);
    out.extend_from_slice(&tag.to_le_bytes());
    out.extend_from_slice(payload);
    out
}

fn untagged<'a>(bytes: &'a [u8], kind: &'static str) -> Result<(u32, &'a [u8]), Malformed> {
    let mut reader = Reader { bytes, kind };
    reader.version()?;
    let tag = reader.u32()?;
    Ok((tag, reader.bytes))
}

fn count_u32(count: usize) -> u32 {
    u32::try_from(count).expect("a microbatch's writes on one partition stay below 4 GiB")
}

/// Takes values off the front; never reads beyond the end, never allocates.
struct Reader<'a> {
    bytes: &'a [u8],
    kind: &'static str,
}

impl<'a> Reader<'a> {
    fn fault(&self, what: &'static str) -> Malformed {
        Malformed { kind: self.kind, what }
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let Some((head, rest)) = self.bytes.split_first_chunk::<N>() else {
            return Err(self.fault("ends early"));
        };
        self.bytes = rest;
        Ok(*head)
    }

    fn u32(&mut self) -> Result<u32, Malformed> {
        Ok(u32::from_le_bytes(self.take()?))
    }

    fn u64(&mut self) -> Result<u64, Malformed> {
        Ok(u64::from_le_bytes(self.take()?))
    }

    fn version(&mut self) -> Result<(), Malformed> {
        let [version] = self.take()?;
        if version == VERSION { Ok(()) } else { Err(self.fault("unknown version")) }
    }

    fn sized(&mut self) -> Result<&'a [u8], Malformed> {
        let len = self.u32()? as usize;
        let Some((head, rest)) = self.bytes.split_at_checked(len) else {
            return Err(self.fault("a length points beyond the end"));
        };
        self.bytes = rest;
        Ok(head)
    }

    fn end(&self) -> Result<(), Malformed> {
        if self.bytes.is_empty() { Ok(()) } else { Err(self.fault("bytes behind the end")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRANSACTION: Transaction = Transaction {
        topology: TopologyId(7),
        attempt: AttemptId { id: MicrobatchId(8), run: Run(9), attempt: Attempt(10) },
    };

    fn sample() -> (PreparedAppends, Vec<u8>) {
        let appends = PreparedAppends {
            depots: vec![(DepotId(3), vec![b"one".to_vec(), Vec::new()]), (DepotId(4), vec![])],
        };
        let mut bytes = Vec::new();
        Prepare::encode_into(TRANSACTION, &appends, &mut bytes, |out| {
            out.extend_from_slice(b"writes");
        });
        (appends, bytes)
    }

    #[test]
    fn a_prepare_comes_back() {
        let (appends, bytes) = sample();
        let prepare = Prepare::decode(&bytes).unwrap();
        assert_eq!(prepare, Prepare { transaction: TRANSACTION, writes: b"writes", appends });
        assert_eq!(Transaction::decode(&TRANSACTION.encode()), Ok(TRANSACTION));
        let committed = Committed { transaction: TRANSACTION, append_time: WallTime(11) };
        assert_eq!(Committed::decode(&committed.encode()), Ok(committed));
        let record = Coordinated { topology: TopologyId(1), record: b"row" };
        assert_eq!(Coordinated::decode(&record.encode()), Ok(record));
    }

    #[test]
    fn every_truncation_and_extension_is_refused() {
        let (_, mut bytes) = sample();
        for len in 0..bytes.len() {
            assert!(Prepare::decode(&bytes[..len]).is_err(), "cut to {len} bytes");
        }
        bytes.push(0);
        assert!(Prepare::decode(&bytes).is_err());
    }
}
