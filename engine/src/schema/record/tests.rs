//! Records in a module that runs, and what is remembered of them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::codec::table::Trace;
use crate::codec::{KeyBuf, encode_key};
use crate::module::{self, Depot, Module};
use crate::schema::aggregate::{SetOf, Sum};
use crate::schema::{Layout, Map, PState, Schema, Set, Sub};
use crate::topology::harness::Harness;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Address {
    street: String,
    town: String,
}

#[derive(Schema)]
struct Profile {
    name: String,
    address: Address,
    #[field(9)]
    visits: u64,
    r#type: u8,
    fans: Sub<Set<u64>>,
    inner: Inner,
}

#[derive(Schema)]
struct Inner {
    posts: Sub<Map<u64, String>>,
    last: u64,
}

#[derive(Clone, Serialize, Deserialize)]
enum Event {
    Named(u64, String),
    Moved(u64, Address),
    Visited(u64, u64),
    Posted(u64, u64, String),
    Forgot(u64),
    Gone(u64),
}

impl Event {
    fn user(&self) -> &u64 {
        match self {
            Self::Named(user, _)
            | Self::Moved(user, _)
            | Self::Visited(user, _)
            | Self::Posted(user, ..)
            | Self::Forgot(user)
            | Self::Gone(user) => user,
        }
    }
}

struct Site {
    events: Depot<Event>,
    profiles: PState<Map<u64, Profile>>,
}

fn site(m: &Module) -> Site {
    let events = m.depot::<Event>("events").hash_by(Event::user);
    let t = m.microbatch(|| "keeping");
    let profiles = t.pstate::<Map<u64, Profile>>("profiles");
    t.source(events)
        .using(profiles)
        .filter_map(async |at, profiles, event| {
            let of = profiles.key(*event.user());
            match event {
                Event::Named(_, name) => at.put(of.field(|it| it.name), name)?,
                Event::Moved(_, address) => at.put(of.field(|it| it.address), address)?,
                Event::Posted(_, time, text) => {
                    let inner = of.field(|it| it.inner);
                    at.put(inner.clone().field(|it| it.last), time)?;
                    at.put(inner.field(|it| it.posts).key(time), text)?;
                }
                Event::Forgot(_) => at.delete(of.field(|it| it.inner))?,
                Event::Gone(_) => at.delete(of)?,
                Event::Visited(user, by) => return Ok(Some((user, by))),
            }
            Ok(None)
        })
        .aggregate(profiles, |profiles, (user, by)| {
            let of = profiles.key(user);
            (of.clone().field(|it| it.visits).add(Sum(1)), of.field(|it| it.fans).add(SetOf(by)))
        });
    Site { events, profiles: profiles.reader() }
}

