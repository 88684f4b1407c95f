//! The examples: that they run, that their modules do what they say, and what that costs at most.
//!
//! A budget counts what events ask of their partitions, so it holds on every machine. A change that reads
//! in a loop what one read gave before fails here, however fast it is.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeMap;

use tidemill::module::{Module, define};
use tidemill::testing::{Harness, Io, Ran};
use uuid::Uuid;

#[path = "../examples/music_catalogue.rs"]
mod music_catalogue;
#[path = "../examples/profiles.rs"]
mod profiles;
#[path = "../examples/time_series.rs"]
mod time_series;
#[path = "../examples/top_users.rs"]
mod top_users;
#[path = "../examples/word_count.rs"]
mod word_count;

use music_catalogue::{Release, percent};
use profiles::{Edit, Field, Holder, Registration, UserId};
use tidemill::schema::aggregate::{Combine, Merge};
use tidemill::testing::TestPState;
use time_series::{Measurement, SPANS, Series, Stats, pieces};
use top_users::Purchase;

const PARTITIONS: u32 = 8;

/// A module in memory, over several partitions, in an order of messages drawn from `seed`.
fn launch<H>(build: impl FnOnce(&Module) -> H, seed: u64) -> (H, Harness) {
    let (handles, module) = define("example", build).unwrap();
    (handles, Harness::new(module, PARTITIONS).unwrap().ordered_by(seed))
}

/// What a microbatch of the module's only topology asked of all partitions.
fn cost(ran: &[Ran]) -> Io {
    let mut cost = Io::default();
    ran[0].io.values().for_each(|io| cost += *io);
    cost
}

/// So many look-ups of a key, so many writes of a row, and nothing else.
fn io(reads: u64, puts: u64) -> Io {
    Io { reads, puts, ..Io::default() }
}

#[test]
fn all_run_on_an_engine() {
    music_catalogue::main().unwrap();
    profiles::main().unwrap();
    time_series::main().unwrap();
    top_users::main().unwrap();
    word_count::main().unwrap();
}

#[test]
fn a_catalogue_that_migrates_answers_as_if_it_had_always_been_the_new_one() {
    const ARTISTS: u16 = 24;
    const ALBUMS: u16 = 6;
    let name = |artist: u16| format!("artist {artist}");
    let release = |artist, nth: u16| Release {
        artist: name(artist),
        title: format!("album {nth}"),
        year: 1_960 + nth,
        label: None,
    };
    for seed in 0..10 {
        let (old, mut music) = launch(music_catalogue::first::catalogue, seed);
        let (new, mut fresh) = launch(music_catalogue::catalogue, seed);
        for (artist, nth) in (0..ARTISTS).flat_map(|it| (0..ALBUMS).map(move |nth| (it, nth))) {
            let Release { artist: by, title, year, .. } = release(artist, nth);
            let before = music_catalogue::first::Release { artist: by, title, year };
            music.append(old.releases, &before).unwrap();
            fresh.append(new.releases, &release(artist, nth)).unwrap();
        }
        for artist in 0..ARTISTS {
            let opinion = (name(artist), u8::try_from(artist % 6).unwrap());
            music.append(old.opinions, &opinion).unwrap();
            fresh.append(new.opinions, &opinion).unwrap();
        }
        // All of an artist's albums are read and written again for each that comes out.
        let released = u64::from(ARTISTS * ALBUMS);
        assert_eq!(cost(&music.run().unwrap()), io(released, released + u64::from(ARTISTS)));
        fresh.run().unwrap();

        let (_, module) = define("example", music_catalogue::catalogue).unwrap();
        let mut music = music.relaunch(module).unwrap().moving(0);
        let look = |harness: &Harness| -> Vec<_> {
            let of = |artist| {
                let albums = new.albums.key(name(artist));
                let one = albums.clone().key("album 3");
                (albums.clone().size(), albums.all(), one, new.ratings.key(name(artist)))
            };
            (0..ARTISTS).map(|artist| harness.select(of(artist)).unwrap()).collect()
        };
        assert_eq!(look(&music), look(&fresh), "nothing is rewritten yet");
        assert_eq!(look(&music)[4].3, Some(percent(4)));

        let add = |harness: &mut Harness, nth| {
            harness.append(new.releases, &release(0, nth)).unwrap();
            cost(&harness.run().unwrap())
        };
        // The artist's other albums are moved on the way, each and their number once, and the old value goes.
        let (first, usual) = (add(&mut music, ALBUMS), add(&mut fresh, ALBUMS));
        assert_eq!(first.puts, usual.puts + u64::from(ALBUMS) + 1);
        assert_eq!(first.deletes, usual.deletes + 1);
        // Once they are, an album costs what it costs otherwise, and a look whether they are.
        let (next, usual) = (add(&mut music, ALBUMS + 1), add(&mut fresh, ALBUMS + 1));
        assert_eq!((next.writes(), next.scans), (usual.writes(), usual.scans));
        assert_eq!(next.reads, usual.reads + 1);

        // An opinion replaces a rating without looking at it, whichever form that has.
        music.append(new.opinions, &(name(1), 5)).unwrap();
        fresh.append(new.opinions, &(name(1), 5)).unwrap();
        let opinion = cost(&music.run().unwrap());
        assert_eq!((opinion.reads, opinion.puts, opinion.deletes), (0, 1, 1));
        fresh.run().unwrap();

        let mut music = music.moving(1);
        let mut steps = 0;
        while !music.is_migrated() {
            assert_eq!(look(&music), look(&fresh), "after {steps} steps");
            music.run().unwrap();
            steps += 1;
        }
        assert!(steps > 1, "a value of each partition at a time");
        assert_eq!(music.dump(), fresh.dump(), "no trace is left");
        assert_eq!(add(&mut music, ALBUMS + 2), add(&mut fresh, ALBUMS + 2));
    }
}

