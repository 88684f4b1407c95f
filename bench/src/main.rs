//! The load generator; all of it is in the library, so that tests can run it.

fn main() -> std::process::ExitCode {
    tidemill_bench::main(std::env::args_os())
}
