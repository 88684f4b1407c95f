//! The module that the engine runs in these worlds: a bank, whose state is a function of what lies in
//! its depots, whatever the order in which depots and partitions are read: so all topologies are `order_free`, and
//! can be recomputed. See [`super::replay`].
//!
//! * `ledger` books deposits and transfers; what was paid in is also kept apart, and taken out of a vault that was full
//!   at first, and lies in one partition. A transfer is applied where the sender lives, then where the
//!   receiver lives, and leaves a receipt; some clear the sender's history first, or part of it; some are
//!   refused, here or there; some fail a few times before they work.
//! * Before [`Era::Migrated`], `sent` counts from zero, `amounts` and the lines of `history`, which counts them, are what
//!   was sent and nothing more, and `done` keeps what an account sent as one value.
//! * `tally` counts receipts, those of the ledger and those that clients append.
//! * `audit` counts events, nearly all of them where its coordinator lives, so that it mostly commits with
//!   one write. It counts them all together, too, in the same partition; lists them by key; and goes on with the
//!   count of each key, which it stores once more. It deals them out by key into rounds, too, which are sets in a list,
//!   and of which the oldest is let go of now and then.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use tidemill::migrate::Migration;
use tidemill::module::{Depot, Module};
use tidemill::recompute::{Reading, Unfulfilled};
use tidemill::schema::aggregate::{Count, ListOf, Sum};
use tidemill::schema::{Initial, Initially, List, Map, Owned, PState, Set, Single, Sub, Uncounted};
use tidemill::topology::Failure;
use tidemill::types::PStateId;

use crate::random::mix;

/// Money from outside.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Deposit {
    pub(super) id: u64,
    pub(super) account: u64,
    pub(super) cents: i64,
    pub(super) memo: String,
}

/// Money from one account to another.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Transfer {
    pub(super) id: u64,
    pub(super) from: u64,
    pub(super) to: u64,
    pub(super) cents: i64,
    /// Deletes the sender's history before it is added to it.
    pub(super) clears: bool,
    pub(super) refused: Refused,
    /// So often it fails before it works.
    pub(super) flaky: u32,
    pub(super) memo: String,
}

/// Where a transfer is always refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Refused {
    Nowhere,
    AtSender,
    AtReceiver,
}

/// Something to count.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Happening {
    pub(super) id: u64,
    pub(super) key: u64,
    pub(super) memo: String,
}

/// What a transfer leaves; clients append some too.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Receipt {
    pub(super) id: u64,
    pub(super) to: u64,
    pub(super) cents: i64,
    pub(super) memo: String,
}

/// Ids of receipts that the ledger wrote: that of the transfer, marked.
pub(super) const BY_LEDGER: u64 = 1 << 40;

/// How many records of one key were applied, and which, in which order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Chain {
    pub(super) count: u64,
    pub(super) hash: u64,
}

impl Chain {
    pub(super) fn with(self, id: u64) -> Self {
        Self { count: self.count + 1, hash: mix(self.hash ^ id) >> 1 }
    }
}

/// One line of a history.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Line {
    pub(super) to: u64,
    pub(super) cents: i64,
    pub(super) memo: String,
}

/// What an account has sent since it last cleared that.
pub(super) type History = Map<u64, Sub<Map<u64, Line>>>;

/// What was sent, by the account that sends, in [`GROUPS`] sets.
pub(super) type Done = Map<u64, Sub<Map<u64, Sub<Set<u64>>>>>;

/// How much each transfer sent, by the account that sends. Nothing of it is ever deleted, so that a migration
/// takes a while.
pub(super) type Amounts = Map<u64, Sub<Map<u64, i64>, Uncounted>>;

/// Ids of happenings, by key, in the order of its partition.
pub(super) type Lined = Map<u64, Sub<List<u64>>>;

/// Ids of happenings, by key, in [rounds](rounds_of).
pub(super) type Rounds = Map<u64, Sub<List<Sub<Set<u64>>>>>;

/// The rounds of ids, in their order.
pub(super) fn rounds_of(ids: &[u64]) -> Vec<BTreeSet<u64>> {
    let mut rounds: Vec<BTreeSet<u64>> = Vec::new();
    for &id in ids {
        match rounds.last_mut() {
            Some(last) if !begins_round(id) => {
                last.insert(id);
            }
            _ => rounds.push(BTreeSet::from([id])),
        }
        if ends_round(id) && rounds.len() > 1 {
            rounds.remove(0);
        }
    }
    rounds
}

fn begins_round(id: u64) -> bool {
    id.is_multiple_of(3)
}

/// Whether the oldest round goes, unless it is the only one.
fn ends_round(id: u64) -> bool {
    id.is_multiple_of(7)
}