fn registration(name: &str, request: u128) -> Registration {
    let password_hash = format!("hash {request}");
    Registration { name: name.to_owned(), request: Uuid::from_u128(request), password_hash }
}

#[test]
fn the_first_request_for_a_name_wins_it_and_is_accepted_again() {
    for seed in 0..20 {
        let (users, mut harness) = launch(profiles::users, seed);
        let holder = |harness: &Harness, name: &str| -> Holder {
            harness.select(users.names.key(name)).unwrap().unwrap()
        };
        let names: Vec<String> = (0..50).map(|nth| format!("user {nth}")).collect();
        // All in one microbatch: a request, the same again, another one for the same name.
        for (name, request) in names.iter().zip((0..).step_by(2)) {
            for request in [request, request, request + 1] {
                harness.append(users.registrations, &registration(name, request)).unwrap();
            }
        }
        // Each request is a look-up. Who wins costs a row where the name lives and three where the user does.
        assert_eq!(cost(&harness.run().unwrap()), io(150, 50 + 3 * 50));

        let holders: Vec<Holder> = names.iter().map(|name| holder(&harness, name)).collect();
        for ((name, was), request) in names.iter().zip(&holders).zip((0..).step_by(2)) {
            assert_eq!(was.request, Uuid::from_u128(request), "{name} belongs to who came first");
            let profile = users.profiles.key(was.user);
            let (own_name, hash) =
                (profile.clone().field(|it| it.name), profile.clone().field(|it| it.password_hash));
            let found = harness.select((own_name, hash)).unwrap();
            assert_eq!(found, (Some(name.clone()), Some(format!("hash {request}"))));
        }
        let ids: BTreeMap<UserId, &String> =
            holders.iter().map(|holder| holder.user).zip(&names).collect();
        assert_eq!(ids.len(), names.len(), "no two users share an id");

        // Replayed later, winners and losers change nothing, and write nothing.
        let before = harness.dump();
        for (name, request) in names.iter().zip((0..).step_by(2)) {
            for request in [request + 1, request] {
                harness.append(users.registrations, &registration(name, request)).unwrap();
            }
        }
        assert_eq!(cost(&harness.run().unwrap()), io(100, 0));
        assert_eq!(harness.dump(), before);
    }
}

