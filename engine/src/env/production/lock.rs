//! One process per directory: an advisory lock on `DIR/LOCK`, which holds the owner's process id.

use std::fs;
use std::io::{self, Read, Seek, Write};
use std::os::fd::AsRawFd;
use std::path::Path;

use super::Error;

/// The lock; given back when dropped, or by the kernel when the process ends in whatever way.
pub(super) struct Lock {
    _file: fs::File,
}

impl Lock {
    /// Takes the lock of `dir`.
    ///
    /// # Errors
    /// [`Error::Locked`] if another process, or another opening in this one, holds it.
    pub(super) fn take(dir: &Path) -> Result<Self, Error> {
        let path = dir.join("LOCK");
        let failed = |source| Error::Directory { dir: dir.to_owned(), op: "lock", source };
        let mut file = fs::OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
            .map_err(failed)?;
        // SAFETY: the descriptor is open; the call does not block.
        let result = unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) };
        if result != 0 {
            let error = io::Error::last_os_error();
            if error.kind() != io::ErrorKind::WouldBlock {
                return Err(failed(error));
            }
            let mut owner = String::new();
            // Without a number the message is less helpful, but as true.
            drop(file.read_to_string(&mut owner));
            let pid = owner.trim().parse().ok();
            return Err(Error::Locked { dir: dir.to_owned(), pid });
        }
        file.set_len(0).map_err(failed)?;
        file.rewind().map_err(failed)?;
        file.write_all(format!("{}\n", std::process::id()).as_bytes()).map_err(failed)?;
        Ok(Self { _file: file })
    }
}
