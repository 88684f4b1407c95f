//! *explained*: opening and reading fail only for a reason: a device that refuses, a full disk, a process
//! that ended. Damage is claimed only where there is some, and the claim names a damaged file.

use tidemill::error::Error;

use crate::disk::DiskHandle;
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
        Error::Open { .. } | Error::ShardStopped { .. } | Error::DiskFull { .. } => {
            check(NAME, trouble.any, || format!("{what} failed without a reason: {text}"))?;
            Ok(false)
        }
        _ => Err(Failure::new(NAME, format!("{what} failed: {text}"))),
    }
}

/// Judges what an opening says that a crash left behind. Returns whether stored data is damaged, as
/// [`judge`] does: a bulk append whose bytes went bad before anything proved them durable is reported as
/// torn, and is gone.
pub(in super::super) fn torn(disk: &DiskHandle, torn: &[String]) -> bool {
    let damage = disk.damage();
    torn.iter().any(|text| damage.iter().any(|it| text.starts_with(&format!("{} at", it.path))))
}

fn damaged(disk: &DiskHandle, what: &str, text: &str) -> Result<(), Failure> {
    let damage = disk.damage();
    check(NAME, !damage.is_empty(), || format!("{what}: {text}; but nothing was damaged"))
}
