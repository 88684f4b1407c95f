//! What is appended: records encoded once, by whoever appends them; the same bytes then go into the
//! journal, the tail cache and a segment.
//!
//! A *body* is the records one after the other, each `length: u32` and that many bytes. Bodies can be
//! cut between any two records, so a block takes as many as fit.
//!
//! What the journal carries (little-endian):
//!
//! ```text
//! byte  0  u8   version (1)
//!       1  u8   flags: 1 = a key follows, 2 = an extent instead of the body, 4 = a proof
//!       2  u16  zero
//!       4  u32  depot
//!       8  u64  first offset
//!      16  u64  append time, us since 1970
//!      24  u32  records
//!      28  u32  bytes of the body
//!      32  [u128 client, u64 sequence]
//!          [u64 proof: records below were durable, extents included, when this was appended]
//!          body, or: u64 file base, u64 file id, u64 byte in the file, u64 bytes, u32 chain before,
//!          u32 chain after (which covers the whole extent, see [`super::format`])
//! ```

use std::ops::Range;

use bytes::Bytes;

use super::{Error, Result};
use crate::env::BLOCK_BYTES;
use crate::types::{DepotId, Offset, WallTime};

/// Records to append together: all of them become durable, or none. Cheap to clone; may cross threads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    body: Bytes,
    count: u32,
    key: Option<Key>,
}

/// Names one append of one client, so that a repeated one gets the first answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// Chosen at random by the client when it starts.
    pub client: u128,
    /// Chosen by the client, different for each of its appends.
    pub sequence: u64,
}

impl Batch {
    /// A batch of the given records.
    ///
    /// # Errors
    /// As [`Builder::push`].
    pub fn of<R: AsRef<[u8]>>(records: impl IntoIterator<Item = R>) -> Result<Self> {
        let mut builder = Builder::default();
        for record in records {
            builder.push(record.as_ref())?;
        }
        Ok(builder.finish())
    }

    /// Takes a body that came from outside, after checking that it is one.
    ///
    /// # Errors
    /// [`Error::BadPayload`] if it does not hold exactly `count` records.
    pub fn from_body(body: Bytes, count: u32) -> Result<Self> {
        check_body(&body, count)?;
        Ok(Self { body, count, key: None })
    }

    /// The records of several batches as one, without a key; copies them once.
    ///
    /// # Errors
    /// [`Error::TooLarge`] if that is above [`BATCH_BYTES_MAX`].
    pub fn concat<'a>(batches: impl IntoIterator<Item = &'a Self>) -> Result<Self> {
        let mut whole = Builder::default();
        for batch in batches {
            let bytes = whole.body.len() + batch.body.len();
            if bytes > BATCH_BYTES_MAX {
                return Err(Error::TooLarge { bytes, limit: BATCH_BYTES_MAX });
            }
            whole.body.extend_from_slice(&batch.body);
            whole.count += batch.count;
        }
        Ok(whole.finish())
    }

    /// The same records, appended under `key`.
    #[must_use]
    pub fn with_key(self, key: Key) -> Self {
        Self { key: Some(key), ..self }
    }

    /// The key it is appended under.
    pub fn key(&self) -> Option<Key> {
        self.key
    }

    /// How many records it holds.
    pub fn count(&self) -> u32 {
        self.count
    }

    /// The encoded records.
    pub fn body(&self) -> &Bytes {
        &self.body
    }
}

/// Encodes records into a [`Batch`].
#[derive(Debug, Default)]
pub struct Builder {
    body: Vec<u8>,
    count: u32,
}

impl Builder {
    /// Adds a record.
    ///
    /// # Errors
    /// [`Error::TooLarge`] if it is larger than [`RECORD_BYTES_MAX`], or the batch than
    /// [`BATCH_BYTES_MAX`]; the batch is as before then.
    pub fn push(&mut self, record: &[u8]) -> Result<()> {
        self.push_with(|body| body.extend_from_slice(record))
    }

    /// Adds a record that `write` appends to the buffer it is given.
    ///
    /// # Errors
    /// As [`Builder::push`].
    pub fn push_with(&mut self, write: impl FnOnce(&mut Vec<u8>)) -> Result<()> {
        let from = self.body.len();
        self.body.extend_from_slice(&[0; LENGTH_BYTES]);
        write(&mut self.body);
        assert!(self.body.len() >= from + LENGTH_BYTES, "a record's writer only appends");
        let bytes = self.body.len() - from - LENGTH_BYTES;
        let limit = if bytes > RECORD_BYTES_MAX { RECORD_BYTES_MAX } else { BATCH_BYTES_MAX };
        if bytes > RECORD_BYTES_MAX || self.body.len() > BATCH_BYTES_MAX {
            let bytes = if bytes > RECORD_BYTES_MAX { bytes } else { self.body.len() };
            self.body.truncate(from);
            return Err(Error::TooLarge { bytes, limit });
        }
        let length = u32::try_from(bytes).expect("below RECORD_BYTES_MAX");
        self.body[from..from + LENGTH_BYTES].copy_from_slice(&length.to_le_bytes());
        self.count += 1;
        Ok(())
    }