#[test]
fn an_edit_writes_the_fields_it_names_and_no_other() {
    let (users, mut harness) = launch(profiles::users, 1);
    harness.append(users.registrations, &registration("ann", 7)).unwrap();
    harness.run().unwrap();
    let ann = harness.select(users.names.key("ann")).unwrap().unwrap().user;

    let edit = |harness: &mut Harness, user, fields: &[Field]| {
        harness.append(users.edits, &Edit { user, fields: fields.to_vec() }).unwrap();
        cost(&harness.run().unwrap())
    };
    let (tall, shown) = (Field::HeightCm(171), Field::DisplayName("Ann of the Tides".to_owned()));
    // One look-up says that there is such a user; then a write for each field, and no field is read.
    assert_eq!(edit(&mut harness, ann, &[tall.clone(), shown]), io(1, 2));
    assert_eq!(edit(&mut harness, ann, &[Field::PasswordHash("new".to_owned())]), io(1, 1));
    let profile = users.profiles.key(ann);
    let fields = harness.select((
        profile.clone().field(|it| it.name),
        profile.clone().field(|it| it.display_name),
        profile.clone().field(|it| it.password_hash),
        profile.field(|it| it.height_cm),
    ));
    let text = |text: &str| Some(text.to_owned());
    let expected = (text("ann"), text("Ann of the Tides"), text("new"), Some(171));
    assert_eq!(fields.unwrap(), expected);

    let before = harness.dump();
    assert_eq!(edit(&mut harness, UserId(1), &[tall]), io(1, 0), "nobody stays nobody");
    assert_eq!(harness.dump(), before);
}

#[test]
fn the_best_spenders_are_those_of_a_plain_sort() {
    const USERS: u32 = 40;
    const WEEKS: u32 = 3;
    for seed in 0..20 {
        let (top, mut harness) = launch(top_users::top_users, seed);
        let mut spent: BTreeMap<(u32, String), u64> = BTreeMap::new();
        for round in 0..4 {
            for n in 0..600_u32 {
                let user = format!("user {}", (n * n + n * round) % USERS);
                let cents = u64::from((n * 7_919 + round) % 1_000);
                let week = n % WEEKS;
                *spent.entry((week, user.clone())).or_default() += cents;
                harness.append(top.purchases, &Purchase { user, week, cents }).unwrap();
            }
            let ran = harness.run().unwrap();
            let cost = cost(&ran);
            // A look-up and a write for each purchase. And of each week's list one of each for each partition
            // that had purchases, at most, however many those were.
            let lists = u64::from(PARTITIONS * WEEKS);
            assert!(cost.reads > 600 && cost.reads <= 600 + lists, "{cost:?}");
            assert_eq!(cost.writes(), cost.reads, "{cost:?}");
            assert_eq!(cost.scans, 0);
            // All keys were fetched together, ahead.
            assert!(cost.prefetched >= 600, "{cost:?}");
        }
        for week in 0..WEEKS {
            let mut ranked: Vec<(String, u64)> = spent
                .iter()
                .filter(|((of, _), _)| *of == week)
                .map(|((_, user), cents)| (user.clone(), *cents))
                .collect();
            ranked.sort_by(|(a, a_cents), (b, b_cents)| b_cents.cmp(a_cents).then(a.cmp(b)));
            ranked.truncate(3);
            let best = harness.select(top.best.key(week)).unwrap().unwrap();
            assert_eq!(best.ranked(), ranked);
        }
        let user = "user 2".to_owned();
        let weeks: Vec<(u32, u64)> = (0..WEEKS)
            .filter_map(|week| Some((week, *spent.get(&(week, user.clone()))?)))
            .collect();
        assert_eq!(harness.select(top.spent.key(&user).all()).unwrap(), weeks);
    }
}

#[test]
fn words_are_counted_and_a_frequent_one_costs_no_more_than_a_rare_one() {
    let (count, mut harness) = launch(word_count::word_count, 1);
    for nth in 0..1_000 {
        harness.append(count.lines, &format!("The tide, the TIDE; rare{}", nth % 10)).unwrap();
    }
    let cost = cost(&harness.run().unwrap());
    let counts: BTreeMap<String, u64> =
        harness.select(count.counts.all()).unwrap().into_iter().collect();
    let frequent = ["the", "tide"].map(|word| (word.to_owned(), 2_000));
    let rare = (0..10).map(|nth| (format!("rare{nth}"), 100));
    assert_eq!(counts, frequent.into_iter().chain(rare).collect());
    // 5,000 words, 12 different ones: each partition asks for each at most once.
    let most = u64::from(PARTITIONS) * 12;
    assert!(cost.reads <= most && cost.writes() <= most, "{cost:?}");
    assert_eq!((cost.scans, cost.reads), (0, cost.writes()));
}

