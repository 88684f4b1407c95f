//! How typed data becomes bytes, and back.
//!
//! * [`key`]: order-preserving keys; comparing the bytes compares the values.
//! * [`placement`]: which partition a key lives in; fixed for ever.
//! * [`table`]: the numbers of fields and variants, assigned once per catalogue.
//! * [`value`]: serde values as `MessagePack` maps keyed by those numbers.

pub mod key;
pub mod placement;
pub mod table;
pub mod value;

mod error;

pub use error::{Error, Result};
pub use key::{EncodeKey, Key, KeyBuf, KeyKind, decode_key, encode_key};
pub use placement::Placement;
pub use table::FieldTable;
pub use value::{decode, encode};

/// A key has at most this many bytes, all parts of its path together.
pub const KEY_BYTES_MAX: usize = 1024;

/// A value has at most this many encoded bytes.
pub const VALUE_BYTES_MAX: usize = 16 << 20;

/// Values nest at most this deep; bounds the stack that decoding hostile bytes can take.
pub const VALUE_DEPTH_MAX: usize = 96;

/// Bytes as golden files show them.
#[cfg(test)]
fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;

    bytes.iter().fold(String::new(), |mut hex, byte| {
        write!(hex, "{byte:02x}").expect("a String takes everything");
        hex
    })
}
