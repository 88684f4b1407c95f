//! Messages and rows arrive, and work is done.

use super::*;

impl World {
    pub(super) fn deliver_home(&mut self, shard: usize) {
        let Some(packet) = self.to_home[shard].pop_front() else { return };
        let from = ShardId(u16::try_from(shard).unwrap());
        let input = match packet {
            Packet::Down => coordinator::Input::ShardDown(from),
            Packet::Up => {
                self.closed[shard] = false;
                coordinator::Input::ShardUp(from)
            }
            Packet::Bytes(bytes) => {
                if self.repeats() {
                    // In the same life of the shard: before the news of its end.
                    let queue = &mut self.to_home[shard];
                    let end = queue.iter().position(|packet| matches!(packet, Packet::Down));
                    let end = end.unwrap_or(queue.len());
                    queue.insert(end, Packet::Bytes(bytes.clone()));
                }
                let (topology, message) = wire::decode_message(&bytes).unwrap();
                assert_eq!(topology, TOPOLOGY);
                self.note(format!("  home <- {shard}: {message:?}"));
                coordinator::Input::Message { from, message }
            }
        };
        self.step_home(input);
    }

    pub(super) fn deliver_shard(&mut self, shard: usize) {
        let Some(bytes) = self.from_home[shard].pop_front() else { return };
        if self.repeats() {
            self.from_home[shard].push_back(bytes.clone());
        }
        let (_, message) = wire::decode_message(&bytes).unwrap();
        self.note(format!("  {shard} <- home: {message:?}"));
        self.step_shard(shard, participant::Input::Message(message));
    }

    pub(super) fn repeats(&mut self) -> bool {
        let repeats = self.chaos && self.options.repeats && self.rng.below(8) == 0;
        if repeats {
            self.seen.mark("repeated message");
        }
        repeats
    }

    pub(super) fn deliver_rows(&mut self, from: usize, to: usize) {
        let Some((attempt, flow)) = self.rows.get_mut(&(from, to)).and_then(VecDeque::pop_front)
        else {
            return;
        };
        self.receive(to, attempt, flow);
    }

    pub(super) fn receive(&mut self, shard: usize, attempt: AttemptId, flow: Flow) {
        match self.shards[shard].participant.admission(attempt) {
            Admission::Run => {
                self.step_shard(shard, participant::Input::BatchReceived { attempt, count: 1 });
                self.shards[shard].work.push((attempt, flow));
            }
            Admission::Hold => {
                self.seen.mark("row batch held");
                self.shards[shard].held.push((attempt, flow));
            }
            Admission::Stale => self.seen.mark("stale row batch"),
        }
    }

    pub(super) fn receive_held(&mut self, shard: usize) {
        for (attempt, flow) in std::mem::take(&mut self.shards[shard].held) {
            self.receive(shard, attempt, flow);
        }
    }

    // ---- work

    pub(super) fn work(&mut self, shard: usize) {
        let place = self.rng.index(self.shards[shard].work.len());
        let (attempt, flow) = self.shards[shard].work.swap_remove(place);
        let Flow { origin, hop } = flow;
        let item =
            self.oracle.items[&origin.source][usize::try_from(origin.offset.0).unwrap()].clone();
        if let Some(failure) = self.failure(&item, origin, hop) {
            let goes_on = failure.kind == FailureKind::Reject && failure.origin.is_some();
            self.step_shard(shard, participant::Input::Failed { attempt, failure });
            if goes_on {
                self.step_shard(shard, participant::Input::WorkFinished { attempt, count: 1 });
            } else {
                self.shards[shard].work.retain(|(other, _)| *other != attempt);
            }
            return;
        }
        let partition = item.path[hop];
        assert_eq!(owner(partition), shard);
        self.write(shard, attempt, partition, Write { origin, hop, dead: false });
        if let Some(&next) = item.path.get(hop + 1) {
            let flow = Flow { origin, hop: hop + 1 };
            if owner(next) == shard {
                self.step_shard(shard, participant::Input::WorkStarted { attempt, count: 1 });
                self.shards[shard].work.push((attempt, flow));
            } else {
                self.step_shard(shard, participant::Input::BatchSent { attempt, count: 1 });
                if self.shards[owner(next)].up {
                    let queue = self.rows.entry((shard, owner(next))).or_default();
                    queue.push_back((attempt, flow));
                }
            }
        }
        self.step_shard(shard, participant::Input::WorkFinished { attempt, count: 1 });
    }

    pub(super) fn failure(&mut self, item: &Item, origin: Origin, hop: usize) -> Option<Failure> {
        let (kind, origin) = match item.bad {
            Bad::Named(at) if at == hop => (FailureKind::Reject, Some(origin)),
            Bad::Nameless(at) if at == hop => (FailureKind::Reject, None),
            Bad::Flaky(_) if hop == 0 => {
                let left = self.flaky.get_mut(&origin)?;
                *left = left.checked_sub(1)?;
                (FailureKind::Retry, Some(origin))
            }
            Bad::Never | Bad::Named(_) | Bad::Nameless(_) | Bad::Flaky(_) => return None,
        };
        Some(Failure { origin, kind, message: "planted".to_owned() })
    }

    pub(super) fn write(
        &mut self,
        shard: usize,
        attempt: AttemptId,
        partition: PartitionId,
        write: Write,
    ) {
        self.step_shard(shard, participant::Input::Touched { attempt, partition });
        let overlay = self.shards[shard].overlays.entry(attempt).or_default();
        overlay.entry(partition).or_default().insert(write);
    }

    pub(super) fn append(&mut self, source: Source) {
        let shard = owner(source.partition);
        let end = self.appended.get_mut(&source).unwrap();
        *end = end.advance(1);
        let ends = vec![SourceOffset { source, offset: *end }];
        if self.shards[shard].up {
            self.step_shard(shard, participant::Input::SourceEnds(ends));
        }
    }

    pub(super) fn tick(&mut self) {
        let wakes = self.shards.iter().filter_map(|shard| shard.wake).chain(self.wake);
        self.now = self.now.max(wakes.min().unwrap_or(self.now));
        if self.wake.is_some_and(|wake| wake <= self.now) {
            self.wake = None;
            self.step_home(coordinator::Input::Wake);
        }
        for shard in 0..SHARDS {
            if self.shards[shard].wake.is_some_and(|wake| wake <= self.now) {
                self.shards[shard].wake = None;
                self.step_shard(shard, participant::Input::Wake);
            }
        }
    }
}
