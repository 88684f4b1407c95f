//! A module that migrates, beside one that has had the new form all along: whatever is asked of both, they
//! answer the same.

use serde::{Deserialize, Serialize};

use super::{Fill, Migration};
use crate::codec::{EncodeKey, Placement};
use crate::module::{self, Definition, Depot};
use crate::schema::{
    List, Map, PState, PlaceBy, Placed, Private, Schema, Set, Single, Sub, Uncounted,
};
use crate::testing::Harness;
use crate::types::PStateId;

mod local;

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Op {
    key: String,
    /// Of this record: what it reads is logged under it.
    number: u64,
    a: u64,
    b: u64,
    what: What,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
enum What {
    /// The only one of the first version: `a` and `b` are stored at `key`.
    First,
    Put,
    Update,
    Delete,
    DeleteAll,
    DeleteRange,
    Read,
}

/// What was read, by key and record.
type LogBy = Map<String, Sub<Map<u64, String>>>;

/// A `PState` that gets another type.
struct Kind {
    /// The module before.
    first: fn() -> (Depot<Op>, Definition),
    /// The module after, with a migration or as if there had never been anything else.
    next: fn(bool) -> Definition,
    /// All that can be selected, and what was read, as text.
    look: fn(&Harness) -> Vec<String>,
    /// Records of several partitions meet in one, where those of one microbatch come in any order: only one at a
    /// time comes in the same order to both modules.
    meets: bool,
}

/// `old`: how the first version stores two numbers at a key; `all`: selects of a key, or of everything.
/// `single`: where all of it lives in one partition, and so is logged there.
macro_rules! kind {
    (single $($rest:tt)*) => { kind! { @ [.global()], Single<Sub<LogBy>>, $($rest)* } };
    (@ [$($hop:tt)*], $log:ty, $name:ident: $before:ty => $after:ty,
     old: |$at0:ident, $s0:ident, $op0:ident| $old:expr,
     $declare:ident $(of $keys:literal)?: $migration:expr,
     run: |$at:ident, $s:ident, $op:ident| $run:expr,
     look: |$engine:ident, $state:ident, $key:ident| [$($look:expr),*],
     all: [$($all:expr),*]) => {
        fn $name() -> Kind {
            fn first() -> (Depot<Op>, Definition) {
                let defined = module::define("m", |m| {
                    let ops = m.depot::<Op>("ops").hash_by(|op| &op.key);
                    let t = m.microbatch(|| "t");
                    let s = t.pstate::<$before>("s");
                    t.source(ops)$($hop)*.using(s).for_each(async |$at0, $s0, $op0: Op| {
                        assert_eq!($op0.what, What::First);
                        Ok($old)
                    });
                    ops
                });
                defined.unwrap()
            }
            fn next(migrating: bool) -> Definition {
                let defined = module::define("m", |m| {
                    let ops = m.depot::<Op>("ops").hash_by(|op| &op.key);
                    let t = m.microbatch(|| "t");
                    let s = if migrating {
                        t.$declare::<$after, _ $(, $keys)?>("s", $migration)
                    } else {
                        t.pstate::<$after>("s")
                    };
                    let log = t.pstate::<$log>("log");
                    t.source(ops)$($hop)*.using((s, log)).for_each(async |$at, ($s, log), $op: Op| {
                        let (key, number) = ($op.key.clone(), $op.number);
                        let read: Option<String> = $run;
                        if let Some(read) = read {
                            $at.put(log.key(key).key(number), read)?;
                        }
                        Ok(())
                    });
                });
                defined.unwrap().1
            }
            fn look($engine: &Harness) -> Vec<String> {
                let $state = PState::<$after>::from_id(PStateId(0));
                let log = PState::<$log>::from_id(PStateId(1));
                let mut found = Vec::new();
                for $key in KEYS {
                    found.push(format!("{} {:?}", $key, $engine.select(log.key($key).all()).unwrap()));
                    $(found.push(format!("{} {:?}", $key, $engine.select($look).unwrap()));)*
                }
                $(found.push(format!("{:?}", $engine.select($all).unwrap()));)*
                found
            }
            Kind { first, next, look, meets: !stringify!($($hop)*).is_empty() }
        }
    };
    ($($rest:tt)*) => { kind! { @ [], LogBy, $($rest)* } };
}

mod deeper;

/// With some that other ones begin with, as far as a text can.
const KEYS: [&str; 7] = ["", "a", "a\0", "a\0\0", "a\u{1}", "ab", "b"];

fn nth_key(nth: u64) -> String {
    KEYS[usize::try_from(nth).unwrap()].to_owned()
}

kind! {
    values: Map<String, u32> => Map<String, String>,
    old: |at, s, op| at.put(s.key(op.key), u32::try_from(op.a).unwrap())?,
    pstate_migrated: Migration::values("texts", |n: u32| format!("was {n}")),
    run: |at, s, op| {
        let (from, to) = (nth_key(op.a), nth_key(op.b));
        match op.what {
            What::First => at.put(s.key(&op.key), format!("was {}", op.a))?,
            What::Put => at.put(s.key(&op.key), format!("is {}", op.a))?,
            What::Update => {
                at.update(s.key(&op.key), |old| Some(format!("{}+", old.unwrap_or_default()))).await?;
            }
            What::Delete | What::DeleteAll => at.delete(s.key(&op.key))?,
            What::DeleteRange => at.delete_range(s.range(from.clone()..to.clone()))?,
            What::Read => {}
        }
        let read = at.get((s.key(&op.key), s.key(&op.key))).await?;
        let some = at.get(s.range(from..to).reverse().limit(2)).await?;
        (op.what == What::Read).then(|| format!("{read:?} {some:?}"))
    },
    look: |engine, state, key| [state.key(key), state.range(key.to_owned()..).limit(2), state.range(..=key.to_owned()).reverse().limit(3)],
    all: [state.all(), state.all().keys().reverse()]
}

kind! {
    maps: Map<String, Vec<u64>> => Map<String, Sub<Map<u64, u64>>>,
    old: |at, s, op| at.put(s.key(op.key), vec![op.a, op.b])?,
    pstate_migrated: Migration::structure("one-by-one", |old: Vec<u64>, new| {
        (0..).zip(old).try_for_each(|(n, at)| new.put(new.key(at), n))
    }),
    run: |at, s, op| {
        let here = s.key(&op.key);
        match op.what {
            What::First => {
                at.delete(here.clone())?;
                at.put(here.clone().key(op.a), 0)?;
                at.put(here.clone().key(op.b), 1)?;
            }
            What::Put => at.put(here.clone().key(op.a), 100 + op.b)?,
            What::Update => at.update(here.clone().key(op.a), |old| Some(old.unwrap_or(50) + 1)).await?,
            What::Delete => at.delete(here.clone().key(op.a))?,
            What::DeleteAll => {
                at.put(here.clone().key(op.b), 7)?;
                at.delete(here.clone())?;
                if op.b.is_multiple_of(2) {
                    at.put(here.clone().key(op.a), 8)?;
                }
            }
            What::DeleteRange => {
                at.remove_range(here.clone().range(op.a..op.b)).await?;
            }
            What::Read => {}
        }
        if op.what == What::Read {
            let one = at.get(here.clone().key(op.a)).await?;
            let all = at.get(here.clone().all()).await?;
            Some(format!("{one:?} {all:?} {:?}", at.get(here.range(op.a..op.b)).await?))
        } else {
            None
        }
    },
    look: |engine, state, key| [state.key(key).all(), state.key(key).range(2..5).limit(2), state.key(key).key(3), state.key(key).all().reverse().limit(1), state.key(key).size()],
    all: []
}

kind! {
    sets: Map<String, Vec<u64>> => Map<String, Sub<Set<u64>>>,
    old: |at, s, op| at.put(s.key(op.key), vec![op.a, op.b])?,
    pstate_migrated: Migration::structure("sets", |old: Vec<u64>, new| {
        old.into_iter().try_for_each(|element| new.put(new.has(element), true))
    }),
    run: |at, s, op| {
        let here = s.key(&op.key);
        match op.what {
            What::First => {
                at.delete(here.clone())?;
                at.put(here.clone().has(op.a), true)?;
                at.put(here.clone().has(op.b), true)?;
            }
            What::Put | What::Update => at.put(here.clone().has(op.a), true)?,
            What::Delete => at.put(here.clone().has(op.a), false)?,
            What::DeleteAll => at.delete(here.clone())?,
            What::DeleteRange => {
                at.remove_range(here.clone().range(op.a..op.b)).await?;
            }
            What::Read => {}
        }
        let read = at.get((here.clone().has(op.a), here.clone().size(), here.all())).await?;
        (op.what == What::Read).then(|| format!("{read:?}"))
    },
    look: |engine, state, key| [state.key(key).all(), state.key(key).has(2), state.key(key).size()],
    all: []
}

kind! {
    lists: Map<String, Vec<u64>> => Map<String, Sub<List<u64>>>,
    old: |at, s, op| at.put(s.key(op.key), vec![op.a, op.b])?,
    pstate_migrated: Migration::structure("lists", |old: Vec<u64>, new| {
        old.into_iter().try_for_each(|item| new.push(new.here(), item))
    }),
    run: |at, s, op| {
        let here = s.key(&op.key);
        match op.what {
            What::First => {
                at.delete(here.clone())?;
                at.push(here.clone(), op.a).await?;
                at.push(here.clone(), op.b).await?;
            }
            What::Put => at.push(here.clone(), op.a).await?,
            What::Update => at.insert(here.clone(), 0, op.a).await?,
            What::Delete => {
                if at.get(here.clone().size()).await? > 0 {
                    at.remove(here.clone(), 0).await?;
                }
            }
            What::DeleteAll => at.delete(here.clone())?,
            What::DeleteRange | What::Read => {}
        }
        let read = (at.get(here.clone().size()).await?, at.get(here.all()).await?);
        (op.what == What::Read).then(|| format!("{read:?}"))
    },
    look: |engine, state, key| [state.key(key).all(), state.key(key).size()],
    all: []
}

type Round = Sub<Map<u64, u64>>;

kind! {
    rounds: Map<String, Vec<u64>> => Map<String, Sub<List<Round>>>,
    old: |at, s, op| at.put(s.key(op.key), vec![op.a, op.b])?,
    pstate_migrated: Migration::structure(
        "rounds",
        |old: Vec<u64>, new: &Fill<'_, Sub<List<Round>>>| {
            for item in old {
                let round = new.push_new(new.here())?;
                new.put(round.key(item), 1)?;
            }
            Ok(())
        },
    ),
    run: |at, s, op| {
        let here = s.key(&op.key);
        match op.what {
            What::First => {
                at.delete(here.clone())?;
                for item in [op.a, op.b] {
                    let round = at.push_new(here.clone()).await?;
                    at.put(round.key(item), 1)?;
                }
            }
            What::Put => {
                let round = at.push_new(here.clone()).await?;
                at.put(round.key(op.a), op.b)?;
            }
            What::Update => {
                if let Some(round) = at.nth(here.clone(), 0).await? {
                    at.put(round.key(op.b), op.a)?;
                }
            }
            What::Delete => {
                if at.get(here.clone().size()).await? > 0 {
                    at.remove(here.clone(), 0).await?;
                }
            }
            What::DeleteAll => at.delete(here.clone())?,
            What::DeleteRange => {
                let round = at.insert_new(here.clone(), 0).await?;
                at.put(round.key(op.b), op.a)?;
            }
            What::Read => {}
        }
        let read = (here.clone().size(), here.clone().nth(0).all(), here.nth(1).size());
        let read = at.get(read).await?;
        (op.what == What::Read).then(|| format!("{read:?}"))
    },
    look: |engine, state, key| [state.key(key).size(), state.key(key).nth(0).all(), state.key(key).nth(1).size(), state.key(key).nth(2).all()],
    all: []
}

