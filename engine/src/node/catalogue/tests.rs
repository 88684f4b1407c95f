//! What is remembered of a module, and what a later launch may declare.

use std::collections::BTreeMap;

use super::*;
use crate::codec::EncodeKey;
use crate::env::memory::{self, MemoryDisk};
use crate::manifest::{CatalogueRef, Manifest};
use crate::migrate::{InnerValues, Migration, Values};
use crate::module::{self, Module};
use crate::schema::{Data, List, Map, PlaceBy, Private, Schema, Set, Single, Sub, Uncounted};

const GOLDEN_1: &str = include_str!("../../../testdata/catalogue-1.json");
const GOLDEN_2: &str = include_str!("../../../testdata/catalogue-2.json");
const GOLDEN_3: &str = include_str!("../../../testdata/catalogue-3.json");
const GOLDEN_4: &str = include_str!("../../../testdata/catalogue-4.json");
const GOLDEN_RECOMPUTES: &str = include_str!("../../../testdata/catalogue-4-recomputes.json");

#[derive(Serialize, Deserialize)]
struct Sale {
    sku: String,
    count: u32,
}

/// As it was before sizes were kept.
type ByDay = Map<String, Sub<Map<u64, Sale>, Uncounted>>;

type Sized = Map<String, Sub<Map<u64, Sale>>>;

/// A module with a `PState` of days, which the tests change, and one that stays.
fn shop<S: Schema>(m: &Module) {
    m.version(3);
    let sales = m.depot::<Sale>("sales").random();
    let ledger = m.microbatch(|| "ledger");
    ledger.pstate::<S>("by_day");
    ledger.pstate::<Set<String>>("skus");
    ledger.source(sales).for_each(async |_, _| Ok(()));
}

fn definition<S: Schema>() -> Definition {
    module::define("shop", shop::<S>).unwrap().1
}

/// Launches the shop as the keeper does.
fn launch<S: Schema>(catalogue: &Catalogue) -> Result<Catalogue> {
    launch_definition(catalogue, definition::<S>())
}

fn launch_definition(catalogue: &Catalogue, definition: Definition) -> Result<Catalogue> {
    let mut next = catalogue.clone();
    let stored = match catalogue.fields.len() {
        0 => FieldTable::new(),
        _ => FieldTable::decode(&catalogue.fields).unwrap(),
    };
    let traced = definition.trace(stored).map_err(Error::invalid)?;
    next.install(Arc::new(definition), traced, &Starts::new()).map(|_| next)
}

fn fresh<S: Schema>() -> Catalogue {
    launch::<S>(&Catalogue::default()).unwrap()
}

fn refusal<S: Schema>(catalogue: &Catalogue) -> String {
    refused(launch::<S>(catalogue))
}

fn refused(launched: Result<Catalogue>) -> String {
    match launched {
        Err(Error::Invalid { what }) => what,
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("it was launched"),
    }
}

/// How the `PState` of days is remembered.
fn layout(catalogue: &Catalogue) -> &Layout {
    catalogue.modules[0].pstates[0].layout.as_ref().unwrap()
}

#[test]
fn a_catalogue_of_format_1_is_read_and_takes_the_layouts_of_the_next_launch() {
    let old = Catalogue::decode(GOLDEN_1.as_bytes()).unwrap();
    assert_eq!((old.format, &*old.modules[0].name), (1, "shop"));
    assert!(old.modules[0].pstates.iter().all(|it| it.layout.is_none()));
    // As it was written: nothing was added on the way.
    assert_eq!(String::from_utf8(old.encode()).unwrap(), GOLDEN_1);
    let new = launch::<ByDay>(&old).unwrap();
    assert_eq!(new.format, FORMAT);
    assert_eq!(new.modules[0].depots, old.modules[0].depots);
    assert_eq!(new.fields, old.fields);
    assert_eq!(layout(&new).to_string(), "Map<String, Sub<Map<u64, Sale>, Uncounted>>");
    // From then on they are held to.
    refusal::<Map<String, Sub<Map<i64, Sale>>>>(&new);
    // What was stored before is not known, so anything can be adopted.
    launch::<Map<u8, u8>>(&old).unwrap();
}

