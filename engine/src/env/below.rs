//! A directory of a disk as a disk of its own.

use std::io;
use std::rc::Rc;

use super::{Disk, File, LocalFuture, Open};

/// What lies below one directory of another disk. That directory exists.
pub struct Below {
    disk: Rc<dyn Disk>,
    dir: String,
}

impl std::fmt::Debug for Below {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Below").field("dir", &self.dir).finish_non_exhaustive()
    }
}

impl Below {
    /// `dir` is a path of `disk`, never `"."`.
    #[must_use]
    pub fn new(disk: &Rc<dyn Disk>, dir: &str) -> Self {
        Self { disk: Rc::clone(disk), dir: dir.to_owned() }
    }

    fn path(&self, path: &str) -> String {
        if path == "." { self.dir.clone() } else { format!("{}/{path}", self.dir) }
    }
}

impl Disk for Below {
    fn open<'a>(&'a self, path: &'a str, how: Open) -> LocalFuture<'a, io::Result<Rc<dyn File>>> {
        Box::pin(async move { self.disk.open(&self.path(path), how).await })
    }

    fn list<'a>(&'a self, dir: &'a str) -> LocalFuture<'a, io::Result<Vec<String>>> {
        Box::pin(async move { self.disk.list(&self.path(dir)).await })
    }

    fn create_dir<'a>(&'a self, dir: &'a str) -> LocalFuture<'a, io::Result<()>> {
        Box::pin(async move { self.disk.create_dir(&self.path(dir)).await })
    }

    fn remove<'a>(&'a self, path: &'a str) -> LocalFuture<'a, io::Result<()>> {
        Box::pin(async move { self.disk.remove(&self.path(path)).await })
    }

    fn rename<'a>(&'a self, from: &'a str, to: &'a str) -> LocalFuture<'a, io::Result<()>> {
        Box::pin(async move { self.disk.rename(&self.path(from), &self.path(to)).await })
    }

    fn link<'a>(&'a self, from: &'a str, to: &'a str) -> LocalFuture<'a, io::Result<()>> {
        Box::pin(async move { self.disk.link(&self.path(from), &self.path(to)).await })
    }

    fn sync_dir<'a>(&'a self, dir: &'a str) -> LocalFuture<'a, io::Result<()>> {
        Box::pin(async move { self.disk.sync_dir(&self.path(dir)).await })
    }

    fn free_bytes(&self) -> io::Result<u64> {
        self.disk.free_bytes()
    }

    fn elsewhere(&self, dir: &str) -> io::Result<Rc<dyn Disk>> {
        self.disk.elsewhere(dir)
    }
}
