//! One file and one ring, with nothing around them.

use std::fs::{File, OpenOptions};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use io_uring::{IoUring, opcode, squeue, types};
use tidemill::env::{BLOCK_BYTES, Buf};

use super::{Direction, Phase};
use crate::meter::Latencies;

/// A preallocated file of which every block was written, and carries its own number.
#[derive(Debug)]
pub struct RawFile {
    file: File,
    blocks: u64,
    /// Incompressible bytes, which every block repeats behind its number.
    noise: Vec<u8>,
}

/// One write of the preparation.
const FILL_BYTES: usize = 1 << 20;

impl RawFile {
    /// Makes the file at `path`, `bytes` long, and writes all of it.
    ///
    /// # Errors
    /// What the kernel or the device said.
    pub fn create(path: &Path, bytes: u64, seed: u64) -> anyhow::Result<Self> {
        ensure!(bytes >= FILL_BYTES as u64, "the file needs at least {FILL_BYTES} bytes");
        let bytes = bytes - bytes % FILL_BYTES as u64;
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .custom_flags(libc::O_DIRECT)
            .open(path)
            .with_context(|| format!("cannot make {}", path.display()))?;
        let length = libc::off_t::try_from(bytes).context("the file is too large")?;
        // SAFETY: the descriptor is open.
        let result = unsafe { libc::fallocate(file.as_raw_fd(), 0, 0, length) };
        if result != 0 {
            let error = std::io::Error::last_os_error();
            return Err(error).with_context(|| format!("cannot reserve {bytes} bytes"));
        }
        let noise = noise(seed);
        let mut raw = Self { file, blocks: bytes / BLOCK_BYTES as u64, noise };
        let fill = Phase { direction: Direction::Write, bytes: FILL_BYTES, depth: 4 };
        let writes = bytes / FILL_BYTES as u64;
        raw.drive(fill, seed, Until::Count(writes), false, &mut Latencies::default())?;
        raw.file.sync_all().context("cannot sync the file")?;
        Ok(raw)
    }

    /// Runs a phase; returns how many reads did not find what was written.
    ///
    /// # Errors
    /// What the kernel or the device said.
    pub fn run(
        &mut self,
        phase: Phase,
        seconds: f64,
        seed: u64,
        latencies: &mut Latencies,
    ) -> anyhow::Result<u64> {
        let until = Until::Time(Instant::now() + Duration::from_secs_f64(seconds));
        self.drive(phase, seed, until, true, latencies)
    }

    fn drive(
        &mut self,
        phase: Phase,
        seed: u64,
        until: Until,
        durable: bool,
        latencies: &mut Latencies,
    ) -> anyhow::Result<u64> {
        assert!(phase.bytes.is_multiple_of(BLOCK_BYTES) && phase.depth > 0);
        let entries = u32::try_from(phase.depth.next_power_of_two())?;
        let mut ring = IoUring::new(entries).context("cannot make an io_uring")?;
        let mut slots: Vec<Slot> = (0..phase.depth)
            .map(|_| Slot { buf: self.prepared(phase.bytes), at: 0, started_at: Instant::now() })
            .collect();
        let places = self.blocks / (phase.bytes / BLOCK_BYTES) as u64;
        let mut chooser = Chooser { places, next: 0, state: seed };
        let (mut started, mut running, mut wrong) = (0_u64, 0_usize, 0_u64);
        let mut failure = None;
        let mut idle: Vec<usize> = (0..phase.depth).collect();
        loop {
            while let Some(&slot) = idle.last()
                && failure.is_none()
                && until.more(started)
            {
                idle.pop();
                let at = chooser.choose(phase.direction) * phase.bytes as u64;
                let entry = self.entry(phase.direction, &mut slots[slot], at, durable);
                // SAFETY: the slot's buffer stays where it is until its completion is taken, and
                // the loop does not end before all are.
                unsafe { ring.submission().push(&entry.user_data(slot as u64)) }
                    .expect("the ring has an entry for every slot");
                started += 1;
                running += 1;
            }
            if running == 0 {
                break;
            }
            match ring.submit_and_wait(1) {
                Err(error) if error.raw_os_error() != Some(libc::EINTR) => {
                    // The kernel may still use the buffers, so they must never be freed.
                    std::mem::forget(slots);
                    return Err(error).context("cannot enter the io_uring");
                }
                _ => {}
            }
            let now = Instant::now();
            for completion in ring.completion() {
                running -= 1;
                let key = usize::try_from(completion.user_data())?;
                idle.push(key);
                let slot = &slots[key];
                latencies.record(now - slot.started_at);
                match usize::try_from(completion.result()) {
                    Ok(count) if count == phase.bytes => {
                        let first = slot.at / BLOCK_BYTES as u64;
                        if phase.direction == Direction::Read
                            && slot.buf[..8] != first.to_le_bytes()
                        {
                            wrong += 1;
                        }
                    }
                    Ok(count) => failure = Some(std::io::Error::other(format!("{count} bytes"))),
                    Err(_) => {
                        let error = std::io::Error::from_raw_os_error(-completion.result());
                        failure = Some(error);
                    }
                }
            }
        }
        match failure {
            Some(error) => Err(error).with_context(|| format!("{} failed", phase.name())),
            None => Ok(wrong),
        }
    }

