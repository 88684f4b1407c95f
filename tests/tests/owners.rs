//! A `PState` is given to another topology, and migrated, after a crash anywhere: what the one
//! before had prepared is not lost.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::BTreeMap;

use tidemill::client::{Engine, Launched};
use tidemill::error::{Error, Result};
use tidemill::migrate::Migration;
use tidemill::module::{Depot, Module};
use tidemill::schema::{Map, PState};
use tidemill_tests::node::{After, Crash, Node};
use tidemill_tests::small;
use tidemill_tests::world::{self, World};

/// Which topology writes.
#[derive(Clone, Copy, PartialEq)]
enum Owner {
    Before,
    /// Another one, to which the values are texts.
    After,
}

struct Pairs {
    numbers: Depot<u64>,
    before: PState<Map<u64, u64>>,
    after: PState<Map<u64, String>>,
}

/// What stands beside a number, in another partition more often than not.
const BESIDE: u64 = 1_000;

/// Every number is stored twice, by one microbatch.
fn pairs(m: &Module, owner: Owner) -> Pairs {
    let numbers = m.depot::<u64>("numbers").hash_by(|number| number);
    match owner {
        Owner::Before => {
            let t = m.microbatch(|| "before");
            let stored = t.pstate::<Map<u64, u64>>("stored");
            t.source(numbers)
                .flat_map(|number| [number, number + BESIDE])
                .hash_by(|number| number)
                .using(stored)
                .for_each(async |at, stored, it| Ok(at.put(stored.key(it), it)?));
            let id = stored.id();
            Pairs { numbers, before: PState::from_id(id), after: PState::from_id(id) }
        }
        Owner::After => {
            let t = m.microbatch(|| "after");
            let stored = t.pstate_migrated::<Map<u64, String>, _>(
                "stored",
                Migration::values("texts", |number: u64| number.to_string()),
            );
            t.source(numbers).for_each(async |_, _| Ok(()));
            let id = stored.id();
            Pairs { numbers, before: PState::from_id(id), after: PState::from_id(id) }
        }
    }
}

async fn open(node: &Node) -> Engine {
    small::open(node, 2).await.expect("it opens")
}

async fn launch(engine: &Engine, owner: Owner) -> Result<Launched<Pairs>> {
    engine.launch("pairs", |m| pairs(m, owner)).await
}

/// What is stored, once the migration is done.
async fn stored(pairs: &Launched<Pairs>) -> BTreeMap<u64, String> {
    pairs.caught_up("after").await.unwrap();
    while !pairs.migrations().await.unwrap().is_empty() {
        pairs.caught_up("after").await.unwrap();
    }
    pairs.select(pairs.after.all()).await.unwrap().into_iter().collect()
}

fn are_pairs(stored: &BTreeMap<u64, String>) {
    for (number, text) in stored {
        assert_eq!(*text, number.to_string());
        let other = if *number < BESIDE { number + BESIDE } else { number - BESIDE };
        assert!(stored.contains_key(&other), "{number} is there and {other} is not: {stored:?}");
    }
}

const NUMBERS: u64 = 12;

/// What became of a launch after a crash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Launch {
    Done,
    Refused,
}

/// None if all was done before the crash.
async fn crashed(world: World, after: u64) -> Option<Launch> {
    let node = world.node();
    let engine = open(&node).await;
    let of = launch(&engine, Owner::Before).await.unwrap();
    node.crash_after(After::Operations(after), Crash::Power);
    let mut acknowledged = Vec::new();
    for number in 0..NUMBERS {
        if of.append(of.numbers, &number).await.is_ok() {
            acknowledged.push(number);
        }
        drop(of.caught_up("before").await);
    }
    drop((of, engine));
    if node.crashes() == 0 {
        node.crash_never();
        return None;
    }

    let engine = open(&node).await;
    let launched = launch(&engine, Owner::After).await;
    match launched {
        Ok(of) => {
            are_pairs(&stored(&of).await);
            Some(Launch::Done)
        }
        Err(Error::Invalid { what }) => {
            let told = "is declared as written by `after`, and `before`, which wrote to it or may have, has left a";
            assert!(what.contains(told), "{what}");
            engine.stop().await;
            let engine = open(&node).await;
            let of = launch(&engine, Owner::Before).await.expect("nothing was changed");
            of.caught_up("before").await.unwrap();
            assert_eq!(of.select(of.before.all()).await.unwrap().len() % 2, 0);
            drop(of);
            engine.close().await.unwrap();
            let engine = open(&node).await;
            let of = launch(&engine, Owner::After).await.expect("everybody has applied it");
            let stored = stored(&of).await;
            are_pairs(&stored);
            assert!(acknowledged.iter().all(|number| stored.contains_key(number)), "{stored:?}");
            Some(Launch::Refused)
        }
        Err(error) => panic!("{error:?}"),
    }
}

#[test]
fn what_the_topology_before_has_prepared_is_not_lost() {
    let mut launches = Vec::new();
    for after in (1..).step_by(3) {
        let ran = World::run(&world::Options::seed(after), |world| crashed(world, after));
        match ran.result {
            Ok(Some(launch)) => launches.push(launch),
            Ok(None) => break,
            Err(error) => panic!("after {after} operations: {error:?}"),
        }
    }
    for wanted in [Launch::Done, Launch::Refused] {
        assert!(launches.contains(&wanted), "never {wanted:?}: {launches:?}");
    }
}
