//! *sized*: a collection has as many elements as it says, whenever both are read in one moment: over crashes,
//! attempts that were given up, and deletions.

use crate::scenario::{Failure, check};

const NAME: &str = "sized";

/// Of each collection that was read: which it is, its size, how many elements were found.
pub(in super::super) type Sizes = Vec<(String, u64, usize)>;

/// Judges what was read in one moment.
pub(in super::super) fn judge(sizes: &Sizes) -> Result<(), Failure> {
    for (which, size, found) in sizes {
        check(NAME, *size == *found as u64, || {
            format!("{which} says that it has {size} elements, and has {found}")
        })?;
    }
    Ok(())
}