#[derive(Schema)]
struct Account {
    total: u64,
    parts: Sub<Map<u64, u64>>,
}

kind! {
    records: Map<String, (u64, u64)> => Map<String, Account>,
    old: |at, s, op| at.put(s.key(op.key), (op.a, op.b))?,
    pstate_migrated: Migration::structure("records", |(a, b): (u64, u64), new: &Fill<'_, Account>| {
        new.put(new.field(|it| it.total), a)?;
        new.put(new.field(|it| it.parts).key(b), 1)
    }),
    run: |at, s, op| {
        let here = s.key(&op.key);
        let (total, parts) = (here.clone().field(|it| it.total), here.clone().field(|it| it.parts));
        match op.what {
            What::First => {
                at.delete(here)?;
                at.put(total.clone(), op.a)?;
                at.put(parts.clone().key(op.b), 1)?;
            }
            What::Put => at.put(parts.clone().key(op.a), op.b)?,
            What::Update => at.update(total.clone(), |old| Some(old.unwrap_or_default() + op.a)).await?,
            What::Delete => at.delete(total.clone())?,
            What::DeleteAll => at.delete(here)?,
            What::DeleteRange => at.delete(parts.clone())?,
            What::Read => {}
        }
        let read = at.get((total, parts.all())).await?;
        (op.what == What::Read).then(|| format!("{read:?}"))
    },
    look: |engine, state, key| [state.key(key).field(|it| it.total), state.key(key).field(|it| it.parts).all(), state.key(key).field(|it| it.parts).size()],
    all: []
}

