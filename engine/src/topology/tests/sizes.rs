//! Sizes of collections: against a model, on a store and in a module, and what they cost.

use std::collections::{BTreeMap, BTreeSet};

use proptest::collection::vec;
use proptest::prelude::*;
use serde::{Deserialize, Serialize};

use super::launch;
use crate::module::{Depot, Module};
use crate::schema::aggregate::{MultiSet, SetOf, SetRemove};
use crate::schema::sizes::audit;
use crate::schema::{List, Map, Owned, PState, Schema, Select, Set, Sub, Uncounted};
use crate::testing::TestPState;
use crate::topology::harness::Harness;
use crate::topology::{At, Result};

mod costs;
mod queries;

/// Everything that counts, in everything that does.
#[derive(Schema)]
struct Whole {
    sets: Sub<Map<u8, Sub<Set<u8>>>>,
    books: Sub<Map<u8, Book>>,
    flat: Sub<Map<u8, u16>>,
    free: Sub<Map<u8, u16>, Uncounted>,
    words: Sub<Map<u8, u32>>,
    tags: Sub<Set<u8>>,
}

#[derive(Schema)]
struct Book {
    title: String,
    tags: Sub<Set<u8>>,
    notes: Sub<List<u8>>,
}

type Wholes = Map<u8, Whole>;

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Edit {
    key: u8,
    a: u8,
    b: u8,
    what: What,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
enum What {
    Add,
    Take,
    /// Adds it, and takes it away again.
    Blink,
    ClearSet,
    ClearSets,
    /// Elements from `b` on, at most so many, the last ones if said.
    RangeOfSet(Option<u64>, bool),
    Title,
    Untitle,
    Tag,
    Untag,
    Note,
    /// Removes the first note, if there is one.
    Unnote,
    ClearNotes,
    ClearBook,
    ClearBooks,
    Flat,
    /// Puts it where nothing is, and removes it where something is.
    Toggle,
    RangeOfFlat(Option<u64>, bool),
    Free,
    RangeOfFree,
    ClearAll,
    /// Looks at the sizes in between.
    Look,
    /// Counts `a`, and adds it to the tags or removes it.
    Aggregate(bool),
}

fn any_edit() -> impl Strategy<Value = Edit> {
    let limited = || (proptest::option::of(0_u64..3), any::<bool>());
    let what = prop_oneof![
        6 => Just(What::Add),
        3 => Just(What::Take),
        1 => Just(What::Blink),
        2 => Just(What::ClearSet),
        1 => Just(What::ClearSets),
        2 => limited().prop_map(|(limit, reverse)| What::RangeOfSet(limit, reverse)),
        2 => Just(What::Title),
        2 => Just(What::Untitle),
        2 => Just(What::Tag),
        2 => Just(What::Untag),
        2 => Just(What::Note),
        2 => Just(What::Unnote),
        1 => Just(What::ClearNotes),
        1 => Just(What::ClearBook),
        1 => Just(What::ClearBooks),
        3 => Just(What::Flat),
        3 => Just(What::Toggle),
        2 => limited().prop_map(|(limit, reverse)| What::RangeOfFlat(limit, reverse)),
        1 => Just(What::Free),
        1 => Just(What::RangeOfFree),
        1 => Just(What::ClearAll),
        2 => Just(What::Look),
        3 => any::<bool>().prop_map(What::Aggregate),
    ];
    (0_u8..2, 0_u8..3, 0_u8..4, what).prop_map(|(key, a, b, what)| Edit { key, a, b, what })
}

/// The sizes of what an edit is about.
type Seen = (u64, u64, u64, u64);

/// What it does; and the sizes it sees, if it looks.
async fn apply<O>(at: At<'_, O>, all: Owned<Wholes, O>, edit: &Edit) -> Result<Option<Seen>> {
    let Edit { key, a, b, what } = *edit;
    let whole = || all.key(key);
    let (sets, flat) = (|| whole().field(|it| it.sets), || whole().field(|it| it.flat));
    let free = || whole().field(|it| it.free);
    let books = || whole().field(|it| it.books);
    let book = || books().key(a);
    match what {
        What::Add => at.put(sets().key(a).has(b), true)?,
        What::Take => at.put(sets().key(a).has(b), false)?,
        What::Blink => {
            at.put(sets().key(a).has(b), true)?;
            at.delete(sets().key(a).has(b))?;
        }
        What::ClearSet => at.delete(sets().key(a))?,
        What::ClearSets => at.delete(sets())?,
        What::RangeOfSet(limit, reverse) => {
            let mut range = sets().key(a).range(b..);
            range = limit.map_or(range.clone(), |limit| range.limit(limit));
            at.remove_range(if reverse { range.reverse() } else { range }).await?;
        }
        What::Title => at.put(book().field(|it| it.title), format!("title {b}"))?,
        What::Untitle => at.delete(book().field(|it| it.title))?,
        What::Tag => at.put(book().field(|it| it.tags).has(b), true)?,
        What::Untag => at.put(book().field(|it| it.tags).has(b), false)?,
        What::Note => at.push(book().field(|it| it.notes), b).await?,
        What::Unnote => {
            if at.get(book().field(|it| it.notes).size()).await? > 0 {
                at.remove(book().field(|it| it.notes), 0).await?;
            }
        }
        What::ClearNotes => at.delete(book().field(|it| it.notes))?,
        What::ClearBook => at.delete(book())?,
        What::ClearBooks => at.delete(books())?,
        What::Flat => at.put(flat().key(b), a.into())?,
        What::Toggle => {
            let toggled = |old: Option<u16>| old.is_none().then_some(9);
            at.update(flat().key(b), toggled).await?;
        }
        What::RangeOfFlat(limit, reverse) => {
            let mut range = flat().range(b..);
            range = limit.map_or(range.clone(), |limit| range.limit(limit));
            at.remove_range(if reverse { range.reverse() } else { range }).await?;
        }
        What::Free => at.put(free().key(b), a.into())?,
        What::RangeOfFree => at.delete_range(free().range(b..))?,
        What::ClearAll => at.delete(whole())?,
        What::Look => {
            let sizes = (sets().size(), sets().key(a).size(), books().size(), flat().size());
            return Ok(Some(at.get(sizes).await?));
        }
        What::Aggregate(_) => {}
    }
    Ok(None)
}

#[derive(Clone, Debug, Default, PartialEq)]
struct ModelBook {
    title: Option<String>,
    tags: BTreeSet<u8>,
    notes: Vec<u8>,
}

#[derive(Clone, Debug, Default)]
struct ModelWhole {
    /// None is empty.
    sets: BTreeMap<u8, BTreeSet<u8>>,
    /// The same.
    books: BTreeMap<u8, ModelBook>,
    flat: BTreeMap<u8, u16>,
    free: BTreeMap<u8, u16>,
    words: BTreeMap<u8, u32>,
    tags: BTreeSet<u8>,
}

impl ModelWhole {
    fn apply(&mut self, edit: &Edit) -> Option<Seen> {
        let Edit { a, b, what, .. } = *edit;
        let book = self.books.entry(a).or_default();
        let set = self.sets.entry(a).or_default();
        let mut seen = None;
        match what {
            What::Add => drop(set.insert(b)),
            What::Take | What::Blink => drop(set.remove(&b)),
            What::ClearSet => set.clear(),
            What::ClearSets => self.sets.clear(),
            What::RangeOfSet(limit, reverse) => {
                for element in some(set.range(b..).copied(), limit, reverse) {
                    set.remove(&element);
                }
            }
            What::Title => book.title = Some(format!("title {b}")),
            What::Untitle => book.title = None,
            What::Tag => drop(book.tags.insert(b)),
            What::Untag => drop(book.tags.remove(&b)),
            What::Note => book.notes.push(b),
            What::Unnote => drop(book.notes.drain(..book.notes.len().min(1))),
            What::ClearNotes => book.notes.clear(),
            What::ClearBook => *book = ModelBook::default(),
            What::ClearBooks => self.books.clear(),
            What::Flat => drop(self.flat.insert(b, a.into())),
            What::Toggle => {
                if self.flat.remove(&b).is_none() {
                    self.flat.insert(b, 9);
                }
            }
            What::RangeOfFlat(limit, reverse) => {
                let keys = some(self.flat.range(b..).map(|(key, _)| *key), limit, reverse);
                self.flat.retain(|key, _| !keys.contains(key));
            }
            What::Free => drop(self.free.insert(b, a.into())),
            What::RangeOfFree => self.free.retain(|key, _| *key < b),
            What::ClearAll => *self = Self::default(),
            What::Look => seen = Some(b),
            What::Aggregate(adds) => {
                *self.words.entry(a).or_default() += 1;
                if adds {
                    self.tags.insert(a)
                } else {
                    self.tags.remove(&a)
                };
            }
        }
        self.sets.retain(|_, set| !set.is_empty());
        self.books.retain(|_, book| *book != ModelBook::default());
        seen.map(|_| {
            let set = self.sets.get(&a).map_or(0, BTreeSet::len);
            let sizes = [self.sets.len(), set, self.books.len(), self.flat.len()];
            sizes.map(|size| size as u64).into()
        })
    }
}

fn some(keys: impl DoubleEndedIterator<Item = u8>, limit: Option<u64>, reverse: bool) -> Vec<u8> {
    let limit = limit.map_or(usize::MAX, |limit| usize::try_from(limit).unwrap());
    if reverse { keys.rev().take(limit).collect() } else { keys.take(limit).collect() }
}

/// What answers selects.
pub(super) trait Ask {
    fn ask<P: Select>(&self, path: P) -> P::Out
    where
        P::Out: 'static;
}

impl<S: 'static> Ask for TestPState<S> {
    fn ask<P: Select>(&self, path: P) -> P::Out
    where
        P::Out: 'static,
    {
        self.select(path).unwrap()
    }
}

