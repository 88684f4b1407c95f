//! Tidemill: an event-sourced backend platform on a thread-per-core storage engine.
//!
//! ```text
//! client, node -> shard -> topology, module -> depot, pstate -> page, journal -> codec -> env, types
//! ```

// The macros name the crate by its name, within it, too.
extern crate self as tidemill;

#[doc(hidden)]
pub use serde;

pub mod client;
pub mod codec;
pub mod depot;
pub mod env;
pub mod error;
pub mod journal;
pub mod manifest;
pub mod module;
pub mod node;
pub mod page;
pub mod probe;
pub mod pstate;
pub mod schema;
pub mod shard;
pub mod topology;
pub mod types;
pub mod verify;

pub use client::{Engine, Launched, block_on};
pub use error::Error;
pub use node::Options;
