//! Damage to a partition of which the journal has nothing.

use tidemill::{Engine, Error, block_on};

use crate::kit::{directory, options};
use crate::notes::{note, notes};

#[test]
fn a_partition_that_was_idle_opens_again_and_a_damaged_or_missing_root_of_it_is_noticed() {
    let dir = directory("idle-partition");
    let open = || {
        block_on(async {
            let engine = Engine::open(&dir, options(2)).await?;
            let notes = engine.launch("notes", notes).await?;
            // One note is in one partition, and its text in another one.
            let appended = notes.append(notes.depot, &note(1)).await?;
            notes.wait("reading", &appended).await?;
            drop(notes);
            engine.close().await
        })
    };
    open().unwrap();
    open().unwrap();
    let mut idle = 0;
    for partition in 0..8 {
        let path = dir.join(format!("p/{partition}/pages"));
        let pages = std::fs::read(&path).unwrap();
        // Its newest root is its first one: nothing was ever folded here.
        if pages[131_072..131_072 + 4_096].iter().any(|&byte| byte != 0) {
            continue;
        }
        idle += 1;
        let mut damaged = pages.clone();
        damaged[100] ^= 1;
        std::fs::write(&path, &damaged).unwrap();
        let error = open().unwrap_err();
        assert!(matches!(&error, Error::Corrupt { what } if what.contains("/pages")), "{error}");
        std::fs::remove_file(&path).unwrap();
        let error = open().unwrap_err();
        assert!(matches!(&error, Error::Corrupt { what } if what.contains("/pages")), "{error}");
        std::fs::write(&path, &pages).unwrap();
    }
    assert!(idle > 0);
    open().unwrap();
    block_on(async {
        let engine = Engine::open(&dir, options(2)).await.unwrap();
        let notes = engine.launch("notes", notes).await.unwrap();
        let seen = notes.select(notes.seen.key(1)).await.unwrap();
        assert!(seen.is_some_and(|seen| seen >= 3), "{seen:?}");
        drop(notes);
        engine.close().await.unwrap();
    });
}
