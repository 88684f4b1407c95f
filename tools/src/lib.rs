//! The command line of Tidemill, one file per subcommand, and what they share.
//!
//! ```text
//! main -> cli -> verify, inspect -> directory (mapped files) -> tidemill::verify
//! ```
//!
//! It is a library so that tests, and the load generator after each of its crashes, can verify a
//! directory without starting a process.

pub mod cli;
pub mod directory;
pub mod inspect;
pub mod json;
pub mod verify;
