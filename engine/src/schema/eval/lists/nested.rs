//! Lists whose items are collections: their items by the ids that stand at their places.

use std::ops::ControlFlow;

use super::super::rows::{Part, Spot, TOO_LARGE, read_all};
use super::super::select::{Flow, ON, select, value_of};
use super::super::within::{self, Sink, pair};
use super::super::{Cx, Error, Problem, Source, Trail};
use super::{Start, head, item, missing, start};
use crate::codec::value::raw::{Raw, push_list};
use crate::codec::{KeyBuf, VALUE_BYTES_MAX};
use crate::env::LocalFuture;
use crate::schema::ast::{Step, Value};
use crate::schema::list;

/// The item that a step is for; none if there is none.
pub(super) fn one<'a, 'l, S: Source>(
    source: &'a S,
    spot: &'a Spot<'l>,
    step: &'a Step,
) -> LocalFuture<'a, Result<Option<Spot<'l>>, Error<S::Error>>> {
    Box::pin(async move {
        let Some(start) = item(source, spot, step).await? else { return Ok(None) };
        let mut found = None;
        let mut visit = |_: &[u8], value: &[u8]| {
            found = Some(id(value));
            ControlFlow::Break(())
        };
        start.visit(source, spot, 1, &mut visit).await?;
        let found = found.transpose()?;
        Ok(found.map(|id| spot.item(id)))
    })
}

/// Goes on from each item of a list or of its span, in order; if `is_indexed` from each place and item.
pub(super) fn each<'a, S: Source>(
    source: &'a S,
    cx: &'a Cx<'a>,
    trail: &'a Trail<'a>,
    spot: &'a Spot<'a>,
    is_indexed: bool,
    out: &'a mut Sink<'_>,
) -> LocalFuture<'a, Flow<S::Error>> {
    Box::pin(async move {
        let mut items = Items::of(source, spot).await?;
        let mut at = 0_u64;
        loop {
            let page = items.page(source, spot).await?;
            if page.is_empty() {
                return Ok(ON);
            }
            for item in page {
                let flow = if is_indexed {
                    let value = value_of(source, &item).await?;
                    let pair = pair(Value::from(at).raw(), Raw::new(&value));
                    within::select(cx, trail.clone(), Raw::new(&pair), out)?
                } else {
                    select(source, cx, trail.clone(), item, out).await?
                };
                if flow.is_break() {
                    return Ok(flow);
                }
                at += 1;
            }
        }
    })
}

/// A list, or its span, as one value: nil if the list has no items.
pub(super) fn read<'a, S: Source>(
    source: &'a S,
    spot: &'a Spot<'_>,
) -> LocalFuture<'a, Result<Vec<u8>, Error<S::Error>>> {
    Box::pin(async move {
        let Some(span) = spot.span else { return read_all(source, spot).await };
        let (mut count, mut found) = (0, Vec::new());
        let mut items = Items::of(source, spot).await?;
        loop {
            let page = items.page(source, spot).await?;
            if page.is_empty() {
                break;
            }
            for item in page {
                found.append(&mut value_of(source, &item).await?);
                count += 1;
                if found.len() > VALUE_BYTES_MAX {
                    return Err(TOO_LARGE.into());
                }
            }
        }
        if count == 0 && span.is_nil {
            return Ok(Raw::NIL.bytes().to_vec());
        }
        let mut value = Vec::with_capacity(found.len() + 5);
        push_list(&mut value, count);
        value.append(&mut found);
        Ok(value)
    })
}

/// The items of a list or of its span, in order: those of some places are looked up at once.
struct Items {
    from: KeyBuf,
    to: KeyBuf,
    skip: usize,
    left: usize,
}

impl Items {
    async fn of<S: Source>(source: &S, spot: &Spot<'_>) -> Result<Self, Error<S::Error>> {
        let (from, to) = list::element_range(&spot.prefix);
        let Some(span) = spot.span else {
            return Ok(Self { from, to, skip: 0, left: usize::MAX });
        };
        if span.len() == 0 {
            return Ok(Self { from, to, skip: 0, left: 0 });
        }
        let head = head(source, spot).await?;
        let found = start(source, spot, head, span.from).await?;
        let Start { from, to, skip, .. } = found.ok_or_else(missing)?;
        Ok(Self { from, to, skip, left: span.len() })
    }

    /// The next ones; none at the end.
    async fn page<'l, S: Source>(
        &mut self,
        source: &S,
        spot: &Spot<'l>,
    ) -> Result<Vec<Spot<'l>>, Error<S::Error>> {
        let count = self.left.min(PAGE_ITEMS);
        if count == 0 {
            return Ok(Vec::new());
        }
        let mut found = Vec::new();
        let mut last = None;
        let mut skip = self.skip;
        let mut visit = |key: &[u8], value: &[u8]| {
            if let Some(fewer) = skip.checked_sub(1) {
                skip = fewer;
                return ON;
            }
            last = Some(KeyBuf::from(key));
            found.push(id(value));
            ON
        };
        let (from, to) = (self.from.clone(), Some(self.to.clone()));
        let part = Part { from, to, limit: None, reverse: false };
        let limit = self.skip + count;
        super::super::rows::scan(source, spot, &part, limit, false, &mut visit).await?;
        let is_last = found.len() < count;
        if is_last && self.left != usize::MAX {
            return Err(missing().into());
        }
        self.skip = 0;
        self.left = match last.and_then(KeyBuf::prefix_end) {
            Some(behind) if !is_last => {
                self.from = behind;
                if self.left == usize::MAX { usize::MAX } else { self.left - count }
            }
            _ => 0,
        };
        let found = found.into_iter().map(|id| id.map(|id| spot.item(id)));
        Ok(found.collect::<Result<_, Problem>>()?)
    }
}

/// The id in the row of an item.
pub(in super::super) fn id(value: &[u8]) -> Result<u64, Problem> {
    list::decode_id(value).map_err(|problem| Problem::BadRow(list::malformed(problem)))
}

/// So many ids are read at once.
const PAGE_ITEMS: usize = 64;
