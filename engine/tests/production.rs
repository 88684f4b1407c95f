//! The production environment on a real disk, as far as the machine has one.

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test of real threads and real time"
)]

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_channel::oneshot;
use tidemill::env::production::{Error, Options, Production, Threads};
use tidemill::env::{Buf, Class, Env, LocalFuture, Open, Platform, Sender, Sync, suite};
use tidemill::types::ShardId;

/// A directory of its own for each test, on the disk that holds the build.
struct Dir(PathBuf);

impl Dir {
    fn new(name: &str) -> Self {
        static SERIAL: AtomicU64 = AtomicU64::new(0);
        let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
        let name = format!("{name}-{}-{serial}", std::process::id());
        Self(PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name))
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.0));
    }
}

/// Opens `dir`, or says why this machine cannot and returns `None`.
fn open(dir: &Dir, shards: u16) -> Option<Arc<Production>> {
    match Production::open(&dir.0, Options { shards, ..Options::default() }) {
        Ok(production) => Some(production),
        Err(Error::Unfit { reason, .. }) => {
            eprintln!("skipped: {reason}");
            None
        }
        Err(error) => panic!("{error:?}"),
    }
}

/// Enough of an executor for a test's thread.
fn wait<T>(future: impl Future<Output = T>) -> T {
    struct Unpark(std::thread::Thread);
    impl std::task::Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Arc::new(Unpark(std::thread::current())).into();
    let mut context = std::task::Context::from_waker(&waker);
    let mut future = std::pin::pin!(future);
    loop {
        if let std::task::Poll::Ready(value) = future.as_mut().poll(&mut context) {
            return value;
        }
        std::thread::park();
    }
}

/// Runs `body` on `shard` and waits for its result; `None` if the shard panicked.
fn start<T: Send + 'static>(
    production: &Production,
    shard: ShardId,
    body: impl FnOnce(Env) -> LocalFuture<'static, T> + Send + 'static,
) -> oneshot::Receiver<T> {
    let (done, result) = oneshot::channel();
    let main = move |env: Env| -> LocalFuture<'static, ()> {
        let future = body(env);
        Box::pin(async move {
            drop(done.send(future.await));
        })
    };
    production.start(shard, Box::new(main)).unwrap();
    result
}

#[test]
fn production_conforms() {
    let dir = Dir::new("conforms");
    let Some(production) = open(&dir, 1) else { return };
    let done =
        start(&production, ShardId(0), |env| Box::pin(async move { suite::all(&env).await }));
    wait(done).expect("the suite passed");
    wait(production.ended(ShardId(0)));
    // A shard can be started again, on what it left.
    let listed = start(&production, ShardId(0), |env| {
        Box::pin(async move { env.disk().list("suite").await.unwrap() })
    });
    assert!(wait(listed).unwrap().contains(&"bytes".to_owned()));
}

#[test]
fn shards_talk_to_each_other() {
    let dir = Dir::new("talk");
    let Some(production) = open(&dir, 2) else { return };
    let one = start(&production, ShardId(0), |env| {
        Box::pin(async move { suite::mesh_between(&env, ShardId(1), 20_000).await })
    });
    let two = start(&production, ShardId(1), |env| {
        Box::pin(async move { suite::mesh_between(&env, ShardId(0), 20_000).await })
    });
    wait(one).expect("shard 0 got everything");
    wait(two).expect("shard 1 got everything");
}

type Request = (u64, oneshot::Sender<u64>);

/// Answers every number with its successor until it gets `u64::MAX`.
async fn serve(env: Env) {
    loop {
        for (sender, parcel) in env.mesh().receive().await {
            assert_eq!(sender, Sender::Client);
            let (number, answer) = *parcel.downcast::<Request>().unwrap();
            if number == u64::MAX {
                return;
            }
            answer.send(number + 1).unwrap();
        }
    }
}

#[test]
fn clients_get_answers_also_from_a_sleeping_shard() {
    let dir = Dir::new("clients");
    let Some(production) = open(&dir, 1) else { return };
    let served = start(&production, ShardId(0), |env| Box::pin(serve(env)));
    let ask = |production: &Production, number: u64| {
        let (answer, wait) = oneshot::channel::<u64>();
        production.post(ShardId(0), Box::new((number, answer)));
        wait
    };
    std::thread::scope(|scope| {
        for client in 0..4_u64 {
            let production = &production;
            scope.spawn(move || {
                for round in 0..500 {
                    let number = client * 1_000_000 + round;
                    assert_eq!(wait(ask(production, number)), Ok(number + 1));
                    // Long enough for the shard to park, now and then.
                    if round % 50 == 0 {
                        std::thread::sleep(Duration::from_millis(2));
                    }
                }
            });
        }
    });
    drop(ask(&production, u64::MAX));
    wait(served).expect("it ended by itself");
    wait(production.ended(ShardId(0)));
    // Nobody is there any more: the parcel is dropped, and whoever waits hears of it.
    assert!(wait(ask(&production, 1)).is_err());
    assert!(
        wait({
            let (answer, wait) = oneshot::channel::<u64>();
            production.post(ShardId(9), Box::new((1_u64, answer)));
            wait
        })
        .is_err()
    );
}

