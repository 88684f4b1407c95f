//! Sizes: how collections know how many elements they have, and where that stands in their rows.
//!
//! A `Sub<Map<..>>` or `Sub<Set<..>>` that has elements has one row more, its *head*. The head's key is what
//! the keys of all elements begin with, so it lies before the first of them, and its value is their number:
//!
//! ```text
//! enc(7)                    head: 2          Map<u32, Sub<Map<String, Sub<Set<u8>>>>>
//! enc(7) enc("a")           head: 1          two names under 7: "a" with one element, "b" with three
//! enc(7) enc("a") enc(1)
//! enc(7) enc("b")           head: 3
//! enc(7) enc("b") enc(1)    and so on
//! ```
//!
//! So `path.size()` reads one row, however many elements there are. An element counts while something is
//! stored under its key: a value, or a collection or record that is not empty. A record in a collection that
//! counts has a head as well, for its fields; a list keeps its length in a head of its own, see
//! `schema/list.rs`.
//!
//! To keep sizes exact costs looking whether a written key was there: in memory as a rule, else together with
//! the other keys of the event run; and one write of each head that changes in an event run. Where nobody
//! asks for sizes, `Sub<C, Uncounted>` costs none of this, and its elements are written blindly:
//!
//! ```
//! use tidemill::schema::{Map, Set, Sub, Uncounted};
//! use tidemill::testing::{Io, TestPState};
//!
//! let fans = TestPState::<Map<u32, Sub<Set<String>>>>::new()?;
//! let fan = |name: &str| fans.token().key(7).has(name.to_owned());
//! fans.put(fan("ann"), true).unwrap();
//! fans.put(fan("bob"), true).unwrap();
//! assert_eq!(fans.select(fans.token().key(7).size()).unwrap(), 2);
//!
//! let seen = TestPState::<Map<u32, Sub<Set<String>, Uncounted>>>::new()?;
//! seen.put(seen.token().key(7).has("ann".to_owned()), true).unwrap();
//! assert_eq!(seen.take_io(), Io { puts: 1, ..Io::default() });
//! # Ok::<(), tidemill::codec::Error>(())
//! ```
//!
//! What lies in a collection that counts, at any depth, counts too: whether it is empty must be known. The items
//! of a list are there whether they are empty or not, so what lies in an item begins anew. First
//! keys are spread over all partitions and are not counted.

use super::{Layout, list};
use crate::codec::{Error, FieldTable, KeyBuf, KeyKind, Result, decode, encode};

#[cfg(doctest)]
mod misuse;
#[cfg(test)]
mod tests;

/// Says of a [`Sub`](super::Sub) that it knows how many elements it has. What a `Sub` is unless told
/// otherwise.
#[derive(Clone, Copy, Debug)]
pub enum Counted {}

/// Says of a [`Sub`](super::Sub) that it does not know how many elements it has: they are written without
/// looking whether they were there.
#[derive(Clone, Copy, Debug)]
pub enum Uncounted {}

/// [`Counted`] or [`Uncounted`].
pub trait Counting: 'static {
    /// Whether sizes are kept.
    const COUNTED: bool;
}

impl Counting for Counted {
    const COUNTED: bool = true;
}

impl Counting for Uncounted {
    const COUNTED: bool = false;
}

/// A size as the value of a head.
pub(crate) fn encode_size(size: u64) -> Vec<u8> {
    let mut out = Vec::new();
    // It has no names, so any table does.
    encode(&FieldTable::default(), &size, &mut out).expect("numbers can be stored");
    out
}

/// The size that a head says.
///
/// # Errors
/// [`Error::Decode`], also of 0: a collection without elements has no head.
pub(crate) fn decode_size(value: &[u8]) -> Result<u64> {
    match decode(&FieldTable::default(), value)? {
        0 => Err(impossible("a stored size is 0")),
        size => Ok(size),
    }
}

/// A head that contradicts the rows.
#[cold]
pub(crate) fn impossible(problem: &str) -> Error {
    Error::Decode { value_type: "size", at: String::new(), problem: problem.to_owned() }
}

