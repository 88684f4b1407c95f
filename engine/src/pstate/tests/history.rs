//! Older ids, against a map of versions: whatever is merged, folded, dropped and reopened, a read at an id
//! gives what was there at that id, or is refused; and is never refused while the id is pinned.

use std::time::Duration;

use futures_util::future::join;

use super::*;
use crate::types::Time;

/// Each `PState` has one writer.
const OWNERS: [TopologyId; 3] = [TopologyId(1), TopologyId(2), TopologyId(2)];
const TOPOLOGIES: [TopologyId; 2] = [TopologyId(1), TopologyId(2)];

type At = (TopologyId, MicrobatchId);

/// Longer than any test.
const FOR_EVER: Duration = Duration::from_hours(1);

/// A store and what is known of it.
struct Tested {
    env: Env,
    shape: Shape,
    store: RefCell<Store>,
    chance: RefCell<Chance>,
    /// What each topology's `PState`s hold at each id, 0 included.
    versions: RefCell<BTreeMap<At, Rc<Model>>>,
    /// What each id wrote; those that were aborted are not among them.
    runs: RefCell<BTreeMap<At, Rc<Run>>>,
    /// Prepared or visible, and not merged.
    stacked: RefCell<BTreeMap<At, Rc<Run>>>,
    /// Merged, and not in the trees yet.
    unfolded: RefCell<BTreeMap<At, Rc<Run>>>,
    visible: RefCell<BTreeMap<TopologyId, MicrobatchId>>,
    /// Below these, what was kept was lost.
    lost: RefCell<BTreeMap<TopologyId, MicrobatchId>>,
    /// Ids that are held, and whether they must be readable.
    pins: RefCell<Vec<(At, bool)>>,
    window: Duration,
    now: Cell<Time>,
    covers: Cell<Index>,
    counts: RefCell<Counts>,
}

impl Tested {
    fn count(&self, what: &'static str) {
        *self.counts.borrow_mut().entry(what).or_default() += 1;
    }

    /// What was kept for readers of older ids may be gone.
    fn lose(&self, why: &'static str) {
        self.pins.borrow_mut().iter_mut().for_each(|(_, held)| *held = false);
        self.lost.borrow_mut().clone_from(&self.visible.borrow());
        self.count(why);
    }

    fn below(&self, end: u64) -> u64 {
        self.chance.borrow_mut().below(end)
    }

    fn store(&self) -> Store {
        self.store.borrow().clone()
    }

    fn visible(&self, topology: TopologyId) -> MicrobatchId {
        self.visible.borrow().get(&topology).copied().unwrap_or_default()
    }

    fn wanted(&self, topology: TopologyId) -> Wanted {
        let pins = self.pins.borrow();
        let own = pins.iter().filter(|((it, _), held)| *it == topology && *held);
        Wanted {
            pins: own.map(|((_, id), _)| *id).collect(),
            window: self.window,
            now: self.now.get(),
        }
    }

    fn last(&self, topology: TopologyId) -> MicrobatchId {
        let stacked = self.stacked.borrow();
        let own = stacked.keys().filter(|(it, _)| *it == topology).map(|(_, id)| *id).max();
        own.unwrap_or_default().max(self.visible(topology))
    }

    fn version(&self, (topology, id): At) -> Rc<Model> {
        let versions = self.versions.borrow();
        let all = (topology, MicrobatchId(0))..=(topology, id);
        versions.range(all).next_back().map(|(_, rows)| Rc::clone(rows)).unwrap_or_default()
    }

