//! The best of what was added.

use serde::{Deserialize, Serialize};

use super::Aggregate;
use crate::schema::Data;

/// Offers `id` with a score to a [`Top`].
///
/// An id ranks by the *highest* score that was ever added for it. So it follows what only rises: counts,
/// totals, best results, times. A score that falls is not followed; keep such scores in a map, and
/// rank where they are read.
///
/// ```
/// # use tidemill::schema::{Map, Owned, aggregate::{Top, TopN}};
/// # fn example<O>(best: Owned<Map<String, Top<u64, u32, 10>>, O>, player: u64, points: u32) {
/// let _ = best.key("chess").add(TopN(player, points));
/// # }
/// ```
#[derive(Clone, Copy, Debug)]
pub struct TopN<I, S>(pub I, pub S);

impl<I: Data + Ord, S: Data + Ord, const N: usize> Aggregate<Top<I, S, N>> for TopN<I, S> {
    /// In no order, and at most `2 * N`: so that sorting is paid for once in `N` additions.
    type Partial = Vec<(I, S)>;

    fn partial(self) -> Vec<(I, S)> {
        const { assert!(N > 0, "a top of 0 keeps nothing") };
        vec![(self.0, self.1)]
    }

    fn combine(a: &mut Vec<(I, S)>, mut b: Vec<(I, S)>) {
        a.append(&mut b);
        if a.len() > 2 * N {
            rank(a, N);
        }
    }

    fn apply(mut partial: Vec<(I, S)>, old: Option<Top<I, S, N>>) -> Option<Top<I, S, N>> {
        partial.extend(old.into_iter().flat_map(|top| top.ranked));
        rank(&mut partial, N);
        Some(Top { ranked: partial })
    }
}

/// The `N` ids with the highest scores, each with its highest. Equal scores are ranked by id, lower ones
/// first, so the result depends on what was added, and not on when.
///
/// For the lowest scores, take [`std::cmp::Reverse`] of them. This is also a limit with an order: the id is the
/// row to keep, the score what the rows are sorted by.
///
/// ```
/// # use std::cmp::Reverse;
/// use tidemill::schema::Map;
/// use tidemill::schema::aggregate::{Top, TopN};
/// use tidemill::testing::TestPState;
///
/// // The three cheapest offers for each item, cheapest first.
/// let offers = TestPState::<Map<String, Top<String, Reverse<u32>, 3>>>::new().unwrap();
/// for (shop, cents) in [("a", 90), ("b", 70), ("c", 80), ("d", 95)] {
///     let nuts = offers.token().key("nuts");
///     offers.aggregate(nuts.add(TopN(shop.to_owned(), Reverse(cents)))).unwrap();
/// }
/// let cheapest = offers.select(offers.token().key("nuts")).unwrap().unwrap();
/// let shops: Vec<_> = cheapest.ranked().iter().map(|(shop, _)| shop.as_str()).collect();
/// assert_eq!(shops, ["b", "c", "a"]);
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Top<I, S, const N: usize> {
    ranked: Vec<(I, S)>,
}

impl<I, S, const N: usize> Top<I, S, N> {
    /// Ids and scores, best first.
    #[must_use]
    pub fn ranked(&self) -> &[(I, S)] {
        &self.ranked
    }
}

/// Keeps the best `limit` of all ids. None of those left out could rank among them later without being
/// added again: what outranks it only rises.
fn rank<I: Ord, S: Ord>(entries: &mut Vec<(I, S)>, limit: usize) {
    entries.sort_unstable_by(|(a, a_score), (b, b_score)| a.cmp(b).then(b_score.cmp(a_score)));
    entries.dedup_by(|later, kept| later.0 == kept.0);
    // Stable: ids stay in order where scores are equal.
    entries.sort_by(|(_, a), (_, b)| b.cmp(a));
    entries.truncate(limit);
}
