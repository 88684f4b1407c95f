//! The executor: one seed is one run; crashes come between any two polls; shards pause, end, start.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::Duration;

use tidemill::env::{Buf, Class, Env, Open, Platform, Sender, Sync};
use tidemill::types::ShardId;
use tidemill_tests::disk::Faults;
use tidemill_tests::node::{After, Crash};
use tidemill_tests::world::{Finished, Options, Stuck, World};

const A: ShardId = ShardId(0);
const B: ShardId = ShardId(1);

/// Two shards that write, talk and sleep, under faults and crashes.
fn busy(seed: u64, log: bool) -> Finished<(u64, Vec<String>)> {
    let options = Options { log, ..Options::seed(seed) };
    World::run(&options, |world| async move {
        let node = world.node();
        node.disk().set_faults(Faults::errors());
        for _ in 0..4 {
            let crash = *world.random().pick(&[Crash::Kill, Crash::Power]);
            node.crash_after(After::Operations(20 + world.random().below(100)), crash);
            let crashes = node.crashes();
            for (shard, other) in [(A, B), (B, A)] {
                node.start(shard, move |env| Box::pin(work(env, other))).expect("not running");
            }
            node.crashed_beyond(crashes).await;
        }
        (node.crashes(), node.disk().paths())
    })
}

async fn work(env: Env, other: ShardId) {
    for number in 0.. {
        let path = format!("{}-{}", env.shard(), number % 3);
        let file = env.disk().open(&path, Open::Any).await.expect("opens never fail here");
        let writer = env.clone();
        env.spawn(Class::Core, "writer", async move {
            let at = writer.random() % 8 * 4096;
            drop(file.write(at, Buf::copy_of(&at.to_le_bytes()), Sync::No).await);
            drop(file.sync().await);
        });
        env.mesh().send(other, Box::new(number));
        if number > 0 {
            env.mesh().receive().await;
        }
        env.sleep(Duration::from_micros(env.random() % 300)).await;
    }
}

#[test]
fn one_seed_gives_one_trace_and_another_seed_another() {
    let mut traces = BTreeSet::new();
    for seed in 0..20 {
        let (first, second) = (busy(seed, false), busy(seed, true));
        assert_eq!(first.trace, second.trace, "seed {seed}");
        assert_eq!((first.events, first.polls), (second.events, second.polls));
        assert_eq!(first.counts, second.counts);
        assert_eq!(first.time, second.time);
        assert_eq!(first.result.unwrap(), second.result.unwrap());
        assert_eq!(second.log.len() as u64, second.events);
        traces.insert(first.trace);
    }
    assert_eq!(traces.len(), 20);
}

#[test]
fn a_crash_comes_at_any_await_and_drops_every_task() {
    let mut stopped_at = BTreeSet::new();
    for polls in 1..40 {
        let run = World::run(&Options::seed(polls), |world| async move {
            let node = world.node();
            let step = Rc::new(Cell::new(0));
            let seen = Rc::clone(&step);
            node.crash_after(After::Polls(polls), Crash::Kill);
            node.start(A, move |env| {
                Box::pin(async move {
                    loop {
                        env.yield_now().await;
                        seen.set(seen.get() + 1);
                    }
                })
            })
            .unwrap();
            node.crashed_beyond(0).await;
            world.sleep(Duration::from_secs(1)).await;
            assert_eq!(Rc::strong_count(&step), 1, "the task is gone with all it owned");
            step.get()
        });
        stopped_at.insert(run.result.unwrap());
    }
    assert_eq!(stopped_at.len(), 39);
}

#[test]
fn a_new_process_sees_the_disk_of_the_old_one_and_old_handles_reach_nothing() {
    let run = World::run(&Options::seed(3), |world| async move {
        let node = world.node();
        let old = node.platform();
        node.run(A, |env| async move {
            let file = env.disk().open("f", Open::New).await.unwrap();
            file.write(0, Buf::copy_of(b"tide"), Sync::Data).await.0.unwrap();
            env.disk().sync_dir(".").await.unwrap();
        })
        .await
        .unwrap();
        node.crash(Crash::Power);
        assert!(old.start(A, Box::new(|_| Box::pin(async {}))).is_err());
        old.ended(A).await;
        let read = node.run(A, |env| async move {
            let file = env.disk().open("f", Open::Existing).await.unwrap();
            file.read(0, Buf::zeroed(4096)).await.1[..4].to_vec()
        });
        read.await.unwrap()
    });
    assert_eq!(run.result.unwrap(), b"tide");
}

