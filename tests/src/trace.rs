//! What happened, in one number: a running hash over (time, who, event, detail). Two runs of one seed
//! are the same run if and only if their traces are equal. With the log switched on every event is
//! also kept as a line of text.

use std::cell::{Cell, RefCell};
use std::fmt;

use crate::random::mix;

/// What kind of thing happened; part of the hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A task was polled.
    Poll,
    /// A task was spawned.
    Spawn,
    /// An operation went to the disk.
    Submit,
    /// An operation came back.
    Complete,
    /// A fault was injected.
    Fault,
    /// A parcel was delivered to a shard.
    Deliver,
    /// A shard started, ended, was killed or paused.
    Shard,
    /// A process or machine crashed.
    Crash,
    /// What a scenario notes.
    Note,
}

/// The running hash and, if wanted, the log.
#[derive(Debug)]
pub struct Trace {
    hash: Cell<u64>,
    events: Cell<u64>,
    log: Option<RefCell<Vec<String>>>,
}

/// The last lines of the log that are kept; more would not be read anyway.
const LOG_LINES_MAX: usize = 400_000;

impl Trace {
    pub(crate) fn new(with_log: bool) -> Self {
        Self {
            hash: Cell::new(0),
            events: Cell::new(0),
            log: with_log.then(|| RefCell::new(Vec::new())),
        }
    }

    /// Adds an event; `text` is only asked if there is a log.
    pub(crate) fn add<T: fmt::Display>(
        &self,
        now: u64,
        who: u64,
        event: Event,
        detail: u64,
        text: impl FnOnce() -> T,
    ) {
        let hash = mix(self.hash.get() ^ now);
        let hash = mix(hash ^ (who << 8 | event as u64));
        self.hash.set(mix(hash ^ detail));
        self.events.set(self.events.get() + 1);
        if let Some(log) = &self.log {
            let line = format!("{:>9}.{:03} us  {event:?} {}", now / 1000, now % 1000, text());
            let mut log = log.borrow_mut();
            if log.len() < LOG_LINES_MAX {
                log.push(line);
            }
        }
    }

    /// The hash over everything so far.
    #[must_use]
    pub fn hash(&self) -> u64 {
        self.hash.get()
    }

    /// How many events there were.
    #[must_use]
    pub fn events(&self) -> u64 {
        self.events.get()
    }

    pub(crate) fn take_log(&self) -> Vec<String> {
        self.log.as_ref().map(RefCell::take).unwrap_or_default()
    }
}
