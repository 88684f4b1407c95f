//! The journal that the scenario plays, and the rows it leads to.

use std::collections::BTreeMap;
use std::rc::Rc;

use tidemill::pstate::Run;
use tidemill::types::{Index, MicrobatchId, PStateId};

use super::random_run;
use crate::random::Random;
use crate::scenario::Failure;

pub(super) type Rows = BTreeMap<(PStateId, Vec<u8>), Rc<[u8]>>;

/// One entry of the partition's sequence.
#[derive(Clone)]
pub(super) struct Entry {
    pub(super) index: Index,
    pub(super) change: Change,
}

#[derive(Clone)]
pub(super) enum Change {
    /// Committed at once.
    Write(Rc<Run>),
    Prepare(MicrobatchId, Rc<Run>),
    Commit(MicrobatchId),
    Abort(MicrobatchId),
}

pub(super) enum Write {
    Put(PStateId, Vec<u8>, Rc<[u8]>),
    Delete(PStateId, Vec<u8>),
    DeleteRange(PStateId, Vec<u8>, Option<Vec<u8>>),
}

/// Prepared and undecided.
struct Prepared {
    id: MicrobatchId,
    index: Index,
    writes: Vec<Write>,
}

#[derive(Default)]
pub(super) struct Model {
    entries: Vec<Entry>,
    rows: Rows,
    prepared: Vec<Prepared>,
    id_last: u64,
}

impl Model {
    pub(super) fn last(&self) -> Index {
        Index(self.entries.len() as u64)
    }

    /// What everybody sees.
    pub(super) fn visible(&self) -> &Rows {
        &self.rows
    }

    /// Indexes of prepares without an outcome.
    pub(super) fn undecided(&self) -> Vec<Index> {
        self.prepared.iter().map(|prepared| prepared.index).collect()
    }

    /// The highest prepared id, and what work on top of it sees.
    pub(super) fn prepared_top(&self) -> Option<(MicrobatchId, Rows)> {
        let top = self.prepared.last()?.id;
        let mut rows = self.rows.clone();
        for write in self.prepared.iter().flat_map(|prepared| &prepared.writes) {
            write.apply(&mut rows);
        }
        Some((top, rows))
    }

    /// Makes up the next entry.
    pub(super) fn next_change(&mut self, random: &Random) -> Entry {
        let change = match random.below(10) {
            0 | 1 if self.prepared.len() < 2 => {
                let (run, writes) = random_run(random);
                self.id_last += 1;
                let id = MicrobatchId(self.id_last);
                let index = self.last().next();
                let writes = writes.into_values().collect();
                self.prepared.push(Prepared { id, index, writes });
                Change::Prepare(id, run)
            }
            2 if !self.prepared.is_empty() => {
                let prepared = self.prepared.remove(0);
                for write in &prepared.writes {
                    write.apply(&mut self.rows);
                }
                Change::Commit(prepared.id)
            }
            3 if !self.prepared.is_empty() => {
                Change::Abort(self.prepared.pop().expect("not empty").id)
            }
            _ => {
                let (run, writes) = random_run(random);
                for write in writes.values() {
                    write.apply(&mut self.rows);
                }
                Change::Write(run)
            }
        };
        let entry = Entry { index: self.last().next(), change };
        self.entries.push(entry.clone());
        entry
    }

    /// What recovery applies over a root that covers `covers`, less `pending`.
    pub(super) fn replay(&self, covers: Index, pending: &[Index]) -> Result<Vec<Entry>, Failure> {
        let mut expected = Vec::new();
        for entry in self.entries.iter().take_while(|entry| entry.index <= covers) {
            match &entry.change {
                Change::Prepare(id, _) => expected.push((*id, entry.index)),
                Change::Commit(id) | Change::Abort(id) => {
                    expected.retain(|(prepared, _)| prepared != id);
                }
                Change::Write(_) => {}
            }
        }
        let expected: Vec<_> = expected.into_iter().map(|(_, index)| index).collect();
        if expected != pending {
            let message = format!("the root keeps {pending:?}, the fold was told {expected:?}");
            return Err(Failure::new("undecided-are-kept", message));
        }
        let needed =
            self.entries.iter().filter(|one| one.index > covers || pending.contains(&one.index));
        Ok(needed.cloned().collect())
    }
}

impl Write {
    pub(super) fn draw(random: &Random, pstates: &[PStateId]) -> Self {
        let pstate = *random.pick(pstates);
        match random.below(20) {
            0..=3 => Self::Delete(pstate, key(random)),
            4 => {
                let from = vec![below(random, 8)];
                let to = vec![from[0] + 1];
                Self::DeleteRange(pstate, from, Some(to))
            }
            5 => {
                let (one, two) = (key(random), key(random));
                let (from, to) = if one <= two { (one, two) } else { (two, one) };
                Self::DeleteRange(pstate, from, Some(to))
            }
            6 if random.one_in(20) => Self::DeleteRange(pstate, key(random), None),
            _ => Self::Put(pstate, key(random), value(random)),
        }
    }

    pub(super) fn apply(&self, rows: &mut Rows) {
        match self {
            Self::Put(pstate, key, value) => {
                rows.insert((*pstate, key.clone()), Rc::clone(value));
            }
            Self::Delete(pstate, key) => {
                rows.remove(&(*pstate, key.clone()));
            }
            Self::DeleteRange(pstate, from, to) => {
                rows.retain(|(of, key), _| {
                    of != pstate || key < from || to.as_ref().is_some_and(|to| key >= to)
                });
            }
        }
    }
}

fn below(random: &Random, bound: u64) -> u8 {
    u8::try_from(random.below(bound)).expect("small")
}

/// A key of a small space, so that the same ones are met again.
pub(super) fn key(random: &Random) -> Vec<u8> {
    let mut key = vec![below(random, 8), below(random, 40)];
    if random.one_in(4) {
        key.extend_from_slice(&[below(random, 3); 20]);
    }
    key
}

fn value(random: &Random) -> Rc<[u8]> {
    let len = match random.below(40) {
        0 => random.below(9_000),
        1 if random.one_in(10) => 20_000 + random.below(300_000),
        2..=9 => 100 + random.below(500),
        _ => random.below(30),
    };
    let stream = random.fork();
    (0..len).map(|_| below(&stream, 256)).collect()
}
