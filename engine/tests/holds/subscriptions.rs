//! Subscriptions through the public API, on real files: what they fold is what is read as of each id.

use std::ops::ControlFlow;
use std::time::Duration;

use tidemill::client::{Engine, Launched, Subscription, block_on};
use tidemill::node::Options;
use tidemill::schema::{Outside, Select};
use tidemill::subscribe::{ChangeOf, Gap, ListDiff, MapDiff, Mirror, Replaced, Subscribe, What};
use tidemill::types::{MicrobatchId, ShardId};
use tidemill::{Error, codec};

use crate::editing::{Do, Edit, Notes, do_all, notes, options, set};
use crate::kit::{directory, until};

fn edit(nth: u32) -> Edit {
    let key = u16::try_from(nth * 7 % 30).unwrap();
    let what = match nth * 11 % 17 {
        0..5 => Do::Set(key, format!("note {nth}")),
        5 => Do::Remove(key),
        6 if nth.is_multiple_of(3) => Do::Clear,
        7..9 => Do::Tag(u8::try_from(key % 8).unwrap(), (nth / 17).is_multiple_of(2)),
        9..12 => Do::Push(format!("song {nth}")),
        12..14 => Do::Insert(u64::from(key), format!("song {nth}")),
        14 => Do::Pop,
        _ => Do::Nothing,
    };
    Edit { user: nth % 3, what }
}

/// A subscription, the path to compare it with, and how to look at its value.
pub(crate) struct Followed<P: Subscribe + Select> {
    subscription: Subscription<P>,
    path: P,
    seen: fn(&<P::Mirror as Mirror>::Value) -> P::Out,
    pub(crate) changes: u64,
    pub(crate) bridged: u64,
    pub(crate) resyncs: u64,
    /// Values of older ids can be read, to compare with.
    pub(crate) compares: bool,
}

impl<P: Subscribe + Select<Out: PartialEq + std::fmt::Debug> + Outside + Clone> Followed<P> {
    pub(crate) async fn new(
        notes: &Launched<Notes>,
        path: P,
        seen: fn(&<P::Mirror as Mirror>::Value) -> P::Out,
    ) -> Self {
        let subscription = notes.subscribe(path.clone()).await.unwrap();
        let (changes, bridged, resyncs, compares) = (0, 0, 0, true);
        let new = Self { subscription, path, seen, changes, bridged, resyncs, compares };
        new.compare(notes).await;
        new
    }

    pub(crate) async fn compare(&self, notes: &Launched<Notes>) {
        let id = self.subscription.id();
        let then = notes.select(self.path.clone()).as_of("editing", id).await.unwrap();
        assert_eq!((self.seen)(self.subscription.value()), then, "at {id}");
    }

    /// Follows until an id, and compares at each change.
    pub(crate) async fn follow(&mut self, notes: &Launched<Notes>, through: MicrobatchId) {
        let mut told = self.subscription.id();
        while self.subscription.id() < through {
            let change = self.subscription.next().await.unwrap().unwrap();
            assert_eq!(change.from, told);
            assert!(change.from < change.to);
            told = change.to;
            match change.what {
                What::Diffs(diffs) => {
                    assert!(!diffs.is_empty());
                    self.changes += 1;
                }
                What::Unchanged => {}
                What::Bridged { gap, .. } => {
                    assert_eq!(gap, Gap::Overrun);
                    self.bridged += 1;
                }
                What::Resynced { gap, .. } => {
                    assert_eq!(gap, Gap::Overrun);
                    self.resyncs += 1;
                }
            }
            if self.compares {
                self.compare(notes).await;
            }
        }
    }
}

async fn visible(notes: &Launched<Notes>) -> MicrobatchId {
    notes.snapshot().await.unwrap().ids()[0].1
}

