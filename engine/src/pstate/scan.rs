//! Range scans over all layers, in both directions.
//!
//! A scan works leaf by leaf: it finds the leaf of its position, merges the part of every layer that
//! lies between the leaf's bounds, and moves its position on. Between two steps nothing is borrowed, so
//! the store may change; a step sees one state.

use std::ops::{Bound, ControlFlow};
use std::rc::Rc;

use super::layer::{Known, Part, Points};
use super::read::Loaded;
use super::undo::first_known;
use super::{Direction, Error, KeyRange, Store, View};
use crate::page::blob::ChunkList;
use crate::page::node::{Node, Value};
use crate::page::{Expected, Page};
use crate::types::PStateId;

/// Entries looked at without a pause, tombstones included: well below a millisecond.
const STEP_ENTRIES_MAX: usize = 512;

/// Sibling leaves fetched ahead, from the second leaf on.
const AHEAD: usize = 8;

/// Takes a key and its value, and says whether to go on.
type Visit<'a> = dyn FnMut(&[u8], &[u8]) -> ControlFlow<()> + 'a;

/// The part of the range not yet visited.
struct Rest {
    from: Bound<Vec<u8>>,
    to: Bound<Vec<u8>>,
}

impl Rest {
    fn is_empty(&self) -> bool {
        match (&self.from, &self.to) {
            (Bound::Unbounded, _) | (_, Bound::Unbounded) => false,
            (Bound::Included(from), Bound::Included(to)) => from > to,
            (
                Bound::Included(from) | Bound::Excluded(from),
                Bound::Included(to) | Bound::Excluded(to),
            ) => from >= to,
        }
    }
}

/// A leaf, and the keys that may be in it: at or above `low`, below `high`; none is no bound.
struct Place {
    leaf: Rc<Page>,
    low: Option<Vec<u8>>,
    high: Option<Vec<u8>>,
}

/// How a step ended.
enum Step {
    /// Everything up to the end of the leaf, or the step's own limit, was visited.
    Moved,
    /// The visitor or the limit ended the scan, or the range is done.
    Done,
    /// The value of the next key must be loaded first.
    Blob(Vec<u8>, ChunkList),
}

impl Store {
    /// Visits at most `limit` keys of `range` in order, until `visit` breaks. Returns how many it
    /// visited. Each key and value is current when it is visited; what becomes visible meanwhile may or
    /// may not be seen, except by a view at an id, for which nothing changes. Yields between pages. `visit`
    /// must not write to this store.
    ///
    /// # Errors
    /// [`Error::Corrupt`], [`Error::Io`]; [`Error::Expired`] of a view at an id, at any time.
    pub async fn scan(
        &self,
        view: &View<'_>,
        pstate: PStateId,
        range: KeyRange<'_>,
        direction: Direction,
        limit: usize,
        mut visit: impl FnMut(&[u8], &[u8]) -> ControlFlow<()>,
    ) -> Result<usize, Error> {
        let mut rest =
            Rest { from: range.from.map(<[u8]>::to_vec), to: range.to.map(<[u8]>::to_vec) };
        let mut visited = 0;
        let mut steps = 0;
        let mut held = Loaded::default();
        while visited < limit && !rest.is_empty() {
            let (fold, place) = self.find_leaf(view, pstate, &rest, direction, steps > 0).await?;
            let step = {
                let state = self.state();
                let (now, parts, under) = match view.exact() {
                    None => (state.fold, state.parts(view, pstate).collect(), 0),
                    Some(exact) => {
                        let past = state.past(view, exact, pstate)?;
                        (past.fold, past.parts, past.under)
                    }
                };
                if now != fold {
                    // The leaf belongs to an older root, and what it lacks is no longer in a layer.
                    continue;
                }
                let layers = Layers { parts: &parts, under };
                let mut count = |key: &[u8], value: &[u8]| {
                    visited += 1;
                    match visit(key, value) {
                        ControlFlow::Continue(()) if visited < limit => ControlFlow::Continue(()),
                        _ => ControlFlow::Break(()),
                    }
                };
                self.step(pstate, &layers, place.as_ref(), &mut rest, direction, &mut count)?
            };
            steps += 1;
            match step {
                Step::Moved => {
                    if self.inner.env.should_yield() {
                        self.inner.env.yield_now().await;
                    }
                }
                Step::Done => break,
                Step::Blob(key, list) => {
                    let file = self.state().file.clone();
                    let file = file.ok_or_else(|| self.corrupt(0, "a blob without a file"))?;
                    match self.load_blob(&file, pstate, &key, &list).await {
                        Err(Error::Corrupt { .. }) if self.has_moved(view, pstate, fold) => {}
                        loaded => held = loaded?,
                    }
                }
            }
        }
        drop(held);
        Ok(visited)
    }

