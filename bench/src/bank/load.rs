//! Drives transfers from one thread, which sleeps while there is nothing to do.
//!
//! A transfer is completed when its effects are durable and visible, so the rate cannot outrun the
//! topology. Transfers of one shard that start at the same moment are appended by one call, as a service
//! would that answers many requests; each has its own latency.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use tidemill::client::Launched;
use tidemill::shard::Effects;

use super::module::{Bank, LEDGER, Transfer};
use super::plan::{Plan, Random};
use crate::meter::Latencies;

/// When transfers start.
#[derive(Clone, Copy, Debug)]
pub enum Pace {
    /// A new one whenever one is completed, so many at once.
    Closed {
        /// Outstanding transfers.
        in_flight: u64,
    },
    /// At times drawn beforehand, whatever becomes of the others.
    Open {
        /// Transfers per second, on average.
        rate: f64,
    },
}

/// What was measured in a window.
#[derive(Debug, Default)]
pub struct Tally {
    /// Transfers completed.
    pub completed: u64,
    /// Transfers that the topology gave up; must be none.
    pub rejected: u64,
    /// From the start of a transfer until its record is durable.
    pub append: Latencies,
    /// From then until its effects are durable and visible.
    pub effects: Latencies,
    /// Both.
    pub transfers: Latencies,
    /// Groups of transfers that were appended by one call.
    pub groups: u64,
}

/// What a load tells whoever runs it, between two sleeps.
#[derive(Debug)]
pub struct Moment<'a> {
    /// Time since the load began.
    pub elapsed: Duration,
    /// Ids whose records have become durable since the last moment.
    pub acknowledged: &'a [u64],
    /// What was counted since the last reset.
    pub tally: &'a mut Tally,
}

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Go on.
    Run,
    /// Start no more, and end when all that were started are completed.
    Drain,
}

/// A load on an open bank.
#[derive(Debug)]
pub struct Load<'a> {
    bank: &'a Launched<Bank>,
    plan: &'a Plan,
    pace: Pace,
    /// At most so many transfers in one call.
    batch: usize,
    /// Id of the next transfer.
    next: u64,
    /// Started and not completed.
    outstanding: u64,
    schedule: Schedule,
    /// Transfers about to start, by shard.
    ready: Vec<Group>,
}

/// Transfers of one shard that start together.
#[derive(Debug, Default)]
struct Group {
    transfers: Vec<Transfer>,
    /// When each was due; those of a closed loop are due when they start.
    due: Vec<Instant>,
}

/// A group that is through.
struct Done {
    group: Group,
    durable_at: Instant,
    visible_at: Instant,
    rejected: u64,
}

/// More transfers than this waiting means that an open loop cannot be kept up with.
const OUTSTANDING_MAX: u64 = 1_000_000;

impl<'a> Load<'a> {
    /// A load that sends the ids from `first` on.
    #[must_use]
    pub fn new(
        bank: &'a Launched<Bank>,
        plan: &'a Plan,
        pace: Pace,
        batch: usize,
        first: u64,
        seed: u64,
    ) -> Self {
        assert!(batch > 0);
        let ready = (0..bank.engine().shards()).map(|_| Group::default()).collect();
        let schedule = Schedule::new(seed, pace);
        Self { bank, plan, pace, batch, next: first, outstanding: 0, schedule, ready }
    }

    /// The id of the next transfer: all below, from the first on, were started.
    #[must_use]
    pub fn next(&self) -> u64 {
        self.next
    }

