//! One file's content: what reads see now, and what a power cut may leave of it.
//!
//! Content is kept in units of 4 KiB. A unit that was never written, or is all zeros, is no memory at
//! all; the others are shared between the present and the durable image. A unit whose present content
//! is not durable has an entry in `unsynced`, with its durable content and every version between.
//! Each change carries the *stamp* of the disk's clock of changes, so that a sync makes durable
//! exactly what was there when it was issued.

use std::collections::BTreeMap;
use std::ops::Range;
use std::rc::Rc;

use tidemill::env::BLOCK_BYTES;

use crate::counts::{Counts, Fault};
use crate::random::Random;

/// What a disk writes in one piece: smaller parts of a unit never mix.
pub(crate) const SECTOR_BYTES: usize = 512;

/// One unit's bytes; `None` is all zeros.
pub(crate) type Unit = Option<Rc<[u8; BLOCK_BYTES]>>;

static ZEROS: [u8; BLOCK_BYTES] = [0; BLOCK_BYTES];

/// The bytes of a unit.
pub(crate) fn bytes(unit: &Unit) -> &[u8; BLOCK_BYTES] {
    unit.as_deref().unwrap_or(&ZEROS)
}

/// A unit with a copy of `source`.
pub(crate) fn unit(source: &[u8]) -> Unit {
    let source: &[u8; BLOCK_BYTES] = source.try_into().expect("units are written whole");
    // Comparing with zeros stops at the first byte that differs, so this costs data nothing.
    (*source != ZEROS).then(|| Rc::new(*source))
}

/// How a power cut treats unsynced changes; drawn anew for each cut, so that some take nearly all and
/// some nearly nothing.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mood {
    /// Chance of an unsynced change to survive.
    pub(crate) survives: u32,
    /// Chance of an unsynced unit to tear.
    pub(crate) tears: u32,
}

impl Mood {
    pub(crate) fn draw(random: &Random) -> Self {
        let survives = *random.pick(&[0, 50_000, 300_000, 500_000, 700_000, 950_000, 1_000_000]);
        let tears = *random.pick(&[0, 100_000, 100_000, 300_000]);
        Self { survives, tears }
    }
}

#[derive(Debug, Default)]
pub(crate) struct Content {
    len: u64,
    durable_len: u64,
    unsynced_lens: Vec<(u64, Resize)>,
    units: Vec<Unit>,
    unsynced: BTreeMap<u32, Unsynced>,
    allocated: Bitmap,
    unsynced_allocations: Vec<(u64, Range<u32>)>,
    /// Units whose stored bytes are not what was written, until a durable write replaces them.
    pub(crate) damaged: BTreeMap<u32, Fault>,
}

#[derive(Debug)]
struct Unsynced {
    durable: Unit,
    /// Stamp of the present version.
    stamp: u64,
    /// Versions after the durable one and before the present one, oldest first.
    between: Vec<(u64, Unit)>,
}

#[derive(Clone, Copy, Debug)]
enum Resize {
    Grow(u64),
    Cut(u64),
}

impl Resize {
    fn apply(self, len: u64) -> u64 {
        match self {
            Self::Grow(to) => len.max(to),
            Self::Cut(to) => len.min(to),
        }
    }
}

impl Content {
    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    /// The present content of a unit.
    pub(crate) fn present(&self, index: u32) -> &Unit {
        self.units.get(index as usize).unwrap_or(&None)
    }

    /// The present content, up to the last unit that was ever written.
    pub(crate) fn units(&self) -> &[Unit] {
        &self.units
    }

    /// Units of `range` that have no space on the disk yet.
    pub(crate) fn unallocated(&self, range: &Range<u32>) -> u32 {
        range.clone().map(|index| u32::from(!self.allocated.has(index))).sum()
    }

    /// Units with space on the disk.
    pub(crate) fn allocated_count(&self) -> u64 {
        self.allocated.count
    }

    /// Takes space for `range` and returns for how many units it was missing.
    pub(crate) fn allocate(&mut self, range: Range<u32>, stamp: u64) -> u64 {
        let before = self.allocated.count;
        // What has its space already keeps it, whatever becomes of this.
        let mut missing: Option<Range<u32>> = None;
        for index in range {
            if self.allocated.has(index) {
                self.unsynced_allocations.extend(missing.take().map(|range| (stamp, range)));
                continue;
            }
            self.allocated.insert(index);
            missing.get_or_insert(index..index).end = index + 1;
        }
        self.unsynced_allocations.extend(missing.map(|range| (stamp, range)));
        self.allocated.count - before
    }

