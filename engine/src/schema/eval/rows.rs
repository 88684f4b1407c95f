//! Collections as rows, rows as one value, and back.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::ops::{Bound, ControlFlow};
use std::rc::Rc;

use super::keys::{Keys, field, no_row};
use super::lists::id;
use super::{Cx, Error, Problem, Row, Scan, Source, Visit};
use crate::codec::value::raw::{Kind, Raw, push_list, push_map};
use crate::codec::{KEY_BYTES_MAX, KeyBuf, VALUE_BYTES_MAX};
use crate::schema::ast::Value;
use crate::schema::layout::Layout;
use crate::schema::list;
use crate::schema::sizes::{Place, first_element};

/// A place in the rows: a row, or a collection or a part of it.
#[derive(Clone, Debug)]
pub(super) struct Spot<'l> {
    /// What all its keys begin with; of a row, its key.
    pub(super) prefix: KeyBuf,
    /// How many bytes of it are the first key; 0 for the whole `PState`.
    pub(super) first_bytes: usize,
    pub(super) layout: &'l Layout,
    /// Of a map or set: `None` if it is the whole collection.
    pub(super) part: Option<Part>,
    /// Of a list: `None` if it is the whole list.
    pub(super) span: Option<Span>,
    /// Of an item of a list, or a part of it: whether the item has become nothing, upon which the list loses it. An
    /// item that is empty stays.
    pub(super) gone: Option<Rc<Cell<bool>>>,
}

/// Those items of a list whose places lie in a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Span {
    pub(super) from: u64,
    /// Not below `from`, nor above the length.
    pub(super) to: u64,
    /// The list has no items at all, which is nil and not an empty part of a list.
    pub(super) is_nil: bool,
}

/// Those elements of a collection whose keys lie in a range.
#[derive(Clone, Debug)]
pub(super) struct Part {
    pub(super) from: KeyBuf,
    pub(super) to: Option<KeyBuf>,
    pub(super) limit: Option<usize>,
    pub(super) reverse: bool,
}

impl<'l> Spot<'l> {
    pub(super) fn root(layout: &'l Layout) -> Self {
        let (prefix, first_bytes) = (KeyBuf::new(), 0);
        Self { prefix, first_bytes, layout, part: None, span: None, gone: None }
    }

    /// What hangs under the item of an id, of a list of collections.
    pub(super) fn item(&self, id: u64) -> Self {
        let Layout::List { item } = self.layout else { unreachable!("lists have items") };
        Self {
            prefix: list::under(&self.prefix, id),
            first_bytes: self.first_bytes,
            layout: item,
            part: None,
            span: None,
            gone: Some(Rc::default()),
        }
    }

    /// Whether it is a list whose items are collections.
    pub(super) fn nests(&self) -> bool {
        matches!(self.layout, Layout::List { item } if !matches!(**item, Layout::Value(_)))
    }

    /// Says of an item, of all of it, that it has become nothing, or that it is there.
    pub(super) fn set_gone(&self, is_gone: bool) {
        if let (Some(gone), None, None) = (&self.gone, &self.part, &self.span) {
            gone.set(is_gone);
        }
    }

    /// Whether it is an item that has become nothing.
    pub(super) fn is_gone(&self) -> bool {
        self.gone.as_ref().is_some_and(|gone| gone.get())
    }

