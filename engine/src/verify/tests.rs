//! What needs no engine: the files at the root. Whole directories are tried in `tools/tests`.

use super::*;
use crate::env::memory::{self, MemoryDisk};
use crate::manifest::CatalogueRef;
use crate::node::catalogue::{Leftovers, Migrating, ModuleEntry, Recomputing};

/// The files at the root of a closed directory with a catalogue, and where that ends.
fn closed() -> (BTreeMap<String, Vec<u8>>, u64) {
    let numbered = |name: &str, number| Numbered::new(name, number);
    let module = ModuleEntry {
        name: "bank".to_owned(),
        version: 3,
        depots: (1..=600).map(|number| numbered(&format!("depot of {number}"), number)).collect(),
        pstates: (1..=600).map(|number| numbered(&format!("state of {number}"), number)).collect(),
        topologies: vec![numbered("ledger", 1)],
        recomputes: Vec::new(),
    };
    let catalogue = Catalogue {
        modules: vec![module],
        next_depot: 601,
        next_pstate: 601,
        next_topology: 2,
        ..Catalogue::default()
    };
    let mut bytes = catalogue.encode();
    let end = bytes.len() as u64;
    let mut manifest = Manifest::new(7, 1);
    manifest.clean = true;
    manifest.catalogue = CatalogueRef { number: 4, bytes: end, crc: crc32fast::hash(&bytes) };
    let disk = MemoryDisk::new();
    memory::run(&disk, |env| async move { manifest.store(&env).await.unwrap() });
    bytes.resize(bytes.len().next_multiple_of(4096), 0);
    let mut files: BTreeMap<String, Vec<u8>> = disk
        .paths()
        .into_iter()
        .map(|path| (path.clone(), disk.contents(&path).unwrap()))
        .collect();
    files.insert("catalogue-4".to_owned(), bytes);
    (files, end)
}

fn look(files: &BTreeMap<String, Vec<u8>>) -> Report {
    directory(files, &mut |_| {})
}

#[test]
fn the_root_of_a_closed_directory_is_sound() {
    let (files, end) = closed();
    let report = look(&files);
    assert_eq!((report.findings, report.notes), (vec![], vec![]));
    assert_eq!(report.live["catalogue-4"], vec![0..end]);
    assert_eq!(report.live["MANIFEST"], vec![0..8192]);
}

#[test]
fn every_flipped_bit_and_truncation_of_the_catalogue_is_found() {
    let (mut files, end) = closed();
    assert!(end >= 64 << 10, "{end}");
    let end = usize::try_from(end).unwrap();
    // The checksum in MANIFEST is over all of it. Equal bytes behind a difference do not undo it, so it is
    // enough that each bit changes the checksum of a piece; every bit of a few bytes is tried through
    // everything.
    for piece in files["catalogue-4"][..end].chunks(256) {
        let crc = crc32fast::hash(piece);
        let mut flipped = piece.to_vec();
        for bit in 0..piece.len() * 8 {
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_ne!(crc32fast::hash(&flipped), crc, "bit {bit}");
            flipped[bit / 8] ^= 1 << (bit % 8);
        }
    }
    for at in (0..end).step_by(997) {
        for bit in 0..8 {
            files.get_mut("catalogue-4").unwrap()[at] ^= 1 << bit;
            let findings = look(&files).findings;
            assert_eq!((&*findings[0].path, findings[0].byte), ("catalogue-4", 0), "{findings:?}");
            files.get_mut("catalogue-4").unwrap()[at] ^= 1 << bit;
        }
    }
    for cut in (0..end).rev() {
        files.get_mut("catalogue-4").unwrap().truncate(cut);
        if cut % 499 == 0 || cut + 1 == end {
            let findings = look(&files).findings;
            assert_eq!((&*findings[0].path, findings[0].byte), ("catalogue-4", cut as u64));
        }
    }
}