#[test]
fn what_is_folded_is_what_is_read_as_of_each_id() {
    block_on(async {
        let engine = Engine::open(directory("subscribed"), options()).await.unwrap();
        let notes = engine.launch("notes", notes).await.unwrap();
        do_all(&notes, (0..100).map(edit)).await;
        let entries = |it: &tidemill::subscribe::Entries<u16, String>| {
            it.iter().map(|(key, text)| (*key, text.clone())).collect()
        };
        let mut map = Followed::new(&notes, notes.texts.key(0).all(), entries).await;
        let mut range = Followed::new(&notes, notes.texts.key(1).range(5..20), entries).await;
        let keys = notes.texts.key(2).all().keys();
        let mut keys = Followed::new(&notes, keys, |it| it.iter().copied().collect()).await;
        let tags = notes.tags.key(2).all();
        let mut tags = Followed::new(&notes, tags, |it| it.iter().copied().collect()).await;
        let mut queue = Followed::new(&notes, notes.queue.key(0).all(), <[String]>::to_vec).await;
        let mut size = Followed::new(&notes, notes.queue.key(1).size(), |it| *it).await;
        let mut last = Followed::new(&notes, notes.last.key(1), Clone::clone).await;
        let mut tag = Followed::new(&notes, notes.tags.key(2).has(6), |it| *it).await;
        for round in 0..12 {
            do_all(&notes, (0..40).map(|nth| edit(100 + round * 40 + nth))).await;
            if round % 4 == 3 {
                engine.fold().await.unwrap();
            }
            let through = visible(&notes).await;
            map.follow(&notes, through).await;
            range.follow(&notes, through).await;
            keys.follow(&notes, through).await;
            tags.follow(&notes, through).await;
            queue.follow(&notes, through).await;
            size.follow(&notes, through).await;
            last.follow(&notes, through).await;
            tag.follow(&notes, through).await;
        }
        let changes = [map.changes, range.changes, keys.changes, tags.changes, queue.changes];
        assert!(changes.iter().all(|&it| it > 5), "{changes:?}");
        assert!(size.changes > 5 && last.changes > 20 && tag.changes > 0);
        assert_eq!(map.resyncs + last.resyncs + queue.resyncs, 0);
        assert_eq!(map.bridged + last.bridged + queue.bridged, 0);
        engine.close().await.unwrap();
    });
}

#[test]
fn changes_are_as_small_as_what_was_done() {
    block_on(async {
        let engine = Engine::open(directory("subscribed-small"), options()).await.unwrap();
        let notes = engine.launch("notes", notes).await.unwrap();
        let long = "x".repeat(100_000);
        do_all(&notes, (0..20).map(|key| set(0, key, &long))).await;
        do_all(&notes, (0..5).map(|it| Edit { user: 0, what: Do::Push(format!("{it}")) })).await;
        let mut map = notes.subscribe(notes.texts.key(0).all()).await.unwrap();
        let mut queue = notes.subscribe(notes.queue.key(0).all()).await.unwrap();
        // 2 MB in several pages, of which nothing is sent again.
        assert_eq!(map.value().len(), 20);
        do_all(&notes, [set(0, 3, "short"), set(1, 3, "not ours")]).await;
        let diffs = diffs(&mut map).await;
        let value = "short".to_owned();
        assert_eq!(diffs, [MapDiff::Set { key: 3, value, old: Some(long.clone()) }]);
        do_all(&notes, [Edit { user: 0, what: Do::Remove(4) }]).await;
        assert_eq!(self::diffs(&mut map).await, [MapDiff::Removed { key: 4, old: long }]);
        do_all(&notes, [Edit { user: 0, what: Do::Clear }, set(0, 9, "new")]).await;
        let told = self::diffs(&mut map).await;
        assert!(
            matches!(&told[0], MapDiff::RemovedRange { entries } if entries.len() == 19),
            "{told:?}"
        );
        while map.value().get(9).is_none() {
            map.next().await.unwrap().unwrap();
        }
        assert_eq!(map.value().len(), 1);

        do_all(&notes, [Edit { user: 0, what: Do::Push("5".to_owned()) }]).await;
        assert_eq!(self::diffs(&mut queue).await, [ListDiff::Appended(vec!["5".to_owned()])]);
        do_all(&notes, [Edit { user: 0, what: Do::Insert(2, "new".to_owned()) }]).await;
        let inserted = vec!["new".to_owned()];
        let spliced = ListDiff::Spliced { at: 2, removed: Vec::new(), inserted };
        assert_eq!(self::diffs(&mut queue).await, [spliced]);
        do_all(&notes, [Edit { user: 0, what: Do::Pop }]).await;
        let removed = vec!["0".to_owned()];
        let spliced = ListDiff::Spliced { at: 0, removed, inserted: Vec::new() };
        assert_eq!(self::diffs(&mut queue).await, [spliced]);
        assert_eq!(queue.value(), ["1", "new", "2", "3", "4", "5"]);

        // A callback gets the new value, the change, and in it what was there before.
        let mut last = notes.subscribe(notes.last.key(0)).await.unwrap();
        do_all(&notes, [Edit { user: 0, what: Do::Nothing }]).await;
        let mut calls = 0;
        let called = last.on_change(|new, change| {
            let What::Diffs(diffs) = &change.what else { return ControlFlow::Continue(()) };
            let [Replaced { value, old }] = diffs.as_slice() else { panic!("{diffs:?}") };
            assert_eq!((new.as_deref(), value.as_deref()), (Some("Nothing"), Some("Nothing")));
            assert_eq!(old.as_deref(), Some("Pop"));
            calls += 1;
            ControlFlow::Break(())
        });
        called.await.unwrap();
        assert_eq!(calls, 1);
        engine.close().await.unwrap();
    });
}

