//! Each step against the step of the syntax tree of its name, and what it finds.

#![allow(clippy::redundant_closure_for_method_calls, reason = "they read as they would elsewhere")]

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::{Collects, Steps};
use crate::codec::{self, FieldTable};
use crate::schema::ast::Navigate;
use crate::schema::eval::Problem;
use crate::schema::{Fields, List, Map, PState, Schema, Set, Sub};
use crate::testing::TestPState;
use crate::topology::At;
use crate::types::PStateId;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Fields)]
#[serde(rename = "Song")]
struct Track {
    title: String,
    #[serde(rename = "secs")]
    seconds: u32,
    label: Option<String>,
}

#[derive(Schema)]
#[allow(dead_code, reason = "a type to store with")]
struct Artist {
    name: String,
    tags: Sub<Set<String>>,
    tracks: Sub<List<Track>>,
    plays: Sub<Map<u64, i64>>,
}

fn track(title: &str, seconds: u32) -> Track {
    Track { title: title.to_owned(), seconds, label: None }
}

fn artists() -> TestPState<Map<u64, Artist>> {
    let artists = TestPState::<Map<u64, Artist>>::new().expect("it can be stored");
    let coltrane = artists.token().key(1);
    let done = artists.run(async |at| {
        at.put(coltrane.clone().field(|it| it.name), "Coltrane".to_owned())?;
        for tag in ["jazz", "tenor", "modal"] {
            at.put(coltrane.clone().field(|it| it.tags).has(tag), true)?;
        }
        for (title, seconds) in [("Naima", 261), ("Countdown", 141), ("Spiral", 359)] {
            at.push(coltrane.clone().field(|it| it.tracks), track(title, seconds)).await?;
        }
        for day in 1..=5_u64 {
            let plays = i64::try_from(day).expect("few") * 10;
            at.put(coltrane.clone().field(|it| it.plays).key(day), plays)?;
        }
        Ok(())
    });
    done.expect("a store in memory does not fail");
    artists
}

/// What steps find, in an event of its own.
fn find<S: crate::schema::Schema, O, T, C: Collects>(
    state: &TestPState<S>,
    steps: Steps<O, T, C>,
) -> Vec<C::Found<T>>
where
    C::Found<T>: crate::schema::eval::Outcome,
{
    state.run(async |at| Ok(at.find(steps).await?)).expect("a store in memory does not fail")
}

#[test]
fn steps_lead_into_collections_that_are_stored_by_element() {
    let artists = artists();
    let one = artists.token().steps().key(1);
    assert_eq!(find(&artists, one.clone().field(|it| it.name).some()), ["Coltrane"]);
    let tags = one.clone().field(|it| it.tags);
    assert_eq!(find(&artists, tags.clone().all()), ["jazz", "modal", "tenor"]);
    assert_eq!(find(&artists, tags.clone().size()), [3]);
    assert_eq!(find(&artists, tags.clone().elem("modal")), ["modal"]);
    assert_eq!(find(&artists, tags.clone().elem("pop")), Vec::<String>::new());
    assert_eq!(find(&artists, tags.clone().range("k".to_owned()..).all()), ["modal", "tenor"]);
    assert_eq!(find(&artists, tags.sub_set(["pop", "jazz"]).all()), ["jazz"]);

    let tracks = one.clone().field(|it| it.tracks);
    let titles = |of: Steps<_, Track>| find(&artists, of.field(|it| it.title).some());
    assert_eq!(titles(tracks.clone().all()), ["Naima", "Countdown", "Spiral"]);
    assert_eq!(titles(tracks.clone().nth(-2)), ["Countdown"]);
    assert_eq!(
        titles(tracks.clone().multi(|it| [it.clone().last(), it.first()])),
        ["Spiral", "Naima"]
    );
    assert_eq!(titles(tracks.clone().sublist(1, 9).all()), ["Countdown", "Spiral"]);
    let is_long = |it: Steps<_, Track>| it.field(|it| it.seconds).greater_or_equal(261);
    assert_eq!(titles(tracks.clone().all().selected(is_long)), ["Naima", "Spiral"]);
    assert_eq!(titles(tracks.clone().all().not_selected(is_long)), ["Countdown"]);
    assert_eq!(find(&artists, tracks.clone().filtered(is_long)).concat().len(), 2);
    let runs = find(&artists, tracks.clone().runs(is_long).view(|run| run.len()));
    assert_eq!(runs, [1, 1]);
    let places = tracks.indexed().view(|(place, it)| (place, it.seconds));
    assert_eq!(find(&artists, places), [(0, 261), (1, 141), (2, 359)]);

    let plays = one.field(|it| it.plays);
    assert_eq!(find(&artists, plays.clone().must(2)), [20]);
    assert_eq!(find(&artists, plays.clone().key(9)), [None]);
    assert_eq!(find(&artists, plays.clone().key(9).or(7)), [7]);
    assert_eq!(find(&artists, plays.clone().must(9)), Vec::<i64>::new());
    assert_eq!(find(&artists, plays.clone().range(2..=3).entries()), [(2, 20), (3, 30)]);
    assert_eq!(find(&artists, plays.clone().lowest(2, 2..).keys()), [2, 3]);
    assert_eq!(find(&artists, plays.clone().highest(2, ..).values()), [50, 40]);
    assert_eq!(find(&artists, plays.clone().sub_map([1, 5, 9]).values()), [10, 50]);
    assert_eq!(find(&artists, plays.clone().map_key(4)), [4]);
    assert_eq!(find(&artists, plays.values().filter(|plays| plays % 20 == 0)), [20, 40]);
}

