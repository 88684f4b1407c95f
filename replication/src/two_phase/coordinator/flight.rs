//! One undecided microbatch: what it reads, how far its present attempt is, and what earlier
//! attempts taught.

use std::collections::{BTreeMap, BTreeSet};

use super::Token;
use super::plan::Plan;
use super::quiescence::Quiescence;
use super::search::{Found, Search};
use super::suspects::{Suspects, Verdict};
use crate::two_phase::{Exclusion, Failure, FailureKind, Origin, Source, cut_reason};
use crate::types::{Attempt, MicrobatchId, Offset, PartitionId, ShardId};
use crate::wire;

/// One undecided microbatch.
#[derive(Clone, Debug)]
pub(super) struct Flight {
    pub(super) id: MicrobatchId,
    pub(super) plan: Plan,
    pub(super) begin: BeginRecord,
    /// When it first began, for every attempt to come.
    pub(super) began_us: u64,
    /// The number of the last attempt; 0 before the first.
    pub(super) attempt: Attempt,
    pub(super) stage: Stage,
    /// Rejected without any record left to blame, or more than can be left out: it waits for
    /// `Resume`.
    pub(super) rejected: Option<String>,
    /// Records that the present attempt has rejected: it goes on to find them all, and is then
    /// given up.
    /// By origin: a repeated message, or a second row of a record, is the same failure.
    pub(super) rejections: BTreeMap<Origin, Failure>,
    retries: u32,
    /// How often each record was rejected.
    rejects: BTreeMap<Origin, u32>,
    /// Rejections in a row that named no record, outside a search.
    nameless_rejects: u32,
    search: Option<Search>,
    /// Records that were rejected together, while trials tell who is to blame.
    suspects: Option<Suspects>,
    /// All suspects were cleared: each passes without the others.
    is_mutual: bool,
}

/// Where the record of the flight's present plan is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BeginRecord {
    Unwritten,
    Written(Token),
    Durable,
}

/// How far an attempt is.
#[derive(Clone, Debug)]
pub(super) enum Stage {
    /// None is under way, and the next starts at this time or later.
    Waiting { not_before_ns: u64 },
    /// Rows flow.
    Running { quiescence: Quiescence },
    /// Quiescent; shards write their prepares.
    Preparing { votes: BTreeMap<ShardId, Vec<PartitionId>> },
    /// All votes are in; lower ids or the `Begin` are not durable yet.
    Voted { touched: Vec<PartitionId> },
    /// The decision is being written: it can no longer be aborted.
    Deciding { token: Token, touched: Vec<PartitionId>, local: bool },
}

impl Stage {
    pub(super) fn running(shards: &BTreeSet<ShardId>) -> Self {
        Self::Running { quiescence: Quiescence::new(shards) }
    }
}

impl Flight {
    pub(super) fn new(id: MicrobatchId, plan: Plan, begin: BeginRecord, began_us: u64) -> Self {
        Self {
            id,
            plan,
            begin,
            began_us,
            attempt: Attempt(0),
            stage: Stage::Waiting { not_before_ns: 0 },
            rejected: None,
            rejections: BTreeMap::new(),
            retries: 0,
            rejects: BTreeMap::new(),
            nameless_rejects: 0,
            search: None,
            suspects: None,
            is_mutual: false,
        }
    }

    /// The present attempt, which is aborted already, failed: decides when and over what the next
    /// one runs. Returns the records that are left out from now on.
    pub(super) fn failed(&mut self, now_ns: u64, failures: &[Failure]) -> Vec<Exclusion> {
        let mut rejected = BTreeMap::new();
        let mut nameless = None;
        for failure in failures {
            let message = cut_reason(&failure.message);
            match (failure.kind, failure.origin.filter(|&origin| self.plan.reads(origin))) {
                (FailureKind::Retry | FailureKind::TooLarge, _) => self.back_off(now_ns),
                (FailureKind::Reject, Some(origin)) => {
                    rejected.insert(origin, message);
                }
                (FailureKind::Reject, None) => nameless = Some(message),
            }
        }
        if let Some(message) = nameless {
            return match self.suspects.take() {
                Some(suspects) => self.judge(now_ns, suspects.inconclusive()),
                None => self.nameless_reject(now_ns, message).into_iter().collect(),
            };
        }
        if rejected.is_empty() {
            return Vec::new();
        }
        if let Some(suspects) = self.suspects.take() {
            return self.judge(now_ns, suspects.tried(&rejected));
        }
        self.named_rejects(now_ns, rejected)
    }

    /// An attempt that is no trial of suspects has rejected these.
    fn named_rejects(
        &mut self,
        now_ns: u64,
        mut rejected: BTreeMap<Origin, String>,
    ) -> Vec<Exclusion> {
        let mut most = 0;
        for &origin in rejected.keys() {
            let rejects = self.rejects.entry(origin).or_default();
            *rejects += 1;
            most = most.max(*rejects);
        }
        if most < REJECTS_MAX {
            return Vec::new();
        }
        // What one alone was rejected for is its own fault. So is, for want of room for trials, that of
        // more than can be left out.
        let room = wire::EXCLUSIONS_MAX - self.plan.exclusions().len();
        if rejected.len() == 1 || rejected.len() > room {
            return self.exclude_all(now_ns, rejected);
        }
        if std::mem::take(&mut self.is_mutual) {
            // Each is fine without the others, so one has to give way: the last.
            return self.exclude_all(now_ns, rejected.pop_last());
        }
        self.search = None;
        self.suspects = Some(Suspects::new(rejected));
        Vec::new()
    }

