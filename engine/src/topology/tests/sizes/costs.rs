//! What sizes cost, in look-ups and writes.

use crate::module::PStateIndex;
use crate::schema::aggregate::{MapOf, MultiSet, SetOf, Sum};
use crate::schema::{Map, Owned, Set, Sub};
use crate::testing::{Io, Test, TestPState};
use crate::topology::{At, FailureKind, Result};

type Lines = Map<u32, Sub<Map<u32, u64>>>;

/// Three keys with a hundred lines each.
fn lines() -> TestPState<Lines> {
    let state = TestPState::new().unwrap();
    let lines = state.token();
    let write = async |at: At<'_, Test>| {
        for key in 0..3 {
            for line in 0..100 {
                at.put(lines.key(key).key(2 * line), u64::from(line))?;
            }
        }
        Ok(())
    };
    state.run(write).unwrap();
    // Each line is looked for; three heads are read together, and written once.
    assert_eq!(state.take_io(), Io { reads: 303, prefetched: 3, puts: 303, ..Io::default() });
    state
}

/// What `code` costs: while all is in memory, from the tree, and from a tree that is not in memory. Then the
/// sizes of all keys.
#[allow(clippy::needless_pass_by_value, reason = "a closure at each call")]
fn check(
    expected: Io,
    sizes: [u64; 3],
    code: impl AsyncFn(At<'_, Test>, Owned<Lines, Test>) -> Result<()>,
) {
    for depth in 0..3 {
        let mut state = lines();
        match depth {
            0 => {}
            1 => state.fold(),
            _ => state.reopen(),
        }
        let lines = state.token();
        state.run(async |at| code(at, lines).await).unwrap();
        let io = state.take_io();
        // What was not in memory is fetched together.
        assert!(depth == 2 || io.misses == 0, "at depth {depth}: {io:?}");
        let read = Io { misses: 0, prefetched: 0, ..io };
        assert_eq!(read, Io { prefetched: 0, ..expected }, "at depth {depth}");
        if depth < 2 {
            assert_eq!(io.prefetched, expected.prefetched, "at depth {depth}");
        }
        let found = [0, 1, 2].map(|key| state.select(lines.key(key).size()).unwrap());
        assert_eq!(found, sizes, "at depth {depth}");
    }
}

#[test]
fn a_size_is_one_row() {
    let io = Io { reads: 1, ..Io::default() };
    check(io, [100; 3], async |at, lines| {
        assert_eq!(at.get(lines.key(1).size()).await?, 100);
        Ok(())
    });
}

#[test]
fn a_write_looks_for_its_key_and_a_run_writes_a_head_once() {
    let (probe, head) = (Io { reads: 1, puts: 1, ..Io::default() }, 1);
    check(probe, [100; 3], async |at, lines| Ok(at.put(lines.key(1).key(20), 7)?));
    let io = Io { reads: 1 + head, puts: 1 + head, ..Io::default() };
    check(io, [100, 101, 100], async |at, lines| Ok(at.put(lines.key(1).key(21), 7)?));
    let io = Io { reads: 1 + head, deletes: 1, puts: head, ..Io::default() };
    check(io, [100, 99, 100], async |at, lines| Ok(at.delete(lines.key(1).key(20))?));
    let io = Io { reads: 1, deletes: 1, ..Io::default() };
    check(io, [100; 3], async |at, lines| Ok(at.delete(lines.key(1).key(21))?));
    let io = Io { reads: 50 + head, puts: 50 + head, ..Io::default() };
    check(io, [100, 150, 100], async |at, lines| {
        for line in 0..50 {
            at.put(lines.key(1).key(2 * line + 1), 7)?;
        }
        Ok(())
    });
}

#[test]
fn what_is_read_anyway_is_not_looked_for() {
    let io = Io { reads: 1, puts: 1, ..Io::default() };
    check(io, [100; 3], async |at, lines| {
        Ok(at.update(lines.key(1).key(20), |old| old.map(|n| n + 1)).await?)
    });
    let io = Io { reads: 2, puts: 2, ..Io::default() };
    check(io, [100, 101, 100], async |at, lines| {
        Ok(at.update(lines.key(1).key(21), |old| old.or(Some(7))).await?)
    });
}

#[test]
fn deleting_all_is_one_range_delete_and_reads_nothing() {
    let io = Io { range_deletes: 1, ..Io::default() };
    check(io, [100, 0, 100], async |at, lines| Ok(at.delete(lines.key(1))?));
}

#[test]
fn deleting_a_part_reads_its_keys() {
    let head = Io { reads: 1, puts: 1, ..Io::default() };
    let range = |rows| Io { scans: 1, rows_scanned: rows, range_deletes: 1, ..head };
    check(range(10), [100, 90, 100], async |at, lines| {
        assert_eq!(at.remove_range(lines.key(1).range(20..40)).await?, 10);
        Ok(())
    });
    let and_look = Io { reads: 3, ..range(3) };
    check(and_look, [100, 97, 100], async |at, lines| {
        assert_eq!(at.remove_range(lines.key(1).all().reverse().limit(3).keys()).await?, 3);
        assert_eq!(at.get(lines.key(1).key(192)).await?, Some(96));
        assert_eq!(at.get(lines.key(1).key(194)).await?, None);
        Ok(())
    });
    let none = Io { scans: 1, ..Io::default() };
    check(none, [100; 3], async |at, lines| {
        assert_eq!(at.remove_range(lines.key(1).range(300..)).await?, 0);
        Ok(())
    });
}

#[test]
fn a_size_that_is_read_is_up_to_date() {
    // One line; its head, which the size then is; another line, and the head again.
    let io = Io { reads: 5, puts: 4, ..Io::default() };
    check(io, [100, 102, 100], async |at, lines| {
        at.put(lines.key(1).key(21), 7)?;
        assert_eq!(at.get(lines.key(1).size()).await?, 101);
        Ok(at.put(lines.key(1).key(23), 7)?)
    });
}

#[test]
fn emptying_an_inner_collection_writes_the_outer_head() {
    let state = TestPState::<Map<u8, Sub<Map<u8, Sub<Set<u8>>>>>>::new().unwrap();
    let outer = state.token().key(1);
    let set = |nth: u8| state.token().key(1).key(nth);
    state.put(set(1).has(1), true).unwrap();
    let io = Io { reads: 3, puts: 3, ..Io::default() };
    assert_eq!(state.take_io(), io, "an element, its set's head, the map's head");
    state.put(set(1).has(2), true).unwrap();
    state.put(set(2).has(1), true).unwrap();
    assert_eq!(state.select(outer.clone().size()).unwrap(), 2);
    state.take_io();
    state.delete(set(1)).unwrap();
    let io = Io { reads: 2, range_deletes: 1, puts: 1, ..Io::default() };
    assert_eq!(state.take_io(), io, "the head of what goes, and of what it was in");
    state.delete(set(2).has(1)).unwrap();
    let io = Io { reads: 3, deletes: 3, ..Io::default() };
    assert_eq!(state.take_io(), io, "an element, and both heads");
    assert_eq!(state.select(outer.size()).unwrap(), 0);
}

#[test]
fn aggregators_look_for_rows_once() {
    let state = lines();
    let lines = state.token();
    state.aggregate(lines.key(1).add(MultiSet(20))).unwrap();
    assert_eq!(state.take_io(), Io { prefetched: 1, reads: 1, puts: 1, ..Io::default() });
    state.aggregate(lines.key(1).key(21).add(Sum(1))).unwrap();
    assert_eq!(state.take_io(), Io { prefetched: 1, reads: 2, puts: 2, ..Io::default() });
    state.aggregate(lines.key(1).add(MapOf(20, 5))).unwrap();
    assert_eq!(state.take_io(), Io { reads: 1, puts: 1, ..Io::default() });
    let sets = TestPState::<Map<u8, Sub<Set<u8>>>>::new().unwrap();
    let elements = (0..9).map(|nth| sets.token().key(1).add(SetOf(nth % 3)));
    sets.aggregate(elements.collect::<Vec<_>>()).unwrap();
    assert_eq!(sets.take_io(), Io { reads: 4, puts: 4, ..Io::default() });
    assert_eq!(sets.select(sets.token().key(1).size()).unwrap(), 3);
}

#[test]
fn what_is_not_in_memory_is_fetched_together() {
    let mut state = lines();
    state.reopen();
    let lines = state.token();
    let write = async |at: At<'_, Test>| {
        for key in 0..3 {
            at.put(lines.key(key).key(20), 7)?;
            at.put(lines.key(key).key(21), 7)?;
        }
        Ok(())
    };
    state.run(write).unwrap();
    let io = state.take_io();
    // Looked for in vain, asked for together, looked for again; each key that was known after the first one
    // was only looked for.
    assert_eq!(io.reads, 6 + 3);
    assert_eq!(io.puts, 6 + 3);
    assert!(io.misses >= 1 && io.prefetched > 3, "{io:?}");
    assert_eq!(state.select(lines.key(2).size()).unwrap(), 101);
}

#[test]
fn a_size_that_contradicts_the_rows_is_damage() {
    let state = lines();
    let head = crate::codec::key::encode_key(&1_u32);
    let write = |value: &[u8]| {
        let write =
            async |at: At<'_, Test>| Ok(at.context().local().put(PStateIndex(0), &head, value)?);
        state.run(write).unwrap();
    };
    let size = state.token().key(1).size();
    for no_size in [&[0][..], &[], &[0xc0], &[1, 1]] {
        write(no_size);
        assert!(state.select(size.clone()).is_err(), "{no_size:?}");
    }
    write(&[1]);
    let two = async |at: At<'_, Test>| {
        at.delete(state.token().key(1).key(20))?;
        Ok(at.delete(state.token().key(1).key(22))?)
    };
    let failed = state.run(two).unwrap_err();
    assert_eq!(failed.kind(), FailureKind::Retry);
    assert_eq!(state.select(state.token().key(1).key(20)).unwrap(), Some(10), "nothing was done");
}
