//! What a fold records of a depot log.
//!
//! ```text
//! u8 version (1), u64 first, u64 end, u64 append time, u64 placed, u32 segments,
//! segments x { u64 base, u64 end, u64 file id, u64 bytes, u64 last at, u64 append time, u32 chain,
//!              u8 sealed },
//! u32 clients, clients x { u128 client, u32 appends, appends x { u64 sequence, u64 first, u32 records } }
//! ```
//!
//! The fold's own page vouches for the bytes; nothing here has a checksum.

use super::batch::Reader;
use super::dedup::Dedup;
use super::format::FIRST_BLOCK_AT;
use super::{Error, Result};
use crate::env::BLOCK_BYTES;
use crate::types::{Index, Offset, WallTime};

/// Everything of a log that is not in the journal above the fold: what [`super::Log::open`] starts
/// from. All of it is synced when [`super::Log::state`] returns it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    /// Records below are trimmed.
    pub first: Offset,
    /// Records below are in the segments; the journal has the rest.
    pub end: Offset,
    /// The append time of the last record below `end`.
    pub append_time: WallTime,
    /// The last microbatch commit whose records lie below `end`; see [`super::Log::place`].
    pub placed: Index,
    /// In order; each begins where the one before it ends. All but the last are sealed.
    pub segments: Vec<SegmentState>,
    /// The keys of the newest appends below `end`.
    pub dedup: Dedup,
}

/// One segment file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentState {
    /// Its first offset, which is in its name.
    pub base: Offset,
    /// The offset after its last record.
    pub end: Offset,
    /// Drawn when it was made; in each of its blocks.
    pub file_id: u64,
    /// Bytes that hold something: up to the end of the last block, or of the footer when sealed.
    pub bytes: u64,
    /// Where the last structure starts: header, block or footer.
    pub last_at: u64,
    /// Its checksum: vouches for everything before it.
    pub chain: u32,
    /// The append time of its last record.
    pub append_time: WallTime,
    /// Whether it ends in a footer and never changes again.
    pub sealed: bool,
}

impl State {
    /// The bytes to store.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![VERSION];
        for word in [self.first.0, self.end.0, self.append_time.0, self.placed.0] {
            bytes.extend_from_slice(&word.to_le_bytes());
        }
        let count = u32::try_from(self.segments.len()).expect("files number far below 2^32");
        bytes.extend_from_slice(&count.to_le_bytes());
        for segment in &self.segments {
            let SegmentState { base, end, file_id, bytes: used, last_at, append_time, .. } =
                segment;
            for word in [base.0, end.0, *file_id, *used, *last_at, append_time.0] {
                bytes.extend_from_slice(&word.to_le_bytes());
            }
            bytes.extend_from_slice(&segment.chain.to_le_bytes());
            bytes.push(u8::from(segment.sealed));
        }
        self.dedup.encode(&mut bytes);
        bytes
    }

    /// Reads it back.
    ///
    /// # Errors
    /// [`Error::BadPayload`] if these are not the bytes of a possible state.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let mut reader = Reader { rest: bytes };
        if reader.array()? != [VERSION] {
            return Err(Error::BadPayload { what: "a depot state of an unknown version" });
        }
        let (first, end) = (Offset(reader.u64()?), Offset(reader.u64()?));
        let (append_time, placed) = (WallTime(reader.u64()?), Index(reader.u64()?));
        let mut segments = Vec::new();
        for _ in 0..reader.u32()? {
            segments.push(SegmentState {
                base: Offset(reader.u64()?),
                end: Offset(reader.u64()?),
                file_id: reader.u64()?,
                bytes: reader.u64()?,
                last_at: reader.u64()?,
                append_time: WallTime(reader.u64()?),
                chain: reader.u32()?,
                sealed: reader.array()? == [1],
            });
        }
        let dedup = Dedup::decode(&mut reader)?;
        reader.end()?;
        let state = Self { first, end, append_time, placed, segments, dedup };
        state.check()?;
        Ok(state)
    }

    /// Whether this can be the state of a log at all.
    pub(super) fn check(&self) -> Result<()> {
        let block = BLOCK_BYTES as u64;
        let contiguous = self.segments.windows(2).all(|pair| {
            let [left, right] = pair else { return false };
            left.sealed && left.end == right.base && left.append_time <= right.append_time
        });
        let each = self.segments.iter().all(|s| {
            s.base <= s.end
                && s.last_at < s.bytes
                && s.last_at % block == 0
                && s.bytes % block == 0
                && (s.last_at >= FIRST_BLOCK_AT || s.base == s.end)
        });
        let covered = match (self.segments.first(), self.segments.last()) {
            (Some(lowest), Some(highest)) => {
                lowest.base <= self.first && self.first <= self.end && self.end == highest.end
            }
            _ => self.first == self.end,
        };
        if contiguous && each && covered {
            return Ok(());
        }
        Err(Error::BadPayload { what: "a depot state that contradicts itself" })
    }
}

const VERSION: u8 = 1;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn survives_encoding_and_notices_cuts() {
        let segment = |base, end, sealed| SegmentState {
            base: Offset(base),
            end: Offset(end),
            file_id: 77 + base,
            bytes: 12288,
            last_at: 8192,
            chain: 5,
            append_time: WallTime(base),
            sealed,
        };
        let state = State {
            first: Offset(3),
            end: Offset(30),
            append_time: WallTime(9),
            placed: Index(4),
            segments: vec![segment(0, 10, true), segment(10, 30, false)],
            dedup: Dedup::default(),
        };
        let bytes = state.encode();
        assert_eq!(State::decode(&bytes).unwrap(), state);
        for cut in 0..bytes.len() {
            State::decode(&bytes[..cut]).unwrap_err();
        }
        let gap = State { segments: vec![segment(0, 9, true), segment(10, 30, false)], ..state };
        State::decode(&gap.encode()).unwrap_err();
    }
}
