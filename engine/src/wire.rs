//! Queries as flatbuffers: verified and bounded before use. The only place of the engine that sees generated code.
//!
//! A buffer has the identifier `TMPQ` at bytes 4..8, and a version; one that is newer than this build is refused.
//! The schema lies in `engine/schema/`; `generate.sh` there makes the generated code from it.
//!
//! What is read is a guest: structure is verified with bounds on depth, tables and sizes; then every step must have
//! the arguments that it takes, and every value must be one. No bytes make this module panic or allocate more than
//! a small multiple of their length.

#[rustfmt::skip]
#[allow(
    clippy::all,
    clippy::pedantic,
    clippy::undocumented_unsafe_blocks,
    clippy::multiple_unsafe_ops_per_block,
    clippy::unwrap_used,
    clippy::allow_attributes_without_reason,
    missing_docs,
    missing_debug_implementations,
    unused,
    unreachable_pub,
    unsafe_op_in_unsafe_fn,
    mismatched_lifetime_syntaxes,
    reason = "generated"
)]
mod generated {
    pub(super) mod path;
}
mod path;
#[cfg(test)]
mod tests;

use flatbuffers::VerifierOptions;

use crate::codec::VALUE_BYTES_MAX;
use crate::schema::ast::{QUERY_DEPTH_MAX, QUERY_STEPS_MAX};

/// Why a query cannot be written as bytes, or bytes were refused as one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The query calls a function of this process, which cannot be sent: give it a name.
    #[error(
        "step `{step}` calls a function of this process: register it by a name where the query is evaluated"
    )]
    Local {
        /// The step, by its name in JSON.
        step: &'static str,
    },
    /// Too few or too many bytes.
    #[error("{found} bytes, where {BYTES_MIN} to {BYTES_MAX} are expected")]
    Size {
        /// How many there are.
        found: usize,
    },
    /// Another kind of buffer, or none at all.
    #[error("identifier {found:02x?}, where {IDENTIFIER} is expected")]
    Identifier {
        /// What the bytes say.
        found: [u8; 4],
    },
    /// Not a version that this build knows.
    #[error("format version {found}, where 1 to {VERSION} are known")]
    Version {
        /// What the bytes say.
        found: u16,
    },
    /// The structure is broken.
    #[error("malformed flatbuffer")]
    Malformed(#[source] flatbuffers::InvalidFlatbuffer),
    /// More steps, or deeper in each other, than a path may have.
    #[error(
        "a path has more than {QUERY_STEPS_MAX} steps, or is more than {QUERY_DEPTH_MAX} deep, or has tens of \
         thousands of values"
    )]
    TooLarge,
    /// A step that this build does not know, or not with these arguments, or a value that is none.
    #[error("step {at} of a path: {problem}")]
    Step {
        /// Its place among all steps, counted from 1 as they are met.
        at: usize,
        /// What is wrong with it.
        problem: &'static str,
    },
}

/// Verifies the structure of `bytes`, and that they claim to be a query.
fn root(bytes: &[u8]) -> Result<generated::path::Query<'_>, Error> {
    if !(BYTES_MIN..=BYTES_MAX).contains(&bytes.len()) {
        return Err(Error::Size { found: bytes.len() });
    }
    let found: [u8; 4] = bytes.get(4..8).and_then(|it| it.try_into().ok()).unwrap_or_default();
    if found != *IDENTIFIER.as_bytes() {
        return Err(Error::Identifier { found });
    }
    let options = VerifierOptions {
        // A step and a path for each path in another, a query, a term and its value.
        max_depth: 2 * QUERY_DEPTH_MAX + 8,
        max_tables: TABLES_MAX,
        max_apparent_size: 2 * BYTES_MAX,
        ignore_missing_null_terminator: false,
    };
    let query = flatbuffers::root_with_opts::<generated::path::Query<'_>>(&options, bytes);
    let query = query.map_err(Error::Malformed)?;
    let version = query.version();
    if (1..=VERSION).contains(&version) {
        Ok(query)
    } else {
        Err(Error::Version { found: version })
    }
}

const IDENTIFIER: &str = "TMPQ";

/// What this build writes, and the newest that it reads.
const VERSION: u16 = 1;

/// Root offset and identifier.
const BYTES_MIN: usize = 8;
/// One value of the largest size, and a long path.
const BYTES_MAX: usize = VALUE_BYTES_MAX + (1 << 20);
/// Some for each step: itself, its paths, terms, and values.
const TABLES_MAX: usize = 1 << 16;
