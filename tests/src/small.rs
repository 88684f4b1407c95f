//! An engine in which everything that takes much data elsewhere happens soon: folds, journal files that are used
//! again, memory that runs short.

use std::sync::Arc;

use tidemill::client::Engine;
use tidemill::node::Options;

use crate::node::Node;

/// So many shards over eight partitions.
#[must_use]
pub fn options(shards: u16) -> Options {
    Options {
        shards,
        partitions: Some(8),
        memory_bytes: 4 << 20,
        journal_bytes_max: 1 << 20,
        journal_file_bytes: 128 << 10,
        ..Options::default()
    }
}

/// Opens one on a node.
///
/// # Errors
/// As [`Engine::open_on`].
pub async fn open(node: &Node, shards: u16) -> tidemill::error::Result<Engine> {
    Engine::open_on(Arc::new(node.platform()), options(shards), |_| {}).await
}
