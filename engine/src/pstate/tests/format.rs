//! Bytes that an earlier build wrote still open.

use super::*;
use crate::env::Open;
use crate::page::PAGE_BYTES;

/// The page file that [`sample`] wrote with format version 1: `u32` page number, then its 4 KiB, for
/// every page that is not all zeros.
const PAGES_V1: &[u8] = include_bytes!("../../../testdata/page-v1.blocks");

/// A run of writes of format version 1.
const RUN_V1: &[u8] = include_bytes!("../../../testdata/page-run-v1.bin");

async fn sample(env: &Env) -> Model {
    let shape = Shape { keys: 300, value_max: 9_000, cache_bytes: 1 << 20, rounds: 0, writes: 200 };
    let (mut chance, mut model) = (Chance(42), Model::new());
    let (store, _) = open(env, Index(1)).await.unwrap();
    store.describe(PStateId(1), b"Map<String, Bytes>".to_vec());
    for round in 1..3 {
        let set = write_set(&mut chance, &shape, &mut model);
        store.stack(LEDGER, MicrobatchId(round), Rc::new(set.seal()));
        store.merge(LEDGER, MicrobatchId(round));
        store.fold(Index(10 * round), &[Index(round), Index(9)]).await.unwrap();
    }
    model
}

fn sample_run() -> WriteSet {
    let mut set = WriteSet::default();
    set.put(PStateId(1), b"key", b"value");
    set.put(PStateId(1), b"", b"");
    set.delete(PStateId(1), b"gone");
    set.delete_range(PStateId(3), b"from", Some(b"to"));
    set.delete_range(PStateId(3), b"unbounded", None);
    set
}

fn packed(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    for (number, page) in (0_u32..).zip(bytes.chunks(PAGE_BYTES)) {
        if page.iter().any(|&byte| byte != 0) {
            out.extend_from_slice(&number.to_le_bytes());
            out.extend_from_slice(page);
        }
    }
    out
}

fn unpacked(packed: &[u8]) -> Vec<u8> {
    let mut out = vec![0; 8 * crate::page::EXTENT_BYTES];
    for block in packed.chunks_exact(4 + PAGE_BYTES) {
        let number = u32::from_le_bytes(block[..4].try_into().unwrap()) as usize;
        out[number * PAGE_BYTES..(number + 1) * PAGE_BYTES].copy_from_slice(&block[4..]);
    }
    out
}

#[test]
fn a_page_file_of_version_1_opens() {
    // The model is made by writing the sample anew; how it is laid out today does not matter.
    let disk = MemoryDisk::new();
    let model = run(&disk, |env| async move { sample(&env).await });
    let golden = unpacked(PAGES_V1);
    let verified = verify(&golden, Some(PARTITION));
    assert_eq!(verified.findings, []);
    assert_eq!((verified.fold, verified.covers), (2, Index(20)));
    let disk = MemoryDisk::new();
    let copy = disk.clone();
    run(&disk, |env| async move {
        env.disk().open(PATH, Open::New).await.unwrap();
        copy.damage(PATH, |bytes| *bytes = golden);
        let (store, opened) = open(&env, Index(21)).await.unwrap();
        assert_eq!(
            opened,
            Opened { covers: Index(20), pending: vec![Index(2), Index(9)], fold: 2, damaged: None }
        );
        assert_eq!(store.trees()[1].description, b"Map<String, Bytes>");
        for pstate in (0..3).map(PStateId) {
            let view = View::visible();
            let found = scan_all(&store, &view, pstate, KeyRange::ALL, Direction::Forward, 9_999);
            let expected = model.iter().filter(|((of, _), _)| *of == pstate);
            let expected = expected.map(|((_, key), value)| (key.clone(), value.clone()));
            assert!(found.await.into_iter().eq(expected));
        }
    });
}

#[test]
fn a_run_of_version_1_decodes() {
    let run = Run::decode(RUN_V1).unwrap();
    let (one, three) = (PStateId(1), PStateId(3));
    let expected = [
        Write::Put { pstate: one, key: b"", value: b"" },
        Write::Delete { pstate: one, key: b"gone" },
        Write::Put { pstate: one, key: b"key", value: b"value" },
        Write::DeleteRange { pstate: three, from: b"from", to: Some(b"to") },
        Write::DeleteRange { pstate: three, from: b"unbounded", to: None },
    ];
    assert!(run.iter().eq(expected));
    let mut bytes = Vec::new();
    sample_run().seal().encode(&mut bytes);
    assert_eq!(bytes, RUN_V1);
}

#[test]
fn packing_loses_nothing() {
    let bytes = unpacked(PAGES_V1);
    assert_eq!(packed(&bytes), PAGES_V1);
}
