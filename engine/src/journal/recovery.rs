//! Reading a journal back, one group after the other, in bounded memory.

use std::collections::VecDeque;

use super::chain::{Bounds, Chain};
use super::frame::Header;
use super::group::Assembler;
use super::retention::Retention;
use super::slots;
use super::source::DiskSource;
use super::{
    CleanEnd, Error, FileNumber, Group, JournalFile, JournalId, Ticket, TornTail, slot_path,
};
use crate::env::{Env, Open};
use crate::types::Run;

/// Reads a journal back after the directory was opened. Groups come in the order of appends; an
/// entry that was copied forward comes once more, later, and then its partition's indexes go back:
/// whoever merges them sorts by (partition, index), see [`super::Sequence`].
#[derive(Debug)]
pub struct Recovery {
    env: Env,
    bounds: Bounds,
    chain: Chain<DiskSource>,
    assembler: Assembler,
    ready: VecDeque<Group>,
    retention: Retention,
    /// Files of the chain with the sequence number of their last frame.
    last_frames: Vec<(JournalFile, u64)>,
}

impl Recovery {
    /// Starts at `first`, as the manifest says. `run` is this opening's, `clean_end` what the manifest
    /// says about the last one.
    ///
    /// # Errors
    /// None today; files are opened as they are reached.
    #[allow(clippy::unused_async, reason = "opening a journal may read ahead one day")]
    pub async fn open(
        env: &Env,
        id: JournalId,
        first: JournalFile,
        run: Run,
        clean_end: Option<CleanEnd>,
    ) -> Result<Self, Error> {
        let run_max = Run(run.0.saturating_sub(1));
        let bounds = Bounds { id, first, run_max, clean_end, live: true };
        Ok(Self {
            env: env.clone(),
            bounds,
            chain: Chain::new(DiskSource::new(env.clone(), id), bounds),
            assembler: Assembler::new(id),
            ready: VecDeque::new(),
            retention: Retention::default(),
            last_frames: Vec::new(),
        })
    }

    /// The next group; `None` at the end of the longest unbroken chain.
    ///
    /// # Errors
    /// `Corrupt` if something durable is missing or damaged, `Version`, `Kind`, `Io`.
    pub async fn next(&mut self) -> Result<Option<Group>, Error> {
        loop {
            if let Some(group) = self.ready.pop_front() {
                for entry in &group.entries {
                    let (file, len) = (group.file.number, entry.bytes.len());
                    self.retention.note(file, entry.partition, entry.index, len, Ticket(0));
                }
                return Ok(Some(group));
            }
            let Some((header, payload)) = self.chain.next().await? else { return Ok(None) };
            self.assembler.push(&header, payload, &mut self.ready)?;
            match self.last_frames.last_mut() {
                Some((file, sequence)) if *file == header.file => *sequence = header.sequence,
                _ => self.last_frames.push((header.file, header.sequence)),
            }
        }
    }

    /// Reads what is left, makes everything that was read durable, and says where to go on. A frame
    /// can have been read that is in the device's cache only: nothing may be relied on before this
    /// returned.
    ///
    /// # Errors
    /// As [`Recovery::next`].
    pub async fn finish(mut self) -> Result<Recovered, Error> {
        while self.next().await?.is_some() {}
        let last = self.chain.last().copied();
        self.make_durable().await?;
        let (file, byte) = self.chain.position();
        let tail = self.chain.tail().unwrap_or_default();
        let group_discarded = self.assembler.is_open();
        let torn = match tail.torn {
            Some(torn) => Some(TornTail { group_discarded, ..torn }),
            None if group_discarded && self.bounds.clean_end.is_none() => {
                Some(TornTail { file, byte, frames_discarded: 0, group_discarded })
            }
            None => None,
        };
        let mut files = self.chain.files().to_vec();
        if files.last().is_none_or(|last| *last != file) {
            files.push(file);
        }
        let end = CleanEnd {
            file,
            byte,
            sequence: last.map_or(1, |last| last.sequence + 1),
            crc: last.map_or(0, |last| last.crc),
        };
        Ok(Recovered { end, last, files, retention: self.retention, torn })
    }

    /// Makes everything that was read so far durable. Whoever relies on some of it before
    /// [`Recovery::finish`] calls this first.
    ///
    /// # Errors
    /// `Io`.
    pub async fn make_durable(&self) -> Result<(), Error> {
        if self.bounds.clean_end.is_some() {
            return Ok(());
        }
        slots::sync_names(&self.env).await?;
        // Of one chain, what the last frame proves is the most.
        let proved = self.chain.last().map_or(0, |last| last.durable_below);
        for (file, sequence) in &self.last_frames {
            if *sequence >= proved {
                self.sync(*file).await?;
            }
        }
        Ok(())
    }

    async fn sync(&self, file: JournalFile) -> Result<(), Error> {
        let path = slot_path(self.bounds.id, file.slot);
        let failed = |error| Error::io("sync", &path, 0, error);
        let file = self.env.disk().open(&path, Open::Existing).await.map_err(failed)?;
        file.sync().await.map_err(failed)
    }
}

/// What recovery found, and where the journal goes on.
#[derive(Debug)]
pub struct Recovered {
    /// Where the next frame goes.
    pub(super) end: CleanEnd,
    /// The last frame of the chain.
    pub(super) last: Option<Header>,
    /// The retained files, in order; the last is the one of `end`.
    pub(super) files: Vec<JournalFile>,
    pub(super) retention: Retention,
    /// Damage or loss beyond the end, if there was any.
    pub torn: Option<TornTail>,
}

impl Recovered {
    /// Where the chain ends: the file and the byte after its last frame.
    #[must_use]
    pub fn end(&self) -> (FileNumber, u64) {
        (self.end.file.number, self.end.byte)
    }

    /// Every frame with a lower sequence number was durable once, with all that its entries name outside
    /// the journal: some later frame says so.
    #[must_use]
    pub fn proved_below(&self) -> u64 {
        self.last.map_or(0, |last| last.durable_below)
    }

    /// How many frames were written to the journal in its life.
    #[must_use]
    pub fn frames(&self) -> u64 {
        self.end.sequence - 1
    }
}
