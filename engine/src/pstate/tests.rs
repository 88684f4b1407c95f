use std::collections::BTreeMap;
use std::ops::{Bound, ControlFlow};
use std::rc::Rc;

use super::*;
use crate::env::memory::{MemoryDisk, run};

type Model = BTreeMap<(PStateId, Vec<u8>), Vec<u8>>;

mod crash;
mod damage;
mod format;
mod held;
mod history;
mod space;

const DIR: &str = "p/3";
const PATH: &str = "p/3/pages";
const PARTITION: PartitionId = PartitionId(3);
const LEDGER: TopologyId = TopologyId(1);

/// A stream of chance of its own, so that what happens does not depend on how the store uses `env`'s.
struct Chance(u64);

impl Chance {
    fn below(&mut self, end: u64) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % end
    }

    fn pstate(&mut self) -> PStateId {
        PStateId(u32::try_from(self.below(3)).unwrap())
    }

    fn key(&mut self, shape: &Shape) -> Vec<u8> {
        let number = self.below(shape.keys);
        let mut key = match number % 7 {
            0 => vec![],
            1 => b"account/".to_vec(),
            _ => b"account/history/of/".to_vec(),
        };
        key.extend_from_slice(&number.to_be_bytes()[5..]);
        if number.is_multiple_of(11) {
            key.resize(key.len() + usize::try_from(number % 900).unwrap(), b'x');
        }
        if number.is_multiple_of(13) {
            key.truncate(usize::try_from(number % 9).unwrap());
        }
        key
    }

    fn value(&mut self, shape: &Shape) -> Vec<u8> {
        let len = match self.below(40) {
            0 => self.below(shape.value_max),
            1..10 => self.below(900),
            _ => self.below(40),
        };
        let fill = u8::try_from(self.below(256)).unwrap();
        (0..len).map(|at| fill.wrapping_add(at.to_le_bytes()[0])).collect()
    }
}

struct Shape {
    keys: u64,
    value_max: u64,
    cache_bytes: u64,
    rounds: u64,
    writes: u64,
}

fn apply(model: &mut Model, run: &Run) {
    for write in run.iter() {
        match write {
            Write::DeleteRange { pstate, from, to } => model.retain(|(of, key), _| {
                *of != pstate || &**key < from || to.is_some_and(|to| &**key >= to)
            }),
            Write::Put { pstate, key, value } => {
                model.insert((pstate, key.to_vec()), value.to_vec());
            }
            Write::Delete { pstate, key } => {
                model.remove(&(pstate, key.to_vec()));
            }
        }
    }
}

/// The page file is sound.
fn sound(disk: &MemoryDisk) -> Verified {
    let verified = verify(&disk.contents(PATH).unwrap(), Some(PARTITION));
    assert_eq!(verified.findings, []);
    verified
}

/// Random writes, and the same writes in a naive model, so that the set's own rules are tested too.
fn write_set(chance: &mut Chance, shape: &Shape, model: &mut Model) -> WriteSet {
    let mut set = WriteSet::default();
    for _ in 0..chance.below(shape.writes) {
        let pstate = chance.pstate();
        let key = chance.key(shape);
        match chance.below(60) {
            0 => {
                let to = Some(chance.key(shape)).filter(|_| chance.below(20) > 0);
                set.delete_range(pstate, &key, to.as_deref());
                model.retain(|(of, other), _| {
                    *of != pstate || *other < key || to.as_ref().is_some_and(|to| other >= to)
                });
            }
            1..15 => {
                set.delete(pstate, &key);
                model.remove(&(pstate, key));
            }
            _ => {
                let value = chance.value(shape);
                set.put(pstate, &key, &value);
                model.insert((pstate, key), value);
            }
        }
    }
    set
}

