//! Lists that are stored element by element, in an engine: over folds and reopenings, as clients see them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use tidemill::module::{Depot, Module};
use tidemill::schema::{List, Map, PState, Schema, Sub};
use tidemill::{Engine, Launched, block_on};

use crate::kit::{directory, options};

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Play {
    user: u32,
    song: String,
    /// In front of this one, as far as there are so many.
    at: u64,
    /// The oldest go, so that no more are left.
    keep: u64,
}

struct Player {
    plays: Depot<Play>,
    history: PState<Map<u32, Sub<List<String>>>>,
}

fn player(m: &Module) -> Player {
    let plays = m.depot::<Play>("plays").hash_by(|play| &play.user);
    let t = m.microbatch(|| "player");
    let history = t.pstate::<Map<u32, Sub<List<String>>>>("history");
    t.source(plays).using(history).for_each(async |at, history, play: Play| {
        let list = history.key(play.user);
        let count = at.get(list.clone().size()).await?;
        at.insert(list.clone(), play.at.min(count), play.song).await?;
        for _ in play.keep..=count {
            at.remove(list.clone(), 0).await?;
        }
        Ok(())
    });
    Player { plays, history: history.reader() }
}

const USERS: u32 = 5;

fn play(nth: u64) -> Play {
    let keep = if nth.is_multiple_of(997) { 100 } else { u64::MAX };
    let at = if nth.is_multiple_of(3) { nth * 31 % 700 } else { u64::MAX };
    // Some do not fit a leaf.
    let song = format!("song {nth}").repeat(if nth.is_multiple_of(211) { 300 } else { 1 });
    Play { user: u32::try_from(nth % u64::from(USERS)).unwrap(), song, at, keep }
}

async fn compare(player: &Launched<Player>, model: &[Vec<String>]) {
    for (user, songs) in (0..USERS).zip(model) {
        let list = player.history.key(user);
        assert_eq!(&player.select(list.clone().all()).await.unwrap(), songs);
        assert_eq!(player.select(list.clone().size()).await.unwrap(), songs.len() as u64);
        let last = player.select(list.all().reverse().limit(3)).await.unwrap();
        assert_eq!(last, songs.iter().rev().take(3).cloned().collect::<Vec<_>>());
    }
}

#[test]
fn a_list_is_what_was_done_to_it_over_folds_and_reopenings() {
    let dir = directory("lists");
    let mut model = vec![Vec::new(); USERS as usize];
    for (life, shards) in [2, 1, 3].into_iter().enumerate() {
        let mut nth = life as u64 * 2_000;
        block_on(async {
            let engine = Engine::open(&dir, options(shards)).await.unwrap();
            let player = engine.launch("player", player).await.unwrap();
            compare(&player, &model).await;
            for _ in 0..3 {
                let plays: Vec<Play> = (nth..nth + 600).map(play).collect();
                nth += 600;
                for play in &plays {
                    let songs = &mut model[play.user as usize];
                    let at = usize::try_from(play.at).unwrap().min(songs.len());
                    songs.insert(at, play.song.clone());
                    let keep = usize::try_from(play.keep).unwrap();
                    songs.drain(..songs.len().saturating_sub(keep));
                }
                player.append_many(player.plays, &plays).await.unwrap();
                player.caught_up("player").await.unwrap();
                compare(&player, &model).await;
                engine.fold().await.unwrap();
                compare(&player, &model).await;
            }
            // Some of it lies in the journal only.
            let play = play(nth);
            model[play.user as usize].insert(0, play.song.clone());
            player.append(player.plays, &Play { at: 0, keep: u64::MAX, ..play }).await.unwrap();
            player.caught_up("player").await.unwrap();
            drop(player);
            if shards == 1 {
                engine.close().await.unwrap();
            } else {
                engine.stop().await;
            }
        });
    }
}

/// A play goes to the session at this place, or begins a new one in front of it; old sessions go.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Heard {
    user: u32,
    song: String,
    at: u64,
    begins: bool,
    keep: u64,
}

#[derive(Schema)]
struct Session {
    songs: Sub<Map<String, u64>>,
    order: Sub<List<String>>,
}

struct Listener {
    heard: Depot<Heard>,
    sessions: PState<Map<u32, Sub<List<Session>>>>,
}

