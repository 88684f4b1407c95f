//! Each aggregator against a plain fold over what is added, however the additions are grouped, and in any
//! order where the order is not to matter.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;

use proptest::collection::vec;
use proptest::prelude::*;
use serde::{Deserialize, Serialize};

use super::*;
use crate::codec::table::Trace;
use crate::schema::{Map, Set, Shape, Sub};
use crate::schema::{Owned, Position};
use crate::types::PStateId;

/// A stream of chance.
struct Chance(u64);

impl Chance {
    fn below(&mut self, end: usize) -> usize {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % end
    }

    fn shuffled<X>(&mut self, mut all: Vec<X>) -> Vec<X> {
        for nth in (1..all.len()).rev() {
            all.swap(nth, self.below(nth + 1));
        }
        all
    }
}

/// What is stored after additions that were cut into microbatches, and in each of them combined, in
/// groups that chance gives.
fn aggregated<V: Data + Position, A: Aggregate<V>>(
    mut addends: Vec<A>,
    chance: &mut Chance,
) -> Option<V> {
    let mut trace = Trace::default();
    Shape::of::<Map<u8, V>>(&mut trace).unwrap();
    let table = trace.finish();
    let mut stored: Option<Vec<u8>> = None;
    while !addends.is_empty() {
        let later = addends.split_off(1 + chance.below(addends.len()));
        let partial = combined::<V, A>(addends, chance);
        let old = stored.filter(|_| A::READS_OLD).map(|bytes| decode(&table, &bytes).unwrap());
        stored = A::apply(partial, old).map(|new| {
            let mut bytes = Vec::new();
            encode(&table, &new, &mut bytes).unwrap();
            bytes
        });
        addends = later;
    }
    stored.map(|bytes| decode(&table, &bytes).unwrap())
}

/// Additions, combined as a tree that chance makes.
fn combined<V, A: Aggregate<V>>(mut addends: Vec<A>, chance: &mut Chance) -> A::Partial {
    if addends.len() == 1 {
        return addends.pop().unwrap().partial();
    }
    let later = addends.split_off(1 + chance.below(addends.len() - 1));
    let mut partial = combined(addends, chance);
    A::combine(&mut partial, combined(later, chance));
    partial
}

/// In the order of `inputs`, in any groups.
#[allow(clippy::needless_pass_by_value, reason = "reads better where it is called")]
fn check_groups<X: Copy, V, A>(inputs: &[X], add: impl Fn(X) -> A, seed: u64, expected: Option<V>)
where
    V: Data + Position + PartialEq + Debug,
    A: Aggregate<V>,
{
    let addends = inputs.iter().map(|input| add(*input)).collect();
    assert_eq!(aggregated(addends, &mut Chance(seed)), expected);
}

/// In any order, in any groups.
#[allow(clippy::needless_pass_by_value, reason = "reads better where it is called")]
fn check_orders<X: Copy, V, A>(inputs: &[X], add: impl Fn(X) -> A, seed: u64, expected: Option<V>)
where
    V: Data + Position + PartialEq + Debug,
    A: Aggregate<V>,
{
    let mut chance = Chance(seed);
    let addends = chance.shuffled(inputs.iter().map(|input| add(*input)).collect());
    assert_eq!(aggregated(addends, &mut chance), expected);
}

/// Two that are equal in order but can be told apart.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Bid(i16, usize);

impl PartialEq for Bid {
    fn eq(&self, other: &Self) -> bool {
        self.0 == other.0
    }
}

impl Eq for Bid {}

impl PartialOrd for Bid {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Bid {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.cmp(&other.0)
    }
}

/// Texts put behind each other: has a zero, and an order that matters.
enum Concat {}

impl Combiner for Concat {
    type Value = String;

    fn zero() -> String {
        String::new()
    }

    fn combine(earlier: String, later: String) -> String {
        earlier + &later
    }
}

/// Depends on the order, and on where each input stands.
enum Horner {}

impl Accumulator for Horner {
    type Input = i16;
    type Value = u64;

    fn init() -> u64 {
        7
    }

    fn accumulate(value: &mut u64, input: i16) {
        *value = value.wrapping_mul(31).wrapping_add(input.cast_unsigned().into());
    }
}

