//! Differences of two ids through the public API, on real files: what differs is what reads at both ids say, over
//! folds; and what is not known any more is refused.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::time::Duration;

use tidemill::client::{Engine, Launched, block_on};
use tidemill::difference::{Differ, Differing};
use tidemill::node::Options;
use tidemill::schema::{Outside, Select};
use tidemill::subscribe::{Branches, Elements, Entries};
use tidemill::types::MicrobatchId;
use tidemill::{Error, codec};

use crate::editing::{Card, Do, Edit, Notes, do_all, notes, options, set};
use crate::kit::directory;

fn edit(nth: u32) -> Edit {
    let key = u16::try_from(nth * 7 % 30).unwrap();
    let what = match nth * 11 % 17 {
        0..6 => Do::Set(key, format!("note {}", nth % 50)),
        6 => Do::Remove(key),
        7 if nth.is_multiple_of(3) => Do::Clear,
        7..11 => Do::Tag(u8::try_from(key % 8).unwrap(), (nth / 17).is_multiple_of(2)),
        11..15 => Do::Push(format!("song {nth}")),
        _ => Do::Forget,
    };
    Edit { user: nth % 5, what }
}

/// What differs between two lists of entries.
fn entries<K: Ord + Clone, V: PartialEq + Clone>(
    from: &[(K, V)],
    to: &[(K, V)],
) -> Vec<Differing<K, Option<V>>> {
    let keys: BTreeSet<&K> = from.iter().chain(to).map(|(key, _)| key).collect();
    let of = |rows: &[(K, V)], key: &K| {
        rows.iter().find(|(it, _)| it == key).map(|(_, value)| value.clone())
    };
    let both = keys.into_iter().map(|key| Differing {
        key: key.clone(),
        from: of(from, key),
        to: of(to, key),
    });
    both.filter(|it| it.from != it.to).collect()
}

fn elements<E: Ord + Clone>(from: &[E], to: &[E]) -> Vec<Differing<E, bool>> {
    let all: BTreeSet<&E> = from.iter().chain(to).collect();
    let both = all.into_iter().map(|key| Differing {
        key: key.clone(),
        from: from.contains(key),
        to: to.contains(key),
    });
    both.filter(|it| it.from != it.to).collect()
}

fn one<V: PartialEq + Clone>(from: &V, to: &V) -> Vec<Differing<(), V>> {
    let differs = (from != to).then(|| Differing { key: (), from: from.clone(), to: to.clone() });
    differs.into_iter().collect()
}

/// Compares with reads at both ids, and says how much differs.
async fn check<P>(
    notes: &Launched<Notes>,
    path: P,
    (from, to): (MicrobatchId, MicrobatchId),
    expected: impl Fn(&P::Out, &P::Out) -> Vec<P::Entry>,
) -> usize
where
    P: Differ<Entry: PartialEq + Debug> + Select + Outside + Clone,
{
    let before = notes.select(path.clone()).as_of("editing", from).await.unwrap();
    let after = notes.select(path.clone()).as_of("editing", to).await.unwrap();
    let expected = expected(&before, &after);
    let told = notes.difference(path, from, to).all().await.unwrap();
    assert_eq!(told, expected, "from {from} to {to}");
    told.len()
}

#[test]
fn what_differs_is_what_reads_at_both_ids_say() {
    block_on(async {
        let engine = Engine::open(directory("differences"), options()).await.unwrap();
        let notes = engine.launch("notes", notes).await.unwrap();
        let mut ids = vec![MicrobatchId(0)];
        for round in 0..16 {
            ids.push(do_all(&notes, (0..25).map(|nth| edit(round * 25 + nth))).await);
            if round % 5 == 4 {
                engine.fold().await.unwrap();
            }
        }
        let mut differing = [0; 8];
        for (nth, &from) in ids.iter().enumerate() {
            // Into the future and back; the ids between two appends, too.
            let to = ids[(nth * 7 + 3) % ids.len()];
            let tag = u8::try_from(nth % 8).unwrap();
            for both in [(from, to), (from, MicrobatchId(from.0 / 2)), (from, from)] {
                let texts = notes.texts.key(1);
                let all = texts.clone().all();
                let told = [
                    check(&notes, all.clone(), both, |a, b| entries(a, b)).await,
                    check(&notes, texts.range(5..20), both, |a, b| entries(a, b)).await,
                    check(&notes, all.keys(), both, |a, b| elements(a, b)).await,
                    check(&notes, notes.tags.key(2).all(), both, |a, b| elements(a, b)).await,
                    check(&notes, notes.tags.key(3).has(tag), both, one).await,
                    check(&notes, notes.queue.key(0).size(), both, one).await,
                    check(&notes, notes.last.key(4), both, one).await,
                    // In all partitions.
                    check(&notes, notes.last.all(), both, |a, b| entries(a, b)).await,
                ];
                differing.iter_mut().zip(told).for_each(|(sum, told)| *sum += told);
            }
        }
        assert!(differing.iter().all(|&told| told > 4), "{differing:?}");
        engine.close().await.unwrap();
    });
}

