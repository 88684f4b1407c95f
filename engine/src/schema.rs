//! The types of `PState`s, and typed paths into them.
//!
//! A `PState` is a map or a set at its root. What is nested in it is stored as *one value*, unless it
//! is a [`Sub`]: then each of its elements is a row of its own, in key order, in the same tree.
//!
//! | schema | rows of the tree |
//! |---|---|
//! | `Map<K, V>` | `enc(k)` → value of `V` |
//! | `Map<K, Sub<Map<K2, V>>>` | `enc(k) ++ enc(k2)` → value of `V` |
//! | `Map<K, Sub<Set<E>>>` | `enc(k) ++ enc(e)` → no bytes |
//! | `Set<E>` | `enc(e)` → no bytes |
//!
//! A path starts at a token and is built step by step; each step is checked where it is written:
//!
//! ```
//! use tidemill::schema::{Map, PState, Sub};
//! fn last_ten(posts: PState<Map<String, Sub<Map<u64, String>>>>) {
//!     let _path = posts.key("ann").range(..1000).reverse().limit(10).values();
//! }
//! ```
//!
//! [`path`] has the paths, [`plan`] what they ask of the engine, [`aggregate`] what can be added.

use std::fmt;
use std::marker::PhantomData;

pub mod aggregate;
pub mod path;
pub mod plan;
pub mod shape;
mod select;
mod token;

pub use aggregate::{Aggregate, Change};
pub use path::{Direct, Many, Maybe, One, OwnedBy, Path};
pub use plan::{Answer, ReadOp, ReadPlan, Reads, Removal, Rows, Target};
pub use select::Select;
pub use token::{Anyone, Owned, PState};

macro_rules! marker {
    ($(#[$doc:meta])* $name:ident<$($parameter:ident),*>) => {
        $(#[$doc])*
        pub struct $name<$($parameter),*>(PhantomData<fn() -> ($($parameter,)*)>);

        impl<$($parameter),*> fmt::Debug for $name<$($parameter),*> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(std::any::type_name::<Self>())
            }
        }
    };
}

marker!(
    /// A map from `K` to `V`. Never a value: a type to describe a `PState` with.
    Map<K, V>
);
marker!(
    /// A set of `E`. Never a value: a type to describe a `PState` with.
    Set<E>
);
marker!(
    /// The collection `C` stored element by element, in key order.
    Sub<C>
);
