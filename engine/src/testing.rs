//! What tests of modules, and of functions over `PState`s, are written with.
//!
//! * [`TestPState`] is one `PState` without a module: its paths, reads and writes are the engine's own, down
//!   to the layers and the pages, on a disk in memory.
//! * [`Harness`] runs a whole module in memory, one microbatch at a call.
//! * [`Io`] says what an event asked of its partition: [`TestPState::take_io`] and [`Ran::io`] give it, and an
//!   engine tells it to the [`EventHook`] of [`Options::event_hook`](crate::Options::event_hook). So a test
//!   can hold code to a budget.
//!
//! ```
//! use tidemill::schema::Map;
//! use tidemill::testing::TestPState;
//!
//! let stock = TestPState::<Map<String, u32>>::new()?;
//! let nuts = || stock.token().key("nuts");
//! stock.put(nuts(), 5).unwrap();
//! stock.run(async |at| Ok(at.update(nuts(), |old| old.map(|n| n - 2)).await?)).unwrap();
//! assert_eq!(stock.select(nuts()).unwrap(), Some(3));
//!
//! let io = stock.take_io();
//! assert_eq!((io.reads, io.puts), (2, 2)); // one of each in `update`, one put, one select
//! # Ok::<(), tidemill::codec::Error>(())
//! ```

mod counted;
mod pstate;
mod store;
#[cfg(test)]
mod tests;

pub(crate) use counted::counted;
pub use counted::{EventHook, EventIo, Io};
pub use pstate::{Test, TestPState};

pub use crate::topology::harness::{Harness, Ran};
