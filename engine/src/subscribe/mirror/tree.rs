//! Everything under one key, to any depth: mirrors in mirrors.
//!
//! A collection of collections is held as a map from its keys to the mirrors of what lies under them. Each write goes
//! to the mirror of the key that it begins with, with what it has behind that; a range that was deleted goes to all
//! that it touches, and takes away those that it covers. So a change is told by the mirror that it reaches, with the
//! keys on the way to it, and is as small as it is there.
//!
//! A key is there while something is under it, as [`sizes`](crate::schema::sizes) says. The rows that hold sizes
//! are no part of what is held.

use std::collections::{BTreeMap, btree_map};
use std::fmt;
use std::ops::Bound;

use super::{Elements, Entries, Items, Mirror, Result, Subscribe, Write, watched_as_read};
use crate::codec::{self, FieldTable, Key, KeyBuf, key::decode_key};
use crate::schema::path::{AsKey, Deep, Grown};
use crate::schema::sizes::Counting;
use crate::schema::{
    Answer, Data, List, Map, Path, Position, ReadOp, ReadPlan, Reads, Select, Set, Sub,
};

/// What lies under the keys of a map, each by its key: what [`Path::tree`] gives of a map of collections.
#[derive(Clone, PartialEq, Eq)]
pub struct Branches<K, M> {
    rows: BTreeMap<Box<[u8]>, (K, M)>,
}

/// One change in a map of collections.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TreeDiff<K, D, M> {
    /// What lies under a key changed, or something is there that was not.
    Under {
        /// Which.
        key: K,
        /// How, in this order. If nothing is left, the key is gone.
        diffs: Vec<D>,
    },
    /// Everything under a key is gone.
    Removed {
        /// Which.
        key: K,
        /// What was there.
        old: M,
    },
}

/// What can be held under a key.
pub trait Branch: Mirror {
    /// That of nothing stored.
    fn empty() -> Self;

    /// Whether it holds nothing.
    fn is_empty(&self) -> bool;

    /// Whether a row is the head of the collection, which holds its size, by the part of its key behind the
    /// collection's.
    fn is_head(rest: &[u8]) -> bool;
}

/// The head's key is what those of all elements begin with; only a key without bytes is one with it.
pub(crate) fn is_head<K: Key>(rest: &[u8]) -> bool {
    rest.is_empty() && K::kind().width() != Some(0)
}

impl<K: Key + Send, V: Data> Branch for Entries<K, V> {
    fn empty() -> Self {
        Self { rows: BTreeMap::new() }
    }

    fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    fn is_head(rest: &[u8]) -> bool {
        is_head::<K>(rest)
    }
}

impl<E: Key + Send> Branch for Elements<E> {
    fn empty() -> Self {
        Self { rows: BTreeMap::new() }
    }

    fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    fn is_head(rest: &[u8]) -> bool {
        is_head::<E>(rest)
    }
}

impl<T: Data> Branch for Items<T> {
    fn empty() -> Self {
        Self::new()
    }

    fn is_empty(&self) -> bool {
        self.value().is_empty()
    }

    fn is_head(_: &[u8]) -> bool {
        // It has rows of several kinds, and knows them.
        false
    }
}

impl<K: Key + Send, M: Branch> Branch for Branches<K, M> {
    fn empty() -> Self {
        Self { rows: BTreeMap::new() }
    }

    fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    fn is_head(rest: &[u8]) -> bool {
        is_head::<K>(rest)
    }
}

impl<K: Key, M> Branches<K, M> {
    /// What lies under one key.
    #[allow(clippy::needless_pass_by_value, reason = "takes what paths take, in the same form")]
    pub fn get<Q: AsKey<K>>(&self, key: Q) -> Option<&M> {
        let mut bytes = KeyBuf::new();
        key.encode_as_key(&mut bytes);
        self.rows.get(bytes.as_slice()).map(|(_, under)| under)
    }

    /// Keys and what lies under them, in the order of the keys.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = (&K, &M)> + ExactSizeIterator {
        self.rows.values().map(|(key, under)| (key, under))
    }
}

impl<K, M> Branches<K, M> {
    /// How many keys there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }
}

impl<K: fmt::Debug, M: fmt::Debug> fmt::Debug for Branches<K, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.rows.values().map(|(key, under)| (key, under))).finish()
    }
}

