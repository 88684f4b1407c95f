//! What paths ask of the engine, without their types.

use super::nth::BehindOp;
use crate::codec::{KeyBuf, Placement};
use crate::types::PStateId;

/// One read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadPlan {
    /// Of which `PState`.
    pub pstate: PStateId,
    /// Where the path's first key lives. `None` for a range over first keys, which lie in all
    /// partitions: a client asks each and merges the rows by key, an event gets those of its own
    /// partition.
    pub place: Option<Placement>,
    /// What to read.
    pub op: ReadOp,
}

/// One row, of which all is known that it takes to read it: less than a plan, and nothing is moved to make it.
#[derive(Clone, Copy, Debug)]
pub struct RowRead<'p> {
    /// Of which `PState`.
    pub pstate: PStateId,
    /// Where the path's first key lives.
    pub place: Placement,
    /// The row's key.
    pub key: &'p [u8],
}

/// What to read of the tree of a `PState`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReadOp {
    /// The value of one row; answered by [`Answer::One`].
    Get {
        /// The row's key.
        key: KeyBuf,
    },
    /// Whether a row is there; answered by [`Answer::One`], whose bytes are not looked at.
    Has {
        /// The row's key.
        key: KeyBuf,
    },
    /// Rows in key order; answered by [`Answer::Rows`].
    Range(Box<RangeOp>),
    /// Items of a list by their places; answered by [`Answer::Rows`] without keys.
    Items(Box<ItemsOp>),
    /// A read behind items of lists, which have to be found first; answered as that read is, by nothing where
    /// there is no such item.
    Behind(Box<BehindOp>),
}

impl ReadOp {
    /// What is read once all items are found.
    #[must_use]
    pub fn last(&self) -> &Self {
        match self {
            Self::Behind(behind) => &behind.op,
            Self::Get { .. } | Self::Has { .. } | Self::Range(_) | Self::Items(_) => self,
        }
    }

    /// Whether it is answered by [`Answer::One`].
    #[must_use]
    pub fn is_of_one(&self) -> bool {
        matches!(self.last(), Self::Get { .. } | Self::Has { .. })
    }
}

/// Items of a list that is stored element by element.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ItemsOp {
    /// What the keys of the list's rows begin with.
    pub list: KeyBuf,
    /// The first place, counted from 0.
    pub from: u64,
    /// At most so many, and no more than there are.
    pub count: u64,
    /// The last one first.
    pub reverse: bool,
    /// Of those, only so many.
    pub limit: u64,
}

impl ItemsOp {
    /// The rows, of the items in the order of the list.
    #[must_use]
    pub fn rows(&self, items: &[Vec<u8>]) -> Rows {
        let mut rows = Rows::new();
        let limit = usize::try_from(self.limit).unwrap_or(usize::MAX).min(items.len());
        for nth in 0..limit {
            let place = if self.reverse { items.len() - 1 - nth } else { nth };
            rows.push(&[], &items[place]);
        }
        rows
    }
}

impl RangeOp {
    /// Goes on behind a row of the range; false if nothing can be there.
    pub(crate) fn resume_behind(&mut self, key: &[u8]) -> bool {
        if self.reverse {
            self.to = Some(KeyBuf::from(key));
            return true;
        }
        match KeyBuf::from(key).prefix_end() {
            Some(from) => {
                self.from = from;
                self.to.as_ref().is_none_or(|to| self.from < *to)
            }
            None => false,
        }
    }
}

/// Rows of a `PState` in key order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RangeOp {
    /// The first key that may be included.
    pub from: KeyBuf,
    /// The first key above `from` that may not; `None`: the end of the tree. The range is empty if
    /// this is not above `from`.
    pub to: Option<KeyBuf>,
    /// Highest key first; a limit then keeps the highest.
    pub reverse: bool,
    /// At most so many rows.
    pub limit: Option<u64>,
    /// Values are not looked at and may be left out of the answer.
    pub keys_only: bool,
    /// How many bytes of each key belong to the path before the range.
    pub prefix_bytes: usize,
}

/// What a read found.
#[derive(Clone, Copy, Debug)]
pub enum Answer<'a> {
    /// The row's value, if the row is there.
    One(Option<&'a [u8]>),
    /// The rows, in the order asked for.
    Rows(&'a Rows),
}

/// Rows in one piece of memory, for reuse from read to read and for sending.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rows {
    bytes: Vec<u8>,
    /// Ends of each row's key and value in `bytes`.
    ends: Vec<(usize, usize)>,
}

impl Rows {
    /// No rows.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends a row.
    pub fn push(&mut self, key: &[u8], value: &[u8]) {
        self.bytes.extend_from_slice(key);
        let key_end = self.bytes.len();
        self.bytes.extend_from_slice(value);
        self.ends.push((key_end, self.bytes.len()));
    }

    /// Forgets all rows and keeps the memory.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.ends.clear();
    }

    /// How many rows there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// How many bytes keys and values take.
    #[must_use]
    pub fn bytes_len(&self) -> usize {
        self.bytes.len()
    }

    /// The key and value of one row, by its place.
    #[must_use]
    pub fn get(&self, place: usize) -> Option<(&[u8], &[u8])> {
        let &(key_end, end) = self.ends.get(place)?;
        let start = place.checked_sub(1).and_then(|before| self.ends.get(before));
        let start = start.map_or(0, |before| before.1);
        Some((&self.bytes[start..key_end], &self.bytes[key_end..end]))
    }

    /// Keys and values, in the order pushed.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&[u8], &[u8])> {
        let mut start = 0;
        self.ends.iter().map(move |&(key_end, end)| {
            let row = (&self.bytes[start..key_end], &self.bytes[key_end..end]);
            start = end;
            row
        })
    }
}

/// The reads of one select: one, or several under the same first key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reads {
    /// Of a single path.
    One(ReadPlan),
    /// Of a tuple of paths, in its order.
    Several(Vec<ReadPlan>),
}

impl Reads {
    /// The reads, in order.
    #[must_use]
    pub fn as_slice(&self) -> &[ReadPlan] {
        match self {
            Self::One(plan) => std::slice::from_ref(plan),
            Self::Several(plans) => plans,
        }
    }
}

/// One row that is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Of which `PState`.
    pub pstate: PStateId,
    /// Where the path's first key lives: the only place where it may be written.
    pub place: Placement,
    /// The row's key.
    pub key: KeyBuf,
}

/// What a delete removes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Removal {
    /// One row.
    Row(Target),
    /// Every row whose key is at or above the target's and below `to` (`None`: the end of the tree).
    Range {
        /// Where it begins.
        from: Target,
        /// Where it ends.
        to: Option<KeyBuf>,
    },
}

/// What a put leaves in a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Written {
    /// The row, with the bytes appended to the output as its value.
    Value,
    /// No row.
    Nothing,
}
