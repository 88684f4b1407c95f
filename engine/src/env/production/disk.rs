//! The data directory: direct files, their blocks through the shard's ring.
//!
//! Reads, writes, syncs, allocation and removal go through the ring, since each of them can wait for
//! the device. Opening, renaming, listing, creating a directory and truncating are plain system calls
//! that work on cached metadata: they take microseconds, happen at file changes only, and a thread
//! pool beside the shard would cost more than it saves.

use std::cell::Cell;
use std::ffi::CString;
use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use super::ring::Ring;
use crate::env::{Buf, Class, Disk, File, LocalFuture, Open, Sync, WithBuf};

/// One shard's view of the data directory.
pub(super) struct DirectDisk {
    root: PathBuf,
    ring: Rc<Ring>,
    /// Of the task that runs.
    class: Rc<Cell<Class>>,
}

impl DirectDisk {
    /// `root` must be absolute, so that a change of the working directory does not matter.
    pub(super) fn new(root: PathBuf, ring: Rc<Ring>, class: Rc<Cell<Class>>) -> Self {
        assert!(root.is_absolute());
        Self { root, ring, class }
    }

    fn resolve(&self, path: &str) -> PathBuf {
        if path == "." {
            return self.root.clone();
        }
        let proper = path.split('/').all(|part| !matches!(part, "" | "." | ".."));
        assert!(proper, "{path:?} is not a path inside the data directory");
        self.root.join(path)
    }
}

impl Disk for DirectDisk {
    fn open<'a>(&'a self, path: &'a str, how: Open) -> LocalFuture<'a, io::Result<Rc<dyn File>>> {
        let absolute = self.resolve(path);
        Box::pin(async move {
            let file = open_direct(&absolute, how)?;
            let (ring, class) = (Rc::clone(&self.ring), Rc::clone(&self.class));
            let file = DirectFile { path: path.to_owned(), fd: Rc::new(file.into()), ring, class };
            Ok(Rc::new(file) as Rc<dyn File>)
        })
    }

    fn list<'a>(&'a self, dir: &'a str) -> LocalFuture<'a, io::Result<Vec<String>>> {
        let absolute = self.resolve(dir);
        Box::pin(async move {
            let entries = match fs::read_dir(absolute) {
                Ok(entries) => entries,
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
                Err(error) => return Err(error),
            };
            let mut names = Vec::new();
            for entry in entries {
                // A name that is no text is not ours.
                names.extend(entry?.file_name().into_string());
            }
            Ok(names)
        })
    }

    fn create_dir<'a>(&'a self, dir: &'a str) -> LocalFuture<'a, io::Result<()>> {
        let absolute = self.resolve(dir);
        Box::pin(async move { fs::create_dir_all(absolute) })
    }

    fn remove<'a>(&'a self, path: &'a str) -> LocalFuture<'a, io::Result<()>> {
        let absolute = self.resolve(path);
        Box::pin(async move {
            // Through the ring: giving back the blocks of a large file takes a while.
            let absolute = CString::new(absolute.as_os_str().as_bytes())?;
            self.ring.unlink(absolute).await.0.map(|_| ())
        })
    }

    fn rename<'a>(&'a self, from: &'a str, to: &'a str) -> LocalFuture<'a, io::Result<()>> {
        let (from, to) = (self.resolve(from), self.resolve(to));
        Box::pin(async move { fs::rename(from, to) })
    }

    fn link<'a>(&'a self, from: &'a str, to: &'a str) -> LocalFuture<'a, io::Result<()>> {
        let (from, to) = (self.resolve(from), self.resolve(to));
        Box::pin(async move { fs::hard_link(from, to) })
    }

    fn sync_dir<'a>(&'a self, dir: &'a str) -> LocalFuture<'a, io::Result<()>> {
        let absolute = self.resolve(dir);
        Box::pin(async move {
            let dir = Rc::new(OwnedFd::from(fs::File::open(absolute)?));
            self.ring.sync(&dir, true).await.0.map(|_| ())
        })
    }

    fn free_bytes(&self) -> io::Result<u64> {
        free_bytes(&self.root)
    }

    fn elsewhere(&self, dir: &str) -> io::Result<Rc<dyn Disk>> {
        let (ring, class) = (Rc::clone(&self.ring), Rc::clone(&self.class));
        Ok(Rc::new(Self::new(PathBuf::from(dir), ring, class)))
    }
}

/// An open file. Its descriptor is closed when neither a handle nor an operation needs it.
struct DirectFile {
    path: String,
    fd: Rc<OwnedFd>,
    ring: Rc<Ring>,
    class: Rc<Cell<Class>>,
}

impl File for DirectFile {
    fn read(&self, at: u64, buf: Buf) -> LocalFuture<'static, WithBuf> {
        let operation = self.ring.read(&self.fd, at, buf, self.class.get().is_patient());
        Box::pin(async move {
            let (result, buf) = operation.await;
            (result, buf.expect("a read holds a buffer"))
        })
    }

    fn write(&self, at: u64, buf: Buf, sync: Sync) -> LocalFuture<'static, WithBuf> {
        let operation = self.ring.write(&self.fd, at, buf, sync);
        Box::pin(async move {
            let (result, buf) = operation.await;
            (result, buf.expect("a write holds a buffer"))
        })
    }

    fn sync(&self) -> LocalFuture<'static, io::Result<()>> {
        let operation = self.ring.sync(&self.fd, false);
        Box::pin(async move { operation.await.0.map(|_| ()) })
    }

    fn allocate(&self, len: u64) -> LocalFuture<'static, io::Result<()>> {
        let operation = self.ring.allocate(&self.fd, len);
        Box::pin(async move { operation.await.0.map(|_| ()) })
    }

    fn truncate(&self, len: u64) -> LocalFuture<'static, io::Result<()>> {
        let fd = Rc::clone(&self.fd);
        Box::pin(async move {
            let len = libc::off_t::try_from(len).map_err(|_| io::ErrorKind::InvalidInput)?;
            // SAFETY: the descriptor is open as long as `fd` lives.
            let result = unsafe { libc::ftruncate(fd.as_raw_fd(), len) };
            if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
        })
    }

    fn len(&self) -> io::Result<u64> {
        // SAFETY: `stat` is plain numbers, for which zeros are valid.
        let mut stat: libc::stat = unsafe { std::mem::zeroed() };
        // SAFETY: the descriptor is open and `stat` is writable for the call.
        let result = unsafe { libc::fstat(self.fd.as_raw_fd(), &raw mut stat) };
        if result != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(u64::try_from(stat.st_size).expect("a file's length is not negative"))
    }

    fn path(&self) -> &str {
        &self.path
    }
}

/// Opens a file for direct reading and writing.
pub(super) fn open_direct(path: &Path, how: Open) -> io::Result<fs::File> {
    fs::OpenOptions::new()
        .read(true)
        .write(true)
        .create(how == Open::Any)
        .create_new(how == Open::New)
        .custom_flags(libc::O_DIRECT)
        .open(path)
}

/// Bytes that this user can still write below `path`.
pub(super) fn free_bytes(path: &Path) -> io::Result<u64> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    // SAFETY: `statvfs` is plain numbers, for which zeros are valid.
    let mut stat: libc::statvfs = unsafe { std::mem::zeroed() };
    // SAFETY: `path` ends in a zero and `stat` is writable for the call.
    let result = unsafe { libc::statvfs(path.as_ptr(), &raw mut stat) };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}
