//! The start-up self-test: can this directory, on this machine, hold data that survives?

use std::ffi::CString;
use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use super::device::Device;
use super::disk::{free_bytes, open_direct};
use super::ring::Ring;
use super::shard::now;
use crate::env::{BLOCK_BYTES, Buf, Open, Sync};

/// What the self-test looked at, in order.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// One item for each thing that was looked at.
    pub items: Vec<Item>,
    /// The name of the directory's file system, such as `ext4`.
    pub file_system: String,
    /// How long one durable write of 4 KiB took; the first of its file, so later ones are faster.
    pub write_duration: Option<Duration>,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// What it is, such as `direct I/O`.
    pub name: &'static str,
    /// What was found.
    pub found: String,
    /// Why the directory cannot be used, and what to do about it; none if it can.
    pub refusal: Option<String>,
}

impl Report {
    /// The first reason not to use the directory.
    #[must_use]
    pub fn refusal(&self) -> Option<&str> {
        self.items.iter().find_map(|item| item.refusal.as_deref())
    }

    fn add(&mut self, name: &'static str, result: Result<String, Refusal>) {
        let (found, refusal) = match result {
            Ok(found) => (found, None),
            Err(Refusal { found, advice }) => {
                let refusal = format!("{found}: {advice}");
                (found, Some(refusal))
            }
        };
        self.items.push(Item { name, found, refusal });
    }
}

/// What a self-test needs to know beside the directory.
#[derive(Clone, Copy, Debug)]
pub struct Needs {
    /// How many shards are going to run.
    pub shards: u16,
    /// How much space there must be.
    pub free_bytes_min: u64,
}

/// Tries out `dir`, which must exist, with the same kind of ring and file the engine uses. Leaves
/// nothing behind.
#[must_use]
pub fn self_test(dir: &Path, needs: Needs) -> Report {
    let mut report = Report::default();
    let file_system = file_system(dir);
    if let Ok(name) = &file_system {
        report.file_system.clone_from(name);
    }
    report.add("file system", check_file_system(dir, file_system));
    report.add("free space", check_free(dir, needs.free_bytes_min));
    report.add("locked memory", check_memlock());
    report.add("open files", check_files(needs.shards));
    match Ring::new(&Arc::new(Device::new())) {
        Ok(ring) => {
            report.add("io_uring", Ok("available".to_owned()));
            // Writing a file makes no sense where it would not last.
            if report.refusal().is_none() {
                let result = check_direct(dir, &ring);
                report.write_duration = result.as_ref().ok().map(|(_, duration)| *duration);
                report.add("direct I/O", result.map(|(found, _)| found));
            }
        }
        Err(error) => report.add("io_uring", Err(explain_ring(&error))),
    }
    report
}

struct Refusal {
    found: String,
    advice: String,
}

fn refuse<T>(found: impl Into<String>, advice: impl Into<String>) -> Result<T, Refusal> {
    Err(Refusal { found: found.into(), advice: advice.into() })
}

fn check_file_system(dir: &Path, name: io::Result<String>) -> Result<String, Refusal> {
    match name {
        Ok(name) if MEMORY_ONLY.contains(&name.as_str()) => refuse(
            format!("{} lies on {name}, which loses everything with the power", dir.display()),
            "choose a directory on a disk",
        ),
        Ok(name) => Ok(name),
        Err(error) => refuse(
            format!("the file system of {} cannot be asked: {error}", dir.display()),
            "check that the directory exists and can be entered",
        ),
    }
}

const MEMORY_ONLY: [&str; 3] = ["tmpfs", "ramfs", "hugetlbfs"];

