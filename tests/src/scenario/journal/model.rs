//! What must be in the journal, and what may be.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use tidemill::journal::{Entry, Group, Journal, Ticket};
use tidemill::types::{Index, PartitionId};

use crate::random::Random;
use crate::scenario::Failure;

/// The oracle of acknowledged entries: each is there after recovery.
pub(super) const LOST: &str = "acknowledged-entries-are-there";

pub(super) type Item = (PartitionId, Index, Rc<[u8]>);

#[derive(Default)]
pub(super) struct Model {
    entries: BTreeMap<(PartitionId, Index), Known>,
    /// Groups of this life that are not known to be durable.
    waiting: BTreeMap<Ticket, Vec<(PartitionId, Index)>>,
    next: BTreeMap<PartitionId, Index>,
    covered: BTreeMap<PartitionId, Index>,
    /// Covered, but still needed: prepares without an outcome.
    pending: BTreeSet<(PartitionId, Index)>,
    groups: u64,
    copied: bool,
}

struct Known {
    bytes: Rc<[u8]>,
    /// Counts groups in the order of their appends.
    group: u64,
    durable: bool,
}

/// What a recovery found, if it may be so.
pub(super) struct Settled {
    found: BTreeSet<(PartitionId, Index)>,
}

impl Model {
    /// Gives the next indexes to a group.
    pub(super) fn next_group(&mut self, group: &[(PartitionId, Rc<[u8]>)]) -> Vec<Item> {
        let mut next = self.next.clone();
        group
            .iter()
            .map(|(partition, bytes)| {
                let index = next.entry(*partition).or_insert(Index(1));
                let mine = *index;
                *index = mine.next();
                (*partition, mine, Rc::clone(bytes))
            })
            .collect()
    }

    pub(super) fn appended(&mut self, ticket: Ticket, items: Vec<Item>) {
        self.groups += 1;
        let keys = items.iter().map(|(partition, index, _)| (*partition, *index)).collect();
        for (partition, index, bytes) in items {
            self.next.insert(partition, index.next());
            let known = Known { bytes, group: self.groups, durable: false };
            self.entries.insert((partition, index), known);
        }
        self.waiting.insert(ticket, keys);
    }

    /// Everything up to `ticket` was acknowledged.
    pub(super) fn durable(&mut self, ticket: Ticket) {
        let later = self.waiting.split_off(&Ticket(ticket.0 + 1));
        for key in std::mem::replace(&mut self.waiting, later).into_values().flatten() {
            self.entries.get_mut(&key).expect("it was appended").durable = true;
        }
    }

    pub(super) fn all_durable(&mut self) {
        self.durable(Ticket(u64::MAX - 1));
    }

    /// A fold covers a part of what is durable.
    pub(super) fn cover(&mut self, partition: PartitionId, random: &Random) {
        self.pending.retain(|(other, _)| *other != partition || !random.one_in(3));
        let from = self.covered.get(&partition).copied().unwrap_or_default();
        let durable: Vec<Index> = self
            .entries
            .range((partition, from.next())..=(partition, Index(u64::MAX)))
            .take_while(|(_, known)| known.durable)
            .map(|((_, index), _)| *index)
            .collect();
        let Some(&last) = durable.last() else { return };
        let to = if random.one_in(3) { *random.pick(&durable) } else { last };
        self.covered.insert(partition, to);
        if random.one_in(4) {
            self.pending.insert((partition, to));
        }
    }

    /// Tells the journal what a partition's fold covers.
    pub(super) fn say(&self, partition: PartitionId, journal: &Journal) {
        let Some(&covered) = self.covered.get(&partition) else { return };
        let pending: Vec<Index> = self
            .pending
            .range((partition, Index(0))..=(partition, covered))
            .map(|(_, index)| *index)
            .collect();
        journal.covered(partition, covered, &pending);
    }

    pub(super) fn say_covered(&self, journal: &Journal) {
        for &partition in self.covered.keys() {
            self.say(partition, journal);
        }
    }

    /// Entries may be in the journal more than once, and later than newer ones.
    pub(super) fn copied(&mut self) {
        self.copied = true;
    }

    fn needed(&self, key: (PartitionId, Index)) -> bool {
        let covered = self.covered.get(&key.0).copied().unwrap_or_default();
        key.1 > covered || self.pending.contains(&key)
    }

    /// Judges what a recovery returned.
    pub(super) fn judge(&self, groups: &[Group], clean: bool) -> Result<Settled, Failure> {
        let mut found = BTreeSet::new();
        let mut reach = 0;
        for entry in groups.iter().flat_map(|group| &group.entries) {
            let key = (entry.partition, entry.index);
            let known = self.known(entry)?;
            if !found.insert(key) && !self.copied {
                return Err(Failure::new("exactly-once", format!("{key:?} is there twice")));
            }
            if known.group < reach && !self.copied {
                return Err(Failure::new("in-order", format!("{key:?} comes too late")));
            }
            reach = reach.max(known.group);
        }
        for (&key, known) in &self.entries {
            if found.contains(&key) || !self.needed(key) {
                continue;
            }
            if known.durable || clean {
                return Err(Failure::new(LOST, format!("{key:?} is gone")));
            }
            if known.group <= reach {
                let message = format!("{key:?} is gone, but a later group is there");
                return Err(Failure::new("nothing-after-a-hole", message));
            }
        }
        Ok(Settled { found })
    }

    fn known(&self, entry: &Entry) -> Result<&Known, Failure> {
        let key = (entry.partition, entry.index);
        let Some(known) = self.entries.get(&key) else {
            return Err(Failure::new("nothing-from-nowhere", format!("{key:?} is not expected")));
        };
        if *known.bytes != *entry.bytes {
            return Err(Failure::new("right-content", format!("{key:?} has other bytes")));
        }
        Ok(known)
    }

    /// What a finished recovery served is durable; what it did not serve must never come back.
    pub(super) fn settle(&mut self, settled: Settled) {
        self.waiting.clear();
        let found = settled.found;
        let mut entries = std::mem::take(&mut self.entries);
        entries.retain(|&key, known| {
            known.durable |= found.contains(&key);
            known.durable
        });
        self.entries = entries;
        self.next.clear();
        for &(partition, index) in self.entries.keys() {
            self.next.insert(partition, index.next());
        }
        for (partition, covered) in &self.covered {
            let next = self.next.entry(*partition).or_insert(Index(1));
            *next = (*next).max(covered.next());
        }
    }

    /// Damage took acknowledged entries, and recovery said so: goes on with what is left.
    pub(super) fn forgive(&mut self, groups: &[Group]) {
        let found: BTreeSet<_> = groups
            .iter()
            .flat_map(|group| &group.entries)
            .map(|entry| (entry.partition, entry.index))
            .collect();
        let needless: Vec<_> =
            self.entries.keys().copied().filter(|&key| !self.needed(key)).collect();
        for (key, known) in &mut self.entries {
            known.durable = found.contains(key) || needless.contains(key);
        }
        self.pending.retain(|key| found.contains(key));
        self.settle(Settled { found });
    }
}