    pub(super) fn row(&self) -> Row<'_> {
        Row { key: &self.prefix, first_bytes: self.first_bytes }
    }

    /// What the elements of a map, set or record are found by.
    pub(super) fn keys(&self) -> Keys<'l> {
        Keys::of(self.layout)
    }

    /// The key of an element, with all that is before it.
    pub(super) fn key(&self, key: Raw<'_>) -> Result<KeyBuf, Problem> {
        let mut out = self.prefix.clone();
        self.keys().push(key, &mut out)?;
        Ok(out)
    }

    /// The key of a record's field.
    pub(super) fn field(&self, of: &str, name: &str) -> Result<KeyBuf, Problem> {
        let unknown = |_| Problem::NoField { of: of.to_owned(), name: name.to_owned() };
        match self.key(Value::from(name).raw()) {
            Err(Problem::BadKey { source, .. }) => Err(unknown(source)),
            key => key,
        }
    }

    /// What is under an element's key; of a set, the element's row. Of a record, the field is one of its own.
    pub(super) fn under(&self, key: KeyBuf) -> Self {
        let first_bytes = if self.first_bytes == 0 { key.len() } else { self.first_bytes };
        let layout = match self.layout {
            Layout::Map { value, .. } => value,
            Layout::Record { fields, .. } => {
                let found = field(fields, &key[self.prefix.len()..]);
                &found.expect("lost fields are passed over").layout
            }
            Layout::Set { .. } | Layout::Value(_) | Layout::List { .. } => self.layout,
        };
        Self { prefix: key, first_bytes, layout, part: None, span: None, gone: None }
    }

    /// Where its elements begin: what it stores besides lies elsewhere.
    fn elements_from(&self) -> KeyBuf {
        match self.layout {
            Layout::List { .. } => list::element_range(&self.prefix).0,
            Layout::Map { counted: true, .. } | Layout::Set { counted: true, .. } => {
                first_element(&self.prefix)
            }
            // One in a collection that counts has a head.
            Layout::Record { .. } => first_element(&self.prefix),
            Layout::Map { .. } | Layout::Set { .. } | Layout::Value(_) => self.prefix.clone(),
        }
    }

    /// Its range of keys, and in which direction and how many of its elements.
    pub(super) fn bounds(&self) -> Part {
        self.part.clone().unwrap_or_else(|| Part {
            from: self.elements_from(),
            to: match self.layout {
                Layout::List { .. } => Some(list::element_range(&self.prefix).1),
                _ => self.prefix.clone().prefix_end(),
            },
            limit: None,
            reverse: false,
        })
    }

    /// All that hangs under it: its elements, and what it stores besides; or its part.
    pub(super) fn all_rows(&self) -> Part {
        self.part.clone().unwrap_or_else(|| Part {
            from: self.prefix.clone(),
            to: self.prefix.clone().prefix_end(),
            limit: None,
            reverse: false,
        })
    }

    /// Whether it has a head: a row before those of its elements that says how many there are.
    pub(super) fn is_counted(&self) -> bool {
        match self.layout {
            Layout::Map { counted, .. } | Layout::Set { counted, .. } => *counted,
            Layout::Value(_) | Layout::List { .. } | Layout::Record { .. } => false,
        }
    }

    pub(super) fn is_limited(&self) -> bool {
        self.part.as_ref().is_some_and(|part| part.limit.is_some())
    }

    /// Whether the keys of the part, if it has no limit, include this one.
    pub(super) fn includes(&self, key: &KeyBuf) -> bool {
        self.part
            .as_ref()
            .is_none_or(|part| part.from <= *key && part.to.as_ref().is_none_or(|to| key < to))
    }

    /// The elements with one key: one or none.
    pub(super) fn only(&self, key: KeyBuf) -> Self {
        let to = key.clone().prefix_end();
        let part = Part { from: key, to, limit: None, reverse: false };
        Self { part: Some(part), ..self.clone() }
    }

    /// Those of its elements that a range includes; it has no limit.
    pub(super) fn range(
        &self,
        from: &Bound<Value>,
        to: &Bound<Value>,
        limit: Option<u64>,
        reverse: bool,
    ) -> Result<Self, Problem> {
        let whole = self.bounds();
        let lowest = match from {
            Bound::Included(key) => Some(self.key(key.raw())?),
            // Behind all that is under the key.
            Bound::Excluded(key) => self.key(key.raw())?.prefix_end(),
            Bound::Unbounded => Some(whole.from.clone()),
        };
        let end = match to {
            Bound::Included(key) => self.key(key.raw())?.prefix_end(),
            Bound::Excluded(key) => Some(self.key(key.raw())?),
            Bound::Unbounded => whole.to.clone(),
        };
        let to = match (end, whole.to) {
            (Some(end), Some(whole)) => Some(end.min(whole)),
            (end, whole) => end.or(whole),
        };
        // Behind the last key there is nothing: the empty range there is at the end of the whole.
        let from = match lowest {
            Some(lowest) => lowest.max(whole.from),
            None => to.clone().unwrap_or(whole.from),
        };
        let to = if lowest_is_end(&from, to.as_ref()) { Some(from.clone()) } else { to };
        let limit = limit.map(|limit| usize::try_from(limit).unwrap_or(usize::MAX));
        Ok(Self { part: Some(Part { from, to, limit, reverse }), ..self.clone() })
    }

    /// The value that the key of an element is.
    pub(super) fn key_value(&self, key: &[u8]) -> Result<Vec<u8>, Problem> {
        let mut out = Vec::new();
        self.keys().value(self.after_prefix(key)?, &mut out)?;
        Ok(out)
    }

    /// The key of the element that a row belongs to.
    pub(super) fn element(&self, row: &[u8]) -> Result<KeyBuf, Problem> {
        let bytes = self.keys().bytes(self.after_prefix(row)?)?;
        Ok(KeyBuf::from(&row[..self.prefix.len() + bytes]))
    }

    /// Whether a row, or all under it, belongs to one of its elements, and not to a field that it lost.
    pub(super) fn knows(&self, row: &[u8]) -> bool {
        row.get(self.prefix.len()..).is_some_and(|key| self.keys().know(key))
    }

    fn after_prefix<'k>(&self, key: &'k [u8]) -> Result<&'k [u8], Problem> {
        key.get(self.prefix.len()..)
            .ok_or_else(|| no_row("a row's key is shorter than the path to it"))
    }

    /// Whether each element is one row.
    pub(super) fn is_flat(&self) -> bool {
        match self.layout {
            Layout::Map { value, .. } => matches!(**value, Layout::Value(_)),
            Layout::Record { fields, .. } => {
                fields.iter().all(|it| it.gone || matches!(it.layout, Layout::Value(_)))
            }
            Layout::List { .. } | Layout::Set { .. } | Layout::Value(_) => true,
        }
    }

    /// Whether the element with this key is one row.
    pub(super) fn is_row(&self, key: &KeyBuf) -> bool {
        match self.layout {
            Layout::Set { .. } | Layout::List { .. } | Layout::Value(_) => true,
            Layout::Map { .. } | Layout::Record { .. } => {
                matches!(self.under(key.clone()).layout, Layout::Value(_))
            }
        }
    }
}

