//! *verify*: what `tidemill verify` says of the files as a crash or a clean close left them. After a crash
//! there may be torn tails, which it notes; after a clean close there is nothing. Damage is found only where
//! there is some.

use tidemill::verify::{self, Finding};

use super::explained::{self, Blame};
use crate::disk::DiskHandle;
use crate::scenario::{Failure, check};

const NAME: &str = "verify";

/// Judges the directory; returns how many files it has.
pub(in super::super) fn judge(disk: &DiskHandle, closed: bool) -> Result<u64, Failure> {
    let files = disk.files();
    let report = verify::directory(&files, &mut |_| {});
    let damage = disk.damage();
    // What was damaged may show elsewhere too, where something is missed; but it is named.
    let names = |finding: &Finding| {
        let blame = Blame { path: &finding.path, byte: Some(finding.byte) };
        blame.fits(&damage) || explained::names_damaged_partition(&finding.what, &damage)
    };
    let named = report.findings.iter().chain(&report.notes).any(names);
    check(NAME, named || report.findings.is_empty(), || {
        format!("{}; damaged is {damage:?}", report.findings[0])
    })?;
    if closed {
        let clean = report.manifest.as_ref().is_some_and(|manifest| manifest.clean);
        check(NAME, clean, || "the directory was closed, but MANIFEST does not say so")?;
        let note = report.notes.first();
        check(NAME, note.is_none(), || format!("after a clean close: {}", report.notes[0]))?;
    }
    Ok(files.len() as u64)
}
