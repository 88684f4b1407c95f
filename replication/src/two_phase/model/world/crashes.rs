//! Journals become durable, or are lost; shards stop and recover.

use super::*;

impl World {
    pub(super) fn push(&mut self, shard: usize, entry: Entry, completion: Option<Completion>) {
        self.shards[shard].journal.push(entry);
        if let Some(completion) = completion {
            self.complete(shard, completion);
        }
    }

    /// Reports it when everything written up to now is durable.
    pub(super) fn complete(&mut self, shard: usize, completion: Completion) {
        let it = &mut self.shards[shard];
        it.completions.push_back((it.journal.len(), completion));
    }

    pub(super) fn flush(&mut self, shard: usize) {
        let it = &mut self.shards[shard];
        let more = 1 + self.rng.index(it.journal.len() - it.durable);
        self.make_durable(shard, more);
        loop {
            let it = &mut self.shards[shard];
            match it.completions.front() {
                Some(&(end, completion)) if end <= it.durable => {
                    it.completions.pop_front();
                    match completion {
                        Completion::Persisted(token) => {
                            self.step_home(coordinator::Input::Persisted(token));
                        }
                        Completion::Prepared(attempt) => {
                            let input = participant::Input::PrepareDurable { attempt };
                            self.step_shard(shard, input);
                        }
                        Completion::Committed(attempt) => {
                            let input = participant::Input::CommittedDurable { attempt };
                            self.step_shard(shard, input);
                        }
                    }
                }
                _ => return,
            }
        }
    }

    /// The next `count` entries have reached the disk.
    pub(super) fn make_durable(&mut self, shard: usize, count: usize) {
        let it = &mut self.shards[shard];
        let from = it.durable;
        it.durable += count;
        let fresh: Vec<_> = it.journal[from..it.durable].to_vec();
        for entry in fresh.iter().flat_map(Entry::parts) {
            if let Entry::Record(bytes) = entry
                && let Record::Decision(decision) = Record::decode(bytes).unwrap()
            {
                if decision.offsets.is_empty() && !decision.touched.is_empty() {
                    self.seen.mark("work without records");
                }
                let prepares = self.durable_prepares();
                let verdict = self.oracle.decision(&decision, &prepares);
                self.accuse(verdict);
            }
        }
    }

    pub(super) fn durable_prepares(&self) -> BTreeMap<(AttemptId, PartitionId), BTreeSet<Write>> {
        let mut prepares = BTreeMap::new();
        for shard in &self.shards {
            for entry in shard.journal[..shard.durable].iter().flat_map(Entry::parts) {
                if let Entry::Prepare { attempt, partition, writes } = entry {
                    prepares.insert((*attempt, *partition), writes.clone());
                }
            }
        }
        prepares
    }

    // ---- crashes

    pub(super) fn crash(&mut self, which: &[usize]) {
        for &shard in which {
            if !self.shards[shard].up {
                continue;
            }
            self.shards[shard].up = false;
            let unsynced = self.shards[shard].journal.len() - self.shards[shard].durable;
            let survives = self.rng.index(unsynced + 1);
            self.make_durable(shard, survives);
            let it = &mut self.shards[shard];
            it.journal.truncate(it.durable);
            it.completions.clear();
            it.overlays.clear();
            it.work.clear();
            it.held.clear();
            it.lazy.clear();
            it.wake = None;
            it.visible = MicrobatchId(0);
            it.visible_offsets.clear();
            self.from_home[shard].clear();
            for ((from, to), queue) in &mut self.rows {
                if *from == shard || *to == shard {
                    queue.clear();
                }
            }
            if shard == HOME {
                self.coordinator = None;
                self.held = false;
                self.wake = None;
                self.to_home.iter_mut().for_each(VecDeque::clear);
                self.from_home.iter_mut().for_each(VecDeque::clear);
            } else if self.coordinator.is_some() {
                // The last words may be lost; the news of the end is not.
                let kept = self.rng.index(self.to_home[shard].len() + 1);
                let lost = self.to_home[shard].split_off(kept);
                let news = lost.into_iter().filter(|lost| !matches!(lost, Packet::Bytes(_)));
                self.to_home[shard].extend(news);
                self.to_home[shard].push_back(Packet::Down);
                self.closed[shard] = true;
            }
        }
    }

