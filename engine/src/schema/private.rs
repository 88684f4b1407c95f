//! [`Private`]: `PState`s that clients do not see.
//!
//! ```
//! use tidemill::schema::{Map, Private};
//! # use tidemill::{Engine, Options, block_on};
//! # let dir = tempfile::tempdir_in(".").unwrap();
//! # let engine = block_on(Engine::open(dir.path(), Options::default()))?;
//!
//! let shop = block_on(engine.launch("shop", |m| {
//!     let visits = m.depot::<(String, u64)>("visits").hash_by(|(user, _)| user);
//!     let t = m.microbatch(|| "visiting");
//!     let last = t.pstate::<Private<Map<String, u64>>>("last"); // how it is done
//!     let days = t.pstate::<Map<String, u64>>("days"); // what clients see
//!     t.source(visits).using((last, days)).for_each(async |at, (last, days), (user, day)| {
//!         if at.get(last.key(&user)).await? != Some(day) {
//!             at.put(last.key(&user), day)?;
//!             at.update(days.key(&user), |count| Some(count.unwrap_or(0) + 1)).await?;
//!         }
//!         Ok(())
//!     });
//!     (visits, days.reader())
//! }))?;
//! # block_on(engine.close())?;
//! # Ok::<(), tidemill::Error>(())
//! ```
//!
//! All topologies of the module can use its token. What a client asks by a path of it, or by the token and a
//! query, does not compile. Tests can look at it: with the harness, and in a [`TestPState`](crate::testing::TestPState).
//! Whether a `PState` is private may change with every launch.

use super::{Anyone, EncodeInitial, Layout, Owned, OwnedBy, PState, Path, Placing, Schema, Whole};
use crate::codec::Result;
use crate::codec::table::Trace;

marker!(
    /// The type of a `PState` of type `S` that clients do not see.
    Private<S>
);

marker!(
    /// The owner of the paths of a private `PState`, where they would be those of `O` if it was not.
    Hidden<O>
);

impl<S: Schema> Schema for Private<S> {
    type Root = S::Root;
    type Held = S::Held;
    type Seen<O> = Hidden<O>;

    const PLACING: Placing = S::PLACING;
    const INITIAL: Option<EncodeInitial> = S::INITIAL;

    fn layout(trace: &mut Trace) -> Result<Layout> {
        S::layout(trace)
    }
}

impl<S: Whole> Whole for Private<S> {}

impl<O> OwnedBy<O> for Hidden<O> {}

/// Whose paths are: what a topology is as an owner, or [`Anyone`].
pub trait Owning: 'static {
    /// Who may write there.
    type Writer;
}

impl Owning for Anyone {
    type Writer = Self;
}

impl<O: Owning> Owning for Hidden<O> {
    type Writer = O::Writer;
}

/// Owners whose paths clients may read as well.
#[diagnostic::on_unimplemented(
    message = "this PState is private: clients cannot read it",
    label = "leads into a `Private` PState",
    note = "topologies of its module can: let one keep what clients shall see in a PState that is not `Private`",
    note = "or take `Private` out of the PState's type"
)]
pub trait Open {}

impl Open for Anyone {}

/// What clients may read: paths and tuples of them, and tokens.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be read by a client",
    label = "neither a path, nor a tuple of paths, nor a token"
)]
pub trait Outside {}

impl<S, M, O: Open> Outside for Path<S, M, O> {}

impl<S: Schema<Seen<Anyone>: Open>> Outside for PState<S> {}

impl<S: Schema<Seen<Anyone>: Open>, O> Outside for Owned<S, O> {}

macro_rules! tuple {
    ($($path:ident),*) => {
        impl<$($path: Outside),*> Outside for ($($path,)*) {}
    };
}

tuple!(A, B);
tuple!(A, B, C);
tuple!(A, B, C, D);
tuple!(A, B, C, D, E);
tuple!(A, B, C, D, E, F);
