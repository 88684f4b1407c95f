//! Reading everything back through the client API.

use tidemill::backup;
use tidemill::client::{Launched, Snapshot};
use tidemill::error::{Error, Result};
use tidemill::module::Depot;
use tidemill::topology::Row;
use tidemill::types::{MicrobatchId, Offset, PartitionId};

use super::history::{Kind, Place, Record};
use super::module::Bank;
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

/// Everything that is visible.
pub(super) async fn state(bank: &Launched<Bank>, accounts: u64) -> Result<State> {
    let mut state = State {
        funds: bank.select(bank.funds.all()).await?.into_iter().collect(),
        paid: bank.select(bank.paid.all()).await?.into_iter().collect(),
        sent: bank.select(bank.sent.all()).await?.into_iter().collect(),
        received: bank.select(bank.received.all()).await?.into_iter().collect(),
        tallied: bank.select(bank.tallied.all()).await?.into_iter().collect(),
        counted: bank.select(bank.counted.all()).await?.into_iter().collect(),
        happened: bank.select(bank.happened.all()).await?.into_iter().collect(),
        ..State::default()
    };
    let both = bank
        .select_many((0..accounts).map(|it| (bank.history.key(it).all(), bank.done.key(it).all())))
        .await?;
    for (account, (history, done)) in (0..).zip(both) {
        if !history.is_empty() {
            state.history.insert(account, history.into_iter().collect());
        }
        if !done.is_empty() {
            state.done.insert(account, done.into_iter().collect());
        }
    }
    Ok(state)
}

/// What a snapshot holds, as far as it must add up.
pub(super) async fn held(bank: &Launched<Bank>, snapshot: &Snapshot) -> Result<State> {
    Ok(State {
        funds: bank.select(bank.funds.all()).at(snapshot).await?.into_iter().collect(),
        paid: bank.select(bank.paid.all()).at(snapshot).await?.into_iter().collect(),
        sent: bank.select(bank.sent.all()).at(snapshot).await?.into_iter().collect(),
        counted: bank.select(bank.counted.all()).at(snapshot).await?.into_iter().collect(),
        happened: bank.select(bank.happened.all()).at(snapshot).await?.into_iter().collect(),
        ..State::default()
    })
}

/// What there was at the last microbatch that `backup` has of each topology, as far as it must add up.
pub(super) async fn backed_up(bank: &Launched<Bank>, backup: &backup::Report) -> Result<State> {
    let id = |topology| {
        let mut found = backup.ids.iter().filter(|it| it.topology == topology);
        found.next().map_or(MicrobatchId(0), |it| it.id)
    };
    let (ledger, tally, audit) = (id("ledger"), id("tally"), id(super::module::AUDIT));
    Ok(State {
        funds: bank.select(bank.funds.all()).as_of("ledger", ledger).await?.into_iter().collect(),
        paid: bank.select(bank.paid.all()).as_of("ledger", ledger).await?.into_iter().collect(),
        sent: bank.select(bank.sent.all()).as_of("ledger", ledger).await?.into_iter().collect(),
        received: bank
            .select(bank.received.all())
            .as_of("tally", tally)
            .await?
            .into_iter()
            .collect(),
        counted: bank
            .select(bank.counted.all())
            .as_of(super::module::AUDIT, audit)
            .await?
            .into_iter()
            .collect(),
        happened: bank
            .select(bank.happened.all())
            .as_of(super::module::AUDIT, audit)
            .await?
            .into_iter()
            .collect(),
        ..State::default()
    })
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
