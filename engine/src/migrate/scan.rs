//! Ranges over both forms of a `PState` whose migration is under way.
//!
//! Where the two are not read at one moment, a unit may move between looks. It moves one way only, so the old
//! form is read first, a few units at a time, and then the new form as far as those reach: a unit that
//! moved meanwhile is met twice, and the new form counts; none is missed.

use std::ops::ControlFlow;

use super::Move;
use crate::schema::Rows;
use crate::topology::{Scan, Visit};

/// One of the two forms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Half {
    Old,
    New,
}

/// Both forms of one `PState`, as somebody sees them.
pub(crate) trait Halves {
    type Error;

    /// As [`Local::scan`](crate::topology::Local::scan).
    async fn scan(
        &self,
        half: Half,
        range: Scan<'_>,
        visit: &mut Visit<'_>,
    ) -> Result<(), Self::Error>;

    /// As [`Move::rows`].
    fn rows(&self, unit: &[u8], old: &[u8]) -> Result<Rows, Self::Error>;
}

/// So many units of the old form are held at a time, or so many bytes and the unit that goes beyond.
const UNITS_MAX: usize = 64;
const BYTES_MAX: usize = 256 << 10;

/// Visits a range as the new form has it.
pub(crate) async fn scan_both<H: Halves>(
    halves: &H,
    moving: &Move,
    range: Scan<'_>,
    visit: &mut Visit<'_>,
) -> Result<(), H::Error> {
    let (mut from, mut to) = (range.from.to_vec(), range.to.map(<[u8]>::to_vec));
    let mut out = Out { visit, left: range.limit };
    loop {
        if out.left == 0 || to.as_ref().is_some_and(|to| *to <= from) {
            return Ok(());
        }
        let all = Scan { from: &from, to: to.as_deref(), ..range };
        let (units, is_last) = units(halves, moving, all, out.left).await?;
        // As far as the new form may be read before the next units of the old one.
        let edge = units.last().filter(|_| !is_last).and_then(|(unit, _)| {
            if range.reverse { Some(unit.clone()) } else { moving.end_of(unit) }
        });
        let near = match (&edge, range.reverse) {
            (None, _) => all,
            (Some(edge), false) => {
                Scan { to: Some(all.to.map_or(&**edge, |to| to.min(edge))), ..all }
            }
            (Some(edge), true) => Scan { from: edge.max(&from), ..all },
        };
        scan_near(halves, moving, near, units, &mut out).await?;
        match (edge, range.reverse) {
            (None, _) => return Ok(()),
            (Some(edge), false) => from = edge,
            (Some(edge), true) => to = Some(edge),
        }
    }
}

/// A unit's key, and its rows in the new form.
type Unit = (Vec<u8>, Rows);

/// The first units of the old form that have rows in `range`, in its order, and whether that is all of them.
async fn units<H: Halves>(
    halves: &H,
    moving: &Move,
    range: Scan<'_>,
    wanted: usize,
) -> Result<(Vec<Unit>, bool), H::Error> {
    let limit = wanted.min(UNITS_MAX);
    let (mut found, mut bytes) = (Rows::new(), 0);
    // The range may begin inside a unit.
    let from = moving.unit(range.from).unwrap_or(range.from);
    let asked = Scan { from, limit, keys_only: false, ..range };
    let mut visit = |unit: &[u8], old: &[u8]| {
        found.push(unit, old);
        bytes += unit.len() + old.len();
        if bytes < BYTES_MAX { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    };
    halves.scan(Half::Old, asked, &mut visit).await?;
    let is_last = found.len() < limit && bytes < BYTES_MAX;
    let units = found.iter().map(|(unit, old)| Ok((unit.to_vec(), halves.rows(unit, old)?)));
    Ok((units.collect::<Result<_, _>>()?, is_last))
}

/// Visits a range in which these are all units of the old form.
async fn scan_near<H: Halves>(
    halves: &H,
    moving: &Move,
    range: Scan<'_>,
    units: Vec<Unit>,
    out: &mut Out<'_, '_>,
) -> Result<(), H::Error> {
    let mut units = units.into_iter().peekable();
    let is_before = |unit: &[u8], key: &[u8]| if range.reverse { unit > key } else { unit < key };
    let limit = out.left;
    let mut merge = |key: &[u8], value: &[u8]| {
        while let Some((unit, rows)) =
            units.next_if(|(unit, _)| moving.is_of(unit, key) || is_before(unit, key))
        {
            // If it was moved meanwhile, the new form counts.
            if !moving.is_of(&unit, key) {
                out.unit(&range, &rows)?;
            }
        }
        out.row(key, value)
    };
    halves.scan(Half::New, Scan { limit, ..range }, &mut merge).await?;
    for (_, rows) in units {
        if out.unit(&range, &rows).is_break() {
            break;
        }
    }
    Ok(())
}

/// Who is told of rows, and how many more.
struct Out<'o, 'v> {
    visit: &'o mut Visit<'v>,
    left: usize,
}

impl Out<'_, '_> {
    fn row(&mut self, key: &[u8], value: &[u8]) -> ControlFlow<()> {
        if self.left == 0 {
            return ControlFlow::Break(());
        }
        self.left -= 1;
        let flow = (self.visit)(key, value);
        if flow.is_break() {
            self.left = 0;
        }
        if self.left == 0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }

    /// The rows of a unit that lie in the range.
    fn unit(&mut self, range: &Scan<'_>, rows: &Rows) -> ControlFlow<()> {
        let is_in = |key: &[u8]| range.from <= key && range.to.is_none_or(|to| key < to);
        let mut rows: Vec<_> = rows.iter().filter(|(key, _)| is_in(key)).collect();
        if range.reverse {
            rows.reverse();
        }
        rows.into_iter().try_for_each(|(key, value)| self.row(key, value))
    }
}