/// Measurements at 400 different minutes of 42 days.
fn measurements() -> Vec<Measurement> {
    let measured = |nth: u64| Measurement {
        url: "/tides".to_owned(),
        minute: nth * 151 + nth * nth % 97,
        millis: 20 + nth * 37 % 80,
    };
    (0..400).map(measured).collect()
}

/// The same over a stretch of minutes, from the measurements themselves.
fn recounted(measurements: &[Measurement], minutes: std::ops::Range<u64>) -> Option<Stats> {
    let within = measurements.iter().filter(|it| minutes.contains(&it.minute)).map(Stats::of);
    within.reduce(|mut all, more| {
        all.merge(more);
        all
    })
}

#[test]
fn a_measurement_is_added_to_a_row_of_each_span() {
    let (series, mut harness) = launch(time_series::time_series, 3);
    let measurements = measurements();
    for measured in &measurements {
        harness.append(series.measurements, measured).unwrap();
    }
    let first = cost(&harness.run().unwrap());
    // Those of one microbatch are combined: of months and days there are few.
    assert!(first.reads == first.puts && first.puts < 2 * 400 + 400, "{first:?}");
    assert_eq!((first.scans, first.deletes), (0, 0));
    harness.append(series.measurements, &measurements[7]).unwrap();
    let one = cost(&harness.run().unwrap());
    assert_eq!((one.reads, one.puts, one.scans), (4, 4, 0));
}

#[test]
fn a_stretch_of_time_is_read_from_the_fewest_rows() {
    let state = TestPState::<Series>::new().unwrap();
    let page = || state.token().key("/tides");
    let measurements = measurements();
    for it in &measurements {
        let add =
            |(span, length)| page().key((span, it.minute / length)).add(Combine(Stats::of(it)));
        state.aggregate((0..).zip(SPANS).map(add).collect::<Vec<_>>()).unwrap();
    }
    state.take_io();
    let read = |minutes: std::ops::Range<u64>| {
        let rows =
            pieces(minutes).into_iter().flat_map(|it| state.select(page().range(it)).unwrap());
        rows.map(|(_, stats)| stats).reduce(|mut all, more| {
            all.merge(more);
            all
        })
    };
    let day = SPANS[2];
    for minutes in
        [0..42 * day, 17..42 * day - 23, 3 * day + 711..31 * day + 59, 30..90, 5..6, 9..9]
    {
        assert_eq!(read(minutes.clone()), recounted(&measurements, minutes.clone()));
        let io = state.take_io();
        assert!(io.reads + io.scans < 10, "{minutes:?}: {io:?}");
        assert!(io.rows_scanned < 100, "{minutes:?}: {io:?}");
    }
    // A minute is one row, by its key.
    let minute = measurements[100].minute;
    assert_eq!(pieces(minute..minute + 1), [(0, minute)..(0, minute + 1)]);
    let found = state.select(page().key((0, minute))).unwrap();
    assert_eq!(found, recounted(&measurements, minute..minute + 1));
    assert_eq!(state.take_io(), io(1, 0));
}

#[test]
fn pieces_make_up_a_stretch_of_time_and_no_longer_span_would_fit() {
    for start in [0, 1, 59, 60, 61, 1_439, 1_440, 43_199, 43_200, 50_000] {
        for length in [0, 1, 2, 59, 60, 119, 120, 1_500, 3_000, 43_199, 43_200, 100_000] {
            let pieces = pieces(start..start + length);
            let mut minutes: Vec<_> = pieces
                .iter()
                .map(|it| {
                    let span = SPANS[usize::from(it.start.0)];
                    it.start.1 * span..it.end.1 * span
                })
                .collect();
            minutes.sort_by_key(|it| it.start);
            let mut at = start;
            for piece in minutes {
                assert_eq!(piece.start, at);
                at = piece.end;
            }
            assert_eq!(at, start + length);
            assert!(pieces.len() <= 7);
            for it in &pieces {
                let Some(longer) = SPANS.get(usize::from(it.start.0) + 1) else { continue };
                let longer = longer / SPANS[usize::from(it.start.0)];
                let (from, to) = (it.start.1.next_multiple_of(longer), it.end.1 / longer * longer);
                assert!(from >= to, "{it:?} has a longer span within it");
            }
        }
    }
}
