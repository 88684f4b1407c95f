//! A simulated disk with one data directory: it forgets, tears, refuses, stalls and damages.
//!
//! # What a power cut leaves
//!
//! | what | durable once | else, each on its own |
//! |---|---|---|
//! | 4 KiB unit of a file | a `Sync::Data` write of it, or a sync issued after its write ended, returned | stays, vanishes (an older version is back), or tears at 512 bytes |
//! | length of a file | the same, for the length the write needs | stays or vanishes; units behind the end are gone |
//! | reserved space | a sync of the file | stays or vanishes |
//! | name: creation, removal, rename, directory | a `sync_dir` of its directory, issued after it | stays or vanishes |
//!
//! A write still under way is an unsynced one of which any units may have arrived. A kill of the
//! process leaves all that was completed; writes under way are finished, not, or in part.
//!
//! # What goes wrong while it runs
//!
//! See [`Faults`]. *Errors* are errors to the caller, or delays, and the engine must live with them.
//! *Damage* (flips, misdirected and lost writes) is silent; with one replica it may end in a clean,
//! explained error. What is damaged is registered: [`DiskHandle::damage`].

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::rc::Rc;
use std::time::Duration;

use tidemill::env::{BLOCK_BYTES, Below, Disk, File, LocalFuture, Open};

use crate::counts::Fault;
use crate::node::{Crash, Shard};
use crate::trace;
use crate::world::Core;

mod inode;
mod names;
mod operation;

use inode::{Mood, bytes, place};
use names::Names;
use operation::{Inode, Operation, SimFile};

/// Chances in a million, per operation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    /// A read fails with EIO.
    pub read_error: u32,
    /// A write fails with EIO, and any part of it may be there.
    pub write_error: u32,
    /// A sync of a file or directory fails with EIO; what it covered may be dropped.
    pub sync_error: u32,
    /// A read of several blocks returns fewer.
    pub short_read: u32,
    /// A write of several blocks takes fewer.
    pub short_write: u32,
    /// An operation takes seconds.
    pub stall: u32,
    /// Damage: a bit of what was just written flips.
    pub bit_flip: u32,
    /// Damage: a write goes to another place of its file.
    pub misdirected_write: u32,
    /// Damage: a write is acknowledged and forgotten.
    pub lost_write: u32,
    /// Damage happens only to files whose path contains this; empty: to all.
    pub damage_only: &'static str,
}

impl Faults {
    /// Short counts and rare stalls, which the engine must not even notice.
    #[must_use]
    pub fn benign() -> Self {
        Self { short_read: 20_000, short_write: 20_000, stall: 300, ..Self::default() }
    }

    /// The same, and silent damage of about one write in a hundred to files whose path contains `only`.
    #[must_use]
    pub fn with_damage(self, only: &'static str) -> Self {
        let (bit_flip, misdirected_write, lost_write) = (3_000, 3_000, 3_000);
        Self { bit_flip, misdirected_write, lost_write, damage_only: only, ..self }
    }

    /// [`Faults::benign`] and errors, about one operation in a hundred.
    #[must_use]
    pub fn errors() -> Self {
        Self { read_error: 2_000, write_error: 3_000, sync_error: 5_000, ..Self::benign() }
    }
}

/// Something stored that is not what was written there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// The file.
    pub path: String,
    /// Where the damaged unit begins, in bytes.
    pub at: u64,
    /// What happened to it.
    pub fault: Fault,
}

/// The disk as the scenario sees it. Cheap to clone.
#[derive(Clone)]
pub struct DiskHandle {
    state: Rc<DiskState>,
}

impl fmt::Debug for DiskHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DiskHandle").field("used_bytes", &self.used_bytes()).finish_non_exhaustive()
    }
}

impl DiskHandle {
    pub(crate) fn new(state: &Rc<DiskState>) -> Self {
        Self { state: Rc::clone(state) }
    }

    /// From now on this goes wrong.
    pub fn set_faults(&self, faults: Faults) {
        *self.state.faults.borrow_mut() = faults;
    }

    /// From now on files may take `bytes` of space in all. Below what they have taken, nothing more
    /// can be taken; writes into space a file has never meet it.
    pub fn set_quota(&self, bytes: Option<u64>) {
        self.state.quota_bytes.set(bytes);
    }

    /// The space files take.
    #[must_use]
    pub fn used_bytes(&self) -> u64 {
        self.state.used_units.get() * BLOCK_BYTES as u64
    }

