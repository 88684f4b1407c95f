//! Where a chain's bytes come from: files read ahead in large steps, or memory.

use std::collections::BTreeMap;
use std::rc::Rc;

use futures_util::StreamExt;
use futures_util::stream::FuturesOrdered;

use super::chain::Source;
use super::{Error, JournalId, parse_slot, slot_path};
use crate::env::{Buf, Env, File, IO_BYTES_MAX, LocalFuture, read_full};

/// So many reads of [`IO_BYTES_MAX`] are under way.
const READS_AHEAD: usize = 3;

/// The first read of a file: often its first frame is all that is wanted.
const FIRST_READ_BYTES: usize = 64 << 10;

/// Journal files on disk, read once from front to back. Holds a few MiB, whatever their size.
pub(super) struct DiskSource {
    env: Env,
    id: JournalId,
    file: Option<Rc<dyn File>>,
    len: u64,
    /// Bytes of the file from `window_at` on.
    window: Vec<u8>,
    window_at: u64,
    ahead: FuturesOrdered<LocalFuture<'static, (std::io::Result<()>, Buf)>>,
    /// Where the next read starts.
    read_at: u64,
}

impl std::fmt::Debug for DiskSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DiskSource").field("id", &self.id).finish_non_exhaustive()
    }
}

impl DiskSource {
    pub(super) fn new(env: Env, id: JournalId) -> Self {
        let ahead = FuturesOrdered::new();
        Self { env, id, file: None, len: 0, window: Vec::new(), window_at: 0, ahead, read_at: 0 }
    }

    /// Forgets what was read and starts anew at `at`.
    fn jump(&mut self, at: u64) {
        self.window.clear();
        self.window_at = at;
        self.ahead.clear();
        self.read_at = at;
    }

    fn read_ahead(&mut self) {
        let Some(file) = &self.file else { return };
        while self.ahead.len() < READS_AHEAD && self.read_at < self.len {
            let rest = usize::try_from(self.len - self.read_at).unwrap_or(usize::MAX);
            let first = self.read_at == 0;
            let buf = Buf::zeroed(rest.min(if first { FIRST_READ_BYTES } else { IO_BYTES_MAX }));
            let (file, at) = (Rc::clone(file), self.read_at);
            self.read_at += buf.len() as u64;
            self.ahead.push_back(Box::pin(async move { read_full(&*file, at, buf).await }));
            if first {
                return;
            }
        }
    }
}

impl Source for DiskSource {
    async fn open(&mut self, slot: u32) -> Result<Option<u64>, Error> {
        let path = slot_path(self.id, slot);
        self.jump(0);
        self.file = None;
        match self.env.disk().open(&path, crate::env::Open::Existing).await {
            Ok(file) => {
                let len = file.len().map_err(|e| Error::io("measure", &path, 0, e))?;
                self.len = len - len % crate::env::BLOCK_BYTES as u64;
                self.file = Some(file);
                Ok(Some(len))
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Error::io("open", &path, 0, error)),
        }
    }

    async fn bytes(&mut self, at: u64, len: usize) -> Result<&[u8], Error> {
        let end = self.window_at + self.window.len() as u64;
        if at < self.window_at || end < at {
            self.jump(at);
        }
        let mut skip = usize::try_from(at - self.window_at).expect("within the window");
        if skip >= IO_BYTES_MAX {
            self.window.drain(..skip);
            self.window_at = at;
            skip = 0;
        }
        while self.window.len() < skip + len {
            self.read_ahead();
            let read_from = self.window_at + self.window.len() as u64;
            let path = self.file.as_ref().map_or("", |file| file.path());
            let Some((result, buf)) = self.ahead.next().await else {
                let error = std::io::ErrorKind::UnexpectedEof.into();
                return Err(Error::io("read", path, read_from, error));
            };
            result.map_err(|e| Error::io("read", path, read_from, e))?;
            self.window.extend_from_slice(&buf);
        }
        if at + len as u64 > FIRST_READ_BYTES as u64 / 2 {
            self.read_ahead();
        }
        Ok(&self.window[skip..skip + len])
    }

    async fn slots(&mut self) -> Result<Vec<u32>, Error> {
        list_slots(&self.env, self.id).await
    }
}

/// The slots of journal `id` that exist, sorted.
pub(super) async fn list_slots(env: &Env, id: JournalId) -> Result<Vec<u32>, Error> {
    let names =
        env.disk().list(super::DIR).await.map_err(|e| Error::io("list", super::DIR, 0, e))?;
    let mut slots: Vec<u32> = names
        .iter()
        .filter_map(|name| parse_slot(name))
        .filter(|(of, _)| *of == id)
        .map(|(_, slot)| slot)
        .collect();
    slots.sort_unstable();
    Ok(slots)
}

/// Journal files in memory, by slot.
#[derive(Debug)]
pub(super) struct SliceSource<'a> {
    files: &'a BTreeMap<u32, &'a [u8]>,
    id: JournalId,
    slot: u32,
    open: &'a [u8],
}

impl<'a> SliceSource<'a> {
    pub(super) fn new(files: &'a BTreeMap<u32, &'a [u8]>, id: JournalId) -> Self {
        Self { files, id, slot: 0, open: &[] }
    }
}

impl Source for SliceSource<'_> {
    async fn open(&mut self, slot: u32) -> Result<Option<u64>, Error> {
        let file = self.files.get(&slot);
        self.slot = slot;
        self.open = file.copied().unwrap_or_default();
        Ok(file.map(|bytes| bytes.len() as u64))
    }

    async fn bytes(&mut self, at: u64, len: usize) -> Result<&[u8], Error> {
        let from = usize::try_from(at).unwrap_or(usize::MAX);
        self.open.get(from..).and_then(|rest| rest.get(..len)).ok_or_else(|| {
            let error = std::io::ErrorKind::UnexpectedEof.into();
            Error::io("read", &slot_path(self.id, self.slot), at, error)
        })
    }

    async fn slots(&mut self) -> Result<Vec<u32>, Error> {
        Ok(self.files.keys().copied().collect())
    }
}
