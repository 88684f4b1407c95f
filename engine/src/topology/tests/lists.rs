//! Lists that are stored element by element, in modules.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::launch;
use crate::module::{Depot, Module};
use crate::schema::aggregate::ListOf;
use crate::schema::{List, Map, PState, Sub};
use crate::topology::{At, StateError};

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Edit {
    text: u32,
    at: u64,
    what: What,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
enum What {
    Push(i64),
    Insert(i64),
    Replace(i64),
    Remove,
    /// The element there is added to the end.
    Copy,
    Clear,
}

type Texts = Map<u32, Sub<List<i64>>>;

/// A size, and the first two elements.
type Seen = (u64, Vec<i64>);

struct Editor {
    edits: Depot<Edit>,
    texts: PState<Texts>,
    /// What it was before each edit.
    seen: PState<Map<u32, Sub<List<Seen>>>>,
}

fn editor(m: &Module) -> Editor {
    let edits = m.depot::<Edit>("edits").hash_by(|edit| &edit.text);
    let t = m.microbatch(|| "editor");
    let texts = t.pstate::<Texts>("texts");
    let seen = t.pstate::<Map<u32, Sub<List<Seen>>>>("seen");
    t.source(edits).using((texts, seen)).for_each(async |at, (texts, seen), edit: Edit| {
        let text = texts.key(edit.text);
        let before = (at.get(text.clone().size()).await?, at.items(text.clone(), 0..2).await?);
        at.push(seen.key(edit.text), before).await?;
        match edit.what {
            What::Push(value) => at.push(text, value).await?,
            What::Insert(value) => at.insert(text, edit.at, value).await?,
            What::Replace(value) => at.replace(text, edit.at, value).await?,
            What::Remove => at.remove(text, edit.at).await?,
            What::Copy => {
                if let Some(value) = at.item(text.clone(), edit.at).await? {
                    at.push(text, value).await?;
                }
            }
            What::Clear => at.delete(text)?,
        }
        Ok(())
    });
    Editor { edits, texts: texts.reader(), seen: seen.reader() }
}

#[test]
fn edits_are_those_of_a_vector() {
    for (seed, is_cold) in [(1, false), (2, true), (3, false)] {
        let (editor, mut engine) = launch(editor);
        if is_cold {
            engine = engine.cold();
        }
        let mut model: BTreeMap<u32, Vec<i64>> = BTreeMap::new();
        let mut seen: BTreeMap<u32, Vec<Seen>> = BTreeMap::new();
        let mut draw = seed;
        for nth in 0..600_i64 {
            draw = crate::codec::Placement::of(&u64::to_le_bytes(draw)).hash();
            let text = [0, 1, 2][usize::try_from(draw % 3).unwrap()];
            let list = model.entry(text).or_default();
            let count = list.len() as u64;
            let at = (draw >> 8) % (count + 1);
            let place = usize::try_from(at).unwrap();
            let what = match (draw >> 40) % 20 {
                0 if draw >> 60 == 0 => What::Clear,
                0..6 => What::Push(nth),
                6..12 => What::Insert(nth),
                _ if at == count => What::Copy,
                12..14 => What::Replace(nth),
                14..18 => What::Remove,
                _ => What::Copy,
            };
            let before = (count, list.iter().copied().take(2).collect());
            seen.entry(text).or_default().push(before);
            match what {
                What::Push(value) => list.push(value),
                What::Insert(value) => list.insert(place, value),
                What::Replace(value) => list[place] = value,
                What::Remove => drop(list.remove(place)),
                What::Copy => list.extend(list.get(place).copied()),
                What::Clear => list.clear(),
            }
            engine.append(editor.edits, &Edit { text, at, what }).unwrap();
            if nth % 50 == 49 {
                engine.run().unwrap();
                for (text, list) in &model {
                    let path = editor.texts.key(text);
                    assert_eq!(&engine.select(path.clone().all()).unwrap(), list);
                    assert_eq!(engine.select(path.clone().size()).unwrap(), list.len() as u64);
                    let last = engine.select(path.all().reverse().limit(3)).unwrap();
                    assert_eq!(last, list.iter().rev().take(3).copied().collect::<Vec<_>>());
                }
            }
        }
        for (text, seen) in seen {
            assert_eq!(engine.select(editor.seen.key(text).all()).unwrap(), seen);
        }
        for (text, list) in &mut model {
            engine.append(editor.edits, &Edit { text: *text, at: 0, what: What::Clear }).unwrap();
            list.clear();
        }
        engine.run().unwrap();
        let texts = engine.dump().into_iter().filter(|row| row.1.0 == 0).count();
        assert_eq!(texts, 0, "a list that is deleted leaves no row");
    }
}

/// A record of the test below: from which partition, to which list, the how manieth of that partition.
type Line = (u32, u32, u64);

#[test]
fn what_is_aggregated_into_a_list_keeps_the_order_of_each_sender() {
    let ((depot, lists), engine) = launch(|m| {
        let depot = m.depot::<Line>("lines").hash_by(|(from, ..)| from);
        let t = m.microbatch(|| "t");
        let lists = t.pstate::<Map<u32, Sub<List<(u32, u64)>>>>("lists");
        t.source(depot).aggregate(lists, |lists, (from, list, nth): Line| {
            lists.key(list).add(ListOf((from, nth)))
        });
        (depot, lists.reader())
    });
    let mut engine = engine.cold().batches_of(7).holding(2_000).ordered_by(5);
    for round in 0..3_u64 {
        for nth in 0..100 {
            for from in 0..6 {
                engine.append(depot, &(from, from % 2, 100 * round + nth)).unwrap();
            }
        }
        engine.run().unwrap();
        for list in 0..2_u32 {
            let found = engine.select(lists.key(list).all()).unwrap();
            assert_eq!(engine.select(lists.key(list).size()).unwrap(), found.len() as u64);
            for from in (0..6).filter(|from| from % 2 == list) {
                let of_one = found.iter().filter(|line| line.0 == from).map(|line| line.1);
                assert!(of_one.eq(0..100 * (round + 1)), "list {list}, from {from}");
            }
        }
    }
}

#[test]
fn an_element_that_no_list_can_hold_rejects_the_record() {
    let (depot, mut engine) = launch(|m| {
        let depot = m.depot::<String>("names").hash_by(|name| name);
        let t = m.microbatch(|| "t");
        let lists = t.pstate::<Map<String, Sub<List<u8>>>>("lists");
        t.source(depot).aggregate(lists, |lists, name: String| lists.key(&name).add(ListOf(1)));
        depot
    });
    engine.append(depot, &"n".repeat(1_005)).unwrap();
    engine.run().unwrap();
    let origin = engine.append(depot, &"n".repeat(1_010)).unwrap();
    assert_eq!(engine.run().unwrap_err().origin, Some(origin));
}

#[test]
fn an_index_beyond_the_end_rejects_the_record_and_says_how_long_the_list_is() {
    let (editor, mut engine) = launch(editor);
    let edit = |at, what| Edit { text: 7, at, what };
    engine.append(editor.edits, &edit(0, What::Push(1))).unwrap();
    engine.run().unwrap();
    engine.append(editor.edits, &edit(2, What::Insert(2))).unwrap();
    let failure = engine.run().unwrap_err();
    let error = crate::error::chain(&failure);
    assert!(error.contains("at index 2: it has 1 elements"), "{error}");
}

#[test]
fn a_list_whose_keys_have_no_room_is_refused() {
    struct Long {
        names: Depot<String>,
    }
    fn long(m: &Module) -> Long {
        let names = m.depot::<String>("names").hash_by(|name| name);
        let t = m.microbatch(|| "long");
        let lists = t.pstate::<Map<String, Sub<List<u8>>>>("lists");
        t.source(names).using(lists).for_each(async |at: At<'_, _>, lists, name: String| {
            let is_long = name.len() > 1_006;
            let pushed = at.push(lists.key(&name), 1).await;
            assert_eq!(matches!(pushed, Err(StateError::Refused { .. })), is_long, "{pushed:?}");
            Ok(())
        });
        Long { names }
    }
    let (long, mut engine) = launch(long);
    for bytes in [900, 1_005, 1_010] {
        // A key ends in two bytes of its own.
        engine.append(long.names, &"n".repeat(bytes)).unwrap();
    }
    engine.run().unwrap();
}
