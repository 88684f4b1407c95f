//! Effects are performed.

use super::*;

impl World {
    pub(super) fn step_home(&mut self, input: coordinator::Input) {
        let Some(home) = &mut self.coordinator else { return };
        let mut effects = Vec::new();
        // A wall clock that jumps about.
        home.observe_wall(self.rng.below(1 << 40));
        home.step(self.now, input, &mut effects);
        for effect in effects {
            self.perform_home(effect);
        }
    }

    pub(super) fn perform_home(&mut self, effect: coordinator::Effect) {
        use coordinator::Effect;
        match effect {
            Effect::Persist { token, record } => {
                self.push(HOME, Entry::Record(record.encode()), Some(Completion::Persisted(token)));
            }
            Effect::PersistLazily { record } => {
                self.push(HOME, Entry::Record(record.encode()), None);
            }
            Effect::Send { to, message } => {
                if self.held && matches!(message, two_phase::Message::Begin { .. }) {
                    self.accuse(Err(format!("held, and yet it says {message:?}")));
                }
                let to = usize::from(to.0);
                if self.shards[to].up && !self.closed[to] {
                    self.from_home[to].push_back(wire::encode_message(TOPOLOGY, &message));
                }
            }
            Effect::CommitLocally { token, decision } => {
                if self.chaos && self.rng.below(6) == 0 {
                    self.seen.mark("local commit refused");
                    let failure = self.no_room(decision.attempt.id);
                    self.step_home(coordinator::Input::Refused { token, failure });
                } else {
                    self.commit_locally(token, decision);
                }
            }
            Effect::Visible { id, offsets: _ } => self.check_visible(id),
            Effect::WakeAt(at) => self.wake = Some(at),
            Effect::Excluded { .. } => self.seen.mark("record excluded"),
            Effect::Paused { .. } | Effect::Resumed => {}
        }
    }

    pub(super) fn commit_locally(&mut self, token: Token, decision: Decision) {
        self.seen.mark("local commit");
        let attempt = decision.attempt;
        let mut effects = Vec::new();
        let home = &mut self.shards[HOME].participant;
        home.step(self.now, participant::Input::CommitLocally { attempt }, &mut effects);
        let mut group = Vec::new();
        for effect in effects {
            let participant::Effect::WriteLocally { attempt, partitions } = effect else {
                panic!("unexpected {effect:?}");
            };
            let order = self.oracle.order(attempt, &partitions, &self.shards[HOME].journal);
            self.accuse(order);
            group.extend(self.prepares(HOME, attempt, &partitions));
            let committed =
                partitions.into_iter().map(|partition| Entry::Committed { attempt, partition });
            group.extend(committed);
        }
        group.push(Entry::Record(Record::Decision(decision).encode()));
        self.push(HOME, Entry::Group(group), Some(Completion::Persisted(token)));
        let end = self.shards[HOME].journal.len();
        let completions = &mut self.shards[HOME].completions;
        completions.push_back((end, Completion::Committed(attempt)));
    }

    pub(super) fn step_shard(&mut self, shard: usize, input: participant::Input) {
        let mut effects = Vec::new();
        self.shards[shard].participant.step(self.now, input, &mut effects);
        for effect in effects {
            self.perform_shard(shard, effect);
        }
    }