type InValue = Map<String, BTreeMap<u64, Vec<Track>>>;

fn years() -> TestPState<InValue> {
    let state = TestPState::<InValue>::new().expect("it can be stored");
    let years = BTreeMap::from([
        (1959, vec![track("Naima", 261), track("Countdown", 141)]),
        (1964, vec![track("Resolution", 440)]),
    ]);
    state.put(state.token().key("Coltrane"), years).expect("a store in memory does not fail");
    state
}

#[test]
fn the_same_steps_lead_into_one_value() {
    let state = years();
    let years = state.token().steps().key("Coltrane");
    assert_eq!(find(&state, years.clone().keys()), [1959, 1964]);
    let titles = years.clone().values().all().field(|it| it.title).some();
    assert_eq!(find(&state, titles), ["Naima", "Countdown", "Resolution"]);
    let late = years.clone().range(1960..).values().first().field(|it| it.title).some();
    assert_eq!(find(&state, late), ["Resolution"]);
    // Text is compared with text, and an optional field with what is in it.
    let named = years.clone().values().all().selected(|it| it.field(|it| it.title).equal("Naima"));
    assert_eq!(find(&state, named), [track("Naima", 261)]);
    let label = years.clone().must(1964).first().field(|it| it.label);
    assert_eq!(find(&state, label), [None]);
    let absent = state.token().steps().key("Nobody");
    assert_eq!(find(&state, absent.clone()), [None]);
    assert_eq!(find(&state, absent.values()), Vec::<Vec<Track>>::new());
    let all = years.sub_select(|it| it.values().all().field(|it| it.seconds).some());
    assert_eq!(find(&state, all), [[261, 141, 440]]);
}

#[test]
fn what_is_collected_comes_before_what_is_reached() {
    let state = years();
    let from = state.token().steps().must("Coltrane");
    let counted = from
        .clone()
        .collect(|it| it.keys())
        .values()
        .collect_one(|it| it.size())
        .put_value("x".to_owned())
        .first()
        .field(|it| it.title)
        .some();
    let found = find(&state, counted);
    let (years, x) = (vec![1959, 1964], "x".to_owned());
    assert_eq!(
        found,
        [(years.clone(), 2, x.clone(), "Naima".to_owned()), (years, 1, x, "Resolution".to_owned())]
    );
    let sized = from.clone().values().put_current().collected(|(it,)| it.len() == 1).first();
    let title = sized.drop_collected().field(|it| it.title).some();
    assert_eq!(find(&state, title), ["Resolution"]);
    let with = from.values().collect_one(|it| it.size()).first();
    let with = with.view_with(|(size,), it: Track| u64::from(it.seconds) + size);
    assert_eq!(find(&state, with.drop_collected()), [263, 441]);
}

#[test]
fn branches_go_one_way() {
    let state = years();
    let tracks = state.token().steps().must("Coltrane").values().all();
    let way = tracks.clone().either(
        |it| it.field(|it| it.seconds).less(200),
        |it| it.field(|it| it.title),
        |it| it.field(|it| it.seconds).view(|it| it.map(|it| it.to_string())),
    );
    let found = ["261", "Countdown", "440"].map(|it| Some(it.to_owned()));
    assert_eq!(find(&state, way), found);
    let only = tracks.clone().either(
        |it| it.field(|it| it.seconds).less(200),
        |it| it.field(|it| it.title).some(),
        Steps::stop,
    );
    assert_eq!(find(&state, only), ["Countdown"]);
    let twice = tracks.field(|it| it.seconds).some().then_stay(|it| it.greater(300));
    assert_eq!(find(&state, twice), [261, 141, 440, 440]);
}

