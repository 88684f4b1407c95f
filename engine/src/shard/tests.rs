//! A shard alone on the memory disk: what replay and the journal's reuse owe each other.

mod backup;

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{Either, select};
use tidemill_replication::two_phase::AttemptId;

use super::entry::{Prepare, PreparedAppends, Transaction};
use super::keeper::{Hand, Keeper};
use super::message::KeeperRequest;
use super::recover::{Plan, Replaying, boot, open};
use super::*;
use crate::env::memory::{MemoryDisk, run};
use crate::journal::{Admission, Entry};
use crate::node::Options;
use crate::pstate::{self, Wanted, WriteSet};
use crate::types::{Attempt, Index, MicrobatchId, PStateId, ShardId};

const P: PartitionId = PartitionId(0);
const FILE_BYTES: u32 = 64 << 10;

fn options() -> Options {
    Options {
        shards: 1,
        partitions: Some(1),
        memory_bytes: 64 << 20,
        journal_bytes_max: 8 * u64::from(FILE_BYTES),
        journal_file_bytes: FILE_BYTES,
        ..Options::default()
    }
}

/// Creates the directory, or goes on with it.
async fn start(env: &Env) -> Rc<Shard> {
    let boot = boot(env, &options()).await.unwrap();
    let plan = match boot.journals.first() {
        Some(record) => Plan::Resume(*record),
        None => Plan::Create { id: JournalId(1), read: Vec::new() },
    };
    let (created, run) = (boot.journals.is_empty(), boot.manifest.run);
    let shape = (boot.manifest.partitions, boot.manifest.data_id);
    let keeper = Keeper::new(boot.manifest, boot.catalogue);
    let setup = Arc::new(Setup::new(options(), shape, run, keeper));
    let never: Pin<Box<dyn Future<Output = ()> + Send>> = Box::pin(std::future::pending());
    let hand = Hand::new(env, &setup, never.shared());
    let (shard, _) = open(env, &setup, run, plan, hand, &|_| ()).await.unwrap();
    shard.start();
    if created {
        let (reply, answered) = futures_channel::oneshot::channel();
        let journals = vec![(ShardId(0), JournalId(1))];
        let request = KeeperRequest::Switch { journals, reply };
        shard.keep(request).await;
        answered.await.unwrap().unwrap();
    }
    shard
}

fn transaction(id: u64) -> Transaction {
    let attempt = AttemptId { id: MicrobatchId(id), run: Run(1), attempt: Attempt(1) };
    Transaction { topology: TopologyId(9), attempt }
}

fn prepare(id: u64, value: &[u8]) -> (Rc<pstate::Run>, Vec<u8>) {
    let mut writes = WriteSet::default();
    writes.put(PStateId(5), &id.to_be_bytes(), value);
    let run = Rc::new(writes.seal());
    let mut bytes = Vec::new();
    let appends = PreparedAppends::default();
    Prepare::encode_into(transaction(id), &appends, &mut bytes, |out| run.encode(out));
    (run, bytes)
}

/// Logs the prepare of a microbatch that is not decided.
fn log_prepare(shard: &Shard, id: u64, value: &[u8]) {
    let partition = shard.partition(P).unwrap();
    let (run, bytes) = prepare(id, value);
    let entry = NewEntry::new(partition, Kind::Prepare, bytes);
    partition.add_prepared(transaction(id), entry.index, run, PreparedAppends::default());
    shard.log(&[entry], Vec::new());
}

fn log_abort(shard: &Shard, id: u64) {
    let partition = shard.partition(P).unwrap();
    partition.forget_prepared(transaction(id));
    let entry = NewEntry::new(partition, Kind::Aborted, transaction(id).encode());
    shard.log(&[entry], Vec::new());
}

#[test]
fn a_prepare_without_an_outcome_does_not_hold_the_journal_for_ever() {
    let disk = MemoryDisk::new();
    let copy = disk.clone();
    let crashes = run(&disk, |env| async move {
        let shard = start(&env).await;
        log_prepare(&shard, 1, b"in doubt");
        let mut crashes = Vec::new();
        // Many times what the journal holds.
        for id in 2..500 {
            let room = shard.journal.admit(10_000, Admission::Client);
            match select(Box::pin(room), env.sleep(Duration::from_mins(1))).await {
                Either::Left((admitted, _)) => admitted.unwrap(),
                Either::Right(_) => panic!("the journal stayed full at microbatch {id}"),
            }
            log_prepare(&shard, id, &[7; 8_000]);
            log_abort(&shard, id);
            if id % 7 == 0 {
                crashes.push(copy.snapshot());
            }
        }
        shard.settle().await.unwrap();
        let counters = shard.counters();
        assert!(counters.copied_bytes > 0, "{counters:?}");
        assert!(counters.copied_bytes < 100_000, "{counters:?}");
        assert!(counters.journal_used_bytes <= options().journal_bytes_max, "{counters:?}");
        shard.end(Ending::Closed);
        crashes.push(copy.snapshot());
        crashes
    });
    for crashed in crashes {
        run(&crashed, |env| async move {
            let shard = start(&env).await;
            let partition = shard.partition(P).unwrap();
            let in_doubt = partition.prepared();
            assert_eq!((in_doubt[0].0, in_doubt[0].1.index), (transaction(1), Index(1)));
            assert!(in_doubt.len() <= 2, "others were aborted");
            shard.end(Ending::Closed);
        });
    }
}

