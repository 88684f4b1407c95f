//! Books real transactions from a file, and compares every balance with plain arithmetic.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context as _, ensure};
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use serde_json::json;
use tidemill::client::{Engine, Launched, block_on};
use tidemill::node::Options;
use tidemill::shard::Effects;

use super::run::DURABILITY;
use crate::meter::{Latencies, Meter};
use crate::report::{Invariant, Outcome};
use crate::{Context, Measured};

pub mod module;
pub mod table;

use module::{BOOKS, Bank, Kind, Total, Transaction, bank};

pub(super) fn run(
    input: &Path,
    dump: Option<&Path>,
    context: &Context,
) -> anyhow::Result<Measured> {
    let Context { settings, data, progress } = context;
    progress.plan(4);
    progress.step("reading the file");
    let bytes =
        fs::read(input).with_context(|| format!("--input: cannot read {}", input.display()))?;
    let transactions = table::parse(&bytes).with_context(|| input.display().to_string())?;
    let oracle = Oracle::of(&transactions)?;

    progress.step("booking");
    let options = Options {
        shards: settings.shards,
        partitions: Some(settings.partitions),
        ..Options::default()
    };
    let dir = data.fresh("real-bank")?;
    let in_flight = usize::try_from(settings.in_flight)?;
    let measured = block_on(async {
        let engine = Engine::open(&dir, options).await.context("cannot open the engine")?;
        let launched = engine.launch("bank", bank).await.context("cannot launch the bank")?;
        let booked = book(&launched, &transactions, in_flight, |count| {
            progress.note(&format!("booking: {count} of {}", transactions.len()));
        });
        let results = booked.await?;
        progress.step("reading everything back");
        let state = State::read(&launched, &oracle).await?;
        let invariants = state.compare(&oracle, &transactions);
        if let Some(path) = dump {
            super::dump(path, state.balances)?;
        }
        drop(launched);
        progress.step("closing");
        engine.close().await.context("cannot close the engine")?;
        anyhow::Ok(Measured { results, invariants, ..Measured::default() })
    })?;
    Ok(Measured {
        parameters: vec![
            ("rows", json!(transactions.len())),
            ("accounts", json!(oracle.balances.len())),
        ],
        ..measured
    })
}

/// Sends every transaction in the order of the file, some at a time; completed means visible.
async fn book(
    bank: &Launched<Bank>,
    transactions: &[Transaction],
    in_flight: usize,
    mut progress: impl FnMut(usize),
) -> anyhow::Result<Vec<Outcome>> {
    let together = (in_flight / PIECES_IN_FLIGHT).max(1);
    let mut pieces = transactions.chunks(together);
    let mut running = FuturesUnordered::new();
    let (mut append, mut effects, mut all) =
        (Latencies::default(), Latencies::default(), Latencies::default());
    let mut completed = 0;
    let meter = Meter::start();
    loop {
        while running.len() < PIECES_IN_FLIGHT.min(in_flight) {
            let Some(piece) = pieces.next() else { break };
            running.push(book_piece(bank, piece));
        }
        let Some(done) = running.next().await else { break };
        let Done { count, started_at, durable_at, visible_at } = done?;
        for _ in 0..count {
            append.record(durable_at - started_at);
            effects.record(visible_at - durable_at);
            all.record(visible_at - started_at);
        }
        completed += count;
        progress(completed);
    }
    let outcome = meter.finish("tidemill", "transfers", DURABILITY, completed as u64, &all);
    let part = |phase: &str, latencies: &Latencies| Outcome {
        phase: phase.to_owned(),
        latency_us: latencies.summary(),
        ..outcome.clone()
    };
    let parts = [part("append", &append), part("wait-for-effects", &effects)];
    Ok(std::iter::once(outcome).chain(parts).collect())
}

/// Transactions go in pieces, so many of which are under way together.
const PIECES_IN_FLIGHT: usize = 4;

struct Done {
    count: usize,
    started_at: Instant,
    durable_at: Instant,
    visible_at: Instant,
}

async fn book_piece(bank: &Launched<Bank>, piece: &[Transaction]) -> anyhow::Result<Done> {
    let started_at = Instant::now();
    let of = |kind| piece.iter().filter(move |it| it.kind == kind);
    // All three are on their way before the first is waited for.
    let sent = [
        bank.append_many(bank.deposits, of(Kind::Deposit)),
        bank.append_many(bank.withdrawals, of(Kind::Withdrawal)),
        bank.append_many(bank.remittances, of(Kind::Remittance)),
    ];
    let mut appended = Vec::new();
    for sent in sent {
        appended.extend(sent.await.context("an append failed")?);
    }
    let durable_at = Instant::now();
    for appended in &appended {
        let effects = bank.wait(BOOKS, appended).await;
        let effects = effects.context("waiting for the effects of an append failed")?;
        ensure!(matches!(effects, Effects::Applied { .. }), "a transaction was given up");
    }
    Ok(Done { count: piece.len(), started_at, durable_at, visible_at: Instant::now() })
}

