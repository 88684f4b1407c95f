//! Values that lie deeper, and in collections that count.

use std::collections::{BTreeMap, BTreeSet};

use super::*;

kind! {
    from_maps: Map<String, BTreeMap<u64, u32>> => Map<String, Sub<Map<u64, String>>>,
    old: |at, s, op| at.put(s.key(op.key), BTreeMap::from([(op.a, 1), (op.b, 2)]))?,
    pstate_migrated: Migration::structure("by-key", |old: BTreeMap<u64, u32>, new| {
        old.into_iter().try_for_each(|(key, n)| new.put(new.key(key), n.to_string()))
    }),
    run: |at, s, op| {
        let here = s.key(&op.key);
        match op.what {
            What::First => {
                at.delete(here.clone())?;
                at.put(here.clone().key(op.a), "1".to_owned())?;
                at.put(here.clone().key(op.b), "2".to_owned())?;
            }
            What::Put | What::Update => at.put(here.clone().key(op.a), "new".to_owned())?,
            What::Delete => at.delete(here.clone().key(op.a))?,
            What::DeleteAll => at.delete(here.clone())?,
            What::DeleteRange => drop(at.remove_range(here.clone().range(op.a..op.b)).await?),
            What::Read => {}
        }
        let read = at.get((here.clone().key(op.b), here.clone().size(), here.all())).await?;
        (op.what == What::Read).then(|| format!("{read:?}"))
    },
    look: |engine, state, key| [state.key(key).all(), state.key(key).size()],
    all: []
}

kind! {
    from_sets: Map<String, BTreeSet<u64>> => Map<String, Sub<Set<u64>>>,
    old: |at, s, op| at.put(s.key(op.key), BTreeSet::from([op.a, op.b]))?,
    pstate_migrated: Migration::structure("one-by-one", |old: BTreeSet<u64>, new| {
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
            What::DeleteRange => drop(at.remove_range(here.clone().range(op.a..op.b)).await?),
            What::Read => {}
        }
        let read = at.get((here.clone().has(op.b), here.clone().size(), here.all())).await?;
        (op.what == What::Read).then(|| format!("{read:?}"))
    },
    look: |engine, state, key| [state.key(key).all(), state.key(key).size()],
    all: []
}

kind! {
    counted: Map<String, Sub<Map<u64, u32>>> => Map<String, Sub<Map<u64, String>>>,
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
            What::DeleteAll => {
                at.delete(here.clone())?;
                if op.b.is_multiple_of(2) {
                    at.put(here.clone().key(op.a), "again".to_owned())?;
                }
            }
            What::DeleteRange => drop(at.remove_range(here.clone().range(op.a..op.b)).await?),
            What::Read => {}
        }
        let read = at.get((here.clone().key(op.a), here.clone().size(), here.range(op.a..op.b))).await?;
        (op.what == What::Read).then(|| format!("{read:?}"))
    },
    look: |engine, state, key| [
        state.key(key).all(),
        state.key(key).size(),
        state.key(key).key(3),
        state.key(key).range(2..).limit(2),
        state.key(key).range(..4).reverse().limit(2)
    ],
    all: []
}

/// Three keys, of which nothing is counted.
type Plain<V> = Map<String, Sub<Map<u64, Sub<Map<u64, V>, Uncounted>>, Uncounted>>;

kind! {
    three_keys: Plain<u32> => Plain<String>,
    old: |at, s, op| at.put(s.key(op.key).key(op.a).key(op.b), 7)?,
    pstate_migrated_at of 3: Migration::values("texts", |n: u32| format!("was {n}")),
    run: |at, s, op| {
        let here = s.key(&op.key).key(op.a);
        match op.what {
            What::First => at.put(here.clone().key(op.b), "was 7".to_owned())?,
            What::Put => at.put(here.clone().key(op.b), "is".to_owned())?,
            What::Update => {
                at.update(here.clone().key(op.b), |old| Some(format!("{}+", old.unwrap_or_default()))).await?;
            }
            What::Delete => at.delete(here.clone().key(op.b))?,
            What::DeleteAll => at.delete(s.key(&op.key))?,
            What::DeleteRange => at.delete(here.clone())?,
            What::Read => {}
        }
        let read = at.get((here.clone().key(op.b), here.range(op.a..op.b))).await?;
        (op.what == What::Read).then(|| format!("{read:?}"))
    },
    look: |engine, state, key| [state.key(key).key(2).all(), state.key(key).key(3).range(..4).reverse()],
    all: []
}

/// Three keys, all of them counted.
type Deep<V> = Map<String, Sub<Map<u64, Sub<Map<u64, V>>>>>;