    /// Runs until `observe` says to drain, and everything started is completed.
    ///
    /// # Errors
    /// If an append fails, or an open loop falls behind without end.
    pub fn run(&mut self, observe: &mut dyn FnMut(Moment<'_>) -> Next) -> anyhow::Result<()> {
        let began = Instant::now();
        self.schedule.begin(began);
        let waker = Waker::from(Arc::new(Unpark(thread::current())));
        let mut context = Context::from_waker(&waker);
        let acknowledged = RefCell::new(Vec::new());
        let mut running = FuturesUnordered::new();
        let mut tally = Tally::default();
        let mut draining = false;
        loop {
            while let Poll::Ready(Some(done)) = running.poll_next_unpin(&mut context) {
                let done: Done = done?;
                self.outstanding -= done.group.transfers.len() as u64;
                tally.count(&done);
            }
            let now = Instant::now();
            let elapsed = now - began;
            let ids = acknowledged.take();
            let moment = Moment { elapsed, acknowledged: &ids, tally: &mut tally };
            draining = observe(moment) == Next::Drain || draining;
            if draining {
                if running.is_empty() {
                    return Ok(());
                }
                thread::park_timeout(TICK);
                continue;
            }
            let bank = self.bank;
            let mut started = 0;
            for group in self.start(now)? {
                started += 1;
                running.push(perform(bank, group, &acknowledged));
            }
            let is_busy = self.outstanding >= GATHER_MIN;
            let arrives = matches!(self.pace, Pace::Open { .. });
            if started == 0 && !(is_busy && arrives) {
                thread::park_timeout(self.schedule.wait(Instant::now()));
            }
            if is_busy && (started == 0 || arrives) {
                // Whoever wakes a sleeping thread pays for it, and this one competes with the shards for
                // the cores. What is completed or falls due while it sleeps like this wakes nobody, and is
                // found together.
                thread::sleep(if arrives { GATHER_ARRIVALS } else { GATHER });
            }
        }
    }

    /// Groups of the transfers that are due.
    fn start(&mut self, now: Instant) -> anyhow::Result<Vec<Group>> {
        match self.pace {
            Pace::Closed { in_flight } => {
                for _ in self.outstanding..in_flight {
                    self.add(now);
                }
            }
            Pace::Open { rate } => {
                while let Some(due) = self.schedule.due(now) {
                    self.add(due);
                }
                if self.outstanding > OUTSTANDING_MAX {
                    bail!(
                        "--rate {rate}: {} transfers are waiting and more come faster than they are \
                         done; take a lower rate",
                        self.outstanding
                    );
                }
            }
        }
        let batch = self.batch;
        let mut groups = Vec::new();
        for ready in &mut self.ready {
            let parts = ready.transfers.chunks(batch).zip(ready.due.chunks(batch));
            groups.extend(parts.map(|(transfers, due)| Group {
                transfers: transfers.to_vec(),
                due: due.to_vec(),
            }));
            ready.transfers.clear();
            ready.due.clear();
        }
        Ok(groups)
    }

    fn add(&mut self, due: Instant) {
        let transfer = self.plan.transfer(self.next);
        let shard = self.plan.partition(transfer.from) as usize % self.ready.len();
        self.next += 1;
        self.outstanding += 1;
        self.ready[shard].transfers.push(transfer);
        self.ready[shard].due.push(due);
    }
}

async fn perform(
    bank: &Launched<Bank>,
    group: Group,
    acknowledged: &RefCell<Vec<u64>>,
) -> anyhow::Result<Done> {
    let appended = bank.append_many(bank.transfers, &group.transfers).await;
    let appended = appended.context("an append failed")?;
    let durable_at = Instant::now();
    acknowledged.borrow_mut().extend(group.transfers.iter().map(|transfer| transfer.id));
    let effects = bank.wait_all(LEDGER, &appended).await;
    let effects = effects.context("waiting for the effects of an append failed")?;
    let rejected = effects.iter().filter(|it| matches!(it, Effects::DeadLettered { .. })).count();
    let rejected = rejected as u64;
    Ok(Done { group, durable_at, visible_at: Instant::now(), rejected })
}

impl Tally {
    fn count(&mut self, done: &Done) {
        let Done { group, durable_at, visible_at, rejected } = done;
        self.groups += 1;
        self.completed += group.transfers.len() as u64;
        self.rejected += rejected;
        for due in &group.due {
            self.append.record(*durable_at - *due);
            self.effects.record(*visible_at - *durable_at);
            self.transfers.record(*visible_at - *due);
        }
    }
}

/// How long completions are gathered: a small part of what any of them took.
const GATHER: Duration = Duration::from_micros(200);

/// How long arrivals are gathered, and completions with them: they count from when they were due.
const GATHER_ARRIVALS: Duration = Duration::from_micros(400);

/// With fewer outstanding, each is answered at once.
const GATHER_MIN: u64 = 64;

/// Sleeps at most this long, so that whoever observes is asked now and then.
const TICK: Duration = Duration::from_millis(20);

/// The arrival times of an open loop, drawn a piece at a time from a random source of their own: they
/// depend on nothing that happens meanwhile.
#[derive(Debug)]
struct Schedule {
    random: Random,
    gap_mean: f64,
    began: Option<Instant>,
    /// Seconds since the beginning, of the last arrival drawn.
    last: f64,
    drawn: VecDeque<f64>,
}

impl Schedule {
    fn new(seed: u64, pace: Pace) -> Self {
        let gap_mean = match pace {
            Pace::Closed { .. } => f64::INFINITY,
            Pace::Open { rate } => 1.0 / rate,
        };
        let random = Random::new(seed.wrapping_add(1));
        Self { random, gap_mean, began: None, last: 0.0, drawn: VecDeque::new() }
    }