/// The next change that is one.
pub(crate) async fn diffs<P: Subscribe>(
    subscription: &mut Subscription<P>,
) -> Vec<<P::Mirror as Mirror>::Diff> {
    loop {
        match subscription.next().await.unwrap().unwrap().what {
            What::Diffs(diffs) => return diffs,
            What::Unchanged => {}
            What::Bridged { gap, .. } | What::Resynced { gap, .. } => panic!("{gap}"),
        }
    }
}

#[test]
fn whoever_does_not_keep_up_finds_a_gap_and_then_what_was_written_or_the_value() {
    block_on(async {
        for history in [Duration::from_hours(1), Duration::ZERO] {
            let options = Options { subscription_bytes_max: 2_000, history, ..options() };
            let engine = Engine::open(directory("subscribed-gap"), options).await.unwrap();
            let notes = engine.launch("notes", notes).await.unwrap();
            let path = notes.texts.key(0).all();
            let mut map = Followed::new(&notes, path, |it| {
                it.iter().map(|(key, text)| (*key, text.clone())).collect()
            })
            .await;
            map.compares = !history.is_zero();
            for round in 0..5 {
                do_all(&notes, (0..50).map(|key| set(0, key, &format!("round {round}")))).await;
                let through = visible(&notes).await;
                // What comes meanwhile waits behind the value.
                let more = do_all(&notes, (0..5).map(|key| set(0, key, &format!("more {round}"))));
                futures_lite::future::zip(map.follow(&notes, through), more).await;
                let by_difference = if history.is_zero() { 0 } else { round + 1 };
                assert_eq!((map.bridged, map.resyncs), (by_difference, round + 1 - by_difference));
                let through = visible(&notes).await;
                map.follow(&notes, through).await;
                map.compare(&notes).await;
            }
            assert!(map.changes > 0);
            engine.close().await.unwrap();
        }
    });
}

#[test]
fn what_was_written_in_a_gap_is_told_and_no_more_than_that() {
    block_on(async {
        let options = Options { subscription_bytes_max: 500, ..options() };
        let engine = Engine::open(directory("subscribed-bridged"), options).await.unwrap();
        let notes = engine.launch("notes", notes).await.unwrap();
        do_all(&notes, (0..30).map(|key| set(0, key, "old"))).await;
        do_all(&notes, (0..3).map(|it| Edit { user: 0, what: Do::Push(format!("{it}")) })).await;
        let mut map = notes.subscribe(notes.texts.key(0).all()).await.unwrap();
        let mut queue = notes.subscribe(notes.queue.key(0).all()).await.unwrap();
        let from = map.id();
        // Two of these keys are what they were in the end.
        let texts = (0..20).map(|nth| set(0, nth % 4, &format!("new {nth}")));
        do_all(&notes, texts.chain([set(0, 2, "old"), set(0, 3, "old")])).await;
        do_all(&notes, [Edit { user: 0, what: Do::Remove(9) }]).await;
        do_all(&notes, (3..30).map(|it| Edit { user: 0, what: Do::Push(format!("{it}")) })).await;
        do_all(&notes, [Edit { user: 0, what: Do::Pop }]).await;
        let told = map.next().await.unwrap().unwrap();
        assert_eq!((told.from, told.to), (from, map.id()));
        let What::Bridged { gap: Gap::Overrun, diffs } = told.what else { panic!("{told:?}") };
        let old = || "old".to_owned();
        let set = |key, value: &str| {
            let (value, old) = (value.to_owned(), Some(old()));
            MapDiff::Set { key, value, old }
        };
        let removed = MapDiff::Removed { key: 9, old: old() };
        assert_eq!(diffs, [set(0, "new 16"), set(1, "new 17"), removed]);
        let told = queue.next().await.unwrap().unwrap();
        let What::Bridged { diffs, .. } = told.what else { panic!("{told:?}") };
        let removed = ListDiff::Spliced { at: 0, removed: vec!["0".to_owned()], inserted: vec![] };
        let appended = ListDiff::Appended((3..30).map(|it| it.to_string()).collect());
        assert_eq!(diffs, [removed, appended]);
        engine.close().await.unwrap();
    });
}

