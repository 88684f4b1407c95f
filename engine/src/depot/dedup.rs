//! The window in which a repeated append gets the first answer: the newest `sequences_max` appends of
//! each of the `clients_max` clients that appended last. What it holds is a function of the appends
//! in order of offset, so recovery arrives at the same window, unless memory was short meanwhile: then
//! the clients that appended longest ago went first.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;

use super::batch::{Key, Reader};
use super::{Error, Result};
use crate::types::Offset;

/// The newest keys of the newest clients.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dedup {
    clients: BTreeMap<u128, Window>,
    /// Client by the first offset of its newest append: who goes first when there are too many.
    by_age: BTreeMap<u64, u128>,
    /// Of all windows together.
    appends: usize,
}

/// Appends of one client, oldest first. Never empty.
type Window = VecDeque<(u64, Range<Offset>)>;

impl Dedup {
    /// The offsets that the append with this key got, if it is within the window.
    pub fn lookup(&self, key: Key) -> Option<Range<Offset>> {
        let window = self.clients.get(&key.client)?;
        let found = window.iter().rev().find(|(sequence, _)| *sequence == key.sequence)?;
        Some(found.1.clone())
    }

    /// Bytes of memory, nearly.
    pub(super) fn bytes(&self) -> usize {
        self.clients.len() * CLIENT_BYTES + self.appends * APPEND_BYTES
    }

    /// Forgets the clients that appended longest ago until all take at most `bytes_max` of memory.
    pub(super) fn shrink(&mut self, bytes_max: usize) {
        while self.bytes() > bytes_max && self.forget_oldest() {}
    }

    fn forget_oldest(&mut self) -> bool {
        let Some((_, client)) = self.by_age.pop_first() else { return false };
        let gone = self.clients.remove(&client);
        self.appends -= gone.map_or(0, |window| window.len());
        true
    }

    /// Remembers an append; its offsets are above those of all before.
    pub(super) fn insert(
        &mut self,
        key: Key,
        offsets: Range<Offset>,
        clients_max: usize,
        sequences_max: usize,
    ) {
        let window = self.clients.entry(key.client).or_default();
        if let Some((_, newest)) = window.back() {
            self.by_age.remove(&newest.start.0);
        }
        self.by_age.insert(offsets.start.0, key.client);
        window.push_back((key.sequence, offsets));
        self.appends += 1;
        while window.len() > sequences_max.max(1) {
            window.pop_front();
            self.appends -= 1;
        }
        while self.clients.len() > clients_max.max(1) && self.forget_oldest() {}
    }

    /// The window without appends at or above `end`.
    pub(super) fn below(&self, end: Offset) -> Self {
        let mut below = Self::default();
        for (client, window) in &self.clients {
            let kept: Window =
                window.iter().filter(|(_, offsets)| offsets.end <= end).cloned().collect();
            if let Some((_, newest)) = kept.back() {
                below.appends += kept.len();
                below.by_age.insert(newest.start.0, *client);
                below.clients.insert(*client, kept);
            }
        }
        below
    }

    /// Appends the window to `target`.
    pub(super) fn encode(&self, target: &mut Vec<u8>) {
        put_count(target, self.clients.len());
        for (client, window) in &self.clients {
            target.extend_from_slice(&client.to_le_bytes());
            put_count(target, window.len());
            for (sequence, offsets) in window {
                target.extend_from_slice(&sequence.to_le_bytes());
                target.extend_from_slice(&offsets.start.0.to_le_bytes());
                put_count(target, usize::try_from(offsets.end.0 - offsets.start.0).unwrap_or(0));
            }
        }
    }

