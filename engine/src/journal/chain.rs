//! The longest unbroken chain of frames, and what may lie beyond it.
//!
//! A frame follows another if it lies where that one ends, knows that place as its own, has the next
//! sequence number, names the other's checksum, and was not written by an earlier opening. Frames of
//! an earlier life of a recycled file fail by file number; what a crash left beyond a gap, and a
//! later opening dropped and wrote around, fails by run and checksum.
//!
//! At the end of the chain, frames further on are looked for. One that was submitted when the missing
//! frame was already durable proves damage. If there is none, the missing frame was never
//! acknowledged, and all of them are dropped.
//!
//! The first retained frame follows nothing that is left; it counts if file and byte are its own. A
//! file becomes the first one only after a frame in it was durable, so nothing older can be there.

use std::collections::BTreeSet;

use super::frame::{Header, VERSION};
use super::{CleanEnd, Error, JournalFile, JournalId, TornTail, slot_path};
use crate::env::BLOCK_BYTES;
use crate::probe::{Plant, State, planted, reached};
use crate::types::Run;

/// Where stored bytes come from.
pub(super) trait Source {
    /// Turns to another slot; its length, or `None` if there is no such file.
    async fn open(&mut self, slot: u32) -> Result<Option<u64>, Error>;

    /// The `len` bytes at `at` of the slot that was opened last; both are multiples of a block, and
    /// all of it lies within the file's length. `at` never goes back.
    async fn bytes(&mut self, at: u64, len: usize) -> Result<&[u8], Error>;

    /// Every slot of the journal that exists, sorted.
    async fn slots(&mut self) -> Result<Vec<u32>, Error>;
}

/// Which journal, and which part of it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    pub(super) id: JournalId,
    pub(super) first: JournalFile,
    /// No frame of a later opening can be there.
    pub(super) run_max: Run,
    pub(super) clean_end: Option<CleanEnd>,
    /// Whether planted bugs have an effect and states are counted; not so for the offline walker.
    pub(super) live: bool,
}

#[derive(Debug)]
pub(super) struct Chain<S> {
    source: S,
    bounds: Bounds,
    /// Where the next frame is expected.
    file: JournalFile,
    byte: u64,
    /// The slot is open, and so long; 0 if it does not exist.
    file_len: u64,
    opened: bool,
    /// The last frame of the chain.
    last: Option<Header>,
    /// Every file that was reached, in order.
    files: Vec<JournalFile>,
    /// Filled when the end was found.
    tail: Option<Tail>,
    /// A planted bug makes the next frame count whatever it follows.
    anything_follows: bool,
}

/// What lies beyond the end of the chain.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Tail {
    pub(super) torn: Option<TornTail>,
    /// Frames of earlier runs or of earlier lives of a file that were met.
    pub(super) stale: u64,
}

enum Met {
    /// The frame that is expected.
    Next(Header),
    /// Nothing that belongs there.
    Gap {
        /// What is there looks as if it had been the expected frame.
        resembles: bool,
    },
}

impl<S: Source> Chain<S> {
    pub(super) fn new(source: S, bounds: Bounds) -> Self {
        Self {
            source,
            bounds,
            file: bounds.first,
            byte: 0,
            file_len: 0,
            opened: false,
            last: None,
            files: Vec::new(),
            tail: None,
            anything_follows: false,
        }
    }

    /// The next frame and its payload; `None` at the end of the chain.
    pub(super) async fn next(&mut self) -> Result<Option<(Header, &[u8])>, Error> {
        if self.tail.is_some() {
            return Ok(None);
        }
        if let Some(last) = self.last
            && self.byte == u64::from(last.file_bytes)
        {
            self.file = JournalFile {
                number: super::FileNumber(self.file.number.0 + 1),
                slot: last.next_slot,
            };
            self.byte = 0;
            self.opened = false;
        }
        if self.ends_cleanly()? {
            self.tail = Some(Tail::default());
            return Ok(None);
        }
        if !self.opened {
            self.open_file().await?;
            self.files.push(self.file);
        }
        let header = loop {
            match self.meet().await? {
                Met::Next(header) => break header,
                Met::Gap { resembles } => {
                    let tail = self.look_beyond(resembles).await?;
                    if !self.anything_follows {
                        self.tail = Some(tail);
                        return Ok(None);
                    }
                }
            }
        };
        let at = self.byte;
        self.byte += u64::from(header.frame_bytes);
        self.last = Some(header);
        let frame = self.source.bytes(at, header.frame_bytes as usize).await?;
        Ok(Some((header, header.payload(frame))))
    }

    /// The last frame returned.
    pub(super) fn last(&self) -> Option<&Header> {
        self.last.as_ref()
    }