    /// One change that a shard makes at any time.
    fn change(&self) {
        self.now.set(self.now.get().after(Duration::from_millis(1)));
        let topology = TOPOLOGIES[usize::try_from(self.below(2)).unwrap()];
        let (visible, last) = (self.visible(topology), self.last(topology));
        let store = self.store();
        match self.below(12) {
            0..6 if last.0 < visible.0 + 2 => {
                // Some ids leave this partition alone.
                let id = MicrobatchId(last.0 + 1 + self.below(2));
                let mut rows = (*self.version((topology, last))).clone();
                let run = Rc::new(self.run(topology, &mut rows));
                store.stack(topology, id, Rc::clone(&run));
                self.runs.borrow_mut().insert((topology, id), Rc::clone(&run));
                self.stacked.borrow_mut().insert((topology, id), run);
                self.versions.borrow_mut().insert((topology, id), Rc::new(rows));
                self.count("prepared");
            }
            6 if last > visible => {
                store.unstack(topology, last);
                self.stacked.borrow_mut().remove(&(topology, last));
                self.versions.borrow_mut().remove(&(topology, last));
                self.runs.borrow_mut().remove(&(topology, last));
                self.count("aborted");
            }
            7..9 if last > visible => {
                let above = (topology, visible.next())..;
                let id = self.stacked.borrow().range(above).next().unwrap().0.1;
                store.show(topology, id);
                self.visible.borrow_mut().insert(topology, id);
                self.count("shown");
            }
            9 => self.pins.borrow_mut().push(((topology, visible), true)),
            _ => self.merge(topology),
        }
    }

    /// Merges what is visible.
    fn merge(&self, topology: TopologyId) {
        let all = (topology, MicrobatchId(0))..=(topology, self.visible(topology));
        let ready: Vec<At> = self.stacked.borrow().range(all).map(|(at, _)| *at).collect();
        for at in ready {
            self.store().merge_keeping(at.0, at.1, &self.wanted(topology));
            let run = self.stacked.borrow_mut().remove(&at).unwrap();
            self.unfolded.borrow_mut().insert(at, run);
            self.count("merged");
        }
    }

    fn run(&self, topology: TopologyId, rows: &mut Model) -> Run {
        let mut set = WriteSet::default();
        let mut chance = self.chance.borrow_mut();
        for _ in 0..chance.below(self.shape.writes) {
            let pstate = chance.pstate();
            if OWNERS[pstate.0 as usize] != topology {
                continue;
            }
            let key = chance.key(&self.shape);
            match chance.below(20) {
                0 => {
                    let to = Some(chance.key(&self.shape)).filter(|_| chance.below(8) > 0);
                    set.delete_range(pstate, &key, to.as_deref());
                    rows.retain(|(of, other), _| {
                        *of != pstate || *other < key || to.as_ref().is_some_and(|to| other >= to)
                    });
                }
                1..6 => {
                    set.delete(pstate, &key);
                    rows.remove(&(pstate, key));
                }
                _ => {
                    let value = chance.value(&self.shape);
                    set.put(pstate, &key, &value);
                    rows.insert((pstate, key), value);
                }
            }
        }
        set.seal()
    }

    async fn fold(&self) {
        let covers = self.covers.get().next();
        self.covers.set(covers);
        // The freeze is the first thing that a fold does.
        let folding = std::mem::take(&mut *self.unfolded.borrow_mut());
        let folded = self.store().fold(covers, &[]).await;
        assert!(folded.is_ok());
        drop(folding);
        self.count("folded");
    }

    /// The process dies, and what was merged is merged again.
    async fn reopen(&self, cache_bytes: u64) {
        let cache = Cache::new(cache_bytes);
        let opened = Store::open(&self.env, &cache, DIR, PARTITION, Index(1)).await.unwrap();
        *self.store.borrow_mut() = opened.0;
        for topology in TOPOLOGIES {
            let unfolded = self.unfolded.borrow();
            let all = (topology, MicrobatchId(0))..=(topology, MicrobatchId(u64::MAX));
            let stacked = self.stacked.borrow();
            let first = unfolded.range(all.clone()).chain(stacked.range(all.clone())).next();
            let below = first.map_or(u64::MAX, |((_, id), _)| id.0 - 1);
            self.store().note_contained(topology, self.visible(topology).min(MicrobatchId(below)));
            for ((_, id), run) in unfolded.range(all.clone()) {
                self.store().stack(topology, *id, Rc::clone(run));
                self.store().merge(topology, *id);
            }
            for ((_, id), run) in stacked.range(all) {
                self.store().stack(topology, *id, Rc::clone(run));
            }
            self.store().show(topology, self.visible(topology));
        }
        self.lose("reopened");
    }

