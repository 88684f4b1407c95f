//! The module that books real transactions: balances, histories by date, and totals by month.

use serde::{Deserialize, Serialize};
use tidemill::module::{Depot, Module};
use tidemill::schema::aggregate::{Combine, Last, Merge, Sum};
use tidemill::schema::{Map, PState, Sub, Uncounted};

/// The topology's name.
pub const BOOKS: &str = "books";

/// What a transaction is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Kind {
    /// Cash or interest comes in.
    Deposit,
    /// Cash or fees go out.
    Withdrawal,
    /// Money comes from another bank or goes there.
    Remittance,
}

/// One line of the file; in the depots, and in the history of its account.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Transaction {
    /// Names it; no two share it.
    pub id: u64,
    /// Whose it is.
    pub account: u64,
    /// As YYYYMMDD.
    pub date: u32,
    /// Which depot it goes to.
    pub kind: Kind,
    /// The bank's word for it.
    pub operation: String,
    /// In hundredths; what goes out is below zero. It is booked even where it overdraws.
    pub amount: i64,
    /// The bank's word for what it is for.
    pub purpose: String,
    /// The other bank, of a remittance.
    pub partner_bank: String,
    /// The account there.
    pub partner_account: String,
}

/// How many transactions there were, and what they make together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Total {
    /// How many.
    pub count: u64,
    /// In hundredths.
    pub amount: i64,
}

impl Merge for Total {
    fn merge(&mut self, other: Self) {
        self.count += other.count;
        self.amount += other.amount;
    }
}

impl Transaction {
    /// The month, as YYYYMM.
    #[must_use]
    pub fn month(&self) -> u32 {
        self.date / 100
    }

    /// What it adds to its month's total.
    #[must_use]
    pub fn total(&self) -> Total {
        Total { count: 1, amount: self.amount }
    }
}

/// The transactions of one account, by date, then by id.
pub type History = Sub<Map<(u32, u64), Transaction>, Uncounted>;

/// Totals of one month, by operation.
pub type Totals = Sub<Map<String, Total>, Uncounted>;

/// The module's handles.
#[derive(Debug)]
pub struct Bank {
    /// What comes in.
    pub deposits: Depot<Transaction>,
    /// What goes out.
    pub withdrawals: Depot<Transaction>,
    /// From and to other banks.
    pub remittances: Depot<Transaction>,
    /// By account, in hundredths.
    pub balances: PState<Map<u64, i64>>,
    /// By account.
    pub history: PState<Map<u64, History>>,
    /// By month as YYYYMM, then by operation.
    pub totals: PState<Map<u32, Totals>>,
}

/// Declares the module.
pub fn bank(m: &Module) -> Bank {
    let depot = |name| m.depot::<Transaction>(name).hash_by(|transaction| &transaction.account);
    let [deposits, withdrawals, remittances] =
        ["deposits", "withdrawals", "remittances"].map(depot);

    let books = m.microbatch(|| BOOKS);
    let balances = books.pstate::<Map<u64, i64>>("balances");
    let history = books.pstate::<Map<u64, History>>("history");
    let totals = books.pstate::<Map<u32, Totals>>("totals");

    for depot in [deposits, withdrawals, remittances] {
        books.source(depot).aggregate((balances, history, totals), |tokens, it: Transaction| {
            let (balances, history, totals) = tokens;
            (
                balances.key(it.account).add(Sum(it.amount)),
                totals.key(it.month()).key(it.operation.clone()).add(Combine(it.total())),
                history.key(it.account).key((it.date, it.id)).add(Last(it)),
            )
        });
    }
    Bank {
        deposits,
        withdrawals,
        remittances,
        balances: balances.reader(),
        history: history.reader(),
        totals: totals.reader(),
    }
}
