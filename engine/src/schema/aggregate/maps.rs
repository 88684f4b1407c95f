//! Maps.

use std::collections::BTreeMap;

use super::{Adds, Aggregate, ChangeOps, Count, Counter, How, Last, check_element, to_element};
use crate::codec::{Key, KeyBuf, Result, encode};
use crate::schema::plan::Target;
use crate::schema::sizes::Counting;
use crate::schema::{Data, Map, Sub};

/// Counts an element: how often it was added. In a `Sub<Map<E, N>>`, where only the element's row is
/// read, or in a `BTreeMap<E, N>` that is one value.
///
/// ```
/// # use tidemill::schema::{Map, Owned, Sub, aggregate::MultiSet};
/// # fn example<O>(words: Owned<Map<u64, Sub<Map<String, u32>>>, O>) {
/// let _ = words.key(7).add(MultiSet("tide".to_owned()));
/// # }
/// ```
///
/// # Panics
/// Where it is combined or applied, if a count overflows.
#[derive(Clone, Copy, Debug)]
pub struct MultiSet<E>(pub E);

impl<E: Data + Ord, N: Counter> Aggregate<BTreeMap<E, N>> for MultiSet<E> {
    type Partial = BTreeMap<E, u64>;

    fn partial(self) -> BTreeMap<E, u64> {
        BTreeMap::from([(self.0, 1)])
    }

    fn combine(a: &mut BTreeMap<E, u64>, b: BTreeMap<E, u64>) {
        for (element, count) in b {
            let sum = a.entry(element).or_default();
            *sum = u64::count(Some(*sum), count);
        }
    }

    fn apply(partial: BTreeMap<E, u64>, old: Option<BTreeMap<E, N>>) -> Option<BTreeMap<E, N>> {
        let mut counts = old.unwrap_or_default();
        for (element, count) in partial {
            let sum = N::count(counts.remove(&element), count);
            counts.insert(element, sum);
        }
        Some(counts)
    }
}

/// What `path.key(element).add(Count)` does.
impl<E: Key, N: Counter, Z: Counting> Adds<Sub<Map<E, N>, Z>> for MultiSet<E> {
    type Sent = u64;

    const OPS: &'static ChangeOps<u64> = <Count as Adds<N>>::OPS;

    fn sent(self, target: &mut Result<Target>) -> u64 {
        to_element(target, &self.0);
        <Count as Aggregate<N>>::partial(Count)
    }
}

/// Sets what is under a key; of several values for one key, the last one stays. In a `Sub<Map<K, V>>`,
/// without reading, or in a `BTreeMap<K, V>` that is one value.
///
/// ```
/// # use tidemill::schema::{Map, Owned, Sub, aggregate::MapOf};
/// # fn example<O>(settings: Owned<Map<u64, Sub<Map<String, bool>>>, O>) {
/// let _ = settings.key(7).add(MapOf("dark".to_owned(), true));
/// # }
/// ```
#[derive(Clone, Copy, Debug)]
pub struct MapOf<K, V>(pub K, pub V);

impl<K: Data + Ord, V: Data> Aggregate<BTreeMap<K, V>> for MapOf<K, V> {
    type Partial = BTreeMap<K, V>;

    fn partial(self) -> BTreeMap<K, V> {
        BTreeMap::from([(self.0, self.1)])
    }

    fn combine(a: &mut BTreeMap<K, V>, b: BTreeMap<K, V>) {
        a.extend(b);
    }

    fn apply(partial: BTreeMap<K, V>, old: Option<BTreeMap<K, V>>) -> Option<BTreeMap<K, V>> {
        let mut map = old.unwrap_or_default();
        map.extend(partial);
        Some(map)
    }
}

/// What `path.key(key).add(Last(value))` does.
impl<K: Key, V: Data, Z: Counting> Adds<Sub<Map<K, V>, Z>> for MapOf<K, V> {
    type Sent = V;

    const OPS: &'static ChangeOps<V> = <Last<V> as Adds<V>>::OPS;

    fn sent(self, target: &mut Result<Target>) -> V {
        to_element(target, &self.0);
        self.1
    }
}

/// Sets what is under each key of a map, and leaves what is under others; of several values for one key,
/// the last one stays. In a `Sub<Map<K, V>>`, without reading, or in a `BTreeMap<K, V>` that is one
/// value. An empty map adds nothing, though where a map is one value, it makes an empty one.
///
/// ```
/// # use std::collections::BTreeMap;
/// # use tidemill::schema::{Map, Owned, Sub, aggregate::MergeMap};
/// # fn example<O>(stock: Owned<Map<u64, Sub<Map<String, u32>>>, O>) {
/// let delivered = BTreeMap::from([("nuts".to_owned(), 5), ("bolts".to_owned(), 7)]);
/// let _ = stock.key(7).add(MergeMap(delivered));
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct MergeMap<K, V>(pub BTreeMap<K, V>);

impl<K: Data + Ord, V: Data> Aggregate<BTreeMap<K, V>> for MergeMap<K, V> {
    type Partial = BTreeMap<K, V>;

    fn partial(self) -> BTreeMap<K, V> {
        self.0
    }

    fn combine(a: &mut BTreeMap<K, V>, b: BTreeMap<K, V>) {
        a.extend(b);
    }

    fn apply(partial: BTreeMap<K, V>, old: Option<BTreeMap<K, V>>) -> Option<BTreeMap<K, V>> {
        <MapOf<K, V> as Aggregate<_>>::apply(partial, old)
    }
}

impl<K: Key + Data + Ord, V: Data, Z: Counting> Adds<Sub<Map<K, V>, Z>> for MergeMap<K, V> {
    type Sent = BTreeMap<K, V>;

    const OPS: &'static ChangeOps<BTreeMap<K, V>> = &ChangeOps {
        combine: |a, b| a.extend(b),
        must_flush: None,
        how: How::Rows {
            reads_old: false,
            apply: |to, map| {
                let mut key = KeyBuf::from(to.key);
                for (nth, value) in &map {
                    key.truncate(to.key.len());
                    nth.encode_key(&mut key);
                    check_element::<K>(&key)?;
                    to.scratch.clear();
                    encode(to.table, value, to.scratch)?;
                    (to.write)(&key, Some(to.scratch));
                }
                Ok(())
            },
        },
    };

    /// Looks at the keys here already, where the record that they come from is known.
    fn sent(self, target: &mut Result<Target>) -> BTreeMap<K, V> {
        if let Ok(there) = target {
            let mut key = there.key.clone();
            for nth in self.0.keys() {
                key.truncate(there.key.len());
                nth.encode_key(&mut key);
                if let Err(error) = check_element::<K>(&key) {
                    *target = Err(error);
                    break;
                }
            }
        }
        self.0
    }
}