#[test]
fn parcels_to_a_shard_that_ends_are_dropped_and_not_kept() {
    let dir = Dir::new("lives");
    let Some(production) = open(&dir, 1) else { return };
    for _ in 0..20 {
        let ended = start(&production, ShardId(0), |env| Box::pin(serve(env)));
        std::thread::scope(|scope| {
            for _ in 0..2 {
                let production = &production;
                scope.spawn(move || {
                    loop {
                        let (answer, answered) = oneshot::channel::<u64>();
                        production.post(ShardId(0), Box::new((1_u64, answer)));
                        if wait(answered).is_err() {
                            // Without the drop this thread would wait for ever.
                            return;
                        }
                    }
                });
            }
            std::thread::sleep(Duration::from_millis(1));
            let (answer, _wait) = oneshot::channel::<u64>();
            production.post(ShardId(0), Box::new((u64::MAX, answer)));
        });
        wait(ended).unwrap();
        wait(production.ended(ShardId(0)));
    }
}

#[test]
fn a_panic_ends_its_shard_and_nothing_else() {
    let dir = Dir::new("panic");
    let Some(production) = open(&dir, 2) else { return };
    let other = start(&production, ShardId(1), |env| Box::pin(serve(env)));
    for in_task in [false, true] {
        let failed = start(&production, ShardId(0), move |env| {
            Box::pin(async move {
                if in_task {
                    env.spawn(Class::Background, "fails", async { panic!("on purpose") });
                    std::future::pending::<()>().await;
                }
                panic!("on purpose");
            })
        });
        let result: Result<(), _> = wait(failed);
        assert!(result.is_err());
        wait(production.ended(ShardId(0)));
    }
    let (answer, answered) = oneshot::channel::<u64>();
    production.post(ShardId(1), Box::new((6_u64, answer)));
    assert_eq!(wait(answered), Ok(7));
    let (answer, _) = oneshot::channel::<u64>();
    production.post(ShardId(1), Box::new((u64::MAX, answer)));
    wait(other).unwrap();
}

#[test]
fn tasks_end_with_their_shard() {
    struct Gone(Arc<AtomicU64>);
    impl Drop for Gone {
        fn drop(&mut self) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }
    let dir = Dir::new("tasks");
    let Some(production) = open(&dir, 1) else { return };
    let gone = Arc::new(AtomicU64::new(0));
    let counter = Arc::clone(&gone);
    let done = start(&production, ShardId(0), move |env| {
        Box::pin(async move {
            for _ in 0..10 {
                let (guard, sleeper) = (Gone(Arc::clone(&counter)), env.clone());
                env.spawn(Class::Topology, "sleeps", async move {
                    let _guard = guard;
                    let _env = sleeper.clone();
                    sleeper.sleep(Duration::from_hours(1)).await;
                });
            }
            env.sleep(Duration::from_millis(1)).await;
        })
    });
    wait(done).unwrap();
    wait(production.ended(ShardId(0)));
    assert_eq!(gone.load(Ordering::SeqCst), 10);
}

#[test]
fn a_directory_has_one_owner() {
    let dir = Dir::new("owner");
    let Some(production) = open(&dir, 1) else { return };
    let second = Production::open(&dir.0, Options::default()).expect_err("it is locked");
    let pid = std::process::id();
    assert!(matches!(second, Error::Locked { pid: Some(owner), .. } if owner == pid), "{second}");
    assert!(second.to_string().contains(&format!("process {pid}")), "{second}");

    // A running shard keeps the lock; an ended one has given it back.
    let (stop, stopped) = oneshot::channel::<()>();
    let done = start(&production, ShardId(0), |_| {
        Box::pin(async move {
            stopped.await.unwrap_or_default();
        })
    });
    let ended = production.ended(ShardId(0));
    assert!(production.start(ShardId(0), Box::new(|_| Box::pin(async {}))).is_err());
    assert!(production.start(ShardId(1), Box::new(|_| Box::pin(async {}))).is_err());
    drop(production);
    assert!(Production::open(&dir.0, Options::default()).is_err());
    drop(stop);
    wait(done).unwrap();
    wait(ended);
    Production::open(&dir.0, Options::default()).expect("nobody has it");
}

