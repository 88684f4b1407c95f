//! Backups on real files: whole, of one moment, incremental, and harmless to the engine whatever goes wrong.

use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tidemill::Error;
use tidemill::backup::Report;
use tidemill::client::{Engine, Launched, block_on};
use tidemill::module::{Depot, Module};
use tidemill::node::Options;
use tidemill::schema::aggregate::{Count, Sum};
use tidemill::schema::{Map, PState};
use tidemill::shard::Effects;
use tidemill::types::{MicrobatchId, ShardId};
use tidemill::verify;

use crate::kit::{self, directory, files, records};

type Transfer = (u64, u64, i64, String);

struct Bank {
    transfers: Depot<Transfer>,
    funds: PState<Map<u64, i64>>,
    counts: PState<Map<u64, u64>>,
}

fn bank(m: &Module) -> Bank {
    let transfers = m.depot::<Transfer>("transfers").hash_by(|(from, ..)| from);
    let ledger = m.microbatch(|| "ledger");
    let funds = ledger.pstate::<Map<u64, i64>>("funds");
    ledger
        .source(transfers)
        .also(|it| it.aggregate(funds, |funds, t| funds.key(t.0).add(Sum(-t.2))))
        .aggregate(funds, |funds, t| funds.key(t.1).add(Sum(t.2)));
    let tally = m.microbatch(|| "tally");
    let counts = tally.pstate::<Map<u64, u64>>("counts");
    tally.source(transfers).aggregate(counts, |counts, t| counts.key(t.0).add(Count));
    Bank { transfers, funds: funds.reader(), counts: counts.reader() }
}

const ACCOUNTS: u64 = 300;

fn options() -> Options {
    let mut options = Options { memory_bytes: 64 << 20, ..kit::options(2) };
    // Small, so that there are full ones.
    options.depot.segment_bytes_max = 128 << 10;
    options.depot.allocation_bytes_min = 64 << 10;
    options
}

/// Somebody's transfers: as many of each account.
fn round(number: u64) -> Vec<Transfer> {
    let memo = format!("{number:100}");
    (0..ACCOUNTS).map(|from| (from, (from * 7 + number) % ACCOUNTS, 3, memo.clone())).collect()
}

fn pay(bank: &Launched<Bank>, number: u64) {
    let appended = block_on(bank.append_many(bank.transfers, &round(number))).unwrap();
    for appended in &appended {
        let effects = block_on(bank.wait("ledger", appended)).unwrap();
        assert!(matches!(effects, Effects::Applied { .. }), "{effects:?}");
    }
}

/// The backup is sound, and looks like a directory that was closed.
fn verified(directory: &Path) -> verify::Report {
    let report = verify::directory(&files(directory), &mut |_| {});
    let wrong: Vec<_> = report.findings.iter().chain(&report.notes).collect();
    assert!(wrong.is_empty(), "{}: {wrong:?}", directory.display());
    assert!(report.manifest.as_ref().unwrap().clean);
    report
}

fn id_of(report: &Report, topology: &str) -> MicrobatchId {
    report.ids.iter().find(|it| (&*it.module, &*it.topology) == ("bank", topology)).unwrap().id
}

