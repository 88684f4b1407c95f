//! Long ranges, read page by page.

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use super::merge::{Part, merge_into};
use super::select::{Moment, SelectOn, decode};
use super::{Launched, Snapshot};
use crate::error::{Error, Result};
use crate::schema::path::Many;
use crate::schema::{Anyone, Open, Path, ReadOp, ReadPlan, Reads, RowOf, Rows, Select};
use crate::shard::message::{ReadAnswer, When};
use crate::types::PartitionId;

impl<H> Launched<H> {
    /// Reads a range in pages of `rows` rows, all of one moment: that of the first page, or of a snapshot. Of a
    /// range over first keys, the rows of all partitions come in one order.
    ///
    /// A page costs one seek and a scan in each partition it asks, however far into the range it lies. The
    /// moment is held as a [`Snapshot`] holds it, as long as the pages live.
    ///
    /// ```
    /// use tidemill::schema::Map;
    /// # use tidemill::{Engine, Options, block_on};
    /// # let dir = tempfile::tempdir_in(".").unwrap();
    /// # let engine = block_on(Engine::open(dir.path(), Options::default()))?;
    /// # let shop = block_on(engine.launch("shop", |m| {
    /// #     let sales = m.depot::<(String, u64)>("sales").hash_by(|(item, _)| item);
    /// #     let selling = m.microbatch(|| "selling");
    /// #     let sold = selling.pstate::<Map<String, u64>>("sold");
    /// #     selling.source(sales).using(sold).for_each(async |at, sold, (item, n)| Ok(at.put(sold.key(item), n)?));
    /// #     (sales, sold.reader())
    /// # }))?;
    /// # let (sales, sold) = *shop;
    /// # block_on(async {
    /// # for (nth, item) in (1..).zip(["tea", "salt", "rice", "nuts", "corn"]) {
    /// #     shop.append(sales, &(item.to_owned(), nth)).await?;
    /// # }
    /// # shop.caught_up("selling").await?;
    /// let mut pages = shop.pages(sold.all().keys(), 2);
    /// let mut items = Vec::new();
    /// while let Some(page) = pages.next().await? {
    ///     assert!(page.len() <= 2);
    ///     items.extend(page);
    /// }
    /// assert_eq!(items, ["corn", "nuts", "rice", "salt", "tea"]);
    /// # Ok::<(), tidemill::Error>(())
    /// # })?;
    /// # block_on(engine.close())?;
    /// # Ok::<(), tidemill::Error>(())
    /// ```
    ///
    /// # Panics
    /// If `rows` is 0.
    pub fn pages<S: RowOf, O: Open>(&self, path: Path<S, Many, O>, rows: usize) -> Pages<S> {
        self.pages_inside(path, rows)
    }

    /// The same, of private `PState`s, too.
    pub(crate) fn pages_inside<S: RowOf, O>(
        &self,
        path: Path<S, Many, O>,
        rows: usize,
    ) -> Pages<S> {
        assert!(rows > 0, "a page has rows");
        let on = SelectOn { engine: self.engine.clone(), module: Arc::clone(&self.module) };
        let reads = path.reads().map_err(Error::invalid);
        Pages {
            on,
            rows,
            moment: Moment::Now,
            within: None,
            state: State::New(reads),
            types: PhantomData,
        }
    }
}

/// A range that is read page by page: see [`Launched::pages`].
pub struct Pages<S> {
    on: SelectOn,
    rows: usize,
    moment: Moment,
    within: Option<Duration>,
    state: State,
    types: PhantomData<fn() -> S>,
}

enum State {
    New(Result<Reads>),
    Reading(Reading),
}

struct Reading {
    plan: ReadPlan,
    sources: Vec<Source>,
    /// Rows of the next page.
    page: Rows,
    /// So many rows may follow.
    left: usize,
}

/// What one partition gives.
struct Source {
    partition: PartitionId,
    /// What is to be read behind what was; none if nothing is.
    next: Option<ReadOp>,
    rows: Rows,
    /// So many of the rows are in pages.
    taken: usize,
}

impl<S: RowOf> Pages<S> {
    /// Reads what the snapshot, which must be of the same module, holds.
    #[must_use]
    pub fn at(mut self, snapshot: &Snapshot) -> Self {
        self.moment = Moment::At(snapshot.clone());
        self
    }

    /// Gives each page so long, counted on its shards from when they get to it.
    #[must_use]
    pub fn within(mut self, time: Duration) -> Self {
        self.within = Some(time);
        self
    }

