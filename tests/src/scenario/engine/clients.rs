//! Clients: they append in every way there is, wait for effects, read, and remember what they heard.

use std::rc::Rc;
use std::time::Duration;

use tidemill::client::{Append, Appended, Launched};
use tidemill::depot::Key;
use tidemill::error::Error;
use tidemill::module::Depot;
use tidemill::shard::{Acknowledge, Effects};
use tidemill::topology::Row;
use tidemill::types::{Offset, PartitionId};

use super::Shared;
use super::contents::SNAPSHOTS;
use super::history::{ChainOf, Kind, Place, Promise, Record};
use super::module::{Bank, Deposit, Happening, Receipt, Refused, Transfer};
use super::oracles::{applied, sized, snapshot, unchanged};
use super::read;
use crate::scenario::Failure;
use crate::world::World;

/// One client: a name of its own for repeated appends, and so many operations to do.
pub(super) struct Client {
    pub(super) world: World,
    pub(super) shared: Rc<Shared>,
    pub(super) bank: Launched<Bank>,
    /// Survives its lives.
    pub(super) name: u128,
    pub(super) operations: u64,
}

/// How one append is made.
#[derive(Clone, Copy)]
enum How {
    Durable,
    Unacknowledged,
    Once(Key),
}

impl Client {
    /// Works until it is done or the shards it needs are gone.
    pub(super) async fn run(self) {
        if let Err(failure) = self.work().await {
            self.shared.fail(failure);
        }
    }

    async fn work(&self) -> Result<(), Failure> {
        let random = self.world.random();
        let unanswered = self.shared.history.borrow().to_repeat(self.name);
        for (key, record) in unanswered {
            self.append(&record, How::Once(key), false).await?;
        }
        for _ in 0..self.operations {
            match random.below(20) {
                0..=1 => self.append_many().await?,
                2..=3 => self.append_once().await?,
                4..=6 => self.read().await?,
                7 => self.fold().await,
                9..=10 => self.snapshot().await?,
                11..=12 => self.follow().await?,
                8 => {
                    let record = self.record(0);
                    self.first(&record, How::Unacknowledged).await?;
                }
                _ => {
                    let bulky = random.one_in(40);
                    let record = self.record(if bulky { self.shared.shape.bulk_bytes } else { 0 });
                    self.first(&record, How::Durable).await?;
                }
            }
            if random.one_in(3) {
                self.world.sleep(Duration::from_micros(random.below(3_000))).await;
            }
        }
        Ok(())
    }

    /// Makes a call, and lets it be known while it is not answered.
    pub(super) async fn call<T>(&self, name: &'static str, call: impl Future<Output = T>) -> T {
        self.shared.calls.borrow_mut().insert(self.name, name);
        let answer = call.await;
        self.shared.calls.borrow_mut().remove(&self.name);
        answer
    }

    /// A record that nobody has sent yet.
    pub(super) fn record(&self, memo_bytes: usize) -> Record {
        let random = self.world.random();
        let id = self.shared.history.borrow_mut().next_id();
        let accounts = self.shared.shape.accounts;
        let bytes = memo_bytes.max(random.index(200));
        let memo: String = (0..bytes)
            .map(|at| char::from(b'a' + u8::try_from((id + at as u64) % 26).expect("below 26")))
            .collect();
        match random.below(10) {
            0..=4 => Record::Transfer(Transfer {
                id,
                from: random.below(accounts),
                to: random.below(accounts),
                cents: i64::try_from(random.below(1_000)).expect("small"),
                clears: random.one_in(12),
                refused: match random.below(40) {
                    0 => Refused::AtSender,
                    1 => Refused::AtReceiver,
                    _ => Refused::Nowhere,
                },
                flaky: if random.one_in(40) {
                    1 + u32::try_from(random.below(2)).expect("below 2")
                } else {
                    0
                },
                memo,
            }),
            5..=6 => {
                let cents = i64::try_from(random.below(5_000)).expect("small");
                Record::Deposit(Deposit { id, account: random.below(accounts), cents, memo })
            }
            7..=8 => {
                let keys = &self.shared.shape.keys_at_audit;
                let elsewhere = random.one_in(5);
                let key = if elsewhere { random.below(64) } else { *random.pick(keys) };
                Record::Happening(Happening { id, key, memo })
            }
            _ => {
                let cents = i64::try_from(random.below(100)).expect("small");
                Record::Receipt(Receipt { id, to: random.below(accounts), cents, memo })
            }
        }
    }

    /// Appends a new record.
    async fn first(&self, record: &Record, how: How) -> Result<(), Failure> {
        let key = match how {
            How::Once(key) => Some(key),
            How::Durable | How::Unacknowledged => None,
        };
        self.shared.history.borrow_mut().send(record, key, None);
        self.append(record, how, true).await
    }