kind! {
    three_keys_counted: Deep<u32> => Deep<String>,
    old: |at, s, op| at.put(s.key(op.key).key(op.a % 3).key(op.b), 7)?,
    pstate_migrated_at of 3: Migration::values("texts", |n: u32| format!("was {n}")),
    run: |at, s, op| {
        let here = s.key(&op.key).key(op.a % 3);
        match op.what {
            What::First => at.put(here.clone().key(op.b), "was 7".to_owned())?,
            What::Put => at.put(here.clone().key(op.b), "is".to_owned())?,
            What::Update => {
                at.update(here.clone().key(op.b), |old| Some(format!("{}+", old.unwrap_or_default()))).await?;
            }
            What::Delete => {
                at.delete(here.clone().key(op.b))?;
                at.delete(here.clone().key(op.b + 1))?;
            }
            What::DeleteAll => at.delete(s.key(&op.key))?,
            What::DeleteRange if op.b.is_multiple_of(2) => at.delete(here.clone())?,
            What::DeleteRange => drop(at.remove_range(here.clone().range(..op.b)).await?),
            What::Read => {}
        }
        let sizes = (s.key(&op.key).size(), here.clone().size(), here.all());
        let read = at.get(sizes).await?;
        (op.what == What::Read).then(|| format!("{read:?}"))
    },
    look: |engine, state, key| [
        state.key(key).size(),
        state.key(key).key(0).size(),
        state.key(key).key(1).all(),
        state.key(key).key(2).range(..4).reverse()
    ],
    all: []
}

kind! {
    lists_in_counted: Map<String, Sub<Map<u64, Vec<u64>>>> => Map<String, Sub<Map<u64, Sub<List<u64>>>>>,
    old: |at, s, op| at.put(s.key(op.key).key(op.a % 3), vec![op.a, op.b])?,
    pstate_migrated_within: Migration::structure("lists", |old: Vec<u64>, new| {
        old.into_iter().try_for_each(|item| new.push(new.here(), item))
    }),
    run: |at, s, op| {
        let here = s.key(&op.key).key(op.a % 3);
        match op.what {
            What::First => {
                at.delete(here.clone())?;
                at.push(here.clone(), op.a).await?;
                at.push(here.clone(), op.b).await?;
            }
            What::Put => at.push(here.clone(), op.b).await?,
            What::Update => at.insert(here.clone(), 0, op.b).await?,
            What::Delete => {
                if at.get(here.clone().size()).await? > 0 {
                    at.remove(here.clone(), 0).await?;
                }
            }
            What::DeleteAll => at.delete(s.key(&op.key))?,
            What::DeleteRange => at.delete(here.clone())?,
            What::Read => {}
        }
        let read = at.get((s.key(&op.key).size(), here.clone().size(), here.all())).await?;
        (op.what == What::Read).then(|| format!("{read:?}"))
    },
    look: |engine, state, key| [state.key(key).size(), state.key(key).key(0).all(), state.key(key).key(1).size()],
    all: []
}

kind! {
    maps_in_counted: Map<String, Sub<Map<u64, Vec<u64>>>> => Deep<u64>,
    old: |at, s, op| at.put(s.key(op.key).key(op.a % 3), vec![op.a, op.b])?,
    pstate_migrated_within: Migration::structure("maps", |old: Vec<u64>, new| {
        old.into_iter().try_for_each(|key| new.put(new.key(key), 1))
    }),
    run: |at, s, op| {
        let here = s.key(&op.key).key(op.a % 3);
        match op.what {
            What::First => {
                at.delete(here.clone())?;
                at.put(here.clone().key(op.a), 1)?;
                at.put(here.clone().key(op.b), 1)?;
            }
            What::Put => at.put(here.clone().key(op.b), 2)?,
            What::Update => at.update(here.clone().key(op.b), |old| Some(old.unwrap_or(5) + 1)).await?,
            What::Delete => {
                at.delete(here.clone().key(op.a))?;
                at.delete(here.clone().key(op.b))?;
            }
            What::DeleteAll => at.delete(s.key(&op.key))?,
            What::DeleteRange if op.b.is_multiple_of(2) => at.delete(here.clone())?,
            What::DeleteRange => drop(at.remove_range(here.clone().range(..op.b)).await?),
            What::Read => {}
        }
        let read = at.get((s.key(&op.key).size(), here.clone().size(), here.all())).await?;
        (op.what == What::Read).then(|| format!("{read:?}"))
    },
    look: |engine, state, key| [state.key(key).size(), state.key(key).key(0).all(), state.key(key).key(1).size()],
    all: []
}

