//! Transforms of lists that are stored by rows. What one item becomes costs as much as the list has levels;
//! what several become is written item by item, and only where it differs.

use std::ops::ControlFlow;

use super::super::rows::{Rows as Found, explode, is_nil};
use super::super::transform::{Done, delete_all, put_all, transform as go_on};
use super::super::within::{Change, finish, integer};
use super::super::{Collected, Cx, Error, Problem, Row, Trail, Writer};
use super::{Rows, failed, item, missing, nested, place, place_of, read, span, sublist};
use crate::codec::KeyBuf;
use crate::codec::value::raw::{Bad, Raw};
use crate::schema::ast::{Step, Term, Value};
use crate::schema::eval::rows::Spot;
use crate::schema::eval::within;
use crate::schema::list::{self, List};

/// Goes on from a list by one step. `here` is the path with this step.
pub(in super::super) async fn transform<W: Writer>(
    writer: &W,
    cx: &Cx<'_>,
    trail: Trail<'_>,
    step: &Step,
    here: Trail<'_>,
    spot: Spot<'_>,
    term: &Term,
) -> Done<W::Error> {
    let mut last =
        |collected: &Collected, value: Option<Raw<'_>>| finish(cx, term, collected, value);
    match step {
        Step::Nth(_) | Step::First | Step::Last if spot.nests() => {
            let Some(item) = nested::one(writer, &spot, step).await? else { return Ok(()) };
            go_on(writer, cx, trail, item.clone(), term).await?;
            if !item.is_gone() {
                return Ok(());
            }
            let whole = span(writer, &spot).await?;
            let at = place(place_of(step), whole.len()).ok_or_else(missing)?;
            list_of(writer, &spot).remove(whole.from + at as u64).await
        }
        Step::Nth(_) | Step::First | Step::Last => {
            let Some(found) = item(writer, &spot, step).await? else { return Ok(()) };
            let mut change = None;
            let mut visit = |key: &[u8], value: &[u8]| {
                let value = Some(Raw::new(value));
                let changed = within::transform(cx, trail.clone(), value, &mut last);
                change = Some(changed.map(|changed| (KeyBuf::from(key), changed)));
                ControlFlow::Break(())
            };
            found.visit(writer, &spot, 1, &mut visit).await?;
            match change.transpose()? {
                None | Some((_, Change::Same)) => Ok(()),
                Some((key, Change::To(new))) => {
                    spot.check(cx, &new)?;
                    let row = Row { key: &key, first_bytes: spot.first_bytes };
                    writer.put(row, &new).map_err(Error::Source)
                }
                Some((_, Change::Void)) => {
                    let whole = span(writer, &spot).await?;
                    let at = place(place_of(step), whole.len()).ok_or_else(missing)?;
                    list_of(writer, &spot).remove(whole.from + at as u64).await
                }
            }
        }
        Step::Index(at) => {
            let whole = span(writer, &spot).await?;
            let Some(at) = place(*at, whole.len()) else { return Ok(()) };
            let list = list_of(writer, &spot);
            let from = whole.from + at as u64;
            let place = Value::from(at as u64);
            let to = match within::transform(cx, trail, Some(place.raw()), &mut last)? {
                Change::Same => return Ok(()),
                Change::Void => return list.remove(from).await,
                Change::To(new) => integer(Raw::new(&new), "index")?,
            };
            let to = whole.from + moved(to, whole.len());
            if from == to {
                return Ok(());
            }
            list.relocate(from, to).await
        }
        Step::AfterLast if spot.span.is_none() => {
            let Change::To(new) = within::transform(cx, trail, None, &mut last)? else {
                return Ok(());
            };
            let list = list_of(writer, &spot);
            list.check(cx, Raw::new(&new))?;
            list.push(cx, Raw::new(&new)).await
        }
        Step::BeforeFirst | Step::AfterLast | Step::InsertAt(_) => {
            let whole = span(writer, &spot).await?;
            let len = whole.len();
            let at = match step {
                Step::BeforeFirst => Some(0),
                Step::InsertAt(at) if usize::try_from(*at) == Ok(len) => Some(len),
                Step::InsertAt(at) => place(*at, len),
                _ => Some(len),
            };
            let Some(at) = at else { return Ok(()) };
            let Change::To(new) = within::transform(cx, trail, None, &mut last)? else {
                return Ok(());
            };
            let list = list_of(writer, &spot);
            list.check(cx, Raw::new(&new))?;
            list.insert(cx, whole.from + at as u64, Raw::new(&new)).await
        }
        Step::Begin | Step::End => {
            let whole = span(writer, &spot).await?;
            let empty = Some(Raw::new(&[0x90]));
            let Change::To(new) = within::transform(cx, trail, empty, &mut last)? else {
                return Ok(());
            };
            let new = items(Raw::new(&new), "begin")?;
            let at = if matches!(step, Step::Begin) { whole.from } else { whole.to };
            splice(writer, cx, &spot, at, &[], &new).await
        }
        Step::Sublist(..) | Step::SublistOf(..) => {
            let span = sublist(writer, cx, &trail, step, &spot).await?;
            go_on(writer, cx, trail, Spot { span: Some(span), ..spot }, term).await
        }
        _ => whole(writer, cx, here, &spot, term).await,
    }
}

