//! The types of `PState`s that have values to migrate, by how many keys lead to them.

use crate::codec::Key;
use crate::schema::sizes::Counting;
use crate::schema::{Map, PlaceBy, Placed, Position, Private, Schema, Single, Sub};

/// The types of `PState`s whose values can be migrated: what is stored at each key of the root, or, of a
/// [`Single`], all of it.
#[diagnostic::on_unimplemented(
    message = "the values of `{Self}` cannot be migrated, since it has none",
    label = "not a map at its root",
    note = "a migration makes other values at the keys of a `Map<K, V>`; keys, and elements of sets, stay as \
            they are: for another key, declare a PState of another name"
)]
pub trait Values: Schema {
    /// What is stored at a key.
    type Value: Position;

    /// How many keys lead there.
    const KEYS: usize;
}

impl<K: Key, V: Position> Values for Map<K, V> {
    type Value = V;
    const KEYS: usize = 1;
}

impl<K: Key, V: Position, F: PlaceBy<K>> Values for Placed<Map<K, V>, F> {
    type Value = V;
    const KEYS: usize = 1;
}

impl<P: Position> Values for Single<P> {
    type Value = P;
    const KEYS: usize = 0;
}

impl<S: Values> Values for Private<S> {
    type Value = S::Value;
    const KEYS: usize = S::KEYS;
}

/// The types of `PState`s with values inside a `Sub` that can be migrated.
#[diagnostic::on_unimplemented(
    message = "`{Self}` has no values one level down that could be migrated",
    label = "not a map of maps",
    note = "a migration makes other values in a `Map<K, Sub<Map<K2, V>>>`, or in a `Single` of such a `Sub`; keys, and \
            elements of sets and lists, stay as they are"
)]
pub trait InnerValues: Schema {
    /// What is stored at a key of an inner map.
    type Value: Position;

    /// How many keys lead there.
    const KEYS: usize;
}

impl<K: Key, K2: Key, V: Position, Z: Counting> InnerValues for Map<K, Sub<Map<K2, V>, Z>> {
    type Value = V;
    const KEYS: usize = 2;
}

impl<K: Key, K2: Key, V: Position, Z: Counting, F: PlaceBy<K>> InnerValues
    for Placed<Map<K, Sub<Map<K2, V>, Z>>, F>
{
    type Value = V;
    const KEYS: usize = 2;
}

impl<K: Key, V: Position, Z: Counting> InnerValues for Single<Sub<Map<K, V>, Z>> {
    type Value = V;
    const KEYS: usize = 1;
}

impl<S: InnerValues> InnerValues for Private<S> {
    type Value = S::Value;
    const KEYS: usize = S::KEYS;
}

/// The types of `PState`s with values that `KEYS` keys lead to, that can be migrated: eight at most.
#[diagnostic::on_unimplemented(
    message = "no values of `{Self}` lie under {KEYS} keys",
    label = "no map of so many keys",
    note = "a migration makes other values in maps of maps: under three keys of a \
            `Map<K, Sub<Map<K2, Sub<Map<K3, V>>>>>`, for one; keys, and elements of sets and lists, stay as they are"
)]
pub trait ValuesAt<const KEYS: usize>: Schema {
    /// What is stored there.
    type Value: Position;
}

/// What is found under so many keys of a position.
#[diagnostic::on_unimplemented(
    message = "nothing of `{Self}` lies under {KEYS} keys more",
    label = "no map of so many keys"
)]
pub trait Under<const KEYS: usize>: Position {
    /// What is stored there.
    type Value: Position;
}

impl<P: Position> Under<0> for P {
    type Value = P;
}

impl<P: Under<KEYS>, const KEYS: usize> ValuesAt<KEYS> for Single<P> {
    type Value = P::Value;
}

impl<S: ValuesAt<KEYS>, const KEYS: usize> ValuesAt<KEYS> for Private<S> {
    type Value = S::Value;
}

/// One key more than that.
macro_rules! one_more {
    ($($less:literal => $keys:literal),*) => {$(
        impl<K: Key, V: Under<$less>, Z: Counting> Under<$keys> for Sub<Map<K, V>, Z> {
            type Value = V::Value;
        }

        impl<K: Key, V: Under<$less>> ValuesAt<$keys> for Map<K, V> {
            type Value = V::Value;
        }

        impl<K: Key, V: Under<$less>, F: PlaceBy<K>> ValuesAt<$keys> for Placed<Map<K, V>, F> {
            type Value = V::Value;
        }
    )*};
}

one_more!(0 => 1, 1 => 2, 2 => 3, 3 => 4, 4 => 5, 5 => 6, 6 => 7, 7 => 8);
