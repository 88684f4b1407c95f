//! `verify` and `inspect` on real directories, made by the engine.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Output};

use serde::{Deserialize, Serialize};
use tidemill::client::{Engine, Launched, block_on};
use tidemill::module::{Depot, Module};
use tidemill::node::Options;
use tidemill::schema::aggregate::Sum;
use tidemill::schema::{Map, PState, Sub};
use tidemill::verify::{self, FileKind, Files, Report};
use tidemill_tools::directory::{Directory, Error};

#[path = "../../engine/tests/holds/directory.rs"]
mod directory;

use directory::directory;

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Transfer {
    id: u64,
    from: u64,
    to: u64,
    note: String,
}

#[allow(dead_code, reason = "fields exist so that the module has them")]
struct Bank {
    transfers: Depot<Transfer>,
    funds: PState<Map<u64, i64>>,
    notes: PState<Map<u64, Sub<Map<u64, String>>>>,
}

fn bank(m: &Module) -> Bank {
    let transfers = m.depot::<Transfer>("transfers").hash_by(|t| &t.from);
    let ledger = m.microbatch(|| "ledger");
    let funds = ledger.pstate::<Map<u64, i64>>("funds");
    let notes = ledger.pstate::<Map<u64, Sub<Map<u64, String>>>>("notes");
    ledger
        .source(transfers)
        .using(notes)
        .filter_map(async |at, notes, t: Transfer| {
            at.put(notes.key(t.from).key(t.id), t.note.clone())?;
            Ok(Some(t))
        })
        .aggregate(funds, |funds, t| funds.key(t.to).add(Sum(1)));
    Bank { transfers, funds: funds.reader(), notes: notes.reader() }
}

fn options(shards: u16) -> Options {
    Options { shards, partitions: Some(4), journal_file_bytes: 1 << 20, ..Options::default() }
}

async fn transfer(bank: &Launched<Bank>, ids: std::ops::Range<u64>, note_bytes: usize) {
    let transfers: Vec<Transfer> = ids
        .map(|id| {
            let note = format!("note of {id} ").repeat(note_bytes / 12 + 1);
            Transfer { id, from: id % 40, to: (id * 7 + 3) % 40, note }
        })
        .collect();
    let appended = bank.append_many(bank.transfers, &transfers).await.unwrap();
    for appended in appended {
        bank.wait("ledger", &appended).await.unwrap();
    }
}

enum End {
    Close,
    Stop,
}

/// Works in the directory once, and ends.
fn work(dir: &Path, shards: u16, ids: std::ops::Range<u64>, end: &End) {
    block_on(async {
        let engine = Engine::open(dir, options(shards)).await.unwrap();
        let bank = engine.launch("bank", bank).await.unwrap();
        transfer(&bank, ids, 200).await;
        drop(bank);
        match end {
            End::Close => engine.close().await.unwrap(),
            End::Stop => engine.stop().await,
        }
    });
}

fn look(dir: &Path) -> Report {
    tidemill_tools::verify::directory(dir, &mut |_| {}).unwrap()
}

fn sound(dir: &Path) -> Report {
    let report = look(dir);
    assert_eq!(report.findings, [], "{}", dir.display());
    report
}

fn tidemill(arguments: &[&str], dir: &Path) -> Output {
    let (command, options) = arguments.split_first().unwrap();
    Command::new(env!("CARGO_BIN_EXE_tidemill"))
        .arg(command)
        .arg(dir)
        .args(options)
        .output()
        .unwrap()
}