#[test]
fn a_directory_with_a_catalogue_of_format_1_is_sound() {
    let disk = MemoryDisk::new();
    memory::run(&disk, |env| async move {
        let mut manifest = Manifest::new(7, 1);
        manifest.clean = true;
        let (number, bytes) = (4, GOLDEN_1.len() as u64);
        let crc = crc32fast::hash(GOLDEN_1.as_bytes());
        manifest.catalogue = CatalogueRef { number, bytes, crc };
        manifest.store(&env).await.unwrap();
    });
    let paths = disk.paths().into_iter();
    let mut files: BTreeMap<_, _> =
        paths.map(|path| (path.clone(), disk.contents(&path).unwrap())).collect();
    let mut stored = GOLDEN_1.as_bytes().to_vec();
    stored.resize(stored.len().next_multiple_of(4096), 0);
    files.insert("catalogue-4".to_owned(), stored);
    let report = crate::verify::directory(&files, &mut |_| {});
    assert_eq!((report.findings, report.notes), (vec![], vec![]));
    assert_eq!(report.catalogue.unwrap().modules[0].pstates[1], Numbered::new("skus", 2));
}

#[test]
fn the_stored_form_stays_as_it_is() {
    let of_2 = Catalogue::decode(GOLDEN_2.as_bytes()).unwrap();
    assert_eq!(String::from_utf8(of_2.encode()).unwrap(), GOLDEN_2);
    // What a launch makes of files of the formats before.
    let now = GOLDEN_2.replace("\"format\": 2", &format!("\"format\": {FORMAT}"));
    for before in [Catalogue::decode(GOLDEN_1.as_bytes()).unwrap(), of_2] {
        let new = as_before(launch::<ByDay>(&before).unwrap());
        assert_eq!(String::from_utf8(new.encode()).unwrap(), now);
    }
    let of_3 = Catalogue::decode(GOLDEN_3.as_bytes()).unwrap();
    assert_eq!(String::from_utf8(of_3.encode()).unwrap(), GOLDEN_3);
    assert_eq!(Catalogue { format: FORMAT, ..of_3 }, as_before(fresh::<Sized>()));
    let with_owners = migrating::<ByDay, _>(&fresh::<Counts>(), by_day("by-day")).unwrap();
    let encoded = String::from_utf8(with_owners.encode()).unwrap();
    assert!(encoded.contains("\n          \"owner\": \"ledger\"\n"), "{encoded}");
    assert!(encoded.contains("\n          \"sources\": [\n"), "{encoded}");
    assert_eq!(Catalogue::decode(encoded.as_bytes()).unwrap(), with_owners);
    let mut with_starts = with_owners.clone();
    let begun = Begun { depot: 1, starts: BTreeMap::from([(3, 40)]) };
    with_starts.modules[0].topologies[0].sources = vec![begun];
    let encoded = String::from_utf8(with_starts.encode()).unwrap();
    assert!(encoded.contains("\"3\": 40"), "{encoded}");
    assert_eq!(Catalogue::decode(encoded.as_bytes()).unwrap(), with_starts);
    let mut of_4 = as_before(with_owners);
    of_4.modules[0].pstates[1].migrated.push("before".to_owned());
    assert_eq!(String::from_utf8(of_4.encode()).unwrap(), GOLDEN_4);
    assert_eq!(Catalogue::decode(GOLDEN_4.as_bytes()).unwrap(), of_4);
    // What recomputes add.
    of_4.modules[0].pstates[1].since = 9;
    of_4.modules[0].recomputes.push(Recomputing {
        topology: "ledger".to_owned(),
        version: 3,
        number: 2,
        pstates: vec![Numbered::new("skus", 4)],
        sources: Vec::new(),
    });
    of_4.leftovers = Leftovers { pstates: vec![2], topologies: vec![3] };
    assert_eq!(String::from_utf8(of_4.encode()).unwrap(), GOLDEN_RECOMPUTES);
    assert_eq!(Catalogue::decode(GOLDEN_RECOMPUTES.as_bytes()).unwrap(), of_4);
}

