//! What differs between two ids of a topology, found by what was written between them.
//!
//! ```text
//!   ids of a topology   4  5  6  7 | 8 | 9         from 5 to 9: the undos of 6 and 7 in one generation,
//!   where they are      merged     | . | stacked   that of 8 in the next, and the run of 9
//! ```
//!
//! An undo knows the keys and ranges that its ids wrote, and so does a run. Their union is gone through in the
//! order of the keys; each key in it is read at both ids, and of a range that was deleted, what was in it at
//! either. So a difference costs as much as was written, however large the `PState` is.
//!
//! One step looks into a bounded number of undos: there may be one for each id of an hour. So the interval is cut into
//! [`Stretch`]es, each of which is gone through by itself and gives its writes in portions; what all of them have
//! given up to some key is taken together.
//!
//! A reader at an id needs the undos of one generation, a difference those of all of them: it is there as long
//! as each id of the interval is within the window ([`Wanted::window`](super::Wanted)), and otherwise refused,
//! never wrong.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::ops::{Bound, ControlFlow};

use super::layer::Part;
use super::{Direction, Error, KeyRange, State, Store, View};
use crate::probe::{Plant, planted};
use crate::types::{MicrobatchId, PStateId, TopologyId};

/// Which ids are compared: those of one topology, of which the first is not above the second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Between {
    /// Whose ids they are.
    pub topology: TopologyId,
    /// The earlier one.
    pub from: MicrobatchId,
    /// The later one.
    pub to: MicrobatchId,
}

/// Takes a key and its value at both ids, of which one is none if it was not there; and says whether to go on.
type Visit<'a> = dyn FnMut(&[u8], Option<&[u8]>, Option<&[u8]>) -> ControlFlow<()> + 'a;

/// Writes that are looked at without a pause: well below a millisecond.
const STEP_WRITES: usize = 512;

/// Undos that are looked into without a pause, which takes about as long. Tests cut small histories, too.
pub(super) const STEP_UNDOS: usize = if cfg!(test) { 4 } else { 256 };

/// Writes that are held for all stretches together, as long as that leaves each enough to be worth a look.
const HELD_WRITES: usize = 16 << 10;
const STEP_WRITES_MIN: usize = 32;

/// Rows of a deleted range that are held at a time, of each id; fewer if they take more than so many bytes.
const ROWS_MAX: usize = 256;
const ROWS_BYTES: usize = 256 << 10;

/// Keys from one up to another; none is no end.
type Keys<'a> = (&'a [u8], Option<&'a [u8]>);

impl Store {
    /// Visits what differs between two ids, in a range of keys, in order, until `visit` breaks. Only keys that
    /// were written between the two are looked at; returns how many. `visit` must not write to this store.
    ///
    /// # Errors
    /// [`Error::Expired`], at any time, if the values of an id or what was written are not kept;
    /// [`Error::Corrupt`], [`Error::Io`].
    pub async fn difference(
        &self,
        between: Between,
        pstate: PStateId,
        (from, to): (&[u8], Option<&[u8]>),
        mut visit: impl FnMut(&[u8], Option<&[u8]>, Option<&[u8]>) -> ControlFlow<()>,
    ) -> Result<usize, Error> {
        assert!(between.from <= between.to, "differences go forward");
        let mut looked_at = 0;
        let mut stretches = self.state().stretches(between, from)?;
        loop {
            for nth in 0..stretches.all.len() {
                let stretch = &mut stretches.all[nth];
                if !stretch.spans.is_empty() {
                    continue;
                }
                let Some(from) = stretch.next.take().filter(|it| to.is_none_or(|to| **it < *to))
                else {
                    continue;
                };
                let writes = stretches.writes;
                let step = self.state().written(stretch.ids, pstate, (&from, to), writes)?;
                (stretch.spans, stretch.next) = (step.spans.into(), step.next);
                if stretches.all.len() > 1 || self.inner.env.should_yield() {
                    self.inner.env.yield_now().await;
                }
            }
            let spans = stretches.take();
            if spans.is_empty() && stretches.are_done(to) {
                return Ok(looked_at);
            }
            for span in spans {
                let flow = match span {
                    Span::Key(key) => {
                        looked_at += 1;
                        self.compare(between, pstate, &key, &mut visit).await?
                    }
                    Span::Range(from, to) => {
                        let keys = (&*from, to.as_deref());
                        self.compare_range(between, pstate, keys, &mut looked_at, &mut visit)
                            .await?
                    }
                };
                if flow.is_break() {
                    return Ok(looked_at);
                }
                if self.inner.env.should_yield() {
                    self.inner.env.yield_now().await;
                }
            }
        }
    }

