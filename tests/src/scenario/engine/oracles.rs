//! The invariants, one file each. All judge by what clients have seen, and by `verify`.

pub(super) mod acknowledged;
pub(super) mod applied;
pub(super) mod backed_up;
pub(super) mod explained;
pub(super) mod folded;
pub(super) mod followed;
pub(super) mod offline;
pub(super) mod once;
pub(super) mod sized;
pub(super) mod snapshot;
pub(super) mod unchanged;
