//! One direct `io_uring` per shard: a slab of operations that own what the kernel works on.
//!
//! An [`Operation`] is queued when it is made and handed to the kernel at the poller's next turn, so
//! that everything the tasks of one turn asked for costs one system call. The slab keeps the buffer,
//! the path and the descriptor of an operation until its completion, whether or not anybody still
//! waits for it; a future dropped early therefore frees nothing the kernel can still write to.
//!
//! At most [`Ring::ENTRIES`] operations are with the kernel at once; the rest wait here, in order. Patient
//! reads wait in a line of their own while [`Device`] says so.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::ffi::CString;
use std::future::Future;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use io_uring::{IoUring, opcode, squeue, types};

use super::device::Device;
use crate::env::{BLOCK_BYTES, Buf, IO_BYTES_MAX, Sync};

/// The ring of one shard.
pub(super) struct Ring {
    inner: RefCell<Inner>,
}

struct Inner {
    uring: IoUring,
    operations: Vec<Slot>,
    free: Vec<usize>,
    /// Keys of operations not yet in the submission queue, oldest first.
    waiting: VecDeque<usize>,
    /// The same of patient reads.
    patient: VecDeque<usize>,
    patient_in_flight: usize,
    device: Arc<Device>,
    /// Operations the kernel has, or will get with the next submission.
    in_flight: usize,
    /// Wakers of the completions of one turn, kept for its capacity.
    woken: Vec<Waker>,
}

enum Slot {
    Free,
    Running { entry: squeue::Entry, kind: Kind, held: Held, waker: Option<Waker>, abandoned: bool },
    Done { result: i32, held: Held },
}

/// How an operation gets along with others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// A read that lets durable writes go first.
    PatientRead,
    DurableWrite,
    Other,
}

/// What must outlive the operation.
struct Held {
    /// Closing a descriptor early would let the kernel use a stranger's file of the same number.
    _fd: Option<Rc<OwnedFd>>,
    buf: Option<Buf>,
    _path: Option<CString>,
}

impl Ring {
    /// How many operations may be with the kernel at once. A device queue is rarely deeper, and what
    /// waits behind it is better kept where it can still be ordered.
    pub(super) const ENTRIES: u32 = 256;

    /// Makes a ring for the calling thread, which alone may use it.
    ///
    /// # Errors
    /// What the kernel said: `EPERM` and `ENOSYS` where `io_uring` is forbidden or missing.
    pub(super) fn new(device: &Arc<Device>) -> io::Result<Rc<Self>> {
        // Without these flags a completion interrupts the shard wherever it is; with them it waits
        // for the shard's next system call. Kernels before 6.0 do not know them all.
        let uring = IoUring::builder()
            .setup_coop_taskrun()
            .setup_taskrun_flag()
            .setup_single_issuer()
            .build(Self::ENTRIES)
            .or_else(|error| match error.raw_os_error() {
                Some(libc::EINVAL) => IoUring::new(Self::ENTRIES),
                _ => Err(error),
            })?;
        Ok(Rc::new(Self {
            inner: RefCell::new(Inner {
                uring,
                operations: Vec::new(),
                free: Vec::new(),
                waiting: VecDeque::new(),
                patient: VecDeque::new(),
                patient_in_flight: 0,
                device: Arc::clone(device),
                in_flight: 0,
                woken: Vec::new(),
            }),
        }))
    }

    /// Lets completions write to `eventfd`, while [`Ring::notify`] is on.
    ///
    /// # Errors
    /// What the kernel said.
    pub(super) fn register_eventfd(&self, eventfd: RawFd) -> io::Result<()> {
        let mut inner = self.inner.borrow_mut();
        inner.uring.submitter().register_eventfd(eventfd)?;
        inner.uring.completion().disable_eventfd();
        Ok(())
    }

    /// Switches writes to the eventfd on or off: a poller that looks needs no bell.
    pub(super) fn notify(&self, on: bool) {
        let mut inner = self.inner.borrow_mut();
        let completion = inner.uring.completion();
        if on {
            completion.enable_eventfd();
        } else {
            completion.disable_eventfd();
        }
    }

