//! The module that tests of faults run: notes with ids, and how often each was seen.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use tidemill::Launched;
use tidemill::module::{Depot, Module};
use tidemill::schema::aggregate::Sum;
use tidemill::schema::{Map, PState};
use tidemill::types::{Offset, PartitionId};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Note {
    pub(crate) id: u64,
    pub(crate) text: String,
}

pub(crate) struct Notes {
    pub(crate) notes: Depot<Note>,
    /// How often each id was seen.
    pub(crate) seen: PState<Map<u64, i64>>,
    /// The texts, on another partition.
    pub(crate) texts: PState<Map<u64, String>>,
}

pub(crate) fn notes(m: &Module) -> Notes {
    let notes = m.depot::<Note>("notes").hash_by(|it| &it.id);
    let t = m.microbatch(|| "reading");
    let seen = t.pstate::<Map<u64, i64>>("seen");
    let texts = t.pstate::<Map<u64, String>>("texts");
    t.source(notes)
        .also(|it| it.aggregate(seen, |seen, it| seen.key(it.id).add(Sum(1))))
        .hash_by_value(|it| it.id + 1)
        .using(texts)
        .for_each(async |at, texts, it: Note| Ok(at.put(texts.key(it.id + 1), it.text)?));
    Notes { notes, seen: seen.reader(), texts: texts.reader() }
}

pub(crate) fn note(id: u64) -> Note {
    Note { id, text: format!("note {id} {}", "x".repeat(usize::try_from(id % 300).unwrap())) }
}

/// Each acknowledged note is there once, and the state is that of the notes that are there.
pub(crate) async fn check(notes: &Launched<Notes>, acknowledged: &[u64]) {
    notes.caught_up("reading").await.unwrap();
    let mut found = BTreeMap::new();
    for partition in (0..notes.engine().partitions()).map(PartitionId) {
        let mut from = Offset(0);
        loop {
            let some = notes.read_depot(notes.notes, partition, from, 1_000).await.unwrap();
            let Some(last) = some.last() else { break };
            from = last.offset.advance(1);
            for record in some {
                assert_eq!(record.record, note(record.record.id));
                assert!(found.insert(record.record.id, record.offset).is_none());
            }
        }
    }
    let lost: Vec<_> = acknowledged.iter().filter(|id| !found.contains_key(id)).collect();
    assert!(lost.is_empty(), "acknowledged and lost: {lost:?}");
    let seen = notes.select(notes.seen.all()).await.unwrap();
    assert_eq!(seen, found.keys().map(|&id| (id, 1)).collect::<Vec<_>>());
    let texts = notes.select(notes.texts.all()).await.unwrap();
    let expected: Vec<_> = found.keys().map(|&id| (id + 1, note(id).text)).collect();
    assert_eq!(texts, expected);
}
