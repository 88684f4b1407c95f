//! Lists against vectors, with few children and labels so that everything happens often, and what they cost.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::ops::Bound;

use futures_util::FutureExt;

use super::*;

mod collections;

/// Rows in memory, which count what is asked of them.
#[derive(Default)]
struct Memory {
    rows: RefCell<RowsOfList>,
    cost: Cell<Cost>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Cost {
    /// Gets and scans.
    seeks: usize,
    rows_read: usize,
    /// Puts and deletes.
    writes: usize,
}

impl Memory {
    fn count(&self, change: impl FnOnce(&mut Cost)) {
        let mut cost = self.cost.get();
        change(&mut cost);
        self.cost.set(cost);
    }
}

impl Rows for Memory {
    type Error = Infallible;

    async fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, Infallible> {
        self.count(|cost| cost.seeks += 1);
        Ok(self.rows.borrow().get(key).cloned())
    }

    async fn scan(&self, range: &RangeOp) -> Result<Vec<Row>, Infallible> {
        let rows = self.rows.borrow();
        let to = range.to.as_ref().map_or(Bound::Unbounded, |to| Bound::Excluded(&**to));
        if range.to.as_ref().is_some_and(|to| **to <= *range.from) {
            return Ok(Vec::new());
        }
        let all = rows.range::<[u8], _>((Bound::Included(&*range.from), to));
        let row = |(key, value): (&Vec<u8>, &Vec<u8>)| {
            (key.clone(), if range.keys_only { Vec::new() } else { value.clone() })
        };
        let limit = usize::try_from(range.limit.unwrap_or(u64::MAX)).unwrap_or(usize::MAX);
        let found: Vec<_> = if range.reverse {
            all.rev().take(limit).map(row).collect()
        } else {
            all.take(limit).map(row).collect()
        };
        self.count(|cost| {
            cost.seeks += 1;
            cost.rows_read += found.len();
        });
        Ok(found)
    }
}

impl Edits for Memory {
    fn put(&self, key: &[u8], value: &[u8]) -> Result<(), Infallible> {
        self.count(|cost| cost.writes += 1);
        self.rows.borrow_mut().insert(key.to_vec(), value.to_vec());
        Ok(())
    }

    fn delete(&self, key: &[u8]) -> Result<(), Infallible> {
        self.count(|cost| cost.writes += 1);
        // Only what is there is ever deleted: anything else is a row that was lost track of.
        assert!(self.rows.borrow_mut().remove(key).is_some());
        Ok(())
    }

    fn delete_range(&self, from: &[u8], to: &[u8]) -> Result<(), Infallible> {
        self.count(|cost| cost.writes += 1);
        self.rows.borrow_mut().retain(|key, _| &**key < from || to <= &**key);
        Ok(())
    }
}

type Result<T, E> = std::result::Result<T, E>;

fn now<T>(future: impl Future<Output = T>) -> T {
    future.now_or_never().expect("rows in memory are there")
}

const PREFIX: &[u8] = b"list";

fn small(memory: &Memory, children_max: u32, step: u128) -> List<'_, Memory> {
    let gap_min = 2;
    List { children_max, step, gap_min, ..List::new(memory, PREFIX) }
}

/// Checks all that holds, and reads the elements.
fn check(list: &List<'_, Memory>) -> Vec<Vec<u8>> {
    let rows = list.rows.rows.borrow();
    let Some(head) = now(list.head()).unwrap() else {
        assert!(rows.is_empty(), "a list without elements has no rows: {rows:?}");
        return Vec::new();
    };
    let mut seen = 1;
    let mut level_rows = |level: usize| -> Vec<(Label, Vec<u8>)> {
        let (from, to) = (tagged(PREFIX, level), tagged(PREFIX, level + 1));
        let range = rows.range::<[u8], _>((Bound::Included(&*from), Bound::Excluded(&*to)));
        let found: Vec<_> =
            range.map(|(key, value)| (list.label(key).unwrap(), value.clone())).collect();
        seen += found.len();
        found
    };
    let elements = level_rows(0);
    assert!(elements.iter().all(|(label, _)| *label <= head.last));
    let mut below: Vec<Block> =
        elements.iter().map(|&(label, _)| Block { label, elements: 1, children: 1 }).collect();
    for level in 1..=head.levels() {
        let blocks = level_rows(level);
        let decoded = blocks.iter().map(|(label, value)| Block::decode(*label, value).unwrap());
        let blocks: Vec<_> = decoded.chain([head.tails[level - 1]]).collect();
        assert_eq!(blocks[0].label, 0, "level {level}");
        for (nth, block) in blocks.iter().enumerate() {
            let end = blocks.get(nth + 1).map_or(Label::MAX, |next| next.label);
            let is_in = |child: &&Block| block.label <= child.label && child.label < end;
            let children: Vec<_> = below.iter().filter(is_in).collect();
            assert_eq!(children.len(), block.children as usize, "level {level}");
            assert!(block.children <= list.children_max && block.children > 0);
            let sum: u64 = children.iter().map(|child| child.elements).sum();
            assert_eq!(sum, block.elements, "level {level}");
            assert!(level == 1 || children[0].label == block.label);
        }
        below = blocks;
    }
    assert_eq!(below.len(), 1, "one root");
    assert!(head.levels() == 1 || below[0].children > 1, "a root has two children");
    let (from, to) = under_range(PREFIX);
    seen += rows.range::<[u8], _>((Bound::Included(&*from), Bound::Excluded(&*to))).count();
    assert_eq!(seen, rows.len(), "there are rows of no level");
    elements.into_iter().map(|(_, value)| value).collect()
}