fn lowest_is_end(from: &KeyBuf, to: Option<&KeyBuf>) -> bool {
    to.is_some_and(|to| to <= from)
}

/// Rows of a collection, in the order of their keys.
pub(super) type Rows = BTreeMap<Vec<u8>, Vec<u8>>;

/// The keys of the elements of a collection, in its order, one seek for each; `next` starts behind the
/// one before.
pub(super) struct Elements {
    part: Part,
    is_done: bool,
}

impl Elements {
    pub(super) fn of(spot: &Spot<'_>) -> Self {
        Self { part: spot.bounds(), is_done: false }
    }

    pub(super) async fn next<S: Source>(
        &mut self,
        source: &S,
        spot: &Spot<'_>,
    ) -> Result<Option<KeyBuf>, Error<S::Error>> {
        loop {
            let part = &self.part;
            if self.is_done || part.limit == Some(0) {
                return Ok(None);
            }
            let mut found = None;
            let mut visit = |key: &[u8], _: &[u8]| {
                found = Some(spot.element(key));
                ControlFlow::Break(())
            };
            scan(source, spot, part, 1, true, &mut visit).await?;
            let Some(element) = found.transpose()? else { return Ok(None) };
            let is_known = spot.knows(&element);
            self.advance(&element, usize::from(is_known));
            if is_known {
                return Ok(Some(element));
            }
        }
    }

