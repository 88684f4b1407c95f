//! What steps can go on from, and what they can be given.

#![allow(
    clippy::disallowed_types,
    reason = "values of users may be hash maps and sets; nothing here looks at their order"
)]

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fmt;
use std::marker::PhantomData;

use crate::schema::{Data, Field, List, Map, Record, Set, Sub};

/// Where entries are: maps, stored by element or as one value.
#[diagnostic::on_unimplemented(
    message = "`{Self}` has no keys to go to",
    label = "not a map",
    note = "`.key(k)`, `.must(k)`, `.keys()`, `.values()` and `.entries()` go on from a `Sub<Map<K, V>>` or a `BTreeMap<K, V>`; \
            of a struct, `.field(|it| it.name)`; of a list or set, `.all()`"
)]
pub trait Entries {
    /// Its keys.
    type Key: Data + Sync;
    /// Its values.
    type Value;
}

/// Where items are in an order: lists and sets, stored by element or as one value.
#[diagnostic::on_unimplemented(
    message = "`{Self}` has no items to go to",
    label = "not a list or set",
    note = "`.all()`, `.nth(i)`, `.first()` and their like go on from a `Sub<List<T>>`, a `Sub<Set<E>>`, a `Vec<T>` or a \
            `BTreeSet<E>`; of a map, `.values()`, `.keys()` or `.entries()`"
)]
pub trait Items {
    /// One of them.
    type Item;
}

/// Where elements are: sets, stored by element or as one value.
#[diagnostic::on_unimplemented(
    message = "`{Self}` has no elements to go to",
    label = "not a set",
    note = "`.elem(e)`, `.new_elem()` and `.sub_set(..)` go on from a `Sub<Set<E>>` or a `BTreeSet<E>`"
)]
pub trait Elements {
    /// One of them.
    type Element: Data + Sync;
}

/// Where ranges of keys are: maps and sets that are sorted.
#[diagnostic::on_unimplemented(
    message = "`{Self}` has no ranges of keys",
    label = "not a map or set that is sorted",
    note = "`.range(a..b)`, `.lowest(n, ..)` and `.highest(n, ..)` go on from maps and sets; of a list, `.sublist(i, j)`"
)]
pub trait Sorted {
    /// What it is sorted by.
    type Sorted: Data + Sync;
}

/// A struct whose fields steps can go to: a value that derives [`Fields`](derive@crate::schema::Fields), or a
/// [record](crate::schema::record).
#[diagnostic::on_unimplemented(
    message = "`{Self}` has no fields that steps can go to",
    label = "no struct with known fields",
    note = "derive `tidemill::schema::Fields` beside serde's traits for a value, or `tidemill::schema::Schema` for a record \
            whose fields are stored one by one"
)]
pub trait Fields {
    /// A [`Part`] or [`Field`] for each field, by its name.
    type All;

    /// All fields.
    fn all() -> Self::All;
}

/// A field of the struct `R`, which is one value, at which `F` is.
pub struct Part<R, F> {
    of: &'static str,
    name: &'static str,
    types: PhantomData<fn() -> (R, F)>,
}

impl<R, F> Part<R, F> {
    /// For the derive: the names that serde gives the struct and the field.
    #[must_use]
    pub const fn new(of: &'static str, name: &'static str) -> Self {
        Self { of, name, types: PhantomData }
    }
}

impl<R, F> Clone for Part<R, F> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<R, F> Copy for Part<R, F> {}

impl<R, F> fmt::Debug for Part<R, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.of, self.name)
    }
}

/// A field by its names.
pub trait Named {
    /// What is there.
    type To;

    /// The name of the struct, and of the field.
    fn names(&self) -> (&'static str, &'static str);
}

impl<R, F> Named for Part<R, F> {
    type To = F;

    fn names(&self) -> (&'static str, &'static str) {
        (self.of, self.name)
    }
}

impl<R: Record, F> Named for Field<R, F> {
    type To = F;

