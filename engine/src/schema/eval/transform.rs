//! Transforming, where collections are stored by rows.

use std::ops::ControlFlow;

use super::lists;
use super::rows::{Elements, Rows, Spot, explode, is_nil, read, scan};
use super::select::{gather, has, reaches, value_of};
use super::within::{self, Change, finish};
use super::{Collected, Cx, Error, Fork, Next, Row, Trail, Writer};
use crate::codec::value::raw::Raw;
use crate::codec::{KeyBuf, VALUE_BYTES_MAX};
use crate::env::LocalFuture;
use crate::schema::ast::{Step, Term, Value};
use crate::schema::layout::Layout;

pub(super) type Done<E> = Result<(), Error<E>>;

/// Replaces what the path reaches from `spot` by what the term makes of it.
pub(super) fn transform<'a, W: Writer>(
    writer: &'a W,
    cx: &'a Cx<'a>,
    trail: Trail<'a>,
    spot: Spot<'a>,
    term: &'a Term,
) -> LocalFuture<'a, Done<W::Error>> {
    Box::pin(async move {
        match spot.layout {
            Layout::Value(_) => row(writer, cx, trail, &spot, false, term).await,
            Layout::Map { .. }
            | Layout::Set { .. }
            | Layout::List { .. }
            | Layout::Record { .. } => collection(writer, cx, trail, spot, term).await,
        }
    })
}

/// Goes on within the value of one row; only if it is there, or with nil.
async fn row<W: Writer>(
    writer: &W,
    cx: &Cx<'_>,
    trail: Trail<'_>,
    spot: &Spot<'_>,
    must: bool,
    term: &Term,
) -> Done<W::Error> {
    if !must && let (Next::End, Term::Set(_) | Term::Void) = (trail.clone().next(cx)?, term) {
        let change = finish(cx, term, &None, None)?;
        return write(writer, cx, spot, change);
    }
    let mut change = Ok(Change::Same);
    let mut visit = |value: Option<&[u8]>| {
        let value = cx.stored(value);
        if value.is_some() || !must {
            let here = value.map_or(Raw::NIL, Raw::new);
            let mut last =
                |collected: &Collected, value: Option<Raw<'_>>| finish(cx, term, collected, value);
            change = within::transform(cx, trail.clone(), Some(here), &mut last);
        }
    };
    writer.get(spot.row(), &mut visit).await.map_err(Error::Source)?;
    write(writer, cx, spot, change?)
}

/// Writes one row, if it is what its type allows.
fn write<W: Writer>(writer: &W, cx: &Cx<'_>, spot: &Spot<'_>, change: Change) -> Done<W::Error> {
    match change {
        Change::Same => Ok(()),
        Change::Void => writer.delete(spot.row()).map_err(Error::Source),
        Change::To(new) => {
            spot.check(cx, &new)?;
            writer.put(spot.row(), &new).map_err(Error::Source)
        }
    }
}