/// A copy of a prepare comes behind entries that the fold does not cover, and replay folds between them.
#[test]
fn a_fold_during_replay_keeps_asking_for_prepares_it_has_not_met() {
    let disk = MemoryDisk::new();
    run(&disk, |env| async move {
        let cache = Cache::new(1 << 20);
        let reopen = async || {
            let opened = partition::Partition::open(&env, &cache, P, options().depot).await;
            Replaying::new(opened.unwrap())
        };
        let entry = |index, kind, bytes: Vec<u8>| Entry {
            partition: P,
            term: TERM,
            index: Index(index),
            kind,
            bytes: bytes.into(),
        };
        let take = async |replaying: &mut Replaying, entry| {
            let (frame, visible) = ((JournalId(1), 1), BTreeMap::new());
            replaying.take(entry, frame, &visible, &mut Vec::new()).await.unwrap();
        };
        let doubtful = || entry(1, Kind::Prepare, prepare(1, b"in doubt").1);

        let mut replaying = reopen().await;
        take(&mut replaying, doubtful()).await;
        replaying.partition.fold(Index(1), |_| Wanted::default()).await.unwrap();

        // A crash, and another one in the middle of this.
        let mut replaying = reopen().await;
        let later = entry(2, Kind::Prepare, prepare(2, b"later").1);
        take(&mut replaying, later).await;
        let abort = entry(3, Kind::Aborted, transaction(2).encode());
        take(&mut replaying, abort).await;
        replaying.partition.fold(Index(3), |_| Wanted::default()).await.unwrap();
        assert_eq!(replaying.partition.pending(), [Index(1)]);

        let mut replaying = reopen().await;
        assert_eq!(replaying.partition.first_awaited(), Some(Index(1)));
        take(&mut replaying, doubtful()).await;
        assert_eq!(replaying.partition.first_awaited(), None);
        assert_eq!(replaying.partition.in_doubt(), [transaction(1)]);
    });
}

#[test]
fn windows_of_repeated_appends_are_counted_and_bounded() {
    let disk = MemoryDisk::new();
    run(&disk, |env| async move {
        let shard = start(&env).await;
        let partition = shard.partition(P).unwrap();
        let before = tails::held(shard.partitions.values());
        let repeated = |client: u128| {
            let key = crate::depot::batch::Key { client, sequence: 1 };
            crate::depot::Batch::of([client.to_le_bytes()]).unwrap().with_key(key)
        };
        for depot in (1..=64).map(DepotId) {
            let depot = partition.depot(depot).await.unwrap();
            for client in 0..256 {
                depot.log.append(&repeated(client), env.wall()).unwrap();
            }
            depot.log.durable(depot.log.end());
        }
        let windows = || {
            let depots = partition.known_depots().into_iter();
            depots.map(|(_, depot)| depot.log.dedup_bytes() as u64).sum::<u64>()
        };
        assert!(windows() > 3 << 20, "{}", windows());
        assert!(tails::held(shard.partitions.values()) >= before + windows());
        let held = tails::shrink(shard.partitions.values(), 1 << 20).await.unwrap();
        assert!(held <= 1 << 20 && windows() <= 512 << 10, "{held}, {}", windows());
        // The newest are still known.
        for depot in (1..=64).map(DepotId) {
            let depot = partition.depot(depot).await.unwrap();
            let again = depot.log.append(&repeated(255), env.wall()).unwrap();
            assert!(matches!(again, crate::depot::Append::Repeated(_)), "{again:?}");
        }
        shard.end(Ending::Closed);
    });
}

/// Small and bulk appends are on their way when the shard is closed: whatever it answers to each is so, and
/// nothing of them is half there.
#[test]
fn a_close_waits_for_the_appends_that_came_before_it() {
    let depot = DepotId(3);
    let disk = MemoryDisk::new();
    let kept = run(&disk, move |env| async move {
        let shard = start(&env).await;
        let mut waiting = Vec::new();
        for turn in 0..12_usize {
            let bytes = [100, options().depot.bulk_bytes_min][turn % 2];
            let batch = crate::depot::Batch::of([vec![7; bytes]]).unwrap();
            let acknowledge = [Acknowledge::None, Acknowledge::Durable][turn / 2 % 2];
            let (reply, answered) = futures_channel::oneshot::channel();
            let batches = vec![(P, batch)];
            let request = message::AppendRequest { depot, batches, acknowledge, reply };
            shard.handle(Sender::Client, Message::Append(request));
            waiting.push(answered);
        }
        shard.close().await.unwrap();
        let mut kept = 0;
        for answered in waiting {
            match answered.await.unwrap().and_then(|mut each| each.remove(0)) {
                Ok(_) => kept += 1,
                Err(error) => assert!(matches!(error, Error::Closed), "{error}"),
            }
        }
        shard.end(Ending::Closed);
        kept
    });
    assert_eq!(kept, 12, "the memory disk has room for all of them");
    let crashed = disk.snapshot();
    run(&crashed, move |env| async move {
        let shard = start(&env).await;
        let partition = shard.partition(P).unwrap();
        // The folds came behind them, so nothing is left for replay to find torn.
        assert_eq!(partition.covers(), partition.last());
        let log = &partition.depot(depot).await.unwrap().log;
        assert_eq!((log.end(), log.flushed_end()), (Offset(kept), Offset(kept)));
        shard.end(Ending::Closed);
    });
}
