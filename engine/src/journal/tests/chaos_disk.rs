//! A disk that forgets and tears what was not synced, for tests of one journal. Writes take their
//! time and end in any order. (The simulator's disk does more; this one needs no other crate.)

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::rc::Rc;
use std::time::Duration;

use crate::env::{
    BLOCK_BYTES, Buf, Class, Clock, Disk, Env, File, LocalFuture, Mesh, Open, Parcel, Sender,
    Spawner, Sync, WithBuf,
};
use crate::types::{ShardId, Time, WallTime};

#[derive(Clone, Default)]
pub(super) struct ChaosDisk {
    inner: Rc<Inner>,
}

#[derive(Default)]
struct Inner {
    names: RefCell<BTreeMap<String, Rc<Node>>>,
    durable_names: RefCell<BTreeMap<String, Rc<Node>>>,
    random: Cell<u64>,
    /// One write in so many fails; 0: none.
    eio_in: Cell<u64>,
    bytes_max: Cell<Option<u64>>,
    env: RefCell<Option<Env>>,
}

#[derive(Default)]
struct Node {
    blocks: RefCell<BTreeMap<u64, Block>>,
    len: Cell<u64>,
    durable_len: Cell<u64>,
    in_flight: RefCell<BTreeMap<u64, (u64, Vec<u8>)>>,
}

#[derive(Clone, Default)]
struct Block {
    durable: Option<Vec<u8>>,
    versions: Vec<Vec<u8>>,
}

impl Block {
    fn newest(&self) -> Option<&Vec<u8>> {
        self.versions.last().or(self.durable.as_ref())
    }
}

impl Inner {
    fn random(&self, below: u64) -> u64 {
        let state = self.random.get().wrapping_add(0x9e37_79b9_7f4a_7c15);
        self.random.set(state);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % below
    }

    fn pause(&self) -> LocalFuture<'static, ()> {
        let micros = self.random(300);
        self.env.borrow().as_ref().expect("an environment").sleep(Duration::from_micros(micros))
    }

    fn used(&self) -> u64 {
        self.names.borrow().values().map(|node| node.len.get()).sum()
    }

    fn room(&self, more: u64) -> io::Result<()> {
        match self.bytes_max.get() {
            Some(max) if self.used() + more > max => Err(io::ErrorKind::StorageFull.into()),
            _ => Ok(()),
        }
    }
}

impl ChaosDisk {
    pub(super) fn new(seed: u64) -> Self {
        let disk = Self::default();
        disk.inner.random.set(seed);
        disk
    }

    pub(super) fn random(&self, below: u64) -> u64 {
        self.inner.random(below)
    }

    pub(super) fn fail_one_write_in(&self, count: u64) {
        self.inner.eio_in.set(count);
    }

    pub(super) fn limit(&self, bytes: Option<u64>) {
        self.inner.bytes_max.set(bytes);
    }

    pub(super) fn used(&self) -> u64 {
        self.inner.used()
    }

    /// Changes one durable byte.
    pub(super) fn overwrite(&self, path: &str, at: u64, byte: u8) {
        let names = self.inner.names.borrow();
        let mut blocks = names[path].blocks.borrow_mut();
        let block = blocks.get_mut(&(at / BLOCK_BYTES as u64)).unwrap();
        let at = usize::try_from(at).unwrap() % BLOCK_BYTES;
        block.durable.as_mut().unwrap()[at] = byte;
    }

    /// This disk, with the clock and tasks of `env`.
    pub(super) fn attach(&self, env: &Env) -> Env {
        let via = Rc::new(Via(env.clone()));
        *self.inner.env.borrow_mut() = Some(env.clone());
        let disk = Rc::new(self.clone());
        Env::new(ShardId(0), disk, Rc::clone(&via) as _, Rc::clone(&via) as _, via, 1)
    }

    /// The process dies: writes under way may have happened, block by block. Nothing else is lost.
    pub(super) fn kill(&self) {
        let inner = &self.inner;
        for node in inner.names.borrow().values() {
            for (at, bytes) in node.in_flight.take().into_values() {
                for (number, block) in bytes.chunks(BLOCK_BYTES).enumerate() {
                    if inner.random(2) == 0 {
                        let number = at / BLOCK_BYTES as u64 + number as u64;
                        let mut blocks = node.blocks.borrow_mut();
                        blocks.entry(number).or_default().versions.push(block.to_vec());
                    }
                }
            }
        }
        *inner.env.borrow_mut() = None;
    }