#[test]
fn parcels_of_one_sender_keep_their_order_and_come_from_the_right_one() {
    for seed in 0..20 {
        let run = World::run(&Options::seed(seed), |world| async move {
            let node = world.node();
            let got = Rc::new(RefCell::new(Vec::new()));
            let sink = Rc::clone(&got);
            node.start(B, move |env| {
                Box::pin(async move {
                    while sink.borrow().len() < 200 {
                        for (sender, parcel) in env.mesh().receive().await {
                            sink.borrow_mut().push((sender, *parcel.downcast::<u64>().unwrap()));
                        }
                    }
                })
            })
            .unwrap();
            node.start(A, |env| {
                Box::pin(async move {
                    for number in 0..100_u64 {
                        env.mesh().send(B, Box::new(number));
                        env.yield_now().await;
                    }
                })
            })
            .unwrap();
            for number in 0..100_u64 {
                node.platform().post(B, Box::new(number));
            }
            node.platform().ended(B).await;
            got.take()
        });
        let got = run.result.unwrap();
        for sender in [Sender::Client, Sender::Shard(A)] {
            let numbers: Vec<u64> =
                got.iter().filter(|(from, _)| *from == sender).map(|(_, number)| *number).collect();
            assert_eq!(numbers, (0..100).collect::<Vec<_>>());
        }
    }
}

#[test]
fn a_paused_shard_stands_still_and_a_killed_one_can_start_again() {
    let run = World::run(&Options::seed(5), |world| async move {
        let node = world.node();
        let count = Rc::new(Cell::new(0_u64));
        let counter = Rc::clone(&count);
        let main = move |env: Env| -> tidemill::env::LocalFuture<'static, ()> {
            Box::pin(async move {
                loop {
                    env.sleep(Duration::from_millis(1)).await;
                    counter.set(counter.get() + 1);
                }
            })
        };
        node.start(A, main).unwrap();
        world.sleep(Duration::from_millis(100)).await;
        assert!(count.get() > 50);
        node.pause_shard(A, Duration::from_secs(1));
        let before = count.get();
        world.sleep(Duration::from_millis(900)).await;
        assert_eq!(count.get(), before);
        world.sleep(Duration::from_millis(300)).await;
        assert!(count.get() > before + 50);
        node.kill_shard(A);
        node.platform().ended(A).await;
        assert_eq!(Rc::strong_count(&count), 1);
        assert_eq!(node.run(A, |_| async { 9 }).await, Some(9));
    });
    run.result.unwrap();
}

#[test]
fn a_deadlock_and_a_spinning_task_are_reported() {
    let run = World::run(&Options::seed(1), |_| std::future::pending::<()>());
    assert!(matches!(run.result, Err(Stuck::Deadlock(_))));
    let options = Options { polls_max: 1000, ..Options::seed(1) };
    let run = World::run(&options, |world| async move {
        let node = world.node();
        node.run(A, |env| async move {
            loop {
                env.yield_now().await;
            }
        })
        .await
    });
    assert!(matches!(run.result, Err(Stuck::Polls { .. })));
}

#[test]
fn a_shard_that_lets_its_operation_run_on_has_not_ended() {
    let run = World::run(&Options::seed(8), |world| async move {
        let node = world.node();
        node.run(A, |env| async move {
            let file = env.disk().open("f", Open::New).await.unwrap();
            drop(file.write(0, Buf::copy_of(b"late"), Sync::No));
        })
        .await
        .unwrap();
        node.disk().contents("f").unwrap()[..4].to_vec()
    });
    assert_eq!(run.result.unwrap(), b"late");
}
