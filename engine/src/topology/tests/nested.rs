//! Lists whose items are collections, in modules and on a store: against a model, and what they cost.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::launch;
use super::sizes::Ask;
use crate::codec::table::Trace;
use crate::module::{Depot, Module};
use crate::schema::ast::{Query, Step, Value};
use crate::schema::sizes::{Place, audit};
use crate::schema::{Layout, List, Map, Owned, PState, Schema, Set, Sub, list};
use crate::testing::TestPState;
use crate::topology::{At, Result};

#[derive(Schema)]
struct Column {
    title: String,
    cards: Sub<Map<u8, Sub<Set<u8>>>>,
    notes: Sub<List<Sub<List<u32>>>>,
}

/// The lists lie in a map that counts them.
type Boards = Map<u8, Sub<Map<u8, Sub<List<Column>>>>>;

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Edit {
    board: u8,
    list: u8,
    at: u64,
    a: u8,
    b: u8,
    what: What,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
enum What {
    /// A new column, with a title.
    Push,
    Insert,
    Remove,
    /// A column that is filled and goes again.
    Blink,
    /// One goes in front of a column to which then something is written.
    Shift,
    Card,
    Uncard,
    ClearCards,
    /// A list of notes, and a note in one.
    Notes,
    Note,
    RemoveNotes,
    /// All of a column, which stays.
    Empty,
    ClearList,
    ClearBoard,
}

const ALL: [What; 21] = [
    What::Push,
    What::Push,
    What::Push,
    What::Insert,
    What::Insert,
    What::Insert,
    What::Remove,
    What::Remove,
    What::Blink,
    What::Shift,
    What::Card,
    What::Card,
    What::Card,
    What::Uncard,
    What::ClearCards,
    What::Notes,
    What::Note,
    What::Note,
    What::RemoveNotes,
    What::Empty,
    What::ClearList,
];

#[derive(Clone, Debug, Default, PartialEq)]
struct ModelColumn {
    title: Option<String>,
    cards: BTreeMap<u8, BTreeSet<u8>>,
    notes: Vec<Vec<u32>>,
}

type Model = BTreeMap<(u8, u8), Vec<ModelColumn>>;

async fn apply<O>(at: At<'_, O>, boards: Owned<Boards, O>, edit: Edit) -> Result<()> {
    let Edit { board, list, at: index, a, b, what } = edit;
    let columns = || boards.key(board).key(list);
    let title = format!("{a} {b}");
    match what {
        What::Push => {
            let column = at.push_new(columns()).await?;
            at.put(column.field(|it| it.title), title)?;
        }
        What::Insert => {
            let column = at.insert_new(columns(), index).await?;
            at.put(column.field(|it| it.title), title)?;
        }
        What::Remove => {
            if index < at.get(columns().size()).await? {
                at.remove(columns(), index).await?;
            }
        }
        What::Blink => {
            let column = at.insert_new(columns(), index).await?;
            at.put(column.clone().field(|it| it.cards).key(a).has(b), true)?;
            let notes = at.push_new(column.clone().field(|it| it.notes)).await?;
            at.push(notes, 7).await?;
            // What is counted in it is not settled when it goes.
            at.remove(columns(), index).await?;
        }
        What::Shift => {
            if let Some(column) = at.nth(columns(), index).await? {
                at.push_new(columns()).await?;
                at.insert_new(columns(), 0).await?;
                at.put(column.field(|it| it.cards).key(a).has(b), true)?;
            }
        }
        What::ClearList => at.delete(columns())?,
        What::ClearBoard => at.delete(boards.key(board))?,
        What::Card
        | What::Uncard
        | What::ClearCards
        | What::Notes
        | What::Note
        | What::RemoveNotes
        | What::Empty => {
            let Some(column) = at.nth(columns(), index).await? else { return Ok(()) };
            let cards = column.clone().field(|it| it.cards);
            let notes = column.clone().field(|it| it.notes);
            match what {
                What::Card => at.put(cards.key(a).has(b), true)?,
                What::Uncard => at.put(cards.key(a).has(b), false)?,
                What::ClearCards => at.delete(cards)?,
                What::Notes => {
                    let new = at.push_new(notes).await?;
                    at.push(new, u32::from(b)).await?;
                }
                What::Note => {
                    if let Some(notes) = at.nth(notes, u64::from(a)).await? {
                        at.push(notes, u32::from(b)).await?;
                    }
                }
                What::RemoveNotes => {
                    if at.nth(notes.clone(), u64::from(a)).await?.is_some() {
                        at.remove(notes, u64::from(a)).await?;
                    }
                }
                _ => at.delete(column)?,
            }
        }
    }
    Ok(())
}

fn apply_to(model: &mut Model, edit: Edit) {
    let Edit { board, list, at, a, b, what } = edit;
    let columns = model.entry((board, list)).or_default();
    let at = usize::try_from(at).unwrap();
    let titled = || ModelColumn { title: Some(format!("{a} {b}")), ..ModelColumn::default() };
    match (what, columns.get_mut(at)) {
        (What::Push, _) => columns.push(titled()),
        (What::Insert, _) => columns.insert(at, titled()),
        (What::Remove, Some(_)) => drop(columns.remove(at)),
        (What::ClearList, _) => columns.clear(),
        (What::ClearBoard, _) => model.retain(|key, _| key.0 != board),
        (What::Shift, Some(column)) => {
            column.cards.entry(a).or_default().insert(b);
            columns.push(ModelColumn::default());
            columns.insert(0, ModelColumn::default());
        }
        (What::Card, Some(column)) => drop(column.cards.entry(a).or_default().insert(b)),
        (What::Uncard, Some(column)) => {
            if let Some(cards) = column.cards.get_mut(&a) {
                cards.remove(&b);
            }
        }
        (What::ClearCards, Some(column)) => column.cards.clear(),
        (What::Notes, Some(column)) => column.notes.push(vec![u32::from(b)]),
        (What::Note, Some(column)) => {
            if let Some(notes) = column.notes.get_mut(usize::from(a)) {
                notes.push(u32::from(b));
            }
        }
        (What::RemoveNotes, Some(column)) if usize::from(a) < column.notes.len() => {
            column.notes.remove(usize::from(a));
        }
        (What::Empty, Some(column)) => *column = ModelColumn::default(),
        _ => {}
    }
    for column in model.values_mut().flatten() {
        column.cards.retain(|_, cards| !cards.is_empty());
    }
    model.retain(|_, columns| !columns.is_empty());
}

/// Edits that a number leads to, of lists that are about so long.
fn edits(seed: u64, count: usize, model: &mut Model) -> Vec<Edit> {
    let mut draw = seed;
    let mut next = |below: u64| {
        draw = crate::codec::Placement::of(&u64::to_le_bytes(draw)).hash();
        draw % below
    };
    let mut small = |below| u8::try_from(next(below)).unwrap();
    let mut edits = Vec::new();
    for _ in 0..count {
        let (board, list, a, b) = (small(2), small(2), small(3), small(4));
        let len = model.get(&(board, list)).map_or(0, Vec::len);
        let at = u64::from(small(len as u64 + 1));
        let what = ALL[usize::from(small(ALL.len() as u64))];
        let what = if small(80) == 0 { What::ClearBoard } else { what };
        let edit = Edit { board, list, at, a, b, what };
        apply_to(model, edit);
        edits.push(edit);
    }
    edits
}

/// What reads by the indexes of items give is what the model has.
fn compare(asked: &impl Ask, boards: PState<Boards>, model: &Model) {
    for board in 0..2 {
        let lists = model.keys().filter(|key| key.0 == board).count();
        assert_eq!(asked.ask(boards.key(board).size()), lists as u64);
        for list in 0..2 {
            let columns = model.get(&(board, list)).cloned().unwrap_or_default();
            let all = || boards.key(board).key(list);
            assert_eq!(asked.ask(all().size()), columns.len() as u64);
            // And behind the last one there is nothing.
            for (at, column) in (0..).zip(columns.iter().chain([&ModelColumn::default()])) {
                let nth = || all().nth(at);
                assert_eq!(asked.ask(nth().field(|it| it.title)), column.title);
                let cards = || nth().field(|it| it.cards);
                assert_eq!(asked.ask(cards().size()), column.cards.len() as u64);
                for a in 0..3 {
                    let of: Vec<u8> = column.cards.get(&a).into_iter().flatten().copied().collect();
                    let found = (cards().key(a).size(), cards().key(a).all());
                    assert_eq!(asked.ask(found), (of.len() as u64, of.clone()));
                    let found = (cards().key(a).has(1), cards().key(a).range(1..=2).reverse());
                    let some: Vec<u8> =
                        of.iter().rev().copied().filter(|it| (1..3).contains(it)).collect();
                    assert_eq!(asked.ask(found), (of.contains(&1), some));
                }
                let tree = asked.ask(cards().tree());
                let tree: BTreeMap<u8, BTreeSet<u8>> =
                    tree.iter().map(|(key, of)| (*key, of.iter().copied().collect())).collect();
                assert_eq!(tree, column.cards);
                let notes = || nth().field(|it| it.notes);
                assert_eq!(asked.ask(notes().size()), column.notes.len() as u64);
                for (b, of) in (0..).zip(column.notes.iter().chain([&Vec::new()])) {
                    // Of two lists, one in an item of the other, one item each is found.
                    let found =
                        (notes().nth(b).all(), notes().nth(b).size(), notes().nth(b).item(0));
                    let first = of.first().copied();
                    assert_eq!(asked.ask(found), (of.clone(), of.len() as u64, first));
                    let last: Vec<u32> = of.iter().skip(1).take(2).copied().collect();
                    assert_eq!(asked.ask(notes().nth(b).items(1..3)), last);
                }
            }
        }
    }
}

/// Rows that hang under an item that is not there.
fn orphans(layout: &Layout, rows: &[(&[u8], &[u8])]) -> Vec<String> {
    let (mut there, mut named) = (BTreeSet::new(), BTreeSet::new());
    for (key, value) in rows {
        let (parts, _) = layout.row(key).unwrap();
        let name = |part: &serde_json::Value| part.as_str().unwrap_or_default().to_owned();
        for at in 0..parts.len() {
            if name(&parts[at]).starts_with("item ") {
                named.insert(format!("{:?}", &parts[..=at]));
            }
        }
        let (last, before) = parts.split_last().unwrap();
        let is_element = name(last).len() == 32 && layout.place(key).0 == Place::ListRow;
        if is_element && let Ok(id) = list::decode_id(value) {
            let item = serde_json::Value::from(format!("item {id}"));
            there.insert(format!("{:?}", [before, &[item]].concat()));
        }
    }
    named.difference(&there).cloned().collect()
}

fn layout() -> Layout {
    Layout::of::<Boards>(&mut Trace::default()).unwrap()
}

struct Editor {
    edits: Depot<Edit>,
    boards: PState<Boards>,
}

fn editor(m: &Module) -> Editor {
    let edits = m.depot::<Edit>("edits").hash_by(|edit| &edit.board);
    let t = m.microbatch(|| "editor");
    let boards = t.pstate::<Boards>("boards");
    t.source(edits)
        .using(boards)
        .for_each(async |at, boards, edit| Ok(apply(at, boards, edit).await?));
    Editor { edits, boards: boards.reader() }
}

#[test]
fn edits_are_those_of_a_vector_of_collections() {
    for seed in 0..12 {
        let (editor, mut engine) = launch(editor);
        if seed % 2 == 1 {
            engine = engine.cold();
        }
        let mut model = Model::new();
        for round in 0..4 {
            for edit in edits(100 * seed + round, 60, &mut model) {
                engine.append(editor.edits, &edit).unwrap();
            }
            if seed % 3 == 2 {
                engine.fail_after(usize::try_from(17 * (round + 1)).unwrap());
            }
            // One attempt may fail, and leaves nothing.
            while engine.run().is_err() {}
            compare(&engine, editor.boards, &model);
            let rows = engine.dump();
            let mut rows: Vec<_> =
                rows.iter().map(|(_, _, key, value)| (&**key, &**value)).collect();
            rows.sort_unstable();
            assert_eq!(audit(&layout(), &rows), Vec::<String>::new());
            assert_eq!(orphans(&layout(), &rows), Vec::<String>::new());
        }
        for board in 0..2 {
            let edit = Edit { board, list: 0, at: 0, a: 0, b: 0, what: What::ClearBoard };
            engine.append(editor.edits, &edit).unwrap();
        }
        engine.run().unwrap();
        assert_eq!(engine.dump(), [], "what is deleted leaves no row");
    }
}

#[test]
fn a_store_keeps_them_over_folds() {
    let mut boards = TestPState::<Boards>::new().unwrap();
    let mut model = Model::new();
    for round in 0..8 {
        let edits = edits(900 + round, 25, &mut model);
        let token = boards.token();
        boards
            .run(async |at| {
                for edit in edits {
                    apply(at, token, edit).await?;
                }
                Ok(())
            })
            .unwrap();
        match round % 3 {
            0 => boards.fold(),
            1 => boards.reopen(),
            _ => {}
        }
        compare(&boards, boards.token().reader(), &model);
    }
}

type Rounds = Map<u32, Sub<List<Sub<Map<String, i64>>>>>;

/// In a list of 100,000 items, and in one that is as long as the other after its first item was removed.
#[test]
fn an_item_costs_what_the_levels_of_its_list_cost() {
    const COUNT: u64 = 100_000;
    let rounds = TestPState::<Rounds>::new().unwrap();
    let list = || rounds.token().key(7);
    rounds
        .run_uncounted(async |at| {
            for _ in 0..COUNT {
                at.push_new(list()).await?;
            }
            for nth in [0, 50_000, COUNT - 1] {
                let item = at.nth(list(), nth).await?.expect("it was pushed");
                for name in ["ann", "bob"] {
                    at.put(item.clone().key(name), 5)?;
                }
            }
            Ok(())
        })
        .unwrap();
    rounds.fold();
    let io = |what: &str| {
        let io = rounds.take_io();
        println!("{what}: {io:?}");
        io
    };
    io("filled");
    assert_eq!(rounds.select(list().nth(50_000).key("bob")).unwrap(), Some(5));
    // Head, two levels of blocks, the ids up to it; and the row.
    let read = io("read");
    assert!(read.seeks() == 5 && read.rows_scanned <= 3 * 65 && read.writes() == 0, "{read:?}");
    let found = rounds.select((list().nth(COUNT - 1).size(), list().nth(COUNT).size()));
    assert_eq!(found.unwrap(), (2, 0));
    assert!(io("two").seeks() <= 6);
    let put = async |at: At<'_, _>| {
        let item = at.nth(list(), 50_000).await?.expect("it is there");
        Ok(at.put(item.key("bob"), 6)?)
    };
    rounds.run(put).unwrap();
    let write = io("write");
    assert!(write.seeks() <= 6 && write.writes() <= 2, "{write:?}");
    rounds.run(async |at| Ok(at.remove(list(), 50_000).await?)).unwrap();
    let removed = io("remove");
    assert!(removed.puts <= 4 && removed.deletes == 1, "{removed:?}");
    assert!(removed.range_deletes == 1 && removed.seeks() <= 6, "{removed:?}");
    assert_eq!(rounds.select(list().nth(50_000).all()).unwrap(), []);
    assert_eq!(rounds.select(list().nth(COUNT - 2).key("ann")).unwrap(), Some(5));
}