async fn scan_all(
    store: &Store,
    view: &View<'_>,
    pstate: PStateId,
    range: KeyRange<'_>,
    direction: Direction,
    limit: usize,
) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut found = Vec::new();
    let visited = store
        .scan(view, pstate, range, direction, limit, |key, value| {
            found.push((key.to_vec(), value.to_vec()));
            ControlFlow::Continue(())
        })
        .await
        .unwrap();
    assert_eq!(visited, found.len());
    found
}

async fn compare(
    store: &Store,
    view: &View<'_>,
    model: &Model,
    chance: &mut Chance,
    shape: &Shape,
) {
    for _ in 0..30 {
        let (pstate, key) = (chance.pstate(), chance.key(shape));
        let found = store.read(view, pstate, &key, |value| value.map(<[u8]>::to_vec)).await;
        assert!(found.unwrap().as_ref() == model.get(&(pstate, key.clone())), "{pstate} {key:?}");
    }
    let pstate = chance.pstate();
    let (a, b) = (chance.key(shape), chance.key(shape));
    let (a, b) = if a <= b { (a, b) } else { (b, a) };
    let from = [Bound::Unbounded, Bound::Included(&*a), Bound::Excluded(&*a)]
        [usize::try_from(chance.below(3)).unwrap()];
    let to = [Bound::Unbounded, Bound::Included(&*b), Bound::Excluded(&*b)]
        [usize::try_from(chance.below(3)).unwrap()];
    let inside = |key: &Vec<u8>| {
        (match from {
            Bound::Unbounded => true,
            Bound::Included(from) => &**key >= from,
            Bound::Excluded(from) => &**key > from,
        }) && (match to {
            Bound::Unbounded => true,
            Bound::Included(to) => &**key <= to,
            Bound::Excluded(to) => &**key < to,
        })
    };
    let mut expected: Vec<(Vec<u8>, Vec<u8>)> = model
        .iter()
        .filter(|((of, key), _)| *of == pstate && inside(key))
        .map(|((_, key), value)| (key.clone(), value.clone()))
        .collect();
    let limit = if chance.below(2) == 0 { usize::MAX } else { 10 };
    let range = KeyRange { from, to };
    let found = scan_all(store, view, pstate, range, Direction::Forward, limit).await;
    // Compared without printing: values are long.
    assert!(found.iter().eq(expected.iter().take(limit)), "{range:?} up to {limit}");
    expected.reverse();
    let found = scan_all(store, view, pstate, range, Direction::Backward, limit).await;
    assert!(found.iter().eq(expected.iter().take(limit)), "{range:?} down to {limit}");
}

