//! *explained*: opening and reading fail only for a reason: a device that refuses, a full disk, a process
//! that ended. Damage is claimed only where there is some, and the claim names what is damaged.

use tidemill::error::Error;

use crate::counts::Fault;
use crate::disk::{Damage, DiskHandle};
use crate::scenario::{Failure, check};

const NAME: &str = "explained";

/// What was wrong with the surroundings when a call failed.
#[derive(Clone, Copy, Debug)]
pub(in super::super) struct Trouble {
    /// The device may have refused, the disk was full, or something was killed.
    pub(in super::super) any: bool,
}

/// Judges an error. Returns whether stored data is damaged, so that nothing more can be asked of it.
pub(in super::super) fn judge(
    disk: &DiskHandle,
    trouble: Trouble,
    what: &str,
    error: &Error,
) -> Result<bool, Failure> {
    let text = error.to_string();
    match error {
        Error::Corrupt { .. } => {
            damaged(disk, what, &text)?;
            Ok(true)
        }
        Error::ShardStopped { cause, .. } if cause.contains("damaged") => {
            damaged(disk, what, &text)?;
            Ok(true)
        }
        Error::Open { .. }
        | Error::ShardStopped { .. }
        | Error::DiskFull { .. }
        | Error::Backup { .. }
        | Error::Recompute { .. }
        | Error::SnapshotExpired { .. } => {
            check(NAME, trouble.any, || format!("{what} failed without a reason: {text}"))?;
            Ok(false)
        }
        _ => Err(Failure::new(NAME, format!("{what} failed: {text}"))),
    }
}

/// Judges what an opening says that a crash left behind, which is nothing after a clean close. Returns
/// whether stored data is damaged, as [`judge`] does: what went bad before anything proved it durable is
/// reported as torn, and is gone.
pub(in super::super) fn torn(
    disk: &DiskHandle,
    torn: &[String],
    closed: bool,
) -> Result<bool, Failure> {
    let damage = disk.damage();
    check(NAME, torn.is_empty() || !closed || !damage.is_empty(), || {
        format!("after a clean close: {torn:?}")
    })?;
    let fits = |text: &String| Blame::read(text).is_some_and(|blame| blame.fits(&damage));
    Ok(torn.iter().any(fits))
}

/// The disk knows what is damaged.
fn damaged(disk: &DiskHandle, what: &str, text: &str) -> Result<(), Failure> {
    let damage = disk.damage();
    check(NAME, !damage.is_empty(), || format!("{what}: {text}; but nothing was damaged"))?;
    let fits = match Blame::read(text) {
        Some(blame) => blame.fits(&damage),
        // What the journals lack, a fold had: a lost write of a root. The partition is named, then.
        None => names_damaged_partition(text, &damage),
    };
    check(NAME, fits, || format!("{what}: {text}; but damaged is {damage:?}"))
}

/// The place that a text says is damaged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) struct Blame<'t> {
    pub(in super::super) path: &'t str,
    pub(in super::super) byte: Option<u64>,
}

impl<'t> Blame<'t> {
    /// Reads "... PATH at byte N ...", with or without "(number M)" and "is damaged" in between.
    fn read(text: &'t str) -> Option<Self> {
        let (before, after) =
            text.split_once(" is damaged").or_else(|| text.split_once(" at byte "))?;
        let before = before.rsplit_once(" (number ").map_or(before, |(path, _)| path);
        let path = before.rsplit(' ').next()?;
        let digits = after.strip_prefix(" at byte ").unwrap_or(after);
        let digits = digits.split(|c: char| !c.is_ascii_digit()).next()?;
        Some(Self { path, byte: digits.parse().ok() })
    }

    /// Whether something is damaged there. A flipped bit lies in the structure that begins at the byte
    /// named; a write that went astray may show anywhere in its file, since what it should have replaced
    /// refers to other bytes.
    pub(in super::super) fn fits(&self, damage: &[Damage]) -> bool {
        damage.iter().filter(|it| it.path == self.path).any(|it| {
            it.fault != Fault::BitFlip
                || self.byte.is_none_or(|byte| {
                    byte < it.at + UNIT_BYTES && it.at < byte.saturating_add(STRUCTURE_BYTES_MAX)
                })
        })
    }
}

/// Damage is known by units of so many bytes.
const UNIT_BYTES: u64 = 4 << 10;

/// No block, page or bulk extent of these worlds is longer.
const STRUCTURE_BYTES_MAX: u64 = 64 << 10;

/// Whether a text names a partition of which a file is damaged.
pub(in super::super) fn names_damaged_partition(text: &str, damage: &[Damage]) -> bool {
    damage.iter().any(|it| names_partition(text, &it.path))
}

fn names_partition(text: &str, path: &str) -> bool {
    let partition = path.strip_prefix("p/").and_then(|rest| rest.split('/').next());
    partition.is_some_and(|partition| {
        text.split("partition ")
            .skip(1)
            .any(|rest| rest.split(|c: char| !c.is_ascii_digit()).next() == Some(partition))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_place_is_read_from_the_text() {
        let texts = [
            ("p/3/pages is damaged at byte 4096: a checksum", ("p/3/pages", Some(4096))),
            ("partition 0, depot 7: p/0/d7-0 is damaged at byte 12: x", ("p/0/d7-0", Some(12))),
            (
                "journal file journal/1-2 (number 15) is damaged at byte 0: it",
                ("journal/1-2", Some(0)),
            ),
            ("p/1/d2-3 at byte 4096: a bulk append that no", ("p/1/d2-3", Some(4096))),
            ("catalogue-3 is damaged: its checksum", ("catalogue-3", None)),
        ];
        for (text, (path, byte)) in texts {
            assert_eq!(Blame::read(text), Some(Blame { path, byte }), "{text}");
        }
        assert_eq!(Blame::read("the journals lack entries 3..4 of partition 2"), None);
    }

    #[test]
    fn a_claim_must_fit_the_damage() {
        let damage = |fault| vec![Damage { path: "p/3/pages".to_owned(), at: 8192, fault }];
        let at = |path, byte| Blame { path, byte: Some(byte) };
        let flipped = damage(Fault::BitFlip);
        assert!(at("p/3/pages", 8192).fits(&flipped));
        assert!(at("p/3/pages", 0).fits(&flipped), "a structure that begins before");
        assert!(!at("p/3/pages", 12_288).fits(&flipped), "a structure behind");
        assert!(!at("p/2/pages", 8192).fits(&flipped), "another file");
        assert!(at("p/3/pages", 12_288).fits(&damage(Fault::LostWrite)));
        assert!(names_partition("entries 1..2 of partition 3", "p/3/d1-0"));
        assert!(!names_partition("entries 1..2 of partition 31", "p/3/d1-0"));
    }
}