    /// Appends some record to a partition.
    pub(super) async fn touch(&self, partition: PartitionId) -> Result<(), Failure> {
        loop {
            let record = self.record(0);
            if record.partition() == partition {
                return self.first(&record, How::Durable).await;
            }
        }
    }

    /// Appends some transfer from an account.
    pub(super) async fn transfer_from(&self, account: u64) -> Result<(), Failure> {
        loop {
            if let Record::Transfer(it) = self.record(0) {
                let record = Record::Transfer(Transfer { from: account, ..it });
                return self.first(&record, How::Durable).await;
            }
        }
    }

    async fn append_once(&self) -> Result<(), Failure> {
        let record = self.record(0);
        let key = Key { client: self.name, sequence: record.id() };
        self.first(&record, How::Once(key)).await?;
        // Sometimes the answer got lost on its way, so the client asks again.
        if self.world.random().one_in(3) {
            self.append(&record, How::Once(key), false).await?;
        }
        Ok(())
    }

    async fn append(&self, record: &Record, how: How, first: bool) -> Result<(), Failure> {
        let bank = &self.bank;
        let append = match record {
            Record::Deposit(it) => send(bank, bank.deposits, it, how),
            Record::Transfer(it) => send(bank, bank.transfers, it, how),
            Record::Happening(it) => send(bank, bank.happenings, it, how),
            Record::Receipt(it) => send(bank, bank.receipts, it, how),
        };
        self.shared.count("appends", 1);
        if matches!(how, How::Durable) && self.world.random().one_in(15) {
            // It goes on all the same.
            drop(append);
            return Ok(());
        }
        match self.call("append", append).await {
            Ok(appended) => {
                if !matches!(how, How::Unacknowledged) {
                    self.acknowledged(record, &appended, appended.offsets.start)?;
                    if self.world.random().one_in(3) {
                        self.wait(record, &appended).await?;
                    }
                }
            }
            Err(Error::DiskFull { .. } | Error::Overloaded { .. }) if first => {
                self.shared.history.borrow_mut().refused(record.id());
                self.shared.count("refused", 1);
            }
            Err(error) => self.tolerate("an append", &error)?,
        }
        Ok(())
    }

    async fn append_many(&self) -> Result<(), Failure> {
        let random = self.world.random();
        let count = random.within(2..14);
        let kind = *random.pick(&Kind::ALL);
        let mut records = Vec::new();
        while records.len() < usize::try_from(count).expect("small") {
            let record = self.record(0);
            if record.kind() == kind {
                records.push(record);
            }
        }
        {
            let mut history = self.shared.history.borrow_mut();
            let group = history.next_group();
            for record in &records {
                history.send(record, None, Some(group));
            }
        }
        self.shared.count("appends", count);
        let bank = &self.bank;
        let append = async {
            match kind {
                Kind::Deposits => many(bank, bank.deposits, &records, Record::deposit).await,
                Kind::Transfers => many(bank, bank.transfers, &records, Record::transfer).await,
                Kind::Happenings => many(bank, bank.happenings, &records, Record::happening).await,
                Kind::Receipts => many(bank, bank.receipts, &records, Record::receipt).await,
            }
        };
        let appended = self.call("append_many", append).await;
        match appended {
            Ok(parts) => {
                for part in &parts {
                    let mine = records.iter().filter(|it| it.partition() == part.partition);
                    let mut offset = part.offsets.start;
                    for record in mine {
                        self.acknowledged(record, part, offset)?;
                        offset = offset.advance(1);
                    }
                }
                Ok(())
            }
            Err(error) => self.tolerate("append_many", &error),
        }
    }

    fn acknowledged(
        &self,
        record: &Record,
        appended: &Appended,
        offset: Offset,
    ) -> Result<(), Failure> {
        let place = Place { kind: record.kind(), partition: appended.partition, offset };
        self.shared.count("acknowledged", 1);
        let mut history = self.shared.history.borrow_mut();
        if let super::history::Fate::Acknowledged(before) = history.sent[&record.id()].fate
            && before != place
        {
            let what = format!("record {} was acknowledged at {before:?}", record.id());
            return Err(Failure::new("once", format!("{what} and at {place:?}")));
        }
        history.acknowledged(record.id(), place);
        Ok(())
    }