    /// Power fails: each unsynced block survives, vanishes or tears; names and lengths, too.
    pub(super) fn power_failure(&self) {
        self.kill();
        let inner = &self.inner;
        let durable = inner.durable_names.borrow().clone();
        let current = inner.names.borrow().clone();
        let all: BTreeSet<String> = durable.keys().chain(current.keys()).cloned().collect();
        let mut names = BTreeMap::new();
        for name in all {
            let side = if inner.random(2) == 0 { &durable } else { &current };
            if let Some(node) = side.get(&name) {
                names.insert(name, Rc::clone(node));
            }
        }
        for node in names.values() {
            if inner.random(2) == 0 {
                node.len.set(node.durable_len.get());
            }
            node.durable_len.set(node.len.get());
            for block in node.blocks.borrow_mut().values_mut() {
                if block.versions.is_empty() {
                    continue;
                }
                let versions = std::mem::take(&mut block.versions);
                let pick = usize::try_from(inner.random(versions.len() as u64 + 1)).unwrap();
                let Some(survivor) = versions.get(pick) else { continue };
                let mut torn = block.durable.clone().unwrap_or_else(|| vec![0; BLOCK_BYTES]);
                let sectors = if inner.random(3) == 0 { inner.random(8) } else { 8 };
                let cut = usize::try_from(sectors).unwrap() * 512;
                torn[..cut].copy_from_slice(&survivor[..cut]);
                block.durable = Some(torn);
            }
        }
        *inner.durable_names.borrow_mut() = names.clone();
        *inner.names.borrow_mut() = names;
    }
}

impl Disk for ChaosDisk {
    fn open<'a>(&'a self, path: &'a str, how: Open) -> LocalFuture<'a, io::Result<Rc<dyn File>>> {
        let mut names = self.inner.names.borrow_mut();
        let exists = names.contains_key(path);
        let result: io::Result<Rc<dyn File>> = match how {
            Open::Existing if !exists => Err(io::ErrorKind::NotFound.into()),
            Open::New if exists => Err(io::ErrorKind::AlreadyExists.into()),
            _ => {
                let node = Rc::clone(names.entry(path.to_owned()).or_default());
                Ok(Rc::new(ChaosFile { path: path.to_owned(), node, disk: self.clone() }))
            }
        };
        Box::pin(std::future::ready(result))
    }

    fn list<'a>(&'a self, dir: &'a str) -> LocalFuture<'a, io::Result<Vec<String>>> {
        let prefix = format!("{dir}/");
        let names = self.inner.names.borrow();
        let names = names.keys().filter_map(|path| path.strip_prefix(&prefix));
        let names = names.map(str::to_owned).collect();
        Box::pin(std::future::ready(Ok(names)))
    }

    fn create_dir<'a>(&'a self, _dir: &'a str) -> LocalFuture<'a, io::Result<()>> {
        Box::pin(std::future::ready(Ok(())))
    }

    fn remove<'a>(&'a self, path: &'a str) -> LocalFuture<'a, io::Result<()>> {
        let removed = self.inner.names.borrow_mut().remove(path);
        let result = removed.map(|_| ()).ok_or_else(|| io::ErrorKind::NotFound.into());
        Box::pin(std::future::ready(result))
    }

    fn rename<'a>(&'a self, _from: &'a str, _to: &'a str) -> LocalFuture<'a, io::Result<()>> {
        Box::pin(std::future::ready(Err(io::ErrorKind::Unsupported.into())))
    }

    fn sync_dir<'a>(&'a self, dir: &'a str) -> LocalFuture<'a, io::Result<()>> {
        let prefix = format!("{dir}/");
        Box::pin(async move {
            self.inner.pause().await;
            let names = self.inner.names.borrow();
            let mut durable = self.inner.durable_names.borrow_mut();
            durable.retain(|path, _| !path.starts_with(&prefix));
            let of_dir = names.iter().filter(|(path, _)| path.starts_with(&prefix));
            durable.extend(of_dir.map(|(path, node)| (path.clone(), Rc::clone(node))));
            Ok(())
        })
    }

    fn free_bytes(&self) -> io::Result<u64> {
        Ok(self.inner.bytes_max.get().unwrap_or(1 << 50).saturating_sub(self.used()))
    }
}

