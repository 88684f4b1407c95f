//! Errors of user code and of what it calls: one concrete type, into which every error converts.

use std::error::Error as StdError;
use std::fmt;

use super::{FailureKind, StateError};

/// What a stage returns.
pub type Result<T, E = Failure> = std::result::Result<T, E>;

/// Any error, boxed. `?` converts every [`std::error::Error`] into it, so it is none itself.
///
/// An error of user code condemns the row ([`FailureKind::Reject`]). One of the engine's own
/// ([`StateError`]) says itself what it means; [`Failure::retry`] marks an outside call that may work
/// the next time.
pub struct Failure {
    source: Box<dyn StdError + Send + Sync>,
    kind: FailureKind,
}

impl Failure {
    /// A failure of the surroundings, not of the row: the microbatch is tried again.
    #[must_use]
    pub fn retry(source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        Self { source: source.into(), kind: FailureKind::Retry }
    }

    /// A failure of the row.
    #[must_use]
    pub fn reject(source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        Self { source: source.into(), kind: FailureKind::Reject }
    }

    /// What it means for the row.
    #[must_use]
    pub fn kind(&self) -> FailureKind {
        self.kind
    }

    /// The error itself; can be downcast.
    #[must_use]
    pub fn source(&self) -> &(dyn StdError + Send + Sync + 'static) {
        &*self.source
    }
}

impl<E: StdError + Send + Sync + 'static> From<E> for Failure {
    fn from(error: E) -> Self {
        let source: Box<dyn StdError + Send + Sync> = Box::new(error);
        let kind =
            source.downcast_ref::<StateError>().map_or(FailureKind::Reject, StateError::kind);
        Self { source, kind }
    }
}

impl fmt::Debug for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Failure").field("kind", &self.kind).field("source", &self.source).finish()
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.source, f)?;
        let mut cause = self.source.source();
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}
