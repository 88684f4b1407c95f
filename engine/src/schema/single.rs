//! [`Single`]: `PState`s that live in one partition.
//!
//! ```
//! use tidemill::module::{self, Module};
//! use tidemill::schema::aggregate::Count;
//! use tidemill::schema::{List, Single, Sub};
//! use tidemill::topology::harness::Harness;
//!
//! let (handles, module) = module::define("shop", |m| {
//!     let sales = m.depot::<(String, u64)>("sales").hash_by(|(item, _)| item);
//!     let t = m.microbatch(|| "selling");
//!     let sold = t.pstate::<Single<u64>>("sold");
//!     let large = t.pstate::<Single<Sub<List<String>>>>("large");
//!     t.source(sales)
//!         .also(|b| b.aggregate(sold, |sold, _| sold.whole().add(Count))) // combined where sales are
//!         .filter(|(_, n)| *n > 100)
//!         .global() // to where single PStates are
//!         .using(large)
//!         .for_each(async |at, large, (item, _)| Ok(at.push(large.whole(), item).await?));
//!     (sales, sold.reader(), large.reader())
//! })?;
//! let (sales, sold, large) = handles;
//! let mut shop = Harness::new(module, 8)?;
//! for (item, n) in [("tea", 3), ("salt", 900), ("rice", 20)] {
//!     shop.append(sales, &(item.to_owned(), n))?;
//! }
//! shop.run()?;
//! assert_eq!(shop.select(sold.whole())?, Some(3));
//! assert_eq!(shop.select(large.all())?, ["salt"]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! It is partition 0, where a depot that is `single()` and a flow that is `global()` are. So one shard does all
//! that is done with it: for what everybody asks, and few write, or write by `aggregate`, which sends a single
//! partial from each partition.

#[cfg(doc)]
use super::PState;
use super::{Layout, Maybe, Placing, Position, Schema, sizes};
use crate::codec::Result;
use crate::codec::table::Trace;

marker!(
    /// The type of a `PState` that lives in one partition: a value, a record, or a `Sub` map, set or list. Its
    /// paths have no first key: they start with [`whole`](PState::whole), or go on right from the token.
    Single<P>
);

impl<P: Position> Schema for Single<P> {
    type Root = P;
    type Held = Maybe;
    type Seen<O> = O;

    const PLACING: Placing = Placing::Single;

    fn layout(trace: &mut Trace) -> Result<Layout> {
        sizes::checked(P::layout(trace)?)
    }
}

/// Types of `PState`s to all of which a path can lead.
#[diagnostic::on_unimplemented(
    message = "no path leads to all of a `{Self}`, which is spread over all partitions",
    label = "start with a first key: `.key(k)`, `.has(e)`, `.range(a..b)` or `.all()`",
    note = "a PState that lives in one partition is declared `Single<P>`, where `P` is a value, a record or a `Sub`"
)]
pub trait Whole: Schema {}

impl<P: Position> Whole for Single<P> {}
