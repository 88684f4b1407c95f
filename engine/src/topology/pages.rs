//! Long ranges, read page by page by events.

use std::fmt;
use std::marker::PhantomData;

use super::read::scan;
use super::{At, Context, StateError, list};
use crate::codec;
use crate::schema::{Answer, Anyone, Many, Path, ReadOp, ReadPlan, RowOf, Select};

impl<'a, O> At<'a, O> {
    /// Reads a range in pages of `rows` rows, so that it never lies in memory as a whole. A range over first
    /// keys gives those of this partition. Each page costs one seek and a scan.
    ///
    /// Between two pages the event may write, and what it writes behind the last row is read: the next page
    /// begins behind the key where the one before ended. The rest is of one moment, that of the event.
    ///
    /// ```
    /// use tidemill::schema::{Map, Sub};
    /// use tidemill::testing::TestPState;
    ///
    /// let stock = TestPState::<Map<u32, Sub<Map<String, u64>>>>::new()?;
    /// for (item, count) in [("nuts", 3), ("rice", 0), ("tea", 8)] {
    ///     stock.put(stock.token().key(1).key(item), count).unwrap();
    /// }
    /// let shelf = stock.token().key(1);
    /// stock.run(async |at| {
    ///     let mut pages = at.pages(shelf.clone().all(), 2);
    ///     while let Some(page) = pages.next().await? {
    ///         for (item, _) in page.into_iter().filter(|(_, count)| *count == 0) {
    ///             at.delete(shelf.clone().key(item))?;
    ///         }
    ///     }
    ///     Ok(())
    /// }).unwrap();
    /// assert_eq!(stock.select(shelf.all().keys()).unwrap(), ["nuts", "tea"]);
    /// # Ok::<(), tidemill::codec::Error>(())
    /// ```
    ///
    /// # Panics
    /// If `rows` is 0.
    pub fn pages<S: RowOf, O2>(self, path: Path<S, Many, O2>, rows: usize) -> Pages<'a, S> {
        assert!(rows > 0, "a page has rows");
        let context = self.context();
        Pages { context, rows: rows as u64, plan: Some(path.plan()), types: PhantomData }
    }
}

/// A range that an event reads page by page: see [`At::pages`].
pub struct Pages<'a, S> {
    context: &'a Context<'a>,
    rows: u64,
    /// What is still to be read.
    plan: Option<codec::Result<ReadPlan>>,
    types: PhantomData<fn() -> S>,
}

impl<S: RowOf> Pages<'_, S> {
    /// The next rows: as many as a page has, fewer at the end, and none behind it.
    ///
    /// # Errors
    /// As [`At::get`].
    pub async fn next(&mut self) -> Result<Option<Vec<S::Row>>, StateError> {
        let Some(plan) = self.plan.take() else { return Ok(None) };
        let plan = plan.map_err(|error| self.context.refused("read", error))?;
        self.context.check_reads(&crate::schema::Reads::One(plan.clone()))?;
        let mut next = plan.clone();
        let (rows, goes_on) = match &mut next.op {
            ReadOp::Range(range) => {
                let left = range.limit;
                range.limit = Some(left.map_or(self.rows, |left| left.min(self.rows)));
                let rows = scan(self.context, plan.pstate, range).await?;
                let count = rows.len() as u64;
                range.limit = left.map(|left| left - count);
                let last = rows.len().checked_sub(1).and_then(|last| rows.get(last));
                let goes_on = count == self.rows
                    && range.limit != Some(0)
                    && last.is_some_and(|(last, _)| range.resume_behind(last));
                (rows, goes_on)
            }
            ReadOp::Items(items) => {
                let left = items.count;
                items.count = left.min(self.rows);
                let rows = list::items(self.context, plan.pstate, items).await?;
                let count = rows.len() as u64;
                (items.from, items.count) = (items.from + count, left - count);
                (rows, count == self.rows && left > count)
            }
            ReadOp::Get { .. } | ReadOp::Has { .. } | ReadOp::Behind(_) => {
                unreachable!("a range was asked for, behind no item")
            }
        };
        let fields = self.context.local().fields();
        let plans = std::slice::from_ref(&plan);
        let page = Path::<S, Many, Anyone>::decode(fields, plans, &[Answer::Rows(&rows)]);
        let page = page.map_err(|error| self.context.undecodable(plan.pstate, error))?;
        self.plan = goes_on.then_some(Ok(next));
        Ok((!page.is_empty()).then_some(page))
    }
}

impl<S> fmt::Debug for Pages<'_, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pages").field("rows", &self.rows).finish_non_exhaustive()
    }
}
