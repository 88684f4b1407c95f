//! [`Placing`]: in which partition the rows of a `PState` live.

use std::fmt;

use super::Layout;
use crate::codec::{Placement, Result};

/// Where the rows of a `PState` live.
#[derive(Clone, Copy, Debug)]
pub enum Placing {
    /// Where the hash of the first key of their paths says.
    Hash,
    /// All of them in partition 0: see [`Single`](super::Single).
    Single,
    /// Where the hash of what a function makes of the first key says: see [`Placed`](super::Placed).
    By {
        /// The function's name.
        name: &'static str,
        /// Says where a first key lives, given its bytes.
        place: Place,
    },
}

/// A `PState`, for what reads its rows without its type.
#[derive(Clone, Copy, Debug)]
pub struct Described<'a> {
    /// Its name.
    pub name: &'a str,
    /// How it lies in rows.
    pub layout: &'a Layout,
    /// Where they live.
    pub placing: Placing,
    /// Of a single value: its bytes where nothing is stored.
    pub initial: Option<&'a [u8]>,
}

/// Says where a first key lives, given its bytes.
pub type Place = fn(&[u8]) -> Result<Placement>;

impl Placing {
    /// Where rows lie whose paths begin with the bytes of a first key; `None` for those of paths without one,
    /// which are spread over all partitions.
    ///
    /// # Errors
    /// As [`decode_key`](crate::codec::key::decode_key), of a function that is given the key.
    pub fn of(self, first: Option<&[u8]>) -> Result<Option<Placement>> {
        match self {
            Self::Hash => Ok(first.map(Placement::of)),
            Self::Single => in_one_place(&[]).map(Some),
            Self::By { place, .. } => first.map(place).transpose(),
        }
    }

    /// The function to be asked where hashing the bytes is not all there is to it.
    pub(super) const fn function(self) -> Option<Place> {
        match self {
            Self::Hash => None,
            Self::Single => Some(in_one_place),
            Self::By { place, .. } => Some(place),
        }
    }

    /// Whether all rows lie in one partition.
    pub(crate) const fn is_single(self) -> bool {
        matches!(self, Self::Single)
    }
}

/// Where a depot that is `single()` and a flow that is `global()` are as well.
#[allow(clippy::unnecessary_wraps, reason = "has the type of all such functions")]
fn in_one_place(_first: &[u8]) -> Result<Placement> {
    Ok(Placement::from_hash(0))
}

impl fmt::Display for Placing {
    /// Where a key lives that does not live here, and how to get there: goes on "the key lives on partition 3; ".
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Hash => f.write_str("hop there first, by `hash_by` of the first key"),
            Self::Single => f.write_str(
                "the whole PState does, since it is `Single`: go there by `global()`, or let `aggregate` do it",
            ),
            Self::By { name, .. } => {
                write!(f, "keys are placed by `{name}`: hop there first, by `hash_by` of what that makes of them")
            }
        }
    }
}
