//! Tidemill: an event-sourced backend platform on a thread-per-core storage engine.
//!
//! ```text
//! client, node -> shard -> topology, module -> depot, pstate -> page, journal -> codec -> env, types
//! ```
//!
//! A module declares depots, topologies over them, and the state they keep. A service opens a directory,
//! launches the module, and appends and reads through handles, here from a plain thread:
//!
//! ```
//! use tidemill::schema::{Map, aggregate::Sum};
//! use tidemill::{Engine, Options, block_on};
//! # let dir = tempfile::tempdir_in(".").unwrap();
//! # let dir = dir.path();
//!
//! let engine = block_on(Engine::open(dir, Options::default()))?;
//! let shop = block_on(engine.launch("shop", |m| {
//!     let sales = m.depot::<(String, i64)>("sales").hash_by(|(item, _)| item);
//!     let counting = m.microbatch(|| "counting");
//!     let sold = counting.pstate::<Map<String, i64>>("sold");
//!     counting.source(sales).aggregate(sold, |sold, (item, n)| sold.key(item).add(Sum(n)));
//!     (sales, sold.reader())
//! }))?;
//! let (sales, sold) = *shop;
//! let appended = block_on(shop.append(sales, &("tea".to_owned(), 3)))?; // durable now
//! block_on(shop.wait("counting", &appended))?; // and its effects are visible now
//! assert_eq!(block_on(shop.select(sold.key("tea")))?, Some(3));
//! block_on(engine.close())?;
//! # Ok::<(), tidemill::Error>(())
//! ```
//!
//! The futures belong to no runtime, so they run on any; handles are `Send + Sync + Clone`:
//!
//! ```
//! use tidemill::{Engine, Options};
//! # let dir = tempfile::tempdir_in(".").unwrap();
//! # let dir = dir.path();
//!
//! futures_lite::future::block_on(async {
//!     let engine = Engine::open(dir, Options::default()).await?;
//!     let notes = engine.launch("notes", |m| m.depot::<String>("notes").random()).await?;
//!     let (first, second) = ("first".to_owned(), "second".to_owned());
//!     let both = (notes.append(*notes, &first), notes.append(*notes, &second)); // on their way
//!     let (first, second) = futures_lite::future::zip(both.0, both.1).await;
//!     assert_eq!(first?.offsets.start, second?.offsets.start); // each the first of its partition
//!     engine.close().await
//! })
//! # .unwrap();
//! ```

// The macros name the crate by its name, within it, too.
extern crate self as tidemill;

#[doc(hidden)]
pub use serde;

pub mod backup;
pub mod client;
pub mod codec;
pub mod depot;
pub mod difference;
pub mod env;
pub mod error;
pub mod journal;
pub mod manifest;
pub mod migrate;
pub mod module;
pub mod node;
pub mod page;
pub mod probe;
pub mod pstate;
pub mod recompute;
pub mod schema;
pub mod shard;
pub mod subscribe;
pub mod testing;
pub mod topology;
pub mod types;
pub mod verify;
pub mod wire;

pub use client::{Engine, Launched, block_on};
pub use error::Error;
pub use node::Options;
