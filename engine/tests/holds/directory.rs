//! Directories on the disk that holds the build, gone when the test that asked for them is.

use std::cell::RefCell;
use std::path::{Path, PathBuf};

/// Set to keep what tests leave, for whoever looks into one that failed.
const KEEP: &str = "TIDEMILL_TEST_KEEP";

/// Removed when the thread ends, which is when its test does: an engine that a helper opened is dropped
/// by then, and all tests together need no more space than those that run at once.
struct Directories(RefCell<Vec<PathBuf>>);

impl Drop for Directories {
    fn drop(&mut self) {
        if std::env::var_os(KEEP).is_none() {
            for dir in self.0.get_mut() {
                // What stays is emptied by the next run.
                drop(std::fs::remove_dir_all(dir));
            }
        }
    }
}

thread_local! {
    static MADE: Directories = const { Directories(RefCell::new(Vec::new())) };
}

/// A directory that is empty now. No two tests may ask for the same `name`.
pub(crate) fn directory(name: &str) -> PathBuf {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(env!("CARGO_CRATE_NAME")).join(name);
    if dir.exists() {
        std::fs::remove_dir_all(&dir).unwrap();
    }
    std::fs::create_dir_all(&dir).unwrap();
    MADE.with(|made| made.0.borrow_mut().push(dir.clone()));
    dir
}
