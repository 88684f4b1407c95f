//! Copying segments to another disk, as far as a state has recorded them.
//!
//! Recorded bytes never change, so this runs beside everything else. They are checked on the way, block after
//! block along the chain up to the recorded end of it.

use std::rc::Rc;

use crc32fast::Hasher;

use super::Error;
use super::format::{HEAD_BYTES, Head, Identity, Kind, Wrong, decode_header};
use super::segment::Walk;
use super::state::SegmentState;
use crate::env::copy::{PIECE_BYTES, Pieces, TargetError};
use crate::env::{BLOCK_BYTES, Buf, Env, File, IO_BYTES_MAX, Open, Sync, read_full, write_full};
use crate::types::{DepotId, PartitionId};

/// Why there is no copy.
#[derive(Debug)]
pub(crate) enum CopyError {
    /// The segment cannot be read: the device refused, or stored data is damaged.
    Source(Error),
    /// Where the copy should be, the device refused.
    Target(TargetError),
    /// Whoever wanted it has changed his mind.
    Stopped,
}

impl From<TargetError> for CopyError {
    fn from(error: TargetError) -> Self {
        Self::Target(error)
    }
}

/// One segment, as a state has recorded it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Recorded {
    identity: Identity,
    state: SegmentState,
}

impl Recorded {
    pub(crate) fn new(partition: PartitionId, depot: DepotId, state: SegmentState) -> Self {
        let identity = Identity { partition, depot, base: state.base, file_id: state.file_id };
        Self { identity, state }
    }

    /// Bytes that hold something.
    pub(crate) fn bytes(&self) -> u64 {
        self.state.bytes
    }

    /// Whether the file `path` of `env` is this segment, sealed: it is of the same life, and ends in the same
    /// footer, whose checksum covers those of all blocks. What lies between is not read.
    pub(crate) async fn is_sealed_in(&self, path: &str, env: &Env) -> bool {
        let SegmentState { bytes, last_at, chain, sealed, .. } = self.state;
        let footer_bytes = usize::try_from(bytes - last_at).unwrap_or(usize::MAX);
        if !sealed || footer_bytes > IO_BYTES_MAX {
            return false;
        }
        let Ok(file) = env.disk().open(path, Open::Existing).await else { return false };
        let (read, header) = read_full(&*file, 0, Buf::zeroed(BLOCK_BYTES)).await;
        let identity = decode_header(&header).map(|(identity, _)| identity);
        if read.is_err() || identity != Ok(self.identity) {
            return false;
        }
        let (read, footer) = read_full(&*file, last_at, Buf::zeroed(footer_bytes)).await;
        let head = Head::decode(&footer, self.identity.file_id, last_at);
        read.is_ok()
            && head.is_ok_and(|head| {
                let whole = head.bytes() == footer_bytes && head.check(&footer).is_ok();
                whole && head.kind == Kind::Footer && head.crc == chain
            })
    }

    /// Makes the file `path` of `to`, which must not exist, with the recorded bytes of that of `from`; synced,
    /// but for its name. What an earlier copy has of it, at that path of `earlier`, is taken from there.
    ///
    /// # Errors
    /// See [`CopyError`]; what there is of the copy is of no use.
    pub(crate) async fn copy(
        &self,
        path: &str,
        from: &Env,
        to: &Env,
        earlier: Option<&Env>,
        pieces: &dyn Pieces,
    ) -> Result<(), CopyError> {
        let opened = from.disk().open(path, Open::Existing).await;
        let source = opened.map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => corrupt(path, 0, "the file is missing"),
            _ => read_error("open", path, 0, error),
        })?;
        let made = to.disk().open(path, Open::New).await;
        let target = made.map_err(TargetError::of("create", path, 0))?;
        let bytes = self.state.bytes;
        // Nothing below meets a full disk then.
        target.allocate(bytes).await.map_err(TargetError::of("allocate", path, bytes))?;
        let earlier = match earlier {
            Some(earlier) => earlier.disk().open(path, Open::Existing).await.ok(),
            None => None,
        };
        let copying = Copying { recorded: *self, path, env: from, source, target, pieces };
        match copying.run(earlier.as_deref()).await {
            // What the earlier copy has is not the beginning of this segment, or damaged.
            Err(CopyError::Source(Error::Corrupt { .. })) if earlier.is_some() => {
                copying.run(None).await?;
            }
            result => result?,
        }
        copying.target.sync().await.map_err(TargetError::of("sync", path, 0))?;
        Ok(())
    }
}

/// One copying.
struct Copying<'c> {
    recorded: Recorded,
    path: &'c str,
    env: &'c Env,
    source: Rc<dyn File>,
    target: Rc<dyn File>,
    pieces: &'c dyn Pieces,
}