/// As it was before owners, and where topologies began, were remembered.
fn as_before(mut catalogue: Catalogue) -> Catalogue {
    for module in &mut catalogue.modules {
        for pstate in &mut module.pstates {
            assert_eq!(pstate.owner.take().as_deref(), Some("ledger"));
        }
        for topology in &mut module.topologies {
            assert!(topology.sources.iter().all(|it| it.starts.is_empty()));
            topology.sources.clear();
        }
    }
    catalogue
}

#[test]
fn whoever_wrote_what_another_topology_writes_is_known_or_it_may_have_been_anyone() {
    let two = |owner: usize, migrates: bool| {
        let defined = module::define("shop", |m| {
            let sales = m.depot::<Sale>("sales").random();
            let topologies = [m.microbatch(Named("ledger")), m.microbatch(Named("returns"))];
            if migrates {
                let migration = Migration::values("wider", |it: u8| u16::from(it));
                topologies[owner].pstate_migrated::<Map<u8, u16>, u8>("stock", migration);
            } else {
                topologies[owner].pstate::<Map<u8, u8>>("stock");
            }
            for topology in topologies {
                topology.source(sales).for_each(async |_, _| Ok(()));
            }
        });
        defined.unwrap().1
    };
    let writers = |catalogue: &Catalogue, owner, migrates| -> Vec<u32> {
        let disowned = catalogue.disowned(&two(owner, migrates));
        disowned.iter().map(|it| it.topology.0).collect()
    };
    let nobody = [0; 0];
    assert_eq!(writers(&Catalogue::default(), 0, true), nobody);
    let mut of_ledger = launch_definition(&Catalogue::default(), two(0, false)).unwrap();
    for migrates in [false, true] {
        assert_eq!(writers(&of_ledger, 0, migrates), nobody);
        assert_eq!(writers(&of_ledger, 1, migrates), [1]);
        let of_returns = launch_definition(&of_ledger, two(1, migrates)).unwrap();
        assert_eq!(writers(&of_returns, 1, migrates), nobody);
        assert_eq!(writers(&of_returns, 0, migrates), [2]);
    }
    // A catalogue from before it was remembered.
    of_ledger.modules[0].pstates[0].owner = None;
    assert_eq!(writers(&of_ledger, 0, false), nobody);
    assert_eq!((writers(&of_ledger, 0, true), writers(&of_ledger, 1, true)), (vec![2], vec![1]));
    let mut begun = launch_definition(&of_ledger, two(0, true)).unwrap();
    begun.modules[0].pstates[0].owner = None;
    assert_eq!(writers(&begun, 0, true), nobody);
    begun.migrated("shop", "stock", "wider");
    assert_eq!(writers(&begun, 0, true), nobody);
}

#[derive(Clone, Copy)]
struct Named(&'static str);

impl module::Owner for Named {
    fn name(&self) -> &'static str {
        self.0
    }
}

#[test]
fn a_format_that_is_not_known_is_refused_by_its_number() {
    for format in [0, FORMAT + 1] {
        let later = GOLDEN_2.replace("\"format\": 2", &format!("\"format\": {format}"));
        // Whatever else it has.
        let later = later.replace("\"modules\"", "\"units\"");
        let problem = Catalogue::decode(later.as_bytes()).unwrap_err();
        assert_eq!(problem, format!("its format is {format}, and 1 to {FORMAT} are read here"));
    }
}

#[test]
fn the_same_declaration_changes_nothing() {
    let catalogue = fresh::<ByDay>();
    assert_eq!(launch::<ByDay>(&catalogue).unwrap(), catalogue);
    assert_eq!(fresh::<ByDay>(), catalogue);
}

mod later {
    use super::*;

    #[derive(Serialize, Deserialize)]
    pub(super) struct Sale {
        sku: String,
        count: u64,
        note: Option<String>,
        #[serde(default)]
        gift: bool,
    }
}

mod narrow {
    use super::*;

    #[derive(Serialize, Deserialize)]
    pub(super) struct Sale {
        sku: String,
        count: u8,
    }
}

mod lost {
    use super::*;

    #[derive(Serialize, Deserialize)]
    pub(super) struct Sale {
        sku: String,
    }
}

crate::key! {
    /// A day.
    struct Day(String);
}

