//! Folds, and what ends a shard cleanly.

use std::rc::Rc;
use std::time::Duration;

use super::Shard;
use super::message::Closed;
use super::partition::{self, Frozen, Partition};
use crate::env::Class;
use crate::error::{Error, Result, chain};
use crate::journal::Ticket;
use crate::pstate;
use crate::types::PartitionId;

/// How often the shard looks whether something should be folded. A look costs a few comparisons per
/// partition; what it finds late by this much fits the other half of the bounds.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// The longest pause after a fold found no space.
const BACK_OFF_MAX: Duration = Duration::from_secs(1);

impl Shard {
    /// Folds the partition that needs it most, one after the other, for ever.
    pub(super) async fn run_folds(self: Rc<Self>) {
        let mut pause = LOOK_EVERY;
        let mut folded = false;
        loop {
            if std::mem::take(&mut folded) {
                self.until_fold_may_be_due(pause).await;
            } else {
                self.env.sleep(pause).await;
            }
            self.look_at_tails();
            self.relieve();
            self.trim_history();
            self.bound_history();
            match self.drop_left_over().await {
                Ok(()) => {}
                // There will be room later.
                Err(Error::DiskFull { .. }) => self.fold_ended(false),
                Err(_) => return,
            }
            while let Some(id) = self.fold_due() {
                let covered = self.partitions[&id].covers();
                match self.fold(id).await {
                    Ok(()) => {
                        folded = true;
                        self.fold_ended(true);
                        self.copy_what_is_in_doubt();
                        if self.partitions[&id].covers() == covered {
                            // What is not visible everywhere yet cannot be covered; doing it again at once
                            // would not help.
                            pause = (pause * 2).min(BACK_OFF_MAX);
                            break;
                        }
                        pause = LOOK_EVERY;
                    }
                    Err(Error::DiskFull { .. }) => {
                        pause = (pause * 2).min(BACK_OFF_MAX);
                        folded = false;
                        self.fold_ended(false);
                        break;
                    }
                    Err(_) => return,
                }
            }
            self.copy_what_is_in_doubt();
        }
    }

    /// When the journal is short of files, and its oldest one is held by prepares without an outcome, which
    /// no fold can let go of: writes them again, so that the file can be used again. They may wait as long
    /// as their topology is not launched, or another shard is down. A task of its own: on a full disk it
    /// waits for space, and folds must not.
    fn copy_what_is_in_doubt(self: &Rc<Self>) {
        if self.journal.used_bytes() <= self.setup.options.journal_bytes_max / 2
            || self.copying.replace(true)
        {
            return;
        }
        let shard = Rc::clone(self);
        self.env.spawn(Class::Background, "copy forward", async move {
            for id in shard.journal.holders() {
                let partition = &shard.partitions[&id];
                if !partition.holds_in_doubt() {
                    continue;
                }
                // Above what is covered, entries are replayed in order and not from a copy.
                let wanted = |index| index <= partition.covers() && partition.is_in_doubt(index);
                match shard.journal.copy_forward(id, wanted).await {
                    Ok(bytes) => shard.counters.borrow_mut().copied_bytes += bytes,
                    // A clean end, which needs no copies any more.
                    Err(crate::journal::Error::Closed) => return,
                    Err(error) => return shard.fail(&error),
                }
            }
            shard.copying.set(false);
        });
    }

    /// The partition whose overlay or share of the journal is largest, if a bound is half reached.
    fn fold_due(&self) -> Option<PartitionId> {
        let options = &self.setup.options;
        let dirty = || self.partitions.values().filter(|it| !it.folding.get() && it.is_dirty());
        let largest =
            || dirty().max_by_key(|it| it.overlay_bytes()).filter(|it| it.overlay_bytes() > 0);
        let overlays = self.foldable_bytes();
        if overlays > self.overlay_bytes_max()
            && let Some(largest) = largest()
        {
            // Appends and events wait for this, and a partition that holds the journal may be one that no
            // fold helps.
            return Some(largest.id);
        }
        if self.journal.used_bytes() > options.journal_bytes_max / 2 {
            // The first retained file is what the journal waits for.
            let holders = self.journal.holders();
            let held = dirty().filter(|it| holders.contains(&it.id));
            if let Some(held) = held.max_by_key(|it| self.journal.share(it.id)) {
                return Some(held.id);
            }
        }
        let share_max = options.journal_bytes_max / 2 / (self.partitions.len().max(1) as u64);
        if overlays > self.overlay_bytes_max() / 2
            && let Some(largest) = largest()
        {
            return Some(largest.id);
        }
        let heaviest = dirty().max_by_key(|it| self.journal.share(it.id))?;
        (self.journal.share(heaviest.id) > share_max).then_some(heaviest.id)
    }

