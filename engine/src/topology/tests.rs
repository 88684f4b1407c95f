//! Modules in the harness.

use serde::{Deserialize, Serialize};

use super::harness::Harness;
use crate::module::{self, Depot, Module};

mod aggregates;
mod bank;
mod builder;
mod captured;
mod compound;
mod failures;
mod graph;
mod lists;
mod nested;
mod pages;
mod placed;
mod queries;
mod single;
mod sizes;
mod state;

/// A record for tests: goes where `key` lives.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Item {
    key: u32,
    value: i64,
}

/// Declares a depot of items.
fn items(m: &Module) -> Depot<Item> {
    m.depot::<Item>("items").hash_by(|item| &item.key)
}

/// A module over eight partitions.
fn launch<H>(build: impl FnOnce(&Module) -> H) -> (H, Harness) {
    let (handles, module) = module::define("test", build).unwrap();
    (handles, Harness::new(module, 8).unwrap())
}

/// Appends an item for each pair.
fn append(engine: &mut Harness, depot: Depot<Item>, items: impl IntoIterator<Item = (u32, i64)>) {
    for (key, value) in items {
        engine.append(depot, &Item { key, value }).unwrap();
    }
}
