//! The load generator; all of it but what concerns the whole process is in the library, so that tests
//! can run it.

use tidemill::env::production::disable_huge_pages;

/// Shards and the driver allocate on one thread and free on another; the system's allocator takes
/// locks for that.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    if let Err(error) = disable_huge_pages() {
        eprintln!("tidemill-bench: huge pages stay on, latencies may be worse: {error}");
    }
    tidemill_bench::main(std::env::args_os())
}
