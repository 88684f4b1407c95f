//! *backed-up*: a backup is a data directory that was closed cleanly, of one moment: its state is one that the
//! engine had when the backup was made, its depots have everything that was acknowledged before it was asked for,
//! once, and nothing that nobody sent. Opened, it goes on, and adds up. Whatever happens while one is
//! made, there is either such a directory or one that says that it is none.

use std::collections::BTreeMap;

use tidemill::backup::Report;
use tidemill::verify;

use super::super::backups::DIR;
use super::super::history::{ChainOf, History, Place};
use super::super::replay::{Depots, State};
use super::once;
use super::snapshot::Floors;
use crate::disk::DiskHandle;
use crate::scenario::{Failure, check};

pub(in super::super) const NAME: &str = "backed-up";

type Files = BTreeMap<String, Vec<u8>>;

/// The files of a backup.
pub(in super::super) fn files(disk: &DiskHandle, report: &Report) -> Files {
    let directory = report.directory.to_str().expect("named by this scenario");
    below(&disk.files(), directory)
}

fn below(files: &Files, directory: &str) -> Files {
    let inside = files.iter().filter_map(|(path, bytes)| {
        let path = path.strip_prefix(directory)?.strip_prefix('/')?;
        Some((path.to_owned(), bytes.clone()))
    });
    inside.collect()
}

/// Judges a backup that is said to be made.
pub(in super::super) fn whole(disk: &DiskHandle, report: &Report) -> Result<(), Failure> {
    let files = files(disk, report);
    check(NAME, files.contains_key("MANIFEST"), || format!("{report:?} has no MANIFEST"))?;
    sound(&report.directory.display().to_string(), &files)
}

/// Whether a migration was under way when a backup was made, as its catalogue has it.
pub(in super::super) fn is_migrating(disk: &DiskHandle, report: &Report) -> bool {
    let report = verify::directory(&files(disk, report), &mut |_| {});
    let modules = report.catalogue.iter().flat_map(|it| &it.modules);
    modules.flat_map(|it| &it.pstates).any(|it| it.migrating.is_some())
}

fn sound(directory: &str, files: &Files) -> Result<(), Failure> {
    let report = verify::directory(files, &mut |_| {});
    let wrong = report.findings.iter().chain(&report.notes).next();
    check(NAME, wrong.is_none(), || format!("{directory}: {}", wrong.expect("there is one")))?;
    let clean = report.manifest.is_some_and(|manifest| manifest.clean);
    check(NAME, clean, || format!("{directory} does not look like one that was closed"))
}

/// Judges what lies where backups are made, whatever happened there.
pub(in super::super) fn directories(disk: &DiskHandle) -> Result<(), Failure> {
    let all = below(&disk.files(), DIR);
    let mut numbers: Vec<&str> = all.keys().filter_map(|path| path.split('/').next()).collect();
    numbers.dedup();
    for number in numbers {
        let files = below(&all, number);
        if files.contains_key("MANIFEST") {
            sound(number, &files)?;
            continue;
        }
        check(NAME, files.contains_key("BACKUP"), || {
            format!("{number} has no MANIFEST, and does not say why: {:?}", files.keys())
        })?;
    }
    Ok(())
}

/// Judges what no snapshot reads of a backup's moment: it is not older than what was seen before, and the
/// same as what anybody sees of the same moment.
pub(in super::super) fn chains(
    history: &mut History,
    floors: &Floors,
    then: &State,
) -> Result<(), Failure> {
    for (&of, &floor) in floors {
        let ChainOf::Received(key) = of else { continue };
        let chain = then.received.get(&key).copied().unwrap_or_default();
        history.see(of, floor, chain).map_err(|what| Failure::new(NAME, what))?;
    }
    Ok(())
}

/// Judges the records of a backup: `acknowledged` are those that must be there.
pub(in super::super) fn records(
    history: &History,
    acknowledged: &[(Place, u64)],
    depots: &Depots,
) -> Result<(), Failure> {
    for (place, id) in acknowledged {
        let found = depots.get(place).map(super::super::history::Record::id);
        check(NAME, found == Some(*id), || {
            format!("record {id} was acknowledged at {place:?}; the backup has {found:?} there")
        })?;
    }
    once::judge(history, depots)
}
