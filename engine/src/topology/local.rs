//! What an event sees of the partition it runs on.

use std::error::Error as StdError;
use std::ops::ControlFlow;

use super::FailureKind;
use crate::codec::{self, FieldTable};
use crate::env::LocalFuture;
use crate::module::{DepotIndex, PStateIndex};
use crate::schema::{Described, Layout, Placing};
use crate::types::{PartitionId, WallTime};

/// One partition, as the code of one topology sees it during one attempt at a microbatch: the state
/// that is visible to it, under what this attempt has written already.
///
/// Keys and values are encoded. `PState`s and depots are named by their place in the module's
/// [`Definition`](crate::module::Definition). All reads of `PState`s the topology owns see its own
/// writes.
pub trait Local {
    /// The partition's number.
    fn partition(&self) -> PartitionId;

    /// How many partitions the engine has: a power of two.
    fn partitions(&self) -> u32;

    /// The time the microbatch began; the same in every attempt.
    fn now(&self) -> WallTime;

    /// Where the chance of this microbatch starts: a number made of the topology's identity and the
    /// microbatch's id, the same in every attempt and on every partition. Random numbers and ids of
    /// rows are made of it and of their [`Origin`](super::Origin).
    fn seed(&self) -> u64;

    /// Whether this only makes state again, of records that were done before.
    fn is_recompute(&self) -> bool {
        false
    }

    /// The numbers of fields, which values and records are encoded with.
    fn fields(&self) -> &FieldTable;

    /// A `PState` of the module, for what reads its rows without its type.
    fn described(&self, pstate: PStateIndex) -> Described<'_>;

    /// Looks one key up. What this attempt has written, and what it has deleted, is always in memory. If what
    /// the look-up takes is in memory, calls `visit` once, with the value if there is
    /// one, and returns [`Access::Ready`]. Else returns [`Access::Miss`]; when its future is done, the
    /// caller asks again.
    ///
    /// # Errors
    /// [`StateError::Unavailable`].
    fn get<'a>(
        &'a self,
        pstate: PStateIndex,
        key: &[u8],
        visit: &mut dyn FnMut(Option<&[u8]>),
    ) -> Result<Access<'a>, StateError>;

    /// As [`Local::get`], without what this attempt has written.
    ///
    /// # Errors
    /// [`StateError::Unavailable`].
    fn get_below<'a>(
        &'a self,
        pstate: PStateIndex,
        key: &[u8],
        visit: &mut dyn FnMut(Option<&[u8]>),
    ) -> Result<Access<'a>, StateError>;

    /// The layout of a `PState` of the module, if a collection in it counts its elements; none if whatever
    /// is written there is written and no more.
    fn sizes(&self, pstate: PStateIndex) -> Option<&Layout>;

    /// Calls `visit` with the keys and values of `range`, in its order, until it breaks or
    /// `range.limit` are done.
    ///
    /// # Errors
    /// [`StateError::Unavailable`].
    fn scan<'a>(
        &'a self,
        pstate: PStateIndex,
        range: Scan<'a>,
        visit: &'a mut Visit<'a>,
    ) -> LocalFuture<'a, Result<(), StateError>>;

    /// Writes one value; reads nothing. Only for `PState`s the topology owns.
    ///
    /// # Errors
    /// [`StateError::Unavailable`], for example when the attempt has outgrown its memory.
    fn put(&self, pstate: PStateIndex, key: &[u8], value: &[u8]) -> Result<(), StateError>;

    /// Deletes one key, which need not exist; reads nothing.
    ///
    /// # Errors
    /// As [`Local::put`].
    fn delete(&self, pstate: PStateIndex, key: &[u8]) -> Result<(), StateError>;

    /// Deletes all keys from `from` up to but without `to`, or to the end of the `PState`.
    ///
    /// # Errors
    /// As [`Local::put`].
    fn delete_range(
        &self,
        pstate: PStateIndex,
        from: &[u8],
        to: Option<&[u8]>,
    ) -> Result<(), StateError>;

    /// Rows of about so many bytes were sent by the event so far, which runs on.
    ///
    /// # Errors
    /// As [`Local::put`].
    fn emitted(&self, bytes: usize) -> Result<(), StateError> {
        let _ = bytes;
        Ok(())
    }

    /// Brings what a [`Local::get`] of each of the keys needs into memory, many reads at once. A hint:
    /// it may do less.
    ///
    /// # Errors
    /// [`StateError::Unavailable`].
    fn prefetch<'a>(
        &'a self,
        pstate: PStateIndex,
        keys: &'a [&'a [u8]],
    ) -> LocalFuture<'a, Result<(), StateError>>;

    /// Asked between the rows of a batch: a future to wait for if others should run first.
    fn pause(&self) -> Option<LocalFuture<'_, ()>> {
        None
    }

    /// Appends a record to this partition of a depot, as part of the microbatch.
    ///
    /// # Errors
    /// As [`Local::put`].
    fn append(&self, depot: DepotIndex, record: &[u8]) -> Result<(), StateError>;
}