    fn begin(&mut self, now: Instant) {
        self.began = Some(now);
    }

    /// The next arrival, if it is due by now.
    fn due(&mut self, now: Instant) -> Option<Instant> {
        let began = self.began?;
        let next = self.peek();
        let at = began + Duration::try_from_secs_f64(next).ok()?;
        if at > now {
            return None;
        }
        self.drawn.pop_front();
        Some(at)
    }

    /// How long to sleep at most.
    fn wait(&mut self, now: Instant) -> Duration {
        if self.gap_mean.is_infinite() {
            return TICK;
        }
        let next = Duration::try_from_secs_f64(self.peek()).unwrap_or(TICK);
        let elapsed = self.began.map_or(Duration::ZERO, |began| now - began);
        next.saturating_sub(elapsed).min(TICK)
    }

    fn peek(&mut self) -> f64 {
        if self.drawn.is_empty() {
            for _ in 0..1_024 {
                self.last -= self.random.fraction().ln() * self.gap_mean;
                self.drawn.push_back(self.last);
            }
        }
        self.drawn[0]
    }
}

/// Wakes a thread that is parked.
struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.0.unpark();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arrivals_come_at_the_rate_and_follow_from_the_seed() {
        let arrivals = |seed, began: Instant| {
            let mut schedule = Schedule::new(seed, Pace::Open { rate: 1_000.0 });
            schedule.begin(began);
            let end = began + Duration::from_secs(10);
            std::iter::from_fn(move || schedule.due(end)).collect::<Vec<_>>()
        };
        let began = Instant::now();
        let drawn = arrivals(1, began);
        assert!(drawn.len().abs_diff(10_000) < 400, "{} in 10 s", drawn.len());
        assert!(drawn.is_sorted() && drawn[0] > began);
        assert_eq!(drawn, arrivals(1, began));
        assert_ne!(drawn, arrivals(2, began));
    }

    #[test]
    fn what_is_not_due_is_waited_for() {
        let began = Instant::now();
        let mut schedule = Schedule::new(1, Pace::Open { rate: 0.001 });
        schedule.begin(began);
        assert_eq!(schedule.due(began), None);
        assert_eq!(schedule.wait(began), TICK);
        let mut closed = Schedule::new(1, Pace::Closed { in_flight: 1 });
        closed.begin(began);
        assert_eq!(closed.wait(began), TICK);
    }
}