/// The best `count` ids, from the scores of each.
fn best<S: Ord + Copy>(pairs: &[(u8, S)], count: usize) -> Vec<(u8, S)> {
    let mut scores: BTreeMap<u8, BTreeSet<S>> = BTreeMap::new();
    for &(id, score) in pairs {
        scores.entry(id).or_default().insert(score);
    }
    let mut ranks: Vec<_> =
        scores.into_iter().map(|(id, all)| (Reverse(*all.last().unwrap()), id)).collect();
    ranks.sort();
    ranks.into_iter().take(count).map(|(score, id)| (id, score.0)).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn numbers_fold(inputs in vec(-500_i16..500, 1..60), seed: u64) {
        let wide = inputs.iter().map(|&n| i64::from(n));
        check_orders(&inputs, |n| Sum(i64::from(n)), seed, Some(wide.clone().sum()));
        let float: f64 = inputs.iter().map(|&n| f64::from(n)).sum();
        check_orders(&inputs, |n| Sum(f64::from(n)), seed, Some(float));
        check_orders(&inputs, |_| Count, seed, Some(inputs.len() as u64));
        check_orders(&inputs, Min, seed, inputs.iter().min().copied());
        check_orders(&inputs, Max, seed, inputs.iter().max().copied());
        let mean = aggregated(inputs.iter().map(|&n| Average(n)).collect(), &mut Chance(seed));
        let mean: Mean<i16> = mean.unwrap();
        prop_assert_eq!((mean.total(), mean.count()), (wide.clone().sum(), inputs.len() as u64));
        let count = f64::from(u32::try_from(inputs.len()).unwrap());
        prop_assert!((mean.value() - float / count).abs() < 1e-9);
        check_orders(&inputs, Average, seed, Some(mean));
    }

    #[test]
    fn truths_fold(inputs in vec(any::<bool>(), 1..8), seed: u64) {
        check_orders(&inputs, And, seed, Some(inputs.iter().all(|it| *it)));
        check_orders(&inputs, Or, seed, Some(inputs.iter().any(|it| *it)));
    }

    #[test]
    fn choices_fold(inputs in vec(0_i16..4, 1..30), seed: u64) {
        let bids: Vec<_> = inputs.iter().zip(0..).map(|(&n, nth)| Bid(n, nth)).collect();
        check_groups(&bids, First, seed, bids.first().copied());
        check_groups(&bids, Last, seed, bids.last().copied());
        check_groups(&bids, |_| Void, seed, None::<Bid>);
        // Which of equal ones it is must not depend on the groups.
        let addends = |seed| (bids.clone(), Chance(seed));
        let (all, mut chance) = addends(seed);
        let min = aggregated(all.into_iter().map(Min).collect(), &mut chance).unwrap();
        prop_assert_eq!(bids.iter().find(|bid| bid.0 == min.0).unwrap().1, min.1);
        prop_assert_eq!(Some(min.0), inputs.iter().min().copied());
        let (all, mut chance) = addends(seed);
        let max = aggregated(all.into_iter().map(Max).collect(), &mut chance).unwrap();
        prop_assert_eq!(bids.iter().find(|bid| bid.0 == max.0).unwrap().1, max.1);
        prop_assert_eq!(Some(max.0), inputs.iter().max().copied());
    }

    #[test]
    fn collections_fold(inputs in vec((0_u8..12, any::<i16>()), 1..60), seed: u64) {
        let set: BTreeSet<u8> = inputs.iter().map(|(key, _)| *key).collect();
        check_orders(&inputs, |(key, _)| SetOf(key), seed, Some(set));
        let mut counts: BTreeMap<u8, u32> = BTreeMap::new();
        for (key, _) in &inputs {
            *counts.entry(*key).or_default() += 1;
        }
        check_orders(&inputs, |(key, _)| MultiSet(key), seed, Some(counts));
        let map: BTreeMap<u8, i16> = inputs.iter().copied().collect();
        check_groups(&inputs, |(key, value)| MapOf(key, value), seed, Some(map.clone()));
        let three = |(key, value)| {
            MergeMap(BTreeMap::from([(key, value), (key / 2, value), (100, value)]))
        };
        let mut merged = BTreeMap::new();
        for input in &inputs {
            merged.extend(three(*input).0);
        }
        check_groups(&inputs, three, seed, Some(merged));
        let list: Vec<i16> = inputs.iter().map(|(_, value)| *value).collect();
        check_groups(&list, ListOf, seed, Some(list.clone()));
        check_groups(&list, Limit::<1, _>, seed, Some(list[..1].to_vec()));
        let first = list[..list.len().min(9)].to_vec();
        check_groups(&list, Limit::<9, _>, seed, Some(first));
    }

    #[test]
    fn removals_fold(
        inputs in vec(0_u8..12, 1..20),
        before in prop::option::of(prop::collection::btree_set(0_u8..12, 0..8)),
        seed: u64,
    ) {
        let removed = |set: &BTreeSet<u8>| set.iter().copied().filter(|it| !inputs.contains(it)).collect();
        let expected: Option<BTreeSet<u8>> = before.as_ref().map(removed);
        let mut chance = Chance(seed);
        let addends = chance.shuffled(inputs.iter().copied().map(SetRemove).collect());
        let partial = combined::<BTreeSet<u8>, _>(addends, &mut chance);
        prop_assert_eq!(SetRemove::apply(partial, before), expected);
    }

    #[test]
    fn the_best_are_the_best(inputs in vec((0_u8..30, -20_i16..20), 1..200), seed: u64) {
        fn check<const N: usize>(inputs: &[(u8, i16)], seed: u64) {
            let mut chance = Chance(seed);
            let addends = chance.shuffled(inputs.iter().map(|&(id, score)| TopN(id, score)).collect());
            let top: Top<u8, i16, N> = aggregated(addends, &mut chance).unwrap();
            assert_eq!(top.ranked(), best(inputs, N));
        }
        check::<1>(&inputs, seed);
        check::<4>(&inputs, seed);
        check::<50>(&inputs, seed);
        let lowest: Vec<_> = inputs.iter().map(|&(id, score)| (id, Reverse(score))).collect();
        let addends = lowest.iter().map(|&(id, score)| TopN(id, score)).collect();
        let top: Top<u8, Reverse<i16>, 4> = aggregated(addends, &mut Chance(seed)).unwrap();
        prop_assert_eq!(top.ranked(), best(&lowest, 4));
    }

    #[test]
    fn rules_of_ones_own_fold(inputs in vec(any::<i16>(), 1..30), seed: u64) {
        let text: String = inputs.iter().map(i16::to_string).collect();
        check_groups(&inputs, |n| Combined::<Concat>(n.to_string()), seed, Some(text));
        let mut folded = Horner::init();
        for &input in &inputs {
            Horner::accumulate(&mut folded, input);
        }
        check_groups(&inputs, Accumulate::<Horner>, seed, Some(folded));
    }
}