#[test]
fn a_backup_under_load_is_of_one_moment_and_opens() {
    let (data, target) = (directory("backup_load"), directory("backup_load_target"));
    let engine = block_on(Engine::open(&data, options())).unwrap();
    let bank = block_on(engine.launch("bank", self::bank)).unwrap();
    let (stop, rounds) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let paying: Vec<_> = (0..3)
        .map(|who| {
            let (bank, stop, rounds) = (bank.clone(), Arc::clone(&stop), Arc::clone(&rounds));
            std::thread::spawn(move || {
                let mut number = who;
                while !stop.load(Ordering::SeqCst) {
                    pay(&bank, number);
                    rounds.fetch_add(1, Ordering::SeqCst);
                    number += 3;
                }
            })
        })
        .collect();
    for _ in 0..3 {
        let goal = rounds.load(Ordering::SeqCst) + 6;
        while rounds.load(Ordering::SeqCst) < goal {
            std::thread::sleep(Duration::from_millis(1));
        }
        let done = rounds.load(Ordering::SeqCst);
        let told = Arc::new(AtomicU64::new(0));
        let last = Arc::clone(&told);
        let tell = move |progress: tidemill::backup::Progress| {
            assert!(progress.bytes_done <= progress.bytes_all);
            last.fetch_max(progress.bytes_done, Ordering::SeqCst);
        };
        let report = block_on(engine.backup_with(&target, tell)).unwrap();
        assert_eq!(
            told.load(Ordering::SeqCst),
            report.copied_bytes + report.taken_over_bytes,
            "everything was told"
        );
        assert!(
            report.pause > Duration::ZERO && report.pause < Duration::from_secs(5),
            "{report:?}"
        );
        verified(&report.directory);

        // Its topologies go on when it is opened; its moment can still be read.
        let options = Options { shards: 1, history: Duration::from_mins(10), ..options() };
        let copy = block_on(Engine::open(&report.directory, options)).unwrap();
        assert_eq!(copy.recovery().entries, 0, "a backup needs no journal");
        let then = block_on(copy.launch("bank", self::bank)).unwrap();
        let (ledger, tally) = (id_of(&report, "ledger"), id_of(&report, "tally"));
        let funds = block_on(then.select(then.funds.all()).as_of("ledger", ledger)).unwrap();
        assert_eq!(funds.iter().map(|(_, cents)| cents).sum::<i64>(), 0, "money is conserved");
        let counts = block_on(then.select(then.counts.all()).as_of("tally", tally)).unwrap();
        let counted: u64 = counts.iter().map(|(_, count)| count).sum();
        let found = records(&then, then.transfers).len() as u64;
        assert!(done * ACCOUNTS <= found, "{found} of {} records", done * ACCOUNTS);
        assert!(counted <= found, "{counted} of {found}: nothing is counted that is not there");
        for topology in ["ledger", "tally"] {
            block_on(then.caught_up(topology)).unwrap();
        }
        let counts = block_on(then.select(then.counts.all())).unwrap();
        assert_eq!(counts.iter().map(|(_, count)| count).sum::<u64>(), found, "each once");
        let funds = block_on(then.select(then.funds.all())).unwrap();
        assert_eq!(funds.iter().map(|(_, cents)| cents).sum::<i64>(), 0);
        block_on(copy.close()).unwrap();
    }
    stop.store(true, Ordering::SeqCst);
    for paying in paying {
        paying.join().unwrap();
    }
    block_on(engine.close()).unwrap();
    verified(&data);
}

#[test]
fn a_second_backup_takes_over_what_is_the_same_and_needs_nothing_of_the_first() {
    let (data, target) = (directory("backup_again"), directory("backup_again_target"));
    let engine = block_on(Engine::open(&data, options())).unwrap();
    let bank = block_on(engine.launch("bank", self::bank)).unwrap();
    for number in 0..60 {
        pay(&bank, number);
        if number % 5 == 0 {
            // Segments are sealed when they are written to after they were full.
            block_on(engine.fold()).unwrap();
        }
    }
    let first = block_on(engine.backup(&target)).unwrap();
    assert_eq!(first.taken_over_bytes, 0);
    block_on(bank.append(bank.transfers, &round(7)[0])).unwrap();
    block_on(bank.caught_up("ledger")).unwrap();
    let second = block_on(engine.backup(&target)).unwrap();
    assert_eq!(second.directory, first.directory.parent().unwrap().join("2"));
    assert!(second.taken_over_bytes > second.copied_bytes, "{second:?}");
    assert!(second.copied_bytes < first.copied_bytes / 2, "{first:?}, {second:?}");
    let report = verified(&second.directory);
    let segments =
        report.partitions.values().flat_map(|it| it.depots.values()).flat_map(|it| &it.segments);
    let (mut linked, mut own) = (0, 0);
    for segment in segments {
        let names = std::fs::metadata(second.directory.join(&segment.path)).unwrap().nlink();
        assert_eq!(names, if segment.state.sealed { 2 } else { 1 }, "{}", segment.path);
        *(if segment.state.sealed { &mut linked } else { &mut own }) += 1;
    }
    assert!(linked > 0 && own > 0, "{linked} and {own}");

    // Opening one and working with it leaves the other alone, and so does deleting it.
    let copy = block_on(Engine::open(&first.directory, options())).unwrap();
    let then = block_on(copy.launch("bank", self::bank)).unwrap();
    for number in 100..130 {
        pay(&then, number);
    }
    block_on(copy.close()).unwrap();
    verified(&first.directory);
    verified(&second.directory);
    std::fs::remove_dir_all(&first.directory).unwrap();
    verified(&second.directory);
    let third = block_on(engine.backup(&target)).unwrap();
    assert!(third.directory.ends_with("3"));
    assert!(third.taken_over_bytes > 0);
    verified(&third.directory);
    block_on(engine.close()).unwrap();
}