/// A stream of numbers, the same for a seed.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, bound: usize) -> usize {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % bound
    }
}

#[test]
fn lists_are_vectors() {
    let mut relabelled = 0;
    for seed in 0..150 {
        let mut numbers = Numbers(seed);
        let memory = Memory::default();
        let step = [1, 2, 16, STEP][numbers.below(4)];
        let list = small(&memory, [4, 5, 6][numbers.below(3)], step);
        let mut model: Vec<Vec<u8>> = Vec::new();
        // Some grow, some shrink, some do both in turn; many work at one place.
        let (bias, place) = (numbers.below(10), numbers.below(5));
        for nth in 0..300_u64 {
            let value = nth.to_le_bytes().to_vec();
            let count = model.len();
            let grows = if nth / 100 == 1 { 9 - bias } else { bias };
            let at = match place {
                0 => 0,
                1 => count,
                2 => count / 2,
                _ => numbers.below(count + 1),
            };
            match numbers.below(12) {
                0 if at < count => {
                    now(list.set(at as u64, &value)).unwrap();
                    model[at] = value;
                }
                1 => {
                    now(list.push(&value)).unwrap();
                    model.push(value);
                }
                draw if draw < 2 + grows => {
                    let last = now(list.head()).unwrap().map(|head| head.last);
                    now(list.insert(at as u64, &value)).unwrap();
                    model.insert(at, value);
                    relabelled += u32::from(
                        at < count && last < now(list.head()).unwrap().map(|head| head.last),
                    );
                }
                _ if at < count => {
                    now(list.remove(at as u64)).unwrap();
                    model.remove(at);
                }
                _ => {}
            }
            assert_eq!(check(&list), model, "seed {seed}, after {nth}");
        }
        for from in 0..=model.len() + 1 {
            let count = numbers.below(9);
            let sliced = now(list.slice(from as u64, count as u64)).unwrap();
            let wanted: Vec<_> = model.iter().skip(from).take(count).cloned().collect();
            assert_eq!(sliced, wanted);
        }
    }
    assert!(relabelled > 40, "last blocks were labelled anew {relabelled} times only");
}

#[test]
fn what_is_beyond_the_end_is_refused() {
    let memory = Memory::default();
    let list = List::new(&memory, PREFIX);
    assert_eq!(now(list.remove(0)), Err(Error::Beyond { count: 0 }));
    assert_eq!(now(list.insert(1, b"a")), Err(Error::Beyond { count: 0 }));
    now(list.insert(0, b"a")).unwrap();
    assert_eq!(now(list.set(1, b"b")), Err(Error::Beyond { count: 1 }));
    assert_eq!(now(list.remove(1)), Err(Error::Beyond { count: 1 }));
    assert_eq!(now(list.slice(1, 9)), Ok(Vec::new()));
    assert_eq!(check(&list), [b"a".to_vec()]);
}

