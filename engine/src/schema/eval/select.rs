//! Selecting, where collections are stored by rows.

use std::ops::ControlFlow;

use super::lists;
use super::rows::{Elements, Spot, read, scan};
use super::within::{self, Sink};
use super::{Amount, Collected, Cx, Error, Fork, Next, Problem, Source, Trail, gathered, result};
use crate::codec::KeyBuf;
use crate::codec::value::raw::{Raw, push_list};
use crate::env::LocalFuture;
use crate::schema::ast::{Step, Value};
use crate::schema::layout::Layout;
use crate::schema::sizes::decode_size;

pub(super) type Flow<E> = Result<ControlFlow<()>, Error<E>>;

pub(super) const ON: ControlFlow<()> = ControlFlow::Continue(());

/// Calls `out` with all that the path reaches from `spot`, until it breaks.
pub(super) fn select<'a, S: Source>(
    source: &'a S,
    cx: &'a Cx<'a>,
    trail: Trail<'a>,
    spot: Spot<'a>,
    out: &'a mut Sink<'a>,
) -> LocalFuture<'a, Flow<S::Error>> {
    Box::pin(async move {
        match spot.layout {
            Layout::Value(_) => row(source, cx, trail, &spot, false, out).await,
            Layout::Map { .. }
            | Layout::Set { .. }
            | Layout::List { .. }
            | Layout::Record { .. } => collection(source, cx, trail, spot, out).await,
        }
    })
}

/// Goes on within the value of one row; only if it is there, or with nil.
async fn row<S: Source>(
    source: &S,
    cx: &Cx<'_>,
    trail: Trail<'_>,
    spot: &Spot<'_>,
    must: bool,
    out: &mut Sink<'_>,
) -> Flow<S::Error> {
    let mut flow = Ok(ON);
    let mut trail = Some(trail);
    let mut visit = |value: Option<&[u8]>| {
        let value = cx.stored(value);
        let (Some(trail), true) = (trail.take(), value.is_some() || !must) else { return };
        flow = within::select(cx, trail, value.map_or(Raw::NIL, Raw::new), out);
    };
    source.get(spot.row(), &mut visit).await.map_err(Error::Source)?;
    Ok(flow?)
}

async fn collection<S: Source>(
    source: &S,
    cx: &Cx<'_>,
    mut trail: Trail<'_>,
    spot: Spot<'_>,
    out: &mut Sink<'_>,
) -> Flow<S::Error> {
    let here = trail.clone();
    let step = match trail.next(cx)? {
        Next::End => return whole(source, cx, here, &spot, out).await,
        Next::Stop => return Ok(ON),
        Next::Fork(Fork::Choose(cases, otherwise)) => {
            let mut chosen = otherwise;
            for (test, then) in cases {
                if reaches(source, cx, trail.alone(test), spot.clone()).await? {
                    chosen = then;
                    break;
                }
            }
            return match chosen {
                Some(path) => select(source, cx, trail.enter(path), spot, out).await,
                None => Ok(ON),
            };
        }
        Next::Fork(Fork::Each(paths)) => {
            for path in paths {
                if select(source, cx, trail.enter(path), spot.clone(), out).await?.is_break() {
                    return Ok(ControlFlow::Break(()));
                }
            }
            return Ok(ON);
        }
        Next::Fork(Fork::Collect(path, amount)) => {
            let found = gather(source, cx, trail.alone(path), spot.clone(), amount).await?;
            trail.collect(found);
            return select(source, cx, trail, spot, out).await;
        }
        Next::Fork(Fork::Current) => {
            let value = value_of(source, &spot).await?;
            trail.collect(Value::from_bytes(value));
            return select(source, cx, trail, spot, out).await;
        }
        Next::Step(step) => step,
    };
    match (step, spot.layout) {
        (_, Layout::List { .. }) => lists::select(source, cx, trail, step, here, spot, out).await,
        (Step::Key(key) | Step::Must(key), Layout::Map { .. } | Layout::Record { .. }) => {
            let key = spot.key(key.raw())?;
            let must = matches!(step, Step::Must(_));
            entry(source, cx, trail, here, spot, key, must, out).await
        }
        (Step::Field { of, name }, Layout::Record { name: record, .. }) if of == record => {
            let key = spot.field(of, name)?;
            entry(source, cx, trail, here, spot, key, false, out).await
        }
        (Step::MapKey(key), Layout::Map { .. } | Layout::Record { .. })
        | (Step::Elem(key), Layout::Set { .. }) => {
            let found = spot.key(key.raw())?;
            if spot.is_limited() {
                return whole(source, cx, here, &spot, out).await;
            }
            if !spot.includes(&found) || !has(source, &spot, found).await? {
                return Ok(ON);
            }
            Ok(within::select(cx, trail, key.raw(), out)?)
        }
        (Step::Range { from, to, limit, reverse }, Layout::Map { .. } | Layout::Set { .. }) => {
            let part = spot.range(from, to, *limit, *reverse)?;
            if spot.is_limited() {
                return whole(source, cx, here, &spot, out).await;
            }
            select(source, cx, trail, part, out).await
        }
        (Step::First | Step::Last, Layout::Set { .. }) if !spot.is_limited() => {
            let mut part = spot.bounds();
            part.limit = Some(1);
            part.reverse ^= matches!(step, Step::Last);
            let one = Spot { part: Some(part), ..spot };
            each(source, cx, &trail, Reach::Keys, &one, out).await
        }
        (Step::NewElem, Layout::Set { .. }) => Ok(ON),
        (Step::All, Layout::Set { .. })
        | (Step::Keys, Layout::Map { .. } | Layout::Record { .. }) => {
            each(source, cx, &trail, Reach::Keys, &spot, out).await
        }
        (Step::Values, Layout::Map { .. } | Layout::Record { .. }) => {
            each(source, cx, &trail, Reach::Values, &spot, out).await
        }
        (Step::All, Layout::Map { .. } | Layout::Record { .. }) => {
            each(source, cx, &trail, Reach::Entries, &spot, out).await
        }
        (Step::Size, _) => {
            let size = size(source, &spot).await?;
            Ok(within::select(cx, trail, Value::from(size).raw(), out)?)
        }
        _ => whole(source, cx, here, &spot, out).await,
    }
}