/// Where the keys of the elements of a collection begin that has a head: no key is empty.
pub(crate) fn first_element(prefix: &[u8]) -> KeyBuf {
    let mut first = KeyBuf::from(prefix);
    first.push(0);
    first
}

/// The collections around a row that count it, or what it is in: how long their prefixes are, the innermost
/// last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Around {
    lens: [u16; DEPTH_MAX],
    count: u8,
}

impl Around {
    fn push(&mut self, len: usize) {
        self.lens[usize::from(self.count)] = u16::try_from(len).expect("a key's length");
        self.count += 1;
    }

    pub(crate) fn is_empty(self) -> bool {
        self.count == 0
    }

    /// The length of the prefix of the innermost collection, and those around it.
    pub(crate) fn pop(mut self) -> Option<(usize, Self)> {
        self.count = self.count.checked_sub(1)?;
        Some((usize::from(self.lens[usize::from(self.count)]), self))
    }
}

/// More collections than this that count, one in the other, are refused when a module is built.
const DEPTH_MAX: usize = 8;

/// What a key leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// A value, or an element of a set: a row.
    Row,
    /// A whole map, set or record, which may have a head here.
    Collection,
    /// A whole list, whose head is elsewhere.
    List,
    /// The head of a list.
    ListHead,
    /// Another row of a list.
    ListRow,
    /// Nothing: it begins or cuts a key.
    Between,
}

impl Layout {
    /// Whether some collection in it counts its elements. (Lists do for themselves.)
    pub(crate) fn keeps_sizes(&self) -> bool {
        match self {
            Self::Value(_) => false,
            Self::List { item } => item.keeps_sizes(),
            Self::Set { counted, .. } => *counted,
            Self::Map { value, counted, .. } => *counted || value.keeps_sizes(),
            Self::Record { fields, .. } => fields.iter().any(|field| field.layout.keeps_sizes()),
        }
    }

    /// What `key` leads to, and which collections count that.
    pub(crate) fn place(&self, key: &[u8]) -> (Place, Around) {
        let (mut at, mut rest, mut around) = (self, key, Around::default());
        loop {
            let (part, counted, next) = match at {
                Self::Value(_) if rest.is_empty() => return (Place::Row, around),
                Self::Value(_) => return (Place::Between, around),
                Self::List { .. } if rest.is_empty() => return (Place::List, around),
                Self::List { item } => match list::key_part(rest) {
                    Some((list::KeyPart::Under(_), under)) if !matches!(**item, Self::Value(_)) => {
                        // An element is there whether something hangs under it or not.
                        around = Around::default();
                        (at, rest) = (&**item, under);
                        continue;
                    }
                    _ => {
                        let is_head = rest == [list::HEAD];
                        return (if is_head { Place::ListHead } else { Place::ListRow }, around);
                    }
                },
                Self::Map { .. } | Self::Set { .. } | Self::Record { .. } if rest.is_empty() => {
                    return (Place::Collection, around);
                }
                Self::Map { key, value, counted } => (key, *counted, Some(&**value)),
                Self::Set { element, counted } => (element, *counted, None),
                Self::Record { fields, .. } => {
                    if !around.is_empty() {
                        around.push(key.len() - rest.len());
                    }
                    let (number, under) = rest.split_first().expect("looked at above");
                    let field = fields.iter().find(|field| field.number == *number);
                    let Some(field) = field else { return (Place::Between, around) };
                    (at, rest) = (&field.layout, under);
                    continue;
                }
            };
            if counted {
                around.push(key.len() - rest.len());
            }
            if part.skip(&mut rest).is_err() {
                return (Place::Between, around);
            }
            match next {
                Some(next) => at = next,
                None if rest.is_empty() => return (Place::Row, around),
                None => return (Place::Between, around),
            }
        }
    }

    /// Whether a map, set or record at this place of a layout has a head, given whether a collection around it
    /// counts.
    pub(crate) fn has_head(&self, is_within_counted: bool) -> bool {
        match self {
            Self::Map { counted, .. } | Self::Set { counted, .. } => *counted,
            Self::Record { .. } => is_within_counted,
            Self::Value(_) | Self::List { .. } => false,
        }
    }