    /// Puts a new version of a unit there; with `durable` a power cut leaves it. Space and length are
    /// the caller's business.
    pub(crate) fn write(&mut self, index: u32, new: Unit, stamp: u64, durable: bool) {
        if self.units.len() <= index as usize {
            if new.is_none() {
                // Zeros over what was never written: nothing changes, now or after a crash.
                self.damaged.remove(&index);
                return;
            }
            self.units.resize(index as usize + 1, None);
        }
        let old = std::mem::replace(&mut self.units[index as usize], new);
        if durable {
            self.unsynced.remove(&index);
            self.damaged.remove(&index);
            return;
        }
        if let Some(unsynced) = self.unsynced.get_mut(&index) {
            unsynced.between.push((unsynced.stamp, old));
            unsynced.stamp = stamp;
        } else {
            let fresh = Unsynced { durable: old, stamp, between: Vec::new() };
            self.unsynced.insert(index, fresh);
        }
    }

    /// Changes stored bytes under the engine's feet, in the present and, as far as they are the same
    /// version, in the durable image.
    pub(crate) fn flip(&mut self, byte: u64, bit: u32) {
        let (index, at) = place(byte);
        let mut copy = *bytes(self.present(index));
        copy[at] ^= 1 << bit;
        if self.units.len() <= index as usize {
            self.units.resize(index as usize + 1, None);
        }
        self.units[index as usize] = unit(&copy);
        self.damaged.insert(index, Fault::BitFlip);
    }

    pub(crate) fn grow(&mut self, to: u64, stamp: u64) {
        if to > self.len {
            self.len = to;
            self.unsynced_lens.push((stamp, Resize::Grow(to)));
        }
    }

    /// A durable write ended at `end`: whatever length it needs is durable with it.
    pub(crate) fn grow_durably(&mut self, end: u64) {
        self.len = self.len.max(end);
        let cut = self.unsynced_lens.iter().any(|(_, resize)| matches!(resize, Resize::Cut(_)));
        if cut {
            // A file system keeps changes of one length in order, so earlier ones go first.
            self.unsynced_lens.clear();
            self.durable_len = self.len;
            return;
        }
        self.durable_len = self.durable_len.max(end);
        let durable_len = self.durable_len;
        self.unsynced_lens.retain(|(_, resize)| match resize {
            Resize::Grow(to) => *to > durable_len,
            Resize::Cut(_) => true,
        });
    }

    /// Cuts the file and returns how many units of space that gave back.
    pub(crate) fn truncate(&mut self, to: u64, stamp: u64) -> u64 {
        if to < self.len {
            self.len = to;
            self.unsynced_lens.push((stamp, Resize::Cut(to)));
        }
        let keep = units_of(to);
        for index in keep..u32::try_from(self.units.len()).expect("test files are small") {
            if self.present(index).is_some() {
                self.write(index, None, stamp, false);
            }
        }
        self.zero_behind(to);
        let before = self.allocated.count;
        self.allocated.cut(keep);
        before - self.allocated.count
    }

    /// Bytes behind the end, in the unit that holds it, read as zero if the file grows again.
    fn zero_behind(&mut self, len: u64) {
        let (index, at) = place(len);
        if at > 0 && self.present(index).is_some() {
            let mut copy = *bytes(self.present(index));
            copy[at..].fill(0);
            self.units[index as usize] = unit(&copy);
        }
    }

    /// Makes durable what was there at `stamp`.
    pub(crate) fn sync(&mut self, stamp: u64) {
        let mut durable_len = self.durable_len;
        self.unsynced_lens.retain(|&(changed, resize)| {
            if changed <= stamp {
                durable_len = resize.apply(durable_len);
            }
            changed > stamp
        });
        self.durable_len = durable_len;
        self.unsynced_allocations.retain(|&(changed, _)| changed > stamp);
        self.unsynced.retain(|_, unsynced| {
            if unsynced.stamp <= stamp {
                return false;
            }
            let known = unsynced.between.iter().take_while(|(at, _)| *at <= stamp).count();
            if let Some((_, version)) = unsynced.between.drain(..known).next_back() {
                unsynced.durable = version;
            }
            true
        });
    }

