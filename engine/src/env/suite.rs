//! The conformance suite: what every environment must do, as functions that assert it.
//!
//! [`all`] runs what needs one shard; [`mesh_between`] runs on two shards at once, each with the other
//! as its peer. Everything happens below the directory `suite`, which must not exist before. The
//! environment must not inject faults meanwhile; short reads and writes are fine.

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::io::ErrorKind;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use futures_channel::oneshot;
use futures_util::future::join_all;

use super::{
    BLOCK_BYTES, Buf, Class, Env, File, IO_BYTES_MAX, Open, Parcel, Sender, Sync, read_full,
    write_full,
};
use crate::types::ShardId;

const BLOCK: u64 = BLOCK_BYTES as u64;

/// Everything that one shard can show by itself.
pub async fn all(env: &Env) {
    names(env).await;
    bytes(env).await;
    lengths(env).await;
    many_in_flight(env).await;
    dropped_operations(env).await;
    removed_but_open(env).await;
    tasks(env).await;
    yielding(env).await;
    clock(env).await;
    chance(env);
    mesh_to_self(env).await;
}

/// Files and directories: making, finding, renaming and removing them.
pub async fn names(env: &Env) {
    let disk = env.disk();
    assert!(disk.list("suite/absent").await.expect("no error").is_empty());
    disk.create_dir("suite/names").await.expect("made with its parent");
    disk.create_dir("suite/names").await.expect("twice is fine");
    disk.sync_dir(".").await.expect("the root syncs");
    disk.sync_dir("suite").await.expect("a directory syncs");

    let missing = disk.open("suite/names/a", Open::Existing).await;
    assert_eq!(missing.err().map(|error| error.kind()), Some(ErrorKind::NotFound));
    let file = disk.open("suite/names/a", Open::New).await.expect("a new file");
    assert_eq!(file.path(), "suite/names/a");
    assert_eq!(file.len().expect("a length"), 0);
    let taken = disk.open("suite/names/a", Open::New).await;
    assert_eq!(taken.err().map(|error| error.kind()), Some(ErrorKind::AlreadyExists));
    put(&*file, 0, 1, 1, Sync::Data).await;
    let again = disk.open("suite/names/a", Open::Any).await.expect("it is there");
    assert_eq!(again.len().expect("a length"), BLOCK, "opening cuts nothing");
    disk.open("suite/names/b", Open::Any).await.expect("made on the way");
    assert_eq!(sorted(env, "suite/names").await, ["a", "b"]);
    assert!(sorted(env, "suite").await.contains(&"names".to_owned()));
    assert!(sorted(env, ".").await.contains(&"suite".to_owned()));

    disk.rename("suite/names/a", "suite/names/b").await.expect("over another file");
    assert_eq!(sorted(env, "suite/names").await, ["b"]);
    let moved = disk.open("suite/names/b", Open::Existing).await.expect("it moved");
    expect(&*moved, 0, 1, 1).await;
    match disk.link("suite/names/b", "suite/names/d").await {
        Ok(()) => {
            let second = disk.open("suite/names/d", Open::Existing).await.expect("another name");
            expect(&*second, 0, 1, 1).await;
            disk.remove("suite/names/d").await.expect("removed");
            expect(&*moved, 0, 1, 1).await;
        }
        Err(error) => assert_eq!(error.kind(), ErrorKind::Unsupported),
    }
    let missing = disk.rename("suite/names/a", "suite/names/c").await;
    assert_eq!(missing.err().map(|error| error.kind()), Some(ErrorKind::NotFound));
    disk.remove("suite/names/b").await.expect("removed");
    let missing = disk.remove("suite/names/b").await;
    assert_eq!(missing.err().map(|error| error.kind()), Some(ErrorKind::NotFound));
    disk.sync_dir("suite/names").await.expect("a directory syncs");
    assert!(sorted(env, "suite/names").await.is_empty());
    assert!(disk.free_bytes().expect("known") > 0);
}

