//! Lists whose elements are collections: ids, and what hangs under them.

use std::collections::BTreeSet;

use super::*;

/// The ids of the elements, in order, as their rows hold them; under each lies what was put there, and nothing else.
fn ids(list: &List<'_, Memory>) -> Vec<u64> {
    let found: Vec<u64> = check(list).iter().map(|value| decode_id(value).unwrap()).collect();
    let rows = list.rows.rows.borrow();
    let mut under = BTreeSet::new();
    for (key, value) in rows.iter() {
        if let Some((KeyPart::Under(id), rest)) = key_part(&key[PREFIX.len()..]) {
            assert_eq!((rest, value.as_slice()), (&b"x"[..], &id.to_be_bytes()[..]));
            assert!(under.insert(id));
        }
    }
    assert!(under.iter().eq(found.iter().copied().collect::<BTreeSet<_>>().iter()));
    found
}

fn fill(memory: &Memory, id: u64) {
    let mut key = under(PREFIX, id);
    key.push(b'x');
    memory.put(&key, &id.to_be_bytes()).unwrap();
}

#[test]
fn an_id_stays_with_its_element_and_goes_with_what_hangs_under_it() {
    for seed in 0..60 {
        let mut numbers = Numbers(seed);
        let memory = Memory::default();
        let step = [1, 2, 16, STEP][numbers.below(4)];
        let list = small(&memory, [4, 5, 6][numbers.below(3)], step);
        let (mut model, mut given): (Vec<u64>, u64) = (Vec::new(), 0);
        let (bias, place) = (numbers.below(8), numbers.below(4));
        for nth in 0..200 {
            let count = model.len();
            let at = [0, count, count / 2, numbers.below(count + 1)][place];
            let grows = if nth / 100 == 1 { 8 - bias } else { bias };
            match numbers.below(10) {
                0 => {
                    let id = now(list.push_new()).unwrap();
                    fill(&memory, id);
                    model.push(id);
                    assert_eq!(id, given);
                    given += 1;
                }
                draw if draw <= grows => {
                    let id = now(list.insert_new(at as u64)).unwrap();
                    fill(&memory, id);
                    model.insert(at, id);
                    assert_eq!(id, given, "no id is given twice");
                    given += 1;
                }
                _ if at < count => {
                    assert_eq!(now(list.id(at as u64)), Ok(Some(model[at])));
                    now(list.remove_with_all(at as u64)).unwrap();
                    model.remove(at);
                    if model.is_empty() {
                        assert!(memory.rows.borrow().is_empty(), "it has no rows at all");
                        given = 0;
                    }
                }
                _ => {}
            }
            assert_eq!(ids(&list), model, "seed {seed}, after {nth}");
        }
        let count = model.len() as u64;
        assert_eq!(now(list.id(count)), Ok(None));
        assert_eq!(now(list.remove_with_all(count)), Err(Error::Beyond { count }));
        assert_eq!(now(list.insert_new(count + 1)), Err(Error::Beyond { count }));
    }
}

#[test]
fn what_was_left_under_an_item_that_is_gone_does_not_come_back() {
    let memory = Memory::default();
    let list = List::new(&memory, PREFIX);
    let id = now(list.push_new()).unwrap();
    now(list.remove_with_all(0)).unwrap();
    fill(&memory, id);
    assert_eq!(now(list.push_new()), Ok(id));
    assert!(!memory.rows.borrow().keys().any(|key| key.ends_with(b"x")));
}

/// The head of a list of values is what it was before there were lists of collections.
#[test]
fn a_head_says_ids_only_where_there_are_some() {
    let memory = Memory::default();
    let list = List::new(&memory, PREFIX);
    now(list.push(b"\x07")).unwrap();
    let head = || memory.rows.borrow()[head_key(PREFIX).as_slice()].clone();
    let golden = [
        // count, last label, one block: (label, elements, children)
        &[0x94, 1, 0xcf, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0x91, 0x94, 0, 0, 1, 1][..],
    ];
    assert_eq!(head(), golden[0]);
    now(list.remove(0)).unwrap();
    now(list.push_new()).unwrap();
    assert_eq!(head()[0], 0x95);
    assert_eq!(head()[1..head().len() - 1], golden[0][1..]);
    assert_eq!(head().last(), Some(&1), "the next id");
    let mut damaged = head();
    *damaged.last_mut().unwrap() = 0;
    assert!(Head::decode(&damaged).is_err(), "there are more elements than ids");
}

#[test]
fn damage_to_the_row_of_an_element_is_an_error() {
    let memory = Memory::default();
    let list = List::new(&memory, PREFIX);
    for _ in 0..3 {
        now(list.push_new()).unwrap();
    }
    let key = memory.rows.borrow().keys().rfind(|key| key[PREFIX.len()] == 1).unwrap().clone();
    for value in [vec![0xc0], vec![3], vec![0xcf, 255, 255, 255, 255, 255, 255, 255, 255]] {
        memory.rows.borrow_mut().insert(key.clone(), value);
        assert!(matches!(now(list.remove_with_all(2)), Err(Error::Malformed(_))));
    }
}

/// What an item costs does not depend on how much hangs under it, or how long the list is.
#[test]
fn costs_are_those_of_a_list_of_values() {
    let memory = Memory::default();
    let list = List::new(&memory, PREFIX);
    for nth in 0..100_000 {
        assert_eq!(now(list.push_new()), Ok(nth));
    }
    let cost = |what: &str, done: &dyn Fn()| {
        memory.cost.set(Cost::default());
        done();
        let cost = memory.cost.get();
        println!("{what}: {cost:?}");
        cost
    };
    let push = cost("push", &|| drop(now(list.push_new())));
    assert!(push.seeks == 1 && push.writes <= 4, "{push:?}");
    let find = cost("find", &|| assert_eq!(now(list.id(77_777)), Ok(Some(77_777))));
    // 64^2 < 100,000 < 64^3: the head, two levels of blocks, the elements.
    assert!(find.seeks == 4 && find.rows_read <= 3 * 65, "{find:?}");
    let remove = cost("remove", &|| now(list.remove_with_all(50_000)).unwrap());
    assert!(remove.seeks <= 5 && remove.writes <= 5, "{remove:?}");
    let insert = cost("insert", &|| drop(now(list.insert_new(50_000))));
    assert!(insert.seeks <= 8 && insert.writes <= 6, "{insert:?}");
}
