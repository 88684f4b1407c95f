//! Tidemill: an event-sourced backend platform on a thread-per-core storage engine.
//!
//! ```text
//! client, node -> shard -> topology, module -> depot, pstate -> page, journal -> codec -> env, types
//! ```

pub mod codec;
pub mod env;
pub mod probe;
pub mod schema;
pub mod types;
