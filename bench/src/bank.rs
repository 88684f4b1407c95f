//! Transfers between accounts, with histories on both sides, exactly once.
//!
//! ```text
//! plan (seed, id -> transfer) ─> load (one thread, closed or open loop) ─> module (on the engine)
//!          └────────────────────────> check <── the whole state, read back ──┘
//! ```

use clap::Args;

use crate::{Context, Measured, Workload};

pub mod check;
pub mod load;
pub mod module;
pub mod plan;
mod run;

/// The flags of this workload.
#[derive(Clone, Debug, Args)]
pub struct BankFlags {
    /// Accounts
    #[arg(long, value_name = "N", default_value_t = 100_000)]
    pub accounts: u64,
    /// Transfers in a hundred whose accounts live on different shards
    #[arg(long, value_name = "PERCENT", default_value_t = 50,
        value_parser = clap::value_parser!(u8).range(..=100))]
    pub cross: u8,
    /// Most transfers in one append: those of a partition that start together are appended together
    #[arg(long, value_name = "N", default_value_t = 64,
        value_parser = clap::value_parser!(u64).range(1..))]
    pub batch: u64,
}

impl Workload for BankFlags {
    fn name(&self) -> &'static str {
        "bank"
    }

    fn variant(&self) -> String {
        format!("cross-shard {}%", self.cross)
    }

    fn in_flight_default(&self) -> u64 {
        1_024
    }

    fn run(&self, context: &Context) -> anyhow::Result<Measured> {
        run::run(self, context)
    }
}
