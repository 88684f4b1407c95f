//! A data directory, mapped into memory and locked against engines.

use std::collections::BTreeMap;
use std::fs::{self, File, TryLockError};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use memmap2::Mmap;
use tidemill::manifest;
use tidemill::verify::Files;

/// Every file of a data directory. While it lives, no engine opens the directory.
#[derive(Debug)]
pub struct Directory {
    root: PathBuf,
    files: BTreeMap<String, Option<Mmap>>,
    _lock: Option<File>,
}

/// Why a directory cannot be looked at.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An engine has it open.
    #[error(
        "{} is in use by {}: what it writes meanwhile would look like damage. Stop it first, or use \
         --force to look anyway",
        dir.display(),
        pid.as_ref().map_or("another process".to_owned(), |pid| format!("process {pid}"))
    )]
    Locked {
        /// The directory.
        dir: PathBuf,
        /// Who, if it can be told.
        pid: Option<u32>,
    },
    /// It holds nothing of Tidemill's.
    #[error("{} is not a data directory: it has no {}", dir.display(), manifest::PATH)]
    Foreign {
        /// The directory.
        dir: PathBuf,
    },
    /// The operating system refused something.
    #[error("cannot {op} {}", path.display())]
    Io {
        /// What was attempted.
        op: &'static str,
        /// With what.
        path: PathBuf,
        /// What the operating system said.
        #[source]
        source: io::Error,
    },
}

impl Directory {
    /// Maps every file below `root`. With `force`, even if a process has the directory open.
    ///
    /// # Errors
    /// `Locked`, `Foreign`, `Io`.
    pub fn map(root: &Path, force: bool) -> Result<Self, Error> {
        let listed = list(root)?;
        let ours = |path: &String| {
            [manifest::PATH, manifest::PATH_NEW].contains(&path.as_str())
                || path.starts_with("p/")
                || path.starts_with("journal/")
        };
        if !listed.iter().any(ours) {
            return Err(Error::Foreign { dir: root.to_owned() });
        }
        let lock = if force { None } else { lock(root)? };
        let mut files = BTreeMap::new();
        // Once more, since until now somebody could have written.
        for path in list(root)? {
            let mapped = map(&root.join(&path))?;
            files.insert(path, mapped);
        }
        Ok(Self { root: root.to_owned(), files, _lock: lock })
    }

    /// Where it is.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }
}

impl Files for Directory {
    fn paths(&self) -> Vec<String> {
        self.files.keys().cloned().collect()
    }

    fn bytes(&self, path: &str) -> Option<&[u8]> {
        self.files.get(path).map(|mapped| mapped.as_deref().unwrap_or_default())
    }
}

/// Takes the engine's lock, shared: several may look at the same time. A directory that no engine has
/// opened has none.
fn lock(root: &Path) -> Result<Option<File>, Error> {
    let path = root.join("LOCK");
    let failed = |op| {
        let path = path.clone();
        move |source| Error::Io { op, path, source }
    };
    let mut file = match File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed("open")(error)),
    };
    match file.try_lock_shared() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => {
            let mut owner = String::new();
            // Without a number the message is less helpful, but as true.
            drop(file.read_to_string(&mut owner));
            Err(Error::Locked { dir: root.to_owned(), pid: owner.trim().parse().ok() })
        }
        Err(TryLockError::Error(error)) => Err(failed("lock")(error)),
    }
}

/// The files below `root`, with `/` between names. Links are not followed.
fn list(root: &Path) -> Result<Vec<String>, Error> {
    let mut found = Vec::new();
    let mut waiting = vec![String::new()];
    while let Some(dir) = waiting.pop() {
        let path = root.join(&dir);
        let failed = |source| Error::Io { op: "list", path: path.clone(), source };
        for entry in fs::read_dir(&path).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let name = if dir.is_empty() { name } else { format!("{dir}/{name}") };
            let kind = entry.file_type().map_err(failed)?;
            if kind.is_dir() {
                waiting.push(name);
            } else if kind.is_file() {
                found.push(name);
            }
        }
    }
    found.sort_unstable();
    Ok(found)
}

/// A file's bytes; none if it is empty, which cannot be mapped.
fn map(path: &Path) -> Result<Option<Mmap>, Error> {
    let failed = |op| move |source| Error::Io { op, path: path.to_owned(), source };
    let file = File::open(path).map_err(failed("open"))?;
    if file.metadata().map_err(failed("measure"))?.len() == 0 {
        return Ok(None);
    }
    // SAFETY: the engine's lock is held, so no engine changes the file while it is mapped. With `force`,
    // or if somebody else cuts the file, the process may end by SIGBUS, or see bytes change; every byte
    // is taken for untrusted anyway, and none is written.
    let mapped = unsafe { Mmap::map(&file) };
    mapped.map(Some).map_err(failed("map"))
}
