//! An open journal, as the shard sees it.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;

use super::chain::{Bounds, Chain};
use super::group::{Assembler, encoded_bytes};
use super::queue::{Position, Queue};
use super::retention::Retention;
use super::shared::{Room, Shared, State};
use super::slots::{self, Slot};
use super::source::DiskSource;
use super::wake::{Bell, Waits};
use super::{
    Admission, CleanEnd, Counts, Entry, EntryRef, Error, JournalFile, Options, Recovered, Retain,
    Ticket, keeper, list_slots, writer,
};
use crate::env::{Class, Env};
use crate::types::{Index, PartitionId};

/// An open journal. Clones are handles to the same one; it stays on its shard. When the last one is
/// dropped without [`Journal::close`], it stops as in a crash; but to recover it in the same process,
/// close it first, so that no write is under way.
#[derive(Clone, Debug)]
pub struct Journal {
    handle: Rc<Handle>,
}

struct Handle {
    shared: Rc<Shared>,
}

impl std::fmt::Debug for Handle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Handle").field("id", &self.shared.options.id).finish_non_exhaustive()
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.state.borrow_mut().abandoned = true;
        self.shared.wake_everyone();
    }
}

impl Journal {
    /// Makes a new, empty journal. Its first file is pre-written and durable, name included, when this
    /// returns; then the manifest can name the journal, from [`JournalFile::FIRST`] on. Leftovers of an
    /// earlier creation under this name are removed.
    ///
    /// # Errors
    /// `DiskFull`, `Io`.
    pub async fn create(
        env: &Env,
        options: Options,
        retain: Rc<dyn Retain>,
    ) -> Result<Self, Error> {
        options.check();
        slots::make_dir(env).await?;
        slots::remove(env, options.id).await?;
        let (id, file_bytes) = (options.id, options.file_bytes);
        let mut slot = slots::allocate(env, id, JournalFile::FIRST.slot, file_bytes).await?;
        slots::prewrite(&slot, file_bytes).await?;
        slot.prepared = true;
        let second = slots::allocate(env, id, slot.number + 1, file_bytes).await?;
        let start = Start {
            end: CleanEnd { file: JournalFile::FIRST, byte: 0, sequence: 1, crc: 0 },
            first: JournalFile::FIRST,
            content: 0,
            proof: 0,
            retention: Retention::default(),
            files: BTreeMap::from([(JournalFile::FIRST.number, slot)]),
            spares: VecDeque::from([second]),
        };
        Ok(Self::start(env, options, start, retain))
    }