/// What the file says, by arithmetic alone.
#[derive(Debug)]
struct Oracle {
    balances: BTreeMap<u64, i64>,
    totals: BTreeMap<(u32, String), Total>,
}

impl Oracle {
    fn of(transactions: &[Transaction]) -> anyhow::Result<Self> {
        let mut balances: BTreeMap<u64, i64> = BTreeMap::new();
        let mut totals: BTreeMap<(u32, String), Total> = BTreeMap::new();
        for transaction in transactions {
            let balance = balances.entry(transaction.account).or_default();
            let sum = balance.checked_add(transaction.amount);
            *balance = sum.with_context(|| {
                format!("the balance of account {} is too large", transaction.account)
            })?;
            let key = (transaction.month(), transaction.operation.clone());
            let total = totals.entry(key).or_default();
            let sum = total.amount.checked_add(transaction.amount);
            total.amount = sum.with_context(|| {
                format!("the total of month {} is too large", transaction.month())
            })?;
            total.count += 1;
        }
        Ok(Self { balances, totals })
    }
}

/// Histories read with one call.
const ACCOUNTS_AT_ONCE: usize = 256;

/// What the engine says.
#[derive(Debug, Default)]
struct State {
    balances: BTreeMap<u64, i64>,
    totals: BTreeMap<(u32, String), Total>,
    history: BTreeMap<u64, Transaction>,
    /// Transactions that a history has in a wrong place, or more than once.
    misplaced: u64,
}

impl State {
    async fn read(bank: &Launched<Bank>, oracle: &Oracle) -> anyhow::Result<Self> {
        let mut state = Self::default();
        let balances = bank.select(bank.balances.all()).await;
        state.balances.extend(balances.context("cannot read the balances back")?);
        let months: Vec<u32> = {
            let mut months: Vec<u32> = oracle.totals.keys().map(|(month, _)| *month).collect();
            months.dedup();
            months
        };
        for month in months {
            let totals = bank.select(bank.totals.key(month).all()).await;
            for (operation, total) in totals.context("cannot read the totals back")? {
                state.totals.insert((month, operation), total);
            }
        }
        let accounts: Vec<u64> = state.balances.keys().copied().collect();
        for accounts in accounts.chunks(ACCOUNTS_AT_ONCE) {
            let paths = accounts.iter().map(|account| bank.history.key(*account).all());
            let read = bank.select_many(paths).await;
            let read = read.context("cannot read the histories back")?;
            for (&account, history) in accounts.iter().zip(read) {
                for ((date, id), transaction) in history {
                    let found = (transaction.account, transaction.date, transaction.id);
                    let right = found == (account, date, id);
                    let first = state.history.insert(id, transaction).is_none();
                    state.misplaced += u64::from(!right || !first);
                }
            }
        }
        Ok(state)
    }

    fn compare(&self, oracle: &Oracle, transactions: &[Transaction]) -> Vec<Invariant> {
        let found = transactions.iter().filter(|it| self.history.get(&it.id) == Some(it)).count();
        let strange = self.history.len() - found.min(self.history.len());
        let money =
            |balances: &BTreeMap<u64, i64>| balances.values().copied().map(i128::from).sum();
        let (held, expected): (i128, i128) = (money(&self.balances), money(&oracle.balances));
        let wrong = oracle
            .balances
            .iter()
            .filter(|(account, balance)| self.balances.get(account) != Some(balance))
            .chain(self.balances.iter().filter(|(it, _)| !oracle.balances.contains_key(it)))
            .count();
        let invariant =
            |name: &str, holds, detail| Invariant { name: name.to_owned(), holds, detail };
        vec![
            invariant(
                "all rows are applied exactly once",
                found == transactions.len() && strange == 0 && self.misplaced == 0,
                format!(
                    "{found} of {} rows are in the history of their account; {strange} others, {} in \
                     a wrong place",
                    transactions.len(),
                    self.misplaced
                ),
            ),
            invariant(
                "every balance is the sum of its rows",
                wrong == 0,
                format!("{wrong} of {} accounts differ", oracle.balances.len()),
            ),
            invariant(
                "money is conserved",
                held == expected,
                format!("{held} hundredths in all accounts, {expected} in the file"),
            ),
            invariant(
                "totals by month and operation are the sums of their rows",
                self.totals == oracle.totals,
                format!("{} found, {} expected", self.totals.len(), oracle.totals.len()),
            ),
        ]
    }
}
