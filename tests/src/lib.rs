//! The simulator, and the tests that need more than one crate.
//!
//! ```text
//! simulate -> tally -> scenario -> world -> {node -> disk} -> {counts, trace, random}
//! ```
//!
//! A [`world::World`] runs the unchanged engine on one thread, with virtual time and one seed;
//! `DETERMINISM.md` lists every source of chance and what became of it.

pub mod counts;
pub mod disk;
pub mod node;
pub mod random;
pub mod scenario;
pub mod small;
pub mod tally;
pub mod trace;
pub mod world;
