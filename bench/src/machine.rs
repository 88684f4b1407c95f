//! What the numbers were measured on.

use std::ffi::CStr;
use std::fs;

use serde::Serialize;

use crate::ceiling::{self, Direction, Phase, RawFile};
use crate::data::DataDir;

/// The machine, as the document names it.
#[derive(Clone, Debug, Serialize)]
pub struct Machine {
    /// Cores this process may use.
    pub cores: usize,
    /// Memory of the machine.
    pub memory_bytes: u64,
    /// The kernel's release.
    pub kernel: String,
    /// The name of the data directory's file system.
    pub file_system: String,
    /// Median of a durable write of 4 KiB, one at a time, on a file written before.
    pub device_sync_us_p50: f64,
}

/// Looks at the machine and measures its disk for a moment.
///
/// # Errors
/// If the disk cannot be measured.
pub fn look(data: &DataDir) -> anyhow::Result<Machine> {
    let phase = Phase { direction: Direction::Write, bytes: 4096, depth: 1 };
    let path = data.fresh("device-sync")?;
    let mut file = RawFile::create(&path, 1 << 20, 1)?;
    let sync = ceiling::measure(&mut file, phase, 0.2, 1)?;
    drop(file);
    fs::remove_file(path)?;
    Ok(Machine {
        cores: std::thread::available_parallelism().map_or(1, usize::from),
        memory_bytes: memory_bytes(),
        kernel: kernel(),
        file_system: data.file_system().to_owned(),
        device_sync_us_p50: sync.outcome.latency_us.p50,
    })
}

fn memory_bytes() -> u64 {
    // SAFETY: `sysinfo` is plain numbers, for which zeros are valid.
    let mut info: libc::sysinfo = unsafe { std::mem::zeroed() };
    // SAFETY: `info` is writable for the call.
    let result = unsafe { libc::sysinfo(&raw mut info) };
    if result == 0 { info.totalram * u64::from(info.mem_unit) } else { 0 }
}

fn kernel() -> String {
    // SAFETY: `utsname` is plain bytes, for which zeros are valid.
    let mut name: libc::utsname = unsafe { std::mem::zeroed() };
    // SAFETY: `name` is writable for the call.
    if unsafe { libc::uname(&raw mut name) } != 0 {
        return String::new();
    }
    // SAFETY: the kernel ended the text with a zero, inside of the field.
    let release = unsafe { CStr::from_ptr(name.release.as_ptr()) };
    release.to_string_lossy().into_owned()
}
