//! The one source of chance: `SplitMix64` (Steele, Lea, Flood 2014), started by the seed.

use std::cell::Cell;
use std::ops::Range;

/// A stream of chance. Shared by reference, since everything in a world draws from one stream.
#[derive(Debug)]
pub struct Random {
    state: Cell<u64>,
}

impl Random {
    /// The stream of `seed`.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self { state: Cell::new(seed) }
    }

    /// The next 64 bits.
    pub fn bits(&self) -> u64 {
        let state = self.state.get().wrapping_add(0x9e37_79b9_7f4a_7c15);
        self.state.set(state);
        mix(state)
    }

    /// A number below `bound`, which must not be 0. The bias of the modulus is far below what a test
    /// could notice.
    pub fn below(&self, bound: u64) -> u64 {
        assert!(bound > 0, "nothing is below 0");
        self.bits() % bound
    }

    /// An index below `count`, which must not be 0.
    pub fn index(&self, count: usize) -> usize {
        usize::try_from(self.below(count as u64)).expect("below a usize")
    }

    /// A number in `range`, which must not be empty.
    pub fn within(&self, range: Range<u64>) -> u64 {
        range.start + self.below(range.end - range.start)
    }

    /// True `per_million` times in a million. Draws nothing when that is 0, so that switching one
    /// fault off leaves the others where they were.
    pub fn chance(&self, per_million: u32) -> bool {
        per_million > 0 && self.below(1_000_000) < u64::from(per_million)
    }

    /// True once in `count` times.
    pub fn one_in(&self, count: u64) -> bool {
        self.below(count) == 0
    }

    /// One of `items`, which must not be empty.
    pub fn pick<'a, T>(&self, items: &'a [T]) -> &'a T {
        &items[self.index(items.len())]
    }

    /// A stream of its own, so that what draws from it does not disturb this one.
    #[must_use]
    pub fn fork(&self) -> Self {
        Self::new(self.bits())
    }
}

/// The finaliser of `SplitMix64`: every input bit reaches every output bit.
#[must_use]
pub fn mix(state: u64) -> u64 {
    let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}
