//! A disk that remembers what was synced: at a crash every unsynced 4 KiB unit survives, vanishes or
//! tears, every unsynced name is there or not. It can stop serving after so many operations.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::io;
use std::rc::Rc;

use crate::env::{BLOCK_BYTES, Buf, Disk, File, LocalFuture, Open, Sync, WithBuf};

/// `SplitMix64`: chance from a seed.
#[derive(Debug)]
pub(super) struct Chance(pub(super) u64);

impl Chance {
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub(super) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    pub(super) fn one_in(&mut self, count: u64) -> bool {
        self.below(count) == 0
    }
}

#[derive(Debug, Default)]
struct Inode {
    now: Vec<u8>,
    synced: Vec<u8>,
}

type Node = Rc<RefCell<Inode>>;
type Names = BTreeMap<String, Node>;

#[derive(Clone, Debug, Default)]
pub(super) struct CrashDisk {
    names: Rc<RefCell<Names>>,
    names_synced: Rc<RefCell<Names>>,
    /// Operations left until it stops; `None` for ever.
    pub(super) fuse: Rc<Cell<Option<u64>>>,
    /// Bytes all files may have in total.
    pub(super) bytes_max: Rc<Cell<u64>>,
}

impl CrashDisk {
    pub(super) fn new() -> Self {
        let disk = Self::default();
        disk.bytes_max.set(u64::MAX);
        disk
    }

    /// What is left after a crash now.
    pub(super) fn crash(&self, chance: &mut Chance) -> Self {
        let disk = Self::new();
        let (now, synced) = (self.names.borrow(), self.names_synced.borrow());
        let mut left = Names::new();
        let paths: std::collections::BTreeSet<&String> = now.keys().chain(synced.keys()).collect();
        for path in paths {
            let (new, old) = (now.get(path), synced.get(path));
            let same = matches!((new, old), (Some(a), Some(b)) if Rc::ptr_eq(a, b));
            let chosen = if same || chance.one_in(2) { new } else { old };
            if let Some(inode) = chosen {
                let bytes = survive(&inode.borrow(), chance);
                let inode = Inode { synced: bytes.clone(), now: bytes };
                left.insert(path.clone(), Rc::new(RefCell::new(inode)));
            }
        }
        *disk.names_synced.borrow_mut() = left.clone();
        *disk.names.borrow_mut() = left;
        disk
    }

    /// What the next process finds when only the last one died: everything it wrote, but nothing
    /// more of it is durable than before.
    pub(super) fn kill(&self) -> Self {
        let disk = Self::new();
        // An operation of the old process must not touch the new one's files.
        let mut copies: Vec<(Node, Node)> = Vec::new();
        let mut copy = |names: &Names| -> Names {
            let mut of = |inode: &Node| {
                if let Some((_, copy)) = copies.iter().find(|(old, _)| Rc::ptr_eq(old, inode)) {
                    return Rc::clone(copy);
                }
                let Inode { now, synced } = &*inode.borrow();
                let new = Inode { now: now.clone(), synced: synced.clone() };
                let new = Rc::new(RefCell::new(new));
                copies.push((Rc::clone(inode), Rc::clone(&new)));
                new
            };
            names.iter().map(|(path, inode)| (path.clone(), of(inode))).collect()
        };
        *disk.names.borrow_mut() = copy(&self.names.borrow());
        *disk.names_synced.borrow_mut() = copy(&self.names_synced.borrow());
        disk
    }

    pub(super) fn contents(&self, path: &str) -> Vec<u8> {
        self.names.borrow()[path].borrow().now.clone()
    }

    pub(super) fn set(&self, path: &str, bytes: Vec<u8>) {
        let inode = Rc::clone(&self.names.borrow()[path]);
        inode.borrow_mut().now = bytes;
    }

    pub(super) fn paths(&self) -> Vec<String> {
        self.names.borrow().keys().cloned().collect()
    }

    fn operate(&self) -> io::Result<()> {
        match self.fuse.get() {
            Some(0) => Err(io::Error::other("the machine crashed")),
            Some(left) => {
                self.fuse.set(Some(left - 1));
                Ok(())
            }
            None => Ok(()),
        }
    }

    fn room(&self, more: u64) -> io::Result<()> {
        let used: u64 =
            self.names.borrow().values().map(|inode| inode.borrow().now.len() as u64).sum();
        if used + more > self.bytes_max.get() {
            return Err(io::ErrorKind::StorageFull.into());
        }
        Ok(())
    }
}

/// A length and, for each 4 KiB unit, bytes that the crash left.
fn survive(inode: &Inode, chance: &mut Chance) -> Vec<u8> {
    let len = if chance.one_in(2) { inode.now.len() } else { inode.synced.len() };
    let mut bytes = vec![0; len];
    for (slot, unit) in bytes.chunks_mut(BLOCK_BYTES).enumerate() {
        let at = slot * BLOCK_BYTES;
        let copy = |from: &[u8], unit: &mut [u8], range: std::ops::Range<usize>| {
            for place in range.start..range.end.min(unit.len()) {
                unit[place] = from.get(at + place).copied().unwrap_or(0);
            }
        };
        let torn = usize::try_from(chance.below(9)).unwrap() * 512;
        match chance.below(3) {
            0 => copy(&inode.now, unit, 0..BLOCK_BYTES),
            1 => copy(&inode.synced, unit, 0..BLOCK_BYTES),
            _ => {
                copy(&inode.now, unit, 0..torn);
                copy(&inode.synced, unit, torn..BLOCK_BYTES);
            }
        }
    }
    bytes
}

