//! *verify*: what `tidemill verify` says of the files as a crash or a clean close left them. After a crash
//! there may be torn tails, which it notes; after a clean close there is nothing. Damage is found only where
//! there is some.

use tidemill::verify::{self, Finding};

use super::explained::{self, Blame};
use crate::disk::DiskHandle;
use crate::scenario::{Failure, check};

const NAME: &str = "verify";

/// What a verification came to.
pub(in super::super) struct Verified {
    /// How many files there are.
    pub(in super::super) files: u64,
    /// Something that is damaged was taken for a torn tail, which is what it looks like.
    pub(in super::super) tail_named: bool,
}

/// Judges the directory.
pub(in super::super) fn judge(disk: &DiskHandle, closed: bool) -> Result<Verified, Failure> {
    let files = disk.files();
    let report = verify::directory(&files, &mut |_| {});
    let damage = disk.damage();
    // What was damaged may show elsewhere too, where something is missed; but it is named.
    let names = |finding: &Finding| {
        let blame = Blame { path: &finding.path, byte: Some(finding.byte) };
        blame.fits(&damage) || explained::names_damaged_partition(&finding.what, &damage)
    };
    let tail_named = report.notes.iter().any(names);
    let named = tail_named || report.findings.iter().any(names);
    check(NAME, named || report.findings.is_empty(), || {
        format!("{}; damaged is {damage:?}", report.findings[0])
    })?;
    if closed {
        let clean = report.manifest.as_ref().is_some_and(|manifest| manifest.clean);
        check(NAME, clean, || "the directory was closed, but MANIFEST does not say so")?;
        let note = report.notes.first();
        check(NAME, note.is_none(), || format!("after a clean close: {}", report.notes[0]))?;
    }
    Ok(Verified { files: files.len() as u64, tail_named })
}
