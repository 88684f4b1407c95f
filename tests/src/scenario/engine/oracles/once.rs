//! *once*: no record lies in a depot twice, also not one that was repeated under its key; nothing lies
//! there that nobody sent; the records of one `append_many` lie in a partition together, without a gap,
//! or not at all.

use std::collections::BTreeMap;

use super::super::history::{History, Kind, Place};
use super::super::module::BY_LEDGER;
use super::super::replay::Depots;
use crate::scenario::{Failure, check};

const NAME: &str = "once";

pub(in super::super) fn judge(history: &History, depots: &Depots) -> Result<(), Failure> {
    let mut places: BTreeMap<u64, Place> = BTreeMap::new();
    for (&place, record) in depots {
        let id = record.id();
        let before = places.insert(id, place);
        check(NAME, before.is_none(), || {
            format!("record {id} lies at {place:?} and at {before:?}")
        })?;
        if place.kind == Kind::Receipts && id & BY_LEDGER != 0 {
            continue;
        }
        let sent = history.sent.get(&id);
        check(NAME, sent.is_some_and(|sent| sent.record == *record), || {
            format!("nobody sent what lies at {place:?}: {record:?}")
        })?;
    }
    groups(history, depots, &places)
}

fn groups(
    history: &History,
    depots: &Depots,
    places: &BTreeMap<u64, Place>,
) -> Result<(), Failure> {
    let mut groups: BTreeMap<u64, Vec<(u64, Place)>> = BTreeMap::new();
    for (&id, &place) in places {
        if let Some(group) = history.sent.get(&id).and_then(|sent| sent.group) {
            groups.entry(group).or_default().push((id, place));
        }
    }
    for (group, there) in groups {
        let (first, _) = there[0];
        let partition_of = |id: u64| history.sent[&id].record.partition();
        let mut by_partition: BTreeMap<_, Vec<u64>> = BTreeMap::new();
        for (&id, _) in history.sent.iter().filter(|(_, sent)| sent.group == Some(group)) {
            by_partition.entry(partition_of(id)).or_default().push(id);
        }
        for (partition, ids) in by_partition {
            let found: Vec<Place> = ids.iter().filter_map(|id| places.get(id).copied()).collect();
            let whole = found.len() == ids.len()
                && found.windows(2).all(|two| two[0].offset.advance(1) == two[1].offset);
            check(NAME, found.is_empty() || whole, || {
                let offsets: Vec<_> = found.iter().map(|place| place.offset).collect();
                format!(
                    "of {} records appended together with record {first} to partition {partition}, \
                     {} lie there, at {offsets:?}, of {} records in all",
                    ids.len(),
                    found.len(),
                    depots.len()
                )
            })?;
        }
    }
    Ok(())
}
