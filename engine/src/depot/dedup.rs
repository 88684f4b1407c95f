//! The window in which a repeated append gets the first answer.

/// The newest keys of the newest clients.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dedup {}