impl Copying<'_> {
    async fn run(&self, earlier: Option<&dyn File>) -> Result<(), CopyError> {
        let (path, bytes) = (self.path, self.recorded.state.bytes);
        let earlier_bytes = earlier.and_then(|file| file.len().ok()).unwrap_or_default();
        let mut chain = Chain::new(self.recorded);
        let (mut at, mut taken_over) = (0, 0);
        while at < bytes {
            let piece = usize::try_from(bytes - at).unwrap_or(usize::MAX).min(PIECE_BYTES);
            let end = at + piece as u64;
            let old = earlier.filter(|_| end <= earlier_bytes);
            let (read, buf) = read_full(old.unwrap_or(&*self.source), at, Buf::zeroed(piece)).await;
            read.map_err(|error| match error.kind() {
                std::io::ErrorKind::UnexpectedEof => corrupt(path, at, "the file is cut short"),
                // The source may have what an earlier copy cannot give.
                _ if old.is_some() => corrupt(path, at, "an earlier copy cannot be read"),
                _ => read_error("read", path, at, error),
            })?;
            chain.take(&buf).map_err(|(byte, what)| corrupt(path, byte, what))?;
            let (written, _) = write_full(&*self.target, at, buf, Sync::No).await;
            written.map_err(TargetError::of("write", path, at))?;
            // What is taken over counts when all of it has proved right.
            let copied = if old.is_some() { 0 } else { piece as u64 };
            taken_over += piece as u64 - copied;
            if !self.pieces.done(copied, false) {
                return Err(CopyError::Stopped);
            }
            if self.env.should_yield() {
                self.env.yield_now().await;
            }
            at = end;
        }
        chain.end().map_err(|(byte, what)| corrupt(path, byte, what))?;
        self.pieces.done(taken_over, true);
        Ok(())
    }
}

fn corrupt(path: &str, byte: u64, what: Wrong) -> CopyError {
    CopyError::Source(Error::Corrupt { file: path.to_owned(), byte, what })
}

fn read_error(op: &'static str, path: &str, at: u64, source: std::io::Error) -> CopyError {
    CopyError::Source(Error::Io { op, file: path.to_owned(), at, source })
}

/// Checks a segment that comes in pieces, each a multiple of [`BLOCK_BYTES`] long.
struct Chain {
    recorded: Recorded,
    walk: Walk,
    /// How much of the file has come.
    at: u64,
    /// The block or footer that has come in part.
    partial: Option<Partial>,
    /// The checksum of the footer.
    footer: Option<u32>,
}

struct Partial {
    head: Head,
    hasher: Hasher,
    left: usize,
}

impl Chain {
    fn new(recorded: Recorded) -> Self {
        let walk = Walk::start(&recorded.identity);
        Self { recorded, walk, at: 0, partial: None, footer: None }
    }

    fn take(&mut self, mut piece: &[u8]) -> Result<(), (u64, Wrong)> {
        debug_assert!(piece.len().is_multiple_of(BLOCK_BYTES));
        while !piece.is_empty() {
            let taken = self.take_some(piece)?;
            self.at += taken as u64;
            piece = piece.get(taken..).unwrap_or_default();
        }
        Ok(())
    }

    /// Goes to the end of the structure at the front of `piece`, or of `piece`; returns how far that is.
    fn take_some(&mut self, piece: &[u8]) -> Result<usize, (u64, Wrong)> {
        let at = self.at;
        if at == 0 {
            let (identity, chain) = decode_header(piece).map_err(|what| (0, what))?;
            if (identity, chain) != (self.recorded.identity, self.walk.chain) {
                return Err((0, "the header is that of another segment"));
            }
            return Ok(BLOCK_BYTES);
        }
        let (mut partial, from) = if let Some(partial) = self.partial.take() {
            (partial, 0)
        } else {
            if self.footer.is_some() {
                return Err((at, "something stands behind the footer"));
            }
            let head = Head::decode(piece, self.recorded.identity.file_id, at);
            let head = head.map_err(|what| (at, what))?;
            let (covered, _crc) = piece.split_at(HEAD_BYTES - 4);
            let mut hasher = Hasher::new();
            hasher.update(covered);
            (Partial { head, hasher, left: head.bytes() - HEAD_BYTES }, HEAD_BYTES)
        };
        let begins_at = partial.head.at;
        let now = piece.get(from..).unwrap_or_default();
        let now = now.get(..partial.left).unwrap_or(now);
        partial.hasher.update(now);
        partial.left -= now.len();
        let taken = from + now.len();
        if partial.left > 0 {
            self.partial = Some(partial);
            return Ok(taken);
        }
        let Partial { head, hasher, .. } = partial;
        if hasher.finalize() != head.crc {
            return Err((begins_at, "the block does not match its checksum"));
        }
        match head.kind {
            Kind::Block => self.walk.step(&head).map_err(|what| (begins_at, what))?,
            Kind::Footer if head.chain_before != self.walk.chain || head.first != self.walk.end => {
                return Err((begins_at, "the footer does not follow the last block"));
            }
            Kind::Footer => self.footer = Some(head.crc),
        }
        Ok(taken)
    }

    /// All has come: it must be what was recorded.
    fn end(self) -> Result<(), (u64, Wrong)> {
        let SegmentState { end, chain, sealed, last_at, .. } = self.recorded.state;
        let whole = self.partial.is_none() && self.walk.end == end;
        let last = if sealed { self.footer } else { Some(self.walk.chain) };
        if whole && last == Some(chain) {
            Ok(())
        } else {
            Err((last_at, "the blocks are not those the fold recorded"))
        }
    }
}

#[cfg(test)]
mod tests;
