//! The `tidemill` binary: daemon and command line.

fn main() {}