kind! {
    nested: Map<String, Vec<u64>> => Map<String, Sub<Map<u64, Sub<List<u64>>>>>,
    old: |at, s, op| at.put(s.key(op.key), vec![op.a, op.b])?,
    pstate_migrated: Migration::structure("nested", |old: Vec<u64>, new| {
        old.into_iter().try_for_each(|item| new.push(new.key(item % 2), item))
    }),
    run: |at, s, op| {
        let list = s.key(&op.key).key(op.a % 2);
        match op.what {
            What::First => {
                at.delete(s.key(&op.key))?;
                at.push(s.key(&op.key).key(op.a % 2), op.a).await?;
                at.push(s.key(&op.key).key(op.b % 2), op.b).await?;
            }
            What::Put => at.push(list.clone(), op.a).await?,
            What::Update => at.insert(list.clone(), 0, op.b).await?,
            What::Delete | What::DeleteRange => at.delete(list.clone())?,
            What::DeleteAll => at.delete(s.key(&op.key))?,
            What::Read => {}
        }
        let read = at.get(list.all()).await?;
        (op.what == What::Read).then(|| format!("{read:?}"))
    },
    look: |engine, state, key| [state.key(key).key(0).all(), state.key(key).key(1).size(), state.key(key).size()],
    all: []
}