    /// Waits for the effects, then looks for them.
    async fn wait(&self, record: &Record, appended: &Appended) -> Result<(), Failure> {
        match self.call("wait", self.bank.wait(record.kind().topology(), appended)).await {
            Ok(effects) => {
                let applied = matches!(effects, Effects::Applied { .. });
                let (Effects::Applied { id } | Effects::DeadLettered { id }) = effects;
                {
                    let mut history = self.shared.history.borrow_mut();
                    let last = history.visible.entry(record.kind().topology()).or_default();
                    *last = id.max(*last);
                }
                applied::answer(record, applied)?;
                let promise = Promise { id: record.id(), applied };
                self.shared.history.borrow_mut().promises.push(promise);
                self.shared.count("waits", 1);
                Ok(())
            }
            Err(error) => self.tolerate("a wait", &error),
        }
    }

    async fn read(&self) -> Result<(), Failure> {
        let random = self.world.random();
        let account = random.below(self.shared.shape.accounts);
        let bank = &self.bank;
        let (of, path) = match random.below(3) {
            0 => (ChainOf::Sent(account), bank.sent.key(account)),
            1 => (ChainOf::Received(account), bank.received.key(account)),
            _ => {
                let key = *random.pick(&self.shared.shape.keys_at_audit);
                (ChainOf::Counted(key), bank.counted.key(key))
            }
        };
        let floor = self.shared.history.borrow().floor(of);
        match self.call("select", bank.select(path)).await {
            Ok(chain) => {
                let chain = match of {
                    ChainOf::Sent(_) => chain.map(|chain| bank.era.read(chain)),
                    ChainOf::Received(_) | ChainOf::Counted(_) => chain,
                };
                self.shared.count("reads", 1);
                let mut history = self.shared.history.borrow_mut();
                unchanged::chain(&mut history, of, floor, chain.unwrap_or_default())
            }
            Err(error) => self.tolerate("a read", &error),
        }
    }

    /// Takes a snapshot and reads it several times, while others go on.
    async fn snapshot(&self) -> Result<(), Failure> {
        let random = self.world.random();
        let floors = self.shared.history.borrow().longest.clone();
        let snapshot = match self.call("snapshot", self.bank.snapshot()).await {
            Ok(snapshot) => snapshot,
            Err(error) => return self.tolerate("a snapshot", &error),
        };
        let (mut first, accounts) = (None, self.shared.shape.accounts);
        for _ in 0..random.within(1..5) {
            match self.call("select at", read::held(&self.bank, &snapshot, accounts)).await {
                Ok((state, sizes)) => {
                    self.shared.count(SNAPSHOTS, 1);
                    sized::judge(&sizes)?;
                    let mut history = self.shared.history.borrow_mut();
                    snapshot::judge(&mut history, &floors, &state, first.as_ref())?;
                    first.get_or_insert(state);
                }
                Err(Error::SnapshotExpired { .. }) if !self.shared.keeps_snapshots() => {
                    self.shared.count("snapshots expired", 1);
                    return Ok(());
                }
                Err(error) => return self.tolerate("a read in a snapshot", &error),
            }
            self.world.sleep(Duration::from_micros(random.below(20_000))).await;
        }
        Ok(())
    }

    async fn fold(&self) {
        // Whatever it answers: a full disk and a stopped shard are part of the game.
        if self.call("fold", self.bank.engine().fold()).await.is_ok() {
            self.shared.count("folds", 1);
        }
    }

    /// Errors that a client may meet; it goes on.
    pub(super) fn tolerate(&self, what: &str, error: &Error) -> Result<(), Failure> {
        self.shared.tolerate(&self.world, what, error)
    }
}

fn send<T: Row>(bank: &Launched<Bank>, depot: Depot<T>, record: &T, how: How) -> Append {
    match how {
        How::Durable => bank.append(depot, record),
        How::Unacknowledged => bank.append_acknowledged(depot, record, Acknowledge::None),
        How::Once(key) => bank.append_once(depot, key, record),
    }
}

async fn many<T: Row>(
    bank: &Launched<Bank>,
    depot: Depot<T>,
    records: &[Record],
    of: impl Fn(&Record) -> Option<&T>,
) -> Result<Vec<Appended>, Error> {
    let records: Vec<&T> = records.iter().filter_map(of).collect();
    bank.append_many(depot, records).await
}

impl Record {
    fn deposit(&self) -> Option<&Deposit> {
        if let Self::Deposit(it) = self { Some(it) } else { None }
    }

    fn transfer(&self) -> Option<&Transfer> {
        if let Self::Transfer(it) = self { Some(it) } else { None }
    }

    fn happening(&self) -> Option<&Happening> {
        if let Self::Happening(it) = self { Some(it) } else { None }
    }

    fn receipt(&self) -> Option<&Receipt> {
        if let Self::Receipt(it) = self { Some(it) } else { None }
    }
}
