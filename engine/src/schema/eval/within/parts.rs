//! Parts of values, and values of parts.

use super::mismatch;
use crate::codec::value::raw::{Raw, push_list, push_map};
use crate::schema::ast::Value;
use crate::schema::eval::{Cx, Problem};

/// The items of a list; none of nil.
pub(super) fn items<'a>(value: Raw<'a>, step: &'static str) -> Result<Vec<Raw<'a>>, Problem> {
    let items = value.items()?.map_err(|found| mismatch(step, "a list", found))?;
    Ok(items.collect::<Result<_, _>>()?)
}

/// The entries of a map; none of nil.
pub(super) fn entries<'a>(
    value: Raw<'a>,
    step: &'static str,
) -> Result<Vec<(Raw<'a>, Raw<'a>)>, Problem> {
    let entries = value.entries()?.map_err(|found| mismatch(step, "a map", found))?;
    Ok(entries.collect::<Result<_, _>>()?)
}

/// A part of a list or of a map.
#[derive(Clone, Copy)]
pub(super) enum At<'a> {
    Item(Raw<'a>),
    Entry(Raw<'a>, Raw<'a>),
}

/// The items of a list or the entries of a map; none of nil.
pub(super) fn items_or_entries<'a>(
    value: Raw<'a>,
    step: &'static str,
) -> Result<Vec<At<'a>>, Problem> {
    if let Ok(items) = value.items()? {
        return Ok(items.map(|item| item.map(At::Item)).collect::<Result<_, _>>()?);
    }
    let entries = value.entries()?.map_err(|found| mismatch(step, "a list or a map", found))?;
    Ok(entries.map(|it| it.map(|(key, value)| At::Entry(key, value))).collect::<Result<_, _>>()?)
}

/// The list of these items.
pub(super) fn list(items: &[Raw<'_>]) -> Vec<u8> {
    let mut out = Vec::with_capacity(5 + items.iter().map(|it| it.bytes().len()).sum::<usize>());
    push_list(&mut out, items.len());
    for item in items {
        out.extend_from_slice(item.bytes());
    }
    out
}

/// The map of these entries.
pub(super) fn map(entries: &[(Raw<'_>, Raw<'_>)]) -> Vec<u8> {
    let mut out = Vec::new();
    push_map(&mut out, entries.len());
    for (key, value) in entries {
        out.extend_from_slice(key.bytes());
        out.extend_from_slice(value.bytes());
    }
    out
}

/// An entry as a list of two.
pub(in super::super) fn pair(key: Raw<'_>, value: Raw<'_>) -> Vec<u8> {
    list(&[key, value])
}

/// The key that a field has in its struct's map, encoded.
pub(super) fn key_of_field(cx: &Cx<'_>, of: &str, name: &str) -> Result<Vec<u8>, Problem> {
    let key = match cx.fields.of_type(of) {
        Some(names) => names.number(name, 0).map(Value::from),
        // A record that was read as one value is a map of its fields' names.
        None => cx.layout.has_field(of, name).then(|| Value::from(name)),
    };
    let key = key.ok_or_else(|| Problem::NoField { of: of.to_owned(), name: name.to_owned() })?;
    Ok(key.raw().bytes().to_vec())
}

/// Where a place counted from either end is, if there is an item.
pub(in super::super) fn place(at: i64, len: usize) -> Option<usize> {
    let from_end = usize::try_from(at.unsigned_abs()).ok();
    let at = if at < 0 { len.checked_sub(from_end?)? } else { from_end? };
    (at < len).then_some(at)
}

/// Where two places cut a list.
pub(in super::super) fn cut(from: i64, to: i64, len: usize) -> (usize, usize) {
    let clamp = |at: i64| {
        let distance = usize::try_from(at.unsigned_abs()).unwrap_or(usize::MAX);
        if at < 0 { len.saturating_sub(distance) } else { distance.min(len) }
    };
    let from = clamp(from);
    (from, clamp(to).max(from))
}

/// The places of those of `wanted` that are there, each once, in the order of `wanted`.
pub(super) fn places(wanted: &[Value], there: &[Raw<'_>]) -> Result<Vec<usize>, Problem> {
    let mut places = Vec::new();
    for wanted in wanted {
        for (at, key) in there.iter().enumerate() {
            if key.is(wanted.raw())? {
                if !places.contains(&at) {
                    places.push(at);
                }
                break;
            }
        }
    }
    Ok(places)
}