/// Goes on from what is under the key of a map or record; only if it is there, or with nil.
#[allow(clippy::too_many_arguments, reason = "the state of the walk, in its usual order")]
async fn entry<S: Source>(
    source: &S,
    cx: &Cx<'_>,
    trail: Trail<'_>,
    here: Trail<'_>,
    spot: Spot<'_>,
    key: KeyBuf,
    must: bool,
    out: &mut Sink<'_>,
) -> Flow<S::Error> {
    if spot.is_limited() {
        return whole(source, cx, here, &spot, out).await;
    }
    if !spot.includes(&key) {
        return if must { Ok(ON) } else { Ok(within::select(cx, trail, Raw::NIL, out)?) };
    }
    if spot.is_row(&key) {
        return row(source, cx, trail, &spot.under(key), must, out).await;
    }
    if must && !has(source, &spot, key.clone()).await? {
        return Ok(ON);
    }
    select(source, cx, trail, spot.under(key), out).await
}

/// How many elements a map, set or record has: its head says it, or they are counted.
async fn size<S: Source>(source: &S, spot: &Spot<'_>) -> Result<u64, Error<S::Error>> {
    let mut size = 0;
    if spot.is_counted() && spot.part.is_none() {
        let mut found = Ok(0);
        let mut visit = |head: Option<&[u8]>| found = head.map_or(Ok(0), decode_size);
        source.get(spot.row(), &mut visit).await.map_err(Error::Source)?;
        return Ok(found.map_err(Problem::BadRow)?);
    }
    if spot.is_flat() {
        let part = spot.bounds();
        let mut visit = |key: &[u8], _: &[u8]| {
            size += u64::from(spot.knows(key));
            ON
        };
        scan(source, spot, &part, part.limit.unwrap_or(usize::MAX), true, &mut visit).await?;
    } else {
        let mut elements = Elements::of(spot);
        while elements.next(source, spot).await?.is_some() {
            size += 1;
        }
    }
    Ok(size)
}

#[derive(Clone, Copy)]
enum Reach {
    Keys,
    Values,
    Entries,
}

