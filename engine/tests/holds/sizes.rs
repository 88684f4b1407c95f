//! Sizes of collections, in an engine: over folds and reopenings, failed attempts, and as clients and snapshots
//! see them.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde::{Deserialize, Serialize};
use tidemill::module::{Depot, Module};
use tidemill::schema::aggregate::{MultiSet, SetOf};
use tidemill::schema::{Map, PState, Set, Sub, Uncounted};
use tidemill::topology::Failure;
use tidemill::{Engine, Error, Launched, block_on};

use crate::kit::{directory, options};

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Visit {
    nth: u64,
    user: u32,
    shop: u32,
    page: u32,
}

type Pages = Map<u32, Sub<Map<u32, Sub<Set<u32>>>>>;

struct Shops {
    visits: Depot<Visit>,
    /// By user and shop.
    pages: PState<Pages>,
    /// How often each page was visited, by shop.
    counts: PState<Map<u32, Sub<Map<u32, u64>>>>,
    /// Who came, by shop.
    users: PState<Map<u32, Sub<Set<u32>>>>,
}

thread_local! {
    /// What fails once has failed: an attempt is then aborted, and made again.
    static FAILED: Cell<u64> = const { Cell::new(0) };
}

fn shops(m: &Module) -> Shops {
    let visits = m.depot::<Visit>("visits").hash_by(|visit| &visit.user);
    let t = m.microbatch(|| "keeper");
    let pages = t.pstate::<Pages>("pages");
    let counts = t.pstate::<Map<u32, Sub<Map<u32, u64>>>>("counts");
    let users = t.pstate::<Map<u32, Sub<Set<u32>>>>("users");
    t.source(visits)
        .using(pages)
        .filter_map(async |at, pages, it: Visit| {
            let shop = pages.key(it.user).key(it.shop);
            let before = at.get(shop.clone().size()).await?;
            at.put(shop.clone().has(it.page), true)?;
            if before >= KEPT {
                at.remove_range(shop.clone().all().limit(KEPT - 2)).await?;
            }
            match it.nth {
                nth if nth.is_multiple_of(101) => at.delete(shop)?,
                nth if nth.is_multiple_of(503) => at.delete(pages.key(it.user))?,
                nth if nth.is_multiple_of(211) && FAILED.get() < nth => {
                    FAILED.set(nth);
                    return Err(Failure::retry(Error::Invalid { what: "not yet".to_owned() }));
                }
                _ => {}
            }
            Ok(Some(it))
        })
        .aggregate((counts, users), |(counts, users), it| {
            let counted = counts.key(it.shop).add(MultiSet(it.page));
            (counted, users.key(it.shop).add(SetOf(it.user)))
        });
    Shops { visits, pages: pages.reader(), counts: counts.reader(), users: users.reader() }
}

const USERS: u32 = 7;
const SHOPS: u32 = 3;
/// A shop of a user keeps about so many pages.
const KEPT: u64 = 20;

fn visit(nth: u64) -> Visit {
    let below = |count: u32, salt: u64| {
        let mixed = (nth + salt).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 33;
        u32::try_from(mixed % u64::from(count)).unwrap()
    };
    Visit { nth, user: below(USERS, 1), shop: below(SHOPS, 2), page: below(60, 3) }
}

#[derive(Default)]
struct Model {
    pages: BTreeMap<u32, BTreeMap<u32, BTreeSet<u32>>>,
    counts: BTreeMap<u32, BTreeMap<u32, u64>>,
    users: BTreeMap<u32, BTreeSet<u32>>,
}

impl Model {
    fn apply(&mut self, it: &Visit) {
        let user = self.pages.entry(it.user).or_default();
        let shop = user.entry(it.shop).or_default();
        let is_full = shop.len() as u64 >= KEPT;
        shop.insert(it.page);
        if is_full {
            for _ in 0..KEPT - 2 {
                shop.pop_first();
            }
        }
        if it.nth.is_multiple_of(101) {
            shop.clear();
        } else if it.nth.is_multiple_of(503) {
            user.clear();
        }
        user.retain(|_, shop| !shop.is_empty());
        *self.counts.entry(it.shop).or_default().entry(it.page).or_default() += 1;
        self.users.entry(it.shop).or_default().insert(it.user);
    }
}