async fn collection<W: Writer>(
    writer: &W,
    cx: &Cx<'_>,
    mut trail: Trail<'_>,
    spot: Spot<'_>,
    term: &Term,
) -> Done<W::Error> {
    let here = trail.clone();
    let step = match trail.next(cx)? {
        Next::End if matches!(spot.layout, Layout::List { .. }) => {
            return lists::assign(writer, cx, here, &spot, term).await;
        }
        Next::End => return assign(writer, cx, here, &spot, term).await,
        Next::Stop => return Ok(()),
        Next::Fork(Fork::Choose(cases, otherwise)) => {
            let mut chosen = otherwise;
            for (test, then) in cases {
                if reaches(writer, cx, trail.alone(test), spot.clone()).await? {
                    chosen = then;
                    break;
                }
            }
            return match chosen {
                Some(path) => transform(writer, cx, trail.enter(path), spot, term).await,
                None => Ok(()),
            };
        }
        Next::Fork(Fork::Each(paths)) => {
            if spot.span.is_some() {
                return lists::change_whole(writer, cx, here, &spot, term).await;
            }
            if spot.part.is_some() {
                // What one path adds to the part the next one has to see, in the range or not.
                return whole(writer, cx, here, &spot, term).await;
            }
            for path in paths {
                transform(writer, cx, trail.enter(path), spot.clone(), term).await?;
                if spot.is_gone() && !is_empty(writer, &spot).await? {
                    // One path removed the item, and this one has written to it.
                    spot.set_gone(false);
                }
            }
            return Ok(());
        }
        Next::Fork(Fork::Collect(path, amount)) => {
            let found = gather(writer, cx, trail.alone(path), spot.clone(), amount).await?;
            trail.collect(found);
            return transform(writer, cx, trail, spot, term).await;
        }
        Next::Fork(Fork::Current) => {
            let value = value_of(writer, &spot).await?;
            trail.collect(Value::from_bytes(value));
            return transform(writer, cx, trail, spot, term).await;
        }
        Next::Step(step) => step,
    };
    match (step, spot.layout) {
        (_, Layout::List { .. }) => {
            lists::transform(writer, cx, trail, step, here, spot, term).await
        }
        (Step::Key(key) | Step::Must(key), Layout::Map { .. } | Layout::Record { .. }) => {
            let key = spot.key(key.raw())?;
            let must = matches!(step, Step::Must(_));
            entry(writer, cx, trail, here, spot, key, must, term).await
        }
        (Step::Field { of, name }, Layout::Record { name: record, .. }) if of == record => {
            let key = spot.field(of, name)?;
            entry(writer, cx, trail, here, spot, key, false, term).await
        }
        (Step::MapKey(key), Layout::Map { .. }) | (Step::Elem(key), Layout::Set { .. }) => {
            let key = spot.key(key.raw())?;
            let narrow = !spot.is_limited() && spot.includes(&key);
            let spot = if narrow { spot.only(key) } else { spot };
            whole(writer, cx, here, &spot, term).await
        }
        (Step::Range { from, to, limit, reverse }, Layout::Map { .. } | Layout::Set { .. }) => {
            let part = spot.range(from, to, *limit, *reverse)?;
            if spot.is_limited() {
                return whole(writer, cx, here, &spot, term).await;
            }
            transform(writer, cx, trail, part, term).await
        }
        (Step::First | Step::Last, Layout::Set { .. }) if !spot.is_limited() => {
            let mut part = spot.bounds();
            part.limit = Some(1);
            part.reverse ^= matches!(step, Step::Last);
            whole(writer, cx, here, &Spot { part: Some(part), ..spot }, term).await
        }
        (Step::NewElem, Layout::Set { .. }) => {
            let mut last =
                |collected: &Collected, value: Option<Raw<'_>>| finish(cx, term, collected, value);
            let Change::To(new) = within::transform(cx, trail, None, &mut last)? else {
                return Ok(());
            };
            let key = spot.key(Raw::new(&new))?;
            writer.put(spot.under(key).row(), &[]).map_err(Error::Source)
        }
        (Step::Values, Layout::Map { .. } | Layout::Record { .. }) if spot.is_flat() => {
            values(writer, cx, &trail, &spot, term).await
        }
        (Step::Values, Layout::Map { .. } | Layout::Record { .. }) => {
            let mut elements = Elements::of(&spot);
            while let Some(element) = elements.next(writer, &spot).await? {
                transform(writer, cx, trail.clone(), spot.under(element), term).await?;
            }
            Ok(())
        }
        _ => whole(writer, cx, here, &spot, term).await,
    }
}

/// Goes on from what is under the key of a map or record; only if it is there, or with nil.
#[allow(clippy::too_many_arguments, reason = "the state of the walk, in its usual order")]
async fn entry<W: Writer>(
    writer: &W,
    cx: &Cx<'_>,
    trail: Trail<'_>,
    here: Trail<'_>,
    spot: Spot<'_>,
    key: KeyBuf,
    must: bool,
    term: &Term,
) -> Done<W::Error> {
    if spot.is_limited() || !spot.includes(&key) {
        return whole(writer, cx, here, &spot, term).await;
    }
    if spot.is_row(&key) {
        return row(writer, cx, trail, &spot.under(key), must, term).await;
    }
    if must && !has(writer, &spot, key.clone()).await? {
        return Ok(());
    }
    transform(writer, cx, trail, spot.under(key), term).await
}