/// What the term makes of a list, or of its span.
pub(in super::super) async fn assign<W: Writer>(
    writer: &W,
    cx: &Cx<'_>,
    trail: Trail<'_>,
    spot: &Spot<'_>,
    term: &Term,
) -> Done<W::Error> {
    match (term, spot.span) {
        (Term::Set(value), None) => {
            let mut rows = Found::new();
            if !is_nil(value.raw())? {
                explode(cx, spot, value.raw(), &mut rows)?;
            }
            delete_all(writer, spot).await?;
            spot.set_gone(false);
            put_all(writer, spot, &rows)
        }
        (Term::Void, None) => {
            spot.set_gone(true);
            delete_all(writer, spot).await
        }
        (Term::Set(_) | Term::Void | Term::Apply(_), _) => {
            whole(writer, cx, trail, spot, term).await
        }
    }
}

/// Goes on within the list or its span as one value, and writes the items that change.
pub(in super::super) async fn whole<W: Writer>(
    writer: &W,
    cx: &Cx<'_>,
    trail: Trail<'_>,
    spot: &Spot<'_>,
    term: &Term,
) -> Done<W::Error> {
    let value = read(writer, spot).await?;
    let mut last =
        |collected: &Collected, value: Option<Raw<'_>>| finish(cx, term, collected, value);
    let step = if spot.span.is_some() { "sublist" } else { "set" };
    let change = within::transform(cx, trail, Some(Raw::new(&value)), &mut last)?;
    let new = match &change {
        Change::Same => return Ok(()),
        Change::Void => Vec::new(),
        Change::To(new) => items(Raw::new(new), step)?,
    };
    spot.set_gone(matches!(change, Change::Void));
    let old = items(Raw::new(&value), step)?;
    let at = spot.span.map_or(0, |span| span.from);
    splice(writer, cx, spot, at, &old, &new).await
}