kind! {
    within: Map<String, Sub<Map<u64, u32>, Uncounted>> => Map<String, Sub<Map<u64, String>, Uncounted>>,
    old: |at, s, op| at.put(s.key(op.key).key(op.a), u32::try_from(op.b).unwrap())?,
    pstate_migrated_within: Migration::values("texts", |n: u32| format!("was {n}")),
    run: |at, s, op| {
        let here = s.key(&op.key);
        match op.what {
            What::First => at.put(here.clone().key(op.a), format!("was {}", op.b))?,
            What::Put => at.put(here.clone().key(op.a), format!("is {}", op.b))?,
            What::Update => {
                at.update(here.clone().key(op.a), |old| Some(format!("{}+", old.unwrap_or_default()))).await?;
            }
            What::Delete => at.delete(here.clone().key(op.a))?,
            What::DeleteAll => at.delete(here.clone())?,
            What::DeleteRange => at.delete_range(here.clone().range(op.a..op.b))?,
            What::Read => {}
        }
        let read = at.get((here.clone().key(op.a), here.range(op.a..op.b))).await?;
        (op.what == What::Read).then(|| format!("{read:?}"))
    },
    look: |engine, state, key| [state.key(key).all(), state.key(key).key(3), state.key(key).range(..4).reverse().limit(2)],
    all: []
}

