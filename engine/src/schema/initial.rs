//! Initial values: what a `PState` of one value holds before anything is written.
//!
//! ```
//! use tidemill::schema::aggregate::{Sum, Void};
//! use tidemill::schema::{Initial, Initially, Single};
//! use tidemill::testing::TestPState;
//!
//! /// What may be spent in a day.
//! enum Allowance {}
//!
//! impl Initial for Allowance {
//!     type Value = i64;
//!
//!     fn value() -> i64 {
//!         500
//!     }
//! }
//!
//! let left = TestPState::<Single<Initially<Allowance>>>::new()?;
//! let it = left.token();
//! assert_eq!(left.select(it.whole()).unwrap(), 500); // never `None`
//! left.aggregate(it.whole().add(Sum(-20))).unwrap();
//! assert_eq!(left.select(it.whole()).unwrap(), 480);
//! left.aggregate(it.whole().add(Void)).unwrap();
//! assert_eq!(left.select(it.whole()).unwrap(), 500);
//! # Ok::<(), tidemill::codec::Error>(())
//! ```
//!
//! What removes the row, an aggregator that gives `None` too, brings it back.
//!
//! No row holds it: it is what no row stands for, wherever one is read. Typed reads and aggregates ask
//! [`Initially::read`], queries that are data the evaluator. So a module that declares another one shows that
//! wherever nothing was written.

use super::aggregate::{Adds, Aggregate, ChangeOps, How};
use super::plan::Target;
use super::{Data, Layout, One, Placing, Schema, Single, Stored, Whole, Written};
use crate::codec::table::Trace;
use crate::codec::{FieldTable, Result, decode, encode};

/// What a `PState` holds before anything is written. A type, so that paths know it: an empty enum will do.
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not say what a PState holds at first",
    label = "no initial value",
    note = "implement `tidemill::schema::Initial` for an empty enum, and declare `Single<Initially<ThatEnum>>`"
)]
pub trait Initial: 'static {
    /// What is stored.
    type Value: Data;

    /// What is there before anything is stored. Always the same.
    fn value() -> Self::Value;
}

marker!(
    /// A value that is [`I::value()`](Initial::value) where nothing is stored; in a [`Single`].
    Initially<I>
);

impl<I: Initial> Initially<I> {
    /// The value of a row, or of none.
    ///
    /// # Errors
    /// As [`decode`].
    pub(crate) fn read(table: &FieldTable, row: Option<&[u8]>) -> Result<I::Value> {
        row.map_or_else(|| Ok(I::value()), |bytes| decode(table, bytes))
    }
}

impl<I: Initial> Schema for Single<Initially<I>> {
    type Root = Initially<I>;
    type Held = One;
    type Seen<O> = O;

    const PLACING: Placing = Placing::Single;
    const INITIAL: Option<EncodeInitial> = Some(|table, out| encode(table, &I::value(), out));

    fn layout(trace: &mut Trace) -> Result<Layout> {
        trace.kind_of::<I::Value>().map(Layout::Value)
    }
}

impl<I: Initial> Whole for Single<Initially<I>> {}

/// Appends the bytes of an initial value.
pub type EncodeInitial = fn(&FieldTable, &mut Vec<u8>) -> Result<()>;

impl<I: Initial> Stored for Initially<I> {
    type Value = I::Value;
    type Held = I::Value;

    fn write(table: &FieldTable, value: &I::Value, out: &mut Vec<u8>) -> Result<Written> {
        encode(table, value, out)?;
        Ok(Written::Value)
    }

    fn read(table: &FieldTable, bytes: &[u8]) -> Result<I::Value> {
        Self::read(table, Some(bytes))
    }

    fn held(table: &FieldTable, row: Option<&[u8]>) -> Result<I::Value> {
        Self::read(table, row)
    }

    fn kept(held: I::Value) -> Option<I::Value> {
        Some(held)
    }
}

#[diagnostic::do_not_recommend]
impl<I: Initial, A: Aggregate<I::Value>> Adds<Initially<I>> for A {
    type Sent = A::Partial;

    const OPS: &'static ChangeOps<A::Partial> = &ChangeOps {
        combine: A::combine,
        must_flush: A::MUST_FLUSH,
        how: How::Rows {
            reads_old: A::READS_OLD,
            apply: |to, partial| {
                let old = Initially::<I>::read(to.table, to.old)?;
                to.replace(A::apply(partial, Some(old)).as_ref())
            },
        },
    };

    fn sent(self, _target: &mut Result<Target>) -> A::Partial {
        self.partial()
    }
}
