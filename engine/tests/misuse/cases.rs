//! Wrong uses. Each line that does not compile is followed by what the compiler must say there: `//~` and
//! a part of its message, its label or one of its notes. `tests/misuse.rs` compiles this file and compares.
//!
//! No line here may be wrong without `//~` behind it, so the right uses among them show what is right.

#![allow(unused, reason = "nothing here runs")]

use std::collections::BTreeMap;

use tidemill::client::Launched;
use tidemill::module::{Module, Topology};
use tidemill::schema::aggregate::{Average, Combined, Count, ListOf, SetOf, Sum, TopN};
use tidemill::schema::{
    Initial, Initially, List, Map, Owned, PState, PlaceBy, Placed, Private, Schema, Set, Single, Sub,
};
use tidemill::serde::{Deserialize, Serialize};
use tidemill::topology::{At, Result};

enum Desk {}
enum Other {}

tidemill::key! {
    struct Account(u64);
}

struct NoSerde;

#[derive(Serialize, Deserialize)]
#[serde(crate = "tidemill::serde")]
struct Address {
    town: String,
}

#[derive(Schema)]
struct Profile {
    name: String,
    address: Address,
    fans: Sub<Set<u64>>,
}

/// All is declared by `Desk`, but `bought`.
struct State {
    funds: Owned<Map<Account, i64>, Desk>,
    tags: Owned<Map<Account, BTreeMap<String, u32>>, Desk>,
    fans: Owned<Map<Account, Sub<Set<String>>>, Desk>,
    sold: Owned<Map<String, Sub<Map<u64, i64>>>, Desk>,
    notes: Owned<Map<Account, Vec<String>>, Desk>,
    songs: Owned<Map<Account, Sub<List<String>>>, Desk>,
    rounds: Owned<Map<Account, Sub<List<Sub<Map<String, i64>>>>>, Desk>,
    profiles: Owned<Map<Account, Profile>, Desk>,
    bought: Owned<Map<String, Sub<Map<u64, i64>>>, Other>,
}

fn keys(it: State) {
    it.funds.key(&Account(1));
    it.funds.key("bob");
    //~ `&str` is not a key of this collection, whose keys are `Account`
    //~ expected a `Account` (or `&Account`)
    it.funds.key(1);
    //~ is not a key of this collection, whose keys are `Account`
    it.sold.key("nuts").key("monday");
    //~ `&str` is not a key of this collection, whose keys are `u64`
    it.funds.key(Account(1)).key(3);
    //~ no `key` here: `i64` is not a map stored element by element
    //~ write `Sub<Map<K, V>>` in the PState's type to store a collection element by element
    it.tags.key(Account(1)).key("rare");
    //~ no `key` here: `BTreeMap<String, u32>` is not a map stored element by element
    it.songs.key(Account(1)).key(0_u64);
    //~ no `key` here: `Sub<List<String>>` is not a map stored element by element
    it.fans.key(Account(1)).key("ann");
    //~ no `key` here: `Sub<Set<String>>` is not a map stored element by element
    //~ of a set, ask `.has(e)`
    it.sold.key("nuts").all().key(3);
    //~ this path leads to many elements
    //~ `.key`, `.has`, `.field`, `.range`, `.all`, `.add`, `put` and `delete` go on from one place
}

fn elements(it: State) {
    it.fans.key(Account(1)).has("ann");
    it.fans.key(Account(1)).has(7);
    //~ is not an element of `Sub<Set<String>>`
    //~ `.has(e)` takes an element of a `Sub<Set<E>>`: an `E`, an `&E`, or a `&str` where that is `String`
    it.sold.key("nuts").has(7);
    //~ is not an element of `Sub<Map<u64, i64>>`
    //~ of a map, `.key(k)` gives what is there or `None`
}

