//! A catalogue of albums whose schema grows while it is in use: `cargo run --example music_catalogue`.
//!
//! The first version kept all albums of an artist as one value, which was right as long as there were five of
//! them. And it kept what listeners think of an artist as stars. The second version wants to show one album
//! without reading the rest, knows labels, and rates in percent.
//!
//! ```text
//!            first                                 second
//! releases   { artist, title, year }               { .., label }     may be missing: nothing to do
//! albums     artist -> [(title, year), ..]         artist -> title -> Album      a migration to a `Sub`
//! ratings    artist -> stars                       artist -> percent             a migration of values
//! ```
//!
//! A launch of the second version begins the migrations. From then on everybody reads the new form, and the
//! topology writes it, while the rows are rewritten in the background, a few with each microbatch.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use tidemill::migrate::Migration;
use tidemill::module::{Depot, Module};
use tidemill::schema::{Map, PState, Sub};
use tidemill::{Engine, Options, block_on};

/// The version that wrote what is stored. A real service has it in its history only: the new version says what
/// it needs to know of it, which are the types of the old values.
pub(crate) mod first {
    use super::{Deserialize, Map, Module, Serialize};
    use tidemill::module::Depot;

    #[derive(Clone, Debug, Serialize, Deserialize)]
    pub(crate) struct Release {
        pub(crate) artist: String,
        pub(crate) title: String,
        pub(crate) year: u16,
    }

    pub(crate) struct Catalogue {
        pub(crate) releases: Depot<Release>,
        pub(crate) opinions: Depot<(String, u8)>,
    }

    pub(crate) fn catalogue(m: &Module) -> Catalogue {
        let releases = m.depot::<Release>("releases").hash_by(|it| &it.artist);
        let opinions = m.depot::<(String, u8)>("opinions").hash_by(|(artist, _)| artist);
        let t = m.microbatch(|| "catalogue");
        let albums = t.pstate::<Map<String, Vec<(String, u16)>>>("albums");
        let ratings = t.pstate::<Map<String, u8>>("ratings");
        t.source(releases).using(albums).for_each(async |at, albums, it: Release| {
            let mut all = at.get(albums.key(&it.artist)).await?.unwrap_or_default();
            all.push((it.title, it.year));
            Ok(at.put(albums.key(it.artist), all)?)
        });
        t.source(opinions)
            .using(ratings)
            .for_each(async |at, ratings, (artist, stars)| Ok(at.put(ratings.key(artist), stars)?));
        Catalogue { releases, opinions }
    }
}

/// An album came out.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Release {
    pub(crate) artist: String,
    pub(crate) title: String,
    pub(crate) year: u16,
    /// New. Records that were appended before have none, and are read all the same.
    pub(crate) label: Option<String>,
}

/// One album, in a row of its own.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Album {
    pub(crate) year: u16,
    pub(crate) label: Option<String>,
}

pub(crate) struct Catalogue {
    pub(crate) releases: Depot<Release>,
    /// Who, and how many stars of five. What happened stays what it was: listeners still give stars.
    pub(crate) opinions: Depot<(String, u8)>,
    pub(crate) albums: PState<Map<String, Sub<Map<String, Album>>>>,
    pub(crate) ratings: PState<Map<String, u8>>,
}

/// Of stars. Calling it twice would be a mistake that no type can show: a migration calls it once for each value.
pub(crate) fn percent(stars: u8) -> u8 {
    stars * 20
}

pub(crate) fn catalogue(m: &Module) -> Catalogue {
    let releases = m.depot::<Release>("releases").hash_by(|it| &it.artist);
    let opinions = m.depot::<(String, u8)>("opinions").hash_by(|(artist, _)| artist);
    let t = m.microbatch(|| "catalogue");

    // What is to be stored at each artist, what was, and how one becomes the other. The id names the migration
    // for ever: a launch after a crash goes on with it, and when it is done, it does not begin again. Then this
    // can become a plain `t.pstate("albums")`; before, a launch that leaves it out is refused.
    let albums = t.pstate_migrated::<Map<String, Sub<Map<String, Album>>>, _>(
        "albums",
        Migration::structure("2026-11 album by album", |old: Vec<(String, u16)>, new| {
            for (title, year) in old {
                new.put(new.key(title), Album { year, label: None })?;
            }
            Ok(())
        }),
    );
    // The type stays, and only the meaning changes: that is a migration, too.
    let ratings = t.pstate_migrated::<Map<String, u8>, _>(
        "ratings",
        Migration::values("2026-11 percent", percent),
    );

    // Events know nothing of the old form. An artist whose albums are still one value gets them moved first,
    // in the same transaction.
    t.source(releases).using(albums).for_each(async |at, albums, it: Release| {
        let Release { artist, title, year, label } = it;
        Ok(at.put(albums.key(artist).key(title), Album { year, label })?)
    });
    t.source(opinions).using(ratings).for_each(async |at, ratings, (artist, stars)| {
        Ok(at.put(ratings.key(artist), percent(stars))?)
    });
    Catalogue { releases, opinions, albums: albums.reader(), ratings: ratings.reader() }
}

pub(crate) fn main() -> Result<(), Box<dyn std::error::Error>> {
    // A directory on a real file system: it is written past the kernel's cache, which tmpfs cannot do.
    let dir = tempfile::tempdir_in(".")?;
    block_on(async {
        let engine = Engine::open(dir.path(), Options::default()).await?;
        let old = engine.launch("music", first::catalogue).await?;
        for nth in 0..200 {
            let artist = format!("artist {}", nth % 40);
            let release = first::Release { artist, title: format!("album {nth}"), year: 1_960 };
            old.append(old.releases, &release).await?;
        }
        old.append(old.opinions, &("artist 7".to_owned(), 4)).await?;
        old.caught_up("catalogue").await?;
        drop(old);
        engine.close().await?;

        // The service is stopped, and the new version is started.
        let engine = Engine::open(dir.path(), Options::default()).await?;
        let music = engine.launch("music", catalogue).await?;
        let seven = music.albums.key("artist 7");
        let album = music.select(seven.clone().key("album 47")).await?;
        println!("read in its new form at once: {album:?}");
        println!("{:?} percent like them", music.select(music.ratings.key("artist 7")).await?);

        let release = Release {
            artist: "artist 7".to_owned(),
            title: "Low Water".to_owned(),
            year: 2_026,
            label: Some("Tide".to_owned()),
        };
        let appended = music.append(music.releases, &release).await?;
        music.wait("catalogue", &appended).await?;
        println!("{} albums", music.select(seven.size()).await?);
        let appended = music.append(music.opinions, &("artist 8".to_owned(), 5)).await?;
        music.wait("catalogue", &appended).await?;
        println!("{:?} percent", music.select(music.ratings.key("artist 8")).await?);

        // How far it is, for whoever wants to watch. Nobody has to wait for it.
        loop {
            let running = music.migrations().await?;
            for it in &running {
                let left: u64 = it.left.values().sum();
                println!("{}: {left} values are left of `{}`", it.pstate, it.id);
            }
            if running.is_empty() {
                break;
            }
            #[allow(clippy::disallowed_methods, reason = "an example, and no shard")]
            std::thread::sleep(Duration::from_millis(5));
        }
        println!("all is stored in the new form");
        drop(music);
        engine.close().await
    })?;
    Ok(())
}