async fn compare(engine: &Launched<Shops>, model: &Model) {
    let snapshot = engine.snapshot().await.unwrap();
    for user in 0..USERS {
        let of = model.pages.get(&user).cloned().unwrap_or_default();
        let pages = engine.pages.key(user);
        assert_eq!(engine.select(pages.clone().size()).await.unwrap(), of.len() as u64, "{user}");
        for shop in 0..SHOPS {
            let of: Vec<u32> = of.get(&shop).into_iter().flatten().copied().collect();
            let pages = pages.clone().key(shop);
            let both = (pages.clone().size(), pages.all());
            let expected = (of.len() as u64, of);
            assert_eq!(engine.select(both.clone()).await.unwrap(), expected, "{user} {shop}");
            assert_eq!(engine.select(both).at(&snapshot).await.unwrap(), expected);
        }
    }
    for shop in 0..SHOPS {
        let of: Vec<_> = model.counts.get(&shop).cloned().unwrap_or_default().into_iter().collect();
        let counts = engine.counts.key(shop);
        let found = engine.select((counts.clone().size(), counts.all())).await.unwrap();
        assert_eq!(found, (of.len() as u64, of));
        let of: Vec<_> = model.users.get(&shop).cloned().unwrap_or_default().into_iter().collect();
        let users = engine.users.key(shop);
        let found = engine.select((users.clone().size(), users.all())).await.unwrap();
        assert_eq!(found, (of.len() as u64, of));
    }
}

#[test]
fn a_size_is_the_number_of_elements_over_folds_and_reopenings() {
    let dir = directory("sizes");
    let mut model = Model::default();
    let mut nth = 0;
    for shards in [2, 1, 3] {
        block_on(async {
            let engine = Engine::open(&dir, options(shards)).await.unwrap();
            let launched = engine.launch("visits", shops).await.unwrap();
            compare(&launched, &model).await;
            for _ in 0..3 {
                let batch: Vec<Visit> = (nth + 1..=nth + 300).map(visit).collect();
                nth += 300;
                for visit in &batch {
                    model.apply(visit);
                }
                launched.append_many(launched.visits, &batch).await.unwrap();
                launched.caught_up("keeper").await.unwrap();
                compare(&launched, &model).await;
                engine.fold().await.unwrap();
                compare(&launched, &model).await;
            }
            // Some of it lies in the journal only.
            nth += 1;
            model.apply(&visit(nth));
            launched.append(launched.visits, &visit(nth)).await.unwrap();
            launched.caught_up("keeper").await.unwrap();
            drop(launched);
            if shards == 1 {
                engine.close().await.unwrap();
            } else {
                engine.stop().await;
            }
        });
    }
}

mod before {
    use super::*;

    pub(super) type Seen = Map<u32, Sub<Set<u32>, Uncounted>>;
}

mod after {
    use super::*;

    pub(super) type Seen = Map<u32, Sub<Set<u32>>>;
}

macro_rules! module {
    ($name:ident, $seen:ty) => {
        fn $name(m: &Module) -> (Depot<u32>, PState<$seen>) {
            let depot = m.depot::<u32>("numbers").hash_by(|number| number);
            let t = m.microbatch(|| "t");
            let seen = t.pstate::<$seen>("seen");
            t.source(depot)
                .using(seen)
                .for_each(async |at, seen, it: u32| Ok(at.put(seen.key(it).has(it), true)?));
            (depot, seen.reader())
        }
    };
}

module!(uncounted, before::Seen);
module!(counted, after::Seen);

/// The manifest and the catalogue, byte by byte.
fn root(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let files = std::fs::read_dir(dir).unwrap().map(|it| it.unwrap());
    let names = files.map(|it| it.file_name().into_string().unwrap());
    let names = names.filter(|it| it == "MANIFEST" || it.starts_with("catalogue-"));
    names.map(|name| (name.clone(), std::fs::read(dir.join(name)).unwrap())).collect()
}

#[test]
fn what_lies_uncounted_is_not_counted_by_another_declaration() {
    let dir = directory("sizes-declared");
    block_on(async {
        let engine = Engine::open(&dir, options(1)).await.unwrap();
        let launched = engine.launch("m", uncounted).await.unwrap();
        launched.append(launched.0, &7).await.unwrap();
        launched.caught_up("t").await.unwrap();
        drop(launched);
        engine.close().await.unwrap();
    });
    block_on(async {
        let engine = Engine::open(&dir, options(1)).await.unwrap();
        let before = root(&dir);
        match engine.launch("m", counted).await {
            Err(Error::Invalid { what }) => {
                for part in
                    ["PState `seen`", "at values", "write `Uncounted`", "Nothing was changed"]
                {
                    assert!(what.contains(part), "{part} in {what}");
                }
            }
            Err(error) => panic!("{error}"),
            Ok(_) => panic!("it was launched"),
        }
        assert_eq!(root(&dir), before);
        let launched = engine.launch("m", uncounted).await.unwrap();
        assert_eq!(launched.select(launched.1.key(7).all()).await.unwrap(), [7]);
        drop(launched);
        engine.close().await.unwrap();
    });
}