/// In which set of [`Done`] a transfer lies: its id modulo this.
pub(super) const GROUPS: u64 = 3;

/// Which version of the module runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Era {
    /// The first one, of seeds that migrate.
    First,
    /// The one that all end with. Its function is not idempotent, so whoever is migrated twice, or not at all, is
    /// seen.
    Migrated,
}

/// What [`Era::Migrated`] counts from.
const COUNTED_FROM: u64 = 1 << 32;

/// What [`Era::Migrated`] adds to each amount, also to those of lines.
const AMOUNTS_FROM: i64 = 1 << 32;

impl Era {
    /// What is stored of an amount, and back.
    fn amount(self, cents: i64) -> i64 {
        cents + if self == Self::Migrated { AMOUNTS_FROM } else { 0 }
    }

    pub(super) fn read_amount(self, stored: i64) -> i64 {
        stored.wrapping_sub(self.amount(0))
    }

    /// What is stored of a chain, and back.
    fn stored(self, chain: Chain) -> Chain {
        let from = if self == Self::Migrated { COUNTED_FROM } else { 0 };
        Chain { count: chain.count + from, ..chain }
    }

    pub(super) fn read(self, stored: Chain) -> Chain {
        let from = if self == Self::Migrated { COUNTED_FROM } else { 0 };
        Chain { count: stored.count.wrapping_sub(from), ..stored }
    }
}

/// What the module function returns.
pub(super) struct Bank {
    pub(super) era: Era,
    pub(super) deposits: Depot<Deposit>,
    pub(super) transfers: Depot<Transfer>,
    pub(super) happenings: Depot<Happening>,
    pub(super) receipts: Depot<Receipt>,
    pub(super) funds: PState<Map<u64, i64>>,
    pub(super) paid: PState<Map<u64, i64>>,
    pub(super) sent: PState<Map<u64, Chain>>,
    pub(super) history: PState<History>,
    pub(super) done: PState<Done>,
    /// The same before [`Era::Migrated`].
    pub(super) done_first: PState<Map<u64, Vec<u64>>>,
    pub(super) amounts: PState<Amounts>,
    pub(super) received: PState<Map<u64, Chain>>,
    pub(super) tallied: PState<Map<u64, i64>>,
    pub(super) counted: PState<Map<u64, Chain>>,
    pub(super) happened: PState<Map<u64, u64>>,
    /// The same, from the flow behind the count.
    pub(super) shown: PState<Map<u64, u64>>,
    /// What is in `counted`, one by one.
    pub(super) lined: PState<Lined>,
    /// The same in rounds.
    pub(super) rounds: PState<Rounds>,
    pub(super) vault: PState<Single<Initially<Full>>>,
    pub(super) total: PState<Single<u64>>,
}

/// The vault before anything was paid in.
pub(super) enum Full {}

impl Initial for Full {
    type Value = i64;

    fn value() -> i64 {
        1_000_000_000
    }
}

/// `done`, as its owner has it.
enum OwnDone<O> {
    First(Owned<Map<u64, Vec<u64>>, O>),
    Migrated(Owned<Done, O>),
}

impl<O> OwnDone<O> {
    fn id(self) -> PStateId {
        match self {
            Self::First(done) => done.id(),
            Self::Migrated(done) => done.id(),
        }
    }
}

impl<O> Clone for OwnDone<O> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<O> Copy for OwnDone<O> {}

/// The topologies.
pub(super) const TOPOLOGIES: [&str; 3] = ["ledger", "tally", AUDIT];

/// Its coordinator lives in partition 0, where most happenings are, so that its microbatches mostly lie
/// in one journal; `audits_commit_alone` checks it.
pub(super) const AUDIT: &str = "audit";

#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Refusal(&'static str);

thread_local! {
    /// How often each flaky transfer has failed: what user code calls outside has a memory.
    static FAILED: RefCell<BTreeMap<u64, u32>> = const { RefCell::new(BTreeMap::new()) };
}

thread_local! {
    /// What happens while a topology is stopped for the end of its recompute; answers whether its check then goes
    /// on until some shard was down and came back.
    static WHILE_STOPPED: RefCell<Option<Box<dyn Fn() -> bool>>> = const { RefCell::new(None) };
}

/// Has this happen whenever a topology is stopped for the end of its recompute.
pub(super) fn while_stopped(happens: Option<Box<dyn Fn() -> bool>>) {
    WHILE_STOPPED.set(happens);
}

