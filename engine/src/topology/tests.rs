//! Modules in the harness.

mod bank;