impl Ask for Harness {
    fn ask<P: Select>(&self, path: P) -> P::Out
    where
        P::Out: 'static,
    {
        self.select(path).unwrap()
    }
}

/// Sizes and elements are those of the model.
fn compare(asked: &impl Ask, all: PState<Wholes>, model: &BTreeMap<u8, ModelWhole>) {
    for key in 0..2 {
        let model = model.get(&key).cloned().unwrap_or_default();
        let whole = || all.key(key);
        let sets = || whole().field(|it| it.sets);
        assert_eq!(asked.ask(sets().size()), model.sets.len() as u64, "sets of {key}");
        let books = || whole().field(|it| it.books);
        assert_eq!(asked.ask(books().size()), model.books.len() as u64, "books of {key}");
        for a in 0..3 {
            let set: Vec<u8> = model.sets.get(&a).into_iter().flatten().copied().collect();
            let found = asked.ask((sets().key(a).size(), sets().key(a).all()));
            assert_eq!(found, (set.len() as u64, set.clone()), "set {a} of {key}");
            let below: Vec<u8> = set.iter().copied().filter(|element| *element < 2).collect();
            assert_eq!(asked.ask(sets().key(a).range(..2)), below);
            let one: Vec<u8> = set.into_iter().take(1).collect();
            assert_eq!(asked.ask(sets().key(a).range(..=9).reverse().reverse().limit(1)), one);
            let of = model.books.get(&a).cloned().unwrap_or_default();
            let book = || books().key(a);
            assert_eq!(asked.ask(book().field(|it| it.title)), of.title);
            let tags: Vec<u8> = of.tags.into_iter().collect();
            let found = (book().field(|it| it.tags).size(), book().field(|it| it.tags).all());
            assert_eq!(asked.ask(found), (tags.len() as u64, tags));
            let found = (book().field(|it| it.notes).size(), book().field(|it| it.notes).all());
            assert_eq!(asked.ask(found), (of.notes.len() as u64, of.notes));
        }
        let flat: Vec<(u8, u16)> = model.flat.into_iter().collect();
        let found = || whole().field(|it| it.flat);
        assert_eq!(asked.ask((found().size(), found().all())), (flat.len() as u64, flat));
        let free: Vec<(u8, u16)> = model.free.into_iter().collect();
        assert_eq!(asked.ask(whole().field(|it| it.free).all()), free);
        let words: Vec<(u8, u32)> = model.words.into_iter().collect();
        let found = || whole().field(|it| it.words);
        assert_eq!(asked.ask((found().size(), found().all())), (words.len() as u64, words));
        let tags: Vec<u8> = model.tags.into_iter().collect();
        let found = || whole().field(|it| it.tags);
        assert_eq!(
            asked.ask((found().size(), found().all().reverse().reverse())),
            (tags.len() as u64, tags)
        );
    }
}

