//! What reads and writes cost while a migration is under way, and what goes wrong.

use super::*;
use crate::codec;
use crate::testing::Io;

type Texts = Map<u64, String>;
type Words = Map<u64, Sub<Map<u64, String>, Uncounted>>;

/// A module whose only record has been `7`: a text at key 7.
fn stored() -> (Depot<u64>, Harness) {
    let (depot, module) = module::define("m", |m| {
        let depot = m.depot::<u64>("records").hash_by(|key| key);
        let t = m.microbatch(|| "t");
        let texts = t.pstate::<Map<u64, u32>>("texts");
        t.source(depot).for_each(async move |at, key| Ok(at.put(texts.key(key), 70)?));
        depot
    })
    .unwrap();
    let mut engine = Harness::new(module, 1).unwrap();
    engine.append(depot, &7).unwrap();
    engine.run().unwrap();
    (depot, engine)
}

fn migrated(change: impl Fn(u32) -> String + Clone + Send + Sync + 'static) -> Definition {
    let defined = module::define("m", |m| {
        let depot = m.depot::<u64>("records").hash_by(|key| key);
        let t = m.microbatch(|| "t");
        let texts = t.pstate_migrated::<Texts, _>("texts", Migration::values("texts", change));
        t.source(depot).for_each(async move |at, key| {
            let old = at.get(texts.key(key)).await?;
            Ok(at.put(texts.key(key), format!("{old:?}"))?)
        });
    });
    defined.unwrap().1
}

fn words() -> Definition {
    let defined = module::define("m", |m| {
        let depot = m.depot::<u64>("records").hash_by(|key| key);
        let t = m.microbatch(|| "t");
        let fill = Migration::structure("words", |n: u32, new| new.put(new.key(0), n.to_string()));
        let words = t.pstate_migrated::<Words, _>("texts", fill);
        t.source(depot).for_each(async move |at, key| {
            at.put(words.key(key).key(1), "one".to_owned())?;
            Ok(at.put(words.key(key).key(2), "two".to_owned())?)
        });
    });
    defined.unwrap().1
}

#[test]
fn a_value_that_cannot_be_migrated_fails_what_needs_it_and_a_better_function_goes_on() {
    let texts = PState::<Texts>::from_id(PStateId(0));
    let (depot, engine) = stored();
    let mut engine = engine.relaunch(migrated(|n| panic!("no text for {n}"))).unwrap();
    let error = engine.select(texts.key(7)).unwrap_err();
    let told = "migration `texts` cannot be applied to a stored value: its function panicked: no text for 70";
    assert_eq!(error.to_string(), told);
    assert!(matches!(error, codec::Error::Unmigrated { .. }));
    engine.select(texts.all()).unwrap_err();
    engine.run().unwrap();
    assert!(!engine.is_migrated());
    engine.append(depot, &7).unwrap();
    let failure = engine.run().unwrap_err();
    assert_eq!(failure.kind, crate::topology::FailureKind::Retry);
    let mut engine = engine.relaunch(migrated(|n| n.to_string())).unwrap();
    engine.run().unwrap();
    assert!(engine.is_migrated());
    assert_eq!(engine.select(texts.key(7)).unwrap(), Some("Some(\"70\")".to_owned()));
}

#[test]
fn what_is_stored_must_be_what_is_declared_to_be_migrated() {
    let (_, engine) = stored();
    let other = module::define("m", |m| {
        let depot = m.depot::<u64>("records").hash_by(|key| key);
        let t = m.microbatch(|| "t");
        t.pstate_migrated::<Texts, _>("texts", Migration::values("texts", |text: String| text));
        t.source(depot).for_each(async |_, _| Ok(()));
    });
    // The catalogue refuses this; here it shows that old values are decoded as what they are said to be.
    let engine = engine.relaunch(other.unwrap().1).unwrap();
    let error = engine.select(PState::<Texts>::from_id(PStateId(0)).key(7)).unwrap_err();
    assert!(matches!(error, codec::Error::Decode { .. }), "{error}");
}

/// What the partition is asked for: by a record of a key that is not there, of one that is in the old form, and
/// once nothing is.
fn costs(module: Definition) -> [Io; 3] {
    let (depot, engine) = stored();
    let mut engine = engine.relaunch(module).unwrap().moving(0);
    [8, 7, 9].map(|key| {
        engine.append(depot, &key).unwrap();
        let ran = engine.run().unwrap().pop().unwrap();
        ran.io.into_values().fold(Io::default(), |mut all, io| {
            all += io;
            all
        })
    })
}

#[test]
fn a_read_costs_one_look_more_while_something_is_left_and_a_put_reads_nothing() {
    let both = Io { reads: 2, puts: 1, deletes: 1, ..Io::default() };
    let after = Io { reads: 1, puts: 1, ..Io::default() };
    assert_eq!(costs(migrated(|n| n.to_string())), [both, both, after]);
}