#[test]
fn so_many_subscribe_and_no_more_and_what_waits_for_all_is_bounded() {
    block_on(async {
        let options =
            Options { subscriptions_max: 20, memory_bytes: 4 << 20, shards: 1, ..options() };
        let bytes_max = (4 << 20) / 16;
        let engine = Engine::open(directory("subscribed-many"), options).await.unwrap();
        let notes = engine.launch("notes", notes).await.unwrap();
        let mut all = Vec::new();
        for _ in 0..20 {
            all.push(notes.subscribe(notes.texts.key(0).all()).await.unwrap());
        }
        let more = notes.subscribe(notes.texts.key(0).all()).await.unwrap_err();
        assert!(matches!(more, Error::TooManySubscriptions { limit: 20, .. }), "{more}");
        let own_bytes = engine.counters().await.unwrap()[0].subscriber_bytes;
        assert!(20 * 500 < own_bytes && own_bytes < 20 * 1_000, "{own_bytes}");
        // Each may have a mebibyte waiting, all of them a quarter of one, in which what several wait for counts once.
        // One of them keeps up.
        let mut keeps_up = all.pop().unwrap();
        for round in 0..8 {
            do_all(&notes, (0..4).map(|key| set(0, key, &"x".repeat(12_000 + round)))).await;
            let through = visible(&notes).await;
            while keeps_up.id() < through {
                let change = keeps_up.next().await.unwrap().unwrap();
                assert!(matches!(change.what, What::Diffs(_) | What::Unchanged), "{change:?}");
            }
            let counters = &engine.counters().await.unwrap()[0];
            assert!(counters.subscriber_bytes <= own_bytes + bytes_max, "{counters:?}");
        }
        // Those that were taken off make room for others, and find a gap.
        assert!(engine.counters().await.unwrap()[0].subscribers < 20);
        let other = notes.subscribe(notes.texts.key(1).all()).await.unwrap();
        let mut gaps = 0;
        for mut subscription in all {
            let told = loop {
                match subscription.next().await.unwrap() {
                    Ok(told) if matches!(told.what, What::Diffs(_) | What::Unchanged) => {
                        if subscription.id() == keeps_up.id() {
                            break None;
                        }
                    }
                    told => break Some(told),
                }
            };
            match told {
                Some(Ok(told)) => {
                    assert!(matches!(told.what, What::Bridged { gap: Gap::Overrun, .. }));
                    assert_eq!(subscription.value(), keeps_up.value());
                    gaps += 1;
                }
                Some(Err(error)) => panic!("{error}"),
                None => {}
            }
            drop(subscription);
        }
        assert!(gaps > 0);
        drop(other);
        engine.close().await.unwrap();
    });
}