kind! {
    structures_within: Map<String, Sub<Map<u64, Vec<u64>>, Uncounted>> => Map<String, Sub<Map<u64, Sub<Map<u64, u64>>>, Uncounted>>,
    old: |at, s, op| at.put(s.key(op.key).key(op.a), vec![op.b])?,
    pstate_migrated_within: Migration::structure("maps", |old: Vec<u64>, new| {
        old.into_iter().try_for_each(|at| new.put(new.key(at), 1))
    }),
    run: |at, s, op| {
        let here = s.key(&op.key).key(op.a);
        match op.what {
            What::First => {
                at.delete(here.clone())?;
                at.put(here.clone().key(op.b), 1)?;
            }
            What::Put => at.put(here.clone().key(op.b), 9)?,
            What::Update => at.update(here.clone().key(op.b), |old| Some(old.unwrap_or(50) + 1)).await?,
            What::Delete => at.delete(here.clone().key(op.b))?,
            What::DeleteAll => at.delete(s.key(&op.key))?,
            What::DeleteRange => at.delete(here.clone())?,
            What::Read => {}
        }
        let read = at.get(here.all()).await?;
        (op.what == What::Read).then(|| format!("{read:?}"))
    },
    look: |engine, state, key| [state.key(key).key(2).all(), state.key(key).key(3).size()],
    all: []
}

/// Places keys as they are placed without it.
enum Itself {}

impl PlaceBy<String> for Itself {
    const NAME: &'static str = "itself";

    fn by(key: &String) -> impl EncodeKey {
        key
    }
}

kind! {
    placed: Placed<Map<String, u32>, Itself> => Placed<Map<String, String>, Itself>,
    old: |at, s, op| at.put(s.key(op.key), u32::try_from(op.a).unwrap())?,
    pstate_migrated: Migration::values("texts", |n: u32| format!("was {n}")),
    run: |at, s, op| {
        match op.what {
            What::First => at.put(s.key(&op.key), format!("was {}", op.a))?,
            What::Put => at.put(s.key(&op.key), format!("is {}", op.a))?,
            What::Update => {
                at.update(s.key(&op.key), |old| Some(format!("{}+", old.unwrap_or_default()))).await?;
            }
            What::Delete | What::DeleteAll => at.delete(s.key(&op.key))?,
            What::DeleteRange | What::Read => {}
        }
        let read = at.get(s.key(&op.key)).await?;
        (op.what == What::Read).then(|| format!("{read:?}"))
    },
    look: |engine, state, key| [state.key(key)],
    all: [state.all()]
}

kind! {
    private_within: Private<Map<String, Sub<Map<u64, u32>, Uncounted>>> => Private<Map<String, Sub<Map<u64, String>, Uncounted>>>,
    old: |at, s, op| at.put(s.key(op.key).key(op.a), u32::try_from(op.b).unwrap())?,
    pstate_migrated_within: Migration::values("texts", |n: u32| format!("was {n}")),
    run: |at, s, op| {
        let here = s.key(&op.key);
        match op.what {
            What::First => at.put(here.clone().key(op.a), format!("was {}", op.b))?,
            What::Put | What::Update => at.put(here.clone().key(op.a), format!("is {}", op.b))?,
            What::Delete => at.delete(here.clone().key(op.a))?,
            What::DeleteAll => at.delete(here.clone())?,
            What::DeleteRange => at.delete_range(here.clone().range(op.a..op.b))?,
            What::Read => {}
        }
        let read = at.get((here.clone().key(op.a), here.range(op.a..op.b))).await?;
        (op.what == What::Read).then(|| format!("{read:?}"))
    },
    // Clients do not see it: what is read is in the log.
    look: |engine, _state, key| [],
    all: []
}