    /// The leaf where the scan goes on; none if the tree is empty.
    async fn find_leaf(
        &self,
        view: &View<'_>,
        pstate: PStateId,
        rest: &Rest,
        direction: Direction,
        ahead: bool,
    ) -> Result<(u64, Option<Place>), Error> {
        loop {
            let (fold, root, file) = self.ground(view, pstate)?;
            let Some(file) = file.filter(|_| root.depth > 0) else { return Ok((fold, None)) };
            let mut at = root.child.page;
            let (mut low, mut high) = (None, None);
            let mut level = root.depth;
            let mut above: Option<(Rc<Page>, usize)> = None;
            let found = loop {
                level -= 1;
                let expected = Expected::Node { pstate, level };
                let files = (self.inner.file_id, &file);
                let page = match self.inner.cache.load(&self.inner.env, files, at, expected).await {
                    Ok(page) => page,
                    Err(Error::Corrupt { .. }) if self.has_moved(view, pstate, fold) => break None,
                    Err(error) => return Err(error),
                };
                if level == 0 {
                    if let Some((branch, nth)) = above.filter(|_| ahead) {
                        self.read_ahead(pstate, &branch.node(), nth, direction);
                    }
                    break Some(Place { leaf: page, low, high });
                }
                let node = page.node();
                let nth = child_for(&node, rest, direction);
                if nth > 0 {
                    low = Some(node.key(nth));
                }
                if nth + 1 < node.count() {
                    high = Some(node.key(nth + 1));
                }
                at = node.child(nth).page;
                above = Some((page, nth));
            };
            if let Some(place) = found {
                return Ok((fold, Some(place)));
            }
        }
    }

    fn read_ahead(&self, pstate: PStateId, branch: &Node<'_>, nth: usize, direction: Direction) {
        let Some(file) = self.state().file.clone() else { return };
        let siblings = match direction {
            Direction::Forward => nth + 1..branch.count().min(nth + 1 + AHEAD),
            Direction::Backward => nth.saturating_sub(AHEAD)..nth,
        };
        for sibling in siblings {
            let (at, expected) = (branch.child(sibling).page, Expected::Node { pstate, level: 0 });
            if self.inner.cache.lookup(self.inner.file_id, &at, expected).is_none() {
                let files = (self.inner.file_id, &file);
                drop(self.inner.cache.start(&self.inner.env, files, at, expected));
            }
        }
    }

    /// Merges the layers with one leaf, as far as both reach, and moves `rest` on.
    fn step(
        &self,
        pstate: PStateId,
        layers: &Layers<'_>,
        place: Option<&Place>,
        rest: &mut Rest,
        direction: Direction,
        visit: &mut Visit<'_>,
    ) -> Result<Step, Error> {
        let backward = direction == Direction::Backward;
        let (bounds, last) = clip(rest, place, direction);
        let range = (bound(&bounds.from), bound(&bounds.to));
        let mut sources: Vec<Source<'_>> = Vec::new();
        if !bounds.is_empty() {
            for part in layers.parts {
                let mut points = part.points(range, backward);
                let next = points.next();
                sources.push(Source { points, next });
            }
        }
        let mut leaf = place
            .filter(|_| !bounds.is_empty())
            .map(|place| Leaf::new(place.leaf.node(), range, backward));
        for _ in 0..STEP_ENTRIES_MAX {
            let best = |a: &[u8], b: &[u8]| if backward { a > b } else { a < b };
            let mut next: Option<&[u8]> = leaf.as_ref().and_then(Leaf::key);
            for source in &sources {
                if let Some((key, _)) = source.next
                    && next.is_none_or(|next| best(key, next))
                {
                    next = Some(key);
                }
            }
            let Some(key) = next else {
                if last {
                    return Ok(Step::Done);
                }
                rest.advance(bounds, direction);
                return Ok(Step::Moved);
            };
            let key = key.to_vec();
            // The newest layer that knows the key decides, be it by a key or a range.
            let known = first_known(layers.parts, layers.under, |nth, part| {
                match (part, sources[nth].next) {
                    (Part::Below(_), _) => part.lookup(&key),
                    (_, Some((found, value))) if found == key => Some(Known::from(value)),
                    _ => part.covers(&key).then_some(Known::Gone),
                }
            });
            let in_leaf = leaf.as_ref().is_some_and(|leaf| leaf.key() == Some(&*key));
            let flow = match known {
                Some(Known::Value(value)) => visit(&key, value),
                Some(Known::Gone) => ControlFlow::Continue(()),
                Some(Known::Below) => unreachable!("nothing under a memtable says so"),
                None => match leaf.as_ref().filter(|_| in_leaf).map(Leaf::value) {
                    Some(Value::Inline(value)) => visit(&key, value),
                    Some(Value::Chunked(list)) => {
                        let byte = place.map_or(0, |place| place.leaf.at().byte());
                        let list = self.chunk_list(pstate, &key, list, byte)?;
                        if let Some(value) = self.cached_blob(pstate, &key, &list)? {
                            visit(&key, &value)
                        } else {
                            rest.stand_at(Bound::Included(key.clone()), direction);
                            return Ok(Step::Blob(key, list));
                        }
                    }
                    // An undo says that the key was not there when the leaf's tree was what it is.
                    None => {
                        assert!(layers.under > 0, "the key came from a source or the leaf");
                        ControlFlow::Continue(())
                    }
                },
            };
            for source in &mut sources {
                if source.next.is_some_and(|(found, _)| found == key) {
                    source.next = source.points.next();
                }
            }
            if let Some(leaf) = leaf.as_mut().filter(|_| in_leaf) {
                leaf.advance();
            }
            rest.stand_at(Bound::Excluded(key), direction);
            if flow.is_break() {
                return Ok(Step::Done);
            }
        }
        Ok(Step::Moved)
    }
}