/// The last step of a check: lets happen what is planned.
async fn be_stopped(read: Reading, funds: PState<Map<u64, i64>>) -> Result<(), Unfulfilled> {
    if !WHILE_STOPPED.with_borrow(|happens| happens.as_ref().is_some_and(|happens| happens())) {
        return Ok(());
    }
    let mut was_down = false;
    for _ in 0..READS_WHILE_STOPPED {
        let all = read.select(funds.all()).await;
        if was_down && all.is_ok() {
            break;
        }
        was_down |= all.is_err();
    }
    Ok(())
}

/// Enough for a shard to be opened anew meanwhile, which it need not be.
const READS_WHILE_STOPPED: u64 = 2_000;

/// Forgets what failed in the world before.
pub(super) fn forget_failures() {
    while_stopped(None);
    FAILED.with_borrow_mut(BTreeMap::clear);
}

fn call_outside(transfer: &Transfer) -> Result<(), Failure> {
    let fails = FAILED.with_borrow_mut(|failed| {
        let count = failed.entry(transfer.id).or_default();
        *count += 1;
        *count <= transfer.flaky
    });
    if fails { Err(Failure::retry(Refusal("the outside is away"))) } else { Ok(()) }
}

/// Whether a transfer that does not clear the sender's history removes its first two lines.
pub(super) fn forgets(id: u64) -> bool {
    id.is_multiple_of(5)
}