    /// Reads into `buf` from byte `at`; a patient read lets durable writes go first.
    pub(super) fn read(
        self: &Rc<Self>,
        fd: &Rc<OwnedFd>,
        at: u64,
        buf: Buf,
        patient: bool,
    ) -> Operation {
        let mut buf = check(at, buf);
        let entry = opcode::Read::new(types::Fd(fd.as_raw_fd()), buf.as_mut_ptr(), length(&buf))
            .offset(at)
            .build();
        let kind = if patient { Kind::PatientRead } else { Kind::Other };
        self.queue(entry, kind, Held { _fd: Some(Rc::clone(fd)), buf: Some(buf), _path: None })
    }

    /// Writes `buf` at byte `at`.
    pub(super) fn write(
        self: &Rc<Self>,
        fd: &Rc<OwnedFd>,
        at: u64,
        buf: Buf,
        sync: Sync,
    ) -> Operation {
        let buf = check(at, buf);
        let (flags, kind) = match sync {
            Sync::No => (0, Kind::Other),
            Sync::Data => (libc::RWF_DSYNC, Kind::DurableWrite),
        };
        let entry = opcode::Write::new(types::Fd(fd.as_raw_fd()), buf.as_ptr(), length(&buf))
            .offset(at)
            .rw_flags(flags)
            .build();
        self.queue(entry, kind, Held { _fd: Some(Rc::clone(fd)), buf: Some(buf), _path: None })
    }

    /// Makes the data and length of a file durable; with `metadata`, everything about it.
    pub(super) fn sync(self: &Rc<Self>, fd: &Rc<OwnedFd>, metadata: bool) -> Operation {
        let flags = if metadata { types::FsyncFlags::empty() } else { types::FsyncFlags::DATASYNC };
        let entry = opcode::Fsync::new(types::Fd(fd.as_raw_fd())).flags(flags).build();
        self.queue(entry, Kind::Other, Held { _fd: Some(Rc::clone(fd)), buf: None, _path: None })
    }

    /// Reserves blocks for the first `len` bytes.
    pub(super) fn allocate(self: &Rc<Self>, fd: &Rc<OwnedFd>, len: u64) -> Operation {
        let entry = opcode::Fallocate::new(types::Fd(fd.as_raw_fd()), len).build();
        self.queue(entry, Kind::Other, Held { _fd: Some(Rc::clone(fd)), buf: None, _path: None })
    }

    /// Removes the file at an absolute path.
    pub(super) fn unlink(self: &Rc<Self>, path: CString) -> Operation {
        let entry = opcode::UnlinkAt::new(types::Fd(libc::AT_FDCWD), path.as_ptr()).build();
        self.queue(entry, Kind::Other, Held { _fd: None, buf: None, _path: Some(path) })
    }

    /// Hands queued operations to the kernel and takes completions; whether there was any of either.
    pub(super) fn turn(&self) -> bool {
        let submitted = self.submit(0);
        let mut woken = std::mem::take(&mut self.inner.borrow_mut().woken);
        let completed = self.inner.borrow_mut().reap(&mut woken);
        // Outside of the borrow: waking runs code of others.
        for waker in woken.drain(..) {
            waker.wake();
        }
        self.inner.borrow_mut().woken = woken;
        submitted || completed
    }

    /// Whether [`Ring::turn`] would do something now.
    pub(super) fn has_work(&self) -> bool {
        let mut inner = self.inner.borrow_mut();
        if inner.may_start() {
            return true;
        }
        inner.uring.submission().taskrun() || !inner.uring.completion().is_empty()
    }

    /// Whether the kernel works on something, or will.
    pub(super) fn is_busy(&self) -> bool {
        let inner = self.inner.borrow();
        inner.in_flight > 0 || !inner.waiting.is_empty() || !inner.patient.is_empty()
    }

    /// Blocks the thread until nothing is in flight any more: what files and buffers need before
    /// their shard ends.
    pub(super) fn drain(&self) {
        while self.is_busy() {
            self.submit(1);
            self.turn();
        }
    }

    /// Fills the submission queue and enters the kernel if that is of use; waits for `want`
    /// completions.
    fn submit(&self, want: usize) -> bool {
        let mut inner = self.inner.borrow_mut();
        let queued = inner.fill();
        if queued == 0 && want == 0 && !inner.uring.submission().taskrun() {
            return false;
        }
        match inner.uring.submitter().submit_and_wait(want) {
            Ok(_) => {}
            // A signal, or the kernel is short of memory or has completions to give away first: what
            // was not taken stays in the queue for the next turn.
            Err(error)
                if matches!(
                    error.raw_os_error(),
                    Some(libc::EINTR | libc::EAGAIN | libc::EBUSY | libc::ENOMEM)
                ) => {}
            Err(error) => panic!("the kernel refuses the shard's ring: {error}"),
        }
        queued > 0
    }