kind! {
    records_in_counted: Map<String, Sub<Map<u64, (u64, u64)>>> => Map<String, Sub<Map<u64, Account>>>,
    old: |at, s, op| at.put(s.key(op.key).key(op.a % 3), (op.a, op.b))?,
    pstate_migrated_within: Migration::structure("records", |(a, b): (u64, u64), new: &Fill<'_, Account>| {
        new.put(new.field(|it| it.total), a)?;
        new.put(new.field(|it| it.parts).key(b), 1)
    }),
    run: |at, s, op| {
        let here = s.key(&op.key).key(op.a % 3);
        let (total, parts) = (here.clone().field(|it| it.total), here.clone().field(|it| it.parts));
        match op.what {
            What::First => {
                at.delete(here)?;
                at.put(total.clone(), op.a)?;
                at.put(parts.clone().key(op.b), 1)?;
            }
            What::Put => at.put(parts.clone().key(op.a), op.b)?,
            What::Update => at.update(total.clone(), |old| Some(old.unwrap_or_default() + op.a)).await?,
            What::Delete => {
                at.delete(total.clone())?;
                at.delete(parts.clone().key(op.b))?;
            }
            What::DeleteAll => at.delete(s.key(&op.key))?,
            What::DeleteRange => at.delete(here)?,
            What::Read => {}
        }
        let read = at.get((s.key(&op.key).size(), total, parts.all())).await?;
        (op.what == What::Read).then(|| format!("{read:?}"))
    },
    look: |engine, state, key| [state.key(key).size(), state.key(key).key(0).field(|it| it.parts).all()],
    all: []
}

kind! {
    single single_counted: Single<Sub<Map<u64, u32>>> => Single<Sub<Map<u64, String>>>,
    old: |at, s, op| at.put(s.key(op.a), u32::try_from(op.b).unwrap())?,
    pstate_migrated_within: Migration::values("texts", |n: u32| format!("was {n}")),
    run: |at, s, op| {
        match op.what {
            What::First => at.put(s.key(op.a), format!("was {}", op.b))?,
            What::Put => at.put(s.key(op.a), format!("is {}", op.b))?,
            What::Update => at.update(s.key(op.a), |old| Some(format!("{}+", old.unwrap_or_default()))).await?,
            What::Delete => at.delete(s.key(op.a))?,
            What::DeleteAll => at.delete(s.whole())?,
            What::DeleteRange => drop(at.remove_range(s.range(op.a..op.b)).await?),
            What::Read => {}
        }
        let read = at.get((s.key(op.a), s.whole().size(), s.range(op.a..op.b))).await?;
        (op.what == What::Read).then(|| format!("{read:?}"))
    },
    look: |engine, state, key| [],
    all: [state.all(), state.whole().size(), state.range(..4).reverse().limit(2)]
}

/// A `Single` under two keys, both of them counted.
type SingleDeep<V> = Private<Single<Sub<Map<u64, Sub<Map<u64, V>>>>>>;

kind! {
    single single_two_keys: SingleDeep<u32> => SingleDeep<String>,
    old: |at, s, op| at.put(s.key(op.a % 3).key(op.b), 7)?,
    pstate_migrated_at of 2: Migration::values("texts", |n: u32| format!("was {n}")),
    run: |at, s, op| {
        let here = s.key(op.a % 3);
        match op.what {
            What::First => at.put(here.clone().key(op.b), "was 7".to_owned())?,
            What::Put | What::Update => at.put(here.clone().key(op.b), "is".to_owned())?,
            What::Delete => at.delete(here.clone().key(op.b))?,
            What::DeleteAll => at.delete(s.whole())?,
            What::DeleteRange => at.delete(here.clone())?,
            What::Read => {}
        }
        let read = at.get((s.whole().size(), here.clone().size(), here.all())).await?;
        (op.what == What::Read).then(|| format!("{read:?}"))
    },
    look: |engine, _state, key| [],
    all: []
}

#[test]
fn values_become_what_they_were_element_by_element() {
    agree(&from_maps());
    agree(&from_sets());
}

#[test]
fn values_in_a_map_that_counts_become_values() {
    agree(&counted());
    agree(&single_counted());
}

#[test]
fn values_under_three_keys_become_values() {
    agree(&three_keys());
    agree(&three_keys_counted());
    agree(&single_two_keys());
}

#[test]
fn values_in_a_map_that_counts_become_structures() {
    agree(&lists_in_counted());
    agree(&maps_in_counted());
    agree(&records_in_counted());
}
