//! One step of the rewriting: the next units of one partition.

use std::ops::ControlFlow;

use super::{Move, put_rows};
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

/// Moves units from the one at `from` on: at least one if there is one and it fits, at most `units_max`, and no more
/// once `goes_on`, which is asked before each but the first and given the bytes moved so far, says no.
///
/// `room`: the bytes that the attempt may still write, and those that any may. A unit whose new form needs more than
/// the first waits for another attempt; one that needs more than the second has none.
///
/// # Errors
/// As [`Local::scan`] and [`Local::put`].
pub(crate) async fn step(
    local: &dyn Local,
    moving: &Move,
    from: &[u8],
    units_max: usize,
    room: (u64, u64),
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
        let rows = match moving.rows(local.fields(), unit, old) {
            Ok(rows) => rows,
            Err(problem) => {
                return Ok(Stepped { next: Some(unit.to_vec()), problem: Some(problem) });
            }
        };
        let needed = bytes as u64
            + (unit.len() + rows.bytes_len()) as u64
            + ROW_BYTES * (rows.len() as u64 + 1);
        let (now, ever) = room;
        if needed > now {
            let problem = (bytes == 0 && needed > ever).then(|| codec::Error::Unmigrated {
                id: moving.id.clone(),
                problem: format!(
                    "what it makes of one value needs {needed} bytes, and a microbatch holds {ever}"
                ),
            });
            return Ok(Stepped { next: Some(unit.to_vec()), problem });
        }
        put_rows(local, moving, unit, rows)?;
        bytes = usize::try_from(needed).unwrap_or(usize::MAX);
    }
    let last = found.iter().last().filter(|_| !is_last);
    // No key lies between a key and the same with a zero behind it.
    Ok(Stepped { next: last.map(|(unit, _)| [unit, &[0]].concat()), problem: None })
}

/// What a row of a write set takes beside its bytes, at least.
const ROW_BYTES: u64 = 64;

/// Bytes of old values that are held at a time, and the unit that goes beyond.
const READ_BYTES_MAX: usize = 256 << 10;
