//! What the journal promises, on the memory disk.

use std::cell::RefCell;
use std::rc::Rc;

use super::*;
use crate::env::LocalFuture;
use crate::env::memory::{MemoryDisk, run};
use crate::types::{Index, PartitionId, Term};

mod basic;
mod chaos;
mod chaos_disk;
mod damage;
mod format;
mod space;

const ID: JournalId = JournalId(7);

/// Remembers what a manifest would.
#[derive(Debug)]
struct Memo(RefCell<JournalFile>);

impl Memo {
    fn new() -> Rc<Self> {
        Rc::new(Self(RefCell::new(JournalFile::FIRST)))
    }

    fn first(&self) -> JournalFile {
        *self.0.borrow()
    }
}

impl Retain for Memo {
    fn advance(&self, id: JournalId, first: JournalFile) -> LocalFuture<'_, Result<(), Error>> {
        assert_eq!(id, ID);
        assert!(first.number > self.first().number);
        *self.0.borrow_mut() = first;
        Box::pin(std::future::ready(Ok(())))
    }
}

fn options(run: u64) -> Options {
    Options {
        file_bytes: 64 << 10,
        bytes_max: 512 << 10,
        frame_bytes_max: 16 << 10,
        ..Options::new(ID, Run(run))
    }
}

fn entry(partition: u32, index: u64, bytes: &[u8]) -> EntryRef<'_> {
    EntryRef {
        partition: PartitionId(partition),
        term: Term(1),
        index: Index(index),
        kind: Kind::Append,
        bytes,
    }
}

/// Everything that recovery finds, and what it says at the end.
async fn recover(
    env: &Env,
    memo: &Memo,
    run: u64,
    end: Option<CleanEnd>,
) -> Result<(Vec<Group>, Recovered), Error> {
    let mut recovery = Recovery::open(env, ID, memo.first(), Run(run), end).await?;
    let mut groups = Vec::new();
    while let Some(group) = recovery.next().await? {
        groups.push(group);
    }
    Ok((groups, recovery.finish().await?))
}

fn flat(groups: &[Group]) -> Vec<(u32, u64, Vec<u8>)> {
    let entries = groups.iter().flat_map(|group| &group.entries);
    entries.map(|e| (e.partition.0, e.index.0, e.bytes.to_vec())).collect()
}