    /// A buffer full of noise.
    fn prepared(&self, bytes: usize) -> Buf {
        let mut buf = Buf::zeroed(bytes);
        for (index, block) in buf.chunks_mut(BLOCK_BYTES).enumerate() {
            // Blocks of one write differ, or the device could store them once.
            let turn = index * 61 % self.noise.len();
            let (end, start) = self.noise.split_at(turn);
            block[..start.len()].copy_from_slice(start);
            block[start.len()..].copy_from_slice(end);
        }
        buf
    }

    fn entry(
        &self,
        direction: Direction,
        slot: &mut Slot,
        at: u64,
        durable: bool,
    ) -> squeue::Entry {
        let fd = types::Fd(self.file.as_raw_fd());
        let length = u32::try_from(slot.buf.len()).expect("at most a mebibyte");
        slot.at = at;
        let entry = match direction {
            Direction::Read => {
                opcode::Read::new(fd, slot.buf.as_mut_ptr(), length).offset(at).build()
            }
            Direction::Write => {
                let first = at / BLOCK_BYTES as u64;
                for (number, block) in (first..).zip(slot.buf.chunks_mut(BLOCK_BYTES)) {
                    block[..8].copy_from_slice(&number.to_le_bytes());
                }
                let flags = if durable { libc::RWF_DSYNC } else { 0 };
                opcode::Write::new(fd, slot.buf.as_ptr(), length).offset(at).rw_flags(flags).build()
            }
        };
        slot.started_at = Instant::now();
        entry
    }
}

struct Slot {
    buf: Buf,
    at: u64,
    started_at: Instant,
}

#[derive(Clone, Copy)]
enum Until {
    Time(Instant),
    Count(u64),
}

impl Until {
    /// Whether another operation starts. One always does, so that there is something to show.
    fn more(self, started: u64) -> bool {
        match self {
            Self::Time(end) => started == 0 || Instant::now() < end,
            Self::Count(count) => started < count,
        }
    }
}

/// Where the next operation goes, in units of its size.
struct Chooser {
    places: u64,
    next: u64,
    state: u64,
}

impl Chooser {
    fn choose(&mut self, direction: Direction) -> u64 {
        match direction {
            Direction::Write => {
                let place = self.next;
                self.next = (self.next + 1) % self.places;
                place
            }
            Direction::Read => random(&mut self.state) % self.places,
        }
    }
}

fn noise(seed: u64) -> Vec<u8> {
    let mut state = seed;
    (0..BLOCK_BYTES / 8).flat_map(|_| random(&mut state).to_le_bytes()).collect()
}

/// `SplitMix64` (Steele, Lea, Flood 2014).
fn random(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mixed = (*state ^ (*state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}
