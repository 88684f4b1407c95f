//! The journal that the scenario plays, the fold's record, and the records that must be there.

use std::collections::BTreeMap;
use std::ops::Range;

use tidemill::depot::{Batch, Records, State};
use tidemill::types::{Index, Offset, WallTime};

use crate::random::Random;
use crate::scenario::{Failure, check};

/// An entry of the partition's sequence.
#[derive(Clone)]
pub(super) struct Entry {
    pub(super) first: Offset,
    pub(super) records: Vec<Vec<u8>>,
    pub(super) content: Content,
    keyed: Option<Batch>,
}

#[derive(Clone)]
pub(super) enum Content {
    /// An append's payload.
    Payload(Vec<u8>),
    /// A microbatch's commit at this index.
    Placed(Index, Batch, WallTime),
}

#[derive(Default)]
pub(super) struct Model {
    /// In the journal, not covered by a recorded fold.
    entries: Vec<Entry>,
    /// So many of `entries` are durable.
    durable: usize,
    /// Counts entries for ever.
    index_last: u64,
    /// Every record that has an offset.
    records: BTreeMap<Offset, Vec<u8>>,
    end: Offset,
    /// Records below were acknowledged.
    acknowledged: Offset,
    first: Offset,
    recorded: State,
    recording: Option<State>,
}

impl Entry {
    fn end(&self) -> Offset {
        self.first.advance(self.records.len() as u64)
    }
}

impl Model {
    pub(super) fn next_index(&self) -> Index {
        Index(self.index_last + 1)
    }

    pub(super) fn append(
        &mut self,
        offsets: &Range<Offset>,
        content: Content,
        records: Vec<Vec<u8>>,
        keyed: Option<Batch>,
    ) -> Result<(), Failure> {
        let first = self.end;
        let entry = Entry { first, records, content, keyed };
        check("offsets-are-dense", *offsets == (first..entry.end()), || {
            format!("{offsets:?} instead of {first}..{}", entry.end())
        })?;
        self.index_last += 1;
        self.end = entry.end();
        for (step, record) in (0..).zip(&entry.records) {
            self.records.insert(first.advance(step), record.clone());
        }
        self.entries.push(entry);
        Ok(())
    }

    /// A batch with a key that is surely within the window, and the offsets it got.
    pub(super) fn newest_keyed(&self) -> Option<(Batch, Range<Offset>)> {
        let entry = self.entries.iter().rev().find(|entry| entry.keyed.is_some())?;
        Some((entry.keyed.clone()?, entry.first..entry.end()))
    }

    /// How many entries there are, and the end of their records.
    pub(super) fn appended(&self) -> (u64, Offset) {
        (self.index_last, self.end)
    }

    /// The first `count` entries ever are durable.
    pub(super) fn journaled(&mut self, count: u64) {
        let later = usize::try_from(self.index_last - count).expect("small");
        self.durable = self.durable.max(self.entries.len().saturating_sub(later));
    }

    pub(super) fn acknowledged(&mut self, end: Offset) {
        self.acknowledged = self.acknowledged.max(end);
    }

    pub(super) fn recording(&mut self, state: State) {
        self.recording = Some(state);
    }

    /// The fold is durable, and the journal forgets what it covers.
    pub(super) fn record(&mut self) {
        let Some(state) = self.recording.take() else { return };
        let covered = self.entries.partition_point(|entry| entry.end() <= state.end);
        self.entries.drain(..covered);
        self.durable = self.durable.saturating_sub(covered);
        self.recorded = state;
    }

    pub(super) fn recorded(&self) -> State {
        self.recorded.clone()
    }

    pub(super) fn trimmed(&mut self, first: Offset) {
        self.first = self.first.max(first);
    }

    /// A crash keeps what is durable and a part of what was under way, in order.
    pub(super) fn crash(&mut self, random: &Random) {
        if random.one_in(2) {
            self.record();
        }
        self.recording = None;
        let more = random.index(self.entries.len() - self.durable + 1);
        self.entries.truncate(self.durable + more);
        self.durable = self.entries.len();
        self.forget_the_rest();
    }

    pub(super) fn replay(&self) -> Vec<Entry> {
        self.entries.clone()
    }

    /// Entry `number` of the replay met a torn extent: it and what follows never were.
    pub(super) fn cut(&mut self, number: usize, damaged: bool) -> Result<(), Failure> {
        let first = self.entries[number].first;
        check(LOST, damaged || first >= self.acknowledged, || {
            format!("cut at {first}, acknowledged below {}", self.acknowledged)
        })?;
        self.acknowledged = self.acknowledged.min(first);
        self.entries.truncate(number);
        self.durable = self.entries.len();
        self.forget_the_rest();
        Ok(())
    }

    fn forget_the_rest(&mut self) {
        self.end = self.entries.last().map_or(self.recorded.end, Entry::end);
        self.records.split_off(&self.end);
    }

    /// Compares what a read returned.
    pub(super) fn same(&self, from: Offset, found: &Records) -> Result<(), Failure> {
        let mut offset = from;
        for record in found.iter() {
            check("offsets-are-dense", record.offset == offset, || {
                format!("{} instead of {offset}", record.offset)
            })?;
            let expected = self.records.get(&offset).map(Vec::as_slice);
            check("right-content", expected == Some(record.bytes), || {
                format!("record {offset} is not what was appended")
            })?;
            offset = offset.advance(1);
        }
        Ok(())
    }

    /// Compares what a log holds in all.
    pub(super) fn complete(&self, first: Offset, end: Offset) -> Result<(), Failure> {
        check(LOST, end >= self.acknowledged, || {
            format!("ends at {end}, acknowledged below {}", self.acknowledged)
        })?;
        check("ends-where-it-should", end == self.end, || {
            format!("ends at {end} instead of {}", self.end)
        })?;
        check("trims-no-more-than-asked", first <= self.first, || {
            format!("starts at {first}, trimmed below {}", self.first)
        })
    }
}

/// The oracle of acknowledged records: each is there after recovery.
const LOST: &str = "acknowledged-records-are-there";