#[test]
fn memory_is_refused_as_a_disk() {
    let shm = PathBuf::from("/dev/shm");
    if tidemill::env::production::file_system(&shm).ok().as_deref() != Some("tmpfs") {
        eprintln!("skipped: no tmpfs at hand");
        return;
    }
    let dir = Dir(shm.join(format!("tidemill-{}", std::process::id())));
    let error = Production::open(&dir.0, Options::default()).expect_err("tmpfs is refused");
    assert!(error.to_string().contains("tmpfs"), "{error}");
    assert!(error.to_string().contains("choose a directory on a disk"), "{error}");
}

#[test]
fn a_full_disk_is_refused() {
    let dir = Dir::new("full");
    let options = Options { free_bytes_min: u64::MAX, ..Options::default() };
    let error = Production::open(&dir.0, options).expect_err("no disk is that large");
    assert!(error.to_string().contains("free some space"), "{error}");
}

#[test]
fn a_slow_poll_is_named() {
    let dir = Dir::new("slow");
    let Some(production) = open(&dir, 1) else { return };
    let done = start(&production, ShardId(0), |env| {
        Box::pin(async move {
            let (done, wait) = oneshot::channel();
            env.spawn(Class::Background, "sleeps on the job", async move {
                std::thread::sleep(Duration::from_millis(5));
                done.send(()).unwrap();
            });
            wait.await.unwrap();
        })
    });
    wait(done).unwrap();
    wait(production.ended(ShardId(0)));
    let polls = production.slow_polls();
    assert!(polls.count >= 1);
    let slow = polls.recent.iter().find(|poll| poll.task == "sleeps on the job").unwrap();
    assert!(slow.duration >= Duration::from_millis(5));
    assert_eq!(slow.shard, ShardId(0));
}

#[test]
fn errors_keep_what_the_system_said() {
    let dir = Dir::new("errors");
    let Some(production) = open(&dir, 1) else { return };
    let done = start(&production, ShardId(0), |env| {
        Box::pin(async move {
            env.disk().create_dir("d").await.unwrap();
            let error = env.disk().open("d", Open::Any).await.err().unwrap();
            assert_eq!(error.raw_os_error(), Some(libc::EISDIR));
            let error = env.disk().open("absent/f", Open::Any).await.err().unwrap();
            assert_eq!(error.raw_os_error(), Some(libc::ENOENT));
            let error = env.disk().remove("d").await.unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::EISDIR));
            let file = env.disk().open("f", Open::New).await.unwrap();
            let error = file.allocate(1 << 60).await.unwrap_err();
            assert!(matches!(error.raw_os_error(), Some(libc::EFBIG | libc::ENOSPC)), "{error:?}");
            let (result, buf) = file.write(1 << 62, Buf::copy_of(b"far"), Sync::Data).await;
            assert_eq!(result.unwrap_err().raw_os_error(), Some(libc::EFBIG));
            assert_eq!(&buf[..3], b"far", "the buffer comes back with the error");
        })
    });
    wait(done).unwrap();
}

#[test]
fn nothing_is_forgotten_while_others_want_the_cores() {
    let dir = Dir::new("contention");
    let Some(production) = open(&dir, 2) else { return };
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    std::hint::spin_loop();
                }
            });
        }
        let work = |shard: u16| {
            start(&production, ShardId(shard), move |env| {
                Box::pin(async move {
                    let name = format!("f{shard}");
                    let file = env.disk().open(&name, Open::New).await.unwrap();
                    for n in 0..100 {
                        let buf = Buf::zeroed(4096);
                        file.write(n * 4096, buf, Sync::Data).await.0.unwrap();
                        // Now the shard parks first, now it does not.
                        env.sleep(Duration::from_micros(env.random() % 200)).await;
                        env.mesh().send(env.shard(), Box::new(n));
                        assert_eq!(env.mesh().receive().await.len(), 1);
                        env.yield_now().await;
                    }
                })
            })
        };
        let both = [work(0), work(1)];
        let results = both.map(wait);
        stop.store(true, Ordering::Relaxed);
        assert!(results.iter().all(Result::is_ok), "{results:?}");
    });
}