    /// Bytes encoded so far.
    pub fn bytes(&self) -> usize {
        self.body.len()
    }

    /// Records encoded so far.
    pub fn count(&self) -> u32 {
        self.count
    }

    /// The batch.
    #[must_use]
    pub fn finish(self) -> Batch {
        Batch { body: self.body.into(), count: self.count, key: None }
    }
}

/// The bytes of a journal entry, in two parts so that the body is copied once, into the journal's
/// buffer.
#[derive(Clone, Debug)]
pub struct Payload {
    head: HeadBytes,
    body: Bytes,
}

/// At most [`HEAD_BYTES_MAX`] bytes, without an allocation.
#[derive(Clone, Debug)]
struct HeadBytes {
    bytes: [u8; HEAD_BYTES_MAX],
    len: usize,
}

impl HeadBytes {
    fn put(&mut self, bytes: &[u8]) {
        self.bytes[self.len..self.len + bytes.len()].copy_from_slice(bytes);
        self.len += bytes.len();
    }

    fn filled(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

impl Payload {
    pub(super) fn new(head: &Head, tail: &Tail<'_>) -> Self {
        let extent = matches!(tail, Tail::Extent(_));
        let flags = u8::from(head.key.is_some()) * FLAG_KEY
            + u8::from(extent) * FLAG_EXTENT
            + u8::from(head.proof.is_some()) * FLAG_PROOF;
        let mut bytes = HeadBytes { bytes: [0; HEAD_BYTES_MAX], len: 0 };
        bytes.put(&[VERSION, flags, 0, 0]);
        bytes.put(&head.depot.0.to_le_bytes());
        bytes.put(&head.offsets.start.0.to_le_bytes());
        bytes.put(&head.append_time.0.to_le_bytes());
        bytes.put(&head.count().to_le_bytes());
        bytes.put(&head.body_bytes.to_le_bytes());
        if let Some(key) = head.key {
            bytes.put(&key.client.to_le_bytes());
            bytes.put(&key.sequence.to_le_bytes());
        }
        if let Some(proof) = head.proof {
            bytes.put(&proof.0.to_le_bytes());
        }
        let body = match tail {
            Tail::Body(body) => Bytes::clone(body),
            Tail::Extent(extent) => {
                extent.encode(&mut bytes);
                Bytes::new()
            }
        };
        Self { head: bytes, body }
    }

    /// Bytes in all.
    #[allow(clippy::len_without_is_empty, reason = "a payload is never empty")]
    pub fn len(&self) -> usize {
        self.head.len + self.body.len()
    }

    /// The parts, in order.
    pub fn parts(&self) -> [&[u8]; 2] {
        [self.head.filled(), &self.body]
    }

    /// Appends the bytes to `target`.
    pub fn write_to(&self, target: &mut Vec<u8>) {
        target.extend_from_slice(self.head.filled());
        target.extend_from_slice(&self.body);
    }

    /// The bytes, in one piece.
    #[must_use]
    pub fn to_vec(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.len());
        self.write_to(&mut bytes);
        bytes
    }
}

/// What a payload says about its records, beside the records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// Whose records they are.
    pub depot: DepotId,
    /// Their offsets.
    pub offsets: Range<Offset>,
    /// When they were appended.
    pub append_time: WallTime,
    /// Under which key.
    pub key: Option<Key>,
    /// Records below were durable when these were appended, their extents included: a damaged extent
    /// below was acknowledged and is no torn one. Only where bulk appends came before.
    pub proof: Option<Offset>,
    /// Bytes of the encoded records.
    pub body_bytes: u32,
}

impl Head {
    /// How many records.
    pub fn count(&self) -> u32 {
        u32::try_from(self.offsets.end.0 - self.offsets.start.0).expect("made from a u32")
    }
}

/// Where the bytes of a bulk append lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// The file's base offset, which is in its name.
    pub base: Offset,
    /// The file's id, which is in all its blocks.
    pub file_id: u64,
    /// Where in the file.
    pub at: u64,
    /// How many bytes, whole blocks.
    pub bytes: u64,
    /// The chain's value before the first block.
    pub chain_before: u32,
    /// The chain's value after the last block: vouches for every byte of the extent.
    pub chain_after: u32,
}