kind! {
    single single_value: Single<u64> => Single<String>,
    old: |at, s, op| at.put(s.whole(), op.a)?,
    pstate_migrated: Migration::values("text", |n: u64| format!("was {n}")),
    run: |at, s, op| {
        match op.what {
            What::First => at.put(s.whole(), format!("was {}", op.a))?,
            What::Put => at.put(s.whole(), format!("is {}", op.a))?,
            What::Update => at.update(s.whole(), |old| Some(format!("{}+", old.unwrap_or_default()))).await?,
            What::Delete | What::DeleteAll => at.delete(s.whole())?,
            What::DeleteRange | What::Read => {}
        }
        let read = at.get(s.whole()).await?;
        (op.what == What::Read).then(|| format!("{read:?}"))
    },
    look: |engine, state, key| [],
    all: [state.whole()]
}

kind! {
    single single_list: Single<Vec<u64>> => Single<Sub<List<u64>>>,
    old: |at, s, op| at.put(s.whole(), vec![op.a, op.b])?,
    pstate_migrated: Migration::structure("list", |old: Vec<u64>, new| {
        old.into_iter().try_for_each(|item| new.push(new.here(), item))
    }),
    run: |at, s, op| {
        match op.what {
            What::First => {
                at.delete(s.whole())?;
                at.push(s.whole(), op.a).await?;
                at.push(s.whole(), op.b).await?;
            }
            What::Put => at.push(s.whole(), op.a).await?,
            What::Update => at.insert(s.whole(), 0, op.a).await?,
            What::Delete => {
                if at.get(s.whole().size()).await? > 0 {
                    at.remove(s.whole(), 0).await?;
                }
            }
            What::DeleteAll => at.delete(s.whole())?,
            What::DeleteRange | What::Read => {}
        }
        let read = (at.get(s.whole().size()).await?, at.get(s.whole().all()).await?);
        (op.what == What::Read).then(|| format!("{read:?}"))
    },
    look: |engine, state, key| [],
    all: [state.whole().all(), state.whole().size()]
}

kind! {
    single single_within: Single<Sub<Map<u64, u32>, Uncounted>> => Single<Sub<Map<u64, String>, Uncounted>>,
    old: |at, s, op| at.put(s.key(op.a), u32::try_from(op.b).unwrap())?,
    pstate_migrated_within: Migration::values("texts", |n: u32| format!("was {n}")),
    run: |at, s, op| {
        match op.what {
            What::First => at.put(s.key(op.a), format!("was {}", op.b))?,
            What::Put => at.put(s.key(op.a), format!("is {}", op.b))?,
            What::Update => at.update(s.key(op.a), |old| Some(format!("{}+", old.unwrap_or_default()))).await?,
            What::Delete => at.delete(s.key(op.a))?,
            What::DeleteAll => at.delete(s.whole())?,
            What::DeleteRange => at.delete_range(s.range(op.a..op.b))?,
            What::Read => {}
        }
        let read = at.get((s.key(op.a), s.range(op.a..op.b))).await?;
        (op.what == What::Read).then(|| format!("{read:?}"))
    },
    look: |engine, state, key| [],
    all: [state.all(), state.range(..4).reverse().limit(2)]
}

struct Draw(u64);

impl Draw {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = Placement::of(&self.0.to_le_bytes()).hash();
        (self.0 >> 20) % end
    }

    fn op(&mut self, number: u64, what: What) -> Op {
        let key = KEYS[usize::try_from(self.below(KEYS.len() as u64)).unwrap()].to_owned();
        Op { key, number, a: self.below(7), b: self.below(7), what }
    }
}