    pub(super) fn perform_shard(&mut self, shard: usize, effect: participant::Effect) {
        use participant::Effect;
        match effect {
            Effect::StartSources { attempt, ranges, exclusions, below, began_us } => {
                let began = self.oracle.began(attempt, began_us);
                self.accuse(began);
                let start = self.oracle.start(shard, attempt, below, &self.shards[shard].journal);
                self.accuse(start);
                let is_out = |origin| exclusions.iter().any(|out| out.origin == origin);
                for range in ranges {
                    for offset in (range.from.0..range.to.0).map(Offset) {
                        let origin = Origin { source: range.source, offset };
                        if !is_out(origin) {
                            let input = participant::Input::WorkStarted { attempt, count: 1 };
                            self.step_shard(shard, input);
                            self.shards[shard].work.push((attempt, Flow { origin, hop: 0 }));
                        }
                    }
                }
                for out in &exclusions {
                    let write = Write { origin: out.origin, hop: 0, dead: true };
                    self.write(shard, attempt, out.origin.source.partition, write);
                }
                if self.options.asks > 0 && attempt.attempt == Attempt(1) {
                    for partition in (0..PARTITIONS).map(|it| PartitionId(it.try_into().unwrap())) {
                        if owner(partition) == shard && self.rng.below(3) == 0 {
                            let write = Write::of_work(partition, attempt.id);
                            self.write(shard, attempt, partition, write);
                        }
                    }
                }
                self.step_shard(shard, participant::Input::WorkFinished { attempt, count: 1 });
                self.receive_held(shard);
            }
            Effect::WritePrepare { attempt, partitions } => {
                if self.chaos && self.rng.below(12) == 0 {
                    self.seen.mark("prepare failed");
                    let failure = self.no_room(attempt.id);
                    self.step_shard(shard, participant::Input::Failed { attempt, failure });
                    return;
                }
                for entry in self.prepares(shard, attempt, &partitions) {
                    self.push(shard, entry, None);
                }
                self.complete(shard, Completion::Prepared(attempt));
            }
            Effect::WriteCommitted { attempt, partitions } => {
                let commit = self.oracle.commit(attempt, &partitions);
                self.accuse(commit);
                let order = self.oracle.order(attempt, &partitions, &self.shards[shard].journal);
                self.accuse(order);
                for partition in partitions {
                    self.push(shard, Entry::Committed { attempt, partition }, None);
                }
                self.complete(shard, Completion::Committed(attempt));
            }
            Effect::WriteLocally { .. } => panic!("a local commit that nobody asked for"),
            Effect::Drop { attempt, aborted } => {
                let dropped = self.oracle.drop(shard, attempt);
                self.accuse(dropped);
                // What was found in doubt after a crash lies under nothing until it commits.
                let overlays = &self.shards[shard].overlays;
                let above = overlays.keys().find(|it| it.id > attempt.id);
                if let Some(above) = above.filter(|_| overlays.contains_key(&attempt)) {
                    let what = format!("{attempt} is dropped from under {above} on {shard}");
                    self.accuse(Err(what));
                }
                let it = &mut self.shards[shard];
                // Highest first.
                let next_prepared = it.dropped_prepared == Some(attempt.id.next());
                it.dropped_prepared = (!aborted.is_empty()).then_some(attempt.id);
                if next_prepared && !aborted.is_empty() {
                    self.seen.mark("prepared dropped with next prepared");
                }
                let it = &mut self.shards[shard];
                it.work.retain(|(other, _)| *other != attempt);
                it.overlays.remove(&attempt);
                let lazy = &mut self.shards[shard].lazy;
                lazy.extend(aborted.into_iter().map(|partition| (attempt, partition)));
                self.receive_held(shard);
            }
            Effect::MergeVisible { id, offsets } => {
                self.check_visible(id);
                let it = &mut self.shards[shard];
                assert!(it.visible < id);
                it.visible = id;
                for moved in offsets {
                    let known = it.visible_offsets.insert(moved.source, moved.offset);
                    assert!(known.is_none_or(|known| known <= moved.offset));
                }
            }
            Effect::Send { to: _, message } => {
                if self.coordinator.is_some() {
                    let bytes = wire::encode_message(TOPOLOGY, &message);
                    self.to_home[shard].push_back(Packet::Bytes(bytes));
                }
            }
            Effect::WakeAt(at) => self.shards[shard].wake = Some(at),
            Effect::Lost { attempt, partitions } => {
                self.accuse(Err(format!("{attempt} is lost on {partitions:?}")));
            }
        }
    }

    pub(super) fn prepares(
        &self,
        shard: usize,
        attempt: AttemptId,
        at: &[PartitionId],
    ) -> Vec<Entry> {
        at.iter()
            .map(|&partition| {
                let writes = self.shards[shard].overlays[&attempt][&partition].clone();
                Entry::Prepare { attempt, partition, writes }
            })
            .collect()
    }

    pub(super) fn accuse(&mut self, verdict: Result<(), String>) {
        if let Err(violation) = verdict {
            self.violation.get_or_insert(violation);
        }
    }

    /// No space, or too large: once per id, so that no good record is blamed twice.
    fn no_room(&mut self, id: MicrobatchId) -> Failure {
        let mut kind = FailureKind::Retry;
        if self.rng.below(2) == 0 && self.too_large.insert(id) {
            self.seen.mark("too large");
            kind = FailureKind::TooLarge;
        }
        Failure { origin: None, kind, message: "no room".to_owned() }
    }

    pub(super) fn check_visible(&mut self, id: MicrobatchId) {
        let durable: Vec<_> =
            self.shards.iter().map(|shard| &shard.journal[..shard.durable]).collect();
        let visible = self.oracle.visible(id, &durable);
        self.accuse(visible);
    }
}
