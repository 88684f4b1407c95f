//! Operations under way. An operation belongs to the disk from the call on: it takes effect at its
//! completion, at a random time, whether or not anybody still waits for it.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::io;
use std::ops::Range;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use tidemill::env::{BLOCK_BYTES, Buf, File, IO_BYTES_MAX, LocalFuture, Sync, WithBuf};

use super::DiskState;
use super::inode::{Content, bytes, unit, units_of};
use crate::counts::Fault;
use crate::node::{Crash, Shard};
use crate::trace;
use crate::world::{Event, Fire};

/// A file, whatever its name is and however many handles there are.
pub(crate) struct Inode {
    pub(crate) id: u64,
    /// The name it has, or had last, for messages.
    pub(crate) path: RefCell<String>,
    pub(crate) content: RefCell<Content>,
    /// Whether it has a name, so that its space counts.
    pub(crate) linked: Cell<bool>,
}

/// An open file of one shard.
pub(crate) struct SimFile {
    pub(crate) disk: Rc<DiskState>,
    pub(crate) shard: Rc<Shard>,
    pub(crate) inode: Rc<Inode>,
    pub(crate) path: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Read,
    Write(Sync),
    Sync,
    Allocate(u64),
    Truncate(u64),
}

pub(crate) struct Operation {
    disk: Rc<DiskState>,
    shard: Rc<Shard>,
    inode: Rc<Inode>,
    kind: Kind,
    at: u64,
    /// The disk's clock of changes at the call.
    stamp: u64,
    buf: RefCell<Option<Buf>>,
    result: RefCell<Option<io::Result<usize>>>,
    waker: RefCell<Option<Waker>>,
    cancelled: Cell<bool>,
}

impl SimFile {
    fn submit(&self, kind: Kind, at: u64, buf: Option<Buf>) -> Pending {
        let len = buf.as_ref().map_or(0, |buf| buf.len());
        assert!(at.is_multiple_of(BLOCK_BYTES as u64), "{}: {at} is not aligned", self.path);
        assert!(len <= IO_BYTES_MAX, "{}: {len} bytes in one operation", self.path);
        let operation = Rc::new(Operation {
            disk: Rc::clone(&self.disk),
            shard: Rc::clone(&self.shard),
            inode: Rc::clone(&self.inode),
            kind,
            at,
            stamp: self.disk.stamp.get(),
            buf: RefCell::new(buf),
            result: RefCell::new(None),
            waker: RefCell::new(None),
            cancelled: Cell::new(false),
        });
        // A dead shard's calls reach no kernel: they never come back and change nothing.
        if self.shard.alive.get() {
            self.shard.operations.set(self.shard.operations.get() + 1);
            self.disk.in_flight.borrow_mut().push(Rc::clone(&operation));
            let core = &self.disk.core;
            let detail = operation.detail(len);
            core.trace(self.shard.group.0 as u64, trace::Event::Submit, detail, || {
                format!("{} {kind:?} at {at} len {len}", self.path)
            });
            self.disk.acted();
            let after = self.disk.latency(matches!(kind, Kind::Sync | Kind::Write(Sync::Data)));
            let event = Event::Fire(Rc::clone(&operation) as Rc<dyn Fire>);
            core.executor.schedule(core.now.get() + after, event);
        }
        Pending { operation }
    }

    fn submit_plain(&self, kind: Kind) -> LocalFuture<'static, io::Result<()>> {
        let pending = self.submit(kind, 0, None);
        Box::pin(async move { pending.await.0.map(|_| ()) })
    }
}

