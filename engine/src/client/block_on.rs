//! Futures in plain threads.

use std::future::Future;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

/// Runs a future to its end on this thread, which sleeps meanwhile: the engine's futures need no
/// runtime.
///
/// ```
/// use tidemill::{Engine, Options, block_on};
/// # let dir = tempfile::tempdir_in(".").unwrap();
/// # let dir = dir.path();
///
/// let engine = block_on(Engine::open(dir, Options::default()))?;
/// let log = block_on(engine.launch("log", |m| m.depot::<String>("lines").random()))?;
/// let writers: Vec<_> = (0..3)
///     .map(|n| {
///         let log = log.clone(); // a handle to the same module
///         std::thread::spawn(move || block_on(log.append(*log, &format!("from thread {n}"))))
///     })
///     .collect();
/// for writer in writers {
///     writer.join().unwrap()?; // durable
/// }
/// drop(log);
/// block_on(engine.close())?;
/// # Ok::<(), tidemill::Error>(())
/// ```
pub fn block_on<T>(future: impl Future<Output = T>) -> T {
    struct Unpark(std::thread::Thread);

    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }

    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut context = Context::from_waker(&waker);
    let mut future = std::pin::pin!(future);
    loop {
        if let Poll::Ready(value) = future.as_mut().poll(&mut context) {
            return value;
        }
        // A spurious return polls once more and costs nothing else.
        std::thread::park_timeout(Duration::from_mins(1));
    }
}
