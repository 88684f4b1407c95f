//! Whatever reads a `PState` that is being migrated reads the new form: paths, ranges, pages, items of lists, sizes,
//! queries, snapshots, subscriptions, and an engine that opens a backup.

use std::path::Path;
use std::time::{Duration, Instant};

use tidemill::client::Snapshot;
use tidemill::migrate::Migration;
use tidemill::module::{Depot, Module};
use tidemill::schema::ast::Query;
use tidemill::schema::{List, Map, PState, Sub};
use tidemill::subscribe::{Subscribe, What};
use tidemill::verify;
use tidemill::{Engine, Error, Launched, Options, block_on};

use crate::kit::{self, directory, files};

/// A key, and a number to put there.
type Op = (u64, u64);

/// The first version: one value at each key.
fn first(m: &Module) -> Depot<Op> {
    let ops = m.depot::<Op>("ops").hash_by(|(key, _)| key);
    let t = m.microbatch(|| "noting");
    let values = t.pstate::<Map<u64, u32>>("values");
    let maps = t.pstate::<Map<u64, Vec<u64>>>("maps");
    let lists = t.pstate::<Map<u64, Vec<u64>>>("lists");
    let inner = t.pstate::<Map<u64, Sub<Map<u64, u32>>>>("inner");
    t.source(ops).using((values, maps, lists, inner)).for_each(
        async |at, (values, maps, lists, inner), (key, number): Op| {
            if has_inner(key) {
                at.put(inner.key(key).key(number), u32::try_from(number)?)?;
            }
            let more =
                |old: Option<Vec<u64>>| Some([old.unwrap_or_default(), vec![number]].concat());
            at.update(values.key(key), |n| Some(n.unwrap_or_default() + 1)).await?;
            at.update(maps.key(key), more).await?;
            Ok(at.update(lists.key(key), more).await?)
        },
    );
    ops
}

type Values = Map<u64, i64>;
type Maps = Map<u64, Sub<Map<u64, u64>>>;
type Lists = Map<u64, Sub<List<u64>>>;
type Inner = Map<u64, Sub<Map<u64, i64>>>;

/// Some keys have values inside a map that counts them.
fn has_inner(key: u64) -> bool {
    key % 8 == 7 || key.is_multiple_of(KEYS / LOOKS)
}

struct Second {
    ops: Depot<Op>,
    values: PState<Values>,
    maps: PState<Maps>,
    lists: PState<Lists>,
    inner: PState<Inner>,
}

/// From where the second version counts: a function that may not be applied twice.
const BASE: i64 = 1 << 40;

fn second(m: &Module, migrates: bool) -> Second {
    let ops = m.depot::<Op>("ops").hash_by(|(key, _)| key);
    let t = m.microbatch(|| "noting");
    let (values, maps, lists, inner) = if migrates {
        (
            t.pstate_migrated::<Values, _>(
                "values",
                Migration::values("from-base", |n: u32| BASE + i64::from(n)),
            ),
            t.pstate_migrated::<Maps, _>(
                "maps",
                Migration::structure("one-by-one", |old: Vec<u64>, new| {
                    old.into_iter().try_for_each(|number| new.put(new.key(number), number * 2))
                }),
            ),
            t.pstate_migrated::<Lists, _>(
                "lists",
                Migration::structure("one-by-one", |old: Vec<u64>, new| {
                    old.into_iter().try_for_each(|number| new.push(new.here(), number))
                }),
            ),
            t.pstate_migrated_within::<Inner, _>(
                "inner",
                Migration::values("from-base", |n: u32| BASE + i64::from(n)),
            ),
        )
    } else {
        (t.pstate("values"), t.pstate("maps"), t.pstate("lists"), t.pstate("inner"))
    };
    t.source(ops).using((values, maps, lists, inner)).for_each(
        async |at, (values, maps, lists, inner), (key, number): Op| {
            if has_inner(key) {
                at.put(inner.key(key).key(number), BASE + i64::try_from(number)?)?;
            }
            at.update(values.key(key), |n| Some(n.unwrap_or(BASE) + 1)).await?;
            at.put(maps.key(key).key(number), number * 2)?;
            Ok(at.push(lists.key(key), number).await?)
        },
    );
    Second {
        ops,
        values: values.reader(),
        maps: maps.reader(),
        lists: lists.reader(),
        inner: inner.reader(),
    }
}

const KEYS: u64 = 640;