    /// Where the next frame is or would be: file, byte.
    pub(super) fn position(&self) -> (JournalFile, u64) {
        match &self.last {
            Some(last) if self.byte == u64::from(last.file_bytes) => {
                let number = super::FileNumber(self.file.number.0 + 1);
                (JournalFile { number, slot: last.next_slot }, 0)
            }
            _ => (self.file, self.byte),
        }
    }

    /// The files that hold the chain, and the one in which it ends.
    pub(super) fn files(&self) -> &[JournalFile] {
        &self.files
    }

    /// What lies beyond, once `next` returned `None`.
    pub(super) fn tail(&self) -> Option<Tail> {
        self.tail
    }

    fn corrupt(&self, what: &'static str) -> Error {
        Error::corrupt(self.bounds.id, self.file, self.byte, what)
    }

    /// The sequence number expected next, if that is known.
    fn sequence(&self) -> Option<u64> {
        match &self.last {
            Some(last) => Some(last.sequence + 1),
            None if self.file == JournalFile::FIRST => Some(1),
            None => None,
        }
    }

    /// Opens the file in which the next frame is expected. Its directory entry and its length were
    /// durable before the file before it was begun, so anything less is damage.
    async fn open_file(&mut self) -> Result<(), Error> {
        let Some(len) = self.source.open(self.file.slot).await? else {
            return Err(self.corrupt("the file is missing"));
        };
        let full = self.last.map_or(0, |last| u64::from(last.file_bytes));
        if len < full {
            self.byte = len;
            return Err(self.corrupt("the file is cut short here"));
        }
        self.file_len = len - len % BLOCK_BYTES as u64;
        self.opened = true;
        Ok(())
    }

    /// Whether the chain has reached the end that the manifest names.
    fn ends_cleanly(&self) -> Result<bool, Error> {
        let Some(end) = self.bounds.clean_end else { return Ok(false) };
        if (self.file.number, self.byte) > (end.file.number, end.byte) {
            return Err(self.corrupt("the journal was closed before this byte"));
        }
        if (self.file.number, self.byte) < (end.file.number, end.byte) {
            return Ok(false);
        }
        let (sequence, crc) = self.last.map_or((1, 0), |last| (last.sequence + 1, last.crc));
        if (sequence, crc, self.file.slot) != (end.sequence, end.crc, end.file.slot) {
            return Err(self.corrupt("what ends here is not what the journal was closed with"));
        }
        Ok(true)
    }

    /// An intact frame of this journal at byte `at` of the open slot, wherever it belongs.
    async fn frame_at(&mut self, at: u64) -> Result<Option<Header>, Error> {
        if at + BLOCK_BYTES as u64 > self.file_len {
            return Ok(None);
        }
        let Some(header) = Header::peek(self.source.bytes(at, BLOCK_BYTES).await?) else {
            return Ok(None);
        };
        if header.journal != self.bounds.id
            || at + u64::from(header.frame_bytes) > self.file_len
            || u64::from(header.byte) != at
        {
            return Ok(None);
        }
        let frame = self.source.bytes(at, header.frame_bytes as usize).await?;
        Ok(header.verify(frame).then_some(header))
    }

    /// Looks at the place where the next frame is expected.
    async fn meet(&mut self) -> Result<Met, Error> {
        let Some(header) = self.frame_at(self.byte).await? else {
            let resembles = self.resembles().await?;
            return Ok(Met::Gap { resembles });
        };
        if header.version != VERSION {
            return Err(Error::Version {
                path: slot_path(self.bounds.id, self.file.slot),
                byte: self.byte,
                found: header.version,
                known: VERSION,
            });
        }
        if std::mem::take(&mut self.anything_follows) {
            return Ok(Met::Next(header));
        }
        if header.file != self.file {
            let stale = header.file.number < self.file.number;
            if stale && self.bounds.live && !self.returns() && planted(Plant::ReusedFileTakenForNew)
            {
                return Ok(Met::Next(Header { file: self.file, ..header }));
            }
            return Ok(Met::Gap { resembles: false });
        }
        if header.run > self.bounds.run_max {
            return Err(self.corrupt("a frame was written by an opening that the manifest forgot"));
        }
        let Some(last) = self.last else {
            let first = header.sequence == 1 && header.previous_crc == 0;
            if self.file == JournalFile::FIRST && !first {
                return Err(self.corrupt("the first frame of the journal is not its first one"));
            }
            return Ok(Met::Next(header));
        };
        if header.run < last.run {
            return Ok(Met::Gap { resembles: false });
        }
        if header.sequence != last.sequence + 1 || header.previous_crc != last.crc {
            // Only a lost write or damage can do this: who wrote it had read or written what it names.
            return Err(Error::corrupt(
                self.bounds.id,
                last.file,
                u64::from(last.byte),
                "the frame after it follows another one",
            ));
        }
        let same_file = header.file == last.file;
        if header.file_bytes != last.file_bytes || same_file && header.next_slot != last.next_slot {
            return Err(self.corrupt("it disagrees with the frame before about the files"));
        }
        Ok(Met::Next(header))
    }

