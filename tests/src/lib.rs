//! The simulator, and the tests that need more than one crate.
