//! [`Select`]: what can be read, and the typed result of it.

use super::path::{
    AtIndex, Counts, Entry, Item, KeyOf, Many, Maybe, One, Path, Presence, Size, ValueOf, What,
};
use super::plan::{Answer, ReadPlan, Reads, RowRead, Rows};
use super::{Data, Initial, Initially, Stored};
use crate::codec::key::decode_key;
use crate::codec::{Error, FieldTable, Key, Result, decode};
use crate::types::PartitionId;

/// A path, or a tuple of paths under one first key, that can be read.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be read",
    label = "not a path that can be selected",
    note = "select a path or a tuple of paths; of a collection, `.all()`, `.range(a..b)`, `.key(k)` or \
            `.has(e)`"
)]
pub trait Select: Sized {
    /// What reading gives.
    type Out;

    /// How many reads it takes.
    const READS: usize;

    /// Appends the reads, without their types.
    ///
    /// # Errors
    /// [`Error::KeyTooLong`].
    fn push_reads(self, reads: &mut impl FnMut(ReadPlan)) -> Result<()>;

    /// The row that is all there is to read, if it is: it can then be read in place, and [`Select::decode`]
    /// needs its answer and no plan.
    #[inline]
    fn row(&self) -> Option<RowRead<'_>> {
        None
    }

    /// The typed result; `plans` and `answers` are those of this select, in order. There need be no plan for a
    /// [row](Select::row).
    ///
    /// # Errors
    /// [`Error::Decode`], [`Error::BadKey`].
    fn decode(table: &FieldTable, plans: &[ReadPlan], answers: &[Answer<'_>]) -> Result<Self::Out>;

    /// The reads, in order.
    ///
    /// # Errors
    /// [`Error::KeyTooLong`].
    fn reads(self) -> Result<Reads> {
        let mut one = None;
        let mut several = Vec::new();
        self.push_reads(&mut |plan| match &one {
            None if Self::READS == 1 => one = Some(plan),
            _ => several.push(plan),
        })?;
        let reads = one.map_or(Reads::Several(several), Reads::One);
        assert_eq!(reads.as_slice().len(), Self::READS);
        Ok(reads)
    }
}

impl Reads {
    /// The partition that all of it lies in; `None` if all of it is spread over all partitions.
    ///
    /// # Errors
    /// [`Error::PathsApart`] if the paths disagree.
    pub fn partition(&self, partitions: u32) -> Result<Option<PartitionId>> {
        let mut places =
            self.as_slice().iter().map(|plan| plan.place.map(|place| place.partition(partitions)));
        let first = places.next().flatten();
        if places.all(|place| place == first) { Ok(first) } else { Err(Error::PathsApart) }
    }
}

impl<S: Stored, O> Select for Path<S, Maybe, O> {
    type Out = Option<S::Value>;
    const READS: usize = 1;

    #[inline]
    fn push_reads(self, reads: &mut impl FnMut(ReadPlan)) -> Result<()> {
        reads(self.read(What::Value)?);
        Ok(())
    }

    #[inline(always)]
    #[allow(clippy::inline_always, reason = "a step of every read of a key, and short")]
    fn row(&self) -> Option<RowRead<'_>> {
        Path::row(self)
    }

    #[inline]
    fn decode(table: &FieldTable, _: &[ReadPlan], answers: &[Answer<'_>]) -> Result<Self::Out> {
        one(answers).map(|bytes| S::read(table, bytes)).transpose()
    }
}

impl<I: Initial, O> Select for Path<Initially<I>, One, O> {
    type Out = I::Value;
    const READS: usize = 1;

    fn push_reads(self, reads: &mut impl FnMut(ReadPlan)) -> Result<()> {
        reads(self.read(What::Value)?);
        Ok(())
    }

    #[inline]
    fn row(&self) -> Option<RowRead<'_>> {
        Path::row(self)
    }

    fn decode(table: &FieldTable, _: &[ReadPlan], answers: &[Answer<'_>]) -> Result<Self::Out> {
        Initially::<I>::read(table, one(answers))
    }
}

impl<T: Data, O> Select for Path<T, AtIndex, O> {
    type Out = Option<T>;
    const READS: usize = 1;

    fn push_reads(self, reads: &mut impl FnMut(ReadPlan)) -> Result<()> {
        reads(self.read(What::Rows { keys_only: false })?);
        Ok(())
    }

    fn decode(table: &FieldTable, plans: &[ReadPlan], answers: &[Answer<'_>]) -> Result<Self::Out> {
        let (_, rows) = rows(plans, answers);
        rows.iter().next().map(|(_, value)| decode(table, value)).transpose()
    }
}

impl<O> Select for Path<Presence, One, O> {
    type Out = bool;
    const READS: usize = 1;

    fn push_reads(self, reads: &mut impl FnMut(ReadPlan)) -> Result<()> {
        reads(self.read(What::Presence)?);
        Ok(())
    }

    #[inline]
    fn row(&self) -> Option<RowRead<'_>> {
        Path::row(self)
    }

    fn decode(_: &FieldTable, _: &[ReadPlan], answers: &[Answer<'_>]) -> Result<Self::Out> {
        Ok(one(answers).is_some())
    }
}

impl<C: Counts, O> Select for Path<Size<C>, One, O> {
    type Out = u64;
    const READS: usize = 1;

    fn push_reads(self, reads: &mut impl FnMut(ReadPlan)) -> Result<()> {
        reads(self.read(What::Value)?);
        Ok(())
    }

    #[inline]
    fn row(&self) -> Option<RowRead<'_>> {
        Path::row(self)
    }

    fn decode(_: &FieldTable, _: &[ReadPlan], answers: &[Answer<'_>]) -> Result<Self::Out> {
        one(answers).map_or(Ok(0), C::size)
    }
}

impl<S: RowOf, O> Select for Path<S, Many, O> {
    type Out = Vec<S::Row>;
    const READS: usize = 1;

    fn push_reads(self, reads: &mut impl FnMut(ReadPlan)) -> Result<()> {
        reads(self.read(What::Rows { keys_only: S::KEYS_ONLY })?);
        Ok(())
    }

    fn decode(table: &FieldTable, plans: &[ReadPlan], answers: &[Answer<'_>]) -> Result<Self::Out> {
        let (prefix_bytes, rows) = rows(plans, answers);
        rows.iter()
            .map(|(key, value)| {
                let key = key.get(prefix_bytes..).ok_or(Error::BadKey {
                    key_type: std::any::type_name::<S::Row>(),
                    problem: "a row's key is shorter than the path to it",
                })?;
                S::row(table, key, value)
            })
            .collect()
    }
}

/// One row of a range.
pub trait RowOf {
    /// As the caller gets it.
    type Row;

    /// Whether the value is not looked at.
    const KEYS_ONLY: bool;

    /// Decodes it; `key` is the part of the row's key behind the path.
    ///
    /// # Errors
    /// [`Error::Decode`], [`Error::BadKey`].
    fn row(table: &FieldTable, key: &[u8], value: &[u8]) -> Result<Self::Row>;
}

impl<K: Key, V: Data, Z> RowOf for Entry<K, V, Z> {
    type Row = (K, V);
    const KEYS_ONLY: bool = false;

    fn row(table: &FieldTable, key: &[u8], value: &[u8]) -> Result<Self::Row> {
        Ok((decode_key(key)?, decode(table, value)?))
    }
}

impl<K: Key, Z> RowOf for KeyOf<K, Z> {
    type Row = K;
    const KEYS_ONLY: bool = true;

    fn row(_: &FieldTable, key: &[u8], _: &[u8]) -> Result<Self::Row> {
        decode_key(key)
    }
}

impl<V: Data, Z> RowOf for ValueOf<V, Z> {
    type Row = V;
    const KEYS_ONLY: bool = false;

    fn row(table: &FieldTable, _: &[u8], value: &[u8]) -> Result<Self::Row> {
        decode(table, value)
    }
}

impl<T: Data> RowOf for Item<T> {
    type Row = T;
    const KEYS_ONLY: bool = false;

    fn row(table: &FieldTable, _: &[u8], value: &[u8]) -> Result<Self::Row> {
        decode(table, value)
    }
}

macro_rules! tuple {
    ($($path:ident $at:tt),*) => {
        impl<$($path: Select),*> Select for ($($path,)*) {
            type Out = ($($path::Out,)*);
            const READS: usize = 0 $(+ $path::READS)*;

            fn push_reads(self, reads: &mut impl FnMut(ReadPlan)) -> Result<()> {
                $( self.$at.push_reads(reads)?; )*
                Ok(())
            }

            fn decode(
                table: &FieldTable,
                plans: &[ReadPlan],
                answers: &[Answer<'_>],
            ) -> Result<Self::Out> {
                let mut start = 0;
                Ok(($({
                    let part = start..start + $path::READS;
                    start = part.end;
                    let _ = start;
                    $path::decode(table, &plans[part.clone()], &answers[part])?
                },)*))
            }
        }
    };
}

tuple!(A 0, B 1);
tuple!(A 0, B 1, C 2);
tuple!(A 0, B 1, C 2, D 3);
tuple!(A 0, B 1, C 2, D 3, E 4);
tuple!(A 0, B 1, C 2, D 3, E 4, F 5);

fn one<'a>(answers: &[Answer<'a>]) -> Option<&'a [u8]> {
    match answers {
        [Answer::One(value)] => *value,
        _ => panic!("a read of one row is answered by one row"),
    }
}

fn rows<'a>(plans: &[ReadPlan], answers: &[Answer<'a>]) -> (usize, &'a Rows) {
    let ([plan], [Answer::Rows(rows)]) = (plans, answers) else {
        panic!("a range is answered by rows")
    };
    match plan.op.last() {
        super::ReadOp::Range(range) => (range.prefix_bytes, rows),
        super::ReadOp::Items(_) => (0, rows),
        _ => panic!("rows are the answer to a range"),
    }
}
