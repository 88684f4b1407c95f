//! Subscriptions of everything under a key, and of parts of a value, through the public API, on real files.

use std::collections::BTreeMap;
use std::time::Duration;

use tidemill::client::{Engine, block_on};
use tidemill::node::Options;
use tidemill::subscribe::{MapDiff, Replaced, SetDiff, TreeDiff, What};

use crate::editing::{Card, Do, Edit, do_all, notes, options};
use crate::kit::directory;
use crate::subscriptions::{Followed, diffs};

fn shelve(shelf: u8, place: u16, text: &str) -> Edit {
    Edit { user: 0, what: Do::Shelve(shelf, place, text.to_owned()) }
}

fn unshelve(shelf: u8, place: Option<u16>) -> Edit {
    Edit { user: 0, what: Do::Unshelve(shelf, place) }
}

fn edit(nth: u32) -> Edit {
    let (shelf, place) = ((nth * 7 % 5).try_into().unwrap(), (nth * 11 % 13).try_into().unwrap());
    match nth * 5 % 12 {
        0..8 => shelve(shelf, place, &format!("book {}", nth % 40)),
        8..11 => unshelve(shelf, Some(place)),
        _ => unshelve(shelf, None),
    }
}

#[test]
fn everything_under_a_key_is_what_is_read_as_of_each_id() {
    block_on(async {
        let engine = Engine::open(directory("trees"), options()).await.unwrap();
        let notes = engine.launch("notes", notes).await.unwrap();
        do_all(&notes, (0..60).map(edit)).await;
        let shelves = notes.shelves.key(0);
        let mut all = Followed::new(&notes, shelves.clone().tree(), Clone::clone).await;
        let mut some = Followed::new(&notes, shelves.trees(1..3), Clone::clone).await;
        for round in 0..10 {
            let through = do_all(&notes, (0..40).map(|nth| edit(100 + round * 40 + nth))).await;
            if round % 4 == 3 {
                engine.fold().await.unwrap();
            }
            all.follow(&notes, through).await;
            some.follow(&notes, through).await;
        }
        assert!(all.changes > 50 && some.changes > 20, "{} {}", all.changes, some.changes);
        assert_eq!(all.bridged + all.resyncs + some.bridged + some.resyncs, 0);
        engine.close().await.unwrap();
    });
}

#[test]
fn gaps_of_a_tree_are_closed_by_what_was_written_or_by_its_value() {
    block_on(async {
        for history in [Duration::from_hours(1), Duration::ZERO] {
            let options = Options { subscription_bytes_max: 1_500, history, ..options() };
            let engine = Engine::open(directory("trees-gap"), options).await.unwrap();
            let notes = engine.launch("notes", notes).await.unwrap();
            do_all(&notes, (0..60).map(edit)).await;
            let tree = notes.shelves.key(0).tree();
            let mut all = Followed::new(&notes, tree, Clone::clone).await;
            all.compares = !history.is_zero();
            for round in 0..4 {
                // Nobody takes them meanwhile.
                let many = (0..100).map(|nth| edit(round * 100 + nth));
                let through = do_all(&notes, many.chain([unshelve(3, None)])).await;
                all.follow(&notes, through).await;
                all.compare(&notes).await;
            }
            let expected = if history.is_zero() { (0, 4) } else { (4, 0) };
            assert_eq!((all.bridged, all.resyncs), expected);
            engine.close().await.unwrap();
        }
    });
}