#[test]
fn a_catalogue_that_contradicts_itself_is_found() {
    let numbered = |name: &str, number| Numbered::new(name, number);
    let mut catalogue = Catalogue::default();
    let module = |depots| ModuleEntry {
        name: "m".to_owned(),
        version: 1,
        depots,
        pstates: vec![],
        topologies: vec![],
        recomputes: Vec::new(),
    };
    catalogue.modules.push(module(vec![numbered("a", 1), numbered("b", 1), numbered("c", 0)]));
    let faults = faults(&catalogue);
    let has = |part: &str| faults.iter().any(|fault| fault.contains(part));
    assert!(has("share the number 1"), "{faults:?}");
    assert!(has("c has the number 0"), "{faults:?}");
    assert!(has("a has the number 1, 1 is next"), "{faults:?}");
}

#[test]
fn both_numbers_of_a_pstate_that_is_migrated_are_looked_at() {
    let layout = crate::schema::Layout::Set { element: crate::codec::KeyKind::U8, counted: false };
    let migrating = |number| {
        let from = Migrating { id: "wider".to_owned(), number, layout: layout.clone() };
        Numbered { migrating: Some(from), ..Numbered::new("s", 1) }
    };
    let faults = |number| {
        let (name, pstates) = ("m".to_owned(), vec![migrating(number)]);
        let (depots, topologies, recomputes) = (vec![], vec![], vec![]);
        let module = ModuleEntry { name, version: 1, depots, pstates, topologies, recomputes };
        faults(&Catalogue { modules: vec![module], next_pstate: 3, ..Catalogue::default() })
    };
    assert_eq!(faults(2), [""; 0]);
    assert_eq!(faults(1), ["PStates s and s@old share the number 1"]);
    assert_eq!(faults(3), ["PState s@old has the number 3, 3 is next"]);
}

#[test]
fn numbers_that_recomputes_have_are_looked_at() {
    let faults = |shadow, left| {
        let of = |number| {
            let (topology, pstates) = ("t".to_owned(), vec![Numbered::new("s", number)]);
            Recomputing { topology, version: 1, number: 2, pstates, sources: Vec::new() }
        };
        let module = ModuleEntry {
            name: "m".to_owned(),
            version: 1,
            depots: vec![],
            pstates: vec![Numbered::new("s", 1)],
            topologies: vec![Numbered::new("t", 1)],
            recomputes: vec![of(shadow)],
        };
        let leftovers = Leftovers { pstates: vec![left], topologies: vec![] };
        let modules = vec![module];
        let next = Catalogue { next_pstate: 4, next_topology: 3, ..Catalogue::default() };
        faults(&Catalogue { modules, leftovers, ..next })
    };
    assert_eq!(faults(2, 3), [""; 0]);
    assert_eq!(faults(1, 3), ["PStates s and s share the number 1"]);
    assert_eq!(faults(2, 2), ["PStates s and of an earlier recompute share the number 2"]);
    assert_eq!(faults(2, 4), ["PState of an earlier recompute has the number 4, 4 is next"]);
}

#[test]
fn a_torn_slot_after_a_crash_is_a_note_and_damage_in_a_closed_directory() {
    let (mut files, _) = closed();
    files.get_mut("MANIFEST").unwrap()[100] ^= 1;
    let findings = look(&files).findings;
    assert_eq!((&*findings[0].path, findings[0].byte), ("MANIFEST", 0));
    let disk = MemoryDisk::new();
    let mut manifest = Manifest::new(7, 1);
    memory::run(&disk, |env| async move {
        manifest.store(&env).await.unwrap();
        manifest.store(&env).await.unwrap();
    });
    let mut manifest = disk.contents("MANIFEST").unwrap();
    manifest[5000] ^= 1;
    let files = BTreeMap::from([("MANIFEST".to_owned(), manifest)]);
    let report = look(&files);
    assert_eq!(report.findings, []);
    assert_eq!((&*report.notes[0].path, report.notes[0].byte), ("MANIFEST", 4096));
}

#[test]
fn partitions_without_a_manifest_are_damage_and_an_empty_directory_is_not() {
    let empty: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    assert!(look(&empty).is_sound());
    let files = BTreeMap::from([("p/3/pages".to_owned(), vec![1; 5000])]);
    let report = look(&files);
    let paths: Vec<_> = report.findings.iter().map(|finding| &*finding.path).collect();
    assert_eq!(paths, ["MANIFEST"], "{:?}", report.findings);
    assert_eq!(&*report.notes[0].path, "p/3/pages", "a root that cannot be read is told, too");
}