/// What the term makes of a whole collection, or of a part of it.
async fn assign<W: Writer>(
    writer: &W,
    cx: &Cx<'_>,
    trail: Trail<'_>,
    spot: &Spot<'_>,
    term: &Term,
) -> Done<W::Error> {
    match term {
        Term::Set(value) if spot.part.is_none() => {
            let mut rows = Rows::new();
            if !is_nil(value.raw())? {
                explode(cx, spot, value.raw(), &mut rows)?;
            }
            delete_all(writer, spot).await?;
            spot.set_gone(false);
            put_all(writer, spot, &rows)
        }
        Term::Void if !spot.is_limited() => {
            spot.set_gone(true);
            delete_all(writer, spot).await
        }
        Term::Set(_) | Term::Void | Term::Apply(_) => whole(writer, cx, trail, spot, term).await,
    }
}

/// Goes on within the collection as one value, and writes the rows that change.
async fn whole<W: Writer>(
    writer: &W,
    cx: &Cx<'_>,
    trail: Trail<'_>,
    spot: &Spot<'_>,
    term: &Term,
) -> Done<W::Error> {
    let (old, value) = read(writer, spot).await?;
    let mut last =
        |collected: &Collected, value: Option<Raw<'_>>| finish(cx, term, collected, value);
    let mut new = Rows::new();
    let mut named = Vec::new();
    let change = within::transform(cx, trail, Some(Raw::new(&value)), &mut last)?;
    let is_void = matches!(change, Change::Void);
    match change {
        Change::Same => return Ok(()),
        Change::Void => {}
        Change::To(bytes) if is_nil(Raw::new(&bytes))? => {}
        Change::To(bytes) => {
            explode(cx, spot, Raw::new(&bytes), &mut new)?;
            if !spot.is_flat() && spot.part.is_some() {
                named = elements(spot, Raw::new(&bytes))?;
            }
        }
    }
    spot.set_gone(is_void);
    // Elements that come from outside of the part replace what is there under their keys, and the empty
    // ones have no rows to show for it.
    for element in named {
        if !old.keys().any(|key| key.starts_with(&element)) {
            delete_all(writer, &spot.under(element)).await?;
        }
    }
    // What gets a key that cannot be written here keeps the one it had: puts come first.
    for (key, value) in new.iter().filter(|&(key, value)| old.get(key) != Some(value)) {
        writer.put(row_of(spot, key)?, value).map_err(Error::Source)?;
    }
    for key in old.keys().filter(|&key| !new.contains_key(key)) {
        writer.delete(row_of(spot, key)?).map_err(Error::Source)?;
    }
    Ok(())
}

/// The keys of the elements of a map that is stored by rows, as a value.
fn elements<E>(spot: &Spot<'_>, map: Raw<'_>) -> Result<Vec<KeyBuf>, Error<E>> {
    let mut elements = Vec::new();
    for entry in map.entries()?.into_iter().flatten() {
        elements.push(spot.key(entry?.0)?);
    }
    Ok(elements)
}

/// Deletes a collection, or the part of it that a range leads to, without reading any of it; but where the
/// collection knows its size, a part is read, so that it can be counted.
pub(super) async fn delete_all<W: Writer>(writer: &W, spot: &Spot<'_>) -> Done<W::Error> {
    let Some(part) = &spot.part else {
        let to = spot.prefix.clone().prefix_end();
        return writer.delete_range(spot.row(), to.as_deref()).map_err(Error::Source);
    };
    if part.to.as_ref().is_some_and(|to| *to <= part.from) {
        return Ok(());
    }
    if !spot.is_counted() {
        let from = Row { key: &part.from, first_bytes: spot.first_bytes };
        return writer.delete_range(from, part.to.as_deref()).map_err(Error::Source);
    }
    let mut elements = Elements::of(spot);
    loop {
        let page = elements.page(writer, spot, PAGE_ROWS).await?;
        for element in &page {
            let from = Row { key: element, first_bytes: spot.first_bytes };
            let to = element.clone().prefix_end();
            if spot.is_flat() {
                writer.delete(from).map_err(Error::Source)?;
            } else {
                writer.delete_range(from, to.as_deref()).map_err(Error::Source)?;
            }
        }
        if page.len() < PAGE_ROWS {
            return Ok(());
        }
    }
}