#[test]
fn what_is_written_under_an_item_that_is_gone_is_no_part_of_the_list_and_goes_with_it() {
    let state = TestPState::<Map<u32, Sub<List<Sub<Map<String, i64>>>>>>::new().unwrap();
    let token = state.token();
    let rounds = || token.key(7);
    let query = Query::from([Step::Key(Value::from(7_u32))]);
    let whole = || {
        state.run(async |at| {
            let found: Vec<Option<Vec<BTreeMap<String, i64>>>> = at.query(token, &query).await?;
            Ok(found)
        })
    };
    let done = state.run(async |at| {
        let gone = at.push_new(rounds()).await?;
        let left = at.push_new(rounds()).await?;
        at.put(left.key("left"), 2)?;
        at.remove(rounds(), 0).await?;
        Ok(at.put(gone.key("gone"), 1)?)
    });
    done.unwrap();
    assert_eq!(whole().unwrap(), [Some(vec![BTreeMap::from([("left".to_owned(), 2)])])]);
    state.run(async |at| Ok(at.remove(rounds(), 0).await?)).unwrap();
    assert_eq!(whole().unwrap(), [None]);
    let done = state.run(async |at| {
        let new = at.push_new(rounds()).await?;
        Ok(at.put(new.key("new"), 3)?)
    });
    done.unwrap();
    assert_eq!(whole().unwrap(), [Some(vec![BTreeMap::from([("new".to_owned(), 3)])])]);
}
