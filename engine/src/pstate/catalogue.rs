//! The catalogue: a tree from `PState` to the root of its tree.
//!
//! ```text
//! key    u32 PState, big-endian
//! value  child, 24 bytes · u8 depth · description
//! ```

use super::{DESCRIPTION_BYTES_MAX, Tree};
use crate::page::Child;
use crate::page::root::{CATALOGUE, TreeRoot};
use crate::types::PStateId;

pub(super) fn key(pstate: PStateId) -> [u8; 4] {
    assert_ne!(pstate, CATALOGUE, "the highest number is the catalogue's own");
    pstate.0.to_be_bytes()
}

/// The value to keep for a tree; none if there is nothing to keep.
pub(super) fn encode(tree: &Tree) -> Option<Vec<u8>> {
    if tree.root.depth == 0 && tree.description.is_empty() {
        return None;
    }
    let mut out = tree.root.child.encode().to_vec();
    out.push(tree.root.depth);
    out.extend_from_slice(&tree.description);
    Some(out)
}

/// Reads an entry; none if it is not one.
pub(crate) fn decode(key: &[u8], value: &[u8]) -> Option<(PStateId, TreeRoot, Vec<u8>)> {
    let pstate = PStateId(u32::from_be_bytes(key.try_into().ok()?));
    let (child, rest) = value.split_first_chunk::<{ Child::BYTES }>()?;
    let (depth, description) = rest.split_first()?;
    let root = TreeRoot { child: Child::decode(child)?, depth: *depth };
    let sound = pstate != CATALOGUE
        && *depth <= DEPTH_MAX
        && description.len() <= DESCRIPTION_BYTES_MAX
        && (*depth > 0 || root.child == Child::default());
    sound.then(|| (pstate, root, description.to_vec()))
}

/// Deeper than any tree of 2^32 pages with at least three children a branch.
pub(crate) const DEPTH_MAX: u8 = 24;