#[test]
fn a_closed_directory_is_sound_and_everything_in_it_is_seen() {
    let dir = directory("closed");
    work(&dir, 2, 0..300, &End::Close);
    let report = sound(&dir);
    assert_eq!(report.notes, []);
    assert!(report.manifest.as_ref().unwrap().clean);
    let ledger = &report.topologies[0];
    assert!(ledger.decided.0 > 0);
    assert_eq!(ledger.offsets.values().map(|offset| offset.0).sum::<u64>(), 300);
    let depots = report.partitions.values().flat_map(|partition| partition.depots.values());
    assert_eq!(depots.clone().map(|depot| depot.end.0).sum::<u64>(), 300);
    let segments = depots.flat_map(|depot| &depot.segments);
    assert_eq!(segments.map(|segment| segment.records).sum::<u64>(), 300);
    let catalogue = report.catalogue.as_ref().unwrap();
    let notes = catalogue.modules[0].pstates.iter().find(|it| it.name == "notes").unwrap();
    let trees = report.partitions.values().flat_map(|partition| &partition.trees);
    let rows = trees.filter(|tree| tree.pstate.0 == notes.number).map(|tree| tree.entries);
    assert!(rows.sum::<u64>() >= 300, "a row for each note");
    let tallies = report.tallies();
    for kind in FileKind::ALL {
        assert!(tallies[&kind].files > 0, "{kind}");
        assert_eq!(tallies[&kind].bytes_live > 0, kind != FileKind::Other, "{kind}");
    }
}

#[test]
fn stopped_reopened_and_dealt_out_again_directories_are_sound() {
    let dir = directory("stopped");
    let mut first = 0;
    for (shards, end) in [(2, End::Stop), (2, End::Stop), (1, End::Stop), (3, End::Close)] {
        work(&dir, shards, first..first + 100, &end);
        first += 100;
        let report = sound(&dir);
        assert_eq!(report.manifest.as_ref().unwrap().clean, matches!(end, End::Close));
        let depots = report.partitions.values().flat_map(|partition| partition.depots.values());
        assert_eq!(depots.map(|depot| depot.end.0).sum::<u64>(), first);
    }
}

#[test]
fn a_directory_without_data_is_sound() {
    let dir = directory("without-data");
    for end in [End::Close, End::Stop, End::Close] {
        block_on(async {
            let engine = Engine::open(&dir, options(2)).await.unwrap();
            match end {
                End::Close => engine.close().await.unwrap(),
                End::Stop => engine.stop().await,
            }
        });
        sound(&dir);
    }
}

/// A copy of a directory in memory, which can be damaged.
fn copy(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let files = Directory::map(dir, false).unwrap();
    let paths = files.paths().into_iter();
    paths.map(|path| (path.clone(), files.bytes(&path).unwrap().to_vec())).collect()
}

/// A generator of numbers (xorshift), so that a failure can be repeated.
struct Chance(u64);

impl Chance {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end
    }
}

#[test]
fn every_flip_in_a_closed_directory_is_found_in_its_file_or_was_skipped() {
    let dir = directory("flips");
    work(&dir, 2, 0..300, &End::Close);
    work(&dir, 2, 300..400, &End::Close);
    let before = sound(&dir);
    let mut files = copy(&dir);
    let mut chance = Chance(11);
    let mut tried: BTreeMap<(FileKind, bool), u32> = BTreeMap::new();
    let paths: Vec<String> = files.keys().cloned().collect();
    for path in &paths {
        let kind = FileKind::of(path);
        let len = files[path].len() as u64;
        for turn in 0..12 {
            let live = before.live.get(path).filter(|live| !live.is_empty() && turn < 8);
            let at = match live {
                Some(ranges) => {
                    let range =
                        &ranges[usize::try_from(chance.below(ranges.len() as u64)).unwrap()];
                    range.start + chance.below(range.end - range.start)
                }
                None if len > 0 => chance.below(len),
                None => continue,
            };
            let (place, bit) = (usize::try_from(at).unwrap(), 1 << chance.below(8));
            files.get_mut(path).unwrap()[place] ^= bit;
            let after = verify::directory(&files, &mut |_| {});
            let alone = verify::file(&files, path, &before);
            files.get_mut(path).unwrap()[place] ^= bit;
            let is_live = before.is_live(path, at);
            *tried.entry((kind, is_live)).or_default() += 1;
            if is_live {
                let finding = &after.findings[0];
                let context = format!("{finding} for byte {at} of {path}");
                assert_eq!(&finding.path, path, "{context}");
                assert!(finding.byte <= at, "{context}");
                assert_eq!(alone.first(), Some(finding), "{context}");
                assert_eq!(alone, after.findings, "{context}");
            } else {
                assert_eq!(alone, [], "byte {at} of {path} is unused");
                // A byte behind the end of a segment is a fact about it (something is there), and no damage.
                assert_eq!(after.findings, before.findings, "byte {at} of {path} is unused");
                assert_eq!(after.live, before.live, "byte {at} of {path} is unused");
            }
        }
    }
    for kind in FileKind::ALL {
        assert_eq!(tried.contains_key(&(kind, true)), kind != FileKind::Other, "{kind}");
    }
    assert!(tried.keys().any(|(_, live)| !live));
}

