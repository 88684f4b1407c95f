//! Reading everything back through the client API.

use std::collections::{BTreeMap, BTreeSet};

use tidemill::backup;
use tidemill::client::{Launched, SelectingMany, Snapshot};
use tidemill::error::{Error, Result};
use tidemill::module::Depot;
use tidemill::schema::{Outside, Select};
use tidemill::topology::Row;
use tidemill::types::{MicrobatchId, Offset, PartitionId};

use super::history::{Kind, Place, Record};
use super::module::{AUDIT, Bank, Chain, Era, GROUPS, Line};
use super::oracles::sized::Sizes;
use super::replay::{Depots, State};

/// Records asked for at once.
const RECORDS_MAX: usize = 200;

/// Every durable record of every depot.
pub(super) async fn depots(bank: &Launched<Bank>) -> Result<Depots> {
    let mut all = Depots::new();
    for partition in (0..bank.engine().partitions()).map(PartitionId) {
        let kind = |kind| move |offset| Place { kind, partition, offset };
        read(bank, bank.deposits, partition, &mut all, kind(Kind::Deposits), Record::Deposit)
            .await?;
        read(bank, bank.transfers, partition, &mut all, kind(Kind::Transfers), Record::Transfer)
            .await?;
        read(bank, bank.happenings, partition, &mut all, kind(Kind::Happenings), Record::Happening)
            .await?;
        read(bank, bank.receipts, partition, &mut all, kind(Kind::Receipts), Record::Receipt)
            .await?;
    }
    Ok(all)
}

async fn read<T: Row>(
    bank: &Launched<Bank>,
    depot: Depot<T>,
    partition: PartitionId,
    all: &mut Depots,
    place: impl Fn(Offset) -> Place,
    record: impl Fn(T) -> Record,
) -> Result<()> {
    let mut from = Offset(0);
    loop {
        let found = bank.read_depot(depot, partition, from, RECORDS_MAX).await?;
        if found.is_empty() {
            return Ok(());
        }
        for one in found {
            if one.offset != from {
                let what = format!("read offset {} where {from} was due", one.offset);
                return Err(Error::Invalid { what });
            }
            from = from.advance(1);
            all.insert(place(one.offset), record(one.record));
        }
    }
}

/// Everything that is visible, and the sizes of collections in it.
pub(super) async fn state(bank: &Launched<Bank>, accounts: u64) -> Result<(State, Sizes)> {
    let mut state = State {
        funds: bank.select(bank.funds.all()).await?.into_iter().collect(),
        paid: bank.select(bank.paid.all()).await?.into_iter().collect(),
        sent: chains(bank, bank.select(bank.sent.all()).await?),
        received: bank.select(bank.received.all()).await?.into_iter().collect(),
        tallied: bank.select(bank.tallied.all()).await?.into_iter().collect(),
        counted: bank.select(bank.counted.all()).await?.into_iter().collect(),
        happened: bank.select(bank.happened.all()).await?.into_iter().collect(),
        shown: bank.select(bank.shown.all()).await?.into_iter().collect(),
        vault: bank.select(bank.vault.whole()).await?,
        total: bank.select(bank.total.whole()).await?.unwrap_or(0),
        ..State::default()
    };
    state.lined = lined(bank, &state.counted, &When::Now).await?;
    let (rounds, sized) = rounds(bank, &state.counted, &When::Now).await?;
    state.rounds = rounds;
    let sent = all_sent(bank, accounts, &When::Now).await?;
    let mut sizes = add_sent(bank, &mut state, sent);
    sizes.extend(sized);
    Ok((state, sizes))
}

