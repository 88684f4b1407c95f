//! One step of the rewriting: the next units of one partition.

use std::ops::ControlFlow;

use super::{Move, put_moved};
use crate::codec;
use crate::schema::Rows;
use crate::topology::{Local, Scan, StateError};

/// What a step did.
pub(crate) struct Stepped {
    /// Where the next step begins: nothing is left below. None if nothing is left at all.
    pub(crate) next: Option<Vec<u8>>,
    /// Why the unit there has no new form.
    pub(crate) problem: Option<codec::Error>,
}

/// Moves units from the one at `from` on: at least one if there is one, at most `units_max`, and no more once
/// `goes_on`, which is asked before each but the first and given the bytes moved so far, says no.
///
/// # Errors
/// As [`Local::scan`] and [`Local::put`].
pub(crate) async fn step(
    local: &dyn Local,
    moving: &Move,
    from: &[u8],
    units_max: usize,
    mut goes_on: impl FnMut(usize) -> bool,
) -> Result<Stepped, StateError> {
    let range = Scan { from, to: None, reverse: false, limit: units_max, keys_only: false };
    let mut found = Rows::new();
    let mut visit = |unit: &[u8], old: &[u8]| {
        found.push(unit, old);
        if found.bytes_len() < READ_BYTES_MAX {
            ControlFlow::Continue(())
        } else {
            ControlFlow::Break(())
        }
    };
    local.scan(moving.old, range, &mut visit).await?;
    let is_last = found.len() < units_max && found.bytes_len() < READ_BYTES_MAX;
    let mut bytes = 0;
    for (unit, old) in found.iter() {
        if bytes > 0 && !goes_on(bytes) {
            return Ok(Stepped { next: Some(unit.to_vec()), problem: None });
        }
        match put_moved(local, moving, unit, old) {
            Ok(written) => bytes += unit.len() + written,
            Err(StateError::Undecodable { source, .. }) => {
                return Ok(Stepped { next: Some(unit.to_vec()), problem: Some(source) });
            }
            Err(error) => return Err(error),
        }
    }
    let last = found.iter().last().filter(|_| !is_last);
    // No key lies between a key and the same with a zero behind it.
    Ok(Stepped { next: last.map(|(unit, _)| [unit, &[0]].concat()), problem: None })
}

/// Bytes of old values that are held at a time, and the unit that goes beyond.
const READ_BYTES_MAX: usize = 256 << 10;