/// The name of the file system that `path` lies on.
///
/// # Errors
/// What the operating system said.
pub fn file_system(path: &Path) -> io::Result<String> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    // SAFETY: `statfs` is plain numbers, for which zeros are valid.
    let mut stat: libc::statfs = unsafe { std::mem::zeroed() };
    // SAFETY: `path` ends in a zero and `stat` is writable for the call.
    let result = unsafe { libc::statfs(path.as_ptr(), &raw mut stat) };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    // Magic numbers of linux/magic.h, and of file systems kept outside the kernel.
    let name = match stat.f_type {
        0xef53 => "ext4",
        0x5846_5342 => "xfs",
        0x9123_683e => "btrfs",
        0xf2f5_2010 => "f2fs",
        0x2fc1_2fc1 => "zfs",
        0x0102_1994 => "tmpfs",
        0x8584_58f6 => "ramfs",
        0x9584_58f6 => "hugetlbfs",
        0x794c_7630 => "overlay",
        0x6573_5546 => "fuse",
        0x6969 => "nfs",
        0x0102_1997 => "9p",
        other => return Ok(format!("{other:#x}")),
    };
    Ok(name.to_owned())
}

fn check_free(dir: &Path, min: u64) -> Result<String, Refusal> {
    match free_bytes(dir) {
        Ok(free) if free < min => refuse(
            format!("{} MiB are free, {} MiB are needed", free >> 20, min >> 20),
            "free some space or choose another disk",
        ),
        Ok(free) => Ok(format!("{} MiB", free >> 20)),
        Err(error) => refuse(
            format!("free space cannot be asked: {error}"),
            "check that the directory exists and can be entered",
        ),
    }
}

/// What glommio asks for, for each executor.
const MEMLOCK_MIN: u64 = 512 << 10;

fn check_memlock() -> Result<String, Refusal> {
    let limit = raise_limit(libc::RLIMIT_MEMLOCK, MEMLOCK_MIN);
    if limit < MEMLOCK_MIN {
        return refuse(
            format!("the limit of locked memory (RLIMIT_MEMLOCK) is {} KiB", limit >> 10),
            "raise it to 512 KiB or more: `ulimit -l`, limits.conf, or LimitMEMLOCK= of the service",
        );
    }
    Ok(if limit == libc::RLIM_INFINITY {
        "no limit".to_owned()
    } else {
        format!("{} KiB", limit >> 10)
    })
}

fn check_files(shards: u16) -> Result<String, Refusal> {
    // Rings and eventfds of a shard, its journal files, and a page file and a few segments of each of
    // its sixteen partitions.
    let min = 256 + 256 * u64::from(shards);
    let limit = raise_limit(libc::RLIMIT_NOFILE, min);
    if limit < min {
        return refuse(
            format!("the limit of open files (RLIMIT_NOFILE) is {limit}, {min} are needed"),
            "raise it: `ulimit -n`, limits.conf, or LimitNOFILE= of the service",
        );
    }
    Ok(format!("{limit}"))
}

/// The soft limit, raised to `want` if it is lower and the hard limit allows it.
fn raise_limit(resource: libc::__rlimit_resource_t, want: u64) -> u64 {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is writable for the call.
    if unsafe { libc::getrlimit(resource, &raw mut limit) } != 0 {
        // It cannot fail for a resource that exists; if it does, the real test is yet to come.
        return u64::MAX;
    }
    if limit.rlim_cur < want && want <= limit.rlim_max {
        let raised = libc::rlimit { rlim_cur: want, ..limit };
        // SAFETY: `raised` is readable for the call.
        if unsafe { libc::setrlimit(resource, &raw const raised) } == 0 {
            return want;
        }
    }
    limit.rlim_cur
}

fn explain_ring(error: &io::Error) -> Refusal {
    let switch = fs::read_to_string("/proc/sys/kernel/io_uring_disabled");
    let disabled = switch.is_ok_and(|value| value.trim() != "0");
    let advice = match error.raw_os_error() {
        Some(libc::EPERM) if disabled => {
            "set kernel.io_uring_disabled to 0 with sysctl, or add the user to kernel.io_uring_group"
        }
        Some(libc::EPERM | libc::EACCES) => {
            "a seccomp profile forbids io_uring, as those of containers do: run with a profile that \
             allows io_uring_setup, io_uring_enter and io_uring_register"
        }
        Some(libc::ENOSYS) => {
            "this kernel, or the sandbox around it, has no io_uring: Linux 5.11 or later is needed"
        }
        Some(libc::ENOMEM) => "raise the limit of locked memory (RLIMIT_MEMLOCK)",
        Some(libc::EMFILE | libc::ENFILE) => "raise the limit of open files (RLIMIT_NOFILE)",
        _ => "see io_uring_setup(2)",
    };
    Refusal { found: format!("io_uring is not available ({error})"), advice: advice.to_owned() }
}