/// Runs both modules over the same random records, and compares them after every microbatch.
fn agree(kind: &Kind) {
    for seed in 0..24 {
        let (ops, first) = (kind.first)();
        let mut draw = Draw(seed);
        let mut old = Harness::new(first, 4).unwrap();
        let mut new = Harness::new((kind.next)(false), 4).unwrap();
        for number in 0..draw.below(16) {
            let op = draw.op(number, What::First);
            old.append(ops, &op).unwrap();
            new.append(ops, &op).unwrap();
            // One after the other, as the first version puts what it is given.
            old.run().unwrap();
            new.run().unwrap();
        }
        let step = usize::try_from(draw.below(3)).unwrap();
        let mut old = old.relaunch((kind.next)(true)).unwrap().moving(step);
        old = match seed % 3 {
            0 => old.cold(),
            1 => old.forgetful(),
            _ => old,
        };
        if seed % 4 < 2 {
            old = old.batches_of(if seed % 4 == 0 { 1 } else { 2 });
        }
        let compare = |old: &Harness, new: &Harness, when: &str| {
            assert_eq!((kind.look)(old), (kind.look)(new), "seed {seed}, {when}");
        };
        compare(&old, &new, "at the launch");
        for round in 0..8 {
            for nth in 0..draw.below(6) {
                let what = [
                    What::Put,
                    What::Update,
                    What::Delete,
                    What::DeleteAll,
                    What::DeleteRange,
                    What::Read,
                ];
                let what = what[usize::try_from(draw.below(6)).unwrap()];
                if kind.meets {
                    old.run().unwrap();
                    new.run().unwrap();
                }
                let op = draw.op(100 * (round + 1) + nth, what);
                old.append(ops, &op).unwrap();
                new.append(ops, &op).unwrap();
            }
            if draw.below(4) == 0 {
                // A microbatch that fails leaves nothing behind, neither of events nor of a step.
                old.fail_after(usize::try_from(draw.below(30)).unwrap());
                let before = old.dump();
                if old.run().is_err() {
                    assert_eq!(old.dump(), before);
                }
                old.fail_after(usize::MAX);
            }
            old.run().unwrap();
            new.run().unwrap();
            compare(&old, &new, &format!("after round {round}"));
            if draw.below(5) == 0 {
                old = old.relaunch((kind.next)(true)).unwrap();
            }
        }
        old = old.moving(1);
        for _ in 0..40 {
            old.run().unwrap();
            compare(&old, &new, "at the end");
        }
        assert!(old.is_migrated(), "seed {seed}");
        assert_eq!(old.dump(), new.dump(), "seed {seed}");
        // Declared or not, nothing more comes of it.
        let old = old.relaunch((kind.next)(true)).unwrap();
        assert!(old.is_migrated());
        assert_eq!(old.relaunch((kind.next)(false)).unwrap().dump(), new.dump());
    }
}

#[test]
fn values_become_values() {
    agree(&values());
}

#[test]
fn values_become_maps() {
    agree(&maps());
}

#[test]
fn values_become_sets() {
    agree(&sets());
}

#[test]
fn values_become_lists() {
    agree(&lists());
}

#[test]
fn values_become_lists_of_collections() {
    agree(&rounds());
}

#[test]
fn values_become_records() {
    agree(&records());
}

#[test]
fn values_become_structures_of_structures() {
    agree(&nested());
}

#[test]
fn values_in_maps_become_values() {
    agree(&within());
}

#[test]
fn values_in_maps_become_maps() {
    agree(&structures_within());
}

#[test]
fn where_keys_are_placed_changes_nothing() {
    agree(&placed());
    agree(&private_within());
}

#[test]
fn what_lives_in_one_partition_migrates_as_a_whole_or_by_key() {
    agree(&single_value());
    agree(&single_list());
    agree(&single_within());
}