    /// The next ones, at most `count`, which must be some; where they are rows, in one scan.
    pub(super) async fn page<S: Source>(
        &mut self,
        source: &S,
        spot: &Spot<'_>,
        count: usize,
    ) -> Result<Vec<KeyBuf>, Error<S::Error>> {
        let mut page = Vec::new();
        if !spot.is_flat() {
            while page.len() < count
                && let Some(element) = self.next(source, spot).await?
            {
                page.push(element);
            }
            return Ok(page);
        }
        if self.is_done {
            return Ok(page);
        }
        let mut visit = |key: &[u8], _: &[u8]| {
            page.push(KeyBuf::from(key));
            ControlFlow::Continue(())
        };
        let limit = self.part.limit.unwrap_or(count).min(count);
        scan(source, spot, &self.part, limit, true, &mut visit).await?;
        if let Some(last) = page.last() {
            self.advance(last, page.len());
        }
        Ok(page)
    }

    /// Goes on behind `last`, after so many elements.
    fn advance(&mut self, last: &KeyBuf, count: usize) {
        let part = &mut self.part;
        part.limit = part.limit.map(|limit| limit - count);
        if part.reverse {
            part.to = Some(last.clone());
        } else {
            match last.clone().prefix_end() {
                Some(from) => part.from = from,
                None => self.is_done = true,
            }
        }
    }
}

/// Visits rows of a collection, at most `limit`.
pub(super) async fn scan<S: Source>(
    source: &S,
    spot: &Spot<'_>,
    part: &Part,
    limit: usize,
    keys_only: bool,
    visit: &mut Visit<'_>,
) -> Result<(), Error<S::Error>> {
    if lowest_is_end(&part.from, part.to.as_ref()) || limit == 0 {
        return Ok(());
    }
    let scan = Scan {
        from: Row { key: &part.from, first_bytes: spot.first_bytes },
        to: part.to.as_deref(),
        reverse: part.reverse,
        limit,
        keys_only,
    };
    source.scan(scan, visit).await.map_err(Error::Source)
}

/// All rows of a map, set or record, or of its part, and the value that they are: nil if there are none.
pub(super) async fn read<S: Source>(
    source: &S,
    spot: &Spot<'_>,
) -> Result<(Rows, Vec<u8>), Error<S::Error>> {
    let part = spot.bounds();
    let mut rows = Rows::new();
    if spot.is_flat() {
        let limit = part.limit.unwrap_or(usize::MAX);
        add(source, spot, &part, limit, &mut rows).await?;
    } else if part.limit.is_none() {
        add(source, spot, &Part { reverse: false, ..part.clone() }, usize::MAX, &mut rows).await?;
    } else {
        let mut elements = Elements::of(spot);
        while let Some(element) = elements.next(source, spot).await? {
            let inner = spot.under(element);
            add(source, &inner, &inner.all_rows(), usize::MAX, &mut rows).await?;
        }
    }
    let mut value = Vec::new();
    let all: Vec<_> = rows.iter().map(|(key, value)| (key.as_slice(), value.as_slice())).collect();
    assemble(spot, &all, part.reverse, &mut value)?;
    Ok((rows, value))
}

/// All that hangs under a spot, as one value: nil if nothing does.
pub(super) async fn read_all<S: Source>(
    source: &S,
    spot: &Spot<'_>,
) -> Result<Vec<u8>, Error<S::Error>> {
    let (mut rows, mut value) = (Rows::new(), Vec::new());
    add(source, spot, &spot.all_rows(), usize::MAX, &mut rows).await?;
    let rows: Vec<_> = rows.iter().map(|(key, value)| (key.as_slice(), value.as_slice())).collect();
    assemble(spot, &rows, false, &mut value)?;
    Ok(value)
}

