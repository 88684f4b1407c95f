//! Which transfers there are: each is a function of the seed and its id, so that a check needs to
//! know only which ids were sent.

use anyhow::ensure;
use tidemill::codec::{Placement, encode_key};

use super::module::Transfer;

/// Who transfers how much to whom.
#[derive(Clone, Debug)]
pub struct Plan {
    seed: u64,
    cross_percent: u64,
    /// Of each account.
    partitions: Vec<u32>,
    shards: u32,
}

/// What every account holds at the beginning.
pub const FUNDS_AT_FIRST: i64 = 1_000;

/// Amounts are drawn from 1 to this.
const AMOUNT_MAX: u64 = 100;

impl Plan {
    /// Transfers among `accounts` accounts, of which `cross_percent` in a hundred leave their shard.
    ///
    /// # Errors
    /// If there are too few accounts for that.
    pub fn new(
        seed: u64,
        accounts: u64,
        cross_percent: u8,
        shards: u16,
        partitions: u32,
    ) -> anyhow::Result<Self> {
        let places: Vec<u32> = (0..accounts)
            .map(|account| Placement::of(encode_key(&account).as_slice()).partition(partitions).0)
            .collect();
        let shards = u32::from(shards);
        for shard in 0..shards {
            let here = places.iter().filter(|&&partition| partition % shards == shard).count();
            ensure!(
                here >= 2,
                "--accounts {accounts}: {here} of them live on shard {shard}, 2 are needed for a \
                 transfer; take more accounts"
            );
        }
        // Nothing leaves the only shard.
        let cross_percent = if shards == 1 { 0 } else { u64::from(cross_percent) };
        Ok(Self { seed, cross_percent, partitions: places, shards })
    }

    /// How many accounts there are.
    #[must_use]
    pub fn accounts(&self) -> u64 {
        self.partitions.len() as u64
    }

    /// How many transfers in a hundred leave their shard.
    #[must_use]
    pub fn cross_percent(&self) -> u64 {
        self.cross_percent
    }

    /// Where an account lives.
    #[must_use]
    pub fn partition(&self, account: u64) -> u32 {
        self.partitions[usize::try_from(account).expect("an account is an index")]
    }

    /// The transfer of this id.
    #[must_use]
    pub fn transfer(&self, id: u64) -> Transfer {
        let mut random = Random::new(self.seed ^ mix(id));
        let from = random.below(self.accounts());
        let crosses = random.below(100) < self.cross_percent;
        let amount = i64::try_from(random.below(AMOUNT_MAX) + 1).expect("a small number");
        let shard = |account| self.partition(account) % self.shards;
        let to = loop {
            let to = random.below(self.accounts());
            if to != from && (shard(to) != shard(from)) == crosses {
                break to;
            }
        };
        Transfer { id, from, to, amount }
    }
}

/// Splitmix64: fast, good enough for load, and the same everywhere.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// Starts at `seed`.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(mix(seed))
    }

    /// 64 random bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    /// A number below `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        let wide = u128::from(self.bits()) * u128::from(end);
        u64::try_from(wide >> 64).expect("the upper half of 128 bits")
    }

    /// A number from 0 up to 1, never 0 itself.
    #[allow(clippy::cast_precision_loss, reason = "53 bits fit")]
    pub fn fraction(&mut self) -> f64 {
        ((self.bits() >> 11) + 1) as f64 / (1_u64 << 53) as f64
    }
}

fn mix(mut bits: u64) -> u64 {
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_share_that_crosses_is_as_asked() {
        for (cross, shards) in [(0, 2), (50, 2), (100, 2), (50, 3), (50, 1)] {
            let plan = Plan::new(1, 1_000, cross, shards, 16).unwrap();
            let shard = |account| plan.partition(account) % u32::from(shards);
            let crossing = (0..10_000)
                .map(|id| plan.transfer(id))
                .inspect(|it| assert!(it.from != it.to && (1..=100).contains(&it.amount)))
                .filter(|it| shard(it.from) != shard(it.to))
                .count();
            let expected = if shards == 1 { 0 } else { usize::from(cross) * 100 };
            assert!(crossing.abs_diff(expected) < 300, "{crossing} of 10,000 cross at {cross} %");
        }
    }

    #[test]
    fn a_transfer_follows_from_seed_and_id() {
        let plan = |seed| Plan::new(seed, 100, 50, 2, 8).unwrap();
        assert_eq!(plan(1).transfer(7), plan(1).transfer(7));
        let same = (0..100).filter(|&id| plan(1).transfer(id) == plan(2).transfer(id)).count();
        assert!(same < 5);
    }

    #[test]
    fn too_few_accounts_are_refused() {
        let error = Plan::new(1, 1, 50, 1, 1).unwrap_err();
        assert!(error.to_string().contains("--accounts"), "{error}");
    }
}
