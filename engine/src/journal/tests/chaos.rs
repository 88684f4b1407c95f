//! Many lives of one journal on a disk that forgets: nothing acknowledged is lost, nothing dropped
//! comes back, groups stay whole.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::chaos_disk::ChaosDisk;
use super::*;

/// What the owner of the journal knows, crashes or not.
#[derive(Default)]
struct Model {
    partitions: RefCell<BTreeMap<u32, Sequenced>>,
    /// Groups that were appended in this life: entries and whether the caller heard of it.
    groups: RefCell<Vec<Appended>>,
    appends: Cell<u64>,
    recycled: Cell<u64>,
    torn: Cell<u64>,
    copied: Cell<u64>,
    failed: Cell<u64>,
}

struct Appended {
    entries: Vec<(u32, u64, Vec<u8>)>,
    durable: bool,
}

#[derive(Default)]
struct Sequenced {
    next: u64,
    covered: u64,
    pending: BTreeSet<u64>,
    /// What must be found above `covered`, or pending.
    durable: BTreeMap<u64, Vec<u8>>,
}

fn small(run: u64, disk: &ChaosDisk) -> Options {
    Options {
        file_bytes: 32 << 10,
        bytes_max: 256 << 10,
        frame_bytes_max: 4096 << disk.random(3),
        seal_idle_after: Duration::from_micros(disk.random(2000)),
        in_flight_max: 1 + usize::try_from(disk.random(6)).unwrap(),
        ..Options::new(ID, Run(run))
    }
}

impl Model {
    /// Compares what recovery found with what must and may be there, and takes it over.
    fn check(&self, groups: &[Group]) {
        let mut merged: BTreeMap<u32, Sequence> = BTreeMap::new();
        for entry in groups.iter().flat_map(|group| &group.entries) {
            let of =
                merged.entry(entry.partition.0).or_insert_with(|| Sequence::new(entry.partition));
            of.insert(entry.clone()).unwrap();
        }
        let mut found: BTreeMap<(u32, u64), Vec<u8>> = BTreeMap::new();
        for entry in merged.values().flat_map(Sequence::iter) {
            found.insert((entry.partition.0, entry.index.0), entry.bytes.to_vec());
        }
        // Groups of the last life: all or nothing, a prefix of the appends, at least what was heard.
        let mut lost = false;
        let mut partitions = self.partitions.borrow_mut();
        for appended in self.groups.take() {
            let there = |(partition, index, bytes): &(u32, u64, Vec<u8>)| {
                let found = found.get(&(*partition, *index));
                let of = &partitions[partition];
                let needed = *index > of.covered || of.pending.contains(index);
                needed.then_some(found == Some(bytes))
            };
            let there: BTreeSet<bool> = appended.entries.iter().filter_map(there).collect();
            assert!(there.len() <= 1, "a group is there in part");
            let Some(&there) = there.first() else { continue };
            assert!(there || !appended.durable, "an acknowledged group is lost");
            assert!(!(lost && there), "a group came back behind one that is lost");
            lost |= !there;
            if there {
                for (partition, index, bytes) in appended.entries {
                    partitions.get_mut(&partition).unwrap().durable.insert(index, bytes);
                }
            }
        }
        for (partition, of) in partitions.iter_mut() {
            let covered = of.covered;
            of.durable.retain(|index, _| *index > covered || of.pending.contains(index));
            let last =
                of.durable.last_key_value().map_or(covered, |(index, _)| (*index).max(covered));
            of.next = last + 1;
            let sequence =
                merged.remove(partition).unwrap_or_else(|| Sequence::new(PartitionId(*partition)));
            let pending: Vec<Index> = of.pending.iter().map(|index| Index(*index)).collect();
            let above = sequence.above(Index(covered), &pending).unwrap();
            let above: BTreeMap<u64, Vec<u8>> =
                above.iter().map(|entry| (entry.index.0, entry.bytes.to_vec())).collect();
            assert!(above == of.durable, "partition {partition} holds other entries");
        }
    }
}

async fn live(env: Env, disk: ChaosDisk, memo: Rc<Memo>, model: Rc<Model>, run: u64) {
    let options = small(run, &disk);
    let journal = if run == 1 {
        Journal::create(&env, options, Rc::clone(&memo) as _).await.unwrap()
    } else {
        let (groups, recovered) = recover(&env, &memo, run, None).await.unwrap();
        model.check(&groups);
        model.torn.set(model.torn.get() + u64::from(recovered.torn.is_some()));
        Journal::resume(&env, options, recovered, Rc::clone(&memo) as _).await.unwrap()
    };
    for (partition, of) in &*model.partitions.borrow() {
        let pending: Vec<Index> = of.pending.iter().map(|index| Index(*index)).collect();
        journal.covered(PartitionId(*partition), Index(of.covered), &pending);
    }
    if run.is_multiple_of(4) {
        disk.fail_one_write_in(60);
    }
    let steps = disk.random(80);
    for _ in 0..steps {
        if step(&env, &disk, &memo, &model, &journal, run).await.is_err() {
            assert!(journal.failed().is_some());
            model.failed.set(model.failed.get() + 1);
            return;
        }
    }
}

