//! Trees: each leaf, by all the keys that lead to it.

use super::Differing;
use crate::codec::{Error, FieldTable, Key, key::decode_key};
use crate::schema::sizes::Counting;
use crate::schema::{Data, Map, Position, Set, Sub};
use crate::subscribe::mirror::{is_head, split};

/// An entry; none if nothing differs that can be told.
type Told<K, V> = Result<Option<Differing<K, V>>, Error>;

/// A collection whose tree has leaves with keys: maps of maps and of sets, to any depth.
pub trait Leaves {
    /// What leads to a leaf: a key, or that and what leads from there to the leaf.
    type Keys: Send;

    /// What is told of a leaf.
    type Value: Send;

    /// The entry of a row, by the part of its key behind the collection's; none if nothing differs that can be
    /// told.
    ///
    /// # Errors
    /// [`Error::Decode`], [`Error::BadKey`].
    fn entry(
        fields: &FieldTable,
        key: &[u8],
        from: Option<&[u8]>,
        to: Option<&[u8]>,
    ) -> Told<Self::Keys, Self::Value>;
}

/// What lies under a key: a value, which is a leaf, or a collection of leaves.
pub trait Leaf: Position {
    /// What leads to a leaf, where a `K` leads here.
    type Keys<K: Send>: Send;

    /// What is told of a leaf.
    type Value: Send;

    /// As [`Leaves::entry`], of a row under `above`.
    ///
    /// # Errors
    /// As there.
    fn entry<K: Send>(
        fields: &FieldTable,
        above: K,
        rest: &[u8],
        from: Option<&[u8]>,
        to: Option<&[u8]>,
    ) -> Told<Self::Keys<K>, Self::Value>;

    /// Whether a row, by the part of its key behind what leads here, holds a size.
    fn is_head(rest: &[u8]) -> bool;
}

#[diagnostic::do_not_recommend]
impl<V: Data> Leaf for V {
    type Keys<K: Send> = K;
    type Value = Option<V>;

    fn entry<K: Send>(
        fields: &FieldTable,
        key: K,
        rest: &[u8],
        from: Option<&[u8]>,
        to: Option<&[u8]>,
    ) -> Told<K, Option<V>> {
        if !rest.is_empty() {
            let problem = "bytes are left over behind the keys that lead to a value";
            return Err(Error::BadKey { key_type: "row", problem });
        }
        Differing::of_values(fields, key, from, to).map(Some)
    }

    fn is_head(_: &[u8]) -> bool {
        false
    }
}

impl<K2: Key + Send, V: Leaf, Z: Counting> Leaf for Sub<Map<K2, V>, Z> {
    type Keys<K: Send> = (K, V::Keys<K2>);
    type Value = V::Value;

    fn entry<K: Send>(
        fields: &FieldTable,
        above: K,
        rest: &[u8],
        from: Option<&[u8]>,
        to: Option<&[u8]>,
    ) -> Told<Self::Keys<K>, V::Value> {
        let told = <Self as Leaves>::entry(fields, rest, from, to)?;
        Ok(told.map(|Differing { key, from, to }| Differing { key: (above, key), from, to }))
    }

    fn is_head(rest: &[u8]) -> bool {
        is_head::<K2>(rest)
    }
}

impl<E: Key + Send, Z: Counting> Leaf for Sub<Set<E>, Z> {
    type Keys<K: Send> = (K, E);
    type Value = bool;

    fn entry<K: Send>(
        fields: &FieldTable,
        above: K,
        rest: &[u8],
        from: Option<&[u8]>,
        to: Option<&[u8]>,
    ) -> Told<(K, E), bool> {
        let told = <Self as Leaves>::entry(fields, rest, from, to)?;
        Ok(told.map(|Differing { key, from, to }| Differing { key: (above, key), from, to }))
    }

    fn is_head(rest: &[u8]) -> bool {
        is_head::<E>(rest)
    }
}

impl<K: Key + Send, V: Leaf, Z> Leaves for Sub<Map<K, V>, Z> {
    type Keys = V::Keys<K>;
    type Value = V::Value;

    fn entry(
        fields: &FieldTable,
        key: &[u8],
        from: Option<&[u8]>,
        to: Option<&[u8]>,
    ) -> Told<Self::Keys, Self::Value> {
        let (key, rest) = split::<K>(key)?;
        if V::is_head(rest) {
            return Ok(None);
        }
        V::entry(fields, decode_key(key)?, rest, from, to)
    }
}

impl<E: Key + Send, Z> Leaves for Sub<Set<E>, Z> {
    type Keys = E;
    type Value = bool;

    fn entry(_: &FieldTable, key: &[u8], from: Option<&[u8]>, to: Option<&[u8]>) -> Told<E, bool> {
        Ok(Differing::of_elements(decode_key(key)?, from, to))
    }
}