fn listener(m: &Module) -> Listener {
    let heard = m.depot::<Heard>("heard").hash_by(|heard| &heard.user);
    let t = m.microbatch(|| "listener");
    let sessions = t.pstate::<Map<u32, Sub<List<Session>>>>("sessions");
    t.source(heard).using(sessions).for_each(async |at, sessions, heard: Heard| {
        let list = sessions.key(heard.user);
        let count = at.get(list.clone().size()).await?;
        let session = match at.nth(list.clone(), heard.at).await? {
            Some(session) if !heard.begins => session,
            _ => at.insert_new(list.clone(), heard.at.min(count)).await?,
        };
        let songs = session.clone().field(|it| it.songs);
        at.update(songs.key(&heard.song), |old| Some(old.unwrap_or(0) + 1)).await?;
        at.push(session.field(|it| it.order), heard.song).await?;
        let count = at.get(list.clone().size()).await?;
        for _ in heard.keep..count {
            at.remove(list.clone(), 0).await?;
        }
        Ok(())
    });
    Listener { heard, sessions: sessions.reader() }
}

fn heard(nth: u64) -> Heard {
    let user = u32::try_from(nth % u64::from(USERS)).unwrap();
    let song = format!("song {}", nth * 7 % 11);
    let keep = if nth.is_multiple_of(97) { 5 } else { u64::MAX };
    Heard { user, song, at: nth * 31 % 23, begins: nth.is_multiple_of(3), keep }
}

fn hear(sessions: &mut Vec<Vec<String>>, heard: &Heard) {
    let at = usize::try_from(heard.at).unwrap();
    if heard.begins || at >= sessions.len() {
        sessions.insert(at.min(sessions.len()), Vec::new());
    }
    let at = at.min(sessions.len() - 1);
    sessions[at].push(heard.song.clone());
    let keep = usize::try_from(heard.keep).unwrap_or(usize::MAX);
    sessions.drain(..sessions.len().saturating_sub(keep));
}

async fn compare_sessions(listener: &Launched<Listener>, model: &[Vec<Vec<String>>]) {
    for (user, sessions) in (0..USERS).zip(model) {
        let list = || listener.sessions.key(user);
        assert_eq!(listener.select(list().size()).await.unwrap(), sessions.len() as u64);
        for (at, order) in (0..).zip(sessions.iter().chain([&Vec::new()])) {
            let nth = || list().nth(at);
            let found = (nth().field(|it| it.order).all(), nth().field(|it| it.songs).all());
            let (found, songs) = listener.select(found).await.unwrap();
            assert_eq!(&found, order, "session {at} of {user}");
            let mut counts = BTreeMap::new();
            for song in order {
                *counts.entry(song.clone()).or_insert(0) += 1;
            }
            assert_eq!(songs, counts.clone().into_iter().collect::<Vec<_>>());
            let size = listener.select(nth().field(|it| it.songs).size()).await.unwrap();
            assert_eq!(size, counts.len() as u64);
        }
        // And as a query says it.
        let first = listener.sessions.steps().key(user).first().field(|it| it.order).all();
        let found: Vec<String> = listener.find(first).await.unwrap();
        assert_eq!(found, sessions.first().cloned().unwrap_or_default());
    }
}

#[test]
fn what_hangs_under_items_moves_and_goes_with_them_over_folds_and_reopenings() {
    let dir = directory("lists of collections");
    let mut model = vec![Vec::new(); USERS as usize];
    let mut nth = 0;
    for shards in [2, 1, 3] {
        block_on(async {
            let engine = Engine::open(&dir, options(shards)).await.unwrap();
            let listener = engine.launch("listener", listener).await.unwrap();
            compare_sessions(&listener, &model).await;
            for _ in 0..2 {
                let all: Vec<Heard> = (nth..nth + 200).map(heard).collect();
                nth += 200;
                for it in &all {
                    hear(&mut model[it.user as usize], it);
                }
                listener.append_many(listener.heard, &all).await.unwrap();
                listener.caught_up("listener").await.unwrap();
                compare_sessions(&listener, &model).await;
                engine.fold().await.unwrap();
                compare_sessions(&listener, &model).await;
            }
            drop(listener);
            if shards == 1 {
                engine.close().await.unwrap();
            } else {
                engine.stop().await;
            }
        });
    }
}