#[test]
fn fields_are_stored_read_and_deleted_by_themselves_and_together() {
    let (site, module) = module::define("site", site).unwrap();
    let mut engine = Harness::new(module, 4).unwrap();
    let home = Address { street: "High Street 1".into(), town: "Ulm".into() };
    let tell = |engine: &mut Harness, events: &[Event]| {
        for event in events {
            engine.append(site.events, event).unwrap();
        }
        engine.run().unwrap();
    };
    tell(
        &mut engine,
        &[
            Event::Named(1, "ann".into()),
            Event::Named(2, "bob".into()),
            Event::Moved(1, home.clone()),
            Event::Visited(1, 7),
            Event::Visited(1, 5),
            Event::Visited(1, 7),
            Event::Visited(2, 1),
            Event::Posted(1, 20, "second".into()),
            Event::Posted(1, 10, "first".into()),
        ],
    );
    let of = |user: u64| site.profiles.key(user);
    let inner = |user| of(user).field(|it| it.inner);
    let read = |engine: &mut Harness, user| {
        let name = engine.select(of(user).field(|it| it.name)).unwrap();
        let address = engine.select(of(user).field(|it| it.address)).unwrap();
        let visits = engine.select(of(user).field(|it| it.visits)).unwrap();
        let fans = engine.select(of(user).field(|it| it.fans).all()).unwrap();
        let last = engine.select(inner(user).field(|it| it.last)).unwrap();
        let posts = engine.select(inner(user).field(|it| it.posts).all().keys()).unwrap();
        (name, address, visits, fans, last, posts)
    };
    let bob = (Some("bob".to_owned()), None, Some(1), vec![1], None, vec![]);
    let ann = Some("ann".to_owned());
    assert_eq!(
        read(&mut engine, 1),
        (ann.clone(), Some(home.clone()), Some(3), vec![5, 7], Some(10), vec![10, 20])
    );
    assert_eq!(read(&mut engine, 2), bob);
    assert_eq!(
        engine.select((of(1).field(|it| it.name), of(1).field(|it| it.r#type))).unwrap(),
        (ann.clone(), None)
    );
    assert!(engine.select(of(1).field(|it| it.fans).has(5)).unwrap());
    tell(&mut engine, &[Event::Forgot(1)]);
    assert_eq!(read(&mut engine, 1), (ann, Some(home), Some(3), vec![5, 7], None, vec![]));
    tell(&mut engine, &[Event::Gone(1)]);
    assert_eq!(read(&mut engine, 1), (None, None, None, vec![], None, vec![]));
    assert_eq!(read(&mut engine, 2), bob);
}

fn layout<S: Schema>() -> Layout {
    Layout::of::<S>(&mut Trace::default()).unwrap()
}

#[test]
fn a_row_is_shown_with_the_names_of_its_fields() {
    let profiles = layout::<Map<u64, Profile>>();
    assert_eq!(profiles.to_string(), "Map<u64, Profile>");
    let row = |tail: &[u8]| {
        let mut key = encode_key(&7_u64);
        key.push_slice(tail);
        let (parts, kind) = profiles.row(&key).unwrap();
        (serde_json::Value::from(parts).to_string(), kind.map(|kind| kind.name.clone()))
    };
    assert_eq!(row(&[1]), (r#"[7,"name"]"#.to_owned(), Some("String".to_owned())));
    assert_eq!(row(&[10]), (r#"[7,"type"]"#.to_owned(), Some("u8".to_owned())));
    let fan: KeyBuf = encode_key(&3_u64);
    assert_eq!(row(&[&[11][..], &fan].concat()), (r#"[7,"fans",3]"#.to_owned(), None));
    let post = row(&[&[12, 1][..], &fan].concat());
    assert_eq!(post, (r#"[7,"inner","posts",3]"#.to_owned(), Some("String".to_owned())));
    assert_eq!(row(&[11]), (r#"[7,"fans","head"]"#.to_owned(), None));
    assert_eq!(row(&[12, 1]), (r#"[7,"inner","posts","head"]"#.to_owned(), None));
    for bad in [&[][..], &[3], &[1, 0], &[12], &[12, 1, 0]] {
        let mut key = encode_key(&7_u64);
        key.push_slice(bad);
        profiles.row(&key).unwrap_err();
    }
}

/// A module's profile, and later ones.
macro_rules! versions {
    ($($name:ident { $($field:tt)* })*) => { $(
        mod $name {
            use super::*;

            #[derive(Schema)]
            pub(super) struct Profile { $($field)* }
        }
    )* };
}

versions! {
    first { name: String, bio: u32, fans: Sub<Set<u64>> }
    more { name: String, bio: u64, fans: Sub<Set<u64>>, home: Address }
    moved { name: String, home: Address, bio: u32, fans: Sub<Set<u64>> }
    ordered { fans: Sub<Set<u64>>, name: String, bio: u32 }
    kept { #[field(3)] fans: Sub<Set<u64>>, #[field(1)] name: String, bio: u32 }
    dropped { name: String, #[field(3)] fans: Sub<Set<u64>> }
    taken { name: String, home: Address, fans: Sub<Set<u64>> }
    other { name: String, bio: u32, fans: Sub<Set<String>> }
}

#[test]
fn a_number_that_moved_is_refused_and_new_and_dropped_fields_are_remembered() {
    type Of<T> = Map<u64, T>;
    let first = layout::<Of<first::Profile>>();
    let refused = |stored: &Layout, declared: &Layout| {
        let misfit = stored.widen(declared).unwrap_err();
        (misfit.at.join(" > "), misfit.why)
    };
    assert_eq!(first.widen(&first).unwrap(), first);
    let more = layout::<Of<more::Profile>>();
    assert_eq!(first.widen(&more).unwrap(), more);
    assert_eq!(refused(&more, &first).0, "values > Profile.bio");
    let kept = layout::<Of<kept::Profile>>();
    assert_eq!(first.widen(&kept).unwrap(), kept);
    let (at, why) = refused(&first, &layout::<Of<moved::Profile>>());
    assert_eq!(at, "values > Profile.bio");
    assert!(why.contains("write `#[field(2)]`"), "{why}");
    let (at, why) = refused(&first, &layout::<Of<ordered::Profile>>());
    assert_eq!(at, "values > Profile.name");
    assert!(why.contains("write `#[field(1)]`"), "{why}");
    let (at, _) = refused(&first, &layout::<Of<other::Profile>>());
    assert_eq!(at, "values > Profile.fans > elements");
    let (at, why) = refused(&first, &layout::<Of<taken::Profile>>());
    assert_eq!(at, "values > Profile.home");
    assert!(why.contains("the number 2 belongs to `bio`"), "{why}");

    let dropped = first.widen(&layout::<Of<dropped::Profile>>()).unwrap();
    assert_eq!(dropped.widen(&layout::<Of<dropped::Profile>>()).unwrap(), dropped);
    assert_eq!(refused(&dropped, &layout::<Of<taken::Profile>>()).0, "values > Profile.home");
    let back = dropped.widen(&first).unwrap();
    assert_eq!(back, first);
    // Rows of it are still shown.
    let mut key = encode_key(&7_u64);
    key.push(2);
    assert_eq!(dropped.row(&key).unwrap().0[1], "bio");

    let struct_of_one_value = layout::<Of<BTreeMap<u8, u8>>>();
    assert_eq!(refused(&struct_of_one_value, &first).0, "values");
    let text = serde_json::to_string(&more).unwrap();
    assert_eq!(serde_json::from_str::<Layout>(&text).unwrap(), more);
}