#[test]
fn what_reads_everything_that_is_stored_is_taken_and_remembered() {
    let catalogue = fresh::<ByDay>();
    let wider = launch::<Map<String, Sub<Map<u64, later::Sale>, Uncounted>>>(&catalogue).unwrap();
    assert_eq!(
        layout(&wider),
        layout(&fresh::<Map<String, Sub<Map<u64, later::Sale>, Uncounted>>>())
    );
    refusal::<ByDay>(&wider);
    let renamed = launch::<Map<Day, Sub<Map<u64, Option<Sale>>, Uncounted>>>(&catalogue).unwrap();
    assert_eq!(layout(&renamed).to_string(), "Map<Day, Sub<Map<u64, Option<Sale>>, Uncounted>>");
    refusal::<ByDay>(&renamed);
    // A field that is gone cannot come back as something else.
    let lost = launch::<Map<String, Sub<Map<u64, lost::Sale>, Uncounted>>>(&catalogue).unwrap();
    assert_eq!(launch::<Map<String, Sub<Map<u64, lost::Sale>, Uncounted>>>(&lost).unwrap(), lost);
    refusal::<Map<String, Sub<Map<u64, narrow::Sale>, Uncounted>>>(&lost);
}

#[test]
fn what_does_not_fit_is_refused_with_the_place_and_both_types() {
    let catalogue = fresh::<Sized>();
    let before = catalogue.encode();
    let check = |refusal: String, parts: &[&str]| {
        let always = [
            "PState `by_day` of module `shop` is declared as `",
            "Nothing was changed. Declare what was stored (`Map<String, Sub<Map<u64, Sale>>>`), ",
        ];
        for part in always.iter().chain(parts) {
            assert!(refusal.contains(part), "{part} in\n{refusal}");
        }
    };
    check(
        refusal::<Map<String, Sub<Map<u64, narrow::Sale>>>>(&catalogue),
        &[
            "at values > values > Sale.count: it was stored as `u32` and is declared as `u8`, but that",
        ],
    );
    check(
        refusal::<Map<u64, Sub<Map<u64, Sale>>>>(&catalogue),
        &["at keys: it was stored as `String` and is declared as `u64`, but the bytes of a key"],
    );
    check(
        refusal::<Map<String, Sub<Map<u32, Sale>>>>(&catalogue),
        &["at values > keys: it was stored as `u64` and is declared as `u32`"],
    );
    check(
        refusal::<Map<String, BTreeMap<u64, Sale>>>(&catalogue),
        &[
            "is declared as `Map<String, BTreeMap<u64, Sale>>`",
            "at values: it was stored as `Sub<Map<u64, Sale>>` and is declared as `BTreeMap<u64, Sale>`",
        ],
    );
    check(
        refusal::<Map<String, Sub<Set<u64>>>>(&catalogue),
        &["at values: it was stored as `Sub<Map<u64, Sale>>` and is declared as `Sub<Set<u64>>`"],
    );
    check(
        refusal::<Set<String>>(&catalogue),
        &[
            "does not fit that: it was stored as `Map<String,",
            "and is declared as `Set<String>`, but",
        ],
    );
    let sets = launch::<Map<String, Sub<Set<u64>>>>(&Catalogue::default()).unwrap();
    let elements = refusal::<Map<String, Sub<Set<String>>>>(&sets);
    assert!(elements.contains("at values > elements: it was stored as `u64`"), "{elements}");
    assert_eq!(catalogue.encode(), before);
}

