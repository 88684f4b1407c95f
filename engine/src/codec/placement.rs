//! Where a key lives: the partition is the top `log2(P)` bits of XXH3-64 (seed 0) of the encoded
//! first key of its path. Fixed for ever, and pinned by a golden file.
//!
//! Because the *top* bits decide, doubling `P` splits each partition `p` into `2p` and `2p + 1`.

use xxhash_rust::xxh3::xxh3_64;

use crate::types::PartitionId;

/// Where a key lives in the hash space, independent of how many partitions it is cut into.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Placement(u64);

impl Placement {
    /// The place of the key with these encoded bytes.
    #[inline]
    #[must_use]
    pub fn of(key_bytes: &[u8]) -> Self {
        Self(xxh3_64(key_bytes))
    }

    /// A place from a hash that was computed elsewhere, as received from another node.
    #[must_use]
    pub fn from_hash(hash: u64) -> Self {
        Self(hash)
    }

    /// The full hash.
    #[must_use]
    pub fn hash(self) -> u64 {
        self.0
    }

    /// The partition of this place among `partitions`.
    ///
    /// # Panics
    /// If `partitions` is not a power of two.
    #[inline]
    #[must_use]
    pub fn partition(self, partitions: u32) -> PartitionId {
        assert!(partitions.is_power_of_two());
        // Shifting by all 64 bits, for a single partition, is not defined: two steps.
        let top = (self.0 >> 1) >> (63 - partitions.trailing_zeros());
        PartitionId(u32::try_from(top).expect("at most 31 bits are left"))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn doubling_splits_each_partition_in_two(key: Vec<u8>, bits in 0..31_u32) {
            let place = Placement::of(&key);
            let partition = place.partition(1 << bits).0;
            prop_assert!(partition < 1 << bits);
            let split = place.partition(1 << (bits + 1)).0;
            prop_assert_eq!(split / 2, partition);
        }
    }

    #[test]
    fn a_single_partition_holds_everything() {
        assert_eq!(Placement::from_hash(u64::MAX).partition(1), PartitionId(0));
        assert_eq!(Placement::from_hash(u64::MAX).partition(1 << 31), PartitionId((1 << 31) - 1));
        assert_eq!(Placement::from_hash(1 << 63).partition(2), PartitionId(1));
    }

    #[test]
    fn keys_spread_evenly() {
        let mut counts = [0_u32; 64];
        for id in 0..64_000_u64 {
            counts[Placement::of(&id.to_be_bytes()).partition(64).0 as usize] += 1;
        }
        assert!(counts.iter().all(|count| (850..1150).contains(count)), "{counts:?}");
    }

    #[test]
    #[should_panic(expected = "is_power_of_two")]
    fn partitions_are_a_power_of_two() {
        assert_eq!(Placement::of(b"").partition(3), PartitionId(0));
    }
}
