//! What reading a key that is in memory costs the allocator: nothing, where the value has a fixed size.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::fmt::Debug;

use serde::{Deserialize, Serialize};
use tidemill::schema::{Map, Owned, Schema, Select, Set, Sub};
use tidemill::testing::{Test, TestPState};
use tidemill::topology::{At, Result};

/// The system's allocator, which also counts the allocations of each thread.
struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

fn allocations() -> u64 {
    ALLOCATIONS.get()
}

fn count() {
    // A thread that is ending has no counter any more, and is not measured.
    let _gone = ALLOCATIONS.try_with(|count| count.set(count.get() + 1));
}

// SAFETY: everything is passed on to the system's allocator as it came; counting touches no memory of it.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller keeps the contract, which is the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, bytes: usize) -> *mut u8 {
        count();
        // SAFETY: as above.
        unsafe { System.realloc(pointer, layout, bytes) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const ROWS: u64 = 2_000;

/// Asserts what [`ROWS`] reads allocate, of rows that `write` wrote for as many numbers: from the layer that
/// writes go to, and from pages.
fn check<S: Schema, P: Select>(
    write: impl Fn(At<'_, Test>, Owned<S, Test>, u64) -> Result<()>,
    path: impl Fn(Owned<S, Test>, u64) -> P,
    expected: impl Fn(u64) -> P::Out,
    allocated: u64,
) where
    P::Out: PartialEq + Debug + 'static,
{
    let mut state = TestPState::<S>::new().unwrap();
    let token = state.token();
    state.run(async |at| (0..ROWS).try_for_each(|n| write(at, token, n))).unwrap();
    for from in ["the layer of writes", "pages"] {
        if from == "pages" {
            state.reopen();
        }
        let counted = state.run(async |at| {
            // The first time it brings the pages.
            for n in 0..ROWS {
                assert_eq!(at.get(path(token, n)).await?, expected(n));
            }
            let before = allocations();
            for n in 0..ROWS {
                drop(at.get(path(token, n)).await?);
            }
            Ok(allocations() - before)
        });
        assert_eq!(counted.unwrap(), allocated, "{}, from {from}", std::any::type_name::<P>());
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
struct Transfer {
    to: u64,
    cents: i64,
    kind: Kind,
    fee: Option<u32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
enum Kind {
    Refused,
    Booked { at: u64 },
}

fn transfer(n: u64) -> Transfer {
    let kind = if n.is_multiple_of(3) { Kind::Refused } else { Kind::Booked { at: 1 << 40 | n } };
    Transfer { to: n * 31, cents: -5, kind, fee: n.is_multiple_of(2).then_some(7) }
}

#[derive(Schema)]
struct Account {
    funds: i64,
    history: Sub<Map<u64, Transfer>>,
}

#[test]
fn a_number_by_its_key() {
    check::<Map<u64, i64>, _>(
        |at, funds, n| Ok(at.put(funds.key(n), 7)?),
        Owned::key,
        |_| Some(7),
        0,
    );
}

#[test]
fn what_is_absent() {
    check::<Map<u64, i64>, _>(
        |at, funds, n| Ok(at.put(funds.key(2 * n), 7)?),
        |funds, n| funds.key(2 * n + 1),
        |_| None,
        0,
    );
}

#[test]
fn a_struct_under_several_keys() {
    check::<Map<u64, Sub<Map<(u32, i16), Transfer>>>, _>(
        |at, sent, n| Ok(at.put(sent.key(n % 7).key((3, 4)), transfer(n % 7))?),
        |sent, n| sent.key(n % 7).key((3, 4)),
        |n| Some(transfer(n % 7)),
        0,
    );
}

#[test]
fn an_element_of_a_set_under_a_text() {
    check::<Map<String, Sub<Set<u64>>>, _>(
        |at, fans, n| Ok(at.put(fans.key("a band of some renown").has(n), true)?),
        |fans, n| fans.key("a band of some renown").has(n),
        |_| true,
        0,
    );
}

#[test]
fn fields_of_a_record() {
    check::<Map<u64, Account>, _>(
        |at, accounts, n| Ok(at.put(accounts.key(n).field(|it| it.funds), 7)?),
        |accounts, n| accounts.key(n).field(|it| it.funds),
        |_| Some(7),
        0,
    );
    check::<Map<u64, Account>, _>(
        |at, accounts, n| Ok(at.put(accounts.key(1).field(|it| it.history).key(n), transfer(n))?),
        |accounts, n| accounts.key(1).field(|it| it.history).key(n),
        |n| Some(transfer(n)),
        0,
    );
}

/// What shows that the allocations of a read are counted.
#[test]
fn a_text_allocates_itself() {
    check::<Map<u64, String>, _>(
        |at, names, n| Ok(at.put(names.key(n), "ann".to_owned())?),
        Owned::key,
        |_| Some("ann".to_owned()),
        ROWS,
    );
}
