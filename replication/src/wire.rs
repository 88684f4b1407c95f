//! Bytes of messages and records: flatbuffers, verified and bounded before use. The only place that
//! sees generated code.
//!
//! Three kinds of buffers, told apart by the identifier at bytes 4..8: `TMMS` a message, `TMRC` a
//! record of a coordinator (payload of a journal entry), `TMRW` its row. Each has a version; one
//! that is newer than this build is refused. Schemas lie in `schema/`; `schema/generate.sh` makes
//! the generated code from them.
//!
//! What is read is a guest: structure is verified with bounds on depth, tables and sizes, then
//! every list is checked for its length and order, so that what comes out can be used without
//! second thoughts. No bytes make this module panic or allocate more than a small multiple of their
//! length.

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
    pub(super) mod two_phase;
}
mod message;
mod parts;
mod record;
#[cfg(test)]
mod tests;

use flatbuffers::{FlatBufferBuilder, Follow, Verifiable, VerifierOptions};

pub use message::{decode_message, encode_message};
pub(crate) use record::{decode_record, decode_row, encode_record, encode_row};

/// Why bytes were refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Too few or too many bytes.
    #[error("{found} bytes, where {BYTES_MIN} to {BYTES_MAX} are expected")]
    Size {
        /// How many came.
        found: usize,
    },
    /// Another kind of buffer, or none at all.
    #[error("identifier {found:02x?}, where {expected} is expected")]
    Identifier {
        /// What the bytes say.
        found: [u8; 4],
        /// What was to be read.
        expected: &'static str,
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
    /// A list that is too long or out of order, a text that is too long, or a value that must not
    /// occur.
    #[error("field {field} is out of bounds")]
    Field {
        /// Which.
        field: &'static str,
    },
}

/// Starts the bytes of something.
fn builder() -> FlatBufferBuilder<'static> {
    FlatBufferBuilder::with_capacity(256)
}

/// Verifies the structure of `bytes`, and that they claim to be what is expected.
fn root<'b, T>(bytes: &'b [u8], identifier: &'static str) -> Result<T::Inner, Error>
where
    T: Follow<'b> + Verifiable + 'b,
{
    if !(BYTES_MIN..=BYTES_MAX).contains(&bytes.len()) {
        return Err(Error::Size { found: bytes.len() });
    }
    let found = bytes.get(4..8).and_then(|found| found.try_into().ok()).unwrap_or_default();
    if found != *identifier.as_bytes() {
        return Err(Error::Identifier { found, expected: identifier });
    }
    let options = VerifierOptions {
        max_depth: DEPTH_MAX,
        max_tables: TABLES_MAX,
        max_apparent_size: APPARENT_BYTES_MAX,
        ignore_missing_null_terminator: false,
    };
    flatbuffers::root_with_opts::<T>(&options, bytes).map_err(Error::Malformed)
}

fn check_version(found: u16) -> Result<(), Error> {
    if (1..=VERSION).contains(&found) { Ok(()) } else { Err(Error::Version { found }) }
}

/// What this build writes, and the newest that it reads.
const VERSION: u16 = 1;

/// Root offset and identifier.
const BYTES_MIN: usize = 8;
/// Far above what the lists below need together.
pub const BYTES_MAX: usize = 32 << 20;
/// Envelope, body, list entry, string: 4. The rest is air for a later version.
const DEPTH_MAX: usize = 8;
/// One per exclusion, and a handful.
const TABLES_MAX: usize = EXCLUSIONS_MAX + UNAPPLIED_MAX + 16;
/// Buffers may point at the same bytes twice, which is how small ones blow up.
const APPARENT_BYTES_MAX: usize = 2 * BYTES_MAX;

/// Most entries of a list of offsets, ranges, partitions or attempts.
pub const LIST_MAX: usize = 1 << 20;
/// Most records that one microbatch can leave out.
pub const EXCLUSIONS_MAX: usize = 1 << 16;
/// Most decisions of a row that are not applied.
const UNAPPLIED_MAX: usize = 64;