#[test]
fn what_is_in_flight_when_a_shard_ends_is_finished() {
    let dir = Dir::new("flight");
    let Some(production) = open(&dir, 1) else { return };
    let blocks = 200_u64;
    for end in ["returns", "panics"] {
        let done = start(&production, ShardId(0), move |env| {
            Box::pin(async move {
                let file = env.disk().open(end, Open::New).await.unwrap();
                for n in 0..blocks {
                    drop(file.write(n * 4096, Buf::copy_of(&n.to_le_bytes()), Sync::No));
                }
                assert_eq!(end, "returns", "on purpose");
            })
        });
        assert_eq!(wait(done).is_ok(), end == "returns");
        wait(production.ended(ShardId(0)));
        let bytes = std::fs::read(dir.0.join(end)).unwrap();
        for (n, block) in (0..blocks).zip(bytes.chunks(4096)) {
            assert_eq!(block[..8], n.to_le_bytes(), "block {n} of the shard that {end}");
        }
        assert_eq!(bytes.len() as u64, blocks * 4096);
    }
}

#[test]
fn an_idle_shard_sleeps() {
    let dir = Dir::new("idle");
    let Some(production) = open(&dir, 2) else { return };
    let idle = |shard| {
        start(&production, shard, |env| {
            Box::pin(async move {
                env.sleep(Duration::from_millis(200)).await;
                let before = thread_cpu();
                env.sleep(Duration::from_secs(1)).await;
                thread_cpu().saturating_sub(before)
            })
        })
    };
    let both = [idle(ShardId(0)), idle(ShardId(1))];
    for cpu in both {
        let cpu = wait(cpu).unwrap();
        assert!(cpu < Duration::from_millis(20), "an idle second took {cpu:?} of CPU");
    }
}

#[test]
fn one_core_is_enough_for_two_shards_that_never_park_and_a_client() {
    const ROUNDS: u32 = 1_000;

    let dir = Dir::new("one-core");
    // The shards' threads inherit it.
    stay_on_one_core();
    let threads = Threads { spin: Duration::from_hours(1), ..Threads::default() };
    let options = Options { shards: 2, threads, ..Options::default() };
    let production = match Production::open(&dir.0, options) {
        Ok(production) => production,
        Err(Error::Unfit { reason, .. }) => return eprintln!("skipped: {reason}"),
        Err(error) => panic!("{error:?}"),
    };
    let shards = [ShardId(0), ShardId(1)];
    let served = shards.map(|shard| {
        start(&production, shard, |env| {
            Box::pin(async move {
                let before = thread_cpu();
                serve(env).await;
                thread_cpu().saturating_sub(before)
            })
        })
    });
    for number in 0..u64::from(ROUNDS) {
        for shard in shards {
            let (answer, answered) = oneshot::channel::<u64>();
            production.post(shard, Box::new((number, answer)));
            assert_eq!(wait(answered), Ok(number + 1));
        }
    }
    for shard in shards {
        let (answer, _unheard) = oneshot::channel::<u64>();
        production.post(shard, Box::new((u64::MAX, answer)));
    }
    // CPU and not time, which others may take: a shard that kept the core would spin through its slice,
    // milliseconds, before the other one could answer.
    for served in served {
        let cpu = wait(served).unwrap() / ROUNDS;
        assert!(cpu < Duration::from_micros(300), "an answer took {cpu:?} of a shard's CPU");
    }
}

#[test]
fn a_shard_that_has_work_does_not_look_for_more() {
    const TURNS: u32 = 100;

    let dir = Dir::new("no-burning");
    let threads = Threads { spin: Duration::from_hours(1), ..Threads::default() };
    let production = match Production::open(&dir.0, Options { threads, ..Options::default() }) {
        Ok(production) => production,
        Err(Error::Unfit { reason, .. }) => return eprintln!("skipped: {reason}"),
        Err(error) => panic!("{error:?}"),
    };
    let measured = start(&production, ShardId(0), |env| {
        Box::pin(async move {
            let (done, result) = oneshot::channel();
            let worker = env.clone();
            // Of a class that gets less of the core than the poller's.
            env.spawn(Class::Topology, "worker", async move {
                let (began, mut worked) = (thread_cpu(), Duration::ZERO);
                for _ in 0..TURNS {
                    let before = thread_cpu();
                    while !worker.should_yield() {
                        std::hint::spin_loop();
                    }
                    worked += thread_cpu().saturating_sub(before);
                    worker.yield_now().await;
                }
                done.send((worked, thread_cpu().saturating_sub(began))).unwrap();
            });
            result.await.unwrap()
        })
    });
    // CPU of the shard's own thread, not time. By its share the poller would get 2.5 times as much of the
    // core as the worker.
    let (worked, all) = wait(measured).unwrap();
    assert!(worked * 3 > all * 2, "of {all:?} of CPU, work got {worked:?}");
}