/// One microbatch of a store.
#[derive(Clone, Debug)]
enum Step {
    /// These edits; the last of which fails, if said.
    Edits(Vec<Edit>, bool),
    Fold,
    Reopen,
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (vec(any_edit(), 1..12), prop::bool::weighted(0.2))
            .prop_map(|(edits, fails)| Step::Edits(edits, fails)),
        1 => Just(Step::Fold),
        2 => Just(Step::Reopen),
    ]
}

fn run_step(
    state: &TestPState<Wholes>,
    edits: &[Edit],
    fails: bool,
    model: &mut BTreeMap<u8, ModelWhole>,
) {
    let all = state.token();
    let mut after = model.clone();
    let mut expected = Vec::new();
    for edit in edits.iter().filter(|edit| !matches!(edit.what, What::Aggregate(_))) {
        expected.push(after.entry(edit.key).or_default().apply(edit));
    }
    let ran = state.run(async |at| {
        let mut seen = Vec::new();
        for edit in edits.iter().filter(|edit| !matches!(edit.what, What::Aggregate(_))) {
            seen.push(apply(at, all, edit).await?);
        }
        if fails { Err(crate::topology::Failure::reject("fails")) } else { Ok(seen) }
    });
    if fails {
        assert!(ran.is_err());
        return;
    }
    assert_eq!(ran.unwrap(), expected);
    // What a flow's `aggregate` would do with them, all at once.
    let aggregates = edits.iter().filter_map(|edit| {
        let What::Aggregate(adds) = edit.what else { return None };
        after.entry(edit.key).or_default().apply(edit);
        let whole = || all.key(edit.key);
        let tags = whole().field(|it| it.tags);
        let tags = if adds { tags.add(SetOf(edit.a)) } else { tags.add(SetRemove(edit.a)) };
        Some((whole().field(|it| it.words).add(MultiSet(edit.a)), tags))
    });
    state.aggregate(aggregates.collect::<Vec<_>>()).unwrap();
    *model = after;
}