    async fn compare(
        &self,
        between: Between,
        pstate: PStateId,
        key: &[u8],
        visit: &mut Visit<'_>,
    ) -> Result<ControlFlow<()>, Error> {
        let to_vec = |value: Option<&[u8]>| value.map(<[u8]>::to_vec);
        let before = self.read(&between.view_before(), pstate, key, to_vec).await?;
        let compare = |after: Option<&[u8]>| {
            if before.as_deref() == after {
                ControlFlow::Continue(())
            } else {
                visit(key, before.as_deref(), after)
            }
        };
        self.read(&between.view_after(), pstate, key, compare).await
    }

    /// Compares what a range held at one id with what it held at the other, piece by piece.
    async fn compare_range(
        &self,
        between: Between,
        pstate: PStateId,
        (from, to): Keys<'_>,
        looked_at: &mut usize,
        visit: &mut Visit<'_>,
    ) -> Result<ControlFlow<()>, Error> {
        let mut from = Bound::Included(from.to_vec());
        loop {
            let keys = KeyRange {
                from: from.as_ref().map(|from| &**from),
                to: to.map_or(Bound::Unbounded, Bound::Excluded),
            };
            let before = self.rows(&between.view_before(), pstate, keys).await?;
            let after = self.rows(&between.view_after(), pstate, keys).await?;
            // Up to here both are whole.
            let end =
                [&before, &after].into_iter().filter_map(Piece::end).min().map(<[u8]>::to_vec);
            let rows = (before.upto(end.as_deref()), after.upto(end.as_deref()));
            if compare_rows(rows, looked_at, visit).is_break() {
                return Ok(ControlFlow::Break(()));
            }
            match end {
                Some(end) => from = Bound::Excluded(end),
                None => return Ok(ControlFlow::Continue(())),
            }
        }
    }

    /// Some rows from the beginning of a range.
    async fn rows(
        &self,
        view: &View<'_>,
        pstate: PStateId,
        keys: KeyRange<'_>,
    ) -> Result<Piece, Error> {
        let mut piece = Piece { rows: Vec::new(), is_last: true };
        let mut bytes = 0;
        let visit = |key: &[u8], value: &[u8]| {
            bytes += key.len() + value.len();
            piece.rows.push((key.to_vec(), value.to_vec()));
            if piece.rows.len() < ROWS_MAX && bytes < ROWS_BYTES {
                return ControlFlow::Continue(());
            }
            piece.is_last = false;
            ControlFlow::Break(())
        };
        self.scan(view, pstate, keys, Direction::Forward, usize::MAX, visit).await?;
        Ok(piece)
    }
}

impl Between {
    fn view_before(&self) -> View<'static> {
        View::at(self.topology, self.from)
    }

    fn view_after(&self) -> View<'static> {
        View::at(self.topology, self.to)
    }
}

/// Compares rows of both ids, each in order.
fn compare_rows(
    (before, after): (Vec<Row>, Vec<Row>),
    looked_at: &mut usize,
    visit: &mut Visit<'_>,
) -> ControlFlow<()> {
    let (mut before, mut after) = (before.into_iter().peekable(), after.into_iter().peekable());
    loop {
        let key = match (before.peek(), after.peek()) {
            (Some((a, _)), Some((b, _))) => a.min(b).clone(),
            (Some((key, _)), None) | (None, Some((key, _))) => key.clone(),
            (None, None) => return ControlFlow::Continue(()),
        };
        let old = before.next_if(|(it, _)| *it == key).map(|(_, value)| value);
        let new = after.next_if(|(it, _)| *it == key).map(|(_, value)| value);
        *looked_at += 1;
        if old != new {
            visit(&key, old.as_deref(), new.as_deref())?;
        }
    }
}

type Row = (Vec<u8>, Vec<u8>);

/// Rows from the beginning of a range.
struct Piece {
    rows: Vec<Row>,
    /// Nothing follows.
    is_last: bool,
}