/// Writes one block durably, reads it back and compares.
fn check_direct(dir: &Path, ring: &Rc<Ring>) -> Result<(String, Duration), Refusal> {
    let path = dir.join(format!(".self-test-{}", std::process::id()));
    let result = try_direct(&path, ring);
    // Best effort: it may not have been made, and if it stays it is one block.
    drop(fs::remove_file(&path));
    result
}

fn try_direct(path: &Path, ring: &Rc<Ring>) -> Result<(String, Duration), Refusal> {
    let io_advice = "the disk or its file system is damaged or full: look at the kernel's messages";
    // What a killed process left under the same number.
    drop(fs::remove_file(path));
    let file = match open_direct(path, Open::New) {
        Ok(file) => Rc::new(OwnedFd::from(file)),
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
            return refuse(
                "the file system does not support direct I/O (O_DIRECT)",
                "choose a directory on ext4, xfs or another file system of a disk",
            );
        }
        Err(error) => {
            return refuse(
                format!("no file can be made in the directory ({error})"),
                "give this user the right to write there",
            );
        }
    };
    let align = direct_alignment(&file);
    if let Some(align) = align
        && align > BLOCK_BYTES as u64
    {
        return refuse(
            format!("the device wants direct I/O aligned to {align} bytes"),
            format!("choose a device with blocks of at most {BLOCK_BYTES} bytes"),
        );
    }
    let mut pattern = Buf::zeroed(BLOCK_BYTES);
    for (index, byte) in pattern.iter_mut().enumerate() {
        // Every byte differs from its neighbours, and the block from what a new file reads as.
        *byte = u8::try_from(index * 31 % 251).expect("below 251") + 1;
    }
    let expected = Buf::copy_of(&pattern);
    let before = now();
    let (written, _) = ring.write(&file, 0, pattern, Sync::Data).wait();
    let duration = now() - before;
    match written {
        Ok(BLOCK_BYTES) => {}
        Ok(count) => {
            return refuse(format!("only {count} of {BLOCK_BYTES} bytes were written"), io_advice);
        }
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
            return refuse(
                "the file system refuses direct writes of 4 KiB",
                "choose a directory on ext4, xfs or another file system of a disk",
            );
        }
        Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => {
            return refuse(
                "the file system has no durable writes (RWF_DSYNC)",
                "use Linux 5.11 or later and a directory on ext4 or xfs",
            );
        }
        Err(error) => return refuse(format!("a durable write failed ({error})"), io_advice),
    }
    if let (Err(error), _) = ring.sync(&file, false).wait() {
        return refuse(format!("fdatasync failed ({error})"), io_advice);
    }
    match ring.read(&file, 0, Buf::zeroed(BLOCK_BYTES), false).wait() {
        (Ok(BLOCK_BYTES), Some(buf)) if buf[..] == expected[..] => {}
        (Ok(_), _) => return refuse("what was written reads back differently", io_advice),
        (Err(error), _) => return refuse(format!("a direct read failed ({error})"), io_advice),
    }
    let align =
        align.map_or("alignment not told".to_owned(), |align| format!("aligned to {align}"));
    let found = format!("{align}, durable 4 KiB in {} us", duration.as_micros());
    Ok((found, duration))
}

/// The alignment that direct I/O needs, if the kernel (6.1 and later) tells.
fn direct_alignment(file: &OwnedFd) -> Option<u64> {
    // SAFETY: `statx` is plain numbers, for which zeros are valid.
    let mut stat: libc::statx = unsafe { std::mem::zeroed() };
    // SAFETY: the path is empty and ends in a zero, and `stat` is writable for the call.
    let result = unsafe {
        libc::statx(
            file.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            libc::STATX_DIOALIGN,
            &raw mut stat,
        )
    };
    if result != 0 || stat.stx_mask & libc::STATX_DIOALIGN == 0 {
        return None;
    }
    Some(u64::from(stat.stx_dio_offset_align.max(stat.stx_dio_mem_align)))
}
