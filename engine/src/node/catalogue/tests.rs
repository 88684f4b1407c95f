//! What is remembered of a module, and what a later launch may declare.

use std::collections::BTreeMap;

use super::*;
use crate::env::memory::{self, MemoryDisk};
use crate::manifest::{CatalogueRef, Manifest};
use crate::module::{self, Module};
use crate::schema::{List, Map, Schema, Set, Sub, Uncounted};

const GOLDEN_1: &str = include_str!("../../../testdata/catalogue-1.json");
const GOLDEN_2: &str = include_str!("../../../testdata/catalogue-2.json");
const GOLDEN_3: &str = include_str!("../../../testdata/catalogue-3.json");

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
    let mut next = catalogue.clone();
    let stored = match catalogue.fields.len() {
        0 => FieldTable::new(),
        _ => FieldTable::decode(&catalogue.fields).unwrap(),
    };
    let definition = definition::<S>();
    let traced = definition.trace(stored).map_err(Error::invalid)?;
    next.install(Arc::new(definition), traced).map(|_| next)
}

fn fresh<S: Schema>() -> Catalogue {
    launch::<S>(&Catalogue::default()).unwrap()
}

fn refusal<S: Schema>(catalogue: &Catalogue) -> String {
    match launch::<S>(catalogue) {
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
    assert_eq!(new.format, 4);
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
    let now = GOLDEN_2.replace("\"format\": 2", "\"format\": 4");
    for before in [Catalogue::decode(GOLDEN_1.as_bytes()).unwrap(), of_2] {
        let new = launch::<ByDay>(&before).unwrap();
        assert_eq!(String::from_utf8(new.encode()).unwrap(), now);
    }
    let sized = fresh::<Sized>();
    let now = GOLDEN_3.replace("\"format\": 3", "\"format\": 4");
    assert_eq!(String::from_utf8(sized.encode()).unwrap(), now);
    assert_eq!(Catalogue::decode(now.as_bytes()).unwrap(), sized);
    let of_3 = Catalogue::decode(GOLDEN_3.as_bytes()).unwrap();
    assert_eq!(String::from_utf8(of_3.encode()).unwrap(), GOLDEN_3);
}

#[test]
fn a_format_that_is_not_known_is_refused_by_its_number() {
    for format in [0, 5] {
        let later = GOLDEN_2.replace("\"format\": 2", &format!("\"format\": {format}"));
        // Whatever else it has.
        let later = later.replace("\"modules\"", "\"units\"");
        let problem = Catalogue::decode(later.as_bytes()).unwrap_err();
        assert_eq!(problem, format!("its format is {format}, and 1 to 4 are read here"));
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
            "Nothing was changed. Declare what was stored (`Map<String, Sub<Map<u64, Sale>>>`), or",
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
