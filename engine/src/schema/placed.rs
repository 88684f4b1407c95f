//! [`Placed`]: `PState`s whose entries live where a function says.
//!
//! ```
//! use tidemill::codec::EncodeKey;
//! use tidemill::module;
//! use tidemill::schema::aggregate::Sum;
//! use tidemill::schema::{Map, PlaceBy, Placed};
//! use tidemill::topology::harness::Harness;
//!
//! /// Accounts live where their country does.
//! enum Country {}
//!
//! impl PlaceBy<(String, u64)> for Country {
//!     const NAME: &'static str = "country";
//!
//!     fn by((country, _): &(String, u64)) -> impl EncodeKey {
//!         country
//!     }
//! }
//!
//! let (handles, module) = module::define("bank", |m| {
//!     let paid = m.depot::<((String, u64), i64)>("paid").random();
//!     let t = m.microbatch(|| "ledger");
//!     let funds = t.pstate::<Placed<Map<(String, u64), i64>, Country>>("funds");
//!     let largest = t.pstate::<Map<String, i64>>("largest");
//!     t.source(paid)
//!         .hash_by(|((country, _), _)| country)
//!         .using((funds, largest))
//!         .for_each(async |at, (funds, largest), (account, cents)| {
//!             let now = at.get(funds.key(&account)).await?.unwrap_or(0) + cents;
//!             at.put(funds.key(&account), now)?;
//!             // Both are here, since both are placed by the country.
//!             let most = at.get(largest.key(&account.0)).await?;
//!             at.put(largest.key(account.0), most.map_or(now, |it| it.max(now)))?;
//!             Ok(())
//!         });
//!     (paid, funds.reader(), largest.reader())
//! })?;
//! let (paid, funds, largest) = handles;
//! let mut bank = Harness::new(module, 8)?;
//! for (number, cents) in [(1, 500), (2, 900), (1, 100)] {
//!     bank.append(paid, &(("nz".to_owned(), number), cents))?;
//! }
//! bank.run()?;
//! assert_eq!(bank.select(funds.key(("nz".to_owned(), 1)))?, Some(600));
//! assert_eq!(bank.select(largest.key("nz"))?, Some(900));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! To place keys costs decoding and encoding them once more for each path. The catalogue remembers the
//! function's name: what is stored would not be found by another one.

use super::{Layout, Map, One, Placing, Position, Schema, Set, Spread, sizes};
use crate::codec::key::decode_key;
use crate::codec::table::Trace;
use crate::codec::{EncodeKey, Key, Placement, Result, encode_key};

/// Says by what of them first keys of type `K` are placed. Implement it for an empty enum.
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not say where keys of type `{K}` live",
    label = "not a way to place keys of type `{K}`",
    note = "implement `tidemill::schema::PlaceBy<{K}>` for an empty enum, and declare `Placed<Map<{K}, V>, ThatEnum>`"
)]
pub trait PlaceBy<K>: 'static {
    /// Names the function in the catalogue. One that gives anything else needs another name.
    const NAME: &'static str;

    /// What is hashed in the place of the key: a part of it, or what is made of it. Always the same.
    fn by(key: &K) -> impl EncodeKey;
}

/// The type of a `PState` of type `C`, a map or a set, whose first keys are placed by `F`.
pub struct Placed<C, F>(std::marker::PhantomData<fn() -> (C, F)>);

impl<C, F> std::fmt::Debug for Placed<C, F> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(std::any::type_name::<Self>())
    }
}

impl<K: Key, V: Position, F: PlaceBy<K>> Schema for Placed<Map<K, V>, F> {
    type Root = Spread<Map<K, V>>;
    type Held = One;
    type Seen<O> = O;

    const PLACING: Placing = Placing::By { name: F::NAME, place: place::<K, F> };

    fn layout(trace: &mut Trace) -> Result<Layout> {
        sizes::checked(Self::Root::layout(trace)?)
    }
}

impl<E: Key, F: PlaceBy<E>> Schema for Placed<Set<E>, F> {
    type Root = Spread<Set<E>>;
    type Held = One;
    type Seen<O> = O;

    const PLACING: Placing = Placing::By { name: F::NAME, place: place::<E, F> };

    fn layout(trace: &mut Trace) -> Result<Layout> {
        sizes::checked(Self::Root::layout(trace)?)
    }
}

fn place<K: Key, F: PlaceBy<K>>(first: &[u8]) -> Result<Placement> {
    let key = decode_key::<K>(first)?;
    let by = F::by(&key);
    Ok(Placement::of(&encode_key(&by)))
}