    fn judge(&mut self, now_ns: u64, verdict: Verdict) -> Vec<Exclusion> {
        let condemned = match verdict {
            Verdict::Open(suspects) => {
                self.suspects = Some(suspects);
                return Vec::new();
            }
            Verdict::Condemned(condemned) => condemned,
        };
        // Those that were cleared start anew.
        self.rejects.clear();
        if !condemned.is_empty() {
            self.is_mutual = false;
            return self.exclude_all(now_ns, condemned);
        }
        self.back_off(now_ns);
        self.is_mutual = true;
        Vec::new()
    }

    fn exclude_all(
        &mut self,
        now_ns: u64,
        origins: impl IntoIterator<Item = (Origin, String)>,
    ) -> Vec<Exclusion> {
        let excluded = origins.into_iter().map(|(origin, why)| self.exclude(now_ns, origin, why));
        excluded.collect::<Vec<_>>().into_iter().flatten().collect()
    }

    /// The present attempt, which is aborted already, was too large: the next one reads about half.
    /// `None` if that is nothing; then the only record is to blame.
    pub(super) fn shrink(&mut self) -> Option<()> {
        self.plan = self.plan.half()?;
        self.begin = BeginRecord::Unwritten;
        self.search = None;
        self.suspects = None;
        Some(())
    }

    fn nameless_reject(&mut self, now_ns: u64, message: String) -> Option<Exclusion> {
        if let Some(search) = self.search {
            match search.failed() {
                Found::Narrower(search) => self.search = Some(search),
                Found::Culprit(number) => {
                    let origin = self.plan.record(number).expect("a search stays inside its plan");
                    return self.exclude(now_ns, origin, message);
                }
            }
            return None;
        }
        self.nameless_rejects += 1;
        if self.nameless_rejects >= REJECTS_MAX {
            self.nameless_rejects = 0;
            self.search = Search::new(self.plan.records_count());
            if self.search.is_none() {
                self.reject(now_ns, message);
            }
        }
        None
    }

    fn exclude(&mut self, now_ns: u64, origin: Origin, message: String) -> Option<Exclusion> {
        let count = self.plan.exclusions().len();
        if count >= wire::EXCLUSIONS_MAX {
            self.reject(now_ns, message);
            return None;
        }
        let reason = if count < REASONS_MAX { message } else { String::new() };
        let exclusion = Exclusion { origin, reason };
        self.plan.exclude(exclusion.clone());
        self.begin = BeginRecord::Unwritten;
        self.rejects.remove(&origin);
        self.nameless_rejects = 0;
        self.search = None;
        Some(exclusion)
    }

    fn reject(&mut self, now_ns: u64, message: String) {
        self.rejected = Some(message);
        self.back_off(now_ns);
    }

    /// The present attempt, which is aborted already, was a trial without a failure. Returns the records
    /// that are left out from now on.
    pub(super) fn trial_passed(&mut self, now_ns: u64) -> Vec<Exclusion> {
        if let Some(suspects) = self.suspects.take() {
            return self.judge(now_ns, suspects.tried(&BTreeMap::new()));
        }
        let search = self.search.expect("a trial belongs to a search");
        self.search = search.passed();
        if self.search.is_none() {
            // It failed by chance, which may happen again at once: no reason to hurry.
            self.back_off(now_ns);
        }
        Vec::new()
    }

    fn back_off(&mut self, now_ns: u64) {
        let wait_ns = BACK_OFF_NS_MIN << self.retries.min(BACK_OFF_DOUBLINGS);
        self.retries = self.retries.saturating_add(1);
        let not_before_ns = now_ns.saturating_add(wait_ns.min(BACK_OFF_NS_MAX));
        self.stage = Stage::Waiting { not_before_ns };
    }

    /// What the next or present attempt reads.
    pub(super) fn attempted(&self) -> Plan {
        if let Some(suspects) = &self.suspects {
            return self.plan.without(suspects.left_out());
        }
        match self.search {
            Some(search) => self.plan.prefix(search.trial()),
            None => self.plan.clone(),
        }
    }

    /// Whether its attempts are trials, which never prepare.
    pub(super) fn is_trial(&self) -> bool {
        self.search.is_some() || self.suspects.is_some()
    }

    pub(super) fn is_waiting(&self) -> bool {
        matches!(self.stage, Stage::Waiting { .. })
    }

    /// Whether its rows have come to rest, so that the next id can run on top of them.
    pub(super) fn is_quiescent(&self) -> bool {
        match self.stage {
            Stage::Waiting { .. } | Stage::Running { .. } => false,
            Stage::Preparing { .. } | Stage::Voted { .. } | Stage::Deciding { .. } => true,
        }
    }

    /// Where it leaves a source, if it reads it.
    pub(super) fn end_of(&self, source: Source) -> Option<Offset> {
        let ranges = self.plan.ranges();
        let place = ranges.binary_search_by_key(&source, |range| range.source).ok()?;
        ranges.get(place).map(|range| range.to)
    }
}

/// A record that is rejected this often becomes a dead letter: once may be a coincidence.
const REJECTS_MAX: u32 = 2;

/// So many exclusions of an id carry a reason; more of them have one cause, and the list stays
/// small.
const REASONS_MAX: usize = 1024;

/// The first wait is about as long as a microbatch, the longest is a second, as for every retry.
const BACK_OFF_NS_MIN: u64 = 1_000_000;
const BACK_OFF_NS_MAX: u64 = 1_000_000_000;
const BACK_OFF_DOUBLINGS: u32 = 10;
