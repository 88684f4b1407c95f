//! Migrations: a `PState` takes another type, while everything runs.
//!
//! A launch that gives a `PState` a type that cannot read what is stored is refused, unless the declaration
//! says how the old values become new ones ([`Topology::pstate_migrated`]). From that launch on, every
//! read sees the new form. The rows are rewritten in the background, a few in each microbatch of the topology
//! that owns the `PState`, until none is left; a function that is declared has then been called on every value.
//!
//! ```
//! use tidemill::migrate::Migration;
//! use tidemill::module::Module;
//! use tidemill::schema::{Map, PState, Sub};
//!
//! /// The first version kept an author's posts as one value: `counter.pstate::<Map<String, Vec<String>>>("posts")`.
//! fn blog(m: &Module) -> PState<Map<String, Sub<Map<u64, String>>>> {
//!     let posts = m.depot::<(String, u64, String)>("posts_written").hash_by(|(author, ..)| author);
//!     let blog = m.microbatch(|| "blog");
//!     let by_author = blog.pstate_migrated::<Map<String, Sub<Map<u64, String>>>, _>(
//!         "posts",
//!         Migration::structure("2026-11-post-by-post", |old: Vec<String>, new| {
//!             for (number, text) in (0_u64..).zip(old) {
//!                 new.put(new.key(number), text)?;
//!             }
//!             Ok(())
//!         }),
//!     );
//!     blog.source(posts).using(by_author).for_each(async |at, by_author, (author, number, text)| {
//!         Ok(at.put(by_author.key(&author).key(number), text)?)
//!     });
//!     by_author.reader()
//! }
//! # tidemill::module::define("blog", blog).unwrap();
//! ```
//!
//! Only values migrate. Keys, and the elements of sets, stay as they are, so this does not compile:
//!
//! ```compile_fail,E0277
//! # use tidemill::migrate::Migration;
//! # use tidemill::module::Module;
//! # use tidemill::schema::Set;
//! fn wrong(m: &Module) {
//!     let blog = m.microbatch(|| "blog");
//!     let _tags = blog.pstate_migrated::<Set<u64>, u64>("tags", Migration::values("x", |tag: u64| tag));
//! }
//! ```
//!
//! # How it is done
//!
//! Values may lie under one key, two ([`Topology::pstate_migrated_within`]) or more
//! ([`Topology::pstate_migrated_at`]), in collections that count or not. The new form gets a number of its own, beside that of the old one. A *unit* is what the function is
//! called on: the value at one key. **A unit lies in exactly one of the two**, and it moves once, with the
//! transaction of a microbatch, so that a crash, an abort or a retry needs nothing of its own: what lies
//! under the old number is what is left.
//!
//! | | old number | new number |
//! |---|---|---|
//! | read of a key | if the new one has nothing there: the function, and what it made is read | first |
//! | put of a whole value, delete of a unit | delete | put, delete |
//! | write inside a structure | the unit is moved first | then written |
//! | range | what the function makes of the units in it | merged in |
//!
//! A value is read from one moment of both numbers, so no key is missed on its way.
//!
//! The head of a collection around the values, which holds its [size](crate::schema::sizes), is moved like a value that
//! stays as it is. Wherever it lies, it says how many elements there are in both forms together: since a value
//! never becomes nothing there, moving one changes no size.
//!
//! [`Topology::pstate_migrated`]: crate::module::Topology::pstate_migrated
//! [`Topology::pstate_migrated_within`]: crate::module::Topology::pstate_migrated_within
//! [`Topology::pstate_migrated_at`]: crate::module::Topology::pstate_migrated_at

use std::fmt;
use std::marker::PhantomData;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::codec::table::Trace;
use crate::codec::{self, FieldTable, KeyBuf, KeyKind, decode, encode};
use crate::module::PStateIndex;
use crate::schema::{Data, Layout, Position, Rows};
use crate::topology::{StateError, panic_message};

mod fill;
mod local;
mod scan;
mod step;
#[cfg(test)]
mod tests;
mod values;

pub use fill::{Fill, Filling};
use local::put_rows;
pub(crate) use local::run_event;
pub(crate) use scan::{Half, Halves, scan_both};
pub(crate) use step::{Stepped, step};
pub use values::{InnerValues, Values, ValuesAt};

/// How values of type `V1`, which are stored, become what is stored as `V2` at the same keys.
///
/// The function is called on a stored value whenever that is read before it was rewritten, and once more when
/// it is rewritten. So it must depend on nothing but the value, and give the same every time. It may not
/// fail: a panic makes the value unreadable, and stops the rewriting there, until a launch of a better one.
pub struct Migration<V1, V2> {
    id: String,
    apply: Arc<Apply>,
    types: PhantomData<fn(V1) -> V2>,
}

