//! What `using` takes: tokens that the stage's `PState`s are known by.

use crate::module::PStateIndex;
use crate::schema::{Owned, PState};

/// Tokens of `PState`s, alone or in tuples. Implement it for a `Copy` struct of tokens by calling
/// `each` of every field.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a token, or a tuple of tokens",
    note = "`using` and `aggregate` take the tokens of PStates; anything else can be captured with \
            `async move |at, row| ..`"
)]
pub trait Tokens: Copy + Send + Sync + 'static {
    /// Names each of them.
    fn each(&self, name: &mut dyn FnMut(Named));
}

/// A `PState` that a stage was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Named {
    /// Which.
    pub pstate: PStateIndex,
    /// Whether the topology owns it, and so may write it.
    pub owned: bool,
}

impl<S: 'static, O: 'static> Tokens for Owned<S, O> {
    fn each(&self, name: &mut dyn FnMut(Named)) {
        name(Named { pstate: PStateIndex(self.id().0), owned: true });
    }
}

impl<S: 'static> Tokens for PState<S> {
    fn each(&self, name: &mut dyn FnMut(Named)) {
        name(Named { pstate: PStateIndex(self.id().0), owned: false });
    }
}

macro_rules! tuples {
    ($($token:ident)*) => {
        impl<$($token: Tokens),*> Tokens for ($($token,)*) {
            #[allow(non_snake_case, reason = "the parts are named like their types")]
            fn each(&self, name: &mut dyn FnMut(Named)) {
                let ($($token,)*) = self;
                $($token.each(name);)*
            }
        }
    };
}

tuples!(A);
tuples!(A B);
tuples!(A B C);
tuples!(A B C D);
tuples!(A B C D E);
tuples!(A B C D E F);
tuples!(A B C D E F G);
tuples!(A B C D E F G H);