/// The module function.
pub(super) fn bank(m: &Module, era: Era) -> Bank {
    // So that a launch that begins migrations ends recomputes, instead of being refused.
    m.version(match era {
        Era::First => 1,
        Era::Migrated => 2,
    });
    let deposits = m.depot::<Deposit>("deposits").hash_by(|deposit| &deposit.account);
    let transfers = m.depot::<Transfer>("transfers").hash_by(|transfer| &transfer.from);
    let happenings = m.depot::<Happening>("happenings").hash_by(|happening| &happening.key);
    let receipts = m.depot::<Receipt>("receipts").hash_by(|receipt| &receipt.to);

    let ledger = m.microbatch(|| "ledger");
    ledger.order_free();
    let funds = ledger.pstate::<Map<u64, i64>>("funds");
    let sent = match era {
        Era::First => ledger.pstate::<Map<u64, Chain>>("sent"),
        Era::Migrated => ledger.pstate_migrated::<Map<u64, Chain>, _>(
            "sent",
            Migration::values("counted-from", |chain: Chain| Era::Migrated.stored(chain)),
        ),
    };
    let paid = ledger.pstate::<Map<u64, i64>>("paid");
    ledger.invariant("money", move |read| async move {
        let paid: i64 = read.select(paid.all().values()).await?.into_iter().sum();
        let total: i64 = read.select(funds.all().values()).await?.into_iter().sum();
        if paid != total {
            return Err(format!("{paid} was paid in, {total} came out").into());
        }
        be_stopped(read, funds.reader()).await
    });
    let history = match era {
        Era::First => ledger.pstate::<History>("history"),
        Era::Migrated => ledger.pstate_migrated_within::<History, _>(
            "history",
            Migration::values("lines-from", |line: Line| Line {
                cents: Era::Migrated.amount(line.cents),
                ..line
            }),
        ),
    };
    let done = match era {
        Era::First => OwnDone::First(ledger.pstate("done")),
        Era::Migrated => OwnDone::Migrated(ledger.pstate_migrated::<Done, _>(
            "done",
            Migration::structure("in-groups", |old: Vec<u64>, new| {
                old.into_iter().try_for_each(|id| new.put(new.key(id % GROUPS).has(id), true))
            }),
        )),
    };
    let amounts = match era {
        Era::First => ledger.pstate::<Amounts>("amounts"),
        Era::Migrated => ledger.pstate_migrated_within::<Amounts, _>(
            "amounts",
            Migration::values("amounts-from", |cents: i64| Era::Migrated.amount(cents)),
        ),
    };
    let vault = ledger.pstate::<Single<Initially<Full>>>("vault");
    ledger
        .source(deposits)
        .also(|it| {
            it.aggregate((paid, vault), |(paid, vault), it| {
                (paid.key(it.account).add(Sum(it.cents)), vault.whole().add(Sum(-it.cents)))
            })
        })
        .aggregate(funds, |funds, it| funds.key(it.account).add(Sum(it.cents)));
    ledger
        .source(transfers)
        .using((funds, sent, history, amounts))
        .filter_map(async move |at, (funds, sent, history, amounts), it: Transfer| {
            if it.refused == Refused::AtSender {
                return Err(Refusal("refused where the sender lives").into());
            }
            call_outside(&it)?;
            let chain = at.get(sent.key(it.from)).await?;
            let chain = chain.unwrap_or_else(|| era.stored(Chain::default()));
            at.put(sent.key(it.from), chain.with(it.id))?;
            let balance = at.get(funds.key(it.from)).await?.unwrap_or(0);
            at.put(funds.key(it.from), balance - it.cents)?;
            if it.clears {
                at.delete(history.key(it.from))?;
            } else if forgets(it.id) {
                at.remove_range(history.key(it.from).all().limit(2)).await?;
            }
            let line = Line { to: it.to, cents: era.amount(it.cents), memo: it.memo.clone() };
            at.put(history.key(it.from).key(it.id), line)?;
            at.put(amounts.key(it.from).key(it.id), era.amount(it.cents))?;
            match done {
                OwnDone::First(done) => {
                    let old = at.get(done.key(it.from)).await?.unwrap_or_default();
                    at.put(done.key(it.from), [old, vec![it.id]].concat())?;
                }
                OwnDone::Migrated(done) => {
                    at.put(done.key(it.from).key(it.id % GROUPS).has(it.id), true)?;
                }
            }
            Ok(Some(it))
        })
        .hash_by(|it| &it.to)
        .filter_map(async |_, it: Transfer| match it.refused {
            Refused::AtReceiver => Err(Refusal("refused where the receiver lives").into()),
            Refused::AtSender | Refused::Nowhere => Ok(Some(it)),
        })
        .also(|it| it.aggregate(funds, |funds, it| funds.key(it.to).add(Sum(it.cents))))
        .map(|it| Receipt {
            id: it.id | BY_LEDGER,
            to: it.to,
            cents: it.cents,
            memo: String::new(),
        })
        .append_to(receipts);

    let tally = m.microbatch(|| "tally");
    tally.order_free();
    tally.invariant("stopped", move |read| be_stopped(read, funds.reader()));
    let received = tally.pstate::<Map<u64, Chain>>("received");
    let tallied = tally.pstate::<Map<u64, i64>>("tallied");
    tally
        .source(receipts)
        .also(|it| it.aggregate(tallied, |tallied, it| tallied.key(it.to % 5).add(Sum(it.cents))))
        .using(received)
        .for_each(async |at, received, it| {
            let chain = at.get(received.key(it.to)).await?.unwrap_or_default();
            Ok(at.put(received.key(it.to), chain.with(it.id))?)
        });

    let audit = m.microbatch(|| AUDIT);
    audit.order_free();
    audit.invariant("stopped", move |read| be_stopped(read, funds.reader()));
    let counted = audit.pstate::<Map<u64, Chain>>("counted");
    let happened = audit.pstate::<Map<u64, u64>>("happened");
    let shown = audit.pstate::<Map<u64, u64>>("shown");
    let lined = audit.pstate::<Lined>("lined");
    let rounds = audit.pstate::<Rounds>("rounds");
    let total = audit.pstate::<Single<u64>>("total");
    audit
        .source(happenings)
        .also(|it| {
            it.aggregate((lined, total), |(lined, total), it| {
                (lined.key(it.key).add(ListOf(it.id)), total.whole().add(Count))
            })
        })
        .also(|it| {
            it.aggregate_into(happened, |happened, it| (it.key, happened.key(it.key).add(Count)))
                .using(shown)
                .for_each(async |at, shown, (key, count): (u64, Option<u64>)| {
                    Ok(at.put(shown.key(key), count.unwrap_or_default())?)
                })
        })
        .using((counted, rounds))
        .for_each(async |at, (counted, rounds), it| {
            let chain = at.get(counted.key(it.key)).await?.unwrap_or_default();
            at.put(counted.key(it.key), chain.with(it.id))?;
            let all = || rounds.key(it.key);
            let last = at.get(all().size()).await?.checked_sub(1);
            let round = match last.filter(|_| !begins_round(it.id)) {
                Some(last) => at.nth(all(), last).await?.expect("it is the last one"),
                None => at.push_new(all()).await?,
            };
            at.put(round.has(it.id), true)?;
            if ends_round(it.id) && at.get(all().size()).await? > 1 {
                at.remove(all(), 0).await?;
            }
            Ok(())
        });

    Bank {
        era,
        deposits,
        transfers,
        happenings,
        receipts,
        funds: funds.reader(),
        paid: paid.reader(),
        sent: sent.reader(),
        history: history.reader(),
        done: PState::from_id(done.id()),
        done_first: PState::from_id(done.id()),
        amounts: amounts.reader(),
        received: received.reader(),
        tallied: tallied.reader(),
        counted: counted.reader(),
        happened: happened.reader(),
        shown: shown.reader(),
        lined: lined.reader(),
        rounds: rounds.reader(),
        vault: vault.reader(),
        total: total.reader(),
    }
}