/// A module of the same.
struct Editor {
    edits: Depot<Edit>,
    all: PState<Wholes>,
    seen: PState<Map<u8, Sub<List<Seen>>>>,
}

fn editor(m: &Module) -> Editor {
    let edits = m.depot::<Edit>("edits").hash_by(|edit| &edit.key);
    let t = m.microbatch(|| "editor");
    let all = t.pstate::<Wholes>("all");
    let seen = t.pstate::<Map<u8, Sub<List<Seen>>>>("seen");
    t.source(edits)
        .using((all, seen))
        .filter_map(async |at, (all, seen), edit: Edit| {
            if let Some(sizes) = apply(at, all, &edit).await? {
                at.push(seen.key(edit.key), sizes).await?;
            }
            Ok(Some(edit))
        })
        .aggregate(all, |all, edit| match edit.what {
            What::Aggregate(adds) => {
                let whole = || all.key(edit.key);
                let tags = whole().field(|it| it.tags);
                let tags = if adds { tags.add(SetOf(edit.a)) } else { tags.add(SetRemove(edit.a)) };
                Some((whole().field(|it| it.words).add(MultiSet(edit.a)), tags))
            }
            _ => None,
        });
    Editor { edits, all: all.reader(), seen: seen.reader() }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn a_store_knows_the_sizes_of_what_is_in_it(steps in vec(any_step(), 1..16)) {
        let mut state = TestPState::<Wholes>::new().unwrap();
        let mut model = BTreeMap::new();
        for step in steps {
            match step {
                Step::Fold => state.fold(),
                Step::Reopen => state.reopen(),
                Step::Edits(edits, fails) => {
                    // Not after a reopening: that would read everything.
                    run_step(&state, &edits, fails, &mut model);
                    compare(&state, state.token().reader(), &model);
                }
            }
        }
    }

    #[test]
    fn a_module_knows_the_sizes_of_what_is_in_it(
        batches in vec((vec(any_edit(), 1..16), proptest::option::of(0_usize..60)), 1..5),
        (is_cold, rows) in (any::<bool>(), 1_usize..6),
    ) {
        let (editor, mut engine) = launch(editor);
        engine = if is_cold { engine.cold() } else { engine }.batches_of(rows);
        let mut model: BTreeMap<u8, ModelWhole> = BTreeMap::new();
        let mut seen: BTreeMap<u8, Vec<Seen>> = BTreeMap::new();
        for (edits, fails_after) in batches {
            // Aggregates come later than other edits, so these must not clear what those add.
            let edits: Vec<Edit> =
                edits.into_iter().filter(|edit| !matches!(edit.what, What::ClearAll)).collect();
            for edit in &edits {
                engine.append(editor.edits, edit).unwrap();
                let looked = model.entry(edit.key).or_default().apply(edit);
                seen.entry(edit.key).or_default().extend(looked);
            }
            if let Some(accesses) = fails_after {
                engine.fail_after(accesses);
            }
            // One attempt may fail, and leaves nothing.
            while engine.run().is_err() {}
            compare(&engine, editor.all, &model);
            let rows: Vec<_> = engine.dump();
            let rows = rows.iter().filter(|(_, pstate, ..)| pstate.0 == editor.all.id().0);
            let mut rows: Vec<_> = rows.map(|(_, _, key, value)| (&**key, &**value)).collect();
            rows.sort_unstable();
            prop_assert_eq!(audit(&layout(), &rows), Vec::<String>::new());
        }
        for (key, seen) in seen {
            prop_assert_eq!(engine.select(editor.seen.key(key).all()).unwrap(), seen);
        }
    }
}

fn layout() -> crate::schema::Layout {
    crate::schema::Layout::of::<Wholes>(&mut crate::codec::table::Trace::default()).unwrap()
}