impl Piece {
    /// The key up to which nothing is missing, if something may be missing above it.
    fn end(&self) -> Option<&[u8]> {
        self.rows.last().filter(|_| !self.is_last).map(|(key, _)| &**key)
    }

    fn upto(mut self, end: Option<&[u8]>) -> Vec<Row> {
        self.rows
            .truncate(self.rows.partition_point(|(key, _)| end.is_none_or(|end| **key <= *end)));
        self.rows
    }
}

/// Keys that were written.
#[derive(Debug, PartialEq, Eq)]
enum Span {
    Key(Vec<u8>),
    /// These were deleted, and some of them may have been written afterwards.
    Range(Vec<u8>, Option<Vec<u8>>),
}

/// Some of what was written.
struct Written {
    /// Ascending, none of them touching another one.
    spans: Vec<Span>,
    /// There may be more from here on.
    next: Option<Vec<u8>>,
}

/// Some of the ids, and what they wrote from some key on.
struct Stretch {
    ids: Between,
    spans: VecDeque<Span>,
    /// Up to here, `spans` is all; none: to the end.
    next: Option<Vec<u8>>,
}

/// All ids.
struct Stretches {
    all: Vec<Stretch>,
    /// Of each, so many writes are looked at in one step.
    writes: usize,
}

impl Stretches {
    /// The union of what is known of all of them, up to the first key of which something is not known.
    fn take(&mut self) -> Vec<Span> {
        let end = self.all.iter().filter_map(|it| it.next.as_deref()).min().map(<[u8]>::to_vec);
        let mut known = Vec::new();
        for stretch in &mut self.all {
            while let Some(span) = stretch.spans.pop_front() {
                let (below, above) = span.cut(end.as_deref());
                known.extend(below);
                if let Some(above) = above {
                    stretch.spans.push_front(above);
                    break;
                }
            }
        }
        if let [_] = &self.all[..] {
            return known;
        }
        let mut starts: Vec<_> = known.iter().map(Span::start).collect();
        starts.sort_unstable();
        let mut union = Union::default();
        for (key, reach) in starts {
            union.add(key, reach);
        }
        union.end(None)
    }

    fn are_done(&self, to: Option<&[u8]>) -> bool {
        let is_done = |next: &Vec<u8>| to.is_some_and(|to| to <= &**next);
        self.all.iter().all(|it| it.spans.is_empty() && it.next.as_ref().is_none_or(is_done))
    }
}

impl State {
    /// The ids, in stretches of so many undos; what they wrote is looked for from a key on.
    fn stretches(&self, between: Between, from: &[u8]) -> Result<Stretches, Error> {
        let undos = self.history.between(between.topology, between.from, between.to)?;
        let ends = undos.chunks_exact(STEP_UNDOS).filter_map(|some| some.last());
        let ends = ends.map(|undo| undo.last).filter(|end| *end < between.to);
        let mut ends: Vec<MicrobatchId> = ends.collect();
        // The rest of them comes with what is stacked.
        ends.push(between.to);
        let mut first = between.from;
        let all: Vec<Stretch> = ends
            .into_iter()
            .map(|last| {
                let ids =
                    Between { from: std::mem::replace(&mut first, last), to: last, ..between };
                Stretch { ids, spans: VecDeque::new(), next: Some(from.to_vec()) }
            })
            .collect();
        let writes = (HELD_WRITES / all.len()).clamp(STEP_WRITES_MIN, STEP_WRITES);
        Ok(Stretches { all, writes })
    }

    /// What was written between two ids, beginning at the lower end of `keys`, and perhaps some of what their neighbours
    /// wrote.
    fn written(
        &self,
        between: Between,
        pstate: PStateId,
        keys: Keys<'_>,
        writes: usize,
    ) -> Result<Written, Error> {
        let Between { topology, from, to } = between;
        let undos = self.history.around(topology, from, to)?;
        let mut parts: Vec<Part<'_>> = undos.iter().flat_map(|it| it.written(pstate)).collect();
        if let Some(stack) = self.stacks.get(&topology) {
            let runs = stack.runs.iter().filter(|(id, _)| from < *id && *id <= to);
            parts.extend(runs.filter_map(|(_, run)| run.part(pstate)));
        }
        if planted(Plant::DiffLostInDifference) && !parts.is_empty() {
            parts.remove(0);
        }
        Ok(merged(&parts, keys, writes))
    }
}