/// How many numbers each key has.
const EACH: u64 = 5;

fn ops() -> impl Iterator<Item = Op> {
    (0..EACH).flat_map(|number| (0..KEYS).map(move |key| (key, number)))
}

fn options() -> Options {
    Options {
        // As slow as can be, so that there is much to see.
        migration_values_max: 1,
        memory_bytes: 64 << 20,
        history: Duration::from_hours(1),
        history_bytes_max: Some(64 << 20),
        subscription_heartbeat: Duration::from_millis(5),
        ..kit::options(2)
    }
}

fn open(dir: &Path) -> Engine {
    block_on(Engine::open(dir, options())).unwrap()
}

fn launch(engine: &Engine, migrates: bool) -> Result<Launched<Second>, Error> {
    block_on(engine.launch("club", |m| second(m, migrates)))
}

/// A directory with what the first version has left.
fn noted(name: &str) -> std::path::PathBuf {
    let dir = directory(name);
    let engine = open(&dir);
    let club = block_on(engine.launch("club", first)).unwrap();
    block_on(club.append_many(*club, &ops().collect::<Vec<_>>())).unwrap();
    block_on(club.caught_up("noting")).unwrap();
    block_on(engine.close()).unwrap();
    dir
}

/// What a second version answers that was never another one.
fn expected(name: &str) -> Vec<Vec<String>> {
    let engine = open(&directory(name));
    let club = launch(&engine, false).unwrap();
    block_on(club.append_many(club.ops, &ops().collect::<Vec<_>>())).unwrap();
    block_on(club.caught_up("noting")).unwrap();
    let expected = look_at_all(&club, None);
    drop(club);
    block_on(engine.close()).unwrap();
    expected
}

fn query(path: &str) -> Query {
    Query::from_json(&serde_json::from_str(path).unwrap()).unwrap()
}

/// So many times one has to look to see all.
const LOOKS: u64 = 8;

