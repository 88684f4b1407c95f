//! Sums up all accounts while transfers run, as of one id after the other: every sum must be exact.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow};
use tidemill::Error;
use tidemill::client::{Launched, block_on};
use tidemill::types::MicrobatchId;

use super::module::{Bank, LEDGER};
use super::plan::FUNDS_AT_FIRST;
use crate::report::Invariant;

/// How long ids can be read after the next one is visible, in an audited run.
pub(super) const HISTORY: Duration = Duration::from_secs(1);

/// An audit that is under way, on a thread of its own.
pub(super) struct Audit {
    ends: Arc<AtomicBool>,
    thread: JoinHandle<anyhow::Result<Audited>>,
}

/// What an audit found.
#[derive(Debug, Default)]
pub(super) struct Audited {
    /// Reads of all accounts that were answered.
    reads: u64,
    /// Those of them that were of an id below the newest that was visible when they began.
    older: u64,
    /// How far below at most.
    behind_max: u64,
    /// Reads whose id was not kept so long, which the engine says.
    expired: u64,
    /// Different ids that were read.
    ids: u64,
    /// The sums that were wrong: the id and by how much.
    wrong: Vec<(MicrobatchId, i128)>,
    seconds: f64,
}

impl Audit {
    /// Begins to read `accounts` accounts, over and over.
    pub(super) fn start(bank: &Launched<Bank>, accounts: u64) -> Self {
        let ends = Arc::new(AtomicBool::new(false));
        let (bank, until) = (bank.clone(), Arc::clone(&ends));
        let thread = thread::spawn(move || block_on(audit(&bank, accounts, &until)));
        Self { ends, thread }
    }

    /// Ends it after the read that is under way.
    pub(super) fn finish(self) -> anyhow::Result<Audited> {
        self.ends.store(true, Ordering::Relaxed);
        self.thread.join().map_err(|_| anyhow!("the audit panicked"))?
    }
}

async fn audit(bank: &Launched<Bank>, accounts: u64, ends: &AtomicBool) -> anyhow::Result<Audited> {
    let expected = i128::from(accounts) * i128::from(FUNDS_AT_FIRST);
    let started = Instant::now();
    let mut audited = Audited::default();
    // Below it the accounts have not all been given their first funds.
    let first = newest(bank).await?;
    let mut last = first;
    for round in 0.. {
        if ends.load(Ordering::Relaxed) {
            break;
        }
        let newest = newest(bank).await?;
        // The newest, some that are a little older, and the one that was read before once more.
        let id = match BEHIND[round % BEHIND.len()] {
            Some(behind) => MicrobatchId(newest.0.saturating_sub(behind)).max(first),
            None => last,
        };
        let funds = match bank.select(bank.funds.all().values()).as_of(LEDGER, id).await {
            Ok(funds) => funds,
            Err(Error::SnapshotExpired { .. }) => {
                audited.expired += 1;
                continue;
            }
            Err(error) => return Err(error).with_context(|| format!("cannot read as of {id}")),
        };
        let total: i128 = funds.into_iter().map(i128::from).sum();
        if total != expected {
            audited.wrong.push((id, total - expected));
        }
        audited.reads += 1;
        audited.older += u64::from(id < newest);
        audited.behind_max = audited.behind_max.max(newest.0 - id.0);
        audited.ids += u64::from(id != last);
        last = id;
    }
    audited.seconds = started.elapsed().as_secs_f64();
    Ok(audited)
}

/// How far below the newest id the reads of a round are; `None` is the id of the read before.
const BEHIND: [Option<u64>; 5] = [Some(0), Some(1), None, Some(5), Some(20)];

/// The last microbatch that is visible.
async fn newest(bank: &Launched<Bank>) -> anyhow::Result<MicrobatchId> {
    let snapshot = bank.snapshot().await.context("cannot take a snapshot")?;
    let ledger = snapshot.ids().into_iter().find(|(topology, _)| *topology == LEDGER);
    Ok(ledger.context("the bank has a ledger")?.1)
}

impl Audited {
    pub(super) fn invariant(&self) -> Invariant {
        let shown: Vec<String> =
            self.wrong.iter().take(5).map(|(id, by)| format!("{by:+} as of {id}")).collect();
        let detail = if self.wrong.is_empty() {
            format!(
                "{} reads of all accounts as of {} ids in {:.0} s, {} of them older than the newest, by {} at \
                 the most; {} were not kept so long",
                self.reads, self.ids, self.seconds, self.older, self.behind_max, self.expired
            )
        } else {
            format!("{} of {} sums are wrong: {}", self.wrong.len(), self.reads, shown.join(", "))
        };
        Invariant {
            name: "money is exact as of every id, while transfers run".to_owned(),
            holds: self.wrong.is_empty() && self.older > 0,
            detail,
        }
    }

    /// For the report.
    #[allow(clippy::cast_precision_loss, reason = "nobody counts to 2^53")]
    pub(super) fn figures(&self) -> [(&'static str, f64); 3] {
        [
            ("audit_reads", self.reads as f64),
            ("audit_reads_older", self.older as f64),
            ("audit_reads_expired", self.expired as f64),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_wrong_sum_or_nothing_old_read_is_not_held() {
        let good = || Audited { reads: 9, older: 3, ..Audited::default() };
        assert!(good().invariant().holds);
        assert!(!Audited { older: 0, ..good() }.invariant().holds);
        let wrong = Audited { wrong: vec![(MicrobatchId(7), -3)], ..good() }.invariant();
        assert!(!wrong.holds);
        assert_eq!(wrong.detail, "1 of 9 sums are wrong: -3 as of 7");
    }
}