/// The rows of the new form of what is stored at a unit's key, sorted by key.
type Apply = dyn Fn(Known<'_>, &[u8], &[u8]) -> codec::Result<Rows> + Send + Sync;

/// What is known of the `PState`: the numbers of fields, and its new layout if sizes are kept in it.
#[derive(Clone, Copy)]
struct Known<'k> {
    fields: &'k FieldTable,
    sizes: Option<&'k Layout>,
}

impl<V1, V2> fmt::Debug for Migration<V1, V2> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Migration").field("id", &self.id).finish_non_exhaustive()
    }
}

impl<V1: Data, V2: Data> Migration<V1, V2> {
    /// Values become other values. `id` names the migration in its `PState` for ever: a launch with the id of
    /// one that was begun goes on with it, and with that of one that is done changes nothing.
    pub fn values(
        id: impl Into<String>,
        change: impl Fn(V1) -> V2 + Send + Sync + 'static,
    ) -> Self {
        Self::new(id.into(), move |Known { fields, .. }, unit, old| {
            let (mut value, mut rows) = (Vec::new(), Rows::new());
            encode(fields, &change(decode(fields, old)?), &mut value)?;
            rows.push(unit, &value);
            Ok(rows)
        })
    }
}

impl<V1: Data, V2: Position> Migration<V1, V2> {
    /// Values become a structure: a [`Sub`](crate::schema::Sub) or a record, which the function fills. `id` as in
    /// [`Migration::values`].
    ///
    /// Of a value that lies in a collection that counts, the function must make something: where it puts nothing,
    /// that is as if it had panicked.
    pub fn structure(
        id: impl Into<String>,
        fill: impl Fn(V1, &Fill<'_, V2>) -> Result<(), StateError> + Send + Sync + 'static,
    ) -> Self {
        Self::new(id.into(), move |known, unit, old| {
            let old = decode(known.fields, old)?;
            fill::filled(known, unit, |new| fill(old, new))
        })
    }

    fn new(
        id: String,
        apply: impl Fn(Known<'_>, &[u8], &[u8]) -> codec::Result<Rows> + Send + Sync + 'static,
    ) -> Self {
        Self { id, apply: Arc::new(apply), types: PhantomData }
    }

    /// `levels`: how many keys lead to the values.
    pub(crate) fn declare(self, levels: usize) -> Declared {
        let Self { id, apply, types: _ } = self;
        Declared { id, old_type: std::any::type_name::<V1>(), old: V1::layout, levels, apply }
    }
}

/// A migration without its types, as a module declares it.
#[derive(Clone)]
pub struct Declared {
    /// Its id.
    pub id: String,
    /// The Rust type of the old values.
    pub old_type: &'static str,
    old: fn(&mut Trace) -> codec::Result<Layout>,
    levels: usize,
    apply: Arc<Apply>,
}

impl fmt::Debug for Declared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Declared").field("id", &self.id).finish_non_exhaustive()
    }
}

impl Declared {
    /// The layout that the `PState` had, which is `new` now; adds the names in old values to `trace`.
    ///
    /// # Errors
    /// [`codec::Error::NotStorable`].
    pub(crate) fn old_layout(&self, new: &Layout, trace: &mut Trace) -> codec::Result<Layout> {
        let mut old = new.clone();
        *self.value_of(&mut old) = (self.old)(trace)?;
        Ok(old)
    }

    /// What is at the end of its keys in the layout of its `PState`.
    fn value_of<'l>(&self, layout: &'l mut Layout) -> &'l mut Layout {
        (0..self.levels).fold(layout, |at, _| match at {
            Layout::Map { value, .. } => value,
            Layout::Value(_) | Layout::Set { .. } | Layout::List { .. } | Layout::Record { .. } => {
                unreachable!("so many maps are at its root")
            }
        })
    }

    /// The migration of a `PState` of layout `new`, under way: what it has not moved yet is stored as `old`.
    pub(crate) fn begin(&self, new: &Layout, pstate: PStateIndex, old: PStateIndex) -> Move {
        let mut levels = Vec::new();
        let mut at = new;
        while let (Layout::Map { key, value, counted }, true) = (at, levels.len() < self.levels) {
            levels.push(Level { key: key.clone(), counted: *counted });
            at = value;
        }
        let is_value = matches!(at, Layout::Value(_));
        let sizes = new.keeps_sizes().then(|| new.clone());
        let (id, apply) = (self.id.clone(), Arc::clone(&self.apply));
        let is_done = AtomicBool::new(false);
        Move { id, pstate, old, levels, is_value, sizes, apply, is_done }
    }
}

/// A map on the way to what is migrated.
struct Level {
    key: KeyKind,
    /// It has a head.
    counted: bool,
}