/// The moment of a topology that is read.
enum When<'a> {
    Now,
    Held(&'a Snapshot),
    AsOf(&'static str, MicrobatchId),
}

/// A size, and the elements.
type Sized<T> = (u64, Vec<T>);

/// The ids of each group.
type Groups = (Sized<u64>, Sized<u64>, Sized<u64>);

/// Lines of an account; how many groups of ids it has; those; what it sent with each id.
type Sent = (Sized<(u64, Line)>, u64, Groups, Vec<(u64, i64)>);

/// What an account has sent.
fn sent(bank: &Bank, account: u64) -> impl Select<Out = Sent> + Outside + use<> {
    let (history, done) = (bank.history.key(account), bank.done.key(account));
    let [a, b, c] = [0, 1, 2].map(|group| {
        let ids = done.clone().key(group);
        (ids.clone().size(), ids.all())
    });
    let amounts = bank.amounts.key(account).all();
    ((history.clone().size(), history.all()), done.size(), (a, b, c), amounts)
}

/// The same of every account.
async fn all_sent(bank: &Launched<Bank>, accounts: u64, when: &When<'_>) -> Result<Vec<Sent>> {
    match bank.era {
        Era::First => {
            let of = |account| {
                let history = bank.history.key(account);
                let amounts = bank.amounts.key(account).all();
                ((history.clone().size(), history.all()), bank.done_first.key(account), amounts)
            };
            let found = at(bank.select_many((0..accounts).map(of)), when).await?;
            let counted = |ids: Vec<u64>| (ids.len() as u64, ids);
            let sent = found.into_iter().map(|(history, ids, amounts)| {
                let ids = ids.unwrap_or_default();
                let [a, b, c] = [0, 1, 2].map(|group| {
                    ids.iter().copied().filter(|id| id % GROUPS == group).collect::<Vec<_>>()
                });
                let full = [&a, &b, &c].into_iter().filter(|ids| !ids.is_empty()).count();
                (history, full as u64, (counted(a), counted(b), counted(c)), amounts)
            });
            Ok(sent.collect())
        }
        Era::Migrated => {
            at(bank.select_many((0..accounts).map(|account| sent(bank, account))), when).await
        }
    }
}

/// Ids that happened, by key, of all keys that were counted.
async fn lined(
    bank: &Launched<Bank>,
    counted: &BTreeMap<u64, Chain>,
    when: &When<'_>,
) -> Result<BTreeMap<u64, Vec<u64>>> {
    let of = |key: &u64| bank.lined.key(*key).all();
    let found = at(bank.select_many(counted.keys().map(of)), when).await?;
    Ok(counted.keys().copied().zip(found).collect())
}

/// The same in rounds, and the sizes of those.
async fn rounds(
    bank: &Launched<Bank>,
    counted: &BTreeMap<u64, Chain>,
    when: &When<'_>,
) -> Result<(BTreeMap<u64, Vec<BTreeSet<u64>>>, Sizes)> {
    let of = |key: &u64| bank.rounds.key(*key).size();
    let counts = at(bank.select_many(counted.keys().map(of)), when).await?;
    let (mut rounds, mut sizes) = (BTreeMap::new(), Sizes::new());
    for (&key, count) in counted.keys().zip(counts) {
        let each = |nth| {
            let round = bank.rounds.key(key).nth(nth);
            (round.clone().size(), round.all())
        };
        let found = at(bank.select_many((0..count).map(each)), when).await?;
        for (nth, (size, ids)) in (0..).zip(&found) {
            sizes.push((format!("round {nth} of {key}"), *size, ids.len()));
        }
        let ids = found.into_iter().map(|(_, ids)| ids.into_iter().collect());
        rounds.insert(key, ids.collect());
    }
    Ok((rounds, sizes))
}

fn at<P: Select>(selecting: SelectingMany<P>, when: &When<'_>) -> SelectingMany<P> {
    match when {
        When::Now => selecting,
        When::Held(snapshot) => selecting.at(snapshot),
        When::AsOf(topology, id) => selecting.as_of(topology, *id),
    }
}

/// Chains of senders, by sender.
fn chains(bank: &Bank, stored: Vec<(u64, Chain)>) -> BTreeMap<u64, Chain> {
    stored.into_iter().map(|(key, chain)| (key, bank.era.read(chain))).collect()
}

fn add_sent(bank: &Bank, state: &mut State, sent: Vec<Sent>) -> Sizes {
    let mut sizes = Sizes::new();
    for (account, (history, groups, (a, b, c), amounts)) in (0..).zip(sent) {
        let ids = [a, b, c];
        sizes.push((format!("history {account}"), history.0, history.1.len()));
        let full = ids.iter().filter(|(_, ids)| !ids.is_empty()).count();
        sizes.push((format!("done {account}"), groups, full));
        for (group, (size, ids)) in (0..).zip(&ids) {
            assert!(ids.iter().all(|id| id % GROUPS == group), "ids lie in their group");
            sizes.push((format!("done {account} {group}"), *size, ids.len()));
        }
        if !history.1.is_empty() {
            let lines = history
                .1
                .into_iter()
                .map(|(id, line)| (id, Line { cents: bank.era.read_amount(line.cents), ..line }));
            state.history.insert(account, lines.collect());
        }
        if !amounts.is_empty() {
            let amounts = amounts.into_iter().map(|(id, it)| (id, bank.era.read_amount(it)));
            state.amounts.insert(account, amounts.collect());
        }
        if full > 0 {
            state.done.insert(account, ids.into_iter().flat_map(|(_, ids)| ids).collect());
        }
    }
    sizes
}

/// What a snapshot holds, as far as it must add up, and the sizes of collections in it.
pub(super) async fn held(
    bank: &Launched<Bank>,
    snapshot: &Snapshot,
    accounts: u64,
) -> Result<(State, Sizes)> {
    let mut state = State {
        funds: bank.select(bank.funds.all()).at(snapshot).await?.into_iter().collect(),
        paid: bank.select(bank.paid.all()).at(snapshot).await?.into_iter().collect(),
        sent: chains(bank, bank.select(bank.sent.all()).at(snapshot).await?),
        counted: bank.select(bank.counted.all()).at(snapshot).await?.into_iter().collect(),
        happened: bank.select(bank.happened.all()).at(snapshot).await?.into_iter().collect(),
        shown: bank.select(bank.shown.all()).at(snapshot).await?.into_iter().collect(),
        vault: bank.select(bank.vault.whole()).at(snapshot).await?,
        total: bank.select(bank.total.whole()).at(snapshot).await?.unwrap_or(0),
        ..State::default()
    };
    state.lined = lined(bank, &state.counted, &When::Held(snapshot)).await?;
    let (rounds, sized) = rounds(bank, &state.counted, &When::Held(snapshot)).await?;
    state.rounds = rounds;
    let sent = all_sent(bank, accounts, &When::Held(snapshot)).await?;
    let mut sizes = add_sent(bank, &mut state, sent);
    sizes.extend(sized);
    Ok((state, sizes))
}

/// What there was at the last microbatch that `backup` has of each topology, as far as it must add up.
pub(super) async fn backed_up(
    bank: &Launched<Bank>,
    backup: &backup::Report,
    accounts: u64,
) -> Result<(State, Sizes)> {
    let id = |topology| {
        let mut found = backup.ids.iter().filter(|it| it.topology == topology);
        found.next().map_or(MicrobatchId(0), |it| it.id)
    };
    let (ledger, tally, audit) = (id("ledger"), id("tally"), id(AUDIT));
    let mut state = State {
        funds: bank.select(bank.funds.all()).as_of("ledger", ledger).await?.into_iter().collect(),
        paid: bank.select(bank.paid.all()).as_of("ledger", ledger).await?.into_iter().collect(),
        sent: chains(bank, bank.select(bank.sent.all()).as_of("ledger", ledger).await?),
        received: bank
            .select(bank.received.all())
            .as_of("tally", tally)
            .await?
            .into_iter()
            .collect(),
        counted: bank.select(bank.counted.all()).as_of(AUDIT, audit).await?.into_iter().collect(),
        happened: bank.select(bank.happened.all()).as_of(AUDIT, audit).await?.into_iter().collect(),
        shown: bank.select(bank.shown.all()).as_of(AUDIT, audit).await?.into_iter().collect(),
        vault: bank.select(bank.vault.whole()).as_of("ledger", ledger).await?,
        total: bank.select(bank.total.whole()).as_of(AUDIT, audit).await?.unwrap_or(0),
        ..State::default()
    };
    state.lined = lined(bank, &state.counted, &When::AsOf(AUDIT, audit)).await?;
    let (rounds, sized) = rounds(bank, &state.counted, &When::AsOf(AUDIT, audit)).await?;
    state.rounds = rounds;
    let sent = all_sent(bank, accounts, &When::AsOf("ledger", ledger)).await?;
    let mut sizes = add_sent(bank, &mut state, sent);
    sizes.extend(sized);
    Ok((state, sizes))
}

/// The places of records that the ledger refused, in the order of the dead letters.
pub(super) async fn dead_letters(bank: &Launched<Bank>) -> Result<Vec<(PartitionId, Offset)>> {
    let mut all = Vec::new();
    for partition in (0..bank.engine().partitions()).map(PartitionId) {
        let mut from = Offset(0);
        loop {
            let letters = bank.dead_letters("ledger", partition, from).await?;
            if letters.is_empty() {
                break;
            }
            from = Offset(from.0 + letters.len() as u64);
            all.extend(letters.iter().map(|letter| (letter.partition, letter.offset)));
        }
    }
    Ok(all)
}