    /// A sync failed: the kernel may have dropped what it could not write, and calls it clean.
    pub(crate) fn drop_unsynced(&mut self, random: &Random) {
        let units = &mut self.units;
        self.unsynced.retain(|&index, unsynced| {
            let dropped = random.one_in(2);
            if dropped {
                units[index as usize] = unsynced.durable.take();
            }
            !dropped
        });
    }

    /// Power is gone: of every unsynced change, something is left or nothing.
    pub(crate) fn power_cut(&mut self, mood: Mood, random: &Random, counts: &mut Counts) {
        let unsynced = std::mem::take(&mut self.unsynced);
        for (index, unsynced) in unsynced {
            let left = self.left_of(index, unsynced, mood, random, counts);
            self.units[index as usize] = left;
        }
        let mut len = self.durable_len;
        for (_, resize) in std::mem::take(&mut self.unsynced_lens) {
            if random.chance(mood.survives) {
                len = resize.apply(len);
            } else {
                counts.add(Fault::LengthVanished);
            }
        }
        self.len = len;
        self.durable_len = len;
        self.units.truncate(units_of(len) as usize);
        self.zero_behind(len);
        for (_, range) in std::mem::take(&mut self.unsynced_allocations) {
            if !random.chance(mood.survives) {
                counts.add(Fault::AllocationVanished);
                for index in range {
                    if self.present(index).is_none() {
                        self.allocated.remove(index);
                    }
                }
            }
        }
        self.allocated.cut(units_of(len));
        // A cut of the file that vanished gave its space back.
        for (index, unit) in (0..).zip(&self.units) {
            if unit.is_some() {
                self.allocated.insert(index);
            }
        }
    }

    fn left_of(
        &self,
        index: u32,
        unsynced: Unsynced,
        mood: Mood,
        random: &Random,
        counts: &mut Counts,
    ) -> Unit {
        let present = self.present(index).clone();
        if random.chance(mood.tears) {
            counts.add(Fault::UnitTorn);
            return tear(&unsynced.durable, &present, random);
        }
        if random.chance(mood.survives) {
            counts.add(Fault::UnitSurvived);
            return present;
        }
        counts.add(Fault::UnitVanished);
        let older = random.index(unsynced.between.len() + 1);
        unsynced.between.into_iter().nth(older).map_or(unsynced.durable, |(_, version)| version)
    }
}

/// Some sectors of one version, the others of the other.
pub(crate) fn tear(old: &Unit, new: &Unit, random: &Random) -> Unit {
    let mut mixed = *bytes(old);
    let taken = random.bits();
    for (sector, target) in mixed.chunks_exact_mut(SECTOR_BYTES).enumerate() {
        if taken >> sector & 1 == 1 {
            let from = sector * SECTOR_BYTES;
            target.copy_from_slice(&bytes(new)[from..from + SECTOR_BYTES]);
        }
    }
    unit(&mixed)
}

/// How many units hold `len` bytes.
pub(crate) fn units_of(len: u64) -> u32 {
    u32::try_from(len.div_ceil(BLOCK_BYTES as u64)).expect("test files stay below 16 TiB")
}

/// The unit of a byte, and the byte's place in it.
pub(crate) fn place(byte: u64) -> (u32, usize) {
    let index = u32::try_from(byte / BLOCK_BYTES as u64).expect("test files stay below 16 TiB");
    (index, usize::try_from(byte % BLOCK_BYTES as u64).expect("below a block"))
}

/// A set of unit indexes with its size.
#[derive(Debug, Default)]
struct Bitmap {
    words: Vec<u64>,
    count: u64,
}

impl Bitmap {
    fn has(&self, index: u32) -> bool {
        self.words.get(index as usize / 64).is_some_and(|word| word >> (index % 64) & 1 == 1)
    }

    fn insert(&mut self, index: u32) {
        let word = index as usize / 64;
        if self.words.len() <= word {
            self.words.resize(word + 1, 0);
        }
        let mask = 1 << (index % 64);
        self.count += u64::from(self.words[word] & mask == 0);
        self.words[word] |= mask;
    }

    fn remove(&mut self, index: u32) {
        if self.has(index) {
            self.words[index as usize / 64] &= !(1 << (index % 64));
            self.count -= 1;
        }
    }

    /// Removes everything at or above `from`.
    fn cut(&mut self, from: u32) {
        let end = u32::try_from(self.words.len() * 64).expect("test files are small");
        for index in from..end {
            self.remove(index);
        }
    }
}
