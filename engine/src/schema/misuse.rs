//! Wrong uses that must not compile. They share one beginning with the right uses, which show that it
//! is not the beginning that is refused.
//!
//! Right:
//!
//! ```no_run
//! # use std::collections::BTreeMap;
//! # use tidemill::schema::aggregate::{Count, Last, SetOf, Sum};
//! # use tidemill::schema::{Direct, Map, Owned, OwnedBy, PState, Path, Select, Set, Shape, Stored, Sub};
//! # enum Desk {}
//! # enum Other {}
//! # fn get<P: Select>(path: P) -> P::Out { todo!() }
//! # struct At<O>(std::marker::PhantomData<O>);
//! # impl<O> At<O> {
//! #     fn put<S: Stored, M: Direct, O2: OwnedBy<O>>(&self, path: Path<S, M, O2>, value: S::Value) {}
//! # }
//! # tidemill::key! { struct Account(u64); }
//! # struct NoSerde;
//! # fn module(
//! #     at: At<Desk>,
//! #     funds: Owned<Map<Account, i64>, Desk>,
//! #     tags: Owned<Map<Account, BTreeMap<String, u32>>, Desk>,
//! #     fans: Owned<Map<Account, Sub<Set<String>>>, Desk>,
//! #     bought: Owned<Map<String, Sub<Map<u64, i64>>>, Other>,
//! # ) {
//! at.put(funds.key(Account(1)), 5);
//! at.put(fans.key(Account(1)).has("ann".to_owned()), true);
//! let _: Option<i64> = get(funds.reader().key(&Account(1)));
//! let _: Vec<(u64, i64)> = get(bought.key("ann").range(3..).reverse().limit(10));
//! let _: (Vec<String>, bool) = get((fans.key(Account(1)).all(), fans.key(Account(1)).has("x".to_owned())));
//! let _ = funds.key(Account(1)).add(Sum(7));
//! let _ = funds.key(Account(1)).add(Count);
//! let _ = fans.key(Account(1)).add(SetOf("ann".to_owned()));
//! let _ = tags.key(Account(1)).add(Last(BTreeMap::new()));
//! # }
//! # fn main() {}
//! ```
//!
//! A key of another type:
//!
//! ```compile_fail,E0277
//! # use std::collections::BTreeMap;
//! # use tidemill::schema::aggregate::{Count, Last, SetOf, Sum};
//! # use tidemill::schema::{Direct, Map, Owned, OwnedBy, PState, Path, Select, Set, Shape, Stored, Sub};
//! # enum Desk {}
//! # enum Other {}
//! # fn get<P: Select>(path: P) -> P::Out { todo!() }
//! # struct At<O>(std::marker::PhantomData<O>);
//! # impl<O> At<O> {
//! #     fn put<S: Stored, M: Direct, O2: OwnedBy<O>>(&self, path: Path<S, M, O2>, value: S::Value) {}
//! # }
//! # tidemill::key! { struct Account(u64); }
//! # struct NoSerde;
//! # fn module(
//! #     at: At<Desk>,
//! #     funds: Owned<Map<Account, i64>, Desk>,
//! #     tags: Owned<Map<Account, BTreeMap<String, u32>>, Desk>,
//! #     fans: Owned<Map<Account, Sub<Set<String>>>, Desk>,
//! #     bought: Owned<Map<String, Sub<Map<u64, i64>>>, Other>,
//! # ) {
//! let _ = funds.key("bob");
//! # }
//! # fn main() {}
//! ```
//!
//! A key under a value:
//!
//! ```compile_fail,E0277
//! # use std::collections::BTreeMap;
//! # use tidemill::schema::aggregate::{Count, Last, SetOf, Sum};
//! # use tidemill::schema::{Direct, Map, Owned, OwnedBy, PState, Path, Select, Set, Shape, Stored, Sub};
//! # enum Desk {}
//! # enum Other {}
//! # fn get<P: Select>(path: P) -> P::Out { todo!() }
//! # struct At<O>(std::marker::PhantomData<O>);
//! # impl<O> At<O> {
//! #     fn put<S: Stored, M: Direct, O2: OwnedBy<O>>(&self, path: Path<S, M, O2>, value: S::Value) {}
//! # }
//! # tidemill::key! { struct Account(u64); }
//! # struct NoSerde;
//! # fn module(
//! #     at: At<Desk>,
//! #     funds: Owned<Map<Account, i64>, Desk>,
//! #     tags: Owned<Map<Account, BTreeMap<String, u32>>, Desk>,
//! #     fans: Owned<Map<Account, Sub<Set<String>>>, Desk>,
//! #     bought: Owned<Map<String, Sub<Map<u64, i64>>>, Other>,
//! # ) {
//! let _ = funds.key(Account(1)).key(3);
//! # }
//! # fn main() {}
//! ```
//!
//! A range of a collection that is one value:
//!
//! ```compile_fail,E0277
//! # use std::collections::BTreeMap;
//! # use tidemill::schema::aggregate::{Count, Last, SetOf, Sum};
//! # use tidemill::schema::{Direct, Map, Owned, OwnedBy, PState, Path, Select, Set, Shape, Stored, Sub};
//! # enum Desk {}
//! # enum Other {}
//! # fn get<P: Select>(path: P) -> P::Out { todo!() }
//! # struct At<O>(std::marker::PhantomData<O>);
//! # impl<O> At<O> {
//! #     fn put<S: Stored, M: Direct, O2: OwnedBy<O>>(&self, path: Path<S, M, O2>, value: S::Value) {}
//! # }
//! # tidemill::key! { struct Account(u64); }
//! # struct NoSerde;
//! # fn module(
//! #     at: At<Desk>,
//! #     funds: Owned<Map<Account, i64>, Desk>,
//! #     tags: Owned<Map<Account, BTreeMap<String, u32>>, Desk>,
//! #     fans: Owned<Map<Account, Sub<Set<String>>>, Desk>,
//! #     bought: Owned<Map<String, Sub<Map<u64, i64>>>, Other>,
//! # ) {
//! let _ = tags.key(Account(1)).range("a".to_owned()..);
//! # }
//! # fn main() {}
//! ```
//!
//! All of a collection that is one value:
//!
//! ```compile_fail,E0277
//! # use std::collections::BTreeMap;
//! # use tidemill::schema::aggregate::{Count, Last, SetOf, Sum};
//! # use tidemill::schema::{Direct, Map, Owned, OwnedBy, PState, Path, Select, Set, Shape, Stored, Sub};
//! # enum Desk {}
//! # enum Other {}
//! # fn get<P: Select>(path: P) -> P::Out { todo!() }
//! # struct At<O>(std::marker::PhantomData<O>);
//! # impl<O> At<O> {
//! #     fn put<S: Stored, M: Direct, O2: OwnedBy<O>>(&self, path: Path<S, M, O2>, value: S::Value) {}
//! # }
//! # tidemill::key! { struct Account(u64); }
//! # struct NoSerde;
//! # fn module(
//! #     at: At<Desk>,
//! #     funds: Owned<Map<Account, i64>, Desk>,
//! #     tags: Owned<Map<Account, BTreeMap<String, u32>>, Desk>,
//! #     fans: Owned<Map<Account, Sub<Set<String>>>, Desk>,
//! #     bought: Owned<Map<String, Sub<Map<u64, i64>>>, Other>,
//! # ) {
//! let _ = tags.key(Account(1)).all();
//! # }
//! # fn main() {}
//! ```
//!
//! A range of keys of another type:
//!
//! ```compile_fail,E0277
//! # use std::collections::BTreeMap;
//! # use tidemill::schema::aggregate::{Count, Last, SetOf, Sum};
//! # use tidemill::schema::{Direct, Map, Owned, OwnedBy, PState, Path, Select, Set, Shape, Stored, Sub};
//! # enum Desk {}
//! # enum Other {}
//! # fn get<P: Select>(path: P) -> P::Out { todo!() }
//! # struct At<O>(std::marker::PhantomData<O>);
//! # impl<O> At<O> {
//! #     fn put<S: Stored, M: Direct, O2: OwnedBy<O>>(&self, path: Path<S, M, O2>, value: S::Value) {}
//! # }
//! # tidemill::key! { struct Account(u64); }
//! # struct NoSerde;
//! # fn module(
//! #     at: At<Desk>,
//! #     funds: Owned<Map<Account, i64>, Desk>,
//! #     tags: Owned<Map<Account, BTreeMap<String, u32>>, Desk>,
//! #     fans: Owned<Map<Account, Sub<Set<String>>>, Desk>,
//! #     bought: Owned<Map<String, Sub<Map<u64, i64>>>, Other>,
//! # ) {
//! let _ = bought.key("ann").range("a"..);
//! # }
//! # fn main() {}
//! ```
//!
//! A `Sub` read as one value:
//!
//! ```compile_fail,E0277
//! # use std::collections::BTreeMap;
//! # use tidemill::schema::aggregate::{Count, Last, SetOf, Sum};
//! # use tidemill::schema::{Direct, Map, Owned, OwnedBy, PState, Path, Select, Set, Shape, Stored, Sub};
//! # enum Desk {}
//! # enum Other {}
//! # fn get<P: Select>(path: P) -> P::Out { todo!() }
//! # struct At<O>(std::marker::PhantomData<O>);
//! # impl<O> At<O> {
//! #     fn put<S: Stored, M: Direct, O2: OwnedBy<O>>(&self, path: Path<S, M, O2>, value: S::Value) {}
//! # }
//! # tidemill::key! { struct Account(u64); }
//! # struct NoSerde;
//! # fn module(
//! #     at: At<Desk>,
//! #     funds: Owned<Map<Account, i64>, Desk>,
//! #     tags: Owned<Map<Account, BTreeMap<String, u32>>, Desk>,
//! #     fans: Owned<Map<Account, Sub<Set<String>>>, Desk>,
//! #     bought: Owned<Map<String, Sub<Map<u64, i64>>>, Other>,
//! # ) {
//! let _ = get(bought.key("ann"));
//! # }
//! # fn main() {}
//! ```
//!
//! A `Sub` written as one value:
//!
//! ```compile_fail,E0277
//! # use std::collections::BTreeMap;
//! # use tidemill::schema::aggregate::{Count, Last, SetOf, Sum};
//! # use tidemill::schema::{Direct, Map, Owned, OwnedBy, PState, Path, Select, Set, Shape, Stored, Sub};
//! # enum Desk {}
//! # enum Other {}
//! # fn get<P: Select>(path: P) -> P::Out { todo!() }
//! # struct At<O>(std::marker::PhantomData<O>);
//! # impl<O> At<O> {
//! #     fn put<S: Stored, M: Direct, O2: OwnedBy<O>>(&self, path: Path<S, M, O2>, value: S::Value) {}
//! # }
//! # tidemill::key! { struct Account(u64); }
//! # struct NoSerde;
//! # fn module(
//! #     at: At<Desk>,
//! #     funds: Owned<Map<Account, i64>, Desk>,
//! #     tags: Owned<Map<Account, BTreeMap<String, u32>>, Desk>,
//! #     fans: Owned<Map<Account, Sub<Set<String>>>, Desk>,
//! #     bought: Owned<Map<String, Sub<Map<u64, i64>>>, Other>,
//! # ) {
//! let _ = at.put(fans.key(Account(1)), todo!());
//! # }
//! # fn main() {}
//! ```
//!
//! A PState of another topology written:
//!
//! ```compile_fail,E0277
//! # use std::collections::BTreeMap;
//! # use tidemill::schema::aggregate::{Count, Last, SetOf, Sum};
//! # use tidemill::schema::{Direct, Map, Owned, OwnedBy, PState, Path, Select, Set, Shape, Stored, Sub};
//! # enum Desk {}
//! # enum Other {}
//! # fn get<P: Select>(path: P) -> P::Out { todo!() }
//! # struct At<O>(std::marker::PhantomData<O>);
//! # impl<O> At<O> {
//! #     fn put<S: Stored, M: Direct, O2: OwnedBy<O>>(&self, path: Path<S, M, O2>, value: S::Value) {}
//! # }
//! # tidemill::key! { struct Account(u64); }
//! # struct NoSerde;
//! # fn module(
//! #     at: At<Desk>,
//! #     funds: Owned<Map<Account, i64>, Desk>,
//! #     tags: Owned<Map<Account, BTreeMap<String, u32>>, Desk>,
//! #     fans: Owned<Map<Account, Sub<Set<String>>>, Desk>,
//! #     bought: Owned<Map<String, Sub<Map<u64, i64>>>, Other>,
//! # ) {
//! at.put(bought.key("ann").key(4), 5);
//! # }
//! # fn main() {}
//! ```
//!
//! A PState written by a reader's token:
//!
//! ```compile_fail,E0277
//! # use std::collections::BTreeMap;
//! # use tidemill::schema::aggregate::{Count, Last, SetOf, Sum};
//! # use tidemill::schema::{Direct, Map, Owned, OwnedBy, PState, Path, Select, Set, Shape, Stored, Sub};
//! # enum Desk {}
//! # enum Other {}
//! # fn get<P: Select>(path: P) -> P::Out { todo!() }
//! # struct At<O>(std::marker::PhantomData<O>);
//! # impl<O> At<O> {
//! #     fn put<S: Stored, M: Direct, O2: OwnedBy<O>>(&self, path: Path<S, M, O2>, value: S::Value) {}
//! # }
//! # tidemill::key! { struct Account(u64); }
//! # struct NoSerde;
//! # fn module(
//! #     at: At<Desk>,
//! #     funds: Owned<Map<Account, i64>, Desk>,
//! #     tags: Owned<Map<Account, BTreeMap<String, u32>>, Desk>,
//! #     fans: Owned<Map<Account, Sub<Set<String>>>, Desk>,
//! #     bought: Owned<Map<String, Sub<Map<u64, i64>>>, Other>,
//! # ) {
//! at.put(funds.reader().key(Account(1)), 5);
//! # }
//! # fn main() {}
//! ```
//!
//! A range written:
//!
//! ```compile_fail,E0277
//! # use std::collections::BTreeMap;
//! # use tidemill::schema::aggregate::{Count, Last, SetOf, Sum};
//! # use tidemill::schema::{Direct, Map, Owned, OwnedBy, PState, Path, Select, Set, Shape, Stored, Sub};
//! # enum Desk {}
//! # enum Other {}
//! # fn get<P: Select>(path: P) -> P::Out { todo!() }
//! # struct At<O>(std::marker::PhantomData<O>);
//! # impl<O> At<O> {
//! #     fn put<S: Stored, M: Direct, O2: OwnedBy<O>>(&self, path: Path<S, M, O2>, value: S::Value) {}
//! # }
//! # tidemill::key! { struct Account(u64); }
//! # struct NoSerde;
//! # fn module(
//! #     at: At<Desk>,
//! #     funds: Owned<Map<Account, i64>, Desk>,
//! #     tags: Owned<Map<Account, BTreeMap<String, u32>>, Desk>,
//! #     fans: Owned<Map<Account, Sub<Set<String>>>, Desk>,
//! #     bought: Owned<Map<String, Sub<Map<u64, i64>>>, Other>,
//! # ) {
//! at.put(funds.range(..), todo!());
//! # }
//! # fn main() {}
//! ```
//!
//! A key after a range:
//!
//! ```compile_fail,E0277
//! # use std::collections::BTreeMap;
//! # use tidemill::schema::aggregate::{Count, Last, SetOf, Sum};
//! # use tidemill::schema::{Direct, Map, Owned, OwnedBy, PState, Path, Select, Set, Shape, Stored, Sub};
//! # enum Desk {}
//! # enum Other {}
//! # fn get<P: Select>(path: P) -> P::Out { todo!() }
//! # struct At<O>(std::marker::PhantomData<O>);
//! # impl<O> At<O> {
//! #     fn put<S: Stored, M: Direct, O2: OwnedBy<O>>(&self, path: Path<S, M, O2>, value: S::Value) {}
//! # }
//! # tidemill::key! { struct Account(u64); }
//! # struct NoSerde;
//! # fn module(
//! #     at: At<Desk>,
//! #     funds: Owned<Map<Account, i64>, Desk>,
//! #     tags: Owned<Map<Account, BTreeMap<String, u32>>, Desk>,
//! #     fans: Owned<Map<Account, Sub<Set<String>>>, Desk>,
//! #     bought: Owned<Map<String, Sub<Map<u64, i64>>>, Other>,
//! # ) {
//! let _ = bought.key("ann").all().key(5);
//! # }
//! # fn main() {}
//! ```
//!
//! A sum of another type:
//!
//! ```compile_fail,E0277
//! # use std::collections::BTreeMap;
//! # use tidemill::schema::aggregate::{Count, Last, SetOf, Sum};
//! # use tidemill::schema::{Direct, Map, Owned, OwnedBy, PState, Path, Select, Set, Shape, Stored, Sub};
//! # enum Desk {}
//! # enum Other {}
//! # fn get<P: Select>(path: P) -> P::Out { todo!() }
//! # struct At<O>(std::marker::PhantomData<O>);
//! # impl<O> At<O> {
//! #     fn put<S: Stored, M: Direct, O2: OwnedBy<O>>(&self, path: Path<S, M, O2>, value: S::Value) {}
//! # }
//! # tidemill::key! { struct Account(u64); }
//! # struct NoSerde;
//! # fn module(
//! #     at: At<Desk>,
//! #     funds: Owned<Map<Account, i64>, Desk>,
//! #     tags: Owned<Map<Account, BTreeMap<String, u32>>, Desk>,
//! #     fans: Owned<Map<Account, Sub<Set<String>>>, Desk>,
//! #     bought: Owned<Map<String, Sub<Map<u64, i64>>>, Other>,
//! # ) {
//! let _ = funds.key(Account(1)).add(Sum(7_u64));
//! # }
//! # fn main() {}
//! ```
//!
//! A sum into a `Sub`:
//!
//! ```compile_fail,E0277
//! # use std::collections::BTreeMap;
//! # use tidemill::schema::aggregate::{Count, Last, SetOf, Sum};
//! # use tidemill::schema::{Direct, Map, Owned, OwnedBy, PState, Path, Select, Set, Shape, Stored, Sub};
//! # enum Desk {}
//! # enum Other {}
//! # fn get<P: Select>(path: P) -> P::Out { todo!() }
//! # struct At<O>(std::marker::PhantomData<O>);
//! # impl<O> At<O> {
//! #     fn put<S: Stored, M: Direct, O2: OwnedBy<O>>(&self, path: Path<S, M, O2>, value: S::Value) {}
//! # }
//! # tidemill::key! { struct Account(u64); }
//! # struct NoSerde;
//! # fn module(
//! #     at: At<Desk>,
//! #     funds: Owned<Map<Account, i64>, Desk>,
//! #     tags: Owned<Map<Account, BTreeMap<String, u32>>, Desk>,
//! #     fans: Owned<Map<Account, Sub<Set<String>>>, Desk>,
//! #     bought: Owned<Map<String, Sub<Map<u64, i64>>>, Other>,
//! # ) {
//! let _ = bought.key("ann").add(Sum(7));
//! # }
//! # fn main() {}
//! ```
//!
//! Membership in a map:
//!
//! ```compile_fail,E0277
//! # use std::collections::BTreeMap;
//! # use tidemill::schema::aggregate::{Count, Last, SetOf, Sum};
//! # use tidemill::schema::{Direct, Map, Owned, OwnedBy, PState, Path, Select, Set, Shape, Stored, Sub};
//! # enum Desk {}
//! # enum Other {}
//! # fn get<P: Select>(path: P) -> P::Out { todo!() }
//! # struct At<O>(std::marker::PhantomData<O>);
//! # impl<O> At<O> {
//! #     fn put<S: Stored, M: Direct, O2: OwnedBy<O>>(&self, path: Path<S, M, O2>, value: S::Value) {}
//! # }
//! # tidemill::key! { struct Account(u64); }
//! # struct NoSerde;
//! # fn module(
//! #     at: At<Desk>,
//! #     funds: Owned<Map<Account, i64>, Desk>,
//! #     tags: Owned<Map<Account, BTreeMap<String, u32>>, Desk>,
//! #     fans: Owned<Map<Account, Sub<Set<String>>>, Desk>,
//! #     bought: Owned<Map<String, Sub<Map<u64, i64>>>, Other>,
//! # ) {
//! let _ = bought.key("ann").has(7);
//! # }
//! # fn main() {}
//! ```
//!
//! A token read without a path:
//!
//! ```compile_fail,E0277
//! # use std::collections::BTreeMap;
//! # use tidemill::schema::aggregate::{Count, Last, SetOf, Sum};
//! # use tidemill::schema::{Direct, Map, Owned, OwnedBy, PState, Path, Select, Set, Shape, Stored, Sub};
//! # enum Desk {}
//! # enum Other {}
//! # fn get<P: Select>(path: P) -> P::Out { todo!() }
//! # struct At<O>(std::marker::PhantomData<O>);
//! # impl<O> At<O> {
//! #     fn put<S: Stored, M: Direct, O2: OwnedBy<O>>(&self, path: Path<S, M, O2>, value: S::Value) {}
//! # }
//! # tidemill::key! { struct Account(u64); }
//! # struct NoSerde;
//! # fn module(
//! #     at: At<Desk>,
//! #     funds: Owned<Map<Account, i64>, Desk>,
//! #     tags: Owned<Map<Account, BTreeMap<String, u32>>, Desk>,
//! #     fans: Owned<Map<Account, Sub<Set<String>>>, Desk>,
//! #     bought: Owned<Map<String, Sub<Map<u64, i64>>>, Other>,
//! # ) {
//! let _ = get(bought);
//! # }
//! # fn main() {}
//! ```
//!
//! A PState of values that serde does not know:
//!
//! ```compile_fail,E0277
//! # use std::collections::BTreeMap;
//! # use tidemill::schema::aggregate::{Count, Last, SetOf, Sum};
//! # use tidemill::schema::{Direct, Map, Owned, OwnedBy, PState, Path, Select, Set, Shape, Stored, Sub};
//! # enum Desk {}
//! # enum Other {}
//! # fn get<P: Select>(path: P) -> P::Out { todo!() }
//! # struct At<O>(std::marker::PhantomData<O>);
//! # impl<O> At<O> {
//! #     fn put<S: Stored, M: Direct, O2: OwnedBy<O>>(&self, path: Path<S, M, O2>, value: S::Value) {}
//! # }
//! # tidemill::key! { struct Account(u64); }
//! # struct NoSerde;
//! # fn module(
//! #     at: At<Desk>,
//! #     funds: Owned<Map<Account, i64>, Desk>,
//! #     tags: Owned<Map<Account, BTreeMap<String, u32>>, Desk>,
//! #     fans: Owned<Map<Account, Sub<Set<String>>>, Desk>,
//! #     bought: Owned<Map<String, Sub<Map<u64, i64>>>, Other>,
//! # ) {
//! let _ = Shape::of::<Map<Account, NoSerde>>(todo!());
//! # }
//! # fn main() {}
//! ```
//!
//! A PState with keys that have no order:
//!
//! ```compile_fail,E0277
//! # use std::collections::BTreeMap;
//! # use tidemill::schema::aggregate::{Count, Last, SetOf, Sum};
//! # use tidemill::schema::{Direct, Map, Owned, OwnedBy, PState, Path, Select, Set, Shape, Stored, Sub};
//! # enum Desk {}
//! # enum Other {}
//! # fn get<P: Select>(path: P) -> P::Out { todo!() }
//! # struct At<O>(std::marker::PhantomData<O>);
//! # impl<O> At<O> {
//! #     fn put<S: Stored, M: Direct, O2: OwnedBy<O>>(&self, path: Path<S, M, O2>, value: S::Value) {}
//! # }
//! # tidemill::key! { struct Account(u64); }
//! # struct NoSerde;
//! # fn module(
//! #     at: At<Desk>,
//! #     funds: Owned<Map<Account, i64>, Desk>,
//! #     tags: Owned<Map<Account, BTreeMap<String, u32>>, Desk>,
//! #     fans: Owned<Map<Account, Sub<Set<String>>>, Desk>,
//! #     bought: Owned<Map<String, Sub<Map<u64, i64>>>, Other>,
//! # ) {
//! let _ = Shape::of::<Map<BTreeMap<u8, u8>, u8>>(todo!());
//! # }
//! # fn main() {}
//! ```
//!
//! A PState that is no collection:
//!
//! ```compile_fail,E0277
//! # use std::collections::BTreeMap;
//! # use tidemill::schema::aggregate::{Count, Last, SetOf, Sum};
//! # use tidemill::schema::{Direct, Map, Owned, OwnedBy, PState, Path, Select, Set, Shape, Stored, Sub};
//! # enum Desk {}
//! # enum Other {}
//! # fn get<P: Select>(path: P) -> P::Out { todo!() }
//! # struct At<O>(std::marker::PhantomData<O>);
//! # impl<O> At<O> {
//! #     fn put<S: Stored, M: Direct, O2: OwnedBy<O>>(&self, path: Path<S, M, O2>, value: S::Value) {}
//! # }
//! # tidemill::key! { struct Account(u64); }
//! # struct NoSerde;
//! # fn module(
//! #     at: At<Desk>,
//! #     funds: Owned<Map<Account, i64>, Desk>,
//! #     tags: Owned<Map<Account, BTreeMap<String, u32>>, Desk>,
//! #     fans: Owned<Map<Account, Sub<Set<String>>>, Desk>,
//! #     bought: Owned<Map<String, Sub<Map<u64, i64>>>, Other>,
//! # ) {
//! let _ = Shape::of::<i64>(todo!());
//! # }
//! # fn main() {}
//! ```