/// Of everything under a key each leaf, and of a value the parts that steps reach.
#[test]
fn what_differs_of_trees_and_of_parts_is_what_reads_at_both_ids_say() {
    type Shelved = Branches<u8, Entries<u16, String>>;
    let leaves = |tree: &Shelved| -> Vec<((u8, u16), String)> {
        let shelves = tree.iter().flat_map(|(&shelf, places)| {
            places.iter().map(move |(&place, text)| ((shelf, place), text.clone()))
        });
        shelves.collect()
    };
    block_on(async {
        let engine = Engine::open(directory("differences-trees"), options()).await.unwrap();
        let notes = engine.launch("notes", notes).await.unwrap();
        let edit = |nth: u32| {
            let (shelf, place) = (u8::try_from(nth * 7 % 5), u16::try_from(nth * 11 % 13));
            let (shelf, place) = (shelf.unwrap(), place.unwrap());
            let what = match nth % 11 {
                0..6 => Do::Shelve(shelf, place, format!("book {}", nth % 40)),
                6..8 => Do::Unshelve(shelf, Some(place)),
                8 => Do::Unshelve(shelf, None),
                9 => Do::Tag(u8::try_from(place).unwrap() % 8, (nth / 11).is_multiple_of(2)),
                _ => Do::Draw(Card {
                    title: format!("card {}", nth / 22 % 3),
                    points: vec![nth, nth / 33],
                    marks: BTreeMap::new(),
                }),
            };
            Edit { user: 0, what }
        };
        let mut ids = vec![MicrobatchId(0)];
        for round in 0..10 {
            ids.push(do_all(&notes, (0..33).map(|nth| edit(round * 33 + nth))).await);
            if round % 4 == 3 {
                engine.fold().await.unwrap();
            }
        }
        let card = notes.cards.key(0);
        let title = card.clone().inside(|card| card.field(|it| it.title).some());
        let second = card.clone().inside(|card| card.field(|it| it.points).some().nth(1));
        let mut differing = [0; 5];
        for (nth, &from) in ids.iter().enumerate() {
            let to = ids[(nth * 7 + 3) % ids.len()];
            let shelves = notes.shelves.key(0);
            let of_trees = |a: &Shelved, b: &Shelved| entries(&leaves(a), &leaves(b));
            let tags = |a: &Elements<u8>, b: &Elements<u8>| {
                let all = |it: &Elements<u8>| it.iter().copied().collect::<Vec<_>>();
                elements(&all(a), &all(b))
            };
            let mut told = [
                check(&notes, shelves.clone().tree(), (from, to), of_trees).await,
                check(&notes, shelves.trees(1..3), (from, to), of_trees).await,
                check(&notes, notes.tags.key(0).tree(), (from, to), tags).await,
                0,
                0,
            ];
            let before = notes.select(card.clone()).as_of("editing", from).await.unwrap();
            let after = notes.select(card.clone()).as_of("editing", to).await.unwrap();
            let titles = |it: &Option<Card>| it.iter().map(|it| it.title.clone()).collect();
            let found = notes.difference(title.clone(), from, to).all().await.unwrap();
            assert_eq!(found, one::<Vec<_>>(&titles(&before), &titles(&after)), "{from} to {to}");
            told[3] = found.len();
            let seconds = |it: &Option<Card>| it.iter().map(|it| it.points[1]).collect();
            let found = notes.difference(second.clone(), from, to).all().await.unwrap();
            assert_eq!(found, one::<Vec<_>>(&seconds(&before), &seconds(&after)), "{from} to {to}");
            told[4] = found.len();
            differing.iter_mut().zip(told).for_each(|(sum, told)| *sum += told);
        }
        assert!(differing.iter().all(|&told| told > 3), "{differing:?}");
        engine.close().await.unwrap();
    });
}

