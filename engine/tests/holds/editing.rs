//! A module of notes, lists and shelves that subscriptions and differences are tried on.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tidemill::client::Launched;
use tidemill::module::{Depot, Module};
use tidemill::node::Options;
use tidemill::schema::{Fields, List, Map, PState, Set, Sub};
use tidemill::types::MicrobatchId;

use crate::kit;

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Edit {
    pub(crate) user: u32,
    pub(crate) what: Do,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Do {
    Set(u16, String),
    Remove(u16),
    Clear,
    Tag(u8, bool),
    Push(String),
    Insert(u64, String),
    Pop,
    Forget,
    Nothing,
    Shelve(u8, u16, String),
    Unshelve(u8, Option<u16>),
    Draw(Card),
}

/// A value with parts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Fields)]
pub(crate) struct Card {
    pub(crate) title: String,
    pub(crate) points: Vec<u32>,
    pub(crate) marks: BTreeMap<String, u32>,
}

/// Texts by shelf and place.
pub(crate) type Shelves = Map<u8, Sub<Map<u16, String>>>;

pub(crate) struct Notes {
    pub(crate) edits: Depot<Edit>,
    pub(crate) texts: PState<Map<u32, Sub<Map<u16, String>>>>,
    pub(crate) tags: PState<Map<u32, Sub<Set<u8>>>>,
    pub(crate) queue: PState<Map<u32, Sub<List<String>>>>,
    pub(crate) last: PState<Map<u32, String>>,
    pub(crate) shelves: PState<Map<u32, Sub<Shelves>>>,
    pub(crate) cards: PState<Map<u32, Card>>,
}

pub(crate) fn notes(m: &Module) -> Notes {
    let edits = m.depot::<Edit>("edits").hash_by(|edit| &edit.user);
    let t = m.microbatch(|| "editing");
    let (texts, tags) = (t.pstate("texts"), t.pstate("tags"));
    let (queue, last) = (t.pstate("queue"), t.pstate("last"));
    let (shelves, cards) = (t.pstate("shelves"), t.pstate("cards"));
    t.source(edits).using((texts, tags, queue, last, shelves, cards)).for_each(
        async |at, (texts, tags, queue, last, shelves, cards), Edit { user, what }| {
            at.put(last.key(user), format!("{what:?}"))?;
            match what {
                Do::Set(key, text) => at.put(texts.key(user).key(key), text)?,
                Do::Remove(key) => at.delete(texts.key(user).key(key))?,
                Do::Clear => at.delete(texts.key(user))?,
                Do::Tag(tag, is) => at.put(tags.key(user).has(tag), is)?,
                Do::Push(text) => at.push(queue.key(user), text).await?,
                Do::Insert(index, text) => {
                    let count = at.get(queue.key(user).size()).await?;
                    at.insert(queue.key(user), index.min(count), text).await?;
                }
                Do::Pop if at.get(queue.key(user).size()).await? > 0 => {
                    at.remove(queue.key(user), 0).await?;
                }
                Do::Pop | Do::Nothing => {}
                Do::Forget => at.delete(last.key(user))?,
                Do::Shelve(shelf, place, text) => {
                    at.put(shelves.key(user).key(shelf).key(place), text)?;
                }
                Do::Unshelve(shelf, None) => at.delete(shelves.key(user).key(shelf))?,
                Do::Unshelve(shelf, Some(place)) => {
                    at.delete(shelves.key(user).key(shelf).key(place))?;
                }
                Do::Draw(card) => at.put(cards.key(user), card)?,
            }
            Ok(())
        },
    );
    Notes {
        edits,
        texts: texts.reader(),
        tags: tags.reader(),
        queue: queue.reader(),
        last: last.reader(),
        shelves: shelves.reader(),
        cards: cards.reader(),
    }
}

pub(crate) fn options() -> Options {
    Options {
        memory_bytes: 64 << 20,
        history: Duration::from_hours(1),
        history_bytes_max: Some(256 << 20),
        microbatch_records_max: 4,
        subscription_heartbeat: Duration::from_millis(5),
        ..kit::options(2)
    }
}

/// Appends edits, and gives the id at which all of them are visible.
pub(crate) async fn do_all(
    notes: &Launched<Notes>,
    edits: impl IntoIterator<Item = Edit>,
) -> MicrobatchId {
    let edits: Vec<Edit> = edits.into_iter().collect();
    notes.append_many(notes.edits, &edits).await.unwrap();
    notes.caught_up("editing").await.unwrap();
    notes.snapshot().await.unwrap().ids()[0].1
}

pub(crate) fn set(user: u32, key: u16, text: &str) -> Edit {
    Edit { user, what: Do::Set(key, text.to_owned()) }
}
