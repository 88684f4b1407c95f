//! *followed*: what a subscriber holds at an id is what a snapshot at that id reads, over crashes, reopened shards
//! and gaps; and it is told of every step between two ids.

use std::fmt::Debug;

use tidemill::types::MicrobatchId;

use crate::scenario::{Failure, check};

const NAME: &str = "followed";

/// Judges what a subscriber holds at an id.
pub(in super::super) fn judge<T: PartialEq + Debug>(
    id: MicrobatchId,
    held: &T,
    read: &T,
) -> Result<(), Failure> {
    check(NAME, held == read, || {
        format!("at {id} a subscriber holds {held:?}, and a snapshot reads {read:?}")
    })
}

/// Judges the ids of one change, after it was told up to one. A value that is read anew may be the same one.
pub(in super::super) fn step(
    told: MicrobatchId,
    (from, to): (MicrobatchId, MicrobatchId),
    is_resync: bool,
) -> Result<(), Failure> {
    check(NAME, from == told && (from < to || is_resync && from == to), || {
        format!("a subscriber that was told up to {told} was told of {from} to {to}")
    })
}
