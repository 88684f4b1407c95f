//! Lists stored element by element: how `Sub<List<T>>` lies in rows, and how it is read and edited.
//!
//! ```text
//! prefix 00             head: how many elements, and the last block of each level
//! prefix 01 label       one element; labels ascend as the elements do
//! prefix 02 label       one block of level 1: how many elements, in how many children
//! prefix 03 label       one block of level 2, and so on
//! prefix FF id ..       what hangs under an element that is a collection
//! ```
//!
//! Elements are put in order by *labels*, numbers of 128 bits that lie far apart, so that an element comes
//! between two others without moving them. Over them lies a counted tree in which a block of one level is
//! one row: where it begins, and what it holds. The children of a block are the blocks of the level below
//! whose labels lie between its own and the next one's; those of level 1 are elements. So an element is
//! found by its index in one scan of at most [`CHILDREN_MAX`] rows for each level, and an edit changes one
//! small row for each level. (Counted trees are in Knuth, The Art of Computer Programming 3, 6.2.3; labels
//! with gaps are Dietz and Sleator's order maintenance, in its simple form.)
//!
//! The last block of each level has no row of its own: it is part of the head. So appending, what lists
//! are used for most, reads the head and writes it and the element, however long the list.
//!
//! What holds:
//! - the highest level has one block, the *root*, which begins at label 0 and holds everything;
//! - the first child of a block above level 1 begins where the block does;
//! - no block is empty, none has more than [`CHILDREN_MAX`] children, the root of a higher level has two at
//!   least; a list without elements has no rows;
//! - no label is above the head's `last`.
//!
//! Where the elements are collections, the row of each holds an *id*, a number of 64 bits that no other
//! element of the list ever had, and what hangs under it lies behind all blocks, by that id. So labels and
//! blocks change as in any list, and move nothing of it, and an element goes with one range delete. The head
//! says which id is the next; it is the one thing that such a list's rows have more than another's.
//!
//! A block goes when it is empty, and is not merged with others before: a list that shrinks keeps its
//! levels for a while, which costs some scans and saves many writes. Where there is no label left between
//! two elements, those of the smallest block around that has room for them are labelled anew.

use serde::{Deserialize, Serialize};

pub(crate) use self::bulk::{rows_of, rows_of_new};
use super::plan::RangeOp;
use crate::codec::value::raw::{Head as RawHead, Raw};
use crate::codec::{self, FieldTable, KeyBuf, decode, encode};

mod bulk;
mod edit;
mod find;
#[cfg(doctest)]
mod misuse;
mod relabel;
#[cfg(test)]
mod tests;

/// So many children a block has at most. More make a find longer, fewer make more levels.
pub(crate) const CHILDREN_MAX: u32 = 64;

/// A label is so far behind the one before it if the list grows at an end.
const STEP: u128 = 1 << 64;

/// Elements that are labelled anew must come to lie so far apart at least, else a larger block is taken.
const GAP_MIN: u128 = 1 << 20;

/// Where an element lies, or a block begins.
type Label = u128;

/// The most bytes of a row's key behind the prefix.
pub(crate) const KEY_BYTES: usize = 1 + size_of::<Label>();

/// What the head's key has behind the prefix.
pub(crate) const HEAD: u8 = 0;

/// What the keys of all that hangs under elements have behind the prefix: more than any level has.
const UNDER: u8 = 0xff;

/// How many bytes an id has.
pub(crate) const ID_BYTES: usize = size_of::<u64>();

/// What a list is stored in: the rows of one partition.
pub(crate) trait Rows {
    /// Why rows cannot be read or written.
    type Error;

    /// The value of one row.
    async fn get(&self, key: &[u8]) -> std::result::Result<Option<Vec<u8>>, Self::Error>;

    /// The rows of a range, in its order.
    async fn scan(&self, range: &RangeOp) -> std::result::Result<Vec<Row>, Self::Error>;
}

/// The same, to be changed.
pub(crate) trait Edits: Rows {
    /// Writes one row.
    fn put(&self, key: &[u8], value: &[u8]) -> std::result::Result<(), Self::Error>;

    /// Deletes one row.
    fn delete(&self, key: &[u8]) -> std::result::Result<(), Self::Error>;

    /// Deletes all rows from `from` up to but without `to`.
    fn delete_range(&self, from: &[u8], to: &[u8]) -> std::result::Result<(), Self::Error>;
}

/// A row's key and value; without values where they are not asked for.
pub(crate) type Row = (Vec<u8>, Vec<u8>);

/// What reading or editing a list can end in.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Error<E> {
    /// Rows cannot be read or written.
    Rows(E),
    /// An index beyond the end.
    Beyond {
        /// How many elements there are.
        count: u64,
    },
    /// The rows are not those of a list.
    Malformed(&'static str),
}

impl<E> From<E> for Error<E> {
    fn from(error: E) -> Self {
        Self::Rows(error)
    }
}

type Result<T, E> = std::result::Result<T, Error<E>>;

/// A block of some level: its elements lie from its label up to the next block's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Block {
    label: Label,
    /// In it and everything under it.
    elements: u64,
    /// Blocks of the level below, or elements.
    children: u32,
}

