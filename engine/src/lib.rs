//! Tidemill: an event-sourced backend platform on a thread-per-core storage engine.
//!
//! ```text
//! client, node -> shard -> topology, module -> depot, pstate -> page, journal -> codec -> env, types
//! ```

pub mod env;
pub mod module;
pub mod probe;
pub mod topology;
pub mod types;