    fn names(&self) -> (&'static str, &'static str) {
        (R::NAME, self.name())
    }
}

macro_rules! kinds {
    ($(<$($parameter:ident),*> $type:ty, $kind:ident { $($name:ident = $is:ty),* } $(if $($bounded:ident: $bound:path),*)?;)*) => { $(
        impl<$($parameter),*> $kind for $type
        where
            $($($bounded: $bound + Sync,)*)?
        {
            $(type $name = $is;)*
        }
    )* };
}

kinds! {
    <K, V, Z> Sub<Map<K, V>, Z>, Entries { Key = K, Value = V } if K: Data;
    <K, V> BTreeMap<K, V>, Entries { Key = K, Value = V } if K: Data;
    <K, V, H> HashMap<K, V, H>, Entries { Key = K, Value = V } if K: Data;
    <E, Z> Sub<Set<E>, Z>, Items { Item = E };
    <T> Sub<List<T>>, Items { Item = T };
    <T> Vec<T>, Items { Item = T };
    <E> BTreeSet<E>, Items { Item = E };
    <E, H> HashSet<E, H>, Items { Item = E };
    <E, Z> Sub<Set<E>, Z>, Elements { Element = E } if E: Data;
    <E> BTreeSet<E>, Elements { Element = E } if E: Data;
    <E, H> HashSet<E, H>, Elements { Element = E } if E: Data;
    <K, V, Z> Sub<Map<K, V>, Z>, Sorted { Sorted = K } if K: Data;
    <K, V> BTreeMap<K, V>, Sorted { Sorted = K } if K: Data;
    <E, Z> Sub<Set<E>, Z>, Sorted { Sorted = E } if E: Data;
    <E> BTreeSet<E>, Sorted { Sorted = E } if E: Data;
}

// What is absent is an empty collection.
impl<T: Entries> Entries for Option<T> {
    type Key = T::Key;
    type Value = T::Value;
}

impl<T: Items> Items for Option<T> {
    type Item = T::Item;
}

impl<T: Elements> Elements for Option<T> {
    type Element = T::Element;
}

impl<T: Sorted> Sorted for Option<T> {
    type Sorted = T::Sorted;
}

impl<T: Fields> Fields for Option<T> {
    type All = T::All;

    fn all() -> T::All {
        T::all()
    }
}

/// What can be given for a `T`: itself, a reference to it, a `&str` for a `String`; and each of these for an
/// `Option<T>`.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a `{T}`",
    label = "expected a `{T}`, or a reference to one"
)]
pub trait Like<T> {
    /// The value.
    fn like(self) -> T;
}

impl<T> Like<T> for T {
    fn like(self) -> T {
        self
    }
}

impl<T: Clone> Like<T> for &T {
    fn like(self) -> T {
        self.clone()
    }
}

impl Like<String> for &str {
    fn like(self) -> String {
        self.to_owned()
    }
}

impl<T> Like<Option<T>> for T {
    fn like(self) -> Option<T> {
        Some(self)
    }
}

impl<T: Clone> Like<Option<T>> for &T {
    fn like(self) -> Option<T> {
        Some(self.clone())
    }
}

impl Like<Option<String>> for &str {
    fn like(self) -> Option<String> {
        Some(self.to_owned())
    }
}

/// What was collected: nothing, or up to three values.
pub trait Collects {
    /// And one more.
    type With<X>;
    /// What is found: what was collected and, last, what was reached.
    type Found<T>;
}

impl Collects for () {
    type With<X> = (X,);
    type Found<T> = T;
}

impl<A> Collects for (A,) {
    type With<X> = (A, X);
    type Found<T> = (A, T);
}

impl<A, B> Collects for (A, B) {
    type With<X> = (A, B, X);
    type Found<T> = (A, B, T);
}

/// A fourth value is one too many.
#[derive(Clone, Copy, Debug)]
pub enum TooMany {}

impl<A, B, C> Collects for (A, B, C) {
    type With<X> = TooMany;
    type Found<T> = (A, B, C, T);
}
