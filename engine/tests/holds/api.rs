//! Appends and reads as clients see them, over reopenings.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use tidemill::depot::Key;
use tidemill::module::{Depot, Module};
use tidemill::schema::{Map, PState, Set, Sub};
use tidemill::shard::Acknowledge;
use tidemill::types::{Offset, PartitionId};
use tidemill::{Engine, Error, Launched, Options, block_on};

use crate::kit::{directory, options};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Post {
    user: String,
    at: u32,
    text: String,
    tags: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
enum Removal {
    Range { user: String, from: u32, to: u32 },
    User(String),
}

impl Removal {
    fn user(&self) -> &String {
        match self {
            Self::Range { user, .. } | Self::User(user) => user,
        }
    }
}

type Posts = Map<String, Sub<Map<u32, String>>>;
type Tags = Map<String, Sub<Set<String>>>;

struct Wall {
    posts_in: Depot<Post>,
    removals: Depot<Removal>,
    posts: PState<Posts>,
    tags: PState<Tags>,
    count: PState<Map<u32, u64>>,
}

fn wall(m: &Module) -> Wall {
    let posts_in = m.depot::<Post>("posts-in").hash_by(|it| &it.user);
    let removals = m.depot::<Removal>("removals").hash_by(|it| it.user());
    let t = m.microbatch(|| "wall");
    let posts = t.pstate::<Posts>("posts");
    let tags = t.pstate::<Tags>("tags");
    let count = t.pstate::<Map<u32, u64>>("count");
    t.source(posts_in)
        .using((posts, tags))
        .filter_map(async |at, (posts, tags), it: Post| {
            at.put(posts.key(&it.user).key(it.at), it.text)?;
            for tag in &it.tags {
                at.put(tags.key(&it.user).has(tag), true)?;
            }
            Ok(Some(it.at))
        })
        .hash_by_value(|it| *it)
        .using(count)
        .for_each(async |at, count, it: u32| {
            at.update(count.key(it), |n| Some(n.unwrap_or(0) + 1)).await?;
            Ok(())
        });
    t.source(removals).using((posts, tags)).for_each(
        async |at, (posts, tags), removal: Removal| match removal {
            Removal::Range { user, from, to } => {
                at.remove_range(posts.key(&user).range(from..to)).await?;
                Ok(())
            }
            Removal::User(user) => {
                at.delete(posts.key(&user))?;
                Ok(at.delete(tags.key(&user))?)
            }
        },
    );
    let (posts, tags, count) = (posts.reader(), tags.reader(), count.reader());
    Wall { posts_in, removals, posts, tags, count }
}

fn post(user: u32, at: u32) -> Post {
    Post {
        user: format!("user {user:02}"),
        at,
        text: format!("{user} said at {at}"),
        tags: vec![format!("t{}", at % 3), format!("t{}", at % 5)],
    }
}

const USERS: u32 = 20;
const POSTS: u32 = 30;

type Model = BTreeMap<String, BTreeMap<u32, String>>;

async fn compare(wall: &Launched<Wall>, model: &Model) {
    for user in (0..USERS).map(|user| format!("user {user:02}")) {
        let none = BTreeMap::new();
        let expected = model.get(&user).unwrap_or(&none);
        let rows = |range: std::ops::Range<u32>| {
            expected.range(range).map(|(&at, text)| (at, text.clone())).collect::<Vec<_>>()
        };
        let here = || wall.posts.key(&user);
        assert_eq!(wall.select(here().all()).await.unwrap(), rows(0..u32::MAX));
        for range in [0..10, 5..6, 7..7, 25..100, 0..u32::MAX] {
            let mut expected = rows(range.clone());
            let forward = wall.select(here().range(range.clone()).limit(4)).await.unwrap();
            assert_eq!(forward, expected.iter().take(4).cloned().collect::<Vec<_>>());
            expected.reverse();
            let backward = wall.select(here().range(range.clone()).reverse()).await.unwrap();
            assert_eq!(backward, expected);
            let last = here().range(range).reverse().limit(3).keys();
            let last = wall.select(last).await.unwrap();
            assert_eq!(last, expected.iter().take(3).map(|it| it.0).collect::<Vec<_>>());
        }
        let (one, tags) = (here().key(12), wall.tags.key(&user).has("t4"));
        let (one, tags) = wall.select((one, tags)).await.unwrap();
        assert_eq!(one, expected.get(&12).cloned());
        assert_eq!(tags, model.contains_key(&user));
    }
    // Over all partitions, in order.
    let all = wall.select(wall.count.all()).await.unwrap();
    assert_eq!(all, (0..POSTS).map(|at| (at, u64::from(USERS))).collect::<Vec<_>>());
    let last = wall.select(wall.count.range(..20).reverse().limit(5).keys()).await.unwrap();
    assert_eq!(last, [19, 18, 17, 16, 15]);
    let some = wall.select(wall.count.range(7..=9)).await.unwrap();
    assert_eq!(some.into_iter().map(|it| it.0).collect::<Vec<_>>(), [7, 8, 9]);
}

#[test]
fn ranges_go_both_ways_and_merge_over_partitions_and_deleted_ranges_stay_deleted() {
    let dir = directory("ranges");
    let mut model = Model::new();
    block_on(async {
        let engine = Engine::open(&dir, options(2)).await.unwrap();
        let wall = engine.launch("wall", wall).await.unwrap();
        let posts: Vec<Post> = (0..USERS * POSTS).map(|n| post(n / POSTS, n * 7 % POSTS)).collect();
        for it in &posts {
            model.entry(it.user.clone()).or_default().insert(it.at, it.text.clone());
        }
        wall.append_many(wall.posts_in, &posts).await.unwrap();
        wall.caught_up("wall").await.unwrap();
        compare(&wall, &model).await;
        // What is deleted lies in the trees, in overlays, and in both.
        for round in 0..3 {
            for user in (round..USERS).step_by(5).map(|user| format!("user {user:02}")) {
                let (from, to) = (round * 8, round * 8 + 9);
                let removal = Removal::Range { user: user.clone(), from, to };
                wall.append(wall.removals, &removal).await.unwrap();
                model.get_mut(&user).unwrap().retain(|at, _| !(from..to).contains(at));
            }
            let user = format!("user {:02}", 4 + round);
            wall.append(wall.removals, &Removal::User(user.clone())).await.unwrap();
            model.remove(&user);
            wall.caught_up("wall").await.unwrap();
            compare(&wall, &model).await;
            if round != 1 {
                engine.fold().await.unwrap();
                compare(&wall, &model).await;
            }
        }
        drop(wall);
        engine.stop().await;
    });
    for shards in [2, 3] {
        block_on(async {
            let engine = Engine::open(&dir, options(shards)).await.unwrap();
            let wall = engine.launch("wall", wall).await.unwrap();
            compare(&wall, &model).await;
            drop(wall);
            engine.close().await.unwrap();
        });
    }
}

async fn everything(wall: &Launched<Wall>) -> BTreeMap<PartitionId, Vec<Post>> {
    let mut all = BTreeMap::new();
    for partition in (0..wall.engine().partitions()).map(PartitionId) {
        let range = wall.depot_range(wall.posts_in, partition).await.unwrap();
        assert_eq!(range.start, Offset(0));
        let mut records = Vec::new();
        let mut from = range.start;
        while from < range.end {
            let some = wall.read_depot(wall.posts_in, partition, from, 7).await.unwrap();
            assert!(!some.is_empty() && some.len() <= 7);
            for record in some {
                assert_eq!(record.offset, from);
                from = from.advance(1);
                records.push(record.record);
            }
        }
        assert!(wall.read_depot(wall.posts_in, partition, from, 7).await.unwrap().is_empty());
        all.insert(partition, records);
    }
    all
}

#[test]
fn a_repeated_append_gets_the_first_answer_also_after_reopening() {
    let dir = directory("repeats");
    let key = |client: u128, sequence| Key { client, sequence };
    let mut answers = Vec::new();
    for (round, shards) in [2, 2, 1, 2].into_iter().enumerate() {
        block_on(async {
            let engine = Engine::open(&dir, options(shards)).await.unwrap();
            let wall = engine.launch("wall", wall).await.unwrap();
            for (client, sequence) in [(1, 1), (1, 2), (2, 1), (3, 7)] {
                let record = post(u32::try_from(client).unwrap(), 1);
                let key = key(client, sequence);
                // At the same time, too: neither is durable when the other comes.
                let first = wall.append_once(wall.posts_in, key, &record);
                let second = wall.append_once(wall.posts_in, key, &record);
                let (first, second) = (first.await.unwrap(), second.await.unwrap());
                assert_eq!(first, second);
                answers.push(first);
            }
            let (now, before) = (answers.len() - 4, answers[..4].to_vec());
            assert_eq!(answers[now..], before, "round {round}");
            let records: usize = everything(&wall).await.values().map(Vec::len).sum();
            assert_eq!(records, 4 + round);
            let more = wall.append(wall.posts_in, &post(9, u32::try_from(round).unwrap()));
            wall.wait("wall", &more.await.unwrap()).await.unwrap();
            drop(wall);
            if round == 1 { engine.close().await.unwrap() } else { engine.stop().await }
        });
    }
}

#[test]
fn many_records_are_appended_together_and_read_back_in_order() {
    let dir = directory("together");
    block_on(async {
        let engine = Engine::open(&dir, options(2)).await.unwrap();
        let wall = engine.launch("wall", wall).await.unwrap();
        let mut expected: BTreeMap<PartitionId, Vec<Post>> = BTreeMap::new();
        for round in 0..40 {
            let posts: Vec<Post> = (0..50).map(|n| post(n % USERS, round * 50 + n)).collect();
            let appended = wall.append_many(wall.posts_in, &posts).await.unwrap();
            let mut seen = 0;
            for done in &appended {
                let records = wall
                    .read_depot(wall.posts_in, done.partition, done.offsets.start, 50)
                    .await
                    .unwrap();
                // Durable together: what the answer names is there, all of it, in one piece.
                let count = done.offsets.end.0 - done.offsets.start.0;
                assert!(records.len() as u64 >= count);
                seen += count;
                let records = records.into_iter().take(usize::try_from(count).unwrap());
                expected.entry(done.partition).or_default().extend(records.map(|it| it.record));
            }
            assert_eq!(seen, 50);
        }
        let all = everything(&wall).await;
        for (partition, records) in &all {
            assert_eq!(expected.get(partition).unwrap_or(&Vec::new()), records);
        }
        assert_eq!(all.values().map(Vec::len).sum::<usize>(), 2_000);

        // Answered before it is durable, but it gets there, and its topology sees it.
        let record = post(0, 5_000);
        let append = wall.append_acknowledged(wall.posts_in, &record, Acknowledge::None);
        let appended = append.await.unwrap();
        wall.wait("wall", &appended).await.unwrap();
        let path = wall.posts.key(&record.user).key(record.at);
        assert_eq!(wall.select(path).await.unwrap(), Some(record.text.clone()));

        // Calls that cannot be right say so.
        let long = Post { user: "x".repeat(2_000), ..record.clone() };
        let failed = wall.select(wall.posts.key(&long.user).key(1)).await;
        assert!(matches!(failed, Err(Error::Invalid { .. })), "{failed:?}");
        let failed = wall.wait("walls", &appended).await;
        assert!(matches!(failed, Err(Error::Invalid { .. })), "{failed:?}");
        let spread = engine.launch("spread", |m| m.depot::<u64>("numbers").random()).await.unwrap();
        let failed = spread.append_once(*spread, Key { client: 1, sequence: 1 }, &1).await;
        assert!(matches!(failed, Err(Error::Invalid { .. })), "{failed:?}");
        let failed = wall.read_depot(wall.posts_in, PartitionId(8), Offset(0), 1).await;
        assert!(matches!(failed, Err(Error::Invalid { .. })), "{failed:?}");
        engine.close().await.unwrap();
        let failed = wall.append(wall.posts_in, &record).await;
        assert!(matches!(failed, Err(Error::Closed)), "{failed:?}");
    });
}

#[test]
fn options_that_cannot_work_are_refused_with_what_to_take_and_make_nothing() {
    let dir = directory("options");
    let bad = [
        ("shards", Options { shards: 0, ..options(1) }),
        ("partitions", Options { partitions: Some(6), ..options(1) }),
        ("partitions", Options { partitions: Some(2), ..options(4) }),
        ("memory_bytes", Options { memory_bytes: 0, ..options(1) }),
        ("journal_file_bytes", Options { journal_file_bytes: 0, ..options(1) }),
        ("journal_file_bytes", Options { journal_file_bytes: (1 << 20) + 1, ..options(1) }),
        ("journal_file_bytes", Options { journal_file_bytes: 2 << 30, ..options(1) }),
        ("journal_bytes_max", Options { journal_bytes_max: 15 << 20, ..options(1) }),
        ("microbatch_records_max", Options { microbatch_records_max: 0, ..options(1) }),
        ("microbatch_bytes_max", Options { microbatch_bytes_max: 0, ..options(1) }),
        ("hop_bytes_max", Options { hop_bytes_max: 0, ..options(1) }),
    ];
    for (named, options) in bad {
        match block_on(Engine::open(&dir, options)) {
            Err(Error::Invalid { what }) => assert!(what.contains(named), "{named}: {what}"),
            Err(other) => panic!("{named}: {other}"),
            Ok(_) => panic!("{named}: opened"),
        }
        assert!(!dir.join("MANIFEST").exists(), "{named}");
    }
}