/// A migration under way.
pub(crate) struct Move {
    pub(crate) id: String,
    /// The `PState` as its module declares it, under whose number the new form lies.
    pub(crate) pstate: PStateIndex,
    /// The place of the old number, behind those of all declared `PState`s.
    pub(crate) old: PStateIndex,
    /// The maps that lead to a unit, the outermost first.
    levels: Vec<Level>,
    /// What the function makes of a value is a value: one row, at the unit's own key.
    is_value: bool,
    /// The new layout, if sizes are kept in it.
    sizes: Option<Layout>,
    apply: Arc<Apply>,
    /// Nothing is left under the old number, and nobody looks there any more.
    is_done: AtomicBool,
}

impl fmt::Debug for Move {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Move")
            .field("id", &self.id)
            .field("pstate", &self.pstate)
            .finish_non_exhaustive()
    }
}

impl Move {
    pub(crate) fn is_done(&self) -> bool {
        self.is_done.load(Ordering::SeqCst)
    }

    pub(crate) fn note_done(&self) {
        self.is_done.store(true, Ordering::SeqCst);
    }

    /// The key of the unit that `key` lies in: `key` itself, or what it begins with. None if it names no unit.
    ///
    /// Of the ends of ranges, which need not be keys: no unit that is stored is a beginning of one for which
    /// this is none, or another unit.
    pub(crate) fn unit<'k>(&self, key: &'k [u8]) -> Option<&'k [u8]> {
        let mut rest = key;
        for level in &self.levels {
            if level.counted && rest.is_empty() {
                return Some(key);
            }
            level.key.skip(&mut rest).ok()?;
        }
        Some(&key[..key.len() - rest.len()])
    }

    /// Whether a unit is the head of a collection around values.
    pub(crate) fn is_head(&self, unit: &[u8]) -> bool {
        let mut rest = unit;
        for level in &self.levels {
            if level.counted && rest.is_empty() {
                return true;
            }
            if level.key.skip(&mut rest).is_err() {
                return false;
            }
        }
        false
    }

    /// Whether the new form of a unit is one row, at the unit's own key.
    fn is_row(&self, unit: &[u8]) -> bool {
        self.is_value || self.is_head(unit)
    }

    /// Whether a row of the new form is one of those that a unit becomes.
    fn is_of(&self, unit: &[u8], key: &[u8]) -> bool {
        key.starts_with(unit) && (key.len() == unit.len() || !self.is_row(unit))
    }

    /// The end of the rows that a unit becomes, if it is not the end of all.
    fn end_of(&self, unit: &[u8]) -> Option<Vec<u8>> {
        if self.is_row(unit) {
            // No key lies between a key and the same with a zero behind it.
            return Some([unit, &[0]].concat());
        }
        KeyBuf::from(unit).prefix_end().map(|end| end.to_vec())
    }

    /// The unit that `key` lies inside of, if there is more of it than the unit's key.
    fn cut<'k>(&self, key: &'k [u8]) -> Option<&'k [u8]> {
        self.unit(key).filter(|unit| unit.len() < key.len() && !self.is_row(unit))
    }

    /// The rows of a unit in the new form.
    ///
    /// # Errors
    /// What is stored does not decode as the old type; or the function has panicked, made what cannot be
    /// stored, or nothing of what a collection counts.
    pub(crate) fn rows(&self, fields: &FieldTable, unit: &[u8], old: &[u8]) -> codec::Result<Rows> {
        if self.is_head(unit) {
            let mut rows = Rows::new();
            rows.push(unit, old);
            return Ok(rows);
        }
        let known = Known { fields, sizes: self.sizes.as_ref() };
        let made = std::panic::catch_unwind(AssertUnwindSafe(|| (self.apply)(known, unit, old)));
        let unmigrated = |problem| codec::Error::Unmigrated { id: self.id.clone(), problem };
        let rows = made.unwrap_or_else(|payload| {
            Err(unmigrated(format!("its function panicked: {}", panic_message(&*payload))))
        })?;
        if rows.is_empty() && self.levels.last().is_some_and(|level| level.counted) {
            let problem =
                "its function makes nothing of it, and the collection around it counts it";
            return Err(unmigrated(problem.to_owned()));
        }
        Ok(rows)
    }
}

impl Move {
    /// The value of one row of a unit in the new form. Errors as [`Move::rows`].
    pub(crate) fn value(
        &self,
        fields: &FieldTable,
        unit: &[u8],
        old: &[u8],
        key: &[u8],
    ) -> codec::Result<Option<Vec<u8>>> {
        Ok(find(&self.rows(fields, unit, old)?, key).map(<[u8]>::to_vec))
    }
}

/// The value of a row.
fn find<'r>(rows: &'r Rows, key: &[u8]) -> Option<&'r [u8]> {
    rows.iter().find(|(found, _)| *found == key).map(|(_, value)| value)
}
