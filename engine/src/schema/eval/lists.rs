//! Lists that are stored by rows: what steps on them read. An item is found by its place in one scan for each
//! level of the list.

use std::ops::ControlFlow;

use super::rows::{Part, Span, Spot, TOO_LARGE, scan};
use super::select::{Flow, ON, gather, whole};
use super::within::{self, Sink, cut, integer, pair, place};
use super::{Amount, Cx, Error, Problem, Row, Scan, Source, Trail, Visit};
use crate::codec::value::raw::{Raw, push_list};
use crate::codec::{KeyBuf, VALUE_BYTES_MAX};
use crate::schema::ast::{Step, Value};
use crate::schema::list::{self, Head, List};
use crate::schema::plan::RangeOp;

mod change;
mod nested;

pub(super) use change::{assign, transform, whole as change_whole};
pub(super) use nested::id;

/// Goes on from a list by one step. `here` is the path with this step.
pub(super) async fn select<S: Source>(
    source: &S,
    cx: &Cx<'_>,
    trail: Trail<'_>,
    step: &Step,
    here: Trail<'_>,
    spot: Spot<'_>,
    out: &mut Sink<'_>,
) -> Flow<S::Error> {
    match step {
        Step::Nth(_) | Step::First | Step::Last if spot.nests() => {
            match nested::one(source, &spot, step).await? {
                Some(item) => super::select::select(source, cx, trail, item, out).await,
                None => Ok(ON),
            }
        }
        Step::All | Step::Indexed if spot.nests() => {
            let is_indexed = matches!(step, Step::Indexed);
            nested::each(source, cx, &trail, &spot, is_indexed, out).await
        }
        Step::Nth(_) | Step::First | Step::Last => {
            let Some(item) = item(source, &spot, step).await? else { return Ok(ON) };
            let mut flow = Ok(ON);
            let mut visit = |_: &[u8], value: &[u8]| {
                flow = within::select(cx, trail.clone(), Raw::new(value), out);
                ControlFlow::Break(())
            };
            item.visit(source, &spot, 1, &mut visit).await?;
            Ok(flow?)
        }
        Step::All | Step::Indexed => {
            let is_indexed = matches!(step, Step::Indexed);
            let mut flow = Ok(ON);
            let mut at = 0_u64;
            let mut visit = |_: &[u8], value: &[u8]| {
                let item = Raw::new(value);
                flow = if is_indexed {
                    let pair = pair(Value::from(at).raw(), item);
                    within::select(cx, trail.clone(), Raw::new(&pair), out)
                } else {
                    within::select(cx, trail.clone(), item, out)
                };
                at += 1;
                if matches!(flow, Ok(ControlFlow::Continue(()))) {
                    ON
                } else {
                    ControlFlow::Break(())
                }
            };
            each(source, &spot, &mut visit).await?;
            Ok(flow?)
        }
        Step::Index(at) => {
            let span = span(source, &spot).await?;
            let Some(at) = place(*at, span.len()) else { return Ok(ON) };
            Ok(within::select(cx, trail, Value::from(at as u64).raw(), out)?)
        }
        Step::Size => {
            let span = span(source, &spot).await?;
            Ok(within::select(cx, trail, Value::from(span.to - span.from).raw(), out)?)
        }
        Step::Sublist(..) | Step::SublistOf(..) => {
            let span = sublist(source, cx, &trail, step, &spot).await?;
            super::select::select(source, cx, trail, Spot { span: Some(span), ..spot }, out).await
        }
        Step::BeforeFirst | Step::AfterLast | Step::InsertAt(_) | Step::NewElem => Ok(ON),
        Step::Begin | Step::End => Ok(within::select(cx, trail, Raw::new(&[0x90]), out)?),
        _ => whole(source, cx, here, &spot, out).await,
    }
}

