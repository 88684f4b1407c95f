//! Transforms of lists that are stored by rows. What one item becomes costs as much as the list has levels;
//! what several become is written item by item, and only where it differs.

use std::ops::ControlFlow;

use super::super::rows::{Rows as Found, explode, is_nil};
use super::super::transform::{Done, delete_all, put_all, transform as go_on};
use super::super::within::{Change, finish, integer};
use super::super::{Collected, Cx, Error, Problem, Row, Trail, Writer};
use super::{Rows, failed, item, missing, place, place_of, read, span, sublist};
use crate::codec::KeyBuf;
use crate::codec::value::raw::{Bad, Raw};
use crate::schema::ast::{Step, Term, Value};
use crate::schema::eval::rows::{Span, Spot};
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
            let item = read(writer, &Spot { span: Some(one(from)), ..spot.clone() }).await?;
            let mut items = items(Raw::new(&item), "index")?.into_iter();
            let item = items.next().ok_or_else(missing)?;
            list.remove(from).await?;
            list.insert(to, item.bytes()).await
        }
        Step::AfterLast if spot.span.is_none() => {
            let Change::To(new) = within::transform(cx, trail, None, &mut last)? else {
                return Ok(());
            };
            spot.check(cx, &new)?;
            spot.check_list_keys()?;
            list_of(writer, &spot).push(&new).await
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
            spot.check(cx, &new)?;
            spot.check_list_keys()?;
            list_of(writer, &spot).insert(whole.from + at as u64, &new).await
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
            put_all(writer, spot, &rows)
        }
        (Term::Void, None) => delete_all(writer, spot).await,
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
    new.iter().try_for_each(|item| spot.check(cx, item.bytes()))?;
    spot.check_list_keys()?;
    let same = |(old, new): &(&Raw<'_>, &Raw<'_>)| old.bytes() == new.bytes();
    let front = old.iter().zip(new).take_while(same).count();
    let (old, new) = (&old[front..], &new[front..]);
    let back = old.iter().rev().zip(new.iter().rev()).take_while(same).count();
    let (old, new) = (&old[..old.len() - back], &new[..new.len() - back]);
    let list = list_of(writer, spot);
    let mut at = at + front as u64;
    for (old, new) in old.iter().zip(new) {
        if old.bytes() != new.bytes() {
            list.set(at, new.bytes()).await?;
        }
        at += 1;
    }
    for item in new.iter().skip(old.len()) {
        list.insert(at, item.bytes()).await?;
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

fn one(at: u64) -> Span {
    Span { from: at, to: at + 1, is_nil: false }
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

    async fn set(&self, at: u64, value: &[u8]) -> Done<W::Error> {
        self.list().set(at, value).await.map_err(failed)
    }

    async fn push(&self, value: &[u8]) -> Done<W::Error> {
        self.list().push(value).await.map_err(failed)
    }

    async fn insert(&self, at: u64, value: &[u8]) -> Done<W::Error> {
        self.list().insert(at, value).await.map_err(failed)
    }

    async fn remove(&self, at: u64) -> Done<W::Error> {
        self.list().remove(at).await.map_err(failed)
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
