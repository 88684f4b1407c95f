//! Who has spent most, each week: `cargo run --example top_users`.
//!
//! Purchases go into a depot. A topology keeps what each user has spent, week by week, and of each week the
//! three who spent most. Such a list looks like a single row that everybody has to write to. It is, and it
//! does no harm: each partition sends the list only its own best three for each microbatch, however many
//! purchases were in it.

use serde::{Deserialize, Serialize};
use tidemill::module::{Depot, Module};
use tidemill::schema::aggregate::{Top, TopN};
use tidemill::schema::{Map, PState, Sub, Uncounted};
use tidemill::{Engine, Options, block_on};

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Purchase {
    pub(crate) user: String,
    pub(crate) week: u32,
    pub(crate) cents: u64,
}

/// Week by week: a `Sub` stores each week as a row of its own, so adding to one reads no other. Nobody asks how many
/// weeks there are, so they are not counted.
type Spent = Map<String, Sub<Map<u32, u64>, Uncounted>>;

/// Of each week, the best three by cents: one value, since it is small and read whole.
type Best = Map<u32, Top<String, u64, 3>>;

pub(crate) struct TopUsers {
    pub(crate) purchases: Depot<Purchase>,
    pub(crate) spent: PState<Spent>,
    pub(crate) best: PState<Best>,
}

pub(crate) fn top_users(m: &Module) -> TopUsers {
    // A purchase goes where its user lives. So the topology finds the user's totals on the spot.
    let purchases = m.depot::<Purchase>("purchases").hash_by(|p| &p.user);
    let ranking = m.microbatch(|| "ranking");
    let spent = ranking.pstate::<Spent>("spent");
    let best = ranking.pstate::<Best>("best");
    ranking
        .source(purchases)
        .using(spent)
        // The rows of a batch are fetched from the disk together, before the first purchase is looked at.
        .touching(|spent, p| spent.key(&p.user).key(p.week))
        .filter_map(async |at, spent, p: Purchase| {
            let total = spent.key(&p.user).key(p.week);
            let cents = at.get(total.clone()).await?.unwrap_or(0) + p.cents;
            at.put(total, cents)?;
            Ok(Some((p.week, p.user, cents)))
        })
        // `TopN` ranks an id by the highest score that it ever had. Totals only rise, so that is the latest.
        .aggregate(best, |best, (week, user, cents)| best.key(week).add(TopN(user, cents)));
    TopUsers { purchases, spent: spent.reader(), best: best.reader() }
}

pub(crate) fn main() -> Result<(), Box<dyn std::error::Error>> {
    // A directory on a real file system: it is written past the kernel's cache, which tmpfs cannot do.
    let dir = tempfile::tempdir_in(".")?;
    block_on(async {
        let engine = Engine::open(dir.path(), Options::default()).await?;
        let top = engine.launch("top-users", top_users).await?;

        let users = ["ann", "bob", "cleo", "dan", "eve"];
        let purchases: Vec<Purchase> = (0..500)
            .map(|n: u32| Purchase {
                user: users[(n * n % 11 % 5) as usize].to_owned(),
                week: n / 250,
                cents: u64::from(n * 7_919 % 1_000),
            })
            .collect();
        top.append_many(top.purchases, &purchases).await?;
        // Until everything that was appended is part of what readers see.
        top.caught_up("ranking").await?;

        for (week, best) in top.select(top.best.all()).await? {
            println!("week {week}:");
            for (user, cents) in best.ranked() {
                println!("  {user:<5} {:>8.2}", dollars(*cents));
            }
        }
        // What one user spent, from week 1 on.
        for (week, cents) in top.select(top.spent.key("ann").range(1..)).await? {
            println!("ann in week {week}: {:.2}", dollars(cents));
        }
        engine.close().await
    })?;
    Ok(())
}

/// For people. Money is counted in whole cents.
#[allow(clippy::cast_precision_loss, reason = "shown to two places, far below 2^52 cents")]
fn dollars(cents: u64) -> f64 {
    cents as f64 / 100.0
}