#[test]
fn damage_in_the_data_directory_is_named_and_nothing_looks_complete() {
    let (data, target) = (directory("backup_damage"), directory("backup_damage_target"));
    let engine = block_on(Engine::open(&data, options())).unwrap();
    let bank = block_on(engine.launch("bank", self::bank)).unwrap();
    for number in 0..20 {
        pay(&bank, number);
    }
    block_on(engine.fold()).unwrap();
    let live = verify::directory(&files(&data), &mut |_| {}).live;
    let of =
        |what: &str| live.iter().find(|(path, _)| path.starts_with("p/3/") && path.contains(what));
    for what in ["pages", "/d"] {
        let (path, ranges) = of(what).unwrap();
        let byte = ranges.last().unwrap().end - 2_000;
        let file = std::fs::File::options().read(true).write(true).open(data.join(path)).unwrap();
        let mut old = [0];
        file.read_exact_at(&mut old, byte).unwrap();
        file.write_all_at(&[old[0] ^ 1], byte).unwrap();
        file.sync_all().unwrap();
        let error = block_on(engine.backup(&target)).unwrap_err();
        assert!(matches!(error, Error::Corrupt { .. }), "{error:?}");
        let text = error.to_string();
        assert!(text.contains(path.as_str()) && text.contains("is damaged at byte"), "{text}");
        file.write_all_at(&old, byte).unwrap();
        file.sync_all().unwrap();
    }
    let error = block_on(Engine::open(target.join("1"), options())).unwrap_err().to_string();
    assert!(error.contains("a backup that was not finished"), "{error}");
    let report = verify::directory(&files(&target.join("1")), &mut |_| {});
    assert!(report.findings[0].what.contains("was not finished"), "{:?}", report.findings);
    // What it left is cleared away.
    let report = block_on(engine.backup(&target)).unwrap();
    assert!(report.directory.ends_with("1"));
    verified(&report.directory);
    pay(&bank, 77);
    block_on(engine.close()).unwrap();
}

#[test]
fn directories_that_are_not_for_it_are_refused() {
    let (data, target) = (directory("backup_refused"), directory("backup_refused_target"));
    let engine = block_on(Engine::open(&data, options())).unwrap();
    let refused = |dir: &Path| block_on(engine.backup(dir)).unwrap_err().to_string();
    for dir in [&*data, &data.join("inside"), data.parent().unwrap()] {
        assert!(refused(dir).contains("lies within the other"), "{}", refused(dir));
    }
    std::fs::remove_dir_all(data.join("inside")).unwrap();
    let file = target.join("file");
    std::fs::write(&file, "no directory").unwrap();
    assert!(refused(&file).contains("cannot be used"), "{}", refused(&file));
    std::fs::create_dir(target.join("1")).unwrap();
    std::fs::write(target.join("1/mine"), "precious").unwrap();
    assert!(refused(&target).contains("is no backup: move it away"), "{}", refused(&target));
    assert_eq!(std::fs::read(target.join("1/mine")).unwrap(), b"precious");
    std::fs::remove_dir_all(target.join("1")).unwrap();

    // Made where it was missing.
    let below = target.join("a/b");
    let report = block_on(engine.backup(&below)).unwrap();
    verified(&report.directory);
    assert!(refused(&report.directory).contains("is a data directory"));
    let (other, others) = (directory("backup_other"), Options { shards: 1, ..options() });
    let other = block_on(Engine::open(&other, others)).unwrap();
    let error = block_on(other.backup(&below)).unwrap_err().to_string();
    assert!(error.contains("holds backups of other data"), "{error}");
    block_on(other.close()).unwrap();
    block_on(engine.close()).unwrap();
}

#[test]
fn a_shard_that_stops_and_a_future_that_is_dropped_leave_the_engine_at_work() {
    let (data, target) = (directory("backup_stopped"), directory("backup_stopped_target"));
    let engine = block_on(Engine::open(&data, options())).unwrap();
    let bank = block_on(engine.launch("bank", self::bank)).unwrap();
    for number in 0..20 {
        pay(&bank, number);
    }
    let victim = engine.clone();
    let kill = move |_| victim.fail_shard(ShardId(1), "a test");
    let error = block_on(engine.backup_with(&target, kill)).unwrap_err();
    assert!(matches!(error, Error::ShardStopped { shard: ShardId(1), .. }), "{error:?}");
    assert!(error.to_string().contains("a test"), "{error}");
    block_on(engine.reopen_shard(ShardId(1))).unwrap();
    pay(&bank, 21);

    // Given up at each of the first polls.
    for polls in 0..6 {
        let mut making = Box::pin(engine.backup(&target));
        for _ in 0..polls {
            let mut context = std::task::Context::from_waker(std::task::Waker::noop());
            if making.as_mut().poll(&mut context).is_ready() {
                break;
            }
            let another = block_on(engine.backup(&target)).unwrap_err();
            assert!(another.to_string().contains("another backup is being made"), "{another}");
            std::thread::sleep(Duration::from_millis(3));
        }
        drop(making);
        pay(&bank, 22 + polls);
    }
    let report = block_on(engine.backup(&target)).unwrap();
    verified(&report.directory);
    pay(&bank, 40);
    block_on(engine.clone().close()).unwrap();
    let error = block_on(engine.backup(&target)).unwrap_err();
    assert!(matches!(error, Error::Closed), "{error:?}");
}