async fn add<S: Source>(
    source: &S,
    spot: &Spot<'_>,
    part: &Part,
    limit: usize,
    rows: &mut Rows,
) -> Result<(), Error<S::Error>> {
    let mut bytes: usize = rows.iter().map(|(key, value)| key.len() + value.len()).sum();
    let keeps_sizes = spot.layout.keeps_sizes();
    let mut visit = |key: &[u8], value: &[u8]| {
        // Heads follow from the elements, and rows of lost fields are nobody's.
        let place = || key.get(spot.prefix.len()..).map(|rest| spot.layout.place(rest).0);
        if keeps_sizes && matches!(place(), Some(Place::Collection | Place::Between)) {
            return ControlFlow::Continue(());
        }
        bytes += key.len() + value.len();
        if bytes > VALUE_BYTES_MAX {
            return ControlFlow::Break(());
        }
        rows.insert(key.to_vec(), value.to_vec());
        ControlFlow::Continue(())
    };
    scan(source, spot, part, limit, false, &mut visit).await?;
    if bytes > VALUE_BYTES_MAX { Err(TOO_LARGE.into()) } else { Ok(()) }
}

/// Appends the value that rows are.
fn assemble(
    spot: &Spot<'_>,
    mut rows: &[(&[u8], &[u8])],
    reverse: bool,
    out: &mut Vec<u8>,
) -> Result<(), Problem> {
    if matches!(spot.layout, Layout::List { .. }) {
        return items(spot, rows, out);
    }
    let mut elements = Vec::new();
    while let Some((key, _)) = rows.first() {
        let element = spot.element(key)?;
        let count = rows.partition_point(|(key, _)| key.starts_with(&element));
        let (own, rest) = rows.split_at(count.max(1));
        rows = rest;
        if spot.knows(&element) {
            elements.push((element, own));
        }
    }
    if reverse {
        elements.reverse();
    }
    match spot.layout {
        _ if elements.is_empty() => out.push(0xc0),
        Layout::Value(_) | Layout::List { .. } => unreachable!("it has no keys"),
        Layout::Set { .. } => {
            push_list(out, elements.len());
            for (element, _) in elements {
                out.extend(spot.key_value(&element)?);
            }
        }
        Layout::Map { .. } | Layout::Record { .. } => {
            push_map(out, elements.len());
            for (element, own) in elements {
                out.extend(spot.key_value(&element)?);
                let under = spot.under(element);
                match (under.layout, own) {
                    (Layout::Value(_), [(_, value), ..]) => out.extend_from_slice(value),
                    _ => assemble(&under, own, false, out)?,
                }
            }
        }
    }
    Ok(())
}

/// The key and value of a row.
type Borrowed<'r> = (&'r [u8], &'r [u8]);

/// Appends the value that the rows of a list are.
fn items(spot: &Spot<'_>, rows: &[(&[u8], &[u8])], out: &mut Vec<u8>) -> Result<(), Problem> {
    let mut items = Vec::new();
    // By the ids of the items that it hangs under.
    let mut under: BTreeMap<u64, Vec<Borrowed<'_>>> = BTreeMap::new();
    for &(key, value) in rows {
        match list::key_part(spot.after_prefix(key)?) {
            Some((list::KeyPart::Element(_), [])) => items.push(value),
            Some((list::KeyPart::Head | list::KeyPart::Block { .. }, [])) => {}
            Some((list::KeyPart::Under(id), _)) if spot.nests() => {
                under.entry(id).or_default().push((key, value));
            }
            _ => return Err(no_row("it is no row of a list")),
        }
    }
    if items.is_empty() {
        out.push(0xc0);
        return Ok(());
    }
    push_list(out, items.len());
    for item in items {
        if spot.nests() {
            let id = id(item)?;
            let rows = under.remove(&id).unwrap_or_default();
            assemble(&spot.item(id), &rows, false, out)?;
        } else {
            out.extend_from_slice(item);
        }
    }
    // What is left was written under an item that is gone: no path leads there, and it is no part of the list.
    Ok(())
}

