//! Keeps the sizes of collections while an event writes: see [`sizes`](crate::schema::sizes) for what is
//! stored.
//!
//! Every write of an event goes through [`Context::put`], [`Context::delete`] or [`Context::delete_range`],
//! which learn from the layout which collection counts the row. Whether the row was there is looked up when it
//! is written, as far as memory tells. If memory does not tell, then no write of this attempt has touched the
//! key, so what lies below the attempt's writes can still be asked at the end; until then the write counts as
//! if nothing had been there. So writes never wait.
//!
//! [`Context::settle`] runs when the event ends, and before it reads a size. It fetches what memory did not
//! tell, all at once, and then writes each head that changes, from the innermost collections outward: one that
//! becomes empty, or no longer is, counts in the one around it.
//!
//! What holds between two calls of `settle`, for each collection:
//!
//! ```text
//! elements there = its head + changed - (those of `unknown` that were there)
//! ```

use std::cell::RefCell;
use std::collections::BTreeMap;

use super::read::fetch;
use super::{Access, Context, StateError};
use crate::codec::{Error as CodecError, KeyBuf};
use crate::module::PStateIndex;
use crate::schema::sizes::{Around, Place, decode_size, encode_size, impossible};
use crate::schema::{Layout, list};
use crate::types::PStateId;

/// What an event has changed since heads were written.
#[derive(Debug, Default)]
pub(super) struct Sizes(RefCell<Changes>);

#[derive(Debug, Default)]
struct Changes {
    /// By the prefix of the collection: by how much its size has changed, and what is around it.
    changed: BTreeMap<Key, (i64, Around)>,
    /// Rows of which memory does not tell whether they were there, with what counts them.
    unknown: BTreeMap<Key, Around>,
}

type Key = (PStateIndex, KeyBuf);

impl Sizes {
    #[inline]
    pub(super) fn is_settled(&self) -> bool {
        let changes = self.0.borrow();
        changes.changed.is_empty() && changes.unknown.is_empty()
    }
}

impl Changes {
    /// The innermost of `around`, whose prefix `key` begins with, has more elements, or fewer.
    fn add(&mut self, pstate: PStateIndex, key: &[u8], around: Around, more: i64) {
        if let Some((len, around)) = around.pop() {
            let collection = (pstate, KeyBuf::from(&key[..len]));
            self.changed.entry(collection).or_insert((0, around)).0 += more;
        }
    }

    /// Collections in a range of keys are gone, and what was known of them with them.
    fn forget(&mut self, pstate: PStateIndex, from: &[u8], to: Option<&[u8]>) {
        for collection in within(&self.changed, pstate, from, to, |_, _| true) {
            self.changed.remove(&collection);
        }
        // The head of a whole collection that is deleted counts for what is around it, which stays.
        let is_gone = |key: &KeyBuf, around: &Around| {
            around.pop().is_some_and(|(len, _)| from <= &key[..len])
        };
        for row in within(&self.unknown, pstate, from, to, is_gone) {
            self.unknown.remove(&row);
        }
    }
}

/// Those keys in a range that are wanted.
fn within<X>(
    map: &BTreeMap<Key, X>,
    pstate: PStateIndex,
    from: &[u8],
    to: Option<&[u8]>,
    is_wanted: impl Fn(&KeyBuf, &X) -> bool,
) -> Vec<Key> {
    map.range((pstate, KeyBuf::from(from))..)
        .take_while(|((other, key), _)| *other == pstate && to.is_none_or(|to| &**key < to))
        .filter(|((_, key), it)| is_wanted(key, it))
        .map(|(key, _)| key.clone())
        .collect()
}