fn ready<T: 'static>(value: T) -> LocalFuture<'static, T> {
    // One turn late, so that other tasks run in between.
    let mut value = Some(value);
    let mut late = false;
    Box::pin(std::future::poll_fn(move |context| {
        if late {
            return std::task::Poll::Ready(value.take().expect("polled after it was ready"));
        }
        late = true;
        context.waker().wake_by_ref();
        std::task::Poll::Pending
    }))
}

impl Disk for CrashDisk {
    fn open<'a>(&'a self, path: &'a str, how: Open) -> LocalFuture<'a, io::Result<Rc<dyn File>>> {
        ready(self.operate().and_then(|()| {
            let mut names = self.names.borrow_mut();
            match (how, names.contains_key(path)) {
                (Open::Existing, false) => return Err(io::ErrorKind::NotFound.into()),
                (Open::New, true) => return Err(io::ErrorKind::AlreadyExists.into()),
                _ => {}
            }
            let inode = Rc::clone(names.entry(path.to_owned()).or_default());
            let file = CrashFile { path: path.to_owned(), inode, disk: self.clone() };
            Ok(Rc::new(file) as Rc<dyn File>)
        }))
    }

    fn list<'a>(&'a self, dir: &'a str) -> LocalFuture<'a, io::Result<Vec<String>>> {
        let prefix = format!("{dir}/");
        let names = self.names.borrow();
        let names = names.keys().filter_map(|path| path.strip_prefix(&prefix));
        ready(Ok(names.map(str::to_owned).collect()))
    }

    fn create_dir<'a>(&'a self, _dir: &'a str) -> LocalFuture<'a, io::Result<()>> {
        ready(self.operate())
    }

    fn remove<'a>(&'a self, path: &'a str) -> LocalFuture<'a, io::Result<()>> {
        ready(self.operate().and_then(|()| {
            let removed = self.names.borrow_mut().remove(path);
            removed.map(|_| ()).ok_or_else(|| io::ErrorKind::NotFound.into())
        }))
    }

    fn rename<'a>(&'a self, from: &'a str, to: &'a str) -> LocalFuture<'a, io::Result<()>> {
        ready(self.operate().and_then(|()| {
            let mut names = self.names.borrow_mut();
            let inode = names.remove(from).ok_or(io::ErrorKind::NotFound)?;
            names.insert(to.to_owned(), inode);
            Ok(())
        }))
    }

    fn sync_dir<'a>(&'a self, dir: &'a str) -> LocalFuture<'a, io::Result<()>> {
        ready(self.operate().map(|()| {
            let prefix = format!("{dir}/");
            let mut synced = self.names_synced.borrow_mut();
            synced.retain(|path, _| !path.starts_with(&prefix));
            for (path, inode) in self.names.borrow().iter() {
                if path.starts_with(&prefix) {
                    synced.insert(path.clone(), Rc::clone(inode));
                }
            }
        }))
    }

    fn free_bytes(&self) -> io::Result<u64> {
        Ok(u64::MAX)
    }
}

struct CrashFile {
    path: String,
    inode: Rc<RefCell<Inode>>,
    disk: CrashDisk,
}

impl File for CrashFile {
    fn read(&self, at: u64, mut buf: Buf) -> LocalFuture<'static, WithBuf> {
        if let Err(error) = self.disk.operate() {
            return ready((Err(error), buf));
        }
        let inode = self.inode.borrow();
        let from = usize::try_from(at).unwrap().min(inode.now.len());
        let count = buf.len().min(inode.now.len() - from);
        buf[..count].copy_from_slice(&inode.now[from..from + count]);
        ready((Ok(count), buf))
    }

    fn write(&self, at: u64, buf: Buf, sync: Sync) -> LocalFuture<'static, WithBuf> {
        assert_eq!(sync, Sync::No, "the depot syncs once for several writes");
        assert!(buf.len() <= crate::env::IO_BYTES_MAX);
        if let Err(error) = self.disk.operate() {
            return ready((Err(error), buf));
        }
        let mut inode = self.inode.borrow_mut();
        let from = usize::try_from(at).unwrap();
        assert!(from + buf.len() <= inode.now.len(), "space is allocated before it is written");
        inode.now[from..from + buf.len()].copy_from_slice(&buf);
        ready((Ok(buf.len()), buf))
    }

    fn sync(&self) -> LocalFuture<'static, io::Result<()>> {
        ready(self.disk.operate().map(|()| {
            let mut inode = self.inode.borrow_mut();
            inode.synced = inode.now.clone();
        }))
    }

    fn allocate(&self, len: u64) -> LocalFuture<'static, io::Result<()>> {
        let len = usize::try_from(len).unwrap();
        let have = self.inode.borrow().now.len();
        let more = len.saturating_sub(have);
        ready(self.disk.operate().and_then(|()| self.disk.room(more as u64)).map(|()| {
            if more > 0 {
                self.inode.borrow_mut().now.resize(len, 0);
            }
        }))
    }

    fn truncate(&self, len: u64) -> LocalFuture<'static, io::Result<()>> {
        let len = usize::try_from(len).unwrap();
        ready(self.disk.operate().map(|()| self.inode.borrow_mut().now.truncate(len)))
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.inode.borrow().now.len() as u64)
    }

    fn path(&self) -> &str {
        &self.path
    }
}