struct ChaosFile {
    path: String,
    node: Rc<Node>,
    disk: ChaosDisk,
}

impl File for ChaosFile {
    fn read(&self, at: u64, mut buf: Buf) -> LocalFuture<'static, WithBuf> {
        let rest = self.node.len.get().saturating_sub(at);
        let count = buf.len().min(usize::try_from(rest).unwrap());
        let blocks = self.node.blocks.borrow();
        for (number, chunk) in buf[..count].chunks_mut(BLOCK_BYTES).enumerate() {
            let block = blocks.get(&(at / BLOCK_BYTES as u64 + number as u64));
            match block.and_then(Block::newest) {
                Some(bytes) => chunk.copy_from_slice(&bytes[..chunk.len()]),
                None => chunk.fill(0),
            }
        }
        Box::pin(std::future::ready((Ok(count), buf)))
    }

    fn write(&self, at: u64, buf: Buf, sync: Sync) -> LocalFuture<'static, WithBuf> {
        let (node, disk) = (Rc::clone(&self.node), self.disk.clone());
        let id = disk.random(u64::MAX);
        let fail = disk.inner.eio_in.get() > 0 && disk.random(disk.inner.eio_in.get()) == 0;
        // A device may write at any time from now on.
        node.in_flight.borrow_mut().insert(id, (at, buf.to_vec()));
        Box::pin(async move {
            disk.inner.pause().await;
            if fail {
                return (Err(io::Error::other("injected")), buf);
            }
            assert!(at + buf.len() as u64 <= node.len.get(), "no write grows a file");
            node.in_flight.borrow_mut().remove(&id);
            let mut blocks = node.blocks.borrow_mut();
            for (number, bytes) in buf.chunks(BLOCK_BYTES).enumerate() {
                let block = blocks.entry(at / BLOCK_BYTES as u64 + number as u64).or_default();
                if sync == Sync::Data {
                    *block = Block { durable: Some(bytes.to_vec()), versions: Vec::new() };
                } else {
                    block.versions.push(bytes.to_vec());
                }
            }
            drop(blocks);
            (Ok(buf.len()), buf)
        })
    }

    fn sync(&self) -> LocalFuture<'static, io::Result<()>> {
        let (node, disk) = (Rc::clone(&self.node), self.disk.clone());
        let len = node.len.get();
        Box::pin(async move {
            disk.inner.pause().await;
            for block in node.blocks.borrow_mut().values_mut() {
                if let Some(newest) = block.versions.pop() {
                    *block = Block { durable: Some(newest), versions: Vec::new() };
                }
            }
            node.durable_len.set(len.max(node.durable_len.get()));
            Ok(())
        })
    }

    fn allocate(&self, len: u64) -> LocalFuture<'static, io::Result<()>> {
        let result = self.disk.inner.room(len.saturating_sub(self.node.len.get()));
        if result.is_ok() {
            self.node.len.set(len.max(self.node.len.get()));
        }
        Box::pin(std::future::ready(result))
    }

    fn truncate(&self, len: u64) -> LocalFuture<'static, io::Result<()>> {
        self.node.len.set(len);
        Box::pin(std::future::ready(Ok(())))
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.node.len.get())
    }

    fn path(&self) -> &str {
        &self.path
    }
}

/// Clock, tasks and mesh of another environment.
struct Via(Env);

impl Clock for Via {
    fn now(&self) -> Time {
        self.0.now()
    }

    fn wall(&self) -> WallTime {
        self.0.wall()
    }

    fn sleep(&self, duration: Duration) -> LocalFuture<'static, ()> {
        self.0.sleep(duration)
    }
}

impl Spawner for Via {
    fn spawn(&self, class: Class, name: &'static str, future: LocalFuture<'static, ()>) {
        self.0.spawn(class, name, future);
    }

    fn yield_now(&self) -> LocalFuture<'static, ()> {
        self.0.yield_now()
    }

    fn should_yield(&self) -> bool {
        self.0.should_yield()
    }
}

impl Mesh for Via {
    fn send(&self, to: ShardId, parcel: Parcel) {
        self.0.mesh().send(to, parcel);
    }

    fn receive(&self) -> LocalFuture<'_, Vec<(Sender, Parcel)>> {
        Box::pin(self.0.mesh().receive())
    }
}
