//! What a fold records of a depot log.

use crate::types::{Index, Offset, WallTime};

use super::dedup::Dedup;

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
    /// Checksum of the last block, or of the footer: vouches for everything before it.
    pub chain: u32,
    /// The append time of its last record.
    pub append_time: WallTime,
    /// Whether it ends in a footer and never changes again.
    pub sealed: bool,
}