impl File for SimFile {
    fn read(&self, at: u64, buf: Buf) -> LocalFuture<'static, WithBuf> {
        with_buf(self.submit(Kind::Read, at, Some(buf)))
    }

    fn write(&self, at: u64, buf: Buf, sync: Sync) -> LocalFuture<'static, WithBuf> {
        with_buf(self.submit(Kind::Write(sync), at, Some(buf)))
    }

    fn sync(&self) -> LocalFuture<'static, io::Result<()>> {
        self.submit_plain(Kind::Sync)
    }

    fn allocate(&self, len: u64) -> LocalFuture<'static, io::Result<()>> {
        self.submit_plain(Kind::Allocate(len))
    }

    fn truncate(&self, len: u64) -> LocalFuture<'static, io::Result<()>> {
        self.submit_plain(Kind::Truncate(len))
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.inode.content.borrow().len())
    }

    fn path(&self) -> &str {
        &self.path
    }
}

fn with_buf(pending: Pending) -> LocalFuture<'static, WithBuf> {
    Box::pin(async move {
        let (result, buf) = pending.await;
        (result, buf.expect("reads and writes give their buffer back"))
    })
}

struct Pending {
    operation: Rc<Operation>,
}

impl Future for Pending {
    type Output = (io::Result<usize>, Option<Buf>);

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        if let Some(result) = self.operation.result.take() {
            return Poll::Ready((result, self.operation.buf.take()));
        }
        *self.operation.waker.borrow_mut() = Some(context.waker().clone());
        Poll::Pending
    }
}