#[test]
fn every_truncation_in_a_closed_directory_is_found_or_cuts_unused_bytes() {
    let dir = directory("cuts");
    work(&dir, 2, 0..200, &End::Close);
    let before = sound(&dir);
    let mut files = copy(&dir);
    let mut chance = Chance(5);
    let paths: Vec<String> = files.keys().cloned().collect();
    for path in &paths {
        let whole = files[path].clone();
        let last = before.live.get(path).and_then(|live| live.last()).map_or(0, |range| range.end);
        let mut cuts = vec![0, last.saturating_sub(1), last];
        cuts.extend((0..4).map(|_| chance.below(whole.len() as u64 + 1)));
        for cut in cuts {
            files.get_mut(path).unwrap().truncate(usize::try_from(cut).unwrap());
            let after = verify::directory(&files, &mut |_| {});
            files.insert(path.clone(), whole.clone());
            let found = after.findings.iter().any(|finding| &finding.path == path);
            if cut < last {
                assert!(found, "{path} cut at {cut}: {:?}", after.findings);
            }
        }
        files.remove(path);
        let after = verify::directory(&files, &mut |_| {});
        files.insert(path.clone(), whole);
        let found = after.findings.iter().any(|finding| &finding.path == path);
        assert_eq!(found, last > 0, "{path} removed: {:?}", after.findings);
    }
}

#[test]
fn damage_after_a_crash_never_panics_and_is_reported() {
    let dir = directory("crashed");
    work(&dir, 2, 0..100, &End::Close);
    work(&dir, 2, 100..200, &End::Stop);
    let before = sound(&dir);
    let mut files = copy(&dir);
    let mut chance = Chance(17);
    let paths: Vec<String> = files.keys().cloned().collect();
    for path in &paths {
        for _ in 0..10 {
            let Some(ranges) = before.live.get(path).filter(|live| !live.is_empty()) else { break };
            let range = &ranges[usize::try_from(chance.below(ranges.len() as u64)).unwrap()];
            let at = range.start + chance.below(range.end - range.start);
            let (place, bit) = (usize::try_from(at).unwrap(), 1 << chance.below(8));
            files.get_mut(path).unwrap()[place] ^= bit;
            let after = verify::directory(&files, &mut |_| {});
            files.get_mut(path).unwrap()[place] ^= bit;
            let said = after.findings.iter().chain(&after.notes);
            assert!(said.into_iter().any(|it| &it.path == path), "byte {at} of {path}");
        }
    }
}

#[test]
fn what_lies_around_is_skipped_and_named() {
    let dir = directory("around");
    work(&dir, 1, 0..20, &End::Close);
    for name in ["journal/99-0", "catalogue-77", "p/0/d1-999999", "p/0/d1-reserve-3", "notes.txt"] {
        std::fs::write(dir.join(name), b"something").unwrap();
    }
    let report = sound(&dir);
    let why = |path: &str| {
        report.skipped.iter().find(|it| it.path == path).map(|it| (it.bytes.clone(), it.why))
    };
    for (path, part) in [
        ("journal/99-0", "MANIFEST does not name"),
        ("catalogue-77", "MANIFEST does not name"),
        ("p/0/d1-999999", "no fold has recorded"),
        ("p/0/d1-reserve-3", "bulk append"),
        ("notes.txt", "an unknown name"),
        ("LOCK", "who has the directory open"),
    ] {
        let (bytes, why) = why(path).unwrap_or_else(|| panic!("{path} is skipped"));
        assert!(why.contains(part), "{path}: {why}");
        assert_eq!(bytes.start, 0);
    }
}