/// The head of a list that has elements.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Head {
    /// No label above it was ever given.
    last: Label,
    /// The last block of each level, from level 1 up. That of the highest level is the root.
    tails: Vec<Block>,
    /// Ids of elements that are collections are below it. 0 if elements are values.
    next_id: u64,
}

/// The rows of one list.
#[derive(Debug)]
pub(crate) struct List<'a, R> {
    rows: &'a R,
    /// With which the keys of all its rows begin.
    prefix: &'a [u8],
    children_max: u32,
    step: u128,
    gap_min: u128,
}

impl<'a, R: Rows> List<'a, R> {
    /// The list whose rows begin with `prefix`.
    pub(crate) fn new(rows: &'a R, prefix: &'a [u8]) -> Self {
        Self { rows, prefix, children_max: CHILDREN_MAX, step: STEP, gap_min: GAP_MIN }
    }

    /// Its head; none if it has no elements.
    pub(crate) async fn head(&self) -> Result<Option<Head>, R::Error> {
        let value = self.rows.get(&head_key(self.prefix)).await?;
        value.map(|value| Head::decode(&value).map_err(Error::Malformed)).transpose()
    }

    /// The key of the block of `level` that begins at `label`; of the element there, if the level is 0.
    fn key(&self, level: usize, label: Label) -> KeyBuf {
        key(self.prefix, level, label)
    }

    /// The rows of a level whose labels lie in a range, which has no end if `to` is none.
    async fn scan(
        &self,
        level: usize,
        (from, to): (Label, Option<Label>),
        limit: usize,
        keys_only: bool,
    ) -> Result<Vec<Row>, R::Error> {
        let range = RangeOp {
            from: self.key(level, from),
            to: Some(self.end(level, to)),
            reverse: false,
            limit: Some(limit as u64),
            keys_only,
            prefix_bytes: self.prefix.len(),
        };
        Ok(self.rows.scan(&range).await?)
    }

    /// The key at which the rows of a level that lie below a label end.
    fn end(&self, level: usize, to: Option<Label>) -> KeyBuf {
        match to {
            Some(to) => self.key(level, to),
            None => tagged(self.prefix, level + 1),
        }
    }

    /// The label in a row's key.
    fn label(&self, key: &[u8]) -> Result<Label, R::Error> {
        let label = key.get(self.prefix.len() + 1..).and_then(|label| label.try_into().ok());
        let label = label.ok_or(Error::Malformed("the key of a row has another length"))?;
        Ok(Label::from_be_bytes(label))
    }
}

impl<R: Edits> List<'_, R> {
    fn put_head(&self, head: &Head) -> Result<(), R::Error> {
        Ok(self.rows.put(&head_key(self.prefix), &head.encode())?)
    }

    fn put_block(&self, level: usize, block: Block) -> Result<(), R::Error> {
        Ok(self.rows.put(&self.key(level, block.label), &block.encode())?)
    }
}

/// The key of a list's head.
pub(crate) fn head_key(prefix: &[u8]) -> KeyBuf {
    let mut key = KeyBuf::from(prefix);
    key.push_array([HEAD]);
    key
}

/// The first key that the elements of a list can have, and the first behind them.
pub(crate) fn element_range(prefix: &[u8]) -> (KeyBuf, KeyBuf) {
    (tagged(prefix, 0), tagged(prefix, 1))
}

/// Appends what the keys have, behind the list's prefix, of all that hangs under the element of an id.
pub(crate) fn push_under(key: &mut KeyBuf, id: u64) {
    key.push_array([UNDER]);
    key.push_array(id.to_be_bytes());
}

/// What the keys of all that hangs under the element of an id begin with.
pub(crate) fn under(prefix: &[u8], id: u64) -> KeyBuf {
    let mut key = KeyBuf::from(prefix);
    push_under(&mut key, id);
    key
}

/// Where all that hangs under elements lies, and where that ends: no id is the largest number.
fn under_range(prefix: &[u8]) -> (KeyBuf, KeyBuf) {
    (under(prefix, 0), under(prefix, u64::MAX))
}

/// What a row's key has behind the list's prefix.
pub(crate) enum KeyPart {
    Head,
    Element(Label),
    Block {
        level: u8,
        label: Label,
    },
    /// Something under an element that is a collection.
    Under(u64),
}

/// Takes it from the front of what a key has behind the prefix; none if it is no row of a list.
pub(crate) fn key_part(rest: &[u8]) -> Option<(KeyPart, &[u8])> {
    let (&tag, rest) = rest.split_first()?;
    if tag == HEAD {
        return Some((KeyPart::Head, rest));
    }
    if tag == UNDER {
        let (id, rest) = rest.split_first_chunk()?;
        return Some((KeyPart::Under(u64::from_be_bytes(*id)), rest));
    }
    let (label, rest) = rest.split_first_chunk()?;
    let label = Label::from_be_bytes(*label);
    let part = match tag - 1 {
        0 => KeyPart::Element(label),
        level => KeyPart::Block { level, label },
    };
    Some((part, rest))
}