#[test]
fn changes_in_a_tree_are_as_small_as_what_was_done() {
    block_on(async {
        let engine = Engine::open(directory("trees-small"), options()).await.unwrap();
        let notes = engine.launch("notes", notes).await.unwrap();
        let text = |text: &str| text.to_owned();
        let mut tree = notes.subscribe(notes.shelves.key(0).tree()).await.unwrap();
        assert!(tree.value().is_empty());
        do_all(&notes, [shelve(2, 7, "a")]).await;
        let set = MapDiff::Set { key: 7, value: text("a"), old: None };
        assert_eq!(diffs(&mut tree).await, [TreeDiff::Under { key: 2, diffs: vec![set] }]);
        do_all(&notes, [shelve(2, 8, "b"), shelve(4, 1, "c"), shelve(2, 7, "a")]).await;
        let set = |key, value| MapDiff::Set { key, value: text(value), old: None };
        let under = |key, diff| TreeDiff::Under { key, diffs: vec![diff] };
        let expected = [under(2, set(8, "b")), under(4, set(1, "c"))];
        assert_eq!(diffs(&mut tree).await, expected);
        // A key goes with the last of what is under it, and all that is under one at once.
        do_all(&notes, [unshelve(4, Some(1))]).await;
        let removed = MapDiff::Removed { key: 1, old: text("c") };
        assert_eq!(diffs(&mut tree).await, [under(4, removed)]);
        assert_eq!(tree.value().len(), 1);
        let before = tree.value().get(2).unwrap().clone();
        do_all(&notes, [unshelve(2, None), shelve(2, 9, "d")]).await;
        let removed = TreeDiff::Removed { key: 2, old: before };
        assert_eq!(diffs(&mut tree).await, [removed, under(2, set(9, "d"))]);
        assert_eq!(tree.value().get(2).unwrap().get(9), Some(&text("d")));

        // A set has no more levels.
        let mut tags = notes.subscribe(notes.tags.key(0).tree()).await.unwrap();
        do_all(&notes, [Edit { user: 0, what: Do::Tag(3, true) }]).await;
        assert_eq!(diffs(&mut tags).await, [SetDiff::Added(3)]);
        engine.close().await.unwrap();
    });
}

#[test]
fn parts_of_a_value_are_told_when_they_change_and_only_then() {
    block_on(async {
        let engine = Engine::open(directory("parts"), options()).await.unwrap();
        let notes = engine.launch("notes", notes).await.unwrap();
        let card = notes.cards.key(0);
        let title = card.clone().inside(|card| card.field(|it| it.title).some());
        let mut title = notes.subscribe(title).await.unwrap();
        let second = card.clone().inside(|card| card.field(|it| it.points).some().nth(1));
        let mut second = notes.subscribe(second).await.unwrap();
        let mark = card.inside(|card| card.field(|it| it.marks).some().must("x".to_owned()));
        let mut mark = notes.subscribe(mark).await.unwrap();
        assert!(title.value().is_empty() && second.value().is_empty() && mark.value().is_empty());
        let draw = async |title: &str, points: &[u32], marks: &[(&str, u32)]| {
            let marks = marks.iter().map(|(name, mark)| ((*name).to_owned(), *mark));
            let marks = marks.collect::<BTreeMap<_, _>>();
            let card = Card { title: title.to_owned(), points: points.to_vec(), marks };
            do_all(&notes, [Edit { user: 0, what: Do::Draw(card) }]).await
        };
        let replaced =
            |old: &[u32], value: &[u32]| Replaced { value: value.into(), old: old.into() };

        draw("a", &[1, 2], &[("w", 1), ("x", 5)]).await;
        let named = |old: &[&str], value: &[&str]| {
            let [value, old] =
                [value, old].map(|it| it.iter().map(|it| (*it).to_owned()).collect());
            Replaced { value, old }
        };
        assert_eq!(diffs(&mut title).await, [named(&[], &["a"])]);
        assert_eq!(diffs(&mut second).await, [replaced(&[], &[2])]);
        assert_eq!(diffs(&mut mark).await, [replaced(&[], &[5])]);
        // Only the second point changes; then only the mark; then only the title.
        draw("a", &[9, 3, 4], &[("x", 5)]).await;
        draw("a", &[9, 3], &[("x", 6), ("y", 1)]).await;
        let last = draw("b", &[0, 3], &[("x", 6)]).await;
        assert_eq!(diffs(&mut title).await, [named(&["a"], &["b"])]);
        assert_eq!(diffs(&mut second).await, [replaced(&[2], &[3])]);
        assert_eq!(diffs(&mut mark).await, [replaced(&[5], &[6])]);
        assert_eq!(title.value(), ["b"]);
        while second.id() < last || mark.id() < last {
            for it in [&mut second, &mut mark].into_iter().filter(|it| it.id() < last) {
                let change = it.next().await.unwrap().unwrap();
                assert_eq!(change.what, What::Unchanged);
            }
        }
        // What is not there any more is no part.
        draw("b", &[0], &[]).await;
        assert_eq!(diffs(&mut second).await, [replaced(&[3], &[])]);
        assert_eq!(diffs(&mut mark).await, [replaced(&[6], &[])]);
        engine.close().await.unwrap();
    });
}