/// Binds this thread, and those it starts, to the first core it may run on.
fn stay_on_one_core() {
    // SAFETY: a set of cores is plain bits, for which zeros are valid.
    let mut cores: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: `cores` is writable for the call and as long as it says.
    let got = unsafe { libc::sched_getaffinity(0, size_of_val(&cores), &raw mut cores) };
    assert_eq!(got, 0);
    // SAFETY: the core is below the size of the set.
    let may = |core: &usize| unsafe { libc::CPU_ISSET(*core, &cores) };
    let size = usize::try_from(libc::CPU_SETSIZE).unwrap();
    let first = (0..size).find(may).expect("a thread may run somewhere");
    // SAFETY: as above.
    let mut one: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: the core is below the size of the set.
    unsafe { libc::CPU_SET(first, &mut one) };
    // SAFETY: `one` is readable for the call and as long as it says.
    let set = unsafe { libc::sched_setaffinity(0, size_of_val(&one), &raw const one) };
    assert_eq!(set, 0);
}

fn thread_cpu() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is writable for the call.
    let result = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    assert_eq!(result, 0);
    Duration::new(u64::try_from(time.tv_sec).unwrap(), u32::try_from(time.tv_nsec).unwrap())
}

#[test]
fn a_busy_shard_hears_soon_of_what_another_thread_resolves() {
    const BUSY: Duration = Duration::from_micros(100);
    const ROUNDS: usize = 40;

    let dir = Dir::new("wake");
    let Some(production) = open(&dir, 1) else { return };
    // How often the busy task has run: unlike time, it stands still where the machine is busy elsewhere.
    let polls = Arc::new(AtomicU64::new(0));
    let (give, take) = std::sync::mpsc::channel::<oneshot::Sender<u64>>();
    let counted = Arc::clone(&polls);
    let waits = start(&production, ShardId(0), move |env| {
        Box::pin(async move {
            let (busy, of) = (env.clone(), Arc::clone(&counted));
            env.spawn(Class::Topology, "busy", async move {
                loop {
                    let until = busy.now().after(BUSY);
                    while busy.now() < until {}
                    of.fetch_add(1, Ordering::SeqCst);
                    busy.yield_now().await;
                }
            });
            let mut waits = Vec::new();
            for _ in 0..ROUNDS {
                let (resolve, resolved) = oneshot::channel();
                give.send(resolve).unwrap();
                let resolved_at = resolved.await.unwrap();
                waits.push(counted.load(Ordering::SeqCst) - resolved_at);
            }
            waits
        })
    });
    let resolver = std::thread::spawn(move || {
        while let Ok(resolve) = take.recv() {
            std::thread::sleep(Duration::from_micros(700));
            resolve.send(polls.load(Ordering::SeqCst)).unwrap();
        }
    });
    let mut waits = wait(waits).unwrap();
    resolver.join().unwrap();
    waits.sort_unstable();
    let median = waits[ROUNDS / 2];
    assert!(median <= 5, "the busy task ran {median} times before another heard: {waits:?}");
}

#[test]
fn a_sleeping_shard_hears_what_another_thread_resolves_also_in_a_later_life() {
    let dir = Dir::new("sleeping");
    let Some(production) = open(&dir, 1) else { return };
    let mut kept = Vec::new();
    for life in 0..3_u64 {
        let (give, take) = std::sync::mpsc::channel::<oneshot::Sender<u64>>();
        let (never, unheard) = oneshot::channel::<u64>();
        let sum = start(&production, ShardId(0), move |env| {
            Box::pin(async move {
                env.spawn(Class::Core, "waits for ever", async move {
                    assert!(unheard.await.is_err());
                });
                let mut sum = 0;
                for _ in 0..20 {
                    let (resolve, resolved) = oneshot::channel();
                    give.send(resolve).unwrap();
                    sum += resolved.await.unwrap();
                }
                sum
            })
        });
        while let Ok(resolve) = take.recv() {
            // So long that the shard parks.
            std::thread::sleep(Duration::from_millis(1));
            resolve.send(life).unwrap();
        }
        assert_eq!(wait(sum), Ok(20 * life));
        wait(production.ended(ShardId(0)));
        kept.push(never);
    }
    // Wakers of tasks that are long gone do no harm.
    drop(kept);
}