#[test]
fn a_shard_that_stops_says_so_and_one_that_is_reopened_goes_on() {
    block_on(async {
        let engine = Engine::open(directory("subscribed-reopened"), options()).await.unwrap();
        let notes = engine.launch("notes", notes).await.unwrap();
        do_all(&notes, [set(0, 1, "before")]).await;
        let mut map = notes.subscribe(notes.texts.key(0).all()).await.unwrap();
        let place = tidemill::codec::Placement::of(&codec::encode_key(&0_u32));
        let shard = ShardId(u16::try_from(place.partition(8).0 % 2).unwrap());
        engine.fail_shard(shard, "a test");
        until("the shard stops", || engine.stopped(shard).is_some());
        for _ in 0..3 {
            let told = settled(&mut map).await;
            assert!(matches!(told, Some(Err(Error::ShardStopped { .. }))), "{told:?}");
            assert_eq!(map.value().get(1).map(String::as_str), Some("before"));
        }
        engine.reopen_shard(shard).await.unwrap();
        do_all(&notes, [set(0, 1, "after")]).await;
        let told = map.next().await.unwrap().unwrap();
        let What::Bridged { gap: Gap::Reopened, diffs: read } = &told.what else {
            panic!("{told:?}")
        };
        let (value, old) = ("after".to_owned(), Some("before".to_owned()));
        assert_eq!(*read, [MapDiff::Set { key: 1, value, old }]);
        assert_eq!(map.value().get(1).map(String::as_str), Some("after"));
        do_all(&notes, [set(0, 1, "later")]).await;
        assert_eq!(diffs(&mut map).await.len(), 1);
        engine.clone().close().await.unwrap();
        let told = settled(&mut map).await;
        assert!(matches!(told, Some(Err(Error::Closed))), "{told:?}");
        assert!(map.next().await.is_none());
    });
}

/// What is told that is more than how far all is.
async fn settled<P: Subscribe>(subscription: &mut Subscription<P>) -> Option<Told<P>> {
    loop {
        match subscription.next().await {
            Some(Ok(ChangeOf::<P> { what: What::Unchanged, .. })) => {}
            told => return told,
        }
    }
}

type Told<P> = Result<ChangeOf<P>, Error>;

#[test]
fn who_is_told_nothing_hears_how_far_all_is_and_who_left_is_forgotten() {
    block_on(async {
        let engine = Engine::open(directory("subscribed-heartbeat"), options()).await.unwrap();
        let notes = engine.launch("notes", notes).await.unwrap();
        let mut map = notes.subscribe(notes.texts.key(0).all()).await.unwrap();
        let others: Vec<_> =
            (0..50).map(|key| notes.subscribe(notes.texts.key(0).key(key))).collect();
        let others = futures_util::future::try_join_all(others).await.unwrap();
        for round in 0..3 {
            do_all(&notes, [set(1 + round, 1, "not ours")]).await;
            let through = visible(&notes).await;
            while map.id() < through {
                let change = map.next().await.unwrap().unwrap();
                assert_eq!(change.what, What::Unchanged);
                assert_eq!(change.to, map.id());
            }
        }
        let count = || {
            let counters = block_on(engine.counters()).unwrap();
            counters.iter().map(|it| it.subscribers).sum::<u64>()
        };
        assert_eq!(count(), 51);
        drop(others);
        until("those who left are forgotten", || count() == 1);
        engine.close().await.unwrap();
    });
}

#[test]
fn what_cannot_be_followed_is_refused_with_a_sentence() {
    block_on(async {
        let engine = Engine::open(directory("subscribed-refused"), options()).await.unwrap();
        let notes = engine.launch("notes", notes).await.unwrap();
        let refused = |error: Error, why: &str| {
            let Error::Invalid { what } = error else { panic!("{error:?}") };
            assert!(what.contains(why), "{what}");
        };
        refused(notes.subscribe(notes.last.all()).await.unwrap_err(), "under one first key");
        let limited = notes.subscribe(notes.texts.key(0).all().limit(3)).await.unwrap_err();
        refused(limited, "subscribe a range of keys");
        let reversed = notes.subscribe(notes.queue.key(0).all().reverse()).await.unwrap_err();
        refused(reversed, "subscribe a range of keys");
        let long = "x".repeat(1 << 20);
        for key in 0..17 {
            do_all(&notes, [set(0, key, &long)]).await;
        }
        let whole = notes.subscribe(notes.texts.key(0).all()).await.unwrap_err();
        refused(whole, "subscribe a range of it");
        let some = notes.subscribe(notes.texts.key(0).range(3..9)).await.unwrap();
        assert_eq!(some.value().len(), 6);
        let whole = notes.subscribe(notes.texts.key(0).tree()).await.unwrap_err();
        refused(whole, "`.trees(a..b)`");
        let some_trees = notes.subscribe(notes.texts.key(0).trees(3..9)).await.unwrap();
        assert_eq!(some_trees.value(), some.value());
        drop(some_trees);
        // Nor is a subscriber left behind that was refused.
        drop(some);
        until("nobody is left", || {
            block_on(engine.counters()).unwrap().iter().all(|it| it.subscribers == 0)
        });
        engine.close().await.unwrap();
    });
}