#[test]
fn appending_costs_one_read_and_two_small_rows_however_long_the_list() {
    let memory = Memory::default();
    let list = List::new(&memory, PREFIX);
    for nth in 0..20_000_u64 {
        memory.cost.take();
        now(list.push(&nth.to_le_bytes())).unwrap();
        let cost = memory.cost.take();
        let splits = cost.writes - 2;
        assert_eq!((cost.seeks, cost.rows_read), (1, 0));
        // A block that is full begins the next one; of 64 appends one does.
        assert!(
            splits == 0 || nth % u64::from(CHILDREN_MAX) == 0 && splits <= 3,
            "{nth}: {cost:?}"
        );
    }
    assert_eq!(check(&list).len(), 20_000);
    let head = memory.rows.borrow()[&*head_key(PREFIX)].len();
    assert!(head <= 80, "a head takes {head} bytes");
}

#[test]
fn elements_that_are_appended_together_make_the_rows_of_single_ones() {
    // Labels behind the last one run out now and then, if they lie far apart.
    for step in [1 << 64, 1 << 126] {
        let (apart, together) = (Memory::default(), Memory::default());
        let (one, all) = (small(&apart, 4, step), small(&together, 4, step));
        let values: Vec<Vec<u8>> = (0..500_u32).map(|nth| nth.to_be_bytes().to_vec()).collect();
        for values in values.chunks(77) {
            for value in values {
                now(one.push(value)).unwrap();
            }
            now(all.extend(values)).unwrap();
            assert_eq!(*apart.rows.borrow(), *together.rows.borrow());
        }
        assert_eq!(check(&all), values);
    }
    // Of one level, so that no block becomes full.
    let memory = Memory::default();
    let list = List::new(&memory, PREFIX);
    now(list.extend(&[b"a", b"b", b"c"])).unwrap();
    assert_eq!(memory.cost.get(), Cost { seeks: 1, rows_read: 0, writes: 4 });
}

#[test]
fn an_index_is_found_by_one_scan_a_level_and_an_edit_writes_one_row_a_level() {
    let memory = Memory::default();
    let list = List::new(&memory, PREFIX);
    for nth in 0..300_000_u64 {
        now(list.push(&nth.to_le_bytes())).unwrap();
    }
    let levels = now(list.head()).unwrap().unwrap().levels();
    assert_eq!(levels, 4, "64 to the power of 3 is less");
    memory.cost.take();
    for at in (0..300_000).step_by(7_919) {
        assert_eq!(now(list.slice(at, 20)).unwrap()[0], at.to_le_bytes());
        let cost = memory.cost.take();
        assert!(cost.seeks == 1 + levels, "{cost:?}");
        assert!(cost.rows_read <= levels * CHILDREN_MAX as usize + 20, "{cost:?}");
        now(list.insert(at, b"new")).unwrap();
        let cost = memory.cost.take();
        // One seek more where the label is chosen, and where full blocks are split two.
        assert!(cost.seeks <= 2 + 3 * levels && cost.writes <= 2 + 2 * levels, "{cost:?}");
        now(list.remove(at)).unwrap();
        let cost = memory.cost.take();
        assert!(cost.seeks <= 2 + levels && cost.writes <= 2 + levels, "{cost:?}");
    }
}

#[test]
fn typing_at_one_place_labels_little_anew() {
    let memory = Memory::default();
    let list = List::new(&memory, PREFIX);
    for nth in 0..10_000_u64 {
        now(list.push(&nth.to_le_bytes())).unwrap();
    }
    for (name, at) in [("behind each other", 1), ("in front of each other", 0)] {
        memory.cost.take();
        for nth in 0..5_000 {
            now(list.insert(5_000 + at * nth, b"new")).unwrap();
        }
        let writes = memory.cost.take().writes;
        assert!(writes < 5_000 * 12, "{name}: {writes} writes for 5,000 inserts");
    }
    assert_eq!(check(&list).len(), 20_000);
}

type RowsOfList = BTreeMap<Vec<u8>, Vec<u8>>;

#[test]
fn rows_that_are_no_list_are_an_error_and_never_a_panic() {
    let memory = Memory::default();
    let list = small(&memory, 4, 16);
    for nth in 0..60_u64 {
        now(list.insert(nth / 2, &nth.to_le_bytes())).unwrap();
    }
    let sound = memory.rows.borrow().clone();
    let keys: Vec<_> = sound.keys().cloned().collect();
    let mut found = 0;
    let mut damage = |change: &dyn Fn(&mut RowsOfList)| {
        for at in [0, 31, 59] {
            for edit in 0..4 {
                *memory.rows.borrow_mut() = sound.clone();
                change(&mut memory.rows.borrow_mut());
                let done = match edit {
                    0 => now(list.slice(at, 2)).map(drop),
                    1 => now(list.insert(at, b"new")),
                    2 => now(list.set(at, b"new")),
                    _ => now(list.push(b"new")),
                };
                found += u32::from(matches!(done, Err(Error::Malformed(_))));
            }
        }
    };
    for key in &keys {
        // Elements hold anything.
        if key[PREFIX.len()] == 1 {
            damage(&|rows| drop(rows.remove(key)));
            continue;
        }
        damage(&|rows| drop(rows.remove(key)));
        for byte in 0..sound[key].len() {
            for bit in [1, 16, 128] {
                damage(&|rows| rows.get_mut(key).unwrap()[byte] ^= bit);
            }
        }
    }
    assert!(found > 1_000, "{found}");
}