#[test]
fn a_partial_of_the_best_stays_small() {
    let mut partial = Aggregate::<Top<u32, u32, 3>>::partial(TopN(0, 0));
    for n in 1..1_000 {
        <TopN<u32, u32> as Aggregate<Top<u32, u32, 3>>>::combine(&mut partial, vec![(n, n)]);
        assert!(partial.len() <= 6);
    }
}

#[test]
fn a_total_is_wider_than_what_is_averaged() {
    let addends = (0..300).map(|_| Average(u8::MAX)).collect();
    let mean: Mean<u8> = aggregated(addends, &mut Chance(1)).unwrap();
    assert_eq!((mean.total(), mean.count()), (300 * 255, 300));
    let addends = vec![Average(i64::MAX), Average(i64::MAX), Average(i64::MIN)];
    let mean: Mean<i64> = aggregated(addends, &mut Chance(1)).unwrap();
    assert_eq!(mean.total(), i128::from(i64::MAX) - 1);
}

#[test]
fn a_list_over_the_limit_stays() {
    assert_eq!(Limit::<2, u8>::apply(vec![9], Some(vec![1, 2, 3])), Some(vec![1, 2, 3]));
}

#[test]
fn nothing_is_removed_from_nothing() {
    assert_eq!(SetRemove::apply(BTreeSet::from([1_u8]), None), None);
    let left = SetRemove::apply(BTreeSet::from([1_u8]), Some(BTreeSet::from([1])));
    assert_eq!(left, Some(BTreeSet::new()), "an empty set is a value");
}

#[test]
fn additions_to_a_sub_go_to_the_row_of_their_element() {
    fn key<P, O, S>(change: Change<P, O, S>) -> Vec<u8> {
        change.target.unwrap().key.to_vec()
    }
    enum Me {}
    type Sets = Map<u8, Sub<Set<u16>>>;
    type Maps = Map<u8, Sub<Map<u16, u32>>>;
    let sets = Owned::<Sets, Me>::from_id(PStateId(1));
    let maps = Owned::<Maps, Me>::from_id(PStateId(2));
    let row = sets.key(1).has(300).target().unwrap();
    assert_eq!(key(sets.key(1).add(SetOf(300))), row.key.to_vec());
    assert_eq!(key(sets.key(1).add(SetRemove(300))), row.key.to_vec());
    assert_eq!(key(maps.key(1).add(MultiSet(300))), row.key.to_vec());
    assert_eq!(key(maps.key(1).add(MapOf(300, 5))), row.key.to_vec());
    // Placed by the first key all the same.
    assert_eq!(sets.key(1).add(SetOf(300)).target.unwrap().place, row.place);
    let merged = maps.key(1).add(MergeMap(BTreeMap::from([(300, 5)])));
    assert_eq!(key(merged), maps.key(1).target().unwrap().key.to_vec());
}

#[test]
fn what_makes_a_key_too_long_is_found_where_it_is_added() {
    enum Me {}
    let maps = Owned::<Map<String, Sub<Map<String, u32>>>, Me>::from_id(PStateId(2));
    let long = || "x".repeat(1_100);
    let refused = |target: Result<Target>| {
        assert!(matches!(target, Err(Error::ElementTooLong { bytes: 1_105.., .. })), "{target:?}");
    };
    refused(maps.key("ann").add(MultiSet(long())).target);
    refused(maps.key("ann").add(MapOf(long(), 1)).target);
    let both = BTreeMap::from([("a".to_owned(), 1), (long(), 2)]);
    refused(maps.key("ann").add(MergeMap(both)).target);
    // What was wrong before stays what is wrong.
    let target = maps.key(long()).add(MapOf(long(), 1)).target;
    assert!(matches!(target, Err(Error::KeyTooLong { .. })), "{target:?}");
}