fn ranges(it: State) {
    it.sold.key("nuts").range(3..=7).reverse().limit(2).values();
    it.tags.key(Account(1)).range("a".."b");
    //~ no ranges here: `BTreeMap<String, u32>` is stored as one value
    //~ write `Sub<..>` around the collection in the PState's type to store it element by element, in key order
    it.tags.key(Account(1)).all();
    //~ no ranges here: `BTreeMap<String, u32>` is stored as one value
    it.funds.key(Account(1)).range(..);
    //~ no ranges here: `i64` is stored as one value
    it.sold.key("nuts").range("a"..);
    //~ `&str` is not a key of this collection, whose keys are `u64`
    it.sold.key("nuts").range("a");
    //~ `&str` is not a range of this collection's keys, which are `u64`
    //~ expected `a..b`, `a..=b`, `a..`, `..b`, `..=b` or `..` of `u64`
    it.sold.all();
    //~ `Sub<Map<u64, i64>>` is not a value that can be stored
    //~ a range gives rows, so what is under its keys must be values: name the key above a `Sub`, then take the range
    it.sold.key("nuts").all().all();
    //~ this path leads to many elements
}

fn fields(it: State) {
    it.profiles.key(Account(1)).field(|it| it.fans).has(7);
    it.profiles.key(Account(1)).field(|it| it.nam);
    //~ no field `nam` on type
    //~ a field with a similar name exists
    it.profiles.key(Account(1)).field(|it| it.address).field(|it| it.town);
    //~ no fields here: `Address` is not a record stored field by field
    //~ derive `tidemill::schema::Schema` for a struct to store each of its fields by itself
}

async fn reads(at: At<'_, Desk>, it: State) -> Result<()> {
    let funds: Option<i64> = at.get(it.bought.key("ann").key(3)).await?;
    at.get(it.sold.key("nuts")).await?;
    //~ `Sub<Map<u64, i64>>` cannot be read or written as one value
    //~ of a `Sub`, select `.all()`, `.range(a..b).limit(n)`, `.key(k)` or `.has(e)`
    at.get(it.songs.key(Account(1))).await?;
    //~ `Sub<List<String>>` cannot be read or written as one value
    at.get(it.profiles.key(Account(1))).await?;
    //~ `Profile` cannot be read or written as one value
    //~ of a record, name its fields
    at.get("ann").await?;
    //~ `&str` cannot be read
    //~ select a path or a tuple of paths
    let won: Option<i64> = at.get(it.rounds.key(Account(1)).nth(0).key("ann")).await?;
    at.get(it.rounds.key(Account(1)).nth(0)).await?;
    //~ `Sub<Map<String, i64>>` cannot be read or written as one value
    at.get(it.rounds.key(Account(1)).all()).await?;
    //~ `Sub<Map<String, i64>>` is not a value that can be stored
    at.get(it.songs.key(Account(1)).nth(0)).await?;
    //~ `Sub<List<String>>` is not a list of collections
    //~ and gives one by `at.item(list, index)` and `.item(index)`
    at.get(it.notes.key(Account(1)).size()).await?;
    //~ `Vec<String>` does not count its elements
    Ok(())
}

async fn writes(at: At<'_, Desk>, it: State) -> Result<()> {
    at.put(it.funds.key(Account(1)), 5)?;
    at.put(it.funds.key(Account(1)), "five")?;
    //~ mismatched types
    //~ expected `i64`, found `&str`
    at.put(it.fans.key(Account(1)).has("ann"), 1)?;
    //~ expected `bool`, found integer
    at.put(it.bought.key("ann").key(3), 5)?;
    //~ this PState belongs to another topology: only the topology that declared it may write it
    //~ read it here, and append what is to be written to a depot that its own topology reads
    at.put(it.funds.reader().key(Account(1)), 5)?;
    //~ this PState belongs to another topology: only the topology that declared it may write it
    //~ a token that `reader()` gave, a `PState<..>`, cannot write: keep the `Owned<..>` one
    at.delete(it.bought.key("ann"))?;
    //~ this PState belongs to another topology
    at.put(it.funds.all(), 5)?;
    //~ this path leads to many elements
    at.put(it.profiles.key(Account(1)), NoSerde)?;
    //~ `Profile` cannot be read or written as one value
    at.push(it.songs.key(Account(1)), "Naima".to_owned()).await?;
    at.push(it.notes.key(Account(1)), "rare".to_owned()).await?;
    //~ `Vec<String>` is not a list of values stored element by element
    //~ a `Vec` is one value: change it by `at.update`, or add `ListOf(item)` to it
    at.item(it.fans.key(Account(1)), 3).await?;
    //~ `Sub<Set<String>>` is not a list of values stored element by element
    at.push(it.songs.key(Account(1)), 5).await?;
    //~ mismatched types
    let round = at.push_new(it.rounds.key(Account(1))).await?;
    at.put(round.key("ann"), 5)?;
    at.push(it.rounds.key(Account(1)), 5).await?;
    //~ `Sub<List<Sub<Map<String, i64>>>>` is not a list of values
    //~ a list of collections gets an item by `at.push_new(list)`
    at.item(it.rounds.key(Account(1)), 0).await?;
    //~ `Sub<List<Sub<Map<String, i64>>>>` is not a list of values
    //~ `at.nth(list, index)` gives that of one that is there
    at.push_new(it.songs.key(Account(1))).await?;
    //~ `Sub<List<String>>` is not a list of collections
    //~ a list of values gets one by `at.push(list, value)`
    at.nth(it.fans.key(Account(1)), 0).await?;
    //~ `Sub<Set<String>>` is not a list of collections
    at.put(it.rounds.key(Account(1)).nth(0).key("ann"), 5)?;
    //~ mismatched types
    at.remove(it.rounds.key(Account(1)), 0).await?;
    at.remove(it.notes.key(Account(1)), 0).await?;
    //~ `Vec<String>` is not a list stored element by element
    at.update(it.sold.key("nuts"), |old| old).await?;
    //~ `Sub<Map<u64, i64>>` cannot be read or written as one value
    Ok(())
}