    /// The next rows: as many as a page has, fewer at the end, and none behind it. After an error, or if the
    /// future was dropped, the same page comes again: of rows that do not decode, the same error, unless what reads
    /// them has changed its mind.
    ///
    /// # Errors
    /// As [`Launched::select`]; `Timeout` if a time was given. `SnapshotExpired` if so much was written since
    /// the first page that the moment could not be kept: begin anew, or with larger pages.
    pub async fn next(&mut self) -> Result<Option<Vec<S::Row>>> {
        if let Moment::Now = self.moment {
            self.moment = self.on.now();
        }
        if let State::New(reads) = &self.state {
            let reads = reads.clone()?;
            let [plan] = reads.as_slice() else { unreachable!("a range is one read") };
            let only = reads.partition(self.on.engine.partitions()).map_err(Error::invalid)?;
            let partitions = match only {
                Some(partition) => vec![partition],
                None => (0..self.on.engine.partitions()).map(PartitionId).collect(),
            };
            let left = match &plan.op {
                ReadOp::Range(range) => range.limit,
                ReadOp::Items(items) if items.reverse => {
                    let what = "pages of `items` come in the order of the list: \
                                `.all().reverse()` goes through it from its end";
                    return Err(Error::invalid(what));
                }
                ReadOp::Items(items) => Some(items.count),
                ReadOp::Get { .. } | ReadOp::Has { .. } | ReadOp::Behind(_) => {
                    unreachable!("a range was asked for, behind no item")
                }
            };
            let source = |partition| Source {
                partition,
                next: Some(plan.op.clone()),
                rows: Rows::new(),
                taken: 0,
            };
            self.state = State::Reading(Reading {
                left: left.map_or(usize::MAX, |left| usize::try_from(left).unwrap_or(usize::MAX)),
                sources: partitions.into_iter().map(source).collect(),
                plan: plan.clone(),
                page: Rows::new(),
            });
        }
        let when = self.on.when_of(&self.moment, std::iter::empty())?;
        let State::Reading(reading) = &mut self.state else { unreachable!("it was begun") };
        let limit = self.rows.min(reading.left);
        while reading.page.len() < limit && !reading.sources.iter().all(Source::is_done) {
            reading.fill(&self.on, limit, &when, self.within).await?;
            reading.merge(limit);
        }
        if reading.page.is_empty() {
            return Ok(None);
        }
        let reads = Reads::One(reading.plan.clone());
        let answers = [ReadAnswer::Rows(std::mem::take(&mut reading.page))];
        let decoded = decode::<Path<S, Many, Anyone>>(&self.on.module.fields, &reads, &answers);
        let [ReadAnswer::Rows(page)] = answers else { unreachable!("it was made above") };
        if decoded.is_err() {
            // It stays, so that whoever asks again is not given what lies behind it.
            reading.page = page;
        } else {
            reading.left -= page.len();
        }
        decoded.map(Some)
    }
}

impl<S> fmt::Debug for Pages<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pages").field("rows", &self.rows).finish_non_exhaustive()
    }
}

impl Reading {
    /// Reads on wherever nothing is left of what was read; all partitions at once.
    async fn fill(
        &mut self,
        on: &SelectOn,
        limit: usize,
        when: &When,
        within: Option<Duration>,
    ) -> Result<()> {
        let mut asked = Vec::new();
        for (place, source) in self.sources.iter().enumerate() {
            let Some(op) = source.next.as_ref().filter(|_| source.is_used_up()) else { continue };
            let mut plan = ReadPlan { op: op.clone(), ..self.plan.clone() };
            match &mut plan.op {
                ReadOp::Range(range) => range.limit = Some(limit as u64),
                ReadOp::Items(items) => items.count = items.count.min(limit as u64),
                ReadOp::Get { .. } | ReadOp::Has { .. } | ReadOp::Behind(_) => {
                    unreachable!("a range was asked for, behind no item")
                }
            }
            asked.push((place, on.ask(source.partition, [&plan], when.clone(), within)));
        }
        for (place, (shard, answer)) in asked {
            let mut answers = on.engine.inner.node.answered(shard, answer).await?;
            let Some(ReadAnswer::Rows(rows)) = answers.pop() else {
                unreachable!("a range is answered by rows")
            };
            self.sources[place].take(rows, limit);
        }
        Ok(())
    }

    fn merge(&mut self, limit: usize) {
        let reverse = match &self.plan.op {
            ReadOp::Range(range) => range.reverse,
            _ => false,
        };
        let mut parts: Vec<_> = self.sources.iter().map(Source::part).collect();
        merge_into(&mut parts, reverse, limit, &mut self.page);
        let taken: Vec<_> = parts.iter().map(|part| part.taken).collect();
        for (source, taken) in self.sources.iter_mut().zip(taken) {
            source.taken = taken;
        }
    }
}

impl Source {
    fn is_used_up(&self) -> bool {
        self.taken == self.rows.len()
    }

    fn is_done(&self) -> bool {
        self.is_used_up() && self.next.is_none()
    }

    fn part(&self) -> Part<'_> {
        Part { rows: &self.rows, taken: self.taken, ends: self.next.is_none() }
    }

    /// Takes what was read, which is the last if there are fewer rows than were asked for.
    fn take(&mut self, rows: Rows, limit: usize) {
        let goes_on = rows.len() >= limit
            && match (&mut self.next, rows.len().checked_sub(1).and_then(|last| rows.get(last))) {
                (Some(ReadOp::Range(range)), Some((last, _))) => range.resume_behind(last),
                (Some(ReadOp::Items(items)), Some(_)) => {
                    items.from += rows.len() as u64;
                    items.count -= rows.len() as u64;
                    items.count > 0
                }
                _ => false,
            };
        if !goes_on {
            self.next = None;
        }
        (self.rows, self.taken) = (rows, 0);
    }
}
