//! Counts polls that last too long, and names their tasks.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::types::ShardId;

/// A poll that kept its shard from everything else for longer than [`SLOW_POLL`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlowPoll {
    /// Where it ran.
    pub shard: ShardId,
    /// The name its task was spawned with; `main` for the shard's first future.
    pub task: &'static str,
    /// How long the poll took.
    pub duration: Duration,
    /// The kernel gave the core to another thread during the poll or in the millisecond before, so
    /// the task may be innocent.
    pub preempted: bool,
}

/// How many polls were too slow, and the latest of them.
#[derive(Clone, Debug, Default)]
pub struct SlowPolls {
    /// All of them since the directory was opened.
    pub count: u64,
    /// Those of them in which the core may have been taken away.
    pub preempted_count: u64,
    /// The longest.
    pub longest: Option<SlowPoll>,
    /// The latest [`RECENT_MAX`], oldest first.
    pub recent: VecDeque<SlowPoll>,
}

/// What counts as too long: design, section 11, rule 5.
pub const SLOW_POLL: Duration = Duration::from_millis(2);

/// How many slow polls are kept.
pub const RECENT_MAX: usize = 64;

/// Shared by the shards of a node.
#[derive(Default)]
pub(super) struct Watchdog {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    polls: SlowPolls,
    reported_at: Option<Instant>,
    reported_count: u64,
}

impl Watchdog {
    /// Records a poll that ended `now`, and reports on standard error at most once a second. Where the
    /// core was taken away nothing is reported: a busy machine is no fault of ours.
    #[cold]
    pub(super) fn bark(&self, poll: SlowPoll, now: Instant) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let state = &mut *state;
        state.polls.count += 1;
        let due = state.reported_at.is_none_or(|at| now - at >= Duration::from_secs(1));
        if poll.preempted {
            state.polls.preempted_count += 1;
        } else if due {
            let guilty = state.polls.count - state.polls.preempted_count;
            let silent = guilty - state.reported_count - 1;
            let SlowPoll { shard, task, duration, .. } = &poll;
            let more = match silent {
                0 => String::new(),
                silent => format!(" ({silent} more since the last report)"),
            };
            eprintln!(
                "tidemill: a poll of task {task:?} on shard {} took {:.1} ms{more}",
                shard.0,
                duration.as_secs_f64() * 1e3,
            );
            state.reported_at = Some(now);
            state.reported_count = guilty;
        }
        if state.polls.longest.as_ref().is_none_or(|longest| longest.duration < poll.duration) {
            state.polls.longest = Some(poll.clone());
        }
        if state.polls.recent.len() == RECENT_MAX {
            state.polls.recent.pop_front();
        }
        state.polls.recent.push_back(poll);
    }

    /// What was recorded so far.
    pub(super) fn slow_polls(&self) -> SlowPolls {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).polls.clone()
    }
}