enum Limit {}

impl Initial for Limit {
    type Value = i64;

    fn value() -> i64 {
        100
    }
}

/// What has a place of its own, or is not for everybody.
struct Roots {
    count: Owned<Single<u64>, Desk>,
    limit: Owned<Single<Initially<Limit>>, Desk>,
    latest: Owned<Single<Sub<Map<u64, i64>>>, Desk>,
    secret: Owned<Private<Map<u64, i64>>, Desk>,
    funds: Owned<Map<Account, i64>, Desk>,
}

async fn roots(at: At<'_, Desk>, it: Roots) -> Result<()> {
    let count: Option<u64> = at.get(it.count.whole()).await?;
    let limit: i64 = at.get(it.limit.whole()).await?;
    let secret: Option<i64> = at.get(it.secret.key(7)).await?;
    at.put(it.secret.key(7), 3)?;
    at.put(it.limit.whole(), 3)?;
    at.get(it.funds.whole()).await?;
    //~ no path leads to all of a `Map<Account, i64>`, which is spread over all partitions
    //~ a PState that lives in one partition is declared `Single<P>`
    at.get(it.count.key(7)).await?;
    //~ no `key` here: `u64` is not a map stored element by element
    at.get(it.latest.whole()).await?;
    //~ `Sub<Map<u64, i64>>` cannot be read or written as one value
    at.put(it.count.whole(), "seven")?;
    //~ mismatched types
    at.reset(it.count.whole())?;
    //~ mismatched types
    Ok(())
}

async fn clients(
    shop: &Launched<()>,
    secret: PState<Private<Map<u64, i64>>>,
    open: PState<Map<u64, i64>>,
    rounds: PState<Map<u64, Sub<List<Sub<Map<String, i64>>>>>>,
    query: &tidemill::schema::ast::Query,
) {
    shop.select(open.key(7)).await;
    shop.select(secret.key(7)).await;
    //~ this PState is private: clients cannot read it
    //~ let one keep what clients shall see in a PState that is not `Private`
    shop.select((open.key(7), secret.key(7))).await;
    //~ this PState is private: clients cannot read it
    shop.subscribe(secret.key(7)).await;
    //~ this PState is private: clients cannot read it
    shop.subscribe(rounds.key(7).nth(0).key("ann")).await;
    //~ cannot be subscribed
    //~ what hangs under an item of a list of collections is not subscribed
    shop.pages(secret.all(), 10);
    //~ this PState is private: clients cannot read it
    shop.query::<i64>(secret, query).await;
    //~ this PState is private: clients cannot read it
}

