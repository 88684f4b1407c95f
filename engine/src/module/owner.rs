//! Who a topology is, as a type: what stops other topologies from writing its `PState`s.

use std::marker::PhantomData;

use crate::schema::{Open, Owning};

/// Names a topology and tells it apart from all others at compile time.
///
/// Every closure `|| "ledger"` is a type of its own and prints as the line that declared it. A unit
/// struct can implement it too, and reads better in the types of helper functions.
pub trait Owner: Copy + Send + Sync + 'static {
    /// The topology's name.
    fn name(&self) -> &'static str;
}

#[diagnostic::do_not_recommend]
impl<F: Fn() -> &'static str + Copy + Send + Sync + 'static> Owner for F {
    fn name(&self) -> &'static str {
        self()
    }
}

/// The microbatch topology named by `B`, as the owner of its `PState`s.
pub struct Batch<B>(PhantomData<fn() -> B>);

impl<B: 'static> Owning for Batch<B> {
    type Writer = Self;
}

impl<B> Open for Batch<B> {}

impl<B> std::fmt::Debug for Batch<B> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Batch")
    }
}