/// What lies over a leaf, newest first; of a view at an id, `under` of them lie over what an undo calls
/// *below*.
struct Layers<'a> {
    parts: &'a [Part<'a>],
    under: usize,
}

/// One layer's points, and the next of them.
struct Source<'a> {
    points: Points<'a>,
    next: Option<(&'a [u8], Option<&'a [u8]>)>,
}

/// The entries of a leaf in a range, in one direction.
struct Leaf<'a> {
    node: Node<'a>,
    left: std::ops::Range<usize>,
    backward: bool,
    key: Vec<u8>,
}

impl<'a> Leaf<'a> {
    fn new(node: Node<'a>, (from, to): (Bound<&[u8]>, Bound<&[u8]>), backward: bool) -> Self {
        let first = match from {
            Bound::Unbounded => 0,
            Bound::Included(key) => node.search(key).unwrap_or_else(|nth| nth),
            Bound::Excluded(key) => node.search(key).map_or_else(|nth| nth, |nth| nth + 1),
        };
        let end = match to {
            Bound::Unbounded => node.count(),
            Bound::Included(key) => node.search(key).map_or_else(|nth| nth, |nth| nth + 1),
            Bound::Excluded(key) => node.search(key).unwrap_or_else(|nth| nth),
        };
        let mut leaf = Self { node, left: first..end.max(first), backward, key: Vec::new() };
        leaf.fill();
        leaf
    }

    fn nth(&self) -> usize {
        if self.backward { self.left.end - 1 } else { self.left.start }
    }

    fn fill(&mut self) {
        if !self.left.is_empty() {
            let nth = self.nth();
            self.node.key_into(nth, &mut self.key);
        }
    }

    fn key(&self) -> Option<&[u8]> {
        (!self.left.is_empty()).then_some(&*self.key)
    }

    fn value(&self) -> Value<'a> {
        self.node.value(self.nth())
    }

    fn advance(&mut self) {
        if self.backward {
            self.left.end -= 1;
        } else {
            self.left.start += 1;
        }
        self.fill();
    }
}

impl Rest {
    fn stand_at(&mut self, at: Bound<Vec<u8>>, direction: Direction) {
        match direction {
            Direction::Forward => self.from = at,
            Direction::Backward => self.to = at,
        }
    }

    /// Goes on where the part `done`, the near end of the rest, ends.
    fn advance(&mut self, done: Self, direction: Direction) {
        let edge = match direction {
            Direction::Forward => done.to,
            Direction::Backward => done.from,
        };
        let edge = match edge {
            Bound::Included(key) => Bound::Excluded(key),
            Bound::Excluded(key) => Bound::Included(key),
            Bound::Unbounded => Bound::Unbounded,
        };
        self.stand_at(edge, direction);
    }
}

/// The part of `rest` that can be in the leaf, and whether that is all of it.
fn clip(rest: &Rest, place: Option<&Place>, direction: Direction) -> (Rest, bool) {
    let mut part = Rest { from: rest.from.clone(), to: rest.to.clone() };
    match direction {
        Direction::Forward => {
            let high = place.and_then(|place| place.high.as_ref());
            let ends_before = |high: &Vec<u8>| match &rest.to {
                Bound::Unbounded => false,
                Bound::Included(to) => to < high,
                Bound::Excluded(to) => to <= high,
            };
            match high {
                Some(high) if !ends_before(high) => part.to = Bound::Excluded(high.clone()),
                _ => return (part, true),
            }
        }
        Direction::Backward => {
            let low = place.and_then(|place| place.low.as_ref());
            let begins_after = |low: &Vec<u8>| match &rest.from {
                Bound::Unbounded => false,
                Bound::Included(from) | Bound::Excluded(from) => from >= low,
            };
            match low {
                Some(low) if !begins_after(low) => part.from = Bound::Included(low.clone()),
                _ => return (part, true),
            }
        }
    }
    (part, false)
}

/// The child of a branch that holds the near end of the rest.
fn child_for(node: &Node<'_>, rest: &Rest, direction: Direction) -> usize {
    match (direction, &rest.from, &rest.to) {
        (Direction::Forward, Bound::Unbounded, _) => 0,
        (Direction::Forward, Bound::Included(key) | Bound::Excluded(key), _)
        | (Direction::Backward, _, Bound::Included(key)) => node.child_of(key),
        (Direction::Backward, _, Bound::Unbounded) => node.count() - 1,
        // Keys strictly below: a separator equal to the bound leads one child too far.
        (Direction::Backward, _, Bound::Excluded(key)) => match node.search(key) {
            Ok(nth) | Err(nth) => nth.saturating_sub(1),
        },
    }
}

fn bound(bound: &Bound<Vec<u8>>) -> Bound<&[u8]> {
    bound.as_ref().map(|key| &**key)
}