/// How far a write reaches from where it begins. Ranges first: they take in the keys that begin where they do.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Reach<'a> {
    /// Up to a key, or without an end.
    To(Option<&'a [u8]>),
    Key,
}

/// The union of writes that are given in the order of where they begin.
#[derive(Default)]
struct Union<'a> {
    spans: Vec<Span>,
    /// A range that may become longer.
    open: Option<Keys<'a>>,
}

impl<'a> Union<'a> {
    fn add(&mut self, key: &'a [u8], reach: Reach<'a>) {
        if let Some((_, end)) = self.open
            && end.is_some_and(|end| end < key)
        {
            self.close();
        }
        match (&mut self.open, reach) {
            // No end is above all of them.
            (Some((_, Some(end))), Reach::To(other)) => match other {
                Some(other) => *end = (*end).max(other),
                None => self.open = self.open.map(|(start, _)| (start, None)),
            },
            (Some((_, None)), Reach::To(_)) => {}
            (Some((_, end)), Reach::Key) if end.is_none_or(|end| key < end) => {}
            (_, Reach::Key) => {
                self.close();
                if !matches!(self.spans.last(), Some(Span::Key(last)) if **last == *key) {
                    self.spans.push(Span::Key(key.to_vec()));
                }
            }
            (None, Reach::To(end)) => self.open = Some((key, end)),
        }
    }

    fn close(&mut self) {
        self.spans.extend(self.open.take().map(Span::of));
    }

    /// All of it, up to a key.
    fn end(mut self, stop: Option<&'a [u8]>) -> Vec<Span> {
        if let Some((start, end)) = self.open {
            let end = match (end, stop) {
                (Some(end), Some(stop)) => Some(end.min(stop)),
                (end, stop) => end.or(stop),
            };
            self.open = Some((start, end));
        }
        self.close();
        self.spans
    }
}

