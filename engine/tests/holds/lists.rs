//! Lists that are stored element by element, in an engine: over folds and reopenings, as clients see them.

use serde::{Deserialize, Serialize};
use tidemill::module::{Depot, Module};
use tidemill::schema::{List, Map, PState, Sub};
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
