//! The workload with tiny parameters, and what every workload has in common.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use clap::Parser;
use tidemill_bench::cli::Cli;
use tidemill_bench::report::Document;

/// A directory of its own on the disk that holds the build.
struct Dir(PathBuf);

impl Dir {
    fn new(name: &str) -> Self {
        let root = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
        let dir = root.join(format!("bench-{name}-{}", std::process::id()));
        fs::create_dir_all(&dir).expect("the build directory can be written");
        Self(dir)
    }

    fn path(&self) -> &str {
        self.0.to_str().expect("a plain path")
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.0));
    }
}

fn arguments(data: &str, more: &[&str]) -> Vec<OsString> {
    let tiny = ["tidemill-bench", "ceiling", "--seconds", "0.01", "--file-bytes", "4194304"];
    tiny.iter().chain(&["--data", data]).chain(more).map(OsString::from).collect()
}

/// Runs it here, or says why this machine cannot.
fn execute(data: &str, more: &[&str]) -> Option<Document> {
    let cli = Cli::try_parse_from(arguments(data, more)).expect("the flags are right");
    match tidemill_bench::execute(&cli) {
        Ok(document) => Some(document),
        Err(error) if format!("{error:#}").contains("direct I/O") => {
            eprintln!("skipped: {error:#}");
            None
        }
        Err(error) => panic!("{error:#}"),
    }
}

/// Runs it as users do.
fn run(data: &str, more: &[&str]) -> Output {
    let arguments = arguments(data, more);
    Command::new(env!("CARGO_BIN_EXE_tidemill-bench"))
        .args(&arguments[1..])
        .output()
        .expect("the program runs")
}

#[test]
fn every_phase_is_measured_and_verified() {
    let dir = Dir::new("phases");
    let Some(document) = execute(dir.path(), &["--seed", "7"]) else { return };
    assert!(document.verified);
    assert_eq!(document.results.len(), 21);
    for outcome in &document.results {
        assert!(outcome.operations > 0, "{outcome:?}");
        assert!(outcome.per_second > 0.0 && outcome.latency_us.p50 > 0.0, "{outcome:?}");
        assert!(outcome.latency_us.p50 <= outcome.latency_us.max, "{outcome:?}");
        let bytes = if outcome.phase.starts_with("write") {
            outcome.bytes_written
        } else {
            outcome.bytes_read
        };
        assert!(bytes >= outcome.operations * 4096, "{outcome:?}");
    }
    assert!(document.machine.device_sync_us_p50 > 0.0);
    assert_eq!(document.parameters.seed, 7);
    let table = document.table();
    assert!(table.contains("write-256k-4") && table.contains("RWF_DSYNC"), "{table}");
}

#[test]
fn the_document_has_the_agreed_shape() {
    let dir = Dir::new("document");
    if execute(dir.path(), &[]).is_none() {
        return;
    }
    let output = run(dir.path(), &["--json", "-"]);
    assert!(output.status.success());
    let document: serde_json::Value =
        serde_json::from_slice(&output.stdout).expect("standard output is the document alone");
    assert_eq!(document["schema"], 1);
    assert_eq!(document["workload"], "ceiling");
    assert_eq!(document["verified"], true);
    for (part, names) in [
        (
            &document["machine"],
            &["cores", "memory_bytes", "kernel", "file_system", "device_sync_us_p50"][..],
        ),
        (&document["parameters"], &["seconds", "shards", "partitions", "seed", "in_flight"]),
        (
            &document["results"][0],
            &[
                "system",
                "phase",
                "durability",
                "operations",
                "seconds",
                "per_second",
                "latency_us",
                "cpu_seconds",
                "bytes_written",
                "bytes_read",
            ],
        ),
        (&document["results"][0]["latency_us"], &["p50", "p90", "p99", "p999", "p9999", "max"]),
        (&document["invariants"][0], &["name", "holds", "detail"]),
    ] {
        for name in names {
            assert!(!part[name].is_null(), "{name} is missing in {part}");
        }
    }
    assert!(document["ratios"].is_array());
    let table = String::from_utf8_lossy(&output.stderr);
    assert!(table.contains("write-4k-1"), "the table goes to standard error: {table}");
}

#[test]
fn a_directory_with_strange_files_is_refused() {
    let dir = Dir::new("strange");
    if execute(dir.path(), &[]).is_none() {
        return;
    }
    let left = fs::read_dir(&dir.0).expect("it is kept").count();
    assert!(left > 0, "a chosen directory is kept, with the list of what was made in it");
    assert!(execute(dir.path(), &[]).is_some(), "its own directory is fine again");

    fs::write(dir.0.join("thesis.txt"), "years of work").expect("written");
    let output = run(dir.path(), &[]);
    assert_eq!(output.status.code(), Some(2));
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(error.contains("thesis.txt"), "{error}");
    assert_eq!(error.lines().count(), 1, "{error}");
    assert!(dir.0.join("thesis.txt").exists());
}

#[test]
fn memory_is_refused_as_a_disk() {
    let shm = Path::new("/dev/shm");
    if tidemill::env::production::file_system(shm).ok().as_deref() != Some("tmpfs") {
        eprintln!("skipped: no tmpfs at hand");
        return;
    }
    let dir = Dir(shm.join(format!("tidemill-bench-{}", std::process::id())));
    let output = run(dir.path(), &[]);
    assert_eq!(output.status.code(), Some(2));
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(error.contains("tmpfs"), "{error}");
}

#[test]
fn bad_usage_has_status_2_and_help_has_0() {
    let program = || Command::new(env!("CARGO_BIN_EXE_tidemill-bench"));
    for wrong in [
        &["ceiling", "--no-such-flag"][..],
        &["no-such-workload"],
        &[],
        &["ceiling", "--partitions", "3"],
        &["ceiling", "--peers", "all"],
    ] {
        let output = program().args(wrong).output().expect("the program runs");
        assert_eq!(output.status.code(), Some(2), "{wrong:?}");
    }
    let output = program().args(["ceiling", "--help"]).output().expect("the program runs");
    assert_eq!(output.status.code(), Some(0));
}

#[test]
fn a_fresh_directory_goes_away() {
    let dir = Dir::new("fresh");
    let output = Command::new(env!("CARGO_BIN_EXE_tidemill-bench"))
        .args(["ceiling", "--seconds", "0.01", "--file-bytes", "4194304"])
        .current_dir(&dir.0)
        .output()
        .expect("the program runs");
    if output.status.success() {
        let left = fs::read_dir(&dir.0).expect("readable").count();
        assert_eq!(left, 0);
    }
}