#[test]
fn a_long_difference_comes_in_pages_and_what_was_not_written_is_not_read() {
    block_on(async {
        let engine = Engine::open(directory("differences-long"), options()).await.unwrap();
        let notes = engine.launch("notes", notes).await.unwrap();
        let long = "x".repeat(10_000);
        do_all(&notes, (0..300).map(|key| set(0, key, &long))).await;
        engine.fold().await.unwrap();
        let before = notes.snapshot().await.unwrap();
        do_all(&notes, [set(0, 7, "new"), set(0, 7, &long), set(0, 9, "new")]).await;
        let middle = notes.snapshot().await.unwrap();
        let path = notes.texts.key(0).all();
        let told = notes.difference(path.clone(), &before, &middle).all().await.unwrap();
        let (from, to) = (Some(long.clone()), Some("new".to_owned()));
        assert_eq!(told, [Differing { key: 9, from, to }]);

        do_all(&notes, [Edit { user: 0, what: Do::Clear }]).await;
        let after = notes.snapshot().await.unwrap();
        let mut pages = notes.difference(path, &middle, &after);
        let (mut keys, mut count) = (Vec::new(), 0);
        while let Some(page) = pages.next().await.unwrap() {
            assert!(page.len() < 100, "{} entries of 10 kB in a page", page.len());
            assert!(page.iter().all(|it| it.from.is_some() && it.to.is_none()));
            keys.extend(page.into_iter().map(|it| it.key));
            count += 1;
        }
        assert_eq!(keys, (0..300).collect::<Vec<u16>>());
        assert!(count > 5);
        assert!(pages.next().await.unwrap().is_none());
        engine.close().await.unwrap();
    });
}

#[test]
fn what_is_not_known_any_more_is_refused_and_says_what_is() {
    block_on(async {
        let options = Options { history: Duration::ZERO, ..options() };
        let engine = Engine::open(directory("differences-refused"), options).await.unwrap();
        let notes = engine.launch("notes", notes).await.unwrap();
        do_all(&notes, (0..40).map(edit)).await;
        let (before, held) = (notes.snapshot().await.unwrap(), notes.snapshot().await.unwrap());
        let first = before.ids()[0].1;
        do_all(&notes, [set(0, 1, "new")]).await;
        let after = notes.snapshot().await.unwrap();
        let path = notes.texts.key(0).all();
        // Nobody stands there but the snapshot, and nothing was folded.
        let told = notes.difference(path.clone(), &before, &after).all().await.unwrap();
        assert_eq!(told.iter().map(|it| it.key).collect::<Vec<_>>(), [1]);
        engine.fold().await.unwrap();
        do_all(&notes, (40..80).map(edit)).await;
        engine.fold().await.unwrap();
        let last = do_all(&notes, [set(0, 1, "newer")]).await;
        // The snapshot can be read as ever; what was written since is not known.
        notes.select(path.clone()).at(&held).await.unwrap();
        let refused = notes.difference(path.clone(), &before, last).all().await.unwrap_err();
        let Error::SnapshotExpired { wanted, oldest } = refused else { panic!("{refused}") };
        assert_eq!(wanted, first);
        assert!(first < oldest && oldest <= last);
        assert!(notes.difference(path.clone(), oldest, last).all().await.is_ok());

        let refused = |error: Error, why: &str| {
            let Error::Invalid { what } = error else { panic!("{error:?}") };
            assert!(what.contains(why), "{what}");
        };
        let early = notes.difference(path.clone(), last, MicrobatchId(last.0 + 1));
        refused(early.all().await.unwrap_err(), "so");
        let limited = notes.difference(path.clone().limit(3), first, last);
        refused(limited.all().await.unwrap_err(), "leave `limit` and `reverse` out");
        let other = engine.launch("other", self::notes).await.unwrap();
        let foreign = other.difference(other.texts.key(0).all(), &before, last);
        refused(foreign.all().await.unwrap_err(), "a snapshot of module `notes`");
        let shard = tidemill::types::ShardId(shard_of(0));
        engine.fail_shard(shard, "a test");
        while engine.stopped(shard).is_none() {
            std::thread::sleep(Duration::from_millis(1));
        }
        let stopped = notes.difference(path, first, last).all().await.unwrap_err();
        assert!(matches!(stopped, Error::ShardStopped { .. }), "{stopped}");
    });
}

fn shard_of(user: u32) -> u16 {
    let place = codec::Placement::of(&codec::encode_key(&user));
    u16::try_from(place.partition(8).0 % 2).unwrap()
}