pub(super) fn put_all<W: Writer>(writer: &W, spot: &Spot<'_>, rows: &Rows) -> Done<W::Error> {
    for (key, value) in rows {
        writer.put(row_of(spot, key)?, value).map_err(Error::Source)?;
    }
    Ok(())
}

/// Whether nothing is stored in a collection.
async fn is_empty<W: Writer>(writer: &W, spot: &Spot<'_>) -> Result<bool, Error<W::Error>> {
    let mut is_empty = true;
    let mut visit = |_: &[u8], _: &[u8]| {
        is_empty = false;
        ControlFlow::Break(())
    };
    scan(writer, spot, &spot.bounds(), 1, true, &mut visit).await?;
    Ok(is_empty)
}

/// A row of a collection, which of a whole `PState` may lie in any partition.
fn row_of<'k, E>(spot: &Spot<'_>, key: &'k [u8]) -> Result<Row<'k>, Error<E>> {
    let first_bytes = match (spot.first_bytes, spot.layout) {
        // A list has no keys, and lies in one place.
        (0, Layout::List { .. }) => 0,
        (0, _) => spot.element(key)?.len(),
        (bytes, _) => bytes,
    };
    Ok(Row { key, first_bytes })
}

/// Changes the rows of a map one by one: some are read, then those that change are written, and so on
/// behind the last one, since nothing can be written while rows are read.
async fn values<W: Writer>(
    writer: &W,
    cx: &Cx<'_>,
    trail: &Trail<'_>,
    spot: &Spot<'_>,
    term: &Term,
) -> Done<W::Error> {
    let mut part = spot.bounds();
    let mut left = part.limit.unwrap_or(usize::MAX);
    loop {
        let limit = left.min(PAGE_ROWS);
        let mut changes: Vec<(KeyBuf, Change)> = Vec::new();
        let (mut read, mut bytes) = (0, 0);
        let mut resume = None;
        let mut failed = None;
        let mut visit = |key: &[u8], value: &[u8]| {
            read += 1;
            resume = Some(KeyBuf::from(key));
            if !spot.knows(key) {
                return ControlFlow::Continue(());
            }
            let mut last =
                |collected: &Collected, value: Option<Raw<'_>>| finish(cx, term, collected, value);
            match within::transform(cx, trail.clone(), Some(Raw::new(value)), &mut last) {
                Ok(Change::Same) => {}
                Ok(change) => {
                    bytes += if let Change::To(new) = &change { new.len() } else { 0 };
                    changes.push((KeyBuf::from(key), change));
                }
                Err(problem) => {
                    failed = Some(problem);
                    return ControlFlow::Break(());
                }
            }
            if bytes > VALUE_BYTES_MAX { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        scan(writer, spot, &part, limit, false, &mut visit).await?;
        let is_cut = bytes > VALUE_BYTES_MAX;
        for (key, change) in changes {
            write(writer, cx, &spot.under(key), change)?;
        }
        if let Some(problem) = failed {
            return Err(problem.into());
        }
        left -= read;
        let Some(last) = resume else { return Ok(()) };
        if left == 0 || (read < limit && !is_cut) {
            return Ok(());
        }
        if part.reverse {
            part.to = Some(last);
        } else if let Some(from) = last.prefix_end() {
            part.from = from;
        } else {
            return Ok(());
        }
    }
}

/// How many rows are read before those that change are written.
const PAGE_ROWS: usize = 256;