#[test]
fn what_was_not_counted_is_not_declared_counted_nor_the_reverse() {
    let check = |refusal: String, parts: &[&str]| {
        for part in ["PState `by_day` of module `shop`", "Nothing was changed"].iter().chain(parts)
        {
            assert!(refusal.contains(part), "{part} in\n{refusal}");
        }
    };
    let of_1 = Catalogue::decode(GOLDEN_1.as_bytes()).unwrap();
    let of_2 = Catalogue::decode(GOLDEN_2.as_bytes()).unwrap();
    for old in [of_1, of_2, fresh::<ByDay>()] {
        check(
            refusal::<Sized>(&old),
            &[
                "at values: it was stored as `Sub<Map<u64, Sale>, Uncounted>` and is declared as `Sub<Map<u64, \
                 Sale>>`, but its elements were never counted",
                "write `Uncounted`, as in `Sub<.., Uncounted>`",
                "Declare what was stored (`Map<String, Sub<Map<u64, Sale>, Uncounted>>`)",
            ],
        );
    }
    check(
        refusal::<ByDay>(&fresh::<Sized>()),
        &["but its elements are counted: declare it without `Uncounted`"],
    );
    check(
        refusal::<Map<String, Sub<Set<u64>, Uncounted>>>(&fresh::<Map<String, Sub<Set<u64>>>>()),
        &["at values: it was stored as `Sub<Set<u64>>`", "declare it without `Uncounted`"],
    );
    // Lists always count, and a new `PState` may.
    launch::<Map<String, Sub<List<u64>>>>(&Catalogue::decode(GOLDEN_1.as_bytes()).unwrap())
        .unwrap();
    let mut old = Catalogue::decode(GOLDEN_2.as_bytes()).unwrap();
    old.modules[0].pstates.retain(|it| it.name != "by_day");
    assert_eq!(
        layout(&{
            let mut new = launch::<Sized>(&old).unwrap();
            new.modules[0].pstates.retain(|it| it.name == "by_day");
            new
        }),
        layout(&fresh::<Sized>())
    );
}

#[test]
fn what_could_not_be_read_again_is_not_written() {
    type Four<K> = ((((K,),),),);
    type Sixteen<K> = Four<Four<Four<Four<K>>>>;
    let catalogue = Catalogue::default();
    launch::<Set<Sixteen<Sixteen<Sixteen<u8>>>>>(&catalogue).unwrap();
    let refused = refusal::<Set<Sixteen<Sixteen<Sixteen<Sixteen<u8>>>>>>(&catalogue);
    assert!(refused.contains("let them nest less deeply"), "{refused}");
}

#[test]
fn handles_of_another_type_are_other_declarations() {
    assert!(definition::<ByDay>().declares_the_same(&definition::<ByDay>()));
    assert!(!definition::<ByDay>().declares_the_same(&definition::<Map<String, Sale>>()));
}

/// What the days were in an earlier version: how many sales there were of each article.
type Counts = Map<String, Vec<u32>>;

/// A launch of the shop in which the days are migrated.
fn migrating<S: Values, V1: Data>(
    catalogue: &Catalogue,
    migration: Migration<V1, S::Value>,
) -> Result<Catalogue> {
    let definition = module::define("shop", |m| {
        m.version(3);
        let sales = m.depot::<Sale>("sales").random();
        let ledger = m.microbatch(|| "ledger");
        ledger.pstate_migrated::<S, _>("by_day", migration);
        ledger.pstate::<Set<String>>("skus");
        ledger.source(sales).for_each(async |_, _| Ok(()));
    });
    launch_definition(catalogue, definition.unwrap().1)
}

/// The same, where it is the values within the days.
fn migrating_within<S: InnerValues, V1: Data>(
    catalogue: &Catalogue,
    migration: Migration<V1, S::Value>,
) -> Result<Catalogue> {
    let definition = module::define("shop", |m| {
        m.version(3);
        let sales = m.depot::<Sale>("sales").random();
        let ledger = m.microbatch(|| "ledger");
        ledger.pstate_migrated_within::<S, _>("by_day", migration);
        ledger.pstate::<Set<String>>("skus");
        ledger.source(sales).for_each(async |_, _| Ok(()));
    });
    launch_definition(catalogue, definition.unwrap().1)
}

/// From counts to sales by their number.
fn by_day(id: &str) -> Migration<Vec<u32>, Sub<Map<u64, Sale>, Uncounted>> {
    Migration::structure(id, |_, _| Ok(()))
}

fn days(catalogue: &Catalogue) -> &Numbered {
    &catalogue.modules[0].pstates[0]
}