/// Puts `new` in the place of `old`, which begins at a place of the list. What is the same at both ends is
/// not touched; nothing is written if something of it could not be read.
async fn splice<W: Writer>(
    writer: &W,
    cx: &Cx<'_>,
    spot: &Spot<'_>,
    at: u64,
    old: &[Raw<'_>],
    new: &[Raw<'_>],
) -> Done<W::Error> {
    let list = list_of(writer, spot);
    new.iter().try_for_each(|item| list.check(cx, *item))?;
    let same = |(old, new): &(&Raw<'_>, &Raw<'_>)| old.bytes() == new.bytes();
    let front = old.iter().zip(new).take_while(same).count();
    let (old, new) = (&old[front..], &new[front..]);
    let back = old.iter().rev().zip(new.iter().rev()).take_while(same).count();
    let (old, new) = (&old[..old.len() - back], &new[..new.len() - back]);
    let mut at = at + front as u64;
    for (old, new) in old.iter().zip(new) {
        if old.bytes() != new.bytes() {
            list.set(cx, at, *new).await?;
        }
        at += 1;
    }
    for item in new.iter().skip(old.len()) {
        list.insert(cx, at, *item).await?;
        at += 1;
    }
    for _ in new.len()..old.len() {
        list.remove(at).await?;
    }
    Ok(())
}

/// Where an item of a list of `len` comes to lie that is moved to a place: that, or the nearest end.
fn moved(to: i64, len: usize) -> u64 {
    let len = i64::try_from(len).unwrap_or(i64::MAX);
    let to = if to < 0 { to.saturating_add(len) } else { to };
    to.clamp(0, len - 1).unsigned_abs()
}

fn items<'a>(value: Raw<'a>, step: &'static str) -> Result<Vec<Raw<'a>>, Problem> {
    let items = value.items()?;
    let items = items.map_err(|found| Problem::Mismatch { step, expected: "a list", found })?;
    Ok(items.collect::<Result<Vec<_>, Bad>>()?)
}

/// A list, to be edited.
struct Edit<'s, 'l, W> {
    rows: Rows<'s, 'l, W>,
}

fn list_of<'s, 'l, W: Writer>(writer: &'s W, spot: &'s Spot<'l>) -> Edit<'s, 'l, W> {
    Edit { rows: Rows { source: writer, spot } }
}

impl<W: Writer> Edit<'_, '_, W> {
    fn list(&self) -> List<'_, Rows<'_, '_, W>> {
        List::new(&self.rows, &self.rows.spot.prefix)
    }

    /// Asserts that a value can be an item.
    fn check(&self, cx: &Cx<'_>, value: Raw<'_>) -> Result<(), Problem> {
        let spot = self.rows.spot;
        spot.check_list_keys()?;
        if spot.nests() {
            // All ids are of one length.
            return explode(cx, &spot.item(0), value, &mut Found::new());
        }
        spot.check(cx, value.bytes())
    }

    async fn set(&self, cx: &Cx<'_>, at: u64, value: Raw<'_>) -> Done<W::Error> {
        if !self.rows.spot.nests() {
            return self.list().set(at, value.bytes()).await.map_err(failed);
        }
        let id = self.list().id(at).await.map_err(failed)?.ok_or_else(missing)?;
        delete_all(self.rows.source, &self.rows.spot.item(id)).await?;
        self.fill(cx, id, value)
    }

    async fn push(&self, cx: &Cx<'_>, value: Raw<'_>) -> Done<W::Error> {
        if !self.rows.spot.nests() {
            return self.list().push(value.bytes()).await.map_err(failed);
        }
        let id = self.list().push_new().await.map_err(failed)?;
        self.fill(cx, id, value)
    }

    async fn insert(&self, cx: &Cx<'_>, at: u64, value: Raw<'_>) -> Done<W::Error> {
        if !self.rows.spot.nests() {
            return self.list().insert(at, value.bytes()).await.map_err(failed);
        }
        let id = self.list().insert_new(at).await.map_err(failed)?;
        self.fill(cx, id, value)
    }

    /// Writes what hangs under an item of which nothing is stored.
    fn fill(&self, cx: &Cx<'_>, id: u64, value: Raw<'_>) -> Done<W::Error> {
        let item = self.rows.spot.item(id);
        let mut rows = Found::new();
        explode(cx, &item, value, &mut rows)?;
        put_all(self.rows.source, &item, &rows)
    }

    async fn remove(&self, at: u64) -> Done<W::Error> {
        let list = self.list();
        let removed = if self.rows.spot.nests() {
            list.remove_with_all(at).await
        } else {
            list.remove(at).await
        };
        removed.map_err(failed)
    }

    /// Moves an item, with what hangs under it, to a place of the list as it is without the item.
    async fn relocate(&self, from: u64, to: u64) -> Done<W::Error> {
        let list = self.list();
        let found = list.slice(from, 1).await.map_err(failed)?;
        let row = found.first().ok_or_else(missing)?;
        list.remove(from).await.map_err(failed)?;
        list.insert(to, row).await.map_err(failed)
    }
}

impl<W: Writer> list::Edits for Rows<'_, '_, W> {
    fn put(&self, key: &[u8], value: &[u8]) -> Result<(), W::Error> {
        self.source.put(Row { key, first_bytes: self.spot.first_bytes }, value)
    }

    fn delete(&self, key: &[u8]) -> Result<(), W::Error> {
        self.source.delete(Row { key, first_bytes: self.spot.first_bytes })
    }

    fn delete_range(&self, from: &[u8], to: &[u8]) -> Result<(), W::Error> {
        let from = Row { key: from, first_bytes: self.spot.first_bytes };
        self.source.delete_range(from, Some(to))
    }
}