    /// Whether the chain has come back to a slot, which only a planted bug makes it do.
    fn returns(&self) -> bool {
        let (_, before) = self.files.split_last().unwrap_or((&self.file, &[]));
        before.iter().any(|file| file.slot == self.file.slot)
    }

    async fn resembles(&mut self) -> Result<bool, Error> {
        if self.byte + BLOCK_BYTES as u64 > self.file_len {
            return Ok(false);
        }
        let (id, file, byte, sequence) = (self.bounds.id, self.file, self.byte, self.sequence());
        let block = self.source.bytes(byte, BLOCK_BYTES).await?;
        let intact_elsewhere = Header::peek(block).is_some_and(|header| header.file != file);
        Ok(!intact_elsewhere && Header::resembles(block, id, file, byte, sequence))
    }

    /// The chain ends at the current position: was that the end of what was durable?
    async fn look_beyond(&mut self, resembles: bool) -> Result<Tail, Error> {
        if self.bounds.clean_end.is_some() {
            return Err(self.corrupt("the journal was closed cleanly, so a frame must be here"));
        }
        if self.last.is_none() && self.file != JournalFile::FIRST {
            return Err(self.corrupt("the first retained file has no first frame"));
        }
        let mut beyond = Beyond {
            sequence: self.sequence().unwrap_or(1),
            file: self.file,
            run: self.last.map_or(Run(0), |last| last.run),
            run_max: self.bounds.run_max,
            survivors: 0,
            stale: 0,
        };
        let mut first_survivor = None;
        let mut at = self.byte;
        while at < self.file_len {
            let Some(header) = self.frame_at(at).await? else {
                at += BLOCK_BYTES as u64;
                continue;
            };
            if beyond.counts(&header, self.file) {
                if beyond.proves(&header) {
                    return Err(self.corrupt("a later frame proves that a frame here was durable"));
                }
                first_survivor = first_survivor.or(Some(at));
            }
            at += u64::from(header.frame_bytes);
        }
        if let Some(at) = first_survivor
            && self.bounds.live
            && planted(Plant::FrameBeyondGap)
        {
            self.anything_follows = true;
            // The source does not go back, so it starts anew.
            self.source.open(self.file.slot).await?;
            self.byte = at;
            return Ok(Tail::default());
        }
        self.look_into_other_files(&mut beyond).await?;
        if self.bounds.live && beyond.survivors > 0 {
            reached(State::GapWithSurvivors);
        }
        if self.bounds.live && beyond.stale > 0 {
            reached(State::StaleFrames);
        }
        let torn = resembles || beyond.survivors > 0;
        let torn = torn.then_some(TornTail {
            file: self.file,
            byte: self.byte,
            frames_discarded: beyond.survivors,
            group_discarded: false,
        });
        Ok(Tail { torn, stale: beyond.stale })
    }

    /// All of the next file, where it is known, and the first frame of every other.
    async fn look_into_other_files(&mut self, beyond: &mut Beyond) -> Result<(), Error> {
        let next_slot = self.last.filter(|last| last.file == self.file).map(|last| last.next_slot);
        let seen: BTreeSet<u32> = self.files.iter().map(|file| file.slot).collect();
        for slot in self.source.slots().await? {
            if seen.contains(&slot) {
                continue;
            }
            self.file_len = self.source.open(slot).await?.unwrap_or(0);
            self.file_len -= self.file_len % BLOCK_BYTES as u64;
            let end = if Some(slot) == next_slot { self.file_len } else { BLOCK_BYTES as u64 };
            let mut at = 0;
            while at < end {
                let Some(header) = self.frame_at(at).await? else {
                    at += BLOCK_BYTES as u64;
                    continue;
                };
                let place = JournalFile { number: header.file.number, slot };
                if beyond.counts(&header, place) && beyond.proves(&header) {
                    return Err(self.corrupt("a later file proves that a frame here was durable"));
                }
                at += u64::from(header.frame_bytes);
            }
        }
        Ok(())
    }
}

/// Judges frames beyond a gap.
struct Beyond {
    /// The first missing frame.
    sequence: u64,
    /// Where the gap is.
    file: JournalFile,
    /// The opening that wrote the last frame of the chain.
    run: Run,
    run_max: Run,
    survivors: u64,
    stale: u64,
}

impl Beyond {
    /// Whether an intact frame, found in `place`, was written after the chain's last one.
    fn counts(&mut self, header: &Header, place: JournalFile) -> bool {
        let counts = header.version == VERSION
            && header.file == place
            && self.file.number <= header.file.number
            && self.run <= header.run
            && header.run <= self.run_max
            && self.sequence <= header.sequence;
        if counts {
            self.survivors += 1;
        } else {
            self.stale += 1;
        }
        counts
    }

    fn proves(&self, header: &Header) -> bool {
        self.sequence < header.durable_below
    }
}