    /// Reads at an id, by key and by range, both ways; false if it was refused.
    async fn reads(&self, at: At, whole: bool) -> bool {
        let expected = self.version(at);
        let (store, view) = (self.store(), View::at(at.0, at.1));
        let pstates = (0..3).map(PStateId).filter(|it| OWNERS[it.0 as usize] == at.0);
        for pstate in pstates {
            for _ in 0..8 {
                let key = self.chance.borrow_mut().key(&self.shape);
                let found = store.read(&view, pstate, &key, |value| value.map(<[u8]>::to_vec));
                match found.await {
                    Ok(found) => {
                        let wanted = expected.get(&(pstate, key.clone()));
                        assert!(found.as_ref() == wanted, "{pstate} {key:?} at {at:?}");
                    }
                    Err(Error::Expired { topology, wanted, oldest }) => {
                        assert_eq!((topology, wanted), at);
                        assert!(wanted < oldest && oldest <= self.visible(topology));
                        return false;
                    }
                    Err(error) => panic!("{error}"),
                }
            }
            let (a, b) = {
                let mut chance = self.chance.borrow_mut();
                (chance.key(&self.shape), chance.key(&self.shape))
            };
            let (from, to) = if a <= b { (&*a, &*b) } else { (&*b, &*a) };
            let some = KeyRange { from: Bound::Included(from), to: Bound::Excluded(to) };
            let range = if whole { KeyRange::ALL } else { some };
            let inside = |key: &[u8]| whole || from <= key && key < to;
            let mut rows: Vec<(Vec<u8>, Vec<u8>)> = expected
                .iter()
                .filter(|((of, key), _)| *of == pstate && inside(key))
                .map(|((_, key), value)| (key.clone(), value.clone()))
                .collect();
            for direction in [Direction::Forward, Direction::Backward] {
                let mut found = Vec::new();
                let visit = |key: &[u8], value: &[u8]| {
                    found.push((key.to_vec(), value.to_vec()));
                    ControlFlow::Continue(())
                };
                let scan = store.scan(&view, pstate, range, direction, usize::MAX, visit);
                match scan.await {
                    Ok(_) => assert!(found == rows, "{pstate} {direction:?} {range:?} at {at:?}"),
                    Err(Error::Expired { .. }) => return false,
                    Err(error) => panic!("{error}"),
                }
                rows.reverse();
            }
        }
        self.count("read");
        true
    }