#[test]
fn the_layout_knows_the_rows_of_a_list() {
    use crate::codec::table::Trace;
    use crate::schema::{Layout, Map, Sub};

    type Texts = Map<u32, Sub<crate::schema::List<i64>>>;
    let layout = Layout::of::<Texts>(&mut Trace::onto(FieldTable::new())).unwrap();
    assert_eq!(layout.to_string(), "Map<u32, Sub<List<i64>>>");
    let memory = Memory::default();
    let prefix = crate::codec::encode_key(&7_u32);
    let list = List { children_max: 4, ..List::new(&memory, &prefix) };
    for nth in 0..9_i64 {
        now(list.push(&encoded(&nth))).unwrap();
    }
    let mut kinds = BTreeMap::new();
    for key in memory.rows.borrow().keys() {
        let (parts, kind) = layout.row(key).unwrap();
        assert_eq!(parts[0], 7);
        let name = parts[1].as_str().unwrap().split(' ').next().unwrap().to_owned();
        let name = if name.len() == 32 { "element".to_owned() } else { name };
        assert_eq!(kind.is_some(), name == "element");
        *kinds.entry(name).or_insert(0) += 1;
        for len in 4..key.len() {
            assert!(layout.row(&key[..len]).is_err());
        }
        assert!(layout.row(&[key.as_slice(), &[0]].concat()).is_err());
    }
    let expected = [("block", 2), ("element", 9), ("head", 1)];
    assert_eq!(kinds, expected.map(|(name, count)| (name.to_owned(), count)).into());
    let vectors = Layout::of::<Map<u32, Vec<i64>>>(&mut Trace::onto(FieldTable::new())).unwrap();
    assert!(vectors.widen(&layout).is_err() && layout.widen(&vectors).is_err());
    assert_eq!(layout.widen(&layout), Ok(layout));
}

#[test]
fn the_layout_knows_what_hangs_under_an_item() {
    use crate::codec::table::Trace;
    use crate::schema::{Layout, Map, Sub};

    type Rounds = Map<u32, Sub<crate::schema::List<Sub<Map<String, i64>>>>>;
    let layout = Layout::of::<Rounds>(&mut Trace::onto(FieldTable::new())).unwrap();
    assert_eq!(layout.to_string(), "Map<u32, Sub<List<Sub<Map<String, i64>>>>>");
    let json = serde_json::to_string(&layout).unwrap();
    assert_eq!(serde_json::from_str::<Layout>(&json).unwrap(), layout);
    let prefix = crate::codec::encode_key(&7_u32);
    let shown = |key: &[u8]| {
        let (parts, kind) = layout.row(key).ok()?;
        Some((serde_json::Value::from(parts).to_string(), kind.is_some()))
    };
    let element = key(&prefix, 0, 1 << 127);
    let label = "80000000000000000000000000000000";
    assert_eq!(shown(&element), Some((format!(r#"[7,"{label}"]"#), false)));
    let item = under(&prefix, 300);
    assert_eq!(shown(&item), Some((r#"[7,"item 300","head"]"#.to_owned(), false)));
    let entry = [item.as_slice(), &crate::codec::encode_key("ann")].concat();
    assert_eq!(shown(&entry), Some((r#"[7,"item 300","ann"]"#.to_owned(), true)));
    assert_eq!(shown(&[element.as_slice(), &crate::codec::encode_key("ann")].concat()), None);
    assert_eq!(shown(&item[..item.len() - 1]), None);
    let texts = Layout::of::<Map<u32, Sub<crate::schema::List<i64>>>>(&mut Trace::default());
    texts.as_ref().unwrap().row(&entry).unwrap_err();
    // What the items are decides what the rows are.
    let refused = texts.unwrap().widen(&layout).unwrap_err();
    assert_eq!(refused.at, ["values", "items"]);
}