/// Runs a transform in an event of its own.
fn turn<S: crate::schema::Schema>(
    state: &TestPState<S>,
    turn: impl AsyncFnOnce(At<'_, crate::testing::Test>) -> Result<(), crate::topology::QueryError>,
) {
    state.run(async |at| Ok(turn(at).await?)).expect("a store in memory does not fail");
}

#[test]
fn parts_are_changed_where_they_lie() {
    let state = years();
    let of = || state.token().steps().key("Coltrane");
    let seconds = || of().must(1959).all().field(|it| it.seconds).some();
    turn(&state, async |at| at.change(seconds(), |it| Some(it + 1)).await);
    assert_eq!(find(&state, seconds()), [262, 142]);
    // A field that a track must have cannot be taken from one.
    let without =
        state.run(async |at| Ok(at.change(seconds(), |it| (it > 200).then_some(it)).await?));
    assert!(without.expect_err("it is refused").to_string().contains("not what is stored"));
    assert_eq!(find(&state, seconds()), [262, 142]);
    turn(&state, async |at| at.erase(of().must(1959).nth(1)).await);
    turn(&state, async |at| at.set(of().key(1959).insert_at(0), track("Syeeda", 420)).await);
    turn(&state, async |at| at.set(of().key(1959).end(), vec![track("Cousin Mary", 345)]).await);
    turn(&state, async |at| at.set(of().key(1967).after_last(), track("Venus", 508)).await);
    let titles = of().values().all().field(|it| it.title).some();
    assert_eq!(find(&state, titles), ["Syeeda", "Naima", "Cousin Mary", "Resolution", "Venus"]);
    turn(&state, async |at| at.set(of().map_key(1967), 1966).await);
    turn(&state, async |at| at.set(of().must(1959).index(2), 0).await);
    let titles = of().must(1959).all().field(|it| it.title).some();
    assert_eq!(find(&state, titles), ["Cousin Mary", "Syeeda", "Naima"]);
    assert_eq!(find(&state, of().keys()), [1959, 1964, 1966]);

    let artists = artists();
    let one = || artists.token().steps().key(1);
    turn(&artists, async |at| at.set(one().field(|it| it.tags).new_elem(), "bop").await);
    turn(&artists, async |at| at.erase(one().field(|it| it.tags).elem("modal")).await);
    turn(&artists, async |at| at.erase(one().field(|it| it.plays).range(2..=4)).await);
    turn(&artists, async |at| at.set(one().field(|it| it.name), "Trane").await);
    turn(&artists, async |at| {
        at.set(one().field(|it| it.tracks).before_first(), track("Giant Steps", 283)).await
    });
    assert_eq!(find(&artists, one().field(|it| it.tags).all()), ["bop", "jazz", "tenor"]);
    assert_eq!(find(&artists, one().field(|it| it.plays).keys()), [1, 5]);
    assert_eq!(find(&artists, one().field(|it| it.name)), [Some("Trane".to_owned())]);
    let tracks = one().field(|it| it.tracks);
    assert_eq!(find(&artists, tracks.clone().size()), [4]);
    assert_eq!(find(&artists, tracks.first().field(|it| it.seconds).some()), [283]);
}

#[test]
fn an_in_value_set_has_elements_and_ranges() {
    let state = TestPState::<Map<u64, BTreeSet<u32>>>::new().expect("it can be stored");
    state.put(state.token().key(7), BTreeSet::from([1, 5, 9])).expect("nothing fails in memory");
    let set = || state.token().steps().key(7);
    assert_eq!(find(&state, set().range(2..).all()), [5, 9]);
    turn(&state, async |at| at.set(set().new_elem(), 3).await);
    turn(&state, async |at| at.change(set().elem(9), |it| Some(it + 1)).await);
    assert_eq!(find(&state, set().some()), [BTreeSet::from([1, 3, 5, 10])]);
}

/// The letters of a text.
struct Letters;

impl Navigate for Letters {
    type From = String;
    type To = char;

    fn select(&self, text: String, reach: &mut dyn FnMut(char)) {
        text.chars().for_each(reach);
    }

    fn transform(
        &self,
        text: String,
        change: &mut dyn FnMut(char) -> Result<Option<char>, Problem>,
    ) -> Result<Option<String>, Problem> {
        let letters: Result<Vec<Option<char>>, Problem> = text.chars().map(change).collect();
        Ok(Some(letters?.into_iter().flatten().collect()))
    }
}

#[test]
fn a_navigator_of_ones_own_is_a_step() {
    let state = TestPState::<Map<u64, String>>::new().expect("it can be stored");
    state.put(state.token().key(7), "tide".to_owned()).expect("nothing fails in memory");
    let vowels =
        || state.token().steps().must(7).navigate(Letters).filter(|it| "aeiou".contains(*it));
    assert_eq!(find(&state, vowels()), ['i', 'e']);
    turn(&state, async |at| at.change(vowels(), |it| Some(it.to_ascii_uppercase())).await);
    assert_eq!(state.select(state.token().key(7)).expect("it is there"), Some("tIdE".to_owned()));
}

#[test]
fn a_path_of_plain_values_is_data_without_a_module() {
    let token = PState::<Map<String, Vec<i64>>>::from_id(PStateId(0));
    let steps = token.steps().key("ann").all().greater(10);
    let query = steps.query(&FieldTable::new()).expect("its values are plain");
    let json = query.to_json().expect("it can be sent").to_string();
    assert_eq!(json, r#"[["key","ann"],"all",["compare",">",10]]"#);
    assert_eq!(format!("{steps:?}"), format!("{query:?}"));
    // The names of a struct have their numbers in the module only.
    let token = PState::<Map<String, Vec<Track>>>::from_id(PStateId(0));
    let steps = token.steps().key("ann").all().equal(track("Naima", 261));
    assert!(matches!(steps.query(&FieldTable::new()), Err(codec::Error::Encode { .. })));
    assert_eq!(format!("{steps:?}"), "3 steps");
}