    pub(super) fn restart(&mut self, shard: usize) {
        let journal = self.shards[shard].journal.clone();
        self.shards[shard].participant = self.recovered_participant(shard, &journal);
        self.shards[shard].up = true;
        if shard == HOME {
            self.restart_home(&journal);
        } else if self.coordinator.is_some() {
            self.to_home[shard].push_back(Packet::Up);
        }
        self.step_shard(shard, participant::Input::Start);
        let here = self.appended.iter().filter(|(source, _)| owner(source.partition) == shard);
        let ends: Vec<_> = here.map(|(&source, &offset)| SourceOffset { source, offset }).collect();
        self.step_shard(shard, participant::Input::SourceEnds(ends));
    }

    pub(super) fn restart_home(&mut self, journal: &[Entry]) {
        self.run = Run(self.run.0 + 1);
        let mut row = Row::default();
        let mut begins: Vec<Begin> = Vec::new();
        for entry in journal.iter().flat_map(Entry::parts) {
            if let Entry::Record(bytes) = entry {
                let record = Record::decode(bytes).unwrap();
                let added = row.add(&record).map_err(|error| error.to_string());
                self.accuse(added);
                if let Record::Begin(begin) = record {
                    let same = |other: &&Begin| {
                        other.attempt.id == begin.attempt.id && other.ranges == begin.ranges
                    };
                    if let Some(other) = begins.iter().find(same)
                        && other.began_us != begin.began_us
                    {
                        let verdict = format!("{other:?} began at another time than {begin:?}");
                        self.violation.get_or_insert(verdict);
                    }
                    begins.push(begin);
                }
            }
        }
        if begins.iter().any(|begin| begin.attempt.id > row.decided) {
            self.seen.mark("begin taken up");
        }
        if !row.unapplied.is_empty() {
            self.seen.mark("decided and unapplied at a crash");
        }
        let row = Row::decode(&row.encode()).unwrap();
        let config = coordinator::Config {
            own: ShardId(0),
            owners: (0..PARTITIONS).map(|p| ShardId(u16::try_from(p % SHARDS).unwrap())).collect(),
            records_max: 1 + self.options.seed % 3,
            faults: self.faults,
        };
        self.coordinator = Some(Coordinator::recover(config, self.run, Some(row), begins));
        for shard in 1..SHARDS {
            self.closed[shard] = !self.shards[shard].up;
            if self.closed[shard] {
                let down = ShardId(u16::try_from(shard).unwrap());
                self.step_home(coordinator::Input::ShardDown(down));
            }
        }
        self.step_home(coordinator::Input::Start);
    }

    pub(super) fn recovered_participant(&mut self, shard: usize, journal: &[Entry]) -> Participant {
        let mut prepares = BTreeSet::new();
        let mut committed = BTreeMap::new();
        for partition in (0..PARTITIONS).map(|p| PartitionId(u32::try_from(p).unwrap())) {
            if owner(partition) == shard {
                committed.insert(partition, MicrobatchId(0));
            }
        }
        for entry in journal.iter().flat_map(Entry::parts) {
            match entry {
                Entry::Prepare { attempt, partition, .. } => {
                    prepares.insert((*attempt, *partition));
                }
                Entry::Committed { attempt, partition } => {
                    prepares.remove(&(*attempt, *partition));
                    committed.insert(*partition, attempt.id);
                }
                Entry::Aborted { attempt, partition } => {
                    prepares.remove(&(*attempt, *partition));
                }
                Entry::Record(_) | Entry::Group(_) => {}
            }
        }
        if !prepares.is_empty() {
            self.seen.mark("prepared and undecided at a crash");
        }
        let mut ids = BTreeMap::<MicrobatchId, BTreeSet<AttemptId>>::new();
        for (attempt, _) in &prepares {
            ids.entry(attempt.id).or_default().insert(*attempt);
        }
        if ids.values().any(|attempts| attempts.len() > 1) {
            self.seen.mark("two attempts of one id prepared");
        }
        let config = participant::Config {
            own: ShardId(u16::try_from(shard).unwrap()),
            coordinator: ShardId(0),
            faults: self.faults,
        };
        let prepares = prepares.into_iter().collect();
        let committed = committed.into_iter().collect();
        Participant::recover(config, Recovered { prepares, committed })
    }
}