fn additions(it: State) {
    let _ = it.funds.key(Account(1)).add(Sum(7));
    let _ = it.funds.key(Account(1)).add(Sum(7_u64));
    //~ cannot be added to what is stored here, a `i64`
    //~ the table in `tidemill::schema::aggregate` says which aggregator fits what
    let _ = it.sold.key("nuts").add(Sum(7));
    //~ cannot be added to what is stored here, a `Sub<Map<u64, i64>>`
    let _ = it.rounds.key(Account(1)).add(ListOf(7));
    //~ cannot be added to what is stored here, a `Sub<List<Sub<Map<String, i64>>>>`
    let _ = it.fans.key(Account(1)).add(SetOf(7));
    //~ cannot be added to what is stored here, a `Sub<Set<String>>`
    let _ = it.funds.key(Account(1)).add(Average(7));
    //~ cannot be added to what is stored here, a `i64`
    let _ = it.funds.key(Account(1)).add(TopN(7, 3));
    //~ cannot be added to what is stored here, a `i64`
    let _ = it.funds.key(Account(1)).add(5);
    //~ cannot be added to what is stored here, a `i64`
    let _ = it.funds.all().add(Sum(5));
    //~ this path leads to many elements
}

fn declarations(m: &Module) {
    let t = m.microbatch(|| "desk");
    let funds = t.pstate::<Map<u64, i64>>("funds");
    t.pstate::<u64>("counter");
    //~ `u64` cannot be the type of a PState
    //~ PStates are `Map<K, V>` or `Set<E>`
    //~ or `Single<V>`, which lives in one partition
    t.pstate::<Single<u64>>("one counter");
    t.pstate::<Map<u64, Initially<Limit>>>("limits");
    //~ `Initially<Limit>` cannot be part of a PState's type
    t.pstate::<Single<Initially<Other>>>("no limit");
    //~ `Single<Initially<Other>>` cannot be the type of a PState
    //~ a value that is never missing is `Single<Initially<I>>`, where `I` implements `Initial`
    t.pstate::<Placed<Map<u64, i64>, Other>>("placed");
    //~ `Other` does not say where keys of type `u64` live
    t.pstate::<Map<Address, u64>>("by address");
    //~ `Address` cannot be the type of a key
    //~ newtypes made with `tidemill::key!`
    t.pstate::<Map<u64, NoSerde>>("things");
    //~ `NoSerde` cannot be part of a PState's type
    //~ values derive `serde::Serialize` and `serde::Deserialize`
    t.pstate::<Map<u64, Map<u64, i64>>>("nested");
    //~ cannot be part of a PState's type
    //~ collections are `Sub<Map<K, V>>`, `Sub<Set<E>>` and `Sub<List<T>>`
    t.pstate::<Map<u64, Sub<List<Sub<Set<u64>>>>>>("lists of sets");
    t.pstate::<Map<u64, Sub<List<Set<u64>>>>>("lists of no sets");
    //~ `Sub<List<Set<u64>>>` cannot be part of a PState's type
    //~ keys and elements must be keys; the items of a list are whatever a PState can hold
    t.pstate::<Map<u64, Sub<i64>>>("subs");
    //~ cannot be part of a PState's type
}

fn flows(m: &Module) {
    let sales = m.depot::<(u64, i64)>("sales").hash_by(|(item, _)| item);
    let other = m.microbatch(|| "other");
    let others = other.pstate::<Map<u64, i64>>("others");
    let t = m.microbatch(|| "desk");
    t.source(sales).aggregate(others, |others, (item, n)| others.key(item).add(Sum(n)));
    //~ this PState belongs to another topology: only the topology that declared it may write it
    let own = t.pstate::<Map<u64, i64>>("own");
    let items = t.pstate::<Map<u64, Sub<Set<i64>>>>("items");
    t.source(sales)
        .aggregate_into(own, |own, (item, n)| (item, own.key(item).add(Sum(n))))
        .for_each(async |_, (item, n): (u64, Option<i64>)| Ok(()));
    let _ = t.source(sales).aggregate_into(own, |own, (item, n)| own.key(item).add(Sum(n)));
    //~ is not a change whose new value the flow can go on with
    //~ takes a closure that returns `(key, token.key(k).add(Sum(x)))`
    let _ = t.source(sales).aggregate_into(items, |it, (item, n)| (item, it.key(item).add(SetOf(n))));
    //~ a flow cannot go on with what is stored here, a `Sub<Set<i64>>`: it is not one value
    let _ = t.source(sales).aggregate_into(others, |it, (item, n)| (item, it.key(item).add(Sum(n))));
    //~ this PState belongs to another topology: only the topology that declared it may write it
}