    /// Goes on where recovery ended; keeps the size of the files that are there. A full disk is no
    /// error: what cannot be kept as a spare file is given back.
    ///
    /// # Errors
    /// `Corrupt`, `Io`.
    pub async fn resume(
        env: &Env,
        mut options: Options,
        recovered: Recovered,
        retain: Rc<dyn Retain>,
    ) -> Result<Self, Error> {
        let Recovered { end, last, files: retained, retention, .. } = recovered;
        if let Some(last) = last {
            options.file_bytes = last.file_bytes;
            options.frame_bytes_max = options.frame_bytes_max.min(last.file_bytes);
            options.bytes_max = options.bytes_max.max(4 * u64::from(last.file_bytes));
        }
        options.check();
        let (id, file_bytes) = (options.id, options.file_bytes);
        let mut files = BTreeMap::new();
        for file in &retained {
            files.insert(file.number, slots::open(env, id, file.slot).await?);
        }
        let number = end.file.number;
        if end.byte > 0 {
            let slot = last.map_or(0, |last| last.next_slot);
            let next = slots::open(env, id, slot).await?;
            files.insert(super::FileNumber(number.0 + 1), next);
        }
        // Files without frames may never have been pre-written to their end.
        for (file, slot) in &mut files {
            if *file > number || *file == number && end.byte == 0 {
                if slots::len(slot)? < u64::from(file_bytes) {
                    let file = JournalFile { number: *file, slot: slot.number };
                    return Err(Error::corrupt(
                        id,
                        file,
                        slots::len(slot)?,
                        "the file is cut short",
                    ));
                }
                slot.prepared = slots::is_prepared(slot, file_bytes).await?;
            }
        }
        let used: BTreeSet<u32> = files.values().map(|slot| slot.number).collect();
        let mut spares = VecDeque::new();
        for number in list_slots(env, id).await? {
            if used.contains(&number) {
                continue;
            }
            // It was only found: neither its blocks nor its length nor its name need be durable.
            match slots::reserve(env, id, number, file_bytes).await {
                Ok(mut slot) => {
                    slot.prepared = slots::is_prepared(&slot, file_bytes).await?;
                    spares.push_back(slot);
                }
                Err(Error::DiskFull { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        slots::sync_names(env).await?;
        let start = Start {
            end,
            first: *retained.first().expect("recovery names at least the file of the end"),
            // An empty frame needs no proof, but those before it do if it does not give it.
            content: last.map_or(0, |last| last.sequence - u64::from(last.payload_bytes == 0)),
            proof: last.map_or(0, |last| last.durable_below),
            retention,
            files,
            spares,
        };
        Ok(Self::start(env, options, start, retain))
    }

    /// Queues entries and returns at once; after a crash, all of them are there or none. The entries
    /// of one partition come in the order of their indexes.
    ///
    /// # Errors
    /// `GroupTooLarge`, `Stopped`, `Closed`; then nothing was queued.
    pub fn append(&self, group: &[EntryRef<'_>]) -> Result<Ticket, Error> {
        let bytes = encoded_bytes(group);
        let bytes_max = u64::from(self.handle.shared.options.group_bytes_max);
        if bytes > bytes_max {
            return Err(Error::GroupTooLarge { bytes, bytes_max });
        }
        self.append_any(group)
    }

    fn append_any(&self, group: &[EntryRef<'_>]) -> Result<Ticket, Error> {
        let shared = &self.handle.shared;
        let mut state = shared.state.borrow_mut();
        state.check()?;
        if group.is_empty() {
            return Ok(state.appended);
        }
        let state = &mut *state;
        let ticket = Ticket(state.appended.0 + 1);
        state.appended = ticket;
        state.counts.groups += 1;
        state.counts.entries += group.len() as u64;
        let file = state.queue.append(group, ticket);
        for entry in group {
            let (partition, index, len) = (entry.partition, entry.index, entry.bytes.len());
            state.retention.note(file, partition, index, len, ticket);
        }
        shared.writer.ring();
        Ok(ticket)
    }

    /// Until [`Journal::release`], no frame claims that the last group appended is durable for good: it
    /// names bytes outside the journal that are still being written. Its own durability, and whoever waits
    /// for it, are not held up. Call before anything else awaits.
    pub fn hold(&self, ticket: Ticket) {
        let mut state = self.handle.shared.state.borrow_mut();
        if state.check().is_err() {
            return;
        }
        assert_eq!(ticket, state.appended, "a group is held before it can be written");
        state.held.insert(ticket, None);
    }

    /// What the group names is durable, wherever it lies. Never called if that failed: the shard ends then.
    pub fn release(&self, ticket: Ticket) {
        let shared = &self.handle.shared;
        shared.state.borrow_mut().held.remove(&ticket);
        shared.writer.ring();
        shared.ended.ring();
    }

    /// Waits until no group is held, or the journal has stopped.
    pub async fn released(&self) {
        let shared = &self.handle.shared;
        let free = || {
            let state = shared.state.borrow();
            (state.held.is_empty() || state.failed.is_some()).then_some(())
        };
        shared.ended.until(free).await;
    }

    /// Waits until entries of `bytes` in all can be appended: files are retained up to `bytes_max`
    /// less a reserve, the space is allocated, and the queue is short. Append right after, without
    /// another await between, since nothing is set aside. `System` never waits. Dropping the future
    /// leaves nothing behind.
    ///
    /// # Errors
    /// `DiskFull` if more space is needed and cannot be allocated, for `Client`; allocation is tried
    /// again in the background. `GroupTooLarge`, `Stopped`, `Closed`.
    pub async fn admit(&self, bytes: usize, who: Admission) -> Result<(), Error> {
        let shared = &self.handle.shared;
        let options = &shared.options;
        // Headers, and the padding of frames.
        let bytes = bytes as u64 + bytes as u64 / 32 + 4096;
        let limit = options.bytes_max - options.reserve_bytes();
        let bytes_max = limit.min(u64::from(options.group_bytes_max));
        if who == Admission::Client && bytes > bytes_max {
            return Err(Error::GroupTooLarge { bytes, bytes_max });
        }
        shared
            .room
            .until(Ticket(0), || {
                let mut state = shared.state.borrow_mut();
                if let Err(error) = state.check() {
                    return Some(Err(error));
                }
                if who == Admission::System {
                    return Some(Ok(()));
                }
                match state.room(bytes, options) {
                    Room::Enough => Some(Ok(())),
                    Room::Full => None,
                    Room::NotAllocated => {
                        state.demand = state.demand.max(bytes);
                        let full = state.disk_full;
                        drop(state);
                        shared.keeper.ring();
                        full.then_some(Err(Error::DiskFull { bytes }))
                    }
                }
            })
            .await
    }

    /// Every group up to this ticket survives a crash.
    #[must_use]
    pub fn durable(&self) -> Ticket {
        self.handle.shared.state.borrow().durable
    }

    /// Waits until `ticket` is durable. Dropping the future leaves nothing behind.
    ///
    /// # Errors
    /// `Stopped`: whether the group survives is unknown until recovery. `Closed`: it was closed before
    /// there was such a ticket.
    pub async fn wait(&self, ticket: Ticket) -> Result<(), Error> {
        let shared = &self.handle.shared;
        shared
            .durable
            .until(ticket, || {
                let state = shared.state.borrow();
                if ticket <= state.durable {
                    return Some(Ok(()));
                }
                if let Some(cause) = &state.failed {
                    return Some(Err(cause.stopped()));
                }
                state.writer_ended.then_some(Err(Error::Closed))
            })
            .await
    }

    /// Waits until more than `beyond` is durable; returns how far it is.
    ///
    /// # Errors
    /// As [`Journal::wait`].
    pub async fn advanced(&self, beyond: Ticket) -> Result<Ticket, Error> {
        self.wait(Ticket(beyond.0 + 1)).await?;
        Ok(self.durable())
    }

    /// Entries of `partition` up to `index` are contained in a synced root and synced segments,
    /// except those at `pending`. Replaces what was said about the partition before. Files that
    /// nothing needs any more are recycled in the background.
    pub fn covered(&self, partition: PartitionId, index: Index, pending: &[Index]) {
        let shared = &self.handle.shared;
        shared.state.borrow_mut().retention.cover(partition, index, pending);
        shared.keeper.ring();
    }

    /// Bytes of entries of `partition` in retained files that are not covered, about.
    #[must_use]
    pub fn share(&self, partition: PartitionId) -> u64 {
        self.handle.shared.state.borrow().retention.share(partition)
    }

    /// Bytes from the first retained file to the last append.
    #[must_use]
    pub fn used_bytes(&self) -> u64 {
        let shared = &self.handle.shared;
        shared.state.borrow().used(u64::from(shared.options.file_bytes))
    }

    /// What was done so far.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.handle.shared.state.borrow().counts
    }

    /// The limit on [`Journal::used_bytes`] for clients.
    #[must_use]
    pub fn bytes_max(&self) -> u64 {
        self.handle.shared.options.bytes_max - self.handle.shared.options.reserve_bytes()
    }

    /// The partitions whose entries keep the first retained file, in order of their numbers.
    #[must_use]
    pub fn holders(&self) -> Vec<PartitionId> {
        self.handle.shared.state.borrow().holders()
    }

    /// Appends again, with the same terms and indexes, what `partition` needs of the first retained
    /// file, so that the file can be recycled; returns how many bytes of entries that were, when they
    /// are durable. 0 if there was nothing to do, or the file is still being written. Meant for
    /// prepares and partitions that hold the tail ([`Journal::holders`]) of a journal more than half
    /// full. Dropping the future leaves at most superfluous copies behind.
    ///
    /// Only entries at indexes that are `wanted` are copied. That is asked again at the moment of the
    /// append, so that an entry does not come after another one that made it superfluous.
    ///
    /// # Errors
    /// `Io` and `Corrupt` from reading, `Stopped`, `Closed`.
    pub async fn copy_forward(
        &self,
        partition: PartitionId,
        wanted: impl Fn(Index) -> bool,
    ) -> Result<u64, Error> {
        let shared = &self.handle.shared;
        let _pin = Pin::new(shared);
        shared.ended.until(|| (!shared.state.borrow().advancing).then_some(())).await;
        let first = {
            let state = shared.state.borrow();
            state.check()?;
            if state.first.number >= state.durable_file {
                return Ok(0);
            }
            state.first
        };
        let options = &shared.options;
        let bounds =
            Bounds { id: options.id, first, run_max: options.run, clean_end: None, live: false };
        let mut chain = Chain::new(DiskSource::new(shared.env.clone(), options.id), bounds);
        let mut assembler = Assembler::new(options.id);
        let mut groups = VecDeque::new();
        let mut batch: Vec<Entry> = Vec::new();
        let (mut batch_bytes, mut copied_bytes) = (0, 0);
        let mut ticket = Ticket(0);
        let mut more = true;
        while more {
            // Only durable frames are read: what comes after them is being written.
            let durable_below = shared.state.borrow().durable_below;
            let next = chain.last().map_or(0, |last| last.sequence + 1);
            let frame = if next < durable_below { chain.next().await? } else { None };
            match frame {
                Some((header, payload)) => {
                    assembler.push(&header, payload, &mut groups)?;
                    more = header.file == first || assembler.is_open();
                }
                None => more = false,
            }
            for group in groups.drain(..).filter(|group| group.file == first) {
                let state = shared.state.borrow();
                let needed = group.entries.into_iter().filter(|entry| {
                    entry.partition == partition
                        && wanted(entry.index)
                        && state.retention.needs_entry(
                            first.number,
                            partition,
                            entry.index,
                            state.durable,
                        )
                });
                for entry in needed {
                    batch_bytes += entry.bytes.len();
                    batch.push(entry);
                }
            }
            if batch_bytes >= COPY_BYTES || !more && !batch.is_empty() {
                batch.retain(|entry| wanted(entry.index));
                let group: Vec<EntryRef<'_>> = batch.iter().map(Entry::borrowed).collect();
                // It was admitted once; what a group may hold can have become less since.
                ticket = self.append_any(&group)?;
                copied_bytes += encoded_bytes(&group);
                batch.clear();
                batch_bytes = 0;
                // Copies never queue up.
                self.wait(ticket).await?;
            }
        }
        self.wait(ticket).await?;
        Ok(copied_bytes)
    }

    /// Why the journal stopped, if it did.
    #[must_use]
    pub fn failed(&self) -> Option<Error> {
        self.handle.shared.state.borrow().failed.clone()
    }

    /// Resolves when the journal has stopped, with the cause. Never, if it does not.
    pub async fn stopped(&self) -> Error {
        let shared = &self.handle.shared;
        shared.ended.until(|| shared.state.borrow().failed.clone()).await
    }

    /// Writes a closing frame now if the last acknowledgements are not proved by a later frame and
    /// nothing is under way. Happens by itself after [`Options::seal_idle_after`]; a shard about to
    /// park can hurry it.
    pub fn seal_idle(&self) {
        self.handle.shared.state.borrow_mut().seal_now = true;
        self.handle.shared.writer.ring();
    }

    /// Waits until everything appended is durable, and ends the journal: appends fail from now on. The
    /// caller puts the end into the manifest. When this returned, even with an error, no read, write or
    /// advance of this journal is under way.
    ///
    /// # Errors
    /// `Stopped`.
    pub async fn close(&self) -> Result<CleanEnd, Error> {
        let shared = &self.handle.shared;
        shared.state.borrow_mut().closing = true;
        shared.wake_everyone();
        shared
            .ended
            .until(|| {
                let state = shared.state.borrow();
                (state.writer_ended && state.keeper_ended).then_some(())
            })
            .await;
        let state = shared.state.borrow();
        if let Some(cause) = &state.failed {
            return Err(cause.stopped());
        }
        let Position { file: number, byte } = state.queue.end();
        let slot = state.files.get(&number).map_or(0, |slot| slot.number);
        Ok(CleanEnd {
            file: JournalFile { number, slot },
            byte: u64::from(byte),
            sequence: state.sequence,
            crc: state.previous_crc,
        })
    }

    fn start(env: &Env, options: Options, start: Start, retain: Rc<dyn Retain>) -> Self {
        let Start { end, first, content, proof, retention, files, spares } = start;
        let byte = u32::try_from(end.byte).expect("a file is at most 1 GiB");
        let at = Position { file: end.file.number, byte };
        let state = State {
            failed: None,
            closing: false,
            abandoned: false,
            writer_ended: false,
            keeper_ended: false,
            queue: Queue::new(options.file_bytes, options.frame_bytes_max, at),
            retention,
            appended: Ticket(0),
            durable: Ticket(0),
            sequence: end.sequence,
            previous_crc: end.crc,
            flights: VecDeque::new(),
            durable_below: end.sequence,
            durable_file: durable_file(&end),
            content,
            proof,
            seal_now: false,
            held: BTreeMap::new(),
            files,
            first,
            advancing: false,
            spares,
            demand: 0,
            disk_full: false,
            counts: Counts::default(),
        };
        let shared = Rc::new(Shared {
            env: env.clone(),
            options,
            retain,
            state: RefCell::new(state),
            durable: Waits::default(),
            room: Waits::default(),
            writer: Bell::default(),
            keeper: Bell::default(),
            ended: Bell::default(),
            pins: Cell::new(0),
        });
        env.spawn(Class::Core, "journal writer", writer::run(Rc::clone(&shared)));
        env.spawn(Class::Background, "journal keeper", keeper::run(Rc::clone(&shared)));
        Self { handle: Rc::new(Handle { shared }) }
    }
}

/// So many bytes are copied forward in one group.
const COPY_BYTES: usize = 1 << 20;

/// What a journal starts with.
struct Start {
    end: CleanEnd,
    first: JournalFile,
    content: u64,
    proof: u64,
    retention: Retention,
    files: BTreeMap<super::FileNumber, Slot>,
    spares: VecDeque<Slot>,
}

/// The file of the last frame before `end`.
fn durable_file(end: &CleanEnd) -> super::FileNumber {
    let number = end.file.number.0;
    super::FileNumber(if end.byte == 0 { number.saturating_sub(1) } else { number })
}

/// Keeps files from being recycled while they are read.
struct Pin<'a>(&'a Shared);

impl<'a> Pin<'a> {
    fn new(shared: &'a Shared) -> Self {
        shared.pins.set(shared.pins.get() + 1);
        Self(shared)
    }
}

impl Drop for Pin<'_> {
    fn drop(&mut self) {
        self.0.pins.set(self.0.pins.get() - 1);
        self.0.keeper.ring();
    }
}