    fn queue(self: &Rc<Self>, entry: squeue::Entry, kind: Kind, held: Held) -> Operation {
        let mut inner = self.inner.borrow_mut();
        let key = inner.free.pop().unwrap_or_else(|| {
            inner.operations.push(Slot::Free);
            inner.operations.len() - 1
        });
        let entry = entry.user_data(key as u64);
        inner.operations[key] = Slot::Running { entry, kind, held, waker: None, abandoned: false };
        match kind {
            Kind::PatientRead => inner.patient.push_back(key),
            Kind::DurableWrite => {
                inner.device.write_begins();
                inner.waiting.push_back(key);
            }
            Kind::Other => inner.waiting.push_back(key),
        }
        Operation { ring: Rc::clone(self), key: Some(key) }
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        // The kernel must not write into buffers that are freed with the slab.
        self.drain();
    }
}

impl Inner {
    /// Whether a waiting operation may go to the kernel now.
    fn may_start(&self) -> bool {
        self.in_flight < Ring::ENTRIES as usize
            && (!self.waiting.is_empty() || self.patient_may_start())
    }

    fn patient_may_start(&self) -> bool {
        !self.patient.is_empty() && self.device.read_may_begin(self.patient_in_flight)
    }

    /// The next operation for the kernel.
    fn next(&mut self) -> Option<usize> {
        if self.in_flight >= Ring::ENTRIES as usize {
            return None;
        }
        if let Some(key) = self.waiting.pop_front() {
            return Some(key);
        }
        if !self.patient_may_start() {
            return None;
        }
        self.device.read_begins();
        self.patient_in_flight += 1;
        self.patient.pop_front()
    }

    /// Moves waiting operations into the submission queue; returns how many are in it.
    fn fill(&mut self) -> usize {
        while !self.uring.submission().is_full() {
            let Some(key) = self.next() else { break };
            let Slot::Running { entry, .. } = &self.operations[key] else {
                unreachable!("what waits has not run yet");
            };
            // SAFETY: the entry's buffer, path and descriptor are held by the slot until the
            // completion with its key is taken, and `drop` waits for that.
            unsafe { self.uring.submission().push(entry) }.expect("the queue was not full");
            self.in_flight += 1;
        }
        self.uring.submission().len()
    }

    /// Takes all completions; whether there was one.
    fn reap(&mut self, woken: &mut Vec<Waker>) -> bool {
        let mut any = false;
        for completion in self.uring.completion() {
            any = true;
            self.in_flight -= 1;
            let key = usize::try_from(completion.user_data()).expect("keys are slab indices");
            let slot = std::mem::replace(&mut self.operations[key], Slot::Free);
            let Slot::Running { kind, held, waker, abandoned, .. } = slot else {
                unreachable!("an operation completes once");
            };
            match kind {
                Kind::PatientRead => {
                    self.patient_in_flight -= 1;
                    self.device.read_ends();
                }
                Kind::DurableWrite => self.device.write_ends(),
                Kind::Other => {}
            }
            if abandoned {
                self.free.push(key);
            } else {
                self.operations[key] = Slot::Done { result: completion.result(), held };
                woken.extend(waker);
            }
        }
        any
    }
}

/// One operation; resolves to its result and the buffer it was given.
///
/// Dropping it leaves the operation running.
#[must_use = "an operation runs anyway, but its result is only seen here"]
pub(super) struct Operation {
    ring: Rc<Ring>,
    key: Option<usize>,
}

impl Operation {
    /// Blocks the thread until it is done; for the start-up test, which has no executor.
    pub(super) fn wait(mut self) -> (io::Result<usize>, Option<Buf>) {
        let mut context = Context::from_waker(Waker::noop());
        loop {
            if let Poll::Ready(done) = Pin::new(&mut self).poll(&mut context) {
                return done;
            }
            self.ring.submit(1);
            self.ring.turn();
        }
    }
}