/// Two ids in flight, aborts, folds and reopens in random order, against ordered maps.
async fn against_model(env: Env, disk: MemoryDisk, seed: u64, shape: Shape) {
    let mut chance = Chance(seed);
    let mut visible = Model::new();
    let mut folded = Model::new();
    let mut stacked: Vec<(MicrobatchId, Rc<Run>, Model)> = Vec::new();
    let mut cache = Cache::new(shape.cache_bytes);
    let (mut store, opened) = Store::open(&env, &cache, DIR, PARTITION, Index(1)).await.unwrap();
    assert_eq!(opened, Opened { covers: Index(0), pending: vec![], fold: 0, damaged: None });
    // Visible, and still on the stack.
    let mut shown: Vec<MicrobatchId> = Vec::new();
    let (mut id, mut covers) = (MicrobatchId(0), Index(0));
    for round in 0..shape.rounds {
        match chance.below(10) {
            0..5 if stacked.len() < 2 => {
                let mut model = stacked.last().map_or(&visible, |(_, _, model)| model).clone();
                let base = stacked.last().map_or(MicrobatchId(0), |(id, _, _)| *id);
                let set = write_set(&mut chance, &shape, &mut model);
                let view = View::through(LEDGER, base, Some(&set));
                compare(&store, &view, &model, &mut chance, &shape).await;
                let run = set.seal();
                let mut bytes = Vec::new();
                run.encode(&mut bytes);
                assert_eq!(bytes.len(), run.encoded_bytes());
                let run = Rc::new(Run::decode(&bytes).unwrap());
                let mut check = stacked.last().map_or(&visible, |(_, _, model)| model).clone();
                apply(&mut check, &run);
                assert!(check == model);
                id = id.next();
                store.stack(LEDGER, id, Rc::clone(&run));
                stacked.push((id, run, model));
            }
            0..7 if !stacked.is_empty() => {
                let (id, _, model) = stacked.remove(0);
                if chance.below(2) == 0 {
                    store.show(LEDGER, id);
                    shown.push(id);
                } else {
                    shown.drain(..).for_each(|id| store.merge(LEDGER, id));
                    store.merge(LEDGER, id);
                }
                visible = model;
            }
            7 if !stacked.is_empty() => {
                let (id, _, _) = stacked.pop().unwrap();
                store.unstack(LEDGER, id);
            }
            8 => {
                shown.drain(..).for_each(|id| store.merge(LEDGER, id));
                covers = Index(round + 1);
                let pending: Vec<Index> = (0..chance.below(3)).map(|n| Index(n + 1)).collect();
                let pending: Vec<Index> = pending.into_iter().filter(|p| *p <= covers).collect();
                let report = store.fold(covers, &pending).await.unwrap();
                assert!(report.fold > 0);
                let verified = sound(&disk);
                assert_eq!((verified.covers, &verified.pending), (covers, &pending));
                assert_eq!(verified.pages_live, report.pages_live);
                assert_eq!(store.memtable_bytes(), 0);
                folded = visible.clone();
            }
            9 if chance.below(3) == 0 => {
                drop(store);
                assert_eq!(cache.counts().bytes, 0);
                cache = Cache::new(shape.cache_bytes);
                let open = Store::open(&env, &cache, DIR, PARTITION, Index(1)).await.unwrap();
                store = open.0;
                assert_eq!(open.1.covers, covers);
                stacked.clear();
                shown.clear();
                visible = folded.clone();
            }
            _ => {}
        }
        compare(&store, &View::visible(), &visible, &mut chance, &shape).await;
        for (id, _, model) in &stacked {
            let view = View::through(LEDGER, *id, None);
            compare(&store, &view, model, &mut chance, &shape).await;
        }
    }
    shown.drain(..).for_each(|id| store.merge(LEDGER, id));
    store.fold(Index(shape.rounds), &[]).await.unwrap();
    for tree in store.trees() {
        let count = visible.keys().filter(|(pstate, _)| *pstate == tree.pstate).count();
        assert_eq!(tree.entries, count as u64);
    }
}

/// Makes writes visible, as the next id of a topology.
fn write(store: &Store, id: u64, fill: impl FnOnce(&mut WriteSet)) {
    let mut set = WriteSet::default();
    fill(&mut set);
    store.stack(LEDGER, MicrobatchId(id), Rc::new(set.seal()));
    store.merge(LEDGER, MicrobatchId(id));
}

async fn value(store: &Store, pstate: PStateId, key: &[u8]) -> Option<Vec<u8>> {
    store.read(&View::visible(), pstate, key, |value| value.map(<[u8]>::to_vec)).await.unwrap()
}

/// Opens with a cache of its own.
async fn open(env: &Env, journal_from: Index) -> Result<(Store, Opened), Error> {
    Store::open(env, &Cache::new(1 << 20), DIR, PARTITION, journal_from).await
}

#[test]
fn agrees_with_ordered_maps() {
    for seed in 0..12 {
        let shape = Shape {
            keys: [200, 3_000, 20_000][usize::try_from(seed % 3).unwrap()],
            value_max: [2_000, 20_000, 700_000][usize::try_from(seed / 3 % 3).unwrap()],
            cache_bytes: [20_000, 100_000, 10_000_000][usize::try_from(seed % 3).unwrap()],
            rounds: 60,
            writes: 400,
        };
        let disk = MemoryDisk::new();
        let same = disk.clone();
        run(&disk, move |env| against_model(env, same, seed, shape));
    }
}