/// The union of what some layers wrote of `keys`, from its lower end on, as far as one step of so many writes goes.
fn merged(parts: &[Part<'_>], (from, to): Keys<'_>, writes: usize) -> Written {
    let mut sources: Vec<_> = parts
        .iter()
        .flat_map(|part| {
            let upper = to.map_or(Bound::Unbounded, Bound::Excluded);
            let points = part.points((Bound::Included(from), upper), false);
            let points = Box::new(points.map(|(key, _)| (key, Reach::Key)));
            let ranges = part.ranges(from).map(|(start, end)| (start.max(from), Reach::To(end)));
            let ranges = ranges.take_while(move |(start, _)| to.is_none_or(|to| *start < to));
            [points as Box<dyn Iterator<Item = (&[u8], Reach<'_>)>>, Box::new(ranges)]
        })
        .collect();
    let mut heads = BinaryHeap::with_capacity(sources.len());
    for (nth, source) in sources.iter_mut().enumerate() {
        heads.extend(source.next().map(|(key, reach)| Reverse((key, reach, nth))));
    }
    let mut union = Union::default();
    let (mut taken, mut last) = (0, from);
    let mut next = None;
    while let Some(Reverse((key, reach, nth))) = heads.pop() {
        if taken >= writes && last < key {
            next = Some(key);
            break;
        }
        (taken, last) = (taken + 1, key);
        heads.extend(sources[nth].next().map(|(key, reach)| Reverse((key, reach, nth))));
        union.add(key, reach);
    }
    // The next step finds what reaches beyond its beginning.
    Written { spans: union.end(next.or(to)), next: next.map(<[u8]>::to_vec) }
}

impl Span {
    fn of((from, to): Keys<'_>) -> Self {
        Self::Range(from.to_vec(), to.map(<[u8]>::to_vec))
    }

    fn start(&self) -> (&[u8], Reach<'_>) {
        match self {
            Self::Key(key) => (key, Reach::Key),
            Self::Range(from, to) => (from, Reach::To(to.as_deref())),
        }
    }

    /// What of it lies below a key, and the rest.
    fn cut(self, end: Option<&[u8]>) -> (Option<Self>, Option<Self>) {
        let Some(end) = end else { return (Some(self), None) };
        if self.start().0 >= end {
            return (None, Some(self));
        }
        match self {
            Self::Range(from, to) if to.as_deref().is_none_or(|to| end < to) => {
                let below = Self::Range(from, Some(end.to_vec()));
                (Some(below), Some(Self::Range(end.to_vec(), to)))
            }
            below => (Some(below), None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::WriteSet;
    use super::*;

    const P: PStateId = PStateId(1);

    /// One run for each of these lists; two ends are a range.
    fn union(runs: &[&[&str]], keys: (&str, Option<&str>)) -> Vec<String> {
        let runs = runs.iter().map(|writes| {
            let mut set = WriteSet::default();
            for write in *writes {
                match write.split_once("..") {
                    Some((from, "")) => set.delete_range(P, from.as_bytes(), None),
                    Some((from, to)) => {
                        set.delete_range(P, from.as_bytes(), Some(to.as_bytes()));
                    }
                    None => set.put(P, write.as_bytes(), b""),
                }
            }
            set.seal()
        });
        let runs: Vec<_> = runs.collect();
        let parts: Vec<Part<'_>> = runs.iter().filter_map(|run| run.part(P)).collect();
        let written = merged(&parts, (keys.0.as_bytes(), keys.1.map(str::as_bytes)), STEP_WRITES);
        assert_eq!(written.next, None);
        let text = |key: &[u8]| String::from_utf8(key.to_vec()).unwrap();
        let show = |span: &Span| match span {
            Span::Key(key) => text(key),
            Span::Range(from, None) => format!("{}..", text(from)),
            Span::Range(from, Some(to)) => format!("{}..{}", text(from), text(to)),
        };
        written.spans.iter().map(show).collect()
    }

    #[test]
    fn what_was_written_is_gone_through_once_and_in_order() {
        let all = ("", None);
        assert!(union(&[], all).is_empty());
        assert_eq!(union(&[&["b", "d"], &["a", "b"]], all), ["a", "b", "d"]);
        assert_eq!(union(&[&["b..d", "c"], &["b", "d"]], all), ["b..d", "d"]);
        assert_eq!(union(&[&["b..d"], &["c..f", "a..b"]], all), ["a..f"]);
        assert_eq!(union(&[&["b..d", "x"], &["c.."], &["a"]], all), ["a", "b.."]);
        let some = ("b", Some("d"));
        assert_eq!(union(&[&["a", "b", "c", "d"]], some), ["b", "c"]);
        assert_eq!(union(&[&["a..c"], &["d..e"], &["cx"]], some), ["b..c", "cx"]);
        assert_eq!(union(&[&["a.."], &["c"]], some), ["b..d"]);
    }

    #[test]
    fn a_step_ends_where_the_next_one_begins() {
        let mut set = WriteSet::default();
        let key = |nth: usize| u32::try_from(nth).unwrap().to_be_bytes();
        for nth in 0..3 * STEP_WRITES {
            set.put(P, &key(2 * nth), b"");
        }
        let points = set.seal();
        let mut set = WriteSet::default();
        set.delete_range(P, &key(100), Some(&key(3 * STEP_WRITES)));
        let range = set.seal();
        let parts: Vec<Part<'_>> = [&points, &range].iter().filter_map(|it| it.part(P)).collect();
        let (mut from, mut spans, mut steps) = (Vec::new(), Vec::new(), 0);
        loop {
            let step = merged(&parts, (&from, None), STEP_WRITES);
            spans.extend(step.spans);
            steps += 1;
            match step.next {
                Some(next) => {
                    assert!(from < next);
                    from = next;
                }
                None => break,
            }
        }
        assert!(steps >= 3, "{steps}");
        let mut end: &[u8] = &[];
        let mut covered = 0;
        for span in &spans {
            match span {
                Span::Key(key) => {
                    assert!(end.is_empty() || end <= &**key);
                    end = key;
                }
                Span::Range(from, to) => {
                    assert!(end <= &**from);
                    end = to.as_deref().unwrap();
                    covered += 1;
                }
            }
        }
        let keys = spans.len() - covered;
        assert_eq!(keys, 50 + 3 * STEP_WRITES - 3 * STEP_WRITES / 2);
        assert!(covered <= steps);
    }
}
