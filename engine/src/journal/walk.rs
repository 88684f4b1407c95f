//! Looking at a journal offline: the same chain as recovery follows, over files in memory or mapped.

use std::collections::{BTreeMap, VecDeque};

use futures_util::FutureExt;

use super::chain::{Bounds, Chain};
use super::frame::Header;
use super::group::Assembler;
use super::source::SliceSource;
use super::{CleanEnd, Error, Group, JournalFile, JournalId, TornTail};
use crate::types::Run;

/// Walks over the frames of a journal that no engine has open, and checks each as recovery would.
#[derive(Debug)]
pub struct Walker<'a> {
    chain: Chain<SliceSource<'a>>,
    assembler: Assembler,
    groups: VecDeque<Group>,
    files: &'a BTreeMap<u32, &'a [u8]>,
    walked: Walked,
}

/// One frame, and the groups that end in it.
#[derive(Clone, Debug)]
pub struct WalkedFrame {
    /// What it says about itself; its place is `file` and `byte`.
    pub header: Header,
    /// The groups that end in it, with the place where each began.
    pub groups: Vec<Group>,
}

/// What a walk came over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Walked {
    /// Frames in the chain.
    pub frames: u64,
    /// Their bytes, padding included.
    pub frame_bytes: u64,
    /// Groups that were complete.
    pub groups: u64,
    /// Entries in them.
    pub entries: u64,
    /// Every frame with a lower sequence number was durable once: a later one says so.
    pub proved_below: u64,
    /// What a crash left beyond the end, if anything.
    pub torn: Option<TornTail>,
    /// Frames of earlier openings or earlier lives of a file, beyond the end: unused.
    pub frames_stale: u64,
    /// Bytes of files that hold no frame of the chain: unused.
    pub bytes_unused: u64,
}

impl<'a> Walker<'a> {
    /// Starts where the manifest says; `run` is the manifest's, and `files` holds every file of the
    /// journal by slot (see [`super::parse_slot`]).
    #[must_use]
    pub fn new(
        id: JournalId,
        first: JournalFile,
        run: Run,
        clean_end: Option<CleanEnd>,
        files: &'a BTreeMap<u32, &'a [u8]>,
    ) -> Self {
        let bounds = Bounds { id, first, run_max: run, clean_end, live: false };
        Self {
            chain: Chain::new(SliceSource::new(files, id), bounds),
            assembler: Assembler::new(id),
            groups: VecDeque::new(),
            files,
            walked: Walked::default(),
        }
    }

    /// The next frame; `None` at the end of the chain.
    ///
    /// # Errors
    /// `Corrupt`, `Version`, `Kind`, each with file and byte. Nothing can be read beyond it.
    pub fn next_frame(&mut self) -> Result<Option<WalkedFrame>, Error> {
        let next = self.chain.next().now_or_never().expect("memory answers at once");
        let Some((header, payload)) = next? else {
            let tail = self.chain.tail().unwrap_or_default();
            let len: u64 = self.files.values().map(|bytes| bytes.len() as u64).sum();
            self.walked.torn = tail.torn;
            if let Some(torn) = &mut self.walked.torn {
                torn.group_discarded = self.assembler.is_open();
            }
            self.walked.frames_stale = tail.stale;
            self.walked.bytes_unused = len.saturating_sub(self.walked.frame_bytes);
            return Ok(None);
        };
        self.assembler.push(&header, payload, &mut self.groups)?;
        let groups: Vec<Group> = self.groups.drain(..).collect();
        self.walked.frames += 1;
        self.walked.proved_below = header.durable_below;
        self.walked.frame_bytes += u64::from(header.frame_bytes);
        self.walked.groups += groups.len() as u64;
        self.walked.entries += groups.iter().map(|group| group.entries.len() as u64).sum::<u64>();
        Ok(Some(WalkedFrame { header, groups }))
    }

    /// What was seen so far; complete once [`Walker::next_frame`] returned `None`.
    #[must_use]
    pub fn walked(&self) -> Walked {
        self.walked
    }

    /// Where the chain ends, or the next frame is expected.
    #[must_use]
    pub fn position(&self) -> (JournalFile, u64) {
        self.chain.position()
    }
}