    /// The paths of all files, sorted.
    #[must_use]
    pub fn paths(&self) -> Vec<String> {
        self.state.names.borrow().files().keys().cloned().collect()
    }

    /// A copy of a file's bytes, if it exists.
    #[must_use]
    pub fn contents(&self, path: &str) -> Option<Vec<u8>> {
        let inode = self.state.names.borrow().find(path)?;
        let content = inode.content.borrow();
        let len = usize::try_from(content.len()).expect("test files fit memory");
        // Most units of most files are zeros, which cost nothing here.
        let mut all = vec![0; len];
        for (unit, target) in content.units().iter().zip(all.chunks_mut(BLOCK_BYTES)) {
            if let Some(unit) = unit {
                target.copy_from_slice(&unit[..target.len()]);
            }
        }
        Some(all)
    }

    /// A copy of every file, by path.
    #[must_use]
    pub fn files(&self) -> BTreeMap<String, Vec<u8>> {
        let paths = self.paths();
        paths.into_iter().filter_map(|path| Some((path.clone(), self.contents(&path)?))).collect()
    }

    /// Puts a file there, durably, as somebody does who copies a directory to this disk.
    ///
    /// # Panics
    /// If it is there already.
    pub fn put(&self, path: &str, bytes: &[u8]) {
        let state = &self.state;
        let mut names = state.names.borrow_mut();
        assert!(names.find(path).is_none(), "{path} is there already");
        let inode = state.new_inode(path);
        names.create_durably(path, &inode);
        let stamp = state.next_stamp();
        let mut content = inode.content.borrow_mut();
        let units = 0..inode::units_of(bytes.len() as u64);
        for (index, part) in units.clone().zip(bytes.chunks(BLOCK_BYTES)) {
            let mut whole = part.to_vec();
            whole.resize(BLOCK_BYTES, 0);
            content.write(index, inode::unit(&whole), stamp, true);
        }
        content.grow_durably(bytes.len() as u64);
        let taken = content.allocate(units, stamp);
        content.sync(stamp);
        drop(content);
        state.take(&inode, taken);
    }

    /// A copy of the first 4 KiB of a file; empty if there is no such file.
    #[must_use]
    pub fn head(&self, path: &str) -> Vec<u8> {
        let inode = self.state.names.borrow().find(path);
        inode.map_or_else(Vec::new, |inode| bytes(inode.content.borrow().present(0)).to_vec())
    }

    /// Flips one bit of a file, now and durably, and registers it.
    ///
    /// # Panics
    /// If there is no such file or it ends before `byte`.
    pub fn flip_bit(&self, path: &str, byte: u64, bit: u32) {
        let inode = self.state.names.borrow().find(path).expect("the file to damage exists");
        assert!(byte < inode.content.borrow().len(), "the byte to damage exists");
        inode.content.borrow_mut().flip(byte, bit);
        self.state.fault(Fault::BitFlip);
    }

    /// Everything that is damaged in files that have a name, sorted by path and place. A unit counts
    /// until a durable write replaces it, so a few of these may be whole again.
    #[must_use]
    pub fn damage(&self) -> Vec<Damage> {
        let names = self.state.names.borrow();
        let mut all = Vec::new();
        for (path, inode) in names.files() {
            for (&index, &fault) in &inode.content.borrow().damaged {
                let at = u64::from(index) * BLOCK_BYTES as u64;
                all.push(Damage { path: path.clone(), at, fault });
            }
        }
        all
    }

    /// The damage that touches the unit of `byte` in the file `path`, if any.
    #[must_use]
    pub fn damage_at(&self, path: &str, byte: u64) -> Option<Fault> {
        let inode = self.state.names.borrow().find(path)?;
        inode.content.borrow().damaged.get(&place(byte).0).copied()
    }
}

/// The state of one disk; survives every crash.
pub(crate) struct DiskState {
    pub(crate) core: Rc<Core>,
    /// Counts changes; see [`inode`].
    pub(crate) stamp: Cell<u64>,
    names: RefCell<Names>,
    faults: RefCell<Faults>,
    quota_bytes: Cell<Option<u64>>,
    used_units: Cell<u64>,
    inode_last: Cell<u64>,
    activity: Cell<u64>,
    pub(crate) in_flight: RefCell<Vec<Rc<Operation>>>,
}

impl DiskState {
    pub(crate) fn new(core: &Rc<Core>) -> Rc<Self> {
        Rc::new(Self {
            core: Rc::clone(core),
            stamp: Cell::new(0),
            names: RefCell::default(),
            faults: RefCell::default(),
            quota_bytes: Cell::new(None),
            used_units: Cell::new(0),
            inode_last: Cell::new(0),
            activity: Cell::new(0),
            in_flight: RefCell::default(),
        })
    }

