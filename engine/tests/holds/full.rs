//! A full disk: appends are refused, reads go on, and nothing needs a restart.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use futures_util::future::join_all;
use tidemill::env::Platform;
use tidemill::{Engine, Error, Launched, Options, block_on};

use crate::faults::{Faults, FaultyPlatform};
use crate::kit::{directory, options};
use crate::notes::{Notes, check, note, notes};

/// Appends a hundred notes at once; says whether one was refused since the disk is full.
async fn append(notes: &Launched<Notes>, next: &mut u64, acknowledged: &mut Vec<u64>) -> bool {
    let ids: Vec<u64> = (*next..*next + 100).collect();
    *next += 100;
    let appends = ids.iter().map(|&id| notes.append(notes.notes, &note(id)));
    let mut full = false;
    for (id, result) in ids.iter().zip(join_all(appends).await) {
        match result {
            Ok(_) => acknowledged.push(*id),
            Err(Error::DiskFull { .. }) => full = true,
            Err(error) => panic!("{error}"),
        }
    }
    full
}

/// Reads something that was acknowledged long ago.
async fn read(notes: &Launched<Notes>, acknowledged: &[u64]) {
    for &id in acknowledged.iter().take(50) {
        assert_eq!(notes.select(notes.texts.key(id + 1)).await.unwrap(), Some(note(id).text));
    }
}

/// Appends until it is refused, then `free`s space, and appends until it works again.
async fn fill_and_free(
    notes: &Launched<Notes>,
    next: &mut u64,
    acknowledged: &mut Vec<u64>,
    free: impl FnOnce(),
) {
    while !append(notes, next, acknowledged).await {}
    // It stays refused, and that is all that happens.
    for _ in 0..20 {
        append(notes, next, acknowledged).await;
        read(notes, acknowledged).await;
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(append(notes, next, acknowledged).await, "there is still no space");
    free();
    while append(notes, next, acknowledged).await {
        std::thread::sleep(Duration::from_millis(20));
    }
    for _ in 0..20 {
        assert!(!append(notes, next, acknowledged).await, "there is space again");
    }
}

#[test]
fn a_full_disk_refuses_appends_until_there_is_space_and_loses_nothing() {
    let dir = directory("full");
    let faults = Faults::default();
    let (mut next, mut acknowledged) = (0, Vec::new());
    // Small, so that the space at hand is used up soon, and folds are due all the time.
    let options = |shards| Options {
        memory_bytes: 4 << 20,
        journal_bytes_max: 8 << 20,
        journal_file_bytes: 1 << 20,
        ..options(shards)
    };
    for (round, shards) in [2, 2, 1].into_iter().enumerate() {
        block_on(async {
            let platform = FaultyPlatform::open(&dir, shards, &faults);
            let platform: std::sync::Arc<dyn Platform> = platform;
            let opened = Engine::open_on(platform, options(shards), |_| {}).await;
            let engine = opened.unwrap();
            let notes = engine.launch("notes", notes).await.unwrap();
            read(&notes, &acknowledged).await;
            faults.full(false);
            check(&notes, &acknowledged).await;
            while append(&notes, &mut next, &mut acknowledged).await {}
            notes.caught_up("reading").await.unwrap();
            for lies in [false, true, true] {
                faults.lies(lies);
                faults.full(true);
                let free = || faults.full(false);
                fill_and_free(&notes, &mut next, &mut acknowledged, free).await;
            }
            check(&notes, &acknowledged).await;
            // With as many shards as before, a directory also opens while the disk is full.
            if round == 0 {
                faults.full(true);
                while !append(&notes, &mut next, &mut acknowledged).await {}
            }
            drop(notes);
            engine.stop().await;
        });
    }
}

/// A file system of its own, if this machine lets us have one.
struct Small(PathBuf);

impl Small {
    fn mount(dir: &Path, mib: u64) -> Option<Self> {
        let image = dir.join("image");
        let run =
            |command: &mut Command| command.output().is_ok_and(|output| output.status.success());
        let file = std::fs::File::create(&image).unwrap();
        file.set_len(mib << 20).unwrap();
        let made = run(Command::new("mkfs.ext4").args(["-q", "-F", "-m", "0"]).arg(&image));
        let mounted = dir.join("mounted");
        std::fs::create_dir_all(&mounted).unwrap();
        let at = |command: &mut Command| run(command.arg(&image).arg(&mounted));
        (made && at(Command::new("mount").args(["-o", "loop"]))).then_some(Self(mounted))
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let unmounted = Command::new("umount").arg("-l").arg(&self.0).status();
        assert!(unmounted.is_ok_and(|status| status.success()) || std::thread::panicking());
    }
}

#[test]
fn a_small_file_system_that_runs_full_is_survived_too() {
    let dir = directory("small");
    let Some(small) = Small::mount(&dir, 256) else {
        return println!("not run: a file system cannot be mounted here");
    };
    let data = small.0.join("data");
    let (mut next, mut acknowledged) = (0, Vec::new());
    let options =
        Options { journal_bytes_max: 32 << 20, journal_file_bytes: 4 << 20, ..options(2) };
    for _ in 0..2 {
        block_on(async {
            let engine = Engine::open(&data, options.clone()).await.unwrap();
            let notes = engine.launch("notes", notes).await.unwrap();
            check(&notes, &acknowledged).await;
            for _ in 0..10 {
                assert!(!append(&notes, &mut next, &mut acknowledged).await);
            }
            notes.caught_up("reading").await.unwrap();
            // Somebody else takes all there is.
            let pieces = [128, 64, 32, 16, 8, 4, 2, 1];
            let piece = |mib: &u64| small.0.join(format!("ballast-{mib}"));
            for mib in &pieces {
                take_space(&piece(mib), *mib);
            }
            let free = || {
                for mib in &pieces {
                    // Those that did not fit are not there.
                    drop(std::fs::remove_file(piece(mib)));
                }
            };
            fill_and_free(&notes, &mut next, &mut acknowledged, free).await;
            check(&notes, &acknowledged).await;
            drop(notes);
            engine.close().await.unwrap();
        });
    }
}

/// Takes a piece of the space, if it fits.
fn take_space(path: &Path, mib: u64) {
    let size = (mib << 20).to_string();
    let taken = Command::new("fallocate").arg("-l").arg(size).arg(path).output();
    if !taken.is_ok_and(|output| output.status.success()) {
        drop(std::fs::remove_file(path));
    }
}