impl Fire for Operation {
    fn fire(self: Rc<Self>) {
        if self.cancelled.get() {
            return;
        }
        self.leave_flight();
        let result = self.perform();
        let core = &self.disk.core;
        let detail = result.as_ref().map_or(u64::MAX, |count| *count as u64);
        core.trace(self.shard.group.0 as u64, trace::Event::Complete, detail, || {
            format!("{} {:?} at {}: {result:?}", self.inode.path.borrow(), self.kind, self.at)
        });
        *self.result.borrow_mut() = Some(result);
        self.disk.acted();
        if let Some(node) = core.nodes.borrow().get(self.shard.node) {
            node.operation_ended(&self.shard);
        }
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

impl Operation {
    fn leave_flight(self: &Rc<Self>) {
        let mut in_flight = self.disk.in_flight.borrow_mut();
        if let Some(index) = in_flight.iter().position(|other| Rc::ptr_eq(other, self)) {
            in_flight.swap_remove(index);
        }
    }

    /// What the trace hashes of an operation: also the bytes written, so that chance which leaks into
    /// content is seen.
    fn detail(&self, len: usize) -> u64 {
        let kind = match self.kind {
            Kind::Read => 1,
            Kind::Write(Sync::No) => 2,
            Kind::Write(Sync::Data) => 3,
            Kind::Sync => 4,
            Kind::Allocate(to) => 5 ^ to,
            Kind::Truncate(to) => 6 ^ to,
        };
        let buf = self.buf.borrow();
        let crc = match (&self.kind, buf.as_ref()) {
            (Kind::Write(_), Some(buf)) => crc32fast::hash(buf),
            _ => 0,
        };
        kind ^ self.at ^ (len as u64) << 40 ^ self.inode.id << 8 ^ u64::from(crc) << 20
    }

    /// Decides what goes wrong and takes effect.
    fn perform(&self) -> io::Result<usize> {
        let mut buf = self.buf.borrow_mut();
        match self.kind {
            Kind::Read => self.read(buf.as_mut().expect("a read has a buffer")),
            Kind::Write(sync) => self.write(buf.as_ref().expect("a write has a buffer"), sync),
            Kind::Sync => self.sync(),
            Kind::Allocate(len) => self.allocate(len),
            Kind::Truncate(len) => {
                let freed = self.inode.content.borrow_mut().truncate(len, self.disk.next_stamp());
                self.disk.give_back(&self.inode, freed);
                Ok(0)
            }
        }
    }

    fn read(&self, buf: &mut Buf) -> io::Result<usize> {
        let disk = &self.disk;
        if disk.hits(|faults| faults.read_error, Fault::ReadError) {
            return Err(eio());
        }
        let content = self.inode.content.borrow();
        let left = usize::try_from(content.len().saturating_sub(self.at)).unwrap_or(usize::MAX);
        let mut count = buf.len().min(left);
        if count > BLOCK_BYTES && disk.hits(|faults| faults.short_read, Fault::ShortRead) {
            count = self.some_of(count);
        }
        let first = units_of(self.at);
        for (index, target) in (first..).zip(buf[..count].chunks_mut(BLOCK_BYTES)) {
            target.copy_from_slice(&bytes(content.present(index))[..target.len()]);
        }
        drop(content);
        self.read_racing_writes(first, &mut buf[..count]);
        Ok(count)
    }

    /// A read beside an unfinished write sees old units or new ones.
    fn read_racing_writes(&self, first: u32, target: &mut [u8]) {
        let in_flight = self.disk.in_flight.borrow();
        let same_file = in_flight.iter().filter(|other| Rc::ptr_eq(&other.inode, &self.inode));
        for other in same_file.filter(|other| matches!(other.kind, Kind::Write(_))) {
            let buf = other.buf.borrow();
            let Some(buf) = buf.as_ref() else { continue };
            for (index, source) in (units_of(other.at)..).zip(buf.chunks_exact(BLOCK_BYTES)) {
                let Some(at) = index.checked_sub(first) else { continue };
                let Some(target) = target.chunks_exact_mut(BLOCK_BYTES).nth(at as usize) else {
                    break;
                };
                if self.disk.core.random.one_in(2) {
                    target.copy_from_slice(source);
                }
            }
        }
    }

    fn write(&self, buf: &Buf, sync: Sync) -> io::Result<usize> {
        let disk = &self.disk;
        let random = &disk.core.random;
        let mut count = buf.len();
        if count > BLOCK_BYTES && disk.hits(|faults| faults.short_write, Fault::ShortWrite) {
            count = self.some_of(count);
        }
        count = self.take_space(count)?;
        if disk.hits(|faults| faults.write_error, Fault::WriteError) {
            self.put_some(&buf[..count]);
            return Err(eio());
        }
        if disk.damages(&self.inode, |faults| faults.lost_write, Fault::LostWrite) {
            let mut content = self.inode.content.borrow_mut();
            for index in self.range(count) {
                content.damaged.insert(index, Fault::LostWrite);
            }
            // The length is the file system's, and that did not forget.
            content.grow_durably(self.at + count as u64);
            return Ok(count);
        }
        let mut first = units_of(self.at);
        let misdirected =
            disk.damages(&self.inode, |faults| faults.misdirected_write, Fault::MisdirectedWrite);
        if misdirected {
            first = self.misdirect(count);
        }
        self.put(first, &buf[..count], sync);
        if misdirected {
            let mut content = self.inode.content.borrow_mut();
            for index in self.range(count).chain(first..first + units_of(count as u64)) {
                content.damaged.insert(index, Fault::MisdirectedWrite);
            }
        } else if disk.damages(&self.inode, |faults| faults.bit_flip, Fault::BitFlip) {
            let byte = self.at + random.below(count as u64);
            let bit = u32::try_from(random.below(8)).expect("below 8");
            self.inode.content.borrow_mut().flip(byte, bit);
        }
        Ok(count)
    }

    fn put(&self, first: u32, source: &[u8], sync: Sync) {
        let stamp = self.disk.next_stamp();
        let durable = sync == Sync::Data;
        let mut content = self.inode.content.borrow_mut();
        for (index, source) in (first..).zip(source.chunks_exact(BLOCK_BYTES)) {
            content.write(index, unit(source), stamp, durable);
        }
        let end = self.at + source.len() as u64;
        if durable {
            content.grow_durably(end);
        } else {
            content.grow(end, stamp);
        }
    }

    /// A failed write, or one that a crash cut short: each unit is there or not, and none durable.
    fn put_some(&self, source: &[u8]) {
        let stamp = self.disk.next_stamp();
        let mut content = self.inode.content.borrow_mut();
        for (index, source) in (units_of(self.at)..).zip(source.chunks_exact(BLOCK_BYTES)) {
            if !self.disk.core.random.one_in(3) {
                content.write(index, unit(source), stamp, false);
                content.grow((u64::from(index) + 1) * BLOCK_BYTES as u64, stamp);
            }
        }
    }

    /// Takes space for what has none yet; fewer bytes if only those fit.
    fn take_space(&self, count: usize) -> io::Result<usize> {
        let disk = &self.disk;
        let mut range = self.range(count);
        let mut content = self.inode.content.borrow_mut();
        let room = disk.room_units();
        if u64::from(content.unallocated(&range)) > room {
            disk.fault(Fault::NoSpace);
            while u64::from(content.unallocated(&range)) > room {
                range.end -= 1;
            }
            if range.is_empty() || disk.core.random.one_in(2) {
                return Err(io::ErrorKind::StorageFull.into());
            }
        }
        let count = count.min(range.len() * BLOCK_BYTES);
        let stamp = disk.next_stamp();
        let taken = content.allocate(range, stamp);
        drop(content);
        disk.take(&self.inode, taken);
        Ok(count)
    }

    fn allocate(&self, len: u64) -> io::Result<usize> {
        let disk = &self.disk;
        let range = 0..units_of(len);
        let mut content = self.inode.content.borrow_mut();
        if u64::from(content.unallocated(&range)) > disk.room_units() {
            disk.fault(Fault::NoSpace);
            return Err(io::ErrorKind::StorageFull.into());
        }
        let stamp = disk.next_stamp();
        let taken = content.allocate(range, stamp);
        content.grow(len, stamp);
        drop(content);
        disk.take(&self.inode, taken);
        Ok(0)
    }

    fn sync(&self) -> io::Result<usize> {
        let mut content = self.inode.content.borrow_mut();
        if self.disk.hits(|faults| faults.sync_error, Fault::SyncError) {
            content.drop_unsynced(&self.disk.core.random);
            return Err(eio());
        }
        content.sync(self.stamp);
        Ok(0)
    }

    /// Another place of the same file, as the controller or the file system might mix up.
    fn misdirect(&self, count: usize) -> u32 {
        let units = units_of(self.inode.content.borrow().len());
        let places = units.saturating_sub(units_of(count as u64)) + 1;
        let place = self.disk.core.random.below(u64::from(places));
        u32::try_from(place).expect("below the file's length")
    }

    fn some_of(&self, count: usize) -> usize {
        let blocks = count.div_ceil(BLOCK_BYTES);
        (1 + self.disk.core.random.index(blocks - 1)) * BLOCK_BYTES
    }

    fn range(&self, count: usize) -> Range<u32> {
        let first = units_of(self.at);
        first..first + units_of(count as u64)
    }

    /// The process or the machine crashed while this was under way.
    pub(crate) fn crash(&self, crash: Crash) {
        self.cancelled.set(true);
        self.shard.operations.set(self.shard.operations.get() - 1);
        let random = &self.disk.core.random;
        let Kind::Write(sync) = self.kind else {
            // The effect of the others, without an answer, is one that a crash may leave as well.
            if crash == Crash::Kill && self.kind != Kind::Read && random.one_in(2) {
                // Its answer, good or bad, reaches nobody.
                drop(self.perform());
            }
            return;
        };
        let buf = self.buf.borrow();
        let buf = buf.as_ref().expect("a write has a buffer until it is answered");
        let Ok(count) = self.take_space(buf.len()) else { return };
        match crash {
            Crash::Kill if random.one_in(3) => {}
            Crash::Kill if random.one_in(4) => self.put_some(&buf[..count]),
            Crash::Kill => self.put(units_of(self.at), &buf[..count], sync),
            Crash::Power => self.put_some(&buf[..count]),
        }
    }
}

fn eio() -> io::Error {
    io::Error::other("simulated I/O error")
}