async fn step(
    env: &Env,
    disk: &ChaosDisk,
    memo: &Memo,
    model: &Rc<Model>,
    journal: &Journal,
    run: u64,
) -> Result<(), Error> {
    match disk.random(10) {
        0..=5 => {
            let mut entries = Vec::new();
            let mut used = BTreeSet::new();
            for _ in 0..=disk.random(2) {
                let partition = u32::try_from(disk.random(3)).unwrap();
                if !used.insert(partition) {
                    continue;
                }
                let mut partitions = model.partitions.borrow_mut();
                let of = partitions.entry(partition).or_default();
                of.next = of.next.max(1);
                let size = [10, 700, 4040, 9000, 30_000][usize::try_from(disk.random(5)).unwrap()];
                let size = size + usize::try_from(disk.random(50)).unwrap();
                let mut bytes = vec![u8::try_from(disk.random(256)).unwrap(); size];
                bytes[..8].copy_from_slice(&run.to_le_bytes());
                entries.push((partition, of.next, bytes));
                of.next += 1;
            }
            let refs: Vec<_> = entries.iter().map(|(p, i, b)| entry(*p, *i, b)).collect();
            let bytes: usize = entries.iter().map(|(_, _, bytes)| bytes.len() + 28).sum();
            // What nobody covers would make a client wait for ever.
            let who = if journal.used_bytes() > journal.bytes_max() / 2 {
                cover(model, journal, true);
                for partition in journal.holders() {
                    let copied = journal.copy_forward(partition, |_| true).await?;
                    model.copied.set(model.copied.get() + copied);
                }
                Admission::System
            } else {
                Admission::Client
            };
            journal.admit(bytes, who).await?;
            let ticket = journal.append(&refs)?;
            let number = model.groups.borrow().len();
            model.groups.borrow_mut().push(Appended { entries, durable: false });
            model.appends.set(model.appends.get() + 1);
            let (waiting, journal) = (Rc::clone(model), journal.clone());
            env.spawn(crate::env::Class::Client, "wait", async move {
                if journal.wait(ticket).await.is_ok()
                    && let Some(group) = waiting.groups.borrow_mut().get_mut(number)
                {
                    group.durable = true;
                }
            });
        }
        6 | 7 => env.sleep(Duration::from_micros(disk.random(3000))).await,
        8 => cover(model, journal, false),
        _ => {
            if !model.groups.borrow().is_empty() {
                journal.advanced(Ticket(0)).await?;
            }
            journal.seal_idle();
        }
    }
    model.recycled.set(model.recycled.get().max(memo.first().number.0));
    journal.failed().map_or(Ok(()), Err)
}

/// Folds what is known to be durable, leaving a prepare or two.
fn cover(model: &Model, journal: &Journal, all: bool) {
    let mut partitions = model.partitions.borrow_mut();
    // The last index of each partition that is durable with everything before it.
    let mut last: BTreeMap<u32, u64> = BTreeMap::new();
    for (partition, of) in &*partitions {
        if let Some((index, _)) = of.durable.last_key_value() {
            last.insert(*partition, *index);
        }
    }
    for group in model.groups.borrow().iter().take_while(|group| group.durable) {
        for (partition, index, _) in &group.entries {
            last.insert(*partition, *index);
        }
    }
    for (partition, last) in last {
        let of = partitions.get_mut(&partition).unwrap();
        if last <= of.covered || !all && last % 3 == 0 {
            continue;
        }
        of.covered = last;
        if of.pending.len() > 2 || all {
            of.pending.pop_first();
        }
        if last % 2 == 0 {
            of.pending.insert(last);
        }
        let pending: Vec<Index> = of.pending.iter().map(|index| Index(*index)).collect();
        journal.covered(PartitionId(partition), Index(last), &pending);
    }
}

fn lives(seed: u64, count: u64) -> Rc<Model> {
    let disk = ChaosDisk::new(seed);
    let (memo, model) = (Memo::new(), Rc::new(Model::default()));
    for life in 1..=count {
        let (disk_here, memo, model) = (disk.clone(), Rc::clone(&memo), Rc::clone(&model));
        run(&MemoryDisk::new(), move |env| async move {
            let env = disk_here.attach(&env);
            live(env, disk_here, memo, model, life).await;
        });
        disk.fail_one_write_in(0);
        if disk.random(2) == 0 { disk.kill() } else { disk.power_failure() }
    }
    model
}

#[test]
fn nothing_acknowledged_is_lost_and_nothing_dropped_comes_back() {
    let (mut recycled, mut torn, mut copied, mut failed, mut appends) = (0, 0, 0, 0, 0);
    for seed in 0..60 {
        let model = lives(seed, 12);
        recycled += u64::from(model.recycled.get() > 5);
        torn += model.torn.get();
        copied += u64::from(model.copied.get() > 0);
        failed += model.failed.get();
        appends += model.appends.get();
    }
    // The test is worth something only if all of this happened.
    assert!(
        recycled > 20 && torn > 20 && copied > 5 && failed > 5,
        "{recycled} {torn} {copied} {failed}"
    );
    assert!(appends > 8_000, "{appends}");
}

/// Each bug that can be planted here is noticed, and the states that must occur do.
#[cfg(feature = "simulation")]
#[test]
fn planted_bugs_are_noticed() {
    use crate::probe::{Plant, State, switch_on, take_reached};

    drop(take_reached());
    for seed in 0..20 {
        lives(seed, 12);
    }
    let reached = take_reached();
    for state in [State::GapWithSurvivors, State::StaleFrames] {
        assert!(reached.contains_key(&state), "{}", state.name());
    }
    for plant in [
        Plant::AckBeforeSync,
        Plant::ReusedFileTakenForNew,
        Plant::FrameBeyondGap,
        Plant::SkippedDirectorySync,
    ] {
        let noticed = (0..100).find(|&seed| {
            switch_on(Some(plant));
            let result = std::panic::catch_unwind(|| lives(seed, 12));
            switch_on(None);
            result.is_err()
        });
        assert!(noticed.is_some(), "{} goes unnoticed", plant.name());
        println!("{}: {noticed:?}", plant.name());
    }
}