/// A list, or its span, as one value: nil if the list has no items.
pub(super) async fn read<S: Source>(
    source: &S,
    spot: &Spot<'_>,
) -> Result<Vec<u8>, Error<S::Error>> {
    if spot.nests() {
        return nested::read(source, spot).await;
    }
    let mut items = Vec::new();
    let (mut count, mut bytes) = (0_usize, 0);
    let mut visit = |_: &[u8], value: &[u8]| {
        count += 1;
        bytes += value.len();
        if bytes > VALUE_BYTES_MAX {
            return ControlFlow::Break(());
        }
        items.extend_from_slice(value);
        ON
    };
    each(source, spot, &mut visit).await?;
    if bytes > VALUE_BYTES_MAX {
        return Err(TOO_LARGE.into());
    }
    if count == 0 && spot.span.is_none_or(|span| span.is_nil) {
        return Ok(Raw::NIL.bytes().to_vec());
    }
    let mut value = Vec::with_capacity(items.len() + 5);
    push_list(&mut value, count);
    value.append(&mut items);
    Ok(value)
}

/// Where a scan for an item begins.
struct Start {
    from: KeyBuf,
    to: KeyBuf,
    reverse: bool,
    /// So many items come before it.
    skip: usize,
    /// The list has said that the item is there.
    is_counted: bool,
}

impl Start {
    /// Visits the item and those behind it, at most so many.
    async fn visit<S: Source>(
        self,
        source: &S,
        spot: &Spot<'_>,
        count: usize,
        visit: &mut Visit<'_>,
    ) -> Result<(), Error<S::Error>> {
        let part = Part { from: self.from, to: Some(self.to), limit: None, reverse: self.reverse };
        let (mut left, limit) = (self.skip, self.skip.saturating_add(count));
        let (mut missing_count, mut flow) = (count, ON);
        let mut visit = |key: &[u8], value: &[u8]| {
            if let Some(fewer) = left.checked_sub(1) {
                left = fewer;
                return ON;
            }
            missing_count -= 1;
            flow = visit(key, value);
            flow
        };
        scan(source, spot, &part, limit, false, &mut visit).await?;
        if self.is_counted && flow.is_continue() && missing_count > 0 {
            return Err(missing().into());
        }
        Ok(())
    }
}

/// Where the item begins that a step is for; none if there is none.
async fn item<S: Source>(
    source: &S,
    spot: &Spot<'_>,
    step: &Step,
) -> Result<Option<Start>, Error<S::Error>> {
    let at = place_of(step);
    // At the ends of the whole list nothing has to be counted.
    if let (0 | -1, None) = (at, spot.span) {
        let (from, to) = list::element_range(&spot.prefix);
        return Ok(Some(Start { from, to, reverse: at < 0, skip: 0, is_counted: false }));
    }
    let head = head(source, spot).await?;
    let span = spot.span.unwrap_or_else(|| Span::all(head.as_ref()));
    let Some(at) = place(at, span.len()) else { return Ok(None) };
    start(source, spot, head, span.from + at as u64).await
}

/// The place that a step is for.
fn place_of(step: &Step) -> i64 {
    match step {
        Step::Nth(at) => *at,
        Step::First => 0,
        _ => -1,
    }
}

fn missing() -> Problem {
    Problem::BadRow(list::malformed("it counts more elements than it has"))
}

/// Where the item at a place of the whole list begins.
async fn start<S: Source>(
    source: &S,
    spot: &Spot<'_>,
    head: Option<Head>,
    at: u64,
) -> Result<Option<Start>, Error<S::Error>> {
    let Some(head) = head else { return Ok(None) };
    let (_, to) = list::element_range(&spot.prefix);
    let found = List::new(&Rows { source, spot }, &spot.prefix).locate(&head, at).await;
    let found = found.map_err(failed)?;
    Ok(found.map(|(from, skip)| Start { from, to, reverse: false, skip, is_counted: true }))
}

/// Visits all items of a list or of its span, in order.
async fn each<S: Source>(
    source: &S,
    spot: &Spot<'_>,
    visit: &mut Visit<'_>,
) -> Result<(), Error<S::Error>> {
    let Some(span) = spot.span else {
        let (from, to) = list::element_range(&spot.prefix);
        let start = Start { from, to, reverse: false, skip: 0, is_counted: false };
        return start.visit(source, spot, usize::MAX, visit).await;
    };
    if span.len() == 0 {
        return Ok(());
    }
    let head = head(source, spot).await?;
    let Some(start) = start(source, spot, head, span.from).await? else { return Ok(()) };
    start.visit(source, spot, span.len(), visit).await
}