/// What writes do under one key; read, and not done yet.
#[derive(Debug)]
pub struct Step<K, M, R> {
    at: Box<[u8]>,
    /// To tell.
    key: K,
    /// All that was there goes first.
    removed: bool,
    /// What is there afterwards, and what is written to it.
    then: Then<K, M, R>,
}

#[derive(Debug)]
enum Then<K, M, R> {
    Nothing,
    /// To what is there.
    Old(R),
    /// To nothing, with the key to keep.
    New(K, M, R),
}

/// The writes under one key.
#[derive(Default)]
struct Group<'a> {
    removed: bool,
    writes: Vec<Write<'a>>,
}

impl<K: Key + Send, M: Branch> Branches<K, M> {
    /// Writes by the keys that they lie under, without those of heads.
    fn groups<'a>(&self, writes: &[Write<'a>]) -> Result<BTreeMap<Box<[u8]>, Group<'a>>> {
        let mut groups: BTreeMap<Box<[u8]>, Group<'a>> = BTreeMap::new();
        for write in writes {
            let (at, under) = match *write {
                Write::GoneRange(from, to) => {
                    self.delete(from, to, &mut groups);
                    continue;
                }
                Write::Put(key, value) => {
                    let (at, rest) = split::<K>(key)?;
                    (at, (!M::is_head(rest)).then_some(Write::Put(rest, value)))
                }
                Write::Gone(key) => {
                    let (at, rest) = split::<K>(key)?;
                    (at, (!M::is_head(rest)).then_some(Write::Gone(rest)))
                }
            };
            let Some(under) = under else { continue };
            match groups.get_mut(at) {
                Some(group) => group.writes.push(under),
                None => {
                    groups.insert(at.into(), Group { removed: false, writes: vec![under] });
                }
            }
        }
        Ok(groups)
    }

    /// Gives a deleted range to all that it touches.
    fn delete<'a>(
        &self,
        from: Bound<&'a [u8]>,
        to: Bound<&'a [u8]>,
        groups: &mut BTreeMap<Box<[u8]>, Group<'a>>,
    ) {
        // What begins in front of the range may reach into it.
        let before = match from {
            Bound::Included(from) | Bound::Excluded(from) => {
                let mut before =
                    self.rows.range::<[u8], _>((Bound::Unbounded, Bound::Excluded(from)));
                let before = before.next_back();
                before.filter(|(at, _)| from.starts_with(at))
            }
            Bound::Unbounded => None,
        };
        let inside = self.rows.range::<[u8], _>((from, Bound::Unbounded));
        let inside = inside.take_while(|(at, _)| match to {
            Bound::Included(to) => ***at <= *to,
            Bound::Excluded(to) => ***at < *to,
            Bound::Unbounded => true,
        });
        for (at, _) in before.into_iter().chain(inside) {
            // Of a bound that lies under this key, the part behind it; else all of it lies within.
            let under = |bound: Bound<&'a [u8]>| match bound {
                Bound::Included(bound) => bound.strip_prefix(&**at).map(Bound::Included),
                Bound::Excluded(bound) => bound.strip_prefix(&**at).map(Bound::Excluded),
                Bound::Unbounded => None,
            };
            let lower = under(from).filter(|it| *it != Bound::Included(&[]));
            let upper = under(to);
            let group = groups.entry(at.clone()).or_default();
            if lower.is_none() && upper.is_none() {
                *group = Group { removed: true, writes: Vec::new() };
            } else {
                let [lower, upper] = [lower, upper].map(|it| it.unwrap_or(Bound::Unbounded));
                group.writes.push(Write::GoneRange(lower, upper));
            }
        }
    }
}

/// The key in front, and what lies behind it.
pub(crate) fn split<K: Key>(key: &[u8]) -> Result<(&[u8], &[u8])> {
    let mut rest = key;
    K::decode_key(&mut rest)?;
    Ok(key.split_at(key.len() - rest.len()))
}

impl<K: Key + Send, M: Branch> Mirror for Branches<K, M> {
    type Value = Self;
    type Diff = TreeDiff<K, M::Diff, M>;
    type Read<'a> = Vec<Step<K, M, M::Read<'a>>>;

    fn cleared(&self, _: &FieldTable) -> Result<Self> {
        Ok(Self::empty())
    }

    fn value(&self) -> &Self {
        self
    }

