//! Tidemill: an event-sourced backend platform on a thread-per-core storage engine.
//!
//! ```text
//! client, node -> shard -> topology, module -> depot, pstate -> page, journal -> codec -> env, types
//! ```

pub mod depot;
pub mod env;
pub mod journal;
pub mod manifest;
pub mod page;
pub mod probe;
pub mod pstate;
pub mod types;