#[test]
fn a_write_inside_moves_the_unit_once() {
    // The first put of an event asks whether there is something to move.
    let absent = Io { reads: 1, puts: 2, ..Io::default() };
    let there = Io { reads: 1, puts: 3, deletes: 1, ..Io::default() };
    let after = Io { puts: 2, ..Io::default() };
    assert_eq!(costs(words()), [absent, there, after]);
}

/// What a function makes nothing of would have to be left out of the sizes of what is around it.
#[test]
fn what_a_function_makes_nothing_of_has_no_new_form_where_a_collection_counts_it() {
    type Lists<V> = Map<u64, Sub<Map<u64, V>>>;
    let first = module::define("m", |m| {
        let depot = m.depot::<u64>("records").hash_by(|key| key);
        let t = m.microbatch(|| "t");
        let lists = t.pstate::<Lists<Vec<u64>>>("lists");
        t.source(depot).for_each(async move |at, key| {
            at.put(lists.key(key).key(1), Vec::new())?;
            Ok(at.put(lists.key(key).key(2), vec![5])?)
        });
        depot
    });
    let (depot, first) = first.unwrap();
    let mut engine = Harness::new(first, 1).unwrap();
    engine.append(depot, &7).unwrap();
    engine.run().unwrap();
    let next = |marks: bool| {
        let defined = module::define("m", move |m| {
            let depot = m.depot::<u64>("records").hash_by(|key| key);
            let t = m.microbatch(|| "t");
            t.pstate_migrated_within::<Lists<Sub<List<u64>>>, _>(
                "lists",
                Migration::structure("one-by-one", move |old: Vec<u64>, new| {
                    if marks && old.is_empty() {
                        return new.push(new.here(), 0);
                    }
                    old.into_iter().try_for_each(|item| new.push(new.here(), item))
                }),
            );
            t.source(depot).for_each(async |_, _| Ok(()));
        });
        defined.unwrap().1
    };
    let lists = PState::<Lists<Sub<List<u64>>>>::from_id(PStateId(0));
    let mut engine = engine.relaunch(next(false)).unwrap();
    engine.run().unwrap();
    assert!(!engine.is_migrated());
    let error = engine.select(lists.key(7).key(1).all()).unwrap_err();
    let told = "migration `one-by-one` cannot be applied to a stored value: its function makes nothing of it, and the \
                collection around it counts it";
    assert_eq!(error.to_string(), told);
    // Whatever was moved by then.
    assert_eq!(engine.select(lists.key(7).size()).unwrap(), 2);
    assert_eq!(engine.select(lists.key(7).key(2).all()).unwrap(), [5]);
    let mut engine = engine.relaunch(next(true)).unwrap();
    engine.run().unwrap();
    assert!(engine.is_migrated());
    assert_eq!(engine.select(lists.key(7).key(1).all()).unwrap(), [0]);
    assert_eq!(engine.select(lists.key(7).size()).unwrap(), 2);
}

/// An event that writes inside of a unit looks whether that is in the old form. The next one of the same attempt must
/// learn from memory that it is not, whatever was let go since: a look-up that waits tells those who count that the
/// attempt has written nothing there, and then they ask what was there before it.
#[test]
fn a_size_is_exact_where_an_attempt_deletes_and_puts_what_was_moved_before() {
    type Counted = Map<u64, Sub<Map<u64, String>>>;
    let (_, engine) = stored();
    let defined = module::define("m", |m| {
        let depot = m.depot::<u64>("records").hash_by(|key| key);
        let t = m.microbatch(|| "t");
        let fill = Migration::structure("words", |n: u32, new| new.put(new.key(0), n.to_string()));
        let words = t.pstate_migrated::<Counted, _>("texts", fill);
        t.source(depot).for_each(async move |at, key| {
            // Those of one key meet in one partition. An even one deletes what an odd one puts.
            let word = words.key(8).key(1);
            if key % 2 == 0 { Ok(at.delete(word)?) } else { Ok(at.put(word, "one".to_owned())?) }
        });
        depot
    });
    let (depot, module) = defined.unwrap();
    let mut engine = engine.relaunch(module).unwrap().moving(0).forgetful().batches_of(1);
    let words = PState::<Counted>::from_id(PStateId(0));
    for keys in [&[1][..], &[2, 1], &[2], &[1, 2], &[1, 2, 1, 2, 1]] {
        for key in keys {
            engine.append(depot, key).unwrap();
        }
        engine.run().unwrap();
        let (found, size) = engine.select((words.key(8).all(), words.key(8).size())).unwrap();
        assert_eq!(found.len() as u64, size, "after {keys:?}");
        assert_eq!(size, keys.last().unwrap() % 2);
    }
    assert!(!engine.is_migrated(), "it was under way all the time");
}