impl Context<'_> {
    /// Writes a row. `was_there` says whether there was one, if that is known.
    ///
    /// # Errors
    /// As [`Local::put`](super::Local::put) and [`Local::get`](super::Local::get).
    pub(crate) fn put(
        &self,
        pstate: PStateIndex,
        key: &[u8],
        value: &[u8],
        was_there: Option<bool>,
    ) -> Result<(), StateError> {
        if let Some(layout) = self.local().sizes(pstate) {
            self.count(layout, pstate, key, was_there, true)?;
        }
        self.noted(self.local().put(pstate, key, value))
    }

    /// Deletes a row, which need not be there. `was_there` says whether it is, if that is known.
    ///
    /// # Errors
    /// As [`Context::put`].
    pub(crate) fn delete(
        &self,
        pstate: PStateIndex,
        key: &[u8],
        was_there: Option<bool>,
    ) -> Result<(), StateError> {
        if let Some(layout) = self.local().sizes(pstate) {
            self.count(layout, pstate, key, was_there, false)?;
        }
        self.noted(self.local().delete(pstate, key))
    }

    /// Deletes a whole collection, record, value or list with all that is in it, elements of a list, or any range
    /// of keys that no collection counts.
    ///
    /// # Errors
    /// As [`Context::put`].
    ///
    /// # Panics
    /// If a part of a collection that counts is deleted: [`Context::delete_counted`] is for that.
    pub(crate) fn delete_range(
        &self,
        pstate: PStateIndex,
        from: &[u8],
        to: Option<&[u8]>,
    ) -> Result<(), StateError> {
        if let Some(layout) = self.local().sizes(pstate) {
            let (place, around) = layout.place(from);
            // A list counts its own elements.
            if !around.is_empty() && place != Place::ListRow {
                let is_whole = KeyBuf::from(from).prefix_end().as_deref() == to;
                assert!(is_whole && place != Place::Between, "elements that count are counted");
                let mut marker = KeyBuf::from(from);
                if place == Place::List {
                    marker.push(list::HEAD);
                }
                self.count_row(pstate, &marker, around, None, false)?;
            }
            self.sizes().0.borrow_mut().forget(pstate, from, to);
        }
        self.noted(self.local().delete_range(pstate, from, to))
    }

    /// Deletes a range of rows that one collection has for elements, all `count` of them.
    ///
    /// # Errors
    /// As [`Local::delete_range`](super::Local::delete_range).
    pub(crate) fn delete_counted(
        &self,
        pstate: PStateIndex,
        from: &[u8],
        to: &[u8],
        count: u64,
    ) -> Result<(), StateError> {
        if let Some(layout) = self.local().sizes(pstate) {
            let (_, around) = layout.place(from);
            let fewer = -i64::try_from(count).expect("rows are fewer");
            self.sizes().0.borrow_mut().add(pstate, from, around, fewer);
        }
        self.noted(self.local().delete_range(pstate, from, Some(to)))
    }

    fn count(
        &self,
        layout: &Layout,
        pstate: PStateIndex,
        key: &[u8],
        was_there: Option<bool>,
        is_there: bool,
    ) -> Result<(), StateError> {
        let (place, around) = layout.place(key);
        match place {
            // A list is there while its head is.
            Place::Row | Place::ListHead if !around.is_empty() => {
                self.count_row(pstate, key, around, was_there, is_there)
            }
            Place::Row | Place::ListHead | Place::ListRow => Ok(()),
            Place::Collection | Place::List | Place::Between => {
                unreachable!("a path leads to a row, by keys of the kinds that their types say")
            }
        }
    }

    /// A row that `around` counts is about to be written or deleted.
    fn count_row(
        &self,
        pstate: PStateIndex,
        key: &[u8],
        around: Around,
        was_there: Option<bool>,
        is_there: bool,
    ) -> Result<(), StateError> {
        let mut was_there = was_there;
        let mut is_known = true;
        if was_there.is_none() {
            let mut visit = |value: Option<&[u8]>| was_there = Some(value.is_some());
            let asked = self.noted(self.local().get(pstate, key, &mut visit))?;
            is_known = matches!(asked, Access::Ready);
        }
        let mut changes = self.sizes().0.borrow_mut();
        if !is_known {
            changes.unknown.insert((pstate, KeyBuf::from(key)), around);
        }
        let more = i64::from(is_there) - i64::from(was_there.unwrap_or(false));
        if more != 0 {
            changes.add(pstate, key, around, more);
        }
        Ok(())
    }

    /// Whether a row is a head, which is written when the run is settled.
    pub(crate) fn is_head(&self, pstate: PStateIndex, key: &[u8]) -> bool {
        self.local().sizes(pstate).is_some_and(|it| it.place(key).0 == Place::Collection)
    }

    /// Writes the heads of all collections that have changed.
    ///
    /// # Errors
    /// [`StateError::Unavailable`]; [`StateError::Undecodable`] if a head contradicts the rows.
    pub(crate) async fn settle(&self) -> Result<(), StateError> {
        if self.sizes().is_settled() {
            return Ok(());
        }
        self.learn_unknown().await?;
        let changed: Vec<Key> = {
            let changes = self.sizes().0.borrow();
            let changed = changes.changed.iter().filter(|(_, (more, _))| *more != 0);
            changed.map(|(key, _)| key.clone()).collect()
        };
        if changed.len() > 1 {
            self.fetch_ahead(&changed).await?;
        }
        loop {
            // A collection comes after those around it, whose prefixes are the beginning of its own.
            let last = self.sizes().0.borrow().changed.last_key_value().map(|(key, _)| key.clone());
            let Some(key) = last else { return Ok(()) };
            self.write_head(key).await?;
        }
    }

    /// Looks up what memory did not tell when it was written.
    async fn learn_unknown(&self) -> Result<(), StateError> {
        let keys: Vec<Key> = self.sizes().0.borrow().unknown.keys().cloned().collect();
        self.fetch_ahead(&keys).await?;
        for (pstate, key) in keys {
            let mut was_there = false;
            loop {
                let mut visit = |value: Option<&[u8]>| was_there = value.is_some();
                match self.noted(self.local().get_below(pstate, &key, &mut visit))? {
                    Access::Ready => break,
                    Access::Miss(fetched) => self.noted(fetched.await)?,
                }
            }
            let mut changes = self.sizes().0.borrow_mut();
            if let Some(around) = changes.unknown.remove(&(pstate, key.clone()))
                && was_there
            {
                changes.add(pstate, &key, around, -1);
            }
        }
        Ok(())
    }

    async fn fetch_ahead(&self, keys: &[Key]) -> Result<(), StateError> {
        for keys in keys.chunk_by(|(one, _), (other, _)| one == other) {
            let (Some((pstate, _)), keys) = (keys.first(), keys) else { continue };
            let keys: Vec<&[u8]> = keys.iter().map(|(_, key)| key.as_slice()).collect();
            self.noted(self.local().prefetch(*pstate, &keys).await)?;
        }
        Ok(())
    }

    /// Nothing is waited for between reading the head and writing it, so code of one row that waits for several
    /// things at once does no harm.
    async fn write_head(&self, (pstate, head): Key) -> Result<(), StateError> {
        let damaged = |error: CodecError| self.undecodable(PStateId(pstate.0), error);
        let decode = |value: Option<&[u8]>| value.map_or(Ok(0), decode_size);
        let is_changed = |changes: &Changes| {
            changes.changed.get(&(pstate, head.clone())).is_some_and(|(more, _)| *more != 0)
        };
        let mut before = 0;
        if is_changed(&self.sizes().0.borrow()) {
            let found = fetch(self, PStateId(pstate.0), &head, decode).await?;
            before = found.map_err(damaged)?;
        }
        let changed = self.sizes().0.borrow_mut().changed.remove(&(pstate, head.clone()));
        let Some((more, around)) = changed.filter(|(more, _)| *more != 0) else { return Ok(()) };
        let after = before.checked_add_signed(more);
        let after = after.ok_or_else(|| damaged(impossible("a size is less than was removed")))?;
        self.noted(match after {
            0 => self.local().delete(pstate, &head),
            _ => self.local().put(pstate, &head, &encode_size(after)),
        })?;
        let is_there = i64::from(after > 0) - i64::from(before > 0);
        if is_there != 0 {
            self.sizes().0.borrow_mut().add(pstate, &head, around, is_there);
        }
        Ok(())
    }
}
