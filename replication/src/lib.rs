//! Agreement, and nothing that awaits: state machines `step(input, &mut effects)` without files,
//! sockets, clocks or tasks, and the wire messages they exchange.
//!
//! | module | what it holds |
//! |---|---|
//! | [`types`] | ids that cross the boundary to the engine |
//! | [`two_phase`] | coordinator and participant of microbatch transactions |
//! | [`wire`] | flatbuffers <-> messages; the only place that sees generated code |

pub mod two_phase;
pub mod types;
pub mod wire;