/// What is written is read: any place, any size, over and over.
pub async fn bytes(env: &Env) {
    let file = open(env, "bytes").await;
    put(&*file, 0, 3, 10, Sync::No).await;
    put(&*file, BLOCK, 1, 20, Sync::Data).await;
    expect(&*file, 0, 1, 10).await;
    expect(&*file, BLOCK, 1, 20).await;
    expect(&*file, 2 * BLOCK, 1, 12).await;

    let most = IO_BYTES_MAX / BLOCK_BYTES;
    put(&*file, BLOCK, most, 30, Sync::No).await;
    file.sync().await.expect("synced");
    expect(&*file, BLOCK, most, 30).await;
    expect(&*file, 0, 1, 10).await;

    let (result, buf) = write_full(&*file, 0, Buf::copy_of(b"tide"), Sync::Data).await;
    result.expect("written");
    assert_eq!(&buf[..4], b"tide", "a write returns its buffer as it was");
    let (result, buf) = read_full(&*file, 0, Buf::zeroed(1)).await;
    result.expect("read");
    assert_eq!(&buf[..8], b"tide\0\0\0\0");
}

/// Ends of files, holes, reserved space and cuts.
pub async fn lengths(env: &Env) {
    let file = open(env, "lengths").await;
    let (result, _) = file.read(0, Buf::zeroed(1)).await;
    assert_eq!(result.expect("no error"), 0, "an empty file has nothing to read");

    put(&*file, 4 * BLOCK, 1, 40, Sync::Data).await;
    assert_eq!(file.len().expect("a length"), 5 * BLOCK, "writing behind the end grows the file");
    expect_zero(&*file, 0, 4).await;
    let (result, _) = read_full(&*file, 4 * BLOCK, Buf::zeroed(2 * BLOCK_BYTES)).await;
    assert_eq!(result.err().map(|error| error.kind()), Some(ErrorKind::UnexpectedEof));
    let (result, _) = file.read(5 * BLOCK, Buf::zeroed(1)).await;
    assert_eq!(result.expect("no error"), 0);

    file.allocate(8 * BLOCK).await.expect("there is space");
    assert_eq!(file.len().expect("a length"), 8 * BLOCK, "allocating grows the file");
    expect(&*file, 4 * BLOCK, 1, 40).await;
    expect_zero(&*file, 5 * BLOCK, 3).await;
    file.allocate(2 * BLOCK).await.expect("there is space");
    assert_eq!(file.len().expect("a length"), 8 * BLOCK, "allocating never cuts");

    file.truncate(5 * BLOCK).await.expect("cut");
    assert_eq!(file.len().expect("a length"), 5 * BLOCK);
    expect(&*file, 4 * BLOCK, 1, 40).await;
    file.truncate(BLOCK).await.expect("cut");
    file.allocate(6 * BLOCK).await.expect("there is space");
    expect_zero(&*file, 4 * BLOCK, 1).await;
    file.sync().await.expect("synced");
}

/// More operations at once than any ring holds, in any order of completion.
pub async fn many_in_flight(env: &Env) {
    let file = open(env, "many").await;
    let count = 600;
    let sync = |n| if n % 7 == 0 { Sync::Data } else { Sync::No };
    join_all((0..count).map(|n| put(&*file, n * BLOCK, 1, stamp(n), sync(n)))).await;
    join_all((0..count).map(|n| expect(&*file, n * BLOCK, 1, stamp(n)))).await;
}

/// An operation whose future is dropped runs on, and its buffer and file with it.
pub async fn dropped_operations(env: &Env) {
    let count = 32_u8;
    let file = open(env, "dropped").await;
    for n in 0..count {
        let buf = pattern(1, n + 1);
        drop(file.write(u64::from(n) * BLOCK, buf, Sync::No));
        drop(file.read(0, Buf::zeroed(BLOCK_BYTES)));
    }
    drop(file);
    let file = env.disk().open("suite/dropped", Open::Existing).await.expect("still there");
    until(env, || async {
        let (result, buf) =
            read_full(&*file, 0, Buf::zeroed(usize::from(count) * BLOCK_BYTES)).await;
        result.is_ok()
            && (0..count).all(|n| {
                let from = usize::from(n) * BLOCK_BYTES;
                buf[from..from + BLOCK_BYTES] == pattern(1, n + 1)[..]
            })
    })
    .await;
}

/// A file that lost its name stays usable through its handles.
pub async fn removed_but_open(env: &Env) {
    let file = open(env, "removed").await;
    put(&*file, 0, 1, 50, Sync::Data).await;
    env.disk().remove("suite/removed").await.expect("removed");
    put(&*file, BLOCK, 1, 60, Sync::Data).await;
    expect(&*file, 0, 1, 50).await;
    expect(&*file, BLOCK, 1, 60).await;
    let new = open(env, "removed").await;
    assert_eq!(new.len().expect("a length"), 0, "the name belongs to another file now");
}

