//! The steps of a backup on one shard: what refuses it, and a target that fills up.

use super::*;
use crate::backup::Tally;
use crate::backup::target::Place;
use crate::shard::backup::{Copied, Request};

const DEPOT: DepotId = DepotId(3);

async fn ask<T>(
    shard: &Rc<Shard>,
    request: impl FnOnce(message::Reply<T>) -> Request,
) -> Result<T> {
    let (reply, answered) = futures_channel::oneshot::channel();
    shard.back_up(request(reply));
    answered.await.unwrap()
}

async fn freeze(shard: &Rc<Shard>, number: u64) -> Result<u64> {
    let (held, holding) = futures_channel::oneshot::channel();
    ask(shard, |frozen| Request::Freeze { number, frozen, held }).await?;
    holding.await.unwrap()
}

async fn append(shard: &Rc<Shard>, records: u8) -> Result<Offset> {
    let batch = crate::depot::Batch::of((0..records).map(|fill| [fill; 700])).unwrap();
    let (reply, answered) = futures_channel::oneshot::channel();
    let (acknowledge, batches) = (Acknowledge::Durable, vec![(P, batch)]);
    let request = message::AppendRequest { depot: DEPOT, batches, acknowledge, reply };
    shard.handle(Sender::Client, Message::Append(request));
    answered.await.unwrap()?.remove(0)
}

/// A whole backup; the topologies of this shard are none.
async fn back_up(shard: &Rc<Shard>, number: u64) -> Result<(Place, Copied)> {
    let made = async {
        ask(shard, |reply| Request::Prepare { number, reply }).await?;
        let dir = "target".to_owned();
        let place = ask(shard, |reply| Request::Begin { dir, reply }).await?;
        let (reply, answered) = futures_channel::oneshot::channel();
        shard.keep(KeeperRequest::Read { reply }).await;
        let (manifest, catalogue) = answered.await.unwrap()?;
        freeze(shard, number).await?;
        let tally = Arc::new(Tally::new(Arc::new(|_| ())));
        let to = place.clone();
        let copied = ask(shard, |reply| Request::Copy { number, place: to, tally, reply }).await?;
        let to = place.clone();
        let (manifest, catalogue) = (Box::new(manifest), Box::new(catalogue));
        ask(shard, |reply| Request::Finish { place: to, manifest, catalogue, reply }).await?;
        Ok((place, copied))
    };
    let made = made.await;
    shard.back_up(Request::End { number });
    made
}

/// The records of a backup, opened beside the directory it was made of.
async fn records_of(env: &Env, place: &Place) -> Offset {
    let copy = start(&place.open(env).unwrap()).await;
    let depot = copy.partition(P).unwrap().depot(DEPOT).await.unwrap();
    copy.end(Ending::Closed);
    depot.log.end()
}

#[test]
fn a_prepare_of_a_topology_that_does_not_run_refuses_it() {
    let disk = MemoryDisk::new();
    run(&disk, |env| async move {
        let shard = start(&env).await;
        append(&shard, 10).await.unwrap();
        log_prepare(&shard, 1, b"in doubt");
        ask(&shard, |reply| Request::Prepare { number: 1, reply }).await.unwrap();
        let error = freeze(&shard, 1).await.unwrap_err().to_string();
        assert!(error.contains("topology 9, which does not run"), "{error}");
        assert!(error.contains("launch its module"), "{error}");
        // Nothing is left of it: folds go on, and once the outcome is known, so do backups.
        log_abort(&shard, 1);
        append(&shard, 10).await.unwrap();
        shard.fold_all().await.unwrap();
        let (place, _) = back_up(&shard, 2).await.unwrap();
        assert_eq!(records_of(&env, &place).await, Offset(20));
        let error = freeze(&shard, 2).await.unwrap_err().to_string();
        assert!(error.contains("it was given up"), "{error}");
        shard.end(Ending::Closed);
    });
}

#[test]
fn a_target_that_is_full_at_any_moment_costs_the_backup_and_nothing_else() {
    let disk = MemoryDisk::new();
    let own = disk.clone();
    run(&disk, |env| async move {
        let shard = start(&env).await;
        let used =
            || own.paths().iter().map(|it| own.contents(it).unwrap().len() as u64).sum::<u64>();
        let (mut full, mut appended, mut room) = (0, 0, 0);
        let (place, first) = loop {
            append(&shard, 30).await.unwrap();
            appended += 30;
            shard.fold_all().await.unwrap();
            own.limit(Some(used() + room));
            let made = back_up(&shard, 1 + full).await;
            own.limit(None);
            match made {
                Ok(made) => break made,
                Err(Error::DiskFull { .. }) => full += 1,
                Err(error) => panic!("{error}"),
            }
            assert!(own.contents("target/1/MANIFEST").is_none());
            // Not even the mark may have been there.
            if own.contents("target/1/BACKUP").is_some_and(|mark| !mark.is_empty()) {
                let unfinished = env.with_disk(env.disk().elsewhere("target/1").unwrap());
                let error = boot(&unfinished, &options()).await.err().unwrap().to_string();
                assert!(error.contains("was not finished"), "{error}");
            }
            room += 100_000;
        };
        assert!(full > 3, "{full}");
        assert_eq!(records_of(&env, &place).await, Offset(appended));
        assert_eq!(first.taken_over_bytes, 0);
        let (place, second) = back_up(&shard, 1_000).await.unwrap();
        assert_eq!(place.path(), "target/2");
        assert_eq!(records_of(&env, &place).await, Offset(appended));
        assert!(second.copied_bytes < 50_000, "{second:?}");
        shard.end(Ending::Closed);
    });
}
