//! Clients that subscribe: they follow what becomes of something, now and then too slowly, over shards that stop
//! and are reopened, and compare what they hold with what snapshots read.

use std::fmt::Debug;
use std::time::Duration;

use tidemill::client::Subscription;
use tidemill::error::Error;
use tidemill::schema::{Outside, Select};
use tidemill::subscribe::{Mirror, Subscribe, What};
use tidemill::types::MicrobatchId;

use super::clients::Client;
use super::contents::FOLLOWED;
use super::module::{Era, GROUPS};
use super::oracles::followed;
use crate::scenario::Failure;

/// So often a follower asks again after an error before it gives up: its shard may be reopened meanwhile.
const ERRORS_MAX: u32 = 20;

/// How a follower looks at its value.
type Seen<P> = fn(&<<P as Subscribe>::Mirror as Mirror>::Value) -> <P as Select>::Out;

/// What a subscription holds at an id.
enum Held<T> {
    This(T),
    /// It was read anew at a later one.
    Passed,
    /// It came to an end before.
    Never,
}

impl Client {
    /// Follows something of the ledger for a while.
    pub(super) async fn follow(&self) -> Result<(), Failure> {
        let random = self.world.random();
        let account = random.below(self.shared.shape.accounts);
        let bank = &self.bank;
        match random.below(5) {
            0 => self.follow_path(account, bank.funds.key(account), Clone::clone).await,
            1 => self.follow_path(account, bank.sent.key(account), Clone::clone).await,
            // Before, it is no set.
            2 if bank.era == Era::Migrated => {
                let (groups, group) = (bank.done.key(account), random.below(GROUPS));
                if group == 0 {
                    return self.follow_path(account, groups.tree(), Clone::clone).await;
                }
                let all = groups.key(group).all();
                self.follow_path(account, all, |done| done.iter().copied().collect()).await
            }
            3 => self.follow_path(account, bank.history.key(account).size(), Clone::clone).await,
            _ => {
                let all = bank.history.key(account).all();
                self.follow_path(account, all, |lines| {
                    lines.iter().map(|(id, line)| (*id, line.clone())).collect()
                })
                .await
            }
        }
    }

    async fn follow_path<P>(&self, account: u64, path: P, seen: Seen<P>) -> Result<(), Failure>
    where
        P: Subscribe + Select<Out: PartialEq + Debug> + Outside + Clone,
    {
        let random = self.world.random();
        let subscribed = self.call("subscribe", self.bank.subscribe(path.clone())).await;
        let mut subscription = match subscribed {
            Ok(subscription) => subscription,
            Err(error) => return self.not_followed("a subscription", &error),
        };
        for _ in 0..random.within(1..6) {
            let snapshot = match self.call("snapshot", self.bank.snapshot()).await {
                Ok(snapshot) => snapshot,
                Err(error) => return self.tolerate("a snapshot", &error),
            };
            let of_ledger = snapshot.ids().into_iter().find(|(topology, _)| *topology == "ledger");
            let (_, id) = of_ledger.expect("it is a topology of the module");
            match self.follow_until(&mut subscription, id, seen).await? {
                Held::This(held) => {
                    let read = self.bank.select(path.clone()).at(&snapshot);
                    match self.call("select at", read).await {
                        Ok(read) => {
                            self.shared.count(FOLLOWED, 1);
                            followed::judge(id, &held, &read)?;
                        }
                        Err(error) => return self.not_followed("a read in a snapshot", &error),
                    }
                }
                Held::Passed => {}
                Held::Never => return Ok(()),
            }
            drop(snapshot);
            // Something becomes of it meanwhile, and sometimes more than may wait.
            for _ in 0..random.below(4) {
                self.transfer_from(account).await?;
            }
            self.world.sleep(Duration::from_micros(random.below(20_000))).await;
        }
        Ok(())
    }

    /// What a subscription holds at an id.
    async fn follow_until<P>(
        &self,
        subscription: &mut Subscription<P>,
        id: MicrobatchId,
        seen: Seen<P>,
    ) -> Result<Held<P::Out>, Failure>
    where
        P: Subscribe + Select + Outside,
    {
        let mut errors = 0;
        let mut told = subscription.id();
        let mut held =
            if told <= id { Held::This(seen(subscription.value())) } else { Held::Passed };
        while subscription.id() < id {
            let change = match self.call("next", subscription.next()).await {
                Some(Ok(change)) => change,
                Some(Err(error)) => {
                    self.not_followed("a change", &error)?;
                    errors += 1;
                    if errors == ERRORS_MAX {
                        return Ok(Held::Never);
                    }
                    self.world.sleep(Duration::from_millis(5)).await;
                    continue;
                }
                None => return Ok(Held::Never),
            };
            self.shared.count("changes followed", 1);
            let is_bridged = matches!(change.what, What::Bridged { .. });
            let is_reread = matches!(change.what, What::Resynced { .. });
            self.shared.count("gaps closed by difference", u64::from(is_bridged));
            self.shared.count("gaps closed by value", u64::from(is_reread));
            let is_resync = is_bridged || is_reread;
            followed::step(told, (change.from, change.to), is_resync)?;
            told = change.to;
            if change.to <= id {
                held = Held::This(seen(subscription.value()));
            } else if is_resync {
                held = Held::Passed;
            }
        }
        Ok(held)
    }

    /// What a snapshot may meet, a subscriber may meet too, since it reads in one.
    fn not_followed(&self, what: &str, error: &Error) -> Result<(), Failure> {
        match error {
            Error::SnapshotExpired { .. } if !self.shared.keeps_snapshots() => {
                self.shared.count("snapshots expired", 1);
                Ok(())
            }
            error => self.tolerate(what, error),
        }
    }
}
