//! What the engine promises whoever embeds it, each promise held against real files.

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "tests look at the engine from outside, with threads, processes and clocks"
)]

mod api;
mod backup;
mod budget;
mod combined;
mod damage;
mod differences;
mod directory;
mod editing;
mod faults;
mod full;
mod killed;
mod kit;
mod layouts;
mod limits;
mod lists;
mod memory;
mod migrated;
mod migrations;
mod notes;
mod panics;
mod reads;
mod recompute;
mod recompute_bank;
mod recompute_beside;
mod rejects;
mod reopening;
mod roots;
mod sizes;
mod snapshots;
mod stopped;
mod subscriptions;
mod trees;
mod trimming;

/// What [`kit::Process`] can run in a process of its own, by name.
type Child = (&'static str, fn(&std::path::Path));

/// See [`Child`].
const CHILDREN: &[Child] = &[
    ("idle", limits::idle),
    ("load", killed::load),
    ("fill", memory::fill),
    ("tails", memory::tails),
    ("reopen", memory::reopen_shelves),
    ("large", memory::large),
    ("recover", memory::recover),
    ("deal", memory::deal),
];