impl Future for Operation {
    type Output = (io::Result<usize>, Option<Buf>);

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let key = self.key.expect("not polled after its result");
        let ring = Rc::clone(&self.ring);
        let mut inner = ring.inner.borrow_mut();
        match &mut inner.operations[key] {
            Slot::Running { waker, .. } => {
                match waker {
                    Some(waker) => waker.clone_from(context.waker()),
                    None => *waker = Some(context.waker().clone()),
                }
                return Poll::Pending;
            }
            Slot::Done { .. } => {}
            Slot::Free => unreachable!("a slot is freed by its operation"),
        }
        self.key = None;
        inner.free.push(key);
        let slot = std::mem::replace(&mut inner.operations[key], Slot::Free);
        drop(inner);
        let Slot::Done { result, held } = slot else { unreachable!("matched above") };
        let result = match usize::try_from(result) {
            Ok(count) => Ok(count),
            Err(_) => Err(io::Error::from_raw_os_error(-result)),
        };
        Poll::Ready((result, held.buf))
    }
}

impl Drop for Operation {
    fn drop(&mut self) {
        let Some(key) = self.key else { return };
        let mut inner = self.ring.inner.borrow_mut();
        let done = match &mut inner.operations[key] {
            Slot::Running { waker, abandoned, .. } => {
                *abandoned = true;
                let waker = waker.take();
                drop(inner);
                drop(waker);
                return;
            }
            slot => std::mem::replace(slot, Slot::Free),
        };
        inner.free.push(key);
        drop(inner);
        drop(done);
    }
}

fn check(at: u64, buf: Buf) -> Buf {
    assert!(at.is_multiple_of(BLOCK_BYTES as u64), "direct I/O starts at a block: {at}");
    assert!(buf.len() <= IO_BYTES_MAX, "one operation moves at most {IO_BYTES_MAX} bytes");
    buf
}

fn length(buf: &Buf) -> u32 {
    u32::try_from(buf.len()).expect("below IO_BYTES_MAX")
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::super::device::BESIDE_WRITES;
    use super::*;

    const BLOCKS: usize = 100;

    fn file() -> Rc<OwnedFd> {
        let path = std::env::temp_dir().join(format!("tidemill-ring-{}", std::process::id()));
        fs::write(&path, vec![7; BLOCKS * BLOCK_BYTES]).unwrap();
        let file = fs::File::options().read(true).write(true).open(&path).unwrap();
        fs::remove_file(path).unwrap();
        Rc::new(file.into())
    }

    fn is_done(operation: &mut Operation) -> bool {
        Pin::new(operation).poll(&mut Context::from_waker(Waker::noop())).is_ready()
    }

    #[test]
    fn beside_a_durable_write_few_patient_reads_are_under_way_and_others_do_not_wait() {
        let ring = Ring::new(&Arc::new(Device::new())).unwrap();
        let fd = file();
        let read = |block: usize, patient| {
            ring.read(&fd, (block * BLOCK_BYTES) as u64, Buf::zeroed(BLOCK_BYTES), patient)
        };
        let mut patient: VecDeque<_> = (0..BLOCKS).map(|block| read(block, true)).collect();
        let mut write = ring.write(&fd, 0, Buf::zeroed(BLOCK_BYTES), Sync::Data);
        let mut urgent = read(1, false);
        ring.submit(0);
        assert_eq!(ring.inner.borrow().patient_in_flight, BESIDE_WRITES);
        assert_eq!(ring.inner.borrow().in_flight, BESIDE_WRITES + 2);
        assert_eq!(ring.inner.borrow().patient.len(), BLOCKS - BESIDE_WRITES);
        let (mut written, mut urgent_read) = (false, false);
        while let Some(first) = patient.front_mut() {
            // They start in order; those that are with the kernel end in any.
            if is_done(first) {
                patient.pop_front();
                continue;
            }
            assert!(ring.inner.borrow().patient_in_flight <= BESIDE_WRITES || written);
            ring.submit(1);
            ring.turn();
            written = written || is_done(&mut write);
            urgent_read = urgent_read || is_done(&mut urgent);
        }
        ring.drain();
        assert!(written || is_done(&mut write));
        assert!(urgent_read || is_done(&mut urgent));
    }

    #[test]
    fn reads_that_wait_when_a_ring_ends_are_done_too() {
        let ring = Ring::new(&Arc::new(Device::new())).unwrap();
        let fd = file();
        let write = ring.write(&fd, 0, Buf::zeroed(BLOCK_BYTES), Sync::Data);
        let reads: Vec<_> =
            (0..BLOCKS).map(|_| ring.read(&fd, 0, Buf::zeroed(BLOCK_BYTES), true)).collect();
        drop((write, reads));
        ring.drain();
        assert!(!ring.is_busy());
        assert_eq!(ring.inner.borrow().patient_in_flight, 0);
    }
}