    /// The same, where nothing counts: how `PState`s were stored before sizes were kept.
    #[must_use]
    pub(crate) fn without_sizes(&self) -> Self {
        let mut without = self.clone();
        without.forget_sizes();
        without
    }

    fn forget_sizes(&mut self) {
        match self {
            Self::Value(_) => {}
            Self::List { item } => item.forget_sizes(),
            Self::Set { counted, .. } => *counted = false,
            Self::Map { value, counted, .. } => {
                *counted = false;
                value.forget_sizes();
            }
            Self::Record { fields, .. } => {
                for field in fields {
                    field.layout.forget_sizes();
                }
            }
        }
    }
}

/// The layout, if all sizes in it can be kept.
///
/// # Errors
/// [`Error::NotCountable`].
pub(crate) fn checked(layout: Layout) -> Result<Layout> {
    check(&layout, &mut Vec::new(), 0)?;
    Ok(layout)
}

/// `depth` is how many collections that count are around it.
fn check(layout: &Layout, at: &mut Vec<String>, depth: usize) -> Result<()> {
    let refused = |at: &[String], problem| {
        let collection = layout.written(true);
        let at = if at.is_empty() { String::new() } else { format!(" at {}", at.join(" > ")) };
        Err(Error::NotCountable { collection, at, problem })
    };
    let has_head = layout.has_head(depth > 0);
    let within = depth + usize::from(has_head);
    if within > DEPTH_MAX {
        return refused(
            at,
            "it lies in eight others that keep theirs: write `Uncounted` for the outer ones",
        );
    }
    let key_fits = |key: &KeyKind| !has_head || key.width() != Some(0);
    match layout {
        Layout::Map { .. } | Layout::Set { .. } if depth > 0 && !has_head => refused(
            at,
            "it is `Uncounted` and lies in a collection that counts its elements, which must know whether \
             it is empty: let it count too, or write `Uncounted` for the collections around it as well",
        ),
        Layout::Map { key, .. } | Layout::Set { element: key, .. } if !key_fits(key) => refused(
            at,
            "its keys have no bytes, so it has one element at most: write a value in its place",
        ),
        Layout::Map { value, .. } => {
            at.push("values".to_owned());
            check(value, at, within)?;
            at.pop();
            Ok(())
        }
        Layout::Record { name, fields } => {
            for field in fields {
                at.push(format!("{name}.{}", field.name));
                check(&field.layout, at, within)?;
                at.pop();
            }
            Ok(())
        }
        Layout::List { item } => {
            at.push("items".to_owned());
            check(item, at, 0)?;
            at.pop();
            Ok(())
        }
        Layout::Value(_) | Layout::Set { .. } => Ok(()),
    }
}

/// What is wrong with the heads among all rows of a `PState`, in the order of their keys.
#[cfg(test)]
pub(crate) fn audit(layout: &Layout, rows: &[(&[u8], &[u8])]) -> Vec<String> {
    use std::collections::BTreeMap;

    fn count<'k>(sizes: &mut BTreeMap<&'k [u8], (u64, Around)>, key: &'k [u8], around: Around) {
        if let Some((len, around)) = around.pop() {
            sizes.entry(&key[..len]).or_insert((0, around)).0 += 1;
        }
    }

    let mut problems = Vec::new();
    let (mut heads, mut sizes) = (BTreeMap::new(), BTreeMap::new());
    for (key, value) in rows {
        let (place, around) = layout.place(key);
        match place {
            Place::Row | Place::ListHead => count(&mut sizes, key, around),
            Place::ListRow => {}
            Place::Collection => {
                heads.insert(*key, decode_size(value).unwrap());
            }
            Place::List | Place::Between => problems.push(format!("{key:?} is no row")),
        }
    }
    let mut counted = BTreeMap::new();
    while let Some((collection, (size, around))) = sizes.pop_last() {
        counted.insert(collection, size);
        count(&mut sizes, collection, around);
    }
    if counted != heads {
        problems.push(format!("the heads are {heads:?}, and counted was {counted:?}"));
    }
    problems
}
