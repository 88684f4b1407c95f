//! The command line; all of it is in the library, so that tests can run it.

fn main() -> std::process::ExitCode {
    tidemill_tools::cli::main(std::env::args_os())
}