/// Everything that can be asked of one key, or of all.
fn look(club: &Launched<Second>, at: Option<&Snapshot>, nth: u64) -> Vec<String> {
    macro_rules! at {
        ($reading:expr) => {
            match at {
                Some(snapshot) => $reading.at(snapshot),
                None => $reading,
            }
        };
    }
    let mut found = Vec::new();
    macro_rules! read {
        ($($reading:expr),* $(,)?) => {
            $(found.push(format!("{:?}", block_on(at!($reading)).unwrap()));)*
        };
    }
    macro_rules! pages {
        ($($pages:expr),* $(,)?) => {$(
            let mut pages = at!($pages);
            while let Some(page) = block_on(pages.next()).unwrap() {
                found.push(format!("{page:?}"));
            }
        )*};
    }
    let Second { values, maps, lists, inner, .. } = **club;
    if nth + 1 < LOOKS {
        let key = KEYS * nth / LOOKS;
        let nth = |path: &str| query(&format!(r#"[["key",{key}],{path}]"#));
        read!(
            club.select(values.key(key)),
            club.select(values.range(key..).limit(5)),
            club.select(values.range(..key).reverse().limit(5)),
            club.select((maps.key(key).size(), maps.key(key).all(), values.key(key))),
            club.select(maps.key(key).range(1..3)),
            club.select((maps.key(key).key(2), maps.key(key).key(EACH))),
            club.select((lists.key(key).size(), lists.key(key).all())),
            club.select(lists.key(key).item(2)),
            club.select(lists.key(key).items(1..4)),
            club.select((inner.key(key).size(), inner.key(key).all(), inner.key(key).key(3))),
            club.select(inner.key(key).range(..4).reverse().limit(2)),
            club.query::<i64>(inner, &nth(r#""values""#)),
            club.query::<u64>(inner, &nth(r#""size""#)),
            club.query::<u64>(maps, &nth(r#""values""#)),
            club.query::<u64>(maps, &nth(r#""size""#)),
            club.query::<u64>(lists, &nth(r#"["nth",-1]"#)),
        );
        pages!(
            club.pages(maps.key(key).all(), 2),
            club.pages(lists.key(key).items(0..9), 2),
            club.pages(inner.key(key).all().reverse(), 2),
        );
        return found;
    }
    read!(
        club.select(values.all()),
        club.select_many((0..KEYS).map(|key| (values.key(key), maps.key(key).size()))),
        club.query::<i64>(values, &query(r#"["values"]"#)),
        club.query::<u64>(maps, &query(r#"["values","size"]"#)),
        club.query::<u64>(inner, &query(r#"["values","size"]"#)),
        club.query::<i64>(inner, &query(r#"["values","values"]"#)),
    );
    pages!(club.pages(values.all(), 100), club.pages(values.range(..300).reverse().keys(), 70));
    found
}

fn look_at_all(club: &Launched<Second>, at: Option<&Snapshot>) -> Vec<Vec<String>> {
    (0..LOOKS).map(|nth| look(club, at, nth)).collect()
}

/// How many values are left, if there is a migration under way.
fn left(club: &Launched<Second>) -> Option<u64> {
    let running = block_on(club.migrations()).unwrap();
    let left = running.iter().flat_map(|it| it.left.values()).sum();
    (!running.is_empty()).then_some(left)
}

/// Waits until nothing is left, and gives up loudly after far longer than it can take.
fn finish(club: &Launched<Second>) {
    let started = Instant::now();
    while left(club).is_some() {
        assert!(started.elapsed() < Duration::from_mins(1), "not within a minute");
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn whatever_reads_sees_the_new_form_before_while_and_after_it_is_rewritten() {
    let (dir, expected) = (noted("migrated-reads"), expected("migrated-reads-expected"));
    let engine = open(&dir);
    let club = launch(&engine, true).unwrap();
    let begun = block_on(club.snapshot()).unwrap();
    let (mut looks, mut amid) = (0, 0);
    let all = 3 * KEYS + EACH * (0..KEYS).filter(|&key| has_inner(key)).count() as u64;
    assert!(left(&club).is_some_and(|left| left <= all), "heads are no values");
    while let Some(left) = left(&club) {
        let nth = looks % LOOKS;
        let expected = &expected[usize::try_from(nth).unwrap()];
        assert_eq!(&look(&club, None, nth), expected, "{left} left");
        // What was moved meanwhile lies at an older moment where it lay then.
        assert_eq!(&look(&club, Some(&begun), nth), expected, "{left} left, as at the launch");
        // Something was moved before the look ended, and something was not when it began.
        amid += u64::from(0 < left && self::left(&club).unwrap_or(0) < all);
        looks += 1;
    }
    assert!(amid > 0, "it was done before anybody looked");
    assert_eq!(look_at_all(&club, None), expected);
    assert_eq!(look_at_all(&club, Some(&begun)), expected);
    let (_, id) = begun.ids().into_iter().next().unwrap();
    let as_of = block_on(club.select(club.values.all()).as_of("noting", id)).unwrap();
    assert_eq!(as_of, block_on(club.select(club.values.all())).unwrap());
    drop((club, begun));
    block_on(engine.close()).unwrap();
}

/// Follows until what is visible now, and says how many changes there were.
fn follow<P: Subscribe>(
    club: &Launched<Second>,
    subscription: &mut tidemill::client::Subscription<P>,
) -> usize {
    let (_, id) = block_on(club.snapshot()).unwrap().ids().into_iter().next().unwrap();
    let mut changes = 0;
    while subscription.id() < id {
        match block_on(subscription.next()).unwrap().unwrap().what {
            What::Unchanged => {}
            What::Diffs(diffs) => changes += diffs.len(),
            What::Bridged { gap, .. } | What::Resynced { gap, .. } => panic!("{gap:?}"),
        }
    }
    changes
}

#[test]
fn a_subscriber_gets_the_new_form_and_is_not_told_when_it_is_rewritten() {
    let engine = open(&noted("migrated-subscriptions"));
    let club = launch(&engine, true).unwrap();
    // Steps go up from the smallest key, so this one is moved late.
    let key = KEYS - 1;
    let Second { values, maps, lists, inner, .. } = *club;
    let mut value = block_on(club.subscribe(values.key(key))).unwrap();
    let mut map = block_on(club.subscribe(maps.key(key).all())).unwrap();
    let mut size = block_on(club.subscribe(maps.key(key).size())).unwrap();
    let mut list = block_on(club.subscribe(lists.key(key).all())).unwrap();
    let mut within = block_on(club.subscribe(inner.key(key).all())).unwrap();
    let mut within_size = block_on(club.subscribe(inner.key(key).size())).unwrap();
    assert!(left(&club).unwrap() > KEYS, "it went on too fast");
    let check =
        |club: &Launched<Second>, count: u64, (value, map, size, list): (_, Vec<_>, _, _)| {
            assert_eq!(value, Some(BASE + i64::try_from(count).unwrap()));
            assert_eq!(map, (0..count).map(|number| (number, number * 2)).collect::<Vec<_>>());
            assert_eq!((size, list), (count, (0..count).collect::<Vec<_>>()));
            let now = block_on(club.select((values.key(key), maps.key(key).all()))).unwrap();
            assert_eq!(now, (value, map));
        };
    macro_rules! check {
        ($count:expr) => {
            let rows: Vec<(u64, u64)> = map.value().iter().map(|(&k, &v)| (k, v)).collect();
            check(&club, $count, (*value.value(), rows, *size.value(), list.value().to_vec()));
            let expected =
                (0..$count).map(|number| (number, BASE + i64::try_from(number).unwrap()));
            assert!(within.value().iter().map(|(&k, &v)| (k, v)).eq(expected));
            assert_eq!(*within_size.value(), $count);
        };
    }
    check!(EACH);
    finish(&club);
    assert_eq!(
        (
            follow(&club, &mut value),
            follow(&club, &mut map),
            follow(&club, &mut size),
            follow(&club, &mut list),
            follow(&club, &mut within),
            follow(&club, &mut within_size),
        ),
        (0, 0, 0, 0, 0, 0),
        "the rewriting is no change"
    );
    check!(EACH);
    block_on(club.append(club.ops, &(key, EACH))).unwrap();
    block_on(club.caught_up("noting")).unwrap();
    assert_eq!(
        (
            follow(&club, &mut value),
            follow(&club, &mut map),
            follow(&club, &mut size),
            follow(&club, &mut list),
            follow(&club, &mut within),
            follow(&club, &mut within_size),
        ),
        (1, 1, 1, 1, 1, 1),
    );
    check!(EACH + 1);
    drop((value, map, size, list, within, within_size, club));
    block_on(engine.close()).unwrap();
}

/// What changes while it is not moved yet: a subscriber is told that, and nothing else.
#[test]
fn a_subscriber_is_told_of_what_is_written_amid_a_migration() {
    let engine = open(&noted("migrated-changes"));
    let club = launch(&engine, true).unwrap();
    let key = KEYS - 2;
    let mut map = block_on(club.subscribe(club.maps.key(key).all())).unwrap();
    let mut list = block_on(club.subscribe(club.lists.key(key).all())).unwrap();
    assert!(left(&club).unwrap() > KEYS, "it went on too fast");
    block_on(club.append(club.ops, &(key, 100))).unwrap();
    block_on(club.caught_up("noting")).unwrap();
    finish(&club);
    assert_eq!((follow(&club, &mut map), follow(&club, &mut list)), (1, 1));
    assert_eq!(map.value().get(100), Some(&200));
    assert_eq!(map.value().len() as u64, EACH + 1);
    assert_eq!(list.value().last(), Some(&100));
    drop((map, list, club));
    block_on(engine.close()).unwrap();
}

#[test]
fn a_backup_amid_a_migration_is_sound_and_goes_on_where_it_is_opened() {
    let (dir, expected) = (noted("migrated-backup"), expected("migrated-backup-expected"));
    let engine = open(&dir);
    let club = launch(&engine, true).unwrap();
    let report = block_on(engine.backup(directory("migrated-backup-target"))).unwrap();
    assert!(left(&club).is_some_and(|left| left > 0), "it was done before the backup was");
    // Backups hold coordinators: afterwards it goes on here, too.
    finish(&club);
    assert_eq!(look_at_all(&club, None), expected);
    drop(club);
    block_on(engine.close()).unwrap();

    let whole = |dir: &Path| {
        let report = verify::directory(&files(dir), &mut |_| {});
        let wrong: Vec<_> = report.findings.iter().chain(&report.notes).collect();
        assert!(wrong.is_empty(), "{wrong:?}");
    };
    whole(&report.directory);
    let engine = open(&report.directory);
    let Err(Error::Invalid { what }) = launch(&engine, false) else { panic!("launched") };
    assert!(what.contains("` is under way. Nothing was changed"), "{what}");
    let club = launch(&engine, true).unwrap();
    assert_eq!(look_at_all(&club, None), expected);
    finish(&club);
    assert_eq!(look_at_all(&club, None), expected);
    drop(club);
    block_on(engine.close()).unwrap();
    whole(&report.directory);
}