/// Tasks of all classes run, spawn others, and wake each other.
pub async fn tasks(env: &Env) {
    let classes = [Class::Core, Class::Client, Class::Topology, Class::Background];
    let ran = Rc::new(RefCell::new(Vec::new()));
    for class in classes {
        let (ran, inner) = (Rc::clone(&ran), env.clone());
        env.spawn(class, "outer", async move {
            let (done, wait) = oneshot::channel();
            inner.spawn(class, "inner", async move {
                done.send(class).expect("somebody waits");
            });
            let class = wait.await.expect("the inner task ran");
            ran.borrow_mut().push(class);
        });
    }
    until(env, || async { ran.borrow().len() == classes.len() }).await;
    let mut ran = ran.take();
    ran.sort_unstable();
    assert_eq!(ran, classes);
}

/// A task that yields often enough keeps nobody from running, whatever its class.
pub async fn yielding(env: &Env) {
    for class in [Class::Core, Class::Client, Class::Topology, Class::Background] {
        let turns = Rc::new(Cell::new(0));
        let counted = Rc::clone(&turns);
        let other = env.clone();
        env.spawn(class, "counts", async move {
            for _ in 0..10 {
                counted.set(counted.get() + 1);
                other.yield_now().await;
            }
        });
        let mut yields = 0_u64;
        while turns.get() < 10 {
            assert!(yields < 10_000_000, "{class:?} starves beside a task that yields");
            yields += 1;
            env.yield_now().await;
        }
    }
    // A long loop is asked to make room now and then, or never where time stands still.
    let from = env.now();
    while !env.should_yield() && env.now().since(from) < Duration::from_secs(1) {
        if env.now() == from {
            break;
        }
    }
    assert!(env.now().since(from) < Duration::from_secs(1), "nobody asked the loop to yield");
}

/// Time goes on, and sleepers sleep at least as long as they asked.
pub async fn clock(env: &Env) {
    let start = env.now();
    let durations = [3_u64, 1, 2, 0, 5].map(Duration::from_millis);
    join_all(durations.map(|duration| async move {
        let before = env.now();
        env.sleep(duration).await;
        let slept = env.now().since(before);
        assert!(slept >= duration, "slept {slept:?} of {duration:?}");
    }))
    .await;
    assert!(env.now() > start);
    // A sleep that nobody waits for any more wakes nobody.
    let mut sleep = env.sleep(Duration::from_hours(1));
    let first = poll_fn(|context| Poll::Ready(sleep.as_mut().poll(context))).await;
    assert!(first.is_pending());
    drop(sleep);
    let year_2020 = 1_577_836_800_000_000;
    assert!(env.wall().0 > year_2020);
}

/// Chance does not repeat itself.
pub fn chance(env: &Env) {
    let mut drawn: Vec<u64> = (0..1000).map(|_| env.random()).collect();
    drawn.sort_unstable();
    drawn.dedup();
    assert_eq!(drawn.len(), 1000);
}

/// A shard's parcels to itself arrive in order; those to nobody are dropped.
pub async fn mesh_to_self(env: &Env) {
    let mesh = env.mesh();
    let token = std::sync::Arc::new(());
    mesh.send(ShardId(u16::MAX), Box::new(std::sync::Arc::clone(&token)));
    assert_eq!(std::sync::Arc::strong_count(&token), 1, "a parcel to no shard is dropped");

    // Once with the receiver there first, once with the parcels there first.
    for receiver_first in [true, false] {
        let received = Rc::new(RefCell::new(Vec::new()));
        let (into, receiver) = (Rc::clone(&received), env.clone());
        let receive = async move {
            while into.borrow().len() < 100 {
                for (sender, parcel) in receiver.mesh().receive().await {
                    assert_eq!(sender, Sender::Shard(receiver.shard()));
                    into.borrow_mut().push(*parcel.downcast::<u32>().expect("a number"));
                }
            }
        };
        let send = || (0..100_u32).for_each(|n| mesh.send(env.shard(), Box::new(n)));
        if receiver_first {
            env.spawn(Class::Core, "receive", receive);
            for _ in 0..10 {
                env.yield_now().await;
            }
            send();
        } else {
            send();
            env.spawn(Class::Core, "receive", receive);
        }
        until(env, || async { received.borrow().len() >= 100 }).await;
        assert!(received.borrow().iter().copied().eq(0..100));
    }
}