    pub(super) fn decode(reader: &mut Reader<'_>) -> Result<Self> {
        let mut dedup = Self::default();
        for _ in 0..reader.u32()? {
            let client = u128::from_le_bytes(reader.array()?);
            let mut window = Window::new();
            for _ in 0..reader.u32()? {
                let sequence = reader.u64()?;
                let first = reader.u64()?;
                let end = first.checked_add(u64::from(reader.u32()?)).ok_or(WRONG)?;
                window.push_back((sequence, Offset(first)..Offset(end)));
            }
            let newest = window.back().ok_or(WRONG)?.1.start.0;
            dedup.appends += window.len();
            let other = dedup.by_age.insert(newest, client);
            if other.is_some() || dedup.clients.insert(client, window).is_some() {
                return Err(WRONG);
            }
        }
        Ok(dedup)
    }
}

/// What a client takes beside its appends: its part of two maps, and a queue.
const CLIENT_BYTES: usize = 160;

/// What an append takes, with the room that a queue keeps.
const APPEND_BYTES: usize = 2 * size_of::<(u64, Range<Offset>)>();

fn put_count(target: &mut Vec<u8>, count: usize) {
    let count = u32::try_from(count).expect("windows and batches are far below 2^32");
    target.extend_from_slice(&count.to_le_bytes());
}

const WRONG: Error = Error::BadPayload { what: "the window of repeated appends is malformed" };

#[cfg(test)]
mod tests {
    use super::*;

    fn key(client: u128, sequence: u64) -> Key {
        Key { client, sequence }
    }

    #[test]
    fn keeps_the_newest_of_the_newest() {
        let mut dedup = Dedup::default();
        for step in 0..12_u64 {
            let offsets = Offset(step)..Offset(step + 1);
            dedup.insert(key(u128::from(step % 3), step), offsets, 2, 2);
        }
        let known: Vec<u64> =
            (0..12).filter(|&s| dedup.lookup(key(u128::from(s % 3), s)).is_some()).collect();
        assert_eq!(known, [10, 11], "each step evicts the client that is about to come next");

        let mut dedup = Dedup::default();
        for step in 0..12_u64 {
            let offsets = Offset(step)..Offset(step + 1);
            dedup.insert(key(u128::from(step % 2), step), offsets, 2, 2);
        }
        let known: Vec<u64> =
            (0..12).filter(|&s| dedup.lookup(key(u128::from(s % 2), s)).is_some()).collect();
        assert_eq!(known, [8, 9, 10, 11], "two of each client");
    }

    #[test]
    fn short_of_memory_the_oldest_clients_go_first() {
        let mut dedup = Dedup::default();
        for step in 0..400_u64 {
            let offsets = Offset(step)..Offset(step + 1);
            dedup.insert(key(u128::from(step % 100), step), offsets, 100, 4);
        }
        let full = dedup.bytes();
        assert_eq!(full, 100 * CLIENT_BYTES + 400 * APPEND_BYTES);
        dedup.shrink(full);
        assert_eq!(dedup.bytes(), full);
        dedup.shrink(full / 4);
        assert_eq!(dedup.bytes(), full / 4);
        let known: Vec<u64> =
            (300..400).filter(|&s| dedup.lookup(key(u128::from(s % 100), s)).is_some()).collect();
        assert_eq!(known, (375..400).collect::<Vec<_>>());
        dedup.shrink(0);
        assert_eq!(dedup, Dedup::default());
    }

    #[test]
    fn survives_encoding_and_cutting() {
        let mut dedup = Dedup::default();
        for step in 0..20_u64 {
            dedup.insert(key(u128::from(step % 4), step), Offset(step)..Offset(step + 1), 8, 3);
        }
        let mut bytes = Vec::new();
        dedup.encode(&mut bytes);
        let mut reader = Reader { rest: &bytes };
        assert_eq!(Dedup::decode(&mut reader).unwrap(), dedup);
        reader.end().unwrap();
        for cut in 0..bytes.len() {
            assert!(Dedup::decode(&mut Reader { rest: &bytes[..cut] }).is_err());
        }
        let below = dedup.below(Offset(17));
        assert!(below.lookup(key(1, 17)).is_none());
        assert!(below.lookup(key(0, 16)).is_some());
    }
}
