//! What a shard knows of the lives of the others.
//!
//! A shard lives several times: each life has a run of its own, raised durably before it starts. Every
//! message of two-phase commit names the life it comes from and the one it is for, and every batch of rows
//! the one it comes from. So it does not matter in which order a dying shard's last words, the news of its
//! end, the news of its return and its next life's first words come in:
//!
//! - What comes from an earlier life than the last one heard of is dropped.
//! - Whatever comes from a later life tells that the earlier one has ended, and that the later one runs.
//! - What a coordinator sent to an earlier life is dropped by the next one. The next life's news, which is
//!   on its way, makes it begin anew.
//!
//! Rows need not name the life they are for: they name their attempt, which ended with any shard's life.

use std::cell::RefCell;

use super::Setup;
use crate::types::{Run, ShardId};

/// The lives of all shards, as one of them has heard.
#[derive(Debug)]
pub(crate) struct Peers {
    lives: RefCell<Vec<Life>>,
}

/// The last life of a shard that was heard of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Life {
    run: Run,
    up: bool,
}

/// What news of a shard means.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct News {
    /// The life known before has ended: first of all.
    pub(crate) went_down: bool,
    /// A later one runs.
    pub(crate) came_up: bool,
    /// It is of a life that has not ended.
    pub(crate) current: bool,
}

impl Peers {
    /// What is known when `own` starts its life `own_run`. What changes afterwards, it is told.
    pub(crate) fn new(setup: &Setup, own: ShardId, own_run: Run) -> Self {
        let life = |shard| {
            if ShardId(shard) == own {
                return Life { run: own_run, up: true };
            }
            // In this order: a run that is noted in between is announced, too.
            let run = setup.run(ShardId(shard));
            Life { run, up: setup.stopped_cause(ShardId(shard)).is_none() }
        };
        Self { lives: RefCell::new((0..setup.shards).map(life).collect()) }
    }

    /// The last life of a shard, for what is sent to it.
    pub(crate) fn run(&self, shard: ShardId) -> Run {
        self.lives.borrow().get(usize::from(shard.0)).map_or(Run(0), |life| life.run)
    }

    /// Shards whose last life has ended.
    pub(crate) fn down(&self) -> Vec<ShardId> {
        let lives = self.lives.borrow();
        (0..).map(ShardId).zip(&*lives).filter(|(_, life)| !life.up).map(|(it, _)| it).collect()
    }

    /// A life of `shard` is heard of, `up` or at its end.
    pub(crate) fn hear(&self, shard: ShardId, run: Run, up: bool) -> News {
        let mut lives = self.lives.borrow_mut();
        let Some(known) = lives.get_mut(usize::from(shard.0)) else { return News::default() };
        let before = *known;
        if run < before.run || run == before.run && !before.up {
            return News::default();
        }
        *known = Life { run, up };
        let later = run > before.run;
        News { went_down: before.up && (later || !up), came_up: later && up, current: up }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEER: ShardId = ShardId(1);
    const OLD: News = News { went_down: false, came_up: false, current: false };
    const KNOWN: News = News { went_down: false, came_up: false, current: true };
    const ENDED: News = News { went_down: true, came_up: false, current: false };
    const CAME: News = News { went_down: false, came_up: true, current: true };
    const REBORN: News = News { went_down: true, came_up: true, current: true };

    fn peers(up: bool) -> Peers {
        let life = Life { run: Run(5), up };
        Peers { lives: RefCell::new(vec![life, life]) }
    }

    #[test]
    fn news_in_order_tell_of_one_end_and_one_return() {
        let peers = peers(true);
        assert_eq!(peers.hear(PEER, Run(5), true), KNOWN);
        assert_eq!(peers.hear(PEER, Run(5), false), ENDED);
        assert_eq!(peers.down(), [PEER]);
        assert_eq!(peers.hear(PEER, Run(5), false), OLD);
        assert_eq!(peers.hear(PEER, Run(5), true), OLD, "a last word that comes late");
        assert_eq!(peers.hear(PEER, Run(7), true), CAME);
        assert_eq!(peers.hear(PEER, Run(7), true), KNOWN);
        assert_eq!(peers.run(PEER), Run(7));
    }

    #[test]
    fn a_later_life_tells_of_the_end_of_the_one_before_whose_news_is_then_old() {
        let peers = peers(true);
        assert_eq!(peers.hear(PEER, Run(6), true), REBORN);
        assert_eq!(peers.hear(PEER, Run(5), false), OLD);
        assert_eq!(peers.hear(PEER, Run(5), true), OLD);
        assert_eq!(peers.down(), []);
        assert_eq!(peers.hear(PEER, Run(7), false), ENDED, "a life that was never heard of");
        assert_eq!(peers.run(PEER), Run(7));
    }

    #[test]
    fn a_shard_that_was_down_at_the_start_comes_up_with_a_later_run() {
        let peers = peers(false);
        assert_eq!(peers.hear(PEER, Run(5), false), OLD);
        assert_eq!(peers.hear(PEER, Run(6), false), OLD, "its opening failed");
        assert_eq!(peers.hear(PEER, Run(7), true), CAME);
    }
}