/// What [`Local::scan`] calls with each key and value.
pub type Visit<'v> = dyn FnMut(&[u8], &[u8]) -> ControlFlow<()> + 'v;

/// The answer of [`Local::get`].
pub enum Access<'a> {
    /// The visitor was called.
    Ready,
    /// Something has to be read first.
    Miss(LocalFuture<'a, Result<(), StateError>>),
}

impl std::fmt::Debug for Access<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Ready => "Ready",
            Self::Miss(_) => "Miss",
        })
    }
}

/// Which keys of a `PState` to visit, and how.
#[derive(Clone, Copy, Debug)]
pub struct Scan<'a> {
    /// The smallest key.
    pub from: &'a [u8],
    /// The end, not included; `None` is the end of the `PState`.
    pub to: Option<&'a [u8]>,
    /// From the largest key down.
    pub reverse: bool,
    /// At most so many.
    pub limit: usize,
    /// Values are not looked at: the visitor may be given empty ones.
    pub keys_only: bool,
}

/// What an event's access to its partition can end in.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StateError {
    /// The partition cannot answer now: a failed read, a stopped shard, no memory or disk left.
    #[error("cannot {op} on partition {partition}")]
    Unavailable {
        /// What was attempted.
        op: &'static str,
        /// Where.
        partition: PartitionId,
        /// Why.
        #[source]
        source: Box<dyn StdError + Send + Sync>,
    },
    /// The path's first key lives in another partition. Hop there first.
    #[error(
        "cannot {op} PState {pstate} on partition {here}: the key lives on partition {lives}; {placing}"
    )]
    Misplaced {
        /// What was attempted.
        op: &'static str,
        /// Of which `PState`.
        pstate: PStateIndex,
        /// Where the event runs.
        here: PartitionId,
        /// Where the key lives.
        lives: PartitionId,
        /// How it comes there.
        placing: Placing,
    },
    /// A list has no such index.
    #[error(
        "cannot {op} a list of PState {pstate} on partition {partition} at index {index}: it has {count} \
         elements"
    )]
    Beyond {
        /// What was attempted.
        op: &'static str,
        /// Of which `PState`.
        pstate: PStateIndex,
        /// Where.
        partition: PartitionId,
        /// The index asked for.
        index: u64,
        /// How many elements there are.
        count: u64,
    },
    /// What was given cannot be a key or a value, for example because it is too long.
    #[error("cannot {op} on partition {partition}")]
    Refused {
        /// What was attempted.
        op: &'static str,
        /// Where.
        partition: PartitionId,
        /// Why.
        #[source]
        source: codec::Error,
    },
    /// What is stored does not decode as the type that the module now gives it.
    #[error("cannot decode what is stored in PState {pstate} on partition {partition}")]
    Undecodable {
        /// Of which `PState`.
        pstate: PStateIndex,
        /// Where.
        partition: PartitionId,
        /// Why.
        #[source]
        source: codec::Error,
    },
}

impl StateError {
    /// What it means for the row that met it: what the row's code asked for in vain is the row's fault,
    /// the state and the surroundings are not.
    #[must_use]
    pub fn kind(&self) -> FailureKind {
        match self {
            Self::Unavailable { .. } | Self::Undecodable { .. } => FailureKind::Retry,
            Self::Misplaced { .. } | Self::Beyond { .. } | Self::Refused { .. } => {
                FailureKind::Reject
            }
        }
    }
}