/// Run by two shards at the same time, each with the other as `peer`: `count` parcels each way, while
/// both receive. Everything arrives, in order, with pauses in which either shard may fall asleep.
pub async fn mesh_between(env: &Env, peer: ShardId, count: u64) {
    enum Talk {
        /// Repeated until the other answers: it may start later.
        Hello,
        Number(u64),
        /// The sender has all numbers.
        Done,
    }
    let talk = |talk: Talk| -> Parcel { Box::new(talk) };
    let met = Rc::new(Cell::new(false));
    let (greeter, meeting) = (env.clone(), Rc::clone(&met));
    env.spawn(Class::Client, "greet", async move {
        while !meeting.get() {
            greeter.mesh().send(peer, talk(Talk::Hello));
            greeter.sleep(Duration::from_millis(1)).await;
        }
    });
    let (mut next, mut peer_done) = (0, false);
    while next < count || !peer_done {
        for (sender, parcel) in env.mesh().receive().await {
            assert_eq!(sender, Sender::Shard(peer));
            match *parcel.downcast::<Talk>().expect("only we talk here") {
                Talk::Hello => {
                    if !met.replace(true) {
                        // The other may not have heard us yet.
                        env.mesh().send(peer, talk(Talk::Hello));
                        let sender = env.clone();
                        env.spawn(Class::Client, "send", async move {
                            for number in 0..count {
                                sender.mesh().send(peer, talk(Talk::Number(number)));
                                if sender.random().is_multiple_of(64) {
                                    let pause = Duration::from_micros(sender.random() % 300);
                                    sender.sleep(pause).await;
                                }
                            }
                        });
                    }
                }
                Talk::Number(number) => {
                    assert_eq!(number, next, "in order, nothing lost");
                    next += 1;
                    if next == count {
                        env.mesh().send(peer, talk(Talk::Done));
                    }
                }
                Talk::Done => peer_done = true,
            }
        }
    }
}

/// Opens `suite/<name>`, which must be new.
async fn open(env: &Env, name: &str) -> Rc<dyn File> {
    env.disk().create_dir("suite").await.expect("made");
    env.disk().open(&format!("suite/{name}"), Open::New).await.expect("a new file")
}

async fn sorted(env: &Env, dir: &str) -> Vec<String> {
    let mut names = env.disk().list(dir).await.expect("listed");
    names.sort_unstable();
    names
}

/// Waits for a condition; a minute of the environment's own time is taken for never.
async fn until<F: Future<Output = bool>>(env: &Env, condition: impl Fn() -> F) {
    let from = env.now();
    while !condition().await {
        assert!(env.now().since(from) < Duration::from_mins(1), "it never happens");
        env.sleep(Duration::from_micros(100)).await;
    }
}

/// A stamp that differs between neighbours.
fn stamp(n: u64) -> u8 {
    u8::try_from(n % 251).expect("below 251") + 1
}

/// `blocks` blocks, of which the first is full of `first`, the next of `first + 1`, and so on.
fn pattern(blocks: usize, first: u8) -> Buf {
    let mut buf = Buf::zeroed(blocks * BLOCK_BYTES);
    for (block, stamp) in buf.chunks_mut(BLOCK_BYTES).zip((0..=255).cycle().skip(first.into())) {
        block.fill(stamp);
    }
    buf
}

async fn put(file: &dyn File, at: u64, blocks: usize, first: u8, sync: Sync) {
    let (result, _) = write_full(file, at, pattern(blocks, first), sync).await;
    result.expect("written");
}

async fn expect(file: &dyn File, at: u64, blocks: usize, first: u8) {
    let (result, buf) = read_full(file, at, Buf::zeroed(blocks * BLOCK_BYTES)).await;
    result.expect("read");
    assert!(buf[..] == pattern(blocks, first)[..], "{} at byte {at}", file.path());
}

async fn expect_zero(file: &dyn File, at: u64, blocks: usize) {
    let (result, buf) = read_full(file, at, Buf::zeroed(blocks * BLOCK_BYTES)).await;
    result.expect("read");
    assert!(buf.iter().all(|byte| *byte == 0), "{} at byte {at}", file.path());
}

#[cfg(test)]
mod tests {
    use crate::env::memory::{self, MemoryDisk};

    #[test]
    fn memory_conforms() {
        memory::run(&MemoryDisk::new(), |env| async move { super::all(&env).await });
    }
}
