//! The task that keeps space ahead of the writer: gives up files that nothing needs, allocates and
//! pre-writes new ones.

use std::collections::BTreeSet;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use super::shared::{Shared, State};
use super::slots::{self, Slot};
use super::{Error, JournalFile, Options};
use crate::types::Time;

/// After a full disk, allocation is tried again after this long, then twice that, ...
const BACKOFF_MIN: Duration = Duration::from_millis(10);

/// ... up to this.
const BACKOFF_MAX: Duration = Duration::from_secs(1);

/// So much is prepared ahead of the writer, whatever the size of a file is, if the journal is not small:
/// what is written while a file is being prepared.
const AHEAD_BYTES: u64 = 12 << 20;

enum Chore {
    /// Make this the first retained file.
    Advance(JournalFile),
    /// Pre-write this one.
    Prewrite(Slot),
    /// Make this slot.
    Allocate(u32),
}

/// Runs until the writer has ended, or the journal was abandoned or failed.
pub(super) async fn run(shared: Rc<Shared>) {
    let mut backoff = BACKOFF_MIN;
    let mut not_before = None;
    while let Some(chore) = next_chore(&shared, &mut not_before).await {
        let result = match chore {
            Chore::Advance(first) => advance(&shared, first).await,
            Chore::Prewrite(slot) => prewrite(&shared, &slot).await,
            Chore::Allocate(number) => match allocate(&shared, number).await {
                Err(Error::DiskFull { .. }) => {
                    shared.state.borrow_mut().disk_full = true;
                    shared.room.wake_all();
                    not_before = Some(shared.env.now().after(backoff));
                    backoff = (backoff * 2).min(BACKOFF_MAX);
                    Ok(())
                }
                result => {
                    backoff = BACKOFF_MIN;
                    result
                }
            },
        };
        if let Err(error) = result {
            shared.fail(error);
        }
    }
    shared.state.borrow_mut().keeper_ended = true;
    shared.ended.ring();
}

/// Waits for something to do; `None` when the task should end. Allocates nothing before `not_before`.
async fn next_chore(shared: &Shared, not_before: &mut Option<Time>) -> Option<Chore> {
    let mut timer = None;
    poll_fn(|context| {
        shared.keeper.listen(context);
        if not_before.is_some_and(|time| time <= shared.env.now()) {
            *not_before = None;
        }
        let mut state = shared.state.borrow_mut();
        if state.keeper_should_end() {
            return Poll::Ready(None);
        }
        let may_advance = shared.pins.get() == 0;
        let chore = state.chore(&shared.options, may_advance, not_before.is_none());
        drop(state);
        if chore.is_some() {
            return Poll::Ready(chore);
        }
        let Some(time) = *not_before else { return Poll::Pending };
        let sleep = timer.get_or_insert_with(|| shared.env.sleep(time.since(shared.env.now())));
        if sleep.as_mut().poll(context).is_ready() {
            timer = None;
            *not_before = None;
            context.waker().wake_by_ref();
        }
        Poll::Pending
    })
    .await
}

impl State {
    fn keeper_should_end(&self) -> bool {
        self.abandoned || self.failed.is_some() || self.closing && self.writer_ended
    }

    /// Whether the writer comes close enough to the end of what is allocated.
    pub(super) fn wants_file(&self, options: &Options) -> bool {
        let file_bytes = u64::from(options.file_bytes);
        let ahead = (self.demand + file_bytes / 2).max(file_bytes / 4 * 3);
        let ahead = ahead.max(AHEAD_BYTES.min(options.bytes_max / 8));
        self.wanted(ahead, file_bytes) > self.allocated(file_bytes)
    }

    fn chore(&mut self, options: &Options, may_advance: bool, may_allocate: bool) -> Option<Chore> {
        self.counts.chores += 1;
        if may_advance {
            let number = self.needed_from();
            if number > self.first.number {
                let slot = self.files.get(&number).expect("a durable frame lies in it").number;
                return Some(Chore::Advance(JournalFile { number, slot }));
            }
        }
        let mut slots = self.files.values().chain(&self.spares);
        if let Some(slot) = slots.find(|slot| !slot.prepared) {
            return Some(Chore::Prewrite(slot.clone()));
        }
        if !self.wants_file(options) {
            self.demand = 0;
            self.disk_full = false;
            return None;
        }
        // How much clients queue and demand is bounded by what they are admitted to retain, so this
        // needs no limit of its own.
        if !may_allocate {
            return None;
        }
        let used: BTreeSet<u32> =
            self.files.values().chain(&self.spares).map(|slot| slot.number).collect();
        let free = used.iter().zip(0..).find(|(used, number)| *used != number);
        let count = u32::try_from(used.len()).expect("slots are numbered by 32 bits");
        Some(Chore::Allocate(free.map_or(count, |(_, number)| number)))
    }
}

async fn advance(shared: &Shared, first: JournalFile) -> Result<(), Error> {
    shared.state.borrow_mut().advancing = true;
    let result = shared.retain.advance(shared.options.id, first).await;
    let mut state = shared.state.borrow_mut();
    state.advancing = false;
    result?;
    let kept = state.files.split_off(&first.number);
    let free = std::mem::replace(&mut state.files, kept);
    state.spares.extend(free.into_values());
    state.first = first;
    state.retention.drop_before(first.number);
    drop(state);
    shared.ended.ring();
    shared.room.wake_all();
    shared.writer.ring();
    Ok(())
}

async fn prewrite(shared: &Shared, slot: &Slot) -> Result<(), Error> {
    slots::prewrite(slot, shared.options.file_bytes).await?;
    let mut state = shared.state.borrow_mut();
    let State { files, spares, .. } = &mut *state;
    for known in files.values_mut().chain(spares) {
        known.prepared |= known.number == slot.number;
    }
    drop(state);
    shared.room.wake_all();
    shared.writer.ring();
    Ok(())
}

async fn allocate(shared: &Shared, number: u32) -> Result<(), Error> {
    let options = &shared.options;
    let slot = slots::allocate(&shared.env, options.id, number, options.file_bytes).await?;
    let mut state = shared.state.borrow_mut();
    state.spares.push_back(slot);
    drop(state);
    shared.room.wake_all();
    shared.writer.ring();
    Ok(())
}