impl Extent {
    fn encode(&self, bytes: &mut HeadBytes) {
        for word in [self.base.0, self.file_id, self.at, self.bytes] {
            bytes.put(&word.to_le_bytes());
        }
        bytes.put(&self.chain_before.to_le_bytes());
        bytes.put(&self.chain_after.to_le_bytes());
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self> {
        Ok(Self {
            base: Offset(reader.u64()?),
            file_id: reader.u64()?,
            at: reader.u64()?,
            bytes: reader.u64()?,
            chain_before: reader.u32()?,
            chain_after: reader.u32()?,
        })
    }
}

pub(super) enum Tail<'a> {
    Body(&'a Bytes),
    Extent(&'a Extent),
}

/// A payload read back: either kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decoded<'a> {
    /// Of an entry `Append`.
    Append(Head, &'a [u8]),
    /// Of an entry `AppendBulk`.
    Bulk(Head, Extent),
}

impl<'a> Decoded<'a> {
    /// Reads a payload; the records of an `Append` are checked to be whole.
    ///
    /// # Errors
    /// [`Error::BadPayload`].
    pub fn read(payload: &'a [u8]) -> Result<Self> {
        let mut reader = Reader { rest: payload };
        let (head, flags) = decode_head(&mut reader)?;
        if flags & FLAG_EXTENT != 0 {
            let extent = Extent::decode(&mut reader)?;
            reader.end()?;
            let block = BLOCK_BYTES as u64;
            if extent.at % block != 0 || extent.bytes % block != 0 || extent.bytes == 0 {
                return Err(Error::BadPayload { what: "an extent that is not whole blocks" });
            }
            return Ok(Self::Bulk(head, extent));
        }
        if reader.rest.len() != head.body_bytes as usize {
            return Err(Error::BadPayload { what: "the body's length is not what the head says" });
        }
        check_body(reader.rest, head.count())?;
        Ok(Self::Append(head, reader.rest))
    }
}

/// What a payload of either kind says about its records, without looking at them.
///
/// # Errors
/// [`Error::BadPayload`].
pub fn head(payload: &[u8]) -> Result<Head> {
    decode_head(&mut Reader { rest: payload }).map(|(head, _flags)| head)
}

fn decode_head(reader: &mut Reader<'_>) -> Result<(Head, u8)> {
    let [version, flags, zero_low, zero_high] = reader.array::<4>()?;
    if version != VERSION || zero_low != 0 || zero_high != 0 || flags & !FLAGS != 0 {
        return Err(Error::BadPayload { what: "unknown version or flags" });
    }
    let depot = DepotId(reader.u32()?);
    let first = reader.u64()?;
    let append_time = WallTime(reader.u64()?);
    let count = reader.u32()?;
    let body_bytes = reader.u32()?;
    let end = first
        .checked_add(u64::from(count))
        .ok_or(Error::BadPayload { what: "offsets beyond 2^64" })?;
    let key = if flags & FLAG_KEY == 0 {
        None
    } else {
        let client = u128::from_le_bytes(reader.array()?);
        Some(Key { client, sequence: reader.u64()? })
    };
    let proof = if flags & FLAG_PROOF == 0 { None } else { Some(Offset(reader.u64()?)) };
    if body_bytes as usize > BATCH_BYTES_MAX {
        return Err(Error::BadPayload { what: "the body is too large" });
    }
    let offsets = Offset(first)..Offset(end);
    let head = Head { depot, offsets, append_time, key, proof, body_bytes };
    Ok((head, flags))
}

/// Reads little-endian numbers off the front of a slice.
pub(super) struct Reader<'a> {
    pub(super) rest: &'a [u8],
}

impl Reader<'_> {
    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let (array, rest) =
            self.rest.split_first_chunk().ok_or(Error::BadPayload { what: "it ends too early" })?;
        self.rest = rest;
        Ok(*array)
    }

    pub(super) fn u32(&mut self) -> Result<u32> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    pub(super) fn u64(&mut self) -> Result<u64> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    pub(super) fn end(&self) -> Result<()> {
        if self.rest.is_empty() {
            Ok(())
        } else {
            Err(Error::BadPayload { what: "it is too long" })
        }
    }
}

/// The length of the record at the front of a body, its length field included; `None` if the body
/// does not hold all of it.
pub(super) fn record_bytes(body: &[u8]) -> Option<usize> {
    let length = u32::from_le_bytes(*body.first_chunk()?) as usize;
    let bytes = length.checked_add(LENGTH_BYTES)?;
    (length <= RECORD_BYTES_MAX && bytes <= body.len()).then_some(bytes)
}

fn check_body(body: &[u8], count: u32) -> Result<()> {
    let mut rest = body;
    for _ in 0..count {
        let bytes = record_bytes(rest).ok_or(Error::BadPayload { what: "a record is cut off" })?;
        rest = rest.get(bytes..).unwrap_or_default();
    }
    if !rest.is_empty() {
        return Err(Error::BadPayload { what: "bytes behind the last record" });
    }
    Ok(())
}

/// No record is larger: it passes through memory in one piece.
pub const RECORD_BYTES_MAX: usize = 16 << 20;

/// No batch is larger, as it passes through one journal entry or one extent.
pub const BATCH_BYTES_MAX: usize = 32 << 20;

/// The length field before each record.
pub(super) const LENGTH_BYTES: usize = 4;

const VERSION: u8 = 1;
const FLAG_KEY: u8 = 1;
const FLAG_EXTENT: u8 = 2;
const FLAG_PROOF: u8 = 4;
const FLAGS: u8 = FLAG_KEY | FLAG_EXTENT | FLAG_PROOF;
/// Numbers, key, proof, extent.
const HEAD_BYTES_MAX: usize = 32 + 24 + 8 + 40;