/// What the keys of a level begin with.
fn tagged(prefix: &[u8], level: usize) -> KeyBuf {
    let mut key = KeyBuf::from(prefix);
    key.push_array([u8::try_from(level + 1).expect("levels are few")]);
    key
}

fn key(prefix: &[u8], level: usize, label: Label) -> KeyBuf {
    let mut key = tagged(prefix, level);
    key.push_array(label.to_be_bytes());
    key
}

/// More levels than this no list of 2^64 elements has.
const LEVELS_MAX: usize = 64;

/// As stored: halves of labels, since stored numbers have 64 bits.
type StoredBlock = (u64, u64, u64, u32);

/// How many elements, the halves of the last label, the last block of each level.
#[derive(Serialize, Deserialize)]
struct StoredHead(u64, u64, u64, Vec<StoredBlock>);

/// The same of a list whose elements are collections: behind it all, the next id.
#[derive(Serialize, Deserialize)]
struct StoredHeadOfCollections(u64, u64, u64, Vec<StoredBlock>, u64);

/// What it means for a reader that rows are not those of a list.
pub(crate) fn malformed(problem: &'static str) -> codec::Error {
    codec::Error::Decode {
        value_type: "Sub<List<_>>",
        at: String::new(),
        problem: problem.to_owned(),
    }
}

/// How many elements a list has, by its head's row.
pub(crate) fn decode_count(value: &[u8]) -> std::result::Result<u64, &'static str> {
    Head::decode(value).map(|head| head.count())
}

impl Head {
    /// How many elements the list has.
    pub(crate) fn count(&self) -> u64 {
        self.root().elements
    }

    fn root(&self) -> Block {
        *self.tails.last().expect("a head has a root")
    }

    fn levels(&self) -> usize {
        self.tails.len()
    }

    fn encode(&self) -> Vec<u8> {
        let (high, low) = halves(self.last);
        let blocks = self.tails.iter().map(|block| {
            let (high, low) = halves(block.label);
            (high, low, block.elements, block.children)
        });
        match self.next_id {
            0 => encoded(&StoredHead(self.count(), high, low, blocks.collect())),
            id => encoded(&StoredHeadOfCollections(self.count(), high, low, blocks.collect(), id)),
        }
    }

    fn decode(value: &[u8]) -> std::result::Result<Self, &'static str> {
        let problem = "its head does not decode";
        let fields = FieldTable::default();
        let (StoredHead(count, high, low, blocks), next_id) = match Raw::new(value).head() {
            Ok(RawHead::List(5)) => {
                let StoredHeadOfCollections(count, high, low, blocks, next_id) =
                    decode(&fields, value).map_err(|_| problem)?;
                if next_id < count {
                    return Err("its head has given fewer ids than it has elements");
                }
                (StoredHead(count, high, low, blocks), next_id)
            }
            _ => (decode(&fields, value).map_err(|_| problem)?, 0),
        };
        let tails = blocks.iter().map(|&(high, low, elements, children)| Block {
            label: joined(high, low),
            elements,
            children,
        });
        let head = Self { last: joined(high, low), tails: tails.collect(), next_id };
        let fits = |block: &Block| {
            block.children > 0
                && u64::from(block.children) <= block.elements
                && block.elements <= count
        };
        let holds = match head.tails.as_slice() {
            [] => false,
            [.., root] => {
                head.levels() <= LEVELS_MAX
                    && root.elements == count
                    && root.label == 0
                    && head.tails.iter().all(fits)
                    && head.tails.is_sorted_by(|lower, upper| {
                        lower.label >= upper.label && lower.elements <= upper.elements
                    })
            }
        };
        if holds { Ok(head) } else { Err("its head contradicts itself") }
    }
}

/// The id of an element that is a collection, as its row holds it.
pub(crate) fn encode_id(id: u64) -> Vec<u8> {
    encoded(&id)
}

/// The id that the row of an element holds.
pub(crate) fn decode_id(value: &[u8]) -> std::result::Result<u64, &'static str> {
    decode(&FieldTable::default(), value).map_err(|_| "an element's row does not hold an id")
}

impl Block {
    fn encode(&self) -> Vec<u8> {
        encoded(&(self.elements, self.children))
    }

    fn decode(label: Label, value: &[u8]) -> std::result::Result<Self, &'static str> {
        let (elements, children): (u64, u32) =
            decode(&FieldTable::default(), value).map_err(|_| "a block does not decode")?;
        if children == 0 || u64::from(children) > elements {
            return Err("a block has no children, or more than elements");
        }
        Ok(Self { label, elements, children })
    }
}

fn encoded<T: Serialize>(value: &T) -> Vec<u8> {
    let mut out = Vec::new();
    // They have no names, so any table does.
    encode(&FieldTable::default(), value, &mut out).expect("numbers can be stored");
    out
}

fn halves(label: Label) -> (u64, u64) {
    let bytes = label.to_be_bytes();
    let (high, low) = bytes.split_at(8);
    let half = |bytes: &[u8]| u64::from_be_bytes(bytes.try_into().expect("eight bytes"));
    (half(high), half(low))
}

fn joined(high: u64, low: u64) -> Label {
    Label::from(high) << 64 | Label::from(low)
}