#[test]
fn what_is_being_migrated_is_not_recomputed_nor_the_reverse() {
    let recompute = |catalogue: &Catalogue| {
        let pstates = vec!["by_day".to_owned(), "skus".to_owned()];
        let (module, topology) = ("shop".to_owned(), "ledger".to_owned());
        let step = recomputes::Step::Begin { pstates, sources: Vec::new() };
        let mut next = catalogue.clone();
        next.alter(&recomputes::Alteration { module, topology, step }).map(|()| next)
    };
    let old = fresh::<Counts>();
    let begun = migrating::<ByDay, _>(&old, by_day("a")).unwrap();
    match recompute(&begun) {
        Err(Error::Recompute { what }) => {
            assert!(
                what.starts_with("PState `by_day` of topology `ledger` of module `shop` is being"),
                "{what}"
            );
        }
        other => panic!("{other:?}"),
    }
    let mut done = begun;
    done.migrated("shop", "by_day", "a");
    let again = recompute(&done).unwrap();
    assert_eq!(again.modules[0].recomputes[0].pstates[0].number, 4);
    // It is done, so it does not begin.
    assert_eq!(migrating::<ByDay, _>(&again, by_day("a")).unwrap(), again);

    let recomputing = recompute(&old).unwrap();
    let refused = refused(migrating::<ByDay, _>(&recomputing, by_day("a")));
    assert!(
        refused.contains("its topology `ledger` is being recomputed. Nothing was"),
        "{refused}"
    );
    let mut ended = recomputing.clone();
    ended.modules[0].version = 2;
    ended.modules[0].recomputes[0].version = 2;
    let begun = migrating::<ByDay, _>(&ended, by_day("a")).unwrap();
    assert!(begun.modules[0].recomputes.is_empty());
    assert_eq!((begun.leftovers.pstates, begun.leftovers.topologies), (vec![3, 4], vec![2]));
}

#[test]
fn values_in_a_collection_that_counts_migrate_if_what_is_stored_counts_too() {
    type Counted = Map<String, Sub<Map<u64, u32>>>;
    type Uncountable = Map<String, Sub<Map<u64, u32>, Uncounted>>;
    let migration = || Migration::values("sales", |count: u32| Sale { sku: String::new(), count });
    let old = fresh::<Counted>();
    let begun = migrating_within::<Sized, _>(&old, migration()).unwrap();
    let from = days(&begun).migrating.as_ref().unwrap();
    assert_eq!((from.number, Some(&from.layout)), (days(&old).number, days(&old).layout.as_ref()));
    assert_eq!(days(&begun).layout, days(&fresh::<Sized>()).layout);
    let refused = refused(migrating_within::<Sized, _>(&fresh::<Uncountable>(), migration()));
    assert!(refused.contains("its elements were never counted"), "{refused}");
}

