//! What can go wrong between types and bytes.

use crate::types::PStateId;

/// The result of encoding or decoding.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What can go wrong between types and bytes. Encoding errors are the caller's; decoding errors mean
/// that the bytes were written by other code, for another type, or are damaged.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A path's key is longer than [`KEY_BYTES_MAX`](super::KEY_BYTES_MAX).
    #[error(
        "the key of PState {pstate} is too long: with part {part} of its path, a `{part_type}`, it \
         has {bytes} bytes, and at most {max} are allowed", max = super::KEY_BYTES_MAX
    )]
    KeyTooLong {
        /// Whose key.
        pstate: PStateId,
        /// Which part of the path went over the limit; the placement key is part 1.
        part: u8,
        /// The Rust type of that part.
        part_type: &'static str,
        /// How long the key would be.
        bytes: usize,
    },
    /// An element added to a collection makes a key longer than [`KEY_BYTES_MAX`](super::KEY_BYTES_MAX).
    #[error(
        "an element with a key of type `{element_type}` is too long: its key has {bytes} bytes, and at \
         most {max} are allowed", max = super::KEY_BYTES_MAX
    )]
    ElementTooLong {
        /// The Rust type of the element, or of its key in the collection.
        element_type: &'static str,
        /// How long the key would be.
        bytes: usize,
    },
    /// Key bytes that no value of the type encodes to.
    #[error("key bytes do not decode as `{key_type}`: {problem}")]
    BadKey {
        /// The Rust type asked for.
        key_type: &'static str,
        /// What is wrong with them.
        problem: &'static str,
    },
    /// Bytes or JSON that are no key of a kind.
    #[error("this is no key of type `{kind}`: {problem}")]
    KeyMismatch {
        /// The kind asked for, as a Rust type.
        kind: String,
        /// What is wrong.
        problem: &'static str,
    },
    /// A value is larger than [`VALUE_BYTES_MAX`](super::VALUE_BYTES_MAX).
    #[error(
        "a value of type `{value_type}` is too large: {bytes} bytes, and at most {max} are allowed",
        max = super::VALUE_BYTES_MAX
    )]
    ValueTooLarge {
        /// The Rust type of the value.
        value_type: &'static str,
        /// Its encoded size, or how far encoding got.
        bytes: usize,
    },
    /// A value cannot be encoded.
    #[error("cannot encode a value of type `{value_type}`{at}: {problem}")]
    Encode {
        /// The Rust type of the value.
        value_type: &'static str,
        /// Where in the value, as ` at Type.field`; empty at its root.
        at: String,
        /// What is wrong with it.
        problem: String,
    },
    /// Bytes do not decode as the type.
    #[error("cannot decode a value of type `{value_type}`{at}: {problem}")]
    Decode {
        /// The Rust type asked for.
        value_type: &'static str,
        /// Where in the value, as ` at Type.field`; empty at its root.
        at: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A type cannot be stored, found before anything of it was written.
    #[error("type `{value_type}` cannot be stored{at}: {problem}")]
    NotStorable {
        /// The Rust type.
        value_type: &'static str,
        /// Where in the type, as ` at Type.field`; empty at its root.
        at: String,
        /// Why not, and what to do.
        problem: String,
    },
    /// The size of a collection cannot be kept.
    #[error("the size of `{collection}`{at} cannot be kept: {problem}")]
    NotCountable {
        /// The collection, as it is declared.
        collection: String,
        /// Where in the type, as ` at values > values`; empty at its root.
        at: String,
        /// Why not, and what to do.
        problem: &'static str,
    },
    /// A stored field table is damaged or of a later version.
    #[error("the stored field table is unusable: {problem}")]
    BadTable {
        /// What is wrong with it.
        problem: &'static str,
    },
    /// The function of a migration does not make what is to be stored of a value that is.
    #[error("migration `{id}` cannot be applied to a stored value: {problem}")]
    Unmigrated {
        /// Its id.
        id: String,
        /// What went wrong.
        problem: String,
    },
    /// The paths of one read lie under different first keys, so possibly in different partitions.
    #[error("the paths of one read must share their first key")]
    PathsApart,
}