    pub(crate) fn next_stamp(&self) -> u64 {
        self.stamp.set(self.stamp.get() + 1);
        self.stamp.get()
    }

    /// An operation was submitted or completed.
    pub(crate) fn acted(&self) {
        self.activity.set(self.activity.get() + 1);
    }

    /// How many operations were submitted or completed since the last call.
    pub(crate) fn take_activity(&self) -> u64 {
        self.activity.take()
    }

    /// How long an operation takes, in nanoseconds: mostly a fraction of a millisecond, with a long
    /// tail, so that completions overtake each other.
    pub(crate) fn latency(&self, durable: bool) -> u64 {
        let random = &self.core.random;
        if self.hits(|faults| faults.stall, Fault::Stall) {
            return random.within(1_000_000_000..6_000_000_000);
        }
        let base = if durable { 60_000 } else { 20_000 };
        let spread = if random.one_in(32) { 5_000_000 } else { 150_000 };
        base + random.below(spread)
    }

    /// Whether a fault is due; counts it.
    pub(crate) fn hits(&self, chance: impl Fn(&Faults) -> u32, fault: Fault) -> bool {
        let hit = self.core.random.chance(chance(&self.faults.borrow()));
        if hit {
            self.fault(fault);
        }
        hit
    }

    fn damages(&self, inode: &Inode, chance: impl Fn(&Faults) -> u32, fault: Fault) -> bool {
        let only = self.faults.borrow().damage_only;
        (only.is_empty() || inode.path.borrow().contains(only)) && self.hits(chance, fault)
    }

    pub(crate) fn fault(&self, fault: Fault) {
        self.core.counts.borrow_mut().add(fault);
        self.core.trace(0, trace::Event::Fault, fault as u64, || fault.name());
    }

    /// How many units may still be taken.
    fn room_units(&self) -> u64 {
        let quota = self.quota_bytes.get().map_or(u64::MAX, |bytes| bytes / BLOCK_BYTES as u64);
        quota.saturating_sub(self.used_units.get())
    }

    fn take(&self, inode: &Inode, units: u64) {
        if inode.linked.get() {
            self.used_units.set(self.used_units.get() + units);
        }
    }

    fn give_back(&self, inode: &Inode, units: u64) {
        if inode.linked.get() {
            self.used_units.set(self.used_units.get() - units);
        }
    }

    fn unlink(&self, inode: &Inode) {
        self.give_back(inode, inode.content.borrow().allocated_count());
        inode.linked.set(false);
    }

    fn new_inode(&self, path: &str) -> Rc<Inode> {
        self.inode_last.set(self.inode_last.get() + 1);
        Rc::new(Inode {
            id: self.inode_last.get(),
            path: RefCell::new(path.to_owned()),
            content: RefCell::default(),
            linked: Cell::new(true),
        })
    }

    /// Makes a directory, durably; see `Platform::elsewhere`.
    pub(crate) fn make_dir(&self, dir: &str) {
        self.names.borrow_mut().create_dir_durably(dir);
    }

    fn open(&self, path: &str, how: Open) -> io::Result<Rc<Inode>> {
        let mut names = self.names.borrow_mut();
        match (names.find(path), how) {
            (None, Open::Existing) => Err(io::ErrorKind::NotFound.into()),
            (Some(_), Open::New) => Err(io::ErrorKind::AlreadyExists.into()),
            (Some(inode), _) => Ok(inode),
            (None, _) => {
                let inode = self.new_inode(path);
                names.create(path, &inode, self.next_stamp())?;
                Ok(inode)
            }
        }
    }

    pub(crate) fn crash(&self, crash: Crash) {
        self.activity.set(0);
        for operation in self.in_flight.take() {
            operation.crash(crash);
        }
        if crash == Crash::Kill {
            return;
        }
        let inodes = self.names.borrow().inodes();
        let random = &self.core.random;
        let mood = Mood::draw(random);
        let mut counts = self.core.counts.borrow_mut();
        for inode in &inodes {
            inode.content.borrow_mut().power_cut(mood, random, &mut counts);
            inode.linked.set(false);
        }
        let mut names = self.names.borrow_mut();
        names.power_cut(Mood::draw(random), random, &mut counts);
        let mut used = 0;
        for inode in names.files().values() {
            inode.linked.set(true);
            used += inode.content.borrow().allocated_count();
        }
        self.used_units.set(used);
    }