    /// Folds one partition; afterwards the journal can forget what it covers.
    ///
    /// # Errors
    /// `DiskFull` loses nothing. After any other the shard has stopped.
    pub(crate) async fn fold(&self, id: PartitionId) -> Result<()> {
        let partition = Rc::clone(self.partition(id)?);
        while partition.folding.replace(true) {
            self.env.sleep(LOOK_EVERY).await;
        }
        // Whoever folded meanwhile may have left nothing to do. A root that covers no more than the one before is
        // not written: after a crash that tears it, nothing in the journal shows that it was no damage.
        let result =
            if partition.is_dirty() { self.fold_claimed(&partition).await } else { Ok(()) };
        partition.folding.set(false);
        result
    }

    async fn fold_claimed(&self, partition: &Partition) -> Result<()> {
        // What takes its place while this waits is not covered: it may not be durable.
        let through = partition.last();
        self.settle().await?;
        let frozen = partition.freeze(through, self.wanted(), |it| self.trim(it)).await;
        let frozen = frozen.map_err(|error| self.fold_error(&error))?;
        self.fold_rest(partition, frozen).await
    }

    /// Folds what was frozen; afterwards the journal can forget what it covers.
    pub(super) async fn fold_rest(&self, partition: &Partition, frozen: Frozen) -> Result<()> {
        let folded = partition.fold_frozen(frozen).await;
        let folded = folded.map_err(|error| self.fold_error(&error))?;
        self.journal.covered(partition.id, folded.covers, &folded.pending);
        self.counters.borrow_mut().folds += 1;
        Ok(())
    }

    /// What an error of a fold means: the shard stops, unless there was no space.
    pub(super) fn fold_error(&self, error: &partition::Error) -> Error {
        if no_space(error) {
            Error::DiskFull { what: chain(error) }
        } else {
            self.stopped_by(error)
        }
    }

    /// Waits until everything that was journalled so far is durable and was released.
    pub(super) async fn settle(&self) -> Result<()> {
        let last = self.logged.get();
        self.durable_through(last).await?;
        // The acknowledger releases in order; give it its turn.
        while self.acks.borrow().front().is_some_and(|(ticket, _)| *ticket <= last) {
            self.env.yield_now().await;
        }
        Ok(())
    }

    async fn durable_through(&self, ticket: Ticket) -> Result<()> {
        self.journal.wait(ticket).await.map_err(|error| self.stopped_by(&error))
    }

    /// Folds every partition with anything to fold.
    pub(super) async fn fold_all(&self) -> Result<()> {
        for partition in self.partitions.values() {
            self.fold_dirty(partition).await?;
        }
        Ok(())
    }

    async fn fold_dirty(&self, partition: &Partition) -> Result<()> {
        if partition.is_dirty() { self.fold(partition.id).await } else { Ok(()) }
    }

    /// A clean end: nothing new is accepted, everything is folded, the journal is closed.
    pub(super) async fn close(&self) -> Result<Closed> {
        self.closing.set(true);
        self.relieve();
        // What was taken before goes on, or it would be journalled behind the folds, or not at all.
        self.appends.drained().await;
        self.journal.released().await;
        self.fold_all().await?;
        let end = self.journal.close().await.map_err(|error| self.stopped_by(&error))?;
        Ok(Closed { journal: self.journal_id, end })
    }
}

pub(super) fn no_space(error: &partition::Error) -> bool {
    match error {
        partition::Error::PState { source, .. } => matches!(source, pstate::Error::NoSpace { .. }),
        partition::Error::Depot { source, .. } => {
            matches!(source, crate::depot::Error::NoSpace { .. })
        }
        partition::Error::Entry { .. } => false,
    }
}
