//! The files behind a journal: making, preparing and removing them.

use std::io;
use std::rc::Rc;

use super::{DIR, Error, JournalId, list_slots, slot_path};
use crate::env::{BLOCK_BYTES, Buf, Env, File, Open, Sync, read_full, write_full};
use crate::probe::{Plant, planted};

/// Zeros are written in steps this large, so that nothing in the foreground waits long behind one.
const STEP_BYTES: usize = 256 << 10;

/// Ends a file that was pre-written to its last block and never used since.
const PREPARED: [u8; 4] = *b"TMJZ";

/// A file that a journal may use.
#[derive(Clone)]
pub(super) struct Slot {
    pub(super) number: u32,
    pub(super) file: Rc<dyn File>,
    /// It was pre-written.
    pub(super) prepared: bool,
}

impl std::fmt::Debug for Slot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { number, prepared, .. } = self;
        f.debug_struct("Slot").field("number", number).field("prepared", prepared).finish()
    }
}

/// Makes the directory of all journals, durably.
pub(super) async fn make_dir(env: &Env) -> Result<(), Error> {
    env.disk().create_dir(DIR).await.map_err(|e| Error::io("create", DIR, 0, e))?;
    sync_dir(env, ".").await
}

/// Makes a file with all its blocks reserved; durable, with its name, when it returns.
///
/// # Errors
/// `DiskFull`, and then nothing is left behind; `Io`.
pub(super) async fn allocate(
    env: &Env,
    id: JournalId,
    number: u32,
    bytes: u32,
) -> Result<Slot, Error> {
    let slot = reserve(env, id, number, bytes).await?;
    sync_names(env).await?;
    Ok(slot)
}

/// As [`allocate`], for a file that may exist; its name is not made durable.
pub(super) async fn reserve(
    env: &Env,
    id: JournalId,
    number: u32,
    bytes: u32,
) -> Result<Slot, Error> {
    let path = slot_path(id, number);
    let failed = |op, error| Error::io(op, &path, 0, error);
    let len = u64::from(bytes);
    let result = match env.disk().open(&path, Open::Any).await {
        Ok(file) => file.allocate(len).await.map(|()| file),
        Err(error) => Err(error),
    };
    let file = match result {
        Ok(file) => file,
        Err(error) if is_full(&error) => {
            match env.disk().remove(&path).await {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(failed("remove", error)),
            }
            return Err(Error::DiskFull { bytes: len });
        }
        Err(error) => return Err(failed("allocate", error)),
    };
    if file.len().map_err(|e| failed("measure", e))? > len {
        file.truncate(len).await.map_err(|e| failed("truncate", e))?;
    }
    file.sync().await.map_err(|e| failed("sync", e))?;
    Ok(Slot { number, file, prepared: false })
}

/// Opens a file that must exist.
pub(super) async fn open(env: &Env, id: JournalId, number: u32) -> Result<Slot, Error> {
    let path = slot_path(id, number);
    let file = env.disk().open(&path, Open::Existing).await;
    let file = file.map_err(|e| Error::io("open", &path, 0, e))?;
    Ok(Slot { number, file, prepared: true })
}

/// Its length.
pub(super) fn len(slot: &Slot) -> Result<u64, Error> {
    slot.file.len().map_err(|e| Error::io("measure", slot.file.path(), 0, e))
}

/// Whether the file holds anything in its last block, which pre-writing fills last.
pub(super) async fn is_prepared(slot: &Slot, bytes: u32) -> Result<bool, Error> {
    let at = u64::from(bytes) - BLOCK_BYTES as u64;
    let (result, buf) = read_full(&*slot.file, at, Buf::zeroed(BLOCK_BYTES)).await;
    result.map_err(|e| Error::io("read", slot.file.path(), at, e))?;
    Ok(buf.iter().any(|&byte| byte != 0))
}

/// Overwrites the file with zeros, so that its blocks are no longer unwritten ones, which would halve
/// the throughput of durable writes. Nothing in it may be needed.
pub(super) async fn prewrite(slot: &Slot, bytes: u32) -> Result<(), Error> {
    let failed = |op, at, error| Error::io(op, slot.file.path(), at, error);
    let bytes = bytes as usize;
    let mut buf = Buf::zeroed(STEP_BYTES.min(bytes));
    let mut at = 0;
    while at < bytes {
        let len = STEP_BYTES.min(bytes - at);
        buf.set_len(len);
        if at + len == bytes {
            let marker = len - PREPARED.len();
            buf[marker..].copy_from_slice(&PREPARED);
        }
        let (result, back) = write_full(&*slot.file, at as u64, buf, Sync::No).await;
        result.map_err(|e| failed("write", at as u64, e))?;
        buf = back;
        at += len;
    }
    slot.file.sync().await.map_err(|e| failed("sync", 0, e))
}

/// Removes every file of a journal that the manifest does not name (any more).
///
/// # Errors
/// `Io`; calling it again goes on.
pub async fn remove(env: &Env, id: JournalId) -> Result<(), Error> {
    let slots = list_slots(env, id).await?;
    for slot in &slots {
        remove_slot(env, id, *slot).await?;
    }
    if slots.is_empty() { Ok(()) } else { sync_dir(env, DIR).await }
}

pub(super) async fn remove_slot(env: &Env, id: JournalId, number: u32) -> Result<(), Error> {
    let path = slot_path(id, number);
    env.disk().remove(&path).await.map_err(|e| Error::io("remove", &path, 0, e))
}

/// Makes the names of all journal files durable.
pub(super) async fn sync_names(env: &Env) -> Result<(), Error> {
    if planted(Plant::SkippedDirectorySync) { Ok(()) } else { sync_dir(env, DIR).await }
}

async fn sync_dir(env: &Env, dir: &str) -> Result<(), Error> {
    env.disk().sync_dir(dir).await.map_err(|e| Error::io("sync", dir, 0, e))
}

fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}
