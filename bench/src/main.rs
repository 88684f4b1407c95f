//! The load generator; all of it is in the library, so that tests can run it.

/// Shards and the driver allocate on one thread and free on another; the system's allocator takes
/// locks for that.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    tidemill_bench::main(std::env::args_os())
}