/// Goes on from each element.
async fn each<S: Source>(
    source: &S,
    cx: &Cx<'_>,
    trail: &Trail<'_>,
    reach: Reach,
    spot: &Spot<'_>,
    out: &mut Sink<'_>,
) -> Flow<S::Error> {
    let pair = |key: &[u8], value: &[u8]| {
        let mut pair = Vec::with_capacity(1 + key.len() + value.len());
        push_list(&mut pair, 2);
        pair.extend_from_slice(key);
        pair.extend_from_slice(value);
        pair
    };
    if spot.is_flat() {
        let mut one = |key: &[u8], value: &[u8]| -> Result<ControlFlow<()>, Problem> {
            if !spot.knows(key) {
                return Ok(ON);
            }
            match reach {
                Reach::Values => within::select(cx, trail.clone(), Raw::new(value), out),
                Reach::Keys => {
                    let key = spot.key_value(key)?;
                    within::select(cx, trail.clone(), Raw::new(&key), out)
                }
                Reach::Entries => {
                    let pair = pair(&spot.key_value(key)?, value);
                    within::select(cx, trail.clone(), Raw::new(&pair), out)
                }
            }
        };
        let mut flow = Ok(ON);
        let mut visit = |key: &[u8], value: &[u8]| {
            flow = one(key, value);
            if matches!(flow, Ok(ControlFlow::Continue(()))) { ON } else { ControlFlow::Break(()) }
        };
        let part = spot.bounds();
        let limit = part.limit.unwrap_or(usize::MAX);
        let keys_only = matches!(reach, Reach::Keys);
        scan(source, spot, &part, limit, keys_only, &mut visit).await?;
        return Ok(flow?);
    }
    let mut elements = Elements::of(spot);
    while let Some(element) = elements.next(source, spot).await? {
        let flow = match reach {
            Reach::Keys => {
                let key = spot.key_value(&element)?;
                within::select(cx, trail.clone(), Raw::new(&key), out)?
            }
            Reach::Values => select(source, cx, trail.clone(), spot.under(element), out).await?,
            Reach::Entries => {
                let key = spot.key_value(&element)?;
                let value = value_of(source, &spot.under(element)).await?;
                within::select(cx, trail.clone(), Raw::new(&pair(&key, &value)), out)?
            }
        };
        if flow.is_break() {
            return Ok(flow);
        }
    }
    Ok(ON)
}

/// Goes on within the collection as one value.
pub(super) async fn whole<S: Source>(
    source: &S,
    cx: &Cx<'_>,
    trail: Trail<'_>,
    spot: &Spot<'_>,
    out: &mut Sink<'_>,
) -> Flow<S::Error> {
    let value = value_of(source, spot).await?;
    Ok(within::select(cx, trail, Raw::new(&value), out)?)
}

/// What lies at a spot, as one value: nil if nothing does.
pub(super) async fn value_of<S: Source>(
    source: &S,
    spot: &Spot<'_>,
) -> Result<Vec<u8>, Error<S::Error>> {
    match spot.layout {
        Layout::Value(_) => {
            let mut found = Raw::NIL.bytes().to_vec();
            let mut visit = |value: Option<&[u8]>| {
                if let Some(value) = value {
                    found = value.to_vec();
                }
            };
            source.get(spot.row(), &mut visit).await.map_err(Error::Source)?;
            Ok(found)
        }
        Layout::List { .. } => lists::read(source, spot).await,
        Layout::Map { .. } | Layout::Set { .. } | Layout::Record { .. } => {
            Ok(read(source, spot).await?.1)
        }
    }
}

/// Whether a map, set or record has an element of this key.
pub(super) async fn has<S: Source>(
    source: &S,
    spot: &Spot<'_>,
    key: KeyBuf,
) -> Result<bool, Error<S::Error>> {
    let mut found = false;
    let is_row = spot.is_row(&key);
    let under = spot.under(key);
    if is_row {
        let mut visit = |value: Option<&[u8]>| found = value.is_some();
        source.get(under.row(), &mut visit).await.map_err(Error::Source)?;
    } else {
        let mut visit = |_: &[u8], _: &[u8]| {
            found = true;
            ControlFlow::Break(())
        };
        scan(source, &under, &under.bounds(), 1, true, &mut visit).await?;
    }
    Ok(found)
}

/// Whether a path reaches something.
pub(super) async fn reaches<S: Source>(
    source: &S,
    cx: &Cx<'_>,
    trail: Trail<'_>,
    spot: Spot<'_>,
) -> Result<bool, Error<S::Error>> {
    let mut stop = |_: &Collected, _: Raw<'_>| Ok(ControlFlow::Break(()));
    Ok(select(source, cx, trail, spot, &mut stop).await?.is_break())
}

/// What a step that collects adds.
pub(super) async fn gather<S: Source>(
    source: &S,
    cx: &Cx<'_>,
    trail: Trail<'_>,
    spot: Spot<'_>,
    amount: Amount,
) -> Result<Value, Error<S::Error>> {
    let mut found = Vec::new();
    let mut out = |collected: &Collected, value: Raw<'_>| {
        found.push(result(collected, value));
        Ok(ON)
    };
    // It wants all there is.
    let (ControlFlow::Continue(()) | ControlFlow::Break(())) =
        select(source, cx, trail, spot, &mut out).await?;
    Ok(gathered(amount, found)?)
}