#[test]
fn an_open_directory_is_refused() {
    let dir = directory("open");
    block_on(async {
        let engine = Engine::open(&dir, options(1)).await.unwrap();
        let refused = Directory::map(&dir, false);
        assert!(matches!(refused, Err(Error::Locked { pid: Some(_), .. })), "{refused:?}");
        assert!(Directory::map(&dir, true).is_ok());
        engine.close().await.unwrap();
        let looking = Directory::map(&dir, false).unwrap();
        assert!(Engine::open(&dir, options(1)).await.is_err(), "somebody is looking");
        drop(looking);
        Engine::open(&dir, options(1)).await.unwrap().close().await.unwrap();
    });
}

#[test]
fn the_commands_say_what_they_find_and_how_they_end() {
    let dir = directory("commands");
    let code = |output: &Output| output.status.code().unwrap();
    let text = |output: &Output| String::from_utf8(output.stdout.clone()).unwrap();
    assert_eq!(code(&tidemill(&["verify"], &dir)), 2, "no data directory");
    assert_eq!(code(&tidemill(&["verify"], &dir.join("missing"))), 2);
    assert_eq!(code(&tidemill(&["verify", "--nonsense"], &dir)), 2);
    assert_eq!(code(&tidemill(&["verify", "--help"], &dir)), 0);
    work(&dir, 2, 0..100, &End::Close);

    let verified = tidemill(&["verify"], &dir);
    assert_eq!(code(&verified), 0);
    assert!(text(&verified).ends_with("sound (closed cleanly)\n"), "{}", text(&verified));
    let inspected = text(&tidemill(&["inspect"], &dir));
    for part in [
        "module bank",
        "transfers",
        "funds: Map<u64, i64>",
        "notes: Map<u64, Sub<Map<u64, String>>>",
        "ledger",
        "journal 2",
        "partition 3",
        "closed",
    ] {
        assert!(inspected.contains(part), "{part} in\n{inspected}");
    }
    let entries = text(&tidemill(&["inspect", "--entries"], &dir));
    for part in ["Append, ", "Prepare, ", "Decision, ", "Committed, "] {
        assert!(entries.contains(part), "{part} in\n{entries}");
    }
    let rows = text(&tidemill(&["inspect", "--rows", "notes"], &dir));
    assert_eq!(rows.lines().filter(|line| line.contains("note of ")).count(), 100, "{rows}");
    // The account, the transfer, and the note.
    let of_13: Vec<&str> = rows.lines().filter(|line| line.contains("[13,")).collect();
    let [head, row, ..] = of_13[..] else { panic!("{rows}") };
    // First how many there are.
    assert!(head.ends_with(&format!("[13,\"head\"] {}", of_13.len() - 1)), "{rows}");
    let (keys, note) = row.split_once("] ").unwrap();
    let transfer = keys.rsplit_once(',').unwrap().1;
    assert!(note.starts_with(&format!("\"note of {transfer} note of ")), "{row}");
    let records = text(&tidemill(&["inspect", "--records", "bank.transfers"], &dir));
    assert_eq!(records.lines().filter(|line| line.contains("note of ")).count(), 100);
    assert_eq!(code(&tidemill(&["inspect", "--rows", "nothing"], &dir)), 2);

    let report = sound(&dir);
    let segment = report.files.keys().find(|path| FileKind::of(path) == FileKind::Segment).unwrap();
    let path = dir.join(segment);
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[5000] ^= 4;
    std::fs::write(&path, bytes).unwrap();
    let verified = tidemill(&["verify"], &dir);
    assert_eq!(code(&verified), 1);
    assert!(text(&verified).contains(&format!("DAMAGE: {segment} at byte 4096: ")));
    let json = tidemill(&["verify", "--json"], &dir);
    assert_eq!(code(&json), 1);
    let json: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!(json["sound"], false);
    assert_eq!(json["findings"][0]["path"], **segment);
    assert_eq!(json["findings"][0]["byte"], 4096);
    let inspected = tidemill(&["inspect"], &dir);
    assert_eq!(code(&inspected), 1);
    assert!(text(&inspected).contains("DAMAGE: "));
}