/// Adds the rows that a value is as what lies at `spot`. All of them are what typed code can read.
pub(super) fn explode(
    cx: &Cx<'_>,
    spot: &Spot<'_>,
    value: Raw<'_>,
    rows: &mut Rows,
) -> Result<(), Problem> {
    let wrong = |expected, found| Problem::Mismatch { step: "set", expected, found };
    match spot.layout {
        Layout::Value(_) => {
            spot.check(cx, value.bytes())?;
            rows.insert(spot.prefix.to_vec(), value.bytes().to_vec());
        }
        Layout::Set { .. } => {
            let items = value.items()?.map_err(|found| wrong(STORED_SET, found))?;
            for item in items {
                rows.insert(spot.key(item?)?.to_vec(), Vec::new());
            }
        }
        Layout::List { .. } => {
            let items = value.items()?.map_err(|found| wrong(STORED_LIST, found))?;
            let items = items.collect::<Result<Vec<_>, _>>()?;
            if spot.nests() {
                spot.check_list_keys()?;
                rows.extend(list::rows_of_new(&spot.prefix, items.len()));
                for (id, item) in (0..).zip(items) {
                    explode(cx, &spot.item(id), item, rows)?;
                }
                return Ok(());
            }
            items.iter().try_for_each(|item| spot.check(cx, item.bytes()))?;
            spot.check_list_keys()?;
            rows.extend(list::rows_of(&spot.prefix, items.iter().map(|item| item.bytes())));
        }
        Layout::Map { .. } | Layout::Record { .. } => {
            let entries = value.entries()?.map_err(|found| wrong(STORED_MAP, found))?;
            for entry in entries {
                let (key, value) = entry?;
                let under = spot.under(spot.key(key)?);
                // Of two entries with one key the last one counts.
                let before = rows.range(under.prefix.to_vec()..).map(|(key, _)| key);
                let before = before.take_while(|key| key.starts_with(&under.prefix));
                for key in before.cloned().collect::<Vec<_>>() {
                    rows.remove(&key);
                }
                explode(cx, &under, value, rows)?;
            }
        }
    }
    Ok(())
}

impl Spot<'_> {
    /// Asserts that typed code can read a value that is to be stored: in this row, or as an item of this list.
    pub(super) fn check(&self, cx: &Cx<'_>, value: &[u8]) -> Result<(), Problem> {
        let kind = match self.layout {
            Layout::Value(kind) => kind,
            Layout::List { item } => match &**item {
                Layout::Value(kind) => kind,
                _ => unreachable!("items are values"),
            },
            Layout::Map { .. } | Layout::Set { .. } | Layout::Record { .. } => {
                unreachable!("what is stored in it has keys")
            }
        };
        kind.check(cx.fields, value).map_err(|source| Problem::WrongType { source })
    }

    /// Asserts that the keys of a list's rows are not too long.
    pub(super) fn check_list_keys(&self) -> Result<(), Problem> {
        match self.prefix.len() + list::KEY_BYTES {
            bytes if bytes > KEY_BYTES_MAX => Err(Problem::KeyTooLong { bytes }),
            _ => Ok(()),
        }
    }
}

/// Whether a value is nothing at all, as far as a collection is concerned.
pub(super) fn is_nil(value: Raw<'_>) -> Result<bool, Problem> {
    Ok(value.kind()? == Kind::Nil)
}

const STORED_SET: &str = "a list, for a set that is stored by rows";

const STORED_LIST: &str = "a list, for one that is stored by rows";

const STORED_MAP: &str = "a map, for one that is stored by rows";

pub(super) const TOO_LARGE: Problem =
    Problem::TooMuch("a collection of more than 16 MiB as one value: go on with a range");