    /// Breaks the circles of the world when it ends.
    pub(crate) fn take_down(&self) {
        drop(self.in_flight.take());
        drop(self.names.take());
    }
}

/// The disk as one shard of one process sees it.
pub(crate) struct ProcessDisk {
    disk: Rc<DiskState>,
    shard: Rc<Shard>,
}

impl ProcessDisk {
    pub(crate) fn new(disk: &Rc<DiskState>, shard: &Rc<Shard>) -> Self {
        Self { disk: Rc::clone(disk), shard: Rc::clone(shard) }
    }

    /// A directory operation: `act` takes effect at once, the answer comes later. Any state between is
    /// one that a crash may leave, since no change of a directory is durable by itself.
    fn later<'a, T: 'a>(
        &'a self,
        what: &'static str,
        path: &'a str,
        act: impl FnOnce(&DiskState) -> io::Result<T> + 'a,
    ) -> LocalFuture<'a, io::Result<T>> {
        Box::pin(async move {
            assert!(
                !path.is_empty() && !path.starts_with('/') && !path.split('/').any(|p| p == ".."),
                "{path:?} is no path inside the directory",
            );
            if !self.shard.alive.get() {
                return std::future::pending().await;
            }
            let core = &self.disk.core;
            let detail = u64::from(crc32fast::hash(path.as_bytes()));
            core.trace(self.shard.group.0 as u64, trace::Event::Submit, detail, || {
                format!("{what} {path}")
            });
            let result = act(&self.disk);
            self.disk.acted();
            core.sleep(Duration::from_nanos(self.disk.latency(false))).await;
            self.disk.acted();
            result
        })
    }
}

impl Disk for ProcessDisk {
    fn open<'a>(&'a self, path: &'a str, how: Open) -> LocalFuture<'a, io::Result<Rc<dyn File>>> {
        self.later("open", path, move |disk| {
            let inode = disk.open(path, how)?;
            let file = SimFile {
                disk: Rc::clone(&self.disk),
                shard: Rc::clone(&self.shard),
                inode,
                path: path.to_owned(),
            };
            Ok(Rc::new(file) as Rc<dyn File>)
        })
    }

    fn list<'a>(&'a self, dir: &'a str) -> LocalFuture<'a, io::Result<Vec<String>>> {
        self.later("list", dir, move |disk| {
            let mut names = disk.names.borrow().list(dir);
            // The contract promises no order, so none is kept.
            for end in (1..names.len()).rev() {
                names.swap(end, disk.core.random.index(end + 1));
            }
            Ok(names)
        })
    }

    fn create_dir<'a>(&'a self, dir: &'a str) -> LocalFuture<'a, io::Result<()>> {
        self.later("create_dir", dir, move |disk| {
            disk.names.borrow_mut().create_dir(dir, disk.next_stamp());
            Ok(())
        })
    }

    fn remove<'a>(&'a self, path: &'a str) -> LocalFuture<'a, io::Result<()>> {
        self.later("remove", path, move |disk| {
            let inode = disk.names.borrow_mut().remove(path, disk.next_stamp())?;
            disk.unlink(&inode);
            Ok(())
        })
    }

    fn rename<'a>(&'a self, from: &'a str, to: &'a str) -> LocalFuture<'a, io::Result<()>> {
        self.later("rename", from, move |disk| {
            let replaced = disk.names.borrow_mut().rename(from, to, disk.next_stamp())?;
            if let Some(replaced) = replaced {
                disk.unlink(&replaced);
            }
            Ok(())
        })
    }

    fn sync_dir<'a>(&'a self, dir: &'a str) -> LocalFuture<'a, io::Result<()>> {
        Box::pin(async move {
            let stamp = self.disk.stamp.get();
            self.later("sync_dir", dir, |_| Ok(())).await?;
            if self.disk.hits(|faults| faults.sync_error, Fault::SyncError) {
                return Err(io::Error::other("simulated I/O error"));
            }
            self.disk.names.borrow_mut().sync(dir, stamp);
            Ok(())
        })
    }

    fn free_bytes(&self) -> io::Result<u64> {
        Ok(self.disk.room_units().min(1 << 28) * BLOCK_BYTES as u64)
    }

    /// A directory of the same disk: it crashes, fails and fills up with it.
    fn elsewhere(&self, dir: &str) -> io::Result<Rc<dyn Disk>> {
        let all: Rc<dyn Disk> = Rc::new(Self::new(&self.disk, &self.shard));
        Ok(Rc::new(Below::new(&all, dir)))
    }
}
