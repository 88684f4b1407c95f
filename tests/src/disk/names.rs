//! Directories: the names as they are now, and as a power cut may leave them. A change of a directory
//! is durable after a sync of that directory, which came later than the change.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::rc::Rc;

use super::inode::Mood;
use super::operation::Inode;
use crate::counts::{Counts, Fault};
use crate::random::Random;

#[derive(Default)]
pub(crate) struct Names {
    present: Image,
    durable: Image,
    unsynced: Vec<Unsynced>,
}

#[derive(Clone, Default)]
struct Image {
    files: BTreeMap<String, Rc<Inode>>,
    dirs: BTreeSet<String>,
}

struct Unsynced {
    stamp: u64,
    dir: String,
    change: Change,
}

#[derive(Clone)]
enum Change {
    File(String, Rc<Inode>),
    Dir(String),
    Removed(String),
    Renamed { from: String, to: String, inode: Rc<Inode> },
}

/// The directory a path lies in.
fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or(".", |(dir, _)| dir)
}

impl Image {
    fn has_dir(&self, dir: &str) -> bool {
        dir == "." || self.dirs.contains(dir)
    }

    fn apply(&mut self, change: &Change) {
        match change {
            Change::File(path, inode) => {
                self.files.insert(path.clone(), Rc::clone(inode));
            }
            Change::Dir(dir) => {
                self.dirs.insert(dir.clone());
            }
            Change::Removed(path) => {
                self.files.remove(path);
            }
            Change::Renamed { from, to, inode } => {
                self.files.remove(from);
                self.files.insert(to.clone(), Rc::clone(inode));
            }
        }
    }

    /// What lies in a directory that is gone is gone too.
    fn prune(&mut self) {
        let mut found = true;
        while found {
            let lost: Vec<_> =
                self.dirs.iter().filter(|dir| !self.has_dir(parent(dir))).cloned().collect();
            found = !lost.is_empty();
            for dir in lost {
                self.dirs.remove(&dir);
            }
        }
        let dirs = self.dirs.clone();
        self.files.retain(|path, _| parent(path) == "." || dirs.contains(parent(path)));
    }
}

impl Names {
    pub(crate) fn find(&self, path: &str) -> Option<Rc<Inode>> {
        self.present.files.get(path).cloned()
    }

    pub(crate) fn files(&self) -> &BTreeMap<String, Rc<Inode>> {
        &self.present.files
    }

    /// Adds a file.
    pub(crate) fn create(&mut self, path: &str, inode: &Rc<Inode>, stamp: u64) -> io::Result<()> {
        if !self.present.has_dir(parent(path)) {
            return Err(io::ErrorKind::NotFound.into());
        }
        self.change(parent(path), Change::File(path.to_owned(), Rc::clone(inode)), stamp);
        Ok(())
    }

    /// Adds a directory and its parents, now and after every crash.
    pub(crate) fn create_dir_durably(&mut self, dir: &str) {
        if dir != "." {
            self.create_dir_durably(parent(dir));
            for image in [&mut self.present, &mut self.durable] {
                image.dirs.insert(dir.to_owned());
            }
        }
    }

    /// Adds a file and the directories above it, now and after every crash.
    pub(crate) fn create_durably(&mut self, path: &str, inode: &Rc<Inode>) {
        self.create_dir_durably(parent(path));
        for image in [&mut self.present, &mut self.durable] {
            image.files.insert(path.to_owned(), Rc::clone(inode));
        }
    }

    /// Adds a directory and its parents.
    pub(crate) fn create_dir(&mut self, dir: &str, stamp: u64) {
        if self.present.has_dir(dir) {
            return;
        }
        self.create_dir(parent(dir), stamp);
        self.change(parent(dir), Change::Dir(dir.to_owned()), stamp);
    }

    /// Removes a file and returns it.
    pub(crate) fn remove(&mut self, path: &str, stamp: u64) -> io::Result<Rc<Inode>> {
        let inode = self.find(path).ok_or(io::ErrorKind::NotFound)?;
        self.change(parent(path), Change::Removed(path.to_owned()), stamp);
        Ok(inode)
    }

    /// Renames a file; returns the one whose name it took.
    pub(crate) fn rename(
        &mut self,
        from: &str,
        to: &str,
        stamp: u64,
    ) -> io::Result<Option<Rc<Inode>>> {
        assert_eq!(parent(from), parent(to), "a rename stays in its directory");
        let inode = self.find(from).ok_or(io::ErrorKind::NotFound)?;
        let replaced = self.find(to).filter(|other| !Rc::ptr_eq(other, &inode));
        to.clone_into(&mut inode.path.borrow_mut());
        let change = Change::Renamed { from: from.to_owned(), to: to.to_owned(), inode };
        self.change(parent(from), change, stamp);
        Ok(replaced)
    }

    pub(crate) fn list(&self, dir: &str) -> Vec<String> {
        let paths = self.present.files.keys().chain(self.present.dirs.iter());
        let inside = paths.filter(|path| parent(path) == dir);
        inside.map(|path| path.rsplit('/').next().unwrap_or(path).to_owned()).collect()
    }

    fn change(&mut self, dir: &str, change: Change, stamp: u64) {
        self.present.apply(&change);
        self.unsynced.push(Unsynced { stamp, dir: dir.to_owned(), change });
    }

    /// Makes the changes of `dir` up to `stamp` durable.
    pub(crate) fn sync(&mut self, dir: &str, stamp: u64) {
        let durable = &mut self.durable;
        self.unsynced.retain(|unsynced| {
            let covered = unsynced.dir == dir && unsynced.stamp <= stamp;
            if covered {
                durable.apply(&unsynced.change);
            }
            !covered
        });
    }

    /// Every unsynced change is there, or not.
    pub(crate) fn power_cut(&mut self, mood: Mood, random: &Random, counts: &mut Counts) {
        for unsynced in std::mem::take(&mut self.unsynced) {
            if random.chance(mood.survives) {
                self.durable.apply(&unsynced.change);
            } else {
                counts.add(Fault::EntryVanished);
            }
        }
        self.durable.prune();
        for (path, inode) in &self.durable.files {
            path.clone_into(&mut inode.path.borrow_mut());
        }
        self.present = self.durable.clone();
    }

    /// Every file that is there or may be there after a power cut, once each.
    pub(crate) fn inodes(&self) -> Vec<Rc<Inode>> {
        let changed = self.unsynced.iter().filter_map(|unsynced| match &unsynced.change {
            Change::File(_, inode) | Change::Renamed { inode, .. } => Some(inode),
            Change::Dir(_) | Change::Removed(_) => None,
        });
        let named = self.present.files.values().chain(self.durable.files.values());
        let all: BTreeMap<u64, Rc<Inode>> =
            named.chain(changed).map(|inode| (inode.id, Rc::clone(inode))).collect();
        all.into_values().collect()
    }
}