#[test]
fn a_migration_begins_once_and_is_held_to_until_it_is_done() {
    let old = fresh::<Counts>();
    assert_eq!((days(&old).number, old.next_pstate), (1, 3));
    let begun = migrating::<ByDay, _>(&old, by_day("a")).unwrap();
    assert_eq!((days(&begun).number, begun.next_pstate), (3, 4));
    assert_eq!(layout(&begun).to_string(), "Map<String, Sub<Map<u64, Sale>, Uncounted>>");
    let from = days(&begun).migrating.clone().unwrap();
    assert_eq!((&*from.id, from.number, &from.layout), ("a", 1, layout(&old)));
    // Resumed, and not begun anew.
    assert_eq!(migrating::<ByDay, _>(&begun, by_day("a")).unwrap(), begun);

    let expect = |launched: Result<Catalogue>, parts: &[&str]| {
        let refused = refused(launched);
        for part in
            parts.iter().chain(&["PState `by_day` of module `shop` ", "Nothing was changed. "])
        {
            assert!(refused.contains(part), "{part} in\n{refused}");
        }
    };
    expect(
        migrating::<ByDay, _>(&begun, by_day("b")),
        &[
            "is declared with the migration `b`, and its migration `a` is under way",
            "Declare that one",
        ],
    );
    let under_way = &["is declared without a migration, and its migration `a` is under way"];
    expect(launch::<ByDay>(&begun), under_way);
    expect(launch::<Counts>(&begun), under_way);
    expect(
        migrating::<ByDay, _>(&begun, Migration::<u8, _>::structure("a", |_, _| Ok(()))),
        &[
            "is being migrated, now from `Map<String, u8>`, and what",
            "migrate what was stored (`Map<String, Vec<u32>>`)",
        ],
    );
    // What is new is held to as ever, and may widen.
    let narrower = Migration::<Vec<u32>, Sub<Map<u64, narrow::Sale>, Uncounted>>::structure(
        "a",
        |_, _| Ok(()),
    );
    expect(
        migrating::<Map<String, Sub<Map<u64, narrow::Sale>, Uncounted>>, _>(&begun, narrower),
        &["at values > values > Sale.count: it was stored as `u32` and is declared as `u8`"],
    );

    let mut done = begun.clone();
    done.migrated("shop", "by_day", "b");
    done.migrated("shop", "skus", "a");
    assert_eq!(done, begun);
    done.migrated("shop", "by_day", "a");
    assert_eq!(
        (days(&done).number, &days(&done).migrating, &*days(&done).migrated),
        (3, &None, &["a".to_owned()][..])
    );
    // With the declaration or without it: nothing happens.
    assert_eq!(migrating::<ByDay, _>(&done, by_day("a")).unwrap(), done);
    assert_eq!(launch::<ByDay>(&done).unwrap(), done);
    expect(launch::<Counts>(&done), &["is declared as `Map<String, Vec<u32>>`"]);
    // The next one.
    let count = Migration::<u8, Vec<u8>>::values("b", |n| vec![n]);
    expect(
        migrating::<Map<String, Vec<u8>>, _>(&done, count),
        &[
            "is to be migrated from `Map<String, u8>`, and what is stored does not fit that, at values: it was \
           stored as `Sub<Map<u64, Sale>, Uncounted>` and is declared as `u8`",
            "Let `b` migrate what was stored",
        ],
    );
    let within = Migration::<Sale, u32>::values("b", |sale| sale.count);
    let next =
        migrating_within::<Map<String, Sub<Map<u64, u32>, Uncounted>>, _>(&done, within).unwrap();
    assert_eq!((days(&next).number, days(&next).migrating.as_ref().unwrap().number), (4, 3));
}

#[test]
fn a_migration_of_what_is_not_stored_is_done() {
    let fresh = migrating::<ByDay, _>(&Catalogue::default(), by_day("a")).unwrap();
    assert_eq!((days(&fresh).number, &days(&fresh).migrating), (1, &None));
    assert_eq!(days(&fresh).migrated, ["a"]);
    assert_eq!(migrating::<ByDay, _>(&fresh, by_day("a")).unwrap(), fresh);
    assert_eq!(launch::<ByDay>(&fresh).unwrap().modules[0].pstates, fresh.modules[0].pstates);
}

#[test]
fn what_was_stored_before_layouts_were_is_taken_to_be_what_is_migrated() {
    let old = Catalogue::decode(GOLDEN_1.as_bytes()).unwrap();
    let begun = migrating::<ByDay, _>(&old, by_day("a")).unwrap();
    let from = days(&begun).migrating.as_ref().unwrap();
    assert_eq!(
        (from.number, from.layout.to_string()),
        (days(&old).number, "Map<String, Vec<u32>>".to_owned())
    );
}

#[test]
fn a_refusal_says_where_a_migration_helps() {
    let migrate = ", migrate it (`pstate_migrated`), or a PState of another name";
    assert!(refusal::<ByDay>(&fresh::<Counts>()).contains(migrate));
    let catalogue = fresh::<ByDay>();
    assert!(refusal::<Map<String, Sub<Map<u64, u8>, Uncounted>>>(&catalogue).contains(migrate));
    // Not of keys, sets, or a structure as a whole.
    assert!(!refusal::<Map<String, Sub<Map<u32, Sale>, Uncounted>>>(&catalogue).contains(migrate));
    assert!(!refusal::<Map<String, Vec<u32>>>(&catalogue).contains(migrate));
    assert!(!refusal::<Map<String, Sub<Set<u32>, Uncounted>>>(&catalogue).contains(migrate));
    assert!(!refusal::<Set<String>>(&catalogue).contains(migrate));
}

/// Strings live where their first letter does.
enum Initials {}

impl PlaceBy<String> for Initials {
    const NAME: &'static str = "initials";

    fn by(key: &String) -> impl EncodeKey {
        key.chars().next().unwrap_or_default()
    }
}