    /// What differs between two ids, which is what differs between the versions; false if it was refused.
    async fn differs(&self, topology: TopologyId, from: MicrobatchId, to: MicrobatchId) -> bool {
        let (before, after) = (self.version((topology, from)), self.version((topology, to)));
        let between = Between { topology, from, to };
        let store = self.store();
        for pstate in (0..3).map(PStateId).filter(|it| OWNERS[it.0 as usize] == topology) {
            let (low, high, pages) = {
                let mut chance = self.chance.borrow_mut();
                let (a, b) = (chance.key(&self.shape), chance.key(&self.shape));
                let (low, high) = (a.clone().min(b.clone()), a.max(b));
                let whole = chance.below(2) == 0;
                let bounds = if whole { (Vec::new(), None) } else { (low, Some(high)) };
                (bounds.0, bounds.1, chance.below(2) == 0)
            };
            let inside = |of: PStateId, key: &Vec<u8>| {
                of == pstate && low <= *key && high.as_ref().is_none_or(|high| key < high)
            };
            let keys = before.keys().chain(after.keys()).filter(|(of, key)| inside(*of, key));
            let keys: std::collections::BTreeSet<_> = keys.collect();
            let differing = keys.into_iter().filter(|key| before.get(key) != after.get(key));
            let expected: Vec<_> = differing
                .map(|key| (key.1.clone(), before.get(key).cloned(), after.get(key).cloned()))
                .collect();
            let mut found = Vec::new();
            let mut at = low.clone();
            loop {
                let first = found.len();
                let visit = |key: &[u8], before: Option<&[u8]>, after: Option<&[u8]>| {
                    let to_vec = |value: Option<&[u8]>| value.map(<[u8]>::to_vec);
                    found.push((key.to_vec(), to_vec(before), to_vec(after)));
                    let full = pages && found.len() - first == 3;
                    if full { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
                };
                let compared = store.difference(between, pstate, (&at, high.as_deref()), visit);
                match compared.await {
                    Ok(looked_at) if !pages => {
                        assert!(looked_at <= self.written(between, pstate, &low, high.as_ref()));
                    }
                    Ok(_) => {}
                    Err(Error::Expired { topology: of, wanted, oldest }) => {
                        assert_eq!(of, topology);
                        assert!(wanted < oldest && oldest <= self.visible(topology));
                        return false;
                    }
                    Err(error) => panic!("{error}"),
                }
                if !pages || found.len() - first < 3 {
                    break;
                }
                at = found.last().unwrap().0.clone();
                at.push(0);
            }
            assert!(found == expected, "{pstate} in {low:?}..{high:?}, {between:?}");
        }
        self.count("compared");
        true
    }

    /// How many keys were written between two ids at most: those of a range that was deleted were there before.
    fn written(
        &self,
        Between { topology, from, to }: Between,
        pstate: PStateId,
        low: &[u8],
        high: Option<&Vec<u8>>,
    ) -> usize {
        let mut keys = std::collections::BTreeSet::new();
        let mut rows = self.version((topology, from));
        let mut take = |key: &[u8]| {
            if low <= key && high.is_none_or(|high| key < &**high) {
                keys.insert(key.to_vec());
            }
        };
        let runs = self.runs.borrow();
        for (at, run) in
            runs.range((topology, from)..=(topology, to)).filter(|((_, id), _)| *id > from)
        {
            for write in run.iter() {
                match write {
                    Write::Put { pstate: of, key, .. } | Write::Delete { pstate: of, key }
                        if of == pstate =>
                    {
                        take(key);
                    }
                    Write::DeleteRange { pstate: of, from, to } if of == pstate => {
                        let all = rows.keys().filter(|(of, key)| *of == pstate && **key >= *from);
                        let all = all.filter(|(_, key)| to.is_none_or(|to| **key < *to));
                        all.for_each(|(_, key)| take(key));
                    }
                    _ => {}
                }
            }
            rows = self.version(*at);
        }
        keys.len()
    }

    /// Every pinned id, while a shard goes on.
    async fn reads_all_pins(&self) {
        let pins = self.pins.borrow().clone();
        for (at, held) in pins {
            let whole = self.below(3) == 0;
            let read = self.reads(at, whole).await;
            assert!(read || !held, "{at:?} is held, and was refused");
        }
    }

    /// What a shard does meanwhile.
    async fn goes_on(&self) {
        for _ in 0..self.below(4) {
            self.changes().await;
            if self.below(2) == 0 {
                // What is merged while a fold runs lies over the frozen memtable.
                join(self.fold(), self.changes()).await;
            }
        }
    }

    async fn changes(&self) {
        for _ in 0..self.below(6) {
            self.change();
            self.env.yield_now().await;
        }
    }
}

type Counts = BTreeMap<&'static str, u64>;

/// Returns what happened how often.
async fn against_versions(env: Env, seed: u64, shape: Shape, window: Duration) -> Counts {
    let env = super::crash::yielding(&env, Rc::clone(env.disk()));
    let cache = Cache::new(shape.cache_bytes);
    let (store, _) = Store::open(&env, &cache, DIR, PARTITION, Index(1)).await.unwrap();
    let (rounds, cache_bytes) = (shape.rounds, shape.cache_bytes);
    let tested = Tested {
        env,
        shape,
        store: RefCell::new(store),
        chance: RefCell::new(Chance(seed)),
        versions: RefCell::default(),
        runs: RefCell::default(),
        stacked: RefCell::default(),
        unfolded: RefCell::default(),
        visible: RefCell::default(),
        lost: RefCell::default(),
        pins: RefCell::default(),
        window,
        now: Cell::default(),
        covers: Cell::new(Index(0)),
        counts: RefCell::default(),
    };
    for _ in 0..rounds {
        join(tested.reads_all_pins(), tested.goes_on()).await;
        for topology in TOPOLOGIES {
            // What is prepared, what is visible, and anything below.
            let last = tested.last(topology);
            assert!(tested.reads((topology, last), false).await);
            assert!(tested.reads((topology, tested.visible(topology)), false).await);
            let old = (topology, MicrobatchId(tested.below(last.0 + 1)));
            tested.count(if tested.reads(old, false).await { "old" } else { "refused" });
            if tested.below(2) == 0 {
                continue;
            }
            let to = MicrobatchId(tested.below(tested.visible(topology).0 + 1));
            let from = MicrobatchId(to.0.saturating_sub(tested.below(12)));
            let compared = join(tested.differs(topology, from, to), tested.changes()).await.0;
            tested.count(if compared { "compared old" } else { "not compared" });
            if window == FOR_EVER {
                let lost = tested.lost.borrow().get(&topology).copied();
                assert!(compared || Some(from) < lost, "{from} to {to} of {topology} was refused");
            }
        }
        match tested.below(24) {
            0 => tested.reopen(cache_bytes).await,
            1 if tested.store().drop_oldest_history() => {
                tested.lose("dropped");
            }
            2..10 if !tested.pins.borrow().is_empty() => {
                let nth = tested.below(tested.pins.borrow().len() as u64);
                tested.pins.borrow_mut().remove(usize::try_from(nth).unwrap());
            }
            10..16 => tested.store().trim_history(|topology| tested.wanted(topology)),
            _ => {}
        }
    }
    // When nobody wants anything, nothing is left.
    tested.pins.borrow_mut().clear();
    tested.store().trim_history(|_| Wanted::default());
    assert_eq!(tested.store().history_bytes(), 0);
    assert!(tested.store().state().space.held.iter().all(|held| *held == 0));
    tested.counts.take()
}

#[test]
fn agrees_with_a_map_of_versions() {
    let mut counts = Counts::new();
    for seed in 0..16 {
        let shape = Shape {
            keys: [30, 300, 2_000][usize::try_from(seed % 3).unwrap()],
            value_max: [100, 3_000, 40_000][usize::try_from(seed / 3 % 3).unwrap()],
            cache_bytes: [20_000, 10_000_000][usize::try_from(seed % 2).unwrap()],
            rounds: 120,
            writes: [12, 120][usize::try_from(seed / 2 % 2).unwrap()],
        };
        let window = Duration::from_millis([0, 0, 20, 0][usize::try_from(seed % 4).unwrap()]);
        let window = if seed % 4 == 3 { FOR_EVER } else { window };
        let disk = MemoryDisk::new();
        for (what, count) in run(&disk, move |env| against_versions(env, seed, shape, window)) {
            *counts.entry(what).or_default() += count;
        }
    }
    let often = |what| counts.get(what).copied().unwrap_or_default();
    assert!(often("prepared") > 1_000 && often("read") > 10_000, "{counts:?}");
    assert!(often("compared old") > 200, "{counts:?}");
    for what in
        ["aborted", "merged", "folded", "old", "refused", "reopened", "dropped", "not compared"]
    {
        assert!(often(what) > 10, "too few {what}: {counts:?}");
    }
}

#[test]
fn a_difference_of_many_ids_never_looks_into_all_of_their_undos_at_once() {
    const IDS: u64 = 400;
    run(&MemoryDisk::new(), |env| async move {
        let (store, _) = open(&env, Index(0)).await.unwrap();
        let wanted = Wanted { window: FOR_EVER, ..Wanted::default() };
        for id in 1..=IDS {
            let mut set = WriteSet::default();
            set.put(PStateId(0), &id.to_be_bytes(), b"new");
            store.stack(LEDGER, MicrobatchId(id), Rc::new(set.seal()));
            store.merge_keeping(LEDGER, MicrobatchId(id), &wanted);
        }
        let between = Between { topology: LEDGER, from: MicrobatchId(0), to: MicrobatchId(IDS) };
        let mut found = Vec::new();
        let visit = |key: &[u8], _: Option<&[u8]>, _: Option<&[u8]>| {
            found.push(key.to_vec());
            ControlFlow::Continue(())
        };
        let mut polls = 0;
        let mut compared = Box::pin(store.difference(between, PStateId(0), (&[], None), visit));
        let counted = std::future::poll_fn(|context| {
            polls += 1;
            compared.as_mut().poll(context)
        });
        assert_eq!(counted.await.unwrap(), usize::try_from(IDS).unwrap());
        drop(compared);
        assert_eq!(found, (1..=IDS).map(|id| id.to_be_bytes().to_vec()).collect::<Vec<_>>());
        // Between two polls lie at most so many undos.
        let polls_min = usize::try_from(IDS).unwrap() / super::super::difference::STEP_UNDOS;
        assert!(polls >= polls_min, "{polls} polls");
    });
}