    fn read<'a>(&self, fields: &FieldTable, writes: &[Write<'a>]) -> Result<Self::Read<'a>> {
        let step = |(at, group): (Box<[u8]>, Group<'a>)| {
            let Group { removed, writes } = group;
            let key = decode_key(&at)?;
            let then = match self.rows.get(&at) {
                _ if writes.is_empty() => Then::Nothing,
                Some((_, old)) if !removed => Then::Old(old.read(fields, &writes)?),
                Some(_) | None => {
                    let new = M::empty();
                    let read = new.read(fields, &writes)?;
                    Then::New(decode_key(&at)?, new, read)
                }
            };
            Ok(Step { at, key, removed, then })
        };
        self.groups(writes)?.into_iter().map(step).collect()
    }

    fn take(&mut self, read: Self::Read<'_>) -> Vec<Self::Diff> {
        let mut told = Vec::new();
        for Step { at, key, removed, then } in read {
            if removed && let Some((key, old)) = self.rows.remove(&at) {
                told.push(TreeDiff::Removed { key, old });
            }
            let diffs = match then {
                Then::Nothing => continue,
                Then::Old(read) => {
                    let btree_map::Entry::Occupied(mut old) = self.rows.entry(at) else {
                        unreachable!("it was there when the writes were read");
                    };
                    let diffs = old.get_mut().1.take(read);
                    if old.get().1.is_empty() {
                        old.remove();
                    }
                    diffs
                }
                Then::New(kept, mut new, read) => {
                    let diffs = new.take(read);
                    if !new.is_empty() {
                        self.rows.insert(at, (kept, new));
                    }
                    diffs
                }
            };
            if !diffs.is_empty() {
                told.push(TreeDiff::Under { key, diffs });
            }
        }
        told
    }
}

/// What lies under the keys of a map, and what it is held as there.
pub trait Under: Position {
    /// What holds a map from `K` to it.
    type In<K: Key + Send>: Branch;
}

#[diagnostic::do_not_recommend]
impl<V: Data> Under for V {
    type In<K: Key + Send> = Entries<K, V>;
}

impl<K2: Key + Send, V: Under, Z: Counting> Under for Sub<Map<K2, V>, Z> {
    type In<K: Key + Send> = Branches<K, V::In<K2>>;
}

impl<E: Key + Send, Z: Counting> Under for Sub<Set<E>, Z> {
    type In<K: Key + Send> = Branches<K, Elements<E>>;
}

impl<T: Data> Under for Sub<List<T>> {
    type In<K: Key + Send> = Branches<K, Items<T>>;
}

/// A collection of which everything can be held, to any depth.
#[diagnostic::on_unimplemented(
    message = "everything under `{Self}` cannot be held at once",
    label = "not a `Sub` of values and `Sub`s",
    note = "a record has fields of its own: name one by `.field(|it| it.name)`, and take the tree of that"
)]
pub trait Tree: Grown {
    /// What holds it.
    type Held: Branch;
}

impl<K: Key + Send, V: Under, Z: Counting> Tree for Sub<Map<K, V>, Z> {
    type Held = V::In<K>;
}

impl<E: Key + Send, Z: Counting> Tree for Sub<Set<E>, Z> {
    type Held = Elements<E>;
}

impl<T: Data> Tree for Sub<List<T>> {
    type Held = Items<T>;
}

/// Everything under a path, as subscribers hold it.
impl<S: Tree, O> Select for Path<S, Deep, O> {
    type Out = S::Held;
    const READS: usize = 1;

    fn push_reads(self, reads: &mut impl FnMut(ReadPlan)) -> codec::Result<()> {
        reads(self.deep()?);
        Ok(())
    }

    fn decode(fields: &FieldTable, plans: &[ReadPlan], answers: &[Answer<'_>]) -> Result<S::Held> {
        let ([plan], [Answer::Rows(rows)]) = (plans, answers) else {
            unreachable!("it is one read, which is answered by rows")
        };
        let ReadOp::Range(range) = plan.op.last() else { unreachable!("it is a range") };
        let read = |(key, value)| Write::read(key, value, range.prefix_bytes);
        let writes: Vec<Write<'_>> = rows.iter().map(read).collect::<Result<_>>()?;
        let mut held = S::Held::empty();
        held.apply(fields, &writes)?;
        Ok(held)
    }
}

impl<S: Tree, O> Subscribe for Path<S, Deep, O> {
    type Mirror = S::Held;

    fn mirror(&self, _: &FieldTable) -> Result<S::Held> {
        Ok(S::Held::empty())
    }

    watched_as_read!();
}