/// The same under another name.
enum Letters {}

impl PlaceBy<String> for Letters {
    const NAME: &'static str = "letters";

    fn by(key: &String) -> impl EncodeKey {
        key.chars().next().unwrap_or_default()
    }
}

#[test]
fn rows_stay_where_they_were_placed() {
    type Plain = Map<String, u64>;
    type By<F> = crate::schema::Placed<Plain, F>;
    let of_1 = Catalogue::decode(GOLDEN_1.as_bytes()).unwrap();
    let check = |refusal: String, stored: &str, declared: &str| {
        for part in [
            format!("PState `by_day` of module `shop` is declared as `{declared}`"),
            format!("its rows were stored as those of `{stored}`, which live in other partitions"),
            "Nothing was changed. Declare what was stored".to_owned(),
        ] {
            assert!(refusal.contains(&part), "{part} in\n{refusal}");
        }
    };
    let placed = "Map<String, u64>, placed by `initials`";
    check(refusal::<By<Initials>>(&fresh::<Plain>()), "Map<String, u64>", placed);
    check(refusal::<By<Initials>>(&of_1), "Map<String, u64>", placed);
    check(refusal::<Plain>(&fresh::<By<Initials>>()), placed, "Map<String, u64>");
    check(
        refusal::<By<Letters>>(&fresh::<By<Initials>>()),
        placed,
        "Map<String, u64>, placed by `letters`",
    );
    check(
        refusal::<Single<Sub<Plain, Uncounted>>>(&fresh::<Plain>()),
        "Map<String, u64>",
        "Single<Sub<Map<String, u64>, Uncounted>>",
    );
    // What is placed alike is compared by its layout, and whether clients see it may change.
    let catalogue = fresh::<By<Initials>>();
    assert_eq!(launch::<By<Initials>>(&catalogue).unwrap(), catalogue);
    assert_eq!(launch::<Private<By<Initials>>>(&catalogue).unwrap(), catalogue);
    let misfit = refusal::<crate::schema::Placed<Map<String, String>, Initials>>(&catalogue);
    assert!(misfit.contains("it was stored as `u64` and is declared as `String`"), "{misfit}");
    let single = fresh::<Single<u64>>();
    assert_eq!(launch::<Private<Single<u64>>>(&single).unwrap(), single);
    refusal::<Single<String>>(&single);
    refusal::<Single<Sub<Set<u64>>>>(&single);
}

#[test]
fn where_rows_live_is_stored() {
    let of = |catalogue: Catalogue| {
        let read = Catalogue::decode(&catalogue.encode()).unwrap();
        assert_eq!(read, catalogue);
        let text = String::from_utf8(catalogue.encode()).unwrap();
        (read.modules[0].pstates[0].placed.clone(), text.matches("\"placed\"").count())
    };
    assert_eq!(of(fresh::<Map<String, u64>>()), (Placed::Hash, 0));
    assert_eq!(of(fresh::<Single<u64>>()), (Placed::Single, 1));
    let by = Placed::By("initials".to_owned());
    assert_eq!(of(fresh::<crate::schema::Placed<Set<String>, Initials>>()), (by, 1));
}

#[test]
fn where_to_begin_is_not_said_where_it_is_not_known_what_was_read() {
    let of = |start| {
        let defined = module::define("shop", |m| {
            let sales = m.depot::<Sale>("sales").random();
            let ledger = m.microbatch(|| "ledger");
            ledger.source(sales.starting(start)).for_each(async |_, _| Ok(()));
        });
        defined.unwrap().1
    };
    let mut launched = launch_definition(&Catalogue::default(), of(StartAt::End)).unwrap();
    let check = |catalogue: &Catalogue, start| {
        let definition = of(start);
        catalogue.modules[0].check_starts(&definition.topologies[0])
    };
    check(&launched, StartAt::End).unwrap();
    // A catalogue from before it was remembered.
    launched.modules[0].topologies[0].sources.clear();
    check(&launched, StartAt::Beginning).unwrap();
    let refused = check(&launched, StartAt::End).unwrap_err().to_string();
    assert!(refused.contains("not known what is new to it"), "{refused}");
}