/// The span of the list that is meant: all of it, if the path has not said.
async fn span<S: Source>(source: &S, spot: &Spot<'_>) -> Result<Span, Error<S::Error>> {
    if let Some(span) = spot.span {
        return Ok(span);
    }
    Ok(Span::all(head(source, spot).await?.as_ref()))
}

async fn head<S: Source>(source: &S, spot: &Spot<'_>) -> Result<Option<Head>, Error<S::Error>> {
    List::new(&Rows { source, spot }, &spot.prefix).head().await.map_err(failed)
}

/// The span that a step takes of a list or of its span.
async fn sublist<S: Source>(
    source: &S,
    cx: &Cx<'_>,
    trail: &Trail<'_>,
    step: &Step,
    spot: &Spot<'_>,
) -> Result<Span, Error<S::Error>> {
    let (from, to) = match step {
        Step::Sublist(from, to) => (*from, *to),
        Step::SublistOf(from, to) => {
            let mut bounds = [0; 2];
            for (bound, path) in bounds.iter_mut().zip([from, to]) {
                let found =
                    gather(source, cx, trail.alone(path.steps()), spot.clone(), Amount::Any);
                let found = found.await?;
                let found = found.raw().items()?.unwrap_or_else(|_| unreachable!("it is a list"));
                let found = found.collect::<Result<Vec<_>, _>>()?;
                let [place] = found[..] else {
                    return Err(Problem::NotOne { step: "sublist_of", found: found.len() }.into());
                };
                *bound = integer(place, "sublist_of")?;
            }
            (bounds[0], bounds[1])
        }
        _ => unreachable!("no step that takes a span"),
    };
    let whole = span(source, spot).await?;
    let (from, to) = cut(from, to, whole.len());
    let at = |place: usize| whole.from + place as u64;
    Ok(Span { from: at(from), to: at(to), is_nil: whole.is_nil })
}

impl Span {
    fn all(head: Option<&Head>) -> Self {
        let to = head.map_or(0, Head::count);
        Self { from: 0, to, is_nil: to == 0 }
    }

    fn len(self) -> usize {
        usize::try_from(self.to - self.from).unwrap_or(usize::MAX)
    }
}

/// The rows of a list, as its own code reads them.
struct Rows<'s, 'l, S> {
    source: &'s S,
    spot: &'s Spot<'l>,
}

impl<S: Source> list::Rows for Rows<'_, '_, S> {
    type Error = S::Error;

    async fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, S::Error> {
        let mut found = None;
        let mut visit = |value: Option<&[u8]>| found = value.map(<[u8]>::to_vec);
        self.source.get(Row { key, first_bytes: self.spot.first_bytes }, &mut visit).await?;
        Ok(found)
    }

    async fn scan(&self, range: &RangeOp) -> Result<Vec<list::Row>, S::Error> {
        let mut found = Vec::new();
        if range.to.as_ref().is_some_and(|to| *to <= range.from) {
            return Ok(found);
        }
        let mut visit = |key: &[u8], value: &[u8]| {
            found.push((key.to_vec(), value.to_vec()));
            ON
        };
        let limit = range.limit.and_then(|limit| usize::try_from(limit).ok());
        let scan = Scan {
            from: Row { key: &range.from, first_bytes: self.spot.first_bytes },
            to: range.to.as_deref(),
            reverse: range.reverse,
            limit: limit.unwrap_or(usize::MAX),
            keys_only: range.keys_only,
        };
        self.source.scan(scan, &mut visit).await?;
        Ok(found)
    }
}

/// A list's rows are damaged, or cannot be had.
fn failed<E>(error: list::Error<E>) -> Error<E> {
    match error {
        list::Error::Rows(error) => Error::Source(error),
        list::Error::Malformed(problem) => Problem::BadRow(list::malformed(problem)).into(),
        list::Error::Beyond { .. } => {
            Problem::BadRow(list::malformed("it has fewer elements than a moment ago")).into()
        }
    }
}
