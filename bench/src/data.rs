//! Where a run's files go, and what it may overwrite there.
//!
//! The directory holds a list of what was made in it. Only that is ever removed, and a directory with
//! anything else is refused: a wrong `--data` must not cost anybody their files.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use tidemill::env::production::{Needs, self_test};

/// A directory that this program may use.
#[derive(Debug)]
pub struct DataDir {
    root: PathBuf,
    file_system: String,
    /// Removed at the end.
    temporary: Cell<bool>,
}

/// The list's name.
const LIST: &str = "made-by-tidemill-bench";

impl DataDir {
    /// Opens the directory the user chose, or makes a fresh one here that goes away at the end.
    ///
    /// # Errors
    /// If it holds anything else, or lies where nothing is durable.
    pub fn open(chosen: Option<&Path>) -> anyhow::Result<Self> {
        let temporary = chosen.is_none();
        let root = match chosen {
            Some(root) => root.to_owned(),
            None => PathBuf::from(format!("tidemill-bench-{}", std::process::id())),
        };
        fs::create_dir_all(&root).with_context(|| {
            format!("cannot make {}: choose another directory with --data", root.display())
        })?;
        let root =
            root.canonicalize().with_context(|| format!("cannot find {}", root.display()))?;
        let mut dir = Self { root, file_system: String::new(), temporary: Cell::new(false) };
        let made = dir.made()?;
        for entry in fs::read_dir(&dir.root)? {
            let name = entry?.file_name();
            let ours = name.to_str().is_some_and(|name| name == LIST || made.contains(name));
            if !ours {
                bail!(
                    "{} holds {} which is not of this program's making: choose an empty directory",
                    dir.root.display(),
                    Path::new(&name).display()
                );
            }
        }
        dir.temporary.set(temporary);
        let report = self_test(&dir.root, Needs { shards: 1, free_bytes_min: 64 << 20 });
        if let Some(refusal) = report.refusal() {
            bail!("{} cannot be used: {refusal}", dir.root.display());
        }
        dir.file_system.clone_from(&report.file_system);
        dir.remember(&made)?;
        Ok(dir)
    }

    /// The path of `name`, of which nothing is left from earlier runs.
    ///
    /// # Errors
    /// If what is left cannot be removed.
    pub fn fresh(&self, name: &str) -> anyhow::Result<PathBuf> {
        let path = self.claim(name)?;
        let removed = match fs::symlink_metadata(&path) {
            Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(&path),
            Ok(_) => fs::remove_file(&path),
            Err(error) => Err(error),
        };
        match removed {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Err(error).with_context(|| format!("cannot remove {}", path.display()))
            }
            _ => Ok(path),
        }
    }

    /// The path of `name`, with what earlier runs left there.
    ///
    /// # Errors
    /// If the list cannot be written.
    pub fn claim(&self, name: &str) -> anyhow::Result<PathBuf> {
        assert!(!name.is_empty() && !name.contains(['/', '\n']), "{name:?} is one plain name");
        let mut made = self.made()?;
        if made.insert(name.to_owned()) {
            // Before the file itself, so that a killed run leaves nothing unknown behind.
            self.remember(&made)?;
        }
        Ok(self.root.join(name))
    }

    /// Leaves everything where it is at the end, for somebody to look at.
    pub fn keep(&self) {
        self.temporary.set(false);
    }

    /// The directory.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The name of its file system.
    #[must_use]
    pub fn file_system(&self) -> &str {
        &self.file_system
    }

    fn made(&self) -> anyhow::Result<BTreeSet<String>> {
        match fs::read_to_string(self.root.join(LIST)) {
            Ok(list) => Ok(list.lines().map(str::to_owned).collect()),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(BTreeSet::new()),
            Err(error) => {
                Err(error).with_context(|| format!("cannot read {}", self.root.display()))
            }
        }
    }

    fn remember(&self, made: &BTreeSet<String>) -> anyhow::Result<()> {
        let list: String = made.iter().flat_map(|name| [name, "\n"]).collect();
        fs::write(self.root.join(LIST), list)
            .with_context(|| format!("cannot write to {}", self.root.display()))
    }
}

impl Drop for DataDir {
    fn drop(&mut self) {
        if self.temporary.get() {
            // What cannot be removed stays, and the user sees it in the current directory.
            drop(fs::remove_dir_all(&self.root));
        }
    }
}
